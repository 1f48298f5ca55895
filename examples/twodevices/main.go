// Twodevices shows what is left when two replicas write without asking each
// other: updates of different columns are both kept, of one column the last push wins,
// and two rows that were given the same integer key are reported as a collision, with
// the row that was overwritten. docs/semantics.md has every case.
//
//	go run ./examples/twodevices
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

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "tursosync-twodevices-")
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

	// Syncing by hand, only so that this program decides who pushes last.
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
	laptopReplica, err := tursosync.ReplicaOf(laptop)
	if err != nil {
		return err
	}
	phoneReplica, err := tursosync.ReplicaOf(phone)
	if err != nil {
		return err
	}
	events := phoneReplica.Events(ctx) // subscribed from here on

	if err := errors.Join(
		exec(laptop, `CREATE TABLE tasks(id INTEGER PRIMARY KEY, title TEXT, owner TEXT, done INT DEFAULT 0)`),
		exec(laptop, `INSERT INTO tasks(title, owner) VALUES ('write', 'Ada'), ('test', 'Ada')`),
		laptopReplica.Sync(ctx), phoneReplica.Sync(ctx),

		exec(laptop, `UPDATE tasks SET owner = 'Bob' WHERE id = 1`), // other columns of one row
		exec(phone, `UPDATE tasks SET done = 1 WHERE id = 1`),
		exec(laptop, `UPDATE tasks SET title = 'test on Linux' WHERE id = 2`), // the same column
		exec(phone, `UPDATE tasks SET title = 'test on macOS' WHERE id = 2`),
		exec(laptop, `INSERT INTO tasks(title, owner) VALUES ('release', 'Bob')`), // both get id 3
		exec(phone, `INSERT INTO tasks(title, owner) VALUES ('celebrate', 'Cleo')`),
		print("laptop, before syncing:", laptop),
		print("phone, before syncing:", phone),
		laptopReplica.Sync(ctx), phoneReplica.Sync(ctx), laptopReplica.Sync(ctx),
		print("both, after laptop, then phone have pushed:", laptop),
	); err != nil {
		return err
	}
	for event := range events {
		if e, ok := event.(tursosync.Collided); ok {
			c := e.Collision
			fmt.Printf("collision: %s %d is %q here, and was %q on the remote\n",
				c.Table, c.Key, c.Local["title"], c.Remote["title"])
			break // leaving the loop ends the subscription
		}
	}
	return nil
}

func exec(db *sql.DB, query string) error {
	_, err := db.Exec(query)
	return err
}

func print(title string, db *sql.DB) error {
	fmt.Println(title)
	rows, err := db.Query(`SELECT id, title, owner, iif(done, 'done', '') FROM tasks ORDER BY id`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id int
		var task, owner, done string
		if err := rows.Scan(&id, &task, &owner, &done); err != nil {
			return err
		}
		fmt.Printf("   %d %-14s %-5s%s\n", id, task, owner, done)
	}
	return rows.Err()
}
