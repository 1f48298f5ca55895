package cdc

import (
	"context"
	"sync"
	"time"
)

// Patience is how long AcquireQuiet waits for transactions that may yet write.
const Patience = 500 * time.Millisecond

// upgraders counts the transactions that have begun without the gate and may
// still ask for it. SQLite refuses such a transaction its first write
// (SQLITE_BUSY_SNAPSHOT) once another commit has passed its snapshot. A program
// with a single connection never meets that with plain SQLite, so a page commit
// keeps out of their way as far as it can.
type upgraders struct {
	mu      sync.Mutex // guards what follows
	open    int
	passing bool          // a page commit is under way: nobody may begin
	changed chan struct{} // closed when one of them changes; nil: nobody waits
}

// enter counts a transaction in. It waits for a page commit under way, which
// takes milliseconds.
func (u *upgraders) enter(ctx context.Context) error {
	for {
		u.mu.Lock()
		if !u.passing {
			u.open++
			u.mu.Unlock()
			return nil
		}
		changed := u.wait()
		u.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (u *upgraders) leave() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.open--
	u.wake()
}

// pass starts a page commit if no transaction is open or if it must; otherwise
// it returns a channel that is closed when it is worth another try.
func (u *upgraders) pass(must bool) (changed <-chan struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.open > 0 && !must {
		return u.wait()
	}
	u.passing = true
	return nil
}

func (u *upgraders) passed() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.passing {
		u.passing = false
		u.wake()
	}
}

func (u *upgraders) wait() <-chan struct{} {
	if u.changed == nil {
		u.changed = make(chan struct{})
	}
	return u.changed
}

func (u *upgraders) wake() {
	if u.changed != nil {
		close(u.changed)
		u.changed = nil
	}
}

// AcquireQuiet is Acquire for a page commit: it comes in a moment in which no
// transaction of a Session is open that has read and may yet write, and holds
// new ones back until Release. After Patience it goes ahead all the same: a
// transaction that then writes gets SQLITE_BUSY_SNAPSHOT, as it does when another
// connection has committed.
func (l *Log) AcquireQuiet(ctx context.Context) error {
	patience := time.NewTimer(Patience)
	defer patience.Stop()
	for must := false; ; {
		if err := l.gate.acquire(ctx); err != nil {
			return err
		}
		changed := l.upgraders.pass(must)
		if changed == nil {
			return nil
		}
		l.gate.release()
		select {
		case <-changed:
		case <-patience.C:
			must = true
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// enter counts the transaction that is about to begin without the gate.
func (s *Session) enter(ctx context.Context) error {
	if s.readOnly || s.counted {
		return nil
	}
	if s.log.upgraders.enter(ctx) != nil {
		return ctx.Err() // whatever its cause
	}
	s.counted = true
	return nil
}

// leave takes the transaction out of the count.
func (s *Session) leave() {
	if s.counted {
		s.counted = false
		s.log.upgraders.leave()
	}
}

// SetReadOnly tells that the transactions that begin from now on will not write,
// so that a page commit need not wait for them.
func (s *Session) SetReadOnly(on bool) { s.readOnly = on }
