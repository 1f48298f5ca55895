package sim

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"sort"
	"strings"
)

// The model knows no SQL. It says what docs/semantics.md says, in maps: the last
// push wins, row by row, and of an update only the columns that it changed.

// value is nil, int64, float64, string or blob.
type value any

// blob is a value of type BLOB, comparable.
type blob string

// row is never changed once it is in a state.
type row map[string]value

// state is the content of a database: table, key, row.
type state map[string]map[string]row

// op is the net effect of a transaction on one row.
type op struct {
	table, key string
	changed    row // the columns that an update changed; nil for an insert and a delete
	after      row // the whole row as it was left locally; nil for a delete
	// rebuilt, if not nil, says that the table was replaced by a new one.
	rebuilt *rebuilt
}

// rebuilt is a migration that makes a new table in the place of an old one, or half of
// it: CREATE new and copy, DROP old and RENAME. Whatever else is in the old one is gone.
// A new table that is there already gets the copied rows, too. Where there is none to
// be renamed somebody else has been through it, and that was that.
type rebuilt struct {
	name       string // of the new table until it is renamed
	begin, end bool
	rows       map[string]row // that were copied
	once       bool           // it is defined in another way, and if the old one is so too, the rows go there
}

// rebuild does that to the state.
func (s state) rebuild(table string, b *rebuilt) {
	to := b.name
	if b.once && s.get(form, table) != nil {
		to = table
	}
	if b.begin {
		if s[to] == nil {
			s[to] = map[string]row{}
		}
		for key, r := range b.rows {
			s.put(to, key, r)
		}
	}
	if b.end && s[b.name] != nil {
		s[table] = s[b.name]
		delete(s, b.name)
	}
	if b.end && b.once {
		s.put(form, table, row{"new": int64(1)})
	}
}

// txn is a committed transaction.
type txn struct {
	serial int    // in the order of the commits of the whole world
	token  string // the row that it put into the table journal
	owner  string
	ops    []op
	// foreign: written by another program; the replica need not know of it before it
	// pushes or pulls.
	foreign bool
	// adopted: all that a file held before it became a replica.
	adopted bool
}

func (t *txn) String() string { return t.token }

func (s state) clone() state {
	c := make(state, len(s))
	for name, rows := range s {
		c[name] = maps.Clone(rows)
	}
	return c
}

func (s state) get(table, key string) row { return s[table][key] }

func (s state) put(table, key string, r row) {
	if s[table] == nil {
		s[table] = map[string]row{}
	}
	s[table][key] = r
}

// apply does to the state what the remote, or a rebase, has to do with t.
func (s state) apply(list ...*txn) { s.applyAll(list, nil) }

// applyAll applies transactions that come at once. docs/semantics.md leaves one thing
// open: an update of a row that is gone brings it back as it was locally, and if there
// are several updates, that may be as of any of them, for the columns that none of them
// changes. There the state takes over what seen has, if it is one of these.
func (s state) applyAll(list []*txn, seen func(table, key string) row) {
	open := map[ref][]row{}
	for _, t := range list {
		for _, o := range t.ops {
			at := ref{o.table, o.key}
			old := s.get(o.table, o.key)
			switch {
			case o.rebuilt != nil:
				s.rebuild(o.table, o.rebuilt)
				maps.DeleteFunc(open, func(r ref, _ []row) bool { return r.table == o.table || r.table == o.rebuilt.name })
			case o.after == nil:
				delete(s[o.table], o.key)
				delete(open, at)
			case o.changed != nil && old != nil:
				s.put(o.table, o.key, merged(old, o.changed))
				for i, r := range open[at] {
					open[at][i] = merged(r, o.changed)
				}
				if open[at] != nil {
					open[at] = append(open[at], o.after)
				}
			case o.changed != nil: // the row comes back
				s.put(o.table, o.key, o.after)
				open[at] = []row{o.after}
			default:
				s.put(o.table, o.key, o.after)
				delete(open, at)
			}
		}
	}
	for at, rows := range open {
		if seen == nil || len(rows) < 2 {
			continue
		}
		if is := seen(at.table, at.key); slices.ContainsFunc(rows, func(r row) bool { return sameRow(at.table, r, is) }) {
			s.put(at.table, at.key, is)
		}
	}
}

