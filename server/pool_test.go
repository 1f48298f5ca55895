package server

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// pooled returns how many connections wait for the next pipeline.
func (s *Server) pooled() int {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	return len(s.pool.idle)
}

func openForPool(t *testing.T, cfg Config) *Server {
	t.Helper()
	cfg.File, cfg.NoSync = t.TempDir()+"/remote.db", true
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if n := s.pooled(); n != 0 {
			t.Errorf("%d connections are open after Close", n)
		}
	})
	return s
}

// TestPool shows that a connection is used again, that its statements notice a
// schema that others changed, and that nothing of a stream is left to the next one.
func TestPool(t *testing.T) {
	s := openForPool(t, Config{})
	do := func(sql, want string) {
		t.Helper()
		if got := firstValue(t, s, "http://x", sql); got != want {
			t.Errorf("%s = %s, want %s", sql, got, want)
		}
	}
	do("CREATE TABLE t (a)", "")
	do("INSERT INTO t VALUES (1)", "")
	if n := s.pooled(); n != 1 {
		t.Fatalf("%d connections are kept, want 1", n)
	}
	first := s.pool.idle[0].conn
	do("SELECT last_insert_rowid()", "0")
	do("SELECT * FROM t", "1")
	if s.pool.idle[0].conn != first {
		t.Error("the connection was not used again")
	}
	other, err := openConn(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"ALTER TABLE t ADD COLUMN b DEFAULT 7", "ALTER TABLE t DROP COLUMN a"} {
		if err := other.exec(sql); err != nil {
			t.Fatal(err)
		}
	}
	_ = other.close()
	do("SELECT * FROM t", "7") // compiled when the columns were others
	do("INSERT INTO t VALUES (1)", "")
	do("DROP TABLE t", "")
	do("SELECT count(*) FROM sqlite_schema", "0")

	for name, sql := range map[string]string{
		"a setting": "PRAGMA foreign_keys=1", "a temporary table": "CREATE TEMP TABLE u (a)", "a transaction": "BEGIN",
	} {
		firstValue(t, s, "http://x", sql)
		if n := s.pooled(); n != 0 {
			t.Errorf("%s: the connection is kept", name)
		}
		do("SELECT 1", "1")
	}
	first = s.pool.get()
	first.blame(fmt.Errorf("disk"))
	s.release(&stream{conn: first})
	if s.pooled() != 0 {
		t.Error("a connection with an error of the disk is kept")
	}
}

// TestPoolPermission shows that only those who may do everything share connections.
func TestPoolPermission(t *testing.T) {
	s := openForPool(t, Config{Authorize: func(_ context.Context, token string) Access {
		if token == "reader" {
			return ReadOnly
		}
		return ReadWrite
	}})
	firstValue(t, s, "http://x", "CREATE TABLE t (a)")
	w := ask(s, "POST", "http://x/v2/pipeline", "reader", `{"requests":[`+execute("INSERT INTO t VALUES (1)")+`,{"type":"close"}]}`)
	if !strings.Contains(w.Body.String(), `"type":"error"`) {
		t.Errorf("a reader wrote: %s", w.Body)
	}
	if n := s.pooled(); n != 1 {
		t.Errorf("%d connections are kept, want that of the writer", n)
	}
}

// TestPoolExpires shows that connections that nobody uses are closed.
func TestPoolExpires(t *testing.T) {
	s := openForPool(t, Config{})
	firstValue(t, s, "http://x", "CREATE TABLE t (a)")
	s.pool.mu.Lock()
	s.pool.idle[0].since = time.Now().Add(-2 * poolTime)
	s.pool.mu.Unlock()
	s.pool.expire()
	if n := s.pooled(); n != 0 {
		t.Errorf("%d connections are kept", n)
	}
}

// TestTurns shows that many writers come through without an error, also past a
// stream that has a transaction open for a while, and that a turn ends with its
// stream.
func TestTurns(t *testing.T) {
	s := openForPool(t, Config{StreamIdle: 50 * time.Millisecond})
	firstValue(t, s, "http://x", "CREATE TABLE t (a)")
	// A stream that begins and is never heard of again.
	ask(s, "POST", "http://x/v2/pipeline", "", `{"requests":[`+execute("BEGIN IMMEDIATE")+`]}`)
	if len(s.turn) != 1 {
		t.Fatal("it is nobody's turn while a transaction is open")
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 5 {
				firstValue(t, s, "http://x", "INSERT INTO t VALUES (1)")
			}
		})
	}
	wg.Wait()
	if got := firstValue(t, s, "http://x", "SELECT count(*) FROM t"); got != "80" {
		t.Errorf("%s rows, want 80", got)
	}
	if len(s.turn) != 0 {
		t.Error("it is still somebody's turn")
	}
}
