package syncer

import "time"

// step is one piece of work of a loop.
type step int

const (
	stepNone step = iota
	stepDo
	stepCheckpoint
	stepPush
	stepPull
)

// agenda says since when each step is due; zero: it is not. A step that is due
// in the future is the timer.
type agenda struct {
	do, checkpoint, push, pull time.Time
}

// decide chooses the step that has been due for longest, or, when none is due,
// how long to sleep; negative: until something happens.
func decide(now time.Time, a agenda) (step, time.Duration) {
	next, at := stepNone, time.Time{}
	consider := func(s step, t time.Time) {
		if !t.IsZero() && (next == stepNone || t.Before(at)) {
			next, at = s, t
		}
	}
	consider(stepDo, a.do)
	consider(stepCheckpoint, a.checkpoint)
	consider(stepPush, a.push)
	consider(stepPull, a.pull)
	if next == stepNone {
		return stepNone, -1
	}
	if at.After(now) {
		return stepNone, at.Sub(now)
	}
	return next, 0
}

// earliest returns the earlier of two times, of which zero is none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// latest returns the later of two times.
func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
