package server_test

import (
	"crypto/ed25519"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tursosync/tursosync/internal/realtest"
	"github.com/tursosync/tursosync/server"
	"github.com/tursosync/tursosync/server/auth"
)

// TestOfficialRestricted: the official client syncs with tokens for some tables, and
// is told what they do not permit; nobody writes its watermark but itself.
func TestOfficialRestricted(t *testing.T) {
	node := realtest.StartNode(t)
	pub, key, err := ed25519.GenerateKey(nil)
	must(t, err)
	pem, err := auth.PublicPEM(pub)
	must(t, err)
	v, err := auth.New(auth.Config{Keys: [][]byte{pem}})
	must(t, err)
	s, err := server.Open(server.Config{File: filepath.Join(t.TempDir(), "remote.db"), Name: "shop", Permit: v.Permit, NoSync: true})
	must(t, err)
	h := httptest.NewServer(s)
	t.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
		must(t, s.Close())
		must(t, v.Close())
	})
	token := func(subject string, texts ...string) string {
		c := auth.Claims{Subject: subject, Databases: []string{"shop"}}
		for _, text := range texts {
			r, err := auth.ParseRule(text)
			must(t, err)
			c.Rules = append(c.Rules, r)
		}
		out, err := auth.Sign(key, c)
		must(t, err)
		return out
	}
	open := func(name, token string) *realtest.Client {
		c, err := node.Open(realtest.ClientOptions{URL: h.URL, ClientName: name, AuthToken: token})
		must(t, err)
		return c
	}
	admin := open("admin", token(""))
	must(t, admin.Exec("CREATE TABLE todos (id INTEGER PRIMARY KEY, v); CREATE TABLE secrets (id INTEGER PRIMARY KEY, v); CREATE TABLE log (v);"+
		"INSERT INTO todos VALUES (1, 'one')"))
	must(t, admin.Push())
	few := []string{"all:data_read", "todos:data_add,data_update,data_delete"}
	ann, bob := open("ann", token("ann", few...)), open("bob", token("bob", few...))
	for i, c := range []*realtest.Client{ann, bob, ann} { // a second push updates the watermark
		must(t, c.Exec(fmt.Sprintf("INSERT INTO todos VALUES (%d, 'more'); UPDATE todos SET v = 'changed %[1]d' WHERE id = 1", i+10)))
		must(t, c.Push())
		_, err := c.Pull()
		must(t, err)
	}
	must(t, bob.Exec("DELETE FROM todos WHERE id = 10"))
	must(t, bob.Push())
	for _, c := range []*realtest.Client{ann, bob} {
		_, err := c.Pull()
		must(t, err)
		if got := rows(t, c, "SELECT id, v FROM todos ORDER BY id"); !reflect.DeepEqual(got, [][]any{{int64(1), "changed 12"}, {int64(11), "more"}, {int64(12), "more"}}) {
			t.Errorf("rows = %v", got)
		}
	}
	t.Log("rows and schemas that are not permitted")
	for name, sql := range map[string]string{
		`no data_add on table \"secrets\"`: "INSERT INTO secrets VALUES (1, 'mine')",
		"not authorized":                   "CREATE TABLE mine (v)",
	} {
		c := open("refused", token("cat", few...))
		must(t, c.Exec(sql))
		if err := c.Push(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: Push = %v, want %s", sql, err, name)
		}
	}
	reader := open("reader", token("dan", "all:data_read"))
	must(t, reader.Exec("INSERT INTO todos VALUES (100, 'mine')"))
	if err := reader.Push(); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("Push = %v", err)
	}
	if _, err := node.Open(realtest.ClientOptions{URL: h.URL, ClientName: "blind", AuthToken: token("eve", "todos:data_read,data_add")}); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("a pull without data_read on all tables = %v", err)
	}
	_, err = admin.Pull()
	must(t, err)
	if got := rows(t, admin, "SELECT count(*) FROM secrets"); !reflect.DeepEqual(got, [][]any{{int64(0)}}) {
		t.Errorf("secrets = %v", got)
	}
}
