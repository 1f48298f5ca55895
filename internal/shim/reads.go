package shim

/*
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/tursosync/tursosync/internal/page"
)

// Reads notes which pages a connection reads.
type Reads struct{ main, wal *C.ts_reads }

// NoteReads begins with it. The connection must have read once (ErrNotReady); its
// page cache is emptied, apart from pages in use: the first one, in a transaction.
// Stop must be called before the connection is closed.
func (db DB) NoteReads() (*Reads, error) {
	r := &Reads{}
	err := check(C.ts_reads_start(db.c(), C.int(Main), 0, page.Size, &r.main))
	if err == nil {
		err = check(C.ts_reads_start(db.c(), C.int(WAL), walHeader, walFrame, &r.wal))
	}
	if err != nil {
		_, _, _ = r.Stop()
		return nil, fmt.Errorf("note reads: %w", err)
	}
	return r, nil
}

// Sizes in a WAL, https://sqlite.org/walformat.html.
const (
	walHeader = 32
	walFrame  = 24 + page.Size
)

// Stop returns the pages that were read from the database file, and the frames, the
// first being 1, that were read from the WAL.
func (r *Reads) Stop() (pages []page.No, frames []uint32, err error) {
	each := func(p **C.ts_reads, take func(i uint32)) {
		if *p == nil {
			return
		}
		err = errors.Join(err, check(C.ts_reads_stop(*p)))
		var n C.sqlite3_int64
		if bits := C.ts_reads_bits(*p, &n); bits != nil {
			for i, b := range unsafe.Slice((*byte)(unsafe.Pointer(bits)), int(n)) {
				for bit := range 8 {
					if b>>bit&1 != 0 {
						take(uint32(i*8+bit) + 1)
					}
				}
			}
		}
		C.ts_reads_free(*p)
		*p = nil
	}
	each(&r.main, func(i uint32) { pages = append(pages, page.No(i)) })
	each(&r.wal, func(i uint32) { frames = append(frames, i) })
	return pages, frames, err
}
