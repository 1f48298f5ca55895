package cdc_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/wire"
)

// Random databases. For any two of them, Diff gives changes that turn the one
// into the other, whether they are replayed or executed as mutations, collapsed
// or not, after a trip through the log. A failure prints the seed; repeat it with
//
//	CDC_SEED=… go test ./cdc -run TestRandom
func seed(t *testing.T) uint64 {
	s := rand.Uint64()
	if text := os.Getenv("CDC_SEED"); text != "" {
		var err error
		if s, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("CDC_SEED=%d", s)
		}
	})
	return s
}

// tables are the kinds of tables that identity depends on.
var tables = []string{
	`CREATE TABLE bag(a, b TEXT, c INTEGER)`,
	`CREATE TABLE shy(rowid, _rowid_, a)`,
	`CREATE TABLE ints(id INTEGER PRIMARY KEY, a, b REAL)`,
	`CREATE TABLE auto(a, id INTEGER PRIMARY KEY AUTOINCREMENT, b NUMERIC)`,
	`CREATE TABLE descending(id INTEGER PRIMARY KEY DESC, a)`,
	`CREATE TABLE words(w TEXT PRIMARY KEY, a, b)`,
	`CREATE TABLE nocase(w TEXT COLLATE NOCASE PRIMARY KEY, a)`,
	`CREATE TABLE pairs(a, x, b, PRIMARY KEY(b, a))`,
	`CREATE TABLE "od""d na'me"("a ""b" INTEGER, [select] TEXT PRIMARY KEY, "c,d")`,
	`CREATE TABLE bare(k TEXT PRIMARY KEY, v) WITHOUT ROWID`,
	`CREATE TABLE bare2(a INT, b TEXT, v, PRIMARY KEY(b DESC, a)) WITHOUT ROWID`,
	`CREATE TABLE strict(id INTEGER PRIMARY KEY, t TEXT, x ANY) STRICT`,
	`CREATE TABLE gen(id INTEGER PRIMARY KEY, a, v AS (a || 'v'), b, s AS (id * 2) STORED)`,
	`CREATE TABLE keyonly(k PRIMARY KEY)`,
	`CREATE TABLE uniq(id INTEGER PRIMARY KEY, u TEXT UNIQUE, v)`,
	`CREATE TABLE baguniq(u TEXT UNIQUE, v INT)`,
}

type random struct {
	*rand.Rand
	text []string // special texts; nil: all kinds
	json bool     // only numbers that a remote reads from JSON as they are
}

func (r random) value() any {
	switch r.IntN(14) {
	case 0:
		return nil
	case 1:
		f := r.Float64()
		for r.json && !wire.ExactFloat(f) {
			f = r.Float64()
		}
		return f
	case 2:
		return []any{math.Inf(1), math.Inf(-1), math.Copysign(0, -1), 1.0, 1e300, float64(1 << 60)}[r.IntN(6)]
	case 3:
		return []any{int64(math.MaxInt64), int64(math.MinInt64), int64(0), int64(1)}[r.IntN(4)]
	case 4:
		return []byte(fmt.Sprint("blob", r.IntN(9)))
	case 5:
		return []byte{}
	case 6:
		if r.text != nil {
			return r.text[r.IntN(len(r.text))]
		}
		return []any{"", "a\x00b", "\xff\xfe", "naïve", "A", "a", "a ", "1", "1.0"}[r.IntN(9)]
	case 7, 8:
		return fmt.Sprint("text", r.IntN(30))
	}
	return int64(r.IntN(30))
}

// mutate makes random changes; those that SQLite refuses are part of the fun.
func (r random) mutate(db *database, n int) {
	names := db.query(`SELECT name FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite_%'`)
	if len(names) == 0 {
		return
	}
	for range n {
		name, err := strconv.Unquote(names[r.IntN(len(names))])
		if err != nil {
			db.Fatal(err)
		}
		shape, err := cdc.ReadShape(db.SQLiteConn, name)
		if err != nil {
			db.Fatal(err)
		}
		table := `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
		column := func(i int) string { return `"` + strings.ReplaceAll(shape.Columns[i], `"`, `""`) + `"` }
		var args []any
		switch r.IntN(5) {
		case 0, 1, 2:
			var columns, marks []string
			for i := range shape.Columns {
				columns, marks, args = append(columns, column(i)), append(marks, "?"), append(args, r.value())
			}
			verb := []string{"INSERT", "INSERT", "REPLACE"}[r.IntN(3)]
			_ = db.try(fmt.Sprintf("%s INTO %s(%s) VALUES(%s)", verb, table, strings.Join(columns, ","), strings.Join(marks, ",")), args...)
		case 3:
			i := r.IntN(len(shape.Columns))
			_ = db.try(fmt.Sprintf("UPDATE OR REPLACE %s SET %s = ? WHERE %s", table, column(i), r.where(column)), r.value())
		case 4:
			_ = db.try(fmt.Sprintf("DELETE FROM %s WHERE %s", table, r.where(column)))
		}
	}
}

func (r random) where(column func(int) string) string {
	n := 1 + r.IntN(6)
	return fmt.Sprintf("length(quote(%s)) %% %d = %d", column(0), n, r.IntN(n))
}

func (r random) database(t *testing.T) *database {
	db := open(t)
	for _, i := range r.Perm(len(tables))[:1+r.IntN(4)] {
		db.run(tables[i])
	}
	r.mutate(db, 40)
	return db
}

