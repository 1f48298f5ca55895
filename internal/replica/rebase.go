package replica

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/shim"
	"github.com/tursosync/tursosync/syncer"
)

// rebase makes live = replay(base, log) anew, in one page commit: on a new base,
// or on the same one with other changes.
//
//	stage: base, the delta on top, the log replayed     nothing is locked
//	gate:  replay what was committed in the meantime    writers wait
//	       page commit into live                        ″
//	       gate opens
//	base:  write the delta into it, drop the delta
//
// Until the page commit nothing but side files has changed, and giving up is
// always possible. The page commit moves data, log and state at once. After it,
// base follows from the delta, whatever happens (recover).
type rebase struct {
	r      *Replica
	delta  *delta            // nil: base stays as it is
	reject map[cdc.ID]string // transactions to put aside, with the reason
	again  *syncer.Rejection // a transaction put aside to be tried again, or nil
	halt   bool              // a transaction that cannot be replayed ends the rebase
	alone  bool              // everybody who writes waits from the beginning
	// leftOver: the delta was fetched by an earlier call; there may have been pushes since.
	leftOver bool
	report   *syncer.PullReport

	gated bool             // we have the gate
	pages *shim.PageCommit // not nil: and live's write lock
	old   *base
	stage *stage
	next  state  // what the page commit will make of the state
	upto  cdc.ID // the log is replayed up to here

	refused error // why again cannot be replayed still
}

// Ways in which a rebase ends early, for its caller to act on.
var (
	// errForeign: another program wrote to live; its rows must be logged first.
	errForeign = errors.New("another program wrote to the database")
	// errOutdated: a delta that was left over is older than a push which fits newer
	// pages only.
	errOutdated = errors.New("the answer is older than the last push")
	// errLineage: the delta is not a continuation of base.
	errLineage = errors.New("the remote went back in time")
)

// lateMax is how many transactions may be left for replay under the gate; with
// more, another round is made without it, roundsMax times.
const (
	lateMax   = 64
	roundsMax = 4
)

func (b *rebase) run(ctx context.Context) (err error) {
	r := b.r
	if b.alone {
		if err := b.lock(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.unlock()) }()
	}
	b.next = r.state()
	if b.old, err = openBase(r.files.base(), b.next.basePages); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.old.close()) }()
	if b.delta != nil && b.delta.whole {
		defer func() {
			if err != nil {
				r.dirty.known = false // it was on the way to the new base
				err = errors.Join(err, removeDatabase(r.files.next()))
			}
		}()
	}
	if err := b.openStage(); err != nil {
		return b.damaged(err)
	}
	defer func() { err = errors.Join(err, b.stage.close()) }()
	if err := b.checkIncrement(); err != nil {
		return err
	}
	if err := b.follow(); err != nil {
		return err
	}
	if err := b.replayFreely(ctx); err != nil {
		return err
	}
	if err := b.comparePages(); err != nil {
		return err
	}
	return b.commit(ctx)
}

// openStage assembles a whole new base, or takes the old one with the delta on top.
func (b *rebase) openStage() (err error) {
	r, d := b.r, b.delta
	switch {
	case d == nil:
		b.stage, err = r.openStage(r.files.base(), b.old.pageCount, nil)
	case d.whole:
		if err := assemble(r.files.next(), d); err != nil {
			return err
		}
		b.stage, err = r.openStage(r.files.next(), d.count, nil)
	default:
		b.stage, err = r.openStage(r.files.base(), b.old.pageCount, d)
	}
	return err
}

