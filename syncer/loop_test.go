package syncer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tursosync/tursosync/cdc"
)

// world is a replica and a remote with a loop between them, in simulated time.
type world struct {
	*testing.T
	replica *fakeReplica
	remote  *fakeRemote
	loop    *Loop
}

// simulate runs fn in simulated time. fn may change the world before start.
func simulate(t *testing.T, fn func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, replica: newFakeReplica(t), remote: newFakeRemote(t)}
		fn(w)
		if w.loop != nil {
			w.loop.Close(t.Context())
			if got := w.loop.Status().State; got != Stopped {
				t.Errorf("after Close the state is %v, want stopped", got)
			}
		}
	})
}

func (w *world) start(cfg Config) {
	cfg.Judge = judge
	w.loop = NewScheduler(0).Start(w.replica, w.remote, cfg)
	w.replica.mu.Lock()
	w.replica.loop = w.loop
	w.replica.mu.Unlock()
	synctest.Wait()
}

// pass lets simulated time go by.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) state(want State) {
	w.Helper()
	if got := w.loop.Status(); got.State != want {
		w.Errorf("status is %v, want %v", got, want)
	}
}

// quiet has no background work but the push.
var quiet = Config{Pull: PullManual}

func TestPushIsDebounced(t *testing.T) {
	simulate(t, func(w *world) {
		w.start(quiet)
		for range 10 {
			w.replica.commit(2)
			w.pass(time.Millisecond)
		}
		if n := len(w.remote.sent()); n != 0 {
			t.Errorf("%d batches before the delay, want 0", n)
		}
		w.pass(DefaultPushDelay)
		if n := len(w.remote.sent()); n != 1 {
			t.Errorf("%d batches, want 1", n)
		}
		w.remote.each(20)
	})
}

func TestPushesWhatAnEarlierRunLeft(t *testing.T) {
	simulate(t, func(w *world) {
		w.replica.commit(3)
		w.start(quiet)
		w.pass(time.Second)
		w.remote.each(3)
	})
}

func TestIdleCostsNothing(t *testing.T) {
	simulate(t, func(w *world) {
		w.start(Config{PullInterval: time.Minute})
		w.pass(time.Hour)
		if n := w.remote.count(&w.remote.pulls); n > 61 {
			t.Errorf("%d pulls in an hour, want at most 61", n)
		}
		if n := w.replica.pendings; n > 2 {
			t.Errorf("pending was read %d times without a commit", n)
		}
		if w.replica.reconciles != 0 {
			t.Errorf("the watermark was read with nothing to push")
		}
	})
}

func TestBatchesAreBounded(t *testing.T) {
	simulate(t, func(w *world) {
		for range 10 {
			w.replica.commit(3)
		}
		w.start(Config{Pull: PullManual, BatchChanges: 7})
		w.pass(time.Second)
		for _, b := range w.remote.sent() {
			if n := len(rows(b.Mutations)); n > 7 {
				t.Errorf("batch of %d rows, want at most 7", n)
			}
		}
		w.remote.each(30)
	})
}

func TestOfflineBacksOffAndRecovers(t *testing.T) {
	simulate(t, func(w *world) {
		attempts := 0
		down := func(context.Context) error { attempts++; return errors.New("connection refused") }
		w.remote.onPull, w.remote.onMark = down, down
		w.start(Config{})
		w.replica.commit(1)
		w.pass(10 * time.Minute)
		if attempts > 60 {
			t.Errorf("%d attempts in 10 minutes, want fewer than 60", attempts)
		}
		w.state(Offline)
		s := w.loop.Status()
		if s.Err == nil || !strings.Contains(s.Err.Error(), "connection refused") || !s.NextTry.After(time.Now()) {
			t.Errorf("status = %+v, want an error and a next try", s)
		}
		waited := make(chan error, 1)
		go func() { waited <- w.loop.Wait(w.Context()) }()
		w.pass(time.Minute)
		w.remote.set(func() { w.remote.onPull, w.remote.onMark = nil, nil })
		w.pass(2 * DefaultBackoffMax)
		w.state(Running)
		w.remote.each(1)
		if err := <-waited; err != nil {
			t.Errorf("Wait: %v", err)
		}
	})
}

