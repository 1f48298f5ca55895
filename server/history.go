package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/shim"
	"github.com/tursosync/tursosync/internal/wal"
)

// history knows which commit changed which page last, by reading the frame
// headers that every commit appends to the WAL.
//
// A revision is "<epoch>-<commit>". The epoch is random and lives as long as all
// commits were seen: SQLite counts commits in the wal-index, so a WAL that starts
// over (after a checkpoint) is known to follow the last one when the count fits
// the frames in it. When it does not fit, because another program checkpointed
// commits that nobody here saw, and when the server starts, a new epoch begins,
// and clients with older revisions get all pages.
type history struct {
	file string

	mu    sync.Mutex // guards what follows, and the use of conn
	conn  *conn      // keeps the WAL and its index open
	state shim.WALState
	epoch string
	seq   uint64 // commits seen in this epoch
	start uint64 // seq at which the present WAL began: what the file holds
	// changed holds the commit that last changed each page, by page number - 1.
	changed []uint64
	frames  []frame       // of the present WAL
	news    chan struct{} // closed by the next commit
}

// frame is a frame of the WAL.
type frame struct {
	no  page.No
	seq uint64 // the commit it belongs to
}

// historySuffix is what the name of the file with the history ends in.
const historySuffix = "-history"

func openHistory(cfg Config) (*history, error) {
	if err := os.MkdirAll(filepath.Dir(cfg.File), 0o755); err != nil {
		return nil, err
	}
	c, err := openConn(cfg)
	if err != nil {
		return nil, err
	}
	h := &history{file: cfg.File, conn: c, news: make(chan struct{})}
	if err := h.prepare(); err != nil {
		c.close()
		return nil, err
	}
	return h, nil
}

// prepare checks the database, brings it into WAL mode, and begins an epoch.
func (h *history) prepare() error {
	for _, p := range []struct{ name, want string }{{"page_size", strconv.Itoa(page.Size)}, {"encoding", "UTF-8"}} {
		got, err := h.conn.one("PRAGMA " + p.name)
		if err != nil {
			return err
		}
		if got != p.want {
			return fmt.Errorf("%s: %s is %s, only %s can be synced", h.file, p.name, got, p.want)
		}
	}
	mode, err := h.conn.one("PRAGMA journal_mode=WAL")
	if err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("%s: journal mode is %s, WAL cannot be had", h.file, mode)
	}
	// Read once, so that SQLite opens the WAL and its index.
	if _, err := h.conn.one("SELECT count(*) FROM sqlite_schema"); err != nil {
		return err
	}
	for range 100 {
		if h.state, err = h.conn.db.WALState(); err != nil {
			return err
		}
		switch err := h.begin(); {
		case err == nil:
			return nil
		case !errors.Is(err, errReset):
			return err
		}
	}
	return errReset
}

func (h *history) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conn.close()
}

// errReset tells that the WAL started over while it was being read.
var errReset = errors.New("the WAL started over while it was being read")

// begin starts an epoch at h.state.
func (h *history) begin() error {
	frames, _, err := h.read(0, h.state, 0)
	if err != nil {
		return err
	}
	count, err := h.pageCount(h.state)
	if err != nil {
		return err
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	h.epoch, h.seq, h.start = hex.EncodeToString(b[:]), 0, 0
	h.frames, h.changed = frames, make([]uint64, count)
	for i := range h.frames {
		h.frames[i].seq = 0
	}
	return nil
}

// read reads the headers of the frames behind from, up to state, and counts the
// commits, the first of which is seq+1.
//
//	frame header  page number u32 · page count after a commit, or 0 u32 · salts u32 ×2 · checksums u32 ×2
func (h *history) read(from uint32, state shim.WALState, seq uint64) (frames []frame, commits uint64, err error) {
	var b [wal.FrameHeaderSize]byte
	for i := from; i < state.MaxFrame; i++ {
		if _, err := h.conn.db.ReadAt(shim.WAL, b[:], wal.Size(i)); err != nil {
			return nil, 0, fmt.Errorf("read frame %d: %w", i+1, err)
		}
		if [2]uint32{binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])} != state.Salt {
			return nil, 0, errReset
		}
		frames = append(frames, frame{page.No(binary.BigEndian.Uint32(b[0:])), seq + commits + 1})
		if binary.BigEndian.Uint32(b[4:]) != 0 {
			commits++
		}
	}
	return frames, commits, nil
}

// pageCount returns the size of the database at state.
func (h *history) pageCount(state shim.WALState) (uint32, error) {
	if state.PageCount != 0 {
		return state.PageCount, nil
	}
	size, err := h.conn.db.Size(shim.Main)
	return uint32(size / page.Size), err
}

// refresh learns of the commits since the last time. The caller holds mu.
func (h *history) refresh() error {
	for range 100 {
		now, err := h.conn.db.WALState()
		if errors.Is(err, shim.ErrNotReady) {
			// A writer died: reading makes SQLite recover the index.
			if _, err = h.conn.one("SELECT count(*) FROM sqlite_schema"); err != nil {
				return err
			}
			now, err = h.conn.db.WALState()
		}
		if err != nil {
			return err
		}
		if now == h.state {
			return nil
		}
		switch err := h.advance(now); {
		case err == nil:
			return nil
		case !errors.Is(err, errReset):
			return err
		}
	}
	return errReset
}