// follow works out what the new base means for the state: which changes it
// holds already, and whether it is a continuation of what we know.
func (b *rebase) follow() error {
	d, next := b.delta, &b.next
	if d == nil {
		return nil
	}
	var err error
	if next.baseSum, err = b.old.sumAfter(next.baseSum, d); err != nil {
		return err
	}
	marks, err := b.stage.conn.marks()
	if hasCode(err, sqlite3.ErrError) {
		return badAnswer("the remote's table of watermarks cannot be read: %v", err)
	}
	if err != nil {
		return b.damaged(err)
	}
	before, was, err := b.oldMarks()
	if err != nil {
		return err
	}
	back := wentBack(before, marks)
	if back {
		if !d.whole {
			return errLineage
		}
		b.report.RemoteReset = true
	}
	if d.reset {
		b.report.RemoteReset = true
	}
	next.revision, next.basePages, next.lastPull = d.to, d.count, d.ID()
	if d.whole {
		next.bootstrap = false
	}
	own, found := marks[next.clientID]
	if found && !next.recognise(own.id) {
		b.r.cfg.Logger.Warn("remote holds changes under our client id that are not ours: going on under a new one")
		if err := next.renew(own.id, true); err != nil {
			return err
		}
		found = false
	}
	// Fewer changes of ours than it has acknowledged: an answer from before the last
	// push, or a remote that was restored since, or never did what it said.
	if !found && next.known || found && own.id < next.watermark || b.report.RemoteReset {
		b.report.WantWatermark = true
	}
	next.baseMark = next.contained(marks)
	next.formers = slices.DeleteFunc(slices.Clone(next.formers), func(f former) bool { return f.Floor <= next.baseMark })
	next.adopt = ""
	b.report.Revision, b.report.Pages = d.to, len(d.order)
	b.report.Changed = next.basePages != b.old.pageCount || next.baseSum != b.r.state().baseSum
	if err := b.keepLost(was, back); err != nil {
		return err
	}
	b.report.Tables, err = b.tables(was)
	return err
}

// keepLost keeps a copy of base when the remote has lost what replicas had pushed,
// or has come back without any table: like emptied, for remotes whose empty database
// has a first page. Base may be the last copy of it.
func (b *rebase) keepLost(was schema, back bool) error {
	if !b.delta.whole || b.delta.count == 0 || len(was.userTables()) == 0 {
		return nil
	}
	if !back {
		is, err := readSchema(b.stage.conn)
		if err != nil {
			return b.damaged(err)
		}
		if len(is.userTables()) > 0 {
			return nil
		}
	}
	return b.r.backUpBase()
}

// userTables lists the tables that are neither ours nor the protocol's.
func (s schema) userTables() []string {
	names := make(map[string]bool)
	for _, o := range s {
		if o.kind == "table" {
			names[o.table] = true
		}
	}
	return userTables(names)
}

// tables names the tables that the delta may have changed.
func (b *rebase) tables(was schema) ([]string, error) {
	if !b.report.Changed {
		return nil, nil
	}
	is, err := readSchema(b.stage.conn)
	if err != nil {
		return nil, b.damaged(err)
	}
	if !slices.Equal(was, is) {
		names := make(map[string]bool)
		for _, o := range append(slices.Clone(was), is...) {
			if o.kind == "table" {
				names[o.table] = true
			}
		}
		return userTables(names), nil
	}
	changed := b.delta.pages.Clone()
	if b.delta.whole {
		changed = new(page.Set)
		if err := compareFiles(b.stage.main, b.delta.count, b.old, changed); err != nil {
			return nil, err
		}
	}
	changed.Truncate(page.No(b.delta.count))
	return touched(is, changed, b.delta.count, b.stage.readBase)
}

// oldMarks reads every client's watermark in base as it is now, and its schema.
func (b *rebase) oldMarks() (map[string]watermark, schema, error) {
	if b.old.pageCount == 0 {
		return nil, nil, nil
	}
	c, err := openConn(b.old.path, "mode=ro&immutable=1")
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	marks, err := c.marks()
	if err != nil {
		return nil, nil, err
	}
	s, err := readSchema(c)
	return marks, s, err
}

// wentBack tells whether a client's watermark fell or vanished: time goes forward
// on a remote, unless it was restored or is another one.
func wentBack(before, after map[string]watermark) bool {
	for client, was := range before {
		now, ok := after[client]
		if !ok || now.generation < was.generation || now.generation == was.generation && now.id < was.id {
			return true
		}
	}
	return false
}

// recognise tells whether a watermark found under our client id is one that we
// know of, and takes note of it.
func (s *state) recognise(mark cdc.ID) bool {
	if mark <= s.watermark {
		return true // an answer from before our last push
	}
	if !slices.Contains(s.intents, mark) {
		return false
	}
	s.acknowledge(mark)
	return true
}

// acknowledge moves the watermark.
func (s *state) acknowledge(mark cdc.ID) {
	s.watermark, s.known = mark, true
	s.sent = max(s.sent, mark)
	s.intents = slices.DeleteFunc(slices.Clone(s.intents), func(id cdc.ID) bool { return id <= mark })
}

