package shim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/wal"
)

// fillTo makes frames, verbatim pages and so no change, until the WAL has n.
func fillTo(t *testing.T, db DB, img []byte, n uint32, rnd *rand.Rand) {
	t.Helper()
	count := uint32(len(img) / page.Size)
	p := begin(t, db)
	for range n - p.State().MaxFrame {
		no := page.No(1 + rnd.IntN(int(count)))
		if err := p.Append(no, img[no.Offset():][:page.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Commit(count); err != nil {
		t.Fatal(err)
	}
	if got := state(t, db).MaxFrame; got != n {
		t.Fatalf("MaxFrame = %d, want %d", got, n)
	}
}

// TestPageCommitAcrossBlocks shows page commits from just before to just behind each
// end of the first two blocks of the wal-index: in a new WAL, and in one that was
// started over, with old entries in all blocks. Each time a reader keeps the snapshot from
// before, a reader with mmap takes the new state, and SQLite makes the same
// of the files when it has to build the wal-index anew (sound).
func TestPageCommitAcrossBlocks(t *testing.T) {
	if testing.Short() {
		t.Skip("40 databases of 33 MB")
	}
	const rows = "SELECT count(*), sum(b), group_concat(a % 7, '') FROM t"
	for _, restarted := range []bool{false, true} {
		for _, end := range []uint32{4062, 8158} {
			for _, tt := range []struct{ from, to int }{ // frames before and after, from the end
				{-2, -1}, {-2, 0}, {-1, 0}, {-1, 1}, {-300, 300}, {0, 1}, {0, 2}, {1, 2}, {-5, 4096}, {0, 4096}, {-3, 4097},
			} {
				if restarted && tt.from*tt.to > 0 {
					continue
				}
				t.Run(fmt.Sprintf("restarted=%v/from %d to %d", restarted, int(end)+tt.from, int(end)+tt.to), func(t *testing.T) {
					path := filepath.Join(t.TempDir(), "a.db")
					rnd := rand.New(rand.NewPCG(uint64(end), uint64(tt.to)))
					c := live(t, path)
					run(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b INTEGER, c BLOB)",
						"WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM g LIMIT 900) INSERT INTO t SELECT n, 0, zeroblob(900) FROM g")
					db := of(t, c)
					if restarted {
						fillTo(t, db, contents(t, db), 12300, rnd)
						run(t, c, "PRAGMA wal_checkpoint(RESTART)", "UPDATE t SET b = 7 WHERE a = 1")
						if n := state(t, db).MaxFrame; n > 10 {
							t.Fatalf("the WAL did not start over: %d frames", n)
						}
					}
					fillTo(t, db, contents(t, db), uint32(int(end)+tt.from), rnd)
					old, mapped := live(t, path), live(t, path)
					run(t, mapped, "PRAGMA mmap_size = 1000000000")
					run(t, old, "PRAGMA cache_size = 1", "BEGIN")
					was := text(t, old, rows)
					if got := text(t, mapped, rows); got != was {
						t.Fatalf("with mmap: %s, want %s", got, was)
					}
					// The changed pages come first or last, among as many more as it takes.
					from := contents(t, db)
					img := edited(t, from, "UPDATE t SET b = b + 1 WHERE a % 300 = 0")
					p := begin(t, db)
					appendDiff(t, p, from, img, nil)
					var changed []page.No
					for no := page.No(1); no.Offset() < int64(len(img)); no++ {
						if !bytes.Equal(from[no.Offset():][:page.Size], img[no.Offset():][:page.Size]) {
							changed = append(changed, no)
						}
					}
					room := tt.to - tt.from
					if room < len(changed) { // too few frames for all: change one page only
						if err := p.Abort(); err != nil {
							t.Fatal(err)
						}
						img = bytes.Clone(from)
						binary.BigEndian.PutUint32(img[68:], 42) // application_id, on page 1
						changed = []page.No{1}
						p = begin(t, db)
						appendDiff(t, p, from, img, nil)
					}
					for range room - len(changed) {
						no := page.No(1 + rnd.IntN(len(img)/page.Size))
						if err := p.Append(no, img[no.Offset():][:page.Size]); err != nil {
							t.Fatal(err)
						}
					}
					if err := p.Commit(uint32(len(img) / page.Size)); err != nil {
						t.Fatal(err)
					}
					if got, want := state(t, db).MaxFrame, uint32(int(end)+tt.to); got != want {
						t.Fatalf("MaxFrame = %d, want %d", got, want)
					}
					if !bytes.Equal(contents(t, db), img) {
						t.Error("after Commit the database is not the image")
					}
					if got := text(t, old, rows); got != was {
						t.Errorf("the older snapshot became %s, was %s", got, was)
					}
					now := text(t, c, rows)
					if got := text(t, mapped, rows); got != now || len(changed) > 1 && got == was {
						t.Errorf("with mmap: %s, want %s", got, now)
					}
					sound(t, path, c, rows, now)
					run(t, old, "COMMIT")
					run(t, c, "UPDATE t SET b = b + 1", "PRAGMA wal_checkpoint(TRUNCATE)")
					sound(t, path, c, "SELECT count(*) FROM t WHERE b > 0", "900")
				})
			}
		}
	}
}

// TestPageCommitBehindRestart shows that a page commit carries on whatever WAL there is
// now: new salts, after RESTART or TRUNCATE, are taken from the header, whether its own
// connection has read since or not.
func TestPageCommitBehindRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	c, other := live(t, path), live(t, path)
	run(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)", "INSERT INTO t VALUES (0, 'x')")
	db := of(t, c)
	salts := map[[2]uint32]bool{}
	for i, mode := range []string{"PASSIVE", "FULL", "RESTART", "TRUNCATE", "PASSIVE"} {
		run(t, other, "PRAGMA wal_checkpoint("+mode+")")
		if mode == "TRUNCATE" {
			if _, err := db.BeginPageCommit(); !errors.Is(err, ErrEmptyWAL) {
				t.Fatalf("after TRUNCATE BeginPageCommit = %v, want ErrEmptyWAL", err)
			}
		} else if p, err := db.BeginPageCommit(); err != nil {
			t.Fatalf("after %s: %v", mode, err)
		} else if err := p.Abort(); err != nil {
			t.Fatal(err)
		}
		run(t, other, fmt.Sprintf("INSERT INTO t VALUES (%d, 'other')", 2*i+1)) // starts the WAL over
		s := state(t, db)
		if salts[s.Salt] || s.MaxFrame > 3 {
			t.Fatalf("after %s the WAL did not start over: %+v", mode, s)
		}
		salts[s.Salt] = true
		pageCommit(t, db, edited(t, contents(t, db), fmt.Sprintf("INSERT INTO t VALUES (%d, 'pages')", 2*i+2)), nil)
		sound(t, path, c, "SELECT count(*), max(a) FROM t", fmt.Sprintf("%d|%d", 2*i+3, 2*i+2))
	}
}

// dieInCommit has another process set a fault that ends it, and make a page commit of img.
func dieInCommit(t *testing.T, path string, img []byte, file File, op Fault, n int) {
	t.Helper()
	if err := os.WriteFile(path+"-image", img, 0o600); err != nil {
		t.Fatal(err)
	}
	childDies(t, Died, "^TestDieInCommit$", fmt.Sprintf("TURSOSYNC_TEST_DIE=%d %d %d %s", file, op, n, path))
}

// TestDieInCommit is the other process of dieInCommit.
func TestDieInCommit(t *testing.T) {
	var file File
	var op Fault
	var n int
	var path string
	if _, err := fmt.Sscan(os.Getenv("TURSOSYNC_TEST_DIE"), &file, &op, &n, &path); err != nil {
		t.Skip("runs only as the child of another test")
	}
	img, err := os.ReadFile(path + "-image")
	if err != nil {
		t.Fatal(err)
	}
	db := of(t, live(t, path))
	from := contents(t, db)
	p := begin(t, db)
	if err := db.SetFault(file, op, n); err != nil {
		t.Fatal(err)
	}
	appendDiff(t, p, from, img, nil)
	if err := p.Commit(uint32(len(img) / page.Size)); err != nil {
		t.Fatal(err)
	}
	t.Error("the fault did not come")
}

// TestPageCommitDies ends a process at each step of a page commit. Those who live on,
// and whoever recovers the files alone, see either the state before or the one after, as
// docs say of that step; and they can go on writing, by SQL and by pages.
func TestPageCommitDies(t *testing.T) {
	const rows = "SELECT group_concat(a) FROM t"
	for _, tt := range []struct {
		name            string
		file            File
		op              Fault
		n               int
		here, recovered string // what others see, and what a recovery finds
	}{
		{"half of the first frames", WAL, DieWrite, 0, "1", "1"},
		{"half of the last frames", WAL, DieWrite, 1, "1", "1"},
		{"before the sync", WAL, DieSync, 0, "1", "1,2"},
		{"between the copies of the header", Main, DieBarrier, 0, "1,2", "1,2"},
		{"before unlocking", Main, DieBarrier, 1, "1,2", "1,2"},
	} {
		for _, next := range []string{"SQL", "pages", "program"} {
			t.Run(tt.name+"/"+next, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "a.db")
				c := live(t, path)
				run(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)", "INSERT INTO t VALUES (1, 1)")
				db := of(t, c)
				reader := live(t, path)
				run(t, reader, "BEGIN")
				old := text(t, reader, rows)
				// 20 pages: two writes.
				img := edited(t, contents(t, db), "INSERT INTO t VALUES (2, zeroblob(72000))")
				dieInCommit(t, path, img, tt.file, tt.op, tt.n)
				if got := text(t, reader, rows); got != old {
					t.Errorf("the reader's snapshot became %s, was %s", got, old)
				}
				run(t, reader, "COMMIT")
				crashed := filepath.Join(t.TempDir(), "b.db")
				for _, ext := range []string{"", "-wal"} {
					raw, err := os.ReadFile(path + ext)
					if err == nil {
						err = os.WriteFile(crashed+ext, raw, 0o600)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				alone := live(t, crashed)
				if got := text(t, alone, rows+" UNION ALL SELECT * FROM pragma_integrity_check"); got != tt.recovered+"\nok" {
					t.Errorf("recovered: %q, want %s", got, tt.recovered)
				}
				if got := text(t, c, rows); got != tt.here {
					t.Fatalf("others see %s, want %s", got, tt.here)
				}
				switch next {
				case "SQL":
					run(t, c, "INSERT INTO t VALUES (3, zeroblob(9000))")
				case "pages":
					pageCommit(t, db, edited(t, contents(t, db), "INSERT INTO t VALUES (3, zeroblob(9000))"), nil)
				case "program":
					shell(t, path, "PRAGMA wal_autocheckpoint = 0; INSERT INTO t VALUES (3, zeroblob(9000))")
				}
				sound(t, path, c, rows, tt.here+",3")
				run(t, c, "PRAGMA wal_checkpoint(TRUNCATE)")
				sound(t, path, c, rows, tt.here+",3")
			})
		}
	}
}

// TestPageCommitAfterCrash shows page commits behind a WAL as a crash leaves it, the wal-index
// gone: whole, torn in its last commit, with a foreign tail, and followed by frames
// without a commit.
func TestPageCommitAfterCrash(t *testing.T) {
	const rows = "SELECT group_concat(a) FROM t"
	src := filepath.Join(t.TempDir(), "src.db")
	c := live(t, src)
	run(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)", "INSERT INTO t VALUES (1, 1)")
	whole := state(t, of(t, c)).MaxFrame
	run(t, c, "INSERT INTO t VALUES (2, zeroblob(20000))") // several frames
	end := state(t, of(t, c)).MaxFrame
	raw := map[string][]byte{}
	for _, ext := range []string{"", "-wal"} {
		b, err := os.ReadFile(src + ext)
		if err != nil {
			t.Fatal(err)
		}
		raw[ext] = b
	}
	frame := func(n uint32) int { return wal.HeaderSize + int(n-1)*wal.FrameSize }
	for _, tt := range []struct {
		name string
		wal  func(b []byte) []byte
		want string
	}{
		{"whole", func(b []byte) []byte { return b }, "1,2"},
		{"last frame torn", func(b []byte) []byte { return b[:len(b)-100] }, "1"},
		{"last frame flipped", func(b []byte) []byte { b[len(b)-100] ^= 1; return b }, "1"},
		{"cut before the commit frame", func(b []byte) []byte { return b[:frame(end)] }, "1"},
		{"cut within a frame header", func(b []byte) []byte { return b[:frame(whole+1)+10] }, "1"},
		{"foreign tail", func(b []byte) []byte {
			return append(b, bytes.Repeat([]byte{0x5a}, 3*wal.FrameSize)...)
		}, "1,2"},
		{"salt of an older WAL behind", func(b []byte) []byte {
			tail := bytes.Clone(b[frame(1):frame(4)])
			for i := range 3 {
				tail[i*wal.FrameSize+8]++
			}
			return append(b, tail...)
		}, "1,2"},
		{"commit size wiped", func(b []byte) []byte { clear(b[frame(end):][:wal.FrameHeaderSize]); return b }, "1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.db")
			err := errors.Join(os.WriteFile(path, raw[""], 0o600), os.WriteFile(path+"-wal", tt.wal(bytes.Clone(raw["-wal"])), 0o600))
			if err != nil {
				t.Fatal(err)
			}
			c := live(t, path)
			if got := text(t, c, rows); got != tt.want {
				t.Fatalf("SQLite recovers %s, want %s", got, tt.want)
			}
			db := of(t, c)
			pageCommit(t, db, edited(t, contents(t, db), "INSERT INTO t VALUES (3, zeroblob(9000))"), nil)
			sound(t, path, c, rows, tt.want+",3")
			run(t, c, "INSERT INTO t VALUES (4, zeroblob(9000))")
			sound(t, path, c, rows, tt.want+",3,4")
		})
	}
}

