package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/tursosync/tursosync/internal/fault"
)

// Defaults of [FleetConfig].
const (
	DefaultIdleAfter = 5 * time.Minute
	DefaultOpenMax   = 500
)

// Errors of a fleet.
var (
	ErrName     = errors.New("a database's name is of 1 to 63 of a-z, 0-9, - and _, and begins with a letter or digit")
	ErrExists   = errors.New("the database exists already")
	ErrNotFound = errors.New("there is no such database")
	ErrLocked   = errors.New("another process serves this folder")
)

// FleetConfig says what a fleet serves. Dir is required.
type FleetConfig struct {
	// Dir is the folder of the databases: NAME.db and what SQLite and the server
	// put beside it. A SQLite file that is put there under such a name is served.
	// One process at a time has the folder.
	Dir string
	// Database is how each database is served; File and Name are set by the fleet.
	Database Config
	// AdminToken opens /admin/; empty closes it.
	AdminToken string
	// IdleAfter is how long a database that nobody uses stays open; 0 means
	// DefaultIdleAfter. A waiting long poll is use.
	IdleAfter time.Duration
	// OpenMax is how many databases stay open at a time when some of them are not
	// in use; 0 means DefaultOpenMax.
	OpenMax int
	Logger  *slog.Logger // nil means silence
}

// Fleet serves any number of databases: those of one folder. It is an
// http.Handler; its methods may be called concurrently.
//
// A database NAME is at http://host/db/NAME, and at http://NAME.anything: when the
// path has no /db/, the first label of the host counts. Besides there are
// /healthz, /metrics (Prometheus) and /admin/ (see admin.go).
//
// A database is opened by the first request for it, and closed when nobody has
// used it for a while: an idle one costs some bytes of memory and no open file.
type Fleet struct {
	cfg   FleetConfig
	lock  *flock.Flock
	stats *stats

	mu      sync.Mutex // guards what follows; never held while a file is touched
	closed  bool
	drained bool               // Drain was called
	members map[string]*member // those that have been used
	open    int                // members with a server, or about to get one
	// trimming tells that a goroutine closes those that are too many.
	trimming bool
}

// member is a database of a fleet.
type member struct {
	name string
	// turn is held while the server is opened, closed, and the file created or
	// deleted. It comes before Fleet.mu.
	turn sync.Mutex

	// guarded by Fleet.mu
	server *Server
	users  int       // requests under way
	since  time.Time // when the last user left
	idle   *time.Timer
}

// OpenFleet creates the folder if it does not exist, and takes it for this
// process. The fleet must be closed.
func OpenFleet(cfg FleetConfig) (*Fleet, error) {
	if cfg.Dir == "" {
		return nil, errors.New("server: FleetConfig.Dir is empty")
	}
	if cfg.Database.File != "" || cfg.Database.Name != "" {
		return nil, errors.New("server: FleetConfig.Database names one database")
	}
	orDefault(&cfg.IdleAfter, DefaultIdleAfter)
	orDefault(&cfg.OpenMax, DefaultOpenMax)
	if cfg.IdleAfter < 0 || cfg.OpenMax < 0 {
		return nil, errors.New("server: a limit in FleetConfig is negative")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Database.Logger == nil {
		cfg.Database.Logger = cfg.Logger
	}
	if err := cfg.Database.validate(); err != nil {
		return nil, err
	}
	if err := fault.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("create data folder: %w", err)
	}
	lock := flock.New(filepath.Join(cfg.Dir, ".lock"))
	ok, err := false, fault.FileOp("lock", lock.Path())
	if err == nil {
		ok, err = lock.TryLock()
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("lock data folder: %w", err)
	case !ok:
		return nil, fmt.Errorf("lock data folder %s: %w", cfg.Dir, ErrLocked)
	}
	f := &Fleet{cfg: cfg, lock: lock, stats: &stats{}, members: map[string]*member{}}
	f.cfg.Database.stats = f.stats
	return f, nil
}

