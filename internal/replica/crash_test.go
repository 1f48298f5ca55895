package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/faultfs"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/syncer"
)

// Each durable step is a named fault point. A scenario is run once to learn
// which points it passes; then once for each point, the first and the last time
// that it is passed, with the process killed there (SIGKILL: nothing is flushed or
// closed), and once with the step failing as on a full disk. Afterwards the
// invariant must hold, nothing that was committed may be missing, and the next
// pull must bring base and live to where they belong.

const crashEnv = "TURSOSYNC_REPLICA_CRASH"

// crashPlan is what the child process does.
type crashPlan struct {
	Scenario string
	Path     string
	Remote   []string // files, one for each revision from 1
	Point    string
	Pass     int // which pass of the point kills; 0: none, the points are printed
}

func TestMain(m *testing.M) {
	if plan := os.Getenv(crashEnv); plan != "" {
		if err := crashChild(plan); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func crashChild(text string) error {
	var plan crashPlan
	if err := json.Unmarshal([]byte(text), &plan); err != nil {
		return err
	}
	return faultfs.Dying(plan.Point, plan.Pass, func() error { return scenarios[plan.Scenario].run(plan) })
}

// scenario is something that happens to a replica.
type scenario struct {
	// prepare makes the files; its replica is closed afterwards.
	prepare func(t *testing.T, path string, rem *remote)
	// change is what happens on the remote in the meantime.
	change []string
	cfg    Config
	// steps are what is done with the open replica before it is closed; nil: pull
	// and checkpoint. A step that failed may be done again.
	steps []step
	// check looks for what must be there afterwards.
	check func(t *testing.T, rep *Replica)
	// reconcile: the remote has lost our watermark.
	reconcile bool
}

// step is an operation on a replica.
type step struct {
	name string
	do   func(ctx context.Context, rep *Replica, plan crashPlan) error
}

var pullAndCheckpoint = []step{
	{"pull", func(ctx context.Context, rep *Replica, plan crashPlan) error {
		_, err := rep.Pull(ctx, fileFetch(plan.Remote), syncer.PullOptions{})
		return err
	}},
	{"checkpoint", func(ctx context.Context, rep *Replica, _ crashPlan) error { return rep.Checkpoint(ctx) }},
}

// run opens the replica, does the steps up to the first that fails, and closes.
func (s scenario) run(plan crashPlan) error {
	ctx := context.Background()
	cfg := s.cfg
	cfg.Path = plan.Path
	rep, err := Open(ctx, cfg)
	if err != nil {
		return err
	}
	for _, step := range s.steps {
		if err = step.do(ctx, rep, plan); err != nil {
			break
		}
	}
	return errors.Join(err, rep.Close(ctx))
}

// fileFetch serves the pages of files.
func fileFetch(paths []string) syncer.Fetch {
	return func(_ context.Context, req syncer.PullRequest, sink syncer.PullSink) error {
		revs := [][]byte{nil}
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			revs = append(revs, b)
		}
		var have int
		fmt.Sscan(string(req.Have), &have)
		now, before := revs[len(revs)-1], []byte(nil)
		if have < len(revs) {
			before = revs[have]
		}
		if err := sink.Header(syncer.PullHeader{Revision: page.Revision(fmt.Sprint(len(revs) - 1)), PageCount: uint64(len(now) / page.Size)}); err != nil {
			return err
		}
		for at := 0; at < len(now); at += page.Size {
			image, no := now[at:at+page.Size], page.No(at/page.Size+1)
			if at < len(before) && string(before[at:at+page.Size]) == string(image) || req.Pages != nil && !req.Pages.Has(no) {
				continue
			}
			if err := sink.Page(no, image); err != nil {
				return err
			}
		}
		return nil
	}
}

// pulledWithPending leaves a replica with base, pushed and pending changes.
func pulledWithPending(t *testing.T, path string, rem *remote) {
	rem.exec(people, `CREATE TABLE bag(x)`, `INSERT INTO people(id, name) VALUES (1, 'ann'), (2, 'bob')`,
		`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<300) INSERT INTO bag SELECT hex(randomblob(50)) FROM n`)
	rep := newReplica(t, Config{Path: path})
	pulled(t, rep, rem)
	write(t, rep, `INSERT INTO people(id, name) VALUES (3, 'pushed')`, `INSERT INTO bag VALUES ('pushed')`)
	rem.push(rep, syncer.Limits{})
	write(t, rep, `INSERT INTO people(id, name) VALUES (4, 'pending')`, `INSERT INTO bag VALUES ('pending')`, `CREATE TABLE mine(x)`)
	write(t, rep, `INSERT INTO mine VALUES (1), (2)`, `UPDATE people SET n = 9 WHERE id = 2`)
	// Enough for the log to be carried over as a whole.
	write(t, rep, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<100) INSERT INTO mine SELECT 1000 + i FROM n`)
	if err := rep.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func checkPending(t *testing.T, rep *Replica) {
	t.Helper()
	wantRows(t, rep, `SELECT id, name, n FROM people WHERE id < 100`, "1 ann 0", "2 bob 9", "3 pushed 0", "4 pending 0")
	wantRows(t, rep, `SELECT x FROM bag WHERE x IN ('pushed', 'pending') ORDER BY 1`, "pending", "pushed")
	wantRows(t, rep, `SELECT x FROM mine WHERE x < 1000`, "1", "2")
	wantRows(t, rep, `SELECT count(*) FROM mine`, "102")
}

var remoteChanges = []string{`INSERT INTO people(id, name) VALUES (100, 'remote')`, `DELETE FROM bag WHERE rowid % 3 = 0 AND x NOT IN ('pushed', 'pending')`,
	`CREATE TABLE more(x)`, `INSERT INTO more SELECT x||x||x FROM bag`}

var scenarios map[string]scenario

func init() {
	scenarios = map[string]scenario{
		"increment": {
			prepare: pulledWithPending, change: remoteChanges, check: checkPending,
		},
		"shrink": {
			prepare: pulledWithPending, change: []string{`DELETE FROM bag WHERE x NOT IN ('pushed', 'pending')`, `VACUUM`}, check: checkPending,
		},
		"rebootstrap": {
			prepare: func(t *testing.T, path string, rem *remote) {
				pulledWithPending(t, path, rem)
				rep := newReplica(t, Config{Path: path})
				if err := rep.Rebootstrap(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := rep.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			},
			change: remoteChanges, cfg: Config{ChunkPages: 4}, check: checkPending,
		},
		"foreign": {
			prepare: func(t *testing.T, path string, rem *remote) {
				pulledWithPending(t, path, rem)
				plain(t, path, `INSERT INTO people(id, name) VALUES (5, 'foreign')`, `CREATE TABLE shell(x)`, `INSERT INTO shell VALUES (1)`)
			},
			change: remoteChanges,
			check: func(t *testing.T, rep *Replica) {
				t.Helper()
				wantRows(t, rep, `SELECT id, name, n FROM people WHERE id < 100`, "1 ann 0", "2 bob 9", "3 pushed 0", "4 pending 0", "5 foreign 0")
				wantRows(t, rep, `SELECT x FROM shell`, "1")
			},
		},
		"upload": {
			prepare: func(t *testing.T, path string, rem *remote) {
				plain(t, path, people, `INSERT INTO people(id, name) VALUES (1, 'ann'), (2, 'bob')`, `CREATE TABLE bag(x)`,
					`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2500) INSERT INTO bag SELECT i FROM n`)
				rep := newReplica(t, Config{Path: path})
				write(t, rep, `INSERT INTO people(id, name) VALUES (3, 'offline')`)
				if err := rep.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				rem.exec(`CREATE TABLE theirs(x)`)
			},
			cfg: Config{Existing: ExistingUpload},
			check: func(t *testing.T, rep *Replica) {
				t.Helper()
				wantRows(t, rep, `SELECT name FROM people`, "ann", "bob", "offline")
				wantRows(t, rep, `SELECT count(*), sum(x) FROM bag`, "2500 3126250")
			},
		},
		"bootstrap": {
			prepare: func(t *testing.T, path string, rem *remote) {},
			change:  append([]string{people, `CREATE TABLE bag(x)`, `INSERT INTO bag SELECT randomblob(9000) FROM (SELECT 1 UNION SELECT 2 UNION SELECT 3)`}, remoteChanges...),
			check:   func(t *testing.T, rep *Replica) {},
		},
		// The answer to a push was lost: the watermark is found on the remote.
		"lost answer": {
			prepare: func(t *testing.T, path string, rem *remote) {
				pulledWithPending(t, path, rem)
				rep := newReplica(t, Config{Path: path})
				p, err := rep.Pending(t.Context(), syncer.Limits{})
				if err == nil {
					err = rep.Intend(t.Context(), p.Txns[len(p.Txns)-1].Last())
				}
				if err != nil {
					t.Fatal(err)
				}
				rem.apply(p)
				if err := rep.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			},
			change: remoteChanges,
			steps: append([]step{
				{"pending", func(ctx context.Context, rep *Replica, _ crashPlan) error {
					_, err := rep.Pending(ctx, syncer.Limits{})
					return err
				}},
				{"intend", func(ctx context.Context, rep *Replica, _ crashPlan) error { return rep.Intend(ctx, 1<<40) }},
				{"reconcile", func(ctx context.Context, rep *Replica, _ crashPlan) error {
					intents := rep.state().intents
					if len(intents) < 2 {
						return nil // done already
					}
					renewed, err := rep.Reconcile(ctx, intents[0], true)
					if renewed {
						return errors.New("the watermark was not recognised")
					}
					return err
				}},
			}, pullAndCheckpoint...),
			check: checkPending,
		},
		// A transaction is put aside, and taken up again.
		"requeue": {
			prepare: func(t *testing.T, path string, rem *remote) {
				rem.exec(people, `INSERT INTO people(id, name) VALUES (1, 'ann')`)
				rep := newReplica(t, Config{Path: path})
				pulled(t, rep, rem)
				write(t, rep, `INSERT INTO people(id, name) VALUES (4, 'first')`)
				write(t, rep, `INSERT INTO people(id, name) VALUES (5, 'second')`)
				write(t, rep, `INSERT INTO people(id, name) VALUES (6, 'third')`)
				if err := rep.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			},
			steps: []step{
				{"reject", func(ctx context.Context, rep *Replica, _ crashPlan) error {
					p, err := rep.Pending(ctx, syncer.Limits{})
					if err != nil || len(p.Txns) < 3 || p.Txns[0].Changes[0].RowID != 4 {
						return err // the session before this one came further
					}
					_, err = rep.Reject(ctx, []cdc.ID{p.Txns[0].ID()}, "not wanted")
					return err
				}},
				{"requeue", func(ctx context.Context, rep *Replica, _ crashPlan) error {
					list, err := rep.Rejected(ctx)
					if err != nil || len(list) == 0 {
						return err
					}
					return rep.Requeue(ctx, list[0].Txn)
				}},
				pullAndCheckpoint[0],
			},
			check: func(t *testing.T, rep *Replica) {
				t.Helper()
				wantRows(t, rep, `SELECT name FROM people WHERE id <> 4 AND id < 100`, "ann", "second", "third")
				// Here or put aside, and never both.
				wantRows(t, rep, `SELECT (SELECT count(*) FROM people WHERE id = 4) + (SELECT count(*) FROM turso_sync_rejected)`, "1")
			},
		},
		"download": {
			prepare: func(t *testing.T, path string, rem *remote) {
				plain(t, path, people, `INSERT INTO people(id, name) VALUES (1, 'theirs')`)
				rep := newReplica(t, Config{Path: path})
				if err := rep.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				rem.exec(people, `INSERT INTO people(id, name) VALUES (1, 'remote')`)
			},
			cfg: Config{Existing: ExistingDownload},
			check: func(t *testing.T, rep *Replica) {
				t.Helper()
				if got := rows(t, rep, `SELECT name FROM people`); got[0] == "theirs" {
					return
				}
				wantRows(t, rep, `SELECT name FROM people`, "remote")
				backups, err := filepath.Glob(rep.files.live + "-backup-*")
				if err != nil || len(backups) == 0 {
					t.Fatalf("no backup: %v", err)
				}
				for _, backup := range backups {
					if got := rowsOf(t, backup, `SELECT name FROM people`); got[0] != "theirs" {
						t.Errorf("%s holds %q", backup, got)
					}
				}
			},
		},
		"emptied": {
			prepare: func(t *testing.T, path string, rem *remote) {
				rem.exec(people, `INSERT INTO people(id, name) VALUES (1, 'ann')`)
				rep := newReplica(t, Config{Path: path})
				pulled(t, rep, rem)
				write(t, rep, `INSERT INTO people(id, name) VALUES (5, 'mine')`)
				rem.push(rep, syncer.Limits{})
				pulled(t, rep, rem)
				write(t, rep, `CREATE TABLE later(x)`, `INSERT INTO later VALUES (6)`)
				if err := rep.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				rem.wipe()
			},
			reconcile: true,
			check: func(t *testing.T, rep *Replica) {
				t.Helper()
				wantRows(t, rep, `SELECT x FROM later`, "6")
				if rep.state().basePages > 0 && rep.state().revision != "0" {
					return
				}
				backups, err := filepath.Glob(rep.files.live + "-backup-*")
				if err != nil || len(backups) == 0 {
					t.Fatalf("no backup of base: %v", err)
				}
			},
		},
		"rebuild": {
			prepare: func(t *testing.T, path string, rem *remote) {
				plain(t, path, `PRAGMA page_size=512`, people, `INSERT INTO people(id, name) VALUES (1, 'ann'), (2, 'bob')`)
			},
			check: func(t *testing.T, rep *Replica) {
				t.Helper()
				wantRows(t, rep, `SELECT name FROM people`, "ann", "bob")
				wantRows(t, rep, `PRAGMA page_size`, "4096")
			},
		},
	}
}

func init() {
	for name, s := range scenarios {
		if s.steps == nil {
			s.steps = pullAndCheckpoint
			scenarios[name] = s
		}
	}
}

// setUp makes the files of a scenario and returns the plan to run it.
func (s scenario) setUp(t *testing.T, name string) (crashPlan, *remote) {
	t.Helper()
	rem := newRemote(t)
	plan := crashPlan{Scenario: name, Path: filepath.Join(faultfs.TempDir(t), "app.db")}
	s.prepare(t, plan.Path, rem)
	rem.exec(s.change...)
	for i, rev := range rem.revs[1:] {
		path := filepath.Join(filepath.Dir(rem.path), fmt.Sprintf("rev%d", i+1))
		var b []byte
		for _, image := range rev.pages {
			b = append(b, image...)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		plan.Remote = append(plan.Remote, path)
	}
	return plan, rem
}

// child runs the plan in a process of its own.
func (p crashPlan) child(t *testing.T) (points []string, passes map[string]int, killed bool) {
	t.Helper()
	return faultfs.Child(t, crashEnv, p)
}

// after opens the replica that a crash or an error left, and requires that
// everything is there and that it converges.
func (s scenario) after(t *testing.T, plan crashPlan, rem *remote) {
	t.Helper()
	cfg := s.cfg
	cfg.Path = plan.Path
	rep := newReplica(t, cfg)
	s.check(t, rep)
	if plan.Scenario != "foreign" && plan.Scenario != "upload" && rep.state().adopt == "" {
		invariant(t, rep)
	}
	// What is finished without the remote needs a second pull for the rest.
	for range 2 {
		if _, err := rep.Pull(t.Context(), rem.fetch, syncer.PullOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	sameBase(t, rep, rem)
	invariant(t, rep)
	s.check(t, rep)
	if s.reconcile {
		if _, err := rep.Reconcile(t.Context(), 0, false); err != nil {
			t.Fatal(err)
		}
	}
	for rem.push(rep, syncer.Limits{Changes: 500}) > 0 {
	}
	pulled(t, rep, rem)
	s.check(t, rep)
	wantRows(t, rep, `SELECT count(*) FROM turso_cdc`, "0")
	if err := rep.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// points runs a scenario undisturbed and returns the points that it passes, with
// how often.
func (s scenario) points(t *testing.T, name string) (points []string, passes map[string]int) {
	t.Helper()
	plan, rem := s.setUp(t, name)
	points, passes, _ = plan.child(t)
	s.after(t, plan, rem)
	if len(points) == 0 {
		t.Fatal("no point is passed")
	}
	return points, passes
}

func TestCrashAtEveryPoint(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	var seen []string
	ran := 0
	for name, s := range scenarios {
		t.Run(name, func(t *testing.T) {
			ran++
			points, passes := s.points(t, name)
			for _, point := range points {
				for _, pass := range slices.Compact([]int{1, passes[point]}) {
					t.Run(fmt.Sprintf("%s_%d", point, pass), func(t *testing.T) {
						plan, rem := s.setUp(t, name)
						plan.Point, plan.Pass = point, pass
						if _, _, killed := plan.child(t); !killed {
							t.Fatal("the child was not killed")
						}
						s.after(t, plan, rem)
					})
				}
				if !slices.Contains(seen, point) {
					seen = append(seen, point)
				}
			}
		})
	}
	if ran < len(scenarios) {
		return // -run chose some of them: no telling what the others pass
	}
	// Every point of the code is passed by a scenario and has its row in the
	// manual.
	manual := string(contents(t, "../../docs/rebase.md"))
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range sources {
		if strings.HasSuffix(source, "_test.go") {
			continue
		}
		for _, m := range regexp.MustCompile(`fault\.At\("([^"]+)"\)`).FindAllStringSubmatch(string(contents(t, source)), -1) {
			if !slices.Contains(seen, m[1]) {
				t.Errorf("%s: no scenario passes the point %s", source, m[1])
			}
			if !strings.Contains(manual, "`"+m[1]+"`") {
				t.Errorf("%s: docs/rebase.md does not tell of the point %s", source, m[1])
			}
		}
	}
}

