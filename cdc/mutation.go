package cdc

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/mattn/go-sqlite3"
)

// MutationOptions steer Mutations. The zero value is the usual way.
type MutationOptions struct {
	// Transform, if not nil, is asked for each row change; changes are not
	// collapsed then.
	Transform Transform
	// NoCollapse sends every change by itself. It is the second try for a batch
	// that was refused because of a constraint: the net effects of many rows may
	// not go in the order that is left.
	NoCollapse bool
	// DeletesFirst sends the changes of each transaction as deletes of all the
	// rows that it touched, followed by inserts of whole rows. It is the last try
	// for a transaction that the remote refused because of a unique constraint:
	// rows may have swapped unique values. It implies NoCollapse.
	DeletesFirst bool
	// Remote is the remote's schema, if it was read: needed whenever a transaction
	// holds a schema change, and to keep the remote's triggers from firing. Each
	// schema change is then compared with it: done, still to do, or a *DriftError.
	Remote []SchemaObject
	// Local is live's schema. The remote's triggers that live has, too, are
	// dropped before rows are written to their tables and created again behind:
	// their effects are in the log already.
	Local []SchemaObject
	// Ahead are the schema changes that are pending behind these transactions.
	Ahead []Change
}

// ErrNoRowID is the reason for a row that statements cannot reach: its table has
// no primary key, and columns take all names of the rowid.
var ErrNoRowID = errors.New("table has neither a primary key nor a name left for the rowid")

// Mutations turns transactions into the statements that do the same on the
// remote, in order. An empty result is possible: everything was skipped, or is
// done already. It is a pure function but for the calls of Transform.
//
// What each statement means is in docs/semantics.md. Its errors are a
// *DriftError, ErrBadRecord, ErrNoRowID, those of Transform, and the context's.
func Mutations(ctx context.Context, txns [][]Change, opts MutationOptions) ([]Mutation, error) {
	p := &planner{opts: opts}
	if opts.Remote != nil {
		p.state = newSchemaState(opts.Remote)
		p.triggers = make(map[string]definition)
		for _, o := range opts.Local {
			if o.Kind == "trigger" {
				p.triggers[lower(o.Name)] = parseDefinition(o.SQL)
			}
		}
	}
	p.ahead = append(schemaChanges(txns), opts.Ahead...)
	p.whole = opts.Transform == nil && !opts.NoCollapse && !opts.DeletesFirst
	for _, txn := range txns {
		for i := range txn {
			if err := ctx.Err(); err != nil {
				return nil, context.Cause(ctx)
			}
			if err := p.change(ctx, &txn[i]); err != nil {
				return nil, err
			}
		}
		if !p.whole {
			if err := p.flush(); err != nil {
				return nil, err
			}
		}
	}
	if err := p.flush(); err != nil {
		return nil, err
	}
	p.end()
	p.resumeTriggers()
	return p.out, nil
}

// schemaChanges picks the schema changes out of transactions.
func schemaChanges(txns [][]Change) []Change {
	var schema []Change
	for _, txn := range txns {
		for i := range txn {
			if txn[i].Schema != nil {
				schema = append(schema, txn[i])
			}
		}
	}
	return schema
}

// planner collects the mutations of a batch.
type planner struct {
	opts  MutationOptions
	whole bool // what counts is the net effect of all transactions
	out   []Mutation
	multi multiRow
	rows  []*rowChange // not yet in out
	state *schemaState // of the remote, as the mutations so far leave it; nil: not known
	ahead []Change     // schema changes not yet come by
	done  map[ID]bool  // schema changes that the remote was found to have

	triggers  map[string]definition // live's, by lower-case name
	suspended []SchemaObject        // dropped, to be created again
	ran       []*SchemaChange       // those that the remote runs
}

func (p *planner) change(ctx context.Context, c *Change) error {
	if c.Schema != nil {
		if err := p.flush(); err != nil {
			return err
		}
		return p.schema(c)
	}
	if p.state != nil && len(p.ahead) > 0 {
		fitted, err := p.state.resolve(c, p.ahead)
		if err != nil || fitted == nil {
			return err
		}
		c = fitted
	}
	r, err := decodeRow(c)
	if err != nil || r.unchanged() {
		return err
	}
	if p.opts.Transform == nil {
		p.rows = append(p.rows, r)
		return nil
	}
	return p.transform(ctx, r)
}

