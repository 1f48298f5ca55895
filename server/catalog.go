package server

import (
	"errors"
	"slices"
	"strings"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/shim"
)

// catalog knows what SQLite's authorizer does not tell and a Permission needs to
// know (Action.New, Action.Replaces). A connection has one when its permission is
// finer than an Access.
//
// What it knows of the schema is as of the last look, before each statement outside
// of a transaction, and in a transaction after each statement that changed the
// schema. A deferred transaction looks before it begins, so a change of the schema
// by somebody else between BEGIN and its first statement is not seen: a look would
// begin the transaction, and a write that would have waited would fail.
type catalog struct {
	stale   bool // a statement has been compiled that changes the schema
	loaded  bool
	version string
	main    map[string]bool // tables and views, by folded name
	temp    map[string]bool
	// replacing holds the tables that statements without the word REPLACE may
	// delete from for it.
	replacing map[string]bool

	// About the statement that is compiled, or runs and may be compiled again:
	replaces bool
	creates  string
}

// prepare compiles the first statement of sql; strangers' SQL goes through it.
func (c *conn) prepare(sql string) (*shim.Stmt, string, error) {
	if err := c.settle(); err != nil {
		return nil, "", err
	}
	if c.catalog != nil {
		if err := c.look(); err != nil {
			return nil, "", err
		}
		c.catalog.replaces, c.catalog.creates = saysReplace(sql), ""
	}
	c.denied, c.missing = false, ""
	c.watching = false
	s, tail, err := c.compile(sql)
	if c.watching {
		c.watch()
	}
	if e := (*shim.StmtError)(nil); c.denied && errors.As(err, &e) {
		if e.Code == int(sqlite3.ErrError) {
			e.Code = int(sqlite3.ErrAuth) // SQLite says so of all refusals but those of functions
		}
		if c.missing != "" && e.Code&0xff == int(sqlite3.ErrAuth) {
			e.Message = "not authorized: the token has no " + c.missing
		}
	}
	return s, tail, err
}

// look brings the catalog up to date.
func (c *conn) look() error {
	k := c.catalog
	if k.loaded && !k.stale && !c.db.Info().Autocommit {
		return nil
	}
	c.own = true
	defer func() { c.own = false }()
	var version string
	for _, sql := range []string{"PRAGMA main.schema_version", "PRAGMA temp.schema_version"} {
		v, err := c.one(sql)
		if err != nil {
			return err
		}
		version += v + " "
	}
	k.stale = false
	if k.loaded && version == k.version {
		return nil
	}
	k.main, k.temp, k.replacing = map[string]bool{}, map[string]bool{}, map[string]bool{}
	var triggers []trigger
	for from, names := range map[string]map[string]bool{"main.sqlite_schema": k.main, "temp.sqlite_schema": k.temp} {
		more, err := c.load(from, names)
		if err != nil {
			return err
		}
		triggers = append(triggers, more...)
	}
	k.spread(triggers)
	k.loaded, k.version = true, version
	return nil
}

// trigger is one of the schema: where it is, and which tables it may write to.
type trigger struct {
	table string
	names []string // all that may be names in its body
}

// load reads one of the schemas, and returns its triggers.
func (c *conn) load(from string, names map[string]bool) ([]trigger, error) {
	s, _, err := c.db.Prepare("SELECT type, name, tbl_name, sql FROM " + from)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	var triggers []trigger
	for {
		row, err := s.Step()
		if err != nil || !row {
			return triggers, err
		}
		var column [4]string
		for i := range column {
			column[i], _ = s.Column(i).(string)
		}
		kind, name, table, sql := column[0], foldName(column[1]), foldName(column[2]), column[3]
		switch kind {
		case "table":
			names[name] = true
			if saysReplace(sql) { // PRIMARY KEY ON CONFLICT REPLACE
				c.catalog.replacing[name] = true
			}
		case "view":
			names[name] = true
		case "trigger":
			t := trigger{table: table}
			body := words(sql)
			if i := slices.IndexFunc(body, func(w word) bool { return !w.quoted && foldName(w.text) == "begin" }); i >= 0 {
				body = body[i:]
			}
			for _, w := range body {
				t.names = append(t.names, foldName(w.text))
			}
			triggers = append(triggers, t)
			if saysReplace(sql) { // into one of the tables it speaks of
				for _, n := range t.names {
					c.catalog.replacing[n] = true
				}
			}
		}
	}
}

