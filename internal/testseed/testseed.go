// Package testseed gives random tests their seed.
package testseed

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// Env is the environment variable that gives a test back the seed it printed.
const Env = "TURSOSYNC_SEED"

// New returns the seed of a test, a new one unless Env is set, and prints how to
// repeat it.
func New(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv(Env); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", Env, err)
		}
	}
	t.Logf("%s=%d go test -run '^%s$' repeats it", Env, seed, t.Name())
	return seed
}
