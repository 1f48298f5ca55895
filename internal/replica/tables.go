package replica

import (
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/page"
)

// object is a row of sqlite_schema.
type object struct {
	kind, name, table string
	root              int64
	sql               string
}

type schema []object

func readSchema(c *conn) (schema, error) {
	var s schema
	err := c.query(`SELECT type, name, tbl_name, ifnull(rootpage, 0), ifnull(sql, '') FROM sqlite_schema ORDER BY rowid`, nil,
		func(row []driver.Value) error {
			o := object{}
			o.kind, _ = row[0].(string)
			o.name, _ = row[1].(string)
			o.table, _ = row[2].(string)
			o.root, _ = row[3].(int64)
			o.sql, _ = row[4].(string)
			s = append(s, o)
			return nil
		})
	return s, err
}

// touched names the user's tables of a database of which some pages changed. It may
// name too many, never too few.
//
// It reads the interior pages of every b-tree, about one page in a hundred or
// fewer, and never a leaf: all leaves of a b-tree lie on one level, so the page
// numbers in the interior pages above them say whose they are. A changed page that is
// found in no b-tree and on no freelist is an overflow page, or a pointer map; whose is
// not known then, and all tables are named. The same holds when the schema changed.
func touched(s schema, changed *page.Set, pageCount uint32, read func(no page.No, image []byte) error) ([]string, error) {
	tables := make(map[string]bool)
	all := func() []string {
		clear(tables)
		for _, o := range s {
			if o.kind == "table" {
				tables[o.table] = true
			}
		}
		return userTables(tables)
	}
	left := changed.Clone()
	w := walker{changed: left, pageCount: pageCount, read: read}
	for _, o := range append(schema{{table: "sqlite_schema", root: 1}}, s...) {
		if o.root == 0 {
			continue // a view, a trigger, a virtual table
		}
		hit, err := w.tree(page.No(o.root))
		if errors.Is(err, errShape) {
			return all(), nil
		}
		if err != nil {
			return nil, err
		}
		if hit {
			tables[o.table] = true
		}
	}
	if left.Len() > 0 {
		if err := w.freelist(); err != nil && !errors.Is(err, errShape) {
			return nil, err
		}
	}
	if left.Len() > 0 {
		return all(), nil
	}
	return userTables(tables), nil
}

func userTables(tables map[string]bool) []string {
	names := []string{}
	for name := range tables {
		if !cdc.Internal(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// walker goes through the interior pages of b-trees and takes what it meets out
// of changed.
type walker struct {
	changed   *page.Set
	pageCount uint32
	read      func(no page.No, image []byte) error
	visited   page.Set
}

// errShape: the pages are not what they should be; the answer is "all tables".
var errShape = errors.New("unexpected page")

// depthMax is more than any b-tree of SQLite can have.
const depthMax = 40

// tree tells whether any page of the b-tree changed.
func (w *walker) tree(root page.No) (hit bool, err error) {
	level := []page.No{root}
	for depth := 0; len(level) > 0; depth++ {
		if depth > depthMax {
			return false, errShape
		}
		for _, no := range level {
			if w.changed.Has(no) {
				hit = true
				w.changed.Remove(no)
			}
		}
		leaves, children, err := w.children(level)
		if err != nil || leaves {
			return hit, err
		}
		level = children
	}
	return hit, nil
}

// children returns the pages below a level, or that the level is the lowest.
func (w *walker) children(level []page.No) (leaves bool, below []page.No, err error) {
	image := make([]byte, page.Size)
	for i, no := range level {
		if no == 0 || uint32(no) > w.pageCount {
			return false, nil, errShape
		}
		if err := w.read(no, image); err != nil {
			return false, nil, err
		}
		head := image
		if no == 1 {
			head = image[100:]
		}
		switch head[0] {
		case 0x0a, 0x0d: // leaves: so are all others of this level
			if i > 0 {
				return false, nil, errShape
			}
			return true, nil, nil
		case 0x02, 0x05:
		default:
			return false, nil, errShape
		}
		if w.visited.Has(no) {
			return false, nil, errShape
		}
		w.visited.Add(no)
		cells := int(binary.BigEndian.Uint16(head[3:]))
		pointers := head[12:]
		if 2*cells > len(pointers) {
			return false, nil, errShape
		}
		for c := range cells {
			at := int(binary.BigEndian.Uint16(pointers[2*c:]))
			if at+4 > len(image) {
				return false, nil, errShape
			}
			below = append(below, page.No(binary.BigEndian.Uint32(image[at:])))
		}
		below = append(below, page.No(binary.BigEndian.Uint32(head[8:])))
	}
	return false, below, nil
}

// freelist takes free pages out of changed.
func (w *walker) freelist() error {
	image := make([]byte, page.Size)
	if w.pageCount == 0 {
		return nil
	}
	if err := w.read(1, image); err != nil {
		return err
	}
	trunk := page.No(binary.BigEndian.Uint32(image[32:]))
	for trunk != 0 {
		if uint32(trunk) > w.pageCount || w.visited.Has(trunk) {
			return errShape
		}
		w.visited.Add(trunk)
		w.changed.Remove(trunk)
		if err := w.read(trunk, image); err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint32(image[4:]))
		if 8+4*n > len(image) {
			return errShape
		}
		for i := range n {
			w.changed.Remove(page.No(binary.BigEndian.Uint32(image[8+4*i:])))
		}
		trunk = page.No(binary.BigEndian.Uint32(image))
	}
	return nil
}
