package tools

import (
	"context"
	"database/sql"
	"errors"
	"reflect"
	"testing"
	"testing/fstest"
	"time"

	"github.com/mattn/go-sqlite3"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	"github.com/uptrace/bun/migrate"
)

type author struct {
	ID      string `bun:",pk"`
	Name    string `bun:",notnull,unique"`
	Born    time.Time
	Meta    map[string]any `bun:"type:json"`
	Stories []*story       `bun:"rel:has-many,join:id=author_id"`
}

type story struct {
	ID       string `bun:",pk"`
	AuthorID string `bun:",notnull"`
	Title    string
	Score    float64
	Deleted  time.Time `bun:",soft_delete,nullzero"`
	Author   *author   `bun:"rel:belongs-to,join:author_id=id"`
}

var bunMigrations = fstest.MapFS{
	"20260501120000_tables.tx.up.sql": {Data: []byte(`
CREATE TABLE authors (id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL UNIQUE, born TIMESTAMP, meta TEXT);
--bun:split
CREATE TABLE stories (id TEXT NOT NULL PRIMARY KEY, author_id TEXT NOT NULL REFERENCES authors (id) ON DELETE CASCADE,
	title TEXT, score REAL, deleted TIMESTAMP);`)},
	"20260502120000_index.up.sql": {Data: []byte(`CREATE INDEX stories_by_author ON stories (author_id)`)},
}

// TestBun: uptrace/bun with its migrator, on both drivers and on two replicas.
func TestBun(t *testing.T) {
	plain, err := sql.Open("sqlite3", t.TempDir()+"/plain.db?_foreign_keys=1")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	want := bunWork(t, plain, "a")
	d := newDevices(t)
	if got := bunWork(t, d.db[0], "a"); !reflect.DeepEqual(got, want) {
		t.Errorf("tursosync: %v\nsqlite3:   %v", got, want)
	}
	bunWork(t, d.db[1], "b")
	d.sync(t)
	for _, table := range []string{"authors", "stories"} {
		if n := len(column(t, d.db[0], `SELECT id FROM `+table)); n < 4 {
			t.Errorf("%d rows in %s", n, table)
		}
	}
}

func bunWork(t *testing.T, pool *sql.DB, who string) (seen []any) {
	t.Helper()
	ctx := t.Context()
	db := bun.NewDB(pool, sqlitedialect.New())
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	migrations := migrate.NewMigrations()
	if err := migrations.Discover(bunMigrations); err != nil {
		t.Fatal(err)
	}
	m := migrate.NewMigrator(db, migrations)
	if err := m.Init(ctx); err != nil {
		t.Fatal(err)
	}
	group, err := m.Migrate(ctx)
	must(nil, err)
	seen = append(seen, len(group.Migrations))

	born := time.Date(1921, 9, 12, 0, 0, 0, 0, time.UTC)
	lem := &author{ID: who + "1", Name: who + " Lem", Born: born, Meta: map[string]any{"lang": "pl"}}
	others := []author{{ID: who + "2", Name: who + " Le Guin", Born: born}, {ID: who + "3", Name: who + " Strugatsky", Born: born}}
	must(db.NewInsert().Model(lem).Exec(ctx))
	must(db.NewInsert().Model(&others).Exec(ctx))
	_, err = db.NewInsert().Model(&author{ID: who + "4", Name: who + " Lem"}).Exec(ctx)
	var sqliteErr sqlite3.Error
	seen = append(seen, errors.As(err, &sqliteErr), sqliteErr.ExtendedCode)
	stories := []*story{{ID: who + "s1", AuthorID: lem.ID, Title: "Solaris", Score: 4.5}, {ID: who + "s2", AuthorID: lem.ID, Title: "Fiasco"},
		{ID: who + "s3", AuthorID: who + "2", Title: "The Dispossessed"}, {ID: who + "s4", AuthorID: who + "3", Title: "Roadside Picnic"}}
	must(db.NewInsert().Model(&stories).Exec(ctx))
	must(db.NewInsert().Model(&story{ID: who + "s1", AuthorID: lem.ID, Title: "Solaris, again"}).On("CONFLICT (id) DO UPDATE").Set("title = EXCLUDED.title").Exec(ctx))

	var title string
	must(db.NewUpdate().Model((*story)(nil)).Set("score = score + 1").Where("id = ?", who+"s1").Returning("title").Exec(ctx, &title))
	stories[1].Score = 3
	must(db.NewUpdate().Model(&stories).Column("score").Bulk().Exec(ctx))
	must(db.NewDelete().Model(stories[3]).WherePK().Exec(ctx))                    // soft
	must(db.NewDelete().Model((*author)(nil)).Where("id = ?", who+"2").Exec(ctx)) // cascades
	err = db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.NewInsert().Model(&story{ID: who + "s5", AuthorID: lem.ID, Title: "Kept"}).Exec(ctx); err != nil {
			return err
		}
		inner := tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error { // a savepoint
			must(tx.NewDelete().Model((*story)(nil)).Where("1 = 1").ForceDelete().Exec(ctx))
			return sql.ErrNoRows
		})
		if !errors.Is(inner, sql.ErrNoRows) {
			return inner
		}
		return nil
	})
	must(nil, err)

	var back []author
	must(nil, db.NewSelect().Model(&back).Relation("Stories").Where("id LIKE ?", who+"%").Order("id").Scan(ctx))
	for _, a := range back {
		seen = append(seen, a.Name, a.Born.UTC(), a.Meta, len(a.Stories))
	}
	n, err := db.NewSelect().Model((*story)(nil)).WhereAllWithDeleted().Where("id LIKE ?", who+"%").Count(ctx)
	must(nil, err)
	return append(seen, title, n)
}
