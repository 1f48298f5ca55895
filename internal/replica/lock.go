package replica

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/gofrs/flock"

	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/page"
)

// fileLock elects the one process that may have a replica open. The system
// releases it when the process ends, however it ends.
//
// The lock file also carries a hint: how the files looked when the replica was
// last closed cleanly. If they look the same now, nobody wrote to them since,
// and neither a comparison of pages nor one of rows is needed. Without a fitting
// hint both are done before the next rebase; so the hint may be lost at any time,
// but must never be there wrongly.
type fileLock struct {
	path  string
	flock *flock.Flock
}

// hint is the content of the lock file after a clean close.
type hint struct {
	Format int         `json:"format"`
	Live   fingerprint `json:"live"`
	Base   fingerprint `json:"base"`
	Dirty  []byte      `json:"dirty"` // page.Set: pages in which live may differ from base
}

const hintFormat = 1

// lockFile takes the lock without waiting: ErrLocked if it is taken.
func lockFile(path string) (*fileLock, error) {
	l := &fileLock{path: path, flock: flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))}
	ok, err := false, fault.FileOp("lock", path)
	if err == nil {
		ok, err = l.flock.TryLock()
	}
	if err != nil {
		if forbidden(err) {
			return nil, &FileError{Path: path, Err: ErrReadOnly, Why: err}
		}
		return nil, fmt.Errorf("lock replica: %w", err)
	}
	if !ok {
		return nil, &FileError{Path: path, Err: ErrLocked}
	}
	return l, nil
}

// take reads the hint and removes it: from now on the files may change. A hint
// that cannot be read is none.
func (l *fileLock) take() (hint, bool) {
	var h hint
	text, err := fault.ReadFile(l.path)
	if err != nil || len(text) == 0 {
		return hint{}, false
	}
	if err := errors.Join(fault.At("hint.take"), fault.Truncate(l.path, 0)); err != nil {
		return hint{}, false
	}
	if err := json.Unmarshal(text, &h); err != nil || h.Format != hintFormat {
		return hint{}, false
	}
	return h, true
}

// leave writes the hint; the files must not change any more.
func (l *fileLock) leave(h hint) error {
	h.Format = hintFormat
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if err := fault.At("hint.leave"); err != nil {
		return err
	}
	return fault.WriteFile(l.path, text, 0o600)
}

// unlock releases the lock. The file stays: removing it would let two processes
// lock two files of the same name.
func (l *fileLock) unlock() error {
	if err := l.flock.Close(); err != nil {
		return fmt.Errorf("unlock replica: %w", err)
	}
	return nil
}

// takeHint returns the pages noted at the last clean close, if the files are
// still as they were then.
func (l *fileLock) takeHint(f files) (dirty *page.Set, liveKnown, baseKnown bool) {
	h, ok := l.take()
	if !ok {
		return nil, false, false
	}
	if base, err := fingerprintOf(f.base()); err == nil {
		baseKnown = base == h.Base
	} else {
		baseKnown = errors.Is(err, fs.ErrNotExist) && h.Base == fingerprint{}
	}
	live, err := fingerprintOf(f.live)
	if err != nil || live != h.Live {
		return nil, false, baseKnown
	}
	if n, err := sizeOf(f.live + "-wal"); err != nil || n != 0 {
		return nil, false, baseKnown
	}
	dirty = new(page.Set)
	if err := dirty.UnmarshalBinary(h.Dirty); err != nil {
		return nil, false, baseKnown
	}
	return dirty, true, baseKnown
}

// leaveHint notes how the closed files look.
func (l *fileLock) leaveHint(f files, dirty *page.Set, now time.Time) error {
	if n, err := sizeOf(f.live + "-wal"); err != nil || n != 0 {
		return err // somebody else has live open: no hint
	}
	// File times advance in ticks of milliseconds. A time of our own choice
	// between two ticks is never met by a later write, however soon it follows.
	stamp := now.Truncate(time.Millisecond).Add(-time.Duration(1+now.Nanosecond()%999_983) * time.Nanosecond)
	if err := fault.Chtimes(f.live, time.Time{}, stamp); err != nil {
		return err
	}
	var h hint
	var err error
	if h.Live, err = fingerprintOf(f.live); err != nil {
		return err
	}
	if h.Base, err = fingerprintOf(f.base()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if h.Dirty, err = dirty.MarshalBinary(); err != nil {
		return err
	}
	return l.leave(h)
}
