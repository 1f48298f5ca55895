package tursosync_test

import (
	"database/sql"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/internal/realtest"
)

// The tests of this file have the official client @tursodatabase/sync as the
// other replica of one remote. They show "works with the real thing": after
// syncing, every table is the same here, there, over SQL on the remote and in the
// remote's file, and base is that file byte for byte.

// theirs is a replica of the official client.
type theirs struct {
	*testing.T
	*realtest.Client
	node *realtest.Node
	opts realtest.ClientOptions
}

// openTheirs opens a replica of the official client.
func openTheirs(t *testing.T, node *realtest.Node, r remote, name string) *theirs {
	t.Helper()
	o := realtest.ClientOptions{URL: r.Address(), AuthToken: sqlOf(r).Token, ClientName: name, Path: filepath.Join(t.TempDir(), name+".db")}
	c, err := node.Open(o)
	if err != nil {
		t.Fatalf("official client: open: %v", err)
	}
	return &theirs{T: t, Client: c, node: node, opts: o}
}

func (c *theirs) exec(statements ...string) {
	c.Helper()
	for _, s := range statements {
		if err := c.Exec(s); err != nil {
			c.Fatalf("%s: %v", s, err)
		}
	}
}

func (c *theirs) run(statement string, args ...any) {
	c.Helper()
	if _, err := c.Query(statement, args...); err != nil {
		c.Fatalf("%s: %v", statement, err)
	}
}

func (c *theirs) push() {
	c.Helper()
	if err := c.Push(); err != nil {
		c.Fatalf("official client: push: %v", err)
	}
}

func (c *theirs) pull() {
	c.Helper()
	if _, err := c.Pull(); err != nil {
		c.Fatalf("official client: pull: %v", err)
	}
}

func (c *theirs) sync() {
	c.Helper()
	c.push()
	c.pull()
}

// copied returns a checkpointed copy of the replica's file.
func (c *theirs) copied() string {
	c.Helper()
	if err := c.Close(); err != nil {
		c.Fatal(err)
	}
	file := checkpointedCopy(c.T, c.Path)
	again, err := c.node.Open(c.opts)
	if err != nil {
		c.Fatalf("official client: open again: %v", err)
	}
	c.Client = again
	return file
}

