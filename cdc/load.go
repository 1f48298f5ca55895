package cdc

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/shim"
)

// logColumns are the columns of turso_cdc that a Change is made of; updates is
// always NULL in our log.
const logColumns = `change_id, change_time, change_txn_id, change_type, table_name, id, "before", "after", shape`

// Load reads the changes of turso_cdc with ids above the given one, in order,
// and hands each to yield, which may keep it. An error of yield ends the reading
// and is returned. Changes are streamed; memory does not grow with the log, but
// for the rowids of rows that the log inserts into tables without primary key,
// and only if the log also updates or deletes such rows (see Change.Local).
//
// conn must not be used otherwise while yield runs, except for reading.
func Load(conn *sqlite3.SQLiteConn, above ID, yield func(*Change) error) error {
	r := logReader{conn: conn}
	err := r.read(above, func() *Change { return new(Change) }, yield)
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	return nil
}

// LoadTxns is Load by whole transactions: each call of yield gets the changes
// of one, which it may keep.
func LoadTxns(conn *sqlite3.SQLiteConn, above ID, yield func(txn []Change) error) error {
	r := logReader{conn: conn}
	var txn []Change
	next := func() *Change {
		if len(txn) == cap(txn) {
			txn = slices.Grow(txn, max(len(txn), 4)) // a large one grows by more than append would
		}
		txn = append(txn, Change{})
		return &txn[len(txn)-1]
	}
	err := r.read(above, next, func(c *Change) error {
		last := len(txn) - 1
		if txn[0].Txn == c.Txn {
			return nil
		}
		done := txn[:last:last]
		txn = append(make([]Change, 0, 4), *c)
		return yield(done)
	})
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	if len(txn) == 0 {
		return nil
	}
	return yield(txn)
}

// LoadSchema returns the schema changes above an id, in order.
func LoadSchema(conn *sqlite3.SQLiteConn, above ID) ([]Change, error) {
	var changes []Change
	r := logReader{conn: conn}
	err := r.query(`SELECT `+logColumns+` FROM turso_cdc WHERE change_id > ? AND table_name = 'sqlite_schema' ORDER BY change_id`,
		above, func(row *shim.Packed) error {
			changes = append(changes, Change{})
			return r.change(row, &changes[len(changes)-1])
		})
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	return changes, nil
}

// LoadBatch returns the oldest transactions above an id, as many as stay within
// the limits (0: no limit), but at least one; more tells that others follow.
// Bytes are those of the row images.
func LoadBatch(ctx context.Context, conn *sqlite3.SQLiteConn, above ID, maxChanges, maxBytes int) (txns [][]Change, more bool, err error) {
	changes, bytes := 0, 0
	err = LoadTxns(conn, above, func(txn []Change) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		size := 0
		for i := range txn {
			size += txn[i].size()
		}
		if len(txns) > 0 && (over(changes+len(txn), maxChanges) || over(bytes+size, maxBytes)) {
			more = true
			return errStop
		}
		txns = append(txns, txn)
		changes += len(txn)
		bytes += size
		return nil
	})
	if more {
		err = nil
	}
	return txns, more, err
}

func over(n, limit int) bool { return limit > 0 && n > limit }

// size approximates the bytes of a change on the wire.
func (c *Change) size() int {
	n := len(c.Before) + len(c.After) + len(c.Table)
	if c.Schema != nil {
		n += len(c.Schema.SQL)
	}
	return n
}

// Append writes changes into turso_cdc as they are, ids included, and the
// shapes that they need into turso_sync_state. Staging uses it to carry the log
// over to a new base. The caller owns the transaction.
func Append(conn *sqlite3.SQLiteConn, changes []Change) error {
	w, err := newLogWriter(conn)
	if err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	for i := range changes {
		if err := w.write(&changes[i]); err != nil {
			return fmt.Errorf("write log: change %d: %w", changes[i].ID, err)
		}
	}
	return w.statements.close()
}

// logWriter writes rows of turso_cdc.
type logWriter struct {
	statements statements
	shapes     map[*Shape]int64 // written already
}

func newLogWriter(conn *sqlite3.SQLiteConn) (*logWriter, error) {
	return &logWriter{statements: statements{conn: conn}, shapes: make(map[*Shape]int64)}, nil
}

func (w *logWriter) write(c *Change) error {
	const insert = `INSERT INTO turso_cdc(` + logColumns + `) VALUES (?,?,?,?,?,?,?,?,?)`
	if c.Schema != nil {
		_, _, err := w.statements.exec(insert, int64(c.ID), c.Time.Unix(), int64(c.Txn), int64(c.Schema.changeType()),
			SchemaTable, nil, nil, c.Schema.Record(), nil)
		return err
	}
	if c.Shape == nil {
		return fmt.Errorf("change of table %q has no shape", c.Table)
	}
	shape, err := w.shape(c.Shape)
	if err != nil {
		return err
	}
	_, _, err = w.statements.exec(insert, int64(c.ID), c.Time.Unix(), int64(c.Txn), int64(c.Type),
		c.Table, c.RowID, image(c.Before), image(c.After), shape)
	return err
}

