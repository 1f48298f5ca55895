package cdc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/hooks"
	"github.com/tursosync/tursosync/internal/shim"
)

// Session captures what one connection changes. Every statement whose ReadOnly
// is false must be executed inside Run.
//
// Like its connection it is used by one goroutine at a time.
type Session struct {
	log    *Log
	conn   *sqlite3.SQLiteConn
	db     shim.DB
	c      *shim.Capture // nil: closed
	traced bool          // SQLite reports every touch itself: the pre-update hook

	readOnly bool // SetReadOnly

	// statements are classified ones by text; epoch counts what makes them and
	// their preparations stale.
	statements map[string]*Statement
	epoch      uint64

	schema     *hooks.Schema // nil: read it under the write lock
	schemaSeq  uint64        // Log.schemaSeq that schema was seen with
	seenSeq    uint64        // and that of the last look
	triggers   *hooks.Triggers
	tempCookie uint32     // schema version of temp with our triggers
	displaced  shim.Hooks // found so outside of a write: the next one fails
	dropAll    bool       // triggers may be left from before a rollback
	shapes     uint64     // Log.epoch of the shapes known to be in turso_sync_state

	// The open transaction:
	counted    bool     // it is among Log.upgraders
	gated      bool     // the gate is ours
	locked     bool     // the write lock too, and schema is what main has
	unsure     bool     // a ROLLBACK TO may have changed the schema since
	savepoints []string // names, outermost first
	outermost  bool     // the transaction was opened by savepoints[0]
	altered    bool     // it changed the schema
	temp       bool     // it may have changed what temp has for main: no cookie tells of a ROLLBACK
	wake       bool     // changes were committed that nobody was told of
	stuck      bool     // it is our own and cannot be rolled back yet
	lineage    hooks.Lineage
}

// statementsMax bounds the classified statements kept, textMax the length of
// their texts.
const (
	sessionStatementsMax = 512
	sessionTextMax       = 32 << 10
)

// Session starts to capture on a connection, which must be open, idle, and used
// by nobody else. There is one Session for a connection.
func (l *Log) Session(conn *sqlite3.SQLiteConn) (*Session, error) {
	db, err := shim.Of(conn)
	if err != nil {
		return nil, fmt.Errorf("start session: %w", err)
	}
	if err := db.SetConfig(shim.NoCheckpointOnClose, true); err != nil {
		return nil, fmt.Errorf("start session: %w", err)
	}
	c, err := shim.OpenCapture(db, l.oldDB)
	if err != nil {
		return nil, fmt.Errorf("start session: %w", err)
	}
	return &Session{
		log: l, conn: conn, db: db, c: c, traced: shim.HasPreUpdate(),
		statements: make(map[string]*Statement), triggers: hooks.NewTriggers(conn), epoch: 1,
	}, nil
}

// Close stops capturing. It must be called before the connection is closed.
func (s *Session) Close() error {
	if s.c == nil {
		return nil
	}
	err := s.ResetSession()
	s.c.Close()
	s.c = nil
	return err
}

// Prepare classifies the first statement of a text. Errors of its syntax are the
// sqlite3.Error that go-sqlite3 returns; refusals are an *UnsupportedError. The
// answer is cached by text.
func (s *Session) Prepare(query string) (*Statement, error) {
	if st, ok := s.statements[query]; ok && st.epoch == s.epoch {
		return st, nil
	}
	if s.c == nil {
		return nil, ErrClosed
	}
	class, err := s.c.Classify(query)
	if !class.Authorized && !class.Empty {
		if s.displaced |= s.c.Check(); s.displaced != 0 {
			class, err = s.c.Classify(query)
		}
	}
	if err != nil {
		if e := refusal(class); e != nil {
			return nil, e
		}
		return nil, s.prepareError(query, err)
	}
	st := &Statement{SQL: strings.TrimSpace(query[:class.Tail]), Tail: strings.TrimSpace(query[class.Tail:]), epoch: s.epoch}
	if err := st.classify(class); err != nil {
		return nil, err
	}
	if len(query) <= sessionTextMax {
		if len(s.statements) >= sessionStatementsMax {
			clear(s.statements)
		}
		s.statements[query] = st
	}
	return st, nil
}

