package cdc_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mattn/go-sqlite3"
	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/realtest"
)

// tursodb is the real thing as the remote of a test, one SQL statement a request.
type tursodb struct {
	*realtest.Tursodb
	t *testing.T
}

// try runs the statements in one transaction.
func (s *tursodb) try(mutations []cdc.Mutation) error {
	s.t.Helper()
	realtest.Exec(s.t, s.URL, "BEGIN IMMEDIATE")
	for _, m := range mutations {
		if _, err := realtest.TryQuery(s.URL, m.SQL, m.Args...); err != nil {
			realtest.Exec(s.t, s.URL, "ROLLBACK")
			return fmt.Errorf("%s %v: %w", m.SQL, m.Args, err)
		}
	}
	realtest.Exec(s.t, s.URL, "COMMIT")
	return nil
}

// read returns a copy of the database as SQLite sees it.
func (s *tursodb) read() *database {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "copy.db")
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(s.File + suffix)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(file+suffix, b, 0o600)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	conn, err := (&sqlite3.SQLiteDriver{}).Open(file)
	if err != nil {
		s.t.Fatal(err)
	}
	db := &database{TB: s.t, SQLiteConn: conn.(*sqlite3.SQLiteConn)}
	s.t.Cleanup(func() { _ = db.Close() })
	return db
}

// clear drops everything, so that the next case can use the same server.
func (s *tursodb) clear() {
	s.t.Helper()
	for _, kind := range []string{"view", "trigger", "table"} {
		for _, row := range realtest.Query(s.t, s.URL, `SELECT name FROM sqlite_schema WHERE type = ?`, kind) {
			if name := row[0].(string); !cdc.Internal(name) {
				realtest.Exec(s.t, s.URL, "DROP "+kind+` "`+strings.ReplaceAll(name, `"`, `""`)+`"`)
			}
		}
	}
	realtest.Exec(s.t, s.URL, "PRAGMA user_version=0")
}

// statements splits a script of a cell.
func statements(script string) []string {
	var out []string
	for script != "" {
		end := strings.Index(script, "; ")
		if strings.HasPrefix(strings.ToUpper(script), "CREATE TRIGGER") {
			end = strings.Index(strings.ToUpper(script), "END") + 3
			if end == len(script) {
				end = -1
			}
		}
		if end < 0 {
			return append(out, script)
		}
		out, script = append(out, script[:end]), strings.TrimLeft(script[end:], "; ")
	}
	return out
}

