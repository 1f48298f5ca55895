package auth_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tursosync/tursosync/server"
	"github.com/tursosync/tursosync/server/auth"
)

// TestClients: nobody writes for the sync clients of others.
func TestClients(t *testing.T) {
	const create = "CREATE TABLE IF NOT EXISTS turso_sync_last_change_id (client_id TEXT PRIMARY KEY, pull_gen INTEGER, change_id INTEGER)"
	dir := t.TempDir()
	r := newRemoteWith(t, server.Config{File: filepath.Join(dir, "shop.db")})
	someone := func(subject string) string {
		token, err := auth.Sign(r.priv, auth.Claims{Subject: subject, Databases: []string{"shop"}, Rules: rules(t, "all:data_read,data_add,data_update,data_delete")})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	admin, ann, ann2, bob, nobody := r.token(t), someone("ann"), someone("ann"), someone("bob"), someone("")
	set := func(client, id string) []string {
		return []string{"BEGIN IMMEDIATE", create, "INSERT INTO turso_sync_last_change_id(client_id, pull_gen, change_id) VALUES ('" + client + "', 0, " + id + ")" +
			" ON CONFLICT(client_id) DO UPDATE SET pull_gen=excluded.pull_gen, change_id=excluded.change_id", "COMMIT"}
	}
	refused := func(token, why string, sql ...string) {
		t.Helper()
		got := r.run(t, token, sql...)
		for _, o := range got {
			if o.code == "SQLITE_AUTH" && strings.Contains(o.message, why) {
				return
			}
		}
		t.Errorf("%s: %+v, want %s", sql, got, why)
	}
	is := func(want string) {
		t.Helper()
		if got := r.must(t, admin, "SELECT group_concat(client_id || change_id, ' ') FROM (SELECT * FROM turso_sync_last_change_id ORDER BY client_id)")[0].rows[0][0].Value; got != want {
			t.Errorf("watermarks = %v, want %v", got, want)
		}
	}
	r.must(t, ann, set("a", "1")...)
	r.must(t, bob, set("b", "1")...)
	r.must(t, nobody, set("n", "1")...)
	r.must(t, ann2, set("a", "2")...)
	is("a2 b1 n1")
	const others = "is that of another subject"
	for _, token := range []string{bob, nobody} {
		refused(token, others, set("a", "9")...)
		refused(token, others, "BEGIN", "UPDATE turso_sync_last_change_id SET change_id = 9 WHERE client_id = 'a'", "COMMIT")
		refused(token, others, "BEGIN", "SAVEPOINT s", "UPDATE turso_sync_last_change_id SET change_id = 9", "RELEASE s", "COMMIT")
		refused(token, others, "BEGIN", "CREATE TEMP TRIGGER x AFTER INSERT ON todos BEGIN UPDATE turso_sync_last_change_id SET change_id = 9; END",
			"CREATE TEMP TABLE todos (a)", "CREATE TEMP TRIGGER y AFTER INSERT ON todos BEGIN UPDATE turso_sync_last_change_id SET change_id = 9; END",
			"INSERT INTO todos VALUES (1)", "COMMIT")
		refused(token, "outside of a transaction", "UPDATE turso_sync_last_change_id SET change_id = 9")
		refused(token, "", "BEGIN", "UPDATE turso_sync_last_change_id SET client_id = 'c' WHERE client_id = 'b'", "COMMIT")
		refused(token, "", "BEGIN", "UPDATE turso_sync_last_change_id SET rowid = 7", "COMMIT")
		refused(token, "", "BEGIN", "DELETE FROM turso_sync_last_change_id WHERE client_id = 'a'", "COMMIT")
		refused(token, "", "BEGIN", "REPLACE INTO turso_sync_last_change_id VALUES ('a', 0, 9)", "COMMIT")
		refused(token, "", "DROP TABLE turso_sync_last_change_id")
		refused(token, others, "BEGIN", "WITH x(a) AS (SELECT 'a') INSERT INTO turso_sync_last_change_id SELECT a, 0, 0 FROM x WHERE 1 ON CONFLICT DO UPDATE SET change_id = 9", "END")
	}
	is("a2 b1 n1")
	t.Log("what is undone counts for nothing")
	r.must(t, bob, "BEGIN", "SAVEPOINT s", "INSERT INTO turso_sync_last_change_id VALUES ('z', 0, 1)", "ROLLBACK TO s", "COMMIT")
	t.Log("those of nobody are of who comes first, and then theirs")
	r.must(t, ann, set("n", "3")...)
	refused(bob, others, set("n", "4")...)
	refused(nobody, others, set("n", "4")...)
	r.must(t, admin, set("a", "5")...)
	is("a5 b1 n3")
	t.Log("a transaction that was refused has changed nothing else")
	r.must(t, admin, "CREATE TABLE todos (a)")
	refused(bob, others, append(append([]string{"BEGIN"}, "INSERT INTO todos VALUES (1)"), set("a", "9")[2:]...)...)
	if got := r.must(t, admin, "SELECT count(*) FROM todos")[0].rows[0][0].Value; got != "0" {
		t.Errorf("%v rows", got)
	}

	t.Log("another server on the same file, and a line that was torn")
	b, err := os.ReadFile(filepath.Join(dir, "shop.db-clients"))
	if err != nil || strings.Count(string(b), "\n") != 4 {
		t.Errorf("clients = %q, %v", b, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "shop.db-clients"), append(b, `["torn","wro`...), 0o600); err != nil {
		t.Fatal(err)
	}
	r = newRemoteWith(t, server.Config{File: filepath.Join(dir, "shop.db")})
	admin, ann, bob = r.token(t), someone("ann"), someone("bob")
	refused(bob, others, set("a", "9")...)
	r.must(t, ann, set("a", "6")...)
	r.must(t, bob, set("torn", "1")...)
	refused(ann, others, set("torn", "2")...)
	is("a6 b1 n3 torn1")
}
