package tursosync_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/tursosynctest"
)

const pullPath = "/pull-updates"

// answer is an HTTP answer as values.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) write(w http.ResponseWriter) {
	for k, v := range a.header {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body)
}

// evil answers a request in the server's place; honest has the server answer it.
type evil func(w http.ResponseWriter, r *http.Request, honest func() answer)

// hostile stands in front of a server, and is honest until told otherwise.
type hostile struct {
	*ownServer
	front *httptest.Server
	now   atomic.Pointer[evil]
	hits  atomic.Int32 // requests that were answered by evil
}

func newHostile(t *testing.T) *hostile {
	h := &hostile{ownServer: &ownServer{tursosynctest.NewServer(t)}}
	h.front = httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(h.front.Close)
	return h
}

func (h *hostile) Address() string { return h.front.URL }

func (h *hostile) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	honest := func() answer {
		a, err := h.forward(r, body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		return a
	}
	if e := h.now.Load(); e != nil {
		h.hits.Add(1)
		r.Body = io.NopCloser(bytes.NewReader(body))
		(*e)(w, r, honest)
		return
	}
	honest().write(w)
}

// forward asks the server, for an answer without compression.
func (h *hostile) forward(r *http.Request, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(r.Context(), r.Method, h.URL+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header = r.Header.Clone()
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	a.body, err = io.ReadAll(resp.Body)
	return a, err
}

// be makes the server evil for some requests, and honest again with nil.
func (h *hostile) be(e evil) {
	h.hits.Store(0)
	if e == nil {
		h.now.Store(nil)
		return
	}
	h.now.Store(&e)
}

// onPull is evil on pulls only, onPush on pushes only.
func onPull(e evil) evil {
	return func(w http.ResponseWriter, r *http.Request, honest func() answer) {
		if r.URL.Path != pullPath {
			honest().write(w)
			return
		}
		e(w, r, honest)
	}
}

func onPush(e evil) evil {
	return func(w http.ResponseWriter, r *http.Request, honest func() answer) {
		if r.URL.Path == pullPath {
			honest().write(w)
			return
		}
		e(w, r, honest)
	}
}

// photo is what must not change when something goes wrong: what the user sees,
// and base.
type photo struct{ content, base string }

func (s *side) photo() photo {
	s.Helper()
	p := photo{content: dump(s.T, s.db)}
	s.want("PRAGMA integrity_check", "ok")
	switch _, err := os.Stat(s.path + "-base"); {
	case err == nil:
		p.base = digest(s.T, s.path+"-base")
	case !errors.Is(err, os.ErrNotExist):
		s.Fatal(err)
	}
	return p
}

// unharmed demands that nothing has changed, that reading and writing works, and
// that no half-done files are left.
func (s *side) unharmed(before photo) {
	s.Helper()
	after := s.photo()
	if after.content != before.content {
		s.Errorf("content changed from\n%s\nto\n%s", before.content, after.content)
	}
	if after.base != before.base {
		s.Errorf("base changed from %s to %s", before.base, after.base)
	}
	for _, suffix := range []string{"-base-next", "-base-wal", "-stage", "-rebuild"} {
		if _, err := os.Stat(s.path + suffix); !errors.Is(err, os.ErrNotExist) {
			s.Errorf("%s is left over: %v", filepath.Base(s.path+suffix), err)
		}
	}
	s.exec(fmt.Sprintf(`INSERT INTO mine VALUES ('w%d')`, time.Now().UnixNano()))
}

// named demands an error that says which replica it is about, and never holds
// the token.
func (s *side) named(err error) {
	s.Helper()
	switch {
	case err == nil:
		s.Error("no error")
	case !strings.Contains(err.Error(), s.path):
		s.Errorf("the error does not name the replica: %v", err)
	case strings.Contains(err.Error(), secret):
		s.Errorf("the error holds the token: %v", err)
	}
}

// secret is the token of replicas that talk to hostile servers.
const secret = "s3cr3t.t0k3n"

// retry lets a halted replica go on, as its owner would.
func (s *side) retry() {
	s.Helper()
	if s.r.Status().State != tursosync.Halted {
		return
	}
	if err := s.r.Retry(s.Context()); err != nil {
		s.Fatalf("retry: %v", err)
	}
}

func (s *side) tryPull() error {
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	return s.r.Pull(ctx)
}

func (s *side) tryPush() error {
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	return s.r.Push(ctx)
}