// renew takes a new client id: the watermark found under the old one is not of
// our doing. Changes up to where the histories part are on the remote; the rest
// of the log is pending again.
func (s *state) renew(mark cdc.ID, found bool) error {
	id, err := newClientID(clientName(s.clientID))
	if err != nil {
		return err
	}
	floor := cdc.ID(0)
	if found {
		floor = min(mark, s.watermark)
	}
	s.formers = append(slices.Clone(s.formers), former{ClientID: s.clientID, Floor: floor})
	s.clientID, s.watermark, s.known, s.intents = id, 0, false, nil
	s.sent = floor
	return nil
}

// contained returns up to which id base holds the log, going by the watermarks
// in it.
func (s *state) contained(marks map[string]watermark) cdc.ID {
	id := min(marks[s.clientID].id, s.watermark)
	for _, f := range s.formers {
		id = max(id, min(marks[f.ClientID].id, f.Floor))
	}
	return id
}

// damaged blames the answer for what SQLite cannot read.
func (b *rebase) damaged(err error) error {
	if b.delta != nil && hasCode(err, notDatabase...) {
		return badAnswer("the pages make no intact database: %v", err)
	}
	return err
}

// replayFreely replays the log on the stage while writers go on.
func (b *rebase) replayFreely(ctx context.Context) error {
	if err := b.stage.begin(); err != nil {
		return b.damaged(err)
	}
	reader, err := b.r.readerConn()
	if err != nil {
		return err
	}
	b.upto = b.next.baseMark
	for round := range roundsMax {
		n, err := b.replaySnapshot(ctx, reader, round == 0)
		if err != nil {
			return err
		}
		if n <= lateMax {
			break
		}
	}
	return nil
}

// replaySnapshot replays what the log holds now above b.upto. The first time
// that may be much: it is carried over as a whole then.
func (b *rebase) replaySnapshot(ctx context.Context, reader *conn, first bool) (txns int, err error) {
	if err := reader.beginRead(); err != nil {
		return 0, err
	}
	defer reader.rollback()
	if first {
		if err := b.stage.carry(b.r.files.live, reader, b.upto); err != nil {
			return 0, b.damaged(fmt.Errorf("carry log over: %w", err))
		}
	}
	return b.replayLog(ctx, reader)
}

func (b *rebase) replayLog(ctx context.Context, from *conn) (txns int, err error) {
	b.stage.foresee(from, b.upto)
	var run [][]cdc.Change
	changes := 0
	err = cdc.LoadTxns(from.SQLiteConn, b.upto, func(txn []cdc.Change) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		txns++
		run = append(run, txn)
		if changes += len(txn); changes < replayMax {
			return nil
		}
		err := b.replayTxns(ctx, run)
		run, changes = nil, 0
		return err
	})
	if err == nil {
		err = b.replayTxns(ctx, run)
	}
	return txns, err
}

// replayMax is how many changes are read before they are replayed, unless one
// transaction has more.
const replayMax = 512

// replayTxns replays transactions that follow each other in the log, many with
// one call where nothing stands against it.
func (b *rebase) replayTxns(ctx context.Context, txns [][]cdc.Change) error {
	for len(txns) > 0 {
		n, err := b.stage.replayRun(ctx, b.unrejected(txns))
		if err != nil {
			return b.damaged(err)
		}
		for _, txn := range txns[:n] {
			b.report.Replayed += len(txn)
			b.upto = txn[len(txn)-1].ID
		}
		if txns = txns[n:]; len(txns) > 0 {
			b.upto = txns[0][len(txns[0])-1].ID
			if err := b.replayTxn(ctx, txns[0]); err != nil {
				return err
			}
			txns = txns[1:]
		}
	}
	return nil
}

// unrejected returns the transactions before the first that is to be put aside.
func (b *rebase) unrejected(txns [][]cdc.Change) [][]cdc.Change {
	if len(b.reject) > 0 {
		for i, txn := range txns {
			if _, ok := b.reject[txn[0].Txn]; ok {
				return txns[:i]
			}
		}
	}
	return txns
}

func (b *rebase) replayTxn(ctx context.Context, txn []cdc.Change) error {
	id, now := txn[0].Txn, b.r.cfg.Now()
	if reason, ok := b.reject[id]; ok {
		return b.stage.reject(txn, reason, now.Unix())
	}
	out, err := b.stage.replay(ctx, txn)
	if err != nil {
		return b.damaged(err)
	}
	if out.Rejected() && b.leftOver && txn[len(txn)-1].ID <= b.next.sent {
		return errOutdated
	}
	if !out.Rejected() {
		b.report.Replayed += len(txn)
		for _, c := range out.Collisions {
			b.report.Collisions = append(b.report.Collisions, syncer.Collision{Table: c.Table, Key: c.Key, Local: c.Local, Remote: c.Remote})
		}
		return nil
	}
	if b.halt && (out.Reason == cdc.ReasonSchema || b.r.cfg.HaltOnRejection) {
		return &syncer.ReplayError{Txn: id, Changes: txn, Err: out.Err}
	}
	reason := string(out.Reason)
	if out.Err != nil {
		reason = out.Err.Error()
	}
	b.report.Rejected = append(b.report.Rejected, syncer.Rejection{Txn: id, Changes: txn, Reason: reason, Time: now})
	return b.stage.reject(txn, reason, now.Unix())
}

