package shim

import (
	"bytes"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/wal"
)

// live opens a connection to a database in WAL mode that only we checkpoint.
func live(t testing.TB, path string) *sqlite3.SQLiteConn {
	t.Helper()
	c := open(t, path+"?_busy_timeout=10000")
	run(t, c, "PRAGMA page_size = 4096", "PRAGMA journal_mode = wal", "PRAGMA wal_autocheckpoint = 0",
		"PRAGMA synchronous = off", "SELECT count(*) FROM sqlite_schema")
	return c
}

func run(t testing.TB, c *sqlite3.SQLiteConn, queries ...string) {
	t.Helper()
	for _, q := range queries {
		if _, err := c.Exec(q, nil); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

// text returns the rows of a query, columns joined by | and rows by newlines.
func text(t testing.TB, c *sqlite3.SQLiteConn, query string) string {
	t.Helper()
	s, err := tryText(c, query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return s
}

func tryText(c *sqlite3.SQLiteConn, query string) (string, error) {
	rows, err := c.Query(query, nil)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	var b strings.Builder
	row := make([]driver.Value, len(rows.Columns()))
	for {
		if err := rows.Next(row); err == io.EOF {
			return b.String(), nil
		} else if err != nil {
			return "", err
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		for i, v := range row {
			if i > 0 {
				b.WriteByte('|')
			}
			if raw, ok := v.([]byte); ok {
				v = string(raw)
			}
			fmt.Fprint(&b, v)
		}
	}
}

// shell runs a query in the sqlite3 program, another process with an older SQLite.
func shell(t testing.TB, path, query string) string {
	t.Helper()
	if _, err := os.Stat("/usr/bin/sqlite3"); err != nil {
		t.Skip("no sqlite3 program")
	}
	out, err := exec.Command("/usr/bin/sqlite3", "-cmd", ".timeout 10000", path, query).CombinedOutput()
	if err != nil {
		t.Fatalf("sqlite3 %s: %v: %s", query, err, out)
	}
	return strings.TrimSpace(string(out))
}

func state(t testing.TB, db DB) WALState {
	t.Helper()
	s, err := db.WALState()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// contents returns the database as of the last commit: file and WAL put together.
// It also requires wal.Scan to agree with the wal-index.
func contents(t testing.TB, db DB) []byte {
	t.Helper()
	s := state(t, db)
	size, err := db.Size(Main)
	if err != nil {
		t.Fatal(err)
	}
	img := make([]byte, size)
	if _, err := db.ReadAt(Main, img, 0); err != nil {
		t.Fatal(err)
	}
	if s.MaxFrame == 0 {
		return img
	}
	x, err := wal.Scan(db.ReaderAt(WAL), wal.Size(s.MaxFrame))
	if err != nil {
		t.Fatal(err)
	}
	if want := (wal.Position{Frame: s.MaxFrame, Salt: s.Salt, Checksum: s.Checksum}); x.End != want || x.PageCount != s.PageCount {
		t.Fatalf("WAL ends at %+v with %d pages, wal-index says %+v with %d", x.End, x.PageCount, want, s.PageCount)
	}
	full := make([]byte, int(s.PageCount)*page.Size)
	copy(full, img)
	for no := range x.Pages().All() {
		if err := x.ReadPage(no, full[no.Offset():][:page.Size]); err != nil {
			t.Fatal(err)
		}
	}
	return full
}

// edited returns what SQLite makes of a database by the queries.
func edited(t testing.TB, img []byte, queries ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "edited.db")
	if err := os.WriteFile(path, img, 0o600); err != nil {
		t.Fatal(err)
	}
	c := live(t, path)
	run(t, c, queries...)
	run(t, c, "PRAGMA wal_checkpoint(TRUNCATE)")
	c.Close()
	out, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// appendDiff appends the pages in which to differs from from, in random order if rnd is given.
func appendDiff(t testing.TB, p *PageCommit, from, to []byte, rnd *rand.Rand) {
	t.Helper()
	var pages []page.No
	for no := page.No(1); no.Offset() < int64(len(to)); no++ {
		off := no.Offset()
		if off >= int64(len(from)) || !bytes.Equal(from[off:off+page.Size], to[off:off+page.Size]) {
			pages = append(pages, no)
		}
	}
	if rnd != nil {
		rnd.Shuffle(len(pages), func(i, j int) { pages[i], pages[j] = pages[j], pages[i] })
	}
	for _, no := range pages {
		if err := p.Append(no, to[no.Offset():][:page.Size]); err != nil {
			t.Fatal(err)
		}
	}
}

func begin(t testing.TB, db DB) *PageCommit {
	t.Helper()
	p, err := db.BeginPageCommit()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Abort() })
	return p
}

// pageCommit makes the database be img, in one page commit.
func pageCommit(t testing.TB, db DB, img []byte, rnd *rand.Rand) {
	t.Helper()
	from, before := contents(t, db), state(t, db)
	p := begin(t, db)
	if p.State() != before {
		t.Fatalf("State() = %+v, want %+v", p.State(), before)
	}
	appendDiff(t, p, from, img, rnd)
	if got := state(t, db); got != before {
		t.Fatalf("before Commit the state is %+v, want %+v", got, before)
	}
	if err := p.Commit(uint32(len(img) / page.Size)); err != nil {
		t.Fatal(err)
	}
	if got := state(t, db); got.Change != before.Change+1 || got.MaxFrame <= before.MaxFrame || got.Salt != before.Salt {
		t.Fatalf("after Commit the state is %+v, was %+v", got, before)
	}
	if !bytes.Equal(contents(t, db), img) {
		t.Fatal("after Commit the database is not the image")
	}
}

// sound requires that SQLite finds nothing wrong, on this connection, on a new
// one, and on a copy of the files, for which it must rebuild the wal-index.
func sound(t testing.TB, path string, c *sqlite3.SQLiteConn, query, want string) {
	t.Helper()
	fresh := live(t, path)
	defer fresh.Close()
	copied := filepath.Join(t.TempDir(), "copy.db")
	db := of(t, c)
	for f, name := range map[File]string{Main: copied, WAL: copied + "-wal"} {
		n, err := db.Size(f)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, n)
		if _, err := db.ReadAt(f, b, 0); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	recovered := live(t, copied)
	defer recovered.Close()
	for name, c := range map[string]*sqlite3.SQLiteConn{"connection": c, "new connection": fresh, "recovered copy": recovered} {
		if got := text(t, c, "PRAGMA integrity_check"); got != "ok" {
			t.Fatalf("%s: integrity_check: %s", name, got)
		}
		if got := text(t, c, query); got != want {
			t.Fatalf("%s: %s = %.200q, want %.200q", name, query, got, want)
		}
	}
}

const all = "SELECT a, length(b), hex(substr(b, 1, 8)) FROM t ORDER BY a"

// TestPageCommit shows that to everybody a page commit is a commit: readers keep
// their snapshots, statements run on, the next transaction sees the new state,
// here and in another process, and writers and checkpoints go on.
func TestPageCommit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	c := live(t, path)
	run(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)", "INSERT INTO t VALUES (1, 'one'), (2, 'two')")
	db := of(t, c)
	other, reader := live(t, path), live(t, path)
	stmt, err := other.Prepare("SELECT count(*) FROM t")
	if err != nil {
		t.Fatal(err)
	}
	count := func() int64 {
		rows, err := stmt.(driver.StmtQueryContext).QueryContext(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		row := make([]driver.Value, 1)
		if err := rows.Next(row); err != nil {
			t.Fatal(err)
		}
		return row[0].(int64)
	}
	if got := count(); got != 2 {
		t.Fatalf("count = %d, want 2", got)
	}
	run(t, reader, "BEGIN")
	old := text(t, reader, all)
	rows, err := reader.Query("SELECT a FROM t", nil) // a statement under way
	if err != nil {
		t.Fatal(err)
	}
	row := make([]driver.Value, 1)
	if err := rows.Next(row); err != nil {
		t.Fatal(err)
	}

	img := edited(t, contents(t, db), "INSERT INTO t VALUES (3, 'three')", "CREATE TABLE u(x UNIQUE)", "INSERT INTO u VALUES (1)")
	pageCommit(t, db, img, nil)

	if err := rows.Next(row); err != nil || row[0] != int64(2) {
		t.Errorf("the statement under way yields %v, %v, want 2", row[0], err)
	}
	if err := rows.Next(row); err != io.EOF {
		t.Errorf("the statement under way yields %v, %v, want its end", row[0], err)
	}
	rows.Close()
	if got := text(t, reader, all); got != old {
		t.Errorf("the reader's snapshot became %q, was %q", got, old)
	}
	run(t, reader, "COMMIT")
	if got := text(t, reader, "SELECT x FROM u"); got != "1" {
		t.Errorf("after its transaction the reader sees %q in u, want 1", got)
	}
	if got := count(); got != 3 {
		t.Errorf("the prepared statement counts %d, want 3", got)
	}
	stmt.Close()
	want := text(t, c, all)
	sound(t, path, c, all, want)
	if got := shell(t, path, "SELECT count(*) FROM t; PRAGMA integrity_check; INSERT INTO u VALUES (2)"); got != "3\nok" {
		t.Errorf("the sqlite3 program says %q", got)
	}
	if got := text(t, other, "SELECT count(*) FROM u"); got != "2" {
		t.Errorf("after its insert u has %s rows, want 2", got)
	}
	run(t, other, "INSERT INTO t VALUES (4, 'four')")
	img = edited(t, contents(t, db), "DELETE FROM t WHERE a = 1")
	pageCommit(t, db, img, nil)
	run(t, other, "PRAGMA wal_checkpoint(TRUNCATE)")
	file := make([]byte, len(img))
	if _, err := db.ReadAt(Main, file, 0); err != nil || !bytes.Equal(file, img) {
		t.Errorf("after a checkpoint the file differs from the image (%v)", err)
	}
	sound(t, path, c, "SELECT group_concat(a) FROM t", "2,3,4")
}

// TestPageCommitAtBlockEnds shows page commits that begin or end around the ends
// of the wal-index's blocks (frames 4062 and 8158), and one across several.
func TestPageCommitAtBlockEnds(t *testing.T) {
	for _, tt := range []struct{ first, pages int }{
		{4060, 2}, {4060, 3}, {4061, 1}, {4061, 2}, {4062, 1}, {4063, 1}, {4000, 200},
		{8157, 1}, {8157, 2}, {8158, 1}, {8159, 3}, {20, 9000},
	} {
		t.Run(fmt.Sprintf("%d pages behind frame %d", tt.pages, tt.first), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.db")
			c := live(t, path)
			run(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)", "INSERT INTO t VALUES (1, 1)")
			db := of(t, c)
			rest := tt.first - int(state(t, db).MaxFrame)
			if rest > 4000 { // one big transaction, then single ones
				run(t, c, fmt.Sprintf(
					"WITH RECURSIVE g(n) AS (SELECT 2 UNION ALL SELECT n+1 FROM g LIMIT %d) INSERT INTO t SELECT n, zeroblob(4000) FROM g", rest-100))
			}
			for int(state(t, db).MaxFrame) < tt.first {
				run(t, c, "UPDATE t SET b = b + 1 WHERE a = 1")
			}
			if got := int(state(t, db).MaxFrame); got != tt.first {
				t.Fatalf("set up %d frames, want %d", got, tt.first)
			}
			reader := live(t, path)
			run(t, reader, "BEGIN")
			old := text(t, reader, all)
			from := contents(t, db)
			// One row a page, so that so many rows are about so many pages.
			img := edited(t, from, fmt.Sprintf(
				"WITH RECURSIVE g(n) AS (SELECT 100001 UNION ALL SELECT n+1 FROM g LIMIT %d) INSERT INTO t SELECT n, zeroblob(4000) FROM g", tt.pages))
			p := begin(t, db)
			appendDiff(t, p, from, img, rand.New(rand.NewPCG(1, 1)))
			if err := p.Commit(uint32(len(img) / page.Size)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(contents(t, db), img) {
				t.Error("after Commit the database is not the image")
			}
			if got := text(t, reader, all); got != old {
				t.Error("the reader's snapshot changed")
			}
			run(t, reader, "COMMIT")
			run(t, c, "UPDATE t SET b = zeroblob(100)")
			sound(t, path, c, "SELECT sum(length(b)) / 100 - count(*) FROM t", "0")
			run(t, c, "PRAGMA wal_checkpoint(TRUNCATE)")
			sound(t, path, c, "SELECT sum(length(b)) / 100 - count(*) FROM t", "0")
		})
	}
}

// TestPageCommitSizes hits every frame count around a block's end exactly, with
// pages appended verbatim.
func TestPageCommitSizes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	c := live(t, path)
	run(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)",
		"WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM g LIMIT 200) INSERT INTO t SELECT n, randomblob(4000) FROM g")
	db := of(t, c)
	want := text(t, c, all)
	img := contents(t, db)
	pages := uint32(len(img) / page.Size)
	for _, target := range []uint32{4061, 4062, 4063, 4064, 8157, 8158, 8159, 12254, 12255} {
		for state(t, db).MaxFrame < target {
			p := begin(t, db)
			n := min(target-p.State().MaxFrame, 150)
			for i := range n {
				no := page.No(i%pages + 1)
				if err := p.Append(no, img[no.Offset():][:page.Size]); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Commit(pages); err != nil {
				t.Fatal(err)
			}
		}
		if got := state(t, db).MaxFrame; got != target {
			t.Fatalf("MaxFrame = %d, want %d", got, target)
		}
		if !bytes.Equal(contents(t, db), img) {
			t.Fatalf("at frame %d the database changed", target)
		}
		sound(t, path, c, all, want)
	}
}

// TestPageCommitShrinks shows a page commit that makes the database smaller.
func TestPageCommitShrinks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	c := live(t, path)
	run(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)", "INSERT INTO t VALUES (1, zeroblob(200000)), (2, 'two')")
	db := of(t, c)
	reader := live(t, path)
	run(t, reader, "BEGIN")
	old := text(t, reader, all)
	big := contents(t, db)
	img := edited(t, big, "DELETE FROM t WHERE a = 1", "VACUUM")
	if len(img) >= len(big) {
		t.Fatal("the image did not shrink")
	}
	pageCommit(t, db, img, nil)
	if got := text(t, reader, all); got != old {
		t.Error("the reader's snapshot changed")
	}
	run(t, reader, "COMMIT")
	sound(t, path, c, "SELECT a FROM t", "2")
	run(t, c, "INSERT INTO t VALUES (3, zeroblob(100000))") // into pages that were there before
	sound(t, path, c, "SELECT a, length(b) FROM t", "2|3\n3|100000")
	pageCommit(t, db, img, nil)
	run(t, c, "PRAGMA wal_checkpoint(TRUNCATE)")
	if n, err := db.Size(Main); err != nil || n != int64(len(img)) {
		t.Errorf("after a checkpoint the file has %d bytes (%v), want %d", n, err, len(img))
	}
	sound(t, path, c, "SELECT a FROM t", "2")
}

// TestPageCommitAborted shows that an aborted page commit, or one whose process
// died, leaves nothing behind, whoever writes next.
func TestPageCommitAborted(t *testing.T) {
	for _, how := range []string{"abort", "death"} {
		for _, next := range []string{"SQLite", "page commit", "shell"} {
			for _, first := range []int{10, 4000, 4062} {
				t.Run(fmt.Sprintf("%s at %d then %s", how, first, next), func(t *testing.T) {
					path := filepath.Join(t.TempDir(), "a.db")
					c := live(t, path)
					run(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)", "INSERT INTO t VALUES (1, 1), (2, zeroblob(400000))")
					db := of(t, c)
					for int(state(t, db).MaxFrame) < max(first, 110) {
						run(t, c, "UPDATE t SET b = b + 1 WHERE a = 1")
					}
					before, img := state(t, db), contents(t, db)
					want := text(t, c, all)
					if how == "abort" {
						p := begin(t, db)
						for no := page.No(1); no.Offset() < int64(len(img)); no++ {
							if err := p.Append(no, make([]byte, page.Size)); err != nil {
								t.Fatal(err)
							}
						}
						if err := p.Abort(); err != nil {
							t.Fatal(err)
						}
						if err := p.Abort(); err != nil {
							t.Errorf("second Abort: %v", err)
						}
						if err := p.Commit(1); !errors.Is(err, ErrDone) {
							t.Errorf("Commit after Abort = %v, want ErrDone", err)
						}
						if err := p.Append(1, img[:page.Size]); !errors.Is(err, ErrDone) {
							t.Errorf("Append after Abort = %v, want ErrDone", err)
						}
					} else {
						dieInPageCommit(t, path)
					}
					if got := state(t, db); got != before {
						t.Fatalf("the state is %+v, was %+v", got, before)
					}
					sound(t, path, c, all, want)
					switch next {
					case "SQLite":
						run(t, c, "INSERT INTO t VALUES (3, zeroblob(40000))")
					case "page commit":
						pageCommit(t, db, edited(t, img, "INSERT INTO t VALUES (3, zeroblob(40000))"), nil)
					case "shell":
						shell(t, path, "PRAGMA wal_autocheckpoint=0; INSERT INTO t VALUES (3, zeroblob(40000))")
					}
					sound(t, path, c, "SELECT length(b) FROM t WHERE a > 1", "400000\n40000")
					run(t, c, "UPDATE t SET b = zeroblob(500000) WHERE a = 2") // over the rest of the remnants
					sound(t, path, c, "SELECT length(b) FROM t WHERE a > 1", "500000\n40000")
				})
			}
		}
	}
}

// dieInPageCommit has another process append all pages as zeros and die.
func dieInPageCommit(t *testing.T, path string) {
	t.Helper()
	childDies(t, 42, "^TestDieInPageCommit$", "TURSOSYNC_TEST_DIE="+path)
}

// childDies runs a test in another process, which must end with an exit code.
func childDies(t *testing.T, code int, test, env string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run="+test)
	cmd.Env = append(os.Environ(), env)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code {
		t.Fatalf("the other process: %v\n%s", err, out)
	}
}

// TestDieInPageCommit is the other process of dieInPageCommit.
func TestDieInPageCommit(t *testing.T) {
	path := os.Getenv("TURSOSYNC_TEST_DIE")
	if path == "" {
		t.Skip("runs only as the child of another test")
	}
	db := of(t, live(t, path))
	p := begin(t, db)
	for no := range p.State().PageCount {
		if err := p.Append(page.No(no+1), make([]byte, page.Size)); err != nil {
			t.Fatal(err)
		}
	}
	os.Exit(42)
}

// TestPageCommitAfterRestart shows a page commit in a WAL that was started over,
// with the old frames and index entries still behind it.
func TestPageCommitAfterRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	c := live(t, path)
	run(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)",
		"WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM g LIMIT 5000) INSERT INTO t SELECT n, zeroblob(4000) FROM g")
	db := of(t, c)
	old := state(t, db)
	run(t, c, "PRAGMA wal_checkpoint(RESTART)")
	if got := state(t, db); got.MaxFrame != old.MaxFrame || got.Backfill != old.MaxFrame {
		t.Errorf("after RESTART the state is %+v", got)
	}
	// All is backfilled, readers ignore the WAL; a page commit goes behind it all the same.
	reader := live(t, path)
	run(t, reader, "BEGIN", "SELECT count(*) FROM t")
	pageCommit(t, db, edited(t, contents(t, db), "DELETE FROM t WHERE a = 5000"), nil)
	if got := text(t, reader, "SELECT count(*) FROM t"); got != "5000" {
		t.Errorf("the reader counts %s, want 5000", got)
	}
	run(t, reader, "COMMIT")
	sound(t, path, c, "SELECT count(*) FROM t", "4999")
	run(t, c, "PRAGMA wal_checkpoint(RESTART)", "DELETE FROM t WHERE a = 4999")
	if got := state(t, db); got.MaxFrame > 10 || got.Salt == old.Salt {
		t.Fatalf("the WAL did not start over: %+v", got)
	}
	pageCommit(t, db, edited(t, contents(t, db), "UPDATE t SET b = zeroblob(3999) WHERE a < 300"), nil)
	sound(t, path, c, "SELECT count(*), sum(length(b)) FROM t", fmt.Sprint("4998|", 4998*4000-299))
}

