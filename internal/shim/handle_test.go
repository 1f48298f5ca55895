package shim

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"

	sqlite3 "github.com/mattn/go-sqlite3"
)

// open returns a go-sqlite3 connection to dsn that is closed with the test.
func open(t testing.TB, dsn string) *sqlite3.SQLiteConn {
	t.Helper()
	c, err := (&sqlite3.SQLiteDriver{}).Open(dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*sqlite3.SQLiteConn)
}

// of returns the handle of c.
func of(t testing.TB, c *sqlite3.SQLiteConn) DB {
	t.Helper()
	db, err := Of(c)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// TestOf shows that each connection gets its own handle, however many ask at once.
func TestOf(t *testing.T) {
	const n = 8
	conns := make([]*sqlite3.SQLiteConn, n)
	for i := range conns {
		conns[i] = open(t, filepath.Join(t.TempDir(), "a.db"))
	}
	got := make([]DB, n)
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() {
			for range 50 {
				db, err := Of(c)
				if err != nil {
					t.Error(err)
					return
				}
				if got[i].ptr != nil && got[i] != db {
					t.Errorf("Of gave two handles for one connection")
				}
				got[i] = db
			}
		})
	}
	wg.Wait()
	seen := map[DB]bool{}
	for _, db := range got {
		if db.ptr == nil || seen[db] {
			t.Errorf("handle %v is nil or given twice", db)
		}
		seen[db] = true
	}
}

// TestOfRefusesStrangers shows that user SQL cannot do anything with the function.
func TestOfRefusesStrangers(t *testing.T) {
	c := open(t, ":memory:")
	of(t, c)
	for _, q := range []string{
		"SELECT ts_shim_handle(0)", "SELECT ts_shim_handle(1)", "SELECT ts_shim_handle(NULL)", "SELECT ts_shim_handle('x')",
	} {
		if _, err := c.Exec(q, nil); err == nil {
			t.Errorf("%s succeeded", q)
		}
	}
	c.Close()
	if _, err := Of(c); err == nil {
		t.Error("Of found the handle of a closed connection")
	}
}

func TestSetConfig(t *testing.T) {
	c := open(t, ":memory:")
	db := of(t, c)
	for _, on := range []bool{true, false, true} {
		if err := db.SetConfig(EnableTrigger, on); err != nil {
			t.Fatal(err)
		}
		if got, err := db.Config(EnableTrigger); err != nil || got != on {
			t.Errorf("Config(EnableTrigger) = %v, %v, want %v", got, err, on)
		}
	}
	if err := db.SetConfig(9999, true); err == nil {
		t.Error("SetConfig accepted an unknown switch")
	}
}

// TestNoCheckpointParam shows that a connection which cannot be opened, because
// the schema in the WAL is malformed, leaves file and WAL as they are.
func TestNoCheckpointParam(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a.db")
	c := open(t, name)
	if err := of(t, c).SetConfig(NoCheckpointOnClose, true); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{"PRAGMA journal_mode=WAL", "CREATE TABLE t(v)", "PRAGMA wal_checkpoint(TRUNCATE)",
		"PRAGMA writable_schema=ON", "UPDATE sqlite_schema SET sql = 'CREATM TABLE t(v)'"} {
		if _, err := c.Exec(q, nil); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	file, wal := read(name), read(name+"-wal")
	if len(wal) == 0 {
		t.Fatal("no WAL")
	}
	if c, err := (&sqlite3.SQLiteDriver{}).Open("file:" + name + "?" + NoCheckpointParam); err == nil {
		c.Close()
		t.Fatal("a database with a malformed schema was opened")
	}
	if !bytes.Equal(read(name), file) || !bytes.Equal(read(name+"-wal"), wal) {
		t.Error("closing checkpointed the WAL")
	}
}
