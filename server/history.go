package server

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/shim"
	"github.com/tursosync/tursosync/internal/wal"
)

// history knows which commit changed which page last, by reading the frame
// headers that every commit appends to the WAL.
//
// A revision is "<era>-<commit>-<tag>", the tag being taken from the checksum of the
// commit's last frame. Commits are counted as long as all of them were
// seen: SQLite counts commits in the wal-index, so a WAL that starts over (after a
// checkpoint) is known to follow the last one when the count fits the frames in
// it. When it does not fit, because another program checkpointed commits that
// nobody here saw, the history begins anew, and clients with older revisions get
// all pages. Across restarts the record bridges the gap; see record.go.
type history struct {
	cfg  Config
	file string

	mu    sync.Mutex // guards what follows, and the use of conn
	conn  *conn      // keeps the WAL and its index open
	state shim.WALState
	eras  []era
	// resumed tells that the last era ends with seq: the next commit begins another.
	resumed bool
	// tags are those of commits that only the WAL told of when the database was opened.
	tags  map[uint64]tag
	seq   uint64 // the last commit
	start uint64 // seq at which the present WAL began
	// changed holds the commit that last changed each page, by page number - 1.
	changed []uint64
	frames  []frame // of the present WAL
	// floor is how many frames of the present WAL may be in the file although the
	// index does not say so: after a crash it does not know.
	floor uint32
	// settled tells that all of the state is in the file, and the record says so.
	settled bool
	pins    *pins
	news    chan struct{} // closed by the next commit
}

// frame is a frame of the WAL.
type frame struct {
	no    page.No
	seq   uint64 // the commit it belongs to
	count uint32 // the size of the database in pages, if the frame ends the commit
	tag   tag
}

// tag tells two commits apart that have the same number in histories that parted.
type tag uint32

func tagOf(frameHeader []byte) tag {
	return tag(binary.BigEndian.Uint32(frameHeader[16:]) ^ bits.RotateLeft32(binary.BigEndian.Uint32(frameHeader[20:]), 16))
}

// historySuffix is what the name of the file with the record ends in.
const historySuffix = "-history"

func openHistory(cfg Config) (*history, error) {
	if err := fault.MkdirAll(filepath.Dir(cfg.File), 0o755); err != nil {
		return nil, err
	}
	c, err := openConn(cfg)
	if err != nil {
		return nil, err
	}
	h := &history{cfg: cfg, file: cfg.File, conn: c, pins: newPins(cfg), news: make(chan struct{})}
	if err := h.prepare(); err != nil {
		c.close()
		return nil, err
	}
	return h, nil
}

// prepare checks the database, brings it into WAL mode, and takes up its history.
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
	r, err := readRecord(h.file + historySuffix)
	if err != nil {
		h.cfg.Logger.Warn("read history", "error", err)
	}
	for range 100 {
		if h.state, err = h.conn.db.WALState(); err != nil {
			return err
		}
		switch err := h.resume(r); {
		case err == nil:
			known := func(revision string) bool { _, known := h.parse(revision); return known }
			if err := h.pins.load(known, h.start); err != nil {
				h.unpin(err)
			}
			h.trustFile()
			return nil
		case !errors.Is(err, errReset):
			return err
		}
	}
	return errReset
}

// resume takes up the history where the record ends, or begins a new one.
func (h *history) resume(r *record) error {
	if r == nil {
		return h.begin()
	}
	from, err := h.recognise(r)
	if err != nil {
		return err
	}
	if from < 0 {
		h.cfg.stats.forgotten.Add(1)
		return h.begin()
	}
	start := r.start
	if from == 0 {
		start = r.seq
	}
	frames, _, err := h.read(0, h.state, start)
	if err != nil {
		return err
	}
	if from > 0 && (frames[from-1].seq != r.seq || frames[from-1].count == 0) {
		h.cfg.stats.forgotten.Add(1)
		return h.begin()
	}
	h.eras, h.changed, h.resumed = recent(r.eras), slices.Clone(r.changed), true
	h.seq, h.start, h.frames, h.floor = r.seq, start, frames, h.state.MaxFrame
	h.tags = maps.Clone(r.tags)
	h.apply(frames[from:])
	// Are these the commits that the last server saw, or did others follow a copy
	// of the database? Their tags will tell, if somebody asks.
	for _, f := range frames[from:] {
		if f.count != 0 {
			h.tags[f.seq] = f.tag
		}
	}
	if len(h.tags) > tagsMax {
		h.eras, h.tags = []era{newEra(h.seq)}, map[uint64]tag{}
		h.resumed = false
	}
	h.settled = from == 0 && h.state.MaxFrame == 0
	count, err := h.pageCount(h.state)
	if err != nil {
		return err
	}
	if uint32(len(h.changed)) != count {
		h.cfg.stats.forgotten.Add(1)
		return h.begin()
	}
	return nil
}

