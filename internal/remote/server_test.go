package remote_test

import (
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/tursosync/tursosync/server"
)

// startServer starts our own server and returns its URL.
func startServer(t testing.TB, cfg server.Config) string {
	t.Helper()
	cfg.File = filepath.Join(t.TempDir(), "remote.db")
	s, err := server.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s)
	t.Cleanup(func() {
		h.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return h.URL
}

// TestServer holds the client against our own server.
func TestServer(t *testing.T) {
	conform(t, func(t *testing.T) string { return startServer(t, server.Config{NoSync: true}) })
}