func merged(r, changed row) row {
	r = maps.Clone(r)
	maps.Copy(r, changed)
	return r
}

// diffOp is the net effect between two images of a row; ok is false if there is none.
func diffOp(table, key string, before, after row) (o op, ok bool) {
	o = op{table: table, key: key, after: after}
	switch {
	case before == nil && after == nil:
		return o, false
	case before == nil || after == nil:
		return o, true
	}
	o.changed = row{}
	for c, v := range after {
		if !sameValue(table, c, before[c], v) {
			o.changed[c] = v
		}
	}
	return o, len(o.changed) > 0
}

// sameValue compares two values of a column; a row from before the column was added
// has its default.
func sameValue(table, column string, a, b value) bool {
	if a == nil {
		a = defaultOf(table, column)
	}
	if b == nil {
		b = defaultOf(table, column)
	}
	return a == b
}

// compare returns what differs, in a few words; "" if nothing does.
func compare(got, want state) string {
	var diffs []string
	names := map[string]bool{}
	for name := range got {
		names[name] = true
	}
	for name := range want {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		g, w := got[name], want[name]
		for _, key := range slices.Sorted(maps.Keys(g)) {
			if _, ok := w[key]; !ok {
				diffs = append(diffs, fmt.Sprintf("%s %s is there, want no row", name, showRow(g[key])))
			}
		}
		for _, key := range slices.Sorted(maps.Keys(w)) {
			r, ok := g[key]
			if !ok {
				diffs = append(diffs, fmt.Sprintf("%s %s is missing", name, showRow(w[key])))
				continue
			}
			if !sameRow(name, r, w[key]) {
				diffs = append(diffs, fmt.Sprintf("%s %s, want %s", name, showRow(r), showRow(w[key])))
			}
		}
	}
	const most = 6
	if n := len(diffs); n > most {
		diffs = append(diffs[:most], fmt.Sprintf("… and %d more", n-most))
	}
	return strings.Join(diffs, "\n\t")
}

func sameRow(table string, a, b row) bool {
	for c, v := range a {
		if !sameValue(table, c, v, b[c]) {
			return false
		}
	}
	for c, v := range b {
		if !sameValue(table, c, a[c], v) {
			return false
		}
	}
	return true
}

func showRow(r row) string {
	var b strings.Builder
	for i, c := range slices.Sorted(maps.Keys(r)) {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s=%s", c, showValue(r[c]))
	}
	return b.String()
}

func showValue(v value) string {
	switch v := v.(type) {
	case nil:
		return "NULL"
	case blob:
		if len(v) > 8 {
			return fmt.Sprintf("x'%x…'(%d)", string(v[:8]), len(v))
		}
		return fmt.Sprintf("x'%x'", string(v))
	case string:
		if len(v) > 40 {
			return fmt.Sprintf("%.40q(%d)", v, len(v))
		}
		return fmt.Sprintf("%q", v)
	}
	return fmt.Sprintf("%v(%[1]T)", v)
}

// sum identifies a state: equal for equal states, whatever the order. Values that
// are the default of their column count for nothing, as in compare.
func (s state) sum() uint64 {
	var total uint64
	for name, rows := range s {
		for key, r := range rows {
			h := fnv.New64a()
			fmt.Fprintf(h, "%s\x00%s\x00", name, key)
			columns := make([]string, 0, len(r))
			for c := range r {
				columns = append(columns, c)
			}
			sort.Strings(columns)
			for _, c := range columns {
				if !sameValue(name, c, r[c], nil) {
					fmt.Fprintf(h, "%s=%T%v\x00", c, r[c], r[c])
				}
			}
			total += h.Sum64()
		}
	}
	return total
}
