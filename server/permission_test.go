package server

import (
	"context"
	"errors"
	"strings"
	"testing"

	sqlite3 "github.com/mattn/go-sqlite3"
)

// noSecrets may do everything but look at the table "secret".
type noSecrets struct{}

func (noSecrets) ReadOnly() bool { return false }
func (noSecrets) Pull() error    { return errors.New("pages carry every table") }
func (noSecrets) Allow(a Action) bool {
	return a.Code != sqlite3.SQLITE_READ || a.Arg1 != "secret" || a.Schema != "main"
}

func TestPermit(t *testing.T) {
	s := openServer(t, Config{Name: "shop", Permit: func(_ context.Context, database, token string) (Permission, error) {
		switch {
		case database != "shop":
			return nil, errors.New("Permit was told of " + database)
		case token == "all":
			return ReadWrite, nil
		case token == "some":
			return noSecrets{}, nil
		case token == "none":
			return NoAccess, nil
		case token == "other":
			return nil, &DeniedError{Status: 403, Message: "not this database"}
		}
		return nil, nil
	}})
	for _, c := range []struct {
		name, path, token, sql string
		status                 int
		holds                  string
	}{
		{"setup", "/v2/pipeline", "all", "CREATE TABLE secret (v)", 200, `"ok"`},
		{"view", "/v2/pipeline", "all", "CREATE VIEW seen AS SELECT * FROM secret", 200, `"ok"`},
		{"table", "/v2/pipeline", "some", "SELECT v FROM secret", 200, "SQLITE_AUTH"},
		{"through a view", "/v2/pipeline", "some", "SELECT v FROM seen", 200, "SQLITE_AUTH"},
		{"write", "/v3/pipeline", "some", "INSERT INTO secret VALUES (1)", 200, `"ok"`},
		{"pull", "/pull-updates", "some", "", 403, "pages carry every table"},
		{"pull all", "/pull-updates", "all", "", 200, ""},
		{"other", "/v2/pipeline", "other", "SELECT 1", 403, "not this database"},
		{"no access", "/v2/pipeline", "none", "SELECT 1", 401, "permits nothing"},
		{"pull without access", "/pull-updates", "none", "", 401, "permits nothing"},
		{"nobody", "/v2/pipeline", "", "SELECT 1", 401, "permits nothing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := ""
			if c.sql != "" {
				body = `{"requests":[` + execute(c.sql) + `]}`
			}
			w := do(s, "POST", c.path, body, "Authorization", "Bearer "+c.token)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.holds) {
				t.Errorf("answer = %d %.200s, want %d with %q", w.Code, w.Body, c.status, c.holds)
			}
		})
	}
}
