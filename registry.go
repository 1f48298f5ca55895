package tursosync

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/replica"
)

// registry holds the replicas that are open in this process, so that all that
// open one file share one.
type registry struct {
	mu   sync.Mutex
	open map[string]*engine // guarded by mu; by resolved path
}

var engines = registry{open: map[string]*engine{}}

// engine is one open replica and its syncer. It lives from the first connection
// to a file until the last sql.DB is closed and the last connection is back.
type engine struct {
	path string // resolved
	cfg  Config // of the one who opened it; decides about the remote and syncing

	refs    int  // guarded by registry.mu
	closing bool // guarded by registry.mu
	ready   chan struct{}
	gone    chan struct{} // closed when the files are

	// Set before ready is closed, constant afterwards.
	err     error
	replica *replica.Replica
	// committed is called after each commit that added changes to the log; it must
	// not block. startSync sets it.
	committed atomic.Pointer[func()]
	// sync belongs to sync.go: what startSync left there for stopSync and for the
	// user's handle.
	sync syncState
}

// acquire opens the replica or joins the one that is open. The reference is given
// back with release.
func (r *registry) acquire(ctx context.Context, t target, cfg Config) (*engine, error) {
	path, err := resolvePath(t.path)
	if err != nil {
		return nil, err
	}
	for {
		e, wait, err := r.join(path, t, cfg)
		if err != nil {
			return nil, err
		}
		if wait != nil { // it is being closed: what it pushes and checkpoints comes first
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		select {
		case <-e.ready:
		case <-ctx.Done():
			go func() { _ = r.release(e) }() // the opening goes on; others may wait for it
			return nil, ctx.Err()
		}
		if e.err != nil {
			return nil, e.err
		}
		if err := e.cfg.agrees(cfg); err != nil {
			return nil, firstError(err, r.release(e))
		}
		return e, nil
	}
}

// join returns the engine of path with one more reference, after starting it if
// need be, or a channel to wait for.
func (r *registry) join(path string, t target, cfg Config) (*engine, <-chan struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.open[path]; e != nil {
		if e.closing {
			return nil, e.gone, nil
		}
		e.refs++
		return e, nil, nil
	}
	if err := r.otherName(path); err != nil {
		return nil, nil, err
	}
	e := &engine{path: path, cfg: cfg, refs: 1, ready: make(chan struct{}), gone: make(chan struct{})}
	r.open[path] = e
	go r.start(e, t)
	return e, nil, nil
}

// start opens the files. Its end does not depend on anybody's context: others may
// be waiting for the same engine.
func (r *registry) start(e *engine, t target) {
	e.err = e.start(context.Background(), t)
	if e.err != nil {
		r.mu.Lock()
		delete(r.open, e.path) // the next one tries again
		r.mu.Unlock()
		close(e.gone)
	}
	close(e.ready)
}

// otherName refuses a second name of a file that is open: a hard link has a WAL
// of its own, and SQLite would destroy the file. It needs r.mu.
func (r *registry) otherName(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return nil // not there, or not to be read: opening it will tell
	}
	for other := range r.open {
		if o, err := os.Stat(other); err == nil && os.SameFile(info, o) {
			return badConfig(keyPath, "%s is another name of %s, which is open: use the same name", path, other)
		}
	}
	return nil
}

// again adds a reference to an engine that the caller knows to have one; false
// if it has just been given up.
func (r *registry) again(e *engine) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.closing || r.open[e.path] != e {
		return false
	}
	e.refs++
	return true
}

// release gives a reference back. The last one stops the syncer and closes the
// files before it returns.
func (r *registry) release(e *engine) error {
	r.mu.Lock()
	e.refs--
	if e.refs > 0 || r.open[e.path] != e {
		r.mu.Unlock()
		return nil
	}
	e.closing = true
	r.mu.Unlock()

	<-e.ready
	var err error
	if e.err == nil {
		err = e.stop()
	}
	r.mu.Lock()
	if r.open[e.path] == e {
		delete(r.open, e.path)
		close(e.gone)
	}
	r.mu.Unlock()
	return err
}

