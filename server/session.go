package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tursosync/tursosync/internal/shim"
	"github.com/tursosync/tursosync/internal/wire"
)

// session executes the requests of one pipeline.
type session struct {
	ctx    context.Context
	stream *stream
	conn   *conn // the stream's
	stats  *stats
	left   int64 // bytes of rows that may still be answered
}

// Bounds of what store_sql keeps for a stream.
const (
	storedMax      = 1000
	storedBytesMax = 1 << 20
)

// do executes one request.
func (x *session) do(r *wire.StreamRequest) wire.StreamResult {
	resp := &wire.StreamResponse{Type: r.Type}
	var result any
	var fault *wire.Error
	switch r.Type {
	case wire.TypeExecute:
		if r.Stmt == nil {
			fault = &wire.Error{Message: "execute without stmt", Code: "HRANA_PROTO_ERROR"}
			break
		}
		result, fault = raw(x.execute(r.Stmt))
	case wire.TypeBatch:
		if r.Batch == nil {
			fault = &wire.Error{Message: "batch without batch", Code: "HRANA_PROTO_ERROR"}
			break
		}
		result = x.batch(r.Batch)
	case wire.TypeSequence:
		fault = x.sequence(r)
	case wire.TypeDescribe:
		result, fault = raw(x.describe(r))
	case wire.TypeStoreSQL:
		if r.SQL == nil || r.SQLID == nil {
			fault = &wire.Error{Message: "store_sql needs sql and sql_id", Code: "HRANA_PROTO_ERROR"}
			break
		}
		fault = x.store(*r.SQLID, *r.SQL)
	case wire.TypeCloseSQL:
		if r.SQLID != nil {
			delete(x.stream.sql, *r.SQLID)
		}
	case wire.TypeGetAutocommit:
		autocommit := x.conn.db.Info().Autocommit
		resp.IsAutocommit = &autocommit
	case wire.TypeClose:
		// The stream ends with the pipeline.
	default:
		fault = &wire.Error{Message: fmt.Sprintf("unknown request %q", r.Type), Code: "HRANA_PROTO_ERROR"}
	}
	if fault == nil && result != nil {
		var b []byte
		var err error
		if batch, ok := result.(*wire.BatchResult); ok {
			b, err = batch.Append(nil)
		} else {
			b, err = json.Marshal(result)
		}
		if err != nil {
			fault = &wire.Error{Message: err.Error(), Code: "INTERNAL"}
		}
		resp.Result = b
	}
	if fault != nil {
		return wire.StreamResult{Type: wire.ResultError, Error: fault}
	}
	return wire.StreamResult{Type: wire.ResultOK, Response: resp}
}

// raw makes an untyped nil of a nil result.
func raw[T any](v *T, e *wire.Error) (any, *wire.Error) {
	if v == nil {
		return nil, e
	}
	return v, e
}

// batch executes the steps whose conditions hold.
func (x *session) batch(b *wire.Batch) *wire.BatchResult {
	out := &wire.BatchResult{
		StepResults: make([]*wire.StmtResult, len(b.Steps)),
		StepErrors:  make([]*wire.Error, len(b.Steps)),
	}
	ok := func(i uint32) bool { return int64(i) < int64(len(b.Steps)) && out.StepResults[i] != nil }
	failed := func(i uint32) bool { return int64(i) < int64(len(b.Steps)) && out.StepErrors[i] != nil }
	autocommit := func() bool { return x.conn.db.Info().Autocommit }
	for i := range b.Steps {
		s := &b.Steps[i]
		if x.ctx.Err() != nil {
			return out
		}
		if s.Condition == nil || s.Condition.Holds(ok, failed, autocommit) {
			out.StepResults[i], out.StepErrors[i] = x.execute(&s.Stmt)
		}
	}
	return out
}

// text finds the SQL of a statement.
func (x *session) text(sql *string, id *int32) (string, *wire.Error) {
	switch {
	case sql != nil && id == nil:
		return *sql, nil
	case sql == nil && id != nil:
		if s, ok := x.stream.sql[*id]; ok {
			return s, nil
		}
		return "", &wire.Error{Message: fmt.Sprintf("no SQL is stored under %d", *id), Code: "SQL_NOT_FOUND"}
	}
	return "", &wire.Error{Message: "either sql or sql_id is needed", Code: "HRANA_PROTO_ERROR"}
}