// Drain makes waiting long polls answer, now and from now on. It is for the
// beginning of a shutdown; see http.Server.RegisterOnShutdown.
func (f *Fleet) Drain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drained = true
	for _, m := range f.members {
		if m.server != nil {
			m.server.Drain()
		}
	}
}

// Close closes all databases as [Server.Close] does, side by side.
func (f *Fleet) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	members := make([]*member, 0, len(f.members))
	for _, m := range f.members {
		members = append(members, m)
	}
	f.mu.Unlock()
	var wg sync.WaitGroup
	errs := make([]error, len(members))
	atOnce := make(chan struct{}, 16)
	for i, m := range members {
		wg.Add(1)
		go func() {
			defer wg.Done()
			atOnce <- struct{}{}
			defer func() { <-atOnce }()
			m.turn.Lock()
			defer m.turn.Unlock()
			errs[i] = f.shut(m)
		}()
	}
	wg.Wait()
	return errors.Join(append(errs, f.lock.Unlock())...)
}

var nameRule = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

func (f *Fleet) file(name string) string { return filepath.Join(f.cfg.Dir, name+".db") }

// database is how a database is served.
func (f *Fleet) database(name string) Config {
	cfg := f.cfg.Database
	cfg.File, cfg.Name, cfg.Logger = f.file(name), name, cfg.Logger.With("database", name)
	return cfg
}

// exists tells whether a database's file is there.
func (f *Fleet) exists(name string) error {
	if !nameRule.MatchString(name) {
		return ErrName
	}
	info, err := fault.Stat(f.file(name))
	if errors.Is(err, os.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return ErrNotFound
	}
	return err
}

// DatabaseInfo is what List tells of a database.
type DatabaseInfo struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"` // of the file, without its WAL
	Open  bool   `json:"open"`
}

// List returns the databases, by name.
func (f *Fleet) List() ([]DatabaseInfo, error) {
	entries, err := fault.ReadDir(f.cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("list databases: %w", err)
	}
	out := []DatabaseInfo{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".db")
		if !ok || !nameRule.MatchString(name) {
			continue
		}
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue // deleted meanwhile, or something else
		}
		f.mu.Lock()
		m := f.members[name]
		out = append(out, DatabaseInfo{Name: name, Bytes: info.Size(), Open: m != nil && m.server != nil})
		f.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b DatabaseInfo) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// member returns the entry of a name.
func (f *Fleet) member(name string) (*member, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, ErrClosed
	}
	m := f.members[name]
	if m == nil {
		m = &member{name: name}
		f.members[name] = m
	}
	return m, nil
}

// take returns the entry of a name, whose turn the caller has then to give back. Close
// waits for it.
func (f *Fleet) take(name string) (*member, error) {
	m, err := f.member(name)
	if err != nil {
		return nil, err
	}
	m.turn.Lock()
	if _, err := f.member(name); err != nil { // closed meanwhile
		m.turn.Unlock()
		return nil, err
	}
	return m, nil
}

// Create makes an empty database. Errors are ErrName, ErrExists and those of
// files.
func (f *Fleet) Create(name string) error {
	if !nameRule.MatchString(name) {
		return fmt.Errorf("create database %q: %w", name, ErrName)
	}
	m, err := f.take(name)
	if err != nil {
		return err
	}
	defer m.turn.Unlock()
	switch err := f.exists(name); {
	case err == nil:
		return fmt.Errorf("create database %s: %w", name, ErrExists)
	case !errors.Is(err, ErrNotFound):
		return fmt.Errorf("create database %s: %w", name, err)
	}
	if err := fault.At("database.create"); err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	// A deletion may have been cut short: its WAL must not meet the new file.
	if err := removeDatabase(f.file(name)); err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	s, err := Open(f.database(name))
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		return fmt.Errorf("create database %s: %w", name, errors.Join(err, removeDatabase(f.file(name))))
	}
	f.cfg.Logger.Info("database created", "database", name)
	return nil
}

