package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/shim"
	"github.com/tursosync/tursosync/internal/wal"
)

// dirty knows in which pages live may differ from base. It may hold pages that
// do not differ; it must never lack one that does, because a rebase puts the
// staged image under exactly these pages and those that pull and replay touched.
type dirty struct {
	known bool     // false: only a comparison of all pages can tell
	pages page.Set // noted so far; the frames behind mark come on top
	mark  mark
}

// mark is a position in live's WAL.
type mark struct {
	salt   [2]uint32
	frame  uint32
	change uint32 // counts commits
}

func markOf(ws shim.WALState) mark {
	return mark{salt: ws.Salt, frame: ws.MaxFrame, change: ws.Change}
}

// catchUp notes the pages of all frames committed since the mark, by whomever.
//
// The WAL may have been reset since the mark, by the writer that came first after a
// checkpoint. Frames that vanished in a reset are harmless if they lie before the mark. Whether
// any lay behind it is told by the change counter of the wal-index, which counts
// commits and goes on across resets: as many commits must be found in the WAL as
// it says. Otherwise nothing is known any more.
func (r *Replica) catchUp() error {
	d := &r.dirty
	for range 3 {
		ws, err := r.live.db.WALState()
		if err != nil {
			return fmt.Errorf("note changed pages: %w", err)
		}
		if !d.known {
			d.mark = markOf(ws)
			return nil
		}
		from := d.mark.frame
		if ws.Salt != d.mark.salt || ws.MaxFrame < from {
			from = 0
		}
		commits, err := r.readFrames(from, ws, &d.pages)
		if err != nil {
			return fmt.Errorf("note changed pages: %w", err)
		}
		again, err := r.live.db.WALState()
		if err != nil {
			return fmt.Errorf("note changed pages: %w", err)
		}
		if again.Salt != ws.Salt {
			continue // reset while we were reading: what was read may be torn
		}
		if commits != ws.Change-d.mark.change {
			r.cfg.Logger.Debug("live's WAL was reset by another program: pages will be compared")
			*d = dirty{}
		}
		d.mark = markOf(ws)
		return nil
	}
	*d = dirty{}
	return nil
}

// readFrames adds the pages of the committed frames behind a frame to pages and
// counts the commits among them.
func (r *Replica) readFrames(from uint32, ws shim.WALState, pages *page.Set) (commits uint32, err error) {
	var head [wal.FrameHeaderSize]byte
	for frame := from; frame < ws.MaxFrame; frame++ {
		if _, err := r.live.db.ReadAt(shim.WAL, head[:], wal.Size(frame)); err != nil {
			return 0, err
		}
		no := page.No(binary.BigEndian.Uint32(head[:]))
		if no == 0 {
			return 0, errors.New("frame of page 0")
		}
		pages.Add(no)
		if binary.BigEndian.Uint32(head[4:]) != 0 {
			commits++
		}
	}
	return commits, nil
}

// differ returns the pages in which live may differ from base, as of now; it is
// final only while the caller holds live's write lock. count is live's page count.
func (r *Replica) differ(base *base) (*page.Set, error) {
	if err := r.catchUp(); err != nil {
		return nil, err
	}
	if r.dirty.known {
		return r.dirty.pages.Clone(), nil
	}
	if err := r.compareWith(base); err != nil {
		return nil, fmt.Errorf("compare live with base: %w", err)
	}
	return r.dirty.pages.Clone(), nil
}

// compareWith finds the dirty pages without knowing anything: all that have a
// frame in the WAL, and those whose image in the database file is not that of
// base. A checkpoint under way does not disturb: it changes only pages that have frames.
func (r *Replica) compareWith(base *base) error {
	db := r.live.db
	for range 3 {
		ws, err := db.WALState()
		if err != nil {
			return err
		}
		pages := new(page.Set)
		if _, err := r.readFrames(0, ws, pages); err != nil {
			return err
		}
		size, err := db.Size(shim.Main)
		if err != nil {
			return err
		}
		count := uint32((size + page.Size - 1) / page.Size)
		if err := compareFiles(db.ReaderAt(shim.Main), count, base, pages); err != nil {
			return err
		}
		again, err := db.WALState()
		if err != nil {
			return err
		}
		if again.Salt != ws.Salt {
			continue // frames of the new WAL may already be in the file, or not yet
		}
		r.dirty = dirty{known: true, pages: *pages, mark: markOf(ws)}
		return r.catchUp()
	}
	return errors.New("live's WAL is reset again and again by another program")
}

// compareFiles adds the pages in which a file of count pages differs from base,
// missing ones included.
func compareFiles(file io.ReaderAt, count uint32, base *base, pages *page.Set) error {
	const batch = 64
	mine, its := make([]byte, batch*page.Size), make([]byte, batch*page.Size)
	common := min(count, base.pageCount)
	for first := uint32(0); first < common; first += batch {
		n := int(min(batch, common-first)) * page.Size
		off := int64(first) * page.Size
		if err := readFull(file, mine[:n], off); err != nil {
			return err
		}
		if err := readFull(base.file, its[:n], off); err != nil {
			return err
		}
		if bytes.Equal(mine[:n], its[:n]) {
			continue
		}
		for i := 0; i < n; i += page.Size {
			if !bytes.Equal(mine[i:i+page.Size], its[i:i+page.Size]) {
				pages.Add(page.No(first) + 1 + page.No(i/page.Size))
			}
		}
	}
	if most := max(count, base.pageCount); most > common {
		pages.AddRange(page.No(common+1), page.No(most))
	}
	return nil
}

// readFull reads all of b; what lies behind the end of the file is zero.
func readFull(file io.ReaderAt, b []byte, off int64) error {
	n, err := file.ReadAt(b, off)
	if errors.Is(err, io.EOF) {
		clear(b[n:])
		return nil
	}
	if n == len(b) {
		return nil
	}
	return err
}

// noticeForeign compares the change counter with the account of our own commits.
// The caller holds the gate.
func (r *Replica) noticeForeign(ws shim.WALState) {
	if ws.Change != r.log.Expected() || r.log.Foreign() {
		r.compare = true
	}
}
