package tursosync_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/internal/realtest"
	"github.com/tursosync/tursosync/tursosynctest"
)

// The kill loop shows "nothing committed is lost, nothing is applied twice" for a
// process that ends without warning. A child process writes and syncs; the parent
// kills it (SIGKILL) at a random moment, and starts the next one on the same
// files. Every transaction of the child writes its own token into a table with
// a primary key and into one without, and adds one to a counter; the child
// prints the token once COMMIT has returned. Meanwhile a second replica writes to the
// same remote, so that the child's pulls have something to rebase on.

const (
	crashChildEnv = "TURSOSYNC_CRASH_CHILD" // DSN of the child's replica
	crashSeedEnv  = "TURSOSYNC_SEED"
)

func TestMain(m *testing.M) {
	if dsn := os.Getenv(crashChildEnv); dsn != "" {
		if err := crashChild(dsn, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if path := os.Getenv(stressChildEnv); path != "" {
		if err := stressChild(path); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// crashChild writes until it is killed.
func crashChild(dsn string, acked io.Writer) error {
	db, err := sql.Open("tursosync", dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	seed := uint64(os.Getpid())
	rnd := rand.New(rand.NewPCG(seed, uint64(time.Now().UnixNano())))
	for i := 0; ; i++ {
		token := fmt.Sprintf("c%d-%d-%d", os.Getpid(), time.Now().UnixNano(), i)
		if err := writeToken(db, "child", token, 1+rnd.IntN(3)); err != nil {
			return fmt.Errorf("write %s: %w", token, err)
		}
		if _, err := fmt.Fprintln(acked, token); err != nil {
			return err
		}
		if rnd.IntN(4) == 0 {
			time.Sleep(time.Duration(rnd.IntN(4)) * time.Millisecond)
		}
	}
}

// writeToken commits one transaction that names token in both tables.
func writeToken(db *sql.DB, who, token string, pad int) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for range pad {
		if _, err := tx.Exec(`INSERT INTO scratch(who, body) VALUES (?, randomblob(400))`, who); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(`DELETE FROM scratch WHERE who = ? AND id < (SELECT max(id) - 20 FROM scratch WHERE who = ?)`, who, who); err != nil {
		return err
	}
	if _, err := tx.Exec(`INSERT INTO keyed(token, who) VALUES (?, ?)`, token, who); err != nil {
		return err
	}
	if _, err := tx.Exec(`INSERT INTO bag(token, who) VALUES (?, ?)`, token, who); err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE counters SET n = n + 1 WHERE who = ?`, who); err != nil {
		return err
	}
	return tx.Commit()
}

const crashSchema = `
CREATE TABLE keyed(token TEXT PRIMARY KEY, who TEXT NOT NULL);
CREATE TABLE bag(token TEXT NOT NULL, who TEXT NOT NULL);
CREATE TABLE scratch(id INTEGER PRIMARY KEY, who TEXT, body BLOB);
CREATE TABLE counters(who TEXT PRIMARY KEY, n INTEGER NOT NULL);
INSERT INTO counters VALUES ('child', 0), ('peer', 0);`

func TestKillLoop(t *testing.T) {
	kills := 200
	if testing.Short() {
		kills = 20
	}
	t.Run("own server", func(t *testing.T) {
		srv := tursosynctest.NewServer(t)
		killLoop(t, srv.URL, kills)
	})
	t.Run("tursodb", func(t *testing.T) {
		db := realtest.StartTursodb(t)
		killLoop(t, db.URL, kills/4)
	})
}

func killLoop(t *testing.T, url string, kills int) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv(crashSeedEnv); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("%s: %v", crashSeedEnv, err)
		}
	}
	t.Logf("seed %d (moments of the kills only; the child's work depends on the machine)", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))

	dir := t.TempDir()
	dsn := func(name, sync string) string {
		return filepath.Join(dir, name) + "?url=" + url + "&sync=" + sync
	}
	peer := openCrash(t, dsn("peer.db", "manual"))
	if _, err := peer.Exec(crashSchema); err != nil {
		t.Fatal(err)
	}
	syncCrash(t, peer)
	first := openCrash(t, dsn("child.db", "manual"))
	syncCrash(t, first)
	first.Close()

	var acked []string
	for i := range kills {
		acked = append(acked, runAndKill(t, dsn("child.db", "auto")+"&syncInterval=15ms&pushDelay=5ms", time.Duration(20+rnd.IntN(150))*time.Millisecond)...)
		if err := writeToken(peer, "peer", fmt.Sprintf("p%d", i), 2); err != nil {
			t.Fatal(err)
		}
		syncCrash(t, peer)
		if i%25 != 24 && i != kills-1 {
			continue
		}
		child := openCrash(t, dsn("child.db", "manual"))
		syncCrash(t, child)
		syncCrash(t, peer)
		checkCrash(t, "child", child, acked, i+1)
		checkCrash(t, "peer", peer, acked, i+1)
		if err := child.Close(); err != nil {
			t.Fatalf("close child's replica: %v", err)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d kills, %d commits acknowledged before a kill", kills, len(acked))
	if len(acked) < kills {
		t.Errorf("%d commits in %d runs: the child hardly works", len(acked), kills)
	}
}

// runAndKill runs a child for d, kills it, and returns the tokens of the commits
// that it reported.
func runAndKill(t *testing.T, dsn string, d time.Duration) []string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashChildEnv+"="+dsn)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// The clock starts with the first commit, so that a slow machine still has
	// its children killed at work; every fourth one dies while it opens.
	kill := func(after time.Duration) {
		time.AfterFunc(after, func() { cmd.Process.Kill() })
	}
	opening := d%4 == 0
	if opening {
		kill(d / 2)
	}
	var tokens []string
	in := bufio.NewScanner(out)
	for in.Scan() {
		if len(tokens) == 0 && !opening {
			kill(d)
		}
		tokens = append(tokens, in.Text())
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != -1 { // -1: ended by a signal
		t.Fatalf("child ended by itself: %v", err)
	}
	return tokens
}

func openCrash(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("tursosync", dsn)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Ping(); err != nil {
		t.Fatalf("open %s: %v", dsn, err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func syncCrash(t *testing.T, db *sql.DB) {
	t.Helper()
	r, err := tursosync.ReplicaOf(db)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := r.Sync(ctx); err != nil {
		t.Fatalf("sync: %v", err)
	}
}

// checkCrash demands every acknowledged token exactly once in both tables, no
// token twice, no transaction in part, and a sound file.
func checkCrash(t *testing.T, name string, db *sql.DB, acked []string, kills int) {
	t.Helper()
	count := func(query string) (n int) {
		t.Helper()
		if err := db.QueryRow(query).Scan(&n); err != nil {
			t.Fatalf("%s after %d kills: %s: %v", name, kills, query, err)
		}
		return n
	}
	var ok string
	if err := db.QueryRow(`PRAGMA integrity_check`).Scan(&ok); err != nil || ok != "ok" {
		t.Fatalf("%s after %d kills: integrity_check: %v %s", name, kills, err, ok)
	}
	have := map[string]bool{}
	rows, err := db.Query(`SELECT token FROM keyed`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var token string
		if err := rows.Scan(&token); err != nil {
			t.Fatal(err)
		}
		have[token] = true
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	lost := 0
	for _, token := range acked {
		if !have[token] {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%s after %d kills: %d of %d acknowledged commits are lost", name, kills, lost, len(acked))
	}
	if n := count(`SELECT count(*) FROM (SELECT token FROM bag GROUP BY token HAVING count(*) > 1)`); n > 0 {
		t.Errorf("%s after %d kills: %d rows are doubled", name, kills, n)
	}
	if n := count(`SELECT (SELECT count(*) FROM keyed WHERE token NOT IN (SELECT token FROM bag)) + (SELECT count(*) FROM bag WHERE token NOT IN (SELECT token FROM keyed))`); n > 0 {
		t.Errorf("%s after %d kills: %d transactions are there in part", name, kills, n)
	}
	for _, who := range []string{"child", "peer"} {
		n := count(`SELECT n FROM counters WHERE who = '` + who + `'`)
		if want := count(`SELECT count(*) FROM keyed WHERE who = '` + who + `'`); n != want {
			t.Errorf("%s after %d kills: counter of %s = %d, want %d", name, kills, who, n, want)
		}
	}
}
