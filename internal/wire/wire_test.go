package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"github.com/tursosync/tursosync/internal/testseed"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPullRequestBytes holds requests against bytes captured from the official
// client (PROTOCOL.md §2.3).
func TestPullRequestBytes(t *testing.T) {
	selector := unhex(t, "3b3000000100000900010000000900")
	for name, c := range map[string]struct {
		req  PullRequest
		want string
	}{
		"first":       {PullRequest{}, ""},
		"from 5":      {PullRequest{ClientRevision: "5"}, "1a0135"},
		"long poll":   {PullRequest{ClientRevision: "0", LongPollMillis: 2000}, "1a0130 20d00f"},
		"pages 0..9":  {PullRequest{Selector: selector}, "2a0f 3b3000000100000900010000000900"},
		"pinned":      {PullRequest{ServerRevision: "160"}, "1203313630"},
		"logical log": {PullRequest{Stream: StreamMVCC}, "4001"},
	} {
		t.Run(name, func(t *testing.T) {
			want := unhex(t, c.want)
			if got := c.req.Append(nil); !bytes.Equal(got, want) {
				t.Errorf("Append = %x, want %x", got, want)
			}
			back, err := ParsePullRequest(want)
			if err != nil {
				t.Fatal(err)
			}
			if got := back.Append(nil); !bytes.Equal(got, want) {
				t.Errorf("round trip = %x, want %x", got, want)
			}
		})
	}
}

// TestPullAnswerBytes holds answers against bytes captured from tursodb
// 0.8.0-pre.4 and 0.7.0 (PROTOCOL.md §2.3).
func TestPullAnswerBytes(t *testing.T) {
	for name, c := range map[string]struct {
		header PullHeader
		want   string
	}{
		"pages":          {PullHeader{Revision: "5", PageCount: 4, Raw: true, Protocol: ProtocolPages}, "09 0a0135 1004 1a00 4001"},
		"nothing new":    {PullHeader{Revision: "4", PageCount: 4, Raw: true, Protocol: ProtocolPages}, "09 0a0134 1004 1a00 4001"},
		"0.7.0":          {PullHeader{Revision: "4", PageCount: 4, Raw: true}, "07 0a0134 1004 1a00"},
		"empty database": {PullHeader{Revision: "0", Raw: true, Protocol: ProtocolPages}, "07 0a0130 1a00 4001"},
	} {
		t.Run(name, func(t *testing.T) {
			want := unhex(t, c.want)
			if got := AppendFrame(nil, c.header.Append(nil)); !bytes.Equal(got, want) {
				t.Errorf("Append = %x, want %x", got, want)
			}
			m, err := NewFrameReader(bytes.NewReader(want)).Next(1 << 10)
			if err != nil {
				t.Fatal(err)
			}
			got, err := ParsePullHeader(m)
			if err != nil || got != c.header {
				t.Errorf("ParsePullHeader = %+v, %v, want %+v", got, err, c.header)
			}
		})
	}

	image := append([]byte("SQLite format 3\x00"), make([]byte, 4080)...)
	for id, prefix := range map[uint64]string{
		0: "8320 128020 53514c697465",
		1: "8520 0801 128020",
		2: "8520 0802 128020",
	} {
		b := AppendPageFrame(nil, id, image)
		if want := unhex(t, prefix); !bytes.HasPrefix(b, want) {
			t.Errorf("page %d starts with %x, want %x", id, b[:16], want)
		}
		m, err := NewFrameReader(bytes.NewReader(b)).Next(5000)
		if err != nil {
			t.Fatal(err)
		}
		p, err := ParsePageData(m)
		if err != nil || p.ID != id || !bytes.Equal(p.Image, image) {
			t.Errorf("ParsePageData = page %d, %v, want %d", p.ID, err, id)
		}
	}
}

func TestHeaderZstdAndUnknownFields(t *testing.T) {
	h := PullHeader{Revision: "r", PageCount: 1, Zstd: &Zstd{Level: -3, PagesDict: []uint32{7, 300}}, Stream: 1, Mode: 1, Protocol: 2}
	b := h.Append(nil)
	b = append(b, unhex(t, "3a021001 7a0161 8501 01020304 8101 0102030405060708")...) // mvcc_log and three unknown fields
	got, err := ParsePullHeader(b)
	h.MVCCLog = true
	if err != nil || !reflect.DeepEqual(got, h) {
		t.Errorf("ParsePullHeader = %+v, %v, want %+v", got, err, h)
	}
}

