package replica

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/faultfs"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/syncer"
)

// remote is a fake remote: a real SQLite database, whose pages after each commit
// are kept as a revision.
type remote struct {
	t    testing.TB
	path string
	conn *conn
	revs []remoteRev // revision n is revs[n]
	// knobs
	noPin     bool // forgets old revisions: answers with the newest
	replace   bool // answers with everything, replace-base
	mangle    func(h *syncer.PullHeader, pages map[page.No][]byte)
	breakAt   int // the connection breaks after so many pages; 0: not
	requests  []syncer.PullRequest
	duringAns func() // called between header and pages
}

type remoteRev struct {
	pages [][]byte
}

func newRemote(t testing.TB, statements ...string) *remote {
	t.Helper()
	r := &remote{t: t, path: filepath.Join(faultfs.TempDir(t), "remote.db"), revs: []remoteRev{{}}}
	r.start()
	t.Cleanup(func() { r.conn.Close() })
	r.exec(statements...)
	return r
}

func (r *remote) start() {
	r.t.Helper()
	c, err := openConn(r.path, "mode=rwc")
	if err != nil {
		r.t.Fatal(err)
	}
	r.conn = c
	if err := c.exec("PRAGMA page_size=4096; PRAGMA journal_mode=WAL"); err != nil {
		r.t.Fatal(err)
	}
}

// wipe makes the remote another database, with nothing in it.
func (r *remote) wipe() {
	r.t.Helper()
	r.conn.Close()
	if err := removeDatabase(r.path); err != nil {
		r.t.Fatal(err)
	}
	r.revs = []remoteRev{{}}
	r.start()
}

// exec runs statements and makes a revision of the result.
func (r *remote) exec(statements ...string) {
	r.t.Helper()
	for _, s := range statements {
		if err := r.conn.exec(s); err != nil {
			r.t.Fatalf("remote: %s: %v", s, err)
		}
	}
	if len(statements) > 0 {
		r.commit()
	}
}

func (r *remote) commit() {
	r.t.Helper()
	if err := r.conn.exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		r.t.Fatal(err)
	}
	file, err := os.ReadFile(r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	var pages [][]byte
	last := r.revs[len(r.revs)-1].pages
	for i := 0; i < len(file); i += page.Size {
		image := file[i : i+page.Size]
		if n := i / page.Size; n < len(last) && bytes.Equal(last[n], image) {
			image = last[n] // keep memory small
		}
		pages = append(pages, image)
	}
	r.revs = append(r.revs, remoteRev{pages})
}

func (r *remote) revision() page.Revision {
	return page.Revision(strconv.Itoa(len(r.revs) - 1))
}

