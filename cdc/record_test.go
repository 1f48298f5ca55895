package cdc_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/mattn/go-sqlite3"
	"github.com/tursosync/tursosync/cdc"
)

var recordCases = map[string][]any{
	"empty":          {},
	"null":           {nil},
	"small integers": {int64(0), int64(1), int64(2), int64(-1), int64(127), int64(128), int64(-128), int64(-129)},
	"integers": {int64(1) << 15, int64(-1)<<15 - 1, int64(1)<<23 - 1, int64(1) << 23, int64(1)<<31 - 1, int64(1) << 31,
		int64(1)<<47 - 1, int64(1) << 47, int64(-1) << 47, int64(math.MaxInt64), int64(math.MinInt64)},
	"floats":  {0.0, math.Copysign(0, -1), 1.0, -1.5, math.Inf(1), math.Inf(-1), math.MaxFloat64, math.SmallestNonzeroFloat64},
	"text":    {"", "a", "naïve", "nul\x00inside", "bad\xff\xfeutf8", strings.Repeat("x", 200)},
	"blobs":   {[]byte{}, []byte{0}, []byte("abc"), bytes.Repeat([]byte{7}, 70_000)},
	"columns": append(make([]any, 130), int64(7), "end"), // header longer than one varint byte can say
}

func TestRecordRoundTrip(t *testing.T) {
	for name, values := range recordCases {
		t.Run(name, func(t *testing.T) {
			got, err := cdc.DecodeRecord(cdc.EncodeRecord(values))
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(values) {
				t.Fatalf("%d values, want %d", len(got), len(values))
			}
			for i := range got {
				if literal(got[i]) != literal(values[i]) || reflect.TypeOf(got[i]) != reflect.TypeOf(values[i]) {
					t.Errorf("value %d = %s, want %s", i, literal(got[i]), literal(values[i]))
				}
			}
		})
	}
}

func TestRecordOfNaNIsNull(t *testing.T) {
	got, err := cdc.DecodeRecord(cdc.EncodeRecord([]any{math.NaN()}))
	if err != nil || got[0] != nil {
		t.Errorf("DecodeRecord = %v, %v, want NULL", got, err)
	}
}

// The records are those that SQLite itself writes: compared with the cell of a
// table in its file.
func TestRecordIsSQLites(t *testing.T) {
	for name, values := range recordCases {
		if len(values) == 0 || name == "blobs" { // a blob of this size spills to overflow pages
			continue
		}
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "r.db")
			conn, err := (&sqlite3.SQLiteDriver{}).Open(file)
			if err != nil {
				t.Fatal(err)
			}
			db := &database{TB: t, SQLiteConn: conn.(*sqlite3.SQLiteConn)}
			columns := make([]string, len(values))
			for i := range columns {
				columns[i] = "c" + string(rune('a'+i%26)) + strings.Repeat("x", i/26)
			}
			db.run("CREATE TABLE r(" + strings.Join(columns, ",") + ")")
			if err := db.try("INSERT INTO r VALUES("+strings.Repeat("?,", len(values)-1)+"?)", values...); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			want := onlyCell(t, file)
			if got := cdc.EncodeRecord(values); !bytes.Equal(got, want) {
				t.Errorf("EncodeRecord = %x, SQLite wrote %x", got, want)
			}
			if got, err := cdc.DecodeRecord(want); err != nil || len(got) != len(values) {
				t.Errorf("DecodeRecord of SQLite's = %v, %v", got, err)
			}
		})
	}
}

// onlyCell returns the payload of the only cell of page 2.
func onlyCell(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	page := b[4096:8192]
	p := page[binary.BigEndian.Uint16(page[8:]):]
	size, n := int(p[0]&0x7f), 1
	if p[0] >= 0x80 {
		size, n = size<<7|int(p[1]), 2
	}
	return p[n+1 : n+1+size] // one byte of rowid
}

func FuzzDecodeRecord(f *testing.F) {
	for _, values := range recordCases {
		f.Add(cdc.EncodeRecord(values))
	}
	f.Add([]byte{2, 10})
	f.Add([]byte{0})
	f.Add([]byte{9, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		values, err := cdc.DecodeRecord(b)
		if err != nil {
			if !errors.Is(err, cdc.ErrBadRecord) {
				t.Errorf("DecodeRecord error %v is no ErrBadRecord", err)
			}
			return
		}
		again, err := cdc.DecodeRecord(cdc.EncodeRecord(values))
		if err != nil {
			t.Fatalf("decode of encoded: %v", err)
		}
		for i := range values {
			if literal(again[i]) != literal(values[i]) {
				t.Errorf("value %d = %s, want %s", i, literal(again[i]), literal(values[i]))
			}
		}
		if _, err := cdc.DecodeSchemaChange(b); err != nil && !errors.Is(err, cdc.ErrBadRecord) {
			t.Errorf("DecodeSchemaChange error %v is no ErrBadRecord", err)
		}
	})
}
