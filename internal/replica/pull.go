package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/syncer"
)

// Pull brings base to the remote's newest revision and rebases what is pending.
// What a crash or a broken connection left unfinished is finished first; a pull
// that was downloaded as a whole needs no network for that.
//
// Errors, beside those of fetch: ErrBadAnswer, ErrUnsupportedRemote,
// ErrNotReplica, *syncer.ReplayError. After an error live is what it was.
func (r *Replica) Pull(ctx context.Context, fetch syncer.Fetch, opts syncer.PullOptions) (syncer.PullReport, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return syncer.PullReport{}, ErrClosed
	}
	p := &pull{r: r, fetch: fetch, opts: opts, report: r.unreported}
	err := p.run(ctx)
	p.report.Adopted = p.report.Adopted || r.unreported.Adopted // by endAdoption
	if err != nil {
		// What was finished before the error has happened; the next report tells.
		r.unreported = p.report
		return syncer.PullReport{}, err
	}
	r.unreported = syncer.PullReport{}
	p.report.Revision = r.state().revision
	return p.report, nil
}

// add makes one report of two, the second being the later.
func (p *pull) add(later syncer.PullReport) {
	r := &p.report
	r.Changed = r.Changed || later.Changed
	r.Pages += later.Pages
	r.Tables = append(slices.Clone(r.Tables), later.Tables...)
	slices.Sort(r.Tables)
	r.Tables = slices.Compact(r.Tables)
	r.Replayed = later.Replayed
	r.Collisions = append(r.Collisions, later.Collisions...)
	r.Rejected = append(r.Rejected, later.Rejected...)
	r.RemoteReset = r.RemoteReset || later.RemoteReset
	r.WantWatermark = r.WantWatermark || later.WantWatermark
}

// pull is one call of Pull.
type pull struct {
	r      *Replica
	fetch  syncer.Fetch
	opts   syncer.PullOptions
	report syncer.PullReport
}

