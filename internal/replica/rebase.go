package replica

import (
	"context"
	"errors"
	"fmt"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/shim"
	"github.com/tursosync/tursosync/syncer"
)

// rebase makes live = replay(base, log) anew, in one page commit: on a new base,
// or on the same one with other changes.
//
//	stage: base, the delta on top, the log replayed     nothing is locked
//	gate:  replay what was committed in the meantime    writers wait
//	       page commit into live                        ″
//	       gate opens
//	base:  write the delta into it, drop the delta
//
// Until the page commit nothing but side files has changed, and giving up is
// always possible. The page commit moves data, log and state at once. After it,
// base follows from the delta, whatever happens (recover).
type rebase struct {
	r      *Replica
	delta  *delta            // nil: base stays as it is
	reject map[cdc.ID]string // transactions to put aside, with the reason
	again  *syncer.Rejection // a transaction put aside to be tried again, or nil
	halt   bool              // a transaction that cannot be replayed ends the rebase
	alone  bool              // everybody who writes waits from the beginning
	// leftOver: the delta was fetched by an earlier call; there may have been pushes since.
	leftOver bool
	report   *syncer.PullReport

	gated bool             // we have the gate
	pages *shim.PageCommit // not nil: and live's write lock
	old   *base
	stage *stage
	next  state  // what the page commit will make of the state
	upto  cdc.ID // the log is replayed up to here

	refused error // why again cannot be replayed still
}

// Ways in which a rebase ends early, for its caller to act on.
var (
	// errForeign: another program wrote to live; its rows must be logged first.
	errForeign = errors.New("another program wrote to the database")
	// errOutdated: a delta that was left over is older than a push which fits newer
	// pages only.
	errOutdated = errors.New("the answer is older than the last push")
	// errLineage: the delta is not a continuation of base.
	errLineage = errors.New("the remote went back in time")
)

// lateMax is how many transactions may be left for replay under the gate; with
// more, another round is made without it, roundsMax times.
const (
	lateMax   = 64
	roundsMax = 4
)

func (b *rebase) run(ctx context.Context) (err error) {
	r := b.r
	if b.alone {
		if err := b.lock(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.unlock()) }()
	}
	b.next = r.state()
	if b.old, err = openBase(r.files.base(), b.next.basePages); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.old.close()) }()
	if b.delta != nil && b.delta.whole {
		defer func() {
			if err != nil {
				r.dirty.known = false // it was on the way to the new base
				err = errors.Join(err, removeDatabase(r.files.next()))
			}
		}()
	}
	if err := b.openStage(); err != nil {
		return b.damaged(err)
	}
	defer func() { err = errors.Join(err, b.stage.close()) }()
	if err := b.checkIncrement(); err != nil {
		return err
	}
	if err := b.follow(); err != nil {
		return err
	}
	if err := b.replayFreely(ctx); err != nil {
		return err
	}
	if err := b.comparePages(); err != nil {
		return err
	}
	return b.commit(ctx)
}

// openStage assembles a whole new base, or takes the old one with the delta on top.
func (b *rebase) openStage() (err error) {
	r, d := b.r, b.delta
	switch {
	case d == nil:
		b.stage, err = r.openStage(r.files.base(), b.old.pageCount, nil)
	case d.whole:
		if err := assemble(r.files.next(), d); err != nil {
			return err
		}
		b.stage, err = r.openStage(r.files.next(), d.count, nil)
	default:
		b.stage, err = r.openStage(r.files.base(), b.old.pageCount, d)
	}
	return err
}

// damaged blames the answer for what SQLite cannot read.
func (b *rebase) damaged(err error) error {
	if b.delta != nil && hasCode(err, notDatabase...) {
		return badAnswer("the pages make no intact database: %v", err)
	}
	return err
}

// replayFreely replays the log on the stage while writers go on.
func (b *rebase) replayFreely(ctx context.Context) error {
	if err := b.stage.begin(); err != nil {
		return b.damaged(err)
	}
	reader, err := b.r.readerConn()
	if err != nil {
		return err
	}
	b.upto = b.next.baseMark
	for round := range roundsMax {
		n, err := b.replaySnapshot(ctx, reader, round == 0)
		if err != nil {
			return err
		}
		if n <= lateMax {
			break
		}
	}
	return nil
}

// replaySnapshot replays what the log holds now above b.upto. The first time
// that may be much: it is carried over as a whole then.
func (b *rebase) replaySnapshot(ctx context.Context, reader *conn, first bool) (txns int, err error) {
	if err := reader.beginRead(); err != nil {
		return 0, err
	}
	defer reader.rollback()
	if first {
		if err := b.stage.carry(b.r.files.live, reader, b.upto); err != nil {
			return 0, b.damaged(fmt.Errorf("carry log over: %w", err))
		}
	}
	return b.replayLog(ctx, reader)
}

