package fault

import (
	"sync/atomic"
	"time"
)

var clock atomic.Int64

// Now is the wall clock, for times that are written somewhere or name something: it may
// jump, back too. Without a test it is time.Now. Intervals are measured with time.Now
// itself, whose monotonic reading does not jump, and which [SetClock] leaves alone.
func Now() time.Time { return time.Now().Add(time.Duration(clock.Load())).Round(0) }

// SetClock sets the wall clock of the process off by d and returns the function that
// sets it right. It is for tests only.
func SetClock(d time.Duration) (restore func()) {
	clock.Store(int64(d))
	return func() { clock.Store(0) }
}
