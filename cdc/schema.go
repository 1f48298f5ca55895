package cdc

import (
	"database/sql/driver"
	"fmt"
	"slices"
	"strings"

	"github.com/mattn/go-sqlite3"
)

// SchemaObject is a row of sqlite_schema: kind is table, index, view or trigger.
type SchemaObject struct {
	Kind, Name, Table, SQL string
}

// DriftError tells that local and remote disagree about a definition, so that
// syncing cannot go on until somebody makes them agree.
type DriftError struct {
	Kind, Name string // what is concerned: "table", "index", "view", "trigger", "column"
	Table      string // the table of a column
	Local      string // the local definition, or the change that needs the object
	Remote     string // the remote's definition; empty: it does not exist there
}

func (e *DriftError) Error() string {
	what := e.Kind + " " + quote(e.Name)
	if e.Kind == "column" {
		what = "column " + quote(e.Table) + "." + quote(e.Name)
	}
	if e.Remote == "" {
		return fmt.Sprintf("schema drift: %s does not exist on the remote (local: %s)", what, e.Local)
	}
	return fmt.Sprintf("schema drift: %s is defined differently on the remote (local: %s; remote: %s)", what, e.Local, e.Remote)
}

// SameDefinition tells whether two CREATE statements define the same, apart from
// white space, comments, quotes, letter case, IF NOT EXISTS and the qualifier.
func SameDefinition(a, b string) bool { return parseDefinition(a).equal(parseDefinition(b)) }

