package server

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/wire"
)

// admin answers what stands below /admin/, for the bearer of the admin token:
//
//	GET    /admin/databases                 {"databases":[{"name","bytes","open"},…]}
//	POST   /admin/databases/NAME            201, or 409 when it exists
//	DELETE /admin/databases/NAME            204
//	GET    /admin/databases/NAME/backup     the database file as it is now
//
// Errors are {"error":"…"}.
func (f *Fleet) admin(w http.ResponseWriter, r *http.Request) {
	// Hashes are compared, so that time tells neither content nor length.
	got, want := sha256.Sum256([]byte(bearer(r))), sha256.Sum256([]byte(f.cfg.AdminToken))
	if f.cfg.AdminToken == "" || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		f.stats.refused.Add(1)
		fail(w, http.StatusUnauthorized, "Unauthorized: the admin token is missing or not valid")
		return
	}
	name, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/admin/databases/"), "/")
	type endpoint struct{ method, rest string }
	switch e := (endpoint{r.Method, rest}); {
	case r.Method == http.MethodGet && r.URL.Path == "/admin/databases":
		list, err := f.List()
		if err != nil {
			f.adminError(w, err)
			return
		}
		reply(w, http.StatusOK, map[string]any{"databases": list})
	case !strings.HasPrefix(r.URL.Path, "/admin/databases/"):
		fail(w, http.StatusNotFound, "not found")
	case e == endpoint{http.MethodPost, ""}:
		if err := f.Create(name); err != nil {
			f.adminError(w, err)
			return
		}
		reply(w, http.StatusCreated, map[string]any{"name": name})
	case e == endpoint{http.MethodDelete, ""}:
		if err := f.Delete(name); err != nil {
			f.adminError(w, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	case e == endpoint{http.MethodGet, "backup"}:
		f.sendBackup(w, r, name)
	default:
		fail(w, http.StatusNotFound, "not found")
	}
}

func (f *Fleet) sendBackup(w http.ResponseWriter, r *http.Request, name string) {
	begun := false
	err := f.Backup(r.Context(), name, func(bytes int64) (io.Writer, error) {
		begun = true
		w.Header().Set("Content-Type", "application/vnd.sqlite3")
		w.Header().Set("Content-Length", strconv.FormatInt(bytes, 10))
		return &patientWriter{w, http.NewResponseController(w), f.cfg.Database.Timeout}, nil
	})
	switch {
	case err != nil && begun:
		f.cfg.Logger.Error("backup", "database", name, "error", err)
		panic(http.ErrAbortHandler) // less than the promised length: no client takes it for whole
	case err != nil:
		f.adminError(w, err)
	}
}

// patientWriter gives a client so long for each write.
type patientWriter struct {
	w    io.Writer
	ctl  *http.ResponseController
	wait time.Duration
}

func (p *patientWriter) Write(b []byte) (int, error) {
	_ = p.ctl.SetWriteDeadline(time.Now().Add(p.wait))
	return p.w.Write(b)
}

func (f *Fleet) adminError(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrName):
		status = http.StatusBadRequest
	case errors.Is(err, ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, ErrExists):
		status = http.StatusConflict
	case errors.Is(err, ErrClosed):
		status = http.StatusServiceUnavailable
	default:
		f.cfg.Logger.Error("admin", "error", err)
	}
	fail(w, status, err.Error())
}

// health answers 200 while databases can be served.
func (f *Fleet) health(w http.ResponseWriter) {
	f.mu.Lock()
	closed := f.closed
	f.mu.Unlock()
	if _, err := fault.Stat(f.cfg.Dir); err != nil || closed {
		fail(w, http.StatusServiceUnavailable, "the data folder cannot be used")
		return
	}
	reply(w, http.StatusOK, map[string]any{"status": "ok"})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", wire.JSONMedia)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
