package shim

/*
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"io"
	"math"
	"unsafe"
)

// File is a file of the main database of a connection.
type File int

// The files of a database in WAL mode.
const (
	Main File = iota // the database file
	WAL              // its write-ahead log
)

func (f File) String() string {
	if f == WAL {
		return "WAL"
	}
	return "database file"
}

// ReadAt reads from a file of the main database through SQLite's own handle: no
// second open of the file, which would drop SQLite's POSIX locks on it. It reads
// what is in the file now, whatever transaction or page cache says. Like
// io.ReaderAt it returns io.EOF with a short count at the end of the file.
//
// The connection must be idle, and for the WAL must have read once (ErrNotReady).
func (db DB) ReadAt(f File, b []byte, off int64) (int, error) {
	if off < 0 || len(b) > math.MaxInt32 {
		return 0, fmt.Errorf("read %v: %d bytes at %d is out of range", f, len(b), off)
	}
	if len(b) == 0 {
		return 0, nil
	}
	var got C.int
	rc := C.ts_file_read(db.c(), C.int(f), unsafe.Pointer(&b[0]), C.int(len(b)), C.sqlite3_int64(off), &got)
	if err := check(rc); err != nil {
		return 0, fmt.Errorf("read %v: %w", f, err)
	}
	if int(got) < len(b) {
		return int(got), io.EOF
	}
	return int(got), nil
}

// ReaderAt is f as an io.ReaderAt, under the terms of ReadAt.
func (db DB) ReaderAt(f File) io.ReaderAt { return fileReader{db, f} }

type fileReader struct {
	db   DB
	file File
}

func (r fileReader) ReadAt(b []byte, off int64) (int, error) { return r.db.ReadAt(r.file, b, off) }

// Size returns the size of a file in bytes. The WAL's may be larger than what
// its frames fill: SQLite reuses the file from the start.
func (db DB) Size(f File) (int64, error) {
	var n C.sqlite3_int64
	if err := check(C.ts_file_size(db.c(), C.int(f), &n)); err != nil {
		return 0, fmt.Errorf("size of %v: %w", f, err)
	}
	return int64(n), nil
}

// Sync makes what was written to a file durable, by whichever connection.
func (db DB) Sync(f File) error {
	if err := check(C.ts_file_sync(db.c(), C.int(f))); err != nil {
		return fmt.Errorf("sync %v: %w", f, err)
	}
	return nil
}
