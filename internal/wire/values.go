package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
	"unicode/utf8"
)

// Values is a list of values. A push has thousands of them, so what everybody
// writes, the form that is at Value without spaces, is read without
// encoding/json; and everything else by it.
type Values []Value

// UnmarshalJSON implements json.Unmarshaler.
func (v *Values) UnmarshalJSON(b []byte) error {
	q := quick{b: b}
	if out := q.values(); !q.bad && len(q.b) == 0 {
		*v = out
		return nil
	}
	*v = nil
	return json.Unmarshal(b, (*[]Value)(v))
}

// quickValue reads a value at the beginning of b and returns how long it is. It
// takes nothing that encoding/json would not, nor in another way.
func quickValue(b []byte) (v any, n int, ok bool) {
	const integer, float, text, blob, null = `{"type":"integer","value":"`, `{"type":"float","value":`, `{"type":"text","value":"`,
		`{"type":"blob","base64":"`, `{"type":"null"}`
	is := func(head string) bool { return len(b) > len(head) && string(b[:len(head)]) == head }
	// quoted ends the string that a head has begun, and the object.
	quoted := func(head string) (s []byte, plain bool) {
		s = b[len(head):]
		i := bytes.IndexByte(s, '"')
		if i < 0 || i+1 >= len(s) || s[i+1] != '}' || bytes.IndexByte(s[:i], '\\') >= 0 {
			return nil, false
		}
		n = len(head) + i + 2
		return s[:i], true
	}
	switch {
	case len(b) >= len(null) && string(b[:len(null)]) == null:
		return nil, len(null), true
	case is(integer):
		s, plain := quoted(integer)
		i, err := strconv.ParseInt(string(s), 10, 64)
		return i, n, plain && err == nil
	case is(text):
		s, plain := quoted(text)
		if !plain || !utf8.Valid(s) {
			return nil, 0, false
		}
		for _, c := range s {
			if c < ' ' {
				return nil, 0, false
			}
		}
		return string(s), n, true
	case is(blob):
		s, plain := quoted(blob)
		if !plain || bytes.IndexByte(s, '\n') >= 0 || bytes.IndexByte(s, '\r') >= 0 {
			return nil, 0, false
		}
		out := make([]byte, base64.RawStdEncoding.DecodedLen(len(s)))
		k, err := base64.RawStdEncoding.Decode(out, bytes.TrimRight(s, "="))
		return out[:k], n, err == nil
	case is(float):
		s := b[len(float):]
		i := bytes.IndexByte(s, '}')
		if i < 0 {
			return nil, 0, false
		}
		n = len(float) + i + 1
		if string(s[:i]) == "null" {
			return math.NaN(), n, true
		}
		if !isNumber(s[:i]) {
			return nil, 0, false
		}
		f, err := strconv.ParseFloat(string(s[:i]), 64)
		return f, n, err == nil
	}
	return nil, 0, false
}

// isNumber tells whether s is a number of JSON (RFC 8259, section 6).
func isNumber(s []byte) bool {
	digits := func() bool {
		n := 0
		for n < len(s) && '0' <= s[n] && s[n] <= '9' {
			n++
		}
		s = s[n:]
		return n > 0
	}
	take := func(chars string) bool {
		if len(s) > 0 && bytes.IndexByte([]byte(chars), s[0]) >= 0 {
			s = s[1:]
			return true
		}
		return false
	}
	take("-")
	if !take("0") && !digits() {
		return false
	}
	if take(".") && !digits() {
		return false
	}
	if take("eE") {
		take("+-")
		if !digits() {
			return false
		}
	}
	return len(s) == 0
}
