// Package replica keeps a local database in step with the pages of a remote one:
// it owns the files of a replica, stages new pages with the pending changes
// replayed on top, and puts the result under the readers in one commit. DESIGN.md
// in this folder says why it is built as it is.
package replica

import (
	"log/slog"
	"sync"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/syncer"
)

// Existing says what happens to a file that holds data but is no replica yet,
// when it meets its remote for the first time. Until then it is worked on
// offline.
type Existing int

const (
	// ExistingAuto uploads if the remote is empty. Otherwise Pull fails with
	// ErrNotReplica and changes nothing.
	ExistingAuto Existing = iota
	// ExistingUpload takes the file's content for pending changes: rows go on top
	// of the remote's, the last push wins.
	ExistingUpload
	// ExistingDownload takes the remote's content and keeps the file's as a backup
	// beside it. Changes made through the driver since it was opened stay pending.
	ExistingDownload
)

// DefaultCheckpointBytes is the size of live's WAL after a pull at which it is
// checkpointed.
const DefaultCheckpointBytes = 4 << 20

// Config says where a replica is and how it behaves. Only Path is required.
type Config struct {
	// Path of the database file. Symbolic links are followed.
	Path string
	// RemoteURL identifies the remote; it is compared, never dialled. A replica
	// that meets another URL than before takes everything anew. Empty: unknown.
	RemoteURL string
	// ClientName begins the client id; default "tursosync".
	ClientName string
	Existing   Existing
	// ChunkPages is the size of a bootstrap's requests in pages; 0: one request.
	ChunkPages int
	// CheckpointBytes as DefaultCheckpointBytes, which 0 stands for; negative: Pull
	// never checkpoints.
	CheckpointBytes int64
	// HaltOnRejection makes Pull fail with a *syncer.ReplayError, changing nothing,
	// when a pending transaction cannot be replayed. Otherwise a transaction that
	// violates a constraint on the new base is moved into turso_sync_rejected.
	// A disagreement about the schema halts in either case.
	HaltOnRejection bool
	// Connect, if not nil, is called for each connection on which changes are
	// replayed or compared: the place to register functions and collations that
	// the schema uses.
	Connect func(*sqlite3.SQLiteConn) error
	// Committed is handed to cdc.LogConfig.
	Committed func()
	Logger    *slog.Logger     // nil: silent
	Now       func() time.Time // nil: time.Now
}

// Replica is one local database with everything beside it. It implements
// syncer.Replica.
type Replica struct {
	cfg   Config
	files files
	lock  *fileLock
	log   *cdc.Log

	mu     sync.Mutex // one operation at a time; guards what follows
	live   *conn      // state, page commits
	reader *conn      // snapshots of live, and the pin of a checkpoint; nil until needed
	closed bool
	dirty  dirty
	// compare: somebody else may have written to live; replay(base, log) has to be
	// compared with it before the next rebase.
	compare bool
	gated   bool // the operation under way holds the log's gate
	moved   bool // see syncer.Pending
	// checkBase: base may not be what the state says; its sum has to be compared
	// before it is used.
	checkBase bool
	keptBase  uint64 // the sum of the base that was copied last
	// unreported is what pulls did that ended with an error afterwards.
	unreported syncer.PullReport

	stateMu sync.Mutex
	st      state // guarded by stateMu; changed only while holding mu too

	meterMu sync.Mutex
	meter   *conn // for Measure; guarded by meterMu; nil until needed
}

var _ syncer.Replica = (*Replica)(nil)

// Log returns the log, on which the driver's connections open their sessions.
func (r *Replica) Log() *cdc.Log { return r.log }

// Path returns the resolved path of live: connections must be opened by this name.
func (r *Replica) Path() string { return r.files.live }

// state returns a copy of what the replica believes.
func (r *Replica) state() state {
	r.stateMu.Lock()
	defer r.stateMu.Unlock()
	return r.st
}

func (r *Replica) setState(s state) {
	r.stateMu.Lock()
	defer r.stateMu.Unlock()
	r.st = s
}
