package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/internal/fault"
)

// Each sync client has a row in the table of watermarks, which says how much of its
// log the database holds. Whoever changes the row of another client makes that one
// push twice, or not at all. So those who may not do everything write there
//
//   - inside a transaction, as all sync clients do;
//   - no columns of rows that exist but pull_gen and change_id;
//   - nothing away: neither DELETE nor REPLACE; and
//   - no rows of clients that have been another's before: a client belongs to the
//     subject of the token that wrote its row first.
//
// Which rows a statement wrote SQLite's update hook tells; before the next
// statement, thus before COMMIT, it is looked whose they are.

// WatermarkTable is the table in which sync clients note how far they have pushed, by
// its folded name.
const WatermarkTable = "turso_sync_last_change_id"

// Subject is a [Permission] of somebody in particular, by a name that stays the same
// from token to token; empty: nobody's. See the package comment about rows of
// clients.
type Subject interface {
	Subject() string
}

// marks tells whether the action is one on the rows of clients, and whether it is
// one that is permitted there.
func (c *conn) marks(a Action) (is, ok bool) {
	if c.catalog == nil || len(a.Arg1) != len(WatermarkTable) || a.Schema != "main" || foldName(a.Arg1) != WatermarkTable {
		return false, false
	}
	switch column := foldName(a.Arg2); a.Code {
	case sqlite3.SQLITE_UPDATE:
		is, ok = true, column == "pull_gen" || column == "change_id"
	case sqlite3.SQLITE_INSERT:
		is, ok = true, true
	case sqlite3.SQLITE_DELETE:
		is = true
	}
	ok = ok && !a.Replaces
	if is && ok && c.db.Info().Autocommit {
		c.missing = "right to write to " + WatermarkTable + " outside of a transaction"
		ok = false
	}
	return is, ok
}

// watch has the rows of clients noted that are written from now on.
func (c *conn) watch() {
	if c.marked != nil {
		return
	}
	c.marked = map[int64]bool{}
	c.c.RegisterUpdateHook(func(_ int, schema, table string, rowid int64) {
		if schema == "main" && foldName(table) == WatermarkTable {
			c.marked[rowid] = true
		}
	})
}

// checkMarks looks whose rows were written. If they are another's, the transaction
// is rolled back.
func (c *conn) checkMarks() error {
	subject := ""
	if s, ok := c.permission.(Subject); ok {
		subject = s.Subject()
	}
	names, err := c.markedClients()
	clear(c.marked)
	if err == nil && c.clients != nil {
		err = c.clients.claim(names, subject)
	}
	if err != nil && !c.db.Info().Autocommit {
		if back := c.exec("ROLLBACK"); back != nil {
			c.permission = NoAccess // to COMMIT, above all
			err = errors.Join(err, back)
		}
	}
	return err
}

// markedClients names the clients whose rows were written and are still there.
func (c *conn) markedClients() (names []string, err error) {
	c.own = true
	defer func() { c.own = false }()
	s, _, err := c.db.Prepare("SELECT client_id FROM main." + WatermarkTable + " WHERE rowid = ?")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	for rowid := range c.marked {
		s.Reset()
		if err := s.Bind(1, rowid); err != nil {
			return nil, err
		}
		if row, err := s.Step(); err != nil {
			return nil, err
		} else if !row {
			continue
		}
		name, ok := s.Column(0).(string)
		if !ok {
			return nil, refuse("the client of a row in %s has no name", WatermarkTable)
		}
		names = append(names, name)
	}
	return names, nil
}

// clients says whom the clients belong to. It is kept in the file NAME.db-clients, a
// JSON array of client and subject each line; of two for one client the first counts.
// Without the file everybody's next push is the first.
type clients struct {
	file string

	mu      sync.Mutex // guards what follows
	loaded  bool
	subject map[string]string
}

const clientsSuffix = "-clients"

// claim returns an error unless a subject may write for all of the clients. Those
// that are nobody's are the subject's from then on.
func (k *clients) claim(names []string, subject string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(); err != nil {
		return err
	}
	var fresh []string
	for _, name := range names {
		switch owner, ok := k.subject[name]; {
		case ok && owner != subject:
			return refuse("client %q in %s is that of another subject; nothing was changed", name, WatermarkTable)
		case !ok && subject != "":
			fresh = append(fresh, name)
		}
	}
	for _, name := range fresh {
		line, err := json.Marshal([2]string{name, subject})
		if err == nil {
			err = k.append(append(line, '\n'))
		}
		if err != nil {
			return fmt.Errorf("note whose client it is: %w", err)
		}
		k.subject[name] = subject
	}
	return nil
}

func (k *clients) load() error {
	if k.loaded {
		return nil
	}
	b, err := fault.ReadFile(k.file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read whose clients there are: %w", err)
	}
	k.subject = map[string]string{}
	for line := range strings.Lines(string(b)) {
		var pair [2]string
		if json.Unmarshal([]byte(line), &pair) != nil {
			continue // one that was being written when the machine died
		}
		if _, ok := k.subject[pair[0]]; !ok {
			k.subject[pair[0]] = pair[1]
		}
	}
	k.loaded = true
	return nil
}

// append adds a line, behind one that was torn.
func (k *clients) append(line []byte) (err error) {
	f, err := fault.OpenFile(k.file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if end > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, end-1); err != nil {
			return err
		}
		if last[0] != '\n' {
			line = append([]byte{'\n'}, line...)
		}
	}
	if _, err := f.Write(line); err != nil {
		return err
	}
	return f.Sync()
}
