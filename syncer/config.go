package syncer

import (
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/tursosync/tursosync/cdc"
)

// PushMode says what starts a push.
type PushMode int

// The push modes.
const (
	PushOnCommit PushMode = iota // every commit, debounced by PushDelay
	PushManual                   // only requests: Push, Sync, Wait
)

// PullMode says what starts a pull.
type PullMode int

// The pull modes.
const (
	PullOnInterval PullMode = iota // at the start and every PullInterval
	PullLongPoll                   // a request waits at the remote for news
	PullManual                     // only requests: Pull, Sync
)

// Policy says what happens to a transaction that the remote refuses for good.
type Policy int

// The policies.
const (
	// Quarantine moves the transaction into turso_sync_rejected and goes on.
	Quarantine Policy = iota
	// HaltOnRefusal keeps everything where it is until somebody decides.
	HaltOnRefusal
)

// Defaults of Config.
const (
	DefaultPushDelay       = 50 * time.Millisecond
	DefaultPullInterval    = 5 * time.Second
	DefaultLongPoll        = 30 * time.Second
	DefaultBatchChanges    = 10_000
	DefaultBatchBytes      = 4 << 20
	DefaultCloseTimeout    = 5 * time.Second
	DefaultCheckpointBytes = 4 << 20
)

// Config is how one replica syncs. The zero value works.
type Config struct {
	Push PushMode
	// PushDelay is how long a push waits for further commits; 0 means
	// DefaultPushDelay, negative not at all.
	PushDelay time.Duration

	Pull PullMode
	// PullInterval is the time between pulls; with PullLongPoll it is used when
	// the remote answers long polls at once. 0 means DefaultPullInterval.
	PullInterval time.Duration
	LongPoll     time.Duration // 0 means DefaultLongPoll

	BatchChanges int // changes in one push request; 0 means DefaultBatchChanges
	BatchBytes   int // bytes of row images in one push request; 0 means DefaultBatchBytes

	Policy Policy
	// Transform, if not nil, sees every row change on its way to the remote.
	Transform cdc.Transform

	Backoff Backoff
	// CloseTimeout bounds the last push; 0 means DefaultCloseTimeout, negative no
	// last push.
	CloseTimeout time.Duration
	// CheckpointBytes is the size of live's WAL at which it is checkpointed; 0
	// means DefaultCheckpointBytes, negative never.
	CheckpointBytes int64

	// Judge reads the errors of the remote. Nil takes every error for a Retry.
	Judge func(error) Verdict
	// Logger is told what happens; nil means nobody.
	Logger *slog.Logger
	// Rand returns random numbers in [0, 1) for the backoff; nil means math/rand.
	Rand func() float64
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.PushDelay, DefaultPushDelay)
	c.PushDelay = max(c.PushDelay, 0)
	def(&c.PullInterval, DefaultPullInterval)
	def(&c.LongPoll, DefaultLongPoll)
	def(&c.CloseTimeout, DefaultCloseTimeout)
	if c.BatchChanges <= 0 {
		c.BatchChanges = DefaultBatchChanges
	}
	if c.BatchBytes <= 0 {
		c.BatchBytes = DefaultBatchBytes
	}
	if c.CheckpointBytes == 0 {
		c.CheckpointBytes = DefaultCheckpointBytes
	}
	if c.Judge == nil {
		c.Judge = func(err error) Verdict { return Verdict{Reason: err.Error()} }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
	return c
}

// Keys of log records.
const (
	keyError      = "error"
	keyTxn        = "txn"
	keyReason     = "reason"
	keyRetryIn    = "retry_in"
	keyRevision   = "revision"
	keyPages      = "pages"
	keyChanges    = "changes"
	keyWatermark  = "watermark"
	keyStatus     = "status"
	keyCollisions = "collisions"
	keyTable      = "table"
	keyKey        = "key"
	keyTxns       = "txns"
)
