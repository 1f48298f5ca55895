package replica

import (
	"crypto/rand"
	"database/sql/driver"
	"encoding/json"
	"fmt"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/page"
)

// stateFormat is the version of the on-disk format: the state's keys, the local
// tables, the side files.
const stateFormat = 1

// state is what the replica believes, as kept in turso_sync_state of live. It
// moves in the same commit as the data it is about. Beside these keys the table
// holds what cdc keeps there: "last_id" and the shapes.
type state struct {
	clientID  string
	remoteURL string

	// base
	revision  page.Revision
	basePages uint32
	baseSum   uint64 // sumPages of base
	baseMark  cdc.ID // our watermark inside base; the log holds nothing below
	lastPull  string // id of the last delta that was committed into live

	// push
	watermark cdc.ID   // the remote's row for clientID, as far as known
	known     bool     // there is such a row
	sent      cdc.ID   // changes up to here are on the remote, or rejected: not pending
	intents   []cdc.ID // watermarks that pushes of unknown outcome may have left, ascending
	formers   []former // earlier client ids of this log

	bootstrap bool   // the next pull takes everything anew
	adopt     string // adoptPending, or empty
}

// former is a client id that this replica gave up. Base may still hold, under
// the old name, changes that are in the log: those up to the watermark found in
// base, but no more than Floor, where the histories part.
type former struct {
	ClientID string `json:"client_id"`
	Floor    cdc.ID `json:"floor"`
}

// adoptPending: live holds rows from before it became a replica, which are
// neither in base nor in the log; the first pull decides what becomes of them.
const adoptPending = "pending"

// fields spells the state for turso_sync_state.
func (s *state) fields() map[string]driver.Value {
	number := func(b bool) int64 {
		if b {
			return 1
		}
		return 0
	}
	list := func(v any, n int) driver.Value {
		if n == 0 {
			return ""
		}
		text, err := json.Marshal(v)
		if err != nil {
			panic(err) // numbers and strings
		}
		return string(text)
	}
	return map[string]driver.Value{
		"format":     int64(stateFormat),
		"client_id":  s.clientID,
		"remote_url": s.remoteURL,
		"revision":   string(s.revision),
		"base_pages": int64(s.basePages),
		"base_sum":   int64(s.baseSum),
		"base_mark":  int64(s.baseMark),
		"pull":       s.lastPull,
		"watermark":  int64(s.watermark),
		"known":      number(s.known),
		"sent":       int64(s.sent),
		"intent":     list(s.intents, len(s.intents)),
		"former":     list(s.formers, len(s.formers)),
		"bootstrap":  number(s.bootstrap),
		"adopt":      s.adopt,
	}
}

// readState reads the state of live; found is false for a file that is no replica.
func readState(c *conn) (s state, found bool, err error) {
	n, err := c.number(`SELECT count(*) FROM sqlite_schema WHERE name = ? COLLATE NOCASE`, cdc.StateTable)
	if err != nil || n == 0 {
		return state{}, false, err
	}
	kept := make(map[string]driver.Value)
	err = c.query(`SELECT key, +value FROM turso_sync_state WHERE key NOT LIKE 'shape.%'`, nil, func(row []driver.Value) error {
		if key, ok := row[0].(string); ok {
			kept[key] = row[1]
		}
		return nil
	})
	if err != nil {
		return state{}, false, fmt.Errorf("read state: %w", err)
	}
	if _, ok := kept["client_id"]; !ok {
		return state{}, false, nil
	}
	if err := s.parse(kept); err != nil {
		return state{}, false, fmt.Errorf("read state: %w", err)
	}
	return s, true, nil
}

func (s *state) parse(kept map[string]driver.Value) error {
	var bad error
	number := func(key string) int64 {
		n, ok := kept[key].(int64)
		if !ok && kept[key] != nil {
			bad = fmt.Errorf("%s is a %T", key, kept[key])
		}
		return n
	}
	text := func(key string) string {
		t, ok := kept[key].(string)
		if !ok && kept[key] != nil {
			bad = fmt.Errorf("%s is a %T", key, kept[key])
		}
		return t
	}
	list := func(key string, into any) {
		if t := text(key); t != "" {
			if err := json.Unmarshal([]byte(t), into); err != nil {
				bad = fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	if f := number("format"); f != stateFormat {
		return fmt.Errorf("%w: %d, this program knows %d", ErrFormat, f, stateFormat)
	}
	*s = state{
		clientID:  text("client_id"),
		remoteURL: text("remote_url"),
		revision:  page.Revision(text("revision")),
		basePages: uint32(number("base_pages")),
		baseSum:   uint64(number("base_sum")),
		baseMark:  cdc.ID(number("base_mark")),
		lastPull:  text("pull"),
		watermark: cdc.ID(number("watermark")),
		known:     number("known") != 0,
		sent:      cdc.ID(number("sent")),
		bootstrap: number("bootstrap") != 0,
		adopt:     text("adopt"),
	}
	list("intent", &s.intents)
	list("former", &s.formers)
	return bad
}

const putState = `INSERT INTO turso_sync_state(key, value) VALUES (?, ?)
	ON CONFLICT(key) DO UPDATE SET value = excluded.value WHERE value IS NOT excluded.value`

// writeState writes the keys in which s differs from old (nil: all). The caller
// owns the transaction.
func writeState(c *conn, old, s *state) error {
	var had map[string]driver.Value
	if old != nil {
		had = old.fields()
	}
	for key, value := range s.fields() {
		if v, ok := had[key]; ok && v == value {
			continue
		}
		if err := c.exec(putState, key, value); err != nil {
			return fmt.Errorf("write state %s: %w", key, err)
		}
	}
	return nil
}

// newClientID returns a name that no other replica has: the user's part and a
// random UUID (version 4).
func newClientID(name string) (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make client id: %w", err)
	}
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%s-%x-%x-%x-%x-%x", name, b[0:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

// clientName is the user's part of a client id.
func clientName(id string) string {
	const uuid = 37 // with the dash before it
	if len(id) <= uuid {
		return id
	}
	return id[:len(id)-uuid]
}
