package tursosync

import (
	"context"
	"database/sql"
	"database/sql/driver"

	"github.com/tursosync/tursosync/cdc"
)

// txState is what a connection believes about its transaction. SQLite may end a
// transaction by itself: when a statement that writes is interrupted, the disk is
// full, or a conflict clause or trigger says ROLLBACK. What comes next would
// then be committed on its own, so it has to be noticed.
type txState struct {
	open     bool // a transaction was begun and not ended by the user
	byDriver bool // through BeginTx: database/sql will end it
	readOnly bool // through BeginTx with ReadOnly
	// lost is set when SQLite has ended the transaction: the answer to every call
	// until ROLLBACK.
	lost *TxRolledBackError
}

// enter is called before every statement. It refuses the statement when the
// transaction that it belongs to is gone.
func (c *Conn) enter(kind cdc.Kind) error {
	if !c.tx.open {
		return nil
	}
	if c.tx.lost == nil {
		if !c.inner.AutoCommit() {
			return nil
		}
		// A row that could not be read, or something done to the raw connection.
		c.tx.lost = &TxRolledBackError{}
	}
	switch {
	case kind == cdc.Rollback:
		return nil
	case kind == cdc.Begin && !c.tx.byDriver:
		return c.forget() // a new transaction begun by text: nothing can slip out of the old one
	}
	return c.tx.lost
}

// leave is called after every statement with its error, which it returns.
func (c *Conn) leave(kind cdc.Kind, err error) error {
	switch kind {
	case cdc.Begin, cdc.Commit, cdc.Rollback, cdc.Savepoint, cdc.Release, cdc.RollbackTo:
		open := !c.inner.AutoCommit()
		if open && !c.tx.open {
			c.lease.began = true
		}
		if !open {
			c.tx.byDriver = false
		}
		c.tx.open = open
		return err
	}
	if err != nil && c.tx.open && c.tx.lost == nil && c.inner.AutoCommit() {
		c.tx.lost = &TxRolledBackError{Cause: err}
	}
	return err
}

// forget ends a lost transaction.
func (c *Conn) forget() error {
	c.tx.open, c.tx.byDriver, c.tx.lost = false, false, nil
	return c.session.ResetSession() // whatever the session still holds for it
}

// lease is the time for which a pool hands the connection out.
type lease struct {
	calls int  // that executed something, so far
	began bool // a transaction was begun in it
}

// use is called by every entry point of the connection that executes something.
func (c *Conn) use() error {
	if c.inner == nil {
		return driver.ErrBadConn
	}
	c.lease.calls++
	return nil
}

// endLease rolls back what a sql.Conn was given back with. BEGIN sent through
// the sql.DB itself is another matter: each call is a lease of its own, and with
// a pool of one connection the transaction goes on in the next, as it does with
// go-sqlite3.
func (c *Conn) endLease() error {
	l := c.lease
	c.lease = lease{}
	if !c.tx.open || !l.began || l.calls < 2 {
		return nil
	}
	return c.forget()
}

// ResetSession is called by the pool before the connection is used again.
func (c *Conn) ResetSession(context.Context) error {
	if c.inner == nil || c.endLease() != nil {
		return driver.ErrBadConn
	}
	return nil
}

// IsValid is called by the pool when the connection comes back.
func (c *Conn) IsValid() bool { return c.inner != nil && c.endLease() == nil }

// Begin begins a transaction with the default options.
func (c *Conn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

// BeginTx begins a transaction as _txlock says (default: deferred). SQLite's
// transactions are serializable; weaker levels are refused with an
// *IsolationError. In a transaction with ReadOnly, writes fail with
// sqlite3.ErrReadonly.
func (c *Conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if err := c.use(); err != nil {
		return nil, err
	}
	switch level := sql.IsolationLevel(opts.Isolation); level {
	case sql.LevelDefault, sql.LevelSerializable, sql.LevelSnapshot:
	default:
		return nil, &IsolationError{Level: level.String()}
	}
	t := &tx{c: c}
	begin := c.begin
	if opts.ReadOnly {
		begin = "BEGIN" // a lock would only be in the way
		if err := t.forbidWrites(); err != nil {
			return nil, err
		}
	}
	if err := c.control(ctx, begin); err != nil {
		return nil, firstError(err, t.allowWrites())
	}
	c.tx.byDriver, c.tx.readOnly = true, opts.ReadOnly
	return t, nil
}

// control runs one statement that begins or ends a transaction.
func (c *Conn) control(ctx context.Context, text string) error {
	st, err := c.session.Prepare(text)
	if err != nil {
		return err
	}
	_, err = c.exec(ctx, st, c.direct(st, nil))
	return err
}

// tx is a transaction of database/sql.
type tx struct {
	c *Conn
	// queryOnly tells that PRAGMA query_only was turned on for this transaction.
	queryOnly bool
}

func (t *tx) forbidWrites() error {
	was, err := plainSession{inner: t.c.inner}.count("PRAGMA query_only")
	if err != nil || was != 0 {
		return err
	}
	t.queryOnly = true
	t.c.session.SetReadOnly(true)
	return t.setQueryOnly("PRAGMA query_only=1")
}

func (t *tx) allowWrites() error {
	t.c.tx.readOnly = false
	if !t.queryOnly || t.c.inner == nil {
		return nil
	}
	t.queryOnly = false
	t.c.session.SetReadOnly(false)
	return t.setQueryOnly("PRAGMA query_only=0")
}

func (t *tx) setQueryOnly(pragma string) error {
	_, err := t.c.inner.ExecContext(context.Background(), pragma, nil)
	return err
}

// Commit commits. If it fails the transaction is rolled back: database/sql
// takes it for finished in any case.
func (t *tx) Commit() error { return t.end("COMMIT") }

// Rollback rolls back. After SQLite has done so by itself there is nothing left
// to do, and no error.
func (t *tx) Rollback() error { return t.end("ROLLBACK") }

func (t *tx) end(text string) error {
	c := t.c
	if c.inner == nil {
		return driver.ErrBadConn
	}
	err := c.control(context.Background(), text)
	if err != nil && c.tx.open {
		// Whatever the reason: nothing may stay open for the next user.
		_ = c.control(context.Background(), "ROLLBACK")
		if !c.inner.AutoCommit() {
			_ = c.session.ResetSession()
		}
		c.tx = txState{}
	}
	return firstError(err, t.allowWrites())
}
