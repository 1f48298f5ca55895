package cdc_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tursosync/tursosync/cdc"
)

func mutations(t *testing.T, opts cdc.MutationOptions, txns ...[]cdc.Change) []string {
	t.Helper()
	all, err := cdc.Mutations(t.Context(), txns, opts)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range all {
		args := make([]string, len(m.Args))
		for i, a := range m.Args {
			args[i] = literal(a)
		}
		out = append(out, strings.TrimSpace(fmt.Sprintf("%d: %s  %s", m.Change, m.SQL, strings.Join(args, " "))))
	}
	return out
}

// Changes of one row collapse into their net effect.
func TestCollapse(t *testing.T) {
	x, y := []any{"x", int64(1)}, []any{"x", int64(2)}
	key := func(id cdc.ID, before, after []any) []cdc.Change {
		return []cdc.Change{row(id, id, keyShape, "t", 1, before, after)}
	}
	bag := func(id cdc.ID, before, after []any, local bool) []cdc.Change {
		c := row(id, id, bagShape, "t", 1, before, after)
		c.Local = local
		return []cdc.Change{c}
	}
	const upsert = `INSERT OR ABORT INTO "t"("k","a") VALUES (?,?) ON CONFLICT("k") DO UPDATE SET `
	for name, c := range map[string]struct {
		txns [][]cdc.Change
		want []string
	}{
		"insert update":   {[][]cdc.Change{key(1, nil, x), key(2, x, y)}, []string{`1: ` + upsert + `"k"=excluded."k","a"=excluded."a"  "x" 2`}},
		"insert delete":   {[][]cdc.Change{key(1, nil, x), key(2, x, nil)}, []string{`1: DELETE FROM "t" WHERE "k" = ?  "x"`}},
		"update and back": {[][]cdc.Change{key(1, x, y), key(2, y, x)}, []string{`1: ` + upsert + `"a"=excluded."a"  "x" 1`}},
		"update delete":   {[][]cdc.Change{key(1, x, y), key(2, y, nil)}, []string{`1: DELETE FROM "t" WHERE "k" = ?  "x"`}},
		"delete insert":   {[][]cdc.Change{key(1, x, nil), key(2, nil, y)}, []string{`1: ` + upsert + `"a"=excluded."a"  "x" 2`}},
		"equal keys": {[][]cdc.Change{key(1, []any{"A", nil}, nil), key(2, nil, []any{"a", nil}), key(3, []any{"a", nil}, nil), key(4, nil, []any{"A", nil})}, []string{
			`1: DELETE FROM "t" WHERE "k" = ?  "A"`, `2: DELETE FROM "t" WHERE "k" = ?  "a"`, `4: ` + upsert + `"k"=excluded."k","a"=excluded."a"  "A" NULL`}},
		"key change": {[][]cdc.Change{key(1, x, y), key(2, y, []any{"z", int64(2)}), key(3, []any{"z", int64(2)}, nil)}, []string{
			`1: ` + upsert + `"a"=excluded."a"  "x" 2`, `2: DELETE FROM "t" WHERE "k" = ?  "x"`,
			`2: ` + upsert + `"k"=excluded."k","a"=excluded."a"  "z" 2`, `3: DELETE FROM "t" WHERE "k" = ?  "z"`}},
		"schema between": {[][]cdc.Change{key(1, x, y), {alter(2, 2, "t", "ALTER TABLE t ADD q")}, key(3, y, nil)}, []string{
			`1: ` + upsert + `"a"=excluded."a"  "x" 2`, `2: ALTER TABLE t ADD q`, `3: DELETE FROM "t" WHERE "k" = ?  "x"`}},
		"bag insert update": {[][]cdc.Change{bag(1, nil, []any{"a"}, false), bag(2, []any{"a"}, []any{"b"}, true)}, []string{`1: INSERT OR ABORT INTO "t"("a") VALUES (?)  "b"`}},
		"bag insert delete": {[][]cdc.Change{bag(1, nil, []any{"a"}, false), bag(2, []any{"a"}, nil, true)}, nil},
		"bag delete insert": {[][]cdc.Change{bag(1, []any{"a"}, nil, false), bag(2, nil, []any{"b"}, false)}, []string{
			`1: DELETE FROM "t" WHERE "rowid" = ?  1`, `2: INSERT OR ABORT INTO "t"("a") VALUES (?)  "b"`}},
		"nothing changed": {[][]cdc.Change{key(1, x, x)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := mutations(t, cdc.MutationOptions{}, c.txns...); !slices.Equal(got, c.want) {
				t.Errorf("mutations:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestTransform(t *testing.T) {
	txn := []cdc.Change{
		row(1, 1, intShape, "t", 1, nil, []any{int64(1), "a"}),
		row(2, 1, intShape, "t", 1, []any{int64(1), "a"}, []any{int64(1), "b"}),
		alter(3, 1, "t", "ALTER TABLE t ADD q"),
		row(4, 1, intShape, "t", 1, []any{int64(1), "b"}, nil),
	}
	var seen []string
	got := mutations(t, cdc.MutationOptions{Transform: func(_ context.Context, r cdc.Row) (cdc.Decision, error) {
		seen = append(seen, fmt.Sprint(r.Change, r.Type, r.Table, r.RowID, r.Before, r.After, r.Changed))
		switch r.Type {
		case cdc.Update:
			return cdc.Decision{Action: cdc.Skip}, nil
		case cdc.Delete:
			return cdc.Decision{Action: cdc.Rewrite, SQL: `UPDATE t SET gone = ?`, Args: []any{r.Before["id"]}}, nil
		}
		return cdc.Decision{}, nil
	}}, txn)
	want := []string{
		`1: INSERT OR ABORT INTO "t"("id","a") VALUES (?,?) ON CONFLICT("id") DO UPDATE SET "a"=excluded."a"  1 "a"`,
		`3: ALTER TABLE t ADD q`,
		`4: UPDATE t SET gone = ?  1`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("mutations:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	wantSeen := []string{
		`1 1 t 1 map[] map[a:a id:1] []`, `2 0 t 1 map[a:a id:1] map[a:b id:1] [a]`, `4 -1 t 1 map[a:b id:1] map[] []`,
	}
	for i := range wantSeen {
		if strings.ReplaceAll(seen[i], " ", "") != strings.ReplaceAll(wantSeen[i], " ", "") {
			t.Errorf("seen %s, want %s", seen[i], wantSeen[i])
		}
	}

	broken := errors.New("broken")
	for name, c := range map[string]struct {
		decision cdc.Decision
		err      error
	}{
		"error":    {err: broken},
		"empty":    {decision: cdc.Decision{Action: cdc.Rewrite, SQL: " -- nothing"}},
		"argument": {decision: cdc.Decision{Action: cdc.Rewrite, SQL: "SELECT ?", Args: []any{7}}},
		"action":   {decision: cdc.Decision{Action: 9}},
	} {
		_, err := cdc.Mutations(t.Context(), [][]cdc.Change{txn}, cdc.MutationOptions{Transform: func(context.Context, cdc.Row) (cdc.Decision, error) {
			return c.decision, c.err
		}})
		if err == nil || c.err != nil && !errors.Is(err, c.err) {
			t.Errorf("%s: Mutations = %v", name, err)
		}
	}
}

// The remote's triggers rest while rows are written to their tables: those that
// live has, too, and only while it is so.
func TestTriggersRest(t *testing.T) {
	const (
		same  = `CREATE TRIGGER same AFTER INSERT ON t BEGIN INSERT INTO log VALUES('same'); END`
		other = `CREATE TRIGGER other AFTER INSERT ON u BEGIN INSERT INTO log VALUES('other'); END`
		mine  = `CREATE TRIGGER mine AFTER INSERT ON t BEGIN INSERT INTO log VALUES('mine'); END`
	)
	schema := []string{`CREATE TABLE t(id INTEGER PRIMARY KEY, a)`, `CREATE TABLE u(id INTEGER PRIMARY KEY, a)`, `CREATE TABLE log(x)`}
	remote := open(t, append(schema, strings.ToLower(same[:25])+same[25:], mine, other)...)
	live := open(t, append(schema, same, strings.Replace(mine, "'mine'", "'changed'", 1), other)...)
	txns := [][]cdc.Change{
		{row(1, 1, intShape, "t", 1, nil, []any{int64(1), "a"})},
		{alter(2, 2, "t", `ALTER TABLE t ADD q`), row(3, 2, intShape, "t", 2, nil, []any{int64(2), "a"})},
	}
	got := mutations(t, cdc.MutationOptions{Remote: remote.objects(), Local: live.objects()}, txns...)
	var ddl []string
	for _, m := range got {
		if !strings.Contains(m, "INSERT OR ABORT") {
			ddl = append(ddl, strings.ToLower(m[3:15]))
		}
	}
	if want := []string{"drop trigger", "create trigg", "alter table ", "drop trigger", "create trigg"}; !slices.Equal(ddl, want) {
		t.Errorf("statements %q, want %q:\n%s", ddl, want, strings.Join(got, "\n"))
	}
	before := remote.objects()
	if err := remote.push(txns, cdc.MutationOptions{Remote: remote.objects(), Local: live.objects()}); err != nil {
		t.Fatal(err)
	}
	// A trigger that is not here, or is another one here, fires.
	if got, want := remote.query(`SELECT x FROM log`), []string{`"mine"`, `"mine"`}; !slices.Equal(got, want) {
		t.Errorf("log = %q, want %q", got, want)
	}
	if got := remote.objects(); len(got) != len(before) {
		t.Errorf("%d objects, want %d", len(got), len(before))
	}
}

func TestProbes(t *testing.T) {
	var txn []cdc.Change
	remote := open(t, `CREATE TABLE t(id INTEGER PRIMARY KEY, a)`)
	for i := range int64(1200) {
		txn = append(txn, row(cdc.ID(i+1), 1, intShape, "t", i, nil, []any{i, "mine"}))
	}
	txn = append(txn,
		row(2001, 1, intShape, "t", 5000, []any{int64(5000), "a"}, nil), // was there: ours
		row(2002, 1, intShape, "t", 5000, nil, []any{int64(5000), "b"}),
		row(2003, 1, intShape, "new", 1, nil, []any{int64(1), "b"}),
		cdc.Change{ID: 2004, Txn: 1, Type: cdc.Insert, Table: cdc.SchemaTable, Schema: &cdc.SchemaChange{Op: "create", Kind: "table", Name: "new", Table: "new", SQL: "CREATE TABLE new(id INTEGER PRIMARY KEY, a)"}},
		row(2005, 1, bagShape, "bag", 1, nil, []any{"b"}),
	)
	remote.run(`INSERT INTO t VALUES(3,'theirs'),(700,'mine'),(1100,NULL),(5000,'a')`)
	probes, err := cdc.Probes([][]cdc.Change{txn})
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, p := range probes {
		for _, c := range collide(t, remote, &p) {
			found = append(found, fmt.Sprint(c.Change, c.Table, c.Key, c.Local, c.Remote))
		}
	}
	want := []string{fmt.Sprint(cdc.ID(4), "t", int64(3), map[string]any{"id": int64(3), "a": "mine"}, map[string]any{"id": int64(3), "a": "theirs"}),
		fmt.Sprint(cdc.ID(1101), "t", int64(1100), map[string]any{"id": int64(1100), "a": "mine"}, map[string]any{"id": int64(1100), "a": nil})}
	if !slices.Equal(found, want) || len(probes) != 3 {
		t.Errorf("%d probes found %q, want %q", len(probes), found, want)
	}
	if _, err := probes[0].Collisions([][]any{{int64(99999), "x"}}); err == nil {
		t.Error("a row that was not asked for is no error")
	}
	if _, err := probes[0].Collisions([][]any{{}}); err == nil {
		t.Error("a row without columns is no error")
	}
}

// A row without identity that had to move is reached by all that follows, and
// the log says where it is.
func TestReplayMovesRows(t *testing.T) {
	local := func(c cdc.Change) cdc.Change { c.Local = true; return c }
	a, b, c := []any{"a"}, []any{"b"}, []any{"c"}
	base := open(t, `CREATE TABLE t(a); INSERT INTO t(rowid,a) VALUES(1,'x'),(2,'y')`)
	r, err := cdc.NewReplayer(base.quiet().SQLiteConn)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var log []string
	for _, txn := range [][]cdc.Change{
		{row(1, 1, bagShape, "t", 1, nil, a), row(2, 1, bagShape, "t", 2, nil, a)},
		{local(row(3, 3, bagShape, "t", 2, a, b))},
		{row(4, 4, keyShape, "missing", 2, nil, []any{"k", nil})},
		{local(row(5, 5, bagShape, "t", 1, a, c))},
		{local(row(6, 6, bagShape, "t", 2, b, nil))},
		{local(row(7, 7, bagShape, "t", 9, a, b))},    // its insert is in base, and gone
		{local(row(8, 8, bagShape, "t", 12, a, nil))}, // the same
		{row(9, 9, bagShape, "t", 2, []any{"y"}, b)},
	} {
		out, err := r.Apply(t.Context(), txn)
		if err != nil {
			t.Fatal(err)
		}
		if out.Rejected() != (txn[0].ID == 4) {
			t.Errorf("transaction %d: %+v", txn[0].ID, out)
		}
		for _, c := range out.Log {
			log = append(log, fmt.Sprint(c.ID, " ", c.Type, " ", c.RowID))
		}
	}
	if want := []string{"1 1 3", "2 1 4", "3 0 4", "5 0 3", "6 -1 4", "7 1 9", "9 0 2"}; !slices.Equal(log, want) {
		t.Errorf("log = %q, want %q", log, want)
	}
	if got, want := base.query(`SELECT rowid, a FROM t`), []string{`1 "x"`, `2 "b"`, `3 "c"`, `9 "b"`}; !slices.Equal(got, want) {
		t.Errorf("rows = %q, want %q", got, want)
	}
}

// Nothing of a rejected transaction stays, not even its schema changes.
func TestReplayRejectsWhole(t *testing.T) {
	base := open(t, `CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE); INSERT INTO t VALUES(1,'x')`)
	before := base.dump(true)
	txn := []cdc.Change{
		{ID: 1, Txn: 1, Type: cdc.Insert, Table: cdc.SchemaTable, Schema: &cdc.SchemaChange{Op: "create", Kind: "table", Name: "n", Table: "n", SQL: "CREATE TABLE n(a)"}},
		row(2, 1, bagShape, "n", 1, nil, []any{"a"}),
		row(3, 1, intShape, "t", 2, nil, []any{int64(2), "x"}),
	}
	next := []cdc.Change{row(4, 4, bagShape, "n", 1, []any{"a"}, []any{"b"})}
	outs := base.replay([][]cdc.Change{txn, next})
	if outs[0].Reason != cdc.ReasonConstraint || outs[0].Change != 3 || !strings.Contains(outs[0].Err.Error(), "UNIQUE constraint failed: t.a") {
		t.Errorf("first outcome = %+v", outs[0])
	}
	if outs[1].Reason != cdc.ReasonSchema {
		t.Errorf("second outcome = %+v", outs[1])
	}
	compare(t, "after the rejection", base.dump(true), before)
}

func TestReplayStops(t *testing.T) {
	base := open(t, `CREATE TABLE t(a)`)
	r, err := cdc.NewReplayer(base.SQLiteConn)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	if _, err := r.Apply(ctx, []cdc.Change{row(1, 1, bagShape, "t", 1, nil, []any{"a"})}); !errors.Is(err, cause) {
		t.Errorf("Apply = %v, want the cause", err)
	}
	bad := row(1, 1, bagShape, "t", 1, nil, []any{"a", "b"})
	if _, err := r.Apply(t.Context(), []cdc.Change{bad}); !errors.Is(err, cdc.ErrBadRecord) {
		t.Errorf("Apply = %v, want ErrBadRecord", err)
	}
	if got := base.query(`SELECT count(*) FROM t`); got[0] != "0" {
		t.Errorf("%s rows", got[0])
	}
}
