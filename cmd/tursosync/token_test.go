package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tursosync/tursosync/server/auth"
)

// TestTokens goes the way of a new user: make a key, serve with it, create tokens,
// sync with them, change the key.
func TestTokens(t *testing.T) {
	dir := t.TempDir()
	private, public, data := filepath.Join(dir, "private.pem"), filepath.Join(dir, "public.pem"), filepath.Join(dir, "data")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(public, mustRun(t, "token", "key", private))
	if info, err := os.Stat(private); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("private key: %v %v", info.Mode(), err)
	}
	url, log, _ := startServe(t, nil, "-data", data, "-jwt-key-file", public, "-admin-token", "root")
	mustRun(t, "db", "create", "shop", "-url", url, "-admin-token", "root")
	mustRun(t, "db", "create", "other", "-url", url, "-admin-token", "root")
	create := func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(mustRun(t, append([]string{"token", "create", "--key-file", private}, args...)...))
	}
	admin := create("--db", "shop")
	db, r := replica(t, url+"/db/shop", admin)
	for _, q := range []string{"CREATE TABLE todos (id INTEGER PRIMARY KEY, a)", "CREATE TABLE posts (id INTEGER PRIMARY KEY, a)"} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Push(t.Context()); err != nil {
		t.Fatal(err)
	}

	// Who may change one table pushes it, and no other.
	few := create("--db", "shop", "-p", "all:data_read", "-p", "todos:data_add,data_update", "--expires", "24h")
	db2, r2 := replica(t, url+"/db/shop", few)
	if err := r2.Pull(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := db2.Exec("INSERT INTO todos (a) VALUES ('mine')"); err != nil {
		t.Fatal(err)
	}
	if err := r2.Push(t.Context()); err != nil {
		t.Fatalf("push of a permitted table: %v", err)
	}
	if err := r.Pull(t.Context()); err != nil {
		t.Fatal(err)
	}
	var a string
	if err := db.QueryRow("SELECT a FROM todos").Scan(&a); err != nil || a != "mine" {
		t.Errorf("todos = %q, %v", a, err)
	}
	if _, err := db2.Exec("INSERT INTO posts (a) VALUES ('not mine')"); err != nil {
		t.Fatal(err)
	}
	if err := r2.Push(t.Context()); err == nil {
		t.Error("a table that is not permitted was pushed")
	}

	// Who may not read everything does not pull; nor does a stranger.
	for name, token := range map[string]string{"one table": create("--db", "shop", "-p", "todos:data_read"), "another database": create("--db", "other"), "none": "x"} {
		_, r := replica(t, url+"/db/shop", token)
		if err := r.Pull(t.Context()); err == nil {
			t.Errorf("pull with a token for %s", name)
		}
	}

	// Other keys count at once; keys that are broken do not.
	write(public, "-----BEGIN PUBLIC KEY-----\n")
	if err := r.Pull(t.Context()); err != nil {
		t.Errorf("pull while the key file is broken: %v", err)
	}
	private = filepath.Join(dir, "second.pem")
	write(public, mustRun(t, "token", "key", private))
	_, young := replica(t, url+"/db/shop", create("--db", "shop", "--read-only"))
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if err := young.Pull(t.Context()); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if err := r.Pull(t.Context()); err == nil {
		t.Error("a token of the key that was withdrawn still counts")
	}
	for _, token := range []string{admin, few} {
		if strings.Contains(log.String(), token[len(token)-20:]) {
			t.Error("the log holds a token")
		}
	}
}

