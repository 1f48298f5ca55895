// Package wal reads SQLite's write-ahead logs, in pure Go, and writes small ones.
//
// The format (https://sqlite.org/fileformat2.html, chapter 4; all integers big-endian):
//
//	header, 32 bytes                        frame header, 24 bytes, before each page
//	 0  magic 377f0682 or 377f0683           0  page number
//	 4  version 3007000                      4  page count after the commit; 0: no commit here
//	 8  page size                            8  salt, as in the header
//	12  checkpoint sequence number          16  checksum
//	16  salt, two words
//	24  checksum of the 24 bytes before
//
// The checksum runs on from the header over the first 8 bytes and the page of
// every frame. Its input words are big-endian if the magic is odd. A frame
// counts if its salt is the header's, its checksum is right, all frames before
// it count, and it is or is followed by a commit frame that counts. What comes
// after is left from earlier use of the file, or from a writer that never
// committed.
package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/tursosync/tursosync/internal/page"
)

// Sizes in bytes.
const (
	HeaderSize      = 32
	FrameHeaderSize = 24
	FrameSize       = FrameHeaderSize + page.Size
)

const (
	magic   = 0x377f0682
	version = 3007000
)

// Conditions of Scan.
var (
	// ErrVersion: the WAL is valid, of a format version not known here.
	ErrVersion = errors.New("unknown WAL version")
	// ErrPageSize: the WAL is valid, of a database with other than page.Size pages.
	ErrPageSize = errors.New("the WAL's page size is not supported")
	// ErrReset: the position is not one of this WAL; it started over since.
	ErrReset = errors.New("the WAL was reset")
)

// Size returns the size of a WAL of so many frames.
func Size(frames uint32) int64 { return HeaderSize + int64(frames)*FrameSize }

// Position is a place in a WAL behind some frame. It names the contents before
// it too: the salt changes when the WAL starts over, the checksum covers all
// frames. The zero Position is the start of any WAL.
type Position struct {
	Frame    uint32 // last frame before the position; the first frame is 1
	Salt     [2]uint32
	Checksum [2]uint32 // running checksum at Frame
}

// sum is the running checksum of a WAL.
type sum struct {
	order  binary.ByteOrder
	s1, s2 uint32
}

// add goes on over b, whose length is a multiple of 8.
func (s *sum) add(b []byte) {
	s1, s2 := s.s1, s.s2
	if s.order == binary.LittleEndian { // spelled out, so that the compiler inlines the loads
		for ; len(b) >= 8; b = b[8:] {
			s1 += binary.LittleEndian.Uint32(b) + s2
			s2 += binary.LittleEndian.Uint32(b[4:]) + s1
		}
	} else {
		for ; len(b) >= 8; b = b[8:] {
			s1 += binary.BigEndian.Uint32(b) + s2
			s2 += binary.BigEndian.Uint32(b[4:]) + s1
		}
	}
	s.s1, s.s2 = s1, s2
}

func (s *sum) words() [2]uint32 { return [2]uint32{s.s1, s.s2} }

// pair decodes two words.
func pair(b []byte) [2]uint32 {
	return [2]uint32{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])}
}

// putPair encodes two words.
func putPair(b []byte, p [2]uint32) {
	binary.BigEndian.PutUint32(b, p[0])
	binary.BigEndian.PutUint32(b[4:], p[1])
}

// Index tells what the committed frames of a WAL hold.
type Index struct {
	// End is the place behind the last committed frame.
	End Position
	// PageCount is the size of the database in pages at End; 0 when no commit
	// was scanned.
	PageCount uint32

	r     io.ReaderAt
	frame map[page.No]uint32 // last committed frame of each page
}

// Scan reads a WAL of size bytes and returns the index of its committed frames.
// Like SQLite it takes a file that is no WAL, or whose header is damaged, as an
// empty one. Reading stops at the first frame that does not count, so it is safe
// beside a writer. Errors are those of r, ErrVersion and ErrPageSize.
//
// Memory use grows with the number of pages in the WAL, not with their size.
func Scan(r io.ReaderAt, size int64) (*Index, error) { return ScanFrom(r, size, Position{}) }

// ScanFrom is Scan for the frames behind a position that an earlier scan, or
// the wal-index, ended at. It returns ErrReset when the WAL started over since, or
// lost frames in a crash.
func ScanFrom(r io.ReaderAt, size int64, from Position) (*Index, error) {
	x := &Index{End: from, r: r, frame: map[page.No]uint32{}}
	start, order, err := readHeader(r, size)
	if err != nil {
		return nil, fmt.Errorf("scan WAL: %w", err)
	}
	if order == nil { // no WAL
		if from.Frame > 0 {
			return nil, fmt.Errorf("scan WAL: %w", ErrReset)
		}
		return x, nil
	}
	if from.Frame == 0 {
		x.End = start
	} else if err := verify(r, size, start.Salt, from); err != nil {
		return nil, fmt.Errorf("scan WAL: %w", err)
	}
	if err := x.scanFrames(size, order); err != nil {
		return nil, fmt.Errorf("scan WAL: %w", err)
	}
	return x, nil
}

