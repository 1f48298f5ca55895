package server

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/faultfs"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/shim"
	"github.com/tursosync/tursosync/internal/wire"
)

// A session of a server: a fleet is opened, databases are created, written, pulled,
// checkpointed, backed up and deleted, and all is opened again. It is run in
// a process of its own that is killed at each named point (TestCrashAtEveryPoint),
// and with each file operation failing in turn (TestIOFaults). What clients were told
// is kept outside of the server's folder and must hold afterwards.

// world is what the clients of a session know.
type world struct {
	dir   string // data/ is the server's, the rest is ours
	known memory
	errs  []error
	twice []string // steps that failed twice in a row
	again bool     // a step that failed is done again
}

// memory is what survives the death of the process.
type memory struct {
	Acked    int // rows of the table acked that were committed, 1 to this
	Revision string
	Count    uint64
	Pages    map[uint64][]byte
	// of a partial replica: the first page is loaded, the others may be asked for
	PartOf      string
	PartPages   map[uint64][]byte
	BackupBytes int64 // of backup.db, which is whole; 0: there is none
}

func openWorld(dir string) (*world, error) {
	w := &world{dir: dir}
	b, err := os.ReadFile(filepath.Join(dir, "known"))
	if errors.Is(err, os.ErrNotExist) {
		return w, nil
	}
	if err != nil {
		return nil, err
	}
	return w, gob.NewDecoder(bytes.NewReader(b)).Decode(&w.known)
}

// save keeps what is known, atomically.
func (w *world) save() error {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(w.known); err != nil {
		return err
	}
	name := filepath.Join(w.dir, "known")
	if err := os.WriteFile(name+".tmp", b.Bytes(), 0o600); err != nil {
		return err
	}
	return os.Rename(name+".tmp", name)
}

func (w *world) data() string { return filepath.Join(w.dir, "data") + "/" }

func (w *world) open() (*Fleet, error) {
	return OpenFleet(FleetConfig{Dir: w.data(), Database: Config{CheckpointBytes: 1 << 30}})
}

// step does something, and does it again if it failed and steps are done again.
func (w *world) step(name string, do func() error) error {
	err := do()
	if err == nil || !w.again {
		return err
	}
	w.errs = append(w.errs, fmt.Errorf("%s: %w", name, err))
	if err = do(); err != nil {
		w.errs = append(w.errs, fmt.Errorf("%s: %w", name, err))
		w.twice = append(w.twice, name)
	}
	return nil
}

// sqlError is an answer that is not what was asked for.
type sqlError struct{ answer string }

func (e *sqlError) Error() string { return e.answer }

// sql runs a statement on a database.
func (w *world) sql(f *Fleet, name, query string) error {
	r := ask(f, "POST", "http://x/db/"+name+"/v2/pipeline", "", `{"requests":[`+execute(query)+`,{"type":"close"}]}`)
	if r.Code != 200 || !strings.HasPrefix(r.Body.String(), `{"baton":null,"base_url":null,"results":[{"type":"ok"`) {
		return &sqlError{fmt.Sprintf("%d %s", r.Code, r.Body)}
	}
	return nil
}

