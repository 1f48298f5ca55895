package tursosync_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/tursosynctest"
)

// The stress test lets everybody who may touch a replica do so at the same time:
//
//	sql.DBs of this process   write, read, sync, checkpoint, open and close
//	plain SQLite in it        reads (mode=ro, and go-sqlite3 itself)
//	a second process          finds ErrLocked, or writes while nobody here has the files open
//	the sqlite3 program       writes, reads, checkpoints, and is killed
//	a second replica          writes, over a network that is not always there
//
// Every transaction moves an amount between two accounts, and puts down its token
// in a table with a key, in one without, and in a counter. So every state that was
// ever committed has the same total, and as many tokens as its counters say.
//
// The accounts have owners, because the last push wins: "a" is written by the first
// replica's sql.DBs, "b" by the second's, "cli" by sqlite3, and "both" by the first
// replica's sql.DBs and by sqlite3. What sqlite3 writes is found by comparison, so the
// second replica need not get it transaction by transaction: there, "cli" and
// "both" are looked at when all is at rest.

const (
	stressTimeEnv  = "TURSOSYNC_STRESS"       // how long, as in 10m
	stressChildEnv = "TURSOSYNC_STRESS_CHILD" // path of the replica: the second process
	stressURLEnv   = "TURSOSYNC_STRESS_URL"
	stressTotal    = 1000 // of each owner
)

const stressSchema = `
CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT NOT NULL, n INTEGER NOT NULL);
WITH o(i, owner) AS (VALUES (0, 'a'), (10, 'b'), (20, 'cli'), (30, 'both')),
	k(j) AS (SELECT 0 UNION ALL SELECT j + 1 FROM k WHERE j < 9)
INSERT INTO account SELECT i + j, owner, 100 FROM o, k;
CREATE INDEX account_owner ON account(owner, n);
CREATE TABLE token(token TEXT PRIMARY KEY, owner TEXT NOT NULL);
CREATE TABLE bag(token TEXT NOT NULL, owner TEXT NOT NULL);
CREATE TABLE counter(owner TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counter VALUES ('a', 0), ('b', 0), ('cli', 0), ('both', 0);
CREATE TABLE pad(id TEXT PRIMARY KEY, body BLOB);`

// stressSums is one line for each owner: total, and what its tokens add up to.
const stressSums = `SELECT o.owner, (SELECT sum(n) FROM account WHERE owner = o.owner) AS total, o.n - (SELECT count(*) FROM token WHERE owner = o.owner) AS tokens,
	o.n - (SELECT count(*) FROM bag WHERE owner = o.owner) AS bags FROM counter AS o ORDER BY o.owner`

// TestStress: see above. TURSOSYNC_STRESS=10m is its length; TURSOSYNC_SEED=… takes a seed back, which
// decides what each goroutine does, not when.
func TestStress(t *testing.T) {
	program, err := exec.LookPath("sqlite3")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the sqlite3 program is needed (apt-get install sqlite3): %v", err)
		}
		t.Skip("the sqlite3 program is not installed (apt-get install sqlite3): no foreign writers to test with")
	}
	length := 15 * time.Second
	if testing.Short() {
		length = 5 * time.Second
	}
	if text := os.Getenv(stressTimeEnv); text != "" {
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s: %v", stressTimeEnv, err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(crashSeedEnv); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", crashSeedEnv, err)
		}
	}
	t.Logf("%s=%d %s=%v", crashSeedEnv, seed, stressTimeEnv, length)
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	t.Run("everybody", func(t *testing.T) {
		srv := tursosynctest.NewServer(t)
		dir := t.TempDir()
		s := &stress{T: t, program: program, seed: seed, srv: srv, remote: &ownServer{srv},
			a: filepath.Join(dir, "a.db"), b: filepath.Join(dir, "b.db"),
			acked: map[string]string{}, refused: map[string]string{}}
		s.run(length)
	})
	// Connections that the server had kept may take a moment to go.
	var left []string
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left = slices.DeleteFunc(openFiles(t), func(f string) bool { return slices.Contains(files, f) })
		if len(left) == 0 && runtime.NumGoroutine() <= goroutines {
			return
		}
		if time.Now().After(until) {
			break
		}
	}
	stacks := make([]byte, 1<<20)
	t.Errorf("left over: files %q, %d goroutines where there were %d\n%s",
		left, runtime.NumGoroutine(), goroutines, stacks[:runtime.Stack(stacks, true)])
}

