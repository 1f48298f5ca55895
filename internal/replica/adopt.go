package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/fault"
)

// Rows that are in live and neither in base nor in the log have to get into the
// log before a rebase, which would take them for gone: what other programs wrote
// (absorb), and what was there before the file became a replica (adoptUpload).

// lastIDKey is cdc's key in turso_sync_state: the highest change id ever given, at least.
const lastIDKey = "last_id"

// adoptRoom is where change ids begin in a file that was no replica: the rows
// that are in it come before everything written since, and get ids below.
const adoptRoom int64 = 1 << 40

// adoptTxn is how many found rows make one transaction of the log, so that a
// push need not send them all at once.
const adoptTxn = 1000

// insteadTxn is the same where the rows are also those of transactions of ours, which
// nobody should see the half of.
const insteadTxn = 100_000

// spool is a scratch database that holds changes until they can be logged: they
// may be many more than fit into memory.
type spool struct {
	conn  *conn
	path  string
	last  cdc.ID // id of the last change; ids start at 1
	txn   cdc.ID
	rows  int
	batch []cdc.Change
	// instead, if not 0, is the first change of the log that the spool replaces, see
	// diffWithReplay.
	instead cdc.ID
}

func (r *Replica) newSpool() (_ *spool, err error) {
	s := &spool{path: r.files.stage() + "-log"}
	if err := removeDatabase(s.path); err != nil {
		return nil, err
	}
	if s.conn, err = openConn(s.path, "mode=rwc"); err != nil {
		return nil, err
	}
	if err := s.conn.exec("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN"); err != nil {
		return nil, errors.Join(err, s.close())
	}
	if err := cdc.Setup(s.conn.SQLiteConn); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *spool) close() error {
	s.conn.rollback()
	return errors.Join(s.conn.Close(), removeDatabase(s.path))
}

// add takes a change that cdc.Diff found and numbers it. A schema change is a
// transaction of its own: it is pushed alone anyway.
func (s *spool) add(c *cdc.Change, seconds int64) error {
	s.last++
	most := adoptTxn
	if s.instead > 0 {
		most = insteadTxn
	}
	if s.txn == 0 || c.Schema != nil || s.rows >= most {
		s.txn, s.rows = s.last, 0
	}
	if s.rows++; c.Schema != nil {
		s.rows = most
	}
	c.ID, c.Txn, c.Time = s.last, s.txn, time.Unix(seconds, 0)
	if s.batch = append(s.batch, *c); len(s.batch) < 100 {
		return nil
	}
	return s.flush()
}

func (s *spool) flush() error {
	if err := cdc.Append(s.conn.SQLiteConn, s.batch); err != nil {
		return err
	}
	s.batch = s.batch[:0]
	return nil
}

// fill puts what turns one database into another into the spool.
func (s *spool) fill(ctx context.Context, from, to *sqlite3.SQLiteConn, seconds int64) error {
	if err := cdc.Diff(ctx, from, to, func(c *cdc.Change) error { return s.add(c, seconds) }); err != nil {
		return err
	}
	return s.flush()
}

// absorbRounds is how often the comparison is made beside writers, before it is
// made while they wait, other programs included.
const absorbRounds = 2

// absorb compares live with replay(base, log) and logs the difference: rows that
// other programs wrote.
func (r *Replica) absorb(ctx context.Context) error {
	if err := r.lookForeign(); err != nil {
		return err
	}
	if !r.compare && !r.log.Foreign() {
		return nil
	}
	r.compare = true
	for round := 0; r.compare; round++ {
		found, err := r.absorbOnce(ctx, r.gated || round >= absorbRounds)
		if err != nil {
			return fmt.Errorf("look for rows written by other programs: %w", err)
		}
		if found {
			r.logged()
		}
	}
	return nil
}

// settleForeign logs what other programs wrote, where there is something to compare
// live with.
func (r *Replica) settleForeign(ctx context.Context) error {
	if st := r.state(); st.adopt != "" || st.bootstrap && st.basePages == 0 {
		r.ignoreForeign()
		return nil
	}
	return r.absorb(ctx)
}

// lookForeign looks at the account of commits, so that another program's writes are
// found without one of ours. While a connection of ours writes it is left to that
// one, which looks too.
func (r *Replica) lookForeign() error {
	if r.compare {
		return nil
	}
	if !r.gated {
		if !r.log.TryAcquire() {
			return nil
		}
		defer r.log.Release()
	}
	ws, err := r.live.db.WALState()
	if err != nil {
		return fmt.Errorf("look for commits of other programs: %w", err)
	}
	r.noticeForeign(ws)
	return nil
}

// logged tells whoever waits for commits that the replica itself has added to
// the log.
func (r *Replica) logged() {
	if r.cfg.Committed != nil {
		r.cfg.Committed()
	}
}

