package remote

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/syncer"
)

// ErrWatermarkMoved is the error of a push whose fence failed: the remote's
// watermark for this client is not the expected one. Nothing was executed.
var ErrWatermarkMoved = errors.New("remote holds another watermark than expected")

// Outcome says what is known of a request that did not succeed. Only
// [Unknown] leaves open whether the remote executed it.
type Outcome int

// The outcomes.
const (
	NeverSent Outcome = iota // no byte of it reached the remote
	Unknown                  // sent, but there is no answer that can be relied on
	Answered                 // the remote said that it did not do it
)

func (o Outcome) String() string {
	return [...]string{"never sent", "outcome unknown", "answered"}[o]
}

// Kind says what may be done about an error.
type Kind int

// The kinds of errors.
const (
	// Retry: the same request may succeed later. Network, timeouts, rate limits,
	// server errors, busy databases, answers of somebody who is not the remote.
	Retry Kind = iota
	// Auth: the remote does not take the token, or takes no requests with it now.
	Auth
	// Denied: the remote takes the token, but it does not permit the statement.
	Denied
	// Moved: the fence of a push failed; see [ErrWatermarkMoved].
	Moved
	// Refused: a mutation broke a constraint on the remote, or cannot be had there
	// for another reason that lies in its values; see [Error.Mutation].
	Refused
	// TooLarge: the batch is larger than the remote, or somebody on the way, takes.
	TooLarge
	// Disagreement: the remote's schema, or its way to speak, is not what was
	// believed. Somebody has to decide.
	Disagreement
	// Unsupported: the remote is of a sort that this client cannot sync with.
	Unsupported
)

func (k Kind) String() string {
	return [...]string{"retry", "auth", "denied", "moved", "refused", "too large", "disagreement", "unsupported"}[k]
}

// Error is every error of a request to the remote except those of its caller's
// own sink. It never holds the token.
type Error struct {
	Op      string // "pull", "push", "watermark", "schema"
	Kind    Kind
	Outcome Outcome
	Status  int    // of the HTTP answer; 0: there was none
	Message string // the remote's words, or what is wrong with its answer
	Code    string // the remote's code, e.g. SQLITE_CONSTRAINT
	// RetryAfter is how long the remote asked to wait; 0: it did not.
	RetryAfter time.Duration
	// Mutation is the index into Batch.Mutations of the one that was refused, or
	// -1: another step, or not known.
	Mutation int
	Change   cdc.ID // the change it stems from; 0: not known
	SQL      string // of the statement that failed
	Err      error  // what happened underneath, or nil

	bad bool // the answer breaks the protocol
	// stale: no answer came on a connection that had been used before.
	stale bool
}

func (e *Error) Error() string {
	var b strings.Builder // without Op: whoever asked says what for
	switch {
	case e.Mutation >= 0 && e.Change != 0:
		fmt.Fprintf(&b, "remote refused change %d: ", e.Change)
	case e.Status != 0 && e.Status != 200:
		fmt.Fprintf(&b, "remote answered %d: ", e.Status)
	}
	switch {
	case e.Message != "" && e.Err != nil:
		fmt.Fprintf(&b, "%s: %v", e.Message, e.Err)
	case e.Err != nil:
		b.WriteString(e.Err.Error())
	case e.Message != "":
		b.WriteString(e.Message)
	default:
		b.WriteString(e.Kind.String())
	}
	if e.Outcome != Answered {
		fmt.Fprintf(&b, " (%s)", e.Outcome)
	}
	return b.String()
}

// Unwrap returns the error underneath, so that errors.Is finds
// context.Canceled and the like.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether e is what target says: ErrWatermarkMoved, or one of the
// syncer's conditions of remotes.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrWatermarkMoved:
		return e.Kind == Moved
	case syncer.ErrUnauthorized:
		return e.Kind == Auth || e.Kind == Denied
	case syncer.ErrNotPermitted:
		return e.Kind == Denied
	case syncer.ErrUnsupportedRemote:
		return e.Kind == Unsupported
	case syncer.ErrBadAnswer:
		return e.bad
	}
	return false
}

// Retryable reports whether the same request may succeed later without anybody
// doing anything about it.
func (e *Error) Retryable() bool { return e.Kind == Retry }

// codes maps the codes of servers that have them, by prefix.
var codes = []struct {
	prefix string
	kind   Kind
}{
	{"SQLITE_CONSTRAINT", Refused}, {"SQLITE_MISMATCH", Refused}, {"SQLITE_TOOBIG", Refused},
	{"SQLITE_AUTH", Denied}, {"SQLITE_PERM", Denied}, {"SQLITE_READONLY", Denied},
	// BLOCKED is what Turso Cloud says when a plan is used up, which passes.
	{"BLOCKED", Auth}, {"AUTH_", Auth},
	{"SQLITE_BUSY", Retry}, {"SQLITE_LOCKED", Retry}, {"SQLITE_IOERR", Retry}, {"SQLITE_FULL", Retry},
	{"SQLITE_NOMEM", Retry}, {"SQLITE_INTERRUPT", Retry}, {"SQLITE_PROTOCOL", Retry}, {"TRANSACTION_", Retry},
	{"STREAM_", Retry}, {"PROXY_ERROR", Retry}, {"RESPONSE_TOO_LARGE", Retry},
}

// words maps what servers without such codes say. Texts are matched as
// substrings and without regard to case: the wording is SQLite's, the prefix
// differs (PROTOCOL.md §3.7). The first match wins.
var words = []struct {
	kind Kind
	text []string
}{
	{Disagreement, []string{"no such ", "has no column named", "duplicate column name", "already exists",
		"already another table", "syntax error", "not supported", "values were supplied", "values for"}},
	{Refused, []string{"constraint", "datatype mismatch", "too big", "cannot store"}},
	{Auth, []string{"operation was blocked"}},
	{Denied, []string{"not authorized", "authorization forbidden", "access permission denied", "readonly database"}},
	{Retry, []string{"database is locked", "table is locked", "schema is locked", "database is busy", "within a transaction",
		"interrupted", "disk i/o error", "disk is full", "out of memory", "schema has changed", "write-write conflict"}},
}

// sqlKind classifies the error of a statement. Words that tell nothing are a
// disagreement: nothing is put aside because of an error nobody has foreseen.
func sqlKind(message, code string) Kind {
	for _, c := range codes {
		if strings.HasPrefix(code, c.prefix) {
			return c.kind
		}
	}
	text := strings.ToLower(message)
	// tursodb ends the messages of constraints, RAISE included, with SQLite's
	// number. What stands before may hold names and words of the user's choice.
	if strings.Contains(text, "constraint failed") || strings.HasSuffix(text, "(19)") {
		return Refused
	}
	for _, w := range words {
		for _, t := range w.text {
			if strings.Contains(text, t) {
				return w.kind
			}
		}
	}
	return Disagreement
}

// statusKind classifies an HTTP status.
func statusKind(status int) Kind {
	switch {
	case status == 401 || status == 402 || status == 403:
		return Auth
	case status == 413:
		return TooLarge
	case status == 404 || status == 407 || status == 408 || status == 410 || status == 425 || status == 429:
		// 404: an unknown database, perhaps one that is still being made, or a
		// wrong URL. Asking again later costs nothing. 410: a pinned revision that
		// our own server no longer holds.
		return Retry
	case status == 400 || status == 409 || status == 422:
		return Disagreement
	}
	// 2xx that are not 200, 3xx, and the rest of 4xx: not the remote, but something
	// on the way, like the login page of a network. 5xx: trouble there.
	return Retry
}
