package remote_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	_ "github.com/mattn/go-sqlite3"
	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/realtest"
	"github.com/tursosync/tursosync/internal/remote"
	"github.com/tursosync/tursosync/internal/testseed"
	"github.com/tursosync/tursosync/syncer"
)

// file is a sink that keeps pages as a base does.
type file struct {
	head    syncer.PullHeader
	pages   map[page.No][]byte
	came    []page.No
	headers int
}

func (f *file) Header(h syncer.PullHeader) error {
	f.head, f.came = h, nil
	f.headers++
	if f.pages == nil || h.ReplaceBase {
		f.pages = map[page.No][]byte{}
	}
	return nil
}

func (f *file) Page(no page.No, image []byte) error {
	f.pages[no] = bytes.Clone(image)
	f.came = append(f.came, no)
	return nil
}

// bytes returns the database file.
func (f *file) bytes() []byte {
	b := make([]byte, f.head.PageCount*page.Size)
	for no, image := range f.pages {
		if uint64(no) <= f.head.PageCount {
			copy(b[no.Offset():], image)
		}
	}
	return b
}

// query runs SQL on the pulled database, after an integrity check.
func (f *file) query(t *testing.T, query string) [][]any {
	t.Helper()
	name := filepath.Join(t.TempDir(), "pulled.db")
	if err := os.WriteFile(name, f.bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var check string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&check); err != nil || check != "ok" {
		t.Fatalf("integrity_check = %q, %v", check, err)
	}
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	cols, _ := rows.Columns()
	var out [][]any
	for rows.Next() {
		row := make([]any, len(cols))
		ptr := make([]any, len(cols))
		for i := range row {
			ptr[i] = &row[i]
		}
		if err := rows.Scan(ptr...); err != nil {
			t.Fatal(err)
		}
		out = append(out, row)
	}
	return out
}

