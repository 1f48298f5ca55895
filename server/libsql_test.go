package server_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tursosync/tursosync/internal/realtest"
	"github.com/tursosync/tursosync/server"
)

// serveFleet serves one database of a fleet to one token.
func serveFleet(t *testing.T) (url string) {
	t.Helper()
	f, err := server.OpenFleet(server.FleetConfig{Dir: t.TempDir(), Database: server.Config{NoSync: true,
		Authorize: func(_ context.Context, token string) server.Access {
			if token != "secret" {
				return server.NoAccess
			}
			return server.ReadWrite
		}}})
	must(t, err)
	must(t, f.Create("shop"))
	h := httptest.NewServer(f)
	t.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
		must(t, f.Close())
	})
	return h.URL + "/db/shop/"
}

// TestLibsqlClient is the proof that other clients of Hrana work: the one for
// JavaScript, interactive transactions and streams included.
func TestLibsqlClient(t *testing.T) {
	must(t, realtest.LibsqlTour(t, serveFleet(t), "secret"))
}

// TestServerlessClient is the same for @tursodatabase/serverless: a client of others
// that uses cursors, for every statement.
func TestServerlessClient(t *testing.T) {
	must(t, realtest.ServerlessTour(t, strings.TrimSuffix(serveFleet(t), "/"), "secret"))
}

// TestLibsqlClientGo is the same for github.com/tursodatabase/libsql-client-go. Its
// program is a module of its own.
func TestLibsqlClientGo(t *testing.T) {
	tool, err := exec.LookPath("go")
	if err != nil {
		realtest.Missing(t, err)
	}
	program := t.TempDir() + "/libsqlgo"
	build := exec.Command(tool, "build", "-o", program, ".")
	build.Dir = "testdata/libsqlgo"
	if out, err := build.CombinedOutput(); err != nil {
		if bytes.Contains(out, []byte("dial tcp")) || bytes.Contains(out, []byte("lookup ")) {
			realtest.Missing(t, err) // the module cannot be had
		}
		t.Fatalf("build: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, program, serveFleet(t), "secret").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	http.DefaultClient.CloseIdleConnections()
}
