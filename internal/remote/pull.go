package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"time"

	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/wire"
	"github.com/tursosync/tursosync/syncer"
)

// Bounds of the messages of a pull. The header is small but for the dictionary
// of an encoding that is refused anyway.
const (
	headerMax = 1 << 20
	pageMax   = page.Size + 1<<10
	// pageCountMax is the largest database of SQLite, in pages.
	pageCountMax = 1<<32 - 2
)

// Fetch asks /pull-updates once and streams the answer into sink. It returns nil
// only when the answer was complete. An error of sink ends the fetch and is
// returned as it is; every other error is an [*Error].
func (r *Remote) Fetch(ctx context.Context, req syncer.PullRequest, sink syncer.PullSink) error {
	body, err := pullBody(req)
	if err != nil {
		return &Error{Op: "pull", Kind: Disagreement, Outcome: NeverSent, Mutation: -1, Err: err}
	}
	c := call{op: "pull", path: wire.PullPath, media: wire.ProtobufMedia, body: body}
	if req.LongPoll > 0 {
		c.wait = req.LongPoll + r.cfg.Margin
	}
	a, err := r.do(ctx, c)
	if err != nil {
		return noSnapshot(req, err)
	}
	defer a.close()
	s := pullStream{frames: wire.NewFrameReader(a), answer: a, sink: sink, pinned: req.At != "", snapshot: req.Snapshot}
	return noSnapshot(req, s.run())
}

// noSnapshot reads the refusal of a snapshot: the remote does not know the kind of
// stream, or has none but logical logs in it.
func noSnapshot(req syncer.PullRequest, err error) error {
	var e *Error
	if !req.Snapshot || !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Kind == Unsupported,
		e.Status >= 400 && e.Status < 500 && e.Kind != Auth && e.Status != http.StatusRequestTimeout && e.Status != http.StatusTooManyRequests,
		e.Status == http.StatusInternalServerError, e.Status == http.StatusNotImplemented:
		return fmt.Errorf("%w: %w", syncer.ErrNoSnapshot, err)
	}
	return err
}

func pullBody(req syncer.PullRequest) ([]byte, error) {
	w := wire.PullRequest{ServerRevision: string(req.At), ClientRevision: string(req.Have)}
	if req.Snapshot {
		// The answer to a client of logical logs when there is no log: all pages
		// (PROTOCOL.md §2.8).
		w.Stream = wire.StreamMVCC
	}
	if req.Pages != nil {
		var err error
		if w.Selector, err = req.Pages.Selector(); err != nil {
			return nil, err
		}
	}
	if req.LongPoll > 0 {
		w.LongPollMillis = uint32(min((req.LongPoll+time.Millisecond-1)/time.Millisecond, math.MaxUint32))
	}
	return w.Append(nil), nil
}

// pullStream checks an answer on its way into a sink.
type pullStream struct {
	frames *wire.FrameReader
	answer *answer
	sink   syncer.PullSink
	// pinned answers are of an older revision than their page count (PROTOCOL.md
	// §2.5), so that pages behind the end are in order.
	pinned   bool
	snapshot bool // of a database that was found to be one of pages
	header   wire.PullHeader
	seen     page.Set
}

// errSink keeps errors of the sink apart from those of the remote.
type errSink struct{ error }

func (s *pullStream) run() error {
	if err := s.head(); err != nil {
		return s.explain(err)
	}
	for {
		if err := s.page(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return s.explain(err)
		}
	}
}

// explain turns an error of reading or of the sink into what Fetch returns.
func (s *pullStream) explain(err error) error {
	if own := (errSink{}); errors.As(err, &own) {
		return own.error
	}
	if e := (*Error)(nil); errors.As(err, &e) {
		return e
	}
	return s.answer.fault(err)
}

func (s *pullStream) head() error {
	m, err := s.frames.Next(headerMax)
	if errors.Is(err, io.EOF) {
		return strange("pull", "it is empty")
	} else if err != nil {
		return fmt.Errorf("read header: %w", err)
	}
	if s.header, err = wire.ParsePullHeader(m); err != nil {
		return strange("pull", "%v", err)
	}
	h := s.header
	logical := s.snapshot && h.Stream == wire.StreamMVCC && !h.MVCCLog // nothing new
	switch {
	case logical, s.snapshot && h.Stream == wire.StreamPages && h.Mode == wire.ReplaceBase && h.Zstd == nil && !h.MVCCLog:
	case h.Protocol == wire.ProtocolMVCC || h.Stream == wire.StreamMVCC || h.MVCCLog:
		return unsupported("the database is of the MVCC kind, which speaks another protocol;" +
			" create it without --tursodb to sync it")
	case h.Stream != wire.StreamPages:
		return unsupported(fmt.Sprintf("the answer is a stream of unknown kind %d", h.Stream))
	case h.Mode != wire.Incremental && h.Mode != wire.ReplaceBase:
		return unsupported(fmt.Sprintf("the answer is to be applied in the unknown mode %d", h.Mode))
	case h.Zstd != nil:
		return unsupported("the pages are zstd-encoded, which was not asked for")
	case h.PageCount > pageCountMax:
		return strange("pull", "a database of %d pages", h.PageCount)
	}
	if err := s.sink.Header(syncer.PullHeader{
		Revision:    page.Revision(h.Revision),
		PageCount:   h.PageCount,
		ReplaceBase: h.Mode == wire.ReplaceBase,
	}); err != nil {
		return errSink{err}
	}
	return nil
}

func (s *pullStream) page() error {
	m, err := s.frames.Next(pageMax)
	if err != nil {
		return err // io.EOF is the end
	}
	if s.header.Stream != wire.StreamPages {
		return unsupported("a logical log came in place of pages")
	}
	if !s.header.Raw {
		return strange("pull", "pages follow, but the header names no encoding")
	}
	p, err := wire.ParsePageData(m)
	if err != nil {
		return strange("pull", "%v", err)
	}
	no, err := page.FromWire(p.ID)
	switch {
	case err != nil:
		return strange("pull", "%v", err)
	case uint64(no) > s.header.PageCount && !s.pinned:
		return strange("pull", "page %d of a database of %d pages", no, s.header.PageCount)
	case len(p.Image) != page.Size:
		return unsupported(fmt.Sprintf("page %d has %d bytes; only databases with pages of %d bytes can be synced",
			no, len(p.Image), page.Size))
	case s.seen.Has(no):
		// It also bounds the answer: there are only so many pages.
		return strange("pull", "page %d comes twice", no)
	}
	s.seen.Add(no)
	if no == 1 {
		if err := checkFirst(p.Image); err != nil {
			return err
		}
	}
	if err := s.sink.Page(no, p.Image); err != nil {
		return errSink{err}
	}
	return nil
}

// checkFirst refuses a first page that SQLite could not read
// (https://sqlite.org/fileformat2.html#the_database_header).
func checkFirst(b []byte) error {
	switch {
	case !bytes.HasPrefix(b, []byte("SQLite format 3\x00")):
		return strange("pull", "page 1 is not that of a SQLite database; is it encrypted?")
	case b[18] == 0xff || b[19] == 0xff:
		return unsupported("the database is of the MVCC kind, which speaks another protocol")
	case b[16] != page.Size>>8 || b[17] != 0:
		return unsupported("the database's pages are not of 4096 bytes")
	case b[20] != 0:
		return unsupported(fmt.Sprintf("the database reserves %d bytes of each page, as encrypted ones do", b[20]))
	}
	return nil
}

func unsupported(message string) *Error {
	return &Error{Op: "pull", Kind: Unsupported, Outcome: Answered, Status: 200, Mutation: -1, Message: message}
}
