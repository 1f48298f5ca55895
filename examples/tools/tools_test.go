// Package tools runs other people's tools on two replicas: each must behave as on
// go-sqlite3, and both replicas must end with the same rows.
//
//	cd examples/tools && go test ./...
package tools

import (
	"database/sql"
	"errors"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/server"
)

// devices are two replicas of one remote that sync on request.
type devices struct {
	db      [2]*sql.DB
	replica [2]*tursosync.Replica
}

func newDevices(t *testing.T) *devices {
	t.Helper()
	dir := t.TempDir()
	srv, err := server.Open(server.Config{File: filepath.Join(dir, "server.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	remote := httptest.NewServer(srv)
	t.Cleanup(remote.Close)
	d := new(devices)
	for i, name := range []string{"a.db", "b.db"} {
		db, err := sql.Open("tursosync", filepath.Join(dir, name)+"?_foreign_keys=1&sync=manual&url="+remote.URL)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
		d.db[i] = db
		if d.replica[i], err = tursosync.ReplicaOf(db); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// sync brings both to the same state and compares them. Transactions on the table
// that is named in conflict, if any, may be refused by the remote.
func (d *devices) sync(t *testing.T, conflict ...string) {
	t.Helper()
	for _, i := range []int{0, 1, 0, 1} {
		err := d.replica[i].Sync(t.Context())
		if refused := (*tursosync.RejectedError)(nil); err != nil && !errors.As(err, &refused) {
			t.Fatalf("sync %d: %v", i, err)
		}
	}
	for _, r := range d.replica {
		list, err := r.Rejected(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range list {
			if table := x.Changes[0].Table; !slices.Contains(conflict, table) {
				t.Errorf("rejected: %s: %s", table, x.Reason)
			}
		}
	}
	a, b := contents(t, d.db[0]), contents(t, d.db[1])
	if !slices.Equal(a, b) {
		t.Errorf("replicas differ:\n%s\n\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
}

// contents returns every row of every table but the local ones.
func contents(t *testing.T, db *sql.DB) []string {
	t.Helper()
	var out []string
	for _, table := range column(t, db, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'turso_%' ORDER BY name`) {
		rows, err := db.Query(fmt.Sprintf(`SELECT * FROM "%s"`, table))
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		first := len(out)
		for rows.Next() {
			values, places := make([]any, len(columns)), make([]any, len(columns))
			for i := range values {
				places[i] = &values[i]
			}
			if err := rows.Scan(places...); err != nil {
				t.Fatal(err)
			}
			out = append(out, fmt.Sprintf("%s %v %#v", table, columns, values))
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		slices.Sort(out[first:])
	}
	return out
}

func column(t *testing.T, db *sql.DB, query string) (values []string) {
	t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			t.Fatal(err)
		}
		values = append(values, v)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return values
}
