package tursosync

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/tursosync/tursosync/cdc"
)

// DefaultTokenEnv is the environment variable that the token is read from when
// no setting names another source. It may be unset: servers on the own machine
// need no token.
const DefaultTokenEnv = "TURSO_AUTH_TOKEN"

// Off is the value of SyncInterval, LongPoll and PushDelay for "not at all". A
// DSN spells it "off" or "0".
const Off time.Duration = -1

// SyncMode says what happens without being asked for.
type SyncMode string

// The sync modes. The zero value is SyncAuto.
const (
	SyncAuto   SyncMode = "auto"   // push after commits, pull by interval or long poll
	SyncPush   SyncMode = "push"   // push after commits, pull on request
	SyncPull   SyncMode = "pull"   // pull by interval or long poll, push on request
	SyncManual SyncMode = "manual" // only on request: Push, Pull, Sync
)

// Existing says what becomes of a database file that is full of data but is not
// yet a replica of the remote.
type Existing string

// The ways to adopt a file. The zero value is ExistingAuto.
const (
	// ExistingAuto uploads the file to a remote that is empty; if the remote is
	// not, both are left alone and syncing stops with an error.
	ExistingAuto Existing = "auto"
	// ExistingUpload keeps the file's rows: what the remote has not is pushed, and
	// where both have a row, the file's wins.
	ExistingUpload Existing = "upload"
	// ExistingDownload takes the remote's content; the file is kept as a backup
	// beside it.
	ExistingDownload Existing = "download"
	// ExistingRefuse fails to open such a file.
	ExistingRefuse Existing = "refuse"
)

// RejectPolicy says what becomes of a transaction that the remote can never take.
type RejectPolicy string

// The policies. The zero value is RejectQuarantine.
const (
	// RejectQuarantine moves the transaction into turso_sync_rejected with the
	// remote's words, says so in events, Status and Stats, and goes on.
	RejectQuarantine RejectPolicy = "quarantine"
	// RejectHalt stops pushing until somebody decides.
	RejectHalt RejectPolicy = "halt"
)

// TokenSource returns a token for the remote. It is called when one is needed
// and again after the remote refused the last one, from any goroutine.
type TokenSource func(ctx context.Context) (string, error)

// Config are the settings of a database. The zero value of every field but Path
// works. [ParseDSN] makes a Config from a DSN, and Config.DSN spells one.
//
// The fields from URL to Logger belong to the replica, which all that open one
// file in a process share: the first one to open it decides, and others may leave
// them out or give the same.
type Config struct {
	// Path is the database file, as go-sqlite3 takes it: a path, a file: URI
	// without its query, or ":memory:".
	Path string
	// Options are the options of go-sqlite3 (_busy_timeout, _foreign_keys, _loc,
	// _txlock …) and, if Path is a file: URI, those of SQLite (mode, cache, vfs …).
	// They are passed on as they are; some that a replica cannot live with are
	// refused.
	Options url.Values

	// URL is the remote: libsql://, turso://, https:// or http://. Empty: a local
	// database whose changes are logged, so that it can be given a remote later.
	URL string
	// AuthToken is the token itself. At most one of AuthToken, AuthTokenEnv,
	// AuthTokenFile and TokenSource may be set.
	AuthToken string
	// AuthTokenEnv names the environment variable that holds the token; default
	// DefaultTokenEnv.
	AuthTokenEnv string
	// AuthTokenFile names a file that holds the token. It is read again whenever
	// a token is needed, so it may be replaced.
	AuthTokenFile string
	// TokenSource returns the token.
	TokenSource TokenSource
	// ClientName starts the replica's client id, by which one finds it in the
	// remote's turso_sync_last_change_id: up to 64 letters, digits, '.', '_' or '-'.
	ClientName string

	// Sync says what is pushed and pulled without being asked for.
	Sync SyncMode
	// SyncInterval is the time between pulls; 0 means 5s. Off is possible with
	// LongPoll; without, Sync says what is not pulled.
	SyncInterval time.Duration
	// LongPoll makes pulls wait for news at the remote, up to this long; 0 and Off
	// mean that they do not.
	LongPoll time.Duration
	// PushDelay is how long a push waits for further commits; 0 means 50ms, Off not
	// at all.
	PushDelay time.Duration
	// Existing says what to do with a file full of data that is no replica yet.
	Existing Existing
	// OnReject says what to do with a transaction that the remote refuses for good.
	OnReject RejectPolicy
	// Transform, if not nil, is shown every row change on its way to the remote,
	// and may skip it or send another statement instead. The next pull that brings
	// pages then makes the row here what it is there.
	Transform cdc.Transform
	// HTTPClient talks to the remote; nil means one of our own. Its Transport is used,
	// and its Timeout for how long the remote may take to answer or stand still (0: a
	// minute); redirects are not followed, and there are no cookies.
	HTTPClient *http.Client
	// Logger is told what the syncer does; nil means nobody.
	Logger *slog.Logger

	// ConnectHook is called with every new connection before it is used, and with
	// the connections on which the replica itself replays changes: the place for
	// functions, collations and PRAGMAs. Update, pre-update, commit, rollback and
	// authorizer hooks belong to the driver; registering one makes the connection
	// fail rather than lose changes.
	ConnectHook func(*sqlite3.SQLiteConn) error
	// Extensions are loaded into every new connection of the pool. If indexes,
	// generated columns or CHECK constraints use what an extension brings, load it in
	// ConnectHook instead.
	Extensions []string
}

