package hooks

import "strings"

// Step is a schema change of the open transaction that concerns where older
// images of a table's rows are found and which columns they have.
type Step struct {
	ID     int64  // its change id
	Before string // the table's name before; "": it was created
	After  string // and after; "": it was dropped
	// Map tells for each stored column after the step its index before, or -1 - i
	// for value i of the defaults. nil: the same columns. Columns is the number of
	// stored columns before.
	Map []int
	// Old is the table before the step.
	Old *Table
}

// Lineage is the steps of the open transaction, oldest first.
type Lineage struct {
	Steps    []Step
	Defaults []any // values of columns that were added
}

// Reset forgets everything.
func (l *Lineage) Reset() { l.Steps, l.Defaults = nil, nil }

// Cut forgets the steps above an id: a ROLLBACK TO undid them.
func (l *Lineage) Cut(id int64) {
	for len(l.Steps) > 0 && l.Steps[len(l.Steps)-1].ID > id {
		l.Steps = l.Steps[:len(l.Steps)-1]
	}
}

// Source is a stretch of the log in which a table had one name and one set of
// columns.
type Source struct {
	Table       string
	Above, UpTo int64
	Map         []int
}

// Trace follows a table of columns columns back through the transaction. Old is
// what it was when the transaction began, nil if it did not exist; oldMap relates
// the present columns to Old's. With no step concerning the table, Old is t.
func (l *Lineage) Trace(t *Table) (sources []Source, old *Table, oldMap []int) {
	const end = int64(1<<63 - 1)
	name, upTo := t.Name, end
	old = t
	for i := len(l.Steps) - 1; i >= 0; i-- {
		s := l.Steps[i]
		if !strings.EqualFold(s.After, name) || s.After == "" {
			continue
		}
		sources = append(sources, Source{Table: name, Above: s.ID, UpTo: upTo, Map: oldMap})
		if s.Before == "" {
			return sources, nil, nil
		}
		oldMap = compose(oldMap, s.Map)
		name, upTo, old = s.Before, s.ID, s.Old
	}
	if sources == nil {
		return nil, t, nil
	}
	return append(sources, Source{Table: name, Above: 0, UpTo: upTo, Map: oldMap}), old, oldMap
}

// compose returns outer after inner: outer's indexes are looked up in inner.
func compose(outer, inner []int) []int {
	switch {
	case inner == nil:
		return outer
	case outer == nil:
		return inner
	}
	m := make([]int, len(outer))
	for i, at := range outer {
		m[i] = at
		if at >= 0 {
			m[i] = inner[at]
		}
	}
	return m
}

// ColumnMap relates the columns of a table after an ALTER to those before it.
// added is the column that ADD COLUMN brought, or -1.
func ColumnMap(before, after *Table, nextDefault int) (m []int, added int) {
	old, now := before.Names(), after.Names()
	added = -1
	switch len(now) - len(old) {
	case 0:
		return nil, -1
	case 1:
		m = make([]int, len(now))
		for i := range now {
			m[i] = i
		}
		m[len(now)-1] = -1 - nextDefault
		return m, len(now) - 1
	}
	m = make([]int, len(now))
	skipped := 0
	for i, name := range now {
		for skipped < len(old)-len(now) && !strings.EqualFold(old[i+skipped], name) {
			skipped++
		}
		m[i] = i + skipped
	}
	return m, -1
}
