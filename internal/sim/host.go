package sim

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"github.com/tursosync/tursosync/internal/wire"
	"github.com/tursosync/tursosync/server"
)

// host is the remote: the real server on real files, and what the model says that
// is in it.
type host struct {
	dir    string
	srv    *server.Server
	plain  *sql.DB // reads its file as any other program
	model  state
	tapped int64 // rowid of the last token seen in journal
	// sums holds the version of every state that the remote was in.
	sums    map[uint64]int
	version int
	dead    bool // its process is: what it still does does not count
}

// backup is a copy of the remote at some time.
type backup struct {
	dir     string
	model   state
	tapped  int64
	version int
	tokens  map[string]bool
}

const remoteName = "remote.db"

func (w *world) handler() http.Handler {
	if w.host.srv == nil || w.host.dead {
		return nil
	}
	return w.host.srv
}

func (w *world) startServer(dir string) error {
	if w.serverPower {
		// What is found on disk at a start is there for good.
		if w.host.dir != "" && w.host.dir != dir {
			w.disk.drop(w.host.dir)
		}
		if err := w.disk.adopt(dir); err != nil {
			return err
		}
	}
	srv, err := server.Open(server.Config{File: filepath.Join(dir, remoteName), NoSync: !w.serverPower, CheckpointBytes: w.serverCheckpoint})
	if err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	plain, err := sql.Open("sqlite3", "file:"+filepath.Join(dir, remoteName)+"?mode=ro&_busy_timeout=5000")
	if err != nil {
		return err
	}
	plain.SetMaxOpenConns(1)
	plain.SetMaxIdleConns(1)
	w.host.dir, w.host.srv, w.host.plain = dir, srv, plain
	return nil
}

func (w *world) stopServer() error {
	if w.host.srv == nil {
		return nil
	}
	if err := w.host.plain.Close(); err != nil {
		return err
	}
	err := w.host.srv.Close()
	w.host.srv = nil
	if err != nil {
		return fmt.Errorf("stop server: %w", err)
	}
	return nil
}

func (w *world) restartServer() error {
	if err := w.stopServer(); err != nil {
		return err
	}
	return w.startServer(w.host.dir)
}

// serverFiles makes a folder with what a server finds that died at this moment, alone or
// with its machine.
func (w *world) serverFiles(power bool, rnd *rand.Rand) (dir string, err error) {
	if dir, err = w.newDir("server"); err != nil {
		return "", err
	}
	if power && w.serverPower {
		return dir, w.disk.powerLoss(dir, w.host.dir, rnd)
	}
	return dir, copyFiles(dir, w.host.dir)
}

// killServer goes on from the files as they are at this moment, or as they are when
// the power is back. All pushes that the model knows of were answered, or are on disk
// all the same.
func (w *world) killServer(power bool, rnd *rand.Rand) error {
	dir, err := w.serverFiles(power, rnd)
	if err != nil {
		return err
	}
	if err := w.stopServer(); err != nil {
		return err
	}
	if err := w.startServer(dir); err != nil {
		return err
	}
	return w.tap()
}

// backUpServer keeps a copy of the server's files.
func (w *world) backUpServer() error {
	dir, err := w.newDir("backup")
	if err != nil {
		return err
	}
	if err := w.stopServer(); err != nil {
		return err
	}
	if err := copyFiles(dir, w.host.dir); err != nil {
		return err
	}
	b := &backup{dir: dir, model: w.host.model.clone(), tapped: w.host.tapped, version: w.host.version, tokens: map[string]bool{}}
	for t := range w.onRemote {
		b.tokens[t] = true
	}
	w.backups = append(w.backups, b)
	return w.startServer(w.host.dir)
}

// restoreServer puts a backup in place of the database. Without its history the
// server does not know of any revision.
func (w *world) restoreServer(b *backup, history bool) error {
	if err := w.stopServer(); err != nil {
		return err
	}
	dir, err := w.newDir("server")
	if err != nil {
		return err
	}
	if err := copyFiles(dir, b.dir); err != nil {
		return err
	}
	if !history {
		if err := os.RemoveAll(filepath.Join(dir, remoteName+"-history")); err != nil {
			return err
		}
	}
	for _, r := range w.replicas {
		r.noteUnseen(w.onRemote)
	}
	w.host.model, w.host.tapped = b.model.clone(), b.tapped
	w.onRemote = map[string]bool{}
	for t := range b.tokens {
		w.onRemote[t] = true
	}
	w.host.version++
	w.host.sums[w.host.model.sum()] = w.host.version
	w.restored()
	return w.startServer(dir)
}

