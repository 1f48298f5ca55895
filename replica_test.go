package tursosync_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tursosync/tursosync"
)

// plainFile makes an SQLite file that is no replica.
func plainFile(t *testing.T, statements ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "app.db")
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func at(path string) func(*tursosync.Config) {
	return func(c *tursosync.Config) { c.Path = path }
}

// copyReplica copies the files of a closed replica.
func copyReplica(t *testing.T, from, to string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", "-base", "-pull"} {
		if err := os.Remove(to + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		b, err := os.ReadFile(from + suffix)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(to+suffix, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestAdoptFullFile(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		path := plainFile(t, `CREATE TABLE item(id TEXT PRIMARY KEY, a, b)`, `INSERT INTO item VALUES ('x', 1, 2), ('y', 3, 4)`,
			`CREATE TABLE bag(v)`, `INSERT INTO bag VALUES (1), (1)`, `CREATE INDEX item_a ON item(a)`)
		one, two := open(t, r, at(path)), open(t, r)
		events := one.r.Events(t.Context())
		one.exec(`INSERT INTO item VALUES ('z', 5, 6)`, `UPDATE item SET a = 'new' WHERE id = 'x'`)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := one.r.Wait(ctx); err != nil { // needs the first pull
			t.Fatalf("Wait: %v", err)
		}
		converge(t, r, one, two)
		two.want(`SELECT id, a FROM item ORDER BY id`, "x|new", "y|3", "z|5")
		two.want(`SELECT count(*) FROM bag`, "2")
		if err := one.db.Close(); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(slices.Collect(events), tursosync.Event(tursosync.Adopted{})) {
			t.Error("no Adopted event")
		}
	})
}

func TestTwoFullSidesAreRefused(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one := open(t, r)
		one.exec(items, `INSERT INTO item VALUES ('x', 1, 2)`)
		one.sync()
		path := plainFile(t, `CREATE TABLE other(id INTEGER PRIMARY KEY)`, `INSERT INTO other VALUES (1)`)
		two := open(t, r, at(path))
		if err := two.trySync(); !errors.Is(err, tursosync.ErrNotReplica) {
			t.Errorf("sync: %v, want ErrNotReplica", err)
		}
		if s := two.r.Status(); s.State != tursosync.Halted {
			t.Errorf("status is %v, want halted", s)
		}
		two.want(`SELECT id FROM other`, "1")
		// The way out is a setting.
		if err := two.db.Close(); err != nil {
			t.Fatal(err)
		}
		two.cfg.Existing = tursosync.ExistingUpload
		two.open()
		converge(t, r, one, two)
		one.want(`SELECT id FROM other`, "1")
		two.want(`SELECT id FROM item`, "x")
	})
}

// TestRestoredReplica puts an old copy of the files in place of newer ones whose
// changes have been pushed.
func TestRestoredReplica(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		backup := filepath.Join(t.TempDir(), "backup.db")
		one.exec(items, `CREATE TABLE bag(v)`, `INSERT INTO item VALUES ('before', 1, 1)`)
		one.sync()
		one.exec(`INSERT INTO bag VALUES ('pending in the backup')`)
		one.db.Close()
		copyReplica(t, one.path, backup)
		one.open()
		one.sync()
		one.exec(`INSERT INTO item VALUES ('lost locally', 2, 2)`, `INSERT INTO bag VALUES ('after')`)
		one.sync()
		one.db.Close()
		copyReplica(t, backup, one.path)
		one.open()
		events := one.r.Events(t.Context())
		one.exec(`INSERT INTO item VALUES ('after the restore', 3, 3)`, `INSERT INTO bag VALUES ('restored')`, `DELETE FROM item WHERE id = 'before'`)
		one.push()
		converge(t, r, one, two)
		two.want(`SELECT id FROM item ORDER BY id`, "after the restore", "lost locally")
		// What the backup held pending may have been pushed after it was made, or
		// not: nobody can tell, and nothing may be lost. With a key it would be there
		// once.
		two.want(`SELECT DISTINCT v FROM bag ORDER BY v`, "after", "pending in the backup", "restored")
		if err := one.db.Close(); err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(slices.Collect(events), func(e tursosync.Event) bool { _, ok := e.(tursosync.Renewed); return ok }) {
			t.Error("no Renewed event")
		}
	})
}

// TestCopiedReplica lets two copies of one replica's files write.
func TestCopiedReplica(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one := open(t, r)
		one.exec(items, `CREATE TABLE bag(v)`)
		one.sync()
		copied := filepath.Join(t.TempDir(), "app.db")
		one.db.Close()
		copyReplica(t, one.path, copied)
		one.open()
		two := open(t, r, at(copied))
		for i := range 3 {
			one.exec(fmt.Sprintf(`INSERT INTO bag VALUES ('one %d')`, i), fmt.Sprintf(`INSERT INTO item VALUES ('one %d', 1, 1)`, i))
			two.exec(fmt.Sprintf(`INSERT INTO bag VALUES ('two %d')`, i), fmt.Sprintf(`INSERT INTO item VALUES ('two %d', 2, 2)`, i))
			one.sync()
			two.sync()
		}
		converge(t, r, one, two)
		one.want(`SELECT v FROM bag ORDER BY v`, "one 0", "one 1", "one 2", "two 0", "two 1", "two 2")
		one.want(`SELECT count(*) FROM item`, "6")
	})
}