// TestPageCommitOldEntries shows a page commit that is the first, since the WAL
// started over, to enter a block of the wal-index which is full of old entries.
func TestPageCommitOldEntries(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	c := live(t, path)
	run(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)", "INSERT INTO t VALUES (1, zeroblob(24000000))")
	db := of(t, c)
	img := contents(t, db)
	count := uint32(len(img) / page.Size)
	want := text(t, c, all)
	rnd := rand.New(rand.NewPCG(1, 1))
	fill := func(frames uint32) {
		p := begin(t, db)
		for range frames {
			no := page.No(1 + rnd.IntN(int(count)))
			if err := p.Append(no, img[no.Offset():][:page.Size]); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Commit(count); err != nil {
			t.Fatal(err)
		}
	}
	fill(9000)
	run(t, c, "PRAGMA wal_checkpoint(RESTART)", "PRAGMA user_version = 1")
	img = contents(t, db)
	fill(3999)
	fill(300)
	sound(t, path, c, all, want)
	fill(4096)
	sound(t, path, c, all, want)
	run(t, c, "UPDATE t SET b = zeroblob(length(b))", "PRAGMA wal_checkpoint(TRUNCATE)")
	sound(t, path, c, all, want)
}

// TestPageCommitMemory shows that memory does not grow with the pages appended.
func TestPageCommitMemory(t *testing.T) {
	resident := func() int {
		b, err := os.ReadFile("/proc/self/statm")
		if err != nil {
			t.Skip("no /proc")
		}
		var size, pages int
		if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
			t.Fatal(err)
		}
		return pages * os.Getpagesize()
	}
	path := filepath.Join(t.TempDir(), "a.db")
	c := live(t, path)
	run(t, c, "CREATE TABLE t(a)")
	p := begin(t, of(t, c))
	image := make([]byte, page.Size)
	const pages = 16_000 // 64 MB, over four blocks of 32 kB in the wal-index
	before := resident()
	for no := range page.No(pages) {
		if err := p.Append(no+1, image); err != nil {
			t.Fatal(err)
		}
	}
	if grown := resident() - before; grown > 4<<20 {
		t.Errorf("appending %d pages took %d bytes of memory", pages, grown)
	}
}

