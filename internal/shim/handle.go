// Package shim is all the C and all the unsafe code of tursosync: the parts of
// SQLite that go-sqlite3 compiles in but does not offer to Go. It knows nothing
// of Turso.
//
// A DB is not a second handle: it names the connection of a *sqlite3.SQLiteConn,
// lives as long as that, and follows its rule of one goroutine at a time.
//
// docs/testing.md says how its tests run under the sanitizers.
package shim

/*
#include "shim.h"
*/
import "C"

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"unsafe"

	sqlite3 "github.com/mattn/go-sqlite3"
)

// ErrNoHandle says that a connection's sqlite3* cannot be found. The connection
// was opened before this package was initialised, or is closed.
var ErrNoHandle = errors.New("the connection's sqlite3 handle cannot be found")

// DB is the sqlite3* of an open go-sqlite3 connection. The zero DB is invalid.
type DB struct{ ptr unsafe.Pointer }

func (db DB) c() *C.sqlite3 { return (*C.sqlite3)(db.ptr) }

// initCode is the result of registering the auto extension; Of reports it.
var initCode C.int

func init() { initCode = C.ts_handle_init() }

// ofMu lets one Of at a time use the nonce in handle.c.
var ofMu sync.Mutex

// Of returns the handle of c. The connection must be open, idle, and without an
// authorizer that forbids functions. The DB must not be used after c is closed.
func Of(c *sqlite3.SQLiteConn) (DB, error) {
	if err := check(initCode); err != nil {
		return DB{}, fmt.Errorf("register extension: %w", err)
	}
	ofMu.Lock()
	defer ofMu.Unlock()
	nonce := rand.Uint64() | 1 // never 0, which stands for none
	C.ts_handle_expect(C.uint64_t(nonce))
	_, err := c.Exec("SELECT ts_shim_handle(?)", []driver.Value{int64(nonce)})
	ptr := C.ts_handle_take()
	if err != nil {
		return DB{}, fmt.Errorf("%w: %w", ErrNoHandle, err)
	}
	if ptr == nil {
		return DB{}, ErrNoHandle
	}
	return DB{ptr: unsafe.Pointer(ptr)}, nil
}

// Config names a switch of sqlite3_db_config
// (https://sqlite.org/c3ref/c_dbconfig_defensive.html).
type Config int

// The switches of a connection.
const (
	EnableFKey          Config = 1002 // foreign-key enforcement
	EnableTrigger       Config = 1003 // triggers
	NoCheckpointOnClose Config = 1006 // leave the WAL in place when the last connection closes
	Defensive           Config = 1010 // no writes to shadow tables or the schema
	WritableSchema      Config = 1011 // PRAGMA writable_schema
	LegacyAlterTable    Config = 1012 // PRAGMA legacy_alter_table
	DQSDML              Config = 1013 // double-quoted string literals in DML
	DQSDDL              Config = 1014 // double-quoted string literals in DDL
	EnableView          Config = 1015 // views
	TrustedSchema       Config = 1017 // functions and virtual tables in the schema
)

// NoCheckpointParam is the SQLite URI parameter with which a connection has
// NoCheckpointOnClose from the start, so also if opening it fails half-way.
const NoCheckpointParam = "ts_no_checkpoint=1"

// SetConfig turns a switch of the connection on or off. Some have no effect
// inside a transaction (EnableFKey); SetConfig then returns an error.
func (db DB) SetConfig(op Config, on bool) error {
	var want, now C.int
	if on {
		want = 1
	}
	if err := check(C.ts_db_config(db.c(), C.int(op), want, &now)); err != nil {
		return fmt.Errorf("set connection option %d: %w", op, err)
	}
	if now != want {
		return fmt.Errorf("set connection option %d: it stayed at %d", op, now)
	}
	return nil
}

// Config returns the state of a switch of the connection.
func (db DB) Config(op Config) (bool, error) {
	var now C.int
	if err := check(C.ts_db_config(db.c(), C.int(op), -1, &now)); err != nil {
		return false, fmt.Errorf("read connection option %d: %w", op, err)
	}
	return now != 0, nil
}

// check turns a result code, SQLite's (primary or extended) or our own, into an
// error: for SQLite's the one go-sqlite3 itself would return. It is the only
// place that does.
func check(rc C.int) error {
	switch rc {
	case C.SQLITE_OK:
		return nil
	case C.TS_EMPTY:
		return ErrEmptyWAL
	case C.TS_NOTREADY, C.TS_TORN:
		return ErrNotReady
	case C.TS_PAGESIZE:
		return ErrPageSize
	case C.TS_VERSION:
		return ErrVersion
	case C.TS_MISMATCH:
		return ErrMismatch
	case C.TS_INTX:
		return ErrInTransaction
	case C.TS_PAGENO:
		return ErrPageNo
	case C.TS_NOPAGES:
		return ErrNoPages
	case C.TS_HOLE:
		return ErrHole
	}
	return sqlite3.Error{Code: sqlite3.ErrNo(rc & 0xff), ExtendedCode: sqlite3.ErrNoExtended(rc)}
}
