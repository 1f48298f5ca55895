package cdc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/shim"
)

// Most changes need no care: their one statement, the first that row in
// replay.go would try, finds what it expects. Such changes are run many at a time
// (shim.Batch), with values bound out of their images. Whatever does not go like
// that, before or after trying, has had no effect, and is left to replay.go.

// runMax and runBytes bound what is run at a time, and so the time between two
// looks at the context.
const (
	runMax   = 512
	runMin   = 8
	runBytes = 256 << 10
)

// runner holds what running changes takes.
type runner struct {
	db     shim.DB
	ready  bool // db is known
	tables map[runTable]*tableRun
	last   *tableRun
	plans  int // in all tables
	batch  shim.Batch
	limit  int // of changes at a time: small after a surprise, and growing again
}

type runTable struct {
	table string
	shape *Shape
}

// tableRun is how changes of one table and shape are run.
type tableRun struct {
	runTable
	fits  bool   // the database has the table, with these columns
	rowid string // the rowid's name; "" if there is none
	plans map[planKey]*shim.Plan
	sole  *shim.Plan // the plan used last, of soleKey
	soled planKey
}

// planKey names a statement: what it does, and the columns that it sets.
type planKey struct {
	do  planDo
	set uint64
}

type planDo uint8

const (
	insertFree planDo = iota + 1 // a row whose integer key must be free
	insertRow
	insertBagRow
	updateRow
	updateBagRow
	deleteRow
	deleteBagRow
)

// close frees the plans. They hold for one state of the schema.
func (r *runner) close() {
	for _, t := range r.tables {
		for _, p := range t.plans {
			p.Close()
		}
	}
	r.tables, r.last, r.plans = nil, nil, 0
}

// ApplyRun applies transactions as Apply does, from the first on, as long as
// each has the plainest of outcomes: applied, no collision, its Log what was
// given. It returns how many; the next one, if there is one, is for Apply. With
// many small transactions it is several times as fast.
func (r *Replayer) ApplyRun(ctx context.Context, txns [][]Change) (n int, err error) {
	for n < len(txns) {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		gathered, done, err := r.applyBatch(txns[n:])
		n += done
		if err != nil || done == 0 || done < gathered {
			return n, err
		}
	}
	return n, nil
}

// applyBatch gathers transactions and applies them, up to the first surprise.
func (r *Replayer) applyBatch(txns [][]Change) (gathered, n int, err error) {
	ends, several, err := r.gatherTxns(txns)
	if err != nil || len(ends) == 0 {
		return 0, 0, err
	}
	end := ends[len(ends)-1] // a transaction that needs care may have left entries behind it
	if several {
		// Without it each entry is a transaction, and a statement by itself is
		// atomic.
		if _, _, err := r.statements.exec(`SAVEPOINT turso_replay`); err != nil {
			return 0, 0, err
		}
	}
	done, _, err := r.runBatch(0, end)
	if err != nil {
		return 0, 0, fmt.Errorf("replay transactions from %d: %w", txns[0][0].Txn, err)
	}
	for n < len(ends) && ends[n] <= done {
		n++
	}
	if !several {
		return len(ends), n, nil
	}
	if whole := wholeEnd(ends, n); done > whole {
		if err := r.redo(whole); err != nil {
			return 0, 0, fmt.Errorf("replay transactions from %d: %w", txns[0][0].Txn, err)
		}
	}
	_, _, err = r.statements.exec(`RELEASE turso_replay`)
	return len(ends), n, err
}

// redo undoes the batch, in the middle of a transaction, and does its first
// entries again.
func (r *Replayer) redo(entries int) error {
	if _, _, err := r.statements.exec(`ROLLBACK TO turso_replay`); err != nil {
		return err
	}
	done, _, err := r.runBatch(0, entries)
	if err == nil && done != entries {
		err = errors.New("the same statements have another effect")
	}
	return err
}

// wholeEnd is the number of entries of the first n transactions.
func wholeEnd(ends []int, n int) int {
	if n == 0 {
		return 0
	}
	return ends[n-1]
}

// gatherTxns fills the batch with whole transactions; ends are the numbers of
// entries behind each. several tells that one has more than one.
func (r *Replayer) gatherTxns(txns [][]Change) (ends []int, several bool, err error) {
	if err := r.prepareRun(); err != nil {
		return nil, false, err
	}
	ends = make([]int, 0, min(len(txns), runMax))
	for _, txn := range txns {
		if r.runFull() || len(txn) > runMax {
			break
		}
		for i := range txn {
			ok, err := r.gather(&txn[i])
			if err != nil || !ok {
				return ends, several, err
			}
		}
		ends = append(ends, r.run.batch.Len())
		several = several || len(txn) > 1
	}
	return ends, several, nil
}

