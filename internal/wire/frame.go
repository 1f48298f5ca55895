package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// The answer to a pull is a run of length-delimited messages:
//
//	length  varint, 1 to 9 bytes
//	message that many bytes
//
// without trailer or count (PROTOCOL.md §2.2). So an end between two messages
// is not recognisable as a cut: whoever reads must know from HTTP that the body
// was whole.

// ErrTooLong is returned for a message longer than the reader's limit.
var ErrTooLong = errors.New("message longer than allowed")

// ErrLength is returned where no length can be read.
var ErrLength = errors.New("message length")

// maxLengthBytes is what the official client reads of a length.
const maxLengthBytes = 9

// FrameReader reads length-delimited messages.
type FrameReader struct {
	r   *bufio.Reader
	buf []byte
}

// NewFrameReader returns a reader of the messages in r.
func NewFrameReader(r io.Reader) *FrameReader {
	return &FrameReader{r: bufio.NewReaderSize(r, 32<<10)}
}

// Next returns the next message, valid until the following call, of at most
// limit bytes. At the end between two messages the error is io.EOF, inside a
// message io.ErrUnexpectedEOF.
func (f *FrameReader) Next(limit int) ([]byte, error) {
	n, err := f.length()
	if err != nil {
		return nil, err
	}
	if n > uint64(limit) {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLong, n, limit)
	}
	if uint64(cap(f.buf)) < n {
		f.buf = make([]byte, n)
	}
	b := f.buf[:n]
	if _, err := io.ReadFull(f.r, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b, nil
}

func (f *FrameReader) length() (uint64, error) {
	var b [maxLengthBytes]byte
	for i := range b {
		c, err := f.r.ReadByte()
		if err != nil {
			if i > 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		b[i] = c
		if c < 0x80 {
			n, _ := protowire.ConsumeVarint(b[:i+1])
			return n, nil
		}
	}
	return 0, fmt.Errorf("%w of more than %d bytes", ErrLength, maxLengthBytes)
}

// AppendFrame appends a message with its length in front.
func AppendFrame(b, message []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(message)))
	return append(b, message...)
}
