package replica

import (
	"slices"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/page"
)

// Which database the staged pages are of: the one that base came from, that one as it
// was before, or another; and what it holds of us.

// follow works out what the new base means for the state: which changes it
// holds already, and whether it is a continuation of what we know.
func (b *rebase) follow() error {
	d, next := b.delta, &b.next
	if d == nil {
		return nil
	}
	var err error
	if next.baseSum, err = b.old.sumAfter(next.baseSum, d); err != nil {
		return err
	}
	marks, err := b.stage.conn.marks()
	if hasCode(err, sqlite3.ErrError) {
		return badAnswer("the remote's table of watermarks cannot be read: %v", err)
	}
	if err != nil {
		return b.damaged(err)
	}
	before, was, err := b.oldMarks()
	if err != nil {
		return err
	}
	back := wentBack(before, marks)
	if back {
		if !d.whole {
			return errLineage
		}
		b.report.RemoteReset = true
	}
	if d.reset {
		b.report.RemoteReset = true
	}
	next.revision, next.basePages, next.lastPull = d.to, d.count, d.ID()
	if d.whole {
		next.bootstrap = false
	}
	own, found := marks[next.clientID]
	if found && !next.recognise(own.id) {
		b.r.cfg.Logger.Warn("remote holds changes under our client id that are not ours: going on under a new one")
		if err := next.renew(own.id, true); err != nil {
			return err
		}
		found = false
	}
	// Fewer changes of ours than it has acknowledged: an answer from before the last
	// push, or a remote that was restored since, or never did what it said.
	if !found && next.known || found && own.id < next.watermark || b.report.RemoteReset {
		b.report.WantWatermark = true
	}
	next.baseMark = next.contained(marks)
	next.formers = slices.DeleteFunc(slices.Clone(next.formers), func(f former) bool { return f.Floor <= next.baseMark })
	next.adopt = ""
	b.report.Revision, b.report.Pages = d.to, len(d.order)
	b.report.Changed = next.basePages != b.old.pageCount || next.baseSum != b.r.state().baseSum
	if err := b.keepLost(was, back); err != nil {
		return err
	}
	b.report.Tables, err = b.tables(was)
	return err
}

// keepLost keeps a copy of base when the remote has lost what replicas had pushed,
// or has come back without any table: like emptied, for remotes whose empty database
// has a first page. Base may be the last copy of it.
func (b *rebase) keepLost(was schema, back bool) error {
	if !b.delta.whole || b.delta.count == 0 || len(was.userTables()) == 0 {
		return nil
	}
	if !back {
		is, err := readSchema(b.stage.conn)
		if err != nil {
			return b.damaged(err)
		}
		if len(is.userTables()) > 0 {
			return nil
		}
	}
	return b.r.backUpBase()
}

// userTables lists the tables that are neither ours nor the protocol's.
func (s schema) userTables() []string {
	names := make(map[string]bool)
	for _, o := range s {
		if o.kind == "table" {
			names[o.table] = true
		}
	}
	return userTables(names)
}

// tables names the tables that the delta may have changed.
func (b *rebase) tables(was schema) ([]string, error) {
	if !b.report.Changed {
		return nil, nil
	}
	is, err := readSchema(b.stage.conn)
	if err != nil {
		return nil, b.damaged(err)
	}
	if !slices.Equal(was, is) {
		names := make(map[string]bool)
		for _, o := range append(slices.Clone(was), is...) {
			if o.kind == "table" {
				names[o.table] = true
			}
		}
		return userTables(names), nil
	}
	changed := b.delta.pages.Clone()
	if b.delta.whole {
		changed = new(page.Set)
		if err := compareFiles(b.stage.main, b.delta.count, b.old, changed); err != nil {
			return nil, err
		}
	}
	changed.Truncate(page.No(b.delta.count))
	return touched(is, changed, b.delta.count, b.stage.readBase)
}

// oldMarks reads every client's watermark in base as it is now, and its schema.
func (b *rebase) oldMarks() (map[string]watermark, schema, error) {
	if b.old.pageCount == 0 {
		return nil, nil, nil
	}
	c, err := openConn(b.old.path, "mode=ro&immutable=1")
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	marks, err := c.marks()
	if err != nil {
		return nil, nil, err
	}
	s, err := readSchema(c)
	return marks, s, err
}

// wentBack tells whether a client's watermark fell or vanished: time goes forward
// on a remote, unless it was restored or is another one.
func wentBack(before, after map[string]watermark) bool {
	for client, was := range before {
		now, ok := after[client]
		if !ok || now.generation < was.generation || now.generation == was.generation && now.id < was.id {
			return true
		}
	}
	return false
}

// recognise tells whether a watermark found under our client id is one that we
// know of, and takes note of it.
func (s *state) recognise(mark cdc.ID) bool {
	if mark <= s.watermark {
		return true // an answer from before our last push
	}
	if !slices.Contains(s.intents, mark) {
		return false
	}
	s.acknowledge(mark)
	return true
}

// acknowledge moves the watermark.
func (s *state) acknowledge(mark cdc.ID) {
	s.watermark, s.known = mark, true
	s.sent = max(s.sent, mark)
	s.intents = slices.DeleteFunc(slices.Clone(s.intents), func(id cdc.ID) bool { return id <= mark })
}

// renew takes a new client id: the watermark found under the old one is not of
// our doing. Changes up to where the histories part are on the remote; the rest
// of the log is pending again.
func (s *state) renew(mark cdc.ID, found bool) error {
	id, err := newClientID(clientName(s.clientID))
	if err != nil {
		return err
	}
	floor := cdc.ID(0)
	if found {
		floor = min(mark, s.watermark)
	}
	s.formers = append(slices.Clone(s.formers), former{ClientID: s.clientID, Floor: floor})
	s.clientID, s.watermark, s.known, s.intents = id, 0, false, nil
	s.sent = floor
	return nil
}

// contained returns up to which id base holds the log, going by the watermarks
// in it.
func (s *state) contained(marks map[string]watermark) cdc.ID {
	id := min(marks[s.clientID].id, s.watermark)
	for _, f := range s.formers {
		id = max(id, min(marks[f.ClientID].id, f.Floor))
	}
	return id
}
