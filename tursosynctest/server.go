// Package tursosynctest is for tests what net/http/httptest is for HTTP: a
// remote in one line, that misbehaves on command.
//
//	srv := tursosynctest.NewServer(t)
//	db, err := sql.Open("tursosync", file+"?url="+srv.URL)
//	…
//	srv.Inject(tursosynctest.Faults{CutAfter: 10, Only: tursosynctest.Pushes})
package tursosynctest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tursosync/tursosync/internal/wire"
	"github.com/tursosync/tursosync/server"
)

// Config says what NewServerConfig starts. The zero value is what NewServer
// takes.
type Config struct {
	// File is the database; empty means a new one in a temporary folder.
	File string
	// Token, if not empty, is the only one that the server takes.
	Token string
	// Server is passed on, File and Authorize apart.
	Server server.Config
}

// Server is a remote on loopback. Its methods may be called concurrently.
type Server struct {
	URL  string // http://127.0.0.1:port
	File string // the database

	t    testing.TB
	cfg  Config
	addr string

	mu     sync.Mutex // guards what follows
	faults Faults
	hits   int // requests that the present faults hit
	counts Counts
	token  string
	back   *server.Server // nil while stopped
	front  *http.Server
	served chan struct{}         // closed when front has ended
	conns  map[net.Conn]struct{} // open connections
}

// Counts says how many requests arrived, those that faults hit included.
type Counts struct {
	Pulls, Pipelines int
}

// NewServer starts a server with an empty database. When the test ends, the
// database is checked and the server stopped.
func NewServer(t testing.TB) *Server {
	t.Helper()
	return NewServerConfig(t, Config{})
}

// NewServerConfig is NewServer with a choice.
func NewServerConfig(t testing.TB, cfg Config) *Server {
	t.Helper()
	if cfg.File == "" {
		cfg.File = filepath.Join(t.TempDir(), "remote.db")
	}
	s := &Server{File: cfg.File, t: t, cfg: cfg, addr: "127.0.0.1:0", token: cfg.Token}
	s.Start()
	t.Cleanup(func() {
		s.mu.Lock()
		running := s.back != nil
		s.mu.Unlock()
		if !running {
			return
		}
		if rows, err := s.TryQuery("PRAGMA integrity_check"); err != nil || len(rows) != 1 || rows[0][0] != "ok" {
			t.Errorf("tursosynctest: integrity_check of the remote = %v, %v", rows, err)
		}
		s.Stop()
	})
	return s
}

// Start starts the server again after Stop, on the same address and data.
func (s *Server) Start() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.back != nil {
		s.t.Fatal("tursosynctest: the server runs already")
	}
	cfg := s.cfg.Server
	cfg.File, cfg.Authorize, cfg.NoSync = s.File, s.authorize, true
	back, err := server.Open(cfg)
	if err != nil {
		s.t.Fatalf("tursosynctest: %v", err)
	}
	l, err := listen(s.addr)
	if err != nil {
		_ = back.Close()
		s.t.Fatalf("tursosynctest: %v", err)
	}
	if s.URL == "" { // the address stays: others may be reading it
		s.addr = l.Addr().String()
		s.URL = "http://" + s.addr
	}
	s.back, s.served, s.conns = back, make(chan struct{}), map[net.Conn]struct{}{}
	s.front = &http.Server{Handler: http.HandlerFunc(s.serve), ConnState: s.track}
	go func(front *http.Server, served chan struct{}) {
		_ = front.Serve(l)
		close(served)
	}(s.front, s.served)
}

// listen takes the address. The port of a server that was stopped may be in use for
// a moment as the near end of somebody's connection.
func listen(addr string) (net.Listener, error) {
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		l, err := net.Listen("tcp", addr)
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(until) {
			return l, err
		}
	}
}

// Stop ends the server at once: connections are cut, new ones are refused. The
// data stay, and clients' revisions are known to the next Start. For a server that
// does not know them, remove File+"-history" in between.
func (s *Server) Stop() {
	s.t.Helper()
	s.mu.Lock()
	back, front, served := s.back, s.front, s.served
	s.back = nil
	s.mu.Unlock()
	if back == nil {
		return
	}
	_ = front.Close()
	<-served
	if err := back.Close(); err != nil {
		s.t.Errorf("tursosynctest: close the remote: %v", err)
	}
}

// Restart is Stop and Start.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.Start()
}

// SetToken changes the token that the server takes; empty: any, or none.
func (s *Server) SetToken(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = token
}

func (s *Server) authorize(_ context.Context, token string) server.Access {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token != "" && token != s.token {
		return server.NoAccess
	}
	return server.ReadWrite
}

// Counts returns how many requests arrived so far.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// Digest moves the remote's WAL into its file and returns the SHA-256 of that:
// the digest of the base of every replica that is up to date.
func (s *Server) Digest() string {
	s.t.Helper()
	d, err := s.running().Digest()
	if err != nil {
		s.t.Fatalf("tursosynctest: digest: %v", err)
	}
	return d
}

func (s *Server) running() *server.Server {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.back == nil {
		s.t.Fatal("tursosynctest: the server is stopped")
	}
	return s.back
}

// Exec runs statements on the remote, whatever faults are injected, and fails
// the test if one fails.
func (s *Server) Exec(sql ...string) {
	s.t.Helper()
	for _, q := range sql {
		s.Query(q)
	}
}

// Query runs one statement on the remote, whatever faults are injected, and
// returns its rows as nil, int64, float64, string and []byte.
func (s *Server) Query(sql string, args ...any) [][]any {
	s.t.Helper()
	rows, err := s.TryQuery(sql, args...)
	if err != nil {
		s.t.Fatalf("tursosynctest: %s: %v", sql, err)
	}
	return rows
}

// TryQuery is Query with an error.
func (s *Server) TryQuery(sql string, args ...any) ([][]any, error) {
	s.t.Helper()
	b, err := wire.AppendStep([]byte(`{"baton":null,"requests":[{"type":"batch","batch":{"steps":[`), -1, sql, args, true)
	if err != nil {
		return nil, err
	}
	back := s.running()
	r := httptest.NewRequest(http.MethodPost, wire.PipelinePath, bytes.NewReader(append(b, `]}}]}`...)))
	s.mu.Lock()
	r.Header.Set("Authorization", "Bearer "+s.token)
	s.mu.Unlock()
	w := httptest.NewRecorder()
	back.ServeHTTP(w, r)
	var p wire.PipelineResponse
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || len(p.Results) != 1 || p.Results[0].Response == nil {
		return nil, fmt.Errorf("status %d: %s", w.Code, w.Body)
	}
	var res wire.BatchResult
	if err := json.Unmarshal(p.Results[0].Response.Result, &res); err != nil {
		return nil, err
	}
	if e := res.StepErrors[0]; e != nil {
		return nil, fmt.Errorf("%s (%s)", e.Message, e.Code)
	}
	rows := make([][]any, len(res.StepResults[0].Rows))
	for i, row := range res.StepResults[0].Rows {
		for _, v := range row {
			rows[i] = append(rows[i], v.V)
		}
	}
	return rows, nil
}
