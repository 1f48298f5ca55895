package syncer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tursosync/tursosync/cdc"
)

type (
	txnID    = cdc.ID
	mutation = cdc.Mutation
)

// Loop is the sync state of one replica. Its methods may be called by any
// goroutine; all work on the replica is done by the loop's own.
type Loop struct {
	cfg       Config
	scheduler *Scheduler
	replica   Replica
	ctx       context.Context // of everything the loop does
	cancel    context.CancelCauseFunc
	done      chan struct{} // closed when the goroutine has ended
	wake      chan struct{} // capacity 1: look at the agenda again

	// mu guards what follows. It is held for moments only: never over a call to
	// the replica or the remote.
	mu          sync.Mutex
	remote      Remote
	inbox       []*request
	dirtySince  time.Time // first commit that no push has looked at; zero: none
	measureAt   time.Time // when to look at the WAL's size; zero: not
	started     bool      // the first pull was tried
	push, pull  lane
	halt        *Halt
	status      Status
	subscribers map[*queue]struct{}
	collided    map[string]struct{} // collisions that were reported
	interrupt   func(error)         // ends the long poll under way, as long as nothing came; or nil
	abort       func(error)         // ends the pull under way; or nil
	closing     bool                // Close was called
	ended       bool                // nothing happens any more
	polledFast  bool                // the remote answered the last long poll at once

	// What follows belongs to the goroutine.
	unsure     bool // the watermark has to be read before the next push
	wary       bool // … and also if nothing is pending: what was pushed may be lost
	doubt      bool // the remote may not be the one that base came from
	moved      int  // times in a row that the watermark was not the expected one
	cutTxns    int  // most transactions in a batch while an offender is looked for; 0: no limit
	again      attempt
	rewrites   map[txnID][]mutation
	rejections []Rejection // of the push under way
	newest     cdc.ID      // the highest change id when the pending changes were last read
	ahead      ahead
	walSeen    int64 // size of the WAL after the last checkpoint
}

// request is a caller waiting for a step.
type request struct {
	step    step
	ctx     context.Context
	since   time.Time
	patient bool // errors that may pass are waited out
	fn      func(context.Context) error
	done    chan error // capacity 1
}

// errInterrupted ends a long poll for more urgent work.
var errInterrupted = errors.New("long poll interrupted")

// Committed tells the loop that something was logged. It never blocks.
func (l *Loop) Committed() {
	l.mu.Lock()
	now := time.Now()
	measure := l.measureAt.IsZero()
	if measure {
		l.measureAt = now.Add(measureDelay)
	}
	first := l.dirtySince.IsZero()
	if first {
		l.dirtySince = now
	}
	polling := l.interrupt != nil && first && l.pushWanted()
	delay := l.cfg.PushDelay
	l.mu.Unlock()
	if polling {
		// The goroutine sits in a long poll: it cannot watch its own timer.
		time.AfterFunc(delay, func() { l.breakPoll(errInterrupted) })
	}
	if first || measure {
		l.signal()
	}
}

// measureDelay is the least time between looks at the WAL's size.
const measureDelay = time.Second

func (l *Loop) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// breakPoll ends a pull that still waits for the remote's answer.
func (l *Loop) breakPoll(cause error) {
	l.mu.Lock()
	interrupt := l.interrupt
	l.mu.Unlock()
	if interrupt != nil {
		interrupt(cause)
	}
}

// Push sends what was pending when it began, at once, whatever the backoff says.
// The error is a *HaltedError while pushes are halted, and a *RejectedError when
// all was sent but for transactions that the remote refused for good.
func (l *Loop) Push(ctx context.Context) error {
	return l.ask(&request{step: stepPush, ctx: ctx})
}

// Pull brings the remote's changes here, at once.
func (l *Loop) Pull(ctx context.Context) error {
	return l.ask(&request{step: stepPull, ctx: ctx})
}

// Sync is a push, then a pull. A halted push does not keep it from pulling.
func (l *Loop) Sync(ctx context.Context) error {
	pushed := l.Push(ctx)
	var halted *HaltedError
	var rejected *RejectedError
	if pushed != nil && !errors.As(pushed, &halted) && !errors.As(pushed, &rejected) {
		return pushed
	}
	return errors.Join(pushed, l.Pull(ctx))
}

