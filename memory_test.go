//go:build linux

package tursosync_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/tursosynctest"
)

// The tests in this file measure the memory of pulls: that of a whole process, C
// included, which does nothing else. It is a child of the test, on a server in the
// test's own process.

const (
	memoryChildEnv = "TURSOSYNC_MEMORY_CHILD"
	// bigEnv has TestMemoryBig run.
	bigEnv = "TURSOSYNC_BIG"
)

// memoryReport is what a child prints.
type memoryReport struct {
	Start, Peak int64 // bytes of resident memory, before and in all
	Seconds     float64
	Rows        int64
}

// TestMemoryChild is not a test: it is what a child process runs.
func TestMemoryChild(t *testing.T) {
	dsn := os.Getenv(memoryChildEnv)
	if dsn == "" {
		t.Skip("run by TestMemory")
	}
	db, err := sql.Open("tursosync", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r, err := tursosync.ReplicaOf(db)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`CREATE TABLE IF NOT EXISTS mine(x); INSERT INTO mine VALUES (1)`); err != nil {
		t.Fatal(err)
	}
	rep := memoryReport{Start: peakMemory(t)}
	begin := time.Now()
	if err := r.Pull(context.Background()); err != nil {
		t.Fatal(err)
	}
	rep.Seconds = time.Since(begin).Seconds()
	rep.Peak = peakMemory(t)
	if err := db.QueryRow(`SELECT count(*) FROM big WHERE v IS NOT NULL`).Scan(&rep.Rows); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	rep.Peak = max(rep.Peak, peakMemory(t)) // what closing takes counts as well
	b, err := json.Marshal(rep)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\nreport %s\n", b)
}

// peakMemory returns the most memory that the process has had resident.
func peakMemory(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	t.Fatal("no VmHWM in /proc/self/status")
	return 0
}

// memoryRun has a child pull.
func memoryRun(t *testing.T, dsn string) memoryReport {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestMemoryChild$", "-test.timeout=1h")
	cmd.Env = append(os.Environ(), memoryChildEnv+"="+dsn)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("child: %v\n%s", err, out)
	}
	var rep memoryReport
	_, text, _ := strings.Cut(string(out), "\nreport ")
	if err := json.NewDecoder(strings.NewReader(text)).Decode(&rep); err != nil {
		t.Fatalf("child: %v\n%s", err, out)
	}
	return rep
}

// pullMemory bootstraps a database of that many megabytes, and then pulls one
// change of every page of it, each in a process of its own.
func pullMemory(t *testing.T, megabytes int) (first, increment memoryReport) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "remote.db")
	const rowBytes = 1000
	rows := megabytes << 20 / (rowBytes + 100)
	db, err := sql.Open("sqlite3", "file:"+file+"?_journal_mode=OFF&_synchronous=OFF")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(fmt.Sprintf(`CREATE TABLE big(id INTEGER PRIMARY KEY, k TEXT, v BLOB);
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
		INSERT INTO big SELECT i, hex(randomblob(8)), randomblob(%d) FROM n;
		CREATE INDEX big_k ON big(k);`, rows, rowBytes)); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	srv := tursosynctest.NewServerConfig(t, tursosynctest.Config{File: file})
	dsn := filepath.Join(dir, "app.db") + "?sync=manual&url=" + srv.URL
	check := func(what string, rep memoryReport) {
		t.Helper()
		info, err := os.Stat(filepath.Join(dir, "app.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s of %d MB: %.1f MB at its peak (%.1f MB before), %.1f s", what, info.Size()>>20,
			float64(rep.Peak)/(1<<20), float64(rep.Start)/(1<<20), rep.Seconds)
		if rep.Rows != int64(rows) {
			t.Errorf("%s: %d rows, want %d", what, rep.Rows, rows)
		}
		if info.Size() < int64(megabytes)<<20*9/10 {
			t.Errorf("%s: %d bytes", what, info.Size())
		}
	}
	first = memoryRun(t, dsn)
	check("bootstrap", first)
	srv.Exec(`UPDATE big SET v = randomblob(1000)`)
	increment = memoryRun(t, dsn)
	check("increment", increment)
	if got, want := digest(t, filepath.Join(dir, "app.db-base")), srv.Digest(); !strings.HasPrefix(got, want) {
		t.Errorf("base digest %s, want %s", got, want)
	}
	return first, increment
}

// memoryMax is the promise, for 1 GB.
const memoryMax = 100 << 20

// TestMemory shows that the memory of pulls does not follow the size of the
// database: four times the size takes hardly more. What does grow is a few bytes
// for each page: page numbers, and places of frames.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("large files")
	}
	first, increment := pullMemory(t, 32)
	firstBig, incrementBig := pullMemory(t, 128)
	const pages = (128 - 32) << 20 / 4096
	const perPage = 80 // bytes
	const noise = 8 << 20
	for what, r := range map[string][2]memoryReport{"bootstrap": {first, firstBig}, "increment": {increment, incrementBig}} {
		if grown := r[1].Peak - r[0].Peak; grown > pages*perPage+noise {
			t.Errorf("%s: four times the size takes %.1f MB more", what, float64(grown)/(1<<20))
		}
		if r[1].Peak > memoryMax*3/4 {
			t.Errorf("%s: %.1f MB", what, float64(r[1].Peak)/(1<<20))
		}
	}
}

// TestMemoryBig keeps the promise to the letter. It needs 8 GB of disk and a few
// minutes:
//
//	TURSOSYNC_BIG=1 go test -run TestMemoryBig -v -timeout 1h .
func TestMemoryBig(t *testing.T) {
	if os.Getenv(bigEnv) == "" {
		t.Skip("set " + bigEnv + "=1 to pull 1 GB")
	}
	first, increment := pullMemory(t, 1024)
	for what, r := range map[string]memoryReport{"bootstrap": first, "increment": increment} {
		if r.Peak > memoryMax {
			t.Errorf("%s: %.1f MB, want at most %d MB", what, float64(r.Peak)/(1<<20), memoryMax>>20)
		}
	}
}
