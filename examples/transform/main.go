// Transform shows the hook between the log and the remote: "who is typing" is
// nobody's business but this device's and is skipped; a counter that several devices add
// to is sent as an addition, so that no visit is lost to "last push wins".
//
// What is skipped counts as pushed, and the remote is the truth: the next pull
// that brings pages takes the row away here, too. What has to stay on one device
// belongs into an attached database, which is not synced at all.
//
//	go run ./examples/transform
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/server"
)

// transform is asked what becomes of each row change on its way to the remote.
func transform(_ context.Context, row tursosync.Row) (tursosync.Decision, error) {
	switch {
	case row.Table == "typing":
		return tursosync.Decision{Action: tursosync.Skip}, nil

	case row.Table == "visits" && row.Before != nil && row.After != nil: // an update
		added := row.After["n"].(int64) - row.Before["n"].(int64)
		return tursosync.Decision{
			Action: tursosync.Rewrite,
			SQL:    `UPDATE visits SET n = n + ? WHERE page = ?`,
			Args:   []any{added, row.After["page"]},
		}, nil
	}
	return tursosync.Decision{}, nil // keep
}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "tursosync-transform-")
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

	// No DSN can spell a function: Config and sql.OpenDB instead of sql.Open.
	open := func(name string) (*sql.DB, *tursosync.Replica, error) {
		c, err := tursosync.NewConnector(tursosync.Config{
			Path:      filepath.Join(dir, name),
			URL:       remote.URL,
			Sync:      tursosync.SyncManual, // only so that this program decides the order
			Transform: transform,
		})
		if err != nil {
			return nil, nil, err
		}
		db := sql.OpenDB(c)
		r, err := tursosync.ReplicaOf(db)
		return db, r, err
	}
	laptop, laptopReplica, err := open("laptop.db")
	if err != nil {
		return err
	}
	defer laptop.Close()
	phone, phoneReplica, err := open("phone.db")
	if err != nil {
		return err
	}
	defer phone.Close()

	if err := errors.Join(
		exec(laptop, `CREATE TABLE visits(page TEXT PRIMARY KEY, n INTEGER)`),
		exec(laptop, `CREATE TABLE typing(who TEXT PRIMARY KEY)`),
		exec(laptop, `INSERT INTO visits VALUES ('home', 100)`),
		laptopReplica.Sync(ctx), phoneReplica.Sync(ctx),

		exec(laptop, `INSERT INTO typing VALUES ('Ada')`),
		exec(laptop, `UPDATE visits SET n = n + 1`),
		exec(phone, `UPDATE visits SET n = n + 20`),
		show(laptop, "laptop, before syncing"),
		show(phone, "phone, before syncing"),
		laptopReplica.Sync(ctx), phoneReplica.Sync(ctx), laptopReplica.Sync(ctx),
	); err != nil {
		return err
	}
	return errors.Join(show(laptop, "laptop, synced"), show(phone, "phone, synced"))
}

func exec(db *sql.DB, query string) error {
	_, err := db.Exec(query)
	return err
}

func show(db *sql.DB, title string) error {
	var visits, typing int
	err := db.QueryRow(`SELECT n, (SELECT count(*) FROM typing) FROM visits`).Scan(&visits, &typing)
	fmt.Printf("%-24s %d visits, %d typing\n", title, visits, typing)
	return err
}
