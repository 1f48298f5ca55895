// Libsqlgo uses github.com/tursodatabase/libsql-client-go through database/sql,
// against the database whose URL it is given, and fails at the first thing that is
// not as expected.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"reflect"
	"sync"

	"github.com/tursodatabase/libsql-client-go/libsql"
)

func main() {
	log.SetFlags(0)
	connector, err := libsql.NewConnector(os.Args[1], libsql.WithAuthToken(os.Args[2]))
	check(err)
	db := sql.OpenDB(connector)
	ctx := context.Background()
	_, err = db.Exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
	check(err)
	for _, v := range []any{nil, int64(-1 << 63), 0.5, "text é", []byte{0, 255}} {
		r, err := db.Exec("INSERT INTO t(v) VALUES (?)", v)
		check(err)
		n, err := r.RowsAffected()
		check(err)
		want(n, int64(1))
		id, err := r.LastInsertId()
		check(err)
		var got any
		check(db.QueryRow("SELECT v FROM t WHERE id = :id", sql.Named("id", id)).Scan(&got))
		want(got, v)
	}
	if _, err := db.Exec("INSERT INTO t(id) VALUES (1)"); err == nil {
		log.Fatal("a second row 1")
	}

	tx, err := db.BeginTx(ctx, nil)
	check(err)
	_, err = tx.Exec("INSERT INTO t(v) VALUES ('kept')")
	check(err)
	want(count(tx.QueryRow("SELECT count(*) FROM t")), 6)
	want(count(db.QueryRow("SELECT count(*) FROM t")), 5)
	check(tx.Commit())
	want(count(db.QueryRow("SELECT count(*) FROM t")), 6)

	tx, err = db.Begin()
	check(err)
	_, err = tx.Exec("DELETE FROM t")
	check(err)
	check(tx.Rollback())
	want(count(db.QueryRow("SELECT count(*) FROM t")), 6)

	// Several statements in one text are a batch.
	_, err = db.Exec("CREATE TABLE n (v INTEGER); INSERT INTO n VALUES (0)")
	check(err)
	stmt, err := db.Prepare("UPDATE n SET v = v + ?")
	check(err)
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 5 {
				_, err := stmt.Exec(2)
				check(err)
			}
		}()
	}
	wg.Wait()
	check(stmt.Close())
	want(count(db.QueryRow("SELECT v FROM n")), 80)

	// One connection keeps what is its own.
	conn, err := db.Conn(ctx)
	check(err)
	_, err = conn.ExecContext(ctx, "CREATE TEMP TABLE tmp AS SELECT 7 AS v")
	check(err)
	want(count(conn.QueryRowContext(ctx, "SELECT v FROM tmp")), 7)
	check(conn.Close())
	check(db.Close())
	fmt.Println("ok")
}

func check(err error) {
	if err != nil {
		log.Output(2, err.Error())
		panic(err)
	}
}

func want(got, want any) {
	if !reflect.DeepEqual(got, want) {
		panic(fmt.Sprintf("got %v (%T), want %v (%T)", got, got, want, want))
	}
}

func count(r *sql.Row) (n int) {
	check(r.Scan(&n))
	return n
}