// TestPageCommitRefused shows each condition under which a page commit does not
// begin or end, and that it leaves the database free for others.
func TestPageCommitRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.db")
	c := live(t, path)
	run(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)", "INSERT INTO t VALUES (1, 1)")
	db := of(t, c)
	other := live(t, path)
	free := func(t *testing.T) {
		t.Helper()
		run(t, other, "INSERT INTO t(b) VALUES (2)")
	}
	refused := func(t *testing.T, db DB, want error) {
		t.Helper()
		if p, err := db.BeginPageCommit(); !errors.Is(err, want) {
			t.Fatalf("BeginPageCommit = %v, %v, want %v", p, err, want)
		}
	}
	t.Run("busy", func(t *testing.T) {
		run(t, other, "BEGIN IMMEDIATE")
		refused(t, db, ErrBusy)
		run(t, other, "COMMIT")
		p := begin(t, db)
		refused(t, of(t, other), ErrBusy)
		run(t, other, "PRAGMA busy_timeout = 0")
		if _, err := other.Exec("INSERT INTO t(b) VALUES (3)", nil); err == nil {
			t.Error("SQLite writes during a page commit")
		}
		run(t, other, "PRAGMA busy_timeout = 10000")
		p.Abort()
		free(t)
	})
	t.Run("in transaction", func(t *testing.T) {
		run(t, c, "BEGIN", "SELECT * FROM t")
		refused(t, db, ErrInTransaction)
		run(t, c, "COMMIT", "BEGIN IMMEDIATE")
		refused(t, db, ErrInTransaction)
		run(t, c, "COMMIT")
		free(t)
	})
	t.Run("empty WAL", func(t *testing.T) {
		run(t, c, "PRAGMA wal_checkpoint(TRUNCATE)")
		refused(t, db, ErrEmptyWAL)
		free(t)
		begin(t, db).Abort()
	})
	t.Run("not in WAL mode", func(t *testing.T) {
		for _, dsn := range []string{filepath.Join(dir, "delete.db"), ":memory:"} {
			x := open(t, dsn)
			run(t, x, "CREATE TABLE t(a)", "SELECT * FROM t")
			refused(t, of(t, x), ErrNotReady)
		}
		if _, err := os.Stat(filepath.Join(dir, "delete.db-shm")); err == nil {
			t.Error("an -shm file was made for a database that is not in WAL mode")
		}
	})
	t.Run("read-only connection", func(t *testing.T) {
		x := open(t, "file:"+path+"?mode=ro")
		text(t, x, "SELECT * FROM t")
		if p, err := of(t, x).BeginPageCommit(); err == nil {
			t.Errorf("BeginPageCommit = %v", p)
		}
		free(t)
	})
	t.Run("page size", func(t *testing.T) {
		x := open(t, filepath.Join(dir, "small.db"))
		run(t, x, "PRAGMA page_size = 1024", "PRAGMA journal_mode = wal", "CREATE TABLE t(a)")
		refused(t, of(t, x), ErrPageSize)
		if got := state(t, of(t, x)).PageSize; got != 1024 {
			t.Errorf("PageSize = %d, want 1024", got)
		}
		run(t, x, "INSERT INTO t VALUES (1)")
	})
	t.Run("what is appended", func(t *testing.T) {
		one := make([]byte, page.Size)
		n := state(t, db).PageCount
		for _, tt := range []struct {
			name  string
			pages []page.No
			image []byte
			count uint32
			want  error
		}{
			{"nothing", nil, one, n, ErrNoPages},
			{"page 0", []page.No{0}, one, n, ErrPageNo},
			{"beyond SQLite", []page.No{1<<32 - 1}, one, n, ErrPageNo},
			{"beyond the count", []page.No{page.No(n + 1)}, one, n, ErrPageNo},
			{"count 0", []page.No{1}, one, 0, ErrPageNo},
			{"short image", []page.No{1}, one[1:], n, ErrPageSize},
			{"hole", []page.No{1, page.No(n + 2)}, one, n + 2, ErrHole},
			{"lock page only", []page.No{0x40000000/page.Size + 1}, one, n, ErrNoPages},
		} {
			t.Run(tt.name, func(t *testing.T) {
				before := state(t, db)
				p := begin(t, db)
				for _, no := range tt.pages {
					p.Append(no, tt.image) // Commit must repeat its error
				}
				if err := p.Commit(tt.count); !errors.Is(err, tt.want) {
					t.Errorf("Commit = %v, want %v", err, tt.want)
				}
				if err := p.Abort(); err != nil {
					t.Error(err)
				}
				if got := state(t, db); got != before {
					t.Errorf("the state is %+v, was %+v", got, before)
				}
				free(t)
			})
		}
	})
	sound(t, path, c, "SELECT count(*) > 1 FROM t", "1")
}

