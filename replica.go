package tursosync

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/replica"
	"github.com/tursosync/tursosync/syncer"
)

// Replica is the handle of a synchronised database: for programs that want to
// know, to wait or to decide. Nothing has to be done with it for syncing to
// happen. Its methods may be called from any goroutine; after the last sql.DB of
// the file is closed they return ErrClosed.
type Replica struct {
	connector *Connector
}

// ReplicaOf returns the handle of a database that was opened with this driver,
// by sql.Open or sql.OpenDB. It needs no connection of the pool. The files are
// opened if they are not yet.
func ReplicaOf(db *sql.DB) (*Replica, error) {
	ctx := context.Background()
	c, err := connectorOf(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("find replica: %w", err)
	}
	if c.target.kind != kindReplica {
		return nil, ErrNoReplica
	}
	e, err := c.use(ctx)
	if err != nil {
		return nil, err
	}
	if err := engines.release(e); err != nil {
		return nil, err
	}
	return &Replica{connector: c}, nil
}

// ErrNoReplica says that a database is plain SQLite, in memory or read-only, for
// which there is nothing to sync.
var ErrNoReplica = errors.New("database is in memory or read-only, and no replica")

// Conditions of the handle, to be matched with errors.Is.
var (
	// ErrClosed: the last sql.DB of the replica was closed.
	ErrClosed = errors.New("replica is closed")
	// ErrNoRemote: the database was opened without a url.
	ErrNoRemote = syncer.ErrNoRemote
	// ErrNotHalted: no transaction is in the way, so there is nothing to decide.
	ErrNotHalted = syncer.ErrNotHalted
)

// What a Replica reports. The types are those of package syncer and package cdc,
// where their fields are described.
type (
	// Status says what is going on.
	Status = syncer.Status
	// State is the short form of a Status: Running, Offline, Halted or Stopped.
	State = syncer.State
	// Stats are sizes, positions and traffic.
	Stats = syncer.Stats
	// Txn is a local transaction, as a list of changes.
	Txn = syncer.Txn
	// Change is the net effect of a transaction on one row, or a schema statement.
	Change = cdc.Change
	// ID identifies a change; a transaction goes by the ID of its first one.
	ID = cdc.ID
	// Revision is the remote's opaque name for one of its states.
	Revision = page.Revision
	// Rejection is a transaction that the remote refused for good, with its words.
	Rejection = syncer.Rejection
	// Mutation is a statement for the remote; see Replica.Rewrite.
	Mutation = cdc.Mutation
	// Collision is an integer key that two replicas gave to different rows.
	Collision = syncer.Collision

	// Transform is asked for each row change on its way to the remote; see
	// Config.Transform.
	Transform = cdc.Transform
	Row       = cdc.Row      // a row change as a Transform sees it
	Decision  = cdc.Decision // a Transform's answer; the zero value keeps the change

	// HaltedError is the error of pushes that wait for a decision.
	HaltedError = syncer.HaltedError
	// RejectedError tells that a push ended but that the remote refused some
	// transactions for good.
	RejectedError = syncer.RejectedError
	// DriftError tells that local and remote disagree about a definition.
	DriftError = cdc.DriftError
)

// What a Transform may decide.
const (
	Keep    = cdc.Keep    // send the change as it is
	Skip    = cdc.Skip    // send nothing
	Rewrite = cdc.Rewrite // send the Decision's own statement
)

// What happened to a Row or in a Change.
const (
	Delete = cdc.Delete
	Update = cdc.Update
	Insert = cdc.Insert
)

// The states of a replica.
const (
	Running = syncer.Running // nothing is wrong
	Offline = syncer.Offline // the last attempt did not succeed; another one follows
	Halted  = syncer.Halted  // syncing waits for a decision
	Stopped = syncer.Stopped // closed
)

// Event is something that happened to a replica: one of the types below.
type (
	Event         = syncer.Event
	Pulled        = syncer.Pulled        // the remote's changes are here
	Pushed        = syncer.Pushed        // ours are on the remote
	StatusChanged = syncer.StatusChanged // running, offline, halted, stopped
	Collided      = syncer.Collided      // two replicas gave one integer key to different rows
	Rejected      = syncer.Rejected      // a transaction was put aside
	RemoteReset   = syncer.RemoteReset   // everything was taken anew
	Renewed       = syncer.Renewed       // files or remote were restored or copied: a new client id
	Adopted       = syncer.Adopted       // a file full of data became a replica
	Progress      = syncer.Progress      // how much of a bootstrap has arrived
	Missed        = syncer.Missed        // events that a slow subscriber had no room for
)

// with calls fn with the open engine. It adds no reference: whoever waits in fn
// must not keep the last sql.DB from closing.
func (r *Replica) with(fn func(e *engine) error) error {
	r.connector.mu.Lock()
	e := r.connector.engine
	r.connector.mu.Unlock()
	if e == nil {
		return ErrClosed
	}
	err := fn(e)
	if errors.Is(err, syncer.ErrClosed) || errors.Is(err, replica.ErrClosed) {
		return ErrClosed
	}
	if err != nil {
		return fmt.Errorf("replica %s: %w", e.path, err)
	}
	return nil
}

// loop calls fn with the loop of the open engine.
func (r *Replica) loop(fn func(l *syncer.Loop) error) error {
	return r.with(func(e *engine) error { return fn(e.sync.loop) })
}

