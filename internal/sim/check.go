package sim

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tursosync/tursosync"
)

// checkReplica is what must hold whenever r is at rest.
func (w *world) checkReplica(r *replica) error {
	if r.db == nil {
		return nil
	}
	w.stats.checks++
	before := r.version
	live, err := readAll(r.db)
	if err != nil {
		return fmt.Errorf("read %s: %w", r.name, err)
	}
	base, err := w.learn(r, live)
	if err != nil {
		return err
	}
	if err := w.checkSound(r.name, live); err != nil {
		return err
	}
	if !r.fuzzy {
		if d := compare(live, r.live); d != "" {
			return &violation{fmt.Sprintf("live of %s is not base and what is pending on top (%d transactions):\n\t%s", r.name, len(r.pending), d)}
		}
		version, ok := w.host.sums[base.sum()]
		if !ok {
			return &violation{fmt.Sprintf("base of %s is a state that the remote never was in: its last differs by\n\t%s", r.name, compare(base, w.host.model))}
		}
		if version < before && w.stale == nil {
			return &violation{fmt.Sprintf("base of %s went back from version %d to %d", r.name, before, version)}
		}
		r.version = version
		if err := w.checkSound(r.name+"'s base", base); err != nil {
			return err
		}
	}
	for _, rd := range r.readers {
		now, err := readAll(rd.tx)
		if err != nil {
			return fmt.Errorf("read on in an old transaction of %s: %w", r.name, err)
		}
		if d := compare(now, rd.saw); d != "" {
			return &violation{fmt.Sprintf("a reader of %s sees another state than when it began:\n\t%s", r.name, d)}
		}
	}
	return w.checkStatus(r)
}

// checkStatus asks whether what the replica says of itself is so.
func (w *world) checkStatus(r *replica) error {
	st, err := r.handle.Stats(context.Background())
	if err != nil {
		return fmt.Errorf("stats of %s: %w", r.name, err)
	}
	missing := 0
	for _, t := range r.pending {
		if !w.has(t) && !t.foreign {
			missing++
		}
	}
	if missing > 0 && r.wary == 0 && !r.adopting && st.PendingChanges == 0 {
		return &violation{fmt.Sprintf("%s says that nothing is pending, but the remote lacks %d of its transactions, the first %s", r.name, missing, first(r.pending, func(t *txn) bool { return !w.has(t) }))}
	}
	if int(st.Rejected) != r.rejections {
		return &violation{fmt.Sprintf("%s says that %d transactions were rejected, and lists %d", r.name, st.Rejected, r.rejections)}
	}
	if n := fileSize(filepath.Join(r.dir, liveName+"-base")); !r.fuzzy && st.BaseBytes != n {
		return &violation{fmt.Sprintf("%s says that base has %d bytes, it has %d", r.name, st.BaseBytes, n)}
	}
	if w.auto != nil {
		return nil
	}
	s := r.handle.Status()
	want := tursosync.Running
	if bad(r.pushErr) || bad(r.pullErr) {
		want = tursosync.Offline
	}
	if s.State != want {
		return &violation{fmt.Sprintf("status of %s is %q, want %q (last push: %v; last pull: %v)", r.name, s, want, r.pushErr, r.pullErr)}
	}
	return nil
}

// bad tells whether a push or pull with that end did not succeed.
func bad(err error) bool {
	var rejected *tursosync.RejectedError
	return err != nil && !errors.As(err, &rejected)
}

func first(list []*txn, pass func(*txn) bool) *txn {
	if i := slices.IndexFunc(list, pass); i >= 0 {
		return list[i]
	}
	return nil
}

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// checkRemote compares the remote with the model.
func (w *world) checkRemote() error {
	if w.host.srv == nil {
		return nil
	}
	got, err := readAll(w.host.plain)
	if err != nil {
		return fmt.Errorf("read the remote: %w", err)
	}
	if d := compare(got, w.host.model); d != "" {
		return &violation{"the remote is not what the model says:\n\t" + d}
	}
	return w.checkSound("the remote", got)
}

