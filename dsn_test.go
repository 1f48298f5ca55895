package tursosync

import (
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseDSN(t *testing.T) {
	for _, test := range []struct {
		name, dsn string
		want      Config
	}{
		{"plain path", "app.db", Config{Path: "app.db"}},
		{"empty", "", Config{}},
		{"memory", ":memory:", Config{Path: ":memory:"}},
		{"uri", "file:/var/lib/a%20b.db?mode=rw", Config{Path: "file:/var/lib/a%20b.db", Options: url.Values{"mode": {"rw"}}}},
		{"own keys", "app.db?url=libsql://db-org.turso.io&authToken=abc&clientName=till-1&sync=pull&syncInterval=2s&longPoll=off&existing=upload&onReject=halt",
			Config{Path: "app.db", URL: "libsql://db-org.turso.io", AuthToken: "abc", ClientName: "till-1", Sync: SyncPull,
				SyncInterval: 2 * time.Second, LongPoll: Off, Existing: ExistingUpload, OnReject: RejectHalt}},
		{"zero is off", "app.db?url=http://h&pushDelay=0", Config{Path: "app.db", URL: "http://h", PushDelay: Off}},
		{"token sources", "a?authTokenEnv=T&authTokenFile=%2Ft", Config{Path: "a", AuthTokenEnv: "T", AuthTokenFile: "/t"}},
		{"escaped url", "a?url=https%3A%2F%2Fh%3A8080%2Fdb", Config{Path: "a", URL: "https://h:8080/db"}},
		{"go-sqlite3's options", "a?_busy_timeout=100&_fk=1&_loc=auto&_txlock=immediate&_pragma",
			Config{}}, // unknown _pragma
		{"kept options", "a?_busy_timeout=100&_fk=1&_loc=Europe%2FBerlin&&_txlock=immediate", Config{Path: "a",
			Options: url.Values{"_busy_timeout": {"100"}, "_fk": {"1"}, "_loc": {"Europe/Berlin"}, "_txlock": {"immediate"}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseDSN(test.dsn)
			if reflect.DeepEqual(test.want, Config{}) && test.dsn != "" {
				if err == nil {
					t.Fatalf("ParseDSN(%q) = %v, want an error", test.dsn, got)
				}
				return
			}
			if err != nil {
				t.Fatalf("ParseDSN(%q): %v", test.dsn, err)
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("ParseDSN(%q) = %v, want %v", test.dsn, got, test.want)
			}
			again, err := ParseDSN(got.DSN())
			if err != nil || !reflect.DeepEqual(again, got) {
				t.Errorf("ParseDSN(%q) = %v, %v, want %v", got.DSN(), again, err, got)
			}
		})
	}
}

// TestConfigErrors shows that each setting that cannot be used is refused by an
// error that names it, and that no file was touched.
func TestConfigErrors(t *testing.T) {
	const u = "url=http://127.0.0.1:1&"
	t.Setenv(DefaultTokenEnv, "")
	for _, test := range []struct{ key, dsn, says string }{
		{"path", "?_fk=1", "missing"},
		{"path", "file:a#b?" + u, "fragment"},
		{"path", "file://host/a?" + u, "host"},
		{"path", "file:a%00b", "zero"},
		{"authtoken", "a?authtoken=secret", `"authToken"`},
		{"Url", "a?Url=x", `"url"`},
		{"busy_timeout", "a?busy_timeout=1", `"_busy_timeout"`},
		{"_pragma", "a?_pragma=foreign_keys(1)", "not a setting"},
		{"url", "a?url=", "empty"},
		{"url", "a?url=http://a&url=http://a", "twice"},
		{"url", "a?url=ftp://h", "scheme"},
		{"url", "a?url=db-org.turso.io", "scheme"},
		{"url", "a?url=wss://h", "web sockets"},
		{"url", "a?url=libsql://", "no host"},
		{"url", "a?url=https://u:secret@h", "authToken"},
		{"url", "a?url=https://h%3FauthToken=secret", "query"},
		{"url", "a?url=https://h%23secret", "fragment"},
		{"url", "a?url=https://h:secret", "not a valid"},
		{"url", ":memory:?" + u, "memory"},
		{"url", "file::memory:?" + u, "memory"},
		{"url", "file:a?mode=memory&" + u, "memory"},
		{"mode", "file:a?mode=ro&" + u, "mode=ro"},
		{"mode", "file:a?mode=RW", "none of"},
		{"mode", "a?mode=ro", "file: URI"},
		{"cache", "file:a?cache=shared", "shared cache"},
		{"cache", "a?cache=shared", "shared cache"},
		{"immutable", "file:a?immutable=1", "mode=ro"},
		{"nolock", "file:a?nolock=1", "WAL"},
		{"vfs", "a?vfs=unix-none", "default VFS"},
		{"vfs", "a?vfs=nonsense", "default VFS"},
		{"_journal_mode", "a?_journal_mode=delete", "WAL"},
		{"_journal", "a?_journal=OFF", "WAL"},
		{"_locking_mode", "a?_locking_mode=EXCLUSIVE", "several"},
		{"_locking", "a?_locking=exclusive", "several"},
		{"_writable_schema", "a?_writable_schema=on", "sqlite_schema"},
		{"_vacuum", "a?_vacuum=full", "remote"},
		{"_fk", "a?_fk=perhaps", "boolean"},
		{"_loc", "a?_loc=Nowhere", "Nowhere"},
		{"_busy_timeout", "a?_fk=1&_busy_timeout=x", "invalid syntax"},
		{"authToken", "a?authToken=secret", "url"},
		{"sync", "a?sync=manual", "url"},
		{"onReject", "a?onReject=halt", "url"},
		{"authTokenFile", "a?" + u + "authToken=secret&authTokenFile=f", "contradicts authToken"},
		{"authTokenEnv", "a?" + u + "authTokenEnv=TURSOSYNC_NO_SUCH_VARIABLE", "not set"},
		{"authTokenFile", "a?" + u + "authTokenFile=%2Fno%2Fsuch%2Ffile", "read"},
		{"authToken", "a?" + u + "authToken=secret%0Asecret", "characters"},
		{"authToken", "a?" + u + "authToken=%zzsecret", "percent"},
		{"authToken", "a?" + u + "authToken=secret;secret", "semicolon"},
		{"clientName", "a?" + u + "clientName=a%20b", "letters"},
		{"clientName", "a?" + u + "clientName=" + strings.Repeat("x", 65), "64"},
		{"sync", "a?" + u + "sync=sometimes", "none of auto"},
		{"existing", "a?" + u + "existing=maybe", "none of auto"},
		{"onReject", "a?" + u + "onReject=drop", "none of quarantine"},
		{"syncInterval", "a?" + u + "syncInterval=5", "duration"},
		{"syncInterval", "a?" + u + "syncInterval=-5s", "negative"},
		{"syncInterval", "a?" + u + "sync=manual&syncInterval=5s", "contradicts sync=manual"},
		{"longPoll", "a?" + u + "sync=push&longPoll=5s", "contradicts sync=push"},
		{"pushDelay", "a?" + u + "sync=pull&pushDelay=5s", "contradicts sync=pull"},
		{"syncInterval", "a?" + u + "syncInterval=off", "nothing would be pulled"},
	} {
		t.Run(test.key+" "+test.says, func(t *testing.T) {
			t.Chdir(t.TempDir())
			_, err := (&Driver{}).OpenConnector(test.dsn)
			var ce *ConfigError
			if !errors.As(err, &ce) {
				t.Fatalf("OpenConnector(%q) = %v, want a *ConfigError", test.dsn, err)
			}
			if ce.Key != test.key {
				t.Errorf("OpenConnector(%q): key %q, want %q (%v)", test.dsn, ce.Key, test.key, err)
			}
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("OpenConnector(%q) = %v, want a word of %q", test.dsn, err, test.says)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("OpenConnector(%q): the error tells a secret: %v", test.dsn, err)
			}
			if files, _ := os.ReadDir("."); len(files) > 0 {
				t.Errorf("OpenConnector(%q) left %v", test.dsn, files)
			}
		})
	}
}

func TestConfigAccepts(t *testing.T) {
	t.Setenv(DefaultTokenEnv, "")
	t.Setenv("MY_TOKEN", " abc\n")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("abc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dsn := range []string{
		"a.db", "./a.db", "/tmp/a.db", "file:a.db", "file:///tmp/a.db", "file://localhost/tmp/a.db?cache=private&mode=rwc",
		"a.db?mode=rwc&cache=private&psow=1", "a.db?_journal_mode=WAL&_locking=normal&_auto_vacuum=none",
		"a?url=turso://h", "a?url=http://127.0.0.1:8080/db", "a?url=libsql://h&authTokenEnv=MY_TOKEN",
		"a?url=https://h&syncInterval=off&longPoll=20s", "a?clientName=x",
		":memory:", "", "file::memory:?cache=shared", "file:x?mode=memory&cache=shared", ":memory:?_journal_mode=delete", ":memory:?mode=ro",
		"file:a?mode=ro&immutable=1", "a?url=https://h&authTokenFile=" + url.QueryEscape(file),
	} {
		if _, err := (&Driver{}).OpenConnector(dsn); err != nil {
			t.Errorf("OpenConnector(%q): %v", dsn, err)
		}
	}
}

func TestToken(t *testing.T) {
	t.Setenv(DefaultTokenEnv, "from default")
	if _, err := (Config{}).token(); err == nil {
		t.Error("token with a space: no error")
	}
	t.Setenv(DefaultTokenEnv, "default")
	t.Setenv("MY_TOKEN", "mine\n")
	file := filepath.Join(t.TempDir(), "token")
	write := func(s string) {
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	source := Config{AuthTokenFile: file}.tokenSource()
	check := func(name, got string, err error, want string) {
		t.Helper()
		if err != nil || got != want {
			t.Errorf("token of %s = %q, %v, want %q", name, got, err, want)
		}
	}
	got, err := source(t.Context())
	check("file", got, err, "first")
	write("second")
	got, err = source(t.Context())
	check("replaced file", got, err, "second")
	got, err = Config{AuthTokenEnv: "MY_TOKEN"}.token()
	check("variable", got, err, "mine")
	got, err = Config{}.token()
	check("default variable", got, err, "default")
	got, err = Config{AuthToken: "direct"}.token()
	check("authToken", got, err, "direct")
}

func TestSecretsAreNotPrinted(t *testing.T) {
	const secret = "s3cr3t"
	cfg := Config{Path: "a", URL: "https://h", AuthToken: secret, Options: url.Values{"_auth_pass": {secret}, "_fk": {"1"}}}
	bad := Config{Path: "a", URL: "https://user:" + secret + "@h?authToken=" + secret}
	var log strings.Builder
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	for _, c := range []Config{cfg, bad} {
		logger.Info("x", "config", c)
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "config", c)
		fmt.Fprintf(&log, "%v %+v %#v %s %q %v", c, c, c, c, c, struct{ C Config }{c})
	}
	con, err := NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(&log, con)
	if strings.Contains(log.String(), secret) {
		t.Errorf("a secret is printed: %s", log.String())
	}
	if !strings.Contains(cfg.String(), "_fk=1") || !strings.Contains(cfg.DSN(), secret) {
		t.Errorf("String() = %s, DSN() = %s", cfg, cfg.DSN())
	}
	if cfg.Options.Get("_auth_pass") != secret {
		t.Error("String() changed the Config")
	}
	if _, err := json.Marshal(cfg.Options); err != nil {
		t.Fatal(err)
	}
}

// TestPathsReachSQLite opens files with awkward names by both spellings.
func TestPathsReachSQLite(t *testing.T) {
	for _, name := range []string{"plain.db", "with space.db", "per%41cent.db", "ha#sh.db", "que?stion.db", "plus+.db", "ümläut.db", "semi;colon.db", "amp&.db"} {
		cfg := Config{Path: filepath.Join(t.TempDir(), name)}
		tg, err := cfg.resolve()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if tg.path != cfg.Path {
			t.Errorf("path of %q = %q", cfg.Path, tg.path)
		}
		decoded, err := fromURI(toURI(cfg.Path))
		if err != nil || decoded != cfg.Path {
			t.Errorf("fromURI(%q) = %q, %v, want %q", toURI(cfg.Path), decoded, err, cfg.Path)
		}
		again, err := ParseDSN(cfg.DSN())
		if err != nil {
			t.Errorf("ParseDSN(%q): %v", cfg.DSN(), err)
			continue
		}
		if tg2, err := again.resolve(); err != nil || tg2.path != tg.path {
			t.Errorf("path of %q = %q, %v, want %q", cfg.DSN(), tg2.path, err, tg.path)
		}
		conn, err := (&Driver{}).Open("file::memory:")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.(*Conn).ExecContext(t.Context(), "ATTACH ? AS a; CREATE TABLE a.t(x)", named([]driver.Value{toURI(cfg.Path)})); err != nil {
			t.Errorf("attach %s: %v", toURI(cfg.Path), err)
		}
		if _, err := os.Stat(cfg.Path); err != nil {
			t.Errorf("%s did not reach SQLite: %v", toURI(cfg.Path), err)
		}
	}
}

// FuzzDSN shows that no DSN makes the parser panic, that what it accepts survives
// a round trip through Config.DSN, and that String keeps the token to itself.
func FuzzDSN(f *testing.F) {
	for _, s := range []string{
		"", "a", "?", "a?", "a?b", ":memory:", "file:a%20b?mode=ro", "file://localhost/a?x#y", "a?url=libsql://h&authToken=%41bc&sync=manual",
		"a?syncInterval=0&longPoll=1h2m&pushDelay=off", "a?_fk=1&_fk=2&_loc=auto", "a?url=http://u:p@h/?q#f", "file:?vfs=memdb", "a?%zz=1", "a?x;y",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, dsn string) {
		cfg, err := ParseDSN(dsn)
		if err != nil {
			var ce *ConfigError
			if !errors.As(err, &ce) {
				t.Fatalf("ParseDSN(%q) = %v, want a *ConfigError", dsn, err)
			}
			return
		}
		spelled := cfg.DSN()
		again, err := ParseDSN(spelled)
		if err != nil {
			t.Fatalf("ParseDSN(%q), which came from %q: %v", spelled, dsn, err)
		}
		if cfg.Path == "" && again.Path == uriPrefix {
			again.Path = ""
		}
		if !reflect.DeepEqual(cfg, again) {
			t.Fatalf("%q became %q: %#v, want %#v", dsn, spelled, again, cfg)
		}
		other := cfg // what is no secret may be spelled like the token
		other.AuthToken = "other"
		if len(cfg.AuthToken) > 8 && strings.Contains(cfg.String(), cfg.AuthToken) && !strings.Contains(other.String(), cfg.AuthToken) {
			t.Fatalf("String() = %s tells the token", cfg)
		}
		tg, err := (Config{Path: cfg.Path, Options: only(cfg.Options, uriOptions)}).resolve()
		if err == nil && tg.kind == kindReplica && !filepath.IsAbs(tg.path) {
			t.Fatalf("path of %q = %q", dsn, tg.path)
		}
	})
}

func only(v url.Values, keys []string) url.Values {
	out := url.Values{}
	for k, values := range v {
		if slices.Contains(keys, k) {
			out[k] = values
		}
	}
	return out
}
