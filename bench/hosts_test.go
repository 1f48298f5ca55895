package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/realtest"
	"github.com/tursosync/tursosync/internal/remote"
	"github.com/tursosync/tursosync/syncer"
)

// host is a server in a process of its own, on a file that is on disk.
type host struct {
	name, url string // of the database
	root      string // of the server
	pid       int
	errors    int // of pushes that were tried again
}

// hosts starts tursodb and our server, each with an empty database, their files
// beside each other.
func hosts(b *testing.B) (theirs, ours *host) {
	b.Helper()
	dir := b.TempDir()
	t := realtest.StartTursodbFile(b, filepath.Join(dir, "tursodb.db"))
	theirs = &host{name: "tursodb", url: t.URL, root: t.URL, pid: t.PID()}
	ours = serve(b, filepath.Join(dir, "data"))
	ours.create(b, "bench")
	ours.url = ours.root + "/db/bench"
	return theirs, ours
}

var commandDir string // of the program that command built

// command builds cmd/tursosync once.
var command = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "tursosync-bench-")
	if err != nil {
		return "", err
	}
	commandDir = dir
	program := filepath.Join(dir, "tursosync")
	out, err := exec.Command("go", "build", "-o", program, "github.com/tursosync/tursosync/cmd/tursosync").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build cmd/tursosync: %w\n%s", err, out)
	}
	return program, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if commandDir != "" {
		_ = os.RemoveAll(commandDir)
	}
	os.Exit(code)
}

var serving = regexp.MustCompile(`msg=serving url=(\S+)`)

// serve starts `tursosync serve` on a folder and ends it with the benchmark.
func serve(b *testing.B, dir string, flags ...string) *host {
	b.Helper()
	program, err := command()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(program, append([]string{"serve", "-data", dir, "-addr", "127.0.0.1:0", "-no-auth", "-admin-token", "bench"}, flags...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := cmd.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		if m := serving.FindStringSubmatch(lines.Text()); m != nil {
			go func() {
				for lines.Scan() {
					fmt.Fprintln(os.Stderr, lines.Text())
				}
			}()
			return &host{name: "ours", root: m[1], pid: cmd.Process.Pid}
		}
		fmt.Fprintln(os.Stderr, lines.Text())
	}
	b.Fatal("tursosync serve ended")
	return nil
}

// create creates a database of our server.
func (h *host) create(b *testing.B, name string) {
	b.Helper()
	req := must(http.NewRequest(http.MethodPost, h.root+"/admin/databases/"+name, nil))
	req.Header.Set("Authorization", "Bearer bench")
	resp := must(http.DefaultClient.Do(req))
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		b.Fatalf("create database %s: %s", name, resp.Status)
	}
}

// metric reads one of our server's metrics.
func (h *host) metric(b *testing.B, name string) int {
	b.Helper()
	resp := must(http.Get(h.root + "/metrics"))
	defer resp.Body.Close()
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), name+" "); ok {
			return int(must(strconv.ParseFloat(rest, 64)))
		}
	}
	b.Fatalf("there is no metric %s", name)
	return 0
}

// status reads a line of /proc/PID/status, in MB; 0 where there is none.
func (h *host) status(field string) float64 {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.pid))
	for line := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(line, []byte(field+":")); ok {
			var kb float64
			_, _ = fmt.Sscan(string(rest), &kb)
			return kb / 1024
		}
	}
	return 0
}

// cpu is the time that the process has run so far.
func (h *host) cpu() time.Duration {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.pid))
	_, rest, _ := bytes.Cut(data, []byte(") "))
	fields := bytes.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	var ticks time.Duration
	for _, f := range fields[11:13] { // utime, stime; in hundredths of a second
		n, _ := strconv.Atoi(string(f))
		ticks += time.Duration(n)
	}
	return ticks * 10 * time.Millisecond
}

// files counts the files that the process has open.
func (h *host) files() int {
	list, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.pid))
	return len(list)
}

