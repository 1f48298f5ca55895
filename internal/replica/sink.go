package replica

import (
	"encoding/binary"
	"errors"

	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/syncer"
)

// sink takes one answer of the remote into a delta.
type sink struct {
	r    *Replica
	from page.Revision // of base
	have uint32        // pages in base

	d        *delta // nil until the first page: an answer without news costs no file
	onCreate func() // called when d is about to be created
	whole    bool   // everything was asked for
	reset    bool   // the remote was found to be another than before
	ended    bool   // sealed: not to be given up

	// of a chunked bootstrap
	pinned page.Revision // the revision asked for; empty: the newest
	asked  page.Set      // the pages asked for
	done   func()        // called for each page

	opened bool
	header syncer.PullHeader
	here   page.Set // pages of this answer
}

// Header takes the head of the answer.
func (s *sink) Header(h syncer.PullHeader) error {
	if s.opened {
		return badAnswer("it has two headers")
	}
	if h.PageCount > 1<<32-2 {
		return badAnswer("%d pages are more than SQLite can have", h.PageCount)
	}
	if len(h.Revision) > revisionMax {
		return badAnswer("its revision has %d bytes", len(h.Revision))
	}
	s.opened, s.header = true, h
	if s.pinned != "" {
		if h.Revision != "" && h.Revision != s.pinned {
			return errMoved
		}
		return nil
	}
	st := s.r.state()
	if st.adopt != "" && s.r.cfg.Existing == ExistingAuto && h.PageCount > emptyPages {
		return &FileError{Path: s.r.files.live, Err: ErrNotReplica}
	}
	return nil
}

// errMoved: the remote does not answer as of the revision that was asked for.
var errMoved = errors.New("the remote does not know the revision any more")

// Page takes a page of the answer.
func (s *sink) Page(no page.No, image []byte) error {
	if !s.opened {
		return badAnswer("a page comes before the header")
	}
	if len(image) != page.Size {
		return badAnswer("page %v has %d bytes", no, len(image))
	}
	if s.d == nil {
		if err := s.create(); err != nil {
			return err
		}
	}
	if no == 0 || uint32(no) > s.d.count {
		if s.pinned != "" && no > 0 {
			return nil // the database has grown since
		}
		return badAnswer("page %v is not one of %d", no, s.d.count)
	}
	if s.here.Has(no) {
		return badAnswer("page %v comes twice", no)
	}
	s.here.Add(no)
	if s.d.pages.Has(no) {
		return nil // came in an earlier chunk, of the same revision
	}
	if no == 1 {
		if err := checkFirst(image, s.d.count); err != nil {
			return err
		}
	}
	if err := s.d.add(no, image); err != nil {
		return err
	}
	if s.done != nil {
		s.done()
	}
	return nil
}

func (s *sink) create() (err error) {
	if s.onCreate != nil {
		s.onCreate()
		s.onCreate = nil
	}
	s.whole = s.whole || s.header.ReplaceBase || s.have == 0
	s.d, err = createDelta(s.r.files.pull(), delta{
		whole: s.whole, reset: s.reset, count: uint32(s.header.PageCount), from: s.from, to: s.header.Revision,
	})
	return err
}

// finish checks that nothing is missing and seals the delta.
func (s *sink) finish() (*delta, error) {
	if missing, no := s.d.lacks(s.have); missing {
		return nil, badAnswer("page %v is missing", no)
	}
	if !s.d.whole && s.d.count != s.have {
		// Page 1 says how large the database is; an old one must not contradict.
		if err := s.d.flush(); err != nil {
			return nil, err
		}
		first, err := s.r.firstPage(s.d)
		if err != nil {
			return nil, err
		}
		if err := checkFirst(first, s.d.count); err != nil {
			return nil, err
		}
	}
	if err := s.d.seal(); err != nil {
		return nil, err
	}
	s.ended = true
	return s.d, nil
}

// giveUp removes the delta of an answer that came to nothing. One that a
// bootstrap can go on with stays.
func (s *sink) giveUp() {
	if s.d == nil || s.ended {
		return
	}
	if err := s.d.drop(); err != nil {
		s.r.cfg.Logger.Debug("drop delta", keyError, err) // the next pull writes over it
	}
}

// lacks returns the first page that has to be in the delta and is not: all of
// them in a whole one, those by which the database has grown in any.
func (d *delta) lacks(have uint32) (bool, page.No) {
	from := page.No(have + 1)
	if d.whole {
		from = 1
	}
	for no := from; uint32(no) <= d.count && no != 0; no++ {
		if no != lockPage && !d.pages.Has(no) {
			return true, no
		}
	}
	return false, 0
}

// firstPage returns page 1 as it will be.
func (r *Replica) firstPage(d *delta) ([]byte, error) {
	image, err := d.page1()
	if err != nil || image != nil {
		return image, err
	}
	b, err := openBase(r.files.base(), r.state().basePages)
	if err != nil {
		return nil, err
	}
	defer b.close()
	image = make([]byte, page.Size)
	return image, b.readPage(1, image)
}

// checkFirst looks at what page 1 says of the database.
func checkFirst(image []byte, count uint32) error {
	be := binary.BigEndian
	switch {
	case string(image[:16]) != "SQLite format 3\x00":
		return badAnswer("page 1 is not that of an SQLite database")
	case image[offWrite] == 0xff || image[offRead] == 0xff:
		return unsupported("it is an MVCC database")
	case image[offReserved] != 0:
		return unsupported("its pages have %d reserved bytes: it is encrypted", image[offReserved])
	case be.Uint16(image[offPageSize:]) != page.Size:
		return badAnswer("page 1 names a page size of %d", be.Uint16(image[offPageSize:]))
	case image[offWrite] < 1 || image[offWrite] > 2 || image[offRead] < 1 || image[offRead] > 2:
		return unsupported("its file format is %d,%d", image[offWrite], image[offRead])
	case string(image[offFractions:offFractions+3]) != "\x40\x20\x20":
		return badAnswer("page 1 is damaged")
	case be.Uint32(image[offSchema:]) > 4:
		return badAnswer("page 1 names schema format %d", be.Uint32(image[offSchema:]))
	}
	if encoding := be.Uint32(image[offEncoding:]); encoding > 1 {
		return unsupported("its text encoding is UTF-16")
	}
	// SQLite trusts the size in page 1 only if these two are equal; tursodb's never are.
	if size := be.Uint32(image[offPageCount:]); be.Uint32(image[offChange:]) == be.Uint32(image[offValidFor:]) && size != 0 && size != count {
		return badAnswer("page 1 says %d pages, the header %d", size, count)
	}
	return nil
}
