package shim

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	sqlite3 "github.com/mattn/go-sqlite3"
)

func openBatch(t testing.TB, scripts ...string) DB {
	t.Helper()
	conn, err := (&sqlite3.SQLiteDriver{}).Open(":memory:")
	if err != nil {
		t.Fatal(err)
	}
	c := conn.(*sqlite3.SQLiteConn)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	for _, s := range scripts {
		if _, err := c.Exec(s, nil); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	db, err := Of(c)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func prepared(t testing.TB, db DB, sql string) *Stmt {
	t.Helper()
	s, _, err := db.Prepare(sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	t.Cleanup(s.Close)
	return s
}

func (v Value) any() any {
	switch v.Type {
	case Integer:
		return v.Int
	case Float:
		return v.Float
	case Text:
		return string(v.Bytes)
	case Blob:
		return append([]byte{}, v.Bytes...)
	}
	return nil
}

// fetchAll fetches all values of a query, and counts the fetches.
func fetchAll(t testing.TB, s *Stmt, size int) (values []any, fetches int) {
	t.Helper()
	for {
		rows, err := s.Fetch(size)
		if err != nil {
			t.Fatal(err)
		}
		if rows == nil {
			return values, fetches
		}
		for fetches++; len(rows) > 0; {
			v := rows.Next()
			values = append(values, v.any())
		}
	}
}

// TestFetch shows that rows arrive as they are, whatever the size of the pack.
func TestFetch(t *testing.T) {
	db := openBatch(t, `CREATE TABLE t(a, b)`)
	want := []any{int64(1), nil, int64(math.MinInt64), "", math.Inf(-1), []byte{}, "a\x00b\xff", []byte{0, 1},
		math.Copysign(0, -1), strings.Repeat("x", 5000), "last", int64(-1)}
	for i := 0; i < len(want); i += 2 {
		s := prepared(t, db, `INSERT INTO t VALUES (?, ?)`)
		for j := range 2 {
			if err := s.Bind(j+1, want[i+j]); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Step(); err != nil {
			t.Fatal(err)
		}
	}
	for _, size := range []int{0, 1, 18, 19, 100, 5000, 1 << 20} {
		got, fetches := fetchAll(t, prepared(t, db, `SELECT a, b FROM t ORDER BY rowid`), size)
		if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
			t.Errorf("size %d: %#v, want %#v", size, got, want)
		}
		if most := len(want) / 2; fetches > most || size > 1<<19 && fetches != 1 {
			t.Errorf("size %d: %d fetches", size, fetches)
		}
	}
	if got, n := fetchAll(t, prepared(t, db, `SELECT a FROM t WHERE 0`), 10); got != nil || n != 0 {
		t.Errorf("no rows: %v in %d fetches", got, n)
	}
	// An error comes behind the rows before it, and ends the query.
	s := prepared(t, db, `SELECT CASE WHEN a = 'last' THEN abs(-9223372036854775808) ELSE 1 END FROM t ORDER BY rowid`)
	rows, err := s.Fetch(9)
	for n := 0; rows != nil && err == nil && n < 100; n++ {
		rows, err = s.Fetch(9)
	}
	var e *StmtError
	if !errors.As(err, &e) || !strings.Contains(e.Message, "overflow") {
		t.Errorf("Fetch = %v, want integer overflow", err)
	}
	if rows, err := s.Fetch(9); rows != nil || err != nil {
		t.Errorf("Fetch after an error = %v, %v", rows, err)
	}
}

// record encodes values as SQLite does (https://sqlite.org/fileformat2.html#record_format).
func record(values ...any) []byte {
	var types, body []byte
	for _, v := range values {
		switch v := v.(type) {
		case nil:
			types = append(types, 0)
		case int64:
			types = append(types, 6)
			for i := 56; i >= 0; i -= 8 {
				body = append(body, byte(v>>i))
			}
		case float64:
			types = append(types, 7)
			for i := 56; i >= 0; i -= 8 {
				body = append(body, byte(math.Float64bits(v)>>i))
			}
		case string:
			types = append(types, byte(13+2*len(v)))
			body = append(body, v...)
		case []byte:
			types = append(types, byte(12+2*len(v)))
			body = append(body, v...)
		}
	}
	return append(append([]byte{byte(len(types) + 1)}, types...), body...)
}

// TestBatchValues shows that fields reach the table bit by bit.
func TestBatchValues(t *testing.T) {
	values := []any{nil, int64(0), int64(math.MaxInt64), int64(math.MinInt64), int64(-1), 1.5, math.Inf(1), math.Copysign(0, -1),
		"", "a\x00b\xff", "text", []byte{}, []byte{0, 255}}
	db := openBatch(t, `CREATE TABLE t(a, b)`)
	p, err := db.Plan(`INSERT INTO t(rowid, b, a) VALUES (?, ?, ?)`, []int{RowID, 2, 0}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var b Batch
	for i, v := range values {
		b.Add(p, int64(i+1), record(v, "between", int64(i)))
	}
	if done, err := b.Run(db, 0, b.Len()); done != len(values) || err != nil {
		t.Fatalf("Run = %d, %v", done, err)
	}
	got, _ := fetchAll(t, prepared(t, db, `SELECT rowid, a, b FROM t ORDER BY rowid`), 1<<16)
	for i, v := range values {
		if row := got[3*i : 3*i+3]; !reflect.DeepEqual(row, []any{int64(i + 1), v, int64(i)}) {
			t.Errorf("row %d = %#v, want %#v", i, row, v)
		}
	}
	// The short integers, of which record makes none.
	for _, c := range []struct {
		record []byte
		want   int64
	}{
		{[]byte{2, 8}, 0}, {[]byte{2, 9}, 1}, {[]byte{2, 1, 0xff}, -1}, {[]byte{2, 2, 0x80, 0}, -32768},
		{[]byte{2, 3, 0x01, 0, 0}, 65536}, {[]byte{2, 4, 0xff, 0xff, 0xff, 0xfe}, -2}, {[]byte{2, 5, 0x7f, 0, 0, 0, 0, 1}, 0x7f0000000001},
	} {
		p, err := db.Plan(`INSERT INTO t(a) VALUES (?)`, []int{0}, true)
		if err != nil {
			t.Fatal(err)
		}
		b.Reset()
		b.Add(p, 0, c.record)
		if done, err := b.Run(db, 0, 1); done != 1 || err != nil {
			t.Errorf("%x: %d, %v", c.record, done, err)
		}
		got, _ := fetchAll(t, prepared(t, db, `SELECT a FROM t ORDER BY rowid DESC LIMIT 1`), 100)
		if !reflect.DeepEqual(got, []any{c.want}) {
			t.Errorf("%x = %v, want %d", c.record, got, c.want)
		}
		p.Close()
	}
}

// TestBatchStops shows where a batch stops, and that nothing behind is done.
func TestBatchStops(t *testing.T) {
	for name, c := range map[string]struct {
		third    []byte
		exact    bool
		done     int
		surprise bool
		code     int
	}{
		"nothing":        {record(int64(3), "x"), true, 5, false, 0},
		"no such row":    {record(int64(99), "x"), true, 2, true, 0},
		"not exact":      {record(int64(99), "x"), false, 5, false, 0},
		"constraint":     {record(int64(3), "taken"), true, 2, false, 2067},
		"field missing":  {record(int64(3)), true, 2, true, 0},
		"empty record":   {nil, true, 2, true, 0},
		"header too big": {[]byte{9, 1, 1}, true, 2, true, 0},
		"type 10":        {[]byte{3, 10, 10}, true, 2, true, 0},
		"value cut off":  {[]byte{3, 6, 17, 0}, true, 2, true, 0},
		"bytes left":     {append(record(int64(3), "x"), 0), true, 2, true, 0},
		"too many":       {record(make([]any, 70)...), true, 2, true, 0},
		"huge text":      {append([]byte{11, 6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, make([]byte, 8)...), true, 2, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			db := openBatch(t, `CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE)`,
				`INSERT INTO t VALUES (1,1),(2,2),(3,3),(4,4),(5,5),(6,'taken')`)
			p, err := db.Plan(`UPDATE t SET a = ? WHERE id = ?`, []int{1, 0}, c.exact)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			other, err := db.Plan(`UPDATE t SET a = 'other' || id WHERE id = ?`, []int{0}, c.exact)
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			var b Batch
			b.Add(p, 0, record(int64(1), "one"))
			b.Add(other, 0, record(int64(2)))
			b.Add(p, 0, c.third)
			b.Add(p, 0, record(int64(4), "four"))
			b.Add(p, 0, record(int64(5), "five"))
			done, err := b.Run(db, 0, b.Len())
			var e *StmtError
			if done != c.done || errors.Is(err, ErrSurprise) != c.surprise || errors.As(err, &e) != (c.code != 0) || e != nil && e.Code != c.code {
				t.Errorf("Run = %d, %v", done, err)
			}
			got, _ := fetchAll(t, prepared(t, db, `SELECT count(*) FROM t WHERE typeof(a) = 'text' AND id <= 5`), 100)
			want := int64(done)
			if name == "not exact" {
				want--
			}
			if got[0] != want {
				t.Errorf("%v rows changed, want %d", got[0], want)
			}
			if done < 5 {
				if again, err := b.Run(db, done+1, b.Len()); again != 4-done || err != nil {
					t.Errorf("Run of the rest = %d, %v", again, err)
				}
			}
		})
	}
}

func TestPlanErrors(t *testing.T) {
	db := openBatch(t, `CREATE TABLE t(a)`)
	for _, c := range []struct {
		sql    string
		params []int
	}{
		{`INSERT INTO u VALUES (?)`, []int{0}}, {`INSERT INTO t VALUES (?)`, nil}, {`INSERT INTO t VALUES (?)`, []int{BatchColumns}},
		{`INSERT INTO t VALUES (?)`, []int{-2}}, {`INSERT INTO t VALUES (1); SELECT 1`, nil}, {``, nil},
	} {
		if p, err := db.Plan(c.sql, c.params, true); err == nil {
			p.Close()
			t.Errorf("Plan(%q, %v) gave no error", c.sql, c.params)
		}
	}
}

// FuzzBatch: no record makes a batch read what is not its own, or crash.
func FuzzBatch(f *testing.F) {
	f.Add(record(int64(1), "a", []byte("b"), nil, 1.5))
	f.Add([]byte{0x81})
	f.Add([]byte{3, 0x8f, 0xff, 0x7f})
	f.Add(bytes.Repeat([]byte{0x80}, 20))
	db := openBatch(f, `CREATE TABLE t(a, b, c)`)
	p, err := db.Plan(`INSERT INTO t VALUES (?, ?, ?)`, []int{0, 1, RowID}, true)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(p.Close)
	f.Fuzz(func(t *testing.T, rec []byte) {
		var b Batch
		b.Add(p, 7, rec)
		done, err := b.Run(db, 0, 1)
		if (done == 1) != (err == nil) {
			t.Errorf("Run = %d, %v", done, err)
		}
	})
}
