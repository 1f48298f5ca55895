package cdc_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/hooks"
)

// live is a captured database for tests.
type live struct {
	testing.TB
	path   string
	log    *cdc.Log
	before *database // a copy of what it was before anything was captured
	conns  map[string]*captured
	woken  atomic.Int32
}

// captured is a connection with a Session.
type captured struct {
	*live
	*sqlite3.SQLiteConn
	session *cdc.Session
}

// newLive makes a live database, runs the scripts on it without capturing, and
// opens its log.
func newLive(tb testing.TB, scripts ...string) *live {
	tb.Helper()
	l := &live{TB: tb, path: filepath.Join(tb.TempDir(), "live.db"), conns: make(map[string]*captured)}
	plain := l.plain()
	plain.run("PRAGMA journal_mode=WAL", "PRAGMA synchronous=OFF")
	plain.run(scripts...)
	if err := cdc.Setup(plain.SQLiteConn); err != nil {
		tb.Fatal(err)
	}
	l.before = l.copy(plain.SQLiteConn)
	log, err := cdc.OpenLog(cdc.LogConfig{Path: l.path, Committed: func() { l.woken.Add(1) }})
	if err != nil {
		tb.Fatal(err)
	}
	l.log = log
	tb.Cleanup(func() {
		for _, c := range l.conns {
			c.close()
		}
		if err := log.Close(); err != nil {
			tb.Errorf("close log: %v", err)
		}
	})
	return l
}

// plain opens a connection that is not captured.
func (l *live) plain() *database {
	l.Helper()
	conn, err := (&sqlite3.SQLiteDriver{}).Open(l.path)
	if err != nil {
		l.Fatal(err)
	}
	db := &database{TB: l.TB, SQLiteConn: conn.(*sqlite3.SQLiteConn)}
	l.Cleanup(func() { _ = db.Close() })
	return db
}

// copy returns a copy of the committed state, page for page.
func (l *live) copy(from *sqlite3.SQLiteConn) *database {
	l.Helper()
	conn, err := (&sqlite3.SQLiteDriver{}).Open(filepath.Join(l.TempDir(), "copy.db") + "?_fk=0")
	if err != nil {
		l.Fatal(err)
	}
	db := &database{TB: l.TB, SQLiteConn: conn.(*sqlite3.SQLiteConn)}
	l.Cleanup(func() { _ = db.Close() })
	b, err := db.Backup("main", from, "main")
	if err != nil {
		l.Fatal(err)
	}
	if _, err := b.Step(-1); err != nil {
		l.Fatal(err)
	}
	if err := b.Close(); err != nil {
		l.Fatal(err)
	}
	return db
}

// conn returns the captured connection of a name, opening it the first time.
func (l *live) conn(name string) *captured {
	l.Helper()
	if c, ok := l.conns[name]; ok {
		return c
	}
	conn, err := (&sqlite3.SQLiteDriver{}).Open(l.path + "?_busy_timeout=100&_fk=1")
	if err != nil {
		l.Fatal(err)
	}
	c := &captured{live: l, SQLiteConn: conn.(*sqlite3.SQLiteConn)}
	if _, err := c.SQLiteConn.Exec("PRAGMA synchronous=OFF", nil); err != nil {
		l.Fatal(err)
	}
	if c.session, err = l.log.Session(c.SQLiteConn); err != nil {
		l.Fatal(err)
	}
	l.conns[name] = c
	return c
}

func (c *captured) close() {
	for name, other := range c.conns {
		if other == c {
			delete(c.conns, name)
		}
	}
	if err := c.session.Close(); err != nil {
		c.Errorf("close session: %v", err)
	}
	if err := c.SQLiteConn.Close(); err != nil {
		c.Errorf("close connection: %v", err)
	}
}

// try runs the statements of a text as a driver would.
func (c *captured) try(sql string, args ...any) error {
	return c.tryContext(context.Background(), sql, args...)
}

