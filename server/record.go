package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/tursosync/tursosync/internal/fault"
)

// record is what NAME.db-history holds: which commit changed which page last, up
// to the commit seq, and how to recognise the database in the state after that
// commit. It is a hint, never the truth: when the database is not recognised, its
// history begins anew and clients get all pages. So it may be lost, stale or torn
// at any time, and is written where that costs least.
//
// There are two ways to recognise the state after seq. Either alone is enough.
//
//   - walMark: the WAL still begins with these frames. Salts and the running
//     checksum say so. What follows are later commits.
//   - fileMark: the main file has not been written to since it held all of that
//     state; its time of modification says so, which is set to a value that no
//     clock gives. All frames of the WAL, whichever it is, are later commits.
//
// The second outlives the WAL that SQLite starts over after a checkpoint and
// deletes with the last connection; the first outlives a checkpoint that is cut
// short. A program that writes while no server runs leaves either its commits
// in the WAL, where they are counted, or another time of modification.
//
//	"tshist1\n" · seq u64 · start u64
//	wal mark: u8 0 or 1 · salts u32 ×2 · frames u32 · checksums u32 ×2
//	file mark: u8 0 or 1 · size u64 · modification time in ns i64
//	number of eras u32 · era: name 8 bytes · first u64
//	number of tags u32 · tag: commit u64 · u32
//	number of pages u32 · page: uvarint of seq minus the commit that changed it last
//	SHA-256 of all that
//
// All integers but the last are big-endian.
type record struct {
	seq     uint64
	start   uint64 // seq at the beginning of the WAL of walMark
	wal     *walMark
	file    *fileMark
	eras    []era
	tags    map[uint64]tag // see history
	changed []uint64
}

// era is a stretch of commits that were seen one after the other. Its name is in
// the revisions. An era begins with the first commit after the server opened the
// database, so that a database that was set back (a restored backup, a machine that
// lost its last commits) does not use a revision for two states.
type era struct {
	name  [8]byte
	first uint64 // the commit it begins with; it ends before the next one
}

func (e era) String() string { return hex.EncodeToString(e.name[:]) }

// erasMax bounds what a record holds. Clients with older revisions get all pages.
const (
	erasMax = 1000
	tagsMax = 50_000
)

type walMark struct {
	salt     [2]uint32
	frames   uint32
	checksum [2]uint32
}

type fileMark struct {
	size, modified int64
}

// tmpSuffix is what the names of files in the making end in, behind those that
// they will have.
const tmpSuffix = ".tmp"

const recordMagic = "tshist1\n"

var errRecord = errors.New("the history is damaged")

