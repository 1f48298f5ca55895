package server

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/page"
)

// What the history does with pins: it sets them for the answers of pulls, finds them
// for later ones, and keeps the images that a checkpoint would destroy.

// wanted is an image that has to be kept.
type wanted struct {
	place
	lo, hi uint64
}

// pin lets the revision of a plan be asked for later. No checkpoint may have come
// between.
func (h *history) pin(pl *plan) {
	h.mu.Lock()
	defer h.mu.Unlock()
	x := pin{seq: pl.seq, count: pl.pageCount, used: time.Now()}
	if _, known := h.parse(pl.revision); !known || x.count == 0 {
		return
	}
	x.era = h.era(pl.seq).name
	x.tag, _ = h.tag(pl.seq)
	first := len(h.pins.list) == 0
	err := h.pins.add(x)
	if err == nil && first {
		h.save() // a mark that the record has would not hold
		err = h.markMoved()
	}
	if err != nil {
		h.unpin(err)
	}
}

// markMoved notes what the file holds, so that the images in it can be relied on
// after a death. The record was just saved.
func (h *history) markMoved() error {
	p := h.pins
	p.moved = h.start
	if n := max(h.state.Backfill, h.floor); n > 0 {
		p.moved = h.frames[n-1].seq
	}
	var m *fileMark
	var err error
	if h.settled {
		var now fileMark
		now, err = lookAtFile(h.file)
		m = &now
	} else {
		m, err = markFile(h.file)
	}
	if err != nil || m == nil {
		return err
	}
	p.mark = *m
	return p.append(p.markRecord())
}

// trustFile lets images in the file be relied on that nobody has moved anything
// over since the pins were noted.
func (h *history) trustFile() {
	now, err := lookAtFile(h.file)
	if len(h.pins.list) == 0 || err != nil || now != h.pins.mark {
		return
	}
	h.floor = uint32(sort.Search(len(h.frames), func(i int) bool { return h.frames[i].seq > h.pins.moved }))
}

// pinned returns the pin of a revision that parse took for that commit; nil: there
// is none.
func (h *history) pinned(revision string, seq uint64) *pin {
	x := h.pins.of(seq)
	if x == nil {
		return nil
	}
	// One of them may have been named when the tag was not known.
	_, sum, _ := strings.Cut(strings.TrimPrefix(revision, x.name()), "-")
	t, err := strconv.ParseUint(sum, 16, 32)
	if err != nil || t != 0 && x.tag != 0 && tag(t) != x.tag {
		return nil
	}
	if err := h.pins.touch(x, time.Now()); err != nil {
		h.unpin(err)
		return nil
	}
	return x
}

// kept reads the image of a page that pins keep.
func (h *history) kept(at int64, image []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	err := h.pins.read(at, image)
	if errors.Is(err, errPins) {
		h.unpin(err) // who asks again is told that the revision is gone, and starts anew
	}
	return err
}

// unpin gives up all pins.
func (h *history) unpin(why error) {
	if why != nil {
		h.cfg.Logger.Error("revisions that partial replicas read are given up", "error", why)
	}
	if err := h.pins.clear(); err != nil {
		h.cfg.Logger.Error("clear pins", "error", err)
	}
}

// preserve keeps the images that pins need and the next checkpoint writes over. The
// caller holds mu, and nobody can write.
func (h *history) preserve() {
	if len(h.pins.list) > 0 {
		if err := h.tryPreserve(time.Now()); err != nil {
			h.unpin(err)
		}
	}
}

func (h *history) tryPreserve(now time.Time) error {
	p := h.pins
	if err := p.drop(func(x pin) bool { return now.Sub(x.used) > p.last }); err != nil {
		return err
	}
	want, err := h.endangered()
	for err == nil && len(p.list) > 0 && int64(len(want))*(pinsHead+page.Size)+p.size() > p.most {
		h.cfg.Logger.Warn("a revision that a partial replica reads is given up: Config.PinnedBytes is reached")
		if err = p.evict(); err == nil {
			want, err = h.endangered()
		}
	}
	if err != nil || len(p.list) == 0 {
		return errors.Join(err, p.shrink())
	}
	image := make([]byte, page.Size)
	for _, w := range want {
		file, off := w.where()
		if err := h.conn.readPage(file, off, image); err != nil {
			return fmt.Errorf("read page %v: %w", w.no, err)
		}
		if err := p.keep(w.no, w.lo, w.hi, image); err != nil {
			return err
		}
	}
	if err := p.append(pinsRecord{kind: 's', a: h.seq}.encode()); err != nil {
		return err
	}
	if err := fault.At("pins.sync"); err != nil {
		return fmt.Errorf("sync pins: %w", err)
	}
	if p.sync {
		if err := p.f.Sync(); err != nil {
			return fmt.Errorf("sync pins: %w", err)
		}
	}
	p.complete = h.seq
	return p.shrink()
}

// endangered finds the images that pins need, that the newest state has not, and
// that are not kept. Pins whose images are gone already end.
func (h *history) endangered() (want []wanted, err error) {
	p := h.pins
	covered := map[page.No][]kept{} // by want
	find := func(no page.No, seq uint64) bool {
		return p.find(no, seq) != 0 || slices.ContainsFunc(covered[no], func(k kept) bool { return k.lo <= seq && seq < k.hi })
	}
	lost := map[uint64]bool{}
	at := func(x pin, last map[page.No]uint32, no page.No, first uint32) {
		if no > page.No(x.count) || no == lockPage || find(no, x.seq) {
			return
		}
		w := wanted{place: place{no: no, frame: last[no]}, lo: x.seq, hi: h.frames[first-1].seq}
		if w.frame == 0 && first <= max(h.state.Backfill, h.floor) {
			lost[x.seq] = true // somebody else moved it
			return
		}
		want = append(want, w)
		covered[no] = append(covered[no], kept{lo: w.lo, hi: w.hi})
	}
	var last, first map[page.No]uint32
	for _, x := range p.list {
		// Pins from before this WAL find the same in it.
		if first == nil || x.seq > h.start {
			last, first = h.lastFrames(x.seq, h.state.MaxFrame)
		}
		for no, f := range first {
			at(x, last, no, f)
		}
		for no := page.No(len(h.changed)) + 1; no <= page.No(x.count); no++ {
			if f := h.cutBy(no, x.seq); f != 0 && first[no] == 0 {
				at(x, last, no, f)
			}
		}
	}
	if len(lost) > 0 {
		h.cfg.Logger.Warn("revisions that partial replicas read are given up: another program checkpointed the database", "pins", len(lost))
		if err := p.drop(func(x pin) bool { return lost[x.seq] }); err != nil {
			return nil, err
		}
		return h.endangered()
	}
	slices.SortFunc(want, func(a, b wanted) int { return cmp.Compare(a.no, b.no) })
	return want, nil
}
