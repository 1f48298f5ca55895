package cdc_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/shim"
)

const simpleTable = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)"

func TestHookDisplaced(t *testing.T) {
	hooks := []struct {
		name     string
		displace func(*sqlite3.SQLiteConn)
		preOnly  bool
		without  bool // not in the build with the pre-update hook, which does not use it
	}{
		{name: "update hook", displace: func(c *sqlite3.SQLiteConn) { c.RegisterUpdateHook(func(int, string, string, int64) {}) }, without: true},
		{name: "update hook", displace: func(c *sqlite3.SQLiteConn) { c.RegisterUpdateHook(nil) }, without: true},
		{name: "pre-update hook", displace: func(c *sqlite3.SQLiteConn) { c.RegisterPreUpdateHook(func(sqlite3.SQLitePreUpdateData) {}) }, preOnly: true},
		{name: "commit hook", displace: func(c *sqlite3.SQLiteConn) { c.RegisterCommitHook(func() int { return 0 }) }},
		{name: "commit hook", displace: func(c *sqlite3.SQLiteConn) { c.RegisterCommitHook(nil) }},
		{name: "rollback hook", displace: func(c *sqlite3.SQLiteConn) { c.RegisterRollbackHook(func() {}) }},
		{name: "authorizer", displace: func(c *sqlite3.SQLiteConn) {
			c.RegisterAuthorizer(func(int, string, string, string) int { return sqlite3.SQLITE_OK })
		}},
	}
	for _, h := range hooks {
		if h.preOnly && !shim.HasPreUpdate() || h.without && shim.HasPreUpdate() {
			continue
		}
		t.Run(h.name, func(t *testing.T) {
			l := newLive(t, simpleTable)
			c := l.conn("main")
			c.run("INSERT INTO t VALUES (1, 1)")
			refused := func(sql string) {
				t.Helper()
				if err := c.try(sql); !errors.Is(err, cdc.ErrHookDisplaced) || !strings.Contains(err.Error(), h.name) {
					t.Errorf("%s: %v, want ErrHookDisplaced of the %s", sql, err, h.name)
				}
			}
			h.displace(c.SQLiteConn)
			refused("INSERT INTO t VALUES (2, 2)")
			c.run("INSERT INTO t VALUES (3, 3)")
			c.run("BEGIN", "INSERT INTO t VALUES (4, 4)")
			h.displace(c.SQLiteConn)
			refused("COMMIT")
			if err := c.try("COMMIT"); !errors.Is(err, cdc.ErrUncaptured) {
				t.Errorf("second COMMIT: %v, want ErrUncaptured", err)
			}
			c.run("ROLLBACK", "BEGIN")
			h.displace(c.SQLiteConn)
			refused("DELETE FROM t")
			c.run("ROLLBACK", "INSERT INTO t VALUES (5, 5)")
			l.check()
			if got := c.query("SELECT id FROM t"); fmt.Sprint(got) != "[1 3 5]" {
				t.Errorf("rows %v, want 1 3 5", got)
			}
		})
	}
}

func (c *captured) query(sql string) []string {
	c.Helper()
	return (&database{TB: c.TB, SQLiteConn: c.SQLiteConn}).query(sql)
}

// TestRemovedAuthorizer: without ours, a DELETE without WHERE would not be seen.
func TestRemovedAuthorizer(t *testing.T) {
	l := newLive(t, simpleTable, "INSERT INTO t VALUES (1, 1), (2, 2)")
	c := l.conn("main")
	c.run("DELETE FROM t WHERE id = 5", "INSERT INTO t VALUES (3, 3)", "DELETE FROM t WHERE v = 99")
	if _, err := c.session.Prepare("DELETE FROM t"); err != nil {
		t.Fatal(err)
	}
	c.RegisterAuthorizer(nil)
	if err := c.try("DELETE FROM t"); !errors.Is(err, cdc.ErrHookDisplaced) {
		t.Errorf("DELETE: %v, want ErrHookDisplaced", err)
	}
	c.run("DELETE FROM t")
	l.check()
}

