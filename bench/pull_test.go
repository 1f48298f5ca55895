package bench

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/tursosynctest"
)

// BenchmarkPullUnderPending measures one pull of one remote row with 5000 updates
// pending, against this project's server: the rebase itself, without tursodb's
// pause of about 10 ms a request.
func BenchmarkPullUnderPending(b *testing.B) {
	srv := tursosynctest.NewServer(b)
	db := must(sql.Open("tursosync", filepath.Join(b.TempDir(), "ours.db")+"?sync=manual&url="+srv.URL))
	defer db.Close()
	r := must(tursosync.ReplicaOf(db))
	ctx := context.Background()
	do := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	must(db.Exec(schema))
	do(r.Sync(ctx))
	var took []float64
	for n := 0; b.Loop(); n++ {
		must(db.Exec(`UPDATE items SET qty = qty + 1 WHERE id <= 5000`))
		srv.Exec(fmt.Sprintf(`INSERT INTO items(name, qty) VALUES ('from afar', %d)`, n))
		start := time.Now()
		do(r.Pull(ctx))
		took = append(took, float64(time.Since(start).Microseconds())/1000)
		do(r.Sync(ctx))
	}
	b.ReportMetric(median(took), "ms/pull")
}
