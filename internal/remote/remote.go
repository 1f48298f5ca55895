// Package remote is the client of a Turso database: it pushes batches over
// /v2/pipeline and streams pages from /pull-updates.
//
// It decides nothing about when or what to sync. What it does know is what
// became of a request: every error is an [*Error] that says whether the remote
// was reached and what may be done.
package remote

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tursosync/tursosync/syncer"
)

// Defaults of [Config].
const (
	DefaultTimeout   = 60 * time.Second
	DefaultMargin    = 15 * time.Second
	DefaultUserAgent = "tursosync-go"
	DefaultAnswerMax = 64 << 20
)

// Config says how to reach a remote.
type Config struct {
	// URL is the remote's address: libsql://, turso:// (both mean https), https://
	// or http://, with or without a path before the endpoints'.
	URL string
	// Token returns the token to send, empty for none. It is asked before every
	// request, and once more when the remote answers 401; if it then returns
	// another token the request is sent again with that one. Nil means no token.
	Token func(ctx context.Context) (string, error)
	// Header is sent with every request, for instance x-turso-encryption-key.
	Header http.Header
	// Transport makes the requests; nil means one that all remotes of the process
	// share.
	Transport http.RoundTripper
	// Timeout is how long the remote may take to answer, and how long a body may
	// stand still in either direction; 0 means DefaultTimeout. A body that keeps
	// moving may take as long as it needs.
	Timeout time.Duration
	// Margin is what is added to a long poll before it counts as lost; 0 means
	// DefaultMargin.
	Margin time.Duration
	// AnswerMax bounds the bytes of a pipeline's answer; 0 means DefaultAnswerMax.
	// Pulled pages are not bounded by it: they are streamed.
	AnswerMax int64
	// UserAgent names the program; empty means DefaultUserAgent.
	UserAgent string
	Logger    *slog.Logger // nil means silence
}

// Remote is a Turso database. Its methods may be called concurrently.
type Remote struct {
	cfg            Config
	base           *url.URL
	client         http.Client
	sent, received atomic.Int64
}

var _ syncer.Remote = (*Remote)(nil)

// New returns the remote at cfg.URL. Nothing is sent yet.
func New(cfg Config) (*Remote, error) {
	base, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	for name, d := range map[string]time.Duration{"timeout": cfg.Timeout, "margin": cfg.Margin} {
		if d < 0 {
			return nil, fmt.Errorf("remote: %s %v is negative", name, d)
		}
	}
	orDefault(&cfg.Timeout, DefaultTimeout)
	orDefault(&cfg.Margin, DefaultMargin)
	orDefault(&cfg.AnswerMax, DefaultAnswerMax)
	orDefault(&cfg.UserAgent, DefaultUserAgent)
	if cfg.Transport == nil {
		cfg.Transport = sharedTransport()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Remote{
		cfg:  cfg,
		base: base,
		client: http.Client{
			Transport: cfg.Transport,
			// A redirect would carry the token somewhere else, or turn a POST into
			// a GET. It is an answer like any other that is not 200.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func orDefault[T comparable](v *T, def T) {
	if *v == *new(T) {
		*v = def
	}
}

// sharedTransport keeps connections alive across the replicas of the process.
var sharedTransport = sync.OnceValue(func() http.RoundTripper {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		// Somebody has put their own in place, and means it.
		return http.DefaultTransport
	}
	t = t.Clone()
	t.MaxIdleConnsPerHost = 16
	return t
})

// Transferred returns the body bytes sent and received so far, as they travelled.
func (r *Remote) Transferred() (sent, received int64) {
	return r.sent.Load(), r.received.Load()
}

// String returns the address without anything secret.
func (r *Remote) String() string { return r.base.Redacted() }
