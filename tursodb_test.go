package tursosync_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/internal/realtest"
)

// The tests of this file drive replicas into the corners: what a
// server, a disk or an administrator may do to a program that only wanted to sync.
// Each names the promise that it shows.

// events collects what happens to a replica until stop is called.
func (s *side) events() (stop func() []tursosync.Event) {
	ctx, cancel := context.WithCancel(s.Context())
	seq := s.r.Events(ctx)
	return func() []tursosync.Event {
		cancel()
		var all []tursosync.Event
		for e := range seq {
			all = append(all, e)
		}
		return all
	}
}

// eventsOf returns how many events are of one type.
func eventsOf[E tursosync.Event](all []tursosync.Event) (n int) {
	for _, e := range all {
		if _, ok := e.(E); ok {
			n++
		}
	}
	return n
}

// TestMovedRows: nothing committed is lost. A row without key gets another rowid
// in a rebase, and is then changed under it; nobody else's row is touched.
func TestMovedRows(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		one.exec(`CREATE TABLE bag(who, n)`)
		one.sync()
		two.sync()
		one.exec(`INSERT INTO bag VALUES ('one', 1), ('one', 2)`)
		two.exec(`INSERT INTO bag VALUES ('two', 1), ('two', 2), ('two', 3)`)
		one.push()
		two.pull() // the rowids 1 and 2 are one's now
		two.want(`SELECT who, n FROM bag ORDER BY rowid`, "one|1", "one|2", "two|1", "two|2", "two|3")
		two.exec(`UPDATE bag SET n = n + 10 WHERE who = 'two'`)
		one.exec(`INSERT INTO bag VALUES ('one', 3)`)
		one.push()
		two.pull()
		two.exec(`UPDATE bag SET n = n + 10 WHERE n = 11`, `DELETE FROM bag WHERE n = 12`)
		converge(t, r, two, one)
		one.want(`SELECT who, n FROM bag ORDER BY who, n`, "one|1", "one|2", "one|3", "two|13", "two|21")
	})
}

// TestServerRestarts: nothing committed is lost, nothing is applied twice. Two
// replicas write and sync in the background while the server is killed, and ended
// properly, again and again.
func TestServerRestarts(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		auto := func(c *tursosync.Config) {
			c.Sync, c.SyncInterval, c.PushDelay = tursosync.SyncAuto, 20*time.Millisecond, tursosync.Off
		}
		sides := []*side{open(t, r, auto), open(t, r, auto)}
		sides[0].exec(`CREATE TABLE bag(who, n)`, `CREATE TABLE item(id TEXT PRIMARY KEY, n)`)
		sides[0].sync()
		sides[1].sync()
		const rows = 60
		var written [2]atomic.Int64
		var writers sync.WaitGroup
		for i, s := range sides {
			writers.Go(func() {
				for n := range rows {
					if _, err := s.db.Exec(`INSERT INTO bag VALUES (?, ?)`, i, n); err != nil {
						t.Errorf("insert: %v", err)
					}
					if _, err := s.db.Exec(`INSERT INTO item VALUES ('both', ?1) ON CONFLICT DO UPDATE SET n = ?1`, n); err != nil {
						t.Errorf("upsert: %v", err)
					}
					written[i].Add(1)
					time.Sleep(10 * time.Millisecond) // the time that a user takes
				}
			})
		}
		for n := int64(1); n <= 4; n++ {
			for written[0].Load() < n*rows/5 {
				time.Sleep(time.Millisecond)
			}
			if n%2 == 0 {
				terminate(r)
			} else {
				r.Stop()
			}
			for written[1].Load() < n*rows/5+5 {
				time.Sleep(time.Millisecond)
			}
			r.Start()
		}
		writers.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		for _, s := range sides {
			if err := s.r.Wait(ctx); err != nil {
				t.Fatalf("Wait: %v", err)
			}
		}
		converge(t, r, sides...)
		sides[0].want(`SELECT who, count(*), count(DISTINCT n) FROM bag GROUP BY who`, "0|60|60", "1|60|60")
	})
}

// TestServerFromNothing: every state has a way out, and nothing vanishes without
// a word. The server comes back with an empty database: replicas say so, keep a
// copy of what was there, and follow the remote; the copy can be uploaded again.
func TestServerFromNothing(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		one.exec(items, `INSERT INTO item VALUES ('old', 1, 1)`, `CREATE INDEX item_a ON item(a)`)
		converge(t, r, one, two)
		restartEmpty(t, r)
		stop := one.events()
		one.sync()
		if n := eventsOf[tursosync.RemoteReset](stop()); n != 1 {
			t.Errorf("%d RemoteReset events, want 1", n)
		}
		one.want(`SELECT name FROM sqlite_schema WHERE name = 'item'`)
		backups, err := filepath.Glob(one.path + "-backup-*")
		if err != nil || len(backups) != 1 {
			t.Fatalf("backups: %q, %v, want one", backups, err)
		}
		same(t, r, one)

		// Somebody decides that the old content is wanted back.
		again := open(t, r, func(c *tursosync.Config) { c.Path = backups[0] })
		again.sync()
		again.want(`SELECT * FROM item`, "old|1|1")
		converge(t, r, again, one)
		one.want(`SELECT * FROM item`, "old|1|1")
		two.exec(`INSERT INTO item VALUES ('pending', 2, 2)`) // had heard of nothing yet
		converge(t, r, two, one)
		one.want(`SELECT id FROM item ORDER BY id`, "old", "pending")
	})
}

