package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/shim"
	"github.com/tursosync/tursosync/syncer"
)

// locked runs one operation at a time and names it in errors.
func (r *Replica) locked(name string, fn func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrClosed
	}
	if err := fn(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Pending implements syncer.Replica. What is pending in a file whose adoption is
// not decided is known after the first pull only.
func (r *Replica) Pending(ctx context.Context, limits syncer.Limits) (p syncer.Pending, err error) {
	err = r.locked("read pending changes", func() error {
		st := r.state()
		p = syncer.Pending{ClientID: st.clientID, Watermark: st.watermark, Known: st.known}
		if st.adopt != "" {
			return syncer.ErrPullFirst
		}
		reader, err := r.compared(ctx)
		if err != nil {
			return err
		}
		defer reader.rollback()
		// After the snapshot is taken, so that all of it is on disk.
		if err := fault.At("log.sync"); err != nil {
			return err
		}
		if err := r.live.db.Sync(shim.WAL); err != nil {
			return err
		}
		txns, more, err := cdc.LoadBatch(ctx, reader.SQLiteConn, st.sent, limits.Changes, limits.Bytes)
		if err != nil {
			return err
		}
		if p.Last, err = reader.lastID(); err != nil {
			return err
		}
		p.More, p.Moved, r.moved = more, r.moved, false
		for _, txn := range txns {
			p.Txns = append(p.Txns, syncer.Txn{Changes: txn})
		}
		return nil
	})
	return p, err
}

// compared begins a read of live in which nothing of the log is a change to a row that
// another program wrote before, and that is not logged yet: sent, it would reach
// whatever the remote has under that rowid.
func (r *Replica) compared(ctx context.Context) (reader *conn, err error) {
	st := r.state()
	usable, err := r.baseUsable()
	if err != nil {
		return nil, err
	}
	usable = usable && !st.bootstrap && !r.unfinished()
	for round := 1; ; round++ {
		if usable && round > absorbRounds {
			// Nothing of ours is committed between comparison and read.
			if err := r.log.AcquireQuiet(ctx); err != nil {
				return nil, err
			}
			r.gated = true
			defer func() {
				r.gated = false
				r.log.Release()
			}()
		}
		if usable {
			if err := r.absorb(ctx); err != nil {
				return nil, err
			}
		}
		if reader, err = r.readerConn(); err != nil {
			return nil, err
		}
		if err := reader.beginRead(); err != nil {
			return nil, err
		}
		// A commit of ours upon another program's is known for one before it is in
		// any snapshot.
		switch foreign := r.compare || r.log.Foreign(); {
		case !foreign || r.gated || st.basePages == 0:
			return reader, nil
		case !usable:
			reader.rollback()
			return nil, syncer.ErrPullFirst
		}
		reader.rollback()
	}
}

// durable changes the state and waits until that is on disk.
func (r *Replica) durable(ctx context.Context, fn func(s *state) error) error {
	if err := r.update(ctx, fn); err != nil {
		return err
	}
	if err := fault.At("state.sync"); err != nil {
		return err
	}
	return r.live.db.Sync(shim.WAL)
}

// Intend implements syncer.Replica.
func (r *Replica) Intend(ctx context.Context, last cdc.ID) error {
	return r.locked("note intended watermark", func() error {
		st := r.state()
		if slices.Contains(st.intents, last) || st.known && last == st.watermark {
			return nil
		}
		return r.durable(ctx, func(s *state) error {
			s.intents = append(slices.Clone(s.intents), last)
			slices.Sort(s.intents)
			return nil
		})
	})
}

// Acknowledge implements syncer.Replica. It need not be durable: an intended
// watermark is recognised on the remote.
func (r *Replica) Acknowledge(ctx context.Context, id cdc.ID) error {
	return r.locked("acknowledge", func() error {
		return r.update(ctx, func(s *state) error {
			s.acknowledge(id)
			return nil
		})
	})
}

// Reconcile implements syncer.Replica. When the remote lost what it had of us,
// base is no longer its past either: the next Pull takes everything anew.
func (r *Replica) Reconcile(ctx context.Context, watermark cdc.ID, found bool) (renewed bool, err error) {
	err = r.locked("reconcile watermark", func() error {
		st := r.state()
		switch {
		case found && st.known && watermark == st.watermark, !found && !st.known:
			return nil
		case found && slices.Contains(st.intents, watermark):
			return r.durable(ctx, func(s *state) error {
				s.acknowledge(watermark)
				return nil
			})
		}
		renewed = true
		r.cfg.Logger.Warn("remote's watermark is unknown here: files or remote were restored or copied",
			"watermark", int64(watermark), "found", found, "known", int64(st.watermark))
		return r.durable(ctx, func(s *state) error {
			if lost := !found || watermark < s.watermark; lost && s.known && s.basePages > 0 {
				s.bootstrap = true
			}
			return s.renew(watermark, found)
		})
	})
	return renewed, err
}

// Reject implements syncer.Replica. The transactions' rows leave live in the same
// commit in which they are put aside, and so do those of later transactions that
// cannot be replayed without them.
func (r *Replica) Reject(ctx context.Context, txns []cdc.ID, reason string) (others []syncer.Rejection, err error) {
	err = r.locked("put transactions aside", func() error {
		others, err = r.reject(ctx, txns, reason)
		return err
	})
	return others, err
}

func (r *Replica) reject(ctx context.Context, txns []cdc.ID, reason string) ([]syncer.Rejection, error) {
	if err := r.finishCommitted(); err != nil {
		return nil, err
	}
	usable, err := r.baseUsable()
	if err != nil {
		return nil, err
	}
	if !usable || r.state().adopt != "" {
		return nil, r.rejectLater(ctx, txns, reason)
	}
	reject := make(map[cdc.ID]string, len(txns))
	for _, id := range txns {
		reject[id] = reason
	}
	for attempt := 1; ; attempt++ {
		if err := r.absorb(ctx); err != nil {
			return nil, err
		}
		b := &rebase{r: r, reject: reject, alone: attempt >= attemptsAlone, report: &syncer.PullReport{}}
		if err := b.run(ctx); !isForeign(err) || attempt >= attemptsMax {
			return b.report.Rejected, err
		}
	}
}

// rejectLater puts transactions aside while there is no base to replay on: their
// rows leave live with the next pull.
func (r *Replica) rejectLater(ctx context.Context, txns []cdc.ID, reason string) error {
	if err := r.log.AcquireQuiet(ctx); err != nil {
		return err
	}
	defer r.log.Release()
	return r.write(ctx, func(c *conn) error {
		for _, id := range txns {
			if err := moveRejected(c, id, reason, r.cfg.Now().Unix()); err != nil {
				return err
			}
		}
		return nil
	})
}

// Rebootstrap implements syncer.Replica.
func (r *Replica) Rebootstrap(ctx context.Context) error {
	return r.locked("rebootstrap", func() error {
		return r.durable(ctx, func(s *state) error {
			s.bootstrap = true
			return nil
		})
	})
}

// Measure implements syncer.Replica.
func (r *Replica) Measure(ctx context.Context) (syncer.Measure, error) {
	r.meterMu.Lock()
	defer r.meterMu.Unlock()
	st := r.state()
	m := syncer.Measure{
		ClientID: st.clientID, Watermark: st.watermark, Revision: st.revision,
		BaseBytes: int64(st.basePages) * page.Size,
	}
	var err error
	if r.meter == nil {
		if r.live == nil {
			return m, ErrClosed
		}
		if r.meter, err = openConn(r.files.live, "mode=rw"); err != nil {
			return m, fmt.Errorf("measure: %w", err)
		}
	}
	if m.LastChange, err = r.meter.lastID(); err != nil {
		return m, fmt.Errorf("measure: %w", err)
	}
	if m.PendingChanges, err = r.meter.number(`SELECT count(*) FROM turso_cdc WHERE change_id > ?`, int64(st.sent)); err != nil {
		return m, fmt.Errorf("measure: %w", err)
	}
	if m.Rejected, err = r.meter.number(`SELECT count(DISTINCT txn_id) FROM turso_sync_rejected`); err != nil {
		return m, fmt.Errorf("measure: %w", err)
	}
	if st.adopt != "" {
		m.PendingChanges = 0
		if m.LastChange == cdc.ID(adoptRoom) {
			m.LastChange = 0
		}
	}
	if m.LiveBytes, err = sizeOf(r.files.live); err != nil {
		return m, fmt.Errorf("measure: %w", err)
	}
	if m.WALBytes, err = sizeOf(r.files.live + "-wal"); err != nil {
		return m, fmt.Errorf("measure: %w", err)
	}
	return m, ctx.Err()
}

func isForeign(err error) bool { return errors.Is(err, errForeign) }
