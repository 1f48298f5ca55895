// Command mutants checks the tests: it puts one deliberate bug after the other
// into a copy of the project and runs the tests that must find it.
//
//	go run ./internal/mutants                 all of them, about half an hour on 2 cores
//	go run ./internal/mutants -only cookie    those whose name holds a word
//
// It works on what is committed. Each line that it prints is a bug and what caught
// it, as docs/testing.md lists them; the exit status is 1 if one was not caught, or
// if a test fails without any bug.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	only := flag.String("only", "", "run those whose name holds this `text`")
	from := flag.String("from", "", "begin with the first whose name holds this `text`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *only, *from); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only, from string) error {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return fmt.Errorf("find the project: %w", err)
	}
	root := strings.TrimSpace(string(out))
	tmp, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	c := checkout{filepath.Join(tmp, "project")}
	if err := c.make(ctx, root); err != nil {
		return err
	}
	var missed []string
	sound := map[string]bool{} // test commands that pass without a bug
	fmt.Println("| bug | caught by | s |\n| --- | --- | --- |")
	for _, m := range mutants {
		if from != "" && !strings.Contains(m.name, from) || !strings.Contains(m.name, only) {
			continue
		}
		from = ""
		if !sound[m.test] {
			if failed, log := c.test(ctx, m.test); failed != nil {
				return fmt.Errorf("go test %s fails without a bug:\n%s", m.test, log)
			}
			sound[m.test] = true
		}
		start := time.Now()
		caught, err := c.try(ctx, m)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if len(caught) == 0 {
			missed = append(missed, m.name)
			caught = []string{"**nothing**"}
		}
		fmt.Printf("| %s | %s | %.0f |\n", m.name, strings.Join(caught, ", "), time.Since(start).Seconds())
	}
	if len(missed) > 0 {
		return fmt.Errorf("not caught: %s", strings.Join(missed, "; "))
	}
	return nil
}

// checkout is a copy of the project.
type checkout struct{ dir string }

func (c checkout) make(ctx context.Context, root string) error {
	archive := exec.CommandContext(ctx, "git", "-C", root, "archive", "HEAD")
	tar := exec.CommandContext(ctx, "tar", "-x", "-C", c.dir)
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		return err
	}
	var err error
	if tar.Stdin, err = archive.StdoutPipe(); err != nil {
		return err
	}
	if err := archive.Start(); err != nil {
		return fmt.Errorf("copy the project: %w", err)
	}
	if out, err := tar.CombinedOutput(); err != nil {
		return fmt.Errorf("copy the project: %w: %s", err, out)
	}
	if err := archive.Wait(); err != nil {
		return fmt.Errorf("copy the project: %w", err)
	}
	// The real programs, when they are installed, need not be so again.
	if _, err := os.Stat(filepath.Join(root, ".tools")); err == nil {
		return os.Symlink(filepath.Join(root, ".tools"), filepath.Join(c.dir, ".tools"))
	}
	return nil
}

// try puts the bug in, runs the tests, and takes it out. It returns the tests that
// failed.
func (c checkout) try(ctx context.Context, m mutant) (caught []string, err error) {
	name := filepath.Join(c.dir, filepath.FromSlash(m.file))
	good, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	bad, err := m.apply(good)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(name, bad, 0o644); err != nil {
		return nil, err
	}
	defer func() {
		if e := os.WriteFile(name, good, 0o644); err == nil {
			err = e
		}
	}()
	caught, log := c.test(ctx, m.test)
	if slices.Equal(caught, []string{broken}) {
		fmt.Fprintf(os.Stderr, "%s does not compile:\n%s", m.name, log)
		caught = nil
	}
	return caught, ctx.Err()
}

// apply puts the bug into a file's text.
func (m mutant) apply(text []byte) ([]byte, error) {
	if n := bytes.Count(text, []byte(m.old)); n != 1 {
		return nil, fmt.Errorf("%s holds the text to change %d times, not once", m.file, n)
	}
	return bytes.Replace(text, []byte(m.old), []byte(m.new), 1), nil
}

// broken is what test returns for what does not compile.
const broken = "(compiler)"

var (
	failure = regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)
	ending  = regexp.MustCompile(`(?m)^(panic: test timed out|panic: |fatal error: |SIGSEGV|signal: )`)
	unbuilt = regexp.MustCompile(`(?m)\[(build|setup) failed\]`)
)

// test runs go test with the arguments and returns the tests that fail.
func (c checkout) test(ctx context.Context, args string) (failed []string, log []byte) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-count=1", "-failfast", "-timeout=5m"}, strings.Fields(args)...)...)
	cmd.Dir = c.dir
	// A test hung by the bug has children too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	log, err := cmd.CombinedOutput()
	if err == nil {
		return nil, log
	}
	if unbuilt.Match(log) {
		return []string{broken}, log
	}
	for _, m := range failure.FindAllSubmatch(log, -1) {
		if name := string(m[1]); !slices.Contains(failed, name) {
			failed = append(failed, name)
		}
	}
	if len(failed) == 0 {
		failed = []string{"the end of the process"}
		if m := ending.Find(log); m != nil {
			failed = []string{strings.TrimSpace(string(m))}
		}
	}
	return failed, log
}
