package server

import (
	"context"
	"strconv"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/shim"
)

// turn is whose turn it is to write. SQLite lets one connection write at a time,
// and the others look again after a while, whether they are the next or not: many
// writers would sleep more than they write. Here they stand in line.
//
// It is a courtesy: the lock is SQLite's, and other programs know only that. So no
// harm is done by those who write without it.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// wait returns as soon as it is the caller's turn, and whether it is.
func (t turn) wait(ctx context.Context, most time.Duration) bool {
	select {
	case t <- struct{}{}:
		return true
	default:
	}
	late := time.NewTimer(most)
	defer late.Stop()
	select {
	case t <- struct{}{}:
		return true
	case <-late.C:
	case <-ctx.Done():
	}
	return false
}

// end lets the next one in.
func (t turn) end() { <-t }

// busyTime is busyTimeout.
var busyTime = func() time.Duration {
	ms, _ := strconv.Atoi(busyTimeout)
	return time.Duration(ms) * time.Millisecond
}()

// takeTurn waits for the connection's turn before a statement that writes.
func (c *conn) takeTurn(ctx context.Context, s *shim.Stmt) error {
	if c.turn == nil || c.writing || s.ReadOnly() {
		return nil
	}
	if !c.turn.wait(ctx, busyTime) {
		return &shim.StmtError{Code: int(sqlite3.ErrBusy), Message: "database is locked"}
	}
	c.writing = true
	return nil
}

// endTurn ends the connection's turn with its transaction.
func (c *conn) endTurn() {
	if c.writing && c.db.Info().Autocommit {
		c.giveTurn()
	}
}

func (c *conn) giveTurn() {
	if c.writing {
		c.writing = false
		c.turn.end()
	}
}