// TestServerReplaced: replicas converge, also with a server that came back with
// another database in which a known revision means something else.
func TestServerReplaced(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one := open(t, r)
		one.exec(items, `INSERT INTO item VALUES ('old', 1, 1)`)
		one.sync()
		restartEmpty(t, r)
		two := open(t, r)
		two.exec(items)
		for i := range 30 { // beyond the revision that one has
			two.exec(fmt.Sprintf(`INSERT INTO item VALUES ('new %d', randomblob(500), 1)`, i))
			two.push()
		}
		two.sync()
		one.exec(`INSERT INTO item VALUES ('pending', 2, 2)`)
		stop := one.events()
		one.sync()
		converge(t, r, one, two)
		if n := eventsOf[tursosync.RemoteReset](stop()); n != 1 {
			t.Errorf("%d RemoteReset events, want 1", n)
		}
		two.want(`SELECT count(*), sum(id = 'pending') FROM item`, "31|1")
	})
}

// TestServerTruncatesItsWAL: tursodb forgets its history in a checkpoint
// (PROTOCOL.md §9.1), and then neither knows our revision nor has all pages to
// give. Replicas notice when they next hear of it, take everything anew, and keep
// what is pending. (Not noticed is a history that has grown beyond the old revision
// in the meantime: nothing in the answers tells.)
func TestServerTruncatesItsWAL(t *testing.T) {
	r := startTursodb(t)
	one, two := open(t, r), open(t, r)
	one.exec(items, `INSERT INTO item VALUES ('old', 1, zeroblob(200000))`)
	converge(t, r, one, two)
	realtest.Exec(t, r.URL, `PRAGMA wal_checkpoint(TRUNCATE)`)
	one.pull() // nothing happened since
	one.want(`SELECT id FROM item`, "old")
	one.pull()
	two.exec(`INSERT INTO item VALUES ('two', 3, 3)`)
	two.push()
	realtest.Exec(t, r.URL, `INSERT INTO item VALUES ('sql', 4, 4)`)
	one.exec(`INSERT INTO item VALUES ('one', 2, 2)`)
	converge(t, r, one, two)
	one.want(`SELECT id FROM item ORDER BY id`, "old", "one", "sql", "two")
	three := open(t, r)
	converge(t, r, three)
}

// TestServerWithExistingDatabase: a tursodb that was started on a database full of
// data has nothing of it in its WAL (PROTOCOL.md §9.1); replicas get it all the
// same, and write to it.
func TestServerWithExistingDatabase(t *testing.T) {
	file := filepath.Join(t.TempDir(), "existing.db")
	db, err := sql.Open("sqlite3", file)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"PRAGMA journal_mode=WAL", items, `INSERT INTO item VALUES ('old', 1, zeroblob(20000))`} {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	r := &tursodb{realtest.StartTursodbFile(t, file)}
	one, two := open(t, r), open(t, r)
	for range 2 {
		one.pull() // the second time, nothing is new
		one.want(`SELECT id FROM item`, "old")
	}
	before, err := one.r.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	one.pull()
	if after, err := one.r.Stats(t.Context()); err != nil || after.Received-before.Received > 4096 {
		t.Errorf("a pull without news took %d bytes (%v)", after.Received-before.Received, err)
	}
	one.exec(`INSERT INTO item VALUES ('one', 2, 2)`)
	two.exec(items, `INSERT INTO item VALUES ('two', 3, 3)`) // had not met the remote
	converge(t, r, one, two)
	one.want(`SELECT id FROM item ORDER BY id`, "old", "one", "two")
}

// TestBootstrapInChunks: a large database comes in portions, with progress; what
// came before the connection broke is not fetched again.
func TestBootstrapInChunks(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		sqlOf(r).Exec(t, `CREATE TABLE big(id INTEGER PRIMARY KEY, body BLOB)`,
			`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000)
				INSERT INTO big SELECT i, randomblob(3500) FROM n`)
		f := &breaker{next: transportOf(r), after: 2, bytes: 8 << 20}
		one := open(t, r, func(c *tursosync.Config) { c.HTTPClient = &http.Client{Transport: f} })
		if err := one.r.Pull(t.Context()); err == nil {
			t.Fatal("pull over a broken connection succeeded")
		}
		one.want(`SELECT name FROM sqlite_schema WHERE name = 'big'`) // nothing in part
		one.reopen()
		stop := one.events()
		one.pull()
		all := stop()
		if n := eventsOf[tursosync.Progress](all); n == 0 {
			t.Error("no Progress events")
		}
		one.want(`SELECT count(*), count(DISTINCT body), min(length(body)) FROM big`, "12000|12000|3500")
		stats, err := one.r.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if whole := stats.BaseBytes; stats.Received > whole*2/3 {
			t.Errorf("received %d bytes of %d again", stats.Received, whole)
		}
		converge(t, r, one)
	})
}

