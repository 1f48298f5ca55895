package cdc_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/hooks"
)

// A grammar of SQL for tests of capturing: schemas and statements, most of which
// SQLite accepts. What is chosen comes from bytes, so that a fuzzer can steer it:
//
//	chunk 0       what the session is like
//	chunk 1 …     one for each statement
//
// The chunks are independent of each other but for the state that the statements
// left: without one, the others write what they wrote, or nearly.

// chunkSize is the bytes of a chunk. Choices beyond are drawn from them.
const chunkSize = 12

// tape is a rand.Source of the choices of one chunk.
type tape struct {
	bytes  []byte
	beyond rand.Source
}

func newTape(chunk []byte) *tape {
	h := fnv.New64()
	h.Write(chunk)
	return &tape{chunk, rand.NewPCG(h.Sum64(), 1)}
}

// Uint64 makes a choice of the next byte: by the high bits or the low ones.
func (t *tape) Uint64() uint64 {
	if len(t.bytes) == 0 {
		return t.beyond.Uint64()
	}
	b := t.bytes[0]
	t.bytes = t.bytes[1:]
	return uint64(b) * 0x0101010101010101
}

// chunks cuts the bytes.
func chunks(data []byte) [][]byte { return slices.Collect(slices.Chunk(data, chunkSize)) }

// randomStory returns bytes for n statements.
func randomStory(seed uint64, n int) []byte {
	src := rand.NewPCG(seed, 1)
	var b []byte
	for len(b) < (n+1)*chunkSize {
		b = binary.BigEndian.AppendUint64(b, src.Uint64())
	}
	return b[:(n+1)*chunkSize]
}

// scribe writes random SQL.
type scribe struct {
	*rand.Rand
	conn    *sqlite3.SQLiteConn // whose schema is written about
	made    int
	inTx    func() bool
	tables  []parent // created so far, for foreign keys
	foreign bool     // there are an attached database and TEMP tables
}

// parent is what a foreign key may refer to.
type parent struct{ table, column string }

func (g *scribe) chunk(b []byte) { g.Rand = rand.New(newTape(b)) }

func (g *scribe) pick(list ...string) string { return list[g.IntN(len(list))] }

func (g *scribe) one(in int) bool { return g.IntN(in) == in-1 }

func (g *scribe) maybe(in int, text string) string {
	if g.one(in) {
		return text
	}
	return ""
}

func (g *scribe) value() string {
	return g.pick("1", "2", "3", "4", "5", "6", "0", "NULL", "'a'", "'b'", "1.0", "2.5", "-0.0", "9e999", "'A'", "'a '", "''", "'1'", "x''", "x'61'",
		"9007199254740993", "-1", "char(0)", "'a' || char(0) || 'b'", "CAST(x'ff' AS TEXT)", "1e15", "'2.0'", "zeroblob(9)", "-9223372036854775808", "'é'")
}

func (g *scribe) small() string { return strconv.Itoa(g.IntN(8)) }

// expr is an expression over columns.
func (g *scribe) expr(columns []string) string {
	c := g.pick(columns...)
	switch g.IntN(14) {
	case 0, 1, 2, 3, 4:
		return g.value()
	case 5, 6:
		return c
	case 7:
		return c + " + 1"
	case 8:
		return c + " || 'x'"
	case 9:
		return "-" + c
	case 10:
		return "coalesce(" + c + ", " + g.value() + ")"
	case 11:
		return "CASE WHEN " + c + " > 2 THEN " + g.value() + " ELSE " + g.pick(columns...) + " END"
	case 12:
		return "CAST(" + c + " AS " + g.pick("TEXT", "INTEGER", "REAL", "BLOB") + ")"
	}
	return "abs(" + c + ")" // fails for the least integer
}

var conflicts = []string{"", "", "", " ON CONFLICT REPLACE", " ON CONFLICT IGNORE", " ON CONFLICT FAIL", " ON CONFLICT ROLLBACK", " ON CONFLICT ABORT"}

