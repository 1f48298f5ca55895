package replica

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/syncer"
)

// TestPullSchema: both sides change the schema; statements prepared before see
// the new one.
func TestPullSchema(t *testing.T) {
	rem := newRemote(t, people, `INSERT INTO people(id, name) VALUES (1, 'ann')`)
	rep := newReplica(t, Config{})
	pulled(t, rep, rem)
	db, err := sql.Open("sqlite3", rep.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	stmt, err := db.Prepare(`SELECT * FROM people`)
	if err != nil {
		t.Fatal(err)
	}
	columns := func() int {
		rows, err := stmt.Query()
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		names, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	if n := columns(); n != 3 {
		t.Fatalf("columns = %d, want 3", n)
	}
	write(t, rep, `CREATE TABLE mine(a TEXT PRIMARY KEY, b)`, `INSERT INTO mine VALUES ('x', 1.5)`, `CREATE INDEX people_name ON people(name)`)
	rem.exec(`ALTER TABLE people ADD COLUMN mail TEXT`, `CREATE TABLE theirs(a)`, `INSERT INTO theirs VALUES (zeroblob(20000))`)
	report := pulled(t, rep, rem)
	if want := []string{"people", "theirs"}; !slices.Equal(report.Tables, want) {
		t.Errorf("Tables = %v, want %v", report.Tables, want)
	}
	if n := columns(); n != 4 {
		t.Errorf("columns of a prepared statement after the pull = %d, want 4", n)
	}
	wantRows(t, rep, `SELECT name FROM sqlite_schema WHERE name NOT LIKE '%turso%' ORDER BY name`, "mine", "people", "people_name", "sqlite_autoindex_mine_1", "theirs")
	rem.push(rep, syncer.Limits{})
	pulled(t, rep, rem)
	rem.exec(`DROP TABLE theirs`, `DELETE FROM people`, `VACUUM`)
	pulled(t, rep, rem)
	wantRows(t, rep, `SELECT * FROM mine`, "x 1.5")
	wantRows(t, rep, `SELECT count(*) FROM people`, "0")
}

// TestPullTables: only the tables whose pages changed are named.
func TestPullTables(t *testing.T) {
	fill := `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<3000) INSERT INTO %s SELECT i, hex(randomblob(40)) FROM n`
	rem := newRemote(t, `CREATE TABLE a(id INTEGER PRIMARY KEY, x)`, `CREATE INDEX ax ON a(x)`, `CREATE TABLE b(id INTEGER PRIMARY KEY, x)`,
		`CREATE TABLE c(id INTEGER PRIMARY KEY, x)`, fmt.Sprintf(fill, "a"), fmt.Sprintf(fill, "b"), fmt.Sprintf(fill, "c"))
	rep := newReplica(t, Config{})
	pulled(t, rep, rem)
	for _, c := range []struct {
		name string
		sql  string
		want []string
	}{
		{"a leaf", `UPDATE b SET x = 'new' WHERE id = 1500`, []string{"b"}},
		{"with index", `UPDATE a SET x = 'new' WHERE id = 2000`, []string{"a"}},
		{"delete all", `DELETE FROM c`, []string{"c"}},
		{"grow from the freelist", `INSERT INTO b SELECT id + 10000, x FROM b WHERE id < 500`, []string{"b"}},
		{"overflow pages", `INSERT INTO c VALUES (1, zeroblob(30000))`, []string{"a", "b", "c"}},
	} {
		rem.exec(c.sql)
		if report := pulled(t, rep, rem); !slices.Equal(report.Tables, c.want) {
			t.Errorf("%s: Tables = %v, want %v", c.name, report.Tables, c.want)
		}
	}
}

// TestPullRollbackJournal: a remote in rollback-journal mode has format bytes
// 1,1; base keeps them, live gets 2,2.
func TestPullRollbackJournal(t *testing.T) {
	rem := newRemote(t, people, `INSERT INTO people(id, name) VALUES (1, 'ann')`)
	if _, err := rem.conn.one(`PRAGMA journal_mode=DELETE`); err != nil {
		t.Fatal(err)
	}
	rem.commit()
	rep := newReplica(t, Config{})
	pulled(t, rep, rem)
	write(t, rep, `INSERT INTO people(id, name) VALUES (2, 'bob')`)
	rem.exec(`INSERT INTO people(id, name) VALUES (3, 'eve')`)
	pulled(t, rep, rem)
	wantRows(t, rep, `SELECT name FROM people ORDER BY id`, "ann", "bob", "eve")
	wantRows(t, rep, `PRAGMA journal_mode`, "wal")
	if err := rep.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	invariant(t, rep)
	rem.push(rep, syncer.Limits{})
	pulled(t, rep, rem)
	if b := contents(t, rep.files.base()); b[18] != 1 {
		t.Errorf("base's format byte = %d, want 1", b[18])
	}
}

// TestReadersDuringPulls: readers never fail and never see a state between two
// revisions, nor one without the pending changes.
func TestReadersDuringPulls(t *testing.T) {
	rem := newRemote(t, `CREATE TABLE a(id INTEGER PRIMARY KEY, v INTEGER)`, `CREATE TABLE b(id INTEGER PRIMARY KEY, v INTEGER, pad)`,
		`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200) INSERT INTO a SELECT i, 0 FROM n`,
		`INSERT INTO b SELECT id, 0, randomblob(300) FROM a`)
	rep := newReplica(t, Config{CheckpointBytes: 64 << 10})
	pulled(t, rep, rem)
	write(t, rep, `CREATE TABLE mine(x)`, `INSERT INTO mine VALUES (1)`)

	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			db, err := sql.Open("sqlite3", rep.Path()+"?_busy_timeout=0")
			if err != nil {
				t.Error(err)
				return
			}
			defer db.Close()
			for n := 0; ; n++ {
				select {
				case <-stop:
					if n == 0 {
						t.Error("no read at all")
					}
					return
				default:
				}
				tx, err := db.Begin()
				if err != nil {
					t.Error(err)
					return
				}
				var a, b, mine int
				err = errors.Join(tx.QueryRow(`SELECT sum(v) FROM a`).Scan(&a), tx.QueryRow(`SELECT sum(v) FROM b`).Scan(&b),
					tx.QueryRow(`SELECT count(*) FROM mine`).Scan(&mine), tx.Rollback())
				if err != nil || a != b || mine < 1 {
					t.Errorf("read: a = %d, b = %d, mine = %d, %v", a, b, mine, err)
					return
				}
			}
		}()
	}
	for i := range 60 {
		rem.exec(fmt.Sprintf(`BEGIN; UPDATE a SET v = v + %d WHERE id %% 7 = %d; UPDATE b SET v = v + %[1]d WHERE id %% 7 = %[2]d; COMMIT`, i, i%7))
		if i%9 == 0 {
			rem.exec(fmt.Sprintf(`CREATE TABLE more%d(x)`, i))
			write(t, rep, fmt.Sprintf(`INSERT INTO mine VALUES (%d)`, i))
		}
		if _, err := rep.Pull(t.Context(), rem.fetch, syncer.PullOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	sameBase(t, rep, rem)
	invariant(t, rep)
}

// TestWritersDuringPulls: what is committed while a pull stages is in live, and
// in the log, afterwards.
func TestWritersDuringPulls(t *testing.T) {
	rem := newRemote(t, people, `CREATE TABLE bag(x)`)
	rep := newReplica(t, Config{})
	pulled(t, rep, rem)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 150 {
			write(t, rep, fmt.Sprintf(`INSERT INTO people(name) VALUES ('local %d')`, i), fmt.Sprintf(`INSERT INTO bag VALUES (%d)`, i))
		}
	}()
	running := true
	for i := 0; running || i == 0; i++ {
		rem.exec(fmt.Sprintf(`INSERT INTO people(id, name) VALUES (%d, 'remote')`, -1-i))
		if _, err := rep.Pull(t.Context(), rem.fetch, syncer.PullOptions{}); err != nil {
			t.Fatal(err)
		}
		rem.push(rep, syncer.Limits{Changes: 20})
		select {
		case <-done:
			running = false
		default:
		}
	}
	for rem.push(rep, syncer.Limits{}) > 0 {
	}
	pulled(t, rep, rem)
	wantRows(t, rep, `SELECT count(DISTINCT name) FROM people WHERE name LIKE 'local%'`, "150")
	wantRows(t, rep, `SELECT count(*), count(DISTINCT x) FROM bag`, "150 150")
	wantRows(t, rep, `SELECT count(*) FROM turso_cdc`, "0")
}

// TestLateAnswer: an answer from before a push, applied after it (PROTOCOL §4.5),
// doubles nothing and loses nothing.
func TestLateAnswer(t *testing.T) {
	rem := newRemote(t, people, `CREATE TABLE bag(x)`)
	rep := newReplica(t, Config{})
	pulled(t, rep, rem)
	write(t, rep, `INSERT INTO bag VALUES ('a'), ('b')`)
	rem.exec(`INSERT INTO bag VALUES ('r')`)
	stale := *rem // as the remote was when the answer was made
	stale.revs = slices.Clone(rem.revs)
	if n := rem.push(rep, syncer.Limits{}); n != 2 {
		t.Fatalf("pushed %d", n)
	}
	if _, err := rep.Pull(t.Context(), stale.fetch, syncer.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	invariant(t, rep)
	wantRows(t, rep, `SELECT x FROM bag ORDER BY x`, "a", "b", "r")
	if n := rem.push(rep, syncer.Limits{}); n != 0 {
		t.Errorf("%d changes are sent again", n)
	}
	pulled(t, rep, rem)
	wantRows(t, rep, `SELECT x FROM bag ORDER BY x`, "a", "b", "r")
}

// TestHostileAnswers: each is a typed error, live stays as it is, and the next good
// answer is taken.
func TestHostileAnswers(t *testing.T) {
	clone := func(b []byte) []byte { return append([]byte(nil), b...) }
	first := func(change func(b []byte)) func(h *syncer.PullHeader, pages map[page.No][]byte) {
		return func(h *syncer.PullHeader, pages map[page.No][]byte) {
			if pages[1] == nil {
				t.Error("page 1 is not among the pages")
				return
			}
			pages[1] = clone(pages[1])
			change(pages[1])
		}
	}
	for _, c := range []struct {
		name   string
		mangle func(h *syncer.PullHeader, pages map[page.No][]byte)
		want   error
	}{
		{"page behind the end", func(h *syncer.PullHeader, p map[page.No][]byte) { p[page.No(h.PageCount+1)] = make([]byte, page.Size) }, ErrBadAnswer},
		{"page far behind", func(h *syncer.PullHeader, p map[page.No][]byte) { p[1<<32-1] = make([]byte, page.Size) }, ErrBadAnswer},
		{"page 0", func(h *syncer.PullHeader, p map[page.No][]byte) { p[0] = make([]byte, page.Size) }, ErrBadAnswer},
		{"short page", func(h *syncer.PullHeader, p map[page.No][]byte) { p[2] = make([]byte, 100) }, ErrBadAnswer},
		{"size too small", func(h *syncer.PullHeader, p map[page.No][]byte) { h.PageCount-- }, ErrBadAnswer},
		{"size too large", func(h *syncer.PullHeader, p map[page.No][]byte) { h.PageCount += 5 }, ErrBadAnswer},
		{"size absurd", func(h *syncer.PullHeader, p map[page.No][]byte) { h.PageCount = 1 << 40 }, ErrBadAnswer},
		{"size huge", func(h *syncer.PullHeader, p map[page.No][]byte) { h.PageCount = 1<<32 - 3 }, ErrBadAnswer},
		{"revision of a megabyte", func(h *syncer.PullHeader, p map[page.No][]byte) {
			h.Revision = page.Revision(strings.Repeat("x", 1<<20))
		}, ErrBadAnswer},
		{"not SQLite", first(func(b []byte) { copy(b, "<html>") }), ErrBadAnswer},
		{"other page size", first(func(b []byte) { b[16], b[17] = 0x20, 0 }), ErrBadAnswer},
		{"MVCC", first(func(b []byte) { b[18], b[19] = 0xff, 0xff }), ErrUnsupportedRemote},
		{"encrypted", first(func(b []byte) { b[20] = 28 }), ErrUnsupportedRemote},
		{"UTF-16", first(func(b []byte) { b[59] = 2 }), ErrUnsupportedRemote},
		{"format 3", first(func(b []byte) { b[18], b[19] = 3, 3 }), ErrUnsupportedRemote},
		{"page 1 denies the size", first(func(b []byte) { b[31]++ }), ErrBadAnswer},
	} {
		for _, bootstrap := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s bootstrap=%v", c.name, bootstrap), func(t *testing.T) {
				rem := newRemote(t, people, `INSERT INTO people(name) VALUES ('ann')`)
				rep := newReplica(t, Config{})
				write(t, rep, `CREATE TABLE mine(x)`, `INSERT INTO mine VALUES (1)`)
				if !bootstrap {
					pulled(t, rep, rem)
					rem.exec(`CREATE TABLE more(x)`, `INSERT INTO people(name) VALUES (hex(randomblob(5000)))`)
				}
				rem.mangle = c.mangle
				before := rep.state()
				_, err := rep.Pull(t.Context(), rem.fetch, syncer.PullOptions{})
				if !errors.Is(err, c.want) {
					t.Errorf("Pull = %v, want %v", err, c.want)
				}
				if after := rep.state(); !sameFields(before.fields(), after.fields()) {
					t.Errorf("state changed: %v to %v", before.fields(), after.fields())
				}
				invariant(t, rep)
				wantRows(t, rep, `SELECT x FROM mine`, "1")
				rem.mangle = nil
				pulled(t, rep, rem)
				wantRows(t, rep, `SELECT x FROM mine`, "1")
			})
		}
	}
}

