package sim

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/faultfs"
	"github.com/tursosync/tursosync/server"
)

// violation is something that must never be: a bug.
type violation struct{ text string }

func (v *violation) Error() string { return v.text }

// stats counts what a run did.
type stats struct {
	seeds, steps, commits, pushed, requests, checks int
	crashes, crashesAgain                           int
	faults                                          map[string]int
}

func (s *stats) add(o *stats) {
	s.seeds += o.seeds
	s.steps += o.steps
	s.commits += o.commits
	s.pushed += o.pushed
	s.requests += o.requests
	s.checks += o.checks
	s.crashes += o.crashes
	s.crashesAgain += o.crashesAgain
	for k, n := range o.faults {
		s.faults[k] += n
	}
}

// world is a server, its replicas, and the model of both.
type world struct {
	root     string // of all files
	dirs     int
	host     host
	stale    *server.Server
	backups  []*backup
	replicas []*replica
	late     []*incoming
	disk     *disk         // nil where nobody can tell
	serial   chan struct{} // held while the server runs SQL

	// mu guards what requests change while the driver of the script goes on: late, err,
	// stats, txns, onRemote, and the host's model.
	mu   sync.Mutex
	auto *autoConfig // nil: replicas sync when they are told to

	ready            bool // the tables are there
	serverCheckpoint int64
	serverPower      bool  // its machine may lose power, so that it syncs what it writes
	fixed            bool  // nobody changes the schema
	first            *step // how the first replica is made of a file

	txns     map[string]*txn // by token
	onRemote map[string]bool // tokens
	// gone are the tokens of transactions that were lost as they had to be: with the
	// files of a replica or of the remote that were replaced by older ones.
	gone map[string]bool
	// unsound are the owners whose rows may lack a transaction in between for such a
	// reason.
	unsound map[string]bool
	lastSer int
	owners  int

	clock  time.Duration // how far the wall clock is off
	faulty bool          // an operation of the step may fail by itself
	stats  stats
	trace  func(format string, args ...any)
	err    error // the first that nobody could be told
}

// replica is one local database, through all its openings.
type replica struct {
	w      *world
	name   string
	dir    string
	owner  string // whose rows it writes
	db     *sql.DB
	handle *tursosync.Replica
	net    *network

	live state // as the model has it
	// pending are the transactions committed here that base has never held, in order.
	pending []*txn
	// log are all that were committed here, in order.
	log []*txn
	// seen are the tokens that base has held.
	seen map[string]bool
	// unseen are tokens that base may have held while it was fuzzy, before the remote
	// went back in time. Live says then whether it had.
	unseen map[string]bool
	// version is that of the remote's state that base was at.
	version int
	doubt   []*txn // commits that were under way when it crashed
	readers []*reader
	reading sync.Mutex // held while a reader in the background looks, or it is closed and opened
	copies  []*copied
	// rejected are the transactions in turso_sync_rejected.
	rejected map[string]bool
	// rejections is the number of transactions of the log that these were.
	rejections int
	// pushErr and pullErr are those of the last push and pull.
	pushErr, pullErr error
	// fuzzy: a pull is committed into live, but its pages are not all in base.
	byTheWay bool // it pushed while another one's step was on, and may have pulled
	fuzzy    bool
	closing  bool
	// powerless: its machine has lost power; what was not synced may be gone.
	powerless bool
	// wary: files went back in time. The next pull finds out (2), and the push after it
	// what the remote has lost (1).
	wary int
	// existing says what becomes of a file that is full of rows when it is opened for
	// the first time; adopting: base does not say yet that it has.
	existing tursosync.Existing
	adopting bool
}

// copied is a copy of a replica's files, with what the model knew.
type copied struct {
	dir     string
	pending []*txn
	log     []*txn
	seen    map[string]bool
	version int
}

// reader is a transaction that reads for a long time.
type reader struct {
	tx  *sql.Tx
	saw state
}

