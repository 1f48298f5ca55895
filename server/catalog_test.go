package server

import (
	"slices"
	"testing"
)

func TestWords(t *testing.T) {
	for sql, want := range map[string][]string{
		"":                                  nil,
		"SELECT a1,$b FROM t":               {"SELECT", "a1", ",", "$b", "FROM", "t"},
		"a-- b\nc":                          {"a", "c"},
		"a/* b */c/* d":                     {"a", "c"},
		`"a ""b" 'c''d' [e f] ` + "`g``h`":  {`a "b`, "c'd", "e f", "g`h"},
		`'open`:                             {"open"},
		"[open":                             {"open"},
		"OR\ufeffREPLACE \ufeffREPLACE":     {"OR\ufeffREPLACE", "REPLACE"},
		"tür.\xff":                          {"tür", ".", "\xff"},
		"'":                                 {""},
		"--":                                nil,
		"INSERT/**/OR/**/REPLACE\tINTO\n\"": {"INSERT", "OR", "REPLACE", "INTO", ""},
	} {
		var got []string
		for _, w := range words(sql) {
			got = append(got, w.text)
		}
		if !slices.Equal(got, want) {
			t.Errorf("words(%q) = %q, want %q", sql, got, want)
		}
	}
}

func TestSaysReplace(t *testing.T) {
	for sql, want := range map[string]bool{
		"REPLACE INTO t VALUES (1)":                     true,
		"insert or/* */RePlAcE into t values (1)":       true,
		"UPDATE OR REPLACE \"t\" SET a = 1":             true,
		"CREATE TABLE t (a UNIQUE ON CONFLICT REPLACE)": true,
		"SELECT replace(a, 'b', 'c') FROM t":            false,
		"SELECT replace /* */ (a, 'b', 'c') FROM t":     false,
		"SELECT 'REPLACE' -- REPLACE\n/* REPLACE */":    false,
		`SELECT "replace" FROM t`:                       false,
		"SELECT replaced FROM t":                        false,
		"INSERT OR \ufeffREPLACE INTO t VALUES (1)":     true,
	} {
		if got := saysReplace(sql); got != want {
			t.Errorf("saysReplace(%q) = %v, want %v", sql, got, want)
		}
	}
}

// FuzzWords shows that every text is cut to its end.
func FuzzWords(f *testing.F) {
	f.Add("INSERT OR REPLACE INTO [t] VALUES ('a''b', x'00') -- c")
	f.Fuzz(func(t *testing.T, sql string) {
		n := 0
		for _, w := range words(sql) {
			n += len(w.text)
		}
		if n > len(sql) {
			t.Errorf("words(%q) hold %d bytes", sql, n)
		}
	})
}
