package tursosync_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/tursosynctest"
)

// TestReadersDuringPulls shows that readers never wait and never see a torn
// state: every remote transaction moves an amount from a row of one table to a
// row of another, so the total is constant in every state there ever was. Readers
// take the total in two statements of one transaction, in a loop, during 100 pulls
// that each rebase a pending local change.
func TestReadersDuringPulls(t *testing.T) {
	pulls := 100
	if testing.Short() {
		pulls = 20
	}
	srv := tursosynctest.NewServer(t)
	dir := t.TempDir()
	writer := openCrash(t, filepath.Join(dir, "writer.db")+"?sync=manual&url="+srv.URL)
	const total = 2000
	if _, err := writer.Exec(`
		CREATE TABLE left_side(id INTEGER PRIMARY KEY, amount INTEGER NOT NULL, pad BLOB);
		CREATE TABLE right_side(id INTEGER PRIMARY KEY, amount INTEGER NOT NULL, pad BLOB);
		CREATE TABLE mine(id TEXT PRIMARY KEY);
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 100)
		INSERT INTO left_side SELECT i, 10, zeroblob(900) FROM n;
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 100)
		INSERT INTO right_side SELECT i, 10, zeroblob(900) FROM n;`); err != nil {
		t.Fatal(err)
	}
	syncCrash(t, writer)
	db := openCrash(t, filepath.Join(dir, "reader.db")+"?sync=manual&url="+srv.URL)
	syncCrash(t, db)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var reads atomic.Int64
	var slowest atomic.Int64
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				start := time.Now()
				sum, err := readTotal(ctx, db)
				if errors.Is(err, context.Canceled) {
					return
				}
				if err != nil {
					t.Errorf("read %d: %v", reads.Load(), err)
					return
				}
				if sum != total {
					t.Errorf("read %d: total = %d, want %d: a torn state", reads.Load(), sum, total)
					return
				}
				reads.Add(1)
				if d := int64(time.Since(start)); d > slowest.Load() {
					slowest.Store(d)
				}
			}
		})
	}
	r, err := tursosync.ReplicaOf(db)
	if err != nil {
		t.Fatal(err)
	}
	for i := range pulls {
		tx, err := writer.Begin()
		if err != nil {
			t.Fatal(err)
		}
		for j := range 20 {
			k := 1 + (i*7+j)%100
			if _, err := tx.Exec(`UPDATE left_side SET amount = amount - 3 WHERE id = ?`, k); err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(`UPDATE right_side SET amount = amount + 3 WHERE id = ?`, 101-k); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		syncCrash(t, writer)
		if _, err := db.Exec(`INSERT INTO mine VALUES (?)`, fmt.Sprint("m", i)); err != nil {
			t.Fatal(err)
		}
		if err := r.Pull(t.Context()); err != nil {
			t.Fatalf("pull %d: %v", i, err)
		}
	}
	stop()
	wg.Wait()
	t.Logf("%d reads during %d pulls, slowest %v", reads.Load(), pulls, time.Duration(slowest.Load()))
	if reads.Load() < int64(pulls) {
		t.Errorf("%d reads during %d pulls: readers hardly ran", reads.Load(), pulls)
	}
	// A reader that ran into a lock would have slept in SQLite's busy handler,
	// whose timeout is 5 s; anything near that is a blocked read.
	if slowest.Load() > int64(2*time.Second) {
		t.Errorf("slowest read took %v", time.Duration(slowest.Load()))
	}
}

func readTotal(ctx context.Context, db *sql.DB) (int, error) {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	var l, r int
	if err := tx.QueryRowContext(ctx, `SELECT sum(amount) FROM left_side`).Scan(&l); err != nil {
		return 0, err
	}
	if err := tx.QueryRowContext(ctx, `SELECT sum(amount) FROM right_side`).Scan(&r); err != nil {
		return 0, err
	}
	return l + r, nil
}

func beginRead(t *testing.T, db *sql.DB) *sql.Tx {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := tx.QueryRow(`SELECT count(*) FROM sqlite_schema`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return tx
}
