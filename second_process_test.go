package tursosync_test

import (
	"bufio"
	"database/sql"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/tursosync/tursosync"
)

// TestSecondProcess shows that a second process gets ErrLocked while the first
// has the replica open, even if that one was not asked to write, and that the
// death of the first, by SIGKILL, frees it.
func TestSecondProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.db")
	db := openCrash(t, path)
	if _, err := db.Exec(`CREATE TABLE keyed(token TEXT PRIMARY KEY, who TEXT); CREATE TABLE bag(token, who);
		CREATE TABLE scratch(id INTEGER PRIMARY KEY, who, body); CREATE TABLE counters(who TEXT PRIMARY KEY, n)`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crashChildEnv+"="+path)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewScanner(out)
	if !in.Scan() {
		t.Fatal("the child did not commit anything")
	}
	second, err := sql.Open("tursosync", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Ping(); !errors.Is(err, tursosync.ErrLocked) {
		t.Errorf("open in a second process: %v, want ErrLocked", err)
	}
	second.Close()
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for in.Scan() { // until the pipe closes: the child is dead
	}
	_ = child.Wait()
	var n int
	if err := openCrash(t, path).QueryRow(`SELECT count(*) FROM keyed`).Scan(&n); err != nil || n == 0 {
		t.Errorf("after the first process died: %d rows, %v", n, err)
	}
}
