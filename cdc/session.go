package cdc

import (
	"context"
	"errors"
)

// Kind says what a statement does to transactions and data.
type Kind uint8

// The kinds of statements. Write covers everything that may change rows.
const (
	Empty      Kind = iota // white space and comments only
	Read                   // changes nothing
	Write                  // INSERT, UPDATE, DELETE, REPLACE, in whatever database
	Schema                 // CREATE, ALTER, DROP, ANALYZE, REINDEX, PRAGMA user_version=…
	Pragma                 // a setting of the connection
	Begin                  // BEGIN in all forms
	Commit                 // COMMIT, END
	Rollback               // ROLLBACK of the whole transaction
	Savepoint              // SAVEPOINT
	Release                // RELEASE
	RollbackTo             // ROLLBACK TO
	Attach                 // ATTACH
	Detach                 // DETACH
	Vacuum                 // VACUUM INTO
)

// Statement is one statement of an SQL text, classified. It is immutable, may be
// kept as long as its Session, and used again and again.
type Statement struct {
	// SQL is this statement's own text.
	SQL string
	// Tail is what follows it in the text that was given to Prepare; "" at the end.
	// The tail is not looked at before its turn: it may need what SQL creates.
	Tail string
	// Params is the number of its parameters, as sqlite3_bind_parameter_count.
	Params int
	// Columns is the number of result columns; 0: it returns no rows.
	Columns int
	// ReadOnly statements need no Run and should be executed directly.
	ReadOnly bool
	Kind     Kind
}

// Session captures what one connection changes. Every statement whose ReadOnly
// is false must be executed inside Run.
//
// Like its connection it is used by one goroutine at a time.
type Session struct{}

// Prepare classifies the first statement of a text. Errors of its syntax are the
// sqlite3.Error that go-sqlite3 returns; refusals are an *UnsupportedError. The
// answer is cached by text.
func (s *Session) Prepare(query string) (*Statement, error) { return nil, errors.ErrUnsupported }

// Run executes one statement: exec must do it completely, fetching all rows that
// it returns, and return its error. Everything around it is done here: the gate, a
// transaction of its own when none is open, the log rows, the commit. After an
// error of exec, the log follows what SQLite kept.
//
// The error is exec's, or a sqlite3.Error (busy, constraint at commit), an
// *UnsupportedError, ErrHookDisplaced, ErrUncaptured, or the context's.
func (s *Session) Run(ctx context.Context, st *Statement, exec func() error) error {
	return errors.ErrUnsupported
}

// InTx tells whether a transaction is open, however it was opened.
func (s *Session) InTx() bool { return false }

// Changes returns what sqlite3_changes, sqlite3_total_changes and
// sqlite3_last_insert_rowid would be without our own writes to the log.
func (s *Session) Changes() (changes, totalChanges, lastInsertRowID int64) { return 0, 0, 0 }

// ResetSession rolls back what is left open and gives up the gate.
func (s *Session) ResetSession() error { return nil }

// Close stops capturing. It must be called before the connection is closed.
func (s *Session) Close() error { return nil }
