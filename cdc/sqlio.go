package cdc

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/shim"
)

// quote returns name as an SQL identifier.
func quote(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

// quoteText returns s as an SQL string literal; s must hold no NUL.
func quoteText(s string) string {
	return `'` + strings.ReplaceAll(s, `'`, `''`) + `'`
}

func driverValues(args []any) []driver.Value {
	values := make([]driver.Value, len(args))
	for i, a := range args {
		values[i] = a
	}
	return values
}

// query runs one statement and hands each row to yield. The slice is used again
// for the next row; the values are not.
func query(conn *sqlite3.SQLiteConn, text string, args []any, yield func(row []driver.Value) error) error {
	stmt, err := prepare(conn, text)
	if err != nil {
		return err
	}
	err = queryStmt(stmt, args, yield)
	if e := stmt.Close(); err == nil {
		err = e
	}
	return err
}

func queryStmt(stmt *sqlite3.SQLiteStmt, args []any, yield func(row []driver.Value) error) (err error) {
	rows, err := stmt.Query(driverValues(args)) //nolint:staticcheck // the context form starts a goroutine for each call
	if err != nil {
		return err
	}
	defer func() {
		if e := rows.Close(); err == nil {
			err = e
		}
	}()
	row := make([]driver.Value, len(rows.Columns()))
	for {
		switch err := rows.Next(row); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := yield(row); err != nil {
			return err
		}
	}
}

// queryRow returns the first row of a query, or nil if there is none.
func queryRow(conn *sqlite3.SQLiteConn, text string, args ...any) ([]driver.Value, error) {
	var first []driver.Value
	err := query(conn, text, args, func(row []driver.Value) error {
		first = row
		return errStop
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return first, err
}

// errStop ends a query early and never leaves this package.
var errStop = errors.New("stop")

func exec(conn *sqlite3.SQLiteConn, text string, args ...any) error {
	_, err := conn.Exec(text, driverValues(args)) //nolint:staticcheck // see queryStmt
	return err
}

func prepare(conn *sqlite3.SQLiteConn, text string) (*sqlite3.SQLiteStmt, error) {
	stmt, err := conn.Prepare(text)
	if err != nil {
		return nil, err
	}
	s, ok := stmt.(*sqlite3.SQLiteStmt)
	if !ok {
		return nil, fmt.Errorf("prepare returned a %T", stmt)
	}
	return s, nil
}

// statements keeps prepared statements by text; the zero value with a
// connection is ready for use.
type statements struct {
	conn *sqlite3.SQLiteConn
	kept map[string]*sqlite3.SQLiteStmt
}

// statementsMax bounds the statements kept; beyond it all are closed at once.
const statementsMax = 128

func (s *statements) get(text string) (*sqlite3.SQLiteStmt, error) {
	if stmt, ok := s.kept[text]; ok {
		return stmt, nil
	}
	if len(s.kept) >= statementsMax {
		if err := s.close(); err != nil {
			return nil, err
		}
	}
	stmt, err := prepare(s.conn, text)
	if err != nil {
		return nil, &prepareError{err}
	}
	if s.kept == nil {
		s.kept = make(map[string]*sqlite3.SQLiteStmt)
	}
	s.kept[text] = stmt
	return stmt, nil
}

// prepareError tells that SQLite refused a statement's text, not its execution.
type prepareError struct{ err error }

func (e *prepareError) Error() string { return e.err.Error() }
func (e *prepareError) Unwrap() error { return e.err }

// exec runs a kept statement and returns how many rows it changed and the last
// rowid inserted on the connection.
func (s *statements) exec(text string, args ...any) (changed, inserted int64, err error) {
	stmt, err := s.get(text)
	if err != nil {
		return 0, 0, err
	}
	result, err := stmt.Exec(driverValues(args)) //nolint:staticcheck // see queryStmt
	if err != nil {
		return 0, 0, err
	}
	if changed, err = result.RowsAffected(); err == nil {
		inserted, err = result.LastInsertId()
	}
	return changed, inserted, err
}

// row returns the first row of a kept query, or nil if there is none.
func (s *statements) row(text string, args ...any) ([]driver.Value, error) {
	stmt, err := s.get(text)
	if err != nil {
		return nil, err
	}
	var first []driver.Value
	err = queryStmt(stmt, args, func(row []driver.Value) error {
		first = row
		return errStop
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return first, err
}

func (s *statements) close() error {
	var errs []error
	for _, stmt := range s.kept {
		errs = append(errs, stmt.Close())
	}
	s.kept = nil
	return errors.Join(errs...)
}

// sqliteError turns an error of shim's statements into one of go-sqlite3's, with
// SQLite's words.
func sqliteError(err error) error {
	var e *shim.StmtError
	if !errors.As(err, &e) {
		return err
	}
	return fmt.Errorf("%w: %s", sqlite3.Error{Code: sqlite3.ErrNo(e.Code & 0xff), ExtendedCode: sqlite3.ErrNoExtended(e.Code)}, e.Message)
}
