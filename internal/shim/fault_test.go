package shim

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/page"
)

// TestPageCommitFaults lets every operation of a page commit fail once, and shows
// that then nothing is committed, now or by a later recovery, and work goes on.
func TestPageCommitFaults(t *testing.T) {
	for _, tt := range []struct {
		name string
		file File
		op   Fault
	}{
		{"write", WAL, FailWrite}, {"torn write", WAL, TearWrite}, {"sync", WAL, FailSync},
		{"read", WAL, FailRead}, {"wal-index", Main, FailShmMap},
	} {
		committed := false
		for n := 0; !committed; n++ {
			t.Run(fmt.Sprintf("%s after %d", tt.name, n), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "a.db")
				c := live(t, path)
				run(t, c, "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)", "INSERT INTO t VALUES (1, 1)")
				db := of(t, c)
				text(t, c, all)
				before, from := state(t, db), contents(t, db)
				img := edited(t, from, "INSERT INTO t VALUES (2, zeroblob(130000))")
				if err := db.SetFault(tt.file, tt.op, n); err != nil {
					t.Fatal(err)
				}
				defer ClearFault()
				p, err := db.BeginPageCommit()
				if err == nil {
					for no := range img {
						if no%page.Size == 0 {
							p.Append(page.No(no/page.Size+1), img[no:no+page.Size]) // Commit repeats its error
						}
					}
					if err = p.Commit(uint32(len(img) / page.Size)); err != nil {
						p.Abort() // may fail as well
					}
				}
				ClearFault()
				if err == nil {
					committed = true
					sound(t, path, c, "SELECT count(*) FROM t", "2")
					return
				}
				var e sqlite3.Error
				if !errors.As(err, &e) || e.Code != sqlite3.ErrIoErr && e.Code != sqlite3.ErrFull {
					t.Errorf("error %v, want an I/O error of SQLite", err)
				}
				if got := state(t, db); got != before {
					t.Fatalf("the state is %+v, was %+v", got, before)
				}
				sound(t, path, c, "SELECT count(*) FROM t", "1")
				other := live(t, path)
				run(t, other, "INSERT INTO t VALUES (3, 3)")
				pageCommit(t, db, edited(t, contents(t, db), "INSERT INTO t VALUES (4, zeroblob(50000))"), nil)
				sound(t, path, c, "SELECT count(*) FROM t", "3")
			})
			if t.Failed() || n > 200 {
				t.Fatalf("%s: no end after %d", tt.name, n)
			}
		}
	}
}
