// Package server is a remote that one can host: an http.Handler that speaks
// Turso's sync protocol over one SQLite database in WAL mode. Replicas of this
// module sync with it, and so does the official client.
//
//	srv, err := server.Open(server.Config{File: "remote.db"})
//	…
//	defer srv.Close()
//	http.ListenAndServe("127.0.0.1:8080", srv)
//
// Other programs may read and write the file with SQLite at the same time.
//
// Endpoints are POST /pull-updates, and those of Hrana over HTTP: POST /v2/pipeline
// and /v3/pipeline, which do the same, and POST /v3/cursor. A pipeline that leaves
// a transaction open keeps its stream, and gets a baton for the next request, unless
// it is a batch that ends with COMMIT, END or ROLLBACK, as a replica's push does:
// that is rolled back at once. See [Fleet] for many databases.
//
// # Triggers
//
// What a replica pushes are rows, those that its triggers wrote among them. They
// would be there twice if the database's triggers fired for them. So a push begins
// with
//
//	SELECT tursosync_replay(?)
//
// to the letter, and the names of triggers as a JSON array: these do not fire on
// this stream until the transaction ends, and not beyond the request; all others do,
// and for others' SQL all do, as ever. The schema is not written. An empty array ends
// it earlier. Meanwhile the stream can read and write rows, and nothing else: no
// savepoints, no schema changes, no temporary objects.
//
//   - Whoever may write rows may replay them, and is trusted with their triggers'
//     effects; a statement must be permitted as though the triggers fired.
//   - A trigger that may RAISE guards the data. For those who may not drop it
//     (schema_delete on its table) it fires all the same; if it inserts, updates or
//     deletes besides, the answer is an error. What counts is the word, wherever it
//     stands in the trigger. What guards in other ways, as by an insert that breaks a
//     constraint, is not seen.
//   - With [Config.FireTriggers] the answer is an error for those who may not drop
//     the triggers: audits that nobody shall get around.
//
// After an error this module's replicas drop the triggers and create them again, as
// they do on other servers. If that is not permitted either, the transaction is
// refused: it is put aside, or halts the replica, and the reason names the trigger.
//
// # Rows of clients
//
// Sync clients keep how far they have pushed in turso_sync_last_change_id, a row each.
// Those who may not do everything write there only inside a transaction, only
// pull_gen and change_id of rows that exist, which they cannot delete, and only rows of
// clients that no other [Subject] has written before; otherwise the transaction is
// rolled back. Whose they are is kept beside the database, in NAME.db-clients. A Permission without a
// subject writes to rows that have none.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tursosync/tursosync/internal/wire"
)

// Defaults of [Config].
const (
	DefaultBodyMax         = 64 << 20
	DefaultAnswerMax       = 64 << 20
	DefaultTimeout         = 60 * time.Second
	DefaultLongPollMax     = 60 * time.Second
	DefaultCheckpointBytes = 16 << 20
	DefaultPinnedBytes     = 256 << 20
	DefaultPinnedFor       = 30 * 24 * time.Hour
	DefaultStreamIdle      = 10 * time.Second
	DefaultTransactionMax  = 60 * time.Second
	DefaultStreamsMax      = 100
	DefaultSQLMax          = 64
)

// Config says what to serve. File is required.
type Config struct {
	// File is the database. It is created if it does not exist; its pages must be
	// of 4096 bytes and its text UTF-8.
	File string
	// Name is what Permit is told that the database is called.
	Name string
	// Authorize says what the bearer of a token may do; the token is empty when
	// there is none. Nil lets everybody do everything.
	Authorize func(ctx context.Context, token string) Access
	// Permit is Authorize for those who make finer differences, and is asked in its
	// place when it is set. An error refuses the request with 401, or as a
	// [DeniedError] says. It is asked for every request.
	Permit func(ctx context.Context, database, token string) (Permission, error)
	// BodyMax bounds the body of a request, AnswerMax the rows that a pipeline
	// answers with; 0 means DefaultBodyMax and DefaultAnswerMax.
	BodyMax, AnswerMax int64
	// Timeout bounds a pipeline, and how long a client may take none of a pull's
	// answer; 0 means DefaultTimeout.
	Timeout time.Duration
	// LongPollMax bounds how long a pull may wait for news, whatever it asks for;
	// 0 means DefaultLongPollMax.
	LongPollMax time.Duration
	// StreamIdle is how long a stream waits for its next request; then what it has
	// open is rolled back. 0 means DefaultStreamIdle.
	StreamIdle time.Duration
	// TransactionMax bounds how long a stream may keep a transaction open, however
	// busy it is; 0 means DefaultTransactionMax.
	TransactionMax time.Duration
	// StreamsMax bounds how many streams may wait at a time; those that are too
	// many end. 0 means DefaultStreamsMax.
	StreamsMax int
	// SQLMax bounds how many requests for SQL run at a time; others wait, those
	// of streams apart. 0 means DefaultSQLMax.
	SQLMax int
	// TokenRate bounds how many requests a second the bearers of one token may send
	// on average, and TokenBurst how many at once; more are answered with 429. A
	// fleet counts those for all its databases together. 0 means no bound, and a
	// burst of ten seconds.
	TokenRate  float64
	TokenBurst int
	// FireTriggers has triggers fire for the rows of a sync client's push as well,
	// if its token may not drop them: it cannot ask for their silence (see the
	// package comment). This module's replicas then cannot push rows to tables with
	// triggers that they have too, since the effects would be there twice.
	FireTriggers bool
	// CheckpointBytes is the size at which the WAL is moved into the file; 0 means
	// DefaultCheckpointBytes.
	CheckpointBytes int64
	// PinnedBytes bounds the old pages that are kept beside the database for clients
	// that took a part of it and load the rest as of the same revision (partial sync
	// of the official client); PinnedFor is how long they are kept after the last such
	// request. A client whose pages are gone gets 410 and has to start anew. 0 means
	// DefaultPinnedBytes and DefaultPinnedFor.
	PinnedBytes int64
	PinnedFor   time.Duration
	// NoSync leaves commits in the operating system's cache. They survive the
	// death of the process, but not that of the machine. For tests.
	NoSync bool
	Logger *slog.Logger // nil means silence

	stats *stats // of the fleet
	rate  *rate  // of the fleet; nil: no bound
}

