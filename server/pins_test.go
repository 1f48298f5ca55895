package server

import (
	"bytes"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/testseed"
	"github.com/tursosync/tursosync/internal/wire"
)

func selectorOf(t *testing.T, pages ...page.No) []byte {
	t.Helper()
	var set page.Set
	for _, no := range pages {
		set.Add(no)
	}
	b, err := set.Selector()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// partial begins with the first page of the database, as a partial replica of the
// official client does, and notes what it ought to find later.
func partial(t *testing.T, s *Server) (whole client) {
	t.Helper()
	if err := whole.pull(s, wire.PullRequest{}); err != nil {
		t.Fatal(err)
	}
	var part client
	if err := part.pull(s, wire.PullRequest{Selector: selectorOf(t, 1)}); err != nil {
		t.Fatal(err)
	}
	if len(part.came) != 1 || part.revision != whole.revision {
		t.Fatalf("pages %v at %s, want the first at %s", part.came, part.revision, whole.revision)
	}
	return whole
}

// load asks for a page as of the revision of a replica: right, gone or an error.
func load(t *testing.T, s *Server, whole *client, no page.No) (held bool) {
	t.Helper()
	var c client
	err := c.pull(s, wire.PullRequest{ServerRevision: whole.revision, Selector: selectorOf(t, no)})
	if err != nil {
		if !strings.Contains(err.Error(), "410") {
			t.Fatalf("page %v at %s: %v", no, whole.revision, err)
		}
		return false
	}
	id := uint64(no.Wire())
	if len(c.came) != 1 || !bytes.Equal(c.pages[id], whole.pages[id]) {
		t.Fatalf("page %v at %s is another one (%v came)", no, whole.revision, c.came)
	}
	return true
}

// TestPins shows that partial replicas can load the rest of their revision for as
// long as they like: through writes, checkpoints, restarts and deaths of the server,
// and while the database shrinks and grows. Random; TURSOSYNC_SEED repeats a run.
func TestPins(t *testing.T) {
	seed := testseed.New(t)
	rnd := rand.New(rand.NewPCG(seed, 1))
	file := filepath.Join(t.TempDir(), "remote.db")
	db, err := sql.Open("sqlite3", file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("PRAGMA auto_vacuum = FULL; CREATE TABLE bulk (id INTEGER PRIMARY KEY, b)"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s := openServer(t, Config{File: file})
	exec(t, s, seedTable...)
	var replicas []client
	loads := 0
	for range 150 {
		switch rnd.IntN(12) {
		case 0, 1, 2, 3:
			exec(t, s, fmt.Sprintf("UPDATE t SET v = v + 1, pad = randomblob(%d) WHERE id %% 97 = %d", 300+rnd.IntN(200), rnd.IntN(97)))
		case 4:
			exec(t, s, fmt.Sprintf("INSERT INTO bulk(b) VALUES (randomblob(%d))", rnd.IntN(60_000)))
		case 5:
			exec(t, s, "DELETE FROM bulk WHERE id % 2 = 0")
		case 6, 7:
			if err := s.Checkpoint(); err != nil {
				t.Fatal(err)
			}
		case 8:
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openServer(t, Config{File: s.cfg.File})
		case 9: // it dies; what it wrote so far is left
			s = openServer(t, Config{File: copyDatabase(t, s.cfg.File)})
		case 10, 11:
			if len(replicas) < 8 {
				replicas = append(replicas, partial(t, s))
			}
		}
		for i := range replicas {
			no := page.No(1 + rnd.IntN(int(replicas[i].count)))
			if !load(t, s, &replicas[i], no) {
				t.Fatalf("page %v of replica %d at %s is gone", no, i, replicas[i].revision)
			}
			loads++
		}
	}
	for i := range replicas {
		for no := page.No(1); no <= page.No(replicas[i].count); no++ {
			if !load(t, s, &replicas[i], no) {
				t.Fatalf("page %v of replica %d is gone", no, i)
			}
		}
	}
	t.Logf("%d replicas, %d loads, %d pages kept", len(replicas), loads, s.history.pins.size()/(pinsHead+page.Size))
}

// TestPinsUnderForeignCheckpoints lets another program move the WAL into the file as
// it pleases. What it destroyed is refused, never wrong.
func TestPinsUnderForeignCheckpoints(t *testing.T) {
	seed := testseed.New(t)
	rnd := rand.New(rand.NewPCG(seed, 1))
	s := openServer(t, Config{})
	exec(t, s, seedTable...)
	db, err := sql.Open("sqlite3", s.cfg.File+"?_busy_timeout=10000")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1)
	held, gone := 0, 0
	var replicas []client
	// Most seeds have tried both after two hundred steps.
	for step := 0; step < 200 || step < 5000 && (held == 0 || gone == 0); step++ {
		switch rnd.IntN(8) {
		case 0, 1, 2:
			exec(t, s, fmt.Sprintf("UPDATE t SET v = v + 1 WHERE id %% 97 = %d", rnd.IntN(97)))
		case 3:
			if _, err := db.Exec("UPDATE t SET v = v + 1 WHERE id % 89 = ?", rnd.IntN(89)); err != nil {
				t.Fatal(err)
			}
		case 4:
			if rnd.IntN(4) == 0 {
				if _, err := db.Exec("PRAGMA wal_checkpoint(" + []string{"PASSIVE", "TRUNCATE"}[rnd.IntN(2)] + ")"); err != nil {
					t.Fatal(err)
				}
			}
		case 5:
			if err := s.Checkpoint(); err != nil {
				t.Fatal(err)
			}
		case 6:
			replicas = append(replicas, partial(t, s))
		case 7:
			if rnd.IntN(3) == 0 {
				s = openServer(t, Config{File: copyDatabase(t, s.cfg.File)})
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				if db, err = sql.Open("sqlite3", s.cfg.File+"?_busy_timeout=10000"); err != nil {
					t.Fatal(err)
				}
				db.SetMaxOpenConns(1)
			}
		}
		for i := range replicas {
			if load(t, s, &replicas[i], page.No(1+rnd.IntN(int(replicas[i].count)))) {
				held++
			} else {
				gone++
			}
		}
	}
	t.Logf("%d pages held, %d gone", held, gone)
	if held == 0 || gone == 0 {
		t.Error("one of the two was not tried")
	}
}

// TestPinsAreBounded covers the ends of pins: space and time.
func TestPinsAreBounded(t *testing.T) {
	const room = 40 * (pinsHead + page.Size)
	s := openServer(t, Config{PinnedBytes: room, PinnedFor: time.Hour})
	exec(t, s, seedTable...)
	fall := func(id int) {
		t.Helper()
		exec(t, s, fmt.Sprintf("UPDATE t SET v = v + 1 WHERE id BETWEEN %d AND %d", id, id+100))
		if err := s.Checkpoint(); err != nil {
			t.Fatal(err)
		}
		if n := s.history.pins.size(); n > room {
			t.Errorf("%d bytes are kept, more than %d", n, room)
		}
	}
	// page returns one that holds a row.
	changed := func(whole *client, id int) page.No {
		t.Helper()
		var now client
		if err := now.pull(s, wire.PullRequest{}); err != nil {
			t.Fatal(err)
		}
		_ = id
		for no := page.No(2); no <= page.No(whole.count); no++ {
			if !bytes.Equal(now.pages[uint64(no.Wire())], whole.pages[uint64(no.Wire())]) {
				return no
			}
		}
		t.Fatal("no page has changed")
		return 0
	}
	first := partial(t, s)
	fall(1)
	second := partial(t, s)
	fall(200)
	no1, no2 := changed(&first, 1), changed(&second, 200)
	if !load(t, s, &first, no1) || !load(t, s, &second, no2) {
		t.Error("pages are gone before the bound is reached")
	}
	for i := range 6 {
		fall(300 + 100*i)
		load(t, s, &second, no2)
	}
	if load(t, s, &first, no1) {
		t.Error("the pin that was not used for longest is still there")
	}
	// Time.
	third := partial(t, s)
	fall(1)
	no3 := changed(&third, 1)
	if !load(t, s, &third, no3) {
		t.Error("the newest pin is gone")
	}
	s.history.mu.Lock()
	for i := range s.history.pins.list {
		s.history.pins.list[i].used = time.Now().Add(-2 * time.Hour)
	}
	s.history.mu.Unlock()
	fall(1)
	if load(t, s, &third, no3) {
		t.Error("a pin outlives its time")
	}
	if _, err := os.Stat(s.cfg.File + pinsSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of pins without any: %v", err)
	}
}

// TestPinsFile covers what may have become of NAME.db-pins: cut off or flipped
// anywhere, pages are right or refused.
func TestPinsFile(t *testing.T) {
	s := openServer(t, Config{})
	exec(t, s, seedTable...)
	whole := partial(t, s)
	for i := range 3 {
		exec(t, s, fmt.Sprintf("UPDATE t SET v = v + 1 WHERE id BETWEEN %d AND %d", 1+i*100, 40+i*100))
		if err := s.Checkpoint(); err != nil {
			t.Fatal(err)
		}
	}
	image, err := os.ReadFile(s.cfg.File + pinsSuffix)
	if err != nil {
		t.Fatal(err)
	}
	held, gone := 0, 0
	for i := range 40 {
		file := copyDatabase(t, s.cfg.File)
		b := bytes.Clone(image)
		at := (i * 7919) % len(b)
		switch i % 3 {
		case 0:
			b = b[:at]
		case 1:
			b[at] ^= 1
		case 2: // a head: most bytes are those of images
			b[len(pinsMagic)+at%pinsHead] ^= 1
		}
		if err := os.WriteFile(file+pinsSuffix, b, 0o644); err != nil {
			t.Fatal(err)
		}
		again := openServer(t, Config{File: file})
		for no := page.No(1); no <= page.No(whole.count); no += 3 {
			c := client{}
			err := c.pull(again, wire.PullRequest{ServerRevision: whole.revision, Selector: selectorOf(t, no)})
			id := uint64(no.Wire())
			switch {
			case err != nil:
				gone++
			case len(c.came) != 1 || !bytes.Equal(c.pages[id], whole.pages[id]):
				t.Fatalf("change %d at %d: page %v is another one", i%3, at, no)
			default:
				held++
			}
		}
		// It goes on.
		exec(t, again, "UPDATE t SET v = v + 1 WHERE id < 20")
		next := partial(t, again)
		exec(t, again, "UPDATE t SET v = v + 1 WHERE id < 40")
		if err := again.Checkpoint(); err != nil {
			t.Fatal(err)
		}
		for no := page.No(1); no <= 12; no++ {
			if !load(t, again, &next, no) {
				t.Fatalf("change %d at %d: page %v of a new pin is gone", i%3, at, no)
			}
		}
	}
	t.Logf("%d pages held, %d gone", held, gone)
	if held == 0 || gone == 0 {
		t.Error("one of the two was not tried")
	}
}

// TestPinsDamagedImage shows that a kept page which turns out to be damaged ends the
// pins: the client is told to start anew, rather than cut off for ever.
func TestPinsDamagedImage(t *testing.T) {
	s := openServer(t, Config{})
	exec(t, s, seedTable...)
	whole := partial(t, s)
	exec(t, s, "UPDATE t SET v = v + 1 WHERE id BETWEEN 1 AND 40")
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	pins := s.history.pins
	if len(pins.kept) == 0 {
		t.Fatal("no page is kept")
	}
	for no, list := range pins.kept {
		f, err := os.OpenFile(pins.file, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("damage"), list[0].at+pinsHead+100); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		var c client
		err = c.pull(s, wire.PullRequest{ServerRevision: whole.revision, Selector: selectorOf(t, no)})
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a damaged page = %v, want an answer that is cut off", err)
		}
		if load(t, s, &whole, no) {
			t.Error("the revision of a damaged page is still held")
		}
		break
	}
	next := partial(t, s)
	if !load(t, s, &next, 2) {
		t.Error("a new revision is not held")
	}
}

// TestPinsShrink shows that the file of pins does not grow for ever.
func TestPinsShrink(t *testing.T) {
	p := newPins(Config{File: filepath.Join(t.TempDir(), "x.db"), PinnedBytes: 1 << 30, PinnedFor: time.Hour})
	image := bytes.Repeat([]byte{7}, page.Size)
	now := time.Now()
	for i := range uint64(600) {
		if err := p.add(pin{seq: i + 1, count: 9, used: now}); err != nil {
			t.Fatal(err)
		}
		image[0] = byte(i)
		if err := p.keep(3, i+1, i+2, image); err != nil {
			t.Fatal(err)
		}
		if i >= 5 {
			if err := p.drop(func(x pin) bool { return x.seq == i-4 }); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.shrink(); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(p.file)
	if err != nil || info.Size() > 2<<20 {
		t.Errorf("%d bytes for %d images, %v", info.Size(), p.size()/(pinsHead+page.Size), err)
	}
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	q := newPins(Config{File: strings.TrimSuffix(p.file, pinsSuffix), PinnedFor: time.Hour})
	if err := q.load(func(string) bool { return true }, 0); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, page.Size)
	for i := uint64(596); i <= 600; i++ {
		at := q.find(3, i)
		if at == 0 {
			t.Fatalf("the image of commit %d is not there; pins %v", i, q.list)
		}
		image[0] = byte(i - 1)
		if err := q.read(at, b); err != nil || sha256.Sum256(b) != sha256.Sum256(image) {
			t.Errorf("the image of commit %d: %v", i, err)
		}
	}
	if len(q.list) != 5 {
		t.Errorf("%d pins, want 5", len(q.list))
	}
	if err := q.clear(); err != nil {
		t.Error(err)
	}
}
