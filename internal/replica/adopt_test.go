package replica

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/syncer"
)

// existing makes a plain file full of data.
func existing(t *testing.T, pragmas ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "app.db")
	plain(t, path, append(pragmas, people, `CREATE TABLE bag(x)`, `CREATE INDEX people_name ON people(name)`,
		`CREATE VIEW names AS SELECT name FROM people`,
		`CREATE TRIGGER rename AFTER UPDATE OF name ON people BEGIN INSERT INTO bag VALUES (old.name); END`,
		`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2500) INSERT INTO people(id, name) SELECT i, 'name '||i FROM n`,
		`INSERT INTO bag VALUES (1), (1), ('grün'), (x'00ff'), (1.5), (NULL)`, `PRAGMA user_version=7`)...)
	return path
}

func TestAdoptIntoEmptyRemote(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("with tables of none=%v", late), func(t *testing.T) {
			rep := newReplica(t, Config{Path: existing(t)})
			write(t, rep, `UPDATE people SET name = 'offline' WHERE id = 1`, `DELETE FROM people WHERE id = 2`, `CREATE TABLE later(x)`, `INSERT INTO later VALUES (1)`)
			if _, err := rep.Pending(t.Context(), syncer.Limits{}); !errors.Is(err, syncer.ErrPullFirst) {
				t.Errorf("Pending before the adoption = %v, want ErrPullFirst", err)
			}
			rem := newRemote(t)
			if late {
				rem.exec(`CREATE TABLE x(y)`, `DROP TABLE x`)
			}
			pulled(t, rep, rem)
			write(t, rep, `INSERT INTO later VALUES (2)`)
			for rem.push(rep, syncer.Limits{Changes: 700}) > 0 {
			}
			pulled(t, rep, rem)
			wantRows(t, rep, `SELECT count(*) FROM turso_cdc`, "0")
			wantRows(t, rep, `PRAGMA user_version`, "7")
			for _, q := range []string{`SELECT * FROM people ORDER BY id`, `SELECT typeof(x), hex(x) FROM bag ORDER BY 1, 2`, `SELECT x FROM later ORDER BY x`,
				`SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'turso%' AND name NOT LIKE 'sqlite_autoindex_turso%' ORDER BY name`} {
				if got, want := rowsOf(t, rem.path, q), rows(t, rep, q); !slices.Equal(got, want) {
					t.Errorf("%s on the remote: %d rows %.200q, want %d rows %.200q", q, len(got), got, len(want), want)
				}
			}
			wantRows(t, rep, `SELECT count(*), min(id), min(name) FROM people`, "2499 1 name 10")
			wantRows(t, rep, `SELECT name FROM people WHERE id = 1`, "offline")
			other := newReplica(t, Config{})
			pulled(t, other, rem)
		})
	}
}

