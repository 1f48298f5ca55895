package main

import (
	"database/sql"
	"errors"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gorm.io/driver/sqlite"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/logger"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/server"
)

// The models of the test, as a program would have them: soft deletes, hooks,
// belongs-to, has-many, many-to-many, embedded structs, serialised fields.

type company struct {
	ID   string `gorm:"primaryKey"`
	Name string `gorm:"uniqueIndex"`
}

type card struct {
	ID     string `gorm:"primaryKey"`
	UserID string `gorm:"index"`
	Number string `gorm:"check:number <> ''"`
}

type language struct {
	Code string `gorm:"primaryKey"`
	Name string
}

type address struct{ Street, City string }

type user struct {
	ID        string `gorm:"primaryKey"`
	CreatedAt time.Time
	UpdatedAt time.Time
	DeletedAt gorm.DeletedAt `gorm:"index"`
	Name      string         `gorm:"uniqueIndex"`
	Age       int            `gorm:"index:idx_age,sort:desc"`
	Admin     bool
	Score     float64
	Photo     []byte
	Tags      []string `gorm:"serializer:json"`
	Home      address  `gorm:"embedded;embeddedPrefix:home_"`
	Nick      sql.NullString
	CompanyID *string
	Company   *company
	Cards     []card      `gorm:"foreignKey:UserID"`
	Languages []*language `gorm:"many2many:user_languages"`
}

// audit has no key of its own: rows are a bag.
type audit struct{ What, Who string }

var models = []any{&company{}, &language{}, &user{}, &card{}, &audit{}}

// AfterUpdate writes another row in the same transaction.
func (u *user) AfterUpdate(tx *gorm.DB) error {
	return tx.Create(&audit{"updated", u.Name}).Error
}

func (u *user) BeforeDelete(tx *gorm.DB) error {
	if u.Admin {
		return errors.New("admins stay")
	}
	return nil
}

