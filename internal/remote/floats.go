package remote

import (
	"math"
	"strings"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/wire"
)

// exactFloats replaces the arguments that would not survive the remote's JSON
// parser (see wire.ExactFloat) by quotients or products of integers, which do:
// every double is an integer of at most 53 bits times a power of two, and
// multiplying by powers of two is exact. So 0.23839669531694319 becomes
// (?/?) with 1073643268195743 and 4503599627370496.
//
// Only bare question marks can be replaced. Statements with numbered or named
// parameters, which only a transform hook writes, stay as they are.
func exactFloats(m cdc.Mutation) cdc.Mutation {
	inexact := false
	for _, v := range m.Args {
		f, ok := v.(float64)
		inexact = inexact || ok && !math.IsInf(f, 0) && !math.IsNaN(f) && !wire.ExactFloat(f)
	}
	if !inexact {
		return m
	}
	marks, ok := questionMarks(m.SQL)
	if !ok || len(marks) != len(m.Args) {
		return m
	}
	var sql strings.Builder
	args := make([]any, 0, len(m.Args)+2)
	from := 0
	for i, v := range m.Args {
		f, ok := v.(float64)
		if !ok || math.IsInf(f, 0) || math.IsNaN(f) || wire.ExactFloat(f) {
			args = append(args, v)
			continue
		}
		op, factors := factor(f)
		sql.WriteString(m.SQL[from:marks[i]])
		sql.WriteString("(?" + strings.Repeat(op+"?", len(factors)-1) + ")")
		from = marks[i] + 1
		for _, x := range factors {
			args = append(args, x)
		}
	}
	sql.WriteString(m.SQL[from:])
	m.SQL, m.Args = sql.String(), args
	return m
}

// factor takes v apart: the first factor is an integer, the others are powers of
// two up to 2^62, by which it is to be multiplied or divided.
func factor(v float64) (op string, factors []float64) {
	frac, exp := math.Frexp(v)
	m, exp := math.Ldexp(frac, 53), exp-53
	for exp < 0 && m == 2*math.Trunc(m/2) {
		m, exp = m/2, exp+1
	}
	op, left := "*", exp
	if exp < 0 {
		op, left = "/", -exp
	}
	factors = []float64{m}
	for ; left > 0; left -= 62 {
		factors = append(factors, math.Ldexp(1, min(left, 62)))
	}
	return op, factors
}

// questionMarks finds the bare parameters of a statement. It is not ok if there
// are parameters of another form.
func questionMarks(sql string) (at []int, ok bool) {
	for i := 0; i < len(sql); i++ {
		switch c := sql[i]; {
		case c == '\'' || c == '"' || c == '`' || c == '[':
			end := c
			if c == '[' {
				end = ']'
			}
			// A doubled quote inside ends one string and begins the next: the same
			// for our purpose.
			n := strings.IndexByte(sql[i+1:], end)
			if n < 0 {
				return nil, false
			}
			i += n + 1
		case strings.HasPrefix(sql[i:], "--") || strings.HasPrefix(sql[i:], "/*"):
			return nil, false // nobody writes comments into mutations
		case c == '?':
			if i+1 < len(sql) && sql[i+1] >= '0' && sql[i+1] <= '9' {
				return nil, false
			}
			at = append(at, i)
		case c == ':' || c == '@' || c == '$' || c == '#':
			return nil, false
		}
	}
	return at, true
}
