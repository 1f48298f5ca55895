package cdc_test

import (
	"testing"

	"github.com/tursosync/tursosync/internal/shim"
)

// TestAccount: a program's own commits are never taken for another program's,
// which would make every pull compare all rows; another program's are noticed.
func TestAccount(t *testing.T) {
	l := newLive(t, `CREATE TABLE t(id INTEGER PRIMARY KEY, a)`, `CREATE TABLE parent(id INTEGER PRIMARY KEY)`,
		`CREATE TABLE child(p REFERENCES parent DEFERRABLE INITIALLY DEFERRED)`)
	a, b := l.conn("a"), l.conn("b")
	db, err := shim.Of(a.SQLiteConn)
	if err != nil {
		t.Fatal(err)
	}
	account := func(step string, foreign bool) {
		t.Helper()
		ws, err := db.WALState()
		if err != nil {
			t.Fatal(err)
		}
		if got := l.log.Expected(); got != ws.Change && !foreign {
			t.Errorf("%s: Expected() = %d, want %d", step, got, ws.Change)
		}
		if got := l.log.Foreign(); got != foreign {
			t.Errorf("%s: Foreign() = %v, want %v", step, got, foreign)
		}
	}
	for _, step := range []struct {
		on     *captured
		script string
		fails  bool
	}{
		{a, `INSERT INTO t VALUES (1, 'a')`, false},
		{a, `UPDATE t SET a = 'b'`, false},
		{b, `INSERT INTO t VALUES (2, 'a')`, false},
		{b, `UPDATE t SET a = a`, false},
		{a, `UPDATE t SET a = 'c' WHERE id = 9`, false},
		{a, `INSERT INTO t VALUES (1, 'twice')`, true},
		{a, `BEGIN; INSERT INTO t VALUES (3, 'a'); DELETE FROM t WHERE id = 1; COMMIT`, false},
		{b, `BEGIN; INSERT INTO t VALUES (4, 'a'); ROLLBACK`, false},
		{b, `SAVEPOINT s; INSERT INTO t VALUES (4, 'a'); RELEASE s`, false},
		{b, `CREATE TABLE u(x)`, false},
		{a, `INSERT INTO u VALUES (1)`, false},
		{a, `INSERT INTO child VALUES (7)`, true},
		{a, `PRAGMA user_version = 3`, false},
		{b, `DROP TABLE u`, false},
		{a, `INSERT INTO t VALUES (9, 'z') RETURNING id`, false},
	} {
		if err := step.on.try(step.script); (err != nil) != step.fails {
			t.Fatalf("%s: %v", step.script, err)
		}
		account(step.script, false)
	}
	l.plain().run(`INSERT INTO t VALUES (20, 'foreign')`)
	a.run(`INSERT INTO t VALUES (21, 'own')`)
	account("another program", true)
}