// store keeps a text for later requests.
func (x *session) store(id int32, sql string) *wire.Error {
	bytes := len(sql)
	for k, s := range x.stream.sql {
		if k != id {
			bytes += len(s)
		}
	}
	if _, again := x.stream.sql[id]; bytes > storedBytesMax || !again && len(x.stream.sql) >= storedMax {
		return &wire.Error{Message: "too much SQL is stored in this stream", Code: "SQL_STORE_FULL"}
	}
	x.stream.sql[id] = sql
	return nil
}

// prepare compiles a text that must be one statement.
func (x *session) prepare(sql *string, id *int32) (*shim.Stmt, *wire.Error) {
	text, fault := x.text(sql, id)
	if fault != nil {
		return nil, fault
	}
	if err := x.conn.settle(); err != nil {
		return nil, sqlFault(err)
	}
	if s := x.conn.recall(text); s != nil {
		return s, nil // of this stream, or of one that ended without settings
	}
	x.stream.dirty = x.stream.dirty || settles(text)
	s, tail, err := x.conn.prepare(text)
	if err != nil {
		return nil, x.fault(err)
	}
	if s == nil {
		return nil, &wire.Error{Message: "there is no statement", Code: "SQL_NO_STATEMENT"}
	}
	if strings.Trim(tail, " \t\r\n;") != "" {
		more, _, err := x.conn.db.Prepare(tail)
		if more != nil {
			more.Close()
		}
		if more != nil || err != nil {
			s.Close()
			return nil, &wire.Error{Message: "there is more than one statement", Code: "SQL_MANY_STATEMENTS"}
		}
	}
	return s, nil
}

// execute runs one statement to its end and keeps its rows.
func (x *session) execute(st *wire.Stmt) (*wire.StmtResult, *wire.Error) {
	rows := [][]wire.Value{}
	errLarge := errors.New("the rows are too large to be answered")
	var cols []wire.Col
	out, fault, err := x.step(st,
		func(c []wire.Col) error { cols = c; return nil },
		func(row []wire.Value) error {
			for i := range row {
				x.left -= size(row[i].V)
			}
			if x.left < 0 {
				return errLarge
			}
			rows = append(rows, row)
			return nil
		})
	if err != nil {
		x.stats.limited.Add(1)
		return nil, &wire.Error{Message: err.Error(), Code: "RESPONSE_TOO_LARGE"}
	}
	if fault != nil {
		return nil, fault
	}
	out.Cols, out.Rows = cols, rows
	return out, nil
}

