package tursosync_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
			if err := r.Sync(t.Context()); err != nil {
				t.Fatalf("sync: %v", err)
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

// TestForeignWriterStarvesNobody: a program that writes without a pause keeps neither
// pulls nor pushes from their end. Comparing what it wrote, and staging, take longer
// than the time between two of its commits, so in the end it has to wait.
func TestForeignWriterStarvesNobody(t *testing.T) {
	remote := &ownServer{tursosynctest.NewServer(t)}
	s := open(t, remote)
	s.exec(items)
	s.sync()
	for i := range 1000 { // something to compare
		remote.Exec(fmt.Sprintf(`INSERT INTO item VALUES ('r%d', %d, hex(zeroblob(50)))`, i, i))
	}
	s.pull()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	written := make(chan int, 1)
	go func() {
		n := 0
		defer func() { written <- n }()
		other, err := sql.Open("sqlite3", "file:"+s.path+"?_busy_timeout=30000")
		if err != nil {
			t.Error(err)
			return
		}
		defer other.Close()
		for ; ctx.Err() == nil; n++ {
			if _, err := other.Exec(`INSERT INTO item VALUES (?, 0, 'another program')`, fmt.Sprint("f", n)); err != nil {
				t.Error(err)
				return
			}
			time.Sleep(time.Millisecond) // rows that would only make everything slower
		}
	}()
	for i := range 5 {
		remote.Exec(fmt.Sprintf(`INSERT INTO item VALUES ('s%d', %d, 'meanwhile')`, i, i))
		s.pull()
		s.push()
	}
	stop()
	n := <-written
	converge(t, remote, s)
	s.want(`SELECT count(*) FROM item WHERE id GLOB 'f*'`, fmt.Sprint(n))
	if n < 20 {
		t.Errorf("the other program wrote %d rows: it hardly ran", n)
	}
}

// TestForeignVirtualTable: a virtual table cannot be synchronised. One that is in a
// file from before, or that another program makes, halts syncing with an error that
// says what to do, and that is all there is to do.
func TestForeignVirtualTable(t *testing.T) {
	for _, before := range []bool{true, false} {
		t.Run(fmt.Sprintf("before=%t", before), func(t *testing.T) {
			remote := &ownServer{tursosynctest.NewServer(t)}
			path := filepath.Join(t.TempDir(), "app.db")
			other := func(text string) {
				t.Helper()
				db, err := sql.Open("sqlite3", path)
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				if _, err := db.Exec(text); err != nil {
					t.Fatal(err)
				}
			}
			const create = items + `; INSERT INTO item VALUES ('x', 1, 2); CREATE VIRTUAL TABLE words USING fts3(body); INSERT INTO words VALUES ('one')`
			if before {
				other(create)
			}
			s := open(t, remote, func(c *tursosync.Config) { c.Path = path })
			if !before {
				s.sync()
				other(create)
			}
			for what, try := range map[string]func() error{"push": s.tryPush, "pull": s.tryPull} {
				if err := try(); !errors.Is(err, tursosync.ErrVirtualTable) {
					t.Errorf("%s: %v, want ErrVirtualTable", what, err)
				} else {
					s.named(err)
				}
				if st := s.r.Status(); st.State != tursosync.Halted || !strings.Contains(st.Reason, "drop it") || !strings.Contains(st.Reason, `"words"`) {
					t.Errorf("status after %s: %v", what, st)
				}
				s.retry()
			}
			other(`DROP TABLE words`)
			if err := s.trySync(); err != nil {
				t.Fatalf("sync without the table: %v", err)
			}
			converge(t, remote, s)
			s.want(`SELECT * FROM item`, "x|1|2")
			if st := s.r.Status(); st.State != tursosync.Running {
				t.Errorf("status: %v", st)
			}
		})
	}
}

// TestForeignRowsChanged: rows of a table without a key that the sqlite3 program wrote,
// changed here before anything was compared, in transactions that also change the schema or
// rows of base. On the remote their rowids are those of another replica's rows.
func TestForeignRowsChanged(t *testing.T) {
	if _, err := exec.LookPath("sqlite3"); err != nil {
		t.Skip("needs the sqlite3 command")
	}
	for name, own := range map[string]string{
		"rows only":       `DELETE FROM bag WHERE x = 'gone'; UPDATE bag SET x = 'new' WHERE x = 'old'; UPDATE bag SET x = 'once' WHERE x = 'base'; UPDATE bag SET x = 'twice' WHERE x = 'once'`,
		"column added":    `UPDATE bag SET x = 'once' WHERE x = 'base'; ALTER TABLE bag ADD COLUMN y; UPDATE bag SET x = 'twice' WHERE x = 'once'; DELETE FROM bag WHERE x = 'gone'; UPDATE bag SET x = 'new', y = 1 WHERE x = 'old'`,
		"another table":   `CREATE TABLE other(z); DELETE FROM bag WHERE x = 'gone'; UPDATE bag SET x = 'new' WHERE x = 'old'; DROP TABLE other; UPDATE bag SET x = 'twice' WHERE x = 'base'`,
		"column renamed":  `ALTER TABLE bag RENAME COLUMN x TO y; DELETE FROM bag WHERE y = 'gone'; ALTER TABLE bag RENAME COLUMN y TO x; UPDATE bag SET x = 'new' WHERE x = 'old'; UPDATE bag SET x = 'twice' WHERE x = 'base'`,
		"rows, then more": `UPDATE bag SET x = 'twice' WHERE x = 'base'; DELETE FROM bag WHERE x = 'gone'; ALTER TABLE bag ADD COLUMN y; UPDATE bag SET x = 'new' WHERE x = 'old'`,
	} {
		t.Run(name, func(t *testing.T) {
			srv := tursosynctest.NewServer(t)
			open := func() (*sql.DB, *tursosync.Replica, string) {
				file := filepath.Join(t.TempDir(), "app.db")
				db := openCrash(t, file+"?sync=manual&url="+srv.URL)
				r, err := tursosync.ReplicaOf(db)
				if err != nil {
					t.Fatal(err)
				}
				return db, r, file
			}
			exec1 := func(db *sql.DB, text string) {
				t.Helper()
				if _, err := db.Exec(text); err != nil {
					t.Fatalf("%s: %v", text, err)
				}
			}
			syncAll := func(list ...*tursosync.Replica) {
				t.Helper()
				for _, r := range list {
					if err := r.Sync(t.Context()); err != nil {
						t.Fatalf("sync: %v", err)
					}
				}
			}
			a, ra, file := open()
			b, rb, _ := open()
			exec1(a, `CREATE TABLE bag(x); INSERT INTO bag VALUES ('base')`)
			syncAll(ra, rb)
			if out, err := exec.Command("sqlite3", file, `INSERT INTO bag VALUES ('gone'), ('stays'), ('old')`).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			exec1(a, "BEGIN; "+own+"; COMMIT")
			exec1(b, `INSERT INTO bag VALUES ('their 2'), ('their 3'), ('their 4')`)
			syncAll(rb, ra, rb)
			for _, db := range []*sql.DB{a, b} {
				var got string
				if err := db.QueryRow(`SELECT group_concat(x, ', ') FROM (SELECT x FROM bag ORDER BY x)`).Scan(&got); err != nil {
					t.Fatal(err)
				}
				if want := "new, stays, their 2, their 3, their 4, twice"; got != want {
					t.Errorf("bag holds %s, want %s", got, want)
				}
			}
		})
	}
}