// push commits a replica's pending changes, as a batch would.
func (r *remote) push(rep *Replica, limits syncer.Limits) int {
	r.t.Helper()
	ctx := r.t.Context()
	p, err := rep.Pending(ctx, limits)
	if err != nil {
		r.t.Fatal(err)
	}
	if len(p.Txns) == 0 {
		return 0
	}
	last := p.Txns[len(p.Txns)-1].Last()
	if err := rep.Intend(ctx, last); err != nil {
		r.t.Fatal(err)
	}
	n := r.apply(p)
	if err := rep.Acknowledge(ctx, last); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// apply makes the pending changes part of the remote.
func (r *remote) apply(p syncer.Pending) int {
	r.t.Helper()
	if err := r.conn.exec(`CREATE TABLE IF NOT EXISTS turso_sync_last_change_id(client_id TEXT PRIMARY KEY, pull_gen INTEGER, change_id INTEGER)`); err != nil {
		r.t.Fatal(err)
	}
	got, err := r.conn.one(`SELECT change_id FROM turso_sync_last_change_id WHERE client_id = ?`, p.ClientID)
	if err != nil {
		r.t.Fatal(err)
	}
	if (got != nil) != p.Known || got != nil && got != int64(p.Watermark) {
		r.t.Fatalf("remote's watermark is %v, the replica expects %d (known %v)", got, p.Watermark, p.Known)
	}
	rp, err := cdc.NewReplayer(r.conn.SQLiteConn)
	if err != nil {
		r.t.Fatal(err)
	}
	defer rp.Close()
	n := 0
	for _, txn := range p.Txns {
		out, err := rp.Apply(r.t.Context(), txn.Changes)
		if err != nil || out.Rejected() {
			r.t.Fatalf("remote: apply transaction %d: %v %v", txn.ID(), err, out.Err)
		}
		n += len(txn.Changes)
		if err := r.conn.exec(`INSERT INTO turso_sync_last_change_id VALUES (?1, 0, ?2)
			ON CONFLICT(client_id) DO UPDATE SET change_id = ?2`, p.ClientID, int64(txn.Last())); err != nil {
			r.t.Fatal(err)
		}
	}
	r.commit()
	return n
}

var errBroken = errors.New("connection reset")

// fetch is a syncer.Fetch.
func (r *remote) fetch(ctx context.Context, req syncer.PullRequest, sink syncer.PullSink) error {
	r.requests = append(r.requests, req)
	newest := len(r.revs) - 1
	at := newest
	if n, err := strconv.Atoi(string(req.At)); err == nil && !r.noPin && n <= newest {
		at = n
	}
	now := r.revs[at].pages
	var before [][]byte
	whole := r.replace
	if n, err := strconv.Atoi(string(req.Have)); err == nil && n <= newest && !whole {
		before = r.revs[n].pages
	}
	h := syncer.PullHeader{Revision: page.Revision(strconv.Itoa(at)), PageCount: uint64(len(r.revs[newest].pages)), ReplaceBase: whole}
	pages := make(map[page.No][]byte)
	for i, image := range now {
		no := page.No(i + 1)
		if req.Pages != nil && !req.Pages.Has(no) {
			continue
		}
		if i < len(before) && bytes.Equal(before[i], image) {
			continue
		}
		pages[no] = image
	}
	if n, err := strconv.Atoi(string(req.Have)); err == nil && n > newest {
		clear(pages) // as tursodb: it knows nothing newer
	}
	if r.mangle != nil {
		r.mangle(&h, pages)
	}
	if err := sink.Header(h); err != nil {
		return fmt.Errorf("sink: %w", err)
	}
	if r.duringAns != nil {
		r.duringAns()
	}
	order := make([]page.No, 0, len(pages))
	for no := range pages {
		order = append(order, no)
	}
	slices.SortFunc(order, func(a, b page.No) int { return int(uint32(a)*2654435761>>3) - int(uint32(b)*2654435761>>3) })
	for i, no := range order {
		if r.breakAt > 0 && i >= r.breakAt {
			return errBroken
		}
		if err := sink.Page(no, pages[no]); err != nil {
			return fmt.Errorf("sink: %w", err)
		}
	}
	return ctx.Err()
}

// pulled pulls and checks the invariant.
func pulled(t *testing.T, rep *Replica, r *remote) syncer.PullReport {
	t.Helper()
	report, err := rep.Pull(t.Context(), r.fetch, syncer.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if report.Revision != r.revision() {
		t.Errorf("revision = %q, want %q", report.Revision, r.revision())
	}
	sameBase(t, rep, r)
	invariant(t, rep)
	return report
}

// sameBase requires that base is the remote's file.
func sameBase(t testing.TB, rep *Replica, r *remote) {
	t.Helper()
	var want bytes.Buffer
	for _, image := range r.revs[len(r.revs)-1].pages {
		want.Write(image)
	}
	got, err := os.ReadFile(rep.files.base())
	if err != nil && want.Len() > 0 {
		t.Fatal(err)
	}
	if sha256.Sum256(got) != sha256.Sum256(want.Bytes()) {
		t.Errorf("base (%d bytes) is not the remote's file (%d bytes)", len(got), want.Len())
	}
	st := rep.state()
	if same, err := rep.baseIs(st); err != nil || !same {
		t.Errorf("the state's checksum of base is wrong (%v)", err)
	}
	for _, path := range []string{rep.files.base() + "-wal", rep.files.base() + "-shm", rep.files.pull(), rep.files.next(), rep.files.stage()} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is left over", path)
		}
	}
}

