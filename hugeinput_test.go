//go:build linux

package tursosync_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/internal/wire"
	"github.com/tursosync/tursosync/server"
	"github.com/tursosync/tursosync/tursosynctest"
)

// What is far too large ends in success or in a typed error, in bounded memory, and
// the replica goes on. A child process with a soft memory limit does it; its peak,
// C included, is what counts. The server is in the test's own process.

const hugeChildEnv = "TURSOSYNC_HUGE_CHILD"

// softLimit is what the Go runtime of the child keeps to where it can.
const softLimit = 64 << 20

type hugeReport struct {
	Before, Peak int64
	Err          string // of the last step
	Known        string // which error that is
	Pending      int64
}

// hugeSteps are what the child does.
var hugeSteps = map[string]func(ctx context.Context, db *sql.DB, r *tursosync.Replica) error{
	"row": func(ctx context.Context, db *sql.DB, r *tursosync.Replica) error {
		if _, err := db.Exec(`INSERT INTO big(v) VALUES (zeroblob(104857600))`); err != nil {
			return err
		}
		return r.Push(ctx)
	},
	"transaction": func(ctx context.Context, db *sql.DB, r *tursosync.Replica) error {
		if _, err := db.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) INSERT INTO big(v) SELECT randomblob(1000000) FROM n`); err != nil {
			return err
		}
		return r.Push(ctx)
	},
	"push": func(ctx context.Context, db *sql.DB, r *tursosync.Replica) error {
		if _, err := db.Exec(`INSERT INTO big(v) VALUES ('x')`); err != nil {
			return err
		}
		return r.Push(ctx)
	},
	"pull": func(ctx context.Context, _ *sql.DB, r *tursosync.Replica) error { return r.Pull(ctx) },
}

// TestHugeChild is not a test: it is what a child process runs.
func TestHugeChild(t *testing.T) {
	step, dsn, ok := strings.Cut(os.Getenv(hugeChildEnv), " ")
	if !ok {
		t.Skip("run by TestHugeInputs")
	}
	debug.SetMemoryLimit(softLimit)
	db, err := sql.Open("tursosync", dsn)
	if err != nil {
		t.Fatal(err)
	}
	r, err := tursosync.ReplicaOf(db)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`CREATE TABLE IF NOT EXISTS big(id INTEGER PRIMARY KEY, v)`); err != nil {
		t.Fatal(err)
	}
	rep := hugeReport{Before: peakMemory(t)}
	err = hugeSteps[step](context.Background(), db, r)
	rep.Peak = peakMemory(t)
	var e *tursosync.RemoteError
	switch {
	case err == nil:
	case errors.Is(err, tursosync.ErrBadAnswer):
		rep.Known = "bad answer"
	case errors.As(err, &e):
		rep.Known = fmt.Sprintf("remote %d", e.Status)
	}
	if err != nil {
		rep.Err = err.Error()
	}
	// Whatever that was, the application goes on.
	if _, err := db.Exec(`INSERT INTO big(v) VALUES ('after')`); err != nil {
		t.Fatal(err)
	}
	st, err := r.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	rep.Pending = st.PendingChanges
	if err := db.Close(); err != nil {
		t.Logf("close: %v", err)
	}
	b, err := json.Marshal(rep)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\nreport %s\n", b)
}

func hugeRun(t *testing.T, step, dsn string) hugeReport {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHugeChild$", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), hugeChildEnv+"="+step+" "+dsn)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("child: %v\n%.3000s", err, out)
	}
	var rep hugeReport
	_, text, _ := strings.Cut(string(out), "\nreport ")
	if err := json.NewDecoder(strings.NewReader(text)).Decode(&rep); err != nil {
		t.Fatalf("child: %v\n%.3000s", err, out)
	}
	t.Logf("%.0f MB at its peak, %.0f before; %d pending; %q %.200s", float64(rep.Peak)/(1<<20), float64(rep.Before)/(1<<20), rep.Pending, rep.Known, rep.Err)
	return rep
}

// manyPages answers a pull with 256 MB of pages, or as many as the client takes.
func manyPages(pageCount uint64, id func(i uint64) uint64) evil {
	return func(w http.ResponseWriter, _ *http.Request, _ func() answer) {
		w.Header().Set("Content-Type", wire.ProtobufMedia)
		h := wire.PullHeader{Revision: "1", PageCount: pageCount, Raw: true}
		if _, err := w.Write(wire.AppendFrame(nil, h.Append(nil))); err != nil {
			return
		}
		image := make([]byte, 4096)
		copy(image, "SQLite format 3\x00\x10\x00\x01\x01\x00\x40\x20\x20")
		for i := range uint64(256 << 20 / 4096) {
			p := wire.PageData{ID: id(i), Image: image}
			if _, err := w.Write(wire.AppendFrame(nil, p.Append(nil))); err != nil {
				return
			}
		}
	}
}

func TestHugeInputs(t *testing.T) {
	if testing.Short() {
		t.Skip("large rows")
	}
	const mb = 1 << 20
	dsn := func(t *testing.T, url string) string {
		return filepath.Join(t.TempDir(), "app.db") + "?sync=manual&url=" + url
	}
	check := func(t *testing.T, rep hugeReport, peak int64, known string, pending int64) {
		t.Helper()
		if rep.Peak > peak {
			t.Errorf("%d MB at its peak, want at most %d", rep.Peak/mb, peak/mb)
		}
		if rep.Known != known || rep.Known == "" && rep.Err != "" {
			t.Errorf("the error is %q (%s), want %q", rep.Known, rep.Err, known)
		}
		if rep.Pending != pending {
			t.Errorf("%d changes are pending, want %d", rep.Pending, pending)
		}
	}
	// Limits of proportion: the row is in SQLite, in the log's record, and in the
	// body of the request in base64.
	t.Run("row", func(t *testing.T) {
		srv := tursosynctest.NewServer(t)
		check(t, hugeRun(t, "row", dsn(t, srv.URL)), 600*mb, "remote 413", 2)
	})
	t.Run("row that the server takes", func(t *testing.T) {
		srv := tursosynctest.NewServerConfig(t, tursosynctest.Config{Server: server.Config{BodyMax: 1 << 30}})
		check(t, hugeRun(t, "row", dsn(t, srv.URL)), 600*mb, "", 1)
		if n := srv.Query(`SELECT max(length(v)) FROM big`)[0][0]; n != int64(100*mb) {
			t.Errorf("%v bytes on the server", n)
		}
	})
	t.Run("transaction", func(t *testing.T) {
		srv := tursosynctest.NewServer(t)
		check(t, hugeRun(t, "transaction", dsn(t, srv.URL)), 850*mb, "remote 413", 101)
	})
	t.Run("pulled row", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "remote.db")
		db, err := sql.Open("sqlite3", file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(`CREATE TABLE big(id INTEGER PRIMARY KEY, v); INSERT INTO big(v) VALUES (zeroblob(104857600))`); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		srv := tursosynctest.NewServerConfig(t, tursosynctest.Config{File: file})
		check(t, hugeRun(t, "pull", dsn(t, srv.URL)), 100*mb, "", 1) // the table was there already
	})
	t.Run("endless JSON", func(t *testing.T) {
		h := newHostile(t)
		h.be(onPush(func(w http.ResponseWriter, _ *http.Request, _ func() answer) {
			w.Header().Set("Content-Type", wire.JSONMedia)
			_, _ = w.Write([]byte(`{"baton":null,"base_url":null,"results":[`))
			part := []byte(strings.Repeat(`{"type":"ok","response":{"type":"close"}},`, 1000))
			for range 2 << 30 / len(part) {
				if _, err := w.Write(part); err != nil {
					return
				}
			}
		}))
		check(t, hugeRun(t, "push", dsn(t, h.Address())), 256*mb, "bad answer", 3)
	})
	for name, id := range map[string]func(i uint64) uint64{
		"the same page without end":           func(uint64) uint64 { return 0 },
		"many pages of a file that cannot be": func(i uint64) uint64 { return i },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHostile(t)
			h.be(onPull(manyPages(1<<32-2, id)))
			check(t, hugeRun(t, "pull", dsn(t, h.Address())), 64*mb, "bad answer", 2)
		})
	}
}
