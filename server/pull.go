package server

import (
	"bufio"
	"compress/gzip"
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
	"github.com/tursosync/tursosync/internal/wal"
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

	s.gate.RLock()
	defer s.gate.RUnlock()
	snap, err := s.snapshot(req, selected)
	switch {
	case errors.Is(err, errGone):
		fail(w, http.StatusGone, err.Error())
		return
	case err != nil:
		s.cfg.Logger.Error("pull", "error", err)
		fail(w, http.StatusInternalServerError, "the database cannot be read")
		return
	}
	defer snap.close()
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
	s.history.wait(ctx, req.ClientRevision)
}

// snapshot is a plan together with a read transaction that keeps its pages.
type snapshot struct {
	*plan
	conn *conn
	// inFile tells that all of the plan's state is in the file. Then the WAL may
	// start over while we read, but the file stays.
	inFile bool
}

// snapshot finds the pages of an answer and pins them.
//
// The read transaction begins after the plan was made, so it may see later
// commits; the plan's pages are there all the same. Either the transaction reads
// from the WAL: then that cannot start over, and its frames stay. Or all of the
// WAL was in the file when it began: then SQLite lets the WAL start over, but not
// flow into the file, and the file is the plan's state provided that no commit
// came in between (https://sqlite.org/walformat.html#locks).
func (s *Server) snapshot(req wire.PullRequest, selected *page.Set) (*snapshot, error) {
	for range 100 {
		p, err := s.history.plan(req.ClientRevision, req.ServerRevision, selected)
		if err != nil {
			return nil, err
		}
		if len(p.pages) == 0 {
			return &snapshot{plan: p}, nil
		}
		c, err := openConn(s.cfg)
		if err != nil {
			return nil, err
		}
		snap := &snapshot{plan: p, conn: c}
		ok, err := s.pin(snap)
		if err == nil && ok {
			return snap, nil
		}
		snap.close()
		if err != nil {
			return nil, err
		}
	}
	return nil, errors.New("the database changes too fast to be read")
}

// pin begins the transaction and tells whether it keeps the plan's pages.
func (s *Server) pin(snap *snapshot) (bool, error) {
	for _, sql := range []string{"BEGIN", "SELECT count(*) FROM sqlite_schema"} {
		if _, err := snap.conn.one(sql); err != nil {
			return false, err
		}
	}
	now, err := s.history.current()
	if err != nil {
		return false, err
	}
	planned := snap.state
	if now.Salt != planned.Salt || now.MaxFrame < planned.MaxFrame {
		return false, nil
	}
	if now.Backfill < planned.MaxFrame {
		return now.Backfill == planned.Backfill, nil
	}
	if now.MaxFrame != planned.MaxFrame {
		return false, nil
	}
	snap.inFile = true
	for _, p := range snap.pages {
		if p.old {
			return false, errGone
		}
	}
	return true, nil
}

func (snap *snapshot) close() {
	if snap.conn != nil {
		_ = snap.conn.close() // ends the transaction
	}
}

func (snap *snapshot) read(p place, b []byte) error {
	if p.frame == 0 || snap.inFile {
		return snap.conn.readPage(shim.Main, p.no.Offset(), b)
	}
	return snap.conn.readPage(shim.WAL, wal.Size(p.frame-1)+wal.FrameHeaderSize, b)
}

// send writes the answer.
func (s *Server) send(w http.ResponseWriter, r *http.Request, snap *snapshot) error {
	h := wire.PullHeader{Revision: snap.revision, PageCount: uint64(snap.pageCount), Raw: true, Protocol: wire.ProtocolPages}
	head := wire.AppendFrame(nil, h.Append(nil))
	w.Header().Set("Content-Type", wire.ProtobufMedia)

	ctl := http.NewResponseController(w)
	extend := func() { _ = ctl.SetWriteDeadline(time.Now().Add(s.cfg.Timeout)) }
	extend()
	defer func() { _ = ctl.SetWriteDeadline(time.Time{}) }()

	var out io.Writer = w
	finish := func() error { return nil }
	if len(snap.pages) > 0 && acceptsGzip(r) {
		w.Header().Set("Content-Encoding", "gzip")
		z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
		if err != nil {
			return err
		}
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
	if err := buf.Flush(); err != nil {
		return err
	}
	return finish()
}

// verify tells whether the pages that were read can be relied on: no other
// program may have moved frames into the file under our eyes.
func (s *Server) verify(snap *snapshot) error {
	if snap.inFile {
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
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		fail(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the request is longer than %d bytes", most))
		return nil, false
	} else if err != nil {
		fail(w, http.StatusBadRequest, "the request was cut off")
		return nil, false
	}
	return b, true
}
