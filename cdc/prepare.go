package cdc

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/hooks"
	"github.com/tursosync/tursosync/internal/shim"
)

// What has to be known and in place before a statement runs, and for the rows it
// touched to be logged: the schema, the TEMP triggers, the definitions of tables.

// ready is what a statement needs around it.
type ready struct {
	replace bool           // it may replace rows
	rekey   bool           // it may change primary keys
	all     []*hooks.Table // tables of which every row counts as touched
}

func (st *Statement) replaces() bool { return st.ready == nil || st.ready.replace }
func (st *Statement) rekeys() bool   { return st.ready == nil || st.ready.rekey }

// fresh returns the statement as it is with the present schema.
func (s *Session) fresh(st *Statement) (*Statement, error) {
	if st.epoch == s.epoch {
		return st, nil
	}
	return s.Prepare(st.SQL)
}

// forget makes everything that depends on the schema be found out again.
func (s *Session) forget() {
	s.schema = nil
	s.epoch++
	s.unsure = true
}

// current tells whether the schema that we know is the one that Begin found.
func (s *Session) current(t shim.Txn) bool {
	if s.schema == nil || t.Stale || s.dropAll || s.temp && s.unsure || s.schema.Cookie != t.Cookie ||
		s.triggers.Any() && t.TempCookie != s.tempCookie {
		return false
	}
	s.schemaSeq = s.seenSeq
	return true
}

func (s *Session) readSchema(cookie uint32) (*hooks.Schema, error) {
	s.c.Internal(true)
	defer s.c.Internal(false)
	return hooks.ReadSchema(s.conn, cookie)
}

// setSchema takes a schema over. TEMP triggers go: they are made for the old one.
func (s *Session) setSchema(schema *hooks.Schema) error {
	if err := s.dropTriggers(); err != nil {
		return err
	}
	s.schema = schema
	s.epoch++
	s.c.ForgetTables()
	s.c.UndefineKeyed()
	return nil
}

// refresh reads the schema inside the open transaction.
func (s *Session) refresh(t shim.Txn) error {
	if t.Stale {
		s.dropAll = true
		s.lineage.Cut(t.MaxID)
	}
	schema, err := s.readSchema(t.Cookie)
	if err != nil {
		return err
	}
	return s.setSchema(schema)
}

func (s *Session) dropTriggers() error {
	if !s.triggers.Any() && !s.dropAll {
		return nil
	}
	s.c.Internal(true)
	defer s.c.Internal(false)
	if s.db.InTx() {
		s.c.DDL(false)
	}
	if err := s.triggers.Drop(); err != nil {
		return err
	}
	s.c.Arm()
	s.dropAll = false
	return nil
}

// care puts in place what the statement needs to be captured, once for each
// schema.
func (s *Session) care(st *Statement) error {
	if st.ready != nil && (s.traced || s.watched(st)) {
		return nil
	}
	r := &ready{replace: st.replace || s.schema.MayReplace()}
	for i := range st.targets {
		if err := s.careFor(st, &st.targets[i], r); err != nil {
			return err
		}
	}
	st.ready = r
	return nil
}

// watched tells whether the triggers that the statement needs are there still.
func (s *Session) watched(st *Statement) bool {
	for i := range st.targets {
		if !s.triggers.Has(st.targets[i].table, st.targets[i].care) {
			return false
		}
	}
	return true
}

func (s *Session) careFor(st *Statement, g *target, r *ready) error {
	s.c.Internal(true)
	defer s.c.Internal(false)
	if _, ok := s.schema.Find("view", g.table); ok {
		// INSTEAD OF triggers write to tables that are targets too. What a view looks
		// at may be gone: it can be dropped all the same.
		return nil
	}
	t, err := s.schema.Table(s.conn, g.table)
	if err != nil {
		return err
	}
	switch {
	case t.Kind != "table":
		return &UnsupportedError{What: fmt.Sprintf("writing to the %s table %q", t.Kind, t.Name),
			Why: "virtual tables are not synchronised", err: ErrVirtualTable}
	case !t.WithoutRowID && t.RowID == "":
		return &UnsupportedError{What: fmt.Sprintf("writing to table %q", t.Name),
			Why: "its columns take all names of the rowid, so that its rows cannot be told apart"}
	}
	if o, ok := s.schema.Find("table", g.table); ok {
		if err := keyCollates(t, o.SQL); err != nil {
			return err
		}
	}
	if t.WithoutRowID {
		if err := s.defineKeyed(t); err != nil {
			return err
		}
	}
	rowid := false
	for _, column := range g.updated {
		rowid = rowid || t.AliasIs(column)
		r.rekey = r.rekey || t.InKey(column)
	}
	if s.traced {
		return nil
	}
	g.care = s.schema.Need(t, rowid, st.replace)
	if g.care&hooks.CareAll != 0 {
		r.all = append(r.all, t)
		g.care &^= hooks.CareAll
	}
	return s.watch(t, g.care)
}

