package shim

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/tursosync/tursosync/internal/page"
)

// TestNoteReads compares the pages that are noted with those of which SQLite says
// that the table consists, in the file and in the WAL.
func TestNoteReads(t *testing.T) {
	c := live(t, filepath.Join(t.TempDir(), "a.db"))
	db := of(t, c)
	run(t, c, "PRAGMA wal_autocheckpoint = 0", "CREATE TABLE a (id INTEGER PRIMARY KEY, b)", "CREATE TABLE z (id INTEGER PRIMARY KEY, b)",
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) INSERT INTO a SELECT i, zeroblob(1000) FROM n",
		"INSERT INTO z VALUES (1, zeroblob(100000))")
	read := func(sql string) (pages []page.No, frames []uint32) {
		t.Helper()
		r, err := db.NoteReads()
		if err != nil {
			t.Fatal(err)
		}
		text(t, c, sql)
		if pages, frames, err = r.Stop(); err != nil {
			t.Fatal(err)
		}
		return pages, frames
	}
	if pages, frames := read("SELECT sum(length(b)) FROM a"); len(pages) != 0 || len(frames) < 25 || len(frames) > 45 {
		t.Errorf("all in the WAL: pages %v, frames %v", pages, frames)
	}
	// Without the recorder reads go on, and are not noted.
	text(t, c, "SELECT sum(length(b)) FROM z")
	run(t, c, "PRAGMA wal_checkpoint(TRUNCATE)")
	pages, frames := read("SELECT b FROM a WHERE id = 50")
	if len(frames) != 0 || len(pages) < 2 || len(pages) > 4 {
		t.Errorf("one row: pages %v, frames %v", pages, frames)
	}
	run(t, c, "UPDATE a SET b = 'x' WHERE id = 50")
	again, frames := read("SELECT b FROM a WHERE id = 50")
	if len(frames) == 0 || len(again) >= len(pages) {
		t.Errorf("one row in the WAL: pages %v, frames %v, want fewer than %v in the file", again, frames, pages)
	}
	if p, _ := read("SELECT 1"); len(p) > 1 {
		t.Errorf("nothing: pages %v", p)
	}
	memory := live(t, ":memory:")
	if _, err := of(t, memory).NoteReads(); !errors.Is(err, ErrNotReady) {
		t.Errorf("in memory: %v", err)
	}
}
