package sim

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tursosync/tursosync/internal/faultfs"
)

// The variables of the package comment.
const (
	seedEnv   = "TURSOSYNC_SEED"
	scriptEnv = "TURSOSYNC_SIM_SCRIPT"
	timeEnv   = "TURSOSYNC_SIM_TIME"
	reportEnv = "TURSOSYNC_SIM_REPORT"

	noShrinkEnv = "TURSOSYNC_SIM_NOSHRINK"
)

// scratch returns a folder for the files of a run, in memory if there is such a
// file system: what a disk does when the power fails is played, not tried.
func scratch(t testing.TB) string {
	t.Helper()
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		if dir, err := os.MkdirTemp("/dev/shm", "tursosync-sim-"); err == nil {
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			return dir
		}
	}
	return t.TempDir()
}

// play runs a script in a bubble of simulated time. The bubble does not end before
// all of its goroutines have: one that leaks is a deadlock.
func play(t *testing.T, s script, trace func(string, ...any)) (st stats, err error) {
	root, err := os.MkdirTemp(scratch(t), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := faultfs.Register(); err != nil {
		t.Fatal(err)
	}
	before := openFiles(t)
	synctest.Test(t, func(*testing.T) { st, err = s.run(root, trace) })
	if err == nil && before >= 0 {
		if after := openFiles(t); after > before {
			err = &violation{fmt.Sprintf("%d files are left open", after-before)}
		}
	}
	return st, err
}

// openFiles counts the open files of the process; less than 0 where that cannot be
// told.
func openFiles(t *testing.T) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		return -1
	}
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(list)
}

func quiet(string, ...any) {}

func loud(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func command(seed uint64, mode string) string {
	return fmt.Sprintf("%s=%d go test ./internal/sim -run TestSim/%s", seedEnv, seed, mode)
}

// TestSim plays random scripts. How many, or for how long, is said by the variables
// of the package comment.
func TestSim(t *testing.T) {
	switch {
	case os.Getenv(scriptEnv) != "":
		playFile(t, os.Getenv(scriptEnv), loud)
	case os.Getenv(seedEnv) != "":
		seed, err := strconv.ParseUint(os.Getenv(seedEnv), 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", seedEnv, err)
		}
		for _, m := range modes {
			t.Run(m.name, func(t *testing.T) { playSeed(t, m, seed, loud) })
		}
	case os.Getenv(timeEnv) != "":
		d, err := time.ParseDuration(os.Getenv(timeEnv))
		if err != nil {
			t.Fatalf("%s: %v", timeEnv, err)
		}
		soak(t, d)
	default:
		for _, m := range modes {
			n := m.seeds
			if testing.Short() {
				n = m.short
			}
			t.Run(m.name, func(t *testing.T) {
				total := stats{faults: map[string]int{}}
				var memory growth
				for seed := uint64(1); seed <= uint64(n) && !t.Failed(); seed++ {
					st := playSeed(t, m, seed, quiet)
					total.add(&st)
					if err := memory.ended(); err != nil && !t.Failed() {
						t.Error(err)
					}
				}
				t.Log(total.String())
			})
		}
	}
}

// mode is a way to make scripts of seeds.
type mode struct {
	name         string
	seeds, short int // of go test, and with -short
	generate     func(seed uint64) script
}

var modes = []mode{
	{"steps", 40, 6, generate},
	{"background", 12, 2, generateBackground},
}

// playSeed plays the script of a seed, and makes the smallest script of it that fails
// if it does.
func playSeed(t *testing.T, m mode, seed uint64, trace func(string, ...any)) stats {
	t.Helper()
	s := m.generate(seed)
	st, err := play(t, s, trace)
	if err == nil {
		return st
	}
	t.Errorf("%v\nrepeat: %s", err, command(seed, m.name))
	if os.Getenv(noShrinkEnv) != "" {
		return st
	}
	small, err := shrink(t, s, time.Minute)
	if err == nil {
		t.Log("it does not fail every time: there is no smaller script")
		return st
	}
	t.Logf("the smallest script that fails has %d of %d steps: %v\n%v", len(small.Steps), len(s.Steps), err, small)
	file := filepath.Join(os.TempDir(), fmt.Sprintf("tursosync-sim-%s-%d.json", m.name, seed))
	if text, err := json.MarshalIndent(small, "", " "); err == nil && os.WriteFile(file, text, 0o600) == nil {
		t.Logf("repeat that: %s=%s go test ./internal/sim -run TestSim", scriptEnv, file)
	}
	return st
}

func playFile(t *testing.T, file string, trace func(string, ...any)) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var s script
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if _, err := play(t, s, trace); err != nil {
		t.Errorf("%s: %v", file, err)
	}
}