// ReadSchema lists the objects of a database that a user made, in the order of
// their creation: neither internal tables nor the indexes that SQLite makes
// itself.
func ReadSchema(conn *sqlite3.SQLiteConn) ([]SchemaObject, error) {
	var objects []SchemaObject
	err := query(conn, `SELECT type, name, tbl_name, sql FROM main.sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid`, nil,
		func(row []driver.Value) error {
			var o SchemaObject
			for i, f := range []*string{&o.Kind, &o.Name, &o.Table, &o.SQL} {
				*f, _ = row[i].(string)
			}
			if !Internal(o.Name) && !Internal(o.Table) {
				objects = append(objects, o)
			}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("read schema: %w", err)
	}
	return objects, nil
}

// schemaState is what is known of a database's schema, as values: enough to
// decide what a logged schema change still has to do there.
type schemaState struct {
	objects map[string]*schemaEntry
}

type schemaEntry struct {
	SchemaObject
	def definition
}

func newSchemaState(objects []SchemaObject) *schemaState {
	s := &schemaState{objects: make(map[string]*schemaEntry, len(objects))}
	for _, o := range objects {
		s.put(&schemaEntry{SchemaObject: o, def: parseDefinition(o.SQL)})
	}
	return s
}

// schemaKey: tables, indexes and views share one name space, triggers have
// their own.
func schemaKey(kind, name string) string {
	if kind == "trigger" {
		return "trigger " + lower(name)
	}
	return lower(name)
}

func (s *schemaState) put(e *schemaEntry) { s.objects[schemaKey(e.Kind, e.Name)] = e }

func (s *schemaState) find(kind, name string) *schemaEntry { return s.objects[schemaKey(kind, name)] }

// table returns the table of a name, nil if there is none or it is a view.
func (s *schemaState) table(name string) *schemaEntry {
	if e := s.find("table", name); e != nil && e.Kind == "table" {
		return e
	}
	return nil
}

// triggers returns the names of a table's triggers, sorted.
func (s *schemaState) triggers(table string) []string {
	var names []string
	for _, e := range s.objects {
		if e.Kind == "trigger" && lower(e.Table) == lower(table) {
			names = append(names, e.Name)
		}
	}
	slices.Sort(names)
	return names
}

// apply changes the state as the schema change changes the database.
func (s *schemaState) apply(c *SchemaChange) {
	switch c.Op {
	case "create":
		s.put(&schemaEntry{
			SchemaObject: SchemaObject{Kind: c.Kind, Name: c.Name, Table: c.Table, SQL: c.SQL},
			def:          parseDefinition(c.SQL),
		})
	case "drop":
		delete(s.objects, schemaKey(c.Kind, c.Name))
		if c.Kind == "table" || c.Kind == "view" {
			for key, e := range s.objects {
				if lower(e.Table) == lower(c.Name) {
					delete(s.objects, key)
				}
			}
		}
	case "alter":
		if a, ok := parseAlter(c.SQL); ok {
			s.alter(a)
		}
	}
}

func (s *schemaState) alter(a alter) {
	e := s.table(a.table)
	if e == nil {
		return
	}
	e.def = e.def.alter(a)
	if a.step != alterRenameTable {
		return
	}
	delete(s.objects, schemaKey("table", e.Name))
	for _, o := range s.objects {
		if lower(o.Table) == lower(a.table) {
			o.Table = a.to
		}
	}
	e.Name, e.Table = a.to, a.to
	s.put(e)
}

// decide tells whether a schema change has to be executed on a database of this
// state, or is already done there: another replica ran the same migration. ahead
// are the schema changes that follow in the log. If the database is found in the
// state that some of those lead to, they are done as well, and returned as
// covered. A *DriftError tells that the database has something else.
func (s *schemaState) decide(c *SchemaChange, ahead []Change) (do bool, covered []ID, err error) {
	switch c.Op {
	case "create":
		return s.decideCreate(c, ahead)
	case "drop":
		e := s.find(c.Kind, c.Name)
		if e != nil && e.Kind != c.Kind {
			return false, nil, driftOf(c, e)
		}
		return e != nil && !s.replaced(c, ahead), nil, nil
	case "alter":
		if a, ok := parseAlter(c.SQL); ok {
			return s.decideAlter(c, a, ahead)
		}
	}
	return true, nil, nil
}

// replaced tells of a table to be dropped that it is already the one which the changes
// ahead put in its place: the new table that they rename is not there, for somebody
// else's migration has done so when this one was half pushed.
func (s *schemaState) replaced(c *SchemaChange, ahead []Change) bool {
	if c.Kind != "table" {
		return false
	}
	made := make(map[string]bool)
	for i := range ahead {
		next := ahead[i].Schema
		from, to, renamed := renamedTable(next)
		switch {
		case renamed && lower(to) == lower(c.Name):
			return s.table(from) == nil && !made[lower(from)]
		case renamed:
			made[lower(to)] = made[lower(from)] || s.table(from) != nil
		case next.Op == "create" && next.Kind == "table":
			if lower(next.Name) == lower(c.Name) {
				return false
			}
			made[lower(next.Name)] = true
		}
	}
	return false
}

func (s *schemaState) decideCreate(c *SchemaChange, ahead []Change) (bool, []ID, error) {
	e := s.find(c.Kind, c.Name)
	def := parseDefinition(c.SQL)
	if e == nil {
		if covered := s.underLaterName(c, def, ahead); covered != nil {
			return false, covered, nil
		}
		return true, nil, nil
	}
	if def.equal(e.def) {
		return false, nil, nil
	}
	// The remote may be further along the same path.
	var covered []ID
	for i := range ahead {
		next := ahead[i].Schema
		switch {
		case next.Op == "alter" && c.Kind == "table":
			a, ok := parseAlter(next.SQL)
			if !ok || lower(a.table) != lower(def.name) || a.step == alterRenameTable {
				continue
			}
			def = def.alter(a)
		case next.Op == "alter":
			// SQLite rewrites what mentions a renamed table or column. Whether the
			// ALTER is done is decided at its turn.
			if a, ok := parseAlter(next.SQL); ok && a.to != "" {
				from := a.table
				if a.step == alterRenameColumn {
					from = a.column
				}
				if def = def.mentioning(from, a.to); def.equal(e.def) {
					return false, covered, nil
				}
			}
			continue
		case next.Op == "create" && schemaKey(next.Kind, next.Name) == schemaKey(c.Kind, c.Name):
			def = parseDefinition(next.SQL)
		case next.Op == "drop" && schemaKey(next.Kind, next.Name) == schemaKey(c.Kind, c.Name):
			def = definition{}
		default:
			continue
		}
		covered = append(covered, ahead[i].ID)
		if def.equal(e.def) {
			return false, covered, nil
		}
	}
	return false, nil, driftOf(c, e)
}

// underLaterName looks for a created table under the name that the changes ahead
// give it, and returns those of them that are done there already; nil: it is not
// there.
func (s *schemaState) underLaterName(c *SchemaChange, def definition, ahead []Change) []ID {
	if c.Kind != "table" {
		return nil
	}
	var covered []ID
	// What becomes of the table that has the later name now, in a migration that
	// builds a new table in the place of an old one, is done as well: its DROP, found
	// at its turn, would hit the new one.
	old := make(map[string][]ID)
	// A new table that is defined as the old one was cannot be told from it: then
	// nothing is done yet, as far as anybody knows.
	was := make(map[string]string)
	for i := range ahead {
		next := ahead[i].Schema
		if next.Op == "drop" && next.Kind == "table" {
			if lower(next.Name) == lower(def.name) {
				return nil
			}
			was[lower(next.Name)] = next.Was
		}
		a, ok := parseAlter(next.SQL)
		if next.Op != "alter" || !ok || lower(a.table) != lower(def.name) {
			if next.Kind == "table" {
				old[lower(next.Name)] = append(old[lower(next.Name)], ahead[i].ID)
			}
			continue
		}
		def = def.alter(a)
		covered = append(covered, ahead[i].ID)
		if e := s.table(def.name); e != nil && lower(def.name) != lower(c.Name) && def.equal(e.def) {
			if text := was[lower(def.name)]; text != "" && parseDefinition(text).equal(def) {
				return nil
			}
			return append(covered, old[lower(def.name)]...)
		}
	}
	return nil
}

func driftOf(c *SchemaChange, e *schemaEntry) *DriftError {
	return &DriftError{Kind: c.Kind, Name: c.Name, Table: c.Table, Local: c.SQL, Remote: e.SQL}
}

func (s *schemaState) decideAlter(c *SchemaChange, a alter, ahead []Change) (bool, []ID, error) {
	e := s.table(a.table)
	if a.step == alterRenameTable {
		return s.decideRename(c, a, ahead)
	}
	if e == nil {
		return s.decideGone(c, a, ahead)
	}
	i := e.def.column(a.column)
	drift := func(remote string) *DriftError {
		return &DriftError{Kind: "column", Name: a.column, Table: a.table, Local: c.SQL, Remote: remote}
	}
	switch a.step {
	case alterAddColumn:
		if i >= 0 {
			if e.def.columns[i].equal(a.columnDef()) {
				return false, nil, nil
			}
			return false, nil, drift(e.SQL)
		}
		return s.decideLater(e, a.column, a.columnDef().def, ahead)
	case alterDropColumn:
		return i >= 0, nil, nil
	case alterRenameColumn:
		j := e.def.column(a.to)
		switch {
		case i >= 0 && (j < 0 || i == j):
			return true, nil, nil
		case i >= 0:
			return false, nil, drift(e.SQL)
		case j >= 0:
			return false, nil, nil
		}
		do, covered, err := s.decideLater(e, a.to, "", ahead)
		if do {
			return false, nil, drift("")
		}
		return false, covered, err
	}
	return true, nil, nil
}

// decideLater follows a column that is not there through the ALTERs ahead. If it
// is there under a later name, everything up to that is done.
func (s *schemaState) decideLater(e *schemaEntry, column, def string, ahead []Change) (bool, []ID, error) {
	var covered []ID
	for i := range ahead {
		a, ok := parseAlter(ahead[i].Schema.SQL)
		if !ok || ahead[i].Schema.Op != "alter" || lower(a.table) != lower(e.Name) || lower(a.column) != lower(column) {
			continue
		}
		switch a.step {
		case alterRenameColumn:
			covered = append(covered, ahead[i].ID)
			column = a.to
			if j := e.def.column(column); j >= 0 && (def == "" || e.def.columns[j].def == def) {
				return false, covered, nil
			}
		case alterDropColumn:
			if def == "" { // a rename of what is gone and will be
				return false, append(covered, ahead[i].ID), nil
			}
			return true, nil, nil
		}
	}
	return true, nil, nil
}

func (s *schemaState) decideRename(c *SchemaChange, a alter, ahead []Change) (bool, []ID, error) {
	from, to := s.table(a.table), s.find("table", a.to)
	switch {
	case from != nil && (to == nil || from == to):
		return true, nil, nil
	case from != nil:
		return false, nil, &DriftError{Kind: "table", Name: a.to, Table: a.to, Local: c.SQL, Remote: to.SQL}
	case to != nil:
		return false, nil, nil
	}
	return s.decideGone(c, alter{table: a.to}, ahead)
}

// decideGone handles an ALTER of a table that is not there: fine if it has its
// later name already or is dropped later, drift otherwise.
func (s *schemaState) decideGone(c *SchemaChange, a alter, ahead []Change) (bool, []ID, error) {
	if gone, e := s.follow(a.table, ahead); gone || e != nil {
		return false, nil, nil
	}
	return false, nil, &DriftError{Kind: "table", Name: a.table, Table: a.table, Local: c.SQL}
}

// follow looks for a table that is not there under the names that the changes
// ahead give it; gone tells that they drop it.
func (s *schemaState) follow(table string, ahead []Change) (gone bool, e *schemaEntry) {
	for i := range ahead {
		next := ahead[i].Schema
		if next.Op == "drop" && next.Kind == "table" && lower(next.Name) == lower(table) {
			return true, nil
		}
		if from, to, ok := renamedTable(next); ok && lower(from) == lower(table) {
			table = to
			if e := s.table(table); e != nil {
				return false, e
			}
		}
	}
	return false, nil
}

// resolve fits a row change to the state: a table or column that has already the
// name, or is already gone, to which the schema changes ahead lead. It returns
// nil if the row's table is dropped by those.
func (s *schemaState) resolve(c *Change, ahead []Change) (*Change, error) {
	if s.fits(c) {
		return c, nil
	}
	table, columns := c.Table, slices.Clone(c.Shape.Columns)
	for i := -1; i < len(ahead); i++ {
		if i >= 0 {
			next := ahead[i].Schema
			if next.Op == "drop" && next.Kind == "table" && lower(next.Name) == lower(table) {
				return nil, nil
			}
			a, ok := parseAlter(next.SQL)
			if next.Op != "alter" || !ok || lower(a.table) != lower(table) {
				continue
			}
			if a.step == alterRenameTable {
				table = a.to
			}
			alterColumns(columns, a)
		}
		if e := s.table(table); e != nil && e.hasColumns(columns) {
			return c.reshape(e.Name, columns)
		}
	}
	return nil, s.missing(c)
}

// fits tells whether the table and the columns of a row change are there.
func (s *schemaState) fits(c *Change) bool {
	e := s.table(c.Table)
	return e != nil && e.hasColumns(c.Shape.Columns)
}

// alterColumns renames a column, or empties its name when it is dropped.
func alterColumns(columns []string, a alter) {
	for i := range columns {
		if lower(columns[i]) != lower(a.column) || a.column == "" {
			continue
		}
		switch a.step {
		case alterRenameColumn:
			columns[i] = a.to
		case alterDropColumn:
			columns[i] = ""
		}
	}
}

func (e *schemaEntry) hasColumns(columns []string) bool {
	for _, c := range columns {
		if c != "" && e.def.column(c) < 0 {
			return false
		}
	}
	return true
}

// missing names what a row change needs and the state lacks.
func (s *schemaState) missing(c *Change) *DriftError {
	local := fmt.Sprintf("change %d has %s(%s)", c.ID, quote(c.Table), quoteAll(c.Shape.Columns))
	e := s.find("table", c.Table)
	if e == nil || e.Kind != "table" {
		d := &DriftError{Kind: "table", Name: c.Table, Table: c.Table, Local: local}
		if e != nil {
			d.Remote = e.SQL
		}
		return d
	}
	for _, column := range c.Shape.Columns {
		if e.def.column(column) < 0 {
			return &DriftError{Kind: "column", Name: column, Table: c.Table, Local: local}
		}
	}
	return &DriftError{Kind: "table", Name: c.Table, Table: c.Table, Local: local, Remote: e.SQL}
}

func quoteAll(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = quote(n)
	}
	return strings.Join(q, ",")
}

