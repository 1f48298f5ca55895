package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	tursosync "github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/internal/realtest"
	"github.com/tursosync/tursosync/internal/wire"
)

// console is standard error that tests wait on.
type console struct {
	mu  sync.Mutex
	buf bytes.Buffer
	url chan string
}

var servingURL = regexp.MustCompile(`msg=serving url=(\S+)`)

func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf.Write(b)
	if m := servingURL.FindSubmatch(b); m != nil {
		c.url <- string(m[1])
	}
	return len(b), nil
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}

// run runs a command with an environment.
func run(env map[string]string, args ...string) (stdout, stderr string, status int) {
	var out, errs bytes.Buffer
	a := app{getenv: func(k string) string { return env[k] }, stdout: &out, stderr: &errs}
	status = a.code(a.run(context.Background(), args))
	return out.String(), errs.String(), status
}

// mustRun is run for commands that succeed.
func mustRun(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, status := run(nil, args...)
	if status != 0 {
		t.Fatalf("tursosync %v: status %d: %s", args, status, errs)
	}
	return out
}

// startServe runs serve; stop ends it as a signal does and returns its status.
func startServe(t *testing.T, env map[string]string, args ...string) (url string, log *console, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log = &console{url: make(chan string, 1)}
	a := app{getenv: func(k string) string { return env[k] }, stdout: io.Discard, stderr: log}
	done := make(chan int, 1)
	go func() { done <- a.code(a.run(ctx, append([]string{"serve", "-addr", "127.0.0.1:0"}, args...))) }()
	var once sync.Once
	status := -1
	stop = func() int {
		once.Do(func() {
			cancel()
			status = <-done
		})
		return status
	}
	t.Cleanup(func() { stop() })
	select {
	case url = <-log.url:
	case s := <-done:
		t.Fatalf("serve ended with %d: %s", s, log)
	}
	return url, log, stop
}

// replica opens a replica of a database.
func replica(t *testing.T, url, token string) (*sql.DB, *tursosync.Replica) {
	t.Helper()
	c, err := tursosync.NewConnector(tursosync.Config{Path: filepath.Join(t.TempDir(), "local.db"), URL: url, AuthToken: token, Sync: tursosync.SyncManual})
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	t.Cleanup(func() { _ = db.Close() })
	r, err := tursosync.ReplicaOf(db)
	if err != nil {
		t.Fatal(err)
	}
	return db, r
}