func newWorld(root string, trace func(string, ...any)) *world {
	w := &world{
		root: root, serial: make(chan struct{}, 1), trace: trace,
		txns: map[string]*txn{}, onRemote: map[string]bool{}, gone: map[string]bool{}, unsound: map[string]bool{},
		stats: stats{faults: map[string]int{}},
	}
	w.host.model, w.host.sums = state{}, map[uint64]int{}
	return w
}

func (w *world) newDir(kind string) (string, error) {
	w.dirs++
	dir := filepath.Join(w.root, fmt.Sprintf("%s%d", kind, w.dirs))
	return dir, os.Mkdir(dir, 0o700)
}

// report keeps an error that happens where nobody waits for one.
func (w *world) report(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

// failed returns what was reported.
func (w *world) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (w *world) hit(f netFault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f.Kind != "" {
		w.stats.faults["net."+f.Kind]++
	}
}

func (w *world) count(what *int, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*what += n
}

func (w *world) postpone(in *incoming) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late = append(w.late, in)
}

// know makes a transaction known before it is committed: it may be on the remote
// before anybody here gets to know that it was.
func (w *world) know(t *txn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.txns[t.token] = t
}

func (w *world) has(t *txn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.onRemote[t.token]
}

func (w *world) newOwner() string {
	w.owners++
	return fmt.Sprintf("o%d", w.owners)
}

const liveName = "app.db"

// open opens the replica's files.
func (r *replica) open() error {
	cfg := tursosync.Config{
		Path: filepath.Join(r.dir, liveName), URL: "http://sim.test", AuthToken: "secret-token",
		Options: map[string][]string{"_foreign_keys": {"1"}, "_busy_timeout": {"2000"}},
		Sync:    tursosync.SyncManual, ClientName: r.name, Existing: r.existing, HTTPClient: &http.Client{Transport: r.net},
	}
	if r.w.auto != nil {
		r.w.auto.configure(r, &cfg)
	}
	if r.w.disk != nil {
		if err := r.w.disk.adopt(r.dir); err != nil {
			return err
		}
	}
	c, err := tursosync.NewConnector(cfg)
	if err != nil {
		return err
	}
	db := sql.OpenDB(c)
	if err := db.Ping(); err != nil {
		_ = db.Close()
		return fmt.Errorf("open %s: %w", r.name, err)
	}
	h, err := tursosync.ReplicaOf(db)
	if err != nil {
		_ = db.Close()
		return fmt.Errorf("open %s: %w", r.name, err)
	}
	r.db, r.handle = db, h
	return nil
}

// close closes the replica as a program does.
func (r *replica) close() error {
	for _, rd := range r.readers {
		_ = rd.tx.Rollback()
	}
	r.readers = nil
	if r.db == nil {
		return nil
	}
	r.closing = true
	err := r.db.Close()
	r.db, r.handle, r.closing = nil, nil, false
	if err != nil {
		return fmt.Errorf("close %s: %w", r.name, err)
	}
	return nil
}

func (w *world) addReplica(dir string) (*replica, error) {
	r := &replica{w: w, name: fmt.Sprintf("r%d", len(w.replicas)), owner: w.newOwner(), live: state{},
		seen: map[string]bool{}, rejected: map[string]bool{}}
	r.net = &network{w: w, r: r}
	var err error
	if r.dir = dir; dir == "" {
		if r.dir, err = w.newDir(r.name + "-"); err != nil {
			return nil, err
		}
	}
	w.replicas = append(w.replicas, r)
	return r, nil
}

