package cdc_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mattn/go-sqlite3"
	"github.com/tursosync/tursosync/cdc"
)

// cell is a pair of a local and a remote operation, and what is left of both. It
// holds whether the local one is pushed onto the remote, or replayed on a base
// that has the remote one: docs/semantics.md names every cell.
type cell struct {
	name  string
	setup string // base, known to both
	// local are transactions; the first pushed of them are on the remote already,
	// before its own operation, but not in the local base.
	local  []string
	pushed int
	remote string
	query  string // of what is left; default: all of t
	want   []string
	// collisions is how many key collisions are reported.
	collisions int
	// refused is why the local transaction is rejected instead; want is then the
	// remote's.
	refused cdc.Reason
}

const (
	intKey  = `CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES(1,'a','b')`
	textKey = `CREATE TABLE t(k TEXT PRIMARY KEY, a, b); INSERT INTO t VALUES('x','a','b')`
	noKey   = `CREATE TABLE t(a, b); INSERT INTO t VALUES('a','b')`
	nullKey = `CREATE TABLE t(k TEXT PRIMARY KEY, a, b); INSERT INTO t VALUES(NULL,'a','b'),(NULL,'other','b')`
	unique  = `CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, n); INSERT INTO t VALUES(1,'one',0),(2,'two',0)`
	noRowID = `CREATE TABLE t(k TEXT PRIMARY KEY, a, b) WITHOUT ROWID; INSERT INTO t VALUES('x','a','b')`
)

// rebuildSame gets rid of rows by a new table that is defined as the old one.
const bagOfThree = `CREATE TABLE t(a, b); INSERT INTO t VALUES('a','a'),('b','b'),('b','b')`

var rebuildSame = []string{`CREATE TABLE n(a, b)`, `INSERT INTO n SELECT DISTINCT * FROM t WHERE a > 'a'`, `DROP TABLE t`, `ALTER TABLE n RENAME TO t`}

func one(sql string) []string { return []string{sql} }