// runChanges runs the first of the changes, as many as need no care. surprised
// tells that the next one was tried in vain.
func (r *Replayer) runChanges(changes []Change) (done int, surprised bool, err error) {
	if err := r.prepareRun(); err != nil {
		return 0, false, err
	}
	for i := range changes {
		if r.runFull() {
			break
		}
		if ok, err := r.gather(&changes[i]); err != nil {
			return 0, false, err
		} else if !ok {
			break
		}
	}
	if r.run.batch.Len() == 0 {
		return 0, false, nil
	}
	return r.runBatch(0, r.run.batch.Len())
}

func (r *Replayer) prepareRun() (err error) {
	if r.state == nil {
		if err := r.readState(); err != nil {
			return err
		}
	}
	if !r.run.ready {
		if r.run.db, err = shim.Of(r.conn); err != nil {
			return err
		}
		r.run.ready, r.run.limit = true, runMax
	}
	r.run.batch.Reset()
	if r.run.plans > statementsMax {
		r.run.close()
	}
	return nil
}

func (r *Replayer) runFull() bool {
	return r.run.batch.Len() >= r.run.limit || r.run.batch.Bytes() >= runBytes
}

// runBatch runs entries of the batch. surprised tells that the one behind those
// done did not do what it should.
func (r *Replayer) runBatch(from, to int) (done int, surprised bool, err error) {
	done, err = r.run.batch.Run(r.run.db, from, to)
	if err == nil {
		r.run.limit = min(2*r.run.limit, runMax)
		return done, false, nil
	}
	r.run.limit = max(done, runMin)
	var e *shim.StmtError
	if errors.As(err, &e) {
		switch sqlite3.ErrNo(e.Code & 0xff) {
		case sqlite3.ErrError, sqlite3.ErrConstraint, sqlite3.ErrMismatch, sqlite3.ErrTooBig:
		default:
			return done, false, sqliteError(err)
		}
	} else if !errors.Is(err, shim.ErrSurprise) {
		return done, false, err
	}
	if !r.run.db.InTx() {
		return done, false, fmt.Errorf("SQLite ended the transaction: %w", sqliteError(err))
	}
	return done, true, nil
}

// gather adds a change to the batch, unless it needs care.
func (r *Replayer) gather(c *Change) (ok bool, err error) {
	if c.Schema != nil || c.Shape == nil || c.Local || c.checkImages() != nil {
		return false, nil
	}
	t := r.tableRun(c)
	if !t.fits {
		return false, nil
	}
	key, record, ok := t.plan(c, len(r.moved)+len(r.fresh) == 0)
	if !ok {
		return false, nil
	}
	p := t.sole
	if p == nil || t.soled != key {
		if p, err = r.planFor(t, key); err != nil || p == nil {
			return false, err
		}
		t.sole, t.soled = p, key
	}
	r.run.batch.Add(p, c.RowID, record)
	return true, nil
}

func (r *Replayer) tableRun(c *Change) *tableRun {
	k := runTable{c.Table, c.Shape}
	if t := r.run.last; t != nil && t.runTable == k {
		return t
	}
	t := r.run.tables[k]
	if t == nil {
		t = &tableRun{runTable: k, plans: make(map[planKey]*shim.Plan)}
		t.fits = r.state.fits(c) && len(c.Shape.Columns) <= shim.BatchColumns
		if t.fits {
			t.rowid = r.rowid(c)
		}
		if r.run.tables == nil {
			r.run.tables = make(map[runTable]*tableRun)
		}
		r.run.tables[k] = t
	}
	r.run.last = t
	return t
}

// plan decides what a change takes, and which of its images the statement's
// values are from. settled: rows without identity are where the log has them.
func (t *tableRun) plan(c *Change, settled bool) (key planKey, record []byte, ok bool) {
	var before, after fields
	if c.Before != nil && !before.split(c.Before, len(t.shape.Columns)) ||
		c.After != nil && !after.split(c.After, len(t.shape.Columns)) {
		return planKey{}, nil, false
	}
	switch c.Type {
	case Insert:
		key.do, ok = t.insert(&after, settled)
		return key, c.After, ok
	case Delete:
		if !t.bag(&before) {
			return planKey{do: deleteRow}, c.Before, true
		}
		return planKey{do: deleteBagRow}, c.Before, settled && t.rowid != ""
	}
	key.set = before.differing(&after)
	bag := t.bag(&before)
	if key.set == 0 || bag != t.bag(&after) {
		return planKey{}, nil, false
	}
	if bag {
		key.do = updateBagRow
		return key, c.After, settled && t.rowid != ""
	}
	for _, k := range t.shape.Key {
		if key.set&(1<<k) != 0 {
			return planKey{}, nil, false // another key
		}
	}
	key.do = updateRow
	return key, c.After, true
}

