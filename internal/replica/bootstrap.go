package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/syncer"
)

// bootstrap takes everything anew. With Config.ChunkPages it asks for the pages
// in portions, all as of the revision that the first answer named, and goes on where
// an earlier call, or process, stopped: d is what that left, or nil. reset tells
// that the remote was found to be another than before.
func (p *pull) bootstrap(ctx context.Context, d *delta, reset bool) (err error) {
	r := p.r
	if d != nil && (d.sealed || !d.whole || r.cfg.ChunkPages <= 0 || d.count == 0) {
		if err := d.drop(); err != nil {
			return err
		}
		d = nil
	}
	s := &sink{r: r, from: r.state().revision, d: d, whole: true, reset: reset}
	defer func() {
		if errors.Is(err, ErrBadAnswer) || errors.Is(err, ErrUnsupportedRemote) || errors.Is(err, ErrNotReplica) {
			s.giveUp()
		} else {
			s.keep()
		}
	}()
	s.done = p.progress(s)
	for {
		missing, err := p.chunk(ctx, s)
		if err == nil && s.d == nil || errors.Is(err, errIncomplete) {
			var whole *sink
			if whole, err = p.snapshot(ctx, s, err); whole != nil {
				s, missing = whole, false
			}
		}
		if err != nil {
			return err
		}
		if s.d == nil { // an empty database
			return p.emptied(ctx, s)
		}
		if err := s.d.flush(); err != nil {
			return err
		}
		if p.opts.Progress != nil {
			p.opts.Progress(uint64(len(s.d.order)), uint64(s.d.count))
		}
		if !missing {
			break
		}
	}
	sealed, err := s.finish()
	if err != nil {
		return err
	}
	return p.apply(ctx, sealed, false)
}

// progress returns what a sink does for each page.
func (p *pull) progress(s *sink) func() {
	return func() {
		if p.opts.Progress != nil && len(s.d.order)%progressPages == 0 {
			p.opts.Progress(uint64(len(s.d.order)), uint64(s.d.count))
		}
	}
}

// progressPages is how many pages come between two calls of Progress.
const progressPages = 64

// chunk asks for the next pages that are missing, or for all; missing tells
// whether there are more.
func (p *pull) chunk(ctx context.Context, s *sink) (missing bool, err error) {
	err = p.request(ctx, s)
	if s.pinned != "" && err != nil && s.here.Len() == 0 && ctx.Err() == nil {
		// The remote may have forgotten the revision; or it cannot be reached. A
		// request without one tells which.
		first := err
		if err = p.restart(ctx, s); err != nil {
			return false, first
		}
	}
	if err != nil {
		return false, err
	}
	if s.d == nil {
		return false, nil
	}
	missing, no := s.d.lacks(0)
	if missing && (p.r.cfg.ChunkPages <= 0 || s.asked.Has(no)) {
		return false, fmt.Errorf("%w: %w", badAnswer("page %v is missing", no), errIncomplete)
	}
	return missing, nil
}

// request sends one request: for the newest revision if nothing is there yet,
// otherwise for what is missing of the revision that was begun.
func (p *pull) request(ctx context.Context, s *sink) error {
	size := p.r.cfg.ChunkPages
	s.opened, s.header, s.pinned = false, syncer.PullHeader{}, ""
	s.here, s.asked = page.Set{}, page.Set{}
	var req syncer.PullRequest
	switch {
	case size <= 0:
	case s.d == nil:
		s.asked.AddRange(1, page.No(size))
		req.Pages = &s.asked
	default:
		if err := s.d.resume(); err != nil {
			return err
		}
		for no := page.No(1); uint32(no) <= s.d.count && s.asked.Len() < size; no++ {
			if no != lockPage && !s.d.pages.Has(no) {
				s.asked.Add(no)
			}
		}
		req.Pages, req.At = &s.asked, s.d.to
		s.pinned = s.d.to
	}
	if err := p.fetch(ctx, req, s); err != nil {
		return err
	}
	if !s.opened {
		return badAnswer("it has no header")
	}
	if s.d == nil && s.header.PageCount > 0 {
		return fmt.Errorf("%w: %w", badAnswer("none of %d pages came", s.header.PageCount), errIncomplete)
	}
	return nil
}

// restart begins the bootstrap anew, but lets go of what is there only when an
// answer has come.
func (p *pull) restart(ctx context.Context, s *sink) error {
	old := s.d
	next := &sink{r: s.r, from: s.from, whole: true, reset: s.reset, done: s.done}
	next.onCreate = old.close // its file is written over
	if err := p.request(ctx, next); err != nil {
		if next.d != nil {
			*s = *next
		}
		return err
	}
	*s = *next
	return nil
}

// keep leaves what came so far to the next call, if that can use it.
func (s *sink) keep() {
	if s.d == nil || s.ended {
		return
	}
	if s.r.cfg.ChunkPages <= 0 {
		s.giveUp()
		return
	}
	if err := s.d.flush(); err != nil {
		s.r.cfg.Logger.Debug("keep delta", keyError, err)
	}
	s.d.close()
}

// emptied deals with a remote that has nothing.
func (p *pull) emptied(ctx context.Context, s *sink) error {
	r, st := p.r, p.r.state()
	if st.basePages == 0 {
		p.report.RemoteReset = p.report.RemoteReset || s.reset
		return p.revisionOnly(ctx, s.header.Revision)
	}
	// Nothing where there was something: what is lost on the remote may be wanted
	// back, and base is the last copy of it.
	if err := r.backUpBase(); err != nil {
		return err
	}
	if err := s.create(); err != nil {
		return err
	}
	d, err := s.finish()
	if err != nil {
		return err
	}
	return p.apply(ctx, d, false)
}

// backUpBase keeps a copy of base, one of each state.
func (r *Replica) backUpBase() error {
	sum := r.state().baseSum
	if sum == r.keptBase {
		return nil
	}
	path, err := r.backUpAs(func(next string) error {
		from, err := fault.Open(r.files.base())
		if err != nil {
			return err
		}
		defer func() { _ = from.Close() }()
		to, err := fault.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(to, from)
		if err == nil {
			err = to.Sync()
		}
		return errors.Join(err, to.Close())
	})
	if err != nil {
		return fmt.Errorf("back up base: %w", err)
	}
	r.cfg.Logger.Warn("remote has lost what it held: kept a copy of that", keyPath, path)
	r.keptBase = sum
	return nil
}