// breaker breaks the connection in the middle of the answer to one pull.
type breaker struct {
	next  http.RoundTripper
	after int // the pull that is broken, counted from 1
	bytes int64
	pulls int
}

func (b *breaker) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(req)
	if err != nil || !strings.HasSuffix(req.URL.Path, pullPath) {
		return resp, err
	}
	if b.pulls++; b.pulls == b.after {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(io.LimitReader(resp.Body, b.bytes), broken{}), resp.Body}
	}
	return resp, nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset by peer") }

// TestMigrationsOfATool: replicas that run the same migrations with a tool that
// keeps its own table converge, each of them from its own start.
func TestMigrationsOfATool(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		sides := []*side{open(t, r), open(t, r), open(t, r)}
		for i, s := range sides {
			s.exec(`CREATE TABLE goose_db_version (
					id INTEGER PRIMARY KEY AUTOINCREMENT,
					version_id INTEGER NOT NULL,
					is_applied INTEGER NOT NULL,
					tstamp TIMESTAMP DEFAULT (datetime('now'))
				)`, fmt.Sprintf(`INSERT INTO goose_db_version(version_id, is_applied, tstamp) VALUES (0, 1, 'at %d')`, i))
			for v, m := range []string{items, `CREATE UNIQUE INDEX item_ab ON item(a, b)`, `ALTER TABLE item ADD COLUMN c INTEGER NOT NULL DEFAULT 0`,
				`CREATE VIEW named AS SELECT id FROM item`} {
				s.exec("BEGIN; " + m + fmt.Sprintf(`; INSERT INTO goose_db_version(version_id, is_applied, tstamp) VALUES (%d, 1, 'at %d'); COMMIT`, v+1, i))
			}
			s.exec(fmt.Sprintf(`INSERT INTO item VALUES ('%d', %d, 0, 1)`, i, i))
		}
		converge(t, r, sides...)
		sides[0].want(`SELECT version_id FROM goose_db_version ORDER BY id`, "0", "1", "2", "3", "4")
		sides[0].want(`SELECT id FROM named ORDER BY id`, "0", "1", "2")
		// The next migration runs on one of them only.
		sides[1].exec(`ALTER TABLE item RENAME COLUMN c TO cc`)
		converge(t, r, sides...)
		converge(t, r, sides...)
	})
}

// TestDriftIsResolved: different definitions of one table are reported, and
// making them agree is a way out.
func TestDriftIsResolved(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		one.exec(`CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT)`, `INSERT INTO t VALUES (1, 'one')`)
		two.exec(`CREATE TABLE other(x)`, `INSERT INTO other VALUES (1)`)
		two.exec(`CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB)`, `INSERT INTO t VALUES (2, x'02')`)
		one.sync()
		var drift *tursosync.DriftError
		if err := two.trySync(); !errors.As(err, &drift) || drift.Name != "t" {
			t.Fatalf("sync: %v, want a DriftError about t", err)
		}
		if s := two.r.Status(); s.State != tursosync.Halted {
			t.Errorf("status is %v, want halted", s)
		}
		two.want(`SELECT * FROM t`, "2|x'02'") // as it was
		two.exec(`INSERT INTO other VALUES (2)`)
		two.exec(`DROP TABLE t`, `CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT)`, `INSERT INTO t VALUES (3, 'three')`)
		if err := two.r.Retry(t.Context()); err != nil {
			t.Fatal(err)
		}
		converge(t, r, one, two)
		one.want(`SELECT a FROM t WHERE id = 3`, "three")
		one.want(`SELECT x FROM other`, "1", "2")
	})
}

// TestTablesWithoutRowID: what tursodb cannot take is reported, and the rest
// goes on. Without its flag it has no such tables: a disagreement that somebody has
// to look at. With it, it takes no upserts of them: each is put aside.
func TestTablesWithoutRowID(t *testing.T) {
	write := func(one *side) {
		one.exec(`CREATE TABLE k(id TEXT PRIMARY KEY, v) WITHOUT ROWID`)
		one.exec(`INSERT INTO k VALUES ('a', 1)`)
		one.exec(items, `INSERT INTO item VALUES ('x', 1, 1)`)
	}
	rejected := func(one *side, reasons ...string) {
		one.Helper()
		list, err := one.r.Rejected(one.Context())
		if err != nil || len(list) != len(reasons) {
			one.Fatalf("Rejected() = %+v, %v, want %d", list, err, len(reasons))
		}
		for i, x := range list {
			if !strings.Contains(x.Reason, reasons[i]) {
				one.Errorf("transaction %d was put aside because of %q, want %q", x.Txn, x.Reason, reasons[i])
			}
		}
	}
	t.Run("no such tables", func(t *testing.T) {
		r := startTursodb(t)
		one, two := open(t, r), open(t, r)
		write(one)
		var halted *tursosync.HaltedError
		if err := one.trySync(); !errors.As(err, &halted) || !strings.Contains(halted.Halt.Reason, "WITHOUT ROWID") {
			t.Fatalf("sync: %v, want a HaltedError about WITHOUT ROWID", err)
		}
		if err := one.r.Skip(t.Context()); err != nil {
			t.Fatal(err)
		}
		converge(t, r, one, two)
		rejected(one, "WITHOUT ROWID", `table "k" does not exist`) // the row needed the table
		two.want(`SELECT * FROM item`, "x|1|1")
	})
	t.Run("no upserts", func(t *testing.T) {
		r := startTursodb(t, "--experimental-without-rowid")
		one, two := open(t, r), open(t, r)
		write(one)
		var refused *tursosync.RejectedError
		if err := one.trySync(); !errors.As(err, &refused) || len(refused.Rejections) != 1 {
			t.Fatalf("sync: %v, want a RejectedError about one transaction", err)
		}
		converge(t, r, one, two)
		rejected(one, "ON CONFLICT")
		two.want(`SELECT * FROM item`, "x|1|1")
		two.want(`SELECT count(*) FROM k`, "0")
	})
}

