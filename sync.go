package tursosync

import (
	"context"
	"errors"
	"net/http"

	"github.com/tursosync/tursosync/internal/remote"
	"github.com/tursosync/tursosync/internal/replica"
	"github.com/tursosync/tursosync/syncer"
)

// scheduler bounds the work of all replicas of the process.
var scheduler = syncer.NewScheduler(0)

// syncState is what the syncer of an engine consists of.
type syncState struct {
	loop *syncer.Loop
}

// startSync starts the loop of an engine whose store is open. Without a url it
// only checkpoints, until a remote is set.
func startSync(e *engine) error {
	var r syncer.Remote // stays nil without a url
	if e.cfg.URL != "" {
		made, err := e.cfg.newRemote()
		if err != nil {
			return err
		}
		r = made
	}
	e.sync.loop = scheduler.Start(e.replica, r, e.cfg.syncerConfig())
	committed := e.sync.loop.Committed
	e.committed.Store(&committed)
	return nil
}

// stopSync pushes what is pending, within a bound, and ends what startSync
// started. The store is still open.
func stopSync(e *engine) error {
	if e.sync.loop == nil {
		return nil
	}
	return e.sync.loop.Close(context.Background())
}

func (c Config) newRemote() (*remote.Remote, error) {
	rc := remote.Config{URL: c.URL, Token: c.tokenSource(), Logger: c.Logger}
	if h := c.HTTPClient; h != nil {
		rc.Transport, rc.Timeout = h.Transport, h.Timeout
		if rc.Transport == nil {
			rc.Transport = http.DefaultTransport
		}
	}
	return remote.New(rc)
}

func (c Config) syncerConfig() syncer.Config {
	s := syncer.Config{
		PushDelay: c.PushDelay, // Off is negative: not at all
		Transform: c.Transform,
		Judge:     judge,
		Logger:    c.Logger,
	}
	if c.Sync == SyncPull || c.Sync == SyncManual {
		s.Push = syncer.PushManual
	}
	switch {
	case c.Sync == SyncPush || c.Sync == SyncManual:
		s.Pull = syncer.PullManual
	case c.LongPoll > 0:
		s.Pull, s.LongPoll = syncer.PullLongPoll, c.LongPoll
	}
	s.PullInterval = max(c.SyncInterval, 0) // Off: there is a long poll, the default stands in for it
	if c.OnReject == RejectHalt {
		s.Policy = syncer.HaltOnRefusal
	}
	return s
}

// judge reads the errors of the remote, and those of the replica that do not pass
// by themselves.
func judge(err error) syncer.Verdict {
	switch {
	case errors.Is(err, replica.ErrNotReplica), errors.Is(err, replica.ErrUnsupportedRemote), errors.Is(err, ErrVirtualTable):
		return syncer.Verdict{Kind: syncer.Disagreement, Reason: err.Error(), Answered: true}
	}
	return remote.Judge(err)
}
