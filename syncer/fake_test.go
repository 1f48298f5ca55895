package syncer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/page"
)

var itemShape = &cdc.Shape{Columns: []string{"id", "v"}, Key: []int{0}, RowIDAlias: 0}

// insertTxn is a transaction of n inserts whose first change has the given id.
func insertTxn(id cdc.ID, n int) Txn {
	var t Txn
	for i := range cdc.ID(n) {
		t.Changes = append(t.Changes, cdc.Change{
			ID: id + i, Txn: id, Type: cdc.Insert, Table: "item", RowID: int64(id + i), Shape: itemShape,
			After: cdc.EncodeRecord([]any{int64(id + i), fmt.Sprint("v", id+i)}),
		})
	}
	return t
}

// rows returns the changes that mutations hold: those of insertTxn have the ids
// of their rows, many of which may be in one statement.
func rows(mutations []cdc.Mutation) (ids []cdc.ID) {
	for _, m := range mutations {
		if len(m.Args) <= 2 {
			ids = append(ids, m.Change)
			continue
		}
		for i := 0; i < len(m.Args); i += 2 {
			id, _ := m.Args[i].(int64)
			ids = append(ids, cdc.ID(id))
		}
	}
	return ids
}

// fakeReplica keeps its log in memory and fails the test when two of its
// methods run at once.
type fakeReplica struct {
	t    testing.TB
	busy atomic.Int32
	loop *Loop

	mu        sync.Mutex
	clientID  string
	txns      []Txn
	lastID    cdc.ID
	watermark cdc.ID
	known     bool
	intended  cdc.ID
	rejected  []Rejection
	revision  page.Revision
	report    PullReport // of the next pull, once
	wal       int64
	pullFirst bool // Pending needs a pull
	schema    []SchemaObject

	checkpoints, reconciles, pendings int
}

func newFakeReplica(t testing.TB) *fakeReplica { return &fakeReplica{t: t, clientID: "c1"} }

func (r *fakeReplica) alone() func() {
	if r.busy.Add(1) != 1 {
		r.t.Error("replica is used twice at once")
	}
	r.mu.Lock()
	return func() {
		r.mu.Unlock()
		r.busy.Add(-1)
	}
}

// commit logs a transaction of n inserts, as the application would.
func (r *fakeReplica) commit(n int) cdc.ID {
	r.mu.Lock()
	id := r.lastID + 1
	r.txns = append(r.txns, insertTxn(id, n))
	r.lastID += cdc.ID(n)
	r.wal += 4096
	r.mu.Unlock()
	if r.loop != nil {
		r.loop.Committed()
	}
	return id
}

func (r *fakeReplica) Pending(_ context.Context, limits Limits) (Pending, error) {
	defer r.alone()()
	r.pendings++
	if r.pullFirst {
		return Pending{}, ErrPullFirst
	}
	p := Pending{ClientID: r.clientID, Watermark: r.watermark, Known: r.known, Last: r.lastID}
	n := 0
	for _, t := range r.txns {
		if t.ID() <= r.watermark {
			continue
		}
		if n > 0 && n+len(t.Changes) > limits.Changes {
			p.More = true
			break
		}
		n += len(t.Changes)
		p.Txns = append(p.Txns, t)
	}
	return p, nil
}

func (r *fakeReplica) Intend(_ context.Context, last cdc.ID) error {
	defer r.alone()()
	r.intended = last
	return nil
}

func (r *fakeReplica) Acknowledge(_ context.Context, id cdc.ID) error {
	defer r.alone()()
	if id < r.watermark {
		r.t.Errorf("watermark goes back from %d to %d", r.watermark, id)
	}
	r.watermark, r.known = id, true
	return nil
}

func (r *fakeReplica) Reconcile(_ context.Context, w cdc.ID, found bool) (bool, error) {
	defer r.alone()()
	r.reconciles++
	switch {
	case !found && !r.known, found && w == r.watermark && r.known:
		return false, nil
	case found && w == r.intended:
		r.watermark, r.known = w, true
		return false, nil
	}
	r.clientID += "'"
	r.watermark, r.known = 0, false
	return true, nil
}

func (r *fakeReplica) Reject(_ context.Context, txns []cdc.ID, reason string) ([]Rejection, error) {
	defer r.alone()()
	r.txns = slices.DeleteFunc(r.txns, func(t Txn) bool {
		if !slices.Contains(txns, t.ID()) {
			return false
		}
		r.rejected = append(r.rejected, Rejection{Txn: t.ID(), Changes: t.Changes, Reason: reason})
		return true
	})
	return nil, nil
}

