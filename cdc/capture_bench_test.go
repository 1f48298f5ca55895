package cdc_test

import (
	"context"
	"database/sql/driver"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/mattn/go-sqlite3"
)

// BenchmarkCapture runs the same statements plain and captured, by turns in one
// run, and reports the ratio of the medians.
func BenchmarkCapture(b *testing.B) {
	const schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b INTEGER, c REAL)"
	l := newLive(b, schema, "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 10000) SELECT i, 'row number ' || i, i, i FROM n")
	plain := l.copy(l.before.SQLiteConn).SQLiteConn
	for _, conn := range []*sqlite3.SQLiteConn{plain, l.conn("main").SQLiteConn} {
		if _, err := conn.Exec("PRAGMA synchronous=NORMAL", nil); err != nil {
			b.Fatal(err)
		}
	}
	if got := plain.GetFilename("main"); got == "" || filepath.Base(got) != "copy.db" {
		b.Fatalf("plain database is %q", got)
	}
	c := l.conn("main")
	next := map[bool]int64{false: 100000, true: 100000}
	insert := func(captured bool) []driver.NamedValue {
		next[captured]++
		return named(next[captured], "some text of usual length", next[captured], 1.5)
	}
	update := func(captured bool) []driver.NamedValue {
		next[captured]++
		return named("another text", next[captured]*7919%10000+1)
	}
	const insertText = "INSERT INTO t VALUES (?, ?, ?, ?)"
	const updateText = "UPDATE t SET a = ?, b = b + 1 WHERE id = ?"
	b.Run("autocommit_insert", func(b *testing.B) { ratio(b, c, plain, 1, insertText, insert) })
	b.Run("autocommit_update", func(b *testing.B) { ratio(b, c, plain, 1, updateText, update) })
	b.Run("transaction_insert", func(b *testing.B) { ratio(b, c, plain, 1000, insertText, insert) })
	b.Run("transaction_update", func(b *testing.B) { ratio(b, c, plain, 1000, updateText, update) })
}

func named(values ...any) []driver.NamedValue {
	list := make([]driver.NamedValue, len(values))
	for i, v := range values {
		list[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return list
}

// ratio measures batches of rows statements each, one transaction if more than 1.
func ratio(b *testing.B, c *captured, plain *sqlite3.SQLiteConn, rows int, text string, args func(bool) []driver.NamedValue) {
	ctx := context.Background()
	ps, err := plain.Prepare(text)
	if err != nil {
		b.Fatal(err)
	}
	defer ps.Close()
	cs, err := c.SQLiteConn.Prepare(text)
	if err != nil {
		b.Fatal(err)
	}
	defer cs.Close()
	st, err := c.session.Prepare(text)
	if err != nil {
		b.Fatal(err)
	}
	run := func(captured bool) {
		for range rows {
			var err error
			if captured {
				err = c.session.Run(ctx, st, func() error {
					_, err := cs.(driver.StmtExecContext).ExecContext(ctx, args(true))
					return err
				})
			} else {
				_, err = ps.(driver.StmtExecContext).ExecContext(ctx, args(false))
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	around := func(captured bool, text string) {
		if rows == 1 {
			return
		}
		var err error
		if captured {
			err = c.try(text)
		} else {
			_, err = plain.Exec(text, nil)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	var times [2][]float64
	n := 0
	for b.Loop() {
		for i, captured := range []bool{false, true} {
			start := time.Now()
			around(captured, "BEGIN")
			run(captured)
			around(captured, "COMMIT")
			times[i] = append(times[i], float64(time.Since(start))/float64(rows))
		}
		// Both WALs are kept at the same, usual size.
		if n++; n*rows%1000 == 0 {
			checkpoint(b, plain)
			checkpoint(b, c.plainConn(b))
		}
	}
	slices.Sort(times[0])
	slices.Sort(times[1])
	p, q := times[0][len(times[0])/2], times[1][len(times[1])/2]
	b.ReportMetric(p/1000, "plain-µs")
	b.ReportMetric(q/1000, "captured-µs")
	b.ReportMetric(q/p, "ratio")
	b.ReportMetric(0, "ns/op")
}

func checkpoint(b *testing.B, conn *sqlite3.SQLiteConn) {
	if _, err := conn.Exec("PRAGMA wal_checkpoint(PASSIVE)", nil); err != nil {
		b.Fatal(err)
	}
}

var checkpointer *database

func (c *captured) plainConn(b *testing.B) *sqlite3.SQLiteConn {
	if checkpointer == nil || checkpointer.TB != c.TB {
		checkpointer = c.plain()
		checkpointer.TB = c.TB
	}
	return checkpointer.SQLiteConn
}