// TestRaw: what is done on the raw connection is captured or refused.
func TestRaw(t *testing.T) {
	raw := func(c *captured, sql string) error { _, err := c.SQLiteConn.Exec(sql, nil); return err }
	t.Run("autocommit", func(t *testing.T) {
		l := newLive(t, simpleTable)
		c := l.conn("main")
		for range 2 {
			if err := raw(c, "INSERT INTO t(v) VALUES (1)"); err == nil {
				t.Error("INSERT succeeded")
			}
			if err := raw(c, "BEGIN; INSERT INTO t(v) VALUES (1); COMMIT"); err == nil {
				t.Error("COMMIT succeeded")
			}
			c.run("INSERT INTO t(v) VALUES (2)")
		}
		l.check()
	})
	t.Run("before a captured write", func(t *testing.T) {
		l := newLive(t, simpleTable)
		c := l.conn("main")
		c.run("BEGIN")
		if err := raw(c, "INSERT INTO t VALUES (1, 1)"); err != nil {
			t.Fatal(err)
		}
		if err := c.try("INSERT INTO t VALUES (2, 2)"); !errors.Is(err, cdc.ErrUncaptured) {
			t.Errorf("INSERT: %v, want ErrUncaptured", err)
		}
		if err := c.try("COMMIT"); err == nil {
			t.Error("COMMIT succeeded")
		}
		_ = c.session.ResetSession()
		c.run("INSERT INTO t VALUES (3, 3)")
		l.check()
	})
	t.Run("after a captured write", func(t *testing.T) {
		l := newLive(t, simpleTable)
		c := l.conn("main")
		for _, text := range []string{"DELETE FROM t", "CREATE TABLE u(x)", "UPDATE t SET v = 5"} {
			c.run("BEGIN", "INSERT INTO t VALUES (1, 1)")
			if err := raw(c, text); err != nil {
				t.Fatal(err)
			}
			if err := c.try("COMMIT"); !errors.Is(err, cdc.ErrUncaptured) {
				t.Errorf("COMMIT after %s: %v, want ErrUncaptured", text, err)
			}
			c.run("ROLLBACK")
		}
		c.run("INSERT INTO t VALUES (3, 3)")
		l.check()
	})
	t.Run("schema", func(t *testing.T) {
		l := newLive(t, simpleTable)
		c := l.conn("main")
		for _, begin := range []string{"BEGIN IMMEDIATE", "BEGIN"} {
			for _, write := range []string{"INSERT INTO t(v) VALUES (1)", ""} {
				c.run(begin)
				if err := raw(c, "CREATE TABLE u(x)"); err != nil {
					t.Fatal(err)
				}
				if write != "" {
					if err := c.try(write); err != nil && !errors.Is(err, cdc.ErrUncaptured) {
						t.Errorf("%s: %v", write, err)
					}
				}
				if err := c.try("COMMIT"); !errors.Is(err, cdc.ErrUncaptured) {
					t.Errorf("COMMIT of CREATE TABLE after %s, %s: %v, want ErrUncaptured", begin, write, err)
				}
				if c.session.InTx() {
					c.run("ROLLBACK")
				}
			}
		}
		c.run("INSERT INTO t VALUES (3, 3)")
		l.check()
	})
	t.Run("commit", func(t *testing.T) {
		l := newLive(t, simpleTable)
		c, other := l.conn("main"), l.conn("other")
		c.run("BEGIN", "INSERT INTO t VALUES (1, 1)")
		if err := raw(c, "COMMIT"); err == nil {
			t.Error("COMMIT succeeded")
		}
		if err := c.try("INSERT INTO t VALUES (2, 2)"); !errors.Is(err, cdc.ErrUncaptured) {
			t.Errorf("INSERT: %v, want ErrUncaptured", err)
		}
		other.run("INSERT INTO t VALUES (3, 3)")
		c.run("INSERT INTO t VALUES (4, 4)")
		l.check()
	})
	t.Run("rollback", func(t *testing.T) {
		l := newLive(t, simpleTable)
		c, other := l.conn("main"), l.conn("other")
		c.run("BEGIN", "INSERT INTO t VALUES (1, 1)")
		if err := raw(c, "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
		if err := c.session.ResetSession(); err != nil {
			t.Fatal(err)
		}
		other.run("INSERT INTO t VALUES (3, 3)")
		l.check()
	})
	t.Run("read", func(t *testing.T) {
		l := newLive(t, simpleTable)
		c := l.conn("main")
		c.run("BEGIN", "INSERT INTO t VALUES (1, 1)")
		if err := raw(c, "SELECT * FROM t; CREATE TEMP TABLE x(y); PRAGMA cache_size = 100"); err != nil {
			t.Fatal(err)
		}
		c.run("COMMIT")
		l.check()
	})
}

// endless is an INSERT that does not end by itself.
const endless = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT i, i FROM n"

func TestCancelled(t *testing.T) {
	l := newLive(t, simpleTable)
	c, other := l.conn("main"), l.conn("other")
	cancelled := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		if err := c.tryContext(ctx, endless); err == nil {
			t.Error("the statement ended without an error")
		}
	}
	cancelled()
	if c.session.InTx() {
		t.Error("a transaction is open")
	}
	other.run("INSERT INTO t VALUES (1, 1)")
	c.run("INSERT INTO t VALUES (2, 2)", "BEGIN", "INSERT INTO t VALUES (3, 3)")
	cancelled()
	if c.session.InTx() {
		c.run("ROLLBACK")
	}
	other.run("INSERT INTO t VALUES (4, 4)")
	l.check()
}

