package cdc_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/hooks"
)

// TestRandomCapture runs random SQL on two connections and demands what the
// conformance suite does: that the log leads from the state before to the state
// after. A failure prints the seed and the statements; CDC_ROUNDS makes it longer.
func TestRandomCapture(t *testing.T) {
	rounds := 25
	if text := os.Getenv("CDC_ROUNDS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		rounds = n
	}
	first := seed(t)
	for i := range rounds {
		s := first + uint64(i)
		if !t.Run(strconv.FormatUint(s, 10), func(t *testing.T) { randomCapture(t, s) }) {
			t.Logf("CDC_SEED=%d CDC_ROUNDS=1 go test ./cdc -run TestRandomCapture", s)
			return
		}
	}
}

// scribe writes random SQL.
type scribe struct {
	*rand.Rand
	conn *captured
	made int
}

func randomCapture(t *testing.T, seed uint64) {
	g := &scribe{Rand: rand.New(rand.NewPCG(seed, 1))}
	var setup []string
	for range 5 {
		setup = append(setup, g.createTable())
	}
	l := newLive(t, setup...)
	var history []string
	defer func() {
		if t.Failed() {
			for i, s := range history {
				t.Logf("%3d %s", i, s)
			}
		}
	}()
	conns := []*captured{l.conn("a"), l.conn("b")}
	for _, c := range conns {
		c.run("PRAGMA busy_timeout = 0")
	}
	g.conn = conns[0]
	for range 90 {
		if g.IntN(12) == 0 {
			g.conn = conns[g.IntN(2)]
		}
		sql := g.statement()
		err := g.conn.try(sql)
		note := ""
		if err != nil {
			note = "  -- ! " + err.Error()
		}
		history = append(history, fmt.Sprintf("%p: %s;%s", g.conn, sql, note))
		var se sqlite3.Error
		var unsupported *cdc.UnsupportedError
		if err != nil && (!errors.As(err, &se) && !errors.As(err, &unsupported) || errors.Is(err, cdc.ErrUncaptured)) {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	for _, c := range conns {
		if c.session.InTx() && c.try("COMMIT") != nil {
			c.run("ROLLBACK")
		}
	}
	l.check()
}

func (g *scribe) pick(list ...string) string { return list[g.IntN(len(list))] }

func (g *scribe) value() string {
	return g.pick("NULL", "0", "1", "2", "3", "4", "5", "6", "1.0", "2.5", "-0.0", "9e999", "'a'", "'A'", "'a '", "'b'", "''", "'1'", "x''", "x'61'",
		"9223372036854775807", "char(0)", "abs(random() % 0 + 3)", "CAST(x'ff' AS TEXT)")
}

func (g *scribe) small() string { return strconv.Itoa(g.IntN(8)) }

func (g *scribe) createTable() string {
	g.made++
	name := hooks.Quote(fmt.Sprintf("t%d", g.made))
	body := g.pick(
		"(a, b, c)",
		"(id INTEGER PRIMARY KEY, a, b)",
		"(id INTEGER PRIMARY KEY, a UNIQUE, b, c)",
		"(id INTEGER PRIMARY KEY, a UNIQUE, b UNIQUE)",
		"(a, b UNIQUE, id INTEGER PRIMARY KEY AUTOINCREMENT)",
		"(id INTEGER PRIMARY KEY DESC, a, b)",
		"(a TEXT PRIMARY KEY, b, c)",
		"(a TEXT COLLATE NOCASE PRIMARY KEY, b, c UNIQUE)",
		"(a, b, c, PRIMARY KEY(b, a))",
		"(a TEXT PRIMARY KEY, b, c) WITHOUT ROWID",
		"(a COLLATE NOCASE, b, c UNIQUE, PRIMARY KEY(a DESC, b)) WITHOUT ROWID",
		"(b, g AS (b || 'g'), a INTEGER PRIMARY KEY, c) WITHOUT ROWID",
		"(id INTEGER PRIMARY KEY, a INT, b TEXT, c ANY) STRICT",
		"(id INTEGER PRIMARY KEY, a, v AS (a || 'v') UNIQUE, b, s AS (b || 's') STORED)",
		"(id INTEGER PRIMARY KEY ON CONFLICT REPLACE, a UNIQUE ON CONFLICT REPLACE, b NOT NULL ON CONFLICT REPLACE DEFAULT 3, c UNIQUE ON CONFLICT IGNORE)",
		"(a NOT NULL DEFAULT 2 UNIQUE, b, c UNIQUE ON CONFLICT FAIL)",
		"(rowid UNIQUE, _rowid_, a, b)",
		"(id INTEGER PRIMARY KEY, a REFERENCES t1(a) ON DELETE CASCADE ON UPDATE CASCADE, b REFERENCES t2 ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED)",
		"(id INTEGER PRIMARY KEY REFERENCES t1(id) ON UPDATE CASCADE ON DELETE CASCADE, a, b)",
		"(a REFERENCES t1(a) ON UPDATE CASCADE ON DELETE CASCADE, b, PRIMARY KEY(a, b)) WITHOUT ROWID",
		"(a INTEGER, b REAL, c NUMERIC, d BLOB, CHECK (a IS NOT 4))",
	)
	return "CREATE TABLE " + name + body
}

// table returns the name of a table and its columns.
func (g *scribe) table() (string, []string) {
	db := &database{TB: g.conn.TB, SQLiteConn: g.conn.SQLiteConn}
	names := db.query(`SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'turso%' AND name NOT LIKE 'sqlite%' ORDER BY name`)
	if len(names) == 0 {
		return "nosuch", []string{"x"}
	}
	name, _ := strconv.Unquote(g.pick(names...))
	var columns []string
	for _, c := range db.query("SELECT name FROM pragma_table_xinfo(" + hooks.QuoteText(name) + ") WHERE hidden = 0 ORDER BY cid") {
		c, _ = strconv.Unquote(c)
		columns = append(columns, hooks.Quote(c))
	}
	return hooks.Quote(name), columns
}

func (g *scribe) statement() string {
	switch n := g.IntN(100); {
	case n < 62:
		return g.change()
	case n < 84:
		return g.control()
	case n < 97:
		return g.schema()
	}
	return g.pick("PRAGMA recursive_triggers = "+g.pick("on", "off"), "PRAGMA foreign_keys = "+g.pick("on", "off"),
		"PRAGMA user_version = "+g.small(), "ANALYZE", "PRAGMA defer_foreign_keys = on")
}

func (g *scribe) control() string {
	if !g.conn.session.InTx() {
		return g.pick("BEGIN", "BEGIN IMMEDIATE", "SAVEPOINT s1", "BEGIN")
	}
	return g.pick("COMMIT", "COMMIT", "ROLLBACK", "SAVEPOINT s1", "SAVEPOINT s2", "RELEASE s1", "RELEASE s2", "ROLLBACK TO s1", "ROLLBACK TO s2")
}

func (g *scribe) resolution() string {
	return g.pick("", "", "", " OR REPLACE", " OR REPLACE", " OR IGNORE", " OR FAIL", " OR ABORT", " OR ROLLBACK")
}

func (g *scribe) values(n int) string {
	rows := make([]string, 1+g.IntN(3))
	for i := range rows {
		list := make([]string, n)
		for j := range list {
			list[j] = g.value()
		}
		rows[i] = "(" + strings.Join(list, ", ") + ")"
	}
	return "VALUES " + strings.Join(rows, ", ")
}

func (g *scribe) where(columns []string) string {
	if g.IntN(6) == 0 {
		return ""
	}
	return " WHERE " + g.pick(columns...) + g.pick(" = ", " < ", " >= ", " IS NOT ") + g.value()
}

func (g *scribe) change() string {
	table, columns := g.table()
	switch n := g.IntN(100); {
	case n < 45:
		list := columns
		if g.IntN(4) == 0 {
			list = append([]string{g.pick("rowid", "oid")}, columns...)
		} else if g.IntN(3) == 0 {
			list = columns[:1+g.IntN(len(columns))]
		}
		from := g.values(len(list))
		if g.IntN(8) == 0 {
			from = "SELECT " + strings.Join(list, ", ") + " FROM " + table + " WHERE true"
			if g.IntN(2) == 0 {
				from = "SELECT * FROM " + table + " WHERE true"
				list = columns
			}
		}
		sql := "INSERT" + g.resolution() + " INTO " + table + "(" + strings.Join(list, ", ") + ") " + from
		if g.IntN(5) == 0 {
			sql += " ON CONFLICT DO " + g.pick("NOTHING", "UPDATE SET "+g.pick(columns...)+" = "+g.value(),
				"UPDATE SET "+g.pick(columns...)+" = excluded."+g.pick(columns...))
		}
		if g.IntN(8) == 0 {
			sql += " RETURNING *"
		}
		return sql
	case n < 75:
		set := g.pick(columns...) + " = " + g.pick(g.value(), g.pick(columns...), g.pick(columns...)+" + 1", g.pick(columns...)+" || 'x'", g.value())
		if g.IntN(5) == 0 {
			set += ", " + g.pick("rowid", "oid", g.pick(columns...)) + " = " + g.small()
		}
		sql := "UPDATE" + g.resolution() + " " + table + " SET " + set
		if g.IntN(10) == 0 {
			return sql + " FROM (SELECT 1 AS one) AS o" + g.where(columns)
		}
		return sql + g.where(columns)
	default:
		return "DELETE FROM " + table + g.where(columns)
	}
}

func (g *scribe) schema() string {
	g.made++
	name := fmt.Sprintf("x%d", g.made)
	table, columns := g.table()
	switch g.IntN(16) {
	case 0, 1:
		return g.createTable()
	case 2:
		return "CREATE TABLE " + name + " AS SELECT * FROM " + table
	case 3:
		return "DROP TABLE " + table
	case 4:
		return "ALTER TABLE " + table + " ADD COLUMN " + name + g.pick("", " DEFAULT 1", " TEXT DEFAULT 7", " REAL DEFAULT 5", " NOT NULL DEFAULT 'n'", " AS ("+g.pick(columns...)+" || 'z')", " INT DEFAULT '8'")
	case 5:
		return "ALTER TABLE " + table + " RENAME COLUMN " + g.pick(columns...) + " TO " + name
	case 6:
		return "ALTER TABLE " + table + " DROP COLUMN " + g.pick(columns...)
	case 7:
		return "ALTER TABLE " + table + " RENAME TO " + g.pick(name, "t1", "t2")
	case 8, 9:
		return "CREATE " + g.pick("", "UNIQUE ") + "INDEX " + name + " ON " + table + "(" + g.pick(g.pick(columns...), g.pick(columns...)+", "+g.pick(columns...),
			"lower("+g.pick(columns...)+")", g.pick(columns...)+" COLLATE NOCASE", g.pick(columns...)+" + 1 DESC") + ")" + g.pick("", "", " WHERE "+g.pick(columns...)+" > 1")
	case 10, 11, 12:
		return "CREATE " + g.pick("", "", "TEMP ") + "TRIGGER " + name + " " + g.pick("BEFORE", "AFTER") + " " + g.pick("INSERT", "UPDATE", "DELETE", "UPDATE OF "+g.pick(columns...)) +
			" ON main." + table + " BEGIN " + g.body() + "; END"
	case 13:
		objects := (&database{TB: g.conn.TB, SQLiteConn: g.conn.SQLiteConn}).query(`SELECT type, '"' || name || '"' FROM main.sqlite_schema WHERE type IN ('trigger', 'index', 'view') AND sql IS NOT NULL ORDER BY name`)
		if len(objects) == 0 {
			return "DROP VIEW nosuch"
		}
		o := g.pick(objects...)
		return "DROP " + strings.NewReplacer(`"\"`, `"`, `\""`, `"`, `"trigger"`, "TRIGGER", `"index"`, "INDEX", `"view"`, "VIEW").Replace(o)
	case 14:
		return "CREATE VIEW " + name + " AS SELECT * FROM " + table
	}
	return "CREATE TABLE " + name + "(id INTEGER PRIMARY KEY, n, m)"
}

// body is a statement for a trigger.
func (g *scribe) body() string {
	for range 20 {
		s := g.change()
		if !strings.Contains(s, "RETURNING") {
			return s
		}
	}
	return "SELECT 1"
}
