package remote

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/tursosync/tursosync/internal/wire"
)

// call is one request to the remote.
type call struct {
	op    string
	path  string
	media string
	body  []byte
	wait  time.Duration // how long the remote may take to begin its answer
}

// answer is a response with status 200 whose body is still to be read.
type answer struct {
	io.Reader
	close func()
	fault func(error) *Error // wraps what went wrong while reading
	token string             // that was sent, and that no error may repeat
}

// errStalled is the cause of a request that nobody answers or moves on.
var errStalled = errors.New("remote did not answer in time")

// do sends c and returns the answer, or an *Error. The caller closes the answer.
func (r *Remote) do(ctx context.Context, c call) (*answer, error) {
	token, err := r.token(ctx)
	if err != nil {
		return nil, &Error{Op: c.op, Kind: Auth, Outcome: NeverSent, Mutation: -1, Message: "get token", Err: err}
	}
	a, err := r.try(ctx, c, token)
	if e := (*Error)(nil); errors.As(err, &e) && e.stale && c.op != "push" && ctx.Err() == nil {
		// A connection from before that the remote had closed. net/http itself tries
		// again only what is no POST.
		r.cfg.Logger.Debug("connection was stale, trying another", "op", c.op)
		a, err = r.try(ctx, c, token)
	}
	if e := (*Error)(nil); errors.As(err, &e) && e.Status == http.StatusUnauthorized && r.cfg.Token != nil {
		again, terr := r.token(ctx)
		if terr == nil && again != token {
			r.cfg.Logger.Debug("remote refused the token, trying a new one", "op", c.op)
			return r.try(ctx, c, again)
		}
	}
	return a, err
}

func (r *Remote) token(ctx context.Context) (string, error) {
	if r.cfg.Token == nil {
		return "", nil
	}
	return r.cfg.Token(ctx)
}

// try sends c once.
func (r *Remote) try(ctx context.Context, c call, token string) (*answer, error) {
	parent := ctx
	ctx, watch := newWatchdog(parent)
	// The connection is all that is asked for: once there is one, bytes may have
	// left without anybody noticing.
	var connected, reused atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(c httptrace.GotConnInfo) { connected.Store(true); reused.Store(c.Reused) },
	})
	fault := func(err error) *Error {
		e := &Error{Op: c.op, Kind: Retry, Outcome: Unknown, Mutation: -1, Err: scrub(err, token)}
		if !connected.Load() {
			e.Outcome = NeverSent
		}
		switch why := parent.Err(); {
		case why != nil && context.Cause(parent) != why:
			e.Err = fmt.Errorf("%w: %w", why, context.Cause(parent))
		case why != nil:
			e.Err = why
		case errors.Is(context.Cause(ctx), errStalled):
			e.Err = errStalled
		}
		return e
	}

	req, err := r.request(traced, c, token, watch)
	if err != nil {
		watch.stop()
		return nil, &Error{Op: c.op, Kind: Disagreement, Outcome: NeverSent, Mutation: -1, Err: scrub(err, token)}
	}
	watch.allow(r.cfg.Timeout + c.wait)
	resp, err := r.client.Do(req)
	if err != nil {
		e := fault(bare(err))
		e.stale = reused.Load() && !errors.Is(e.Err, errStalled)
		watch.stop()
		return nil, e
	}
	watch.allow(r.cfg.Timeout)
	body := io.Reader(&counter{r: resp.Body, n: &r.received, moved: func() { watch.allow(r.cfg.Timeout) }})
	closeBody := func() { watch.stop(); _ = resp.Body.Close() }

	plain, err := decoded(resp, body)
	if err != nil && resp.StatusCode == http.StatusOK {
		e := fault(err)
		e.Status, e.bad = resp.StatusCode, true
		closeBody()
		return nil, e
	}
	if body = plain; err != nil {
		body = http.NoBody // the status says enough
	}
	if resp.StatusCode != http.StatusOK {
		e := refusal(c.op, resp, body, token)
		closeBody()
		return nil, e
	}
	if err := whole(resp); err != nil {
		closeBody()
		return nil, &Error{Op: c.op, Kind: Retry, Outcome: Unknown, Mutation: -1, bad: true, Status: resp.StatusCode, Err: err}
	}
	if err := rightMedia(resp, c.media); err != nil {
		msg := excerpt(resp, body, token)
		closeBody()
		return nil, &Error{Op: c.op, Kind: Retry, Outcome: Unknown, Mutation: -1, bad: true, Status: resp.StatusCode, Message: msg, Err: err}
	}
	return &answer{Reader: body, close: closeBody, token: token, fault: func(err error) *Error {
		e := fault(err)
		e.Status, e.bad = resp.StatusCode, garbled(err)
		return e
	}}, nil
}