func (r *record) encode() []byte {
	be := binary.BigEndian
	b := make([]byte, 0, 128+16*len(r.eras)+3*len(r.changed))
	b = append(b, recordMagic...)
	b = be.AppendUint64(b, r.seq)
	b = be.AppendUint64(b, r.start)
	w, has := walMark{}, byte(0)
	if r.wal != nil {
		w, has = *r.wal, 1
	}
	b = append(b, has)
	for _, v := range []uint32{w.salt[0], w.salt[1], w.frames, w.checksum[0], w.checksum[1]} {
		b = be.AppendUint32(b, v)
	}
	f, has := fileMark{}, byte(0)
	if r.file != nil {
		f, has = *r.file, 1
	}
	b = append(b, has)
	b = be.AppendUint64(b, uint64(f.size))
	b = be.AppendUint64(b, uint64(f.modified))
	b = be.AppendUint32(b, uint32(len(r.eras)))
	for _, e := range r.eras {
		b = append(b, e.name[:]...)
		b = be.AppendUint64(b, e.first)
	}
	b = be.AppendUint32(b, uint32(len(r.tags)))
	for _, seq := range slices.Sorted(maps.Keys(r.tags)) {
		b = be.AppendUint64(b, seq)
		b = be.AppendUint32(b, uint32(r.tags[seq]))
	}
	b = be.AppendUint32(b, uint32(len(r.changed)))
	for _, c := range r.changed {
		b = binary.AppendUvarint(b, r.seq-c)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// decodeRecord is the inverse of encode, and takes nothing else.
func decodeRecord(b []byte) (*record, error) {
	const head = len(recordMagic) + 8 + 8 + 1 + 20 + 1 + 16 + 4 + 4
	body := len(b) - sha256.Size
	if body < head+4 || string(b[:len(recordMagic)]) != recordMagic {
		return nil, errRecord
	}
	if sum := sha256.Sum256(b[:body]); !bytes.Equal(sum[:], b[body:]) {
		return nil, errRecord
	}
	b = b[len(recordMagic):body]
	be := binary.BigEndian
	u32 := func() (v uint32) { v, b = be.Uint32(b), b[4:]; return v }
	u64 := func() (v uint64) { v, b = be.Uint64(b), b[8:]; return v }
	flag := func() (v byte) { v, b = b[0], b[1:]; return v }
	r := &record{seq: u64(), start: u64()}
	hasWAL := flag()
	w := walMark{salt: [2]uint32{u32(), u32()}, frames: u32(), checksum: [2]uint32{u32(), u32()}}
	hasFile := flag()
	f := fileMark{size: int64(u64()), modified: int64(u64())}
	if hasWAL == 1 {
		r.wal = &w
	}
	if hasFile == 1 {
		r.file = &f
	}
	n := u32()
	if hasWAL > 1 || hasFile > 1 || r.start > r.seq || n == 0 || n > erasMax || len(b) < int(n)*16+8 {
		return nil, errRecord
	}
	for range n {
		e := era{name: [8]byte(b)}
		b = b[8:]
		e.first = u64()
		if e.first > r.seq || len(r.eras) > 0 && e.first <= r.eras[len(r.eras)-1].first {
			return nil, errRecord
		}
		r.eras = append(r.eras, e)
	}
	tags := u32()
	if tags > tagsMax || len(b) < int(tags)*12+4 {
		return nil, errRecord
	}
	r.tags = make(map[uint64]tag, tags)
	for range tags {
		seq := u64()
		r.tags[seq] = tag(u32())
	}
	if len(r.tags) != int(tags) {
		return nil, errRecord
	}
	pages := u32()
	if uint64(len(b)) < uint64(pages) {
		return nil, errRecord
	}
	r.changed = make([]uint64, pages)
	for i := range r.changed {
		back, k := binary.Uvarint(b)
		if k <= 0 || back > r.seq {
			return nil, errRecord
		}
		r.changed[i], b = r.seq-back, b[k:]
	}
	if len(b) != 0 {
		return nil, errRecord
	}
	return r, nil
}

// write replaces the record of a database.
func (r *record) write(file string, sync bool) (err error) {
	if err := fault.At("history.write"); err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	// Always the same name, so that a crash leaves one file at most.
	next := file + tmpSuffix
	tmp, err := fault.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	defer func() {
		if err != nil {
			_ = fault.Remove(next)
			err = fmt.Errorf("write history: %w", err)
		}
	}()
	_, err = tmp.Write(r.encode())
	if err == nil && sync {
		if err = fault.At("history.sync"); err == nil {
			err = tmp.Sync()
		}
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := fault.At("history.rename"); err != nil {
		return err
	}
	return fault.Rename(next, file)
}

// readRecord returns nil without an error when there is no record.
func readRecord(file string) (*record, error) {
	b, err := fault.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeRecord(b)
}

// markFile gives the main file a time of modification by which it can be
// recognised until somebody writes to it. Opening the file would be wrong: closing
// it again drops SQLite's locks (https://sqlite.org/howtocorrupt.html, 2.2).
// Nil means that the file system does not keep such times.
func markFile(name string) (*fileMark, error) {
	t := fault.Now().Truncate(time.Millisecond).Add(time.Duration(rand.IntN(1e6)))
	if err := fault.At("history.mark"); err != nil {
		return nil, err
	}
	if err := fault.Chtimes(name, time.Time{}, t); err != nil {
		return nil, err
	}
	m, err := lookAtFile(name)
	if err != nil || m.modified != t.UnixNano() {
		return nil, err
	}
	return &m, nil
}

func lookAtFile(name string) (fileMark, error) {
	info, err := fault.Stat(name)
	if err != nil {
		return fileMark{}, err
	}
	return fileMark{size: info.Size(), modified: info.ModTime().UnixNano()}, nil
}

// recent returns the eras without those that are too old to be kept.
func recent(eras []era) []era {
	return slices.Clone(eras[max(0, len(eras)-erasMax):])
}