// TestServe goes the way of a new user: serve, create, sync two replicas, back
// up, list, delete, stop.
func TestServe(t *testing.T) {
	dir := t.TempDir()
	data, tokenFile := filepath.Join(dir, "data"), filepath.Join(dir, "admin")
	if err := os.WriteFile(tokenFile, []byte("root-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url, log, stop := startServe(t, map[string]string{"TURSOSYNC_TOKEN": "rw-secret"}, "-data", data, "-admin-token-file", tokenFile)
	admin := []string{"-url", url, "-admin-token-file", tokenFile}
	mustRun(t, append([]string{"db", "create", "shop"}, admin...)...)

	ctx := context.Background()
	a, ra := replica(t, url+"/db/shop", "rw-secret")
	if _, err := a.Exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'from a')"); err != nil {
		t.Fatal(err)
	}
	if err := ra.Push(ctx); err != nil {
		t.Fatal(err)
	}
	b, rb := replica(t, url+"/db/shop", "rw-secret")
	if err := rb.Pull(ctx); err != nil {
		t.Fatal(err)
	}
	var v string
	if err := b.QueryRow("SELECT v FROM t").Scan(&v); err != nil || v != "from a" {
		t.Errorf("replica b holds %q, %v", v, err)
	}
	_, stranger := replica(t, url+"/db/shop", "guess")
	if err := stranger.Pull(ctx); err == nil {
		t.Error("a stranger may pull")
	}

	backup := filepath.Join(dir, "backup.db")
	mustRun(t, append([]string{"db", "backup", "shop", backup}, admin...)...)
	if _, errs, status := run(nil, append([]string{"db", "backup", "shop", backup}, admin...)...); status != 1 || !strings.Contains(errs, "exists") {
		t.Errorf("backup over a file = %d %s", status, errs)
	}
	copied, err := sql.Open("sqlite3", backup)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = copied.Close() }()
	if err := copied.QueryRow("SELECT v FROM t, pragma_integrity_check WHERE integrity_check = 'ok'").Scan(&v); err != nil || v != "from a" {
		t.Errorf("the backup holds %q, %v", v, err)
	}
	if out := mustRun(t, append([]string{"db", "list"}, admin...)...); !regexp.MustCompile(`shop +\d+ +true`).MatchString(out) {
		t.Errorf("list = %s", out)
	}
	if _, errs, status := run(nil, "db", "list", "-data", data); status != 1 || !strings.Contains(errs, "-url") {
		t.Errorf("list of a folder that is served = %d %s", status, errs)
	}
	if _, errs, status := run(nil, "db", "list", "-url", url, "-admin-token", "x"); status != 1 || !strings.Contains(errs, "401") {
		t.Errorf("list with a wrong token = %d %s", status, errs)
	}

	// A long poll does not hold up the end.
	polls := make(chan error, 1)
	go func() { polls <- longPoll(url+"/db/shop", "rw-secret") }()
	waiting := func() bool {
		resp, err := http.Get(url + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		b, err := io.ReadAll(resp.Body)
		return err == nil && strings.Contains(string(b), "\ntursosync_long_polls 1\n")
	}
	for deadline := time.Now().Add(20 * time.Second); !waiting(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no long poll")
		}
	}
	begun := time.Now()
	if status := stop(); status != 0 {
		t.Errorf("serve ended with %d: %s", status, log)
	}
	if d := time.Since(begun); d > 10*time.Second {
		t.Errorf("stopping took %v", d)
	}
	if err := <-polls; err != nil {
		t.Errorf("long poll at the end: %v", err)
	}
	for _, secret := range []string{"rw-secret", "root-secret"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log holds a token: %s", log)
		}
	}

	// Without a server, the same on the folder.
	mustRun(t, "db", "create", "-data", data, "other")
	mustRun(t, "db", "backup", "shop", filepath.Join(dir, "second.db"), "-data", data)
	mustRun(t, "db", "delete", "shop", "-data", data)
	if out := mustRun(t, "db", "list", "-data", data); strings.Contains(out, "shop") || !strings.Contains(out, "other") {
		t.Errorf("list = %s", out)
	}
	if _, errs, status := run(nil, "db", "backup", "shop", filepath.Join(dir, "third.db"), "-data", data); status != 1 || !strings.Contains(errs, "no such database") {
		t.Errorf("backup of nothing = %d %s", status, errs)
	}
	for _, name := range []string{".backup-*", "third.db"} {
		if left, err := filepath.Glob(filepath.Join(dir, name)); err != nil || len(left) != 0 {
			t.Errorf("a backup that failed left %v, %v", left, err)
		}
	}
}

// longPoll pulls everything, and then what is new in the next half minute.
func longPoll(url, token string) error {
	revision := ""
	for range 2 {
		body := (&wire.PullRequest{ClientRevision: revision, LongPollMillis: 30_000}).Append(nil)
		req, err := http.NewRequest("POST", url+"/pull-updates", bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		b, err := wire.NewFrameReader(resp.Body).Next(1 << 16)
		if err != nil {
			return err
		}
		h, err := wire.ParsePullHeader(b)
		if err != nil {
			return err
		}
		revision = h.Revision
		_, err = io.Copy(io.Discard, resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return err
		}
	}
	return nil
}

// certificate writes a certificate for 127.0.0.1.
func certificate(t *testing.T, cert, key string, serial int64) *x509.Certificate {
	t.Helper()
	c, certPEM, keyPEM := realtest.Certificate(t, serial)
	for name, b := range map[string][]byte{cert: certPEM, key: keyPEM} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// TestServeTLS serves with a certificate, and with the next one when its files
// have changed.
func TestServeTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	pool := x509.NewCertPool()
	pool.AddCert(certificate(t, cert, key, 1))
	url, _, _ := startServe(t, nil, "-data", dir, "-tls-cert", cert, "-tls-key", key, "-no-auth")
	if !strings.HasPrefix(url, "https://") {
		t.Fatalf("url = %s", url)
	}
	serial := func() (int64, error) {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get(url + "/healthz")
		if err != nil {
			return 0, err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != 200 {
			return 0, fmt.Errorf("status %s", resp.Status)
		}
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64(), nil
	}
	if n, err := serial(); err != nil || n != 1 {
		t.Fatalf("certificate %d, %v", n, err)
	}
	pool.AddCert(certificate(t, cert, key, 2))
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		n, err := serial()
		if err == nil && n == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("certificate %d, %v, want 2", n, err)
		}
	}
}

