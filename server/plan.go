package server

import (
	"errors"

	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/shim"
	"github.com/tursosync/tursosync/internal/wal"
)

// plan says where the pages of an answer lie.
type plan struct {
	revision  string
	seq       uint64 // of the state
	pageCount uint32
	state     shim.WALState // what the read transaction sees
	pages     []place
}

// place is where the image of a page lies.
type place struct {
	no    page.No
	frame uint32 // of the WAL; 0: in the file
	kept  int64  // in the file of pins; 0: not there
}

// where returns the place in the files of the database.
func (p place) where() (shim.File, int64) {
	if p.frame == 0 {
		return shim.Main, p.no.Offset()
	}
	return shim.WAL, wal.Size(p.frame-1) + wal.FrameHeaderSize
}

// lockPage is never written by SQLite: its bytes in the file are locks
// (https://sqlite.org/fileformat2.html#the_lock_byte_page).
const lockPage = page.No(1<<30/page.Size + 1)

// errGone tells that a page at the wanted revision does not exist any more.
var errGone = errors.New("the revision is not held any more: start again without it")

// plan finds the pages that a request asks for, as of a state that the caller has
// a read transaction of; see snapshot. Stale tells that the state has gone by
// without being seen.
func (h *history) plan(have, at string, selected *page.Set, state shim.WALState) (p *plan, stale bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.refresh(); err != nil {
		return nil, false, err
	}
	if state.Salt != h.state.Salt || state.MaxFrame > h.state.MaxFrame {
		return nil, true, nil
	}
	newest := h.start
	if state.MaxFrame > 0 {
		newest = h.frames[state.MaxFrame-1].seq
	}
	count, err := h.pageCount(state)
	if err != nil {
		return nil, false, err
	}
	p = &plan{revision: h.revision(newest), seq: newest, pageCount: count, state: state}
	upto, most := newest, count
	var pinned *pin
	if at != "" {
		var known bool
		if upto, known = h.parse(at); !known || upto > newest {
			return nil, false, errGone
		}
		p.revision = at
		if pinned = h.pinned(at, upto); pinned != nil {
			most = pinned.count
		}
	}
	since, known := h.parse(have)
	switch {
	case known && at == "" && since == h.seq: // as most often
		p.revision, p.pageCount = have, uint32(len(h.changed))
		return p, false, nil
	case known && since > newest:
		return nil, true, nil // what the client has is newer
	}
	inFile := state.Backfill == state.MaxFrame
	last, first := h.lastFrames(upto, state.MaxFrame)
	for no := page.No(1); uint32(no) <= most; no++ {
		seq := h.seq
		if int(no) <= len(h.changed) {
			seq = h.changed[no-1]
		}
		if no == lockPage || known && seq <= since || selected != nil && !selected.Has(no) {
			continue
		}
		pl := place{no: no, frame: last[no]}
		switch {
		case upto < newest && seq > upto:
			// An old image is with the pins, or in the WAL, if that stays where it is, or
			// in the file if that is as it was at that revision.
			if pinned != nil {
				if pl.kept = h.pins.find(no, upto); pl.kept != 0 {
					break
				}
			}
			next := first[no]
			if next == 0 && uint32(no) > count {
				next = h.cutBy(no, upto)
			}
			inWAL := pl.frame != 0 && !inFile
			inPlace := pl.frame == 0 && next > max(state.Backfill, h.floor) && (upto >= h.start || pinned != nil)
			// Pages that SQLite never wrote are in no frame.
			never := pl.frame == 0 && next == 0 && upto >= h.start && uint32(no) <= count
			if !inWAL && !inPlace && !never {
				return nil, false, errGone
			}
		case inFile:
			pl.frame = 0
		}
		p.pages = append(p.pages, pl)
	}
	return p, false, nil
}

// lastFrames returns the last frame of each page up to a commit, and the first
// one behind, among so many frames.
func (h *history) lastFrames(upto uint64, among uint32) (last, first map[page.No]uint32) {
	last, first = map[page.No]uint32{}, map[page.No]uint32{}
	for i, f := range h.frames[:among] {
		if f.seq <= upto {
			last[f.no] = uint32(i) + 1
		} else if first[f.no] == 0 {
			first[f.no] = uint32(i) + 1
		}
	}
	return last, first
}

// cutBy returns the first frame behind a commit that ends one which leaves the
// database without a page; 0: there is none.
func (h *history) cutBy(no page.No, behind uint64) uint32 {
	for i, f := range h.frames[:h.state.MaxFrame] {
		if f.seq > behind && f.count != 0 && page.No(f.count) < no {
			return uint32(i) + 1
		}
	}
	return 0
}
