package tursosync_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync"
)

// The tests in this file and compat_cases_test.go run one body with the driver
// "sqlite3" and with "tursosync", and compare what the body saw, line by line:
// values with their Go types, columns, numbers, errors with their types and codes.

// compatSide opens databases with one of the drivers.
type compatSide struct {
	t      *testing.T
	driver string
	memory bool
	dir    string
	hook   func(*sqlite3.SQLiteConn) error
	lines  []string
}

func (s *compatSide) logf(format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

// open opens a database; options as in a DSN. In memory the pool has one
// connection, since each would have its own database.
func (s *compatSide) open(options string) *sql.DB { return s.openFile("test.db", options) }

func (s *compatSide) openFile(name, options string) *sql.DB {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if s.memory {
		path = ":memory:"
	}
	values, err := url.ParseQuery(options)
	if err != nil {
		s.t.Fatal(err)
	}
	var db *sql.DB
	if s.driver == "sqlite3" {
		if !s.memory {
			values.Set("_journal_mode", "wal") // what tursosync sets by itself
		}
		dsn := path + "?" + values.Encode()
		db = sql.OpenDB(plainConnector{dsn, &sqlite3.SQLiteDriver{ConnectHook: s.hook}})
	} else {
		c, err := tursosync.NewConnector(tursosync.Config{Path: path, Options: values, ConnectHook: s.hook})
		if err != nil {
			s.t.Fatal(err)
		}
		db = sql.OpenDB(c)
	}
	if s.memory {
		db.SetMaxOpenConns(1)
	}
	s.t.Cleanup(func() {
		if err := db.Close(); err != nil {
			s.t.Errorf("close: %v", err)
		}
	})
	return db
}

type plainConnector struct {
	dsn    string
	driver *sqlite3.SQLiteDriver
}

func (c plainConnector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) }
func (c plainConnector) Driver() driver.Driver                        { return c.driver }

// execer and the like are what DB, Tx, Conn and their statements have in common.
type execer interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}

// errorText tells all of an error that a program may look at.
func errorText(err error) string {
	if err == nil {
		return "ok"
	}
	text := fmt.Sprintf("%T %q", err, err)
	var e sqlite3.Error
	if errors.As(err, &e) {
		_, direct := err.(sqlite3.Error)
		text += fmt.Sprintf(" code %d extended %d direct %t", e.Code, e.ExtendedCode, direct)
	}
	return text
}

func (s *compatSide) result(res sql.Result, err error) string {
	if err != nil {
		return errorText(err)
	}
	id, err1 := res.LastInsertId()
	n, err2 := res.RowsAffected()
	return fmt.Sprintf("id %d (%v) rows %d (%v)", id, err1, n, err2)
}

// exec executes and notes the result.
func (s *compatSide) exec(db execer, query string, args ...any) {
	res, err := db.ExecContext(context.Background(), query, args...)
	s.logf("exec %s (%s): %s", query, show(args), s.result(res, err))
}

// must executes, and gives up if it does not work.
func (s *compatSide) must(db execer, query string, args ...any) {
	s.t.Helper()
	if _, err := db.ExecContext(context.Background(), query, args...); err != nil {
		s.t.Fatalf("%s: exec %s: %v", s.driver, query, err)
	}
}

// query notes columns, their types, and all rows.
func (s *compatSide) query(db execer, query string, args ...any) {
	rows, err := db.QueryContext(context.Background(), query, args...)
	s.rows(fmt.Sprintf("query %s (%s)", query, show(args)), rows, err)
}

func (s *compatSide) rows(what string, rows *sql.Rows, err error) {
	if err != nil {
		s.logf("%s: %s", what, errorText(err))
		return
	}
	defer rows.Close()
	columns, err := rows.Columns()
	s.logf("%s: columns %q %v", what, columns, err)
	types, err := rows.ColumnTypes()
	if err != nil {
		s.logf("  column types: %v", err)
	}
	for _, c := range types {
		nullable, ok := c.Nullable()
		length, lok := c.Length()
		precision, scale, pok := c.DecimalSize()
		s.logf("  column %s %q scan %v nullable %t %t length %d %t decimal %d %d %t", c.Name(), c.DatabaseTypeName(), c.ScanType(), nullable, ok, length, lok, precision, scale, pok)
	}
	for rows.Next() {
		values := make([]any, len(columns))
		dest := make([]any, len(columns))
		for i := range values {
			dest[i] = &values[i]
		}
		if err := rows.Scan(dest...); err != nil {
			s.logf("  scan: %v", err)
		}
		s.logf("  row %s", show(values))
	}
	s.logf("  end %s next result set %t close %v", errorText(rows.Err()), rows.NextResultSet(), rows.Close())
}

func show(values []any) string {
	var b strings.Builder
	for i, v := range values {
		if i > 0 {
			b.WriteString(", ")
		}
		switch v := v.(type) {
		case *string:
			fmt.Fprintf(&b, "%T", v)
		case time.Time:
			fmt.Fprintf(&b, "time %s %s", v.Format(time.RFC3339Nano), v.Location())
		case []byte:
			if len(v) > 64 {
				fmt.Fprintf(&b, "%d bytes %x…", len(v), v[:16])
			} else {
				fmt.Fprintf(&b, "blob %x nil %t", v, v == nil)
			}
		case string:
			if len(v) > 200 {
				v = fmt.Sprintf("%d bytes %s…", len(v), v[:16])
			}
			fmt.Fprintf(&b, "string %q", v)
		default:
			fmt.Fprintf(&b, "%T %v", v, v)
		}
	}
	return b.String()
}

// compatCase is one body. A case that needs several connections on one database
// is not run in memory.
type compatCase struct {
	name     string
	fileOnly bool
	body     func(s *compatSide)
}

func TestCompat(t *testing.T) {
	for _, c := range compatCases {
		t.Run(c.name, func(t *testing.T) {
			for _, memory := range []bool{true, false} {
				if memory && c.fileOnly {
					continue
				}
				name := map[bool]string{true: "memory", false: "file"}[memory]
				t.Run(name, func(t *testing.T) { compare(t, c, memory) })
			}
		})
	}
}

func compare(t *testing.T, c compatCase, memory bool) {
	var sides [2]*compatSide
	for i, name := range []string{"sqlite3", "tursosync"} {
		sides[i] = &compatSide{t: t, driver: name, memory: memory, dir: t.TempDir()}
		c.body(sides[i])
	}
	plain, ours := sides[0].lines, sides[1].lines
	for i := range max(len(plain), len(ours)) {
		at := func(lines []string) string {
			if i < len(lines) {
				return strings.ReplaceAll(lines[i], sides[1].dir, sides[0].dir)
			}
			return "(nothing)"
		}
		if at(plain) != at(ours) {
			t.Errorf("line %d\n  sqlite3:   %s\n  tursosync: %s", i, at(plain), at(ours))
		}
	}
	if len(plain) == 0 {
		t.Error("the case saw nothing")
	}
}