func TestExplicitPushIgnoresBackoff(t *testing.T) {
	simulate(t, func(w *world) {
		w.remote.onMark = func(context.Context) error { return errors.New("unreachable") }
		w.start(Config{Pull: PullManual, Backoff: Backoff{Min: time.Hour, Max: time.Hour}})
		w.replica.commit(1)
		w.pass(time.Minute)
		w.state(Offline)
		if err := w.loop.Push(w.Context()); err == nil || !strings.Contains(err.Error(), "unreachable") {
			t.Errorf("Push: %v, want the remote's error", err)
		}
		w.remote.set(func() { w.remote.onMark = nil })
		if err := w.loop.Push(w.Context()); err != nil {
			t.Errorf("Push: %v", err)
		}
		w.state(Running)
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	simulate(t, func(w *world) {
		var at []time.Time
		w.remote.onPush = func(context.Context, Batch) error {
			at = append(at, time.Now())
			if len(at) == 1 {
				return &fakeError{Verdict{Reason: "slow down", RetryAfter: 10 * time.Minute, Answered: true}}
			}
			return nil
		}
		w.start(quiet)
		w.replica.commit(1)
		w.pass(time.Hour)
		if len(at) != 2 || at[1].Sub(at[0]) < 10*time.Minute {
			t.Errorf("attempts at %v, want two, 10 minutes apart", at)
		}
		w.remote.each(1)
	})
}

// TestLostResponse shows that a batch whose answer was lost is not sent again.
func TestLostResponse(t *testing.T) {
	simulate(t, func(w *world) {
		w.remote.afterPush = func(Batch) error {
			w.remote.afterPush = nil
			return errors.New("connection reset")
		}
		w.start(quiet)
		w.replica.commit(5)
		w.pass(time.Minute)
		w.replica.commit(5)
		w.pass(time.Minute)
		w.remote.each(10)
		w.state(Running)
	})
}

// TestMovedWatermark shows that a fence that fails leads to a new reading, and
// that a watermark nobody here knows leads to a new client id.
func TestMovedWatermark(t *testing.T) {
	simulate(t, func(w *world) {
		w.start(quiet)
		events := w.loop.Events(w.Context())
		w.replica.commit(1)
		w.pass(time.Second)
		w.remote.mu.Lock()
		w.remote.watermarks["c1"] = 77 // the files were copied, and the copy has pushed
		w.remote.mu.Unlock()
		w.replica.commit(1)
		w.pass(time.Second)
		if got := w.remote.watermarks["c1'"]; got != 2 {
			t.Errorf("watermark of the new client is %d, want 2", got)
		}
		w.loop.Close(w.Context())
		if !slices.ContainsFunc(slices.Collect(events), func(e Event) bool { _, ok := e.(Renewed); return ok }) {
			t.Errorf("no Renewed event")
		}
	})
}

// TestPullFirst shows that a push makes up for the pull that it needs.
func TestPullFirst(t *testing.T) {
	simulate(t, func(w *world) {
		w.replica.commit(1)
		w.replica.pullFirst = true
		w.start(Config{Push: PushManual, Pull: PullManual})
		if err := w.loop.Wait(w.Context()); err != nil {
			t.Errorf("Wait: %v", err)
		}
		w.remote.each(1)
		if w.remote.count(&w.remote.pulls) != 1 {
			t.Errorf("%d pulls, want 1", w.remote.count(&w.remote.pulls))
		}
	})
}

// refuse makes the remote refuse every batch that holds one of the changes.
func refuse(kind Kind, hint bool, ids ...cdc.ID) func(context.Context, Batch) error {
	return func(_ context.Context, b Batch) error {
		for _, m := range b.Mutations {
			if slices.ContainsFunc(rows([]cdc.Mutation{m}), func(id cdc.ID) bool { return slices.Contains(ids, id) }) {
				v := Verdict{Kind: kind, Reason: "UNIQUE constraint failed: item.v", Answered: true}
				if hint {
					v.Change = m.Change
				}
				return &fakeError{v}
			}
		}
		return nil
	}
}

func TestQuarantine(t *testing.T) {
	for _, hint := range []bool{false, true} {
		t.Run(map[bool]string{false: "by halving", true: "by hint"}[hint], func(t *testing.T) {
			simulate(t, func(w *world) {
				for range 100 {
					w.replica.commit(1)
				}
				calls := 0
				bad := refuse(Refused, hint, 1, 37, 38, 100)
				w.remote.onPush = func(ctx context.Context, b Batch) error { calls++; return bad(ctx, b) }
				w.start(Config{Pull: PullManual, Push: PushManual})
				events := w.loop.Events(w.Context())
				err := w.loop.Push(w.Context())
				var rejected *RejectedError
				if !errors.As(err, &rejected) || len(rejected.Rejections) != 4 {
					t.Fatalf("Push: %v, want a RejectedError with 4 transactions", err)
				}
				w.remote.each(100, 1, 37, 38, 100)
				if calls > 80 {
					t.Errorf("%d requests", calls)
				}
				if len(w.replica.rejected) != 4 || !strings.Contains(w.replica.rejected[1].Reason, "UNIQUE") {
					t.Errorf("rejected: %+v", w.replica.rejected)
				}
				w.state(Running)
				if err := w.loop.Push(w.Context()); err != nil {
					t.Errorf("second Push: %v", err)
				}
				w.loop.Close(w.Context())
				n := 0
				for e := range events {
					if _, ok := e.(Rejected); ok {
						n++
					}
				}
				if n != 4 {
					t.Errorf("%d Rejected events, want 4", n)
				}
			})
		})
	}
}

// TestOtherForms shows that a refused transaction is tried in its other forms
// before it is put aside.
func TestOtherForms(t *testing.T) {
	simulate(t, func(w *world) {
		w.replica.commit(1)
		w.replica.txns[0].Changes[0].Type = cdc.Update
		w.replica.txns[0].Changes[0].Before = cdc.EncodeRecord([]any{int64(1), "before"})
		var tries [][]cdc.Mutation
		w.remote.onPush = func(_ context.Context, b Batch) error {
			tries = append(tries, b.Mutations)
			if len(tries) < 3 {
				return &fakeError{Verdict{Kind: Refused, Reason: "UNIQUE constraint failed"}}
			}
			return nil
		}
		w.start(quiet)
		if err := w.loop.Wait(w.Context()); err != nil {
			t.Errorf("Wait: %v", err)
		}
		if len(tries) != 3 || !strings.HasPrefix(tries[2][0].SQL, "DELETE") {
			t.Errorf("tries: %v, want the third one to delete first", tries)
		}
	})
}

func TestHaltPolicy(t *testing.T) {
	for _, c := range []struct {
		name   string
		decide func(w *world) error
		after  []cdc.ID // changes that did not arrive
	}{
		{"retry", func(w *world) error {
			w.remote.set(func() { w.remote.onPush = nil })
			return w.loop.Retry(w.Context())
		}, nil},
		{"skip", func(w *world) error { return w.loop.Skip(w.Context()) }, []cdc.ID{3}},
		{"rewrite", func(w *world) error {
			return w.loop.Rewrite(w.Context(), []cdc.Mutation{{SQL: "INSERT INTO item VALUES (3, 'other')", Change: 300}})
		}, []cdc.ID{3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulate(t, func(w *world) {
				for range 5 {
					w.replica.commit(1)
				}
				w.remote.onPush = refuse(Refused, false, 3)
				w.start(Config{Pull: PullManual, Policy: HaltOnRefusal})
				w.pass(time.Minute)
				w.state(Halted)
				w.remote.each(2)
				if s := w.loop.Status(); s.Txn != 3 || !strings.Contains(s.Reason, "UNIQUE") || len(s.Changes) != 1 {
					t.Errorf("status = %+v, want transaction 3 and the remote's words", s)
				}
				n := len(w.remote.sent())
				var halted *HaltedError
				if err := w.loop.Wait(w.Context()); !errors.As(err, &halted) {
					t.Errorf("Wait: %v, want a HaltedError", err)
				}
				w.replica.commit(1)
				w.pass(time.Hour)
				if len(w.remote.sent()) != n {
					t.Errorf("pushed while halted")
				}
				if err := c.decide(w); err != nil {
					t.Fatal(err)
				}
				w.pass(time.Minute)
				w.state(Running)
				w.remote.each(6, c.after...)
			})
		})
	}
}

// TestNotPermitted shows that a transaction which the token does not permit is dealt
// with as the policy says, at once, and that a token which may push nothing halts the
// replica, whatever the policy, without hurting its pulls.
func TestNotPermitted(t *testing.T) {
	t.Run("quarantine", func(t *testing.T) {
		simulate(t, func(w *world) {
			w.replica.commit(1)
			tries := 0
			bad := refuse(NotPermitted, true, 1)
			w.remote.onPush = func(ctx context.Context, b Batch) error { tries++; return bad(ctx, b) }
			w.start(quiet)
			var rejected *RejectedError
			if err := w.loop.Push(w.Context()); !errors.As(err, &rejected) || len(rejected.Rejections) != 1 || tries != 1 {
				t.Errorf("Push: %v after %d tries, want a RejectedError after one", err, tries)
			}
			w.state(Running)
		})
	})
	t.Run("halt", func(t *testing.T) {
		simulate(t, func(w *world) {
			for range 3 {
				w.replica.commit(1)
			}
			w.remote.onPush = refuse(NotPermitted, true, 2)
			w.start(Config{Pull: PullManual, Push: PushManual, Policy: HaltOnRefusal})
			var halted *HaltedError
			if err := w.loop.Push(w.Context()); !errors.As(err, &halted) || halted.Halt.Txn != 2 {
				t.Errorf("Push: %v, want to be halted at transaction 2", err)
			}
		})
	})
	t.Run("nothing at all", func(t *testing.T) {
		simulate(t, func(w *world) {
			tries := 0
			w.remote.onPush = func(context.Context, Batch) error {
				tries++
				return &fakeError{Verdict{Kind: NotPermitted, Reason: "the token is read-only", Answered: true}}
			}
			w.start(Config{PullInterval: time.Minute})
			w.replica.commit(1)
			w.pass(30 * time.Second)
			w.state(Halted)
			if s := w.loop.Status(); s.Txn != 0 || s.Reason != "the token is read-only" {
				t.Errorf("Status = %+v", s)
			}
			w.replica.commit(1)
			pulls := w.remote.count(&w.remote.pulls)
			w.remote.set(func() { w.remote.advance() })
			w.pass(time.Hour)
			if got := w.remote.count(&w.remote.pulls); tries < 50 || tries > 130 || got < pulls+50 || len(w.replica.rejected) != 0 {
				t.Errorf("%d pushes and %d pulls in an hour, %d rejected; want a push a minute, 50 pulls and none", tries, got-pulls, len(w.replica.rejected))
			}
			w.state(Halted)
			if err := w.loop.Skip(w.Context()); !errors.Is(err, ErrNotHalted) {
				t.Errorf("Skip: %v, want ErrNotHalted: no transaction is to blame", err)
			}
			w.remote.set(func() { w.remote.onPush = nil }) // another token
			w.pass(time.Minute)
			w.state(Running)
			w.remote.each(2)
		})
	})
}

func TestSkipWithoutHalt(t *testing.T) {
	simulate(t, func(w *world) {
		w.start(quiet)
		if err := w.loop.Skip(w.Context()); !errors.Is(err, ErrNotHalted) {
			t.Errorf("Skip: %v, want ErrNotHalted", err)
		}
	})
}

// TestDisagreement shows that the policy quarantine does not put aside what the
// remote's schema is to blame for, that pulls go on, and that a remote which
// has changed is tried again.
func TestDisagreement(t *testing.T) {
	simulate(t, func(w *world) {
		w.start(Config{PullInterval: time.Minute})
		w.remote.onPush = func(context.Context, Batch) error {
			return &fakeError{Verdict{Kind: Disagreement, Reason: "no such column: v", Answered: true}}
		}
		w.replica.commit(1)
		w.pass(30 * time.Second)
		w.state(Halted)
		if len(w.replica.rejected) != 0 {
			t.Errorf("rejected %v", w.replica.rejected)
		}
		pulls := w.remote.count(&w.remote.pulls)
		w.pass(time.Hour)
		if w.remote.count(&w.remote.pulls) < pulls+50 {
			t.Errorf("%d pulls in an hour, want them to go on", w.remote.count(&w.remote.pulls)-pulls)
		}
		w.state(Halted)
		w.remote.set(func() {
			w.remote.onPush = nil
			w.remote.advance()
		})
		w.pass(2 * time.Minute)
		w.state(Running)
		w.remote.each(1)
	})
}

func TestUnsupportedRemoteHalts(t *testing.T) {
	simulate(t, func(w *world) {
		w.remote.onPull = func(context.Context) error {
			return &fakeError{Verdict{Kind: Disagreement, Reason: "database is MVCC", Answered: true}}
		}
		w.start(Config{})
		w.pass(time.Hour)
		w.state(Halted)
		if w.remote.count(&w.remote.pulls) != 1 {
			t.Errorf("%d pulls, want 1", w.remote.count(&w.remote.pulls))
		}
		w.remote.set(func() { w.remote.onPull = nil })
		if err := w.loop.Retry(w.Context()); err != nil {
			t.Fatal(err)
		}
		w.pass(time.Minute)
		w.state(Running)
	})
}

func TestUnauthorizedIsRetriedSlowly(t *testing.T) {
	simulate(t, func(w *world) {
		n := 0
		w.remote.onPull = func(context.Context) error {
			n++
			return &fakeError{Verdict{Kind: Unauthorized, Reason: "The JWT has expired", Answered: true}}
		}
		w.start(Config{})
		w.pass(5 * time.Minute)
		if n > 20 {
			t.Errorf("%d attempts in 5 minutes", n)
		}
		w.state(Offline)
		if s := w.loop.Status(); !strings.Contains(s.String(), "expired") {
			t.Errorf("status is %v, want the reason", s)
		}
	})
}

func TestLongPoll(t *testing.T) {
	simulate(t, func(w *world) {
		w.start(Config{Pull: PullLongPoll, LongPoll: time.Minute})
		w.pass(10 * time.Second)
		if w.remote.count(&w.remote.polls) != 1 {
			t.Fatalf("%d long polls, want 1", w.remote.count(&w.remote.polls))
		}
		// News arrive at once.
		w.remote.mu.Lock()
		w.remote.advance()
		w.remote.mu.Unlock()
		synctest.Wait()
		if w.replica.revision != "1" {
			t.Errorf("revision is %q, want 1", w.replica.revision)
		}
		// A commit does not wait for the end of the long poll.
		w.replica.commit(1)
		w.pass(DefaultPushDelay)
		w.remote.each(1)
		w.state(Running)
		// A request neither.
		start := time.Now()
		if err := w.loop.Sync(w.Context()); err != nil {
			t.Errorf("Sync: %v", err)
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("Sync took %v", d)
		}
		before := w.remote.count(&w.remote.polls)
		w.pass(10 * time.Minute)
		if n := w.remote.count(&w.remote.polls) - before; n < 9 || n > 11 {
			t.Errorf("%d long polls in 10 minutes, want 10", n)
		}
	})
}

// TestLongPollThatDoesNotWait is tursodb's behaviour.
func TestLongPollThatDoesNotWait(t *testing.T) {
	simulate(t, func(w *world) {
		w.remote.noPolls = true
		w.start(Config{Pull: PullLongPoll, PullInterval: 10 * time.Second})
		w.pass(10 * time.Minute)
		if n := w.remote.count(&w.remote.pulls); n > 65 {
			t.Errorf("%d pulls in 10 minutes, want about 60", n)
		}
	})
}

func TestClosePushesWhatIsPending(t *testing.T) {
	simulate(t, func(w *world) {
		w.start(Config{Pull: PullManual, PushDelay: time.Hour})
		w.replica.commit(3)
		w.loop.Close(w.Context())
		w.remote.each(3)
		if w.replica.checkpoints != 1 {
			t.Errorf("%d checkpoints, want 1", w.replica.checkpoints)
		}
		for name, err := range map[string]error{
			"Push": w.loop.Push(w.Context()), "Pull": w.loop.Pull(w.Context()),
			"Wait": w.loop.Wait(w.Context()), "Checkpoint": w.loop.Checkpoint(w.Context()),
		} {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("%s after Close: %v, want ErrClosed", name, err)
			}
		}
	})
}

// hang answers when the caller gives up.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func TestCloseIsBounded(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		most time.Duration
	}{
		{"push", Config{Pull: PullManual, CloseTimeout: 3 * time.Second}, 3 * time.Second},
		{"pull", Config{Push: PushManual, CloseTimeout: 3 * time.Second}, 0},
		{"long poll", Config{Push: PushManual, Pull: PullLongPoll, CloseTimeout: 3 * time.Second}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulate(t, func(w *world) {
				w.replica.commit(1)
				w.remote.onPull = hang
				w.remote.onPush = func(ctx context.Context, _ Batch) error { return hang(ctx) }
				w.start(c.cfg)
				w.pass(time.Second)
				start := time.Now()
				w.loop.Close(w.Context())
				if d := time.Since(start); d > c.most {
					t.Errorf("Close took %v, want %v", d, c.most)
				}
			})
		})
	}
}

