package tools

import (
	"errors"
	"testing"
	"testing/fstest"

	"database/sql"
	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database/sqlite3"
	"github.com/golang-migrate/migrate/v4/source/iofs"
)

var migrations = fstest.MapFS{
	"1_notes.up.sql":   {Data: []byte("CREATE TABLE notes(id TEXT PRIMARY KEY, body TEXT);\nCREATE INDEX notes_by_body ON notes(body);")},
	"1_notes.down.sql": {Data: []byte("DROP TABLE notes;")},
	"2_tags.up.sql":    {Data: []byte("ALTER TABLE notes ADD COLUMN tags TEXT NOT NULL DEFAULT '[]'; INSERT INTO notes(id, body) VALUES ('welcome', 'hello') ON CONFLICT DO NOTHING;")},
	"2_tags.down.sql":  {Data: []byte("ALTER TABLE notes DROP COLUMN tags;")},
}

func newMigrate(t *testing.T, db *sql.DB) *migrate.Migrate {
	t.Helper()
	source, err := iofs.New(migrations, ".")
	if err != nil {
		t.Fatal(err)
	}
	driver, err := sqlite3.WithInstance(db, &sqlite3.Config{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := migrate.NewWithInstance("iofs", source, "tursosync", driver)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// versions is where golang-migrate keeps its version: one row without a primary
// key, under a unique index. When both replicas migrate, the remote has the row of the
// first one already and refuses the second one's; the replica then holds the first.
const versions = "schema_migrations"

// TestGolangMigrate: golang-migrate on both replicas, up and down.
func TestGolangMigrate(t *testing.T) {
	d := newDevices(t)
	for i := range d.db {
		if err := newMigrate(t, d.db[i]).Up(); err != nil {
			t.Fatal(err)
		}
	}
	d.sync(t, versions)
	if got := column(t, d.db[1], `SELECT id || tags FROM notes`); len(got) != 1 || got[0] != "welcome[]" {
		t.Errorf("notes %v", got)
	}
	if err := newMigrate(t, d.db[0]).Steps(-1); err != nil {
		t.Fatal(err)
	}
	d.sync(t, versions)
	for i := range d.db {
		v, dirty, err := newMigrate(t, d.db[i]).Version()
		if err != nil || v != 1 || dirty {
			t.Errorf("replica %d: version %d, dirty %v, %v", i, v, dirty, err)
		}
	}
	if err := newMigrate(t, d.db[1]).Up(); err != nil {
		t.Fatal(err)
	}
	d.sync(t, versions)
	if err := newMigrate(t, d.db[0]).Up(); !errors.Is(err, migrate.ErrNoChange) {
		t.Errorf("up = %v, want ErrNoChange", err)
	}
	// Drop would drop the local tables too, and run VACUUM.
	if err := newMigrate(t, d.db[0]).Drop(); err == nil {
		t.Error("Drop succeeded")
	}
	d.sync(t, versions)
}
