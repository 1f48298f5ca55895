package tursosync_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/internal/realtest"
	"github.com/tursosync/tursosync/tursosynctest"
)

// TestOffendersAmongRows: many rows travel in one statement; the transactions
// whose rows the remote refuses are found all the same, these and no others.
func TestOffendersAmongRows(t *testing.T) {
	t.Run("server", func(t *testing.T) {
		srv := tursosynctest.NewServer(t)
		offendersAmongRows(t, srv.URL, func(sql string) { srv.Exec(sql) }, func(q string) string { return fmt.Sprint(srv.Query(q)) })
	})
	t.Run("tursodb", func(t *testing.T) {
		srv := realtest.StartTursodb(t)
		offendersAmongRows(t, srv.URL, func(sql string) { realtest.Exec(t, srv.URL, sql) },
			func(q string) string { return fmt.Sprint(realtest.Query(t, srv.URL, q)) })
	})
}

func offendersAmongRows(t *testing.T, url string, exec func(string), query func(string) string) {
	exec(`CREATE TABLE t(id INTEGER PRIMARY KEY, u TEXT UNIQUE)`)
	db, err := sql.Open("tursosync", filepath.Join(t.TempDir(), "app.db")+"?sync=manual&url="+url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r, err := tursosync.ReplicaOf(db)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := r.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	exec(`INSERT INTO t VALUES (1001, 'row 37'), (1002, 'row 138'), (1003, 'row 139')`)
	for i := range 300 {
		if _, err := db.Exec(`INSERT INTO t VALUES (?, ?)`, i+1, fmt.Sprintf("row %d", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	var rejected *tursosync.RejectedError
	if err := r.Push(ctx); !errors.As(err, &rejected) {
		t.Fatalf("Push = %v, want a RejectedError", err)
	}
	list, err := r.Rejected(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var rows []int64
	for _, x := range list {
		for _, c := range x.Changes {
			rows = append(rows, c.RowID)
		}
	}
	if fmt.Sprint(rows) != "[37 138 139]" {
		t.Errorf("rejected rows %v, want 37, 138, 139", rows)
	}
	if got := query(`SELECT count(*), sum(id) FROM t`); got != fmt.Sprint([][]any{{int64(300), int64(300*301/2 - 37 - 138 - 139 + 3006)}}) {
		t.Errorf("the remote has %s", got)
	}
	if err := r.Pull(ctx); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := db.QueryRow(`SELECT count(*) FROM t WHERE id <= 300 AND id NOT IN (37, 138, 139)`).Scan(&n); err != nil || n != 297 {
		t.Errorf("%d rows here, %v, want 297", n, err)
	}
}