// setUp makes server, replicas and tables.
func (w *world) setUp(n int) error {
	dir, err := w.newDir("server")
	if err != nil {
		return err
	}
	if err := w.startServer(dir); err != nil {
		return err
	}
	w.host.sums[w.host.model.sum()] = 0
	if w.first != nil {
		if err := w.firstAdopted(*w.first); err != nil {
			return err
		}
	}
	for i := len(w.replicas); i < n; i++ {
		r, err := w.addReplica("")
		if err != nil {
			return err
		}
		if err := r.open(); err != nil {
			return err
		}
		if i == 0 {
			for _, name := range sortedTables() {
				if _, err := r.db.Exec(tables[name].create); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
			for _, text := range others {
				if _, err := r.db.Exec(text); err != nil {
					return fmt.Errorf("%s: %w", text, err)
				}
			}
		}
		if err := r.handle.Sync(context.Background()); err != nil {
			return fmt.Errorf("first sync: %w", err)
		}
	}
	w.ready = true
	if err := w.tap(); err != nil || w.first == nil {
		return err
	}
	for _, r := range w.replicas {
		if err := w.checkReplica(r); err != nil {
			return err
		}
	}
	return nil
}

// tearDown closes everything. Its errors matter: it is how programs end.
func (w *world) tearDown() error {
	var errs []error
	for _, r := range w.replicas {
		errs = append(errs, r.close())
	}
	errs = append(errs, w.closeStale(), w.stopServer())
	return errors.Join(errs...)
}

// context bounds what a step may take, in simulated time.
func stepContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 20*time.Minute)
}

// errCrash is what a dead process gets.
var errCrash = errors.New("sim: the process is dead")

// errDisk is what a step gets that fails.
var errDisk = errors.New("sim: no space left on device")

// at makes something happen while a step runs: at the n-th pass of a fault point, or
// at the n-th operation on a file.
//
//	crash  the replica's process dies
//	power  its machine does
//	full   nothing can be written from there on
//	fail   this once it fails
//	commit the application commits
//	io     an operation on a file fails; Point says how
//	kill   the server's process dies
//	cut    its machine does
//	break  the server fails
type at struct {
	Kind  string
	Point string // "*": any
	N     int
}

func (a at) String() string { return fmt.Sprintf("%s:%s/%d", a.Kind, a.Point, a.N) }

// during runs fn on r with what a says. crashed is a folder with the files as they
// were when r died; empty: it did not.
func (w *world) during(r *replica, a at, fn func() error) (crashed string, hit bool, err error) {
	if a.Kind == "" {
		return "", false, fn()
	}
	if a.Kind == "io" {
		hit, err := w.failFile(r, a, fn)
		return "", hit, err
	}
	if a.Kind == "kill" || a.Kind == "cut" || a.Kind == "break" {
		hit, err, after := w.failServer(a, fn)
		return "", hit, errors.Join(err, after)
	}
	passes := 0
	restore := fault.Set(func(point string) error {
		if serverPoint(point) {
			return nil
		}
		if crashed != "" {
			return errCrash
		}
		if hit && a.Kind == "full" {
			return errDisk
		}
		if hit || a.Point != "*" && a.Point != point {
			return nil
		}
		if passes++; passes < a.N {
			return nil
		}
		hit = true
		w.trace("    %s at %s", a.Kind, point)
		w.stats.faults[a.Kind+"."+point]++
		switch a.Kind {
		case "crash", "power":
			dir, e := w.newDir(r.name + "-")
			if e == nil && a.Kind == "power" && w.disk != nil {
				r.powerless = true
				e = w.disk.powerLoss(dir, r.dir, rand.New(rand.NewPCG(uint64(a.N), 3)))
			} else if e == nil {
				e = copyFiles(dir, r.dir)
			}
			if e != nil {
				w.report(e)
			}
			crashed = dir
			r.net.kill()
			return errCrash
		case "commit":
			if r.closing {
				return nil
			}
			w.commitMeanwhile(r, a.N)
			return nil
		}
		return errDisk
	})
	defer restore()
	err = fn()
	synctest.Wait() // somebody may be at one of the points still
	return crashed, hit, err
}

// failFile runs fn with an operation on a file of r that fails.
func (w *world) failFile(r *replica, a at, fn func() error) (hit bool, err error) {
	clear, err := faultfs.Set(faultfs.Fault{Dir: r.dir, Except: "-shm", At: a.N, Lasts: a.Point == "lasts", Partial: a.Point == "partial", Full: a.Point == "full"})
	if err != nil {
		return false, err
	}
	w.faulty = true
	err = fn()
	w.faulty = false
	report := clear()
	if hit = report.Failed > 0; hit {
		w.stats.faults["io."+report.Kind.String()]++
		w.trace("    %v", report)
	}
	return hit, err
}