func image(record []byte) any {
	if record == nil {
		return nil
	}
	return record
}

func (w *logWriter) shape(s *Shape) (int64, error) {
	if id, ok := w.shapes[s]; ok {
		return id, nil
	}
	id := s.ID()
	_, _, err := w.statements.exec(`INSERT INTO turso_sync_state(key, value) VALUES (?,?) ON CONFLICT(key) DO NOTHING`,
		shapeKey+strconv.FormatInt(id, 10), s.JSON())
	if err != nil {
		return 0, err
	}
	w.shapes[s] = id
	return id, nil
}

// logReader turns rows of turso_cdc into changes.
type logReader struct {
	conn   *sqlite3.SQLiteConn
	shapes map[int64]*Shape
	shape  *Shape // the last one used, of this id
	id     int64
	names  map[string]string // one string for each table name
	locals localRows
}

// Rows of the log are fetched in packs of so many bytes: the first one is small,
// because the log often is.
const (
	packMin = 8 << 10
	packMax = 128 << 10
)

// query hands each row of a query with one argument to yield.
func (r *logReader) query(text string, above ID, yield func(row *shim.Packed) error) error {
	db, err := shim.Of(r.conn)
	if err != nil {
		return err
	}
	stmt, _, err := db.Prepare(text)
	if err != nil {
		return sqliteError(err)
	}
	defer stmt.Close()
	if err := stmt.Bind(1, int64(above)); err != nil {
		return sqliteError(err)
	}
	for size := packMin; ; size = min(2*size, packMax) {
		rows, err := stmt.Fetch(size)
		if err != nil {
			return sqliteError(err)
		}
		if rows == nil {
			return nil
		}
		for len(rows) > 0 {
			if err := yield(&rows); err != nil {
				return err
			}
		}
	}
}

// read decodes the changes above an id into what next returns, one by one.
func (r *logReader) read(above ID, next func() *Change, yield func(*Change) error) error {
	return r.query(`SELECT `+logColumns+` FROM turso_cdc WHERE change_id > ? ORDER BY change_id`, above, func(row *shim.Packed) error {
		c := next()
		if err := r.change(row, c); err != nil {
			return err
		}
		return yield(c)
	})
}

// change decodes a row of logColumns.
func (r *logReader) change(row *shim.Packed, c *Change) error {
	id := row.Next()
	c.ID = ID(id.Int)
	if err := r.fill(c, row); err != nil {
		return fmt.Errorf("change %d: %w", c.ID, err)
	}
	return nil
}

func (r *logReader) fill(c *Change, row *shim.Packed) error {
	seconds, txn, kind, table, rowid := row.Next(), row.Next(), row.Next(), row.Next(), row.Next()
	before, after, shape := row.Next(), row.Next(), row.Next()
	if kind.Type != shim.Integer || kind.Int < int64(Delete) || kind.Int > int64(Insert) {
		return fmt.Errorf("change type %d", kind.Int)
	}
	if table.Type != shim.Text {
		return errors.New("table name is no text")
	}
	c.Time, c.Txn, c.Type, c.RowID = time.Unix(seconds.Int, 0), ID(txn.Int), Type(kind.Int), rowid.Int
	c.Table = r.name(table.Bytes)
	if before.Type == shim.Blob {
		c.Before = before.Bytes
	}
	if after.Type == shim.Blob {
		c.After = after.Bytes
	}
	if c.Table == SchemaTable {
		schema, err := DecodeSchemaChange(c.After)
		if err != nil {
			return err
		}
		c.Schema, c.After = schema, nil
		r.locals.schemaChanged(schema)
		return nil
	}
	if shape.Type != shim.Integer {
		return errors.New("shape is no integer")
	}
	if err := r.setShape(c, shape.Int); err != nil {
		return err
	}
	if err := c.checkImages(); err != nil {
		return err
	}
	return r.locals.mark(r.conn, c)
}

// name returns the name as a string, the same one each time.
func (r *logReader) name(b []byte) string {
	if s, ok := r.names[string(b)]; ok {
		return s
	}
	if r.names == nil {
		r.names = make(map[string]string)
	}
	s := string(b)
	r.names[s] = s
	return s
}

// checkImages requires the images that the change's type has.
func (c *Change) checkImages() error {
	if (c.Before == nil) != (c.Type == Insert) || (c.After == nil) != (c.Type == Delete) {
		return fmt.Errorf("images of table %q do not fit change type %d", c.Table, c.Type)
	}
	return nil
}

