package replica

import (
	"fmt"
	"math"
	"testing"
)

// TestSequences: AUTOINCREMENT gives no id twice, though the log has forgotten the
// row that had it, and a pull brings another table of sequences.
func TestSequences(t *testing.T) {
	rem := newRemote(t, `CREATE TABLE seen(id INTEGER PRIMARY KEY AUTOINCREMENT, v)`, `INSERT INTO seen(v) VALUES (1), (2)`,
		`CREATE TABLE empty(id INTEGER PRIMARY KEY AUTOINCREMENT, v)`, `CREATE TABLE ahead(id INTEGER PRIMARY KEY AUTOINCREMENT, v)`)
	rep := newReplica(t, Config{})
	pulled(t, rep, rem)
	for _, table := range []string{"seen", "empty", "ahead"} {
		write(t, rep, `INSERT INTO `+table+` VALUES (7, 'given away')`, `DELETE FROM `+table+` WHERE id = 7`)
	}
	rem.exec(`INSERT INTO ahead VALUES (20, 'theirs')`, `CREATE TABLE other(a)`)
	for range 2 {
		pulled(t, rep, rem)
		wantRows(t, rep, `SELECT name, seq FROM sqlite_sequence ORDER BY name`, "ahead 20", "empty 7", "seen 7")
		rem.exec(`INSERT INTO other VALUES (1)`)
	}
	write(t, rep, `INSERT INTO seen(v) VALUES ('next')`)
	wantRows(t, rep, `SELECT id FROM seen WHERE v = 'next'`, "8")
}

// TestHostileCookie: prepared statements of other connections tell a new schema by
// a new cookie, also when the remote has the last there is.
func TestHostileCookie(t *testing.T) {
	for cookie := range 8 { // making the local tables moves it on
		rem := newRemote(t, `CREATE TABLE a(x)`)
		rep := newReplica(t, Config{})
		seen := make(map[int64]bool)
		for _, table := range []string{"b", "c", "d"} {
			rem.exec(`CREATE TABLE `+table+`(x)`, fmt.Sprintf(`PRAGMA schema_version=%d`, math.MaxInt32-cookie))
			pulled(t, rep, rem)
			cookie, err := rep.live.number(`PRAGMA schema_version`)
			if err != nil {
				t.Fatal(err)
			}
			if seen[cookie] {
				t.Errorf("with table %s, the schema has the cookie %d again", table, cookie)
			}
			seen[cookie] = true
		}
	}
}
