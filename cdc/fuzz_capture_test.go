package cdc_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/cdc"
)

// Stories of the grammar (grammar_test.go), told to captured connections, must
// end as they should:
//
//   - the log leads from the state before to the state after, literally and by
//     the replay;
//   - pushed to a plain copy of the state before, all at once and transaction by
//     transaction, it leaves the state after;
//   - plain connections that run the same statements on another copy return the same
//     rows, errors, changes() and last_insert_rowid(), and hold the same in the end.
//
// What fails is printed as a script for testdata/script/capture.

// FuzzCapture looks at the log and the twin, FuzzPush at what is pushed. A failing
// input is repeated by go test -run FuzzCapture/NAME; with CDC_SHRINK=1 it is made
// smaller, statement by statement.
func FuzzCapture(f *testing.F) { fuzzStories(f, (*story).checkCapture) }

// FuzzPush: see FuzzCapture.
func FuzzPush(f *testing.F) { fuzzStories(f, (*story).checkPush) }

func fuzzStories(f *testing.F, end func(*story)) {
	for seed := range uint64(6) {
		f.Add(randomStory(seed, 25))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 120*chunkSize {
			return
		}
		if os.Getenv("CDC_SHRINK") != "" {
			shrink(t, data, end)
			return
		}
		tellStory(t, data, end, 2*time.Second) // Go ends a process that takes 10
	})
}

// TestRandomCapture runs random stories, the same ones every time: to look for others
// is what the fuzzer is for. CDC_SEED is the first one's seed, CDC_ROUNDS their number.
func TestRandomCapture(t *testing.T) { randomStories(t, (*story).checkCapture) }

// TestRandomPush: see TestRandomCapture.
func TestRandomPush(t *testing.T) { randomStories(t, (*story).checkPush) }

func randomStories(t *testing.T, end func(*story)) {
	rounds := 25
	if text := os.Getenv("CDC_ROUNDS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		rounds = n
	}
	first := uint64(1)
	if os.Getenv("CDC_SEED") != "" {
		first = seed(t)
	}
	for i := range rounds {
		s := first + uint64(i)
		ok := t.Run(strconv.FormatUint(s, 10), func(t *testing.T) { shrink(t, randomStory(s, 90), end) })
		if !ok {
			t.Logf("CDC_SEED=%d CDC_ROUNDS=1 go test ./cdc -run %s", s, t.Name())
			return
		}
	}
}

// story is a story being told.
type story struct {
	*live
	g        scribe
	patience context.Context
	data     []byte
	names    []string // of the connections
	twin     *twin    // nil: there are several connections
	setup    []string
	script   []string
	now      string // the connection that the script is at
}

// storyChanges is how many changes a story may make for its end to be checked: the checks
// take a multiple of what SQLite took for them.
const storyChanges = 10_000

// tellStory runs the story that the bytes stand for and checks its end, if SQL is not at
// work on it for longer than patience.
func tellStory(tb testing.TB, data []byte, end func(*story), patience time.Duration) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s := &story{data: data, names: []string{"main"}, patience: ctx}
	defer func() {
		if tb.Failed() {
			tb.Log(s.text())
		}
	}()
	parts := chunks(data)
	first := []byte(nil)
	if len(parts) > 0 {
		first, parts = parts[0], parts[1:]
	}
	s.g.chunk(first)
	tables := 1 + s.g.IntN(5)
	if s.g.one(4) {
		s.names = append(s.names, "second")
	}
	s.g.foreign = s.g.one(4)
	s.prepare(tb, tables)
	for _, name := range s.names {
		// Recursive triggers of two statements would take for ever.
		s.conn(name).SetLimit(sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 8)
		s.on(name, "PRAGMA busy_timeout = 0;")
		if s.g.foreign {
			s.on(name, "ATTACH ':memory:' AS aux;")
			s.on(name, "CREATE TABLE aux.p1(a UNIQUE, b);")
			s.on(name, "CREATE TEMP TABLE p2(a, b UNIQUE);")
		}
	}
	name := s.names[0]
	for _, chunk := range parts {
		s.g.chunk(chunk)
		if len(s.names) > 1 && s.g.one(8) {
			name = s.names[s.g.IntN(len(s.names))]
		}
		c := s.conn(name)
		s.g.conn, s.g.inTx = c.SQLiteConn, c.session.InTx
		s.on(name, s.g.statement()+";")
		if tb.Failed() {
			return
		}
	}
	for _, name := range s.names {
		if s.conn(name).session.InTx() {
			s.on(name, "COMMIT;")
		}
		if s.conn(name).session.InTx() {
			s.on(name, "ROLLBACK;")
		}
	}
	if n := len(s.changes()); n > storyChanges {
		s.Skipf("%d changes, %d are enough", n, storyChanges)
	}
	end(s)
}

