package tursosync

import (
	"errors"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"
)

// Our own keys in a DSN.
const (
	keyPath          = "path"
	keyURL           = "url"
	keyAuthToken     = "authToken"
	keyAuthTokenEnv  = "authTokenEnv"
	keyAuthTokenFile = "authTokenFile"
	keyClientName    = "clientName"
	keySync          = "sync"
	keySyncInterval  = "syncInterval"
	keyLongPoll      = "longPoll"
	keyPushDelay     = "pushDelay"
	keyExisting      = "existing"
	keyOnReject      = "onReject"
)

// ownKey is one of our keys as a spelling of a field.
type ownKey struct {
	name string
	get  func(*Config) string // empty: not set
	set  func(*Config, string) error
}

func textKey(name string, field func(*Config) *string) ownKey {
	return ownKey{name,
		func(c *Config) string { return *field(c) },
		func(c *Config, v string) error { *field(c) = v; return nil }}
}

func wordKey[T ~string](name string, field func(*Config) *T) ownKey {
	return ownKey{name,
		func(c *Config) string { return string(*field(c)) },
		func(c *Config, v string) error { *field(c) = T(v); return nil }}
}

func durationKey(name string, field func(*Config) *time.Duration) ownKey {
	return ownKey{name,
		func(c *Config) string {
			switch d := *field(c); d {
			case 0:
				return ""
			case Off:
				return "off"
			default:
				return d.String()
			}
		},
		func(c *Config, v string) error {
			if v == "off" {
				*field(c) = Off
				return nil
			}
			d, err := time.ParseDuration(v)
			if err != nil {
				return badConfig(name, "is no duration such as 500ms, 10s or off")
			}
			if d < 0 {
				return badConfig(name, "%v is negative", d)
			}
			if d == 0 {
				d = Off
			}
			*field(c) = d
			return nil
		}}
}

// ownKeys are written to a DSN in this order.
var ownKeys = []ownKey{
	textKey(keyURL, func(c *Config) *string { return &c.URL }),
	textKey(keyAuthToken, func(c *Config) *string { return &c.AuthToken }),
	textKey(keyAuthTokenEnv, func(c *Config) *string { return &c.AuthTokenEnv }),
	textKey(keyAuthTokenFile, func(c *Config) *string { return &c.AuthTokenFile }),
	textKey(keyClientName, func(c *Config) *string { return &c.ClientName }),
	wordKey(keySync, func(c *Config) *SyncMode { return &c.Sync }),
	durationKey(keySyncInterval, func(c *Config) *time.Duration { return &c.SyncInterval }),
	durationKey(keyLongPoll, func(c *Config) *time.Duration { return &c.LongPoll }),
	durationKey(keyPushDelay, func(c *Config) *time.Duration { return &c.PushDelay }),
	wordKey(keyExisting, func(c *Config) *Existing { return &c.Existing }),
	wordKey(keyOnReject, func(c *Config) *RejectPolicy { return &c.OnReject }),
}

// sqliteOptions are go-sqlite3's; uriOptions SQLite's own, which count in a file:
// URI only (https://sqlite.org/uri.html).
var (
	sqliteOptions = []string{
		"_auth", "_auth_user", "_auth_pass", "_auth_crypt", "_auth_salt",
		"_loc", "_mutex", "_txlock", "_auto_vacuum", "_vacuum", "_busy_timeout", "_timeout",
		"_case_sensitive_like", "_cslike", "_defer_foreign_keys", "_defer_fk",
		"_foreign_keys", "_fk", "_ignore_check_constraints", "_journal_mode", "_journal",
		"_locking_mode", "_locking", "_query_only", "_recursive_triggers", "_rt",
		"_secure_delete", "_synchronous", "_sync", "_writable_schema", "_cache_size",
		"_stmt_cache_size", "vfs",
	}
	uriOptions = []string{"mode", "cache", "immutable", "nolock", "psow", "modeof"}
)

const uriPrefix = "file:"

