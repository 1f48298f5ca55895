package cdc_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tursosync/tursosync/cdc"
)

// logOf makes a log of row changes: "i", "u", "d" for the type, a table, a rowid.
func logOf(t testing.TB, changes ...cdc.Change) *database {
	t.Helper()
	db := open(t)
	if err := cdc.Setup(db.SQLiteConn); err != nil {
		t.Fatal(err)
	}
	if err := cdc.Append(db.SQLiteConn, changes); err != nil {
		t.Fatal(err)
	}
	return db
}

func load(t *testing.T, db *database, above cdc.ID) []cdc.Change {
	t.Helper()
	var out []cdc.Change
	err := cdc.Load(db.SQLiteConn, above, func(c *cdc.Change) error {
		out = append(out, *c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var (
	bagShape = &cdc.Shape{Columns: []string{"a"}, RowIDAlias: -1}
	keyShape = &cdc.Shape{Columns: []string{"k", "a"}, Key: []int{0}, RowIDAlias: -1}
	intShape = &cdc.Shape{Columns: []string{"id", "a"}, Key: []int{0}, RowIDAlias: 0}
)

// row makes a change; images are given as values, nil for none.
func row(id, txn cdc.ID, shape *cdc.Shape, table string, rowid int64, before, after []any) cdc.Change {
	c := cdc.Change{ID: id, Txn: txn, Time: time.Unix(1_800_000_000, 0), Table: table, RowID: rowid, Shape: shape}
	if before != nil {
		c.Before = cdc.EncodeRecord(before)
	}
	if after != nil {
		c.After = cdc.EncodeRecord(after)
	}
	switch {
	case before == nil:
		c.Type = cdc.Insert
	case after == nil:
		c.Type = cdc.Delete
	}
	return c
}

func alter(id, txn cdc.ID, table, sql string) cdc.Change {
	return cdc.Change{
		ID: id, Txn: txn, Time: time.Unix(1_800_000_000, 0), Table: cdc.SchemaTable,
		Schema: &cdc.SchemaChange{Op: "alter", Kind: "table", Name: table, Table: table, SQL: sql},
	}
}

func TestLogRoundTrip(t *testing.T) {
	want := []cdc.Change{
		row(5, 5, intShape, "t", 1, nil, []any{int64(1), "a"}),
		alter(6, 5, "t", "ALTER TABLE t ADD x"),
		row(7, 5, intShape, "t", 1, []any{int64(1), "a"}, []any{int64(1), nil}),
		row(9, 9, keyShape, "k'\"", 7, []any{"x", 1.5}, nil),
	}
	got := load(t, logOf(t, want...), 0)
	if len(got) != len(want) {
		t.Fatalf("%d changes, want %d", len(got), len(want))
	}
	for i := range want {
		if fmt.Sprintf("%+v", plain(got[i])) != fmt.Sprintf("%+v", plain(want[i])) {
			t.Errorf("change %d = %+v, want %+v", i, plain(got[i]), plain(want[i]))
		}
	}
	if got := load(t, logOf(t, want...), 6); len(got) != 2 || got[0].ID != 7 {
		t.Errorf("above 6: %+v", got)
	}
}

// plain spells the pointers of a change out.
func plain(c cdc.Change) []any {
	out := []any{c.ID, c.Txn, c.Time.Unix(), c.Type, c.Table, c.RowID, c.Before, c.After, c.Local}
	if c.Shape != nil {
		out = append(out, *c.Shape)
	}
	if c.Schema != nil {
		out = append(out, *c.Schema)
	}
	return out
}

// Local marks rows without identity that the log itself inserted, wherever the
// reading starts and under whatever name their table was then.
func TestLocal(t *testing.T) {
	a, b := []any{"a"}, []any{"b"}
	changes := []cdc.Change{
		row(1, 1, bagShape, "t", 5, nil, a),
		row(2, 2, bagShape, "t", 4, a, b), // of base
		row(3, 3, bagShape, "T", 5, a, b), // local
		row(4, 4, bagShape, "t", 5, b, nil),
		row(5, 5, bagShape, "t", 6, nil, a),
		alter(6, 6, "t", "ALTER TABLE t RENAME TO u"),
		row(7, 7, bagShape, "u", 6, a, b), // local
		row(8, 8, bagShape, "u", 4, b, a), // of base
		row(9, 9, keyShape, "k", 1, nil, []any{"x", nil}),
		row(10, 10, keyShape, "k", 1, []any{"x", nil}, []any{"x", "y"}), // has a key
		row(11, 11, keyShape, "k", 1, []any{"x", "y"}, []any{nil, "y"}), // loses it
		row(12, 12, keyShape, "k", 1, []any{nil, "y"}, []any{nil, "z"}), // local
		row(13, 13, keyShape, "k", 2, []any{nil, "y"}, []any{nil, "z"}), // of base
		row(14, 14, keyShape, "k", 2, []any{nil, "z"}, nil),             // of base
		row(15, 15, intShape, "i", 3, nil, []any{int64(3), "y"}),
		row(16, 16, intShape, "i", 3, []any{int64(3), "y"}, nil),
	}
	local := []cdc.ID{3, 4, 7, 12}
	db := logOf(t, changes...)
	for above := range cdc.ID(16) {
		for _, c := range load(t, db, above) {
			if want := slices.Contains(local, c.ID); c.Local != want {
				t.Errorf("above %d: change %d: Local = %v, want %v", above, c.ID, c.Local, want)
			}
		}
	}
}

func TestLoadBatch(t *testing.T) {
	var changes []cdc.Change
	for txn := range cdc.ID(4) { // transactions of 3 changes, 10 bytes each
		for i := range cdc.ID(3) {
			changes = append(changes, row(txn*3+i+1, txn*3+1, bagShape, "t", int64(txn*3+i), nil, []any{"1234567"}))
		}
	}
	db := logOf(t, changes...)
	for name, c := range map[string]struct {
		above          cdc.ID
		changes, bytes int
		txns           int
		more           bool
	}{
		"no limit":        {0, 0, 0, 4, false},
		"count":           {0, 6, 0, 2, true},
		"count between":   {0, 8, 0, 2, true},
		"bytes":           {0, 0, 65, 2, true},
		"at least one":    {0, 1, 1, 1, true},
		"last":            {9, 1, 1, 1, false},
		"exactly the end": {0, 12, 0, 4, false},
		"nothing":         {12, 0, 0, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			txns, more, err := cdc.LoadBatch(t.Context(), db.SQLiteConn, c.above, c.changes, c.bytes)
			if err != nil || len(txns) != c.txns || more != c.more {
				t.Errorf("LoadBatch = %d transactions, %v, %v, want %d, %v", len(txns), more, err, c.txns, c.more)
			}
			for _, txn := range txns {
				if len(txn) != 3 {
					t.Errorf("a transaction of %d", len(txn))
				}
			}
		})
	}
}

// A damaged log is an error, not a panic and not a wrong change.
func TestLoadDamaged(t *testing.T) {
	for name, damage := range map[string]string{
		"type":           `UPDATE turso_cdc SET change_type = 9`,
		"table":          `UPDATE turso_cdc SET table_name = NULL`,
		"shape missing":  `DELETE FROM turso_sync_state`,
		"shape garbage":  `UPDATE turso_sync_state SET value = '{"columns":[],"key":[3]}'`,
		"shape null":     `UPDATE turso_cdc SET shape = NULL`,
		"no image":       `UPDATE turso_cdc SET "after" = NULL`,
		"two images":     `UPDATE turso_cdc SET "before" = "after"`,
		"schema garbage": `UPDATE turso_cdc SET table_name = 'sqlite_schema'`,
	} {
		t.Run(name, func(t *testing.T) {
			db := logOf(t, row(1, 1, bagShape, "t", 5, nil, []any{"a"}))
			db.run(damage)
			err := cdc.Load(db.SQLiteConn, 0, func(*cdc.Change) error { return nil })
			if err == nil {
				t.Error("Load returned no error")
			}
		})
	}
	stop := errors.New("stop here")
	if err := cdc.Load(logOf(t, row(1, 1, bagShape, "t", 5, nil, []any{"a"})).SQLiteConn, 0, func(*cdc.Change) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Load = %v, want the error of yield", err)
	}
}

func TestInternal(t *testing.T) {
	for name, want := range map[string]bool{
		"turso_cdc": true, "TURSO_CDC": true, "turso_sync_state": true, "turso_sync_rejected": true, "turso_sync_last_change_id": true,
		"sqlite_sequence": true, "SQLITE_stat1": true, "__turso_internal_seq_x": true,
		"turso_mine": false, "turso_cdc2": false, "sqlite": false, "t": false, "": false,
	} {
		if got := cdc.Internal(name); got != want {
			t.Errorf("Internal(%q) = %v, want %v", name, got, want)
		}
	}
}
