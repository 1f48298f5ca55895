package tursosync_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/server"
	"github.com/tursosync/tursosync/server/auth"
)

// guarded is a server of ours that asks for tokens.
type guarded struct {
	*httptest.Server
	t      *testing.T
	key    ed25519.PrivateKey
	pushes atomic.Int64 // requests for SQL that began a transaction
}

func newGuarded(t *testing.T, edit ...func(*server.Config)) *guarded {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := auth.PublicPEM(pub)
	if err != nil {
		t.Fatal(err)
	}
	v, err := auth.New(auth.Config{Keys: [][]byte{pem}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := server.Config{File: filepath.Join(t.TempDir(), "remote.db"), Name: "shop", Permit: v.Permit, NoSync: true}
	for _, e := range edit {
		e(&cfg)
	}
	s, err := server.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g := &guarded{t: t, key: key}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if bytes.Contains(body, []byte("BEGIN IMMEDIATE")) {
			g.pushes.Add(1)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		g.CloseClientConnections()
		g.Server.Close()
		if err := errors.Join(s.Close(), v.Close()); err != nil {
			t.Error(err)
		}
	})
	return g
}

func (g *guarded) Address() string          { return g.URL }
func (g *guarded) Stop()                    {}
func (g *guarded) Start()                   {}
func (g *guarded) Copy(t *testing.T) string { t.Fatal("not here"); return "" }

// token returns a token; without rules it may do everything.
func (g *guarded) token(rules ...string) string { return g.tokenOf("", rules...) }

func (g *guarded) tokenOf(subject string, rules ...string) string {
	g.t.Helper()
	c := auth.Claims{Subject: subject, Databases: []string{"shop"}}
	for _, text := range rules {
		r, err := auth.ParseRule(text)
		if err != nil {
			g.t.Fatal(err)
		}
		c.Rules = append(c.Rules, r)
	}
	token, err := auth.Sign(g.key, c)
	if err != nil {
		g.t.Fatal(err)
	}
	return token
}

func with(token string) func(*tursosync.Config) {
	return func(c *tursosync.Config) { c.AuthToken = token }
}

func halts(c *tursosync.Config) { c.OnReject = tursosync.RejectHalt }

const todos = `CREATE TABLE todos(id TEXT PRIMARY KEY, n INTEGER)`

// TestRestrictedTriggers: a token without any right on the schema pushes to tables
// with triggers, whose effects are there once, and no schema is written.
func TestRestrictedTriggers(t *testing.T) {
	g := newGuarded(t)
	admin := open(t, g, with(g.token()))
	admin.exec(todos, `CREATE TABLE total(id INTEGER PRIMARY KEY, n INTEGER)`, `CREATE TABLE audit(id INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT)`,
		`INSERT INTO total VALUES (1, 0)`,
		`CREATE TRIGGER counts AFTER INSERT ON todos BEGIN UPDATE total SET n = n + new.n; END`,
		`CREATE TRIGGER moves AFTER UPDATE OF n ON todos BEGIN UPDATE total SET n = n + new.n - old.n; END`,
		`CREATE TRIGGER audits AFTER UPDATE ON total BEGIN INSERT INTO audit(what) VALUES (old.n || ' to ' || new.n); END`,
		`CREATE TRIGGER guards BEFORE INSERT ON todos WHEN new.n < 0 BEGIN SELECT RAISE(ABORT, 'less than nothing'); END`,
		`INSERT INTO audit(what) VALUES ('begin')`)
	admin.sync()
	version := queryRemote(admin, `PRAGMA schema_version`)
	few := g.token("all:data_read", "todos:data_add,data_update", "total:data_add,data_update", "audit:data_add,data_update")
	one, two := open(t, g, with(few)), open(t, g, with(few))
	one.sync()
	two.sync()
	one.exec(`INSERT INTO todos VALUES ('a', 1)`, `INSERT INTO todos VALUES ('b', 10)`, `UPDATE todos SET n = 2 WHERE id = 'a'`)
	one.sync()
	two.pull()
	two.exec(`INSERT INTO todos VALUES ('c', 100)`)
	for range 2 {
		for _, s := range []*side{one, two, admin} {
			s.sync()
		}
	}
	for _, s := range []*side{one, two, admin} {
		s.want(`SELECT n FROM total`, "112")
		s.want(`SELECT what FROM audit ORDER BY id`, "begin", "0 to 1", "1 to 11", "11 to 12", "12 to 112")
	}
	if got := queryRemote(admin, `PRAGMA schema_version`); got != version {
		t.Errorf("schema version = %v, was %v", got, version)
	}
	if got := queryRemote(admin, `SELECT what FROM audit ORDER BY id`); got != "begin,0 to 1,1 to 11,11 to 12,12 to 112," {
		t.Errorf("audit = %v", got)
	}
}

// queryRemote asks the remote with the token of a replica.
func queryRemote(s *side, sql string) string {
	s.Helper()
	req, err := http.NewRequestWithContext(s.Context(), "POST", s.cfg.URL+"/v2/pipeline", strings.NewReader(`{"requests":[{"type":"execute","stmt":{"sql":"`+sql+`"}}]}`))
	if err != nil {
		s.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.cfg.AuthToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	var out strings.Builder
	for _, part := range strings.Split(string(b), `"value":"`)[1:] {
		out.WriteString(part[:strings.IndexByte(part, '"')] + ",")
	}
	return out.String()
}

// TestNotPermitted: what the token does not permit is refused with an error that
// says so, put aside or halting as configured, and not tried again.
func TestNotPermitted(t *testing.T) {
	const reason = `not authorized: the token has no data_add on table "secrets"`
	setup := func(t *testing.T) (g *guarded, few string) {
		g = newGuarded(t)
		admin := open(t, g, with(g.token()))
		admin.exec(todos, `CREATE TABLE secrets(id TEXT PRIMARY KEY)`, `INSERT INTO secrets VALUES ('theirs')`)
		admin.sync()
		return g, g.token("all:data_read", "todos:data_add,data_update")
	}
	t.Run("quarantine", func(t *testing.T) {
		g, few := setup(t)
		s := open(t, g, with(few))
		s.sync()
		s.exec(`INSERT INTO todos VALUES ('a', 1)`, `INSERT INTO secrets VALUES ('mine')`, `INSERT INTO todos VALUES ('b', 2)`)
		var rejected *tursosync.RejectedError
		if err := s.r.Push(t.Context()); !errors.As(err, &rejected) || len(rejected.Rejections) != 1 || rejected.Rejections[0].Reason != reason {
			t.Errorf("Push = %v", err)
		}
		s.sync()
		s.want(`SELECT id FROM todos ORDER BY id`, "a", "b")
		s.want(`SELECT id FROM secrets`, "theirs")
		if got := queryRemote(s, `SELECT id FROM todos ORDER BY id`); got != "a,b," {
			t.Errorf("todos = %s", got)
		}
		t.Log("a table, and the rows in it")
		s.exec(`CREATE TABLE mine(x)`, `INSERT INTO mine VALUES (1)`, `INSERT INTO todos VALUES ('c', 3)`, `DELETE FROM mine`)
		if err := s.r.Push(t.Context()); !errors.As(err, &rejected) || !strings.Contains(err.Error(), `no schema_add on table "mine"`) {
			t.Errorf("Push = %v", err)
		}
		s.sync()
		s.want(`SELECT name FROM sqlite_schema WHERE name = 'mine'`)
		if got := queryRemote(s, `SELECT id FROM todos ORDER BY id`); got != "a,b,c," {
			t.Errorf("todos = %s", got)
		}
		t.Log("a deletion, which this token does not permit either")
		s.exec(`DELETE FROM todos WHERE id = 'a'`)
		if err := s.r.Push(t.Context()); !errors.As(err, &rejected) || !strings.Contains(err.Error(), `no data_delete on table "todos"`) {
			t.Errorf("Push = %v", err)
		}
		s.sync()
		s.want(`SELECT id FROM todos ORDER BY id`, "a", "b", "c")
	})
	t.Run("halt", func(t *testing.T) {
		g, few := setup(t)
		s := open(t, g, with(few), halts)
		s.sync()
		s.exec(`INSERT INTO todos VALUES ('a', 1)`, `INSERT INTO secrets VALUES ('mine')`, `INSERT INTO todos VALUES ('b', 2)`)
		err := s.r.Push(t.Context())
		var halted *tursosync.HaltedError
		var e *tursosync.RemoteError
		if !errors.As(err, &halted) || halted.Halt.Reason != reason || !errors.Is(err, tursosync.ErrNotPermitted) || !errors.As(err, &e) || !strings.Contains(e.SQL, "secrets") {
			t.Errorf("Push = %v", err)
		}
		if got := s.r.Status(); got.State != tursosync.Halted || got.Reason != reason {
			t.Errorf("Status = %v", got)
		}
		t.Log("with a better token it goes on")
		s.cfg.AuthToken = g.token("all:data_read", "todos:data_add,data_update", "secrets:data_add,data_update")
		s.reopen()
		s.sync()
		if got := queryRemote(s, `SELECT id FROM secrets ORDER BY id`); got != "mine,theirs," {
			t.Errorf("secrets = %s", got)
		}
	})
	t.Run("read-only", func(t *testing.T) {
		g, few := setup(t)
		s := open(t, g, with(g.token("all:data_read")), func(c *tursosync.Config) { c.Sync = "" })
		if err := s.r.Pull(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.exec(`INSERT INTO todos VALUES ('a', 1)`)
		err := s.r.Push(t.Context())
		var halted *tursosync.HaltedError
		if !errors.As(err, &halted) || !errors.Is(err, tursosync.ErrNotPermitted) || !strings.Contains(err.Error(), "the token is read-only") {
			t.Errorf("Push = %v", err)
		}
		if got := s.r.Status(); got.State != tursosync.Halted || !strings.Contains(got.Reason, "read-only") {
			t.Errorf("Status = %v", got)
		}
		n := g.pushes.Load()
		s.exec(`INSERT INTO todos VALUES ('b', 1)`)
		if err := s.r.Push(t.Context()); !errors.As(err, &halted) {
			t.Errorf("Push = %v", err)
		}
		// Pulls go on.
		other := open(t, g, with(few))
		other.sync()
		other.exec(`INSERT INTO todos VALUES ('c', 1)`)
		other.sync()
		n++ // that one
		if err := s.r.Pull(t.Context()); err != nil {
			t.Errorf("Pull = %v", err)
		}
		s.want(`SELECT id FROM todos ORDER BY id`, "a", "b", "c")
		if got := g.pushes.Load(); got > n+1 {
			t.Errorf("%d pushes, want no more than %d: a halted replica tries again", got, n+1)
		}
		s.cfg.AuthToken = few
		s.reopen()
		ctx := t.Context()
		if err := s.r.Push(ctx); err != nil {
			t.Errorf("Push = %v", err)
		}
		if got := queryRemote(s, `SELECT id FROM todos ORDER BY id`); got != "a,b,c," {
			t.Errorf("todos = %s", got)
		}
	})
}

// TestTriggersAlwaysFire: when the server does not let restricted tokens silence
// triggers, or a trigger is a guard with effects, a push that would have effects
// twice is refused, with the trigger's name, and nothing is tried for ever.
func TestTriggersAlwaysFire(t *testing.T) {
	for name, c := range map[string]struct {
		fire    bool
		trigger string
		want    string
	}{
		"server always fires": {true, `CREATE TRIGGER audits AFTER INSERT ON todos BEGIN INSERT INTO audit(what) VALUES (new.id); END`, `trigger "audits" of table "todos" always fires`},
		"guard with effects": {false, `CREATE TRIGGER audits AFTER INSERT ON todos BEGIN SELECT RAISE(ABORT, 'no') WHERE new.n < 0; INSERT INTO audit(what) VALUES (new.id); END`,
			`trigger "audits" of table "todos" may RAISE`},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuarded(t, func(cfg *server.Config) { cfg.FireTriggers = c.fire })
			admin := open(t, g, with(g.token()))
			admin.exec(todos, `CREATE TABLE audit(id INTEGER PRIMARY KEY, what TEXT)`, `CREATE TABLE free(id TEXT PRIMARY KEY)`, c.trigger)
			admin.sync()
			few := g.token("all:data_read", "all:data_add", "all:data_update")
			s := open(t, g, with(few))
			s.sync()
			s.exec(`INSERT INTO todos VALUES ('a', 1)`, `INSERT INTO free VALUES ('f')`)
			var rejected *tursosync.RejectedError
			if err := s.r.Push(t.Context()); !errors.As(err, &rejected) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), `no schema_delete on table "todos"`) {
				t.Errorf("Push = %v", err)
			}
			s.sync()
			s.want(`SELECT count(*) FROM todos`, "0")
			s.want(`SELECT count(*) FROM audit`, "0")
			s.want(`SELECT id FROM free`, "f")
			t.Log("whoever may drop the trigger may replay")
			admin.exec(`INSERT INTO todos VALUES ('b', 1)`)
			admin.sync()
			s.pull()
			s.want(`SELECT what FROM audit`, "b")
			halting := open(t, g, with(few), halts)
			halting.sync()
			halting.exec(`INSERT INTO todos VALUES ('c', 1)`)
			ctx, begun := t.Context(), time.Now()
			var halted *tursosync.HaltedError
			if err := halting.r.Push(ctx); !errors.As(err, &halted) || !strings.Contains(err.Error(), c.want) || time.Since(begun) > 20*time.Second {
				t.Errorf("Push = %v", err)
			}
		})
	}
}

