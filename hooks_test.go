package tursosync_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync"
)

// raw runs f on the go-sqlite3 connection of conn.
func onRaw(t *testing.T, conn *sql.Conn, f func(*sqlite3.SQLiteConn) error) error {
	t.Helper()
	return conn.Raw(func(dc any) error { return f(dc.(*tursosync.Conn).SQLiteConn()) })
}

func openConn(t *testing.T) (*sql.DB, *sql.Conn) {
	t.Helper()
	db := openDB(t, filepath.Join(t.TempDir(), "test.db"))
	mustExec(t, db, `CREATE TABLE t(id INTEGER PRIMARY KEY, v)`)
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return db, conn
}

// TestDisplacedHooks: where a user's hook takes the place of ours, the next write
// fails and says so; where both can run (an update hook beside our pre-update
// hook), nothing happens. Nothing is ever committed without being logged.
func TestDisplacedHooks(t *testing.T) {
	for name, register := range map[string]func(*sqlite3.SQLiteConn){
		"commit":     func(c *sqlite3.SQLiteConn) { c.RegisterCommitHook(func() int { return 0 }) },
		"rollback":   func(c *sqlite3.SQLiteConn) { c.RegisterRollbackHook(func() {}) },
		"update":     func(c *sqlite3.SQLiteConn) { c.RegisterUpdateHook(func(int, string, string, int64) {}) },
		"authorizer": func(c *sqlite3.SQLiteConn) { c.RegisterAuthorizer(func(int, string, string, string) int { return 0 }) },
		"no update":  func(c *sqlite3.SQLiteConn) { c.RegisterUpdateHook(nil) },
		"no commit":  func(c *sqlite3.SQLiteConn) { c.RegisterCommitHook(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			db, conn := openConn(t)
			mustExec(t, conn, `INSERT INTO t(v) VALUES ('before')`)
			if err := onRaw(t, conn, func(c *sqlite3.SQLiteConn) error { register(c); return nil }); err != nil {
				t.Fatal(err)
			}
			want := 2
			_, err := conn.ExecContext(t.Context(), `INSERT INTO t(v) VALUES ('not logged')`)
			switch {
			case err == nil && preUpdate(t, conn) && strings.Contains(name, "update"):
				want = 3
			case !errors.Is(err, tursosync.ErrHookDisplaced):
				t.Errorf("insert = %v, want ErrHookDisplaced", err)
			}
			mustExec(t, conn, `INSERT INTO t(v) VALUES ('healed')`)
			if rows, logged := count(t, db, `SELECT count(*) FROM t`), count(t, db, `SELECT count(*) FROM turso_cdc WHERE table_name = 't'`); rows != want || logged != want {
				t.Errorf("%d rows and %d changes logged, want %d", rows, logged, want)
			}
		})
		t.Run(name+" in a transaction", func(t *testing.T) {
			db, conn := openConn(t)
			tx, err := conn.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			mustExec(t, tx, `INSERT INTO t(v) VALUES ('before')`)
			if err := onRaw(t, conn, func(c *sqlite3.SQLiteConn) error { register(c); return nil }); err != nil {
				t.Fatal(err)
			}
			_, err = tx.Exec(`INSERT INTO t(v) VALUES ('not logged')`)
			if cerr := tx.Commit(); err == nil {
				err = cerr
			} else if cerr == nil {
				t.Errorf("commit after %v: no error", err)
			}
			want := 0
			switch {
			case err == nil && preUpdate(t, conn) && strings.Contains(name, "update"):
				want = 2
			case !errors.Is(err, tursosync.ErrHookDisplaced):
				t.Errorf("transaction = %v, want ErrHookDisplaced", err)
			}
			if rows, logged := count(t, db, `SELECT count(*) FROM t`), count(t, db, `SELECT count(*) FROM turso_cdc WHERE table_name = 't'`); rows != want || logged != want {
				t.Errorf("%d rows and %d changes logged, want %d", rows, logged, want)
			}
		})
	}
}

// preUpdate tells whether the build has SQLite's pre-update hook.
func preUpdate(t *testing.T, conn *sql.Conn) bool {
	return count(t, conn, `SELECT sqlite_compileoption_used('ENABLE_PREUPDATE_HOOK')`) == 1
}

