package shim

/*
#include "shim.h"
*/
import "C"

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unsafe"
)

// Fetch runs the statement on and returns its next rows, packed, as many as fit
// into size bytes, but at least one; nil: that was all. The rows are the
// caller's to keep. They have at most 64 columns.
func (s *Stmt) Fetch(size int) (Packed, error) {
	if s.ended {
		return nil, nil
	}
	for {
		buf := make([]byte, size)
		var used, need C.size_t
		pending := cbool(s.pending)
		rc := C.ts_fetch(s.ptr, (*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(buf))), C.size_t(len(buf)), &used, &need, &pending)
		s.pending = pending != 0
		switch {
		case rc == C.SQLITE_DONE:
			s.ended = true
			if used == 0 {
				return nil, nil
			}
		case rc != C.SQLITE_ROW:
			s.ended = true
			return nil, s.db.stmtError(rc)
		case used == 0:
			size = int(need)
			continue
		}
		return Packed(buf[:used]), nil
	}
}

// Packed is a sequence of values, column by column and row by row.
type Packed []byte

// Value is one value: of Type, with Int set for an integer, Float for a float,
// Bytes for text and blobs. Bytes shares memory with the Packed it came from.
type Value struct {
	Type  ValueType
	Int   int64
	Float float64
	Bytes []byte
}

// ValueType is a storage class.
type ValueType uint8

// The storage classes, in SQLite's numbers.
const (
	Integer ValueType = 1
	Float   ValueType = 2
	Text    ValueType = 3
	Blob    ValueType = 4
	Null    ValueType = 5
)

// Next takes the first value off. It must not be called on an empty Packed.
func (p *Packed) Next() Value {
	b := *p
	v := Value{Type: ValueType(b[0])}
	switch v.Type {
	case Integer:
		v.Int = int64(binary.NativeEndian.Uint64(b[1:]))
		*p = b[9:]
	case Float:
		v.Float = math.Float64frombits(binary.NativeEndian.Uint64(b[1:]))
		*p = b[9:]
	case Text, Blob:
		n := 9 + int(binary.NativeEndian.Uint64(b[1:]))
		v.Bytes = b[9:n:n]
		*p = b[n:]
	default:
		*p = b[1:]
	}
	return v
}

// BatchColumns is how many columns the records of a Batch may have.
const BatchColumns = C.TS_BATCH_COLUMNS

// RowID stands for an entry's rowid among the parameters of a Plan.
const RowID = -1

// Plan is a statement of a Batch. Like a Stmt it must be closed before its
// connection.
type Plan struct{ ptr *C.ts_plan }

// Plan compiles a statement whose parameters are fields of an entry's record, by
// their index, or RowID. exact: it must change one row, no more and no less.
func (db DB) Plan(sql string, params []int, exact bool) (*Plan, error) {
	s, tail, err := db.Prepare(sql)
	if err != nil {
		return nil, err
	}
	if s == nil || tail != "" || s.Params() != len(params) {
		if s != nil {
			s.Close()
		}
		return nil, fmt.Errorf("plan %q: not one statement of %d parameters", sql, len(params))
	}
	from := make([]C.int16_t, len(params)+1)
	for i, p := range params {
		if p < RowID || p >= BatchColumns {
			s.Close()
			return nil, fmt.Errorf("plan %q: parameter of field %d", sql, p)
		}
		from[i] = C.int16_t(p)
	}
	ptr := C.ts_plan_new(s.ptr, &from[0], C.int(len(params)), cbool(exact))
	if ptr == nil {
		return nil, check(C.SQLITE_NOMEM)
	}
	return &Plan{ptr: ptr}, nil
}

// Close frees the plan.
func (p *Plan) Close() {
	C.ts_plan_free(p.ptr)
	p.ptr = nil
}

// Batch is a list of statements to be run with one call. The zero Batch is empty.
type Batch struct {
	entries []C.ts_entry
	records []byte
}

// Add appends an entry. The record is copied.
func (b *Batch) Add(p *Plan, rowid int64, record []byte) {
	b.entries = append(b.entries, C.ts_entry{
		plan: p.ptr, rowid: C.sqlite3_int64(rowid), off: C.size_t(len(b.records)), len: C.size_t(len(record)),
	})
	b.records = append(b.records, record...)
}

// Len returns the number of entries.
func (b *Batch) Len() int { return len(b.entries) }

// Bytes returns the size of the records.
func (b *Batch) Bytes() int { return len(b.records) }

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() { b.entries, b.records = b.entries[:0], b.records[:0] }

// ErrSurprise: an entry did not change as many rows as it should, or its record
// cannot be read.
var ErrSurprise = errors.New("statement of a batch did not do what it should")

// Run runs the entries from one index up to another, in order, until one fails:
// with ErrSurprise or a *StmtError. Those before are done; the failed one has
// had no effect, unless it changed several rows.
func (b *Batch) Run(db DB, from, to int) (done int, err error) {
	entries := b.entries[from:to]
	if len(entries) == 0 {
		return 0, nil
	}
	records := unsafe.Pointer(&empty[0])
	if len(b.records) > 0 {
		records = unsafe.Pointer(&b.records[0])
	}
	var n C.int
	switch rc := C.ts_batch(db.c(), &entries[0], C.int(len(entries)), (*C.uint8_t)(records), &n); rc {
	case C.SQLITE_OK:
	case C.TS_SURPRISE:
		err = ErrSurprise
	default:
		err = db.stmtError(rc)
	}
	return int(n), err
}
