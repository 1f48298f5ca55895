package replica

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	_ "github.com/mattn/go-sqlite3"
)

// open opens a replica that is closed at the end of the test.
func open(t *testing.T, cfg Config) *Replica {
	t.Helper()
	r, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("open %s: %v", cfg.Path, err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Errorf("close %s: %v", cfg.Path, err)
		}
	})
	return r
}

// plain makes an SQLite file without any of our tables.
func plain(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func contents(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOpenNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app?.db")
	r := open(t, Config{Path: path, ClientName: "me"})
	id := r.state().clientID
	if len(id) != len("me-")+36 {
		t.Errorf("client id = %q", id)
	}
	for query, want := range map[string]any{
		"PRAGMA page_size": int64(4096), "PRAGMA encoding": "UTF-8", "PRAGMA journal_mode": "wal",
		"SELECT count(*) FROM turso_cdc": int64(0), "PRAGMA wal_autocheckpoint": int64(0),
	} {
		if got, err := r.live.one(query); err != nil || got != want {
			t.Errorf("%s = %v, %v, want %v", query, got, err, want)
		}
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + "-wal"); err == nil {
		t.Error("WAL is left after Close")
	}
	again := open(t, Config{Path: path})
	if got := again.state().clientID; got != id {
		t.Errorf("client id after reopening = %q, want %q", got, id)
	}
	if again.compare || !again.dirty.known || again.checkBase {
		t.Error("a clean close is taken for a crash")
	}
	if err := again.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	plain(t, "file:"+filepath.Dir(path)+"/app%3F.db", "CREATE TABLE t(a)")
	third := open(t, Config{Path: path})
	if !third.compare || third.dirty.known {
		t.Error("a foreign write between close and open is not noticed")
	}
}

func TestOpenLocked(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "app.db")
	open(t, Config{Path: path})
	link := filepath.Join(dir, "link.db")
	if err := os.Symlink(path, link); err != nil {
		t.Skip(err)
	}
	for _, name := range []string{path, link} {
		_, err := Open(t.Context(), Config{Path: name})
		if !errors.Is(err, ErrLocked) {
			t.Errorf("Open(%s) = %v, want ErrLocked", name, err)
		}
	}
}

func TestOpenUnusable(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := filepath.Join(dir, "good.db")
	plain(t, good, "CREATE TABLE t(a, b)", "CREATE INDEX i ON t(b)", `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<500)
		INSERT INTO t SELECT i, hex(randomblob(50)) FROM n`)
	torn := bytes.Clone(contents(t, good))
	for i := 4096; i < len(torn); i += 4096 {
		copy(torn[i:], "garbage garbage garbage")
	}
	for _, c := range []struct {
		name string
		path string
		want error
	}{
		{"text", write("text.db", bytes.Repeat([]byte("not a database. "), 1000)), ErrNotDatabase},
		{"damaged pages", write("torn.db", torn), ErrNotDatabase},
		{"directory", dir, ErrNotDatabase},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before []byte
			if c.path != dir {
				before = contents(t, c.path)
			}
			r, err := Open(t.Context(), Config{Path: c.path})
			if !errors.Is(err, c.want) {
				t.Errorf("Open = %v, want %v", err, c.want)
			}
			if err == nil {
				r.Close(t.Context())
			}
			if c.path != dir && !bytes.Equal(before, contents(t, c.path)) {
				t.Error("the file was changed")
			}
		})
	}
}

func TestOpenReadOnly(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write everything")
	}
	path := filepath.Join(t.TempDir(), "app.db")
	plain(t, path, "CREATE TABLE t(a)")
	if err := os.Chmod(path, 0o444); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Path: path}); !errors.Is(err, ErrReadOnly) {
		t.Errorf("Open = %v, want ErrReadOnly", err)
	}
}

// cli runs a statement in another process, as a user's sqlite3 shell would.
func cli(t *testing.T, path string, statements ...string) {
	t.Helper()
	shell, err := exec.LookPath("sqlite3")
	if err != nil {
		t.Skip("no sqlite3 shell")
	}
	for _, s := range statements {
		if out, err := exec.Command(shell, path, s).CombinedOutput(); err != nil {
			t.Fatalf("sqlite3 %s: %v: %s", s, err, out)
		}
	}
}
