package syncer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tursosync/tursosync/cdc"
)

// movedMax is how often in a row the watermark may differ from what a
// reconciliation has just found before it counts as an error like others.
const movedMax = 3

// pushAll pushes what is pending when it begins, batch by batch. asked tells
// that somebody waits for it.
func (l *Loop) pushAll(ctx context.Context, asked bool) error {
	if err := l.mayPush(); err != nil {
		return err
	}
	start := time.Now()
	l.mu.Lock()
	since := l.dirtySince
	l.dirtySince = time.Time{} // commits from here on are the next push's
	l.mu.Unlock()
	l.rejections = nil

	err := l.pushBatches(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && (l.cfg.Push != PushManual || asked) {
		l.dirtySince = earliest(since, start) // still there
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		// Closed, or nobody waits any more: not the remote's fault.
		l.unsure = true
		return cause
	}
	if err != nil {
		return l.pushFailed(err)
	}
	l.push.succeeded(time.Now())
	l.halt = nil // a probe went through
	if l.pull.err != nil && !l.pull.verdict.Answered {
		l.pull.retryAt, l.pull.past = time.Now(), true // the network is back
	}
	l.refresh()
	if len(l.rejections) > 0 {
		return &RejectedError{l.rejections}
	}
	return nil
}

// mayPush says why nothing can be pushed now.
func (l *Loop) mayPush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.remote == nil {
		return ErrNoRemote
	}
	if l.halt == nil || l.halt.probe {
		return nil
	}
	return &HaltedError{*l.halt}
}

// pushFailed takes note of an error. It needs l.mu.
func (l *Loop) pushFailed(err error) error {
	l.unsure = true
	var halted *HaltedError
	if errors.As(err, &halted) {
		l.halt = &halted.Halt
		l.push.err, l.push.failures = nil, 0 // what is wrong is the halt
		l.cfg.Logger.Error("push halted", keyTxn, int64(l.halt.Txn), keyReason, l.halt.Reason)
		l.refresh()
		return err
	}
	v := l.cfg.Judge(err)
	err = fmt.Errorf("push: %w", err)
	delay := l.cfg.Backoff.Delay(l.push.failures+1, v, l.cfg.Rand())
	if here := errors.Is(err, cdc.ErrVirtualTable); here || v.Kind == NotPermitted {
		// No transaction is to blame. Asking again does not change the file; but the
		// token may be replaced, or permit more one day.
		if l.halt == nil {
			l.cfg.Logger.Error("push halted", keyReason, v.Reason)
		}
		l.halt = &Halt{Reason: v.Reason, Disagreement: here, Err: err, pull: here, probe: !here}
		l.push.failures++
		l.push.err, l.push.retryAt = nil, time.Now().Add(delay)
		l.refresh()
		return &HaltedError{*l.halt}
	}
	l.push.failed(time.Now(), err, v, delay)
	l.cfg.Logger.Warn("push", keyError, err, keyRetryIn, delay)
	l.refresh()
	return err
}

// pullsFirst bounds the pulls of one push. There may be two reasons for one: the
// replica cannot tell what is pending, and, when it can, what is pending may not fit.
const pullsFirst = 3

// pushBatches pushes until what was committed when it began is on the remote.
func (l *Loop) pushBatches(ctx context.Context) error {
	pulls := 0
	var target cdc.ID // 0: not known yet
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		done, err := l.pushOne(ctx, &target)
		if errors.Is(err, ErrPullFirst) && pulls < pullsFirst {
			pulls++
			target = 0
			err = l.pullOnce(ctx, false)
		}
		if done || err != nil {
			return err
		}
	}
}

// pushOne takes one step towards the change target: it reconciles the watermark,
// sends a batch, or finds out more about why one was refused. It sets a target that is not
// known, or not right any more.
func (l *Loop) pushOne(ctx context.Context, target *cdc.ID) (done bool, err error) {
	if err := l.scheduler.enter(ctx); err != nil {
		return false, err
	}
	defer l.scheduler.leave()
	pending, err := l.replica.Pending(ctx, Limits{Changes: l.cfg.BatchChanges, Bytes: l.cfg.BatchBytes})
	if err != nil {
		return false, fmt.Errorf("read pending changes: %w", err)
	}
	l.newest = pending.Last
	if *target == 0 || pending.Moved {
		*target = pending.Last
	}
	if l.wary {
		return false, l.reconcile(ctx, pending.ClientID)
	}
	if len(pending.Txns) == 0 || pending.Txns[0].ID() > *target {
		return true, nil
	}
	if l.unsure {
		return false, l.reconcile(ctx, pending.ClientID)
	}
	txns := l.cutBatch(pending.Txns)
	return false, l.send(ctx, pending, txns)
}

// ID returns the id of the transaction, which is that of its first change.
func (t Txn) ID() cdc.ID { return t.Changes[0].ID }

// Last returns the id of the transaction's last change.
func (t Txn) Last() cdc.ID { return t.Changes[len(t.Changes)-1].ID }

// reconcile asks the remote what it holds of us.
func (l *Loop) reconcile(ctx context.Context, clientID string) error {
	id, found, err := l.currentRemote().Watermark(ctx, clientID)
	if err != nil {
		return fmt.Errorf("read watermark: %w", err)
	}
	renewed, err := l.replica.Reconcile(ctx, id, found)
	if err != nil {
		return fmt.Errorf("reconcile watermark: %w", err)
	}
	l.unsure, l.wary = false, false
	if renewed {
		l.cfg.Logger.Warn("watermark is unknown here: going on under a new client id", keyWatermark, int64(id))
		l.Publish(Renewed{})
		// What is pending may not fit a remote that has gone back, or is another.
		return ErrPullFirst
	}
	return nil
}

