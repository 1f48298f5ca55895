package lint

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	passed     = regexp.MustCompile(`fault\.At\(([^)]*)\)`)
	documented = regexp.MustCompile("`([a-z]+\\.[a-z]+)`")
)

// TestFaultPoints: the points that the code passes are those in the first columns
// of the tables of docs/rebase.md that begin with "point".
func TestFaultPoints(t *testing.T) {
	root := filepath.Join("..", "..")
	code := map[string]string{} // point to file
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && strings.HasPrefix(d.Name(), "."):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range passed.FindAllStringSubmatch(string(b), -1) {
			point := strings.Trim(m[1], `"`)
			if `"`+point+`"` != m[1] {
				t.Errorf("%s: fault.At(%s): points are spelled out", path, m[1])
			}
			code[point] = path
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	manual, err := os.ReadFile(filepath.Join(root, "docs", "rebase.md"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	inTable := false
	for line := range strings.Lines(string(manual)) {
		switch {
		case strings.HasPrefix(line, "| point |"):
			inTable = true
		case !strings.HasPrefix(line, "|"):
			inTable = false
		case inTable:
			for _, m := range documented.FindAllStringSubmatch(strings.Split(line, "|")[1], -1) {
				rows = append(rows, m[1])
			}
		}
	}
	for point, path := range code {
		if !slices.Contains(rows, point) {
			t.Errorf("%s passes %s, which has no row in docs/rebase.md", path, point)
		}
	}
	for _, point := range rows {
		if code[point] == "" {
			t.Errorf("docs/rebase.md has a row for %s, which no code passes", point)
		}
	}
}
