package replica

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tursosync/tursosync/internal/fault"
)

// files names the files of a replica, all beside live and called after it.
type files struct{ live string }

func (f files) base() string  { return f.live + "-base" }
func (f files) next() string  { return f.live + "-base-next" } // a whole new base, being assembled
func (f files) stage() string { return f.live + "-stage" }     // stands in for base while that is empty
func (f files) pull() string  { return f.live + "-pull" }
func (f files) lock() string  { return f.live + "-lock" }

// rebuilt is live in the remote's page size and encoding, being made.
func (f files) rebuilt() string { return f.live + "-rebuild" }

// backup returns a name, not yet taken, for what the user may want back.
func (f files) backup(now time.Time) (string, error) {
	stem := f.live + "-backup-" + now.UTC().Format("20060102T150405Z")
	for n := 1; n < 1000; n++ {
		name := stem
		if n > 1 {
			name = fmt.Sprintf("%s-%d", stem, n)
		}
		if _, err := fault.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			return name, nil
		} else if err != nil {
			return "", fmt.Errorf("name a backup: %w", err)
		}
	}
	return "", fmt.Errorf("name a backup: too many of %s", stem)
}

// resolve returns the absolute path without symbolic links, so that side files
// and lock are the same whatever name the database is opened by. The file itself
// need not exist.
func resolve(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", path, err)
	}
	// A dangling link: the database is to be made where it points to.
	for range 40 {
		target, err := os.Readlink(abs)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(abs), target)
		}
		abs = target
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", path, err)
	}
	return filepath.Join(dir, filepath.Base(abs)), nil
}

// fingerprint recognises a file that nobody has written to.
type fingerprint struct {
	Inode uint64 `json:"inode"`
	Size  int64  `json:"size"`
	Time  int64  `json:"mtime"` // ns
}

// fingerprintOf stats a file, without opening it: opening and closing live would
// drop SQLite's locks (https://sqlite.org/howtocorrupt.html §2.2).
func fingerprintOf(path string) (fingerprint, error) {
	info, err := fault.Stat(path)
	if err != nil {
		return fingerprint{}, err
	}
	return fingerprint{Inode: inode(info), Size: info.Size(), Time: info.ModTime().UnixNano()}, nil
}

// sizeOf returns the size of a file, 0 if there is none.
func sizeOf(path string) (int64, error) {
	info, err := fault.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// remove deletes files; those that do not exist are fine.
func remove(paths ...string) error {
	var errs []error
	for _, path := range paths {
		if err := fault.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removeDatabase deletes a database of ours with everything SQLite keeps beside it.
func removeDatabase(path string) error {
	return remove(path, path+"-wal", path+"-shm", path+"-journal")
}

// syncDir makes creations, renames and deletions in path's directory durable.
func syncDir(path string) error {
	d, err := fault.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	err = d.Sync()
	if e := d.Close(); err == nil {
		err = e
	}
	if err != nil && !syncDirUnsupported(err) {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
