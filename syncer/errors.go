package syncer

import (
	"errors"
	"fmt"
	"time"

	"github.com/tursosync/tursosync/cdc"
)

// ErrClosed is the answer to requests after Close.
var ErrClosed = errors.New("replica is closed")

// ErrNoRemote is the answer to requests that need a remote when there is none.
var ErrNoRemote = errors.New("replica has no remote: give it a url")

// ErrPullFirst is what Replica.Pending returns when it cannot tell what is
// pending before it knows what the remote holds, as for a file full of data that
// meets its remote for the first time.
var ErrPullFirst = errors.New("a pull has to come first")

// What Remote and Replica may find an answer of the remote to be, to be matched
// with errors.Is. Nothing was changed by such an answer.
var (
	// ErrBadAnswer is an answer that breaks the protocol or contradicts itself.
	ErrBadAnswer = errors.New("remote's answer is invalid")
	// ErrUnsupportedRemote is a remote that cannot be synced by pages (MVCC,
	// encrypted, another page size or text encoding).
	ErrUnsupportedRemote = errors.New("remote database is of an unsupported kind")
	// ErrUnauthorized is a remote that does not take the token, or not for this.
	ErrUnauthorized = errors.New("remote does not take the token")
	// ErrNotPermitted is a remote that takes the token, which does not permit what
	// was asked for: a read-only one, or one for some tables.
	ErrNotPermitted = errors.New("the token does not permit this")
)

// ErrNoSnapshot is what Remote.Fetch returns for a PullRequest.Snapshot that the
// remote does not understand.
var ErrNoSnapshot = errors.New("remote has no snapshots")

// Kind is what an error of the remote means for the syncer.
type Kind int

// The kinds of errors, by what has to be done about them.
const (
	// Retry may succeed later: network, rate limits, busy, server errors. It is
	// tried again for ever. Every unknown error is of this kind.
	Retry Kind = iota
	// Unauthorized is a token that the remote does not take: tried again, slowly.
	Unauthorized
	// NotPermitted is a token that the remote takes, but not for this. A transaction
	// with a change that is not permitted counts as refused; when nothing may be
	// pushed at all, the replica halts.
	NotPermitted
	// Moved is a watermark on the remote that is not the expected one: nothing
	// was executed, the replica has to reconcile.
	Moved
	// Refused can never succeed: the remote's data forbid it.
	Refused
	// TooLarge is a batch that the remote does not take because of its size.
	TooLarge
	// Disagreement is a remote that is not what the replica believes: other
	// tables, other columns, another protocol. Somebody has to decide.
	Disagreement
)

// Verdict is the syncer's reading of an error.
type Verdict struct {
	Kind       Kind
	Reason     string        // the remote's words
	RetryAfter time.Duration // the remote's wish
	Change     cdc.ID        // the change whose mutation was refused; 0: not known
	Answered   bool          // the remote was reached
}

// Halt is why a replica does not push any more.
type Halt struct {
	Reason string
	// Txn is the transaction that cannot be pushed, 0 if the trouble is not one
	// transaction's.
	Txn     cdc.ID
	Changes []cdc.Change
	// Disagreement tells that the remote's schema or protocol is not the expected
	// one; otherwise the remote refused the transaction (policy halt).
	Disagreement bool
	Err          error
	// pull tells that it is the pull that cannot go on.
	pull bool
	// probe lets one push through: the remote has changed since.
	probe bool
}

// HaltedError is the answer to pushes of a halted replica.
type HaltedError struct{ Halt Halt }

func (e *HaltedError) Error() string {
	s := "push is halted: " + e.Halt.Reason
	if e.Halt.Txn != 0 {
		s = fmt.Sprintf("push is halted at transaction %d: %s", e.Halt.Txn, e.Halt.Reason)
	}
	if e.Halt.Txn == 0 {
		return s + " (put it right, then Retry)"
	}
	return s + " (decide with Retry, Skip or Rewrite)"
}

func (e *HaltedError) Unwrap() error { return e.Halt.Err }

// RejectedError tells that a push ended, but that some transactions are not on
// the remote: it refused them for good, and they were put aside.
type RejectedError struct{ Rejections []Rejection }

func (e *RejectedError) Error() string {
	r := e.Rejections[0]
	if len(e.Rejections) == 1 {
		return fmt.Sprintf("transaction %d was refused by the remote and put aside: %s", r.Txn, r.Reason)
	}
	return fmt.Sprintf("%d transactions were refused by the remote and put aside, the first is %d: %s",
		len(e.Rejections), r.Txn, r.Reason)
}