// The cells of docs/semantics.md hold against tursodb.
func TestTursodbSemantics(t *testing.T) {
	if testing.Short() {
		t.Skip("a request for each statement")
	}
	s := realtest.StartTursodb(t)
	for _, c := range cells {
		t.Run(c.name, func(t *testing.T) {
			if strings.Contains(c.setup, "WITHOUT ROWID") {
				t.Skip("tursodb has no upserts into WITHOUT ROWID tables")
			}
			remote := &tursodb{Tursodb: s, t: t}
			defer remote.clear()
			for _, sql := range statements(c.setup) {
				realtest.Exec(t, s.URL, sql)
			}
			_, live, txns := c.prepare(t)
			if c.pushed > 0 {
				all := c.history(open(t, c.setup))
				mutations, err := cdc.Mutations(t.Context(), all[:c.pushed], cdc.MutationOptions{})
				if err == nil {
					err = remote.try(mutations)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, sql := range statements(c.remote) {
				if _, err := realtest.TryQuery(s.URL, sql); err != nil {
					t.Skipf("tursodb refuses the remote operation: %v", err)
				}
			}
			mutate := func(opts cdc.MutationOptions) error {
				opts.Remote, opts.Local = remote.read().objects(), live.objects()
				mutations, err := cdc.Mutations(t.Context(), txns, opts)
				if err != nil {
					return err
				}
				return remote.try(mutations)
			}
			err := mutate(cdc.MutationOptions{})
			if err != nil && strings.Contains(err.Error(), "UNIQUE") && mutate(cdc.MutationOptions{DeletesFirst: true}) == nil {
				err = nil
			}
			if (err != nil) != (c.refused != "") {
				t.Errorf("refused: %v, want %q", err, c.refused)
			}
			if strings.Contains(c.query, "sql FROM") || strings.Contains(c.query, "count(*) FROM sqlite_schema") && !strings.Contains(c.query, "name") {
				return // its own text, its own tables
			}
			c.left(t, remote.read())
		})
	}
}

// Exact values survive the way, as far as tursodb can hold them.
func TestTursodbValues(t *testing.T) {
	remote := &tursodb{Tursodb: realtest.StartTursodb(t), t: t}
	realtest.Exec(t, remote.URL, `CREATE TABLE v(id INTEGER PRIMARY KEY, x)`)
	shape := &cdc.Shape{Columns: []string{"id", "x"}, Key: []int{0}, RowIDAlias: 0}
	values := []any{
		nil, "", []byte{}, "a\x00b", "naïve", int64(math.MaxInt64), int64(math.MinInt64), 1.0, 0.1, 1e300, math.SmallestNonzeroFloat64,
		math.Inf(1), math.Inf(-1), math.Copysign(0, -1), []byte("\xff\x00"), "'quoted'",
	}
	var txn []cdc.Change
	for i, v := range values {
		id := int64(i + 1)
		txn = append(txn, cdc.Change{ID: cdc.ID(id), Txn: 1, Type: cdc.Insert, Table: "v", RowID: id, Shape: shape, After: cdc.EncodeRecord([]any{id, v})})
	}
	mutations, err := cdc.Mutations(t.Context(), [][]cdc.Change{txn}, cdc.MutationOptions{})
	if err == nil {
		err = remote.try(mutations)
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range remote.read().values(`SELECT +x FROM v ORDER BY id`) {
		if literal(row[0]) != literal(values[i]) {
			t.Errorf("value %d = %s, want %s", i, literal(row[0]), literal(values[i]))
		}
	}
}

// Random changes arrive at tursodb as they were made.
func TestTursodbRandom(t *testing.T) {
	if testing.Short() {
		t.Skip("a request for each statement")
	}
	s := seed(t)
	remote := &tursodb{Tursodb: realtest.StartTursodb(t), t: t}
	taken := slices.DeleteFunc(slices.Clone(tables), func(sql string) bool {
		return strings.Contains(sql, "WITHOUT ROWID") || strings.Contains(sql, "STORED")
	})
	for round := range uint64(6) {
		// The statements go out without internal/remote, which sends other numbers as
		// quotients: one double in a thousand would arrive as its neighbour.
		r := random{Rand: rand.New(rand.NewPCG(s, round)), json: true}
		r.text = []string{"", "a\x00b", "naïve", "A", "a", "a ", "1", "1.0"} // no bytes that are not UTF-8
		empty, live := open(t), open(t)
		for _, i := range r.Perm(len(taken))[:3] {
			live.run(taken[i])
		}
		r.mutate(live, 30)
		base := live.clone()
		r.mutate(live, 30)
		// Nothing is pulled in between: rows without a key may have other rowids there.
		for _, txn := range logged(t, append(diff(t, empty, base, 1), diff(t, base, live, 1000)...), 0) {
			mutations, err := cdc.Mutations(t.Context(), [][]cdc.Change{txn}, cdc.MutationOptions{DeletesFirst: true})
			if err == nil {
				err = remote.try(mutations)
			}
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		rows := func(db *database) []string {
			return slices.DeleteFunc(db.dump(false), func(line string) bool { return strings.HasPrefix(line, "table ") })
		}
		compare(t, fmt.Sprintf("round %d", round), rows(remote.read()), rows(live))
		remote.clear()
	}
}

// What tursodb makes of a definition defines the same.
func TestTursodbDefinitions(t *testing.T) {
	remote := realtest.StartTursodb(t)
	for _, sql := range definitions(t) {
		realtest.Exec(t, remote.URL, sql)
	}
	local := open(t, definitions(t)...)
	kept := (&tursodb{Tursodb: remote, t: t}).read().objects()
	for _, o := range local.objects() {
		i := slices.IndexFunc(kept, func(k cdc.SchemaObject) bool { return k.Kind == o.Kind && k.Name == o.Name })
		if i < 0 {
			t.Errorf("tursodb has no %s %s", o.Kind, o.Name)
		} else if !cdc.SameDefinition(o.SQL, kept[i].SQL) {
			t.Errorf("different: %s\n%s", o.SQL, kept[i].SQL)
		}
	}
}
