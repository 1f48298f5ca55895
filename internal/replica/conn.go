package replica

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/shim"
)

// conn is a connection of the replica's own, never handed to the user. One
// goroutine at a time.
type conn struct {
	*sqlite3.SQLiteConn
	db shim.DB
}

// dsn spells a path and SQLite URI parameters (https://sqlite.org/uri.html) for
// go-sqlite3.
func dsn(path, params string) string {
	p := filepath.ToSlash(path)
	if !strings.HasPrefix(p, "/") {
		p = "/" + p // a Windows drive
	}
	return "file:" + (&url.URL{Path: p}).EscapedPath() + "?" + params
}

// oneUser is a parameter of openConn: SQLite takes no mutex for each call on the
// connection, which is worth it where the calls are many.
const oneUser = "&_mutex=no"

// openConn opens a connection that never checkpoints, neither by itself nor when
// it is closed: when live is checkpointed is the replica's decision, and base's
// WAL must never reach base.
func openConn(path, params string) (*conn, error) {
	c, err := (&sqlite3.SQLiteDriver{}).Open(dsn(path, params+"&"+shim.NoCheckpointParam))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", filepath.Base(path), err)
	}
	sc, ok := c.(*sqlite3.SQLiteConn)
	if !ok {
		return nil, fmt.Errorf("open %s: connection is a %T", filepath.Base(path), c)
	}
	self := &conn{SQLiteConn: sc}
	if err := self.setUp(); err != nil {
		_ = sc.Close()
		return nil, fmt.Errorf("open %s: %w", filepath.Base(path), err)
	}
	return self, nil
}

func (c *conn) setUp() error {
	var err error
	if c.db, err = shim.Of(c.SQLiteConn); err != nil {
		return err
	}
	if err := c.db.SetConfig(shim.NoCheckpointOnClose, true); err != nil {
		return err
	}
	return c.exec("PRAGMA wal_autocheckpoint=0")
}

func values(args []any) []driver.Value {
	v := make([]driver.Value, len(args))
	for i, a := range args {
		v[i] = a
	}
	return v
}

// exec runs statements.
func (c *conn) exec(text string, args ...any) error {
	_, err := c.SQLiteConn.Exec(text, values(args))
	return err
}

// query runs one statement and hands each row to yield; the slice is used again.
func (c *conn) query(text string, args []any, yield func(row []driver.Value) error) (err error) {
	rows, err := c.SQLiteConn.Query(text, values(args))
	if err != nil {
		return err
	}
	defer func() {
		// A statement that is left early ends here, and may fail only now: the row of
		// PRAGMA journal_mode=WAL comes before its commit.
		if e := rows.Close(); e != nil && (err == nil || errors.Is(err, errStop)) {
			err = e
		}
	}()
	row := make([]driver.Value, len(rows.Columns()))
	for {
		switch err := rows.Next(row); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := yield(row); err != nil {
			return err
		}
	}
}

// one returns the first column of the first row, nil if there is no row.
func (c *conn) one(text string, args ...any) (driver.Value, error) {
	var value driver.Value
	err := c.query(text, args, func(row []driver.Value) error {
		value = row[0]
		return errStop
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return value, err
}

// number is one for integers; NULL and no row are 0.
func (c *conn) number(text string, args ...any) (int64, error) {
	v, err := c.one(text, args...)
	if err != nil {
		return 0, err
	}
	switch v := v.(type) {
	case nil:
		return 0, nil
	case int64:
		return v, nil
	}
	return 0, fmt.Errorf("value is a %T, not an integer", v)
}

// errStop ends a query early and never leaves this package.
var errStop = errors.New("stop")

// begin starts a write transaction; it waits for other programs as long as ctx
// and busyTimeout allow.
func (c *conn) begin(ctx context.Context) error {
	return untilFree(ctx, func() error { return c.exec("BEGIN IMMEDIATE") })
}

// rollback ends a transaction that is not to be committed, if there is one.
func (c *conn) rollback() {
	if !c.AutoCommit() {
		_ = c.exec("ROLLBACK") // fails only where SQLite has rolled back already
	}
}

// busyTimeout is how long a write of ours waits for other programs.
const busyTimeout = 10 * time.Second

// untilFree calls try until it is not refused for another's write lock.
func untilFree(ctx context.Context, try func() error) error {
	deadline := time.Now().Add(busyTimeout)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := try()
		if !isBusy(err) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

func isBusy(err error) bool {
	var e sqlite3.Error
	return errors.Is(err, shim.ErrBusy) || errors.As(err, &e) && (e.Code == sqlite3.ErrBusy || e.Code == sqlite3.ErrLocked)
}

func hasCode(err error, codes ...sqlite3.ErrNo) bool {
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, code := range codes {
		if e.Code == code {
			return true
		}
	}
	return false
}
