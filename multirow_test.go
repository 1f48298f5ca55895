package tursosync_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/tursosync/tursosync"
)

// TestOffendersAmongRows: many rows travel in one statement; the transactions
// whose rows the remote refuses are found all the same, these and no others.
func TestOffendersAmongRows(t *testing.T) {
	eachRemote(t, func(t *testing.T, r remote) {
		offendersAmongRows(t, r, func(sql string) { sqlOf(r).Exec(t, sql) }, func(q string) string { return fmt.Sprint(sqlOf(r).Query(t, q)) })
	})
}

func offendersAmongRows(t *testing.T, to remote, exec func(string), query func(string) string) {
	exec(`CREATE TABLE t(id INTEGER PRIMARY KEY, u TEXT UNIQUE)`)
	one := open(t, to)
	db, r := one.db, one.r
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
