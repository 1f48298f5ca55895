package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/page"
)

// pins are the revisions that clients hold on to, and the images of their pages
// that a checkpoint has written over: what NAME.db-pins holds.
//
// The official client can take a part of a database and load the rest page by page,
// when it is read. For those pages it asks as of the revision of its first pull, for
// ever (PROTOCOL.md §7): what has changed since comes with its pulls. So the first
// answer of a part pins its revision. Before a checkpoint moves the WAL into the
// file, the images that a pinned revision has and the newest state has not are
// copied to the end of NAME.db-pins; one copy serves all pins between the commits
// that made and replaced it. A pin ends when nobody asked for it for a while, or
// when the file is too large: those not used for longest first.
//
// Like the record of the history, the file is a hint. What it lacks is refused; it
// is given up as a whole when somebody else's checkpoint may have moved images that
// nobody kept.
//
//	"tspins1\n" and then records of 64 bytes, those of images followed by the image:
//	kind u8 · 3 zeros · page u32 · a u64 · b u64 · era 8 bytes · tag u32 · count u32
//	first 8 bytes of the image's SHA-256 · 8 zeros · 4 zeros · CRC-32C of what is before u32
//
//	'p'  pin of the commit a, of a database of count pages, last used at Unix time b
//	'd'  the pin of the commit a has ended
//	'i'  image of a page, right for pins of commits from a up to, but without, b
//	's'  images are complete up to the commit a
//	'm'  the database's file holds no commit behind a as long as its time of
//	     modification is b; its size is where eras are
//
// All integers are big-endian.
type pins struct {
	file string
	sync bool
	most int64         // bytes of images
	last time.Duration // how long a pin lives without being used

	f    *fault.File // nil: there is no file
	end  int64       // where it ends
	dead int64       // bytes of images that no pin needs
	list []pin       // by seq
	kept map[page.No][]kept
	// complete is the commit up to which every image that a pin needs, and the newest
	// state has not, is kept.
	complete uint64
	// Up to which commit frames of the WAL were moved into the database's file, and how
	// that looked then. See record.
	moved uint64
	mark  fileMark
}

type pin struct {
	era   [8]byte
	seq   uint64
	tag   tag
	count uint32 // pages at that revision
	used  time.Time
	noted time.Time // what the file says of used
}

// name is the revision without its tag.
func (p pin) name() string { return hex.EncodeToString(p.era[:]) + "-" + strconv.FormatUint(p.seq, 10) }

func (p pin) revision() string { return p.name() + "-" + strconv.FormatUint(uint64(p.tag), 16) }

// kept is where an image lies that is right for the pins of commits from lo up to,
// but without, hi.
type kept struct {
	lo, hi uint64
	at     int64
}

const (
	pinsSuffix = "-pins"
	pinsMagic  = "tspins1\n"
	pinsHead   = 64
	// pinNoted is how stale the file may be about the use of a pin.
	pinNoted = time.Hour
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	errPins    = errors.New("a kept page is damaged")
)

func newPins(cfg Config) *pins {
	return &pins{file: cfg.File + pinsSuffix, sync: !cfg.NoSync, most: cfg.PinnedBytes, last: cfg.PinnedFor, kept: map[page.No][]kept{}}
}

// load takes up what the file holds, as far as known recognises its revisions, if
// images are complete up to the commit at which the present WAL begins.
func (p *pins) load(known func(revision string) bool, start uint64) error {
	f, err := fault.OpenFile(p.file, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open pins: %w", err)
	}
	p.f = f
	magic := make([]byte, len(pinsMagic))
	if _, err := f.ReadAt(magic, 0); err != nil || string(magic) != pinsMagic {
		return p.clear()
	}
	found := map[uint64]pin{}
	p.end = int64(len(magic))
	for {
		r, ok := p.head(p.end)
		if !ok {
			break // the end, or what a crash cut off
		}
		switch r.kind {
		case 'p':
			used := time.Unix(int64(r.b), 0)
			found[r.a] = pin{era: r.era, seq: r.a, tag: r.tag, count: r.count, used: used, noted: used}
		case 'd':
			delete(found, r.a)
		case 's':
			p.complete = r.a
		case 'm':
			p.moved, p.mark = r.a, fileMark{size: int64(binary.BigEndian.Uint64(r.era[:])), modified: int64(r.b)}
		case 'i':
			p.kept[r.no] = append(p.kept[r.no], kept{lo: r.a, hi: r.b, at: p.end})
			p.end += page.Size
		}
		p.end += pinsHead
	}
	for _, x := range found {
		if known(x.revision()) {
			p.list = append(p.list, x)
		}
	}
	if p.complete < start || len(p.list) == 0 {
		return p.clear()
	}
	if err := f.Truncate(p.end); err != nil {
		return fmt.Errorf("cut off what is torn of the pins: %w", err)
	}
	sort.Slice(p.list, func(i, j int) bool { return p.list[i].seq < p.list[j].seq })
	p.forget()
	return nil
}