func (b *rebase) replayLog(ctx context.Context, from *conn) (txns int, err error) {
	b.stage.foresee(from, b.upto)
	var run [][]cdc.Change
	changes := 0
	err = cdc.LoadTxns(from.SQLiteConn, b.upto, func(txn []cdc.Change) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		txns++
		run = append(run, txn)
		if changes += len(txn); changes < replayMax {
			return nil
		}
		err := b.replayTxns(ctx, run)
		run, changes = nil, 0
		return err
	})
	if err == nil {
		err = b.replayTxns(ctx, run)
	}
	return txns, err
}

// replayMax is how many changes are read before they are replayed, unless one
// transaction has more.
const replayMax = 512

// replayTxns replays transactions that follow each other in the log, many with
// one call where nothing stands against it.
func (b *rebase) replayTxns(ctx context.Context, txns [][]cdc.Change) error {
	for len(txns) > 0 {
		n, err := b.stage.replayRun(ctx, b.unrejected(txns))
		if err != nil {
			return b.damaged(err)
		}
		for _, txn := range txns[:n] {
			b.report.Replayed += len(txn)
			b.upto = txn[len(txn)-1].ID
		}
		if txns = txns[n:]; len(txns) > 0 {
			b.upto = txns[0][len(txns[0])-1].ID
			if err := b.replayTxn(ctx, txns[0]); err != nil {
				return err
			}
			txns = txns[1:]
		}
	}
	return nil
}

// unrejected returns the transactions before the first that is to be put aside.
func (b *rebase) unrejected(txns [][]cdc.Change) [][]cdc.Change {
	if len(b.reject) > 0 {
		for i, txn := range txns {
			if _, ok := b.reject[txn[0].Txn]; ok {
				return txns[:i]
			}
		}
	}
	return txns
}

func (b *rebase) replayTxn(ctx context.Context, txn []cdc.Change) error {
	id, now := txn[0].Txn, b.r.cfg.Now()
	if reason, ok := b.reject[id]; ok {
		return b.stage.reject(txn, reason, now.Unix())
	}
	out, err := b.stage.replay(ctx, txn)
	if err != nil {
		return b.damaged(err)
	}
	if out.Rejected() && b.leftOver && txn[len(txn)-1].ID <= b.next.sent {
		return errOutdated
	}
	if !out.Rejected() {
		b.report.Replayed += len(txn)
		for _, c := range out.Collisions {
			b.report.Collisions = append(b.report.Collisions, syncer.Collision{Table: c.Table, Key: c.Key, Local: c.Local, Remote: c.Remote})
		}
		return nil
	}
	if b.halt && (out.Reason == cdc.ReasonSchema || b.r.cfg.HaltOnRejection) {
		return &syncer.ReplayError{Txn: id, Changes: txn, Err: out.Err}
	}
	reason := string(out.Reason)
	if out.Err != nil {
		reason = out.Err.Error()
	}
	b.report.Rejected = append(b.report.Rejected, syncer.Rejection{Txn: id, Changes: txn, Reason: reason, Time: now})
	return b.stage.reject(txn, reason, now.Unix())
}

// comparePages does the expensive part of finding the pages that the page commit
// needs, if there is one.
func (b *rebase) comparePages() error {
	var err error
	if b.delta != nil && b.delta.whole {
		// Against the new base at once: pages that live has already are left out.
		b.r.dirty.known = false
		next, err := openBase(b.r.files.next(), b.delta.count)
		if err != nil {
			return err
		}
		defer next.close()
		_, err = b.r.differ(next)
		return err
	}
	_, err = b.r.differ(b.old)
	return err
}

// write runs fn in a transaction of the replica's own on live. The caller holds
// the gate.
func (r *Replica) write(ctx context.Context, fn func(c *conn) error) error {
	c := r.live
	if err := c.begin(ctx); err != nil {
		return err
	}
	defer c.rollback()
	before, err := c.db.WALState()
	if err != nil {
		return err
	}
	r.noticeForeign(before)
	if err := fn(c); err != nil {
		return err
	}
	if err := fault.At("state.commit"); err != nil {
		return err
	}
	if err := c.exec("COMMIT"); err != nil {
		return err
	}
	// It is committed, whatever fails from here on. A transaction that changed nothing
	// writes no frames and does not count; where that cannot be told the next look at
	// the account of commits tells, or takes it for another program's. Any commit of
	// another program since is left for that look to find.
	if after, err := c.db.WALState(); err != nil || after.Change != before.Change {
		r.log.Expect(before.Change + 1)
	} else {
		r.log.Expect(before.Change)
	}
	return nil
}

// update changes the state, in live and in memory.
func (r *Replica) update(ctx context.Context, fn func(s *state) error) error {
	if err := r.log.AcquireQuiet(ctx); err != nil {
		return err
	}
	defer r.log.Release()
	old := r.state()
	next := old
	if err := fn(&next); err != nil {
		return err
	}
	err := r.write(ctx, func(c *conn) error { return writeState(c, &old, &next) })
	if err != nil {
		return fmt.Errorf("update state: %w", err)
	}
	r.setState(next)
	return nil
}