func TestCallersGiveUp(t *testing.T) {
	simulate(t, func(w *world) {
		w.replica.commit(1)
		w.remote.onPush = func(ctx context.Context, _ Batch) error { return hang(ctx) }
		w.start(Config{Pull: PullManual, Push: PushManual})
		ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
		defer cancel()
		if err := w.loop.Push(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Push: %v, want its context's error", err)
		}
		w.remote.set(func() { w.remote.onPush = nil })
		w.state(Running) // giving up is not the remote's fault
		if err := w.loop.Push(w.Context()); err != nil {
			t.Errorf("Push: %v", err)
		}
		w.remote.each(1)
	})
}

func TestWaitGivesTheLastError(t *testing.T) {
	simulate(t, func(w *world) {
		w.replica.commit(1)
		w.remote.onPush = func(context.Context, Batch) error { return errors.New("no route to host") }
		w.start(quiet)
		ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
		defer cancel()
		err := w.loop.Wait(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no route") {
			t.Errorf("Wait: %v, want both errors", err)
		}
	})
}

// TestRunningAfterWait: what Wait has brought to the remote shows that it is there,
// whatever became of a pull before.
func TestRunningAfterWait(t *testing.T) {
	for _, cfg := range []Config{quiet, {PullInterval: time.Hour}, {Push: PushManual, Pull: PullManual}} {
		simulate(t, func(w *world) {
			w.start(cfg)
			w.remote.set(func() { w.remote.onPull = func(context.Context) error { return errors.New("unreachable") } })
			if err := w.loop.Pull(w.Context()); err == nil {
				w.Error("the pull succeeded")
			}
			w.state(Offline)
			w.remote.set(func() { w.remote.onPull = nil })
			w.replica.commit(1)
			if err := w.loop.Wait(w.Context()); err != nil {
				w.Error(err)
			}
			w.state(Running)
		})
	}
}