// TestSettings covers where settings come from, and what is refused.
func TestSettings(t *testing.T) {
	dir := t.TempDir()
	config := func(text string) string {
		f, err := os.CreateTemp(dir, "config")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		return f.Name()
	}
	parse := func(env map[string]string, args ...string) (string, error) {
		a := app{getenv: func(k string) string { return env[k] }, stdout: io.Discard, stderr: io.Discard}
		s := a.settings("test", "")
		name, wait := s.String("some-name", "default", ""), s.Duration("wait", time.Second, "")
		_, err := s.parse(a, args, 0)
		return fmt.Sprint(*name, " ", *wait), err
	}
	file := config("# comment\n\nsome-name = \"from file\"\nwait=3s\n")
	for _, c := range []struct {
		name string
		env  map[string]string
		args []string
		want string
	}{
		{"default", nil, nil, "default 1s"},
		{"file", nil, []string{"-config", file}, "from file 3s"},
		{"file by environment", map[string]string{"TURSOSYNC_CONFIG": file}, nil, "from file 3s"},
		{"environment before file", map[string]string{"TURSOSYNC_SOME_NAME": "env"}, []string{"-config", file}, "env 3s"},
		{"flag before environment", map[string]string{"TURSOSYNC_SOME_NAME": "env"}, []string{"-config", file, "-some-name=flag"}, "flag 3s"},
	} {
		if got, err := parse(c.env, c.args...); err != nil || got != c.want {
			t.Errorf("%s: %s, %v, want %s", c.name, got, err, c.want)
		}
	}
	for name, args := range map[string][]string{
		"unknown name": {"-config", config("nmae = x")}, "no form": {"-config", config("just words")}, "twice": {"-config", config("wait = 1s\nwait = 2s")},
		"wrong value": {"-config", config("wait = soon")}, "config in config": {"-config", config("config = x")}, "no file": {"-config", dir + "/none"},
		"unknown flag": {"-x"}, "argument": {"x"},
	} {
		if got, err := parse(nil, args...); err == nil {
			t.Errorf("%s: %s", name, got)
		}
	}
	if _, err := parse(map[string]string{"TURSOSYNC_WAIT": "soon-secret"}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("wrong value in the environment = %v", err)
	}
	for _, c := range []struct {
		args   []string
		status int
		holds  string
	}{
		{nil, 2, "usage"}, {[]string{"help"}, 0, ""}, {[]string{"dance"}, 2, "no command"}, {[]string{"serve", "-h"}, 0, "-data"},
		{[]string{"serve"}, 2, "-data is missing"}, {[]string{"serve", "-data", dir}, 2, "who may come in"},
		{[]string{"serve", "-data", dir, "-no-auth", "-token", "x"}, 2, "exclude"}, {[]string{"serve", "-data", dir, "-no-auth", "-tls-key", "x"}, 2, "belong together"},
		{[]string{"serve", "-data", dir, "-no-auth", "-log-level", "loud"}, 2, "log-level"}, {[]string{"serve", "-data", dir, "-no-auth", "-addr", "127.0.0.1:x"}, 1, "unknown port"},
		{[]string{"db", "list"}, 2, "-url or -data"}, {[]string{"db", "create", "-data", dir}, 2, "1 arguments"}, {[]string{"db", "create", "-data", dir, "Bad.Name"}, 1, "name"},
		{[]string{"db", "list", "-data", dir + "/none"}, 1, "no such file"},
	} {
		if _, errs, status := run(nil, c.args...); status != c.status || !strings.Contains(errs, c.holds) {
			t.Errorf("tursosync %v = %d %s, want %d with %q", c.args, status, errs, c.status, c.holds)
		}
	}
}