// TestHalt: policy halt keeps a refused transaction where it is until somebody
// decides: Retry after making room, Skip, Rewrite. Nothing behind it overtakes it.
func TestHalt(t *testing.T) {
	for _, decision := range []string{"retry", "skip", "rewrite"} {
		t.Run(decision, func(t *testing.T) {
			eachRemote(t, func(t *testing.T, r remote) {
				one := open(t, r)
				two := open(t, r, func(c *tursosync.Config) { c.OnReject = tursosync.RejectHalt })
				one.exec(`CREATE TABLE u(id TEXT PRIMARY KEY, mail TEXT UNIQUE)`)
				one.sync()
				two.sync()
				one.exec(`INSERT INTO u VALUES ('a', 'm@x')`)
				one.push()
				two.exec(`INSERT INTO u VALUES ('b', 'b@x')`, `INSERT INTO u VALUES ('c', 'm@x')`, `INSERT INTO u VALUES ('d', 'd@x')`)
				err := two.r.Push(t.Context())
				var halted *tursosync.HaltedError
				if !errors.As(err, &halted) || !strings.Contains(halted.Halt.Reason, "UNIQUE") || len(halted.Halt.Changes) != 1 {
					t.Fatalf("push: %v, want it halted at one change because of UNIQUE", err)
				}
				if s := two.r.Status(); s.State != tursosync.Halted {
					t.Errorf("status is %v, want halted", s)
				}
				if err := two.r.Pull(t.Context()); err == nil {
					t.Error("pull succeeded, though the transaction cannot be replayed")
				}
				two.want(`SELECT id FROM u ORDER BY id`, "b", "c", "d")
				two.reopen() // the halt is found again
				if err := two.r.Push(t.Context()); !errors.As(err, &halted) {
					t.Fatalf("push: %v, want it halted", err)
				}
				want := []string{"a|m@x", "b|b@x", "d|d@x"}
				switch decision {
				case "retry":
					one.exec(`UPDATE u SET mail = 'a@x' WHERE id = 'a'`)
					one.push()
					err = two.r.Retry(t.Context())
					want = []string{"a|a@x", "b|b@x", "c|m@x", "d|d@x"}
				case "skip":
					err = two.r.Skip(t.Context())
				case "rewrite":
					err = two.r.Rewrite(t.Context(), tursosync.Mutation{SQL: `INSERT INTO u VALUES (?, ?)`, Args: []any{"c", "c@x"}})
					want = []string{"a|m@x", "b|b@x", "c|c@x", "d|d@x"}
				}
				if err != nil {
					t.Fatal(err)
				}
				two.push()
				converge(t, r, two, one)
				one.want(`SELECT * FROM u ORDER BY id`, want...)
				list, err := two.r.Rejected(t.Context())
				if err != nil || len(list) != map[string]int{"skip": 1}[decision] {
					t.Errorf("Rejected() = %+v, %v", list, err)
				}
			})
		})
	}
}

