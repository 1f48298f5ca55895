package remote_test

import (
	"bytes"
	"context"
	jsonlib "encoding/json"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/remote"
	"github.com/tursosync/tursosync/internal/wire"
	"github.com/tursosync/tursosync/syncer"
)

// fixedAnswer is a transport on which every request gets the same answer.
type fixedAnswer struct {
	status int
	media  string
	body   []byte
}

func (a fixedAnswer) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
	return &http.Response{StatusCode: a.status, Status: http.StatusText(a.status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {a.media}}, Body: io.NopCloser(bytes.NewReader(a.body)), ContentLength: -1, Request: r}, nil
}

func fuzzRemote(t *testing.T, a fixedAnswer) *remote.Remote {
	r, err := remote.New(remote.Config{URL: "http://remote.test", Transport: a})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// strictSink holds a pull to its promises.
type strictSink struct {
	*testing.T
	header *syncer.PullHeader
	pages  page.Set
}

func (s *strictSink) Header(h syncer.PullHeader) error {
	if s.header != nil {
		s.Error("a second header")
	}
	s.header = &h
	return nil
}

func (s *strictSink) Page(no page.No, image []byte) error {
	switch {
	case s.header == nil:
		s.Error("a page before the header")
	case uint64(no) > s.header.PageCount || no == 0:
		s.Errorf("page %d of %d", no, s.header.PageCount)
	case s.pages.Has(no):
		s.Errorf("page %d comes twice", no)
	case len(image) != page.Size:
		s.Errorf("page %d has %d bytes", no, len(image))
	}
	s.pages.Add(no)
	return nil
}

// FuzzPull: whatever a remote answers to a pull, the sink gets a header and then
// pages that belong together, or there is an error that says what kind it is. The
// bytes are an answer; behind edits they make one, frame by frame.
func FuzzPull(f *testing.F) {
	h := wire.PullHeader{Revision: "r", PageCount: 9, Raw: true}
	f.Add(uint16(200), []byte{}, h.Append(nil), []byte{1, 2, 3})
	f.Add(uint16(200), []byte{}, h.Append(nil), []byte{1, 1})
	f.Add(uint16(200), []byte{}, h.Append(nil), []byte{250, 0x80})
	f.Add(uint16(200), wire.AppendFrame(nil, h.Append(nil)), []byte{}, []byte{})
	f.Add(uint16(500), []byte(`{"error":"x"}`), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, status uint16, body, header, edits []byte) {
		if len(edits) > 30 {
			return
		}
		if len(header) > 0 {
			body = append(wire.AppendFrame(nil, header), body...)
		}
		image := make([]byte, page.Size)
		copy(image, "SQLite format 3\x00\x10\x00\x02\x02\x00\x40\x20\x20")
		for _, e := range edits {
			n := page.Size - max(int(e)-247, 0) // the last values: too short
			body = wire.AppendPageFrame(body, uint64(e&0x7f), image[:n])
			if e == 0x80 {
				body = append(body, 0xff)
			}
		}
		sink := &strictSink{T: t}
		err := fuzzRemote(t, fixedAnswer{int(status)%500 + 100, wire.ProtobufMedia, body}).Fetch(context.Background(), syncer.PullRequest{}, sink)
		var e *remote.Error
		if err != nil && !errors.As(err, &e) {
			t.Errorf("error %v is no *remote.Error", err)
		}
		if err == nil && sink.header == nil {
			t.Error("success without a header")
		}
	})
}

// FuzzPushAnswer: no answer to a push is taken for success but one that says so for
// every step, and every other has an outcome.
func FuzzPushAnswer(f *testing.F) {
	f.Add(uint16(200), []byte(`{"results":[{"type":"ok","response":{"type":"batch","result":{"step_results":[null,null],"step_errors":[{"message":"m","code":"c"},null]}}}]}`))
	f.Add(uint16(200), []byte(`{"results":[{"type":"error","error":{"message":"m","code":"SQLITE_CONSTRAINT"}}]}`))
	f.Add(uint16(409), []byte(`{"error":"x"}`))
	f.Add(uint16(200), []byte(`{"results":[]}`))
	batch := syncer.Batch{ClientID: "c", Expect: 1, ExpectFound: true, Last: 2, Mutations: []cdc.Mutation{{SQL: "DELETE FROM t", Change: 2}}}
	f.Fuzz(func(t *testing.T, status uint16, body []byte) {
		_, err := fuzzRemote(t, fixedAnswer{int(status)%500 + 100, "application/json", body}).Push(context.Background(), batch)
		var e *remote.Error
		if err != nil {
			if !errors.As(err, &e) && !errors.Is(err, remote.ErrWatermarkMoved) {
				t.Fatalf("error %v is no *remote.Error", err)
			}
			return
		}
		var p wire.PipelineResponse
		if jsonlib.Unmarshal(body, &p) != nil || len(p.Results) == 0 || p.Results[0].Response == nil {
			t.Errorf("success of %s", body)
			return
		}
		var b wire.BatchResult
		if jsonlib.Unmarshal(p.Results[0].Response.Result, &b) != nil || len(b.StepResults) < 4 {
			t.Errorf("success of %s", body)
		}
	})
}
