package tursosync_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync"
)

// A file that is given a url later keeps what was written before.
func Example() {
	dir, err := os.MkdirTemp("", "tursosync")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	db, err := sql.Open("tursosync", filepath.Join(dir, "app.db")) // + "?url=libsql://…&authToken=…"
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`CREATE TABLE notes(id TEXT PRIMARY KEY, body TEXT); INSERT INTO notes VALUES ('n1', 'milk')`); err != nil {
		log.Fatal(err)
	}
	var body string
	if err := db.QueryRow(`SELECT body FROM notes WHERE id = ?`, "n1").Scan(&body); err != nil {
		log.Fatal(err)
	}
	fmt.Println(body)
	// Output: milk
}

// Settings that a DSN cannot spell, such as functions for every connection.
func ExampleNewConnector() {
	c, err := tursosync.NewConnector(tursosync.Config{
		Path: ":memory:",
		ConnectHook: func(c *sqlite3.SQLiteConn) error {
			return c.RegisterFunc("shout", strings.ToUpper, true)
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	db := sql.OpenDB(c)
	defer db.Close()
	var s string
	if err := db.QueryRow(`SELECT shout('hello')`).Scan(&s); err != nil {
		log.Fatal(err)
	}
	fmt.Println(s)
	// Output: HELLO
}

// The go-sqlite3 connection underneath, for what database/sql does not offer.
func ExampleConn_SQLiteConn() {
	db, err := sql.Open("tursosync", ":memory:")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	err = conn.Raw(func(dc any) error {
		inner := dc.(*tursosync.Conn).SQLiteConn()
		fmt.Println(inner.GetLimit(sqlite3.SQLITE_LIMIT_ATTACHED))
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: 10
}

func ExampleParseDSN() {
	_, err := tursosync.ParseDSN("app.db?url=libsql://db-org.turso.io&authtoken=secret")
	fmt.Println(err)
	// Output: tursosync: setting "authtoken": is not a setting; did you mean "authToken"?
}