// step runs one statement to its end and hands on its columns and rows. An error
// is one of those who take them, and ends the statement.
func (x *session) step(st *wire.Stmt, begin func([]wire.Col) error, take func([]wire.Value) error) (out *wire.StmtResult, fault *wire.Error, err error) {
	x.stats.statements.Add(1)
	defer func() {
		if fault != nil {
			x.stats.statementErrors.Add(1)
			if fault.Code == "SQLITE_READONLY" && x.stream.permission.ReadOnly() {
				fault.Message += ": the token is read-only"
			}
		}
	}()
	if text, fault := x.text(st.SQL, st.SQLID); fault == nil && text == wire.ReplaySQL {
		return x.replay(st, begin, take)
	}
	s, fault := x.prepare(st.SQL, st.SQLID)
	if fault != nil {
		return nil, fault, nil
	}
	ended := false
	defer func() {
		if !ended {
			s.Close()
		}
		x.conn.endTurn()
	}()
	if fault := bind(s, st); fault != nil {
		return nil, fault, nil
	}
	if err := x.conn.takeTurn(x.ctx, s); err != nil {
		return nil, x.fault(err), nil
	}
	before := x.conn.db.Info()
	out = &wire.StmtResult{}
	var cols []wire.Col
	want := st.WantRows == nil || *st.WantRows
	for first := true; ; first = false {
		row, err := s.Step()
		if err != nil {
			return nil, x.fault(err), nil
		}
		if first {
			// Not before: the schema may have changed since it was compiled.
			cols = columns(s)
			if err := begin(cols); err != nil {
				return nil, nil, err
			}
		}
		if !row {
			break
		}
		out.RowsRead++
		if !want {
			continue
		}
		values := make([]wire.Value, len(cols))
		for i := range values {
			values[i].V = presentable(s.Column(i))
		}
		if err := take(values); err != nil {
			return nil, nil, err
		}
	}
	ended = true
	if text, fault := x.text(st.SQL, st.SQLID); fault == nil {
		x.conn.dismiss(text, s)
	} else {
		s.Close()
	}
	after := x.conn.db.Info()
	if x.stream.readOnly || !after.Autocommit && before.Autocommit {
		if text, fault := x.text(st.SQL, st.SQLID); fault == nil {
			if err := x.stream.follow(text); err != nil {
				return nil, sqlFault(err), nil
			}
		}
	}
	if n := after.TotalChanges - before.TotalChanges; n > 0 {
		out.AffectedRowCount, out.RowsWritten = uint64(n), uint64(n)
	}
	id := wire.RowID(after.LastInsertRowID)
	out.LastInsertRowID = &id
	return out, nil, nil
}

// presentable makes a value fit for JSON as tursodb does: infinities become null,
// and text that is not UTF-8 loses what is wrong with it.
func presentable(v any) any {
	switch v := v.(type) {
	case string:
		return strings.ToValidUTF8(v, "\uFFFD")
	case float64:
		if math.IsInf(v, 0) {
			return math.NaN()
		}
	}
	return v
}

// size estimates what a value takes in the answer.
func size(v any) int64 {
	switch v := v.(type) {
	case string:
		return int64(len(v)) + 32
	case []byte:
		return int64(len(v))*4/3 + 32
	}
	return 48
}

func columns(s *shim.Stmt) []wire.Col {
	cols := make([]wire.Col, s.Columns())
	for i := range cols {
		name, declared, typed := s.ColumnName(i)
		cols[i].Name = name
		if typed {
			cols[i].DeclType = &declared
		}
	}
	return cols
}

// bind sets the parameters, all of them and no others.
func bind(s *shim.Stmt, st *wire.Stmt) *wire.Error {
	params := s.Params()
	switch {
	case len(st.Args) > 0 && len(st.NamedArgs) > 0:
		return &wire.Error{Message: "arguments are given both by position and by name", Code: "ARGS_BOTH_POSITIONAL_AND_NAMED"}
	case len(st.NamedArgs) > 0:
		return bindNamed(s, st.NamedArgs)
	case len(st.Args) != params:
		return &wire.Error{Message: fmt.Sprintf("%d arguments for %d parameters", len(st.Args), params), Code: "ARGS_INVALID"}
	}
	for i, v := range st.Args {
		if err := bindValue(s, i+1, v.V); err != nil {
			return err
		}
	}
	return nil
}

func bindNamed(s *shim.Stmt, args []wire.NamedArg) *wire.Error {
	names := make([]string, s.Params())
	for i := range names {
		names[i] = s.ParamName(i + 1)
	}
	for _, a := range args {
		i := slices.IndexFunc(names, func(n string) bool { return n != "" && (n == a.Name || n[1:] == a.Name) })
		if i < 0 {
			return &wire.Error{Message: fmt.Sprintf("there is no parameter %q", a.Name), Code: "ARGS_INVALID"}
		}
		if err := bindValue(s, i+1, a.Value.V); err != nil {
			return err
		}
	}
	return nil
}

func bindValue(s *shim.Stmt, i int, v any) *wire.Error {
	if f, ok := v.(float64); ok && math.IsNaN(f) {
		return &wire.Error{Message: "a float is null", Code: "ARGS_INVALID"}
	}
	if err := s.Bind(i, v); err != nil {
		return sqlFault(err)
	}
	return nil
}

