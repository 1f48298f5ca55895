package tursosync_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/tursosynctest"
)

// The tests in this file damage a replica's own files: what cannot be used is
// refused with a typed error and left alone, what can be made anew is.

// openErr opens a replica that is expected not to open, and checks that the error
// names it.
func openErr(t *testing.T, cfg tursosync.Config) error {
	t.Helper()
	c, err := tursosync.NewConnector(cfg)
	if err != nil {
		return err
	}
	db := sql.OpenDB(c)
	defer db.Close()
	err = db.Ping()
	if err != nil && !strings.Contains(err.Error(), cfg.Path) {
		t.Errorf("the error does not name the replica: %v", err)
	}
	return err
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestNotADatabase: the user's file is something else.
func TestNotADatabase(t *testing.T) {
	srv := &ownServer{tursosynctest.NewServer(t)}
	sound := readFile(t, plainFile(t, items, `INSERT INTO item VALUES ('a', 1, hex(randomblob(9000)))`, `CREATE INDEX item_a ON item(a)`))
	flipped := bytes.Clone(sound)
	clear(flipped[4096:4200])
	for name, content := range map[string][]byte{
		"text":             []byte(strings.Repeat("Dear diary, today nothing happened.\n", 500)),
		"one byte":         {'S'},
		"header only":      sound[:100],
		"half a page":      sound[:2048],
		"first page":       sound[:4096],
		"half":             sound[:len(sound)/2],
		"last page cut":    sound[:len(sound)-2000],
		"last page lost":   sound[:len(sound)-4096],
		"another magic":    append([]byte("SQLite format 4\x00"), sound[16:]...),
		"page of zeros":    flipped,
		"MVCC":             append(append(bytes.Clone(sound[:18]), 0xff, 0xff), sound[20:]...),
		"encrypted, maybe": bytes.Repeat([]byte{0x5a, 0x13, 0xc7, 0x99}, 4096),
	} {
		t.Run(name, func(t *testing.T) {
			cfg := tursosync.Config{Path: filepath.Join(t.TempDir(), "app.db"), URL: srv.URL, Sync: tursosync.SyncManual}
			writeFile(t, cfg.Path, content)
			if err := openErr(t, cfg); !errors.Is(err, tursosync.ErrNotDatabase) {
				t.Errorf("open = %v, want ErrNotDatabase", err)
			}
			if !bytes.Equal(readFile(t, cfg.Path), content) {
				t.Error("the file was changed")
			}
			left, err := filepath.Glob(cfg.Path + "*")
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range left {
				if f != cfg.Path && f != cfg.Path+"-lock" {
					t.Errorf("%s is left over", f)
				}
			}
			// Put right, it works.
			writeFile(t, cfg.Path, sound)
			one := open(t, srv, at(cfg.Path), func(c *tursosync.Config) { c.Existing = tursosync.ExistingUpload })
			one.sync()
			one.want(`SELECT count(*) FROM item`, "1")
		})
	}
	if rows := srv.Query(`SELECT count(*) FROM item`); rows[0][0] != int64(1) {
		t.Errorf("%v rows on the remote", rows)
	}
}

// TestDamagedLive: a replica's own database file is cut or scribbled on while
// closed. What is gone must not be taken for deleted.
func TestDamagedLive(t *testing.T) {
	for name, damage := range map[string]func(b []byte) []byte{
		"half":            func(b []byte) []byte { return b[:len(b)/2/4096*4096] },
		"last page":       func(b []byte) []byte { return b[:len(b)-4096] },
		"odd length":      func(b []byte) []byte { return b[:len(b)-1000] },
		"zeros in it":     func(b []byte) []byte { clear(b[len(b)/2:]); return b },
		"text over it":    func(b []byte) []byte { return []byte(strings.Repeat("overwritten ", len(b)/12)) },
		"garbage at once": func(b []byte) []byte { copy(b[8192:], bytes.Repeat([]byte{7, 77, 177}, 3000)); return b },
	} {
		t.Run(name, func(t *testing.T) {
			srv := &ownServer{tursosynctest.NewServer(t)}
			one, peer := open(t, srv), open(t, srv)
			one.exec(items, `CREATE INDEX item_a ON item(a)`)
			for i := range 60 {
				one.exec(fmt.Sprintf(`INSERT INTO item VALUES ('k%d', %d, hex(randomblob(400)))`, i, i))
			}
			converge(t, srv, one, peer)
			before := dump(t, peer.db)
			if err := one.db.Close(); err != nil {
				t.Fatal(err)
			}
			writeFile(t, one.path, damage(readFile(t, one.path)))
			c, err := tursosync.NewConnector(one.cfg)
			if err != nil {
				t.Fatal(err)
			}
			db := sql.OpenDB(c)
			r, err := tursosync.ReplicaOf(db)
			if err == nil {
				err = r.Sync(t.Context())
			}
			var e sqlite3.Error
			if !errors.Is(err, tursosync.ErrNotDatabase) && !(errors.As(err, &e) && (e.Code == sqlite3.ErrCorrupt || e.Code == sqlite3.ErrNotADB)) {
				t.Errorf("open and sync = %v, want ErrNotDatabase or SQLite's own", err)
			}
			if err != nil && !strings.Contains(err.Error(), one.path) {
				t.Errorf("the error does not name the replica: %v", err)
			}
			db.Close()
			peer.sync()
			if got := dump(t, peer.db); got != before {
				t.Errorf("the damage went to the remote:\n%s", got)
			}
			// The way out that the error leaves: without the file, all of it comes
			// from the remote.
			for _, suffix := range []string{"", "-wal", "-shm"} {
				if err := os.Remove(one.path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Fatal(err)
				}
			}
			one.open()
			converge(t, srv, one, peer)
		})
	}
}

// TestDamagedBase: base is made anew from the remote, and what is pending stays.
func TestDamagedBase(t *testing.T) {
	flip := func(at int) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			b := readFile(t, path)
			b[at%len(b)] ^= 0x10
			writeFile(t, path, b)
		}
	}
	for name, damage := range map[string]struct {
		do   func(t *testing.T, path string)
		open bool // also found while the replica is open
	}{
		"bit in the header": {do: flip(20)},
		"bit in the schema": {do: flip(4000)},
		"bit in a head":     {do: flip(2 * 4096)},
		"bit in a row":      {do: flip(5*4096 - 100)},
		"truncated":         {do: func(t *testing.T, path string) { writeFile(t, path, readFile(t, path)[:5000]) }, open: true},
		"empty":             {do: func(t *testing.T, path string) { writeFile(t, path, nil) }, open: true},
		"longer":            {do: func(t *testing.T, path string) { writeFile(t, path, append(readFile(t, path), make([]byte, 4096)...)) }, open: true},
		"deleted":           {do: func(t *testing.T, path string) { os.Remove(path) }, open: true},
		"text":              {do: func(t *testing.T, path string) { writeFile(t, path, []byte("not a database")) }, open: true},
		"another database": {do: func(t *testing.T, path string) {
			writeFile(t, path, readFile(t, plainFile(t, `CREATE TABLE other(x)`)))
		}, open: true},
		"with a leftover WAL":  {do: func(t *testing.T, path string) { writeFile(t, path+"-wal", []byte("garbage")) }, open: true},
		"written to by SQLite": {do: writtenTo},
	} {
		for _, opened := range []bool{false, true} {
			if opened && !damage.open {
				continue
			}
			t.Run(fmt.Sprintf("%s, open=%v", name, opened), func(t *testing.T) {
				srv := &ownServer{tursosynctest.NewServer(t)}
				one, peer := open(t, srv), open(t, srv)
				one.exec(items)
				for i := range 60 {
					one.exec(fmt.Sprintf(`INSERT INTO item VALUES ('k%d', %d, hex(randomblob(400)))`, i, i))
				}
				converge(t, srv, one, peer)
				one.exec(`INSERT INTO item VALUES ('pending', 1, 1)`, `DELETE FROM item WHERE id = 'k7'`)
				peer.exec(`INSERT INTO item VALUES ('peer', 1, 1)`, `UPDATE item SET a = 'peer' WHERE id = 'k9'`)
				peer.sync()
				if opened {
					damage.do(t, one.path+"-base")
				} else {
					if err := one.db.Close(); err != nil {
						t.Fatal(err)
					}
					damage.do(t, one.path+"-base")
					one.open()
				}
				one.want(`SELECT count(*) FROM item`, "60")
				one.exec(`INSERT INTO item VALUES ('later', 1, 1)`)
				converge(t, srv, one, peer)
				one.want(`SELECT id, a FROM item WHERE id NOT LIKE 'k%' OR id IN ('k7', 'k9') ORDER BY id`,
					"k9|peer", "later|1", "peer|1", "pending|1")
			})
		}
	}
}

