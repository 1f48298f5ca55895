package faultfs_test

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"testing"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/faultfs"
)

// session writes to a database; rows tells how many inserts were acknowledged, and
// tried the number of those that were begun.
func session(path string) (rows, tried int, err error) {
	opened, err := (&sqlite3.SQLiteDriver{}).Open(path)
	if err != nil {
		return 0, 0, err
	}
	c := opened.(*sqlite3.SQLiteConn)
	defer func() { err = errors.Join(err, c.Close()) }()
	exec := func(text string) error { _, err := c.Exec(text, []driver.Value{}); return err }
	if err := exec("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)"); err != nil {
		return 0, 0, err
	}
	for n := range 6 {
		tried++
		if err := exec(fmt.Sprintf("INSERT INTO t VALUES (%d, randomblob(9000))", n)); err != nil {
			return rows, tried, err
		}
		rows++
		if n == 3 {
			if err := exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
				return rows, tried, err
			}
		}
	}
	return rows, tried, nil
}

func one(t *testing.T, path, query string) any {
	t.Helper()
	opened, err := (&sqlite3.SQLiteDriver{}).Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	rows, err := opened.(*sqlite3.SQLiteConn).Query(query, []driver.Value{})
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	v := make([]driver.Value, 1)
	if err := rows.Next(v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	if err := rows.Next(v); !errors.Is(err, io.EOF) {
		t.Fatalf("%s: a second row, or %v", query, err)
	}
	return v[0]
}

// TestSweep: plain SQLite stands every fault, which shows that the faults are none
// that no program could stand; and every one of them is met.
func TestSweep(t *testing.T) {
	for _, f := range []faultfs.Fault{
		{},
		{Lasts: true, Kinds: []faultfs.Kind{faultfs.Write, faultfs.Sync, faultfs.Truncate}},
		{Full: true, Partial: true, Kinds: []faultfs.Kind{faultfs.Write}},
		{Lose: true, Kinds: []faultfs.Kind{faultfs.Sync}},
		{Busy: true, Kinds: []faultfs.Kind{faultfs.Lock, faultfs.ShmLock}}} {
		met := map[faultfs.Kind]int{}
		for f.At = 1; ; f.At++ {
			f.Dir = faultfs.TempDir(t) + "/"
			path := filepath.Join(f.Dir, "a.db")
			done, err := faultfs.Set(f)
			if err != nil {
				t.Fatal(err)
			}
			rows, tried, err := session(path)
			report := done()
			if report.Failed == 0 {
				if err != nil || rows != 6 {
					t.Fatalf("without a fault: %d rows, %v", rows, err)
				}
				break
			}
			met[report.Kind]++
			if err != nil && !errors.As(err, new(sqlite3.Error)) {
				t.Errorf("%v: %v is no error of SQLite", report, err)
			}
			if got := one(t, path, "PRAGMA integrity_check"); got != "ok" {
				t.Fatalf("%+v, %v: %v", f, report, got)
			}
			n := int64(0)
			if one(t, path, "SELECT count(*) FROM sqlite_schema") != int64(0) {
				n = one(t, path, "SELECT count(*) FROM t").(int64)
			}
			if n < int64(rows) || n > int64(tried) {
				t.Errorf("%+v, %v: %d rows, %d were acknowledged and %d tried", f, report, n, rows, tried)
			}
		}
		t.Logf("%d operations: %v", f.At-1, met)
		if f.Kinds == nil {
			for _, k := range []faultfs.Kind{faultfs.Open, faultfs.Read, faultfs.Write, faultfs.Sync, faultfs.Stat, faultfs.Delete, faultfs.Lock, faultfs.ShmMap, faultfs.ShmLock} {
				if met[k] == 0 {
					t.Errorf("no %v failed", k)
				}
			}
		}
	}
}
