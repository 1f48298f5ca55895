package tursosync

import (
	"database/sql/driver"
	"errors"
	"io"
	"reflect"

	sqlite3 "github.com/mattn/go-sqlite3"
)

// rows are rows that were fetched before the caller sees the first one: those
// of a statement that writes and returns rows. They tell the same about columns
// as go-sqlite3's. The zero value has neither columns nor rows.
type rows struct {
	columns []string
	types   []columnType
	values  [][]driver.Value
	next    int
}

type columnType struct {
	declared string
	scan     reflect.Type
	nullable bool
	known    bool
}

var (
	_ driver.RowsColumnTypeDatabaseTypeName = (*rows)(nil)
	_ driver.RowsColumnTypeScanType         = (*rows)(nil)
	_ driver.RowsColumnTypeNullable         = (*rows)(nil)
)

// materialise fetches all rows of r and closes it.
func materialise(r driver.Rows) (*rows, error) {
	out := &rows{columns: r.Columns()}
	if typed, ok := r.(*sqlite3.SQLiteRows); ok {
		out.types = make([]columnType, len(out.columns))
		for i := range out.types {
			t := &out.types[i]
			t.declared, t.scan = typed.ColumnTypeDatabaseTypeName(i), typed.ColumnTypeScanType(i)
			t.nullable, t.known = typed.ColumnTypeNullable(i)
		}
	}
	for {
		row := make([]driver.Value, len(out.columns))
		err := r.Next(row)
		if errors.Is(err, io.EOF) {
			return out, r.Close()
		}
		if err != nil {
			return out, firstError(err, r.Close())
		}
		out.values = append(out.values, row)
	}
}

func (r *rows) Columns() []string { return r.columns }

func (r *rows) Close() error {
	r.values, r.next = nil, 0
	return nil
}

func (r *rows) Next(dest []driver.Value) error {
	if r.next == len(r.values) {
		return io.EOF
	}
	copy(dest, r.values[r.next])
	r.values[r.next] = nil
	r.next++
	return nil
}

func (r *rows) ColumnTypeDatabaseTypeName(i int) string { return r.types[i].declared }

func (r *rows) ColumnTypeScanType(i int) reflect.Type { return r.types[i].scan }

func (r *rows) ColumnTypeNullable(i int) (nullable, ok bool) {
	return r.types[i].nullable, r.types[i].known
}