// String returns the DSN with secrets left out.
func (c Config) String() string { return c.redacted().DSN() }

// GoString returns String, so that no verb of fmt prints a token.
func (c Config) GoString() string { return c.String() }

// LogValue returns String for log/slog.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

func (c Config) redacted() Config {
	const hidden = "REDACTED"
	if c.AuthToken != "" {
		c.AuthToken = hidden
	}
	// A URL that Validate would refuse may hold a token as well.
	if u, err := url.Parse(c.URL); err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		c.URL = hidden
	}
	c.Options = cloneValues(c.Options)
	for _, key := range []string{"_auth_pass", "_auth_salt"} {
		if c.Options.Has(key) {
			c.Options.Set(key, hidden)
		}
	}
	return c
}

func cloneValues(v url.Values) url.Values {
	if v == nil {
		return nil
	}
	out := make(url.Values, len(v))
	for key, values := range v {
		out[key] = slices.Clone(values)
	}
	return out
}

// Validate reports the first setting that cannot be used as a *ConfigError. It
// touches neither the database nor the network; a token file must exist.
func (c Config) Validate() error {
	_, err := c.resolve()
	return err
}

// checkReplica checks the settings of the remote and of syncing.
func (c Config) checkReplica() error {
	if c.URL == "" {
		return c.checkLocal()
	}
	if err := checkURL(c.URL); err != nil {
		return err
	}
	if err := c.checkToken(); err != nil {
		return err
	}
	return c.checkSync()
}

// checkLocal refuses settings that do nothing without a remote: most likely the
// url was forgotten.
func (c Config) checkLocal() error {
	for _, s := range []struct {
		key string
		set bool
	}{
		{keyAuthToken, c.AuthToken != ""},
		{keyAuthTokenEnv, c.AuthTokenEnv != ""},
		{keyAuthTokenFile, c.AuthTokenFile != ""},
		{"TokenSource", c.TokenSource != nil},
		{keySync, c.Sync != ""},
		{keySyncInterval, c.SyncInterval != 0},
		{keyLongPoll, c.LongPoll != 0},
		{keyPushDelay, c.PushDelay != 0},
		{keyExisting, c.Existing != ""},
		{keyOnReject, c.OnReject != ""},
		{"Transform", c.Transform != nil},
	} {
		if s.set {
			return badConfig(s.key, "has no effect without a url: give the url of the remote, or leave it out")
		}
	}
	return c.checkClientName()
}

func (c Config) checkClientName() error {
	const limit = 64
	if len(c.ClientName) > limit {
		return badConfig(keyClientName, "is longer than %d characters", limit)
	}
	allowed := func(r rune) bool {
		return r == '.' || r == '_' || r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	}
	if strings.ContainsFunc(c.ClientName, func(r rune) bool { return !allowed(r) }) {
		return badConfig(keyClientName, "may hold letters, digits, '.', '_' and '-' only")
	}
	return nil
}

// checkToken checks where the token comes from; the token itself is looked at
// only to see that a source that was named holds one.
func (c Config) checkToken() error {
	first := ""
	for _, s := range []struct {
		key string
		set bool
	}{
		{keyAuthToken, c.AuthToken != ""},
		{keyAuthTokenEnv, c.AuthTokenEnv != ""},
		{keyAuthTokenFile, c.AuthTokenFile != ""},
		{"TokenSource", c.TokenSource != nil},
	} {
		if !s.set {
			continue
		}
		if first != "" {
			return badConfig(s.key, "contradicts %s: give one source of the token", first)
		}
		first = s.key
	}
	if c.TokenSource != nil {
		return nil
	}
	_, err := c.token()
	return err
}