// absorbOnce compares beside writers, and leaves r.compare set if somebody wrote
// between comparison and lock. Alone, it takes the write lock first.
func (r *Replica) absorbOnce(ctx context.Context, alone bool) (found bool, err error) {
	release := func() {}
	lock := func() error {
		if !r.gated {
			if err := r.log.AcquireQuiet(ctx); err != nil {
				return err
			}
			release = r.log.Release
		}
		return r.live.begin(ctx)
	}
	defer func() {
		r.live.rollback()
		release()
	}()
	if alone {
		if err := lock(); err != nil {
			return false, err
		}
	}
	s, err := r.newSpool()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	reader, at, err := r.snapshot()
	if err != nil {
		return false, err
	}
	err = r.diffWithReplay(ctx, reader, s)
	reader.rollback()
	if err != nil {
		return false, err
	}
	if !alone {
		if err := lock(); err != nil {
			return false, err
		}
	}
	ws, err := r.live.db.WALState()
	if err != nil || ws.Change != at {
		return false, err // somebody wrote since the snapshot: once more
	}
	found = s.last > 0 || s.instead > 0
	if found {
		r.cfg.Logger.Info("logged rows written by other programs", keyChanges, int64(s.last))
		if err := r.appendSpool(s); err != nil {
			return false, err
		}
	}
	if err := fault.At("absorb.commit"); err != nil {
		return false, err
	}
	if err := r.live.exec("COMMIT"); err != nil {
		return false, err
	}
	if found {
		ws.Change++
	}
	r.log.Expect(ws.Change)
	r.log.ClearForeign()
	r.compare = false
	r.moved = r.moved || s.instead > 0
	return found, nil
}

// snapshot begins a read transaction on live; at is the change counter of what
// it sees.
func (r *Replica) snapshot() (reader *conn, at uint32, err error) {
	if reader, err = r.readerConn(); err != nil {
		return nil, 0, err
	}
	for {
		before, err := r.live.db.WALState()
		if err != nil {
			return nil, 0, err
		}
		if err := reader.beginRead(); err != nil {
			return nil, 0, err
		}
		after, err := r.live.db.WALState()
		if err == nil && after.Change == before.Change {
			return reader, after.Change, nil
		}
		reader.rollback()
		if err != nil {
			return nil, 0, err
		}
	}
}

// diffWithReplay spools what turns replay(base, log) into live as reader sees it.
//
// Another program may have changed the schema, and ours may have written into
// what is new before anybody compared: then the log holds rows of a table or
// column that it does not create, or changes a row that only the rowid names and that
// it does not insert, and cannot be replayed from there on. What it
// holds from there on has never been sent, and is all in live: the difference
// from the last state that could be replayed takes its place.
func (r *Replica) diffWithReplay(ctx context.Context, reader *conn, s *spool) (err error) {
	st := r.state()
	stage, err := r.openStage(r.files.base(), st.basePages, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stage.close()) }()
	stage.unlogged = true
	if err := stage.begin(); err != nil {
		return err
	}
	stage.foresee(reader, st.baseMark)
	err = cdc.LoadTxns(reader.SQLiteConn, st.baseMark, func(txn []cdc.Change) error {
		unsent := txn[0].Txn > st.maySend()
		if unsent {
			if known, err := stage.replayer.Knows(txn); err != nil {
				return err
			} else if !known {
				s.instead = txn[0].Txn
				return errUnreplayable
			}
		}
		out, err := stage.replay(ctx, txn)
		if err != nil || !out.Rejected() {
			return err
		}
		if unsent {
			s.instead = txn[0].Txn
			return errUnreplayable
		}
		return fmt.Errorf("replay transaction %d: %w", txn[0].Txn, out.Err)
	})
	if err != nil && !errors.Is(err, errUnreplayable) {
		return err
	}
	return s.fill(ctx, stage.conn.SQLiteConn, reader.SQLiteConn, r.cfg.Now().Unix())
}

// errUnreplayable ends the reading of the log; it reaches nobody.
var errUnreplayable = errors.New("the log cannot be replayed from here on")

// maySend returns up to which change the remote may have the log.
func (s *state) maySend() cdc.ID {
	id := max(s.sent, s.watermark)
	for _, intent := range s.intents {
		id = max(id, intent)
	}
	return id
}

// appendSpool logs what the spool holds, behind everything that was ever logged.
// The caller owns the transaction on live.
func (r *Replica) appendSpool(s *spool) error {
	last, err := r.live.lastID()
	if err != nil {
		return err
	}
	if s.instead > 0 {
		if err := r.live.exec(`DELETE FROM turso_cdc WHERE change_id >= ?`, int64(s.instead)); err != nil {
			return err
		}
	}
	err = cdc.LoadTxns(s.conn.SQLiteConn, 0, func(txn []cdc.Change) error {
		for i := range txn {
			txn[i].ID += last
			txn[i].Txn += last
		}
		return cdc.Append(r.live.SQLiteConn, txn)
	})
	if err != nil {
		return err
	}
	return r.live.exec(putState, lastIDKey, int64(last+s.last))
}

