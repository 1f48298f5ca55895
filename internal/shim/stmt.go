package shim

/*
#include <stdlib.h>
#include "shim.h"

// SQLITE_TRANSIENT is a cast that Go cannot write.
static int ts_bind_text_copy(sqlite3_stmt *s, int i, const char *p, int n) {
  return sqlite3_bind_text(s, i, p, n, SQLITE_TRANSIENT);
}
static int ts_bind_blob_copy(sqlite3_stmt *s, int i, const void *p, int n) {
  return n == 0 ? sqlite3_bind_zeroblob(s, i, 0) : sqlite3_bind_blob(s, i, p, n, SQLITE_TRANSIENT);
}
*/
import "C"

import (
	"fmt"
	"math"
	"strings"
	"unsafe"
)

// Stmt is a prepared statement. Unlike those of go-sqlite3 it gives values in
// their storage class, whatever the column's declared type. It belongs to one
// goroutine, like its connection, and must be closed before that.
type Stmt struct {
	db  DB
	ptr *C.sqlite3_stmt

	pending, ended bool // of Fetch: it stands on a row not yet returned; there are no more
}

// StmtError is an error of SQLite with its words.
type StmtError struct {
	Code    int // extended result code, https://sqlite.org/rescode.html
	Message string
}

func (e *StmtError) Error() string { return e.Message }

// stmtError takes the words from the connection, which must not have been used
// since.
func (db DB) stmtError(rc C.int) error {
	if rc == C.SQLITE_OK {
		return nil
	}
	code := int(rc)
	if x := int(C.sqlite3_extended_errcode(db.c())); x&0xff == code&0xff {
		code = x
	}
	return &StmtError{Code: code, Message: C.GoString(C.sqlite3_errmsg(db.c()))}
}

// Prepare compiles the first statement of sql and returns what follows it. A
// text of nothing but space and comments yields a nil Stmt.
func (db DB) Prepare(sql string) (s *Stmt, tail string, err error) {
	if strings.IndexByte(sql, 0) >= 0 || len(sql) >= math.MaxInt32 {
		return nil, "", &StmtError{Code: C.SQLITE_ERROR, Message: "SQL holds a NUL or is too long"}
	}
	text := C.CString(sql)
	defer C.free(unsafe.Pointer(text))
	var ptr *C.sqlite3_stmt
	var rest *C.char
	if rc := C.sqlite3_prepare_v2(db.c(), text, C.int(len(sql)), &ptr, &rest); rc != C.SQLITE_OK {
		return nil, "", db.stmtError(rc)
	}
	if rest != nil {
		tail = sql[uintptr(unsafe.Pointer(rest))-uintptr(unsafe.Pointer(text)):]
	}
	if ptr == nil {
		return nil, tail, nil
	}
	return &Stmt{db: db, ptr: ptr}, tail, nil
}

// Close frees the statement.
func (s *Stmt) Close() {
	C.sqlite3_finalize(s.ptr) // repeats the error of the last step, which was reported
	s.ptr = nil
}

// Reset makes the statement ready to be run again, with parameters that are NULL.
func (s *Stmt) Reset() {
	C.sqlite3_reset(s.ptr) // repeats the error of the last step, which was reported
	C.sqlite3_clear_bindings(s.ptr)
	s.pending, s.ended = false, false
}

// Bind sets parameter i, the first being 1, to nil, int64, float64, string or
// []byte.
func (s *Stmt) Bind(i int, v any) error {
	var rc C.int
	n := C.int(i)
	switch v := v.(type) {
	case nil:
		rc = C.sqlite3_bind_null(s.ptr, n)
	case int64:
		rc = C.sqlite3_bind_int64(s.ptr, n, C.sqlite3_int64(v))
	case float64:
		rc = C.sqlite3_bind_double(s.ptr, n, C.double(v))
	case string:
		if len(v) >= math.MaxInt32 {
			return &StmtError{Code: C.SQLITE_TOOBIG, Message: "string or blob too big"}
		}
		p := (*C.char)(unsafe.Pointer(unsafe.StringData(v)))
		if v == "" {
			p = (*C.char)(unsafe.Pointer(&empty[0]))
		}
		rc = C.ts_bind_text_copy(s.ptr, n, p, C.int(len(v)))
	case []byte:
		if len(v) >= math.MaxInt32 {
			return &StmtError{Code: C.SQLITE_TOOBIG, Message: "string or blob too big"}
		}
		rc = C.ts_bind_blob_copy(s.ptr, n, unsafe.Pointer(unsafe.SliceData(v)), C.int(len(v)))
	default:
		return fmt.Errorf("bind parameter %d: type %T", i, v)
	}
	return s.db.stmtError(rc)
}