// TestRemoteReplaced puts another, empty database behind the same address.
func TestRemoteReplaced(t *testing.T) {
	for _, more := range []int{0, 10} {
		t.Run(fmt.Sprint(more, " more"), func(t *testing.T) { testRemoteReplaced(t, more) })
	}
}

func testRemoteReplaced(t *testing.T, more int) {
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		one.exec(items, `INSERT INTO item VALUES ('on the remote', 1, 1)`)
		converge(t, r, one, two)
		r.Stop()
		wipe(t, r)
		// tursodb's new revisions may be the old ones again. What makes a replica
		// look twice is that the server was away.
		if err := two.trySync(); err == nil {
			t.Error("sync without a server succeeded")
		}
		r.Start()
		one.exec(`CREATE TABLE mine(id TEXT PRIMARY KEY)`, `INSERT INTO mine VALUES ('pending')`)
		for i := range more {
			one.exec(fmt.Sprintf(`INSERT INTO mine VALUES ('more %d')`, i))
		}
		one.sync()
		converge(t, r, one, two)
		two.want(`SELECT count(*) FROM mine`, fmt.Sprint(more+1))
	})
}

func TestRemoteGivenLater(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one := open(t, r, func(c *tursosync.Config) { c.URL, c.AuthToken, c.Sync = "", "", "" })
		one.exec(items, `INSERT INTO item VALUES ('local', 1, 1)`)
		if err := one.r.Sync(t.Context()); !errors.Is(err, tursosync.ErrNoRemote) {
			t.Errorf("Sync: %v, want ErrNoRemote", err)
		}
		if err := one.db.Close(); err != nil {
			t.Fatal(err)
		}
		one.cfg.Sync = tursosync.SyncManual
		configure(&one.cfg, r)
		one.open()
		two := open(t, r)
		converge(t, r, one, two)
		two.want(`SELECT id FROM item`, "local")
	})
}

func TestOneConnection(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one := open(t, r, func(c *tursosync.Config) { c.Sync, c.SyncInterval = tursosync.SyncAuto, 10*time.Millisecond })
		two := open(t, r)
		one.db.SetMaxOpenConns(1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		one.exec(items)
		for i := range 50 {
			tx, err := one.db.BeginTx(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			for j := range 3 {
				if _, err := tx.ExecContext(ctx, `INSERT INTO item VALUES (?, ?, ?)`, fmt.Sprint(i, " ", j), i, j); err != nil {
					t.Fatal(err)
				}
			}
			if i%10 == 0 { // the handle needs no connection
				if _, err := one.r.Stats(ctx); err != nil {
					t.Fatal(err)
				}
			}
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			if i%10 == 5 {
				if err := one.r.Checkpoint(ctx); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := one.r.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		converge(t, r, one, two)
		two.want(`SELECT count(*) FROM item`, "150")
	})
}

// TestForeignWriter writes to live behind the driver's back.
func TestForeignWriter(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		one.exec(items, `INSERT INTO item VALUES ('x', 1, 1), ('y', 2, 2)`)
		one.sync()
		plain, err := sql.Open("sqlite3", one.path)
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		for _, s := range []string{`UPDATE item SET a = 'foreign' WHERE id = 'x'`, `DELETE FROM item WHERE id = 'y'`, `INSERT INTO item VALUES ('z', 3, 3)`} {
			if _, err := plain.Exec(s); err != nil {
				t.Fatal(err)
			}
		}
		one.exec(`INSERT INTO item VALUES ('own', 4, 4)`)
		converge(t, r, one, two)
		two.want(`SELECT id, a FROM item ORDER BY id`, "own|4", "x|foreign", "z|3")
	})
}

