package cdc_test

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mattn/go-sqlite3"
	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/shim"
)

// database is a SQLite database for tests.
type database struct {
	testing.TB
	*sqlite3.SQLiteConn
}

// open makes a database and runs the scripts on it.
func open(tb testing.TB, scripts ...string) *database {
	tb.Helper()
	conn, err := (&sqlite3.SQLiteDriver{}).Open(filepath.Join(tb.TempDir(), "test.db"))
	if err != nil {
		tb.Fatal(err)
	}
	db := &database{TB: tb, SQLiteConn: conn.(*sqlite3.SQLiteConn)}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	db.run("PRAGMA synchronous=OFF", "PRAGMA journal_mode=MEMORY")
	db.run(scripts...)
	return db
}

func (db *database) run(scripts ...string) {
	db.Helper()
	for _, s := range scripts {
		if err := db.try(s); err != nil {
			db.Fatalf("%s: %v", s, err)
		}
	}
}

func (db *database) try(sql string, args ...any) error {
	values := make([]driver.Value, len(args))
	for i := range args {
		values[i] = args[i]
	}
	_, err := db.Exec(sql, values)
	return err
}

// clone returns a copy of the database, page for page.
func (db *database) clone() *database {
	db.Helper()
	c := open(db.TB)
	b, err := c.Backup("main", db.SQLiteConn, "main")
	if err != nil {
		db.Fatal(err)
	}
	if _, err := b.Step(-1); err != nil {
		db.Fatal(err)
	}
	if err := b.Close(); err != nil {
		db.Fatal(err)
	}
	return c
}

// values returns the rows of a query.
func (db *database) values(sql string, args ...any) [][]any {
	db.Helper()
	values := make([]driver.Value, len(args))
	for i := range args {
		values[i] = args[i]
	}
	rows, err := db.Query(sql, values)
	if err != nil {
		db.Fatalf("%s: %v", sql, err)
	}
	defer rows.Close()
	var out [][]any
	row := make([]driver.Value, len(rows.Columns()))
	for {
		err := rows.Next(row)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			db.Fatalf("%s: %v", sql, err)
		}
		kept := make([]any, len(row))
		for i, v := range row {
			kept[i] = v
		}
		out = append(out, kept)
	}
}

// query returns the rows of a query, each as text that tells types apart.
func (db *database) query(sql string) []string {
	db.Helper()
	var out []string
	for _, row := range db.values(sql) {
		fields := make([]string, len(row))
		for i, v := range row {
			fields[i] = literal(v)
		}
		out = append(out, strings.Join(fields, " "))
	}
	return out
}

func literal(v any) string {
	switch v := v.(type) {
	case nil:
		return "NULL"
	case string:
		return fmt.Sprintf("%q", v)
	case []byte:
		return fmt.Sprintf("x'%x'", v)
	case float64:
		if s := fmt.Sprint(v); strings.ContainsAny(s, ".eIN") {
			return s
		}
		return fmt.Sprintf("%v.0", v)
	}
	return fmt.Sprint(v)
}

// dump returns the user's schema and rows; if asked for, with the rowids of
// tables without primary key.
func (db *database) dump(rowids bool) []string {
	db.Helper()
	objects, err := cdc.ReadSchema(db.SQLiteConn)
	if err != nil {
		db.Fatal(err)
	}
	var out []string
	for _, o := range objects {
		out = append(out, o.Kind+" "+o.SQL)
		if o.Kind != "table" {
			continue
		}
		shape, err := cdc.ReadShape(db.SQLiteConn, o.Name)
		if err != nil {
			db.Fatal(err)
		}
		columns := make([]string, len(shape.Columns))
		for i, c := range shape.Columns {
			columns[i] = `+"` + strings.ReplaceAll(c, `"`, `""`) + `"`
		}
		if name := rowidName(shape); rowids && len(shape.Key) == 0 && name != "" {
			columns = append([]string{"+" + name}, columns...)
		}
		rows := db.query("SELECT " + strings.Join(columns, ",") + ` FROM "` + strings.ReplaceAll(o.Name, `"`, `""`) + `"`)
		slices.Sort(rows)
		for _, r := range rows {
			out = append(out, o.Name+": "+r)
		}
	}
	slices.Sort(out)
	return append(out, "user_version "+db.query("PRAGMA user_version")[0])
}

