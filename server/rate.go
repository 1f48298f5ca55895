package server

import (
	"crypto/sha256"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// rate bounds the requests of each token: a bucket that holds up to burst requests
// and fills with so many a second.
type rate struct {
	perSecond, burst float64

	mu      sync.Mutex // guards buckets
	buckets map[[16]byte]*bucket
}

type bucket struct {
	left float64
	at   time.Time
}

// bucketsMax is when buckets that are full again are thrown away.
const bucketsMax = 10_000

func newRate(perSecond float64, burst int) *rate {
	return &rate{perSecond: perSecond, burst: float64(burst), buckets: map[[16]byte]*bucket{}}
}

// take takes a request from a token's bucket, or tells when to come again.
func (r *rate) take(token string, at time.Time) (wait time.Duration) {
	sum := sha256.Sum256([]byte(token)) // tokens do not stay in memory
	key := [16]byte(sum[:16])
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.buckets[key]
	if b == nil {
		if len(r.buckets) >= bucketsMax {
			r.sweep(at)
		}
		b = &bucket{left: r.burst, at: at}
		r.buckets[key] = b
	}
	b.left = min(r.burst, b.left+r.perSecond*max(0, at.Sub(b.at).Seconds()))
	b.at = at
	if b.left >= 1 {
		b.left--
		return 0
	}
	return time.Duration((1 - b.left) / r.perSecond * float64(time.Second))
}

// sweep throws away the buckets that are full. The caller holds mu.
func (r *rate) sweep(at time.Time) {
	for key, b := range r.buckets {
		if b.left+r.perSecond*at.Sub(b.at).Seconds() >= r.burst {
			delete(r.buckets, key)
		}
	}
}

// inRate answers a request of a token that sends too many. Only tokens that were
// found to be good are counted, so that guesses fill no memory.
func (cfg *Config) inRate(w http.ResponseWriter, r *http.Request) bool {
	if cfg.rate == nil {
		return true
	}
	wait := cfg.rate.take(bearer(r), time.Now())
	if wait == 0 {
		return true
	}
	cfg.stats.limited.Add(1)
	allowBrowsers(w.Header())
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	fail(w, http.StatusTooManyRequests, "this token has sent too many requests")
	return false
}
