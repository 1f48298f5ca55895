package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/wire"
)

// TestQuerySelector shows that a query brings the pages that it reads: SQLite answers
// it from them alone, the others being empty, and there are not many more.
func TestQuerySelector(t *testing.T) {
	s := openServer(t, Config{})
	exec(t, s, seedTable...)
	exec(t, s, "CREATE INDEX t_v ON t(v)", "CREATE TABLE other (id INTEGER PRIMARY KEY, b)",
		"INSERT INTO other VALUES (1, 'x'), (2, randomblob(50000)), (3, 'y')", "CREATE VIEW w AS SELECT v FROM t WHERE id = 7")
	for _, where := range []string{"in the WAL", "in the file", "in both"} {
		switch where {
		case "in the file":
			if err := s.Checkpoint(); err != nil {
				t.Fatal(err)
			}
		case "in both":
			exec(t, s, "UPDATE t SET v = v + 100000 WHERE id IN (3, 500)", "UPDATE other SET b = randomblob(60000) WHERE id = 2")
		}
		for _, c := range []struct {
			query string
			most  int // pages; 0: no matter
		}{
			{"SELECT v FROM t WHERE id = 500", 6},
			{"SELECT v FROM t WHERE id BETWEEN 500 AND 505", 7},
			{"SELECT id FROM t WHERE v = 600", 8},
			{"SELECT length(pad) FROM t WHERE v = 600", 8},
			{"SELECT v FROM w", 6},
			{"SELECT hex(b) FROM other WHERE id = 2", 20},
			{"SELECT b FROM other WHERE id = 3;", 6},
			{"SELECT sum(v), sum(length(pad)) FROM t", 0},
			{"SELECT count(*) FROM t ORDER BY random()", 0},
			{"SELECT 1", 2},
		} {
			t.Run(where+"/"+c.query, func(t *testing.T) {
				var whole, part client
				if err := whole.pull(s, wire.PullRequest{}); err != nil {
					t.Fatal(err)
				}
				if err := part.pull(s, wire.PullRequest{QuerySelector: c.query}); err != nil {
					t.Fatal(err)
				}
				if part.revision != whole.revision || part.count != whole.count {
					t.Errorf("%s of %d pages, want %s of %d", part.revision, part.count, whole.revision, whole.count)
				}
				if len(part.came) > c.most && c.most > 0 || len(part.came) >= int(whole.count) {
					t.Errorf("%d of %d pages came, want at most %d", len(part.came), whole.count, c.most)
				}
				for no := range part.count {
					if part.pages[no] == nil {
						part.pages[no] = make([]byte, page.Size)
					}
				}
				query := strings.TrimSuffix(c.query, ";")
				if got, want := part.run(t, query), whole.run(t, query); got != want {
					t.Errorf("got %.50s, want %.50s", got, want)
				}
				// What came later is an increment.
				exec(t, s, "UPDATE other SET b = randomblob(9) WHERE id = 1")
				if err := part.pull(s, wire.PullRequest{ClientRevision: part.revision, QuerySelector: c.query}); err != nil {
					t.Fatal(err)
				}
				if n := len(part.came); n == 0 || n > 5 {
					t.Errorf("%d pages came for an update", n)
				}
			})
		}
	}
}

// run answers a query from the client's pages, whatever else they lack.
func (c *client) run(t *testing.T, query string) string {
	t.Helper()
	db := c.open(t)
	defer func() { _ = db.Close() }()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			fmt.Fprintf(&out, "%v|", *v.(*any))
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestQuerySelectorRefuses(t *testing.T) {
	s := openServer(t, Config{Timeout: 300 * time.Millisecond})
	exec(t, s, seedTable...)
	for query, want := range map[string]string{
		"SELEC":                            "syntax error",
		"SELECT 1; SELECT 2":               "more than one",
		"-- nothing":                       "no statement",
		"UPDATE t SET v = 1":               "",
		"DELETE FROM t RETURNING v":        "",
		"CREATE TABLE u (x)":               "",
		"ATTACH '/tmp/x' AS x":             "",
		"PRAGMA journal_mode = DELETE":     "",
		"PRAGMA wal_checkpoint":            "",
		"SELECT load_extension('x')":       "",
		"SELECT * FROM missing":            "no such table",
		"SELECT v FROM t WHERE id = ? + x": "no such column",
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n": "interrupted",
	} {
		var c client
		err := c.pull(s, wire.PullRequest{QuerySelector: query})
		if err == nil || !strings.Contains(err.Error(), "status 400") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want 400 and %q", query, err, want)
		}
	}
	if got := results(t, s, execute("SELECT sum(v) FROM t"))[0]; !strings.Contains(got, `"500500"`) {
		t.Errorf("the database changed: %s", got)
	}
}
