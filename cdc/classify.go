package cdc

import (
	"fmt"
	"strings"

	"github.com/tursosync/tursosync/hooks"
	"github.com/tursosync/tursosync/internal/shim"
)

// Kind says what a statement does to transactions and data.
type Kind uint8

// The kinds of statements.
const (
	Empty      Kind = iota // white space and comments only
	Read                   // changes nothing
	Write                  // INSERT, UPDATE, DELETE, REPLACE, in whatever database
	Schema                 // CREATE, ALTER, DROP, ANALYZE, REINDEX, PRAGMA user_version=…
	Pragma                 // a setting of the connection
	Begin                  // BEGIN in all forms
	Commit                 // COMMIT, END
	Rollback               // ROLLBACK of the whole transaction
	Savepoint              // SAVEPOINT
	Release                // RELEASE
	RollbackTo             // ROLLBACK TO
	Attach                 // ATTACH
	Detach                 // DETACH
	Vacuum                 // VACUUM INTO
)

var kindNames = [...]string{"empty", "read", "write", "schema", "pragma", "begin", "commit", "rollback", "savepoint",
	"release", "rollback to", "attach", "detach", "vacuum into"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", k)
}

// Statement is one statement of an SQL text, classified. It is immutable, may be
// kept as long as its Session, and used again and again.
type Statement struct {
	// SQL is this statement's own text.
	SQL string
	// Tail is what follows it in the text that was given to Prepare; "" at the end.
	// The tail is not looked at before its turn: it may need what SQL creates.
	Tail string
	// Params is the number of its parameters, as sqlite3_bind_parameter_count.
	Params int
	// Columns is the number of result columns; 0: it returns no rows.
	Columns int
	// ReadOnly statements need no Run and should be executed directly.
	ReadOnly bool
	Kind     Kind

	main      bool   // may change the synchronised database
	immediate bool   // BEGIN that takes the write lock
	name      string // of a savepoint; of a pragma
	alter     string // table that is altered
	value     bool   // it sets a pragma whose value is logged
	replace   bool   // its text may replace rows
	deletes   bool   // it may delete rows
	targets   []target
	epoch     uint64 // of the Session when this was found out
	ready     *ready // what it needs, once that is in place
}

// target is a table of main that a statement may write to.
type target struct {
	table string
	// updated are the columns set by an UPDATE.
	updated []string
	care    hooks.Care
}

// The authorizer's action codes, https://sqlite.org/c3ref/c_alter_table.html.
const (
	actCreateIndex       = 1
	actCreateTempTrigger = 5
	actCreateView        = 8
	actDelete            = 9
	actDropIndex         = 10
	actDropView          = 17
	actInsert            = 18
	actPragma            = 19
	actTransaction       = 22
	actUpdate            = 23
	actAttach            = 24
	actDetach            = 25
	actAlterTable        = 26
	actReindex           = 27
	actAnalyze           = 28
	actCreateVTable      = 29
	actDropVTable        = 30
	actSavepoint         = 32
)

// classify fills in what the actions tell.
func (st *Statement) classify(class shim.Class) error {
	st.Params, st.Columns = class.Params, class.Columns
	words := hooks.Words(firstWords(st.SQL))
	switch {
	case class.Empty:
		st.Kind, st.ReadOnly = Empty, true
		return nil
	case class.Explain:
		st.Kind, st.ReadOnly = Read, true
		return nil
	case len(words) > 0 && words[0].Is("vacuum"):
		return st.classifyVacuum()
	}
	st.Kind = Read
	for _, a := range class.Actions {
		st.note(a, words)
	}
	if st.Kind == Read && !class.ReadOnly && st.name == "" {
		st.Kind, st.main = Write, true // whatever it is: look closely
	}
	if st.Kind == Write || st.Kind == Schema {
		st.replace = hooks.MayReplace(st.SQL)
	}
	if st.name != "" && (st.Kind == Read || st.Kind == Pragma || st.Kind == Schema) {
		st.classifyPragma(class.ReadOnly)
	}
	st.ReadOnly = st.Kind == Read
	return nil
}

// firstWords bounds what is looked at for the statement's first words.
func firstWords(sql string) string {
	if len(sql) > 4096 {
		return sql[:4096]
	}
	return sql
}

