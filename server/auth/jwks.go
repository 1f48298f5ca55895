package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// JWKS is a key set that somebody else publishes (RFC 7517), for instance an
// identity provider. It is fetched when a token first needs it, again every
// Refresh, and at once when a token names a key that is not in it, or has a
// signature that its keys do not explain; but never more often than every
// RetryAfter.
type JWKS struct {
	// URL is where it is: https, or http on loopback.
	URL string
	// Issuer and Audience are what iss must be and aud must hold in its tokens;
	// empty means anything.
	Issuer, Audience string
	// Refresh is the age at which it is fetched again, in the background; 0 means
	// DefaultRefresh. So long a key that was withdrawn is believed.
	Refresh time.Duration
	// RetryAfter is the shortest time between two fetches; 0 means
	// DefaultRetryAfter.
	RetryAfter time.Duration
	// StaleMax is how long it is believed while it cannot be fetched; 0 means
	// DefaultStaleMax.
	StaleMax time.Duration
	// Timeout bounds a fetch; 0 means DefaultTimeout.
	Timeout time.Duration
}

// Defaults of [JWKS].
const (
	DefaultRefresh    = 10 * time.Minute
	DefaultRetryAfter = 30 * time.Second
	DefaultStaleMax   = 24 * time.Hour
	DefaultTimeout    = 5 * time.Second
)

const (
	setBytesMax = 256 << 10 // the longest key set that is read
	setKeysMax  = 64        // the keys of it that are looked at
)

// keySet is a JWKS and what is known of it.
type keySet struct {
	JWKS
	client  *http.Client
	now     func() time.Time
	logger  *slog.Logger
	ctx     context.Context // ends with the Verifier
	where   string          // URL without a password, for the log
	fetches sync.WaitGroup

	mu      sync.Mutex // guards what follows; not held during a fetch
	keys    []setKey
	fetched time.Time     // when keys were, zero: never
	tried   time.Time     // when a fetch last began, zero: never
	busy    chan struct{} // closed when the fetch under way ends; nil: there is none
}

// setKey is a key of a set.
type setKey struct {
	kid string
	pub crypto.PublicKey
}

func newKeySet(ctx context.Context, j JWKS, cfg Config) (*keySet, error) {
	u, err := url.Parse(j.URL)
	if err != nil {
		return nil, errors.New("auth: the URL of a JWKS is malformed")
	}
	if !trustworthy(u) {
		return nil, fmt.Errorf("auth: the URL of JWKS %s is not https", u.Redacted())
	}
	for _, d := range []*time.Duration{&j.Refresh, &j.RetryAfter, &j.StaleMax, &j.Timeout} {
		if *d < 0 {
			return nil, errors.New("auth: a duration of a JWKS is negative")
		}
	}
	orDefault(&j.Refresh, DefaultRefresh)
	orDefault(&j.RetryAfter, DefaultRetryAfter)
	orDefault(&j.StaleMax, DefaultStaleMax)
	orDefault(&j.Timeout, DefaultTimeout)
	client := &http.Client{}
	if cfg.Client != nil {
		*client = *cfg.Client
	}
	client.Timeout = 0 // the context's
	client.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if len(via) > 3 || !trustworthy(r.URL) {
			return errors.New("redirected too often, or away from https")
		}
		return nil
	}
	return &keySet{JWKS: j, client: client, now: cfg.Now, logger: cfg.Logger, ctx: ctx, where: u.Redacted()}, nil
}

func orDefault(d *time.Duration, def time.Duration) {
	if *d == 0 {
		*d = def
	}
}

// trustworthy tells whether nobody on the way can put other keys in.
func trustworthy(u *url.URL) bool {
	switch u.Scheme {
	case "https":
		return u.Host != ""
	case "http":
		ip := net.ParseIP(u.Hostname())
		return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	}
	return false
}

// lookup returns the keys that may have made a signature. With again, those that
// are known did not: it fetches first.
func (s *keySet) lookup(ctx context.Context, alg, kid string, again bool) ([]crypto.PublicKey, error) {
	s.mu.Lock()
	now := s.now()
	usable := !s.fetched.IsZero() && now.Sub(s.fetched) < s.StaleMax
	found := s.find(alg, kid)
	if usable && len(found) > 0 && !again {
		if now.Sub(s.fetched) >= s.Refresh {
			s.begin(now)
		}
		s.mu.Unlock()
		return found, nil
	}
	s.begin(now)
	busy := s.busy
	s.mu.Unlock()
	if busy != nil {
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fetched.IsZero() || s.now().Sub(s.fetched) >= s.StaleMax {
		return nil, ErrUnavailable
	}
	return s.find(alg, kid), nil
}

// mayFetch tells whether a fetch may begin, or is under way.
func (s *keySet) mayFetch() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy != nil || s.due(s.now())
}

