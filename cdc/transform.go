package cdc

import (
	"context"
	"time"
)

// Transform is asked for each row change on its way to the remote, in the order
// of the log, what shall become of it there. It runs at the push and only there;
// schema changes are not shown to it. It may be called again for the same change,
// when a push is repeated. An error ends the push, which will be tried again later.
//
// What it skips or rewrites counts as pushed. The remote is the truth, so the next
// pull that brings pages makes the row here what it is there: a skipped insert is
// gone then, a skipped update undone. Rows that are to stay on one device belong
// into an attached database.
type Transform func(ctx context.Context, row Row) (Decision, error)

// Row is a row change as a Transform sees it. Values are nil, int64, float64,
// string or []byte.
type Row struct {
	Change ID        // of this change
	Txn    ID        // of the first change of the same transaction
	Time   time.Time // of the commit, in seconds
	Type   Type      // Insert, Update or Delete
	Table  string
	RowID  int64 // 0 in a table without rowid
	// Before is the row by column name before the change, nil for an insert;
	// After the row after it, nil for a delete. They are the callee's to keep.
	Before, After map[string]any
	// Changed names the columns whose values differ, in table order; only set
	// for an update.
	Changed []string
}

// Action is what a Transform wants done with a change.
type Action uint8

const (
	// Keep sends the change as it is.
	Keep Action = iota
	// Skip sends nothing. The change counts as pushed.
	Skip
	// Rewrite sends the Decision's own statement instead.
	Rewrite
)

// Decision is a Transform's answer; the zero value keeps the change.
type Decision struct {
	Action Action
	// SQL and Args are the one statement sent instead, if Action is Rewrite.
	// Arguments are nil, int64, float64, string or []byte.
	SQL  string
	Args []any
}
