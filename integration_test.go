package tursosync_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync"
)

// checkpointedCopy copies a database that nobody has open, and its WAL into it.
func checkpointedCopy(t *testing.T, file string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy.db")
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(file + suffix)
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
	db, err := sql.Open("sqlite3", to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return to
}

// side is a replica under test.
type side struct {
	*testing.T
	db   *sql.DB
	r    *tursosync.Replica
	path string
	cfg  tursosync.Config
}

// open opens a replica that syncs on request only, unless edit says otherwise.
func open(t *testing.T, remote remote, edit ...func(*tursosync.Config)) *side {
	t.Helper()
	cfg := tursosync.Config{
		Path: filepath.Join(t.TempDir(), "app.db"),
		Sync: tursosync.SyncManual,
	}
	configure(&cfg, remote)
	for _, e := range edit {
		e(&cfg)
	}
	s := &side{T: t, path: cfg.Path, cfg: cfg}
	s.open()
	t.Cleanup(func() { s.db.Close() })
	return s
}

func (s *side) open() {
	s.Helper()
	c, err := tursosync.NewConnector(s.cfg)
	if err != nil {
		s.Fatal(err)
	}
	s.db = sql.OpenDB(c)
	if s.r, err = tursosync.ReplicaOf(s.db); err != nil {
		s.Fatal(err)
	}
}

func (s *side) reopen() {
	s.Helper()
	if err := s.db.Close(); err != nil {
		s.Fatalf("close: %v", err)
	}
	s.open()
}

func (s *side) exec(statements ...string) {
	s.Helper()
	for _, text := range statements {
		if _, err := s.db.Exec(text); err != nil {
			s.Fatalf("%s: %v", text, err)
		}
	}
}

func (s *side) sync() {
	s.Helper()
	if err := s.trySync(); err != nil {
		s.Fatalf("sync: %v", err)
	}
}

func (s *side) trySync() error {
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	return s.r.Sync(ctx)
}

func (s *side) push() {
	s.Helper()
	if err := s.r.Push(s.Context()); err != nil {
		s.Fatalf("push: %v", err)
	}
}

func (s *side) pull() {
	s.Helper()
	if err := s.r.Pull(s.Context()); err != nil {
		s.Fatalf("pull: %v", err)
	}
}

// want compares a query's rows, as SQL literals.
func (s *side) want(query string, rows ...string) {
	s.Helper()
	got := queryRows(s.T, s.db, query)
	if !slices.Equal(got, rows) {
		s.Errorf("%s\n got %q\nwant %q", query, got, rows)
	}
}

func queryRows(t *testing.T, db *sql.DB, query string) []string {
	t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for i, v := range values {
			if i > 0 {
				b.WriteByte('|')
			}
			switch v := (*v.(*any)).(type) {
			case []byte:
				fmt.Fprintf(&b, "x'%x'", v)
			default:
				fmt.Fprint(&b, v)
			}
		}
		out = append(out, b.String())
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// dump lists schema and rows of the user's tables, rows in a fixed order.
func dump(t *testing.T, db *sql.DB) string {
	t.Helper()
	var b strings.Builder
	tables := queryRows(t, db, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN
		('turso_cdc', 'turso_sync_state', 'turso_sync_rejected') AND name NOT GLOB 'sqlite_*'
		AND name NOT GLOB '__turso_internal_*' ORDER BY name`)
	for _, o := range queryRows(t, db, `SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE tbl_name NOT IN
		('turso_cdc', 'turso_sync_state', 'turso_sync_rejected') AND name NOT GLOB 'sqlite_*'
		AND name NOT GLOB '__turso_internal_*' ORDER BY type, name`) {
		fmt.Fprintln(&b, o)
	}
	for _, table := range tables {
		name := `"` + strings.ReplaceAll(table, `"`, `""`) + `"`
		columns := queryRows(t, db, `SELECT name FROM pragma_table_info('`+strings.ReplaceAll(table, "'", "''")+`')`)
		var exprs []string
		for _, c := range columns {
			c = `"` + strings.ReplaceAll(c, `"`, `""`) + `"`
			exprs = append(exprs, "quote("+c+")")
		}
		rows := queryRows(t, db, `SELECT `+strings.Join(exprs, ", ")+` FROM `+name)
		slices.Sort(rows)
		fmt.Fprintf(&b, "%s:\n%s\n", table, strings.Join(rows, "\n"))
	}
	return b.String()
}

// converge syncs all sides until nothing is left to exchange, and demands that
// they, and the remote, hold the same, and that each base is the remote's file.
func converge(t *testing.T, r remote, sides ...*side) {
	t.Helper()
	for range 2 {
		for _, s := range sides {
			s.sync()
		}
	}
	same(t, r, sides...)
}

// same demands that all sides are equal to each other and to the remote.
func same(t *testing.T, r remote, sides ...*side) {
	t.Helper()
	file := r.Copy(t)
	db, err := sql.Open("sqlite3", file)
	if err != nil {
		t.Fatal(err)
	}
	want := dump(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for i, s := range sides {
		if got := dump(t, s.db); got != want {
			t.Errorf("side %d differs from the remote:\n%s\nremote:\n%s", i, got, want)
		}
		s.want("PRAGMA integrity_check", "ok")
		if got, want := digest(t, s.path+"-base"), digest(t, file); got != want {
			t.Errorf("side %d: base digest %s, want the remote's %s", i, got, want)
		}
	}
}

func digest(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x (%d pages)", sha256.Sum256(b), len(b)/4096)
}

const items = `CREATE TABLE item(id TEXT PRIMARY KEY, a, b)`

func TestBothDirections(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		one.exec(items, `INSERT INTO item VALUES ('x', 1, 'one')`, `CREATE INDEX item_a ON item(a)`)
		one.sync()
		two.sync()
		two.want(`SELECT * FROM item`, "x|1|one")
		two.exec(`INSERT INTO item VALUES ('y', 2.5, x'00ff'), ('z', NULL, '')`, `UPDATE item SET a = 7 WHERE id = 'x'`)
		two.sync()
		one.exec(`INSERT INTO item VALUES ('w', -9223372036854775808, 'größe')`, `DELETE FROM item WHERE id = 'x'`)
		converge(t, r, one, two)
	})
}

// TestValues sends every storage class to its limits.
func TestValues(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		one.exec(`CREATE TABLE v(id TEXT PRIMARY KEY, x)`)
		for i, literal := range []string{
			"NULL", "0", "9223372036854775807", "-9223372036854775808", "0.1", "1e300", "5e-324", "1.0", "9e999", "-9e999",
			"''", "'text'", "'a''b'", "x''", "x'00'", "zeroblob(5000)", "'☃'", "CAST(x'ff' AS TEXT)", "CAST(x'610062' AS TEXT)",
		} {
			one.exec(fmt.Sprintf(`INSERT INTO v VALUES ('%02d', %s)`, i, literal))
		}
		converge(t, r, one, two)
	})
}