var cells = []cell{
	// Tables with a primary key.
	{name: "insert-insert-different-key", setup: intKey, local: one(`INSERT INTO t VALUES(2,'l','l')`), remote: `INSERT INTO t VALUES(3,'r','r')`,
		want: []string{`1 "a" "b"`, `2 "l" "l"`, `3 "r" "r"`}},
	{name: "insert-insert-same-key", setup: intKey, local: one(`INSERT INTO t VALUES(2,'l',NULL)`), remote: `INSERT INTO t VALUES(2,'r','r')`,
		want: []string{`1 "a" "b"`, `2 "l" NULL`}, collisions: 1},
	{name: "insert-insert-same-row", setup: intKey, local: one(`INSERT INTO t VALUES(2,'s',1.5)`), remote: `INSERT INTO t VALUES(2,'s',1.5)`,
		want: []string{`1 "a" "b"`, `2 "s" 1.5`}},
	{name: "insert-insert-same-text-key", setup: textKey, local: one(`INSERT INTO t VALUES('y','l',NULL)`), remote: `INSERT INTO t VALUES('y','r','r')`,
		want: []string{`"x" "a" "b"`, `"y" "l" NULL`}},
	{name: "insert-insert-without-rowid", setup: noRowID, local: one(`INSERT INTO t VALUES('y','l',NULL)`), remote: `INSERT INTO t VALUES('y','r','r')`,
		want: []string{`"x" "a" "b"`, `"y" "l" NULL`}},
	{name: "insert-insert-equal-key", setup: `CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY, a)`, local: one(`INSERT INTO t VALUES('K','l')`), remote: `INSERT INTO t VALUES('k','r')`,
		want: []string{`"K" "l"`}},
	{name: "insert-then-delete-insert", setup: intKey, local: []string{`INSERT INTO t VALUES(2,'l','l')`, `DELETE FROM t WHERE id=2`}, remote: `INSERT INTO t VALUES(2,'r','r')`,
		want: one(`1 "a" "b"`), collisions: 1},
	{name: "update-update-different-column", setup: intKey, local: one(`UPDATE t SET a='l'`), remote: `UPDATE t SET b='r'`, want: one(`1 "l" "r"`)},
	{name: "update-update-same-column", setup: intKey, local: one(`UPDATE t SET a='l'`), remote: `UPDATE t SET a='r', b='r'`, want: one(`1 "l" "r"`)},
	{name: "update-update-without-rowid", setup: noRowID, local: one(`UPDATE t SET a='l'`), remote: `UPDATE t SET a='r', b='r'`, want: one(`"x" "l" "r"`)},
	{name: "update-delete", setup: intKey, local: one(`UPDATE t SET a='l'`), remote: `DELETE FROM t`, want: one(`1 "l" "b"`)},
	{name: "update-delete-text-key", setup: textKey, local: one(`UPDATE t SET a='l'`), remote: `DELETE FROM t`, want: one(`"x" "l" "b"`)},
	{name: "update-insert", setup: intKey, local: one(`UPDATE t SET a='l'`), remote: `INSERT INTO t VALUES(2,'r','r')`, want: []string{`1 "l" "b"`, `2 "r" "r"`}},
	{name: "update-replace", setup: intKey, local: one(`UPDATE t SET a='l'`), remote: `REPLACE INTO t VALUES(1,'r','r')`, want: one(`1 "l" "r"`)},
	{name: "delete-update", setup: intKey, local: one(`DELETE FROM t`), remote: `UPDATE t SET a='r'`, want: nil},
	{name: "delete-delete", setup: intKey, local: one(`DELETE FROM t`), remote: `DELETE FROM t`, want: nil},
	{name: "delete-insert", setup: intKey, local: one(`DELETE FROM t`), remote: `INSERT INTO t VALUES(2,'r','r')`, want: one(`2 "r" "r"`)},
	{name: "delete-then-insert-update", setup: intKey, local: []string{`DELETE FROM t`, `INSERT INTO t VALUES(1,'l','l')`}, remote: `UPDATE t SET a='r', b='r'`, want: one(`1 "l" "l"`)},
	{name: "replace-update", setup: intKey, local: one(`REPLACE INTO t VALUES(1,'l','b')`), remote: `UPDATE t SET b='r'`, want: one(`1 "l" "r"`)},
	{name: "several-updates-update", setup: intKey, local: []string{`UPDATE t SET a='l'`, `UPDATE t SET b='l'`, `UPDATE t SET b='b'`}, remote: `UPDATE t SET a='r', b='r'`, want: one(`1 "l" "b"`)},

	// Changed keys.
	{name: "key-change-update", setup: textKey, local: one(`UPDATE t SET k='y'`), remote: `UPDATE t SET a='r'`, want: one(`"y" "a" "b"`)},
	{name: "key-change-delete", setup: textKey, local: one(`UPDATE t SET k='y'`), remote: `DELETE FROM t`, want: one(`"y" "a" "b"`)},
	{name: "key-change-key-change", setup: textKey, local: one(`UPDATE t SET k='y'`), remote: `UPDATE t SET k='z'`, want: []string{`"y" "a" "b"`, `"z" "a" "b"`}},
	{name: "key-change-insert", setup: textKey, local: one(`UPDATE t SET k='y'`), remote: `INSERT INTO t VALUES('y','r','r')`, want: one(`"y" "a" "b"`)},
	{name: "update-key-change", setup: textKey, local: one(`UPDATE t SET a='l'`), remote: `UPDATE t SET k='y'`, want: []string{`"x" "l" "b"`, `"y" "a" "b"`}},
	{name: "delete-key-change", setup: textKey, local: one(`DELETE FROM t`), remote: `UPDATE t SET k='y'`, want: one(`"y" "a" "b"`)},
	{name: "integer-key-change-update", setup: intKey, local: one(`UPDATE t SET id=5`), remote: `UPDATE t SET a='r'`, want: one(`5 "a" "b"`)},
	{name: "integer-key-change-insert", setup: intKey, local: one(`UPDATE t SET id=5`), remote: `INSERT INTO t VALUES(5,'r','r')`, want: one(`5 "a" "b"`), collisions: 1},
	{name: "key-case-change-update", setup: `CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY, a); INSERT INTO t VALUES('x','a')`,
		local: one(`UPDATE t SET k='X'`), remote: `UPDATE t SET a='r'`, want: one(`"X" "a"`)},

	// No primary key.
	{name: "no-key-insert-insert", setup: noKey, local: one(`INSERT INTO t VALUES('l','l')`), remote: `INSERT INTO t VALUES('r','r')`,
		want: []string{`"a" "b"`, `"l" "l"`, `"r" "r"`}},
	{name: "no-key-insert-insert-same-row", setup: noKey, local: one(`INSERT INTO t VALUES('s','s')`), remote: `INSERT INTO t VALUES('s','s')`,
		want: []string{`"a" "b"`, `"s" "s"`, `"s" "s"`}},
	{name: "no-key-update-update-different-column", setup: noKey, local: one(`UPDATE t SET a='l'`), remote: `UPDATE t SET b='r'`, want: one(`"l" "r"`)},
	{name: "no-key-update-update-same-column", setup: noKey, local: one(`UPDATE t SET a='l'`), remote: `UPDATE t SET a='r', b='r'`, want: one(`"l" "r"`)},
	{name: "no-key-update-delete", setup: noKey, local: one(`UPDATE t SET a='l'`), remote: `DELETE FROM t`, want: one(`"l" "b"`)},
	{name: "no-key-delete-update", setup: noKey, local: one(`DELETE FROM t`), remote: `UPDATE t SET a='r'`, want: nil},
	{name: "no-key-delete-delete", setup: noKey, local: one(`DELETE FROM t`), remote: `DELETE FROM t`, want: nil},
	{name: "no-key-update-own-insert-insert", setup: noKey, local: []string{`INSERT INTO t VALUES('l','l')`, `UPDATE t SET b='l2' WHERE a='l'`}, remote: `INSERT INTO t VALUES('r','r')`,
		want: []string{`"a" "b"`, `"l" "l2"`, `"r" "r"`}},
	{name: "no-key-update-pushed-insert", setup: noKey, local: []string{`INSERT INTO t VALUES('l','l')`, `UPDATE t SET b='l2' WHERE a='l'`}, pushed: 1,
		remote: `UPDATE t SET rowid = rowid + 10 WHERE a='l'; INSERT INTO t(rowid,a,b) VALUES(2,'r','r')`,
		want:   []string{`"a" "b"`, `"l" "l2"`, `"r" "r"`}},
	{name: "no-key-delete-pushed-insert", setup: noKey, local: []string{`INSERT INTO t VALUES('l','l')`, `DELETE FROM t WHERE a='l'`}, pushed: 1,
		remote: `UPDATE t SET rowid = rowid + 10 WHERE a='l'; INSERT INTO t(rowid,a,b) VALUES(2,'r','r')`,
		want:   []string{`"a" "b"`, `"r" "r"`}},
	{name: "no-key-update-pushed-insert-update", setup: noKey, local: []string{`INSERT INTO t VALUES('l','l')`, `UPDATE t SET b='l2' WHERE a='l'`}, pushed: 1,
		remote: `UPDATE t SET b='r' WHERE a='l'`, want: []string{`"a" "b"`, `"l" "l2"`, `"l" "r"`}},
	{name: "no-key-update-pushed-insert-delete", setup: noKey, local: []string{`INSERT INTO t VALUES('l','l')`, `UPDATE t SET b='l2' WHERE a='l'`}, pushed: 1,
		remote: `DELETE FROM t WHERE a='l'`, want: []string{`"a" "b"`, `"l" "l2"`}},
	{name: "no-key-delete-pushed-insert-update", setup: noKey, local: []string{`INSERT INTO t VALUES('l','l')`, `DELETE FROM t WHERE a='l'`}, pushed: 1,
		remote: `UPDATE t SET b='r' WHERE a='l'`, want: []string{`"a" "b"`, `"l" "r"`}},
	{name: "null-key-insert-insert", setup: nullKey, local: one(`INSERT INTO t VALUES(NULL,'l','l')`), remote: `INSERT INTO t VALUES(NULL,'r','r')`,
		want: []string{`NULL "a" "b"`, `NULL "l" "l"`, `NULL "other" "b"`, `NULL "r" "r"`}},
	{name: "null-key-update-update", setup: nullKey, local: one(`UPDATE t SET a='l' WHERE a='a'`), remote: `UPDATE t SET b='r' WHERE a='a'`,
		want: []string{`NULL "l" "r"`, `NULL "other" "b"`}},
	{name: "null-key-delete-update", setup: nullKey, local: one(`DELETE FROM t WHERE a='a'`), remote: `UPDATE t SET b='r'`, want: one(`NULL "other" "r"`)},
	{name: "null-key-becomes-key-insert", setup: nullKey, local: one(`UPDATE t SET k='x' WHERE a='a'`), remote: `INSERT INTO t VALUES('x','r','r')`,
		want: []string{`"x" "a" "b"`, `NULL "other" "b"`}},
	{name: "key-becomes-null-update", setup: textKey, local: one(`UPDATE t SET k=NULL`), remote: `UPDATE t SET a='r'`, want: one(`NULL "a" "b"`)},

	// Other unique constraints.
	{name: "unique-insert-insert", setup: unique, local: one(`INSERT INTO t VALUES(3,'x','l')`), remote: `INSERT INTO t VALUES(4,'x','r')`,
		want: []string{`1 "one" 0`, `2 "two" 0`, `4 "x" "r"`}, refused: cdc.ReasonConstraint},
	{name: "unique-update-insert", setup: unique, local: one(`UPDATE t SET u='x' WHERE id=1`), remote: `INSERT INTO t VALUES(4,'x','r')`,
		want: []string{`1 "one" 0`, `2 "two" 0`, `4 "x" "r"`}, refused: cdc.ReasonConstraint},
	{name: "unique-untouched-update", setup: unique, local: one(`UPDATE t SET n=9 WHERE id=1`), remote: `UPDATE t SET u='moved' WHERE id=1; INSERT INTO t VALUES(4,'one','r')`,
		want: []string{`1 "moved" 9`, `2 "two" 0`, `4 "one" "r"`}},
	{name: "unique-swap-update", setup: unique, local: one(`UPDATE t SET u='tmp' WHERE id=1; UPDATE t SET u='one' WHERE id=2; UPDATE t SET u='two' WHERE id=1`), remote: `UPDATE t SET n=7 WHERE id=1`,
		want: []string{`1 "two" 0`, `2 "one" 0`}},
	{name: "unique-ignore-insert", setup: `CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE ON CONFLICT IGNORE)`, local: one(`INSERT INTO t VALUES(1,'x')`), remote: `INSERT INTO t VALUES(2,'x')`,
		want: one(`2 "x"`), refused: cdc.ReasonConstraint},
	{name: "unique-rollback-insert", setup: `CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE ON CONFLICT ROLLBACK)`, local: one(`INSERT INTO t VALUES(1,'x')`), remote: `INSERT INTO t VALUES(2,'x')`,
		want: one(`2 "x"`), refused: cdc.ReasonConstraint},
	{name: "check-insert-new-check", setup: `CREATE TABLE t(id INTEGER PRIMARY KEY, a)`, local: one(`INSERT INTO t VALUES(1,-1)`),
		remote: `DROP TABLE t; CREATE TABLE t(id INTEGER PRIMARY KEY, a CHECK(a > 0))`, want: nil, refused: cdc.ReasonConstraint},
	{name: "trigger-insert", setup: `CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE TABLE audit(n); CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO audit VALUES(new.id); END`,
		local: one(`INSERT INTO t VALUES(1,'l')`), remote: `INSERT INTO t VALUES(2,'r')`, query: `SELECT n FROM audit`, want: []string{`1`, `2`}},

	// Schema.
	{name: "create-create-same", local: one(`CREATE TABLE t(id INTEGER PRIMARY KEY, a text); INSERT INTO t VALUES(1,'l')`), remote: `create table IF NOT EXISTS "t" ( "id" integer primary key , A TEXT ); INSERT INTO t VALUES(2,'r')`,
		want: []string{`1 "l"`, `2 "r"`}},
	{name: "create-create-different", local: one(`CREATE TABLE t(id INTEGER PRIMARY KEY, a)`), remote: `CREATE TABLE t(id INTEGER PRIMARY KEY, b)`, refused: cdc.ReasonSchema},
	{name: "create-create-reordered", local: one(`CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, CONSTRAINT x CHECK (a <> 1), CONSTRAINT y CHECK (b <> 1))`),
		remote: `CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, CONSTRAINT y CHECK (b <> 1), CONSTRAINT x CHECK (a <> 1)); INSERT INTO t VALUES(2,'r','r')`, want: one(`2 "r" "r"`)},
	{name: "create-create-further", local: []string{`CREATE TABLE t(id INTEGER PRIMARY KEY, a)`, `INSERT INTO t VALUES(1,'l')`, `ALTER TABLE t ADD COLUMN b DEFAULT 'd'`, `ALTER TABLE t RENAME COLUMN a TO c`},
		remote: `CREATE TABLE t(id INTEGER PRIMARY KEY, a); ALTER TABLE t ADD b default 'd'; ALTER TABLE t RENAME a TO c; INSERT INTO t VALUES(2,'r','r')`,
		want:   []string{`1 "l" "d"`, `2 "r" "r"`}},
	{name: "create-index-same", setup: intKey, local: one(`CREATE INDEX i ON t(a)`), remote: `CREATE INDEX IF NOT EXISTS main.[i] ON t (a)`, query: `SELECT count(*) FROM sqlite_schema WHERE name='i'`, want: one(`1`)},
	{name: "create-index-different", setup: intKey, local: one(`CREATE INDEX i ON t(a)`), remote: `CREATE INDEX i ON t(b)`, want: one(`1 "a" "b"`), refused: cdc.ReasonSchema},
	{name: "create-index-recreated", setup: intKey, local: []string{`CREATE INDEX i ON t(a)`, `DROP INDEX i`, `CREATE INDEX i ON t(b)`}, remote: `CREATE INDEX i ON t(b)`, query: `SELECT sql FROM sqlite_schema WHERE name='i'`, want: one(`"CREATE INDEX i ON t(b)"`)},
	{name: "create-unique-index-duplicates", setup: intKey, local: one(`CREATE UNIQUE INDEX i ON t(a)`), remote: `INSERT INTO t VALUES(2,'a','r')`, want: []string{`1 "a" "b"`, `2 "a" "r"`}, refused: cdc.ReasonConstraint},
	{name: "create-view-trigger-same", setup: intKey, local: one(`CREATE VIEW v AS SELECT a FROM t; CREATE TRIGGER g AFTER DELETE ON t BEGIN SELECT 1; END`),
		remote: `CREATE VIEW v AS SELECT a  FROM "t"; CREATE TRIGGER g after delete on t begin select 1; end`, query: `SELECT count(*) FROM sqlite_schema WHERE name IN ('v','g')`, want: one(`2`)},
	{name: "add-column-add-column-same", setup: intKey, local: one(`ALTER TABLE t ADD COLUMN c INT DEFAULT 7; UPDATE t SET c=8`), remote: `ALTER TABLE t ADD c int default 7; UPDATE t SET a='r'`, want: one(`1 "r" "b" 8`)},
	{name: "add-column-add-column-different", setup: intKey, local: one(`ALTER TABLE t ADD COLUMN c INT`), remote: `ALTER TABLE t ADD COLUMN c TEXT`, query: `SELECT id FROM t`, want: one(`1`), refused: cdc.ReasonSchema},
	{name: "insert-add-column", setup: intKey, local: one(`INSERT INTO t VALUES(2,'l','l')`), remote: `ALTER TABLE t ADD COLUMN c DEFAULT 'd'`, want: []string{`1 "a" "b" "d"`, `2 "l" "l" "d"`}},
	{name: "add-column-insert", setup: intKey, local: one(`ALTER TABLE t ADD COLUMN c DEFAULT 'd'`), remote: `INSERT INTO t VALUES(2,'r','r')`, want: []string{`1 "a" "b" "d"`, `2 "r" "r" "d"`}},
	{name: "rename-column-rename-column", setup: intKey, local: []string{`UPDATE t SET a='l'`, `ALTER TABLE t RENAME COLUMN a TO c`, `UPDATE t SET b='l'`}, remote: `ALTER TABLE t RENAME COLUMN a TO c`, query: `SELECT id, c, b FROM t`, want: one(`1 "l" "l"`)},
	{name: "update-rename-column", setup: intKey, local: one(`UPDATE t SET a='l'`), remote: `ALTER TABLE t RENAME COLUMN a TO c`, want: one(`1 "a" "b"`), refused: cdc.ReasonSchema},
	{name: "drop-column-drop-column", setup: intKey, local: []string{`UPDATE t SET a='l', b='l'`, `ALTER TABLE t DROP COLUMN a`, `INSERT INTO t VALUES(2,'l')`}, remote: `ALTER TABLE t DROP COLUMN a`, want: []string{`1 "l"`, `2 "l"`}},
	{name: "update-drop-column", setup: intKey, local: one(`UPDATE t SET b='l'`), remote: `ALTER TABLE t DROP COLUMN a`, want: one(`1 "b"`), refused: cdc.ReasonSchema},
	{name: "drop-column-update", setup: intKey, local: one(`ALTER TABLE t DROP COLUMN a`), remote: `UPDATE t SET a='r', b='r'`, want: one(`1 "r"`)},
	{name: "rename-table-rename-table", setup: intKey, local: []string{`UPDATE t SET a='l'`, `ALTER TABLE t RENAME TO u`, `INSERT INTO u VALUES(2,'l','l')`}, remote: `ALTER TABLE t RENAME TO u`, query: `SELECT * FROM u`, want: []string{`1 "l" "b"`, `2 "l" "l"`}},
	{name: "rename-table-insert", setup: intKey, local: one(`ALTER TABLE t RENAME TO u`), remote: `INSERT INTO t VALUES(2,'r','r')`, query: `SELECT * FROM u`, want: []string{`1 "a" "b"`, `2 "r" "r"`}},
	{name: "update-drop-table", setup: intKey, local: one(`UPDATE t SET a='l'`), remote: `DROP TABLE t`, query: `SELECT count(*) FROM sqlite_schema`, want: one(`0`), refused: cdc.ReasonSchema},
	{name: "drop-table-insert", setup: intKey, local: one(`DROP TABLE t`), remote: `INSERT INTO t VALUES(2,'r','r')`, query: `SELECT count(*) FROM sqlite_schema`, want: one(`0`)},
	{name: "drop-table-drop-table", setup: intKey, local: []string{`UPDATE t SET a='l'`, `DROP TABLE t`}, remote: `DROP TABLE t`, query: `SELECT count(*) FROM sqlite_schema`, want: one(`0`)},
	{name: "rebuild-rebuild", setup: intKey, local: []string{`CREATE TABLE new_t(id INTEGER PRIMARY KEY, a TEXT)`, `INSERT INTO new_t SELECT id, a FROM t`, `DROP TABLE t`, `ALTER TABLE new_t RENAME TO t`, `INSERT INTO t VALUES(2,'l')`},
		remote: `CREATE TABLE new_t(id INTEGER PRIMARY KEY, a TEXT); INSERT INTO new_t SELECT id, a FROM t; DROP TABLE t; ALTER TABLE new_t RENAME TO t; INSERT INTO t VALUES(3,'r')`,
		want:   []string{`1 "a"`, `2 "l"`, `3 "r"`}},
	{name: "rebuild-insert", setup: bagOfThree, local: rebuildSame, remote: `INSERT INTO t VALUES('r','r')`, want: one(`"b" "b"`)},
	{name: "half-rebuild-insert", setup: bagOfThree, local: rebuildSame, pushed: 2, remote: `INSERT INTO t VALUES('r','r')`, want: one(`"b" "b"`)},
	{name: "half-rebuild-rebuild", setup: intKey, local: []string{`CREATE TABLE new_t(id INTEGER PRIMARY KEY, a TEXT)`, `INSERT INTO new_t SELECT id, a FROM t`, `DROP TABLE t`, `ALTER TABLE new_t RENAME TO t`, `INSERT INTO t VALUES(2,'l')`},
		pushed: 2, remote: `INSERT OR REPLACE INTO new_t SELECT id, a FROM t; DROP TABLE t; ALTER TABLE new_t RENAME TO t; INSERT INTO t VALUES(3,'r')`,
		want: []string{`1 "a"`, `2 "l"`, `3 "r"`}},
	{name: "drop-index-drop-index", setup: intKey + `; CREATE INDEX i ON t(a)`, local: one(`DROP INDEX i`), remote: `DROP INDEX i`, want: one(`1 "a" "b"`)},
	{name: "user-version-user-version", local: one(`PRAGMA user_version=5`), remote: `PRAGMA user_version=9`, query: `PRAGMA user_version`, want: one(`5`)},
}

