package sim

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/faultfs"
)

// step is one thing that happens. A script is made of steps that do not depend on
// each other, so that any of them can be left out.
type step struct {
	Kind    string
	Replica int
	Seed    uint64 // of what it does
	N       int
	At      at // what happens at a fault point meanwhile
	Again   at // what happens while it recovers from a crash
	Net     []netFault
}

func (s step) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s r%d", s.Kind, s.Replica)
	if s.N != 0 {
		fmt.Fprintf(&b, " n=%d", s.N)
	}
	if s.At.Kind != "" {
		fmt.Fprintf(&b, " at=%v", s.At)
	}
	if s.Again.Kind != "" {
		fmt.Fprintf(&b, " again=%v", s.Again)
	}
	for _, f := range s.Net {
		fmt.Fprintf(&b, " net=%v", f)
	}
	fmt.Fprintf(&b, " seed=%d", s.Seed)
	return b.String()
}

// script is a whole run.
type script struct {
	Replicas   int
	Checkpoint int64 // of the server
	Fixed      bool  // nobody changes the schema
	Auto       bool  // replicas sync by themselves, in simulated time
	Seed       uint64
	Power      bool  `json:",omitempty"` // the server's machine may lose power
	First      *step `json:",omitempty"` // the first replica is a file full of rows
	Steps      []step
}

func (s script) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "replicas %d, server checkpoints at %d\n", s.Replicas, s.Checkpoint)
	if s.First != nil {
		fmt.Fprintf(&b, "first: %v\n", *s.First)
	}
	for _, x := range s.Steps {
		fmt.Fprintln(&b, x)
	}
	return b.String()
}

// points are the fault points of a replica; see docs/rebase.md.
var points = []string{
	"delta.create", "delta.write", "delta.sync", "delta.sealed", "base.write", "base.truncate", "base.sync", "base.synced", "stage.give",
	"stage.begin", "stage.committed", "commit.append", "commit.write", "commit.done", "base.rename", "delta.drop", "state.commit",
	"checkpoint.passive", "checkpoint.truncate", "absorb.commit", "log.sync", "delta.forget",
}

// generate makes the script of a seed.
func generate(seed uint64) script {
	rnd := rand.New(rand.NewPCG(seed, 0x51))
	s := script{Replicas: 2 + rnd.IntN(3), Checkpoint: []int64{0, 1, 100_000}[rnd.IntN(3)]}
	restores := rnd.IntN(3) == 0 // files go back in time
	// A remote that goes back behind a migration disagrees with replicas that have seen
	// it: that is for people to decide.
	s.Fixed = restores
	trouble := rnd.IntN(6) // of ten steps, how many go wrong
	kinds := []struct {
		kind   string
		weight int
	}{
		{"commit", 30}, {"push", 14}, {"pull", 14}, {"sync", 8}, {"checkpoint", 4}, {"reopen", 3}, {"crash", 3}, {"power", 3}, {"read", 3}, {"unread", 3},
		{"deliver", 4}, {"huge", 1}, {"tiny", 2}, {"restart", 2}, {"kill", 2}, {"remote", 4}, {"sleep", 2}, {"foreign", 2}, {"rebootstrap", 1},
		{"backup", 1}, {"stale", 1}, {"unstale", 1}, {"compact", 2}, {"requeue", 2}, {"discard", 1}, {"copy", 2}, {"restore", 1}, {"clone", 1}, {"back", 1},
		{"clock", 3}, {"visit", 1}, {"tamper", 1}, {"adopt", 1}, {"cut", 3},
	}
	total := 0
	for i, k := range kinds {
		switch k.kind {
		case "cut":
			if s.Power = rnd.IntN(3) == 0; !s.Power {
				kinds[i].weight = 0
			}
		case "restore", "clone", "back", "stale":
			if !restores {
				kinds[i].weight = 0
			}
		}
		total += kinds[i].weight
	}
	for range 40 + rnd.IntN(100) {
		x := step{Replica: rnd.IntN(s.Replicas), Seed: rnd.Uint64(), N: 1 + rnd.IntN(4)}
		pick := rnd.IntN(total)
		for _, k := range kinds {
			if pick -= k.weight; pick < 0 {
				x.Kind = k.kind
				break
			}
		}
		switch x.Kind {
		case "commit", "huge":
			if rnd.IntN(20) < trouble {
				x.At = someAt(rnd, "io")
			}
		case "push", "pull", "sync", "checkpoint", "reopen", "crash", "power":
			if rnd.IntN(10) < trouble {
				x.At = someAt(rnd, "crash", "crash", "power", "power", "full", "fail", "commit", "io", "io", "kill", "break")
				if s.Power && x.At.Kind == "kill" {
					x.At.Kind = "cut"
				}
			}
			if rnd.IntN(3) == 0 {
				x.Again = someAt(rnd, "crash", "power", "fail", "io")
			}
			if rnd.IntN(10) < trouble+1 {
				for range 1 + rnd.IntN(2) {
					x.Net = append(x.Net, netFault{rnd.IntN(4), netKinds[rnd.IntN(len(netKinds))], someSize(rnd)})
				}
			}
		}
		if x.Kind == "adopt" {
			adoptFaults(rnd, &x, trouble+3)
		}
		s.Steps = append(s.Steps, x)
		// What was left unfinished meets the next fault, with news from the remote.
		for x.At.Kind != "" && x.Kind != "commit" && x.Kind != "huge" && rnd.IntN(2) == 0 {
			x = step{Kind: "pull", Replica: x.Replica, Seed: rnd.Uint64(), N: 1, At: someAt(rnd, "crash", "power", "full", "fail", "fail", "io")}
			if rnd.IntN(2) == 0 { // behind the page commit
				x.At = at{x.At.Kind, []string{"base.write", "base.truncate", "base.sync", "delta.drop"}[rnd.IntN(4)], 1}
				if x.At.Kind == "io" {
					x.At.Kind = "fail"
				}
			}
			s.Steps = append(s.Steps, step{Kind: "remote", Seed: rnd.Uint64(), N: 1}, x)
		}
	}
	if rnd.IntN(5) == 0 {
		s.First = &step{Kind: "adopt", Seed: rnd.Uint64(), N: rnd.IntN(4)}
		adoptFaults(rnd, s.First, trouble+3)
	}
	return s
}

