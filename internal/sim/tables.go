package sim

import (
	"database/sql"
	"fmt"
	"strings"

	_ "github.com/mattn/go-sqlite3" // reads files as any other program would
)

// table is what the checkers know of a table: by which columns a row is told from
// others. A table without a primary key has rows that tell themselves apart.
type table struct {
	key    []string
	create string
}

// tables are those of the workloads. Most have rows that only one owner writes; notes,
// nums and pairs are shared.
var tables = map[string]table{
	"journal":  {[]string{"token"}, `CREATE TABLE journal(token TEXT PRIMARY KEY)`},
	"once":     {[]string{"token"}, `CREATE TABLE once(token TEXT)`}, // no key: a transaction that is applied twice is in it twice
	"counters": {[]string{"owner"}, `CREATE TABLE counters(owner TEXT PRIMARY KEY, n INTEGER NOT NULL)`},
	"ticks":    {[]string{"token"}, `CREATE TABLE ticks(owner TEXT, token TEXT, x)`}, // a bag
	"accounts": {[]string{"owner", "id"}, `CREATE TABLE accounts(owner TEXT, id INTEGER, balance INTEGER NOT NULL, PRIMARY KEY(owner, id))`},
	"ring":     {[]string{"owner", "node"}, `CREATE TABLE ring(owner TEXT, node INTEGER, next INTEGER NOT NULL, PRIMARY KEY(owner, node)) WITHOUT ROWID`},
	"notes":    {[]string{"id"}, `CREATE TABLE notes(id TEXT PRIMARY KEY, a, b, c)`},
	"nums":     {[]string{"id"}, `CREATE TABLE nums(id INTEGER PRIMARY KEY, a, b)`},
	"pairs":    {[]string{"a", "b"}, `CREATE TABLE pairs(a TEXT, b INTEGER, x, y, PRIMARY KEY(a, b)) WITHOUT ROWID`},
	"uniq":     {[]string{"id"}, `CREATE TABLE uniq(id TEXT PRIMARY KEY, name TEXT UNIQUE)`},
	"slots":    {[]string{"id"}, `CREATE TABLE slots(id TEXT PRIMARY KEY, slot TEXT UNIQUE, v)`},
	"parents":  {[]string{"id"}, `CREATE TABLE parents(id TEXT PRIMARY KEY, v)`},
	"children": {[]string{"id"}, `CREATE TABLE children(id TEXT PRIMARY KEY, parent TEXT REFERENCES parents(id) ON DELETE CASCADE ON UPDATE CASCADE, v)`},
	"blobs":    {[]string{"id"}, `CREATE TABLE blobs(id TEXT PRIMARY KEY, data BLOB)`},
	"items":    {[]string{"id"}, `CREATE TABLE items(id TEXT PRIMARY KEY, n INTEGER)`},
	"audit":    {[]string{"id"}, `CREATE TABLE audit(id TEXT PRIMARY KEY, ins INTEGER, upd INTEGER, del INTEGER)`},
	"types": {[]string{"id"}, `CREATE TABLE types(id TEXT PRIMARY KEY, i INTEGER, r REAL, t TEXT COLLATE NOCASE, b BLOB, x,
		g TEXT GENERATED ALWAYS AS (coalesce(t, '') || '!') VIRTUAL, s TEXT GENERATED ALWAYS AS (upper(t)) STORED, CHECK (i IS NULL OR i <> 13))`},
	"wide": {[]string{"id"}, `CREATE TABLE wide(id TEXT PRIMARY KEY, v)`},
	// Rebuilt by migrations: reb as it was, by any replica and often, grown once with a column more.
	"reb":   {[]string{"id"}, `CREATE TABLE reb(id TEXT PRIMARY KEY, v, w)`},
	"grown": {[]string{"id"}, `CREATE TABLE grown(id TEXT PRIMARY KEY, v)`},
	"auto":  {[]string{"id"}, `CREATE TABLE auto(id INTEGER PRIMARY KEY AUTOINCREMENT, tag TEXT)`},
}

