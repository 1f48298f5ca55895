// Package page holds the arithmetic of SQLite database pages: numbers, sets,
// revisions and the fields of page 1 that synchronisation depends on.
//
// The remote's pages are always 4096 bytes (PROTOCOL.md §2.4). SQLite counts
// pages from 1, the wire from 0; FromWire and No.Wire are the only places
// where one becomes the other.
package page

import (
	"fmt"
	"strconv"
)

// Size is the size in bytes of every page of the remote, of base and of live.
const Size = 4096

// No is a page number as SQLite counts: the first page is 1, 0 is no page.
type No uint32

// Wire returns the page id that the wire uses for n.
func (n No) Wire() uint32 { return uint32(n) - 1 }

// Offset returns the position in bytes of page n in a database file.
func (n No) Offset() int64 { return int64(n-1) * Size }

func (n No) String() string { return strconv.FormatUint(uint64(n), 10) }

// maxWire is the largest page id whose page number SQLite can have (2^32-2
// pages; https://sqlite.org/limits.html).
const maxWire = 1<<32 - 3

// FromWire converts a page id of the wire, which starts at 0.
func FromWire(id uint64) (No, error) {
	if id > maxWire {
		return 0, fmt.Errorf("page id %d is beyond SQLite's last page", id)
	}
	return No(id + 1), nil
}

// Revision is the remote's opaque name for one of its states. Revisions are
// compared for equality only; the empty one stands for "nothing yet".
type Revision string
