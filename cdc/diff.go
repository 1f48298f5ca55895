package cdc

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mattn/go-sqlite3"
)

// VirtualTableError tells that two databases differ in a virtual table, which
// cannot be expressed as changes. It is an ErrVirtualTable.
type VirtualTableError struct {
	Table string
}

func (e *VirtualTableError) Error() string {
	return fmt.Sprintf("%v: %q is in one of them only, or differs; drop it with another SQLite program"+
		" (an attached or temp database may have it), then Retry", ErrVirtualTable, e.Table)
}

// Unwrap returns ErrVirtualTable.
func (e *VirtualTableError) Unwrap() error { return ErrVirtualTable }

// Diff emits the changes that turn the database of one connection into that of
// another, the user's objects only: the adoption of an existing file, when from
// is empty, or what another program wrote. Order: drops, tables, rows (of one
// table at a time, deletes first), indexes, views, triggers, user_version and
// application_id. Ids, times and transactions are left zero.
//
// A table whose definition differs is altered if columns were only added at its
// end; otherwise it is dropped, created and filled anew. Rows are matched by key
// if the table has one, otherwise by rowid.
//
// Both databases are read in the transaction their connection is in; the caller
// begins it. Memory does not grow with the tables. Virtual tables that differ
// are a *VirtualTableError.
func Diff(ctx context.Context, from, to *sqlite3.SQLiteConn, emit func(*Change) error) error {
	d := &differ{
		ctx: ctx, emit: emit,
		from: side{conn: from, statements: statements{conn: from}},
		to:   side{conn: to, statements: statements{conn: to}},
	}
	err := d.run()
	if e := errors.Join(d.from.statements.close(), d.to.statements.close()); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("compare databases: %w", err)
	}
	return nil
}

type side struct {
	conn       *sqlite3.SQLiteConn
	statements statements
	objects    []SchemaObject
	state      *schemaState
	kinds      map[string]string // lower-case name to table, view, virtual, shadow
}

func (s *side) read() (err error) {
	if s.objects, err = ReadSchema(s.conn); err != nil {
		return err
	}
	s.state = newSchemaState(s.objects)
	s.kinds = make(map[string]string)
	return query(s.conn, `SELECT name, type FROM pragma_table_list WHERE schema = 'main'`, nil, func(row []driver.Value) error {
		name, _ := row[0].(string)
		s.kinds[lower(name)], _ = row[1].(string)
		return nil
	})
}

type differ struct {
	ctx      context.Context
	emit     func(*Change) error
	from, to side
}

func (d *differ) run() error {
	if err := errors.Join(d.from.read(), d.to.read()); err != nil {
		return err
	}
	if err := d.virtual(); err != nil {
		return err
	}
	rebuilt, err := d.drops()
	if err != nil {
		return err
	}
	if err := d.tables(rebuilt); err != nil {
		return err
	}
	if err := d.creates("index", "view", "trigger"); err != nil {
		return err
	}
	return d.pragmas()
}

func (d *differ) schema(op string, o SchemaObject, text string) error {
	s := &SchemaChange{Op: op, Kind: o.Kind, Name: o.Name, Table: o.Table, SQL: text}
	if op == "drop" {
		s.Was = o.SQL
	}
	return d.emit(&Change{Type: s.changeType(), Table: SchemaTable, Schema: s})
}

// virtual refuses virtual tables that are on one side only, and differences in
// what they keep in their shadow tables.
func (d *differ) virtual() error {
	for _, pair := range [][2]*side{{&d.from, &d.to}, {&d.to, &d.from}} {
		for _, o := range pair[0].objects {
			if pair[0].kinds[lower(o.Name)] != "virtual" {
				continue
			}
			if e := pair[1].state.find("table", o.Name); e == nil || !e.def.equal(parseDefinition(o.SQL)) {
				return &VirtualTableError{Table: o.Name}
			}
		}
	}
	for _, o := range d.to.objects {
		if d.to.kinds[lower(o.Name)] != "shadow" || d.from.state.table(o.Name) == nil {
			continue
		}
		differs := &differ{ctx: d.ctx, from: d.from, to: d.to, emit: func(*Change) error {
			return &VirtualTableError{Table: o.Name}
		}}
		// Statements of its own: those that a copy prepares would stay open, and
		// SQLite keeps a connection with open statements, its locks and its WAL
		// index included, after it is closed.
		differs.from.statements = statements{conn: d.from.conn}
		differs.to.statements = statements{conn: d.to.conn}
		err := differs.rows(o.Name)
		if err = errors.Join(err, differs.from.statements.close(), differs.to.statements.close()); err != nil {
			return err
		}
	}
	return nil
}

// plain tells whether an object is the user's own, neither virtual nor shadow.
func (s *side) plain(o SchemaObject) bool {
	kind := s.kinds[lower(o.Name)]
	owner := s.kinds[lower(o.Table)]
	return kind != "virtual" && kind != "shadow" && owner != "shadow"
}

// change says what became of an object of from: still the same, altered by the
// statements returned, or gone.
func (d *differ) changed(o SchemaObject) (same bool, alters []string) {
	e := d.to.state.find(o.Kind, o.Name)
	if e == nil || e.Kind != o.Kind {
		return false, nil
	}
	was := parseDefinition(o.SQL)
	if was.equal(e.def) {
		return true, nil
	}
	n := len(was.columns)
	if o.Kind != "table" || n == 0 || n >= len(e.def.columns) {
		return false, nil
	}
	for _, c := range addedColumns(e.SQL, n) {
		text := "ALTER TABLE " + quote(o.Name) + " ADD COLUMN " + c
		a, ok := parseAlter(text)
		if !ok || a.step != alterAddColumn || notAddable(a) {
			return false, nil
		}
		was = was.alter(a)
		alters = append(alters, text)
	}
	if !was.equal(e.def) {
		return false, nil
	}
	return false, alters
}

