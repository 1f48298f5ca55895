package syncer

import (
	"context"
	"fmt"
	"time"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/page"
)

// Replica is what the syncer needs of a local database. Its methods are called
// by one goroutine at a time, Measure excepted.
type Replica interface {
	// Pending returns the oldest changes above the acknowledged watermark, whole
	// transactions only, up to the limits but at least one transaction. What it
	// returns is on disk for good (the WAL is synced first): a change that the
	// remote has must never be unknown here after a power loss. ErrPullFirst tells
	// that a pull has to come first.
	Pending(ctx context.Context, limits Limits) (Pending, error)
	// Intend notes durably that changes up to and including last may reach the
	// remote from now on, so that a watermark found there later is recognised.
	Intend(ctx context.Context, last cdc.ID) error
	// Acknowledge moves the watermark: the remote holds every change up to id.
	Acknowledge(ctx context.Context, id cdc.ID) error
	// Reconcile compares the watermark read from the remote (found false: no row
	// for our client id) with what this replica knows. A watermark that is known
	// or was intended is acknowledged. Any other means that these files, or the
	// remote, were restored or copied: the replica takes a new client id and keeps
	// every change that is not part of base pending, and renewed is true.
	Reconcile(ctx context.Context, watermark cdc.ID, found bool) (renewed bool, err error)
	// Reject moves the transactions with these first change ids into
	// turso_sync_rejected with the remote's words. Later transactions that make no
	// sense without them are put aside as well, and returned.
	Reject(ctx context.Context, txns []cdc.ID, reason string) (others []Rejection, err error)
	// Pull brings base to the remote's newest revision and rebases what is pending.
	// It drives fetch itself: once for an increment, several times for a chunked
	// bootstrap, and resumes what an earlier call left unfinished.
	Pull(ctx context.Context, fetch Fetch, opts PullOptions) (PullReport, error)
	// Rebootstrap makes the next Pull take everything anew; pending changes stay.
	Rebootstrap(ctx context.Context) error
	// Checkpoint moves live's WAL into its file as far as readers allow.
	Checkpoint(ctx context.Context) error
	// Measure reports sizes and positions; cheap enough to call often. Unlike the
	// other methods it may be called at any time, by any goroutine, also while
	// another method runs: Stats must answer during a long poll.
	Measure(ctx context.Context) (Measure, error)
}

// SchemaSource is implemented by replicas that know their schema. Without it
// the remote's triggers fire on pushed rows, and a migration that the remote has
// further along is a disagreement.
type SchemaSource interface {
	// Schema lists live's schema objects, and the triggers of base that live has
	// not any more. A push suspends these triggers on the remote while it writes to
	// their tables: they were in force when the pending changes were made, and
	// their effects are in the log, row by row.
	Schema(ctx context.Context) ([]SchemaObject, error)
	// PendingSchema lists the logged schema changes above id, in order.
	PendingSchema(ctx context.Context, above cdc.ID) ([]cdc.Change, error)
}

// Remote is what the syncer needs of the Turso database.
type Remote interface {
	// Watermark reads the highest change id that the remote holds for the client.
	Watermark(ctx context.Context, clientID string) (id cdc.ID, found bool, err error)
	// Push sends one batch as one remote transaction: all of it happens or nothing.
	Push(ctx context.Context, batch Batch) (PushResult, error)
	// Schema lists the remote's schema objects as sqlite_schema has them.
	Schema(ctx context.Context) ([]SchemaObject, error)
	// Fetch asks /pull-updates once and streams the answer into sink.
	Fetch(ctx context.Context, req PullRequest, sink PullSink) error
	// Transferred returns body bytes sent and received so far.
	Transferred() (sent, received int64)
}

// Fetch is Remote.Fetch as a value.
type Fetch func(ctx context.Context, req PullRequest, sink PullSink) error

// Limits bound a batch; transactions are never split, so one large transaction
// may exceed them.
type Limits struct {
	Changes int
	Bytes   int
}

// Pending is a run of whole transactions to push.
type Pending struct {
	ClientID  string
	Watermark cdc.ID // acknowledged; 0: nothing pushed yet under this client id
	Known     bool   // a watermark row exists on the remote under this client id
	Txns      []Txn
	More      bool   // more is pending behind Txns
	Last      cdc.ID // the highest change id given so far
	// Moved: changes that had not been sent got new, higher ids since the last call.
	Moved bool
}

// Txn is one committed local transaction.
type Txn struct {
	Changes []cdc.Change
}

