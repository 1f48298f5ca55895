package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tursosync/tursosync/internal/wire"
)

// talk sends requests on a stream and returns its next baton and the results.
func talk(t testing.TB, s http.Handler, baton *string, token string, requests ...string) (*string, []string) {
	t.Helper()
	b, err := json.Marshal(baton)
	if err != nil {
		t.Fatal(err)
	}
	w := ask(s, "POST", "http://x/v3/pipeline", token, `{"baton":`+string(b)+`,"requests":[`+strings.Join(requests, ",")+`]}`)
	var p struct {
		Baton   *string           `json:"baton"`
		Results []json.RawMessage `json:"results"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != 200 || len(p.Results) != len(requests) {
		return nil, []string{fmt.Sprint(w.Code, " ", w.Body)}
	}
	out := make([]string, len(p.Results))
	for i, r := range p.Results {
		out[i] = string(r)
	}
	return p.Baton, out
}

const (
	isAutocommit = `{"type":"get_autocommit"}`
	closeStream  = `{"type":"close"}`
)

// TestBatons lets a transaction span requests.
func TestBatons(t *testing.T) {
	s := openServer(t, Config{})
	exec(t, s, "CREATE TABLE t (v)")
	baton, got := talk(t, s, nil, "", execute("BEGIN IMMEDIATE"), execute("INSERT INTO t VALUES (1)"))
	if baton == nil || s.streams() != 1 {
		t.Fatalf("no baton: %v", got)
	}
	first := *baton
	baton, got = talk(t, s, baton, "", `{"type":"store_sql","sql_id":1,"sql":"INSERT INTO t VALUES (2)"}`, isAutocommit, execute("SELECT count(*) AS n FROM t"))
	if baton == nil || *baton == first || !strings.Contains(got[1], "false") || !strings.Contains(got[2], `"1"`) {
		t.Fatalf("second request: %v", got)
	}
	if _, got := talk(t, s, &first, "", isAutocommit); !strings.Contains(got[0], "400") || !strings.Contains(got[0], "STREAM_EXPIRED") {
		t.Errorf("a baton is good twice: %v", got)
	}
	if got := results(t, s, execute("SELECT count(*) AS n FROM t"))[0]; !strings.Contains(got, `"0"`) {
		t.Errorf("others see what is not committed: %s", got)
	}
	baton, got = talk(t, s, baton, "", `{"type":"execute","stmt":{"sql_id":1}}`, execute("COMMIT"), closeStream)
	if baton != nil || s.streams() != 0 {
		t.Errorf("closed: %v, %v", baton, got)
	}
	if got := results(t, s, execute("SELECT count(*) AS n FROM t"))[0]; !strings.Contains(got, `"2"`) {
		t.Errorf("after commit: %s", got)
	}

	// What lasts without a transaction.
	baton, _ = talk(t, s, nil, "", execute("INSERT INTO t VALUES (3)"))
	if baton == nil || s.streams() != 0 {
		t.Errorf("a stream with nothing to keep costs a connection")
	}
	baton, got = talk(t, s, baton, "", execute("SELECT last_insert_rowid() AS r"), execute("CREATE TEMP TABLE tmp AS SELECT 7 AS v"), execute("PRAGMA foreign_keys=1"))
	if !strings.Contains(got[0], `"3"`) || s.streams() != 1 {
		t.Errorf("last_insert_rowid: %v", got)
	}
	baton, got = talk(t, s, baton, "", execute("SELECT v FROM tmp"), execute("PRAGMA foreign_keys"))
	if !strings.Contains(got[0], `"7"`) || !strings.Contains(got[1], `"1"`) {
		t.Errorf("temporary table and setting: %v", got)
	}
	if _, got := talk(t, s, baton, "", closeStream); !strings.Contains(got[0], "close") || s.streams() != 0 {
		t.Errorf("close: %v", got)
	}
	for _, b := range []string{"", "bare.", "bare.x", "bare.99999999999999999999", "x"} {
		if _, got := talk(t, s, &b, "", isAutocommit); !strings.Contains(got[0], "400") {
			t.Errorf("baton %q: %v", b, got)
		}
	}
}

// TestStreamPermission shows that each request counts by its own token.
func TestStreamPermission(t *testing.T) {
	tokens := map[string]Access{"rw": ReadWrite, "ro": ReadOnly}
	s := openServer(t, Config{Authorize: func(_ context.Context, token string) Access { return tokens[token] }})
	baton, _ := talk(t, s, nil, "rw", execute("CREATE TABLE t (v)"), execute("BEGIN"))
	baton, got := talk(t, s, baton, "ro", execute("INSERT INTO t VALUES (1)"))
	if !strings.Contains(got[0], "SQLITE_READONLY") {
		t.Errorf("read-only token on a stream: %v", got)
	}
	baton, got = talk(t, s, baton, "rw", execute("INSERT INTO t VALUES (1)"))
	if !strings.Contains(got[0], `"ok"`) {
		t.Errorf("read-write token on a stream: %v", got)
	}
	if _, got := talk(t, s, baton, "", execute("COMMIT")); !strings.Contains(got[0], "401") {
		t.Errorf("no token on a stream: %v", got)
	}
	if _, got := talk(t, s, baton, "rw", execute("COMMIT"), closeStream); !strings.Contains(got[0], `"ok"`) {
		t.Errorf("after a refusal: %v", got)
	}
}

// TestStreamEnds covers the ways in which the server ends a stream: what it has
// open is rolled back, and others can write.
func TestStreamEnds(t *testing.T) {
	begin := []string{execute("BEGIN IMMEDIATE"), execute("INSERT INTO t VALUES ('lost')")}
	push := `{"type":"batch","batch":{"steps":[{"stmt":{"sql":"BEGIN IMMEDIATE"}},{"stmt":{"sql":"INSERT INTO child VALUES (1)"}},{"stmt":{"sql":" commit"}}]}}`
	for _, c := range []struct {
		name string
		cfg  Config
		do   func(t *testing.T, s *Server)
	}{
		{"idle", Config{StreamIdle: 20 * time.Millisecond}, func(t *testing.T, s *Server) {
			baton, _ := talk(t, s, nil, "", begin...)
			eventually(t, "the stream ends", func() bool { return s.streams() == 0 })
			if _, got := talk(t, s, baton, "", isAutocommit); !strings.Contains(got[0], "STREAM_EXPIRED") {
				t.Errorf("baton of an idle stream: %v", got)
			}
		}},
		{"busy too long", Config{TransactionMax: 50 * time.Millisecond}, func(t *testing.T, s *Server) {
			baton, _ := talk(t, s, nil, "", begin...)
			begun := time.Now()
			for baton != nil {
				if time.Since(begun) > 20*time.Second {
					t.Fatal("the transaction goes on")
				}
				baton, _ = talk(t, s, baton, "", isAutocommit)
			}
		}},
		{"too many", Config{StreamsMax: 2}, func(t *testing.T, s *Server) {
			var batons []*string
			for range 3 {
				b, _ := talk(t, s, nil, "", execute("BEGIN"))
				batons = append(batons, b)
			}
			if batons[1] == nil || batons[2] != nil {
				t.Errorf("batons %v", batons)
			}
			for _, b := range batons[:2] {
				talk(t, s, b, "", closeStream)
			}
		}},
		{"a push whose COMMIT failed", Config{}, func(t *testing.T, s *Server) {
			exec(t, s, "CREATE TABLE parent (id INTEGER PRIMARY KEY)", "CREATE TABLE child (p REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
			baton, got := talk(t, s, nil, "", execute("PRAGMA foreign_keys=1"), push)
			if baton != nil || !strings.Contains(got[1], "FOREIGN KEY") {
				t.Errorf("push: %v, %v", baton, got)
			}
		}},
		{"gone client", Config{}, func(t *testing.T, s *Server) {
			ctx, cancel := context.WithCancel(context.Background())
			st, err := s.attach(nil, ReadWrite)
			if err != nil {
				t.Fatal(err)
			}
			cancel()
			if _, err := s.run(ctx, st, []wire.StreamRequest{{Type: wire.TypeClose}}); err == nil {
				t.Error("run succeeded")
			}
			st.close()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openServer(t, c.cfg)
			exec(t, s, "CREATE TABLE t (v)")
			c.do(t, s)
			if s.streams() != 0 {
				t.Errorf("%d streams are left", s.streams())
			}
			exec(t, s, "INSERT INTO t VALUES ('kept')")
			if got := results(t, s, execute("SELECT group_concat(v) AS v FROM t"))[0]; !strings.Contains(got, `"kept"`) {
				t.Errorf("rows: %s", got)
			}
		})
	}
	// Close ends what waits.
	s := openServer(t, Config{})
	exec(t, s, "CREATE TABLE t (v)")
	talk(t, s, nil, "", begin...)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestStoredSQLIsBounded(t *testing.T) {
	s := openServer(t, Config{})
	var requests []string
	for i := range storedMax + 1 {
		requests = append(requests, fmt.Sprintf(`{"type":"store_sql","sql_id":%d,"sql":"SELECT 1"}`, i))
	}
	requests = append(requests, `{"type":"store_sql","sql_id":1,"sql":"SELECT 2"}`, fmt.Sprintf(`{"type":"store_sql","sql_id":1,"sql":"%s"}`, strings.Repeat(" ", storedBytesMax)))
	got := results(t, s, requests...)
	for i, r := range got {
		if full := strings.Contains(r, "SQL_STORE_FULL"); full != (i == storedMax || i == len(got)-1) {
			t.Errorf("request %d: %s", i, r)
		}
	}
}

// lines runs a cursor.
func lines(t *testing.T, s http.Handler, body string) (baton *string, out []string) {
	t.Helper()
	w := ask(s, "POST", "http://x/v3/cursor", "", body)
	out = strings.Split(strings.TrimSuffix(w.Body.String(), "\n"), "\n")
	var head cursorHead
	if err := json.Unmarshal([]byte(out[0]), &head); err != nil || w.Code != 200 {
		t.Fatalf("cursor = %d %s", w.Code, w.Body)
	}
	return head.Baton, out[1:]
}

func TestCursor(t *testing.T) {
	s := openServer(t, Config{AnswerMax: 1000})
	exec(t, s, "CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
	baton, got := lines(t, s, `{"baton":null,"batch":{"steps":[{"stmt":{"sql":"BEGIN"}},{"stmt":{"sql":"INSERT INTO t(v) VALUES ('a<b'),(x'00') RETURNING id, v"}},`+
		`{"stmt":{"sql":"SELEC"}},{"condition":{"type":"error","step":2},"stmt":{"sql":"SELECT 1.5 AS f","want_rows":false}},{"condition":{"type":"ok","step":2},"stmt":{"sql":"SELECT 2"}}]}}`)
	want := []string{
		`{"type":"step_begin","step":0,"cols":[]}`, `{"type":"step_end","affected_row_count":0,"last_insert_rowid":"0"}`,
		`{"type":"step_begin","step":1,"cols":[{"name":"id","decltype":"INTEGER"},{"name":"v","decltype":null}]}`,
		`{"type":"row","row":[{"type":"integer","value":"1"},{"type":"text","value":"a<b"}]}`, `{"type":"row","row":[{"type":"integer","value":"2"},{"type":"blob","base64":"AA"}]}`,
		`{"type":"step_end","affected_row_count":2,"last_insert_rowid":"2"}`,
		`{"type":"step_error","step":2,"error":{"message":"near \"SELEC\": syntax error","code":"SQLITE_ERROR"}}`,
		`{"type":"step_begin","step":3,"cols":[{"name":"f","decltype":null}]}`, `{"type":"step_end","affected_row_count":0,"last_insert_rowid":"2"}`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// The transaction goes on, here and with the other endpoint. More rows than a
	// pipeline would answer.
	b, _ := json.Marshal(baton)
	baton, got = lines(t, s, `{"baton":`+string(b)+`,"batch":{"steps":[{"stmt":{"sql":"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT i FROM n"}}]}}`)
	if len(got) != 5002 {
		t.Errorf("%d lines", len(got))
	}
	if _, r := talk(t, s, baton, "", isAutocommit, execute("ROLLBACK"), closeStream); !strings.Contains(r[0], "false") {
		t.Errorf("after cursors: %v", r)
	}
	for _, body := range []string{"{", `{"baton":null}`, `{"baton":"x","batch":{"steps":[]}}`} {
		if w := ask(s, "POST", "http://x/v3/cursor", "", body); w.Code != 400 {
			t.Errorf("%s = %d %s", body, w.Code, w.Body)
		}
	}
	if s.streams() != 0 {
		t.Errorf("%d streams are left", s.streams())
	}
}

// TestStreamsTogether lets many interactive transactions compete.
func TestStreamsTogether(t *testing.T) {
	s := openServer(t, Config{CheckpointBytes: 50 << 10})
	exec(t, s, "CREATE TABLE n (v INTEGER)", "INSERT INTO n VALUES (0)")
	var wg sync.WaitGroup
	for range 6 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 20 {
				baton, got := talk(t, s, nil, "", execute("BEGIN IMMEDIATE"), execute("UPDATE n SET v = v + 1"))
				if baton == nil || !strings.Contains(got[1], `"ok"`) {
					t.Errorf("begin: %v", got)
					return
				}
				if _, got = talk(t, s, baton, "", execute("COMMIT"), closeStream); !strings.Contains(got[0], `"ok"`) {
					t.Errorf("commit: %v", got)
					return
				}
			}
		}()
	}
	wg.Wait()
	if got := results(t, s, execute("SELECT v FROM n"))[0]; !strings.Contains(got, `"120"`) {
		t.Errorf("sum: %s", got)
	}
}

// TestReadOnlyTransaction covers what libsql's clients begin for reading.
func TestReadOnlyTransaction(t *testing.T) {
	s := openServer(t, Config{})
	exec(t, s, "CREATE TABLE t (v)")
	baton, got := talk(t, s, nil, "", execute("begin transaction  readonly;"), execute("SELECT count(*) FROM t"), execute("INSERT INTO t VALUES (1)"))
	if !strings.Contains(got[1], `"ok"`) || !strings.Contains(got[2], "SQLITE_READONLY") {
		t.Errorf("in the transaction: %v", got)
	}
	_, got = talk(t, s, baton, "", execute("INSERT INTO t VALUES (1)"), execute("COMMIT"), execute("INSERT INTO t VALUES (1)"), closeStream)
	if !strings.Contains(got[0], "SQLITE_READONLY") || !strings.Contains(got[1], `"ok"`) || !strings.Contains(got[2], `"ok"`) {
		t.Errorf("its second request: %v", got)
	}
}
