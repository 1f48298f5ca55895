package tursosync_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync"
)

const endless = `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) `

// eachStore runs a test on a file and on a database in memory, with a pool of one
// connection unless the test says otherwise.
func eachStore(t *testing.T, f func(t *testing.T, db *sql.DB)) {
	for _, name := range []string{"file", "memory"} {
		t.Run(name, func(t *testing.T) {
			path := ":memory:"
			if name == "file" {
				path = filepath.Join(t.TempDir(), "test.db")
			}
			db := openDB(t, path)
			db.SetMaxOpenConns(1)
			f(t, db)
		})
	}
}

func openDB(t testing.TB, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("tursosync", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close %s: %v", dsn, err)
		}
	})
	return db
}

func mustExec(t testing.TB, db execer, query string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(context.Background(), query, args...); err != nil {
		t.Fatalf("exec %s: %v", query, err)
	}
}

func count(t testing.TB, db interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}, query string) (n int) {
	t.Helper()
	if err := db.QueryRowContext(context.Background(), query).Scan(&n); err != nil {
		t.Fatalf("query %s: %v", query, err)
	}
	return n
}

func timeout(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// wantLost demands that everything on db fails because the transaction is gone.
func wantLost(t *testing.T, db execer, cause error) {
	t.Helper()
	for _, q := range []string{`INSERT INTO t VALUES ('slipped out')`, `SELECT 1`, `SELECT 1;; `, `INSERT INTO t VALUES (1) RETURNING v`, `PRAGMA user_version=5`,
		`SAVEPOINT x`, `RELEASE x`, `CREATE TABLE slipped(a)`, `WITH a AS (SELECT 1) SELECT * FROM a`} {
		_, err := db.ExecContext(context.Background(), q)
		if !errors.Is(err, tursosync.ErrTxRolledBack) || cause != nil && !errors.Is(err, cause) {
			t.Errorf("exec %s = %v, want ErrTxRolledBack (%v)", q, err, cause)
		}
		rows, err := db.QueryContext(context.Background(), q)
		if err == nil {
			rows.Close()
		}
		if !errors.Is(err, tursosync.ErrTxRolledBack) || cause != nil && !errors.Is(err, cause) {
			t.Errorf("query %s = %v, want ErrTxRolledBack (%v)", q, err, cause)
		}
	}
}

// TestCancelledStatementInTx: go-sqlite3's issue 769. A statement that is
// cancelled rolls the transaction back, and what comes next was committed by itself.
func TestCancelledStatementInTx(t *testing.T) {
	eachStore(t, func(t *testing.T, db *sql.DB) {
		mustExec(t, db, `CREATE TABLE t(v)`)
		before, err := db.Prepare(`INSERT INTO t VALUES (?)`)
		if err != nil {
			t.Fatal(err)
		}
		defer before.Close()
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		inTx, err := tx.Prepare(`SELECT * FROM t`)
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, tx, `INSERT INTO t VALUES ('first')`)
		_, err = tx.ExecContext(timeout(t, 20*time.Millisecond), endless+`INSERT INTO t SELECT i FROM n`)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("cancelled insert = %v, want deadline exceeded", err)
		}
		wantLost(t, tx, context.DeadlineExceeded)
		if _, err := tx.Stmt(before).Exec("slipped out"); !errors.Is(err, tursosync.ErrTxRolledBack) {
			t.Errorf("statement prepared before = %v, want ErrTxRolledBack", err)
		}
		if _, err := inTx.Query(); !errors.Is(err, tursosync.ErrTxRolledBack) {
			t.Errorf("statement prepared inside = %v, want ErrTxRolledBack", err)
		}
		if _, err := tx.Prepare(`SELECT 1`); !errors.Is(err, tursosync.ErrTxRolledBack) {
			t.Errorf("prepare = %v, want ErrTxRolledBack", err)
		}
		if _, err := tx.Exec(`BEGIN`); !errors.Is(err, tursosync.ErrTxRolledBack) {
			t.Errorf("BEGIN = %v, want ErrTxRolledBack", err)
		}
		if err := tx.Rollback(); err != nil {
			t.Errorf("rollback: %v", err)
		}
		if n := count(t, db, `SELECT count(*) FROM t`); n != 0 {
			t.Errorf("%d rows, want 0", n)
		}
		mustExec(t, db, `INSERT INTO t VALUES ('after')`)
		if n := count(t, db, `SELECT count(*) FROM t`); n != 1 {
			t.Errorf("%d rows, want 1", n)
		}
	})
}

