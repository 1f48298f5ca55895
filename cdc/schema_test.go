package cdc_test

import (
	"os"
	"strings"
	"testing"

	"github.com/tursosync/tursosync/cdc"
)

// definitions returns the statements of testdata/definitions.sql: everything
// that a schema may hold, in forms that tursodb renders otherwise.
func definitions(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("testdata/definitions.sql")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n--\n")
}

func TestSameDefinition(t *testing.T) {
	for name, c := range map[string]struct {
		a, b string
		want bool
	}{
		"space":               {"CREATE TABLE t(a,b)", "create  table t ( a , b\n) ;", true},
		"comments":            {"CREATE TABLE t(a,b)", "CREATE TABLE t(a, -- the a\n/* the b */ b)", true},
		"quotes":              {"CREATE TABLE t(a,b)", `CREATE TABLE "t"([a],` + "`b`)", true},
		"if not exists":       {"CREATE TABLE t(a)", "CREATE TABLE IF NOT EXISTS main.t(a)", true},
		"case":                {"CREATE TABLE t(a TEXT)", "CREATE TABLE T(A text)", true},
		"operators":           {"CREATE VIEW v AS SELECT 1 WHERE 1==1 AND 1<>2", "CREATE VIEW v AS SELECT 1 WHERE 1 = 1 AND 1 != 2", true},
		"outer join":          {"CREATE VIEW v AS SELECT 1 FROM a LEFT JOIN b", "CREATE VIEW v AS SELECT 1 FROM a LEFT OUTER JOIN b", true},
		"key order":           {"CREATE TABLE t(a,b,PRIMARY KEY(a,b DESC))", "CREATE TABLE t(a,b, PRIMARY KEY (a, b))", true},
		"other type":          {"CREATE TABLE t(a INT)", "CREATE TABLE t(a INTEGER)", false},
		"other column":        {"CREATE TABLE t(a,b)", "CREATE TABLE t(a,c)", false},
		"other order":         {"CREATE TABLE t(a,b)", "CREATE TABLE t(b,a)", false},
		"more columns":        {"CREATE TABLE t(a)", "CREATE TABLE t(a,b)", false},
		"other default":       {"CREATE TABLE t(a DEFAULT 'x')", "CREATE TABLE t(a DEFAULT 'X')", false},
		"string not name":     {"CREATE TABLE t(a DEFAULT 'x')", `CREATE TABLE t(a DEFAULT "x")`, false},
		"without rowid":       {"CREATE TABLE t(a PRIMARY KEY)", "CREATE TABLE t(a PRIMARY KEY) WITHOUT ROWID", false},
		"strict":              {"CREATE TABLE t(a INT)", "CREATE TABLE t(a INT) STRICT", false},
		"unique index":        {"CREATE INDEX i ON t(a)", "CREATE UNIQUE INDEX i ON t(a)", false},
		"index of two tables": {"CREATE INDEX i ON t(a)", "CREATE INDEX i ON u(a)", false},
		"table and view":      {"CREATE TABLE t(a)", "CREATE VIEW t(a)", false},
		"unfinished":          {"CREATE TABLE t(a, b", "CREATE TABLE t(a, b 'x", false},
		"nothing":             {"", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := cdc.SameDefinition(c.a, c.b); got != c.want {
				t.Errorf("SameDefinition = %v, want %v", got, c.want)
			}
			if got := cdc.SameDefinition(c.b, c.a); got != c.want {
				t.Errorf("SameDefinition swapped = %v, want %v", got, c.want)
			}
		})
	}
}

// Definitions never panic over text, and every one is the same as itself.
func FuzzSameDefinition(f *testing.F) {
	for _, s := range []string{"CREATE TABLE t(a,b)", "CREATE UNIQUE INDEX i ON t(a) WHERE a>'x'", `ALTER TABLE "t" ADD c`, "CREATE TABLE t(a,(", "x'", "[", "1e+", "/*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		if same := cdc.SameDefinition(sql, sql); !same && cdc.SameDefinition(sql, "CREATE TABLE t(a)") {
			t.Errorf("%q is like another, but not like itself", sql)
		}
		c := cdc.Change{ID: 1, Txn: 1, Table: cdc.SchemaTable, Schema: &cdc.SchemaChange{Op: "alter", Kind: "table", Name: "t", Table: "t", SQL: sql}}
		_, _ = cdc.Mutations(t.Context(), [][]cdc.Change{{c}}, cdc.MutationOptions{Remote: []cdc.SchemaObject{{Kind: "table", Name: "t", Table: "t", SQL: sql}}})
	})
}

func TestReadShape(t *testing.T) {
	for name, c := range map[string]struct {
		sql  string
		want string
	}{
		"no key":         {`CREATE TABLE t(a, b)`, `{"columns":["a","b"],"rowid_alias":-1}`},
		"alias":          {`CREATE TABLE t(a, b Integer PRIMARY KEY)`, `{"columns":["a","b"],"key":[1],"rowid_alias":1}`},
		"alias, apart":   {`CREATE TABLE t(a INTEGER, b, PRIMARY KEY(a DESC))`, `{"columns":["a","b"],"key":[0],"rowid_alias":0}`},
		"descending":     {`CREATE TABLE t(a INTEGER PRIMARY KEY DESC, b)`, `{"columns":["a","b"],"key":[0],"rowid_alias":-1}`},
		"int":            {`CREATE TABLE t(a INT PRIMARY KEY)`, `{"columns":["a"],"key":[0],"rowid_alias":-1}`},
		"key order":      {`CREATE TABLE t(a, b, c, PRIMARY KEY(c, a))`, `{"columns":["a","b","c"],"key":[2,0],"rowid_alias":-1}`},
		"without rowid":  {`CREATE TABLE t(a INTEGER PRIMARY KEY, b) WITHOUT ROWID`, `{"columns":["a","b"],"key":[0],"rowid_alias":-1,"without_rowid":true}`},
		"generated":      {`CREATE TABLE t(g AS (1), a, s AS (a) STORED, k PRIMARY KEY)`, `{"columns":["a","k"],"key":[1],"rowid_alias":-1}`},
		"autoincrement":  {`CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT)`, `{"columns":["a"],"key":[0],"rowid_alias":0}`},
		"key and unique": {`CREATE TABLE t(a INTEGER PRIMARY KEY, b UNIQUE)`, `{"columns":["a","b"],"key":[0],"rowid_alias":0}`},
	} {
		t.Run(name, func(t *testing.T) {
			shape, err := cdc.ReadShape(open(t, c.sql).SQLiteConn, "t")
			if err != nil {
				t.Fatal(err)
			}
			if got := shape.JSON(); got != c.want {
				t.Errorf("shape = %s, want %s", got, c.want)
			}
			again, err := cdc.ParseShape(shape.JSON())
			if err != nil || again.ID() != shape.ID() || shape.ID() < 0 {
				t.Errorf("ParseShape = %v, %v", again, err)
			}
		})
	}
}

func FuzzParseShape(f *testing.F) {
	f.Add(`{"columns":["a","b"],"key":[1],"rowid_alias":1}`)
	f.Add(`{"columns":["a"],"key":[7],"rowid_alias":-2}`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := cdc.ParseShape(text)
		if err != nil {
			return
		}
		if again, err := cdc.ParseShape(s.JSON()); err != nil || again.ID() != s.ID() {
			t.Errorf("ParseShape of its own JSON = %v, %v", again, err)
		}
	})
}
