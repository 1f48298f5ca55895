// Goose shows migrations by github.com/pressly/goose on replicas: every device
// runs the same ones when it starts, online or not, as any program does. What the
// remote has already is not done again, and all of them end with one schema.
//
//	go run ./examples/goose
package main

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/pressly/goose/v3"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/server"
)

//go:embed migrations/*.sql
var migrations embed.FS

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "tursosync-goose-")
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

	// Syncing by hand, only so that both devices migrate before they meet.
	laptop, err := sql.Open("tursosync", filepath.Join(dir, "laptop.db")+"?sync=manual&url="+remote.URL)
	if err != nil {
		return err
	}
	defer laptop.Close()
	phone, err := sql.Open("tursosync", filepath.Join(dir, "phone.db")+"?sync=manual&url="+remote.URL)
	if err != nil {
		return err
	}
	defer phone.Close()
	if err := errors.Join(
		migrate(ctx, "laptop", laptop),
		migrate(ctx, "phone", phone),
		exec(laptop, `INSERT INTO people VALUES ('p1', 'Ada', 'ada@example.org')`),
		exec(phone, `INSERT INTO people VALUES ('p2', 'Bob', 'bob@example.org')`),
	); err != nil {
		return err
	}
	for _, db := range []*sql.DB{laptop, phone, laptop} {
		r, err := tursosync.ReplicaOf(db)
		if err != nil {
			return err
		}
		if err := r.Sync(ctx); err != nil {
			return err
		}
	}
	return errors.Join(show(ctx, "laptop", laptop), show(ctx, "phone", phone))
}

// migrate is what a program does when it starts. On a replica that is up to date
// it does nothing.
func migrate(ctx context.Context, device string, db *sql.DB) error {
	folder, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, folder)
	if err != nil {
		return err
	}
	results, err := p.Up(ctx)
	for _, r := range results {
		fmt.Printf("%s: %s %s\n", device, r.Direction, r.Source.Path)
	}
	return err
}

func show(ctx context.Context, device string, db *sql.DB) error {
	var version, people int
	err := db.QueryRowContext(ctx, `SELECT max(version_id), (SELECT count(*) FROM people WHERE mail IS NOT NULL)
		FROM goose_db_version`).Scan(&version, &people)
	fmt.Printf("%s: schema version %d, %d people\n", device, version, people)
	return err
}

func exec(db *sql.DB, query string) error {
	_, err := db.Exec(query)
	return err
}