func (p *pull) run(ctx context.Context) error {
	r := p.r
	if err := r.finishCommitted(); err != nil {
		return err
	}
	usable, err := r.baseUsable()
	if err != nil {
		return err
	}
	if usable && r.state().adopt == "" {
		if err := r.absorb(ctx); err != nil {
			return err
		}
	}
	if !usable {
		if err := r.loseBase(ctx); err != nil {
			return err
		}
	}
	d, err := openDelta(r.files.pull())
	if err != nil {
		return err
	}
	if st := r.state(); d != nil && d.sealed && d.from == st.revision && (d.whole || st.basePages > 0 && !st.bootstrap) {
		var replay *syncer.ReplayError
		if err := p.apply(ctx, d, true); errors.As(err, &replay) || errors.Is(err, errOutdated) {
			// An earlier call met the same; the remote may have been put right since. Or a
			// push since is what does not fit the answer: it would be put aside, though
			// the remote has taken it.
			if err := remove(r.files.pull()); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		// Base may not have followed live: what it takes is in the file that the
		// next answer is written to.
		if err := r.finishCommitted(); err != nil {
			return err
		}
		d = nil
	}
	if st := r.state(); st.bootstrap || st.revision == "" {
		return p.bootstrap(ctx, d, false)
	}
	if d != nil {
		if err := d.drop(); err != nil {
			return err
		}
	}
	return p.increment(ctx)
}

// finishCommitted brings base to where live is, if a crash or a full disk kept
// that from happening.
func (r *Replica) finishCommitted() error {
	d, err := openDelta(r.files.pull())
	if err != nil || d == nil {
		return err
	}
	if !d.sealed || d.ID() != r.state().lastPull {
		d.close()
		return nil
	}
	if err := r.finishBase(d); err != nil {
		d.close()
		return fmt.Errorf("bring base up to date: %w", err)
	}
	return nil
}

// baseUsable tells whether base is what the state says.
func (r *Replica) baseUsable() (bool, error) {
	st := r.state()
	if st.basePages == 0 {
		return true, nil
	}
	info, err := fault.Stat(r.files.base())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Size() != int64(st.basePages)*page.Size {
		return false, nil
	}
	if r.checkBase {
		same, err := r.baseIs(st)
		if err != nil || !same {
			return false, err
		}
		r.checkBase = false
	}
	return true, nil
}

// loseBase gives up a base that is missing or not what it was. The log still
// holds whatever is not on the remote; the rest is taken anew.
func (r *Replica) loseBase(ctx context.Context) error {
	r.cfg.Logger.Warn("base is damaged or missing: everything is taken anew", keyPath, r.files.base())
	err := r.update(ctx, func(s *state) error {
		s.bootstrap, s.basePages, s.baseSum = true, 0, 0
		return nil
	})
	if err != nil {
		return err
	}
	r.dirty.known, r.checkBase = false, false
	return remove(r.files.base())
}

// increment asks for what changed since base's revision.
func (p *pull) increment(ctx context.Context) error {
	r, st := p.r, p.r.state()
	if p.opts.Doubt && st.basePages > 0 {
		if same, err := p.sameRemote(ctx); err != nil {
			return err
		} else if !same {
			return p.bootstrap(ctx, nil, true)
		}
	}
	s := &sink{r: r, from: st.revision, have: st.basePages}
	defer s.giveUp()
	err := p.fetch(ctx, syncer.PullRequest{Have: st.revision, LongPoll: p.opts.LongPoll}, s)
	if err != nil {
		return err
	}
	if !s.opened {
		return badAnswer("it has no header")
	}
	if s.d == nil {
		return p.nothing(ctx, s)
	}
	d, err := s.finish()
	if err != nil {
		return err
	}
	return p.apply(ctx, d, false)
}

// nothing deals with an answer without pages.
func (p *pull) nothing(ctx context.Context, s *sink) error {
	st, h := p.r.state(), s.header
	switch {
	case h.ReplaceBase && h.PageCount > 0 || st.basePages == 0 && h.PageCount > 0:
		return badAnswer("none of %d pages came", h.PageCount)
	case h.Revision == st.revision && !h.ReplaceBase:
		return nil
	case st.basePages == 0:
	case h.PageCount == 0 && ofSnapshot(st.revision):
		return p.sinceSnapshot(ctx)
	case h.ReplaceBase, h.PageCount != uint64(st.basePages):
		// Another revision, no page, another size: not the remote that we know.
		return p.bootstrap(ctx, nil, true)
	default:
		return p.otherRevision(ctx, h.Revision)
	}
	return p.revisionOnly(ctx, h.Revision)
}

// revisionOnly stores the revision of an answer that brought nothing else.
func (p *pull) revisionOnly(ctx context.Context, revision page.Revision) error {
	r := p.r
	if r.state().adopt != "" {
		if err := r.adoptUpload(ctx); err != nil { // the remote is empty
			return err
		}
	}
	return r.update(ctx, func(s *state) error {
		s.revision, s.bootstrap = revision, false
		return nil
	})
}

// attemptsMax bounds how often a rebase is begun anew because another program
// keeps writing to live. From attemptsAlone on it has to wait while we work.
const (
	attemptsMax   = 10
	attemptsAlone = 4
)

// apply makes a sealed delta the new base under live. leftOver tells that it was
// fetched by an earlier call.
func (p *pull) apply(ctx context.Context, d *delta, leftOver bool) (err error) {
	r := p.r
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	d.sync() // one that a crash left behind may not be on disk
	if err := p.adopt(ctx, d); err != nil {
		if errors.Is(err, ErrNotReplica) {
			err = errors.Join(err, d.drop())
		}
		return err
	}
	for attempt := 1; ; attempt++ {
		report := syncer.PullReport{}
		b := &rebase{r: r, delta: d, halt: true, leftOver: leftOver, alone: attempt >= attemptsAlone, report: &report}
		err := b.run(ctx)
		switch {
		case err == nil:
			p.add(report)
			return p.afterwards(ctx)
		case errors.Is(err, errForeign) && attempt < attemptsMax:
			if err := r.settleForeign(ctx); err != nil {
				return err
			}
		case errors.Is(err, errLineage):
			if err := d.drop(); err != nil {
				return err
			}
			return p.bootstrap(ctx, nil, true)
		case errors.Is(err, ErrBadAnswer):
			return errors.Join(err, d.drop(), r.doubtBase(ctx, d))
		default:
			return err
		}
	}
}

// doubtBase is called when an increment fits base badly: if the answer is not at
// fault, base is. The next pull takes everything anew.
func (r *Replica) doubtBase(ctx context.Context, d *delta) error {
	if d.whole {
		return nil
	}
	return r.update(ctx, func(s *state) error {
		s.bootstrap = true
		return nil
	})
}

// ignoreForeign gives up looking for foreign rows where there is nothing to
// compare live with.
func (r *Replica) ignoreForeign() {
	if ws, err := r.live.db.WALState(); err == nil {
		r.log.Expect(ws.Change)
	}
	r.log.ClearForeign()
	r.compare = false
}

// afterwards keeps the WAL from growing with every pull.
func (p *pull) afterwards(ctx context.Context) error {
	r := p.r
	n, err := sizeOf(r.files.live + "-wal")
	if err != nil || r.cfg.CheckpointBytes < 0 || n < r.cfg.CheckpointBytes {
		return nil
	}
	if err := r.checkpoint(ctx); err != nil {
		r.cfg.Logger.Info("checkpoint after a pull", keyError, err) // the next one will do
	}
	return nil
}

// adopt decides what becomes of a file that was no replica, now that there are
// pages of the remote.
func (p *pull) adopt(ctx context.Context, d *delta) error {
	r := p.r
	if r.state().adopt == "" {
		return nil
	}
	switch r.cfg.Existing {
	case ExistingUpload:
		return r.adoptUpload(ctx)
	case ExistingDownload:
		r.ignoreForeign()
		return r.backUp()
	}
	if d.count <= emptyPages {
		empty, err := r.holdsNothing(d)
		if err != nil {
			return err
		}
		if empty {
			return r.adoptUpload(ctx)
		}
	}
	return &FileError{Path: r.files.live, Err: ErrNotReplica}
}

// emptyPages is more pages than a database without tables has.
const emptyPages = 64

// holdsNothing tells whether a remote has no tables of a user's.
func (r *Replica) holdsNothing(d *delta) (bool, error) {
	if d.count == 0 {
		return true, nil
	}
	if err := assemble(r.files.next(), d); err != nil {
		return false, err
	}
	c, err := openConn(r.files.next(), "mode=ro&immutable=1")
	if err != nil {
		return false, err
	}
	defer c.Close()
	n, err := userObjects(c)
	return n == 0, err
}