// serverPoint tells whether a fault point is one of the server.
func serverPoint(point string) bool {
	for _, prefix := range []string{"history.", "pins.", "database.", "backup.page", "checkpoint.move"} {
		if strings.HasPrefix(point, prefix) {
			return true
		}
	}
	return false
}

// failServer runs fn with a server that dies, or fails, at one of its points; after is
// the error of starting it again.
func (w *world) failServer(a at, fn func() error) (hit bool, err, after error) {
	passes, dir := 0, ""
	restore := fault.Set(func(point string) error {
		switch {
		case !serverPoint(point):
			return nil
		case dir != "":
			return errCrash
		case hit || a.Point != "*" && a.Point != point:
			return nil
		}
		if passes++; passes < a.N {
			return nil
		}
		hit = true
		w.trace("    %s at %s", a.Kind, point)
		w.stats.faults[a.Kind+"."+point]++
		if a.Kind == "break" {
			return errDisk
		}
		var e error
		dir, e = w.serverFiles(a.Kind == "cut", rand.New(rand.NewPCG(uint64(a.N), 5)))
		w.host.dead = true
		if e != nil {
			w.report(e)
		}
		return errCrash
	})
	err = fn()
	synctest.Wait() // the server may checkpoint still
	if dir != "" {
		_ = w.stopServer()
		w.host.dead = false
	}
	restore()
	if dir != "" {
		if after = w.startServer(dir); after == nil {
			after = w.tap()
		}
	}
	return hit, err, after
}

// crash abandons the process of r and goes on with the files in dir, as they
// were at the moment of its death. The handles of the dead process are closed, which
// changes files that nobody looks at any more.
func (w *world) crash(r *replica, dir string, again at) error {
	w.stats.crashes++
	if w.disk != nil {
		w.disk.drop(r.dir)
	}
	restore := fault.Set(func(string) error { return errCrash })
	r.net.kill()
	_ = r.close()
	restore()
	for {
		r.dir, r.net = dir, &network{w: w, r: r}
		crashed, hit, err := w.during(r, again, r.open)
		if crashed == "" {
			if err != nil && hit {
				again = at{}
				if err := r.close(); err != nil {
					return err
				}
				continue
			}
			if err != nil {
				return &violation{fmt.Sprintf("after a crash: %v", err)}
			}
			break
		}
		w.stats.crashesAgain++
		restore := fault.Set(func(string) error { return errCrash })
		_ = r.close()
		restore()
		dir, again = crashed, at{}
	}
	if r.powerless {
		if err := w.settlePower(r); err != nil {
			return err
		}
	}
	return w.settleDoubt(r)
}

// settlePower finds out what a loss of power has left: of the commits that are not in
// base, the first ones, among them all that the remote has.
func (w *world) settlePower(r *replica) error {
	r.powerless = false
	live, err := readAll(r.db)
	if err != nil {
		return fmt.Errorf("after a loss of power: %w", err)
	}
	unseen := r.unseen
	r.seen, r.version, r.pending = map[string]bool{}, 0, nil
	if _, err := w.learn(r, live); err != nil { // what base holds, and was rejected
		return err
	}
	var lost *txn
	for _, t := range r.log {
		switch there := live.get("journal", keyOf(t.token)) != nil; {
		case unseen[t.token] && (r.seen[t.token] || !there):
			w.gone[t.token] = w.gone[t.token] || !w.onRemote[t.token]
		case r.seen[t.token] || r.rejected[t.token] || w.gone[t.token]:
		case !there:
			if w.has(t) {
				return &violation{fmt.Sprintf("%s has lost %s with the power, and the remote has it", r.name, t)}
			}
			lost = t
			w.gone[t.token] = true
		case lost != nil && lost.adopted:
			return &violation{fmt.Sprintf("%s has lost with the power what its file held before it was a replica", r.name)}
		case lost != nil && !t.foreign && !lost.foreign:
			return &violation{fmt.Sprintf("%s has lost %s with the power, but not the later %s", r.name, lost, t)}
		default:
			r.pending = append(r.pending, t)
		}
	}
	return nil
}