// writtenTo has somebody use base as a database.
func writtenTo(t *testing.T, path string) {
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`UPDATE item SET a = 'scribbled'`); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedPull: app.db-pull is what a crash leaves of a pull, or anything.
func TestDamagedPull(t *testing.T) {
	srv := &ownServer{tursosynctest.NewServer(t)}
	other := readFile(t, leftPull(t, func() *side {
		one, peer := open(t, srv), open(t, srv)
		peer.exec(`CREATE TABLE other(x)`)
		peer.sync()
		return one
	}).path+"-pull")
	for name, damage := range map[string]func(b []byte, other []byte) []byte{
		"as it was":            func(b, _ []byte) []byte { return b },
		"not sealed":           func(b, _ []byte) []byte { return b[:len(b)-12] },
		"cut":                  func(b, _ []byte) []byte { return b[:len(b)/2] },
		"cut in the header":    func(b, _ []byte) []byte { return b[:30] },
		"empty":                func(_, _ []byte) []byte { return nil },
		"garbage":              func(b, _ []byte) []byte { return bytes.Repeat([]byte("garbage"), len(b)/7) },
		"bit in the header":    func(b, _ []byte) []byte { b[10] ^= 1; return b },
		"bit in the revision":  func(b, _ []byte) []byte { b[42] ^= 1; return b },
		"bit in a page number": func(b, _ []byte) []byte { b[len(b)-12-4104] ^= 1; return b },
		"bit in a page":        func(b, _ []byte) []byte { b[len(b)-2000] ^= 1; return b },
		"bit in the seal":      func(b, _ []byte) []byte { b[len(b)-6] ^= 1; return b },
		"something behind":     func(b, _ []byte) []byte { return append(b, "something"...) },
		"of another replica":   func(_, o []byte) []byte { return o },
	} {
		for _, first := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, first=%v", name, first), func(t *testing.T) {
				srv := &ownServer{tursosynctest.NewServer(t)}
				var peer *side
				one := leftPull(t, func() *side {
					one := open(t, srv)
					peer = open(t, srv)
					peer.exec(items)
					for i := range 30 {
						peer.exec(fmt.Sprintf(`INSERT INTO item VALUES ('k%d', %d, hex(randomblob(400)))`, i, i))
					}
					peer.sync()
					if first {
						one.exec(`CREATE TABLE mine(x)`)
					} else {
						one.sync()
						one.exec(`CREATE TABLE mine(x)`)
						peer.exec(`UPDATE item SET b = 'new'`)
						peer.sync()
					}
					return one
				})
				pull := one.path + "-pull"
				writeFile(t, pull, damage(readFile(t, pull), other))
				one.open()
				one.exec(`INSERT INTO mine VALUES (1)`)
				converge(t, srv, one, peer)
				one.want(`SELECT x FROM mine`, "1")
				if _, err := os.Stat(pull); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("app.db-pull is still there: %v", err)
				}
			})
		}
	}
}