// createTable writes CREATE TABLE name.
func (g *scribe) createTable(name string) string {
	strict, bare := g.one(8), g.one(5)
	key := g.IntN(8)
	columns := []string{"a", "b", "c", "d"}[:1+g.IntN(4)]
	columns = slices.Clone(columns)
	if g.one(8) {
		columns[g.IntN(len(columns))] = g.pick("rowid", "oid", "_rowid_", `"x y"`, `"select"`, `"é"`, `"q""q"`, "[a]]", "before", "updated")
	}
	if slices.Contains(columns, "[a]]") {
		columns[slices.Index(columns, "[a]]")] = "[a b]"
	}
	at := g.IntN(len(columns))
	var parts []string
	for i, c := range columns {
		typ := g.pick("", "", "INTEGER", "INT", "TEXT", "REAL", "NUMERIC", "BLOB", "VARCHAR(9)", "DATETIME", "BOOLEAN")
		if strict {
			typ = g.pick("INT", "INTEGER", "TEXT", "REAL", "BLOB", "ANY")
		}
		def := c
		switch {
		case i != at || key < 2 && !bare || key == 7:
			def += " " + typ
			def += g.maybe(4, " UNIQUE"+g.pick(conflicts...))
		case key == 2 || key == 3:
			def += " INTEGER PRIMARY KEY" + g.pick(conflicts...)
		case key == 4 && !bare:
			def += " INTEGER PRIMARY KEY AUTOINCREMENT"
		case key == 5 && !bare:
			def += " INTEGER PRIMARY KEY DESC"
		default:
			def += " " + typ + " PRIMARY KEY" + g.pick("", " DESC") + g.pick(conflicts...)
		}
		def += g.constraints(c, columns)
		parts = append(parts, def)
	}
	for range g.IntN(2) * g.IntN(3) {
		c := g.pick("g", "h")
		parts = append(parts, c+g.pick("", " TEXT", " INT")+" AS ("+g.pick(columns...)+g.pick(" || 'g'", " + 1", "", " * 2")+")"+g.pick("", " STORED", " VIRTUAL")+
			g.maybe(4, " UNIQUE"+g.pick(conflicts...))+g.maybe(6, " NOT NULL"))
	}
	if key == 7 {
		parts = append(parts, "PRIMARY KEY("+g.indexed(columns)+")"+g.pick(conflicts...))
	}
	if g.one(5) {
		parts = append(parts, "UNIQUE("+g.indexed(columns)+")"+g.pick(conflicts...))
	}
	if len(g.tables) > 0 && g.one(8) {
		p := g.tables[g.IntN(len(g.tables))]
		parts = append(parts, "FOREIGN KEY("+g.pick(columns...)+") REFERENCES "+p.table+"("+p.column+")"+g.actions())
	}
	options := ""
	switch {
	case bare && key >= 2 && strict:
		options = " WITHOUT ROWID, STRICT"
	case bare && key >= 2:
		options = " WITHOUT ROWID"
	case strict:
		options = " STRICT"
	}
	if key >= 2 && key < 7 {
		g.tables = append(g.tables, parent{name, columns[at]})
	}
	return "CREATE TABLE " + g.maybe(9, "IF NOT EXISTS ") + name + "(" + strings.Join(parts, ", ") + ")" + options
}

// indexed is a list of indexed columns.
func (g *scribe) indexed(columns []string) string {
	var list []string
	for _, i := range g.Perm(len(columns))[:1+g.IntN(min(len(columns), 2))] {
		list = append(list, columns[i]+g.pick("", "", "", " COLLATE NOCASE", " COLLATE RTRIM", " COLLATE BINARY")+g.pick("", "", " DESC"))
	}
	return strings.Join(list, ", ")
}

