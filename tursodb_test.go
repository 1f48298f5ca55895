package tursosync_test

import (
	"testing"
)

// TestMovedRows gives a row without key another rowid in a rebase, and goes on
// with it: nobody else's row is touched.
func TestMovedRows(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		one, two := open(t, r), open(t, r)
		one.exec(`CREATE TABLE bag(who, n)`)
		one.sync()
		two.sync()
		one.exec(`INSERT INTO bag VALUES ('one', 1), ('one', 2)`)
		two.exec(`INSERT INTO bag VALUES ('two', 1), ('two', 2), ('two', 3)`)
		one.push()
		two.pull() // the rowids 1 and 2 are one's now
		two.want(`SELECT who, n FROM bag ORDER BY rowid`, "one|1", "one|2", "two|1", "two|2", "two|3")
		two.exec(`UPDATE bag SET n = n + 10 WHERE who = 'two'`)
		one.exec(`INSERT INTO bag VALUES ('one', 3)`)
		one.push()
		two.pull()
		two.exec(`UPDATE bag SET n = n + 10 WHERE n = 11`, `DELETE FROM bag WHERE n = 12`)
		converge(t, r, two, one)
		one.want(`SELECT who, n FROM bag ORDER BY who, n`, "one|1", "one|2", "one|3", "two|13", "two|21")
	})
}
