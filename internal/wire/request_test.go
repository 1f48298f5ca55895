package wire

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// checkPipeline reads a request in both ways.
func checkPipeline(t *testing.T, b []byte) {
	t.Helper()
	var slow PipelineRequest
	slowErr := json.Unmarshal(b, &slow)
	got, err := ParsePipeline(b)
	if (err == nil) != (slowErr == nil) {
		t.Fatalf("%s: ParsePipeline: %v; encoding/json: %v", b, err, slowErr)
	}
	if err != nil {
		return
	}
	if len(got.Requests) != len(slow.Requests) {
		t.Fatalf("%s: %d requests, want %d", b, len(got.Requests), len(slow.Requests))
	}
	for i := range slow.Requests {
		if x, y := got.Requests[i].Batch, slow.Requests[i].Batch; x != nil && y != nil && len(x.Steps) == len(y.Steps) {
			for j := range y.Steps { // which may hold NaN
				if !sameValues(x.Steps[j].Stmt.Args, y.Steps[j].Stmt.Args) {
					t.Fatalf("%s: step %d has the arguments %v, want %v", b, j, x.Steps[j].Stmt.Args, y.Steps[j].Stmt.Args)
				}
				x.Steps[j].Stmt.Args, y.Steps[j].Stmt.Args = nil, nil
			}
		}
	}
	if !reflect.DeepEqual(*got, slow) {
		t.Fatalf("%s:\nread as %+v\nwant    %+v", b, got, slow)
	}
}

// pushText is a push of so many rows, as this module or as the official client
// writes it.
func pushText(rows int, official bool) []byte {
	const sql = `INSERT INTO "items"("id","name") VALUES (?,?)`
	if !official {
		b := []byte(`{"baton":null,"requests":[{"type":"batch","batch":{"steps":[`)
		for i := range rows {
			if i > 0 {
				b = append(b, ',')
			}
			b, _ = AppendStep(b, i-1, sql, []any{int64(i), "a pushed item", nil, []byte("x"), 9.5}, false)
		}
		b, _ = AppendStepIf(append(b, ','), Cond{Type: CondAnd, Conds: []Cond{*OK(0), {Type: CondNot, Cond: &Cond{Type: CondIsAutocommit}}}}, "ROLLBACK")
		return append(b, `]}}]}`...)
	}
	var steps []string
	for i := range rows {
		cond := "null"
		if i > 0 {
			cond = fmt.Sprintf(`{"type":"ok","step":%d}`, i-1)
		}
		steps = append(steps, fmt.Sprintf(`{"condition":%s,"stmt":{"sql":"INSERT INTO \"items\" VALUES (?)","sql_id":null,"args":[{"type":"integer","value":"%d"}],"named_args":[],"want_rows":false,"replication_index":null}}`, cond, i))
	}
	return []byte(`{"baton":null,"requests":[{"type":"batch","batch":{"steps":[` + strings.Join(steps, ",") + `],"replication_index":null}}]}`)
}