// pinsRecord is a record's head.
type pinsRecord struct {
	kind  byte
	no    page.No
	a, b  uint64
	era   [8]byte
	tag   tag
	count uint32
	sum   [8]byte
}

func (r pinsRecord) encode() []byte {
	be := binary.BigEndian
	b := make([]byte, pinsHead)
	b[0] = r.kind
	be.PutUint32(b[4:], uint32(r.no))
	be.PutUint64(b[8:], r.a)
	be.PutUint64(b[16:], r.b)
	copy(b[24:], r.era[:])
	be.PutUint32(b[32:], uint32(r.tag))
	be.PutUint32(b[36:], r.count)
	copy(b[40:], r.sum[:])
	be.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

// head reads the record at a place.
func (p *pins) head(at int64) (r pinsRecord, ok bool) {
	if p.f == nil {
		return r, false
	}
	be := binary.BigEndian
	b := make([]byte, pinsHead)
	if _, err := p.f.ReadAt(b, at); err != nil || be.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli) {
		return r, false
	}
	r = pinsRecord{kind: b[0], no: page.No(be.Uint32(b[4:])), a: be.Uint64(b[8:]), b: be.Uint64(b[16:]),
		era: [8]byte(b[24:]), tag: tag(be.Uint32(b[32:])), count: be.Uint32(b[36:]), sum: [8]byte(b[40:])}
	return r, true
}

// read reads the image of a record.
func (p *pins) read(at int64, image []byte) error {
	r, ok := p.head(at)
	if !ok || r.kind != 'i' {
		return errPins
	}
	if _, err := p.f.ReadAt(image, at+pinsHead); err != nil {
		return fmt.Errorf("read kept page: %w", err)
	}
	if sum := sha256.Sum256(image); !bytes.Equal(sum[:8], r.sum[:]) {
		return errPins
	}
	return nil
}

