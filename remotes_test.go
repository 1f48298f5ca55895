package tursosync_test

import (
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/internal/realtest"
	"github.com/tursosync/tursosync/tursosynctest"
)

// remote is a server that a test may stop and start.
type remote interface {
	Address() string
	Stop()
	Start()
	// Copy returns a checkpointed copy of the database.
	Copy(t *testing.T) string
}

// guardedRemote wants more of a replica than an address.
type guardedRemote interface {
	configure(c *tursosync.Config)
	sql() realtest.SQL
}

// remotes are the servers that the tests of replicas run against. The program is the
// one that people run, a process of its own, with signed tokens; by host name it
// differs in how requests travel, and runs what restarts, breaks or waits.
var remotes = []struct {
	name  string
	start func(t *testing.T) remote
	only  []string // tests; none: all but those of notAgainst
}{
	{name: "server", start: func(t *testing.T) remote { return &ownServer{tursosynctest.NewServer(t)} }},
	{name: "program", start: func(t *testing.T) remote { return startProgram(t, realtest.ServeOptions{}) }},
	{name: "program by host name", start: func(t *testing.T) remote {
		return startProgram(t, realtest.ServeOptions{TLS: true, Host: true, Kill: true})
	}, only: []string{"TestBothDirections", "TestValues", "TestOfflineWrites", "TestInTheBackground", "TestLostAnswers", "TestManyRows",
		"TestServerRestarts", "TestServerReplaced", "TestRemoteGivenLater", "TestRemoteReplaced", "TestCloseSendsWhatIsPending"}},
	{name: "tursodb", start: func(t *testing.T) remote { return startTursodb(t) }},
}

// notAgainst says which tests do not run against which remotes, and why. Tests that
// do not use eachRemote are about what is under a replica (its files, its process,
// memory, readers) or in front of a remote (garbage), with server as the remote, or
// about what tursodb alone does (TestServerTruncatesItsWAL, TestMVCC,
// TestTablesWithoutRowID, TestServerWithExistingDatabase).
var notAgainst = []struct{ test, remote, why string }{
	{"TestConflicts", "program", "nine cases, twice: SQL, for which it makes no difference that the server is a process"},
	{"TestRandomReplicas", "program", "as TestConflicts"},
	{"TestOfficialInTurns", "program", "as TestConflicts"},
	{"TestAdoption", "program", "six kinds of files on the side of the replica"},
	{"TestRestoredFiles", "program", "what happens to the replica's files"},
	{"TestTwoCopies", "program", "as TestRestoredFiles"},
	{"TestHalt", "program", "decisions on the side of the replica"},
	{"TestHaltEndToEnd", "program", "as TestHalt"},
	{"TestHistories", "program", "what replicas do; the server's part is the same in process"},
	{"TestBootstrapInChunks", "program", "48 MB, twice; the server sends them the same way in process"},
}

// eachRemote runs a test against every kind of remote that it is for.
func eachRemote(t *testing.T, fn func(t *testing.T, r remote)) {
	test, _, _ := strings.Cut(t.Name(), "/")
	for _, kind := range remotes {
		except := len(kind.only) > 0 && !slices.Contains(kind.only, test)
		for _, e := range notAgainst {
			except = except || e.test == test && e.remote == kind.name
		}
		if !except {
			t.Run(kind.name, func(t *testing.T) { fn(t, kind.start(t)) })
		}
	}
}

type ownServer struct{ *tursosynctest.Server }

func (s *ownServer) Address() string { return s.URL }

func (s *ownServer) Copy(t *testing.T) string {
	t.Helper()
	s.Digest() // checkpoints
	b, err := os.ReadFile(s.File)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// program is `tursosync serve`.
type program struct{ *realtest.Serve }

func startProgram(t *testing.T, o realtest.ServeOptions) *program {
	t.Helper()
	return &program{realtest.StartServe(t, o)}
}

func (s *program) Address() string { return s.URL }

func (s *program) configure(c *tursosync.Config) { c.AuthToken, c.HTTPClient = s.Token, s.Client }

func (s *program) sql() realtest.SQL { return s.SQL() }

func (s *program) Copy(t *testing.T) string {
	t.Helper()
	s.Stop()
	defer s.Start()
	return checkpointedCopy(t, s.File)
}

type tursodb struct{ *realtest.Tursodb }

func startTursodb(t *testing.T, flags ...string) *tursodb {
	t.Helper()
	return &tursodb{realtest.StartTursodb(t, flags...)}
}

func (s *tursodb) Address() string { return s.URL }

func (s *tursodb) Copy(t *testing.T) string {
	t.Helper()
	s.Stop()
	defer s.Start()
	return checkpointedCopy(t, s.File)
}

// configure makes a replica's settings those for a remote.
func configure(c *tursosync.Config, r remote) {
	c.URL = r.Address()
	if g, ok := r.(guardedRemote); ok {
		g.configure(c)
	}
}

// sqlOf is the remote's database for SQL that is not a replica's.
func sqlOf(r remote) realtest.SQL {
	if g, ok := r.(guardedRemote); ok {
		return g.sql()
	}
	return realtest.SQL{URL: r.Address()}
}

// transportOf is what requests to the remote travel by.
func transportOf(r remote) http.RoundTripper {
	if c := sqlOf(r).Client; c != nil {
		return c.Transport
	}
	return http.DefaultTransport
}

// pathOf is the path of the remote's address.
func pathOf(r remote) string {
	u, err := url.Parse(r.Address())
	if err != nil {
		return ""
	}
	return u.Path
}

// terminate ends the remote as an operator would, if it knows the difference.
func terminate(r remote) {
	if s, ok := r.(interface{ Terminate() }); ok {
		s.Terminate()
		return
	}
	r.Stop()
}

func restart(r remote) {
	r.Stop()
	r.Start()
}

// wipe puts an empty database in the place of a stopped remote's. What our server
// knows of its history stays, and is of no use.
func wipe(t *testing.T, r remote) {
	t.Helper()
	file := ""
	switch s := r.(type) {
	case *tursodb:
		file = s.File
	case *ownServer:
		file = s.File
	case *program:
		s.Empty()
		return
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(file + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// restartEmpty starts the remote with a new file on the same address.
func restartEmpty(t *testing.T, r remote) {
	t.Helper()
	r.Stop()
	wipe(t, r)
	r.Start()
}
