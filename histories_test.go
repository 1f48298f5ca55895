package tursosync_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/internal/fault"
)

// TestHistories plays testdata/script/history: a script for each bug that took several
// replicas, a server or another program to show. Each tells what went wrong, why and since
// when. A line is
//
//	WHO VERB WORDS
//
// with further lines of it indented; # begins a comment. WHO is a replica, opened when it is
// first named, or the remote:
//
//	a exec SQL           runs statements, one a line
//	a fails SQL          runs a statement that must fail
//	a sqlite3 SQL        the same as exec by the sqlite3 program
//	a push | pull | sync
//	a fail POINT VERB    the same while the file operation at a fault point fails, once
//	a reopen
//	a copies b           a replica on a copy of b's files, which is closed meanwhile
//	a want SQL           the query's rows, one a line, columns separated by |
//	a backups N          that many files of a's were put aside
//	a events N NAME      that many events of a kind since it was opened
//	remote backup | restore | empty
//	all equal            syncs all, twice: contents, bases and remote are equal
func TestHistories(t *testing.T) {
	files, err := filepath.Glob("testdata/script/history/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	eachRemote(t, func(t *testing.T, r remote) {
		for _, file := range files {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
				restartEmpty(t, r)
				h := &history{T: t, remote: r, sides: make(map[string]*side), events: make(map[string]map[string]int)}
				h.play(file)
			})
		}
	})
}

type history struct {
	*testing.T
	remote remote
	backup string
	names  []string // of sides, in order
	sides  map[string]*side
	events map[string]map[string]int // of each side, by type
	stops  map[string]func() []tursosync.Event
}

func (h *history) play(file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		h.Fatal(err)
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		at, line := i+1, lines[i]
		if line == "" || line[0] == '#' {
			continue
		}
		words := strings.SplitN(line, " ", 3)
		if len(words) < 2 {
			h.Fatalf("%s:%d: %q", file, at, line)
		}
		var rest []string
		if len(words) == 3 {
			rest = append(rest, words[2])
		}
		for i+1 < len(lines) && strings.HasPrefix(lines[i+1], "    ") {
			i++
			rest = append(rest, lines[i][4:])
		}
		h.Logf("%s:%d: %s", filepath.Base(file), at, line)
		if err := h.do(words[0], words[1], rest); err != nil {
			h.Fatalf("%s:%d: %s: %v", file, at, line, err)
		}
		if h.Failed() {
			h.FailNow()
		}
	}
}

func (h *history) do(who, verb string, rest []string) error {
	switch who + " " + verb {
	case "remote backup":
		h.backup = h.remote.Copy(h.T)
		return nil
	case "remote restore":
		return h.restore()
	case "remote empty":
		restartEmpty(h.T, h.remote)
		return nil
	case "all equal":
		converge(h.T, h.remote, h.all()...)
		return nil
	}
	if verb == "copies" {
		return h.copyFiles(who, rest[0])
	}
	s := h.side(who)
	switch verb {
	case "exec":
		s.exec(rest...)
	case "fails":
		if _, err := s.db.Exec(rest[0]); err == nil {
			return errors.New("no error")
		}
	case "sqlite3":
		if _, err := exec.LookPath("sqlite3"); err != nil {
			h.Skip("needs the sqlite3 command")
		}
		out, err := exec.Command("sqlite3", "-bail", s.path, strings.Join(rest, ";\n")).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
	case "push", "pull", "sync":
		return s.move(verb)
	case "fail":
		point, verb, _ := strings.Cut(rest[0], " ")
		return failOnce(point, func() error { return s.move(verb) })
	case "reopen":
		h.count(who)
		s.reopen()
		h.stops[who] = s.events()
	case "want":
		s.want(rest[0], rest[1:]...)
	case "backups":
		list, err := filepath.Glob(s.path + "-backup-*")
		if err != nil {
			return err
		}
		if n := fmt.Sprint(len(list)); n != rest[0] {
			return fmt.Errorf("%s: %q", n, list)
		}
	case "events":
		h.count(who)
		h.stops[who] = s.events()
		want, name, _ := strings.Cut(rest[0], " ")
		if n := fmt.Sprint(h.events[who][name]); n != want {
			return fmt.Errorf("there were %v", h.events[who])
		}
	default:
		return errors.New("unknown verb")
	}
	return nil
}

// move is what replicas do with the remote.
func (s *side) move(verb string) error {
	switch verb {
	case "push":
		return s.r.Push(s.Context())
	case "pull":
		return s.r.Pull(s.Context())
	case "sync":
		return s.trySync()
	}
	return fmt.Errorf("%q is not push, pull or sync", verb)
}

// failOnce lets a fault point fail once, which has to be reached.
func failOnce(point string, fn func() error) error {
	planned, hit := errors.New("planned"), false
	defer fault.Set(func(at string) error {
		if at == point && !hit {
			hit = true
			return planned
		}
		return nil
	})()
	if err := fn(); err != nil && !errors.Is(err, planned) {
		return err
	}
	if !hit {
		return fmt.Errorf("%s was not reached", point)
	}
	return nil
}

// count adds the events of a side so far.
func (h *history) count(who string) {
	if h.events[who] == nil {
		h.events[who] = make(map[string]int)
	}
	for _, e := range h.stops[who]() {
		_, name, _ := strings.Cut(fmt.Sprintf("%T", e), ".")
		h.events[who][name]++
	}
}

func (h *history) side(who string) *side {
	if h.sides[who] == nil {
		h.add(who, open(h.T, h.remote))
	}
	return h.sides[who]
}

func (h *history) add(who string, s *side) {
	if h.stops == nil {
		h.stops = make(map[string]func() []tursosync.Event)
	}
	h.sides[who], h.stops[who] = s, s.events()
	h.names = append(h.names, who)
}

func (h *history) all() (sides []*side) {
	for _, name := range h.names {
		sides = append(sides, h.sides[name])
	}
	return sides
}

// copyFiles opens a new replica on a copy of another's files.
func (h *history) copyFiles(who, from string) error {
	if slices.Contains(h.names, who) {
		return errors.New("it is there already")
	}
	s := h.side(from)
	h.count(from)
	if err := s.db.Close(); err != nil {
		return err
	}
	path := filepath.Join(h.TempDir(), "app.db")
	files, err := filepath.Glob(s.path + "*")
	if err != nil {
		return err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path+strings.TrimPrefix(file, s.path), b, 0o600); err != nil {
			return err
		}
	}
	s.open()
	h.stops[from] = s.events()
	h.add(who, open(h.T, h.remote, func(c *tursosync.Config) { c.Path = path }))
	return nil
}

// restore puts the remote's backup in its place.
func (h *history) restore() error {
	b, err := os.ReadFile(h.backup)
	if err != nil {
		return err
	}
	h.remote.Stop()
	defer h.remote.Start()
	wipe(h.T, h.remote)
	switch s := h.remote.(type) {
	case *tursodb:
		return os.WriteFile(s.File, b, 0o600)
	case *ownServer:
		return os.WriteFile(s.File, b, 0o600)
	}
	return fmt.Errorf("%T: its file is not known", h.remote)
}