// copyFiles copies the files of a replica that is closed.
func copyFiles(t *testing.T, from, to string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", "-shm", "-base", "-pull", "-lock"} {
		b, err := os.ReadFile(from + suffix)
		if errors.Is(err, os.ErrNotExist) {
			if err := os.Remove(to + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
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

// TestRestoredFiles: nothing committed is lost. A replica's files are put back
// to an older state: it notices, goes on under a new client id, and what was
// written after the restoration reaches the remote although its change ids were
// used before.
func TestRestoredFiles(t *testing.T) {
	for _, first := range []string{"push", "pull", "sync"} {
		t.Run(first, func(t *testing.T) {
			eachRemote(t, func(t *testing.T, r remote) {
				one, two := open(t, r), open(t, r)
				one.exec(`CREATE TABLE bag(n)`, items, `INSERT INTO bag VALUES (1)`)
				one.sync()
				backup := filepath.Join(t.TempDir(), "backup.db")
				if err := one.db.Close(); err != nil {
					t.Fatal(err)
				}
				copyFiles(t, one.path, backup)
				one.open()
				one.exec(`INSERT INTO bag VALUES (2)`, `INSERT INTO item VALUES ('x', 'before', 1)`, `INSERT INTO bag VALUES (3)`)
				one.sync()
				if err := one.db.Close(); err != nil {
					t.Fatal(err)
				}
				copyFiles(t, backup, one.path)
				one.open()
				one.want(`SELECT n FROM bag`, "1")
				one.exec(`INSERT INTO bag VALUES (4)`, `INSERT INTO item VALUES ('y', 'after', 2)`)
				stop := one.events()
				switch first {
				case "push":
					one.push()
				case "pull":
					one.pull()
				}
				one.sync()
				renewed := eventsOf[tursosync.Renewed](stop())
				if renewed > 1 || renewed == 0 && first != "pull" {
					t.Errorf("%d Renewed events, want 1", renewed)
				}
				converge(t, r, one, two)
				two.want(`SELECT n FROM bag ORDER BY n`, "1", "2", "3", "4")
				two.want(`SELECT id FROM item ORDER BY id`, "x", "y")
			})
		})
	}
}

// TestTwoCopies: nothing committed is lost, nothing is applied twice, with two
// copies of the same files alive: the same client id, the same change ids. The
// copy is made while the replica is closed, or under its feet, as a snapshot of
// the disk does; then the replica is sure of its watermark.
func TestTwoCopies(t *testing.T) {
	for _, running := range []bool{false, true} {
		t.Run(fmt.Sprintf("running=%v", running), func(t *testing.T) {
			eachRemote(t, func(t *testing.T, r remote) {
				one, third := open(t, r), open(t, r)
				one.exec(`CREATE TABLE bag(who, n)`, `INSERT INTO bag VALUES ('both', 0)`)
				one.sync()
				path := filepath.Join(t.TempDir(), "copy.db")
				if running {
					if err := one.r.Checkpoint(t.Context()); err != nil {
						t.Fatal(err)
					}
					// The files are read by another process: closing them in this one would
					// drop SQLite's locks.
					for _, suffix := range []string{"", "-wal", "-base"} {
						if out, err := exec.Command("cp", one.path+suffix, path+suffix).CombinedOutput(); err != nil {
							t.Fatalf("cp: %v: %s", err, out)
						}
					}
				} else {
					if err := one.db.Close(); err != nil {
						t.Fatal(err)
					}
					copyFiles(t, one.path, path)
					one.open()
				}
				two := open(t, r, func(c *tursosync.Config) { c.Path = path })
				for i := range 3 {
					one.exec(fmt.Sprintf(`INSERT INTO bag VALUES ('one', %d)`, i))
					two.exec(fmt.Sprintf(`INSERT INTO bag VALUES ('two', %d)`, i))
					two.push()
					one.push()
				}
				converge(t, r, one, two, third)
				third.want(`SELECT who, count(*), sum(n) FROM bag GROUP BY who`, "both|1|0", "one|3|3", "two|3|3")
			})
		})
	}
}

// cutProxy stands between replica and server. It lets the server answer in full,
// and cuts the connection inside the answer.
type cutProxy struct {
	target string
	addr   string

	mu   sync.Mutex
	cut  func(path string, body []byte, answer int) int // how many bytes get through; nil or negative: all
	cuts int
}

func startCutProxy(t *testing.T, target string) *cutProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := &cutProxy{target: u.Host, addr: l.Addr().String()}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				if err := p.serve(c); err != nil {
					t.Logf("proxy: %v", err)
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return p
}

// serve passes one request on.
func (p *cutProxy) serve(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	req, err := http.ReadRequest(bufio.NewReader(c))
	if errors.Is(err, io.EOF) || err != nil && strings.Contains(err.Error(), "reset") {
		return nil // a connection that was not needed
	} else if err != nil {
		return err
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return err
	}
	s, err := net.Dial("tcp", p.target)
	if err != nil {
		return err
	}
	defer s.Close()
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if len(body) == 0 {
		req.Body = http.NoBody
		req.Header.Set("Content-Length", "0")
	}
	req.Close = true
	if err := req.Write(s); err != nil {
		return err
	}
	answer, err := io.ReadAll(s)
	if err != nil {
		return err
	}
	p.mu.Lock()
	n := -1
	if p.cut != nil {
		n = p.cut(req.URL.Path, body, len(answer))
	}
	if n >= 0 {
		p.cuts++
	}
	p.mu.Unlock()
	if n >= 0 {
		_, _ = c.Write(answer[:n])
		if tcp, ok := c.(*net.TCPConn); ok && n%2 == 0 {
			_ = tcp.SetLinger(0) // a reset instead of an end
		}
		return nil
	}
	_, err = c.Write(answer)
	return err
}

// next makes the proxy cut the next matching answer, once.
func (p *cutProxy) next(match func(path string, body []byte) bool, at func(answer int) int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = func(path string, body []byte, answer int) int {
		if !match(path, body) {
			return -1
		}
		p.cut = nil
		return at(answer)
	}
}

func isPush(_ string, body []byte) bool { return bytes.Contains(body, []byte("COMMIT")) }
func isPull(path string, _ []byte) bool { return strings.HasSuffix(path, pullPath) }

// TestCutAnswers: nothing is applied twice, nothing is lost. The answer is cut
// after the server has committed, at many positions, before anything else happens
// or after a restart, a pull, another write. A table without key and a counter that
// only adds (a rewrite of the transform hook) tell of every doubling.
func TestCutAnswers(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		p := startCutProxy(t, r.Address())
		one := open(t, r, func(c *tursosync.Config) {
			c.URL, c.HTTPClient = "http://"+p.addr+pathOf(r), nil
			c.Transform = func(_ context.Context, row tursosync.Row) (tursosync.Decision, error) {
				if row.Table == "tick" {
					return tursosync.Decision{Action: tursosync.Rewrite, SQL: `UPDATE counter SET n = n + ?`, Args: []any{row.After["n"]}}, nil
				}
				return tursosync.Decision{}, nil
			}
		})
		two := open(t, r)
		one.exec(`CREATE TABLE bag(n)`, `CREATE TABLE tick(n)`, `CREATE TABLE counter(n INTEGER)`, `INSERT INTO counter VALUES (0)`)
		one.sync()
		two.sync()
		const positions = 24
		for i := range positions {
			one.exec(fmt.Sprintf(`INSERT INTO bag VALUES (%d)`, i), `INSERT INTO tick VALUES (1)`)
			p.next(isPush, func(answer int) int { return min(answer*i/(positions-1), answer-1) })
			if err := one.r.Push(t.Context()); err == nil {
				t.Errorf("position %d: push without a whole answer succeeded", i)
			}
			switch i % 6 {
			case 1:
				one.pull()
			case 2:
				one.reopen()
			case 3:
				one.exec(fmt.Sprintf(`UPDATE bag SET n = n + 1000 WHERE n = %d`, i), `INSERT INTO tick VALUES (1)`)
			case 4:
				two.exec(`INSERT INTO bag VALUES (-1)`)
				two.push()
				one.pull()
				one.exec(fmt.Sprintf(`DELETE FROM bag WHERE n = %d`, i))
			case 5:
				restart(r)
				two.exec(`UPDATE bag SET n = -2 WHERE n = -1`)
				two.push()
			}
			if i%2 == 0 {
				one.push()
			}
		}
		for i := range 12 {
			two.exec(fmt.Sprintf(`INSERT INTO bag VALUES (%d)`, 100+i))
			two.push()
			before := queryRows(t, one.db, `SELECT n FROM bag ORDER BY n`)
			p.next(isPull, func(answer int) int { return min(answer*i/11, answer-1) })
			if err := one.r.Pull(t.Context()); err == nil {
				t.Errorf("position %d: pull without a whole answer succeeded", i)
			}
			one.want(`SELECT n FROM bag ORDER BY n`, before...)
			if i%4 == 3 {
				one.reopen()
			}
		}
		if p.cuts != positions+12 {
			t.Errorf("%d answers were cut, want %d", p.cuts, positions+12)
		}
		converge(t, r, one, two)
		two.want(`SELECT n FROM counter`, fmt.Sprint(positions+positions/6))
		two.want(`SELECT count(*), count(DISTINCT n) FROM bag WHERE n >= 0`, fmt.Sprintf("%d|%[1]d", positions-positions/6+12))
		two.want(`SELECT count(*) FROM bag WHERE n < 0`, fmt.Sprint(positions/6))
	})
}

// TestAdoption: an existing file full of data becomes a replica of an empty
// remote, and nothing of it is overwritten; a remote that is not empty is left
// alone until somebody says what is to happen.
func TestAdoption(t *testing.T) {
	schema := []string{
		`CREATE TABLE item(id TEXT PRIMARY KEY, a, b)`,
		`CREATE TABLE bag(x)`,
		`CREATE TABLE auto(id INTEGER PRIMARY KEY AUTOINCREMENT, v)`,
		`CREATE TABLE log(what)`,
		`CREATE INDEX item_a ON item(a) WHERE b IS NOT NULL`,
		`CREATE VIEW named AS SELECT id FROM item`,
		`INSERT INTO item VALUES ('x', 1, 'größe'), ('y', NULL, x'00ff')`,
		`INSERT INTO bag VALUES (1), (1), (9e999), (-0.0)`,
		`INSERT INTO auto(v) VALUES ('a'), ('b')`, `DELETE FROM auto WHERE v = 'b'`,
		`CREATE TRIGGER item_ins AFTER INSERT ON item BEGIN INSERT INTO log VALUES (new.id); END`,
		`INSERT INTO item VALUES ('z', 3, 3)`,
	}
	existing := func(t *testing.T, pragmas string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "old.db")
		db, err := sql.Open("sqlite3", path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		db.SetMaxOpenConns(1)
		for _, s := range append([]string{pragmas}, schema...) {
			if _, err := db.Exec(s); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
		return path
	}
	at := func(path string, e tursosync.Existing) func(*tursosync.Config) {
		return func(c *tursosync.Config) { c.Path, c.Existing = path, e }
	}
	for name, pragmas := range map[string]string{
		"plain": "PRAGMA journal_mode=DELETE", "WAL": "PRAGMA journal_mode=WAL",
		"pages of 1024 bytes": "PRAGMA page_size=1024", "UTF-16": "PRAGMA encoding='UTF-16'", "auto_vacuum": "PRAGMA auto_vacuum=FULL",
	} {
		t.Run(name, func(t *testing.T) {
			eachRemote(t, func(t *testing.T, r remote) {
				one := open(t, r, at(existing(t, pragmas), ""))
				one.exec(`INSERT INTO item VALUES ('new', 4, 4)`) // before anything was synced
				one.sync()
				one.want(`SELECT id FROM named ORDER BY id`, "new", "x", "y", "z")
				one.want(`SELECT what FROM log`, "z", "new")
				two := open(t, r)
				converge(t, r, one, two)
				two.want(`SELECT id FROM named ORDER BY id`, "new", "x", "y", "z")
				two.want(`SELECT what FROM log`, "z", "new")
			})
		})
	}
	t.Run("remote is not empty", func(t *testing.T) {
		eachRemote(t, func(t *testing.T, r remote) {
			other := open(t, r)
			other.exec(schema[0], `INSERT INTO item VALUES ('x', 'remote', 0), ('remote', 0, 0)`)
			other.sync()
			up, down := existing(t, "PRAGMA journal_mode=WAL"), existing(t, "PRAGMA journal_mode=WAL")
			one := open(t, r, at(up, ""))
			if err := one.trySync(); !errors.Is(err, tursosync.ErrNotReplica) {
				t.Fatalf("sync: %v, want ErrNotReplica", err)
			}
			if s := one.r.Status(); s.State != tursosync.Halted {
				t.Errorf("status is %v, want halted", s)
			}
			one.exec(`INSERT INTO item VALUES ('later', 5, 5)`) // works on
			one.want(`SELECT id FROM item ORDER BY id`, "later", "x", "y", "z")
			if n := len(sqlOf(r).Query(t, `SELECT 1 FROM item`)); n != 2 {
				t.Errorf("the remote has %d rows, want 2 as before", n)
			}

			one.cfg.Existing = tursosync.ExistingUpload
			one.reopen()
			converge(t, r, one, other)
			other.want(`SELECT id, a FROM item ORDER BY id`, "later|5", "remote|0", "x|1", "y|<nil>", "z|3")

			two := open(t, r, at(down, tursosync.ExistingDownload))
			converge(t, r, two)
			two.want(`SELECT count(*) FROM item`, "5")
			backups, err := filepath.Glob(down + "-backup-*")
			if err != nil || len(backups) != 1 {
				t.Fatalf("backups: %q, %v, want one", backups, err)
			}
			kept, err := sql.Open("sqlite3", backups[0])
			if err != nil {
				t.Fatal(err)
			}
			defer kept.Close()
			if got := queryRows(t, kept, `SELECT id FROM item ORDER BY id`); strings.Join(got, " ") != "x y z" {
				t.Errorf("the backup has %q", got)
			}
		})
	})
}

// TestMVCC: a database that cannot be synced by pages is refused by name, not
// taken for an empty one.
func TestMVCC(t *testing.T) {
	r := startTursodb(t)
	realtest.Exec(t, r.URL, `PRAGMA journal_mode = 'mvcc'`, `CREATE TABLE t(id INTEGER PRIMARY KEY)`, `INSERT INTO t VALUES (1)`)
	one := open(t, r)
	err := one.r.Pull(t.Context())
	t.Logf("pull: %v", err)
	if err == nil || !strings.Contains(err.Error(), "MVCC") {
		t.Errorf("pull: %v, want an error that says MVCC", err)
	}
	if s := one.r.Status(); s.State != tursosync.Halted {
		t.Errorf("status is %v, want halted", s)
	}
}

// TestTriggerEffects: effects of triggers reach the remote once, be they nested,
// on deletes and updates, or counters.
func TestTriggerEffects(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		one.exec(`CREATE TABLE t(id TEXT PRIMARY KEY, n INTEGER)`, `CREATE TABLE total(n INTEGER)`, `CREATE TABLE audit(what TEXT)`,
			`INSERT INTO total VALUES (0)`,
			`CREATE TRIGGER t_ins AFTER INSERT ON t BEGIN UPDATE total SET n = n + new.n; END`,
			`CREATE TRIGGER t_upd AFTER UPDATE ON t BEGIN UPDATE total SET n = n + new.n - old.n; END`,
			`CREATE TRIGGER t_del BEFORE DELETE ON t BEGIN UPDATE total SET n = n - old.n; END`,
			`CREATE TRIGGER total_upd AFTER UPDATE ON total BEGIN INSERT INTO audit VALUES (old.n || ' to ' || new.n); END`)
		converge(t, r, one, two)
		one.exec(`INSERT INTO t VALUES ('a', 1)`, `INSERT INTO t VALUES ('b', 10)`, `UPDATE t SET n = 2 WHERE id = 'a'`, `DELETE FROM t WHERE id = 'b'`)
		converge(t, r, one, two)
		two.want(`SELECT n FROM total`, "2")
		two.want(`SELECT what FROM audit`, "0 to 1", "1 to 11", "11 to 12", "12 to 2")
		two.exec(`INSERT INTO t VALUES ('c', 100)`)
		one.exec(`CREATE TABLE elsewhere(x)`)
		one.push()
		two.pull() // replays without triggers
		two.want(`SELECT n FROM total`, "102")
		converge(t, r, one, two)
		two.want(`SELECT n FROM total`, "102")
		two.want(`SELECT count(*) FROM audit`, "5")
		two.exec(`DROP TRIGGER total_upd`, `UPDATE t SET n = 0`)
		converge(t, r, one, two)
		one.want(`SELECT n FROM total`, "0")
		one.want(`SELECT count(*) FROM audit`, "5")
	})
}