func (c *captured) tryContext(ctx context.Context, sql string, args ...any) error {
	for sql != "" {
		st, err := c.session.Prepare(sql)
		if err != nil {
			return err
		}
		sql = st.Tail
		values := make([]driver.NamedValue, st.Params)
		for i := range values {
			values[i] = driver.NamedValue{Ordinal: i + 1, Value: args[i]}
		}
		args = args[st.Params:]
		if st.Kind == cdc.Empty {
			continue
		}
		run := func() error { return c.drain(ctx, st.SQL, values) }
		if st.ReadOnly {
			err = run()
		} else {
			err = c.session.Run(ctx, st, run)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// drain runs a statement and fetches all its rows.
func (c *captured) drain(ctx context.Context, sql string, args []driver.NamedValue) (err error) {
	rows, err := c.QueryContext(ctx, sql, args)
	if err != nil {
		return err
	}
	row := make([]driver.Value, len(rows.Columns()))
	for err == nil {
		err = rows.Next(row)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, rows.Close())
}

func (c *captured) run(scripts ...string) {
	c.Helper()
	for _, s := range scripts {
		if err := c.try(s); err != nil {
			c.Fatalf("%s: %v", s, err)
		}
	}
}

// changes returns the log.
func (l *live) changes() []*cdc.Change {
	l.Helper()
	var changes []*cdc.Change
	err := cdc.Load(l.plain().SQLiteConn, 0, func(c *cdc.Change) error {
		changes = append(changes, c)
		return nil
	})
	if err != nil {
		l.Fatal(err)
	}
	return changes
}

// check replays the log on the state before, literally, and requires the state
// after. It is stricter than any replay needs to be: every before image must be
// the row that is there.
func (l *live) check() {
	l.Helper()
	now := l.plain()
	want := content(now)
	literal := l.copy(l.before.SQLiteConn)
	replayLiterally(literal, l.changes())
	l.same("literal replay", content(literal), want)
	if l.Failed() {
		return
	}
	replayed := l.copy(l.before.SQLiteConn)
	replayed.quiet()
	r, err := cdc.NewReplayer(replayed.SQLiteConn)
	if err != nil {
		l.Fatal(err)
	}
	err = cdc.LoadTxns(now.SQLiteConn, 0, func(txn []cdc.Change) error {
		outcome, err := r.Apply(context.Background(), txn)
		if err == nil && outcome.Rejected() {
			err = fmt.Errorf("txn %d: %v at change %d: %w", txn[0].ID, outcome.Reason, outcome.Change, outcome.Err)
		}
		return err
	})
	if err != nil {
		l.Errorf("replay: %v", err)
		return
	}
	if err := r.Close(); err != nil {
		l.Fatal(err)
	}
	// Rowids of tables with another key are nobody's identity.
	l.same("replay", replayed.dump(true), now.dump(true))
	if l.Failed() {
		l.Log("the log:\n" + logText(l.TB, l.changes()))
	}
}

// content is everything that a database holds, exactly: schema, pragmas, rowids,
// storage classes.
func content(db *database) []string {
	db.Helper()
	var out []string
	out = append(out, db.query("SELECT 'user_version', user_version FROM pragma_user_version")...)
	out = append(out, db.query("SELECT 'application_id', application_id FROM pragma_application_id")...)
	out = append(out, db.query(`SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL
		AND name NOT LIKE 'turso\_%' ESCAPE '\' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY type, name`)...)
	schema, err := hooks.ReadSchema(db.SQLiteConn, 0)
	if err != nil {
		db.Fatal(err)
	}
	for _, o := range schema.Objects {
		if o.Kind != "table" || cdc.Internal(o.Name) {
			continue
		}
		t, err := schema.Table(db.SQLiteConn, o.Name)
		if err != nil {
			db.Fatal(err)
		}
		var columns []string
		if !t.WithoutRowID && t.RowID != "" {
			columns = append(columns, hooks.Quote(t.RowID))
		}
		for _, c := range t.All {
			columns = append(columns, "+"+hooks.Quote(c.Name))
		}
		rows := db.query("SELECT " + strings.Join(columns, ", ") + " FROM main." + hooks.Quote(o.Name))
		slices.Sort(rows)
		for _, row := range rows {
			out = append(out, o.Name+": "+row)
		}
	}
	return out
}

// replayLiterally applies changes to an unchanged copy: within a run of row
// changes first all before images are removed, then all after images put in.
func replayLiterally(db *database, changes []*cdc.Change) {
	db.Helper()
	db.quiet()
	for len(changes) > 0 {
		if s := changes[0].Schema; s != nil {
			if err := db.try(s.SQL); err != nil {
				db.Fatalf("change %d: %s: %v", changes[0].ID, s.SQL, err)
			}
			changes = changes[1:]
			continue
		}
		n := 0
		seen := make(map[string]bool) // a row may be there twice after a COMMIT that failed
		for n < len(changes) && changes[n].Schema == nil && changes[n].Txn == changes[0].Txn && !seen[rowKey(db, changes[n])] {
			seen[rowKey(db, changes[n])] = true
			n++
		}
		for _, c := range changes[:n] {
			if c.Before != nil {
				removeRow(db, c)
			}
		}
		for _, c := range changes[:n] {
			if c.After != nil {
				putRow(db, c)
			}
		}
		changes = changes[n:]
	}
}

func rowKey(db *database, c *cdc.Change) string {
	if !c.Shape.WithoutRowID {
		return fmt.Sprint(c.Table, c.RowID)
	}
	image := c.Before
	if image == nil {
		image = c.After
	}
	_, values := rowOf(db, c, image)
	key := c.Table
	for _, k := range c.Shape.Key {
		key += " " + literal(values[k])
	}
	return key
}

func rowOf(db *database, c *cdc.Change, image []byte) (columns []string, values []any) {
	db.Helper()
	values, err := cdc.DecodeRecord(image)
	if err != nil {
		db.Fatalf("change %d: %v", c.ID, err)
	}
	if len(values) != len(c.Shape.Columns) {
		db.Fatalf("change %d: %d values, want %d", c.ID, len(values), len(c.Shape.Columns))
	}
	for _, name := range c.Shape.Columns {
		columns = append(columns, hooks.Quote(name))
	}
	if name := rowidName(c.Shape); name != "" && c.Shape.RowIDAlias < 0 && !c.Shape.WithoutRowID {
		columns, values = append(columns, name), append(values, c.RowID)
	}
	return columns, values
}

func removeRow(db *database, c *cdc.Change) {
	db.Helper()
	columns, values := rowOf(db, c, c.Before)
	var where []string
	for i := range columns {
		where = append(where, fmt.Sprintf("%s IS ?%d AND typeof(%[1]s) = typeof(?%[2]d)", columns[i], i+1))
	}
	_, err := db.Exec("DELETE FROM main."+hooks.Quote(c.Table)+" WHERE "+strings.Join(where, " AND "), bound(values))
	if err != nil {
		db.Fatalf("change %d: %v", c.ID, err)
	}
	if got := db.query("SELECT changes()"); got[0] != "1" {
		db.Errorf("change %d of %s: before image %v found %s times", c.ID, c.Table, values, got[0])
	}
}

func putRow(db *database, c *cdc.Change) {
	db.Helper()
	columns, values := rowOf(db, c, c.After)
	marks := strings.TrimSuffix(strings.Repeat("?, ", len(values)), ", ")
	_, err := db.Exec("INSERT OR ABORT INTO main."+hooks.Quote(c.Table)+"("+strings.Join(columns, ", ")+") VALUES ("+marks+")", bound(values))
	if err != nil {
		db.Errorf("change %d of %s: put %v: %v", c.ID, c.Table, values, err)
	}
}

func bound(values []any) []driver.Value {
	b := make([]driver.Value, len(values))
	for i, v := range values {
		b[i] = v
	}
	return b
}

// same requires two contents to be equal and shows the first lines that differ.
func (l *live) same(what string, got, want []string) {
	l.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "(nothing)", "(nothing)"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			l.Errorf("%s: line %d\n got %s\nwant %s", what, i, g, w)
			return
		}
	}
}