func TestTablesWithoutPrimaryKey(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		one.exec(`CREATE TABLE bag(x, y)`)
		converge(t, r, one, two)
		// Both insert before they know of each other: the rowids are the same.
		one.exec(`INSERT INTO bag VALUES (1, 'one'), (2, 'one')`)
		two.exec(`INSERT INTO bag VALUES (1, 'two'), (2, 'two')`)
		one.sync()
		two.exec(`UPDATE bag SET y = 'two, changed' WHERE x = 2`, `DELETE FROM bag WHERE x = 1 AND y = 'two'`)
		converge(t, r, one, two)
		one.want(`SELECT x, y FROM bag ORDER BY x, y`, "1|one", "2|one", "2|two, changed")
		two.exec(`UPDATE bag SET y = 'last' WHERE y = 'one'`)
		converge(t, r, one, two)
		one.want(`SELECT x, y FROM bag ORDER BY x, y`, "1|last", "2|last", "2|two, changed")
	})
}

func TestOfflineWrites(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		r.Stop()
		one, two := open(t, r), open(t, r)
		one.exec(items, `INSERT INTO item VALUES ('one', 1, 1)`)
		two.exec(items, `INSERT INTO item VALUES ('two', 2, 2)`)
		if err := one.r.Push(t.Context()); err == nil {
			t.Error("push without a server succeeded")
		}
		if s := one.r.Status(); s.State != tursosync.Offline {
			t.Errorf("status is %v, want offline", s)
		}
		two.reopen()
		r.Start()
		converge(t, r, one, two)
		r.Stop()
		one.exec(`UPDATE item SET a = 'a' WHERE id = 'two'`)
		two.exec(`UPDATE item SET b = 'b' WHERE id = 'two'`)
		one.reopen()
		r.Start()
		converge(t, r, one, two)
		one.want(`SELECT a, b FROM item WHERE id = 'two'`, "a|b")
		if s := one.r.Status(); s.State != tursosync.Running {
			t.Errorf("status is %v, want running", s)
		}
	})
}

