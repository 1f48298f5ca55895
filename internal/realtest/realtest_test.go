package realtest

import (
	"reflect"
	"testing"
)

// TestRoundTrip shows that both programs run: the official client pushes a row to
// tursodb, a second one pulls it, and a restart keeps it.
func TestRoundTrip(t *testing.T) {
	srv := StartTursodb(t)
	Exec(t, srv.URL, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
	node := StartNode(t)
	a, err := node.Open(ClientOptions{URL: srv.URL, ClientName: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Query("INSERT INTO t(v) VALUES (?),(?),(?),(?)", "x", int64(1<<60), 1.5, []byte{0, 1}); err != nil {
		t.Fatal(err)
	}
	if err := a.Push(); err != nil {
		t.Fatal(err)
	}
	srv.Restart()
	b, err := node.Open(ClientOptions{URL: srv.URL, ClientName: "b"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.Query("SELECT v FROM t ORDER BY id")
	want := [][]any{{"x"}, {int64(1 << 60)}, {1.5}, {[]byte{0, 1}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("rows = %v, %v, want %v", got, err, want)
	}
	if changed, err := b.Pull(); err != nil || changed {
		t.Errorf("Pull() = %v, %v, want false", changed, err)
	}
	for _, c := range []*Client{a, b} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := a.Push(); err == nil {
		t.Error("Push on a closed client succeeded")
	}
}
