package hooks

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/mattn/go-sqlite3"
)

// ErrNoTable tells that a table does not exist.
var ErrNoTable = errors.New("no such table")

// Column is a column of a table.
type Column struct {
	Name       string
	Type       string // as declared
	NotNull    bool
	Default    string // its expression; "" with HasDefault false
	HasDefault bool
	Generated  bool // not stored with the row, or computed: not part of an image
	Hidden     bool // of a virtual table
	key        int  // position in the primary key from 1; 0: not in it
}

// KeyColumn is a column of the primary key of a table WITHOUT ROWID.
type KeyColumn struct {
	Column    int // index into Table.All
	Collation string
}

// Index is a unique index beside the rowid.
type Index struct {
	Name    string
	Primary bool
	Partial bool
	// Columns are indexes into Table.All, -1 for the rowid, -2 for an expression.
	Columns    []int
	Collations []string
}

// Table is the definition of a table of main.
type Table struct {
	Name         string
	Kind         string // "table", "virtual", "shadow", "view"
	All          []Column
	Stored       []int // indexes into All of the columns that images hold
	Key          []int // indexes into Stored of the declared primary key, in key order
	Alias        int   // index into Stored of the INTEGER PRIMARY KEY that is the rowid; -1: none
	WithoutRowID bool
	RowID        string      // a name by which statements reach the rowid; "": there is none
	KeyColumns   []KeyColumn // of a table WITHOUT ROWID, in key order
	Unique       []Index     // beside the rowid
}

// Table returns the definition of a table, reading it the first time.
func (s *Schema) Table(conn *sqlite3.SQLiteConn, name string) (*Table, error) {
	if t, ok := s.tables[fold(name)]; ok {
		return t, nil
	}
	t, err := readTable(conn, name)
	if err != nil {
		return nil, fmt.Errorf("read definition of table %q: %w", name, err)
	}
	s.tables[fold(name)] = t
	return t, nil
}

