package remote_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/remote"
	"github.com/tursosync/tursosync/internal/wire"
	"github.com/tursosync/tursosync/syncer"
)

// image is a page 1 that SQLite could read, changed as a test needs it.
func image(change func(b []byte)) []byte {
	b := make([]byte, page.Size)
	copy(b, "SQLite format 3\x00\x10\x00\x02\x02\x00")
	if change != nil {
		change(b)
	}
	return b
}

// answer builds the body of a pull.
func answer(h wire.PullHeader, pages ...wire.PageData) []byte {
	b := wire.AppendFrame(nil, h.Append(nil))
	for _, p := range pages {
		b = wire.AppendFrame(b, p.Append(nil))
	}
	return b
}

// TestStrangePulls feeds answers that must not be taken for pages.
func TestStrangePulls(t *testing.T) {
	raw := func(count uint64) wire.PullHeader {
		return wire.PullHeader{Revision: "r", PageCount: count, Raw: true}
	}
	first := wire.PageData{ID: 0, Image: image(nil)}
	second := wire.PageData{ID: 1, Image: make([]byte, page.Size)}
	for _, c := range []struct {
		name    string
		body    []byte
		kind    remote.Kind
		outcome remote.Outcome
		holds   string
	}{
		{"empty", nil, remote.Retry, remote.Unknown, "empty"},
		{"cut in header", answer(raw(1), first)[:3], remote.Retry, remote.Unknown, "unexpected EOF"},
		{"cut in page", answer(raw(1), first)[:200], remote.Retry, remote.Unknown, "unexpected EOF"},
		{"garbage", []byte("hello world, this is not protobuf"), remote.Retry, remote.Unknown, ""},
		{"endless header", append([]byte{0xff, 0xff, 0xff, 0x7f}, make([]byte, 100)...), remote.Retry, remote.Unknown, "longer than allowed"},
		{"MVCC database", answer(wire.PullHeader{Revision: "0", Raw: true, Protocol: wire.ProtocolMVCC}), remote.Unsupported, remote.Answered, "MVCC"},
		{"MVCC stream", answer(wire.PullHeader{Revision: "0", Stream: wire.StreamMVCC}), remote.Unsupported, remote.Answered, "MVCC"},
		{"MVCC log", append([]byte{2}, 0x3a, 0), remote.Unsupported, remote.Answered, "MVCC"},
		{"MVCC page", answer(raw(1), wire.PageData{Image: image(func(b []byte) { b[18], b[19] = 0xff, 0xff })}), remote.Unsupported, remote.Answered, "MVCC"},
		{"unknown stream", answer(wire.PullHeader{Revision: "0", Stream: 7}), remote.Unsupported, remote.Answered, "kind 7"},
		{"unknown mode", answer(wire.PullHeader{Revision: "0", Raw: true, Mode: 2}), remote.Unsupported, remote.Answered, "mode 2"},
		{"zstd", answer(wire.PullHeader{Revision: "0", Zstd: &wire.Zstd{Level: 3}}), remote.Unsupported, remote.Answered, "zstd"},
		{"no encoding", answer(wire.PullHeader{Revision: "0", PageCount: 1}, first), remote.Retry, remote.Unknown, "no encoding"},
		{"twice", answer(raw(2), first, second, second), remote.Retry, remote.Unknown, "twice"},
		{"behind the end", answer(raw(1), first, second), remote.Retry, remote.Unknown, "page 2 of a database of 1"},
		{"no such page", answer(raw(1<<32-2), wire.PageData{ID: 1 << 32, Image: second.Image}), remote.Retry, remote.Unknown, "beyond"},
		{"too many pages", answer(raw(1 << 40)), remote.Retry, remote.Unknown, "pages"},
		{"short page", answer(raw(2), wire.PageData{ID: 1, Image: make([]byte, 1024)}), remote.Unsupported, remote.Answered, "1024 bytes"},
		{"long page", answer(raw(2), wire.PageData{ID: 1, Image: make([]byte, 8192)}), remote.Retry, remote.Unknown, "longer than allowed"},
		{"page size", answer(raw(1), wire.PageData{Image: image(func(b []byte) { b[16] = 0x20 })}), remote.Unsupported, remote.Answered, "4096"},
		{"reserved bytes", answer(raw(1), wire.PageData{Image: image(func(b []byte) { b[20] = 28 })}), remote.Unsupported, remote.Answered, "reserves 28"},
		{"encrypted", answer(raw(1), wire.PageData{Image: make([]byte, page.Size)}), remote.Retry, remote.Unknown, "not that of a SQLite database"},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", wire.ProtobufMedia)
				_, _ = w.Write(c.body)
			}))
			defer srv.Close()
			err := open(t, srv.URL).Fetch(context.Background(), syncer.PullRequest{}, &file{})
			var e *remote.Error
			if !errors.As(err, &e) || e.Kind != c.kind || e.Outcome != c.outcome || !strings.Contains(err.Error(), c.holds) {
				t.Errorf("Fetch = %v (%+v), want %v, %v, %q", err, e, c.kind, c.outcome, c.holds)
			}
		})
	}

	// What is unusual, but in order.
	for name, body := range map[string][]byte{
		"any order":    answer(raw(2), second, first),
		"replace base": answer(wire.PullHeader{Revision: "r", PageCount: 1, Raw: true, Mode: wire.ReplaceBase}, first),
		"echo":         answer(wire.PullHeader{Revision: "r", PageCount: 99}),
		"no protocol":  answer(raw(0)),
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(body) }))
		var f file
		if err := open(t, srv.URL).Fetch(context.Background(), syncer.PullRequest{}, &f); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if f.head.ReplaceBase != (name == "replace base") {
			t.Errorf("%s: header %+v", name, f.head)
		}
		srv.Close()
	}
}