func TestWaitInManualMode(t *testing.T) {
	simulate(t, func(w *world) {
		w.start(Config{Push: PushManual, Pull: PullManual})
		w.replica.commit(1)
		w.pass(time.Hour)
		w.remote.each(1, 1)
		if err := w.loop.Wait(w.Context()); err != nil {
			t.Errorf("Wait: %v", err)
		}
		w.remote.each(1)
	})
}

func TestWithoutRemote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, remote := newFakeReplica(t), newFakeRemote(t)
		l := NewScheduler(1).Start(r, nil, Config{Judge: judge, CheckpointBytes: 3 * 4096})
		r.loop = l
		if err := l.Push(t.Context()); !errors.Is(err, ErrNoRemote) {
			t.Errorf("Push: %v, want ErrNoRemote", err)
		}
		for range 3 {
			r.commit(1)
		}
		time.Sleep(2 * measureDelay)
		synctest.Wait()
		if r.checkpoints != 1 {
			t.Errorf("%d checkpoints, want 1: the WAL has grown", r.checkpoints)
		}
		if err := l.SetRemote(t.Context(), remote); err != nil {
			t.Fatal(err)
		}
		if err := l.Wait(t.Context()); err != nil {
			t.Errorf("Wait: %v", err)
		}
		remote.each(3)
		l.Close(t.Context())
	})
}