func TestFrameReaderEnds(t *testing.T) {
	whole := AppendFrame(AppendFrame(nil, []byte("abc")), bytes.Repeat([]byte{1}, 300))
	for cut := range len(whole) + 1 {
		r := NewFrameReader(bytes.NewReader(whole[:cut]))
		var err error
		for err == nil {
			_, err = r.Next(300)
		}
		clean := cut == 0 || cut == 4 || cut == len(whole)
		if want := map[bool]error{true: io.EOF, false: io.ErrUnexpectedEOF}[clean]; err != want {
			t.Errorf("cut at %d: %v, want %v", cut, err, want)
		}
	}
	if _, err := NewFrameReader(bytes.NewReader(whole[4:])).Next(299); !errors.Is(err, ErrTooLong) {
		t.Errorf("Next(299) = %v, want ErrTooLong", err)
	}
	if _, err := NewFrameReader(bytes.NewReader(bytes.Repeat([]byte{0xff}, 20))).Next(10); err == nil || errors.Is(err, ErrTooLong) {
		t.Errorf("endless length = %v", err)
	}
}

func TestValues(t *testing.T) {
	for want, v := range map[string]any{
		`{"type":"null"}`:                                    nil,
		`{"type":"integer","value":"-42"}`:                   int64(-42),
		`{"type":"integer","value":"-9223372036854775808"}`:  int64(math.MinInt64),
		`{"type":"float","value":1.5}`:                       1.5,
		`{"type":"float","value":3}`:                         3.0,
		`{"type":"float","value":-0.0}`:                      math.Copysign(0, -1),
		`{"type":"text","value":"a\"\\\n\u0000é \u001f<&>"}`: "a\"\\\n\x00é \x1f<&>",
		`{"type":"blob","base64":"YWJjZA"}`:                  []byte("abcd"),
		`{"type":"blob","base64":""}`:                        []byte{},
	} {
		b, err := AppendValue(nil, v)
		if err != nil || string(b) != want {
			t.Errorf("AppendValue(%#v) = %s, %v, want %s", v, b, err, want)
		}
		var back Value
		if err := json.Unmarshal([]byte(want), &back); err != nil || !reflect.DeepEqual(back.V, v) {
			t.Errorf("Unmarshal(%s) = %#v, %v, want %#v", want, back.V, err, v)
		}
	}
	for _, v := range []any{math.NaN(), math.Inf(1), "a\xff", 7, true} {
		if b, err := AppendValue(nil, v); !errors.Is(err, ErrNotJSON) {
			t.Errorf("AppendValue(%#v) = %s, %v, want ErrNotJSON", v, b, err)
		}
	}
	for s, ok := range map[string]bool{
		`{"type":"blob","base64":"YWJjZA=="}`:              true,
		`{"type":"blob","base64":"YWI="}`:                  true,
		`{"type":"float","value":null}`:                    true,
		`{"type":"null","extra":[1]}`:                      true,
		`{"type":"integer","value":1}`:                     false,
		`{"type":"integer","value":"9223372036854775808"}`: false,
		`{"type":"text"}`:                                  false,
		`{"type":"text","value":null}`:                     false,
		`{"type":"blob"}`:                                  false,
		`{"type":"blob","base64":"*"}`:                     false,
		`{"type":"decimal","value":"1"}`:                   false,
		`null`:                                             false,
	} {
		var v Value
		if err := json.Unmarshal([]byte(s), &v); (err == nil) != ok {
			t.Errorf("Unmarshal(%s) = %v, want success %v", s, err, ok)
		}
	}
}

// TestFloats shows that what AppendFloat writes is the same double for a correct
// parser and for serde_json's, except where ExactFloat says otherwise.
func TestFloats(t *testing.T) {
	seed := testseed.New(t)
	r := rand.New(rand.NewPCG(seed, 1))
	inexact, total := 0, 20000
	for i := range total {
		v := math.Float64frombits(r.Uint64())
		if i%2 == 0 {
			v = r.Float64() * 100
		}
		if math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		b := AppendFloat(nil, v)
		var back float64
		if err := json.Unmarshal(b, &back); err != nil || back != v {
			t.Fatalf("AppendFloat(%v) = %s, read as %v, %v", v, b, back, err)
		}
		d, e := split(strings.TrimPrefix(expForm(string(b)), "-"))
		if same := loose(d, e) == math.Abs(v); same != ExactFloat(v) {
			t.Fatalf("ExactFloat(%v) = %v, but %s is read as %v", v, ExactFloat(v), b, loose(d, e))
		}
		if !ExactFloat(v) {
			inexact++
		}
	}
	if inexact > total/50 {
		t.Errorf("%d of %d floats have no exact text", inexact, total)
	}
}

