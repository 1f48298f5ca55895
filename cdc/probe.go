package cdc

import (
	"fmt"
	"math"
)

// Probe asks the remote, inside the push and before its mutations, for the rows
// under the integer keys that the push inserts. What it finds are rows that
// another replica gave the same key.
type Probe struct {
	Mutation
	Table   string
	shape   *Shape
	inserts map[int64]*rowChange
}

// probeKeys bounds the keys that one probe asks for.
const probeKeys = 500

// Probes returns what to ask before the transactions are pushed. Tables that
// the transactions create or alter are left out: they are not on the remote, or
// not in this form, when the probes run.
func Probes(txns [][]Change) ([]Probe, error) {
	skip := make(map[string]bool)
	for _, c := range schemaChanges(txns) {
		if c.Schema.Kind == "table" {
			skip[lower(c.Schema.Name)], skip[lower(c.Schema.Table)] = true, true
		}
		if a, ok := parseAlter(c.Schema.SQL); ok && c.Schema.Op == "alter" {
			skip[lower(a.table)], skip[lower(a.to)] = true, true
		}
	}
	var probes []Probe
	open := make(map[string]int)         // lower-case table to the index of its open probe
	touched := make(map[string]struct{}) // keys that the transactions have seen before
	for _, txn := range txns {
		for i := range txn {
			c := &txn[i]
			if c.Schema != nil || c.Shape == nil || c.Shape.RowIDAlias < 0 || skip[lower(c.Table)] {
				continue
			}
			key := fmt.Sprint(c.RowID, " ", lower(c.Table))
			_, seen := touched[key]
			touched[key] = struct{}{}
			if c.Type != Insert || seen {
				continue
			}
			r, err := decodeRow(c)
			if err != nil {
				return nil, err
			}
			n, ok := open[lower(c.Table)]
			if !ok || len(probes[n].inserts) >= probeKeys || !probes[n].shape.same(c.Shape) {
				n = len(probes)
				open[lower(c.Table)] = n
				probes = append(probes, Probe{Table: c.Table, shape: c.Shape, inserts: make(map[int64]*rowChange)})
			}
			probes[n].add(r)
		}
	}
	for i := range probes {
		probes[i].finish()
	}
	return probes, nil
}

func (p *Probe) add(r *rowChange) {
	key, ok := r.after[r.Shape.RowIDAlias].(int64)
	if !ok {
		return
	}
	p.inserts[key] = r
	p.Args = append(p.Args, key)
	p.Change = r.ID
}

// finish writes the statement. Keys without a gap, as a counter gives them, are
// asked for as a range: a remote answers that ten times as fast as a list.
func (p *Probe) finish() {
	key := quote(p.shape.Columns[p.shape.RowIDAlias])
	b := (&statement{}).add("SELECT ", quoteAll(p.shape.Columns), " FROM ", quote(p.Table), " WHERE ", key)
	if first, last, ok := p.span(); ok {
		p.Args = []any{first, last}
		p.SQL = b.add(" BETWEEN ? AND ?").String()
		return
	}
	b.add(" IN (").list(len(p.Args), func(int) { b.add("?") }).add(")")
	p.SQL = b.String()
}

// span returns the smallest and the largest key, if all between them are asked
// for too.
func (p *Probe) span() (first, last int64, ok bool) {
	first, last = math.MaxInt64, math.MinInt64
	for key := range p.inserts {
		first, last = min(first, key), max(last, key)
	}
	n := uint64(len(p.inserts))
	return first, last, n > 1 && uint64(last)-uint64(first) == n-1
}

// Collisions reads the probe's answer: rows of the columns asked for, in that
// order. A row that is the same as ours is no collision.
func (p *Probe) Collisions(rows [][]any) ([]Collision, error) {
	var found []Collision
	for _, row := range rows {
		if len(row) != len(p.shape.Columns) {
			return nil, fmt.Errorf("probe of table %q: %d values for %d columns", p.Table, len(row), len(p.shape.Columns))
		}
		key, ok := row[p.shape.RowIDAlias].(int64)
		r := p.inserts[key]
		if !ok || r == nil {
			return nil, fmt.Errorf("probe of table %q: a row that was not asked for", p.Table)
		}
		if c, ok := r.collision(row); ok {
			found = append(found, c)
		}
	}
	return found, nil
}

// collision compares an inserted row with the one found under its key.
func (r *rowChange) collision(remote []any) (Collision, bool) {
	for i := range remote {
		if !identical(remote[i], r.after[i]) {
			return Collision{
				Change: r.ID, Table: r.Table, Key: r.RowID,
				Local: r.Shape.columnMap(r.after), Remote: r.Shape.columnMap(remote),
			}, true
		}
	}
	return Collision{}, false
}
