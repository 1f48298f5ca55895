package realtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/tursosync/tursosync/internal/wire"
)

// SQL is a remote that takes SQL over HTTP.
type SQL struct {
	URL    string
	Token  string       // none when empty
	Client *http.Client // nil: http.DefaultClient
}

// Exec runs statements, one by one, and fails the test if one of them fails.
func (s SQL) Exec(t testing.TB, sql ...string) {
	t.Helper()
	for _, text := range sql {
		s.Query(t, text)
	}
}

// Query runs one statement and returns its rows (nil, int64, float64, string,
// []byte).
func (s SQL) Query(t testing.TB, sql string, args ...any) [][]any {
	t.Helper()
	rows, err := s.TryQuery(sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return rows
}

// Exec runs statements, one by one, over SQL at url, and fails the test if one
// of them fails.
func Exec(t testing.TB, url string, sql ...string) {
	t.Helper()
	SQL{URL: url}.Exec(t, sql...)
}

// Query runs one statement over SQL at url and returns its rows (nil, int64,
// float64, string, []byte).
func Query(t testing.TB, url, sql string, args ...any) [][]any {
	t.Helper()
	return SQL{URL: url}.Query(t, sql, args...)
}

// TryQuery is Query with an error.
func TryQuery(url, sql string, args ...any) ([][]any, error) {
	return SQL{URL: url}.TryQuery(sql, args...)
}

// TryQuery is Query with an error.
func (s SQL) TryQuery(sql string, args ...any) ([][]any, error) {
	b := []byte(`{"baton":null,"requests":[{"type":"batch","batch":{"steps":[`)
	b, err := wire.AppendStep(b, -1, sql, args, true)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(http.MethodPost, s.URL+wire.PipelinePath, bytes.NewReader(append(b, `]}}]}`...)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", wire.JSONMedia)
	if s.Token != "" {
		req.Header.Set("Authorization", "Bearer "+s.Token)
	}
	client := s.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
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
