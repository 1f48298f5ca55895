package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tursosync/tursosync/internal/realtest"
	"github.com/tursosync/tursosync/internal/remote"
)

// serverRounds is how often each server is measured, in turns.
const serverRounds = 7

// inTurns measures both sides and returns their medians, in seconds.
func inTurns(rounds int, theirs, ours func() time.Duration) (t, o float64) {
	var ts, os []float64
	for i := range rounds {
		if i%2 == 0 {
			ts = append(ts, theirs().Seconds())
			os = append(os, ours().Seconds())
		} else {
			os = append(os, ours().Seconds())
			ts = append(ts, theirs().Seconds())
		}
	}
	return median(ts), median(os)
}

// atOnce runs f for all clients at the same time and returns how long it took.
func atOnce(clients []*client, f func(*client)) time.Duration {
	var wg sync.WaitGroup
	start := time.Now()
	for _, c := range clients {
		wg.Go(func() { f(c) })
	}
	wg.Wait()
	return time.Since(start)
}

func several(n int, h *host, cfg remote.Config) []*client {
	out := make([]*client, n)
	for i := range out {
		out[i] = h.client(cfg)
	}
	return out
}

func itemName(int) string { return "a pushed item" }

// BenchmarkServerPush pushes transactions of new rows to tursodb and to our server.
// Both have a commit on disk before they answer (synchronous=FULL, one fsync of
// the WAL for each).
func BenchmarkServerPush(b *testing.B) {
	for _, m := range []struct {
		rows, pushes int // of each client in a round
		eachItself   bool
		clients      int
	}{
		{rows: 1, pushes: 30, clients: 1},
		{rows: 100, pushes: 20, clients: 1},
		{rows: 5000, pushes: 2, clients: 1},
		{rows: 5000, pushes: 1, clients: 1, eachItself: true},
		{rows: 1, pushes: 6, clients: 16},
		{rows: 100, pushes: 3, clients: 16},
		{rows: 5000, pushes: 1, clients: 16},
	} {
		name := fmt.Sprintf("rows=%d/clients=%d", m.rows, m.clients)
		if m.eachItself {
			name += "/statement-a-row"
		}
		b.Run(name, func(b *testing.B) {
			theirs, ours := hosts(b)
			side := func(h *host) (round func() time.Duration, pushed *int) {
				realtest.Exec(b, h.url, itemsTable)
				clients := several(m.clients, h, remote.Config{})
				pushed = new(int)
				var errs atomic.Int64
				round = func() time.Duration {
					d := atOnce(clients, func(c *client) {
						for range m.pushes {
							errs.Add(int64(c.push(c.batch(m.rows, itemName, m.eachItself))))
						}
					})
					*pushed += m.clients * m.pushes * m.rows
					h.errors = int(errs.Load())
					return d
				}
				return round, pushed
			}
			theirRound, theirRows := side(theirs)
			ourRound, ourRows := side(ours)
			theirRound()
			ourRound()
			n0, t0, o0 := *ourRows, theirs.cpu(), ours.cpu()
			for b.Loop() {
				t, o := inTurns(serverRounds, theirRound, ourRound)
				n := float64(m.clients * m.pushes)
				b.ReportMetric(n/t, "tursodb-txn/s")
				b.ReportMetric(n/o, "ours-txn/s")
				b.ReportMetric(n/o*float64(m.rows), "ours-rows/s")
				b.ReportMetric(t/o, "times")
			}
			b.ReportMetric(0, "ns/op")
			done := float64(*ourRows-n0) / float64(m.rows) * 1000
			b.ReportMetric((theirs.cpu()-t0).Seconds()*1e6/done, "tursodb-cpu-ms/txn")
			b.ReportMetric((ours.cpu()-o0).Seconds()*1e6/done, "ours-cpu-ms/txn")
			for h, want := range map[*host]int{theirs: *theirRows, ours: *ourRows} {
				got := realtest.Query(b, h.url, `SELECT count(*) FROM items`)[0][0]
				if got != int64(want) {
					b.Errorf("%s has %v rows, %d were pushed", h.name, got, want)
				}
				b.ReportMetric(float64(h.errors), h.name+"-errors")
			}
			if ours.errors > 0 {
				b.Errorf("our server had %d errors", ours.errors)
			}
			reportMemory(b, theirs, ours)
		})
	}
}

