package cdc

import "slices"

// SuspendTriggers puts statements around the mutations of a batch that take
// triggers away on the remote while rows are written, and restore them before
// the transaction ends: the log holds the effects of triggers already, row by
// row. changes are those that the mutations stem from. A trigger is suspended if
// it is on a table that is written, if the remote has it (remote), and if it was
// in force here when the changes were made, with the same text (known; the
// present triggers before those of base).
//
// Schema changes among the mutations meet the triggers in place, and what they
// do to them is respected.
func SuspendTriggers(mutations []Mutation, txns [][]Change, remote, known []SchemaObject) []Mutation {
	byID := make(map[ID]*Change)
	written := make(map[string]bool)
	for _, txn := range txns {
		for i := range txn {
			c := &txn[i]
			byID[c.ID] = c
			if c.Schema == nil {
				written[lower(c.Table)] = true
			}
		}
	}
	s := suspension{written: written, known: known}
	for _, o := range remote {
		if o.Kind == "trigger" && slices.ContainsFunc(known, func(k SchemaObject) bool {
			return k.Kind == "trigger" && lower(k.Name) == lower(o.Name) && sameSQL(k.SQL, o.SQL)
		}) {
			s.inForce = append(s.inForce, o)
		}
	}
	for _, m := range mutations {
		if c := byID[m.Change]; c != nil && c.Schema != nil {
			s.restore(m.Change)
			s.out = append(s.out, m)
			s.schemaChanged(c.Schema)
			continue
		}
		s.suspend(m.Change)
		s.out = append(s.out, m)
	}
	if len(mutations) > 0 {
		s.restore(mutations[len(mutations)-1].Change)
	}
	return s.out
}

// suspension is a batch under way.
type suspension struct {
	out       []Mutation
	written   map[string]bool
	known     []SchemaObject
	inForce   []SchemaObject // triggers that are in place, or will be after restore
	suspended []SchemaObject // those of them that are not
}

func (s *suspension) suspend(change ID) {
	if s.suspended != nil {
		return
	}
	s.suspended = []SchemaObject{}
	for _, t := range s.inForce {
		if s.written[lower(t.Table)] {
			s.out = append(s.out, Mutation{SQL: "DROP TRIGGER " + quote(t.Name), Change: change})
			s.suspended = append(s.suspended, t)
		}
	}
}

func (s *suspension) restore(change ID) {
	for _, t := range s.suspended {
		s.out = append(s.out, Mutation{SQL: t.SQL, Change: change})
	}
	s.suspended = nil
}

// schemaChanged follows what a schema change did to the triggers.
func (s *suspension) schemaChanged(c *SchemaChange) {
	drop := func(gone func(SchemaObject) bool) { s.inForce = slices.DeleteFunc(s.inForce, gone) }
	switch {
	case c.Op == "create" && c.Kind == "trigger":
		drop(func(t SchemaObject) bool { return lower(t.Name) == lower(c.Name) })
		s.inForce = append(s.inForce, SchemaObject{Kind: "trigger", Name: c.Name, Table: c.Table, SQL: c.SQL})
	case c.Op == "drop" && c.Kind == "trigger":
		drop(func(t SchemaObject) bool { return lower(t.Name) == lower(c.Name) })
	case c.Op == "drop" && c.Kind == "table":
		drop(func(t SchemaObject) bool { return lower(t.Table) == lower(c.Name) })
	case c.Op == "alter":
		// SQLite rewrites the text of triggers that mention what is renamed. What
		// they became is what stands here now; a trigger that is not here any more
		// is left alone.
		var now []SchemaObject
		for _, t := range s.inForce {
			i := slices.IndexFunc(s.known, func(k SchemaObject) bool {
				return k.Kind == "trigger" && lower(k.Name) == lower(t.Name)
			})
			if i >= 0 {
				now = append(now, s.known[i])
			}
		}
		s.inForce = now
	}
}

// sameSQL tells whether two statements consist of the same tokens.
func sameSQL(a, b string) bool {
	return slices.EqualFunc(trimSemicolons(tokenize(a)), trimSemicolons(tokenize(b)),
		func(x, y token) bool { return x.normal() == y.normal() })
}
