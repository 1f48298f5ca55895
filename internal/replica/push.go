package replica

import (
	"context"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/syncer"
)

func (r *Replica) Pending(ctx context.Context, limits syncer.Limits) (syncer.Pending, error) {
	return syncer.Pending{}, nil
}
func (r *Replica) Intend(ctx context.Context, last cdc.ID) error    { return nil }
func (r *Replica) Acknowledge(ctx context.Context, id cdc.ID) error { return nil }
func (r *Replica) Reconcile(ctx context.Context, watermark cdc.ID, found bool) (bool, error) {
	return false, nil
}
func (r *Replica) Reject(ctx context.Context, txns []cdc.ID, reason string) error { return nil }
func (r *Replica) Rebootstrap(ctx context.Context) error                          { return nil }
func (r *Replica) Pull(ctx context.Context, fetch syncer.Fetch, opts syncer.PullOptions) (syncer.PullReport, error) {
	return syncer.PullReport{}, nil
}
func (r *Replica) Measure(ctx context.Context) (syncer.Measure, error) { return syncer.Measure{}, nil }