// comparePages does the expensive part of finding the pages that the page commit
// needs, if there is one.
func (b *rebase) comparePages() error {
	var err error
	if b.delta != nil && b.delta.whole {
		// Against the new base at once: pages that live has already are left out.
		b.r.dirty.known = false
		next, err := openBase(b.r.files.next(), b.delta.count)
		if err != nil {
			return err
		}
		defer next.close()
		_, err = b.r.differ(next)
		return err
	}
	_, err = b.r.differ(b.old)
	return err
}

// commit is the part that writers wait for.
func (b *rebase) commit(ctx context.Context) (err error) {
	r := b.r
	if b.delta != nil {
		if err := b.delta.durable(); err != nil {
			return err
		}
	}
	if b.pages == nil {
		if err := b.lock(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.unlock()) }()
	}
	p := b.pages
	if err := b.finishStage(ctx); err != nil {
		return err
	}
	if err := b.appendPages(p); err != nil {
		return err
	}
	if err := fault.At("commit.write"); err != nil {
		return fmt.Errorf("commit pages: %w", err)
	}
	if err := p.Commit(b.stage.pageCount); err != nil {
		return err
	}
	ws, err := r.live.db.WALState()
	if err != nil {
		// Committed all the same; where the WAL stands is found out next time.
		ws = shim.WALState{Change: p.State().Change + 1}
	}
	r.log.Expect(p.State().Change + 1)
	r.dirty = dirty{known: err == nil && ws.Change == p.State().Change+1, pages: *b.stage.pages(), mark: markOf(ws)}
	r.setState(b.next)
	if err := b.unlock(); err != nil {
		r.cfg.Logger.Debug("end page commit", keyError, err) // it is committed
	}
	if err := fault.At("commit.done"); err != nil {
		return err
	}
	return b.settleBase()
}

// lock takes the gate and live's write lock. Alone, it first logs what other programs
// wrote; else that is the error errForeign.
func (b *rebase) lock(ctx context.Context) (err error) {
	r := b.r
	if err := r.log.AcquireQuiet(ctx); err != nil {
		return err
	}
	b.gated, r.gated = true, true
	defer func() {
		if err != nil {
			err = errors.Join(err, b.unlock())
		}
	}()
	for attempt := 1; ; attempt++ {
		if b.alone {
			if err := r.settleForeign(ctx); err != nil {
				return err
			}
		}
		b.pages, err = r.beginPages(ctx)
		if !b.alone || !isForeign(err) || attempt >= attemptsMax {
			return err
		}
	}
}

// unlock gives up what lock took, if it is not given up yet.
func (b *rebase) unlock() (err error) {
	if b.pages != nil {
		err = b.pages.Abort() // nothing to do after Commit
		b.pages = nil
	}
	if b.gated {
		b.gated, b.r.gated = false, false
		b.r.log.Release()
	}
	return err
}

// settleBase brings base to where live is now.
func (b *rebase) settleBase() error {
	if b.delta == nil {
		return nil
	}
	// Nothing may have base open, nor its WAL be there, when it is written.
	err := errors.Join(b.stage.close(), b.old.close())
	b.stage, b.old = &stage{path: b.stage.path}, &base{}
	if err == nil {
		err = b.r.finishBase(b.delta)
	}
	if err != nil {
		b.delta.close()
		// The pull has happened all the same, for all who look at live. The next
		// one begins with this.
		b.r.cfg.Logger.Warn("base is not up to date yet", keyError, err)
	}
	return nil
}