// TestHookOfConnectHook: a hook that was there first must not be put aside
// silently either.
func TestHookOfConnectHook(t *testing.T) {
	called := false
	c, err := tursosync.NewConnector(tursosync.Config{Path: filepath.Join(t.TempDir(), "a.db"), ConnectHook: func(c *sqlite3.SQLiteConn) error {
		c.RegisterUpdateHook(func(int, string, string, int64) { called = true })
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	defer db.Close()
	_, err = db.Exec(`CREATE TABLE t(v); INSERT INTO t VALUES (1)`)
	if !errors.Is(err, tursosync.ErrHookDisplaced) && !called {
		t.Errorf("update hook in the connect hook: %v, want ErrHookDisplaced", err)
	}
}

// TestRawWrites: what is written past the driver is not committed.
func TestRawWrites(t *testing.T) {
	db, conn := openConn(t)
	err := onRaw(t, conn, func(c *sqlite3.SQLiteConn) error {
		_, err := c.ExecContext(t.Context(), `INSERT INTO t(v) VALUES ('raw')`, nil)
		return err
	})
	if err == nil {
		t.Error("raw insert: no error")
	}
	mustExec(t, conn, `BEGIN`)
	mustExec(t, conn, `INSERT INTO t(v) VALUES ('logged')`)
	_ = onRaw(t, conn, func(c *sqlite3.SQLiteConn) error {
		_, err := c.ExecContext(t.Context(), `INSERT INTO t(v) VALUES ('raw'); COMMIT`, nil)
		return err
	})
	_, _ = conn.ExecContext(t.Context(), `ROLLBACK`)
	if rows, logged := count(t, db, `SELECT count(*) FROM t`), count(t, db, `SELECT count(*) FROM turso_cdc WHERE table_name = 't'`); rows != logged {
		t.Errorf("%d rows, %d changes logged", rows, logged)
	}
	mustExec(t, db, `INSERT INTO t(v) VALUES ('fine')`)
}

func TestRawFunction(t *testing.T) {
	_, conn := openConn(t)
	err := onRaw(t, conn, func(c *sqlite3.SQLiteConn) error {
		if err := c.RegisterCollation("rev", func(a, b string) int { return -compareText(a, b) }); err != nil {
			return err
		}
		return c.RegisterFunc("twice", func(n int64) int64 { return 2 * n }, true)
	})
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, conn, `INSERT INTO t(v) VALUES (twice(21)), ('b'), ('a'); CREATE INDEX i ON t(v COLLATE rev); UPDATE t SET v = v || twice(id)`)
	if n := count(t, conn, `SELECT count(*) FROM t WHERE v IN ('422', 'b4', 'a6')`); n != 3 {
		t.Errorf("%d rows, want 3", n)
	}
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func TestRefusedStatements(t *testing.T) {
	db, conn := openConn(t)
	mustExec(t, conn, `INSERT INTO t(v) VALUES (1)`)
	for _, q := range []string{
		`PRAGMA journal_mode = DELETE`, `PRAGMA main.journal_mode=off`, `PRAGMA locking_mode = EXCLUSIVE`, `VACUUM`, `PRAGMA writable_schema = 1`,
		`CREATE VIRTUAL TABLE f USING fts3(a)`, `DELETE FROM turso_cdc`, `UPDATE turso_sync_state SET value = 1`, `DROP TABLE turso_cdc`, `INSERT INTO turso_sync_rejected DEFAULT VALUES`,
	} {
		_, err := conn.ExecContext(t.Context(), q)
		var ue *tursosync.UnsupportedError
		if !errors.As(err, &ue) || ue.Why == "" {
			t.Errorf("%s = %v, want an *UnsupportedError that says why", q, err)
		}
		rows, err := conn.QueryContext(t.Context(), q)
		if err == nil {
			rows.Close()
			t.Errorf("query %s: no error", q)
		}
	}
	_, err := conn.ExecContext(t.Context(), `CREATE VIRTUAL TABLE f USING fts3(a)`)
	if !errors.Is(err, tursosync.ErrVirtualTable) {
		t.Errorf("virtual table = %v, want ErrVirtualTable", err)
	}
	if _, err = conn.ExecContext(t.Context(), `DELETE FROM turso_cdc`); !errors.Is(err, tursosync.ErrInternalTable) {
		t.Errorf("write to the log = %v, want ErrInternalTable", err)
	}
	var mode string
	if err := db.QueryRow(`PRAGMA journal_mode`).Scan(&mode); err != nil || mode != "wal" {
		t.Errorf("journal mode %q, %v", mode, err)
	}
	mustExec(t, conn, `PRAGMA journal_mode = WAL`)
	mustExec(t, conn, `PRAGMA page_size = 8192; PRAGMA auto_vacuum = FULL; PRAGMA encoding = 'UTF-16'`) // no effect without VACUUM
	mustExec(t, conn, `CREATE VIRTUAL TABLE temp.f USING fts3(a); INSERT INTO f VALUES ('x')`)
	if n := count(t, conn, `SELECT count(*) FROM f WHERE f MATCH 'x'`); n != 1 {
		t.Errorf("%d rows in a temporary FTS table", n)
	}
	copied := filepath.Join(t.TempDir(), "copy.db")
	mustExec(t, conn, `VACUUM INTO '`+copied+`'`)
	if info, err := os.Stat(copied); err != nil || info.Size() == 0 {
		t.Errorf("VACUUM INTO: %v", err)
	}
	mustExec(t, conn, `INSERT INTO t(v) VALUES ('still writable')`)
}

// TestEverythingIsLogged writes in all the ways that database/sql has.
func TestEverythingIsLogged(t *testing.T) {
	db, conn := openConn(t)
	ctx := context.Background()
	st, err := db.Prepare(`INSERT INTO t(v) VALUES (?)`)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	returning, err := db.Prepare(`INSERT INTO t(v) VALUES (?) RETURNING id`)
	if err != nil {
		t.Fatal(err)
	}
	defer returning.Close()
	cancellable, cancel := context.WithCancel(ctx)
	defer cancel()
	for i, write := range []func() error{
		func() error { _, err := db.Exec(`INSERT INTO t(v) VALUES (1)`); return err },
		func() error { _, err := db.ExecContext(cancellable, `INSERT INTO t(v) VALUES (?)`, 1); return err },
		func() error { _, err := st.Exec(1); return err },
		func() error { _, err := st.ExecContext(cancellable, 1); return err },
		func() error { rows, err := st.Query(1); return errors.Join(err, closeRows(rows)) },
		func() error {
			rows, err := db.Query(`INSERT INTO t(v) VALUES (1) RETURNING id`)
			return errors.Join(err, closeRows(rows))
		},
		func() error { rows, err := returning.Query(1); return errors.Join(err, closeRows(rows)) },
		func() error { _, err := returning.Exec(1); return err },
		func() error { _, err := db.Exec(`SELECT 1; INSERT INTO t(v) VALUES (1); SELECT 2`); return err },
		func() error {
			rows, err := db.Query(`INSERT INTO t(v) VALUES (1); SELECT 2`)
			return errors.Join(err, closeRows(rows))
		},
		func() error {
			tx, err := db.Begin()
			if err != nil {
				return err
			}
			_, err = tx.Stmt(st).Exec(1)
			return errors.Join(err, tx.Commit())
		},
		func() error {
			tx, err := db.Begin()
			if err != nil {
				return err
			}
			rows, err := tx.Stmt(returning).Query(1)
			_ = rows // left open
			return errors.Join(err, tx.Commit())
		},
		func() error {
			_, err := conn.ExecContext(ctx, `BEGIN; INSERT INTO t(v) VALUES (1); COMMIT`)
			return err
		},
		func() error {
			_, err := conn.ExecContext(ctx, `SAVEPOINT a; INSERT INTO t(v) VALUES (1); RELEASE a`)
			return err
		},
	} {
		if err := write(); err != nil {
			t.Errorf("write %d: %v", i, err)
		}
		if rows, logged := count(t, db, `SELECT count(*) FROM t`), count(t, db, `SELECT count(*) FROM turso_cdc WHERE table_name = 't'`); rows != i+1 || logged != i+1 {
			t.Fatalf("after write %d: %d rows, %d changes logged, want %d", i, rows, logged, i+1)
		}
	}
}

func closeRows(rows *sql.Rows) error {
	if rows == nil {
		return nil
	}
	return rows.Close()
}
