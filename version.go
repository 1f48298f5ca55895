package tursosync

import (
	"fmt"

	sqlite3 "github.com/mattn/go-sqlite3"
)

// oldestSQLite is the first version without the race in which a WAL that starts
// over can lose a commit of another connection (3.7.0 to 3.51.2;
// https://sqlite.org/changes.html). go-sqlite3 brings a newer one, but a build
// with -tags libsqlite3 takes whatever the system has.
const oldestSQLite = 3_051_003

// checkSQLite refuses to put data into a replica with such a version.
func checkSQLite(version string, number int) error {
	if number >= oldestSQLite {
		return nil
	}
	return &UnsupportedError{
		What: "SQLite " + version,
		Why:  "it can lose commits when the WAL starts over",
		Hint: fmt.Sprintf("link SQLite %d.%d.%d or newer, or build without -tags libsqlite3", oldestSQLite/1_000_000, oldestSQLite/1000%1000, oldestSQLite%1000),
	}
}

// linkedSQLite checks the version that the program runs with.
func linkedSQLite() error {
	version, number, _ := sqlite3.Version()
	return checkSQLite(version, number)
}