// overwrite changes bytes of a file behind SQLite's back.
func overwrite(t *testing.T, path string, off int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Closing drops our locks on an -shm; no other process is there to notice.
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// TestPageCommitDamage shows that a header of the wal-index that is torn, and a WAL
// that is not the one indexed, are told, and that SQLite's recovery ends the former.
func TestPageCommitDamage(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		off        int64
		bytes      []byte
		want       error
		heals      bool
	}{
		{"copies differ", "-shm", 48 + 16, []byte{0xff}, ErrNotReady, true},
		{"bad checksum", "-shm", 40, []byte{0xff, 0xff, 0xff, 0xff, 0xfe}, ErrNotReady, true},
		{"not initialised", "-shm", 0, make([]byte, 96), ErrNotReady, true},
		{"WAL salt", "-wal", 16, []byte("salt"), ErrMismatch, false},
		{"WAL magic", "-wal", 0, []byte("none"), ErrMismatch, false},
		{"WAL page size", "-wal", 8, []byte{0, 0, 4, 0}, ErrPageSize, false},
		{"WAL version", "-wal", 4, []byte{1}, ErrVersion, false},
		{"last frame", "-wal", 32 + 2*wal.FrameSize + 16, []byte{0xee, 0xee, 0xee, 0xee}, ErrMismatch, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.db")
			c := live(t, path)
			run(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)", "INSERT INTO t VALUES (1, 1)")
			db := of(t, c)
			if got := state(t, db).MaxFrame; got != 3 {
				t.Fatalf("set up %d frames, want 3", got)
			}
			overwrite(t, path+tt.file, tt.off, tt.bytes)
			if _, err := db.BeginPageCommit(); !errors.Is(err, tt.want) {
				t.Fatalf("BeginPageCommit = %v, want %v", err, tt.want)
			}
			if _, err := db.WALState(); tt.file == "-shm" && !errors.Is(err, tt.want) {
				t.Errorf("WALState = %v, want %v", err, tt.want)
			}
			if tt.heals {
				if got := text(t, c, "SELECT a FROM t"); got != "1" {
					t.Errorf("SQLite reads %q, want 1", got)
				}
				pageCommit(t, db, edited(t, contents(t, db), "INSERT INTO t VALUES (2, 2)"), nil)
				sound(t, path, c, "SELECT a FROM t", "1\n2")
			}
		})
	}
	t.Run("truncated WAL", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "a.db")
		c := live(t, path)
		run(t, c, "CREATE TABLE t(a)")
		if err := os.Truncate(path+"-wal", 0); err != nil {
			t.Fatal(err)
		}
		if _, err := of(t, c).BeginPageCommit(); !errors.Is(err, ErrMismatch) {
			t.Errorf("BeginPageCommit = %v, want ErrMismatch", err)
		}
	})
}

