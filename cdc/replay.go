package cdc

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/mattn/go-sqlite3"
)

// Replayer applies logged transactions to a database that may have changed
// since they were committed: the new base of a rebase. Each has the effect that
// its mutations have on the remote (docs/semantics.md), so that what stands
// here after the replay is what the next pull will bring.
//
// It must be used by one goroutine at a time.
type Replayer struct {
	conn       *sqlite3.SQLiteConn
	statements statements
	run        runner
	careful    bool                     // for tests: nothing is run in batches
	state      *schemaState             // of conn; nil: to be read
	ahead      []Change                 // schema changes of the log, see Foresee
	foresee    func() ([]Change, error) // reads ahead when it is needed first; nil: read
	moved      map[movedRow]int64       // logged rowid to the present one, where they differ
	done       map[ID]bool              // schema changes that base was found to have
	// fresh are the present rowids of rows without identity that stand in the new
	// log as inserts but did not in the old one under that rowid: a change of a
	// base row with such a rowid means another row, and goes by content, as it will
	// when the new log is read.
	fresh map[movedRow]bool
}

type movedRow struct {
	table string // lower case
	rowid int64
}

// NewReplayer returns a Replayer on a connection whose triggers and foreign keys
// are off: the log already holds their effects. The connection's transactions
// are the caller's business; until Close it must not be used for schema changes
// by others.
func NewReplayer(conn *sqlite3.SQLiteConn) (*Replayer, error) {
	return &Replayer{
		conn: conn, statements: statements{conn: conn},
		moved: make(map[movedRow]int64), done: make(map[ID]bool), fresh: make(map[movedRow]bool),
	}, nil
}

// Foresee tells which schema changes the log holds (LoadSchema), in order.
// Without it, a base on which another replica has run the same migrations is
// taken for drift in more cases.
func (r *Replayer) Foresee(schema []Change) { r.ahead, r.foresee = schema, nil }

// ForeseeLater is Foresee for what read returns, which is called when it is
// needed, if it is. It must see the log that is being replayed.
func (r *Replayer) ForeseeLater(read func() ([]Change, error)) { r.ahead, r.foresee = nil, read }

// Close releases the prepared statements; the connection stays open.
func (r *Replayer) Close() error { return r.closeStatements() }

func (r *Replayer) closeStatements() error {
	r.run.close()
	return r.statements.close()
}

// Apply replays one transaction inside a savepoint: all of it happens or
// nothing. A transaction that cannot be replayed is no error but a rejection in
// the Outcome; an error is one of SQLite's own (a full disk, for example), of the
// context, or ErrBadRecord.
func (r *Replayer) Apply(ctx context.Context, txn []Change) (Outcome, error) {
	out, err := r.attempt(ctx, txn, false)
	if err != nil && uniqueViolation(err) {
		if again, err2 := r.attempt(ctx, txn, true); err2 == nil {
			out, err = again, nil
		}
	}
	if err == nil {
		return out, nil
	}
	reason := rejection(err)
	if reason == "" {
		return Outcome{}, fmt.Errorf("replay transaction %d: %w", txn[0].Txn, err)
	}
	var at *changeError
	rejected := Outcome{Reason: reason, Err: err}
	if errors.As(err, &at) {
		rejected.Change, rejected.Err = at.id, at.err
	}
	return rejected, nil
}

// Outcome is what became of a replayed transaction.
type Outcome struct {
	// Log is the transaction as the log must keep it on the new base, to be
	// appended there. It is what was applied but for this: rows without identity
	// beyond their rowid carry the rowid that they have now (another row of the new
	// base may have theirs); tables and columns carry the new base's names; changes
	// that the new base holds already, or that have nothing left to change, are
	// missing. It may be empty. A rejected transaction has none.
	Log []Change
	// Unchanged tells that Log is the transaction as it was given, the same slice.
	Unchanged bool
	// Reason is empty if the transaction was applied; otherwise nothing of it was.
	Reason Reason
	// Err says why the transaction was rejected: a *DriftError, or a sqlite3.Error
	// in SQLite's words.
	Err error
	// Change is the change that could not be replayed.
	Change ID
	// Collisions are inserts that met a row of the new base under the same
	// integer key. The inserted row stays.
	Collisions []Collision
}

