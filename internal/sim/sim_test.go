package sim

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
)

// scratch returns a folder for the files of a run, in memory if there is such a
// file system: what counts here is not what a disk does.
func scratch(t *testing.T) string {
	t.Helper()
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		if dir, err := os.MkdirTemp("/dev/shm", "tursosync-sim-"); err == nil {
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			return dir
		}
	}
	return t.TempDir()
}

// play runs a script in a bubble of simulated time.
func play(t *testing.T, s script, trace func(string, ...any)) (st stats, err error) {
	root := scratch(t)
	synctest.Test(t, func(*testing.T) { st, err = s.run(root, trace) })
	return st, err
}

func quiet(string, ...any) {}

func TestSim(t *testing.T) {
	seeds := []uint64{1, 2, 3, 4, 5, 6, 7, 8}
	trace := quiet
	if text := os.Getenv("TURSOSYNC_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = []uint64{seed}
		trace = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			s := generate(seed)
			st, err := play(t, s, trace)
			if err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
			t.Logf("%+v", st)
		})
	}
}