// settleDoubt finds out what became of the commits that were under way when the
// process died, or that ended with an error: both outcomes are right.
func (w *world) settleDoubt(r *replica) error {
	for _, t := range r.doubt {
		list, err := readStrings(r.db, `SELECT token FROM journal WHERE token = ?`, t.token)
		if err != nil {
			return err
		}
		if len(list) == 1 {
			r.pending, r.log = append(r.pending, t), append(r.log, t)
			r.live.apply(t)
		} else {
			w.gone[t.token] = true
		}
	}
	r.doubt = nil
	return nil
}

// copyFiles copies the files of a folder as they are at this moment, but for the
// memory that SQLite shares, which no process inherits. Opening live by hand drops
// SQLite's locks on it; only other processes could notice.
func copyFiles(to, from string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), "-shm") {
			continue
		}
		if err := copyFile(filepath.Join(to, e.Name()), filepath.Join(from, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	// A copy by the system keeps the time, and the hint of a clean close looks at it.
	info, err := in.Stat()
	if err != nil {
		return err
	}
	return os.Chtimes(to, time.Time{}, info.ModTime())
}

// commitMeanwhile lets the application commit while the replica is at work. It waits
// a moment for the writers' gate, which may be closed.
func (w *world) commitMeanwhile(r *replica, n int) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	rnd := rand.New(rand.NewPCG(uint64(n), 99))
	// Nobody can tell on which side of the page commit this is.
	var err error
	if r.live, err = readAll(r.db); err != nil {
		if !w.faulty {
			w.report(err)
		}
		return
	}
	if err := w.commitOne(ctx, r, rnd); err != nil && !w.faulty && !errors.Is(err, context.DeadlineExceeded) {
		w.report(fmt.Errorf("commit on %s meanwhile: %w", r.name, err))
	}
}

// pushMeanwhile lets another replica commit and push while r is at work.
func (w *world) pushMeanwhile(r *replica, n int) {
	o := w.replicas[n%len(w.replicas)]
	if o == r || o.db == nil {
		return
	}
	rnd := rand.New(rand.NewPCG(uint64(n), 98))
	ctx, cancel := stepContext()
	defer cancel()
	if err := w.commitOne(ctx, o, rnd); err != nil && !w.faulty {
		w.report(fmt.Errorf("commit on %s meanwhile: %w", o.name, err))
	}
	o.net.begin(nil)
	o.pushErr = o.handle.Push(ctx)
	if bad(o.pushErr) && strings.Contains(o.pushErr.Error(), "push: pull: ") {
		o.pullErr = o.pushErr
	}
	o.mayHavePulled()
	o.byTheWay = true
}

var tokenText = regexp.MustCompile(`~[0-9]+~`)

// mayHavePulled looks whether a push that succeeded has pulled as well, as it may
// have to: then an earlier pull's error is none any more.
func (r *replica) mayHavePulled() {
	if !bad(r.pushErr) && r.handle.Status().State == tursosync.Running {
		r.pullErr = nil
	}
}

// calm notes what ended well.
func (r *replica) calm(pushed, pulled bool) {
	if pushed && r.wary == 1 {
		r.wary = 0
	}
	if pulled && r.wary == 2 {
		r.wary = 1
	}
}

// learn finds out what was put aside, and what base holds: from then on those
// transactions are the remote's responsibility.
func (w *world) learn(r *replica, live state) (base state, err error) {
	if r.rejected, err = w.readRejected(r); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(r.dir, liveName+"-pull")); err == nil {
		// The next pull, or opening, brings this to an end. Until then live is what
		// it is.
		r.fuzzy = true
		r.live = live
		r.pending = slices.DeleteFunc(slices.Clone(r.pending), func(t *txn) bool { return r.rejected[t.token] })
		return nil, nil
	}
	r.fuzzy = false
	if base, err = readBase(r.dir); err != nil {
		return nil, err
	}
	for _, row := range base["journal"] {
		token, _ := row["token"].(string)
		r.seen[token] = true
	}
	if err := w.learnAdopted(r, base, live); err != nil {
		return nil, err
	}
	r.pending = w.without(r.pending)
	had := map[string]bool{}
	for _, row := range live["journal"] {
		token, _ := row["token"].(string)
		had[token] = true
	}
	kept := r.pending[:0:0]
	for _, t := range r.pending {
		if r.unseen[t.token] && (r.seen[t.token] || !had[t.token]) {
			r.seen[t.token] = true
			w.gone[t.token] = w.gone[t.token] || !w.onRemote[t.token]
		}
		if !r.seen[t.token] && !r.rejected[t.token] {
			kept = append(kept, t)
		}
	}
	r.pending, r.unseen = kept, nil
	r.live = base.clone()
	r.live.applyAll(r.pending, live.get)
	return base, nil
}