// prepareError has go-sqlite3 prepare the text: its error has SQLite's message,
// which we cannot put into an sqlite3.Error ourselves.
func (s *Session) prepareError(query string, err error) error {
	stmt, e := s.conn.Prepare(query)
	if e != nil {
		return e
	}
	return errors.Join(err, stmt.Close())
}

// Run executes one statement: exec must do it completely, fetching all rows that
// it returns, and return its error. Everything around it is done here: the gate, a
// transaction of its own when none is open, the log rows, the commit. After an
// error of exec, the log follows what SQLite kept.
//
// The error is exec's, or a sqlite3.Error (busy, constraint at commit), an
// *UnsupportedError, ErrHookDisplaced, ErrUncaptured, or the context's.
func (s *Session) Run(ctx context.Context, st *Statement, exec func() error) error {
	if s.c == nil {
		return ErrClosed
	}
	if s.stuck {
		if err := s.unstick(); err != nil {
			return err
		}
	}
	switch st.Kind {
	case Write, Schema, Commit, Release:
		if s.displaced != 0 {
			return s.hookDisplaced(s.displaced)
		}
	}
	switch st.Kind {
	case Write, Schema:
		return s.write(ctx, st, exec)
	case Begin:
		return s.begin(ctx, st, exec)
	case Commit:
		return s.commit(exec)
	case Release:
		if s.outermost && s.depth(st.name) == 0 {
			return s.commit(exec)
		}
	case Vacuum:
		s.c.Internal(true) // it reads our tables into the new file
		defer s.c.Internal(false)
		return exec()
	case Empty, Read:
		return exec()
	}
	if st.Kind == Savepoint && !s.db.InTx() {
		if err := s.enter(ctx); err != nil {
			return err
		}
	}
	return s.pass(st, exec)
}

// pass runs a statement that does not change main, or ends no transaction.
func (s *Session) pass(st *Statement, exec func() error) error {
	inside := s.db.InTx()
	if st.Kind == Schema {
		// Our triggers could stand in its way: a table of temp may have the name of
		// one that is watched.
		if err := s.dropTriggers(); err != nil {
			return err
		}
	}
	if s.locked {
		if err := s.c.StatementStarts(true, true, st.Kind == Write); err != nil {
			return s.notStarted(err)
		}
	} else if st.Kind == Write {
		s.c.StatementCounts()
	}
	err := exec()
	if err == nil {
		err = s.passed(st, inside)
	}
	s.settle(s.c.StatementEnds())
	return err
}

// passed notes what a statement did to the connection.
func (s *Session) passed(st *Statement, inside bool) error {
	switch st.Kind {
	case Savepoint:
		if !inside {
			s.savepoints, s.outermost = nil, true
		}
		s.savepoints = append(s.savepoints, st.name)
	case Release:
		if i := s.depth(st.name); i >= 0 {
			s.savepoints = s.savepoints[:i]
		}
	case RollbackTo:
		if i := s.depth(st.name); i >= 0 {
			s.savepoints = s.savepoints[:i+1]
		}
		s.unsure = true
	case Schema:
		s.temp = true
		s.forget()
	case Pragma, Detach:
		s.forget()
	case Attach:
		s.forget()
		return s.checkAttached()
	}
	return nil
}

// depth returns the index of the innermost savepoint of a name, or -1.
func (s *Session) depth(name string) int {
	for i := len(s.savepoints) - 1; i >= 0; i-- {
		if strings.EqualFold(s.savepoints[i], name) {
			return i
		}
	}
	return -1
}