func rowidName(shape *cdc.Shape) string {
	for _, name := range []string{"rowid", "_rowid_", "oid"} {
		if !slices.Contains(shape.Columns, name) {
			return name
		}
	}
	return ""
}

// quiet turns triggers off, as for a replay.
func (db *database) quiet() *database {
	db.Helper()
	h, err := shim.Of(db.SQLiteConn)
	if err == nil {
		err = h.SetConfig(shim.EnableTrigger, false)
	}
	if err != nil {
		db.Fatal(err)
	}
	return db
}

// history runs transactions on a database, one script each, and returns what the
// log would hold: the differences, with ids from first on.
func (db *database) history(first cdc.ID, scripts ...string) [][]cdc.Change {
	db.Helper()
	var txns [][]cdc.Change
	for _, script := range scripts {
		before := db.clone()
		db.run(script)
		var txn []cdc.Change
		at := first
		err := cdc.Diff(db.Context(), before.SQLiteConn, db.SQLiteConn, func(c *cdc.Change) error {
			c.ID, c.Txn, c.Time = first, at, time.Unix(1_800_000_000, 0)
			first++
			txn = append(txn, *c)
			return nil
		})
		if err != nil {
			db.Fatalf("diff of %s: %v", script, err)
		}
		if txn = joinKeys(txn); len(txn) > 0 {
			txns = append(txns, txn)
		}
	}
	return txns
}

// joinKeys makes an update of a delete and an insert on one rowid, as the capture
// does for a changed key.
func joinKeys(txn []cdc.Change) []cdc.Change {
	deleted := make(map[string]int)
	var out []cdc.Change
	for _, c := range txn {
		key := fmt.Sprint(c.Table, " ", c.RowID)
		i, ok := deleted[key]
		switch {
		case c.Schema != nil || c.Shape.WithoutRowID || c.Shape.RowIDAlias >= 0 || len(c.Shape.Key) == 0:
		case c.Type == cdc.Delete:
			deleted[key] = len(out)
		case c.Type == cdc.Insert && ok:
			out[i].Type, out[i].After = cdc.Update, c.After
			continue
		}
		out = append(out, c)
	}
	return out
}

// logged sends transactions through a log and reads back those above an id, with
// all that reading adds.
func logged(tb testing.TB, txns [][]cdc.Change, above cdc.ID) [][]cdc.Change {
	tb.Helper()
	db := open(tb)
	if err := cdc.Setup(db.SQLiteConn); err != nil {
		tb.Fatal(err)
	}
	for _, txn := range txns {
		if err := cdc.Append(db.SQLiteConn, txn); err != nil {
			tb.Fatal(err)
		}
	}
	var out [][]cdc.Change
	err := cdc.LoadTxns(db.SQLiteConn, above, func(txn []cdc.Change) error {
		out = append(out, txn)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// push executes mutations in one transaction, as the remote does.
func (db *database) push(txns [][]cdc.Change, opts cdc.MutationOptions) error {
	db.Helper()
	mutations, err := cdc.Mutations(db.Context(), txns, opts)
	if err != nil {
		return err
	}
	db.run("BEGIN IMMEDIATE")
	for _, m := range mutations {
		if err := db.try(m.SQL, m.Args...); err != nil {
			db.run("ROLLBACK")
			return fmt.Errorf("%s %v: %w", m.SQL, m.Args, err)
		}
	}
	db.run("COMMIT")
	return nil
}

// objects returns the schema.
func (db *database) objects() []cdc.SchemaObject {
	db.Helper()
	objects, err := cdc.ReadSchema(db.SQLiteConn)
	if err != nil {
		db.Fatal(err)
	}
	return append([]cdc.SchemaObject{}, objects...)
}

// replay applies transactions and returns their outcomes.
func (db *database) replay(txns [][]cdc.Change) []cdc.Outcome {
	db.Helper()
	r, err := cdc.NewReplayer(db.quiet().SQLiteConn)
	if err != nil {
		db.Fatal(err)
	}
	defer r.Close()
	var schema []cdc.Change
	for _, txn := range txns {
		for _, c := range txn {
			if c.Schema != nil {
				schema = append(schema, c)
			}
		}
	}
	r.Foresee(schema)
	var outcomes []cdc.Outcome
	for _, txn := range txns {
		out, err := r.Apply(db.Context(), txn)
		if err != nil {
			db.Fatalf("replay: %v", err)
		}
		outcomes = append(outcomes, out)
	}
	return outcomes
}
