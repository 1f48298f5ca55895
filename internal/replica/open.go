package replica

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/shim"
)

// Open opens the replica in cfg.Path and creates it if there is none. It needs
// no network and, but for a file that has to be rebuilt or finished after a
// crash, no more than a few reads, whatever the size.
//
// A plain SQLite file becomes a replica in place; one with another page size or
// text encoding than the remote's is rebuilt, the original kept beside it as a
// backup. Errors are those of this package (ErrLocked, ErrNotDatabase,
// ErrReadOnly, ErrNetworkFileSystem, ErrInUse, ErrFormat) and leave the file as
// it was.
func Open(ctx context.Context, cfg Config) (_ *Replica, err error) {
	path, err := resolve(cfg.Path)
	if err != nil {
		return nil, err
	}
	if err := checkFileSystem(filepath.Dir(path)); err != nil {
		return nil, err
	}
	r := &Replica{cfg: cfg.withDefaults(), files: files{path}}
	if info, err := fault.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, &FileError{Path: path, Err: ErrNotDatabase, Why: errors.New("not a regular file")}
	}
	if r.lock, err = lockFile(r.files.lock()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.closeConns()
			_ = r.lock.unlock()
		}
	}()
	if err := r.open(ctx); err != nil {
		if err = r.fileError(err); !errors.As(err, new(*FileError)) {
			err = fmt.Errorf("%s: %w", path, err)
		}
		return nil, fmt.Errorf("open replica: %w", err)
	}
	return r, nil
}

func (c Config) withDefaults() Config {
	if c.ClientName == "" {
		c.ClientName = "tursosync"
	}
	if c.CheckpointBytes == 0 {
		c.CheckpointBytes = DefaultCheckpointBytes
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = fault.Now
	}
	return c
}

func (r *Replica) open(ctx context.Context) error {
	// Leftovers of a crash. Base's WAL is a stage that was given up: SQLite must
	// not see it when base is opened next.
	if err := errors.Join(remove(r.files.base()+"-wal", r.files.base()+"-shm"),
		removeDatabase(r.files.stage()), removeDatabase(r.files.stage()+"-log"), removeDatabase(r.files.rebuilt())); err != nil {
		return err
	}
	made, err := r.openLive(ctx)
	if err != nil {
		return err
	}
	known, liveKnown, baseKnown := r.lock.takeHint(r.files)
	r.compare, r.checkBase = !liveKnown, !baseKnown && r.state().basePages > 0
	if liveKnown {
		r.dirty.known, r.dirty.pages = true, *known
	}
	ws, err := r.live.db.WALState()
	if err != nil {
		return err
	}
	r.dirty.mark = markOf(ws)
	if made { // base is empty, so that every page differs
		r.compare, r.checkBase, r.dirty.known = false, false, true
		if ws.PageCount > 0 {
			r.dirty.pages.AddRange(1, page.No(ws.PageCount))
		}
	}
	if err := r.recover(); err != nil {
		return err
	}
	if r.log, err = cdc.OpenLog(cdc.LogConfig{Path: r.files.live, Committed: r.cfg.Committed}); err != nil {
		return err
	}
	err = r.meetRemote(ctx)
	if err == nil && !made {
		err = r.skipIDs(ctx)
	}
	if err != nil {
		return errors.Join(err, r.log.Close())
	}
	return nil
}

// skippedIDs bounds the gap in the change ids at an opening.
const skippedIDs = 1 << 20

// skipIDs leaves a gap of random length in the change ids. These files may be a
// copy of others that are open at the same time, with the same client id: without
// the gap both would push the same ids for different changes, and each could take
// the other's watermark for what it had intended itself.
func (r *Replica) skipIDs(ctx context.Context) error {
	if r.cfg.RemoteURL == "" || r.state().adopt != "" {
		return nil // nothing is pushed, or under ids of its own
	}
	if err := r.log.Acquire(ctx); err != nil {
		return err
	}
	defer r.log.Release()
	return r.write(ctx, func(c *conn) error {
		last, err := c.lastID()
		if err != nil {
			return err
		}
		return c.exec(putState, lastIDKey, int64(last)+rand.Int64N(skippedIDs))
	})
}

// meetRemote notes which remote this is a replica of. Another one than before
// has nothing to do with base; what is pending goes to it, and it is asked for
// everything. (A remote that only moved has our watermark, and nothing is sent twice.)
func (r *Replica) meetRemote(ctx context.Context) error {
	st := r.state()
	if r.cfg.RemoteURL == "" || r.cfg.RemoteURL == st.remoteURL {
		return nil
	}
	another := st.remoteURL != "" && st.revision != ""
	if another {
		r.cfg.Logger.Info("remote has another URL than before: everything is taken anew")
		if err := remove(r.files.pull()); err != nil {
			return err
		}
	}
	return r.update(ctx, func(s *state) error {
		s.remoteURL = r.cfg.RemoteURL
		s.bootstrap = s.bootstrap || another
		return nil
	})
}