func TestHaltEndToEnd(t *testing.T) {
	for _, way := range []string{"skip", "rewrite", "retry"} {
		t.Run(way, func(t *testing.T) {
			eachRemote(t, func(t *testing.T, r remote) {
				one := open(t, r)
				two := open(t, r, func(c *tursosync.Config) { c.OnReject = tursosync.RejectHalt })
				one.exec(`CREATE TABLE u(id TEXT PRIMARY KEY, mail TEXT UNIQUE)`)
				one.sync()
				two.sync()
				one.exec(`INSERT INTO u VALUES ('a', 'm@x')`)
				one.push()
				two.exec(`INSERT INTO u VALUES ('b', 'other@x')`, `INSERT INTO u VALUES ('c', 'm@x')`, `INSERT INTO u VALUES ('d', 'third@x')`)
				err := two.r.Push(t.Context())
				var halted *tursosync.HaltedError
				if !errors.As(err, &halted) || len(halted.Halt.Changes) != 1 || !strings.Contains(halted.Halt.Reason, "UNIQUE") {
					t.Fatalf("push: %v, want it halted by one change", err)
				}
				if s := two.r.Status(); s.State != tursosync.Halted || s.Txn != halted.Halt.Txn {
					t.Errorf("status is %v", s)
				}
				txns, more, err := two.r.Pending(t.Context(), 0)
				if err != nil || more || len(txns) != 2 {
					t.Errorf("Pending() = %v, %v, %v, want the last two transactions", txns, more, err)
				}
				two.want(`SELECT id FROM u ORDER BY id`, "b", "c", "d")
				want := []string{"a", "b", "d"}
				switch way {
				case "skip":
					err = two.r.Skip(t.Context())
				case "rewrite":
					want = []string{"a", "b", "c", "d"}
					err = two.r.Rewrite(t.Context(), tursosync.Mutation{SQL: `INSERT INTO u VALUES ('c', 'changed@x')`})
				case "retry":
					want = []string{"b", "c", "d"}
					one.exec(`DELETE FROM u WHERE id = 'a'`)
					one.push()
					err = two.r.Retry(t.Context())
				}
				if err != nil {
					t.Fatal(err)
				}
				two.push()
				converge(t, r, one, two)
				one.want(`SELECT id FROM u ORDER BY id`, want...)
			})
		})
	}
}

func TestCloseSendsWhatIsPending(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one := open(t, r, func(c *tursosync.Config) { c.Sync, c.PushDelay = tursosync.SyncPush, time.Hour })
		two := open(t, r)
		one.exec(items, `INSERT INTO item VALUES ('x', 1, 1)`)
		if err := one.db.Close(); err != nil {
			t.Fatal(err)
		}
		if err := one.r.Push(t.Context()); !errors.Is(err, tursosync.ErrClosed) {
			t.Errorf("Push after Close: %v, want ErrClosed", err)
		}
		if s := one.r.Status(); s.State != tursosync.Stopped {
			t.Errorf("status after Close is %v, want stopped", s)
		}
		two.sync()
		two.want(`SELECT id FROM item`, "x")
	})
}

func TestStats(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one := open(t, r)
		one.exec(items, `INSERT INTO item VALUES ('x', 1, 1)`)
		s, err := one.r.Stats(t.Context())
		if err != nil || s.PendingChanges != 2 || s.LastChange != 2 || s.Watermark != 0 || s.Sent != 0 || !s.LastPush.IsZero() {
			t.Errorf("Stats() = %+v, %v", s, err)
		}
		one.sync()
		s, err = one.r.Stats(t.Context())
		if err != nil || s.PendingChanges != 0 || s.Watermark != 2 || s.Sent == 0 || s.Received == 0 ||
			s.LastPush.IsZero() || s.LastPull.IsZero() || s.Revision == "" || s.BaseBytes == 0 || s.LiveBytes == 0 {
			t.Errorf("Stats() = %+v, %v", s, err)
		}
	})
}

func TestReplicaOfPlainDatabases(t *testing.T) {
	memory, err := sql.Open("tursosync", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	if _, err := tursosync.ReplicaOf(memory); !errors.Is(err, tursosync.ErrNoReplica) {
		t.Errorf("ReplicaOf(memory): %v, want ErrNoReplica", err)
	}
	other, err := sql.Open("sqlite3", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := tursosync.ReplicaOf(other); err == nil {
		t.Error("ReplicaOf accepted a database of another driver")
	}
}

// TestRejectionsThatFollow puts aside what builds on a refused transaction, and
// says so.
func TestRejectionsThatFollow(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		one.exec(`CREATE TABLE u(id TEXT PRIMARY KEY, mail TEXT UNIQUE)`)
		one.sync()
		two.sync()
		one.exec(`INSERT INTO u VALUES ('a', 'm@x')`)
		one.push()
		two.exec(`INSERT INTO u VALUES ('c', 'm@x')`, `UPDATE u SET mail = 'free@x' WHERE id = 'c'`, `UPDATE u SET mail = 'm@x' WHERE id = 'c'`)
		var rejected *tursosync.RejectedError
		if err := two.r.Push(t.Context()); !errors.As(err, &rejected) {
			t.Fatalf("push: %v, want a RejectedError", err)
		}
		list, err := two.r.Rejected(t.Context())
		if err != nil || len(list) != len(rejected.Rejections) {
			t.Errorf("%d transactions are put aside, %d were reported: %v", len(list), len(rejected.Rejections), err)
		}
		converge(t, r, one, two)
	})
}
