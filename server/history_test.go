package server

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	osexec "os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tursosync/tursosync/internal/testseed"
	"github.com/tursosync/tursosync/internal/wire"
)

// seedTable makes a database of more than 100 pages.
var seedTable = []string{"CREATE TABLE t (id INTEGER PRIMARY KEY, v, pad)",
	"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) INSERT INTO t SELECT i, i, randomblob(400) FROM n"}

// TestRestartRemembers shows that a client goes on after restarts of the server
// with the pages that changed and no others, whether it was closed or died.
func TestRestartRemembers(t *testing.T) {
	for _, c := range []struct {
		name string
		next func(t *testing.T, s *Server) *Server // the server after s
	}{
		{"closed", func(t *testing.T, s *Server) *Server {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return openServer(t, Config{File: s.cfg.File})
		}},
		{"died", func(t *testing.T, s *Server) *Server {
			return openServer(t, Config{File: copyDatabase(t, s.cfg.File)})
		}},
		{"died after a checkpoint", func(t *testing.T, s *Server) *Server {
			if err := s.Checkpoint(); err != nil {
				t.Fatal(err)
			}
			return openServer(t, Config{File: copyDatabase(t, s.cfg.File)})
		}},
		{"died after a checkpoint and a commit", func(t *testing.T, s *Server) *Server {
			if err := s.Checkpoint(); err != nil {
				t.Fatal(err)
			}
			exec(t, s, "UPDATE t SET v = 0 WHERE id = 500")
			return openServer(t, Config{File: copyDatabase(t, s.cfg.File)})
		}},
		{"died in a checkpoint", func(t *testing.T, s *Server) *Server {
			// The record before it, and a file that has some of the frames.
			s.history.mu.Lock()
			s.history.save()
			_, err := s.history.conn.one("PRAGMA wal_checkpoint(PASSIVE)")
			s.history.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			return openServer(t, Config{File: copyDatabase(t, s.cfg.File)})
		}},
		{"idle", func(t *testing.T, s *Server) *Server {
			for range 3 {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = openServer(t, Config{File: s.cfg.File})
			}
			return s
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openServer(t, Config{})
			exec(t, s, seedTable...)
			var c1 client
			if err := c1.pull(s, wire.PullRequest{}); err != nil {
				t.Fatal(err)
			}
			for i := range 4 {
				exec(t, s, fmt.Sprintf("UPDATE t SET v = -%d WHERE id = %d", i, i*100))
				s = c.next(t, s)
				if i%2 == 0 {
					exec(t, s, fmt.Sprintf("UPDATE t SET v = %d WHERE id = %d", i, i*100+50))
				}
				if err := c1.pull(s, wire.PullRequest{ClientRevision: c1.revision}); err != nil {
					t.Fatal(err)
				}
				if len(c1.came) > 10 {
					t.Errorf("restart %d: %d pages of %d", i, len(c1.came), c1.count)
				}
				if want, err := s.Digest(); err != nil || c1.digest() != want {
					t.Fatalf("restart %d: digest %s, want %s, %v", i, c1.digest(), want, err)
				}
				if err := c1.pull(s, wire.PullRequest{ClientRevision: c1.revision}); err != nil || len(c1.came) != 0 {
					t.Errorf("nothing new: %v, %d pages", err, len(c1.came))
				}
			}
		})
	}
}

// copyDatabase copies a database as the death of its server would leave it, times
// included.
func copyDatabase(t testing.TB, file string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy.db")
	copyTo(t, file, to)
	return to
}

