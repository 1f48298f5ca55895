package syncer

import (
	"context"
)

// DefaultWorkers is how many replicas of a process work at the same moment.
const DefaultWorkers = 16

// Scheduler bounds how many replicas work at the same moment. Replicas at rest,
// also those waiting in a long poll, take none of its places. One Scheduler
// serves a process; it holds no goroutine and needs no closing.
type Scheduler struct {
	places chan struct{}
}

// NewScheduler returns a Scheduler with that many places; 0 means DefaultWorkers.
func NewScheduler(workers int) *Scheduler {
	if workers <= 0 {
		workers = DefaultWorkers
	}
	return &Scheduler{places: make(chan struct{}, workers)}
}

// enter waits for a place.
func (s *Scheduler) enter(ctx context.Context) error {
	select {
	case s.places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Scheduler) leave() { <-s.places }

// Start starts the loop of a replica. Without a remote (nil) it checkpoints and
// keeps what is committed pending until SetRemote. The caller closes the loop
// before the replica.
func (s *Scheduler) Start(replica Replica, remote Remote, cfg Config) *Loop {
	ctx, cancel := context.WithCancelCause(context.Background())
	l := &Loop{
		cfg:         cfg.withDefaults(),
		scheduler:   s,
		replica:     replica,
		ctx:         ctx,
		cancel:      cancel,
		done:        make(chan struct{}),
		wake:        make(chan struct{}, 1),
		remote:      remote,
		subscribers: make(map[*queue]struct{}),
		rewrites:    make(map[txnID][]mutation),
		unsure:      true,
		doubt:       true,
	}
	go l.run()
	return l
}
