package server

import (
	"errors"
	"sync"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/shim"
)

// pool keeps connections of pipelines that have ended for the next ones: opening a
// connection, reading the schema and compiling the statements of a push take longer
// than a push of a few rows.
//
// Only what nobody can tell from a new connection is kept, changes() and
// total_changes() apart: it is of somebody who may do everything, outside of a
// transaction, without settings, temporary objects and serious errors. Pulls have a
// pool of their own, as no stranger's SQL runs on their connections.
type pool struct {
	mu     sync.Mutex // guards what follows
	closed bool
	idle   []idleConn // that which was used last is the last
	timer  *time.Timer
}

type idleConn struct {
	*conn
	since time.Time
}

// Bounds of a pool: an idle database shall cost no open file, and a page cache
// takes up to 2 MB.
const (
	poolMax  = 16
	poolTime = 2 * time.Second
)

// get returns a connection, or nil.
func (p *pool) get() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle) - 1
	if n < 0 {
		return nil
	}
	c := p.idle[n].conn
	p.idle[n] = idleConn{}
	p.idle = p.idle[:n]
	return c
}

// put keeps a connection, or closes it.
func (p *pool) put(c *conn) {
	p.mu.Lock()
	keep := !p.closed && len(p.idle) < poolMax
	if keep {
		p.idle = append(p.idle, idleConn{c, time.Now()})
		if p.timer == nil {
			p.timer = time.AfterFunc(poolTime, p.expire)
		}
	}
	p.mu.Unlock()
	if !keep {
		_ = c.close()
	}
}

// expire closes the connections that were not used for a while.
func (p *pool) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = nil
	if p.closed {
		return
	}
	n := 0
	for n < len(p.idle) && time.Since(p.idle[n].since) >= poolTime {
		_ = p.idle[n].close()
		n++
	}
	p.idle = append([]idleConn(nil), p.idle[n:]...)
	if len(p.idle) > 0 {
		p.timer = time.AfterFunc(poolTime-time.Since(p.idle[0].since), p.expire)
	}
}

// close closes what is kept, and what is put from now on.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.timer != nil {
		p.timer.Stop()
	}
	for _, c := range p.idle {
		_ = c.close()
	}
	p.idle = nil
}

// release is close for a stream that has ended well.
func (s *Server) release(st *stream) {
	c := st.conn
	if c == nil {
		return
	}
	st.conn = nil
	c.endTurn()
	if st.dirty || st.readOnly || c.spoiled || c.silence != nil || c.marked != nil || !c.full() || !c.db.Info().Autocommit {
		_ = c.close()
		return
	}
	s.pool.put(c)
}

// full tells whether the stranger whose SQL runs may do everything.
func (c *conn) full() bool { return c.catalog == nil && c.permission == Permission(ReadWrite) }

// blame notes errors after which a connection is not used again: those of the disk
// and of memory.
func (c *conn) blame(err error) {
	e := (*shim.StmtError)(nil)
	if !errors.As(err, &e) {
		c.spoiled = c.spoiled || err != nil
		return
	}
	switch sqlite3.ErrNo(e.Code & 0xff) {
	case sqlite3.ErrError, sqlite3.ErrAbort, sqlite3.ErrBusy, sqlite3.ErrLocked, sqlite3.ErrReadonly, sqlite3.ErrSchema,
		sqlite3.ErrTooBig, sqlite3.ErrConstraint, sqlite3.ErrMismatch, sqlite3.ErrAuth, sqlite3.ErrRange:
	default:
		c.spoiled = true
	}
}

// Bounds of the statements that a connection keeps compiled.
const (
	compiledMax      = 32
	compiledBytesMax = 16 << 10 // of one text
)

// compiled is a statement that is kept. SQLite compiles it anew when the schema is
// another, or the switch of silence was turned, and asks the authorizer again.
type compiled struct {
	*shim.Stmt
	silence *silence // in which it was compiled
}

// recall returns a statement that was kept, or nil.
func (c *conn) recall(sql string) *shim.Stmt {
	k, ok := c.compiled[sql]
	if !ok || k.silence != c.silence || !c.full() {
		return nil
	}
	delete(c.compiled, sql)
	return k.Stmt
}

// dismiss keeps a statement that has ended for the next one with the same text, or
// closes it.
func (c *conn) dismiss(sql string, s *shim.Stmt) {
	if !c.full() || c.spoiled || len(sql) > compiledBytesMax {
		s.Close()
		return
	}
	s.Reset()
	if len(c.compiled) >= compiledMax {
		c.forget()
	}
	if c.compiled == nil {
		c.compiled = map[string]compiled{}
	}
	if old, ok := c.compiled[sql]; ok {
		old.Close()
	}
	c.compiled[sql] = compiled{s, c.silence}
}

// forget closes the statements that are kept.
func (c *conn) forget() {
	for _, k := range c.compiled {
		k.Close()
	}
	clear(c.compiled)
}
