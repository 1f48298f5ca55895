package remote

import (
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/testseed"
	"github.com/tursosync/tursosync/internal/wire"
)

// TestFactor shows that the factors of any double are exact themselves and give
// it back.
func TestFactor(t *testing.T) {
	seed := testseed.New(t)
	r := rand.New(rand.NewPCG(seed, 0))
	values := []float64{5e-324, -5e-324, math.MaxFloat64, 1, 0.1, 1 << 53, math.Ldexp(1, -1022), math.Ldexp(1, 1023)}
	for range 20_000 {
		v := math.Float64frombits(r.Uint64())
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			values = append(values, v, v*1e-300)
		}
	}
	for _, v := range values {
		op, f := factor(v)
		got := f[0]
		for _, x := range f[1:] {
			if op == "*" {
				got *= x
			} else {
				got /= x
			}
		}
		if got != v {
			t.Fatalf("factor(%v) = %s %v, which is %v", v, op, f, got)
		}
		for _, x := range f {
			if !wire.ExactFloat(x) {
				t.Fatalf("factor(%v) = %s %v, of which %v is not exact", v, op, f, x)
			}
		}
	}
}

func TestExactFloats(t *testing.T) {
	const bad = 0.23839669531694319 // has no text that both parsers read alike
	if wire.ExactFloat(bad) {
		t.Fatal("the number of this test is exact")
	}
	for _, c := range []struct {
		sql  string
		args []any
		want string
		n    int
	}{
		{`INSERT INTO "t?" VALUES (?,?)`, []any{"x", bad}, `INSERT INTO "t?" VALUES (?,(?/?))`, 3},
		{`UPDATE t SET a=? WHERE b IS ? AND c='it''s ?'`, []any{bad, bad}, `UPDATE t SET a=(?/?) WHERE b IS (?/?) AND c='it''s ?'`, 4},
		{`INSERT INTO t VALUES (?,?)`, []any{1.5, int64(3)}, `INSERT INTO t VALUES (?,?)`, 2},
		{`INSERT INTO t VALUES (?1)`, []any{bad}, `INSERT INTO t VALUES (?1)`, 1},
		{`INSERT INTO t VALUES (:a)`, []any{bad}, `INSERT INTO t VALUES (:a)`, 1},
		{`INSERT INTO t VALUES (?) -- ?`, []any{bad}, `INSERT INTO t VALUES (?) -- ?`, 1},
		{`INSERT INTO [a?]("b?", ` + "`c?`" + `) VALUES (?)`, []any{bad}, `INSERT INTO [a?]("b?", ` + "`c?`" + `) VALUES ((?/?))`, 2},
		{`INSERT INTO t VALUES ('?`, []any{bad}, `INSERT INTO t VALUES ('?`, 1},
		{`INSERT INTO t VALUES (?)`, []any{bad, bad}, `INSERT INTO t VALUES (?)`, 2},
	} {
		in := cdc.Mutation{SQL: c.sql, Args: c.args, Change: 4}
		kept := append([]any(nil), c.args...)
		got := exactFloats(in)
		if got.SQL != c.want || len(got.Args) != c.n || got.Change != 4 {
			t.Errorf("exactFloats(%s) = %s with %d arguments, want %s with %d", c.sql, got.SQL, len(got.Args), c.want, c.n)
		}
		if !reflect.DeepEqual(in.Args, kept) {
			t.Errorf("exactFloats changed the arguments of the caller")
		}
	}
}
