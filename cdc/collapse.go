package cdc

import (
	"slices"
	"strings"
)

// collapse turns the row changes of a run of transactions into the net effect on
// each row, at the place of the row's first change. The result has the effect on
// the remote that the changes have one by one, but for the order in which rows
// are touched; where that makes a unique constraint fail, the batch is sent once
// more without collapsing. Between two schema changes only.
//
//	insert + update = insert                     update + update = update of both's columns
//	insert + delete = delete, nothing in a bag   update + delete = delete
//	delete + insert = update of all columns (not in a bag: that is another row)
//
// A changed key ends what is known of both identities.
func collapse(rows []*rowChange) []*rowChange {
	c := collapser{last: make(map[string]int)}
	for _, r := range rows {
		c.add(r)
	}
	kept := c.rows[:0]
	for _, r := range c.rows {
		if r != nil {
			kept = append(kept, r)
		}
	}
	return kept
}

type collapser struct {
	rows []*rowChange
	last map[string]int // identity to the index of its row change in rows
}

func (c *collapser) add(r *rowChange) {
	if r.Type == Update && r.keyChanged() {
		delete(c.last, r.identity(r.before, r.bagBefore))
		delete(c.last, r.identity(r.after, r.bagAfter))
		c.rows = append(c.rows, r)
		return
	}
	image, bag := r.after, r.bagAfter
	if image == nil {
		image, bag = r.before, r.bagBefore
	}
	id := r.identity(image, bag)
	if i, ok := c.last[id]; ok && c.rows[i].sameRow(r) {
		if merged, ok := merge(c.rows[i], r); ok {
			c.rows[i] = merged
			if merged == nil {
				delete(c.last, id)
			}
			return
		}
	}
	c.last[id] = len(c.rows)
	c.rows = append(c.rows, r)
}

// identity names the row that an image belongs to. Keys that some collation or
// comparison takes for equal (A and a, 1 and 1.0) have one identity; whether two
// changes are of one row is for sameRow to say.
func (r *rowChange) identity(image []any, bag bool) string {
	table := lower(r.Table) + "\x00"
	if bag {
		return table + string(EncodeRecord([]any{nil, r.RowID}))
	}
	key := make([]any, len(r.Shape.Key))
	for i, k := range r.Shape.Key {
		key[i] = foldKey(image[k])
	}
	return table + string(EncodeRecord(key))
}

func foldKey(v any) any {
	switch v := v.(type) {
	case string:
		return strings.TrimRight(lower(v), " ")
	case float64:
		if i := int64(v); float64(i) == v {
			return i
		}
	}
	return v
}

// sameRow tells whether b, of the same identity, continues a.
func (a *rowChange) sameRow(b *rowChange) bool {
	if !a.Shape.same(b.Shape) {
		return false
	}
	is, was := a.after, b.before
	if is == nil {
		is = a.before
	}
	if was == nil {
		was = b.after
	}
	return !slices.ContainsFunc(a.Shape.Key, func(k int) bool { return !identical(is[k], was[k]) })
}

// merge joins two changes of one row; nil is no change at all. ok is false if
// they cannot be one.
func merge(a, b *rowChange) (merged *rowChange, ok bool) {
	bag := a.bagBefore || a.bagAfter
	change := *a.Change
	m := &rowChange{Change: &change, before: a.before, after: b.after, bagBefore: a.bagBefore, bagAfter: b.bagAfter}
	change.After = b.After
	switch {
	case a.Type == Insert && b.Type == Update:
	case a.Type == Insert && b.Type == Delete:
		if bag {
			return nil, true
		}
		change.Type, change.Before = Delete, b.Before
		m.before, m.bagBefore = b.before, b.bagBefore
	case a.Type == Update && b.Type == Update:
		m.changed = make([]bool, len(a.changed))
		for i := range m.changed {
			m.changed[i] = a.changed[i] || b.changed[i]
		}
	case a.Type == Update && b.Type == Delete:
		change.Type = Delete
	case a.Type == Delete && b.Type == Insert && !bag:
		change.Type = Update
		m.changed = make([]bool, len(a.Shape.Columns))
		for i := range m.changed {
			m.changed[i] = !a.Shape.isKey(i)
		}
	default:
		return nil, false
	}
	return m, true
}

// same tells whether two shapes are equal.
func (s *Shape) same(o *Shape) bool { return s == o || s.JSON() == o.JSON() }
