package cdc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Row images are SQLite records (https://sqlite.org/fileformat2.html#record_format):
//
//	header  varint  size of the header in bytes, itself included
//	        varint  serial type of column 0
//	        …
//	body    value of column 0, value of column 1, …
//
//	serial type   bytes        value
//	0             0            NULL
//	1 2 3 4 5 6   1 2 3 4 6 8  integer, big-endian two's complement
//	7             8            IEEE 754 double, big-endian
//	8 9           0            the integers 0 and 1
//	10 11         –            reserved: an error
//	12 + 2n       n            BLOB
//	13 + 2n       n            TEXT

// ErrBadRecord is the reason for every record that DecodeRecord refuses.
var ErrBadRecord = errors.New("malformed record")

// EncodeRecord returns the values as a record. Values are nil, int64, float64,
// string (TEXT, any bytes) and []byte (BLOB; nil is NULL). A NaN becomes NULL,
// as in SQLite. It panics on any other type, which no SQLite column holds.
func EncodeRecord(values []any) []byte { return AppendRecord(nil, values) }

// AppendRecord appends the record of values to dst.
func AppendRecord(dst []byte, values []any) []byte {
	types, body := 0, 0
	for _, v := range values {
		t := serialType(v)
		types += varintLen(t)
		body += serialLen(t)
	}
	header := types + 1
	// The header's size counts its own varint, which grows with it.
	for varintLen(uint64(header)) != header-types {
		header = types + varintLen(uint64(header))
	}
	if need := len(dst) + header + body; cap(dst) < need {
		grown := make([]byte, len(dst), need)
		copy(grown, dst)
		dst = grown
	}
	dst = appendVarint(dst, uint64(header))
	for _, v := range values {
		dst = appendVarint(dst, serialType(v))
	}
	for _, v := range values {
		dst = appendValue(dst, v)
	}
	return dst
}

// DecodeRecord returns the values of a record, typed as for EncodeRecord. It
// never panics; every flaw is an error that wraps ErrBadRecord. The values do
// not share memory with b.
func DecodeRecord(b []byte) ([]any, error) {
	types, body, err := splitRecord(b)
	if err != nil {
		return nil, err
	}
	values := make([]any, 0, len(types))
	for len(types) > 0 {
		t, n := readVarint(types)
		if n == 0 {
			return nil, fmt.Errorf("%w: serial type cut off", ErrBadRecord)
		}
		types = types[n:]
		size := serialLen(t)
		if size < 0 || size > len(body) {
			return nil, fmt.Errorf("%w: serial type %d, %d bytes left", ErrBadRecord, t, len(body))
		}
		values = append(values, decodeValue(t, body[:size]))
		body = body[size:]
	}
	if len(body) > 0 {
		return nil, fmt.Errorf("%w: %d bytes behind the last value", ErrBadRecord, len(body))
	}
	return values, nil
}

// splitRecord returns the serial types and the body.
func splitRecord(b []byte) (types, body []byte, err error) {
	size, n := readVarint(b)
	if n == 0 || size < uint64(n) || size > uint64(len(b)) {
		return nil, nil, fmt.Errorf("%w: header of %d bytes in %d", ErrBadRecord, size, len(b))
	}
	return b[n:size], b[size:], nil
}

func serialType(v any) uint64 {
	switch v := v.(type) {
	case nil:
		return 0
	case int64:
		return serialTypeOfInt(v)
	case float64:
		if math.IsNaN(v) {
			return 0
		}
		return 7
	case string:
		return 13 + 2*uint64(len(v))
	case []byte:
		if v == nil {
			return 0
		}
		return 12 + 2*uint64(len(v))
	}
	panic(fmt.Sprintf("cdc: a record cannot hold a %T", v))
}

func serialTypeOfInt(v int64) uint64 {
	switch {
	case v == 0:
		return 8
	case v == 1:
		return 9
	case v >= -1<<7 && v < 1<<7:
		return 1
	case v >= -1<<15 && v < 1<<15:
		return 2
	case v >= -1<<23 && v < 1<<23:
		return 3
	case v >= -1<<31 && v < 1<<31:
		return 4
	case v >= -1<<47 && v < 1<<47:
		return 5
	}
	return 6
}

// serialLen returns the body bytes of a serial type, -1 if it is none or longer
// than any value can be.
func serialLen(t uint64) int {
	switch {
	case t < 8:
		return int([8]uint8{0, 1, 2, 3, 4, 6, 8, 8}[t])
	case t < 10:
		return 0
	case t < 12:
		return -1
	}
	n := (t - 12) / 2
	if n > math.MaxInt32 {
		return -1
	}
	return int(n)
}

func appendValue(dst []byte, v any) []byte {
	switch v := v.(type) {
	case int64:
		n := serialLen(serialTypeOfInt(v))
		for i := n - 1; i >= 0; i-- {
			dst = append(dst, byte(v>>(8*i)))
		}
	case float64:
		if !math.IsNaN(v) {
			dst = binary.BigEndian.AppendUint64(dst, math.Float64bits(v))
		}
	case string:
		dst = append(dst, v...)
	case []byte:
		dst = append(dst, v...)
	}
	return dst
}

func decodeValue(t uint64, b []byte) any {
	switch {
	case t == 0:
		return nil
	case t == 7:
		f := math.Float64frombits(binary.BigEndian.Uint64(b))
		if math.IsNaN(f) {
			return nil // as SQLite reads it
		}
		return f
	case t == 8:
		return int64(0)
	case t == 9:
		return int64(1)
	case t < 7:
		v := int64(int8(b[0]))
		for _, c := range b[1:] {
			v = v<<8 | int64(c)
		}
		return v
	case t%2 == 0:
		return append([]byte{}, b...)
	}
	return string(b)
}

// SQLite's varints are big-endian groups of seven bits, at most nine bytes, the
// ninth of which holds eight bits.

func varintLen(v uint64) int {
	n := 1
	for v >>= 7; v != 0 && n < 9; v >>= 7 {
		n++
	}
	return n
}

func appendVarint(dst []byte, v uint64) []byte {
	if v>>56 != 0 {
		for i := range 8 {
			dst = append(dst, byte(v>>(57-7*i))|0x80)
		}
		return append(dst, byte(v))
	}
	for i := varintLen(v) - 1; i > 0; i-- {
		dst = append(dst, byte(v>>(7*i))|0x80)
	}
	return append(dst, byte(v)&0x7f)
}

// readVarint returns the value and its length, 0 if b ends too soon.
func readVarint(b []byte) (v uint64, n int) {
	for i := range min(len(b), 8) {
		v = v<<7 | uint64(b[i]&0x7f)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	if len(b) < 9 {
		return 0, 0
	}
	return v<<8 | uint64(b[8]), 9
}
