// Package cdc is the log of local changes: what was committed on this replica
// and is not yet part of base. It reads and writes the table turso_cdc, turns
// changes into mutations for the remote, and replays them on a new base.
package cdc

import "time"

// ID identifies a change. Ids grow with every change of a replica, never go
// back and are never used again, across rebases too. The first one is 1.
type ID int64

// Type says what happened to a row, in the numbers of Turso's turso_cdc.
type Type int8

// The three things that can happen to a row.
const (
	Delete Type = -1
	Update Type = 0
	Insert Type = 1
)

// SchemaTable is the table name under which schema changes are logged.
const SchemaTable = "sqlite_schema"

// Shape names what the images of a change hold. Images are never decoded by
// position against a table's present definition: the table may have changed
// since.
type Shape struct {
	// Columns are the stored columns in table order: generated columns are
	// left out.
	Columns []string `json:"columns"`
	// Key holds the indexes into Columns of the primary key, in key order.
	// Empty: the table has no declared primary key, and the rowid is the row's
	// identity.
	Key []int `json:"key,omitempty"`
	// RowIDAlias is the index into Columns of the INTEGER PRIMARY KEY that is
	// the rowid, or -1.
	RowIDAlias int `json:"rowid_alias"`
	// WithoutRowID tells that rows have no rowid; RowID of a change is 0 then.
	WithoutRowID bool `json:"without_rowid,omitempty"`
}

// Change is the net effect of one committed transaction on one row, or one
// schema statement.
type Change struct {
	ID    ID
	Txn   ID // id of the first change of the same transaction
	Time  time.Time
	Type  Type
	Table string // SchemaTable for a schema statement
	RowID int64
	Shape *Shape // nil for a schema statement
	// Before and After are rows in SQLite's record format
	// (https://sqlite.org/fileformat2.html#record_format), with the rowid
	// alias holding its value. Before is nil for an insert, After for a delete.
	Before, After []byte
	Schema        *SchemaChange // nil for a row
	// Local is set by Load for an update or delete of a row that has no identity
	// but its rowid (no primary key, or a NULL in it) and whose insert is itself
	// in the log: the row may have another rowid on the remote and on a new base,
	// and is found by its content.
	Local bool
}

// SchemaChange is a schema statement in a normal form: for CREATE the text that
// SQLite stores in sqlite_schema, for DROP a DROP of the object, for ALTER and
// PRAGMA (user_version, application_id) the statement itself.
type SchemaChange struct {
	Op    string // "create", "drop", "alter", "pragma"
	Kind  string // "table", "index", "view", "trigger"; the pragma's name
	Name  string
	Table string // the table an index or a trigger belongs to; Name for a table
	SQL   string
	Was   string // for DROP: what sqlite_schema had of the object; may be empty
}

// Mutation is a change on its way to the remote: one SQL statement with
// positional arguments (nil, int64, float64, string, []byte).
type Mutation struct {
	SQL  string
	Args []any
	// Change is the id of the change that the mutation stems from; of the first
	// one, if it holds the rows of several.
	Change ID
	// Suspends and Resumes name the trigger that the mutation drops, and creates
	// again, so that it does not fire for the rows in between: its effects are among
	// them. A remote that can silence triggers need not be sent these mutations.
	Suspends, Resumes string
}
