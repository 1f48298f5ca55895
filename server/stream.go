package server

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tursosync/tursosync/internal/wire"
)

// stream is what lasts from one request to the next that presents its baton: a
// connection with its transaction, and SQL that was stored.
type stream struct {
	conn    *conn
	sql     map[int32]string
	rowID   int64 // of the connection before, when conn is not there
	resumed bool  // it came with a baton
	dirty   bool  // its connection has settings or temporary objects
	// permission is that of the request under way.
	permission Permission
	// readOnly tells that the transaction is one of BEGIN TRANSACTION READONLY.
	readOnly bool
	since    time.Time // when a request first left its transaction open; else zero
	timer    *time.Timer
}

func (st *stream) close() {
	if st.conn != nil {
		_ = st.conn.close() // rolls back what is open
	}
}

// streams are those that wait for their next request. A baton is good for one
// request, so that a stream has one user at a time.
type streams struct {
	mu     sync.Mutex // guards what follows
	closed bool
	parked map[string]*stream
}

// errBaton tells that a baton is of no stream that is there.
var errBaton = errors.New("the stream is not known: it has ended, or was idle for too long and was rolled back")

// bareBaton begins batons of streams that have nothing to keep but the last
// rowid, which follows. The server remembers nothing for them.
const bareBaton = "bare."

// attach returns a new stream, or the one that a baton stands for, ready for
// statements of so much permission.
func (s *Server) attach(baton *string, permission Permission) (*stream, error) {
	st := &stream{}
	if baton != nil {
		if id, ok := strings.CutPrefix(*baton, bareBaton); ok {
			rowID, err := strconv.ParseInt(id, 10, 64)
			if err != nil {
				return nil, errBaton
			}
			st.rowID = rowID
		} else if st = s.parked.take(*baton); st == nil {
			return nil, errBaton
		}
		st.resumed = true
	}
	pooled := false
	if st.conn == nil && permission == Permission(ReadWrite) {
		st.conn = s.pool.get()
		pooled = st.conn != nil
	}
	if pooled {
		st.conn.db.SetLastInsertRowID(st.rowID)
	} else if st.conn == nil {
		var err error
		if st.conn, err = openConn(s.cfg); err != nil {
			return nil, err
		}
		st.conn.turn, st.conn.clients = s.turn, s.clients
		st.conn.limit(s.cfg)
		st.conn.db.SetLastInsertRowID(st.rowID)
	} else if err := st.conn.unrestrict(); err != nil {
		st.close()
		return nil, err
	}
	if st.sql == nil {
		st.sql = map[int32]string{}
	}
	st.permission = permission
	if pooled {
		return st, nil // it has that permission
	}
	err := st.conn.restrict(permission)
	if err == nil && st.readOnly {
		err = st.queryOnly(true)
	}
	if err != nil {
		st.close()
		return nil, err
	}
	return st, nil
}

// take removes a stream from those that wait.
func (p *streams) take(baton string) *stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.parked[baton]
	if st != nil {
		delete(p.parked, baton)
		st.timer.Stop()
	}
	return st
}

// park lets a stream wait for its next request and returns its baton; nil when the
// stream has ended instead. With a baton given, that is the one.
func (s *Server) park(st *stream, baton string) *string {
	err := st.conn.settle()
	if err == nil {
		err = st.conn.wake()
	}
	if err != nil {
		s.cfg.Logger.Error("park stream", "error", err)
		st.close()
		return nil
	}
	info := st.conn.db.Info()
	st.rowID = info.LastInsertRowID
	if info.Autocommit {
		st.since = time.Time{}
		if !st.dirty && !st.resumed {
			// Most who begin a stream and do not close it, replicas among them, never
			// come back. They shall not cost a connection.
			s.release(st)
			if len(st.sql) == 0 && baton == "" {
				b := bareBaton + strconv.FormatInt(st.rowID, 10)
				return &b
			}
		}
	} else if st.since.IsZero() {
		st.since = time.Now()
	}
	wait := s.cfg.StreamIdle
	if !st.since.IsZero() {
		wait = min(wait, s.cfg.TransactionMax-time.Since(st.since))
	}
	if baton == "" {
		baton = rand.Text()
	}
	p := &s.parked
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || wait <= 0 || len(p.parked) >= s.cfg.StreamsMax {
		if !p.closed {
			s.cfg.stats.limited.Add(1)
		}
		st.close()
		return nil
	}
	st.timer = time.AfterFunc(wait, func() {
		if st := p.take(baton); st != nil {
			st.close()
		}
	})
	p.parked[baton] = st
	return &baton
}

// close ends all streams that wait, and those that want to.
func (p *streams) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for baton, st := range p.parked {
		st.timer.Stop()
		st.close()
		delete(p.parked, baton)
	}
}

