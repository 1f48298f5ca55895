package replica

import (
	"context"
	"errors"

	"github.com/tursosync/tursosync/internal/page"
)

// sameRemote asks whether the remote is still the database that base came from.
// Revisions do not tell: tursodb counts the frames of its WAL, and after that was
// begun anew or its file was replaced it answers with what changed since some
// frame of another history (PROTOCOL.md §9.1). But the rows of
// turso_sync_last_change_id are never deleted, and the names in them are unique,
// so that one of base's must be there. Without any nobody can tell.
func (p *pull) sameRemote(ctx context.Context) (bool, error) {
	r, st := p.r, p.r.state()
	if p.opts.Verify == nil {
		return true, nil
	}
	if st.known {
		id, found, err := p.opts.Verify(ctx, st.clientID)
		return found && id >= st.watermark, err
	}
	name, err := r.someClient()
	if err != nil || name == "" {
		return err == nil, err
	}
	_, found, err := p.opts.Verify(ctx, name)
	return found, err
}

// someClient returns a client whose watermark is in base; "" if there is none.
func (r *Replica) someClient() (name string, err error) {
	c, err := openConn(r.files.base(), "mode=ro&immutable=1")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	marks, err := c.marks()
	for client := range marks {
		name = max(name, client)
	}
	return name, err
}

// otherRevision deals with an answer that names another revision and the size of
// base, without a page.
func (p *pull) otherRevision(ctx context.Context, revision page.Revision) error {
	same, err := p.sameRemote(ctx)
	if err != nil {
		return err
	}
	if !same || wentDown(p.r.state().revision, revision) {
		return p.bootstrap(ctx, nil, true)
	}
	return p.revisionOnly(ctx, revision)
}