// leftPull runs a pull that ends as if the process had died when the answer was
// whole and on disk, and closes the replica.
func leftPull(t *testing.T, prepare func() *side) *side {
	t.Helper()
	one := prepare()
	died := errors.New("died")
	var kept []byte // an error may tidy up what a crash leaves
	restore := fault.Set(func(point string) error {
		if point == "delta.sealed" {
			kept = readFile(t, one.path+"-pull")
			return died
		}
		return nil
	})
	err := one.tryPull()
	restore()
	if !errors.Is(err, died) || kept == nil {
		t.Fatalf("Pull = %v, %d bytes kept", err, len(kept))
	}
	if err := one.db.Close(); err != nil {
		t.Fatal(err)
	}
	writeFile(t, one.path+"-pull", kept)
	return one
}

// TestLostWAL: app.db-wal or app.db-shm is gone, or garbage, after a crash. What
// was committed only there is lost with it, as with any SQLite database; all else
// holds, and nothing is wrong afterwards.
func TestLostWAL(t *testing.T) {
	garbage := bytes.Repeat([]byte("garbage!"), 4096)
	for name, damage := range map[string]func(t *testing.T, path string){
		"no WAL":          func(t *testing.T, path string) { os.Remove(path + "-wal") },
		"empty WAL":       func(t *testing.T, path string) { writeFile(t, path+"-wal", nil) },
		"garbage for WAL": func(t *testing.T, path string) { writeFile(t, path+"-wal", garbage) },
		"WAL cut": func(t *testing.T, path string) {
			b := readFile(t, path+"-wal")
			writeFile(t, path+"-wal", b[:len(b)/2])
		},
		"bit in the WAL": func(t *testing.T, path string) {
			b := readFile(t, path+"-wal")
			b[len(b)/2] ^= 1
			writeFile(t, path+"-wal", b)
		},
		"garbage for shm": func(t *testing.T, path string) { writeFile(t, path+"-shm", garbage) },
		"nothing":         func(t *testing.T, path string) {},
	} {
		t.Run(name, func(t *testing.T) {
			srv := &ownServer{tursosynctest.NewServer(t)}
			one, peer := open(t, srv), open(t, srv)
			one.exec(items)
			for i := range 30 {
				one.exec(fmt.Sprintf(`INSERT INTO item VALUES ('k%d', %d, hex(randomblob(400)))`, i, i))
			}
			converge(t, srv, one, peer)
			if err := one.r.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			// In the WAL: pushed and pulled, pulled only, and pending.
			one.exec(`INSERT INTO item VALUES ('pushed', 1, 1)`)
			one.sync()
			peer.exec(`UPDATE item SET a = 'peer' WHERE id LIKE 'k1%'`)
			peer.sync()
			one.sync()
			one.exec(`INSERT INTO item VALUES ('pending', 1, 1)`)

			crashed := filepath.Join(t.TempDir(), "app.db")
			for _, suffix := range []string{"", "-wal", "-shm", "-base"} {
				writeFile(t, crashed+suffix, readFile(t, one.path+suffix))
			}
			if err := one.db.Close(); err != nil { // it never comes back
				t.Fatal(err)
			}
			damage(t, crashed)
			two := open(t, srv, at(crashed))
			two.want("PRAGMA integrity_check", "ok")
			two.exec(`INSERT INTO item VALUES ('after', 1, 1)`)
			converge(t, srv, two, peer)
			two.want(`SELECT id FROM item WHERE id IN ('pushed', 'after') ORDER BY id`, "after", "pushed")
			two.want(`SELECT count(*) FROM item WHERE a = 'peer'`, "11")
			if strings.Contains(name, "shm") || name == "nothing" {
				two.want(`SELECT id FROM item WHERE id = 'pending'`, "pending")
			}
		})
	}
}

