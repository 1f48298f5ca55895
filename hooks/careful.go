package hooks

import (
	"database/sql/driver"
	"fmt"
	"strconv"
	"strings"

	"github.com/mattn/go-sqlite3"
)

// SQLite's update hook does not report changes of tables WITHOUT ROWID, the
// rowid that a row had before an UPDATE of its rowid, and rows that REPLACE
// deletes because of another unique index
// (https://sqlite.org/c3ref/update_hook.html). For these, BEFORE triggers on the
// connection's own TEMP schema call ts_touch. To touch too much does no harm:
// the images decide.

// Care is a set of reasons to watch a table closely.
type Care uint8

// The reasons.
const (
	CareKey     Care = 1 << iota // WITHOUT ROWID
	CareRowID                    // the rowid may be changed by an UPDATE
	CareReplace                  // rows may be replaced through a unique index
	CareAll                      // the same, where triggers cannot tell which: touch every row first
)

const ownPrefix = "__turso_internal_capture_"

func ownTrigger(name string) bool { return strings.HasPrefix(name, ownPrefix) }

// Need returns what a statement that writes to t and may replace rows needs.
func (s *Schema) Need(t *Table, rowid, replace bool) Care {
	var care Care
	if t.WithoutRowID {
		care |= CareKey
	} else if rowid {
		care |= CareRowID
	}
	if (replace || s.Replace || s.ReplaceTables[fold(t.Name)]) && len(t.Unique) > 0 {
		if t.probes() && !s.changesNew(t) {
			care |= CareReplace
		} else {
			care |= CareAll
		}
	}
	return care
}

// probes tells whether the rows that conflict with a new row can be found from
// the values that a BEFORE trigger sees: not those of expressions and generated
// columns, which may depend on a rowid or a default that is not known yet.
func (t *Table) probes() bool {
	for _, x := range t.Unique {
		for _, c := range x.Columns {
			if c == -2 || c >= 0 && t.All[c].Generated {
				return false
			}
		}
	}
	return true
}

// changesNew tells whether a BEFORE trigger of the user may change the row that
// is being updated, so that what our trigger saw of it is not what is stored.
func (s *Schema) changesNew(t *Table) bool {
	return s.beforeUpdate[fold(t.Name)]
}

// firesBeforeUpdate tells whether a trigger does. BEFORE is the default; AFTER and
// INSTEAD are words of that meaning only where they stand before the event: triggers
// and columns may have these names.
func firesBeforeUpdate(sql string) bool {
	words := Words(sql)
	is := func(i int, list ...string) bool {
		for _, s := range list {
			if i >= 0 && i < len(words) && words[i].Is(s) {
				return true
			}
		}
		return false
	}
	update := false
	for i := range words {
		switch {
		case is(i, "after") && is(i+1, "insert", "update", "delete") && !is(i-1, "trigger", "exists", "."),
			is(i, "instead") && is(i+1, "of"):
			return false
		case is(i, "on"):
			return update
		case is(i, "update"):
			update = true
		}
	}
	return update
}

// Triggers returns the definitions of the triggers for care, without their names.
func (t *Table) Triggers(care Care) []string {
	var list []string
	add := func(event, body string) {
		if event == "UPDATE" {
			body += t.mention()
		}
		list = append(list, "BEFORE "+event+" ON main."+Quote(t.Name)+" BEGIN "+body+" END")
	}
	touch := func(q string) string {
		return "SELECT ts_touch(" + QuoteText(t.Name) + ", " + strings.Join(t.touched(q), ", ") + ");"
	}
	if care&CareKey != 0 {
		add("INSERT", touch("NEW."))
		add("UPDATE", touch("OLD.")+" "+touch("NEW."))
		add("DELETE", touch("OLD."))
	}
	if care&CareRowID != 0 {
		add("UPDATE", touch("OLD."))
	}
	if care&CareReplace != 0 {
		var body strings.Builder
		for _, x := range t.Unique {
			body.WriteString(t.probe(x))
		}
		if body.Len() > 0 {
			add("INSERT", body.String())
			add("UPDATE", body.String())
		}
	}
	return list
}