// newGORM opens a database; the clock stands still.
func newGORM(t *testing.T, driver, dsn string, cfg gorm.Config) *gorm.DB {
	t.Helper()
	cfg.Logger = logger.Discard
	cfg.TranslateError = true
	cfg.NowFunc = func() time.Time { return time.Date(2026, 5, 1, 12, 0, 0, 123456789, time.UTC) }
	db, err := gorm.Open(sqlite.New(sqlite.Config{DriverName: driver, DSN: dsn}), &cfg)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := db.DB()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// work is a day in the life of a program; who keeps the rows of two of them
// apart. Each step's result goes into the returned list, so that two drivers can be
// compared.
func work(t *testing.T, db *gorm.DB, who string) []string {
	t.Helper()
	var seen []string
	note := func(name string, tx *gorm.DB) {
		seen = append(seen, fmt.Sprintf("%s: %d rows, error %v", name, tx.RowsAffected, tx.Error))
	}
	id := func(s string) string { return who + "-" + s }

	acme := company{ID: id("acme"), Name: id("Acme")}
	ada := user{ID: id("ada"), Name: id("Ada"), Age: 36, Admin: true, Score: 1.5, Photo: []byte{0, 1, 0xff},
		Tags: []string{"a", "b"}, Home: address{"Main St", "London"}, Company: &acme,
		Cards:     []card{{ID: id("c1"), Number: "1"}, {ID: id("c2"), Number: "2"}},
		Languages: []*language{{Code: "de", Name: "Deutsch"}, {Code: id("x"), Name: "X"}}}
	note("create with associations", db.Create(&ada))
	var many []user
	for i := range 25 {
		many = append(many, user{ID: id(fmt.Sprint("u", i)), Name: id(fmt.Sprint("User ", i)), Age: i})
	}
	note("create in batches", db.CreateInBatches(&many, 10))
	note("create map", db.Model(&user{}).Create(map[string]any{"ID": id("map"), "Name": id("Map"), "Nick": "M"}))
	note("duplicate", db.Create(&user{ID: id("dup"), Name: id("Ada")}))
	if err := db.Create(&user{ID: id("dup"), Name: id("Ada")}).Error; !errors.Is(err, gorm.ErrDuplicatedKey) {
		t.Errorf("duplicate = %v, want gorm.ErrDuplicatedKey", err)
	}
	note("check", db.Create(&card{ID: id("bad")}))

	ada.Age, ada.Nick = 37, sql.NullString{String: "Countess", Valid: true}
	note("save", db.Save(&ada))
	note("save new", db.Save(&user{ID: id("new"), Name: id("New")}))
	note("update", db.Model(&many[3]).Update("age", gorm.Expr("age * ? + ?", 2, 100)))
	note("updates", db.Model(&many[4]).Updates(map[string]any{"admin": true, "photo": nil}))
	note("update where", db.Model(&user{}).Where("age BETWEEN ? AND ?", 5, 7).Where("id LIKE ?", who+"%").UpdateColumn("score", 9.25))
	note("update without where", db.Model(&user{}).Update("age", 1))
	note("returning", db.Model(&many[5]).Clauses(clause.Returning{}).Update("age", 55))
	seen = append(seen, fmt.Sprint("returned ", many[5].Age, " ", many[5].Score))

	note("upsert", db.Clauses(clause.OnConflict{
		Columns:   []clause.Column{{Name: "id"}},
		DoUpdates: clause.AssignmentColumns([]string{"name"}),
	}).Create(&[]company{{ID: acme.ID, Name: id("Acme Inc")}, {ID: id("other"), Name: id("Other")}}))
	note("do nothing", db.Clauses(clause.OnConflict{DoNothing: true}).Create(&company{ID: acme.ID, Name: "never"}))
	var first company
	note("first or create", db.Where(company{Name: id("Third")}).Attrs(company{ID: id("third")}).FirstOrCreate(&first))

	note("soft delete", db.Delete(&many[8]))
	note("hard delete", db.Unscoped().Delete(&many[9]))
	note("hook refuses", db.Delete(&ada))
	note("delete where", db.Where("id LIKE ?", who+"-u2_").Delete(&user{}))
	seen = append(seen, fmt.Sprint("append: ", db.Model(&ada).Association("Languages").Append(&language{Code: id("y"), Name: "Y"})))
	seen = append(seen, fmt.Sprint("remove: ", db.Model(&ada).Association("Languages").Delete(&language{Code: "de"})))
	seen = append(seen, fmt.Sprint("replace: ", db.Model(&ada).Association("Cards").Replace(&card{ID: id("c3"), Number: "3"})))

	boom := errors.New("boom")
	err := db.Transaction(func(tx *gorm.DB) error {
		if err := tx.Create(&user{ID: id("t1"), Name: id("T1")}).Error; err != nil {
			return err
		}
		inner := tx.Transaction(func(tx *gorm.DB) error { // a savepoint
			tx.Create(&user{ID: id("t2"), Name: id("T2")})
			return boom
		})
		if !errors.Is(inner, boom) {
			return inner
		}
		return tx.Create(&user{ID: id("t3"), Name: id("T3")}).Error
	})
	seen = append(seen, fmt.Sprint("transaction: ", err))
	err = db.Transaction(func(tx *gorm.DB) error {
		tx.Create(&user{ID: id("t4"), Name: id("T4")})
		tx.Delete(&user{}, "id LIKE ?", who+"%")
		return boom
	})
	seen = append(seen, fmt.Sprint("rolled back: ", err))
	note("exec", db.Exec("UPDATE users SET nick = ? WHERE id IN ?", "raw", []string{id("u1"), id("u2")}))

	var back user
	note("preload", db.Preload(clause.Associations).First(&back, "id = ?", ada.ID))
	seen = append(seen, fmt.Sprint(back.Age, back.Company.Name, len(back.Cards), len(back.Languages), back.Tags, back.Photo, back.Home, back.CreatedAt.UTC()))
	var ages []int
	note("pluck", db.Model(&user{}).Where("id LIKE ?", who+"%").Order("id").Pluck("age", &ages))
	seen = append(seen, fmt.Sprint(ages))
	note("not found", db.First(&user{}, "id = 'nobody'"))
	return seen
}

// contents returns every row of every table of the program.
func contents(t *testing.T, db *gorm.DB) []string {
	t.Helper()
	var out []string
	tables, err := db.Migrator().GetTables()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(tables)
	for _, table := range tables {
		if strings.HasPrefix(table, "turso_") {
			continue
		}
		rows, err := db.Table(table).Rows()
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		first := len(out)
		for rows.Next() {
			values, places := make([]any, len(columns)), make([]any, len(columns))
			for i := range values {
				places[i] = &values[i]
			}
			if err := rows.Scan(places...); err != nil {
				t.Fatal(err)
			}
			out = append(out, fmt.Sprintf("%s %v %#v", table, columns, values))
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		slices.Sort(out[first:])
	}
	return out
}

// TestSameAsSQLite runs the same program on go-sqlite3 and on tursosync.
func TestSameAsSQLite(t *testing.T) {
	for _, mode := range []struct {
		name string
		cfg  gorm.Config
	}{
		{"default", gorm.Config{}},
		{"prepared", gorm.Config{PrepareStmt: true}},
		{"no transactions", gorm.Config{SkipDefaultTransaction: true}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			var seen, rows [2][]string
			for i, driver := range []string{"sqlite3", "tursosync"} {
				db := newGORM(t, driver, filepath.Join(t.TempDir(), "app.db")+"?_foreign_keys=1", mode.cfg)
				if err := db.AutoMigrate(models...); err != nil {
					t.Fatal(err)
				}
				seen[i], rows[i] = work(t, db, "a"), contents(t, db)
			}
			compare(t, "answers", seen[0], seen[1])
			compare(t, "rows", rows[0], rows[1])
		})
	}
}

func compare(t *testing.T, what string, want, got []string) {
	t.Helper()
	for i := range max(len(want), len(got)) {
		w, g := "nothing", "nothing"
		if i < len(want) {
			w = want[i]
		}
		if i < len(got) {
			g = got[i]
		}
		if w != g {
			t.Errorf("%s differ:\n%s\nwant\n%s", what, g, w)
			return
		}
	}
}

// replicas opens two replicas of one remote. GORM does not switch foreign keys off
// when it rebuilds a table to drop a column: TestMigrate goes without.
func replicas(t *testing.T, options string) (dbs [2]*gorm.DB, syncAll func()) {
	t.Helper()
	dir := t.TempDir()
	srv, err := server.Open(server.Config{File: filepath.Join(dir, "server.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	remote := httptest.NewServer(srv)
	t.Cleanup(remote.Close)
	var handles [2]*tursosync.Replica
	for i, name := range []string{"a.db", "b.db"} {
		dbs[i] = newGORM(t, "tursosync", filepath.Join(dir, name)+"?sync=manual&url="+remote.URL+options,
			gorm.Config{})
		pool, err := dbs[i].DB()
		if err != nil {
			t.Fatal(err)
		}
		if handles[i], err = tursosync.ReplicaOf(pool); err != nil {
			t.Fatal(err)
		}
	}
	return dbs, func() {
		t.Helper()
		for _, i := range []int{0, 1, 0, 1} {
			if err := handles[i].Sync(t.Context()); err != nil {
				t.Fatalf("sync %d: %v", i, err)
			}
			if list, err := handles[i].Rejected(t.Context()); err != nil || len(list) != 0 {
				t.Fatalf("rejected %v, %v", list, err)
			}
		}
	}
}

func converged(t *testing.T, dbs [2]*gorm.DB, least int) {
	t.Helper()
	a, b := contents(t, dbs[0]), contents(t, dbs[1])
	compare(t, "replicas", a, b)
	if len(a) < least {
		t.Errorf("%d rows, want at least %d", len(a), least)
	}
	for _, db := range dbs {
		var verdict string
		if err := db.Raw("PRAGMA integrity_check").Scan(&verdict).Error; err != nil || verdict != "ok" {
			t.Errorf("integrity_check: %s, %v", verdict, err)
		}
		if rows, err := db.Raw("PRAGMA foreign_key_check").Rows(); err != nil {
			t.Error(err)
		} else {
			if rows.Next() {
				t.Error("foreign_key_check finds rows")
			}
			rows.Close()
		}
	}
}

// TestConverge: both replicas migrate and write before they meet.
func TestConverge(t *testing.T) {
	dbs, sync := replicas(t, "&_foreign_keys=1")
	for i, who := range []string{"a", "b"} {
		if err := dbs[i].AutoMigrate(models...); err != nil {
			t.Fatal(err)
		}
		work(t, dbs[i], who)
	}
	sync()
	converged(t, dbs, 70)

	for i := range dbs { // each edits what the other one wrote
		other := []string{"b", "a"}[i]
		if err := dbs[i].Model(&user{}).Where("id = ?", other+"-ada").Updates(map[string]any{"age": 40 + i}).Error; err != nil {
			t.Fatal(err)
		}
		if err := dbs[i].Unscoped().Where("id = ?", other+"-u1").Delete(&user{}).Error; err != nil {
			t.Fatal(err)
		}
	}
	sync()
	converged(t, dbs, 70)
}

// The same table one release later: a column more, one with another type, one
// that must not be NULL, one less, and another index.
type cardV2 struct {
	ID      string `gorm:"primaryKey;size:40"`
	UserID  string `gorm:"index;not null"`
	Number  string `gorm:"size:19;index:idx_number"`
	Expires *time.Time
	Limit   int `gorm:"default:100"`
}

func (cardV2) TableName() string { return "cards" }

// TestMigrate: both replicas upgrade; GORM rebuilds tables for some of it.
func TestMigrate(t *testing.T) {
	upgrade := func(t *testing.T, db *gorm.DB) {
		t.Helper()
		if err := db.AutoMigrate(&cardV2{}); err != nil {
			t.Fatal(err)
		}
		if err := db.Migrator().RenameColumn(&language{}, "name", "title"); err != nil {
			t.Fatal(err)
		}
		if err := db.Migrator().DropColumn(&user{}, "score"); err != nil {
			t.Fatal(err)
		}
	}
	start := func(t *testing.T) ([2]*gorm.DB, func()) {
		dbs, sync := replicas(t, "")
		for i, who := range []string{"a", "b"} {
			if err := dbs[i].AutoMigrate(models...); err != nil {
				t.Fatal(err)
			}
			work(t, dbs[i], who)
		}
		sync()
		return dbs, sync
	}
	t.Run("one after the other", func(t *testing.T) {
		dbs, sync := start(t)
		upgrade(t, dbs[0])
		if err := dbs[0].Create(&cardV2{ID: "v2", UserID: "a-ada", Number: "4"}).Error; err != nil {
			t.Fatal(err)
		}
		sync()
		if err := dbs[1].AutoMigrate(&cardV2{}); err != nil { // finds it done
			t.Fatal(err)
		}
		if err := dbs[1].Create(&cardV2{ID: "v2b", UserID: "b-ada", Number: "5"}).Error; err != nil {
			t.Fatal(err)
		}
		sync()
		converged(t, dbs, 70)
	})
	t.Run("each by itself", func(t *testing.T) {
		dbs, sync := start(t)
		for i, who := range []string{"a", "b"} {
			upgrade(t, dbs[i])
			if err := dbs[i].Create(&cardV2{ID: who + "v2", UserID: who + "-ada", Number: "4"}).Error; err != nil {
				t.Fatal(err)
			}
		}
		sync()
		converged(t, dbs, 70)
		var n int64
		dbs[0].Table("cards").Where("id LIKE '%v2'").Count(&n)
		if n != 2 {
			t.Errorf("%d of 2 rows that were written after the migrations", n)
		}
	})
}

// TestExample compares what both replicas of the example hold.
func TestExample(t *testing.T) {
	if err := run(t.Context()); err != nil {
		t.Fatal(err)
	}
}