// TestPageCommitPageSizes shows that every page size that is not the remote's is
// refused with ErrPageSize, and that not a byte of the files is changed.
func TestPageCommitPageSizes(t *testing.T) {
	for size := 512; size <= 65536; size *= 2 {
		if size == page.Size {
			continue
		}
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.db")
			c := open(t, path)
			run(t, c, fmt.Sprintf("PRAGMA page_size = %d", size), "PRAGMA journal_mode = wal", "CREATE TABLE t(a)", "INSERT INTO t VALUES (1)")
			db := of(t, c)
			if got := state(t, db).PageSize; got != size {
				t.Fatalf("PageSize = %d, want %d", got, size)
			}
			files := func() string {
				var b strings.Builder
				for _, ext := range []string{"", "-wal", "-shm"} {
					raw, err := os.ReadFile(path + ext) // no other process has locks to lose
					if err != nil {
						t.Fatal(err)
					}
					b.Write(raw)
				}
				return b.String()
			}
			// Reading the files drops this process's POSIX locks on them, which nobody misses.
			before := files()
			if p, err := db.BeginPageCommit(); !errors.Is(err, ErrPageSize) {
				t.Errorf("BeginPageCommit = %v, %v, want ErrPageSize", p, err)
			}
			if files() != before {
				t.Error("a refused page commit changed the files")
			}
			run(t, c, "INSERT INTO t VALUES (2)")
			if got := text(t, c, "SELECT count(*) FROM t UNION ALL SELECT * FROM pragma_integrity_check"); got != "2\nok" {
				t.Errorf("afterwards there is %q", got)
			}
		})
	}
}