func TestSemantics(t *testing.T) {
	for _, c := range cells {
		t.Run(c.name, func(t *testing.T) {
			t.Run("push", func(t *testing.T) { c.push(t) })
			t.Run("replay", func(t *testing.T) { c.replay(t) })
		})
	}
}

// prepare runs the cell on both sides and returns the remote, its schema there,
// and what is pending.
func (c *cell) prepare(t *testing.T) (remote, live *database, txns [][]cdc.Change) {
	base := open(t)
	if c.setup != "" {
		base.run(c.setup)
	}
	live, remote = base.clone(), base.clone()
	all := c.history(live)
	above := cdc.ID(0)
	for _, txn := range all[:c.pushed] {
		above = txn[len(txn)-1].ID
	}
	if err := remote.push(all[:c.pushed], cdc.MutationOptions{}); err != nil {
		t.Fatal(err)
	}
	remote.run(c.remote)
	return remote, live, logged(t, all, above)
}

// history says how each local script changed the schema: a difference of
// databases cannot tell a renamed column from a new table.
func (c *cell) history(live *database) [][]cdc.Change {
	var txns [][]cdc.Change
	id := cdc.ID(1)
	for _, script := range c.local {
		var txn []cdc.Change
		for _, statement := range strings.Split(script, "; ") {
			if strings.HasPrefix(statement, "ALTER") {
				live.run(statement)
				txn = append(txn, cdc.Change{
					Type: cdc.Update, Table: cdc.SchemaTable,
					Schema: &cdc.SchemaChange{Op: "alter", Kind: "table", Name: "t", Table: "t", SQL: statement},
				})
				continue
			}
			if strings.HasPrefix(statement, "CREATE TRIGGER") || strings.HasPrefix(script, "UPDATE t SET u='tmp'") {
				statement = script[strings.Index(script, statement):]
			}
			for _, part := range live.history(1, statement) {
				txn = append(txn, part...)
			}
			if strings.HasSuffix(script, statement) {
				break
			}
		}
		first := id
		for i := range txn {
			txn[i].ID, txn[i].Txn = id, first
			id++
		}
		txns = append(txns, txn)
	}
	return txns
}

