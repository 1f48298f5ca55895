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
	"strings"
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

// restartable is a server that may be replaced behind its address.
type restartable struct {
	url, file string
	now       atomic.Pointer[server.Server]
}

func serveRestartable(t *testing.T) *restartable {
	t.Helper()
	x := &restartable{file: filepath.Join(t.TempDir(), "remote.db")}
	x.start(t)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { x.now.Load().ServeHTTP(w, r) }))
	x.url = h.URL
	t.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
		must(t, x.now.Load().Close())
	})
	return x
}

func (x *restartable) start(t *testing.T) {
	t.Helper()
	s, err := server.Open(server.Config{File: x.file, NoSync: true})
	must(t, err)
	x.now.Store(s)
}

func (x *restartable) restart(t *testing.T) {
	t.Helper()
	must(t, x.now.Load().Close())
	x.start(t)
}

// TestOfficialPartial takes the official client's partial replicas, as it offers
// them, through what happens to a server: writes, checkpoints that let the WAL start
// over, a restart. What a replica has not pulled yet it must not see, in whichever
// moment it loads a page. The same flow runs on tursodb, which never checkpoints and
// answers a query with everything.
func TestOfficialPartial(t *testing.T) {
	node := realtest.StartNode(t)
	for _, c := range []struct{ name, options string }{
		{"prefix", `{"bootstrapStrategy":{"kind":"prefix","length":131072},"segmentSize":16384}`},
		{"small prefix, large segments", `{"bootstrapStrategy":{"kind":"prefix","length":8192}}`},
		{"prefix with prefetch", `{"bootstrapStrategy":{"kind":"prefix","length":131072},"segmentSize":4096,"prefetch":true}`},
		{"query", `{"bootstrapStrategy":{"kind":"query","query":"SELECT v FROM t WHERE id BETWEEN 10 AND 20"},"segmentSize":16384}`},
		{"query with prefetch", `{"bootstrapStrategy":{"kind":"query","query":"SELECT count(*) FROM t"},"prefetch":true}`},
	} {
		flow := func(t *testing.T, url string, ours bool, between func()) {
			realtest.Exec(t, url, "CREATE TABLE t (id INTEGER PRIMARY KEY, v)",
				"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO t SELECT i, printf('%0200d', i) FROM n")
			between()
			o := realtest.ClientOptions{URL: url, ClientName: "partial", Partial: json.RawMessage(c.options)}
			p, err := node.Open(o)
			must(t, err)
			stats, err := p.Stats()
			must(t, err)
			if n, _ := stats["networkReceivedBytes"].(float64); ours && (n == 0 || n > 250_000) {
				// All of it is more than 600 kB. The count reads every leaf of the table.
				if c.name != "query with prefetch" {
					t.Errorf("the bootstrap took %v bytes", stats["networkReceivedBytes"])
				}
			}
			at := func(id int) string {
				t.Helper()
				r := rows(t, p, fmt.Sprintf("SELECT v FROM t WHERE id = %d", id))
				return fmt.Sprint(r[0][0])
			}
			old := func(id int) string { return fmt.Sprintf("%0200d", id) }
			if got := at(15); got != old(15) {
				t.Errorf("row 15 = %s", got)
			}
			realtest.Exec(t, url, "UPDATE t SET v = 'new' WHERE id IN (16, 900, 2900)")
			between()
			realtest.Exec(t, url, "UPDATE t SET v = 'newer' WHERE id IN (900, 2500)")
			between()
			for _, id := range []int{900, 2900, 2500, 2000, 16} { // not pulled yet
				if got := at(id); got != old(id) {
					t.Errorf("row %d = %.20s before the pull", id, got)
				}
			}
			changed, err := p.Pull()
			if err != nil || !changed {
				t.Errorf("Pull = %v, %v", changed, err)
			}
			for id, want := range map[int]string{900: "newer", 2900: "new", 2500: "newer", 16: "new", 1200: old(1200)} {
				if got := at(id); got != want {
					t.Errorf("row %d = %.20s, want %.20s", id, got, want)
				}
			}
			must(t, p.Exec("UPDATE t SET v = 'mine' WHERE id = 1700"))
			must(t, p.Push())
			between()
			if got := realtest.Query(t, url, "SELECT v FROM t WHERE id = 1700"); got[0][0] != "mine" {
				t.Errorf("pushed row = %v", got)
			}
			_, err = p.Pull()
			must(t, err)
			if got := rows(t, p, "SELECT count(*), sum(id), sum(v = printf('%0200d', id)) FROM t"); !reflect.DeepEqual(got, [][]any{{int64(3000), int64(4501500), int64(2995)}}) {
				t.Errorf("all rows = %v", got)
			}
			must(t, p.Close())
		}
		t.Run(c.name+"/server", func(t *testing.T) {
			x := serveRestartable(t)
			n := 0
			flow(t, x.url, true, func() {
				must(t, x.now.Load().Checkpoint())
				if n++; n%2 == 0 {
					x.restart(t)
				}
			})
		})
		t.Run(c.name+"/tursodb", func(t *testing.T) {
			srv := realtest.StartTursodb(t)
			flow(t, srv.URL, false, func() {})
		})
	}
}