// plainTransport asks for answers that are not compressed.
type plainTransport struct{}

func (plainTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Accept-Encoding", "identity")
	return http.DefaultTransport.RoundTrip(r)
}

// fill pushes rows of text, half of which compresses, until there are so many MB.
func fill(c *client, megabytes int) {
	const rows, width = 2000, 512
	rnd := rand.New(rand.NewPCG(1, 2))
	name := func(int) string {
		s := make([]byte, width)
		for i := range s {
			if s[i] = "the quick brown fox jumps over a lazy dog. "[i%43]; i%64 < 32 {
				s[i] = 'a' + byte(rnd.IntN(26))
			}
		}
		return string(s)
	}
	for range megabytes << 20 / (rows * (width + 32)) {
		c.push(c.batch(rows, name, false))
	}
}

// BenchmarkServerPull pulls a database of 64 MB, and then increments, from both.
// Our server compresses for those who offer it, as replicas do, which on one machine
// costs more than it saves; plain is without.
func BenchmarkServerPull(b *testing.B) {
	const megabytes = 64
	theirs, ours := hosts(b)
	writers := map[*host]*client{}
	for _, h := range []*host{theirs, ours} {
		realtest.Exec(b, h.url, itemsTable)
		writers[h] = h.client(remote.Config{})
		fill(writers[h], megabytes)
	}
	plain := remote.Config{Transport: plainTransport{}}
	for _, n := range []int{1, 16} {
		for _, m := range []struct {
			name  string
			rows  int // changed before each pull; 0: everything is pulled
			plain bool
		}{
			{"bootstrap", 0, false}, {"bootstrap/plain", 0, true},
			{"increment=100rows", 100, false}, {"increment=100rows/plain", 100, true},
			{"increment=10000rows", 10000, false}, {"increment=10000rows/plain", 10000, true},
		} {
			b.Run(fmt.Sprintf("%s/clients=%d", m.name, n), func(b *testing.B) {
				cfg := remote.Config{}
				if m.plain {
					cfg = plain
				}
				var pages [2]int
				side := func(k int, h *host) func() time.Duration {
					clients := several(n, h, cfg)
					if m.rows > 0 {
						clients[0].fetch(0)
						for _, c := range clients {
							c.rev = clients[0].rev
						}
					}
					return func() time.Duration {
						if m.rows > 0 {
							from := writers[h].row - 50000
							realtest.Exec(b, h.url, fmt.Sprintf(`UPDATE items SET qty = qty + 1 WHERE id > %d AND id <= %d`, from, from+int64(m.rows)))
						}
						var got atomic.Int64
						d := atOnce(clients, func(c *client) {
							if m.rows == 0 {
								c.rev = ""
							}
							got.Add(int64(c.fetch(0)))
						})
						if pages[k] = int(got.Load()) / n; pages[k] == 0 {
							b.Fatalf("no page came from %s", h.name)
						}
						return d
					}
				}
				theirRound, ourRound := side(0, theirs), side(1, ours)
				for b.Loop() {
					rounds := serverRounds
					if m.rows == 0 && n > 1 {
						rounds = 3
					}
					t, o := inTurns(rounds, theirRound, ourRound)
					mb := func(k int, s float64) float64 { return float64(n*pages[k]) * 4096 / 1e6 / s }
					b.ReportMetric(mb(0, t), "tursodb-MB/s")
					b.ReportMetric(mb(1, o), "ours-MB/s")
					b.ReportMetric(t*1000, "tursodb-ms")
					b.ReportMetric(o*1000, "ours-ms")
					b.ReportMetric(t/o, "times")
					b.ReportMetric(float64(pages[1]), "pages")
				}
				b.ReportMetric(0, "ns/op")
				reportMemory(b, theirs, ours)
			})
		}
	}
}