func (p *planner) transform(ctx context.Context, r *rowChange) error {
	row := Row{
		Change: r.ID, Txn: r.Txn, Time: r.Time, Type: r.Type, Table: r.Table, RowID: r.RowID,
		Before: r.Shape.columnMap(r.before), After: r.Shape.columnMap(r.after),
	}
	for i, changed := range r.changed {
		if changed {
			row.Changed = append(row.Changed, r.Shape.Columns[i])
		}
	}
	d, err := p.opts.Transform(ctx, row)
	if err != nil {
		return fmt.Errorf("transform change %d of table %q: %w", r.ID, r.Table, err)
	}
	switch d.Action {
	case Keep:
		p.rows = append(p.rows, r)
	case Skip:
	case Rewrite:
		if err := p.flush(); err != nil {
			return err
		}
		p.resumeTriggers()
		m, err := d.mutation(r.ID)
		if err != nil {
			return fmt.Errorf("transform change %d of table %q: %w", r.ID, r.Table, err)
		}
		p.out = append(p.out, m)
	default:
		return fmt.Errorf("transform change %d of table %q: unknown action %d", r.ID, r.Table, d.Action)
	}
	return nil
}

func (d Decision) mutation(id ID) (Mutation, error) {
	if len(tokenize(d.SQL)) == 0 {
		return Mutation{}, errors.New("rewritten to an empty statement")
	}
	for i, a := range d.Args {
		switch a.(type) {
		case nil, int64, float64, string, []byte:
		default:
			return Mutation{}, fmt.Errorf("argument %d is a %T", i+1, a)
		}
	}
	return Mutation{SQL: d.SQL, Args: d.Args, Change: id}, nil
}

