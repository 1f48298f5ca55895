package cdc

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/mattn/go-sqlite3"
)

// tableDiff compares the rows of one table. Images have the columns of shape, the
// table as it is in to; columns that from does not have yet hold in its images
// what ADD COLUMN fills them with.
type tableDiff struct {
	*differ
	table  string
	shape  *Shape
	old    *Shape // in from; nil: the table is not there
	filled []any  // per column: its default, if from lacks it
	lacks  []bool // per column: from does not have it
	rowid  string // "" if there is none
}

func (t *tableDiff) hidden() []string {
	var names []string
	for _, c := range t.to.state.table(t.table).def.columns {
		names = append(names, c.name)
	}
	return names
}

// defaults finds the columns that from lacks and what they are filled with.
func (t *tableDiff) defaults() error {
	t.lacks = make([]bool, len(t.shape.Columns))
	for i, name := range t.shape.Columns {
		if slices.ContainsFunc(t.old.Columns, func(c string) bool { return lower(c) == lower(name) }) {
			continue
		}
		t.lacks[i] = true
		row, err := queryRow(t.to.conn, `SELECT dflt_value FROM pragma_table_xinfo(?, 'main') WHERE name = ?`, t.table, name)
		if err != nil {
			return err
		}
		if text, ok := row[0].(string); ok {
			if row, err = queryRow(t.to.conn, "SELECT "+text); err != nil {
				return fmt.Errorf("default of column %q: %w", name, err)
			}
			t.filled[i] = row[0]
		}
	}
	return nil
}

// selectRows is SELECT rowid, columns FROM table. In from, missing columns are
// NULL and filled by image.
func (t *tableDiff) selectRows(old bool) string {
	b := (&statement{}).add("SELECT ")
	if t.rowid == "" {
		b.add("0")
	} else {
		b.add("+", quote(t.rowid))
	}
	for i, name := range t.shape.Columns {
		if old && t.lacks[i] {
			b.add(",NULL")
		} else {
			b.add(",+", quote(name)) // + keeps go-sqlite3 from converting by declared type
		}
	}
	return b.add(" FROM main.", quote(t.table)).String()
}

// image makes the record of a row of selectRows.
func (t *tableDiff) image(row []driver.Value, old bool) []byte {
	values := anyValues(row[1:])
	if old {
		for i := range values {
			if t.lacks[i] {
				values[i] = t.filled[i]
			}
		}
	}
	return EncodeRecord(values)
}

func (t *tableDiff) change(kind Type, rowid any, before, after []byte) error {
	if err := t.ctx.Err(); err != nil {
		return context.Cause(t.ctx)
	}
	c := &Change{Type: kind, Table: t.table, Shape: t.shape, Before: before, After: after}
	if !t.shape.WithoutRowID {
		c.RowID, _ = rowid.(int64)
	}
	return t.emit(c)
}

// all emits every row of a new table.
func (t *tableDiff) all() error {
	return query(t.to.conn, t.selectRows(false), nil, func(row []driver.Value) error {
		return t.change(Insert, row[0], nil, t.image(row, false))
	})
}

// merge walks both tables in the order of their rowids: once for the deletes,
// once for the rest.
func (t *tableDiff) merge() error {
	for deletes := range 2 {
		if err := t.mergePass(deletes == 0, ""); err != nil {
			return err
		}
	}
	return nil
}

func (t *tableDiff) mergePass(deletes bool, where string) error {
	order := where + " ORDER BY " + quote(t.rowid)
	was, err := openRows(t.from.conn, t.selectRows(true)+order)
	if err != nil {
		return err
	}
	defer was.close()
	is, err := openRows(t.to.conn, t.selectRows(false)+order)
	if err != nil {
		return err
	}
	defer is.close()
	for was.next(); ; {
		is.next()
		for was.before(is) {
			if deletes {
				if err := t.change(Delete, was.row[0], t.image(was.row, true), nil); err != nil {
					return err
				}
			}
			was.next()
		}
		if err := errors.Join(was.err, is.err); err != nil {
			return err
		}
		if is.done {
			return nil
		}
		after := t.image(is.row, false)
		var before []byte
		if !was.done && was.rowid() == is.rowid() {
			before = t.image(was.row, true)
			was.next()
		}
		if deletes {
			continue
		}
		if err := t.differ1(is.row[0], before, after); err != nil {
			return err
		}
	}
}