// TestSinkErrors shows that the sink's own errors come through untouched.
func TestSinkErrors(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(answer(wire.PullHeader{Revision: "r", PageCount: 1, Raw: true}, wire.PageData{Image: image(nil)}))
	}))
	defer srv.Close()
	for _, s := range []sink{{header: io.EOF}, {page: io.EOF}} {
		if err := open(t, srv.URL).Fetch(context.Background(), syncer.PullRequest{}, s); err != io.EOF {
			t.Errorf("Fetch = %v, want the sink's error", err)
		}
	}
}

type sink struct{ header, page error }

func (s sink) Header(syncer.PullHeader) error { return s.header }
func (s sink) Page(page.No, []byte) error     { return s.page }

// TestPullRequests looks at what is sent.
func TestPullRequests(t *testing.T) {
	var got []byte
	var head http.Header
	var path string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, _ = io.ReadAll(r.Body)
		head, path = r.Header, r.URL.Path
		if r.ContentLength != int64(len(got)) {
			t.Errorf("content length %d of %d", r.ContentLength, len(got))
		}
		_, _ = w.Write(answer(wire.PullHeader{Revision: "r"}))
	}))
	defer srv.Close()
	r, err := remote.New(remote.Config{URL: srv.URL + "/base//", Token: func(context.Context) (string, error) { return "tok", nil },
		Header: http.Header{"x-turso-encryption-key": {"k"}}})
	if err != nil {
		t.Fatal(err)
	}
	var some, none page.Set
	some.AddRange(1, 10)
	for want, req := range map[string]syncer.PullRequest{
		"":             {},
		"1a0135":       {Have: "5"},
		"1a013020d00f": {Have: "0", LongPoll: 2 * time.Second},
		"1a01302001":   {Have: "0", LongPoll: 1},
		"12033136302a0f3b3000000100000900010000000900": {At: "160", Pages: &some},
		"2a083a30000000000000":                         {Pages: &none},
	} {
		if err := r.Fetch(context.Background(), req, &file{}); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintf("%x", got) != want {
			t.Errorf("body of %+v = %x, want %s", req, got, want)
		}
	}
	for k, want := range map[string]string{"Authorization": "Bearer tok", "Content-Type": "application/protobuf", "X-Turso-Encryption-Key": "k", "User-Agent": remote.DefaultUserAgent} {
		if head.Get(k) != want {
			t.Errorf("%s = %q, want %q", k, head.Get(k), want)
		}
	}
	if path != "/base/pull-updates" {
		t.Errorf("path = %s", path)
	}
}

