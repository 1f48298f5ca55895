package replica

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/shim"
)

// The last part of a rebase: under the lock of writers, the stage gets what only live
// has, and becomes live by one page commit.

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