// reportMemory tells the most memory that the processes ever had.
func reportMemory(b *testing.B, hosts ...*host) {
	for _, h := range hosts {
		b.ReportMetric(h.status("VmHWM"), h.name+"-MB")
	}
}

// client pushes and pulls as a replica does, without a database of its own.
type client struct {
	h    *host
	r    *remote.Remote
	id   string
	last cdc.ID
	row  int64
	rev  page.Revision
}

var clients int64

// client returns a client with keys that no other one uses.
func (h *host) client(cfg remote.Config) *client {
	clients++
	cfg.URL = h.url
	return &client{h: h, r: must(remote.New(cfg)), id: fmt.Sprintf("client-%d", clients), row: clients << 32}
}

// itemsTable is created on both sides before anything is measured.
const itemsTable = `CREATE TABLE items(id INTEGER PRIMARY KEY, name TEXT NOT NULL, qty INTEGER, price REAL)`

var itemsShape = &cdc.Shape{Columns: []string{"id", "name", "qty", "price"}, RowIDAlias: 0, Key: []int{0}}

// batch makes a transaction of new rows, in the statements that a replica sends; or
// in one statement a row, as the official client does.
func (c *client) batch(rows int, name func(i int) string, eachItself bool) (batch syncer.Batch) {
	batch = syncer.Batch{ClientID: c.id, Expect: c.last, ExpectFound: c.last > 0, Last: c.last + cdc.ID(rows)}
	txn := make([]cdc.Change, rows)
	for i := range txn {
		c.row++
		id := c.last + cdc.ID(i) + 1
		row := []any{c.row, name(i), int64(i), 9.5}
		txn[i] = cdc.Change{ID: id, Txn: c.last + 1, Type: cdc.Insert, Table: "items", RowID: c.row, Shape: itemsShape, After: cdc.EncodeRecord(row)}
		if eachItself {
			batch.Mutations = append(batch.Mutations, cdc.Mutation{Change: id, Args: row,
				SQL: `INSERT INTO "items"("id","name","qty","price") VALUES (?,?,?,?) ON CONFLICT("id") DO UPDATE SET "name"=excluded."name","qty"=excluded."qty","price"=excluded."price"`})
		}
	}
	if !eachItself {
		batch.Mutations = must(cdc.Mutations(context.Background(), [][]cdc.Change{txn}, cdc.MutationOptions{}))
	}
	return batch
}

// push sends a batch until it is known to have arrived, and returns how many
// errors there were on the way.
func (c *client) push(batch syncer.Batch) (errs int) {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		_, err := c.r.Push(ctx, batch)
		if err != nil {
			if errs++; errs > 100 {
				panic(fmt.Errorf("push to %s: %w", c.h.name, err))
			}
			var e *remote.Error
			if !errors.As(err, &e) || e.Kind != remote.Retry {
				panic(fmt.Errorf("push to %s: %w", c.h.name, err))
			}
			var mark cdc.ID
			if mark, _, err = c.r.Watermark(ctx, c.id); err == nil && mark != batch.Last {
				err = errors.New("again")
			}
		}
		cancel()
		if err == nil {
			c.last = batch.Last
			return errs
		}
	}
}

// fetch pulls what is new, into nothing.
func (c *client) fetch(wait time.Duration) (pages int) {
	s := &sink{}
	if err := c.r.Fetch(context.Background(), syncer.PullRequest{Have: c.rev, LongPoll: wait}, s); err != nil {
		panic(fmt.Errorf("pull from %s: %w", c.h.name, err))
	}
	c.rev = s.revision
	return s.pages
}

// wait holds a long poll until ctx ends.
func (c *client) wait(ctx context.Context) {
	_ = c.r.Fetch(ctx, syncer.PullRequest{Have: c.rev, LongPoll: time.Minute}, &sink{})
}

type sink struct {
	revision page.Revision
	pages    int
}

func (s *sink) Header(h syncer.PullHeader) error    { s.revision = h.Revision; return nil }
func (s *sink) Page(no page.No, image []byte) error { s.pages++; return nil }
