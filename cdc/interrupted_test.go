package cdc_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"testing"
	"time"
)

// openRows leaves a query under way.
func (c *captured) openRows(sql string) driver.Rows {
	c.Helper()
	rows, err := c.SQLiteConn.Query(sql, nil)
	if err != nil {
		c.Fatal(err)
	}
	if err := rows.Next(make([]driver.Value, len(rows.Columns()))); err != nil {
		c.Fatal(err)
	}
	return rows
}

// TestInterruptedWithOpenRows: an interrupt that comes when a statement has just
// succeeded stays in force while rows are open on the connection, and hits the log's
// rows, COMMIT and ROLLBACK. The transaction must not stay open: later writes
// would be taken for a part of it, and be lost with it, and nobody else could write.
func TestInterruptedWithOpenRows(t *testing.T) {
	for _, statement := range []string{"INSERT INTO t VALUES (50, 1)", "UPDATE t SET v = v + 1", "DELETE FROM t WHERE id = 1",
		"INSERT OR REPLACE INTO u VALUES (1, 7)", "INSERT INTO w VALUES (1, 7)", "CREATE TABLE new(a)", "ALTER TABLE t ADD COLUMN more"} {
		t.Run(statement, func(t *testing.T) {
			l := newLive(t, simpleTable, "CREATE TABLE u(a UNIQUE, b)", "CREATE TABLE w(a PRIMARY KEY, b) WITHOUT ROWID",
				"INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)")
			c := l.conn("main")
			c.run("DELETE FROM w", "INSERT OR REPLACE INTO u VALUES (5, 5)") // with triggers in place
			rows := c.openRows("SELECT * FROM t")
			st, err := c.session.Prepare(statement)
			if err != nil {
				t.Fatal(err)
			}
			ctx := context.Background()
			err = c.session.Run(ctx, st, func() error {
				err := c.drain(ctx, st.SQL, nil)
				c.session.InterruptNow()
				return err
			})
			if err == nil || c.session.InTx() {
				t.Fatalf("Run: %v, in transaction: %v; want an error and none", err, c.session.InTx())
			}
			bound, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			if err := l.log.Acquire(bound); err != nil {
				t.Fatalf("gate is still held: %v", err)
			}
			l.log.Release()
			if err := c.try("INSERT INTO t VALUES (60, 60)"); err == nil {
				t.Error("INSERT succeeded while the interrupt was in force")
			}
			if err := rows.Close(); err != nil {
				t.Error(err)
			}
			c.run("INSERT INTO t VALUES (70, 70)", "DELETE FROM t WHERE id = 2")
			l.check()
		})
	}
}

// TestWaitingForGateCancelled: users' code looks for context.Canceled; the cause,
// which errgroup sets to another goroutine's error, is not it.
func TestWaitingForGateCancelled(t *testing.T) {
	l := newLive(t, simpleTable)
	a, b := l.conn("a"), l.conn("b")
	b.run("PRAGMA busy_timeout=60000")
	a.run("BEGIN IMMEDIATE")
	for _, statement := range []string{"INSERT INTO t VALUES (1, 1)", "BEGIN IMMEDIATE"} {
		ctx, cancel := context.WithCancelCause(context.Background())
		time.AfterFunc(20*time.Millisecond, func() { cancel(errors.New("cause")) })
		if err := b.tryContext(ctx, statement); err != context.Canceled {
			t.Errorf("%s: %v, want context.Canceled", statement, err)
		}
	}
	a.run("ROLLBACK")
	b.run("INSERT INTO t VALUES (1, 1)")
	l.check()
}