// openStale starts an older server on a copy of a backup, which answers pulls only.
func (w *world) openStale(b *backup) error {
	if err := w.closeStale(); err != nil {
		return err
	}
	dir, err := w.newDir("stale")
	if err != nil {
		return err
	}
	if err := copyFiles(dir, b.dir); err != nil {
		return err
	}
	w.stale, err = server.Open(server.Config{File: filepath.Join(dir, remoteName), NoSync: true})
	return err
}

func (w *world) closeStale() error {
	if w.stale == nil {
		return nil
	}
	err := w.stale.Close()
	w.stale = nil
	return err
}

// tap looks which transactions the last request has brought to the remote, and
// lets the model do the same.
func (w *world) tap() error {
	h := &w.host
	if h.srv == nil || h.dead {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	rows, err := h.plain.Query(`SELECT rowid, token FROM journal WHERE rowid > ? ORDER BY rowid`, h.tapped)
	if err != nil {
		if !w.ready {
			return nil // no such table yet
		}
		return fmt.Errorf("look at the remote: %w", err)
	}
	defer rows.Close()
	var txns []*txn
	for rows.Next() {
		var token string
		if err := rows.Scan(&h.tapped, &token); err != nil {
			return err
		}
		t := w.txns[token]
		if t == nil {
			return &violation{fmt.Sprintf("remote has token %s, which nobody wrote", token)}
		}
		if w.onRemote[token] {
			return &violation{fmt.Sprintf("remote got %s a second time", token)}
		}
		w.onRemote[token] = true
		txns = append(txns, t)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	// What comes in one request comes at once; its transactions take effect in the
	// order in which they were committed.
	slices.SortFunc(txns, func(a, b *txn) int { return a.serial - b.serial })
	if len(txns) > 0 {
		var err error
		h.model.applyAll(txns, func(table, key string) row {
			now := state{}
			if err == nil {
				err = now.read(h.plain, table)
			}
			return now.get(table, key)
		})
		if err != nil {
			return err
		}
	}
	if len(txns) > 0 {
		h.version++
		h.sums[h.model.sum()] = h.version
		w.stats.pushed += len(txns)
	}
	return nil
}

// query runs statements on the server in one transaction, past the network.
func (w *world) query(texts ...string) error {
	if w.host.srv == nil {
		return w.queryFile(texts)
	}
	b := []byte(`{"baton":null,"requests":[{"type":"batch","batch":{"steps":[`)
	texts = append(append([]string{"BEGIN IMMEDIATE"}, texts...), "COMMIT")
	for i, text := range texts {
		var err error
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = wire.AppendStep(b, i-1, text, nil, false); err != nil {
			return err
		}
	}
	b = append(b, `]}}]}`...)
	in := &incoming{w: w, method: http.MethodPost, url: "http://sim.test" + wire.PipelinePath, header: http.Header{}, body: b, whole: true}
	resp, err := in.stream(nil, w.handler())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var p wire.PipelineResponse
	if err := json.Unmarshal(text, &p); err != nil || len(p.Results) != 1 || p.Results[0].Response == nil {
		return fmt.Errorf("remote answers %d %s", resp.StatusCode, text)
	}
	var res wire.BatchResult
	if err := json.Unmarshal(p.Results[0].Response.Result, &res); err != nil {
		return err
	}
	for _, e := range res.StepErrors {
		if e != nil {
			return fmt.Errorf("remote: %s", e.Message)
		}
	}
	return nil
}

// queryFile runs statements in one transaction on the file of a server that is stopped.
func (w *world) queryFile(texts []string) error {
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(w.host.dir, remoteName)+"?mode=rw&_busy_timeout=1000")
	if err != nil {
		return err
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, text := range texts {
		if _, err := tx.Exec(text); err != nil {
			return fmt.Errorf("remote: %w", err)
		}
	}
	return tx.Commit()
}