// ParseDSN reads a DSN: the file, as go-sqlite3 takes it, and after a question
// mark go-sqlite3's options and our own (see the package comment). It knows
// every key, but does not compare settings with each other; [Config.Validate] does.
// Errors are of type *ConfigError.
func ParseDSN(dsn string) (Config, error) {
	path, query, _ := strings.Cut(dsn, "?")
	cfg := Config{Path: path}
	if path == "" && query != "" {
		return Config{}, badConfig(keyPath, "is missing before the question mark")
	}
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		key, value, err := parsePair(pair)
		if err != nil {
			return Config{}, err
		}
		if err := cfg.put(key, value, seen[key]); err != nil {
			return Config{}, err
		}
		seen[key] = true
	}
	return cfg, nil
}

func parsePair(pair string) (key, value string, err error) {
	rawKey, rawValue, _ := strings.Cut(pair, "=")
	key, err = url.QueryUnescape(rawKey)
	if err != nil || strings.Contains(rawKey, ";") {
		return "", "", badConfig(keyWithin(rawKey), "is not a valid key")
	}
	value, err = url.QueryUnescape(rawValue)
	if err != nil {
		return "", "", badConfig(keyWithin(key), "the value has a percent sign that escapes nothing: write %%25")
	}
	if strings.Contains(rawValue, ";") {
		return "", "", badConfig(keyWithin(key), "the value holds a semicolon: write %%3B")
	}
	return key, value, nil
}

// put sets one key; again tells that it was there before.
func (c *Config) put(key, value string, again bool) error {
	if i := slices.IndexFunc(ownKeys, func(k ownKey) bool { return k.name == key }); i >= 0 {
		if again {
			return badConfig(key, "is given twice")
		}
		if value == "" {
			return badConfig(key, "is empty: give a value or leave it out")
		}
		return ownKeys[i].set(c, value)
	}
	if slices.Contains(sqliteOptions, key) || slices.Contains(uriOptions, key) {
		if c.Options == nil {
			c.Options = url.Values{}
		}
		c.Options.Add(key, value)
		return nil
	}
	return unknownKey(key)
}

func unknownKey(key string) error {
	known := slices.Concat(sqliteOptions, uriOptions)
	for _, k := range ownKeys {
		known = append(known, k.name)
	}
	if k, ok := alike(key, known); ok {
		return badConfig(keyWithin(key), "is not a setting; did you mean %q?", k)
	}
	return badConfig(keyWithin(key), "is not a setting of tursosync, go-sqlite3 or SQLite")
}

// DSN spells the settings that a DSN can hold: all but the functions, HTTPClient,
// Logger, Transform, ConnectHook and Extensions. ParseDSN reads it back. It holds the
// token in clear; String does not.
func (c Config) DSN() string {
	query := encodeOptions(c.Options)
	for _, k := range ownKeys {
		if v := k.get(&c); v != "" {
			query = append(query, k.name+"="+escape(v))
		}
	}
	path := c.Path
	switch {
	case strings.Contains(path, "?") && !strings.HasPrefix(path, uriPrefix):
		path = toURI(path)
	case path == "" && len(query) > 0:
		path = uriPrefix // the same: a temporary database
	}
	return joinQuery(path, query)
}

func encodeOptions(options url.Values) []string {
	var pairs []string
	for _, key := range sortedKeys(options) {
		for _, v := range options[key] {
			pairs = append(pairs, escape(key)+"="+escape(v))
		}
	}
	return pairs
}

