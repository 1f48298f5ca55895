package server

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/shim"
	"github.com/tursosync/tursosync/internal/wal"
)

// checkpoint moves the WAL into the file, if it holds at least so many bytes, and
// notes the history. Nobody can write meanwhile, so that no commit goes unseen
// into the file; it waits for writers only if it must. Readers are not disturbed
// (https://sqlite.org/c3ref/wal_checkpoint_v2.html, PASSIVE).
func (h *history) checkpoint(atLeast int64, must bool) error {
	h.mu.Lock()
	err := h.refresh()
	small := h.settled || wal.Size(h.state.MaxFrame-h.state.Backfill) < atLeast
	h.mu.Unlock()
	if err != nil || small {
		return err
	}
	lock, err := openConn(h.cfg)
	if err != nil {
		return err
	}
	defer func() { _ = lock.close() }() // ends the transaction
	if !must {
		if _, err := lock.one("PRAGMA busy_timeout=100"); err != nil {
			return err
		}
	}
	if _, err := lock.one("BEGIN IMMEDIATE"); err != nil {
		if e := (*shim.StmtError)(nil); !must && errors.As(err, &e) && e.Code&0xff == 5 {
			return nil // SQLITE_BUSY: later
		}
		return err
	}
	mover, err := openConn(h.cfg)
	if err != nil {
		return err
	}
	defer func() { _ = mover.close() }()
	h.mu.Lock()
	if err = h.refresh(); err == nil && h.state.Backfill < h.state.MaxFrame {
		h.preserve()
		h.save() // what follows makes a mark of the file worthless
	}
	h.mu.Unlock()
	if err != nil {
		return err
	}
	if err := fault.At("checkpoint.move"); err != nil {
		return err
	}
	if _, err := mover.one("PRAGMA wal_checkpoint(PASSIVE)"); err != nil {
		return err
	}
	if err := fault.At("checkpoint.moved"); err != nil {
		return err
	}
	h.cfg.stats.checkpoints.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.refresh(); err != nil {
		return err
	}
	h.save()
	if len(h.pins.list) > 0 {
		if err := h.markMoved(); err != nil {
			h.unpin(err)
		}
	}
	return nil
}

// digest returns the SHA-256 of the file. No request may be under way.
func (h *history) digest() (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	state, err := h.conn.db.WALState()
	if err != nil {
		return "", err
	}
	if state.Backfill != state.MaxFrame {
		return "", errors.New("somebody reads the database, so that its WAL cannot be moved into the file")
	}
	size, err := h.conn.db.Size(shim.Main)
	if err != nil {
		return "", err
	}
	sum, b := sha256.New(), make([]byte, 64*page.Size)
	for off := int64(0); off < size; {
		n, err := h.conn.db.ReadAt(shim.Main, b[:min(int64(len(b)), size-off)], off)
		if err != nil {
			return "", err
		}
		sum.Write(b[:n])
		off += int64(n)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// afterCommit lets the history see what was committed, wakes long polls, and has
// a WAL that has grown moved into the file.
func (s *Server) afterCommit() {
	state, err := s.history.refreshed()
	if err != nil {
		s.cfg.Logger.Error("after commit", "error", err)
		return
	}
	if wal.Size(state.MaxFrame-state.Backfill) < s.cfg.CheckpointBytes || !s.checkpointing.CompareAndSwap(false, true) {
		return
	}
	if !s.enter() {
		return
	}
	go func() {
		defer s.active.Done()
		defer s.checkpointing.Store(false)
		if !s.turn.wait(s.ctx, time.Second) {
			return
		}
		defer s.turn.end()
		if !s.gate.TryLock() {
			return // the next commit tries again
		}
		defer s.gate.Unlock()
		if err := s.history.checkpoint(s.cfg.CheckpointBytes, false); err != nil {
			s.cfg.Logger.Error("checkpoint", "error", err)
		}
	}()
}

// Checkpoint moves the WAL into the file, as far as no reader needs it. Revisions
// stay valid.
func (s *Server) Checkpoint() error {
	if !s.enter() {
		return ErrClosed
	}
	defer s.active.Done()
	s.gate.Lock()
	defer s.gate.Unlock()
	return s.history.checkpoint(0, true)
}

// Digest checkpoints and returns the SHA-256 of the database file: that of every
// replica's base that has pulled all of it.
func (s *Server) Digest() (string, error) {
	if !s.enter() {
		return "", ErrClosed
	}
	defer s.active.Done()
	s.gate.Lock()
	defer s.gate.Unlock()
	// Pulls that were answered may not have closed their transactions yet.
	for begun := time.Now(); ; time.Sleep(time.Millisecond) {
		if err := s.history.checkpoint(0, true); err != nil {
			return "", err
		}
		d, err := s.history.digest()
		if err == nil || time.Since(begun) > time.Second {
			return d, err
		}
	}
}
