package tursosync_test

import (
	"database/sql"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// BenchmarkReads measures reads through both drivers in turns, in one run, and
// reports the ratio of the medians and the allocations of each.
func BenchmarkReads(b *testing.B) {
	dir := b.TempDir()
	open := func(driver string) *sql.DB {
		db, err := sql.Open(driver, filepath.Join(dir, driver+".db")+"?_journal_mode=WAL")
		if err != nil {
			b.Fatal(err)
		}
		db.SetMaxOpenConns(1)
		b.Cleanup(func() { db.Close() })
		mustExec(b, db, `CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, n INTEGER);
			WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 5000) INSERT INTO t SELECT i, 'name ' || i, i * 7 FROM c`)
		return db
	}
	plain, ours := open("sqlite3"), open("tursosync")
	point := func(db *sql.DB, i int) {
		var name string
		if err := db.QueryRow(`SELECT name FROM t WHERE id = ?`, 1+i%5000).Scan(&name); err != nil {
			b.Fatal(err)
		}
	}
	scan := func(db *sql.DB, i int) {
		rows, err := db.Query(`SELECT id, name, n FROM t WHERE id BETWEEN ? AND ?`, i%4000, i%4000+100)
		if err != nil {
			b.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var id, n int64
			var name string
			if err := rows.Scan(&id, &name, &n); err != nil {
				b.Fatal(err)
			}
		}
	}
	inTx := func(db *sql.DB, i int) {
		tx, err := db.Begin()
		if err != nil {
			b.Fatal(err)
		}
		for range 20 {
			var name string
			if err := tx.QueryRow(`SELECT name FROM t WHERE id = ?`, 1+i%5000).Scan(&name); err != nil {
				b.Fatal(err)
			}
		}
		if err := tx.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	prepared := func() func(db *sql.DB, i int) {
		st := map[*sql.DB]*sql.Stmt{}
		for _, db := range []*sql.DB{plain, ours} {
			s, err := db.Prepare(`SELECT name FROM t WHERE id = ?`)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { s.Close() })
			st[db] = s
		}
		return func(db *sql.DB, i int) {
			var name string
			if err := st[db].QueryRow(1 + i%5000).Scan(&name); err != nil {
				b.Fatal(err)
			}
		}
	}()
	for _, bench := range []struct {
		name string
		n    int
		f    func(*sql.DB, int)
	}{{"point", 500, point}, {"prepared", 500, prepared}, {"scan", 20, scan}, {"in a transaction", 20, inTx}} {
		b.Run(bench.name, func(b *testing.B) {
			measure := func(db *sql.DB) float64 {
				start := time.Now()
				for i := range bench.n {
					bench.f(db, i*31)
				}
				return float64(time.Since(start).Nanoseconds()) / float64(bench.n)
			}
			measure(plain)
			measure(ours)
			var p, o []float64
			for b.Loop() {
				p, o = append(p, measure(plain)), append(o, measure(ours))
			}
			slices.Sort(p)
			slices.Sort(o)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(p[len(p)/2], "plain-ns")
			b.ReportMetric(o[len(o)/2], "ours-ns")
			b.ReportMetric(o[len(o)/2]/p[len(p)/2], "ratio")
			b.ReportMetric(testing.AllocsPerRun(20, func() { bench.f(plain, 7) }), "plain-allocs")
			b.ReportMetric(testing.AllocsPerRun(20, func() { bench.f(ours, 7) }), "ours-allocs")
		})
	}
}
