package replica

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/syncer"
)

// TestCarriedLog: the log that a rebase carries over as a whole is, in the end,
// the one that it writes row by row. A replica whose connections refuse ATTACH
// does the latter.
func TestCarriedLog(t *testing.T) {
	carried, byRow := logAfterPulls(t, nil), logAfterPulls(t, func(c *sqlite3.SQLiteConn) error {
		c.SetLimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
		return nil
	})
	if len(carried) != len(byRow) {
		t.Fatalf("%d pulls, want %d", len(carried), len(byRow))
	}
	for i := range carried {
		if !slices.Equal(carried[i], byRow[i]) {
			t.Errorf("pull %d: carried over:\n%q\nrow by row:\n%q", i, carried[i], byRow[i])
		}
	}
}

// logAfterPulls makes a history of pulls over a log with all that can happen to
// a transaction, and returns what is in the local tables after each.
func logAfterPulls(t *testing.T, connect func(*sqlite3.SQLiteConn) error) (states [][]string) {
	t.Helper()
	rem := newRemote(t, people, `CREATE TABLE bag(x)`, `CREATE TABLE uniq(id INTEGER PRIMARY KEY, u UNIQUE)`,
		`INSERT INTO people(id, name) VALUES (1, 'ann'), (2, 'bob'), (3, 'cat')`, `INSERT INTO bag VALUES ('one'), ('two')`)
	rep := newReplica(t, Config{Connect: connect})
	pulled(t, rep, rem)
	numbers := func(from, to int) string {
		return fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT %d UNION ALL SELECT i+1 FROM n WHERE i < %d) `, from, to)
	}
	write(t, rep, numbers(100, 250)+`INSERT INTO people(id, name) SELECT i, 'row ' || i FROM n`)
	for i := range 70 {
		write(t, rep, fmt.Sprintf(`UPDATE people SET n = %d WHERE id = %d`, i, 100+i))
	}
	write(t, rep, numbers(1, 40)+`INSERT INTO bag SELECT 'mine ' || i FROM n`)
	write(t, rep, `UPDATE bag SET x = 'other' WHERE x = 'mine 3'`, `DELETE FROM bag WHERE x = 'two'`)
	write(t, rep, `INSERT INTO uniq VALUES (5, 'u')`, `INSERT INTO people(id, name) VALUES (300, 'goes with it')`)
	write(t, rep, `INSERT INTO people(id, name) VALUES (301, 'after')`, `CREATE TABLE mine(x)`)
	write(t, rep, `INSERT INTO mine VALUES (1)`, `DELETE FROM people WHERE id = 3`)
	note := func() {
		t.Helper()
		var s []string
		for _, q := range []string{
			`SELECT change_id, change_txn_id, change_type, table_name, id, hex("before"), hex("after"), updates, shape FROM turso_cdc ORDER BY change_id`,
			`SELECT change_id, txn_id, change_type, table_name, id, hex("before"), hex("after"), reason FROM turso_sync_rejected ORDER BY change_id`,
			`SELECT * FROM people ORDER BY id`, `SELECT rowid, x FROM bag ORDER BY rowid`, `SELECT * FROM uniq`,
			`SELECT key, value FROM turso_sync_state WHERE key IN ('sent', 'watermark', 'last_id') ORDER BY key`,
		} {
			s = append(s, rows(t, rep, q)...)
		}
		states = append(states, s)
	}
	// The log shrinks, moves, loses a transaction, and a collision is found.
	rem.exec(`INSERT INTO bag VALUES ('theirs')`, `DELETE FROM bag WHERE x = 'two'`, `INSERT INTO uniq VALUES (6, 'u')`,
		`INSERT INTO people(id, name) VALUES (120, 'theirs')`, `DELETE FROM people WHERE id = 3`)
	report := pulled(t, rep, rem)
	if len(report.Rejected) != 1 || len(report.Collisions) != 1 {
		t.Errorf("%d transactions rejected, %d collisions, want one each", len(report.Rejected), len(report.Collisions))
	}
	note()
	// Part of it is on the remote.
	rem.push(rep, syncer.Limits{Changes: 200})
	rem.exec(`UPDATE people SET name = 'renamed' WHERE id = 1`)
	write(t, rep, numbers(400, 500)+`INSERT INTO people(id, name) SELECT i, 'late ' || i FROM n`)
	pulled(t, rep, rem)
	note()
	if got := rows(t, rep, `SELECT count(*) FROM turso_cdc`); got[0] == "0" {
		t.Error("nothing was left in the log")
	}
	rem.push(rep, syncer.Limits{})
	pulled(t, rep, rem)
	note()
	return states
}

// TestDeltaNotDurable: a pull whose delta may not be on disk commits nothing, and
// leaves no file that a second sync would call durable.
func TestDeltaNotDurable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.db-pull")
	d, err := createDelta(path, delta{count: 1, whole: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.flush(); err != nil {
		t.Fatal(err)
	}
	if err := d.file.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.durable(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("durable = %v, want the error of the sync", err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is there still: %v", err)
	}
}
