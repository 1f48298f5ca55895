package auth

import (
	"fmt"
	"strings"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/server"
)

// ANALYZE and REINDEX are not among go-sqlite3's constants.
const (
	sqliteCopy    = 0
	sqliteReindex = 27
	sqliteAnalyze = 28
	sqliteCreateV = 29
	sqliteDropV   = 30
	sqliteRecurse = 33
)

// Allow implements server.Permission: it is the function from rights and a call of
// SQLite's authorizer to a verdict. What it does not know, it refuses.
func (r *Rights) Allow(a server.Action) bool {
	switch a.Code {
	case sqlite3.SQLITE_SELECT, sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT, sqliteRecurse:
		return true
	case sqlite3.SQLITE_FUNCTION:
		return r.function(fold(a.Arg2))
	case sqlite3.SQLITE_PRAGMA:
		return r.pragma(fold(a.Arg1), a.Arg2)
	case sqlite3.SQLITE_READ, sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE:
		switch fold(a.Schema) {
		case "temp":
			return true
		case "main", "": // "" when a table is read without any of its columns
			return r.data(a, fold(a.Arg1))
		}
		return false
	}
	return r.schema(a)
}

// Missing implements server.Explainer.
func (r *Rights) Missing(a server.Action) string {
	need, table := needs(a)
	if strings.HasPrefix(fold(table), "sqlite_") && need&DataRead == 0 {
		return "right to change the schema" // this is how it is written
	}
	if need &^= r.all | r.tables[fold(table)]; need == 0 {
		return ""
	}
	return fmt.Sprintf("%s on table %q", need, table)
}

// needs is what an action needs at least, on which table.
func needs(a server.Action) (need Actions, table string) {
	switch a.Code {
	case sqlite3.SQLITE_READ:
		need, table = DataRead, a.Arg1
	case sqlite3.SQLITE_INSERT:
		need, table = DataAdd, a.Arg1
	case sqlite3.SQLITE_UPDATE:
		need, table = DataUpdate, a.Arg1
	case sqlite3.SQLITE_DELETE:
		need, table = DataDelete, a.Arg1
	case sqlite3.SQLITE_CREATE_TABLE, sqlite3.SQLITE_CREATE_VIEW:
		need, table = SchemaAdd, a.Arg1
	case sqlite3.SQLITE_CREATE_INDEX, sqlite3.SQLITE_CREATE_TRIGGER:
		need, table = SchemaAdd, a.Arg2
	case sqlite3.SQLITE_DROP_TABLE, sqlite3.SQLITE_DROP_VIEW:
		need, table = SchemaDelete, a.Arg1
	case sqlite3.SQLITE_DROP_INDEX, sqlite3.SQLITE_DROP_TRIGGER:
		need, table = SchemaDelete, a.Arg2
	case sqlite3.SQLITE_ALTER_TABLE:
		need, table = SchemaUpdate, a.Arg2
	}
	if a.Replaces {
		need |= DataDelete
	}
	return need, table
}

// data decides about rows of the database.
func (r *Rights) data(a server.Action, table string) bool {
	switch table {
	case "sqlite_master", "sqlite_schema", "sqlite_temp_master", "sqlite_temp_schema":
		// Statements that change the schema write here, and are asked for themselves.
		// Nobody else can, since writable_schema is out of reach.
		return a.Code == sqlite3.SQLITE_READ || r.some&allSchema != 0 || r.syncs()
	case "sqlite_sequence", "sqlite_stat1":
		if r.bookkeeping(a) {
			return true
		}
	case server.WatermarkTable:
		if r.syncs() && a.Code != sqlite3.SQLITE_DELETE && !a.Replaces {
			return true
		}
	}
	var need Actions
	switch a.Code {
	case sqlite3.SQLITE_READ:
		if a.New || tableFunctions[table] {
			return true
		}
		need = DataRead
	case sqlite3.SQLITE_INSERT:
		need = DataAdd
	case sqlite3.SQLITE_UPDATE:
		need = DataUpdate
	case sqlite3.SQLITE_DELETE:
		need = DataDelete
	}
	if a.Replaces {
		need |= DataDelete
	}
	return r.May(need, table)
}

// bookkeeping is what DROP and ALTER do in SQLite's own tables. They use the
// columns that hold names, which sqlite_schema shows to everybody, and delete. Who
// may drop some table can thereby make SQLite forget the counters of others.
func (r *Rights) bookkeeping(a server.Action) bool {
	column := fold(a.Arg2)
	names := column == "name" || column == "tbl" || column == "idx"
	switch a.Code {
	case sqlite3.SQLITE_READ:
		return names
	case sqlite3.SQLITE_UPDATE:
		return names && r.some&SchemaUpdate != 0
	case sqlite3.SQLITE_DELETE:
		return r.some&SchemaDelete != 0
	}
	return false
}

// tableFunctions are functions that look like tables; those of PRAGMAs ask again
// as PRAGMAs when they run.
var tableFunctions = map[string]bool{"json_each": true, "json_tree": true, "pragma_quick_check": true,
	"pragma_integrity_check": true, "pragma_foreign_key_check": true}

