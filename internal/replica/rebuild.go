package replica

import "context"

const (
	lastIDKey = "last_id"
	adoptRoom = 1 << 40
)

func (r *Replica) rebuildIfNeeded(ctx context.Context) error { return nil }