// invariant requires live = replay(base, log).
func invariant(t testing.TB, rep *Replica) {
	t.Helper()
	rep.mu.Lock()
	defer rep.mu.Unlock()
	reader, err := rep.readerConn()
	if err != nil {
		t.Fatal(err)
	}
	s, err := rep.newSpool()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := reader.beginRead(); err != nil {
		t.Fatal(err)
	}
	defer reader.rollback()
	if err := rep.diffWithReplay(context.Background(), reader, s); err != nil {
		t.Fatal(err)
	}
	if s.last > 0 {
		err := cdc.Load(s.conn.SQLiteConn, 0, func(c *cdc.Change) error {
			t.Errorf("live differs from replay(base, log): table %q row %d type %d schema %+v", c.Table, c.RowID, c.Type, c.Schema)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n, err := reader.number(`SELECT count(*) FROM turso_cdc WHERE change_id <= ?`, int64(rep.state().baseMark)); err != nil || n > 0 {
		t.Errorf("%d changes that are part of base are in the log (%v)", n, err)
	}
	if text, err := reader.one("PRAGMA integrity_check"); err != nil || text != "ok" {
		t.Errorf("integrity_check of live: %v %v", text, err)
	}
	stored, found, err := readState(reader)
	if err != nil || !found {
		t.Fatalf("read state: %v", err)
	}
	if got, want := stored.fields(), rep.state(); !sameFields(got, want.fields()) {
		t.Errorf("stored state = %v, in memory %v", got, want.fields())
	}
}

func sameFields(a, b map[string]driver.Value) bool {
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return len(a) == len(b)
}

// write commits statements to live as a driver's connection would: under the
// gate, and with the changes in the log. What changed is found by comparison,
// so that these tests need no capture.
func write(t testing.TB, rep *Replica, statements ...string) {
	t.Helper()
	ctx := context.Background()
	if err := rep.log.Acquire(ctx); err != nil {
		t.Fatal(err)
	}
	defer rep.log.Release()
	c, err := openConn(rep.files.live, "mode=rw")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	old, err := openConn(rep.files.live, "mode=rw")
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := c.begin(ctx); err != nil {
		t.Fatal(err)
	}
	ws, err := c.db.WALState()
	if err != nil {
		t.Fatal(err)
	}
	if ws.Change != rep.log.Expected() {
		t.Logf("foreign write found by a write")
		rep.mu.Lock()
		rep.compare = true
		rep.mu.Unlock()
	}
	for _, s := range statements {
		if err := c.exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	if err := old.beginRead(); err != nil {
		t.Fatal(err)
	}
	next, err := c.number(`SELECT max(ifnull((SELECT max(change_id) FROM turso_cdc), 0), ifnull((SELECT value FROM turso_sync_state WHERE key = 'last_id'), 0)) + 1`)
	if err != nil {
		t.Fatal(err)
	}
	var changes []cdc.Change
	err = cdc.Diff(ctx, old.SQLiteConn, c.SQLiteConn, func(ch *cdc.Change) error {
		ch.ID, ch.Txn = cdc.ID(next)+cdc.ID(len(changes)), cdc.ID(next)
		changes = append(changes, *ch)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	old.rollback()
	if err := cdc.Append(c.SQLiteConn, changes); err != nil {
		t.Fatal(err)
	}
	if err := c.exec("COMMIT"); err != nil {
		t.Fatal(err)
	}
	rep.log.Expect(ws.Change + 1)
}

// rows returns a query's result on live as text.
func rows(t testing.TB, rep *Replica, query string) []string {
	t.Helper()
	return rowsOf(t, rep.files.live, query)
}

func rowsOf(t testing.TB, path, query string) []string {
	t.Helper()
	c, err := openConn(path, "mode=rw")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	list := []string{}
	err = c.query(query, nil, func(row []driver.Value) error {
		words := make([]string, len(row))
		for i, v := range row {
			words[i] = fmt.Sprint(v)
		}
		list = append(list, strings.Join(words, " "))
		return nil
	})
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return list
}

func wantRows(t testing.TB, rep *Replica, query string, want ...string) {
	t.Helper()
	if got := rows(t, rep, query); !slices.Equal(got, want) {
		t.Errorf("%s = %q, want %q", query, got, want)
	}
}