func init() {
	for name := range pragmasAboutSchema {
		tableFunctions["pragma_"+name] = true
	}
	for name := range pragmasToRead {
		tableFunctions["pragma_"+name] = true
	}
}

// schema decides about what is defined.
func (r *Rights) schema(a server.Action) bool {
	switch a.Code {
	case sqlite3.SQLITE_CREATE_TEMP_INDEX, sqlite3.SQLITE_CREATE_TEMP_TABLE, sqlite3.SQLITE_CREATE_TEMP_TRIGGER,
		sqlite3.SQLITE_CREATE_TEMP_VIEW, sqlite3.SQLITE_DROP_TEMP_INDEX, sqlite3.SQLITE_DROP_TEMP_TABLE,
		sqlite3.SQLITE_DROP_TEMP_TRIGGER, sqlite3.SQLITE_DROP_TEMP_VIEW:
		// A trigger among them works for this connection alone.
		return true
	case sqlite3.SQLITE_ALTER_TABLE: // the arguments are schema and table
		return fold(a.Arg1) == "temp" || fold(a.Arg1) == "main" && r.May(SchemaUpdate, a.Arg2)
	}
	if fold(a.Schema) != "main" {
		return false
	}
	switch a.Code {
	case sqlite3.SQLITE_CREATE_TABLE:
		switch fold(a.Arg1) {
		case server.WatermarkTable:
			return r.syncs() || r.May(SchemaAdd, a.Arg1)
		case "sqlite_sequence": // comes with the first AUTOINCREMENT
			return r.some&SchemaAdd != 0
		}
		return r.May(SchemaAdd, a.Arg1)
	case sqlite3.SQLITE_CREATE_VIEW:
		return r.May(SchemaAdd, a.Arg1)
	case sqlite3.SQLITE_CREATE_INDEX: // its columns are asked for as reads
		auto := strings.HasPrefix(fold(a.Arg1), "sqlite_autoindex_"+server.WatermarkTable)
		return r.May(SchemaAdd, a.Arg2) || auto && fold(a.Arg2) == server.WatermarkTable && r.syncs()
	case sqlite3.SQLITE_CREATE_TRIGGER:
		return r.May(SchemaAdd, a.Arg2) && r.all&allData == allData
	case sqlite3.SQLITE_DROP_TABLE, sqlite3.SQLITE_DROP_VIEW, sqliteDropV:
		return r.May(SchemaDelete, a.Arg1)
	case sqlite3.SQLITE_DROP_INDEX, sqlite3.SQLITE_DROP_TRIGGER:
		return r.May(SchemaDelete, a.Arg2)
	case sqliteCreateV:
		need := SchemaAdd | DataRead
		return r.all&need == need
	case sqliteReindex: // changes nothing that can be seen
		return r.some&(SchemaAdd|SchemaUpdate) != 0
	case sqliteAnalyze:
		return r.May(SchemaUpdate|DataRead, a.Arg1)
	case sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqliteCopy:
		return false
	}
	return false
}

// function decides about SQL functions: all but those that reach out of SQL.
func (r *Rights) function(name string) bool {
	switch name {
	case "load_extension", "fts3_tokenizer":
		return false
	case "sqlite_rename_table":
		// Users cannot call it: this is ALTER TABLE … RENAME TO, whose new name the
		// authorizer is not told.
		return r.uniform()
	}
	return true
}

// pragmasAboutSchema tell what sqlite_schema tells, or about SQLite itself.
var pragmasAboutSchema = map[string]bool{"collation_list": true, "compile_options": true, "foreign_key_list": true,
	"function_list": true, "index_info": true, "index_list": true, "index_xinfo": true, "module_list": true,
	"pragma_list": true, "table_info": true, "table_list": true, "table_xinfo": true}

// pragmasToRead may be asked but not set. Some of them, set, would put constraints
// or triggers out of force.
var pragmasToRead = map[string]bool{"analysis_limit": true, "application_id": true, "auto_vacuum": true,
	"case_sensitive_like": true, "data_version": true, "defer_foreign_keys": true, "encoding": true, "foreign_keys": true,
	"freelist_count": true, "ignore_check_constraints": true, "journal_mode": true, "legacy_alter_table": true,
	"page_count": true, "page_size": true, "query_only": true, "recursive_triggers": true,
	"reverse_unordered_selects": true, "schema_version": true, "synchronous": true, "user_version": true,
	"wal_autocheckpoint": true}

// pragma decides about a PRAGMA; the server forbids more of them, to everybody.
func (r *Rights) pragma(name, argument string) bool {
	switch {
	case pragmasAboutSchema[name]:
		return true
	case name == "quick_check" || name == "integrity_check":
		// They evaluate CHECK constraints, which a client may have made up.
		return r.ReadAll() || argument != "" && r.May(DataRead, argument)
	case name == "foreign_key_check":
		return r.ReadAll()
	case argument == "":
		return pragmasToRead[name] && name != "case_sensitive_like"
	case name == "user_version" || name == "application_id":
		return r.all&SchemaUpdate != 0
	case name == "foreign_keys":
		switch fold(argument) {
		case "1", "on", "yes", "true":
			return true
		}
	case name == "defer_foreign_keys", name == "reverse_unordered_selects":
		return true // the constraints hold at COMMIT
	}
	return false
}