// notAddable tells whether ADD COLUMN refuses the column.
func notAddable(a alter) bool {
	return slices.ContainsFunc(a.def[1:], func(t token) bool {
		return t.is("primary") || t.is("unique") || t.is("stored")
	})
}

// addedColumns returns the text of a table's columns from the nth on.
func addedColumns(sql string, n int) []string {
	t := trimSemicolons(tokenize(sql))
	open := slices.IndexFunc(t, func(t token) bool { return t.is("(") })
	if open < 0 {
		return nil
	}
	var columns []string
	var item []string
	depth := 0
	for _, tok := range t[open+1:] {
		if depth == 0 && (tok.is(",") || tok.is(")")) {
			columns = append(columns, strings.Join(item, " "))
			if item = nil; tok.is(")") {
				break
			}
			continue
		}
		if tok.is("(") {
			depth++
		} else if tok.is(")") {
			depth--
		}
		item = append(item, tok.sql())
	}
	return columns[min(n, len(columns)):]
}

// sql returns the token as SQL text.
func (t token) sql() string {
	switch t.kind {
	case tokenName:
		return quote(t.text)
	case tokenText:
		return quoteText(t.text)
	}
	return t.text
}

// drops emits what is gone, dependents before their tables, and the alterations
// of tables. It returns the tables that are made anew, by lower-case name.
func (d *differ) drops() (rebuilt map[string]bool, err error) {
	rebuilt = make(map[string]bool)
	for _, o := range d.from.objects {
		if o.Kind == "table" && d.from.plain(o) {
			if same, alters := d.changed(o); !same && alters == nil {
				rebuilt[lower(o.Name)] = true
			}
		}
	}
	for _, kind := range []string{"trigger", "view", "index"} {
		for _, o := range d.from.objects {
			if o.Kind != kind || !d.from.plain(o) || rebuilt[lower(o.Table)] && kind != "view" {
				continue // goes with its table
			}
			if same, _ := d.changed(o); !same {
				if err := d.drop(o); err != nil {
					return nil, err
				}
			}
		}
	}
	for _, o := range d.from.objects {
		if o.Kind == "table" && d.from.plain(o) && rebuilt[lower(o.Name)] {
			if err := d.drop(o); err != nil {
				return nil, err
			}
		}
	}
	return rebuilt, nil
}

// drop emits a drop and forgets the object and what goes with it.
func (d *differ) drop(o SchemaObject) error {
	d.from.state.apply(&SchemaChange{Op: "drop", Kind: o.Kind, Name: o.Name, Table: o.Table})
	s := SchemaChange{Op: "drop", Kind: o.Kind, Name: o.Name}
	return d.schema("drop", o, s.statement())
}

// tables creates and alters tables, all of them, and then emits their rows.
func (d *differ) tables(rebuilt map[string]bool) error {
	for _, o := range d.from.objects {
		if o.Kind != "table" || !d.from.plain(o) || rebuilt[lower(o.Name)] {
			continue
		}
		_, alters := d.changed(o)
		for _, text := range alters {
			if err := d.schema("alter", o, text); err != nil {
				return err
			}
		}
	}
	if err := d.creates("table"); err != nil {
		return err
	}
	for _, o := range d.to.objects {
		if o.Kind == "table" && d.to.plain(o) {
			if err := d.rows(o.Name); err != nil {
				return fmt.Errorf("table %q: %w", o.Name, err)
			}
		}
	}
	return nil
}

// creates emits the objects of these kinds that from does not have, or not any
// more.
func (d *differ) creates(kinds ...string) error {
	for _, kind := range kinds {
		for _, o := range d.to.objects {
			if o.Kind != kind || !d.to.plain(o) || d.from.state.find(o.Kind, o.Name) != nil {
				continue
			}
			if err := d.schema("create", o, o.SQL); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *differ) pragmas() error {
	for _, name := range []string{"user_version", "application_id"} {
		was, err := queryRow(d.from.conn, "PRAGMA main."+name)
		if err != nil {
			return err
		}
		is, err := queryRow(d.to.conn, "PRAGMA main."+name)
		if err != nil {
			return err
		}
		if len(was) != 1 || len(is) != 1 || was[0] == is[0] {
			continue
		}
		o := SchemaObject{Kind: name, Name: name, Table: name}
		if err := d.schema("pragma", o, fmt.Sprintf("PRAGMA %s=%d", name, is[0])); err != nil {
			return err
		}
	}
	return nil
}

// rows emits what became of a table's rows.
func (d *differ) rows(table string) error {
	shape, err := ReadShape(d.to.conn, table)
	if err != nil {
		return err
	}
	t := &tableDiff{differ: d, table: table, shape: shape, filled: make([]any, len(shape.Columns))}
	if t.rowid = shape.rowIDName(t.hidden()...); t.rowid == "" && !shape.WithoutRowID && len(shape.Key) == 0 {
		return ErrNoRowID
	}
	if e := d.from.state.table(table); e != nil {
		if t.old, err = ReadShape(d.from.conn, table); err != nil {
			return err
		}
		if err := t.defaults(); err != nil {
			return err
		}
	}
	switch {
	case t.old == nil:
		return t.all()
	case len(shape.Key) == 0 || shape.RowIDAlias >= 0:
		return t.merge()
	}
	// All deletes first: another row may have taken the rowid or the key.
	for _, deletes := range []bool{true, false} {
		if err := t.byKey(deletes); err != nil {
			return err
		}
		if shape.WithoutRowID {
			continue
		}
		if err := t.nullKeys(deletes); err != nil {
			return err
		}
	}
	return nil
}
