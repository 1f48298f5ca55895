package server

import sqlite3 "github.com/mattn/go-sqlite3"

// limit bounds what one statement of a stranger may ask of memory
// (https://sqlite.org/limits.html). Its time is bounded by Config.Timeout, whatever
// it does; its expressions, compounds and triggers by SQLite's own limits.
func (c *conn) limit(cfg Config) {
	// No value that is longer came in, or could go out.
	c.c.SetLimit(sqlite3.SQLITE_LIMIT_LENGTH, int(max(cfg.BodyMax, cfg.AnswerMax)))
	c.c.SetLimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
	// LIKE takes time by pattern times text, and cannot be interrupted.
	c.c.SetLimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000)
}
