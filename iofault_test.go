package tursosync_test

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/internal/faultfs"
	"github.com/tursosync/tursosync/tursosynctest"
)

// Single file operations fail, in turn, in a session of an application: open, make
// tables, write rows and blobs, sync, write, pull with a rebase, push, checkpoint,
// close, open again. What the application was told has happened must have happened,
// on the replica and on the remote, once.

// session is such an application.
type session struct {
	t    *testing.T
	db   *sql.DB
	cfg  tursosync.Config
	errs []error
	// failed twice in a row, without reopening
	stubborn []string
	acked    []string // tokens of transactions that were committed
	tried    int
}

// do does a step, and does it again if it fails.
func (s *session) do(name string, step func() error) {
	for again := range 2 {
		err := step()
		if err == nil {
			return
		}
		if s.errs = append(s.errs, fmt.Errorf("%s: %w", name, err)); again == 1 {
			s.stubborn = append(s.stubborn, name)
		}
	}
}

func (s *session) open() {
	c, err := tursosync.NewConnector(s.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.db = sql.OpenDB(c)
	s.do("open", s.db.Ping)
}

func (s *session) close() {
	if err := s.db.Close(); err != nil {
		s.errs = append(s.errs, fmt.Errorf("close: %w", err))
	}
}

func (s *session) exec(statements ...string) {
	for _, text := range statements {
		s.do(text, func() error { _, err := s.db.Exec(text); return err })
	}
}

// write commits a transaction of some rows, one of them large.
func (s *session) write(n int) {
	for range n {
		s.do("write", func() error {
			token := fmt.Sprintf("t%d", s.tried)
			s.tried++
			err := writeToken(s.db, "child", token, 2)
			if err == nil {
				s.acked = append(s.acked, token)
			}
			return err
		})
	}
	s.do("write blob", func() error {
		_, err := s.db.Exec(`INSERT INTO scratch(who, body) VALUES ('child', randomblob(30000))`)
		return err
	})
}

func (s *session) sync(name string, do func(r *tursosync.Replica) error) {
	s.do(name, func() error {
		r, err := tursosync.ReplicaOf(s.db)
		if err != nil {
			return err
		}
		return do(r)
	})
}

func (s *session) read() {
	s.do("read", func() error {
		rows, err := s.db.Query(`SELECT token FROM keyed`)
		if err != nil {
			return err
		}
		defer rows.Close()
		n := 0
		for rows.Next() {
			n++
		}
		if err := rows.Err(); err != nil {
			return err
		}
		if n < len(s.acked) {
			s.t.Errorf("%d rows, of %d that were committed", n, len(s.acked))
		}
		return nil
	})
}

// run is the session; remote is what others do on the remote in the middle of it.
func (s *session) run(remote func()) {
	ctx := s.t.Context()
	s.open()
	s.exec(sessionSchema...)
	s.write(2)
	s.sync("sync", func(r *tursosync.Replica) error { return r.Sync(ctx) })
	s.write(2)
	remote()
	s.exec(`CREATE INDEX IF NOT EXISTS bag_who ON bag(who)`)
	s.sync("pull", func(r *tursosync.Replica) error { return r.Pull(ctx) })
	s.read()
	s.write(1)
	s.sync("push", func(r *tursosync.Replica) error { return r.Push(ctx) })
	s.sync("checkpoint", func(r *tursosync.Replica) error { return r.Checkpoint(ctx) })
	s.write(1)
	s.close()
	s.open()
	s.write(1)
	s.sync("sync", func(r *tursosync.Replica) error { return r.Sync(ctx) })
	s.read()
	s.close()
}

// typed tells whether a program can find out what happened.
func typed(err error) bool {
	var e sqlite3.Error
	var p *fs.PathError
	return errors.As(err, &e) || errors.As(err, &p)
}

var sessionVariants = []struct {
	name  string
	fault faultfs.Fault
	every int
}{
	{"once", faultfs.Fault{}, 61},
	{"lasts", faultfs.Fault{Lasts: true}, 211},
	{"half done", faultfs.Fault{Partial: true, Kinds: []faultfs.Kind{faultfs.Read, faultfs.Write}}, 211},
	{"disk full", faultfs.Fault{Full: true, Partial: true, Lasts: true, Kinds: []faultfs.Kind{faultfs.Write}}, 151},
	// Commits that are not synced are out of the question: see _synchronous.
	{"sync loses", faultfs.Fault{Lose: true, Kinds: []faultfs.Kind{faultfs.Sync}, Except: "app.db-wal"}, 9},
	{"busy", faultfs.Fault{Busy: true, Kinds: []faultfs.Kind{faultfs.Lock, faultfs.ShmLock}}, 211},
}

// TestIOFaults is the session with every operation failing in turn: a sample of
// them, or all with TURSOSYNC_SWEEP_FULL=1. internal/replica has the same for every
// kind of pull, adoption and recovery.
func TestIOFaults(t *testing.T) {
	if err := faultfs.Register(); err != nil {
		t.Fatal(err)
	}
	for _, v := range sessionVariants {
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
	srv := &ownServer{tursosynctest.NewServer(t)}
	s := &session{t: t, cfg: tursosync.Config{Path: filepath.Join(faultfs.TempDir(t), "app.db"), URL: srv.URL, Sync: tursosync.SyncManual}}
	f.Dir, f.At = filepath.Dir(s.cfg.Path)+"/", at
	done, err := faultfs.Set(f)
	if err != nil {
		t.Fatal(err)
	}
	s.run(func() {
		srv.Exec(`CREATE TABLE theirs(x)`, `INSERT INTO theirs VALUES (1), (randomblob(20000))`)
	})
	report := done()
	for _, err := range s.errs {
		if !typed(err) {
			t.Errorf("%v: the error is not typed: %v", report, err)
		}
	}
	if report.Failed == 0 && len(s.errs) > 0 {
		t.Errorf("nothing failed, and yet: %v", s.errs)
	}
	if len(s.stubborn) > 0 && !f.Lasts {
		t.Errorf("%v: %v fails again and again without a cause: %v", report, s.stubborn, s.errs)
	}
	one := open(t, srv, func(c *tursosync.Config) { c.Path = s.cfg.Path })
	one.exec(sessionSchema...) // a session may have got nowhere
	one.sync()
	two := open(t, srv)
	converge(t, srv, one, two)
	have := map[string]bool{}
	for _, token := range queryRows(t, two.db, `SELECT token FROM keyed`) {
		have[token] = true
	}
	for _, token := range s.acked {
		if !have[token] {
			t.Errorf("%s was committed and is lost", token)
		}
	}
	two.want(`SELECT count(*) - (SELECT count(*) FROM bag), count(*) - (SELECT n FROM counters) FROM keyed`, "0|0")
	two.want(`SELECT count(*) FROM bag WHERE token NOT IN (SELECT token FROM keyed)`, "0")
	if t.Failed() {
		t.Logf("operation %d: %v; the errors were %q", at, report, s.errs)
	}
	for _, suffix := range []string{"-base-next", "-stage", "-rebuild", "-pull"} {
		if _, err := os.Stat(s.cfg.Path + suffix); err == nil {
			t.Errorf("%s is left over", suffix)
		}
	}
	return report
}

// sessionSchema makes the tables of crashSchema, one statement after the other.
var sessionSchema = []string{
	`CREATE TABLE IF NOT EXISTS keyed(token TEXT PRIMARY KEY, who TEXT NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS bag(token TEXT NOT NULL, who TEXT NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS scratch(id INTEGER PRIMARY KEY, who TEXT, body BLOB)`,
	`CREATE TABLE IF NOT EXISTS counters(who TEXT PRIMARY KEY, n INTEGER NOT NULL)`,
	`INSERT OR IGNORE INTO counters VALUES ('child', 0)`,
}