// due tells whether the last fetch is long enough ago. Called with mu held.
func (s *keySet) due(now time.Time) bool {
	return s.tried.IsZero() || now.Sub(s.tried) >= s.RetryAfter
}

// begin starts a fetch unless there is one or it is too early. Called with mu
// held.
func (s *keySet) begin(now time.Time) {
	if s.busy != nil || !s.due(now) || s.ctx.Err() != nil {
		return
	}
	s.tried = now
	busy := make(chan struct{})
	s.busy = busy
	s.fetches.Go(func() {
		keys, err := s.fetch()
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil {
			s.logger.Warn("fetch JWKS", "url", s.where, "error", err)
		} else {
			s.keys, s.fetched = keys, now
		}
		s.busy = nil
		close(busy)
	})
}

// find returns the keys for alg, and of the name if the token has one. Called
// with mu held.
func (s *keySet) find(alg, kid string) []crypto.PublicKey {
	var out []crypto.PublicKey
	for _, k := range s.keys {
		if algOf(k.pub) == alg && (kid == "" || k.kid == kid) {
			out = append(out, k.pub)
		}
	}
	return out
}

func (s *keySet) fetch() ([]setKey, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	resp, err := s.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, setBytesMax+1))
	if err != nil {
		return nil, err
	}
	if len(b) > setBytesMax {
		return nil, fmt.Errorf("it is longer than %d bytes", setBytesMax)
	}
	return parseSet(b)
}

// jwk is a key of a JWKS, RFC 7517 §4, RFC 7518 §6, RFC 8037 §2.
type jwk struct {
	Kty string   `json:"kty"`
	Use string   `json:"use"`
	Ops []string `json:"key_ops"`
	Alg string   `json:"alg"`
	Kid string   `json:"kid"`
	Crv string   `json:"crv"`
	X   string   `json:"x"`
	Y   string   `json:"y"`
	N   string   `json:"n"`
	E   string   `json:"e"`
	D   string   `json:"d"` // of a private key
}

// parseSet reads the keys of a set that we can verify with; the others are for
// others. A set without any is an error: an outage at its publisher rather than
// its wish that nobody be let in.
func parseSet(b []byte) ([]setKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, errors.New("it is not a JWKS")
	}
	var out []setKey
	for _, raw := range set.Keys[:min(len(set.Keys), setKeysMax)] {
		var k jwk
		if json.Unmarshal(raw, &k) != nil {
			continue
		}
		if pub, err := k.public(); err == nil {
			out = append(out, setKey{k.Kid, pub})
		}
	}
	if len(out) == 0 {
		return nil, errors.New("it holds no key that can be used")
	}
	return out, nil
}

// public makes the key, if it is meant for signatures and for its type's
// algorithm.
func (k *jwk) public() (crypto.PublicKey, error) {
	if k.D != "" {
		return nil, keyError("it is published with its private part")
	}
	if k.Use != "" && k.Use != "sig" {
		return nil, keyError("it is not for signatures")
	}
	verifies := len(k.Ops) == 0
	for _, op := range k.Ops {
		verifies = verifies || op == "verify"
	}
	if !verifies {
		return nil, keyError("it is not for verification")
	}
	pub, err := k.parse()
	if err != nil {
		return nil, err
	}
	// RFC 9864 calls EdDSA on Ed25519 by the curve's name.
	if k.Alg != "" && k.Alg != algOf(pub) && (k.Alg != "Ed25519" || algOf(pub) != algEdDSA) {
		return nil, keyError("it is for the algorithm %q", k.Alg)
	}
	return pub, usable(pub)
}

func (k *jwk) parse() (crypto.PublicKey, error) {
	var fields [4][]byte
	for i, f := range []string{k.X, k.Y, k.N, k.E} {
		b, err := base64.RawURLEncoding.DecodeString(f)
		if err != nil || len(b) > rsaBitsMax/8+1 {
			return nil, keyError("it is malformed")
		}
		fields[i] = b
	}
	x, y, n, e := fields[0], fields[1], fields[2], fields[3]
	switch {
	case k.Kty == "OKP" && k.Crv == "Ed25519" && len(x) == ed25519.PublicKeySize:
		return ed25519.PublicKey(x), nil
	case k.Kty == "EC" && k.Crv == "P-256" && len(x) == 32 && len(y) == 32:
		// Checks that the point is on the curve.
		return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
	case k.Kty == "RSA" && len(n) > 0 && len(e) > 0 && len(e) <= 4:
		exponent := new(big.Int).SetBytes(e).Int64()
		if exponent < 3 || exponent%2 == 0 || exponent > 1<<31-1 {
			return nil, keyError("the RSA exponent is %d", exponent)
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent)}, nil
	}
	return nil, keyError("it is of an unknown kind or malformed")
}
