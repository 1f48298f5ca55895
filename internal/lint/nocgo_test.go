package lint

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestWithoutCgo: a build without cgo ends with an error that says so.
func TestWithoutCgo(t *testing.T) {
	c := exec.Command("go", "build", "-o", os.DevNull, "./internal/shim")
	c.Dir = filepath.Join("..", "..")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := c.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "undefined: tursosync_needs_cgo") {
		t.Errorf("go build: %v\n%s", err, out)
	}
	if strings.Count(string(out), "\n") > 2 {
		t.Errorf("other errors hide it:\n%s", out)
	}
}
