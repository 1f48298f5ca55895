// Package faultfs makes single file operations fail: those of SQLite, through a VFS
// of its own that becomes the default one, and those of Go's files, through
// [fault.SetFiles], in one count. It is for tests, and nothing else may import it.
//
// The method is SQLite's own (https://sqlite.org/testing.html#i_o_error_testing):
// run a session once to count its operations, then once for each of them with that
// one failing.
package faultfs

/*
#include <stdlib.h>
#include "faultfs.h"
*/
import "C"

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"unsafe"

	_ "github.com/mattn/go-sqlite3" // what the C code links to

	"github.com/tursosync/tursosync/internal/fault"
)

// Kind is a kind of operation.
type Kind int

// The kinds; Other are those that only Go's files have: rename, link, lock and so on.
const (
	Open Kind = iota
	Read
	Write
	Truncate
	Sync
	Stat
	Delete
	Access
	Lock
	ShmMap
	ShmLock
	Other
)

var names = [...]string{"open", "read", "write", "truncate", "sync", "stat", "delete", "access", "lock", "shm map", "shm lock", "other"}

func (k Kind) String() string { return names[k] }

// Fault says what is to fail.
type Fault struct {
	Dir string // the folder of the files that count
	// Except is the end of the names of files in it that do not; empty: none.
	Except string
	At     int    // which operation fails, from 1; 0: none, they are counted
	Kinds  []Kind // those that count; nil: all
	Lasts  bool   // all later operations of the same kind on the same file fail as well
	// Partial: half of a read or write is done before it fails.
	Partial bool
	// Full: writes fail for want of space, not with an I/O error.
	Full bool
	// Lose: a sync that fails loses what was written since the last one: the file
	// holds zeros in its place.
	Lose bool
	// Busy: a lock of SQLite is not broken, but taken.
	Busy bool
}

// Report is what happened since a fault was set.
type Report struct {
	Ops    int // operations
	Failed int // those that failed
	Kind   Kind
	Path   string // of the first that failed
}

func (r Report) String() string {
	if r.Failed == 0 {
		return fmt.Sprintf("none of %d operations failed", r.Ops)
	}
	return fmt.Sprintf("%v of %s failed (%d of %d operations)", r.Kind, filepath.Base(r.Path), r.Failed, r.Ops)
}

var register = sync.OnceValue(func() C.int { return C.ts_faultfs_register() })

// Register puts the VFS in place, so that connections that are opened from now on
// can fail. Set does so too.
func Register() error {
	if rc := register(); rc != 0 {
		return fmt.Errorf("register VFS: SQLite's error %d", int(rc))
	}
	return nil
}

// Set sets a fault, the only one of the process, until clear is called, which
// returns what happened. Files that were opened before Register was called never
// fail.
func Set(f Fault) (clear func() Report, err error) {
	if err := Register(); err != nil {
		return nil, err
	}
	var c C.ts_fault
	if len(f.Dir) >= len(c.dir) || len(f.Except) >= len(c.except) {
		return nil, fmt.Errorf("set fault: path of %d bytes", len(f.Dir))
	}
	for i := range len(f.Dir) {
		c.dir[i] = C.char(f.Dir[i])
	}
	for i := range len(f.Except) {
		c.except[i] = C.char(f.Except[i])
	}
	c.on, c.at = 1, C.int(f.At)
	for _, k := range f.Kinds {
		c.ops |= 1 << k
	}
	if f.Kinds == nil {
		c.ops = 1<<(Other+1) - 1
	}
	for to, is := range map[*C.int]bool{&c.lasts: f.Lasts, &c.partial: f.Partial, &c.full: f.Full, &c.lose: f.Lose, &c.busy: f.Busy} {
		if is {
			*to = 1
		}
	}
	C.ts_faultfs_set(&c)
	g := &goFiles{fault: f}
	restore := fault.SetFiles(g.hook)
	return func() Report {
		restore()
		r := Now()
		C.ts_faultfs_set(&C.ts_fault{})
		return r
	}, nil
}

// Now tells what happened so far.
func Now() Report {
	var r C.ts_fault_report
	C.ts_faultfs_report(&r)
	return Report{Ops: int(r.ops), Failed: int(r.failed), Kind: Kind(r.op), Path: C.GoString(&r.path[0])}
}

// goFiles answers for the files that Go opens.
type goFiles struct {
	fault Fault

	mu       sync.Mutex
	unsynced map[string][]stretch // kept for Lose
}

type stretch struct{ off, n int64 }

var kinds = map[string]Kind{"open": Open, "read": Read, "write": Write, "truncate": Truncate, "sync": Sync, "stat": Stat, "remove": Delete, "lock": Lock}

func (g *goFiles) hook(op fault.Op) error {
	kind, ok := kinds[op.Name]
	switch {
	case op.Name == "close":
		return nil // SQLite's VFS has no failing close either
	case !ok:
		kind = Other
	}
	path := C.CString(op.Path)
	defer C.free(unsafe.Pointer(path))
	failed := C.ts_faultfs_due(C.int(kind), path) != 0
	if g.fault.Lose {
		g.keep(op, kind, failed)
	}
	if !failed {
		report(op)
		return nil
	}
	err := error(syscall.EIO)
	if g.fault.Full && kind == Write {
		err = syscall.ENOSPC
	}
	if g.fault.Partial && (kind == Read || kind == Write) {
		return &fault.Partial{Err: err}
	}
	return err
}

// keep follows what was written and not synced, and overwrites it when a sync fails.
func (g *goFiles) keep(op fault.Op, kind Kind, failed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case kind == Write && !failed:
		if g.unsynced == nil {
			g.unsynced = make(map[string][]stretch)
		}
		g.unsynced[op.Path] = append(g.unsynced[op.Path], stretch{op.Offset, int64(op.Length)})
	case kind == Sync:
		if failed {
			lose(op.Path, g.unsynced[op.Path])
		}
		delete(g.unsynced, op.Path)
	}
}

// lose overwrites stretches of a file with zeros; a write without an offset went
// on from the last one, and all of the file is lost.
func lose(path string, stretches []stretch) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return // a folder
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return
	}
	for _, s := range stretches {
		if s.off < 0 {
			s = stretch{0, info.Size()}
		}
		if n := min(s.n, info.Size()-s.off); n > 0 {
			_, _ = f.WriteAt(make([]byte, n), s.off)
		}
	}
}