// write adds rows to acked, one a transaction.
func (w *world) write(f *Fleet, n int) error {
	for range n {
		err := w.step("write", func() error {
			err := w.sql(f, "a", fmt.Sprintf("INSERT INTO acked VALUES (%d, randomblob(3000))", w.known.Acked+1))
			if err != nil && !strings.Contains(err.Error(), "UNIQUE") { // it was committed without our knowing
				return err
			}
			w.known.Acked++
			return w.save()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// at is a database's address as a handler.
func at(f http.Handler, name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = "/db/" + name + r.URL.Path
		f.ServeHTTP(w, r)
	})
}

// pull brings the replica up to date; an answer that is cut off changes nothing.
func (w *world) pull(f *Fleet) error {
	return w.step("pull", func() error {
		c := client{revision: w.known.Revision, count: w.known.Count, pages: map[uint64][]byte{}}
		for no, image := range w.known.Pages {
			c.pages[no] = image
		}
		if err := c.pullFrom(at(f, "a"), wire.PullRequest{ClientRevision: c.revision}); err != nil {
			return err
		}
		w.known.Revision, w.known.Count, w.known.Pages = c.revision, c.count, c.pages
		return w.save()
	})
}

// begin has a partial replica begin.
func (w *world) begin(f *Fleet) error {
	return w.step("begin partial replica", func() error {
		var set page.Set
		set.Add(1)
		b, err := set.Selector()
		if err != nil {
			return err
		}
		var c client
		if err := c.pullFrom(at(f, "a"), wire.PullRequest{Selector: b}); err != nil {
			return err
		}
		if c.revision != w.known.Revision {
			return nil // it differs when the pull before failed
		}
		w.known.PartOf, w.known.PartPages = w.known.Revision, w.known.Pages
		return w.save()
	})
}

// rest loads pages of the partial replica: right, or refused.
func (w *world) rest(f *Fleet) error {
	if w.known.PartOf == "" {
		return nil
	}
	for _, no := range []page.No{2, 5, 30} {
		err := w.step("load page", func() error {
			var set page.Set
			set.Add(no)
			b, err := set.Selector()
			if err != nil {
				return err
			}
			var c client
			err = c.pullFrom(at(f, "a"), wire.PullRequest{ServerRevision: w.known.PartOf, Selector: b})
			if err != nil && strings.Contains(err.Error(), "status 410") {
				return nil
			}
			if id := uint64(no.Wire()); err == nil && !bytes.Equal(c.pages[id], w.known.PartPages[id]) {
				return fmt.Errorf("page %v at %s is another one", no, w.known.PartOf)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *world) backup(f *Fleet) error {
	return w.step("backup", func() error {
		out, err := os.Create(filepath.Join(w.dir, "backup.db"))
		if err != nil {
			return err
		}
		defer out.Close()
		w.known.BackupBytes = 0
		var size int64
		if err := f.Backup(context.Background(), "a", func(bytes int64) (io.Writer, error) { size = bytes; return out, nil }); err != nil {
			return err
		}
		w.known.BackupBytes = size
		return w.save()
	})
}

func (w *world) checkpoint(f *Fleet) error {
	return w.step("checkpoint", func() error {
		s, done, err := f.Use("a")
		if err != nil {
			return err
		}
		defer done()
		return s.Checkpoint()
	})
}

// run is the session.
func (w *world) run() error {
	if err := os.MkdirAll(w.data(), 0o755); err != nil {
		return err
	}
	for round := range 2 {
		var f *Fleet
		if err := w.step("open", func() (err error) { f, err = w.open(); return err }); err != nil {
			return err
		}
		if f == nil {
			return nil // twice refused
		}
		err := w.serve(f, round)
		if e := f.Close(); e != nil {
			w.errs = append(w.errs, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *world) serve(f *Fleet, round int) error {
	create := func(name string) func() error {
		return func() error {
			if err := f.Create(name); !errors.Is(err, ErrExists) {
				return err
			}
			return nil
		}
	}
	exec := func(name, query string) func() error { return func() error { return w.sql(f, name, query) } }
	steps := []struct {
		name string
		do   func() error
	}{
		{"create", create("a")},
		{"create table", exec("a", "CREATE TABLE IF NOT EXISTS acked (n INTEGER PRIMARY KEY, pad)")},
		{"create table", exec("a", "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, v, pad)")},
		{"fill", exec("a", "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400) INSERT OR REPLACE INTO t SELECT i, i, randomblob(400) FROM n")},
	}
	for _, s := range steps {
		if err := w.step(s.name, s.do); err != nil {
			return err
		}
	}
	return errors.Join(w.pull(f), w.begin(f), w.write(f, 3), w.pull(f), w.checkpoint(f), w.rest(f),
		w.write(f, 2), w.step("update", exec("a", fmt.Sprintf("UPDATE t SET v = %d WHERE id %% 50 = 0", round))), w.pull(f), w.backup(f),
		w.checkpoint(f), w.write(f, 1), w.rest(f),
		w.step("create", create("b")), w.step("create table", exec("b", "CREATE TABLE IF NOT EXISTS b (x)")),
		w.step("delete", func() error {
			if err := f.Delete("b"); !errors.Is(err, ErrNotFound) {
				return err
			}
			return nil
		}), w.pull(f))
}

// after opens what a session left, and requires that what its clients were told is
// true: rows that were acknowledged are there; a replica that lived through it comes
// to the very bytes of a fresh one; backups are whole; names are free for new databases.
func (w *world) after(t *testing.T) {
	t.Helper()
	f, err := w.open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	w.errs, w.again = nil, false
	if err := f.exists("a"); err != nil {
		if w.known.Acked > 0 {
			t.Fatalf("the database is gone: %v", err)
		}
		if err := f.Create("a"); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.sql(f, "a", "CREATE TABLE IF NOT EXISTS acked (n INTEGER PRIMARY KEY, pad)"); err != nil {
		t.Fatal(err)
	}
	h := at(f, "a")
	if got := firstValue(t, h, "http://x", fmt.Sprintf("SELECT count(*) >= %d AND count(*) = coalesce(max(n), 0) FROM acked", w.known.Acked)); got != "1" {
		t.Errorf("of %d acknowledged rows some are missing, or there are others", w.known.Acked)
	}
	if got := firstValue(t, h, "http://x", "PRAGMA integrity_check"); got != "ok" {
		t.Errorf("integrity_check: %s", got)
	}
	for round := range 2 { // as found, and after a commit and a checkpoint more
		if err := w.pull(f); err != nil {
			t.Fatal(err)
		}
		fresh, survivor := client{}, client{count: w.known.Count, pages: w.known.Pages}
		if err := fresh.pullFrom(h, wire.PullRequest{}); err != nil {
			t.Fatal(err)
		}
		if fresh.digest() != survivor.digest() {
			t.Fatalf("round %d: a replica that lived through it holds other bytes than a fresh one", round)
		}
		survivor.check(t)
		if err := errors.Join(w.rest(f), w.write(f, 1), w.checkpoint(f)); err != nil {
			t.Fatal(err)
		}
	}
	if w.known.BackupBytes > 0 {
		db, err := sql.Open("sqlite3", filepath.Join(w.dir, "backup.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		var ok string
		if err := db.QueryRow("PRAGMA integrity_check").Scan(&ok); err != nil || ok != "ok" {
			t.Errorf("backup: %v, %s", err, ok)
		}
	}
	if err := f.Delete("b"); err != nil && !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	if err := f.Create("b"); err != nil {
		t.Fatal(err)
	}
	if got := firstValue(t, at(f, "b"), "http://x", "SELECT count(*) FROM sqlite_schema"); got != "0" {
		t.Errorf("a new database has %s tables", got)
	}
	if err := f.Delete("b"); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(w.data() + "b.db*"); err != nil || len(left) > 0 {
		t.Errorf("of a deleted database %v is left, %v", left, err)
	}
}

// crashEnv holds the plan of a child process.
const crashEnv = "TURSOSYNC_SERVER_CRASH"

type crashPlan struct {
	Dir   string
	Point string // where it is killed; empty: nowhere, the points are printed
	Pass  int
}

// crashChild runs a session until it is killed.
func crashChild(text string) error {
	var plan crashPlan
	if err := json.Unmarshal([]byte(text), &plan); err != nil {
		return err
	}
	return faultfs.Dying(plan.Point, plan.Pass, func() error {
		w, err := openWorld(plan.Dir)
		if err != nil {
			return err
		}
		return w.run()
	})
}

// run runs the plan in a process of its own.
func (p crashPlan) run(t *testing.T) (points []string, passes map[string]int, killed bool) {
	t.Helper()
	return faultfs.Child(t, crashEnv, p)
}

// TestCrashAtEveryPoint kills a server at each of its named points, the first and
// the last time that it is passed, and the next one on the same files at another:
// all of them with TURSOSYNC_SWEEP_FULL=1, else one by chance.
func TestCrashAtEveryPoint(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	points, passes, _ := crashPlan{Dir: faultfs.TempDir(t)}.run(t)
	seed, err := strconv.ParseUint(os.Getenv("TURSOSYNC_SWEEP_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64N(1 << 32)
	}
	t.Logf("TURSOSYNC_SWEEP_SEED=%d repeats it", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for _, point := range points {
		for _, pass := range slices.Compact([]int{1, passes[point]}) {
			seconds := []string{points[rnd.IntN(len(points))]}
			if os.Getenv("TURSOSYNC_SWEEP_FULL") != "" {
				seconds = points
			}
			for _, second := range seconds {
				t.Run(fmt.Sprintf("%s_%d then %s", point, pass, second), func(t *testing.T) {
					dir := faultfs.TempDir(t)
					if _, _, killed := (crashPlan{dir, point, pass}).run(t); !killed {
						t.Fatal("the child was not killed")
					}
					crashPlan{dir, second, 1}.run(t) // which may not come by there
					w, err := openWorld(dir)
					if err != nil {
						t.Fatal(err)
					}
					w.after(t)
				})
			}
		}
	}
	// Every point of the code is passed by the session.
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range sources {
		b, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`fault\.At\("([^"]+)"\)`).FindAllSubmatch(b, -1) {
			// The file of pins is written anew when a megabyte of it is of no use: see
			// TestCrashWhileShrinking.
			if !strings.HasSuffix(source, "_test.go") && passes[string(m[1])] == 0 && string(m[1]) != "pins.rename" {
				t.Errorf("%s: the session does not pass the point %s", source, m[1])
			}
		}
	}
}

// TestErrorAtEveryPoint: each step fails once, and from some time on, as on a full
// disk.
func TestErrorAtEveryPoint(t *testing.T) {
	full := errors.New("no space left on device")
	session := func(t *testing.T, point string, pass int, lasts bool) (passes map[string]int) {
		passes = map[string]int{}
		restore := fault.Set(func(p string) error {
			if passes[p]++; p == point && (passes[p] == pass || lasts && passes[p] > pass) {
				return full
			}
			return nil
		})
		w := &world{dir: faultfs.TempDir(t), again: true}
		err := w.run()
		restore()
		if err != nil {
			t.Error(err)
		}
		if len(w.twice) > 0 && !lasts {
			t.Errorf("%v failed again and again without a cause: %v", w.twice, w.errs)
		}
		w.after(t)
		return passes
	}
	type turn struct {
		point string
		pass  int
		lasts bool
	}
	var turns []turn
	for point, passes := range session(t, "", 0, false) {
		for _, pass := range slices.Compact([]int{1, passes}) {
			turns = append(turns, turn{point, pass, false}, turn{point, pass, true})
		}
	}
	for _, i := range faultfs.Sample(t, len(turns), 1) { // all of them, unless -short
		x := turns[i-1]
		t.Run(fmt.Sprintf("%s_%d_%v", x.point, x.pass, x.lasts), func(t *testing.T) { session(t, x.point, x.pass, x.lasts) })
	}
}

// TestIOFaults is the session with every file operation failing in turn: a sample
// of them, or all with TURSOSYNC_SWEEP_FULL=1.
func TestIOFaults(t *testing.T) {
	if err := faultfs.Register(); err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		name  string
		fault faultfs.Fault
		every int
	}{
		{"once", faultfs.Fault{}, 97},
		{"lasts", faultfs.Fault{Lasts: true}, 311},
		{"half done", faultfs.Fault{Partial: true, Kinds: []faultfs.Kind{faultfs.Read, faultfs.Write}}, 311},
		{"disk full", faultfs.Fault{Full: true, Partial: true, Lasts: true, Kinds: []faultfs.Kind{faultfs.Write}}, 211},
		{"sync loses", faultfs.Fault{Lose: true, Kinds: []faultfs.Kind{faultfs.Sync}}, 23},
		{"busy", faultfs.Fault{Busy: true, Kinds: []faultfs.Kind{faultfs.Lock, faultfs.ShmLock}}, 311},
	} {
		t.Run(v.name, func(t *testing.T) {
			run := func(t *testing.T, at int) faultfs.Report { return faultySession(t, v.fault, at) }
			n := run(t, 0).Ops
			for _, at := range faultfs.Sample(t, n, v.every) {
				t.Run(strconv.Itoa(at), func(t *testing.T) { run(t, at) })
			}
		})
	}
}

func faultySession(t *testing.T, f faultfs.Fault, at int) faultfs.Report {
	w := &world{dir: faultfs.TempDir(t), again: true}
	f.Dir, f.At = w.data(), at
	done, err := faultfs.Set(f)
	if err != nil {
		t.Fatal(err)
	}
	err = w.run()
	report := done()
	errs, twice := w.errs, w.twice
	if err != nil {
		t.Errorf("%v: the session: %v", report, err)
	}
	for _, err := range errs {
		// A client gets SQLite's code, or a status that says that it is the server.
		var e *sqlError
		if errors.As(err, &e) && strings.HasPrefix(e.answer, "200") && !strings.Contains(e.answer, `"code":"SQLITE_`) {
			t.Errorf("%v: the answer does not say why: %v", report, err)
		}
		if strings.Contains(err.Error(), "is another one") {
			t.Errorf("%v: %v", report, err)
		}
	}
	if report.Failed == 0 && len(errs) > 0 {
		t.Errorf("nothing failed, and yet: %v", errs)
	}
	if len(twice) > 0 && !f.Lasts {
		t.Errorf("%v: %v failed again and again without a cause: %v", report, twice, errs)
	}
	w.after(t)
	if t.Failed() {
		t.Logf("operation %d: %v; the errors were %q", at, report, errs)
	}
	return report
}

// TestCrashWhileShrinking: the process ends before the file of pins is replaced by
// a smaller one.
func TestCrashWhileShrinking(t *testing.T) {
	type died struct{}
	restore := fault.Set(func(point string) error {
		if point == "pins.rename" {
			panic(died{})
		}
		return nil
	})
	defer restore()
	cfg := Config{File: filepath.Join(faultfs.TempDir(t), "x.db"), PinnedBytes: 1 << 30, PinnedFor: time.Hour}
	p := newPins(cfg)
	image := make([]byte, page.Size)
	now := time.Now()
	last := uint64(0)
	func() {
		defer func() {
			if r := recover(); r != (died{}) {
				t.Fatalf("the file was not replaced: %v", r)
			}
		}()
		for last = 1; last < 1000; last++ {
			image[0] = byte(last)
			keep := func(x pin) bool { return x.seq+5 < last }
			if err := errors.Join(p.add(pin{seq: last, count: 9, used: now}), p.keep(3, last, last+1, image), p.drop(keep), p.shrink()); err != nil {
				t.Fatal(err)
			}
		}
	}()
	restore()
	if _, err := os.Stat(p.file + tmpSuffix); err != nil {
		t.Fatal(err)
	}
	q := newPins(cfg)
	if err := q.load(func(string) bool { return true }, 0); err != nil {
		t.Fatal(err)
	}
	for seq := last - 4; seq <= last; seq++ {
		at := q.find(3, seq)
		if at == 0 {
			t.Fatalf("the image of commit %d is not there", seq)
		}
		if err := q.read(at, image); err != nil || image[0] != byte(seq) {
			t.Errorf("the image of commit %d is that of %d, %v", seq, image[0], err)
		}
	}
	if err := q.shrink(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(q.file + tmpSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what the crash left is still there: %v", err)
	}
	if err := q.close(); err != nil {
		t.Fatal(err)
	}
}

// TestErrorAfterRow: a statement may fail after its row has been read.
func TestErrorAfterRow(t *testing.T) {
	dir := faultfs.TempDir(t)
	for at := 1; at <= 2; at++ { // syncs of the journal and of the file
		done, err := faultfs.Set(faultfs.Fault{Dir: dir, At: at, Kinds: []faultfs.Kind{faultfs.Sync}})
		if err != nil {
			t.Fatal(err)
		}
		s, err := Open(Config{File: filepath.Join(dir, fmt.Sprintf("%d.db", at))})
		if report := done(); err == nil {
			t.Errorf("%v: Open succeeded", report)
			_ = s.Close()
		} else if e := (*shim.StmtError)(nil); !errors.As(err, &e) || e.Code&0xff != 10 {
			t.Errorf("%v: Open = %v, want SQLite's I/O error", report, err)
		}
	}
}
