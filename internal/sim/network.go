package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync"
	"time"

	"github.com/tursosync/tursosync/internal/wire"
)

// netFault is what happens to one request of a step.
type netFault struct {
	Request int // which request of the step, from 0
	Kind    string
	N       int // bytes, or seconds
}

func (f netFault) String() string { return fmt.Sprintf("%d:%s@%d", f.Request, f.Kind, f.N) }

// The kinds of faults of the network and of the server.
const (
	netRefuse   = "refuse"    // no connection
	netLose     = "lose"      // sent, never arrives
	netLate     = "late"      // sent, the connection breaks, and it arrives at a later step
	netCutReq   = "cutreq"    // N bytes of the request arrive
	netCutResp  = "cutresp"   // it is executed, N bytes of the answer's body arrive
	netNoResp   = "noresp"    // it is executed, no answer arrives
	netTwice    = "twice"     // it arrives twice; the second answer counts
	netAgain    = "again"     // it arrives, and once more at a later step
	net503      = "503"       // not executed
	net502      = "502"       // executed, and a proxy says that it was not
	netSlow     = "slow"      // N seconds on the way
	netStall    = "stall"     // executed, and then nothing more is heard
	netStale    = "stale"     // an older server answers, if it is a pull
	netRestart  = "restart"   // it is executed, and the server starts again before the answer
	netKill     = "kill"      // the same, and the server dies instead of stopping
	netBusy     = "busy"      // the application commits on the replica while it is under way
	netPeer     = "peer"      // somebody else's push comes first
	netTrickle  = "trickle"   // the answer comes in small pieces
	netGarbage  = "garbage"   // a proxy answers with a page of its own
	netCutChunk = "cutafter0" // it is executed, the header of the answer arrives
)

var netKinds = []string{
	netRefuse, netLose, netLate, netCutReq, netCutResp, netNoResp, netTwice, netAgain, net503, net502, netSlow, netStall, netStale,
	netRestart, netKill, netBusy, netPeer, netTrickle, netGarbage, netCutChunk,
}

// fails tells whether the replica may see an error because of the fault.
func (f netFault) fails() bool {
	switch f.Kind {
	case netSlow:
		return f.N%100 >= 60
	case netBusy, netTrickle, netAgain, netStale, netPeer:
		return false
	}
	return true
}

var errNetwork = errors.New("sim: connection broken")

// network is the way of one replica to the server: an http.RoundTripper.
type network struct {
	w *world
	r *replica

	mu      sync.Mutex
	dead    bool // the process is
	offline bool
	step    []netFault
	count   int        // requests of the step
	rnd     *rand.Rand // of the faults and delays of requests that nobody planned; nil: there are none
	trouble int        // of a hundred of these, how many go wrong
}

// autoKinds are the faults of requests in the background.
var autoKinds = []string{
	netRefuse, netLose, netLate, netCutReq, netCutResp, netNoResp, netTwice, netAgain, net503, net502, netSlow, netStall, netTrickle, netGarbage, netCutChunk,
}

// begin says what happens to the requests from now on.
func (n *network) begin(faults []netFault) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.step, n.count = faults, 0
}

func (n *network) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dead = true
}

func (n *network) next() (f netFault, delay time.Duration, dead bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.step {
		if s.Request == n.count {
			f = s
		}
	}
	n.count++
	if n.rnd != nil && f.Kind == "" {
		delay = time.Duration(n.rnd.IntN(200)) * time.Millisecond
		if n.rnd.IntN(100) < n.trouble {
			f = netFault{Kind: autoKinds[n.rnd.IntN(len(autoKinds))], N: someSize(n.rnd)}
		}
	}
	return f, delay, n.dead || n.offline
}