// withoutMarks leaves the watermark table out of a dump: the official client
// counts in its local copy of it.
func withoutMarks(dump string) string {
	var out []string
	skip := false
	for line := range strings.Lines(dump) {
		switch {
		case strings.HasPrefix(line, "turso_sync_last_change_id:"):
			skip = true
		case skip && strings.HasSuffix(line, ":\n"):
			skip = false
		}
		if !skip && !strings.Contains(line, "turso_sync_last_change_id") && !strings.Contains(line, "turso_cdc_version") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// sameEverywhere syncs both replicas and compares all four sides.
func sameEverywhere(t *testing.T, r remote, ours *side, other *theirs) {
	t.Helper()
	ours.sync()
	other.sync()
	ours.sync() // their push above
	other.pull()
	same(t, r, ours)
	sameOverSQL(t, sqlOf(r), ours)

	db, err := sql.Open("sqlite3", other.copied())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`DROP TABLE IF EXISTS turso_cdc_version`); err != nil {
		t.Fatal(err)
	}
	if got, want := withoutMarks(dump(t, db)), withoutMarks(dump(t, ours.db)); got != want {
		t.Errorf("the official client has\n%s\nwe have\n%s", got, want)
	}
	if got := queryRows(t, db, "PRAGMA integrity_check"); !slices.Equal(got, []string{"ok"}) {
		t.Errorf("integrity of the official client's file: %q", got)
	}
}

// sameOverSQL compares every table with what the remote answers to SELECT.
func sameOverSQL(t *testing.T, remote realtest.SQL, ours *side) {
	t.Helper()
	for _, table := range queryRows(t, ours.db, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN
		('turso_cdc', 'turso_sync_state', 'turso_sync_rejected') AND name NOT GLOB 'sqlite_*' AND name NOT GLOB '__turso_internal_*'`) {
		var columns []string
		for _, c := range queryRows(t, ours.db, `SELECT name FROM pragma_table_info('`+strings.ReplaceAll(table, "'", "''")+`')`) {
			columns = append(columns, `+"`+strings.ReplaceAll(c, `"`, `""`)+`"`)
		}
		query := `SELECT ` + strings.Join(columns, ", ") + ` FROM "` + strings.ReplaceAll(table, `"`, `""`) + `"`
		got, want := printed(remote.Query(t, query)), printed(rawRows(t, ours.db, query))
		for i := range max(len(got), len(want)) {
			if i >= len(got) || i >= len(want) || got[i] != want[i] {
				t.Errorf("table %s: the remote answers %q, we have %q", table, one(got, i), one(want, i))
				break
			}
		}
	}
}

// printed spells rows with their types, sorted. What JSON cannot carry is spelled
// like what becomes of it.
func printed(rows [][]any) []string {
	out := make([]string, len(rows))
	for i, row := range rows {
		for _, v := range row {
			switch x := v.(type) {
			case float64:
				if math.IsInf(x, 0) || math.IsNaN(x) {
					v = "not finite"
				} else if x == 0 {
					v = 0.0
				}
			case string:
				v = strings.ToValidUTF8(x, "\ufffd")
			}
			out[i] += fmt.Sprintf("%T %#v|", v, v)
		}
	}
	slices.Sort(out)
	return out
}

// one returns the element at i, if there is one.
func one(s []string, i int) string {
	if i >= len(s) {
		return "no row"
	}
	return s[i]
}

func rawRows(t *testing.T, db *sql.DB, query string) [][]any {
	t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var out [][]any
	for rows.Next() {
		values, to := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			to[i] = &values[i]
		}
		if err := rows.Scan(to...); err != nil {
			t.Fatal(err)
		}
		out = append(out, values)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// officialTables are tables of every kind of key that tursodb takes.
var officialTables = []string{
	`CREATE TABLE num(id INTEGER PRIMARY KEY, x, y)`,
	`CREATE TABLE txt(id TEXT PRIMARY KEY, x, y)`,
	`CREATE TABLE pair(a TEXT, b INTEGER, x, y, PRIMARY KEY(a, b))`,
	`CREATE TABLE bag(x, y)`,
	`CREATE TABLE auto(id INTEGER PRIMARY KEY AUTOINCREMENT, x TEXT NOT NULL, y REAL)`,
	`CREATE TABLE "odd ""name"(id INTEGER PRIMARY KEY, "the key" TEXT, "order" BLOB)`,
}

// officialValues are the values that both clients can write.
var officialValues = []any{
	nil, int64(0), int64(-1), int64(math.MaxInt64), int64(math.MinInt64), int64(1<<53 + 1),
	0.1, -1.5, 1e300, 5e-324, math.MaxFloat64, 3.0,
	"", "text", `both ' and "`, "größe ☃ 🙂", "line\nbreak\ttab\\", "with\x00nul",
	[]byte{}, []byte{0}, []byte{0xff, 0, 0xfe}, []byte(strings.Repeat("blob", 3000)),
}

// TestOfficialValues sends every storage class to its limits, from either side:
// what one wrote, the other one and the remote hold exactly.
func TestOfficialValues(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		ours := open(t, r)
		ours.exec(officialTables...)
		ours.sync()
		other := openTheirs(t, realtest.StartNode(t), r, "values")
		insert := func(from int, run func(statement string, args ...any)) {
			for i, v := range officialValues {
				n := int64(from + i)
				run(`INSERT INTO num VALUES (?, ?, ?)`, n, v, "num")
				run(`INSERT INTO txt VALUES (?, ?, ?)`, fmt.Sprintf("k'%d", n), v, nil)
				run(`INSERT INTO pair VALUES (?, ?, ?, ?)`, fmt.Sprintf("k%d", n%3), n, v, v)
				run(`INSERT INTO bag VALUES (?, ?)`, v, n)
			}
		}
		insert(100, func(s string, args ...any) {
			if _, err := ours.db.Exec(s, args...); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		})
		// What only we can write.
		for i, literal := range []string{"9e999", "-9e999", "-0.0", "CAST(x'ff41' AS TEXT)", "9007199254740993.0"} {
			ours.exec(fmt.Sprintf(`INSERT INTO num VALUES (%d, %s, 'special')`, 200+i, literal),
				fmt.Sprintf(`INSERT INTO bag VALUES (%s, %d)`, literal, 200+i))
		}
		sameEverywhere(t, r, ours, other)

		other.exec("BEGIN")
		insert(300, other.run)
		other.exec("COMMIT")
		sameEverywhere(t, r, ours, other)

		// Updates of every row by the side that did not write it, and deletes.
		for _, table := range []string{"num", "txt", "pair", "bag"} {
			ours.exec(`UPDATE ` + table + ` SET x = y, y = x WHERE rowid % 2 = 0`)
			other.exec(`UPDATE ` + table + ` SET x = 'theirs' WHERE rowid % 4 = 1`)
		}
		sameEverywhere(t, r, ours, other)
		for _, table := range []string{"num", "txt", "pair", "bag"} {
			other.exec(`DELETE FROM ` + table + ` WHERE rowid % 4 = 2`)
		}
		sameEverywhere(t, r, ours, other)
		ours.exec(`DELETE FROM num WHERE x = 'theirs'`, `DELETE FROM bag`)
		sameEverywhere(t, r, ours, other)
	})
}