// checkAttached detaches the synchronised database from itself: what is written
// through another name would not be captured.
func (s *Session) checkAttached() error {
	name, found := s.db.SameFile()
	if !found {
		return nil
	}
	if err := exec(s.conn, "DETACH "+quote(name)); err != nil {
		return fmt.Errorf("detach database %q: %w", name, err)
	}
	return &UnsupportedError{What: "ATTACH of the database itself", Why: "writes through its second name would not be captured"}
}

// begin runs BEGIN.
func (s *Session) begin(ctx context.Context, st *Statement, exec func() error) error {
	inside := s.db.InTx()
	if inside && st.immediate {
		// It takes the write lock, behind our back, before it is refused. This is
		// refused in the same words.
		_, err := s.conn.Exec("BEGIN", nil) //nolint:staticcheck // see queryStmt
		return err
	}
	if !inside {
		wait := s.enter
		if st.immediate {
			wait = s.acquire
		}
		if err := wait(ctx); err != nil {
			return err
		}
	}
	err := exec()
	if err == nil && st.immediate {
		if err = s.lockInside(ctx, nil, shim.BeginLocked); err != nil {
			s.over()
		}
		return err
	}
	s.settle(s.c.State())
	return err
}

// commit runs the statement that ends the transaction: COMMIT, or the RELEASE of
// the outermost savepoint.
func (s *Session) commit(exec func() error) error {
	if s.locked && s.unsure {
		if err := s.lockInside(context.Background(), nil, shim.BeginNothing); err != nil {
			return err
		}
	}
	if s.gated {
		if displaced := s.c.Check(); displaced != 0 {
			return s.hookDisplaced(displaced)
		}
		t, err := s.finish(false)
		if err == nil && s.locked && t.Cookie != s.schema.Cookie {
			s.c.Poison()
			err = fmt.Errorf("%w: the schema", ErrUncaptured)
		}
		if err != nil {
			s.settle(s.c.State())
			return err
		}
	}
	s.c.AllowCommit(s.gated)
	err := exec()
	s.c.AllowCommit(false)
	t := s.c.StatementEnds()
	if err != nil && t.Refused {
		err = fmt.Errorf("%w: %w", ErrUncaptured, err)
	}
	s.settle(t)
	return err
}

// finish logs, and commits if told so, defining tables as they are asked for.
func (s *Session) finish(commit bool) (shim.Txn, error) {
	for {
		t, err := s.c.Finish(commit)
		var undefined *shim.UndefinedError
		switch {
		case errors.As(err, &undefined):
			err = s.define(undefined.Table)
		case errors.Is(err, shim.ErrStale):
			if t, err = s.c.Begin(shim.Want{How: shim.BeginNothing, Replace: true}); err == nil {
				t.Stale = true
				err = s.refresh(t)
			}
		case err == nil && t.Displaced != 0:
			return t, fmt.Errorf("%w: %v", ErrHookDisplaced, t.Displaced)
		default:
			if !commit || err != nil {
				s.note(t) // once for each look: after a commit the caller settles with it
			}
			return t, uncaptured(err)
		}
		if err != nil {
			return t, err
		}
	}
}

func uncaptured(err error) error {
	if errors.Is(err, shim.ErrUncaptured) || errors.Is(err, shim.ErrPoisoned) {
		return fmt.Errorf("%w: %w", ErrUncaptured, err)
	}
	return err
}

// note takes over what every look at the connection may tell.
func (s *Session) note(t shim.Txn) {
	if t.Stale {
		s.forget()
		s.dropAll = true
	}
	if t.WALCommits > 0 {
		s.log.wrote(t.WALCommits, t.NextID, s.altered)
		if s.altered {
			s.altered = false
			s.schemaSeq++ // if it was the newest, it still is
		}
	}
	s.wake = s.wake || t.Committed
}