// recognise tells how many frames of the WAL belong to the state that the record
// was made of; less than 0: the record is of no use.
func (h *history) recognise(r *record) (frames int, err error) {
	if w := r.wal; w != nil && w.frames > 0 && w.salt == h.state.Salt && w.frames <= h.state.MaxFrame {
		var b [wal.FrameHeaderSize]byte
		if _, err := h.conn.db.ReadAt(shim.WAL, b[:], wal.Size(w.frames-1)); err != nil {
			return 0, fmt.Errorf("read frame %d: %w", w.frames, err)
		}
		be := binary.BigEndian
		if [2]uint32{be.Uint32(b[8:]), be.Uint32(b[12:])} != w.salt {
			return 0, errReset
		}
		if [2]uint32{be.Uint32(b[16:]), be.Uint32(b[20:])} == w.checksum {
			return int(w.frames), nil
		}
	}
	if r.file != nil {
		now, err := lookAtFile(h.file)
		if err != nil {
			return 0, err
		}
		if now == *r.file {
			return 0, nil
		}
	}
	return -1, nil
}

// close moves the WAL into the file, if it can be had without waiting, and notes
// what the next one needs to go on.
func (h *history) close() error {
	// Not being able to checkpoint is no error: it costs clients some pages.
	if err := h.checkpoint(0, false); err != nil {
		h.cfg.Logger.Warn("checkpoint before close", "error", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return errors.Join(h.pins.close(), h.conn.close())
}

// errReset tells that the WAL started over while it was being read.
var errReset = errors.New("the WAL started over while it was being read")

// begin starts a new history at h.state.
func (h *history) begin() error {
	frames, commits, err := h.read(0, h.state, 0)
	if err != nil {
		return err
	}
	count, err := h.pageCount(h.state)
	if err != nil {
		return err
	}
	// The commits in the WAL have numbers, but no names: nobody can ask for them.
	h.eras, h.resumed, h.seq, h.start, h.floor = []era{newEra(commits)}, false, commits, 0, h.state.MaxFrame
	h.tags = map[uint64]tag{}
	h.unpin(nil)
	h.frames, h.changed = frames, slices.Repeat([]uint64{commits}, int(count))
	h.save()
	return nil
}

func newEra(first uint64) era {
	e := era{first: first}
	_, _ = rand.Read(e.name[:]) // never fails
	return e
}

// save writes the record of the present state. It need not succeed.
func (h *history) save() {
	r := &record{seq: h.seq, start: h.start, eras: recent(h.eras), tags: h.tags, changed: h.changed}
	if h.state.MaxFrame > 0 {
		r.wal = &walMark{salt: h.state.Salt, frames: h.state.MaxFrame, checksum: h.state.Checksum}
	}
	var err error
	if h.state.Backfill == h.state.MaxFrame {
		if r.file, err = markFile(h.file); err == nil {
			// Nobody wrote to the file if there was nothing to be written to it.
			now, e := h.conn.db.WALState()
			if err = e; now != h.state {
				r.file = nil
			}
		}
	}
	if err == nil && (r.wal != nil || r.file != nil) {
		err = r.write(h.file+historySuffix, !h.cfg.NoSync)
	}
	h.settled = err == nil && r.file != nil
	if err != nil {
		h.cfg.Logger.Error("write history", "error", err)
	}
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
		count := binary.BigEndian.Uint32(b[4:])
		frames = append(frames, frame{page.No(binary.BigEndian.Uint32(b[0:])), seq + commits + 1, count, tagOf(b[:])})
		if count != 0 {
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
	if old.Change+uint32(commits) != now.Change {
		h.cfg.stats.forgotten.Add(1)
		h.state = now
		if err := h.begin(); err != nil {
			h.state = old
			return err
		}
		h.announce()
		return nil
	}
	if commits > 0 {
		if err := fault.At("history.learn"); err != nil {
			return err
		}
	}
	if !same {
		if err := fault.At("history.restart"); err != nil {
			return err
		}
		if len(h.pins.list) > 0 && h.pins.complete < h.seq {
			h.unpin(errors.New("another program checkpointed the database"))
		}
		h.start, h.frames, h.floor = h.seq, nil, 0
	}
	h.state = now
	h.frames = append(h.frames, frames...)
	h.settled = h.settled && commits == 0
	if commits == 0 {
		return nil
	}
	newEraBegins := h.resumed
	if newEraBegins {
		h.eras = append(h.eras, newEra(h.seq+1))
		h.resumed = false
	}
	h.apply(frames)
	if newEraBegins {
		// Its name must be known to the next server before clients hear of it.
		h.save()
	}
	h.announce()
	return nil
}

// apply takes in frames behind those that were applied, whole commits of them.
func (h *history) apply(frames []frame) {
	for _, f := range frames {
		h.touch(f.no, f.seq)
		if f.count != 0 {
			h.seq = f.seq
			h.resize(f.count)
		}
	}
}

// touch notes the commit that changes a page.
func (h *history) touch(no page.No, seq uint64) {
	if no == 0 {
		return
	}
	for uint64(len(h.changed)) < uint64(no) {
		h.changed = append(h.changed, seq)
	}
	h.changed[no-1] = seq
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
	t, _ := h.tag(seq)
	return fmt.Sprintf("%s-%d-%x", h.era(seq), seq, uint32(t))
}

// era returns the era of a commit.
func (h *history) era(seq uint64) era {
	i := len(h.eras) - 1
	for i > 0 && h.eras[i].first > seq {
		i--
	}
	return h.eras[i]
}

// tag returns the tag of a commit, if it is known.
func (h *history) tag(seq uint64) (tag, bool) {
	if t, ok := h.tags[seq]; ok {
		return t, true
	}
	// The last frame of a commit is the one before the first of the next.
	i := sort.Search(len(h.frames), func(i int) bool { return h.frames[i].seq > seq })
	if i > 0 && h.frames[i-1].seq == seq && h.frames[i-1].count != 0 {
		return h.frames[i-1].tag, true
	}
	return 0, false
}

// parse finds the commit of a revision, if it is one of this history.
func (h *history) parse(revision string) (seq uint64, known bool) {
	name, rest, _ := strings.Cut(revision, "-")
	n, sum, _ := strings.Cut(rest, "-")
	seq, err := strconv.ParseUint(n, 10, 64)
	t, err2 := strconv.ParseUint(sum, 16, 32)
	if err != nil || err2 != nil || seq < h.eras[0].first || seq > h.seq {
		return 0, false
	}
	is, _, _ := strings.Cut(h.revision(seq), "-")
	if own, ok := h.tag(seq); name != is || ok && t != 0 && own != tag(t) {
		return 0, false
	}
	return seq, revision == fmt.Sprintf("%s-%d-%x", name, seq, t)
}

// wait returns when there is something newer than revision, at the latest when
// ctx ends. Commits of other programs are noticed with some delay.
func (h *history) wait(ctx context.Context, revision string) {
	poll := time.NewTicker(500 * time.Millisecond)
	defer poll.Stop()
	for {
		h.mu.Lock()
		err := h.refresh()
		news := h.news
		seq, known := h.parse(revision)
		newest := known && seq == h.seq
		h.mu.Unlock()
		if err != nil || !newest {
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

// refreshed is current after taking in what is new.
func (h *history) refreshed() (shim.WALState, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	err := h.refresh()
	return h.state, err
}

// current returns the state of the WAL.
func (h *history) current() (shim.WALState, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conn.db.WALState()
}
