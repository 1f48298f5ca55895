package shim

/*
#include "capture.h"
#include <stdlib.h>

// Around every statement: none of these calls into Go or keeps a pointer.
#cgo noescape ts_stmt_starts
#cgo nocallback ts_stmt_starts
#cgo noescape ts_stmt_done
#cgo nocallback ts_stmt_done
*/
import "C"

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	sqlite3 "github.com/mattn/go-sqlite3"
)

// Errors of a Capture, beside sqlite3.Error.
var (
	ErrPoisoned   = errors.New("an earlier attempt to log this transaction broke off")
	ErrStale      = errors.New("the schema has to be read again")
	ErrUncaptured = errors.New("rows were changed outside of the session")
	ErrInside     = errors.New("a transaction is open")
	ErrOutside    = errors.New("no transaction is open")
)

// UndefinedError asks for the definition of a touched table.
type UndefinedError struct{ Table string }

func (e *UndefinedError) Error() string { return fmt.Sprintf("table %q has no definition", e.Table) }

// Hooks is a set of hooks that were not ours any more.
type Hooks int

// The hooks that a Capture needs.
const (
	UpdateHook    Hooks = C.TS_HOOK_UPDATE
	PreUpdateHook Hooks = C.TS_HOOK_PREUPDATE
	CommitHook    Hooks = C.TS_HOOK_COMMIT
	RollbackHook  Hooks = C.TS_HOOK_ROLLBACK
	WALHook       Hooks = C.TS_HOOK_WAL
	Authorizer    Hooks = C.TS_HOOK_AUTHORIZER
)

func (h Hooks) String() string {
	var names []string
	for _, n := range []struct {
		hook Hooks
		name string
	}{{UpdateHook, "update hook"}, {PreUpdateHook, "pre-update hook"}, {CommitHook, "commit hook"},
		{RollbackHook, "rollback hook"}, {WALHook, "WAL hook"}, {Authorizer, "authorizer"}} {
		if h&n.hook != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, ", ")
}

// Deny says why the authorizer refused a statement.
type Deny int

// The reasons.
const (
	DenyNone     Deny = C.TS_DENY_NONE
	DenyInternal Deny = C.TS_DENY_INTERNAL // a table of the synchronisation
	DenyVirtual  Deny = C.TS_DENY_VIRTUAL  // CREATE or DROP of a virtual table
	DenyPragma   Deny = C.TS_DENY_PRAGMA
)

// BeginHow says how Capture.Begin comes to hold the write lock.
type BeginHow int

// The ways.
const (
	BeginImmediate BeginHow = C.TS_BEGIN_IMMEDIATE // no transaction is open
	BeginUpgrade   BeginHow = C.TS_BEGIN_UPGRADE   // one is open
	BeginNothing   BeginHow = C.TS_BEGIN_NOTHING   // the lock is held, and was looked at: look again
	BeginLocked    BeginHow = C.TS_BEGIN_LOCKED    // the user's BEGIN IMMEDIATE has just taken it
)

// Txn is where a connection stands after a call.
type Txn struct {
	Cookie, TempCookie uint32 // schema versions
	Change             uint32 // commit counter of the wal-index, if WALKnown
	WALKnown           bool
	Displaced          Hooks
	NextID             int64 // the next change id
	MaxID              int64 // the last id logged in the open transaction; 0: none
	Logged             int64 // rows that this call logged
	WALCommits         int   // commits with frames since the last call
	Committed          bool  // log rows were among them
	InTx               bool
	Writing            bool // a write transaction is open on main
	Stale              bool // a rollback undid changes announced by DDL
	Refused            bool // the commit hook refused a commit
}

// Action is one thing that a statement was seen to do: the authorizer's code and
// arguments (https://sqlite.org/c3ref/c_alter_table.html).
type Action struct {
	Code              int
	A, B, DB, Trigger string
}

// Class is what is known of a statement before it runs.
type Class struct {
	Tail     int // bytes of the text that the statement takes
	Empty    bool
	ReadOnly bool
	Explain  bool
	Params   int
	Columns  int
	Actions  []Action
	// Authorized tells that our authorizer was asked: Actions are complete. It is
	// false, too, for statements that need no authorization (VACUUM).
	Authorized bool
	// Deny tells why Classify returned an error, if our authorizer is the reason.
	Deny     Deny
	DenyWhat string
}

// Capture collects which rows a connection touches, and logs their net effect;
// see capture.c. It is used by one goroutine at a time, like its connection.
type Capture struct {
	c    *C.ts_capture
	want C.ts_want
	out  C.ts_txn
}

