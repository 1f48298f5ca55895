package remote_test

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/tursosync/tursosync/internal/remote"
	"github.com/tursosync/tursosync/syncer"
)

// TestStaleConnection: a connection that the remote closes as the next request
// comes, as a proxy does with idle ones. What only reads is asked again; a push is
// not, for nobody knows what became of it.
func TestStaleConnection(t *testing.T) {
	var requests, drop atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if drop.CompareAndSwap(1, 0) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_ = c.Close()
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"baton":null,"base_url":null,"results":[{"type":"ok","response":{"type":"batch","result":` +
			`{"step_results":[{"cols":[{"name":"change_id"}],"rows":[[{"type":"integer","value":"7"}]],"affected_row_count":0,"last_insert_rowid":null}],"step_errors":[null]}}}]}`))
	}))
	t.Cleanup(srv.Close)
	r, err := remote.New(remote.Config{URL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	for _, stale := range []int32{0, 1} {
		drop.Store(stale)
		if id, found, err := r.Watermark(t.Context(), "me"); err != nil || !found || id != 7 {
			t.Fatalf("Watermark = %v, %v, %v", id, found, err)
		}
	}
	if n := requests.Load(); n != 3 {
		t.Errorf("%d requests, want one, and two for the second", n)
	}
	drop.Store(1)
	if _, err := r.Push(t.Context(), syncer.Batch{ClientID: "me", Last: 1}); err == nil {
		t.Error("a push was tried again")
	}
	if n := requests.Load(); n != 4 {
		t.Errorf("%d requests, want one more", n)
	}
}