// TestOfficialInTurns lets both sides insert, update and delete at random, in
// turns and at the same time on rows of their own, and demands four equal sides
// after each round.
func TestOfficialInTurns(t *testing.T) {
	const seed = 1
	rnd := rand.New(rand.NewPCG(seed, seed))
	eachRemote(t, func(t *testing.T, r remote) {
		other := openTheirs(t, realtest.StartNode(t), r, "turns")
		other.exec(officialTables[:5]...) // this time the tables are theirs
		other.push()
		ours := open(t, r)
		ours.sync()

		serial := 0
		// write does n random things to the rows that belong to who.
		write := func(who string, n int, run func(statement string, args ...any)) {
			for range n {
				serial++
				id, text := int64(serial), fmt.Sprintf("%s %d", who, serial)
				switch rnd.IntN(9) {
				case 0, 1:
					run(`INSERT INTO num VALUES (?, ?, ?)`, id, text, who)
					run(`INSERT INTO bag VALUES (?, ?)`, text, who)
				case 2:
					run(`INSERT INTO txt VALUES (?, ?, ?)`, text, id, who)
					run(`INSERT INTO pair VALUES (?, ?, ?, ?)`, who, id, text, who)
				case 3:
					run(`UPDATE num SET x = ? WHERE y = ? AND id % 3 = ?`, text, who, int64(rnd.IntN(3)))
				case 4:
					run(`UPDATE bag SET x = x || '+' WHERE y = ? AND rowid % 5 = ?`, who, int64(rnd.IntN(5)))
				case 5:
					run(`UPDATE pair SET x = ?, y = y WHERE a = ? AND b % 2 = 0`, text, who)
				case 6:
					run(`DELETE FROM bag WHERE y = ? AND rowid % 7 = ?`, who, int64(rnd.IntN(7)))
				case 7:
					run(`DELETE FROM num WHERE y = ? AND id % 7 = ?`, who, int64(rnd.IntN(7)))
				case 8:
					run(`INSERT INTO txt VALUES (?, ?, ?) ON CONFLICT(id) DO UPDATE SET x = excluded.x`, who, id, who)
				}
			}
		}
		writeOurs := func(n int) {
			tx, err := ours.db.Begin()
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			write("ours", n, func(s string, args ...any) {
				if _, err := tx.Exec(s, args...); err != nil {
					t.Fatalf("%s: %v", s, err)
				}
			})
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		writeTheirs := func(n int) { write("theirs", n, other.run) }
		for round := range 8 {
			switch round % 4 {
			case 0:
				writeOurs(15)
			case 1:
				writeTheirs(15)
			case 2: // both, ours is on the remote first
				// Their client reaches rows without key by rowid alone (PROTOCOL.md §4.5):
				// it has to be up to date for those.
				writeOurs(10)
				ours.push()
				other.pull()
				writeTheirs(10)
			case 3: // both at once; theirs is on the remote first, ours is rebased
				writeTheirs(10)
				writeOurs(10)
				other.push()
				ours.pull()
			}
			sameEverywhere(t, r, ours, other)
			if t.Failed() {
				t.Fatalf("round %d, seed %d", round, seed)
			}
		}
	})
}

// TestOfficialConflicts lets both sides touch one row without knowing of each
// other: the last push wins, and of an update only the columns it changed.
func TestOfficialConflicts(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		ours := open(t, r)
		ours.exec(`CREATE TABLE item(id TEXT PRIMARY KEY, a, b)`)
		for _, id := range []string{"columns", "same", "gone here", "gone there"} {
			ours.exec(`INSERT INTO item VALUES ('` + id + `', 0, 0)`)
		}
		ours.sync()
		other := openTheirs(t, realtest.StartNode(t), r, "conflicts")
		other.exec(`UPDATE item SET a = 'theirs' WHERE id IN ('columns', 'same', 'gone here')`,
			`DELETE FROM item WHERE id = 'gone there'`, `INSERT INTO item VALUES ('new', 'theirs', 'theirs')`)
		ours.exec(`UPDATE item SET b = 'ours' WHERE id = 'columns'`, `UPDATE item SET a = 'ours' WHERE id IN ('same', 'gone there')`,
			`DELETE FROM item WHERE id = 'gone here'`, `INSERT INTO item VALUES ('new', 'ours', 'ours')`)
		other.push()
		ours.push()
		sameEverywhere(t, r, ours, other)
		ours.want(`SELECT * FROM item ORDER BY id`, "columns|theirs|ours", "gone there|ours|0", "new|ours|ours", "same|ours|0")

		// The other way round: theirs is pushed last, on top of ours.
		other.exec(`UPDATE item SET a = 'theirs 2' WHERE id IN ('columns', 'same')`)
		ours.exec(`UPDATE item SET b = 'ours 2' WHERE id = 'columns'`, `UPDATE item SET a = 'ours 2' WHERE id = 'same'`)
		ours.push()
		other.push()
		sameEverywhere(t, r, ours, other)
		ours.want(`SELECT * FROM item WHERE id IN ('columns', 'same') ORDER BY id`, "columns|theirs 2|ours 2", "same|theirs 2|0")
	})
}