// shrink leaves out of a script that fails what it fails without, for about as long
// as d. err is what the smallest fails with; nil: it did not fail again.
func shrink(t *testing.T, s script, d time.Duration) (small script, err error) {
	end := time.Now().Add(d)
	try := func(c script) bool {
		if time.Now().After(end) {
			return false
		}
		if _, e := play(t, c, quiet); e != nil {
			small, err = c, e
			return true
		}
		return false
	}
	if !try(s) {
		return s, nil
	}
	// What fails at step n needs nothing behind it.
	for size := (len(small.Steps) + 1) / 2; size > 0; size /= 2 {
		for from := len(small.Steps) - size; from > -size; from -= size {
			c := small
			c.Steps = slices.Delete(slices.Clone(small.Steps), max(from, 0), from+size)
			try(c)
		}
	}
	for i := range small.Steps {
		simpler := func(change func(x *step)) {
			c := small
			c.Steps = slices.Clone(small.Steps)
			change(&c.Steps[i])
			try(c)
		}
		x := small.Steps[i]
		if x.At.Kind != "" {
			simpler(func(x *step) { x.At = at{} })
		}
		if x.Again.Kind != "" {
			simpler(func(x *step) { x.Again = at{} })
		}
		for range x.Net {
			simpler(func(x *step) {
				if len(x.Net) > 0 {
					x.Net = x.Net[1:]
				}
			})
		}
		if x.N > 1 {
			simpler(func(x *step) { x.N = 1 })
		}
	}
	return small, err
}

// soak plays new seeds for a time and writes a report.
func soak(t *testing.T, d time.Duration) {
	t.Helper()
	start := time.Now()
	total := stats{faults: map[string]int{}}
	first := uint64(start.UnixNano())
	var failures []string
	var memory growth
	for i := uint64(0); time.Since(start) < d && len(failures) < 5; i++ {
		m := modes[i%uint64(len(modes))]
		seed := first + i
		t.Run(fmt.Sprintf("%s/seed=%d", m.name, seed), func(t *testing.T) {
			st := playSeed(t, m, seed, quiet)
			total.add(&st)
			if t.Failed() {
				failures = append(failures, command(seed, m.name))
			}
			if err := memory.ended(); err != nil {
				t.Error(err)
				failures = append(failures, err.Error())
			}
		})
	}
	report := fmt.Sprintf("simulation: %v, seeds from %d\n%s\n%d failures\n%s", time.Since(start).Round(time.Second), first, total.String(),
		len(failures), strings.Join(failures, "\n"))
	t.Log(report)
	if file := os.Getenv(reportEnv); file != "" {
		if err := os.WriteFile(file, []byte(report+"\n"), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// String is the report of what was done.
func (s *stats) String() string {
	var b strings.Builder
	n := 0
	kinds := slices.Sorted(maps.Keys(s.faults))
	for _, k := range kinds {
		n += s.faults[k]
	}
	fmt.Fprintf(&b, "seeds %d, steps %d, commits %d (%d reached the remote), requests %d, checks %d\n", s.seeds, s.steps, s.commits, s.pushed, s.requests, s.checks)
	fmt.Fprintf(&b, "crashes survived %d, crashes while recovering %d, faults %d:", s.crashes, s.crashesAgain, n)
	for i, k := range kinds {
		if i%6 == 0 {
			b.WriteString("\n ")
		}
		fmt.Fprintf(&b, " %s %d", k, s.faults[k])
	}
	return b.String()
}

// TestFound plays the scripts that have found something, in the product or in here.
func TestFound(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { playFile(t, file, quiet) })
	}
}
