package syncer

import "time"

// Backoff spaces the attempts after errors: the delay doubles with every
// failure from Min up to Max, and a random half of it keeps many replicas from
// coming back at the same moment.
type Backoff struct {
	Min, Max time.Duration
}

// The delays that stand for zero values of Backoff.
const (
	DefaultBackoffMin = 500 * time.Millisecond
	DefaultBackoffMax = time.Minute
)

// slowMin is the least delay after the remote rejected the token, or what it wants: a new one
// comes from a person more often than from a retry.
const slowMin = 30 * time.Second

// Delay returns how long to wait after the given number of failures in a row
// (at least one). rnd is a random number in [0, 1). The remote's Retry-After is
// a floor, whatever Max says.
func (b Backoff) Delay(failures int, v Verdict, rnd float64) time.Duration {
	lo, hi := b.Min, b.Max
	if lo <= 0 {
		lo = DefaultBackoffMin
	}
	if hi <= 0 {
		hi = max(DefaultBackoffMax, lo)
	}
	if v.Kind == Unauthorized || v.Kind == NotPermitted {
		lo, hi = max(lo, slowMin), max(hi, slowMin)
	}
	d := lo
	for i := 1; i < failures && d < hi; i++ {
		d *= 2
	}
	d = min(d, hi)
	d = d/2 + time.Duration(rnd*float64(d/2))
	return max(d, v.RetryAfter)
}