// TestPageCommitBigEndian shows a page commit behind frames with checksums of the
// other byte order, as a WAL from another machine has them.
func TestPageCommitBigEndian(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	c := live(t, path)
	run(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)", "INSERT INTO t VALUES (1, 1)")
	img := contents(t, of(t, c))
	foreign := filepath.Join(t.TempDir(), "b.db")
	f, err := os.Create(foreign + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	w := wal.NewWriter(f, otherOrder(), [2]uint32{1, 2})
	for no := page.No(1); no.Offset() < int64(len(img)); no++ {
		if err := w.Append(no, img[no.Offset():][:page.Size], uint32(len(img)/page.Size)); err != nil {
			t.Fatal(err)
		}
	}
	// SQLite deletes the WAL of an empty file, so there has to be one page.
	if err := errors.Join(f.Close(), os.WriteFile(foreign, img[:page.Size], 0o600)); err != nil {
		t.Fatal(err)
	}
	c = open(t, foreign)
	if got := text(t, c, "SELECT a FROM t"); got != "1" {
		t.Fatalf("SQLite reads %q, want 1", got)
	}
	pageCommit(t, of(t, c), edited(t, img, "INSERT INTO t VALUES (2, 2)"), nil)
	run(t, c, "INSERT INTO t VALUES (3, 3)")
	sound(t, foreign, c, "SELECT a FROM t", "1\n2\n3")
}

// TestPageCommitRandom interleaves page commits, aborted ones, SQL writes here and in
// another process, spills, rollbacks and checkpoints, beside readers that keep
// snapshots open. After each step the table must be what the model says.
func TestPageCommitRandom(t *testing.T) {
	seeds := []uint64{1, 2}
	if s := os.Getenv("TURSOSYNC_SEED"); s != "" {
		var n uint64
		if _, err := fmt.Sscan(s, &n); err != nil {
			t.Fatal(err)
		}
		seeds = []uint64{n}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("TURSOSYNC_SEED=%d", seed), func(t *testing.T) { randomHistory(t, seed) })
	}
}

