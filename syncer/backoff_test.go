package syncer

import (
	"testing"
	"time"
)

func TestBackoffDelay(t *testing.T) {
	b := Backoff{Min: time.Second, Max: 10 * time.Second}
	for _, c := range []struct {
		name     string
		failures int
		v        Verdict
		rnd      float64
		want     time.Duration
	}{
		{"first, least", 1, Verdict{}, 0, 500 * time.Millisecond},
		{"first, most", 1, Verdict{}, 1, time.Second},
		{"doubles", 3, Verdict{}, 1, 4 * time.Second},
		{"bounded", 60, Verdict{}, 1, 10 * time.Second},
		{"the remote's wish", 1, Verdict{RetryAfter: 90 * time.Second}, 0, 90 * time.Second},
		{"rejected token", 1, Verdict{Kind: Unauthorized}, 1, 30 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := b.Delay(c.failures, c.v, c.rnd); got != c.want {
				t.Errorf("Delay() = %v, want %v", got, c.want)
			}
		})
	}
	t.Run("zero value", func(t *testing.T) {
		if got := (Backoff{}).Delay(1000, Verdict{}, 1); got != DefaultBackoffMax {
			t.Errorf("Delay() = %v, want %v", got, DefaultBackoffMax)
		}
	})
}

func TestDecide(t *testing.T) {
	now := time.Unix(1000, 0)
	before, after := now.Add(-time.Second), now.Add(time.Minute)
	for _, c := range []struct {
		name  string
		a     agenda
		want  step
		sleep time.Duration
	}{
		{"nothing", agenda{}, stepNone, -1},
		{"later", agenda{push: after, pull: after.Add(1)}, stepNone, time.Minute},
		{"due", agenda{push: now, pull: after}, stepPush, 0},
		{"longest due first", agenda{push: now, pull: before}, stepPull, 0},
		{"request before timer", agenda{do: now, push: after}, stepDo, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, sleep := decide(now, c.a)
			if got != c.want || sleep != c.sleep {
				t.Errorf("decide() = %v, %v, want %v, %v", got, sleep, c.want, c.sleep)
			}
		})
	}
}
