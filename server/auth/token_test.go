package auth_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tursosync/tursosync/server"
	"github.com/tursosync/tursosync/server/auth"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// clock is time that stands until it is moved.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ns.Store(epoch.UnixNano())
	return c
}
func (c *clock) now() time.Time          { return time.Unix(0, c.ns.Load()) }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

// keys of all three kinds; RSA takes its time.
var keys = sync.OnceValue(func() (k struct {
	ed, ed2 ed25519.PrivateKey
	rsa     *rsa.PrivateKey
	ec      *ecdsa.PrivateKey
}) {
	_, k.ed, _ = ed25519.GenerateKey(nil)
	_, k.ed2, _ = ed25519.GenerateKey(nil)
	k.rsa, _ = rsa.GenerateKey(rand.Reader, 2048)
	k.ec, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return k
})

func newVerifier(t testing.TB, cfg auth.Config) *auth.Verifier {
	t.Helper()
	if cfg.Now == nil {
		cfg.Now = newClock().now
	}
	v, err := auth.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

func sign(t testing.TB, k crypto.Signer, c auth.Claims) string {
	t.Helper()
	if c.Databases == nil {
		c.Databases = []string{"shop"}
	}
	s, err := auth.Sign(k, c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// signClaims signs any claims, by the method of any header.
func signClaims(t testing.TB, method jwt.SigningMethod, k any, header, claims map[string]any) string {
	t.Helper()
	token := jwt.NewWithClaims(method, jwt.MapClaims(claims))
	for n, v := range header {
		token.Header[n] = v
	}
	s, err := token.SignedString(k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAlgorithms(t *testing.T) {
	k := keys()
	v := newVerifier(t, auth.Config{Keys: [][]byte{
		slices.Concat(public(t, k.ed.Public()), public(t, k.rsa.Public())), public(t, k.ec.Public()),
		[]byte(base64.RawURLEncoding.EncodeToString(k.ed2.Public().(ed25519.PublicKey)) + "\n"),
	}})
	for name, key := range map[string]crypto.Signer{"Ed25519": k.ed, "another Ed25519": k.ed2, "RSA": k.rsa, "P-256": k.ec} {
		g, err := v.Verify(t.Context(), sign(t, key, auth.Claims{}))
		if err != nil || !g.Database("shop") || g.Database("other") || !g.On("shop").May(auth.AllActions, "any") {
			t.Errorf("%s: %v %v", name, g, err)
		}
	}
}

// TestRefused: nothing but a right token of a right key passes.
func TestRefused(t *testing.T) {
	k := keys()
	rsaPEM := public(t, k.rsa.Public())
	edPublic := k.ed.Public().(ed25519.PublicKey)
	v := newVerifier(t, auth.Config{Keys: [][]byte{public(t, edPublic), rsaPEM, public(t, k.ec.Public())}, Issuer: "me", Audience: "you"})
	fine := map[string]any{"p": map[string]any{"rw": map[string]any{"ns": []string{"shop"}}}, "iss": "me", "aud": "you"}
	with := func(name string, value any) map[string]any {
		out := map[string]any{name: value}
		for n, v := range fine {
			if n != name {
				out[n] = v
			}
		}
		if value == nil {
			delete(out, name)
		}
		return out
	}
	ed := func(claims map[string]any) string { return signClaims(t, jwt.SigningMethodEdDSA, k.ed, nil, claims) }
	if _, err := v.Verify(t.Context(), ed(fine)); err != nil {
		t.Fatalf("the good token: %v", err)
	}
	if _, err := v.Verify(t.Context(), ed(with("aud", []string{"others", "you"}))); err != nil {
		t.Fatalf("two audiences: %v", err)
	}
	good := strings.Split(ed(fine), ".")
	ec384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	hs := func(key []byte) string {
		head := encode(map[string]any{"alg": "HS256", "typ": "JWT"}) + "." + good[1]
		m := hmac.New(sha256.New, key)
		m.Write([]byte(head))
		return head + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
	}
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := len(good[2]) - 1
	malleable := good[2][:last] + string(digits[strings.IndexByte(digits, good[2][last])+1]) // differs in bits that say nothing
	at := func(d time.Duration) int64 { return epoch.Add(d).Unix() }
	for _, c := range []struct {
		name, token string
		want        error
	}{
		{"no token", "", auth.ErrMissing},
		{"expired", ed(with("exp", at(-61*time.Second))), auth.ErrExpired},
		{"not yet valid", ed(with("nbf", at(61*time.Second))), auth.ErrImmature},
		{"expired at zero", ed(with("exp", 0)), auth.ErrInvalid},
		{"expires never ever", ed(with("exp", 1e300)), auth.ErrInvalid},
		{"expires as text", ed(with("exp", "tomorrow")), auth.ErrInvalid},
		{"expires null", ed(map[string]any{"exp": nil, "iss": "me", "aud": "you", "p": fine["p"]}), auth.ErrInvalid},
		{"valid from 1e300", ed(with("nbf", 1e300)), auth.ErrInvalid},
		{"wrong audience", ed(with("aud", "them")), auth.ErrInvalid},
		{"no audience", ed(with("aud", nil)), auth.ErrInvalid},
		{"wrong issuer", ed(with("iss", "them")), auth.ErrInvalid},
		{"no issuer", ed(with("iss", nil)), auth.ErrInvalid},
		{"none", encode(map[string]any{"alg": "none"}) + "." + good[1] + ".", auth.ErrInvalid},
		{"None", encode(map[string]any{"alg": "None"}) + "." + good[1] + ".", auth.ErrInvalid},
		{"none with the signature", encode(map[string]any{"alg": "none"}) + "." + good[1] + "." + good[2], auth.ErrInvalid},
		{"no algorithm", encode(map[string]any{"typ": "JWT"}) + "." + good[1] + "." + good[2], auth.ErrInvalid},
		{"HS256 with the RSA key's PEM", hs(rsaPEM), auth.ErrInvalid},
		{"HS256 with the Ed25519 key", hs(edPublic), auth.ErrInvalid},
		{"HS256 with nothing", hs(nil), auth.ErrInvalid},
		{"RS512", signClaims(t, jwt.SigningMethodRS512, k.rsa, nil, fine), auth.ErrInvalid},
		{"PS256", signClaims(t, jwt.SigningMethodPS256, k.rsa, nil, fine), auth.ErrInvalid},
		{"ES384", signClaims(t, jwt.SigningMethodES384, ec384, nil, fine), auth.ErrInvalid},
		{"another key", signClaims(t, jwt.SigningMethodEdDSA, k.ed2, nil, fine), auth.ErrInvalid},
		{"RS256 header on an EdDSA signature", encode(map[string]any{"alg": "RS256"}) + "." + good[1] + "." + good[2], auth.ErrInvalid},
		{"other claims", good[0] + "." + encode(with("sub", "x")) + "." + good[2], auth.ErrInvalid},
		{"no signature", good[0] + "." + good[1] + ".", auth.ErrInvalid},
		{"two parts", good[0] + "." + good[1], auth.ErrInvalid},
		{"four parts", strings.Join(good, ".") + ".x", auth.ErrInvalid},
		{"signature written otherwise", good[0] + "." + good[1] + "." + malleable, auth.ErrInvalid},
		{"padded", strings.Join(good, ".") + "=", auth.ErrInvalid},
		{"key in the header", signClaims(t, jwt.SigningMethodEdDSA, k.ed2, map[string]any{"jwk": map[string]any{"kty": "OKP", "crv": "Ed25519",
			"x": base64.RawURLEncoding.EncodeToString(k.ed2.Public().(ed25519.PublicKey))}, "jku": "http://127.0.0.1:1/"}, fine), auth.ErrInvalid},
		{"critical extension", signClaims(t, jwt.SigningMethodEdDSA, k.ed, map[string]any{"crit": []string{"b64"}, "b64": false}, fine), auth.ErrInvalid},
		{"kid is a number", signClaims(t, jwt.SigningMethodEdDSA, k.ed, map[string]any{"kid": 7}, fine), auth.ErrInvalid},
		{"garbage", "garbage", auth.ErrInvalid},
		{"dots", "..", auth.ErrInvalid},
		{"too long", strings.Repeat("a", auth.TokenMax+1), auth.ErrInvalid},
		{"p null", ed(map[string]any{"p": nil, "iss": "me", "aud": "you"}), auth.ErrInvalid},
		{"p a list", ed(with("p", []int{1})), auth.ErrInvalid},
		{"p.rw a list", ed(with("p", map[string]any{"rw": []string{"shop"}})), auth.ErrInvalid},
		{"ns a text", ed(with("p", map[string]any{"rw": map[string]any{"ns": "shop"}})), auth.ErrInvalid},
		{"rules an object", ed(with("p", map[string]any{"rules": map[string]any{}})), auth.ErrInvalid},
		{"unknown action", ed(with("p", map[string]any{"rules": []any{map[string]any{"ns": []string{"shop"}, "a": []string{"data_insert"}}}})), auth.ErrInvalid},
		{"unknown field", ed(with("p", map[string]any{"rules": []any{map[string]any{"ns": []string{"shop"}, "a": []string{"data_read"}, "where": "x"}}})), auth.ErrInvalid},
		{"a table without a name", ed(with("p", map[string]any{"rules": []any{map[string]any{"ns": []string{"shop"}, "t": []string{""}, "a": []string{"data_read"}}}})), auth.ErrInvalid},
		{"a is unknown", ed(map[string]any{"iss": "me", "aud": "you", "a": "admin"}), auth.ErrInvalid},
		{"id is a number", ed(map[string]any{"iss": "me", "aud": "you", "id": 7}), auth.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := v.Verify(t.Context(), c.token)
			if !errors.Is(err, c.want) || g != nil {
				t.Fatalf("Verify = %v, %v, want %v", g, err, c.want)
			}
			if len(c.token) > 20 && strings.Contains(err.Error(), c.token[:20]) {
				t.Errorf("the error quotes the token: %v", err)
			}
			p, err := v.Permit(t.Context(), "shop", c.token)
			if d := (*server.DeniedError)(nil); p != nil || !errors.As(err, &d) || d.Status != 401 {
				t.Errorf("Permit = %v, %v", p, err)
			}
		})
	}
	for name, token := range map[string]string{"expired within the leeway": ed(with("exp", at(-59*time.Second))),
		"valid within the leeway": ed(with("nbf", at(59*time.Second)))} {
		if _, err := v.Verify(t.Context(), token); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestClaims: what each layout grants.
func TestClaims(t *testing.T) {
	k := keys()
	v := newVerifier(t, auth.Config{Keys: [][]byte{public(t, k.ed.Public())}})
	type m = map[string]any
	type l = []any
	const nothing = "nothing"
	for _, c := range []struct {
		name   string
		claims m
		want   map[string]string // by database: the actions on table t, or nothing
	}{
		{"none", m{}, map[string]string{"shop": auth.AllActions.String()}},
		{"id", m{"id": "shop"}, map[string]string{"shop": auth.AllActions.String(), "b": nothing}},
		{"ro", m{"a": "ro"}, map[string]string{"shop": "data_read"}},
		{"id and ro", m{"id": "b", "a": "ro"}, map[string]string{"shop": nothing, "b": "data_read"}},
		{"p decides alone", m{"p": m{}, "a": "rw"}, map[string]string{"shop": nothing}},
		{"other case is another claim", m{"p": m{"RW": m{"ns": l{"shop"}}}, "P": m{"rw": m{"ns": l{"shop"}}}}, map[string]string{"shop": nothing}},
		{"p.ro and p.rw", m{"p": m{"ro": m{"ns": l{"a", "shop"}}, "rw": m{"ns": l{"b"}}}},
			map[string]string{"a": "data_read", "shop": "data_read", "b": auth.AllActions.String(), "c": nothing}},
		{"p.roa and p.rwa", m{"p": m{"roa": m{"ns": l{"a"}}, "rwa": m{"ns": l{"b"}}}}, map[string]string{"a": "data_read", "b": auth.AllActions.String()}},
		{"no namespaces", m{"p": m{"rw": m{"tags": l{"x"}}}}, map[string]string{"shop": nothing}},
		{"everywhere", m{"p": m{"ro": m{"ns": l{"*"}}}}, map[string]string{"shop": "data_read", "b": "data_read"}},
		{"rules add up", m{"p": m{"rules": l{m{"ns": l{"shop", "b"}, "t": nil, "a": l{"data_read"}}, m{"ns": l{"shop"}, "t": l{"T", "u"}, "a": l{"data_add", "schema_add"}}}}},
			map[string]string{"shop": "data_read,data_add,schema_add", "b": "data_read", "c": nothing}},
		{"empty t is all", m{"p": m{"rules": l{m{"ns": l{"shop"}, "t": l{}, "a": l{"data_read"}}}}}, map[string]string{"shop": "data_read"}},
		{"rule without actions", m{"p": m{"rules": l{m{"ns": l{"shop"}, "a": l{}}}}}, map[string]string{"shop": nothing}},
		{"rule without databases", m{"p": m{"rules": l{m{"a": l{"data_read"}}}}}, map[string]string{"shop": nothing}},
		{"rule for another table", m{"p": m{"rules": l{m{"ns": l{"shop"}, "t": l{"u"}, "a": l{"data_read"}}}}}, map[string]string{"shop": ""}},
		{"rules and ro", m{"p": m{"ro": m{"ns": l{"shop"}}, "rules": l{m{"ns": l{"shop"}, "t": l{"t"}, "a": l{"data_delete"}}}}}, map[string]string{"shop": "data_read,data_delete"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := v.Verify(t.Context(), signClaims(t, jwt.SigningMethodEdDSA, k.ed, nil, c.claims))
			if err != nil {
				t.Fatal(err)
			}
			for database, want := range c.want {
				got := nothing
				if r := g.On(database); r != nil {
					var may auth.Actions
					for bit := auth.DataRead; bit <= auth.SchemaDelete && bit != 0; bit <<= 1 {
						if r.May(bit, "t") {
							may |= bit
						}
					}
					got = may.String()
				}
				if got != want || g.Database(database) != (want != nothing) {
					t.Errorf("on %s = %q, want %q", database, got, want)
				}
			}
		})
	}
}

func TestPermitAnswers(t *testing.T) {
	r := newRemote(t)
	body := []byte(`{"requests":[{"type":"execute","stmt":{"sql":"SELECT 1"}}]}`)
	expired, err := auth.Sign(r.priv, auth.Claims{Databases: []string{"shop"}, Expires: time.Now().Add(-time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	other, err := auth.Sign(r.priv, auth.Claims{Databases: []string{"other"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		token  string
		status int
		body   string
	}{
		{"", 401, "{\"error\":\"Unauthorized: `Authentication is required but no JWT was specified`\"}"},
		{expired, 401, "{\"error\":\"Unauthorized: `The JWT has expired`\"}"},
		{"x.y.z", 401, "{\"error\":\"Unauthorized: `The JWT is invalid`: it is malformed\"}"},
		{other, 403, `{"error":"Authorization forbidden: the token is not for this database"}`},
	} {
		for _, path := range []string{"/v2/pipeline", "/v3/pipeline", "/pull-updates"} {
			if status, got := r.post(t, path, c.token, body); status != c.status || got != c.body {
				t.Errorf("%s = %d %s, want %d %s", path, status, got, c.status, c.body)
			}
		}
	}
}

func TestSetKeys(t *testing.T) {
	k := keys()
	v := newVerifier(t, auth.Config{Keys: [][]byte{public(t, k.ed.Public())}})
	old, young := sign(t, k.ed, auth.Claims{}), sign(t, k.ed2, auth.Claims{})
	check := func(token string, want bool) {
		t.Helper()
		if _, err := v.Verify(t.Context(), token); (err == nil) != want {
			t.Errorf("Verify: %v", err)
		}
	}
	check(old, true)
	check(young, false)
	if err := v.SetKeys(public(t, k.ed.Public()), public(t, k.ed2.Public())); err != nil {
		t.Fatal(err)
	}
	check(old, true)
	check(young, true)
	if err := v.SetKeys([]byte("nonsense")); err == nil {
		t.Error("nonsense is a key")
	}
	check(young, true)
	if err := v.SetKeys(public(t, k.ed2.Public())); err != nil {
		t.Fatal(err)
	}
	check(old, false)
	check(young, true)
}

func TestParseKeys(t *testing.T) {
	k := keys()
	small, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // that is the point
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, pub, err := auth.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := auth.ParseKeys(pub); err != nil || len(got) != 1 {
		t.Errorf("ParseKeys = %v, %v", got, err)
	}
	if _, err := auth.ParseSigner(private); err != nil {
		t.Error(err)
	}
	pkcs1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k.rsa)})
	if _, err := auth.ParseSigner(pkcs1); err != nil {
		t.Error(err)
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "private key": private, "PKCS 1 private key": pkcs1, "small RSA": public(t, small.Public()), "P-224": public(t, p224.Public()),
		"31 bytes": []byte(base64.RawURLEncoding.EncodeToString(make([]byte, 31))), "text": []byte("secret"),
		"garbage behind": append(slices.Clone(pub), "garbage"...), "certificate": []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
		"broken": []byte("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), "public and private": slices.Concat(pub, private),
	} {
		if got, err := auth.ParseKeys(b); !errors.Is(err, auth.ErrKey) {
			t.Errorf("%s: %v, %v", name, got, err)
		} else if len(b) > 60 && strings.Contains(err.Error(), string(b[30:50])) {
			t.Errorf("%s: the error quotes the key: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{"public": pub, "nothing": nil,
		"broken": []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")} {
		if _, err := auth.ParseSigner(b); !errors.Is(err, auth.ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// jwk writes a public key as RFC 7517 has it.
func jwk(kid string, pub crypto.PublicKey, more ...string) map[string]any {
	b := base64.RawURLEncoding.EncodeToString
	out := map[string]any{"kid": kid, "use": "sig"}
	switch k := pub.(type) {
	case ed25519.PublicKey:
		out["kty"], out["crv"], out["x"] = "OKP", "Ed25519", b(k)
	case *ecdsa.PublicKey:
		raw, err := k.Bytes()
		if err != nil {
			panic(err)
		}
		out["kty"], out["crv"], out["x"], out["y"] = "EC", "P-256", b(raw[1:33]), b(raw[33:])
	case *rsa.PublicKey:
		out["kty"], out["n"], out["e"] = "RSA", b(k.N.Bytes()), "AQAB"
	}
	for i := 0; i+1 < len(more); i += 2 {
		out[more[i]] = more[i+1]
	}
	return out
}

// provider publishes a key set.
type provider struct {
	*httptest.Server
	mu      sync.Mutex
	keys    []map[string]any
	answer  func(w http.ResponseWriter, r *http.Request) // instead of keys
	fetches atomic.Int64
}

func newProvider(t testing.TB, keys ...map[string]any) *provider {
	p := &provider{keys: keys}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.fetches.Add(1)
		p.mu.Lock()
		keys, answer := p.keys, p.answer
		p.mu.Unlock()
		if answer != nil {
			answer(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": keys})
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) set(answer func(w http.ResponseWriter, r *http.Request), keys ...map[string]any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys, p.answer = keys, answer
}

func TestJWKS(t *testing.T) {
	k, c := keys(), newClock()
	p := newProvider(t, jwk("ed", k.ed.Public()), jwk("rsa", k.rsa.Public(), "alg", "RS256"), jwk("ec", k.ec.Public(), "alg", "ES256"),
		jwk("enc", k.ed2.Public(), "use", "enc"), jwk("private", k.ed2.Public(), "d", "AAAA"), jwk("alg", k.ed2.Public(), "alg", "RS256"),
		map[string]any{"kty": "oct", "k": "c2VjcmV0", "kid": "oct"}, map[string]any{"kid": 7})
	v := newVerifier(t, auth.Config{Now: c.now, JWKS: []auth.JWKS{{URL: p.URL, Issuer: "https://idp", Audience: "sync"}}})
	claims := func(kid string) auth.Claims { return auth.Claims{KeyID: kid, Issuer: "https://idp", Audience: "sync"} }
	for _, x := range []struct {
		name  string
		token string
		want  bool
	}{
		{"EdDSA", sign(t, k.ed, claims("ed")), true},
		{"RS256", sign(t, k.rsa, claims("rsa")), true},
		{"ES256", sign(t, k.ec, claims("ec")), true},
		{"without kid", sign(t, k.ec, claims("")), true},
		{"kid of another key", sign(t, k.ed, claims("rsa")), false},
		{"for encryption", sign(t, k.ed2, claims("enc")), false},
		{"published private key", sign(t, k.ed2, claims("private")), false},
		{"key for another algorithm", sign(t, k.ed2, claims("alg")), false},
		{"HS256 with an oct key", signClaims(t, jwt.SigningMethodHS256, []byte("secret"), map[string]any{"kid": "oct"}, map[string]any{"iss": "https://idp", "aud": "sync"}), false},
		{"unknown kid", sign(t, k.ed2, claims("who")), false},
		{"wrong issuer", sign(t, k.ed, auth.Claims{KeyID: "ed", Issuer: "https://evil", Audience: "sync"}), false},
		{"wrong audience", sign(t, k.ed, auth.Claims{KeyID: "ed", Issuer: "https://idp", Audience: "mail"}), false},
		{"without permissions", signClaims(t, jwt.SigningMethodEdDSA, k.ed, map[string]any{"kid": "ed"}, map[string]any{"iss": "https://idp", "aud": "sync", "id": "shop", "a": "rw"}), false},
	} {
		if _, err := v.Verify(t.Context(), x.token); (err == nil) != x.want {
			t.Errorf("%s: %v", x.name, err)
		}
	}
	if n := p.fetches.Load(); n != 1 {
		t.Errorf("fetches = %d, want 1", n)
	}
}

func TestJWKSRotation(t *testing.T) {
	k, c := keys(), newClock()
	p := newProvider(t, jwk("1", k.ed.Public()))
	v := newVerifier(t, auth.Config{Now: c.now, JWKS: []auth.JWKS{{URL: p.URL, Refresh: 10 * time.Minute, RetryAfter: 30 * time.Second, StaleMax: time.Hour}}})
	one, two := sign(t, k.ed, auth.Claims{KeyID: "1"}), sign(t, k.ed2, auth.Claims{KeyID: "2"})
	verify := func(token string, want error, fetches int64) {
		t.Helper()
		if _, err := v.Verify(t.Context(), token); !errors.Is(err, want) {
			t.Errorf("Verify: %v, want %v", err, want)
		}
		if n := p.fetches.Load(); n != fetches {
			t.Errorf("fetches = %d, want %d", n, fetches)
		}
	}
	verify(one, nil, 1)
	verify(one, nil, 1)
	// A key that is not known is asked for, but not at once again.
	for range 5 {
		verify(two, auth.ErrInvalid, 1)
	}
	c.advance(31 * time.Second)
	verify(two, auth.ErrInvalid, 2)
	verify(two, auth.ErrInvalid, 2)
	// It appears.
	p.set(nil, jwk("1", k.ed.Public()), jwk("2", k.ed2.Public()))
	c.advance(31 * time.Second)
	verify(two, nil, 3)
	verify(one, nil, 3)
	// The old one goes: known at the next refresh, which holds nobody up.
	p.set(nil, jwk("2", k.ed2.Public()))
	c.advance(11 * time.Minute)
	if _, err := v.Verify(t.Context(), one); err != nil {
		t.Errorf("Verify: %v", err)
	}
	eventually(t, func() bool {
		_, err := v.Verify(t.Context(), one)
		return errors.Is(err, auth.ErrInvalid)
	})
	verify(two, nil, 4)
	// The key changes under its name.
	p.set(nil, jwk("2", k.ed.Public()))
	c.advance(31 * time.Second)
	verify(sign(t, k.ed, auth.Claims{KeyID: "2"}), nil, 5)
	verify(two, auth.ErrInvalid, 5)
}

// eventually waits for what another goroutine is about to do.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
	}
}

// TestJWKSDown: without its provider the server goes on with what it knows.
func TestJWKSDown(t *testing.T) {
	k, c := keys(), newClock()
	p := newProvider(t, jwk("1", k.ed.Public()))
	good := p.keys
	v := newVerifier(t, auth.Config{Now: c.now, Keys: [][]byte{public(t, k.rsa.Public())},
		JWKS: []auth.JWKS{{URL: p.URL, RetryAfter: time.Second, StaleMax: time.Hour, Timeout: 50 * time.Millisecond}}})
	token := sign(t, k.ed, auth.Claims{KeyID: "1"})
	faults := map[string]func(w http.ResponseWriter, r *http.Request){
		"500":      func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 500) },
		"garbage":  func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"no keys":  func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"keys":[]}`)) },
		"too long": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) },
		"slow":     func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"cut off":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/keys", http.StatusFound)
		},
		"file": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		},
	}
	for name, f := range faults {
		p.set(f)
		c.advance(2 * time.Second)
		if _, err := v.Verify(t.Context(), token); !errors.Is(err, auth.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := v.Permit(t.Context(), "shop", token); err == nil || !strings.Contains(fmt.Sprintf("%+v", *err.(*server.DeniedError)), "503") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := v.Verify(t.Context(), sign(t, k.rsa, auth.Claims{})); err != nil {
			t.Errorf("%s, with a configured key: %v", name, err)
		}
	}
	p.set(nil, good...)
	c.advance(2 * time.Second)
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	for name, f := range faults {
		p.set(f)
		c.advance(5 * time.Minute) // 40 minutes in all
		if _, err := v.Verify(t.Context(), token); err != nil {
			t.Errorf("%s, with known keys: %v", name, err)
		}
		if _, err := v.Verify(t.Context(), sign(t, k.ed2, auth.Claims{KeyID: "2"})); !errors.Is(err, auth.ErrInvalid) {
			t.Errorf("%s, unknown key: %v", name, err)
		}
	}
	c.advance(21 * time.Minute)
	if _, err := v.Verify(t.Context(), token); !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("after StaleMax: %v", err)
	}
	// Who gives up does not wait.
	p.set(faults["slow"])
	c.advance(time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Verify(ctx, token); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
}

// roundTrip is a network of one function.
type roundTrip func(r *http.Request) *http.Response

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r), nil }

// TestJWKSRedirect: keys come over https to the end.
func TestJWKSRedirect(t *testing.T) {
	k := keys()
	b, err := json.Marshal(map[string]any{"keys": []any{jwk("1", k.ed.Public())}})
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]error{"https://other/keys": nil, "http://other/keys": auth.ErrUnavailable, "https://idp/keys": auth.ErrUnavailable} {
		c := &http.Client{Transport: roundTrip(func(r *http.Request) *http.Response {
			w := httptest.NewRecorder()
			if r.URL.Host == "idp" {
				http.Redirect(w, r, target, http.StatusFound)
			} else {
				_, _ = w.Write(b)
			}
			return w.Result()
		})}
		v := newVerifier(t, auth.Config{Client: c, JWKS: []auth.JWKS{{URL: "https://idp/keys"}}})
		if _, err := v.Verify(t.Context(), sign(t, k.ed, auth.Claims{KeyID: "1"})); !errors.Is(err, want) {
			t.Errorf("redirected to %s: %v, want %v", target, err, want)
		}
	}
}

// TestJWKSTogether: many requests at once make one fetch.
func TestJWKSTogether(t *testing.T) {
	k := keys()
	p := newProvider(t, jwk("1", k.ed.Public()))
	v := newVerifier(t, auth.Config{JWKS: []auth.JWKS{{URL: p.URL}}})
	token := sign(t, k.ed, auth.Claims{KeyID: "1"})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := v.Verify(t.Context(), token); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := p.fetches.Load(); n != 1 {
		t.Errorf("fetches = %d, want 1", n)
	}
}

// TestJWKSLog: a password in the address does not get into the log.
func TestJWKSLog(t *testing.T) {
	var b bytes.Buffer
	v := newVerifier(t, auth.Config{Logger: slog.New(slog.NewTextHandler(&b, nil)), JWKS: []auth.JWKS{{URL: "http://user:secret@127.0.0.1:1/keys"}}})
	if _, err := v.Verify(t.Context(), sign(t, keys().ed, auth.Claims{})); !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("Verify = %v, want ErrUnavailable", err)
	}
	if err := v.Close(); err != nil { // it has ended, and logged
		t.Fatal(err)
	}
	if s := b.String(); !strings.Contains(s, "fetch JWKS") || strings.Contains(s, "secret") {
		t.Errorf("logged %q", s)
	}
}

func TestConfigRefused(t *testing.T) {
	for name, cfg := range map[string]auth.Config{
		"nothing":       {},
		"plain http":    {JWKS: []auth.JWKS{{URL: "http://example.com/jwks.json"}}},
		"file":          {JWKS: []auth.JWKS{{URL: "file:///etc/passwd"}}},
		"no URL":        {JWKS: []auth.JWKS{{}}},
		"negative time": {JWKS: []auth.JWKS{{URL: "https://example.com/jwks.json", Refresh: -1}}},
	} {
		if _, err := auth.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestRules(t *testing.T) {
	for text, want := range map[string]string{"all:data_read": "all:data_read", "todos:data_update,data_add": "todos:data_add,data_update",
		"a:b:schema_add": "a:b:schema_add", "": "", "todos": "", ":data_read": "", "todos:": "", "todos:data_insert": "", "todos:data_read,": ""} {
		r, err := auth.ParseRule(text)
		switch {
		case want == "" && err == nil:
			t.Errorf("%q is a rule: %v", text, r)
		case want != "" && (err != nil || r.String() != want):
			t.Errorf("ParseRule(%q) = %v, %v, want %s", text, r, err, want)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	k := keys()
	for name, c := range map[string]auth.Claims{
		"no database":        {},
		"unnamed database":   {Databases: []string{""}},
		"all and some":       {Databases: []string{"*", "shop"}},
		"read-only rules":    {Databases: []string{"shop"}, ReadOnly: true, Rules: []auth.Rule{{Actions: auth.DataAdd}}},
		"rule for nothing":   {Databases: []string{"shop"}, Rules: []auth.Rule{{}}},
		"rule without names": {Databases: []string{"shop"}, Rules: []auth.Rule{{Tables: []string{""}, Actions: auth.DataRead}}},
	} {
		if s, err := auth.Sign(k.ed, c); err == nil {
			t.Errorf("%s: %s", name, s)
		}
	}
}

// FuzzVerify: no token but the one that was signed passes, and none does harm.
func FuzzVerify(f *testing.F) {
	k := keys()
	v := newVerifier(f, auth.Config{Keys: [][]byte{public(f, k.ed.Public()), public(f, k.ec.Public()), public(f, k.rsa.Public())}})
	good := sign(f, k.ed, auth.Claims{Rules: []auth.Rule{{Tables: []string{"t"}, Actions: auth.DataRead}}})
	f.Add(good)
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		g, err := v.Verify(t.Context(), token)
		if (err == nil) != (token == good) || (g == nil) != (err != nil) {
			t.Errorf("Verify(%q) = %v, %v", token, g, err)
		}
	})
}

// FuzzClaims: whatever the claims of a signed token are, they are read or refused.
func FuzzClaims(f *testing.F) {
	k := keys()
	v := newVerifier(f, auth.Config{Keys: [][]byte{public(f, k.ed.Public())}})
	f.Add(`{"p":{"rules":[{"ns":["shop"],"t":null,"a":["data_read"]}],"rw":{"ns":["*"]}},"exp":1e11}`)
	f.Add(`{"id":"shop","a":"ro"}`)
	f.Fuzz(func(t *testing.T, claims string) {
		if len(claims) > 8<<10 {
			return
		}
		head := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"EdDSA"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
		token := head + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(k.ed, []byte(head)))
		g, err := v.Verify(t.Context(), token)
		if err != nil {
			if g != nil {
				t.Error("both a grant and an error")
			}
			return
		}
		if r := g.On("shop"); r != nil && r.Pull() == nil && !r.ReadAll() {
			t.Error("pulls without reading")
		}
	})
}