// BenchmarkServerWake measures from the moment a push of one row is sent until
// waiting clients have the new pages. tursodb answers long polls at once: its
// clients ask again and again, without a pause, which is the best they can do.
func BenchmarkServerWake(b *testing.B) {
	for _, n := range []int{1, 16} {
		b.Run(fmt.Sprintf("clients=%d", n), func(b *testing.B) {
			const commits = 30
			theirs, ours := hosts(b)
			side := func(h *host) (commit func(), wakes, pushes *[]float64) {
				realtest.Exec(b, h.url, itemsTable)
				writer := h.client(remote.Config{})
				writer.push(writer.batch(1, itemName, false))
				clients := several(n, h, remote.Config{})
				for _, c := range clients {
					c.fetch(0)
				}
				wakes, pushes = new([]float64), new([]float64)
				commit = func() {
					took := make([]float64, n)
					var start time.Time
					begun := make(chan struct{})
					var wg sync.WaitGroup
					for i, c := range clients {
						wg.Go(func() {
							for c.fetch(20*time.Second) == 0 {
							}
							<-begun
							took[i] = float64(time.Since(start).Microseconds()) / 1000
						})
					}
					if h == ours {
						for ours.metric(b, "tursosync_long_polls") < n {
							time.Sleep(time.Millisecond)
						}
					}
					batch := writer.batch(1, itemName, false)
					start = time.Now()
					close(begun)
					h.errors += writer.push(batch)
					*pushes = append(*pushes, float64(time.Since(start).Microseconds())/1000)
					wg.Wait()
					*wakes = append(*wakes, took...)
				}
				return commit, wakes, pushes
			}
			theirCommit, theirWakes, theirPushes := side(theirs)
			ourCommit, ourWakes, ourPushes := side(ours)
			for b.Loop() {
				for range commits {
					theirCommit()
					ourCommit()
				}
			}
			b.ReportMetric(0, "ns/op")
			report := func(name string, wakes, pushes []float64) (half float64) {
				b.ReportMetric(quantile(wakes, 0.5), name+"-p50-ms")
				b.ReportMetric(quantile(wakes, 0.99), name+"-p99-ms")
				b.ReportMetric(quantile(pushes, 0.5), name+"-push-ms")
				return quantile(wakes, 0.5)
			}
			t, o := report("tursodb", *theirWakes, *theirPushes), report("ours", *ourWakes, *ourPushes)
			b.ReportMetric(t/o, "times")
			reportMemory(b, theirs, ours)
		})
	}
}

func quantile(v []float64, q float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[min(len(v)-1, int(q*float64(len(v))))]
}

// BenchmarkServerFleet measures our server with 1000 databases, 100 of which are in
// use: memory and open files. (tursodb has one database a process.)
func BenchmarkServerFleet(b *testing.B) {
	const all, active = 1000, 100
	const idle = 3 * time.Second
	for b.Loop() {
		s := serve(b, b.TempDir(), "-idle-after", idle.String())
		report := func(when string) {
			b.Logf("%-44s RSS %6.1f MB, %4d files open, %3d databases open", when, s.status("VmRSS"), s.files(), s.metric(b, "tursosync_databases_open"))
		}
		report("empty")
		for i := range all {
			s.create(b, fmt.Sprintf("db-%04d", i))
		}
		report("1000 databases created")
		var members []*client
		for i := range active {
			h := &host{name: "ours", url: fmt.Sprintf("%s/db/db-%04d", s.root, i*all/active), root: s.root, pid: s.pid}
			realtest.Exec(b, h.url, itemsTable)
			members = append(members, h.client(remote.Config{}))
		}
		use := func() time.Duration {
			return atOnce(members, func(c *client) {
				c.push(c.batch(100, itemName, false))
				c.fetch(0)
			})
		}
		use()
		d := use()
		b.ReportMetric(s.status("VmRSS"), "active-MB")
		b.ReportMetric(float64(s.files()), "active-files")
		report("100 in use: a push of 100 rows, a pull each")
		b.Logf("200 requests of 100 clients at once: %v", d)
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for _, c := range members {
			wg.Go(func() { c.wait(ctx) })
		}
		for s.metric(b, "tursosync_long_polls") < active {
			time.Sleep(time.Millisecond)
		}
		report("the same 100, each with a long poll")
		b.ReportMetric(s.status("VmRSS"), "waiting-MB")
		b.ReportMetric(float64(s.files()), "waiting-files")
		cancel()
		wg.Wait()
		for begun := time.Now(); s.metric(b, "tursosync_databases_open") > 0 && time.Since(begun) < 10*idle; {
			time.Sleep(50 * time.Millisecond)
		}
		report("all idle")
		b.ReportMetric(s.status("VmRSS"), "idle-MB")
		b.ReportMetric(float64(s.files()), "idle-files")
		b.ReportMetric(s.status("VmHWM"), "most-MB")
	}
	b.ReportMetric(0, "ns/op")
}