func (s *Session) watch(t *hooks.Table, care hooks.Care) error {
	if s.triggers.Has(t.Name, care) {
		return nil
	}
	if s.db.InTx() {
		s.c.DDL(false)
	}
	if err := s.triggers.Watch(t, care); err != nil {
		return err
	}
	s.c.Arm()
	row, err := queryRow(s.conn, "PRAGMA temp.schema_version")
	if err != nil || row == nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	cookie, _ := row[0].(int64)
	s.tempCookie = uint32(cookie)
	return nil
}

// keyCollates refuses a primary key that is compared by another collation than its
// column: rows that only one of the two tells apart would be taken for one, here and
// in what is pushed.
func keyCollates(t *hooks.Table, sql string) error {
	if !strings.Contains(lower(sql), "collate") || t.Alias >= 0 {
		return nil
	}
	key := t.KeyColumns
	for _, x := range t.Unique {
		for i, c := range x.Columns {
			if x.Primary {
				key = append(key, hooks.KeyColumn{Column: c, Collation: x.Collations[i]})
			}
		}
	}
	d := parseDefinition(sql)
	for _, k := range key {
		name := t.All[k.Column].Name
		i := d.column(name)
		if i < 0 {
			continue
		}
		if c := d.columns[i].collation(); !strings.EqualFold(c, k.Collation) {
			return &UnsupportedError{What: fmt.Sprintf("writing to table %q", t.Name),
				Why:  fmt.Sprintf("its primary key compares %s by the collation %s, and the column itself by %s", name, k.Collation, strings.ToUpper(c)),
				Hint: fmt.Sprintf("declare the column with COLLATE %s", k.Collation)}
		}
	}
	return nil
}

var collations = map[string]int{"BINARY": 0, "NOCASE": 1, "RTRIM": 2}

func (s *Session) defineKeyed(t *hooks.Table) error {
	key := make([]shim.KeyColumn, len(t.KeyColumns))
	for i, k := range t.KeyColumns {
		collation, ok := collations[strings.ToUpper(k.Collation)]
		if !ok {
			return &UnsupportedError{What: fmt.Sprintf("writing to table %q", t.Name),
				Why: fmt.Sprintf("it is WITHOUT ROWID and its key is compared by the collation %s of this program", k.Collation)}
		}
		key[i] = shim.KeyColumn{Column: k.Column, Collation: collation}
	}
	return s.c.DefineKeyed(t.Name, key)
}

// touchAll touches all rows of the tables where it cannot be known beforehand
// which ones the statement replaces.
func (s *Session) touchAll(st *Statement) error {
	for _, t := range st.ready.all {
		if err := s.c.TouchRows(t.Name, t.SelectIdentities(), false); err != nil {
			return fmt.Errorf("touch rows of %q: %w", t.Name, err)
		}
	}
	return nil
}

// define tells the capture how rows of a table are read and logged.
func (s *Session) define(name string) error {
	s.c.Internal(true)
	defer s.c.Internal(false)
	if s.schema == nil {
		return fmt.Errorf("define table %q: schema is not known", name)
	}
	t, err := s.schema.Table(s.conn, name)
	if errors.Is(err, hooks.ErrNoTable) {
		return s.c.Define(&shim.TableDef{Name: name})
	}
	if err != nil {
		return err
	}
	if t.Kind != "table" || !t.WithoutRowID && t.RowID == "" {
		return &UnsupportedError{What: fmt.Sprintf("writing to the %s %q", t.Kind, t.Name), Why: "it cannot be captured"}
	}
	if t.WithoutRowID {
		if err := s.defineKeyed(t); err != nil {
			return err
		}
	}
	shape := shapeOf(t)
	id := shape.ID()
	d := &shim.TableDef{
		Name: t.Name, Columns: len(t.Stored), SelectNew: t.SelectRow(),
		Bulk: t.LogInserts(id), Shape: id, ShapeKey: shapeKey + strconv.FormatInt(id, 10), ShapeJSON: shape.JSON(),
	}
	if t.Alias < 0 {
		d.Key = t.Key
	}
	sources, old, oldMap := s.lineage.Trace(t)
	if old != nil {
		d.SelectOld, d.OldMap = old.SelectRow(), oldMap
	}
	for _, src := range sources {
		d.Sources = append(d.Sources, shim.Source{Table: src.Table, Above: src.Above, UpTo: src.UpTo, Map: src.Map})
	}
	if len(s.lineage.Defaults) > 0 {
		d.Defaults = EncodeRecord(s.lineage.Defaults)
	}
	if err := s.c.Define(d); err != nil {
		return fmt.Errorf("define table %q: %w", name, err)
	}
	return nil
}