// beginPages takes live's write lock for a page commit. The caller holds the gate.
func (r *Replica) beginPages(ctx context.Context) (*shim.PageCommit, error) {
	for {
		var p *shim.PageCommit
		err := untilFree(ctx, func() (err error) {
			// A read makes SQLite recover a wal-index that another program's crash left.
			if _, err := r.live.number("PRAGMA schema_version"); err != nil {
				return err
			}
			p, err = r.live.db.BeginPageCommit()
			return err
		})
		switch {
		case errors.Is(err, shim.ErrEmptyWAL):
			// The first frame has to come from SQLite, which writes the WAL's header.
			if err := r.write(ctx, touch); err != nil {
				return nil, err
			}
			continue
		case err != nil:
			return nil, err
		}
		if r.noticeForeign(p.State()); r.compare {
			return nil, errors.Join(errForeign, p.Abort())
		}
		return p, nil
	}
}

// touch makes the smallest commit there is.
func touch(c *conn) error {
	return c.exec(`INSERT INTO turso_sync_state(key, value) VALUES ('touched', 1) ON CONFLICT(key) DO UPDATE SET value = value + 1`)
}

// finishStage replays what came late, brings the local tables over, and commits
// the stage. The caller holds the gate and live's write lock.
func (b *rebase) finishStage(ctx context.Context) error {
	reader, err := b.r.readerConn()
	if err != nil {
		return err
	}
	if err := reader.beginRead(); err != nil {
		return err
	}
	defer reader.rollback()
	if _, err := b.replayLog(ctx, reader); err != nil {
		return err
	}
	last, err := reader.lastID()
	if err != nil {
		return err
	}
	if b.again != nil {
		if last, err = b.replayAgain(ctx, last); err != nil {
			return err
		}
	}
	if err := b.copyLocal(reader, last); err != nil {
		return fmt.Errorf("carry local tables over: %w", err)
	}
	if err := b.keepSequences(reader); err != nil {
		return fmt.Errorf("carry sequences over: %w", err)
	}
	if err := b.setCookie(reader); err != nil {
		return fmt.Errorf("set schema cookie: %w", err)
	}
	return b.stage.done()
}

// lastID returns the highest change id that was ever given.
func (c *conn) lastID() (cdc.ID, error) {
	n, err := c.number(`SELECT max(ifnull((SELECT max(change_id) FROM turso_cdc), 0),
		ifnull((SELECT value FROM turso_sync_state WHERE key = ?), 0))`, lastIDKey)
	return cdc.ID(n), err
}

// replayAgain replays the transaction that was put aside as the newest of the log.
func (b *rebase) replayAgain(ctx context.Context, last cdc.ID) (cdc.ID, error) {
	txn := slices.Clone(b.again.Changes)
	for i := range txn {
		txn[i].ID, txn[i].Txn = last+1+cdc.ID(i), last+1
	}
	before := len(b.report.Rejected)
	if err := b.replayTxn(ctx, txn); err != nil {
		return 0, err
	}
	if b.refused = nil; len(b.report.Rejected) > before {
		b.refused = errors.New(b.report.Rejected[before].Reason)
	}
	return last + cdc.ID(len(txn)), nil
}

// copyLocal carries state and rejected transactions over; the log is there
// already, and last the newest id given. The caller's snapshot is live's newest state.
func (b *rebase) copyLocal(from *conn, last cdc.ID) error {
	to := b.stage.conn
	err := from.query(`SELECT key, +value FROM turso_sync_state`, nil, func(row []driver.Value) error {
		return to.exec(putState, row[0], row[1])
	})
	if err != nil {
		return err
	}
	if err := writeState(to, nil, &b.next); err != nil {
		return err
	}
	// Ids are never given twice, also when the log that held them is gone.
	if err := to.exec(putState, lastIDKey, int64(last)); err != nil {
		return err
	}
	again := int64(0)
	if b.again != nil {
		again = int64(b.again.Txn)
	}
	const columns = `txn_id, change_id, reason, rejected_at, change_time, change_txn_id, change_type, table_name, id, "before", "after", updates, shape`
	return from.query(`SELECT txn_id, change_id, +reason, rejected_at, change_time, change_txn_id, change_type, +table_name, +id,
		+"before", +"after", +updates, shape FROM turso_sync_rejected WHERE txn_id IS NOT ?`, []any{again}, func(row []driver.Value) error {
		args := make([]any, len(row))
		for i, v := range row {
			args[i] = v
		}
		return to.exec(`INSERT OR REPLACE INTO turso_sync_rejected(`+columns+`) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)`, args...)
	})
}