func readTable(conn *sqlite3.SQLiteConn, name string) (*Table, error) {
	t := &Table{Name: name, Alias: -1}
	err := query(conn, `PRAGMA main.table_list(`+QuoteText(name)+`)`, func(row []driver.Value) error {
		if str(row[0]) == "main" {
			t.Name, t.Kind, t.WithoutRowID = str(row[1]), str(row[2]), num(row[4]) != 0
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if t.Kind == "" {
		return nil, ErrNoTable
	}
	if err := t.readColumns(conn); err != nil {
		return nil, err
	}
	if t.Kind != "table" {
		return t, nil
	}
	if err := t.readIndexes(conn); err != nil {
		return nil, err
	}
	t.findRowID()
	return t, nil
}

func (t *Table) readColumns(conn *sqlite3.SQLiteConn) error {
	err := query(conn, `PRAGMA main.table_xinfo(`+QuoteText(t.Name)+`)`, func(row []driver.Value) error {
		hidden := num(row[6])
		c := Column{
			Name: str(row[1]), Type: str(row[2]), NotNull: num(row[3]) != 0, key: int(num(row[5])),
			Default: str(row[4]), HasDefault: row[4] != nil, Generated: hidden >= 2, Hidden: hidden == 1,
		}
		t.All = append(t.All, c)
		return nil
	})
	if err != nil {
		return err
	}
	keys := 0
	for i, c := range t.All {
		if !c.Generated {
			t.Stored = append(t.Stored, i)
		}
		if c.key > 0 {
			keys++
		}
	}
	if keys == 0 {
		return nil
	}
	t.Key = make([]int, keys)
	for i, at := range t.Stored {
		if k := t.All[at].key; k > 0 && k <= keys {
			t.Key[k-1] = i
		}
	}
	return nil
}

func (t *Table) readIndexes(conn *sqlite3.SQLiteConn) error {
	var list []Index
	primary := false
	err := query(conn, `PRAGMA main.index_list(`+QuoteText(t.Name)+`)`, func(row []driver.Value) error {
		x := Index{Name: str(row[1]), Primary: str(row[3]) == "pk", Partial: num(row[4]) != 0}
		primary = primary || x.Primary
		if num(row[2]) != 0 {
			list = append(list, x)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// A rowid alias is the one primary key that has no index. Its type alone does
	// not tell: INTEGER PRIMARY KEY DESC is an ordinary key.
	if !primary && !t.WithoutRowID && len(t.Key) == 1 {
		t.Alias = t.Key[0]
	}
	for i := range list {
		x := &list[i]
		err := query(conn, `PRAGMA main.index_xinfo(`+QuoteText(x.Name)+`)`, func(row []driver.Value) error {
			if num(row[5]) != 0 {
				x.Columns = append(x.Columns, int(num(row[1])))
				x.Collations = append(x.Collations, str(row[4]))
			}
			return nil
		})
		if err != nil {
			return err
		}
		if x.Primary && t.WithoutRowID {
			for i, c := range x.Columns {
				t.KeyColumns = append(t.KeyColumns, KeyColumn{Column: c, Collation: x.Collations[i]})
			}
			continue
		}
		t.Unique = append(t.Unique, *x)
	}
	return nil
}

func (t *Table) findRowID() {
	if t.WithoutRowID {
		return
	}
	if t.Alias >= 0 {
		t.RowID = t.All[t.Stored[t.Alias]].Name
		return
	}
	for _, name := range []string{"rowid", "_rowid_", "oid"} {
		taken := false
		for _, c := range t.All {
			taken = taken || strings.EqualFold(c.Name, name)
		}
		if !taken {
			t.RowID = name
			return
		}
	}
}

// AliasIs tells whether a column that the authorizer reports may be the rowid. It
// says ROWID for the rowid under each of its names.
func (t *Table) AliasIs(column string) bool {
	if column == "ROWID" {
		return true
	}
	if t.Alias >= 0 && strings.EqualFold(t.All[t.Stored[t.Alias]].Name, column) {
		return true
	}
	for _, c := range t.All {
		if strings.EqualFold(c.Name, column) {
			return false
		}
	}
	return true // not a column: rowid, _rowid_ or oid
}

// InKey tells whether a column belongs to the declared primary key.
func (t *Table) InKey(column string) bool {
	for _, k := range t.Key {
		if strings.EqualFold(t.All[t.Stored[k]].Name, column) {
			return true
		}
	}
	return false
}

// Names returns the names of the stored columns.
func (t *Table) Names() []string {
	names := make([]string, len(t.Stored))
	for i, at := range t.Stored {
		names[i] = t.All[at].Name
	}
	return names
}

// identity returns the expressions that tell a row of the table, such as those
// that follow the table's name in a call of ts_touch.
func (t *Table) identity(qualifier string) []string {
	if !t.WithoutRowID {
		name := t.RowID
		if t.Alias >= 0 {
			name = Quote(name)
		}
		return []string{qualifier + name}
	}
	list := make([]string, len(t.KeyColumns))
	for i, k := range t.KeyColumns {
		list[i] = qualifier + Quote(t.All[k.Column].Name)
	}
	return list
}

// SelectRow returns the statement that reads a row's image by its identity.
func (t *Table) SelectRow() string {
	var b strings.Builder
	b.WriteString("SELECT ")
	for i, name := range t.Names() {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(Quote(name))
	}
	b.WriteString(" FROM main." + Quote(t.Name) + " WHERE ")
	for i, id := range t.identity("") {
		if i > 0 {
			b.WriteString(" AND ")
		}
		b.WriteString(id + " = ?")
	}
	return b.String()
}

// SelectIdentities returns the statement that reads the identities of all rows.
func (t *Table) SelectIdentities() string {
	return "SELECT " + strings.Join(t.identity(""), ", ") + " FROM main." + Quote(t.Name)
}

// bulkMax bounds the columns of tables that LogInserts is for: SQLite limits the
// arguments of a function.
const bulkMax = 100

// LogInserts returns the statement that logs the rows inserted with rowids from
// ?3 to ?4, at time ?1 in transaction ?2 with a shape; "" if the table has none.
func (t *Table) LogInserts(shape int64) string {
	if t.WithoutRowID || len(t.Stored) > bulkMax {
		return ""
	}
	columns := t.Names()
	for i := range columns {
		columns[i] = Quote(columns[i])
	}
	id := t.identity("")[0]
	return `INSERT INTO main.turso_cdc(change_id, change_time, change_txn_id, change_type, table_name, id, "after", shape) ` +
		"SELECT ts_log_id(" + id + "), ?1, ?2, 1, " + QuoteText(t.Name) + ", " + id + ", ts_record(" + strings.Join(columns, ", ") + "), " +
		strconv.FormatInt(shape, 10) + " FROM main." + Quote(t.Name) + " WHERE " + id + " BETWEEN ?3 AND ?4 ORDER BY " + id
}