// advance takes in the frames between h.state and now.
func (h *history) advance(now shim.WALState) error {
	old := h.state
	same := now.Salt == old.Salt && now.MaxFrame >= old.MaxFrame
	from := uint32(0)
	if same {
		from = old.MaxFrame
	}
	frames, commits, err := h.read(from, now, h.seq)
	if err != nil {
		return err
	}
	count, err := h.pageCount(now)
	if err != nil {
		return err
	}
	if old.Change+uint32(commits) != now.Change {
		h.state = now
		if err := h.begin(); err != nil {
			h.state = old
			return err
		}
		h.announce()
		return nil
	}
	if !same {
		h.start, h.frames = h.seq, nil
	}
	h.state = now
	h.seq += commits
	h.frames = append(h.frames, frames...)
	h.resize(count)
	for _, f := range frames {
		if f.no != 0 && int(f.no) <= len(h.changed) {
			h.changed[f.no-1] = f.seq
		}
	}
	if commits > 0 {
		h.announce()
	}
	return nil
}

// resize follows the size of the database. Pages that come into being count as
// changed even when SQLite wrote no frame for them, as it does with a page that a
// transaction adds and frees again.
func (h *history) resize(count uint32) {
	for uint32(len(h.changed)) < count {
		h.changed = append(h.changed, h.seq)
	}
	h.changed = h.changed[:count]
}

func (h *history) announce() {
	close(h.news)
	h.news = make(chan struct{})
}

// revision names the state after a commit.
func (h *history) revision(seq uint64) string {
	return h.epoch + "-" + strconv.FormatUint(seq, 10)
}

// parse finds the commit of a revision, if it is one of this epoch.
func (h *history) parse(revision string) (seq uint64, known bool) {
	epoch, n, _ := strings.Cut(revision, "-")
	seq, err := strconv.ParseUint(n, 10, 64)
	return seq, err == nil && epoch == h.epoch && seq <= h.seq && revision == h.revision(seq)
}

// wait returns when there is something newer than revision, at the latest when
// ctx ends. Commits of other programs are noticed with some delay.
func (h *history) wait(ctx context.Context, revision string) {
	poll := time.NewTicker(500 * time.Millisecond)
	defer poll.Stop()
	for {
		h.mu.Lock()
		err := h.refresh()
		news, newest := h.news, h.revision(h.seq)
		h.mu.Unlock()
		if err != nil || newest != revision {
			return
		}
		select {
		case <-news:
		case <-poll.C:
		case <-ctx.Done():
			return
		}
	}
}

// plan says where the pages of an answer lie.
type plan struct {
	revision  string
	pageCount uint32
	state     shim.WALState
	pages     []place
}

// place is where the image of a page lies.
type place struct {
	no    page.No
	frame uint32 // of the WAL; 0: in the file
	old   bool   // the page has changed since
}

// lockPage is never written by SQLite: its bytes in the file are locks
// (https://sqlite.org/fileformat2.html#the_lock_byte_page).
const lockPage = page.No(1<<30/page.Size + 1)

// errGone tells that a page at the wanted revision does not exist any more.
var errGone = errors.New("the revision is not held any more: start again without it")

// plan finds the pages that a request asks for. The images stay where they are
// while the caller has a read transaction that fits the plan; see snapshot.
func (h *history) plan(have, at string, selected *page.Set) (*plan, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.refresh(); err != nil {
		return nil, err
	}
	p := &plan{revision: h.revision(h.seq), pageCount: uint32(len(h.changed)), state: h.state}
	upto := h.seq
	if at != "" {
		var known bool
		if upto, known = h.parse(at); !known {
			return nil, errGone
		}
		p.revision = at
	}
	since, known := h.parse(have)
	last, first := h.lastFrames(upto)
	for i, seq := range h.changed {
		no := page.No(i + 1)
		if no == lockPage || known && seq <= since || selected != nil && !selected.Has(no) {
			continue
		}
		pl := place{no: no, frame: last[no], old: seq > upto}
		// The newest image is always there. An old one is in the WAL, or in the
		// file if that is as it was at that revision.
		if pl.old && pl.frame == 0 && (upto < h.start || first[no] != 0 && first[no] <= h.state.Backfill) {
			return nil, errGone
		}
		p.pages = append(p.pages, pl)
	}
	return p, nil
}

// lastFrames returns the last frame of each page up to a commit, and the first
// one behind.
func (h *history) lastFrames(upto uint64) (last, first map[page.No]uint32) {
	last, first = map[page.No]uint32{}, map[page.No]uint32{}
	for i, f := range h.frames {
		if f.seq <= upto {
			last[f.no] = uint32(i) + 1
		} else if first[f.no] == 0 {
			first[f.no] = uint32(i) + 1
		}
	}
	return last, first
}

// current returns the state of the WAL.
func (h *history) current() (shim.WALState, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conn.db.WALState()
}

// checkpoint moves the WAL into the file, if it holds at least so many bytes. No
// request may be under way.
func (h *history) checkpoint(atLeast int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.refresh(); err != nil {
		return err
	}
	if wal.Size(h.state.MaxFrame-h.state.Backfill) < atLeast {
		return nil
	}
	if _, err := h.conn.one("PRAGMA wal_checkpoint(PASSIVE)"); err != nil {
		return err
	}
	return h.refresh()
}

// digest returns the SHA-256 of the file. No request may be under way.
func (h *history) digest() (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	state, err := h.conn.db.WALState()
	if err != nil {
		return "", err
	}
	if state.Backfill != state.MaxFrame {
		return "", errors.New("somebody reads the database, so that its WAL cannot be moved into the file")
	}
	size, err := h.conn.db.Size(shim.Main)
	if err != nil {
		return "", err
	}
	sum, b := sha256.New(), make([]byte, 64*page.Size)
	for off := int64(0); off < size; {
		n, err := h.conn.db.ReadAt(shim.Main, b[:min(int64(len(b)), size-off)], off)
		if err != nil {
			return "", err
		}
		sum.Write(b[:n])
		off += int64(n)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