// TestCrashTwice: a crash in the recovery from a crash, of every scenario at every
// pair of points: a sample of them, or all with TURSOSYNC_SWEEP_FULL=1.
func TestCrashTwice(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	type pair struct{ name, first, second string }
	var pairs []pair
	for _, name := range slices.Sorted(maps.Keys(scenarios)) {
		points, _ := scenarios[name].points(t, name)
		for _, first := range points {
			for _, second := range points {
				pairs = append(pairs, pair{name, first, second})
			}
		}
	}
	for _, i := range faultfs.Sample(t, len(pairs), 131) {
		p := pairs[i-1]
		t.Run(p.name+"_"+p.first+"_"+p.second, func(t *testing.T) {
			s := scenarios[p.name]
			plan, rem := s.setUp(t, p.name)
			plan.Point, plan.Pass = p.first, 1
			if _, _, killed := plan.child(t); !killed {
				t.Fatal("the child was not killed")
			}
			plan.Point = p.second
			plan.child(t) // which may not come by there
			s.after(t, plan, rem)
		})
	}
}

var errFull = errors.New("no space left on device")

// TestErrorAtEveryPoint: a step that fails leaves live unharmed; syncing goes on
// when the cause is gone, in the same process and in the next.
func TestErrorAtEveryPoint(t *testing.T) {
	for name, s := range scenarios {
		t.Run(name, func(t *testing.T) {
			points, passes := s.points(t, name)
			type turn struct {
				point string
				pass  int
			}
			var turns []turn
			for _, point := range points {
				for _, pass := range slices.Compact([]int{1, passes[point]}) {
					turns = append(turns, turn{point, pass})
				}
			}
			for _, i := range faultfs.Sample(t, len(turns), 1) { // all of them, unless -short
				point, pass := turns[i-1].point, turns[i-1].pass
				t.Run(fmt.Sprintf("%s_%d", point, pass), func(t *testing.T) {
					plan, rem := s.setUp(t, name)
					n := 0
					restore := fault.Set(func(p string) error {
						if p == point {
							if n++; n >= pass {
								return errFull
							}
						}
						return nil
					})
					err := s.run(plan)
					restore()
					if err != nil && !errors.Is(err, errFull) {
						t.Errorf("error = %v, want %v", err, errFull)
					}
					s.after(t, plan, rem)
				})
			}
		})
	}
}

// TestErrorThenPull is TestErrorAtEveryPoint within one process: the replica
// stays open.
func TestErrorThenPull(t *testing.T) {
	s := scenarios["increment"]
	points, passes := s.points(t, "increment")
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			plan, rem := s.setUp(t, "increment")
			rep := newReplica(t, Config{Path: plan.Path})
			n := 0
			restore := fault.Set(func(p string) error {
				if p == point {
					if n++; n >= (passes[point]+1)/2 {
						return errFull
					}
				}
				return nil
			})
			for range 2 {
				_, err := rep.Pull(t.Context(), rem.fetch, syncer.PullOptions{})
				if err != nil && !errors.Is(err, errFull) {
					t.Errorf("Pull = %v", err)
				}
			}
			restore()
			s.check(t, rep)
			write(t, rep, `UPDATE people SET n = n WHERE id = 1`)
			for range 2 {
				if _, err := rep.Pull(t.Context(), rem.fetch, syncer.PullOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			sameBase(t, rep, rem)
			invariant(t, rep)
			s.check(t, rep)
		})
	}
}
