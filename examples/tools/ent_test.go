package tools

import (
	"context"
	"database/sql/driver"
	"fmt"
	"testing"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
	"entgo.io/ent/dialect/sql/schema"
	"entgo.io/ent/dialect/sql/sqlgraph"
	"entgo.io/ent/schema/field"
)

// entTables is what ent generates of a schema; v2 adds a column and an index.
func entTables(v2 bool) []*schema.Table {
	id := func() *schema.Column { return &schema.Column{Name: "id", Type: field.TypeUUID, Unique: true} }
	owner := &schema.Column{Name: "owner_id", Type: field.TypeUUID, Nullable: true}
	users := schema.NewTable("users").AddPrimary(id()).
		AddColumn(&schema.Column{Name: "name", Type: field.TypeString, Unique: true}).
		AddColumn(&schema.Column{Name: "created_at", Type: field.TypeTime})
	pets := schema.NewTable("pets").AddPrimary(id()).
		AddColumn(&schema.Column{Name: "name", Type: field.TypeString, Default: "Rex"}).AddColumn(owner)
	pets.AddForeignKey(&schema.ForeignKey{Symbol: "pets_users", Columns: []*schema.Column{owner}, RefTable: users,
		RefColumns: users.PrimaryKey, OnDelete: schema.SetNull})
	if v2 {
		users.AddColumn(&schema.Column{Name: "age", Type: field.TypeInt, Nullable: true})
		pets.AddColumn(&schema.Column{Name: "kind", Type: field.TypeEnum, Enums: []string{"cat", "dog"}, Default: "dog"})
		pets.AddIndex("pet_kind_name", false, []string{"kind", "name"})
	}
	return []*schema.Table{users, pets}
}

// TestEnt: ent's automatic migration and its statements, without the generated
// code around them.
func TestEnt(t *testing.T) {
	up := func(t *testing.T, d *devices, i int, v2 bool) {
		t.Helper()
		m, err := schema.NewMigrate(entsql.OpenDB(dialect.SQLite, d.db[i]), schema.WithDropColumn(true), schema.WithDropIndex(true))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Create(t.Context(), entTables(v2)...); err != nil {
			t.Fatalf("migrate: %v", err)
		}
	}
	start := func(t *testing.T) *devices {
		d := newDevices(t)
		for i := range d.db {
			up(t, d, i, false)
			entWork(t, entsql.OpenDB(dialect.SQLite, d.db[i]), i)
		}
		d.sync(t)
		return d
	}
	check := func(t *testing.T, d *devices) {
		up(t, d, 1, true) // nothing to do
		d.sync(t)
		if got := column(t, d.db[1], `SELECT p.name || ' ' || kind || ' ' || u.name FROM pets p JOIN users u ON u.id = owner_id ORDER BY 1`); len(got) != 2 {
			t.Errorf("pets %v", got)
		}
	}
	t.Run("one after the other", func(t *testing.T) {
		d := start(t)
		up(t, d, 0, true)
		d.sync(t)
		check(t, d)
	})
	t.Run("each by itself", func(t *testing.T) {
		d := start(t)
		up(t, d, 0, true)
		up(t, d, 1, true)
		d.sync(t)
		check(t, d)
	})
}

func entWork(t *testing.T, drv *entsql.Driver, i int) {
	t.Helper()
	ctx := t.Context()
	id := func(n int) string { return fmt.Sprintf("%08d-0000-4000-8000-%012d", i, n) }
	if err := sqlgraph.BatchCreate(ctx, drv, &sqlgraph.BatchCreateSpec{Nodes: []*sqlgraph.CreateSpec{
		entUser(id(1), fmt.Sprint("Ada ", i)), entUser(id(2), fmt.Sprint("Bob ", i)),
	}}); err != nil {
		t.Fatal(err)
	}
	if err := sqlgraph.CreateNode(ctx, drv, entUser(id(3), fmt.Sprint("Ada ", i))); !sqlgraph.IsUniqueConstraintError(err) {
		t.Errorf("duplicate = %v, want a unique constraint error", err)
	}
	pet := &sqlgraph.CreateSpec{Table: "pets", ID: &sqlgraph.FieldSpec{Column: "id", Value: id(4)}}
	pet.SetField("name", field.TypeString, "Tom")
	pet.Edges = append(pet.Edges, &sqlgraph.EdgeSpec{Rel: sqlgraph.M2O, Inverse: true, Table: "pets", Columns: []string{"owner_id"},
		Target: &sqlgraph.EdgeTarget{Nodes: []driver.Value{id(1)}, IDSpec: &sqlgraph.FieldSpec{Column: "id", Type: field.TypeUUID}}})
	if err := sqlgraph.CreateNode(ctx, drv, pet); err != nil {
		t.Fatal(err)
	}
	n, err := sqlgraph.DeleteNodes(ctx, drv, &sqlgraph.DeleteSpec{
		Node:      &sqlgraph.NodeSpec{Table: "users", ID: &sqlgraph.FieldSpec{Column: "id", Type: field.TypeUUID}},
		Predicate: func(s *entsql.Selector) { s.Where(entsql.EQ("id", id(2))) },
	})
	if err != nil || n != 1 {
		t.Errorf("delete = %d, %v", n, err)
	}
	tx, err := drv.Tx(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	query, args := entsql.Dialect(dialect.SQLite).Update("users").Set("name", fmt.Sprint("Ada L ", i)).Where(entsql.EQ("id", id(1))).Query()
	if err := tx.Exec(context.WithoutCancel(ctx), query, args, nil); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

func entUser(id, name string) *sqlgraph.CreateSpec {
	s := &sqlgraph.CreateSpec{Table: "users", ID: &sqlgraph.FieldSpec{Column: "id", Value: id}}
	s.SetField("name", field.TypeString, name)
	s.SetField("created_at", field.TypeTime, "2026-05-01 12:00:00+00:00")
	return s
}
