package cdc_test

import "testing"

// TestPendingTriggers: rows that were written while a trigger was there are not pushed
// with that trigger in force, whatever became of it in the changes behind them.
func TestPendingTriggers(t *testing.T) {
	for name, scripts := range map[string][]string{
		"kept":           {},
		"dropped":        {`DROP TRIGGER tr`},
		"changed":        {`DROP TRIGGER tr`, `CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO audit(what) VALUES ('new ' || NEW.a); END`},
		"table renamed":  {`ALTER TABLE t RENAME TO u`},
		"twice":          {`ALTER TABLE t RENAME TO u`, `INSERT INTO u VALUES (11, 'y')`, `ALTER TABLE u RENAME TO v`, `INSERT INTO v VALUES (12, 'z')`},
		"column renamed": {`ALTER TABLE t RENAME a TO b`, `INSERT INTO t VALUES (11, 'y')`, `ALTER TABLE t RENAME b TO c`, `INSERT INTO t VALUES (12, 'z')`},
		"made, renamed":  {`BEGIN; CREATE TRIGGER other BEFORE DELETE ON t BEGIN INSERT INTO audit VALUES ('gone'); END; ALTER TABLE t RENAME TO u; DELETE FROM u; COMMIT`},
		"table dropped":  {`ALTER TABLE t RENAME TO u`, `DROP TABLE u`},
		"new and gone":   {`CREATE TRIGGER other AFTER UPDATE ON t BEGIN DELETE FROM audit; END`, `ALTER TABLE t RENAME TO u`, `INSERT INTO u VALUES (11, 'y')`, `DROP TRIGGER other`},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLive(t, `CREATE TABLE t(id INTEGER PRIMARY KEY, a)`, `CREATE TABLE audit(what)`,
				`CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO audit(what) VALUES ('old ' || NEW.a); END`)
			l.conn("main").run(`INSERT INTO t VALUES (1, 'x')`)
			l.conn("main").run(scripts...)
			s := &story{live: l}
			s.checkPush()
		})
	}
}