// Batch is one remote transaction.
type Batch struct {
	ClientID string
	// Expect is the watermark row that must be found inside the transaction
	// (ExpectFound false: none), otherwise nothing happens and the error is
	// ErrWatermarkMoved of the remote package.
	Expect      cdc.ID
	ExpectFound bool
	Last        cdc.ID // the watermark afterwards
	// Probes run before the mutations, inside the transaction; their rows come
	// back in PushResult.Probes.
	Probes    []cdc.Mutation
	Mutations []cdc.Mutation
}

// PushResult is what an accepted batch brought back.
type PushResult struct {
	Probes []ProbeRows // one for each probe
}

// ProbeRows is the result of a probe.
type ProbeRows struct {
	Columns []string
	Rows    [][]any
}

// SchemaObject is a row of the remote's sqlite_schema.
type SchemaObject struct {
	Kind, Name, Table, SQL string
}

// PullRequest is one request for pages.
type PullRequest struct {
	Have     page.Revision // what base is at; empty: nothing
	At       page.Revision // answer as of this revision; empty: the newest
	Pages    *page.Set     // nil: all pages
	LongPoll time.Duration // how long the remote may wait for news; 0: not at all
	// Snapshot asks for the whole database whatever the remote's history holds
	// (ReplaceBase), or, if it is still at Have, for no page. ErrNoSnapshot is the
	// answer of remotes that have no such thing.
	Snapshot bool
}

// PullHeader opens the answer to a PullRequest.
type PullHeader struct {
	Revision    page.Revision
	PageCount   uint64 // size of the database in pages
	ReplaceBase bool   // forget base: the answer is the whole database
}

// PullSink takes an answer: Header once, then Page for each page in any order.
// The page's bytes are valid during the call only. An error of either ends the
// fetch with that error. Fetch returns nil only when the answer was complete.
type PullSink interface {
	Header(PullHeader) error
	Page(no page.No, image []byte) error
}

// PullOptions steer Replica.Pull.
type PullOptions struct {
	LongPoll time.Duration
	// Progress, if not nil, is told of pages received during a bootstrap.
	Progress func(done, total uint64)
	// Verify, if not nil, is Remote.Watermark: to find out whether the remote is
	// still the database that base came from.
	Verify func(ctx context.Context, clientID string) (id cdc.ID, found bool, err error)
	// Doubt asks for that in any case: it is the first pull since the start or an
	// error, so that the remote may have been replaced.
	Doubt bool
}

// PullReport says what a pull did.
type PullReport struct {
	Revision   page.Revision
	Changed    bool     // base has other pages than before
	Pages      int      // pages received
	Tables     []string // tables whose content or definition may have changed, sorted
	Replayed   int      // pending changes replayed on the new base
	Collisions []Collision
	Rejected   []Rejection
	// Adopted tells that a file full of data became a replica: its content is
	// pending.
	Adopted bool
	// RemoteReset tells that the remote did not know our revision or was found to
	// be another database than before, so that everything was taken anew.
	RemoteReset bool
	// WantWatermark asks the syncer to read the watermark from the remote before
	// the next push.
	WantWatermark bool
}

// Collision is an auto-assigned integer key that two replicas gave to different
// rows. The row pushed last stays.
type Collision struct {
	Table         string
	Key           int64
	Local, Remote map[string]any // column to value
}

// Rejection is a transaction that the remote, or the replay on a new base,
// refused for good.
type Rejection struct {
	Txn     cdc.ID
	Changes []cdc.Change
	Reason  string
	Time    time.Time
}

// Measure is a replica's part of Stats.
type Measure struct {
	ClientID       string        // of this replica in the remote's turso_sync_last_change_id
	PendingChanges int64         // changes that are not on the remote
	Watermark      cdc.ID        // the remote is known to have every change up to it
	LastChange     cdc.ID        // the highest change id given so far
	Revision       page.Revision // of the remote, that base is at; empty before the first pull
	WALBytes       int64         // size of live's WAL
	LiveBytes      int64         // size of the database file
	BaseBytes      int64         // size of base
	Rejected       int64         // transactions that were put aside
}

// ReplayError tells that Pull changed nothing, because a pending transaction
// cannot be replayed on the remote's new pages: the remote's schema no longer
// fits it, or (policy halt) it violates a constraint. Reject with its id puts
// the transaction aside and lets the next Pull through.
type ReplayError struct {
	Txn     cdc.ID
	Changes []cdc.Change
	Err     error // a *cdc.DriftError, or SQLite's words
}

func (e *ReplayError) Error() string {
	return fmt.Sprintf("replay transaction %d on the remote's new state: %v", e.Txn, e.Err)
}

func (e *ReplayError) Unwrap() error { return e.Err }