func (t *tableRun) insert(after *fields, settled bool) (planDo, bool) {
	switch {
	case t.bag(after):
		return insertBagRow, settled && t.rowid != ""
	case t.shape.RowIDAlias >= 0:
		return insertFree, true
	}
	return insertRow, true
}

// bag is Shape.bagValues.
func (t *tableRun) bag(f *fields) bool {
	s := t.shape
	if s.WithoutRowID || s.RowIDAlias >= 0 {
		return false
	}
	for _, k := range s.Key {
		if f.at[k].null() {
			return true
		}
	}
	return len(s.Key) == 0
}

// planFor compiles the statement; nil: SQLite will not have it.
func (r *Replayer) planFor(t *tableRun, key planKey) (*shim.Plan, error) {
	if p, ok := t.plans[key]; ok {
		return p, nil
	}
	b := t.statement(key)
	params := make([]int, len(b.args))
	for i, a := range b.args {
		n, ok := a.(int64)
		if !ok {
			return nil, fmt.Errorf("plan statement: argument is a %T", a)
		}
		params[i] = int(n)
	}
	p, err := r.run.db.Plan(b.String(), params, key.do != deleteRow)
	var e *shim.StmtError
	switch {
	case errors.As(err, &e):
		return nil, nil
	case err != nil:
		return nil, err
	}
	r.run.plans++
	t.plans[key] = p
	return p, nil
}

// statement builds the text with the builders of the careful way, for a row in
// which every value is its own position: the arguments then name the fields.
func (t *tableRun) statement(key planKey) *statement {
	n := len(t.shape.Columns)
	values, set := make([]any, n), make([]bool, n)
	for i := range values {
		values[i], set[i] = int64(i), key.set&(1<<i) != 0
	}
	r := &rowChange{
		Change: &Change{Table: t.table, Shape: t.shape, RowID: shim.RowID},
		before: values, after: values, changed: set,
	}
	name := t.rowid
	if t.shape.RowIDAlias >= 0 {
		name = ""
	}
	switch key.do {
	case insertFree:
		return r.upsert("", make([]bool, n))
	case insertRow:
		return r.upsert(name, nil)
	case insertBagRow:
		return r.insert(name)
	case updateBagRow:
		return r.update().whereBag(r, name)
	case deleteBagRow:
		r.bagBefore = true
		return r.delete(name)
	case deleteRow:
		return r.delete("")
	}
	return r.upsert(name, set)
}

// fields are the values of a record, still encoded.
type fields struct {
	n  int
	at [shim.BatchColumns]recordField
}

type recordField struct {
	serial uint64
	body   []byte
}

// split finds the n fields of a record; false: it has another number, or is
// malformed.
func (f *fields) split(record []byte, n int) bool {
	types, body, err := splitRecord(record)
	if err != nil {
		return false
	}
	for len(types) > 0 {
		t, k := uint64(types[0]), 1
		if t >= 0x80 {
			if t, k = readVarint(types); k == 0 {
				return false
			}
		}
		types = types[k:]
		size := serialLen(t)
		if size < 0 || size > len(body) || f.n == n {
			return false
		}
		f.at[f.n] = recordField{t, body[:size]}
		f.n++
		body = body[size:]
	}
	return f.n == n && len(body) == 0
}

func (f recordField) null() bool {
	return f.serial == 0 || f.serial == 7 && math.IsNaN(math.Float64frombits(binary.BigEndian.Uint64(f.body)))
}

func (f recordField) integer() bool { return f.serial >= 1 && f.serial <= 9 && f.serial != 7 }

// differing returns the columns whose values are not identical.
func (f *fields) differing(o *fields) (set uint64) {
	for i := range f.n {
		a, b := &f.at[i], &o.at[i]
		switch {
		case a.serial == b.serial && bytes.Equal(a.body, b.body):
		case a.serial == b.serial, !a.integer() || !b.integer():
			if !a.null() || !b.null() {
				set |= 1 << i
			}
		default: // one integer may be written in several ways
			if decodeValue(a.serial, a.body) != decodeValue(b.serial, b.body) {
				set |= 1 << i
			}
		}
	}
	return set
}
