package cdc

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/shim"
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
	gate   gate
	// upgraders are the transactions that a page commit should not overtake.
	upgraders upgraders

	// old sees the last committed state. Only the holder of the gate uses it.
	old   *sqlite3.SQLiteConn
	oldDB shim.DB

	mu       sync.Mutex // guards what follows
	closed   bool
	expected uint32
	foreign  bool
	nextID   int64 // the next change id; 0: read it
	// schemaSeq counts what may have changed the schema: while it and the commit
	// counter are what a Session saw, so is the schema.
	schemaSeq uint64
	epoch     uint64 // counts what may have changed turso_sync_state but a Session's commits
}

// OpenLog opens the log of a live database.
func OpenLog(cfg LogConfig) (*Log, error) {
	l := &Log{config: cfg, epoch: 1}
	if err := l.open(); err != nil {
		if l.old != nil {
			err = errors.Join(err, l.old.Close())
		}
		return nil, fmt.Errorf("open log: %w", err)
	}
	return l, nil
}

func (l *Log) open() error {
	dsn := "file:" + (&url.URL{Path: l.config.Path}).EscapedPath() + "?_query_only=1"
	if l.config.Options != "" {
		dsn += "&" + l.config.Options
	}
	conn, err := (&sqlite3.SQLiteDriver{}).Open(dsn)
	if err != nil {
		return err
	}
	var ok bool
	if l.old, ok = conn.(*sqlite3.SQLiteConn); !ok {
		return fmt.Errorf("connection is a %T", conn)
	}
	if l.oldDB, err = shim.Of(l.old); err != nil {
		return err
	}
	if err := l.oldDB.SetConfig(shim.NoCheckpointOnClose, true); err != nil {
		return err
	}
	for _, text := range []string{`PRAGMA wal_autocheckpoint=0`, `SELECT count(*) FROM turso_cdc WHERE change_id IS NULL`} {
		if _, err := queryRow(l.old, text); err != nil {
			return err
		}
	}
	state, err := l.oldDB.WALState()
	if err != nil {
		return err
	}
	l.expected = state.Change
	return nil
}

// Close closes the Log's own connection. The Sessions must be closed before.
func (l *Log) Close() error {
	l.mu.Lock()
	closed := l.closed
	l.closed = true
	l.mu.Unlock()
	if closed {
		return nil
	}
	return l.old.Close()
}

// Acquire waits for the gate, first come first served. Whoever writes to live
// without a Session must hold it, and must tell Expect before Release what it
// left behind.
func (l *Log) Acquire(ctx context.Context) error { return l.gate.acquire(ctx) }

// TryAcquire takes the gate if nobody has it.
func (l *Log) TryAcquire() bool { return l.gate.try() }

// Release opens the gate for the next in line.
func (l *Log) Release() {
	l.upgraders.passed()
	l.gate.release()
}

// Expect tells what the wal-index header's change counter is after a page
// commit or a commit of the replica's own. The caller holds the gate.
func (l *Log) Expect(change uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expected = change
	l.nextID = 0
	l.epoch++
	l.schemaSeq++
}

// Expected returns the change counter that live must have if nobody else wrote
// to it. The caller holds the gate.
func (l *Log) Expected() uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.expected
}

// Foreign tells whether another program's commit was seen since ClearForeign.
func (l *Log) Foreign() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.foreign
}

// ClearForeign forgets foreign writes: they have been compared and logged.
func (l *Log) ClearForeign() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.foreign = false
}

// began accounts for what a Session found under the write lock, and returns the
// epoch in which it writes.
func (l *Log) began(t shim.Txn) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !t.WALKnown || t.Change != l.expected {
		l.foreign = true
		l.expected = t.Change
		l.nextID = 0
		l.epoch++
		l.schemaSeq++
	}
	return l.epoch
}

// wrote accounts for a Session's commits.
func (l *Log) wrote(commits int, nextID int64, altered bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expected += uint32(commits)
	l.nextID = nextID
	if altered {
		l.schemaSeq++
	}
}

func (l *Log) look() (nextID int64, expected uint32, schemaSeq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nextID, l.expected, l.schemaSeq
}

// gate is a lock that is handed over in the order of asking, and that can be
// waited for with a context.
type gate struct {
	mu      sync.Mutex // guards what follows
	held    bool
	waiting []chan struct{}
}

func (g *gate) acquire(ctx context.Context) error {
	g.mu.Lock()
	if !g.held {
		g.held = true
		g.mu.Unlock()
		return nil
	}
	if err := ctx.Err(); err != nil {
		g.mu.Unlock()
		return context.Cause(ctx)
	}
	turn := make(chan struct{})
	g.waiting = append(g.waiting, turn)
	g.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	for i, w := range g.waiting {
		if w == turn {
			g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
			g.mu.Unlock()
			return context.Cause(ctx)
		}
	}
	g.mu.Unlock()
	g.release() // it became ours in the same moment
	return context.Cause(ctx)
}

// try takes the gate if it is free.
func (g *gate) try() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held {
		return false
	}
	g.held = true
	return true
}

func (g *gate) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.held = false
		return
	}
	turn := g.waiting[0]
	g.waiting = g.waiting[1:]
	close(turn)
}