// Checkpoint moves live's WAL into its file as far as readers allow.
func (l *Loop) Checkpoint(ctx context.Context) error {
	return l.ask(&request{step: stepCheckpoint, ctx: ctx})
}

// Wait returns when everything committed by now is on the remote. While the
// remote cannot be reached it waits on; it gives up only when ctx ends, when
// pushes are halted (*HaltedError), and when the remote refused some of it for
// good (*RejectedError). In manual mode it starts the push itself.
func (l *Loop) Wait(ctx context.Context) error {
	err := l.ask(&request{step: stepPush, ctx: ctx, patient: true})
	if err != nil && ctx.Err() != nil {
		if s := l.Status(); s.Err != nil {
			return fmt.Errorf("%w (last attempt: %w)", err, s.Err)
		}
	}
	return err
}

// Do runs fn in the loop's turn, so that it may call the replica.
func (l *Loop) Do(ctx context.Context, fn func(context.Context) error) error {
	return l.ask(&request{step: stepDo, ctx: ctx, fn: fn})
}

// SetRemote gives the replica a remote, another one, or (nil) none.
func (l *Loop) SetRemote(ctx context.Context, remote Remote) error {
	return l.Do(ctx, func(context.Context) error {
		l.unsure, l.doubt, l.cutTxns, l.moved = true, true, 0, 0
		l.mu.Lock()
		defer l.mu.Unlock()
		l.remote, l.halt, l.started = remote, nil, false
		l.push, l.pull = lane{last: l.push.last}, lane{last: l.pull.last}
		l.dirtySince = time.Now()
		l.refresh()
		return nil
	})
}

// Retry lets a halted replica try again.
func (l *Loop) Retry(ctx context.Context) error { return l.Do(ctx, l.resume) }

func (l *Loop) resume(context.Context) error {
	l.cutTxns, l.again = 0, attempt{}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.halt = nil
	now := time.Now()
	l.push.retryAt, l.pull.retryAt, l.dirtySince = now, now, now
	l.refresh()
	return nil
}

// ErrNotHalted is the answer to Skip and Rewrite when no transaction is in the
// way.
var ErrNotHalted = errors.New("no transaction halts the push")

// Skip moves the transaction that halts the push into turso_sync_rejected and
// goes on.
func (l *Loop) Skip(ctx context.Context) error {
	return l.Do(ctx, func(ctx context.Context) error {
		h, err := l.halting()
		if err != nil {
			return err
		}
		if err := l.reject(ctx, Txn{Changes: h.Changes}, "skipped: "+h.Reason); err != nil {
			return err
		}
		return l.resume(ctx)
	})
}

// Rewrite sends mutations in place of the transaction that halts the push and
// goes on. The rewrite lasts until the transaction is pushed or the replica is
// closed.
func (l *Loop) Rewrite(ctx context.Context, mutations []cdc.Mutation) error {
	return l.Do(ctx, func(ctx context.Context) error {
		h, err := l.halting()
		if err != nil {
			return err
		}
		l.rewrites[h.Txn] = append([]cdc.Mutation{}, mutations...)
		return l.resume(ctx)
	})
}

func (l *Loop) halting() (Halt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.halt == nil || l.halt.Txn == 0 {
		return Halt{}, ErrNotHalted
	}
	return *l.halt, nil
}

// ask puts a request into the inbox and waits for its answer.
func (l *Loop) ask(r *request) error {
	if err := r.ctx.Err(); err != nil {
		return context.Cause(r.ctx)
	}
	r.since, r.done = time.Now(), make(chan error, 1)
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return ErrClosed
	}
	if l.remote == nil && (r.step == stepPush || r.step == stepPull) {
		l.mu.Unlock()
		return ErrNoRemote
	}
	l.inbox = append(l.inbox, r)
	l.mu.Unlock()
	l.breakPoll(errInterrupted)
	l.signal()
	select {
	case err := <-r.done:
		return err
	case <-r.ctx.Done():
		l.signal() // forget the request
		return context.Cause(r.ctx)
	}
}

