// Package lint holds the house rules that a test can hold.
package lint

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/tursosync/tursosync"

// imports says which of our packages each folder may import (tests apart). It is
// the table of docs/architecture.md: nothing imports upwards.
var imports = map[string][]string{
	"internal/fault":   {},
	"internal/faultfs": {"internal/fault"},
	"internal/page":    {},
	"internal/wal":     {"internal/page"},
	"internal/wire":    {"internal/page"},
	"internal/shim":    {"internal/page"},
	"hooks":            {"internal/page", "internal/shim"},
	"cdc":              {"hooks", "internal/page", "internal/shim"},
	"internal/replica": {"cdc", "hooks", "syncer", "internal/fault", "internal/page", "internal/shim", "internal/wal"},
	"internal/remote":  {"cdc", "syncer", "internal/page", "internal/wire"},
	"syncer":           {"cdc", "internal/fault", "internal/page"},
	"server":           {"internal/fault", "internal/page", "internal/shim", "internal/wal", "internal/wire"},
	"server/auth":      {"server"},
	".":                {"cdc", "hooks", "syncer", "internal/fault", "internal/page", "internal/remote", "internal/replica"},
	"tursosynctest":    {"server", "internal/page", "internal/wire"},
}

// TestFloors reads every file that is not a test and compares its imports with
// the table.
func TestFloors(t *testing.T) {
	root := filepath.Join("..", "..")
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != root && (strings.HasPrefix(name, ".") || name == "node_modules" || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		allowed, known := imports[filepath.ToSlash(filepath.Dir(rel))]
		if !known {
			return nil // commands, examples and test helpers sit on top
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			ours, ok := strings.CutPrefix(p, module)
			if !ok {
				continue
			}
			ours = strings.TrimPrefix(ours, "/")
			if ours == "" {
				ours = "."
			}
			found := false
			for _, a := range allowed {
				found = found || a == ours
			}
			if !found {
				t.Errorf("%s imports %s, which is not below it", rel, ours)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
