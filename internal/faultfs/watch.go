package faultfs

/*
#include "faultfs.h"
*/
import "C"

import (
	"fmt"
	"sync/atomic"

	"github.com/tursosync/tursosync/internal/fault"
)

// Synced is told of a file that is on disk for good up to here: just after a sync
// by SQLite, just before one by Go, of a folder too.
type Synced func(path string, sqlite bool)

var watcher atomic.Pointer[Synced]

// Watch reports the syncs of the process until stop is called, so that a test can
// tell what a loss of power would leave. One at a time; Set may be used meanwhile.
func Watch(f Synced) (stop func(), err error) {
	if err := Register(); err != nil {
		return nil, err
	}
	if !watcher.CompareAndSwap(nil, &f) {
		return nil, fmt.Errorf("watch syncs: somebody does already")
	}
	C.ts_faultfs_watch(1)
	restore := fault.SetFiles(func(op fault.Op) error {
		report(op)
		return nil
	})
	return func() {
		restore()
		C.ts_faultfs_watch(0)
		watcher.Store(nil)
	}, nil
}

// report tells the watcher of an operation that will be done.
func report(op fault.Op) {
	if w := watcher.Load(); w != nil && op.Name == "sync" {
		(*w)(op.Path, false)
	}
}

//export tsFaultfsSynced
func tsFaultfsSynced(path *C.char) {
	if w := watcher.Load(); w != nil {
		(*w)(C.GoString(path), true)
	}
}
