package server

import (
	"bytes"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/wire"
)

// FuzzPullBody: whatever a client asks for, it gets an answer that a client can read,
// or a refusal that is no failure of the server. Revisions are among what it sends.
func FuzzPullBody(f *testing.F) {
	s := openServer(f, Config{})
	exec(f, s, seedTable...)
	r := wire.PullRequest{ClientRevision: s.history.revision(1), ServerRevision: "x-1-2"}
	f.Add(r.Append(nil))
	f.Add((&wire.PullRequest{Stream: wire.StreamMVCC}).Append(nil))
	f.Add([]byte{0x1a, 1, '5', 0x20, 0x00, 0x2a, 1, 9})
	f.Fuzz(func(t *testing.T, body []byte) {
		if p, err := wire.ParsePullRequest(body); err == nil && p.LongPollMillis > 0 {
			p.LongPollMillis = 1
			body = p.Append(nil)
		}
		w := do(s, http.MethodPost, wire.PullPath, string(body), "Content-Type", wire.ProtobufMedia)
		if w.Code >= 500 && w.Code != http.StatusNotImplemented {
			t.Fatalf("%d: %s", w.Code, w.Body)
		}
		if w.Code != http.StatusOK {
			return
		}
		frames := wire.NewFrameReader(bytes.NewReader(w.Body.Bytes()))
		m, err := frames.Next(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		h, err := wire.ParsePullHeader(m)
		if err != nil || h.Revision == "" {
			t.Fatalf("header %+v, %v", h, err)
		}
		for {
			m, err := frames.Next(page.Size + 1024)
			if err != nil {
				break // the end; a long poll without news has no pages
			}
			if p, err := wire.ParsePageData(m); err != nil || len(p.Image) != page.Size {
				t.Fatalf("page of %d bytes, %v", len(p.Image), err)
			}
		}
	})
}

// FuzzPipelineBody: whatever a client sends to the pipeline, batons included, it gets
// JSON that is an answer or an error, and the server goes on.
func FuzzPipelineBody(f *testing.F) {
	s := openServer(f, Config{})
	exec(f, s, seedTable...)
	for _, body := range []string{
		`{"baton":null,"requests":[{"type":"execute","stmt":{"sql":"SELECT 1","want_rows":true}},{"type":"close"}]}`,
		`{"baton":"AAAA","requests":[]}`,
		`{"requests":[{"type":"batch","batch":{"steps":[{"stmt":{"sql":"BEGIN"}},{"condition":{"type":"not","cond":{"type":"ok","step":0}},"stmt":{"sql":"ROLLBACK"}}]}},{"type":"close"}]}`,
		`{"requests":[{"type":"sequence","sql":"SELECT 1; SELECT 2"},{"type":"store_sql","sql_id":1,"sql":"SELECT ?"},{"type":"execute","stmt":{"sql_id":1,"args":[{"type":"integer","value":"7"}]}},{"type":"describe","sql_id":1},{"type":"close_sql","sql_id":1},{"type":"get_autocommit"},{"type":"close"}]}`,
	} {
		f.Add(body, true)
	}
	f.Fuzz(func(t *testing.T, body string, third bool) {
		path := "/v2/pipeline"
		if third {
			path = "/v3/pipeline"
		}
		w := do(s, http.MethodPost, path, body, "Content-Type", "application/json")
		if w.Code >= 500 || !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%d: %s", w.Code, w.Body)
		}
		if w.Code != http.StatusOK {
			return
		}
		var p wire.PipelineResponse
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		if p.Baton != nil { // what is left open must not hold up the next one
			w := do(s, http.MethodPost, path, `{"baton":`+jsonOf(*p.Baton)+`,"requests":[{"type":"close"}]}`, "Content-Type", "application/json")
			if w.Code != http.StatusOK {
				t.Fatalf("close: %d: %s", w.Code, w.Body)
			}
		}
	})
}

func jsonOf(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}
