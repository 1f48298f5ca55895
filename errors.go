package tursosync

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/remote"
	"github.com/tursosync/tursosync/internal/replica"
	"github.com/tursosync/tursosync/syncer"
)

// Conditions of the layers below, to be matched with errors.Is.
var (
	// ErrLocked: another process has the replica open.
	ErrLocked = replica.ErrLocked
	// ErrNotReplica: the file holds data and is no replica of the remote, which
	// holds data too, or existing=refuse was set. Nothing was changed.
	ErrNotReplica = replica.ErrNotReplica
	// ErrNotDatabase: the file is not an SQLite database, or is damaged.
	ErrNotDatabase = replica.ErrNotDatabase
	// ErrReadOnly: the file or its folder cannot be written. To read it as it is,
	// open it with mode=ro.
	ErrReadOnly = replica.ErrReadOnly
	// ErrNetworkFileSystem: the file is where SQLite's WAL does not work.
	ErrNetworkFileSystem = replica.ErrNetworkFileSystem
	// ErrInUse: another program has the file open while it has to be rebuilt.
	ErrInUse = replica.ErrInUse
	// ErrBadAnswer: the remote's answer breaks the protocol or contradicts itself.
	// Nothing was changed; it is asked again.
	ErrBadAnswer = syncer.ErrBadAnswer
	// ErrUnauthorized: the remote does not take the token, or not for this.
	ErrUnauthorized = syncer.ErrUnauthorized
	// ErrNotPermitted: the remote takes the token, but it does not permit what was
	// pushed; the error says which table and which permission. It is an
	// ErrUnauthorized, too.
	ErrNotPermitted = syncer.ErrNotPermitted
	// ErrUnsupportedRemote: the remote is a database that cannot be synced by
	// pages (MVCC, encrypted, another page size or text encoding).
	ErrUnsupportedRemote = replica.ErrUnsupportedRemote

	// ErrHookDisplaced: a write was refused because an update, pre-update, commit,
	// rollback or authorizer hook was registered in place of ours.
	ErrHookDisplaced = cdc.ErrHookDisplaced
	// ErrVirtualTable: virtual tables are not synchronised.
	ErrVirtualTable = cdc.ErrVirtualTable
	// ErrInternalTable: the table belongs to the synchronisation itself.
	ErrInternalTable = cdc.ErrInternalTable
	// ErrUncaptured: a commit was refused because the connection was written to
	// behind the driver's back.
	ErrUncaptured = cdc.ErrUncaptured
)

// RemoteError is every error of a request to the remote: its HTTP status, the
// remote's words, whether it may have been executed all the same (Outcome), how
// long the remote asked to wait. It never holds the token.
type RemoteError = remote.Error

// UnsupportedError refuses something that SQLite can do and a replica cannot.
type UnsupportedError = cdc.UnsupportedError

// ErrTxRolledBack says that SQLite has rolled the transaction back by itself,
// usually because a statement in it was cancelled. Every call in the transaction
// gets it until Rollback (or, for a transaction begun with BEGIN as text, until
// ROLLBACK), so that nothing of what follows is committed on its own. The
// statement that caused it got SQLite's own error.
var ErrTxRolledBack = errors.New("transaction was rolled back by SQLite")

// TxRolledBackError is the error that says [ErrTxRolledBack], with the cause.
type TxRolledBackError struct {
	// Cause is the error of the statement that ended the transaction: the
	// context's error, or a sqlite3.Error. It is nil if it is not known.
	Cause error
}

func (e *TxRolledBackError) Error() string {
	const next = "; nothing of it is in the database: call Rollback and start again"
	if e.Cause == nil {
		return ErrTxRolledBack.Error() + next
	}
	return ErrTxRolledBack.Error() + " (" + e.Cause.Error() + ")" + next
}

// Is reports whether target is ErrTxRolledBack.
func (e *TxRolledBackError) Is(target error) bool { return target == ErrTxRolledBack }

// Unwrap returns the cause, so that errors.Is finds context.Canceled and
// errors.As finds a sqlite3.Error.
func (e *TxRolledBackError) Unwrap() error { return e.Cause }

// ConfigError says which setting cannot be used, and why. It never holds a token.
type ConfigError struct {
	Key string // as spelled in a DSN; "path" for the file
	Why string
	Err error // what was found underneath, or nil
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("tursosync: setting %q: %s", e.Key, e.Why)
}

func (e *ConfigError) Unwrap() error { return e.Err }

func badConfig(key, format string, args ...any) *ConfigError {
	return &ConfigError{Key: key, Why: fmt.Sprintf(format, args...)}
}

// IsolationError says that a transaction cannot be had as asked for.
type IsolationError struct {
	Level string // the name of the level that was asked for
}

func (e *IsolationError) Error() string {
	return fmt.Sprintf("isolation level %s: SQLite transactions are serializable, nothing weaker can be had", e.Level)
}

// keyWithin bounds what an error repeats of a key that nobody knows.
func keyWithin(key string) string {
	const limit = 40
	if len(key) > limit {
		key = key[:limit] + "…"
	}
	return strings.ToValidUTF8(key, "?")
}

// alike returns the member of known that key may have been meant to be.
func alike(key string, known []string) (string, bool) {
	fold := func(s string) string { return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s)) }
	i := slices.IndexFunc(known, func(k string) bool { return fold(k) == fold(key) })
	if i < 0 {
		return "", false
	}
	return known[i], true
}

// firstError returns the first error as it is: joined or wrapped it would not be
// a sqlite3.Error to those who only look at its type.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
