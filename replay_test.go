package tursosync_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tursosync/tursosync"
)

// TestTriggerKinds: the effects of all kinds of triggers are on the remote once, on a
// remote that can be asked not to fire them and on one that cannot; a trigger that
// only the remote has fires; others' SQL fires all. Pushes do not write the schema of
// our server.
func TestTriggerKinds(t *testing.T) {
	schema := []string{
		`CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER, note TEXT)`, `CREATE TABLE count(id INTEGER PRIMARY KEY, n INTEGER)`,
		`CREATE TABLE audit(id INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT)`, `CREATE TABLE tree(id INTEGER PRIMARY KEY, parent INTEGER)`,
		`CREATE VIEW v AS SELECT id, n FROM t`, `CREATE TABLE keyed(a TEXT, b TEXT, PRIMARY KEY(a, b))`, `CREATE TABLE bag(x)`,
		`INSERT INTO count VALUES (1, 0)`,
		`CREATE TRIGGER before_insert BEFORE INSERT ON t BEGIN INSERT INTO audit(what) VALUES ('before ' || new.id); END`,
		`CREATE TRIGGER after_insert AFTER INSERT ON t BEGIN UPDATE count SET n = n + 1; INSERT INTO keyed VALUES ('t', new.id); INSERT INTO bag VALUES (new.n); END`,
		`CREATE TRIGGER update_of AFTER UPDATE OF n ON t WHEN new.n <> old.n BEGIN INSERT INTO audit(what) VALUES (old.n || ' to ' || new.n); END`,
		`CREATE TRIGGER "of ""note" BEFORE UPDATE OF note ON t BEGIN INSERT INTO audit(what) VALUES ('note'); END`,
		`CREATE TRIGGER cascade AFTER UPDATE ON count BEGIN INSERT INTO audit(what) VALUES ('count ' || new.n); END`,
		`CREATE TRIGGER after_delete AFTER DELETE ON t BEGIN UPDATE count SET n = n - 1; DELETE FROM keyed WHERE b = old.id; DELETE FROM bag WHERE x = old.n; END`,
		`CREATE TRIGGER down AFTER DELETE ON tree BEGIN DELETE FROM tree WHERE parent = old.id; INSERT INTO audit(what) VALUES ('felled ' || old.id); END`,
		`CREATE TRIGGER forbids BEFORE INSERT ON t WHEN new.n = 13 BEGIN SELECT RAISE(ABORT, 'bad luck'); END`,
	}
	rowsOf := func(s *side) string {
		return fmt.Sprint(queryRows(t, s.db, `SELECT * FROM t`), queryRows(t, s.db, `SELECT * FROM count`), queryRows(t, s.db, `SELECT * FROM audit ORDER BY id`),
			queryRows(t, s.db, `SELECT * FROM tree`), queryRows(t, s.db, `SELECT * FROM keyed ORDER BY a, b`), queryRows(t, s.db, `SELECT x FROM bag ORDER BY x`))
	}
	for _, recursive := range []string{"0", "1"} {
		t.Run("recursive="+recursive, func(t *testing.T) {
			eachRemote(t, func(t *testing.T, r remote) {
				edit := func(c *tursosync.Config) { c.Options = map[string][]string{"_recursive_triggers": {recursive}} }
				one, two := open(t, r, edit), open(t, r, edit)
				one.exec(schema...)
				own, _ := r.(*ownServer)
				twenty := `INSERT INTO t(id, n) VALUES (2, 20)`
				if own != nil { // tursodb knows no such triggers
					one.exec(`CREATE TRIGGER instead INSTEAD OF INSERT ON v BEGIN INSERT INTO t(id, n) VALUES (new.id, new.n * 2); END`)
					twenty = `INSERT INTO v VALUES (2, 10)`
				}
				converge(t, r, one, two)
				version := ""
				if own != nil {
					version = fmt.Sprint(own.Query(`PRAGMA schema_version`))
				}
				one.exec(`INSERT INTO t VALUES (1, 10, 'a')`, `UPDATE t SET n = 11 WHERE id = 1`, `UPDATE t SET note = 'b'`, twenty,
					`INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2), (4, 3)`)
				one.push()
				one.exec(`DELETE FROM tree WHERE id = 1`, `REPLACE INTO t VALUES (1, 12, 'c')`, `UPDATE t SET n = n + 1, note = 'd'`,
					`INSERT INTO t VALUES (3, 14, '') ON CONFLICT DO NOTHING`, `DELETE FROM t WHERE id = 2`)
				before := rowsOf(one)
				one.push()
				two.pull()
				if got := rowsOf(two); got != before {
					t.Errorf("the other replica has\n%s\nwant\n%s", got, before)
				}
				two.exec(`INSERT INTO t VALUES (4, 1, '')`, `UPDATE t SET n = 2 WHERE id = 4`, `DELETE FROM t WHERE id = 3`)
				converge(t, r, one, two)
				one.want(`SELECT n = (SELECT count(*) FROM t) FROM count`, map[string]string{"0": "0", "1": "1"}[recursive])
				if own == nil {
					return
				}
				if got := fmt.Sprint(own.Query(`PRAGMA schema_version`)); got != version {
					t.Errorf("schema version = %s, was %s", got, version)
				}
				t.Log("plain SQL fires triggers, and one of the remote fires for pushed rows")
				own.Exec(`INSERT INTO v VALUES (5, 50)`)
				one.pull()
				own.Exec(`CREATE TRIGGER only_remote AFTER INSERT ON audit BEGIN INSERT INTO bag VALUES ('remote'); END`)
				if _, err := own.TryQuery(`INSERT INTO t VALUES (6, 13, '')`); err == nil || !strings.Contains(err.Error(), "bad luck") {
					t.Errorf("plain SQL = %v", err)
				}
				one.exec(`UPDATE t SET n = 3 WHERE id = 4`)
				one.push() // and does not know of that trigger
				converge(t, r, one, two)
				one.want(`SELECT n FROM t WHERE id = 5`, "100")
				one.want(`SELECT count(*) FROM audit WHERE what = '2 to 3'`, "1")
				one.want(`SELECT count(*) FROM bag WHERE x = 'remote'`, "1")
			})
		})
	}
}
