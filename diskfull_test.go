//go:build linux

package tursosync_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/tursosynctest"
)

// The tests in this file have a file system of a few megabytes to themselves, fill
// it, make it read-only, and make room again.

// disk is a small file system.
type disk struct {
	*testing.T
	dir     string
	ballast string
}

func newDisk(t *testing.T, size string) *disk {
	t.Helper()
	d := &disk{T: t, dir: t.TempDir()}
	d.ballast = filepath.Join(d.dir, "ballast")
	if err := syscall.Mount("tursosync-test", d.dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("a tmpfs cannot be mounted here (%v): run as root to test full disks", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(d.dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return d
}

// leave fills the disk but for n bytes, rounded to pages.
func (d *disk) leave(n int64) {
	d.Helper()
	d.room()
	f, err := os.Create(d.ballast)
	if err != nil {
		d.Fatal(err)
	}
	defer f.Close()
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &s); err != nil {
		d.Fatal(err)
	}
	if fill := int64(s.Bavail)*s.Bsize - n; fill > 0 {
		if err := syscall.Fallocate(int(f.Fd()), 0, 0, fill); err != nil {
			d.Fatalf("fill %d bytes: %v", fill, err)
		}
	}
}

// room takes away what leave put there.
func (d *disk) room() {
	d.Helper()
	if err := os.Remove(d.ballast); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.Fatal(err)
	}
}

func (d *disk) readOnly(yes bool) {
	d.Helper()
	flags := uintptr(syscall.MS_REMOUNT)
	if yes {
		flags |= syscall.MS_RDONLY
	}
	if err := syscall.Mount("tursosync-test", d.dir, "tmpfs", flags, ""); err != nil {
		d.Fatalf("remount read-only=%v: %v", yes, err)
	}
}

func (d *disk) open(remote remote, edit ...func(*tursosync.Config)) *side {
	d.Helper()
	return open(d.T, remote, append(edit, at(filepath.Join(d.dir, "app.db")))...)
}

// full tells errors that a full disk explains.
func full(err error) bool {
	var e sqlite3.Error
	if errors.As(err, &e) {
		// The wal-index is shared memory, and SQLite reports its growth as I/O.
		return e.Code == sqlite3.ErrFull || e.Code == sqlite3.ErrIoErr || e.Code == sqlite3.ErrCantOpen
	}
	return errors.Is(err, syscall.ENOSPC)
}

// seeded starts a server with rows, and returns a peer that writes to it.
func seeded(t *testing.T) (*ownServer, *side) {
	t.Helper()
	srv := &ownServer{tursosynctest.NewServer(t)}
	peer := open(t, srv)
	peer.exec(items, `CREATE INDEX item_a ON item(a)`)
	for i := range 100 {
		peer.exec(fmt.Sprintf(`INSERT INTO item VALUES ('p%d', %d, hex(randomblob(1000)))`, i, i))
	}
	peer.sync()
	return srv, peer
}

// TestFullDiskWrites: the application's own writes fail like those of any SQLite
// database, whole transactions, and work again when there is room.
func TestFullDiskWrites(t *testing.T) {
	srv, peer := seeded(t)
	d := newDisk(t, "8m")
	one := d.open(srv)
	one.sync()
	d.leave(300 << 10)
	written := 0
	var err error
	for ; written < 1000; written++ {
		if _, err = one.db.Exec(`INSERT INTO item VALUES ('w' || ?, 1, randomblob(20000))`, written); err != nil {
			break
		}
	}
	var e sqlite3.Error
	if !errors.As(err, &e) || e.Code != sqlite3.ErrFull {
		t.Errorf("insert = %v, want SQLITE_FULL", err)
	}
	if written == 0 || written == 1000 {
		t.Errorf("%d rows fit into 300 kB", written)
	}
	count := fmt.Sprint(100 + written)
	one.want(`SELECT count(*) FROM item`, count)
	one.want(`PRAGMA integrity_check`, "ok")

	tx, err := one.db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if _, err = tx.Exec(`INSERT INTO item VALUES (hex(randomblob(8)), 1, randomblob(20000))`); err != nil {
			break
		}
	}
	if err == nil {
		err = tx.Commit()
	}
	if !full(err) {
		t.Errorf("transaction = %v", err)
	}
	_ = tx.Rollback()
	one.want(`SELECT count(*) FROM item`, count)
	if err := one.tryPush(); err != nil {
		if one.named(err); !full(err) {
			t.Errorf("Push = %v", err)
		}
	}
	d.room()
	one.exec(`INSERT INTO item VALUES ('room', 1, 1)`)
	converge(t, srv, one, peer)
	peer.want(`SELECT count(*) FROM item`, fmt.Sprint(101+written))
}

