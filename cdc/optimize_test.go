package cdc_test

import "testing"

// TestOptimize: PRAGMA optimize, which SQLite takes for a read, may run ANALYZE.
func TestOptimize(t *testing.T) {
	l := newLive(t, simpleTable, "CREATE INDEX tv ON t(v)", "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)")
	c := l.conn("main")
	// Here SQLite sees what is to be done only when the statement runs.
	c.run("CREATE TABLE plain(a)", "INSERT INTO plain VALUES (1)", "PRAGMA optimize")
	for _, pragma := range []string{"PRAGMA optimize", "PRAGMA main.optimize(0x10002)", "PRAGMA optimize(-1)", "PRAGMA temp.optimize"} {
		c.run("SELECT * FROM t WHERE v = 2", pragma, "INSERT INTO t(v) SELECT v FROM t", pragma, "BEGIN", "DELETE FROM t WHERE id = 1",
			pragma, "INSERT INTO t VALUES (1, 1)", pragma, "COMMIT")
	}
	if got := c.query("SELECT tbl FROM sqlite_stat1"); len(got) == 0 {
		t.Error("nothing was analysed")
	}
	l.check()
}
