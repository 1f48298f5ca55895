// Package tursosync is a database/sql driver for SQLite files that sync both ways
// with a Turso database, under code that does not know it:
//
//	import _ "github.com/tursosync/tursosync"
//
//	db, err := sql.Open("tursosync", "app.db?url=libsql://db-org.turso.io&authToken=…")
//
// The driver is a drop-in for [github.com/mattn/go-sqlite3], on which it is built.
// Every write is logged in its own transaction and pushed in the background; what
// others have changed on the remote is pulled and put under what is not pushed
// yet. Reads and writes never wait for the network.
//
// # DSN
//
// A DSN is a path, a file: URI, or :memory:, and settings behind a question mark.
// All options of go-sqlite3 pass through. Our own:
//
//	url            the remote: libsql://, turso://, https:// or http://. Without it the
//	               database is local; its changes are logged for the day it gets one
//	authToken      the token; or
//	authTokenEnv   the environment variable that holds it (default TURSO_AUTH_TOKEN); or
//	authTokenFile  the file that holds it, read whenever a token is needed
//	clientName     start of the replica's client id
//	sync           auto (default), push, pull: what happens by itself; manual: nothing
//	syncInterval   time between pulls, such as 30s (default 5s); off, with longPoll
//	longPoll       how long a pull waits at the remote for news; off (default)
//	pushDelay      how long a push waits for further commits (default 50ms); off
//	existing       a file with data that is no replica yet: auto (default), upload,
//	               download, refuse
//	onReject       a transaction that the remote can never take: quarantine (default), halt
//
// An unknown key, an invalid value or a contradiction is a *[ConfigError] from
// sql.Open, before any file is touched. [Config] has the same settings, and those
// that a DSN cannot spell, as fields for [NewConnector] and [database/sql.OpenDB].
//
// :memory: and file:…?mode=ro without url are plain SQLite: nothing is logged,
// nothing is locked. A second process that only reads may use the latter.
//
// All that open one file in a process share one replica; the last Close of a
// sql.DB stops it. Another process gets [ErrLocked].
//
// # Differences from go-sqlite3
//
//   - After a statement was cancelled inside a transaction and SQLite has rolled
//     the transaction back, every call in it returns [ErrTxRolledBack] until
//     Rollback, instead of being committed on its own.
//   - BeginTx with ReadOnly makes writes fail; isolation levels that SQLite does
//     not have are an [IsolationError].
//   - A transaction that a sql.Conn begins with BEGIN and leaves open is rolled
//     back when the Conn is closed.
//   - The rows of a statement that writes (RETURNING) are fetched before the first
//     one is handed out, so that the change is committed even if nobody reads them.
//   - The journal mode is WAL and stays so. VACUUM, locking_mode=EXCLUSIVE,
//     shared cache and virtual tables are refused with an *[UnsupportedError] or a
//     *ConfigError that says why.
//   - [sql.Conn.Raw] hands out a *[Conn]; its SQLiteConn method returns the
//     *sqlite3.SQLiteConn.
//
// Errors of SQLite are the values of type sqlite3.Error that go-sqlite3 returns.
package tursosync