// checkCapture checks the log, and the database against its twin.
func (s *story) checkCapture() {
	s.Helper()
	if s.check(); s.Failed() {
		return
	}
	if s.twins() {
		s.same("plain connections", content(s.twin.open()), content(s.plain()))
	}
}

// prepare makes the database: its tables, as far as SQLite will have them.
func (s *story) prepare(tb testing.TB, tables int) {
	tb.Helper()
	scratch := open(tb)
	for _, sql := range s.g.setup(tables) {
		if scratch.try(sql) == nil {
			s.setup = append(s.setup, sql+";")
		}
	}
	s.live = newLive(tb, s.setup...)
	if len(s.names) == 1 {
		s.twin = newTwin(s.patience, s.live)
		s.twin.conn.SetLimit(sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 8)
	}
}

// text is the story as a script of the conformance suite.
func (s *story) text() string {
	var b strings.Builder
	b.WriteString("the story:\n--@ setup\n")
	for _, line := range append(slices.Clone(s.setup), s.script...) {
		b.WriteString(line + "\n")
	}
	fmt.Fprintf(&b, "the bytes: []byte(%q)", s.data)
	return b.String()
}

// on runs a text on a connection, piece by piece, and on its twin.
func (s *story) on(name, sql string) {
	s.Helper()
	if s.now != name {
		s.script, s.now = append(s.script, "--@ conn "+name), name
	}
	s.script = append(s.script, sql)
	at := len(s.script) - 1
	err := s.pieces(s.conn(name), sql)
	if err == nil {
		return
	}
	s.script[at] += " -- ! " + strings.ReplaceAll(err.Error(), "\n", " ")
	var e sqlite3.Error
	var unsupported *cdc.UnsupportedError
	if !errors.As(err, &e) && !errors.As(err, &unsupported) || errors.Is(err, cdc.ErrUncaptured) {
		s.Fatalf("%s: %v", sql, err)
	}
}

// parted tells whether an UPDATE of several rows had another outcome on the twin, and
// may have: what is left of rows that are in each other's way depends on the order in
// which they are visited, and SQLite may take another index where there are triggers.
func (s *story) parted(c *captured, sql string) bool {
	if !strings.Contains(sql, "UPDATE") && !strings.Contains(sql, "REPLACE") {
		return false
	}
	text := strings.Join(s.setup, "") + strings.Join(s.script, "")
	if !strings.Contains(text, "ON CONFLICT") && !strings.Contains(text, "UPDATE OR") {
		return false
	}
	return !slices.Equal(content(&database{TB: s.TB, SQLiteConn: c.SQLiteConn}), content(s.twin.conn))
}

func (s *story) twins() bool { return s.twin != nil && !s.twin.lost }

