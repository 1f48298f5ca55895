package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/shim"
	"github.com/tursosync/tursosync/internal/wire"
)

// silence is what a stream has of wire.ReplaySQL: some of the database's triggers
// do not fire, as though they were dropped and created again at the end, but the
// schema is not written.
//
// SQLite can turn off all triggers of a connection but those of its TEMP schema
// (https://sqlite.org/c3ref/c_dbconfig_defensive.html). So triggers are turned off,
// and those that shall fire all the same are there once more as TEMP triggers.
// While it lasts, strangers can do nothing that would reach these copies.
//
// It lasts until the transaction ends: prepare, through which all SQL of strangers
// comes, looks. And not beyond the request: park and unrestrict end it. The switch
// and the copies are the connection's, so that nobody else notices, and SQLite
// compiles statements anew when the switch is turned.
type silence struct {
	copies []string // the names of the TEMP triggers
}

// replay silences the triggers that are named, and no others any more. It returns
// how many they are.
func (c *conn) replay(names []string) (n int64, err error) {
	if err := c.wake(); err != nil || len(names) == 0 {
		return 0, err
	}
	if c.db.Info().Autocommit {
		return 0, refuse("%s stands outside of a transaction", wire.ReplayName)
	}
	if c.permission.ReadOnly() {
		return 0, refuse("the token is read-only")
	}
	c.own = true
	defer func() { c.own = false }()
	if n, err := c.one("SELECT count(*) FROM temp.sqlite_schema"); err != nil || n != "0" {
		if err == nil {
			err = refuse("the stream has temporary tables, views or triggers")
		}
		return 0, err
	}
	n, keep, err := c.choose(names)
	if err != nil || n == 0 {
		return 0, err
	}
	c.silence = &silence{}
	for _, t := range keep {
		if err = c.copyTrigger(t); err != nil {
			break
		}
	}
	if err == nil {
		err = c.db.SetConfig(shim.EnableTrigger, false)
	}
	if err != nil {
		if end := c.wake(); end != nil {
			return 0, end
		}
		return 0, err
	}
	return n, nil
}

// definition is a trigger of the schema.
type definition struct{ name, table, sql string }

// choose counts the triggers that are to be silent, and returns those that are to
// fire.
//
// A client could have the first dropped and created again if it may drop them. One
// that may not is trusted with their effects, which it sends as rows, but not with
// what they forbid: a trigger that may RAISE fires. If it has effects besides, it
// can neither fire nor be silent.
func (c *conn) choose(names []string) (n int64, keep []definition, err error) {
	silent := make(map[string]bool, len(names))
	for _, name := range names {
		silent[foldName(name)] = true
	}
	s, _, err := c.db.Prepare("SELECT name, tbl_name, sql FROM main.sqlite_schema WHERE type = 'trigger'")
	if err != nil {
		return 0, nil, err
	}
	defer s.Close()
	for {
		row, err := s.Step()
		if err != nil || !row {
			return n, keep, err
		}
		var d definition
		for i, column := range []*string{&d.name, &d.table, &d.sql} {
			*column, _ = s.Column(i).(string)
		}
		if silent[foldName(d.name)] {
			guards, acts := bodyOf(d.sql)
			switch {
			case c.permission.Allow(Action{Code: sqlite3.SQLITE_DROP_TRIGGER, Arg1: d.name, Arg2: d.table, Schema: "main"}):
				guards = false
			case c.fireTriggers:
				return 0, nil, refuse("trigger %q of table %q always fires: so the server is configured for tokens that may not drop it", d.name, d.table)
			case guards && acts:
				return 0, nil, refuse("trigger %q of table %q may RAISE and changes rows: the token, which may not drop it, cannot silence it", d.name, d.table)
			}
			if !guards {
				n++
				continue
			}
		}
		keep = append(keep, d)
	}
}

// bodyOf tells whether a trigger may RAISE, and whether it changes anything. It
// errs to the side of yes: what it finds may be a name.
func bodyOf(sql string) (guards, acts bool) {
	begun := false
	for _, w := range words(sql) {
		switch word := foldName(w.text); {
		case word == "raise": // also in the WHEN clause, and in quotes
			guards = true
		case w.quoted:
		case word == "begin":
			begun = true
		case begun && (word == "insert" || word == "update" || word == "delete" || word == "replace"):
			acts = true
		}
	}
	return guards, acts
}