// TestForeignKeys: cascades are captured row by row, and replay does not cascade
// once more.
func TestForeignKeys(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		fk := func(c *tursosync.Config) { c.Options = url.Values{"_foreign_keys": {"1"}} }
		one, two := open(t, r, fk), open(t, r, fk)
		one.exec(`CREATE TABLE parent(id TEXT PRIMARY KEY)`,
			`CREATE TABLE child(id INTEGER PRIMARY KEY, p TEXT REFERENCES parent(id) ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED)`,
			`CREATE TABLE weak(p TEXT REFERENCES parent(id) ON DELETE SET NULL ON UPDATE CASCADE)`,
			`INSERT INTO parent VALUES ('a'), ('b'), ('c')`,
			`INSERT INTO child VALUES (1, 'a'), (2, 'a'), (3, 'b'), (4, 'c')`,
			`INSERT INTO weak VALUES ('a'), ('b')`)
		converge(t, r, one, two)
		one.exec(`DELETE FROM parent WHERE id = 'a'`)
		two.exec(`UPDATE parent SET id = 'bb' WHERE id = 'b'`, `BEGIN; INSERT INTO child VALUES (5, 'd'); INSERT INTO parent VALUES ('d'); COMMIT`)
		if _, err := two.db.Exec(`INSERT INTO child VALUES (6, 'nobody')`); err == nil {
			t.Error("a child without parent was taken")
		}
		converge(t, r, one, two)
		one.want(`SELECT id, p FROM child ORDER BY id`, "3|bb", "4|c", "5|d")
		one.want(`SELECT p FROM weak ORDER BY p`, "<nil>", "bb")
		one.exec(`DELETE FROM parent`)
		converge(t, r, one, two)
		two.want(`SELECT count(*) FROM child`, "0")
	})
}

