package wal

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/tursosync/tursosync/internal/page"
)

// Writer writes a WAL from the start. It is for files nobody has open: it knows
// neither locks nor a wal-index.
type Writer struct {
	w    io.WriterAt
	at   Position
	s    sum
	sent bool // the header is written
}

// NewWriter returns a Writer of a WAL with that salt; checksums are over words of
// that byte order. The header is written with the first frame.
func NewWriter(w io.WriterAt, order binary.ByteOrder, salt [2]uint32) *Writer {
	return &Writer{w: w, at: Position{Salt: salt}, s: sum{order: order}}
}

// Append writes a frame with an image of page.Size bytes. A pageCount other than
// 0 commits: it becomes the size of the database in pages.
func (w *Writer) Append(no page.No, image []byte, pageCount uint32) error {
	if no == 0 || len(image) != page.Size {
		return fmt.Errorf("append page %v of %d bytes: %w", no, len(image), ErrPageSize)
	}
	if !w.sent {
		if err := w.writeHeader(); err != nil {
			return err
		}
	}
	b := make([]byte, FrameSize)
	binary.BigEndian.PutUint32(b, uint32(no))
	binary.BigEndian.PutUint32(b[4:], pageCount)
	putPair(b[8:], w.at.Salt)
	copy(b[FrameHeaderSize:], image)
	s := w.s
	s.add(b[:8])
	s.add(image)
	putPair(b[16:], s.words())
	if _, err := w.w.WriteAt(b, Size(w.at.Frame)); err != nil {
		return fmt.Errorf("append page %v: %w", no, err)
	}
	w.s = s
	w.at.Frame++
	w.at.Checksum = s.words()
	return nil
}

// Position returns the place behind the last frame.
func (w *Writer) Position() Position { return w.at }

func (w *Writer) writeHeader() error {
	b := make([]byte, HeaderSize)
	m := uint32(magic)
	if w.s.order == binary.BigEndian {
		m |= 1
	}
	binary.BigEndian.PutUint32(b, m)
	binary.BigEndian.PutUint32(b[4:], version)
	binary.BigEndian.PutUint32(b[8:], page.Size)
	binary.BigEndian.PutUint32(b[12:], 0) // checkpoint sequence number
	putPair(b[16:], w.at.Salt)
	s := w.s
	s.add(b[:24])
	putPair(b[24:], s.words())
	if _, err := w.w.WriteAt(b, 0); err != nil {
		return fmt.Errorf("write WAL header: %w", err)
	}
	w.s, w.sent = s, true
	return nil
}
