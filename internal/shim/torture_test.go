package shim

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/page"
)

// The torture shows that a page commit is a commit to everybody, in every mixture
// that several processes can make of it: three processes (this test binary
// again) and the sqlite3 program work on one database. Two of them make page
// commits, two write with SQL, all read, two checkpoint in every mode; all the
// time processes are killed, at random moments and at chosen points within a page
// commit, and started again.
//
// Every commit, whoever makes it, sets the generation one higher, and carries a
// nonce of its own and that of the state it builds on. So what anybody reads
// can be judged:
//
//   - by itself: number, sum and index of the rows agree with the state's, and each row's
//     text is the one that follows from its id and generation (stateSQL);
//   - against what is known: no state is older than a commit that had returned
//     before the read began, and none comes again once a newer one was seen;
//   - against what everybody else read and wrote: afterwards all states that
//     were read, and all commits that returned, lie on the one chain of states that leads
//     to the last (verifyHistory). So nothing was ever lost, or seen and taken back.
//
// What each process is about to commit, what it has committed, and what it has
// read, is in its own log, one line a write, so that SIGKILL loses none of it.

const (
	tortureWorkerEnv  = "TURSOSYNC_TORTURE_WORKER"  // number of the worker; set for the children
	tortureDirEnv     = "TURSOSYNC_TORTURE_DIR"     // where the database is
	tortureCommitsEnv = "TURSOSYNC_TORTURE_COMMITS" // page commits to make; otherwise it is a matter of time
	tortureWorkers    = 3
)

// rowText is the text of row id as of generation gen, in SQL.
func rowText(id, gen string) string {
	r := strings.NewReplacer("$id", id, "$gen", gen)
	return r.Replace("printf('%d:%d:%.*c', $id, $gen, ($id * 7919 + $gen * 104729) % 2900 * (1 + 4 * ($gen % 19 = 0)), char(97 + ($id + $gen) % 26))")
}

const rowSum = "(SELECT ifnull(sum((id * 2654435761 + gen * 40503) % 4294967291), 0) FROM t)"

var (
	// stateSQL yields the state and 31 if all is as it should be.
	stateSQL = "SELECT gen || ' ' || nonce || ' ' || parent || ' ' || sum, " +
		"(n = (SELECT count(*) FROM t))" +
		" + 2 * (sum = " + rowSum + ")" +
		" + 4 * (NOT EXISTS (SELECT 1 FROM t WHERE body IS NOT " + rowText("id", "gen") + "))" +
		" + 8 * ((SELECT ifnull(max(gen), 0) FROM t) <= meta.gen)" +
		" + 16 * ((SELECT count(*) FROM t INDEXED BY tg WHERE gen >= 0) = n)" +
		" FROM meta"
	nextGen = "(SELECT gen + 1 FROM meta)"
)

// sealSQL makes what was changed the next state.
func sealSQL(nonce uint64) string {
	return fmt.Sprintf("UPDATE meta SET gen = gen + 1, parent = nonce, nonce = %d, n = (SELECT count(*) FROM t), sum = %s", nonce, rowSum)
}

// changeSQL is a random change of the rows, sometimes of the schema.
func changeSQL(rnd *rand.Rand) []string {
	var q []string
	rows := func(n int) string {
		return fmt.Sprintf("WITH RECURSIVE g(id) AS (SELECT %d UNION ALL SELECT (id + %d) %% 300 FROM g LIMIT %d) "+
			"INSERT OR REPLACE INTO t SELECT id, %s, %s FROM (SELECT DISTINCT id FROM g)",
			rnd.IntN(300), 1+rnd.IntN(7), n, nextGen, rowText("id", nextGen))
	}
	for range 1 + rnd.IntN(2) {
		switch rnd.IntN(8) {
		case 0, 1, 2:
			m := 2 + rnd.IntN(100)
			q = append(q, fmt.Sprintf("UPDATE t SET gen = %s, body = %s WHERE id %% %d = %d", nextGen, rowText("id", nextGen), m, rnd.IntN(m)))
		case 3:
			m := 3 + rnd.IntN(30)
			q = append(q, fmt.Sprintf("DELETE FROM t WHERE id %% %d = %d", m, rnd.IntN(m)))
		case 4:
			if rnd.IntN(6) == 0 {
				q = append(q, rows(300))
			}
		case 5:
			if rnd.IntN(4) == 0 {
				q = append(q, []string{"CREATE INDEX IF NOT EXISTS extra ON t(length(body))", "DROP INDEX IF EXISTS extra"}[rnd.IntN(2)])
			}
		default:
			q = append(q, rows(1+rnd.IntN(12)))
		}
	}
	return q
}