// TestForeignWrites: rows that another program wrote into the file are found by
// comparison and pushed, be it while the replica is open or while it is closed.
func TestForeignWrites(t *testing.T) {
	shell, err := exec.LookPath("sqlite3")
	if err != nil {
		realtest.Missing(t, err)
	}
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		one.exec(items, `CREATE TABLE bag(n)`, `INSERT INTO item VALUES ('x', 1, 1)`, `INSERT INTO bag VALUES (1), (2)`)
		converge(t, r, one, two)
		foreign := func(text string) {
			t.Helper()
			if out, err := exec.CommandContext(t.Context(), shell, "-bail", one.path, "PRAGMA busy_timeout=5000;"+text).CombinedOutput(); err != nil {
				t.Fatalf("sqlite3: %v: %s", err, out)
			}
		}
		t.Log("while it is open")
		foreign(`INSERT INTO item VALUES ('foreign', 2, 2); UPDATE item SET a = 'foreign' WHERE id = 'x'; DELETE FROM bag WHERE n = 1; INSERT INTO bag VALUES (3)`)
		one.exec(`INSERT INTO item VALUES ('own', 3, 3)`)
		converge(t, r, one, two)
		two.want(`SELECT id, a FROM item ORDER BY id`, "foreign|2", "own|3", "x|foreign")
		two.want(`SELECT n FROM bag ORDER BY n`, "2", "3")

		t.Log("between own pending changes, and with a pull to come")
		two.exec(`UPDATE item SET b = 'two' WHERE id = 'x'`)
		two.push()
		one.exec(`INSERT INTO bag VALUES (4)`)
		foreign(`UPDATE bag SET n = n + 10; CREATE TABLE made(id INTEGER PRIMARY KEY, v); INSERT INTO made VALUES (1, 'made')`)
		one.exec(`UPDATE bag SET n = 100 WHERE n = 14`)
		one.pull()
		converge(t, r, one, two)
		two.want(`SELECT n FROM bag ORDER BY n`, "12", "13", "100")
		two.want(`SELECT * FROM made`, "1|made")
		two.want(`SELECT a, b FROM item WHERE id = 'x'`, "foreign|two")

		t.Log("while it is closed")
		one.exec(`INSERT INTO item VALUES ('pending', 4, 4)`)
		if err := one.db.Close(); err != nil {
			t.Fatal(err)
		}
		foreign(`DELETE FROM item WHERE id = 'own'; ALTER TABLE made ADD COLUMN w; UPDATE made SET w = 'w'; INSERT INTO bag VALUES (200)`)
		one.open()
		converge(t, r, one, two)
		two.want(`SELECT id FROM item ORDER BY id`, "foreign", "pending", "x")
		two.want(`SELECT * FROM made`, "1|made|w")
		two.want(`SELECT n FROM bag ORDER BY n`, "12", "13", "100", "200")
	})
}