func (r *Remote) request(ctx context.Context, c call, token string, watch *watchdog) (*http.Request, error) {
	u := *r.base
	u.Path += c.path
	if u.RawPath != "" {
		u.RawPath += c.path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), nil)
	if err != nil {
		return nil, err
	}
	// Known length, so that it is never chunked: tursodb cannot read that.
	req.ContentLength = int64(len(c.body))
	req.GetBody = func() (io.ReadCloser, error) {
		return io.NopCloser(&counter{r: bytes.NewReader(c.body), n: &r.sent, moved: func() {
			watch.allow(r.cfg.Timeout + c.wait)
		}}), nil
	}
	if len(c.body) > 0 {
		req.Body, _ = req.GetBody()
	} else {
		req.Body = http.NoBody
	}
	for k, v := range r.cfg.Header {
		req.Header[http.CanonicalHeaderKey(k)] = v
	}
	req.Header.Set("Content-Type", c.media)
	req.Header.Set("Accept-Encoding", "gzip")
	req.Header.Set("User-Agent", r.cfg.UserAgent)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req, nil
}

// bare removes what net/http wraps around an error: the method and the URL, which
// the caller knows.
func bare(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}

// decoded undoes the content encoding.
func decoded(resp *http.Response, body io.Reader) (io.Reader, error) {
	switch enc := strings.ToLower(strings.TrimSpace(resp.Header.Get("Content-Encoding"))); enc {
	case "", "identity":
		return body, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("read gzip body: %w", err)
		}
		return z, nil
	default:
		return nil, fmt.Errorf("answer has content encoding %q, which was not asked for", cut(enc, 40))
	}
}

// garbled tells an answer that is nonsense from one that broke off.
func garbled(err error) bool {
	var flaw flate.CorruptInputError
	return errors.As(err, &flaw) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader) ||
		errors.Is(err, wire.ErrTooLong) || errors.Is(err, wire.ErrLength)
}

// whole refuses an answer of which nobody could tell whether it was cut off.
func whole(resp *http.Response) error {
	if resp.ContentLength < 0 && resp.ProtoMajor == 1 && len(resp.TransferEncoding) == 0 {
		return errors.New("answer has neither a length nor chunks, so a cut would go unnoticed")
	}
	return nil
}

// rightMedia refuses what is certainly not the answer of the endpoint. An answer
// without a type, or with a general one, is judged by its content.
func rightMedia(resp *http.Response, want string) error {
	got, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	got = strings.ToLower(strings.TrimSpace(got))
	if strings.HasPrefix(got, "text/") && want != got || want == wire.ProtobufMedia && got == wire.JSONMedia {
		return fmt.Errorf("answer is %s, not %s: is the URL that of a Turso database?", cut(got, 40), want)
	}
	return nil
}

