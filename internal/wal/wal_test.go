package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/page"
)

// memory is a file in memory.
type memory []byte

func (m *memory) WriteAt(b []byte, off int64) (int, error) {
	if need := int(off) + len(b); need > len(*m) {
		*m = append(*m, make([]byte, need-len(*m))...)
	}
	return copy((*m)[off:], b), nil
}

func image(fill byte) []byte { return bytes.Repeat([]byte{fill}, page.Size) }

// write makes a WAL of frames (page, fill, page count).
func write(t testing.TB, order binary.ByteOrder, frames [][3]uint32) []byte {
	t.Helper()
	var m memory
	w := NewWriter(&m, order, [2]uint32{7, 8})
	for _, f := range frames {
		if err := w.Append(page.No(f[0]), image(byte(f[1])), f[2]); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func scan(t testing.TB, b []byte) *Index {
	t.Helper()
	x, err := Scan(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// TestScan shows which frames count.
func TestScan(t *testing.T) {
	two := [][3]uint32{{1, 1, 0}, {2, 2, 2}, {1, 3, 0}, {3, 4, 3}}
	for _, tt := range []struct {
		name   string
		frames [][3]uint32
		spoil  func(b []byte) []byte
		end    uint32
		count  uint32
		fills  map[page.No]byte
	}{
		{"nothing", nil, nil, 0, 0, nil},
		{"two commits", two, nil, 4, 3, map[page.No]byte{1: 3, 2: 2, 3: 4}},
		{"tail without commit", append(two[:4:4], [3]uint32{2, 9, 0}), nil, 4, 3, map[page.No]byte{1: 3, 2: 2, 3: 4}},
		{"shrunk", append(two[:4:4], [3]uint32{1, 5, 1}), nil, 5, 1, map[page.No]byte{1: 5}},
		{"no commit at all", [][3]uint32{{1, 1, 0}, {2, 1, 0}}, nil, 0, 0, nil},
		{"bad checksum in commit 2", two, func(b []byte) []byte { b[Size(2)+100] ^= 1; return b }, 2, 2, map[page.No]byte{1: 1, 2: 2}},
		{"bad salt in commit 2", two, func(b []byte) []byte { b[Size(3)+8] ^= 1; return b }, 2, 2, map[page.No]byte{1: 1, 2: 2}},
		{"page 0", two, func(b []byte) []byte { copy(b[Size(2):], []byte{0, 0, 0, 0}); return b }, 2, 2, map[page.No]byte{1: 1, 2: 2}},
		{"torn last frame", two, func(b []byte) []byte { return b[:len(b)-1] }, 2, 2, map[page.No]byte{1: 1, 2: 2}},
		{"torn frame header", two, func(b []byte) []byte { return b[:Size(1)+10] }, 0, 0, nil},
		{"bad magic", two, func(b []byte) []byte { b[0] ^= 1; return b }, 0, 0, nil},
		{"bad header checksum", two, func(b []byte) []byte { b[30] ^= 1; return b }, 0, 0, nil},
		{"half a header", two, func(b []byte) []byte { return b[:20] }, 0, 0, nil},
	} {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			t.Run(fmt.Sprintf("%s/%v", tt.name, order), func(t *testing.T) {
				b := write(t, order, tt.frames)
				if tt.spoil != nil {
					b = tt.spoil(b)
				}
				x := scan(t, b)
				if x.End.Frame != tt.end || x.PageCount != tt.count || x.Pages().Len() != len(tt.fills) {
					t.Fatalf("End.Frame, PageCount, pages = %d, %d, %d, want %d, %d, %d",
						x.End.Frame, x.PageCount, x.Pages().Len(), tt.end, tt.count, len(tt.fills))
				}
				for no, fill := range tt.fills {
					got := make([]byte, page.Size)
					if err := x.ReadPage(no, got); err != nil || !bytes.Equal(got, image(fill)) {
						t.Errorf("ReadPage(%v) = %d…, %v, want %d…", no, got[0], err, fill)
					}
				}
				if err := x.ReadPage(99, image(0)); !errors.Is(err, ErrNoPage) {
					t.Errorf("ReadPage(99) = %v, want ErrNoPage", err)
				}
			})
		}
	}
}

// TestScanUnsupported shows that valid WALs we cannot handle are told from damaged ones.
func TestScanUnsupported(t *testing.T) {
	for _, tt := range []struct {
		name string
		off  int
		v    uint32
		want error
	}{
		{"version", 4, 3007001, ErrVersion},
		{"page size", 8, 1024, ErrPageSize},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := write(t, binary.LittleEndian, [][3]uint32{{1, 1, 1}})
			binary.BigEndian.PutUint32(b[tt.off:], tt.v)
			s := sum{order: binary.LittleEndian}
			s.add(b[:24])
			putPair(b[24:], s.words())
			if _, err := Scan(bytes.NewReader(b), int64(len(b))); !errors.Is(err, tt.want) {
				t.Errorf("Scan = %v, want %v", err, tt.want)
			}
		})
	}
}

// TestScanFrom shows that a scan can be taken up, and that a WAL which started
// over or lost frames is noticed.
func TestScanFrom(t *testing.T) {
	frames := [][3]uint32{{1, 1, 1}, {2, 2, 2}, {3, 3, 3}}
	b := write(t, binary.LittleEndian, frames)
	first := scan(t, b[:Size(1)])
	x, err := ScanFrom(bytes.NewReader(b), int64(len(b)), first.End)
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Collect(x.Pages().All()); !slices.Equal(got, []page.No{2, 3}) || x.End != scan(t, b).End {
		t.Errorf("ScanFrom: pages %v, end %v, want [2 3], %v", got, x.End, scan(t, b).End)
	}
	again, err := ScanFrom(bytes.NewReader(b), int64(len(b)), x.End)
	if err != nil || again.End != x.End || again.Pages().Len() != 0 {
		t.Errorf("ScanFrom(end) = %v, %v, want nothing new", again, err)
	}
	var m memory
	w := NewWriter(&m, binary.LittleEndian, [2]uint32{8, 9})
	for range 3 {
		if err := w.Append(1, image(1), 1); err != nil {
			t.Fatal(err)
		}
	}
	other := write(t, binary.LittleEndian, [][3]uint32{{1, 1, 1}, {2, 2, 2}, {3, 9, 3}, {1, 1, 3}})
	for name, b := range map[string][]byte{"other salt": m, "shorter": b[:Size(2)], "other frame": other, "gone": nil} {
		if _, err := ScanFrom(bytes.NewReader(b), int64(len(b)), x.End); !errors.Is(err, ErrReset) {
			t.Errorf("%s: ScanFrom = %v, want ErrReset", name, err)
		}
	}
}

// brokenReader fails, as disks do.
type brokenReader struct {
	io.ReaderAt
	from int64
}

var errDisk = errors.New("disk is gone")

func (r brokenReader) ReadAt(b []byte, off int64) (int, error) {
	if off >= r.from {
		return 0, errDisk
	}
	return r.ReaderAt.ReadAt(b, off)
}

// TestScanReadError shows that an I/O error is not taken for the end of the log.
func TestScanReadError(t *testing.T) {
	b := write(t, binary.LittleEndian, [][3]uint32{{1, 1, 1}})
	for _, from := range []int64{0, HeaderSize} {
		if _, err := Scan(brokenReader{bytes.NewReader(b), from}, int64(len(b))); !errors.Is(err, errDisk) {
			t.Errorf("Scan with errors from %d = %v, want %v", from, err, errDisk)
		}
	}
}

// connect opens a connection in WAL mode that leaves the WAL alone.
func connect(t testing.TB, path string) *sqlite3.SQLiteConn {
	t.Helper()
	c, err := (&sqlite3.SQLiteDriver{}).Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	conn := c.(*sqlite3.SQLiteConn)
	exec(t, conn, "PRAGMA page_size = 4096", "PRAGMA journal_mode = wal", "PRAGMA wal_autocheckpoint = 0")
	return conn
}

func exec(t testing.TB, c *sqlite3.SQLiteConn, queries ...string) {
	t.Helper()
	for _, q := range queries {
		if _, err := c.Exec(q, nil); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

// checkpointed returns what the database file is once SQLite has checkpointed the WAL.
func checkpointed(t testing.TB, db, log []byte) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := errors.Join(os.WriteFile(path, db, 0o600), os.WriteFile(path+"-wal", log, 0o600)); err != nil {
		t.Fatal(err)
	}
	c := connect(t, path)
	exec(t, c, "PRAGMA wal_checkpoint(TRUNCATE)")
	c.Close()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// apply does what a checkpoint does, with an Index.
func apply(t testing.TB, db []byte, x *Index) []byte {
	t.Helper()
	if x.PageCount == 0 {
		return db
	}
	out := make([]byte, int(x.PageCount)*page.Size)
	copy(out, db)
	for no := range x.Pages().All() {
		if err := x.ReadPage(no, out[no.Offset():][:page.Size]); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestScanWhatSQLiteWrote shows, for WALs SQLite wrote by random work and cut at
// random places, that the Index says what SQLite makes of them.
func TestScanWhatSQLiteWrote(t *testing.T) {
	const seed = 1
	rnd := rand.New(rand.NewPCG(seed, seed))
	path := filepath.Join(t.TempDir(), "a.db")
	c := connect(t, path)
	exec(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)", "PRAGMA cache_size = 5", "PRAGMA secure_delete = on",
		"CREATE VIEW generate AS WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM g) SELECT n FROM g")
	for round := range 25 {
		for range rnd.IntN(4) {
			switch rnd.IntN(8) {
			case 0:
				exec(t, c, "DELETE FROM t WHERE a % 3 = 0", "VACUUM")
			case 1: // spills to the WAL, then takes it back
				exec(t, c, "BEGIN", "INSERT INTO t(b) SELECT randomblob(3000) FROM generate LIMIT 200", "ROLLBACK")
			case 2:
				exec(t, c, "PRAGMA wal_checkpoint(RESTART)")
			default:
				exec(t, c, fmt.Sprintf("INSERT INTO t(b) SELECT randomblob(%d) FROM generate LIMIT %d", rnd.IntN(9000), rnd.IntN(30)))
			}
		}
		log, err := os.ReadFile(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		// A copy through SQLite would change it; the database file itself is only
		// written by checkpoints, so this reads it between them. Its closing drops
		// locks, which matters to nobody here: there is one connection.
		db, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		cut := log
		if round%2 == 1 && len(log) > 0 {
			cut = log[:rnd.IntN(len(log))]
		}
		if got, want := apply(t, db, scan(t, cut)), checkpointed(t, db, cut); !bytes.Equal(got, want) {
			t.Fatalf("seed %d, round %d: %d bytes from Index, %d from SQLite, and they differ", seed, round, len(got), len(want))
		}
	}
}

// TestSQLiteReadsWriter shows that SQLite accepts what Writer writes, in both byte orders.
func TestSQLiteReadsWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	c := connect(t, path)
	exec(t, c, "CREATE TABLE t(a)", "INSERT INTO t VALUES (1), (2)")
	log, err := os.ReadFile(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	db, err := os.ReadFile(path) // not empty, or SQLite would delete the WAL
	if err != nil {
		t.Fatal(err)
	}
	x := scan(t, log)
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		var m memory
		w := NewWriter(&m, order, [2]uint32{1, 2})
		buf := make([]byte, page.Size)
		count := uint32(0)
		for no := range x.Pages().All() {
			if err := x.ReadPage(no, buf); err != nil {
				t.Fatal(err)
			}
			if uint32(no) == x.PageCount {
				count = x.PageCount
			}
			if err := w.Append(no, buf, count); err != nil {
				t.Fatal(err)
			}
		}
		got, want := checkpointed(t, db, m), checkpointed(t, db, log)
		if !bytes.Equal(got, want) || len(want) <= page.Size {
			t.Errorf("%v: SQLite made %d bytes of it, want %d", order, len(got), len(want))
		}
		if got := scan(t, m).End; got != w.Position() {
			t.Errorf("%v: End = %v, want %v", order, got, w.Position())
		}
	}
}

func FuzzScan(f *testing.F) {
	f.Add([]byte{}, []byte{})
	good := write(f, binary.LittleEndian, [][3]uint32{{1, 1, 0}, {2, 2, 2}, {1, 3, 2}})
	f.Add(good, []byte{1, 2})
	f.Add(write(f, binary.BigEndian, [][3]uint32{{9, 1, 4}, {2, 2, 1}}), []byte{0})
	f.Fuzz(func(t *testing.T, b, edits []byte) {
		// Checksums keep a fuzzer out; edits reach behind them: each byte makes one
		// more valid frame with that page number and, by its low bit, a commit.
		m := memory(bytes.Clone(b))
		if len(edits) > 0 {
			m = nil
			w := NewWriter(&m, binary.LittleEndian, [2]uint32{uint32(len(b)), 1})
			for i, e := range edits[:min(len(edits), 20)] {
				if err := w.Append(page.No(e>>1)+1, image(byte(i)), uint32(e&1)*uint32(e)); err != nil {
					t.Fatal(err)
				}
			}
			copy(m[min(len(m), len(b)):], b)
		}
		x, err := Scan(bytes.NewReader(m), int64(len(m)))
		if err != nil {
			return
		}
		if Size(x.End.Frame) > int64(len(m)) && x.End.Frame > 0 {
			t.Fatalf("End.Frame = %d in %d bytes", x.End.Frame, len(m))
		}
		buf := make([]byte, page.Size)
		for no := range x.Pages().All() {
			fr, ok := x.Frame(no)
			if !ok || fr == 0 || fr > x.End.Frame || uint32(no) > x.PageCount {
				t.Fatalf("Frame(%v) = %d, %v with End.Frame = %d, PageCount = %d", no, fr, ok, x.End.Frame, x.PageCount)
			}
			if err := x.ReadPage(no, buf); err != nil {
				t.Fatal(err)
			}
		}
		again, err := ScanFrom(bytes.NewReader(m), int64(len(m)), x.End)
		if err != nil || again.End != x.End {
			t.Fatalf("ScanFrom(end) = %v, %v, want end %v", again, err, x.End)
		}
	})
}

func BenchmarkScan(b *testing.B) {
	frames := make([][3]uint32, 1000)
	for i := range frames {
		frames[i] = [3]uint32{uint32(i + 1), 1, uint32(i + 1)}
	}
	m := write(b, binary.LittleEndian, frames)
	b.SetBytes(int64(len(m)))
	for b.Loop() {
		scan(b, m)
	}
}
