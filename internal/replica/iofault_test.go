package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/faultfs"
	"github.com/tursosync/tursosync/syncer"
)

// The sessions of the crash tests again, with single file operations that fail:
// every read, write, sync, truncation, deletion and so on, of SQLite's files and of
// ours, in turn.

// template is a scenario made ready once, to be copied for each run.
type template struct {
	scenario
	plan crashPlan
	rem  *remote
}

func newTemplate(t *testing.T, name string) *template {
	s := scenarios[name]
	plan, rem := s.setUp(t, name)
	return &template{s, plan, rem}
}

// copy returns the scenario with files of its own. The hint of a clean close is
// made to fit the copies, as if they had been there all along.
func (tm *template) copy(t *testing.T) (crashPlan, *remote) {
	t.Helper()
	plan := tm.plan
	plan.Path = filepath.Join(faultfs.TempDir(t), "app.db")
	files, err := filepath.Glob(tm.plan.Path + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range files {
		copyWithTime(t, from, plan.Path+strings.TrimPrefix(from, tm.plan.Path))
	}
	fitHint(t, plan.Path)
	rem := *tm.rem
	rem.t, rem.revs, rem.requests = t, slices.Clone(rem.revs), nil
	rem.path = filepath.Join(faultfs.TempDir(t), "remote.db")
	copyWithTime(t, tm.rem.path, rem.path)
	c, err := openConn(rem.path, "mode=rw")
	if err != nil {
		t.Fatal(err)
	}
	rem.conn = c
	t.Cleanup(func() { c.Close() })
	return plan, &rem
}

func copyWithTime(t *testing.T, from, to string) {
	t.Helper()
	b := contents(t, from)
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(from)
	if err == nil {
		err = os.Chtimes(to, time.Time{}, info.ModTime())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func fitHint(t *testing.T, live string) {
	t.Helper()
	f := files{live}
	text, err := os.ReadFile(f.lock())
	if err != nil || len(text) == 0 {
		return
	}
	var h hint
	if err := json.Unmarshal(text, &h); err != nil {
		t.Fatal(err)
	}
	for path, was := range map[string]*fingerprint{f.live: &h.Live, f.base(): &h.Base} {
		if now, err := fingerprintOf(path); err == nil {
			if now.Size == was.Size && now.Time == was.Time {
				*was = now // else somebody has written to the file: the hint must not fit
			}
		}
	}
	if text, err = json.Marshal(h); err == nil {
		err = os.WriteFile(f.lock(), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// typed tells whether a program can find out what happened: SQLite's error, that
// of the operating system, or one of ours.
func typed(err error) bool {
	var s sqlite3.Error
	var p *fs.PathError
	var f *FileError
	return errors.As(err, &s) || errors.As(err, &p) || errors.As(err, &f)
}

// session runs a scenario with a fault. A step that fails is done again on the
// open replica; stubborn are those that failed again.
func (tm *template) session(plan crashPlan) (errs []error, stubborn []string) {
	ctx := context.Background()
	cfg := tm.cfg
	cfg.Path = plan.Path
	rep, err := Open(ctx, cfg)
	if err != nil {
		errs = append(errs, err)
		if rep, err = Open(ctx, cfg); err != nil {
			return append(errs, err), append(stubborn, "open")
		}
	}
	for _, step := range tm.steps {
		for again := range 3 {
			err := step.do(ctx, rep, plan)
			if err == nil {
				break
			}
			if errs = append(errs, fmt.Errorf("%s: %w", step.name, err)); again == 1 {
				stubborn = append(stubborn, step.name)
				break
			}
		}
	}
	if err := rep.Close(ctx); err != nil {
		errs = append(errs, err)
	}
	return errs, stubborn
}

// ioVariants are the ways in which operations fail.
var ioVariants = []struct {
	name   string
	fault  faultfs.Fault
	sample int
}{
	{"once", faultfs.Fault{}, 29},
	{"lasts", faultfs.Fault{Lasts: true}, 97},
	{"half done", faultfs.Fault{Partial: true, Kinds: []faultfs.Kind{faultfs.Read, faultfs.Write}}, 97},
	{"disk full", faultfs.Fault{Full: true, Partial: true, Lasts: true, Kinds: []faultfs.Kind{faultfs.Write}}, 53},
	// Live's WAL is left out: commits there are as durable as the application has
	// them be, and without synchronous=FULL SQLite does not stand this either.
	{"sync loses", faultfs.Fault{Lose: true, Kinds: []faultfs.Kind{faultfs.Sync}, Except: "app.db-wal"}, 5},
	{"busy", faultfs.Fault{Busy: true, Kinds: []faultfs.Kind{faultfs.Lock, faultfs.ShmLock}}, 61},
}

// TestIOFaults: after an operation has failed the user gets a typed error, nothing
// that was committed is lost or applied twice, live = replay(base, log), and
// syncing goes on: at once if the operation failed only once, and else after
// reopening.
func TestIOFaults(t *testing.T) {
	if err := faultfs.Register(); err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(scenarios)) {
		t.Run(name, func(t *testing.T) {
			tm := newTemplate(t, name)
			for _, v := range ioVariants {
				t.Run(v.name, func(t *testing.T) { tm.sweep(t, v.fault, v.sample) })
			}
		})
	}
}

func (tm *template) sweep(t *testing.T, f faultfs.Fault, sample int) {
	run := func(t *testing.T, at int) faultfs.Report {
		plan, rem := tm.copy(t)
		f := f
		f.Dir, f.At = filepath.Dir(plan.Path)+"/", at
		done, err := faultfs.Set(f)
		if err != nil {
			t.Fatal(err)
		}
		errs, stubborn := tm.session(plan)
		report := done()
		for _, err := range errs {
			if !typed(err) {
				t.Errorf("%v: the error is not typed: %v", report, err)
			}
		}
		if report.Failed == 0 && len(errs) > 0 {
			t.Errorf("nothing failed, and yet: %v", errs)
		}
		if len(stubborn) > 0 && !f.Lasts {
			t.Errorf("%v: fails again and again without a cause: %v", report, errs)
		}
		tm.after(t, plan, rem)
		if t.Failed() {
			t.Logf("operation %d: %v; the errors were %q", at, report, errs)
		}
		return report
	}
	n := run(t, 0).Ops
	for _, at := range faultfs.Sample(t, n, sample) {
		t.Run(strconv.Itoa(at), func(t *testing.T) { run(t, at) })
	}
}

// TestUnreadPages: quick_check tells of pages that it could not read as if they
// were damaged. The remote's answer is not to blame for them.
func TestUnreadPages(t *testing.T) {
	for text, want := range map[string]sqlite3.ErrNo{
		"*** in database main ***\nTree 9 page 9: unable to get the page. error code=266": sqlite3.ErrIoErr,
		"Tree 9 page 9: unable to get the page. error code=7":                             sqlite3.ErrNomem,
		"Tree 9 page 22 cell 0: failed to get page 15":                                    sqlite3.ErrIoErr,
		"Tree 9 page 9: unable to get the page. error code=11":                            0,
		"Tree 3 page 7: btreeInitPage() returns error code 11":                            0,
		"Tree 3 page 7 cell 1: invalid page number 99":                                    0,
	} {
		err := unread(text)
		if want == 0 && err != nil || want != 0 && !hasCode(err, want) {
			t.Errorf("unread(%q) = %v, want code %d", text, err, want)
		}
	}
	// All reads of the assembled base, one after the other.
	for at := 1; ; at++ {
		rem := newRemote(t, people, `CREATE TABLE bag(x)`, `INSERT INTO bag SELECT randomblob(20000) FROM (SELECT 1 UNION SELECT 2)`)
		rep := newReplica(t, Config{})
		done, err := faultfs.Set(faultfs.Fault{Dir: rep.files.next(), At: at, Kinds: []faultfs.Kind{faultfs.Read}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = rep.Pull(t.Context(), rem.fetch, syncer.PullOptions{})
		report := done()
		if report.Failed == 0 {
			if err != nil || at < 5 {
				t.Errorf("%d reads, %v", at-1, err)
			}
			break
		}
		if err == nil || errors.Is(err, ErrBadAnswer) || !typed(err) {
			t.Errorf("%v: Pull = %v, want the error of the disk", report, err)
		}
		pulled(t, rep, rem)
	}
}

// TestErrorAfterRow: a statement may fail after its row has been read.
func TestErrorAfterRow(t *testing.T) {
	dir := faultfs.TempDir(t)
	if err := faultfs.Register(); err != nil {
		t.Fatal(err)
	}
	c, err := openConn(filepath.Join(dir, "a.db"), "mode=rwc")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	done, err := faultfs.Set(faultfs.Fault{Dir: dir, At: 1, Kinds: []faultfs.Kind{faultfs.Sync}})
	if err != nil {
		t.Fatal(err)
	}
	mode, err := c.one("PRAGMA journal_mode=WAL")
	if done(); !hasCode(err, sqlite3.ErrIoErr) {
		t.Errorf("PRAGMA journal_mode=WAL = %v, %v, want an I/O error", mode, err)
	}
}

// TestMakingRolledBack: the making of a replica was cut short before its first
// commit was finished, and is rolled back at the next opening.
func TestMakingRolledBack(t *testing.T) {
	path := filepath.Join(faultfs.TempDir(t), "app.db")
	done, err := faultfs.Set(faultfs.Fault{Dir: path + "-journal", At: 1, Kinds: []faultfs.Kind{faultfs.Delete}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), Config{Path: path})
	if report := done(); report.Failed != 1 || !typed(err) {
		t.Fatalf("%v: Open = %v", report, err)
	}
	if info, err := os.Stat(path + "-journal"); err != nil || info.Size() == 0 {
		t.Fatalf("there is no journal to be rolled back: %v", err)
	}
	newReplica(t, Config{Path: path})
}

// TestStateFaults: whatever fails while the state changes, what the open replica
// believes is what is stored, and an error says that nothing changed.
func TestStateFaults(t *testing.T) {
	if err := faultfs.Register(); err != nil {
		t.Fatal(err)
	}
	rem := newRemote(t, people)
	rep := newReplica(t, Config{Path: filepath.Join(faultfs.TempDir(t), "app.db")})
	pulled(t, rep, rem)
	for name, change := range map[string]func(id cdc.ID) error{
		"intend":      func(id cdc.ID) error { return rep.Intend(t.Context(), id) },
		"acknowledge": func(id cdc.ID) error { return rep.Acknowledge(t.Context(), id) },
	} {
		for at := 1; ; at++ {
			before := rep.state()
			done, err := faultfs.Set(faultfs.Fault{Dir: filepath.Dir(rep.files.live), At: at})
			if err != nil {
				t.Fatal(err)
			}
			err = change(before.watermark + 1000)
			report := done()
			stored, _, e := readState(rep.live)
			if e != nil {
				t.Fatal(e)
			}
			now := rep.state()
			if !sameFields(stored.fields(), now.fields()) {
				t.Fatalf("%s, %v (%v): stored is %v, in memory %v", name, report, err, stored.fields(), now.fields())
			}
			if changed := !sameFields(now.fields(), before.fields()); err == nil && !changed || err != nil && changed && report.Kind != faultfs.Sync {
				t.Errorf("%s, %v: error %v, changed %v", name, report, err, changed)
			}
			if err := rep.Intend(t.Context(), before.watermark+1000); err != nil { // so that it is known
				t.Fatal(err)
			}
			if err := rep.Acknowledge(t.Context(), before.watermark+1000); err != nil {
				t.Fatal(err)
			}
			if report.Failed == 0 {
				if at < 5 {
					t.Errorf("%s: %d operations", name, at-1)
				}
				break
			}
		}
	}
	rep.compare = true
	invariant(t, rep)
}