func (r *logReader) setShape(c *Change, id int64) error {
	if r.shape == nil || r.id != id {
		s, err := r.readShape(id)
		if err != nil {
			return err
		}
		r.shape, r.id = s, id
	}
	c.Shape = r.shape
	return nil
}

func (r *logReader) readShape(id int64) (*Shape, error) {
	if s, ok := r.shapes[id]; ok {
		return s, nil
	}
	row, err := queryRow(r.conn, `SELECT value FROM turso_sync_state WHERE key = ?`, shapeKey+strconv.FormatInt(id, 10))
	if err != nil {
		return nil, fmt.Errorf("read shape %d: %w", id, err)
	}
	if row == nil {
		return nil, fmt.Errorf("shape %d is missing from %s", id, StateTable)
	}
	text, ok := row[0].(string)
	if !ok {
		return nil, fmt.Errorf("shape %d is a %T", id, row[0])
	}
	s, err := ParseShape(text)
	if err != nil {
		return nil, fmt.Errorf("shape %d: %w", id, err)
	}
	if r.shapes == nil {
		r.shapes = make(map[int64]*Shape)
	}
	r.shapes[id] = s
	return s, nil
}

// localRows knows which rows without identity beyond their rowid were inserted
// by the log itself, table by table, for the tables where that matters.
type localRows struct {
	tables map[string]map[int64]struct{} // by lower-case name; absent: not looked at yet
}

// mark sets c.Local and notes what c inserts.
func (l *localRows) mark(conn *sqlite3.SQLiteConn, c *Change) error {
	before, err := c.Shape.bagImage(c.Before)
	if err != nil {
		return err
	}
	after, err := c.Shape.bagImage(c.After)
	if err != nil || !before && !after {
		return err
	}
	name := lower(c.Table)
	rows, seen := l.tables[name]
	if !before { // an insert, or an update that took the key away
		if seen {
			rows[c.RowID] = struct{}{}
		}
		return nil
	}
	if !seen {
		if rows, err = insertedBefore(conn, c); err != nil {
			return err
		}
		if l.tables == nil {
			l.tables = make(map[string]map[int64]struct{})
		}
		l.tables[name] = rows
	}
	_, c.Local = rows[c.RowID]
	if !after { // a delete, or an update that gave it a key
		delete(rows, c.RowID)
	}
	return nil
}

// schemaChanged follows a table to its new name.
func (l *localRows) schemaChanged(s *SchemaChange) {
	if from, to, ok := renamedTable(s); ok && l.tables != nil {
		if rows, seen := l.tables[lower(from)]; seen {
			l.tables[lower(to)] = rows
			delete(l.tables, lower(from))
		}
	}
}

// insertedBefore collects the rowids that the log below c gave to rows without
// identity in c's table, under all names that the table had there.
func insertedBefore(conn *sqlite3.SQLiteConn, c *Change) (map[int64]struct{}, error) {
	names, err := formerNames(conn, c.Table, c.ID)
	if err != nil {
		return nil, err
	}
	columns, types := `id, NULL, NULL`, `change_type = 1`
	if len(c.Shape.Key) > 0 {
		// There an update, too, may leave a row without identity.
		columns, types = `id, "before", "after"`, `change_type IN (0, 1)`
	}
	rows := make(map[int64]struct{})
	for _, name := range names {
		err := query(conn, `SELECT `+columns+` FROM turso_cdc WHERE table_name = ? COLLATE NOCASE AND `+types+` AND change_id < ?`,
			[]any{name, int64(c.ID)}, func(row []driver.Value) error {
				before, _ := row[1].([]byte)
				after, _ := row[2].([]byte)
				if was, err := c.Shape.bagImage(before); err != nil || was {
					return err
				}
				if is, err := c.Shape.bagImage(after); err != nil || after != nil && !is {
					return err
				}
				if id, ok := row[0].(int64); ok {
					rows[id] = struct{}{}
				}
				return nil
			})
		if err != nil {
			return nil, fmt.Errorf("read inserts of table %q: %w", c.Table, err)
		}
	}
	return rows, nil
}

// formerNames returns the name of a table and those it was renamed from in the
// log below an id.
func formerNames(conn *sqlite3.SQLiteConn, table string, below ID) ([]string, error) {
	names := []string{table}
	err := query(conn, `SELECT "after" FROM turso_cdc WHERE table_name = 'sqlite_schema' AND change_type = 0 AND change_id < ? ORDER BY change_id DESC`,
		[]any{int64(below)}, func(row []driver.Value) error {
			record, _ := row[0].([]byte)
			s, err := DecodeSchemaChange(record)
			if err != nil {
				return err
			}
			if from, to, ok := renamedTable(s); ok && strings.EqualFold(to, names[len(names)-1]) {
				names = append(names, from)
			}
			return nil
		})
	return names, err
}