// RoundTrip implements http.RoundTripper.
func (n *network) RoundTrip(req *http.Request) (*http.Response, error) {
	w := n.w
	f, delay, dead := n.next()
	if delay > 0 {
		if err := sleep(req.Context(), delay); err != nil {
			return nil, err
		}
	}
	if dead || f.Kind == netRefuse {
		w.hit(f)
		return nil, errors.New("sim: connection refused")
	}
	if trace := httptrace.ContextClientTrace(req.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{})
	}
	body, err := io.ReadAll(req.Body)
	_ = req.Body.Close()
	if err != nil {
		return nil, err
	}
	w.count(&w.stats.requests, 1)
	in := &incoming{w: w, from: n.r, method: req.Method, url: req.URL.String(), header: req.Header.Clone(), body: body, whole: true}
	pull := req.URL.Path == wire.PullPath
	if f.Kind != "" && (f.Kind != netStale || pull && w.stale != nil) {
		w.hit(f)
	}
	switch f.Kind {
	case netLose:
		return nil, errNetwork
	case netLate:
		w.postpone(in)
		return nil, errNetwork
	case netCutReq:
		in.body, in.whole = body[:f.N%(len(body)+1)], false
		in.discard()
		return nil, errNetwork
	case netNoResp:
		in.discard()
		return nil, errNetwork
	case netTwice:
		in.discard()
	case netAgain:
		w.postpone(in)
	case net503:
		return answer(req, http.StatusServiceUnavailable, "application/json", `{"error":"sim"}`), nil
	case netGarbage:
		return answer(req, http.StatusOK, "text/html", "<html><title>Welcome to the hotel</title></html>"), nil
	case net502:
		in.discard()
		return answer(req, http.StatusBadGateway, "text/html", "<html>bad gateway</html>"), nil
	case netSlow:
		if err := sleep(req.Context(), time.Duration(f.N%100)*time.Second); err != nil {
			w.postpone(in)
			return nil, err
		}
	case netStall:
		in.discard()
		<-req.Context().Done()
		return nil, req.Context().Err()
	case netRestart, netKill:
		in.discard()
		if f.Kind == netKill {
			err = w.killServer(f.N%2 == 0, rand.New(rand.NewPCG(uint64(f.N), 4)))
		} else {
			err = w.restartServer()
		}
		if err != nil {
			w.report(err)
		}
		return nil, errNetwork
	case netBusy:
		w.commitMeanwhile(n.r, f.N)
	case netPeer:
		w.pushMeanwhile(n.r, f.N)
	}
	h := w.handler()
	if f.Kind == netStale && pull && w.stale != nil {
		h = w.stale
	}
	resp, err := in.stream(req, h)
	if err != nil {
		return nil, err
	}
	b := resp.Body.(*answerBody)
	switch f.Kind {
	case netCutResp:
		b.limit = f.N
		if n, err := strconv.Atoi(resp.Header.Get("Content-Length")); err == nil && n > 0 {
			b.limit = f.N % n
		}
	case netCutChunk:
		b.limit = 0
	case netTrickle:
		b.trickle = 1 + f.N%700
	}
	return resp, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func answer(req *http.Request, status int, media, text string) *http.Response {
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
		Header: http.Header{"Content-Type": {media}}, ContentLength: int64(len(text)),
		Body: io.NopCloser(bytes.NewReader([]byte(text))),
	}
}

// incoming is a request on its way.
type incoming struct {
	w      *world
	from   *replica
	method string
	url    string
	header http.Header
	body   []byte
	whole  bool // else the connection breaks behind body
}

func (in *incoming) request(ctx context.Context) *http.Request {
	r, err := http.NewRequestWithContext(ctx, in.method, in.url, nil)
	if err != nil {
		panic(err) // it was parsed before
	}
	r.Header = in.header.Clone()
	r.ContentLength = int64(len(in.body))
	r.Body = io.NopCloser(bytes.NewReader(in.body))
	if !in.whole {
		r.ContentLength++
		r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(in.body), broken{}))
	}
	return r
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// discard executes the request; nobody hears the answer.
func (in *incoming) discard() {
	resp, err := in.stream(nil, in.w.handler())
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
}

