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
		return r.rebaseAgain(ctx, rejected[i])
	})
}

// rebaseAgain replays the log on the present base, with x behind it. It is one
// commit: rows in live, changes in the log, nothing put aside any more.
func (r *Replica) rebaseAgain(ctx context.Context, x syncer.Rejection) error {
	if err := r.finishCommitted(); err != nil {
		return err
	}
	if usable, err := r.baseUsable(); err != nil {
		return err
	} else if !usable || r.state().adopt != "" {
		return errors.New("there is no base to replay it on: pull first")
	}
	for attempt := 1; ; attempt++ {
		if err := r.absorb(ctx); err != nil {
			return err
		}
		b := &rebase{r: r, again: &x, alone: attempt >= attemptsAlone, report: new(syncer.PullReport)}
		err := b.run(ctx)
		if isForeign(err) && attempt < attemptsMax {
			continue
		}
		if err == nil && b.refused != nil {
			return fmt.Errorf("transaction %d still cannot be applied: %w", x.Txn, b.refused)
		}
		if err == nil {
			r.logged()
		}
		return err
	}
}

// Discard forgets a rejected transaction for good.
func (r *Replica) Discard(ctx context.Context, txn cdc.ID) error {
	return r.locked("discard transaction", func() error {
		if err := r.log.AcquireQuiet(ctx); err != nil {
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
