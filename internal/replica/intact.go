package replica

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/tursosync/tursosync/internal/page"
)

// checkAll: an increment is checked together with all of the database, as a
// bootstrap is, if the database has no more pages than this, or no more than
// checkShare times those of the increment, or shrinks (which only VACUUM does,
// and so writes all of it). Beyond that the cost must not grow with the database.
const (
	checkAll   = 256
	checkShare = 4
)

// checkIncrement looks for damage in an increment, on top of base, before any of it gets
// near live. There is no checksum on the wire, so what is found is what does not
// hang together: b-trees, cells, records, overflow chains, freelist.
func (b *rebase) checkIncrement() error {
	d := b.delta
	if d == nil || d.whole { // a whole one was checked when it was assembled
		return nil
	}
	n := uint64(d.count)
	if n <= checkAll || n <= checkShare*uint64(len(d.order)) || d.count < b.old.pageCount {
		return b.quickCheck()
	}
	s, err := readSchema(b.stage.conn)
	if err != nil {
		return b.damaged(err)
	}
	v := inspector{changed: &d.pages, pageCount: d.count, read: b.stage.readBase}
	return v.run(s)
}

func (b *rebase) quickCheck() error {
	c := b.stage.conn
	err := quickCheck(c)
	if e := c.exec("PRAGMA ignore_check_constraints=OFF"); err == nil {
		err = e // the replay is to respect them
	}
	if isDamage(err) {
		return badAnswer("the pages make no intact database: %v", err)
	}
	return err
}

// inspector checks the pages of an increment and how they hang together with the
// rest. It reads them, the interior pages of all b-trees, and the trunks of the
// freelist; of the other pages it only knows the numbers.
type inspector struct {
	changed   *page.Set
	pageCount uint32
	read      func(no page.No, image []byte) error
	seen      page.Set
}

// Types of b-tree pages (https://sqlite.org/fileformat2.html#b_tree_pages).
const (
	indexInterior = 0x02
	tableInterior = 0x05
	indexLeaf     = 0x0a
	tableLeaf     = 0x0d
)

func (v *inspector) run(s schema) error {
	for _, o := range append(schema{{kind: "table", root: 1}}, s...) {
		if o.root == 0 {
			continue
		}
		if o.root < 0 || o.root > int64(v.pageCount) {
			return badAnswer("%s %q begins on page %d of %d", o.kind, o.name, o.root, v.pageCount)
		}
		if err := v.tree(page.No(o.root), o.kind == "index"); err != nil {
			return err
		}
	}
	if err := v.freelist(); err != nil {
		return err
	}
	return v.rest()
}

// tree checks one b-tree, level by level: all leaves lie on one.
func (v *inspector) tree(root page.No, index bool) error {
	image := make([]byte, page.Size)
	level := []page.No{root}
	var want []byte // the types that the level's pages may have
	if want = []byte{tableInterior, tableLeaf, indexInterior, indexLeaf}; index {
		want = want[2:]
	}
	for depth := 0; len(level) > 0; depth++ {
		if depth > depthMax {
			return badAnswer("the b-tree of page %d has no end", root)
		}
		leaves := false
		var below []page.No
		for i, no := range level {
			if no == 0 || uint32(no) > v.pageCount || no == lockPage {
				return badAnswer("the b-tree of page %d has a page %d of %d", root, no, v.pageCount)
			}
			if v.seen.Has(no) {
				return badAnswer("page %d is in use twice", no)
			}
			v.seen.Add(no)
			if i > 0 && leaves && !v.changed.Has(no) {
				continue // neither the answer's nor an interior page
			}
			if err := v.read(no, image); err != nil {
				return err
			}
			p := btreePage{no: no, image: image}
			if !slices.Contains(want, p.kind()) {
				return badAnswer("page %d of the b-tree of page %d has the type %#x", no, root, p.kind())
			}
			if i == 0 {
				want = []byte{p.kind()} // as all others of the level
				leaves = p.kind() == tableLeaf || p.kind() == indexLeaf
			}
			if v.changed.Has(no) {
				if err := p.check(); err != nil {
					return badAnswer("page %d: %v", no, err)
				}
				if err := v.chains(&p); err != nil {
					return err
				}
			}
			if !leaves {
				children, err := p.children()
				if err != nil {
					return badAnswer("page %d: %v", no, err)
				}
				below = append(below, children...)
			}
		}
		if want[0] == tableInterior {
			want = []byte{tableInterior, tableLeaf}
		} else {
			want = []byte{indexInterior, indexLeaf}
		}
		level = below
	}
	return nil
}

// chains follows the overflow pages of a page's cells, as far as they are the
// answer's.
func (v *inspector) chains(p *btreePage) error {
	image := make([]byte, page.Size)
	for _, c := range p.cells {
		no, left := c.overflow, c.beyond
		for ; left > 0; left -= page.Size - 4 {
			if no == 0 || uint32(no) > v.pageCount || no == lockPage {
				return badAnswer("page %d: a row goes on at page %d of %d", p.no, no, v.pageCount)
			}
			if v.seen.Has(no) {
				return badAnswer("page %d is in use twice", no)
			}
			v.seen.Add(no)
			if !v.changed.Has(no) {
				break
			}
			if err := v.read(no, image); err != nil {
				return err
			}
			no = page.No(binary.BigEndian.Uint32(image))
		}
		if left <= 0 && no != 0 {
			return badAnswer("page %d: a row has more overflow pages than bytes", p.no)
		}
	}
	return nil
}