// Rejected tells whether the transaction could not be replayed.
func (o *Outcome) Rejected() bool { return o.Reason != "" }

// Reason classifies why a transaction cannot be replayed.
type Reason string

const (
	// ReasonConstraint: the rows of the new base and the transaction violate a
	// constraint together, in any order. It will not succeed later by itself.
	ReasonConstraint Reason = "constraint"
	// ReasonSchema: local and remote disagree about a definition: a table or
	// column is gone, or another one has its name.
	ReasonSchema Reason = "schema"
)

// Collision is an integer key that two replicas gave to different rows.
type Collision struct {
	Change        ID
	Table         string
	Key           int64
	Local, Remote map[string]any // column to value
}

// changeError says which change failed.
type changeError struct {
	id  ID
	err error
}

func (e *changeError) Error() string { return fmt.Sprintf("change %d: %v", e.id, e.err) }
func (e *changeError) Unwrap() error { return e.err }

// undoError tells that a failed transaction could not be undone: SQLite itself has
// ended the one around it, for a full disk, for example. The transaction is not
// to blame.
type undoError struct{ cause, err error }

func (e *undoError) Error() string { return fmt.Sprintf("%v; undo: %v", e.cause, e.err) }
func (e *undoError) Unwrap() error { return e.cause }

func uniqueViolation(err error) bool {
	var e sqlite3.Error
	var undo *undoError
	if errors.As(err, &undo) || !errors.As(err, &e) {
		return false
	}
	switch e.ExtendedCode {
	case sqlite3.ErrConstraintUnique, sqlite3.ErrConstraintPrimaryKey, sqlite3.ErrConstraintRowID:
		return true
	}
	return false
}

// rejection returns why an error means that the transaction itself is at fault,
// or "" if it means something else.
func rejection(err error) Reason {
	var undo *undoError
	if errors.As(err, &undo) {
		return ""
	}
	var drift *DriftError
	if errors.As(err, &drift) || errors.Is(err, ErrNoRowID) {
		return ReasonSchema
	}
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return ""
	}
	switch e.Code {
	case sqlite3.ErrConstraint, sqlite3.ErrMismatch, sqlite3.ErrTooBig:
		return ReasonConstraint
	case sqlite3.ErrError:
		var p *prepareError
		if errors.As(err, &p) {
			return ReasonSchema // no such table, no such column, …
		}
		return ReasonConstraint // an expression of an index or a CHECK failed on the values
	}
	return ""
}

// Knows tells whether every row of base that a transaction updates or deletes, in
// tables where only the rowid tells rows apart, is there as the log has it, and none
// that it inserts. If not, another program had written that row, or deleted one whose
// rowid was given again. Of a transaction that
// renames or rebuilds such a table it may say so of rows that were in base.
func (r *Replayer) Knows(txn []Change) (bool, error) {
	type row struct {
		table string
		id    int64
	}
	changed := make(map[row]bool) // by the transaction so far: its log may have a row twice
	schema := slices.ContainsFunc(txn, func(c Change) bool { return c.Schema != nil })
	for i := range txn {
		c := &txn[i]
		if c.Schema != nil {
			continue
		}
		image := c.Before
		if c.Type == Insert {
			image = c.After
		}
		bag, err := c.Shape.bagImage(image)
		if err != nil {
			return false, err
		}
		name := c.Shape.rowIDName()
		if !bag || c.Local || name == "" || changed[row{c.Table, c.RowID}] {
			continue
		}
		changed[row{c.Table, c.RowID}] = true
		b := (&statement{}).add("SELECT ")
		if c.Type == Insert {
			b.add("1")
		} else {
			b.list(len(c.Shape.Columns), func(i int) { b.add("+", quote(c.Shape.Columns[i])) })
		}
		b.add(" FROM main.", quote(c.Table), " WHERE ", quote(name), " = ?")
		values, err := queryRow(r.conn, b.String(), c.RowID)
		known := values == nil
		if c.Type != Insert {
			known = values != nil && bytes.Equal(EncodeRecord(anyValues(values)), c.Before)
		}
		if e := (sqlite3.Error{}); schema && errors.As(err, &e) && e.Code == sqlite3.ErrError {
			known, err = c.Type == Insert, nil // no such table or column before this transaction
		}
		if err != nil {
			return false, fmt.Errorf("look for row %d of table %q: %w", c.RowID, c.Table, err)
		}
		if !known {
			return false, nil
		}
	}
	return true, nil
}

