package server

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/shim"
)

// conn is a connection to the database. It belongs to one goroutine.
type conn struct {
	c       *sqlite3.SQLiteConn
	db      shim.DB
	catalog *catalog // nil: nobody needs one
	denied  bool     // the authorizer refused something of the statement
	missing string   // for what was refused, if it can be said
	own     bool     // what is compiled is not a stranger's
	// permission is that of the stranger whose SQL runs; nil: nobody's does.
	permission   Permission
	clients      *clients       // whose clients there are; nil: not known
	marked       map[int64]bool // rows of clients that were written; nil: not watched
	watching     bool           // the statement that is compiled may write such rows
	silence      *silence       // nil: all triggers fire
	fireTriggers bool           // Config.FireTriggers
	turn         turn           // whose turn it is to write; nil: whoever comes
	writing      bool           // it is this connection's
	spoiled      bool           // by an error, so that it must not be used for long
	// compiled are statements that strangers may need again, by their text.
	compiled map[string]compiled
}

// busyTimeout is how long a statement waits for another writer, in milliseconds.
const busyTimeout = "10000"

// openConn opens a connection that never checkpoints: the history must have seen
// a commit before its frames may go.
func openConn(cfg Config) (*conn, error) {
	name := "file:" + (&url.URL{Path: cfg.File}).EscapedPath()
	opened, err := (&sqlite3.SQLiteDriver{}).Open(name)
	if err != nil {
		return nil, err
	}
	c, ok := opened.(*sqlite3.SQLiteConn)
	if !ok {
		_ = opened.Close()
		return nil, fmt.Errorf("open: connection is a %T", opened)
	}
	out := &conn{c: c, fireTriggers: cfg.FireTriggers}
	sync := "FULL"
	if cfg.NoSync {
		sync = "OFF"
	}
	_, err = c.Exec("PRAGMA busy_timeout="+busyTimeout+"; PRAGMA wal_autocheckpoint=0; PRAGMA synchronous="+sync, nil)
	if err == nil {
		out.db, err = shim.Of(c)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return out, nil
}

func (c *conn) close() error {
	c.forget()
	err := c.c.Close() // rolls back what is open
	c.giveTurn()
	return err
}

// one runs a statement and returns the first value of its first row as text.
func (c *conn) one(sql string) (string, error) {
	s, _, err := c.db.Prepare(sql)
	if err != nil {
		return "", fmt.Errorf("%s: %w", sql, err)
	}
	defer s.Close()
	row, err := s.Step()
	if err != nil {
		return "", fmt.Errorf("%s: %w", sql, err)
	}
	value := ""
	if row && s.Columns() > 0 {
		value = fmt.Sprint(s.Column(0))
	}
	// To its end, where it may still fail: the row of PRAGMA journal_mode=WAL comes
	// before its commit.
	for row {
		if row, err = s.Step(); err != nil {
			return "", fmt.Errorf("%s: %w", sql, err)
		}
	}
	return value, nil
}

// readPage reads a page from where the plan says it lies. Behind the end of the
// file are pages that were never written: they are empty.
func (c *conn) readPage(file shim.File, off int64, b []byte) error {
	n, err := c.db.ReadAt(file, b, off)
	if errors.Is(err, io.EOF) && file == shim.Main {
		clear(b[n:])
		return nil
	}
	return err
}

// pragmas that anybody may run; those mapped to false only without an argument.
// The others would change how the file is written, reach other files, or keep
// the history from seeing commits.
var pragmas = map[string]bool{
	"analysis_limit": true, "application_id": true, "case_sensitive_like": true, "collation_list": true,
	"compile_options": true, "defer_foreign_keys": true, "foreign_key_check": true, "foreign_key_list": true,
	"foreign_keys": true, "function_list": true, "ignore_check_constraints": true, "index_info": true,
	"index_list": true, "index_xinfo": true, "integrity_check": true, "legacy_alter_table": true,
	"module_list": true, "optimize": true, "pragma_list": true, "quick_check": true, "recursive_triggers": true,
	"reverse_unordered_selects": true, "table_info": true, "table_list": true, "table_xinfo": true,
	"user_version": true,

	"auto_vacuum": false, "data_version": false, "encoding": false, "freelist_count": false, "journal_mode": false,
	"page_count": false, "page_size": false, "query_only": false, "schema_version": false, "synchronous": false,
	"wal_autocheckpoint": false,
}

// restrict keeps the SQL of strangers inside the database, and inside what they
// are permitted. After an error they are permitted nothing.
func (c *conn) restrict(permission Permission) error {
	if c.permission == nil {
		c.c.RegisterAuthorizer(func(action int, arg1, arg2, schema string) int {
			if c.own || c.allows(action, arg1, arg2, schema) {
				return sqlite3.SQLITE_OK
			}
			c.denied = true
			return sqlite3.SQLITE_DENY
		})
	}
	c.permission, c.catalog = NoAccess, nil
	if permission.ReadOnly() {
		if err := c.exec("PRAGMA query_only=1"); err != nil {
			return err
		}
	}
	if _, coarse := permission.(Access); !coarse {
		c.catalog = &catalog{}
	}
	c.permission = permission
	return nil
}

// unrestrict makes room for another permission; until then there is none.
func (c *conn) unrestrict() error {
	c.permission = NoAccess
	if err := c.wake(); err != nil {
		return err
	}
	return c.exec("PRAGMA query_only=0")
}

// exec runs a statement of our own.
func (c *conn) exec(sql string) error {
	c.own = true
	defer func() { c.own = false }()
	_, err := c.c.Exec(sql, []driver.Value{})
	return err
}

// allows is the authorizer of strangers' SQL.
func (c *conn) allows(action int, arg1, arg2, schema string) bool {
	if c.silence != nil && !replayable(action, arg2) {
		return false
	}
	switch action {
	case sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH:
		return false
	case sqlite3.SQLITE_PRAGMA:
		name := strings.ToLower(arg1)
		withArgument, known := pragmas[name]
		if !known || arg2 != "" && !withArgument {
			return false
		}
	case sqlite3.SQLITE_FUNCTION:
		if strings.EqualFold(arg2, "load_extension") || strings.EqualFold(arg2, "ts_shim_handle") {
			return false
		}
	}
	a := Action{Code: action, Arg1: arg1, Arg2: arg2, Schema: schema}
	if c.catalog != nil && !c.catalog.refine(&a) {
		return true
	}
	if is, ok := c.marks(a); is && !ok {
		return false
	} else if is {
		c.watching = true
	}
	if c.permission.Allow(a) {
		return true
	}
	if e, ok := c.permission.(Explainer); ok && c.missing == "" {
		c.missing = e.Missing(a)
	}
	return false
}
