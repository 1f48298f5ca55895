package shim

/*
#include "shim.h"
*/
import "C"

import "fmt"

// Fault is an operation on a file that a test can make fail.
type Fault int

// The operations, by the error they end in.
const (
	FailWrite  Fault = iota // I/O error, nothing is written
	TearWrite               // disk full, half is written
	FailSync                // I/O error
	FailRead                // I/O error
	FailShmMap              // I/O error; of Main: the wal-index belongs to it
	DieWrite                // the process ends with half written
	DieSync                 // the process ends before the sync
	DieBarrier              // the process ends at a memory barrier of the wal-index, which is Main's
)

// Died is the exit code of a process that a fault has ended. No Go code ran after it.
const Died = C.TS_DIED

// SetFault makes an operation on a file of the connection fail from the call
// after the next n ones on. It is for tests: one fault at a time in the process,
// ended by ClearFault before the connection is closed.
func (db DB) SetFault(f File, op Fault, n int) error {
	if err := check(C.ts_fault_set(db.c(), C.int(f), C.int(op), C.int(n))); err != nil {
		return fmt.Errorf("set fault: %w", err)
	}
	return nil
}

// ClearFault ends the fault set by SetFault, if any.
func ClearFault() { C.ts_fault_clear() }
