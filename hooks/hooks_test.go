package hooks

import (
	"fmt"
	"slices"
	"testing"
)

func TestMayReplace(t *testing.T) {
	tests := []struct {
		sql  string
		want bool
	}{
		{"REPLACE INTO t VALUES (1)", true},
		{"insert or replace into t values (1)", true},
		{"UPDATE OR/**/REPLACE t SET a = 1", true},
		{"CREATE TABLE t(a UNIQUE ON CONFLICT REPLACE)", true},
		{"CREATE TABLE t(a NOT NULL ON CONFLICT\nREPLACE DEFAULT 1)", true},
		{"UPDATE t SET a = replace(a, 'x', 'y')", false},
		{"UPDATE t SET a = REPLACE (a, 'x', 'y')", false},
		{"INSERT INTO t VALUES ('OR REPLACE INTO')", false},
		{`INSERT INTO "replace" VALUES (1) -- or replace x`, false},
		{"INSERT INTO t VALUES (1)", false},
		{"INSERT INTO t VALUES ('unfinished", false},
		{"x/*", false},
	}
	for _, tt := range tests {
		if got := MayReplace(tt.sql); got != tt.want {
			t.Errorf("MayReplace(%q) = %v, want %v", tt.sql, got, tt.want)
		}
	}
}

func TestFiresBeforeUpdate(t *testing.T) {
	tests := []struct {
		sql  string
		want bool
	}{
		{"CREATE TRIGGER x BEFORE UPDATE ON t BEGIN SELECT 1; END", true},
		{"CREATE TRIGGER x UPDATE OF a, b ON t BEGIN SELECT 1; END", true},
		{"CREATE TRIGGER 'after' UPDATE ON t BEGIN SELECT 1; END", true},
		{"CREATE TRIGGER x AFTER UPDATE ON t BEGIN SELECT 1; END", false},
		{"CREATE TRIGGER x INSTEAD OF UPDATE ON t BEGIN SELECT 1; END", false},
		{"CREATE TRIGGER x BEFORE INSERT ON t BEGIN UPDATE t SET a = 1; END", false},
	}
	for _, tt := range tests {
		if got := firesBeforeUpdate(tt.sql); got != tt.want {
			t.Errorf("firesBeforeUpdate(%q) = %v, want %v", tt.sql, got, tt.want)
		}
	}
}

func table(name string, columns ...string) *Table {
	t := &Table{Name: name, Alias: -1, RowID: "rowid", Kind: "table"}
	for i, c := range columns {
		t.All = append(t.All, Column{Name: c})
		t.Stored = append(t.Stored, i)
	}
	return t
}

func TestColumnMap(t *testing.T) {
	tests := []struct {
		name          string
		before, after []string
		want          []int
		added         int
	}{
		{"same", []string{"a", "b"}, []string{"a", "b"}, nil, -1},
		{"renamed", []string{"a", "b"}, []string{"a", "c"}, nil, -1},
		{"added", []string{"a", "b"}, []string{"a", "b", "c"}, []int{0, 1, -6}, 2},
		{"first dropped", []string{"a", "b", "c"}, []string{"b", "c"}, []int{1, 2}, -1},
		{"middle dropped", []string{"a", "b", "c"}, []string{"A", "c"}, []int{0, 2}, -1},
		{"last dropped", []string{"a", "b", "c"}, []string{"a", "b"}, []int{0, 1}, -1},
	}
	for _, tt := range tests {
		m, added := ColumnMap(table("t", tt.before...), table("t", tt.after...), 5)
		if !slices.Equal(m, tt.want) || added != tt.added {
			t.Errorf("%s: ColumnMap() = %v, %d, want %v, %d", tt.name, m, added, tt.want, tt.added)
		}
	}
}

// TestTrace follows the steps of
//
//	ALTER TABLE t ADD COLUMN c      10
//	CREATE TABLE n(…)               11
//	ALTER TABLE t RENAME TO o       12
//	ALTER TABLE n RENAME TO t       13
//	ALTER TABLE o DROP COLUMN a     14
func TestTrace(t *testing.T) {
	committed := table("t", "a", "b")
	var l Lineage
	l.Steps = []Step{
		{ID: 10, Before: "t", After: "t", Map: []int{0, 1, -1}, Old: committed},
		{ID: 11, After: "n"},
		{ID: 12, Before: "t", After: "o", Old: table("t", "a", "b", "c")},
		{ID: 13, Before: "n", After: "t", Old: table("n", "x")},
		{ID: 14, Before: "o", After: "o", Map: []int{1, 2}, Old: table("o", "a", "b", "c")},
	}
	const end = int64(1<<63 - 1)
	check := func(name string, sources, want []Source, old, wantOld *Table, m, wantMap []int) {
		t.Helper()
		if fmt.Sprint(sources) != fmt.Sprint(want) || old != wantOld || !slices.Equal(m, wantMap) {
			t.Errorf("%s: %v %v %v, want %v %v %v", name, sources, old, m, want, wantOld, wantMap)
		}
	}
	sources, old, m := l.Trace(table("o", "b", "c"))
	check("o", sources, []Source{{"o", 14, end, nil}, {"o", 12, 14, []int{1, 2}}, {"t", 10, 12, []int{1, 2}}, {"t", 0, 10, []int{1, -1}}},
		old, committed, m, []int{1, -1})
	sources, old, m = l.Trace(table("t", "x"))
	check("t", sources, []Source{{"t", 13, end, nil}, {"n", 11, 13, nil}}, old, nil, m, nil)
	other := table("other", "x")
	sources, old, m = l.Trace(other)
	check("other", sources, nil, old, other, m, nil)
	l.Cut(11)
	sources, old, m = l.Trace(table("t", "a", "b", "c"))
	check("t again", sources, []Source{{"t", 10, end, nil}, {"t", 0, 10, []int{0, 1, -1}}}, old, committed, m, []int{0, 1, -1})
}

func FuzzWords(f *testing.F) {
	f.Add("SELECT 'a''b', [c], \"d\"\"e\" -- f\n/* g */ x1.5")
	f.Fuzz(func(t *testing.T, sql string) {
		for _, w := range Words(sql) {
			if w == "" {
				t.Error("an empty word")
			}
		}
		MayReplace(sql)
	})
}
