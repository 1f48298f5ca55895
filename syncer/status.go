package syncer

import (
	"context"
	"fmt"
	"time"

	"github.com/tursosync/tursosync/cdc"
)

// State is the short form of a Status.
type State int

// The states of a replica.
const (
	Running State = iota // nothing is wrong
	Offline              // the last attempt did not succeed; another one follows
	Halted               // pushes wait for a decision
	Stopped              // closed
)

func (s State) String() string {
	switch s {
	case Running:
		return "running"
	case Offline:
		return "offline"
	case Halted:
		return "halted"
	case Stopped:
		return "stopped"
	}
	return fmt.Sprintf("State(%d)", int(s))
}

// Status says what is going on.
type Status struct {
	State   State
	Err     error     // of the last attempt, if Offline or Halted
	NextTry time.Time // if Offline; zero: not by itself
	Reason  string    // if Halted
	Txn     cdc.ID    // the transaction that cannot be pushed, if Halted by one
	Changes []cdc.Change
}

func (s Status) String() string {
	switch s.State {
	case Offline:
		if s.NextTry.IsZero() {
			return fmt.Sprintf("offline: %v", s.Err)
		}
		return fmt.Sprintf("offline until %s: %v", s.NextTry.Format(time.TimeOnly), s.Err)
	case Halted:
		if s.Txn != 0 {
			return fmt.Sprintf("halted at transaction %d: %s", s.Txn, s.Reason)
		}
		return "halted: " + s.Reason
	}
	return s.State.String()
}

// Stats are the figures of a replica.
type Stats struct {
	Measure
	Sent, Received     int64     // bytes of request and answer bodies
	LastPush, LastPull time.Time // of the last success; zero: none since the start
}

// lane is the state of one direction.
type lane struct {
	failures int       // in a row
	err      error     // of the last attempt; nil: it succeeded
	verdict  Verdict   // of err
	retryAt  time.Time // earliest automatic attempt
	last     time.Time // last success
	past     bool      // the remote has been reached since err
}

func (n *lane) succeeded(now time.Time) {
	*n = lane{last: now}
}

func (n *lane) failed(now time.Time, err error, v Verdict, delay time.Duration) {
	n.failures++
	n.err, n.verdict, n.retryAt, n.past = err, v, now.Add(delay), false
}

// Status returns what is going on. It never waits.
func (l *Loop) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// Stats measures the replica. It does not wait for pushes and pulls under way.
func (l *Loop) Stats(ctx context.Context) (Stats, error) {
	m, err := l.replica.Measure(ctx)
	if err != nil {
		return Stats{}, fmt.Errorf("measure replica: %w", err)
	}
	s := Stats{Measure: m}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.remote != nil {
		s.Sent, s.Received = l.remote.Transferred()
	}
	s.LastPush, s.LastPull = l.push.last, l.pull.last
	return s, nil
}

// currentStatus is the status that the lanes add up to.
func currentStatus(ended bool, halt *Halt, push, pull *lane, pushMode PushMode, pullMode PullMode) Status {
	if ended {
		return Status{State: Stopped}
	}
	if halt != nil {
		return Status{State: Halted, Err: halt.Err, Reason: halt.Reason, Txn: halt.Txn, Changes: halt.Changes}
	}
	s := Status{}
	try := func(n *lane, auto bool) {
		if n.err == nil || n.past {
			return
		}
		s.State = Offline
		if s.Err == nil {
			s.Err = n.err
		}
		if auto && (s.NextTry.IsZero() || n.retryAt.Before(s.NextTry)) {
			s.NextTry = n.retryAt
		}
	}
	try(push, pushMode != PushManual)
	try(pull, pullMode != PullManual)
	return s
}

// refresh computes the status anew and tells subscribers of another one. It
// needs l.mu.
func (l *Loop) refresh() {
	old := l.status
	l.status = currentStatus(l.ended, l.halt, &l.push, &l.pull, l.cfg.Push, l.cfg.Pull)
	if old.State == l.status.State && old.Txn == l.status.Txn && old.Reason == l.status.Reason &&
		errorText(old.Err) == errorText(l.status.Err) {
		return
	}
	l.cfg.Logger.Info("status changed", keyStatus, l.status.State.String(), keyReason, l.status.Reason, keyError, l.status.Err)
	l.publish(StatusChanged{l.status})
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
