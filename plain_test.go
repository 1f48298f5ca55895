package tursosync

import (
	"strings"
	"testing"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/cdc"
)

func TestCutStatement(t *testing.T) {
	for _, test := range []struct{ text, first, tail string }{
		{"", "", ""},
		{"SELECT 1", "SELECT 1", ""},
		{"SELECT 1;", "SELECT 1;", ""},
		{"SELECT 1; \n", "SELECT 1;", ""},
		{"SELECT ';', \";\", `;`, [;], 'it''s;' /* ; */ -- ;\n; SELECT 2", "SELECT ';', \";\", `;`, [;], 'it''s;' /* ; */ -- ;\n;", "SELECT 2"},
		{";;", ";;", ""},
		{"; ;SELECT 1; ;", "; ;SELECT 1;", ";"},
		{"-- a;b\nx;y", "-- a;b\nx;", "y"},
		{"SELECT 'unterminated; x", "SELECT 'unterminated; x", ""},
		{"SELECT 1\x00; SELECT 2", "SELECT 1", ""},
		{"CREATE TABLE trigger(a); b", "CREATE TABLE trigger(a);", "b"},
		{"CREATE TEMP TRIGGER a BEGIN x; y; END; z", "CREATE TEMP TRIGGER a BEGIN x; y; END;", "z"},
		{"create trigger a begin select case when 1 then 2 end; end ; z", "create trigger a begin select case when 1 then 2 end; end ;", "z"},
		{"EXPLAIN QUERY PLAN CREATE TRIGGER a BEGIN x; END; z", "EXPLAIN QUERY PLAN CREATE TRIGGER a BEGIN x; END;", "z"},
		{"CREATE TRIGGER a BEGIN x; END", "CREATE TRIGGER a BEGIN x; END", ""},
		{"\xef\xbb\xbfSELECT 1; x", "\xef\xbb\xbfSELECT 1;", "x"},
	} {
		first, tail := cutStatement(test.text)
		if first != test.first || tail != test.tail {
			t.Errorf("cutStatement(%q) = %q, %q, want %q, %q", test.text, first, tail, test.first, test.tail)
		}
	}
}

func TestSingleRead(t *testing.T) {
	for text, want := range map[string]bool{
		"SELECT 1": true, " select 1 ;\n": true, "-- name: x\nSELECT 1": true, "/* a; */ VALUES (1)": true, "SELECT 1;;": true,
		"SELECT ';'": false, "SELECT 1; SELECT 2": false, "SELECT 1; -- x": false, "SELECT\x00; DELETE": false, "SELECTED": false,
		"WITH a AS (SELECT 1) SELECT 1": false, "INSERT INTO t SELECT 1": false, "": false, ";SELECT 1": true, "(SELECT 1)": false, "PRAGMA x": false,
	} {
		if got := singleRead(text); got != want {
			t.Errorf("singleRead(%q) = %t, want %t", text, got, want)
		}
	}
}

func TestKindOf(t *testing.T) {
	for text, want := range map[string]cdc.Kind{
		"": cdc.Empty, " ; ": cdc.Empty, "-- x": cdc.Empty, "begin": cdc.Begin, ";; -- x\n begin": cdc.Begin, "/* x */ COMMIT;": cdc.Commit, "end transaction": cdc.Commit, "Rollback": cdc.Rollback,
		"ROLLBACK TRANSACTION": cdc.Rollback, "rollback to x": cdc.RollbackTo, "ROLLBACK /* */ TRANSACTION TO SAVEPOINT x": cdc.RollbackTo, "SAVEPOINT a": cdc.Savepoint,
		"RELEASE a": cdc.Release, "INSERT": cdc.Write, "(": cdc.Write, "'x'": cdc.Write,
	} {
		if got := kindOf(text); got != want {
			t.Errorf("kindOf(%q) = %v, want %v", text, got, want)
		}
	}
}

// FuzzCutStatement shows that the pieces of a text are what SQLite takes for its
// statements: SQLite, reading all that is left, must find the same first statement
// as when it is given our piece alone. sqlite3_sql is not at hand; the parameters
// of a statement, made different in every piece, tell them apart.
func FuzzCutStatement(f *testing.F) {
	for _, s := range []string{"SELECT 1; SELECT ?", "SELECT ';' -- x;\n; /* ; */ SELECT [;], `;`, ?9", "CREATE TRIGGER a BEGIN SELECT 1; END; SELECT ?",
		"EXPLAIN SELECT 1;;SELECT ?", "SELECT 'a''b;'; SELECT \"x\"", "SELECT /*", "SELECT 1 /*;*/;SELECT ?", "SELECT 1;\x00;SELECT ?"} {
		f.Add(s)
	}
	raw, err := (&sqlite3.SQLiteDriver{}).Open(":memory:")
	if err != nil {
		f.Fatal(err)
	}
	conn := raw.(*sqlite3.SQLiteConn)
	f.Cleanup(func() { conn.Close() })
	f.Fuzz(func(t *testing.T, text string) {
		for rest := text; rest != ""; {
			first, tail := cutStatement(rest)
			if !strings.HasPrefix(rest, first) || len(first)+len(tail) > len(rest) || first == "" && tail != "" {
				t.Fatalf("cutStatement(%q) = %q, %q", rest, first, tail)
			}
			whole, wholeErr := parameters(conn, rest)
			alone, aloneErr := parameters(conn, first)
			if whole != alone || (wholeErr == nil) != (aloneErr == nil) {
				t.Fatalf("cutStatement(%q) = %q: %d parameters and %v alone, %d and %v with the rest behind it", rest, first, alone, aloneErr, whole, wholeErr)
			}
			rest = tail
		}
	})
}

func parameters(conn *sqlite3.SQLiteConn, text string) (int, error) {
	st, err := conn.Prepare(text)
	if err != nil {
		return 0, err
	}
	return st.NumInput(), st.Close()
}
