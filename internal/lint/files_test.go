package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// harmless are what packages with files of their own may use of package os: all
// that touches no file, or no content.
var harmless = []string{"ErrNotExist", "ErrExist", "ErrPermission", "FileInfo", "FileMode", "DirEntry", "SameFile", "Readlink", "Getenv", "Getpid",
	"O_RDONLY", "O_WRONLY", "O_RDWR", "O_CREATE", "O_TRUNC", "O_EXCL"}

// TestFileOperations: what internal/replica and server do with files goes through
// internal/fault, so that a test can make each operation fail.
func TestFileOperations(t *testing.T) {
	for _, dir := range []string{"internal/replica", "server"} {
		paths, err := filepath.Glob(filepath.Join("..", "..", dir, "*.go"))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %d files, %v", dir, len(paths), err)
		}
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok {
					if x, ok := s.X.(*ast.Ident); ok && x.Name == "os" && !slices.Contains(harmless, s.Sel.Name) {
						t.Errorf("%v: os.%s: use internal/fault's", fset.Position(n.Pos()), s.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

// TestFaultVFS: internal/faultfs puts itself between SQLite and its files, so it
// is for tests and simulations only.
func TestFaultVFS(t *testing.T) {
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") && !strings.HasPrefix(d.Name(), "..") {
			return filepath.SkipDir
		}
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			if spec.Path.Value == `"`+module+`/internal/faultfs"` && filepath.Base(filepath.Dir(path)) != "sim" {
				t.Errorf("%s imports internal/faultfs", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
