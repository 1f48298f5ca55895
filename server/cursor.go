package server

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/tursosync/tursosync/internal/wire"
)

// cursorRequest is the body of POST /v3/cursor.
type cursorRequest struct {
	Baton *string     `json:"baton"`
	Batch *wire.Batch `json:"batch"`
}

// cursorHead is the first line of the answer; the others are entries.
type cursorHead struct {
	Baton   *string `json:"baton"`
	BaseURL *string `json:"base_url"`
}

type stepBegin struct {
	Type string     `json:"type"` // step_begin
	Step int        `json:"step"`
	Cols []wire.Col `json:"cols"`
}

type stepRow struct {
	Type string       `json:"type"` // row
	Row  []wire.Value `json:"row"`
}

type stepEnd struct {
	Type             string      `json:"type"` // step_end
	AffectedRowCount uint64      `json:"affected_row_count"`
	LastInsertRowID  *wire.RowID `json:"last_insert_rowid"`
}

type stepError struct {
	Type  string      `json:"type"` // step_error, or error for the whole
	Step  *int        `json:"step,omitempty"`
	Error *wire.Error `json:"error"`
}

// cursor answers POST /v3/cursor: a batch whose rows are sent while they come, so
// that they need no memory. A line of JSON each. The baton, in the first line, is
// good as soon as the answer has ended.
func (s *Server) cursor(w http.ResponseWriter, r *http.Request, permission Permission) {
	body, ok := s.body(w, r, s.cfg.BodyMax)
	if !ok {
		return
	}
	var req cursorRequest
	if err := json.Unmarshal(body, &req); err != nil || req.Batch == nil {
		fail(w, http.StatusBadRequest, "the request is not that of a cursor")
		return
	}
	ctx, st, done, ok := s.begin(w, r, req.Baton, permission)
	if !ok {
		return
	}
	defer done()
	s.cfg.stats.cursors.Add(1)
	deadline, _ := ctx.Deadline()
	ctl := http.NewResponseController(w)
	_ = ctl.SetWriteDeadline(deadline)

	w.Header().Set("Content-Type", "application/x-ndjson")
	out := bufio.NewWriterSize(w, 32<<10)
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	baton := rand.Text()
	x := session{ctx: ctx, stream: st, conn: st.conn, stats: s.cfg.stats, left: 1 << 62}
	stop := interruptible(ctx, st.conn)
	err := lines.Encode(cursorHead{Baton: &baton})
	if err == nil {
		err = x.stepwise(req.Batch, lines)
	}
	stop()
	if err == nil && ctx.Err() != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			s.cfg.stats.timeouts.Add(1)
		}
		err = ctx.Err()
	}
	if err != nil {
		st.close() // what was sent so far does not end as an answer does
		panic(http.ErrAbortHandler)
	}
	if !st.resumed && wholeTransaction([]wire.StreamRequest{{Batch: req.Batch}}) && !st.conn.db.Info().Autocommit {
		st.close()
	} else {
		s.park(st, baton)
	}
	if err := out.Flush(); err == nil && ctl.Flush() == nil {
		_ = ctl.SetWriteDeadline(time.Time{})
	}
}

// stepwise is batch for a cursor. An error is one of sending.
func (x *session) stepwise(b *wire.Batch, out *json.Encoder) error {
	did, failed := make([]bool, len(b.Steps)), make([]bool, len(b.Steps))
	is := func(list []bool) func(uint32) bool {
		return func(i uint32) bool { return int64(i) < int64(len(list)) && list[i] }
	}
	autocommit := func() bool { return x.conn.db.Info().Autocommit }
	for i := range b.Steps {
		s := &b.Steps[i]
		if x.ctx.Err() != nil {
			return nil
		}
		if s.Condition != nil && !s.Condition.Holds(is(did), is(failed), autocommit) {
			continue
		}
		done, fault, err := x.step(&s.Stmt,
			func(cols []wire.Col) error { return out.Encode(stepBegin{"step_begin", i, cols}) },
			func(row []wire.Value) error { return out.Encode(stepRow{"row", row}) })
		if err == nil && fault != nil {
			failed[i] = true
			err = out.Encode(stepError{"step_error", &i, fault})
		} else if err == nil {
			did[i] = true
			err = out.Encode(stepEnd{"step_end", done.AffectedRowCount, done.LastInsertRowID})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
