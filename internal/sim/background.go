package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing/synctest"
	"time"

	"github.com/tursosync/tursosync"
)

// autoConfig says how replicas sync by themselves.
type autoConfig struct {
	seed    uint64
	calm    bool // no more faults
	trouble int
}

// configure gives each replica a way to sync of its own, the same at each opening.
func (c *autoConfig) configure(r *replica, cfg *tursosync.Config) {
	rnd := rand.New(rand.NewPCG(c.seed, uint64(len(r.name))*100+uint64(r.name[len(r.name)-1])))
	cfg.Sync = tursosync.SyncAuto
	switch rnd.IntN(3) {
	case 0:
		cfg.LongPoll = time.Duration(1+rnd.IntN(60)) * time.Second
	case 1:
		cfg.SyncInterval = time.Duration(1+rnd.IntN(60)) * time.Second
	}
	cfg.PushDelay = []time.Duration{0, tursosync.Off, 10 * time.Millisecond, 5 * time.Second}[rnd.IntN(4)]
	r.net.mu.Lock()
	defer r.net.mu.Unlock()
	r.net.rnd = rand.New(rand.NewPCG(c.seed, rnd.Uint64()))
	if !c.calm {
		r.net.trouble = c.trouble
	}
}

// generateBackground makes a script for replicas that sync by themselves. What happens
// when depends on the scheduler of Go as well, so that a seed repeats much, not all.
func generateBackground(seed uint64) script {
	rnd := rand.New(rand.NewPCG(seed, 0xba))
	s := script{Replicas: 2 + rnd.IntN(3), Checkpoint: []int64{0, 1, 100_000}[rnd.IntN(3)], Auto: true, Seed: seed}
	kinds := []struct {
		kind   string
		weight int
	}{
		{"commit", 40}, {"wait", 40}, {"crash", 3}, {"power", 2}, {"reopen", 3}, {"offline", 4}, {"online", 6}, {"restart", 2}, {"kill", 2},
		{"remote", 4}, {"deliver", 4}, {"huge", 1}, {"tiny", 1}, {"foreign", 2}, {"check", 10}, {"checkpoint", 3}, {"push", 3}, {"pull", 3}, {"clock", 3},
	}
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	for range 60 + rnd.IntN(120) {
		x := step{Replica: rnd.IntN(s.Replicas), Seed: rnd.Uint64(), N: 1 + rnd.IntN(4)}
		pick := rnd.IntN(total)
		for _, k := range kinds {
			if pick -= k.weight; pick < 0 {
				x.Kind = k.kind
				break
			}
		}
		if x.Kind == "wait" { // milliseconds
			x.N = []int{1 + rnd.IntN(10), 1 + rnd.IntN(300), 1 + rnd.IntN(10_000), 1 + rnd.IntN(120_000)}[rnd.IntN(4)]
		}
		s.Steps = append(s.Steps, x)
	}
	return s
}

// restTime is longer than the longest backoff, and than an interval of pulls behind it.
const restTime = 10 * time.Minute

// background runs the script while replicas sync, and readers read, by themselves.
func (s script) background(w *world) error {
	w.auto.calm = true
	if err := w.setUp(s.Replicas); err != nil {
		return err
	}
	w.auto.calm, w.auto.trouble = false, int(s.Seed%4)*10
	for _, r := range w.replicas {
		r.net.mu.Lock()
		r.net.trouble = w.auto.trouble
		r.net.mu.Unlock()
	}
	stop := w.watch(s.Seed)
	defer stop()
	for i, x := range s.Steps {
		w.trace("%3d %v", i, x)
		w.stats.steps++
		if err := w.autoStep(x); err != nil {
			return fmt.Errorf("step %d: %v: %w", i, x, err)
		}
		if err := w.failed(); err != nil {
			return fmt.Errorf("step %d: %v: %w", i, x, err)
		}
	}
	w.trace("    to rest")
	w.auto.calm = true
	for _, r := range w.replicas {
		r.net.mu.Lock()
		r.net.offline, r.net.trouble = false, 0
		r.net.mu.Unlock()
	}
	if err := w.do(step{Kind: "deliver"}, nil, rand.New(rand.NewPCG(1, 1))); err != nil {
		return err
	}
	stop()
	// Whatever was, all is well again some time after the network is.
	time.Sleep(restTime)
	synctest.Wait()
	for _, r := range w.replicas {
		if st := r.handle.Status(); st.State != tursosync.Running {
			return &violation{fmt.Sprintf("status of %s is %q %v after the last fault", r.name, st, restTime)}
		}
	}
	if err := w.failed(); err != nil {
		return err
	}
	return w.checkRest()
}

