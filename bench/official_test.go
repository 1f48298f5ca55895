package bench

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/internal/realtest"
)

// official holds what official.mjs prints, and our side of the same.
type official struct {
	Insert []float64 `json:"insert"` // ns, one autocommit insert
	Update []float64 `json:"update"` // ns, one autocommit update
	Push   []float64 `json:"push"`   // ms, 20000 rows
	Pull   []float64 `json:"pull"`   // ms, one remote row under 5000 pending changes
}

// BenchmarkOfficialClient runs @tursodatabase/sync and tursosync in one run, each
// against a fresh tursodb of the same build, and prints official/ours: how many
// times as fast we are, by the medians.
func BenchmarkOfficialClient(b *testing.B) {
	const rounds = 7
	packages := realtest.Tools(b)
	for b.Loop() {
		theirs := officialSide(b, packages, rounds)
		ours := ourSide(b, rounds)
		b.ReportMetric(0, "ns/op")
		for _, m := range []struct {
			name         string
			theirs, ours []float64
		}{
			{"insert-times", theirs.Insert, ours.Insert},
			{"update-times", theirs.Update, ours.Update},
			{"push20000-times", theirs.Push, ours.Push},
			{"pull5000pending-times", theirs.Pull, ours.Pull},
		} {
			t, o := median(m.theirs), median(m.ours)
			b.Logf("%-22s official %12.3f   ours %12.3f   ratio %6.2f", m.name, t, o, t/o)
			b.ReportMetric(t/o, m.name)
		}
	}
}

func officialSide(b *testing.B, packages string, rounds int) official {
	b.Helper()
	srv := realtest.StartTursodb(b)
	defer srv.Stop()
	out, err := exec.Command("node", "official.mjs", packages, srv.URL, filepath.Join(b.TempDir(), "official.db"), strconv.Itoa(rounds)).Output()
	if err != nil {
		b.Fatalf("official client: %v", err)
	}
	var o official
	if err := json.Unmarshal(out, &o); err != nil {
		b.Fatalf("official client printed %q: %v", out, err)
	}
	return o
}

func ourSide(b *testing.B, rounds int) (o official) {
	b.Helper()
	srv := realtest.StartTursodb(b)
	defer srv.Stop()
	db := must(sql.Open("tursosync", filepath.Join(b.TempDir(), "ours.db")+"?sync=manual&url="+srv.URL))
	defer db.Close()
	db.SetMaxOpenConns(1)
	r := must(tursosync.ReplicaOf(db))
	ctx := context.Background()
	do := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	must(db.Exec(`CREATE TABLE items(id INTEGER PRIMARY KEY, name TEXT NOT NULL, qty INTEGER, price REAL)`))
	do(r.Sync(ctx))
	insert := must(db.Prepare(`INSERT INTO items(name, qty, price) VALUES (?, ?, ?)`))
	defer insert.Close()
	update := must(db.Prepare(`UPDATE items SET qty = ?, price = price + 1 WHERE id = ?`))
	defer update.Close()
	many := func(n int, f func(tx *sql.Tx, i int)) {
		tx := must(db.Begin())
		for i := range n {
			f(tx, i)
		}
		do(tx.Commit())
	}
	ms := func(from time.Time) float64 { return float64(time.Since(from).Microseconds()) / 1000 }

	for n := range rounds {
		t := time.Now()
		for i := range 300 {
			must(insert.Exec("a new item", i, 9.5))
		}
		o.Insert = append(o.Insert, ms(t)*1e6/300)
		t = time.Now()
		for i := range 300 {
			must(update.Exec(i, 1+i))
		}
		o.Update = append(o.Update, ms(t)*1e6/300)
		do(r.Push(ctx))

		many(20000, func(tx *sql.Tx, i int) { must(tx.Stmt(insert).Exec("a pushed item", i, 9.5)) })
		t = time.Now()
		do(r.Push(ctx))
		o.Push = append(o.Push, ms(t))
		do(r.Pull(ctx))

		many(5000, func(tx *sql.Tx, i int) { must(tx.Stmt(update).Exec(i, 1+i)) })
		realtest.Exec(b, srv.URL, fmt.Sprintf(`INSERT INTO items(name, qty) VALUES ('from afar', %d)`, n))
		t = time.Now()
		do(r.Pull(ctx))
		o.Pull = append(o.Pull, ms(t))
		do(r.Push(ctx))
		do(r.Pull(ctx))
	}
	return o
}
