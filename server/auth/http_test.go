package auth_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tursosync/tursosync/server"
	"github.com/tursosync/tursosync/server/auth"
)

// remote is a server on loopback with a key of its own.
type remote struct {
	url  string
	priv ed25519.PrivateKey
	v    *auth.Verifier
}

func public(t testing.TB, k crypto.PublicKey) []byte {
	t.Helper()
	b, err := auth.PublicPEM(k)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newRemote(t testing.TB) *remote {
	t.Helper()
	return newRemoteWith(t, server.Config{})
}

func newRemoteWith(t testing.TB, cfg server.Config) *remote {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	v, err := auth.New(auth.Config{Keys: [][]byte{public(t, pub)}})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.File == "" {
		cfg.File = filepath.Join(t.TempDir(), "shop.db")
	}
	cfg.Name, cfg.Permit, cfg.NoSync = "shop", v.Permit, true
	s, err := server.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s)
	t.Cleanup(func() {
		h.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return &remote{h.URL, priv, v}
}

func (r *remote) token(t testing.TB, rules ...auth.Rule) string {
	t.Helper()
	token, err := auth.Sign(r.priv, auth.Claims{Databases: []string{"shop"}, Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// rules reads rules; none means that everything is permitted.
func rules(t testing.TB, texts ...string) []auth.Rule {
	t.Helper()
	var out []auth.Rule
	for _, s := range texts {
		r, err := auth.ParseRule(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// post returns status and body.
func (r *remote) post(t testing.TB, path, token string, body []byte) (int, string) {
	t.Helper()
	req, err := http.NewRequest("POST", r.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// outcome is what became of a statement: the code of its error, empty for none.
type outcome struct {
	code, message string
	rows          [][]struct{ Value any }
}

// run executes statements in one pipeline, each whatever became of those before.
func (r *remote) run(t testing.TB, token string, sql ...string) []outcome {
	t.Helper()
	type stmt struct {
		SQL string `json:"sql"`
	}
	type request struct {
		Type string `json:"type"`
		Stmt stmt   `json:"stmt"`
	}
	var p struct {
		Requests []request `json:"requests"`
	}
	for _, q := range sql {
		p.Requests = append(p.Requests, request{"execute", stmt{q}})
	}
	body, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	status, answer := r.post(t, "/v2/pipeline", token, body)
	if status != 200 {
		t.Fatalf("status = %d %s", status, answer)
	}
	var a struct {
		Results []struct {
			Error    *struct{ Message, Code string }
			Response struct {
				Result struct {
					Rows [][]struct{ Value any }
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(answer), &a); err != nil || len(a.Results) != len(sql) {
		t.Fatalf("%v: %s", err, answer)
	}
	out := make([]outcome, len(sql))
	for i, x := range a.Results {
		out[i].rows = x.Response.Result.Rows
		if x.Error != nil {
			out[i] = outcome{code: x.Error.Code, message: x.Error.Message}
		}
	}
	return out
}

// must executes statements that succeed.
func (r *remote) must(t testing.TB, token string, sql ...string) []outcome {
	t.Helper()
	out := r.run(t, token, sql...)
	for i, o := range out {
		if o.code != "" {
			t.Fatalf("%s: %s %s", sql[i], o.code, o.message)
		}
	}
	return out
}

// need is a right on a table. In table and SQL, $ stands for the table that the
// operation is tried on.
type need struct {
	actions auth.Actions
	table   string
}

const everyTable = "" // of a need: all tables

// operations with all that each of them needs. Of the tables that $ stands for, t
// and u exist, with the same columns, and "new_t" and "new_u" do not.
var operations = []struct {
	name, sql string
	needs     []need
}{
	{"read a column", "SELECT a FROM $", []need{{auth.DataRead, "$"}}},
	{"read all columns", "SELECT * FROM $", []need{{auth.DataRead, "$"}}},
	{"count rows", "SELECT count(*) FROM $", []need{{auth.DataRead, "$"}}},
	{"is there a row", "SELECT EXISTS (SELECT 1 FROM $)", []need{{auth.DataRead, "$"}}},
	{"read in a subquery", "SELECT (SELECT max(a) FROM $)", []need{{auth.DataRead, "$"}}},
	{"read in a common table expression", "WITH c AS (SELECT a AS x FROM $) SELECT x FROM c", []need{{auth.DataRead, "$"}}},
	{"explain", "EXPLAIN SELECT a FROM $", []need{{auth.DataRead, "$"}}},
	{"read a view", "SELECT a FROM view_$", []need{{auth.DataRead, "$"}, {auth.DataRead, "view_$"}}},
	{"add", "INSERT INTO $ (a) VALUES (7)", []need{{auth.DataAdd, "$"}}},
	{"add and return", "INSERT INTO $ (a) VALUES (7) RETURNING a", []need{{auth.DataAdd | auth.DataRead, "$"}}},
	{"add from itself", "INSERT INTO $ (a) SELECT a FROM $", []need{{auth.DataAdd | auth.DataRead, "$"}}},
	{"add from another", "INSERT INTO $ SELECT id + 99, a FROM o", []need{{auth.DataAdd, "$"}, {auth.DataRead, "o"}}},
	{"add to another", "INSERT INTO o SELECT id + 99, a FROM $", []need{{auth.DataAdd, "o"}, {auth.DataRead, "$"}}},
	{"add or ignore", "INSERT OR IGNORE INTO $ (id, a) VALUES (1, 7)", []need{{auth.DataAdd, "$"}}},
	{"replace", "REPLACE INTO $ (id, a) VALUES (1, 7)", []need{{auth.DataAdd | auth.DataDelete, "$"}}},
	{"add or replace", "INSERT OR REPLACE INTO $ (id, a) VALUES (1, 7)", []need{{auth.DataAdd | auth.DataDelete, "$"}}},
	{"upsert", "INSERT INTO $ (id, a) VALUES (1, 7) ON CONFLICT (id) DO UPDATE SET a = excluded.a",
		[]need{{auth.DataAdd | auth.DataUpdate | auth.DataRead, "$"}}},
	{"update", "UPDATE $ SET a = 1", []need{{auth.DataUpdate, "$"}}},
	{"update by itself", "UPDATE $ SET a = a + 1", []need{{auth.DataUpdate | auth.DataRead, "$"}}},
	{"update where", "UPDATE $ SET a = 1 WHERE id = 1", []need{{auth.DataUpdate | auth.DataRead, "$"}}},
	{"update or replace", "UPDATE OR REPLACE $ SET a = 1", []need{{auth.DataUpdate | auth.DataDelete, "$"}}},
	{"update from", "UPDATE $ SET a = o.a FROM o", []need{{auth.DataUpdate | auth.DataRead, "$"}, {auth.DataRead, "o"}}},
	{"delete all", "DELETE FROM $", []need{{auth.DataDelete, "$"}}},
	{"delete where", "DELETE FROM $ WHERE id = 1", []need{{auth.DataDelete | auth.DataRead, "$"}}},
	{"create", "CREATE TABLE new_$ (id INTEGER PRIMARY KEY, a)", []need{{auth.SchemaAdd, "new_$"}}},
	{"create with a key", "CREATE TABLE new_$ (k TEXT PRIMARY KEY, a UNIQUE)", []need{{auth.SchemaAdd, "new_$"}}},
	{"create without rowid", "CREATE TABLE new_$ (k TEXT PRIMARY KEY) WITHOUT ROWID", []need{{auth.SchemaAdd, "new_$"}}},
	{"create with autoincrement", "CREATE TABLE new_$ (id INTEGER PRIMARY KEY AUTOINCREMENT)", []need{{auth.SchemaAdd, "new_$"}}},
	{"create unless it exists", "CREATE TABLE IF NOT EXISTS $ (id)", []need{{auth.SchemaAdd, "$"}}},
	{"create as", "CREATE TABLE new_$ AS SELECT a FROM $", []need{{auth.SchemaAdd, "new_$"}, {auth.DataRead, "$"}}},
	{"create index", "CREATE INDEX new_index ON $ (a)", []need{{auth.SchemaAdd | auth.DataRead, "$"}}},
	{"create view", "CREATE VIEW new_$ AS SELECT a FROM $", []need{{auth.SchemaAdd, "new_$"}}},
	{"create trigger", "CREATE TRIGGER new_trigger AFTER INSERT ON $ BEGIN DELETE FROM o; END",
		[]need{{auth.SchemaAdd, "$"}, {auth.DataRead | auth.DataAdd | auth.DataUpdate | auth.DataDelete, everyTable}}},
	{"add a column", "ALTER TABLE $ ADD COLUMN b", []need{{auth.SchemaUpdate, "$"}}},
	{"rename a column", "ALTER TABLE $ RENAME COLUMN a TO b", []need{{auth.SchemaUpdate, "$"}}},
	{"drop a column", "ALTER TABLE $ DROP COLUMN c", []need{{auth.SchemaUpdate, "$"}}},
	{"drop", "DROP TABLE $", []need{{auth.SchemaDelete | auth.DataDelete, "$"}}},
	{"drop an index", "DROP INDEX index_$", []need{{auth.SchemaDelete, "$"}}},
	{"drop a trigger", "DROP TRIGGER trigger_$", []need{{auth.SchemaDelete, "$"}}},
	{"drop a view", "DROP VIEW view_$", []need{{auth.SchemaDelete | auth.DataDelete, "view_$"}}},
	{"read the schema", "SELECT sql FROM sqlite_schema WHERE name = '$'", nil},
	{"count the schema", "SELECT count(*) FROM sqlite_master", nil},
	{"ask for columns", "PRAGMA table_info($)", nil},
	{"nothing", "SELECT 1", nil},
}

// model is what rules permit, said a second time and in another way.
type model []auth.Rule

func (m model) permits(needs []need, table string) bool {
	for _, n := range needs {
		for bit := auth.Actions(1); bit != 0 && bit <= auth.SchemaDelete; bit <<= 1 {
			if n.actions&bit != 0 && !m.has(bit, strings.ReplaceAll(n.table, "$", table)) {
				return false
			}
		}
	}
	return true
}

func (m model) has(bit auth.Actions, table string) bool {
	for _, r := range m {
		if r.Actions&bit == 0 {
			continue
		}
		if len(r.Tables) == 0 {
			return true
		}
		for _, name := range r.Tables {
			if name == table {
				return true
			}
		}
	}
	return false
}

// TestEveryPermission tries each operation on a table that a token names and on
// one that it does not, for all 128 sets of actions, given to these tables or to
// all: 128 × 2 × 2 × operations cells, each through HTTP. A cell is right when the
// statement runs exactly if the model permits it, and else fails with SQLITE_AUTH.
func TestEveryPermission(t *testing.T) {
	r := newRemote(t)
	admin := r.token(t)
	r.must(t, admin, "CREATE TABLE o (id INTEGER PRIMARY KEY, a)", "INSERT INTO o VALUES (1, 7)",
		"CREATE TABLE auto (id INTEGER PRIMARY KEY AUTOINCREMENT)")
	for _, table := range []string{"t", "u"} {
		for _, sql := range []string{"CREATE TABLE $ (id INTEGER PRIMARY KEY, a, c)", "INSERT INTO $ VALUES (1, 7, 9)",
			"CREATE VIEW view_$ AS SELECT a FROM $", "CREATE INDEX index_$ ON $ (a)",
			// It never fires, but DROP needs one.
			"CREATE TRIGGER trigger_$ AFTER UPDATE OF id ON $ BEGIN SELECT 1; END"} {
			r.must(t, admin, strings.ReplaceAll(sql, "$", table))
		}
	}
	cells, run := 0, 0
	for actions := auth.Actions(0); actions <= auth.AllActions; actions++ {
		for _, tables := range [][]string{nil, {"t", "new_t", "view_t"}} {
			m := model{{Tables: tables, Actions: actions}, {Tables: []string{"elsewhere"}, Actions: auth.DataRead}}
			if actions == 0 {
				m = m[1:]
			}
			token := r.token(t, m...)
			for _, table := range []string{"t", "u"} {
				var sql []string
				for _, op := range operations {
					q := strings.ReplaceAll(op.sql, "$", table)
					if op.name == "add from another" {
						q = "INSERT INTO " + table + " SELECT id + 99, a, 0 FROM o"
					}
					sql = append(sql, "BEGIN", q, "ROLLBACK")
				}
				got := r.run(t, token, sql...)
				for i, op := range operations {
					cells++
					o, want := got[3*i+1], m.permits(op.needs, table)
					if want {
						run++
					}
					switch {
					case want && o.code == "", !want && o.code == "SQLITE_AUTH":
					default:
						t.Errorf("%s on %s with %v: %q %q, want permitted = %v", op.name, table, m, o.code, o.message, want)
					}
				}
			}
			if t.Failed() {
				t.FailNow()
			}
		}
	}
	t.Logf("%d cells, %d of them permitted", cells, run)
}

// TestPull: 128 sets of actions, on all tables and on one.
func TestPull(t *testing.T) {
	r := newRemote(t)
	r.must(t, r.token(t), "CREATE TABLE t (a)")
	for actions := auth.Actions(1); actions <= auth.AllActions; actions++ {
		for _, tables := range [][]string{nil, {"t"}} {
			status, body := r.post(t, "/pull-updates", r.token(t, auth.Rule{Tables: tables, Actions: actions}), nil)
			want := 403
			if tables == nil && actions&auth.DataRead != 0 {
				want = 200
			}
			if status != want || want == 403 && !strings.Contains(body, "all:data_read") {
				t.Errorf("pull with %v on %v = %d %s, want %d", actions, tables, status, body, want)
			}
		}
	}
}

// TestEscapes: none of these ways leads around the rights.
func TestEscapes(t *testing.T) {
	r := newRemote(t)
	admin := r.token(t)
	r.must(t, admin,
		"CREATE TABLE secret (id INTEGER PRIMARY KEY, v UNIQUE)", "INSERT INTO secret VALUES (1, 'key')",
		"CREATE TABLE mine (id INTEGER PRIMARY KEY, a)", "INSERT INTO mine VALUES (1, 'x')",
		"CREATE TABLE safe (id INTEGER PRIMARY KEY, a)", "INSERT INTO safe VALUES (1, 'x')",
		"CREATE TABLE loose (id INTEGER PRIMARY KEY ON CONFLICT REPLACE, a)", "INSERT INTO loose VALUES (1, 'x')",
		"CREATE TABLE kept (id INTEGER PRIMARY KEY, a)", "INSERT INTO kept VALUES (1, 'x')",
		"CREATE TABLE chained (id INTEGER PRIMARY KEY, a)", "INSERT INTO chained VALUES (1, 'x')",
		"CREATE TABLE parent (id INTEGER PRIMARY KEY)", "INSERT INTO parent VALUES (1)",
		"CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT)", "INSERT INTO counted VALUES (5)",
		"CREATE VIEW peek AS SELECT v FROM secret", "CREATE VIEW peek1 AS SELECT 1 FROM secret",
		"CREATE TABLE fired (id INTEGER PRIMARY KEY, a)",
		"CREATE TRIGGER leak AFTER INSERT ON fired WHEN NEW.a = 'read' BEGIN INSERT INTO mine (a) SELECT v FROM secret; END",
		"CREATE TABLE wiper (id INTEGER PRIMARY KEY, a)",
		"CREATE TRIGGER wipe AFTER INSERT ON wiper BEGIN DELETE FROM safe; END",
		"CREATE TABLE nested (id INTEGER PRIMARY KEY, a)",
		"CREATE TRIGGER nest AFTER INSERT ON nested BEGIN INSERT OR REPLACE INTO kept VALUES (NEW.id, 'n'); END",
		"CREATE TRIGGER chain AFTER INSERT ON kept BEGIN INSERT INTO chained VALUES (NEW.id, 'n'); END",
		"CREATE TABLE casc (id INTEGER PRIMARY KEY, p REFERENCES parent (id) ON DELETE CASCADE)",
		"INSERT INTO casc VALUES (1, 1)",
		"CREATE VIRTUAL TABLE docs USING fts4 (body)", "INSERT INTO docs VALUES ('treasure')",
		// LATIN SMALL LETTER LONG S and KELVIN SIGN: Unicode folds them to s and k.
		"CREATE TABLE \"\u017fafe\" (v)", "CREATE TABLE \"\u212aept\" (v)",
		"CREATE TABLE turso_sync_last_change_id (client_id TEXT PRIMARY KEY, pull_gen INTEGER, change_id INTEGER)",
		"INSERT INTO turso_sync_last_change_id VALUES ('c', 0, 1)",
	)
	const (
		all    = "data_read,data_add,data_update,data_delete,schema_add,schema_update,schema_delete"
		reader = "mine:data_read"
		writer = "mine:data_read,data_add,data_update,data_delete"
		owner  = "mine:" + all
	)
	before := contents(t, r, admin)
	for _, c := range []struct {
		name, rules string // rules with a space between them
		sql         []string
	}{
		// Reading what one may not read.
		{"plain", reader, []string{"SELECT v FROM secret"}},
		{"no column", reader, []string{"SELECT count(*) FROM secret"}},
		{"no column, other case", reader, []string{"SELECT count(*) FROM main.SECRET"}},
		{"no column, quoted", reader, []string{`SELECT 1 FROM "secret"`}},
		{"rowid", reader, []string{"SELECT rowid FROM secret"}},
		{"view", reader + " peek:data_read", []string{"SELECT v FROM peek"}},
		{"view without columns", reader + " peek1:data_read", []string{"SELECT count(*) FROM peek1"}},
		{"view of one's own", "mine:" + all + " w:" + all, []string{"CREATE VIEW w AS SELECT v FROM secret", "SELECT * FROM w"}},
		{"temporary view", writer, []string{"CREATE TEMP VIEW w AS SELECT v FROM secret", "SELECT * FROM w"}},
		{"temporary view of a permitted name", writer, []string{"CREATE TEMP VIEW mine AS SELECT v FROM main.secret", "SELECT * FROM mine"}},
		{"temporary table", writer, []string{"CREATE TEMP TABLE w AS SELECT v FROM secret", "SELECT * FROM w"}},
		{"common table expression", reader, []string{"WITH mine AS (SELECT v FROM secret) SELECT * FROM mine"}},
		{"common table expression without columns", reader, []string{"WITH mine AS (SELECT v FROM secret) SELECT count(*) FROM mine"}},
		{"common table expression of its name", reader, []string{"WITH secret AS (SELECT * FROM main.secret) SELECT count(*) FROM secret"}},
		{"recursive", reader, []string{"WITH RECURSIVE r(v) AS (SELECT v FROM secret UNION SELECT v FROM r) SELECT v FROM r"}},
		{"subquery", reader, []string{"SELECT (SELECT v FROM secret)"}},
		{"IN table", reader, []string{"SELECT 'key' IN secret"}},
		{"IN column", reader, []string{"SELECT * FROM mine WHERE a IN (SELECT v FROM secret)"}},
		{"EXISTS", reader, []string{"SELECT * FROM mine WHERE EXISTS (SELECT 1 FROM secret WHERE v > 'k')"}},
		{"compound", reader, []string{"SELECT a FROM mine UNION ALL SELECT v FROM secret"}},
		{"ORDER BY", reader, []string{"SELECT a FROM mine ORDER BY (SELECT v FROM secret)"}},
		{"LIMIT", reader, []string{"SELECT a FROM mine LIMIT (SELECT length(v) FROM secret)"}},
		{"join", reader, []string{"SELECT a FROM mine NATURAL JOIN secret"}},
		{"join without columns", reader, []string{"SELECT count(*) FROM mine NATURAL JOIN secret"}},
		{"join USING", reader, []string{"SELECT a FROM mine JOIN secret USING (id)"}},
		{"join USING, from the left", reader, []string{"SELECT a FROM secret JOIN mine USING (id)"}},
		{"join of its key", reader, []string{"SELECT id FROM mine FULL JOIN secret USING (id)"}},
		{"join of its key, right", reader, []string{"SELECT id FROM mine RIGHT JOIN secret USING (id)"}},
		{"three tables USING", reader + " safe:data_read", []string{"SELECT mine.a FROM mine JOIN secret USING (id) JOIN safe USING (id)"}},
		{"alias", reader, []string{"SELECT mine.v FROM secret AS mine"}},
		{"alias without columns", reader, []string{"SELECT 1 FROM secret AS mine"}},
		{"window", reader, []string{"SELECT first_value(v) OVER () FROM secret"}},
		{"filter", reader, []string{"SELECT count(*) FILTER (WHERE v = 'key') FROM secret"}},
		{"outer join that is left out", reader, []string{"SELECT a FROM mine LEFT JOIN secret ON secret.id = mine.id"}},
		{"table function", reader, []string{"SELECT value FROM secret, json_each(secret.v)"}},
		{"EXPLAIN", reader, []string{"EXPLAIN QUERY PLAN SELECT v FROM secret"}},
		{"copy", writer, []string{"INSERT INTO mine SELECT * FROM secret"}},
		{"copy by values", writer, []string{"INSERT INTO mine VALUES (9, (SELECT v FROM secret))"}},
		{"UPDATE FROM", writer, []string{"UPDATE mine SET a = v FROM secret"}},
		{"DELETE WHERE", writer, []string{"DELETE FROM mine WHERE a < (SELECT v FROM secret)"}},
		{"upsert WHERE", writer, []string{"INSERT INTO mine VALUES (1, 2) ON CONFLICT (id) DO UPDATE SET a = (SELECT v FROM secret)"}},
		{"CREATE TABLE AS", owner + " w:" + all, []string{"CREATE TABLE w AS SELECT v FROM secret"}},
		{"UPDATE RETURNING", reader + " secret:data_update", []string{"UPDATE secret SET v = 'k' RETURNING id"}},
		{"DELETE RETURNING", reader + " secret:data_delete", []string{"DELETE FROM secret RETURNING v"}},
		{"INSERT RETURNING", reader + " secret:data_add", []string{"INSERT INTO secret VALUES (2, 'z') RETURNING (SELECT v FROM secret)"}},
		{"UPDATE as oracle", reader + " secret:data_update", []string{"UPDATE secret SET v = 'k' WHERE v = 'key'"}},
		{"DELETE as oracle", reader + " secret:data_delete", []string{"DELETE FROM secret WHERE v = 'other'"}},
		{"unique index as oracle", reader + " secret:schema_add,schema_delete", []string{"CREATE UNIQUE INDEX i ON secret ((v = 'key'))"}},
		{"partial index as oracle", reader + " secret:schema_add,schema_delete", []string{"CREATE UNIQUE INDEX i ON secret ((1)) WHERE v = 'key'"}},
		{"CHECK as oracle", reader + " secret:schema_update", []string{"ALTER TABLE secret ADD COLUMN w CHECK (v <> 'key')"}},
		{"constraint as oracle", reader + " secret:schema_update", []string{"ALTER TABLE secret ADD CONSTRAINT w CHECK (v <> 'key')"}},
		{"quick_check as oracle", reader + " secret:schema_update", []string{"PRAGMA quick_check"}},
		{"quick_check of the table", reader, []string{"PRAGMA quick_check(secret)"}},
		{"foreign_key_check", reader, []string{"PRAGMA foreign_key_check(secret)"}},
		{"foreign_key_check as a table", reader, []string{"SELECT * FROM pragma_foreign_key_check"}},
		{"rename", owner + " secret:schema_update", []string{"ALTER TABLE mine RENAME TO m2", "ALTER TABLE secret RENAME TO mine"}},
		{"statistics", owner, []string{"ANALYZE secret"}},
		{"counters", owner, []string{"SELECT seq FROM sqlite_sequence"}},
		{"full text", reader + " docs:data_read", []string{"SELECT * FROM docs WHERE docs MATCH 'treasure'"}},
		{"full text shadow", reader, []string{"SELECT * FROM docs_content"}},
		{"full text over a table", owner + " w:" + all, []string{"CREATE VIRTUAL TABLE w USING fts4 (content='secret', v)"}},
		{"full text auxiliary", writer, []string{"CREATE VIRTUAL TABLE temp.w USING fts4aux (main, docs)"}},
		{"trigger reads", "fired:data_add,data_read mine:data_add", []string{"INSERT INTO fired (a) VALUES ('read')"}},
		{"names are ASCII", "safe:data_read", []string{"SELECT v FROM \"\u017fafe\""}},
		{"names are ASCII, K", "kept:data_read", []string{"SELECT v FROM \"\u212aept\""}},

		// Writing what one may not write.
		{"insert", reader, []string{"INSERT INTO mine VALUES (2, 'x')"}},
		{"insert elsewhere", writer, []string{"INSERT INTO safe VALUES (2, 'x')"}},
		{"insert by WITH", writer, []string{"WITH x AS (SELECT 1) INSERT INTO safe SELECT 2, 'x' FROM x"}},
		{"update", "mine:data_read,data_add,data_delete", []string{"UPDATE mine SET a = 1"}},
		{"upsert", "mine:data_read,data_add,data_delete", []string{"INSERT INTO mine VALUES (1, 'y') ON CONFLICT DO UPDATE SET a = 'y'"}},
		{"delete", "mine:data_read,data_add,data_update", []string{"DELETE FROM mine"}},
		{"replace", "mine:data_read,data_add,data_update", []string{"REPLACE INTO mine VALUES (1, 'y')"}},
		{"replace with comments", "mine:data_read,data_add,data_update", []string{"INSERT/**/OR--\nREPLACE/**/INTO mine VALUES (1, 'y')"}},
		{"replace behind a byte order mark", "mine:data_read,data_add,data_update", []string{"INSERT OR \ufeffREPLACE INTO mine VALUES (1, 'y')"}},
		{"replace by WITH", "mine:data_read,data_add,data_update", []string{"WITH x AS (SELECT 1) REPLACE INTO mine SELECT 1, 'y' FROM x"}},
		{"UPDATE OR REPLACE", "secret:data_read,data_add,data_update", []string{"INSERT INTO secret VALUES (2, 'b')", "UPDATE OR REPLACE secret SET v = 'key' WHERE id = 2"}},
		{"replace that the table declares", "loose:data_read,data_add,data_update", []string{"INSERT INTO loose VALUES (1, 'y')"}},
		{"replace in a trigger", "nested:data_read,data_add kept:data_read,data_add,data_update chained:" + all, []string{"INSERT INTO nested VALUES (1, 'y')"}},
		{"replace handed on by a trigger", "nested:data_read,data_add kept:data_read,data_add,data_delete chained:data_read,data_add", []string{"INSERT INTO nested VALUES (1, 'y')"}},
		{"replace handed to a trigger", "kept:data_read,data_add,data_delete chained:data_read,data_add", []string{"INSERT OR REPLACE INTO kept VALUES (1, 'y')"}},
		{"replace in a temporary trigger", "mine:" + all + " safe:data_read,data_add,data_update",
			[]string{"CREATE TEMP TABLE x (a)", "CREATE TEMP TRIGGER y AFTER INSERT ON x BEGIN REPLACE INTO safe VALUES (1, 'y'); END", "INSERT INTO x VALUES (1)"}},
		{"trigger deletes", "wiper:data_add", []string{"INSERT INTO wiper (a) VALUES (1)"}},
		{"cascade", "parent:data_read,data_delete", []string{"PRAGMA foreign_keys = ON", "DELETE FROM parent WHERE id = 1"}},
		{"foreign keys off", "parent:data_read,data_delete", []string{"PRAGMA foreign_keys = OFF"}},
		{"constraints off", writer, []string{"PRAGMA ignore_check_constraints = 1"}},
		{"writable schema", owner, []string{"PRAGMA writable_schema = 1"}},
		{"schema table", "all:schema_add,schema_update,data_read mine:" + all, []string{"UPDATE sqlite_schema SET sql = 'x'"}},
		{"schema table insert", "all:" + all[:len(all)-len(",schema_delete")], []string{"INSERT INTO sqlite_schema VALUES (1, 2, 3, 4, 5)"}},
		{"user_version", writer, []string{"PRAGMA user_version = 9"}},
		{"counters write", owner, []string{"UPDATE sqlite_sequence SET seq = 1"}},
		{"query_only off", reader, []string{"PRAGMA query_only = 0"}},
		{"query_only off, as a table", reader, []string{"SELECT * FROM pragma_query_only(0)"}},
		{"watermark deleted", "all:data_read mine:data_add", []string{"DELETE FROM turso_sync_last_change_id"}},
		{"watermark replaced", "all:data_read mine:data_add", []string{"REPLACE INTO turso_sync_last_change_id VALUES ('c', 0, 2)"}},
		{"watermark altered", "all:data_read mine:" + all, []string{"ALTER TABLE turso_sync_last_change_id ADD COLUMN x"}},
		{"watermark dropped", "all:data_read mine:" + all, []string{"DROP TABLE turso_sync_last_change_id"}},
		{"watermark trigger", "all:data_read mine:" + all, []string{"CREATE TRIGGER w AFTER INSERT ON turso_sync_last_change_id BEGIN DELETE FROM safe; END"}},
		{"watermark index", "all:data_read mine:" + all, []string{"CREATE INDEX w ON turso_sync_last_change_id (pull_gen)"}},
		{"watermark without pulls", writer, []string{"UPDATE turso_sync_last_change_id SET change_id = 9"}},
		{"watermark of a reader", "all:data_read", []string{"UPDATE turso_sync_last_change_id SET change_id = 9"}},

		// Planting something.
		{"trigger", owner, []string{"CREATE TRIGGER w AFTER INSERT ON mine BEGIN DELETE FROM safe; END"}},
		{"trigger on a view", owner + " w:" + all, []string{"CREATE VIEW w AS SELECT 1 AS x", "CREATE TRIGGER w2 INSTEAD OF INSERT ON w BEGIN DELETE FROM safe; END"}},
		{"create elsewhere", owner, []string{"CREATE TABLE other (a)"}},
		{"drop elsewhere", owner, []string{"DROP TABLE safe"}},
		{"drop without delete", "mine:schema_delete", []string{"DROP TABLE mine"}},
		{"drop index elsewhere", owner, []string{"CREATE INDEX w ON safe (a)"}},
		{"temporary trigger on a table", writer, []string{"CREATE TEMP TRIGGER w AFTER INSERT ON main.mine BEGIN SELECT 1; END"}},
		{"virtual table", "all:schema_add mine:" + all, []string{"CREATE VIRTUAL TABLE w USING rtree (id, a, b)"}},
		{"rename onto another", "mine:" + all, []string{"ALTER TABLE mine RENAME TO turso_x"}},

		// Leaving the database. Who may do everything may not do this either.
		{"ATTACH", "all:" + all, []string{"ATTACH 'other.db' AS o"}},
		{"ATTACH memory", "all:" + all, []string{"ATTACH ':memory:' AS o"}},
		{"DETACH", "all:" + all, []string{"DETACH main"}},
		{"VACUUM INTO", "all:" + all, []string{"VACUUM INTO 'copy.db'"}},
		{"VACUUM", owner, []string{"VACUUM"}},
		{"load_extension", "all:" + all, []string{"SELECT load_extension('x')"}},
		{"load_extension in capitals", owner, []string{"SELECT LOAD_EXTENSION('x')"}},
		{"tokenizer", owner, []string{"SELECT fts3_tokenizer('simple')"}},
		{"handle", "all:" + all, []string{"SELECT ts_shim_handle(1)"}},
		{"temp_store_directory", "all:" + all, []string{"PRAGMA temp_store_directory = '/'"}},
		{"database_list", "all:" + all, []string{"PRAGMA database_list"}},
		{"journal_mode", "all:" + all, []string{"PRAGMA journal_mode = DELETE"}},
		{"checkpoint", "all:" + all, []string{"PRAGMA wal_checkpoint(TRUNCATE)"}},
		{"schema_version", "all:" + all, []string{"PRAGMA main.schema_version = 1"}},
		{"mmap_size", "all:" + all, []string{"PRAGMA mmap_size = 1000000"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sql := append(append([]string{"BEGIN"}, c.sql...), "ROLLBACK")
			if c.name == "cascade" || strings.HasPrefix(c.name, "VACUUM") {
				sql = c.sql // have no effect in a transaction
			}
			got := r.run(t, r.token(t, rules(t, strings.Fields(c.rules)...)...), sql...)
			refused := false
			for _, o := range got {
				// Schema statements that only an escape would need may be refused earlier.
				refused = refused || o.code == "SQLITE_AUTH" || strings.Contains(o.message, "sqlite_master may not be modified") ||
					strings.Contains(o.message, "too many arguments on pragma_query_only")
				if !refused && strings.Contains(fmt.Sprint(o.rows), "key") {
					t.Errorf("rows = %v", o.rows)
				}
			}
			for i, o := range got {
				t.Logf("%s: %s %s", sql[i], o.code, o.message)
			}
			if !refused {
				t.Errorf("outcome = %+v, want SQLITE_AUTH", got)
			}
		})
	}
	if after := contents(t, r, admin); after != before {
		t.Errorf("contents were\n%s\nand are\n%s", before, after)
	}
}

// contents is all that the database holds.
func contents(t *testing.T, r *remote, admin string) string {
	t.Helper()
	tables := r.must(t, admin, "SELECT name, sql FROM sqlite_schema ORDER BY rowid")[0].rows
	out := fmt.Sprint(tables, "\n")
	for _, row := range tables {
		if name := fmt.Sprint(row[0].Value); strings.HasPrefix(fmt.Sprint(row[1].Value), "CREATE TABLE") {
			out += fmt.Sprint(name, r.must(t, admin, fmt.Sprintf("SELECT * FROM %q", name))[0].rows, "\n")
		}
	}
	return out
}

// TestRestrictedClient: what clients with few rights need, they have.
func TestRestrictedClient(t *testing.T) {
	r := newRemote(t)
	r.must(t, r.token(t), "CREATE TABLE todos (id INTEGER PRIMARY KEY, a)", "CREATE TABLE posts (id INTEGER PRIMARY KEY, a UNIQUE)",
		"CREATE VIEW v AS SELECT a FROM todos")
	// A sync client: this module's push, and the official one's.
	sync := r.token(t, rules(t, "all:data_read", "todos:data_add,data_update,data_delete")...)
	const create = "CREATE TABLE IF NOT EXISTS turso_sync_last_change_id (client_id TEXT PRIMARY KEY, pull_gen INTEGER, change_id INTEGER)"
	for range 2 {
		r.must(t, sync, "BEGIN IMMEDIATE", create,
			"SELECT pull_gen, change_id FROM turso_sync_last_change_id WHERE client_id = 'c'",
			"INSERT INTO turso_sync_last_change_id (client_id, pull_gen, change_id) SELECT 'c', 0, 0 FROM (SELECT 1 UNION ALL SELECT 1) WHERE 0",
			"INSERT INTO todos (id, a) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET a = excluded.a",
			"DELETE FROM todos WHERE id IS 7",
			"INSERT INTO turso_sync_last_change_id (client_id, pull_gen, change_id) VALUES ('c', 0, 5) ON CONFLICT (client_id) DO UPDATE SET pull_gen = excluded.pull_gen, change_id = excluded.change_id",
			"COMMIT")
	}
	if status, body := r.post(t, "/pull-updates", sync, nil); status != 200 {
		t.Errorf("pull = %d %s", status, body)
	}
	// A transaction in which one step is refused changes nothing.
	got := r.run(t, sync, "BEGIN IMMEDIATE", "INSERT INTO todos VALUES (3, 'y')", "INSERT INTO posts VALUES (1, 'y')", "ROLLBACK")
	if got[2].code != "SQLITE_AUTH" {
		t.Errorf("insert = %+v", got[2])
	}

	r.must(t, r.token(t), "CREATE TABLE log (id INTEGER PRIMARY KEY, a)", "CREATE TABLE logged (id INTEGER PRIMARY KEY, a)",
		"CREATE TABLE last (id INTEGER PRIMARY KEY, a)", "CREATE TRIGGER note AFTER INSERT ON logged BEGIN INSERT OR REPLACE INTO last VALUES (1, NEW.a); END",
		"CREATE TRIGGER note2 AFTER INSERT ON last BEGIN INSERT INTO log (a) VALUES (NEW.a); END")
	r.must(t, r.token(t, rules(t, "logged:data_read,data_add", "last:data_read,data_add,data_delete", "log:data_add,data_delete")...), "INSERT INTO logged (a) VALUES (3)")

	few := r.token(t, rules(t, "todos:data_read,data_add", "mine:data_add,data_read,data_delete,schema_add,schema_update,schema_delete")...)
	r.must(t, few, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9) SELECT count(*) FROM n",
		"SELECT count(*) FROM json_each('[1,2]')", "SELECT name FROM pragma_table_info('posts')", "PRAGMA index_list(posts)",
		"CREATE TEMP TABLE x (a)", "INSERT INTO x SELECT a FROM todos", "SELECT count(*) FROM x", "REPLACE INTO x VALUES (1)", "DROP TABLE x",
		"INSERT INTO todos (a) VALUES (replace('a', 'b', 'c'))", "SELECT count(*) FROM TODOS",
		"CREATE TABLE mine (id INTEGER PRIMARY KEY AUTOINCREMENT, k TEXT UNIQUE)", "INSERT INTO mine (k) VALUES (1)",
		"CREATE INDEX mine_k ON mine (k)", "ALTER TABLE mine ADD COLUMN z DEFAULT 3", "ALTER TABLE mine ADD COLUMN y NOT NULL DEFAULT 3 CHECK (y > 2)",
		"PRAGMA quick_check(mine)", "DROP INDEX mine_k", "DROP TABLE mine",
		"PRAGMA defer_foreign_keys = 1", "PRAGMA user_version", "SAVEPOINT s", "RELEASE s")
	uniform := r.token(t, rules(t, "all:data_read,schema_update")...)
	r.must(t, uniform, "BEGIN", "ALTER TABLE posts RENAME TO p2", "ROLLBACK")
}

// TestBombs: statements that would take all time or memory end, with an error, and
// the server goes on.
func TestBombs(t *testing.T) {
	r := newRemoteWith(t, server.Config{Timeout: 300 * time.Millisecond, BodyMax: 1 << 20, AnswerMax: 1 << 20})
	admin := r.token(t)
	r.must(t, admin, "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)",
		"CREATE TRIGGER again AFTER INSERT ON t BEGIN INSERT INTO t VALUES (NEW.a + 1); END")
	deep := strings.Repeat("(", 5000) + "1" + strings.Repeat(")", 5000)
	for _, c := range []struct{ name, sql string }{
		{"endless", "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r) SELECT max(i) FROM r"},
		{"endless, without repetitions", "WITH RECURSIVE r(i) AS (SELECT 1 UNION SELECT i + 1 FROM r) SELECT count(*) FROM r"},
		{"doubling", "WITH RECURSIVE r(s) AS (SELECT 'aaaaaaaa' UNION ALL SELECT s || s FROM r) SELECT max(length(s)) FROM r"},
		{"product", "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT count(*) FROM n a, n b, n c, n d"},
		{"long blob", "SELECT length(zeroblob(1000000000))"},
		{"long text", "SELECT length(printf('%.*c', 1000000000, 'x'))"},
		{"long answer", "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r) SELECT hex(zeroblob(100000)) FROM r"},
		{"long aggregate", "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r) SELECT length(group_concat(hex(zeroblob(1000)))) FROM r"},
		{"deep expression", "SELECT " + deep},
		{"compound", "SELECT 1" + strings.Repeat(" UNION ALL SELECT 1", 5000)},
		{"LIKE", "SELECT hex(zeroblob(400000)) LIKE '" + strings.Repeat("%0", 20000) + "1'"},
		{"many joins", "SELECT 1 FROM t" + strings.Repeat(", t", 100)},
		{"parameter", "SELECT ?999999"},
	} {
		t.Run(c.name, func(t *testing.T) {
			body, err := json.Marshal(map[string]any{"requests": []any{map[string]any{"type": "execute", "stmt": map[string]any{"sql": c.sql}}}})
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			status, answer := r.post(t, "/v2/pipeline", r.token(t, rules(t, "t:data_read")...), body)
			if status != 503 && (status != 200 || !strings.Contains(answer, `"error"`)) {
				t.Errorf("answer = %d %.300s", status, answer)
			}
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("it took %v", d)
			}
			r.must(t, admin, "SELECT a FROM t")
		})
	}
	// A trigger does not fire itself unless it is asked to, and then ends.
	got := r.run(t, admin, "PRAGMA recursive_triggers = 1", "INSERT INTO t VALUES (1)")
	if got[1].code == "" {
		t.Error("an endless trigger ended well")
	}
}

// TestStreamRights: the token of each request decides, not that of the one that
// began the stream.
func TestStreamRights(t *testing.T) {
	r := newRemote(t)
	admin := r.token(t)
	r.must(t, admin, "CREATE TABLE secret (v)", "INSERT INTO secret VALUES ('key')")
	send := func(token string, baton any, sql ...string) (int, string, any) {
		t.Helper()
		requests := []any{}
		for _, q := range sql {
			requests = append(requests, map[string]any{"type": "execute", "stmt": map[string]any{"sql": q}})
		}
		body, err := json.Marshal(map[string]any{"baton": baton, "requests": requests})
		if err != nil {
			t.Fatal(err)
		}
		status, answer := r.post(t, "/v3/pipeline", token, body)
		var a struct{ Baton any }
		if status == 200 {
			if err := json.Unmarshal([]byte(answer), &a); err != nil {
				t.Fatal(err)
			}
		}
		return status, answer, a.Baton
	}
	_, _, baton := send(admin, nil, "CREATE TEMP VIEW w AS SELECT v FROM secret", "BEGIN", "SELECT v FROM w")
	if baton == nil {
		t.Skip("there are no streams")
	}
	status, answer, baton := send(r.token(t, rules(t, "mine:data_read,data_add")...), baton, "SELECT v FROM w", "SELECT v FROM secret", "PRAGMA query_only = 0", "DELETE FROM secret")
	if status != 200 || strings.Count(answer, "SQLITE_AUTH") != 4 {
		t.Errorf("with few rights: %d %s", status, answer)
	}
	status, answer, baton = send(r.token(t, rules(t, "all:data_read")...), baton, "SELECT v FROM w", "DELETE FROM secret")
	if status != 200 || !strings.Contains(answer, "key") || strings.Count(answer, `"error"`) < 1 {
		t.Errorf("read-only: %d %s", status, answer)
	}
	other, err := auth.Sign(r.priv, auth.Claims{Databases: []string{"other"}})
	if err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]int{other: 403, "": 401, "x.y.z": 401} {
		if status, answer, _ := send(token, baton, "SELECT v FROM w"); status != want || strings.Contains(answer, "key") {
			t.Errorf("answer = %d %s, want %d", status, answer, want)
		}
	}
	status, answer, _ = send(admin, baton, "DELETE FROM secret", "COMMIT")
	if status != 200 || strings.Contains(answer, `"error":{`) {
		t.Errorf("everything again: %d %s", status, answer)
	}
}

// TestCursorRights: the other way to run SQL.
func TestCursorRights(t *testing.T) {
	r := newRemote(t)
	r.must(t, r.token(t), "CREATE TABLE secret (v)", "INSERT INTO secret VALUES ('key')")
	body := []byte(`{"batch":{"steps":[{"stmt":{"sql":"SELECT v FROM secret"}},{"stmt":{"sql":"SELECT 1"}}]}}`)
	status, answer := r.post(t, "/v3/cursor", r.token(t, rules(t, "mine:data_read")...), body)
	if status == 404 {
		t.Skip("there is no cursor")
	}
	if status != 200 || !strings.Contains(answer, "SQLITE_AUTH") || strings.Contains(answer, "key") {
		t.Errorf("answer = %d %s", status, answer)
	}
	if status, answer := r.post(t, "/v3/cursor", "", body); status != 401 {
		t.Errorf("without a token: %d %s", status, answer)
	}
}
