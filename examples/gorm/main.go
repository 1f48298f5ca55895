// Gorm shows GORM on two replicas: gorm.io/driver/sqlite with the name of this
// driver, and nothing else. Both devices migrate, write, and end with the same rows.
//
//	cd examples/gorm && go run .
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"

	"gorm.io/driver/sqlite"
	"gorm.io/gorm"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/server"
)

// Author has a random key: two devices that are offline would give the same
// integers to different rows (gorm.Model does that).
type Author struct {
	ID    string `gorm:"primaryKey"`
	Name  string `gorm:"uniqueIndex"`
	Books []Book
}

type Book struct {
	ID       string `gorm:"primaryKey"`
	AuthorID string `gorm:"index"`
	Title    string
	Read     int
}

func (a *Author) BeforeCreate(*gorm.DB) error { a.ID = rand.Text(); return nil }
func (b *Book) BeforeCreate(*gorm.DB) error   { b.ID = rand.Text(); return nil }

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "tursosync-gorm-")
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

	var dbs []*gorm.DB
	var replicas []*tursosync.Replica
	for _, name := range []string{"laptop.db", "phone.db"} {
		db, err := gorm.Open(sqlite.New(sqlite.Config{
			DriverName: tursosync.DriverName,
			DSN:        filepath.Join(dir, name) + "?sync=manual&url=" + remote.URL, // manual: for a fixed order below
		}))
		if err != nil {
			return err
		}
		pool, err := db.DB()
		if err != nil {
			return err
		}
		defer pool.Close()
		r, err := tursosync.ReplicaOf(pool)
		if err != nil {
			return err
		}
		if err := db.AutoMigrate(&Author{}, &Book{}); err != nil { // on each device
			return err
		}
		dbs, replicas = append(dbs, db), append(replicas, r)
	}
	laptop, phone := dbs[0], dbs[1]

	leGuin := Author{Name: "Le Guin", Books: []Book{{Title: "The Dispossessed"}}}
	if err := errors.Join(
		laptop.Create(&Author{Name: "Lem", Books: []Book{{Title: "Solaris", Read: 1}, {Title: "Fiasco"}}}).Error,
		phone.Create(&leGuin).Error,
		phone.Model(&leGuin.Books[0]).Update("Read", gorm.Expr("read + 1")).Error,
	); err != nil {
		return err
	}
	for _, r := range []*tursosync.Replica{replicas[0], replicas[1], replicas[0]} {
		if err := r.Sync(ctx); err != nil {
			return err
		}
	}
	for i, db := range dbs {
		var authors []Author
		if err := db.Preload("Books").Order("name").Find(&authors).Error; err != nil {
			return err
		}
		fmt.Println([]string{"laptop", "phone"}[i])
		for _, a := range authors {
			for _, b := range a.Books {
				fmt.Printf("   %-8s %-17s read %d times\n", a.Name, b.Title, b.Read)
			}
		}
	}
	return nil
}