// TestAnswers feeds HTTP answers and looks at the error of a push.
func TestAnswers(t *testing.T) {
	batch := syncer.Batch{ClientID: "c", Last: 1, Mutations: []cdc.Mutation{{SQL: "x", Change: 1}}}
	html := `<!DOCTYPE html><html><head><title>Log in to the hotel</title></head></html>`
	for _, c := range []struct {
		name    string
		handler http.HandlerFunc
		kind    remote.Kind
		outcome remote.Outcome
		holds   string
	}{
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://example.com/?token=x", http.StatusFound)
		}, remote.Retry, remote.Answered, "redirect"},
		{"login page", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write([]byte(html))
		}, remote.Retry, remote.Unknown, "Log in to the hotel"},
		{"400", func(w http.ResponseWriter, r *http.Request) { http.Error(w, `{"error":"bad step"}`, 400) }, remote.Disagreement, remote.Answered, "400: bad step"},
		{"401", func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, `{"error":"Unauthorized: expired"}`, http.StatusUnauthorized)
		}, remote.Auth, remote.Answered, "Unauthorized: expired"},
		{"403", func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, `{"error":{"message":"no write"}}`, http.StatusForbidden)
		}, remote.Auth, remote.Answered, "no write"},
		{"404", func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, remote.Retry, remote.Answered, "404"},
		{"413", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(413) }, remote.TooLarge, remote.Answered, "too large"},
		{"500 text", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "Internal Server Error: x", 500) }, remote.Retry, remote.Unknown, "Internal Server Error: x"},
		{"502 page", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(502); _, _ = w.Write([]byte(html)) }, remote.Retry, remote.Unknown, "HTML page"},
		{"201", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(201) }, remote.Retry, remote.Unknown, "201"},
		{"204", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) }, remote.Retry, remote.Unknown, "204"},
		{"empty", func(w http.ResponseWriter, r *http.Request) {}, remote.Retry, remote.Unknown, "not understood"},
		{"other JSON", json(`{"ok":true}`), remote.Retry, remote.Unknown, "0 results"},
		{"other type", json(`{"results":[{"type":"ok","response":{"type":"execute"}}]}`), remote.Retry, remote.Unknown, "not that of a batch"},
		{"wrong lengths", json(`{"results":[{"type":"ok","response":{"type":"batch","result":{"step_results":[null],"step_errors":[]}}}]}`), remote.Retry, remote.Unknown, "steps"},
		{"request error", json(`{"results":[{"type":"error","error":{"message":"stream lost","code":"STREAM_EXPIRED"}}]}`), remote.Retry, remote.Unknown, "stream lost"},
		{"skipped", steps("r r r - r r -"), remote.Retry, remote.Unknown, "skipped"},
		{"left open", steps("r r r r r r r"), remote.Retry, remote.Unknown, "open"},
		{"begin busy", steps("cannot_start_a_transaction_within_a_transaction - - - - - -"), remote.Retry, remote.Answered, "within"},
		{"begin odd", steps("no_such_thing - - - - - -"), remote.Retry, remote.Answered, "no such thing"},
		{"table refused", steps("r not_authorized - - - - r"), remote.Denied, remote.Answered, "not authorized"},
		{"fence", steps("r r UNIQUE_constraint_failed:_x - - - r"), remote.Moved, remote.Answered, "UNIQUE"},
		{"mutation", steps("r r r CHECK_constraint_failed:_database_is_locked - - r"), remote.Refused, remote.Answered, "remote refused change 1"},
		{"mutation busy", steps("r r r database_is_locked - - r"), remote.Retry, remote.Answered, "locked"},
		{"mutation strange", steps("r r r something_new - - r"), remote.Disagreement, remote.Answered, "something new"},
		{"commit", steps("r r r r r deferred_foreign_key_constraint_failed_on_commit r"), remote.Refused, remote.Answered, "foreign key"},
		{"brotli", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			_, _ = w.Write([]byte("x"))
		}, remote.Retry, remote.Unknown, `encoding "br"`},
		{"endless", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", wire.JSONMedia)
			for range 4000 {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 1000)); err != nil {
					return
				}
			}
		}, remote.Retry, remote.Unknown, "longer than"},
		{"gzip bomb", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(make([]byte, 3<<20))
			_ = z.Close()
		}, remote.Retry, remote.Unknown, "longer than"},
		{"no length", func(w http.ResponseWriter, r *http.Request) {
			hijack(w, r, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{}")
		}, remote.Retry, remote.Unknown, "neither a length nor chunks"},
		{"short", func(w http.ResponseWriter, r *http.Request) {
			hijack(w, r, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{}")
		}, remote.Retry, remote.Unknown, "unexpected EOF"},
		{"not HTTP", func(w http.ResponseWriter, r *http.Request) { hijack(w, r, "SSH-2.0-OpenSSH\r\n") }, remote.Retry, remote.Unknown, "malformed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewServer(c.handler)
			defer srv.Close()
			r, err := remote.New(remote.Config{URL: srv.URL, AnswerMax: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			_, err = r.Push(context.Background(), batch)
			var e *remote.Error
			if !errors.As(err, &e) || e.Kind != c.kind || e.Outcome != c.outcome || !strings.Contains(err.Error(), c.holds) {
				t.Errorf("Push = %v (%+v), want %v, %v, %q", err, e, c.kind, c.outcome, c.holds)
			}
			if errors.Is(err, remote.ErrWatermarkMoved) != (c.kind == remote.Moved) {
				t.Errorf("errors.Is(ErrWatermarkMoved) is wrong for %v", err)
			}
			if got := remote.Judge(err); got.Reason == "" || (got.Kind == syncer.Retry) != (c.kind == remote.Retry) || !got.Answered && e.Status != 0 {
				t.Errorf("Judge = %+v", got)
			}
		})
	}
}

func json(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", wire.JSONMedia)
		_, _ = io.WriteString(w, body)
	}
}

