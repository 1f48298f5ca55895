package syncer

import (
	"context"
	"iter"
	"sync"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/page"
)

// Event is something that happened to a replica: one of the types below.
type Event interface{ event() }

// Pulled tells that the remote's changes are in live.
type Pulled struct {
	Revision page.Revision
	Tables   []string // whose content or definition may have changed, sorted
	Pages    int
	Replayed int // pending changes that were put on top
}

// Pushed tells that the remote holds every change up to Through.
type Pushed struct {
	Through cdc.ID
	Txns    int
	Changes int
}

// StatusChanged tells the new status. A next try that moved alone is no event.
type StatusChanged struct{ Status Status }

// Collided tells of an auto-assigned key that two replicas gave to different
// rows; the row pushed last stays, and the other one is in here.
type Collided struct{ Collision Collision }

// Rejected tells of a transaction that can never be applied and was put aside.
type Rejected struct{ Rejection Rejection }

// RemoteReset tells that the remote did not know our revision, or is another
// database than before, and that everything was taken anew.
type RemoteReset struct{ Revision page.Revision }

// Renewed tells that these files, or the remote, were restored or copied: the
// replica goes on under a new client id.
type Renewed struct{}

// Adopted tells that a file full of data became a replica: its content is
// pending.
type Adopted struct{}

// Progress tells how much of a bootstrap has arrived, in pages.
type Progress struct{ Done, Total uint64 }

// Missed stands in the place of events that a slow subscriber had no room for.
type Missed struct{ Count int }

func (Pulled) event()        {}
func (Pushed) event()        {}
func (StatusChanged) event() {}
func (Collided) event()      {}
func (Rejected) event()      {}
func (RemoteReset) event()   {}
func (Renewed) event()       {}
func (Adopted) event()       {}
func (Progress) event()      {}
func (Missed) event()        {}

// eventsMax bounds what waits for one subscriber.
const eventsMax = 1024

// queue holds the events of one subscriber.
type queue struct {
	ready chan struct{} // capacity 1: something changed

	mu     sync.Mutex // guards what follows
	items  []Event
	missed int // events thrown out before items
	closed bool
}

func newQueue() *queue { return &queue{ready: make(chan struct{}, 1)} }

func (q *queue) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// put never blocks. Without room the oldest event makes way and is counted.
func (q *queue) put(e Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := e.(Progress); ok && len(q.items) > 0 {
		if _, ok := q.items[len(q.items)-1].(Progress); ok {
			q.items[len(q.items)-1] = e
			return
		}
	}
	if len(q.items) == eventsMax {
		q.items = append(q.items[:0], q.items[1:]...)
		q.missed++
	}
	q.items = append(q.items, e)
	q.signal()
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.signal()
}

// take returns the next event, or nil; end tells that none will come any more.
func (q *queue) take() (e Event, end bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.missed > 0:
		e, q.missed = Missed{q.missed}, 0
	case len(q.items) > 0:
		e, q.items = q.items[0], q.items[1:]
	default:
		return nil, q.closed
	}
	return e, false
}

// Events subscribes to what happens from now on. The subscription ends with
// ctx, when the loop over it is left, or, after the last event, when the replica
// is closed. It may be ranged over once. Up to 1024 events wait for a slow
// subscriber; what finds no room is counted in a Missed event.
func (l *Loop) Events(ctx context.Context) iter.Seq[Event] {
	q := newQueue()
	l.mu.Lock()
	if l.ended {
		q.close()
	} else {
		l.subscribers[q] = struct{}{}
	}
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		delete(l.subscribers, q)
		l.mu.Unlock()
	}
	stop := context.AfterFunc(ctx, leave)
	return func(yield func(Event) bool) {
		defer leave()
		defer stop()
		for {
			e, end := q.take()
			if e != nil {
				if !yield(e) {
					return
				}
				continue
			}
			if end {
				return
			}
			select {
			case <-q.ready:
			case <-ctx.Done():
				return
			}
		}
	}
}

// Publish tells every subscriber of e.
func (l *Loop) Publish(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.publish(e)
}

// publish needs l.mu.
func (l *Loop) publish(e Event) {
	for q := range l.subscribers {
		q.put(e)
	}
}
