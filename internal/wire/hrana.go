package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// PipelineRequest is the body of a pipeline. Baton nil asks for a new stream.
type PipelineRequest struct {
	Baton    *string         `json:"baton"`
	Requests []StreamRequest `json:"requests"`
}

// Types of stream requests.
const (
	TypeExecute       = "execute"
	TypeBatch         = "batch"
	TypeSequence      = "sequence"
	TypeDescribe      = "describe"
	TypeStoreSQL      = "store_sql"
	TypeCloseSQL      = "close_sql"
	TypeGetAutocommit = "get_autocommit"
	TypeClose         = "close"
)

// StreamRequest is one request of a pipeline; which fields count depends on Type.
type StreamRequest struct {
	Type  string  `json:"type"`
	Stmt  *Stmt   `json:"stmt,omitempty"`   // execute
	Batch *Batch  `json:"batch,omitempty"`  // batch
	SQL   *string `json:"sql,omitempty"`    // sequence, describe, store_sql
	SQLID *int32  `json:"sql_id,omitempty"` // store_sql, close_sql, and in place of SQL
}

// Stmt is one SQL statement with its arguments.
type Stmt struct {
	SQL       *string    `json:"sql"`
	SQLID     *int32     `json:"sql_id"`
	Args      Values     `json:"args"`
	NamedArgs []NamedArg `json:"named_args"`
	WantRows  *bool      `json:"want_rows"` // nil: true
}

// NamedArg binds a value to a parameter by name.
type NamedArg struct {
	Name  string `json:"name"`
	Value Value  `json:"value"`
}

// Batch is a list of statements, each with a condition.
type Batch struct {
	Steps []Step `json:"steps"`
}

// Step is one statement of a batch; it runs when Condition is nil or holds.
type Step struct {
	Condition *Cond `json:"condition"`
	Stmt      Stmt  `json:"stmt"`
}

// Types of conditions.
const (
	CondOK           = "ok"
	CondError        = "error"
	CondNot          = "not"
	CondAnd          = "and"
	CondOr           = "or"
	CondIsAutocommit = "is_autocommit"
)

// Cond is a condition on the steps before.
type Cond struct {
	Type  string
	Step  uint32 // ok, error
	Cond  *Cond  // not
	Conds []Cond // and, or
}

// MaxCondDepth bounds the nesting of conditions.
const MaxCondDepth = 32

// OK is the condition that a step ran and succeeded.
func OK(step int) *Cond { return &Cond{Type: CondOK, Step: uint32(step)} }

// MarshalJSON implements json.Marshaler: exactly the fields of the type.
func (c Cond) MarshalJSON() ([]byte, error) {
	switch c.Type {
	case CondOK, CondError:
		return fmt.Appendf(nil, `{"type":%q,"step":%d}`, c.Type, c.Step), nil
	case CondNot:
		return json.Marshal(struct {
			Type string `json:"type"`
			Cond *Cond  `json:"cond"`
		}{c.Type, c.Cond})
	case CondAnd, CondOr:
		return json.Marshal(struct {
			Type  string `json:"type"`
			Conds []Cond `json:"conds"`
		}{c.Type, append([]Cond{}, c.Conds...)})
	case CondIsAutocommit:
		return []byte(`{"type":"is_autocommit"}`), nil
	}
	return nil, fmt.Errorf("unknown condition %q", c.Type)
}

// UnmarshalJSON implements json.Unmarshaler.
func (c *Cond) UnmarshalJSON(b []byte) error { return c.decode(b, MaxCondDepth) }

func (c *Cond) decode(b []byte, depth int) error {
	if depth == 0 {
		return fmt.Errorf("conditions nested deeper than %d", MaxCondDepth)
	}
	var raw struct {
		Type  string            `json:"type"`
		Step  *uint32           `json:"step"`
		Cond  json.RawMessage   `json:"cond"`
		Conds []json.RawMessage `json:"conds"`
	}
	if err := json.Unmarshal(b, &raw); err != nil {
		return err
	}
	*c = Cond{Type: raw.Type}
	switch raw.Type {
	case CondOK, CondError:
		if raw.Step == nil {
			return fmt.Errorf("condition %s without step", raw.Type)
		}
		c.Step = *raw.Step
	case CondNot:
		if len(raw.Cond) == 0 {
			return errors.New("condition not without cond")
		}
		c.Cond = &Cond{}
		return c.Cond.decode(raw.Cond, depth-1)
	case CondAnd, CondOr:
		if raw.Conds == nil {
			return fmt.Errorf("condition %s without conds", raw.Type)
		}
		c.Conds = make([]Cond, len(raw.Conds))
		for i, b := range raw.Conds {
			if err := c.Conds[i].decode(b, depth-1); err != nil {
				return err
			}
		}
	case CondIsAutocommit:
	default:
		return fmt.Errorf("unknown condition %q", raw.Type)
	}
	return nil
}