func (s *story) pieces(c *captured, sql string) error {
	for sql != "" {
		st, err := c.session.Prepare(sql)
		if err != nil {
			var unsupported *cdc.UnsupportedError
			if s.twins() && !errors.As(err, &unsupported) {
				s.twin.run(sql, err)
			}
			return err
		}
		sql = st.Tail
		if st.Kind == cdc.Empty {
			continue
		}
		var rows []string
		run := func() (err error) {
			rows, err = drained(s.patience, c.SQLiteConn, st.SQL)
			return err
		}
		if st.ReadOnly {
			err = run()
		} else {
			err = c.session.Run(context.Background(), st, run)
		}
		if errors.Is(err, errEndless) {
			s.Skipf("%s: %v", st.SQL, err)
		}
		var unsupported *cdc.UnsupportedError
		if errors.As(err, &unsupported) {
			return err
		}
		if s.twins() && !strings.HasPrefix(st.SQL, "PRAGMA wal_") { // these do nothing here
			plain := s.twin.run(st.SQL, err)
			ifExists := strings.HasPrefix(st.SQL, "DROP") || strings.HasPrefix(st.SQL, "CREATE")
			switch {
			case s.twin.lost:
			case s.parted(c, st.SQL):
				s.twin.lost = true
			case err == nil:
				s.twin.rows(st.SQL, rows, plain)
			}
			if s.twins() && st.Kind == cdc.Write && !ifExists {
				s.twin.counts(c, st.SQL, err)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// errEndless: triggers that each change all rows of the next one's table make SQLite work
// for hours, and so does a table that is copied into itself again and again.
var errEndless = errors.New("takes for ever")

// drained runs a statement and returns its rows, those before an error too.
func drained(ctx context.Context, conn *sqlite3.SQLiteConn, sql string) (list []string, err error) {
	defer func() {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", errEndless, err)
		}
	}()
	rows, err := conn.QueryContext(ctx, sql, nil)
	if err != nil {
		return nil, err
	}
	row := newRow(rows)
	for {
		if err = rows.Next(row); err != nil {
			break
		}
		fields := make([]string, len(row))
		for i, v := range row {
			fields[i] = literal(v)
		}
		list = append(list, strings.Join(fields, " "))
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return list, errors.Join(err, rows.Close())
}

func newRow(rows driver.Rows) []driver.Value { return make([]driver.Value, len(rows.Columns())) }

// twin is a plain connection to a copy of the database.
type twin struct {
	patience context.Context
	*live
	path              string
	conn              *database
	total, plainTotal int64 // total_changes of both
	skewed            bool  // their last rowids differ, because of a failed INSERT
	lost              bool  // it went another way
}

func newTwin(ctx context.Context, l *live) *twin {
	l.Helper()
	w := &twin{patience: ctx, live: l, path: filepath.Join(l.TempDir(), "twin.db")}
	bytes, err := os.ReadFile(l.path)
	if err == nil {
		err = os.WriteFile(w.path, bytes, 0o600)
	}
	if err == nil {
		bytes, err = os.ReadFile(l.path + "-wal")
	}
	if err == nil {
		err = os.WriteFile(w.path+"-wal", bytes, 0o600)
	}
	if err != nil {
		l.Fatal(err)
	}
	w.conn = w.open()
	w.conn.run("PRAGMA synchronous=OFF")
	return w
}

func (w *twin) open() *database {
	w.Helper()
	conn, err := (&sqlite3.SQLiteDriver{}).Open(w.path + "?_busy_timeout=100&_fk=1")
	if err != nil {
		w.Fatal(err)
	}
	db := &database{TB: w.TB, SQLiteConn: conn.(*sqlite3.SQLiteConn)}
	w.Cleanup(func() { _ = db.Close() })
	return db
}

// run runs a statement, compares whether it failed, and returns its rows.
func (w *twin) run(sql string, err error) (plain []string) {
	w.Helper()
	plain, plainErr := drained(w.patience, w.conn.SQLiteConn, sql)
	if errors.Is(plainErr, errEndless) {
		w.Skipf("%s: %v", sql, plainErr)
	}
	switch {
	case err != nil && err.Error() == "database aux is locked":
		// By the grammar's own look at it, in a transaction.
		w.lost = true
	case err != nil && refused(err) && strings.HasPrefix(err.Error(), "FOREIGN KEY"):
		// What such a statement leaves pending for the COMMIT is less where there are
		// triggers.
		w.lost = true
	case err != nil && strings.HasPrefix(err.Error(), "error in "):
		// An ALTER TABLE that fails in a transaction may leave SQLite confused.
		w.lost = true
	case err != nil && strings.HasPrefix(err.Error(), "triggers nested too deep"):
		// Ours nest, too.
		w.lost = true
	case err != nil && strings.HasPrefix(err.Error(), "foreign key mismatch"):
		// Met by what SQLite compiles, which is more where there are triggers.
		w.lost = true
	case err != nil && strings.HasPrefix(err.Error(), "cannot store "):
		// SQLite does not undo the rows before the one that STRICT refuses, unless the
		// table has triggers.
		w.lost = true
	case fmt.Sprint(err) == fmt.Sprint(plainErr):
	case strings.Contains(sql, "UPDATE") && (err == nil && taken(plainErr) || plainErr == nil && taken(err)):
		// Rows that take each other's values fail or not by the order in which they are
		// visited, see parted.
		w.lost = true
	case err != nil && plainErr != nil:
		// Two things are wrong: with triggers, which our own are, types are checked
		// before other constraints. What is left may differ by these's ON CONFLICT.
		w.lost = true
	default:
		w.Errorf("%s: %v, on a plain connection %v", sql, err, plainErr)
	}
	return plain
}

func taken(err error) bool {
	return err != nil && strings.HasPrefix(err.Error(), "UNIQUE constraint failed")
}

// rows compares what statements return; an UPDATE does in the order in which it
// visits its rows.
func (w *twin) rows(sql string, rows, plain []string) {
	w.Helper()
	if strings.Contains(sql, "UPDATE") {
		slices.Sort(rows)
		slices.Sort(plain)
	}
	if !slices.Equal(rows, plain) {
		w.Errorf("%s: rows %q, on a plain connection %q", sql, rows, plain)
	}
}

// counts compares what statements did by their own account; err: this one failed,
// and only the next ones count.
func (w *twin) counts(c *captured, sql string, err error) {
	w.Helper()
	changes, total, last := c.session.Changes()
	plain := w.conn.values("SELECT changes(), total_changes(), last_insert_rowid()")[0]
	got, want := []any{changes, total - w.total, last}, []any{plain[0], plain[1].(int64) - w.plainTotal, plain[2]}
	w.total, w.plainTotal = total, plain[1].(int64)
	// An INSERT that a foreign key stopped sets the last rowid or does not, depending
	// on whether the table has triggers: ours count.
	if w.skewed = (w.skewed || err != nil) && last != plain[2]; w.skewed {
		got, want = got[:2], want[:2]
	}
	if err == nil && !slices.Equal(got, want) {
		w.Errorf("%s: changes(), total_changes(), last_insert_rowid() are %v, on a plain connection %v", sql, got, want)
	}
}

// checkPush pushes the log to copies of the state before.
func (s *story) checkPush() {
	s.Helper()
	now := s.plain()
	want := byContent(now.dump(false))
	var txns [][]cdc.Change
	err := cdc.LoadTxns(now.SQLiteConn, 0, func(txn []cdc.Change) error {
		txns = append(txns, txn)
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
	local := now.objects()
	together := s.copy(s.before.SQLiteConn)
	if err := together.push(txns, cdc.MutationOptions{Remote: together.objects(), Local: local}); err == nil {
		s.same("pushed together", byContent(together.dump(false)), want)
	} else if !refused(err) {
		s.Errorf("push together: %v", err)
	}
	alone := s.copy(s.before.SQLiteConn)
	for i, txn := range txns {
		opts := cdc.MutationOptions{Remote: alone.objects(), Local: local}
		for _, later := range txns[i+1:] {
			for _, c := range later {
				if c.Schema != nil {
					opts.Ahead = append(opts.Ahead, c)
				}
			}
		}
		err := alone.push(txns[i:i+1], opts)
		if refused(err) {
			opts.NoCollapse = true
			err = alone.push(txns[i:i+1], opts)
		}
		if refused(err) {
			opts.DeletesFirst = true
			err = alone.push(txns[i:i+1], opts)
		}
		if err != nil {
			s.Errorf("push of transaction %d: %v", txn[0].Txn, err)
			return
		}
	}
	s.same("pushed alone", byContent(alone.dump(false)), want)
	if s.Failed() {
		s.Log("the log:\n" + logText(s.TB, s.changes()))
	}
}

var wholeFloat = regexp.MustCompile(`-?\b\d+\.0\b`)

// byContent makes equal what is one value where rows are looked for by content
// (docs/semantics.md): 1 and 1.0, 0 and -0.0.
func byContent(lines []string) []string {
	for i := range lines {
		lines[i] = wholeFloat.ReplaceAllStringFunc(lines[i], func(f string) string {
			if f = strings.TrimSuffix(f, ".0"); f == "-0" {
				return "0"
			}
			return f
		})
	}
	slices.Sort(lines)
	return lines
}

// refused tells whether the remote met a constraint: then the syncer tries
// another form.
func refused(err error) bool {
	var e sqlite3.Error
	return errors.As(err, &e) && e.Code == sqlite3.ErrConstraint
}

// TestScripts: the scripts of the conformance suite that keep to one connection do
// what they do on a plain one, and their log can be pushed.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("../testdata/script/capture/*.sql")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".sql"), func(t *testing.T) {
			t.Parallel()
			setup, steps := readScript(t, file)
			s := &story{names: []string{"main"}, setup: setup, patience: t.Context()}
			for _, step := range steps {
				if name, ok := strings.CutPrefix(step, "conn "); ok && name != "main" {
					t.Skip("several connections")
				}
			}
			s.live = newLive(t, setup...)
			s.twin = newTwin(s.patience, s.live)
			for _, step := range steps {
				if !strings.HasPrefix(step, "conn ") {
					s.on("main", step)
				}
			}
			s.checkCapture()
			s.checkPush()
		})
	}
}

// shrink tells a story and, if it fails, the shortest one found that fails, too.
func shrink(t *testing.T, data []byte, end func(*story)) {
	failed, kind := trial(t, data, end)
	if !failed {
		return
	}
	parts := chunks(data)
	for size := len(parts) / 2; size > 0; size /= 2 {
		for at := 1; at < len(parts); {
			shorter := slices.Delete(slices.Clone(parts), at, min(at+size, len(parts)))
			if failed, k := trial(t, joinBytes(shorter), end); failed && k == kind {
				parts = shorter
				continue
			}
			at += size
		}
	}
	tellStory(t, joinBytes(parts), end, time.Minute)
}

// trial tells whether a story fails, and in which words it begins to.
func trial(t *testing.T, data []byte, end func(*story)) (failed bool, kind string) {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.clean()
		tellStory(r, data, end, time.Minute)
	}()
	<-done
	kind, _, _ = strings.Cut(strings.TrimLeft(r.said, " "), " ")
	return r.failed, kind
}

// recorder is a testing.TB that takes note of what fails and tells nobody.
type recorder struct {
	testing.TB
	failed   bool
	said     string
	cleanups []func()
}

func (r *recorder) fail(said string) {
	if !r.failed {
		r.failed, r.said = true, said
	}
}
func (r *recorder) Helper()                   {}
func (r *recorder) Log(...any)                {}
func (r *recorder) Logf(string, ...any)       {}
func (r *recorder) Error(a ...any)            { r.fail(fmt.Sprint(a...)) }
func (r *recorder) Errorf(f string, a ...any) { r.fail(fmt.Sprintf(f, a...)) }
func (r *recorder) Fatal(a ...any)            { r.fail(fmt.Sprint(a...)); runtime.Goexit() }
func (r *recorder) Fatalf(f string, a ...any) { r.fail(fmt.Sprintf(f, a...)); runtime.Goexit() }
func (r *recorder) Fail()                     { r.fail("") }
func (r *recorder) FailNow()                  { r.fail(""); runtime.Goexit() }
func (r *recorder) Failed() bool              { return r.failed }
func (r *recorder) Cleanup(f func())          { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Context() context.Context  { return context.Background() }

func (r *recorder) TempDir() string {
	dir, err := os.MkdirTemp("", "story")
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (r *recorder) clean() {
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
}
