package tursosync

import (
	"context"
	"database/sql/driver"
	"fmt"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/cdc"
)

// stmt is a prepared statement: the first one of the text, as in go-sqlite3.
type stmt struct {
	c     *Conn
	inner *sqlite3.SQLiteStmt // nil for an empty text
	st    *cdc.Statement
}

var (
	_ driver.Stmt             = (*stmt)(nil)
	_ driver.StmtExecContext  = (*stmt)(nil)
	_ driver.StmtQueryContext = (*stmt)(nil)
)

// Prepare is PrepareContext without a context.
func (c *Conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

// PrepareContext prepares the first statement of query. What follows it is
// ignored, as go-sqlite3 does.
func (c *Conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if c.inner == nil {
		return nil, driver.ErrBadConn
	}
	st, ok := readStatement(query)
	if !ok {
		var err error
		if st, err = c.session.Prepare(query); err != nil {
			return nil, err
		}
	}
	if st.Kind == cdc.Empty {
		return &stmt{c: c, st: st}, nil
	}
	if c.tx.lost != nil {
		return nil, c.tx.lost
	}
	raw, err := c.inner.PrepareContext(ctx, st.SQL)
	if err != nil {
		return nil, err
	}
	inner, ok := raw.(*sqlite3.SQLiteStmt)
	if !ok {
		return nil, firstError(fmt.Errorf("prepare: go-sqlite3 returned a %T", raw), raw.Close())
	}
	return &stmt{c: c, inner: inner, st: st}, nil
}

// readStatement spares the session texts that can only read.
func readStatement(query string) (*cdc.Statement, bool) {
	if !singleRead(query) {
		return nil, false
	}
	return &cdc.Statement{SQL: query, ReadOnly: true, Kind: cdc.Read}, true
}

func (s *stmt) Close() error {
	if s.inner == nil {
		return nil
	}
	return s.inner.Close()
}

// NumInput returns the number of parameters.
func (s *stmt) NumInput() int {
	if s.inner == nil {
		return 0
	}
	return s.inner.NumInput()
}

// Exec is ExecContext for callers without one.
func (s *stmt) Exec(args []driver.Value) (driver.Result, error) {
	return s.ExecContext(context.Background(), named(args))
}

// Query is QueryContext for callers without one.
func (s *stmt) Query(args []driver.Value) (driver.Rows, error) {
	return s.QueryContext(context.Background(), named(args))
}

func named(args []driver.Value) []driver.NamedValue {
	out := make([]driver.NamedValue, len(args))
	for i, a := range args {
		out[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	return out
}

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if err := s.c.use(); err != nil {
		return nil, err
	}
	if s.inner == nil {
		return result{}, nil
	}
	return s.c.exec(ctx, s.st, s.with(args))
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if err := s.c.use(); err != nil {
		return nil, err
	}
	if s.inner == nil {
		return &rows{}, nil
	}
	if s.st.ReadOnly {
		if err := s.c.enter(s.st.Kind); err != nil {
			return nil, err
		}
		r, err := s.inner.QueryContext(ctx, args)
		if err != nil {
			return nil, s.c.leave(s.st.Kind, err)
		}
		return r, nil
	}
	return s.c.query(ctx, s.st, s.with(args))
}

func (s *stmt) with(args []driver.NamedValue) execution {
	return execution{
		func(ctx context.Context) (driver.Result, error) { return s.inner.ExecContext(ctx, args) },
		func(ctx context.Context) (driver.Rows, error) { return s.inner.QueryContext(ctx, args) },
	}
}