// Server serves one database. It is an http.Handler; its methods may be called
// concurrently.
type Server struct {
	cfg     Config
	history *history
	// gate is held for reading by pulls of an old revision, and for writing by the
	// checkpoint: SQLite does not know of the images that such a pull needs.
	gate          sync.RWMutex
	checkpointing atomic.Bool // a goroutine is at it
	parked        streams
	pool          pool // of pipelines
	readers       pool // of pulls
	turn          turn
	clients       *clients
	running       chan struct{} // holds an element for each request of SQLMax

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	mu     sync.Mutex // guards closed; held while a request is added to active
	closed bool
	active sync.WaitGroup
}

// ErrClosed is the answer of a closed server.
var ErrClosed = errors.New("server is closed")

// Open opens or creates the database. The server must be closed.
func Open(cfg Config) (*Server, error) {
	if cfg.File == "" {
		return nil, errors.New("server: Config.File is empty")
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	h, err := openHistory(cfg)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Server{cfg: cfg, history: h, ctx: ctx, cancel: cancel, parked: streams{parked: map[string]*stream{}}, turn: newTurn(), clients: &clients{file: cfg.File + clientsSuffix}, running: make(chan struct{}, cfg.SQLMax)}, nil
}

// validate fills in the defaults.
func (cfg *Config) validate() error {
	orDefault(&cfg.BodyMax, DefaultBodyMax)
	orDefault(&cfg.AnswerMax, DefaultAnswerMax)
	orDefault(&cfg.Timeout, DefaultTimeout)
	orDefault(&cfg.LongPollMax, DefaultLongPollMax)
	orDefault(&cfg.CheckpointBytes, DefaultCheckpointBytes)
	orDefault(&cfg.PinnedBytes, DefaultPinnedBytes)
	orDefault(&cfg.PinnedFor, DefaultPinnedFor)
	orDefault(&cfg.StreamIdle, DefaultStreamIdle)
	orDefault(&cfg.TransactionMax, DefaultTransactionMax)
	orDefault(&cfg.StreamsMax, DefaultStreamsMax)
	orDefault(&cfg.SQLMax, DefaultSQLMax)
	orDefault(&cfg.TokenBurst, max(1, int(10*cfg.TokenRate)))
	if cfg.BodyMax < 0 || cfg.AnswerMax < 0 || cfg.Timeout < 0 || cfg.LongPollMax < 0 || cfg.CheckpointBytes < 0 ||
		cfg.PinnedBytes < 0 || cfg.PinnedFor < 0 ||
		cfg.StreamIdle < 0 || cfg.TransactionMax < 0 || cfg.StreamsMax < 0 ||
		cfg.SQLMax < 0 || cfg.TokenRate < 0 || cfg.TokenBurst < 0 {
		return errors.New("server: a limit in Config is negative")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.stats == nil {
		cfg.stats = &stats{}
	}
	if cfg.rate == nil && cfg.TokenRate > 0 {
		cfg.rate = newRate(cfg.TokenRate, cfg.TokenBurst)
	}
	return nil
}

func orDefault[T comparable](v *T, def T) {
	if *v == *new(T) {
		*v = def
	}
}

// Drain makes waiting long polls answer, now and from now on.
func (s *Server) Drain() { s.cancel() }

// Close ends long polls, waits for the other requests, and closes the database,
// whereby SQLite moves its WAL into the file.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.parked.close()
	s.active.Wait()
	s.pool.close()
	s.readers.close()
	return s.history.close()
}

// enter admits a request unless the server is closed.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.active.Add(1)
	return true
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		fail(w, http.StatusServiceUnavailable, ErrClosed.Error())
		return
	}
	defer s.active.Done()
	allowBrowsers(w.Header())
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	type endpoint struct{ method, path string }
	switch (endpoint{r.Method, r.URL.Path}) {
	case endpoint{http.MethodPost, wire.PullPath}:
		if p, ok := s.permit(w, r); ok {
			if err := p.Pull(); err != nil {
				deny(w, err, http.StatusForbidden)
				return
			}
			s.pull(w, r)
		}
	case endpoint{http.MethodPost, wire.PipelinePath}, endpoint{http.MethodPost, wire.PipelineV3}:
		if p, ok := s.permit(w, r); ok {
			s.pipeline(w, r, p)
		}
	case endpoint{http.MethodPost, "/v3/cursor"}:
		if p, ok := s.permit(w, r); ok {
			s.cursor(w, r, p)
		}
	default:
		if isProbe(r.Method, r.URL.Path) {
			w.WriteHeader(http.StatusOK)
			return
		}
		fail(w, http.StatusNotFound, "not found")
	}
}

// isProbe recognises how SQL clients ask for versions, and load balancers for life.
func isProbe(method, path string) bool {
	return (method == http.MethodGet || method == http.MethodHead) && (path == "/v2" || path == "/v3" || path == "/health")
}

// allowBrowsers permits requests from web pages: tokens, not origins, protect the
// database.
func allowBrowsers(h http.Header) {
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "*")
	h.Set("Access-Control-Expose-Headers", "*")
}

// fail answers with an error.
func fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", wire.JSONMedia)
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"error":%s}`, jsonString(message))
}
