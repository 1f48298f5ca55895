package replica

import (
	"context"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/shim"
	"github.com/tursosync/tursosync/internal/wal"
)

// stage is the next state of live in the making: SQLite at work on base, with
// everything it writes kept in base's WAL, which never reaches base.
//
// A delta on its way is put into that WAL as one commit before SQLite opens the
// file, so that base itself is not touched before live is committed:
//
//	app.db-base        the old base
//	app.db-base-wal    delta's frames (given) │ what SQLite wrote on top (staged)
//
// The staged database is what a reader of both sees. Without pages in base a
// scratch file stands in for it, and all its pages count as staged.
type stage struct {
	path      string
	scratch   bool
	main, wal *fault.File
	mainPages uint32
	given     map[page.No]uint32 // frames of delta
	start     wal.Position       // behind them
	conn      *conn
	replayer  *cdc.Replayer
	index     *wal.Index // of the staged frames; nil before done
	pageCount uint32     // of the staged database, after done
	carried   cdc.ID     // the staged log is live's up to here, but for what the replay changed
	unlogged  bool       // nobody will read the staged log
}

// openStage opens a stage on the database file at path, of pageCount pages, with
// d on top (nil: nothing). The caller must close it.
func (r *Replica) openStage(path string, pageCount uint32, d *delta) (_ *stage, err error) {
	s := &stage{path: path, mainPages: pageCount}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open stage: %w", err), s.close())
		}
	}()
	if pageCount == 0 && d != nil {
		return nil, errors.New("there is no base to put the pages on")
	}
	if pageCount == 0 {
		s.path, s.scratch = r.files.stage(), true
		if err := removeDatabase(s.path); err != nil {
			return nil, err
		}
	} else if err := s.give(d); err != nil {
		return nil, err
	}
	if err := s.connect(r.cfg); err != nil {
		return nil, err
	}
	if err := s.checkGiven(); err != nil {
		return nil, err
	}
	if s.main, err = fault.Open(s.path); err != nil {
		return nil, err
	}
	if s.scratch {
		size, err := sizeOf(s.path)
		if err != nil {
			return nil, err
		}
		s.mainPages = uint32(size / page.Size)
	}
	if s.replayer, err = cdc.NewReplayer(s.conn.SQLiteConn); err != nil {
		return nil, err
	}
	return s, nil
}

