package tursosync

import (
	"context"
	"errors"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/cdc"
)

// within executes a statement and interrupts it when ctx is done. An interrupt
// that comes just before the statement begins is lost, so it is repeated until
// the statement has ended; go-sqlite3 does it once, and an endless statement that
// missed it stays endless.
func within(ctx context.Context, s interface{ InterruptNow() }, exec func() error) error {
	if ctx.Done() == nil {
		return exec()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	finished, ended := make(chan struct{}), make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		for wait := 100 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
			s.InterruptNow()
			select {
			case <-finished:
				return
			case <-time.After(wait):
			}
		}
	})
	err := exec()
	close(finished)
	if stop() {
		return err
	}
	<-ended // what runs next on the connection must not be hit
	var e sqlite3.Error
	if errors.As(err, &e) && e.Code == sqlite3.ErrInterrupt {
		return ctx.Err()
	}
	return err
}

// interruptible returns the session if statements are to be executed with
// within, and the context that go-sqlite3 gets then: none to watch. Statements
// that cannot write are left to go-sqlite3, which hands out their rows.
func (c *Conn) interruptible(ctx context.Context, st *cdc.Statement) (*cdc.Session, context.Context) {
	if s, ok := c.session.(*cdc.Session); ok && !st.ReadOnly {
		if ctx.Done() != nil {
			ctx = context.WithoutCancel(ctx)
		}
		return s, ctx
	}
	return nil, ctx
}
