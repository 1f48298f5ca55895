package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/shim"
	"github.com/tursosync/tursosync/internal/wire"
)

// pullBodyMax bounds a request for pages; the largest part is the selector, which
// for any database is far smaller.
const pullBodyMax = 16 << 20

// pull answers POST /pull-updates. An unknown revision of the client gets all
// pages, as an increment: the official client takes nothing else, and all pages
// are an increment to anything.
func (s *Server) pull(w http.ResponseWriter, r *http.Request) {
	body, ok := s.body(w, r, pullBodyMax)
	if !ok {
		return
	}
	req, err := wire.ParsePullRequest(body)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	if req.Stream != wire.StreamPages {
		fail(w, http.StatusBadRequest, "this database has pages only, no logical log")
		return
	}
	var selected *page.Set
	if len(req.Selector) > 0 {
		if selected, err = page.FromSelector(req.Selector); err != nil {
			fail(w, http.StatusBadRequest, err.Error())
			return
		}
	}
	if req.LongPollMillis > 0 && req.ClientRevision != "" && req.ServerRevision == "" {
		s.longPoll(r.Context(), req)
	}

	defer now(&s.cfg.stats.pullsNow)()
	defer taking(&s.cfg.stats.pullNanos)()
	if req.ServerRevision != "" {
		// An old image may lie in the file where a checkpoint would replace it.
		s.gate.RLock()
		defer s.gate.RUnlock()
	}
	ctx, done := r.Context(), func() {}
	if byQuery(req) {
		if ctx, done, ok = s.admit(w, r, nil); !ok {
			return
		}
	}
	snap, err := s.part(ctx, req, selected)
	done()
	bad := (*queryError)(nil)
	switch {
	case errors.As(err, &bad):
		fail(w, http.StatusBadRequest, err.Error())
		return
	case errors.Is(err, errGone):
		fail(w, http.StatusGone, err.Error())
		return
	case err != nil:
		s.cfg.Logger.Error("pull", "error", err)
		fail(w, http.StatusInternalServerError, "the database cannot be read")
		return
	}
	defer snap.close()
	s.cfg.stats.pulls.Add(1)
	s.cfg.stats.pagesSent.Add(int64(len(snap.pages)))
	if err := s.send(w, r, snap); err != nil {
		s.cfg.Logger.Debug("pull was cut off", "error", err)
		// What was sent looks whole to nobody: there is a length, or chunks.
		panic(http.ErrAbortHandler)
	}
}

// longPoll waits for a commit, within the limits of both sides.
func (s *Server) longPoll(ctx context.Context, req wire.PullRequest) {
	d := min(time.Duration(req.LongPollMillis)*time.Millisecond, s.cfg.LongPollMax)
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	defer now(&s.cfg.stats.longPollsNow)()
	s.cfg.stats.longPolls.Add(1)
	s.history.wait(ctx, req.ClientRevision)
}

// part is snapshot for requests. A client that begins with a part of the database
// will ask for others as of the same revision.
func (s *Server) part(ctx context.Context, req wire.PullRequest, selected *page.Set) (*snapshot, error) {
	if selected == nil && !byQuery(req) || req.ClientRevision != "" || req.ServerRevision != "" {
		return s.snapshot(ctx, req, selected)
	}
	s.gate.RLock() // a checkpoint would not know of the pin
	defer s.gate.RUnlock()
	snap, err := s.snapshot(ctx, req, selected)
	if err == nil {
		s.history.pin(snap.plan)
	}
	return snap, err
}

// snapshot is a plan together with a read transaction that keeps its pages.
type snapshot struct {
	*plan
	history *history
	conn    *conn
	readers *pool // where conn goes
	// pinned tells that images may lie where only the gate keeps them.
	pinned bool
}

// snapshot finds the pages of an answer and pins them.
//
// The plan is of exactly the state that the read transaction sees: no commit came
// between two looks at the WAL, one before the transaction and one after. That
// keeps all of its images. Either the transaction reads from the WAL: then that
// cannot start over, and checkpoints move frames into the file only up to those
// that the transaction sees. Or all of the WAL was in the file when it began: then
// SQLite may let the WAL start over, but moves nothing into the file, which is the
// state (https://sqlite.org/walformat.html#locks).
func (s *Server) snapshot(ctx context.Context, req wire.PullRequest, selected *page.Set) (*snapshot, error) {
	snap := &snapshot{history: s.history, readers: &s.readers, pinned: req.ServerRevision != ""}
	var err error
	for range 1000 {
		var before, after shim.WALState
		if before, err = s.history.refreshed(); err != nil {
			break
		}
		if snap.conn == nil {
			// Most often nothing is new, and no transaction needed to know that.
			var stale bool
			if snap.plan, stale, err = s.history.plan(req.ClientRevision, req.ServerRevision, selected, before); err != nil || !stale && len(snap.pages) == 0 {
				break
			}
			if snap.conn = s.readers.get(); snap.conn != nil {
				continue
			}
			if snap.conn, err = openConn(s.cfg); err != nil {
				break
			}
			continue
		}
		for _, sql := range []string{"BEGIN", "SELECT count(*) FROM sqlite_schema"} {
			if err == nil {
				_, err = snap.conn.one(sql)
			}
		}
		if err == nil {
			after, err = s.history.current()
		}
		if err != nil {
			break
		}
		if before == after && byQuery(req) {
			if selected, err = s.history.touched(ctx, snap.conn, req.QuerySelector, after); err != nil {
				break
			}
		}
		if before == after && (selected != nil || !byQuery(req)) {
			var stale bool
			if snap.plan, stale, err = s.history.plan(req.ClientRevision, req.ServerRevision, selected, after); err != nil || !stale {
				break
			}
		}
		snap.plan = nil
		if _, err = snap.conn.one("ROLLBACK"); err != nil {
			break
		}
	}
	if err == nil && snap.plan == nil {
		err = errors.New("the database changes too fast to be read")
	}
	if err != nil {
		if snap.conn != nil {
			_ = snap.conn.close()
		}
		return nil, err
	}
	return snap, nil
}