// TestPageCommitGrowsAndShrinks shows page commits that make the database larger and
// smaller in turn, with readers of each size at work, one through mmap, and a
// checkpoint now and then. Pages beyond the page count are refused.
func TestPageCommitGrowsAndShrinks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	c := live(t, path)
	run(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)", "INSERT INTO t VALUES (1, 1)")
	db := of(t, c)
	const rows = "SELECT group_concat(a || ':' || length(b)) FROM t"
	small := contents(t, db)
	type reader struct {
		end  func()
		look func() string
		want string
	}
	var readers []reader
	for i, bytesOf := range []int{1000, 400_000, 2000, 5_000_000, 100_000, 0, 300_000} {
		img := small
		if bytesOf > 0 {
			img = edited(t, small, fmt.Sprintf("INSERT INTO t VALUES (2, zeroblob(%d))", bytesOf))
		}
		if i%3 == 2 {
			run(t, c, "PRAGMA busy_timeout = 0")
			text(t, c, "PRAGMA wal_checkpoint(TRUNCATE)") // as far as the readers let it
			run(t, c, "PRAGMA busy_timeout = 10000")
		}
		pageCommit(t, db, img, rand.New(rand.NewPCG(1, uint64(i))))
		p := begin(t, db)
		if err := p.Append(page.No(len(img)/page.Size+1), img[:page.Size]); err != nil {
			t.Fatal(err)
		}
		if err := p.Commit(uint32(len(img) / page.Size)); !errors.Is(err, ErrPageNo) {
			t.Errorf("a page behind the end: Commit = %v, want ErrPageNo", err)
		}
		if err := p.Abort(); err != nil {
			t.Fatal(err)
		}
		want := "1:1"
		if bytesOf > 0 {
			want += fmt.Sprintf(",2:%d", bytesOf)
		}
		sound(t, path, c, rows, want)
		r := live(t, path)
		run(t, r, "PRAGMA cache_size = 1", fmt.Sprintf("PRAGMA mmap_size = %d", i%2*1_000_000_000), "BEGIN")
		readers = append(readers, reader{
			end: func() { run(t, r, "COMMIT") }, look: func() string { return text(t, r, rows) }, want: want,
		})
		for j, r := range readers {
			if got := r.look(); got != r.want {
				t.Fatalf("the snapshot of reader %d became %s, was %s", j, got, r.want)
			}
		}
	}
	for _, r := range readers {
		r.end()
	}
	run(t, c, "PRAGMA wal_checkpoint(TRUNCATE)")
	sound(t, path, c, rows, "1:1,2:300000")
}

