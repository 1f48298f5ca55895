package tursosync_test

import (
	"context"
	"database/sql"
	"errors"
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

// TestReaderGivesWay: a transaction that has read and wants to write does not wait
// long for its turn. A checkpoint of another program, here sqlite3's RESTART, keeps
// writers out until no reader is left, and so keeps the writer waiting whose turn
// it is; if the reader waited for that one, all three waited for each other until
// somebody's busy timeout ended.
func TestReaderGivesWay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.db")
	db := openCrash(t, path+"?_busy_timeout=20000")
	if _, err := db.Exec(`CREATE TABLE t(v); INSERT INTO t VALUES (1)`); err != nil {
		t.Fatal(err)
	}
	other, err := sql.Open("sqlite3", "file:"+path+"?_busy_timeout=20000")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	reader, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Rollback()
	var n int
	if err := reader.QueryRow(`SELECT count(*) FROM t`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	done := make(chan error, 2)
	go func() {
		var busy, log, moved int
		err := other.QueryRow(`PRAGMA wal_checkpoint(RESTART)`).Scan(&busy, &log, &moved)
		if err == nil && busy != 0 {
			err = errors.New("the checkpoint gave up")
		}
		done <- err
	}()
	// It has the write lock when nobody else gets it.
	probe, err := sql.Open("sqlite3", "file:"+path+"?_busy_timeout=0")
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	for {
		if _, err := probe.Exec(`BEGIN IMMEDIATE; ROLLBACK`); isBusy(err) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	go func() {
		_, err := db.Exec(`INSERT INTO t VALUES (2)`)
		done <- err
	}()
	// The writer has its turn when it is asked for in vain.
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, err := db.ExecContext(ctx, `CREATE TABLE t(v)`)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
	}
	if _, err := reader.Exec(`INSERT INTO t VALUES (3)`); !isBusy(err) {
		t.Errorf("write after a read: %v, want SQLITE_BUSY", err)
	}
	if err := reader.Rollback(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("they waited for each other for %v", d)
	}
}
