package fault

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// What follows are the functions of package os that this project touches files
// with, under the same names. Each operation asks the hook of [SetFiles] first, so
// that a test can make any single one fail. Without a hook that costs an atomic
// load. A test of internal/lint sees to it that packages with files of their own use
// these functions and no others.
//
// SQLite's files have the same in internal/faultfs.

// Op is a file operation that is about to be done.
type Op struct {
	Name   string // "open", "read", "write", "truncate", "sync", "close", "stat", "rename", "remove", "link", "chtimes", "mkdir", "readdir" or "lock"
	Path   string
	Offset int64 // of reads and writes; -1 where the file goes on from the last one
	Length int
}

// FileHook is a test's answer to an operation. An error is what the operation
// fails with, as if the operating system had returned it; see also [Partial].
type FileHook func(op Op) error

// Partial is an error for reads and writes of which the first half is done.
type Partial struct{ Err error }

func (p *Partial) Error() string { return p.Err.Error() }
func (p *Partial) Unwrap() error { return p.Err }

var files atomic.Pointer[FileHook]

// SetFiles installs a hook for the whole process and returns the function that
// restores the previous one. It is for tests only.
func SetFiles(h FileHook) (restore func()) {
	previous := files.Swap(&h)
	var once sync.Once
	return func() { once.Do(func() { files.Store(previous) }) }
}

// FileOp asks the hook about an operation that is done elsewhere, by name: a lock
// that another package takes.
func FileOp(name, path string) error { return ask(Op{Name: name, Path: path}) }

func ask(op Op) error {
	h := files.Load()
	if h == nil {
		return nil
	}
	if err := (*h)(op); err != nil {
		return &fs.PathError{Op: op.Name, Path: op.Path, Err: err}
	}
	return nil
}

// part is how much of n bytes is read or written before the error of ask.
func part(err error, n int) int {
	if errors.As(err, new(*Partial)) {
		return n / 2
	}
	return 0
}

// File is an *os.File.
type File struct{ f *os.File }

// OpenFile is os.OpenFile.
func OpenFile(name string, flag int, perm os.FileMode) (*File, error) {
	if err := ask(Op{Name: "open", Path: name}); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &File{f}, nil
}

// Open is os.Open.
func Open(name string) (*File, error) { return OpenFile(name, os.O_RDONLY, 0) }

// Name is what the file was opened as.
func (f *File) Name() string { return f.f.Name() }

// Read implements io.Reader.
func (f *File) Read(b []byte) (int, error) {
	if err := ask(Op{"read", f.Name(), -1, len(b)}); err != nil {
		n, _ := f.f.Read(b[:part(err, len(b))])
		return n, err
	}
	return f.f.Read(b)
}

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(b []byte, off int64) (int, error) {
	if err := ask(Op{"read", f.Name(), off, len(b)}); err != nil {
		n, _ := f.f.ReadAt(b[:part(err, len(b))], off)
		return n, err
	}
	return f.f.ReadAt(b, off)
}

// Write implements io.Writer.
func (f *File) Write(b []byte) (int, error) {
	if err := ask(Op{"write", f.Name(), -1, len(b)}); err != nil {
		n, _ := f.f.Write(b[:part(err, len(b))])
		return n, err
	}
	return f.f.Write(b)
}

// WriteAt implements io.WriterAt.
func (f *File) WriteAt(b []byte, off int64) (int, error) {
	if err := ask(Op{"write", f.Name(), off, len(b)}); err != nil {
		n, _ := f.f.WriteAt(b[:part(err, len(b))], off)
		return n, err
	}
	return f.f.WriteAt(b, off)
}

// Seek implements io.Seeker. It touches no disk and does not fail.
func (f *File) Seek(offset int64, whence int) (int64, error) { return f.f.Seek(offset, whence) }

// Truncate is that of os.File.
func (f *File) Truncate(size int64) error {
	if err := ask(Op{"truncate", f.Name(), size, 0}); err != nil {
		return err
	}
	return f.f.Truncate(size)
}

// Sync is that of os.File.
func (f *File) Sync() error {
	if err := ask(Op{Name: "sync", Path: f.Name()}); err != nil {
		return err
	}
	return f.f.Sync()
}

// Stat is that of os.File.
func (f *File) Stat() (os.FileInfo, error) {
	if err := ask(Op{Name: "stat", Path: f.Name()}); err != nil {
		return nil, err
	}
	return f.f.Stat()
}

// Close closes the file, with or without an error.
func (f *File) Close() error {
	err := ask(Op{Name: "close", Path: f.Name()})
	if e := f.f.Close(); err == nil {
		err = e
	}
	return err
}

// ReadFile is os.ReadFile.
func ReadFile(name string) ([]byte, error) {
	f, err := Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(f)
}

// WriteFile is os.WriteFile.
func WriteFile(name string, b []byte, perm os.FileMode) error {
	f, err := OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// Truncate is os.Truncate.
func Truncate(name string, size int64) error {
	if err := ask(Op{"truncate", name, size, 0}); err != nil {
		return err
	}
	return os.Truncate(name, size)
}

// Stat is os.Stat.
func Stat(name string) (os.FileInfo, error) {
	if err := ask(Op{Name: "stat", Path: name}); err != nil {
		return nil, err
	}
	return os.Stat(name)
}

// Lstat is os.Lstat.
func Lstat(name string) (os.FileInfo, error) {
	if err := ask(Op{Name: "stat", Path: name}); err != nil {
		return nil, err
	}
	return os.Lstat(name)
}

// Rename is os.Rename. The hook is told the new name.
func Rename(from, to string) error {
	if err := ask(Op{Name: "rename", Path: to}); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// Remove is os.Remove.
func Remove(name string) error {
	if err := ask(Op{Name: "remove", Path: name}); err != nil {
		return err
	}
	return os.Remove(name)
}

// Link is os.Link. The hook is told the new name.
func Link(from, to string) error {
	if err := ask(Op{Name: "link", Path: to}); err != nil {
		return err
	}
	return os.Link(from, to)
}

// Chtimes is os.Chtimes.
func Chtimes(name string, accessed, modified time.Time) error {
	if err := ask(Op{Name: "chtimes", Path: name}); err != nil {
		return err
	}
	return os.Chtimes(name, accessed, modified)
}

// MkdirAll is os.MkdirAll.
func MkdirAll(name string, perm os.FileMode) error {
	if err := ask(Op{Name: "mkdir", Path: name}); err != nil {
		return err
	}
	return os.MkdirAll(name, perm)
}

// ReadDir is os.ReadDir.
func ReadDir(name string) ([]os.DirEntry, error) {
	if err := ask(Op{Name: "readdir", Path: name}); err != nil {
		return nil, err
	}
	return os.ReadDir(name)
}