// steps answers a batch: r for a result, - for a skipped step, or the message of
// an error with underscores for spaces.
func steps(s string) http.HandlerFunc {
	var results, errs []string
	for _, f := range strings.Fields(s) {
		result, fault := "null", "null"
		switch f {
		case "r":
			result = `{"cols":[],"rows":[],"affected_row_count":0,"last_insert_rowid":"7"}`
		case "-":
		default:
			fault = fmt.Sprintf(`{"message":%q,"code":"BATCH_STEP_ERROR"}`, strings.ReplaceAll(f, "_", " "))
		}
		results, errs = append(results, result), append(errs, fault)
	}
	return json(fmt.Sprintf(`{"baton":"unwanted","base_url":null,"results":[{"type":"ok","response":{"type":"batch","result":{"step_results":[%s],"step_errors":[%s]}}}]}`,
		strings.Join(results, ","), strings.Join(errs, ",")))
}

func hijack(w http.ResponseWriter, r *http.Request, raw string) {
	_, _ = io.Copy(io.Discard, r.Body) // closing with unread bytes would be a reset
	c, buf, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = io.WriteString(buf, raw)
	_ = buf.Flush()
	_ = c.Close()
}

// TestCodes looks at codes of servers that have them.
func TestCodes(t *testing.T) {
	for code, want := range map[string]remote.Kind{
		"SQLITE_CONSTRAINT": remote.Refused, "SQLITE_AUTH": remote.Denied, "BLOCKED": remote.Auth, "SQLITE_BUSY": remote.Retry,
		"TRANSACTION_TIMEOUT": remote.Retry, "SQLITE_TOOBIG": remote.Refused, "SQLITE_READONLY": remote.Denied, "SQLITE_ERROR": remote.Disagreement,
	} {
		srv := httptest.NewServer(json(`{"results":[{"type":"ok","response":{"type":"batch","result":{"step_results":[{"cols":[],"rows":[],"affected_row_count":0,"last_insert_rowid":7},null,null,null,null,null,null],` +
			`"step_errors":[null,{"message":"words","code":"` + code + `"},null,null,null,null,null]}}}]}`))
		_, err := open(t, srv.URL).Push(context.Background(), syncer.Batch{ClientID: "c", Last: 1, Mutations: []cdc.Mutation{{SQL: "x"}}})
		var e *remote.Error
		if !errors.As(err, &e) || e.Kind != want || e.Code != code || e.Mutation != -1 {
			t.Errorf("%s: %v (%+v), want %v", code, err, e, want)
		}
		srv.Close()
	}
}