// TestFullDiskPulls gives a pull more and more room: it happens or it does not.
func TestFullDiskPulls(t *testing.T) {
	for _, met := range []bool{false, true} {
		t.Run(map[bool]string{false: "first", true: "increment"}[met], func(t *testing.T) {
			srv, peer := seeded(t)
			d := newDisk(t, "16m")
			one := d.open(srv)
			one.exec(`CREATE TABLE mine(x)`, `INSERT INTO mine VALUES (1)`)
			if met {
				one.sync()
				one.exec(`INSERT INTO mine VALUES (2)`)
				peer.exec(`UPDATE item SET b = hex(randomblob(1000))`, `DELETE FROM item WHERE a % 7 = 1`)
				peer.sync()
			}
			failed, happened := 0, false
			for free := int64(0); free < 8<<20 && !happened; free += 52 << 10 {
				before := one.photo()
				d.leave(free)
				err := one.tryPull()
				if happened = err == nil; happened {
					break
				}
				failed++
				if one.named(err); !full(err) {
					t.Errorf("%d bytes free: Pull = %v", free, err)
				}
				if after := one.photo(); after != before {
					t.Fatalf("%d bytes free: Pull = %v, but something changed", free, err)
				}
				d.room()
				if failed%5 == 0 {
					one.exec(`INSERT INTO mine VALUES (3)`)
				}
				if failed%7 == 0 {
					one.reopen()
				}
			}
			t.Logf("%d pulls failed", failed)
			if failed < 3 || !happened {
				t.Errorf("%d pulls failed, the last one happened: %v", failed, happened)
			}
			one.want(`SELECT count(*) FROM item`, queryRows(t, peer.db, `SELECT count(*) FROM item`)...)
			d.room()
			converge(t, srv, one, peer)
		})
	}
}

// TestFullDiskOpen opens, writes and closes with hardly any room.
func TestFullDiskOpen(t *testing.T) {
	srv, peer := seeded(t)
	d := newDisk(t, "8m")
	one := d.open(srv)
	one.sync()
	one.exec(`INSERT INTO item VALUES ('pending', 1, 1)`)
	if err := one.db.Close(); err != nil {
		t.Fatal(err)
	}
	for free := int64(0); free < 400<<10; free += 12 << 10 {
		d.leave(free)
		if err := openErr(t, one.cfg); err != nil && !full(err) && !errors.Is(err, tursosync.ErrReadOnly) {
			t.Errorf("%d bytes free: open = %v", free, err)
		}
		d.room()
	}
	one.open()
	one.want(`SELECT a FROM item WHERE id = 'pending'`, "1")
	// Closing with no room left.
	one.exec(`UPDATE item SET a = 'late' WHERE id LIKE 'p1%'`)
	d.leave(0)
	if err := one.db.Close(); err != nil && !full(err) {
		t.Errorf("close = %v", err)
	}
	d.room()
	one.open()
	one.want(`SELECT count(*) FROM item WHERE a = 'late'`, "11")
	converge(t, srv, one, peer)
}