// stream executes the request on h. The answer is there when its header is.
func (in *incoming) stream(req *http.Request, h http.Handler) (*http.Response, error) {
	if h == nil {
		return nil, errors.New("sim: connection refused")
	}
	parent := context.Background()
	if req != nil {
		parent = req.Context()
	}
	ctx, cancel := context.WithCancel(parent)
	pr, pw := io.Pipe()
	rw := &writer{header: http.Header{}, pipe: pw, ready: make(chan struct{})}
	done := make(chan struct{})
	r := in.request(ctx)
	go func() {
		defer close(done)
		defer rw.finish()
		defer func() {
			if p := recover(); p != nil {
				if p != http.ErrAbortHandler {
					in.w.report(fmt.Errorf("server panicked: %v", p))
				}
				rw.abort()
			}
		}()
		if r.URL.Path == wire.PullPath {
			h.ServeHTTP(rw, r)
			return
		}
		// One at a time, so that the model knows their order.
		in.w.serial <- struct{}{}
		defer func() { <-in.w.serial }()
		whole := &recorder{header: rw.header}
		h.ServeHTTP(whole, r)
		if err := in.w.tap(); err != nil {
			in.w.report(err)
		}
		rw.WriteHeader(max(whole.status, http.StatusOK))
		rw.later = whole.body.Bytes()
	}()
	<-rw.ready
	if rw.aborted && rw.status == 0 || in.w.host.dead {
		_ = pr.CloseWithError(errNetwork)
		cancel()
		<-done
		return nil, errNetwork
	}
	resp := answer(req, rw.status, "", "")
	resp.Header = rw.sent
	resp.ContentLength = -1
	if n, err := strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64); err == nil {
		resp.ContentLength = n
	} else {
		resp.TransferEncoding = []string{"chunked"}
	}
	resp.Body = &answerBody{host: &in.w.host, pipe: pr, cancel: cancel, done: done, limit: -1}
	return resp, nil
}

// recorder keeps an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

// writer is the server's end of an answer.
type writer struct {
	header, sent http.Header
	status       int
	pipe         *io.PipeWriter
	ready        chan struct{}
	aborted      bool
	later        []byte // written when the handler has ended
}

func (w *writer) Header() http.Header { return w.header }

func (w *writer) WriteHeader(status int) {
	if w.status == 0 {
		w.status, w.sent = status, w.header.Clone()
		close(w.ready)
	}
}

func (w *writer) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.pipe.Write(b)
}

func (w *writer) Flush() {}

func (w *writer) abort() {
	w.aborted = true
	if w.status == 0 {
		close(w.ready)
	}
	_ = w.pipe.CloseWithError(io.ErrUnexpectedEOF)
}

func (w *writer) finish() {
	if w.aborted {
		return
	}
	w.WriteHeader(http.StatusOK)
	if len(w.later) > 0 {
		_, _ = w.pipe.Write(w.later)
	}
	_ = w.pipe.Close()
}

// answerBody is the replica's end of an answer.
type answerBody struct {
	host    *host
	pipe    *io.PipeReader
	cancel  context.CancelFunc
	done    chan struct{}
	limit   int // bytes until the connection breaks; less than 0: it does not
	trickle int // bytes a read, after a moment
}

func (b *answerBody) Read(p []byte) (int, error) {
	if b.limit == 0 {
		return 0, errNetwork
	}
	if b.limit > 0 {
		p = p[:min(len(p), b.limit)]
	}
	if b.trickle > 0 {
		p = p[:min(len(p), b.trickle)]
		time.Sleep(time.Millisecond)
	}
	n, err := b.pipe.Read(p)
	if b.host.dead {
		return 0, errNetwork
	}
	if b.limit > 0 {
		b.limit -= n
	}
	return n, err
}

// Close tells the server that nobody listens any more, and waits until it has
// noticed.
func (b *answerBody) Close() error {
	b.cancel()
	_ = b.pipe.CloseWithError(errNetwork)
	<-b.done
	return nil
}