// TestGarbagePages: page images of garbage never damage live in a bootstrap.
func TestGarbagePages(t *testing.T) {
	rem := newRemote(t, people, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2000) INSERT INTO people(name) SELECT hex(randomblob(30)) FROM n`)
	rep := newReplica(t, Config{})
	write(t, rep, `CREATE TABLE mine(x)`)
	rem.mangle = func(h *syncer.PullHeader, pages map[page.No][]byte) {
		for no := range pages {
			if no%5 == 3 {
				pages[no] = []byte(strings.Repeat("garbage!", page.Size/8))
			}
		}
	}
	if _, err := rep.Pull(t.Context(), rem.fetch, syncer.PullOptions{}); !errors.Is(err, ErrBadAnswer) {
		t.Errorf("Pull = %v, want ErrBadAnswer", err)
	}
	invariant(t, rep)
	rem.mangle = nil
	pulled(t, rep, rem)
}

func TestReplaceBase(t *testing.T) {
	rem := newRemote(t, people, `INSERT INTO people(id, name) VALUES (1, 'ann')`)
	rep := newReplica(t, Config{})
	pulled(t, rep, rem)
	write(t, rep, `INSERT INTO people(id, name) VALUES (5, 'mine')`)
	rem.exec(`INSERT INTO people(id, name) VALUES (2, 'bob')`)
	rem.replace = true
	pulled(t, rep, rem)
	wantRows(t, rep, `SELECT name FROM people`, "ann", "bob", "mine")
}

func TestRebootstrap(t *testing.T) {
	rem := newRemote(t, people, `INSERT INTO people(id, name) VALUES (1, 'ann')`)
	rep := newReplica(t, Config{})
	pulled(t, rep, rem)
	write(t, rep, `INSERT INTO people(id, name) VALUES (5, 'mine')`)
	if err := rep.Rebootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := len(rem.requests)
	report := pulled(t, rep, rem)
	if req := rem.requests[n]; req.Have != "" {
		t.Errorf("request has revision %q, want none", req.Have)
	}
	if report.RemoteReset || report.Changed {
		t.Errorf("report = %+v, want neither reset nor change", report)
	}
	wantRows(t, rep, `SELECT name FROM people`, "ann", "mine")
}

// TestRemoteReset: the remote was restarted from nothing.
func TestRemoteReset(t *testing.T) {
	rem := newRemote(t, people, `INSERT INTO people(id, name) VALUES (1, 'ann')`, `INSERT INTO people(id, name) VALUES (2, 'bob')`)
	rep := newReplica(t, Config{})
	pulled(t, rep, rem)
	write(t, rep, `INSERT INTO people(id, name) VALUES (5, 'mine')`)
	rem.push(rep, syncer.Limits{})
	pulled(t, rep, rem)
	write(t, rep, `CREATE TABLE later(x)`, `INSERT INTO later VALUES (6)`)
	rem.wipe()
	report := pulled(t, rep, rem)
	if !report.RemoteReset || !report.WantWatermark || !report.Changed {
		t.Errorf("report = %+v, want a reset", report)
	}
	wantRows(t, rep, `SELECT name FROM sqlite_schema WHERE name NOT LIKE '%turso%'`, "later")
	found := false
	for _, e := range dirEntries(t, rep) {
		found = found || strings.Contains(e, "-backup-")
	}
	if !found {
		t.Error("no copy of what the remote held is kept")
	}
	// The watermark is gone: a new client id, and the log is pending.
	id := rep.state().clientID
	if renewed, err := rep.Reconcile(t.Context(), 0, false); err != nil || !renewed {
		t.Errorf("Reconcile = %v, %v, want renewed", renewed, err)
	}
	if rep.state().clientID == id {
		t.Error("client id is the old one")
	}
	rem.push(rep, syncer.Limits{})
	pulled(t, rep, rem)
	wantRows(t, rep, `SELECT x FROM later`, "6")
}

func dirEntries(t *testing.T, rep *Replica) []string {
	t.Helper()
	list, err := os.ReadDir(strings.TrimSuffix(rep.files.live, "app.db"))
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(list))
	for i, e := range list {
		names[i] = e.Name()
	}
	return names
}

// TestRemoteWentBack: the remote was restored from a backup, and has gone on
// since; its revisions look like a continuation.
func TestRemoteWentBack(t *testing.T) {
	rem := newRemote(t, people, `INSERT INTO people(id, name) VALUES (1, 'ann')`)
	backup := contents(t, rem.path)
	rep := newReplica(t, Config{})
	pulled(t, rep, rem)
	write(t, rep, `INSERT INTO people(id, name) VALUES (5, 'mine')`)
	rem.push(rep, syncer.Limits{})
	pulled(t, rep, rem)
	revs := rem.revs
	rem.conn.Close()
	if err := os.WriteFile(rem.path, backup, 0o644); err != nil {
		t.Fatal(err)
	}
	rem.start()
	rem.revs = revs
	rem.exec(`INSERT INTO people(id, name) VALUES (2, 'restored')`)
	report := pulled(t, rep, rem)
	if !report.RemoteReset || !report.WantWatermark {
		t.Errorf("report = %+v, want a reset", report)
	}
	wantRows(t, rep, `SELECT name FROM people`, "ann", "restored")
	// What the remote lost is not lost for good.
	kept, err := filepath.Glob(rep.files.live + "-backup-*")
	if err != nil || len(kept) != 1 {
		t.Fatalf("copies of the old base: %v, %v", kept, err)
	}
	db, err := sql.Open("sqlite3", kept[0])
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var names string
	if err := db.QueryRow(`SELECT group_concat(name) FROM people`).Scan(&names); err != nil || names != "ann,mine" {
		t.Errorf("the copy holds %q, %v", names, err)
	}
}

// TestReplayFiresNoTrigger: what triggers did is in the log, by itself.
func TestReplayFiresNoTrigger(t *testing.T) {
	rem := newRemote(t, people, `CREATE TABLE audit(what)`,
		`CREATE TRIGGER hired AFTER INSERT ON people BEGIN INSERT INTO audit VALUES ('hired ' || new.name); END`)
	rep := newReplica(t, Config{})
	pulled(t, rep, rem)
	write(t, rep, `INSERT INTO people(id, name) VALUES (1, 'mine')`)
	rem.exec(`INSERT INTO people(id, name) VALUES (2, 'theirs')`)
	pulled(t, rep, rem)
	wantRows(t, rep, `SELECT what FROM audit ORDER BY what`, "hired mine", "hired theirs")
}

// TestRejectedByReplay: a pending transaction that violates a constraint on the
// new base is put aside, and can be queued again.
func TestRejectedByReplay(t *testing.T) {
	rem := newRemote(t, `CREATE TABLE u(id INTEGER PRIMARY KEY, mail TEXT UNIQUE)`)
	rep := newReplica(t, Config{})
	pulled(t, rep, rem)
	write(t, rep, `INSERT INTO u VALUES (1, 'a@x')`)
	write(t, rep, `INSERT INTO u VALUES (2, 'b@x')`)
	rem.exec(`INSERT INTO u VALUES (9, 'a@x')`)
	report := pulled(t, rep, rem)
	if len(report.Rejected) != 1 || report.Rejected[0].Txn != 1 || report.Rejected[0].Reason == "" || len(report.Rejected[0].Changes) != 1 {
		t.Fatalf("Rejected = %+v, want transaction 1", report.Rejected)
	}
	wantRows(t, rep, `SELECT id, mail FROM u`, "2 b@x", "9 a@x")
	list, err := rep.Rejected(t.Context())
	if err != nil || len(list) != 1 || list[0].Txn != 1 || list[0].Reason != report.Rejected[0].Reason || len(list[0].Changes) != 1 {
		t.Fatalf("Rejected() = %+v, %v", list, err)
	}
	if m, err := rep.Measure(t.Context()); err != nil || m.Rejected != 1 || m.PendingChanges != 1 || m.LastChange != 2 {
		t.Errorf("Measure = %+v, %v", m, err)
	}
	if err := rep.Requeue(t.Context(), 1); err == nil {
		t.Error("Requeue of what still violates the constraint succeeds")
	}
	invariant(t, rep)
	if list, err = rep.Rejected(t.Context()); err != nil || len(list) != 1 || list[0].Txn != 3 {
		t.Fatalf("Rejected() after Requeue = %+v, %v, want transaction 3", list, err)
	}
	rem.exec(`DELETE FROM u WHERE id = 9`)
	pulled(t, rep, rem)
	if err := rep.Requeue(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	invariant(t, rep)
	wantRows(t, rep, `SELECT id, mail FROM u`, "1 a@x", "2 b@x")
	rem.push(rep, syncer.Limits{})
	pulled(t, rep, rem)
	wantRows(t, rep, `SELECT id, mail FROM u`, "1 a@x", "2 b@x")
	wantRows(t, rep, `SELECT count(*) FROM turso_sync_rejected`, "0")
}

// TestReplayHalts: policy halt, and disagreements about the schema under either
// policy, change nothing until the transaction is put aside.
func TestReplayHalts(t *testing.T) {
	for _, c := range []struct {
		name   string
		halt   bool
		local  string
		remote string
	}{
		{"constraint", true, `INSERT INTO u VALUES (1, 'a@x')`, `INSERT INTO u VALUES (9, 'a@x')`},
		{"schema", false, `INSERT INTO u VALUES (1, 'a@x')`, `DROP TABLE u`},
	} {
		t.Run(c.name, func(t *testing.T) {
			rem := newRemote(t, `CREATE TABLE u(id INTEGER PRIMARY KEY, mail TEXT UNIQUE)`, `CREATE TABLE v(x)`)
			rep := newReplica(t, Config{HaltOnRejection: c.halt})
			pulled(t, rep, rem)
			write(t, rep, c.local)
			write(t, rep, `INSERT INTO v VALUES (1)`)
			before := rep.state()
			rem.exec(c.remote)
			for range 2 {
				_, err := rep.Pull(t.Context(), rem.fetch, syncer.PullOptions{})
				var replay *syncer.ReplayError
				if !errors.As(err, &replay) || replay.Txn != 1 || len(replay.Changes) != 1 {
					t.Fatalf("Pull = %v, want a ReplayError of transaction 1", err)
				}
			}
			if after := rep.state(); !sameFields(before.fields(), after.fields()) {
				t.Errorf("state changed: %v to %v", before.fields(), after.fields())
			}
			invariant(t, rep)
			wantRows(t, rep, `SELECT id, mail FROM u`, "1 a@x")
			if _, err := rep.Reject(t.Context(), []cdc.ID{1}, "skipped"); err != nil {
				t.Fatal(err)
			}
			invariant(t, rep)
			pulled(t, rep, rem)
			wantRows(t, rep, `SELECT x FROM v`, "1")
			wantRows(t, rep, `SELECT txn_id, reason FROM turso_sync_rejected`, "1 skipped")
		})
	}
}

// TestReject: rows of a rejected transaction, and of those that need it, leave
// live; the others stay.
func TestReject(t *testing.T) {
	rem := newRemote(t, people)
	rep := newReplica(t, Config{})
	pulled(t, rep, rem)
	write(t, rep, `CREATE TABLE refused(x)`)
	write(t, rep, `INSERT INTO refused VALUES (1)`)
	write(t, rep, `INSERT INTO people(id, name) VALUES (1, 'ann')`)
	if _, err := rep.Reject(t.Context(), []cdc.ID{1}, "not authorized"); err != nil {
		t.Fatal(err)
	}
	invariant(t, rep)
	wantRows(t, rep, `SELECT name FROM sqlite_schema WHERE name = 'refused'`)
	wantRows(t, rep, `SELECT name FROM people`, "ann")
	wantRows(t, rep, `SELECT txn_id FROM turso_sync_rejected ORDER BY 1`, "1", "2")
	if n := rem.push(rep, syncer.Limits{}); n != 1 {
		t.Errorf("pushed %d, want 1", n)
	}
	pulled(t, rep, rem)
}

func TestCancelledPull(t *testing.T) {
	rem := newRemote(t, people, `INSERT INTO people(id, name) VALUES (1, 'ann')`)
	rep := newReplica(t, Config{})
	ctx, cancel := context.WithCancelCause(t.Context())
	rem.duringAns = func() { cancel(errBroken) }
	if _, err := rep.Pull(ctx, rem.fetch, syncer.PullOptions{}); err == nil {
		t.Error("a cancelled pull succeeds")
	}
	invariant(t, rep)
	rem.duringAns = nil
	pulled(t, rep, rem)
}

// TestVirtualTables: virtual tables of the remote are pages like others, also
// when this program lacks their module.
func TestVirtualTables(t *testing.T) {
	rem := newRemote(t, people, `CREATE VIRTUAL TABLE f USING fts4(x)`, `INSERT INTO f VALUES ('one two'), ('three')`, `CREATE VIRTUAL TABLE r USING rtree(id, a, b)`)
	cli(t, rem.path, `CREATE VIRTUAL TABLE five USING fts5(x)`, `INSERT INTO five VALUES ('four')`)
	rem.commit()
	rep := newReplica(t, Config{})
	if _, err := rep.Pull(t.Context(), rem.fetch, syncer.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	sameBase(t, rep, rem)
	wantRows(t, rep, `SELECT x FROM f WHERE f MATCH 'two'`, "one two")
	write(t, rep, `INSERT INTO people(id, name) VALUES (1, 'mine')`)
	rem.exec(`INSERT INTO f VALUES ('two more')`, `INSERT INTO r VALUES (1, 2, 3)`)
	if _, err := rep.Pull(t.Context(), rem.fetch, syncer.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	sameBase(t, rep, rem)
	wantRows(t, rep, `SELECT x FROM f WHERE f MATCH 'two'`, "one two", "two more")
	wantRows(t, rep, `SELECT name FROM people`, "mine")
	cli(t, rep.Path(), `UPDATE people SET n = 4`)
	rem.exec(`INSERT INTO f VALUES ('last two')`)
	if _, err := rep.Pull(t.Context(), rem.fetch, syncer.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	wantRows(t, rep, `SELECT n FROM people`, "4")
	rem.push(rep, syncer.Limits{})
}
