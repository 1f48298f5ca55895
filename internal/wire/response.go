package wire

import (
	"encoding/json"
	"strconv"
)

// Append appends the JSON of the response. Results are taken as they are: what
// encoding/json would do is read all of them once more.
func (p *PipelineResponse) Append(b []byte) ([]byte, error) {
	b = append(b, `{"baton":`...)
	b, err := appendJSON(b, p.Baton)
	if err != nil {
		return nil, err
	}
	b = append(b, `,"base_url":`...)
	if b, err = appendJSON(b, p.BaseURL); err != nil {
		return nil, err
	}
	b = append(b, `,"results":[`...)
	for i := range p.Results {
		if i > 0 {
			b = append(b, ',')
		}
		r := &p.Results[i]
		if r.Error == nil && r.Response != nil && r.Response.Result != nil && r.Response.IsAutocommit == nil {
			b = appendJSONString(append(b, `{"type":`...), r.Type)
			b = appendJSONString(append(b, `,"response":{"type":`...), r.Response.Type)
			b = append(append(b, `,"result":`...), r.Response.Result...)
			b = append(b, `}}`...)
		} else if b, err = appendJSON(b, r); err != nil {
			return nil, err
		}
	}
	return append(b, `]}`...), nil
}

// Append appends the JSON of the result, without encoding/json where a step is of a
// push: it has no rows.
func (r *BatchResult) Append(b []byte) ([]byte, error) {
	var err error
	b = append(b, `{"step_results":[`...)
	for i, s := range r.StepResults {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = s.append(b); err != nil {
			return nil, err
		}
	}
	b = append(b, `],"step_errors":[`...)
	for i, e := range r.StepErrors {
		if i > 0 {
			b = append(b, ',')
		}
		if e == nil {
			b = append(b, `null`...)
		} else if b, err = appendJSON(b, e); err != nil {
			return nil, err
		}
	}
	return append(b, `]}`...), nil
}

func (r *StmtResult) append(b []byte) ([]byte, error) {
	if r == nil {
		return append(b, `null`...), nil
	}
	if r.Cols == nil || r.Rows == nil || len(r.Cols)+len(r.Rows) > 0 || r.ReplicationIndex != nil || r.QueryDurationMS != 0 {
		return appendJSON(b, r)
	}
	b = append(b, `{"cols":[],"rows":[],"affected_row_count":`...)
	b = strconv.AppendUint(b, r.AffectedRowCount, 10)
	b = append(b, `,"last_insert_rowid":`...)
	if r.LastInsertRowID == nil {
		b = append(b, `null`...)
	} else {
		b = append(strconv.AppendInt(append(b, '"'), int64(*r.LastInsertRowID), 10), '"')
	}
	b = append(b, `,"replication_index":null,"rows_read":`...)
	b = strconv.AppendUint(b, r.RowsRead, 10)
	b = append(b, `,"rows_written":`...)
	b = strconv.AppendUint(b, r.RowsWritten, 10)
	return append(b, `,"query_duration_ms":0}`...), nil
}

func appendJSON(b []byte, v any) ([]byte, error) {
	text, err := json.Marshal(v)
	return append(b, text...), err
}
