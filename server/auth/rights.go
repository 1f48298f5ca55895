package auth

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/tursosync/tursosync/server"
)

// Actions is a set of what may be done with a table: the seven of Turso Cloud.
type Actions uint8

// The actions.
const (
	DataRead Actions = 1 << iota
	DataAdd
	DataUpdate
	DataDelete
	SchemaAdd
	SchemaUpdate
	SchemaDelete

	allData    = DataRead | DataAdd | DataUpdate | DataDelete
	allSchema  = SchemaAdd | SchemaUpdate | SchemaDelete
	AllActions = allData | allSchema
)

// actionNames in the order of the bits.
var actionNames = [...]string{"data_read", "data_add", "data_update", "data_delete", "schema_add", "schema_update", "schema_delete"}

// Names returns the actions by name.
func (a Actions) Names() []string {
	out := []string{}
	for i, name := range actionNames {
		if a&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return out
}

func (a Actions) String() string { return strings.Join(a.Names(), ",") }

// ParseActions reads names of actions.
func ParseActions(names []string) (Actions, error) {
	var out Actions
next:
	for _, name := range names {
		for i, known := range actionNames {
			if name == known {
				out |= 1 << i
				continue next
			}
		}
		return 0, fmt.Errorf("unknown action %q; the actions are %s", name, AllActions)
	}
	return out, nil
}

// Rule permits actions on tables.
type Rule struct {
	Tables  []string // nil or empty: all
	Actions Actions
}

// allTables is how the command line says it.
const allTables = "all"

// ParseRule reads a rule as the Turso CLI writes it: "all:data_read" or
// "todos:data_add,data_update".
func ParseRule(s string) (Rule, error) {
	i := strings.LastIndexByte(s, ':')
	if i <= 0 || i == len(s)-1 {
		return Rule{}, fmt.Errorf("permission %q is not of the form TABLE:ACTION,… or all:ACTION,…", s)
	}
	actions, err := ParseActions(strings.Split(s[i+1:], ","))
	if err != nil {
		return Rule{}, fmt.Errorf("permission %q: %w", s, err)
	}
	r := Rule{Actions: actions}
	if s[:i] != allTables {
		r.Tables = []string{s[:i]}
	}
	return r, nil
}

func (r Rule) String() string {
	if len(r.Tables) == 0 {
		return allTables + ":" + r.Actions.String()
	}
	return strings.Join(r.Tables, "|") + ":" + r.Actions.String()
}

// Rights are what may be done in one database. They implement
// [server.Permission]; nothing changes them.
type Rights struct {
	all    Actions
	tables map[string]Actions // by folded name, besides all
	some   Actions            // on any table
	// subject is whose rights they are; empty: nobody's in particular.
	subject string
}

// Subject implements server.Subject.
func (r *Rights) Subject() string { return r.subject }

// NewRights adds rules up.
func NewRights(rules ...Rule) *Rights {
	r := &Rights{tables: map[string]Actions{}}
	for _, rule := range rules {
		r.some |= rule.Actions
		if len(rule.Tables) == 0 {
			r.all |= rule.Actions
		}
		for _, t := range rule.Tables {
			r.tables[fold(t)] |= rule.Actions
		}
	}
	return r
}

// fold makes names comparable as SQLite compares them: only ASCII letters have a
// case. Anything cleverer would take one table for another.
func fold(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// May tells whether all of the actions are permitted on a table.
func (r *Rights) May(a Actions, table string) bool {
	return a&^(r.all|r.tables[fold(table)]) == 0
}

// ReadAll tells whether every table may be read.
func (r *Rights) ReadAll() bool { return r.all&DataRead != 0 }

// ReadOnly implements server.Permission.
func (r *Rights) ReadOnly() bool { return r.some&^DataRead == 0 }

// Pull implements server.Permission.
func (r *Rights) Pull() error {
	if r.ReadAll() {
		return nil
	}
	return &server.DeniedError{Status: http.StatusForbidden, Message: "Authorization forbidden: " +
		"a pull carries the pages of all tables, and the token does not have data_read on all of them (all:data_read)"}
}

func (r *Rights) full() bool { return r.all == AllActions }

// uniform tells that no table has better rights than another.
func (r *Rights) uniform() bool { return r.some == r.all }

// syncs tells that the rights are those of a sync client: it pulls, and it pushes
// something.
func (r *Rights) syncs() bool { return r.ReadAll() && !r.ReadOnly() }
