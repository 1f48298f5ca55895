package faultfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/tursosync/tursosync/internal/fault"
)

// A crash test runs a session in a process of its own, which is killed at a named
// point of package fault. Child is the parent's side, Dying that of the child, which
// TestMain goes to when it finds the plan.

// Child runs this test program once more, with a plan, as JSON, in an environment
// variable. A child that was not killed tells which points it passed, in this order,
// and how often each.
func Child(t testing.TB, env string, plan any) (points []string, passes map[string]int, killed bool) {
	t.Helper()
	text, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), env+"="+string(text))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && !exit.Exited() {
		return nil, nil, true
	}
	if err != nil {
		t.Fatalf("child: %v: %s", err, stderr.String())
	}
	passes = make(map[string]int)
	for line := range strings.Lines(string(out)) {
		var point string
		var n int
		if _, err := fmt.Sscan(line, &point, &n); err != nil {
			t.Fatalf("child said %q", line)
		}
		points, passes[point] = append(points, point), n
	}
	return points, passes, false
}

// Dying runs a session and kills the process (SIGKILL: nothing is flushed or closed)
// when it passes a point for the pass-th time. At the end of a session that does not
// come by there it prints what Child reads.
func Dying(point string, pass int, session func() error) error {
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	passes := make(map[string]int)
	var order []string
	fault.Set(func(passed string) error {
		if passes[passed]++; passes[passed] == 1 {
			order = append(order, passed)
		}
		if passed == point && passes[passed] == pass {
			_ = self.Kill()
			select {}
		}
		return nil
	})
	if err := session(); err != nil {
		return err
	}
	for _, passed := range order {
		fmt.Println(passed, passes[passed])
	}
	return nil
}