// attempt applies a transaction in a savepoint.
func (r *Replayer) attempt(ctx context.Context, txn []Change, deletesFirst bool) (out Outcome, err error) {
	if r.state == nil {
		if err := r.readState(); err != nil {
			return Outcome{}, err
		}
	}
	if _, _, err := r.statements.exec(`SAVEPOINT turso_replay`); err != nil {
		return Outcome{}, err
	}
	a := &attempt{Replayer: r, out: &out, txn: txn, deletesFirst: deletesFirst}
	if err = a.all(ctx); err == nil {
		_, _, err = r.statements.exec(`RELEASE turso_replay`)
	}
	if err == nil {
		a.closeLog()
		return out, nil
	}
	for i := len(a.undo) - 1; i >= 0; i-- {
		a.undo[i]()
	}
	r.state = nil
	if e := errors.Join(r.closeStatements(), exec(r.conn, `ROLLBACK TO turso_replay; RELEASE turso_replay`)); e != nil {
		return Outcome{}, &undoError{cause: err, err: e}
	}
	return Outcome{}, err
}

func (r *Replayer) readState() error {
	objects, err := ReadSchema(r.conn)
	if err == nil {
		r.state = newSchemaState(objects)
	}
	return err
}

// attempt is one try to apply one transaction.
type attempt struct {
	*Replayer
	out          *Outcome
	txn          []Change
	kept         int  // the log is the first changes of txn, so many of them, …
	differs      bool // … unless it differs: then it is out.Log
	deletesFirst bool
	inserts      []*rowChange    // the second half of deletesFirst, …
	awaited      map[string]bool // … and what identifies them
	undo         []func()        // takes back what the Replayer remembers
}

func (a *attempt) all(ctx context.Context) error {
	for i := 0; i < len(a.txn); {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !a.deletesFirst && !a.careful {
			n, surprised, err := a.runChanges(a.txn[i:])
			if err != nil {
				return &changeError{id: a.txn[i].ID, err: err}
			}
			a.keepAll(a.txn[i : i+n])
			if i += n; n > 0 && !surprised {
				continue
			}
		}
		if err := a.change(&a.txn[i]); err != nil {
			return &changeError{id: a.txn[i].ID, err: err}
		}
		i++
	}
	return a.insertRest()
}

// insertRest inserts what the deletes of deletesFirst made room for.
func (a *attempt) insertRest() error {
	rows := a.inserts
	a.inserts, a.awaited = nil, nil
	for _, r := range rows {
		if err := a.insert(r); err != nil {
			return &changeError{id: r.ID, err: err}
		}
		a.keep(r.Change)
	}
	return nil
}

// keep carries a change over to the new log.
func (a *attempt) keep(c *Change) {
	if !a.differs {
		if a.kept < len(a.txn) && c.verbatim(&a.txn[a.kept]) {
			a.kept++
			return
		}
		a.differs = true
		a.out.Log = slices.Clone(a.txn[:a.kept])
	}
	a.out.Log = append(a.out.Log, *c)
}