// openFiles lists what the process has open, sockets by their number.
func openFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil // not Linux
	}
	var list []string
	for _, e := range entries {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			list = append(list, e.Name()+" "+name)
		}
	}
	return list
}

// stress is the world of the test.
type stress struct {
	*testing.T
	program string
	seed    uint64
	srv     *tursosynctest.Server
	remote  remote
	a, b    string // paths
	second  *sql.DB

	// session is held for reading by whoever has the first replica open in this
	// process, and for writing when nobody has.
	session sync.RWMutex

	mu      sync.Mutex
	acked   map[string]string // token to owner: commits that returned no error; guarded by mu
	refused map[string]string // commits that returned one; guarded by mu

	commits, refusals, reads, syncs, rests, opens, programs, kills, locked atomic.Int64
}

// dsn is the first replica's. The busy timeout is far above what a slow machine
// makes of a transaction's length.
func (s *stress) dsn() string {
	return s.a + "?_busy_timeout=30000&syncInterval=100ms&pushDelay=10ms&url=" + s.srv.URL
}

func (s *stress) run(length time.Duration) {
	s.setUp()
	ctx, stop := context.WithTimeout(s.Context(), length)
	defer stop()
	var wg sync.WaitGroup
	stream, begin := uint64(0), time.Now()
	start := func(n int, fn func(ctx context.Context, rnd *rand.Rand)) {
		for range n {
			stream++
			rnd := rand.New(rand.NewPCG(s.seed, stream))
			wg.Go(func() {
				for ctx.Err() == nil && !s.Failed() {
					fn(ctx, rnd)
				}
			})
		}
	}
	start(4, s.use)
	start(2, s.program1)
	start(1, s.secondReplica)
	start(1, s.network)
	start(1, s.secondProcess)
	start(1, s.rest)
	wg.Wait()
	s.Logf("all at rest after %v", time.Since(begin).Round(time.Millisecond))
	s.settle()
	s.Logf("%d commits, %d refused, %d states read, %d syncs, %d opened, %d times all closed, %d runs of sqlite3, %d killed, %d times locked out",
		s.commits.Load(), s.refusals.Load(), s.reads.Load(), s.syncs.Load(), s.opens.Load(), s.rests.Load(), s.programs.Load(), s.kills.Load(), s.locked.Load())
	for name, n := range map[string]int64{"commits": s.commits.Load(), "reads": s.reads.Load(), "runs of sqlite3": s.programs.Load(),
		"openings": s.opens.Load(), "syncs": s.syncs.Load()} {
		if n == 0 && !s.Failed() {
			s.Errorf("no %s: hardly anything happened", name)
		}
	}
}

func (s *stress) setUp() {
	first := openCrash(s.T, s.dsn())
	if _, err := first.Exec(stressSchema); err != nil {
		s.Fatal(err)
	}
	syncCrash(s.T, first)
	s.second = openCrash(s.T, s.b+"?_busy_timeout=30000&syncInterval=100ms&pushDelay=10ms&url="+s.srv.URL)
	syncCrash(s.T, s.second)
	if err := first.Close(); err != nil {
		s.Fatal(err)
	}
}

// use opens the first replica, works with it for a while and closes it.
func (s *stress) use(ctx context.Context, rnd *rand.Rand) {
	s.session.RLock()
	defer s.session.RUnlock()
	db, err := sql.Open("tursosync", s.dsn())
	if err != nil {
		s.Error(err)
		return
	}
	s.opens.Add(1)
	db.SetMaxIdleConns(rnd.IntN(3))
	r, err := tursosync.ReplicaOf(db)
	if err != nil {
		s.Errorf("open: %v", err)
		db.Close()
		return
	}
	var wg sync.WaitGroup
	for range 1 + rnd.IntN(3) {
		own := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		wg.Go(func() {
			for range 1 + own.IntN(15) {
				if ctx.Err() == nil && !s.Failed() {
					s.step(db, r, own)
				}
			}
		})
	}
	wg.Wait()
	if err := db.Close(); err != nil {
		s.Errorf("close: %v", err)
	}
}