// TestWatermarkAnswers looks at answers that are no watermark.
func TestWatermarkAnswers(t *testing.T) {
	rows := func(rows string) string {
		return `{"results":[{"type":"ok","response":{"type":"batch","result":{"step_results":[{"cols":[{"name":"change_id"}],"rows":` + rows + `,"affected_row_count":0,"last_insert_rowid":null}],"step_errors":[null]}}}]}`
	}
	for body, want := range map[string]string{
		rows(`[[{"type":"integer","value":"5"}]]`): "5 true",
		rows(`[]`): "0 false",
		`{"results":[{"type":"error","error":{"message":"Parse error: no such table: turso_sync_last_change_id","code":"X"}}]}`: "0 false",
		rows(`[[{"type":"null"}]]`):                 "error",
		rows(`[[{"type":"text","value":"5"}]]`):     "error",
		rows(`[[{"type":"integer","value":"-1"}]]`): "error",
		rows(`[[{"type":"integer","value":5}]]`):    "error",
	} {
		srv := httptest.NewServer(json(body))
		id, found, err := open(t, srv.URL).Watermark(context.Background(), "c")
		got := fmt.Sprint(id, found)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("Watermark of %s = %s, %v, want %s", body, got, err, want)
		}
		srv.Close()
	}
}

func TestRetryAfter(t *testing.T) {
	for v, want := range map[string]time.Duration{
		"7": 7 * time.Second, "0": 0, "-3": 0, "soon": 0, "": 0, "99999999": 24 * time.Hour,
		time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat):     0,
		time.Now().Add(48 * time.Hour).UTC().Format(http.TimeFormat): 24 * time.Hour,
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", v)
			w.WriteHeader(429)
		}))
		_, _, err := open(t, srv.URL).Watermark(context.Background(), "c")
		var e *remote.Error
		if !errors.As(err, &e) || e.RetryAfter != want || remote.Judge(err).RetryAfter != want {
			t.Errorf("Retry-After %q: %+v, want %v", v, e, want)
		}
		srv.Close()
	}
}

// TestUnsendable shows that a mutation that JSON cannot carry is refused by
// itself, before anything is sent.
func TestUnsendable(t *testing.T) {
	r := open(t, "http://127.0.0.1:1")
	for _, v := range []any{math.Inf(1), math.NaN(), "a\xff", 7} {
		_, err := r.Push(context.Background(), syncer.Batch{ClientID: "c", Last: 9, Mutations: []cdc.Mutation{
			{SQL: "INSERT INTO t VALUES (1)", Change: 8}, {SQL: "INSERT INTO t VALUES (?)", Args: []any{v}, Change: 9}}})
		var e *remote.Error
		if !errors.As(err, &e) || e.Kind != remote.Refused || e.Outcome != remote.NeverSent || e.Mutation != 1 || e.Change != 9 {
			t.Errorf("%v: %v (%+v)", v, err, e)
		}
	}
	_, err := r.Push(context.Background(), syncer.Batch{ClientID: "c", Last: 9})
	var e *remote.Error
	if !errors.As(err, &e) || e.Kind != remote.Retry || e.Outcome != remote.NeverSent || remote.Judge(err).Answered {
		t.Errorf("nobody listens: %v (%+v)", err, e)
	}
}