// TestFullDiskInTheBackground: the syncer says so, and goes on by itself.
func TestFullDiskInTheBackground(t *testing.T) {
	srv, peer := seeded(t)
	d := newDisk(t, "8m")
	one := d.open(srv, func(c *tursosync.Config) {
		c.Sync, c.SyncInterval = tursosync.SyncAuto, 20_000_000
	})
	events := one.r.Events(t.Context())
	one.sync()
	d.leave(60 << 10)
	peer.exec(`UPDATE item SET b = hex(randomblob(1000)), a = 'new'`)
	peer.sync()
	offline := false
	for e := range events {
		s, ok := e.(tursosync.StatusChanged)
		if !ok {
			continue
		}
		if !offline && s.Status.State == tursosync.Offline {
			offline = true
			if !full(s.Status.Err) {
				t.Errorf("status = %v", s.Status)
			}
			d.room()
		} else if offline && s.Status.State == tursosync.Running {
			break
		}
	}
	one.want(`SELECT count(*) FROM item WHERE a = 'new'`, "100")
	converge(t, srv, one, peer)
}

// TestReadOnly: a file system, or a file, that cannot be written.
func TestReadOnly(t *testing.T) {
	for name, made := range map[string]bool{"replica": true, "plain file": false, "no file": false} {
		t.Run(name, func(t *testing.T) {
			srv, peer := seeded(t)
			d := newDisk(t, "8m")
			cfg := tursosync.Config{Path: filepath.Join(d.dir, "app.db"), URL: srv.URL, Sync: tursosync.SyncManual}
			var one *side
			switch {
			case made:
				one = d.open(srv)
				one.sync()
				one.exec(`INSERT INTO item VALUES ('pending', 1, 1)`)
				if err := one.db.Close(); err != nil {
					t.Fatal(err)
				}
			case name == "plain file":
				writeFile(t, cfg.Path, readFile(t, plainFile(t, `CREATE TABLE mine(x)`, `INSERT INTO mine VALUES (1)`)))
			}
			d.readOnly(true)
			if err := openErr(t, cfg); !errors.Is(err, tursosync.ErrReadOnly) {
				t.Errorf("open = %v, want ErrReadOnly", err)
			}
			d.readOnly(false)
			if one == nil {
				one = d.open(srv, func(c *tursosync.Config) { c.Existing = tursosync.ExistingUpload })
			} else {
				one.open()
				one.want(`SELECT a FROM item WHERE id = 'pending'`, "1")
			}
			converge(t, srv, one, peer)
		})
	}
}

// TestImmutableFile: only the database file cannot be written, the folder can.
func TestImmutableFile(t *testing.T) {
	srv, peer := seeded(t)
	one := open(t, srv)
	one.sync()
	if err := one.db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := immutable(one.path, true); err != nil {
		t.Skipf("files cannot be made immutable here: %v", err)
	}
	defer immutable(one.path, false)
	if err := openErr(t, one.cfg); !errors.Is(err, tursosync.ErrReadOnly) {
		t.Errorf("open = %v, want ErrReadOnly", err)
	}
	left, err := filepath.Glob(one.path + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		if strings.HasSuffix(f, "-next") || strings.HasSuffix(f, "-stage") {
			t.Errorf("%s is left over", f)
		}
	}
	if err := immutable(one.path, false); err != nil {
		t.Fatal(err)
	}
	one.open()
	one.exec(`INSERT INTO item VALUES ('new', 1, 1)`)
	converge(t, srv, one, peer)
}

// immutable sets or clears what chattr calls +i.
func immutable(path string, yes bool) error {
	const getFlags, setFlags, flag = 0x80086601, 0x40086602, 0x10
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := ioctl(f, getFlags, 0)
	if err != nil {
		return err
	}
	if flags &^= flag; yes {
		flags |= flag
	}
	_, err = ioctl(f, setFlags, flags)
	return err
}

// ioctl passes one integer in and out.
func ioctl(f *os.File, op uintptr, value int32) (int32, error) {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), op, uintptr(unsafe.Pointer(&value))); errno != 0 {
		return 0, errno
	}
	return value, nil
}