// HasPreUpdate tells whether SQLite was built with the pre-update hook, so that
// every touch is reported by SQLite itself.
func HasPreUpdate() bool { return C.ts_capture_preupdate() != 0 }

// OpenCapture installs the hooks on db. old is a connection to the same database
// that only the holder of the write lock uses.
func OpenCapture(db, old DB) (*Capture, error) {
	c := &Capture{}
	if err := check(C.ts_capture_open(db.c(), old.c(), &c.c)); err != nil {
		return nil, fmt.Errorf("install hooks: %w", err)
	}
	return c, nil
}

// Close takes the hooks off.
func (c *Capture) Close() {
	C.ts_capture_close(c.c)
	c.c = nil
}

// Arm is to be called after the temporary schema was changed: it keeps Rollback
// able to roll back while an interrupt is in force.
func (c *Capture) Arm() { C.ts_capture_arm(c.c) }

// Internal switches on and off that what runs is not the user's. Calls nest.
func (c *Capture) Internal(on bool) { C.ts_capture_internal(c.c, cbool(on)) }

func cbool(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

func (c *Capture) txn() Txn {
	o := &c.out
	return Txn{
		Cookie: uint32(o.cookie), TempCookie: uint32(o.temp_cookie),
		Change: uint32(o.change), WALKnown: o.wal_rc == C.SQLITE_OK,
		Displaced: Hooks(o.displaced),
		NextID:    int64(o.next_id), MaxID: int64(o.max_id), Logged: int64(o.logged),
		WALCommits: int(o.wal_commits), Committed: o.committed != 0, InTx: o.autocommit == 0, Writing: o.writing != 0,
		Stale: o.stale != 0, Refused: o.refused != 0,
	}
}

func (c *Capture) check(rc C.int) error {
	switch rc {
	case C.SQLITE_OK:
		return nil
	case C.TS_UNDEFINED:
		return &UndefinedError{Table: C.GoString(c.out.table)}
	case C.TS_POISONED:
		return ErrPoisoned
	case C.TS_STALE:
		return ErrStale
	case C.TS_UNCAPTURED:
		return ErrUncaptured
	case C.TS_INSIDE:
		return ErrInside
	case C.TS_NOTX:
		return ErrOutside
	}
	return check(rc)
}

// Classify prepares the first statement of a text, without running it.
func (c *Capture) Classify(sql string) (Class, error) {
	text := C.CString(sql)
	defer C.free(unsafe.Pointer(text))
	var out C.ts_class
	rc := C.ts_classify(c.c, text, C.int(len(sql)), &out)
	class := Class{Tail: int(out.tail), Authorized: out.authorized != 0, Deny: Deny(out.deny), DenyWhat: C.GoString(out.deny_what)}
	if err := check(rc); err != nil {
		return class, err
	}
	class.Empty, class.ReadOnly, class.Explain = out.empty != 0, out.readonly != 0, out.explain != 0
	class.Params, class.Columns = int(out.params), int(out.columns)
	class.Actions = actions(C.GoBytes(out.actions, out.actions_len))
	return class, nil
}

func actions(b []byte) []Action {
	var list []Action
	for len(b) > 0 {
		a := Action{Code: int(b[0])}
		b = b[1:]
		for _, s := range []*string{&a.A, &a.B, &a.DB, &a.Trigger} {
			n := bytes.IndexByte(b[1:], 0)
			*s = string(b[1 : 1+n])
			b = b[n+2:]
		}
		list = append(list, a)
	}
	return list
}

// Check puts our hooks back and returns those that were displaced.
func (c *Capture) Check() Hooks { return Hooks(C.ts_capture_check(c.c, 1)) }

// Want is what Begin is to do.
type Want struct {
	How     BeginHow
	Temp    bool  // ask for TempCookie
	Replace bool  // the statement that follows may replace rows
	Rekey   bool  // or change primary keys
	Counts  bool  // and SQLite counts its changes
	Probe   bool  // make sure of the authorizer: the statement deletes
	NextID  int64 // the next change id; 0: find it in the log
	// Cookie is right if Known and Change is the commit counter still.
	Known          bool
	Change, Cookie uint32
}

// Begin takes the write lock and looks at hooks, schema versions and the commit
// counter under it. ErrInside: BeginImmediate inside a transaction.
func (c *Capture) Begin(w Want) (Txn, error) {
	c.want = C.ts_want{
		how: C.int(w.How), temp: cbool(w.Temp), replace: cbool(w.Replace), rekey: cbool(w.Rekey), counts: cbool(w.Counts), probe: cbool(w.Probe),
		next_id: C.sqlite3_int64(w.NextID), known: cbool(w.Known), change: C.uint32_t(w.Change), cookie: C.uint32_t(w.Cookie),
	}
	err := c.check(C.ts_begin(c.c, &c.want, &c.out))
	return c.txn(), err
}

// Finish logs what is not logged yet, and commits if told so. After an
// *UndefinedError or ErrStale it is called again.
func (c *Capture) Finish(commit bool) (Txn, error) {
	err := c.check(C.ts_finish(c.c, cbool(commit), &c.out))
	var e sqlite3.Error
	if errors.As(err, &e) && e.Code != sqlite3.ErrError && e.Code != sqlite3.ErrConstraint {
		return c.txn(), err // the code says it all, and a sqlite3.Error is what go-sqlite3's COMMIT would return
	}
	if err != nil && c.out.message != nil && *c.out.message != 0 {
		err = fmt.Errorf("%w (%s)", err, C.GoString(c.out.message))
	}
	return c.txn(), err
}

// Rollback rolls back what is open.
func (c *Capture) Rollback() (Txn, error) {
	err := c.check(C.ts_rollback(c.c, &c.out))
	return c.txn(), err
}

// State tells where the connection stands.
func (c *Capture) State() Txn {
	C.ts_capture_state(c.c, &c.out)
	return c.txn()
}

// StatementStarts and StatementEnds stand around a statement of the user inside
// an open transaction; counts: SQLite counts its changes. ErrUncaptured: rows were
// changed outside of such a pair.
func (c *Capture) StatementStarts(replace, rekey, counts bool) error {
	return c.check(C.ts_stmt_starts(c.c, cbool(replace), cbool(rekey), cbool(counts)))
}

// StatementCounts stands before a statement that changes rows of other databases
// while no transaction of ours is open; StatementEnds follows it.
func (c *Capture) StatementCounts() { C.ts_stmt_counts(c.c) }

// StatementEnds: see StatementStarts.
func (c *Capture) StatementEnds() Txn {
	C.ts_stmt_ends(c.c, &c.out)
	return c.txn()
}

// StatementDone is StatementEnds for a statement that succeeded. It is true if
// the transaction goes on and there is nothing to tell; otherwise StatementEnds
// must be called.
func (c *Capture) StatementDone() bool { return C.ts_stmt_done(c.c) != 0 }

// AllowCommit lets the user's own COMMIT pass, or not any more.
func (c *Capture) AllowCommit(on bool) { C.ts_commit_allow(c.c, cbool(on)) }

// Poison makes the open transaction one that can only be rolled back.
func (c *Capture) Poison() { C.ts_poison(c.c) }

// DDL announces that the schema of main (or, with main false, our TEMP
// triggers) changed in the open transaction.
func (c *Capture) DDL(main bool) { C.ts_ddl(c.c, cbool(main)) }

// ForgetTables drops all definitions: the schema changed.
func (c *Capture) ForgetTables() { C.ts_forget_tables(c.c) }

// ForgetShapes makes every shape be written again when it is needed next.
func (c *Capture) ForgetShapes() { C.ts_forget_shapes(c.c) }

// LogSchema logs a schema change and returns its id.
func (c *Capture) LogSchema(kind int, record []byte) (int64, error) {
	var id C.sqlite3_int64
	rc := C.ts_log_schema(c.c, C.int(kind), unsafe.Pointer(unsafe.SliceData(record)), C.int(len(record)), &id)
	return int64(id), c.check(rc)
}

// TouchRows touches every row that a query returns: its rowid or key columns.
func (c *Capture) TouchRows(table, query string, inserted bool) error {
	name, sql := C.CString(table), C.CString(query)
	defer C.free(unsafe.Pointer(name))
	defer C.free(unsafe.Pointer(sql))
	return c.check(C.ts_touch_rows(c.c, name, sql, cbool(inserted)))
}

// Changes returns the counters of sqlite3_changes, sqlite3_total_changes and
// sqlite3_last_insert_rowid as they would be without our own statements.
func (c *Capture) Changes() (changes, total, rowid int64) {
	var a, b, r C.sqlite3_int64
	C.ts_changes(c.c, &a, &b, &r)
	return int64(a), int64(b), int64(r)
}

// InTx tells whether a transaction is open on the connection.
func (db DB) InTx() bool { return C.sqlite3_get_autocommit(db.c()) == 0 }

// HoldsSnapshot tells whether the connection reads its main database, in a transaction
// or by a statement that is not at its end.
func (db DB) HoldsSnapshot() bool { return C.sqlite3_txn_state(db.c(), mainName) == C.SQLITE_TXN_READ }

var mainName = C.CString("main")

// SameFile returns the name of an attached database that is main's own file.
func (db DB) SameFile() (name string, found bool) {
	p := C.ts_same_file(db.c())
	return C.GoString(p), p != nil
}

// Source says where rows of a table logged in this transaction are found: under
// Table with ids in (Above, UpTo], and where each present column is in them (see
// TableDef.OldMap).
type Source struct {
	Table       string
	Above, UpTo int64
	Map         []int
}

// TableDef is what flush needs to know of a table.
type TableDef struct {
	Name      string
	Columns   int    // stored columns
	SelectNew string // the stored columns by rowid, or by the key's columns; "": there is no such table
	// SelectOld is the same on the committed schema; "": the table did not exist.
	SelectOld string
	// Bulk logs the rows inserted with rowids from ?3 to ?4, with time ?1 and
	// transaction ?2; "": row by row.
	Bulk string
	// Key holds the stored columns of the declared key, unless that is the rowid.
	Key []int
	// OldMap holds, for each present column, its index in what SelectOld returns,
	// or -1 - i for value i of Defaults. nil: the same columns.
	OldMap    []int
	Shape     int64
	ShapeKey  string
	ShapeJSON string
	Sources   []Source // newest first; none: the table itself, without limits
	Defaults  []byte   // a record
}

// Define gives the definition of a table, until ForgetTables.
func (c *Capture) Define(d *TableDef) error {
	var a arena
	defer a.free()
	t := C.ts_table{
		name: a.text(d.Name), old_map: a.ints(d.OldMap),
		key: a.ints(d.Key), keys: C.int(len(d.Key)),
		columns: C.int(d.Columns), shape: C.sqlite3_int64(d.Shape),
		shape_key: a.text(d.ShapeKey), shape_json: a.text(d.ShapeJSON),
	}
	if d.SelectNew != "" {
		t.sql_new = a.text(d.SelectNew)
	}
	if d.SelectOld != "" {
		t.sql_old = a.text(d.SelectOld)
	}
	if d.Bulk != "" {
		t.sql_bulk = a.text(d.Bulk)
	}
	if len(d.Sources) > 0 {
		size := C.size_t(len(d.Sources)) * C.size_t(unsafe.Sizeof(C.ts_source{}))
		list := unsafe.Slice((*C.ts_source)(a.keep(C.malloc(size))), len(d.Sources))
		for i, s := range d.Sources {
			list[i] = C.ts_source{
				name: a.text(s.Table), above: C.sqlite3_int64(s.Above), upto: C.sqlite3_int64(s.UpTo), _map: a.ints(s.Map),
			}
		}
		t.sources, t.source_count = &list[0], C.int(len(list))
	}
	if len(d.Defaults) > 0 {
		t.defaults, t.defaults_len = a.keep(C.CBytes(d.Defaults)), C.int(len(d.Defaults))
	}
	return c.check(C.ts_define(c.c, &t))
}

// KeyColumn is a column of the primary key of a table WITHOUT ROWID.
type KeyColumn struct {
	Column    int // index among all columns, generated ones included
	Collation int // 0 BINARY, 1 NOCASE, 2 RTRIM
}

// DefineKeyed tells that a table is WITHOUT ROWID.
func (c *Capture) DefineKeyed(table string, key []KeyColumn) error {
	var a arena
	defer a.free()
	columns, collations := make([]int, len(key)), make([]int, len(key))
	for i, k := range key {
		columns[i], collations[i] = k.Column, k.Collation
	}
	return c.check(C.ts_define_keyed(c.c, a.text(table), C.int(len(key)), a.ints(columns), a.ints(collations)))
}

// UndefineKeyed forgets all DefineKeyed.
func (c *Capture) UndefineKeyed() { C.ts_undefine_keyed(c.c) }

// arena holds C memory for the time of one call.
type arena struct{ blocks []unsafe.Pointer }

func (a *arena) keep(p unsafe.Pointer) unsafe.Pointer {
	a.blocks = append(a.blocks, p)
	return p
}

func (a *arena) text(s string) *C.char { return (*C.char)(a.keep(unsafe.Pointer(C.CString(s)))) }

func (a *arena) ints(v []int) *C.int {
	if len(v) == 0 {
		return nil
	}
	p := (*C.int)(a.keep(C.malloc(C.size_t(len(v)) * C.sizeof_int)))
	for i, x := range unsafe.Slice(p, len(v)) {
		_ = x
		unsafe.Slice(p, len(v))[i] = C.int(v[i])
	}
	return p
}

func (a *arena) free() {
	for _, p := range a.blocks {
		C.free(p)
	}
	runtime.KeepAlive(a)
}
