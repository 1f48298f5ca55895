// Selfhost shows the server package behind net/http: one handler for each
// database, tokens that may write or only read, and what a replica says when its
// token is refused. In earnest, put TLS in front: tokens travel with every request.
//
//	go run ./examples/selfhost
package main

import (
	"context"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/server"
)

// authorize knows two tokens. Yours may look into a JWT or a table; it is called
// for every request.
func authorize(_ context.Context, token string) server.Access {
	is := func(secret string) bool { return subtle.ConstantTimeCompare([]byte(token), []byte(secret)) == 1 }
	switch {
	case is("writer-secret"):
		return server.ReadWrite
	case is("reader-secret"):
		return server.ReadOnly
	}
	return server.NoAccess
}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "tursosync-selfhost-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	shop, err := server.Open(server.Config{File: filepath.Join(dir, "shop.db"), Authorize: authorize})
	if err != nil {
		return err
	}
	defer shop.Close() // after the last request: its WAL goes into its file
	mux := http.NewServeMux()
	mux.Handle("/shop/", http.StripPrefix("/shop", shop)) // …/shop is the url of this database
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go web.Serve(l)
	defer func() { err = errors.Join(err, web.Shutdown(ctx)) }()

	open := func(name, token string) (*sql.DB, *tursosync.Replica, error) {
		c, err := tursosync.NewConnector(tursosync.Config{
			Path:      filepath.Join(dir, name),
			URL:       "http://" + l.Addr().String() + "/shop",
			AuthToken: token,
			Sync:      tursosync.SyncManual, // only so that this program decides the order
		})
		if err != nil {
			return nil, nil, err
		}
		db := sql.OpenDB(c)
		r, err := tursosync.ReplicaOf(db)
		return db, r, err
	}
	for _, device := range []struct{ name, token string }{
		{"till", "writer-secret"},
		{"display", "reader-secret"},
		{"stranger", "guessed"},
	} {
		db, r, err := open(device.name+".db", device.token)
		if err != nil {
			return err
		}
		defer db.Close()
		fmt.Printf("%s:\n   pull: %s\n", device.name, words(r.Pull(ctx)))
		if _, err := db.Exec(`CREATE TABLE IF NOT EXISTS prices(item TEXT PRIMARY KEY, cents INT)`); err != nil {
			return err
		}
		if _, err := db.Exec(`INSERT INTO prices VALUES (?, 250) ON CONFLICT DO NOTHING`, "tea for the "+device.name); err != nil {
			return err
		}
		fmt.Printf("   push: %s\n", words(r.Push(ctx)))
		var items int
		if err := db.QueryRow(`SELECT count(*) FROM prices`).Scan(&items); err != nil {
			return err
		}
		fmt.Printf("   it holds %d items, status %s\n", items, r.Status().State)
	}
	return nil
}

func words(err error) string {
	if err == nil {
		return "ok"
	}
	return err.Error()
}
