package cdc

import (
	"context"
	"errors"

	"github.com/mattn/go-sqlite3"
)

// Diff emits the changes that turn the database of one connection into that of
// another, schema first, then rows, the user's tables only. Ids, times and
// transactions are left zero. Both databases are read in the transaction their
// connection is in; memory does not grow with the tables. Virtual tables that
// differ are a *VirtualTableError.
func Diff(ctx context.Context, from, to *sqlite3.SQLiteConn, emit func(*Change) error) error {
	return errors.ErrUnsupported
}