// give writes the WAL that SQLite will find: delta's pages, and page 1 in WAL
// mode. A remote may be in rollback-journal mode, file-format bytes 1,1; staged
// like this, base keeps them, and live gets 2,2.
func (s *stage) give(d *delta) error {
	if err := remove(s.path+"-wal", s.path+"-shm"); err != nil {
		return err
	}
	first := make([]byte, page.Size)
	if d != nil {
		image, err := d.page1()
		if err != nil {
			return err
		}
		copy(first, image)
	}
	if first[0] == 0 {
		b, err := openBase(s.path, s.mainPages)
		if err != nil {
			return err
		}
		err = b.readPage(1, first)
		if e := b.close(); err == nil {
			err = e
		}
		if err != nil {
			return err
		}
	}
	inWAL := first[offWrite] == 2 && first[offRead] == 2
	if d == nil && inWAL {
		return nil
	}
	first[offWrite], first[offRead] = 2, 2
	file, err := fault.OpenFile(s.path+"-wal", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	s.wal = file
	s.given = make(map[page.No]uint32)
	w := wal.NewWriter(file, binary.LittleEndian, [2]uint32{stageSalt, stageSalt})
	put := func(no page.No, image []byte, count uint32) error {
		if err := fault.At("stage.give"); err != nil {
			return err
		}
		if err := w.Append(no, image, count); err != nil {
			return err
		}
		s.given[no] = w.Position().Frame
		return nil
	}
	count := s.mainPages
	if d != nil {
		count = d.count
		err := d.each(func(no page.No, image []byte) error {
			if no == 1 {
				return nil // comes last, as the commit frame
			}
			return put(no, image, 0)
		})
		if err != nil {
			return err
		}
	}
	if err := put(1, first, count); err != nil {
		return err
	}
	s.start = w.Position()
	return nil
}

// checkGiven requires that SQLite found in the WAL what was put there, no more
// and no less. It would not if an earlier connection were still open under the
// surface, as SQLite does with one whose statements were not all closed: its
// wal-index, of another WAL, would be taken for this one's.
func (s *stage) checkGiven() error {
	if _, err := s.conn.number("PRAGMA schema_version"); err != nil || s.scratch {
		return err
	}
	ws, err := s.conn.db.WALState()
	if err != nil {
		return err
	}
	if ws.MaxFrame != s.start.Frame {
		return fmt.Errorf("SQLite sees %d frames in base's WAL, not the %d put there: base is open elsewhere", ws.MaxFrame, s.start.Frame)
	}
	return nil
}

// stageSalt is any number: the WAL of a stage never survives its process.
const stageSalt = 0x74757273

// Offsets of page 1 (https://sqlite.org/fileformat2.html §1.3).
const (
	offPageSize  = 16
	offWrite     = 18 // file format write version: 1 rollback journal, 2 WAL
	offRead      = 19
	offReserved  = 20
	offFractions = 21
	offChange    = 24
	offPageCount = 28
	offCookie    = 40
	offSchema    = 44 // schema format number: 0 (empty) to 4
	offEncoding  = 56
	offValidFor  = 92
)

// connect opens the connection on which the stage is made. Durability is of no
// use here; triggers and foreign keys are off because the log holds their effects.
func (s *stage) connect(cfg Config) error {
	mode := "mode=rw"
	if s.scratch {
		mode = "mode=rwc"
	}
	c, err := openConn(s.path, mode+oneUser)
	if err != nil {
		return err
	}
	s.conn = c
	if cfg.Connect != nil {
		if err := cfg.Connect(c.SQLiteConn); err != nil {
			return fmt.Errorf("connect hook: %w", err)
		}
	}
	if err := c.exec("PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF; PRAGMA cache_size=-8000"); err != nil {
		return err
	}
	if s.scratch {
		if err := c.exec("PRAGMA page_size=4096; PRAGMA encoding='UTF-8'; PRAGMA journal_mode=WAL"); err != nil {
			return err
		}
	}
	for _, off := range []shim.Config{shim.EnableTrigger, shim.EnableFKey, shim.Defensive} {
		if err := c.db.SetConfig(off, false); err != nil {
			return err
		}
	}
	return c.db.SetConfig(shim.NoCheckpointOnClose, true)
}

// begin starts the one transaction of the stage and makes the local tables.
func (s *stage) begin() error {
	if err := fault.At("stage.begin"); err != nil {
		return fmt.Errorf("stage: %w", err)
	}
	if err := s.conn.exec("BEGIN IMMEDIATE"); err != nil {
		return fmt.Errorf("stage: %w", err)
	}
	// Should the remote have tables of these names, they are hidden from this
	// replica, and stay as they are in base.
	for _, table := range []string{cdc.LogTable, cdc.StateTable, cdc.RejectedTable} {
		if err := s.conn.exec(`DROP TABLE IF EXISTS ` + table); err != nil {
			return fmt.Errorf("stage: %w", err)
		}
	}
	if err := cdc.Setup(s.conn.SQLiteConn); err != nil {
		return fmt.Errorf("stage: %w", err)
	}
	return nil
}

// watermark is a client's row in turso_sync_last_change_id. Turso's own clients
// number their changes anew in each generation; ours stay in generation 0.
type watermark struct {
	generation int64
	id         cdc.ID
}

// marks returns every client's watermark in a database.
func (c *conn) marks() (map[string]watermark, error) {
	marks := make(map[string]watermark)
	n, err := c.number(`SELECT count(*) FROM sqlite_schema WHERE name = ? COLLATE NOCASE AND type = 'table'`, cdc.WatermarkTable)
	if err != nil || n == 0 {
		return marks, err
	}
	err = c.query(`SELECT +client_id, +pull_gen, +change_id FROM turso_sync_last_change_id`, nil, func(row []driver.Value) error {
		name, isText := row[0].(string)
		generation, _ := row[1].(int64)
		if id, ok := row[2].(int64); ok && isText {
			marks[name] = watermark{generation, cdc.ID(id)}
		}
		return nil
	})
	return marks, err
}

// replay applies one transaction of the log, and writes it into the staged log
// as it is on the new base: under its new rowids and names, without what has
// nothing left to change. A transaction that cannot be applied is left to the
// caller.
func (s *stage) replay(ctx context.Context, txn []cdc.Change) (cdc.Outcome, error) {
	out, err := s.replayer.Apply(ctx, txn)
	if err != nil {
		return out, fmt.Errorf("replay transaction %d: %w", txn[0].ID, err)
	}
	if out.Rejected() {
		return out, nil
	}
	return out, s.write(txn, &out)
}

// write writes a replayed transaction into the staged log, unless it is there.
func (s *stage) write(txn []cdc.Change, out *cdc.Outcome) error {
	if s.unlogged {
		return nil
	}
	if s.carries(txn) {
		if out.Unchanged {
			return nil
		}
		if err := s.uncarry(txn); err != nil {
			return err
		}
	}
	return cdc.Append(s.conn.SQLiteConn, renumber(out.Log))
}

// replayRun applies transactions from the first on, while that is plain sailing,
// and returns how many.
func (s *stage) replayRun(ctx context.Context, txns [][]cdc.Change) (int, error) {
	n, err := s.replayer.ApplyRun(ctx, txns)
	if err != nil || s.unlogged {
		return n, err
	}
	var late []cdc.Change
	for _, txn := range txns[:n] {
		if !s.carries(txn) {
			late = append(late, txn...)
		}
	}
	if len(late) == 0 {
		return n, nil
	}
	return n, cdc.Append(s.conn.SQLiteConn, late)
}

// carryMin is how many rows of the log are worth being carried over as a whole.
const carryMin = 64

// carry copies the log above an id as it is in live, as of reader's snapshot. It
// comes before the replay, which then writes only what has changed. Live's file
// is attached for that and no longer: with it, names that base lacks would be
// found there.
func (s *stage) carry(live string, reader *conn, above cdc.ID) error {
	last, err := reader.number(`SELECT max(change_id) FROM turso_cdc`)
	if err != nil || last-int64(above) < carryMin {
		return err
	}
	if err := s.conn.exec(`COMMIT`); err != nil {
		return err
	}
	if err := s.conn.exec(`ATTACH ? AS turso_live`, dsn(live, "mode=ro")); err != nil {
		return s.conn.exec(`BEGIN IMMEDIATE`) // a hook of the user's may forbid it: row by row, then
	}
	if err := s.conn.exec(`BEGIN IMMEDIATE`); err != nil {
		return err
	}
	if err := s.copyLog(int64(above), last); err != nil {
		return err
	}
	// The read transaction on live ends with this one.
	for _, text := range []string{`COMMIT`, `DETACH turso_live`, `BEGIN IMMEDIATE`} {
		if err := s.conn.exec(text); err != nil {
			return err
		}
	}
	s.carried = cdc.ID(last)
	return nil
}

// copyLog copies rows of the attached log. Where all of them are wanted SQLite
// takes none of them apart: so it does for SELECT * without a WHERE, between tables of
// one definition.
func (s *stage) copyLog(above, last int64) error {
	below, err := s.conn.number(`SELECT count(*) FROM (SELECT 1 FROM turso_live.turso_cdc WHERE change_id <= ? LIMIT 1)`, above)
	if err != nil {
		return err
	}
	if below > 0 {
		const columns = `change_id, change_time, change_txn_id, change_type, table_name, id, "before", "after", updates, shape`
		return s.conn.exec(`INSERT INTO main.turso_cdc(`+columns+`) SELECT `+columns+` FROM turso_live.turso_cdc
			WHERE change_id > ? AND change_id <= ?`, above, last)
	}
	if err := s.conn.exec(`INSERT INTO main.turso_cdc SELECT * FROM turso_live.turso_cdc`); err != nil {
		return err
	}
	// What was committed since the snapshot comes later, like everything else.
	return s.conn.exec(`DELETE FROM main.turso_cdc WHERE change_id > ?`, last)
}

// carries tells whether the log holds a transaction already, as it was in live.
func (s *stage) carries(txn []cdc.Change) bool { return txn[len(txn)-1].ID <= s.carried }

// uncarry takes a transaction out of the log.
func (s *stage) uncarry(txn []cdc.Change) error {
	err := s.conn.exec(`DELETE FROM turso_cdc WHERE change_id BETWEEN ? AND ?`, int64(txn[0].ID), int64(txn[len(txn)-1].ID))
	if err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	return nil
}

// renumber names the changes that are left of a transaction by the first of
// them, as everywhere in the log.
func renumber(txn []cdc.Change) []cdc.Change {
	if len(txn) == 0 {
		return nil
	}
	first := txn[0].ID
	for i := range txn {
		first = min(first, txn[i].ID) // the order is that of the replay
	}
	for i := range txn {
		txn[i].Txn = first
	}
	return txn
}

// foresee tells the replay how to find the schema changes still to come: another
// replica may have made them on the remote already. The snapshot must last as long
// as the replay.
func (s *stage) foresee(log *conn, above cdc.ID) {
	s.replayer.ForeseeLater(func() ([]cdc.Change, error) { return cdc.LoadSchema(log.SQLiteConn, above) })
}

// reject writes a transaction into turso_sync_rejected.
func (s *stage) reject(txn []cdc.Change, reason string, at int64) error {
	if !s.carries(txn) {
		if err := cdc.Append(s.conn.SQLiteConn, txn); err != nil {
			return err
		}
	}
	return moveRejected(s.conn, txn[0].Txn, reason, at)
}

// moveRejected moves a transaction of the log into turso_sync_rejected.
func moveRejected(c *conn, txn cdc.ID, reason string, at int64) error {
	err := c.exec(`INSERT OR REPLACE INTO turso_sync_rejected(txn_id, change_id, reason, rejected_at, change_time, change_txn_id,
			change_type, table_name, id, "before", "after", updates, shape)
		SELECT change_txn_id, change_id, ?2, ?3, change_time, change_txn_id, change_type, table_name, id, "before", "after", updates, shape
		FROM turso_cdc WHERE change_txn_id = ?1`, int64(txn), reason, at)
	if err != nil {
		return fmt.Errorf("put transaction %d aside: %w", txn, err)
	}
	if err := c.exec(`DELETE FROM turso_cdc WHERE change_txn_id = ?`, int64(txn)); err != nil {
		return fmt.Errorf("put transaction %d aside: %w", txn, err)
	}
	return nil
}

// done commits the stage and finds out which pages it is made of.
func (s *stage) done() error {
	if err := s.conn.exec("COMMIT"); err != nil {
		return fmt.Errorf("commit stage: %w", err)
	}
	if err := fault.At("stage.committed"); err != nil {
		return fmt.Errorf("commit stage: %w", err)
	}
	if s.wal == nil {
		file, err := fault.Open(s.path + "-wal")
		if err != nil {
			return fmt.Errorf("read stage: %w", err)
		}
		s.wal = file
	}
	info, err := s.wal.Stat()
	if err != nil {
		return fmt.Errorf("read stage: %w", err)
	}
	if s.index, err = wal.ScanFrom(s.wal, info.Size(), s.start); err != nil {
		return fmt.Errorf("read stage: %w", err)
	}
	if s.pageCount = s.index.PageCount; s.pageCount == 0 {
		return errors.New("read stage: it has no commit")
	}
	return nil
}

// pages returns the staged pages: those in which the staged database differs
// from base with the delta.
func (s *stage) pages() *page.Set {
	if s.scratch {
		all := new(page.Set)
		all.AddRange(1, page.No(s.pageCount))
		return all
	}
	set := s.index.Pages()
	if _, ok := s.given[1]; ok {
		set.Add(1) // its format bytes were changed
	}
	return set
}

// read returns the image of a page of the staged database.
func (s *stage) read(no page.No, image []byte) error {
	if _, ok := s.index.Frame(no); ok {
		return s.index.ReadPage(no, image)
	}
	return s.readBase(no, image)
}

// readBase returns the image of a page of base with the delta.
func (s *stage) readBase(no page.No, image []byte) error {
	if frame, ok := s.given[no]; ok {
		if _, err := s.wal.ReadAt(image, wal.Size(frame)-page.Size); err != nil {
			return fmt.Errorf("read stage: page %v: %w", no, err)
		}
		return nil
	}
	if uint32(no) <= s.mainPages {
		if err := readFull(s.main, image, no.Offset()); err != nil {
			return fmt.Errorf("read stage: page %v: %w", no, err)
		}
		return nil
	}
	clear(image) // allocated and never written: a free page
	return nil
}

// close forgets the stage; base is what it was before.
func (s *stage) close() error {
	var errs []error
	if s.replayer != nil {
		errs = append(errs, s.replayer.Close())
	}
	if s.conn != nil {
		s.conn.rollback()
		errs = append(errs, s.conn.Close())
	}
	for _, f := range []*fault.File{s.main, s.wal} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	if s.scratch {
		errs = append(errs, removeDatabase(s.path))
	} else {
		errs = append(errs, remove(s.path+"-wal", s.path+"-shm"))
	}
	return errors.Join(errs...)
}
