package tursosync_test

import (
	"database/sql"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/tursosynctest"
)

// TestForeignSchemaThenOwnRow: another program (the sqlite3 shell, goose's command
// …) migrates the file, while the replica is open or closed; then a row of our own
// goes into what is new before anything was compared. All of it reaches the remote.
// The row of our own may be missing: what another program wrote is found alone.
func TestForeignSchemaThenOwnRow(t *testing.T) {
	if _, err := exec.LookPath("sqlite3"); err != nil {
		t.Skip("needs the sqlite3 command")
	}
	const create = `CREATE TABLE people(id TEXT PRIMARY KEY, name); INSERT INTO people VALUES ('f', 'foreign')`
	const add = `ALTER TABLE x ADD COLUMN c; UPDATE x SET c = 'foreign'`
	for _, c := range []struct {
		name, foreign, own, query string
		closed                    bool
		want                      int64
	}{
		{"open, new table", create, `INSERT INTO people VALUES ('o', 'own')`, `SELECT count(*) FROM people`, false, 2},
		{"closed, new table", create, `INSERT INTO people VALUES ('o', 'own')`, `SELECT count(*) FROM people`, true, 2},
		{"open, new column", add, `INSERT INTO x(a, c) VALUES (2, 'own')`, `SELECT count(c) FROM x`, false, 2},
		{"closed, new column", add, `INSERT INTO x(a, c) VALUES (2, 'own')`, `SELECT count(c) FROM x`, true, 2},
		{"open, nothing of ours", create, ``, `SELECT count(*) FROM people`, false, 1},
		{"closed, nothing of ours", create, ``, `SELECT count(*) FROM people`, true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := tursosynctest.NewServer(t)
			file := filepath.Join(t.TempDir(), "app.db")
			open := func() (*sql.DB, *tursosync.Replica) {
				t.Helper()
				db := openCrash(t, file+"?sync=manual&url="+srv.URL)
				r, err := tursosync.ReplicaOf(db)
				if err != nil {
					t.Fatal(err)
				}
				return db, r
			}
			db, r := open()
			if _, err := db.Exec(`CREATE TABLE x(a INTEGER PRIMARY KEY, b); INSERT INTO x VALUES (1, 'mine')`); err != nil {
				t.Fatal(err)
			}
			if err := r.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			if c.closed {
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if out, err := exec.Command("sqlite3", file, c.foreign).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if c.closed {
				db, r = open()
			}
			if _, err := db.Exec(c.own); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := r.Sync(t.Context()); err != nil {
					t.Fatalf("sync: %v", err)
				}
			}
			var here int64
			if err := db.QueryRow(c.query).Scan(&here); err != nil {
				t.Fatal(err)
			}
			if there := srv.Query(c.query)[0][0]; here != c.want || there != c.want {
				t.Errorf("%s = %d here and %v on the remote, want %d", c.query, here, there, c.want)
			}
		})
	}
}