// adoptFaults lets things go wrong while a file is adopted.
func adoptFaults(rnd *rand.Rand, x *step, trouble int) {
	kinds := []string{"crash", "crash", "power", "power", "full", "fail", "io", "io"}
	if rnd.IntN(10) < trouble {
		if x.At = someAt(rnd, kinds...); x.At.Kind != "io" && rnd.IntN(2) == 0 {
			x.At = at{x.At.Kind, openPoints[rnd.IntN(len(openPoints))], 1}
		}
	}
	if rnd.IntN(10) < trouble {
		if x.Again = someAt(rnd, kinds...); x.Again.Kind != "io" && rnd.IntN(2) == 0 {
			x.Again = at{x.Again.Kind, adoptPoints[rnd.IntN(len(adoptPoints))], 1 + rnd.IntN(4)}
		}
	}
	if rnd.IntN(10) < trouble {
		x.Net = append(x.Net, netFault{rnd.IntN(3), netKinds[rnd.IntN(len(netKinds))], someSize(rnd)})
	}
}

func someAt(rnd *rand.Rand, kinds ...string) at {
	a := at{Kind: kinds[rnd.IntN(len(kinds))], Point: points[rnd.IntN(len(points))], N: 1}
	switch a.Kind {
	case "io":
		a.Point, a.N = []string{"once", "lasts", "partial", "full"}[rnd.IntN(4)], 1+rnd.IntN(400)
		if rnd.IntN(2) == 0 {
			a.N = 1 + rnd.IntN(40)
		}
		return a
	case "kill", "cut", "break":
		a.Point, a.N = "*", 1+rnd.IntN(8)
		return a
	}
	if rnd.IntN(2) == 0 {
		a.Point, a.N = "*", 1+rnd.IntN(30)
	} else if rnd.IntN(3) == 0 {
		a.N = 1 + rnd.IntN(4)
	}
	return a
}

func someSize(rnd *rand.Rand) int {
	switch rnd.IntN(3) {
	case 0:
		return rnd.IntN(64)
	case 1:
		return rnd.IntN(2000)
	}
	return rnd.IntN(60_000)
}

