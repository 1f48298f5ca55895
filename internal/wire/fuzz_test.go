package wire

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"testing"
)

func FuzzPullRequest(f *testing.F) {
	f.Add([]byte{0x1a, 1, '5', 0x20, 0xd0, 0x0f, 0x2a, 1, 9, 0x3a, 1, 'q', 0x40, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParsePullRequest(b)
		if err != nil {
			return
		}
		again, err := ParsePullRequest(r.Append(nil))
		if err != nil || !bytes.Equal(again.Append(nil), r.Append(nil)) {
			t.Fatalf("round trip of %+v: %+v, %v", r, again, err)
		}
	})
}

func FuzzPullHeader(f *testing.F) {
	h := PullHeader{Revision: "r", PageCount: 9, Raw: true, Zstd: &Zstd{Level: 1, PagesDict: []uint32{1, 2}}, Mode: 1, Protocol: 1}
	f.Add(h.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParsePullHeader(b)
		if err != nil {
			return
		}
		h.MVCCLog = false // never written
		again, err := ParsePullHeader(h.Append(nil))
		if err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("round trip of %+v: %+v, %v", h, again, err)
		}
	})
}

func FuzzPullStream(f *testing.F) {
	h := PullHeader{Revision: "r", PageCount: 9, Raw: true}
	f.Add(AppendPageFrame(AppendFrame(nil, h.Append(nil)), 3, []byte("page")))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewFrameReader(bytes.NewReader(b))
		for {
			m, err := r.Next(5000)
			if err != nil {
				return
			}
			if p, err := ParsePageData(m); err == nil {
				again, err := ParsePageData(p.Append(nil))
				if err != nil || again.ID != p.ID || !bytes.Equal(again.Image, p.Image) {
					t.Fatalf("round trip of page %d: %v", p.ID, err)
				}
			}
		}
	})
}

// marshalAgain requires that what a message becomes, read and written, is read as the
// same.
func marshalAgain[T any](t *testing.T, p T) {
	t.Helper()
	out, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var again T
	if err := json.Unmarshal(out, &again); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	second, err := json.Marshal(again)
	if err != nil || !bytes.Equal(out, second) {
		t.Fatalf("%s becomes %s, %v", out, second, err)
	}
}

func FuzzPipelineRequest(f *testing.F) {
	f.Add([]byte(`{"baton":null,"requests":[{"type":"batch","batch":{"steps":[{"condition":{"type":"ok","step":0},"stmt":{"sql":"x","args":[{"type":"blob","base64":"YQ"},{"type":"float","value":0.1}],"named_args":[{"name":"a","value":{"type":"null"}}],"want_rows":false}}]}}]}`))
	f.Add([]byte(`{"baton":"b","requests":[{"type":"sequence","sql":"a;b"},{"type":"describe","sql_id":1},{"type":"store_sql","sql_id":1,"sql":"x"},{"type":"close_sql","sql_id":1},{"type":"get_autocommit"},{"type":"close"}]}`))
	f.Add([]byte(`{"requests":[{"type":"batch","batch":{"steps":[{"condition":{"type":"and","conds":[{"type":"not","cond":{"type":"is_autocommit"}},{"type":"or","conds":[]}]},"stmt":{"sql":"x"}}]}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p PipelineRequest
		if json.Unmarshal(b, &p) == nil {
			marshalAgain(t, p)
		}
	})
}

func FuzzPipelineResponse(f *testing.F) {
	f.Add([]byte(`{"baton":null,"base_url":null,"results":[{"type":"ok","response":{"type":"batch","result":{"step_results":[null],"step_errors":[{"message":"m","code":"c"}]}}}]}`))
	f.Add([]byte(`{"results":[{"type":"ok","response":{"type":"execute","result":{"cols":[{"name":"a","decltype":null}],"rows":[[{"type":"integer","value":"1"}]],"affected_row_count":1,"last_insert_rowid":"7"}}},{"type":"error","error":{"message":"m"}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p PipelineResponse
		if json.Unmarshal(b, &p) != nil {
			return
		}
		marshalAgain(t, p)
		for _, r := range p.Results {
			if r.Response == nil {
				continue
			}
			var batch BatchResult
			if json.Unmarshal(r.Response.Result, &batch) == nil {
				marshalAgain(t, batch)
			}
			var stmt StmtResult
			if json.Unmarshal(r.Response.Result, &stmt) == nil {
				marshalAgain(t, stmt)
			}
		}
	})
}

// FuzzValue: a value that can be written is read as the same, bit for bit, and what is
// read can be written, but for a NaN where it is to be stored.
func FuzzValue(f *testing.F) {
	f.Add(uint8(0), int64(-42), 0.1, "a\x00\"\u2028", []byte{1, 2})
	f.Add(uint8(1), int64(math.MinInt64), math.Inf(1), "\xff", []byte{})
	f.Add(uint8(2), int64(1), math.Copysign(0, -1), "", []byte(nil))
	f.Add(uint8(2), int64(1), 5e-324, "", []byte(nil))
	f.Fuzz(func(t *testing.T, kind uint8, i int64, fl float64, text string, blob []byte) {
		v := []any{i, fl, text, blob, nil}[kind%5]
		b, err := AppendValue(nil, v)
		if err != nil {
			if finite, ok := v.(float64); ok && !math.IsNaN(finite) && !math.IsInf(finite, 0) {
				t.Errorf("%v: %v", v, err)
			}
			return
		}
		var got Value
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		same := reflect.DeepEqual(got.V, v)
		switch v := v.(type) {
		case float64:
			read, ok := got.V.(float64)
			same = ok && math.Float64bits(read) == math.Float64bits(v)
		case []byte:
			read, ok := got.V.([]byte)
			same = ok && bytes.Equal(read, v)
		}
		if !same {
			t.Errorf("%#v travels as %s and is read as %#v", v, b, got.V)
		}
	})
}
