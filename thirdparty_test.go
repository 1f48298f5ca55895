package tursosync_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/jmoiron/sqlx"
	"github.com/mattn/go-sqlite3"
	"github.com/pressly/goose/v3"
)

// migrations hold what migration files of applications hold: several statements,
// triggers with semicolons, comments, a table rebuilt, no transaction.
var migrations = fstest.MapFS{
	"00001_init.sql": {Data: []byte(`-- +goose Up
CREATE TABLE users (
	id INTEGER PRIMARY KEY, -- the key; nothing else
	name TEXT NOT NULL UNIQUE,
	created DATETIME DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE posts (id INTEGER PRIMARY KEY, author INTEGER REFERENCES users(id) ON DELETE CASCADE, body TEXT);
-- +goose StatementBegin
CREATE TRIGGER posts_trim AFTER INSERT ON posts BEGIN
	UPDATE posts SET body = trim(body) WHERE id = new.id;
	SELECT 1;
END;
-- +goose StatementEnd
-- +goose Down
DROP TABLE posts;
DROP TABLE users;
`)},
	"00002_rebuild.sql": {Data: []byte(`-- +goose Up
CREATE TABLE users_new (id INTEGER PRIMARY KEY, name TEXT NOT NULL COLLATE NOCASE, email TEXT);
INSERT INTO users_new(id, name) SELECT id, name FROM users;
DROP TABLE users;
ALTER TABLE users_new RENAME TO users;
CREATE UNIQUE INDEX users_name ON users(name);
-- +goose Down
DROP INDEX users_name;
ALTER TABLE users DROP COLUMN email;
`)},
	"00003_no_tx.sql": {Data: []byte(`-- +goose NO TRANSACTION
-- +goose Up
PRAGMA foreign_keys = OFF;
BEGIN;
ALTER TABLE posts ADD COLUMN title TEXT NOT NULL DEFAULT '';
COMMIT;
PRAGMA foreign_keys = ON;
-- +goose Down
ALTER TABLE posts DROP COLUMN title;
`)},
}

func TestGoose(t *testing.T) {
	for _, driver := range []string{"sqlite3", "tursosync"} {
		for _, fk := range []string{"0", "1"} {
			t.Run(driver+" fk="+fk, func(t *testing.T) { gooseProvider(t, driver, fk) })
		}
	}
}

func gooseProvider(t *testing.T, driver, fk string) {
	db, err := sql.Open(driver, filepath.Join(t.TempDir(), "app.db")+"?_fk="+fk)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectSQLite3, db, migrations)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 1); err != nil {
		t.Fatalf("up to 1: %v", err)
	}
	mustExec(t, db, `INSERT INTO users(name) VALUES ('ann'); INSERT INTO posts(author, body) VALUES (1, '  hello ')`)
	if _, err := p.Up(t.Context()); err != nil {
		t.Fatalf("up: %v", err)
	}
	posts := 1
	if fk == "1" { // DROP TABLE deletes the rows, which cascades
		posts = 0
	}
	if n := count(t, db, `SELECT count(*) FROM posts JOIN users ON author = users.id WHERE title = '' AND body = 'hello' AND name = 'ann'`); n != posts {
		t.Errorf("%d posts after the migrations, want %d", n, posts)
	}
	if v, err := p.GetDBVersion(t.Context()); err != nil || v != 3 {
		t.Errorf("version %d, %v, want 3", v, err)
	}
	if pending, err := p.HasPending(t.Context()); err != nil || pending {
		t.Errorf("pending %t, %v", pending, err)
	}
	if _, err := p.DownTo(t.Context(), 0); err != nil {
		t.Errorf("down: %v", err)
	}
	if n := count(t, db, `SELECT count(*) FROM sqlite_schema WHERE name IN ('users', 'posts', 'posts_trim')`); n != 0 {
		t.Errorf("%d objects left after down", n)
	}
}

