package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/shim"
	"github.com/tursosync/tursosync/internal/wire"
)

// A partial replica may begin with the pages that a query reads
// (server_query_selector, PROTOCOL.md §2.7). The query is run to its end in the read
// transaction of the answer, as a stranger's that may read and nothing else, with an
// empty page cache, and SQLite's reads of the database file and the WAL are noted.
// Those of the schema are among them. The client loads what else it needs later.

// queryError says what is wrong with the query of a pull.
type queryError struct{ err error }

func (e *queryError) Error() string { return "server_query_selector: " + e.err.Error() }
func (e *queryError) Unwrap() error { return e.err }

// byQuery tells whether a query chooses the pages of an answer. In all other cases
// it would hide pages that the client has to have.
func byQuery(req wire.PullRequest) bool {
	return req.QuerySelector != "" && req.ClientRevision == "" && req.ServerRevision == "" && len(req.Selector) == 0
}

// touched runs a query on a connection that has a read transaction, and returns the
// pages it read; nil: the WAL is not the one of state any more.
func (h *history) touched(ctx context.Context, c *conn, query string, state shim.WALState) (*page.Set, error) {
	reads, err := c.db.NoteReads()
	if err != nil {
		return nil, err
	}
	err = c.readAll(ctx, "SELECT name, sql FROM sqlite_schema")
	if err == nil {
		if err = c.restrict(ReadOnly); err == nil {
			c.limit(h.cfg)
			if e := c.readAll(ctx, query); e != nil {
				err = &queryError{e}
			}
			c.own = true // from now on
		}
	}
	pages, frames, e := reads.Stop()
	if err = errors.Join(err, e); err != nil {
		return nil, err
	}
	set := &page.Set{}
	set.Add(1)
	for _, no := range pages {
		set.Add(no)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state.Salt != state.Salt {
		return nil, nil
	}
	for _, f := range frames {
		if f > uint32(len(h.frames)) {
			return nil, fmt.Errorf("frame %d was read, of %d", f, len(h.frames))
		}
		set.Add(h.frames[f-1].no)
	}
	return set, nil
}

// readAll runs one statement that does not write to its end.
func (c *conn) readAll(ctx context.Context, sql string) error {
	s, tail, err := c.db.Prepare(sql)
	if err != nil {
		return err
	}
	if s == nil {
		return errors.New("there is no statement")
	}
	defer s.Close()
	if strings.Trim(tail, " \t\r\n;") != "" {
		return errors.New("there is more than one statement")
	}
	if !s.ReadOnly() {
		return errors.New("the statement is not one that only reads")
	}
	defer interruptible(ctx, c)()
	for {
		if row, err := s.Step(); err != nil || !row {
			return err
		}
	}
}