func randomHistory(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	path := filepath.Join(t.TempDir(), "a.db")
	writer, own := live(t, path), live(t, path)
	run(t, writer, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)", "CREATE INDEX tb ON t(b)", "PRAGMA cache_size = 10")
	text(t, own, all)
	db := of(t, own)
	type snapshot struct {
		conn *sqlite3.SQLiteConn
		open bool
		want string
	}
	readers := []*snapshot{{conn: live(t, path)}, {conn: live(t, path)}, {conn: live(t, path)}}
	write := func() string {
		switch rnd.IntN(4) {
		case 0:
			return fmt.Sprintf("DELETE FROM t WHERE a %% %d = 0", 2+rnd.IntN(9))
		case 1:
			return fmt.Sprintf("UPDATE t SET b = zeroblob(%d) WHERE a %% %d = 0", rnd.IntN(3000), 2+rnd.IntN(5))
		default:
			return fmt.Sprintf("WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM g LIMIT %d) INSERT INTO t(b) SELECT randomblob(%d) FROM g",
				1+rnd.IntN(60), rnd.IntN(6000))
		}
	}
	checkpoint := func(mode string) {
		// Without patience: open snapshots make FULL and beyond wait in vain.
		run(t, writer, "PRAGMA busy_timeout = 0")
		if _, err := tryText(writer, "PRAGMA wal_checkpoint("+mode+")"); err != nil {
			t.Fatal(err)
		}
		run(t, writer, "PRAGMA busy_timeout = 10000")
	}
	steps, commits := 100, 0
	if testing.Short() {
		steps = 40
	}
	for step := range steps {
		want := text(t, writer, all)
		what := rnd.IntN(12)
		switch what {
		case 0, 1, 2, 3:
			if state(t, db).MaxFrame == 0 {
				run(t, writer, "PRAGMA user_version = 0", fmt.Sprintf("PRAGMA application_id = %d", step))
			}
			img := edited(t, contents(t, db), write())
			if rnd.IntN(4) == 0 {
				img = edited(t, img, "VACUUM")
			}
			if bytes.Equal(img, contents(t, db)) {
				break
			}
			pageCommit(t, db, img, rnd)
			commits++
			copied := filepath.Join(t.TempDir(), "img.db")
			if err := os.WriteFile(copied, img, 0o600); err != nil {
				t.Fatal(err)
			}
			c := live(t, copied)
			want = text(t, c, all)
			c.Close()
		case 4:
			if state(t, db).MaxFrame > 0 {
				p := begin(t, db)
				for range rnd.IntN(200) {
					if err := p.Append(page.No(1+rnd.IntN(50)), make([]byte, page.Size)); err != nil {
						t.Fatal(err)
					}
				}
				if err := p.Abort(); err != nil {
					t.Fatal(err)
				}
			}
		case 5, 6:
			run(t, writer, write())
			want = text(t, writer, all)
		case 7:
			run(t, writer, "BEGIN", write(), write(), write(), "ROLLBACK")
		case 8:
			if rnd.IntN(3) == 0 {
				shell(t, path, "PRAGMA wal_autocheckpoint = 0; "+write())
				want = text(t, writer, all)
			}
		case 9:
			checkpoint([]string{"PASSIVE", "FULL", "RESTART", "TRUNCATE"}[rnd.IntN(4)])
		default:
			r := readers[rnd.IntN(len(readers))]
			if r.open = !r.open; r.open {
				run(t, r.conn, "BEGIN")
				r.want = text(t, r.conn, all)
				if r.want != want {
					t.Fatalf("step %d: a new reader does not see the current state", step)
				}
			} else {
				run(t, r.conn, "COMMIT")
			}
		}
		for i, c := range []*sqlite3.SQLiteConn{writer, own} {
			if got := text(t, c, all); got != want {
				t.Fatalf("step %d (%d): connection %d sees %d bytes of rows, want %d", step, what, i, len(got), len(want))
			}
		}
		for i, r := range readers {
			if r.open && text(t, r.conn, all) != r.want {
				t.Fatalf("step %d (%d): the snapshot of reader %d changed", step, what, i)
			}
		}
		if got := text(t, own, "PRAGMA integrity_check"); got != "ok" {
			t.Fatalf("step %d (%d): integrity_check: %s", step, what, got)
		}
		contents(t, db)
		if step%10 == 0 {
			sound(t, path, own, all, want)
		}
	}
	if commits == 0 {
		t.Error("no page commit was made")
	}
}

