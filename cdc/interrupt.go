package cdc

// InterruptNow makes the statement that runs on the connection fail with
// SQLITE_INTERRUPT; if none runs it does nothing. Unlike everything else of a
// Session it may be called from any goroutine, but not after Close.
func (s *Session) InterruptNow() { s.db.InterruptNow() }