// flush turns the rows collected so far into mutations.
func (p *planner) flush() error {
	rows := p.rows
	p.rows = nil
	if p.whole {
		rows = collapse(rows)
	}
	for _, r := range rows {
		p.suspendTriggers(r)
	}
	if p.opts.DeletesFirst {
		return p.deletesFirst(rows)
	}
	for _, r := range rows {
		if err := p.row(r); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) emit(r *rowChange, b *statement) { p.out = append(p.out, b.mutation(r.ID)) }

// rowid returns the name of the rowid that statements for a bag row need.
func (r *rowChange) rowid() (string, error) {
	name := r.Shape.rowIDName()
	if name == "" {
		return "", fmt.Errorf("change %d of table %q: %w", r.ID, r.Table, ErrNoRowID)
	}
	return name, nil
}

func (p *planner) row(r *rowChange) error {
	switch {
	case r.Type == Insert:
		p.insert(r)
	case r.Type == Delete:
		return p.delete(r)
	case r.keyChanged():
		if err := p.delete(r); err != nil {
			return err
		}
		p.insert(r)
	case r.bagBefore:
		return p.updateBag(r)
	default:
		p.insertRow(r, r.changed)
	}
	return nil
}

func (p *planner) insert(r *rowChange) { p.insertRow(r, nil) }

func (p *planner) delete(r *rowChange) error {
	name := ""
	if r.bagBefore {
		var err error
		if name, err = r.rowid(); err != nil {
			return err
		}
	}
	p.emit(r, r.delete(name))
	return nil
}

// updateBag updates a row without identity. If it is gone, the row comes back:
// the last push wins, as with a key.
func (p *planner) updateBag(r *rowChange) error {
	name, err := r.rowid()
	if err != nil {
		return err
	}
	missing := func(where *statement) *statement {
		rowid := name
		if r.Local {
			rowid = "" // the remote's rowid was never ours
		}
		b := (&statement{}).insertInto(r, rowid).add(" SELECT ").row(r, rowid)
		b.add(" WHERE NOT EXISTS (SELECT 1 FROM ", quote(r.Table), where.String(), ")")
		b.args = append(b.args, where.args...)
		return b
	}
	update := r.update().whereBag(r, name)
	if r.Local {
		// The content decides: look before the update changes it.
		p.emit(r, missing((&statement{}).whereContent(r)))
		p.emit(r, update)
		return nil
	}
	p.emit(r, update)
	p.emit(r, missing((&statement{}).whereBag(r, name)))
	return nil
}

// deletesFirst removes every row that the changes touch, then inserts what they
// leave.
func (p *planner) deletesFirst(rows []*rowChange) error {
	for _, r := range rows {
		if r.Type != Insert {
			if err := p.delete(r); err != nil {
				return err
			}
		}
	}
	// Rows that keep their rowid go first: the others are given what is free.
	var rest []*rowChange
	for _, r := range rows {
		switch {
		case r.Type == Delete:
		case r.Type == Update && r.bagAfter && r.bagBefore && !r.Local:
			name, err := r.rowid()
			if err != nil {
				return err
			}
			p.emit(r, r.insert(name))
		default:
			rest = append(rest, r)
		}
	}
	for _, r := range rest {
		p.insert(r)
	}
	return nil
}

// schema adds a schema change, unless the remote has it.
func (p *planner) schema(c *Change) error {
	p.resumeTriggers()
	p.ahead = p.ahead[1:]
	if p.done[c.ID] {
		return nil
	}
	if p.state == nil {
		p.out = append(p.out, Mutation{SQL: c.Schema.statement(), Change: c.ID})
		return nil
	}
	do, covered, err := p.state.decide(c.Schema, p.ahead)
	if err != nil {
		return fmt.Errorf("change %d: %w", c.ID, err)
	}
	for _, id := range covered {
		if p.done == nil {
			p.done = make(map[ID]bool)
		}
		p.done[id] = true
	}
	if do {
		p.state.apply(c.Schema)
		p.ran = append(p.ran, c.Schema)
		if err := p.renameInTriggers(c.Schema); err != nil {
			return err
		}
		p.out = append(p.out, Mutation{SQL: c.Schema.statement(), Change: c.ID})
	}
	if c.Schema.Op == "create" && c.Schema.Kind == "trigger" {
		p.triggers[lower(c.Schema.Name)] = parseDefinition(c.Schema.SQL)
	}
	return nil
}

// statement returns the SQL that makes the change.
func (s *SchemaChange) statement() string {
	if s.Op == "drop" {
		return "DROP " + upper(s.Kind) + " IF EXISTS " + quote(s.Name)
	}
	return s.SQL
}

func upper(kind string) string {
	switch kind {
	case "table":
		return "TABLE"
	case "index":
		return "INDEX"
	case "view":
		return "VIEW"
	case "trigger":
		return "TRIGGER"
	}
	return kind
}

// suspendTriggers drops the remote's triggers that would fire for a row and
// whose effects are in the log, because live had the same trigger.
func (p *planner) suspendTriggers(r *rowChange) {
	if p.state == nil {
		return
	}
	for _, name := range p.state.triggers(r.Table) {
		e := p.state.find("trigger", name)
		if !p.fired(e) || slices.ContainsFunc(p.suspended, func(o SchemaObject) bool { return o == e.SchemaObject }) {
			continue
		}
		p.out = append(p.out, Mutation{SQL: "DROP TRIGGER IF EXISTS " + quote(name), Change: r.ID, Suspends: name})
		p.suspended = append(p.suspended, e.SchemaObject)
	}
}

// fired tells whether live had a trigger of the remote when the next row was
// written: it has it, or the schema changes ahead begin by dropping it, or rename what
// it mentions.
func (p *planner) fired(e *schemaEntry) bool {
	local, ok := p.triggers[lower(e.Name)]
	if ok && local.equal(e.def) {
		return true
	}
	table, renamed := e.Table, false
	for i := range p.ahead {
		s := p.ahead[i].Schema
		switch {
		case s.Kind == "trigger" && lower(s.Name) == lower(e.Name):
			return s.Op == "drop"
		case s.Op == "drop" && lower(s.Name) == lower(table):
			return true
		}
		if from, to, ok := renamedTable(s); ok {
			renamed = true
			if lower(from) == lower(table) {
				table = to
			}
		} else if a, ok := parseAlter(s.SQL); ok && s.Op == "alter" {
			renamed = renamed || a.step == alterRenameColumn
		}
	}
	return renamed && ok
}

// resumeTriggers creates the suspended triggers again.
func (p *planner) resumeTriggers() {
	for _, o := range p.suspended {
		id := ID(0)
		if len(p.out) > 0 {
			id = p.out[len(p.out)-1].Change
		}
		p.out = append(p.out, Mutation{SQL: o.SQL, Change: id, Resumes: o.Name})
	}
	p.suspended = nil
}

// renameInTriggers takes over what SQLite makes of the triggers when something is
// renamed: a database of its own that goes the remote's way tells.
func (p *planner) renameInTriggers(c *SchemaChange) error {
	a, ok := parseAlter(c.SQL)
	if c.Op != "alter" || !ok || a.step != alterRenameTable && a.step != alterRenameColumn ||
		!slices.ContainsFunc(p.opts.Remote, isTrigger) && !slices.ContainsFunc(p.ran, func(s *SchemaChange) bool { return s.Kind == "trigger" }) {
		return nil
	}
	objects, err := p.rehearse()
	if err != nil {
		return fmt.Errorf("rehearse %s: %w", c.SQL, err)
	}
	for _, o := range objects {
		if e := p.state.find("trigger", o.Name); isTrigger(o) && e != nil {
			now := parseDefinition(o.SQL)
			if local, ok := p.triggers[lower(o.Name)]; ok && local.equal(e.def) {
				p.triggers[lower(o.Name)] = now
			}
			e.SQL, e.def = o.SQL, now
		}
	}
	return nil
}

func isTrigger(o SchemaObject) bool { return o.Kind == "trigger" }

// rehearse returns the remote's schema behind the schema changes of the batch so far.
// What this program cannot define, such as an index by a function of somebody else, is
// left out.
func (p *planner) rehearse() (objects []SchemaObject, err error) {
	opened, err := (&sqlite3.SQLiteDriver{}).Open(":memory:")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	conn, ok := opened.(*sqlite3.SQLiteConn)
	if !ok {
		return nil, fmt.Errorf("connection is a %T", opened)
	}
	for _, o := range p.opts.Remote {
		_ = exec(conn, o.SQL)
	}
	for _, s := range p.ran {
		_ = exec(conn, s.statement())
	}
	return ReadSchema(conn)
}