// run runs a script in a folder, and returns what went wrong.
func (s script) run(root string, trace func(string, ...any)) (st stats, err error) {
	w := newWorld(root, trace)
	w.serverCheckpoint, w.fixed, w.first = s.Checkpoint, s.Fixed, s.First
	defer func() {
		// A step may fail in the middle: close what there is, so that nothing goes on.
		e := w.tearDown()
		if err == nil {
			err = e
		}
		if err == nil {
			err = w.checkClosed()
		}
		st = w.stats
		if e := os.RemoveAll(root); err == nil {
			err = e
		}
	}()
	w.stats.seeds = 1
	defer fault.SetClock(0)()
	if s.Auto {
		w.auto = &autoConfig{seed: s.Seed}
		return w.stats, s.background(w)
	}
	if strings.HasPrefix(root, "/dev/shm/") {
		// There inodes are not used again.
		w.disk, w.serverPower = newDisk(), s.Power
		stop, err := faultfs.Watch(w.disk.synced)
		if err != nil {
			return w.stats, err
		}
		defer stop()
	}
	if err := w.setUp(s.Replicas); err != nil {
		return w.stats, err
	}
	for i, x := range s.Steps {
		trace("%3d %v", i, x)
		w.stats.steps++
		if err := w.step(x); err != nil {
			return w.stats, fmt.Errorf("step %d: %v: %w", i, x, err)
		}
	}
	trace("    to rest")
	return w.stats, w.rest()
}

// step does one step and checks what it touched.
func (w *world) step(x step) error {
	r := w.replicas[x.Replica%len(w.replicas)]
	rnd := rand.New(rand.NewPCG(x.Seed, 1))
	if err := w.do(x, r, rnd); err != nil {
		return err
	}
	if err := w.failed(); err != nil {
		return err
	}
	for _, o := range w.replicas {
		if o.db == nil {
			continue
		}
		if err := w.settleDoubt(o); err != nil {
			return err
		}
	}
	for _, o := range w.replicas {
		if o == r || o.byTheWay && o.db != nil {
			o.byTheWay = false
			if err := w.checkReplica(o); err != nil {
				return err
			}
		}
	}
	switch x.Kind {
	case "commit", "read", "unread", "copy", "sleep", "huge", "tiny", "foreign", "clock", "visit":
		return nil
	}
	return w.checkRemote()
}