func TestCommitOfLostTx(t *testing.T) {
	eachStore(t, func(t *testing.T, db *sql.DB) {
		mustExec(t, db, `CREATE TABLE t(v)`)
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, tx, `INSERT INTO t VALUES ('first')`)
		_, _ = tx.ExecContext(timeout(t, 20*time.Millisecond), endless+`INSERT INTO t SELECT i FROM n`)
		var lost *tursosync.TxRolledBackError
		if err := tx.Commit(); !errors.Is(err, tursosync.ErrTxRolledBack) || !errors.As(err, &lost) || !errors.Is(lost.Cause, context.DeadlineExceeded) {
			t.Errorf("commit = %v, want ErrTxRolledBack", err)
		}
		mustExec(t, db, `INSERT INTO t VALUES ('after')`)
		if n := count(t, db, `SELECT count(*) FROM t`); n != 1 {
			t.Errorf("%d rows, want 1", n)
		}
	})
}

func TestCancelledStatementInTextTx(t *testing.T) {
	eachStore(t, func(t *testing.T, db *sql.DB) {
		mustExec(t, db, `CREATE TABLE t(v)`)
		conn, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, begin := range []string{"BEGIN", "BEGIN IMMEDIATE", "SAVEPOINT s"} {
			mustExec(t, conn, begin)
			mustExec(t, conn, `INSERT INTO t VALUES ('first')`)
			_, err = conn.ExecContext(timeout(t, 20*time.Millisecond), endless+`INSERT INTO t SELECT i FROM n`)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("cancelled insert = %v, want deadline exceeded", err)
			}
			wantLost(t, conn, context.DeadlineExceeded)
			if _, err := conn.ExecContext(t.Context(), `COMMIT`); !errors.Is(err, tursosync.ErrTxRolledBack) {
				t.Errorf("COMMIT = %v, want ErrTxRolledBack", err)
			}
			if _, err := conn.ExecContext(t.Context(), `ROLLBACK TO s`); !errors.Is(err, tursosync.ErrTxRolledBack) {
				t.Errorf("ROLLBACK TO = %v, want ErrTxRolledBack", err)
			}
			mustExec(t, conn, `ROLLBACK`)
			mustExec(t, conn, `INSERT INTO t VALUES ('after')`)
		}
		mustExec(t, conn, `BEGIN`)
		_, _ = conn.ExecContext(timeout(t, 20*time.Millisecond), endless+`INSERT INTO t SELECT i FROM n`)
		mustExec(t, conn, `BEGIN`) // a new one may begin: nothing slips out
		mustExec(t, conn, `INSERT INTO t VALUES ('new')`)
		mustExec(t, conn, `COMMIT`)
		mustExec(t, conn, `BEGIN`)
		_, _ = conn.ExecContext(timeout(t, 20*time.Millisecond), endless+`INSERT INTO t SELECT i FROM n`)
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		if n := count(t, db, `SELECT count(*) FROM t`); n != 4 {
			t.Errorf("%d rows, want 4", n)
		}
	})
}

// TestConflictRollback: OR ROLLBACK and RAISE(ROLLBACK) end a transaction too.
func TestConflictRollback(t *testing.T) {
	eachStore(t, func(t *testing.T, db *sql.DB) {
		mustExec(t, db, `CREATE TABLE t(v UNIQUE); INSERT INTO t VALUES (1);
			CREATE TRIGGER r BEFORE INSERT ON t WHEN new.v = 99 BEGIN SELECT RAISE(ROLLBACK, 'enough'); END`)
		for _, q := range []string{`INSERT OR ROLLBACK INTO t VALUES (1)`, `INSERT INTO t VALUES (99)`} {
			tx, err := db.Begin()
			if err != nil {
				t.Fatal(err)
			}
			mustExec(t, tx, `INSERT INTO t VALUES ('gone')`)
			_, err = tx.Exec(q)
			if _, ok := err.(sqlite3.Error); !ok {
				t.Fatalf("%s = %T %v, want a sqlite3.Error", q, err, err)
			}
			wantLost(t, tx, nil)
			_, err = tx.Exec(`SELECT 1`)
			var se sqlite3.Error
			if !errors.As(err, &se) || se.Code != sqlite3.ErrConstraint {
				t.Errorf("after %s: %v has no constraint error in it", q, err)
			}
			if err := tx.Rollback(); err != nil {
				t.Errorf("rollback: %v", err)
			}
		}
		if n := count(t, db, `SELECT count(*) FROM t`); n != 1 {
			t.Errorf("%d rows, want 1", n)
		}
	})
}

