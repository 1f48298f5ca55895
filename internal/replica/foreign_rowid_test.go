package replica

import (
	"testing"

	"github.com/tursosync/tursosync/syncer"
)

// TestForeignRowIDGivenAgain: another program deletes the last row of a table without a
// key, and a row inserted here before anybody compared gets its rowid. On the remote the
// rowid that such a row had next is another's.
func TestForeignRowIDGivenAgain(t *testing.T) {
	rem := newRemote(t, `CREATE TABLE bag(x)`, `INSERT INTO bag VALUES ('base'), ('last')`)
	rep := newReplica(t, Config{})
	pulled(t, rep, rem)
	cli(t, rep.Path(), `DELETE FROM bag WHERE x = 'last'`)
	write(t, rep, `INSERT INTO bag VALUES ('mine')`)
	rem.exec(`INSERT INTO bag VALUES ('their 3'), ('their 4')`)
	for rem.push(rep, syncer.Limits{}) > 0 {
	}
	pulled(t, rep, rem)
	wantRows(t, rep, `SELECT x FROM bag ORDER BY x`, "base", "mine", "their 3", "their 4")
}
