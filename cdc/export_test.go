package cdc

// Careful keeps a Replayer from running changes in batches.
func (r *Replayer) Careful() { r.careful = true }
