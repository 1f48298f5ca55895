// Quickstart shows tursosync at work in one program: a small sync server on
// loopback, two replicas opened with plain sql.Open, a goose migration on one, writes
// with database/sql and sqlx on both, also while the server is down, and the
// background syncer that brings them together.
//
//	go run ./examples/quickstart
package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/pressly/goose/v3"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/server"
)

//go:embed migrations/*.sql
var migrations embed.FS

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) (err error) {
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	dir, err := os.MkdirTemp("", "tursosync-quickstart-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	say("1. A sync server on loopback, two replicas.")
	remote := &remote{file: filepath.Join(dir, "server.db")}
	if err := remote.start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remote.stop()) }()

	// The settings only shorten the waits; sync is automatic by default.
	dsn := func(name string) string {
		return filepath.Join(dir, name) + "?url=http://" + remote.addr + "&syncInterval=200ms&pushDelay=20ms"
	}
	laptop, err := sql.Open("tursosync", dsn("laptop.db"))
	if err != nil {
		return err
	}
	defer laptop.Close()
	phone, err := sqlx.Open("tursosync", dsn("phone.db"))
	if err != nil {
		return err
	}
	defer phone.Close()

	say("2. goose migrates the laptop; the table reaches the phone by itself.")
	if err := migrate(ctx, laptop); err != nil {
		return err
	}
	err = until(ctx, func() (bool, error) {
		var n int
		err := phone.GetContext(ctx, &n, `SELECT count(*) FROM sqlite_schema WHERE name = 'notes'`)
		return n == 1, err
	})
	if err != nil {
		return fmt.Errorf("wait for the migration: %w", err)
	}

	say("3. Both write, one with database/sql, the other with sqlx.")
	if _, err := laptop.ExecContext(ctx, `INSERT INTO notes VALUES ('l1', 'laptop', 'written with database/sql')`); err != nil {
		return err
	}
	if _, err := phone.NamedExecContext(ctx, `INSERT INTO notes VALUES (:id, :author, :body)`,
		note{ID: "p1", Author: "phone", Body: "written with sqlx"}); err != nil {
		return err
	}
	if err := same(ctx, laptop, phone.DB, 2); err != nil {
		return err
	}

	say("4. The server goes down. Both go on writing.")
	if err := remote.stop(); err != nil {
		return err
	}
	if _, err := laptop.ExecContext(ctx, `INSERT INTO notes VALUES ('l2', 'laptop', 'written offline')`); err != nil {
		return err
	}
	if _, err := phone.ExecContext(ctx, `UPDATE notes SET body = 'edited offline' WHERE id = 'p1'`); err != nil {
		return err
	}
	replica, err := tursosync.ReplicaOf(laptop)
	if err != nil {
		return err
	}
	if err := until(ctx, func() (bool, error) { return replica.Status().State == tursosync.Offline, nil }); err != nil {
		return fmt.Errorf("wait for the laptop to notice: %w", err)
	}
	stats, err := replica.Stats(ctx)
	if err != nil {
		return err
	}
	say("   laptop: %s, %d change pending", replica.Status().State, stats.PendingChanges)

	say("5. The server is back. The background syncer does the rest.")
	if err := remote.start(); err != nil {
		return err
	}
	if err := same(ctx, laptop, phone.DB, 3); err != nil {
		return err
	}

	say("6. Both replicas hold:")
	var notes []note
	if err := phone.SelectContext(ctx, &notes, `SELECT id, author, body FROM notes ORDER BY id`); err != nil {
		return err
	}
	for _, n := range notes {
		say("   %-3s %-7s %s", n.ID, n.Author, n.Body)
	}
	return digests(ctx, say, remote, dir, laptop, phone.DB)
}

type note struct{ ID, Author, Body string }

func migrate(ctx context.Context, db *sql.DB) error {
	folder, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, folder)
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// same waits until both replicas hold the same want notes.
func same(ctx context.Context, a, b *sql.DB, want int) error {
	err := until(ctx, func() (bool, error) {
		l, err := contents(ctx, a)
		if err != nil {
			return false, err
		}
		r, err := contents(ctx, b)
		return len(l) == want && slices.Equal(l, r), err
	})
	if err != nil {
		return fmt.Errorf("wait for equal replicas: %w", err)
	}
	return nil
}

func contents(ctx context.Context, db *sql.DB) (rows []note, err error) {
	err = sqlx.NewDb(db, "sqlite3").SelectContext(ctx, &rows, `SELECT id, author, body FROM notes ORDER BY id`)
	return rows, err
}

// digests shows that the bases of both replicas are the server's database, byte
// for byte.
func digests(ctx context.Context, say func(string, ...any), remote *remote, dir string, dbs ...*sql.DB) error {
	for _, db := range dbs {
		r, err := tursosync.ReplicaOf(db)
		if err != nil {
			return err
		}
		if err := r.Sync(ctx); err != nil {
			return err
		}
	}
	// A push of the second may have come after the pull of the first.
	first, err := tursosync.ReplicaOf(dbs[0])
	if err != nil {
		return err
	}
	if err := first.Pull(ctx); err != nil {
		return err
	}
	want, err := remote.server.Digest()
	if err != nil {
		return err
	}
	say("7. SHA-256 of the server's database: %s…", want[:16])
	for _, name := range []string{"laptop.db", "phone.db"} {
		b, err := os.ReadFile(filepath.Join(dir, name+"-base"))
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		got := hex.EncodeToString(sum[:])
		if got != want {
			return fmt.Errorf("base of %s has digest %s, the server %s", name, got, want)
		}
		say("   base of %-10s               %s…  equal", name, got[:16])
	}
	return nil
}

// until asks again and again, until ctx ends.
func until(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// remote is the server, which can be stopped and started on one address.
type remote struct {
	file, addr string
	server     *server.Server
	http       *http.Server
}

func (r *remote) start() (err error) {
	if r.server, err = server.Open(server.Config{File: r.file}); err != nil {
		return err
	}
	if r.addr == "" {
		r.addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", r.addr)
	if err != nil {
		return errors.Join(err, r.server.Close())
	}
	r.addr = l.Addr().String()
	r.http = &http.Server{Handler: r.server}
	go r.http.Serve(l)
	return nil
}

func (r *remote) stop() error {
	if r.server == nil {
		return nil
	}
	err := errors.Join(r.http.Close(), r.server.Close())
	r.server = nil
	return err
}
