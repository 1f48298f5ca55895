package shim

import (
	"errors"
	"math"
	"reflect"
	"testing"

	sqlite3 "github.com/mattn/go-sqlite3"
)

// TestStmt shows that values keep their storage class, under a declared type of
// which go-sqlite3 would make a time.
func TestStmt(t *testing.T) {
	conn, err := (&sqlite3.SQLiteDriver{}).Open(":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	db, err := Of(conn.(*sqlite3.SQLiteConn))
	if err != nil {
		t.Fatal(err)
	}
	one := func(sql string) (*Stmt, string) {
		t.Helper()
		s, tail, err := db.Prepare(sql)
		if err != nil {
			t.Fatalf("Prepare(%q): %v", sql, err)
		}
		return s, tail
	}
	s, tail := one("CREATE TABLE t (d DATETIME, b BOOLEAN); SELECT 1")
	if tail != " SELECT 1" {
		t.Errorf("tail = %q", tail)
	}
	if row, err := s.Step(); row || err != nil {
		t.Fatal(row, err)
	}
	s.Close()
	if s, tail := one("  -- nothing\n"); s != nil || tail != "" {
		t.Errorf("comment = %v, %q", s, tail)
	}
	values := []any{nil, int64(math.MinInt64), 2.5, math.Inf(-1), "", "2020-01-01 00:00:00", "a\x00b\xff", []byte{}, []byte{0, 1}}
	s, _ = one("SELECT ?1, d, :n FROM (SELECT ?1 AS d)")
	s.Close()
	for _, v := range values {
		s, _ := one("SELECT ?")
		if err := s.Bind(1, v); err != nil {
			t.Fatal(err)
		}
		if row, err := s.Step(); !row || err != nil {
			t.Fatal(row, err)
		}
		if got := s.Column(0); !reflect.DeepEqual(got, v) {
			t.Errorf("Column = %#v, want %#v", got, v)
		}
		if row, err := s.Step(); row || err != nil {
			t.Fatal(row, err)
		}
		s.Close()
	}
	s, _ = one("INSERT INTO t VALUES ('2020-01-01', 1) RETURNING d, b, d || 'x' AS x")
	if s.ReadOnly() || s.Explain() || s.Columns() != 3 || s.Params() != 0 {
		t.Error("wrong facts about the statement")
	}
	if row, err := s.Step(); !row || err != nil {
		t.Fatal(row, err)
	}
	if s.Column(0) != "2020-01-01" || s.Column(1) != int64(1) {
		t.Errorf("row = %v, %v", s.Column(0), s.Column(1))
	}
	if name, declared, typed := s.ColumnName(1); name != "b" || declared != "BOOLEAN" || !typed {
		t.Errorf("ColumnName = %s, %s, %v", name, declared, typed)
	}
	if name, _, typed := s.ColumnName(2); name != "x" || typed {
		t.Errorf("ColumnName = %s, typed %v", name, typed)
	}
	s.Close()
	if i := db.Info(); !i.Autocommit || i.TotalChanges != 1 || i.LastInsertRowID != 1 {
		t.Errorf("Info = %+v", i)
	}
	s, _ = one("SELECT :a, ?, @b")
	if s.Params() != 3 || s.ParamName(1) != ":a" || s.ParamName(2) != "" || s.ParamName(3) != "@b" {
		t.Errorf("parameters %d: %q %q %q", s.Params(), s.ParamName(1), s.ParamName(2), s.ParamName(3))
	}
	if err := s.Bind(4, nil); err == nil {
		t.Error("Bind of parameter 4 succeeded")
	}
	if err := s.Bind(1, 7); err == nil {
		t.Error("Bind of an int succeeded")
	}
	s.Close()
	for _, sql := range []string{"SELEC", "SELECT * FROM nothing", "SELECT 1\x00"} {
		_, _, err := db.Prepare(sql)
		var e *StmtError
		if !errors.As(err, &e) || e.Message == "" || e.Code != 1 {
			t.Errorf("Prepare(%q) = %#v", sql, err)
		}
	}
	for range 2 {
		s, _ = one("CREATE UNIQUE INDEX IF NOT EXISTS i ON t(b)")
		_, err = s.Step()
		s.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	s, _ = one("INSERT INTO t(b) VALUES (1)")
	_, err = s.Step()
	s.Close()
	var e *StmtError
	if !errors.As(err, &e) || e.Code != int(sqlite3.ErrConstraintUnique) || e.Message != "UNIQUE constraint failed: t.b" {
		t.Errorf("Step = %#v", err)
	}
}