// sequence runs statements until one fails.
func (x *session) sequence(r *wire.StreamRequest) *wire.Error {
	text, fault := x.text(r.SQL, r.SQLID)
	if fault != nil {
		return fault
	}
	x.stream.dirty = x.stream.dirty || settles(text)
	for text != "" && x.ctx.Err() == nil {
		s, tail, err := x.conn.prepare(text)
		if err != nil {
			return x.fault(err)
		}
		text = tail
		if s == nil {
			continue
		}
		err = x.conn.takeTurn(x.ctx, s)
		for row := true; row && err == nil; {
			row, err = s.Step()
		}
		s.Close()
		x.conn.endTurn()
		if err != nil {
			return x.fault(err)
		}
	}
	return nil
}

// describe tells about a statement without running it.
func (x *session) describe(r *wire.StreamRequest) (*wire.DescribeResult, *wire.Error) {
	if x.conn.db.Info().Autocommit {
		// Nothing runs that would make SQLite see a schema that has changed.
		if err := x.conn.exec("SELECT 1 FROM sqlite_schema LIMIT 1"); err != nil {
			return nil, x.fault(err)
		}
	}
	s, fault := x.prepare(r.SQL, r.SQLID)
	if fault != nil {
		return nil, fault
	}
	defer s.Close()
	out := &wire.DescribeResult{Params: make([]wire.DescribeParam, s.Params()), Cols: columns(s),
		IsExplain: s.Explain(), IsReadonly: s.ReadOnly()}
	for i := range out.Params {
		if name := s.ParamName(i + 1); name != "" {
			out.Params[i].Name = &name
		}
	}
	return out, nil
}

// fault is sqlFault for what happened on the session's connection.
func (x *session) fault(err error) *wire.Error {
	x.conn.blame(err)
	return sqlFault(err)
}

// sqlFault makes an error for the wire of one of SQLite's.
func sqlFault(err error) *wire.Error {
	var e *shim.StmtError
	if !errors.As(err, &e) {
		return &wire.Error{Message: err.Error(), Code: "SQLITE_ERROR"}
	}
	out := &wire.Error{Message: e.Message, Code: codeNames[e.Code&0xff], ExtendedCode: extendedNames[e.Code]}
	if out.Code == "" {
		out.Code = "SQLITE_ERROR"
	}
	return out
}

// codeNames are the primary result codes, https://sqlite.org/rescode.html.
var codeNames = map[int]string{
	1: "SQLITE_ERROR", 2: "SQLITE_INTERNAL", 3: "SQLITE_PERM", 4: "SQLITE_ABORT", 5: "SQLITE_BUSY",
	6: "SQLITE_LOCKED", 7: "SQLITE_NOMEM", 8: "SQLITE_READONLY", 9: "SQLITE_INTERRUPT", 10: "SQLITE_IOERR",
	11: "SQLITE_CORRUPT", 12: "SQLITE_NOTFOUND", 13: "SQLITE_FULL", 14: "SQLITE_CANTOPEN", 15: "SQLITE_PROTOCOL",
	17: "SQLITE_SCHEMA", 18: "SQLITE_TOOBIG", 19: "SQLITE_CONSTRAINT", 20: "SQLITE_MISMATCH", 21: "SQLITE_MISUSE",
	23: "SQLITE_AUTH", 25: "SQLITE_RANGE", 26: "SQLITE_NOTADB",
}

var extendedNames = map[int]string{
	275: "SQLITE_CONSTRAINT_CHECK", 531: "SQLITE_CONSTRAINT_COMMITHOOK", 787: "SQLITE_CONSTRAINT_FOREIGNKEY",
	1299: "SQLITE_CONSTRAINT_NOTNULL", 1555: "SQLITE_CONSTRAINT_PRIMARYKEY", 1811: "SQLITE_CONSTRAINT_TRIGGER",
	2067: "SQLITE_CONSTRAINT_UNIQUE", 2579: "SQLITE_CONSTRAINT_ROWID", 3091: "SQLITE_CONSTRAINT_DATATYPE",
	261: "SQLITE_BUSY_RECOVERY", 517: "SQLITE_BUSY_SNAPSHOT",
}