func TestRandomReplay(t *testing.T) {
	s := seed(t)
	for round := range uint64(60) {
		r := random{Rand: rand.New(rand.NewPCG(s, round))}
		base := r.database(t)
		live := base.clone()
		var txns [][]cdc.Change
		id := cdc.ID(1)
		for range 1 + r.IntN(3) {
			before := live.clone()
			r.mutate(live, 15)
			for _, txn := range diff(t, before, live, id) {
				id += cdc.ID(len(txn))
				txns = append(txns, txn)
			}
		}
		txns = logged(t, txns, 0)

		staged := base.clone()
		for _, out := range staged.replay(txns) {
			if out.Rejected() {
				t.Errorf("round %d: rejected: %v", round, out.Err)
			}
		}
		compare(t, fmt.Sprintf("round %d: replayed", round), staged.dump(true), live.dump(true))

		for name, opts := range map[string]cdc.MutationOptions{
			"collapsed": {}, "one by one": {NoCollapse: true}, "deletes first": {DeletesFirst: true},
			"known remote": {Remote: base.objects(), Local: live.objects()},
		} {
			remote := base.clone()
			if err := remote.push(txns, opts); err != nil {
				if name == "deletes first" || !strings.Contains(err.Error(), "UNIQUE") {
					t.Errorf("round %d: push %s: %v", round, name, err)
				}
				continue // rows swapped unique values, or their order was lost
			}
			compare(t, fmt.Sprintf("round %d: pushed %s", round, name), remote.dump(false), live.dump(false))
		}
	}
}

// diff is the difference of two databases as one transaction.
func diff(t *testing.T, from, to *database, first cdc.ID) [][]cdc.Change {
	t.Helper()
	var txn []cdc.Change
	err := cdc.Diff(t.Context(), from.SQLiteConn, to.SQLiteConn, func(c *cdc.Change) error {
		c.ID, c.Txn = first+cdc.ID(len(txn)), first
		txn = append(txn, *c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if txn == nil {
		return nil
	}
	return [][]cdc.Change{txn}
}

// Any database becomes any other by its difference: adoption is the case of an
// empty one.
func TestRandomDiff(t *testing.T) {
	s := seed(t)
	for round := range uint64(40) {
		r := random{Rand: rand.New(rand.NewPCG(s, round))}
		from, to := r.database(t), r.database(t)
		if round%4 == 0 {
			from = open(t)
		}
		to.run(fmt.Sprintf("PRAGMA user_version=%d", r.IntN(3)))
		if r.IntN(2) == 0 {
			name := to.query(`SELECT name FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite_%' LIMIT 1`)[0]
			name, _ = strconv.Unquote(name)
			name = `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
			to.run("CREATE VIEW v AS SELECT * FROM "+name, "CREATE TRIGGER tr AFTER DELETE ON "+name+" BEGIN SELECT 1; END")
		}
		txns := diff(t, from, to, 1)
		staged := from.clone()
		for _, out := range staged.replay(logged(t, txns, 0)) {
			if out.Rejected() {
				t.Errorf("round %d: rejected: %v", round, out.Err)
			}
		}
		compare(t, fmt.Sprintf("round %d", round), staged.dump(true), to.dump(true))
		for _, txn := range diff(t, staged, to, 1) {
			for _, c := range txn { // rows with a NULL in their key may have moved
				if c.Schema != nil || len(c.Shape.Key) == 0 || c.Shape.RowIDAlias >= 0 {
					t.Errorf("round %d: difference left: %+v", round, c)
				}
			}
		}
		// The order of a difference is not one in which the rows were written: where
		// unique values moved between rows, the syncer's second form is needed.
		opts := cdc.MutationOptions{Remote: from.objects(), Local: to.objects()}
		remote := from.clone()
		err := remote.push(txns, opts)
		if err != nil && strings.Contains(err.Error(), "UNIQUE") {
			opts.DeletesFirst = true
			remote = from.clone()
			err = remote.push(txns, opts)
		}
		if err != nil {
			t.Errorf("round %d: push: %v", round, err)
			continue
		}
		compare(t, fmt.Sprintf("round %d: pushed", round), remote.dump(false), to.dump(false))
	}
}

func compare(t *testing.T, what string, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s: has %s", what, line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s: lacks %s", what, line)
		}
	}
	if !t.Failed() {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// benchmarkTxns is a base with n rows and as many transactions that update one
// each.
func benchmarkTxns(b *testing.B, n int) (*database, [][]cdc.Change) {
	base := open(b, `CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)`, `CREATE INDEX i ON t(a)`,
		fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < %d) INSERT INTO t SELECT i, 'text ' || i, i FROM n`, n))
	shape := &cdc.Shape{Columns: []string{"id", "a", "b"}, Key: []int{0}, RowIDAlias: 0}
	var txns [][]cdc.Change
	for i := range int64(n) {
		before := []any{i + 1, fmt.Sprint("text ", i+1), i + 1}
		after := []any{i + 1, fmt.Sprint("other ", i+1), i + 1}
		txns = append(txns, []cdc.Change{row(cdc.ID(i+1), cdc.ID(i+1), shape, "t", i+1, before, after)})
	}
	return base, txns
}

func BenchmarkReplay(b *testing.B) {
	base, txns := benchmarkTxns(b, 5000)
	for b.Loop() {
		base.run("BEGIN")
		r, err := cdc.NewReplayer(base.SQLiteConn)
		if err != nil {
			b.Fatal(err)
		}
		for _, txn := range txns {
			if out, err := r.Apply(b.Context(), txn); err != nil || out.Rejected() {
				b.Fatal(out, err)
			}
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
		base.run("ROLLBACK")
	}
}

func BenchmarkMutations(b *testing.B) {
	_, txns := benchmarkTxns(b, 5000)
	for b.Loop() {
		if _, err := cdc.Mutations(b.Context(), txns, cdc.MutationOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}