// streams returns how many connections of streams are open.
func (s *Server) streams() (n int) {
	s.parked.mu.Lock()
	defer s.parked.mu.Unlock()
	for _, st := range s.parked.parked {
		if st.conn != nil {
			n++
		}
	}
	return n
}

// closes tells whether the requests end their stream.
func closes(requests []wire.StreamRequest) bool {
	for i := range requests {
		if requests[i].Type == wire.TypeClose {
			return true
		}
	}
	return false
}

// wholeTransaction tells whether the requests are a batch that ends its own
// transaction, as every push of the official client is. When its COMMIT fails, the
// transaction stays open, and that client neither knows nor presents the baton: it
// is rolled back at once, lest it locks others out until it expires.
func wholeTransaction(requests []wire.StreamRequest) bool {
	if len(requests) == 0 {
		return false
	}
	b := requests[len(requests)-1].Batch
	if b == nil || len(b.Steps) == 0 {
		return false
	}
	sql := b.Steps[len(b.Steps)-1].Stmt.SQL
	if sql == nil {
		return false
	}
	for _, word := range []string{"COMMIT", "END", "ROLLBACK"} {
		if text := strings.TrimSpace(*sql); len(text) >= len(word) && strings.EqualFold(text[:len(word)], word) {
			return true
		}
	}
	return false
}

// settles tells whether a text may leave something on the connection: a setting,
// or a temporary object. Saying so wrongly costs a connection for a while.
func settles(sql string) bool {
	sql = strings.ToLower(sql)
	return strings.Contains(sql, "pragma") || strings.Contains(sql, "temp")
}

// readOnlyBegin is what libsql's clients begin a transaction with that must not
// write. SQLite takes the last word for a name, and means nothing by it.
var readOnlyBegin = regexp.MustCompile(`(?i)^\s*BEGIN\s+TRANSACTION\s+READONLY\s*;?\s*$`)

// follow keeps a read-only transaction from writing, after a statement of such a
// text.
func (st *stream) follow(sql string) error {
	open := !st.conn.db.Info().Autocommit
	switch {
	case st.readOnly && !open:
		return st.queryOnly(false)
	case open && readOnlyBegin.MatchString(sql):
		return st.queryOnly(true)
	}
	return nil
}

func (st *stream) queryOnly(on bool) error {
	if err := st.conn.unrestrict(); err != nil {
		return err
	}
	st.readOnly = on
	if on {
		if err := st.conn.exec("PRAGMA query_only=1"); err != nil {
			return err
		}
	}
	return st.conn.restrict(st.permission)
}

// failStream answers an error of attach.
func (s *Server) failStream(w http.ResponseWriter, err error) {
	if errors.Is(err, errBaton) {
		w.Header().Set("Content-Type", wire.JSONMedia)
		w.WriteHeader(http.StatusBadRequest)
		text := jsonString(err.Error())
		_, _ = w.Write([]byte(`{"error":` + text + `,"message":` + text + `,"code":"STREAM_EXPIRED"}`))
		return
	}
	s.cfg.Logger.Error("open stream", "error", err)
	fail(w, http.StatusInternalServerError, "the database cannot be used")
}

// admit gives a request for SQL its time, and a place among those that run; a new
// stream may have to wait for one. It answers those that get none.
func (s *Server) admit(w http.ResponseWriter, r *http.Request, baton *string) (ctx context.Context, done func(), ok bool) {
	ctx, cancel := context.WithTimeout(r.Context(), s.cfg.Timeout)
	free := func() {}
	if baton == nil { // the others may hold the lock that those that run wait for
		select {
		case s.running <- struct{}{}:
			free = func() { <-s.running }
		case <-ctx.Done():
			cancel()
			s.cfg.stats.limited.Add(1)
			fail(w, http.StatusServiceUnavailable, "the database is busy: nothing was executed")
			return nil, nil, false
		}
	}
	leave, taken := now(&s.cfg.stats.pipelinesNow), taking(&s.cfg.stats.pipelineNanos)
	return ctx, func() {
		taken()
		leave()
		free()
		cancel()
	}, true
}

// begin admits a request for SQL and finds its stream. It answers those that get none;
// for the others done is to be called at the end.
func (s *Server) begin(w http.ResponseWriter, r *http.Request, baton *string, permission Permission) (ctx context.Context, st *stream, done func(), ok bool) {
	ctx, leave, ok := s.admit(w, r, baton)
	if !ok {
		return nil, nil, nil, false
	}
	st, err := s.attach(baton, permission)
	if err != nil {
		s.failStream(w, err)
		leave()
		return nil, nil, nil, false
	}
	ended := now(&s.cfg.stats.streamsNow)
	return ctx, st, func() {
		ended()
		s.afterCommit()
		leave()
	}, true
}
