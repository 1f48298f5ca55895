package cdc

import (
	"fmt"

	"github.com/mattn/go-sqlite3"
)

// localTables are the tables that every replica keeps in live beside the user's
// own. Their text is part of the on-disk format: it must be the same on every
// path that creates them.
var localTables = []string{
	`CREATE TABLE IF NOT EXISTS turso_cdc(change_id INTEGER PRIMARY KEY, change_time INTEGER, change_txn_id INTEGER, change_type INTEGER, table_name TEXT, id, "before" BLOB, "after" BLOB, updates BLOB, shape INTEGER)`,
	`CREATE TABLE IF NOT EXISTS turso_sync_state(key TEXT PRIMARY KEY, value) WITHOUT ROWID`,
	`CREATE TABLE IF NOT EXISTS turso_sync_rejected(txn_id INTEGER, change_id INTEGER PRIMARY KEY, reason TEXT, rejected_at INTEGER, change_time INTEGER, change_txn_id INTEGER, change_type INTEGER, table_name TEXT, id, "before" BLOB, "after" BLOB, updates BLOB, shape INTEGER)`,
}

// Setup creates the local tables that are missing. Inside an open transaction it
// is part of that.
func Setup(conn *sqlite3.SQLiteConn) error {
	for _, text := range localTables {
		if err := exec(conn, text); err != nil {
			return fmt.Errorf("create local tables: %w", err)
		}
	}
	return nil
}