// step does one thing with the first replica.
func (s *stress) step(db *sql.DB, r *tursosync.Replica, rnd *rand.Rand) {
	switch rnd.IntN(16) {
	case 0, 1, 2, 3:
		s.transfer(db, rnd, "a")
	case 4, 5, 6:
		s.transfer(db, rnd, "both")
	case 7:
		s.manyRows(db, rnd)
	case 8, 9, 10:
		s.read(db, rnd, "a", "b", "both", "cli")
	case 11:
		driver := []string{"tursosync", "sqlite3"}[rnd.IntN(2)]
		other, err := sql.Open(driver, "file:"+s.a+"?mode=ro&_busy_timeout=30000")
		if err != nil {
			s.Error(err)
			return
		}
		s.read(other, rnd, "a", "b", "both", "cli")
		if err := other.Close(); err != nil {
			s.Errorf("close reader: %v", err)
		}
	case 12:
		time.Sleep(time.Duration(rnd.IntN(20)) * time.Millisecond)
	default:
		s.sync(r, rnd)
	}
}

// transfer commits one transaction, or has it refused.
func (s *stress) transfer(db *sql.DB, rnd *rand.Rand, owner string) {
	ctx := s.Context()
	if rnd.IntN(10) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rnd.IntN(5000))*time.Microsecond)
		defer cancel()
	}
	token := fmt.Sprintf("%s-%016x", owner, rnd.Uint64())
	err := transferOnce(ctx, db, rnd, owner, token)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.commits.Add(1)
		s.acked[token] = owner
		return
	}
	s.refusals.Add(1)
	s.refused[token] = owner
	if !isBusy(err) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, sql.ErrTxDone) {
		s.Errorf("write %s: %v", token, err)
	}
}

func isBusy(err error) bool {
	var e sqlite3.Error
	return errors.As(err, &e) && e.Code == sqlite3.ErrBusy
}