func (c *cell) left(t *testing.T, db *database) {
	t.Helper()
	query := c.query
	if query == "" && len(db.query(`SELECT 1 FROM sqlite_schema WHERE name='t'`)) > 0 {
		query = `SELECT * FROM t`
	}
	if query == "" {
		return
	}
	got := db.query(query)
	slices.Sort(got)
	if !slices.Equal(got, c.want) {
		t.Errorf("%s = %q, want %q", query, got, c.want)
	}
}

func (c *cell) push(t *testing.T) {
	remote, live, txns := c.prepare(t)
	opts := cdc.MutationOptions{Remote: remote.objects(), Local: live.objects()}
	probes, err := cdc.Probes(txns)
	if err != nil {
		t.Fatal(err)
	}
	collisions := 0
	for _, p := range probes {
		collisions += len(collide(t, remote, &p))
	}
	err = remote.push(txns, opts)
	if err != nil && strings.Contains(err.Error(), "UNIQUE") {
		opts.DeletesFirst = true
		if e := remote.push(txns, opts); e == nil {
			err = nil
		}
	}
	c.checkRefused(t, err)
	if collisions != c.collisions {
		t.Errorf("%d collisions, want %d", collisions, c.collisions)
	}
	c.left(t, remote)
}

func (c *cell) checkRefused(t *testing.T, err error) {
	t.Helper()
	var drift *cdc.DriftError
	var sqlite sqlite3.Error
	switch {
	case c.refused == "" && err != nil:
		t.Errorf("refused: %v", err)
	case c.refused == "":
	case err == nil:
		t.Errorf("not refused, want %s", c.refused)
	case c.refused == cdc.ReasonConstraint && (!errors.As(err, &sqlite) || sqlite.Code != sqlite3.ErrConstraint),
		c.refused == cdc.ReasonSchema && !errors.As(err, &drift) && !strings.Contains(err.Error(), "no such") && !strings.Contains(err.Error(), "has no column"):
		t.Errorf("refused: %v, want %s", err, c.refused)
	}
}

