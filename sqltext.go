package tursosync

import "strings"

// What is known about SQL text without asking SQLite: where the first statement
// of a text ends and which word it begins with. It serves two ends: reads need no
// second preparation to be recognised, and connections without a log still have
// to see BEGIN and COMMIT go by.

// singleRead tells that text is one statement that can only read.
func singleRead(text string) bool {
	word, at := firstWord(text)
	if !strings.EqualFold(word, "SELECT") && !strings.EqualFold(word, "VALUES") {
		return false
	}
	i := strings.IndexByte(text[at:], ';')
	if i < 0 {
		return strings.IndexByte(text, 0) < 0
	}
	return strings.TrimRight(text[at+i:], "; \t\r\n") == ""
}

// firstWord returns the first word of text behind white space, comments and empty
// statements, and where it starts.
func firstWord(text string) (word string, at int) {
	for at < len(text) {
		n, isSpace := tokenLen(text[at:])
		if !isSpace && text[at] != ';' {
			if isLetter(text[at]) {
				return text[at : at+n], at
			}
			return "", at
		}
		at += n
	}
	return "", at
}

// cutStatement returns the first statement of text, its semicolon included, and
// what follows. A trigger ends with the END behind the last statement of its body.
func cutStatement(text string) (first, tail string) {
	const (
		start = iota
		explain
		create
		plain
		trigger
		triggerSemicolon // a statement of the body has ended
		triggerEnd
	)
	state := start
	for at := 0; at < len(text); {
		if text[at] == 0 { // where SQLite stops reading
			return text[:at], ""
		}
		n, isSpace := tokenLen(text[at:])
		word := text[at : at+n]
		at += n
		if isSpace {
			continue
		}
		is := func(s string) bool { return strings.EqualFold(word, s) }
		if word == ";" && state == start {
			continue // SQLite skips empty statements
		}
		if word == ";" && state != trigger && state != triggerSemicolon {
			return text[:at], strings.TrimSpace(text[at:])
		}
		switch state {
		case start, explain:
			switch {
			case is("CREATE"):
				state = create
			case is("EXPLAIN"), state == explain && (is("QUERY") || is("PLAN")):
				state = explain
			default:
				state = plain
			}
		case create:
			switch {
			case is("TRIGGER"):
				state = trigger
			case !is("TEMP") && !is("TEMPORARY"):
				state = plain
			}
		case trigger, triggerSemicolon, triggerEnd:
			switch {
			case word == ";":
				state = triggerSemicolon
			case state == triggerSemicolon && is("END"):
				state = triggerEnd
			default:
				state = trigger
			}
		}
	}
	return text, ""
}

// tokenLen returns the length of the first token of s, which is not empty, and
// whether it is white space or a comment.
func tokenLen(s string) (n int, isSpace bool) {
	switch c := s[0]; c {
	case ' ', '\t', '\n', '\r', '\f':
		return 1, true
	case '-':
		if strings.HasPrefix(s, "--") {
			return through(s, "\n", 2), true
		}
	case '/':
		if strings.HasPrefix(s, "/*") && len(s) > 2 {
			return through(s, "*/", 2), true
		}
	case '\'', '"', '`':
		return quotedLen(s, c), false
	case '[':
		return through(s, "]", 1), false
	case 0xef:
		if strings.HasPrefix(s, "\xef\xbb\xbf") {
			return 3, true
		}
	}
	n = 1
	if isLetter(s[0]) {
		for n < len(s) && (isLetter(s[n]) || '0' <= s[n] && s[n] <= '9' || s[n] == '$') {
			n++
		}
	}
	return n, false
}

// through returns the length of s up to and including the first end at or after from.
func through(s, end string, from int) int {
	if i := strings.Index(s[from:], end); i >= 0 {
		return from + i + len(end)
	}
	return len(s)
}

func quotedLen(s string, quote byte) int {
	for i := 1; i < len(s); i++ {
		if s[i] != quote {
			continue
		}
		if i+1 == len(s) || s[i+1] != quote {
			return i + 1
		}
		i++
	}
	return len(s)
}

func isLetter(c byte) bool {
	return c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c >= 0x80
}