// freelist checks the list of free pages against the count in page 1.
func (v *inspector) freelist() error {
	image := make([]byte, page.Size)
	if err := v.read(1, image); err != nil {
		return err
	}
	trunk, want := page.No(binary.BigEndian.Uint32(image[32:])), binary.BigEndian.Uint32(image[36:])
	for found := uint32(0); ; {
		if trunk == 0 {
			if found != want {
				return badAnswer("the freelist has %d pages, page 1 says %d", found, want)
			}
			return nil
		}
		if uint32(trunk) > v.pageCount || v.seen.Has(trunk) {
			return badAnswer("the freelist has a wrong page %d", trunk)
		}
		v.seen.Add(trunk)
		if err := v.read(trunk, image); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(image[4:])
		if n > page.Size/4-2 {
			return badAnswer("the freelist's page %d names %d pages", trunk, n)
		}
		for i := range n {
			no := page.No(binary.BigEndian.Uint32(image[8+4*i:]))
			if no == 0 || uint32(no) > v.pageCount || v.seen.Has(no) {
				return badAnswer("the freelist has a wrong page %d", no)
			}
			v.seen.Add(no)
		}
		found += n + 1
		trunk = page.No(binary.BigEndian.Uint32(image))
	}
}

// rest checks the pages that were not met. Beside leaked ones they are overflow
// pages of rows whose own page did not come, and pointer maps.
func (v *inspector) rest() error {
	image := make([]byte, page.Size)
	if err := v.read(1, image); err != nil {
		return err
	}
	const mapped = page.Size/5 + 1 // pages from one pointer map to the next
	vacuum := binary.BigEndian.Uint32(image[52:]) != 0
	for no := range v.changed.All() {
		if uint32(no) > v.pageCount || v.seen.Has(no) || vacuum && (no-2)%mapped <= 1 {
			continue
		}
		if err := v.read(no, image); err != nil {
			return err
		}
		if slices.Contains([]byte{indexInterior, tableInterior, indexLeaf, tableLeaf}, image[0]) {
			continue // a page that was a b-tree's and leaked
		}
		if next := page.No(binary.BigEndian.Uint32(image)); uint32(next) > v.pageCount || v.seen.Has(next) && !v.changed.Has(next) {
			return badAnswer("page %d is in no b-tree, and page %d does not follow it", no, next)
		}
	}
	return nil
}

// btreePage is a page of a b-tree.
type btreePage struct {
	no    page.No
	image []byte
	cells []cell // set by check
}

// cell is what check notes of a cell.
type cell struct {
	beyond   int64   // bytes of the payload that are not on the page
	overflow page.No // where they begin
}

// head returns the page's header: on page 1 it follows that of the file.
func (p *btreePage) head() int {
	if p.no == 1 {
		return 100
	}
	return 0
}

func (p *btreePage) kind() byte { return p.image[p.head()] }

func (p *btreePage) interior() bool { return p.kind() == tableInterior || p.kind() == indexInterior }

func (p *btreePage) uint16(at int) int { return int(binary.BigEndian.Uint16(p.image[at:])) }

// pointers returns where the array of cell pointers is, and its length.
func (p *btreePage) pointers() (at, n int, err error) {
	at = p.head() + 8
	if p.interior() {
		at += 4
	}
	if n = p.uint16(p.head() + 3); at+2*n > page.Size {
		return 0, 0, fmt.Errorf("it claims %d cells", n)
	}
	return at, n, nil
}

// children returns the pages below an interior page.
func (p *btreePage) children() ([]page.No, error) {
	at, n, err := p.pointers()
	if err != nil {
		return nil, err
	}
	out := make([]page.No, 0, n+1)
	for i := range n {
		c := p.uint16(at + 2*i)
		if c+4 > page.Size {
			return nil, fmt.Errorf("cell %d begins at %d", i, c)
		}
		out = append(out, page.No(binary.BigEndian.Uint32(p.image[c:])))
	}
	return append(out, page.No(binary.BigEndian.Uint32(p.image[p.head()+8:]))), nil
}

