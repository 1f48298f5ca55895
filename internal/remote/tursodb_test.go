package remote_test

import (
	"testing"

	"github.com/tursosync/tursosync/internal/realtest"
)

// TestTursodb holds the client against the real server.
func TestTursodb(t *testing.T) {
	conform(t, func(t *testing.T) string { return realtest.StartTursodb(t).URL })
}