// TestOfficialSchema runs every schema change that the official client can make
// from either side, with rows pending on the other one.
func TestOfficialSchema(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		ours := open(t, r)
		other := openTheirs(t, realtest.StartNode(t), r, "schema")

		t.Log("tables and indexes of both")
		ours.exec(`CREATE TABLE mine(id INTEGER PRIMARY KEY, a TEXT, b)`, `CREATE INDEX mine_a ON mine(a)`,
			`INSERT INTO mine VALUES (1, 'one', 1), (2, 'two', 2)`)
		other.exec(`CREATE TABLE theirs(id INTEGER PRIMARY KEY, a TEXT, b)`, `CREATE INDEX theirs_a ON theirs(a)`,
			`INSERT INTO theirs VALUES (1, 'eins', 1), (2, 'zwei', 2)`)
		sameEverywhere(t, r, ours, other)

		t.Log("columns of theirs changed by them, rows of it written here")
		other.exec(`ALTER TABLE theirs ADD COLUMN c TEXT DEFAULT 'c'`)
		ours.exec(`INSERT INTO theirs(id, a) VALUES (10, 'without c')`, `UPDATE theirs SET b = 'ours' WHERE id = 1`)
		sameEverywhere(t, r, ours, other)
		ours.want(`SELECT id, c FROM theirs ORDER BY id`, "1|c", "2|c", "10|c")
		// Their client does not log a RENAME COLUMN of its own (0.7.2), so this one
		// comes from a third party.
		sqlOf(r).Exec(t, `ALTER TABLE theirs RENAME COLUMN b TO bb`)
		sameEverywhere(t, r, ours, other)
		ours.exec(`UPDATE theirs SET bb = 'renamed' WHERE id = 2`)
		other.exec(`ALTER TABLE theirs DROP COLUMN c`)
		other.push()
		// The pending row has a column that the remote has not: drift, until the same
		// migration has run here (docs/semantics.md).
		var drift *tursosync.DriftError
		if err := ours.r.Pull(t.Context()); !errors.As(err, &drift) || drift.Table != "theirs" || drift.Name != "c" {
			t.Fatalf("pull: %v, want a DriftError about theirs.c", err)
		}
		ours.exec(`ALTER TABLE theirs DROP COLUMN c`)
		if err := ours.r.Retry(t.Context()); err != nil {
			t.Fatal(err)
		}
		sameEverywhere(t, r, ours, other)
		ours.want(`SELECT * FROM theirs ORDER BY id`, "1|eins|ours", "2|zwei|renamed", "10|without c|<nil>")

		t.Log("columns changed here, rows written there")
		other.exec(`INSERT INTO mine VALUES (20, 'theirs', 20)`)
		other.push()
		ours.exec(`ALTER TABLE mine ADD COLUMN c INTEGER NOT NULL DEFAULT 7`, `UPDATE mine SET c = 8 WHERE id = 1`)
		sameEverywhere(t, r, ours, other)
		ours.exec(`ALTER TABLE mine RENAME COLUMN a TO aa`, `ALTER TABLE mine RENAME TO mine2`, `ALTER TABLE mine2 RENAME TO mine`)
		sameEverywhere(t, r, ours, other)
		ours.exec(`DROP INDEX mine_a`, `ALTER TABLE mine DROP COLUMN b`)
		sameEverywhere(t, r, ours, other)
		other.exec(`UPDATE mine SET aa = aa || '!' WHERE c = 7`)
		sameEverywhere(t, r, ours, other)
		ours.want(`SELECT * FROM mine ORDER BY id`, "1|one|8", "2|two!|7", "20|theirs!|7")

		t.Log("views and triggers of ours; a trigger's effects exist once")
		ours.exec(`CREATE VIEW totals AS SELECT count(*) AS n FROM mine`,
			`CREATE TABLE audit(what TEXT, n INTEGER)`,
			`CREATE TRIGGER mine_ins AFTER INSERT ON mine BEGIN INSERT INTO audit VALUES ('insert ' || new.aa, 1); END`,
			`CREATE TRIGGER mine_upd AFTER UPDATE ON mine BEGIN UPDATE audit SET n = n + 1 WHERE what = 'insert ' || new.aa; END`)
		sameEverywhere(t, r, ours, other)
		ours.exec(`INSERT INTO mine VALUES (30, 'thirty', 1)`, `UPDATE mine SET c = 2 WHERE id = 30`, `UPDATE mine SET c = 3 WHERE id = 30`)
		sameEverywhere(t, r, ours, other)
		ours.want(`SELECT * FROM audit`, "insert thirty|3")
		if got, err := other.Query(`SELECT n FROM totals`); err != nil || fmt.Sprint(got) != "[[4]]" {
			t.Errorf("their view: %v, %v", got, err)
		}
		ours.exec(`DROP TRIGGER mine_ins`, `DROP TRIGGER mine_upd`, `DROP VIEW totals`)
		sameEverywhere(t, r, ours, other)

		t.Log("the same migration on both sides before they meet")
		migration := []string{`CREATE TABLE both_sides(id TEXT PRIMARY KEY, v)`, `CREATE INDEX both_v ON both_sides(v)`,
			`ALTER TABLE both_sides ADD COLUMN w`}
		other.exec(migration...)
		other.exec(`INSERT INTO both_sides VALUES ('theirs', 1, 1)`)
		ours.exec(migration...)
		ours.exec(`INSERT INTO both_sides VALUES ('ours', 2, 2)`)
		other.push()
		sameEverywhere(t, r, ours, other)
		ours.want(`SELECT id FROM both_sides ORDER BY id`, "ours", "theirs")

		t.Log("tables and indexes dropped by both")
		other.exec(`DROP INDEX both_v`, `DROP TABLE mine`)
		ours.exec(`DROP TABLE theirs`, `DROP TABLE audit`)
		sameEverywhere(t, r, ours, other)
		ours.want(`SELECT name FROM sqlite_schema WHERE name IN ('mine', 'theirs', 'audit', 'both_v')`)
	})
}

