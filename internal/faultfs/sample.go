package faultfs

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// Environment of the sweeps.
const (
	fullEnv = "TURSOSYNC_SWEEP_FULL" // every operation fails in turn, not a sample
	seedEnv = "TURSOSYNC_SWEEP_SEED" // repeats a sample
	atEnv   = "TURSOSYNC_SWEEP_AT"   // this operation only
)

// Sample says which of n operations a test lets fail: every so-many-th, from a
// random one on. The environment says otherwise: TURSOSYNC_SWEEP_FULL=1 for all of
// them, TURSOSYNC_SWEEP_AT=k for one, TURSOSYNC_SWEEP_SEED to repeat a sample.
func Sample(t testing.TB, n, every int) []int {
	t.Helper()
	if at, err := strconv.Atoi(os.Getenv(atEnv)); err == nil {
		if at < 1 || at > n {
			return nil
		}
		return []int{at}
	}
	if testing.Short() {
		every *= 4
	}
	if os.Getenv(fullEnv) != "" {
		every = 1
	}
	seed, err := strconv.ParseUint(os.Getenv(seedEnv), 10, 64)
	if err != nil {
		seed = rand.Uint64N(1 << 32)
	}
	var list []int
	for at := 1 + int(seed%uint64(every)); at <= n; at += every {
		list = append(list, at)
	}
	t.Logf("%d operations, %d of them fail, one at a time; %s=%d repeats it", n, len(list), seedEnv, seed)
	return list
}

// TempDir is t.TempDir in memory, where there is such a place: a process that is
// killed loses nothing of what it has written to a file, and a sync that fails
// fails without a disk. Tests that run a session a thousand times would else wait
// for the disk most of the time.
func TempDir(t testing.TB) string {
	t.Helper()
	const memory = "/dev/shm"
	if info, err := os.Stat(memory); err != nil || !info.IsDir() {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(memory, "tursosync-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove %s: %v", dir, err)
		}
	})
	return dir
}