func TestCancelledTxContext(t *testing.T) {
	eachStore(t, func(t *testing.T, db *sql.DB) {
		mustExec(t, db, `CREATE TABLE t(v)`)
		for i := 5; i < 25; i++ { // at once, go-sqlite3 may miss it in memory, and run for ever
			ctx, cancel := context.WithCancel(t.Context())
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			mustExec(t, tx, `INSERT INTO t VALUES (1)`)
			time.AfterFunc(time.Duration(i)*200*time.Microsecond, cancel)
			_, _ = tx.ExecContext(ctx, endless+`INSERT INTO t SELECT i FROM n`)
			_, err = tx.Exec(`INSERT INTO t VALUES (2)`)
			if err == nil {
				t.Error("insert after the cancelled context: no error")
			}
			if err := tx.Commit(); err == nil {
				t.Error("commit after the cancelled context: no error")
			}
			if n := count(t, db, `SELECT count(*) FROM t`); n != 0 {
				t.Fatalf("%d rows, want 0", n)
			}
		}
	})
}

func TestReadOnlyTx(t *testing.T) {
	eachStore(t, func(t *testing.T, db *sql.DB) {
		mustExec(t, db, `CREATE TABLE t(v); CREATE TABLE wr(k PRIMARY KEY) WITHOUT ROWID; INSERT INTO t VALUES (1)`)
		for _, end := range []func(*sql.Tx) error{(*sql.Tx).Commit, (*sql.Tx).Rollback} {
			tx, err := db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			if n := count(t, tx, `SELECT count(*) FROM t`); n != 1 {
				t.Errorf("%d rows, want 1", n)
			}
			for _, q := range []string{`INSERT INTO t VALUES (2)`, `DELETE FROM t`, `UPDATE t SET v = 2`, `CREATE TABLE n(a)`, `DROP TABLE t`, `REPLACE INTO wr VALUES (1)`, `INSERT INTO t VALUES (2) RETURNING v`, `PRAGMA user_version = 3`} {
				_, err := tx.Exec(q)
				var se sqlite3.Error
				if !errors.As(err, &se) || se.Code != sqlite3.ErrReadonly {
					t.Errorf("%s = %v, want ErrReadonly", q, err)
				}
			}
			if n := count(t, tx, `SELECT count(*) FROM t`); n != 1 {
				t.Errorf("%d rows, want 1", n)
			}
			if err := end(tx); err != nil {
				t.Errorf("end: %v", err)
			}
			mustExec(t, db, `UPDATE t SET v = v`)
			if n := count(t, db, `PRAGMA query_only`); n != 0 {
				t.Errorf("query_only = %d afterwards", n)
			}
		}
		mustExec(t, db, `PRAGMA query_only = 1`)
		tx, err := db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(); err != nil {
			t.Error(err)
		}
		if n := count(t, db, `PRAGMA query_only`); n != 1 {
			t.Errorf("query_only = %d afterwards, want 1 as before", n)
		}
	})
}

func TestIsolationLevels(t *testing.T) {
	db := openDB(t, ":memory:")
	for _, level := range []sql.IsolationLevel{sql.LevelDefault, sql.LevelSerializable, sql.LevelSnapshot} {
		tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: level})
		if err != nil {
			t.Errorf("%v: %v", level, err)
			continue
		}
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
	}
	for _, level := range []sql.IsolationLevel{sql.LevelReadUncommitted, sql.LevelReadCommitted, sql.LevelWriteCommitted, sql.LevelRepeatableRead, sql.LevelLinearizable} {
		_, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: level})
		var ie *tursosync.IsolationError
		if !errors.As(err, &ie) || ie.Level != level.String() {
			t.Errorf("%v: %v, want an *IsolationError", level, err)
		}
	}
}