// cutBatch takes the transactions that may travel together: no more than the
// search for an offender allows, and those with a rewrite and the one that is
// tried again each alone.
func (l *Loop) cutBatch(txns []Txn) []Txn {
	for i, t := range txns {
		if l.again.txn == t.ID() || l.rewrites[t.ID()] != nil {
			if i == 0 {
				return txns[:1]
			}
			txns = txns[:i]
			break
		}
	}
	if l.cutTxns > 0 && len(txns) > l.cutTxns {
		txns = txns[:l.cutTxns]
	}
	return txns
}

// send sends one batch and deals with a refusal.
func (l *Loop) send(ctx context.Context, pending Pending, txns []Txn) error {
	b, err := l.build(ctx, txns, l.form(txns))
	if err == nil {
		b.batch.ClientID = pending.ClientID
		b.batch.Expect, b.batch.ExpectFound = pending.Watermark, pending.Known
		b.batch.Last = txns[len(txns)-1].Last()
		err = l.exchange(ctx, b, txns)
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return err
	}
	v := l.judge(err)
	switch v.Kind {
	case Moved:
		l.unsure = true
		l.moved++
		if l.moved > movedMax {
			return err
		}
		return nil
	case Refused, TooLarge, Disagreement:
		return l.isolate(ctx, txns, err, v)
	case NotPermitted:
		if v.Change != 0 {
			return l.isolate(ctx, txns, err, v)
		}
	}
	return err
}

// exchange sends the batch and takes note of the answer.
func (l *Loop) exchange(ctx context.Context, b built, txns []Txn) error {
	batch := b.batch
	if err := l.replica.Intend(ctx, batch.Last); err != nil {
		return fmt.Errorf("note the intended watermark: %w", err)
	}
	result, err := l.currentRemote().Push(ctx, batch)
	if err != nil {
		return err
	}
	if err := l.replica.Acknowledge(ctx, batch.Last); err != nil {
		l.unsure = true
		return fmt.Errorf("acknowledge: %w", err)
	}
	l.moved, l.again = 0, attempt{}
	if l.cutTxns *= 2; l.cutTxns > l.cfg.BatchChanges {
		l.cutTxns = 0
	}
	changes := 0
	for _, t := range txns {
		delete(l.rewrites, t.ID())
		changes += len(t.Changes)
	}
	l.cfg.Logger.Info("pushed", keyChanges, changes, keyWatermark, int64(batch.Last))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.publish(Pushed{Through: batch.Last, Txns: len(txns), Changes: changes})
	l.reportCollisions(b.collisions(result.Probes))
	return nil
}

// judge reads the errors of this package and of cdc itself, and leaves the rest
// to Config.Judge.
func (l *Loop) judge(err error) Verdict {
	var drift *cdc.DriftError
	switch {
	case errors.As(err, &drift), errors.Is(err, cdc.ErrBadRecord):
		return Verdict{Kind: Disagreement, Reason: err.Error(), Answered: true}
	case errors.Is(err, cdc.ErrNoRowID):
		return Verdict{Kind: Refused, Reason: err.Error(), Answered: true}
	}
	return l.cfg.Judge(err)
}

// isolate narrows a batch down to the transaction that the remote does not take,
// tries that one in another form, and then does as the policy says.
func (l *Loop) isolate(ctx context.Context, txns []Txn, err error, v Verdict) error {
	l.cfg.Logger.Info("batch refused", keyTxn, int64(txns[0].ID()), keyReason, v.Reason, keyTxns, len(txns))
	if len(txns) > 1 {
		l.cutTxns = cutBefore(txns, v.Change)
		return nil
	}
	txn := txns[0]
	if l.again.txn != txn.ID() {
		l.again = attempt{txn: txn.ID()}
	}
	if l.again.form < lastForm && v.Kind != TooLarge && v.Kind != NotPermitted && l.rewrites[txn.ID()] == nil {
		l.again.form++
		return nil
	}
	l.again = attempt{}
	if (v.Kind == Refused || v.Kind == NotPermitted) && l.cfg.Policy == Quarantine {
		return l.reject(ctx, txn, v.Reason)
	}
	return &HaltedError{Halt{
		Reason: v.Reason, Txn: txn.ID(), Changes: txn.Changes, Disagreement: v.Kind == Disagreement, Err: err,
	}}
}

// cutBefore returns how many transactions the next batch may hold, fewer than
// now: those before the one that holds the refused change, if it is known, and
// half of them otherwise.
func cutBefore(txns []Txn, refused cdc.ID) int {
	for i, t := range txns {
		if refused != 0 && i > 0 && t.ID() <= refused && refused <= t.Last() {
			return i
		}
	}
	if refused != 0 && txns[0].ID() <= refused && refused <= txns[0].Last() {
		return 1
	}
	return len(txns) / 2
}

// reject puts a transaction aside, and those that the replica cannot keep without
// it.
func (l *Loop) reject(ctx context.Context, txn Txn, reason string) error {
	others, err := l.replica.Reject(ctx, []cdc.ID{txn.ID()}, reason)
	if err != nil {
		return fmt.Errorf("put transaction %d aside: %w", txn.ID(), err)
	}
	first := Rejection{Txn: txn.ID(), Changes: txn.Changes, Reason: reason, Time: time.Now()}
	for _, r := range append([]Rejection{first}, others...) {
		delete(l.rewrites, r.Txn)
		l.rejections = append(l.rejections, r)
		l.cfg.Logger.Warn("transaction rejected", keyTxn, int64(r.Txn), keyReason, r.Reason)
		l.Publish(Rejected{r})
	}
	return nil
}
