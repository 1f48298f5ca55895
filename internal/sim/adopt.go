package sim

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tursosync/tursosync"
)

// A file full of rows becomes a replica. To the model all that it holds is one
// transaction, of inserts only, which nobody but the file knows of at first. Uploaded,
// it is pushed like any other; downloaded over, it is in a backup and nowhere else.

// openPoints are the fault points of opening it, adoptPoints those of the first pull.
var (
	openPoints  = []string{"make.wal", "make.commit", "rebuild.commit", "rebuild.link", "rebuild.rename", "hint.take"}
	adoptPoints = []string{"adopt.step", "backup.rename", "state.commit", "state.commit"}
)

// unstable are tables that migrations change: a file that lacks them takes the remote's,
// and need not know what it did with them.
var unstable = map[string]bool{"wide": true, "grown": true, "reb": true}

// bulk begins the owner of rows that make a file larger than others.
const bulk = "b."

// modes of adopting, by a step's N. Auto leaves a remote that is not empty alone, and
// what follows was somebody's decision.
var existing = [][]tursosync.Existing{
	{tursosync.ExistingUpload},
	{tursosync.ExistingDownload},
	{tursosync.ExistingAuto, tursosync.ExistingUpload},
	{tursosync.ExistingAuto, tursosync.ExistingDownload},
}

// adopt opens a file of another program as a replica and lets it sync once, with faults.
// The steps that follow bring to an end what that leaves.
func (w *world) adopt(ctx context.Context, x step, rnd *rand.Rand) error {
	if len(w.replicas) >= 6 {
		return nil
	}
	r, err := w.addReplica("")
	if err != nil {
		return err
	}
	if err := w.fillFile(r, rnd); err != nil {
		return err
	}
	modes := existing[x.N%len(existing)]
	r.existing = modes[0]
	w.stats.faults["adopt."+string(modes[len(modes)-1])]++
	// What is written on top of a file that is downloaded over loses its ground.
	if modes[len(modes)-1] == tursosync.ExistingDownload {
		w.unsound[r.owner] = true
	}
	crashed, hit, err := w.during(r, x.At, r.open)
	if crashed != "" {
		err = w.crash(r, crashed, at{})
	} else if err != nil && hit {
		w.trace("    = %v", err)
		err = r.open()
	}
	if err != nil {
		return err
	}
	if err := w.checkReplica(r); err != nil {
		return err
	}
	if len(modes) > 1 && w.ready {
		if err := r.handle.Sync(ctx); !errors.Is(err, tursosync.ErrNotReplica) {
			return &violation{fmt.Sprintf("%s is full of data, and so is the remote: %v", r.name, err)}
		}
		if err := r.close(); err != nil {
			return err
		}
		r.existing = modes[1]
		if err := r.open(); err != nil {
			return err
		}
		if err := w.checkReplica(r); err != nil {
			return err
		}
	}
	for range rnd.IntN(3) {
		if err := w.commitOne(ctx, r, rnd); err != nil {
			return err
		}
	}
	if err := w.sync(ctx, step{Kind: "sync", At: x.Again, Net: x.Net}, r); err != nil {
		return err
	}
	if err := w.checkReplica(r); err != nil {
		return err
	}
	if r.adopting || w.fixed {
		return nil
	}
	return w.commitParts(ctx, r, rnd, strange) // what was bulky need not be so for ever
}

