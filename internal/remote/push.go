package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/wire"
	"github.com/tursosync/tursosync/syncer"
)

// A push is one batch, every step of it on condition that the one before
// succeeded, so that all of it happens or nothing:
//
//	BEGIN IMMEDIATE
//	create the watermark's table if it is missing
//	fence: fail unless the watermark is the expected one
//	probes …
//	mutations …       (see replay.go for those that drop and create triggers)
//	set the watermark
//	COMMIT
//	ROLLBACK            if the BEGIN was ours and a transaction is still open
//
// tursodb has one connection for all its clients. When our BEGIN fails because
// somebody's transaction is open there, the ROLLBACK must not end theirs.
const (
	sqlBegin       = "BEGIN IMMEDIATE"
	sqlCreateTable = "CREATE TABLE IF NOT EXISTS turso_sync_last_change_id" +
		" (client_id TEXT PRIMARY KEY, pull_gen INTEGER, change_id INTEGER)"
	// sqlFence inserts one key twice, which cannot succeed, when the watermark is
	// not ?2 (NULL: there must be no row), and nothing otherwise.
	sqlFence = "INSERT INTO turso_sync_last_change_id(client_id, pull_gen, change_id)" +
		" SELECT ?1, 0, 0 FROM (SELECT 1 UNION ALL SELECT 1)" +
		" WHERE (SELECT change_id FROM turso_sync_last_change_id WHERE client_id = ?1) IS NOT ?2"
	sqlSetWatermark = "INSERT INTO turso_sync_last_change_id(client_id, pull_gen, change_id) VALUES (?, 0, ?)" +
		" ON CONFLICT(client_id) DO UPDATE SET pull_gen=excluded.pull_gen, change_id=excluded.change_id"
	sqlReadWatermark = "SELECT change_id FROM turso_sync_last_change_id WHERE client_id = ?"
	sqlReadSchema    = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid"
)

// Steps in front of the probes.
const (
	stepBegin = iota
	stepTable
	stepFence
	stepsAhead
)

const (
	batchHead = `{"baton":null,"requests":[{"type":"batch","batch":{"steps":[`
	batchTail = `]}}]}`
)

// Push sends one batch as one remote transaction: all of it happens or nothing.
// Whether it happened is known unless the error's Outcome is Unknown. The error
// is [ErrWatermarkMoved] if the remote's watermark is not the expected one.
func (r *Remote) Push(ctx context.Context, batch syncer.Batch) (syncer.PushResult, error) {
	body, err := pushBody(batch)
	if err != nil {
		return syncer.PushResult{}, err
	}
	res, err := r.batch(ctx, "push", body)
	if err != nil {
		return syncer.PushResult{}, err
	}
	return judgePush(batch, res)
}

// pushBody encodes a batch, or says which mutation cannot be encoded.
func pushBody(batch syncer.Batch) ([]byte, error) {
	b := append(make([]byte, 0, 4096+256*len(batch.Mutations)), batchHead...)
	var c chain
	add := func(role role, sql string, args []any, rows bool) (err error) {
		if c.steps > 0 {
			b = append(b, ',')
		}
		var grown []byte
		if cond := c.next(role); cond != nil {
			grown, err = wire.AppendStepIf(b, *cond, sql, args...)
		} else {
			grown, err = wire.AppendStep(b, c.steps-2, sql, args, rows)
		}
		if err == nil {
			b = grown
		}
		return err
	}
	impossible := func(err error) *Error {
		return &Error{Op: "push", Kind: Disagreement, Outcome: NeverSent, Mutation: -1, Err: err}
	}
	if err := errors.Join(
		add(plain, sqlBegin, nil, false),
		add(plain, sqlCreateTable, nil, false),
		add(plain, sqlFence, []any{batch.ClientID, expected(batch)}, false),
	); err != nil {
		return nil, impossible(err)
	}
	for i, m := range batch.Probes {
		m = exactFloats(m)
		if err := add(plain, m.SQL, m.Args, true); err != nil {
			return nil, impossible(fmt.Errorf("encode probe %d: %w", i, err))
		}
	}
	for _, s := range plan(batch.Mutations) {
		if s.role == ask || s.role == granted {
			names, err := json.Marshal(s.names)
			if err == nil {
				err = add(s.role, wire.ReplaySQL, []any{string(names)}, false)
			}
			if err != nil {
				return nil, impossible(err)
			}
			continue
		}
		m := exactFloats(batch.Mutations[s.mutation])
		if err := add(s.role, m.SQL, m.Args, false); err != nil {
			// It could never be sent, so it is refused before anybody sees it.
			return nil, &Error{Op: "push", Kind: Refused, Outcome: NeverSent, Mutation: s.mutation, Change: m.Change,
				SQL: m.SQL, Message: "encode mutation", Err: err}
		}
	}
	if err := errors.Join(
		add(plain, sqlSetWatermark, []any{batch.ClientID, int64(batch.Last)}, false),
		add(plain, "COMMIT", nil, false),
	); err != nil {
		return nil, impossible(err)
	}
	b = append(b, ',')
	b, err := wire.AppendStepIf(b, both(wire.OK(stepBegin), inTransaction), "ROLLBACK")
	if err != nil {
		return nil, impossible(err)
	}
	return append(b, batchTail...), nil
}