var empty [1]byte

// Step runs the statement to its next row; row is false at its end.
func (s *Stmt) Step() (row bool, err error) {
	switch rc := C.sqlite3_step(s.ptr); rc {
	case C.SQLITE_ROW:
		return true, nil
	case C.SQLITE_DONE:
		return false, nil
	default:
		return false, s.db.stmtError(rc)
	}
}

// Columns returns the number of columns of the result.
func (s *Stmt) Columns() int { return int(C.sqlite3_column_count(s.ptr)) }

// ColumnName returns the name of column i, the first being 0, and its declared
// type; typed is false for an expression.
func (s *Stmt) ColumnName(i int) (name, declared string, typed bool) {
	name = C.GoString(C.sqlite3_column_name(s.ptr, C.int(i)))
	d := C.sqlite3_column_decltype(s.ptr, C.int(i))
	return name, C.GoString(d), d != nil
}

// Column returns column i of the row: nil, int64, float64, string or []byte.
func (s *Stmt) Column(i int) any {
	n := C.int(i)
	switch C.sqlite3_column_type(s.ptr, n) {
	case C.SQLITE_INTEGER:
		return int64(C.sqlite3_column_int64(s.ptr, n))
	case C.SQLITE_FLOAT:
		return float64(C.sqlite3_column_double(s.ptr, n))
	case C.SQLITE_TEXT:
		p := C.sqlite3_column_text(s.ptr, n)
		return C.GoStringN((*C.char)(unsafe.Pointer(p)), C.sqlite3_column_bytes(s.ptr, n))
	case C.SQLITE_BLOB:
		p := C.sqlite3_column_blob(s.ptr, n)
		if b := C.GoBytes(p, C.sqlite3_column_bytes(s.ptr, n)); b != nil {
			return b
		}
		return []byte{}
	}
	return nil
}

// Params returns the number of the last parameter.
func (s *Stmt) Params() int { return int(C.sqlite3_bind_parameter_count(s.ptr)) }

// ParamName returns the name of parameter i with its prefix; empty for a bare
// question mark.
func (s *Stmt) ParamName(i int) string {
	return C.GoString(C.sqlite3_bind_parameter_name(s.ptr, C.int(i)))
}

// ReadOnly tells whether the statement leaves the database as it is.
func (s *Stmt) ReadOnly() bool { return C.sqlite3_stmt_readonly(s.ptr) != 0 }

// Explain tells whether the statement is an EXPLAIN.
func (s *Stmt) Explain() bool { return C.sqlite3_stmt_isexplain(s.ptr) != 0 }

// StmtInfo is the state of a connection after a statement.
type StmtInfo struct {
	Autocommit      bool
	TotalChanges    int64
	LastInsertRowID int64
}

// Info returns the state of the connection.
func (db DB) Info() StmtInfo {
	return StmtInfo{
		Autocommit:      C.sqlite3_get_autocommit(db.c()) != 0,
		TotalChanges:    int64(C.sqlite3_total_changes64(db.c())),
		LastInsertRowID: int64(C.sqlite3_last_insert_rowid(db.c())),
	}
}

// InterruptNow makes what runs on the connection end with SQLITE_INTERRUPT. It
// may be called from any goroutine while the connection is open.
func (db DB) InterruptNow() { C.sqlite3_interrupt(db.c()) }

// SetLastInsertRowID makes the connection's last_insert_rowid() be id.
func (db DB) SetLastInsertRowID(id int64) {
	C.sqlite3_set_last_insert_rowid(db.c(), C.sqlite3_int64(id))
}