// others are schema objects beside the tables.
var others = []string{
	`CREATE TRIGGER items_ins AFTER INSERT ON items BEGIN
		INSERT INTO audit VALUES (new.id, 1, 0, 0) ON CONFLICT(id) DO UPDATE SET ins = ins + 1; END`,
	`CREATE TRIGGER items_upd AFTER UPDATE OF n ON items BEGIN UPDATE audit SET upd = upd + 1 WHERE id = new.id; END`,
	`CREATE TRIGGER items_del AFTER DELETE ON items BEGIN UPDATE audit SET del = del + 1 WHERE id = old.id; END`,
	`CREATE INDEX ticks_owner ON ticks(owner)`,
	`CREATE INDEX notes_a ON notes(a) WHERE a IS NOT NULL`,
	`CREATE INDEX children_parent ON children(parent)`,
	`CREATE INDEX reb_v ON reb(v)`,
	`CREATE INDEX grown_v ON grown(v)`,
	`CREATE INDEX types_lower ON types(lower(t))`,
	`CREATE VIEW totals AS SELECT owner, sum(balance) AS total FROM accounts GROUP BY owner`,
}

// unchecked are columns that the database computes.
var unchecked = map[string]bool{"types.g": true, "types.s": true}

// grownColumn is what the rebuild of grown adds.
const grownColumn, grownDefault = "more", int64(77)

// form is the name under which a state has the number of columns of grown: no table.
const form = "(form)"

// wideDefault is the default of the n-th column that a migration adds to wide.
func wideDefault(n int) int64 { return int64(100 + n) }

// defaultOf returns what a row has in a column that was added later.
func defaultOf(table, column string) value {
	var n int
	if table == "grown" && column == grownColumn {
		return grownDefault
	}
	if table == "wide" {
		if _, err := fmt.Sscanf(column, "c%d", &n); err == nil {
			return wideDefault(n)
		}
	}
	return nil
}

func keyOf(values ...value) string {
	var b strings.Builder
	for i, v := range values {
		if i > 0 {
			b.WriteByte(0)
		}
		fmt.Fprintf(&b, "%T%v", v, v)
	}
	return b.String()
}

// keyOfRow returns the key of a row of a table.
func keyOfRow(name string, r row) (string, error) {
	t, ok := tables[name]
	if !ok {
		t.key = []string{"id"} // made by a migration
	}
	values := make([]value, len(t.key))
	for i, c := range t.key {
		v, ok := r[c]
		if !ok {
			return "", fmt.Errorf("table %s has no column %s", name, c)
		}
		values[i] = v
	}
	return keyOf(values...), nil
}

// querier is a *sql.DB, *sql.Conn or *sql.Tx.
type querier interface {
	Query(query string, args ...any) (*sql.Rows, error)
}

// readAll reads the tables of users. A row that is there twice is an error: no key
// is, and no bag of ours holds equal rows.
func readAll(db querier) (state, error) {
	names, err := readStrings(db, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' AND name NOT LIKE 'turso\_%' ESCAPE '\' ORDER BY 1`)
	if err != nil {
		return nil, err
	}
	s := make(state, len(names))
	for _, name := range names {
		if err := s.read(db, name); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
	}
	if names, err = readStrings(db, `SELECT name FROM pragma_table_info('grown') WHERE name = '`+grownColumn+`'`); err != nil {
		return nil, err
	}
	if len(names) > 0 {
		s.put(form, "grown", row{"new": int64(1)})
	}
	return s, nil
}

func (s state) read(db querier, name string) (err error) {
	rows, err := db.Query(`SELECT * FROM "` + name + `"`)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	content := map[string]row{}
	s[name] = content
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		r := make(row, len(columns))
		for i, c := range columns {
			if unchecked[name+"."+c] {
				continue
			}
			v := values[i]
			if b, ok := v.([]byte); ok {
				v = blob(b)
			}
			r[c] = v
		}
		key, err := keyOfRow(name, r)
		if err != nil {
			return err
		}
		if _, twice := content[key]; twice {
			return &violation{fmt.Sprintf("%s %s is there twice", name, showRow(r))}
		}
		content[key] = r
	}
	return rows.Err()
}

func readStrings(db querier, query string, args ...any) (list []string, err error) {
	rows, err := db.Query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		list = append(list, text)
	}
	return list, rows.Err()
}