// readHeader returns the position of the first frame and the byte order of
// checksums, nil if there is no valid header.
func readHeader(r io.ReaderAt, size int64) (Position, binary.ByteOrder, error) {
	var b [HeaderSize]byte
	if size < HeaderSize {
		return Position{}, nil, nil
	}
	if n, err := r.ReadAt(b[:], 0); n < len(b) {
		if err == io.EOF {
			return Position{}, nil, nil
		}
		return Position{}, nil, err
	}
	s := sum{order: binary.LittleEndian}
	switch binary.BigEndian.Uint32(b[:]) {
	case magic:
	case magic | 1:
		s.order = binary.BigEndian
	default:
		return Position{}, nil, nil
	}
	s.add(b[:24])
	if s.words() != pair(b[24:]) {
		return Position{}, nil, nil
	}
	if v := binary.BigEndian.Uint32(b[4:]); v != version {
		return Position{}, nil, fmt.Errorf("version %d: %w", v, ErrVersion)
	}
	if n := binary.BigEndian.Uint32(b[8:]); n != page.Size {
		return Position{}, nil, fmt.Errorf("page size %d: %w", n, ErrPageSize)
	}
	return Position{Salt: pair(b[16:]), Checksum: s.words()}, s.order, nil
}

// verify requires that the frame before from is the one it was. The salt alone
// does not say so: a crash may have taken frames that were then written anew.
func verify(r io.ReaderAt, size int64, salt [2]uint32, from Position) error {
	if salt != from.Salt || size < Size(from.Frame) {
		return ErrReset
	}
	var b [FrameHeaderSize]byte
	if n, err := r.ReadAt(b[:], Size(from.Frame-1)); n < len(b) {
		if err == io.EOF {
			return ErrReset
		}
		return err
	}
	if pair(b[8:]) != salt || pair(b[16:]) != from.Checksum {
		return ErrReset
	}
	return nil
}

// batch is how many frames are read at once.
const batch = 64

// scanFrames goes on from x.End.
func (x *Index) scanFrames(size int64, order binary.ByteOrder) error {
	type entry struct {
		no    page.No
		frame uint32
	}
	var open []entry // frames since the last commit frame
	s := sum{order: order, s1: x.End.Checksum[0], s2: x.End.Checksum[1]}
	buf := make([]byte, batch*FrameSize)
	for at := x.End.Frame; ; {
		want := int64(len(buf))
		if left := size - Size(at); left < FrameSize {
			return nil
		} else if left < want {
			want = left - left%FrameSize
		}
		n, err := x.r.ReadAt(buf[:want], Size(at))
		if n < FrameSize {
			if err == io.EOF {
				return nil // the file is shorter than size
			}
			return err
		}
		for b := buf[:n-n%FrameSize]; len(b) > 0; b = b[FrameSize:] {
			no := page.No(binary.BigEndian.Uint32(b))
			if no == 0 || pair(b[8:]) != x.End.Salt {
				return nil
			}
			s.add(b[:8])
			s.add(b[FrameHeaderSize:FrameSize])
			if s.words() != pair(b[16:]) {
				return nil
			}
			at++
			open = append(open, entry{no, at})
			if count := binary.BigEndian.Uint32(b[4:]); count != 0 {
				for _, e := range open {
					x.frame[e.no] = e.frame
				}
				open = open[:0]
				x.PageCount = count
				x.End.Frame, x.End.Checksum = at, s.words()
			}
		}
	}
}

// Pages returns the pages that the scanned frames hold and that are part of the
// database at End: pages cut off by a later commit are not among them.
func (x *Index) Pages() *page.Set {
	s := new(page.Set)
	for no := range x.frame {
		if uint32(no) <= x.PageCount {
			s.Add(no)
		}
	}
	return s
}

// Frame returns the last committed frame that holds page no.
func (x *Index) Frame(no page.No) (uint32, bool) {
	f, ok := x.frame[no]
	return f, ok && uint32(no) <= x.PageCount
}

// ErrNoPage: the WAL holds no image of the page.
var ErrNoPage = errors.New("page is not in the WAL")

// ReadPage reads the last committed image of a page, page.Size bytes, into b. It
// is for a WAL that nobody resets in the meantime: the checksum is not verified again.
func (x *Index) ReadPage(no page.No, b []byte) error {
	f, ok := x.Frame(no)
	if !ok {
		return fmt.Errorf("read page %v: %w", no, ErrNoPage)
	}
	if len(b) != page.Size {
		return fmt.Errorf("read page %v: buffer of %d bytes: %w", no, len(b), ErrPageSize)
	}
	if n, err := x.r.ReadAt(b, Size(f)-page.Size); n < len(b) {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read page %v of the WAL: %w", no, err)
	}
	return nil
}