// TestPageCommitOrders shows page commits behind WALs of both byte orders, over an end of a
// wal-index block, and SQLite going on behind them.
func TestPageCommitOrders(t *testing.T) {
	src := live(t, filepath.Join(t.TempDir(), "src.db"))
	run(t, src, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)", "INSERT INTO t VALUES (1, zeroblob(300000))")
	img := contents(t, of(t, src))
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.db")
			f, err := os.Create(path + "-wal")
			if err != nil {
				t.Fatal(err)
			}
			w := wal.NewWriter(f, order, [2]uint32{7, 8})
			for no := page.No(1); no.Offset() < int64(len(img)); no++ {
				if err := w.Append(no, img[no.Offset():][:page.Size], uint32(len(img)/page.Size)); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(f.Close(), os.WriteFile(path, img[:page.Size], 0o600)); err != nil {
				t.Fatal(err)
			}
			c := open(t, path+"?_busy_timeout=10000")
			run(t, c, "PRAGMA wal_autocheckpoint = 0", "SELECT count(*) FROM t")
			db := of(t, c)
			fillTo(t, db, img, 4061, rand.New(rand.NewPCG(1, 1)))
			pageCommit(t, db, edited(t, contents(t, db), "INSERT INTO t VALUES (2, zeroblob(30000))"), nil)
			run(t, c, "INSERT INTO t VALUES (3, zeroblob(30000))")
			sound(t, path, c, "SELECT sum(length(b)) FROM t", "360000")
		})
	}
}

