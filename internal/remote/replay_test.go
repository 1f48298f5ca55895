package remote_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/realtest"
	"github.com/tursosync/tursosync/internal/remote"
	"github.com/tursosync/tursosync/server"
	"github.com/tursosync/tursosync/syncer"
)

// TestReplay: triggers that a batch suspends do not fire, on servers that can be
// asked for it and on those that cannot; and those that it does not suspend do.
// Our own server's schema is not written.
func TestReplay(t *testing.T) {
	trigger := func(name string) string {
		return fmt.Sprintf("CREATE TRIGGER %s AFTER INSERT ON t BEGIN INSERT INTO log VALUES ('%[1]s'); END", name)
	}
	for name, start := range map[string]func(*testing.T) string{
		"server":  func(t *testing.T) string { return startServer(t, server.Config{NoSync: true}) },
		"tursodb": func(t *testing.T) string { return realtest.StartTursodb(t).URL },
	} {
		t.Run(name, func(t *testing.T) {
			url := start(t)
			r := open(t, url)
			realtest.Exec(t, url, "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", "CREATE TABLE log (what)", trigger("one"), trigger("two"), trigger("three"),
				"CREATE TABLE turso_sync_last_change_id (client_id TEXT PRIMARY KEY, pull_gen INTEGER, change_id INTEGER)")
			version := realtest.Query(t, url, "PRAGMA schema_version")
			id := 0
			insert := func() cdc.Mutation {
				id++
				return mutation(cdc.ID(id), "INSERT INTO t VALUES (?, 1)", int64(id))
			}
			drop := func(name string) cdc.Mutation {
				return cdc.Mutation{SQL: "DROP TRIGGER IF EXISTS " + name, Suspends: name, Change: cdc.ID(id)}
			}
			create := func(name string) cdc.Mutation {
				return cdc.Mutation{SQL: trigger(name), Resumes: name, Change: cdc.ID(id)}
			}
			last := cdc.ID(0)
			push := func(ms ...cdc.Mutation) error {
				_, err := r.Push(context.Background(), syncer.Batch{ClientID: "c", Expect: last, ExpectFound: last != 0, Last: last + 1, Mutations: ms})
				if err == nil {
					last++
				}
				return err
			}
			want := func(what ...any) {
				t.Helper()
				got := []any{}
				for _, row := range realtest.Query(t, url, "SELECT what FROM log ORDER BY what") {
					got = append(got, row[0])
				}
				if !reflect.DeepEqual(got, append([]any{}, what...)) {
					t.Errorf("log = %v, want %v", got, what)
				}
				realtest.Exec(t, url, "DELETE FROM log")
				if n := realtest.Query(t, url, "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'"); n[0][0] != int64(3) {
					t.Errorf("%v triggers, want 3", n)
				}
			}
			for _, ms := range [][]cdc.Mutation{
				{drop("one"), insert(), create("one")},
				{drop("one"), drop("two"), insert(), insert(), create("one"), create("two")},
				{insert(), drop("one"), insert(), drop("three"), insert(), create("one"), create("three"), insert()},
				{drop("one"), insert(), create("one"), insert(), insert(), drop("two"), insert(), insert(), create("two")},
			} {
				if err := push(ms...); err != nil {
					t.Fatal(err)
				}
			}
			want("one", "one", "one", "one", "one", "one", // by hand, in the order of the pushes: 0 0 2 4
				"three", "three", "three", "three", "three", "three", "three", "three", "three", "three",
				"two", "two", "two", "two", "two", "two", "two", "two")
			t.Log("what fails in between leaves nothing behind")
			bad := mutation(99, "INSERT INTO t VALUES (1, 1)")
			var e *remote.Error
			if err := push(drop("one"), insert(), bad, create("one")); !errors.As(err, &e) || e.Kind != remote.Refused || e.Change != 99 || e.Mutation != 2 {
				t.Errorf("Push = %v (%+v)", err, e)
			}
			want()
			if err := push(drop("one"), insert(), create("one"), bad); !errors.As(err, &e) || e.Kind != remote.Refused || e.Mutation != 3 {
				t.Errorf("Push = %v (%+v)", err, e)
			}
			want()
			realtest.Exec(t, url, "INSERT INTO t VALUES (1000, 1)")
			want("one", "three", "two")
			if got := realtest.Query(t, url, "PRAGMA schema_version"); name == "server" && !reflect.DeepEqual(got, version) {
				t.Errorf("schema version = %v, was %v", got, version)
			} else if name == "tursodb" && reflect.DeepEqual(got, version) {
				t.Error("tursodb knows the question: does it mean the same?")
			}
		})
	}
}

// TestAsk judges answers to the question for silence.
func TestAsk(t *testing.T) {
	batch := syncer.Batch{ClientID: "c", Last: 1, Mutations: []cdc.Mutation{
		{SQL: "drop", Suspends: "a", Change: 7}, {SQL: "row", Change: 7}, {SQL: "create", Resumes: "a", Change: 7}, {SQL: "more", Change: 8}}}
	for _, c := range []struct {
		name, steps string // BEGIN table fence · ask drop row create end more · watermark COMMIT ROLLBACK
		kind        remote.Kind
		message     string // empty: success
	}{
		{"granted", "r r r r - r - r r r r -", 0, ""},
		{"not known", "r r r no_such_function:_tursosync_replay r r r - r r r -", 0, ""},
		{"neither", "r r r - - - - - - - - r", remote.Retry, "skipped"},
		{"granted and dropped", "r r r r r r - r r r r -", remote.Retry, "against its condition"},
		{"granted and not ended", "r r r r - r - - - - - r", remote.Retry, "skipped"},
		{"may not be dropped", "r r r nobody_may not_authorized - - - - - - r", remote.Denied, "remote refused change 7: not authorized; and it was not silenced: nobody may"},
		{"may not be dropped elsewhere", "r r r no_such_function:_tursosync_replay not_authorized - - - - - - r", remote.Denied, "remote refused change 7: not authorized"},
		{"end fails", "r r r r - r - database_is_locked - - - r", remote.Retry, "locked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewServer(steps(c.steps))
			defer srv.Close()
			_, err := open(t, srv.URL).Push(context.Background(), batch)
			var e *remote.Error
			switch {
			case c.message == "" && err != nil:
				t.Errorf("Push = %v", err)
			case c.message != "" && (!errors.As(err, &e) || e.Kind != c.kind || !strings.Contains(e.Error(), c.message)):
				t.Errorf("Push = %v (%+v), want %v %q", err, e, c.kind, c.message)
			}
			if c.kind == remote.Denied && (!errors.Is(err, syncer.ErrNotPermitted) || !strings.HasSuffix(err.Error(), c.message)) {
				t.Errorf("Push = %v", err)
			}
		})
	}
}