func expForm(s string) string {
	if strings.Contains(s, "e") {
		return s
	}
	return s + "e0"
}

func TestCond(t *testing.T) {
	const in = `{"type":"and","conds":[{"type":"ok","step":0},{"type":"not","cond":{"type":"is_autocommit"}},{"type":"or","conds":[]}]}`
	var c Cond
	if err := json.Unmarshal([]byte(in), &c); err != nil {
		t.Fatal(err)
	}
	if out, err := json.Marshal(c); err != nil || string(out) != in {
		t.Errorf("round trip = %s, %v", out, err)
	}
	for _, bad := range []string{`{}`, `{"type":"ok"}`, `{"type":"not"}`, `{"type":"and"}`, `{"type":"xor"}`,
		strings.Repeat(`{"type":"not","cond":`, 100) + `{"type":"is_autocommit"}` + strings.Repeat("}", 100)} {
		if err := json.Unmarshal([]byte(bad), &c); err == nil {
			t.Errorf("Unmarshal(%.40s) succeeded", bad)
		}
	}
	ok := func(n uint32) bool { return n == 0 }
	failed := func(n uint32) bool { return n == 1 }
	open := func() bool { return false }
	for in, want := range map[string]bool{
		`{"type":"ok","step":0}`:                         true,
		`{"type":"ok","step":1}`:                         false,
		`{"type":"error","step":1}`:                      true,
		`{"type":"error","step":2}`:                      false,
		`{"type":"and","conds":[]}`:                      true,
		`{"type":"or","conds":[]}`:                       false,
		`{"type":"not","cond":{"type":"is_autocommit"}}`: true,
		`{"type":"or","conds":[{"type":"ok","step":3},{"type":"ok","step":0}]}`:  true,
		`{"type":"and","conds":[{"type":"ok","step":3},{"type":"ok","step":0}]}`: false,
	} {
		if err := json.Unmarshal([]byte(in), &c); err != nil {
			t.Fatal(err)
		}
		if got := c.Holds(ok, failed, open); got != want {
			t.Errorf("%s holds = %v, want %v", in, got, want)
		}
	}
}

func TestAppendStep(t *testing.T) {
	b, err := AppendStep(nil, 3, `SELECT "x"`, []any{int64(1), nil}, true)
	if err != nil {
		t.Fatal(err)
	}
	var s Step
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	if s.Condition.Step != 3 || *s.Stmt.SQL != `SELECT "x"` || len(s.Stmt.Args) != 2 || !*s.Stmt.WantRows {
		t.Errorf("step = %s", b)
	}
	if _, err := AppendStep(nil, -1, "SELECT '\xff'", nil, false); !errors.Is(err, ErrNotJSON) {
		t.Errorf("SQL that is not UTF-8: %v", err)
	}
}

// TestOfficialResult decodes what tursodb 0.7.0 really sends.
func TestOfficialResult(t *testing.T) {
	const in = `{"baton":null,"base_url":null,"results":[{"type":"ok","response":{"type":"execute","result":{"cols":[{"name":"1.0","decltype":null}],"rows":[[{"type":"float","value":1.0}]],"affected_row_count":0,"last_insert_rowid":null,"replication_index":null,"rows_read":0,"rows_written":0,"query_duration_ms":0.0}}},{"type":"error","error":{"message":"m","code":"EXECUTE_ERROR"}}]}`
	var p PipelineResponse
	if err := json.Unmarshal([]byte(in), &p); err != nil {
		t.Fatal(err)
	}
	var r StmtResult
	if err := json.Unmarshal(p.Results[0].Response.Result, &r); err != nil || r.Rows[0][0].V != 1.0 {
		t.Errorf("result = %+v, %v", r, err)
	}
	if p.Results[1].Error.Code != "EXECUTE_ERROR" {
		t.Errorf("error = %+v", p.Results[1].Error)
	}
	for _, s := range []string{`"7"`, `7`} {
		var id RowID
		if err := json.Unmarshal([]byte(s), &id); err != nil || id != 7 {
			t.Errorf("rowid %s = %d, %v", s, id, err)
		}
	}
}