func (g *scribe) constraints(column string, columns []string) (s string) {
	switch g.IntN(16) {
	case 6, 7:
		s = " COLLATE " + g.pick("NOCASE", "RTRIM")
	case 8, 9:
		s = " DEFAULT " + g.pick("3", "'d'", "(1 + 1)", "NULL", "x'00'", "-1.5")
	case 10:
		s = " NOT NULL" + g.pick(conflicts...) + " DEFAULT " + g.value()
	case 11:
		s = " NOT NULL" + g.pick(conflicts...)
	case 12:
		s = " CHECK (" + g.pick(column+" IS NOT 4", "typeof("+column+") <> 'blob'", column+" IS NOT "+g.pick(columns...), "length("+column+") < 30") + ")"
	case 13, 14:
		if len(g.tables) > 0 {
			p := g.tables[g.IntN(len(g.tables))]
			s = " REFERENCES " + p.table + "(" + p.column + ")" + g.actions()
		}
	case 15:
		s = " NULL"
	}
	return s
}

func (g *scribe) actions() string {
	act := func() string { return g.pick("CASCADE", "SET NULL", "CASCADE", "SET DEFAULT", "RESTRICT", "NO ACTION") }
	return g.maybe(2, " ON DELETE "+act()) + g.maybe(2, " ON UPDATE "+act()) + g.pick("", " DEFERRABLE INITIALLY DEFERRED", "")
}

// texts runs a query and returns its first column; none if it fails.
func (g *scribe) texts(sql string) (list []string) {
	rows, err := g.conn.Query(sql, nil)
	if err != nil {
		return nil
	}
	defer rows.Close()
	row := newRow(rows)
	for rows.Next(row) != io.EOF {
		switch v := row[0].(type) {
		case string:
			list = append(list, v)
		case []byte:
			list = append(list, string(v))
		default:
			return list
		}
	}
	return list
}

// relation is a table or view to write about, and its columns, all quoted.
type relation struct {
	schema, name string
	columns      []string
}

func (r relation) ref() string { return r.schema + r.name }

// relation picks one: of main nearly always.
func (g *scribe) relation(kind string) relation {
	schema := "main"
	if g.foreign && g.one(6) {
		schema = g.pick("temp", "aux")
	}
	names := g.texts(`SELECT name FROM ` + schema + `.sqlite_schema WHERE type = '` + kind + `' AND name NOT LIKE 'turso%' AND name NOT LIKE 'sqlite%' ORDER BY rowid`)
	if len(names) == 0 {
		return relation{"", "nosuch", []string{"x"}}
	}
	name := g.pick(names...)
	var columns []string
	for _, c := range g.texts("SELECT name FROM pragma_table_xinfo(" + hooks.QuoteText(name) + ", " + hooks.QuoteText(schema) + ") WHERE hidden = 0 ORDER BY cid") {
		columns = append(columns, hooks.Quote(c))
	}
	if len(columns) == 0 {
		columns = []string{"x"}
	}
	prefix := ""
	if schema != "main" || g.one(4) {
		prefix = schema + "."
	}
	return relation{prefix, hooks.Quote(name), columns}
}

// statement writes what one chunk stands for: a text of one statement or more.
func (g *scribe) statement() string {
	switch n := g.IntN(256); {
	case n < 150:
		return g.change()
	case n < 190:
		return g.control()
	case n < 236:
		return g.schema()
	case n < 246:
		return g.pragma()
	}
	var list []string
	for range 2 + g.IntN(2) {
		switch g.IntN(4) {
		case 0:
			list = append(list, g.control())
		case 1:
			list = append(list, g.schema())
		default:
			list = append(list, g.change())
		}
	}
	return strings.Join(list, "; ")
}

func (g *scribe) pragma() string {
	return g.pick("PRAGMA recursive_triggers = "+g.pick("on", "off"), "PRAGMA foreign_keys = "+g.pick("on", "off"),
		"PRAGMA user_version = "+g.small(), "PRAGMA application_id = "+g.small(), "ANALYZE", "PRAGMA defer_foreign_keys = on", "PRAGMA legacy_alter_table = "+g.pick("on", "off"),
		"PRAGMA foreign_key_check", "PRAGMA optimize", "REINDEX", "PRAGMA cell_size_check = on")
}