// collide runs a probe.
func collide(t *testing.T, remote *database, p *cdc.Probe) []cdc.Collision {
	t.Helper()
	rows := remote.values(p.SQL, p.Args...)
	found, err := p.Collisions(rows)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func (c *cell) replay(t *testing.T) {
	remote, _, txns := c.prepare(t)
	staged := remote.clone()
	collisions := 0
	var refused error
	var log [][]cdc.Change
	for _, out := range staged.replay(txns) {
		collisions += len(out.Collisions)
		if out.Rejected() {
			refused = out.Err
			if out.Reason != c.refused {
				t.Errorf("Reason = %q, want %q", out.Reason, c.refused)
			}
		}
		log = append(log, out.Log)
	}
	c.checkRefused(t, refused)
	if collisions != c.collisions {
		t.Errorf("%d collisions, want %d", collisions, c.collisions)
	}
	c.left(t, staged)

	// The log of the new base leads there again, by replay and by push.
	again := remote.clone()
	kept := logged(t, log, 0)
	for _, out := range again.replay(kept) {
		if out.Rejected() {
			t.Errorf("second replay rejected: %v", out.Err)
		}
	}
	c.left(t, again)
	if err := remote.push(kept, cdc.MutationOptions{DeletesFirst: strings.HasPrefix(c.name, "unique-swap")}); err != nil {
		t.Errorf("push after replay: %v", err)
	}
	if !strings.HasPrefix(c.name, "trigger") { // they fire when the schemas are not given
		c.left(t, remote)
	}
}

// Every cell is in docs/semantics.md, and everything there is a cell.
func TestSemanticsAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../docs/semantics.md")
	if err != nil {
		t.Fatal(err)
	}
	const mark = "`TestSemantics/"
	documented := make(map[string]bool)
	for _, part := range strings.Split(string(b), mark)[1:] {
		name, _, _ := strings.Cut(part, "`")
		documented[name] = true
	}
	for _, c := range cells {
		if !documented[c.name] {
			t.Errorf("docs/semantics.md lacks %s%s`", mark, c.name)
		}
		delete(documented, c.name)
	}
	for name := range documented {
		t.Errorf("docs/semantics.md names %s, which is no cell", name)
	}
}