// expected is the fence's argument.
func expected(batch syncer.Batch) any {
	if batch.ExpectFound {
		return int64(batch.Expect)
	}
	return nil
}

// judgePush reads what became of the steps of a push.
func judgePush(batch syncer.Batch, res *wire.BatchResult) (syncer.PushResult, error) {
	steps := plan(batch.Mutations)
	firstMutation := stepsAhead + len(batch.Probes)
	stepWatermark := firstMutation + len(steps)
	stepCommit := stepWatermark + 1
	if got, want := len(res.StepResults), stepCommit+2; got != want || len(res.StepErrors) != want {
		return syncer.PushResult{}, strange("push", "%d results and %d errors for %d steps", got, len(res.StepErrors), want)
	}
	asked := -1 // the last step that asked for silence
	for i, e := range res.StepErrors[:stepCommit+1] {
		s := step{role: plain, mutation: -1}
		if i >= firstMutation && i < stepWatermark {
			s = steps[i-firstMutation]
		}
		done := res.StepResults[i] != nil
		silent := asked >= 0 && res.StepResults[asked] != nil
		switch {
		case s.role == ask && done != (e != nil):
			asked = i // an error is an answer too
		case s.role == refused && silent || s.role == granted && !silent:
			if done || e != nil {
				return syncer.PushResult{}, strange("push", "step %d of %d was executed against its condition", i, stepCommit)
			}
		case e != nil:
			err := stepError(batch, i, s.mutation, e)
			if s.role == refused {
				err.alsoAsked(res.StepErrors[asked])
			}
			return syncer.PushResult{}, err
		case !done:
			return syncer.PushResult{}, strange("push", "step %d of %d was skipped, though none before it failed", i, stepCommit)
		}
	}
	if res.StepResults[stepCommit+1] != nil || res.StepErrors[stepCommit+1] != nil {
		return syncer.PushResult{}, strange("push", "COMMIT succeeded but left the transaction open")
	}
	out := syncer.PushResult{Probes: make([]syncer.ProbeRows, len(batch.Probes))}
	for i := range out.Probes {
		out.Probes[i] = probeRows(res.StepResults[stepsAhead+i])
	}
	return out, nil
}

func probeRows(r *wire.StmtResult) syncer.ProbeRows {
	p := syncer.ProbeRows{Columns: make([]string, len(r.Cols)), Rows: make([][]any, len(r.Rows))}
	for i, c := range r.Cols {
		p.Columns[i] = c.Name
	}
	for i, row := range r.Rows {
		p.Rows[i] = make([]any, len(row))
		for j, v := range row {
			p.Rows[i][j] = v.V
		}
	}
	return p
}

// stepError makes an error of the first step that failed; mutation is the one that
// it stands for, or -1. The conditions see to it that nothing was committed then.
func stepError(batch syncer.Batch, i, mutation int, e *wire.Error) *Error {
	out := &Error{Op: "push", Outcome: Answered, Status: 200, Message: clean(e.Message, ""), Code: clean(e.Code, ""), Mutation: -1,
		Kind: sqlKind(e.Message, e.Code)}
	if e.ExtendedCode != "" {
		out.Code = clean(e.ExtendedCode, "")
	}
	switch {
	case i == stepBegin:
		out.SQL = sqlBegin
		// Whatever keeps a transaction from beginning lies not in the batch.
		if out.Kind != Auth && out.Kind != Denied {
			out.Kind = Retry
		}
	case i == stepTable:
		out.SQL = sqlCreateTable
	case i == stepFence:
		out.SQL = sqlFence
		if out.Kind == Refused {
			out.Kind = Moved
		}
	case i < stepsAhead+len(batch.Probes):
		out.SQL = batch.Probes[i-stepsAhead].SQL
	case mutation >= 0:
		m := batch.Mutations[mutation]
		out.Mutation, out.Change, out.SQL = mutation, m.Change, m.SQL
	case i < stepsAhead+len(batch.Probes)+len(plan(batch.Mutations)):
		out.SQL = wire.ReplaySQL
	case i == stepsAhead+len(batch.Probes)+len(plan(batch.Mutations)):
		out.SQL = sqlSetWatermark
	default:
		// COMMIT: a deferred constraint of one of the mutations, nobody says which.
		out.SQL = "COMMIT"
	}
	return out
}