// refusal makes an error of an answer whose status is not 200.
func refusal(op string, resp *http.Response, body io.Reader, token string) *Error {
	e := &Error{Op: op, Kind: statusKind(resp.StatusCode), Outcome: Answered, Status: resp.StatusCode, Mutation: -1}
	// A status of the server's, or of something on the way to it, does not prove
	// that nothing was executed (PROTOCOL.md §3.8).
	if resp.StatusCode >= 500 || resp.StatusCode == http.StatusRequestTimeout || resp.StatusCode < 300 {
		e.Outcome = Unknown
	}
	e.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), time.Now())
	e.Message = excerpt(resp, body, token)
	if e.Kind == Disagreement && strings.HasPrefix(e.Message, htmlPage) {
		e.Kind, e.Outcome = Retry, Unknown // not the remote's words, but those of something on the way
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		e.Message = "a redirect, which is not followed: is the URL that of a Turso database?"
	}
	return e
}

// retryAfter reads the header of that name: seconds or a date.
func retryAfter(v string, now time.Time) time.Duration {
	const most = 24 * time.Hour
	if s, err := strconv.ParseInt(strings.TrimSpace(v), 10, 32); err == nil {
		return min(max(time.Duration(s)*time.Second, 0), most)
	}
	if t, err := http.ParseTime(v); err == nil {
		return min(max(t.Sub(now), 0), most)
	}
	return 0
}

// excerptMax bounds what is read and kept of an error body.
const excerptMax = 2 << 10

// htmlPage begins what is told of answers for people.
const htmlPage = "an HTML page"

// excerpt returns the remote's words: the error of a JSON body, or the text.
func excerpt(resp *http.Response, body io.Reader, token string) string {
	b, _ := io.ReadAll(io.LimitReader(body, 16*excerptMax))
	var j struct {
		Error   json.RawMessage `json:"error"`
		Message string          `json:"message"`
	}
	text := strings.TrimSpace(string(b))
	if json.Unmarshal(b, &j) == nil {
		var s string
		var inner struct {
			Message string `json:"message"`
		}
		switch {
		case json.Unmarshal(j.Error, &s) == nil && s != "":
			text = s
		case json.Unmarshal(j.Error, &inner) == nil && inner.Message != "":
			text = inner.Message
		case j.Message != "":
			text = j.Message
		}
	}
	if strings.HasPrefix(text, "<") {
		text = htmlPage + title(redact(text, token))
	}
	if text == "" && resp.StatusCode != http.StatusOK {
		text = strings.ToLower(http.StatusText(resp.StatusCode))
	}
	return clean(text, token)
}

// title finds the title of an HTML page.
func title(html string) string {
	lower := strings.ToLower(html)
	i := strings.Index(lower, "<title>")
	if i < 0 || len(lower) != len(html) {
		return ""
	}
	t := html[i+len("<title>"):]
	if j := strings.IndexByte(t, '<'); j >= 0 {
		t = t[:j]
	}
	return fmt.Sprintf(" titled %q", cut(strings.TrimSpace(t), 80))
}

// clean makes foreign text fit for an error: bounded, printable, without the
// token, which some servers repeat.
func clean(s, token string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == utf8.RuneError || c == 0x7f {
			return ' '
		}
		return c
	}, redact(s, token))
	return cut(s, excerptMax)
}

func redact(s, token string) string {
	if token == "" {
		return s
	}
	return strings.ReplaceAll(s, token, "[token]")
}

func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// scrub keeps the token out of errors of the network library: one that holds
// it, as those about malformed header fields may, loses its identity.
func scrub(err error, token string) error {
	if err == nil || token == "" || !strings.Contains(err.Error(), token) {
		return err
	}
	return errors.New(redact(err.Error(), token))
}

// counter counts and reports the bytes that pass.
type counter struct {
	r     io.Reader
	n     *atomic.Int64
	moved func()
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	if n > 0 {
		c.moved()
	}
	return n, err
}

// watchdog cancels a context with errStalled when the time that was last allowed
// has passed.
type watchdog struct {
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

func newWatchdog(ctx context.Context) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{cancel: cancel}
	w.timer = time.AfterFunc(time.Hour, func() { cancel(errStalled) })
	return ctx, w
}

// allow gives the request another d, from now.
func (w *watchdog) allow(d time.Duration) { w.timer.Reset(d) }

func (w *watchdog) stop() {
	w.timer.Stop()
	w.cancel(context.Canceled)
}