// openLive opens live and makes it a replica if it is not one yet.
func (r *Replica) openLive(ctx context.Context) (made bool, err error) {
	size, err := sizeOf(r.files.live)
	if err != nil {
		return false, err
	}
	if size > 0 {
		if err := r.rebuildIfNeeded(ctx); err != nil {
			return false, r.fileError(err)
		}
		// A crash may have left no more than a journal to be rolled back.
		if size, err = sizeOf(r.files.live); err != nil {
			return false, err
		}
	}
	if r.live, err = openConn(r.files.live, "mode=rwc"); err != nil {
		return false, r.fileError(err)
	}
	if size == 0 {
		// Before anything is written: these cannot be changed later.
		if err := r.live.exec("PRAGMA page_size=4096; PRAGMA encoding='UTF-8'"); err != nil {
			return false, r.fileError(err)
		}
	}
	st, found, err := readState(r.live)
	switch {
	case err != nil:
		return false, r.fileError(err)
	case found:
		err = r.useWAL(ctx)
	default:
		st, err = r.makeReplica(ctx)
	}
	if err != nil {
		return false, r.fileError(err)
	}
	r.setState(st)
	return !found, nil
}

// useWAL puts live into WAL mode and checks that it can be written.
func (r *Replica) useWAL(ctx context.Context) error {
	mode, err := r.live.one("PRAGMA journal_mode=WAL")
	if err != nil {
		return err
	}
	if mode != "wal" {
		return &FileError{Path: r.files.live, Err: ErrInUse, Why: fmt.Errorf("journal mode stays %v", mode)}
	}
	if err := r.live.exec("BEGIN IMMEDIATE; ROLLBACK"); err != nil && !isBusy(err) {
		return err
	}
	return nil
}

// makeReplica gives live its local tables and a first state.
func (r *Replica) makeReplica(ctx context.Context) (state, error) {
	var st state
	objects, err := userObjects(r.live)
	if err != nil {
		return st, err
	}
	if err := refuseForeignReplica(r.live, r.files.live); err != nil {
		return st, err
	}
	if objects > 0 {
		st.adopt = adoptPending
		if err := quickCheck(r.live); err != nil {
			return st, err
		}
	}
	if st.clientID, err = newClientID(r.cfg.ClientName); err != nil {
		return st, err
	}
	st.remoteURL = r.cfg.RemoteURL
	if err := fault.At("make.wal"); err != nil {
		return st, err
	}
	if err := r.useWAL(ctx); err != nil {
		return st, err
	}
	if err := r.live.begin(ctx); err != nil {
		return st, err
	}
	defer r.live.rollback()
	if err := cdc.Setup(r.live.SQLiteConn); err != nil {
		return st, err
	}
	if err := writeState(r.live, nil, &st); err != nil {
		return st, err
	}
	if st.adopt != "" {
		// Room below the ids of what is written from now on, for the rows that
		// are here already.
		if err := r.live.exec(putState, lastIDKey, adoptRoom); err != nil {
			return st, err
		}
	}
	if err := fault.At("make.commit"); err != nil {
		return st, err
	}
	if err := r.live.exec("COMMIT"); err != nil {
		return st, err
	}
	return st, nil
}

// userObjects counts what a schema holds beside SQLite's own and our tables.
func userObjects(c *conn) (int64, error) {
	return c.number(`SELECT count(*) FROM sqlite_schema WHERE name NOT LIKE 'sqlite\_%' ESCAPE '\'
		AND lower(tbl_name) NOT IN ('turso_cdc', 'turso_sync_state', 'turso_sync_rejected', 'turso_sync_last_change_id')`)
}

