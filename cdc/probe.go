package cdc

import (
	"slices"
	"strings"
)

// Probe looks, inside the remote transaction of a push, for rows whose
// auto-assigned integer key an insert of the batch is about to take.
type Probe struct {
	Query Mutation
	table string
	fresh []freshRow
}

// freshRow is a row that the batch inserts.
type freshRow struct {
	key    int64
	change ID
	shape  *Shape
	after  []byte
}

// probeKeys bounds the parameters of one probe.
const probeKeys = 256

// Probes returns the probes for a batch. Only tables with an INTEGER PRIMARY KEY
// are looked at, and of these only those that skip (if not nil) lets through.
func Probes(txns [][]Change, skip func(table string) bool) []Probe {
	type rowKey struct {
		table string
		key   int64
	}
	type netRow struct {
		freshRow
		gone bool
	}
	rows := make(map[rowKey]*netRow)
	var order []rowKey // of fresh rows
	for _, txn := range txns {
		for i := range txn {
			c := &txn[i]
			if c.Schema != nil || c.Shape == nil || c.Shape.RowIDAlias < 0 {
				continue
			}
			k := rowKey{c.Table, c.RowID}
			row, seen := rows[k]
			switch {
			case !seen && c.Type == Insert:
				rows[k] = &netRow{freshRow: freshRow{c.RowID, c.ID, c.Shape, c.After}}
				order = append(order, k)
			case !seen:
				rows[k] = nil // the row is known to be there
			case row == nil:
			case c.Type == Delete:
				row.gone = true
			default:
				row.gone, row.shape, row.after = false, c.Shape, c.After
			}
		}
	}
	byTable := make(map[string][]freshRow)
	var tables []string
	for _, k := range order {
		if rows[k].gone || skip != nil && skip(k.table) {
			continue
		}
		if byTable[k.table] == nil {
			tables = append(tables, k.table)
		}
		byTable[k.table] = append(byTable[k.table], rows[k].freshRow)
	}
	var probes []Probe
	for _, table := range tables {
		for part := range slices.Chunk(byTable[table], probeKeys) {
			probes = append(probes, newProbe(table, part))
		}
	}
	return probes
}

func newProbe(table string, fresh []freshRow) Probe {
	shape := fresh[len(fresh)-1].shape
	columns := make([]string, len(shape.Columns))
	for i, c := range shape.Columns {
		columns[i] = quote(c)
	}
	key := columns[shape.RowIDAlias]
	args := make([]any, len(fresh))
	for i := range fresh {
		args[i] = fresh[i].key
	}
	return Probe{
		Query: Mutation{
			// The key comes first, so that it is found whatever the columns are named.
			SQL: "SELECT " + key + ", " + strings.Join(columns, ", ") + " FROM " + quote(table) +
				" WHERE " + key + " IN (?" + strings.Repeat(", ?", len(fresh)-1) + ")",
			Args: args,
		},
		table: table,
		fresh: fresh,
	}
}

// Collisions compares what the remote had under the keys with what the batch
// put there. An equal row is no collision.
func (p *Probe) Collisions(columns []string, rows [][]any) []Collision {
	var found []Collision
	for _, r := range rows {
		if len(r) == 0 || len(r) != len(columns) {
			continue
		}
		key, ok := r[0].(int64)
		i := slices.IndexFunc(p.fresh, func(f freshRow) bool { return f.key == key })
		if !ok || i < 0 {
			continue
		}
		local, err := rowMap(p.fresh[i].shape, p.fresh[i].after)
		if err != nil {
			continue
		}
		remote := make(map[string]any, len(columns)-1)
		for j, name := range columns[1:] {
			remote[name] = r[j+1]
		}
		if !sameRow(local, remote) {
			found = append(found, Collision{Change: p.fresh[i].change, Table: p.table, Key: key, Local: local, Remote: remote})
		}
	}
	return found
}

// rowMap decodes an image into column and value.
func rowMap(s *Shape, image []byte) (map[string]any, error) {
	values, err := DecodeRecord(image)
	if err != nil {
		return nil, err
	}
	m := make(map[string]any, len(values))
	for i, v := range values {
		if i < len(s.Columns) {
			m[s.Columns[i]] = v
		}
	}
	return m, nil
}

// sameRow compares rows by value. Numbers are compared across integer and real:
// JSON does not always keep them apart.
func sameRow(a, b map[string]any) bool {
	if len(a) != len(b) {
		return false
	}
	for name, v := range a {
		w, ok := b[name]
		if !ok || !sameValue(v, w) {
			return false
		}
	}
	return true
}

func sameValue(a, b any) bool {
	switch x := a.(type) {
	case []byte:
		y, ok := b.([]byte)
		return ok && string(x) == string(y)
	case int64:
		if y, ok := b.(float64); ok {
			return float64(x) == y
		}
	case float64:
		if y, ok := b.(int64); ok {
			return x == float64(y)
		}
	}
	if _, ok := b.([]byte); ok {
		return false
	}
	return a == b
}