func TestTokenCommands(t *testing.T) {
	dir := t.TempDir()
	private := filepath.Join(dir, "key.pem")
	public := mustRun(t, "token", "key", private)
	v, err := auth.New(auth.Config{Keys: [][]byte{[]byte(public)}})
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(mustRun(t, "token", "create", "-key-file", private, "-db", "a", "-db", "b", "-p", "t:data_read", "-p", "u:data_add", "-expires", "2w1d30m"))
	g, err := v.Verify(t.Context(), token)
	if err != nil || !g.Database("a") || !g.Database("b") || g.Database("c") || !g.On("a").May(auth.DataAdd, "u") || g.On("a").May(auth.DataAdd, "t") {
		t.Errorf("%v %v", g, err)
	}
	var template struct {
		P struct {
			Rules []struct {
				NS, T, A []string
			}
		}
	}
	out := mustRun(t, "jwks", "template", "--db", "shop", "--permissions", "all:data_read", "-p", "comments:data_add")
	if err := json.Unmarshal([]byte(out), &template); err != nil || len(template.P.Rules) != 2 || template.P.Rules[0].T != nil || template.P.Rules[1].T[0] != "comments" {
		t.Errorf("%s %v", out, err)
	}
	if out := mustRun(t, "jwks", "template", "--db", "shop", "--scope", "read-only"); !strings.Contains(out, `"ro"`) {
		t.Errorf("template = %s", out)
	}
	for _, c := range []struct {
		args   []string
		status int
		holds  string
	}{
		{[]string{"token", "key", private}, 1, "exists"},
		{[]string{"token", "create", "-db", "a"}, 2, "-key-file is missing"},
		{[]string{"token", "create", "-key-file", private}, 2, "no database"},
		{[]string{"token", "create", "-key-file", dir + "/none", "-db", "a"}, 1, "no such file"},
		{[]string{"token", "create", "-key-file", private, "-db", "a", "-p", "t:data_insert"}, 2, "unknown action"},
		{[]string{"token", "create", "-key-file", private, "-db", "a", "-expires", "soon"}, 2, "-expires is like"},
		{[]string{"token", "create", "-key-file", private, "-db", "a", "-expires", "0s"}, 2, "no time"},
		{[]string{"token", "create", "-key-file", private, "-db", "a", "-expires", "999999w"}, 2, "too long"},
		{[]string{"token", "create", "-key-file", private, "-db", "a", "-read-only", "-p", "t:data_add"}, 2, "contradict"},
		{[]string{"jwks", "template", "-db", "a", "-scope", "all"}, 2, "-scope is"},
		{[]string{"jwks", "template", "-db", "a", "-scope", "read-only", "-p", "t:data_add"}, 2, "contradicts"},
		{[]string{"serve", "-data", dir, "-no-auth", "-jwt-key-file", private}, 1, "private key"},
		{[]string{"serve", "-data", dir, "-jwks-issuer", "x"}, 2, "need -jwks-url"},
		{[]string{"serve", "-data", dir, "-jwks-url", "http://example.com/"}, 1, "not https"},
		{[]string{"serve", "-data", dir, "-jwks-url", "https://a.test/ https://b.test/", "-jwks-issuer", "a"}, 2, "each key set needs one"},
		{[]string{"serve", "-data", dir, "-jwt-key-file", dir + "/none"}, 1, "no such file"},
	} {
		if _, errs, status := run(nil, c.args...); status != c.status || !strings.Contains(errs, c.holds) {
			t.Errorf("tursosync %v = %d %s, want %d with %q", c.args, status, errs, c.status, c.holds)
		}
	}
}

// TestKeySets: two identity providers, each of which may sign in its own name only.
func TestKeySets(t *testing.T) {
	dir := t.TempDir()
	type provider struct{ url, private string }
	made := map[string]provider{}
	for _, name := range []string{"here", "there"} {
		private := filepath.Join(dir, name)
		public, err := auth.ParseKeys([]byte(mustRun(t, "token", "key", private)))
		if err != nil {
			t.Fatal(err)
		}
		set := fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","alg":"EdDSA","use":"sig","x":%q}]}`,
			base64.RawURLEncoding.EncodeToString(public[0].(ed25519.PublicKey)))
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(set)) }))
		t.Cleanup(srv.Close)
		made[name] = provider{srv.URL, private}
	}
	url, _, _ := startServe(t, map[string]string{"TURSOSYNC_JWKS_ISSUER": "here there"}, "-data", filepath.Join(dir, "data"), "-admin-token", "root",
		"-jwks-url", made["here"].url, "-jwks-url", made["there"].url)
	mustRun(t, "db", "create", "shop", "-url", url, "-admin-token", "root")
	for signer, p := range made {
		for issuer := range made {
			token := strings.TrimSpace(mustRun(t, "token", "create", "-key-file", p.private, "-key-id", "1", "-issuer", issuer, "-db", "shop"))
			_, r := replica(t, url+"/db/shop", token)
			if err := r.Pull(t.Context()); (err == nil) != (signer == issuer) {
				t.Errorf("pull with a token of %s signed by %s: %v", issuer, signer, err)
			}
		}
	}
}
