package replica

import (
	"context"
	"fmt"
	"testing"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/syncer"
)

// sessionConn is a connection as the driver makes them.
type sessionConn struct {
	*conn
	session *cdc.Session
}

func newSession(t *testing.T, rep *Replica) *sessionConn {
	t.Helper()
	c, err := (&sqlite3.SQLiteDriver{}).Open(dsn(rep.Path(), "_busy_timeout=5000"))
	if err != nil {
		t.Fatal(err)
	}
	sc := c.(*sqlite3.SQLiteConn)
	s, err := rep.Log().Session(sc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := sc.Close(); err != nil {
			t.Error(err)
		}
	})
	return &sessionConn{&conn{SQLiteConn: sc}, s}
}

func (s *sessionConn) run(t *testing.T, statements ...string) {
	t.Helper()
	for _, text := range statements {
		st, err := s.session.Prepare(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if err := s.session.Run(context.Background(), st, func() error { return s.exec(st.SQL) }); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
}

// TestSession is a replica under the driver's sessions: what they commit is
// never taken for foreign, and survives pulls and pushes.
func TestSession(t *testing.T) {
	rem := newRemote(t, people, `CREATE TABLE bag(x)`)
	rep := newReplica(t, Config{CheckpointBytes: 32 << 10})
	s := newSession(t, rep)
	s.run(t, `CREATE TABLE early(x)`, `INSERT INTO early VALUES (1)`)
	foreign := func(when string) {
		t.Helper()
		if rep.compare || rep.Log().Foreign() {
			t.Fatalf("%s: our own writes are taken for another program's", when)
		}
	}
	foreign("at the start")
	pulled(t, rep, rem)
	for i := range 25 {
		s.run(t, fmt.Sprintf(`INSERT INTO people(name) VALUES ('p%d')`, i), `BEGIN`, fmt.Sprintf(`INSERT INTO bag VALUES (%d)`, i),
			`UPDATE bag SET x = x + 1000 WHERE x < 5`, `COMMIT`, `BEGIN`, `DELETE FROM people`, `ROLLBACK`)
		foreign("after writes")
		switch i % 5 {
		case 1:
			rem.exec(fmt.Sprintf(`CREATE TABLE r%d(x)`, i), fmt.Sprintf(`INSERT INTO people(id, name) VALUES (-%d, 'remote')`, i))
			pulled(t, rep, rem)
		case 2:
			rem.push(rep, syncer.Limits{Changes: 7})
		case 3:
			if err := rep.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
		case 4:
			cli(t, rep.Path(), fmt.Sprintf(`INSERT INTO early VALUES (%d)`, i))
			s.run(t, `INSERT INTO early VALUES ('after')`)
			if !rep.Log().Foreign() {
				t.Error("another program's write is not noticed")
			}
			for rem.push(rep, syncer.Limits{}) > 0 {
			}
		}
	}
	for rem.push(rep, syncer.Limits{}) > 0 {
	}
	pulled(t, rep, rem)
	foreign("at the end")
	wantRows(t, rep, `SELECT count(*), count(DISTINCT x) FROM bag`, "25 25")
	wantRows(t, rep, `SELECT count(*) FROM people WHERE name LIKE 'p%'`, "25")
	wantRows(t, rep, `SELECT count(*) FROM early`, "11")
	wantRows(t, rep, `SELECT count(*) FROM turso_cdc`, "0")
}
