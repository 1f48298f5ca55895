package remote_test

import (
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/tursosync/tursosync/server"
)

// TestServer holds the client against our own server.
func TestServer(t *testing.T) {
	conform(t, func(t *testing.T) string {
		s, err := server.Open(server.Config{File: filepath.Join(t.TempDir(), "remote.db"), NoSync: true})
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
	})
}
