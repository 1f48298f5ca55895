package cdc_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/mattn/go-sqlite3"
	"github.com/tursosync/tursosync/cdc"
)

// TestRandomRun replays what random clients wrote on bases that others changed
// in the meantime, change by change, in batches inside transactions, and in
// batches of transactions. Shown: all three leave the same rows, rowids
// included, the same log, and the same collisions and refusals.
func TestRandomRun(t *testing.T) {
	s := seed(t)
	surprises, plain := 0, 0
	for round := range uint64(80) {
		r := random{Rand: rand.New(rand.NewPCG(s, round))}
		base := r.database(t)
		live := base.clone()
		var txns [][]cdc.Change
		id := cdc.ID(1)
		for range 1 + r.IntN(12) {
			before := live.clone()
			r.mutate(live, 1+r.IntN(20)*r.IntN(3))
			for _, txn := range diff(t, before, live, id) {
				id += cdc.ID(len(txn))
				if r.IntN(2) == 0 {
					txns = append(txns, singles(txn)...)
				} else {
					txns = append(txns, joinKeys(txn))
				}
			}
		}
		if r.IntN(3) > 0 {
			r.mutate(base, 1+r.IntN(30))
		}
		txns = logged(t, txns, 0)

		careful, inside, run := base.clone(), base.clone(), base.clone()
		want := careful.replayed(txns, carefully)
		for name, got := range map[string]replayed{
			"batches inside": inside.replayed(txns, plainly),
			"batches":        run.replayed(txns, inRuns),
		} {
			for i := range want.outcomes {
				if g, w := outcomeText(&got.outcomes[i]), outcomeText(&want.outcomes[i]); g != w {
					t.Errorf("round %d: %s: transaction %d: %s, want %s", round, name, i, g, w)
				}
			}
		}
		compare(t, fmt.Sprintf("round %d: batches inside", round), inside.dump(true), careful.dump(true))
		compare(t, fmt.Sprintf("round %d: batches", round), run.dump(true), careful.dump(true))
		for _, out := range want.outcomes {
			if out.Unchanged {
				plain++
			} else {
				surprises++
			}
		}
		if t.Failed() {
			return
		}
	}
	if surprises == 0 || plain == 0 {
		t.Errorf("%d plain transactions, %d with surprises: want some of each", plain, surprises)
	}
}

// singles makes a transaction of each change.
func singles(txn []cdc.Change) [][]cdc.Change {
	var out [][]cdc.Change
	for _, c := range txn {
		c.Txn = c.ID
		out = append(out, []cdc.Change{c})
	}
	return out
}

type manner int

const (
	carefully manner = iota
	plainly
	inRuns
)

type replayed struct{ outcomes []cdc.Outcome }

// replayed replays transactions in one transaction, as a stage does.
func (db *database) replayed(txns [][]cdc.Change, how manner) (all replayed) {
	db.Helper()
	r, err := cdc.NewReplayer(db.quiet().SQLiteConn)
	if err != nil {
		db.Fatal(err)
	}
	if how == carefully {
		r.Careful()
	}
	db.run("BEGIN")
	for len(txns) > 0 {
		if how == inRuns {
			n, err := r.ApplyRun(db.Context(), txns)
			if err != nil {
				db.Fatal(err)
			}
			for _, txn := range txns[:n] {
				all.outcomes = append(all.outcomes, cdc.Outcome{Log: txn, Unchanged: true})
			}
			if txns = txns[n:]; len(txns) == 0 {
				break
			}
		}
		out, err := r.Apply(db.Context(), txns[0])
		if err != nil {
			db.Fatal(err)
		}
		if same := sameLog(out.Log, txns[0]); same != out.Unchanged && !out.Rejected() {
			db.Errorf("Unchanged = %v, want %v", out.Unchanged, same)
		}
		all.outcomes = append(all.outcomes, out)
		txns = txns[1:]
	}
	if err := r.Close(); err != nil {
		db.Fatal(err)
	}
	db.run("COMMIT")
	return all
}

func sameLog(a, b []cdc.Change) bool {
	return slices.EqualFunc(a, b, func(a, b cdc.Change) bool {
		a.Local, b.Local = false, false
		return changeText(&a) == changeText(&b)
	})
}

// outcomeText spells an outcome, so that equal ones have equal texts.
func outcomeText(o *cdc.Outcome) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %v %v %+v", o.Reason, o.Err, o.Change, o.Collisions)
	for i := range o.Log {
		b.WriteString("\n\t" + changeText(&o.Log[i]))
	}
	return b.String()
}

func changeText(c *cdc.Change) string {
	text := fmt.Sprint(c.ID, c.Txn, c.Type, c.Table, c.RowID, " ")
	if c.Shape != nil {
		text += c.Shape.JSON()
	}
	if c.Schema != nil {
		text += fmt.Sprintf("%+v", *c.Schema)
	}
	return text + fmt.Sprintf(" %x %x", c.Before, c.After)
}