func shapeOf(t *hooks.Table) *Shape {
	return &Shape{Columns: t.Names(), Key: t.Key, RowIDAlias: t.Alias, WithoutRowID: t.WithoutRowID}
}

// runSchema runs a schema statement and logs what it changed. Rows touched before
// are logged first, with the columns they had.
func (s *Session) runSchema(st *Statement, exec func() error) error {
	if _, err := s.finish(false); err != nil {
		return err
	}
	before, err := s.beforeSchema(st)
	if err != nil {
		return err
	}
	if err := s.c.StatementStarts(true, true, false); err != nil {
		return uncaptured(err)
	}
	err = exec()
	t := s.c.StatementEnds()
	s.note(t)
	if !t.InTx {
		return err
	}
	if e := s.logSchema(st, before); e != nil {
		s.c.Poison()
		return errors.Join(err, fmt.Errorf("log schema change: %w", e))
	}
	return err
}

// schemaBefore is what a schema statement finds.
type schemaBefore struct {
	schema *hooks.Schema
	table  *hooks.Table // that ALTER TABLE names
	value  int64        // of the pragma
}

func (s *Session) beforeSchema(st *Statement) (b schemaBefore, err error) {
	if err := s.dropTriggers(); err != nil {
		return b, err
	}
	s.c.Internal(true)
	defer s.c.Internal(false)
	b.schema = s.schema
	switch {
	case st.alter != "":
		if err := s.notLegacy(st.SQL); err != nil {
			return b, err
		}
		if b.table, err = s.schema.Table(s.conn, st.alter); err == nil && b.table.Kind != "table" && b.table.Kind != "view" {
			err = &UnsupportedError{What: fmt.Sprintf("altering the %s table %q", b.table.Kind, b.table.Name),
				Why: "virtual tables are not synchronised", err: ErrVirtualTable}
		}
	case st.value:
		b.value, err = s.pragma(st.name)
	}
	return b, err
}

// notLegacy refuses what PRAGMA legacy_alter_table makes of an ALTER TABLE: other
// definitions than the same text does on the remote and in a replay, or success
// where these fail.
func (s *Session) notLegacy(sql string) error {
	a, ok := parseAlter(sql)
	if ok && a.step == alterAddColumn {
		return nil
	}
	legacy, err := s.db.Config(shim.LegacyAlterTable)
	if err != nil || !legacy {
		return err
	}
	return &UnsupportedError{What: "ALTER TABLE … RENAME and DROP with PRAGMA legacy_alter_table", Why: "the remote would run it without that and come to something else",
		Hint: "PRAGMA legacy_alter_table = off; views and triggers that stand in its way are dropped before and created again"}
}

func (s *Session) pragma(name string) (int64, error) {
	row, err := queryRow(s.conn, "PRAGMA main."+name)
	if err != nil || row == nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	v, _ := row[0].(int64)
	return v, nil
}

func (s *Session) logSchema(st *Statement, before schemaBefore) error {
	if st.value {
		return s.logPragma(st.name, before.value)
	}
	t, err := s.c.Begin(shim.Want{How: shim.BeginNothing, Replace: true})
	if err != nil {
		return err
	}
	after, err := s.readSchema(t.Cookie)
	if err != nil {
		return err
	}
	if err := s.setSchema(after); err != nil {
		return err
	}
	if t.Cookie == before.schema.Cookie {
		s.temp = true // a TEMP trigger on a table of main, perhaps
		return nil
	}
	s.altered = true
	s.c.DDL(true)
	dropped, created := before.schema.Diff(after)
	if before.table != nil {
		return s.logAlter(st, before, created)
	}
	for _, o := range dropped {
		if Internal(o.Name) || Internal(o.Table) {
			continue
		}
		sql := "DROP " + strings.ToUpper(o.Kind) + " " + quote(o.Name)
		if _, err := s.logChange(&SchemaChange{Op: "drop", Kind: o.Kind, Name: o.Name, Table: o.Table, SQL: sql, Was: o.SQL}); err != nil {
			return err
		}
	}
	for _, o := range created {
		if Internal(o.Name) || Internal(o.Table) {
			continue
		}
		if err := s.logCreate(o); err != nil {
			return err
		}
	}
	return nil
}

