// Package examples has a test that runs every example, as README tells to, and
// compares what it prints.
package examples

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestExamples compares each example's output with testdata/<name>.txt, in which
// "…" stands for whatever is not the same every time.
func TestExamples(t *testing.T) {
	if testing.Short() {
		t.Skip("links a program for each example")
	}
	mains, err := filepath.Glob("*/main.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range mains {
		if _, err := os.Stat(filepath.Join(filepath.Dir(m), "go.mod")); err == nil {
			continue // a module of its own, tested there
		}
		names = append(names, filepath.Dir(m))
	}
	bin := t.TempDir() + string(filepath.Separator)
	args := []string{"build", "-o", bin}
	for _, name := range names {
		args = append(args, "./"+name)
	}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			want, err := os.ReadFile(filepath.Join("testdata", name+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, bin+name)
			// A token of the person who runs the tests is none of the examples' business.
			cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "TURSO_AUTH_TOKEN=") })
			got, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, got)
			}
			if !pattern(string(want)).Match(got) {
				t.Errorf("it printed\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// pattern matches the text with anything within a line in the place of each "…".
// Spaces at line ends do not count.
func pattern(text string) *regexp.Regexp {
	var p strings.Builder
	p.WriteString(`\A`)
	for line := range strings.Lines(text) {
		parts := strings.Split(strings.TrimRight(line, " \n"), "…")
		for i, part := range parts {
			parts[i] = regexp.QuoteMeta(part)
		}
		p.WriteString(strings.Join(parts, `.*`) + " *\n")
	}
	p.WriteString(`\z`)
	return regexp.MustCompile(p.String())
}