// aboutValues tells a complaint of quick_check that is about the user's values,
// which the remote may well hold, from one about the structure of the file.
func aboutValues(text string) bool {
	for _, prefix := range []string{"NULL value in", "non-", "NUMERIC value in", "TEXT value in", "CHECK constraint failed",
		"malformed inverted index", "unable to validate the inverted index"} {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return false
}

// aboutLeaks tells a complaint about pages that nobody uses: a waste, and no harm.
func aboutLeaks(text string) bool {
	for line := range strings.SplitSeq(text, "\n") {
		if !strings.HasSuffix(line, ": never used") && line != "*** in database main ***" {
			return false
		}
	}
	return true
}

// refuseForeignReplica recognises the files of Turso's own sync clients.
func refuseForeignReplica(c *conn, path string) error {
	n, err := c.number(`SELECT count(*) FROM sqlite_schema WHERE name = 'turso_cdc' AND type = 'table' AND sql NOT LIKE '%shape INTEGER%'`)
	if err != nil {
		return err
	}
	if n > 0 {
		return &FileError{Path: path, Err: ErrNotReplica, Why: errors.New("it is a replica of another sync client: its table turso_cdc has another form")}
	}
	return nil
}

// errorCode is how quick_check tells of a page that could not be read at all;
// about pages of overflow chains it does not say why.
var errorCode = regexp.MustCompile(`error code=(\d+)`)

// unread returns the error for which SQLite could not read a page, if it is one
// that is not the content's fault: quick_check counts such pages among the damaged.
func unread(text string) error {
	if strings.Contains(text, "failed to get page ") {
		return sqlite3.Error{Code: sqlite3.ErrIoErr, ExtendedCode: sqlite3.ErrIoErrRead}
	}
	for _, m := range errorCode.FindAllStringSubmatch(text, -1) {
		code, err := strconv.Atoi(m[1])
		if no := sqlite3.ErrNo(code & 0xff); err == nil && no != sqlite3.ErrCorrupt && no != sqlite3.ErrNotADB {
			return sqlite3.Error{Code: no, ExtendedCode: sqlite3.ErrNoExtended(code)}
		}
	}
	return nil
}

// quickCheck looks for damage in the structure of a database.
func quickCheck(c *conn) error {
	if err := c.exec("PRAGMA ignore_check_constraints=ON"); err != nil {
		return err
	}
	var damage error
	err := c.query("PRAGMA quick_check", nil, func(row []driver.Value) error {
		if text := fmt.Sprint(row[0]); text != "ok" && !aboutValues(text) && !aboutLeaks(text) {
			if err := unread(text); err != nil {
				return fmt.Errorf("check structure: %w", err)
			}
			damage = errors.New(text)
			return errStop
		}
		return nil
	})
	if err != nil && !errors.Is(err, errStop) {
		if hasCode(err, sqlite3.ErrError) {
			return nil // a virtual table of a module that this program lacks
		}
		return err
	}
	if damage != nil {
		return fmt.Errorf("%w: %w", ErrNotDatabase, damage)
	}
	return nil
}

// isDamage tells that a file's content is at fault.
func isDamage(err error) bool { return errors.Is(err, ErrNotDatabase) || hasCode(err, notDatabase...) }

// notDatabase are the codes that mean that a file's content is at fault.
var notDatabase = []sqlite3.ErrNo{sqlite3.ErrNotADB, sqlite3.ErrCorrupt}

// fileError turns what SQLite says of live into the conditions of this package.
func (r *Replica) fileError(err error) error {
	fail := func(cond error) error { return &FileError{Path: r.files.live, Err: cond, Why: err} }
	var known *FileError
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, ErrNotDatabase), errors.Is(err, ErrReadOnly), errors.Is(err, ErrFormat):
		return &FileError{Path: r.files.live, Err: err}
	case hasCode(err, notDatabase...):
		return fail(ErrNotDatabase)
	case hasCode(err, sqlite3.ErrCantOpen) && noRoom(err):
		return err
	case hasCode(err, sqlite3.ErrReadonly, sqlite3.ErrPerm, sqlite3.ErrAuth, sqlite3.ErrCantOpen), forbidden(err):
		return fail(ErrReadOnly)
	case hasCode(err, sqlite3.ErrBusy, sqlite3.ErrLocked):
		return fail(ErrInUse)
	}
	return err
}

// forbidden tells that the operating system does not let us write.
func forbidden(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}

// noRoom tells that the disk is full, which SQLite may report as another error.
func noRoom(err error) bool {
	var e sqlite3.Error
	return errors.As(err, &e) && e.SystemErrno == syscall.ENOSPC
}

// Close checkpoints and releases everything. The driver's connections must be
// closed before. The replica is closed afterwards even if it returns an error.
func (r *Replica) Close(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	clean, err := r.settle(ctx)
	errs := []error{err, r.log.Close(), r.closeConns()}
	if clean && errors.Join(errs...) == nil {
		// Only a hint: without it the next open compares.
		if err := r.lock.leaveHint(r.files, &r.dirty.pages, r.cfg.Now()); err != nil {
			r.cfg.Logger.Debug("leave hint", keyError, err)
		}
	}
	errs = append(errs, r.lock.unlock())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close replica: %w", err)
	}
	return nil
}

// settle moves the whole WAL into live. clean tells that live is known then to
// be replay(base, log), and in which pages it differs from base.
func (r *Replica) settle(ctx context.Context) (clean bool, err error) {
	if err := r.log.Acquire(ctx); err != nil {
		return false, err
	}
	defer r.log.Release()
	if err := r.catchUp(); err != nil {
		return false, err
	}
	busy, err := r.truncateWAL()
	if err != nil || busy {
		return false, err
	}
	ws, err := r.live.db.WALState()
	if err != nil {
		return false, err
	}
	r.noticeForeign(ws)
	if err := r.live.db.SetConfig(shim.NoCheckpointOnClose, false); err != nil {
		return false, err
	}
	clean = r.dirty.known && !r.compare && !r.checkBase && !r.unfinished() && ws.Change == r.dirty.mark.change
	return clean, nil
}

// closeConns closes the replica's own connections, live last, so that SQLite
// removes the WAL.
func (r *Replica) closeConns() error {
	r.meterMu.Lock()
	defer r.meterMu.Unlock()
	var errs []error
	for _, c := range []**conn{&r.meter, &r.reader, &r.live} {
		if *c != nil {
			errs = append(errs, (*c).Close())
			*c = nil
		}
	}
	return errors.Join(errs...)
}