// keepAll carries changes of the transaction over as they are.
func (a *attempt) keepAll(changes []Change) {
	for i := range changes {
		a.keep(&changes[i])
	}
}

// verbatim tells whether two changes are written into the log in the same way.
// Images are compared by their place in memory.
func (c *Change) verbatim(o *Change) bool {
	return c.ID == o.ID && c.Txn == o.Txn && c.Type == o.Type && c.RowID == o.RowID && c.Shape == o.Shape &&
		c.Schema == o.Schema && c.Table == o.Table && sameMemory(c.Before, o.Before) && sameMemory(c.After, o.After)
}

func sameMemory(a, b []byte) bool {
	return len(a) == len(b) && (a == nil) == (b == nil) && (len(a) == 0 || &a[0] == &b[0])
}

// closeLog completes the outcome.
func (a *attempt) closeLog() {
	if a.differs {
		return
	}
	a.out.Log = a.txn[:a.kept:a.kept]
	a.out.Unchanged = a.kept == len(a.txn)
}

func (a *attempt) change(c *Change) error {
	if c.Schema != nil {
		if err := a.insertRest(); err != nil {
			return err
		}
		return a.schema(c)
	}
	fitted, err := a.fitted(c)
	if err != nil || fitted == nil {
		return err
	}
	copied := *fitted // moving the row must not change the caller's
	r, err := decodeRow(&copied)
	if err != nil || r.unchanged() {
		return err
	}
	r.Local = r.Local || r.bagBefore && a.fresh[movedRow{lower(r.Table), r.RowID}]
	r.logged, r.RowID = r.RowID, a.present(r)
	if a.deletesFirst {
		return a.deleteFirst(r)
	}
	return a.row(r)
}

// fitted is the change as it fits the database, nil if its table is dropped later.
func (a *attempt) fitted(c *Change) (*Change, error) {
	if a.state.fits(c) {
		return c, nil
	}
	ahead, err := a.schemaAfter(c.ID)
	if err != nil {
		return nil, err
	}
	return a.state.resolve(c, ahead)
}

// schemaAfter returns the schema changes of the log behind a change.
func (a *attempt) schemaAfter(id ID) ([]Change, error) {
	if a.foresee != nil {
		ahead, err := a.foresee()
		if err != nil {
			return nil, err
		}
		a.ahead, a.foresee = ahead, nil
	}
	for len(a.ahead) > 0 && a.ahead[0].ID <= id {
		a.ahead = a.ahead[1:]
	}
	return a.ahead, nil
}

// present returns the rowid that a logged row has now.
func (a *attempt) present(r *rowChange) int64 {
	if r.Local {
		if to, ok := a.moved[movedRow{lower(r.Table), r.RowID}]; ok {
			return to
		}
	}
	return r.RowID
}

// placed notes where a row without identity is now.
func (a *attempt) placed(r *rowChange, rowid int64) {
	r.RowID = rowid
	a.move(movedRow{lower(r.Table), r.logged}, rowid, r.logged == rowid)
}

// move sets or, if none, removes what is known of a moved row.
func (a *attempt) move(row movedRow, rowid int64, none bool) {
	old, had := a.moved[row]
	if none && !had || had && !none && old == rowid {
		return
	}
	a.undo = append(a.undo, func() {
		if had {
			a.moved[row] = old
		} else {
			delete(a.moved, row)
		}
	})
	if none {
		delete(a.moved, row)
	} else {
		a.moved[row] = rowid
	}
}

