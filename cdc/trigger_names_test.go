package cdc_test

import "testing"

// TestTriggersNamedAfter: a trigger that changes the row that is being updated makes it
// unknowable which rows are replaced; it has to be recognised whatever its and
// its columns' names.
func TestTriggersNamedAfter(t *testing.T) {
	for _, tr := range []string{
		"CREATE TRIGGER tr BEFORE UPDATE ON t WHEN NEW.d = 5 BEGIN UPDATE t SET c = 5 WHERE id = NEW.id; END",
		"CREATE TRIGGER tr BEFORE UPDATE OF after ON t BEGIN UPDATE t SET c = 5 WHERE id = NEW.id; END",
		"CREATE TRIGGER IF NOT EXISTS main.after UPDATE OF instead, after ON t BEGIN UPDATE t SET c = 5 WHERE id = NEW.id; END",
		"CREATE TRIGGER instead AFTER UPDATE ON t WHEN NEW.d = 5 AND NEW.c = 1 BEGIN UPDATE OR REPLACE t SET c = 5 WHERE id = NEW.id; END",
		"CREATE TRIGGER after UPDATE ON t WHEN NEW.d=5 BEGIN UPDATE t SET c = 5 WHERE id = NEW.id; END",
	} {
		t.Run(tr, func(t *testing.T) {
			l := newLive(t, "CREATE TABLE t(id INTEGER PRIMARY KEY, after, c, d, instead, UNIQUE(c,d))",
				"INSERT INTO t VALUES (1,1,1,1,1),(4,4,5,5,5)", tr)
			c := l.conn("a")
			c.run("UPDATE OR REPLACE t SET after = 5, d = 5 WHERE id = 1")
			if got := c.query("SELECT id, c, d FROM t"); len(got) != 1 {
				t.Errorf("rows %v, want one: the test needs a replaced row", got)
			}
			l.check()
		})
	}
}
