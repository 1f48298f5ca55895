package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/tursosync/tursosync/internal/wire"
)

// pipeline answers POST /v2/pipeline and /v3/pipeline.
func (s *Server) pipeline(w http.ResponseWriter, r *http.Request, permission Permission) {
	body, ok := s.body(w, r, s.cfg.BodyMax)
	if !ok {
		return
	}
	req, err := wire.ParsePipeline(body)
	if err != nil {
		fail(w, http.StatusBadRequest, "the request is not that of a pipeline: "+err.Error())
		return
	}
	ctx, st, done, ok := s.begin(w, r, req.Baton, permission)
	if !ok {
		return
	}
	defer done()
	s.cfg.stats.pipelines.Add(1)
	results, err := s.run(ctx, st, req.Requests)
	var baton *string
	switch {
	case err == nil && closes(req.Requests):
		s.release(st)
	case err != nil, !st.resumed && wholeTransaction(req.Requests) && !st.conn.db.Info().Autocommit:
		st.close()
	default:
		baton = s.park(st, "")
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		s.cfg.stats.timeouts.Add(1)
		fail(w, http.StatusServiceUnavailable, "the request took too long and was rolled back")
		return
	case err != nil:
		panic(http.ErrAbortHandler) // the client has gone
	}
	b, err := (&wire.PipelineResponse{Baton: baton, Results: results}).Append(nil)
	if err != nil {
		s.cfg.Logger.Error("pipeline", "error", err)
		fail(w, http.StatusInternalServerError, "the answer cannot be written")
		return
	}
	w.Header().Set("Content-Type", wire.JSONMedia)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	ctl := http.NewResponseController(w)
	_ = ctl.SetWriteDeadline(time.Now().Add(s.cfg.Timeout))
	if _, err := w.Write(b); err == nil && ctl.Flush() == nil {
		_ = ctl.SetWriteDeadline(time.Time{}) // else it stays: net/http flushes once more
	}
}

// run executes requests on a stream. An error is that of the context.
func (s *Server) run(ctx context.Context, st *stream, requests []wire.StreamRequest) ([]wire.StreamResult, error) {
	x := session{ctx: ctx, stream: st, conn: st.conn, stats: s.cfg.stats, left: s.cfg.AnswerMax}
	stop := interruptible(ctx, st.conn)
	defer stop()
	results := make([]wire.StreamResult, 0, len(requests))
	for i := range requests {
		results = append(results, x.do(&requests[i]))
		// An interrupted statement must not be followed by others, which might
		// commit without it.
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// interruptible ends what runs on c when ctx does, until stop is called.
func interruptible(ctx context.Context, c *conn) (stop func()) {
	var mu sync.Mutex
	ended := false
	after := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		if !ended {
			c.db.InterruptNow()
		}
	})
	return func() {
		after()
		mu.Lock()
		defer mu.Unlock()
		ended = true
	}
}

// jsonString encodes s as JSON.
func jsonString(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Sprintf("%q", "error")
	}
	return string(b)
}
