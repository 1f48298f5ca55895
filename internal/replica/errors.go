package replica

import (
	"errors"
	"fmt"

	"github.com/tursosync/tursosync/syncer"
)

// Conditions that Open and Pull report. Match them with errors.Is; the chain
// holds the details.
var (
	// ErrLocked: another process has the replica open.
	ErrLocked = errors.New("replica is open in another process")
	// ErrNotReplica: the file holds data of its own, and so does the remote. Nothing
	// was changed; open it with an explicit mode for existing files.
	ErrNotReplica = errors.New("file has data but is no replica of the remote, which has data too")
	// ErrNotDatabase: the file is not an SQLite database, or is damaged.
	ErrNotDatabase = errors.New("file is not an intact SQLite database")
	// ErrReadOnly: the file or its directory cannot be written.
	ErrReadOnly = errors.New("file cannot be written")
	// ErrNetworkFileSystem: WAL needs shared memory, which a network file system
	// does not give.
	ErrNetworkFileSystem = errors.New("file is on a network file system, where SQLite's WAL does not work")
	// ErrInUse: another program has the file open while it has to be rebuilt.
	ErrInUse = errors.New("file is in use by another program")
	// ErrFormat: the file was written by a newer version of this package.
	ErrFormat = errors.New("replica has an unknown format version")
	// ErrBadAnswer: the remote's answer contradicts itself. Nothing was changed.
	ErrBadAnswer = syncer.ErrBadAnswer
	// ErrUnsupportedRemote: the remote is a kind of database that cannot be synced
	// by pages (MVCC, encrypted, another page size or text encoding).
	ErrUnsupportedRemote = syncer.ErrUnsupportedRemote
	// ErrClosed: the replica is closed.
	ErrClosed = errors.New("replica is closed")
)

// FileError says which file a condition is about.
type FileError struct {
	Path string
	Err  error // one of the conditions above
	Why  error // what was met, or nil
}

func (e *FileError) Error() string {
	if e.Why == nil {
		return fmt.Sprintf("%s: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("%s: %v: %v", e.Path, e.Err, e.Why)
}

func (e *FileError) Unwrap() []error {
	if e.Why == nil {
		return []error{e.Err}
	}
	return []error{e.Err, e.Why}
}

// badAnswer says why an answer of the remote cannot be used.
func badAnswer(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBadAnswer, fmt.Sprintf(format, args...))
}

// unsupported says why a remote database cannot be synced.
func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupportedRemote, fmt.Sprintf(format, args...))
}
