package realtest

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/gofrs/flock"
)

//go:embed npm/package.json npm/package-lock.json
var npmFiles embed.FS

//go:embed npm/driver.mjs
var driverScript []byte

//go:embed npm/serverless.mjs
var serverlessScript []byte

//go:embed libsql
var libsqlFiles embed.FS

// tools and libsql install once per process.
var (
	tools  = sync.OnceValues(func() (string, error) { return install("realtest", npmFiles, "npm") })
	libsql = sync.OnceValues(func() (string, error) { return install("libsql", libsqlFiles, "libsql") })
)

// LibsqlTour runs @libsql/client through what it offers, against the database at
// url, or skips the test. The error holds what it said.
func LibsqlTour(t testing.TB, url, token string) error {
	t.Helper()
	dir, err := libsql()
	if err != nil {
		Missing(t, err)
	}
	script, err := libsqlFiles.ReadFile("libsql/tour.mjs")
	if err != nil {
		t.Fatal(err)
	}
	return tour(t, "@libsql/client", script, dir, url, token)
}

// ServerlessTour is LibsqlTour for @tursodatabase/serverless, which comes with the
// official sync client and uses cursors.
func ServerlessTour(t testing.TB, url, token string) error {
	t.Helper()
	return tour(t, "@tursodatabase/serverless", serverlessScript, Tools(t), url, token)
}

// tour runs a script of node with a folder of packages, a URL and a token.
func tour(t testing.TB, of string, script []byte, dir, url, token string) error {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		Missing(t, fmt.Errorf("node is not installed: %w", err))
	}
	name := filepath.Join(t.TempDir(), "tour.mjs")
	if err := os.WriteFile(name, script, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, node, name, dir, url, token).CombinedOutput(); err != nil {
		return fmt.Errorf("tour of %s: %w\n%s", of, err, out)
	}
	return nil
}

// Tools returns the folder with the installed packages (its node_modules), or
// skips the test.
func Tools(t testing.TB) string {
	t.Helper()
	dir, err := tools()
	if err != nil {
		Missing(t, err)
	}
	return dir
}

// Missing ends a test that lacks one of the real programs: it is skipped, or
// failed when CI=true.
func Missing(t testing.TB, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("real programs: %v", err)
	}
	t.Skipf("real programs: %v (CI=true makes this a failure)", err)
}

// install makes .tools/<name>-<hash of the lock file>/ from a folder of files and
// returns it.
func install(name string, files embed.FS, folder string) (string, error) {
	lock, err := files.ReadFile(folder + "/package-lock.json")
	if err != nil {
		return "", err
	}
	root, err := repository()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(lock)
	dir := filepath.Join(root, ".tools", name+"-"+hex.EncodeToString(sum[:6]))
	done := filepath.Join(dir, "installed")
	if _, err := os.Stat(done); err == nil {
		return dir, nil
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", fmt.Errorf("npm is not installed: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// Test binaries run side by side; one of them installs.
	guard := flock.New(dir + ".lock")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if _, err := guard.TryLockContext(ctx, 50*time.Millisecond); err != nil {
		return "", fmt.Errorf("wait for another installation: %w", err)
	}
	defer func() { _ = guard.Unlock() }()
	if _, err := os.Stat(done); err == nil {
		return dir, nil
	}
	for _, name := range []string{"package.json", "package-lock.json"} {
		b, err := files.ReadFile(folder + "/" + name)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return "", err
		}
	}
	cmd := exec.CommandContext(ctx, npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return dir, os.WriteFile(done, nil, 0o644)
}

// repository finds the root of the module from the folder the test runs in.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = up
	}
}
