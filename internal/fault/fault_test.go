package fault_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/tursosync/tursosync/internal/fault"
)

func TestAt(t *testing.T) {
	if err := fault.At("a"); err != nil {
		t.Fatalf("At without hook = %v, want nil", err)
	}
	full := errors.New("disk full")
	restore := fault.Set(func(point string) error {
		if point == "a" {
			return full
		}
		return nil
	})
	if err := fault.At("a"); !errors.Is(err, full) {
		t.Errorf("At(a) = %v, want %v", err, full)
	}
	if err := fault.At("b"); err != nil {
		t.Errorf("At(b) = %v, want nil", err)
	}
	restore()
	restore()
	if err := fault.At("a"); err != nil {
		t.Errorf("At after restore = %v, want nil", err)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	if err := fault.WriteFile(path, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	fail := "" // name of the operation that fails
	var with error
	var last fault.Op
	restore := fault.SetFiles(func(op fault.Op) error {
		if last = op; op.Name == fail {
			return with
		}
		return nil
	})
	defer restore()
	content := func(want string) {
		t.Helper()
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("content %q, %v, want %q", b, err, want)
		}
	}
	for name, do := range map[string]func() error{
		"open":     func() error { _, err := fault.Open(path); return err },
		"write":    func() error { return fault.WriteFile(path+"x", []byte("x"), 0o600) },
		"read":     func() error { _, err := fault.ReadFile(path); return err },
		"truncate": func() error { return fault.Truncate(path, 0) },
		"stat":     func() error { _, err := fault.Stat(path); return err },
		"rename":   func() error { return fault.Rename(path, path+"x") },
		"remove":   func() error { return fault.Remove(path) },
		"link":     func() error { return fault.Link(path, path+"y") },
		"chtimes":  func() error { return fault.Chtimes(path, time.Time{}, time.Unix(1, 0)) },
		"mkdir":    func() error { return fault.MkdirAll(filepath.Join(dir, "d"), 0o700) },
		"readdir":  func() error { _, err := fault.ReadDir(dir); return err },
		"lock":     func() error { return fault.FileOp("lock", path) },
		"sync": func() error {
			f, err := fault.Open(path)
			if err != nil {
				return err
			}
			return errors.Join(f.Sync(), f.Close())
		},
		"close": func() error {
			f, err := fault.Open(path)
			if err != nil {
				return err
			}
			return f.Close()
		},
	} {
		fail, with = name, syscall.EIO
		if err := do(); !errors.Is(err, syscall.EIO) || !errors.As(err, new(*fs.PathError)) {
			t.Errorf("%s = %v, want a PathError with EIO", name, err)
		}
		content("0123456789")
	}
	fail = ""
	f, err := fault.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	fail, with = "write", &fault.Partial{Err: syscall.ENOSPC}
	if n, err := f.WriteAt([]byte("abcd"), 2); n != 2 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("WriteAt = %d, %v", n, err)
	}
	if last != (fault.Op{Name: "write", Path: path, Offset: 2, Length: 4}) {
		t.Errorf("the hook was told %+v", last)
	}
	content("01ab456789")
	fail = "read"
	b := make([]byte, 6)
	if n, err := f.ReadAt(b, 0); n != 3 || err == nil || string(b) != "01a\x00\x00\x00" {
		t.Errorf("ReadAt = %d, %v, %q", n, err, b)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkAt(b *testing.B) {
	for b.Loop() {
		if fault.At("a") != nil {
			b.Fatal("unexpected")
		}
	}
}

func TestClock(t *testing.T) {
	restore := fault.SetClock(-time.Hour)
	if d := time.Since(fault.Now()); d < time.Hour || d > 2*time.Hour {
		t.Errorf("the clock is %v behind, want an hour", d)
	}
	restore()
	if d := time.Since(fault.Now()); d > time.Hour/2 {
		t.Errorf("the clock is %v behind, want none", d)
	}
}
