package replica

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"

	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/page"
)

// delta is app.db-pull: the pages of one answer of the remote (or of the several
// of a chunked bootstrap) on their way into base. Once it is sealed it is whole,
// and on disk for good.
//
//	header                                   record, one for each page
//	 0  "tspull1\n"                           0  page number
//	 8  id, 16 random bytes                   4  CRC-32C of id, page number, image
//	24  flags                                 8  image, 4096 bytes
//	28  page count of the database
//	32  length of the old revision           seal, behind the last record
//	36  length of the new revision            0  0
//	40  old revision, new revision            4  CRC-32C of id, records, "sealed"
//	 …  CRC-32C of all before                 8  number of records
//
// All integers are 32 bits, little-endian. Records are in the order of arrival, no
// page twice. A file that ends within a record was not finished; the records before
// count. The id keeps records of an earlier file, whose blocks the file system may
// have given to this one, from being taken for its own.
type delta struct {
	path     string
	file     *fault.File
	id       [16]byte
	whole    bool          // base is to be forgotten: all pages are here
	reset    bool          // the remote was found to be another database than before
	count    uint32        // pages of the database afterwards
	from, to page.Revision // of base, before and after

	head   int64 // length of the header
	pages  page.Set
	order  []uint32 // page numbers in file order, so that a page's record can be found
	sealed bool
	w      *bufio.Writer // nil when not writing
	synced chan struct{} // closed when syncing has ended, with lost; nil: it has not begun
	lost   error
}

const (
	deltaMagic   = "tspull1\n"
	deltaWhole   = 1
	deltaReset   = 2
	recordSize   = 8 + page.Size
	sealSize     = 12
	revisionMax  = 64 << 10
	headFixed    = 40
	deltaBuffer  = 256 << 10
	sealedMarker = "sealed"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// createDelta starts a new file, in place of whatever is there.
func createDelta(path string, d delta) (*delta, error) {
	if _, err := rand.Read(d.id[:]); err != nil {
		return nil, err
	}
	if err := fault.At("delta.create"); err != nil {
		return nil, fmt.Errorf("create delta: %w", err)
	}
	file, err := fault.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create delta: %w", err)
	}
	head := []byte(deltaMagic)
	head = append(head, d.id[:]...)
	var flags uint32
	if d.whole {
		flags |= deltaWhole
	}
	if d.reset {
		flags |= deltaReset
	}
	for _, n := range []uint32{flags, d.count, uint32(len(d.from)), uint32(len(d.to))} {
		head = binary.LittleEndian.AppendUint32(head, n)
	}
	head = append(append(head, d.from...), d.to...)
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(head, castagnoli))
	d.path, d.file, d.head = path, file, int64(len(head))
	d.w = bufio.NewWriterSize(file, deltaBuffer)
	if _, err := d.w.Write(head); err != nil {
		d.close()
		return nil, fmt.Errorf("create delta: %w", err)
	}
	return &d, nil
}

// openDelta reads the file that an earlier process, or call, left behind. Nil
// without error: there is none, or none that can be used.
func openDelta(path string) (*delta, error) {
	file, err := fault.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open delta: %w", err)
	}
	d := &delta{path: path, file: file}
	ok, err := d.read()
	if err != nil || !ok {
		d.close()
		if err != nil {
			return nil, fmt.Errorf("read delta: %w", err)
		}
		return nil, nil
	}
	return d, nil
}

// read checks the header and every record.
func (d *delta) read() (ok bool, err error) {
	in := bufio.NewReaderSize(d.file, deltaBuffer)
	head := make([]byte, headFixed)
	if _, err := io.ReadFull(in, head); err != nil {
		return false, endOf(err)
	}
	flags, count := binary.LittleEndian.Uint32(head[24:]), binary.LittleEndian.Uint32(head[28:])
	from, to := binary.LittleEndian.Uint32(head[32:]), binary.LittleEndian.Uint32(head[36:])
	if string(head[:8]) != deltaMagic || flags > deltaWhole|deltaReset || from > revisionMax || to > revisionMax {
		return false, nil
	}
	rest := make([]byte, from+to+4)
	if _, err := io.ReadFull(in, rest); err != nil {
		return false, endOf(err)
	}
	sum := crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, rest[:from+to])
	if sum != binary.LittleEndian.Uint32(rest[from+to:]) {
		return false, nil
	}
	copy(d.id[:], head[8:])
	d.whole, d.reset, d.count = flags&deltaWhole != 0, flags&deltaReset != 0, count
	d.from, d.to = page.Revision(rest[:from]), page.Revision(rest[from:from+to])
	d.head = int64(len(head) + len(rest))
	record := make([]byte, recordSize)
	for {
		if _, err := io.ReadFull(in, record[:8]); err != nil {
			return true, endOf(err)
		}
		no := page.No(binary.LittleEndian.Uint32(record))
		if no == 0 {
			seal := record[:sealSize]
			if _, err := io.ReadFull(in, seal[8:]); err != nil {
				return true, endOf(err)
			}
			n := binary.LittleEndian.Uint32(seal[8:])
			d.sealed = int(n) == len(d.order) && binary.LittleEndian.Uint32(seal[4:]) == d.sealSum()
			return true, nil
		}
		if _, err := io.ReadFull(in, record[8:]); err != nil {
			return true, endOf(err)
		}
		if binary.LittleEndian.Uint32(record[4:]) != d.recordSum(no, record[8:]) || d.pages.Has(no) {
			return true, nil
		}
		d.note(no)
	}
}