// checkSound asks what the workloads promise for every state that any reader can
// see, of rows whose owners have lost nothing by restored files.
func (w *world) checkSound(where string, s state) error {
	type account struct {
		n   int
		sum int64
	}
	accounts := map[string]account{}
	for _, r := range s["accounts"] {
		o := r["owner"].(string)
		a := accounts[o]
		accounts[o] = account{a.n + 1, a.sum + r["balance"].(int64)}
	}
	for o, a := range accounts {
		if !w.unsound[o] && a != (account{accountCount, accountCount * accountStart}) {
			return &violation{fmt.Sprintf("%s: %s has %d in %d accounts, want %d in %d", where, o, a.sum, a.n, accountCount*accountStart, accountCount)}
		}
	}
	rings := map[string]map[int64]int64{}
	for _, r := range s["ring"] {
		o := r["owner"].(string)
		if rings[o] == nil {
			rings[o] = map[int64]int64{}
		}
		rings[o][r["node"].(int64)] = r["next"].(int64)
	}
	for o, ring := range rings {
		at, steps := int64(0), 0
		for steps = 1; steps <= ringSize && ring[at] != 0; steps++ {
			at = ring[at]
		}
		if !w.unsound[o] && (steps != ringSize || len(ring) != ringSize) {
			return &violation{fmt.Sprintf("%s: the ring of %s is broken: %v", where, o, ring)}
		}
	}
	ticks := map[string]int64{}
	for _, r := range s["ticks"] {
		ticks[r["owner"].(string)]++
	}
	for _, r := range s["counters"] {
		if o := r["owner"].(string); !w.unsound[o] && r["n"] != ticks[o] {
			return &violation{fmt.Sprintf("%s: counter of %s is %v, want %d", where, o, r["n"], ticks[o])}
		}
	}
	for _, r := range s["children"] {
		p := r["parent"].(string)
		if o, _, _ := strings.Cut(p, "."); !w.unsound[o] && s.get("parents", keyOf(p)) == nil {
			return &violation{fmt.Sprintf("%s: child %v has no parent %s", where, r["id"], p)}
		}
	}
	names := map[value]bool{}
	for _, r := range s["uniq"] {
		if names[r["name"]] {
			return &violation{fmt.Sprintf("%s: unique name %v is there twice", where, r["name"])}
		}
		names[r["name"]] = true
	}
	for _, r := range s["audit"] {
		o, _, _ := strings.Cut(r["id"].(string), ".")
		there := int64(0)
		if s.get("items", keyOf(r["id"])) != nil {
			there = 1
		}
		if !w.unsound[o] && r["ins"].(int64)-r["del"].(int64) != there {
			return &violation{fmt.Sprintf("%s: audit of item %v: %v inserted, %v deleted, %d there", where, r["id"], r["ins"], r["del"], there)}
		}
	}
	return nil
}

// checkFiles asks SQLite whether a file is sound. A file's own unique indexes and
// checks are among that; foreign keys of owners that lost something are not.
func checkFiles(db querier) error {
	words, err := readStrings(db, `PRAGMA integrity_check`)
	if err != nil {
		return err
	}
	if len(words) != 1 || words[0] != "ok" {
		return &violation{"integrity_check: " + strings.Join(words, "; ")}
	}
	return nil
}

// checkRest is what must hold when everything was synced and nobody is at work.
func (w *world) checkRest() error {
	digest, err := w.host.srv.Digest()
	if err != nil {
		return fmt.Errorf("digest of the remote: %w", err)
	}
	for _, r := range w.replicas {
		if err := w.checkReplica(r); err != nil {
			return err
		}
		if r.fuzzy {
			return &violation{fmt.Sprintf("%s: a pull is unfinished at rest", r.name)}
		}
		b, err := os.ReadFile(filepath.Join(r.dir, liveName+"-base"))
		if err != nil {
			return err
		}
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != digest {
			return &violation{fmt.Sprintf("base of %s is not the remote, byte for byte", r.name)}
		}
		st, err := r.handle.Stats(context.Background())
		if err != nil {
			return err
		}
		if st.PendingChanges != 0 {
			return &violation{fmt.Sprintf("%s says that %d changes are pending at rest", r.name, st.PendingChanges)}
		}
		if len(r.pending) > 0 {
			return &violation{fmt.Sprintf("%s: transaction %s is not in base at rest", r.name, r.pending[0])}
		}
		live, err := readAll(r.db)
		if err != nil {
			return err
		}
		if d := compare(live, w.host.model); d != "" {
			return &violation{fmt.Sprintf("%s did not converge:\n\t%s", r.name, d)}
		}
		if n, err := readStrings(r.db, `SELECT count(*) FROM turso_cdc`); err != nil || n[0] != "0" {
			return &violation{fmt.Sprintf("%s: the log holds %v rows at rest (%v)", r.name, n, err)}
		}
		if err := checkFiles(r.db); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	if err := checkFiles(w.host.plain); err != nil {
		return fmt.Errorf("remote: %w", err)
	}
	if err := w.checkRemote(); err != nil {
		return err
	}
	// Every commit that was acknowledged is on the remote, unless it was put aside,
	// or its only place was a file that the script replaced.
	rejected := map[string]bool{}
	for _, r := range w.replicas {
		for token := range r.rejected {
			rejected[token] = true
		}
	}
	for token := range w.txns {
		if !w.onRemote[token] && !rejected[token] && !w.gone[token] {
			return &violation{fmt.Sprintf("transaction %s is lost", token)}
		}
		// A clone may have got through with what its origin had put aside.
		if w.onRemote[token] && rejected[token] && len(w.unsound) == 0 {
			return &violation{fmt.Sprintf("transaction %s was put aside, and is on the remote", token)}
		}
	}
	return nil
}

// checkClosed asks what is left on disk when all is closed.
func (w *world) checkClosed() error {
	for _, r := range w.replicas {
		entries, err := os.ReadDir(r.dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			switch strings.TrimPrefix(e.Name(), liveName) {
			case "", "-base", "-lock":
			default:
				if !strings.HasPrefix(e.Name(), liveName+"-backup-") {
					return &violation{fmt.Sprintf("%s leaves the file %s behind", r.name, e.Name())}
				}
			}
		}
		// Any SQLite tool can open it.
		db, err := sql.Open("sqlite3", "file:"+filepath.Join(r.dir, liveName)+"?mode=ro")
		if err != nil {
			return err
		}
		err = checkFiles(db)
		if e := db.Close(); err == nil {
			err = e
		}
		if err != nil {
			return fmt.Errorf("%s, closed: %w", r.name, err)
		}
	}
	return nil
}