// append writes records behind the others.
func (p *pins) append(b []byte) error {
	if p.f == nil {
		f, err := fault.OpenFile(p.file, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
		if err != nil {
			return fmt.Errorf("create pins: %w", err)
		}
		p.f, p.end = f, 0
		b = append([]byte(pinsMagic), b...)
	}
	if err := fault.At("pins.write"); err != nil {
		return fmt.Errorf("write pins: %w", err)
	}
	if _, err := p.f.WriteAt(b, p.end); err != nil {
		return fmt.Errorf("write pins: %w", err)
	}
	p.end += int64(len(b))
	return nil
}

// add pins a revision, the newest of a state that no checkpoint has moved since.
func (p *pins) add(x pin) error {
	var b []byte
	if len(p.list) == 0 {
		p.complete = x.seq // what came before is of no use to anybody
		b = pinsRecord{kind: 's', a: x.seq}.encode()
	}
	if x.seq < p.complete {
		return nil
	}
	i := sort.Search(len(p.list), func(i int) bool { return p.list[i].seq >= x.seq })
	if i < len(p.list) && p.list[i].seq == x.seq {
		return p.touch(&p.list[i], x.used)
	}
	x.noted = x.used
	p.list = slices.Insert(p.list, i, x)
	return p.append(append(b, x.record()...))
}

func (p pin) record() []byte {
	return pinsRecord{kind: 'p', a: p.seq, b: uint64(p.used.Unix()), era: p.era, tag: p.tag, count: p.count}.encode()
}

func (p *pins) markRecord() []byte {
	r := pinsRecord{kind: 'm', a: p.moved, b: uint64(p.mark.modified)}
	binary.BigEndian.PutUint64(r.era[:], uint64(p.mark.size))
	return r.encode()
}

// touch notes that a pin is in use.
func (p *pins) touch(x *pin, now time.Time) error {
	x.used = now
	if now.Sub(x.noted) < pinNoted {
		return nil
	}
	x.noted = now
	return p.append(x.record())
}

// of returns the pin of a commit; nil: there is none.
func (p *pins) of(seq uint64) *pin {
	i := sort.Search(len(p.list), func(i int) bool { return p.list[i].seq >= seq })
	if i < len(p.list) && p.list[i].seq == seq {
		return &p.list[i]
	}
	return nil
}

// find returns where a page's image at a commit is kept; 0: nowhere.
func (p *pins) find(no page.No, seq uint64) int64 {
	for _, k := range p.kept[no] {
		if k.lo <= seq && seq < k.hi {
			return k.at
		}
	}
	return 0
}

// needed tells whether a pin needs an image.
func (p *pins) needed(k kept) bool {
	i := sort.Search(len(p.list), func(i int) bool { return p.list[i].seq >= k.lo })
	return i < len(p.list) && p.list[i].seq < k.hi
}

// forget gives up the images that no pin needs. They stay in the file until it is
// written anew.
func (p *pins) forget() {
	for no, list := range p.kept {
		rest := slices.DeleteFunc(list, func(k kept) bool { return !p.needed(k) })
		p.dead += int64(len(list)-len(rest)) * (pinsHead + page.Size)
		if p.kept[no] = rest; len(rest) == 0 {
			delete(p.kept, no)
		}
	}
}

// drop ends pins. What they alone needed is given up.
func (p *pins) drop(ends func(pin) bool) error {
	var b []byte
	p.list = slices.DeleteFunc(p.list, func(x pin) bool {
		if ends(x) {
			b = append(b, pinsRecord{kind: 'd', a: x.seq}.encode()...)
			return true
		}
		return false
	})
	if len(b) == 0 {
		return nil
	}
	p.forget()
	return p.append(b)
}

// evict ends the pin that was not used for longest.
func (p *pins) evict() error {
	oldest := slices.MinFunc(p.list, func(a, b pin) int { return a.used.Compare(b.used) })
	return p.drop(func(x pin) bool { return x.seq == oldest.seq })
}

// size is how many bytes the images take that are needed.
func (p *pins) size() (n int64) {
	for _, list := range p.kept {
		n += int64(len(list)) * (pinsHead + page.Size)
	}
	return n
}

// clear ends all pins.
func (p *pins) clear() error {
	p.list, p.kept, p.dead, p.complete, p.moved, p.mark = nil, map[page.No][]kept{}, 0, 0, 0, fileMark{}
	err := fault.At("pins.remove")
	if err == nil {
		err = fault.Remove(p.file)
	}
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if p.f != nil {
		err = errors.Join(err, p.f.Close())
	}
	p.f, p.end = nil, 0
	return err
}

func (p *pins) close() error {
	if p.f == nil {
		return nil
	}
	f := p.f
	p.f = nil
	return f.Close()
}

// shrink writes the file anew when most of it is of no use. Nobody may be reading.
func (p *pins) shrink() (err error) {
	if len(p.list) == 0 {
		return p.clear()
	}
	if p.dead < 1<<20 || p.dead < p.size() {
		return nil
	}
	next := *p
	next.file, next.f, next.end, next.dead, next.kept = p.file+tmpSuffix, nil, 0, 0, map[page.No][]kept{}
	defer func() {
		if err != nil && next.f != nil {
			_ = next.f.Close()
			_ = fault.Remove(next.file)
		}
	}()
	b := append(pinsRecord{kind: 's', a: p.complete}.encode(), p.markRecord()...)
	for _, x := range p.list {
		b = append(b, x.record()...)
	}
	if err := next.append(b); err != nil {
		return err
	}
	image := make([]byte, page.Size)
	for no, list := range p.kept {
		for _, k := range list {
			if err := p.read(k.at, image); err != nil {
				return err
			}
			if err := next.keep(no, k.lo, k.hi, image); err != nil {
				return err
			}
		}
	}
	if p.sync {
		if err := next.f.Sync(); err != nil {
			return fmt.Errorf("sync pins: %w", err)
		}
	}
	if err := fault.At("pins.rename"); err != nil {
		return fmt.Errorf("replace pins: %w", err)
	}
	if err := fault.Rename(next.file, p.file); err != nil {
		return fmt.Errorf("replace pins: %w", err)
	}
	old := p.f
	next.file = p.file
	*p = next
	return old.Close()
}

// keep appends an image.
func (p *pins) keep(no page.No, lo, hi uint64, image []byte) error {
	sum := sha256.Sum256(image)
	at := p.end
	if err := p.append(append(pinsRecord{kind: 'i', no: no, a: lo, b: hi, sum: [8]byte(sum[:])}.encode(), image...)); err != nil {
		return err
	}
	p.kept[no] = append(p.kept[no], kept{lo: lo, hi: hi, at: at})
	return nil
}
