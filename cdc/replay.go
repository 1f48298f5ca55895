package cdc

import (
	"context"
	"errors"

	"github.com/mattn/go-sqlite3"
)

// Replayer applies logged transactions to a database that may have changed
// since they were committed: the new base of a rebase. Each has the effect that
// its mutations have on the remote (docs/semantics.md), so that what stands
// here after the replay is what the next pull will bring.
//
// It must be used by one goroutine at a time.
type Replayer struct {
	conn *sqlite3.SQLiteConn
}

// NewReplayer returns a Replayer on a connection whose triggers and foreign keys
// are off: the log already holds their effects. The connection's transactions
// are the caller's business; until Close it must not be used for schema changes
// by others.
func NewReplayer(conn *sqlite3.SQLiteConn) (*Replayer, error) {
	return &Replayer{conn: conn}, nil
}

// Close releases the prepared statements; the connection stays open.
func (r *Replayer) Close() error { return nil }

// Apply replays one transaction inside a savepoint: all of it happens or
// nothing. A transaction that cannot be replayed is no error but a rejection in
// the Outcome.
//
// Rows without identity beyond their rowid may land on another rowid than the
// log says, because the new base has that one taken. Apply writes the rowid of
// each such row into its Change, so that a caller who appends the changes to the
// new log after Apply keeps log and rows together; later transactions are
// understood in the same sense.
func (r *Replayer) Apply(ctx context.Context, txn []Change) (Outcome, error) {
	return Outcome{}, errors.ErrUnsupported
}

// Outcome is what became of a replayed transaction.
type Outcome struct {
	// Reason is empty if the transaction was applied; otherwise nothing of it was.
	Reason Reason
	// Err says why the transaction was rejected: a *DriftError, or a sqlite3.Error
	// in SQLite's words.
	Err error
	// Change is the change that could not be replayed.
	Change ID
	// Collisions are inserts that met a row of the new base under the same
	// integer key. The inserted row stays.
	Collisions []Collision
}

// Rejected tells whether the transaction could not be replayed.
func (o *Outcome) Rejected() bool { return o.Reason != "" }

// Reason classifies why a transaction cannot be replayed.
type Reason string

const (
	// ReasonConstraint: the rows of the new base and the transaction violate a
	// constraint together, in any order. It will not succeed later by itself.
	ReasonConstraint Reason = "constraint"
	// ReasonSchema: local and remote disagree about a definition: a table or
	// column is gone, or another one has its name.
	ReasonSchema Reason = "schema"
)

// Collision is an integer key that two replicas gave to different rows.
type Collision struct {
	Change        ID
	Table         string
	Key           int64
	Local, Remote map[string]any // column to value
}
