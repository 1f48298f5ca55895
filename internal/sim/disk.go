package sim

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// disk knows what is on disk for good: the content that each file had at its last
// sync, and the names that each folder had. What came after may be there when the
// power is back, in part, or not at all.
//
// Files are known by inode, since a rename moves a content under another name.
// SQLite syncs the folder of a WAL or journal that it has made along with the file, and
// with it whatever else became of the names in there.
type disk struct {
	mu      sync.Mutex
	content map[uint64][]byte
	names   map[string]map[string]uint64 // folder, name
}

func newDisk() *disk {
	return &disk{content: map[uint64][]byte{}, names: map[string]map[string]uint64{}}
}

func inodeOf(path string) (uint64, bool) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return s.Ino, true
}

// synced takes note of a sync.
func (d *disk) synced(path string, sqlite bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, name := filepath.Split(path)
	dir = filepath.Clean(dir)
	if d.names[path] != nil {
		d.names[path] = list(path)
		return
	}
	if d.names[dir] == nil {
		return // not a replica's
	}
	ino, ok := inodeOf(path)
	if !ok {
		return
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return
	}
	d.content[ino] = b
	switch made := d.names[dir][name] != ino; {
	case sqlite && made && (strings.HasSuffix(name, "-wal") || strings.HasSuffix(name, "-journal")):
		d.names[dir] = list(dir)
	case sqlite:
		d.names[dir][name] = ino
	}
}

func list(dir string) map[string]uint64 {
	names := map[string]uint64{}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if ino, ok := inodeOf(filepath.Join(dir, e.Name())); ok {
			names[e.Name()] = ino
		}
	}
	return names
}

// adopt takes all that a folder holds for synced.
func (d *disk) adopt(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names[dir] = list(dir)
	for name, ino := range d.names[dir] {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		d.content[ino] = b
	}
	return nil
}

// drop forgets a folder.
func (d *disk) drop(dir string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, ino := range d.names[dir] {
		delete(d.content, ino)
	}
	delete(d.names, dir)
}

// powerLoss writes to a folder what another one may hold after the power failed.
func (d *disk) powerLoss(to, from string, rnd *rand.Rand) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	current := map[uint64][]byte{}
	for name, ino := range list(from) {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		current[ino] = b
	}
	names := d.names[from]
	if rnd.IntN(2) == 0 {
		names = list(from)
	}
	if names == nil {
		return fmt.Errorf("power loss: nothing is known of %s", from)
	}
	worst := rnd.IntN(3) == 0 // nothing survives that was not synced
	for name, ino := range names {
		if strings.HasSuffix(name, "-shm") || strings.HasSuffix(name, "-lock") {
			continue
		}
		old, now := d.content[ino], current[ino]
		if err := os.WriteFile(filepath.Join(to, name), torn(old, now, worst, rnd), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// torn mixes what was synced with what was written since.
func torn(old, now []byte, worst bool, rnd *rand.Rand) []byte {
	if worst || bytes.Equal(old, now) || now == nil {
		return old
	}
	const sector = 512
	size := len(old)
	if rnd.IntN(2) == 0 {
		size = len(now)
	}
	most := rnd.IntN(4) // of three sectors, how many are new
	b := make([]byte, size)
	copy(b, old)
	for at := 0; at < size; at += sector {
		if rnd.IntN(3) < most && at < len(now) {
			copy(b[at:min(at+sector, size)], now[at:])
		}
	}
	return b
}
