package wire

import (
	"encoding/json"
	"testing"
)

// TestAppendResponse shows that answers are written as encoding/json would.
func TestAppendResponse(t *testing.T) {
	id, minus, index, text := RowID(7), RowID(-1), "i", `a "baton"`
	declared, yes := "TEXT", true
	batches := []BatchResult{
		{},
		{StepResults: []*StmtResult{nil, {}, {Cols: []Col{}, Rows: [][]Value{}, AffectedRowCount: 3, LastInsertRowID: &id, RowsRead: 4, RowsWritten: 5}},
			StepErrors: []*Error{{Message: "no such table: \"t\"\n", Code: "SQLITE_ERROR"}, nil, nil}},
		{StepResults: []*StmtResult{
			{Cols: []Col{{Name: "a", DeclType: &declared}, {Name: "b"}}, Rows: [][]Value{{{nil}, {"x\"y"}}, {{int64(1)}, {[]byte("b")}}}, LastInsertRowID: &minus},
			{Cols: []Col{}, Rows: [][]Value{}, ReplicationIndex: &index}, {Cols: []Col{}, Rows: [][]Value{}, QueryDurationMS: 1.5}, {Cols: []Col{}, Rows: [][]Value{}},
			{Cols: []Col{{Name: "a"}}, Rows: [][]Value{}},
		}, StepErrors: make([]*Error, 5)},
	}
	p := PipelineResponse{Results: []StreamResult{
		{Type: ResultOK, Response: &StreamResponse{Type: TypeClose}},
		{Type: ResultOK, Response: &StreamResponse{Type: TypeGetAutocommit, IsAutocommit: &yes}},
		{Type: ResultError, Error: &Error{Message: "m", Code: "c"}},
	}}
	for i := range batches {
		if batches[i].StepResults == nil {
			batches[i].StepResults, batches[i].StepErrors = []*StmtResult{}, []*Error{}
		}
		got, err := batches[i].Append(nil)
		want, _ := json.Marshal(batches[i])
		if err != nil || string(got) != string(want) {
			t.Errorf("batch %d: %v\n%s, want\n%s", i, err, got, want)
		}
		p.Results = append(p.Results, StreamResult{Type: ResultOK, Response: &StreamResponse{Type: TypeBatch, Result: got}})
	}
	for range 2 {
		got, err := p.Append(nil)
		want, _ := json.Marshal(p)
		if err != nil || string(got) != string(want) {
			t.Errorf("%v\n%s, want\n%s", err, got, want)
		}
		p.Baton, p.BaseURL, p.Results = &text, &text, []StreamResult{}
	}
}