// ---- a worker process ----

type worker struct {
	n     int
	dir   string
	path  string
	stop  atomic.Bool
	log   *os.File
	board *board
}

// TestTortureWorker is a process of TestTorture.
func TestTortureWorker(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv(tortureWorkerEnv))
	if err != nil {
		t.Skip("runs only as the child of another test")
	}
	seed, err := strconv.ParseUint(os.Getenv("TURSOSYNC_SEED"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	dir := os.Getenv(tortureDirEnv)
	w := &worker{n: n, dir: dir, path: filepath.Join(dir, "a.db")}
	w.log, err = os.OpenFile(filepath.Join(dir, fmt.Sprintf("log%d", n)), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer w.log.Close()
	w.board, err = openBoard(dir, n)
	if err != nil {
		t.Fatal(err)
	}
	defer w.board.f.Close()
	go func() { // ends with the parent, whatever happens to it
		io.Copy(io.Discard, os.Stdin)
		w.stop.Store(true)
	}()
	roles := [tortureWorkers][]func(*rand.Rand) error{
		{w.pageCommits, w.reads},
		{w.writes, w.readsLong, w.checkpoints, w.reads},
		{w.pageCommits, w.writes, w.readsLong, w.checkpoints},
	}
	var wg sync.WaitGroup
	for i, role := range roles[n] {
		wg.Go(func() {
			if err := role(rand.New(rand.NewPCG(seed, uint64(i)))); err != nil {
				t.Errorf("worker %d: %v", n, err)
				w.stop.Store(true)
			}
		})
	}
	wg.Wait()
}

// note writes a line into the log, in one write.
func (w *worker) note(format string, args ...any) error {
	_, err := w.log.WriteString(fmt.Sprintf(format, args...) + "\n")
	return err
}

// connect opens a connection. Other processes may be recovering the WAL, for longer than SQLite waits.
func (w *worker) connect(pragmas ...string) (*sqlite3.SQLiteConn, error) {
	for {
		c, err := (&sqlite3.SQLiteDriver{}).Open(w.path + "?_busy_timeout=10000")
		if err != nil {
			return nil, err
		}
		conn := c.(*sqlite3.SQLiteConn)
		for _, p := range append(pragmas, "SELECT count(*) FROM sqlite_schema") {
			if _, err = conn.Exec(p, nil); err != nil {
				break
			}
		}
		if err == nil {
			return conn, nil
		}
		conn.Close()
		if !later(err) || w.stop.Load() {
			return nil, fmt.Errorf("connect: %w", err)
		}
	}
}

// later tells whether an error only means that others are at it.
func later(err error) bool {
	var e sqlite3.Error
	return errors.As(err, &e) && (e.Code == sqlite3.ErrBusy || e.Code == sqlite3.ErrLocked || e.Code == sqlite3.ErrProtocol)
}

// execAll runs statements up to the first that fails.
func execAll(c *sqlite3.SQLiteConn, queries ...string) error {
	for _, q := range queries {
		if _, err := c.Exec(q, nil); err != nil {
			return fmt.Errorf("%.60s: %w", q, err)
		}
	}
	return nil
}

// state reads the state and judges it by itself.
func (w *worker) state(c *sqlite3.SQLiteConn) (string, error) {
	got, err := tryText(c, stateSQL)
	if err != nil {
		return "", err
	}
	s, ok := strings.CutSuffix(got, "|31")
	if !ok {
		check, _ := tryText(c, "PRAGMA integrity_check")
		return "", fmt.Errorf("a state is not whole: %s; integrity_check: %.500s", got, check)
	}
	return s, nil
}

func generation(state string) uint64 {
	var gen uint64
	fmt.Sscan(state, &gen)
	return gen
}

// read reads the state in a transaction, twice with a pause if told so, and judges it.
func (w *worker) read(c *sqlite3.SQLiteConn, seen *uint64, pause time.Duration, deep bool) error {
	known := max(w.board.newest(), *seen)
	if pause > 0 {
		if err := execAll(c, "BEGIN"); err != nil {
			return err
		}
		defer func() {
			if !c.AutoCommit() {
				c.Exec("ROLLBACK", nil)
			}
		}()
	}
	s, err := w.state(c)
	if err != nil {
		return err
	}
	gen := generation(s)
	if gen < known {
		return fmt.Errorf("generation %d was committed or seen, and now there is %q", known, s)
	}
	if gen > *seen {
		*seen = gen
		if err := w.note("seen %s", s); err != nil {
			return err
		}
	}
	if deep {
		if got, err := tryText(c, "PRAGMA integrity_check"); err != nil || got != "ok" {
			return fmt.Errorf("integrity_check of %q: %.500s, %w", s, got, err)
		}
	}
	if pause == 0 {
		return nil
	}
	time.Sleep(pause)
	if again, err := w.state(c); err != nil || again != s {
		return fmt.Errorf("a snapshot changed from %q to %q, %w", s, again, err)
	}
	return execAll(c, "COMMIT")
}

func (w *worker) reads(rnd *rand.Rand) error {
	mapped, err := w.connect("PRAGMA mmap_size = 1000000000")
	if err != nil {
		return w.over(err)
	}
	defer mapped.Close()
	plain, err := w.connect()
	if err != nil {
		return w.over(err)
	}
	defer plain.Close()
	var seen uint64
	for !w.stop.Load() {
		// Looking something up in an index, SQLite 3.54.1 reads up to 7 bytes behind a key
		// (vdbeRecordCompareInt). In the last page of a mapped file that is a SIGBUS.
		c, deep := mapped, rnd.IntN(8) == 0
		if deep {
			c = plain
		}
		if err := w.read(c, &seen, 0, deep); err != nil && !later(err) {
			return fmt.Errorf("reader: %w", err)
		}
		time.Sleep(time.Duration(rnd.IntN(12)) * time.Millisecond)
	}
	return nil
}

func (w *worker) readsLong(rnd *rand.Rand) error {
	c, err := w.connect("PRAGMA cache_size = 10") // so that the second look reads again
	if err != nil {
		return w.over(err)
	}
	defer c.Close()
	var seen uint64
	for !w.stop.Load() {
		pause := time.Duration(1+rnd.IntN(40)) * time.Millisecond
		if rnd.IntN(20) == 0 {
			pause = time.Duration(rnd.IntN(500)) * time.Millisecond
		}
		if err := w.read(c, &seen, pause, rnd.IntN(4) == 0); err != nil && !later(err) {
			return fmt.Errorf("long reader: %w", err)
		}
		time.Sleep(time.Duration(rnd.IntN(20)) * time.Millisecond)
	}
	return nil
}

// over makes an error of connect none when it is only that the test is over.
func (w *worker) over(err error) error {
	if later(err) && w.stop.Load() {
		return nil
	}
	return err
}

// write commits one change through SQL.
func (w *worker) write(c *sqlite3.SQLiteConn, rnd *rand.Rand) error {
	if err := execAll(c, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer func() {
		if !c.AutoCommit() {
			c.Exec("ROLLBACK", nil)
		}
	}()
	if err := execAll(c, append(changeSQL(rnd), sealSQL(rnd.Uint64()>>1))...); err != nil {
		return err
	}
	if rnd.IntN(10) == 0 {
		return nil // rolled back
	}
	s, err := tryText(c, "SELECT gen || ' ' || nonce || ' ' || parent || ' ' || sum FROM meta")
	if err != nil {
		return err
	}
	if err := w.note("intent %s", s); err != nil {
		return err
	}
	if err := execAll(c, "COMMIT"); err != nil {
		return err
	}
	return w.committed(s, false)
}

// committed announces a commit that has returned.
func (w *worker) committed(s string, byPages bool) error {
	if err := w.note("done %s", s); err != nil {
		return err
	}
	return w.board.post(generation(s), byPages)
}

func (w *worker) writes(rnd *rand.Rand) error {
	c, err := w.connect("PRAGMA cache_size = 10", "PRAGMA synchronous = normal", "PRAGMA wal_autocheckpoint = 3000",
		"PRAGMA busy_timeout = 3") // SQLite would wait longer each time, and page commits always come first
	if err != nil {
		return w.over(err)
	}
	defer c.Close()
	for !w.stop.Load() {
		var err error
		if rnd.IntN(100) == 0 {
			err = execAll(c, "VACUUM")
		} else {
			err = w.write(c, rnd)
		}
		if err != nil && !later(err) {
			return fmt.Errorf("writer: %w", err)
		}
		if err == nil {
			time.Sleep(time.Duration(rnd.IntN(12)) * time.Millisecond)
		}
	}
	return nil
}

func (w *worker) checkpoints(rnd *rand.Rand) error {
	c, err := w.connect("PRAGMA busy_timeout = 100")
	if err != nil {
		return w.over(err)
	}
	defer c.Close()
	for !w.stop.Load() {
		mode := []string{"PASSIVE", "FULL", "RESTART", "TRUNCATE"}[rnd.IntN(4)]
		got, err := tryText(c, "PRAGMA wal_checkpoint("+mode+")")
		if err != nil && !later(err) {
			return fmt.Errorf("checkpoint %s: %w", mode, err)
		}
		if err := w.note("checkpoint %s %s", mode, got); err != nil {
			return err
		}
		pause := time.Duration(rnd.IntN(200)) * time.Millisecond
		if rnd.IntN(10) == 0 {
			pause *= 10 // let the WAL grow over several blocks of the wal-index
		}
		for until := time.Now().Add(pause); time.Now().Before(until) && !w.stop.Load(); {
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}

// ---- page commits ----

type committer struct {
	*worker
	rnd    *rand.Rand
	own    *sqlite3.SQLiteConn // page commits; idle otherwise
	peer   *sqlite3.SQLiteConn // reads what they build on
	memory *sqlite3.SQLiteConn // a copy of that, to be changed
	db     DB
}

func (w *worker) pageCommits(rnd *rand.Rand) error {
	own, err := w.connect("PRAGMA wal_autocheckpoint = 0")
	if err != nil {
		return w.over(err)
	}
	defer own.Close()
	peer, err := w.connect("PRAGMA wal_autocheckpoint = 0")
	if err != nil {
		return w.over(err)
	}
	defer peer.Close()
	db, err := Of(own)
	if err != nil {
		return err
	}
	defer ClearFault()
	memory, err := (&sqlite3.SQLiteDriver{}).Open(":memory:")
	if err != nil {
		return err
	}
	defer memory.Close()
	c := &committer{w, rnd, own, peer, memory.(*sqlite3.SQLiteConn), db}
	for !w.stop.Load() {
		if err := c.once(); err != nil && !later(err) {
			return fmt.Errorf("page commit: %w", err)
		}
		time.Sleep(time.Duration(rnd.IntN(1500)) * time.Microsecond) // others want the lock as well
	}
	return nil
}

// once makes one page commit, or gives way to others.
func (c *committer) once() error {
	p, err := c.db.BeginPageCommit()
	switch {
	case errors.Is(err, ErrBusy):
		time.Sleep(200 * time.Microsecond)
		return nil
	case errors.Is(err, ErrEmptyWAL):
		return c.write(c.peer, c.rnd)
	case errors.Is(err, ErrNotReady): // a writer died; SQLite recovers
		return execAll(c.own, "SELECT count(*) FROM meta")
	case err != nil:
		return err
	}
	defer p.Abort()
	// The write lock is ours: what peer reads cannot change.
	from, err := c.peer.Serialize("main")
	if err != nil {
		_, err = tryText(c.peer, "SELECT count(*) FROM meta") // for its reason
		return err
	}
	if len(from) != int(p.State().PageCount)*page.Size {
		return fmt.Errorf("SQLite sees %d pages, the page commit %d", len(from)/page.Size, p.State().PageCount)
	}
	to, s, err := c.edit(from)
	if err != nil {
		return err
	}
	pages := c.pages(from, to)
	// The process may end at any of these; 137 tells the parent that it was meant to.
	if c.rnd.IntN(60) == 0 {
		file, op, n := WAL, DieWrite, c.rnd.IntN(1+len(pages)/15)
		switch c.rnd.IntN(3) {
		case 1:
			op, n = DieSync, 0
		case 2:
			file, op, n = Main, DieBarrier, c.rnd.IntN(2)
		}
		if err := c.db.SetFault(file, op, n); err != nil {
			return err
		}
		defer ClearFault()
	}
	frames := 0
	add := func(no page.No, image []byte) error {
		frames++
		return p.Append(no, image)
	}
	abort := c.rnd.IntN(20) == 0
	if c.rnd.IntN(80) == 0 { // over the ends of blocks, and many entries in the wal-index when it is aborted
		abort = c.rnd.IntN(2) == 0
		for range c.rnd.IntN(4500) {
			no := page.No(1 + c.rnd.IntN(len(to)/page.Size))
			if err := add(no, to[no.Offset():][:page.Size]); err != nil {
				return err
			}
		}
	}
	if !abort {
		if err := c.note("intent %s", s); err != nil {
			return err
		}
	}
	if c.rnd.IntN(4) == 0 { // the last image of a page counts
		if err := add(pages[0], bytes.Repeat([]byte{0xee}, page.Size)); err != nil {
			return err
		}
	}
	for _, no := range pages {
		if err := add(no, to[no.Offset():][:page.Size]); err != nil {
			return err
		}
	}
	if abort {
		return p.Abort()
	}
	if err := p.Commit(uint32(len(to) / page.Size)); err != nil {
		return err
	}
	if err := c.note("frames %x %d %d %d", p.State().Salt, p.State().MaxFrame, frames, len(to)/page.Size); err != nil {
		return err
	}
	return c.committed(s, true)
}

// edit returns the image of a next state, and what that is. SQLite makes it of a copy in memory.
func (c *committer) edit(img []byte) (to []byte, s string, err error) {
	copying, err := c.memory.Backup("main", c.peer, "main")
	if err != nil {
		return nil, "", err
	}
	done, err := copying.Step(-1)
	if err = errors.Join(err, copying.Finish()); err == nil && !done {
		err = sqlite3.Error{Code: sqlite3.ErrBusy} // what Step makes false of
	}
	if err != nil {
		return nil, "", fmt.Errorf("copy: %w", err)
	}
	cookie := func() (n uint32, err error) {
		v, err := tryText(c.memory, "PRAGMA schema_version")
		if err == nil {
			_, err = fmt.Sscan(v, &n)
		}
		return n, err
	}
	var before, after uint32
	before, err = cookie()
	if err == nil {
		err = execAll(c.memory, append(changeSQL(c.rnd), sealSQL(c.rnd.Uint64()>>1))...)
	}
	if err == nil && c.rnd.IntN(10) == 0 {
		err = execAll(c.memory, "VACUUM")
	}
	if err == nil {
		s, err = c.state(c.memory)
	}
	if err == nil {
		after, err = cookie()
	}
	if err == nil {
		to, err = c.memory.Serialize("main")
	}
	if err != nil {
		return nil, "", fmt.Errorf("edit: %w", err)
	}
	// A copy counts its schemas by itself, and is no WAL database.
	copy(to[18:20], img[18:20])
	binary.BigEndian.PutUint32(to[40:], binary.BigEndian.Uint32(img[40:])+after-before)
	return to, s, nil
}

// pages returns the pages to append, in random order: those that differ, and some that do not.
func (c *committer) pages(from, to []byte) []page.No {
	var pages []page.No
	more := c.rnd.IntN(4) == 0
	for no := page.No(1); no.Offset() < int64(len(to)); no++ {
		off := no.Offset()
		if off >= int64(len(from)) || !bytes.Equal(from[off:off+page.Size], to[off:off+page.Size]) || more && c.rnd.IntN(5) == 0 {
			pages = append(pages, no)
		}
	}
	c.rnd.Shuffle(len(pages), func(i, j int) { pages[i], pages[j] = pages[j], pages[i] })
	return pages
}

// ---- what is known to all ----

// board is a file with a line for each worker: the newest generation whose commit
// has returned to it, and how many page commits it has made. Numbers stand twice,
// since a reader may meet a writer in the act.
type board struct {
	f    *os.File
	mu   sync.Mutex
	line [4]uint64 // generation, its complement, page commits, their complement
	n    int
}

func openBoard(dir string, n int) (*board, error) {
	f, err := os.OpenFile(filepath.Join(dir, "board"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	b := &board{f: f, n: n}
	lines := b.read()
	if n < len(lines) { // not the first process of this number
		b.line = lines[n]
	}
	return b, nil
}

func (b *board) read() (lines [tortureWorkers + 1][4]uint64) {
	var raw [(tortureWorkers + 1) * 32]byte
	for {
		n, _ := b.f.ReadAt(raw[:], 0)
		torn := false
		for i := range lines {
			for j := range lines[i] {
				lines[i][j] = binary.LittleEndian.Uint64(raw[i*32+j*8:])
			}
			l := lines[i]
			torn = torn || (i+1)*32 <= n && l != [4]uint64{} && (l[0] != ^l[1] || l[2] != ^l[3])
		}
		if !torn {
			return lines
		}
	}
}

func (b *board) newest() (gen uint64) {
	for _, l := range b.read() {
		gen = max(gen, l[0])
	}
	return gen
}

func (b *board) pageCommits() (n uint64) {
	for _, l := range b.read() {
		n += l[2]
	}
	return n
}

func (b *board) post(gen uint64, byPages bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.line[0] = max(b.line[0], gen)
	if byPages {
		b.line[2]++
	}
	b.line[1], b.line[3] = ^b.line[0], ^b.line[2]
	var raw [32]byte
	for i, v := range b.line {
		binary.LittleEndian.PutUint64(raw[i*8:], v)
	}
	_, err := b.f.WriteAt(raw[:], int64(b.n*32))
	return err
}

// ---- the parent ----

// child is a worker process.
type child struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	out    bytes.Buffer
	done   chan struct{} // closed when it has ended
	err    error         // of Wait, afterwards
	killed bool
}

func startWorker(t *testing.T, dir string, n int, seed uint64) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0], "-test.run=^TestTortureWorker$"), done: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), tortureWorkerEnv+"="+strconv.Itoa(n), tortureDirEnv+"="+dir, fmt.Sprintf("TURSOSYNC_SEED=%d", seed))
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.out
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.stdin = in
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	return c
}

func (c *child) kill() {
	c.killed = true
	c.cmd.Process.Kill()
	<-c.done
}

// ended tells whether the process is gone, and whether it was to go.
func (c *child) ended() (gone, meant bool) {
	select {
	case <-c.done:
		return true, c.killed || c.err == nil || c.cmd.ProcessState.ExitCode() == Died
	default:
		return false, false
	}
}

// TestTorture lets three processes and the sqlite3 program work on one database; see
// the top of the file. It takes 10 seconds, 3 with -short, or as long as
// TURSOSYNC_TORTURE_COMMITS page commits take:
//
//	TURSOSYNC_TORTURE_COMMITS=10000 go test ./internal/shim -run 'TestTorture$' -v
//
// TURSOSYNC_SEED repeats what each process does, and when processes are killed;
// what meets what is up to the operating system.
func TestTorture(t *testing.T) {
	if os.Getenv(tortureWorkerEnv) != "" {
		t.Skip("this is a worker")
	}
	seed := rand.Uint64() >> 1
	if s := os.Getenv("TURSOSYNC_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	commits, limit := uint64(1)<<62, 10*time.Second
	if testing.Short() {
		limit = 3 * time.Second
	}
	if s := os.Getenv(tortureCommitsEnv); s != "" {
		var err error
		if commits, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
		limit = 15 * time.Minute
	}
	t.Logf("repeat with TURSOSYNC_SEED=%d", seed)
	defer func() {
		if t.Failed() {
			t.Logf("this was TURSOSYNC_SEED=%d", seed)
		}
	}()
	rnd := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	path := filepath.Join(dir, "a.db")
	c := live(t, path)
	run(t, c, "CREATE TABLE t(id INTEGER PRIMARY KEY, gen INTEGER NOT NULL, body TEXT NOT NULL)", "CREATE INDEX tg ON t(gen)",
		"CREATE TABLE meta(gen INTEGER, nonce INTEGER, parent INTEGER, n INTEGER, sum INTEGER)", "INSERT INTO meta VALUES (0, 0, 0, 0, 0)")
	run(t, c, append(changeSQL(rnd), sealSQL(1))...)
	first := text(t, c, "SELECT gen || ' ' || nonce || ' ' || parent || ' ' || sum FROM meta")
	c.Close()
	b, err := openBoard(dir, tortureWorkers)
	if err != nil {
		t.Fatal(err)
	}
	defer b.f.Close()

	began := time.Now()
	var workers [tortureWorkers]*child
	incarnation := seed
	start := func(i int) {
		incarnation += 1000
		workers[i] = startWorker(t, dir, i, incarnation+uint64(i))
	}
	for i := range workers {
		start(i)
	}
	defer func() {
		for _, w := range workers {
			w.stdin.Close()
			w.kill()
		}
	}()
	cli := startProgram(t, dir, seed, b)
	defer cli.wait()
	var kills, deaths int
	nextKill := began.Add(300 * time.Millisecond)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !t.Failed() {
		n, took := b.pageCommits(), time.Since(began)
		if n >= commits || took > limit && n >= 20 || took > limit+2*time.Minute {
			break
		}
		<-tick.C
		if time.Now().After(nextKill) {
			nextKill = time.Now().Add(time.Duration(100+rnd.IntN(1200)) * time.Millisecond)
			victims := []int{rnd.IntN(tortureWorkers)}
			if rnd.IntN(5) == 0 {
				victims = []int{0, 1, 2} // all of them: the next one recovers the WAL
			}
			for _, i := range victims {
				workers[i].killed = true
				workers[i].cmd.Process.Kill()
				kills++
			}
		}
		for i, w := range workers {
			gone, meant := w.ended()
			if gone && (!meant || w.err == nil) {
				t.Errorf("worker %d ended: %v\n%s", i, w.err, w.out.String())
			} else if gone {
				if !w.killed {
					deaths++
				}
				start(i)
			}
		}
	}
	cli.wait()
	for i, w := range workers { // half of the seeds leave a WAL behind
		w.stdin.Close()
		if seed%2 == 0 {
			w.killed = true
			w.cmd.Process.Kill()
		}
		<-w.done
		if _, meant := w.ended(); !meant {
			t.Errorf("worker %d ended: %v\n%s", i, w.err, w.out.String())
		}
	}
	took := time.Since(began)
	known := b.newest()
	// Without a wal-index SQLite must make the same of it.
	anew := filepath.Join(t.TempDir(), "a.db")
	for _, ext := range []string{"", "-wal"} {
		raw, err := os.ReadFile(path + ext)
		if err == nil {
			err = os.WriteFile(anew+ext, raw, 0o600)
		}
		if err != nil && !(ext == "-wal" && errors.Is(err, os.ErrNotExist)) {
			t.Fatal(err)
		}
	}
	var last string
	for _, p := range []string{path, anew} {
		c := live(t, p)
		s := text(t, c, stateSQL)
		if got := text(t, c, "PRAGMA integrity_check"); got != "ok" || !strings.HasSuffix(s, "|31") {
			t.Errorf("in the end there is %s, integrity_check: %s", s, got)
		}
		s = strings.TrimSuffix(s, "|31")
		if generation(s) < known || last != "" && s != last {
			t.Errorf("in the end there is %q, after %q with the wal-index; %d was committed", s, last, known)
		}
		last = s
	}
	h := readHistory(t, dir, first)
	h.verify(t, last)
	t.Logf("%.1fs: %d page commits and %d others, %d states read, %d checkpoints, %d processes killed, %d ended within a page commit",
		took.Seconds(), b.pageCommits(), h.done-int(b.pageCommits()), h.seen, h.checkpoints, kills, deaths)
	t.Logf("WALs %d, the longest of %d frames; page commits over an end of a wal-index block: %d; growing %d, shrinking %d",
		len(h.salts), h.longest, h.crossed, h.grew, h.shrank)
	if n := b.pageCommits(); n < 20 || os.Getenv(tortureCommitsEnv) != "" && n < commits {
		t.Errorf("only %d page commits were made", n)
	}
}

// history is what the logs say.
type history struct {
	intents     map[string]string // by nonce
	claims      []string          // what was seen, or whose commit has returned
	done, seen  int
	checkpoints int
	salts       map[string]bool
	longest     int
	crossed     int
	grew        int
	shrank      int
}

func readHistory(t *testing.T, dir, first string) *history {
	t.Helper()
	h := &history{intents: map[string]string{}, salts: map[string]bool{}}
	h.intents[strings.Fields(first)[1]] = first
	logs, err := filepath.Glob(filepath.Join(dir, "log*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range logs {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		size := 0
		for in := bufio.NewScanner(f); in.Scan(); {
			what, rest, _ := strings.Cut(in.Text(), " ")
			switch what {
			case "intent":
				h.intents[strings.Fields(rest)[1]] = rest
			case "done":
				h.done++
				h.claims = append(h.claims, rest)
			case "seen":
				h.seen++
				h.claims = append(h.claims, rest)
			case "checkpoint":
				h.checkpoints++
			case "frames":
				var salt [2]string
				var at, n, pages int
				fmt.Sscan(rest, &salt[0], &salt[1], &at, &n, &pages)
				h.salts[salt[0]+salt[1]] = true
				h.longest = max(h.longest, at+n)
				if blockOf(at) != blockOf(at+n) {
					h.crossed++
				}
				if size > 0 && pages > size {
					h.grew++
				} else if pages < size {
					h.shrank++
				}
				size = pages
			}
		}
	}
	return h
}

// blockOf returns which block of the wal-index holds a frame.
func blockOf(frame int) int { return (frame + 4096 - 4062 - 1) / 4096 }

// verify requires all that was seen, and all commits that returned, to be on the chain that ends in last.
func (h *history) verify(t *testing.T, last string) {
	t.Helper()
	chain := map[string]bool{}
	for s := last; ; {
		var gen, nonce, parent string
		fmt.Sscan(s, &gen, &nonce, &parent)
		if h.intents[nonce] != s {
			t.Fatalf("state %q is in the history; meant with this nonce was %q", s, h.intents[nonce])
		}
		chain[s] = true
		if parent == "0" {
			break
		}
		before, ok := h.intents[parent]
		if !ok || generation(before)+1 != generation(s) {
			t.Fatalf("state %q builds on %q", s, before)
		}
		s = before
	}
	for _, s := range h.claims {
		if !chain[s] {
			t.Fatalf("state %q was seen or committed, and is not in the history of %q", s, last)
		}
	}
}

// program runs the sqlite3 command again and again.
type program struct {
	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup
}

func (p *program) wait() {
	p.once.Do(func() { close(p.stop) })
	p.wg.Wait()
}

// startProgram lets the sqlite3 command read and write. It makes no checkpoints:
// one older than 3.51.3 may lose commits when another process starts the WAL over
// meanwhile (https://sqlite.org/wal.html#walresetbug).
func startProgram(t *testing.T, dir string, seed uint64, b *board) *program {
	p := &program{stop: make(chan struct{})}
	name, err := exec.LookPath("sqlite3")
	if err != nil {
		t.Log("no sqlite3 program")
		return p
	}
	log, err := os.OpenFile(filepath.Join(dir, "logcli"), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{log: log, board: b}
	rnd := rand.New(rand.NewPCG(seed, 77))
	p.wg.Go(func() {
		defer log.Close()
		for {
			select {
			case <-p.stop:
				return
			default:
			}
			known := b.newest()
			script := "BEGIN; " + stateSQL + "; PRAGMA integrity_check; " + stateSQL + "; COMMIT;"
			writes := rnd.IntN(2) == 0
			if writes {
				script = "PRAGMA wal_autocheckpoint = 0; BEGIN IMMEDIATE; " + strings.Join(append(changeSQL(rnd), sealSQL(rnd.Uint64()>>1)), "; ") + "; " +
					stateSQL + "; COMMIT;"
			}
			cmd := exec.Command(name, "-bail", "-batch", "-cmd", ".timeout 5000", filepath.Join(dir, "a.db"))
			cmd.Stdin = strings.NewReader(script)
			out, err := cmd.CombinedOutput()
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			if err != nil {
				if !strings.Contains(string(out), "database is locked") && !strings.Contains(string(out), "locking protocol") {
					t.Errorf("sqlite3: %v: %.1000s", err, out)
					return
				}
				continue
			}
			if writes {
				lines = lines[1:] // the PRAGMA's
			}
			s, whole := strings.CutSuffix(lines[0], "|31")
			if !whole || generation(s) < known || !writes && (len(lines) != 3 || lines[1] != "ok" || lines[2] != lines[0]) {
				t.Errorf("sqlite3 says %.1000q, after generation %d", lines, known)
				return
			}
			if !writes {
				err = w.note("seen %s", s)
			} else if err = w.note("intent %s", s); err == nil {
				err = w.committed(s, false)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	return p
}