func (w *world) autoStep(x step) error {
	r := w.replicas[x.Replica%len(w.replicas)]
	rnd := rand.New(rand.NewPCG(x.Seed, 1))
	switch x.Kind {
	case "wait":
		time.Sleep(time.Duration(x.N) * time.Millisecond)
		return nil
	case "offline", "online":
		r.net.mu.Lock()
		r.net.offline = x.Kind == "offline"
		r.net.mu.Unlock()
		return nil
	case "clock":
		w.setClock(rnd)
		return nil
	case "check":
		return w.checkAll()
	case "push", "pull", "checkpoint":
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(x.N)*time.Second)
		defer cancel()
		switch x.Kind {
		case "push":
			_ = r.handle.Push(ctx)
		case "pull":
			_ = r.handle.Pull(ctx)
		default:
			return r.handle.Checkpoint(context.Background())
		}
		return nil
	}
	// The model of live is that of this moment: nothing may move meanwhile.
	synctest.Wait()
	live, err := readAll(r.db)
	if err != nil {
		return err
	}
	r.live = live
	switch x.Kind {
	case "crash", "power", "reopen", "restart", "kill", "remote", "deliver", "foreign":
		r.reading.Lock()
		defer r.reading.Unlock()
		if x.Kind == "restart" || x.Kind == "kill" {
			w.host.srv.Drain()
			synctest.Wait()
		}
		if err := w.do(x, r, rnd); err != nil {
			return err
		}
		return w.settleDoubt(r)
	case "huge":
		return w.commit(ctx0, r, rnd, 200)
	}
	n := x.N
	if x.Kind == "tiny" {
		n = 30
	}
	for range n {
		err := w.commitOne(ctx0, r, rnd)
		if err != nil {
			return err
		}
		// A pull may have come in between.
		synctest.Wait()
		if r.live, err = readAll(r.db); err != nil {
			return err
		}
	}
	return nil
}

// checkAll checks all replicas at a moment when nothing moves: all wait for the network
// or for time to pass.
func (w *world) checkAll() error {
	synctest.Wait()
	for _, r := range w.replicas {
		if err := w.checkReplica(r); err != nil {
			return err
		}
	}
	w.serial <- struct{}{}
	defer func() { <-w.serial }()
	return w.checkRemote()
}

// watch starts readers that look at every state they can get hold of.
func (w *world) watch(seed uint64) (stop func()) {
	done := make(chan struct{})
	var all sync.WaitGroup
	for i, r := range w.replicas {
		rnd := rand.New(rand.NewPCG(seed, uint64(i)))
		all.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(time.Duration(1+rnd.IntN(1000<<rnd.IntN(6))) * time.Millisecond):
				}
				if err := w.readOnce(r); err != nil {
					w.report(err)
				}
			}
		})
	}
	var once sync.Once
	return func() {
		once.Do(func() {
			close(done)
			all.Wait()
		})
	}
}

func (w *world) readOnce(r *replica) error {
	if !r.reading.TryLock() {
		return nil // it is being opened
	}
	defer r.reading.Unlock()
	if r.db == nil {
		return nil
	}
	tx, err := r.db.Begin()
	if err != nil {
		return fmt.Errorf("reader of %s: %w", r.name, err)
	}
	defer tx.Rollback()
	s, err := readAll(tx)
	if err != nil {
		return fmt.Errorf("reader of %s: %w", r.name, err)
	}
	if err := w.checkSound("a reader of "+r.name, s); err != nil {
		return err
	}
	again, err := readAll(tx)
	if err != nil {
		return fmt.Errorf("reader of %s: %w", r.name, err)
	}
	if d := compare(again, s); d != "" {
		return errors.New("a reader of " + r.name + " sees two states in one transaction:\n\t" + d)
	}
	return nil
}
