package cdc_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/tursosync/tursosync/cdc"
)

// multiTxns is n inserts of rows with two columns, one transaction each.
func multiTxns(n int, value func(i int) any) [][]cdc.Change {
	var txns [][]cdc.Change
	for i := range n {
		id := cdc.ID(i + 1)
		txns = append(txns, []cdc.Change{row(id, id, intShape, "t", int64(i+1), nil, []any{int64(i + 1), value(i)})})
	}
	return txns
}

// rowsOf counts the rows of each mutation's VALUES.
func rowsOf(t *testing.T, txns [][]cdc.Change, opts cdc.MutationOptions) (rows []int, mutations []cdc.Mutation) {
	t.Helper()
	mutations, err := cdc.Mutations(t.Context(), txns, opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutations {
		if got, want := strings.Count(m.SQL, "?"), len(m.Args); got != want {
			t.Errorf("%s: %d question marks for %d arguments", m.SQL, got, want)
		}
		rows = append(rows, strings.Count(m.SQL, "),(")+1)
	}
	return rows, mutations
}

// TestMultiRow shows which rows share a statement.
func TestMultiRow(t *testing.T) {
	text := func(int) any { return "a" }
	update := func(id cdc.ID, key int64, was, is any) []cdc.Change {
		return []cdc.Change{row(id, id, intShape, "t", key, []any{key, was}, []any{key, is})}
	}
	wide := &cdc.Shape{RowIDAlias: -1}
	for i := range 400 {
		wide.Columns = append(wide.Columns, fmt.Sprint("c", i))
	}
	var widely [][]cdc.Change
	for i := range cdc.ID(5) {
		widely = append(widely, []cdc.Change{row(i+1, i+1, wide, "wide", int64(i), nil, make([]any, 400))})
	}
	for name, c := range map[string]struct {
		txns [][]cdc.Change
		opts cdc.MutationOptions
		want []int
	}{
		"one":                {multiTxns(1, text), cdc.MutationOptions{}, []int{1}},
		"two":                {multiTxns(2, text), cdc.MutationOptions{}, []int{2}},
		"as many as may be":  {multiTxns(120, text), cdc.MutationOptions{}, []int{50, 50, 20}},
		"arguments":          {widely, cdc.MutationOptions{}, []int{2, 2, 1}},
		"bytes":              {multiTxns(4, func(int) any { return strings.Repeat("x", 200<<10) }), cdc.MutationOptions{}, []int{2, 2}},
		"a literal":          {multiTxns(5, func(i int) any { return []any{1.5, math.Inf(1), 1.5, 1.5, "a\x00"}[i] }), cdc.MutationOptions{}, []int{1, 1, 2, 1}},
		"not as logged":      {multiTxns(3, text), cdc.MutationOptions{NoCollapse: true}, []int{1, 1, 1}},
		"not deletes first":  {multiTxns(3, text), cdc.MutationOptions{DeletesFirst: true}, []int{1, 1, 1}},
		"updates":            {[][]cdc.Change{update(1, 1, "a", "b"), update(2, 2, "a", nil)}, cdc.MutationOptions{}, []int{2}},
		"insert and update":  {append(multiTxns(1, text), update(2, 2, "a", "b"), update(3, 3, "a", "b")), cdc.MutationOptions{}, []int{1, 2}},
		"a delete between":   {append(multiTxns(1, text), []cdc.Change{row(2, 2, intShape, "t", 9, []any{int64(9), nil}, nil)}, update(3, 3, "a", "b")), cdc.MutationOptions{}, []int{1, 1, 1}},
		"one key twice":      {[][]cdc.Change{{row(1, 1, keyShape, "k", 1, nil, []any{"x", "1"})}, {row(2, 2, keyShape, "k", 2, nil, []any{"X", "2"})}, {row(3, 3, keyShape, "k", 3, nil, []any{"y", "3"})}}, cdc.MutationOptions{}, []int{1, 2}},
		"rows without a key": {[][]cdc.Change{{row(1, 1, bagShape, "b", 1, nil, []any{"x"})}, {row(2, 2, bagShape, "b", 2, nil, []any{"x"})}}, cdc.MutationOptions{}, []int{2}},
		"a table between":    {append(append(multiTxns(2, text), []cdc.Change{row(3, 3, bagShape, "b", 1, nil, []any{"x"})}), update(4, 4, "a", "b")), cdc.MutationOptions{}, []int{2, 1, 1}},
		"a schema change":    {append(append(multiTxns(2, text), []cdc.Change{alter(3, 3, "t", "ALTER TABLE t ADD z")}), update(4, 4, "a", "b"), update(5, 5, "a", "b")), cdc.MutationOptions{}, []int{2, 1, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			got, mutations := rowsOf(t, c.txns, c.opts)
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("rows = %v, want %v", got, c.want)
			}
			// Each statement is named by its first change.
			var changes []cdc.ID
			for _, txn := range c.txns {
				for _, ch := range txn {
					changes = append(changes, ch.ID)
				}
			}
			at := 0
			for i, m := range mutations {
				if m.Change != changes[at] {
					t.Errorf("mutation %d is of change %d, want %d", i, m.Change, changes[at])
				}
				at += got[i]
			}
		})
	}
}

