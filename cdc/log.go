package cdc

import (
	"context"
	"errors"

	"github.com/mattn/go-sqlite3"
)

// LogConfig says where a Log is and whom it tells.
type LogConfig struct {
	// Path is live's file. It must be in WAL mode and hold the local tables
	// (Setup).
	Path string
	// Options are go-sqlite3 options for the Log's own connection, in the form of
	// a query string without the question mark; usually empty.
	Options string
	// Committed, if not nil, is called after each commit that added changes to
	// the log, on the goroutine that committed and without the gate. It must not
	// block.
	Committed func()
}

// Log is what the Sessions of one replica share: the gate that lets one writer
// at a time pass, a connection that sees the last committed state, the next
// change id, and the account of commits by which foreign writes are noticed.
//
// Its methods may be called from any goroutine.
type Log struct {
	config LogConfig
}

// OpenLog opens the log of a live database.
func OpenLog(cfg LogConfig) (*Log, error) { return &Log{config: cfg}, nil }

// Close closes the Log's own connection. The Sessions must be closed before.
func (l *Log) Close() error { return nil }

// Acquire waits for the gate, first come first served. Whoever writes to live
// without a Session must hold it, and must tell Expect before Release what it
// left behind.
func (l *Log) Acquire(ctx context.Context) error { return nil }

// Release opens the gate for the next in line.
func (l *Log) Release() {}

// Expect tells what the wal-index header's change counter is after a page
// commit or a commit of the replica's own. The caller holds the gate.
func (l *Log) Expect(change uint32) {}

// Expected returns the change counter that live must have if nobody else wrote
// to it. The caller holds the gate.
func (l *Log) Expected() uint32 { return 0 }

// Foreign tells whether another program's commit was seen since ClearForeign.
func (l *Log) Foreign() bool { return false }

// ClearForeign forgets foreign writes: they have been compared and logged.
func (l *Log) ClearForeign() {}

// Session starts to capture on a connection, which must be open, idle, and used
// by nobody else. There is one Session for a connection.
func (l *Log) Session(conn *sqlite3.SQLiteConn) (*Session, error) {
	return nil, errors.ErrUnsupported
}
