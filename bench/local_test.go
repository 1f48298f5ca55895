// Package bench measures tursosync beside what it is compared with, both sides
// in one run, and prints the ratio of the medians. README.md has the commands.
package bench

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	_ "github.com/tursosync/tursosync"
)

// rounds is how often each side is measured; the sides take turns, so that what
// the machine does meanwhile hits both.
const rounds = 21

// compare runs both sides in turns and reports the median of each, in ns for one
// operation, and ours/plain. Each side does perRound operations a round.
func compare(b *testing.B, perRound int, plain, ours func(n int)) {
	b.Helper()
	plain(perRound) // warm both up
	ours(perRound)
	for b.Loop() {
		var p, o []float64
		measure := func(f func(int), into *[]float64) {
			start := time.Now()
			f(perRound)
			*into = append(*into, float64(time.Since(start).Nanoseconds())/float64(perRound))
		}
		for i := range rounds {
			if i%2 == 0 {
				measure(plain, &p)
				measure(ours, &o)
			} else {
				measure(ours, &o)
				measure(plain, &p)
			}
		}
		mp, mo := median(p), median(o)
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(mp, "plain-ns")
		b.ReportMetric(mo, "ours-ns")
		b.ReportMetric(mo/mp, "ratio")
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// pair opens the same database under both drivers, with the same settings.
func pair(b *testing.B, setup string) (plain, ours *sql.DB) {
	b.Helper()
	dir := b.TempDir()
	open := func(driver, name string) *sql.DB {
		db, err := sql.Open(driver, filepath.Join(dir, name)+"?_journal_mode=WAL&_synchronous=NORMAL")
		if err != nil {
			b.Fatal(err)
		}
		db.SetMaxOpenConns(1)
		b.Cleanup(func() { db.Close() })
		if _, err := db.Exec(setup); err != nil {
			b.Fatal(err)
		}
		return db
	}
	return open("sqlite3", "plain.db"), open("tursosync", "ours.db")
}

const schema = `CREATE TABLE items(id INTEGER PRIMARY KEY, name TEXT NOT NULL, qty INTEGER, price REAL);
	WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 10000)
	INSERT INTO items SELECT i, 'item number ' || i, i % 100, i * 1.25 FROM n;`

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func BenchmarkPointRead(b *testing.B) {
	plain, ours := pair(b, schema)
	side := func(db *sql.DB) func(int) {
		return func(n int) {
			for i := range n {
				var name string
				if err := db.QueryRow(`SELECT name FROM items WHERE id = ?`, 1+i*7919%10000).Scan(&name); err != nil {
					panic(err)
				}
			}
		}
	}
	compare(b, 2000, side(plain), side(ours))
}

func BenchmarkPointReadPrepared(b *testing.B) {
	plain, ours := pair(b, schema)
	side := func(db *sql.DB) func(int) {
		st := must(db.Prepare(`SELECT name FROM items WHERE id = ?`))
		b.Cleanup(func() { st.Close() })
		return func(n int) {
			for i := range n {
				var name string
				if err := st.QueryRow(1 + i*7919%10000).Scan(&name); err != nil {
					panic(err)
				}
			}
		}
	}
	compare(b, 2000, side(plain), side(ours))
}

func BenchmarkRangeRead(b *testing.B) {
	plain, ours := pair(b, schema)
	side := func(db *sql.DB) func(int) {
		return func(n int) {
			for i := range n {
				from := 1 + i*97%9000
				rows := must(db.Query(`SELECT id, name, qty, price FROM items WHERE id BETWEEN ? AND ?`, from, from+199))
				for rows.Next() {
					var id, qty int64
					var name string
					var price float64
					if err := rows.Scan(&id, &name, &qty, &price); err != nil {
						panic(err)
					}
				}
				if err := rows.Err(); err != nil {
					panic(err)
				}
			}
		}
	}
	compare(b, 50, side(plain), side(ours))
}

func BenchmarkAutocommitInsert(b *testing.B) {
	plain, ours := pair(b, schema)
	side := func(db *sql.DB) func(int) {
		return func(n int) {
			for i := range n {
				must(db.Exec(`INSERT INTO items(name, qty, price) VALUES (?, ?, ?)`, "a new item", i, 9.5))
			}
		}
	}
	compare(b, 500, side(plain), side(ours))
}

func BenchmarkAutocommitUpdate(b *testing.B) {
	plain, ours := pair(b, schema)
	side := func(db *sql.DB) func(int) {
		k := 0
		return func(n int) {
			for range n {
				k++
				must(db.Exec(`UPDATE items SET qty = ?, price = price + 1 WHERE id = ?`, k, 1+k*7919%10000))
			}
		}
	}
	compare(b, 500, side(plain), side(ours))
}

func BenchmarkInsertInTransaction(b *testing.B) {
	plain, ours := pair(b, schema)
	side := func(db *sql.DB) func(int) {
		return func(n int) {
			tx := must(db.Begin())
			st := must(tx.Prepare(`INSERT INTO items(name, qty, price) VALUES (?, ?, ?)`))
			for i := range n {
				must(st.Exec("a new item", i, 9.5))
			}
			st.Close()
			if err := tx.Commit(); err != nil {
				panic(err)
			}
		}
	}
	compare(b, 10000, side(plain), side(ours))
}

func BenchmarkBulkUpdateInTransaction(b *testing.B) {
	plain, ours := pair(b, schema)
	side := func(db *sql.DB) func(int) {
		return func(n int) {
			tx := must(db.Begin())
			must(tx.Exec(fmt.Sprintf(`UPDATE items SET qty = qty + 1 WHERE id <= %d`, n)))
			if err := tx.Commit(); err != nil {
				panic(err)
			}
		}
	}
	compare(b, 5000, side(plain), side(ours))
}