// spread adds to the replacing tables those that their triggers write to: the
// statements of a trigger inherit the conflict clause of the statement that fires
// it (https://sqlite.org/lang_createtrigger.html).
func (k *catalog) spread(triggers []trigger) {
	for more := true; more; {
		more = false
		for _, t := range triggers {
			if !k.replacing[t.table] {
				continue
			}
			for _, n := range t.names {
				more = more || !k.replacing[n]
				k.replacing[n] = true
			}
		}
	}
}

// refine completes an action. It returns false when there is nothing to ask about.
func (k *catalog) refine(a *Action) bool {
	table := foldName(a.Arg1)
	switch a.Code {
	case sqlite3.SQLITE_CREATE_TABLE:
		k.stale, k.creates = true, table
	case sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE:
		if strings.HasPrefix(table, "sqlite_") {
			k.stale = true // the schema is among these
		}
		a.Replaces = k.replaces || k.replacing[table]
	case sqlite3.SQLITE_DELETE:
		if strings.HasPrefix(table, "sqlite_") {
			k.stale = true
		}
	case sqlite3.SQLITE_ALTER_TABLE:
		k.stale = true
	case sqlite3.SQLITE_READ:
		a.New = table == k.creates && k.creates != ""
		if a.Arg2 == "" && a.Schema == "" {
			// A table of which no column is used comes with the name as it was written,
			// which may be that of a common table expression.
			if k.temp[table] {
				a.Schema = "temp"
			}
			return k.main[table] || k.temp[table] || strings.HasPrefix(table, "sqlite_")
		}
	}
	return true
}

// foldName makes names comparable as SQLite compares them, ASCII letters only.
func foldName(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// saysReplace tells whether REPLACE stands in the SQL as a word, other than as the
// function replace(…). It errs to the side of yes: for a column of that name.
func saysReplace(sql string) bool {
	if !strings.Contains(foldName(sql), "replace") {
		return false
	}
	ws := words(sql)
	for i, w := range ws {
		if !w.quoted && foldName(w.text) == "replace" && (i+1 == len(ws) || ws[i+1].text != "(") {
			return true
		}
	}
	return false
}

// word is an identifier, keyword, number, string or other character of SQL.
type word struct {
	text   string // without quotes
	quoted bool
}

// words cuts SQL as SQLite's tokenizer does (https://sqlite.org/lang.html): space
// and comments apart, and what is quoted in one piece. Anything that it would not
// take is a word too.
func words(sql string) []word {
	var out []word
	for i := 0; i < len(sql); {
		c := sql[i]
		rest := sql[i:]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\f' || c == '\r':
			i++
		case strings.HasPrefix(rest, "\ufeff"): // space to SQLite where a word could begin
			i += len("\ufeff")
		case strings.HasPrefix(rest, "--"):
			i += lengthTo(rest, "\n", 2)
		case strings.HasPrefix(rest, "/*"):
			i += lengthTo(rest, "*/", 2)
		case c == '\'' || c == '"' || c == '`' || c == '[':
			text, n := quoted(rest)
			out = append(out, word{text, true})
			i += n
		case isWordByte(c):
			n := 1
			for n < len(rest) && isWordByte(rest[n]) {
				n++
			}
			out = append(out, word{rest[:n], false})
			i += n
		default:
			out = append(out, word{rest[:1], false})
			i++
		}
	}
	return out
}

// lengthTo is the length of s up to and including the next end behind from.
func lengthTo(s, end string, from int) int {
	if i := strings.Index(s[from:], end); i >= 0 {
		return from + i + len(end)
	}
	return len(s)
}

// quoted reads a string or a quoted name, in which the quote itself stands twice.
func quoted(s string) (text string, length int) {
	if s[0] == '[' {
		n := lengthTo(s, "]", 1)
		return strings.TrimSuffix(s[1:n], "]"), n
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		if s[i] != s[0] {
			b.WriteByte(s[i])
			continue
		}
		if i+1 == len(s) || s[i+1] != s[0] {
			return b.String(), i + 1
		}
		i++
		b.WriteByte(s[i])
	}
	return b.String(), len(s)
}

func isWordByte(c byte) bool {
	return c >= 0x80 || c == '_' || c == '$' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