func TestGate(t *testing.T) {
	l := newLive(t, simpleTable)
	a, b := l.conn("a"), l.conn("b")
	a.run("BEGIN", "INSERT INTO t VALUES (1, 1)")
	var busy sqlite3.Error
	for _, sql := range []string{"INSERT INTO t VALUES (2, 2)", "BEGIN IMMEDIATE", "CREATE TABLE u(x)"} {
		if err := b.try(sql); !errors.As(err, &busy) || busy.Code != sqlite3.ErrBusy {
			t.Errorf("%s: %v, want SQLITE_BUSY", sql, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.tryContext(ctx, "INSERT INTO t VALUES (2, 2)"); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v, want Canceled", err)
	}
	b.run("PRAGMA busy_timeout = 20000", "SELECT * FROM t", "CREATE TEMP TABLE x(y)", "INSERT INTO x VALUES (1)")
	done := make(chan error)
	go func() { done <- b.try("INSERT INTO t VALUES (2, 2)") }()
	a.run("COMMIT")
	if err := <-done; err != nil {
		t.Error(err)
	}
	a.run("BEGIN", "INSERT INTO t VALUES (3, 3)")
	a.close() // rolls back
	b.run("INSERT INTO t VALUES (4, 4)")
	if err := l.log.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	go func() { done <- b.try("INSERT INTO t VALUES (5, 5)") }()
	select {
	case err := <-done:
		t.Errorf("a write passed the gate: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	l.log.Release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	l.check()
	if l.woken.Load() != 4 {
		t.Errorf("Committed was called %d times, want 4", l.woken.Load())
	}
}

func TestForeignWrites(t *testing.T) {
	l := newLive(t, simpleTable)
	c := l.conn("main")
	c.run("INSERT INTO t VALUES (1, 1)", "BEGIN", "INSERT INTO t VALUES (2, 1)", "COMMIT", "CREATE TABLE u(x)", "UPDATE t SET v = 2", "DELETE FROM t WHERE id = 77")
	for _, mode := range []string{"PASSIVE", "RESTART", "TRUNCATE"} {
		l.plain().run("PRAGMA wal_checkpoint(" + mode + ")")
		c.run("UPDATE t SET v = v + 1")
	}
	if l.log.Foreign() {
		t.Fatal("our own commits or a checkpoint count as foreign")
	}
	l.plain().run("INSERT INTO t VALUES (10, 10)")
	c.run("INSERT INTO t VALUES (3, 3)")
	if !l.log.Foreign() {
		t.Error("another program's commit was not noticed")
	}
	l.log.ClearForeign()
	c.run("INSERT INTO t VALUES (4, 4)")
	if l.log.Foreign() {
		t.Error("it was noticed twice")
	}
}

// TestIdsAfterPruning: ids go on above what the log once held, and shapes that
// the replica removed are written again.
func TestIdsAfterPruning(t *testing.T) {
	l := newLive(t, simpleTable)
	c := l.conn("main")
	c.run("INSERT INTO t VALUES (1, 1)")
	if err := l.log.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	plain := l.plain()
	plain.run("DELETE FROM turso_cdc", "DELETE FROM turso_sync_state", "INSERT INTO turso_sync_state VALUES ('last_id', 1000)")
	db, err := shim.Of(plain.SQLiteConn)
	if err != nil {
		t.Fatal(err)
	}
	state, err := db.WALState()
	if err != nil {
		t.Fatal(err)
	}
	l.log.Expect(state.Change)
	l.log.Release()
	c.run("INSERT INTO t VALUES (2, 2)", "INSERT INTO t VALUES (3, 3)")
	changes := l.changes()
	if len(changes) != 2 || changes[0].ID != 1001 || changes[1].ID != 1002 || changes[1].Shape == nil {
		t.Errorf("changes %v, want 1001 and 1002 with shapes", changes)
	}
	if l.log.Foreign() {
		t.Error("the replica's own commit counts as foreign")
	}
}

// TestChangesFunctions: users' SQL does not see our statements.
func TestChangesFunctions(t *testing.T) {
	l := newLive(t, simpleTable, "CREATE TABLE seen(c, t, r)")
	plain, c := l.copy(l.before.SQLiteConn), l.conn("main")
	const look = "SELECT changes(), total_changes(), last_insert_rowid()"
	for _, sql := range []string{
		look,
		"INSERT INTO t VALUES (10, 1), (20, 2), (30, 3)",
		look,
		"INSERT INTO seen " + look,
		"UPDATE t SET v = 9",
		"UPDATE t SET v = 9 WHERE id = 99",
		"INSERT INTO seen " + look,
		"BEGIN",
		"DELETE FROM t WHERE id = 10",
		"INSERT INTO seen " + look,
		"UPDATE t SET v = 1 WHERE id = 99",
		look,
		"COMMIT",
		look,
		"CREATE TABLE u(x)",
		"CREATE TRIGGER tr AFTER INSERT ON u BEGIN UPDATE t SET v = 7; INSERT INTO seen " + look + "; UPDATE t SET v = 8 WHERE id = 20; INSERT INTO seen " + look + "; END",
		"INSERT INTO u VALUES (1), (2)",
		look,
		"SAVEPOINT s",
		"INSERT INTO u VALUES (3)",
		"ROLLBACK TO s",
		look,
		"RELEASE s",
		look,
		"CREATE TABLE w(a UNIQUE, b)", // of which all rows are touched before a REPLACE, because of its trigger
		"CREATE TRIGGER before_w BEFORE UPDATE ON w BEGIN SELECT 1; END",
		"INSERT INTO w VALUES (1, 1), (2, 2), (3, 3)",
		"REPLACE INTO w VALUES (1, 1), (2, 2), (4, 4)",
		look,
		"REPLACE INTO w SELECT changes() + 10, total_changes() FROM w",
		look,
	} {
		plain.run(sql)
		c.run(sql)
		got, want := c.query(look), plain.query(look)
		if got[0] != want[0] {
			t.Errorf("after %s: %v, want %v", sql, got, want)
		}
		changes, total, rowid := c.session.Changes()
		if text := fmt.Sprint(changes, total, rowid); text != want[0] {
			t.Errorf("after %s: Changes() = %v, want %v", sql, text, want)
		}
	}
	l.same("seen", c.query("SELECT * FROM seen"), plain.query("SELECT * FROM seen"))
	l.check()
}

func TestPrepare(t *testing.T) {
	l := newLive(t, simpleTable)
	c := l.conn("main")
	tests := []struct {
		sql      string
		kind     cdc.Kind
		readOnly bool
		params   int
		columns  int
		tail     string
	}{
		{sql: "", kind: cdc.Empty, readOnly: true},
		{sql: " -- comment\n ", kind: cdc.Empty, readOnly: true},
		{sql: "SELECT ?, :a, ?", kind: cdc.Read, readOnly: true, params: 3, columns: 3},
		{sql: "SELECT 1; SELECT 2", kind: cdc.Read, readOnly: true, columns: 1, tail: "SELECT 2"},
		{sql: "EXPLAIN DELETE FROM t", kind: cdc.Read, readOnly: true, columns: 8},
		{sql: "INSERT INTO t VALUES (?1, ?1); nonsense", kind: cdc.Write, params: 1, tail: "nonsense"},
		{sql: "UPDATE t SET v = 1 RETURNING id, v", kind: cdc.Write, columns: 2},
		{sql: "WITH x AS (SELECT 1) DELETE FROM t", kind: cdc.Write},
		{sql: "BEGIN", kind: cdc.Begin},
		{sql: "begin exclusive transaction", kind: cdc.Begin},
		{sql: "END", kind: cdc.Commit},
		{sql: "ROLLBACK", kind: cdc.Rollback},
		{sql: "SAVEPOINT x", kind: cdc.Savepoint},
		{sql: "RELEASE x", kind: cdc.Release},
		{sql: "ROLLBACK TO x", kind: cdc.RollbackTo},
		{sql: "CREATE TABLE u(x)", kind: cdc.Schema},
		{sql: "CREATE TEMP TABLE u(x)", kind: cdc.Schema},
		{sql: "ALTER TABLE t ADD COLUMN w", kind: cdc.Schema},
		{sql: "DROP TABLE t", kind: cdc.Schema},
		{sql: "ANALYZE", kind: cdc.Schema},
		{sql: "PRAGMA user_version = 7", kind: cdc.Schema},
		{sql: "PRAGMA user_version", kind: cdc.Read, readOnly: true, columns: 1},
		{sql: "PRAGMA foreign_keys = on", kind: cdc.Pragma},
		{sql: "PRAGMA table_info(t)", kind: cdc.Read, readOnly: true, columns: 6},
		{sql: "PRAGMA journal_mode", kind: cdc.Read, readOnly: true, columns: 1},
		{sql: "ATTACH ':memory:' AS m", kind: cdc.Attach},
		{sql: "DETACH m", kind: cdc.Detach},
		{sql: "VACUUM INTO 'x'", kind: cdc.Vacuum},
	}
	for _, tt := range tests {
		st, err := c.session.Prepare(tt.sql)
		if err != nil {
			t.Errorf("%q: %v", tt.sql, err)
			continue
		}
		if st.Kind != tt.kind || st.ReadOnly != tt.readOnly || st.Params != tt.params || st.Columns != tt.columns || st.Tail != tt.tail {
			t.Errorf("%q: %v readOnly=%v params=%d columns=%d tail=%q", tt.sql, st.Kind, st.ReadOnly, st.Params, st.Columns, st.Tail)
		}
		if again, err := c.session.Prepare(tt.sql); again != st {
			t.Errorf("%q: not cached (%v)", tt.sql, err)
		}
	}
	var se sqlite3.Error
	if _, err := c.session.Prepare("SELEC 1"); !errors.As(err, &se) || se.Error() != `near "SELEC": syntax error` {
		t.Errorf("syntax error: %v", err)
	}
}

func TestVirtualTables(t *testing.T) {
	l := newLive(t, "CREATE VIRTUAL TABLE ft USING fts4(x)", "INSERT INTO ft VALUES ('pulled words')", simpleTable,
		"CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO ft VALUES (NEW.v); END")
	c := l.conn("main")
	c.run("SELECT * FROM ft WHERE ft MATCH 'words'")
	for _, sql := range []string{"INSERT INTO ft VALUES ('x')", "DELETE FROM ft", "UPDATE ft SET x = 1", "DELETE FROM ft_content", "DROP TABLE ft",
		"INSERT INTO t VALUES (1, 'words')", "INSERT INTO ft(ft) VALUES ('optimize')", "ALTER TABLE ft RENAME TO ft2", "CREATE VIRTUAL TABLE r USING rtree(a, b, c)"} {
		if err := c.try(sql); !errors.Is(err, cdc.ErrVirtualTable) {
			t.Errorf("%s: %v, want ErrVirtualTable", sql, err)
		}
	}
	c.run("UPDATE t SET v = 1")
	if c.session.InTx() {
		t.Error("a transaction is open")
	}
}

func TestAttachItself(t *testing.T) {
	l := newLive(t, simpleTable)
	c := l.conn("main")
	var u *cdc.UnsupportedError
	if err := c.try("ATTACH '" + l.path + "' AS x"); !errors.As(err, &u) {
		t.Errorf("ATTACH: %v, want an UnsupportedError", err)
	}
	if err := c.try("INSERT INTO x.t VALUES (1, 1)"); err == nil {
		t.Error("it is attached")
	}
	c.run("VACUUM INTO '" + filepath.Join(t.TempDir(), "copy.db") + "'")
}

// TestPreparedBefore: a statement that was prepared before TEMP triggers were
// needed is watched by them all the same.
func TestPreparedBefore(t *testing.T) {
	l := newLive(t, "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE)", "CREATE TABLE w(k PRIMARY KEY, v) WITHOUT ROWID",
		"INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)", "INSERT INTO w VALUES (1, 1), (2, 2)")
	c := l.conn("main")
	texts := []string{"UPDATE t SET id = id + 10 WHERE id = ?", "REPLACE INTO t(u) VALUES (?)", "UPDATE w SET k = k + 10 WHERE k = ?", "DELETE FROM w WHERE k = ?"}
	var stmts []driver.Stmt
	for _, text := range texts {
		stmt, err := c.SQLiteConn.Prepare(text)
		if err != nil {
			t.Fatal(err)
		}
		defer stmt.Close()
		stmts = append(stmts, stmt)
	}
	for id := range int64(4) {
		for i, text := range texts {
			st, err := c.session.Prepare(text)
			if err != nil {
				t.Fatal(err)
			}
			err = c.session.Run(t.Context(), st, func() error {
				_, err := stmts[i].(driver.StmtExecContext).ExecContext(t.Context(), []driver.NamedValue{{Ordinal: 1, Value: id}})
				return err
			})
			if err != nil && !constraint(err) {
				t.Fatalf("%s: %v", text, err)
			}
		}
		if id == 1 {
			c.run("PRAGMA temp_store = MEMORY") // drops the TEMP schema
		}
	}
	l.check()
}

func TestManyColumns(t *testing.T) {
	for _, n := range []int{63, 65, 101, 300} {
		var columns, values []string
		for i := range n {
			columns, values = append(columns, fmt.Sprintf("c%d", i)), append(values, fmt.Sprint(i*1000))
		}
		l := newLive(t, "CREATE TABLE t("+strings.Join(columns, ", ")+")",
			"CREATE TABLE w("+strings.Join(columns, ", ")+", PRIMARY KEY("+strings.Join(columns[:min(n, 90)], ", ")+")) WITHOUT ROWID")
		c := l.conn("main")
		c.run("INSERT INTO t VALUES ("+strings.Join(values, ", ")+")", "INSERT INTO w SELECT * FROM t", "UPDATE t SET c1 = 'x', c62 = NULL",
			"UPDATE w SET c1 = 'x'", "BEGIN", "ALTER TABLE t ADD COLUMN z DEFAULT 1", "UPDATE t SET z = 2", "DELETE FROM w", "COMMIT")
		l.check()
	}
}

// TestConcurrent: several connections write at once; what they logged leads to
// what is there.
func TestConcurrent(t *testing.T) {
	l := newLive(t, "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, v)", "CREATE TABLE w(k PRIMARY KEY, v) WITHOUT ROWID")
	var wg sync.WaitGroup
	for i := range 4 {
		c := l.conn(fmt.Sprint(i))
		c.run("PRAGMA busy_timeout = 60000")
		wg.Go(func() {
			for j := range 40 {
				var err error
				switch j % 5 {
				case 0:
					err = c.try(fmt.Sprintf("INSERT OR REPLACE INTO t(u, v) VALUES (%d, %d)", j%7, i))
				case 1:
					err = c.try(fmt.Sprintf("INSERT INTO w VALUES ('%d.%d', 1); UPDATE w SET v = v + 1 WHERE k = '%[1]d.%[2]d'", i, j))
				case 2:
					err = c.try("BEGIN IMMEDIATE; UPDATE t SET v = v + 1; INSERT INTO t(v) VALUES (0); COMMIT")
				case 3:
					err = c.try(fmt.Sprintf("UPDATE t SET id = id + 1000 WHERE id = %d", j))
				case 4:
					err = c.try("BEGIN IMMEDIATE; DELETE FROM t WHERE v > 5; ROLLBACK; DELETE FROM t WHERE v > 50")
				}
				if err != nil && !constraint(err) {
					t.Error(err)
				}
				if j == 20 && i == 1 {
					if err := c.try("ALTER TABLE t ADD COLUMN extra DEFAULT 'e'"); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	l.check()
}

func constraint(err error) bool {
	var e sqlite3.Error
	return errors.As(err, &e) && e.Code == sqlite3.ErrConstraint
}

// TestOwnFunctions: the connection that sees the committed state does not know
// the program's functions and collations.
func TestOwnFunctions(t *testing.T) {
	l := newLive(t, simpleTable)
	c := l.conn("main")
	if err := c.RegisterCollation("backwards", func(a, b string) int { return -strings.Compare(a, b) }); err != nil {
		t.Fatal(err)
	}
	if err := c.RegisterFunc("twice", func(s string) string { return s + s }, true); err != nil {
		t.Fatal(err)
	}
	c.run("CREATE TABLE f(k TEXT COLLATE backwards PRIMARY KEY, v, g AS (twice('' || v)), u UNIQUE)", "CREATE INDEX i ON f(twice(v || ''))",
		"INSERT INTO f VALUES ('a', 1, 1), ('b', 2, 2)", "UPDATE f SET v = 'x' WHERE k = 'a'", "REPLACE INTO f VALUES ('c', 3, 2)",
		"UPDATE f SET k = 'd'||k", "DELETE FROM f WHERE v = 'x'", "CREATE TABLE w(k TEXT COLLATE backwards PRIMARY KEY) WITHOUT ROWID")
	got := logText(t, l.changes())
	for _, want := range []string{`update "f" 1 before (k="a", v=1, u=1) after (k="a", v="x", u=1)`, `delete "f" 2 before (k="b", v=2, u=2)`,
		`insert "f" 3 after (k="c", v=3, u=2)`, `delete "f" 1 before (k="da", v="x", u=1)`} {
		if !strings.Contains(got, want) {
			t.Errorf("the log lacks %s:\n%s", want, got)
		}
	}
	var u *cdc.UnsupportedError
	if err := c.try("INSERT INTO w VALUES ('a')"); !errors.As(err, &u) {
		t.Errorf("INSERT: %v, want an UnsupportedError", err)
	}
}

// TestFull: a log row that finds no room takes its change with it, and only that.
func TestFull(t *testing.T) {
	l := newLive(t, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)", "INSERT INTO t VALUES (1, zeroblob(3000)), (2, zeroblob(3000))")
	c := l.conn("main")
	c.run("INSERT INTO t VALUES (3, 3)", "PRAGMA max_page_count = 1")
	full := func(sql string) {
		t.Helper()
		var e sqlite3.Error
		err := error(nil)
		for i := 0; i < 1000 && err == nil; i++ {
			err = c.try(sql)
		}
		if !errors.As(err, &e) || e.Code != sqlite3.ErrFull {
			t.Errorf("%s: %v, want SQLITE_FULL", sql, err)
		}
	}
	full("UPDATE t SET v = zeroblob(3000 + abs(random() % 2))")
	if c.session.InTx() {
		t.Error("a transaction is open")
	}
	c.run("BEGIN", "UPDATE t SET v = zeroblob(2000)")
	full("COMMIT")
	_ = c.session.ResetSession()
	c.run("BEGIN", "UPDATE t SET v = zeroblob(2001)")
	full("CREATE TABLE u(x)")
	_ = c.session.ResetSession()
	l.conn("other").run("UPDATE t SET v = zeroblob(10)")
	c.run("PRAGMA max_page_count = 100000", "UPDATE t SET v = zeroblob(2000)", "BEGIN", "DELETE FROM t WHERE id = 1", "COMMIT")
	l.check()
}
