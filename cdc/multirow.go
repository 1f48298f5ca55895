package cdc

import (
	"slices"
	"strings"
)

// A remote takes fifty rows in one INSERT in the time of a few by themselves, so
// that rows that follow each other with the same statement become one:
//
//	INSERT OR ABORT INTO "t"("id","a") VALUES (?,?),(?,?) ON CONFLICT("id") DO UPDATE SET "a"=excluded."a"
//
// SQLite takes its rows one by one, as it would the statements. Only the first
// form of a batch is sent like that; one that was refused is sent again with a
// statement for each row, so that the remote's words name the one at fault.

// Bounds of a statement: far below SQLite's 32766 parameters, with room for those
// that become several on their way.
const (
	multiRows = 50
	multiArgs = 1000
	multiSize = 256 << 10 // bytes of text and blobs
)

// multiRow is the statement at the end of the plan, as long as it may grow.
type multiRow struct {
	index int        // in planner.out
	one   *statement // of its first row; nil: none may grow
	first *rowChange
	set   []bool // as for upsert
	rows  int
	size  int
	keys  map[string]struct{} // rows of the statement; a key may come once
	known string              // a text that was needed before, …
	of    string              // … made of this one, …
	times int                 // … for so many rows
}

// insertRow plans the INSERT of a row, by itself or as one more of the last
// statement. set is as for upsert; a row without identity has none.
func (p *planner) insertRow(r *rowChange, set []bool) {
	if p.whole && p.add(r, set) {
		return
	}
	b := r.insertion(set)
	p.emit(r, b)
	if p.whole && !b.literals {
		p.end()
		p.begin(r, set, b)
	}
}

// insertion is the statement of one row.
func (r *rowChange) insertion(set []bool) *statement {
	if r.bagAfter {
		return r.insert("")
	}
	return r.upsert("", set)
}

// add adds the row to the last statement, if it is one that can take it.
func (p *planner) add(r *rowChange, set []bool) bool {
	m := &p.multi
	if m.one == nil || m.index != len(p.out)-1 || m.rows == multiRows || m.size > multiSize ||
		len(p.out[m.index].Args)+len(r.after) > multiArgs || !m.like(r, set) {
		return false
	}
	if !r.bagAfter {
		key := r.identity(r.after, false)
		if _, ok := m.keys[key]; ok {
			return false
		}
		m.keys[key] = struct{}{}
	}
	out := &p.out[m.index]
	out.Args = append(out.Args, r.after...)
	m.rows++
	m.size += valueBytes(r.after)
	return true
}

// like tells whether the row's own statement would have the same text.
func (m *multiRow) like(r *rowChange, set []bool) bool {
	return r.Table == m.first.Table && r.Shape.same(m.first.Shape) && r.bagAfter == m.first.bagAfter &&
		(set == nil) == (m.set == nil) && slices.Equal(set, m.set) && !slices.ContainsFunc(r.after, special)
}

// begin makes the statement just appended one that may grow.
func (p *planner) begin(r *rowChange, set []bool, b *statement) {
	m := &p.multi
	m.index, m.one, m.first, m.set = len(p.out)-1, b, r, set
	m.rows, m.size = 1, valueBytes(r.after)
	if m.keys == nil {
		m.keys = make(map[string]struct{})
	}
	clear(m.keys)
	if !r.bagAfter {
		m.keys[r.identity(r.after, false)] = struct{}{}
	}
}

// end writes the text of the growing statement.
func (p *planner) end() {
	m := &p.multi
	if m.one != nil && m.rows > 1 {
		p.out[m.index].SQL = m.text()
	}
	m.one = nil
}

func (m *multiRow) text() string {
	one := m.one.String()
	if m.of != one || m.times != m.rows {
		row := one[m.one.tuple[0]:m.one.tuple[1]]
		m.known = one[:m.one.tuple[1]] + strings.Repeat(","+row, m.rows-1) + one[m.one.tuple[1]:]
		m.of, m.times = one, m.rows
	}
	return m.known
}

func valueBytes(values []any) (n int) {
	for _, v := range values {
		switch v := v.(type) {
		case string:
			n += len(v)
		case []byte:
			n += len(v)
		}
	}
	return n
}