// differ1 emits what became of one row that is still there.
func (t *tableDiff) differ1(rowid any, before, after []byte) error {
	switch {
	case before == nil:
		return t.change(Insert, rowid, nil, after)
	case !bytes.Equal(before, after):
		return t.change(Update, rowid, before, after)
	}
	return nil
}

// byKey looks up each row of one side on the other by its key; SQLite compares
// keys, with whatever collations they have. A key whose bytes changed though it
// is equal to the old one (A and a) is an update. Rows with a NULL in their key
// are left to nullKeys.
func (t *tableDiff) byKey(deletes bool) error {
	lookup := (&statement{}).add(" WHERE ")
	filter := (&statement{}).add(" WHERE ")
	for i, k := range t.shape.Key {
		if i > 0 {
			lookup.add(" AND ")
			filter.add(" AND ")
		}
		lookup.add(quote(t.shape.Columns[k]), " = ?")
		filter.add(quote(t.shape.Columns[k]), " IS NOT NULL")
	}
	key := func(row []driver.Value) []any {
		args := make([]any, len(t.shape.Key))
		for i, k := range t.shape.Key {
			args[i] = row[k+1]
		}
		return args
	}
	if deletes {
		return query(t.from.conn, t.selectRows(true)+filter.String(), nil, func(row []driver.Value) error {
			found, err := t.to.statements.row("SELECT 1 FROM main."+quote(t.table)+lookup.String(), key(row)...)
			if err != nil || found != nil {
				return err
			}
			return t.change(Delete, row[0], t.image(row, true), nil)
		})
	}
	return query(t.to.conn, t.selectRows(false)+filter.String(), nil, func(row []driver.Value) error {
		was, err := t.from.statements.row(t.selectRows(true)+lookup.String(), key(row)...)
		if err != nil {
			return err
		}
		var before []byte
		if was != nil {
			before = t.image(was, true)
		}
		return t.differ1(row[0], before, t.image(row, false))
	})
}

// nullKeys compares the rows with a NULL in their key, which have no identity
// but their rowid.
func (t *tableDiff) nullKeys(deletes bool) error {
	b := (&statement{}).add(" WHERE (")
	for i, k := range t.shape.Key {
		if i > 0 {
			b.add(" OR ")
		}
		b.add(quote(t.shape.Columns[k]), " IS NULL")
	}
	where := b.add(")").String()
	if t.rowid == "" {
		row, err := queryRow(t.to.conn, "SELECT EXISTS (SELECT 1 FROM main."+quote(t.table)+where+")")
		if err != nil || row[0] == int64(0) {
			return err
		}
		return ErrNoRowID
	}
	return t.mergePass(deletes, where)
}

// rowCursor walks the rows of a query whose first column is an integer.
type rowCursor struct {
	stmt *sqlite3.SQLiteStmt
	rows driver.Rows
	row  []driver.Value
	done bool
	err  error
}

func openRows(conn *sqlite3.SQLiteConn, text string) (*rowCursor, error) {
	stmt, err := prepare(conn, text)
	if err != nil {
		return nil, err
	}
	rows, err := stmt.Query(nil) //nolint:staticcheck // see queryStmt
	if err != nil {
		return nil, errors.Join(err, stmt.Close())
	}
	return &rowCursor{stmt: stmt, rows: rows, row: make([]driver.Value, len(rows.Columns()))}, nil
}

func (c *rowCursor) next() {
	if c.done {
		return
	}
	if err := c.rows.Next(c.row); err != nil {
		c.done = true
		if !errors.Is(err, io.EOF) {
			c.err = err
		}
	}
}

func (c *rowCursor) rowid() int64 {
	id, _ := c.row[0].(int64)
	return id
}

// before tells whether c's row comes before that of o.
func (c *rowCursor) before(o *rowCursor) bool {
	return !c.done && o.err == nil && (o.done || c.rowid() < o.rowid())
}

func (c *rowCursor) close() {
	_ = c.rows.Close() // reading is over, there is nothing to lose
	_ = c.stmt.Close()
}
