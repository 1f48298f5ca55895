package cdc

import (
	"strings"
)

// Definitions are compared and ALTER statements understood by their tokens: no
// SQL grammar is needed for either, and the text may come from SQLite, which
// keeps what the user wrote, or from tursodb, which writes its own.

type tokenKind uint8

const (
	tokenWord  tokenKind = iota // bare identifier or keyword
	tokenName                   // quoted identifier: "x", [x] or `x`
	tokenText                   // 'x'
	tokenOther                  // number, blob literal, parameter, operator, punctuation
)

type token struct {
	kind tokenKind
	// text is the token's meaning: without quotes, with doubled quotes undone.
	text string
}

// is tells whether the token is this keyword or punctuation.
func (t token) is(s string) bool {
	return (t.kind == tokenWord || t.kind == tokenOther) && strings.EqualFold(t.text, s)
}

// normal returns a form in which tokens of the same meaning are equal.
func (t token) normal() string {
	switch t.kind {
	case tokenWord, tokenName:
		return lower(t.text)
	case tokenText:
		return "'" + t.text
	}
	switch t.text {
	case "==":
		return "="
	case "!=":
		return "<>"
	}
	return lower(t.text)
}

// lower folds ASCII letters only, as SQLite does for identifiers.
func lower(s string) string {
	for i := range len(s) {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if c := b[i]; 'A' <= c && c <= 'Z' {
					b[i] = c + 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// tokenize splits SQL into tokens; white space and comments are left out. It
// accepts anything: what is unfinished ends with the text.
func tokenize(sql string) []token {
	var tokens []token
	for i := 0; i < len(sql); {
		t, n := nextToken(sql[i:])
		if n == 0 {
			break
		}
		i += n
		if t.text != "" || t.kind == tokenText || t.kind == tokenName {
			tokens = append(tokens, t)
		}
	}
	return tokens
}

// nextToken returns the first token of s, which is not empty, and its length;
// an empty token of kind tokenOther stands for white space or a comment.
func nextToken(s string) (token, int) {
	switch c := s[0]; {
	case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == 0:
		return token{kind: tokenOther}, 1
	case strings.HasPrefix(s, "--"):
		if i := strings.IndexByte(s, '\n'); i >= 0 {
			return token{kind: tokenOther}, i + 1
		}
		return token{kind: tokenOther}, len(s)
	case strings.HasPrefix(s, "/*"):
		if i := strings.Index(s[2:], "*/"); i >= 0 {
			return token{kind: tokenOther}, i + 4
		}
		return token{kind: tokenOther}, len(s)
	case c == '\'':
		t, n := quoted(s, '\'')
		return token{kind: tokenText, text: t}, n
	case c == '"' || c == '`':
		t, n := quoted(s, c)
		return token{kind: tokenName, text: t}, n
	case c == '[':
		if i := strings.IndexByte(s, ']'); i >= 0 {
			return token{kind: tokenName, text: s[1:i]}, i + 1
		}
		return token{kind: tokenName, text: s[1:]}, len(s)
	case (c == 'x' || c == 'X') && len(s) > 1 && s[1] == '\'':
		_, n := quoted(s[1:], '\'')
		return token{kind: tokenOther, text: s[:n+1]}, n + 1
	case identStart(c):
		n := 1
		for n < len(s) && (identStart(s[n]) || digit(s[n]) || s[n] == '$') {
			n++
		}
		return token{kind: tokenWord, text: s[:n]}, n
	case digit(c) || c == '.' && len(s) > 1 && digit(s[1]):
		n := numberLen(s)
		return token{kind: tokenOther, text: s[:n]}, n
	}
	for _, op := range []string{"->>", "||", "->", "<=", ">=", "<>", "!=", "==", "<<", ">>"} {
		if strings.HasPrefix(s, op) {
			return token{kind: tokenOther, text: op}, len(op)
		}
	}
	return token{kind: tokenOther, text: s[:1]}, 1
}

func identStart(c byte) bool {
	return c >= 0x80 || c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

func numberLen(s string) int {
	n := 0
	for n < len(s) && (digit(s[n]) || s[n] == '.' || s[n] == '_' || identStart(s[n]) ||
		(s[n] == '+' || s[n] == '-') && (s[n-1] == 'e' || s[n-1] == 'E') && !strings.HasPrefix(lower(s), "0x")) {
		n++
	}
	return n
}

// quoted returns the content of a quoted token at the start of s and its length.
func quoted(s string, q byte) (string, int) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		if s[i] == q {
			if i+1 == len(s) || s[i+1] != q {
				return b.String(), i + 1
			}
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), len(s)
}

// alterStep says what an ALTER TABLE statement does.
type alterStep uint8

const (
	alterOther alterStep = iota
	alterRenameTable
	alterRenameColumn
	alterAddColumn
	alterDropColumn
)

// alter is an ALTER TABLE statement, understood.
type alter struct {
	step   alterStep
	table  string
	column string  // the column added, dropped or renamed
	to     string  // the new name
	def    []token // of an added column, its name included
}

// parseAlter understands ALTER TABLE; ok is false for anything else.
func parseAlter(sql string) (a alter, ok bool) {
	t := trimSemicolons(tokenize(sql))
	if len(t) < 4 || !t[0].is("alter") || !t[1].is("table") {
		return alter{}, false
	}
	t = t[2:]
	if len(t) > 2 && t[1].is(".") {
		t = t[2:]
	}
	a.table, t = t[0].text, t[1:]
	if len(t) < 2 {
		return a, true
	}
	verb, t := t[0], t[1:]
	keyword := len(t) > 1 && t[0].is("column")
	switch {
	case verb.is("rename") && len(t) == 2 && t[0].is("to"):
		a.step, a.to = alterRenameTable, t[1].text
		return a, true
	case keyword:
		t = t[1:]
	}
	switch {
	case verb.is("rename") && len(t) == 3 && t[1].is("to"):
		a.step, a.column, a.to = alterRenameColumn, t[0].text, t[2].text
	case verb.is("add") && (keyword || !t[0].is("constraint") && !t[0].is("check")):
		a.step, a.column, a.def = alterAddColumn, t[0].text, t
	case verb.is("drop") && len(t) == 1:
		a.step, a.column = alterDropColumn, t[0].text
	}
	return a, true
}

func trimSemicolons(t []token) []token {
	for len(t) > 0 && t[len(t)-1].is(";") {
		t = t[:len(t)-1]
	}
	return t
}

// renamedTable returns the names of a table before and after a schema change,
// if renaming it is what the change does.
func renamedTable(s *SchemaChange) (from, to string, ok bool) {
	if s.Op != "alter" {
		return "", "", false
	}
	a, ok := parseAlter(s.SQL)
	if !ok || a.step != alterRenameTable {
		return "", "", false
	}
	return a.table, a.to, true
}