// Close ends the loop: what is pending is pushed within the bound of
// Config.CloseTimeout and ctx (unless pushes are manual, halted or failing), the
// WAL is checkpointed. Requests still waiting get ErrClosed. It returns when
// nothing of the loop runs any more.
func (l *Loop) Close(ctx context.Context) error {
	l.mu.Lock()
	l.closing = true
	abort := l.abort
	l.mu.Unlock()
	if abort != nil {
		abort(ErrClosed)
	}
	bound, cancel := context.WithTimeout(ctx, max(l.cfg.CloseTimeout, 0))
	defer cancel()
	stop := context.AfterFunc(bound, func() { l.cancel(ErrClosed) })
	defer stop()
	l.signal()
	<-l.done
	return nil
}

// run is the loop's goroutine.
func (l *Loop) run() {
	defer close(l.done)
	l.Committed() // what an earlier run left pending
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next, reqs, sleep, closing := l.next()
		if closing {
			l.finish()
			return
		}
		if next != stepNone {
			l.do(next, reqs)
			continue
		}
		timer.Stop()
		if sleep >= 0 {
			timer.Reset(sleep)
		}
		select {
		case <-l.wake:
		case <-timer.C:
		}
	}
}

// next takes the requests of the next step out of the inbox.
func (l *Loop) next() (next step, reqs []*request, sleep time.Duration, closing bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return stepNone, nil, 0, true
	}
	l.inbox = slices.DeleteFunc(l.inbox, func(r *request) bool { return r.ctx.Err() != nil })
	next, sleep = decide(time.Now(), l.agenda())
	if next == stepNone {
		return stepNone, nil, sleep, false
	}
	rest := l.inbox[:0]
	for _, r := range l.inbox {
		if r.step == next && (next != stepDo || len(reqs) == 0) {
			reqs = append(reqs, r)
		} else {
			rest = append(rest, r)
		}
	}
	clear(l.inbox[len(rest):])
	l.inbox = rest
	return next, reqs, 0, false
}

// agenda says what is due. It needs l.mu.
func (l *Loop) agenda() agenda {
	var a agenda
	if l.cfg.CheckpointBytes >= 0 {
		a.checkpoint = l.measureAt
	}
	for _, r := range l.inbox {
		at := r.since
		switch r.step {
		case stepDo:
			a.do = earliest(a.do, at)
		case stepCheckpoint:
			a.checkpoint = earliest(a.checkpoint, at)
		case stepPush:
			if r.patient && l.halt == nil {
				at = latest(at, l.push.retryAt)
			}
			a.push = earliest(a.push, at)
		case stepPull:
			a.pull = earliest(a.pull, at)
		}
	}
	if l.remote == nil {
		return a
	}
	if l.pushWanted() {
		a.push = earliest(a.push, latest(l.dirtySince.Add(l.cfg.PushDelay), l.push.retryAt))
	}
	a.pull = earliest(a.pull, l.nextPull())
	return a
}

// pushWanted tells whether there is something to push by itself. It needs l.mu.
func (l *Loop) pushWanted() bool {
	return l.remote != nil && l.cfg.Push != PushManual && !l.dirtySince.IsZero() && (l.halt == nil || l.halt.probe)
}

// nextPull returns when to pull by itself. It needs l.mu.
func (l *Loop) nextPull() time.Time {
	switch {
	case l.cfg.Pull == PullManual || l.halt != nil && l.halt.pull:
		return time.Time{}
	case !l.started:
		return time.Unix(1, 0)
	case l.pull.err != nil:
		return l.pull.retryAt
	case l.cfg.Pull == PullLongPoll && !l.polledFast:
		return l.pull.last
	}
	return l.pull.last.Add(l.cfg.PullInterval)
}

// do runs one step for its requests and answers them.
func (l *Loop) do(s step, reqs []*request) {
	ctx, cancel := l.stepContext(s, reqs)
	defer cancel(nil)
	var err error
	switch s {
	case stepDo:
		if len(reqs) > 0 {
			err = reqs[0].fn(ctx)
		}
	case stepCheckpoint:
		err = l.checkpoint(ctx, len(reqs) > 0)
	case stepPush:
		err = l.pushAll(ctx, len(reqs) > 0)
	case stepPull:
		err = l.pullOnce(ctx, len(reqs) == 0 && l.cfg.Pull == PullLongPoll)
	}
	for _, r := range reqs {
		if r.patient && l.mayPass(err) && r.ctx.Err() == nil {
			l.mu.Lock()
			l.inbox = append(l.inbox, r)
			l.mu.Unlock()
			continue
		}
		r.done <- err
	}
}

