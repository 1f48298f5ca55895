package realtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofrs/flock"
)

// ServeOptions choose how StartServe runs `tursosync serve`.
type ServeOptions struct {
	// TLS has it serve https, with a certificate that Client trusts.
	TLS bool
	// Host addresses the database by host name instead of path. Nobody resolves the
	// name: only Client finds the way.
	Host bool
	// Kill ends it as a crash does (SIGKILL); otherwise it is asked to end (SIGTERM).
	Kill bool
	// Flags are added to the command line.
	Flags []string
}

// Serve is a running `tursosync serve` with one database, app, for the bearers of
// signed tokens.
type Serve struct {
	URL    string       // of the database
	File   string       // the database
	Token  string       // may do everything in it
	Client *http.Client // trusts its certificate, and finds its host name

	t    testing.TB
	o    ServeOptions
	dir  string
	addr string

	mu    sync.Mutex
	cmd   *exec.Cmd
	stdin io.WriteCloser
	log   bytes.Buffer
	ended chan struct{}
}

// tursosync builds the program once per process.
var tursosync = sync.OnceValues(func() (string, error) {
	root, err := repository()
	if err != nil {
		return "", err
	}
	tool, err := exec.LookPath("go")
	if err != nil {
		return "", fmt.Errorf("go is not installed: %w", err)
	}
	dir := filepath.Join(root, ".tools")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	guard := flock.New(filepath.Join(dir, "tursosync.lock"))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if _, err := guard.TryLockContext(ctx, 50*time.Millisecond); err != nil {
		return "", fmt.Errorf("wait for another build: %w", err)
	}
	defer func() { _ = guard.Unlock() }()
	// Another name, then the right one: others may be running the last build.
	program, fresh := filepath.Join(dir, "tursosync"), filepath.Join(dir, "tursosync.new")
	cmd := exec.CommandContext(ctx, tool, "build", "-o", fresh, "./cmd/tursosync")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return program, os.Rename(fresh, program)
})

// StartServe builds and starts the program on a new folder. It is ended when the
// test is.
func StartServe(t testing.TB, o ServeOptions) *Serve {
	t.Helper()
	program, err := tursosync()
	if err != nil {
		t.Fatal(err)
	}
	addr, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	s := &Serve{t: t, o: o, dir: t.TempDir(), addr: addr}
	s.File = filepath.Join(s.dir, "data", "app.db")
	run := func(args ...string) []byte {
		t.Helper()
		out, err := exec.Command(program, args...).Output()
		if err != nil {
			t.Fatalf("tursosync %v: %v", args, err)
		}
		return out
	}
	s.write("server.pub", run("token", "key", filepath.Join(s.dir, "server.key")))
	s.Token = strings.TrimSpace(string(run("token", "create", "-key-file", filepath.Join(s.dir, "server.key"), "-db", "app")))
	if err := os.Mkdir(filepath.Dir(s.File), 0o755); err != nil {
		t.Fatal(err)
	}
	s.Empty()
	transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, s.addr)
	}}
	s.Client = &http.Client{Transport: transport}
	scheme, host, path := "http", s.addr, "/db/app"
	if o.Host {
		_, port, _ := net.SplitHostPort(s.addr)
		host, path = "app.sync.test:"+port, ""
	}
	if o.TLS {
		scheme = "https"
		transport.TLSClientConfig = &tls.Config{RootCAs: s.certificate()}
		transport.ForceAttemptHTTP2 = true
	}
	s.URL = scheme + "://" + host + path
	t.Cleanup(transport.CloseIdleConnections)
	t.Cleanup(s.Stop)
	s.Start()
	return s
}

func (s *Serve) write(name string, b []byte) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), b, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// Empty puts an empty database in the place of what there is. The program must not
// be running.
func (s *Serve) Empty() {
	s.t.Helper()
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(s.File + suffix); err != nil && !os.IsNotExist(err) {
			s.t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.File, nil, 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// certificate makes a certificate for the program, and returns who trusts it.
func (s *Serve) certificate() *x509.CertPool {
	s.t.Helper()
	c, certPEM, keyPEM := Certificate(s.t, 1)
	s.write("cert.pem", certPEM)
	s.write("key.pem", keyPEM)
	pool := x509.NewCertPool()
	pool.AddCert(c)
	return pool
}

// Certificate makes a certificate of its own authority for 127.0.0.1 and *.sync.test,
// good for an hour, and its key.
func Certificate(t testing.TB, serial int64) (c *x509.Certificate, certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c = &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{"*.sync.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})
}

// Start starts it again after Stop, on the same address and data, and waits until
// it answers.
func (s *Serve) Start() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		s.t.Fatal("tursosync serve runs already")
	}
	program, err := tursosync()
	if err != nil {
		s.t.Fatal(err)
	}
	args := []string{"serve", "-addr", s.addr, "-data", filepath.Dir(s.File), "-jwt-key-file", filepath.Join(s.dir, "server.pub"), "-grace", "2s"}
	if s.o.TLS {
		args = append(args, "-tls-cert", filepath.Join(s.dir, "cert.pem"), "-tls-key", filepath.Join(s.dir, "key.pem"))
	}
	s.log.Reset()
	s.cmd, s.stdin, s.ended, err = startTied(&s.log, program, append(args, s.o.Flags...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	begun := time.Now()
	for {
		resp, err := s.Client.Get(s.URL + "/v2")
		if err == nil {
			_ = resp.Body.Close()
			return
		}
		if time.Since(begun) > 20*time.Second {
			s.stop()
			s.t.Fatalf("tursosync serve does not answer: %v\n%s", err, s.log.String())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Stop ends it; connections are cut.
func (s *Serve) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
}

func (s *Serve) stop() {
	if s.cmd == nil {
		return
	}
	if !s.o.Kill {
		_, _ = io.WriteString(s.stdin, "TERM\n")
		kill := time.AfterFunc(20*time.Second, func() { s.t.Error("tursosync serve does not end") })
		<-s.ended
		kill.Stop()
	}
	_ = s.stdin.Close()
	<-s.ended
	s.cmd = nil
}

// SQL is its database for Exec and Query.
func (s *Serve) SQL() SQL { return SQL{URL: s.URL, Token: s.Token, Client: s.Client} }