// Delete waits for the requests under way, and removes a database with all that
// belongs to it.
func (f *Fleet) Delete(name string) error {
	if err := f.exists(name); err != nil {
		return fmt.Errorf("delete database %q: %w", name, err)
	}
	m, err := f.take(name)
	if err != nil {
		return err
	}
	defer m.turn.Unlock()
	if err := f.exists(name); err != nil {
		return fmt.Errorf("delete database %s: %w", name, err)
	}
	if err := f.shut(m); err != nil {
		f.cfg.Logger.Error("close database", "database", name, "error", err)
	}
	if err := removeDatabase(f.file(name)); err != nil {
		return fmt.Errorf("delete database %s: %w", name, err)
	}
	f.cfg.Logger.Info("database deleted", "database", name)
	return nil
}

// removeDatabase removes a database's files. The main file goes before its WAL,
// as without it SQLite ignores and deletes a WAL, but not the other way round.
func removeDatabase(file string) error {
	for _, suffix := range []string{historySuffix + tmpSuffix, historySuffix, pinsSuffix + tmpSuffix, pinsSuffix, clientsSuffix, "", "-wal", "-shm", "-journal"} {
		if err := fault.At("database.remove"); err != nil {
			return err
		}
		if err := fault.Remove(file + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// shut closes a member's server. The caller holds turn.
func (f *Fleet) shut(m *member) error {
	f.mu.Lock()
	s := m.server
	m.server = nil
	if m.idle != nil {
		m.idle.Stop()
	}
	f.mu.Unlock()
	if s == nil {
		return nil
	}
	err := s.Close()
	f.mu.Lock()
	f.open--
	f.mu.Unlock()
	return err
}

// Use returns the server of a database, opened if need be. It stays open until
// done is called, which must happen once. Errors are ErrName, ErrNotFound,
// ErrClosed and those of opening it.
func (f *Fleet) Use(name string) (s *Server, done func(), err error) {
	if s = f.opened(name); s == nil {
		if s, err = f.reopen(name); err != nil {
			return nil, nil, err
		}
	}
	return s, func() { f.leave(name) }, nil
}

// opened returns the server of a database that is open, with a user more.
func (f *Fleet) opened(name string) *Server {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.members[name]
	if m == nil || m.server == nil || f.closed {
		return nil
	}
	m.users++
	return m.server
}

func (f *Fleet) reopen(name string) (*Server, error) {
	if err := f.exists(name); err != nil {
		return nil, err // and no member is kept for a name that was made up
	}
	m, err := f.take(name)
	if err != nil {
		return nil, err
	}
	defer m.turn.Unlock()
	if s := f.opened(name); s != nil {
		return s, nil // another request was first
	}
	if err := f.exists(name); err != nil {
		return nil, err
	}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil, ErrClosed
	}
	f.open++
	f.trim()
	f.mu.Unlock()
	s, err := Open(f.database(name))
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.open--
		return nil, err
	}
	if f.drained {
		s.Drain()
	}
	m.server = s
	m.users++
	f.stats.opened.Add(1)
	return s, nil
}

// trim closes databases that are not in use, those used longest ago first, while
// too many are open. The caller holds mu.
func (f *Fleet) trim() {
	if f.trimming || f.open <= f.cfg.OpenMax {
		return
	}
	f.trimming = true
	go func() {
		for {
			f.mu.Lock()
			m := f.spare()
			if m == nil {
				f.trimming = false
				f.mu.Unlock()
				return
			}
			f.mu.Unlock()
			if !f.closeIdle(m, 0) {
				f.mu.Lock()
				f.trimming = false
				f.mu.Unlock()
				return // somebody came back, or has a stream: the end of that tries again
			}
		}
	}()
}

// spare finds the database that was used longest ago, if too many are open. The
// caller holds mu.
func (f *Fleet) spare() (oldest *member) {
	if f.open <= f.cfg.OpenMax || f.closed {
		return nil
	}
	for _, m := range f.members {
		if m.server != nil && m.users == 0 && (oldest == nil || m.since.Before(oldest.since)) {
			oldest = m
		}
	}
	return oldest
}

// leave is the end of a use.
func (f *Fleet) leave(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.members[name]
	m.users--
	m.since = time.Now()
	if m.users > 0 || m.server == nil {
		return
	}
	f.trim()
	if m.idle == nil {
		m.idle = time.AfterFunc(f.cfg.IdleAfter, func() { f.closeIdle(m, f.cfg.IdleAfter) })
	} else {
		m.idle.Reset(f.cfg.IdleAfter)
	}
}

// closeIdle closes a database that nobody has used for so long, and tells
// whether it did.
func (f *Fleet) closeIdle(m *member, after time.Duration) (closed bool) {
	m.turn.Lock()
	defer m.turn.Unlock()
	f.mu.Lock()
	busy := m.server == nil || m.users > 0 || f.closed
	rest := after - time.Since(m.since)
	if !busy && (rest > 0 || m.server.streams() > 0) {
		// Streams end by themselves, soon.
		m.idle.Reset(max(rest, time.Second))
		busy = true
	}
	f.mu.Unlock()
	if busy {
		return false
	}
	if err := f.shut(m); err != nil {
		f.cfg.Logger.Error("close database", "database", m.name, "error", err)
	}
	return true
}

// ServeHTTP implements http.Handler.
func (f *Fleet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.Path; {
	case strings.HasPrefix(path, "/db/"):
		name, rest, _ := strings.Cut(path[len("/db/"):], "/")
		f.serve(w, r, name, "/"+rest)
	case path == "/healthz":
		f.health(w)
	case path == "/metrics":
		f.metrics(w)
	case path == "/admin" || strings.HasPrefix(path, "/admin/"):
		f.admin(w, r)
	default:
		name, ok := label(r.Host)
		if !ok {
			allowBrowsers(w.Header())
			fail(w, http.StatusNotFound, "not found: databases are at /db/NAME")
			return
		}
		f.serve(w, r, name, path)
	}
}

// label returns the first label of a host that has others behind it.
func label(host string) (string, bool) {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if net.ParseIP(strings.Trim(host, "[]")) != nil {
		return "", false
	}
	name, _, ok := strings.Cut(strings.ToLower(host), ".")
	return name, ok
}

// serve hands a request to a database.
func (f *Fleet) serve(w http.ResponseWriter, r *http.Request, name, path string) {
	if r.Method == http.MethodOptions { // carries no token; tells nothing
		allowBrowsers(w.Header())
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if isProbe(r.Method, path) {
		w.WriteHeader(http.StatusOK)
		return
	}
	// Strangers neither open files nor learn which databases there are.
	p, err := f.cfg.Database.permission(r.Context(), name, bearer(r))
	if err != nil {
		f.stats.refused.Add(1)
		allowBrowsers(w.Header())
		deny(w, err, http.StatusUnauthorized)
		return
	}
	if !f.cfg.Database.inRate(w, r) {
		return
	}
	s, done, err := f.Use(name)
	if err != nil {
		f.refuse(w, name, err)
		return
	}
	defer done()
	inner := r.WithContext(context.WithValue(r.Context(), permissionKey{}, p))
	u := *r.URL
	u.Path, u.RawPath = path, ""
	inner.URL = &u
	s.ServeHTTP(w, inner)
}

// refuse answers an error of Use, Create or Delete.
func (f *Fleet) refuse(w http.ResponseWriter, name string, err error) {
	allowBrowsers(w.Header())
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrName):
		fail(w, http.StatusNotFound, fmt.Sprintf("there is no database %q", name))
	case errors.Is(err, ErrClosed):
		fail(w, http.StatusServiceUnavailable, ErrClosed.Error())
	default:
		f.cfg.Logger.Error("open database", "database", name, "error", err)
		fail(w, http.StatusInternalServerError, fmt.Sprintf("the database %q cannot be used", name))
	}
}

// Backup writes a database as it is at one moment; see [Server.Backup].
func (f *Fleet) Backup(ctx context.Context, name string, start func(bytes int64) (io.Writer, error)) error {
	s, done, err := f.Use(name)
	if err != nil {
		return fmt.Errorf("back up database %q: %w", name, err)
	}
	defer done()
	return s.Backup(ctx, start)
}
