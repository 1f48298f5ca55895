package tursosync_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/tursosynctest"
)

// TestPullKeepsOutOfTransactions shows that a pull in the background does not make
// a transaction fail that has read and then writes (SQLITE_BUSY_SNAPSHOT): with
// plain SQLite and one connection it could not. A transaction that takes longer
// than the pull is willing to wait does not block the pull.
func TestPullKeepsOutOfTransactions(t *testing.T) {
	srv := tursosynctest.NewServer(t)
	db := openCrash(t, filepath.Join(t.TempDir(), "app.db")+"?sync=manual&url="+srv.URL)
	if _, err := db.Exec(`CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)`); err != nil {
		t.Fatal(err)
	}
	syncCrash(t, db)
	r, err := tursosync.ReplicaOf(db)
	if err != nil {
		t.Fatal(err)
	}
	pull := func() <-chan error {
		srv.Exec(`INSERT INTO t(v) VALUES ('from afar')`)
		done := make(chan error, 1)
		go func() { done <- r.Pull(t.Context()) }()
		return done
	}
	for _, begin := range []string{"BEGIN", "SAVEPOINT s"} {
		t.Run(begin, func(t *testing.T) {
			conn, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			exec := func(sql string) {
				t.Helper()
				if _, err := conn.ExecContext(t.Context(), sql); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
			}
			exec(begin)
			var n int
			if err := conn.QueryRowContext(t.Context(), `SELECT count(*) FROM t`).Scan(&n); err != nil {
				t.Fatal(err)
			}
			done := pull()
			select {
			case err := <-done:
				t.Fatalf("the pull did not wait for the transaction: %v", err)
			case <-time.After(cdc.Patience / 8):
			}
			exec(`INSERT INTO t VALUES (1000 + abs(random() % 1000000), 'read, then written')`)
			exec("COMMIT")
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("read only", func(t *testing.T) {
		tx := beginRead(t, db)
		defer tx.Rollback()
		start := time.Now()
		if err := <-pull(); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d >= cdc.Patience {
			t.Errorf("the pull waited %v for a transaction that cannot write", d)
		}
	})
	t.Run("too long", func(t *testing.T) {
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback()
		if err := <-pull(); err != nil {
			t.Fatal(err)
		}
	})
}
