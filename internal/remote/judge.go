package remote

import (
	"errors"

	"github.com/tursosync/tursosync/syncer"
)

// Judge reads an error for the syncer; it is a syncer.Config's Judge. Errors
// that are not the remote's may pass, so they are retried.
func Judge(err error) syncer.Verdict {
	var e *Error
	if !errors.As(err, &e) {
		return syncer.Verdict{Kind: syncer.Retry, Reason: err.Error()}
	}
	v := syncer.Verdict{Reason: e.Message, RetryAfter: e.RetryAfter, Change: e.Change, Answered: e.Status != 0}
	if v.Reason == "" {
		v.Reason = e.Error()
	}
	switch e.Kind {
	case Auth:
		v.Kind = syncer.Unauthorized
	case Denied:
		v.Kind = syncer.NotPermitted
	case Moved:
		v.Kind = syncer.Moved
	case Refused:
		v.Kind = syncer.Refused
	case TooLarge:
		v.Kind = syncer.TooLarge
	case Disagreement, Unsupported:
		v.Kind = syncer.Disagreement
	default:
		v.Kind = syncer.Retry
	}
	return v
}
