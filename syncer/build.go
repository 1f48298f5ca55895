package syncer

import (
	"context"
	"fmt"

	"github.com/tursosync/tursosync/cdc"
)

// form is how transactions are put into statements. A transaction that the
// remote refuses is tried in the other forms before it counts as refused.
type form int

const (
	netEffect    form = iota // the changes of a row collapse into one
	asLogged                 // every change by itself, fitted to the remote's schema
	deletesFirst             // rows may have swapped unique values
	lastForm     = deletesFirst
)

// attempt is a transaction that is tried again, and how.
type attempt struct {
	txn  cdc.ID
	form form
}

func (l *Loop) form(txns []Txn) form {
	if l.again.txn == txns[0].ID() {
		return l.again.form
	}
	return netEffect
}

// built is a batch with what is needed to read its answer.
type built struct {
	batch  Batch
	probes []cdc.Probe
}

// build turns transactions into mutations and probes.
func (l *Loop) build(ctx context.Context, txns []Txn, f form) (built, error) {
	var b built
	if m := l.rewrites[txns[0].ID()]; m != nil {
		b.batch.Mutations = m
		return b, nil
	}
	changes := make([][]cdc.Change, len(txns))
	for i, t := range txns {
		changes[i] = t.Changes
	}
	opts := cdc.MutationOptions{
		Transform:    l.cfg.Transform,
		NoCollapse:   f == asLogged,
		DeletesFirst: f == deletesFirst,
	}
	if err := l.schemas(ctx, &opts, txns, f); err != nil {
		return b, err
	}
	var err error
	if b.batch.Mutations, err = cdc.Mutations(ctx, changes, opts); err != nil {
		return b, fmt.Errorf("turn changes into mutations: %w", err)
	}
	if len(b.batch.Mutations) == 0 {
		return b, nil // the watermark alone
	}
	if b.probes, err = cdc.Probes(changes); err != nil {
		return b, fmt.Errorf("look for key collisions: %w", err)
	}
	for _, p := range b.probes {
		b.batch.Probes = append(b.batch.Probes, p.Mutation)
	}
	return b, nil
}

// ahead is what is known of the schema changes behind the batches of a push, so that the
// log is read once for it, not once a batch.
type ahead struct {
	read   cdc.ID // the log is known up to here
	newest cdc.ID // the newest schema change in it
}

// look tells whether the log changes the schema behind last; the log goes on at least to
// newest.
func (a *ahead) look(ctx context.Context, source SchemaSource, last, newest cdc.ID) (bool, error) {
	from := max(last, a.read)
	changes, err := source.PendingSchema(ctx, from)
	if err != nil {
		return false, fmt.Errorf("read pending schema changes: %w", err)
	}
	for i := range changes {
		a.newest = max(a.newest, changes[i].ID)
	}
	a.read = max(from, newest)
	return a.newest > last, nil
}

// schemas reads the schemas of both sides if the batch needs them: it changes
// the schema, or there are triggers, or were before what is pending behind it, or the
// remote did not take it as it was. Most batches need no request for it.
func (l *Loop) schemas(ctx context.Context, opts *cdc.MutationOptions, txns []Txn, f form) error {
	needed := f != netEffect || hasSchemaChange(txns)
	source, ok := l.replica.(SchemaSource)
	if ok {
		objects, err := source.Schema(ctx)
		if err != nil {
			return fmt.Errorf("read schema: %w", err)
		}
		for _, o := range objects {
			opts.Local = append(opts.Local, cdc.SchemaObject(o))
			needed = needed || o.Kind == "trigger"
		}
		behind, err := l.ahead.look(ctx, source, txns[len(txns)-1].Last(), l.newest)
		if err != nil {
			return err
		}
		needed = needed || behind
	}
	if !needed {
		return nil
	}
	if ok {
		var err error
		if opts.Ahead, err = source.PendingSchema(ctx, txns[len(txns)-1].Last()); err != nil {
			return fmt.Errorf("read pending schema changes: %w", err)
		}
	}
	objects, err := l.currentRemote().Schema(ctx)
	if err != nil {
		return fmt.Errorf("read remote schema: %w", err)
	}
	opts.Remote = make([]cdc.SchemaObject, 0, len(objects)) // not nil: it is known
	for _, o := range objects {
		opts.Remote = append(opts.Remote, cdc.SchemaObject(o))
	}
	return nil
}

func hasSchemaChange(txns []Txn) bool {
	for _, t := range txns {
		for i := range t.Changes {
			if t.Changes[i].Schema != nil {
				return true
			}
		}
	}
	return false
}

// collisions reads what the probes brought back. What cannot be read is no
// reason to fail: the batch is committed.
func (b *built) collisions(rows []ProbeRows) []Collision {
	var found []Collision
	for i := range b.probes {
		if i >= len(rows) {
			break
		}
		collisions, err := b.probes[i].Collisions(rows[i].Rows)
		if err != nil {
			continue
		}
		for _, c := range collisions {
			found = append(found, Collision{Table: c.Table, Key: c.Key, Local: c.Local, Remote: c.Remote})
		}
	}
	return found
}
