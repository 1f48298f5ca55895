package cdc_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tursosync/tursosync/cdc"
)

// The conformance suite: SQL scripts whose log must lead from the state before to
// the state after, and must be the same in both builds (golden file).
//
// A script is SQL, a statement up to a line that ends in a semicolon. Directives
// are lines of their own:
//
//	--@ setup         what follows runs before anything is captured (at the start)
//	--@ conn NAME     what follows runs on the connection of that name
//
// TURSOSYNC_UPDATE=1 go test ./cdc -run Conformance writes the golden files.

func TestConformance(t *testing.T) {
	files, err := filepath.Glob("../testdata/script/capture/*.sql")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".sql"), func(t *testing.T) {
			t.Parallel()
			conform(t, file)
		})
	}
}

// readScript returns the statements of a script; a step is "conn NAME" or a statement.
func readScript(t *testing.T, file string) (setup, steps []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	target := &steps
	var pending []string
	for _, line := range strings.Split(string(text), "\n") {
		if d, ok := strings.CutPrefix(line, "--@ "); ok {
			target = &steps
			if d == "setup" {
				target = &setup
			} else {
				steps = append(steps, d)
			}
			continue
		}
		line, _, _ = strings.Cut(line, " -- ! ") // what a story met there
		pending = append(pending, line)
		if s := strings.Join(pending, "\n"); strings.HasSuffix(line, ";") && complete(s) {
			*target = append(*target, s)
			pending = nil
		}
	}
	if s := strings.Join(pending, "\n"); strings.TrimSpace(s) != "" {
		t.Fatalf("script ends inside a statement: %s", s)
	}
	return setup, steps
}

func conform(t *testing.T, file string) {
	setup, steps := readScript(t, file)
	l := newLive(t, setup...)
	c := l.conn("main")
	var out strings.Builder
	for _, s := range steps {
		if name, ok := strings.CutPrefix(s, "conn "); ok {
			c = l.conn(name)
			continue
		}
		if err := c.try(s); err != nil {
			fmt.Fprintf(&out, "%s\n! %v\n", strings.TrimSpace(s), err)
		}
	}
	for _, c := range l.conns {
		if c.session.InTx() {
			t.Error("script leaves a transaction open")
		}
	}
	out.WriteString(logText(t, l.changes()))
	l.check()
	golden := strings.TrimSuffix(file, ".sql") + ".log"
	if os.Getenv("TURSOSYNC_UPDATE") != "" {
		if err := os.WriteFile(golden, []byte(out.String()), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	l.same("log", strings.Split(out.String(), "\n"), strings.Split(string(want), "\n"))
}

var triggerBegins = regexp.MustCompile(`CREATE( TEMP| TEMPORARY)? TRIGGER`)

// complete tells whether a text does not end inside a trigger's body.
func complete(s string) bool {
	upper := strings.ToUpper(s)
	if !triggerBegins.MatchString(upper) {
		return true
	}
	return strings.HasSuffix(strings.TrimSpace(upper), "END;")
}

// logText is the log without ids and times. What happens inside one statement is
// reported in another order by the two builds: neighbouring row changes are sorted
// here, deletes apart from the others.
func logText(t testing.TB, changes []*cdc.Change) string {
	var out strings.Builder
	var rows []string
	flush := func() {
		slices.Sort(rows)
		out.WriteString(strings.Join(rows, ""))
		rows = nil
	}
	var txn cdc.ID
	var last cdc.ID
	for _, c := range changes {
		if c.ID <= last {
			t.Errorf("change %d follows %d", c.ID, last)
		}
		last = c.ID
		if c.Txn != txn {
			if c.Txn != c.ID {
				t.Errorf("first change %d of transaction %d", c.ID, c.Txn)
			}
			txn = c.Txn
			flush()
			out.WriteString("txn\n")
		}
		if s := c.Schema; s != nil {
			flush()
			fmt.Fprintf(&out, "  %s %s %q on %q: %s\n", s.Op, s.Kind, s.Name, s.Table, s.SQL)
			continue
		}
		var row strings.Builder
		fmt.Fprintf(&row, "  %s %q", map[cdc.Type]string{cdc.Insert: "insert", cdc.Update: "update", cdc.Delete: "delete"}[c.Type], c.Table)
		if !c.Shape.WithoutRowID {
			fmt.Fprintf(&row, " %d", c.RowID)
		}
		fmt.Fprintf(&row, "%s%s\n", imageText(t, " before", c, c.Before), imageText(t, " after", c, c.After))
		if n := len(rows); n > 0 && strings.HasPrefix(row.String(), "  delete") != strings.HasPrefix(rows[n-1], "  delete") {
			flush()
		}
		rows = append(rows, row.String())
	}
	flush()
	return out.String()
}

func imageText(t testing.TB, what string, c *cdc.Change, image []byte) string {
	if image == nil {
		return ""
	}
	values, err := cdc.DecodeRecord(image)
	if err != nil {
		t.Fatal(err)
	}
	var fields []string
	for i, v := range values {
		text := literal(v)
		if len(text) > 100 {
			text = fmt.Sprintf("%s…%x", text[:20], sha256.Sum256([]byte(text)))[:60]
		}
		fields = append(fields, c.Shape.Columns[i]+"="+text)
	}
	return what + " (" + strings.Join(fields, ", ") + ")"
}
