package replica

import (
	"context"
	"errors"
	"slices"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/syncer"
)

var _ syncer.SchemaSource = (*Replica)(nil)

// Schema implements syncer.SchemaSource.
func (r *Replica) Schema(ctx context.Context) (objects []syncer.SchemaObject, err error) {
	err = r.locked("read schema", func() error {
		reader, err := r.readerConn()
		if err != nil {
			return err
		}
		live, err := cdc.ReadSchema(reader.SQLiteConn)
		if err != nil {
			return err
		}
		for _, o := range live {
			objects = append(objects, syncer.SchemaObject(o))
		}
		base, err := r.baseTriggers()
		if err != nil {
			return err
		}
		for _, o := range base {
			if !slices.ContainsFunc(live, func(l cdc.SchemaObject) bool { return l.Kind == o.Kind && l.Name == o.Name }) {
				objects = append(objects, syncer.SchemaObject(o))
			}
		}
		return ctx.Err()
	})
	return objects, err
}

// baseTriggers lists the triggers of base.
func (r *Replica) baseTriggers() (triggers []cdc.SchemaObject, err error) {
	usable, err := r.baseUsable()
	if err != nil || !usable || r.state().basePages == 0 || r.unfinished() {
		return nil, err
	}
	base, err := openConn(r.files.base(), "mode=ro&immutable=1")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, base.Close()) }()
	all, err := cdc.ReadSchema(base.SQLiteConn)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(o cdc.SchemaObject) bool { return o.Kind != "trigger" }), nil
}

// PendingSchema implements syncer.SchemaSource.
func (r *Replica) PendingSchema(ctx context.Context, above cdc.ID) (changes []cdc.Change, err error) {
	err = r.locked("read pending schema changes", func() error {
		reader, err := r.readerConn()
		if err != nil {
			return err
		}
		changes, err = cdc.LoadSchema(reader.SQLiteConn, above)
		if err != nil {
			return err
		}
		return ctx.Err()
	})
	return changes, err
}