// Watermark reads the highest change id that the remote holds for the client.
func (r *Remote) Watermark(ctx context.Context, clientID string) (id cdc.ID, found bool, err error) {
	res, err := r.query(ctx, "watermark", sqlReadWatermark, []any{clientID})
	switch e := (*Error)(nil); {
	case errors.As(err, &e) && noSuchTable(e):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	case len(res.Rows) == 0:
		return 0, false, nil
	}
	n, ok := int64(0), len(res.Rows) == 1 && len(res.Rows[0]) == 1
	if ok {
		n, ok = res.Rows[0][0].V.(int64)
	}
	if !ok || n < 0 {
		e := strange("watermark", "the row in turso_sync_last_change_id is not a watermark")
		e.Kind = Disagreement
		return 0, false, e
	}
	return cdc.ID(n), true, nil
}

// noSuchTable tells whether the remote has no table for watermarks yet.
func noSuchTable(e *Error) bool {
	return e.Kind == Disagreement && strings.Contains(strings.ToLower(e.Message), "no such table")
}

// Schema lists the remote's schema objects as sqlite_schema has them.
func (r *Remote) Schema(ctx context.Context) ([]syncer.SchemaObject, error) {
	res, err := r.query(ctx, "schema", sqlReadSchema, nil)
	if err != nil {
		return nil, err
	}
	out := make([]syncer.SchemaObject, len(res.Rows))
	for i, row := range res.Rows {
		if len(row) != 4 {
			return nil, strange("schema", "a row of %d columns", len(row))
		}
		o := &out[i]
		for j, dst := range []*string{&o.Kind, &o.Name, &o.Table, &o.SQL} {
			s, ok := row[j].V.(string)
			if !ok && row[j].V != nil { // sql is NULL for automatic indexes
				return nil, strange("schema", "a value of type %T", row[j].V)
			}
			*dst = s
		}
	}
	return out, nil
}

// query runs one statement outside of any transaction.
func (r *Remote) query(ctx context.Context, op, sql string, args []any) (*wire.StmtResult, error) {
	b, err := wire.AppendStep([]byte(batchHead), -1, sql, args, true)
	if err != nil {
		return nil, &Error{Op: op, Kind: Disagreement, Outcome: NeverSent, Mutation: -1, SQL: sql, Err: err}
	}
	res, err := r.batch(ctx, op, append(b, batchTail...))
	if err != nil {
		return nil, err
	}
	if len(res.StepResults) != 1 || len(res.StepErrors) != 1 {
		return nil, strange(op, "%d results for one step", len(res.StepResults))
	}
	if e := res.StepErrors[0]; e != nil {
		return nil, &Error{Op: op, Kind: sqlKind(e.Message, e.Code), Outcome: Answered, Status: 200,
			Message: clean(e.Message, ""), Code: clean(e.Code, ""), SQL: sql, Mutation: -1}
	}
	if res.StepResults[0] == nil {
		return nil, strange(op, "the step was skipped")
	}
	return res.StepResults[0], nil
}

// batch sends a pipeline of one batch.
func (r *Remote) batch(ctx context.Context, op string, body []byte) (*wire.BatchResult, error) {
	a, err := r.do(ctx, call{op: op, path: wire.PipelinePath, media: wire.JSONMedia, body: body})
	if err != nil {
		return nil, err
	}
	defer a.close()
	b, err := io.ReadAll(io.LimitReader(a, r.cfg.AnswerMax+1))
	if err != nil {
		return nil, a.fault(fmt.Errorf("read answer: %w", err))
	}
	if int64(len(b)) > r.cfg.AnswerMax {
		return nil, strange(op, "the answer is longer than %d bytes", r.cfg.AnswerMax)
	}
	var p wire.PipelineResponse
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, strange(op, "the answer is not that of a pipeline: %v", err)
	}
	if len(p.Results) != 1 {
		return nil, strange(op, "%d results for one request", len(p.Results))
	}
	switch res := p.Results[0]; {
	case res.Type == wire.ResultError && res.Error != nil:
		// Errors of steps are reported at the steps; so this one is of the
		// connection, and says nothing about how far the batch came.
		return nil, &Error{Op: op, Kind: sqlKind(res.Error.Message, res.Error.Code), Outcome: Unknown,
			Status: 200, Message: clean(res.Error.Message, a.token), Code: clean(res.Error.Code, a.token), Mutation: -1}
	case res.Type == wire.ResultOK && res.Response != nil && res.Response.Type == wire.TypeBatch:
		var out wire.BatchResult
		if err := json.Unmarshal(res.Response.Result, &out); err != nil {
			return nil, strange(op, "the result of the batch cannot be read: %v", err)
		}
		for _, e := range out.StepErrors {
			if e != nil {
				e.Message = redact(e.Message, a.token)
			}
		}
		return &out, nil
	}
	return nil, strange(op, "the result is not that of a batch")
}

// strange is the error of an answer that breaks the protocol. What the remote
// did is not known then.
func strange(op, format string, args ...any) *Error {
	return &Error{Op: op, Kind: Retry, Outcome: Unknown, Status: 200, Mutation: -1, bad: true,
		Message: "answer not understood: " + fmt.Sprintf(format, args...)}
}
