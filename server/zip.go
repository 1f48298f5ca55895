package server

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"hash/crc32"
	"io"
	"runtime"
	"time"
)

// zipper writes gzip (RFC 1952), and compresses while that is worth it: when the
// network takes the bytes faster than they are compressed, most go as they are, in
// stored blocks (RFC 1951, 3.2.4). It finds out by the time that both take. The
// beginning is compressed in any case: the network's buffers are empty then, and
// take it at once however slow the rest of the way is.
type zipper struct {
	w      io.Writer
	z      *flate.Writer // into packed
	packed bytes.Buffer
	now    func() time.Time

	sum, size uint32
	begun     bool
	storing   bool
	left      int           // pieces to be stored before compressing is tried again
	pace      time.Duration // how long it took to compress the last piece
}

const (
	zipAlways = 1 << 20  // bytes that are compressed at first
	zipPiece  = 32 << 10 // bytes that are compressed or stored at a time; a stored block holds less than 64 KB
	zipStored = 64       // pieces until the next try
)

func (k *zipper) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		piece := p[:min(len(p), zipPiece)]
		if err := k.piece(piece); err != nil {
			return n, err
		}
		n += len(piece)
		p = p[len(piece):]
	}
	return n, nil
}

func (k *zipper) piece(p []byte) error {
	if err := k.begin(); err != nil {
		return err
	}
	k.sum = crc32.Update(k.sum, crc32.IEEETable, p)
	k.size += uint32(len(p))
	if k.left > 0 {
		return k.store(p)
	}
	start := k.now()
	if k.storing { // what was compressed before is too far away to be pointed at
		k.z.Reset(&k.packed)
		k.storing = false
	}
	_, err := k.z.Write(p)
	if err == nil {
		err = k.z.Flush() // up to a whole byte
	}
	if err != nil {
		return err
	}
	k.pace = k.now().Sub(start)
	took, err := k.send()
	if k.size > zipAlways && took < k.pace/4 {
		k.left = zipStored
	}
	return err
}

// send sends what is packed and returns how long that took.
func (k *zipper) send() (time.Duration, error) {
	start := k.now()
	_, err := k.w.Write(k.packed.Bytes())
	k.packed.Reset()
	return k.now().Sub(start), err
}

// store sends a piece as it is.
func (k *zipper) store(p []byte) error {
	k.storing = true
	k.left--
	k.packed.WriteByte(0)
	k.packed.Write(binary.LittleEndian.AppendUint16(nil, uint16(len(p))))
	k.packed.Write(binary.LittleEndian.AppendUint16(nil, ^uint16(len(p))))
	k.packed.Write(p)
	took, err := k.send()
	if took > k.pace {
		k.left = 0 // the buffers are full: it is slow after all
	}
	return err
}

func (k *zipper) begin() error {
	if k.begun {
		return nil
	}
	k.begun = true
	_, err := k.w.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff}) // fastest, of no particular system
	return err
}

// Close ends the stream.
func (k *zipper) Close() error {
	if err := k.begin(); err != nil {
		return err
	}
	if err := k.z.Close(); err != nil { // an empty last block
		return err
	}
	k.packed.Write(binary.LittleEndian.AppendUint32(nil, k.sum))
	k.packed.Write(binary.LittleEndian.AppendUint32(nil, k.size))
	_, err := k.send()
	return err
}

// zippers are those of the process, nil where none was needed yet; there are no
// more. Compressing takes ten times as long as reading a page: where many pull at
// the same time, the processor would be what all of them wait for. Those that find
// none get their pages as they are.
var zippers = func() chan *zipper {
	n := 2 * runtime.GOMAXPROCS(0)
	all := make(chan *zipper, n)
	for range n {
		all <- nil
	}
	return all
}()

// borrowZipper returns one that writes to w, or nil. It is to be given back.
func borrowZipper(w io.Writer) *zipper {
	select {
	case k := <-zippers:
		return k.reset(w)
	default:
		return nil
	}
}

// reset makes k, or a new one, ready for another stream.
func (k *zipper) reset(w io.Writer) *zipper {
	if k == nil {
		k = &zipper{}
		k.z, _ = flate.NewWriter(nil, flate.BestSpeed) // there is such a level
	}
	*k = zipper{w: w, z: k.z, packed: k.packed, now: time.Now}
	k.packed.Reset()
	k.z.Reset(&k.packed)
	return k
}

func giveBack(k *zipper) {
	k.w = nil // lets go of the answer
	zippers <- k
}
