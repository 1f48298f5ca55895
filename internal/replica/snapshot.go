package replica

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/syncer"
)

// tursodb has only those pages to give that are in its WAL (PROTOCOL.md §9.1). Of a
// database that it was started on, or that somebody checkpointed, it gives none or
// some, and calls that the whole. What it takes for a snapshot is complete.

// errIncomplete: a bootstrap's answer lacks pages that it should have.
var errIncomplete = errors.New("the answer is not the whole database")

// snapshot asks once for the whole database, after an answer (s) that was empty, or
// incomplete: was. It returns nil and was if that is all there is to have.
func (p *pull) snapshot(ctx context.Context, s *sink, was error) (*sink, error) {
	whole := &sink{r: s.r, from: s.from, whole: true, reset: s.reset}
	whole.done = p.progress(whole)
	if s.d != nil {
		whole.onCreate = s.d.close // its file is written over
	}
	err := p.fetch(ctx, syncer.PullRequest{Snapshot: true}, whole)
	switch {
	case errors.Is(err, syncer.ErrNoSnapshot):
	case err != nil:
		whole.giveUp()
		return nil, err
	case whole.d != nil && whole.header.ReplaceBase:
		if missing, _ := whole.d.lacks(0); !missing {
			return whole, nil
		}
	}
	if whole.d != nil {
		s.d = whole.d // whatever it is: s will drop it
		if was == nil {
			was = badAnswer("a snapshot was asked for and something else came")
		}
	}
	return nil, was
}

// sinceSnapshot asks whether anything has happened since the snapshot that base
// is. As long as nothing has, there is no history that could tell.
func (p *pull) sinceSnapshot(ctx context.Context) error {
	r, st := p.r, p.r.state()
	s := &sink{r: r, from: st.revision, whole: true}
	defer s.giveUp()
	err := p.fetch(ctx, syncer.PullRequest{Snapshot: true, Have: st.revision}, s)
	switch {
	case errors.Is(err, syncer.ErrNoSnapshot):
		return p.bootstrap(ctx, nil, true)
	case err != nil:
		return err
	case s.d == nil && s.header.Revision == st.revision:
		return nil
	case s.d == nil:
		return p.bootstrap(ctx, nil, true)
	}
	d, err := s.finish()
	if err != nil {
		return err
	}
	return p.apply(ctx, d, false)
}

// ofSnapshot tells whether a revision is what tursodb calls a snapshot.
func ofSnapshot(revision page.Revision) bool { return strings.HasPrefix(string(revision), "page:") }

// wentDown tells whether a revision without news is of an earlier time than
// base. Revisions are opaque, but tursodb's are numbers that only fall when its WAL
// was begun anew; it then leaves out what happened in between.
func wentDown(was, is page.Revision) bool {
	before, err := strconv.ParseUint(string(was), 10, 64)
	if err != nil {
		return false
	}
	after, err := strconv.ParseUint(string(is), 10, 64)
	return err == nil && after < before
}
