package replica

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/tursosync/tursosync/internal/page"
)

// rich makes a database with every kind of page.
func rich(t *testing.T, seed uint64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rich.db")
	c, err := openConn(path, "mode=rwc")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rnd := rand.New(rand.NewPCG(seed, 0))
	exec := func(format string, args ...any) {
		t.Helper()
		if err := c.exec(fmt.Sprintf(format, args...)); err != nil {
			t.Fatal(err)
		}
	}
	if seed%5 == 4 {
		exec(`PRAGMA auto_vacuum=%d`, 1+seed%2)
	}
	exec(`CREATE TABLE a(id INTEGER PRIMARY KEY, x, y)`)
	exec(`CREATE TABLE b(k TEXT PRIMARY KEY, v) WITHOUT ROWID`)
	exec(`CREATE TABLE e(x)`)
	exec(`CREATE INDEX a_x ON a(x)`)
	exec(`CREATE INDEX a_xy ON a(y, x)`)
	exec(`CREATE VIEW w AS SELECT * FROM a`)
	for range 30 {
		exec(`BEGIN`)
		for range 20 {
			size := rnd.IntN(60)
			switch rnd.IntN(12) {
			case 0:
				size = rnd.IntN(9000)
			case 1:
				size = 3900 + rnd.IntN(400)
			case 2:
				size = 900 + rnd.IntN(200)
			}
			exec(`INSERT INTO a(id, x, y) VALUES (%d, %d, hex(randomblob(%d))) ON CONFLICT DO UPDATE SET x = excluded.x, y = excluded.y`,
				rnd.IntN(1000)-100, rnd.Int64()>>rnd.IntN(64), size/2)
			exec(`REPLACE INTO b VALUES (%d, zeroblob(%d))`, rnd.IntN(500), size)
			if rnd.IntN(10) == 0 {
				exec(`DELETE FROM a WHERE id %% 7 = %d`, rnd.IntN(7))
				exec(`DELETE FROM b WHERE abs(random()) %% 3 = 0`)
				exec(`UPDATE a SET y = substr(y, 5) WHERE id %% 5 = 1`)
			}
		}
		exec(`COMMIT`)
	}
	return path
}

// inspect runs the inspector over a file as if all pages in changed had come.
func inspect(t *testing.T, file []byte, changed *page.Set, s schema) error {
	t.Helper()
	v := inspector{changed: changed, pageCount: uint32(len(file) / page.Size), read: func(no page.No, image []byte) error {
		copy(image, file[no.Offset():])
		return nil
	}}
	return v.run(s)
}

func schemaOf(t *testing.T, path string) schema {
	t.Helper()
	c, err := openConn(path, "mode=ro&immutable=1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := readSchema(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestInspector holds the inspector against SQLite's quick_check: nothing that
// SQLite wrote is refused, and of single flipped bits that SQLite finds few are
// missed.
func TestInspector(t *testing.T) {
	found, missed, more := 0, 0, 0
	for seed := range uint64(10) {
		path := rich(t, seed)
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s := schemaOf(t, path)
		count := uint32(len(file) / page.Size)
		all := new(page.Set)
		all.AddRange(1, page.No(count))
		for _, changed := range []*page.Set{all, new(page.Set)} {
			if err := inspect(t, file, changed, s); err != nil {
				t.Fatalf("seed %d, %d pages changed: %v", seed, changed.Len(), err)
			}
		}
		rnd := rand.New(rand.NewPCG(seed, 1))
		for range 60 {
			no := page.No(1 + rnd.IntN(int(count)))
			bit := rnd.IntN(8 * 64) // headers and cell pointers: payload has no structure
			if rnd.IntN(2) == 0 {
				bit = rnd.IntN(8 * page.Size)
			}
			at := int(no.Offset()) + bit/8
			if at < 100 {
				continue
			}
			file[at] ^= 1 << (bit % 8)
			if err := os.WriteFile(path, file, 0o600); err != nil {
				t.Fatal(err)
			}
			var sqlite error
			if c, err := openConn(path, "mode=ro&immutable=1"); err != nil {
				sqlite = err
			} else {
				sqlite = quickCheck(c)
				c.Close()
			}
			changed := new(page.Set)
			changed.Add(no)
			switch ours := inspect(t, file, changed, s); {
			case sqlite != nil && ours == nil:
				missed++
				t.Logf("seed %d: bit %d of page %d of %d: %v", seed, bit, no, count, sqlite)
			case ours != nil && sqlite == nil:
				more++
			case ours != nil:
				found++
			}
			file[at] ^= 1 << (bit % 8)
		}
	}
	t.Logf("%d found, %d missed, %d that SQLite does not find", found, missed, more)
	if missed*3 > found { // what is missed are mostly overflow pages whose row is on another page
		t.Errorf("%d missed of %d", missed, missed+found)
	}
}

// FuzzInspector: pages are input from outside.
func FuzzInspector(f *testing.F) {
	f.Add(make([]byte, page.Size), uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, image []byte, at uint16, value byte) {
		file := make([]byte, 2*page.Size)
		copy(file, image)
		file[100], file[int(at)%len(file)] = 0x05, value
		changed := new(page.Set)
		changed.AddRange(1, 2)
		_ = inspect(t, file, changed, schema{{kind: "table", root: 2}, {kind: "index", root: 2}})
	})
}
