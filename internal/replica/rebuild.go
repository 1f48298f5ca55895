package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/shim"
)

// rebuildIfNeeded makes a file with the remote's page size and encoding out of
// one that has another: both are fixed when a database is created. The original is
// kept as a backup. After a crash it is there under one of the two names, if not both.
func (r *Replica) rebuildIfNeeded(ctx context.Context) (err error) {
	c, err := openConn(r.files.live, "mode=rw")
	if err != nil {
		return err
	}
	open := true
	defer func() {
		if open {
			err = errors.Join(err, c.Close())
		}
	}()
	fits, err := c.fits(r.files.live)
	if err != nil || fits {
		return err
	}
	if _, found, err := readState(c); err != nil {
		return err
	} else if found {
		// Ours are never made like this: somebody rebuilt a replica's file. With the
		// log in it, nothing would fit any more.
		return fmt.Errorf("%w: a replica's page size or encoding was changed", ErrNotDatabase)
	}
	if err := refuseForeignReplica(c, r.files.live); err != nil {
		return err
	}
	if err := quickCheck(c); err != nil {
		return err
	}
	// Nobody else may be in the file while it is replaced.
	if mode, err := c.one("PRAGMA journal_mode=DELETE"); err != nil {
		return err
	} else if mode != "delete" {
		return &FileError{Path: r.files.live, Err: ErrInUse}
	}
	if err := c.exec("BEGIN EXCLUSIVE"); err != nil {
		return err
	}
	if err := r.rebuild(ctx, c); err != nil {
		return fmt.Errorf("rebuild with pages of %d bytes: %w", page.Size, err)
	}
	backup, err := r.files.backup(r.cfg.Now())
	if err != nil {
		return err
	}
	if err := fault.At("rebuild.link"); err != nil {
		return err
	}
	if err := fault.Link(r.files.live, backup); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	if err := fault.At("rebuild.rename"); err != nil {
		return err
	}
	if err := fault.Rename(r.files.rebuilt(), r.files.live); err != nil {
		return fmt.Errorf("replace by rebuilt file: %w", err)
	}
	open = false
	r.cfg.Logger.Info("rebuilt the file with the remote's page size and encoding", keyPath, backup)
	return errors.Join(c.Close(), syncDir(r.files.live))
}

// fits tells whether a database has the remote's page size and encoding, and no
// reserved bytes.
func (c *conn) fits(path string) (bool, error) {
	size, err := c.number("PRAGMA page_size")
	if err != nil {
		return false, err
	}
	encoding, err := c.one("PRAGMA encoding")
	if err != nil {
		return false, err
	}
	n, err := c.number("SELECT count(*) FROM sqlite_schema")
	if err != nil {
		return false, err
	}
	// SQLite says that a file of one byte is empty.
	if left, err := sizeOf(path); err != nil || left == 0 {
		return left == 0, err // its making was rolled back
	}
	head := make([]byte, 100)
	if _, err := c.db.ReadAt(shim.Main, head, 0); errors.Is(err, io.EOF) {
		return false, fmt.Errorf("%w: it has no header", ErrNotDatabase)
	} else if err != nil {
		return false, err
	}
	if err := c.refuseCut(path, size); err != nil {
		return false, err
	}
	if n == 0 && binary.BigEndian.Uint16(head[offPageSize:]) == page.Size {
		return true, nil // without a table the encoding is still open
	}
	return size == page.Size && encoding == "UTF-8" && head[offReserved] == 0, nil
}

// refuseCut refuses a file that ends within a page: SQLite would take the rest of
// the page for zeros, and rows for what is left of them. Only a crash leaves such a
// page behind in good faith, and then the WAL has it.
func (c *conn) refuseCut(path string, pageSize int64) error {
	size, err := c.db.Size(shim.Main)
	if err != nil {
		return err
	}
	wal, err := sizeOf(path + "-wal")
	if err != nil {
		return err
	}
	if cut := size % pageSize; cut != 0 && wal == 0 {
		return fmt.Errorf("%w: its last page is cut off after %d of %d bytes", ErrNotDatabase, cut, pageSize)
	}
	return nil
}

// rebuild copies everything into a new file.
func (r *Replica) rebuild(ctx context.Context, from *conn) (err error) {
	path := r.files.rebuilt()
	if err := removeDatabase(path); err != nil {
		return err
	}
	to, err := openConn(path, "mode=rwc")
	if err != nil {
		return err
	}
	closed := false
	defer func() {
		if !closed {
			err = errors.Join(err, to.Close())
		}
		if err != nil {
			err = errors.Join(err, removeDatabase(path))
		}
	}()
	if r.cfg.Connect != nil {
		for _, c := range []*conn{from, to} {
			if err := r.cfg.Connect(c.SQLiteConn); err != nil {
				return fmt.Errorf("connect hook: %w", err)
			}
		}
	}
	if err := to.exec("PRAGMA page_size=4096; PRAGMA encoding='UTF-8'; PRAGMA synchronous=FULL; BEGIN IMMEDIATE"); err != nil {
		return err
	}
	for _, off := range []shim.Config{shim.EnableTrigger, shim.Defensive} {
		if err := to.db.SetConfig(off, false); err != nil {
			return err
		}
	}
	replayer, err := cdc.NewReplayer(to.SQLiteConn)
	if err != nil {
		return err
	}
	empty, err := openConn(path+"-empty", "mode=memory")
	if err != nil {
		return errors.Join(err, replayer.Close())
	}
	var batch []cdc.Change
	var last cdc.ID
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		out, err := replayer.Apply(ctx, batch)
		if err == nil && out.Rejected() {
			err = fmt.Errorf("copy table %q: %w", batch[0].Table, out.Err)
		}
		batch = batch[:0]
		return err
	}
	err = cdc.Diff(ctx, empty.SQLiteConn, from.SQLiteConn, func(c *cdc.Change) error {
		last++
		c.ID, c.Txn = last, last-cdc.ID(len(batch))
		if batch = append(batch, *c); len(batch) < adoptTxn {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err = errors.Join(err, replayer.Close(), empty.Close()); err != nil {
		return err
	}
	if err := fault.At("rebuild.commit"); err != nil {
		return err
	}
	if err := to.exec("COMMIT"); err != nil {
		return err
	}
	closed = true
	return to.Close()
}
