// Sqlx shows that github.com/jmoiron/sqlx works on a replica as on any SQLite
// database: struct scanning, named parameters, IN lists, prepared statements and
// transactions on one device, and the rows on another one.
//
//	go run ./examples/sqlx
package main

import (
	"context"
	"fmt"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/server"
)

type book struct {
	ID     string    `db:"id"`
	Title  string    `db:"title"`
	Author string    `db:"author"`
	Read   time.Time `db:"read_at"`
}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "tursosync-sqlx-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	srv, err := server.Open(server.Config{File: filepath.Join(dir, "server.db")})
	if err != nil {
		return err
	}
	defer srv.Close()
	remote := httptest.NewServer(srv)
	defer remote.Close()

	laptop, err := sqlx.Connect("tursosync", filepath.Join(dir, "laptop.db")+"?url="+remote.URL)
	if err != nil {
		return err
	}
	defer laptop.Close()
	if err := write(ctx, laptop); err != nil {
		return err
	}
	replica, err := tursosync.ReplicaOf(laptop.DB)
	if err != nil {
		return err
	}
	if err := replica.Wait(ctx); err != nil { // until it is all on the remote
		return err
	}

	phone, err := sqlx.Connect("tursosync", filepath.Join(dir, "phone.db")+"?url="+remote.URL)
	if err != nil {
		return err
	}
	defer phone.Close()
	if replica, err = tursosync.ReplicaOf(phone.DB); err != nil {
		return err
	}
	if err := replica.Pull(ctx); err != nil {
		return err
	}
	return read(ctx, phone)
}

func write(ctx context.Context, db *sqlx.DB) error {
	db.MustExecContext(ctx, `CREATE TABLE books(id TEXT PRIMARY KEY, title TEXT, author TEXT, read_at TIMESTAMP)`)
	tx, err := db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	day := time.Date(2026, 5, 1, 20, 0, 0, 0, time.UTC)
	if _, err := tx.NamedExecContext(ctx, `INSERT INTO books(id, title, author, read_at)
		VALUES (:id, :title, :author, :read_at)`, []book{
		{"b1", "The Dispossessed", "Le Guin", day},
		{"b2", "Solaris", "Lem", day.AddDate(0, 1, 0)},
		{"b3", "Roadside Picnic", "Strugatsky", day.AddDate(0, 2, 0)},
	}); err != nil {
		return err
	}
	return tx.Commit()
}

func read(ctx context.Context, db *sqlx.DB) error {
	query, args, err := sqlx.In(`SELECT * FROM books WHERE author IN (?) ORDER BY read_at`, []string{"Lem", "Le Guin"})
	if err != nil {
		return err
	}
	var books []book
	if err := db.SelectContext(ctx, &books, db.Rebind(query), args...); err != nil {
		return err
	}
	for _, b := range books {
		fmt.Printf("%s  %-18s %-8s %s\n", b.ID, b.Title, b.Author, b.Read.Format(time.DateOnly))
	}
	var n int
	if err := db.GetContext(ctx, &n, `SELECT count(*) FROM books`); err != nil {
		return err
	}
	fmt.Println(n, "books on the phone")
	return nil
}