// TestMultiRowEffect: many rows in few statements leave what they leave one by
// one, on tables that have some of the rows already.
func TestMultiRowEffect(t *testing.T) {
	base := open(t, `CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b DEFAULT 'kept')`, `CREATE INDEX i ON t(b, a)`,
		`WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i+2 FROM n WHERE i < 200) INSERT INTO t SELECT i, 'old ' || i, i FROM n`)
	txns := multiTxns(173, func(i int) any { return fmt.Sprint("new ", i) })
	several, alone := base.clone(), base.clone()
	if err := several.push(txns, cdc.MutationOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := alone.push(txns, cdc.MutationOptions{NoCollapse: true}); err != nil {
		t.Fatal(err)
	}
	compare(t, "in several rows", several.dump(true), alone.dump(true))
	if got := several.query(`PRAGMA integrity_check`); got[0] != `"ok"` {
		t.Error(got)
	}
}

// TestProbeSpan: keys without a gap are asked for as a range, others as a list.
func TestProbeSpan(t *testing.T) {
	for name, c := range map[string]struct {
		keys []int64
		want string
		args string
	}{
		"one":          {[]int64{7}, `"id" IN (?)`, "[7]"},
		"in order":     {[]int64{7, 8, 9}, `"id" BETWEEN ? AND ?`, "[7 9]"},
		"any order":    {[]int64{-1, 1, 0}, `"id" BETWEEN ? AND ?`, "[-1 1]"},
		"a gap":        {[]int64{7, 8, 10}, `"id" IN (?,?,?)`, "[7 8 10]"},
		"the extremes": {[]int64{math.MinInt64, math.MaxInt64}, `"id" IN (?,?)`, fmt.Sprint([]int64{math.MinInt64, math.MaxInt64})},
	} {
		t.Run(name, func(t *testing.T) {
			var txn []cdc.Change
			for i, key := range c.keys {
				txn = append(txn, row(cdc.ID(i+1), 1, intShape, "t", key, nil, []any{key, "mine"}))
			}
			probes, err := cdc.Probes([][]cdc.Change{txn})
			if err != nil || len(probes) != 1 {
				t.Fatal(probes, err)
			}
			p := probes[0]
			if want := `SELECT "id","a" FROM "t" WHERE ` + c.want; p.SQL != want || fmt.Sprint(p.Args) != c.args {
				t.Errorf("probe %s %v, want %s %s", p.SQL, p.Args, want, c.args)
			}
			db := open(t, `CREATE TABLE t(id INTEGER PRIMARY KEY, a)`)
			for _, key := range append([]int64{6, 11}, c.keys...) {
				if err := db.try(`INSERT INTO t VALUES (?, 'theirs')`, key); err != nil {
					t.Fatal(err)
				}
			}
			found, err := p.Collisions(db.values(p.SQL, p.Args...))
			if err != nil || len(found) != len(c.keys) {
				t.Errorf("collisions %v, %v, want %d", found, err, len(c.keys))
			}
		})
	}
}
