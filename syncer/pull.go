package syncer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/tursosync/tursosync/cdc"
)

// pullOnce runs one pull. poll makes it wait at the remote for news; until the
// answer begins it takes no place of the scheduler and may be interrupted.
func (l *Loop) pullOnce(ctx context.Context, poll bool) error {
	remote := l.currentRemote()
	if remote == nil {
		return ErrNoRemote
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	turn := &turn{scheduler: l.scheduler}
	defer turn.end()
	opts := PullOptions{
		Progress: func(done, total uint64) { l.Publish(Progress{done, total}) },
		Verify: func(ctx context.Context, clientID string) (cdc.ID, bool, error) {
			return l.verify(ctx, remote, clientID)
		},
		Doubt: l.doubt || l.longAgo(),
	}
	if poll {
		opts.LongPoll = l.cfg.LongPoll
	} else if err := turn.begin(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	l.started = true
	l.abort = cancel
	if l.closing {
		cancel(ErrClosed)
	}
	if poll {
		if l.closing || len(l.inbox) > 0 || l.pushWanted() {
			opts.LongPoll = 0 // something came up since the decision
		} else {
			l.interrupt = cancel
		}
	}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.interrupt, l.abort = nil, nil
		l.mu.Unlock()
	}()

	fetch := func(ctx context.Context, req PullRequest, sink PullSink) error {
		return remote.Fetch(ctx, req, &pullSink{PullSink: sink, header: func() error {
			l.beyondInterrupt()
			if err := context.Cause(ctx); err != nil {
				return err
			}
			return turn.begin(ctx)
		}})
	}
	start := time.Now()
	report, err := l.replica.Pull(ctx, fetch, opts)
	if err != nil {
		return l.pullFailed(ctx, err)
	}
	l.pulled(report, poll && time.Since(start) < l.cfg.LongPoll/4)
	return nil
}

// doubtAfter is how long the remote is trusted to be the same without a word from
// it.
const doubtAfter = 5 * time.Minute

func (l *Loop) longAgo() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.pull.last) > max(doubtAfter, 2*l.cfg.PullInterval)
}

// verify reads a watermark on behalf of a pull. A token that may not run SQL must
// not keep anybody from pulling: the answer is then that all is well.
func (l *Loop) verify(ctx context.Context, remote Remote, clientID string) (cdc.ID, bool, error) {
	id, found, err := remote.Watermark(ctx, clientID)
	if err != nil {
		if k := l.cfg.Judge(err).Kind; k == Unauthorized || k == NotPermitted || k == Disagreement {
			l.cfg.Logger.Info("read watermark before a pull", keyError, err)
			return math.MaxInt64, true, nil
		}
	}
	return id, found, err
}

// beyondInterrupt keeps the pull under way from being interrupted.
func (l *Loop) beyondInterrupt() {
	l.mu.Lock()
	l.interrupt = nil
	l.mu.Unlock()
}

func (l *Loop) currentRemote() Remote {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.remote
}

// turn is a place of the scheduler, taken at most once.
type turn struct {
	scheduler *Scheduler
	taken     bool
}

func (t *turn) begin(ctx context.Context) error {
	if t.taken {
		return nil
	}
	if err := t.scheduler.enter(ctx); err != nil {
		return err
	}
	t.taken = true
	return nil
}

func (t *turn) end() {
	if t.taken {
		t.scheduler.leave()
		t.taken = false
	}
}

// pullSink tells when the answer begins.
type pullSink struct {
	PullSink
	header func() error
}

func (s *pullSink) Header(h PullHeader) error {
	if err := s.header(); err != nil {
		return err
	}
	return s.PullSink.Header(h)
}

// pulled takes note of what a pull brought. fast tells that a long poll was
// answered at once.
func (l *Loop) pulled(r PullReport, fast bool) {
	log := l.cfg.Logger
	l.doubt = false
	if r.WantWatermark || r.RemoteReset {
		l.unsure, l.wary = true, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.pull.succeeded(now)
	l.polledFast = fast && !r.Changed
	if l.push.err != nil && !l.push.verdict.Answered {
		l.push.retryAt = now // the network is back
	}
	if l.halt != nil {
		if l.halt.pull {
			l.halt = nil
		} else if l.halt.Disagreement && (r.Changed || r.RemoteReset) {
			l.halt.probe = true // the remote is another one now
		}
	}
	if r.Adopted {
		log.Info("adopted the file's content")
		l.publish(Adopted{})
	}
	if r.RemoteReset {
		log.Warn("remote was reset", keyRevision, string(r.Revision))
		l.publish(RemoteReset{r.Revision})
	}
	if r.Changed {
		log.Info("pulled", keyRevision, string(r.Revision), keyPages, r.Pages, keyChanges, r.Replayed, keyCollisions, len(r.Collisions))
		l.publish(Pulled{Revision: r.Revision, Tables: r.Tables, Pages: r.Pages, Replayed: r.Replayed})
	}
	l.reportCollisions(r.Collisions)
	for _, j := range r.Rejected {
		log.Warn("transaction rejected", keyTxn, int64(j.Txn), keyReason, j.Reason)
		l.publish(Rejected{j})
	}
	if l.measureAt.IsZero() && r.Changed {
		l.measureAt = now.Add(measureDelay)
	}
	if (r.WantWatermark || r.RemoteReset || r.Adopted) && l.dirtySince.IsZero() {
		l.dirtySince = now
	}
	l.refresh()
}

// pullFailed judges a failed pull.
func (l *Loop) pullFailed(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		// Interrupted, closed, or nobody waits any more: not the remote's fault.
		return cause
	}
	l.doubt = true
	v := l.cfg.Judge(err)
	err = fmt.Errorf("pull: %w", err)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	delay := l.cfg.Backoff.Delay(l.pull.failures+1, v, l.cfg.Rand())
	l.pull.failed(now, err, v, delay)
	var replay *ReplayError
	switch {
	case l.halt != nil:
	case errors.As(err, &replay):
		l.halt = &Halt{Reason: replay.Err.Error(), Txn: replay.Txn, Changes: replay.Changes, Err: err, pull: true}
	case v.Kind == Disagreement:
		l.halt = &Halt{Reason: v.Reason, Disagreement: true, Err: err, pull: true}
	}
	l.cfg.Logger.Warn("pull", keyError, err, keyRetryIn, delay)
	l.refresh()
	return err
}

var _ PullSink = (*pullSink)(nil)