// noteUnseen is called before the remote goes back in time.
func (r *replica) noteUnseen(onRemote map[string]bool) {
	if !r.fuzzy {
		return
	}
	if r.unseen == nil {
		r.unseen = map[string]bool{}
	}
	for _, t := range r.pending {
		if onRemote[t.token] {
			r.unseen[t.token] = true
		}
	}
}

// tokensOf finds the tokens of a transaction that was put aside. There are several
// if it is what a comparison found: another program's, and ours on top.
func tokensOf(j tursosync.Rejection) (tokens []string) {
	for _, c := range j.Changes {
		if c.Table == "journal" {
			tokens = append(tokens, tokenText.FindString(string(c.After)))
		}
	}
	return tokens
}

// readRejected returns the tokens of the transactions that were put aside.
func (w *world) readRejected(r *replica) (map[string]bool, error) {
	rejected := map[string]bool{}
	if w.auto != nil {
		// The handle would wait for its turn, while everything goes on.
		numbers, err := readStrings(r.db, `SELECT DISTINCT txn_id FROM turso_sync_rejected`)
		if err != nil {
			return nil, fmt.Errorf("rejected: %w", err)
		}
		r.rejections = len(numbers)
		images, err := readStrings(r.db, `SELECT CAST("after" AS TEXT) FROM turso_sync_rejected WHERE table_name = 'journal'`)
		if err != nil {
			return nil, fmt.Errorf("rejected: %w", err)
		}
		for _, text := range images {
			rejected[tokenText.FindString(text)] = true
		}
		return rejected, nil
	}
	list, err := r.handle.Rejected(context.Background())
	if err != nil {
		return nil, fmt.Errorf("rejected: %w", err)
	}
	r.rejections = len(list)
	for _, j := range list {
		tokens := tokensOf(j)
		if len(tokens) == 0 {
			return nil, &violation{fmt.Sprintf("%s put aside a transaction without a token: %d changes: %s", r.name, len(j.Changes), j.Reason)}
		}
		for _, token := range tokens {
			if w.txns[token] == nil {
				return nil, &violation{fmt.Sprintf("%s put aside a transaction that nobody wrote: %q", r.name, token)}
			}
			rejected[token] = true
		}
	}
	return rejected, nil
}

// readBase reads base, which nobody writes at the moment.
func readBase(dir string) (state, error) {
	path := filepath.Join(dir, liveName+"-base")
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		return state{}, nil
	}
	db, err := sql.Open("sqlite3", "file:"+path+"?mode=ro&immutable=1")
	if err != nil {
		return nil, err
	}
	defer db.Close()
	s, err := readAll(db)
	if err != nil {
		return nil, fmt.Errorf("read base: %w", err)
	}
	return s, nil
}

// restored tells that the remote went back: what replicas had handed over for good
// may be gone.
func (w *world) restored() {
	w.writeOff()
	for _, r := range w.replicas {
		w.unsound[r.owner] = true
		r.owner, r.wary = w.newOwner(), 2
	}
}

// writeOff notes which transactions are nowhere any more.
func (w *world) writeOff() {
	kept := map[string]bool{}
	for _, r := range w.replicas {
		for _, t := range r.pending {
			kept[t.token] = true
		}
		for token := range r.rejected {
			kept[token] = true
		}
	}
	for token := range w.txns {
		if !kept[token] && !w.onRemote[token] {
			w.gone[token] = true
		}
	}
}
