package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tursosync/tursosync/internal/testseed"
	"github.com/tursosync/tursosync/internal/wire"
)

func openFleet(t testing.TB, cfg FleetConfig) *Fleet {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	cfg.Database.NoSync = true
	f, err := OpenFleet(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func ask(h http.Handler, method, url, token, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, url, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// firstValue runs a statement and returns the first value of its first row as JSON.
func firstValue(t testing.TB, h http.Handler, url, sql string) string {
	t.Helper()
	w := ask(h, "POST", url+"/v2/pipeline", "", `{"requests":[`+execute(sql)+`,{"type":"close"}]}`)
	var p wire.PipelineResponse
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != 200 || len(p.Results) != 2 || p.Results[0].Response == nil {
		t.Errorf("%s at %s: %d %s", sql, url, w.Code, w.Body)
		return ""
	}
	var res wire.StmtResult
	if err := json.Unmarshal(p.Results[0].Response.Result, &res); err != nil {
		t.Error(err)
		return ""
	}
	if len(res.Rows) == 0 {
		return ""
	}
	return fmt.Sprint(res.Rows[0][0].V)
}

func openFiles(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc: ", err)
	}
	return len(e)
}

// closeAllIdle does what the timers would.
func (f *Fleet) closeAllIdle() {
	f.mu.Lock()
	var all []*member
	for _, m := range f.members {
		all = append(all, m)
	}
	f.mu.Unlock()
	for _, m := range all {
		f.closeIdle(m, 0)
	}
}

// TestFleetSize serves many databases, of which some are used, side by side:
// each keeps its rows to itself, and those that are idle cost no file.
func TestFleetSize(t *testing.T) {
	const all, active = 300, 50
	f := openFleet(t, FleetConfig{AdminToken: "root"})
	name := func(i int) string { return fmt.Sprintf("db-%03d", i) }
	for i := range all {
		if w := ask(f, "POST", "http://x/admin/databases/"+name(i), "root", ""); w.Code != 201 {
			t.Fatalf("create = %d %s", w.Code, w.Body)
		}
	}
	before := openFiles(t)
	seed := testseed.New(t)
	var wg sync.WaitGroup
	for w := range 10 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rnd := rand.New(rand.NewPCG(seed, uint64(w)))
			for i := w * active / 10; i < (w+1)*active/10; i++ {
				n := i * (all / active)
				url := "http://x/db/" + name(n)
				if rnd.IntN(2) == 0 {
					url = "http://" + name(n) + ".example.com"
				}
				firstValue(t, f, url, "CREATE TABLE t (v)")
				firstValue(t, f, url, fmt.Sprintf("INSERT INTO t VALUES (%d)", n))
			}
		}()
	}
	wg.Wait()
	if f.open != active {
		t.Errorf("%d databases are open, want %d", f.open, active)
	}
	f.closeAllIdle()
	if f.open != 0 {
		t.Errorf("%d idle databases are open", f.open)
	}
	if n := openFiles(t); n > before {
		t.Errorf("%d files are open, %d before", n, before)
	}
	for i := 0; i < active; i++ {
		n := i * (all / active)
		if got := firstValue(t, f, "http://x/db/"+name(n), "SELECT group_concat(v) FROM t"); got != fmt.Sprint(n) {
			t.Errorf("%s holds %s", name(n), got)
		}
	}
	list, err := f.List()
	if err != nil || len(list) != all || list[7].Name != name(7) || !list[6].Open || list[7].Open {
		t.Errorf("List = %d databases, %v; %v, %v", len(list), err, list[6], list[7])
	}
}

// TestFleetOpenMax shows that databases that are not in use make room.
func TestFleetOpenMax(t *testing.T) {
	f := openFleet(t, FleetConfig{OpenMax: 3, IdleAfter: time.Hour})
	for i := range 12 {
		if err := f.Create(fmt.Sprint("d", i)); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		for i := range 12 {
			firstValue(t, f, fmt.Sprint("http://x/db/d", i), "SELECT 1")
		}
	}
	eventually(t, "three are open", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.open <= 3
	})
}

// eventually waits for what another goroutine is about to do.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// TestFleetIdle shows that the timer closes a database, and that use while it
// is being closed is served.
func TestFleetIdle(t *testing.T) {
	f := openFleet(t, FleetConfig{IdleAfter: time.Millisecond})
	if err := f.Create("a"); err != nil {
		t.Fatal(err)
	}
	firstValue(t, f, "http://x/db/a", "CREATE TABLE t (v)")
	eventually(t, "closed", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.open == 0
	})
	var wg sync.WaitGroup
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 50 {
				firstValue(t, f, "http://x/db/a", "INSERT INTO t VALUES (1)")
				f.closeAllIdle()
			}
		}()
	}
	wg.Wait()
	if got := firstValue(t, f, "http://x/db/a", "SELECT count(*) FROM t"); got != "200" {
		t.Errorf("%s rows, want 200", got)
	}
}