// TestInTheBackground lets the syncer do everything, through a restart of the
// server.
func TestInTheBackground(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		auto := func(c *tursosync.Config) {
			c.Sync, c.SyncInterval = tursosync.SyncAuto, 50*time.Millisecond
		}
		one, two := open(t, r, auto), open(t, r, auto)
		one.exec(items)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		seen := two.r.Events(ctx)
		for i := range 20 {
			one.exec(fmt.Sprintf(`INSERT INTO item VALUES ('one%d', 1, 1)`, i))
		}
		if err := one.r.Wait(ctx); err != nil {
			t.Fatalf("Wait: %v", err)
		}
		for e := range seen {
			if p, ok := e.(tursosync.Pulled); ok && slices.Contains(p.Tables, "item") {
				var n int
				if err := two.db.QueryRow(`SELECT count(*) FROM item`).Scan(&n); err == nil && n == 20 {
					break
				}
			}
		}
		r.Stop()
		one.exec(`INSERT INTO item VALUES ('offline', 1, 1)`)
		r.Start()
		if err := one.r.Wait(ctx); err != nil {
			t.Fatalf("Wait: %v", err)
		}
		converge(t, r, one, two)
	})
}

// TestSameMigration runs the same migrations on both sides, partly before they
// have met.
func TestSameMigration(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		migrations := []string{
			items,
			`CREATE INDEX item_a ON item(a)`,
			`ALTER TABLE item ADD COLUMN c TEXT DEFAULT 'c'`,
			`ALTER TABLE item RENAME COLUMN b TO bb`,
			`CREATE VIEW item_view AS SELECT id, bb FROM item`,
			`DROP VIEW item_view`,
			`ALTER TABLE item RENAME TO thing`,
			`CREATE TABLE later(id INTEGER PRIMARY KEY)`,
			`DROP TABLE later`,
		}
		one.exec(migrations...)
		one.exec(`INSERT INTO thing(id, bb) VALUES ('one', 1)`)
		for i, m := range migrations {
			two.exec(m)
			if i == 0 {
				two.exec(`INSERT INTO item VALUES ('two', 2, 2)`)
			}
		}
		converge(t, r, one, two)
		one.want(`SELECT id, a, bb, c FROM thing ORDER BY id`, "one|<nil>|1|c", "two|2|2|c")
	})
}

func TestSchemaDriftIsReported(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		one.exec(`CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT)`)
		two.exec(`CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB)`)
		one.sync()
		err := two.trySync()
		var drift *tursosync.DriftError
		if !errors.As(err, &drift) || drift.Name != "t" {
			t.Errorf("sync: %v, want a DriftError about t", err)
		}
		if s := two.r.Status(); s.State != tursosync.Halted {
			t.Errorf("status is %v, want halted", s)
		}
		// The way out: somebody decides.
		if err := two.r.Skip(t.Context()); err != nil {
			t.Fatal(err)
		}
		converge(t, r, one, two)
	})
}

// TestConflicts is the table of docs/semantics.md: what one does and pushes, what
// two does without knowing and pushes later, and what is left.
func TestConflicts(t *testing.T) {
	for _, c := range []struct {
		name     string
		one, two string
		want     []string
	}{
		{"different columns", `UPDATE item SET a = 'one'`, `UPDATE item SET b = 'two'`, []string{"x|one|two"}},
		{"same column", `UPDATE item SET a = 'one'`, `UPDATE item SET a = 'two'`, []string{"x|two|0"}},
		{"deleted, updated", `DELETE FROM item`, `UPDATE item SET a = 'two'`, []string{"x|two|0"}},
		{"updated, deleted", `UPDATE item SET a = 'one'`, `DELETE FROM item`, nil},
		{"both deleted", `DELETE FROM item`, `DELETE FROM item`, nil},
		{"both inserted", `INSERT INTO item VALUES ('y', 'one', 1)`, `INSERT INTO item VALUES ('y', 'two', 2)`, []string{"x|0|0", "y|two|2"}},
		{"deleted, replaced", `DELETE FROM item`, `REPLACE INTO item VALUES ('x', 'two', 2)`, []string{"x|two|2"}},
		{"key changed, updated", `UPDATE item SET id = 'y'`, `UPDATE item SET a = 'two'`, []string{"x|two|0", "y|0|0"}},
		{"updated, key changed", `UPDATE item SET a = 'one'`, `UPDATE item SET id = 'y'`, []string{"y|0|0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, pullFirst := range []bool{false, true} {
				t.Run(map[bool]string{false: "push first", true: "pull first"}[pullFirst], func(t *testing.T) {
					eachRemote(t, func(t *testing.T, r remote) {
						one, two := open(t, r), open(t, r)
						one.exec(items, `INSERT INTO item VALUES ('x', 0, 0)`)
						one.sync()
						two.sync()
						one.sync()
						one.exec(c.one)
						two.exec(c.two)
						one.push()
						if pullFirst {
							two.pull()
							two.want(`SELECT * FROM item ORDER BY id`, c.want...)
						}
						converge(t, r, two, one)
						one.want(`SELECT * FROM item ORDER BY id`, c.want...)
					})
				})
			}
		})
	}
}

