package server

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRate(t *testing.T) {
	r := newRate(2, 3)
	at := time.Now()
	for i, c := range []struct {
		token string
		after time.Duration
		wait  time.Duration
	}{
		{"a", 0, 0}, {"a", 0, 0}, {"a", 0, 0}, {"a", 0, 500 * time.Millisecond}, {"b", 0, 0},
		{"a", 500 * time.Millisecond, 0}, {"a", 0, 500 * time.Millisecond}, {"a", time.Hour, 0}, {"a", 0, 0}, {"a", 0, 0}, {"a", 0, 500 * time.Millisecond},
	} {
		at = at.Add(c.after)
		if got := r.take(c.token, at); got != c.wait {
			t.Errorf("request %d: wait %v, want %v", i, got, c.wait)
		}
	}
	for i := range bucketsMax * 2 {
		at = at.Add(time.Second)
		r.take(fmt.Sprint(i), at)
	}
	if len(r.buckets) > bucketsMax {
		t.Errorf("%d buckets", len(r.buckets))
	}
}

// TestTokenRate shows that the bound is one for all databases of a fleet, and that
// tokens that are no good do not count.
func TestTokenRate(t *testing.T) {
	f := openFleet(t, FleetConfig{Database: Config{TokenRate: 1e-6, TokenBurst: 3}})
	for _, name := range []string{"a", "b"} {
		if err := f.Create(name); err != nil {
			t.Fatal(err)
		}
	}
	var got []int
	for i := range 5 {
		w := ask(f, "POST", "http://x/db/"+[]string{"a", "b"}[i%2]+"/v2/pipeline", "t", `{"requests":[]}`)
		got = append(got, w.Code)
		if w.Code == 429 && w.Header().Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	if fmt.Sprint(got) != "[200 200 200 429 429]" {
		t.Errorf("answers %v", got)
	}
	if w := ask(f, "POST", "http://x/db/a/v2/pipeline", "other", `{"requests":[]}`); w.Code != 200 {
		t.Errorf("another token: %d", w.Code)
	}
}

// TestSQLMax shows that requests wait for a place, but that a stream whose lock
// they wait for does not.
func TestSQLMax(t *testing.T) {
	s := openServer(t, Config{SQLMax: 2})
	exec(t, s, "CREATE TABLE t (v)")
	baton, _ := talk(t, s, nil, "", execute("BEGIN IMMEDIATE"), execute("INSERT INTO t VALUES (0)"))
	var wg sync.WaitGroup
	for range 6 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, got := talk(t, s, nil, "", execute("INSERT INTO t VALUES (1)"), closeStream); !strings.Contains(got[0], `"ok"`) {
				t.Errorf("insert: %v", got)
			}
		}()
	}
	eventually(t, "two run", func() bool { return len(s.running) == 2 })
	if _, got := talk(t, s, baton, "", execute("COMMIT"), closeStream); !strings.Contains(got[0], `"ok"`) {
		t.Errorf("commit: %v", got)
	}
	wg.Wait()
	if got := results(t, s, execute("SELECT count(*) AS n FROM t"))[0]; !strings.Contains(got, `"7"`) {
		t.Errorf("rows: %s", got)
	}
	s.cfg.Timeout = 20 * time.Millisecond
	s.running <- struct{}{}
	s.running <- struct{}{}
	if w := do(s, "POST", "/v2/pipeline", `{"requests":[]}`); w.Code != 503 {
		t.Errorf("no place: %d %s", w.Code, w.Body)
	}
	<-s.running
	<-s.running
}

// TestSlowClients shows that those who do not send, or do not read, are cut off
// while others are served.
func TestSlowClients(t *testing.T) {
	s := openServer(t, Config{})
	exec(t, s, "CREATE TABLE t (v)", "INSERT INTO t VALUES (randomblob(60000000))")
	s.cfg.Timeout = 300 * time.Millisecond
	h := httptest.NewServer(s)
	defer h.Close()
	dial := func(request string) net.Conn {
		c, err := net.Dial("tcp", h.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		return c
	}
	head := func(path string, n int) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", path, n)
	}
	sender := dial(head("/v2/pipeline", 1000) + "{")
	defer func() { _ = sender.Close() }()
	reader := dial(head("/pull-updates", 0))
	defer func() { _ = reader.Close() }()
	line, err := bufio.NewReader(sender).ReadString('\n')
	if err != nil && err != io.EOF || err == nil && !strings.Contains(line, "400") {
		t.Errorf("who does not send: %q, %v", line, err)
	}
	eventually(t, "the pull is cut off", func() bool { return s.cfg.stats.pulls.Load() == 1 && s.cfg.stats.pullsNow.Load() == 0 })
	n, err := io.Copy(io.Discard, reader)
	if timeout := net.Error(nil); n >= 60_000_000 || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("who does not read is not cut off: %d bytes, %v", n, err)
	}
	s.cfg.Timeout = time.Minute
	exec(t, s, "INSERT INTO t VALUES (1)")
}