// settle follows the connection: when the transaction is over, or does not write
// any more, so is ours.
func (s *Session) settle(t shim.Txn) {
	s.note(t)
	if t.InTx && t.Writing {
		return
	}
	if s.gated {
		s.gated = false
		s.log.Release()
	}
	if s.wake {
		s.wake = false
		if s.log.config.Committed != nil {
			s.log.config.Committed()
		}
	}
	s.locked, s.unsure = false, false
	if !t.InTx {
		if s.temp {
			s.temp = false
			s.forget()
		}
		s.leave()
		s.savepoints, s.outermost, s.altered = nil, false, false
		if len(s.lineage.Steps) > 0 {
			s.lineage.Reset()
			s.c.ForgetTables() // their definitions reach back into the transaction
		}
	}
}

// over ends a transaction of our own.
func (s *Session) over() {
	if !s.gated {
		return
	}
	t := s.c.State()
	if t.InTx {
		s.note(t)
		t, _ = s.c.Rollback() // what is wrong here, the next statement will meet
		s.stuck = t.InTx
	}
	s.settle(t)
}

// unstick ends a transaction of our own that over could not: before that nothing
// may run, for it would be taken for a part of it.
func (s *Session) unstick() error {
	t, err := s.c.Rollback()
	s.stuck = t.InTx
	s.settle(t)
	if err != nil {
		return fmt.Errorf("roll back: %w", err)
	}
	return nil
}

// hookDisplaced reports hooks once; the open transaction is lost.
func (s *Session) hookDisplaced(h shim.Hooks) error {
	s.displaced = 0
	if s.db.InTx() {
		s.c.Poison()
	}
	return fmt.Errorf("%w: %v", ErrHookDisplaced, h)
}

// acquire takes the gate, waiting as long as the context and the connection's
// busy timeout allow.
//
// Whoever holds a snapshot waits for Patience at most, where SQLite would not wait at
// all: a checkpoint of another program may hold the write lock until the snapshot is
// gone, and keep the holder of the gate waiting.
func (s *Session) acquire(ctx context.Context) error {
	if s.gated {
		return nil
	}
	if s.log.gate.try() {
		s.gated = true
		return nil
	}
	busy := sqlite3.Error{Code: sqlite3.ErrBusy, ExtendedCode: sqlite3.ErrNoExtended(sqlite3.ErrBusy)}
	row, err := queryRow(s.conn, "PRAGMA busy_timeout")
	if err != nil {
		return err // a bare sqlite3.Error, as go-sqlite3's BEGIN would return
	}
	var timeout int64
	if row != nil {
		timeout, _ = row[0].(int64)
	}
	patience := time.Duration(timeout) * time.Millisecond
	if s.db.HoldsSnapshot() {
		patience = min(patience, Patience)
	}
	bound, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if s.log.gate.acquire(bound) != nil {
		// As everywhere in database/sql: the context's error, whatever its cause.
		if err := ctx.Err(); err != nil {
			return err
		}
		return busy
	}
	s.gated = true
	return nil
}

// InTx tells whether a transaction is open, however it was opened.
func (s *Session) InTx() bool { return s.db.InTx() }

// Changes returns what sqlite3_changes, sqlite3_total_changes and
// sqlite3_last_insert_rowid would be without our own writes to the log.
func (s *Session) Changes() (changes, totalChanges, lastInsertRowID int64) {
	if s.c == nil {
		return 0, 0, 0
	}
	return s.c.Changes()
}

// ResetSession rolls back what is left open and gives up the gate.
func (s *Session) ResetSession() error {
	if s.c == nil {
		return ErrClosed
	}
	t, err := s.c.Rollback()
	s.stuck = false
	s.settle(t)
	if t.InTx && s.gated { // cannot be rolled back: the connection is of no use any more
		s.gated = false
		s.log.Release()
	}
	s.leave()
	if err != nil {
		return fmt.Errorf("roll back: %w", err)
	}
	return nil
}
