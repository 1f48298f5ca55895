package replica

import (
	"context"
	"database/sql/driver"
	"fmt"

	"github.com/tursosync/tursosync/internal/fault"
)

// Checkpoint moves live's WAL into the database file as far as readers allow,
// and starts the WAL over if nobody reads from it. Readers are never blocked;
// writers wait for the frames committed during the first, longer part only.
func (r *Replica) Checkpoint(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrClosed
	}
	if err := r.checkpoint(ctx); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

func (r *Replica) checkpoint(ctx context.Context) error {
	if err := r.checkpointPinned(); err != nil {
		return err
	}
	if err := r.log.Acquire(ctx); err != nil {
		return err
	}
	defer r.log.Release()
	if err := r.catchUp(); err != nil {
		return err
	}
	_, err := r.truncateWAL()
	return err
}

// checkpointPinned does the bulk of the work while writers go on. A read
// transaction of our own keeps the WAL from being completed and reset behind our
// back, so that no frame vanishes before its page is noted.
func (r *Replica) checkpointPinned() error {
	reader, err := r.readerConn()
	if err != nil {
		return err
	}
	if err := reader.beginRead(); err != nil {
		return err
	}
	defer reader.rollback()
	if err := r.catchUp(); err != nil {
		return err
	}
	if err := fault.At("checkpoint.passive"); err != nil {
		return err
	}
	_, err = r.runCheckpoint("PASSIVE")
	return err
}

// truncateWAL completes the checkpoint and empties the WAL; busy: a reader
// stands in the way. The caller holds the gate and has caught up.
func (r *Replica) truncateWAL() (busy bool, err error) {
	if err := fault.At("checkpoint.truncate"); err != nil {
		return false, err
	}
	if err := r.live.exec("PRAGMA busy_timeout=0"); err != nil {
		return false, err
	}
	defer func() {
		if e := r.live.exec("PRAGMA busy_timeout=5000"); err == nil {
			err = e
		}
	}()
	return r.runCheckpoint("TRUNCATE")
}

func (r *Replica) runCheckpoint(mode string) (busy bool, err error) {
	err = r.live.query("PRAGMA wal_checkpoint("+mode+")", nil, func(row []driver.Value) error {
		busy = row[0] != int64(0)
		return nil
	})
	if isBusy(err) {
		return true, nil
	}
	return busy, err
}

// readerConn returns the connection for snapshots of live.
func (r *Replica) readerConn() (*conn, error) {
	if r.reader == nil {
		c, err := openConn(r.files.live, "mode=rw"+oneUser)
		if err != nil {
			return nil, err
		}
		if r.cfg.Connect != nil {
			if err := r.cfg.Connect(c.SQLiteConn); err != nil {
				_ = c.Close()
				return nil, fmt.Errorf("connect hook: %w", err)
			}
		}
		r.reader = c
	}
	return r.reader, nil
}

// beginRead begins a read transaction and fixes its snapshot.
func (c *conn) beginRead() error {
	if err := c.exec("BEGIN"); err != nil {
		return err
	}
	if _, err := c.number("SELECT count(*) FROM sqlite_schema"); err != nil {
		c.rollback()
		return err
	}
	return nil
}
