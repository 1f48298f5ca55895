package tursosynctest_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/remote"
	"github.com/tursosync/tursosync/syncer"
	"github.com/tursosync/tursosync/tursosynctest"
)

// pages is a sink that assembles the database file.
type pages struct {
	head syncer.PullHeader
	file map[page.No][]byte
	came int
}

func (p *pages) Header(h syncer.PullHeader) error {
	p.head, p.came = h, 0
	if p.file == nil {
		p.file = map[page.No][]byte{}
	}
	return nil
}

func (p *pages) Page(no page.No, image []byte) error {
	p.file[no] = append([]byte(nil), image...)
	p.came++
	return nil
}

func (p *pages) digest() string {
	sum := sha256.New()
	for no := page.No(1); uint64(no) <= p.head.PageCount; no++ {
		sum.Write(p.file[no])
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func connect(t *testing.T, srv *tursosynctest.Server, cfg remote.Config) *remote.Remote {
	t.Helper()
	cfg.URL = srv.URL
	// Which fault hits a request must not depend on whether a connection from
	// before is still there.
	cfg.Transport = &http.Transport{DisableKeepAlives: true}
	r, err := remote.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func push(r *remote.Remote, expect, last cdc.ID) error {
	_, err := r.Push(context.Background(), syncer.Batch{ClientID: "c", Expect: expect, ExpectFound: expect != 0, Last: last,
		Mutations: []cdc.Mutation{{SQL: "INSERT INTO t VALUES (?)", Args: []any{int64(last)}, Change: last}}})
	return err
}

func pull(r *remote.Remote, p *pages) error {
	return r.Fetch(context.Background(), syncer.PullRequest{Have: p.head.Revision}, p)
}

// TestFaults injects each fault and looks at what the client makes of it and at
// what the remote executed.
func TestFaults(t *testing.T) {
	srv := tursosynctest.NewServer(t)
	srv.Exec("CREATE TABLE t (v)")
	for name, c := range map[string]struct {
		faults   tursosynctest.Faults
		kind     remote.Kind
		outcome  remote.Outcome
		executed bool
	}{
		"offline":        {tursosynctest.Faults{Offline: true}, remote.Retry, remote.Unknown, false},
		"503":            {tursosynctest.Faults{Status: 503, RetryAfter: "7"}, remote.Retry, remote.Unknown, false},
		"429":            {tursosynctest.Faults{Status: 429}, remote.Retry, remote.Answered, false},
		"token":          {tursosynctest.Faults{RefuseToken: true}, remote.Auth, remote.Answered, false},
		"cut at once":    {tursosynctest.Faults{Cut: true}, remote.Retry, remote.Unknown, true},
		"cut in between": {tursosynctest.Faults{Cut: true, CutAfter: 30}, remote.Retry, remote.Unknown, true},
		"twice":          {tursosynctest.Faults{Twice: true}, remote.Moved, remote.Answered, true},
	} {
		t.Run(name, func(t *testing.T) {
			srv.Exec("DELETE FROM t", "DROP TABLE IF EXISTS turso_sync_last_change_id")
			r := connect(t, srv, remote.Config{})
			srv.Inject(c.faults)
			err := push(r, 0, 1)
			if srv.Hits() != 1 {
				t.Errorf("Hits() = %d, want 1", srv.Hits())
			}
			srv.Heal()
			var e *remote.Error
			if !errors.As(err, &e) || e.Kind != c.kind || e.Outcome != c.outcome {
				t.Errorf("Push = %v (%+v), want %v, %v", err, e, c.kind, c.outcome)
			}
			if c.faults.RetryAfter != "" && e.RetryAfter != 7*time.Second {
				t.Errorf("RetryAfter = %v", e.RetryAfter)
			}
			_, found, err := r.Watermark(context.Background(), "c")
			if rows := srv.Query("SELECT count(*) FROM t"); err != nil || found != c.executed || rows[0][0] != map[bool]int64{true: 1}[c.executed] {
				t.Errorf("executed %v times, watermark %v, %v, want %v", rows[0][0], found, err, c.executed)
			}
		})
	}
}

// TestCutPulls cuts an answer at every few bytes: the client must never take a
// part for the whole.
func TestCutPulls(t *testing.T) {
	srv := tursosynctest.NewServer(t)
	srv.Exec("CREATE TABLE t (v)", "INSERT INTO t VALUES (randomblob(9000))")
	r := connect(t, srv, remote.Config{})
	var whole pages
	before := func() int64 { _, n := r.Transferred(); return n }
	start := before()
	if err := pull(r, &whole); err != nil {
		t.Fatal(err)
	}
	size := int(before() - start)
	for n := 0; n < size; n += 97 {
		srv.Inject(tursosynctest.Faults{Cut: true, CutAfter: n, Only: tursosynctest.Pulls})
		var p pages
		err := pull(r, &p)
		var e *remote.Error
		if !errors.As(err, &e) || e.Outcome != remote.Unknown || e.Kind != remote.Retry {
			t.Fatalf("cut after %d of %d: %v", n, size, err)
		}
	}
	srv.Heal()
	var p pages
	if err := pull(r, &p); err != nil || p.digest() != whole.digest() || p.digest() != srv.Digest() {
		t.Errorf("pull = %v, digest %s, want %s", err, p.digest(), srv.Digest())
	}
}

// TestRestart shows that address and data stay, and that a client with a
// revision of before gets all pages.
func TestRestart(t *testing.T) {
	srv := tursosynctest.NewServer(t)
	url := srv.URL
	srv.Exec("CREATE TABLE t (v)")
	r := connect(t, srv, remote.Config{})
	var p pages
	if err := pull(r, &p); err != nil {
		t.Fatal(err)
	}
	srv.Stop()
	var e *remote.Error
	if err := push(r, 0, 1); !errors.As(err, &e) || e.Outcome != remote.NeverSent {
		t.Errorf("push to a stopped server = %v, want never sent", err)
	}
	srv.Start()
	if srv.URL != url {
		t.Errorf("URL = %s, want %s", srv.URL, url)
	}
	if err := push(r, 0, 1); err != nil {
		t.Fatal(err)
	}
	if err := pull(r, &p); err != nil || uint64(p.came) != p.head.PageCount || p.digest() != srv.Digest() {
		t.Errorf("pull = %v, %d pages of %d", err, p.came, p.head.PageCount)
	}
	b, err := os.ReadFile(srv.File)
	if sum := sha256.Sum256(b); err != nil || hex.EncodeToString(sum[:]) != srv.Digest() {
		t.Errorf("Digest() is not that of the file: %v", err)
	}
	if got := srv.Query("SELECT v FROM t"); !reflect.DeepEqual(got, [][]any{{int64(1)}}) {
		t.Errorf("rows = %v", got)
	}
}

// TestToken shows that the token source is asked again once after a 401.
func TestToken(t *testing.T) {
	srv := tursosynctest.NewServerConfig(t, tursosynctest.Config{Token: "good"})
	srv.Exec("CREATE TABLE t (v)")
	asked := 0
	tokens := []string{"stale", "good"}
	r := connect(t, srv, remote.Config{Token: func(context.Context) (string, error) {
		asked++
		return tokens[min(asked, len(tokens))-1], nil
	}})
	if err := push(r, 0, 1); err != nil || asked != 2 {
		t.Errorf("push = %v, asked %d times, want 2", err, asked)
	}
	srv.SetToken("other")
	err := push(r, 1, 2)
	var e *remote.Error
	if !errors.As(err, &e) || e.Kind != remote.Auth || e.Status != 401 || asked != 4 {
		t.Errorf("push = %v, asked %d times", err, asked)
	}
}

// TestLongPoll shows that a long poll ends with the next commit, and with Inject
// and Stop.
func TestLongPoll(t *testing.T) {
	srv := tursosynctest.NewServer(t)
	srv.Exec("CREATE TABLE t (v)")
	r := connect(t, srv, remote.Config{})
	var p pages
	if err := pull(r, &p); err != nil {
		t.Fatal(err)
	}
	poll := func() <-chan error {
		done := make(chan error, 1)
		want := srv.Counts().Pulls + 1
		go func() {
			done <- r.Fetch(context.Background(), syncer.PullRequest{Have: p.head.Revision, LongPoll: 30 * time.Second}, &p)
		}()
		for srv.Counts().Pulls < want {
			time.Sleep(time.Millisecond)
		}
		return done
	}
	wait := func(done <-chan error) error {
		select {
		case err := <-done:
			return err
		case <-time.After(10 * time.Second):
			t.Fatal("the long poll goes on")
			return nil
		}
	}
	done := poll()
	srv.Exec("INSERT INTO t VALUES (1)")
	if err := wait(done); err != nil || p.came == 0 || p.digest() != srv.Digest() {
		t.Errorf("long poll = %v, %d pages", err, p.came)
	}
	done = poll()
	srv.Inject(tursosynctest.Faults{Offline: true})
	if err := wait(done); err == nil {
		t.Error("long poll of a server that went offline succeeded")
	}
	srv.Heal()
	done = poll()
	srv.Stop()
	if err := wait(done); err == nil {
		t.Error("long poll of a server that stopped succeeded")
	}
	srv.Start()
	srv.Exec("INSERT INTO t VALUES (2)")
	if err := r.Fetch(context.Background(), syncer.PullRequest{Have: p.head.Revision, LongPoll: time.Minute}, &p); err != nil || p.digest() != srv.Digest() {
		t.Errorf("long poll after a restart = %v, %d pages", err, p.came)
	}
}

// TestLatency shows that a client's patience is its own.
func TestLatency(t *testing.T) {
	srv := tursosynctest.NewServer(t)
	srv.Inject(tursosynctest.Faults{Latency: time.Minute})
	r := connect(t, srv, remote.Config{Timeout: 50 * time.Millisecond})
	var e *remote.Error
	if err := push(r, 0, 1); !errors.As(err, &e) || e.Outcome != remote.Unknown || e.Kind != remote.Retry {
		t.Errorf("push = %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, _, err := r.Watermark(ctx, "c")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Watermark = %v", err)
	}
	srv.Heal()
}
