package server

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/wire"
)

// replays is the request of wire.ReplaySQL.
func replays(names ...string) string {
	list, _ := json.Marshal(append([]string{}, names...))
	arg, _ := json.Marshal(string(list))
	return `{"type":"execute","stmt":{"sql":"` + wire.ReplaySQL + `","args":[{"type":"text","value":` + string(arg) + `}]}}`
}

// logged is a schema with a trigger that counts, one that is nobody's, and a guard.
var logged = []string{
	"CREATE TABLE t (id INTEGER PRIMARY KEY, v)", "CREATE TABLE log (what)",
	"CREATE TRIGGER counted AFTER INSERT ON t BEGIN INSERT INTO log VALUES ('counted ' || NEW.id); END",
	`CREATE TRIGGER "other ""one" AFTER INSERT ON t WHEN NEW.v IS 'other' BEGIN INSERT INTO log VALUES ('other'); END`,
	"CREATE TRIGGER guard BEFORE INSERT ON t WHEN NEW.v IS 'bad' BEGIN SELECT RAISE(ABORT, 'guarded'); END",
}

// expectLog compares the log, and empties it.
func expectLog(t *testing.T, s *Server, want string) {
	t.Helper()
	got := results(t, s, execute("SELECT coalesce(group_concat(what), '') FROM log"))[0]
	if !strings.Contains(got, `"value":"`+want+`"`) {
		t.Errorf("log = %s, want %q", got, want)
	}
	exec(t, s, "DELETE FROM log")
}

func contains(t *testing.T, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d results, want %d: %v", len(got), len(want), got)
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("result %d = %s, want %s", i, got[i], want[i])
		}
	}
}

const fine = `"type":"ok"`