// TestAnotherFormat: a file with another page size or text encoding is rebuilt,
// and nothing of it is lost.
func TestAnotherFormat(t *testing.T) {
	for _, pragma := range []string{
		"page_size=512", "page_size=1024", "page_size=8192", "page_size=65536",
		"encoding='UTF-16le'", "encoding='UTF-16be'", "page_size=1024; PRAGMA encoding='UTF-16'; PRAGMA journal_mode=WAL",
		"auto_vacuum=FULL", "page_size=2048; PRAGMA auto_vacuum=INCREMENTAL",
	} {
		t.Run(pragma, func(t *testing.T) {
			srv := &ownServer{tursosynctest.NewServer(t)}
			path := plainFile(t, "PRAGMA "+pragma, items, `CREATE INDEX item_a ON item(a COLLATE NOCASE)`,
				`CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID`,
				`CREATE VIEW item_view AS SELECT id FROM item`,
				`INSERT INTO item VALUES ('größe', 'ŸÆ☃𝄞', x'00ff'), ('', NULL, 1.5), ('big', zeroblob(70000), 9223372036854775807), ('inf', 9e999, -0.0)`,
				`INSERT INTO w VALUES ('z', 1), ('ä', 2)`)
			original := readFile(t, path)
			plain, err := sql.Open("sqlite3", path)
			if err != nil {
				t.Fatal(err)
			}
			want := dump(t, plain)
			if err := plain.Close(); err != nil {
				t.Fatal(err)
			}
			one, peer := open(t, srv, at(path)), open(t, srv)
			if got := dump(t, one.db); got != want {
				t.Errorf("rebuilt:\n%s\nwas:\n%s", got, want)
			}
			one.want("PRAGMA integrity_check", "ok")
			if pragma != "auto_vacuum=FULL" {
				one.want("PRAGMA page_size", "4096")
				one.want("PRAGMA encoding", "UTF-8")
				backups, err := filepath.Glob(path + "-backup-*")
				if err != nil || len(backups) != 1 {
					t.Fatalf("backups: %v, %v", backups, err)
				}
				// But for the journal mode, which has to be another for a moment.
				if got := readFile(t, backups[0]); !bytes.Equal(got[100:], original[100:]) {
					t.Error("the backup is not the original")
				}
			}
			one.exec(`INSERT INTO item VALUES ('new', 1, 1)`)
			converge(t, srv, one, peer)
			peer.want(`SELECT count(*) FROM item`, "5")
		})
	}
}