// mayPass tells whether a patient request outlives err.
func (l *Loop) mayPass(err error) bool {
	var halted *HaltedError
	var rejected *RejectedError
	return err != nil && !errors.As(err, &halted) && !errors.As(err, &rejected) &&
		!errors.Is(err, ErrNoRemote) && l.ctx.Err() == nil
}

// stepContext returns the context of a step. It ends with the loop, or, if the
// step runs for its requests only, with the last of these.
func (l *Loop) stepContext(s step, reqs []*request) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(l.ctx)
	if len(reqs) == 0 {
		return ctx, cancel
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if s == stepPush && l.pushWanted() {
		return ctx, cancel // wanted anyway; the callers return by themselves
	}
	left := make(chan struct{}, len(reqs)-1)
	for _, r := range reqs {
		stop := context.AfterFunc(r.ctx, func() {
			select {
			case left <- struct{}{}:
			default:
				cancel(context.Cause(r.ctx))
			}
		})
		context.AfterFunc(ctx, func() { stop() })
	}
	return ctx, cancel
}

// checkpoint runs one if it is asked for or the WAL has grown enough.
func (l *Loop) checkpoint(ctx context.Context, asked bool) error {
	l.mu.Lock()
	l.measureAt = time.Time{}
	l.mu.Unlock()
	if !asked {
		m, err := l.replica.Measure(ctx)
		if err != nil {
			return fmt.Errorf("measure replica: %w", err)
		}
		// A reader may keep the WAL from shrinking: wait for as much again.
		if m.WALBytes < l.walSeen {
			l.walSeen = 0
		}
		if m.WALBytes-l.walSeen < l.cfg.CheckpointBytes {
			return nil
		}
	}
	if err := l.replica.Checkpoint(ctx); err != nil {
		l.cfg.Logger.Warn("checkpoint", keyError, err)
		return fmt.Errorf("checkpoint: %w", err)
	}
	if m, err := l.replica.Measure(ctx); err == nil {
		l.walSeen = m.WALBytes
	}
	return nil
}

// collidedMax bounds the memory of reported collisions.
const collidedMax = 10_000

// reportCollisions tells of collisions, of each once: a pull and the push after it
// meet the same. It needs l.mu.
func (l *Loop) reportCollisions(collisions []Collision) {
	for _, c := range collisions {
		key := fmt.Sprintf("%s %d %v", c.Table, c.Key, c.Remote)
		if _, ok := l.collided[key]; ok {
			continue
		}
		if l.collided == nil || len(l.collided) >= collidedMax {
			l.collided = make(map[string]struct{})
		}
		l.collided[key] = struct{}{}
		l.cfg.Logger.Warn("key collision", keyTable, c.Table, keyKey, c.Key)
		l.publish(Collided{c})
	}
}

// finish is the loop's last step.
func (l *Loop) finish() {
	l.mu.Lock()
	push := l.pushWanted() && l.push.err == nil && l.halt == nil && l.cfg.CloseTimeout > 0
	l.mu.Unlock()
	if push && l.ctx.Err() == nil {
		if err := l.pushAll(l.ctx, false); err != nil {
			l.cfg.Logger.Info("last push", keyError, err)
		}
	}
	// Local and short: it is not worth less because the network was slow.
	ctx, cancel := context.WithTimeout(context.Background(), DefaultCloseTimeout)
	defer cancel()
	if err := l.replica.Checkpoint(ctx); err != nil {
		l.cfg.Logger.Warn("checkpoint", keyError, err)
	}
	l.cancel(ErrClosed)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.inbox {
		r.done <- ErrClosed
	}
	l.inbox = nil
	l.ended = true
	l.refresh()
	for q := range l.subscribers {
		q.close()
	}
}