func (g *scribe) control() string {
	if !g.inTx() {
		return g.pick("BEGIN", "BEGIN IMMEDIATE", "SAVEPOINT s1", "BEGIN", "BEGIN EXCLUSIVE", "SAVEPOINT s2")
	}
	return g.pick("COMMIT", "COMMIT", "ROLLBACK", "SAVEPOINT s1", "SAVEPOINT s2", "RELEASE s1", "RELEASE s2", "ROLLBACK TO s1", "ROLLBACK TO s2", "END")
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
	c := g.pick(columns...)
	switch g.IntN(8) {
	case 0:
		return ""
	case 1:
		return " WHERE rowid = " + g.small()
	case 2:
		other := g.relation("table")
		return " WHERE " + c + g.pick(" IN ", " NOT IN ") + "(SELECT " + g.pick(other.columns...) + " FROM " + other.ref() + ")"
	}
	return " WHERE " + c + g.pick(" = ", " < ", " >= ", " IS NOT ", " IS ") + g.value()
}

func (g *scribe) change() string {
	kind := "table"
	if g.one(16) {
		kind = "view"
	}
	r := g.relation(kind)
	sql := ""
	if g.one(12) {
		sql = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < " + g.small() + ") "
	}
	switch n := g.IntN(100); {
	case n < 46:
		sql += g.insert(r, sql != "")
	case n < 76:
		sql += g.update(r)
	default:
		sql += "DELETE FROM " + r.ref() + g.where(r.columns)
	}
	return sql + g.maybe(9, " RETURNING "+g.pick("*", "1", g.pick(r.columns...)))
}

func (g *scribe) insert(r relation, numbers bool) string {
	list := r.columns
	if g.one(4) {
		list = append([]string{g.pick("rowid", "oid")}, r.columns...)
	} else if g.one(3) {
		list = r.columns[:1+g.IntN(len(r.columns))]
	}
	sql := g.pick("INSERT"+g.resolution(), "INSERT"+g.resolution(), "INSERT", "REPLACE") + " INTO " + r.ref()
	names := "(" + strings.Join(list, ", ") + ") "
	switch {
	case g.one(24):
		return sql + " DEFAULT VALUES"
	case numbers:
		exprs := make([]string, len(list))
		for i := range exprs {
			exprs[i] = g.pick("i", "i", "'v' || i", "i * 10", g.value())
		}
		sql += names + "SELECT " + strings.Join(exprs, ", ") + " FROM n WHERE true"
	case g.one(8):
		other := g.relation(g.pick("table", "table", "view"))
		exprs := make([]string, len(list))
		for i := range exprs {
			exprs[i] = g.expr(other.columns)
		}
		sql += names + "SELECT " + strings.Join(exprs, ", ") + " FROM " + other.ref() + " WHERE true"
	case g.one(10):
		sql += " SELECT * FROM " + r.ref() + " WHERE true"
	default:
		sql += names + g.values(len(list))
	}
	if g.one(5) {
		set := func() string {
			c := g.pick(r.columns...)
			return "UPDATE SET " + c + " = " + g.pick(g.value(), "excluded."+g.pick(r.columns...), c+" + 1", g.value()) +
				g.maybe(6, ", rowid = "+g.small()) + g.maybe(4, " WHERE "+c+g.pick(" > ", " IS NOT ")+g.value())
		}
		if g.one(2) {
			sql += " ON CONFLICT(" + g.pick(r.columns...) + ") DO " + g.pick("NOTHING", set(), set())
		}
		sql += " ON CONFLICT DO " + g.pick("NOTHING", set(), set())
	}
	return sql
}

func (g *scribe) update(r relation) string {
	c := g.pick(r.columns...)
	set := c + " = " + g.expr(r.columns)
	if g.one(6) {
		set = "(" + c + ", " + g.pick(r.columns...) + ") = (" + g.expr(r.columns) + ", " + g.expr(r.columns) + ")"
	}
	if g.one(5) {
		set += ", " + g.pick("rowid", "oid", g.pick(r.columns...)) + " = " + g.pick(g.small(), g.small(), "rowid + 1", "-rowid")
	}
	sql := "UPDATE" + g.resolution() + " " + r.ref() + " SET " + set
	if g.one(10) {
		return sql + " FROM " + g.pick("(SELECT 1 AS one, 2 AS two) AS o", "(SELECT 3 AS i UNION SELECT 4) AS n") + g.where(r.columns)
	}
	return sql + g.where(r.columns)
}