// TestAbandonedTx: what a sql.Conn leaves open does not reach the next user of
// the connection, nor does it block others.
func TestAbandonedTx(t *testing.T) {
	eachStore(t, func(t *testing.T, db *sql.DB) {
		mustExec(t, db, `CREATE TABLE t(v)`)
		for _, begin := range []string{"BEGIN", "SAVEPOINT s", "BEGIN IMMEDIATE"} {
			conn, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			mustExec(t, conn, begin)
			mustExec(t, conn, `INSERT INTO t VALUES ('abandoned')`)
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
			tx, err := db.Begin()
			if err != nil {
				t.Fatalf("begin after an abandoned %s: %v", begin, err)
			}
			if n := count(t, tx, `SELECT count(*) FROM t`); n != 0 {
				t.Errorf("%d rows, want 0", n)
			}
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestResetSession(t *testing.T) {
	eachStore(t, func(t *testing.T, db *sql.DB) {
		mustExec(t, db, `CREATE TABLE t(v)`)
		conn, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		err = conn.Raw(func(dc any) error {
			c := dc.(*tursosync.Conn)
			for _, q := range []string{`BEGIN`, `INSERT INTO t VALUES (1)`} {
				if _, err := c.ExecContext(t.Context(), q, nil); err != nil {
					return err
				}
			}
			if err := c.ResetSession(t.Context()); err != nil {
				return err
			}
			if !c.SQLiteConn().AutoCommit() {
				t.Error("a transaction is open after ResetSession")
			}
			if !c.IsValid() {
				t.Error("IsValid() = false")
			}
			return c.Ping(t.Context())
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := count(t, conn, `SELECT count(*) FROM t`); n != 0 {
			t.Errorf("%d rows, want 0", n)
		}
	})
}

func TestClosedConn(t *testing.T) {
	c, err := (&tursosync.Driver{}).Open(filepath.Join(t.TempDir(), "a.db"))
	if err != nil {
		t.Fatal(err)
	}
	conn := c.(*tursosync.Conn)
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	_, err1 := conn.ExecContext(t.Context(), `SELECT 1`, nil)
	_, err2 := conn.QueryContext(t.Context(), `SELECT 1`, nil)
	_, err3 := conn.PrepareContext(t.Context(), `SELECT 1`)
	_, err4 := conn.BeginTx(t.Context(), driver.TxOptions{})
	for _, err := range []error{err1, err2, err3, err4, conn.Ping(t.Context()), conn.ResetSession(t.Context())} {
		if !errors.Is(err, driver.ErrBadConn) {
			t.Errorf("on a closed connection: %v, want ErrBadConn", err)
		}
	}
	if conn.IsValid() || conn.SQLiteConn() != nil {
		t.Error("a closed connection is valid")
	}
}

// TestEmptyPrepared: go-sqlite3 crashes here.
func TestEmptyPrepared(t *testing.T) {
	eachStore(t, func(t *testing.T, db *sql.DB) {
		for _, q := range []string{"", "-- nothing", ";"} {
			st, err := db.Prepare(q)
			if err != nil {
				t.Errorf("prepare %q: %v", q, err)
				continue
			}
			if _, err := st.Exec(); err != nil {
				t.Errorf("exec %q: %v", q, err)
			}
			rows, err := st.Query()
			if err != nil {
				t.Errorf("query %q: %v", q, err)
				continue
			}
			if rows.Next() {
				t.Errorf("query %q has a row", q)
			}
			rows.Close()
			st.Close()
		}
	})
}

func TestOutputParameters(t *testing.T) {
	db := openDB(t, ":memory:")
	var dest string
	if _, err := db.Exec(`SELECT ?`, sql.Named("out", sql.Out{Dest: &dest})); err == nil {
		t.Error("sql.Out: no error")
	}
}

// TestCancelRightAway: go-sqlite3 interrupts once, and an interrupt that comes
// before the statement has begun is lost.
func TestCancelRightAway(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "a.db"))
	mustExec(t, db, `CREATE TABLE t(v)`)
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if _, err := db.ExecContext(ctx, endless+`INSERT INTO t SELECT i FROM n`); !errors.Is(err, context.Canceled) {
			t.Fatalf("endless insert = %v, want cancelled", err)
		}
	}
	if n := count(t, db, `SELECT count(*) FROM t`); n != 0 {
		t.Errorf("%d rows, want 0", n)
	}
}

// TestLogFull: when there is room for the user's change and none for its log, the
// statement or COMMIT fails with the error that go-sqlite3 returns for a full disk,
// to be found by its type alone.
func TestLogFull(t *testing.T) {
	for _, inTx := range []bool{false, true} {
		db := openCrash(t, filepath.Join(t.TempDir(), "app.db"))
		db.SetMaxOpenConns(1)
		if _, err := db.Exec(`CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, zeroblob(1000))`); err != nil {
			t.Fatal(err)
		}
		var pages int
		if err := db.QueryRow(`PRAGMA max_page_count=1`).Scan(&pages); err != nil { // it becomes what it is
			t.Fatal(err)
		}
		update := func() error {
			if !inTx {
				_, err := db.Exec(`UPDATE t SET v = randomblob(1000)`) // in place
				return err
			}
			tx, err := db.Begin()
			if err != nil {
				return err
			}
			defer tx.Rollback()
			if _, err := tx.Exec(`UPDATE t SET v = randomblob(1000)`); err != nil {
				t.Errorf("the statement, not COMMIT: %v", err)
			}
			return tx.Commit()
		}
		var err error
		for range 100 {
			if err = update(); err != nil {
				break
			}
		}
		if e, ok := err.(sqlite3.Error); !ok || e.Code != sqlite3.ErrFull {
			t.Errorf("in a transaction %t: %T %v, want a sqlite3.Error with ErrFull", inTx, err, err)
		}
	}
}
