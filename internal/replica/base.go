package replica

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"

	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/page"
)

// base is app.db-base: the remote's pages at one revision, byte for byte. It is
// opened for the length of one operation.
type base struct {
	path      string
	file      *fault.File
	pageCount uint32
}

// openBase opens base for reading and writing; without a file it is empty.
func openBase(path string, pageCount uint32) (*base, error) {
	if pageCount == 0 {
		return &base{path: path}, nil
	}
	file, err := fault.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open base: %w", err)
	}
	return &base{path: path, file: file, pageCount: pageCount}, nil
}

func (b *base) close() error {
	if b.file == nil {
		return nil
	}
	return b.file.Close()
}

// readPage reads page no, which must not lie behind the last.
func (b *base) readPage(no page.No, image []byte) error {
	if no == 0 || uint32(no) > b.pageCount {
		return fmt.Errorf("read base: page %v is not one of %d", no, b.pageCount)
	}
	if _, err := b.file.ReadAt(image, no.Offset()); err != nil {
		return fmt.Errorf("read base: page %v: %w", no, err)
	}
	return nil
}

// pageSum is a page's part of sumPages: of the number and the content, spread
// over 64 bits so that parts can be added and taken away.
func pageSum(no page.No, image []byte) uint64 {
	x := uint64(no)<<32 | uint64(crc32.Checksum(image, castagnoli))
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// sum reads all of base and adds the sums of its pages.
func (b *base) sum() (uint64, error) {
	var sum uint64
	const batch = 64
	buf := make([]byte, batch*page.Size)
	for first := uint32(0); first < b.pageCount; first += batch {
		n := int(min(batch, b.pageCount-first)) * page.Size
		if _, err := b.file.ReadAt(buf[:n], int64(first)*page.Size); err != nil && !(errors.Is(err, io.EOF)) {
			return 0, fmt.Errorf("read base: %w", err)
		}
		for i := 0; i < n; i += page.Size {
			sum += pageSum(page.No(first)+1+page.No(i/page.Size), buf[i:i+page.Size])
		}
	}
	return sum, nil
}

// sumAfter returns the sum that base will have once d is applied, from the sum
// that it has.
func (b *base) sumAfter(sum uint64, d *delta) (uint64, error) {
	if d.whole {
		sum = 0
	}
	old := make([]byte, page.Size)
	err := d.each(func(no page.No, image []byte) error {
		if !d.whole && uint32(no) <= b.pageCount {
			if err := b.readPage(no, old); err != nil {
				return err
			}
			sum -= pageSum(no, old)
		}
		sum += pageSum(no, image)
		return nil
	})
	if err != nil {
		return 0, err
	}
	if d.whole {
		if d.count >= uint32(lockPage) && !d.pages.Has(lockPage) {
			sum += pageSum(lockPage, make([]byte, page.Size)) // a hole in the file
		}
		return sum, nil
	}
	for n := d.count + 1; n <= b.pageCount; n++ {
		if d.pages.Has(page.No(n)) {
			return 0, fmt.Errorf("delta has page %d behind the end", n)
		}
		if err := b.readPage(page.No(n), old); err != nil {
			return 0, err
		}
		sum -= pageSum(page.No(n), old)
	}
	if lock := uint32(lockPage); d.count >= lock && b.pageCount < lock && !d.pages.Has(lockPage) {
		sum += pageSum(lockPage, make([]byte, page.Size))
	}
	return sum, nil
}

// lockPage is never used by SQLite, and hence never sent: the bytes at 1 GiB are
// where its locks are (https://sqlite.org/fileformat2.html §1.4).
const lockPage = page.No(1<<30/page.Size + 1)

// write puts the pages of d into base, which then has d.count pages, and makes
// it durable. Doing it again after a crash in the middle is harmless.
func (b *base) write(d *delta) error {
	if b.file == nil {
		file, err := fault.OpenFile(b.path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return fmt.Errorf("write base: %w", err)
		}
		b.file = file
	}
	err := d.each(func(no page.No, image []byte) error {
		if err := fault.At("base.write"); err != nil {
			return err
		}
		_, err := b.file.WriteAt(image, no.Offset())
		return err
	})
	if err != nil {
		return fmt.Errorf("write base: %w", err)
	}
	if err := fault.At("base.truncate"); err != nil {
		return fmt.Errorf("write base: %w", err)
	}
	if err := b.file.Truncate(int64(d.count) * page.Size); err != nil {
		return fmt.Errorf("write base: %w", err)
	}
	if err := fault.At("base.sync"); err != nil {
		return fmt.Errorf("write base: %w", err)
	}
	if err := b.file.Sync(); err != nil {
		return fmt.Errorf("write base: %w", err)
	}
	b.pageCount = d.count
	return fault.At("base.synced")
}

// assemble makes the file of a whole new base from d, durable but under another
// name, and checks its structure.
func assemble(path string, d *delta) error {
	if err := removeDatabase(path); err != nil {
		return fmt.Errorf("assemble base: %w", err)
	}
	b := &base{path: path}
	defer b.close()
	if err := b.write(d); err != nil {
		return fmt.Errorf("assemble base: %w", err)
	}
	if d.count == 0 {
		return nil
	}
	c, err := openConn(path, "mode=ro&immutable=1")
	if err != nil {
		return fmt.Errorf("check new base: %w", err)
	}
	defer c.Close()
	if err := quickCheck(c); err != nil {
		if isDamage(err) {
			return badAnswer("the pages make no intact database: %v", err)
		}
		return fmt.Errorf("check new base: %w", err)
	}
	return nil
}

// installNext puts the assembled base in the place of the old one. A crash before
// the rename is durable leaves the delta to do it again.
func installNext(f files) error {
	if err := remove(f.next()+"-wal", f.next()+"-shm"); err != nil {
		return fmt.Errorf("replace base: %w", err)
	}
	if err := fault.At("base.rename"); err != nil {
		return fmt.Errorf("replace base: %w", err)
	}
	if err := fault.Rename(f.next(), f.base()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace base: %w", err)
	}
	if err := fault.At("base.renamed"); err != nil {
		return fmt.Errorf("replace base: %w", err)
	}
	return syncDir(f.base())
}
