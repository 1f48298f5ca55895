package tursosync

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"strings"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/cdc"
)

// plainSession is the session of a connection whose changes nobody logs: a
// database in memory, or one opened with mode=ro.
type plainSession struct{ inner *sqlite3.SQLiteConn }

var _ session = plainSession{}

// Prepare understands just enough to see transactions go by.
func (s plainSession) Prepare(query string) (*cdc.Statement, error) {
	first, tail := cutStatement(query)
	st := &cdc.Statement{SQL: first, Tail: tail, Kind: kindOf(first)}
	if st.Kind == cdc.Empty {
		return st, nil
	}
	prepared, err := s.inner.Prepare(first)
	if err != nil {
		return nil, err
	}
	st.Params = prepared.NumInput()
	return st, prepared.Close()
}

// Run executes the statement.
func (s plainSession) Run(_ context.Context, _ *cdc.Statement, exec func() error) error {
	return exec()
}

// Changes is not used: go-sqlite3's own numbers are right.
func (s plainSession) Changes() (changes, totalChanges, lastInsertRowID int64) { return 0, 0, 0 }

// ResetSession rolls back what is left open.
func (s plainSession) ResetSession() error {
	if s.inner.AutoCommit() {
		return nil
	}
	_, err := s.inner.ExecContext(context.Background(), "ROLLBACK", nil)
	return err
}

// SetReadOnly does nothing: PRAGMA query_only is enough.
func (s plainSession) SetReadOnly(bool) {}

// Close does nothing.
func (s plainSession) Close() error { return nil }

// count returns the integer that a query yields.
func (s plainSession) count(query string) (n int64, err error) {
	r, err := s.inner.QueryContext(context.Background(), query, nil)
	if err != nil {
		return 0, err
	}
	dest := make([]driver.Value, len(r.Columns()))
	err = r.Next(dest)
	if errors.Is(err, io.EOF) {
		err = nil
	} else if err == nil && len(dest) > 0 {
		n, _ = dest[0].(int64)
	}
	return n, firstError(err, r.Close())
}

// kindOf classifies a statement by its words, as far as transactions go.
func kindOf(statement string) cdc.Kind {
	word, at := firstWord(statement)
	switch strings.ToUpper(word) {
	case "":
		if strings.Trim(statement[at:], "; \t\r\n") == "" {
			return cdc.Empty
		}
	case "BEGIN":
		return cdc.Begin
	case "COMMIT", "END":
		return cdc.Commit
	case "SAVEPOINT":
		return cdc.Savepoint
	case "RELEASE":
		return cdc.Release
	case "ROLLBACK":
		if rollsBackTo(statement[at+len(word):]) {
			return cdc.RollbackTo
		}
		return cdc.Rollback
	}
	return cdc.Write
}

// rollsBackTo tells whether what follows ROLLBACK is [TRANSACTION] TO ….
func rollsBackTo(rest string) bool {
	word, at := firstWord(rest)
	if strings.EqualFold(word, "TRANSACTION") {
		word, _ = firstWord(rest[at+len(word):])
	}
	return strings.EqualFold(word, "TO")
}