// TestPageCommitConcurrent shows that readers and SQL writers running at the same
// time never see half a page commit: all rows always carry the same number.
func TestPageCommitConcurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	c := live(t, path)
	run(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, n INTEGER, b BLOB)",
		"WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM g LIMIT 50) INSERT INTO t SELECT n, 0, zeroblob(3000) FROM g")
	db := of(t, c)
	// Two images; page commits alternate between them, SQL counts up from either.
	base := contents(t, db)
	images := [][]byte{edited(t, base, "UPDATE t SET n = 1000"), edited(t, base, "UPDATE t SET n = 2000")}
	count := uint32(len(base) / page.Size)
	var stop atomic.Bool
	var wg sync.WaitGroup
	var reads atomic.Int64
	for range 2 {
		conn := live(t, path)
		wg.Go(func() {
			for !stop.Load() {
				got, err := tryText(conn, "SELECT count(*), max(n) - min(n) FROM t")
				if err != nil || got != "50|0" {
					t.Errorf("a reader sees %q, %v, want 50|0", got, err)
					return
				}
				reads.Add(1)
			}
		})
	}
	conn := live(t, path)
	wg.Go(func() {
		for i := 0; !stop.Load(); i++ {
			q := "UPDATE t SET n = n + 1"
			if i%7 == 6 {
				q = "PRAGMA wal_checkpoint"
			}
			if _, err := conn.Exec(q, nil); err != nil {
				t.Errorf("a writer: %v", err)
				return
			}
		}
	})
	for made := 0; made < 200 && !t.Failed(); {
		p, err := db.BeginPageCommit()
		if errors.Is(err, ErrBusy) || errors.Is(err, ErrEmptyWAL) || errors.Is(err, ErrNotReady) {
			continue
		}
		if err != nil {
			t.Error(err)
			break
		}
		img := images[made%2]
		for no := page.No(1); uint32(no) <= count && err == nil; no++ {
			err = p.Append(no, img[no.Offset():][:page.Size])
		}
		if err == nil {
			err = p.Commit(count)
		}
		if err != nil {
			t.Error(err)
			p.Abort()
			break
		}
		made++
		if made%50 == 0 {
			if _, err := db.WALState(); err != nil {
				t.Error(err)
			}
		}
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d reads", reads.Load())
	sound(t, path, c, "SELECT count(*), max(n) - min(n) FROM t", "50|0")
}