// TestPageCommitExclusive shows page commits of a connection in exclusive locking mode: with a
// wal-index in shared memory they are commits as ever; one that SQLite keeps to itself,
// in the heap, is out of reach, and that is told.
func TestPageCommitExclusive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	c := live(t, path)
	run(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)", "INSERT INTO t VALUES (1, 1)",
		"PRAGMA locking_mode = exclusive", "INSERT INTO t VALUES (2, 2)")
	pageCommit(t, of(t, c), edited(t, contents(t, of(t, c)), "INSERT INTO t VALUES (3, zeroblob(9000))"), nil)
	run(t, c, "INSERT INTO t VALUES (4, 4)")
	if got := text(t, c, "SELECT group_concat(a) FROM t UNION ALL SELECT * FROM pragma_integrity_check"); got != "1,2,3,4\nok" {
		t.Errorf("with shared memory there is %q", got)
	}
	c.Close()
	c = open(t, path+"?_locking_mode=EXCLUSIVE")
	run(t, c, "INSERT INTO t VALUES (5, 5)")
	if _, err := os.Stat(path + "-shm"); err == nil {
		t.Fatal("the wal-index is not in the heap")
	}
	if p, err := of(t, c).BeginPageCommit(); !errors.Is(err, ErrNotReady) {
		t.Errorf("BeginPageCommit = %v, %v, want ErrNotReady", p, err)
	}
	run(t, c, "INSERT INTO t VALUES (6, 6)")
	if got := text(t, c, "SELECT group_concat(a) FROM t UNION ALL SELECT * FROM pragma_integrity_check"); got != "1,2,3,4,5,6\nok" {
		t.Errorf("without shared memory there is %q", got)
	}
}

// TestPageCommitAbortedOften shows that what is given up leaves no entry in the
// wal-index: three times as many as a block has room for.
func TestPageCommitAbortedOften(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	c := live(t, path)
	run(t, c, "CREATE TABLE t(a)", "INSERT INTO t VALUES (1)")
	db := of(t, c)
	image := make([]byte, page.Size)
	for i := range 4 {
		p := begin(t, db)
		for no := range 3000 {
			if err := p.Append(page.No(100+3000*i+no), image); err != nil {
				t.Fatalf("page commit %d: append: %v", i+1, err)
			}
		}
		if err := p.Abort(); err != nil {
			t.Fatal(err)
		}
	}
	pageCommit(t, db, edited(t, contents(t, db), "INSERT INTO t VALUES (2)"), nil)
	if got := text(t, c, "SELECT group_concat(a) FROM t UNION ALL SELECT * FROM pragma_integrity_check"); got != "1,2\nok" {
		t.Errorf("there is %q", got)
	}
}
