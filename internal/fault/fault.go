// Package fault holds named points where a test may stop the program or make a
// file operation fail.
//
// A point is passed by calling [At] just before the step that it is named after
// (or just after, for points named "….done"). Without a test's hook At is one atomic
// load and returns nil. Every point of a durable step has a row in docs/rebase.md.
package fault

import (
	"sync"
	"sync/atomic"
)

// Hook is a test's answer to a point that is passed. An error makes the step
// fail as if the operating system had returned it; a hook may also panic, block, or
// end the process.
type Hook func(point string) error

var hook atomic.Pointer[Hook]

// At is called at a named point and returns what the hook returns; nil without
// a hook.
func At(point string) error {
	h := hook.Load()
	if h == nil {
		return nil
	}
	return (*h)(point)
}

// Set installs a hook for the whole process and returns the function that
// restores the previous one. It is for tests only.
func Set(h Hook) (restore func()) {
	previous := hook.Swap(&h)
	var once sync.Once
	return func() { once.Do(func() { hook.Store(previous) }) }
}
