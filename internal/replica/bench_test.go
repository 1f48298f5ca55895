package replica

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/syncer"
)

// BenchmarkPull is one pull of a small change of the remote, rebasing pending
// changes: what a syncing application pays each time.
func BenchmarkPull(b *testing.B) {
	for _, pending := range []int{0, 100, 5000} {
		b.Run(fmt.Sprintf("pending=%d", pending), func(b *testing.B) {
			rem := newRemote(b, people, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<20000) INSERT INTO people(id, name) SELECT i, hex(randomblob(40)) FROM n`)
			rep, err := Open(b.Context(), Config{Path: b.TempDir() + "/app.db"})
			if err != nil {
				b.Fatal(err)
			}
			defer rep.Close(context.Background())
			pull := func() {
				if _, err := rep.Pull(b.Context(), rem.fetch, syncer.PullOptions{}); err != nil {
					b.Fatal(err)
				}
			}
			pull()
			if pending > 0 {
				write(b, rep, fmt.Sprintf(`UPDATE people SET n = n + 1 WHERE id %% (20000 / %d) = 0`, pending))
			}
			i := 0
			for b.Loop() {
				b.StopTimer()
				i++
				rem.exec(fmt.Sprintf(`UPDATE people SET name = 'changed' WHERE id = %d`, i))
				rem.revs = append([]remoteRev{}, rem.revs...)
				b.StartTimer()
				pull()
			}
		})
	}
}

// TestBootstrapMemory pulls a database of a gigabyte, its lock page included, and
// holds the promise of constant memory. It needs some 5 GB of disk: set
// TURSOSYNC_BIG_MB to the size to try.
func TestBootstrapMemory(t *testing.T) {
	mb, err := strconv.Atoi(os.Getenv("TURSOSYNC_BIG_MB"))
	if err != nil {
		t.Skip("TURSOSYNC_BIG_MB is not set")
	}
	path := t.TempDir() + "/big.db"
	plain(t, path, `PRAGMA journal_mode=OFF`, `PRAGMA synchronous=OFF`, `CREATE TABLE t(id INTEGER PRIMARY KEY, x)`,
		fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<%d) INSERT INTO t SELECT i, randomblob(3500) FROM n`, mb*256))
	rep := newReplica(t, Config{ChunkPages: 4096})
	write(t, rep, `CREATE TABLE mine(x)`)
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	count := uint64(info.Size() / page.Size)
	image := make([]byte, page.Size)
	fetch := func(ctx context.Context, req syncer.PullRequest, sink syncer.PullSink) error {
		if err := sink.Header(syncer.PullHeader{Revision: "1", PageCount: count}); err != nil || req.Have != "" {
			return err
		}
		for no := range req.Pages.All() {
			if uint64(no) > count || no == lockPage {
				continue
			}
			if _, err := file.ReadAt(image, no.Offset()); err != nil {
				return err
			}
			if err := sink.Page(no, bytes.Clone(image)); err != nil {
				return err
			}
		}
		return nil
	}
	if _, err := rep.Pull(t.Context(), fetch, syncer.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	wantRows(t, rep, `SELECT count(*) FROM t`, fmt.Sprint(mb*256))
	wantRows(t, rep, `PRAGMA quick_check`, "ok")
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(status)) {
		if peak, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.Atoi(strings.Fields(peak)[0])
			t.Logf("%d pages, peak memory %d MB, Go heap obtained %d MB", count, kb>>10, mem.HeapSys>>20)
			if kb > 100<<10 {
				t.Errorf("peak memory %d MB, want at most 100", kb>>10)
			}
		}
	}
}