// token returns the token of the sources that a DSN can name; empty: none.
func (c Config) token() (string, error) {
	key, token := keyAuthToken, c.AuthToken
	switch {
	case c.AuthToken != "":
	case c.AuthTokenFile != "":
		b, err := os.ReadFile(c.AuthTokenFile)
		if err != nil {
			return "", &ConfigError{Key: keyAuthTokenFile, Why: "cannot be read: " + err.Error(), Err: err}
		}
		if key, token = keyAuthTokenFile, strings.TrimSpace(string(b)); token == "" {
			return "", badConfig(key, "%s is empty", c.AuthTokenFile)
		}
	case c.AuthTokenEnv != "":
		if key, token = keyAuthTokenEnv, strings.TrimSpace(os.Getenv(c.AuthTokenEnv)); token == "" {
			return "", badConfig(key, "environment variable %s is not set", c.AuthTokenEnv)
		}
	default:
		key, token = keyAuthTokenEnv, strings.TrimSpace(os.Getenv(DefaultTokenEnv))
	}
	// It becomes a header line.
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", badConfig(key, "the token holds characters that no token has")
	}
	return token, nil
}

// tokenSource returns the configured source of tokens as a function.
func (c Config) tokenSource() TokenSource {
	if c.TokenSource != nil {
		return c.TokenSource
	}
	return func(context.Context) (string, error) { return c.token() }
}

func (c Config) checkSync() error {
	if err := c.checkClientName(); err != nil {
		return err
	}
	if err := oneOf(keySync, c.Sync, SyncAuto, SyncPush, SyncPull, SyncManual); err != nil {
		return err
	}
	if err := oneOf(keyExisting, c.Existing, ExistingAuto, ExistingUpload, ExistingDownload, ExistingRefuse); err != nil {
		return err
	}
	if err := oneOf(keyOnReject, c.OnReject, RejectQuarantine, RejectHalt); err != nil {
		return err
	}
	pulls := c.Sync != SyncManual && c.Sync != SyncPush
	pushes := c.Sync != SyncManual && c.Sync != SyncPull
	for _, d := range []struct {
		key   string
		value time.Duration
		used  bool
	}{
		{keySyncInterval, c.SyncInterval, pulls},
		{keyLongPoll, c.LongPoll, pulls},
		{keyPushDelay, c.PushDelay, pushes},
	} {
		if d.value < 0 && d.value != Off {
			return badConfig(d.key, "%v is negative", d.value)
		}
		if d.value != 0 && !d.used {
			return badConfig(d.key, "contradicts sync=%s, which never uses it", c.Sync)
		}
	}
	if c.SyncInterval == Off && pulls && c.LongPoll <= 0 {
		return badConfig(keySyncInterval, "is off, and so is longPoll: nothing would be pulled; say sync=push or sync=manual instead")
	}
	return nil
}

func oneOf[T ~string](key string, got T, allowed ...T) error {
	if got == "" || slices.Contains(allowed, got) {
		return nil
	}
	names := make([]string, len(allowed))
	for i, a := range allowed {
		names[i] = string(a)
	}
	return badConfig(key, "%q is none of %s", keyWithin(string(got)), strings.Join(names, ", "))
}

// checkURL checks the address of the remote.
func checkURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		// The parser's words repeat the text, which may hold a password.
		return badConfig(keyURL, "is not a valid URL")
	}
	switch u.Scheme {
	case "libsql", "turso", "https", "http":
	case "ws", "wss":
		return badConfig(keyURL, "scheme %s: web sockets are not spoken here, use libsql:// or https://", u.Scheme)
	default:
		return badConfig(keyURL, "scheme %q is none of libsql, turso, https, http", keyWithin(u.Scheme))
	}
	switch {
	case u.Hostname() == "":
		return badConfig(keyURL, "has no host")
	case u.User != nil:
		return badConfig(keyURL, "holds a user or password: give the token as authToken")
	case u.RawQuery != "" || u.ForceQuery:
		return badConfig(keyURL, "has a query: give settings beside the url, and escape '&' in it as %%26")
	case u.Fragment != "":
		return badConfig(keyURL, "has a fragment")
	}
	return nil
}
