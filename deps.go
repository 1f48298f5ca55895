//go:build tools

package tursosync

import (
	_ "github.com/DATA-DOG/go-sqlmock"
	_ "github.com/gofrs/flock"
	_ "github.com/jmoiron/sqlx"
	_ "github.com/mattn/go-sqlite3"
	_ "github.com/pressly/goose/v3"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sync/semaphore"
	_ "google.golang.org/protobuf/encoding/protowire"
)
