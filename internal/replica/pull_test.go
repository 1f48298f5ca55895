package replica

import (
	"path/filepath"
	"testing"

	"github.com/tursosync/tursosync/syncer"
)

// newReplica opens a replica of its own directory.
func newReplica(t *testing.T, cfg Config) *Replica {
	t.Helper()
	if cfg.Path == "" {
		cfg.Path = filepath.Join(t.TempDir(), "app.db")
	}
	return open(t, cfg)
}

const people = `CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, n INTEGER DEFAULT 0)`

func TestPull(t *testing.T) {
	rem := newRemote(t, people, `INSERT INTO people(id, name) VALUES (1, 'ann'), (2, 'bob')`)
	rep := newReplica(t, Config{})
	report := pulled(t, rep, rem)
	if !report.Changed || report.Pages != 2 || len(report.Tables) != 1 || report.Tables[0] != "people" {
		t.Errorf("report = %+v", report)
	}
	wantRows(t, rep, `SELECT id, name FROM people`, "1 ann", "2 bob")

	write(t, rep, `INSERT INTO people(id, name) VALUES (3, 'eve')`, `UPDATE people SET n = 7 WHERE id = 2`)
	invariant(t, rep)
	rem.exec(`UPDATE people SET name = 'BOB' WHERE id = 2`, `INSERT INTO people(id, name) VALUES (4, 'dan')`)
	report = pulled(t, rep, rem)
	if report.Replayed != 2 {
		t.Errorf("Replayed = %d, want 2", report.Replayed)
	}
	wantRows(t, rep, `SELECT id, name, n FROM people`, "1 ann 0", "2 BOB 7", "3 eve 0", "4 dan 0")

	if report = pulled(t, rep, rem); report.Changed || report.Pages != 0 {
		t.Errorf("pull of nothing new = %+v", report)
	}
	if n := rem.push(rep, syncer.Limits{}); n != 2 {
		t.Errorf("pushed %d, want 2", n)
	}
	write(t, rep, `DELETE FROM people WHERE id = 1`)
	pulled(t, rep, rem)
	wantRows(t, rep, `SELECT id, name, n FROM people`, "2 BOB 7", "3 eve 0", "4 dan 0")
	wantRows(t, rep, `SELECT count(*) FROM turso_cdc`, "1")
	rem.push(rep, syncer.Limits{})
	pulled(t, rep, rem)
	wantRows(t, rep, `SELECT count(*) FROM turso_cdc`, "0")
	write(t, rep, `INSERT INTO people(id, name) VALUES (9, 'zoe')`)
	wantRows(t, rep, `SELECT change_id FROM turso_cdc`, "4")
}