// TestTokenSecrecy tries to get the token into an error.
func TestTokenSecrecy(t *testing.T) {
	const secret = "eyJhbGciOiJFZERTQSJ9.secret"
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "bad header: "+r.Header.Get("Authorization"), 400)
	}))
	defer echo.Close()
	// It comes back in answers of status 200, too, and where what is long is cut.
	answering := func(media string, body func(token string) string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", media)
			_, _ = w.Write([]byte(body(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))))
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	request := answering("application/json", func(token string) string {
		return `{"results":[{"type":"error","error":{"message":"token ` + token + ` is not known here"}}]}`
	})
	step := answering("application/json", func(token string) string {
		none := strings.TrimSuffix(strings.Repeat("null,", 6), ",")
		return `{"results":[{"type":"ok","response":{"type":"batch","result":{"step_results":[` + none +
			`],"step_errors":[{"message":"token ` + token + ` is not known here"},null,null,null,null,null]}}}]}`
	})
	page := answering("text/html", func(token string) string {
		return "<html><title>" + strings.Repeat("x", 60) + token + "</title></html>"
	})
	for _, c := range []struct{ url, token string }{
		{echo.URL, secret},
		{request, secret},
		{step, secret},
		{page, secret},
		{echo.URL, secret + "\n"}, // not allowed in a header
		{"http://127.0.0.1:1", secret},
	} {
		r, err := remote.New(remote.Config{URL: c.url, Token: func(context.Context) (string, error) { return c.token, nil }})
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Push(context.Background(), syncer.Batch{ClientID: "c"})
		if err == nil || strings.Contains(fmt.Sprintf("%v %+v %#v %s", err, err, err, remote.Judge(err).Reason), secret[:10]) {
			t.Errorf("%s: error = %#v", c.url, err)
		}
		if strings.Contains(r.String(), "secret") {
			t.Errorf("String() = %s", r)
		}
	}
	for _, u := range []string{"libsql://h?authToken=" + secret, "https://" + secret + "@h", "https://u:" + secret + "@h/%zz", "https://h/%zz" + secret} {
		if _, err := remote.New(remote.Config{URL: u}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("New(%s) = %v", u, err)
		}
	}
	r, err := remote.New(remote.Config{URL: echo.URL, Token: func(context.Context) (string, error) { return "", errors.New("keychain is locked") }})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = r.Watermark(context.Background(), "c")
	var e *remote.Error
	if !errors.As(err, &e) || e.Kind != remote.Auth || e.Outcome != remote.NeverSent {
		t.Errorf("token source fails: %v", err)
	}
}

func TestURLs(t *testing.T) {
	for in, want := range map[string]string{
		"libsql://db-org.turso.io":      "https://db-org.turso.io",
		"turso://db-org.turso.io/":      "https://db-org.turso.io",
		"https://h:8080/base/path///":   "https://h:8080/base/path",
		" http://127.0.0.1:8080 ":       "http://127.0.0.1:8080",
		"libsql://localhost:8080?tls=0": "http://localhost:8080",
		"LIBSQL://h?tls=1":              "https://h",
		"http://h/a%2Fb/":               "http://h/a%2Fb",
	} {
		r, err := remote.New(remote.Config{URL: in})
		if err != nil || r.String() != want {
			t.Errorf("New(%s) = %v, %v, want %s", in, r, err, want)
		}
	}
	for _, in := range []string{"", "db.turso.io", "ftp://h", "https://", "https:h", "https://h?x=1", "https://h#f", "https://h?tls=0", "://", "http://h:port"} {
		if r, err := remote.New(remote.Config{URL: in}); err == nil {
			t.Errorf("New(%q) = %v", in, r)
		}
	}
	if _, err := remote.New(remote.Config{URL: "http://h", Timeout: -1}); err == nil {
		t.Error("a negative timeout was accepted")
	}
}

