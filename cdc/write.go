package cdc

import (
	"context"
	"errors"
	"fmt"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/shim"
)

// Statements that write: the lock is taken, the hooks are looked at, the statement
// runs, and what it changed is logged and committed, alone or inside of a transaction.

// write runs what may change the synchronised database.
func (s *Session) write(ctx context.Context, st *Statement, exec func() error) error {
	st, err := s.fresh(st)
	if err != nil {
		return err
	}
	if !st.main {
		return s.pass(st, exec)
	}
	if s.locked || s.db.InTx() {
		return s.writeInside(ctx, st, exec)
	}
	if err := s.acquire(ctx); err != nil {
		return err
	}
	defer s.over() // whatever happens: no transaction stays open, nor the gate held
	return s.writeAlone(st, exec)
}

// writeAlone runs a statement in a transaction of its own.
func (s *Session) writeAlone(st *Statement, exec func() error) error {
	st, err := s.lockAlone(st)
	if err != nil {
		return err
	}
	if !st.main {
		err = exec()
		s.forget()
	} else if st.Kind == Schema {
		err = s.runSchema(st, exec)
	} else if err = s.touchAll(st); err == nil {
		err = exec()
	}
	if err != nil && (!s.db.InTx() || undoes(err)) {
		return err // SQLite rolled back, or over does
	}
	if e := s.finishAlone(); err == nil {
		err = e
	}
	return err
}

// undoes tells whether a statement that ends with the error leaves nothing when it is
// a transaction of its own. Inside of one, as we run it, SQLite only undoes it if the
// error is one that its program foresees
// (https://sqlite.org/lang_conflict.html): rows before the one that made a function
// fail, or that a STRICT table refused, are still there. What a constraint left is
// what ON CONFLICT says.
func undoes(err error) bool {
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.ExtendedCode {
	case sqlite3.ErrConstraintCheck, sqlite3.ErrConstraintForeignKey, sqlite3.ErrConstraintNotNull, sqlite3.ErrConstraintPrimaryKey,
		sqlite3.ErrConstraintRowID, sqlite3.ErrConstraintTrigger, sqlite3.ErrConstraintUnique:
		return false
	}
	return true
}

// lockTries bounds how often the schema may change between our look at it and
// our lock.
const lockTries = 8

// lockAlone opens a write transaction with everything in place that st needs.
func (s *Session) lockAlone(st *Statement) (*Statement, error) {
	for range lockTries {
		var err error
		if s.schema != nil {
			if st, err = s.fresh(st); err != nil {
				return nil, err
			}
			if err = s.care(st); err != nil {
				return nil, err
			}
		}
		t, err := s.c.Begin(s.want(shim.BeginImmediate, st))
		if err = s.began(t, err); err != nil {
			return nil, err
		}
		if s.current(t) {
			s.locked = true
			return st, nil
		}
		schema, err := s.readSchema(t.Cookie)
		if err != nil {
			return nil, err
		}
		if t, err = s.c.Rollback(); err != nil {
			return nil, fmt.Errorf("roll back: %w", err)
		}
		s.note(t)
		if err := s.setSchema(schema); err != nil {
			return nil, err
		}
	}
	return nil, sqlite3.Error{Code: sqlite3.ErrBusy, ExtendedCode: sqlite3.ErrNoExtended(sqlite3.ErrBusy)}
}

// want is what Begin is to do for a statement; nil: whatever follows.
func (s *Session) want(how shim.BeginHow, st *Statement) shim.Want {
	w := shim.Want{How: how, Temp: s.triggers.Any(), Replace: true, Rekey: true, Probe: true}
	if st != nil {
		w.Replace, w.Rekey, w.Counts, w.Probe = st.replaces(), st.rekeys(), st.Kind == Write, st.deletes
	}
	var seq uint64
	w.NextID, w.Change, seq = s.log.look()
	if s.schema != nil {
		w.Known, w.Cookie = s.schemaSeq == seq, s.schema.Cookie
	}
	s.seenSeq = seq
	return w
}

// finishAlone logs and commits.
func (s *Session) finishAlone() error {
	t, err := s.finish(true)
	if err == nil {
		s.settle(t)
		return nil
	}
	var e sqlite3.Error
	if errors.As(err, &e) && e.Code == sqlite3.ErrConstraint && s.db.InTx() {
		// A deferred foreign key: once more, for SQLite's own words.
		s.c.AllowCommit(true)
		err = exec(s.conn, "COMMIT")
		s.c.AllowCommit(false)
		s.settle(s.c.State())
	}
	return err
}

// writeInside runs a statement inside the open transaction.
func (s *Session) writeInside(ctx context.Context, st *Statement, exec func() error) error {
	if err := s.lockInside(ctx, st, shim.BeginUpgrade); err != nil {
		if errors.Is(err, shim.ErrOutside) {
			return s.write(ctx, st, exec)
		}
		return err
	}
	st, err := s.fresh(st)
	if err != nil {
		return err
	}
	if !st.main {
		return s.pass(st, exec)
	}
	if err := s.care(st); err != nil {
		return err
	}
	if st.Kind == Schema {
		err = s.runSchema(st, exec)
		s.settle(s.c.State())
		return err
	}
	if err := s.touchAll(st); err != nil {
		return err
	}
	if err := s.c.StatementStarts(st.replaces(), st.rekeys(), true); err != nil {
		return s.notStarted(err)
	}
	if err = exec(); err == nil && s.c.StatementDone() {
		return nil
	}
	s.settle(s.c.StatementEnds())
	return err
}

// notStarted handles an error of StatementStarts.
func (s *Session) notStarted(err error) error {
	if errors.Is(err, shim.ErrOutside) {
		// Somebody ended the transaction on the raw connection: our commit hook has
		// refused that if it had changed anything.
		s.settle(s.c.StatementEnds())
		return fmt.Errorf("%w: the transaction was ended behind the session's back", ErrUncaptured)
	}
	return uncaptured(err)
}

// lockInside makes the open transaction one that writes, with the schema known.
func (s *Session) lockInside(ctx context.Context, st *Statement, how shim.BeginHow) error {
	if s.locked && !s.unsure {
		return nil
	}
	if s.locked {
		how = shim.BeginNothing
	} else {
		if err := s.acquire(ctx); err != nil {
			return err
		}
	}
	t, err := s.c.Begin(s.want(how, st))
	if how != shim.BeginNothing {
		err = s.began(t, err)
	}
	if err == nil && !s.current(t) {
		err = s.refresh(t)
	}
	if err != nil {
		s.settle(s.c.State())
		return err
	}
	s.locked, s.unsure = true, false
	return nil
}

// began accounts for what Begin found.
func (s *Session) began(t shim.Txn, err error) error {
	s.note(t)
	if err != nil {
		return uncaptured(err)
	}
	if t.Displaced != 0 {
		return fmt.Errorf("%w: %v", ErrHookDisplaced, t.Displaced)
	}
	if epoch := s.log.began(t); epoch != s.shapes {
		s.shapes = epoch
		s.c.ForgetShapes()
	}
	return nil
}