// BenchmarkReplayLog reads and replays 5000 updates of a row each, in
// transactions of so many.
func BenchmarkReplayLog(b *testing.B) {
	base, txns := benchmarkTxns(b, 5000)
	for _, n := range []int{1, 4, 5000} {
		log := logOf(b, regrouped(txns, n)...)
		base.run("PRAGMA cache_size=-32000")
		log.run("PRAGMA cache_size=-32000")
		b.Run(fmt.Sprint("read/", n), func(b *testing.B) {
			for b.Loop() {
				if err := cdc.LoadTxns(log.SQLiteConn, 0, func([]cdc.Change) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
		read := logged(b, chunked(regrouped(txns, n), n), 0)
		b.Run(fmt.Sprint("replay/", n), func(b *testing.B) {
			for b.Loop() {
				if all := base.replayed(read, inRuns); len(all.outcomes) != len(read) {
					b.Fatal(len(all.outcomes))
				}
			}
		})
	}
}

func chunked(changes []cdc.Change, n int) [][]cdc.Change {
	var txns [][]cdc.Change
	for c := range slices.Chunk(changes, n) {
		txns = append(txns, c)
	}
	return txns
}

// regrouped puts single changes into transactions of n.
func regrouped(txns [][]cdc.Change, n int) []cdc.Change {
	var out []cdc.Change
	for i, txn := range txns {
		c := txn[0]
		c.Txn = cdc.ID(i/n*n + 1)
		out = append(out, c)
	}
	return out
}

// TestRunSurprises: in the middle of a batch of transactions, one change does not
// go as expected. Those before are applied, those of its own transaction are not
// applied twice, and nothing is left out.
func TestRunSurprises(t *testing.T) {
	shape := &cdc.Shape{Columns: []string{"id", "n"}, Key: []int{0}, RowIDAlias: 0}
	at := func(id, txn cdc.ID, key, was, is int64) cdc.Change {
		return row(id, txn, shape, "t", key, []any{key, was}, []any{key, is})
	}
	add := func(id, txn cdc.ID, key int64) cdc.Change {
		return row(id, txn, shape, "t", key, nil, []any{key, key})
	}
	txns := [][]cdc.Change{
		{at(1, 1, 1, 0, 1)},
		{at(2, 2, 1, 1, 2), at(3, 2, 2, 0, 2)},
		{at(4, 4, 1, 2, 3), add(5, 4, 9), at(6, 4, 2, 2, 3)}, // 9 is taken
		{at(7, 7, 1, 3, 4), at(8, 7, 3, 0, -1)},              // violates the CHECK
		{at(9, 9, 1, 3, 5), at(10, 9, 3, 0, 1)},
		{row(11, 11, shape, "t", 4, []any{int64(4), int64(0)}, nil)}, // is gone
		{at(12, 12, 5, 0, 6)},                                        // is gone, comes back
	}
	base := open(t, `CREATE TABLE t(id INTEGER PRIMARY KEY, n CHECK(n >= 0))`, `INSERT INTO t VALUES(1,0),(2,0),(3,0),(9,77)`)
	for _, how := range []manner{carefully, plainly, inRuns} {
		db := base.clone()
		out := db.replayed(txns, how).outcomes
		if got := db.query(`SELECT id, n FROM t ORDER BY id`); !slices.Equal(got, []string{"1 5", "2 3", "3 1", "5 6", "9 9"}) {
			t.Errorf("manner %d: rows %q", how, got)
		}
		if len(out) != len(txns) || len(out[2].Collisions) != 1 || !out[3].Rejected() || out[3].Change != 8 || !out[6].Unchanged {
			t.Errorf("manner %d: outcomes %+v", how, out)
		}
	}
}

// TestRunEndedTransaction: when SQLite ends the transaction, the replay must not
// go on in another one, without what was replayed before.
func TestRunEndedTransaction(t *testing.T) {
	shape := &cdc.Shape{Columns: []string{"id", "n"}, Key: []int{0}, RowIDAlias: 0}
	db := open(t, `CREATE TABLE t(id INTEGER PRIMARY KEY, n)`, `INSERT INTO t VALUES(1,0)`)
	r, err := cdc.NewReplayer(db.SQLiteConn)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	db.run("PRAGMA max_page_count=4", "BEGIN", "INSERT INTO t VALUES(2, 0)")
	big := []any{int64(3), strings.Repeat("x", 100_000)}
	txns := [][]cdc.Change{{row(1, 1, shape, "t", 3, nil, big)}}
	n, err := r.ApplyRun(t.Context(), txns)
	var e sqlite3.Error
	if n != 0 || !errors.As(err, &e) || e.Code != sqlite3.ErrFull {
		t.Fatalf("ApplyRun = %d, %v, want the database full", n, err)
	}
	if out, err := r.Apply(t.Context(), txns[0]); err == nil {
		t.Errorf("Apply = %+v, want an error", out)
	}
}