// TestReplay shows which triggers a replay silences, for how long, and that it
// writes no schema.
func TestReplay(t *testing.T) {
	s := openServer(t, Config{})
	exec(t, s, logged...)
	version := results(t, s, execute("PRAGMA schema_version"))[0]
	insert := func(id int, v string) string { return execute(fmt.Sprintf("INSERT INTO t VALUES (%d, '%s')", id, v)) }
	all := func(n int) []string { return strings.Split(strings.Repeat(fine+",", n)[:n*len(fine)+n-1], ",") }

	t.Log("the named trigger is silent, the others are not")
	got := results(t, s, execute("BEGIN IMMEDIATE"), replays("COUNTED", "unknown"), insert(1, "other"), insert(2, "bad"), execute("COMMIT"), insert(3, ""))
	contains(t, got, fine, `{"type":"integer","value":"1"}`, fine, "guarded", fine, fine)
	expectLog(t, s, "other,counted 3")
	t.Log("all of them; and again none")
	got = results(t, s, execute("BEGIN IMMEDIATE"), replays("counted", `other "one`, "guard"), insert(4, "other"), insert(5, "bad"), replays(), insert(6, ""), insert(7, "bad"), execute("COMMIT"))
	contains(t, got, fine, fine, fine, fine, fine, fine, "guarded", fine)
	expectLog(t, s, "counted 6")

	for name, end := range map[string][]string{
		"commit":         {execute("COMMIT")},
		"rollback":       {execute("ROLLBACK")},
		"end":            {execute("END TRANSACTION")},
		"OR ROLLBACK":    {execute("INSERT OR ROLLBACK INTO t VALUES (1, 1)")},
		"begin again":    {execute("COMMIT"), execute("BEGIN")},
		"failed":         {execute("COMMIT"), execute("nonsense")},
		"within a batch": {`{"type":"batch","batch":{"steps":[{"stmt":{"sql":"COMMIT"}},{"stmt":{"sql":"BEGIN"}}]}}`},
	} {
		t.Run("ended by "+name, func(t *testing.T) {
			requests := append([]string{execute("BEGIN IMMEDIATE"), replays("counted"), insert(10, "")}, end...)
			results(t, s, append(requests, insert(11, ""), execute("COMMIT"))...)
			expectLog(t, s, "counted 11")
			exec(t, s, "DELETE FROM t WHERE id > 7")
		})
	}
	t.Run("statements that are used again", func(t *testing.T) {
		same := execute("INSERT INTO t(v) VALUES ('other')")
		for range 3 {
			results(t, s, same, execute("BEGIN IMMEDIATE"), same, replays("counted"), same, same, replays("other \"one"), same, execute("COMMIT"), same)
			got := results(t, s, execute("SELECT group_concat(substr(what, 1, 7)) FROM log"))[0]
			// Two with both, two without the one, one without the other, one with both.
			if n := [2]int{strings.Count(got, "counted"), strings.Count(got, "other")}; n != [2]int{4, 5} {
				t.Errorf("log = %s, want 4 and 5", got)
			}
			exec(t, s, "DELETE FROM log", "DELETE FROM t WHERE id > 7")
		}
	})
	t.Run("ended in a sequence", func(t *testing.T) {
		contains(t, results(t, s, execute("BEGIN IMMEDIATE"), replays("counted"),
			`{"type":"sequence","sql":"INSERT INTO t VALUES (10, 1); COMMIT; INSERT INTO t VALUES (11, 1); INSERT INTO t VALUES (12, 1)"}`), all(3)...)
		expectLog(t, s, "counted 11,counted 12")
		exec(t, s, "DELETE FROM t WHERE id > 7")
	})
	t.Run("ended with the request", func(t *testing.T) {
		baton, got := talk(t, s, nil, "", execute("BEGIN IMMEDIATE"), replays("counted"), insert(10, ""), insert(11, ""))
		contains(t, got, all(4)...)
		_, got = talk(t, s, baton, "", insert(12, "other"), execute("SELECT count(*) FROM temp.sqlite_schema"), execute("COMMIT"), insert(13, ""), closeStream)
		contains(t, got, fine, `"value":"0"`, fine, fine, fine)
		expectLog(t, s, "other,counted 12,counted 13")
		exec(t, s, "DELETE FROM t WHERE id > 7")
	})
	t.Run("rolled back in a later request", func(t *testing.T) {
		baton, _ := talk(t, s, nil, "", execute("BEGIN IMMEDIATE"), execute("SAVEPOINT a"), replays("counted"), insert(10, ""))
		_, got := talk(t, s, baton, "", execute("ROLLBACK TO a"), insert(11, "bad"), insert(12, ""), execute("COMMIT"), closeStream)
		contains(t, got, fine, "guarded", fine, fine, fine)
		expectLog(t, s, "counted 12")
		exec(t, s, "DELETE FROM t WHERE id > 7")
	})
	t.Run("cursor", func(t *testing.T) {
		list, _ := json.Marshal(`["counted"]`)
		_, out := lines(t, s, `{"batch":{"steps":[{"stmt":{"sql":"BEGIN IMMEDIATE"}},{"stmt":{"sql":"`+wire.ReplaySQL+`","args":[{"type":"text","value":`+string(list)+`}]}},`+
			`{"stmt":{"sql":"INSERT INTO t VALUES (10, 1)"}},{"stmt":{"sql":"COMMIT"}},{"stmt":{"sql":"INSERT INTO t VALUES (11, 1)"}}]}}`)
		if strings.Contains(strings.Join(out, ""), "error") {
			t.Errorf("cursor = %v", out)
		}
		expectLog(t, s, "counted 11")
		exec(t, s, "DELETE FROM t WHERE id > 7")
	})
	t.Run("others", func(t *testing.T) {
		// A replay that has not written yet, and somebody else's statements.
		replay, _ := talk(t, s, nil, "", execute("BEGIN"), replays("counted"))
		exec(t, s, "INSERT INTO t VALUES (10, 1)")
		other, _ := talk(t, s, nil, "", execute("INSERT INTO t VALUES (11, 1)"), replays("counted"))
		_, _ = talk(t, s, replay, "", execute("ROLLBACK"), closeStream)
		_, got := talk(t, s, other, "", insert(12, ""), closeStream)
		contains(t, got, fine, fine)
		expectLog(t, s, "counted 10,counted 11,counted 12")
		exec(t, s, "DELETE FROM t WHERE id > 7")
	})
	t.Run("refused", func(t *testing.T) {
		contains(t, results(t, s, replays("counted"), insert(10, "")), "outside of a transaction", fine)
		for _, sql := range []string{"SAVEPOINT a", "DROP TRIGGER temp.guard", "CREATE TEMP TABLE log (what)", "DROP TRIGGER counted", "ALTER TABLE t ADD w", "CREATE INDEX i ON t (v)", "PRAGMA recursive_triggers=1"} {
			got := results(t, s, execute("BEGIN IMMEDIATE"), replays("counted"), execute(sql), insert(11, "bad"), execute("ROLLBACK"))
			contains(t, got, fine, fine, "SQLITE_AUTH", "guarded", fine)
		}
		contains(t, results(t, s, execute("CREATE TEMP TABLE log (what)"), execute("BEGIN"), replays("counted"), execute("ROLLBACK")), fine, fine, "temporary", fine)
		for _, request := range []string{strings.Replace(replays("counted"), "SELECT", "select", 1), execute("SELECT tursosync_replay('[]')"), `{"type":"describe","sql":"` + wire.ReplaySQL + `"}`} {
			contains(t, results(t, s, request), "no such function")
		}
		contains(t, results(t, s, execute("BEGIN"), execute(wire.ReplaySQL), strings.Replace(replays(), "[]", "{", 1)), fine, "ARGS_INVALID", "ARGS_INVALID")
		expectLog(t, s, "counted 10")
	})
	if got := results(t, s, execute("PRAGMA schema_version"))[0]; got != version {
		t.Errorf("schema version = %s, was %s", got, version)
	}
}