// mention refers to all columns of a row that is being updated, if the table has
// generated columns: SQLite computes these before our trigger, and takes NULL for
// columns that it does not mention, which a function of the user may not like.
func (t *Table) mention() string {
	if len(t.Stored) == len(t.All) {
		return ""
	}
	names := t.Names()
	for i := range names {
		names[i] = "NEW." + Quote(names[i])
	}
	return " SELECT " + strings.Join(names, ", ") + " WHERE 0;"
}

// touched is identity, with NULLs in a key replaced as REPLACE would do.
func (t *Table) touched(q string) []string {
	if !t.WithoutRowID || q == "OLD." {
		return t.identity(q)
	}
	list := make([]string, len(t.KeyColumns))
	for i, k := range t.KeyColumns {
		list[i] = t.newValue(k.Column)
	}
	return list
}

// newValue is what a column will hold. Under REPLACE, a NULL in a NOT NULL column
// becomes the column's default.
func (t *Table) newValue(column int) string {
	c := t.All[column]
	v := "NEW." + Quote(c.Name)
	if c.NotNull && c.HasDefault {
		return "coalesce(" + v + ", (" + c.Default + "))"
	}
	return v
}

// probe touches the rows that conflict with NEW on a unique index. The condition
// of a partial index is left out: that finds more rows, never fewer.
func (t *Table) probe(x Index) string {
	var where []string
	for i, c := range x.Columns {
		if c < 0 || !t.WithoutRowID && t.Alias >= 0 && t.Stored[t.Alias] == c {
			return "" // the rowid is part of the index: a conflict is one of the rowid
		}
		where = append(where, "x."+Quote(t.All[c].Name)+" = "+t.newValue(c)+" COLLATE "+Quote(x.Collations[i]))
	}
	return "SELECT ts_touch(" + QuoteText(t.Name) + ", " + strings.Join(t.identity("x."), ", ") + ") FROM main." +
		Quote(t.Name) + " AS x WHERE " + strings.Join(where, " AND ") + "; "
}

// Triggers keeps account of our TEMP triggers on one connection.
type Triggers struct {
	conn  *sqlite3.SQLiteConn
	cared map[string]Care
	names map[string][]string
	next  int
}

// NewTriggers returns the account of a connection that has none.
func NewTriggers(conn *sqlite3.SQLiteConn) *Triggers {
	return &Triggers{conn: conn, cared: make(map[string]Care), names: make(map[string][]string)}
}

// Any tells whether there are triggers.
func (g *Triggers) Any() bool { return len(g.names) > 0 }

// Has tells whether a table is watched for all of care.
func (g *Triggers) Has(table string, care Care) bool { return care&^g.cared[fold(table)] == 0 }

// Watch creates the triggers that are missing.
func (g *Triggers) Watch(t *Table, care Care) error {
	key := fold(t.Name)
	missing := care &^ g.cared[key] &^ CareAll
	for _, text := range t.Triggers(missing) {
		g.next++
		name := ownPrefix + strconv.Itoa(g.next)
		if err := exec(g.conn, "CREATE TEMP TRIGGER "+Quote(name)+" "+text); err != nil {
			return fmt.Errorf("watch table %q: %w", t.Name, err)
		}
		g.names[key] = append(g.names[key], name)
	}
	g.cared[key] |= missing
	return nil
}

// Drop drops all triggers: before a schema statement, which they could disturb,
// and when they may be those of an older schema.
func (g *Triggers) Drop() error {
	var names []string
	err := query(g.conn, `SELECT name FROM temp.sqlite_schema WHERE type = 'trigger'`, func(row []driver.Value) error {
		if name := str(row[0]); ownTrigger(name) {
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read own triggers: %w", err)
	}
	for _, name := range names {
		if err := exec(g.conn, "DROP TRIGGER IF EXISTS temp."+Quote(name)); err != nil {
			return fmt.Errorf("drop own trigger: %w", err)
		}
	}
	clear(g.cared)
	clear(g.names)
	return nil
}