func (r *fakeReplica) Pull(ctx context.Context, fetch Fetch, opts PullOptions) (PullReport, error) {
	if r.busy.Add(1) != 1 {
		r.t.Error("replica is used twice at once")
	}
	defer r.busy.Add(-1)
	r.mu.Lock()
	have := r.revision
	r.mu.Unlock()
	var sink fakeSink
	if err := fetch(ctx, PullRequest{Have: have, LongPoll: opts.LongPoll}, &sink); err != nil {
		return PullReport{}, fmt.Errorf("fetch: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pullFirst = false
	report := r.report
	r.report = PullReport{}
	report.Changed = report.Changed || sink.header.Revision != r.revision
	r.revision = sink.header.Revision
	report.Revision = r.revision
	return report, nil
}

type fakeSink struct{ header PullHeader }

func (s *fakeSink) Header(h PullHeader) error       { s.header = h; return nil }
func (s *fakeSink) Page(no page.No, _ []byte) error { return nil }

func (r *fakeReplica) Rebootstrap(context.Context) error { return nil }

func (r *fakeReplica) Checkpoint(context.Context) error {
	defer r.alone()()
	r.checkpoints++
	r.wal = 0
	return nil
}

func (r *fakeReplica) Measure(context.Context) (Measure, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Measure{ClientID: r.clientID, Watermark: r.watermark, LastChange: r.lastID, WALBytes: r.wal}, nil
}

func (r *fakeReplica) Schema(context.Context) ([]SchemaObject, error) {
	defer r.alone()()
	return r.schema, nil
}

func (r *fakeReplica) PendingSchema(_ context.Context, above cdc.ID) (ahead []cdc.Change, _ error) {
	defer r.alone()()
	for _, t := range r.txns {
		for _, c := range t.Changes {
			if c.ID > above && c.Schema != nil {
				ahead = append(ahead, c)
			}
		}
	}
	return ahead, nil
}

// fakeError carries its verdict.
type fakeError struct{ Verdict }

func (e *fakeError) Error() string { return e.Reason }

func judge(err error) Verdict {
	var f *fakeError
	if errors.As(err, &f) {
		return f.Verdict
	}
	return Verdict{Reason: err.Error()}
}

// fakeRemote holds the watermarks and how often each change arrived. Its hooks,
// if set, may answer in its place.
type fakeRemote struct {
	t  testing.TB
	mu sync.Mutex

	watermarks map[string]cdc.ID
	arrived    map[cdc.ID]int
	batches    []Batch
	pulls      int
	polls      int
	schema     []SchemaObject
	revision   int
	news       chan struct{} // closed by the next change of revision
	running    int
	maxRunning int

	// onPush sees a batch before it is applied; an error is the answer.
	onPush func(ctx context.Context, b Batch) error
	// afterPush may turn a success into an error: a lost answer.
	afterPush func(b Batch) error
	onPull    func(ctx context.Context) error
	onMark    func(ctx context.Context) error
	// latency of every request.
	latency time.Duration
	// noPolls makes the remote answer long polls at once.
	noPolls bool
}

func newFakeRemote(t testing.TB) *fakeRemote {
	return &fakeRemote{t: t, watermarks: map[string]cdc.ID{}, arrived: map[cdc.ID]int{}, news: make(chan struct{})}
}

// set changes the remote while the loop runs.
func (f *fakeRemote) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// count reads a number while the loop runs.
func (f *fakeRemote) count(n *int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *n
}

// sent returns the batches that were accepted so far.
func (f *fakeRemote) sent() []Batch {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.batches)
}

func (f *fakeRemote) begin() func() {
	f.mu.Lock()
	f.running++
	f.maxRunning = max(f.maxRunning, f.running)
	f.mu.Unlock()
	time.Sleep(f.latency)
	return func() {
		f.mu.Lock()
		f.running--
		f.mu.Unlock()
	}
}

func (f *fakeRemote) Watermark(ctx context.Context, clientID string) (cdc.ID, bool, error) {
	defer f.begin()()
	f.mu.Lock()
	onMark := f.onMark
	f.mu.Unlock()
	if onMark != nil {
		if err := onMark(ctx); err != nil {
			return 0, false, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	id, ok := f.watermarks[clientID]
	return id, ok, nil
}

func (f *fakeRemote) Push(ctx context.Context, b Batch) (PushResult, error) {
	defer f.begin()()
	f.mu.Lock()
	onPush := f.onPush
	f.mu.Unlock()
	if onPush != nil {
		if err := onPush(ctx, b); err != nil {
			return PushResult{}, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if id, ok := f.watermarks[b.ClientID]; ok != b.ExpectFound || id != b.Expect {
		return PushResult{}, &fakeError{Verdict{Kind: Moved, Reason: "moved", Answered: true}}
	}
	f.watermarks[b.ClientID] = b.Last
	for _, id := range rows(b.Mutations) {
		f.arrived[id]++
	}
	f.batches = append(f.batches, b)
	f.advance()
	if f.afterPush != nil {
		if err := f.afterPush(b); err != nil {
			return PushResult{}, err
		}
	}
	return PushResult{}, nil
}

// advance needs f.mu.
func (f *fakeRemote) advance() {
	f.revision++
	close(f.news)
	f.news = make(chan struct{})
}

func (f *fakeRemote) Schema(context.Context) ([]SchemaObject, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.schema, nil
}

func (f *fakeRemote) Fetch(ctx context.Context, req PullRequest, sink PullSink) error {
	f.mu.Lock()
	f.pulls++
	news, onPull := f.news, f.onPull
	current := page.Revision(fmt.Sprint(f.revision)) == req.Have
	f.mu.Unlock()
	if onPull != nil {
		if err := onPull(ctx); err != nil {
			return err
		}
	}
	if req.LongPoll > 0 && current && !f.noPolls {
		f.mu.Lock()
		f.polls++
		f.mu.Unlock()
		select {
		case <-news:
		case <-time.After(req.LongPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f.mu.Lock()
	h := PullHeader{Revision: page.Revision(fmt.Sprint(f.revision)), PageCount: 1}
	f.mu.Unlock()
	if err := sink.Header(h); err != nil {
		return err
	}
	defer f.begin()()
	return ctx.Err()
}

func (f *fakeRemote) Transferred() (int64, int64) { return 1, 2 }

// each asserts that changes 1 to last arrived once, but for those in except.
func (f *fakeRemote) each(last cdc.ID, except ...cdc.ID) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := cdc.ID(1); id <= last; id++ {
		want := 1
		if slices.Contains(except, id) {
			want = 0
		}
		if got := f.arrived[id]; got != want {
			f.t.Errorf("change %d arrived %d times, want %d", id, got, want)
		}
	}
}