// TestAdoptRefused: file and remote both hold data, and nobody said what to do.
func TestAdoptRefused(t *testing.T) {
	path := existing(t)
	rep := newReplica(t, Config{Path: path})
	write(t, rep, `UPDATE people SET name = 'offline' WHERE id = 1`)
	for _, big := range []bool{false, true} {
		rem := newRemote(t, `CREATE TABLE theirs(x)`, `INSERT INTO theirs VALUES (1)`)
		if big {
			rem.exec(`INSERT INTO theirs VALUES (zeroblob(1000000))`)
		}
		before := rep.state()
		for range 2 {
			if _, err := rep.Pull(t.Context(), rem.fetch, syncer.PullOptions{}); !errors.Is(err, ErrNotReplica) {
				t.Fatalf("Pull = %v, want ErrNotReplica", err)
			}
		}
		if after := rep.state(); !sameFields(before.fields(), after.fields()) {
			t.Errorf("state changed: %v to %v", before.fields(), after.fields())
		}
		wantRows(t, rep, `SELECT count(*) FROM people`, "2500")
	}
	if err := rep.Close(t.Context()); err != nil {
		t.Fatal(err)
	}

	t.Run("then download", func(t *testing.T) {
		copied := filepath.Join(t.TempDir(), "app.db")
		copyFile(t, path, copied)
		rem := newRemote(t, `CREATE TABLE theirs(x)`, `INSERT INTO theirs VALUES (1)`, people, `CREATE TABLE bag(x)`)
		rep := newReplica(t, Config{Path: copied, Existing: ExistingDownload})
		write(t, rep, `INSERT INTO people(id, name) VALUES (9999, 'new')`)
		pulled(t, rep, rem)
		wantRows(t, rep, `SELECT x FROM theirs`, "1")
		wantRows(t, rep, `SELECT id, name FROM people`, "1 offline", "9999 new")
		backup := ""
		for _, e := range dirEntries(t, rep) {
			if strings.Contains(e, "-backup-") {
				backup = filepath.Join(filepath.Dir(copied), e)
			}
		}
		if backup == "" {
			t.Fatal("no backup")
		}
		if got := rowsOf(t, backup, `SELECT count(*) FROM people`); got[0] != "2501" {
			t.Errorf("backup has %v rows, want 2501", got)
		}
	})
	t.Run("then upload", func(t *testing.T) {
		copied := filepath.Join(t.TempDir(), "app.db")
		copyFile(t, path, copied)
		rem := newRemote(t, `CREATE TABLE theirs(x)`, `INSERT INTO theirs VALUES (1)`, people, `INSERT INTO people(id, name) VALUES (1, 'old'), (9999, 'stays')`)
		rep := newReplica(t, Config{Path: copied, Existing: ExistingUpload})
		pulled(t, rep, rem)
		wantRows(t, rep, `SELECT x FROM theirs`, "1")
		wantRows(t, rep, `SELECT name FROM people WHERE id IN (1, 9999)`, "offline", "stays")
		for rem.push(rep, syncer.Limits{Changes: 700}) > 0 {
		}
		pulled(t, rep, rem)
		wantRows(t, rep, `SELECT count(*) FROM people`, "2501")
	})
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRebuild: page size and encoding become the remote's before anybody gets a
// connection; the original is kept.
func TestRebuild(t *testing.T) {
	for _, c := range []struct {
		name    string
		pragmas []string
	}{
		{"small pages", []string{`PRAGMA page_size=1024`}},
		{"large pages in WAL mode", []string{`PRAGMA page_size=16384`, `PRAGMA journal_mode=WAL`}},
		{"UTF-16", []string{`PRAGMA encoding='UTF-16'`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := existing(t, c.pragmas...)
			original := contents(t, path)
			queries := []string{`SELECT * FROM people ORDER BY id`, `SELECT typeof(x), x FROM bag ORDER BY rowid`, `PRAGMA user_version`,
				`SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE '%turso%' ORDER BY name`}
			var want [][]string
			for _, q := range queries {
				want = append(want, rowsOf(t, path, q))
			}
			rep := newReplica(t, Config{Path: path, Now: func() time.Time { return time.Unix(0, 0) }})
			wantRows(t, rep, `PRAGMA page_size`, "4096")
			wantRows(t, rep, `PRAGMA encoding`, "UTF-8")
			for i, q := range queries {
				wantRows(t, rep, q, want[i]...)
			}
			if got := contents(t, path+"-backup-19700101T000000Z"); len(got) != len(original) {
				t.Errorf("backup has %d bytes, the original had %d", len(got), len(original))
			}
			rem := newRemote(t)
			pulled(t, rep, rem)
			for rem.push(rep, syncer.Limits{}) > 0 {
			}
			pulled(t, rep, rem)
		})
	}
}

// TestForeignWrites: another program's rows are found, logged and pushed,
// whether it wrote while the replica was open, closed, or had crashed.
func TestForeignWrites(t *testing.T) {
	rem := newRemote(t, people, `CREATE TABLE bag(x)`, `INSERT INTO people(id, name) VALUES (1, 'ann'), (2, 'bob')`)
	path := filepath.Join(t.TempDir(), "app.db")
	rep := newReplica(t, Config{Path: path})
	pulled(t, rep, rem)
	write(t, rep, `INSERT INTO people(id, name) VALUES (3, 'eve')`)
	cli(t, path, `INSERT INTO people(id, name) VALUES (4, 'cli')`, `UPDATE people SET name = 'BOB' WHERE id = 2`, `CREATE TABLE shell(x)`)
	rem.exec(`UPDATE people SET n = 5`)
	pulled(t, rep, rem)
	wantRows(t, rep, `SELECT id, name, n FROM people`, "1 ann 5", "2 BOB 5", "3 eve 0", "4 cli 0")
	cli(t, path, `DELETE FROM people WHERE id = 1`, `PRAGMA wal_checkpoint(TRUNCATE)`, `INSERT INTO shell VALUES (1)`)
	write(t, rep, `INSERT INTO people(id, name) VALUES (5, 'driver')`)
	p, err := rep.Pending(t.Context(), syncer.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, txn := range p.Txns {
		n += len(txn.Changes)
	}
	if n != 7 {
		t.Errorf("%d changes are pending, want 7", n)
	}
	invariant(t, rep)
	if err := rep.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	cli(t, path, `INSERT INTO shell VALUES (2)`)
	rep = newReplica(t, Config{Path: path})
	if !rep.compare {
		t.Error("a write between close and open is not noticed")
	}
	for rem.push(rep, syncer.Limits{}) > 0 {
	}
	pulled(t, rep, rem)
	if rep.compare {
		t.Error("still in doubt")
	}
	wantRows(t, rep, `SELECT x FROM shell`, "1", "2")
	wantRows(t, rep, `SELECT id, name FROM people`, "2 BOB", "3 eve", "4 cli", "5 driver")
	wantRows(t, rep, `SELECT count(*) FROM turso_cdc`, "0")
}

// TestForeignRowsChanged: rows of a table without a key that another program wrote, and
// that were updated and deleted here before anybody compared. On the remote their
// rowids are those of others' rows.
func TestForeignRowsChanged(t *testing.T) {
	rem := newRemote(t, `CREATE TABLE bag(x)`, `INSERT INTO bag VALUES ('base')`)
	rep := newReplica(t, Config{})
	pulled(t, rep, rem)
	cli(t, rep.Path(), `INSERT INTO bag VALUES ('gone'), ('stays'), ('old')`)
	write(t, rep, `DELETE FROM bag WHERE x = 'gone'`, `UPDATE bag SET x = 'new' WHERE x = 'old'`)
	rem.exec(`INSERT INTO bag VALUES ('their 2'), ('their 3'), ('their 4')`)
	for rem.push(rep, syncer.Limits{}) > 0 {
	}
	pulled(t, rep, rem)
	wantRows(t, rep, `SELECT x FROM bag ORDER BY x`, "base", "new", "stays", "their 2", "their 3", "their 4")
}

// TestForeignRowsChangedInOne: a transaction of ours that is logged anew together with
// other programs' rows arrives as a whole.
func TestForeignRowsChangedInOne(t *testing.T) {
	rem := newRemote(t, people, `CREATE TABLE bag(x)`, `INSERT INTO bag VALUES ('base')`)
	rep := newReplica(t, Config{})
	pulled(t, rep, rem)
	cli(t, rep.Path(), `INSERT INTO bag VALUES ('gone')`)
	write(t, rep, `DELETE FROM bag WHERE x = 'gone'`,
		`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) INSERT INTO people(id, name) SELECT i, 'mine' FROM n`,
		`INSERT INTO bag SELECT 'mine' FROM people`)
	p, err := rep.Pending(t.Context(), syncer.Limits{Changes: 10})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Txns) != 1 || len(p.Txns[0].Changes) != 5000 || p.More {
		t.Errorf("%d transactions are pending, the first of %d changes, more: %v; want one of 5000", len(p.Txns), len(p.Txns[0].Changes), p.More)
	}
}

// TestForeignRowsBetween: another program writes a row, and it is deleted here, between the
// comparison and the read of what is to be pushed; often enough that it needs the gate.
func TestForeignRowsBetween(t *testing.T) {
	rem := newRemote(t, `CREATE TABLE bag(x)`, `INSERT INTO bag VALUES ('base')`)
	var rep *Replica
	rounds := 0
	rep = newReplica(t, Config{Committed: func() {
		if rounds++; rounds > absorbRounds {
			return // the gate is taken
		}
		cli(t, rep.Path(), `INSERT INTO bag VALUES ('gone'), ('stays')`)
		captured(t, rep, `DELETE FROM bag WHERE x = 'gone'`)
	}})
	pulled(t, rep, rem)
	rem.exec(`INSERT INTO bag VALUES ('their 2'), ('their 3'), ('their 4'), ('their 5')`)
	cli(t, rep.Path(), `INSERT INTO bag VALUES ('first')`)
	for rem.push(rep, syncer.Limits{}) > 0 {
	}
	if rounds <= absorbRounds {
		t.Errorf("logged rows of another program %d times: the gate was not needed", rounds)
	}
	pulled(t, rep, rem)
	wantRows(t, rep, `SELECT x FROM bag ORDER BY x`, "base", "first", "stays", "stays", "their 2", "their 3", "their 4", "their 5")
}

// captured runs a statement on a connection of the driver's kind.
func captured(t *testing.T, rep *Replica, text string) {
	t.Helper()
	c, err := openConn(rep.files.live, "mode=rw")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	session, err := rep.log.Session(c.SQLiteConn)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	st, err := session.Prepare(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Run(t.Context(), st, func() error { return c.exec(text) }); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// TestForeignCheckpoint: another program checkpoints and resets the WAL; pages
// that were only noted in its frames are found by comparison.
func TestForeignCheckpoint(t *testing.T) {
	rem := newRemote(t, people, `INSERT INTO people(id, name) VALUES (1, 'ann'), (2, 'bob')`)
	rep := newReplica(t, Config{})
	pulled(t, rep, rem)
	write(t, rep, `UPDATE people SET name = 'ANN' WHERE id = 1`)
	write(t, rep, `CREATE TABLE t(x)`)
	cli(t, rep.Path(), `PRAGMA wal_checkpoint(TRUNCATE)`)
	write(t, rep, `INSERT INTO t VALUES (1)`)
	rem.exec(`INSERT INTO people(id, name) VALUES (3, 'eve')`)
	pulled(t, rep, rem)
	if !rep.dirty.known {
		t.Error("changed pages are not known after a rebase")
	}
	wantRows(t, rep, `SELECT name FROM people`, "ANN", "bob", "eve")
	rem.push(rep, syncer.Limits{})
	pulled(t, rep, rem)
}

// TestForeignCheckpointOfNothing: a transaction that leaves every row as it was, but
// not on the page where it was; nothing of it is in the log, and another program has
// reset the WAL that held its frames.
func TestForeignCheckpointOfNothing(t *testing.T) {
	rem := newRemote(t, `CREATE TABLE wide(id INTEGER PRIMARY KEY, x)`, `CREATE TABLE t(x)`,
		`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO wide SELECT i * 10, hex(zeroblob(100)) FROM n`)
	rep := newReplica(t, Config{})
	pulled(t, rep, rem)
	write(t, rep, `INSERT INTO wide SELECT wide.id + 1 + j.value, x FROM wide, json_each('[0,1,2,3,4]') AS j`,
		`DELETE FROM wide WHERE id % 10 <> 0`)
	cli(t, rep.Path(), `PRAGMA wal_checkpoint(TRUNCATE)`)
	write(t, rep, `INSERT INTO t VALUES (1)`)
	rem.exec(`UPDATE wide SET x = 'short' WHERE id % 500 = 0`)
	pulled(t, rep, rem)
	wantRows(t, rep, `SELECT count(*), sum(id), sum(length(x)) FROM wide`, "300 451500 58830")
	wantRows(t, rep, `PRAGMA integrity_check`, "ok")
}

// TestCheckpoint: own checkpoints, with and without readers in the way, lose no
// changed page.
func TestCheckpoint(t *testing.T) {
	rem := newRemote(t, people, `INSERT INTO people(id, name) VALUES (1, 'ann')`)
	rep := newReplica(t, Config{CheckpointBytes: -1})
	pulled(t, rep, rem)
	for i := range 12 {
		write(t, rep, fmt.Sprintf(`INSERT INTO people(name) VALUES ('p%d')`, i))
		var reader *conn
		if i%3 == 1 {
			var err error
			if reader, err = openConn(rep.Path(), "mode=ro"); err != nil {
				t.Fatal(err)
			}
			if err := reader.beginRead(); err != nil {
				t.Fatal(err)
			}
		}
		if err := rep.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		if reader == nil {
			if m, err := rep.Measure(t.Context()); err != nil || m.WALBytes != 0 {
				t.Errorf("WAL has %d bytes after a checkpoint (%v)", m.WALBytes, err)
			}
		}
		write(t, rep, fmt.Sprintf(`UPDATE people SET n = %d WHERE id = 1`, i))
		if reader != nil {
			reader.Close()
		}
		rem.exec(fmt.Sprintf(`CREATE TABLE r%d(x)`, i))
		if !rep.dirty.known {
			t.Error("changed pages are not known")
		}
		pulled(t, rep, rem)
	}
	wantRows(t, rep, `SELECT count(*), max(n) FROM people`, "13 11")
}

// TestCopiedReplica: the files are copied to another machine, and both go on. No
// row of either is lost.
func TestCopiedReplica(t *testing.T) {
	for _, with := range []struct {
		name  string
		files []string
	}{
		{"all files", []string{"", "-base", "-lock"}},
		{"live only", []string{""}},
	} {
		t.Run(with.name, func(t *testing.T) {
			rem := newRemote(t, people)
			path := filepath.Join(t.TempDir(), "app.db")
			a := newReplica(t, Config{Path: path})
			pulled(t, a, rem)
			write(t, a, `INSERT INTO people(id, name) VALUES (1, 'pushed')`)
			rem.push(a, syncer.Limits{})
			pulled(t, a, rem)
			write(t, a, `INSERT INTO people(id, name) VALUES (2, 'pending')`)
			if err := a.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			other := filepath.Join(t.TempDir(), "app.db")
			for _, f := range with.files {
				copyFile(t, path+f, other+f)
			}
			a = newReplica(t, Config{Path: path})
			b := newReplica(t, Config{Path: other})
			write(t, a, `INSERT INTO people(id, name) VALUES (3, 'a')`)
			write(t, b, `INSERT INTO people(id, name) VALUES (4, 'b')`)
			rem.push(a, syncer.Limits{})
			write(t, a, `INSERT INTO people(id, name) VALUES (5, 'a2')`)
			write(t, b, `INSERT INTO people(id, name) VALUES (6, 'b2')`)
			// b pulls a's push under its own client id.
			report, err := b.Pull(t.Context(), rem.fetch, syncer.PullOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if !report.WantWatermark && a.state().clientID == b.state().clientID {
				t.Error("the copy is not noticed")
			}
			invariant(t, b)
			rem.push(b, syncer.Limits{})
			rem.push(a, syncer.Limits{})
			pulled(t, a, rem)
			pulled(t, b, rem)
			for _, rep := range []*Replica{a, b} {
				wantRows(t, rep, `SELECT name FROM people ORDER BY id`, "pushed", "pending", "a", "b", "a2", "b2")
				wantRows(t, rep, `SELECT count(*) FROM turso_cdc`, "0")
			}
		})
	}
}

// TestReconcile is what the watermark found on the remote means.
func TestReconcile(t *testing.T) {
	for _, c := range []struct {
		name    string
		intents []cdc.ID
		mark    cdc.ID
		found   bool
		renewed bool
		pending int
	}{
		{"as acknowledged", nil, 2, true, false, 4},
		{"as intended, answer lost", []cdc.ID{4, 5}, 4, true, false, 2},
		{"as intended later", []cdc.ID{4, 5}, 5, true, false, 1},
		{"never intended", []cdc.ID{4}, 6, true, true, 4},
		{"remote restored", nil, 1, true, true, 5},
		{"remote wiped", nil, 0, false, true, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			rem := newRemote(t, people)
			rep := newReplica(t, Config{})
			pulled(t, rep, rem)
			for i := range 6 {
				write(t, rep, fmt.Sprintf(`INSERT INTO people(id, name) VALUES (%d, 'p')`, i))
			}
			if err := rep.Acknowledge(t.Context(), 2); err != nil {
				t.Fatal(err)
			}
			for _, id := range c.intents {
				if err := rep.Intend(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			}
			renewed, err := rep.Reconcile(t.Context(), c.mark, c.found)
			if err != nil || renewed != c.renewed {
				t.Errorf("Reconcile = %v, %v, want %v", renewed, err, c.renewed)
			}
			p, err := rep.Pending(t.Context(), syncer.Limits{})
			if err != nil || len(p.Txns) != c.pending {
				t.Errorf("%d transactions pending (%v), want %d", len(p.Txns), err, c.pending)
			}
			if c.renewed && (p.Known || p.Watermark != 0) || !c.renewed && (!p.Known || p.Watermark != c.mark) {
				t.Errorf("Pending has watermark %d, known %v", p.Watermark, p.Known)
			}
			invariant(t, rep)
		})
	}
}

// TestBaseTampered: a base that is not what it was is taken anew.
func TestBaseTampered(t *testing.T) {
	tamper := map[string]func(path string) error{
		"changed": func(path string) error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("tampered"), page.Size+2000)
			return errors.Join(err, f.Close())
		},
		"cut":     func(path string) error { return os.Truncate(path, page.Size) },
		"missing": os.Remove,
	}
	for name, f := range tamper {
		t.Run(name, func(t *testing.T) {
			rem := newRemote(t, people, `INSERT INTO people(id, name) VALUES (1, 'ann')`)
			path := filepath.Join(t.TempDir(), "app.db")
			rep := newReplica(t, Config{Path: path})
			pulled(t, rep, rem)
			write(t, rep, `INSERT INTO people(id, name) VALUES (2, 'mine')`)
			if err := rep.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := f(path + "-base"); err != nil {
				t.Fatal(err)
			}
			rep = newReplica(t, Config{Path: path})
			write(t, rep, `INSERT INTO people(id, name) VALUES (3, 'more')`)
			pulled(t, rep, rem)
			wantRows(t, rep, `SELECT name FROM people`, "ann", "mine", "more")
			if rep.state().bootstrap {
				t.Error("still to be bootstrapped")
			}
		})
	}
}

// TestAnotherURL: a replica that is given another remote takes that one's data
// and keeps what is pending.
func TestAnotherURL(t *testing.T) {
	one := newRemote(t, people, `INSERT INTO people(id, name) VALUES (1, 'ann')`)
	two := newRemote(t, people, `INSERT INTO people(id, name) VALUES (1, 'other')`)
	path := filepath.Join(t.TempDir(), "app.db")
	rep := newReplica(t, Config{Path: path, RemoteURL: "http://one"})
	pulled(t, rep, one)
	write(t, rep, `INSERT INTO people(id, name) VALUES (2, 'mine')`)
	if err := rep.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	rep = newReplica(t, Config{Path: path, RemoteURL: "http://two"})
	pulled(t, rep, two)
	wantRows(t, rep, `SELECT name FROM people`, "other", "mine")
}

// TestBootstrapChunks: a bootstrap in portions goes on after broken connections
// and in another process.
func TestBootstrapChunks(t *testing.T) {
	rem := newRemote(t, people, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<20000) INSERT INTO people(name) SELECT hex(randomblob(20)) FROM n`)
	total := uint64(len(rem.revs[len(rem.revs)-1].pages))
	path := filepath.Join(t.TempDir(), "app.db")
	cfg := Config{Path: path, ChunkPages: 100}
	rep := newReplica(t, cfg)
	write(t, rep, `CREATE TABLE mine(x)`)
	rem.breakAt = 70
	var last uint64
	opts := syncer.PullOptions{Progress: func(done, of uint64) {
		if done < last || of != total {
			t.Errorf("progress %d of %d after %d of %d", done, of, last, total)
		}
		last = done
	}}
	for range 3 {
		if _, err := rep.Pull(t.Context(), rem.fetch, opts); !errors.Is(err, errBroken) {
			t.Fatalf("Pull = %v, want the broken connection", err)
		}
	}
	if last < 60 {
		t.Errorf("progress %d after three broken connections", last)
	}
	invariant(t, rep)
	if err := rep.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A crash leaves a torn record behind.
	f, err := os.OpenFile(path+"-pull", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("torn"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	rep = newReplica(t, cfg)
	rem.breakAt = 0
	rem.requests = nil
	before := last
	pulledWith := func() {
		t.Helper()
		if _, err := rep.Pull(t.Context(), rem.fetch, opts); err != nil {
			t.Fatal(err)
		}
		invariant(t, rep)
	}
	pulledWith()
	sameBase(t, rep, rem)
	if last != total {
		t.Errorf("progress ends at %d of %d", last, total)
	}
	if asked := 100 * len(rem.requests); asked > int(total-before)+100 {
		t.Errorf("%d pages were asked for, of %d that were missing", asked, total-before)
	}
	for _, req := range rem.requests {
		if req.At == "" || req.Pages == nil || req.Pages.Len() > 100 {
			t.Errorf("request %+v is not one for a portion of a revision", req)
		}
	}
}

// TestBootstrapMoved: the remote forgot the revision that a bootstrap began
// with.
func TestBootstrapMoved(t *testing.T) {
	rem := newRemote(t, people, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<5000) INSERT INTO people(name) SELECT hex(randomblob(20)) FROM n`)
	rep := newReplica(t, Config{ChunkPages: 20})
	n := 0
	rem.mangle = func(*syncer.PullHeader, map[page.No][]byte) {
		if n++; n == 3 {
			rem.noPin = true
			rem.mangle = nil
			rem.exec(`DELETE FROM people WHERE id % 3 = 0`)
		}
	}
	for range 2 {
		if _, err := rep.Pull(t.Context(), rem.fetch, syncer.PullOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	pulled(t, rep, rem)
}

func TestDeltaFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d")
	image := func(n byte) []byte { return []byte(strings.Repeat(string(rune('a'+n)), page.Size)) }
	d, err := createDelta(path, delta{count: 9, from: "1", to: "2", reset: true})
	if err != nil {
		t.Fatal(err)
	}
	for n := range byte(5) {
		if err := d.add(page.No(9-n), image(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.seal(); err != nil {
		t.Fatal(err)
	}
	d.close()
	whole := contents(t, path)
	read := func(b []byte) *delta {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := openDelta(path)
		if err != nil {
			t.Fatal(err)
		}
		if d != nil {
			t.Cleanup(d.close)
		}
		return d
	}
	got := read(whole)
	if got == nil || !got.sealed || got.from != "1" || got.to != "2" || !got.reset || got.whole || got.count != 9 || got.pages.Len() != 5 || got.ID() != d.ID() {
		t.Fatalf("read back %+v", got)
	}
	n := byte(0)
	if err := got.each(func(no page.No, b []byte) error {
		if no != page.No(9-n) || string(b) != string(image(n)) {
			t.Errorf("record %d is page %v", n, no)
		}
		n++
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		if cut%97 != 0 && cut > 60 && cut < len(whole)-60 {
			continue
		}
		if d := read(whole[:cut]); d != nil && d.sealed {
			t.Errorf("a file of %d of %d bytes is taken for sealed", cut, len(whole))
		}
	}
	for at := 0; at < len(whole); at += 53 {
		b := slices.Clone(whole)
		b[at] ^= 0x10
		if d := read(b); d != nil && d.sealed {
			t.Errorf("a bit error at %d is not noticed", at)
		}
	}
}

func FuzzDelta(f *testing.F) {
	dir := f.TempDir()
	d, err := createDelta(filepath.Join(dir, "seed"), delta{count: 3, from: "a", to: "b", whole: true})
	if err != nil {
		f.Fatal(err)
	}
	for no := page.No(1); no <= 3; no++ {
		if err := d.add(no, make([]byte, page.Size)); err != nil {
			f.Fatal(err)
		}
	}
	if err := d.seal(); err != nil {
		f.Fatal(err)
	}
	d.close()
	file, err := os.Open(filepath.Join(dir, "seed"))
	if err != nil {
		f.Fatal(err)
	}
	seed, err := io.ReadAll(file)
	file.Close()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "d")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := openDelta(path)
		if err != nil {
			t.Fatal(err)
		}
		if d == nil {
			return
		}
		defer d.close()
		if err := d.each(func(page.No, []byte) error { return nil }); err != nil {
			t.Fatalf("records that were read once cannot be read again: %v", err)
		}
	})
}
