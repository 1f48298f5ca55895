package tursosync

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"strings"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/cdc"
)

// session is what a connection needs of the log: the text of statements
// understood, and everything around one that writes. *cdc.Session captures,
// plainSession does not.
type session interface {
	Prepare(query string) (*cdc.Statement, error)
	Run(ctx context.Context, st *cdc.Statement, exec func() error) error
	Changes() (changes, totalChanges, lastInsertRowID int64)
	ResetSession() error
	SetReadOnly(on bool)
	Close() error
}

// Conn is a connection of a pool, as [sql.Conn.Raw] hands it out:
//
//	conn.Raw(func(dc any) error {
//		inner := dc.(*tursosync.Conn).SQLiteConn()
//		return inner.RegisterFunc("upper_de", upperDE, true)
//	})
type Conn struct {
	connector *Connector
	inner     *sqlite3.SQLiteConn // nil after Close
	session   session
	engine    *engine // nil if nothing is captured
	// begin is how BeginTx begins a transaction (_txlock).
	begin string

	tx    txState
	lease lease
}

// The interfaces of database/sql/driver that a connection offers.
var (
	_ driver.Conn               = (*Conn)(nil)
	_ driver.ConnBeginTx        = (*Conn)(nil)
	_ driver.ConnPrepareContext = (*Conn)(nil)
	_ driver.ExecerContext      = (*Conn)(nil)
	_ driver.QueryerContext     = (*Conn)(nil)
	_ driver.Pinger             = (*Conn)(nil)
	_ driver.SessionResetter    = (*Conn)(nil)
	_ driver.Validator          = (*Conn)(nil)
	_ driver.NamedValueChecker  = (*Conn)(nil)
)

func newConn(c *Connector, inner *sqlite3.SQLiteConn, s session, e *engine) *Conn {
	conn := &Conn{connector: c, inner: inner, session: s, engine: e, begin: "BEGIN"}
	switch strings.ToLower(c.cfg.Options.Get("_txlock")) {
	case "immediate":
		conn.begin = "BEGIN IMMEDIATE"
	case "exclusive":
		conn.begin = "BEGIN EXCLUSIVE"
	}
	return conn
}

// SQLiteConn returns the go-sqlite3 connection underneath: for functions,
// aggregates, collations, limits, and backups of the database. What is written
// through it directly is not logged, and its commit is refused. An update,
// pre-update, commit, rollback or authorizer hook registered on it makes the next
// write fail. It is nil after Close.
func (c *Conn) SQLiteConn() *sqlite3.SQLiteConn { return c.inner }

// Close closes the connection; an open transaction is rolled back.
func (c *Conn) Close() error {
	if c.inner == nil {
		return nil
	}
	inner := c.inner
	c.inner = nil
	var first error
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	if c.engine != nil {
		keep(c.session.ResetSession())
		keep(c.session.Close())
	}
	keep(inner.Close())
	if c.engine != nil {
		keep(engines.release(c.engine)) // the last one closes the files
	}
	return first
}

// Ping reports whether the connection is usable.
func (c *Conn) Ping(ctx context.Context) error {
	if c.inner == nil {
		return driver.ErrBadConn
	}
	return c.inner.Ping(ctx)
}

// CheckNamedValue passes the values that SQLite knows; everything else takes
// database/sql's default conversion, as with go-sqlite3.
func (c *Conn) CheckNamedValue(nv *driver.NamedValue) error {
	switch v := nv.Value.(type) {
	case nil, int64, float64, bool, string, []byte:
		return nil
	case sql.Out:
		return fmt.Errorf("argument %q: SQLite has no output parameters", nv.Name)
	case int:
		nv.Value = int64(v)
		return nil
	}
	return driver.ErrSkip
}

// ExecContext runs all statements of query. Arguments are given to them in order;
// the result is that of the last one.
func (c *Conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if err := c.use(); err != nil {
		return nil, err
	}
	if st, ok := c.whole(query); ok {
		return c.exec(ctx, st, c.direct(st, args))
	}
	taken := 0
	for {
		st, err := c.session.Prepare(query)
		if err != nil {
			return nil, err
		}
		// As in go-sqlite3, a comment behind the last statement has a result too.
		var res driver.Result = result{}
		if st.Kind != cdc.Empty {
			part, err := argsOf(args, taken, st.Params)
			if err != nil {
				return nil, err
			}
			if res, err = c.exec(ctx, st, c.direct(st, part)); err != nil {
				return nil, err
			}
			taken += st.Params
		}
		if query = strings.TrimSpace(st.Tail); query == "" {
			return res, nil
		}
	}
}

// QueryContext runs all statements of query and returns the rows of the last one.
func (c *Conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if err := c.use(); err != nil {
		return nil, err
	}
	if singleRead(query) {
		return c.read(ctx, query, args)
	}
	if st, ok := c.whole(query); ok {
		return c.query(ctx, st, c.direct(st, args))
	}
	taken := 0
	for {
		st, err := c.session.Prepare(query)
		if err != nil {
			return nil, err
		}
		tail := strings.TrimSpace(st.Tail)
		if st.Kind == cdc.Empty {
			if tail == "" {
				return &rows{}, nil
			}
			query = tail
			continue
		}
		part, err := argsOf(args, taken, st.Params)
		if err != nil {
			return nil, err
		}
		found, err := c.query(ctx, st, c.direct(st, part))
		if err != nil {
			return nil, err
		}
		if tail == "" {
			return found, nil
		}
		_ = found.Close() // as go-sqlite3: only the last statement's rows count
		taken += st.Params
		query = tail
	}
}

