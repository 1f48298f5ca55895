package shim

/*
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/page"
)

// Conditions of WALState and of page commits.
var (
	// ErrBusy: another connection holds the write lock. Try again later.
	ErrBusy = errors.New("another connection is writing")
	// ErrEmptyWAL: the WAL holds no frame since it was last reset, so there is
	// nothing to append to. Make any commit through SQLite and try again.
	ErrEmptyWAL = errors.New("the WAL is empty")
	// ErrNotReady: the connection has no valid wal-index: it has not read yet, the
	// database is not in WAL mode, or the last writer died. Read something on the
	// connection, whereupon SQLite opens or recovers the wal-index, and try again.
	// That does not help if it was opened in exclusive locking mode.
	ErrNotReady = errors.New("the wal-index is not ready")
	// ErrPageSize: the pages of the database are not of page.Size bytes.
	ErrPageSize = errors.New("the database's page size is not supported")
	// ErrVersion: the WAL or the wal-index is of a format not known here.
	ErrVersion = errors.New("unknown WAL format")
	// ErrMismatch: the WAL file is not the one that the wal-index describes.
	// Somebody replaced or truncated files under an open database.
	ErrMismatch = errors.New("WAL and wal-index do not belong together")
	// ErrInTransaction: the connection is in a transaction.
	ErrInTransaction = errors.New("the connection is in a transaction")
	// ErrPageNo: page number 0, or one behind the page count.
	ErrPageNo = errors.New("page number out of range")
	// ErrNoPages: a page commit without pages.
	ErrNoPages = errors.New("no page was appended")
	// ErrHole: the database would grow by pages that were not appended.
	ErrHole = errors.New("pages are missing at the end")
	// ErrDone: the page commit was committed or aborted before.
	ErrDone = errors.New("the page commit has ended")
)

// WALState is the state of a database in WAL mode, from the header of its wal-index.
type WALState struct {
	MaxFrame  uint32    // last committed frame of the WAL; 0: the WAL is empty
	PageCount uint32    // size of the database in pages after that frame; may be 0 while MaxFrame is 0
	Change    uint32    // counts commits that wrote frames; starts at 0 again when SQLite rebuilds the wal-index
	Backfill  uint32    // frames that are already in the database file, at most MaxFrame
	Salt      [2]uint32 // of the WAL; changes whenever the WAL starts over
	Checksum  [2]uint32 // running checksum of the WAL at MaxFrame
	PageSize  int       // 0 while the WAL has never held a frame
}

func walState(s *C.ts_walstate) WALState {
	return WALState{
		MaxFrame:  uint32(s.mxFrame),
		PageCount: uint32(s.nPage),
		Change:    uint32(s.iChange),
		Backfill:  uint32(s.nBackfill),
		Salt:      [2]uint32{uint32(s.aSalt[0]), uint32(s.aSalt[1])},
		Checksum:  [2]uint32{uint32(s.aFrameCksum[0]), uint32(s.aFrameCksum[1])},
		PageSize:  int(s.szPage),
	}
}

// tornWait is how long WALState waits for a writer that is between the two
// copies of the header, which takes it nanoseconds unless it is off the CPU.
const tornWait = 20 * time.Millisecond

// WALState returns the state as last committed by anyone. It takes no lock and
// does no I/O; by the time the caller looks, others may have committed more.
func (db DB) WALState() (WALState, error) {
	var s C.ts_walstate
	rc := C.ts_wal_state(db.c(), &s)
	for waited := time.Duration(0); rc == C.TS_TORN && waited < tornWait; waited += time.Millisecond {
		time.Sleep(time.Millisecond)
		rc = C.ts_wal_state(db.c(), &s)
	}
	if err := check(rc); err != nil {
		return WALState{}, fmt.Errorf("read WAL state: %w", err)
	}
	return walState(&s), nil
}

// PageCommit is one commit of page images in the making. It holds the write lock
// of the database: no other connection can write until Commit or Abort. Readers
// go on undisturbed, and see the pages with the transaction they begin after
// Commit.
//
// It belongs to one goroutine, and so does its connection in the meantime.
type PageCommit struct {
	ptr   *C.ts_pagecommit // nil when ended
	state WALState
	err   error // of an Append that failed; Commit returns it again
}

// BeginPageCommit takes the write lock without waiting for it (ErrBusy), and
// checks that pages can be appended: ErrInTransaction, ErrNotReady, ErrEmptyWAL,
// ErrPageSize, ErrVersion, ErrMismatch. The connection must stay open and idle
// until the page commit has ended, which the caller must see to:
//
//	p, err := db.BeginPageCommit()
//	…
//	defer p.Abort()
//	… p.Append(no, image) …
//	return p.Commit(pageCount)
func (db DB) BeginPageCommit() (*PageCommit, error) {
	var p *C.ts_pagecommit
	err := check(C.ts_pagecommit_begin(db.c(), &p))
	if e, ok := err.(sqlite3.Error); ok && e.Code == sqlite3.ErrBusy {
		err = ErrBusy
	}
	if err != nil {
		return nil, fmt.Errorf("begin page commit: %w", err)
	}
	var s C.ts_walstate
	C.ts_pagecommit_state(p, &s)
	return &PageCommit{ptr: p, state: walState(&s)}, nil
}

// State returns the state of the database that the page commit builds on.
func (p *PageCommit) State() WALState { return p.state }

// Append adds a page; the last image of a page counts. The image, of page.Size
// bytes, is copied or written to the WAL before Append returns; memory use does
// not grow with the number of pages. SQLite's lock page (at 1 GiB), which never
// holds anything, is passed over. After an error only Abort is left.
func (p *PageCommit) Append(no page.No, image []byte) error {
	if p.ptr == nil {
		return fmt.Errorf("append page %v: %w", no, ErrDone)
	}
	if p.err != nil {
		return p.err
	}
	if len(image) != page.Size {
		p.err = fmt.Errorf("append page %v: image of %d bytes: %w", no, len(image), ErrPageSize)
		return p.err
	}
	if err := check(C.ts_pagecommit_append(p.ptr, C.uint32_t(no), unsafe.Pointer(&image[0]))); err != nil {
		p.err = fmt.Errorf("append page %v: %w", no, err)
	}
	return p.err
}

// Commit makes the appended pages, durably, the newest state of the database,
// which then is pageCount pages large, and unlocks. No appended page may lie
// behind pageCount (ErrPageNo), and every page that the database grows by must
// have been appended (ErrHole).
//
// After an error nothing is committed and only Abort is left. (One gap, which
// SQLite's own commit has as well: if the sync fails, and then neither the wipe of
// the commit frame nor any later commit reaches the disk, a recovery after a
// crash may find the commit.)
func (p *PageCommit) Commit(pageCount uint32) error {
	if p.ptr == nil {
		return fmt.Errorf("commit pages: %w", ErrDone)
	}
	if p.err != nil {
		return p.err
	}
	if err := check(C.ts_pagecommit_commit(p.ptr, C.uint32_t(pageCount))); err != nil {
		return fmt.Errorf("commit pages: %w", err)
	}
	p.ptr = nil
	return nil
}

// Abort gives up the page commit and unlocks. After Commit or Abort it does
// nothing, so it can be deferred.
func (p *PageCommit) Abort() error {
	if p.ptr == nil {
		return nil
	}
	err := check(C.ts_pagecommit_abort(p.ptr))
	p.ptr = nil
	if err != nil {
		return fmt.Errorf("abort page commit: %w", err)
	}
	return nil
}