func (s *Session) logChange(c *SchemaChange) (int64, error) {
	return s.c.LogSchema(int(c.changeType()), c.Record())
}

func (s *Session) logPragma(name string, before int64) error {
	s.c.Internal(true)
	now, err := s.pragma(name)
	s.c.Internal(false)
	if err != nil || now == before {
		return err
	}
	_, err = s.logChange(&SchemaChange{Op: "pragma", Kind: name, Name: name, Table: name,
		SQL: "PRAGMA " + name + " = " + strconv.FormatInt(now, 10)})
	return err
}

// logCreate logs a new object; a table that was created from a query has rows.
func (s *Session) logCreate(o hooks.Object) error {
	id, err := s.logChange(&SchemaChange{Op: "create", Kind: o.Kind, Name: o.Name, Table: o.Table, SQL: o.SQL})
	if err != nil || o.Kind != "table" {
		return err
	}
	s.lineage.Steps = append(s.lineage.Steps, hooks.Step{ID: id, After: o.Name})
	row, err := queryRow(s.conn, "SELECT 1 FROM main."+quote(o.Name)+" LIMIT 1")
	if err != nil || row == nil {
		return err
	}
	s.c.Internal(true)
	t, err := s.schema.Table(s.conn, o.Name)
	s.c.Internal(false)
	if err != nil {
		return err
	}
	if t.RowID == "" && !t.WithoutRowID {
		return &UnsupportedError{What: fmt.Sprintf("creating table %q with rows", t.Name),
			Why: "its columns take all names of the rowid, so that its rows cannot be told apart"}
	}
	return s.c.TouchRows(t.Name, t.SelectIdentities(), true)
}

// logAlter logs ALTER TABLE by its own text, and remembers where its columns are
// in older images.
func (s *Session) logAlter(st *Statement, before schemaBefore, created []hooks.Object) error {
	if len(created) == 0 {
		return nil
	}
	old := before.table
	id, err := s.logChange(&SchemaChange{Op: "alter", Kind: "table", Name: old.Name, Table: old.Name,
		SQL: strings.TrimRight(st.SQL, "; \t\r\n")})
	if err != nil {
		return err
	}
	name := ""
	if o, ok := s.schema.Find("table", old.Name); ok {
		name = o.Name
	} else {
		// Renamed. Tables that refer to it have changed, too, but not their names.
		for _, o := range created {
			if _, was := before.schema.Find("table", o.Name); o.Kind == "table" && !was {
				name = o.Name
			}
		}
	}
	s.c.Internal(true)
	defer s.c.Internal(false)
	now, err := s.schema.Table(s.conn, name)
	if err != nil {
		return err
	}
	m, added := hooks.ColumnMap(old, now, len(s.lineage.Defaults))
	if added >= 0 {
		v, err := defaultValue(now.All[now.Stored[added]])
		if err != nil {
			return err
		}
		s.lineage.Defaults = append(s.lineage.Defaults, v)
	}
	s.lineage.Steps = append(s.lineage.Steps, hooks.Step{ID: id, Before: old.Name, After: now.Name, Map: m, Old: old})
	return nil
}

// defaultValue is what rows hold in a column that was added to them: a constant,
// with the column's affinity, as a database of its own computes it.
func defaultValue(c hooks.Column) (v any, err error) {
	if !c.HasDefault {
		return nil, nil
	}
	opened, err := (&sqlite3.SQLiteDriver{}).Open(":memory:")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	conn, ok := opened.(*sqlite3.SQLiteConn)
	if !ok {
		return nil, fmt.Errorf("connection is a %T", opened)
	}
	if err := exec(conn, "CREATE TABLE t(c "+c.Type+" DEFAULT ("+c.Default+"))"); err != nil {
		return nil, err
	}
	if err := exec(conn, "INSERT INTO t DEFAULT VALUES"); err != nil {
		return nil, err
	}
	row, err := queryRow(conn, "SELECT +c FROM t")
	if err != nil || row == nil {
		return nil, err
	}
	return row[0], nil
}