func open(t *testing.T, u string) *remote.Remote {
	t.Helper()
	r, err := remote.New(remote.Config{URL: u})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func fetch(t *testing.T, r *remote.Remote, req syncer.PullRequest, f *file) {
	t.Helper()
	if err := r.Fetch(context.Background(), req, f); err != nil {
		t.Fatal(err)
	}
}

func mutation(id cdc.ID, query string, args ...any) cdc.Mutation {
	return cdc.Mutation{SQL: query, Args: args, Change: id}
}

// conform shows that a server does what a replica relies on. start gives a new,
// empty one.
func conform(t *testing.T, start func(*testing.T) string) {
	ctx := context.Background()

	t.Run("empty database", func(t *testing.T) {
		r := open(t, start(t))
		var f file
		fetch(t, r, syncer.PullRequest{}, &f)
		// tursodb sends nothing, SQLite's own empty database has a first page.
		if f.headers != 1 || uint64(len(f.came)) != f.head.PageCount || f.head.PageCount > 1 {
			t.Errorf("pull = %d pages of %d", len(f.came), f.head.PageCount)
		}
		if id, found, err := r.Watermark(ctx, "c"); id != 0 || found || err != nil {
			t.Errorf("Watermark = %d, %v, %v", id, found, err)
		}
		if s, err := r.Schema(ctx); err != nil || len(s) != 0 {
			t.Errorf("Schema = %v, %v", s, err)
		}
	})

	t.Run("push commits rows and watermark", func(t *testing.T) {
		u := start(t)
		r := open(t, u)
		res, err := r.Push(ctx, syncer.Batch{ClientID: "c", Last: 3,
			Probes: []cdc.Mutation{mutation(0, "SELECT name FROM sqlite_schema WHERE name = ?", "nobody"), mutation(0, "SELECT ? AS a, 2 AS b", "x")},
			Mutations: []cdc.Mutation{
				mutation(1, "CREATE TABLE t (id INTEGER PRIMARY KEY, v)"),
				mutation(2, "INSERT INTO t VALUES (?, ?)", int64(1), "one"),
				mutation(3, "INSERT INTO t VALUES (?, ?)", int64(2), nil),
			}})
		if err != nil {
			t.Fatal(err)
		}
		want := []syncer.ProbeRows{{Columns: []string{"name"}, Rows: [][]any{}}, {Columns: []string{"a", "b"}, Rows: [][]any{{"x", int64(2)}}}}
		if !reflect.DeepEqual(res.Probes, want) {
			t.Errorf("Probes = %v, want %v", res.Probes, want)
		}
		if id, found, err := r.Watermark(ctx, "c"); id != 3 || !found || err != nil {
			t.Errorf("Watermark = %d, %v, %v, want 3", id, found, err)
		}
		if _, found, err := r.Watermark(ctx, "d"); found || err != nil {
			t.Errorf("Watermark of a stranger found %v, %v", found, err)
		}
		if got := realtest.Query(t, u, "SELECT id, v FROM t"); !reflect.DeepEqual(got, [][]any{{int64(1), "one"}, {int64(2), nil}}) {
			t.Errorf("rows = %v", got)
		}
		s, err := r.Schema(ctx)
		if err != nil || len(s) < 2 {
			t.Fatalf("Schema = %v, %v", s, err)
		}
		found := false
		for _, o := range s {
			found = found || o == (syncer.SchemaObject{Kind: "table", Name: "t", Table: "t", SQL: "CREATE TABLE t (id INTEGER PRIMARY KEY, v)"})
		}
		if !found {
			t.Errorf("Schema = %+v, without t", s)
		}
	})

	t.Run("failing middle statement commits nothing", func(t *testing.T) {
		u := start(t)
		realtest.Exec(t, u, "CREATE TABLE t (v UNIQUE)", "INSERT INTO t VALUES ('taken')")
		r := open(t, u)
		_, err := r.Push(ctx, syncer.Batch{ClientID: "c", Last: 3, Mutations: []cdc.Mutation{
			mutation(1, "INSERT INTO t VALUES (?)", "a"),
			mutation(2, "INSERT INTO t VALUES (?)", "taken"),
			mutation(3, "INSERT INTO t VALUES (?)", "b"),
		}})
		var e *remote.Error
		if !errors.As(err, &e) || e.Kind != remote.Refused || e.Mutation != 1 || e.Change != 2 || e.Outcome != remote.Answered {
			t.Fatalf("Push = %+v", err)
		}
		if v := remote.Judge(err); v.Kind != syncer.Refused || v.Change != 2 || !v.Answered {
			t.Errorf("Judge = %+v", v)
		}
		if got := realtest.Query(t, u, "SELECT v FROM t"); !reflect.DeepEqual(got, [][]any{{"taken"}}) {
			t.Errorf("rows = %v", got)
		}
		if _, found, err := r.Watermark(ctx, "c"); found || err != nil {
			t.Errorf("Watermark found %v, %v", found, err)
		}
		// The connection is clean: the next push works.
		if _, err := r.Push(ctx, syncer.Batch{ClientID: "c", Last: 1, Mutations: []cdc.Mutation{mutation(1, "INSERT INTO t VALUES ('a')")}}); err != nil {
			t.Error(err)
		}
	})

	t.Run("fence", func(t *testing.T) {
		u := start(t)
		realtest.Exec(t, u, "CREATE TABLE t (v)")
		r := open(t, u)
		push := func(expect cdc.ID, found bool, last cdc.ID) error {
			_, err := r.Push(ctx, syncer.Batch{ClientID: "c", Expect: expect, ExpectFound: found, Last: last,
				Mutations: []cdc.Mutation{mutation(last, "INSERT INTO t VALUES (?)", int64(last))}})
			return err
		}
		for i, c := range []struct {
			expect cdc.ID
			found  bool
			last   cdc.ID
			moved  bool
		}{
			{7, true, 8, true}, // no row yet
			{0, false, 5, false},
			{0, false, 6, true},
			{4, true, 7, true},
			{0, true, 7, true},
			{5, true, 9, false},
			{9, true, 1 << 40, false},
			{1 << 40, true, 1<<40 + 1, false},
		} {
			err := push(c.expect, c.found, c.last)
			if c.moved != errors.Is(err, remote.ErrWatermarkMoved) || !c.moved && err != nil {
				t.Errorf("push %d = %v, want moved %v", i, err, c.moved)
			}
			if c.moved && remote.Judge(err).Kind != syncer.Moved {
				t.Errorf("Judge = %+v", remote.Judge(err))
			}
		}
		got := realtest.Query(t, u, "SELECT v FROM t")
		if want := [][]any{{int64(5)}, {int64(9)}, {int64(1 << 40)}, {int64(1<<40 + 1)}}; !reflect.DeepEqual(got, want) {
			t.Errorf("rows = %v, want %v", got, want)
		}
	})

	t.Run("disagreements", func(t *testing.T) {
		u := start(t)
		realtest.Exec(t, u, "CREATE TABLE t (v)")
		r := open(t, u)
		for _, query := range []string{"INSERT INTO missing VALUES (1)", "INSERT INTO t(w) VALUES (1)", "INSERT INTO t VALUES (1, 2)",
			"CREATE TABLE t (w)", "ALTER TABLE t ADD COLUMN v", "DROP INDEX nothing", "SELEC 1"} {
			_, err := r.Push(ctx, syncer.Batch{ClientID: "c", Last: 1, Mutations: []cdc.Mutation{mutation(1, query)}})
			var e *remote.Error
			if !errors.As(err, &e) || e.Kind != remote.Disagreement || e.Mutation != 0 {
				t.Errorf("%s: %v, want a disagreement", query, err)
			}
		}
	})

	t.Run("values", func(t *testing.T) {
		u := start(t)
		realtest.Exec(t, u, "CREATE TABLE t (i INTEGER PRIMARY KEY, v)")
		r := open(t, u)
		values := []any{nil, int64(0), int64(-1), int64(math.MaxInt64), int64(math.MinInt64), 0.1, -1.5, 1e300, 5e-324, 1e15, 3.0,
			math.MaxFloat64, "", "é \"quoted\" \n\t\\ <&> \U0001f600", []byte{}, []byte{0, 1, 254, 255}, bytes.Repeat([]byte{7}, 20_000),
			0.23839669531694319, 0.9940375610841535, 5.8214921227793246e-08, 3.6094375019387633e+289, -7.441208620532156e+183}
		seed := testseed.New(t)
		rnd := rand.New(rand.NewPCG(seed, 0))
		for range 2000 {
			if v := math.Float64frombits(rnd.Uint64()); !math.IsNaN(v) && !math.IsInf(v, 0) {
				values = append(values, v)
			}
			values = append(values, rnd.Float64())
		}
		var m []cdc.Mutation
		for i, v := range values {
			m = append(m, mutation(cdc.ID(i+1), "INSERT INTO t(i, v) VALUES (?, ?)", int64(i), v))
		}
		if _, err := r.Push(ctx, syncer.Batch{ClientID: "c", Last: 100_000, Mutations: m}); err != nil {
			t.Fatal(err)
		}
		var f file
		fetch(t, r, syncer.PullRequest{}, &f)
		got, wrong := f.query(t, "SELECT +v FROM t ORDER BY i"), 0
		for i, v := range values {
			if g := got[i][0]; !reflect.DeepEqual(g, v) {
				if wrong++; wrong < 5 {
					t.Errorf("value %d = %#v, want %#v", i, g, v)
				}
			}
		}
		if wrong > 0 {
			t.Errorf("%d values of %d are wrong", wrong, len(values))
		}
	})

	t.Run("pull full, incremental, selected", func(t *testing.T) {
		u := start(t)
		r := open(t, u)
		realtest.Exec(t, u, "CREATE TABLE a (id INTEGER PRIMARY KEY, v)", "CREATE TABLE b (id INTEGER PRIMARY KEY, v)")
		for i := range 30 {
			realtest.Exec(t, u, fmt.Sprintf("INSERT INTO a VALUES (%d, '%0500d')", i, i))
		}
		var f file
		fetch(t, r, syncer.PullRequest{}, &f)
		if got := uint64(len(f.came)); got != f.head.PageCount || got < 5 {
			t.Fatalf("full pull = %d pages of %d", got, f.head.PageCount)
		}
		if got := f.query(t, "SELECT count(*) FROM a"); got[0][0] != int64(30) {
			t.Errorf("rows = %v", got)
		}
		first := f.head

		fetch(t, r, syncer.PullRequest{Have: f.head.Revision}, &f)
		if len(f.came) != 0 || f.head.Revision == "" {
			t.Errorf("nothing new = %d pages, revision %q", len(f.came), f.head.Revision)
		}

		realtest.Exec(t, u, "INSERT INTO b VALUES (1, 'new')")
		fetch(t, r, syncer.PullRequest{Have: f.head.Revision}, &f)
		if len(f.came) == 0 || len(f.came) > 3 {
			t.Errorf("increment = pages %v", f.came)
		}
		if got := f.query(t, "SELECT v FROM b"); len(got) != 1 || got[0][0] != "new" {
			t.Errorf("rows = %v", got)
		}

		// Two pulls of parts, the second pinned to the revision of the first.
		var parts file
		var low, high page.Set
		low.AddRange(1, 3)
		high.AddRange(4, 100)
		fetch(t, r, syncer.PullRequest{Pages: &low}, &parts)
		if len(parts.came) != 3 {
			t.Errorf("pages 1 to 3 = %v", parts.came)
		}
		head, kept := parts.head, parts.pages
		realtest.Exec(t, u, "UPDATE a SET v = 'changed'", "INSERT INTO b VALUES (2, 'later')")
		fetch(t, r, syncer.PullRequest{Pages: &high, At: head.Revision}, &parts)
		if got := uint64(len(parts.came)); got != head.PageCount-3 {
			t.Errorf("pages from 4 = %v of %d", parts.came, head.PageCount)
		}
		parts.head = head
		parts.pages = kept
		if !bytes.Equal(parts.bytes(), f.bytes()) {
			t.Error("the parts are not the whole")
		}
		var none page.Set
		fetch(t, r, syncer.PullRequest{Pages: &none}, &parts)
		if len(parts.came) != 0 {
			t.Errorf("no pages = %v", parts.came)
		}

		// From the first revision: everything since.
		old := file{pages: map[page.No][]byte{}}
		for no, image := range f.pages {
			old.pages[no] = image
		}
		fetch(t, r, syncer.PullRequest{Have: first.Revision}, &old)
		var now file
		fetch(t, r, syncer.PullRequest{}, &now)
		if !bytes.Equal(old.bytes(), now.bytes()) {
			t.Error("old revision plus increment is not the newest state")
		}
		fetch(t, r, syncer.PullRequest{Have: "no such revision"}, &old)
		if uint64(len(old.came)) != old.head.PageCount {
			t.Errorf("unknown revision = %d pages of %d", len(old.came), old.head.PageCount)
		}
	})

	t.Run("lost answer", func(t *testing.T) {
		u := start(t)
		realtest.Exec(t, u, "CREATE TABLE t (v)")
		target, _ := url.Parse(u)
		proxy := httputil.NewSingleHostReverseProxy(target)
		proxy.ModifyResponse = func(resp *http.Response) error {
			return errors.New("lost on the way")
		}
		proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) {
			panic(http.ErrAbortHandler)
		}
		lossy := httptest.NewServer(proxy)
		defer lossy.Close()
		_, err := open(t, lossy.URL).Push(ctx, syncer.Batch{ClientID: "c", Last: 4, Mutations: []cdc.Mutation{mutation(4, "INSERT INTO t VALUES (1)")}})
		var e *remote.Error
		if !errors.As(err, &e) || e.Outcome != remote.Unknown || !e.Retryable() {
			t.Fatalf("Push = %+v", err)
		}
		r := open(t, u)
		if id, found, err := r.Watermark(ctx, "c"); id != 4 || !found || err != nil {
			t.Errorf("Watermark = %d, %v, %v, want 4", id, found, err)
		}
		// Sent again with what was believed before: the fence holds.
		_, err = r.Push(ctx, syncer.Batch{ClientID: "c", Last: 4, Mutations: []cdc.Mutation{mutation(4, "INSERT INTO t VALUES (1)")}})
		if !errors.Is(err, remote.ErrWatermarkMoved) {
			t.Errorf("Push = %v, want ErrWatermarkMoved", err)
		}
		if got := realtest.Query(t, u, "SELECT count(*) FROM t"); got[0][0] != int64(1) {
			t.Errorf("rows = %v", got)
		}
	})
}