// Push sends what is pending, now. The error is a *HaltedError while pushes wait
// for a decision, and a *RejectedError when all was sent but for transactions
// that the remote refused for good.
func (r *Replica) Push(ctx context.Context) error {
	return r.loop(func(l *syncer.Loop) error { return l.Push(ctx) })
}

// Pull brings the remote's changes here, now.
func (r *Replica) Pull(ctx context.Context) error {
	return r.loop(func(l *syncer.Loop) error { return l.Pull(ctx) })
}

// Sync is Push, then Pull.
func (r *Replica) Sync(ctx context.Context) error {
	return r.loop(func(l *syncer.Loop) error { return l.Sync(ctx) })
}

// Wait returns when everything committed by now is on the remote. While the
// remote cannot be reached it waits on. It gives up when ctx ends, when pushes
// are halted (*HaltedError), and when the remote refused some of it for good
// (*RejectedError).
func (r *Replica) Wait(ctx context.Context) error {
	return r.loop(func(l *syncer.Loop) error { return l.Wait(ctx) })
}

// Checkpoint moves the WAL into the database file as far as readers allow. It
// also happens by itself.
func (r *Replica) Checkpoint(ctx context.Context) error {
	return r.loop(func(l *syncer.Loop) error { return l.Checkpoint(ctx) })
}

// Status says what is going on. It never waits.
func (r *Replica) Status() Status {
	s := Status{State: Stopped}
	_ = r.loop(func(l *syncer.Loop) error {
		s = l.Status()
		return nil
	})
	return s
}

// Stats returns sizes, positions and traffic. It does not wait for a push or a
// pull under way.
func (r *Replica) Stats(ctx context.Context) (s Stats, err error) {
	err = r.loop(func(l *syncer.Loop) error {
		s, err = l.Stats(ctx)
		return err
	})
	return s, err
}

// Events subscribes to what happens from the call on. The subscription ends with
// ctx, when the loop over it is left, or when the replica is closed. Up to 1024
// events wait for a slow subscriber; what finds no room is counted in a Missed
// event.
func (r *Replica) Events(ctx context.Context) iter.Seq[Event] {
	events := iter.Seq[Event](func(func(Event) bool) {})
	_ = r.loop(func(l *syncer.Loop) error {
		events = l.Events(ctx)
		return nil
	})
	return events
}

// Pending returns the transactions that the remote does not have yet, oldest
// first: at most about max changes (0: all of them), and whether there are more.
func (r *Replica) Pending(ctx context.Context, max int) (txns []Txn, more bool, err error) {
	const all = 1 << 40
	limits := syncer.Limits{Changes: max, Bytes: all}
	if max <= 0 {
		limits.Changes = all
	}
	err = r.do(ctx, func(ctx context.Context, e *engine) error {
		p, err := e.replica.Pending(ctx, limits)
		txns, more = p.Txns, p.More
		if errors.Is(err, syncer.ErrPullFirst) {
			return nil // a file full of data that has not met its remote yet
		}
		return err
	})
	return txns, more, err
}

// do runs fn in the turn of the engine's loop.
func (r *Replica) do(ctx context.Context, fn func(ctx context.Context, e *engine) error) error {
	return r.with(func(e *engine) error {
		return e.sync.loop.Do(ctx, func(ctx context.Context) error { return fn(ctx, e) })
	})
}

// Retry lets a halted replica try again, as when the remote was put right.
func (r *Replica) Retry(ctx context.Context) error {
	return r.loop(func(l *syncer.Loop) error { return l.Retry(ctx) })
}

// Skip puts the transaction that halts the push aside, with the rejected ones,
// and goes on.
func (r *Replica) Skip(ctx context.Context) error {
	return r.loop(func(l *syncer.Loop) error { return l.Skip(ctx) })
}

// Rewrite sends statements in place of the transaction that halts the push, and
// goes on. None at all counts the transaction as sent.
func (r *Replica) Rewrite(ctx context.Context, mutations ...Mutation) error {
	return r.loop(func(l *syncer.Loop) error { return l.Rewrite(ctx, mutations) })
}

// Rejected returns the transactions that were put aside, oldest first.
func (r *Replica) Rejected(ctx context.Context) (list []Rejection, err error) {
	err = r.do(ctx, func(ctx context.Context, e *engine) error {
		list, err = e.replica.Rejected(ctx)
		return err
	})
	return list, err
}

// Requeue puts a rejected transaction behind everything that is pending, under
// new change ids: its rows are in the database again, and it is pushed again.
func (r *Replica) Requeue(ctx context.Context, txn cdc.ID) error {
	return r.do(ctx, func(ctx context.Context, e *engine) error {
		if err := e.replica.Requeue(ctx, txn); err != nil {
			return err
		}
		e.sync.loop.Committed()
		return nil
	})
}

// Rebootstrap makes the next pull take everything from the remote anew, whatever
// is here; what is pending stays pending. It is the way out when there is a reason
// to doubt what was pulled.
func (r *Replica) Rebootstrap(ctx context.Context) error {
	return r.do(ctx, func(ctx context.Context, e *engine) error { return e.replica.Rebootstrap(ctx) })
}

// Discard forgets a rejected transaction for good.
func (r *Replica) Discard(ctx context.Context, txn cdc.ID) error {
	return r.do(ctx, func(ctx context.Context, e *engine) error { return e.replica.Discard(ctx, txn) })
}