func (snap *snapshot) close() {
	if snap.conn == nil {
		return
	}
	if _, err := snap.conn.one("ROLLBACK"); err != nil || snap.conn.spoiled || snap.conn.permission != nil {
		_ = snap.conn.close()
		return
	}
	snap.readers.put(snap.conn)
}

func (snap *snapshot) read(p place, b []byte) error {
	if p.kept != 0 {
		return snap.history.kept(p.kept, b)
	}
	file, off := p.where()
	err := snap.conn.readPage(file, off, b)
	snap.conn.blame(err)
	return err
}

// send writes the answer.
func (s *Server) send(w http.ResponseWriter, r *http.Request, snap *snapshot) error {
	h := wire.PullHeader{Revision: snap.revision, PageCount: uint64(snap.pageCount), Raw: true, Protocol: wire.ProtocolPages}
	head := wire.AppendFrame(nil, h.Append(nil))
	w.Header().Set("Content-Type", wire.ProtobufMedia)

	ctl := http.NewResponseController(w)
	extend := func() { _ = ctl.SetWriteDeadline(time.Now().Add(s.cfg.Timeout)) }
	extend()

	var out io.Writer = w
	finish := func() error { return nil }
	var z *zipper
	if len(snap.pages) > 0 && acceptsGzip(r) {
		z = borrowZipper(w)
	}
	if z != nil {
		defer giveBack(z)
		w.Header().Set("Content-Encoding", "gzip")
		out, finish = z, z.Close
	} else {
		w.Header().Set("Content-Length", strconv.Itoa(snap.length(len(head))))
	}
	buf := bufio.NewWriterSize(out, 64<<10)
	if _, err := buf.Write(head); err != nil {
		return err
	}
	image := make([]byte, page.Size)
	var b []byte
	for i, p := range snap.pages {
		if err := snap.read(p, image); err != nil {
			return fmt.Errorf("read page %v: %w", p.no, err)
		}
		b = wire.AppendPageFrame(b[:0], uint64(p.no.Wire()), image)
		if i == len(snap.pages)-1 {
			// Only the last page makes the answer whole.
			if err := s.verify(snap); err != nil {
				return err
			}
		}
		if _, err := buf.Write(b); err != nil {
			return err
		}
		if i%256 == 0 {
			extend()
		}
	}
	err := buf.Flush()
	if err == nil {
		err = finish()
	}
	if err == nil {
		// After an error the deadline stays: net/http flushes once more.
		err = ctl.Flush()
		_ = ctl.SetWriteDeadline(time.Time{})
	}
	if errors.Is(err, http.ErrNotSupported) {
		err = nil
	}
	return err
}

// verify tells whether the images that were read can be relied on: those of an
// old revision may have been moved under our eyes by another program.
func (s *Server) verify(snap *snapshot) error {
	if !snap.pinned {
		return nil
	}
	now, err := s.history.current()
	if err != nil {
		return err
	}
	if now.Salt != snap.state.Salt || now.Backfill != snap.state.Backfill {
		return errors.New("another program checkpointed the database meanwhile")
	}
	return nil
}

// length is the number of bytes of an answer.
func (snap *snapshot) length(head int) int {
	n := head
	for _, p := range snap.pages {
		m := protowire.SizeTag(2) + protowire.SizeBytes(page.Size)
		if id := uint64(p.no.Wire()); id != 0 {
			m += protowire.SizeTag(1) + protowire.SizeVarint(id)
		}
		n += protowire.SizeBytes(m)
	}
	return n
}

func acceptsGzip(r *http.Request) bool {
	for _, e := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(e), ";")
		if strings.EqualFold(name, "gzip") && strings.TrimSpace(q) != "q=0" {
			return true
		}
	}
	return false
}

// body reads the body of a request, or answers that it is too large.
func (s *Server) body(w http.ResponseWriter, r *http.Request, most int64) ([]byte, bool) {
	ctl := http.NewResponseController(w)
	_ = ctl.SetReadDeadline(time.Now().Add(s.cfg.Timeout)) // for those who send a byte now and then
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err == nil {
		_ = ctl.SetReadDeadline(time.Time{})
	} else {
		w.Header().Set("Connection", "close") // the rest of the body is not waited for
	}
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		fail(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the request is longer than %d bytes", most))
		return nil, false
	} else if err != nil {
		fail(w, http.StatusBadRequest, "the request was cut off")
		return nil, false
	}
	return b, true
}
