package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/syncer"
)

// ErrNotRejected: no transaction of that id was put aside.
var ErrNotRejected = errors.New("no such transaction was put aside")

// Requeue puts a rejected transaction behind everything that is pending, under
// new change ids, and its rows into live. If it still cannot be replayed it stays
// put aside, under the new ids, and the error says why.
func (r *Replica) Requeue(ctx context.Context, txn cdc.ID) error {
	return r.locked("requeue transaction", func() error {
		rejected, err := r.readRejected(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(rejected, func(x syncer.Rejection) bool { return x.Txn == txn })
		if i < 0 {
			return fmt.Errorf("%d: %w", txn, ErrNotRejected)
		}
		if err := r.appendAgain(ctx, rejected[i]); err != nil {
			return err
		}
		return r.rebaseLog(ctx, txn)
	})
}

// appendAgain moves a rejected transaction to the end of the log.
func (r *Replica) appendAgain(ctx context.Context, x syncer.Rejection) error {
	if err := r.log.Acquire(ctx); err != nil {
		return err
	}
	defer r.log.Release()
	return r.write(ctx, func(c *conn) error {
		last, err := c.number(`SELECT max(ifnull((SELECT max(change_id) FROM turso_cdc), 0),
			ifnull((SELECT value FROM turso_sync_state WHERE key = ?), 0))`, lastIDKey)
		if err != nil {
			return err
		}
		changes := slices.Clone(x.Changes)
		for i := range changes {
			changes[i].ID, changes[i].Txn = cdc.ID(last)+cdc.ID(i)+1, cdc.ID(last)+1
		}
		if err := cdc.Append(c.SQLiteConn, changes); err != nil {
			return err
		}
		if err := c.exec(putState, lastIDKey, last+int64(len(changes))); err != nil {
			return err
		}
		return c.exec(`DELETE FROM turso_sync_rejected WHERE txn_id = ?`, int64(x.Txn))
	})
}

// rebaseLog replays the log on the present base.
func (r *Replica) rebaseLog(ctx context.Context, txn cdc.ID) error {
	if err := r.finishCommitted(); err != nil {
		return err
	}
	usable, err := r.baseUsable()
	if err != nil || !usable || r.state().adopt != "" {
		return err // the next pull does it
	}
	for attempt := 1; ; attempt++ {
		var report syncer.PullReport
		b := &rebase{r: r, report: &report}
		err := b.run(ctx)
		if isForeign(err) && attempt < attemptsMax {
			if err := r.absorb(ctx); err != nil {
				return err
			}
			continue
		}
		if err == nil && len(report.Rejected) > 0 {
			return fmt.Errorf("transaction %d still cannot be applied: %s", txn, report.Rejected[0].Reason)
		}
		return err
	}
}

// Discard forgets a rejected transaction for good.
func (r *Replica) Discard(ctx context.Context, txn cdc.ID) error {
	return r.locked("discard transaction", func() error {
		if err := r.log.Acquire(ctx); err != nil {
			return err
		}
		defer r.log.Release()
		return r.write(ctx, func(c *conn) error {
			n, err := c.number(`SELECT count(*) FROM turso_sync_rejected WHERE txn_id = ?`, int64(txn))
			if err != nil {
				return err
			}
			if n == 0 {
				return fmt.Errorf("%d: %w", txn, ErrNotRejected)
			}
			return c.exec(`DELETE FROM turso_sync_rejected WHERE txn_id = ?`, int64(txn))
		})
	})
}