// whole returns a text that need not be taken apart: nothing is captured, and it
// is one statement.
func (c *Conn) whole(query string) (*cdc.Statement, bool) {
	if c.engine != nil {
		return nil, false
	}
	first, tail := cutStatement(query)
	kind := kindOf(first)
	return &cdc.Statement{SQL: query, Kind: kind}, tail == "" && kind != cdc.Empty
}

// argsOf returns the arguments of a statement that has n parameters, when the
// statements before it have taken some: the next n, and beside them every named
// one, which all statements of a text share.
func argsOf(args []driver.NamedValue, taken, n int) ([]driver.NamedValue, error) {
	if len(args)-taken < n {
		return nil, fmt.Errorf("not enough args to execute query: want %d got %d", n, max(len(args)-taken, 0))
	}
	if n == 0 {
		return nil, nil
	}
	own := args[taken : taken+n]
	shared := false
	for i, a := range args {
		shared = shared || a.Name != "" && (i < taken || i >= taken+n)
	}
	if taken == 0 && !shared {
		return own, nil
	}
	out := append(make([]driver.NamedValue, 0, len(args)), own...)
	for i, a := range args {
		if a.Name != "" && (i < taken || i >= taken+n) {
			out = append(out, a)
		}
	}
	for i := range out {
		out[i].Ordinal = i + 1
	}
	return out, nil
}

// read runs a statement that cannot write, with nothing around it.
func (c *Conn) read(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if err := c.enter(cdc.Read); err != nil {
		return nil, err
	}
	r, err := c.inner.QueryContext(ctx, query, args)
	if err != nil {
		return nil, c.leave(cdc.Read, err)
	}
	return r, nil
}

// execution is the two ways to execute one statement.
type execution struct {
	exec  func(context.Context) (driver.Result, error)
	query func(context.Context) (driver.Rows, error)
}

func (c *Conn) direct(st *cdc.Statement, args []driver.NamedValue) execution {
	return execution{
		func(ctx context.Context) (driver.Result, error) { return c.inner.ExecContext(ctx, st.SQL, args) },
		func(ctx context.Context) (driver.Rows, error) { return c.inner.QueryContext(ctx, st.SQL, args) },
	}
}

// exec runs one statement for its effect.
func (c *Conn) exec(ctx context.Context, st *cdc.Statement, x execution) (driver.Result, error) {
	if err := c.enter(st.Kind); err != nil {
		return nil, err
	}
	if c.tx.lost != nil { // ROLLBACK of what is rolled back already
		return result{}, c.forget()
	}
	var res driver.Result
	err := c.run(ctx, st, func(ctx context.Context) (err error) {
		if st.ReadOnly || st.Columns == 0 {
			res, err = x.exec(ctx)
		} else { // a statement with rows has done its work, and has its numbers, at its end
			var r driver.Rows
			if r, err = x.query(ctx); err == nil {
				_, err = materialise(r)
			}
		}
		if err == nil && c.engine != nil && (st.Kind != cdc.Write || st.Columns > 0) {
			changes, _, id := c.session.Changes()
			res = result{changes: changes, id: id}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// query runs one statement for its rows.
func (c *Conn) query(ctx context.Context, st *cdc.Statement, x execution) (driver.Rows, error) {
	if err := c.enter(st.Kind); err != nil {
		return nil, err
	}
	if c.tx.lost != nil {
		return &rows{}, c.forget()
	}
	var found driver.Rows
	err := c.run(ctx, st, func(ctx context.Context) (err error) {
		found, err = x.query(ctx)
		if err != nil || st.ReadOnly || c.engine == nil {
			return err
		}
		// What it changed is logged and committed before the caller sees a row: he
		// may never read to the end.
		found, err = materialise(found)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// run executes a statement, with what capturing needs around it if it may write.
func (c *Conn) run(ctx context.Context, st *cdc.Statement, exec func(context.Context) error) error {
	s, inner := c.interruptible(ctx, st)
	once := func() error {
		if s == nil {
			return exec(inner)
		}
		return within(ctx, s, func() error { return exec(inner) })
	}
	var err error
	switch {
	case st.ReadOnly:
		err = once()
	case c.tx.readOnly && (st.Kind == cdc.Write || st.Kind == cdc.Schema):
		err = once() // SQLite refuses it
	default:
		err = c.session.Run(ctx, st, once)
	}
	return c.leave(st.Kind, err)
}

// result is a driver.Result.
type result struct{ id, changes int64 }

func (r result) LastInsertId() (int64, error) { return r.id, nil }
func (r result) RowsAffected() (int64, error) { return r.changes, nil }