// TestFiles shows reading beyond the end and before the start of files.
func TestFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	c := live(t, path)
	run(t, c, "CREATE TABLE t(a)")
	db := of(t, c)
	for _, f := range []File{Main, WAL} {
		size, err := db.Size(f)
		if err != nil || size == 0 {
			t.Fatalf("Size(%v) = %d, %v", f, size, err)
		}
		b := make([]byte, 100)
		for _, tt := range []struct {
			off int64
			n   int
			err error
		}{{0, 100, nil}, {size - 100, 100, nil}, {size - 10, 10, io.EOF}, {size, 0, io.EOF}, {size + 1000, 0, io.EOF}} {
			if n, err := db.ReadAt(f, b, tt.off); n != tt.n || err != tt.err {
				t.Errorf("ReadAt(%v, %d) = %d, %v, want %d, %v", f, tt.off, n, err, tt.n, tt.err)
			}
		}
		if _, err := db.ReadAt(f, b, -1); err == nil {
			t.Errorf("ReadAt(%v, -1) succeeded", f)
		}
		if n, err := db.ReadAt(f, nil, 0); n != 0 || err != nil {
			t.Errorf("ReadAt(%v) of nothing = %d, %v", f, n, err)
		}
		if err := db.Sync(f); err != nil {
			t.Error(err)
		}
	}
	x := open(t, filepath.Join(t.TempDir(), "delete.db"))
	run(t, x, "CREATE TABLE t(a)")
	if _, err := of(t, x).ReadAt(WAL, make([]byte, 1), 0); !errors.Is(err, ErrNotReady) {
		t.Errorf("ReadAt(WAL) without a WAL = %v, want ErrNotReady", err)
	}
	if _, err := of(t, x).WALState(); !errors.Is(err, ErrNotReady) {
		t.Errorf("WALState without a WAL = %v, want ErrNotReady", err)
	}
}

// otherOrder is the byte order that this machine does not have.
func otherOrder() binary.ByteOrder {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

func BenchmarkPageCommit(b *testing.B) {
	for _, n := range []int{1, 10, 70, 466} {
		b.Run(fmt.Sprintf("pages=%d", n), func(b *testing.B) {
			c := live(b, filepath.Join(b.TempDir(), "a.db"))
			run(b, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)", fmt.Sprintf("INSERT INTO t VALUES (1, zeroblob(%d))", n*page.Size))
			db := of(b, c)
			img := contents(b, db)
			for b.Loop() {
				p := begin(b, db)
				for i := range n {
					if err := p.Append(page.No(i+1), img[i*page.Size:][:page.Size]); err != nil {
						b.Fatal(err)
					}
				}
				if err := p.Commit(uint32(len(img) / page.Size)); err != nil {
					b.Fatal(err)
				}
				if p.State().MaxFrame > 20000 {
					run(b, c, "PRAGMA wal_checkpoint(TRUNCATE)", fmt.Sprintf("PRAGMA user_version = %d", p.State().Change+1))
				}
			}
		})
	}
}
