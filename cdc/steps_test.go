package cdc_test

import "testing"

// TestLogInSteps: REINDEX, like a change of the schema, has what was changed before logged
// before it. A row is then in the transaction's log twice; a replay that has to delete
// first, as unique values were swapped, must not delete the second step's rows before the
// first one's are there. (In the build with the pre-update hook the order asks for it.)
func TestLogInSteps(t *testing.T) {
	l := newLive(t, `CREATE TABLE t(a INTEGER NOT NULL, b PRIMARY KEY DESC, UNIQUE(a COLLATE RTRIM) ON CONFLICT IGNORE) WITHOUT ROWID`)
	l.conn("main").run(
		`CREATE TEMP TRIGGER others BEFORE INSERT ON t BEGIN UPDATE t SET b = b + 1 WHERE a <> new.a; END`,
		`INSERT INTO t VALUES ('a' || char(0) || 'b', 0), (9e999, 0), (x'', 'a')`,
		`SAVEPOINT s`,
		`INSERT OR IGNORE INTO t VALUES (-0.0, char(0)), (NULL, -9223372036854775808), (1e15, '1')`,
		`REINDEX`,
		`REPLACE INTO t VALUES (zeroblob(9), 2), (6, 1), (2, 'A')`,
		`COMMIT`)
	s := &story{live: l, patience: t.Context()}
	s.checkCapture()
	s.checkPush()
}

// TestRekeyedInSteps: rows that the transaction itself inserted, and that were logged
// before their keys moved on, are deleted before they are inserted again.
func TestRekeyedInSteps(t *testing.T) {
	for _, table := range []string{
		`CREATE TABLE t(k INTEGER PRIMARY KEY DESC, v)`,
		`CREATE TABLE t(k TEXT PRIMARY KEY, v)`,
		`CREATE TABLE t(k PRIMARY KEY, v) WITHOUT ROWID`,
		`CREATE TABLE t(k INTEGER PRIMARY KEY, v)`,
	} {
		t.Run(table, func(t *testing.T) {
			l := newLive(t, table)
			l.conn("main").run(
				`BEGIN`,
				`INSERT INTO t VALUES (5, 'a'), (4, 'b'), (3, 'c')`,
				`CREATE TABLE other(x)`,
				`UPDATE t SET k = -k`,
				`UPDATE t SET k = -k - 1`,
				`COMMIT`)
			s := &story{live: l, patience: t.Context()}
			s.checkCapture()
			s.checkPush()
		})
	}
}

// TestTempTriggerReplaces: what a TEMP trigger on a table of main may do to its rows is
// known from then on, and no longer when a ROLLBACK has taken it away or brought it back.
func TestTempTriggerReplaces(t *testing.T) {
	const trigger = `CREATE TEMP TRIGGER again BEFORE INSERT ON main.t BEGIN REPLACE INTO t VALUES (1, 'one'); END`
	for name, script := range map[string][]string{
		"alone":       {trigger},
		"inside":      {`BEGIN`, trigger, `INSERT INTO t VALUES (3, 'three')`, `COMMIT`},
		"drop undone": {trigger, `BEGIN`, `DROP TRIGGER again`, `INSERT INTO t VALUES (3, 'three')`, `ROLLBACK`},
		"drop undone by a savepoint": {trigger, `BEGIN`, `INSERT INTO t VALUES (3, 'three')`, `SAVEPOINT s`, `DROP TRIGGER again`, `INSERT INTO t VALUES (4, 'four')`,
			`ROLLBACK TO s`, `DELETE FROM t WHERE id > 2`, `COMMIT`},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLive(t, `CREATE TABLE t(id INTEGER PRIMARY KEY, v)`)
			l.conn("main").run(`INSERT INTO t VALUES (1, 'one')`)
			l.conn("main").run(script...)
			l.conn("main").run(`INSERT INTO t VALUES (2, 'two')`)
			l.check()
			for _, c := range l.changes()[1:] {
				if c.RowID == 1 {
					t.Errorf("row 1 is as it was, and logged:\n%s", logText(t, l.changes()))
				}
			}
		})
	}
}