// TestStalls shows that a remote that stops in the middle is given up, and that
// one that keeps moving is not.
func TestStalls(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	var slow atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := answer(wire.PullHeader{Revision: "r", PageCount: 1, Raw: true}, wire.PageData{Image: image(nil)})
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		for i := 0; i < len(body); i += 300 {
			_, _ = w.Write(body[i:min(i+300, len(body))])
			_ = http.NewResponseController(w).Flush()
			if !slow.Load() {
				<-release
				return
			}
			time.Sleep(200 * time.Millisecond)
		}
	}))
	defer srv.CloseClientConnections()
	r, err := remote.New(remote.Config{URL: srv.URL, Timeout: 150 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	err = r.Fetch(context.Background(), syncer.PullRequest{}, &file{})
	var e *remote.Error
	if !errors.As(err, &e) || e.Kind != remote.Retry || e.Outcome != remote.Unknown || !strings.Contains(err.Error(), "in time") {
		t.Errorf("stalled: %v", err)
	}
	// Longer in all than the timeout, which leaves a loaded machine ten times the pause.
	slow.Store(true)
	if r, err = remote.New(remote.Config{URL: srv.URL, Timeout: 2 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if err := r.Fetch(context.Background(), syncer.PullRequest{}, &file{}); err != nil {
		t.Errorf("slow: %v", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("going home"))
	err = r.Fetch(ctx, syncer.PullRequest{}, &file{})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "going home") || !errors.As(err, &e) || e.Outcome != remote.NeverSent {
		t.Errorf("cancelled: %v", err)
	}
}

// TestLongPollPatience shows that the timeout is added to the long poll.
func TestLongPollPatience(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(200 * time.Millisecond)
		_, _ = w.Write(answer(wire.PullHeader{Revision: "r"}))
	}))
	defer srv.Close()
	r, err := remote.New(remote.Config{URL: srv.URL, Timeout: 20 * time.Millisecond, Margin: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Fetch(context.Background(), syncer.PullRequest{Have: "r", LongPoll: 10 * time.Second}, &file{}); err != nil {
		t.Errorf("long poll: %v", err)
	}
	if err := r.Fetch(context.Background(), syncer.PullRequest{Have: "r"}, &file{}); err == nil {
		t.Error("without a long poll it did not give up")
	}
}

// TestTransferred counts bytes as they travel.
func TestTransferred(t *testing.T) {
	body := answer(wire.PullHeader{Revision: "r", PageCount: 1, Raw: true}, wire.PageData{Image: image(nil)})
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(body)
	_ = z.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			t.Error("gzip is not offered")
		}
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(packed.Bytes())
	}))
	defer srv.Close()
	r := open(t, srv.URL)
	if err := r.Fetch(context.Background(), syncer.PullRequest{Have: "abc"}, &file{}); err != nil {
		t.Fatal(err)
	}
	if sent, received := r.Transferred(); sent != 5 || received != int64(packed.Len()) {
		t.Errorf("Transferred() = %d, %d, want 5, %d", sent, received, packed.Len())
	}
}

// TestOutcomeOfDeadPeers shows that a request on a connection is never called
// unsent, even when the other side hangs up without reading it.
func TestOutcomeOfDeadPeers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = bufio.NewReader(c).ReadByte()
			_ = c.Close()
		}
	}()
	_, _, err = open(t, "http://"+l.Addr().String()).Watermark(context.Background(), "c")
	var e *remote.Error
	if !errors.As(err, &e) || e.Outcome != remote.Unknown || e.Kind != remote.Retry {
		t.Errorf("Watermark = %v", err)
	}
}
