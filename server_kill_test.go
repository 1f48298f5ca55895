package tursosync_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/internal/realtest"
)

// TestServerKills: `tursosync serve` is killed (SIGKILL) while replicas push and
// pull, and started again, many times. No push that was acknowledged is lost, nothing
// is there twice, replicas go on by themselves, and what the server knows of its
// history is right: in each round the bases of the replicas that lived through it are
// those of a fresh one, byte for byte, and not fetched as a whole.
// TURSOSYNC_SEED repeats the moments of the kills.
func TestServerKills(t *testing.T) {
	rounds := 8
	if testing.Short() {
		rounds = 4
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(crashSeedEnv); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	// Checkpoints all the time, in which it may die as well.
	r := startProgram(t, realtest.ServeOptions{Kill: true, Flags: []string{"-checkpoint-bytes", "100000"}})
	sides := []*side{open(t, r), open(t, r), open(t, r)}
	sides[0].exec(`CREATE TABLE bag(who, n, pad)`, `CREATE TABLE last(who PRIMARY KEY, n)`,
		`CREATE TABLE ballast(id INTEGER PRIMARY KEY, b)`,
		`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO ballast SELECT i, randomblob(3000) FROM n`)
	for _, s := range sides {
		s.sync()
	}
	var gate sync.RWMutex // held for writing while nobody may write, push or pull
	var stop atomic.Bool
	var loops sync.WaitGroup
	var acked, pushes, pulls, failures [3]atomic.Int64
	for i, s := range sides {
		written := int64(0) // guarded by mu
		var mu sync.Mutex
		each := func(f func()) {
			loops.Go(func() {
				for !stop.Load() {
					gate.RLock()
					f()
					gate.RUnlock()
					time.Sleep(2 * time.Millisecond)
				}
			})
		}
		each(func() {
			mu.Lock()
			defer mu.Unlock()
			written++
			if _, err := s.db.Exec(fmt.Sprintf(`BEGIN; INSERT INTO bag VALUES (%d, %d, randomblob(700)); INSERT INTO last VALUES (%[1]d, %[2]d) ON CONFLICT DO UPDATE SET n = excluded.n;
				UPDATE ballast SET b = randomblob(3000) WHERE id = %[3]d; COMMIT`, i, written, 1+(written*3+int64(i))%300)); err != nil {
				t.Errorf("write: %v", err)
			}
		})
		each(func() {
			mu.Lock()
			n := written
			mu.Unlock()
			if err := s.r.Push(t.Context()); err != nil {
				failures[i].Add(1)
				return
			}
			pushes[i].Add(1)
			acked[i].Store(n)
		})
		each(func() {
			if err := s.r.Pull(t.Context()); err != nil {
				failures[i].Add(1)
				return
			}
			pulls[i].Add(1)
		})
	}
	defer loops.Wait()
	defer stop.Store(true)
	remote := sqlOf(r)
	whole := 0
	for round := range rounds {
		before := pulls[0].Load() + pushes[1].Load()
		for begun := time.Now(); pulls[0].Load()+pushes[1].Load() < before+4 && time.Since(begun) < 10*time.Second; {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(rnd.IntN(60)) * time.Millisecond) // the moment is what varies
		r.Stop()
		var known [3]int64
		for i := range known {
			known[i] = acked[i].Load()
		}
		r.Start()
		for i, n := range known {
			if got := remote.Query(t, `SELECT count(*) FROM bag WHERE who = ? AND n <= ?`, int64(i), n)[0][0]; got != n {
				t.Fatalf("round %d: the server has %v of the %d rows that side %d pushed", round, got, n, i)
			}
		}
		gate.Lock()
		received := make([]int64, len(sides))
		for i, s := range sides {
			received[i] = stats(s).Received
			s.sync()
		}
		fresh := open(t, r)
		fresh.pull()
		for i, s := range sides {
			s.pull()
			if got, want := digest(t, s.path+"-base"), digest(t, fresh.path+"-base"); got != want {
				t.Fatalf("round %d: base of side %d is %s, of a fresh replica %s", round, i, got, want)
			}
			if stats(s).Received-received[i] >= stats(fresh).BaseBytes {
				whole++
			}
		}
		if err := fresh.db.Close(); err != nil {
			t.Error(err)
		}
		gate.Unlock()
	}
	stop.Store(true)
	loops.Wait()
	converge(t, r, sides...)
	for i := range sides {
		sides[0].want(fmt.Sprintf(`SELECT count(*) = max(n), count(DISTINCT n) = max(n), max(n) >= %d FROM bag WHERE who = %d`, acked[i].Load(), i), "1|1|1")
		t.Logf("side %d: %d pushes, %d pulls, %d failures, %d rows acknowledged", i, pushes[i].Load(), pulls[i].Load(), failures[i].Load(), acked[i].Load())
	}
	t.Logf("%d rounds, in which replicas took everything anew %d times", rounds, whole)
	if whole > rounds*len(sides)/2 {
		t.Errorf("%d times of %d a replica took everything anew", whole, rounds*len(sides))
	}
}

func stats(s *side) tursosync.Stats {
	s.Helper()
	out, err := s.r.Stats(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	return out
}
