package wire

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
)

// sameValues compares with NaN equal to itself.
func sameValues(a, b []Value) bool {
	if len(a) != len(b) || (a == nil) != (b == nil) {
		return false
	}
	for i := range a {
		x, xf := a[i].V.(float64)
		y, yf := b[i].V.(float64)
		if xf && yf && math.Float64bits(x) != math.Float64bits(y) && !(math.IsNaN(x) && math.IsNaN(y)) || xf != yf {
			return false
		}
		if !xf && !reflect.DeepEqual(a[i].V, b[i].V) {
			return false
		}
	}
	return true
}

// checkValues reads a list in both ways.
func checkValues(t *testing.T, b []byte) {
	t.Helper()
	var slow []Value
	slowErr := json.Unmarshal(b, &slow)
	var atOnce Values
	quickErr := json.Unmarshal(b, &atOnce)
	if (slowErr == nil) != (quickErr == nil) || slowErr == nil && !sameValues(slow, atOnce) {
		t.Fatalf("%s: read value by value %v, %v; at once %v, %v", b, slow, slowErr, atOnce, quickErr)
	}
	q := quick{b: b}
	if direct := q.values(); !q.bad && len(q.b) == 0 && (slowErr != nil || !sameValues(slow, direct)) {
		t.Fatalf("%s: taken as %v, but it is %v, %v", b, direct, slow, slowErr)
	}
}

var valueTexts = []string{
	`[]`, `null`, ` [ ] `, `[{"type":"null"}]`, `[{"type":"null"},{"type":"null"}]`, `[{"type":"null"},]`, `[{"type":"null"}`, `[,]`, `{}`, ``,
	`[{"type":"integer","value":"-42"}]`, `[{"type":"integer","value":"9223372036854775808"}]`, `[{"type":"integer","value":42}]`, `[{"type":"integer","value":"+1"}]`,
	`[{"type":"integer","value":""}]`, `[{"type":"integer","value":"1_0"}]`, `[{"type":"integer","value":"1"} ,{"type":"null"}]`,
	`[{"type":"float","value":1.5}]`, `[{"type":"float","value":null}]`, `[{"type":"float","value":-0}]`, `[{"type":"float","value":-0.0}]`, `[{"type":"float","value":1e400}]`,
	`[{"type":"float","value":.5}]`, `[{"type":"float","value":01}]`, `[{"type":"float","value":0x1p3}]`, `[{"type":"float","value":Inf}]`, `[{"type":"float","value":1e-7}]`,
	`[{"type":"float","value":"1"}]`, `[{"type":"float","value": 1 }]`, `[{"type":"float","value":1.}]`, `[{"type":"float","value":1e}]`, `[{"type":"float","value":}]`,
	`[{"type":"text","value":""}]`, `[{"type":"text","value":"a}],{\"b\\\n\u00e9\ud800"}]`, "[{\"type\":\"text\",\"value\":\"\xff\"}]", "[{\"type\":\"text\",\"value\":\"a\nb\"}]",
	`[{"type":"text","value":"},{"}]`, `[{"type":"text","value":"x","value":"y"}]`, `[{"type":"text","value":"x","more":1}]`, `[{"value":"x","type":"text"}]`, `[{"type":"text"}]`,
	`[{"type":"blob","base64":""}]`, `[{"type":"blob","base64":"YQ"}]`, `[{"type":"blob","base64":"YQ=="}]`, `[{"type":"blob","base64":"Y="}]`, `[{"type":"blob","base64":"-_"}]`,
	`[{"type":"blob","base64":"YQ\u003d"}]`, "[{\"type\":\"blob\",\"base64\":\"Y\nQ\"}]", `[{"type":"odd","value":"x"}]`, `[1]`, `[null]`, `[{"type":"null"}]x`,
}

// TestValueLists shows that lists are read as their values are.
func TestValueLists(t *testing.T) {
	for _, s := range valueTexts {
		checkValues(t, []byte(s))
	}
	all := Values{{nil}, {int64(math.MinInt64)}, {math.SmallestNonzeroFloat64}, {"é\"\\\n"}, {"plain"}, {[]byte{}}, {[]byte("abcd")}, {math.NaN()}}
	b, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	var again Values
	if err := json.Unmarshal(b, &again); err != nil || !sameValues(all, again) {
		t.Errorf("round trip of %v: %v, %v", all, again, err)
	}
}

// TestValueListsQuick shows that what this module sends is read the quick way.
func TestValueListsQuick(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	b := []byte{'['}
	for i := range 1000 {
		if i > 0 {
			b = append(b, ',')
		}
		v := []any{nil, rnd.Int64() - 1<<62, math.Float64frombits(rnd.Uint64()>>2) * 1e-30, "plain text é", []byte("bytes"), 0.1 + rnd.Float64()}[i%6]
		var err error
		if b, err = AppendValue(b, v); err != nil {
			t.Fatal(err)
		}
	}
	b = append(b, ']')
	checkValues(t, b)
	if q := (quick{b: b}); len(q.values()) != 1000 || q.bad {
		t.Errorf("%s is read slowly", b)
	}
}

func FuzzValues(f *testing.F) {
	for _, s := range valueTexts {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkValues(t, b) })
}