// TestKeyCollision gives one auto-assigned key to two rows: the last push stays,
// and the other row is in an event.
func TestKeyCollision(t *testing.T) {
	for _, pullFirst := range []bool{false, true} {
		t.Run(map[bool]string{false: "push first", true: "pull first"}[pullFirst], func(t *testing.T) {
			eachRemote(t, func(t *testing.T, r remote) {
				one, two := open(t, r), open(t, r)
				one.exec(`CREATE TABLE auto(id INTEGER PRIMARY KEY, who TEXT)`)
				one.sync()
				two.sync()
				ctx, cancel := context.WithCancel(t.Context())
				events := two.r.Events(ctx)
				one.exec(`INSERT INTO auto(who) VALUES ('one')`)
				two.exec(`INSERT INTO auto(who) VALUES ('two')`)
				one.push()
				if pullFirst {
					two.pull()
				}
				two.sync()
				cancel()
				found := 0
				for e := range events {
					if c, ok := e.(tursosync.Collided); ok {
						found++
						if c.Collision.Key != 1 || c.Collision.Remote["who"] != "one" || c.Collision.Local["who"] != "two" {
							t.Errorf("collision %+v", c.Collision)
						}
					}
				}
				if found != 1 {
					t.Errorf("%d collisions reported, want 1", found)
				}
				converge(t, r, one, two)
				one.want(`SELECT who FROM auto`, "two")
			})
		})
	}
}

// flaky loses answers: the request arrives, its answer does not.
type flaky struct {
	next http.RoundTripper
	lose atomic.Int32 // how many answers of pushes are still to be lost
	lost atomic.Int32
}

func (f *flaky) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	if len(body) > 0 { // another body of length 0 would be sent in chunks
		req.Body = io.NopCloser(bytes.NewReader(body))
	}
	resp, err := f.next.RoundTrip(req)
	if err == nil && bytes.Contains(body, []byte("COMMIT")) && f.lose.Add(-1) >= 0 {
		f.lost.Add(1)
		resp.Body.Close()
		return nil, errors.New("connection reset by peer")
	}
	return resp, err
}

// TestLostAnswers counts what only adds: nothing may be applied twice.
func TestLostAnswers(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		f := &flaky{next: transportOf(r)}
		one := open(t, r, func(c *tursosync.Config) { c.HTTPClient = &http.Client{Transport: f} })
		two := open(t, r)
		one.exec(`CREATE TABLE bag(n)`)
		one.sync()
		for i := range 10 {
			one.exec(fmt.Sprintf(`INSERT INTO bag VALUES (%d)`, i))
			f.lose.Store(1)
			if err := one.r.Push(t.Context()); err == nil {
				t.Error("push without an answer succeeded")
			}
			switch i % 4 {
			case 1:
				one.pull() // the answer to a question asked later
			case 2:
				one.reopen()
			case 3:
				one.exec(`UPDATE bag SET n = n + 100 WHERE n = ` + fmt.Sprint(i))
			}
		}
		if f.lost.Load() == 0 {
			t.Error("no answer was lost")
		}
		f.lose.Store(0)
		converge(t, r, one, two)
		one.want(`SELECT count(*), sum(n) FROM bag`, "10|245")
	})
}