func (g *scribe) name(prefix string) string {
	g.made++
	return fmt.Sprintf("%s%d", prefix, g.made)
}

// table is a name for CREATE TABLE: a new one, or one that is or was in use. Tables
// of other databases have names of their own: an ALTER TABLE may work only because one
// hides that the table of a trigger is gone, and cannot be replayed then.
func (g *scribe) table() string {
	if g.foreign && g.one(3) {
		return g.pick("temp.p", "aux.p") + g.small()
	}
	return g.pick(g.name("t"), g.name("t"), "t"+g.small())
}

func (g *scribe) schema() string {
	r := g.relation("table")
	c := g.pick(r.columns...)
	n := g.IntN(22)
	name := g.name("x")
	switch n {
	case 0, 1:
		return g.createTable(g.table())
	case 2:
		return "CREATE TABLE " + g.table() + " AS SELECT * FROM " + r.ref() + g.maybe(2, g.where(r.columns))
	case 3:
		return "DROP TABLE " + g.maybe(4, "IF EXISTS ") + r.ref()
	case 4, 5:
		return "ALTER TABLE " + r.ref() + " ADD COLUMN " + name + g.pick("", " DEFAULT 1", " TEXT DEFAULT 7", " REAL DEFAULT 5", " NOT NULL DEFAULT 'n'", " AS ("+c+" || 'z')", " INT DEFAULT '8'",
			" COLLATE NOCASE", " DEFAULT x'0102'", " CHECK ("+name+" IS NOT 4)", " REFERENCES t1(a)", " NOT NULL AS (coalesce("+c+", 0))")
	case 6:
		return "ALTER TABLE " + r.ref() + " RENAME COLUMN " + c + " TO " + g.pick(name, name, "a", "b", "rowid")
	case 7:
		return "ALTER TABLE " + r.ref() + " DROP COLUMN " + c
	case 8:
		return "ALTER TABLE " + r.ref() + " RENAME TO " + g.pick(name, name, "t1", "t2")
	case 9, 10:
		return "CREATE " + g.pick("", "UNIQUE ") + "INDEX " + g.schemaOf(r) + name + " ON " + r.name + "(" + g.pick(g.indexed(r.columns), g.indexed(r.columns),
			"lower("+c+")", c+" COLLATE NOCASE", c+" + 1 DESC", "abs("+c+")") + ")" + g.pick("", "", " WHERE "+g.pick(r.columns...)+g.pick(" > 1", " IS NOT NULL", " = 2"))
	case 11, 12, 13:
		return g.trigger(name, r)
	case 14:
		v := g.relation("view")
		return "CREATE " + g.maybe(4, "TEMP ") + "TRIGGER " + name + " INSTEAD OF " + g.pick("INSERT", "UPDATE", "DELETE", "UPDATE OF "+g.pick(v.columns...)) +
			" ON " + v.name + " BEGIN " + g.body(g.pick("NEW.", "OLD.")+g.pick(v.columns...)) + " END"
	case 15, 16:
		return "CREATE " + g.maybe(8, "TEMP ") + "VIEW " + name + g.pick("", "", "(p)") + " AS SELECT " + g.pick("*", c, c+", "+g.pick(r.columns...)) + " FROM " + r.ref() + g.maybe(4, g.where(r.columns))
	case 17, 18:
		kind := g.pick("trigger", "index", "view")
		schema := "main."
		if g.foreign && g.one(6) {
			schema = g.pick("temp.", "aux.")
		}
		objects := g.texts(`SELECT name FROM ` + schema + `sqlite_schema WHERE type = '` + kind + `' AND sql IS NOT NULL AND name NOT LIKE '\_\_turso%' ESCAPE '\' ORDER BY rowid`)
		if len(objects) == 0 {
			return "DROP VIEW IF EXISTS nosuch"
		}
		return "DROP " + strings.ToUpper(kind) + " " + g.maybe(4, schema) + hooks.Quote(g.pick(objects...))
	case 19:
		// A table rebuilt, as migrations do.
		columns := strings.Join(r.columns, ", ")
		return "CREATE TABLE main." + name + "(" + g.pick("id INTEGER PRIMARY KEY, ", "") + columns + g.maybe(2, ", "+g.name("y")) + "); INSERT INTO " + name + "(" + columns + ") SELECT " + columns + " FROM " + r.ref() +
			"; DROP TABLE " + r.ref() + "; ALTER TABLE " + name + " RENAME TO " + r.name
	case 20:
		return g.pick("ATTACH ':memory:' AS aux", "ATTACH ':memory:' AS aux", "DETACH aux", "CREATE TEMP TABLE p"+g.small()+"("+strings.Join(r.columns, ", ")+")", "DROP TABLE IF EXISTS temp.p"+g.small())
	}
	return "CREATE TABLE " + name + "(id INTEGER PRIMARY KEY, n" + g.pick("", " UNIQUE", " TEXT") + ", m)"
}