func sortedKeys(v url.Values) []string {
	keys := make([]string, 0, len(v))
	for k := range v {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// escape writes a space as %20, which SQLite's URI parser knows; it takes '+' for
// itself.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// toURI spells a plain path as a file: URI.
func toURI(path string) string {
	path = filepath.ToSlash(path)
	if runtime.GOOS == "windows" && len(path) > 1 && path[1] == ':' {
		path = "/" + path // file:///C:/…
	}
	var b strings.Builder
	b.WriteString(uriPrefix)
	if strings.HasPrefix(path, "/") {
		b.WriteString("//")
	}
	for i := range len(path) {
		switch c := path[i]; {
		case c == '%' || c == '?' || c == '#' || c < ' ' || c == 0x7f:
			b.WriteString("%" + strings.ToUpper(strconv.FormatUint(uint64(c)+0x100, 16)[1:]))
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// fromURI returns the path in a file: URI without query, decoded as SQLite does.
func fromURI(uri string) (string, error) {
	s := strings.TrimPrefix(uri, uriPrefix)
	if strings.Contains(s, "?") {
		return "", badConfig(keyPath, "has a query: give it as Options")
	}
	if strings.Contains(s, "#") {
		return "", badConfig(keyPath, "has a fragment: write a '#' in the file's name as %%23")
	}
	if rest, ok := strings.CutPrefix(s, "//"); ok {
		authority, path, found := strings.Cut(rest, "/")
		if authority != "" && authority != "localhost" {
			return "", badConfig(keyPath, "a file: URI with two slashes names a host: write file:name for a relative path, or three slashes")
		}
		s = ""
		if found {
			s = "/" + path
		}
	}
	if !strings.Contains(s, "%") {
		return s, nil
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				if n == 0 {
					return "", badConfig(keyPath, "holds a zero byte")
				}
				out = append(out, byte(n))
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out), nil
}

// kind is what a Config opens.
type kind int

const (
	kindReplica  kind = iota // a file whose changes are logged, with or without a remote
	kindMemory               // plain SQLite in memory or in a temporary file
	kindReadOnly             // plain SQLite, mode=ro: nothing to log, no lock
)

// target is a validated Config: what to open and how.
type target struct {
	kind kind
	path string // of a replica: absolute
	// inner is the DSN for go-sqlite3, without our keys.
	inner string
	// mustExist is mode=rw: the file is not created.
	mustExist bool
	vfs       string
}

// resolve validates c. It touches no database file.
func (c Config) resolve() (target, error) {
	if strings.ContainsRune(c.Path, 0) {
		return target{}, badConfig(keyPath, "holds a zero byte")
	}
	name, uri := c.Path, strings.HasPrefix(c.Path, uriPrefix)
	if uri {
		var err error
		if name, err = fromURI(c.Path); err != nil {
			return target{}, err
		}
	}
	if err := c.checkKeys(); err != nil {
		return target{}, err
	}
	if err := c.checkReplica(); err != nil {
		return target{}, err
	}
	t := target{kind: c.kind(name, uri), vfs: c.Options.Get("vfs")}
	if t.kind != kindReplica {
		return c.resolvePlain(t, uri)
	}
	if err := c.checkOptions(uri); err != nil {
		return target{}, err
	}
	if err := tryOptions(c.Options); err != nil {
		return target{}, err
	}
	// Absolute: connections opened after a chdir must find the same file.
	abs, err := filepath.Abs(filepath.FromSlash(name))
	if err != nil {
		return target{}, &ConfigError{Key: keyPath, Why: "has no absolute form: " + err.Error(), Err: err}
	}
	t.path = abs
	t.mustExist = c.Options.Get("mode") == "rw"
	t.inner = joinQuery(toURI(abs), encodeOptions(c.Options))
	return t, nil
}

// kind tells what the decoded name and the options stand for.
func (c Config) kind(name string, uri bool) kind {
	switch {
	case name == "" || name == ":memory:" || c.Options.Get("vfs") == "memdb":
		return kindMemory
	case uri && c.Options.Get("mode") == "memory":
		return kindMemory
	case uri && c.Options.Get("mode") == "ro":
		return kindReadOnly
	}
	return kindReplica
}

// resolvePlain lets go-sqlite3 have its way: what does not sync is not ours to
// restrict.
func (c Config) resolvePlain(t target, uri bool) (target, error) {
	if c.URL != "" && t.kind == kindMemory {
		return target{}, badConfig(keyURL, "a database in memory cannot be a replica: give a file, or leave the url out")
	}
	if c.URL != "" {
		return target{}, badConfig("mode", "a replica writes to its file: mode=ro goes without a url only")
	}
	path := c.Path
	if strings.Contains(path, "?") && !uri {
		path = toURI(path)
	}
	t.inner = joinQuery(path, encodeOptions(c.Options))
	return t, nil
}

func joinQuery(path string, pairs []string) string {
	if len(pairs) == 0 {
		return path
	}
	return path + "?" + strings.Join(pairs, "&")
}

// checkKeys refuses options that nobody knows: a Config may be made by hand.
func (c Config) checkKeys() error {
	for _, key := range sortedKeys(c.Options) {
		switch {
		case slices.Contains(sqliteOptions, key) || slices.Contains(uriOptions, key):
		case slices.ContainsFunc(ownKeys, func(k ownKey) bool { return k.name == key }):
			return badConfig(key, "is a field of Config, not an option of go-sqlite3")
		default:
			return unknownKey(key)
		}
	}
	return nil
}

// checkOptions refuses what a replica cannot live with.
func (c Config) checkOptions(uri bool) error {
	for _, key := range sortedKeys(c.Options) {
		for _, value := range c.Options[key] {
			if why := refused(key, value); why != "" {
				return badConfig(key, "%s", why)
			}
		}
		value := c.Options.Get(key)
		if !uri && slices.Contains(uriOptions, key) && !harmless(key, value) {
			return badConfig(key, "works in a file: URI only (go-sqlite3 ignores it beside a plain path): write file:name?%s=%s", key, keyWithin(value))
		}
	}
	return nil
}

// harmless tells that an option asks for what is the case without it.
func harmless(key, value string) bool {
	return key == "mode" && value == "rwc" || key == "cache" && value == "private" || key == "psow"
}

// refused says why a replica cannot have this option, or nothing.
func refused(key, value string) string {
	if key != "mode" {
		value = strings.ToLower(value) // go-sqlite3 does; SQLite's mode is exact
	}
	on := slices.Contains([]string{"1", "yes", "true", "on"}, value)
	switch key {
	case "cache":
		if value == "shared" {
			return "shared cache locks whole tables between connections, and pulled pages could not be put under readers; leave it out"
		}
	case "mode":
		if !slices.Contains([]string{"ro", "rw", "rwc", "memory"}, value) {
			return "is none of ro, rw, rwc, memory"
		}
	case "immutable":
		if on {
			return "a file that never changes cannot be a replica; to read a file as it is, use mode=ro"
		}
	case "nolock":
		if on {
			return "without locks SQLite has no WAL, which a replica needs"
		}
	case "vfs":
		// Two VFSs on one file in one process would undo each other's locks.
		if !slices.Contains([]string{"", "unix", "win32"}, value) {
			return "the syncer opens the file too, through the default VFS, and both must be the same; leave it out"
		}
	case "_journal_mode", "_journal":
		if value != "" && value != "wal" {
			return "a replica needs WAL, so that readers never wait for a pull; leave it out, WAL is set by the driver"
		}
	case "_locking_mode", "_locking":
		if value == "exclusive" {
			return "a replica's file is read and written by several connections; leave it out"
		}
	case "_writable_schema":
		if on {
			return "changes of sqlite_schema by hand cannot be sent to the remote"
		}
	case "_auto_vacuum", "_vacuum":
		if value != "" && value != "0" && value != "none" {
			return "the remote decides how pages are laid out, and it does not vacuum by itself"
		}
	}
	return ""
}

// tryOptions has go-sqlite3 itself judge the values of its options, on a
// database in memory.
func tryOptions(options url.Values) error {
	try := func(options url.Values) error {
		conn, err := (&sqlite3.SQLiteDriver{}).Open(joinQuery(":memory:", encodeOptions(options)))
		if err != nil {
			return err
		}
		return conn.Close()
	}
	if len(options) == 0 {
		return nil
	}
	err := try(options)
	if err == nil {
		return nil
	}
	for _, key := range sortedKeys(options) {
		if err := try(url.Values{key: options[key]}); err != nil {
			return optionError(key, err)
		}
	}
	return optionError(sortedKeys(options)[0], err)
}

func optionError(key string, err error) error {
	why := err.Error()
	if strings.HasPrefix(key, "_auth") { // a password
		why, err = "go-sqlite3 does not take it", errors.New("go-sqlite3 does not take it")
	}
	return &ConfigError{Key: key, Why: why, Err: err}
}
