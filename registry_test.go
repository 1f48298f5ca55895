package tursosync

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/replica"
)

func openTest(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(DriverName, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func openEngines() (paths []string) {
	engines.mu.Lock()
	defer engines.mu.Unlock()
	for p := range engines.open {
		paths = append(paths, p)
	}
	return paths
}

func engineOf(t *testing.T, db *sql.DB) *engine {
	t.Helper()
	c, err := connectorOf(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.engine
}

// TestSharedReplica: all that open one file, however they spell it, share one
// replica, and it lives until the last one is closed.
func TestSharedReplica(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	if err := os.Symlink(dir, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	first := openTest(t, "app.db")
	if len(openEngines()) != 0 {
		t.Errorf("sql.Open opened %v", openEngines())
	}
	if _, err := first.Exec(`CREATE TABLE t(v)`); err != nil {
		t.Fatal(err)
	}
	var others []*sql.DB
	for _, dsn := range []string{filepath.Join(dir, "app.db"), "file:app.db?_fk=1", "file://" + dir + "/./app.db", "link/app.db"} {
		db := openTest(t, dsn)
		if _, err := db.Exec(`INSERT INTO t VALUES (?)`, dsn); err != nil {
			t.Fatalf("%s: %v", dsn, err)
		}
		if engineOf(t, db) != engineOf(t, first) {
			t.Errorf("%s has a replica of its own", dsn)
		}
		others = append(others, db)
	}
	if err := first.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	for i, db := range others {
		var n int
		if err := db.QueryRow(`SELECT count(*) FROM t`).Scan(&n); err != nil || n != 4 {
			t.Errorf("after %d closes: %d rows, %v", i+1, n, err)
		}
		if got := openEngines(); len(got) != 1 || got[0] != filepath.Join(dir, "app.db") {
			t.Errorf("after %d closes, open: %v", i+1, got)
		}
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if got := openEngines(); len(got) != 0 {
		t.Errorf("after the last close, open: %v", got)
	}
	if files, _ := filepath.Glob("*-wal"); len(files) > 0 {
		t.Errorf("after the last close: %v", files)
	}
}

// TestCloseBeforeConnections: a connection that is still out keeps the files open
// until it comes back.
func TestCloseBeforeConnections(t *testing.T) {
	db := openTest(t, filepath.Join(t.TempDir(), "a.db"))
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(`CREATE TABLE t(v)`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	if len(openEngines()) != 1 {
		t.Errorf("open while a transaction is: %v", openEngines())
	}
	if err := tx.Commit(); err != nil {
		t.Errorf("commit after close: %v", err)
	}
	if len(openEngines()) != 0 {
		t.Errorf("open at the end: %v", openEngines())
	}
}

func TestReopenConnector(t *testing.T) {
	c, err := NewConnector(Config{Path: filepath.Join(t.TempDir(), "a.db")})
	if err != nil {
		t.Fatal(err)
	}
	one, two := sql.OpenDB(c), sql.OpenDB(c)
	defer two.Close()
	if err := errors.Join(one.Ping(), two.Ping(), one.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := two.Exec(`CREATE TABLE t(v)`); err != nil {
		t.Errorf("after the other pool of the connector was closed: %v", err)
	}
	two.SetMaxIdleConns(0)
	if _, err := two.Exec(`INSERT INTO t VALUES (1)`); err != nil {
		t.Error(err)
	}
	if err := two.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if len(openEngines()) != 0 {
		t.Errorf("open at the end: %v", openEngines())
	}
}

// TestOpenAndClose opens and closes one file from many goroutines.
func TestOpenAndClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	db := openTest(t, path)
	if _, err := db.Exec(`CREATE TABLE t(v)`); err != nil {
		t.Fatal(err)
	}
	db.Close()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10 {
				db, err := sql.Open(DriverName, path+"?_busy_timeout=60000")
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := db.Exec(`INSERT INTO t VALUES (1)`); err != nil {
					t.Error(err)
				}
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(openEngines()) != 0 {
		t.Errorf("open at the end: %v", openEngines())
	}
	db = openTest(t, path)
	var n int
	if err := db.QueryRow(`SELECT count(*) FROM t`).Scan(&n); err != nil || n != 40 {
		t.Errorf("%d rows, %v, want 40", n, err)
	}
}

func TestLockedByAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	other, err := replica.Open(t.Context(), replica.Config{Path: path}) // stands for another process: the lock is the file's
	if err != nil {
		t.Fatal(err)
	}
	db := openTest(t, path)
	if err := db.Ping(); !errors.Is(err, ErrLocked) {
		t.Errorf("ping = %v, want ErrLocked", err)
	}
	ro := openTest(t, "file:"+path+"?mode=ro")
	var n int
	if err := ro.QueryRow(`SELECT count(*) FROM sqlite_schema`).Scan(&n); err != nil {
		t.Errorf("mode=ro beside another process: %v", err)
	}
	if _, err := ro.Exec(`CREATE TABLE t(v)`); err == nil {
		t.Error("mode=ro writes")
	}
	if err := other.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := db.Ping(); err != nil {
		t.Errorf("ping after the other has gone: %v", err)
	}
}

func TestSecondOpenDisagrees(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	const secret = "s3cr3t"
	first := openTest(t, path+"?url=http://127.0.0.1:1&sync=manual&authToken="+secret)
	if err := first.Ping(); err != nil {
		t.Fatal(err)
	}
	for query, key := range map[string]string{
		"": "", "?_fk=1": "", "?url=http://127.0.0.1:1": "", "?url=http://127.0.0.1:1&sync=manual&authToken=" + secret: "",
		"?url=http://127.0.0.1:2": "url", "?url=http://127.0.0.1:1&sync=auto": "sync", "?url=http://127.0.0.1:1&authToken=other": "authToken", "?clientName=x": "clientName",
	} {
		err := openTest(t, path+query).Ping()
		var ce *ConfigError
		switch {
		case key == "" && err != nil:
			t.Errorf("%q: %v", query, err)
		case key != "" && (!errors.As(err, &ce) || ce.Key != key):
			t.Errorf("%q: %v, want a *ConfigError of %s", query, err, key)
		}
	}
	if err := os.Link(path, path+".hard"); err != nil {
		t.Skip("no hard links here")
	}
	var ce *ConfigError
	if err := openTest(t, path+".hard").Ping(); !errors.As(err, &ce) || ce.Key != keyPath {
		t.Errorf("hard link = %v, want a *ConfigError of path", err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage.db")
	if err := os.WriteFile(garbage, []byte("this is not a database, but long enough to be looked at by SQLite, which wants a hundred bytes and more of it"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := openTest(t, garbage).Ping(); !errors.Is(err, ErrNotDatabase) {
		t.Errorf("garbage = %v, want ErrNotDatabase", err)
	}
	err := openTest(t, "file:"+filepath.Join(dir, "missing.db")+"?mode=rw").Ping()
	if e, ok := err.(sqlite3.Error); !ok || e.Code != sqlite3.ErrCantOpen {
		t.Errorf("mode=rw of a missing file = %T %v, want ErrCantOpen", err, err)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "missing*")); len(files) > 0 {
		t.Errorf("mode=rw created %v", files)
	}
	full := filepath.Join(dir, "full.db")
	plain, err := sql.Open("sqlite3", full)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.Exec(`CREATE TABLE t(v)`); err != nil {
		t.Fatal(err)
	}
	plain.Close()
	before, _ := os.ReadFile(full)
	err = openTest(t, full+"?url=http://127.0.0.1:1&existing=refuse").Ping()
	var ce *ConfigError
	if !errors.As(err, &ce) || ce.Key != keyExisting || !errors.Is(err, ErrNotReplica) {
		t.Errorf("existing=refuse = %v, want a *ConfigError of existing", err)
	}
	if after, _ := os.ReadFile(full); string(after) != string(before) {
		t.Error("existing=refuse changed the file")
	}
	if len(openEngines()) != 0 {
		t.Errorf("open at the end: %v", openEngines())
	}
	db := openTest(t, full) // without a remote it becomes a replica, and is none to refuse any more
	if err := db.Ping(); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if err := openTest(t, full+"?url=http://127.0.0.1:1&sync=manual&existing=refuse").Ping(); err != nil {
		t.Errorf("existing=refuse of a replica: %v", err)
	}
}

func TestReplicaOfOneBusyConnection(t *testing.T) {
	db := openTest(t, filepath.Join(t.TempDir(), "a.db"))
	db.SetMaxOpenConns(1)
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	done := make(chan error, 1)
	go func() {
		_, err := ReplicaOf(db)
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("ReplicaOf waits for the only connection")
	}
}

// TestNoDeadlock: a pool of one connection, used in every way at once.
func TestNoDeadlock(t *testing.T) {
	db := openTest(t, filepath.Join(t.TempDir(), "a.db"))
	db.SetMaxOpenConns(1)
	if _, err := db.Exec(`CREATE TABLE t(id INTEGER PRIMARY KEY, v)`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 20 {
				if _, err := db.ExecContext(ctx, `INSERT INTO t(v) VALUES (?)`, i); err != nil {
					t.Error(err)
				}
				tx, err := db.BeginTx(ctx, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := tx.ExecContext(ctx, `UPDATE t SET v = v + 1 WHERE id % 7 = ?`, i); err != nil {
					t.Error(err)
				}
				rows, err := tx.QueryContext(ctx, `SELECT id FROM t LIMIT 3`)
				if err != nil {
					t.Error(err)
				} else {
					rows.Next() // left open: Commit closes it
				}
				if err := tx.Commit(); err != nil {
					t.Error(err)
				}
				var id int64
				if err := db.QueryRowContext(ctx, `INSERT INTO t(v) VALUES (1) RETURNING id`).Scan(&id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestUnusedFileIsNotCreated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	db := openTest(t, path+"?url=http://127.0.0.1:1")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("sql.Open and Close created the file: %v", err)
	}
}

// wrapper stands for the drivers that programs put around another for tracing.
type wrapper struct{ driver.Driver }

type wrappedConn struct{ driver.Conn }

func (w wrapper) Open(dsn string) (driver.Conn, error) {
	c, err := w.Driver.Open(dsn)
	return wrappedConn{c}, err
}

func (c wrappedConn) Raw() driver.Conn { return c.Conn }

func TestReplicaOfWrappedDriver(t *testing.T) {
	sql.Register("wrapped-tursosync", wrapper{&Driver{}})
	db, err := sql.Open("wrapped-tursosync", filepath.Join(t.TempDir(), "a.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := connectorOf(t.Context(), db); err != nil {
		t.Errorf("connector behind a wrapper: %v", err)
	}
	other, err := sql.Open("sqlite3", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := connectorOf(t.Context(), other); !errors.Is(err, errNotOurs) {
		t.Errorf("connector of another driver = %v, want errNotOurs", err)
	}
}