// TestClientOfAnother: a replica that has pushed for one user does not push for
// another, says why, and goes on with a token of the first.
func TestClientOfAnother(t *testing.T) {
	g := newGuarded(t)
	admin := open(t, g, with(g.token()))
	admin.exec(todos)
	admin.sync()
	few := []string{"all:data_read", "todos:data_add,data_update"}
	s := open(t, g, with(g.tokenOf("ann", few...)))
	s.sync()
	s.exec(`INSERT INTO todos VALUES ('a', 1)`)
	s.sync()
	s.exec(`INSERT INTO todos VALUES ('b', 1)`)
	s.cfg.AuthToken = g.tokenOf("bob", few...)
	s.reopen()
	var halted *tursosync.HaltedError
	if err := s.r.Push(t.Context()); !errors.As(err, &halted) || !errors.Is(err, tursosync.ErrNotPermitted) || !strings.Contains(err.Error(), "is that of another subject") {
		t.Errorf("Push = %v", err)
	}
	s.want(`SELECT id FROM todos ORDER BY id`, "a", "b")
	if got := queryRemote(s, `SELECT id FROM todos ORDER BY id`); got != "a," {
		t.Errorf("todos = %s", got)
	}
	s.cfg.AuthToken = g.tokenOf("ann", few...)
	s.reopen()
	s.sync()
	if got := queryRemote(s, `SELECT id FROM todos ORDER BY id`); got != "a,b," {
		t.Errorf("todos = %s", got)
	}
}