func transferOnce(ctx context.Context, db *sql.DB, rnd *rand.Rand, owner, token string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if rnd.IntN(8) == 0 { // a deferred transaction that reads first may be too late to write
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT n FROM counter WHERE owner = ?`, owner).Scan(&n); err != nil {
			return err
		}
	}
	for _, st := range transferSQL(rnd, owner, token) {
		if _, err := tx.ExecContext(ctx, st); err != nil {
			return err
		}
	}
	if rnd.IntN(20) == 0 { // a long one
		time.Sleep(time.Duration(rnd.IntN(200)) * time.Millisecond)
	}
	return tx.Commit()
}

// transferSQL is what every writer's transaction consists of.
func transferSQL(rnd *rand.Rand, owner, token string) []string {
	first := map[string]int{"a": 0, "b": 10, "cli": 20, "both": 30}[owner]
	x, y := first+rnd.IntN(10), first+rnd.IntN(10)
	amount := rnd.IntN(20)
	return []string{
		fmt.Sprintf(`UPDATE account SET n = n - %d WHERE id = %d`, amount, x),
		fmt.Sprintf(`INSERT INTO token VALUES ('%s', '%s')`, token, owner),
		fmt.Sprintf(`REPLACE INTO pad VALUES ('%s%d', randomblob(%d))`, owner, rnd.IntN(40), 1+rnd.IntN(6000)),
		fmt.Sprintf(`INSERT INTO bag VALUES ('%s', '%s')`, token, owner),
		fmt.Sprintf(`UPDATE counter SET n = n + 1 WHERE owner = '%s'`, owner),
		fmt.Sprintf(`UPDATE account SET n = n + %d WHERE id = %d`, amount, y),
	}
}

// manyRows rewrites the padding of an owner in one statement, or makes or drops
// an index: a new schema for everybody.
func (s *stress) manyRows(db *sql.DB, rnd *rand.Rand) {
	text := `UPDATE pad SET body = randomblob(length(body)) WHERE id GLOB 'a*'`
	switch rnd.IntN(4) {
	case 0:
		text = `CREATE INDEX IF NOT EXISTS token_owner ON token(owner)`
	case 1:
		text = `DROP INDEX IF EXISTS token_owner`
	case 2:
		text = `DELETE FROM pad WHERE id GLOB 'a*'`
	}
	if _, err := db.ExecContext(s.Context(), text); err != nil {
		if !isBusy(err) {
			s.Errorf("%s: %v", text, err)
		}
	}
}

// read looks twice at one state.
func (s *stress) read(db *sql.DB, rnd *rand.Rand, owners ...string) {
	tx, err := db.BeginTx(s.Context(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		s.Errorf("begin read: %v", err)
		return
	}
	defer tx.Rollback()
	pause := time.Duration(rnd.IntN(2)) * time.Millisecond
	if rnd.IntN(20) == 0 {
		pause = time.Duration(rnd.IntN(400)) * time.Millisecond
	}
	for range 2 {
		if err := soundSums(tx, owners); err != nil {
			s.Errorf("read: %v", err)
			return
		}
		s.reads.Add(1)
		time.Sleep(pause)
	}
	if rnd.IntN(10) > 0 {
		return
	}
	var ok string
	if err := tx.QueryRow(`PRAGMA integrity_check`).Scan(&ok); err != nil || ok != "ok" {
		s.Errorf("integrity_check: %s %v", ok, err)
	}
}

// soundSums judges one state.
func soundSums(q interface {
	Query(string, ...any) (*sql.Rows, error)
}, owners []string) error {
	rows, err := q.Query(stressSums)
	if err != nil {
		return err
	}
	defer rows.Close()
	seen := 0
	for rows.Next() {
		var owner string
		var total, tokens, bags int
		if err := rows.Scan(&owner, &total, &tokens, &bags); err != nil {
			return err
		}
		seen++
		if slices.Contains(owners, owner) && (total != stressTotal || tokens != 0 || bags != 0) {
			return fmt.Errorf("a state that was never committed: owner %s has a total of %d, want %d; counter - tokens = %d, counter - bag = %d, want 0",
				owner, total, stressTotal, tokens, bags)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if seen != 4 {
		return fmt.Errorf("%d owners, want 4", seen)
	}
	return nil
}

// sync uses the handle.
func (s *stress) sync(r *tursosync.Replica, rnd *rand.Rand) {
	ctx, cancel := context.WithTimeout(s.Context(), time.Duration(rnd.IntN(2000))*time.Millisecond)
	defer cancel()
	var err error
	switch rnd.IntN(9) {
	case 0:
		err = r.Push(ctx)
	case 1, 2:
		err = r.Pull(ctx)
	case 3:
		err = r.Sync(ctx)
	case 4, 5:
		err = r.Checkpoint(ctx)
	case 6:
		err = r.Wait(ctx)
	case 7:
		_, err = r.Stats(ctx)
	case 8:
		_, _, err = r.Pending(ctx, 100)
		if err == nil && rnd.IntN(20) == 0 {
			err = r.Rebootstrap(ctx)
		}
	}
	var remote *tursosync.RemoteError
	switch {
	case err == nil:
		s.syncs.Add(1)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &remote), errors.Is(err, tursosync.ErrBadAnswer):
	default:
		s.Errorf("sync: %v", err)
	}
	if st := r.Status(); st.State == tursosync.Halted {
		s.Errorf("halted: %s", st.Reason)
	}
}

// program1 is a run of the sqlite3 program.
func (s *stress) program1(ctx context.Context, rnd *rand.Rand) {
	var script strings.Builder
	script.WriteString(".bail on\n.timeout 30000\n")
	owners := map[string]string{}
	for range 1 + rnd.IntN(4) {
		switch rnd.IntN(24) {
		case 0: // waits for readers while it keeps writers out
			fmt.Fprintf(&script, "PRAGMA wal_checkpoint(%s);\n", []string{"PASSIVE", "FULL", "RESTART", "TRUNCATE"}[rnd.IntN(4)])
		case 1, 2:
			script.WriteString("PRAGMA integrity_check;\n")
		case 3, 4, 5, 6, 7:
			script.WriteString(stressSums + ";\n")
		default:
			owner := []string{"cli", "both"}[rnd.IntN(2)]
			token := fmt.Sprintf("%s-%016x", owner, rnd.Uint64())
			owners[token] = owner
			begin := []string{"BEGIN IMMEDIATE", "BEGIN"}[rnd.IntN(2)]
			fmt.Fprintf(&script, "%s;\n%s;\nCOMMIT;\nSELECT 'token', '%s';\n", begin, strings.Join(transferSQL(rnd, owner, token), ";\n"), token)
		}
	}
	c := exec.Command(s.program, "-batch", s.a)
	c.Stdin = strings.NewReader(script.String())
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Start(); err != nil {
		s.Error(err)
		return
	}
	killed := rnd.IntN(6) == 0
	if killed {
		s.kills.Add(1)
		timer := time.AfterFunc(time.Duration(rnd.IntN(20000))*time.Microsecond, func() { _ = c.Process.Kill() })
		defer timer.Stop()
	}
	err := c.Wait()
	s.programs.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if killed && !strings.HasSuffix(out.String(), "\n") {
		lines = lines[:len(lines)-1]
	}
	for _, line := range lines {
		field := strings.Split(line, "|")
		switch {
		case field[0] == "token":
			s.acked[field[1]] = owners[field[1]]
			delete(owners, field[1])
			s.commits.Add(1)
		case len(field) == 4 && strings.Join(field[1:], "|") != fmt.Sprint(stressTotal, "|0|0"):
			s.Errorf("sqlite3 read a state that was never committed: %s", line)
		case strings.HasPrefix(line, "***"):
			s.Errorf("sqlite3: integrity_check: %s", out.String())
		}
	}
	if killed {
		return // what it was doing may have been committed or not
	}
	if err != nil && !strings.Contains(errs.String(), "locked") {
		s.Errorf("sqlite3: %v: %s%s", err, errs.String(), out.String())
	}
	maps.Copy(s.refused, owners)
	time.Sleep(time.Duration(rnd.IntN(10)) * time.Millisecond)
}

// secondReplica writes and reads elsewhere.
func (s *stress) secondReplica(_ context.Context, rnd *rand.Rand) {
	for range 1 + rnd.IntN(5) {
		s.transfer(s.second, rnd, "b")
	}
	s.read(s.second, rnd, "a", "b")
	time.Sleep(time.Duration(rnd.IntN(30)) * time.Millisecond)
}

// network breaks the way to the remote now and then.
func (s *stress) network(ctx context.Context, rnd *rand.Rand) {
	defer s.srv.Heal()
	switch rnd.IntN(6) {
	case 0:
		s.srv.Inject(tursosynctest.Faults{Offline: true})
	case 1:
		s.srv.Inject(tursosynctest.Faults{Cut: true, CutAfter: rnd.IntN(4000), Times: 1 + rnd.IntN(3)})
	case 2:
		s.srv.Inject(tursosynctest.Faults{Twice: true, Only: tursosynctest.Pushes, Times: 2})
	case 3:
		s.srv.Inject(tursosynctest.Faults{Latency: time.Duration(rnd.IntN(50)) * time.Millisecond})
	case 4:
		s.srv.Stop()
		s.srv.Start()
	}
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(rnd.IntN(300)) * time.Millisecond):
	}
}

// secondProcess tries to open the replica while this one has it open, and gets
// to read it only.
func (s *stress) secondProcess(ctx context.Context, rnd *rand.Rand) {
	s.session.RLock()
	defer s.session.RUnlock()
	db := openCrash(s.T, s.dsn())
	defer db.Close()
	out, err := s.child(rnd)
	if err != nil || !strings.HasPrefix(out, "locked\n") {
		s.Errorf("second process beside this one: %v\n%s", err, out)
	}
	s.locked.Add(1)
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(rnd.IntN(500)) * time.Millisecond):
	}
}

func (s *stress) child(rnd *rand.Rand) (string, error) {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), stressChildEnv+"="+s.a, stressURLEnv+"="+s.dsn(), fmt.Sprintf("%s=%d", crashSeedEnv, rnd.Uint64()))
	out, err := c.CombinedOutput()
	return string(out), err
}

// stressChild is the second process: it reads if the replica is open elsewhere,
// and writes otherwise.
func stressChild(path string) error {
	seed, err := strconv.ParseUint(os.Getenv(crashSeedEnv), 10, 64)
	if err != nil {
		return err
	}
	db, err := sql.Open("tursosync", os.Getenv(stressURLEnv))
	if err != nil {
		return err
	}
	defer db.Close()
	err = db.Ping()
	if errors.Is(err, tursosync.ErrLocked) {
		fmt.Println("locked")
		if db, err = sql.Open("tursosync", "file:"+path+"?mode=ro&_busy_timeout=30000"); err != nil {
			return err
		}
		defer db.Close()
		return soundSums(db, []string{"a", "b", "both", "cli"})
	}
	if err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 5 {
		token := fmt.Sprintf("a-%016x", rnd.Uint64())
		switch err := transferOnce(context.Background(), db, rnd, "a", token); {
		case err == nil:
			fmt.Println("token|" + token)
		case !isBusy(err): // sqlite3 writes at the same time
			return err
		}
	}
	return db.Close()
}

// rest waits until nobody here has the first replica open, and looks at its
// files, which sqlite3 may go on using.
func (s *stress) rest(ctx context.Context, rnd *rand.Rand) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(time.Duration(rnd.IntN(2000)) * time.Millisecond):
	}
	s.session.Lock()
	defer s.session.Unlock()
	s.rests.Add(1)
	out, err := s.child(rnd)
	if err != nil {
		s.Errorf("second process alone: %v\n%s", err, out)
	}
	s.mu.Lock()
	for line := range strings.Lines(out) {
		if _, token, ok := strings.Cut(strings.TrimSpace(line), "token|"); ok {
			s.acked[token] = "a"
			s.commits.Add(1)
		}
	}
	s.mu.Unlock()
	if rnd.IntN(2) == 0 {
		s.prune()
	}
}

// prune checks all commits so far and makes room.
func (s *stress) prune() {
	first := openCrash(s.T, s.dsn())
	for _, side := range []struct {
		db     *sql.DB
		owners []string
	}{{first, []string{"a", "both", "cli"}}, {s.second, []string{"b"}}} {
		s.nothingLost(side.db, side.owners)
	}
	if err := first.Close(); err != nil {
		s.Errorf("close: %v", err)
	}
}

// nothingLost demands every acknowledged commit of some owners, and none that was
// refused, and deletes the tokens.
func (s *stress) nothingLost(db *sql.DB, owners []string) {
	s.mu.Lock() // nobody learns of a commit meanwhile; those that have committed and not told yet are kept
	defer s.mu.Unlock()
	tx, err := db.Begin()
	if err != nil {
		s.Errorf("look for lost commits: %v", err)
		return
	}
	defer tx.Rollback()
	// The write lock first: what is read stays so.
	if _, err := tx.Exec(`UPDATE counter SET n = n WHERE owner = ?`, owners[0]); err != nil {
		s.Errorf("look for lost commits: %v", err)
		return
	}
	have := map[string]bool{}
	rows, err := tx.Query(`SELECT token FROM token`)
	if err != nil {
		s.Error(err)
		return
	}
	for rows.Next() {
		var token string
		if err := rows.Scan(&token); err != nil {
			s.Error(err)
		}
		have[token] = true
	}
	if err := rows.Err(); err != nil {
		s.Error(err)
		return
	}
	mine := func(_ string, owner string) bool { return slices.Contains(owners, owner) }
	drop := []string{}
	lost := 0
	for token, owner := range s.acked {
		if !mine(token, owner) {
			continue
		}
		if !have[token] {
			lost++
			s.Logf("lost: %s", token)
		}
		drop = append(drop, token)
	}
	if lost > 0 {
		s.Errorf("%d acknowledged commits of %q are lost", lost, owners)
	}
	for token, owner := range s.refused {
		if mine(token, owner) && have[token] {
			s.Errorf("commit of %s, which returned an error, is there", token)
		}
	}
	maps.DeleteFunc(s.acked, mine)
	maps.DeleteFunc(s.refused, mine)
	for _, token := range drop {
		if _, err := tx.Exec(`DELETE FROM token WHERE token = ?`, token); err != nil {
			s.Error(err)
			return
		}
		if _, err := tx.Exec(`DELETE FROM bag WHERE token = ?`, token); err != nil {
			s.Error(err)
			return
		}
	}
	for _, owner := range owners {
		if _, err := tx.Exec(`UPDATE counter SET n = (SELECT count(*) FROM token WHERE owner = ?1) WHERE owner = ?1`, owner); err != nil {
			s.Error(err)
			return
		}
	}
	if err := tx.Commit(); err != nil {
		s.Errorf("look for lost commits: %v", err)
	}
}

// settle brings both replicas together and judges what is left.
func (s *stress) settle() {
	s.srv.Heal()
	if s.Failed() {
		return
	}
	var sides []*side
	for _, x := range []struct {
		path string
		db   *sql.DB
	}{{s.a, openCrash(s.T, s.dsn())}, {s.b, s.second}} {
		r, err := tursosync.ReplicaOf(x.db)
		if err != nil {
			s.Fatal(err)
		}
		sides = append(sides, &side{T: s.T, db: x.db, r: r, path: x.path})
	}
	converge(s.T, s.remote, sides...)
	for _, side := range sides {
		if err := soundSums(side.db, []string{"a", "b", "both", "cli"}); err != nil {
			s.Errorf("at the end: %v", err)
		}
		if list, err := side.r.Rejected(s.Context()); err != nil || len(list) > 0 {
			s.Errorf("rejected: %v %v", list, err)
		}
	}
	s.nothingLost(s.second, []string{"a", "b", "both", "cli"})
	for _, side := range sides {
		if err := side.db.Close(); err != nil {
			s.Errorf("close: %v", err)
		}
		out, err := exec.Command(s.program, "-batch", side.path, "PRAGMA integrity_check").CombinedOutput()
		if strings.TrimSpace(string(out)) != "ok" || err != nil {
			s.Errorf("sqlite3 at the end: %v %s", err, out)
		}
	}
}
