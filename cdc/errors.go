package cdc

import (
	"errors"
	"fmt"
)

var (
	// ErrHookDisplaced is the reason for a write that was refused because
	// somebody registered an update, pre-update, commit, rollback, WAL or
	// authorizer hook on the connection, in place of ours: changes can no longer
	// be captured for certain. The error's text names the hook. The transaction
	// must be rolled back; ours is back in place afterwards.
	ErrHookDisplaced = errors.New("a hook that captures changes was displaced")
	// ErrVirtualTable is the reason for a refused CREATE VIRTUAL TABLE in the
	// synchronised database, or a write to one that came with a pull.
	ErrVirtualTable = errors.New("virtual tables are not synchronised")
	// ErrInternalTable is the reason for a refused write to a table that belongs
	// to the synchronisation itself.
	ErrInternalTable = errors.New("table belongs to the synchronisation")
	// ErrUncaptured is the reason for a commit that was refused because the
	// connection was changed behind the Session's back, through the raw
	// connection for example.
	ErrUncaptured = errors.New("the transaction changed the database in a way that was not captured")
	// ErrClosed tells that a Log or a Session is closed.
	ErrClosed = errors.New("log is closed")
)

// UnsupportedError refuses something that SQLite can do and a synchronised
// database cannot.
type UnsupportedError struct {
	What string // the statement or setting, such as "PRAGMA journal_mode=delete"
	Why  string
	Hint string // what to do instead; may be empty
	err  error  // a sentinel, or nil
}

func (e *UnsupportedError) Error() string {
	s := fmt.Sprintf("%s is not supported: %s", e.What, e.Why)
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// Unwrap returns the sentinel behind the refusal, if there is one: ErrVirtualTable
// or ErrInternalTable.
func (e *UnsupportedError) Unwrap() error { return e.err }
