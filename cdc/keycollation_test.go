package cdc_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tursosync/tursosync/cdc"
)

// TestKeyCollation: a key that is compared in another way than its column is refused, in
// words, before anything is written; 'a' and 'A' would be one row for what is pushed.
func TestKeyCollation(t *testing.T) {
	for table, refused := range map[string]bool{
		`CREATE TABLE t(k TEXT COLLATE NOCASE, v, PRIMARY KEY(k COLLATE BINARY))`:                          true,
		`CREATE TABLE t(k TEXT COLLATE RTRIM, v, PRIMARY KEY(k COLLATE BINARY)) WITHOUT ROWID`:             true,
		`CREATE TABLE t(k TEXT, v, PRIMARY KEY(k COLLATE NOCASE)) WITHOUT ROWID`:                           true,
		`CREATE TABLE t(k TEXT DEFAULT ('a' COLLATE NOCASE), v, PRIMARY KEY(k COLLATE NOCASE))`:            true,
		`CREATE TABLE t(k TEXT DEFAULT ('a' COLLATE NOCASE), v, PRIMARY KEY(k))`:                           false,
		`CREATE TABLE t(k TEXT COLLATE NOCASE, v, PRIMARY KEY(k)) WITHOUT ROWID`:                           false,
		`CREATE TABLE t(k TEXT PRIMARY KEY COLLATE NOCASE, v)`:                                             false,
		`CREATE TABLE t("k" TEXT NOT NULL COLLATE "NoCase" DEFAULT 'x', v, PRIMARY KEY(k COLLATE nocase))`: false,
		`CREATE TABLE t(k TEXT PRIMARY KEY, v TEXT COLLATE NOCASE, UNIQUE(v COLLATE BINARY))`:              false,
		`CREATE TABLE t(k INTEGER PRIMARY KEY, v COLLATE NOCASE)`:                                          false,
	} {
		t.Run(table, func(t *testing.T) {
			l := newLive(t, table)
			err := l.conn("main").try(`INSERT INTO t(k, v) VALUES (1, 'v')`)
			var unsupported *cdc.UnsupportedError
			if got := errors.As(err, &unsupported); got != refused || !refused && err != nil {
				t.Fatalf("INSERT: %v, refused should be %v", err, refused)
			}
			if refused && !strings.Contains(err.Error(), `table "t" is not supported: its primary key compares k by the collation`) {
				t.Errorf("it says: %v", err)
			}
			l.check()
		})
	}
}