// check does for one page what SQLite's integrity_check does: cells and free
// blocks fill the page without overlap, rowids ascend, records add up.
func (p *btreePage) check() error {
	at, n, err := p.pointers()
	if err != nil {
		return err
	}
	start := p.uint16(p.head() + 5)
	if start < at+2*n || start > page.Size {
		return fmt.Errorf("cells begin at %d", start)
	}
	var used [page.Size]bool
	take := func(from, size int) error {
		if from < start || size < 4 || from+size > page.Size {
			return fmt.Errorf("cell or free block at %d of %d bytes", from, size)
		}
		for i := from; i < from+size; i++ {
			if used[i] {
				return fmt.Errorf("cells overlap at %d", i)
			}
			used[i] = true
		}
		return nil
	}
	last := int64(0)
	p.cells = p.cells[:0]
	for i := range n {
		from := p.uint16(at + 2*i)
		if from < start || from > page.Size-4 {
			return fmt.Errorf("cell %d begins at %d", i, from)
		}
		c, size, key, err := p.cell(from)
		if err == nil {
			err = take(from, size)
		}
		if err != nil {
			return fmt.Errorf("cell %d: %w", i, err)
		}
		if p.kind() == tableLeaf || p.kind() == tableInterior {
			if i > 0 && key <= last {
				return fmt.Errorf("rowid %d follows %d", key, last)
			}
			last = key
		}
		if c.beyond > 0 {
			p.cells = append(p.cells, c)
		}
	}
	return p.checkFree(start, used[:], take)
}

// checkFree checks the free blocks, and that the header counts the bytes that
// belong to nothing.
func (p *btreePage) checkFree(start int, used []bool, take func(from, size int) error) error {
	for block, before := p.uint16(p.head()+1), 0; block != 0; {
		if block <= before || block > page.Size-4 {
			return fmt.Errorf("free block at %d behind that at %d", block, before)
		}
		if err := take(block, p.uint16(block+2)); err != nil {
			return err
		}
		block, before = p.uint16(block), block
	}
	loose := 0
	for _, u := range used[start:] {
		if !u {
			loose++
		}
	}
	if want := int(p.image[p.head()+7]); loose != want {
		return fmt.Errorf("%d bytes belong to nothing, %d by the header", loose, want)
	}
	return nil
}

// cell reads the cell at an offset: its size on the page and, in a table, the
// rowid (https://sqlite.org/fileformat2.html#b_tree_pages).
func (p *btreePage) cell(from int) (c cell, size int, key int64, err error) {
	in := p.image[from:]
	at := 0
	number := func() (v uint64) {
		if err != nil {
			return 0
		}
		var n int
		if v, n = varint(in[at:]); n == 0 {
			err = fmt.Errorf("a number at %d goes on behind the end", from+at)
		}
		at += n
		return v
	}
	if p.interior() {
		at = 4
	}
	if p.kind() == tableInterior {
		key = int64(number())
		return c, max(at, 4), key, err
	}
	payload := number()
	if p.kind() == tableLeaf {
		key = int64(number())
	}
	if err != nil {
		return c, 0, 0, err
	}
	if payload > payloadMax {
		return c, 0, 0, fmt.Errorf("a row of %d bytes", payload)
	}
	local := localPayload(p.kind(), int64(payload))
	end := at + int(local)
	if c.beyond = int64(payload) - local; c.beyond > 0 {
		end += 4
	}
	if end > len(in) {
		return c, 0, 0, fmt.Errorf("it goes on behind the end of the page")
	}
	if c.beyond > 0 {
		c.overflow = page.No(binary.BigEndian.Uint32(in[end-4:]))
	}
	return c, max(end, 4), key, checkRecord(in[at:at+int(local)], int64(payload))
}

// payloadMax is the size of the largest row of SQLite.
const payloadMax = 1<<31 - 1

// localPayload returns how many bytes of a payload are kept on the page itself
// (https://sqlite.org/fileformat2.html#cell_payload).
func localPayload(kind byte, payload int64) int64 {
	most := int64((page.Size-12)*64/255 - 23)
	if kind == tableLeaf {
		most = page.Size - 35
	}
	if payload <= most {
		return payload
	}
	const least = (page.Size-12)*32/255 - 23
	if k := least + (payload-least)%(page.Size-4); k <= most {
		return k
	}
	return least
}

// checkRecord checks that a record's values are no longer than the record
// (https://sqlite.org/fileformat2.html#record_format).
func checkRecord(local []byte, payload int64) error {
	size, n := varint(local)
	if n == 0 || size < uint64(n) || size > uint64(payload) {
		return fmt.Errorf("a record with a header of %d bytes", size)
	}
	if size > uint64(len(local)) {
		return nil // the header itself goes on elsewhere
	}
	left := payload - int64(size)
	for header := local[n:size]; len(header) > 0; {
		kind, n := varint(header)
		if n == 0 || kind == 10 || kind == 11 || kind > 1<<33 {
			return fmt.Errorf("a record with a value of type %d", kind)
		}
		header = header[n:]
		switch {
		case kind >= 12:
			left -= int64(kind-12) / 2
		case kind < 8:
			left -= []int64{0, 1, 2, 3, 4, 6, 8, 8}[kind]
		}
		if left < 0 {
			return fmt.Errorf("a record of %d bytes whose values are longer", payload)
		}
	}
	return nil
}

// varint decodes SQLite's variable-length integer; n is 0 if b ends within it.
func varint(b []byte) (v uint64, n int) {
	for i := range min(len(b), 9) {
		if i == 8 {
			return v<<8 | uint64(b[i]), 9
		}
		v = v<<7 | uint64(b[i]&0x7f)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}
