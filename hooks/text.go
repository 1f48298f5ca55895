package hooks

import "strings"

// Quote returns name as an SQL identifier.
func Quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// QuoteText returns s as an SQL string literal.
func QuoteText(s string) string { return `'` + strings.ReplaceAll(s, `'`, `''`) + `'` }

// Word is a token of an SQL text: a bare identifier or keyword, or a single
// character of punctuation. Strings, quoted names, numbers and comments are not
// told apart; they appear as "'".
type Word string

// Is compares without regard to case.
func (w Word) Is(s string) bool { return strings.EqualFold(string(w), s) }

// Words splits SQL into words. What is unfinished ends with the text.
func Words(sql string) []Word {
	var words []Word
	for i := 0; i < len(sql); {
		c := sql[i]
		n := 1
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == 0:
			i++
			continue
		case strings.HasPrefix(sql[i:], "--"):
			i += upto(sql[i:], "\n", 0)
			continue
		case strings.HasPrefix(sql[i:], "/*"):
			i += upto(sql[i:], "*/", 2)
			continue
		case c == '\'' || c == '"' || c == '`':
			n = quotedLen(sql[i:], c)
			words = append(words, "'")
		case c == '[':
			n = upto(sql[i:], "]", 0)
			words = append(words, "'")
		case wordByte(c) && (c < '0' || c > '9'):
			for i+n < len(sql) && wordByte(sql[i+n]) {
				n++
			}
			words = append(words, Word(sql[i:i+n]))
		case c >= '0' && c <= '9':
			for i+n < len(sql) && (wordByte(sql[i+n]) || sql[i+n] == '.') {
				n++
			}
			words = append(words, "'")
		default:
			words = append(words, Word(sql[i:i+1]))
		}
		i += n
	}
	return words
}

func wordByte(c byte) bool {
	return c >= 0x80 || c == '_' || c == '$' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

func upto(s, end string, from int) int {
	if from > len(s) {
		return len(s)
	}
	if i := strings.Index(s[from:], end); i >= 0 {
		return from + i + len(end)
	}
	return len(s)
}

func quotedLen(s string, q byte) int {
	for i := 1; i < len(s); i++ {
		if s[i] == q {
			if i+1 == len(s) || s[i+1] != q {
				return i + 1
			}
			i++
		}
	}
	return len(s)
}

// MayReplace tells whether a text holds the keyword REPLACE as a conflict
// resolution; the function replace( is not meant.
func MayReplace(sql string) bool {
	if !containsFold(sql, "replace") {
		return false
	}
	words := Words(sql)
	for i, w := range words {
		if w.Is("replace") && (i+1 == len(words) || words[i+1] != "(") {
			return true
		}
	}
	return false
}

func containsFold(s, lower string) bool {
	for i := 0; i+len(lower) <= len(s); i++ {
		if s[i]|0x20 == lower[0] && strings.EqualFold(s[i:i+len(lower)], lower) {
			return true
		}
	}
	return false
}