// TestGooseGlobal is the older interface, which sends each statement through the
// pool.
func TestGooseGlobal(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "app.db"))
	goose.SetBaseFS(migrations)
	goose.SetLogger(goose.NopLogger())
	defer goose.SetBaseFS(nil)
	if err := goose.SetDialect("sqlite3"); err != nil {
		t.Fatal(err)
	}
	if err := goose.Up(db, "."); err != nil {
		t.Fatalf("up: %v", err)
	}
	if err := goose.Down(db, "."); err != nil {
		t.Fatalf("down: %v", err)
	}
	if v, err := goose.GetDBVersion(db); err != nil || v != 2 {
		t.Errorf("version %d, %v, want 2", v, err)
	}
}

func TestSqlx(t *testing.T) {
	type user struct {
		ID    int64          `db:"id"`
		Name  string         `db:"name"`
		Email sql.NullString `db:"email"`
	}
	for _, driver := range []string{"sqlite3", "tursosync"} {
		t.Run(driver, func(t *testing.T) {
			raw, err := sql.Open(driver, filepath.Join(t.TempDir(), "app.db"))
			if err != nil {
				t.Fatal(err)
			}
			// An unknown driver name has unknown placeholders; the dialect is sqlite3's.
			db := sqlx.NewDb(raw, "sqlite3")
			defer db.Close()
			db.MustExec(`CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT UNIQUE, email TEXT)`)
			res, err := db.NamedExec(`INSERT INTO users(name, email) VALUES (:name, :email)`, []user{{Name: "ann"}, {Name: "bob", Email: sql.NullString{String: "b@x", Valid: true}}})
			if err != nil {
				t.Fatalf("named insert: %v", err)
			}
			if id, _ := res.LastInsertId(); id != 2 {
				t.Errorf("last id %d, want 2", id)
			}
			var all []user
			if err := db.Select(&all, `SELECT * FROM users ORDER BY id`); err != nil || len(all) != 2 || all[1].Email.String != "b@x" {
				t.Errorf("select: %v %v", all, err)
			}
			var one user
			if err := db.Get(&one, `SELECT * FROM users WHERE name = ?`, "ann"); err != nil || one.ID != 1 || one.Email.Valid {
				t.Errorf("get: %v %v", one, err)
			}
			query, args, err := sqlx.In(`SELECT name FROM users WHERE id IN (?) ORDER BY id`, []int{1, 2, 3})
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			if err := db.Select(&names, db.Rebind(query), args...); err != nil || len(names) != 2 {
				t.Errorf("in: %v %v", names, err)
			}
			rows, err := db.NamedQuery(`UPDATE users SET email = :email WHERE name = :name RETURNING *`, map[string]any{"name": "ann", "email": "a@x"})
			if err != nil {
				t.Fatalf("named returning: %v", err)
			}
			for rows.Next() {
				if err := rows.StructScan(&one); err != nil || one.Email.String != "a@x" {
					t.Errorf("returned %v %v", one, err)
				}
			}
			rows.Close()
			tx := db.MustBegin()
			_, err = tx.NamedExec(`INSERT INTO users(name) VALUES (:name)`, user{Name: "ann"})
			var se sqlite3.Error
			if !errors.As(err, &se) || se.ExtendedCode != sqlite3.ErrConstraintUnique {
				t.Errorf("duplicate = %v, want a unique constraint", err)
			}
			st, err := tx.PrepareNamed(`SELECT count(*) FROM users WHERE name = :name`)
			if err != nil {
				t.Fatal(err)
			}
			var n int
			if err := st.Get(&n, user{Name: "bob"}); err != nil || n != 1 {
				t.Errorf("prepared: %d %v", n, err)
			}
			if err := tx.Commit(); err != nil {
				t.Error(err)
			}
			m := map[string]any{}
			if err := db.QueryRowxContext(context.Background(), `SELECT * FROM users WHERE id = 2`).MapScan(m); err != nil || m["name"] != "bob" {
				t.Errorf("map: %v %v", m, err)
			}
		})
	}
}
