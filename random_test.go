package tursosync_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/tursosync/tursosync"
)

// TestRandomReplicas: replicas converge. Three of them write rows with and without
// keys, unique values, triggers and migrations, push, pull and reopen in random
// order; what halts is skipped. At rest all contents and base digests are equal.
// One seed alone: TURSOSYNC_SEED=7 go test -run TestRandomReplicas .
func TestRandomReplicas(t *testing.T) {
	seeds := []uint64{1, 2, 3}
	if text := os.Getenv("TURSOSYNC_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = []uint64{seed}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			eachRemote(t, func(t *testing.T, r remote) {
				w := &randomWorld{T: t, rnd: rand.New(rand.NewPCG(seed, seed))}
				for range 3 {
					w.sides = append(w.sides, open(t, r))
				}
				w.sides[0].exec(`CREATE TABLE u(id INTEGER PRIMARY KEY, m TEXT UNIQUE, n INTEGER UNIQUE)`,
					`CREATE TABLE bag(who, n, x)`, `CREATE TABLE pair(a, b, x, PRIMARY KEY(a, b))`,
					`CREATE TABLE counted(id TEXT PRIMARY KEY, n)`, `CREATE TABLE log(what)`,
					`CREATE TRIGGER counted_ins AFTER INSERT ON counted BEGIN INSERT INTO log VALUES (new.id); END`,
					`CREATE TRIGGER counted_upd AFTER UPDATE ON counted BEGIN INSERT INTO log VALUES ('again ' || new.id); END`)
				for _, s := range w.sides {
					s.sync()
				}
				for range 100 {
					w.step()
				}
				for range 3 { // skipped transactions may take others with them
					for _, s := range w.sides {
						w.settle(s, s.trySync())
					}
				}
				converge(t, r, w.sides...)
			})
		})
	}
}

type randomWorld struct {
	*testing.T
	rnd    *rand.Rand
	sides  []*side
	serial int
	added  int // columns
}

// step lets one side do one thing. Statements may fail: constraints, tables that
// are not there. What a failed BEGIN…COMMIT leaves open, the driver rolls back.
func (w *randomWorld) step() {
	who := w.rnd.IntN(len(w.sides))
	s := w.sides[who]
	w.serial++
	n := w.rnd.IntN
	try := func(format string, args ...any) { _, _ = s.db.Exec(fmt.Sprintf(format, args...)) }
	switch n(20) {
	case 0, 1:
		try(`INSERT INTO u VALUES (%d, 'm%d', %d)`, n(12), n(10), n(10))
	case 2:
		try(`UPDATE OR REPLACE u SET m = 'm%d' WHERE id = %d`, n(10), n(12))
	case 3: // swap two unique values
		a, b := n(10), n(10)
		try(`BEGIN; UPDATE u SET n = -1 WHERE n = %d; UPDATE u SET n = %[1]d WHERE n = %d; UPDATE u SET n = %[2]d WHERE n = -1; COMMIT`, a, b)
	case 4:
		try(`DELETE FROM u WHERE id = %d`, n(12))
	case 5:
		try(`UPDATE u SET id = id + 1 WHERE id = (SELECT max(id) FROM u)`)
	case 6, 7:
		try(`INSERT INTO bag(who, n, x) VALUES (%d, %d, 0)`, who, w.serial)
	case 8:
		try(`UPDATE bag SET x = x + 1 WHERE n %% 3 = %d`, n(3))
	case 9:
		try(`DELETE FROM bag WHERE who = %d AND n %% 5 = %d`, who, n(5))
	case 10:
		try(`BEGIN; REPLACE INTO pair VALUES (%d, NULL, 1), (%d, %d, 2); UPDATE pair SET x = x + 1 WHERE a = %d; COMMIT`, n(3), n(3), n(3), n(3))
	case 11:
		try(`INSERT INTO counted VALUES ('%d', 1) ON CONFLICT DO UPDATE SET n = n + 1`, n(6))
	case 12: // a migration that some run on their own
		if w.added++; w.added <= 3 {
			w.some(s, fmt.Sprintf(`ALTER TABLE bag ADD COLUMN c%d DEFAULT 'd'`, w.added))
		}
	case 13:
		w.some(s, fmt.Sprintf(`CREATE TABLE t%d(id INTEGER PRIMARY KEY, v); INSERT INTO t%[1]d(v) VALUES (%d)`, n(3), w.serial))
	case 14:
		try(`DROP TABLE t%d`, n(3))
	case 15:
		try(`UPDATE t%d SET v = %d`, n(3), w.serial)
	case 16:
		try(`CREATE INDEX IF NOT EXISTS bag_n%d ON bag(n, who)`, n(2))
	case 17:
		w.settle(s, s.r.Push(w.Context()))
	case 18:
		w.settle(s, s.r.Pull(w.Context()))
	case 19:
		if n(4) == 0 {
			s.reopen()
		}
	}
}

// some runs statements on s and, by chance, on others.
func (w *randomWorld) some(s *side, text string) {
	for _, x := range w.sides {
		if x == s || w.rnd.IntN(2) == 0 {
			_, _ = x.db.Exec(text)
		}
	}
}

// settle skips what halts a side.
func (w *randomWorld) settle(s *side, err error) {
	w.Helper()
	var rejected *tursosync.RejectedError
	for range 50 {
		if err == nil || errors.As(err, &rejected) {
			return
		}
		if s.r.Status().State != tursosync.Halted {
			w.Fatal(err)
		}
		if err := s.r.Skip(w.Context()); err != nil {
			w.Fatal(err)
		}
		err = s.trySync()
	}
	w.Fatalf("it halts for ever: %v", err)
}