func TestFleetRefusals(t *testing.T) {
	dir := t.TempDir()
	f := openFleet(t, FleetConfig{Dir: dir, AdminToken: "root", Database: Config{Permit: func(_ context.Context, name, token string) (Permission, error) {
		if token != name {
			return nil, errors.New("wrong token")
		}
		return ReadWrite, nil
	}}})
	if err := f.Create("shop"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "junk.db"), bytes.Repeat([]byte("junk"), 3000), 0o644); err != nil {
		t.Fatal(err)
	}
	pipeline := `{"requests":[` + execute("SELECT 1 AS x") + `]}`
	for _, c := range []struct {
		name, method, url, token string
		status                   int
		holds                    string
	}{
		{"path", "POST", "http://x/db/shop/v2/pipeline", "shop", 200, `"x"`},
		{"host", "POST", "http://shop.example.com:8080/v3/pipeline", "shop", 200, `"x"`},
		{"upper-case host", "POST", "http://SHOP.example.com/v3/pipeline", "shop", 200, `"x"`},
		{"path before host", "POST", "http://other.example.com/db/shop/v3/pipeline", "shop", 200, `"x"`},
		{"wrong token", "POST", "http://x/db/shop/v2/pipeline", "other", 401, "wrong token"},
		{"stranger to a missing one", "POST", "http://x/db/missing/v2/pipeline", "", 401, "wrong token"},
		{"missing", "POST", "http://x/db/missing/v2/pipeline", "missing", 404, "no database"},
		{"no name", "POST", "http://x/db/", "", 404, "no database"},
		{"dots", "POST", "http://x/db/../v2/pipeline", "..", 404, "no database"},
		{"escaped", "POST", "http://x/db/a%2f..%2fshop/v2/pipeline", "a", 404, "no database"},
		{"address", "POST", "http://127.0.0.1:80/v2/pipeline", "", 404, "/db/NAME"},
		{"IPv6", "POST", "http://[::1]:80/v2/pipeline", "", 404, "/db/NAME"},
		{"no label", "POST", "http://shop/v2/pipeline", "shop", 404, "/db/NAME"},
		{"junk", "POST", "http://x/db/junk/v2/pipeline", "junk", 500, "cannot be used"},
		{"unknown path", "POST", "http://x/db/shop/v9", "shop", 404, "not found"},
		{"browser", "OPTIONS", "http://x/db/shop/v2/pipeline", "", 204, ""},
		{"probe", "GET", "http://x/db/shop/v3", "", 200, ""},
		{"health", "GET", "http://x/healthz", "", 200, "ok"},
		{"metrics", "GET", "http://x/metrics", "", 200, "\ntursosync_databases_open 1\n"},
		{"admin without token", "GET", "http://x/admin/databases", "", 401, "admin token"},
		{"admin with another", "GET", "http://x/admin/databases", "shop", 401, "admin token"},
		{"list", "GET", "http://x/admin/databases", "root", 200, `"name":"shop"`},
		{"create again", "POST", "http://x/admin/databases/shop", "root", 409, "exists"},
		{"create badly", "POST", "http://x/admin/databases/Shop.db", "root", 400, "name"},
		{"create upwards", "POST", "http://x/admin/databases/..%2fx", "root", 404, "not found"},
		{"delete nothing", "DELETE", "http://x/admin/databases/nothing", "root", 404, "no such"},
		{"back up nothing", "GET", "http://x/admin/databases/nothing/backup", "root", 404, "no such"},
		{"unknown", "GET", "http://x/admin/x", "root", 404, "not found"},
		{"delete", "DELETE", "http://x/admin/databases/shop", "root", 204, ""},
		{"gone", "POST", "http://x/db/shop/v2/pipeline", "shop", 404, "no database"},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := ""
			if strings.Contains(c.url, "pipeline") {
				body = pipeline
			}
			w := ask(f, c.method, c.url, c.token, body)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.holds) {
				t.Errorf("answer = %d %s, want %d with %q", w.Code, w.Body, c.status, c.holds)
			}
		})
	}
	left, err := filepath.Glob(filepath.Join(dir, "shop*"))
	if err != nil || len(left) != 0 {
		t.Errorf("a deleted database leaves %v, %v", left, err)
	}
	if _, err := OpenFleet(FleetConfig{Dir: dir}); !errors.Is(err, ErrLocked) {
		t.Errorf("a second fleet of the folder = %v, want ErrLocked", err)
	}
	for _, cfg := range []FleetConfig{{}, {Dir: dir, Database: Config{File: "x"}}, {Dir: dir, OpenMax: -1}, {Dir: dir, Database: Config{Timeout: -1}}} {
		if f, err := OpenFleet(cfg); err == nil {
			_ = f.Close()
			t.Errorf("OpenFleet(%+v) succeeded", cfg)
		}
	}
}