func (g *scribe) schemaOf(r relation) string {
	if r.schema == "temp." || r.schema == "aux." {
		return r.schema
	}
	return ""
}

func (g *scribe) trigger(name string, r relation) string {
	event := g.pick("INSERT", "UPDATE", "DELETE", "UPDATE OF "+g.pick(r.columns...))
	image := g.pick("NEW.", "OLD.")
	switch event {
	case "INSERT":
		image = "NEW."
	case "DELETE":
		image = "OLD."
	}
	temp, on := "", r.name
	if r.schema == "temp." || g.one(5) {
		temp, on = "TEMP ", r.ref()
	} else if g.schemaOf(r) != "" {
		name = r.schema + name
	}
	return "CREATE " + temp + "TRIGGER " + name + " " + g.pick("BEFORE", "AFTER", "AFTER", "") + " " + event + " ON " + on + g.pick("", "", " FOR EACH ROW") +
		g.maybe(4, " WHEN "+image+g.pick(r.columns...)+g.pick(" > 2", " IS NOT NULL", " = 'a'")) + " BEGIN " + g.body(image+g.pick(r.columns...)) + " END"
}

// body is the statements of a trigger that knows a value.
func (g *scribe) body(value string) string {
	var b strings.Builder
	for range 1 + g.IntN(2) {
		r := g.relation("table")
		c := g.pick(r.columns...)
		switch g.IntN(12) {
		case 0, 1, 2:
			b.WriteString("INSERT" + g.resolution() + " INTO " + r.name + "(" + c + ") VALUES (" + g.pick(value, value, g.value()) + ")")
		case 3, 4:
			b.WriteString("UPDATE" + g.resolution() + " " + r.name + " SET " + c + " = " + g.pick(value, c+" + 1", g.value()) + " WHERE " + g.pick(r.columns...) + g.pick(" = ", " <> ") + g.pick(value, g.value()))
		case 5, 6:
			b.WriteString("DELETE FROM " + r.name + " WHERE " + c + " = " + g.pick(value, g.value()))
		case 7:
			b.WriteString("SELECT RAISE(" + g.pick("IGNORE", "ABORT, 'no'", "FAIL, 'no'", "ROLLBACK, 'no'") + ") WHERE " + value + g.pick(" = 3", " = 'a'", " > 5"))
		default:
			s := g.change()
			if strings.Contains(s, "RETURNING") || strings.HasPrefix(s, "WITH") || r.schema != "" && strings.Contains(s, r.schema) {
				s = "SELECT 1"
			}
			b.WriteString(s)
		}
		b.WriteString("; ")
	}
	return b.String()
}

// setup writes the statements that make the database before it is captured.
func (g *scribe) setup(n int) []string {
	var list []string
	for i := range n {
		list = append(list, g.createTable("t"+strconv.Itoa(i+1)))
	}
	return list
}

func joinBytes(parts [][]byte) []byte { return bytes.Join(parts, nil) }