// endOf makes the end of the file a normal thing.
func endOf(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

func (d *delta) note(no page.No) {
	d.pages.Add(no)
	d.order = append(d.order, uint32(no))
}

func (d *delta) recordSum(no page.No, image []byte) uint32 {
	var b [20]byte
	copy(b[:], d.id[:])
	binary.LittleEndian.PutUint32(b[16:], uint32(no))
	return crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, image)
}

func (d *delta) sealSum() uint32 {
	var b [20]byte
	copy(b[:], d.id[:])
	binary.LittleEndian.PutUint32(b[16:], uint32(len(d.order)))
	return crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, []byte(sealedMarker))
}

// ID is the id in text form.
func (d *delta) ID() string { return hex.EncodeToString(d.id[:]) }

// end is the position behind the last record.
func (d *delta) end() int64 { return d.head + int64(len(d.order))*recordSize }

// resume goes on writing behind the records that are there.
func (d *delta) resume() error {
	if d.w != nil {
		return nil
	}
	if err := d.file.Truncate(d.end()); err != nil {
		return fmt.Errorf("resume delta: %w", err)
	}
	if _, err := d.file.Seek(d.end(), io.SeekStart); err != nil {
		return fmt.Errorf("resume delta: %w", err)
	}
	d.w = bufio.NewWriterSize(d.file, deltaBuffer)
	return nil
}

// add appends a page that is not there yet.
func (d *delta) add(no page.No, image []byte) error {
	if err := fault.At("delta.write"); err != nil {
		return fmt.Errorf("write delta: %w", err)
	}
	var b [8]byte
	binary.LittleEndian.PutUint32(b[:], uint32(no))
	binary.LittleEndian.PutUint32(b[4:], d.recordSum(no, image))
	if _, err := d.w.Write(b[:]); err != nil {
		return fmt.Errorf("write delta: %w", err)
	}
	if _, err := d.w.Write(image); err != nil {
		return fmt.Errorf("write delta: %w", err)
	}
	d.note(no)
	return nil
}

// flush hands what was added to the operating system, so that it survives the
// end of the process.
func (d *delta) flush() error {
	if d.w == nil {
		return nil
	}
	if err := d.w.Flush(); err != nil {
		return fmt.Errorf("write delta: %w", err)
	}
	return nil
}

// seal ends the file and begins to make it durable. From here on the pull can be
// finished without the remote.
func (d *delta) seal() error {
	var b [sealSize]byte
	binary.LittleEndian.PutUint32(b[4:], d.sealSum())
	binary.LittleEndian.PutUint32(b[8:], uint32(len(d.order)))
	if _, err := d.w.Write(b[:]); err != nil {
		return fmt.Errorf("seal delta: %w", err)
	}
	if err := d.flush(); err != nil {
		return err
	}
	if err := fault.At("delta.sync"); err != nil {
		return fmt.Errorf("seal delta: %w", err)
	}
	d.w, d.sealed = nil, true
	d.sync()
	return fault.At("delta.sealed")
}

// sync begins to make the file durable, which takes the disk longer than us the
// staging. durable tells the end of it.
func (d *delta) sync() {
	if d.synced != nil {
		return
	}
	d.synced = make(chan struct{})
	go func() {
		defer close(d.synced)
		if d.lost = d.file.Sync(); d.lost == nil {
			d.lost = syncDir(d.path)
		}
	}()
}

// durable waits until the file is on disk for good. Live must not be committed
// before: base follows from nothing but this file then. After an error the file is
// gone, because the next sync would claim success for what this one has lost.
func (d *delta) durable() error {
	d.sync()
	if <-d.synced; d.lost != nil {
		return errors.Join(fmt.Errorf("sync delta: %w", d.lost), remove(d.path))
	}
	return nil
}

// each hands the pages over in the order of arrival. The image is valid during
// the call.
func (d *delta) each(yield func(no page.No, image []byte) error) error {
	in := bufio.NewReaderSize(io.NewSectionReader(d.file, d.head, int64(len(d.order))*recordSize), deltaBuffer)
	record := make([]byte, recordSize)
	for _, want := range d.order {
		if _, err := io.ReadFull(in, record); err != nil {
			return fmt.Errorf("read delta: %w", err)
		}
		no := page.No(binary.LittleEndian.Uint32(record))
		if uint32(no) != want || binary.LittleEndian.Uint32(record[4:]) != d.recordSum(no, record[8:]) {
			return d.damaged(want)
		}
		if err := yield(no, record[8:]); err != nil {
			return err
		}
	}
	return nil
}

// damaged says that a record is not what was written, and why if that is known.
// The file is of no use any more.
func (d *delta) damaged(no uint32) error {
	err := fmt.Errorf("read delta: record of page %d is damaged", no)
	if d.synced == nil {
		return err
	}
	return errors.Join(err, d.durable())
}

// page1 returns the image of page 1, nil if the delta has none.
func (d *delta) page1() ([]byte, error) {
	for i, no := range d.order {
		if no == 1 {
			image := make([]byte, page.Size)
			if _, err := d.file.ReadAt(image, d.head+int64(i)*recordSize+8); err != nil {
				return nil, fmt.Errorf("read delta: %w", err)
			}
			return image, nil
		}
	}
	return nil, nil
}

func (d *delta) close() {
	if d.synced != nil {
		<-d.synced
	}
	_ = d.file.Close() // read only, or given up
}

// drop closes and deletes the file. A crash may bring it back; its id tells then
// that it is done with.
func (d *delta) drop() error {
	d.close()
	if err := fault.At("delta.drop"); err != nil {
		return fmt.Errorf("drop delta: %w", err)
	}
	if err := remove(d.path); err != nil {
		return fmt.Errorf("drop delta: %w", err)
	}
	return nil
}
