package realtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/tursosync/tursosync/internal/wire"
)

// Exec runs statements, one by one, over SQL at url, and fails the test if one
// of them fails.
func Exec(t testing.TB, url string, sql ...string) {
	t.Helper()
	for _, s := range sql {
		Query(t, url, s)
	}
}

// Query runs one statement over SQL at url and returns its rows (nil, int64,
// float64, string, []byte).
func Query(t testing.TB, url, sql string, args ...any) [][]any {
	t.Helper()
	rows, err := TryQuery(url, sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return rows
}

// TryQuery is Query with an error.
func TryQuery(url, sql string, args ...any) ([][]any, error) {
	b := []byte(`{"baton":null,"requests":[{"type":"batch","batch":{"steps":[`)
	b, err := wire.AppendStep(b, -1, sql, args, true)
	if err != nil {
		return nil, err
	}
	resp, err := http.Post(url+wire.PipelinePath, wire.JSONMedia, bytes.NewReader(append(b, `]}}]}`...)))
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	var p wire.PipelineResponse
	if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
		return nil, fmt.Errorf("status %d: %w", resp.StatusCode, err)
	}
	if len(p.Results) != 1 || p.Results[0].Response == nil {
		return nil, fmt.Errorf("results %+v", p.Results)
	}
	var r wire.BatchResult
	if err := json.Unmarshal(p.Results[0].Response.Result, &r); err != nil {
		return nil, err
	}
	if e := r.StepErrors[0]; e != nil {
		return nil, fmt.Errorf("%s (%s)", e.Message, e.Code)
	}
	rows := make([][]any, len(r.StepResults[0].Rows))
	for i, row := range r.StepResults[0].Rows {
		for _, v := range row {
			rows[i] = append(rows[i], v.V)
		}
	}
	return rows, nil
}