func (a *attempt) schema(c *Change) error {
	if a.done[c.ID] {
		return nil
	}
	ahead, err := a.schemaAfter(c.ID)
	if err != nil {
		return err
	}
	do, covered, err := a.state.decide(c.Schema, ahead)
	if err != nil {
		return err
	}
	for _, id := range covered {
		if !a.done[id] {
			a.done[id] = true
			a.undo = append(a.undo, func() { delete(a.done, id) })
		}
	}
	if !do {
		return nil
	}
	if err := a.closeStatements(); err != nil {
		return err
	}
	if err := exec(a.conn, c.Schema.statement()); err != nil {
		return &prepareError{err}
	}
	a.keep(c)
	if from, to, ok := renamedTable(c.Schema); ok {
		for row, rowid := range maps.Clone(a.moved) {
			if row.table == lower(from) {
				a.move(row, 0, true)
				a.move(movedRow{lower(to), row.rowid}, rowid, false)
			}
		}
		for row := range maps.Clone(a.fresh) {
			if named := (movedRow{lower(to), row.rowid}); row.table == lower(from) {
				delete(a.fresh, row)
				a.fresh[named] = true
				a.undo = append(a.undo, func() { delete(a.fresh, named); a.fresh[row] = true })
			}
		}
	}
	return a.readState()
}

func (a *attempt) row(r *rowChange) error {
	switch {
	case r.Type == Insert:
		if err := a.insert(r); err != nil {
			return err
		}
	case r.Type == Delete:
		found, err := a.delete(r)
		if err != nil || !found && r.bagBefore {
			return err // nothing left that a later push could delete
		}
	case r.keyChanged():
		if _, err := a.delete(r); err != nil {
			return err
		}
		if err := a.insert(r); err != nil {
			return err
		}
	case r.bagBefore:
		if err := a.updateBag(r); err != nil {
			return err
		}
	default:
		if err := a.upsert(r, r.changed); err != nil {
			return err
		}
	}
	a.keep(r.Change)
	return nil
}

// rowid returns the name of the rowid, "" if there is none: the columns that
// the table has now count.
func (r *Replayer) rowid(c *Change) string {
	var columns []string
	if e := r.state.table(c.Table); e != nil {
		for _, column := range e.def.columns {
			columns = append(columns, column.name)
		}
	}
	return c.Shape.rowIDName(columns...)
}

func (a *attempt) exec(b *statement) (changed, inserted int64, err error) {
	return a.statements.exec(b.String(), b.args...)
}

// insert puts the after image in: under its rowid if that is free.
func (a *attempt) insert(r *rowChange) error {
	switch {
	case r.bagAfter:
		return a.insertBag(r)
	case r.Type == Insert && r.Shape.RowIDAlias >= 0:
		return a.insertKey(r)
	}
	return a.upsert(r, nil)
}

// insertKey inserts a row with an integer key and looks whether another replica
// used the key.
func (a *attempt) insertKey(r *rowChange) error {
	changed, _, err := a.exec(r.upsert("", make([]bool, len(r.after)))) // DO NOTHING
	if err != nil || changed > 0 {
		return err
	}
	b := (&statement{}).add("SELECT ")
	b.list(len(r.after), func(i int) { b.add("+", quote(r.Shape.Columns[i])) })
	b.add(" FROM ", quote(r.Table)).whereKey(r, r.after)
	row, err := a.statements.row(b.String(), b.args...)
	if err != nil {
		return err
	}
	if c, differs := r.collision(anyValues(row)); differs {
		a.out.Collisions = append(a.out.Collisions, c)
	}
	return a.upsert(r, nil)
}

func anyValues(row []driver.Value) []any {
	values := make([]any, len(row))
	for i, v := range row {
		values[i] = v
	}
	return values
}

// upsert inserts the row, or sets the columns of the one that has its key.
func (a *attempt) upsert(r *rowChange, set []bool) error {
	name := ""
	if r.Shape.RowIDAlias < 0 {
		name = a.rowid(r.Change)
	}
	_, _, err := a.exec(r.upsert(name, set))
	if name != "" && rowidTaken(err) {
		_, _, err = a.exec(r.upsert("", set))
	}
	return err
}