// keepSequences keeps AUTOINCREMENT from giving an id again that it gave before
// for a row that is gone: the log has no trace of a row that came and went, and
// what the remote has not seen its sequences do not count.
func (b *rebase) keepSequences(live *conn) error {
	if b.r.state().adopt != "" {
		return nil // live is another database
	}
	const there = `SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_sequence'`
	for _, c := range []*conn{live, b.stage.conn} {
		if n, err := c.number(there); err != nil || n == 0 {
			return err
		}
	}
	return live.query(`SELECT +name, +seq FROM sqlite_sequence WHERE typeof(seq) = 'integer'`, nil, func(row []driver.Value) error {
		name, seq := row[0], row[1]
		if err := b.stage.conn.exec(`UPDATE sqlite_sequence SET seq = ?2 WHERE name = ?1 AND seq < ?2`, name, seq); err != nil {
			return err
		}
		return b.stage.conn.exec(`INSERT INTO sqlite_sequence(name, seq) SELECT ?1, ?2
			WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = ?1)
			AND EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1 AND sql LIKE '%autoincrement%')`, name, seq)
	})
}

// setCookie sets the schema cookie of the stage. Connections hold prepared
// statements with page numbers of live's schema in them, and look at nothing but
// the cookie to know whether those are good: it must be a new one unless the
// schema, root pages included, is the same, and then it may stay.
func (b *rebase) setCookie(live *conn) error {
	was, err := live.number("PRAGMA schema_version")
	if err != nil {
		return err
	}
	before, err := readSchema(live)
	if err != nil {
		return err
	}
	after, err := readSchema(b.stage.conn)
	if err != nil {
		return err
	}
	cookie := int32(was)
	if !slices.Equal(before, after) {
		cookie = nextCookie(was)
	}
	return b.stage.conn.exec(fmt.Sprintf("PRAGMA schema_version=%d", cookie))
}

// nextCookie returns the cookie after live's. The remote's is of no account: as it
// may be any number, to count on from the larger one would, at the end of the
// range, come to the same number again and again.
func nextCookie(live int64) int32 { return int32(live) + 1 }

// appendPages writes the difference between live and the stage into live's WAL.
func (b *rebase) appendPages(p *shim.PageCommit) error {
	r := b.r
	if err := r.catchUp(); err != nil {
		return err
	}
	if !r.dirty.known {
		if err := b.comparePages(); err != nil {
			return err
		}
	}
	pages := r.dirty.pages.Clone()
	if b.delta != nil && !b.delta.whole {
		pages.Union(&b.delta.pages)
	}
	pages.Union(b.stage.pages())
	if was := p.State().PageCount; was < b.stage.pageCount {
		pages.AddRange(page.No(was+1), page.No(b.stage.pageCount))
	}
	pages.Truncate(page.No(b.stage.pageCount))
	image := make([]byte, page.Size)
	for no := range pages.All() {
		if err := b.stage.read(no, image); err != nil {
			return err
		}
		if err := fault.At("commit.append"); err != nil {
			return fmt.Errorf("commit pages: %w", err)
		}
		if err := p.Append(no, image); err != nil {
			return err
		}
	}
	return nil
}

// write runs fn in a transaction of the replica's own on live. The caller holds
// the gate.
func (r *Replica) write(ctx context.Context, fn func(c *conn) error) error {
	c := r.live
	if err := c.begin(ctx); err != nil {
		return err
	}
	defer c.rollback()
	before, err := c.db.WALState()
	if err != nil {
		return err
	}
	r.noticeForeign(before)
	if err := fn(c); err != nil {
		return err
	}
	if err := fault.At("state.commit"); err != nil {
		return err
	}
	if err := c.exec("COMMIT"); err != nil {
		return err
	}
	// It is committed, whatever fails from here on. A transaction that changed nothing
	// writes no frames and does not count; where that cannot be told the next look at
	// the account of commits tells, or takes it for another program's. Any commit of
	// another program since is left for that look to find.
	if after, err := c.db.WALState(); err != nil || after.Change != before.Change {
		r.log.Expect(before.Change + 1)
	} else {
		r.log.Expect(before.Change)
	}
	return nil
}

// update changes the state, in live and in memory.
func (r *Replica) update(ctx context.Context, fn func(s *state) error) error {
	if err := r.log.AcquireQuiet(ctx); err != nil {
		return err
	}
	defer r.log.Release()
	old := r.state()
	next := old
	if err := fn(&next); err != nil {
		return err
	}
	err := r.write(ctx, func(c *conn) error { return writeState(c, &old, &next) })
	if err != nil {
		return fmt.Errorf("update state: %w", err)
	}
	r.setState(next)
	return nil
}
