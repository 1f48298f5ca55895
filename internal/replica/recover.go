package replica

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/page"
)

// Keys of log records.
const (
	keyError   = "error"
	keyPath    = "path"
	keyPages   = "pages"
	keyChanges = "changes"
)

// recover finishes or forgets what a crash left behind in the side files. Live
// needs nothing: SQLite recovers it, and what the page commit did is there as a whole
// or not at all.
//
//	app.db-pull is        and live has      so
//	sealed                its id            base may be half written: do it again, drop it
//	sealed                another, fitting  keep it: the next Pull finishes it without the remote
//	unsealed, whole       the same start    keep it: the next Pull resumes the bootstrap
//	anything else                           drop it
func (r *Replica) recover() error {
	d, err := openDelta(r.files.pull())
	if err != nil {
		return err
	}
	st := r.state()
	if d != nil && d.sealed && d.ID() == st.lastPull {
		defer d.close()
		if err := r.finishBase(d); err != nil {
			// A full disk must not keep the application from its data: live is
			// whole. The next Pull tries again before it does anything else.
			r.cfg.Logger.Warn("base is not up to date after a crash", keyError, err)
		}
		return nil
	}
	if d != nil {
		d.close()
		if d.from != st.revision || !d.sealed && !d.whole {
			d = nil
		}
	}
	if d == nil {
		if err := fault.At("delta.forget"); err != nil {
			return err
		}
		if err := remove(r.files.pull()); err != nil {
			return err
		}
	}
	return removeDatabase(r.files.next())
}

// unfinished tells whether live is ahead of base: a pull was committed, and its
// pages are not all in base yet.
func (r *Replica) unfinished() bool {
	d, err := openDelta(r.files.pull())
	if err != nil || d == nil {
		return err != nil
	}
	defer d.close()
	return d.sealed && d.ID() == r.state().lastPull
}

// finishBase makes base what the committed state says it is, from the delta of
// the commit, and drops the delta.
func (r *Replica) finishBase(d *delta) error {
	st := r.state()
	if d.whole {
		if err := r.finishWhole(d, st); err != nil {
			return err
		}
	} else {
		b := &base{path: r.files.base()}
		err := b.write(d)
		if e := b.close(); err == nil {
			err = e
		}
		if err != nil {
			return err
		}
	}
	return d.drop()
}

// finishWhole puts a whole new base in place, which was assembled and durable
// before live was committed.
func (r *Replica) finishWhole(d *delta, st state) error {
	want := int64(d.count) * page.Size
	if n, err := sizeOf(r.files.next()); err != nil {
		return err
	} else if n == want && n > 0 {
		return installNext(r.files)
	}
	if n, err := sizeOf(r.files.base()); err != nil {
		return err
	} else if n == want {
		// Renamed before the crash, unless the old base happens to be as large.
		if same, err := r.baseIs(st); err != nil || same {
			return err
		}
	}
	if err := assemble(r.files.next(), d); err != nil {
		return err
	}
	return installNext(r.files)
}

// baseIs compares base's sum with that of the state.
func (r *Replica) baseIs(st state) (bool, error) {
	b, err := openBase(r.files.base(), st.basePages)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer b.close()
	info, err := fault.Stat(r.files.base())
	if st.basePages > 0 {
		if err != nil {
			return false, err
		}
		if info.Size() != int64(st.basePages)*page.Size {
			return false, nil
		}
	}
	sum, err := b.sum()
	if err != nil {
		return false, fmt.Errorf("check base: %w", err)
	}
	return sum == st.baseSum, nil
}