func TestQuarantine(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		one.exec(`CREATE TABLE u(id TEXT PRIMARY KEY, mail TEXT UNIQUE)`)
		one.sync()
		two.sync()
		one.exec(`INSERT INTO u VALUES ('a', 'm@x')`)
		one.push()
		two.exec(`INSERT INTO u VALUES ('b', 'other@x')`, `INSERT INTO u VALUES ('c', 'm@x')`, `INSERT INTO u VALUES ('d', 'third@x')`)
		err := two.r.Push(t.Context())
		var rejected *tursosync.RejectedError
		if !errors.As(err, &rejected) || len(rejected.Rejections) != 1 || !strings.Contains(rejected.Rejections[0].Reason, "UNIQUE") {
			t.Fatalf("push: %v, want one transaction rejected because of UNIQUE", err)
		}
		converge(t, r, one, two)
		one.want(`SELECT id FROM u ORDER BY id`, "a", "b", "d")
		list, err := two.r.Rejected(t.Context())
		if err != nil || len(list) != 1 || list[0].Txn != rejected.Rejections[0].Txn || len(list[0].Changes) != 1 {
			t.Fatalf("Rejected() = %+v, %v", list, err)
		}
		// The way back: make room, and send it once more.
		one.exec(`DELETE FROM u WHERE id = 'a'`)
		one.sync()
		two.sync()
		if err := two.r.Requeue(t.Context(), list[0].Txn); err != nil {
			t.Fatal(err)
		}
		converge(t, r, one, two)
		one.want(`SELECT id FROM u ORDER BY id`, "b", "c", "d")
		if list, err := two.r.Rejected(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("Rejected() = %+v, %v, want none", list, err)
		}
	})
}

// TestSwap exchanges unique values inside one transaction.
func TestSwap(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		one.exec(`CREATE TABLE u(id TEXT PRIMARY KEY, n INTEGER UNIQUE)`, `INSERT INTO u VALUES ('a', 1), ('b', 2)`)
		one.sync()
		one.exec(`BEGIN; UPDATE u SET n = -1 WHERE id = 'a'; UPDATE u SET n = 1 WHERE id = 'b'; UPDATE u SET n = 2 WHERE id = 'a'; COMMIT`)
		one.sync()
		converge(t, r, one, two)
		two.want(`SELECT n FROM u ORDER BY id`, "2", "1")
	})
}

// TestTransform skips, rewrites and keeps, on the way to the remote only.
func TestTransform(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one := open(t, r, func(c *tursosync.Config) {
			c.Transform = func(_ context.Context, row tursosync.Row) (tursosync.Decision, error) {
				switch row.After["a"] {
				case "secret":
					return tursosync.Decision{Action: tursosync.Skip}, nil
				case "upper":
					return tursosync.Decision{Action: tursosync.Rewrite,
						SQL: `INSERT INTO item VALUES (?, ?, 'rewritten')`, Args: []any{row.After["id"], "UPPER"}}, nil
				}
				return tursosync.Decision{}, nil
			}
		})
		two := open(t, r)
		one.exec(items, `INSERT INTO item VALUES ('1', 'secret', 0), ('2', 'upper', 0), ('3', 'plain', 0), ('4', 'secret', 0)`)
		one.push()
		one.want(`SELECT count(*) FROM item`, "4")
		two.sync()
		two.want(`SELECT * FROM item ORDER BY id`, "2|UPPER|rewritten", "3|plain|0")
		converge(t, r, one, two) // what was skipped is not on the remote, and pushed counts as synced
	})
}

// TestManyRows pushes and pulls more than one batch.
func TestManyRows(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		one.exec(items)
		one.exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
			INSERT INTO item SELECT 'k' || i, i, randomblob(100) FROM n`)
		one.exec(`UPDATE item SET a = a + 1 WHERE a % 3 = 0`, `DELETE FROM item WHERE a % 7 = 0`)
		converge(t, r, one, two)
	})
}

// TestTriggers shows that effects of triggers are not doubled.
func TestTriggers(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		one.exec(`CREATE TABLE t(id TEXT PRIMARY KEY, n INTEGER)`, `CREATE TABLE audit(what TEXT)`,
			`CREATE TRIGGER t_ins AFTER INSERT ON t BEGIN INSERT INTO audit VALUES ('insert ' || new.id); END`)
		one.sync()
		two.sync()
		one.exec(`INSERT INTO t VALUES ('a', 1)`)
		two.exec(`INSERT INTO t VALUES ('b', 2)`)
		converge(t, r, one, two)
		one.want(`SELECT what FROM audit ORDER BY what`, "insert a", "insert b")
	})
}