var pipelineTexts = []string{
	``, `{}`, `null`, `[]`, `{"baton":null}`, `{"baton":"x","requests":[]}`, `{"requests":[]}`, `{"requests":null}`, `{"requests":[{}]}`, `{"requests":[{"type":"close"}]}`,
	`{"requests":[{"type":"batch","batch":null}]}`, `{"requests":[{"type":"batch","batch":{"steps":null}}]}`, `{"requests":[{"type":"batch","batch":{}}]}`,
	`{"requests":[{"type":"batch","batch":{"steps":[{}]}}]}`, `{"requests":[{"type":"batch","batch":{"steps":[{"stmt":{}}]}}]}`, `{"requests":[{"type":"batch","batch":{"steps":[{"stmt":null}]}}]}`,
	`{"requests":[{"type":"execute","stmt":{"sql":"SELECT 1"}}]}`, `{"requests":[{"type":"sequence","sql":"x"}]} `, `{"requests":[],"requests":[]}`, `{"requests":[],}`, `{"requests":[]}x`,
	`{"requests":[{"type":"batch","batch":{"steps":[{"stmt":{"sql":null,"sql_id":3,"args":null,"want_rows":null}}]}}]}`,
	`{"requests":[{"type":"batch","batch":{"steps":[{"stmt":{"sql":"a\"\\\u00e9\ud83d\ude00","args":[{"type":"null"},{"type":"text","value":"\n"}],"want_rows":true}}]}}]}`,
	`{"requests":[{"type":"batch","batch":{"steps":[{"stmt":{"sql":"a\x"}}]}}]}`, "{\"requests\":[{\"type\":\"a\nb\"}]}", "{\"requests\":[{\"type\":\"a\xff\"}]}", `{"requests":[{"type":"unended`,
	`{"requests":[{"type":"batch","batch":{"steps":[{"stmt":{"sql":"x","named_args":[{"name":"a","value":{"type":"null"}}]}}]}}]}`,
	`{"requests":[{"type":"batch","batch":{"steps":[{"stmt":{"SQL":"x"}}]}}]}`, `{"requests":[{"type":"batch","batch":{"steps":[{"stmt":{"sql":"x","other":[1,{"a":2}]}}]}}]}`,
	condText(`{"type":"ok","step":0}`), condText(`{"type":"ok"}`), condText(`{"type":"ok","step":-1}`), condText(`{"type":"ok","step":00}`), condText(`{"type":"ok","step":4294967296}`), condText(`{"type":"ok","step":1.0}`),
	condText(`{"type":"error","step":7,"cond":null}`), condText(`{"type":"not","cond":{"type":"is_autocommit"}}`), condText(`{"type":"not"}`), condText(`{"type":"and","conds":[]}`), condText(`{"type":"or","conds":null}`),
	condText(`{"type":"or","conds":[{"type":"ok","step":1},{"type":"and","conds":[{"type":"error","step":2}]}]}`), condText(`{"type":"odd"}`), condText(`{"type":"is_autocommit","step":3}`), condText(`null`),
	condText(strings.Repeat(`{"type":"not","cond":`, MaxCondDepth-1) + `{"type":"is_autocommit"}` + strings.Repeat(`}`, MaxCondDepth-1)),
	condText(strings.Repeat(`{"type":"not","cond":`, MaxCondDepth) + `{"type":"is_autocommit"}` + strings.Repeat(`}`, MaxCondDepth)),
}

func condText(cond string) string {
	return `{"requests":[{"type":"batch","batch":{"steps":[{"condition":` + cond + `,"stmt":{"sql":"x"}}]}}]}`
}

// TestParsePipeline shows that requests mean the same however they are read.
func TestParsePipeline(t *testing.T) {
	for _, s := range pipelineTexts {
		checkPipeline(t, []byte(s))
	}
	for _, official := range []bool{false, true} {
		b := pushText(50, official)
		checkPipeline(t, b)
		if q := (quick{b: b}); q.pipeline() == nil || q.bad {
			t.Errorf("a push is read slowly: %s", b)
		}
		for i := range b { // cut off anywhere
			if i < 2000 {
				checkPipeline(t, b[:i])
			}
		}
	}
}

func FuzzParsePipeline(f *testing.F) {
	for _, s := range pipelineTexts {
		f.Add([]byte(s))
	}
	f.Add(pushText(2, false))
	f.Add(pushText(2, true))
	f.Fuzz(func(t *testing.T, b []byte) { checkPipeline(t, b) })
}

// BenchmarkParsePipeline reads pushes of 5000 rows: as the official client writes
// them, a statement for each, and in statements of 50.
func BenchmarkParsePipeline(b *testing.B) {
	merged := []byte(`{"baton":null,"requests":[{"type":"batch","batch":{"steps":[`)
	for i := range 100 {
		if i > 0 {
			merged = append(merged, ',')
		}
		var args []any
		for j := range 50 {
			args = append(args, int64(i*50+j), "a pushed item", int64(j), 9.5)
		}
		merged, _ = AppendStep(merged, i-1, "INSERT INTO items VALUES (?,?,?,?)", args, false)
	}
	for name, body := range map[string][]byte{"merged": append(merged, `]}}]}`...), "official": pushText(5000, true)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParsePipeline(body); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/json", func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				var p PipelineRequest
				if err := json.Unmarshal(body, &p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
