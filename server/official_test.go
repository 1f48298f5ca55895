package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/realtest"
	"github.com/tursosync/tursosync/internal/remote"
	"github.com/tursosync/tursosync/server"
	"github.com/tursosync/tursosync/syncer"
)

func serve(t *testing.T) (url string, s *server.Server) {
	t.Helper()
	s, err := server.Open(server.Config{File: filepath.Join(t.TempDir(), "remote.db"), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s)
	t.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return h.URL, s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func rows(t *testing.T, c *realtest.Client, sql string) [][]any {
	t.Helper()
	r, err := c.Query(sql)
	must(t, err)
	return r
}

// TestOfficialClient lets the official client sync with our server, in both
// directions, from an empty database on.
func TestOfficialClient(t *testing.T) {
	node := realtest.StartNode(t)
	url, _ := serve(t)
	a, err := node.Open(realtest.ClientOptions{URL: url, ClientName: "a"})
	must(t, err)
	must(t, a.Exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE bag (v)"))
	values := []any{nil, int64(-1), int64(1<<63 - 1), 0.1, 1e300, "text é \"'", []byte{0, 255}, ""}
	for _, v := range values {
		_, err := a.Query("INSERT INTO t(v) VALUES (?)", v)
		must(t, err)
	}
	must(t, a.Exec("INSERT INTO bag VALUES (1), (2)"))
	must(t, a.Push())
	var want [][]any
	for _, v := range values {
		want = append(want, []any{v})
	}
	if got := realtest.Query(t, url, "SELECT v FROM t ORDER BY id"); !reflect.DeepEqual(got, want) {
		t.Errorf("pushed rows = %v, want %v", got, want)
	}

	// A second one takes them over, changes them, and hands them back.
	b, err := node.Open(realtest.ClientOptions{URL: url, ClientName: "b"})
	must(t, err)
	if got := rows(t, b, "SELECT v FROM t ORDER BY id"); !reflect.DeepEqual(got, want) {
		t.Errorf("pulled rows = %v, want %v", got, want)
	}
	must(t, b.Exec("UPDATE t SET v = 'from b' WHERE id = 1; DELETE FROM t WHERE id = 2; ALTER TABLE t ADD COLUMN w"))
	must(t, b.Push())
	changed, err := a.Pull()
	if err != nil || !changed {
		t.Errorf("Pull = %v, %v, want changes", changed, err)
	}
	if got := rows(t, a, "SELECT id, v, w FROM t ORDER BY id LIMIT 2"); !reflect.DeepEqual(got, [][]any{{int64(1), "from b", nil}, {int64(3), int64(1<<63 - 1), nil}}) {
		t.Errorf("rows = %v", got)
	}
	// Its own push comes back as an echo; after that there is nothing.
	_, err = b.Pull()
	must(t, err)
	if changed, err := b.Pull(); err != nil || changed {
		t.Errorf("Pull = %v, %v, want nothing", changed, err)
	}

	// Our client beside it.
	r, err := remote.New(remote.Config{URL: url})
	must(t, err)
	_, err = r.Push(context.Background(), syncer.Batch{ClientID: "ours", Last: 1, Mutations: []cdc.Mutation{
		{SQL: `INSERT INTO "t"("id","v") VALUES (?,?)`, Args: []any{int64(100), "ours"}, Change: 1}}})
	must(t, err)
	must(t, a.Exec("INSERT INTO t(id, v) VALUES (101, 'mine')"))
	must(t, a.Push())
	for _, c := range []*realtest.Client{a, b} {
		_, err := c.Pull()
		must(t, err)
		if got := rows(t, c, "SELECT v FROM t WHERE id >= 100 ORDER BY id"); !reflect.DeepEqual(got, [][]any{{"ours"}, {"mine"}}) {
			t.Errorf("rows = %v", got)
		}
	}
	must(t, a.Checkpoint())
	must(t, a.Close())
	a, err = node.Open(realtest.ClientOptions{URL: url, ClientName: "a", Path: a.Path})
	must(t, err)
	if got := rows(t, a, "PRAGMA integrity_check"); !reflect.DeepEqual(got, [][]any{{"ok"}}) {
		t.Errorf("integrity_check = %v", got)
	}
}

// TestOfficialBootstraps covers the ways in which the official client takes a
// database over: in one piece, in several pinned to a revision, and a prefix with
// the rest loaded when it is read.
func TestOfficialBootstraps(t *testing.T) {
	node := realtest.StartNode(t)
	url, s := serve(t)
	realtest.Exec(t, url, "CREATE TABLE t (id INTEGER PRIMARY KEY, v)",
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO t SELECT i, printf('%0200d', i) FROM n")
	must(t, s.Checkpoint())
	for name, o := range map[string]realtest.ClientOptions{
		"whole":  {},
		"pieces": {PullBytes: 64 << 10},
		"prefix": {Partial: json.RawMessage(`{"bootstrapStrategy":{"kind":"prefix","length":131072},"segmentSize":65536}`)},
	} {
		t.Run(name, func(t *testing.T) {
			o.URL, o.ClientName = url, name
			c, err := node.Open(o)
			must(t, err)
			if got := rows(t, c, "SELECT count(*), sum(id), min(length(v)) FROM t"); !reflect.DeepEqual(got, [][]any{{int64(3000), int64(4501500), int64(200)}}) {
				t.Errorf("rows = %v", got)
			}
			realtest.Exec(t, url, fmt.Sprintf("UPDATE t SET v = '%s' WHERE id = 1500", name))
			changed, err := c.Pull()
			if err != nil || !changed {
				t.Errorf("Pull = %v, %v", changed, err)
			}
			if got := rows(t, c, "SELECT v FROM t WHERE id = 1500"); got[0][0] != name {
				t.Errorf("rows = %v", got)
			}
			realtest.Exec(t, url, "UPDATE t SET v = printf('%0200d', 1500) WHERE id = 1500")
			must(t, c.Close())
		})
	}
}

// TestOfficialLongPoll shows that the official client's long poll ends with a
// commit.
func TestOfficialLongPoll(t *testing.T) {
	node := realtest.StartNode(t)
	url, _ := serve(t)
	realtest.Exec(t, url, "CREATE TABLE t (v)")
	c, err := node.Open(realtest.ClientOptions{URL: url, ClientName: "a", LongPollTimeoutMillis: 30_000})
	must(t, err)
	begun := time.Now()
	done := make(chan error, 1)
	go func() {
		changed, err := c.Pull()
		if err == nil && !changed {
			err = fmt.Errorf("nothing was pulled")
		}
		done <- err
	}()
	time.Sleep(50 * time.Millisecond)
	realtest.Exec(t, url, "INSERT INTO t VALUES (1)")
	must(t, <-done)
	if d := time.Since(begun); d > 20*time.Second {
		t.Errorf("the long poll took %v", d)
	}
}

// TestOfficialAfterRestart shows that the official client takes an answer with
// all pages when the server does not know its revision any more.
func TestOfficialAfterRestart(t *testing.T) {
	node := realtest.StartNode(t)
	file := filepath.Join(t.TempDir(), "remote.db")
	var now atomic.Pointer[server.Server]
	start := func() {
		s, err := server.Open(server.Config{File: file, NoSync: true})
		must(t, err)
		now.Store(s)
	}
	start()
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { now.Load().ServeHTTP(w, r) }))
	t.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
		must(t, now.Load().Close())
	})
	realtest.Exec(t, h.URL, "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", "INSERT INTO t VALUES (1, 'old')")
	c, err := node.Open(realtest.ClientOptions{URL: h.URL, ClientName: "a"})
	must(t, err)
	must(t, c.Exec("INSERT INTO t VALUES (2, 'pending')"))
	must(t, now.Load().Close())
	must(t, os.Remove(file+"-history"))
	start()
	realtest.Exec(t, h.URL, "UPDATE t SET v = 'new' WHERE id = 1")
	changed, err := c.Pull()
	if err != nil || !changed {
		t.Fatalf("Pull = %v, %v", changed, err)
	}
	if got := rows(t, c, "SELECT v FROM t ORDER BY id"); !reflect.DeepEqual(got, [][]any{{"new"}, {"pending"}}) {
		t.Errorf("rows = %v", got)
	}
	must(t, c.Push())
	if got := realtest.Query(t, h.URL, "SELECT v FROM t ORDER BY id"); !reflect.DeepEqual(got, [][]any{{"new"}, {"pending"}}) {
		t.Errorf("rows = %v", got)
	}
}