// TestPoolIsBounded runs many replicas on few places.
func TestPoolIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const replicas, places = 200, 4
		remote := newFakeRemote(t)
		remote.latency = 10 * time.Millisecond
		s := NewScheduler(places)
		var loops []*Loop
		for i := range replicas {
			r := newFakeReplica(t)
			r.clientID = string(rune('A' + i))
			l := s.Start(r, remote, Config{Judge: judge, Pull: PullLongPoll})
			r.mu.Lock()
			r.loop = l
			r.mu.Unlock()
			r.commit(1)
			loops = append(loops, l)
		}
		for _, l := range loops {
			if err := l.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if remote.maxRunning > places {
			t.Errorf("%d requests at once, want at most %d", remote.maxRunning, places)
		}
		if got := remote.arrived[1]; got != replicas {
			t.Errorf("%d of %d arrived", got, replicas)
		}
		for _, l := range loops {
			go l.Close(t.Context())
		}
		for _, l := range loops {
			<-l.done
		}
	})
}

func TestSlowSubscriber(t *testing.T) {
	simulate(t, func(w *world) {
		w.start(quiet)
		events := w.loop.Events(w.Context())
		for i := range eventsMax + 10 {
			w.loop.Publish(Pushed{Through: cdc.ID(i)})
		}
		w.loop.Close(w.Context())
		got := slices.Collect(events)
		if m, ok := got[0].(Missed); !ok || m.Count != 11 { // one of them for StatusChanged
			t.Errorf("first event is %#v, want Missed{11}", got[0])
		}
		if len(got) != eventsMax+1 {
			t.Errorf("%d events, want %d", len(got), eventsMax+1)
		}
	})
}