// TestFleetDrain shows that a long poll does not outlive Drain, not even one of a
// database that is opened afterwards.
func TestFleetDrain(t *testing.T) {
	f := openFleet(t, FleetConfig{})
	for _, name := range []string{"early", "late"} {
		if err := f.Create(name); err != nil {
			t.Fatal(err)
		}
	}
	poll := func(name string, c *client) time.Duration {
		t.Helper()
		begun := time.Now()
		req := wire.PullRequest{ClientRevision: c.revision, LongPollMillis: 30_000}
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.serve(w, r, name, r.URL.Path) })
		if err := c.pullFrom(h, req); err != nil {
			t.Fatal(err)
		}
		return time.Since(begun)
	}
	var early, late client
	poll("early", &early)
	poll("late", &late)
	f.closeAllIdle()
	f.Drain()
	if d := poll("late", &late); d > 10*time.Second {
		t.Errorf("a long poll after Drain took %v", d)
	}
	if d := poll("early", &early); d > 10*time.Second {
		t.Errorf("a long poll after Drain took %v", d)
	}
}

// TestFleetLog shows that what is logged names the database.
func TestFleetLog(t *testing.T) {
	var b bytes.Buffer
	f := openFleet(t, FleetConfig{Logger: slog.New(slog.NewTextHandler(&b, nil))})
	if err := f.Create("shop"); err != nil {
		t.Fatal(err)
	}
	// A record that cannot be read is worth a warning of the database's server.
	if err := os.WriteFile(f.file("shop")+historySuffix, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	firstValue(t, f, "http://x/db/shop", "SELECT 1")
	for line := range strings.Lines(b.String()) {
		if !strings.Contains(line, "database=shop") {
			t.Errorf("logged without the database: %s", line)
		}
	}
	if !strings.Contains(b.String(), `"read history"`) {
		t.Errorf("logged %q, want a warning about the history", &b)
	}
}

// TestFleetDelete deletes and creates databases under those who use them: what is
// answered is right or a refusal, and nobody meets the rows of an earlier one.
func TestFleetDelete(t *testing.T) {
	f := openFleet(t, FleetConfig{AdminToken: "root"})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				w := ask(f, "POST", "http://x/db/a/v2/pipeline", "", `{"requests":[{"type":"sequence","sql":"BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS t (v); INSERT INTO t VALUES (1); COMMIT"},{"type":"close"}]}`)
				if w.Code == 404 || w.Code == 503 || w.Code == 200 && !strings.Contains(w.Body.String(), `"error"`) {
					continue
				}
				t.Errorf("answer = %d %s", w.Code, w.Body)
				return
			}
		}()
	}
	for range 20 {
		if err := f.Create("a"); err != nil {
			t.Fatal(err)
		}
		if n := firstValue(t, f, "http://x/db/a", "SELECT count(*) FROM sqlite_schema"); n != "0" && n != "1" {
			t.Errorf("a new database has %s tables", n)
		}
		if err := f.Delete("a"); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
}

// TestBackup takes backups under writes. Every one is a state that was committed.
func TestBackup(t *testing.T) {
	f := openFleet(t, FleetConfig{AdminToken: "root", Database: Config{CheckpointBytes: 100 << 10}})
	if err := f.Create("a"); err != nil {
		t.Fatal(err)
	}
	url := "http://x/db/a"
	firstValue(t, f, url, "CREATE TABLE t (id INTEGER PRIMARY KEY, v, pad)")
	firstValue(t, f, url, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO t SELECT i, 10, randomblob(300) FROM n")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			firstValue(t, f, url, fmt.Sprintf("UPDATE t SET v = v + CASE id %% 2 WHEN 0 THEN 1 ELSE -1 END, pad = randomblob(300) WHERE id IN (%d, %d)", i%150*2+1, i%150*2+2))
		}
	}()
	for range 20 {
		w := ask(f, "GET", "http://x/admin/databases/a/backup", "root", "")
		if w.Code != 200 || w.Header().Get("Content-Length") != fmt.Sprint(w.Body.Len()) {
			t.Fatalf("backup = %d, %v, %d bytes", w.Code, w.Header(), w.Body.Len())
		}
		c := client{count: 1, pages: map[uint64][]byte{0: w.Body.Bytes()}}
		if got := c.check(t, "SELECT sum(v) FROM t"); got[0] != "3000" {
			t.Errorf("the sum is %s", got[0])
		}
	}
	close(stop)
	<-done
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.Backup(ctx, "a", func(int64) (io.Writer, error) { return io.Discard, nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled backup = %v", err)
	}
}
