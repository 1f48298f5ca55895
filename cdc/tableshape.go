package cdc

import (
	"database/sql/driver"
	"fmt"

	"github.com/mattn/go-sqlite3"
)

// ReadShape returns the present shape of a table of the main database.
func ReadShape(conn *sqlite3.SQLiteConn, table string) (*Shape, error) {
	s := &Shape{RowIDAlias: -1}
	keys := make(map[int64]int) // position in the key to column
	integer := false
	err := query(conn, `SELECT name, type, pk, hidden FROM pragma_table_xinfo(?, 'main')`, []any{table},
		func(row []driver.Value) error {
			name, _ := row[0].(string)
			declared, _ := row[1].(string)
			pk, _ := row[2].(int64)
			if hidden, _ := row[3].(int64); hidden != 0 {
				return nil // generated
			}
			if pk > 0 {
				keys[pk] = len(s.Columns)
				integer = lower(declared) == "integer"
			}
			s.Columns = append(s.Columns, name)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("read columns of table %q: %w", table, err)
	}
	if len(s.Columns) == 0 {
		return nil, fmt.Errorf("read columns of table %q: no such table", table)
	}
	for i := range len(keys) {
		s.Key = append(s.Key, keys[int64(i+1)])
	}
	row, err := queryRow(conn, `SELECT wr, EXISTS (SELECT 1 FROM pragma_index_list(?1, 'main') WHERE origin = 'pk')
		FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE`, table)
	if err != nil {
		return nil, fmt.Errorf("read kind of table %q: %w", table, err)
	}
	if row == nil {
		return nil, fmt.Errorf("read kind of table %q: no such table", table)
	}
	s.WithoutRowID = row[0] == int64(1)
	// A key that is the rowid has no index of its own; INTEGER PRIMARY KEY DESC has
	// one (https://sqlite.org/lang_createtable.html#rowid).
	if indexed := row[1] == int64(1); len(s.Key) == 1 && integer && !indexed && !s.WithoutRowID {
		s.RowIDAlias = s.Key[0]
	}
	return s, nil
}
