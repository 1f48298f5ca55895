package hooks

import (
	"database/sql/driver"
	"fmt"
	"strings"

	"github.com/mattn/go-sqlite3"
)

// Object is a row of sqlite_schema.
type Object struct {
	Kind, Name, Table, SQL string
}

// Schema is what the schema main of a connection holds, as seen in one
// transaction. It is not changed after it was read, but for the tables it keeps.
type Schema struct {
	Cookie  uint32
	Objects []Object // in the order of sqlite_schema, without automatic indexes
	// Replace: a trigger of main or temp may REPLACE rows, in whatever table.
	Replace bool
	// ReplaceTables have a conflict clause REPLACE in their definition.
	ReplaceTables map[string]bool

	tables       map[string]*Table
	beforeUpdate map[string]bool // tables with a BEFORE UPDATE trigger of the user
}

// ReadSchema reads the schema main as the connection sees it now, and looks into
// the triggers of temp.
func ReadSchema(conn *sqlite3.SQLiteConn, cookie uint32) (*Schema, error) {
	s := &Schema{Cookie: cookie, ReplaceTables: make(map[string]bool), tables: make(map[string]*Table),
		beforeUpdate: make(map[string]bool)}
	err := query(conn, `SELECT type, name, tbl_name, sql FROM main.sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid`,
		func(row []driver.Value) error {
			o := Object{Kind: str(row[0]), Name: str(row[1]), Table: str(row[2]), SQL: str(row[3])}
			s.Objects = append(s.Objects, o)
			s.note(o)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("read schema: %w", err)
	}
	err = query(conn, `SELECT type, name, tbl_name, sql FROM temp.sqlite_schema WHERE type = 'trigger'`, func(row []driver.Value) error {
		if o := (Object{Kind: "trigger", Name: str(row[1]), Table: str(row[2]), SQL: str(row[3])}); !ownTrigger(o.Name) {
			s.note(o)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read temporary triggers: %w", err)
	}
	return s, nil
}

func (s *Schema) note(o Object) {
	if o.Kind == "trigger" && firesBeforeUpdate(o.SQL) {
		s.beforeUpdate[fold(o.Table)] = true
	}
	if !MayReplace(o.SQL) {
		return
	}
	switch o.Kind {
	case "trigger":
		s.Replace = true
	case "table":
		s.ReplaceTables[fold(o.Name)] = true
	}
}

// MayReplace tells whether some statement may replace rows though its own text
// does not say so.
func (s *Schema) MayReplace() bool { return s.Replace || len(s.ReplaceTables) > 0 }

// Find returns an object by kind and name.
func (s *Schema) Find(kind, name string) (Object, bool) {
	for _, o := range s.Objects {
		if o.Kind == kind && strings.EqualFold(o.Name, name) {
			return o, true
		}
	}
	return Object{}, false
}

// Diff returns the objects that are not in after any more or differ there, and
// those that are new there or differ. What goes with its table is left out of
// dropped.
func (s *Schema) Diff(after *Schema) (dropped, created []Object) {
	now := make(map[Object]bool, len(after.Objects))
	for _, o := range after.Objects {
		now[o] = true
	}
	before := make(map[Object]bool, len(s.Objects))
	gone := make(map[string]bool)
	for _, o := range s.Objects {
		before[o] = true
		if !now[o] && (o.Kind == "table" || o.Kind == "view") {
			gone[fold(o.Name)] = true
		}
	}
	for _, o := range s.Objects {
		if now[o] || (o.Kind == "index" || o.Kind == "trigger") && gone[fold(o.Table)] {
			continue
		}
		dropped = append(dropped, o)
	}
	for _, o := range after.Objects {
		if !before[o] {
			created = append(created, o)
		}
	}
	return dropped, created
}

func fold(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