func (st *Statement) note(a shim.Action, words []hooks.Word) {
	raise := func(k Kind) {
		if st.Kind == Read || k == Schema {
			st.Kind = k
		}
	}
	main := strings.EqualFold(a.DB, "main")
	switch {
	case a.Code == actTransaction:
		switch a.A {
		case "BEGIN":
			st.Kind = Begin
			st.immediate = len(words) > 1 && (words[1].Is("immediate") || words[1].Is("exclusive"))
		case "COMMIT":
			st.Kind = Commit
		default:
			st.Kind = Rollback
		}
	case a.Code == actSavepoint:
		st.name = a.B
		switch a.A {
		case "BEGIN":
			st.Kind = Savepoint
		case "RELEASE":
			st.Kind = Release
		default:
			st.Kind = RollbackTo
		}
	case a.Code == actAttach:
		st.Kind = Attach
	case a.Code == actDetach:
		st.Kind = Detach
	case a.Code == actPragma:
		if st.name == "" {
			st.name, st.alter = strings.ToLower(a.A), a.B
			st.main = a.DB == "" || main
		}
	case a.Code == actInsert || a.Code == actUpdate || a.Code == actDelete:
		raise(Write)
		if main {
			st.main = true
			st.deletes = st.deletes || a.Code == actDelete
			st.target(a)
		}
	case a.Code == actAlterTable:
		raise(Schema)
		if strings.EqualFold(a.A, "main") {
			st.main, st.alter = true, a.B
		}
	case a.Code >= actCreateIndex && a.Code <= actCreateView, a.Code >= actDropIndex && a.Code <= actDropView,
		a.Code == actReindex, a.Code == actAnalyze, a.Code == actCreateVTable, a.Code == actDropVTable:
		raise(Schema)
		st.main = st.main || main
	}
}

// target notes a write to a table of main; SQLite's own tables are none.
func (st *Statement) target(a shim.Action) {
	if hasPrefixFold(a.A, "sqlite_") {
		return
	}
	for i := range st.targets {
		if strings.EqualFold(st.targets[i].table, a.A) {
			st.targets[i].add(a)
			return
		}
	}
	t := target{table: a.A}
	t.add(a)
	st.targets = append(st.targets, t)
}

func (t *target) add(a shim.Action) {
	if a.Code == actUpdate && a.B != "" {
		t.updated = append(t.updated, a.B)
	}
}

// classifyPragma decides by name; alter holds the pragma's argument until here.
func (st *Statement) classifyPragma(readOnly bool) {
	value := st.alter
	st.alter = ""
	switch st.name {
	case "user_version", "application_id":
		if value != "" && st.main {
			st.Kind, st.value = Schema, true
			return
		}
		st.Kind = Read
		if value != "" {
			st.Kind = Pragma // of an attached database
		}
	case "foreign_keys", "recursive_triggers", "temp_store", "temp_store_directory", "legacy_alter_table":
		// They change what a statement does that was classified before.
		st.Kind, st.main = Read, false
		if value != "" {
			st.Kind = Pragma
		}
	case "optimize":
		// It may run ANALYZE. SQLite says that it only reads.
		if st.main {
			st.Kind = Schema
		}
	case "journal_mode", "wal_checkpoint", "locking_mode", "query_only":
		st.Kind, st.main = Read, false
	default:
		if readOnly || !st.main {
			st.Kind, st.main = Read, false
			if !readOnly {
				st.Kind = Pragma
			}
			return
		}
		st.Kind = Schema // incremental_vacuum
	}
}

func (st *Statement) classifyVacuum() error {
	for _, w := range hooks.Words(st.SQL) {
		if w.Is("into") {
			st.Kind = Vacuum
			return nil
		}
	}
	return &UnsupportedError{
		What: "VACUUM",
		Why:  "it would move every page of a database that is synchronised by pages",
		Hint: "VACUUM INTO another file works",
	}
}

// refusal turns the authorizer's reason into an error, or returns nil.
func refusal(class shim.Class) error {
	switch class.Deny {
	case shim.DenyInternal:
		return &UnsupportedError{
			What: fmt.Sprintf("writing to %q", class.DenyWhat),
			Why:  "the table belongs to the synchronisation",
			err:  ErrInternalTable,
		}
	case shim.DenyVirtual:
		return &UnsupportedError{
			What: fmt.Sprintf("creating or dropping the virtual table %q", class.DenyWhat),
			Why:  "virtual tables are not synchronised",
			Hint: "create it in an attached or temporary database",
			err:  ErrVirtualTable,
		}
	case shim.DenyPragma:
		return &UnsupportedError{
			What: "PRAGMA " + class.DenyWhat,
			Why:  "synchronising needs WAL mode, shared access and a schema that only SQL changes",
		}
	}
	return nil
}