// TestReplayCutOff lets a replay end in the middle of a request.
func TestReplayCutOff(t *testing.T) {
	s := openServer(t, Config{Timeout: 200 * time.Millisecond})
	exec(t, s, logged...)
	forever := execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")
	w := do(s, "POST", "/v2/pipeline", `{"requests":[`+strings.Join([]string{execute("BEGIN IMMEDIATE"), replays("counted"), execute("INSERT INTO t VALUES (1, 1)"), forever}, ",")+`]}`)
	if w.Code != 503 {
		t.Errorf("answer = %d %s", w.Code, w.Body)
	}
	exec(t, s, "INSERT INTO t VALUES (2, 1)")
	expectLog(t, s, "counted 2")
}

// writer may do everything with rows, and nothing with the schema. It may not
// write to the tables forbidden.
type writer struct{ forbidden string }

func (writer) ReadOnly() bool { return false }
func (writer) Pull() error    { return nil }
func (p writer) Allow(a Action) bool {
	switch a.Code {
	case sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE:
		return a.Arg1 != p.forbidden
	case sqlite3.SQLITE_DROP_TRIGGER:
		return a.Arg2 == "mine"
	}
	return true
}

// TestReplayRestricted shows what those may silence who may not drop triggers.
func TestReplayRestricted(t *testing.T) {
	open := func(t *testing.T, fire bool) *Server {
		s := openServer(t, Config{FireTriggers: fire, Permit: func(_ context.Context, _, token string) (Permission, error) {
			switch token {
			case "":
				return ReadWrite, nil
			case "ro":
				return ReadOnly, nil
			}
			return writer{token}, nil
		}})
		exec(t, s, logged...)
		exec(t, s, "CREATE TRIGGER both AFTER UPDATE ON t BEGIN INSERT INTO log VALUES ('both'); SELECT RAISE(ABORT, 'guarded') WHERE NEW.v IS 'bad'; END",
			"CREATE TABLE mine (v)", "CREATE TRIGGER my BEFORE INSERT ON mine BEGIN SELECT RAISE(ABORT, 'mine') WHERE NEW.v IS 'bad'; INSERT INTO log VALUES ('mine'); END")
		return s
	}
	run := func(s *Server, token string, requests ...string) []string {
		t.Helper()
		_, got := talk(t, s, nil, token, append(append([]string{execute("BEGIN IMMEDIATE")}, requests...), execute("COMMIT"))...)
		return got
	}
	s := open(t, false)
	t.Log("effects are silenced, guards are not")
	contains(t, run(s, "x", replays("counted", "guard"), execute("INSERT INTO t VALUES (1, 1)"), execute("INSERT INTO t VALUES (2, 'bad')")), fine, fine, fine, "guarded", fine)
	contains(t, run(s, "x", replays("guard"), execute("INSERT INTO t VALUES (2, 'bad')")), fine, fine, "guarded", fine)
	expectLog(t, s, "")
	t.Log("a guard with effects cannot be silenced")
	contains(t, run(s, "x", replays("counted", "both"), execute("UPDATE t SET v = 3")), fine, `\"both\"`, fine, fine)
	expectLog(t, s, "both")
	t.Log("but by those who may drop it")
	contains(t, run(s, "x", replays("my"), execute("INSERT INTO mine VALUES ('bad')")), fine, fine, fine, fine)
	contains(t, run(s, "", replays("both"), execute("UPDATE t SET v = 'bad'")), fine, fine, fine, fine)
	expectLog(t, s, "")
	t.Log("who may not do what the trigger does, may not write")
	contains(t, run(s, "log", replays("counted", `other "one`), execute("INSERT INTO t VALUES (5, 1)")), fine, fine, "SQLITE_AUTH", fine)
	contains(t, run(s, "ro", replays("counted")), "READONLY", "outside of a transaction", "")
	contains(t, run(s, "ro", execute("BEGIN"), replays("counted")), "READONLY", fine, "token is read-only", fine)
	t.Log("triggers that always fire")
	s = open(t, true)
	contains(t, run(s, "x", replays("counted"), execute("INSERT INTO t VALUES (1, 1)")), fine, "always fires", fine, fine)
	expectLog(t, s, "counted 1")
	contains(t, run(s, "", replays("counted"), execute("INSERT INTO t VALUES (2, 1)")), fine, fine, fine, fine)
	contains(t, run(s, "x", replays("my"), execute("INSERT INTO mine VALUES (2)")), fine, fine, fine, fine)
	expectLog(t, s, "")
}