// TestOfficialTransform covers the official client's transform hook: skipped,
// rewritten and untouched rows, through a checkpoint on both sides.
func TestOfficialTransform(t *testing.T) {
	node := realtest.StartNode(t)
	x := serveRestartable(t)
	// With the hook set the client aborts at a schema change of its own (0.7.2).
	realtest.Exec(t, x.url, "CREATE TABLE secret (id INTEGER PRIMARY KEY, v)", "CREATE TABLE plain (id INTEGER PRIMARY KEY, v)",
		"CREATE TABLE tick (id INTEGER PRIMARY KEY, n)", "CREATE TABLE counter (n)", "INSERT INTO counter VALUES (10)")
	c, err := node.Open(realtest.ClientOptions{URL: x.url, ClientName: "hook", Transform: map[string]realtest.Rule{
		"secret": {Skip: true}, "tick": {SQL: "UPDATE counter SET n = n + ?", Columns: []string{"n"}}}})
	must(t, err)
	for round := range 3 {
		must(t, c.Exec(fmt.Sprintf("INSERT INTO secret(v) VALUES ('s'); INSERT INTO plain(v) VALUES ('p%d'); INSERT INTO tick(n) VALUES (%d)", round, round+1)))
		must(t, c.Push())
		must(t, c.Push()) // nothing to do
		must(t, c.Checkpoint())
		must(t, x.now.Load().Checkpoint())
		x.restart(t)
		_, err := c.Pull()
		must(t, err)
	}
	got := realtest.Query(t, x.url, "SELECT (SELECT count(*) FROM secret), (SELECT group_concat(v) FROM plain), (SELECT count(*) FROM tick), (SELECT n FROM counter)")
	if want := [][]any{{int64(0), "p0,p1,p2", int64(0), int64(16)}}; !reflect.DeepEqual(got, want) {
		t.Errorf("on the server: %v, want %v", got, want)
	}
	if got := rows(t, c, "SELECT (SELECT group_concat(v) FROM plain), (SELECT n FROM counter)"); !reflect.DeepEqual(got, [][]any{{"p0,p1,p2", int64(16)}}) {
		t.Errorf("at the client: %v", got)
	}
}

// TestOfficialThroughTheFleet syncs two official clients over the address of a
// database in a fleet, with a token, and shows what a wrong one gets.
func TestOfficialThroughTheFleet(t *testing.T) {
	node := realtest.StartNode(t)
	url := strings.TrimSuffix(serveFleet(t), "/")
	a, err := node.Open(realtest.ClientOptions{URL: url, ClientName: "a", AuthToken: "secret"})
	must(t, err)
	must(t, a.Exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE INDEX t_v ON t(v); INSERT INTO t VALUES (1, 'a')"))
	must(t, a.Push())
	b, err := node.Open(realtest.ClientOptions{URL: url, ClientName: "b", AuthToken: "secret"})
	must(t, err)
	must(t, b.Exec("ALTER TABLE t ADD COLUMN w; INSERT INTO t VALUES (2, 'b', 'w'); DROP INDEX t_v; CREATE TABLE u (x)"))
	must(t, b.Push())
	_, err = a.Pull()
	must(t, err)
	if got := rows(t, a, "SELECT id, v, w FROM t ORDER BY id"); !reflect.DeepEqual(got, [][]any{{int64(1), "a", nil}, {int64(2), "b", "w"}}) {
		t.Errorf("rows = %v", got)
	}
	if _, err := node.Open(realtest.ClientOptions{URL: url, ClientName: "c", AuthToken: "wrong"}); err == nil || !strings.Contains(err.Error(), "status=401") {
		t.Errorf("with a wrong token: %v", err)
	}
}
