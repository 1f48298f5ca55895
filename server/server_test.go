package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/testseed"
	"github.com/tursosync/tursosync/internal/wire"
)

// counters are fields of a result that do not matter.
var counters = regexp.MustCompile(`"(rows_read|rows_written)":\d+`)

// openServer starts a server on a new file.
func openServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	if cfg.File == "" {
		cfg.File = filepath.Join(t.TempDir(), "remote.db")
	}
	cfg.NoSync = true
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func do(s *Server, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// results sends a pipeline and returns its results as JSON text, one a request.
func results(t testing.TB, s *Server, requests ...string) []string {
	t.Helper()
	w := do(s, "POST", "/v2/pipeline", `{"baton":null,"requests":[`+strings.Join(requests, ",")+`]}`)
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	var p struct {
		Baton   any               `json:"baton"`
		Results []json.RawMessage `json:"results"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || len(p.Results) != len(requests) {
		t.Fatalf("%s: %v", w.Body, err)
	}
	out := make([]string, len(p.Results))
	for i, r := range p.Results {
		out[i] = string(r)
	}
	return out
}

func execute(sql string) string {
	return `{"type":"execute","stmt":{"sql":` + jsonString(sql) + `}}`
}

func exec(t testing.TB, s *Server, sql ...string) {
	t.Helper()
	for _, q := range sql {
		if r := results(t, s, execute(q))[0]; !strings.HasPrefix(r, `{"type":"ok"`) {
			t.Fatalf("%s: %s", q, r)
		}
	}
}

// client keeps pages as a replica's base does.
type client struct {
	revision string
	count    uint64
	pages    map[uint64][]byte
	came     []uint64
}

// pull takes an answer in; an error means that the answer was cut off.
func (c *client) pull(s *Server, req wire.PullRequest) error { return c.pullFrom(s, req) }

func (c *client) pullFrom(s http.Handler, req wire.PullRequest) (err error) {
	defer func() {
		if r := recover(); r != nil {
			if r != http.ErrAbortHandler {
				panic(r)
			}
			err = io.ErrUnexpectedEOF
		}
	}()
	w := ask(s, "POST", "http://x/pull-updates", "", string(req.Append(nil)))
	if w.Code != 200 {
		return fmt.Errorf("status %d: %s", w.Code, w.Body)
	}
	frames := wire.NewFrameReader(w.Body)
	m, err := frames.Next(1 << 16)
	if err != nil {
		return err
	}
	h, err := wire.ParsePullHeader(m)
	if err != nil {
		return err
	}
	c.revision, c.count, c.came = h.Revision, h.PageCount, nil
	if c.pages == nil {
		c.pages = map[uint64][]byte{}
	}
	for {
		m, err := frames.Next(page.Size + 100)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		p, err := wire.ParsePageData(m)
		if err != nil {
			return err
		}
		c.pages[p.ID] = bytes.Clone(p.Image)
		c.came = append(c.came, p.ID)
	}
}

func (c *client) file() []byte {
	b := make([]byte, 0, c.count*page.Size)
	for i := range c.count {
		b = append(b, c.pages[i]...)
	}
	return b
}

func (c *client) digest() string {
	sum := sha256.Sum256(c.file())
	return hex.EncodeToString(sum[:])
}

// open opens what the client has with SQLite.
func (c *client) open(t *testing.T) *sql.DB {
	t.Helper()
	name := filepath.Join(t.TempDir(), "pulled.db")
	if err := os.WriteFile(name, c.file(), 0o644); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", name)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// check has SQLite judge what the client has.
func (c *client) check(t *testing.T, queries ...string) []string {
	t.Helper()
	db := c.open(t)
	defer func() { _ = db.Close() }()
	var out []string
	for _, q := range append([]string{"PRAGMA integrity_check"}, queries...) {
		var v string
		if err := db.QueryRow(q).Scan(&v); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
		out = append(out, v)
	}
	if out[0] != "ok" {
		t.Fatalf("integrity_check: %s", out[0])
	}
	return out[1:]
}

// TestPullUnderWrites lets writers move money between accounts while clients
// pull, the WAL is checkpointed under them, and the database shrinks and grows.
// Every state that a client sees must be one that was committed: the sum is
// right. At rest, increments have led to the very bytes of the server's file.
func TestPullUnderWrites(t *testing.T) {
	s := openServer(t, Config{CheckpointBytes: 200 << 10})
	exec(t, s, "CREATE TABLE a (id INTEGER PRIMARY KEY, money INTEGER, pad)",
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO a SELECT i, 100, randomblob(200) FROM n",
		"CREATE TABLE bulk (id INTEGER PRIMARY KEY, b)")
	seed := testseed.New(t)
	stop := make(chan struct{})
	var writers, readers sync.WaitGroup
	for w := range 3 {
		writers.Add(1)
		go func() {
			defer writers.Done()
			rnd := rand.New(rand.NewPCG(seed, uint64(w)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				a, b, n := rnd.IntN(500)+1, rnd.IntN(500)+1, rnd.IntN(50)
				sql := fmt.Sprintf("UPDATE a SET money = money + CASE id WHEN %d THEN %d ELSE %d END, pad = randomblob(300) WHERE id IN (%d, %d) AND %d <> %d", a, -n, n, a, b, a, b)
				if rnd.IntN(30) == 0 {
					sql = "INSERT INTO bulk(b) VALUES (zeroblob(50000))"
				} else if rnd.IntN(20) == 0 {
					sql = "DELETE FROM bulk"
				}
				if r := results(t, s, execute(sql))[0]; !strings.HasPrefix(r, `{"type":"ok"`) {
					t.Errorf("%s: %s", sql, r)
					return
				}
			}
		}()
	}
	clients := make([]client, 3)
	for i := range clients {
		readers.Add(1)
		go func() {
			defer readers.Done()
			for range 25 {
				c := &clients[i]
				if err := c.pull(s, wire.PullRequest{ClientRevision: c.revision}); err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				if got := c.check(t, "SELECT sum(money) FROM a"); got[0] != "50000" {
					t.Errorf("client %d sees a sum of %s at %s", i, got[0], c.revision)
					return
				}
			}
		}()
	}
	readers.Wait()
	close(stop)
	writers.Wait()
	want, err := s.Digest()
	if err != nil {
		t.Fatal(err)
	}
	epoch, _, _ := strings.Cut(s.history.revision(s.history.seq), "-")
	for i := range clients {
		c := &clients[i]
		if got, _, _ := strings.Cut(c.revision, "-"); got != epoch {
			t.Errorf("the epoch changed from %s to %s, though nobody else wrote", got, epoch)
		}
		if err := c.pull(s, wire.PullRequest{ClientRevision: c.revision}); err != nil || c.digest() != want {
			t.Errorf("client %d: %v, digest %s, want %s", i, err, c.digest(), want)
		}
	}
}

// TestForeignWrites lets another program, which checkpoints as it pleases, write
// to the file. Clients must never miss a page.
func TestForeignWrites(t *testing.T) {
	s := openServer(t, Config{})
	exec(t, s, "CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
	db, err := sql.Open("sqlite3", s.cfg.File+"?_busy_timeout=10000")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("PRAGMA wal_autocheckpoint=5"); err != nil {
		t.Fatal(err)
	}
	var c client
	seed := testseed.New(t)
	rnd := rand.New(rand.NewPCG(seed, 0))
	pulled, cut := 0, 0
	for i := range 300 {
		for range rnd.IntN(4) {
			if _, err := db.Exec("INSERT INTO t(v) VALUES (randomblob(?))", rnd.IntN(6000)); err != nil {
				t.Fatal(err)
			}
		}
		if rnd.IntN(3) == 0 {
			exec(t, s, fmt.Sprintf("UPDATE t SET v = randomblob(100) WHERE id %% 7 = %d", i%7))
		}
		if rnd.IntN(20) == 0 {
			if _, err := db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
				t.Fatal(err)
			}
		}
		if rnd.IntN(2) == 0 {
			continue
		}
		before := c.revision
		if err := c.pull(s, wire.PullRequest{ClientRevision: before}); err != nil {
			cut++
			c.revision = before
			continue
		}
		pulled++
		want, err := s.Digest()
		if err != nil {
			t.Fatal(err)
		}
		if c.digest() != want {
			t.Fatalf("round %d: digest %s at %s, want %s", i, c.digest(), c.revision, want)
		}
	}
	if pulled < 50 {
		t.Errorf("only %d pulls, %d cut", pulled, cut)
	}
}

// TestPinned reads a snapshot in parts while the database changes.
func TestPinned(t *testing.T) {
	s := openServer(t, Config{})
	exec(t, s, "CREATE TABLE t (id INTEGER PRIMARY KEY, v)",
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) INSERT INTO t SELECT i, printf('%0300d', i) FROM n")
	var whole, parts client
	if err := whole.pull(s, wire.PullRequest{}); err != nil {
		t.Fatal(err)
	}
	selector := func(first, last page.No) []byte {
		var set page.Set
		set.AddRange(first, last)
		b, err := set.Selector()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if err := parts.pull(s, wire.PullRequest{Selector: selector(1, 4)}); err != nil {
		t.Fatal(err)
	}
	at, count := parts.revision, parts.count
	for no := page.No(5); uint64(no) <= count; no += 3 {
		exec(t, s, fmt.Sprintf("UPDATE t SET v = v || 'changed' WHERE id %% 5 = %d", no%5), "INSERT INTO t(v) VALUES (zeroblob(9000))")
		if err := parts.pull(s, wire.PullRequest{ServerRevision: at, Selector: selector(no, no+2)}); err != nil {
			t.Fatal(err)
		}
		if parts.revision != at {
			t.Errorf("revision = %s, want %s", parts.revision, at)
		}
	}
	parts.count = count
	if parts.digest() != whole.digest() {
		t.Error("the parts are not the whole")
	}
	for _, at := range []string{"5", "x-1", at + "0", strings.Split(at, "-")[0] + "-+1"} {
		if err := parts.pull(s, wire.PullRequest{ServerRevision: at}); err == nil {
			t.Errorf("pull at %q succeeded", at)
		}
	}
}

// TestUnwrittenPages covers pages that SQLite adds to the database without
// writing them.
func TestUnwrittenPages(t *testing.T) {
	s := openServer(t, Config{})
	exec(t, s, "CREATE TABLE t (b)")
	var c client
	if err := c.pull(s, wire.PullRequest{}); err != nil {
		t.Fatal(err)
	}
	results(t, s, execute("BEGIN"), execute("INSERT INTO t VALUES (zeroblob(100000))"), execute("DELETE FROM t"), execute("COMMIT"))
	if err := c.pull(s, wire.PullRequest{ClientRevision: c.revision}); err != nil {
		t.Fatal(err)
	}
	want, err := s.Digest()
	if err != nil || c.digest() != want {
		t.Errorf("digest %s, want %s, %v; pages %v of %d", c.digest(), want, err, c.came, c.count)
	}
}

func TestGzip(t *testing.T) {
	s := openServer(t, Config{})
	exec(t, s, "CREATE TABLE t (v)", "INSERT INTO t VALUES (zeroblob(100000))")
	plain := do(s, "POST", "/pull-updates", "", "Accept-Encoding", "application/protobuf")
	packed := do(s, "POST", "/pull-updates", "", "Accept-Encoding", "br, gzip;q=1")
	if plain.Header().Get("Content-Length") != fmt.Sprint(plain.Body.Len()) || plain.Header().Get("Content-Encoding") != "" {
		t.Errorf("plain: %v, %d bytes", plain.Header(), plain.Body.Len())
	}
	if packed.Header().Get("Content-Encoding") != "gzip" || packed.Body.Len() > plain.Body.Len()/5 {
		t.Errorf("packed: %v, %d bytes of %d", packed.Header(), packed.Body.Len(), plain.Body.Len())
	}
}

func TestPipeline(t *testing.T) {
	s := openServer(t, Config{AnswerMax: 100_000})
	ok := func(result string) string { return `{"type":"ok","response":` + result + `}` }
	stmt := func(cols, rows, affected, id string) string {
		return ok(`{"type":"execute","result":{"cols":` + cols + `,"rows":` + rows + `,"affected_row_count":` + affected +
			`,"last_insert_rowid":` + id + `,"replication_index":null,"rows_read":N,"rows_written":N,"query_duration_ms":0}}`)
	}
	for _, c := range []struct{ name, request, want string }{
		{"create", execute("CREATE TABLE t (id INTEGER PRIMARY KEY, d DATETIME, b BOOLEAN)"), stmt(`[]`, `[]`, "0", `"0"`)},
		{"insert", execute("INSERT INTO t VALUES (7, '2020-01-01', 1), (9, 5, 2.0)"), stmt(`[]`, `[]`, "2", `"9"`)},
		{"exact types", execute("SELECT d, b, 9e999, -0.0 FROM t"),
			stmt(`[{"name":"d","decltype":"DATETIME"},{"name":"b","decltype":"BOOLEAN"},{"name":"9e999","decltype":null},{"name":"-0.0","decltype":null}]`,
				`[[{"type":"text","value":"2020-01-01"},{"type":"integer","value":"1"},{"type":"float","value":null},{"type":"float","value":-0.0}],`+
					`[{"type":"integer","value":"5"},{"type":"integer","value":"2"},{"type":"float","value":null},{"type":"float","value":-0.0}]]`, "0", `"0"`)},
		{"args", `{"type":"execute","stmt":{"sql":"SELECT ?2, ?1","args":[{"type":"blob","base64":"AAE"},{"type":"integer","value":"-9223372036854775808"}]}}`,
			stmt(`[{"name":"?2","decltype":null},{"name":"?1","decltype":null}]`, `[[{"type":"integer","value":"-9223372036854775808"},{"type":"blob","base64":"AAE"}]]`, "0", `"0"`)},
		{"named args", `{"type":"execute","stmt":{"sql":"SELECT :a, @b","named_args":[{"name":"b","value":{"type":"text","value":"x"}},{"name":":a","value":{"type":"null"}}]}}`,
			stmt(`[{"name":":a","decltype":null},{"name":"@b","decltype":null}]`, `[[{"type":"null"},{"type":"text","value":"x"}]]`, "0", `"0"`)},
		{"no rows wanted", `{"type":"execute","stmt":{"sql":"SELECT 1 AS x","want_rows":false}}`, stmt(`[{"name":"x","decltype":null}]`, `[]`, "0", `"0"`)},
		{"not UTF-8", execute("SELECT CAST(x'61ff' AS TEXT) AS x"), stmt(`[{"name":"x","decltype":null}]`, `[[{"type":"text","value":"a`+"\uFFFD"+`"}]]`, "0", `"0"`)},
		{"missing table", execute("SELECT * FROM missing"), `{"type":"error","error":{"message":"no such table: missing","code":"SQLITE_ERROR"}}`},
		{"constraint", execute("INSERT INTO t(id) VALUES (7)"), `{"type":"error","error":{"message":"UNIQUE constraint failed: t.id","code":"SQLITE_CONSTRAINT","extended_code":"SQLITE_CONSTRAINT_PRIMARYKEY"}}`},
		{"many statements", execute("SELECT 1; SELECT 2"), `{"type":"error","error":{"message":"there is more than one statement","code":"SQL_MANY_STATEMENTS"}}`},
		{"trailing comment", execute("SELECT 1 AS x; -- done"), stmt(`[{"name":"x","decltype":null}]`, `[[{"type":"integer","value":"1"}]]`, "0", `"0"`)},
		{"no statement", execute(" -- "), `{"type":"error","error":{"message":"there is no statement","code":"SQL_NO_STATEMENT"}}`},
		{"too few args", execute("SELECT ?"), `{"type":"error","error":{"message":"0 arguments for 1 parameters","code":"ARGS_INVALID"}}`},
		{"too many rows", execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"), `{"type":"error","error":{"message":"the rows are too large to be answered","code":"RESPONSE_TOO_LARGE"}}`},
		{"attach", execute("ATTACH '/tmp/x' AS x"), `{"type":"error","error":{"message":"not authorized","code":"SQLITE_AUTH"}}`},
		{"vacuum into", execute("VACUUM INTO '/tmp/x'"), `{"type":"error","error":{"message":"authorization denied","code":"SQLITE_AUTH"}}`},
		{"checkpoint", execute("PRAGMA wal_checkpoint"), `{"type":"error","error":{"message":"not authorized","code":"SQLITE_AUTH"}}`},
		{"journal mode", execute("PRAGMA journal_mode=DELETE"), `{"type":"error","error":{"message":"not authorized","code":"SQLITE_AUTH"}}`},
		{"extension", execute("SELECT load_extension('x')"), `{"type":"error","error":{"message":"not authorized to use function: load_extension","code":"SQLITE_AUTH"}}`},
		{"sequence", `{"type":"sequence","sql":"BEGIN; CREATE TABLE s (v); INSERT INTO s VALUES (1); COMMIT;"}`, ok(`{"type":"sequence"}`)},
		{"sequence stops", `{"type":"sequence","sql":"INSERT INTO s VALUES (2); SELEC; INSERT INTO s VALUES (3)"}`, `{"type":"error","error":{"message":"near \"SELEC\": syntax error","code":"SQLITE_ERROR"}}`},
		{"after sequence", execute("SELECT group_concat(v) AS v FROM s"), stmt(`[{"name":"v","decltype":null}]`, `[[{"type":"text","value":"1,2"}]]`, "0", `"0"`)},
		{"describe", `{"type":"describe","sql":"SELECT id, :x FROM t WHERE id = ?"}`, ok(`{"type":"describe","result":{"params":[{"name":":x"},{"name":null}],"cols":[{"name":"id","decltype":"INTEGER"},{"name":":x","decltype":null}],"is_explain":false,"is_readonly":true}}`)},
		{"autocommit", `{"type":"get_autocommit"}`, ok(`{"type":"get_autocommit","is_autocommit":true}`)},
		{"close", `{"type":"close"}`, ok(`{"type":"close"}`)},
		{"unknown", `{"type":"dance"}`, `{"type":"error","error":{"message":"unknown request \"dance\"","code":"HRANA_PROTO_ERROR"}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := counters.ReplaceAllString(results(t, s, c.request)[0], `"$1":N`)
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestStreams shows what lasts from one request of a pipeline to the next, and
// that nothing lasts longer.
func TestStreams(t *testing.T) {
	s := openServer(t, Config{})
	exec(t, s, "CREATE TABLE t (v)")
	got := results(t, s, `{"type":"store_sql","sql_id":3,"sql":"INSERT INTO t VALUES (1)"}`, execute("BEGIN"),
		`{"type":"execute","stmt":{"sql_id":3}}`, `{"type":"get_autocommit"}`, execute("PRAGMA foreign_keys=ON"), `{"type":"close_sql","sql_id":3}`,
		`{"type":"execute","stmt":{"sql_id":3}}`)
	if !strings.Contains(got[3], `"is_autocommit":false`) || !strings.Contains(got[6], "SQL_NOT_FOUND") {
		t.Errorf("results = %v", got)
	}
	got = results(t, s, `{"type":"get_autocommit"}`, execute("SELECT count(*) FROM t"), execute("PRAGMA foreign_keys"))
	if !strings.Contains(got[0], `"is_autocommit":true`) || !strings.Contains(got[1], `"value":"0"`) || !strings.Contains(got[2], `"value":"0"`) {
		t.Errorf("the transaction that was left open has left traces: %v", got)
	}
}

// TestConditions runs the batch of PROTOCOL.md §4.4 with a failing statement.
func TestConditions(t *testing.T) {
	s := openServer(t, Config{})
	exec(t, s, "CREATE TABLE t (v UNIQUE)")
	batch := `{"type":"batch","batch":{"steps":[{"stmt":{"sql":"BEGIN IMMEDIATE"}},` +
		`{"condition":{"type":"ok","step":0},"stmt":{"sql":"INSERT INTO t VALUES (1)"}},` +
		`{"condition":{"type":"ok","step":1},"stmt":{"sql":"INSERT INTO t VALUES (%d)"}},` +
		`{"condition":{"type":"ok","step":2},"stmt":{"sql":"COMMIT"}},` +
		`{"condition":{"type":"and","conds":[{"type":"ok","step":0},{"type":"not","cond":{"type":"is_autocommit"}}]},"stmt":{"sql":"ROLLBACK"}},` +
		`{"condition":{"type":"error","step":2},"stmt":{"sql":"SELECT 'failed'"}},` +
		`{"condition":{"type":"error","step":3},"stmt":{"sql":"SELECT 'skipped is not failed'"}},` +
		`{"condition":{"type":"ok","step":7},"stmt":{"sql":"SELECT 'not yet'"}},` +
		`{"condition":{"type":"ok","step":4000000000},"stmt":{"sql":"SELECT 'never'"}}]}}`
	shape := func(result string) (out string) {
		var r wire.StreamResult
		if err := json.Unmarshal([]byte(result), &r); err != nil {
			t.Fatal(err)
		}
		var b wire.BatchResult
		if err := json.Unmarshal(r.Response.Result, &b); err != nil {
			t.Fatal(err)
		}
		for i := range b.StepResults {
			switch {
			case b.StepResults[i] != nil:
				out += "o"
			case b.StepErrors[i] != nil:
				out += "e"
			default:
				out += "-"
			}
		}
		return out
	}
	if got := shape(results(t, s, fmt.Sprintf(batch, 1))[0]); got != "ooe-oo---" {
		t.Errorf("failing batch = %s", got)
	}
	if got := shape(results(t, s, fmt.Sprintf(batch, 2))[0]); got != "oooo-----" {
		t.Errorf("batch = %s", got)
	}
	if got := results(t, s, execute("SELECT count(*) FROM t"))[0]; !strings.Contains(got, `"value":"2"`) {
		t.Errorf("rows = %s", got)
	}
}

func TestRefusals(t *testing.T) {
	tokens := map[string]Access{"rw": ReadWrite, "ro": ReadOnly}
	s := openServer(t, Config{BodyMax: 1000, Authorize: func(_ context.Context, token string) Access { return tokens[token] }})
	for _, c := range []struct {
		name, method, path, body, token string
		status                          int
		holds                           string
	}{
		{"no token", "POST", "/pull-updates", "", "", 401, "Unauthorized"},
		{"wrong token", "POST", "/v2/pipeline", `{"requests":[]}`, "no", 401, "Unauthorized"},
		{"unknown path", "POST", "/v1/x", "", "rw", 404, "not found"},
		{"wrong method", "GET", "/pull-updates", "", "rw", 404, "not found"},
		{"browser", "OPTIONS", "/v2/pipeline", "", "", 204, ""},
		{"probe", "GET", "/v3", "", "", 200, ""},
		{"not JSON", "POST", "/v2/pipeline", "{", "rw", 400, "pipeline"},
		{"baton", "POST", "/v3/pipeline", `{"baton":"x","requests":[]}`, "rw", 400, "STREAM_EXPIRED"},
		{"too long", "POST", "/v2/pipeline", strings.Repeat(" ", 1001), "rw", 413, "longer"},
		{"not protobuf", "POST", "/pull-updates", "\xff", "rw", 400, "decode"},
		{"bad selector", "POST", "/pull-updates", "\x2a\x01x", "rw", 400, "selector"},
		{"logical log", "POST", "/pull-updates", "\x40\x01", "rw", 400, "logical"},
		{"read", "POST", "/v2/pipeline", `{"requests":[` + execute("SELECT 1 AS x") + `]}`, "ro", 200, `"1"`},
		{"read-only", "POST", "/v2/pipeline", `{"requests":[` + execute("CREATE TABLE x (y)") + `]}`, "ro", 200, "SQLITE_READONLY"},
		{"read-only stays", "POST", "/v2/pipeline", `{"requests":[` + execute("PRAGMA query_only=0") + `]}`, "ro", 200, "SQLITE_AUTH"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := do(s, c.method, c.path, c.body, "Authorization", "Bearer "+c.token)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.holds) {
				t.Errorf("answer = %d %s, want %d with %q", w.Code, w.Body, c.status, c.holds)
			}
			if w.Header().Get("Access-Control-Allow-Origin") != "*" {
				t.Error("browsers are kept out")
			}
		})
	}
}

// TestTimeout shows that a statement that never ends is ended, and that nothing
// of its pipeline is kept.
func TestTimeout(t *testing.T) {
	s := openServer(t, Config{Timeout: 50 * time.Millisecond})
	exec(t, s, "CREATE TABLE t (v)")
	endless := execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")
	w := do(s, "POST", "/v2/pipeline", `{"requests":[`+execute("BEGIN")+`,`+execute("INSERT INTO t VALUES (1)")+`,`+endless+`,`+execute("COMMIT")+`]}`)
	if w.Code != 503 {
		t.Errorf("answer = %d %s", w.Code, w.Body)
	}
	if got := results(t, s, execute("SELECT count(*) FROM t"))[0]; !strings.Contains(got, `"value":"0"`) {
		t.Errorf("rows = %s", got)
	}
}

// TestOpenRefuses shows that files that cannot be synced are refused.
func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, pragma := range map[string]string{"pages": "PRAGMA page_size=8192", "text": "PRAGMA encoding='UTF-16'"} {
		file := filepath.Join(dir, name)
		c, err := (&sqlite3.SQLiteDriver{}).Open(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.(*sqlite3.SQLiteConn).Exec(pragma+"; CREATE TABLE t (v)", nil); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if s, err := Open(Config{File: file}); err == nil {
			_ = s.Close()
			t.Errorf("%s: Open succeeded", name)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "junk"), bytes.Repeat([]byte("junk"), 3000), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []Config{{}, {File: filepath.Join(dir, "junk")}, {File: filepath.Join(dir, "ok"), Timeout: -1}} {
		if s, err := Open(cfg); err == nil {
			_ = s.Close()
			t.Errorf("Open(%+v) succeeded", cfg)
		}
	}
	// A path with characters that mean something in a URL.
	s := openServer(t, Config{File: filepath.Join(dir, "a b?c#d%20.db")})
	exec(t, s, "CREATE TABLE t (v)")
	if _, err := os.Stat(s.cfg.File); err != nil {
		t.Error(err)
	}
}

// TestLongPoll covers the wake-up by a commit, the end of the time, and Close.
func TestLongPoll(t *testing.T) {
	s := openServer(t, Config{LongPollMax: 100 * time.Millisecond})
	exec(t, s, "CREATE TABLE t (v)")
	var c client
	if err := c.pull(s, wire.PullRequest{}); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := c.pull(s, wire.PullRequest{ClientRevision: c.revision, LongPollMillis: math.MaxUint32}); err != nil || len(c.came) != 0 {
		t.Errorf("long poll = %v, %d pages", err, len(c.came))
	}
	if d := time.Since(begun); d < 100*time.Millisecond || d > 20*time.Second {
		t.Errorf("long poll took %v", d)
	}
	s.cfg.LongPollMax = time.Minute
	done := make(chan error)
	go func() { done <- c.pull(s, wire.PullRequest{ClientRevision: c.revision, LongPollMillis: 60_000}) }()
	exec(t, s, "INSERT INTO t VALUES (1)")
	if err := <-done; err != nil || len(c.came) == 0 {
		t.Errorf("long poll = %v, %d pages", err, len(c.came))
	}
	go func() { done <- c.pull(s, wire.PullRequest{ClientRevision: c.revision, LongPollMillis: 60_000}) }()
	time.Sleep(10 * time.Millisecond)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	<-done
}