func TestEventsEndWithTheirContext(t *testing.T) {
	simulate(t, func(w *world) {
		w.start(quiet)
		ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
		defer cancel()
		for e := range w.loop.Events(ctx) {
			t.Errorf("unexpected event %#v", e)
		}
		synctest.Wait()
		if n := len(w.loop.subscribers); n != 0 {
			t.Errorf("%d subscribers left", n)
		}
	})
}

// TestReplayErrorHalts shows that a pull which cannot keep a pending transaction
// asks for a decision, and goes on after it.
func TestReplayErrorHalts(t *testing.T) {
	simulate(t, func(w *world) {
		w.remote.onPull = func(context.Context) error {
			return &ReplayError{Txn: 1, Changes: insertTxn(1, 1).Changes, Err: errors.New("UNIQUE constraint failed")}
		}
		w.replica.commit(1)
		w.start(Config{Push: PushManual})
		w.pass(time.Hour)
		w.state(Halted)
		if s := w.loop.Status(); s.Txn != 1 || w.remote.count(&w.remote.pulls) != 1 {
			t.Errorf("status = %v after %d pulls, want transaction 1 and one pull", s, w.remote.count(&w.remote.pulls))
		}
		w.remote.set(func() { w.remote.onPull = nil })
		if err := w.loop.Skip(w.Context()); err != nil {
			t.Fatal(err)
		}
		w.pass(time.Minute)
		w.state(Running)
		if len(w.replica.rejected) != 1 || w.remote.count(&w.remote.pulls) < 2 {
			t.Errorf("rejected %v, %d pulls", w.replica.rejected, w.remote.count(&w.remote.pulls))
		}
	})
}

// TestPullFirstTwice: a push may need a pull to tell what is pending, and, since it finds
// its watermark gone then, another.
func TestPullFirstTwice(t *testing.T) {
	simulate(t, func(w *world) {
		w.replica.commit(1)
		w.replica.pullFirst, w.replica.known, w.replica.watermark = true, true, 0
		w.start(Config{Push: PushManual, Pull: PullManual})
		if err := w.loop.Push(w.Context()); err != nil {
			t.Errorf("Push: %v", err)
		}
		w.remote.each(1)
		if n := w.remote.count(&w.remote.pulls); n != 2 {
			t.Errorf("%d pulls, want 2", n)
		}
	})
}