func (a *attempt) insertBag(r *rowChange) error {
	if name := a.rowid(r.Change); name != "" {
		_, _, err := a.exec(r.insert(name))
		if err == nil {
			a.inserted(r, r.RowID)
		}
		if !rowidTaken(err) {
			return err
		}
	}
	_, rowid, err := a.exec(r.insert(""))
	if err == nil {
		a.inserted(r, rowid)
	}
	return err
}

// inserted notes where a row without identity was put.
func (a *attempt) inserted(r *rowChange, rowid int64) {
	a.placed(r, rowid)
	row := movedRow{lower(r.Table), rowid}
	if !r.back && rowid == r.logged || a.fresh[row] {
		return
	}
	a.fresh[row] = true
	a.undo = append(a.undo, func() { delete(a.fresh, row) })
}

func rowidTaken(err error) bool {
	var e sqlite3.Error
	return errors.As(err, &e) && e.ExtendedCode == sqlite3.ErrConstraintRowID
}

// find locates the row of a before image; a row that only the log has is found by
// content.
func (a *attempt) find(r *rowChange, name string) (found bool, err error) {
	if name == "" {
		return false, ErrNoRowID
	}
	if !r.Local {
		return true, nil // if it is there, it is there
	}
	b := (&statement{}).add("SELECT ").match(r, name)
	row, err := a.statements.row(b.String(), b.args...)
	if err != nil || row[0] == nil {
		return false, err
	}
	rowid, ok := row[0].(int64)
	if !ok {
		return false, fmt.Errorf("rowid of table %q is a %T", r.Table, row[0])
	}
	a.placed(r, rowid)
	r.Local = false // from here on its rowid is known
	return true, nil
}

// delete removes the row of the before image, if it is there.
func (a *attempt) delete(r *rowChange) (found bool, err error) {
	name := ""
	if r.bagBefore {
		name = a.rowid(r.Change)
		if found, err := a.find(r, name); err != nil || !found {
			return false, err
		}
	}
	changed, _, err := a.exec(r.delete(name))
	if row := (movedRow{lower(r.Table), r.RowID}); changed > 0 && r.bagBefore && a.fresh[row] {
		delete(a.fresh, row)
		a.undo = append(a.undo, func() { a.fresh[row] = true })
	}
	return changed > 0, err
}

// updateBag updates a row without identity. If it is gone, the update turns
// into an insert.
func (a *attempt) updateBag(r *rowChange) error {
	name := a.rowid(r.Change)
	found, err := a.find(r, name)
	if err != nil {
		return err
	}
	if found {
		changed, _, err := a.exec(r.update().whereBag(r, name))
		if err != nil || changed > 0 {
			return err
		}
	}
	r.becomeInsert()
	return a.insertBag(r)
}

func (r *rowChange) becomeInsert() {
	r.Type, r.Before, r.before, r.changed, r.bagBefore, r.back = Insert, nil, nil, nil, false, true
}

// deleteFirst removes what the change touches, and leaves the rest for
// insertRest.
func (a *attempt) deleteFirst(r *rowChange) error {
	if r.Type == Insert {
		a.insertLater(r)
		return nil
	}
	// A log that was written in steps may have a row twice. After each step what is unique
	// is so again: there is room for the rows of the one before.
	if a.awaited[rowImage(r, r.Before)] {
		if err := a.insertRest(); err != nil {
			return err
		}
	}
	bag := r.bagBefore
	found, err := a.delete(r)
	switch {
	case err != nil:
		return err
	case r.Type == Update:
		if bag && !found {
			r.becomeInsert()
		}
		a.insertLater(r)
	case found || !bag:
		a.keep(r.Change)
	}
	return nil
}

func (a *attempt) insertLater(r *rowChange) {
	if a.awaited == nil {
		a.awaited = make(map[string]bool)
	}
	a.inserts = append(a.inserts, r)
	a.awaited[rowImage(r, r.After)] = true
}

// rowImage identifies a row as the log has it before or after a change.
func rowImage(r *rowChange, record []byte) string {
	return fmt.Sprintf("%s %d %s", lower(r.Table), r.logged, record)
}