func (w *world) do(x step, r *replica, rnd *rand.Rand) error {
	ctx, cancel := stepContext()
	defer cancel()
	switch x.Kind {
	case "commit", "huge":
		_, hit, err := w.during(r, x.At, func() error {
			if x.Kind == "huge" {
				return w.commit(ctx, r, rnd, 300)
			}
			for range x.N {
				if err := w.commitOne(ctx, r, rnd); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil && hit {
			w.trace("    = %v", err)
			return nil
		}
		return err
	case "tiny":
		for range 60 {
			if err := w.commit(ctx, r, rnd, 1); err != nil {
				return err
			}
		}
	case "compact": // the server moves its WAL into its file
		_, err, after := w.failServer(at{Kind: "break", Point: "*", N: x.N}, w.host.srv.Checkpoint)
		if err != nil && !errors.Is(err, errDisk) {
			return err
		}
		return after
	case "foreign":
		return w.foreign(r, rnd)
	case "push", "pull", "sync", "checkpoint", "rebootstrap":
		return w.sync(ctx, x, r)
	case "reopen":
		return w.reopen(x, r)
	case "crash", "power":
		dir, err := w.newDir(r.name + "-")
		if err != nil {
			return err
		}
		if x.Kind == "power" && w.disk != nil {
			r.powerless = true
			err = w.disk.powerLoss(dir, r.dir, rnd)
		} else {
			err = copyFiles(dir, r.dir)
		}
		if err != nil {
			return err
		}
		w.forget(r)
		return w.crash(r, dir, x.Again)
	case "read":
		if len(r.readers) >= 2 {
			return nil
		}
		tx, err := r.db.BeginTx(ctx0, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			return err
		}
		rd := &reader{tx: tx}
		r.readers = append(r.readers, rd)
		rd.saw, err = readAll(tx)
		return err
	case "unread":
		for _, rd := range r.readers {
			if err := rd.tx.Rollback(); err != nil {
				return err
			}
		}
		r.readers = nil
	case "deliver":
		w.mu.Lock()
		late := w.late
		w.late = nil
		w.mu.Unlock()
		rnd.Shuffle(len(late), func(i, j int) { late[i], late[j] = late[j], late[i] })
		for _, in := range late {
			in.discard()
		}
	case "requeue", "discard":
		return w.decide(ctx, x.Kind, r, rnd)
	case "restart":
		return w.restartServer()
	case "kill", "cut":
		return w.killServer(x.Kind == "cut", rnd)
	case "remote":
		return w.remote(rnd)
	case "sleep":
		time.Sleep(time.Duration(rnd.IntN(48)) * time.Hour)
	case "adopt":
		return w.adopt(ctx, x, rnd)
	case "clock":
		w.setClock(rnd)
	case "visit":
		return w.visit(r, rnd)
	case "tamper":
		return w.tamper(rnd)
	case "backup":
		return w.backUpServer()
	case "stale":
		if len(w.backups) > 0 {
			return w.openStale(w.backups[rnd.IntN(len(w.backups))])
		}
	case "unstale":
		return w.closeStale()
	case "back":
		if len(w.backups) > 0 {
			return w.restoreServer(w.backups[rnd.IntN(len(w.backups))], rnd.IntN(2) == 0)
		}
	case "copy":
		if !w.settled(r) {
			return nil
		}
		return w.copyReplica(r)
	case "restore":
		return w.restoreReplica(r, rnd)
	case "clone":
		if !w.settled(r) {
			return nil
		}
		return w.clone(r, rnd)
	default:
		return fmt.Errorf("no such step")
	}
	return nil
}

var ctx0 = context.Background()

// forget: a new process remembers no errors.
func (w *world) forget(r *replica) { r.pushErr, r.pullErr = nil, nil }

// sync pushes, pulls or checkpoints, with faults. Without faults it must succeed,
// whatever was before.
func (w *world) sync(ctx context.Context, x step, r *replica) error {
	r.net.begin(x.Net)
	crashed, hit, err := w.during(r, x.At, func() error {
		switch x.Kind {
		case "push":
			r.pushErr = r.handle.Push(ctx)
			return r.pushErr
		case "pull":
			r.pullErr = r.handle.Pull(ctx)
			return r.pullErr
		case "checkpoint":
			return r.handle.Checkpoint(ctx)
		case "rebootstrap":
			return r.handle.Rebootstrap(ctx)
		}
		r.pushErr = r.handle.Push(ctx)
		if bad(r.pushErr) {
			return r.pushErr
		}
		r.pullErr = r.handle.Pull(ctx)
		return r.pullErr
	})
	r.net.begin(nil)
	if crashed != "" {
		w.forget(r)
		return w.crash(r, crashed, x.Again)
	}
	w.trace("    = %v", err)
	if x.Kind == "push" || x.Kind == "sync" {
		if bad(r.pushErr) && strings.Contains(r.pushErr.Error(), "push: pull: ") {
			r.pullErr = r.pushErr // by the way, and the push got no further
		}
		r.mayHavePulled()
	}
	switch x.Kind {
	case "push", "pull", "sync":
		r.calm(x.Kind != "pull" && !bad(r.pushErr), x.Kind != "push" && !bad(err))
	}
	mayFail := hit && x.At.Kind != "commit"
	for _, f := range x.Net {
		mayFail = mayFail || f.fails()
	}
	if bad(err) && !mayFail {
		return &violation{fmt.Sprintf("%s on %s without a fault: %v", x.Kind, r.name, err)}
	}
	return nil
}

// decide puts a rejected transaction back behind all that is pending, or forgets it.
func (w *world) decide(ctx context.Context, what string, r *replica, rnd *rand.Rand) error {
	list, err := r.handle.Rejected(ctx)
	if err != nil || len(list) == 0 || r.fuzzy {
		return err
	}
	j := list[rnd.IntN(len(list))]
	var txns []*txn
	for _, token := range tokensOf(j) {
		t := w.txns[token]
		if t == nil {
			return &violation{fmt.Sprintf("%s has put aside transaction %d, which nobody wrote", r.name, j.Txn)}
		}
		txns = append(txns, t)
	}
	slices.SortFunc(txns, func(a, b *txn) int { return a.serial - b.serial })
	if what == "discard" {
		for _, t := range txns {
			w.gone[t.token] = true
		}
		return r.handle.Discard(ctx, j.Txn)
	}
	if err := r.handle.Requeue(ctx, j.Txn); err != nil {
		w.trace("    = %v", err)
		return nil // its rows may not fit any more
	}
	// It is committed anew, behind what was committed since.
	for _, old := range txns {
		t := *old
		w.lastSer++
		t.serial = w.lastSer
		w.know(&t)
		r.log = slices.DeleteFunc(slices.Clone(r.log), func(o *txn) bool { return o.token == t.token })
		r.pending, r.log = append(r.pending, &t), append(r.log, &t)
	}
	return nil
}

// reopen closes the replica and opens it again.
func (w *world) reopen(x step, r *replica) error {
	crashed, hit, err := w.during(r, x.At, r.close)
	w.forget(r)
	if crashed != "" {
		return w.crash(r, crashed, x.Again)
	}
	if err != nil && !hit {
		return err
	}
	crashed, hit, err = w.during(r, x.Again, r.open)
	if crashed != "" {
		return w.crash(r, crashed, at{})
	}
	if err != nil && hit {
		w.trace("    = %v", err)
		err = r.open()
	}
	return err
}

// foreign lets another program write to live, behind the driver's back.
func (w *world) foreign(r *replica, rnd *rand.Rand) error {
	if r.fuzzy {
		return nil
	}
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(r.dir, liveName)+"?mode=rw&_busy_timeout=1000")
	if err != nil {
		return err
	}
	defer db.Close()
	w.lastSer++
	t := &txn{serial: w.lastSer, token: fmt.Sprintf("~%d~", w.lastSer), owner: r.owner, foreign: true}
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	x := &write{r: r, rnd: rnd, owner: r.owner, token: t.token, after: map[ref]row{}, whole: map[ref]bool{}}
	x.sql(`INSERT INTO journal VALUES (?)`, t.token)
	x.put("journal", row{"token": t.token})
	for i := range 1 + rnd.IntN(3) {
		token, data := fmt.Sprintf("%s/%d", t.token, i), fmt.Sprintf("foreign %d", rnd.IntN(100))
		x.sql(`INSERT INTO ticks VALUES (?, ?, ?)`, stranger+r.owner, token, data)
		x.put("ticks", row{"owner": stranger + r.owner, "token": token, "x": data})
	}
	strange(x) // its own rows, or those that the driver has had in its hands since
	for _, s := range x.stmts {
		if _, err := tx.Exec(s.text, s.args...); err != nil {
			return fmt.Errorf("%s: %w", s.text, err)
		}
	}
	t.ops = x.ops()
	w.know(t)
	if err := tx.Commit(); err != nil {
		return err
	}
	r.live.apply(t)
	r.pending, r.log = append(r.pending, t), append(r.log, t)
	w.stats.commits++
	return nil
}

// remote lets somebody write to the remote who is no replica.
func (w *world) remote(rnd *rand.Rand) error {
	w.lastSer++
	t := &txn{serial: w.lastSer, token: fmt.Sprintf("~%d~", w.lastSer), owner: "srv"}
	n, id := rnd.IntN(100), fmt.Sprintf("n%d", rnd.IntN(10))
	texts := []string{`INSERT INTO journal VALUES ('` + t.token + `')`}
	ops := map[ref]row{{"journal", keyOf(t.token)}: {"token": t.token}}
	key := ref{"notes", keyOf(id)}
	old := w.host.model.get("notes", key.key)
	switch {
	case old == nil:
		texts = append(texts, fmt.Sprintf(`INSERT INTO notes VALUES ('%s', %d, NULL, 'srv')`, id, n))
		ops[key] = row{"id": id, "a": int64(n), "b": nil, "c": "srv"}
	case rnd.IntN(3) == 0:
		texts = append(texts, fmt.Sprintf(`DELETE FROM notes WHERE id = '%s'`, id))
		ops[key] = nil
	default:
		texts = append(texts, fmt.Sprintf(`UPDATE notes SET c = %d WHERE id = '%s'`, n, id))
		changed := row{"id": id, "a": old["a"], "b": old["b"], "c": int64(n)}
		ops[key] = changed
	}
	for _, ref := range sortedRefs(ops) {
		if o, ok := diffOp(ref.table, ref.key, w.host.model.get(ref.table, ref.key), ops[ref]); ok {
			t.ops = append(t.ops, o)
		}
	}
	w.know(t)
	return w.query(texts...)
}

// copyReplica keeps a copy of the files, as a backup program takes it from a running
// system that happens to do nothing at the moment.
func (w *world) copyReplica(r *replica) error {
	dir, err := w.newDir(r.name + "-copy")
	if err != nil {
		return err
	}
	if err := copyFiles(dir, r.dir); err != nil {
		return err
	}
	c := &copied{dir: dir, pending: slices.Clone(r.pending), log: slices.Clone(r.log), seen: map[string]bool{}, version: r.version}
	for t := range r.seen {
		c.seen[t] = true
	}
	r.copies = append(r.copies, c)
	return nil
}

// settled tells whether the remote has all of r's transactions, and r knows it.
func (w *world) settled(r *replica) bool {
	if os.Getenv("TURSOSYNC_SIM_FORKS") != "" {
		return true
	}
	st, err := r.handle.Stats(ctx0)
	return err == nil && st.PendingChanges == 0 && first(r.pending, func(t *txn) bool { return !w.has(t) }) == nil
}

// restoreReplica puts a copy in place of the replica's files.
func (w *world) restoreReplica(r *replica, rnd *rand.Rand) error {
	if len(r.copies) == 0 {
		return nil
	}
	c := r.copies[rnd.IntN(len(r.copies))]
	w.forget(r)
	if err := r.close(); err != nil {
		return err
	}
	dir, err := w.newDir(r.name + "-")
	if err != nil {
		return err
	}
	if err := copyFiles(dir, c.dir); err != nil {
		return err
	}
	r.net.kill()
	r.dir, r.net = dir, &network{w: w, r: r}
	r.pending, r.log, r.seen, r.version = slices.Clone(c.pending), slices.Clone(c.log), map[string]bool{}, c.version
	for t := range c.seen {
		r.seen[t] = true
	}
	r.owner = w.newOwner()
	if err := r.open(); err != nil {
		return err
	}
	err = w.checkReplica(r)
	w.writeOff()
	return err
}

// clone opens a copy of the files beside the replica; both go on.
func (w *world) clone(r *replica, rnd *rand.Rand) error {
	if len(w.replicas) >= 6 {
		return nil
	}
	dir, err := w.newDir("clone")
	if err != nil {
		return err
	}
	if err := copyFiles(dir, r.dir); err != nil {
		return err
	}
	n, err := w.addReplica(dir)
	if err != nil {
		return err
	}
	n.pending, n.log, n.version = slices.Clone(r.pending), slices.Clone(r.log), r.version
	for t := range r.seen {
		n.seen[t] = true
	}
	if err := n.open(); err != nil {
		return err
	}
	return w.checkReplica(n)
}

// rest ends all trouble, lets everybody sync, and checks.
func (w *world) rest() error {
	if err := w.closeStale(); err != nil {
		return err
	}
	if w.host.srv == nil {
		if err := w.startServer(w.host.dir); err != nil {
			return err
		}
	}
	if err := w.do(step{Kind: "deliver"}, nil, rand.New(rand.NewPCG(1, 1))); err != nil {
		return err
	}
	for range 3 {
		for _, r := range w.replicas {
			for _, rd := range r.readers {
				if err := rd.tx.Rollback(); err != nil {
					return err
				}
			}
			r.readers = nil
			ctx, cancel := stepContext()
			r.pushErr = r.handle.Push(ctx)
			var rejected *tursosync.RejectedError
			if r.pushErr != nil && !errors.As(r.pushErr, &rejected) {
				cancel()
				return &violation{fmt.Sprintf("push of %s when all is well: %v", r.name, r.pushErr)}
			}
			r.calm(true, false)
			r.pullErr = r.handle.Pull(ctx)
			cancel()
			if r.pullErr != nil {
				return &violation{fmt.Sprintf("pull of %s when all is well: %v", r.name, r.pullErr)}
			}
			r.calm(false, true)
			if err := w.checkReplica(r); err != nil {
				return err
			}
		}
	}
	if err := w.failed(); err != nil {
		return err
	}
	return w.checkRest()
}
