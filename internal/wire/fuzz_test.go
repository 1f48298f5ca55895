package wire

import (
	"bytes"
	"encoding/json"
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

func FuzzPipelineRequest(f *testing.F) {
	f.Add([]byte(`{"baton":null,"requests":[{"type":"batch","batch":{"steps":[{"condition":{"type":"ok","step":0},"stmt":{"sql":"x","args":[{"type":"blob","base64":"YQ"},{"type":"float","value":0.1}],"named_args":[{"name":"a","value":{"type":"null"}}],"want_rows":false}}]}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p PipelineRequest
		if json.Unmarshal(b, &p) != nil {
			return
		}
		out, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var again PipelineRequest
		if err := json.Unmarshal(out, &again); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
	})
}

func FuzzPipelineResponse(f *testing.F) {
	f.Add([]byte(`{"baton":null,"base_url":null,"results":[{"type":"ok","response":{"type":"batch","result":{"step_results":[null],"step_errors":[{"message":"m","code":"c"}]}}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p PipelineResponse
		if json.Unmarshal(b, &p) != nil {
			return
		}
		for _, r := range p.Results {
			if r.Response != nil {
				var batch BatchResult
				_ = json.Unmarshal(r.Response.Result, &batch)
				var stmt StmtResult
				_ = json.Unmarshal(r.Response.Result, &stmt)
			}
		}
	})
}