// fillFile makes the file that another program has written for years.
func (w *world) fillFile(r *replica, rnd *rand.Rand) error {
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(r.dir, liveName)+"?_foreign_keys=1")
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	defer db.Close()
	texts := []string{
		[]string{`PRAGMA page_size=4096`, `PRAGMA page_size=4096`, `PRAGMA page_size=1024`, `PRAGMA page_size=16384`}[rnd.IntN(4)],
		[]string{`PRAGMA encoding='UTF-8'`, `PRAGMA encoding='UTF-8'`, `PRAGMA encoding='UTF-16'`}[rnd.IntN(3)],
		[]string{`PRAGMA journal_mode=DELETE`, `PRAGMA journal_mode=WAL`}[rnd.IntN(2)],
	}
	for _, name := range sortedTables() {
		if !w.ready || !unstable[name] {
			texts = append(texts, tables[name].create)
		}
	}
	for _, text := range others {
		if !w.ready || !strings.Contains(text, " ON grown(") && !strings.Contains(text, " ON reb(") {
			texts = append(texts, text)
		}
	}
	for _, text := range texts {
		if _, err := db.Exec(text); err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
	}
	w.lastSer++
	t := &txn{serial: w.lastSer, token: fmt.Sprintf("~%d~", w.lastSer), owner: r.owner, foreign: true, adopted: true}
	x := &write{r: r, rnd: rnd, owner: r.owner, token: t.token, after: map[ref]row{}, whole: map[ref]bool{}}
	x.sql(`INSERT INTO journal VALUES (?)`, t.token)
	x.put("journal", row{"token": t.token})
	x.sql(`INSERT INTO once VALUES (?)`, t.token)
	x.put("once", row{"token": t.token})
	r.adopting, r.db = true, db
	defer func() { r.db = nil }()
	for range rnd.IntN(40) {
		if l := workloads[rnd.IntN(len(workloads))]; !l.alone && !l.schema && !l.late {
			l.do(x)
		}
	}
	if !w.fixed && rnd.IntN(4) == 0 { // more rows than are logged at once
		n := 1100 + rnd.Int64N(1500)
		x.sql(`WITH RECURSIVE i(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM i WHERE n < ? - 1) INSERT INTO ticks SELECT ?, ? || '/bulk' || n, n FROM i`,
			n, bulk+r.owner, t.token)
		for i := range n {
			x.put("ticks", row{"owner": bulk + r.owner, "token": fmt.Sprintf("%s/bulk%d", t.token, i), "x": i})
		}
	}
	err = x.run(ctx0, false, func() {
		t.ops = x.ops()
		w.know(t)
	})
	if err != nil {
		return fmt.Errorf("fill %s: %w", r.name, err)
	}
	r.live.apply(t)
	r.pending, r.log = []*txn{t}, []*txn{t}
	return db.Close()
}

// learnAdopted looks whether r's file is one with the remote. What a download has
// overwritten is gone, and has to be in a backup.
func (w *world) learnAdopted(r *replica, base, live state) error {
	if !r.adopting || base["journal"] == nil {
		return nil
	}
	r.adopting = false
	if r.existing != tursosync.ExistingDownload {
		return nil
	}
	there := func(t *txn) bool { return live.get("journal", keyOf(t.token)) != nil || r.seen[t.token] }
	if file := r.log[0]; there(file) {
		return &violation{fmt.Sprintf("%s took the remote's content, and %s of its own is still there", r.name, file)}
	}
	r.owner = w.newOwner()
	for _, t := range r.log {
		if t.foreign && !there(t) {
			w.gone[t.token] = true
		}
	}
	backups, err := filepath.Glob(filepath.Join(r.dir, liveName+"-backup-*"))
	if err != nil {
		return err
	}
	var differs []string
	for _, path := range backups {
		kept, err := readFile(path)
		if err != nil {
			return err
		}
		want := state{}
		for _, t := range r.log {
			want.apply(t)
			d := compare(kept, want)
			if d == "" {
				return nil
			}
			differs = append(differs, fmt.Sprintf("%s up to %s: %s", filepath.Base(path), t, d))
		}
	}
	return &violation{fmt.Sprintf("none of %d backups of %s is what was there before the remote's content:\n\t%s", len(backups), r.name, strings.Join(differs, "\n\t"))}
}

// readFile reads a database that nobody has open.
func readFile(path string) (state, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite3", "file:"+path+"?mode=ro")
	if err != nil {
		return nil, err
	}
	defer db.Close()
	if err := checkFiles(db); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return readAll(db)
}

// without returns the transactions that are not gone.
func (w *world) without(list []*txn) []*txn {
	return slices.DeleteFunc(slices.Clone(list), func(t *txn) bool { return t.foreign && w.gone[t.token] })
}

// firstAdopted makes the first replica of the world out of a file, and waits until an
// empty remote has all of it.
func (w *world) firstAdopted(x step) error {
	ctx, cancel := stepContext()
	defer cancel()
	if x.N%len(existing) == 1 { // nothing to download
		x.N++
	}
	if err := w.adopt(ctx, x, rand.New(rand.NewPCG(x.Seed, 1))); err != nil {
		return err
	}
	if err := w.tap(); err != nil {
		return err
	}
	r := w.replicas[0]
	if err := r.handle.Sync(ctx); err != nil {
		return fmt.Errorf("sync of an adopted file: %w", err)
	}
	r.pushErr, r.pullErr = nil, nil
	if err := w.checkReplica(r); err != nil {
		return err
	}
	if len(r.pending) > 0 && !maps.Equal(map[string]bool{}, r.rejected) {
		return &violation{fmt.Sprintf("an empty remote refuses a file: %v", r.rejected)}
	}
	return nil
}
