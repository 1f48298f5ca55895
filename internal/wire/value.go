package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Value is a SQLite value on the pipeline: nil, int64, float64, string or
// []byte. In JSON (PROTOCOL.md §3.4):
//
//	{"type":"null"}
//	{"type":"integer","value":"-42"}     a decimal string
//	{"type":"float","value":1.5}         null: not representable, read as NaN
//	{"type":"text","value":"…"}
//	{"type":"blob","base64":"YWJjZA"}    standard alphabet, no padding
//
// A float that is not finite and a text that is not UTF-8 have no JSON; encoding
// them is an error rather than a change of the value. Only a NaN, which SQLite
// never holds and which stands for a float that was lost, is written as null.
type Value struct{ V any }

// ErrNotJSON is the error for a value that JSON cannot carry.
var ErrNotJSON = errors.New("value cannot travel as JSON")

// MarshalJSON implements json.Marshaler.
func (v Value) MarshalJSON() ([]byte, error) {
	if f, ok := v.V.(float64); ok && math.IsNaN(f) {
		return []byte(`{"type":"float","value":null}`), nil
	}
	return AppendValue(nil, v.V)
}

// AppendValue appends the JSON of a value that is to be stored: a NaN is an
// error.
func AppendValue(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(b, `{"type":"null"}`...), nil
	case int64:
		b = append(b, `{"type":"integer","value":"`...)
		b = strconv.AppendInt(b, v, 10)
		return append(b, `"}`...), nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("%w: float %v", ErrNotJSON, v)
		}
		b = append(b, `{"type":"float","value":`...)
		return append(AppendFloat(b, v), '}'), nil
	case string:
		if !utf8.ValidString(v) {
			return nil, fmt.Errorf("%w: text that is not UTF-8", ErrNotJSON)
		}
		b = append(b, `{"type":"text","value":`...)
		return append(appendJSONString(b, v), '}'), nil
	case []byte:
		b = append(b, `{"type":"blob","base64":"`...)
		b = base64.RawStdEncoding.AppendEncode(b, v)
		return append(b, `"}`...), nil
	}
	return nil, fmt.Errorf("%w: Go type %T", ErrNotJSON, v)
}

// appendJSONString appends s, valid UTF-8, as a JSON string.
func appendJSONString(b []byte, s string) []byte {
	const hexDigits = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := range len(s) {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(b, s[start:]...), '"')
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *Value) UnmarshalJSON(b []byte) error {
	var raw struct {
		Type   string          `json:"type"`
		Value  json.RawMessage `json:"value"`
		Base64 *string         `json:"base64"`
	}
	if err := json.Unmarshal(b, &raw); err != nil {
		return err
	}
	var err error
	switch raw.Type {
	case "null":
		v.V = nil
	case "integer":
		var s string
		if err = unmarshalPresent(raw.Value, &s); err == nil {
			v.V, err = strconv.ParseInt(s, 10, 64)
		}
	case "float":
		if bytes.Equal(bytes.TrimSpace(raw.Value), []byte("null")) {
			v.V = math.NaN()
			break
		}
		var f float64
		err = unmarshalPresent(raw.Value, &f)
		v.V = f
	case "text":
		var s string
		err = unmarshalPresent(raw.Value, &s)
		v.V = s
	case "blob":
		if raw.Base64 == nil {
			return errors.New("blob without base64")
		}
		v.V, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(*raw.Base64, "="))
	default:
		return fmt.Errorf("unknown type %q of a value", raw.Type)
	}
	if err != nil {
		return fmt.Errorf("value of type %s: %w", raw.Type, err)
	}
	return nil
}

func unmarshalPresent(raw json.RawMessage, into any) error {
	if len(raw) == 0 || string(raw) == "null" {
		return errors.New("field value is missing")
	}
	return json.Unmarshal(raw, into)
}