// TestOfficialBootstrapsFromUs hands a database that we made, with everything a
// program leaves behind, to a fresh official client, and one of theirs to us.
func TestOfficialBootstrapsFromUs(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		node := realtest.StartNode(t)
		ours := open(t, r)
		ours.exec(officialTables...)
		ours.exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
			INSERT INTO num SELECT i, hex(randomblob(50)), i % 7 FROM n`,
			`CREATE UNIQUE INDEX num_x ON num(x)`, `DELETE FROM num WHERE y = 3`, `INSERT INTO "odd ""name" VALUES (1, 'k', x'00')`)
		ours.sync()
		other := openTheirs(t, node, r, "fresh")
		sameEverywhere(t, r, ours, other)
		other.exec(`DELETE FROM num WHERE y = 4`, `UPDATE num SET x = 'theirs' || id WHERE y = 5`)
		other.push()
		fresh := open(t, r)
		fresh.sync()
		sameEverywhere(t, r, fresh, other)
		ours.sync()
		same(t, r, ours, fresh)
	})
}

// TestOfficialSurvivesItsRestart keeps syncing across reopening of both sides and
// a crash of the server.
func TestOfficialSurvivesItsRestart(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		ours := open(t, r)
		ours.exec(`CREATE TABLE bag(who, n)`)
		ours.sync()
		other := openTheirs(t, realtest.StartNode(t), r, "restart")
		for i := range 3 {
			ours.exec(fmt.Sprintf(`INSERT INTO bag VALUES ('ours', %d)`, i))
			ours.reopen()
			other.exec(fmt.Sprintf(`INSERT INTO bag VALUES ('theirs', %d)`, i))
			restart(r)
			sameEverywhere(t, r, ours, other)
			if err := other.Checkpoint(); err != nil {
				t.Fatal(err)
			}
		}
		ours.want(`SELECT who, count(*), sum(n) FROM bag GROUP BY who`, "ours|3|3", "theirs|3|3")
		if _, err := os.Stat(ours.path); err != nil {
			t.Fatal(err)
		}
	})
}