// adoptUpload takes what live holds for pending changes: as base is empty, that
// is all of it. What was written through the driver since the file was opened is
// among it, and is logged a second time only if it came after the comparison.
//
// The rows are logged in steps, so that writers need not wait for all of them;
// the last one ends the adoption. After a crash in between it is done again.
func (r *Replica) adoptUpload(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("adopt existing file: %w", err)
		}
	}()
	s, err := r.newSpool()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	known, err := r.spoolAll(ctx, s)
	if err != nil {
		return err
	}
	if err := r.adoptStep(ctx, func(c *conn) error {
		return c.exec(`DELETE FROM turso_cdc WHERE change_id <= ?`, adoptRoom)
	}); err != nil {
		return err
	}
	var batch []cdc.Change
	flush := func() error {
		err := r.adoptStep(ctx, func(c *conn) error { return cdc.Append(c.SQLiteConn, batch) })
		batch = batch[:0]
		return err
	}
	err = cdc.LoadTxns(s.conn.SQLiteConn, 0, func(txn []cdc.Change) error {
		if batch = append(batch, txn...); len(batch) < adoptTxn {
			return nil
		}
		return flush()
	})
	if err == nil && len(batch) > 0 {
		err = flush()
	}
	if err != nil {
		return err
	}
	if err := r.endAdoption(ctx, known); err != nil {
		return err
	}
	r.logged()
	return nil
}

// spoolAll spools all of live as of one moment; known is the newest change id
// that the log had then.
func (r *Replica) spoolAll(ctx context.Context, s *spool) (known int64, err error) {
	if err := r.log.Acquire(ctx); err != nil {
		return 0, err
	}
	reader, at, err := r.snapshot()
	if err == nil {
		// Rows of other programs up to here are in the snapshot.
		r.log.Expect(at)
		r.log.ClearForeign()
		r.compare = false
	}
	r.log.Release()
	if err != nil {
		return 0, err
	}
	defer reader.rollback()
	if known, err = reader.number(`SELECT max(change_id) FROM turso_cdc`); err != nil {
		return 0, err
	}
	empty, err := openConn(r.files.stage()+"-empty", "mode=memory")
	if err != nil {
		return 0, err
	}
	defer empty.Close()
	err = s.fill(ctx, empty.SQLiteConn, reader.SQLiteConn, r.cfg.Now().Unix())
	if err == nil && int64(s.last) >= adoptRoom {
		err = errors.New("too many rows")
	}
	return known, err
}

// adoptStep runs fn in a write transaction under the gate.
func (r *Replica) adoptStep(ctx context.Context, fn func(c *conn) error) error {
	if err := fault.At("adopt.step"); err != nil {
		return err
	}
	if err := r.log.AcquireQuiet(ctx); err != nil {
		return err
	}
	defer r.log.Release()
	return r.write(ctx, fn)
}

// endAdoption drops the log rows whose effect was among what was adopted.
func (r *Replica) endAdoption(ctx context.Context, known int64) error {
	if err := r.log.AcquireQuiet(ctx); err != nil {
		return err
	}
	defer r.log.Release()
	old := r.state()
	next := old
	next.adopt = ""
	err := r.write(ctx, func(c *conn) error {
		if err := c.exec(`DELETE FROM turso_cdc WHERE change_id > ? AND change_id <= ?`, adoptRoom, known); err != nil {
			return err
		}
		return writeState(c, &old, &next)
	})
	if err == nil {
		r.setState(next)
		r.unreported.Adopted = true
	}
	return err
}

// backUp keeps a copy of live, without the local tables, as it was before the
// remote's content replaces its own.
func (r *Replica) backUp() error {
	reader, err := r.readerConn()
	if err != nil {
		return err
	}
	path, err := r.backUpAs(func(next string) error {
		if err := reader.exec("VACUUM INTO ?", next); err != nil {
			return err
		}
		c, err := openConn(next, "mode=rw")
		if err != nil {
			return err
		}
		for _, table := range []string{cdc.LogTable, cdc.StateTable, cdc.RejectedTable} {
			if err := c.exec("DROP TABLE IF EXISTS " + table); err != nil {
				return errors.Join(err, c.Close())
			}
		}
		return c.Close()
	})
	if err != nil {
		return fmt.Errorf("back up %s: %w", r.files.live, err)
	}
	r.cfg.Logger.Info("kept the file's former content", keyPath, path)
	return nil
}

// backUpAs has a copy made under another name, which Open deletes, so that what is
// called a backup is whole.
func (r *Replica) backUpAs(write func(next string) error) (path string, err error) {
	next := r.files.rebuilt()
	if err := removeDatabase(next); err != nil {
		return "", err
	}
	if err := write(next); err != nil {
		return "", errors.Join(err, removeDatabase(next))
	}
	if path, err = r.files.backup(r.cfg.Now()); err != nil {
		return "", err
	}
	if err := fault.At("backup.rename"); err != nil {
		return "", err
	}
	if err := fault.Rename(next, path); err != nil {
		return "", err
	}
	return path, syncDir(path)
}
