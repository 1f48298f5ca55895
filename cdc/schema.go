package cdc

import "fmt"

// SchemaObject is a row of sqlite_schema: kind is table, index, view or trigger.
type SchemaObject struct {
	Kind, Name, Table, SQL string
}

// DriftError tells that local and remote disagree about a definition, so that
// syncing cannot go on until somebody makes them agree.
type DriftError struct {
	Kind, Name string // what is concerned: "table", "index", "view", "trigger", "column"
	Table      string // the table of a column
	Local      string // the local definition, or the change that needs the object
	Remote     string // the remote's definition; empty: it does not exist there
}

func (e *DriftError) Error() string {
	what := e.Kind + " " + quote(e.Name)
	if e.Kind == "column" {
		what = "column " + quote(e.Table) + "." + quote(e.Name)
	}
	if e.Remote == "" {
		return fmt.Sprintf("schema drift: %s does not exist on the remote (local: %s)", what, e.Local)
	}
	return fmt.Sprintf("schema drift: %s is defined differently on the remote (local: %s; remote: %s)", what, e.Local, e.Remote)
}