// Holds evaluates the condition: ok and failed tell what became of a step,
// autocommit whether no transaction is open. A step that did not run, or that
// comes later, is neither ok nor failed.
func (c *Cond) Holds(ok, failed func(step uint32) bool, autocommit func() bool) bool {
	switch c.Type {
	case CondOK:
		return ok(c.Step)
	case CondError:
		return failed(c.Step)
	case CondNot:
		return !c.Cond.Holds(ok, failed, autocommit)
	case CondAnd:
		for i := range c.Conds {
			if !c.Conds[i].Holds(ok, failed, autocommit) {
				return false
			}
		}
		return true
	case CondOr:
		for i := range c.Conds {
			if c.Conds[i].Holds(ok, failed, autocommit) {
				return true
			}
		}
		return false
	case CondIsAutocommit:
		return autocommit()
	}
	return false
}

// PipelineResponse answers a pipeline: one result for each request.
type PipelineResponse struct {
	Baton   *string        `json:"baton"`
	BaseURL *string        `json:"base_url"`
	Results []StreamResult `json:"results"`
}

// Types of results.
const (
	ResultOK    = "ok"
	ResultError = "error"
)

// StreamResult is what became of one request.
type StreamResult struct {
	Type     string          `json:"type"`
	Response *StreamResponse `json:"response,omitempty"`
	Error    *Error          `json:"error,omitempty"`
}

// StreamResponse is the answer to one request. Result stays undecoded until its
// type is known: see StmtResult, BatchResult and DescribeResult.
type StreamResponse struct {
	Type         string          `json:"type"`
	Result       json.RawMessage `json:"result,omitempty"`
	IsAutocommit *bool           `json:"is_autocommit,omitempty"`
}

// Error is the error of a statement or request inside a 200.
type Error struct {
	Message      string `json:"message"`
	Code         string `json:"code"`
	ExtendedCode string `json:"extended_code,omitempty"`
}

// StmtResult is the outcome of a statement. The official client requires Cols,
// Rows, AffectedRowCount and LastInsertRowID to be present.
type StmtResult struct {
	Cols             []Col     `json:"cols"`
	Rows             [][]Value `json:"rows"`
	AffectedRowCount uint64    `json:"affected_row_count"`
	LastInsertRowID  *RowID    `json:"last_insert_rowid"`
	ReplicationIndex *string   `json:"replication_index"`
	RowsRead         uint64    `json:"rows_read"`
	RowsWritten      uint64    `json:"rows_written"`
	QueryDurationMS  float64   `json:"query_duration_ms"`
}

// Col describes a column of a result.
type Col struct {
	Name     string  `json:"name"`
	DeclType *string `json:"decltype"`
}

// BatchResult is the outcome of a batch: both lists have an entry for each step.
type BatchResult struct {
	StepResults []*StmtResult `json:"step_results"`
	StepErrors  []*Error      `json:"step_errors"`
}

// DescribeResult describes a statement.
type DescribeResult struct {
	Params     []DescribeParam `json:"params"`
	Cols       []Col           `json:"cols"`
	IsExplain  bool            `json:"is_explain"`
	IsReadonly bool            `json:"is_readonly"`
}

// DescribeParam is a parameter of a statement; Name is nil for a bare "?".
type DescribeParam struct {
	Name *string `json:"name"`
}

// RowID travels as a string; numbers are accepted.
type RowID int64

// MarshalJSON implements json.Marshaler.
func (r RowID) MarshalJSON() ([]byte, error) {
	return []byte(`"` + strconv.FormatInt(int64(r), 10) + `"`), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (r *RowID) UnmarshalJSON(b []byte) error {
	s := string(b)
	if len(b) > 0 && b[0] == '"' {
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return fmt.Errorf("rowid: %w", err)
	}
	*r = RowID(n)
	return nil
}

// AppendStep appends the JSON of one step of a batch, without building the
// values in between: batches are long. after is the step that must have
// succeeded, or -1 for none.
func AppendStep(b []byte, after int, sql string, args []any, wantRows bool) ([]byte, error) {
	b = append(b, '{')
	if after >= 0 {
		b = append(b, `"condition":{"type":"ok","step":`...)
		b = strconv.AppendInt(b, int64(after), 10)
		b = append(b, `},`...)
	}
	return appendStmt(b, sql, args, wantRows)
}

// AppendStepIf appends the JSON of one step of a batch with any condition.
func AppendStepIf(b []byte, cond Cond, sql string, args ...any) ([]byte, error) {
	c, err := cond.MarshalJSON()
	if err != nil {
		return nil, err
	}
	b = append(append(append(b, `{"condition":`...), c...), ',')
	return appendStmt(b, sql, args, false)
}

func appendStmt(b []byte, sql string, args []any, wantRows bool) ([]byte, error) {
	if !utf8.ValidString(sql) {
		return nil, fmt.Errorf("%w: SQL that is not UTF-8", ErrNotJSON)
	}
	b = appendJSONString(append(b, `"stmt":{"sql":`...), sql)
	b = append(b, `,"args":[`...)
	for i, v := range args {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = AppendValue(b, v); err != nil {
			return nil, fmt.Errorf("argument %d: %w", i+1, err)
		}
	}
	b = append(b, `],"want_rows":`...)
	return append(strconv.AppendBool(b, wantRows), `}}`...), nil
}
