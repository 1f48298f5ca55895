// Offline shows a program that has no network when it starts for the first time,
// writes, ends, starts again, and meets its remote later: every query works all the
// while, and nothing is lost.
//
//	go run ./examples/offline
package main

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"net"
	"net/http"
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
	dir, err := os.MkdirTemp("", "tursosync-offline-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	addr := l.Addr().String()
	l.Close() // nobody listens there for now
	dsn := filepath.Join(dir, "app.db") + "?url=http://" + addr

	fmt.Println("1. First start. Nobody listens at the remote's address.")
	const schema = `CREATE TABLE log(at TEXT PRIMARY KEY, what TEXT);`
	if err := use(ctx, dsn, schema+`INSERT INTO log VALUES ('08:00', 'first start')`); err != nil {
		return err
	}
	fmt.Println("2. Second start, still no network.")
	if err := use(ctx, dsn, `INSERT INTO log VALUES ('12:00', 'second start')`); err != nil {
		return err
	}

	fmt.Println("3. Third start. Now the network comes.")
	db, err := sql.Open("tursosync", dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	replica, err := tursosync.ReplicaOf(db)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "server.db")
	srv, err := server.Open(server.Config{File: file})
	if err != nil {
		return err
	}
	defer srv.Close()
	l, err = net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer l.Close()
	go http.Serve(l, srv)

	if err := replica.Wait(ctx); err != nil { // until everything is on the remote
		return err
	}

	fmt.Println("4. The server's own file holds:")
	remote, err := sql.Open("tursosync", "file:"+file+"?mode=ro") // plain SQLite, nothing is synced
	if err != nil {
		return err
	}
	defer remote.Close()
	var entries string
	const all = `SELECT group_concat('   ' || at || ' ' || what, char(10)) FROM (SELECT * FROM log ORDER BY at)`
	if err := remote.QueryRowContext(ctx, all).Scan(&entries); err != nil {
		return err
	}
	fmt.Println(entries)
	return nil
}

// use is one run of the program: open, write, look, close.
func use(ctx context.Context, dsn, statement string) error {
	db, err := sql.Open("tursosync", dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, statement); err != nil {
		return err
	}
	replica, err := tursosync.ReplicaOf(db)
	if err != nil {
		return err
	}
	// Asking is not needed; the syncer tries by itself. An error tells that the
	// remote is away, and changes nothing.
	if err := replica.Sync(ctx); err == nil {
		return fmt.Errorf("somebody answers at the remote's address")
	}
	stats, err := replica.Stats(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("   %s, %d changes pending\n", replica.Status().State, stats.PendingChanges)
	return nil
}
