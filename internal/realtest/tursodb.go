package realtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// Tursodb is a running `tursodb FILE --sync-server ADDR`.
//
// It handles one TCP connection at a time and has one SQL connection for all its
// clients (PROTOCOL.md §9.1): a connection that is opened and left silent blocks
// everybody for half a minute.
type Tursodb struct {
	URL  string // http://127.0.0.1:port
	File string // the database

	t       testing.TB
	program string
	addr    string
	flags   []string

	mu    sync.Mutex
	cmd   *exec.Cmd
	stdin io.WriteCloser
	log   bytes.Buffer
	ended chan struct{}
}

// StartTursodb starts tursodb on a new database in a temporary folder, or skips
// the test. Flags are added to the command line, for instance
// "--experimental-without-rowid". It is ended when the test is.
func StartTursodb(t testing.TB, flags ...string) *Tursodb {
	t.Helper()
	return StartTursodbFile(t, filepath.Join(t.TempDir(), "remote.db"), flags...)
}

// StartTursodbFile is StartTursodb for the database in file, which need not
// exist.
func StartTursodbFile(t testing.TB, file string, flags ...string) *Tursodb {
	t.Helper()
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		Missing(t, errors.New("tursodb is packed for linux/amd64 only"))
	}
	program := filepath.Join(Tools(t), "node_modules", "@tursodatabase", "cli-linux-x64-gnu", "tursodb")
	if _, err := os.Stat(program); err != nil {
		Missing(t, fmt.Errorf("tursodb was not installed: %w", err))
	}
	addr, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	s := &Tursodb{URL: "http://" + addr, File: file, t: t, program: program, addr: addr, flags: flags}
	t.Cleanup(s.Stop)
	s.Start()
	return s
}

// freeAddr returns a loopback address on which nobody listens.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

// Start starts it again after Stop, on the same address and file, and waits until
// it answers.
func (s *Tursodb) Start() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		s.t.Fatal("tursodb runs already")
	}
	var err error
	s.cmd, s.stdin, s.ended, err = startTied(&s.log, s.program, append([]string{s.File, "--sync-server", s.addr}, s.flags...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.ready(20 * time.Second); err != nil {
		s.stop()
		s.t.Fatalf("tursodb does not answer: %v\n%s", err, s.log.String())
	}
}

// startTied starts a program that ends with us. Closing stdin kills it; a line with
// the name of a signal sends that.
func startTied(log io.Writer, program string, args ...string) (cmd *exec.Cmd, stdin io.WriteCloser, ended chan struct{}, err error) {
	// The shell outlives us when the test binary dies, finds its input closed, and
	// ends the program: no stray servers.
	cmd = exec.Command("/bin/sh", append([]string{"-c", `"$0" "$@" & p=$!; read -r s; kill -${s:-9} $p; wait $p`, program}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if stdin, err = cmd.StdinPipe(); err != nil {
		return nil, nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, nil, err
	}
	ended = make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	return cmd, stdin, ended, nil
}

// Stop kills it, as a crash would; what it has committed is kept.
func (s *Tursodb) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
}

// Terminate asks it to end (SIGTERM), as an operator would.
func (s *Tursodb) Terminate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		_, _ = io.WriteString(s.stdin, "TERM\n")
	}
	s.stop()
}

func (s *Tursodb) stop() {
	if s.cmd == nil {
		return
	}
	_ = s.stdin.Close()
	<-s.ended
	s.cmd = nil
}

// Restart is Stop and Start.
func (s *Tursodb) Restart() {
	s.t.Helper()
	s.Stop()
	s.Start()
}

// PID returns the id of the process while it runs, for those who look at its
// memory.
func (s *Tursodb) PID() int {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		s.t.Fatal("tursodb does not run")
	}
	shell := s.cmd.Process.Pid
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", shell, shell))
	if err != nil {
		s.t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		s.t.Fatalf("the shell of tursodb has the children %q: %v", b, err)
	}
	return pid
}

// ready asks with whole requests until one is answered.
func (s *Tursodb) ready(within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/v2/pipeline",
			strings.NewReader(`{"baton":null,"requests":[]}`))
		if err != nil {
			return err
		}
		req.Close = true
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}
