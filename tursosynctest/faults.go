package tursosynctest

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/tursosync/tursosync/internal/wire"
)

// Faults is what goes wrong with requests. Several faults may be combined; they
// happen in the order of the fields.
type Faults struct {
	// Only chooses the requests that are hit, for instance Pushes; nil means all.
	Only func(*http.Request) bool
	// Times bounds how many requests are hit; 0 means no bound.
	Times int
	// Latency passes before the request is looked at.
	Latency time.Duration
	// Offline closes the connection without a word. The request is not executed.
	Offline bool
	// RefuseToken answers 401, whatever the token.
	RefuseToken bool
	// Status answers with this status and nothing else. The request is not
	// executed.
	Status int
	// RetryAfter is sent with Status.
	RetryAfter string
	// Twice executes the request two times, as when something on the way repeats
	// it; the client gets the second answer.
	Twice bool
	// Cut executes the request and cuts the connection after CutAfter bytes of
	// the answer's body; 0: before its status line.
	Cut      bool
	CutAfter int
}

// Pushes chooses requests to the pipeline: pushes, and reads of the watermark
// and the schema.
func Pushes(r *http.Request) bool { return r.URL.Path != wire.PullPath }

// Pulls chooses requests for pages.
func Pulls(r *http.Request) bool { return r.URL.Path == wire.PullPath }

// Inject makes requests go wrong from now on, instead of what was injected
// before. With Offline, connections that are open are cut too, so that long
// polls end.
func (s *Server) Inject(f Faults) {
	s.mu.Lock()
	s.faults, s.hits = f, 0
	var cut []net.Conn
	if f.Offline && f.Only == nil {
		for c := range s.conns {
			cut = append(cut, c)
		}
	}
	s.mu.Unlock()
	for _, c := range cut {
		_ = c.Close()
	}
}

// Heal ends what was injected.
func (s *Server) Heal() { s.Inject(Faults{}) }

// Hits returns how many requests the present faults have hit.
func (s *Server) Hits() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hits
}

func (s *Server) track(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.conns[c] = struct{}{}
	case http.StateClosed, http.StateHijacked:
		delete(s.conns, c)
	}
}

// hit decides what happens to a request.
func (s *Server) hit(r *http.Request) (Faults, http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if Pulls(r) {
		s.counts.Pulls++
	} else {
		s.counts.Pipelines++
	}
	f := s.faults
	if f.Only != nil && !f.Only(r) || f.Times > 0 && s.hits >= f.Times {
		f = Faults{}
	} else {
		s.hits++
	}
	if s.back == nil {
		return Faults{Offline: true}, nil
	}
	return f, s.back
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	f, back := s.hit(r)
	if f.Latency > 0 {
		select {
		case <-time.After(f.Latency):
		case <-r.Context().Done():
		}
	}
	switch {
	case f.Offline:
		panic(http.ErrAbortHandler)
	case f.RefuseToken:
		http.Error(w, `{"error":"Unauthorized: injected"}`, http.StatusUnauthorized)
		return
	case f.Status != 0:
		if f.RetryAfter != "" {
			w.Header().Set("Retry-After", f.RetryAfter)
		}
		http.Error(w, "injected", f.Status)
		return
	}
	if f.Twice {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		first := r.Clone(r.Context())
		first.Body = io.NopCloser(bytes.NewReader(body))
		back.ServeHTTP(httptest.NewRecorder(), first)
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	if f.Cut {
		w = &cutter{ResponseWriter: w, left: f.CutAfter}
	}
	back.ServeHTTP(w, r)
	if c, ok := w.(*cutter); ok && c.left <= 0 {
		c.cut() // an answer of exactly so many bytes
	}
}

// cutter cuts the connection after some bytes of the body.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *cutter) WriteHeader(status int) {
	if c.left <= 0 {
		c.cut()
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *cutter) Write(b []byte) (int, error) {
	if c.left <= 0 {
		c.cut()
	}
	n, err := c.ResponseWriter.Write(b[:min(len(b), c.left)])
	c.left -= n
	if err == nil && n < len(b) {
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		c.cut()
	}
	return n, err
}

func (c *cutter) cut() { panic(http.ErrAbortHandler) }
