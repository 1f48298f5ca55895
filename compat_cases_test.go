package tursosync_test

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync"
)

type textValuer string

func (v textValuer) Value() (driver.Value, error) { return "<" + string(v) + ">", nil }

type myInt int32

var errAsked = errors.New("as asked")

var compatCases = []compatCase{
	{name: "values of all types", body: func(s *compatSide) {
		db := s.open("")
		s.must(db, `CREATE TABLE t(id INTEGER PRIMARY KEY, v, i INTEGER, r REAL, x TEXT, b BLOB, n NUMERIC)`)
		str := "pointed at"
		for i, v := range []any{
			nil, 0, 1, -1, int64(math.MaxInt64), int64(math.MinInt64), int8(-5), uint8(200), uint16(65535), uint32(math.MaxUint32), uint64(7), myInt(9),
			1.5, 0.0, math.Copysign(0, -1), math.Inf(1), math.Inf(-1), math.NaN(), math.MaxFloat64, math.SmallestNonzeroFloat64, float32(0.1), 1e100, 3.0,
			"", "text", "with\x00nul", "inv\xffalid", "ünïcödé 漢字 🎉", "123", "1e3", strings.Repeat("long", 1000),
			[]byte{}, []byte(nil), []byte{0}, []byte("text"), bytes.Repeat([]byte{7}, 1<<20), sql.RawBytes("raw"),
			true, false, time.Date(2024, 2, 29, 12, 30, 15, 123456789, time.UTC), time.Date(2024, 7, 1, 0, 0, 0, 0, time.FixedZone("", 7200)), time.Time{},
			time.Second, &str, (*string)(nil), textValuer("v"), sql.NullString{String: "s", Valid: true}, sql.NullInt64{}, sql.NullTime{},
		} {
			s.exec(db, `INSERT INTO t VALUES (?, ?1+?2, ?, ?, ?, ?, ?)`, i, v, v, v, v, v)
			s.exec(db, `INSERT OR REPLACE INTO t(id, v, i, r, x, b, n) VALUES (?, ?, ?, ?, ?, ?, ?)`, i, v, v, v, v, v, v)
		}
		for _, v := range []any{uint64(math.MaxUint64), struct{}{}, make(chan int), []int{1}, map[string]int{}, complex(1, 2), errors.New("x")} {
			_, err := db.Exec(`INSERT INTO t(v) VALUES (?)`, v)
			s.logf("insert %T: %v", v, err)
		}
		s.query(db, `SELECT * FROM t ORDER BY id`)
		s.query(db, `SELECT id, typeof(v), typeof(i), typeof(r), typeof(x), typeof(b), typeof(n), hex(CASE WHEN length(v) < 100 THEN v END) FROM t ORDER BY id`)
	}},
	{name: "declared types", body: func(s *compatSide) {
		db := s.open("")
		types := []string{"", "INT", "INTEGER", "BIGINT", "TINYINT(1)", "TEXT", "VARCHAR(20)", "CLOB", "BLOB", "REAL", "FLOAT", "DOUBLE PRECISION",
			"NUMERIC", "DECIMAL(10,2)", "BOOLEAN", "BOOL", "DATE", "DATETIME", "TIMESTAMP", "Timestamp", "datetime ", "TIME", "JSON", "UUID", "UNSIGNED BIG INT"}
		var cols []string
		for i, typ := range types {
			cols = append(cols, fmt.Sprintf("c%d %s", i, typ))
		}
		s.must(db, `CREATE TABLE t(`+strings.Join(cols, ", ")+`)`)
		marks := strings.TrimSuffix(strings.Repeat("?,", len(types)), ",")
		for _, v := range []any{nil, int64(1), int64(0), int64(-3), int64(1700000000), int64(1700000000123), 2.5, "2024-01-02 03:04:05", "2024-01-02", "nonsense", "", []byte("2024-01-02"), true} {
			s.exec(db, `INSERT INTO t VALUES (`+marks+`)`, slices.Repeat([]any{v}, len(types))...)
		}
		s.query(db, `SELECT * FROM t`)
		s.query(db, `SELECT c1+0, upper(c5), c15 OR 0, max(c16), (SELECT c17 FROM t LIMIT 1), c18 AS renamed, +c16 FROM t`)
		s.query(db, `SELECT count(*) FROM t`)
		s.query(db, `INSERT INTO t(c0, c1, c14, c17) VALUES (1, 2, 1, '2024-05-05 05:05:05') RETURNING *`)
	}},
	{name: "times", body: func(s *compatSide) {
		for _, options := range []string{"", "_loc=auto", "_loc=Europe/Berlin", "_loc=UTC"} {
			db := s.openFile("times"+fmt.Sprint(len(s.lines))+".db", options)
			s.must(db, `CREATE TABLE t(id INTEGER PRIMARY KEY, ts TIMESTAMP, dt DATETIME, d DATE, x TEXT)`)
			for _, v := range []any{
				"2012-11-04", "2012-11-04 00:00", "2012-11-04 00:00:00", "2012-11-04 00:00:00.000", "2012-11-04T00:00", "2012-11-04T00:00:00", "2012-11-04T00:00:00Z",
				"2012-11-04 00:00:00-05:00", "2012-11-04T00:00:00.123456789+02:00", "2012-11-04 25:00", "0000-00-00 00:00:00", int64(1352000000), int64(1352000000999), int64(-1), 1352000000.5,
				time.Date(2012, 11, 4, 1, 2, 3, 4, time.UTC), time.Date(2012, 11, 4, 1, 2, 3, 0, time.FixedZone("x", -3*3600)),
			} {
				s.must(db, `INSERT INTO t(ts, dt, d, x) VALUES (?, ?, ?, ?)`, v, v, v, v)
			}
			s.query(db, `SELECT * FROM t`)
			s.query(db, `UPDATE t SET x = 'u' RETURNING id, ts, dt, d`)
			s.query(db, `SELECT datetime(ts), ts < '2013', strftime('%Y', dt) FROM t`)
		}
	}},
	{name: "result numbers", body: func(s *compatSide) {
		db := s.open("")
		db.SetMaxOpenConns(1)
		for _, q := range []string{
			`CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE, w DEFAULT 0)`,
			`INSERT INTO t(v) VALUES ('a')`,
			`INSERT INTO t(v) VALUES ('b'), ('c'), ('d')`,
			`INSERT INTO t(id, v) VALUES (100, 'e')`,
			`UPDATE t SET w = 1`,
			`UPDATE t SET w = 1 WHERE id = 77`,
			`CREATE INDEX i ON t(w)`,
			`SELECT 1`,
			`PRAGMA foreign_keys`,
			`INSERT OR IGNORE INTO t(v) VALUES ('a')`,
			`INSERT OR REPLACE INTO t(id, v) VALUES (1, 'b')`,
			`REPLACE INTO t(id, v) VALUES (1, 'z')`,
			`INSERT INTO t(v) VALUES ('a') ON CONFLICT(v) DO NOTHING`,
			`INSERT INTO t(v) VALUES ('z') ON CONFLICT(v) DO UPDATE SET w = 9`,
			`INSERT INTO t(v) SELECT v || 'x' FROM t`,
			`DELETE FROM t WHERE id > 100`,
			`DELETE FROM t`,
			`INSERT INTO t(v) VALUES ('a'); INSERT INTO t(v) VALUES ('b')`,
			`INSERT INTO t(v) VALUES ('c'); -- behind`,
			`INSERT INTO t(v) VALUES ('d'); /* behind */ ;`,
			`/* before */ INSERT INTO t(v) VALUES ('e');  `,
			"-- name: Insert :exec\nINSERT INTO t(v) VALUES ('f')",
			`BEGIN; INSERT INTO t(v) VALUES ('g'); COMMIT`,
			`SAVEPOINT a; INSERT INTO t(v) VALUES ('h'); RELEASE a`,
			`CREATE TABLE c AS SELECT * FROM t`,
			`UPDATE c SET w = 5`,
			`ALTER TABLE c ADD COLUMN n`,
			`DROP TABLE c`,
			`CREATE TABLE wr(k PRIMARY KEY, v) WITHOUT ROWID`,
			`INSERT INTO wr VALUES ('k', 1)`,
			`CREATE TABLE au(id INTEGER PRIMARY KEY AUTOINCREMENT, v)`,
			`INSERT INTO au(v) VALUES (1), (2)`,
			`DELETE FROM au`,
			`INSERT INTO au(v) VALUES (3)`,
			`CREATE TRIGGER tr AFTER INSERT ON au BEGIN INSERT INTO t(id, v) VALUES (new.id * 1000, 'tr' || new.id); UPDATE t SET w = 3; END`,
			`INSERT INTO au(v) VALUES (4)`,
			`ANALYZE`,
			`REINDEX`,
			`SELECT * FROM t`,
			`WITH x AS (SELECT 5 AS n) INSERT INTO au(v) SELECT n FROM x`,
			`WITH x AS (SELECT 5 AS n) SELECT n FROM x`,
			``, ` `, `;`, `;;`, `-- only`, `/* only */`,
		} {
			s.exec(db, q)
			s.query(db, `SELECT last_insert_rowid(), changes(), total_changes()`)
		}
		s.query(db, `SELECT * FROM t ORDER BY id`)
		s.query(db, `SELECT * FROM au`)
		s.query(db, `SELECT name, seq FROM sqlite_sequence`)
	}},
	{name: "several statements", body: func(s *compatSide) {
		db := s.open("")
		db.SetMaxOpenConns(1)
		s.exec(db, `CREATE TABLE t(a, b); CREATE TABLE u(a); INSERT INTO t VALUES (1, 'x;y'), (2, "--z") ; `)
		s.exec(db, `INSERT INTO t VALUES (?, ?); INSERT INTO u VALUES (?)`, 3, "three", 33)
		s.exec(db, `INSERT INTO t VALUES (?, ?); INSERT INTO u VALUES (?)`, 4, "four")
		s.exec(db, `INSERT INTO t VALUES (?, ?); INSERT INTO u VALUES (?)`, 5, "five", 55, 555)
		s.exec(db, `INSERT INTO t VALUES (?, ?)`, 6)
		s.exec(db, `INSERT INTO t VALUES (?, ?)`)
		s.exec(db, `INSERT INTO u VALUES (1); INSERT INTO u VALUES (?)`)
		s.exec(db, `INSERT INTO t VALUES (:a, :b); INSERT INTO u VALUES (:a)`, sql.Named("a", 7), sql.Named("b", "seven"))
		s.exec(db, `INSERT INTO t VALUES (:a, :b); INSERT INTO u VALUES (:a)`, sql.Named("a", 7), sql.Named("b", "seven"), sql.Named("c", "eight"))
		s.exec(db, `INSERT INTO t VALUES (?, :b); INSERT INTO u VALUES (?)`, 8, sql.Named("b", "eight"), 88)
		s.exec(db, `INSERT INTO t VALUES (?2, ?1); INSERT INTO u VALUES (?1)`, 9, 10, 11)
		s.exec(db, `INSERT INTO u VALUES ('before'); INSERT INTO nowhere VALUES (1); INSERT INTO u VALUES ('after')`)
		s.exec(db, `INSERT INTO u VALUES ('before 2'); nonsense; INSERT INTO u VALUES ('after 2')`)
		s.exec(db, "CREATE TRIGGER tr AFTER INSERT ON u WHEN new.a = 'go' BEGIN\n\tINSERT INTO t VALUES ('end;', CASE WHEN 1 THEN 'END' ELSE 'x' END);\n\tDELETE FROM t WHERE a = 1;\nEND; INSERT INTO u VALUES ('go')")
		s.query(db, `INSERT INTO u VALUES ('in query'); SELECT count(*) FROM u`)
		s.query(db, `SELECT 1; SELECT 2, 3`)
		s.query(db, `SELECT ?; SELECT ?, ?`, 1, 2, 3)
		s.query(db, `SELECT ?; SELECT ?, ?`, 1, 2)
		s.query(db, `SELECT 1; -- behind`)
		s.query(db, `-- before
			SELECT 1`)
		s.query(db, `SELECT ';' AS a, '--' AS b, "c;d" FROM (SELECT 1 AS "c;d");`)
		s.query(db, `SELECT 1; nonsense`)
		s.query(db, `INSERT INTO u VALUES ('q')`)
		s.query(db, `UPDATE u SET a = 'w' WHERE a = 'q'; DELETE FROM u WHERE a = 'w' RETURNING a; SELECT 'end'`)
		s.query(db, ``)
		s.query(db, `;`)
		s.query(db, `-- only`)
		s.query(db, `BEGIN; INSERT INTO u VALUES ('t'); COMMIT`)
		s.query(db, `SELECT * FROM t ORDER BY rowid`)
		s.query(db, `SELECT * FROM u ORDER BY rowid`)
	}},
	{name: "named parameters", body: func(s *compatSide) {
		db := s.open("")
		s.must(db, `CREATE TABLE t(a, b, c)`)
		s.exec(db, `INSERT INTO t VALUES (:x, @x, $x)`, sql.Named("x", 1))
		s.exec(db, `INSERT INTO t VALUES (:x, @y, $z)`, sql.Named("z", 1), sql.Named("y", "two"), sql.Named("x", nil))
		s.exec(db, `INSERT INTO t VALUES (?, :y, ?)`, 1, sql.Named("y", 2), 3)
		s.exec(db, `INSERT INTO t VALUES (?1, ?2, ?1)`, 1, 2)
		s.exec(db, `INSERT INTO t VALUES (?, ?, ?)`, 1, 2)
		s.exec(db, `INSERT INTO t VALUES (:x, :y, :z)`, sql.Named("x", 1), sql.Named("nobody", 2), sql.Named("z", 3))
		s.exec(db, `INSERT INTO t VALUES (:x, :y, :z)`, sql.Named("x", 1))
		s.exec(db, `INSERT INTO t VALUES (:x, :x, :x)`, sql.Named(":x", 1))
		s.query(db, `SELECT :x, :x + 1, @y WHERE :x = 1`, sql.Named("x", 1), sql.Named("y", "why"))
		st, err := db.Prepare(`SELECT a, b FROM t WHERE a IS :a OR b = :b`)
		s.logf("prepare: %v", err)
		for _, args := range [][]any{{sql.Named("a", nil), sql.Named("b", "two")}, {sql.Named("b", 2), sql.Named("a", 5)}, {1, 2}, {1}} {
			rows, err := st.Query(args...)
			s.rows(fmt.Sprint(args), rows, err)
		}
		s.logf("close: %v", st.Close())
		s.query(db, `SELECT * FROM t`)
	}},
	{name: "returning", body: func(s *compatSide) {
		db := s.open("")
		db.SetMaxOpenConns(1)
		s.must(db, `CREATE TABLE t(id INTEGER PRIMARY KEY, name VARCHAR(10) UNIQUE, at DATETIME, ok BOOLEAN DEFAULT 1)`)
		s.query(db, `INSERT INTO t(name, at) VALUES ('a', '2024-01-01'), ('b', NULL), ('c', 5) RETURNING id, name, at, ok, id * 2 AS twice`)
		s.query(db, `UPDATE t SET ok = 0 WHERE id < 3 RETURNING *`)
		s.query(db, `DELETE FROM t WHERE id = 77 RETURNING id`)
		s.query(db, `DELETE FROM t WHERE id = 3 RETURNING id, name`)
		s.query(db, `INSERT INTO t(name) VALUES ('a') RETURNING id`)
		s.query(db, `INSERT INTO t(name) VALUES ('a') ON CONFLICT(name) DO UPDATE SET ok = 5 RETURNING id, ok`)
		s.query(db, `INSERT INTO t(name) VALUES ('a') ON CONFLICT(name) DO NOTHING RETURNING id`)
		var id int
		err := db.QueryRow(`INSERT INTO t(name) VALUES (?), (?) RETURNING id`, "d", "e").Scan(&id)
		s.logf("first row only: %d %v", id, err)
		rows, err := db.Query(`INSERT INTO t(name) VALUES (?) RETURNING id`, "unread")
		s.logf("unread: %v", err)
		if err == nil {
			s.logf("unread close: %v", rows.Close())
		}
		st, err := db.Prepare(`INSERT INTO t(name) VALUES (?) RETURNING id, name`)
		s.logf("prepare: %v", err)
		for _, name := range []string{"p1", "p2", "p1", "p3"} {
			err := st.QueryRow(name).Scan(&id, new(string))
			s.logf("prepared %s: %d %s", name, id, errorText(err))
		}
		s.logf("close: %v", st.Close())
		tx, err := db.Begin()
		s.logf("begin: %v", err)
		s.query(tx, `INSERT INTO t(name) VALUES ('tx') RETURNING name`)
		s.logf("rollback: %v", tx.Rollback())
		s.query(db, `SELECT * FROM t`)
		s.query(db, `SELECT changes(), last_insert_rowid()`)
	}},
	{name: "transactions", body: func(s *compatSide) {
		db := s.open("")
		db.SetMaxOpenConns(1)
		s.must(db, `CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE)`)
		tx, err := db.Begin()
		s.logf("begin: %v", err)
		s.exec(tx, `INSERT INTO t(v) VALUES (1)`)
		s.query(tx, `SELECT * FROM t`)
		s.logf("commit: %v, again: %v, rollback: %v", tx.Commit(), tx.Commit(), tx.Rollback())
		tx, _ = db.Begin()
		s.exec(tx, `INSERT INTO t(v) VALUES (2)`)
		s.exec(tx, `INSERT INTO t(v) VALUES (3), (1)`)
		s.exec(tx, `INSERT OR FAIL INTO t(v) VALUES (4), (1), (5)`)
		s.exec(tx, `INSERT OR IGNORE INTO t(v) VALUES (6), (1), (7)`)
		s.exec(tx, `BEGIN`)
		s.exec(tx, `nonsense`)
		s.logf("commit: %v", tx.Commit())
		s.query(db, `SELECT * FROM t`)
		tx, _ = db.Begin()
		s.exec(tx, `DELETE FROM t`)
		s.logf("rollback: %v", tx.Rollback())
		s.query(db, `SELECT count(*) FROM t`)
		tx, _ = db.Begin()
		s.exec(tx, `INSERT INTO t(v) VALUES ('text commit')`)
		s.exec(tx, `COMMIT`)
		s.logf("commit: %s", errorText(tx.Commit()))
		tx, _ = db.Begin()
		s.exec(tx, `ROLLBACK`)
		s.logf("rollback: %s", errorText(tx.Rollback()))
		s.exec(db, `COMMIT`)
		s.exec(db, `ROLLBACK`)
		s.exec(db, `RELEASE x`)
		s.exec(db, `ROLLBACK TO x`)
		tx, err = db.BeginTx(context.Background(), &sql.TxOptions{Isolation: sql.LevelSerializable})
		s.logf("serializable: %v", err)
		s.exec(tx, `INSERT INTO t(v) VALUES ('s')`)
		s.logf("commit: %v", tx.Commit())
		s.query(db, `SELECT * FROM t`)
	}},
	{name: "begin as text", body: func(s *compatSide) {
		db := s.open("")
		s.must(db, `CREATE TABLE t(id INTEGER PRIMARY KEY, v)`)
		conn, err := db.Conn(context.Background())
		if err != nil {
			s.t.Fatal(err)
		}
		for _, q := range []string{
			`BEGIN`, `INSERT INTO t(v) VALUES (1)`, `COMMIT`,
			`BEGIN IMMEDIATE`, `INSERT INTO t(v) VALUES (2)`, `ROLLBACK`,
			`BEGIN EXCLUSIVE TRANSACTION`, `INSERT INTO t(v) VALUES (3)`, `END TRANSACTION`,
			`begin deferred`, `begin`, `insert into t(v) values (4)`, `commit transaction`, `commit`,
			`SAVEPOINT a`, `INSERT INTO t(v) VALUES (5)`, `SAVEPOINT b`, `INSERT INTO t(v) VALUES (6)`, `ROLLBACK TO b`, `INSERT INTO t(v) VALUES (7)`, `RELEASE b`, `RELEASE a`,
			`SAVEPOINT a`, `UPDATE t SET v = 0`, `ROLLBACK TRANSACTION TO SAVEPOINT a`, `RELEASE SAVEPOINT a`,
			`SAVEPOINT a`, `DELETE FROM t`, `ROLLBACK`,
			`BEGIN`, `SAVEPOINT "x y"`, `INSERT INTO t(v) VALUES (8)`, `RELEASE "x y"`, `SAVEPOINT z`, `DELETE FROM t`, `ROLLBACK TO z`, `COMMIT`,
			`SAVEPOINT a`, `INSERT INTO t(v) VALUES (9)`, `COMMIT`,
			`BEGIN; INSERT INTO t(v) VALUES (10); SAVEPOINT s; INSERT INTO t(v) VALUES (11); ROLLBACK TO s`, `COMMIT`,
		} {
			s.exec(conn, q)
			s.query(conn, `SELECT * FROM t`)
		}
		s.logf("close: %v", conn.Close())
		s.query(db, `SELECT * FROM t`)
	}},
	{name: "begin through a pool of one", body: func(s *compatSide) {
		db := s.open("")
		db.SetMaxOpenConns(1)
		s.must(db, `CREATE TABLE t(id INTEGER PRIMARY KEY, v)`)
		for _, q := range []string{
			`BEGIN`, `INSERT INTO t(v) VALUES (1)`, `INSERT INTO t(v) VALUES (2)`, `ROLLBACK`,
			`BEGIN`, `INSERT INTO t(v) VALUES (3)`, `COMMIT`,
			`SAVEPOINT a`, `INSERT INTO t(v) VALUES (4)`, `RELEASE a`,
		} {
			s.exec(db, q)
			s.query(db, `SELECT * FROM t`)
		}
	}},
	{name: "errors", body: func(s *compatSide) {
		db := s.open("_foreign_keys=1")
		db.SetMaxOpenConns(1)
		s.must(db, `CREATE TABLE p(id INTEGER PRIMARY KEY, u UNIQUE, n NOT NULL DEFAULT 0, c CHECK (c <> 5), e INT);
			CREATE UNIQUE INDEX pe ON p(abs(e)); CREATE TABLE ch(p REFERENCES p(id), d REFERENCES p(id) DEFERRABLE INITIALLY DEFERRED);
			CREATE TABLE st(i INTEGER, t TEXT) STRICT; CREATE TABLE wr(k TEXT PRIMARY KEY) WITHOUT ROWID;
			CREATE TABLE gen(a, b AS (a * 2)); CREATE VIEW v AS SELECT * FROM p;
			CREATE TRIGGER r BEFORE INSERT ON st WHEN new.i = 99 BEGIN SELECT RAISE(ABORT, 'not 99'); END;
			INSERT INTO p(id, u, e) VALUES (1, 'u', 1); INSERT INTO wr VALUES ('k')`)
		for _, q := range []string{
			`INSERT INTO p(id) VALUES (1)`, `INSERT INTO p(u) VALUES ('u')`, `INSERT INTO p(n) VALUES (NULL)`, `INSERT INTO p(c) VALUES (5)`, `INSERT INTO p(e) VALUES (-1)`,
			`INSERT INTO p(id) VALUES ('text')`, `INSERT INTO ch(p) VALUES (77)`, `INSERT INTO ch(d) VALUES (77)`, `DELETE FROM p; SELECT 1`, `INSERT INTO st VALUES ('x', 1)`, `INSERT INTO st VALUES (99, 'x')`,
			`INSERT INTO wr VALUES ('k')`, `INSERT INTO gen(b) VALUES (1)`, `INSERT INTO v VALUES (1)`, `UPDATE p SET id = 'x'`,
			`SELEC 1`, `SELECT`, `SELECT * FROM nowhere`, `SELECT nothing`, `INSERT INTO nowhere VALUES (1)`, `INSERT INTO p VALUES (1)`, `INSERT INTO p(nothing) VALUES (1)`, `SELECT nofunc(1)`,
			`CREATE TABLE p(x)`, `DROP TABLE nowhere`, `ALTER TABLE nowhere ADD x`, `CREATE INDEX i ON nowhere(x)`, `SELECT 'unterminated`, `SELECT "unterminated`, `SELECT (`, `INSERT INTO p(`,
			`SELECT abs(-9223372036854775808)`, `SELECT json('{')`, `SELECT zeroblob(2000000000)`, `SELECT 1 FROM p WHERE id = `, `INSERT INTO sqlite_schema VALUES (1)`, `DROP TABLE sqlite_schema`,
			`ATTACH '/no/such/folder/x.db' AS a`, `DETACH nothing`, `CREATE TABLE "sqlite_x"(a)`, `PRAGMA nonsense`, `SELECT load_extension('x')`, `DELETE FROM p WHERE id = 1 LIMIT -5 OFFSET x`,
		} {
			s.exec(db, q)
			s.query(db, q)
		}
		tx, err := db.Begin()
		s.logf("begin: %v", err)
		s.exec(tx, `INSERT INTO ch(d) VALUES (77)`)
		s.logf("deferred: %s", errorText(tx.Commit()))
		s.query(db, `SELECT count(*) FROM ch`)
		_, err = db.Prepare(`SELEC`)
		s.logf("prepare: %s", errorText(err))
		var n int
		s.logf("no rows: %v", db.QueryRow(`SELECT 1 WHERE 0`).Scan(&n))
		s.logf("scan: %v", db.QueryRow(`SELECT 'x'`).Scan(&n))
		s.logf("scan null: %v", db.QueryRow(`SELECT NULL`).Scan(&n))
		s.logf("row: %s", errorText(db.QueryRow(`SELECT abs(-9223372036854775808)`).Scan(&n)))
		rows, err := db.Query(`SELECT abs(column1) FROM (VALUES (1), (2), (-9223372036854775808))`)
		s.rows("error in the third row", rows, err)
	}},
	{name: "busy", fileOnly: true, body: func(s *compatSide) {
		one, two := s.open("_busy_timeout=30"), s.open("_busy_timeout=30")
		s.must(one, `CREATE TABLE t(v)`)
		tx, err := one.Begin()
		s.logf("begin: %v", err)
		s.exec(tx, `INSERT INTO t VALUES (1)`)
		s.exec(two, `INSERT INTO t VALUES (2)`)
		s.query(two, `SELECT count(*) FROM t`)
		tx2, err := two.Begin()
		s.logf("second: %v", err)
		s.query(tx2, `SELECT count(*) FROM t`)
		s.exec(tx2, `INSERT INTO t VALUES (3)`)
		s.logf("commit: %v", tx.Commit())
		s.exec(tx2, `INSERT INTO t VALUES (3)`) // the snapshot is old
		s.query(tx2, `SELECT count(*) FROM t`)
		s.logf("rollback: %v", tx2.Rollback())
		s.exec(two, `INSERT INTO t VALUES (2)`)
		tx3, err := two.BeginTx(context.Background(), nil)
		s.logf("third: %v", err)
		s.exec(tx3, `UPDATE t SET v = v`)
		s.exec(one, `DELETE FROM t`)
		s.logf("commit: %v", tx3.Commit())
		s.query(one, `SELECT * FROM t`)
	}},
	{name: "txlock", fileOnly: true, body: func(s *compatSide) {
		for _, lock := range []string{"deferred", "immediate", "exclusive"} {
			db := s.openFile(lock+".db", "_busy_timeout=30&_txlock="+lock)
			s.must(db, `CREATE TABLE t(v)`)
			tx, err := db.Begin()
			s.logf("%s: %v", lock, err)
			s.exec(db, `INSERT INTO t VALUES (1)`)
			s.query(db, `SELECT count(*) FROM t`)
			s.logf("rollback: %v", tx.Rollback())
			s.exec(db, `INSERT INTO t VALUES (1)`)
		}
	}},
	{name: "foreign keys", body: func(s *compatSide) {
		for _, options := range []string{"", "_foreign_keys=1", "_fk=on&_defer_fk=1", "_fk=0"} {
			db := s.openFile("fk"+fmt.Sprint(len(s.lines))+".db", options)
			db.SetMaxOpenConns(1)
			s.must(db, `CREATE TABLE p(id INTEGER PRIMARY KEY);
				CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE);
				CREATE TABLE n(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE SET NULL);
				INSERT INTO p VALUES (1), (2), (3); INSERT INTO c(p) VALUES (1), (1), (2); INSERT INTO n(p) VALUES (1), (3)`)
			s.query(db, `PRAGMA foreign_keys`)
			s.exec(db, `INSERT INTO c(p) VALUES (9)`)
			s.exec(db, `DELETE FROM p WHERE id = 1`)
			s.exec(db, `UPDATE p SET id = 20 WHERE id = 2`)
			s.exec(db, `PRAGMA foreign_keys = 1`)
			s.query(db, `PRAGMA foreign_keys`)
			s.query(db, `PRAGMA foreign_key_check`)
			s.exec(db, `INSERT INTO c(p) VALUES (10)`)
			s.exec(db, `DELETE FROM p`)
			s.query(db, `SELECT 'p', id, NULL FROM p UNION ALL SELECT 'c', id, p FROM c UNION ALL SELECT 'n', id, p FROM n`)
		}
	}},
	{name: "options", body: func(s *compatSide) {
		for _, options := range []string{"_case_sensitive_like=1", "_cslike=0", "_recursive_triggers=1", "_rt=0", "_ignore_check_constraints=1", "_query_only=1",
			"_synchronous=OFF", "_sync=FULL", "_secure_delete=FAST", "_cache_size=-4000", "_stmt_cache_size=10", "_mutex=no", "_mutex=full", "_timeout=1234"} {
			db := s.openFile("o"+fmt.Sprint(len(s.lines))+".db", options)
			db.SetMaxOpenConns(1)
			s.logf("%s", options)
			s.exec(db, `CREATE TABLE t(a CHECK (a < 10))`)
			s.exec(db, `CREATE TABLE t(a CHECK (a < 10))`)
			s.exec(db, `INSERT INTO t VALUES (1), (2)`)
			s.exec(db, `INSERT INTO t VALUES (11)`)
			for _, q := range []string{`SELECT 'a' LIKE 'A'`, `PRAGMA recursive_triggers`, `PRAGMA ignore_check_constraints`, `PRAGMA query_only`, `PRAGMA synchronous`,
				`PRAGMA secure_delete`, `PRAGMA cache_size`, `PRAGMA busy_timeout`, `PRAGMA locking_mode`, `SELECT * FROM t`, `SELECT * FROM t`} {
				s.query(db, q)
			}
		}
	}},
	{name: "pragmas", body: func(s *compatSide) {
		db := s.open("")
		db.SetMaxOpenConns(1)
		s.must(db, `CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT NOT NULL DEFAULT 'x', b UNIQUE, c AS (b || a)); CREATE INDEX i ON t(a, b DESC)`)
		for _, q := range []string{
			`PRAGMA user_version`, `PRAGMA user_version = 7`, `PRAGMA user_version`, `PRAGMA main.user_version`, `PRAGMA application_id = 99`, `PRAGMA application_id`,
			`PRAGMA table_info(t)`, `PRAGMA table_xinfo('t')`, `PRAGMA index_list(t)`, `PRAGMA index_info(i)`, `PRAGMA index_xinfo(i)`, `PRAGMA foreign_key_list(t)`,
			`SELECT name, type FROM pragma_table_info('t')`, `PRAGMA integrity_check`, `PRAGMA quick_check`, `PRAGMA encoding`, `PRAGMA page_size`,
			`PRAGMA busy_timeout = 99`, `PRAGMA busy_timeout`, `PRAGMA cache_size = 100`, `PRAGMA cache_size`, `PRAGMA synchronous = 2`, `PRAGMA synchronous`,
			`PRAGMA temp_store = 2`, `PRAGMA temp_store`, `PRAGMA case_sensitive_like = 1`, `SELECT 'a' LIKE 'A'`, `PRAGMA recursive_triggers = on`, `PRAGMA recursive_triggers`,
			`PRAGMA query_only = 1`, `INSERT INTO t(b) VALUES (1)`, `PRAGMA query_only = 0`, `INSERT INTO t(b) VALUES (2)`, `PRAGMA optimize`, `PRAGMA collation_list`,
			`PRAGMA mmap_size`, `PRAGMA read_uncommitted`, `PRAGMA nosuchpragma`, `PRAGMA nosuchpragma = 5`, `PRAGMA short_column_names`, `PRAGMA database_list`,
			`PRAGMA journal_mode`, `EXPLAIN QUERY PLAN SELECT * FROM t WHERE a = 'x'`, `PRAGMA freelist_count`, `PRAGMA schema_version`,
		} {
			if strings.Contains(q, "schema_version") || strings.Contains(q, "freelist") || strings.Contains(q, "database_list") {
				continue // the log's tables show, the path differs
			}
			s.query(db, q)
		}
		s.exec(db, `PRAGMA user_version = 8`)
		s.exec(db, `PRAGMA user_version`)
		tx, err := db.Begin()
		s.logf("begin: %v", err)
		s.exec(tx, `PRAGMA user_version = 9`)
		s.query(tx, `PRAGMA user_version`)
		s.logf("rollback: %v", tx.Rollback())
		s.query(db, `PRAGMA user_version`)
	}},
	{name: "functions and collations", body: func(s *compatSide) {
		s.hook = func(c *sqlite3.SQLiteConn) error {
			if err := c.RegisterFunc("plus", func(a, b int64) int64 { return a + b }, true); err != nil {
				return err
			}
			if err := c.RegisterFunc("fails", func() (int64, error) { return 0, errAsked }, false); err != nil {
				return err
			}
			if err := c.RegisterFunc("many", func(a ...any) string { return fmt.Sprint(a...) }, true); err != nil {
				return err
			}
			if err := c.RegisterAggregator("longest", newLongest, true); err != nil {
				return err
			}
			if err := c.RegisterCollation("backwards", func(a, b string) int { return strings.Compare(b, a) }); err != nil {
				return err
			}
			_, err := c.Exec(`PRAGMA cache_size = 77`, nil)
			return err
		}
		db := s.open("")
		s.must(db, `CREATE TABLE t(id INTEGER PRIMARY KEY, n, x TEXT COLLATE backwards UNIQUE, g AS (plus(n, 1)) STORED); CREATE INDEX i ON t(plus(n, 2))`)
		s.exec(db, `INSERT INTO t(n, x) VALUES (plus(1, 2), 'b'), (5, 'a'), (6, 'c')`)
		s.exec(db, `INSERT INTO t(n, x) VALUES (fails(), 'd')`)
		s.exec(db, `INSERT INTO t(n, x) VALUES (1, 'c')`)
		s.exec(db, `INSERT OR REPLACE INTO t(n, x) VALUES (9, 'c')`)
		s.exec(db, `UPDATE t SET n = plus(n, g) WHERE plus(n, 2) > 4`)
		s.query(db, `SELECT *, many(n, x, NULL, 1.5, x'00') FROM t ORDER BY x`)
		s.query(db, `SELECT longest(x || n) FROM t`)
		s.query(db, `SELECT fails()`)
		s.query(db, `SELECT plus(1)`)
		s.query(db, `PRAGMA cache_size`)
		s.hook = func(*sqlite3.SQLiteConn) error { return errAsked }
		bad := s.openFile("bad.db", "")
		s.logf("hook fails: %s", errorText(bad.Ping()))
	}},
	{name: "cancelled contexts", body: func(s *compatSide) {
		db := s.open("")
		db.SetMaxOpenConns(1)
		s.must(db, `CREATE TABLE t(v)`)
		const endless = `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) `
		done, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := db.ExecContext(done, `INSERT INTO t VALUES (1)`)
		s.logf("exec with a dead context: %s", errorText(err))
		_, err = db.QueryContext(done, `SELECT 1`)
		s.logf("query with a dead context: %s", errorText(err))
		_, err = db.BeginTx(done, nil)
		s.logf("begin with a dead context: %s", errorText(err))
		short := func() context.Context {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
			s.t.Cleanup(cancel)
			return ctx
		}
		_, err = db.ExecContext(short(), endless+`INSERT INTO t SELECT i FROM n`)
		s.logf("endless insert: %s", errorText(err))
		rows, err := db.QueryContext(short(), endless+`SELECT max(i) FROM n`)
		s.logf("endless select: %s", errorText(err))
		if err == nil {
			rows.Close()
		}
		rows, err = db.QueryContext(short(), endless+`SELECT i FROM n`)
		s.logf("endless rows: %s", errorText(err))
		if err == nil {
			for rows.Next() {
			}
			s.logf("ended: %s", errorText(rows.Err()))
			rows.Close()
		}
		st, err := db.Prepare(endless + `INSERT INTO t SELECT i FROM n RETURNING v`)
		s.logf("prepare: %v", err)
		_, err = st.ExecContext(short())
		s.logf("prepared: %s", errorText(err))
		_, err = st.QueryContext(short())
		s.logf("prepared query: %s", errorText(err))
		st.Close()
		tx, err := db.BeginTx(context.Background(), nil)
		s.logf("begin: %v", err)
		s.exec(tx, `INSERT INTO t VALUES ('kept')`)
		_, err = tx.QueryContext(short(), endless+`SELECT max(i) FROM n`)
		s.logf("endless select in tx: %s", errorText(err))
		s.exec(tx, `INSERT INTO t VALUES ('too')`)
		s.logf("commit: %v", tx.Commit())
		s.query(db, `SELECT * FROM t`)
		if s.memory { // go-sqlite3 loses the connection, and the database with it
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		tx, err = db.BeginTx(ctx, nil)
		s.logf("begin: %v", err)
		s.exec(tx, `INSERT INTO t VALUES ('gone')`)
		cancel()
		// database/sql says the one or the other, as it has rolled back already or not.
		err = tx.Commit()
		s.logf("commit after cancel: %v", errors.Is(err, context.Canceled) || errors.Is(err, sql.ErrTxDone))
		s.query(db, `SELECT * FROM t`)
	}},
	{name: "prepared statements", body: func(s *compatSide) {
		db := s.open("")
		db.SetMaxOpenConns(1)
		s.must(db, `CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE)`)
		ins, err := db.Prepare(`INSERT INTO t(v) VALUES (?); INSERT INTO t(v) VALUES ('second statement')`)
		s.logf("prepare: %v", err)
		for _, v := range []any{"a", "b", "a", nil, nil, 1} {
			res, err := ins.Exec(v)
			s.logf("insert %v: %s", v, s.result(res, err))
		}
		_, err = ins.Exec()
		s.logf("no args: %v", err)
		_, err = ins.Exec(1, 2)
		s.logf("two args: %v", err)
		sel, err := db.Prepare(`SELECT * FROM t WHERE v IS ? ORDER BY id`)
		s.logf("prepare: %v", err)
		for _, v := range []any{"a", nil, "none"} {
			rows, err := sel.Query(v)
			s.rows(fmt.Sprint("select ", v), rows, err)
		}
		res, err := sel.Exec("a")
		s.logf("exec of a select: %v %v", res != nil, err)
		s.must(db, `ALTER TABLE t ADD COLUMN w DEFAULT 'new'`)
		rows, err := sel.Query("a")
		s.rows("after alter", rows, err)
		tx, err := db.Begin()
		s.logf("begin: %v", err)
		res, err = tx.Stmt(ins).Exec("in tx")
		s.logf("in tx: %s", s.result(res, err))
		rows, err = tx.Stmt(sel).Query("in tx")
		s.rows("in tx", rows, err)
		own, err := tx.Prepare(`UPDATE t SET w = ? WHERE v = ?`)
		s.logf("prepare in tx: %v", err)
		res, err = own.Exec("own", "in tx")
		s.logf("own: %s", s.result(res, err))
		s.logf("commit: %v", tx.Commit())
		_, err = own.Exec("x", "in tx")
		s.logf("after commit: %v", err)
		tx, _ = db.Begin()
		res, err = tx.Stmt(ins).Exec("rolled back")
		s.logf("in tx: %s", s.result(res, err))
		s.logf("rollback: %v", tx.Rollback())
		del, err := db.Prepare(`DELETE FROM t WHERE v = ?`)
		s.logf("prepare: %v", err)
		res, err = del.Exec("b")
		s.logf("delete: %s", s.result(res, err))
		s.query(db, `SELECT * FROM t`)
		s.must(db, `DROP TABLE t`)
		_, err = ins.Exec("x")
		s.logf("after drop: %s", errorText(err))
		_, err = sel.Query("x")
		s.logf("after drop: %s", errorText(err))
		s.must(db, `CREATE TABLE t(id INTEGER PRIMARY KEY, v)`)
		res, err = ins.Exec("again")
		s.logf("created again: %s", s.result(res, err))
		s.logf("close: %v %v %v %v", ins.Close(), sel.Close(), del.Close(), ins.Close())
		_, err = ins.Exec("x")
		s.logf("after close: %v", err)
		_, err = db.Prepare(`INSERT INTO nowhere VALUES (1)`)
		s.logf("prepare: %s", errorText(err))
		begin, err := db.Prepare(`BEGIN`)
		s.logf("prepare begin: %v", err)
		commit, err := db.Prepare(`COMMIT`)
		s.logf("prepare commit: %v", err)
		_, err = begin.Exec()
		s.logf("begin: %v", err)
		s.exec(db, `INSERT INTO t(v) VALUES ('prepared tx')`)
		_, err = commit.Exec()
		s.logf("commit: %v", err)
		s.query(db, `SELECT * FROM t`)
		begin.Close()
		commit.Close()
	}},
	{name: "open rows beside writes", body: func(s *compatSide) {
		db := s.open("")
		db.SetMaxOpenConns(1)
		s.must(db, `CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES (1), (2), (3)`)
		tx, err := db.Begin()
		s.logf("begin: %v", err)
		rows, err := tx.Query(`SELECT id FROM t ORDER BY id`)
		s.logf("rows: %v", err)
		for rows.Next() {
			var id int
			s.logf("scan: %v", rows.Scan(&id))
			s.exec(tx, `UPDATE t SET v = v * 10 WHERE id = ?`, id)
			s.query(tx, `SELECT v FROM t WHERE id = ?`, id)
		}
		s.logf("end: %v %v", rows.Err(), rows.Close())
		s.logf("commit: %v", tx.Commit())
		tx, _ = db.Begin()
		rows, err = tx.Query(`SELECT id FROM t ORDER BY id`)
		s.logf("rows: %v next %t", err, rows.Next())
		s.exec(tx, `DELETE FROM t WHERE id = 3`)
		s.logf("rollback with open rows: %v", tx.Rollback())
		s.logf("rows: %t", rows.Next())
		rows.Close()
		conn, err := db.Conn(context.Background())
		s.logf("conn: %v", err)
		rows, err = conn.QueryContext(context.Background(), `SELECT id FROM t ORDER BY id`)
		s.logf("rows: %v next %t", err, rows.Next())
		s.exec(conn, `UPDATE t SET v = 0 WHERE id = 1`)
		s.exec(conn, `INSERT INTO t(v) VALUES (4)`)
		s.exec(conn, `INSERT INTO t(id) VALUES (1)`)
		n := 1
		for rows.Next() {
			n++
		}
		s.logf("%d rows: %v %v", n, rows.Err(), rows.Close())
		s.logf("close: %v", conn.Close())
		s.query(db, `SELECT * FROM t`)
	}},
	{name: "tables of all kinds", body: func(s *compatSide) {
		db := s.open("_recursive_triggers=1")
		db.SetMaxOpenConns(1)
		for _, q := range []string{
			`CREATE TABLE wr(a TEXT, b INT, c, PRIMARY KEY (b, a DESC)) WITHOUT ROWID`,
			`INSERT INTO wr VALUES ('x', 1, 'one'), ('y', 1, 'two'), ('x', 2, 'three')`,
			`UPDATE wr SET b = b + 10 WHERE a = 'x'`, `INSERT OR REPLACE INTO wr VALUES ('y', 1, 'new')`, `DELETE FROM wr WHERE b = 12`, `SELECT * FROM wr`,
			`CREATE TABLE st(i INT, r REAL, t TEXT, b BLOB, a ANY) STRICT`, `INSERT INTO st VALUES (1, 2, 3, x'04', '5')`, `SELECT * FROM st`,
			`CREATE TABLE g(a, b AS (a * 2), c AS (a * 3) STORED)`, `INSERT INTO g VALUES (1), (2)`, `UPDATE g SET a = 5 WHERE b = 2`, `SELECT * FROM g`,
			`CREATE TABLE d(id INTEGER PRIMARY KEY DESC, v)`, `INSERT INTO d(v) VALUES (1)`, `SELECT rowid, * FROM d`,
			`CREATE TABLE "quo""ted [t]"("a b" INT, 'c''d')`, `INSERT INTO "quo""ted [t]" VALUES (1, 2)`, `SELECT * FROM "quo""ted [t]"`,
			`CREATE TABLE u(a, b, UNIQUE(a), UNIQUE(b))`, `INSERT INTO u VALUES (1, 1), (2, 2)`, `REPLACE INTO u VALUES (1, 2)`, `SELECT * FROM u`,
			`CREATE VIEW v AS SELECT a, c FROM wr`,
			`CREATE TRIGGER vi INSTEAD OF INSERT ON v BEGIN INSERT INTO wr VALUES (new.a, 77, new.c); END`,
			`INSERT INTO v VALUES ('by view', 'c')`, `SELECT * FROM v`,
			`CREATE TABLE r(n)`, `CREATE TRIGGER rt AFTER INSERT ON r WHEN new.n < 5 BEGIN INSERT INTO r VALUES (new.n + 1); END`, `INSERT INTO r VALUES (1)`, `SELECT * FROM r`,
			`UPDATE r SET n = x.s FROM (SELECT 100 AS s) AS x WHERE n = 5`, `DELETE FROM r ORDER BY n DESC LIMIT 2`, `UPDATE r SET n = 0 ORDER BY n LIMIT 1`, `SELECT * FROM r`,
			`CREATE TEMP TABLE tt(a)`, `INSERT INTO tt VALUES (1), (2)`, `INSERT INTO tt SELECT n FROM r`, `SELECT * FROM temp.tt`, `DROP TABLE tt`,
			`ATTACH ':memory:' AS mem`, `CREATE TABLE mem.m(a)`, `INSERT INTO mem.m SELECT n FROM r`, `SELECT * FROM mem.m`, `DETACH mem`,
			`ALTER TABLE r RENAME TO rr`, `ALTER TABLE rr RENAME COLUMN n TO m`, `ALTER TABLE rr ADD COLUMN k DEFAULT 3`, `INSERT INTO rr VALUES (50, 51)`, `ALTER TABLE rr DROP COLUMN m`, `SELECT * FROM rr`,
			`CREATE TABLE ctas AS SELECT *, 'x' AS y FROM rr`, `SELECT * FROM ctas`, `INSERT INTO ctas DEFAULT VALUES`, `SELECT count(*) FROM ctas`,
			`DROP VIEW v`, `DROP TABLE wr`, `DROP INDEX IF EXISTS nope`, `SELECT json_extract('{"a":[1,2]}', '$.a[1]'), '{"a":1}' ->> 'a'`,
			`WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM c WHERE x < 3) INSERT INTO g(a) SELECT x FROM c`, `SELECT sum(a), group_concat(a) FROM g`,
			`VALUES (1, 'a'), (2, 'b')`, `EXPLAIN QUERY PLAN SELECT * FROM g WHERE a = 1`,
		} {
			s.exec(db, q)
			if strings.HasPrefix(q, "SELECT") || strings.HasPrefix(q, "VALUES") || strings.HasPrefix(q, "EXPLAIN") {
				s.query(db, q)
			}
		}
		s.query(db, `SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'turso_%' AND name NOT LIKE 'sqlite_autoindex_turso%' ORDER BY name`)
	}},
	{name: "many at once", fileOnly: true, body: func(s *compatSide) {
		db := s.open("_busy_timeout=10000&_txlock=immediate")
		s.must(db, `CREATE TABLE t(id INTEGER PRIMARY KEY, who, n); CREATE TABLE sum(n); INSERT INTO sum VALUES (0)`)
		var wg sync.WaitGroup
		errs := make(chan error, 100)
		for who := range 4 {
			wg.Go(func() {
				for n := range 20 {
					if _, err := db.Exec(`INSERT INTO t(who, n) VALUES (?, ?)`, who, n); err != nil {
						errs <- err
					}
					tx, err := db.Begin()
					if err != nil {
						errs <- err
						continue
					}
					var sum int
					if err := tx.QueryRow(`SELECT n FROM sum`).Scan(&sum); err != nil {
						errs <- err
					}
					if _, err := tx.Exec(`UPDATE sum SET n = ?`, sum+1); err != nil {
						errs <- err
					}
					if err := tx.Commit(); err != nil {
						errs <- err
					}
					if err := db.QueryRow(`SELECT count(*) FROM t`).Scan(&sum); err != nil {
						errs <- err
					}
				}
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			s.logf("error: %s", errorText(err))
		}
		s.query(db, `SELECT who, count(*), sum(n) FROM t GROUP BY who`)
		s.query(db, `SELECT n FROM sum`)
		s.query(db, `PRAGMA integrity_check`)
	}},
	{name: "connections of a pool", fileOnly: true, body: func(s *compatSide) {
		db := s.open("")
		s.must(db, `CREATE TABLE t(v); INSERT INTO t VALUES (1)`)
		one, err1 := db.Conn(context.Background())
		two, err2 := db.Conn(context.Background())
		s.logf("conns: %v %v", err1, err2)
		s.must(one, `CREATE TEMP TABLE mine(v)`)
		s.query(two, `SELECT * FROM mine`)
		s.must(one, `BEGIN; INSERT INTO t VALUES (2)`)
		s.query(one, `SELECT * FROM t`)
		s.query(two, `SELECT * FROM t`)
		s.must(one, `COMMIT`)
		s.query(two, `SELECT * FROM t`)
		s.must(two, `ALTER TABLE t ADD COLUMN w`)
		s.query(one, `SELECT * FROM t`)
		s.logf("raw: %v", one.Raw(func(dc any) error { return rawConn(dc).SetTrace() }))
		s.logf("close: %v %v", one.Close(), two.Close())
		s.logf("ping: %v", db.Ping())
		s.logf("close: %v, ping: %v", db.Close(), db.Ping())
	}},
	{name: "a file that is opened again", fileOnly: true, body: func(s *compatSide) {
		db := s.open("")
		s.must(db, `CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES ('kept')`)
		s.logf("close: %v", db.Close())
		db = s.open("_query_only=1")
		s.query(db, `SELECT * FROM t`)
		s.exec(db, `INSERT INTO t(v) VALUES ('no')`)
		s.logf("close: %v", db.Close())
		db = s.open("")
		s.exec(db, `INSERT INTO t(v) VALUES ('more')`)
		s.query(db, `SELECT * FROM t`)
		s.logf("missing folder: %s", errorText(s.openFile("no/such/folder.db", "").Ping()))
	}},
}

type longest struct{ s string }

func newLongest() *longest { return &longest{} }

func (l *longest) Step(s string) {
	if len(s) > len(l.s) {
		l.s = s
	}
}

func (l *longest) Done() string { return l.s }

// rawConn finds the go-sqlite3 connection under either driver.
type raw struct{ c *sqlite3.SQLiteConn }

func rawConn(dc any) raw {
	if c, ok := dc.(*tursosync.Conn); ok {
		return raw{c.SQLiteConn()}
	}
	return raw{dc.(*sqlite3.SQLiteConn)}
}

func (r raw) SetTrace() error {
	if r.c.GetLimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) <= 0 {
		return errors.New("no limit")
	}
	return r.c.RegisterFunc("later", func() int64 { return 1 }, true)
}