// reshape returns the change under another table name, with the columns renamed
// as given; those with an empty name are left out.
func (c *Change) reshape(table string, columns []string) (*Change, error) {
	shape := &Shape{RowIDAlias: -1, WithoutRowID: c.Shape.WithoutRowID}
	index := make([]int, len(columns)) // old to new
	for i, name := range columns {
		index[i] = -1
		if name != "" {
			index[i] = len(shape.Columns)
			shape.Columns = append(shape.Columns, name)
		}
	}
	if a := c.Shape.RowIDAlias; a >= 0 {
		shape.RowIDAlias = index[a]
	}
	for _, k := range c.Shape.Key {
		if index[k] < 0 {
			return nil, &DriftError{Kind: "column", Name: c.Shape.Columns[k], Table: table, Local: "part of the primary key"}
		}
		shape.Key = append(shape.Key, index[k])
	}
	r := *c
	r.Table, r.Shape = table, shape
	var err error
	if r.Before, err = reshapeImage(c.Before, index); err == nil {
		r.After, err = reshapeImage(c.After, index)
	}
	if err != nil {
		return nil, fmt.Errorf("change %d: %w", c.ID, err)
	}
	return &r, nil
}

func reshapeImage(record []byte, index []int) ([]byte, error) {
	if record == nil {
		return nil, nil
	}
	values, err := DecodeRecord(record)
	if err != nil {
		return nil, err
	}
	var kept []any
	for i, v := range values {
		if i < len(index) && index[i] >= 0 {
			kept = append(kept, v)
		}
	}
	return EncodeRecord(kept), nil
}