// copyTrigger makes a TEMP trigger of a trigger of the database.
func (c *conn) copyTrigger(d definition) error {
	// SQLite keeps the text from the name on as it was, and what stands before in
	// this form.
	const head = "CREATE TRIGGER "
	if len(d.sql) < len(head) || !strings.EqualFold(d.sql[:len(head)], head) {
		return refuse("the definition of trigger %q cannot be read", d.name)
	}
	if err := c.exec("CREATE TEMP TRIGGER " + d.sql[len(head):]); err != nil {
		return fmt.Errorf("keep trigger %q: %w", d.name, err)
	}
	c.own = true // exec has taken it back
	c.silence.copies = append(c.silence.copies, d.name)
	return nil
}

// wake ends the silence. After an error nothing is permitted on the connection,
// which unrestrict then refuses to take up again.
func (c *conn) wake() error {
	if c.silence == nil {
		return nil
	}
	err := c.db.SetConfig(shim.EnableTrigger, true)
	for _, name := range c.silence.copies {
		if err == nil { // a rollback has dropped them already
			err = c.exec(`DROP TRIGGER IF EXISTS temp."` + strings.ReplaceAll(name, `"`, `""`) + `"`)
		}
	}
	if err != nil {
		c.permission = NoAccess
		return fmt.Errorf("end replay: %w", err)
	}
	c.silence = nil
	return nil
}

// settle does what has to be done between two statements: it looks whose rows of
// clients were written, and ends the silence with its transaction.
func (c *conn) settle() error {
	if len(c.marked) > 0 {
		if err := c.checkMarks(); err != nil {
			c.endTurn()
			return errors.Join(err, c.settle())
		}
	}
	if c.silence != nil && c.db.Info().Autocommit {
		return c.wake()
	}
	return nil
}

// replayable tells what strangers may do in silence: reading and writing rows, and
// ending the transaction. Savepoints could undo the copies, temporary objects
// change what they mean.
func replayable(action int, arg2 string) bool {
	switch action {
	case sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE,
		sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_TRANSACTION, sqliteRecursive:
		return true
	case sqlite3.SQLITE_PRAGMA: // full-text tables ask for data_version
		return arg2 == ""
	}
	return false
}

const sqliteRecursive = 33 // not among go-sqlite3's constants

// compile is Prepare for strangers. In silence, a statement must be permitted as
// though triggers fired: who cannot write to a table because of what its triggers
// do there, cannot by replaying.
func (c *conn) compile(sql string) (s *shim.Stmt, tail string, err error) {
	if c.silence != nil && c.catalog != nil {
		if err := c.db.SetConfig(shim.EnableTrigger, true); err != nil {
			return nil, "", err
		}
		s, tail, err := c.db.Prepare(sql)
		if s != nil {
			s.Close()
		}
		if off := c.db.SetConfig(shim.EnableTrigger, false); off != nil {
			return nil, "", off
		}
		if err != nil {
			return nil, tail, err
		}
	}
	return c.db.Prepare(sql)
}

// refuse is the error of a request that is understood.
func refuse(format string, args ...any) error {
	return &shim.StmtError{Code: int(sqlite3.ErrAuth), Message: "not authorized: " + fmt.Sprintf(format, args...)}
}

// replay executes wire.ReplaySQL.
func (x *session) replay(st *wire.Stmt, begin func([]wire.Col) error, take func([]wire.Value) error) (*wire.StmtResult, *wire.Error, error) {
	var names []string
	text, ok := "", len(st.Args) == 1 && len(st.NamedArgs) == 0
	if ok {
		text, ok = st.Args[0].V.(string)
	}
	if !ok || json.Unmarshal([]byte(text), &names) != nil {
		return nil, &wire.Error{Message: wire.ReplayName + " needs the names of triggers as a JSON array", Code: "ARGS_INVALID"}, nil
	}
	n, err := x.conn.replay(names)
	if err != nil {
		return nil, sqlFault(err), nil
	}
	if err := begin([]wire.Col{{Name: wire.ReplayName}}); err != nil {
		return nil, nil, err
	}
	if st.WantRows == nil || *st.WantRows {
		if err := take([]wire.Value{{V: n}}); err != nil {
			return nil, nil, err
		}
	}
	id := wire.RowID(x.conn.db.Info().LastInsertRowID)
	return &wire.StmtResult{RowsRead: 1, LastInsertRowID: &id}, nil, nil
}