func copyTo(t testing.TB, file, to string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", "-shm", historySuffix, pinsSuffix} {
		if err := os.Remove(to + suffix); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if suffix == "-shm" {
			continue
		}
		info, err := os.Stat(file + suffix)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(file + suffix)
		if err == nil {
			err = os.WriteFile(to+suffix, b, 0o644)
		}
		if err == nil {
			err = os.Chtimes(to+suffix, time.Time{}, info.ModTime())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestHistoryStory lives through a random story of commits, checkpoints, other
// programs, deaths, closings, restored copies and lost records, with clients of
// different ages. However it goes, a pull must lead to the server's very bytes.
func TestHistoryStory(t *testing.T) {
	rounds := 250
	if testing.Short() {
		rounds = 80
	}
	seed := testseed.New(t)
	rnd := rand.New(rand.NewPCG(seed, 3))
	dir := t.TempDir()
	file, saved := filepath.Join(dir, "a.db"), filepath.Join(dir, "saved.db")
	var s *Server
	open := func() {
		t.Helper()
		var err error
		if s, err = Open(Config{File: file, NoSync: true}); err != nil {
			t.Fatal(err)
		}
	}
	closeServer := func() {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	defer func() { closeServer() }()
	open()
	exec(t, s, seedTable...)
	copyTo(t, file, saved)
	foreign := func(keepWAL bool) {
		t.Helper()
		db, err := sql.Open("sqlite3", file)
		if err != nil {
			t.Fatal(err)
		}
		db.SetMaxOpenConns(1)
		if _, err := db.Exec("UPDATE t SET v = random() WHERE id % 97 = ?", rnd.IntN(97)); err != nil {
			t.Fatal(err)
		}
		if keepWAL { // it dies
			copyTo(t, file, filepath.Join(dir, "tmp.db"))
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if keepWAL {
			copyTo(t, filepath.Join(dir, "tmp.db"), file)
		}
	}
	die := func() { // the copy is what would be there
		t.Helper()
		copyTo(t, file, filepath.Join(dir, "tmp.db"))
		closeServer()
		copyTo(t, filepath.Join(dir, "tmp.db"), file)
		open()
	}
	var clients [5]client
	told := map[string]int{}
	did := func(what string) { told[what]++ }
	increments, wholes := 0, 0
	for range rounds {
		switch rnd.IntN(14) {
		case 0:
			did("checkpoint")
			if err := s.Checkpoint(); err != nil {
				t.Fatal(err)
			}
		case 1:
			did("close")
			closeServer()
			open()
		case 2:
			did("die")
			die()
		case 3:
			did("other program beside")
			foreign(false)
		case 4:
			did("other program between")
			closeServer()
			foreign(rnd.IntN(2) == 0)
			open()
		case 5:
			did("save")
			copyTo(t, file, saved)
		case 6:
			if rnd.IntN(3) == 0 {
				did("restore")
				closeServer()
				copyTo(t, saved, file)
				open()
			}
		case 7:
			if rnd.IntN(4) == 0 {
				did("lose the record")
				closeServer()
				if err := os.Remove(file + historySuffix); err != nil {
					t.Fatal(err)
				}
				open()
			}
		case 8:
			did("shrink and grow")
			exec(t, s, fmt.Sprintf("DELETE FROM t WHERE id > %d", 800+rnd.IntN(200)), "INSERT INTO t(v, pad) VALUES (1, zeroblob(100000))")
		default:
			did("commit")
			exec(t, s, fmt.Sprintf("UPDATE t SET v = %d, pad = randomblob(400) WHERE id = %d", rnd.IntN(1000), rnd.IntN(1000)))
		}
		for i := range clients {
			if rnd.IntN(4+8*i) != 0 {
				continue
			}
			c := &clients[i]
			if err := c.pull(s, wire.PullRequest{ClientRevision: c.revision}); err != nil {
				t.Fatal(err)
			}
			if uint64(len(c.came)) == c.count {
				wholes++
			} else {
				increments++
			}
			want, err := s.Digest()
			if err != nil {
				t.Fatal(err)
			}
			if c.digest() != want {
				var fresh client
				if err := fresh.pull(s, wire.PullRequest{}); err != nil {
					t.Fatal(err)
				}
				var differ []uint64
				for id := range fresh.count {
					if !bytes.Equal(fresh.pages[id], c.pages[id]) {
						differ = append(differ, id+1)
					}
				}
				t.Fatalf("client %d at %s: pages %v differ (came %d of %d)\n%v", i, c.revision, differ, len(c.came), c.count, told)
			}
		}
	}
	t.Logf("%d increments, %d whole pulls; %v", increments, wholes, told)
	if increments*3 < wholes {
		t.Errorf("%d increments, and %d whole pulls", increments, wholes)
	}
}

func TestRecord(t *testing.T) {
	full := record{seq: 300, start: 200, wal: &walMark{[2]uint32{1, 2}, 3, [2]uint32{4, 5}}, file: &fileMark{6 << 40, -7},
		eras: []era{{[8]byte{1}, 0}, {[8]byte{2}, 250}}, tags: map[uint64]tag{7: 8, 1 << 40: 1<<32 - 1}, changed: []uint64{0, 300, 299, 5}}
	for name, r := range map[string]record{"full": full, "no marks": {eras: full.eras[:1]}, "no pages": {seq: 9, file: full.file, eras: full.eras[:1]}} {
		got, err := decodeRecord(r.encode())
		if err != nil || fmt.Sprint(got.changed) != fmt.Sprint(r.changed) {
			t.Fatalf("%s: %+v, %v", name, got, err)
		}
		got.changed = r.changed // nil or empty
		if len(got.tags) == 0 {
			got.tags = r.tags
		}
		if !reflect.DeepEqual(*got, r) {
			t.Errorf("%s: %+v, want %+v", name, *got, r)
		}
	}
	b := full.encode()
	for i := range b {
		torn := bytes.Clone(b)
		torn[i] ^= 1
		if _, err := decodeRecord(torn); err == nil {
			t.Errorf("byte %d may be wrong", i)
		}
		if _, err := decodeRecord(b[:i]); err == nil {
			t.Errorf("%d bytes may be all", i)
		}
	}
	// A damaged record is like none.
	s := openServer(t, Config{})
	exec(t, s, seedTable...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.cfg.File+historySuffix, b[:50], 0o644); err != nil {
		t.Fatal(err)
	}
	s = openServer(t, Config{File: s.cfg.File})
	if err := (&client{}).pull(s, wire.PullRequest{ClientRevision: full.eras[0].String() + "-3-0"}); err != nil {
		t.Error(err)
	}
}

func FuzzRecord(f *testing.F) {
	r := record{seq: 3, eras: []era{{[8]byte{1}, 0}}, changed: []uint64{1, 3}}
	b := r.encode()
	f.Add(b[:len(b)-32])
	f.Fuzz(func(t *testing.T, b []byte) {
		// With the right checksum, so that the fields are reached.
		b = append(bytes.Clone(b), make([]byte, 32)...)
		sum := sha256.Sum256(b[:len(b)-32])
		copy(b[len(b)-32:], sum[:])
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		again, err := decodeRecord(r.encode())
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%+v becomes %+v, %v", r, again, err)
		}
	})
}

// TestMain is the server's process in TestKill and TestCrashAtEveryPoint.
func TestMain(m *testing.M) {
	if plan := os.Getenv(crashEnv); plan != "" {
		if err := crashChild(plan); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if file := os.Getenv("TURSOSYNC_KILL_FILE"); file != "" {
		serveUntilKilled(file)
	}
	os.Exit(m.Run())
}

func serveUntilKilled(file string) {
	s, err := Open(Config{File: file, CheckpointBytes: 300 << 10})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	go func() { _ = http.Serve(l, s) }()
	fmt.Println("http://" + l.Addr().String())
	_, _ = io.Copy(io.Discard, os.Stdin) // the parent has gone
	os.Exit(0)
}

// TestKill kills a server during writes and pulls. No commit that was answered is
// lost, a replica that lived through it holds the very bytes of a fresh one, and
// the history goes on with increments.
func TestKill(t *testing.T) {
	kills := 8
	if testing.Short() {
		kills = 3
	}
	file := filepath.Join(t.TempDir(), "kill.db")
	seed := testseed.New(t)
	rnd := rand.New(rand.NewPCG(seed, 1))
	survivor := &client{}
	acked, wholes := 0, 0
	for round := 0; round <= kills; round++ {
		url, kill := startChild(t, file)
		h := proxy(url)
		if round == 0 {
			for _, q := range append(seedTable, "CREATE TABLE acked (n INTEGER PRIMARY KEY, pad)") {
				firstValue(t, h, "http://x", q)
			}
		}
		if got := firstValue(t, h, "http://x", fmt.Sprintf("SELECT count(*) >= %d AND count(*) = coalesce(max(n), 0) FROM acked", acked)); got != "1" {
			t.Errorf("round %d: of %d acknowledged rows some are missing", round, acked)
		}
		before := survivor.revision
		if err := survivor.pullFrom(h, wire.PullRequest{ClientRevision: before}); err != nil {
			t.Fatal(err)
		}
		if before != "" && uint64(len(survivor.came)) == survivor.count {
			wholes++
		}
		fresh := &client{}
		if err := fresh.pullFrom(h, wire.PullRequest{}); err != nil {
			t.Fatal(err)
		}
		if fresh.digest() != survivor.digest() {
			t.Fatalf("round %d: who lived through it holds other bytes than a fresh replica", round)
		}
		survivor.check(t)
		if round == kills {
			kill()
			break
		}
		// Writers and a replica, until the server dies under them.
		var wg sync.WaitGroup
		wg.Add(2)
		go func() {
			defer wg.Done()
			for {
				w := ask(h, "POST", "http://x/v2/pipeline", "", `{"requests":[`+execute(fmt.Sprintf("INSERT INTO acked VALUES (%d, randomblob(2000))", acked+1))+`,{"type":"close"}]}`)
				if w.Code == 200 && strings.Contains(w.Body.String(), "UNIQUE") || w.Code == 200 && strings.HasPrefix(w.Body.String(), `{"baton":null,"base_url":null,"results":[{"type":"ok"`) {
					acked++
					continue
				}
				if w.Code == 200 {
					t.Errorf("insert: %s", w.Body)
				}
				return
			}
		}()
		go func() {
			defer wg.Done()
			for {
				was := *survivor
				was.pages = map[uint64][]byte{}
				for k, v := range survivor.pages {
					was.pages[k] = v
				}
				if err := survivor.pullFrom(h, wire.PullRequest{ClientRevision: survivor.revision}); err != nil {
					*survivor = was
					return
				}
			}
		}()
		// The moment is what varies; nothing waits for it.
		time.AfterFunc(time.Duration(100+rnd.IntN(300))*time.Millisecond, kill)
		wg.Wait()
	}
	t.Logf("%d acknowledged commits, %d kills, %d whole pulls", acked, kills, wholes)
	if wholes > kills/2 {
		t.Errorf("after %d of %d kills the history was lost", wholes, kills)
	}
}

// startChild starts a server's process.
func startChild(t *testing.T, file string) (url string, kill func()) {
	t.Helper()
	cmd := osexec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TURSOSYNC_KILL_FILE="+file)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	kill = func() {
		once.Do(func() {
			_ = cmd.Process.Signal(syscall.SIGKILL)
			_ = in.Close()
			_ = cmd.Wait()
		})
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "http://") {
		t.Fatalf("child: %q, %v", line, err)
	}
	return strings.TrimSpace(line), kill
}

// proxy is a server elsewhere as a handler; 502 when it does not answer.
func proxy(url string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := http.Post(url+r.URL.Path, r.Header.Get("Content-Type"), r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer func() { _ = resp.Body.Close() }()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = w.Write(b)
	})
}

// TestRecordOfAnotherWAL: a WAL of the same salt, as long, but with other frames, as a
// loss of power may leave it, does not continue the recorded state.
func TestRecordOfAnotherWAL(t *testing.T) {
	s := openServer(t, Config{})
	exec(t, s, seedTable...)
	h := s.history
	state, err := h.refreshed()
	if err != nil || state.MaxFrame == 0 {
		t.Fatal(state, err)
	}
	r := &record{seq: h.seq, start: h.start, eras: h.eras, changed: h.changed,
		wal: &walMark{salt: state.Salt, frames: state.MaxFrame, checksum: state.Checksum}}
	if n, err := h.recognise(r); err != nil || n != int(state.MaxFrame) {
		t.Fatalf("its own record: %d, %v, want %d", n, err, state.MaxFrame)
	}
	r.wal.checksum[1]++
	if n, err := h.recognise(r); err != nil || n >= 0 {
		t.Errorf("a record of other frames: %d, %v, want less than 0", n, err)
	}
}
