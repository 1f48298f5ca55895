package wire

import (
	"math"
	"strconv"
	"sync"
)

// Servers of this protocol read JSON numbers with serde_json, whose default
// parser is fast but not correctly rounded: about one random double in five
// arrives one unit in the last place away from what was sent (seen on tursodb
// 0.7.0 and 0.8.0-pre.4). So AppendFloat looks for digits that mean the same
// double to a correct parser and to that one. Where none exist, about one double
// in a thousand, ExactFloat says so and the caller has to send the number
// another way, for instance as a quotient of two integers.

// pow10 holds the powers of ten that the other parser multiplies with.
var pow10 = sync.OnceValue(func() *[309]float64 {
	var p [309]float64
	for i := range p {
		p[i], _ = strconv.ParseFloat("1e"+strconv.Itoa(i), 64)
	}
	return &p
})

// loose parses digits × 10^exp as serde_json does.
func loose(digits uint64, exp int) float64 {
	f, p := float64(digits), pow10()
	for exp < -308 {
		f, exp = f/1e308, exp+308
	}
	switch {
	case exp > 308:
		return math.Inf(1)
	case exp >= 0:
		return f * p[exp]
	}
	return f / p[-exp]
}

// AppendFloat appends v, which must be finite, as a JSON number.
func AppendFloat(b []byte, v float64) []byte {
	b, _ = appendFloat(b, v)
	return b
}

// ExactFloat tells whether a finite v, sent as JSON, reaches every known server
// unchanged.
func ExactFloat(v float64) bool {
	_, ok := appendFloat(nil, v)
	return ok
}

func appendFloat(b []byte, v float64) ([]byte, bool) {
	if math.Signbit(v) {
		b, v = append(b, '-'), -v
	}
	// Integers need no rounding in either parser.
	if v < 1<<63 && v == math.Trunc(v) {
		b = strconv.AppendUint(b, uint64(v), 10)
		if v == 0 {
			b = append(b, ".0"...) // keeps the sign of a negative zero
		}
		return b, true
	}
	short := strconv.FormatFloat(v, 'e', -1, 64)
	if d, e := split(short); loose(d, e) == v {
		return strconv.AppendFloat(b, v, 'g', -1, 64), true
	}
	if d, e, ok := agree(v); ok {
		b = strconv.AppendUint(b, d, 10)
		b = append(b, 'e')
		return strconv.AppendInt(b, int64(e), 10), true
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64), false
}

// agree searches the neighbourhood of v for digits that both parsers read as v.
func agree(v float64) (digits uint64, exp int, ok bool) {
	// The further digits a text has, the finer it can be placed; the step keeps
	// the search inside the half unit around v that a correct parser allows.
	for n, step := 16, uint64(1); n <= 19; n++ {
		d, e := split(strconv.FormatFloat(v, 'e', n-1, 64))
		for k := uint64(0); k < 40*step; k += step {
			for _, c := range [2]uint64{d + k, d - k} {
				if loose(c, e) == v && correct(c, e) == v {
					return c, e, true
				}
			}
		}
		if n >= 17 {
			step *= 8
		}
	}
	return 0, 0, false
}

// split takes a text of FormatFloat(…, 'e', …) apart.
func split(s string) (digits uint64, exp int) {
	fraction, seen := 0, false
	for i := range len(s) {
		switch c := s[i]; c {
		case '.':
			seen = true
		case 'e':
			exp, _ = strconv.Atoi(s[i+1:])
			return digits, exp - fraction
		default:
			digits = digits*10 + uint64(c-'0')
			if seen {
				fraction++
			}
		}
	}
	return digits, -fraction
}

func correct(digits uint64, exp int) float64 {
	var a [32]byte
	b := strconv.AppendUint(a[:0], digits, 10)
	b = strconv.AppendInt(append(b, 'e'), int64(exp), 10)
	f, _ := strconv.ParseFloat(string(b), 64)
	return f
}
