package sim

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/tursosync/tursosync/internal/fault"
)

// The wall clock of the world jumps, forward and back: that of replicas and server,
// where they read it (fault.Now), and that of the file system when somebody else has
// written to a closed file. What counts intervals does not jump: no system lets it.

// setClock puts the wall clock somewhere else.
func (w *world) setClock(rnd *rand.Rand) {
	most := []time.Duration{time.Second, time.Minute, 48 * time.Hour, 30 * 365 * 24 * time.Hour}[rnd.IntN(4)]
	d := time.Duration(rnd.Int64N(int64(2*most))) - most
	w.trace("    the clock is off by %v", d)
	if d < w.clock {
		w.stats.faults["clock.back"]++
	} else {
		w.stats.faults["clock.ahead"]++
	}
	w.clock = d
	fault.SetClock(d)
}

// sameTick lets write change files in a folder while their programs are not running,
// on a machine whose clock was set back just so that they get the time that they had,
// as exactly as a file system tells it.
func sameTick(dir string, write func() error) error {
	before := map[string]time.Time{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		before[e.Name()] = info.ModTime()
	}
	if err := write(); err != nil {
		return err
	}
	for name, t := range before {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.ModTime().Equal(t) {
			continue
		}
		if err := os.Chtimes(filepath.Join(dir, name), time.Time{}, t.Truncate(time.Millisecond)); err != nil {
			return err
		}
	}
	return nil
}

// visit lets another program write to live while the replica is closed.
func (w *world) visit(r *replica, rnd *rand.Rand) error {
	if r.fuzzy {
		return nil
	}
	w.forget(r)
	if err := r.close(); err != nil {
		return err
	}
	if err := sameTick(r.dir, func() error { return w.foreign(r, rnd) }); err != nil {
		return err
	}
	return r.open()
}

// tamper lets another program write to the remote's file while the server is stopped.
func (w *world) tamper(rnd *rand.Rand) error {
	if err := w.stopServer(); err != nil {
		return err
	}
	if err := sameTick(w.host.dir, func() error { return w.remote(rnd) }); err != nil {
		return err
	}
	if err := w.startServer(w.host.dir); err != nil {
		return err
	}
	return w.tap()
}
