package server

import (
	"compress/gzip"
	"testing"
)

// TestZippers shows that pulls are answered when everybody who compresses is busy,
// and that those who compress come back.
func TestZippers(t *testing.T) {
	s := openForPool(t, Config{})
	firstValue(t, s, "http://x", "CREATE TABLE t (a)")
	encoding := func() string {
		t.Helper()
		w := do(s, "POST", "/pull-updates", "", "Accept-Encoding", "gzip")
		if w.Code != 200 || w.Body.Len() == 0 {
			t.Fatalf("pull = %d, %d bytes", w.Code, w.Body.Len())
		}
		return w.Header().Get("Content-Encoding")
	}
	for range 3 * cap(zippers) {
		if got := encoding(); got != "gzip" {
			t.Fatalf("Content-Encoding = %q, want gzip", got)
		}
	}
	var all []*gzip.Writer
	for range cap(zippers) {
		all = append(all, zipper(t.Output()))
	}
	if got := encoding(); got != "" {
		t.Errorf("Content-Encoding = %q while all are busy", got)
	}
	for _, z := range all {
		giveBack(z)
	}
	if got := encoding(); got != "gzip" {
		t.Errorf("Content-Encoding = %q afterwards", got)
	}
}