func (e *engine) start(ctx context.Context, t target) error {
	if t.mustExist {
		if _, err := os.Stat(e.path); err != nil {
			return cannotOpen(err)
		}
	}
	if err := e.refuseExisting(); err != nil {
		return err
	}
	if err := linkedSQLite(); err != nil {
		return err
	}
	rep, err := replica.Open(ctx, e.replicaConfig())
	if err != nil {
		return err
	}
	e.replica = rep
	if err := startSync(e); err != nil {
		return errors.Join(fmt.Errorf("start syncing: %w", err), rep.Close(ctx))
	}
	return nil
}

func (e *engine) stop() error {
	return errors.Join(stopSync(e), e.replica.Close(context.Background()))
}

// bootstrapChunk is how many pages a request of a bootstrap asks for: what is
// fetched again at most when the connection breaks.
const bootstrapChunk = 4096

func (e *engine) replicaConfig() replica.Config {
	c := replica.Config{
		Path:            e.path,
		RemoteURL:       e.cfg.URL,
		ClientName:      e.cfg.ClientName,
		ChunkPages:      bootstrapChunk,
		HaltOnRejection: e.cfg.OnReject == RejectHalt,
		Connect:         e.cfg.ConnectHook,
		Committed: func() {
			if f := e.committed.Load(); f != nil {
				(*f)()
			}
		},
		Logger: e.cfg.Logger,
	}
	switch e.cfg.Existing {
	case ExistingUpload:
		c.Existing = replica.ExistingUpload
	case ExistingDownload:
		c.Existing = replica.ExistingDownload
	}
	return c
}

// refuseExisting keeps the setting existing=refuse: a file that holds data and is
// no replica yet stays as it is.
func (e *engine) refuseExisting() error {
	if info, err := os.Stat(e.path); e.cfg.Existing != ExistingRefuse || err != nil || info.Size() == 0 {
		return nil
	}
	conn, err := (&sqlite3.SQLiteDriver{}).Open(toURI(e.path) + "?mode=rw")
	if err != nil {
		return err
	}
	inner := plainSession{inner: conn.(*sqlite3.SQLiteConn)}
	foreign, err := inner.count(`SELECT count(*) FROM sqlite_schema WHERE name NOT GLOB 'sqlite_*'
		AND NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'turso_sync_state')`)
	switch err := firstError(err, conn.Close()); {
	case err != nil:
		return err
	case foreign > 0:
		return &ConfigError{Key: keyExisting, Why: "refuse: " + e.path + " holds data and is no replica yet", Err: replica.ErrNotReplica}
	}
	return nil
}

// cannotOpen is SQLite's own error for a file that cannot be opened.
func cannotOpen(err error) error {
	e := sqlite3.Error{Code: sqlite3.ErrCantOpen, ExtendedCode: sqlite3.ErrNoExtended(sqlite3.ErrCantOpen)}
	errors.As(err, &e.SystemErrno)
	return e
}

// resolvePath follows symbolic links, as SQLite does, so that one file has one
// entry. The file need not exist.
func resolvePath(path string) (string, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real, nil
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", cannotOpen(err)
	}
	return filepath.Join(dir, filepath.Base(path)), nil
}

// agrees refuses settings that contradict those of whoever opened the replica
// first. What is left out agrees with everything; functions cannot be compared.
func (c Config) agrees(second Config) error {
	for _, k := range ownKeys {
		if got := k.get(&second); got != "" && got != k.get(&c) {
			return badConfig(k.name, "differs from that of the sql.DB that has opened %s in this process", second.Path)
		}
	}
	if second.Transform != nil && c.Transform == nil {
		return badConfig("Transform", "is given, but %s is already open in this process without", second.Path)
	}
	return nil
}
