// Package auth decides what the bearer of a token may do: it verifies JSON Web
// Tokens and enforces what they grant, statement by statement.
//
//	v, err := auth.New(auth.Config{Keys: [][]byte{publicPEM}})
//	…
//	defer v.Close()
//	srv, err := server.Open(server.Config{File: "remote.db", Name: "shop", Permit: v.Permit})
//
// # Tokens
//
// Signatures are EdDSA (Ed25519), RS256 or ES256, and nothing else: the key's type
// decides, not the token. exp and nbf are checked with [Leeway]; a token without
// exp does not expire.
//
// The claim p says what a token grants. It is that of libsql-server, and has
// besides the fine-grained permissions of Turso Cloud, whose layout inside a token
// is not published; here they are p.rules:
//
//	"p": {
//	  "ro": {"ns": ["shop"]},                                reads shop
//	  "rw": {"ns": ["cart", "stock"]},                       everything in these two
//	  "rules": [
//	    {"ns": ["blog"], "t": null, "a": ["data_read"]},     reads all tables of blog
//	    {"ns": ["blog"], "t": ["posts"], "a": ["data_add", "data_update"]}
//	  ]
//	}
//
// ns names databases; "*" alone stands for all of them. t null, empty or absent
// means all tables. Everything that is named adds up. roa and rwa count as ro and
// rw, since there is nothing to attach. Rules stand inside p, so that a server
// which does not know them grants nothing.
//
// Without p, tokens of configured keys have libsql-server's older claims: id, the
// database (all, when absent), and a, "ro" or "rw" (rw, when absent). A token of a
// JWKS needs p: an identity provider signs tokens for all kinds of users.
//
// # Permissions
//
// An action on a table is what SQLite's authorizer (https://sqlite.org/c3ref/set_authorizer.html)
// says that a statement does, views, triggers, foreign keys and common table
// expressions followed to the tables behind them. So:
//
//   - WHERE, RETURNING, ON CONFLICT and expressions read: UPDATE t SET a = a+1
//     needs data_update and data_read.
//   - A view needs data_read on itself and on what it reads.
//   - What a trigger or a foreign key does, needs the rights of whoever fires it.
//   - Rows that REPLACE deletes need data_delete.
//   - An upsert, thus every row that a sync client pushes, needs data_add,
//     data_update and data_read.
//   - CREATE TABLE, VIEW and INDEX need schema_add on the table or view, ALTER
//     TABLE schema_update, DROP schema_delete; an index besides data_read on its
//     columns, DROP TABLE besides data_delete.
//   - RENAME TO needs rights that are the same for all tables: otherwise a table
//     could be carried to where the rights are better.
//   - CREATE TRIGGER needs schema_add on its table and all data rights on all
//     tables: a trigger runs with the rights of those who fire it.
//   - CREATE VIRTUAL TABLE needs schema_add and data_read on all tables. Full-text
//     tables have shadow tables, which need to be named as well.
//   - Temporary tables belong to the connection, and are free.
//   - sqlite_schema may always be read.
//   - A pull carries the pages of every table: it needs data_read on all.
//
// A sync client whose rights are restricted needs more for its watermark, and gets
// it: who may read everything and write something may create, read, add to and
// update (not delete from) turso_sync_last_change_id. Whose row is whose, package
// server looks after, by the claims iss and sub: give the tokens of different users
// different subjects. Tokens without sub are one and the same nobody, whose clients
// can overwrite each other's watermark; the harm is theirs: changes that are pushed
// twice or not at all. They cannot reach other tables by it.
//
// A replica of this module whose push is not permitted gets an error that names
// the table and the action. See package server for triggers.
//
// What rights do not hide: that a key exists already (a failed INSERT), how many
// rows were deleted, and the size of the database.
package auth

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tursosync/tursosync/server"
)

const (
	// Leeway is how far the clocks of signer and server may be apart.
	Leeway = time.Minute
	// TokenMax is the length of the longest token that is looked at, in bytes.
	TokenMax = 16 << 10
)

// Why a token is refused. Clients are shown their text, which is
// libsql-server's; errors of Verify wrap them.
var (
	ErrMissing  = errors.New("authentication is required but no JWT was specified")
	ErrInvalid  = errors.New("the JWT is invalid")
	ErrExpired  = errors.New("the JWT has expired")
	ErrImmature = errors.New("the JWT is immature (not valid yet)")
	// ErrUnavailable: the keys to verify the token with cannot be had now.
	ErrUnavailable = errors.New("the signing keys are not available")
)

// Config says whose tokens count. There must be a key or a JWKS.
type Config struct {
	// Keys are public keys: PEM (any number of PUBLIC KEY blocks), or the 32 bytes
	// of an Ed25519 key in URL-safe base64, as libsql-server takes them.
	Keys [][]byte
	// Issuer and Audience are what iss must be and aud must hold in tokens of Keys;
	// empty means anything.
	Issuer, Audience string
	// JWKS are key sets of others.
	JWKS []JWKS
	// Client fetches the key sets; nil means one of its own. Its CheckRedirect and
	// Timeout are not used.
	Client *http.Client
	// Now is the clock; nil means time.Now.
	Now    func() time.Time
	Logger *slog.Logger // nil means silence
}

// Verifier verifies tokens. It may be used by several goroutines at a time.
type Verifier struct {
	cfg  Config
	sets []*keySet
	stop context.CancelFunc

	mu   sync.RWMutex // guards keys
	keys []crypto.PublicKey
}

// New makes a Verifier. It fetches nothing yet.
func New(cfg Config) (*Verifier, error) {
	if len(cfg.Keys) == 0 && len(cfg.JWKS) == 0 {
		return nil, errors.New("auth: there is neither a key nor a JWKS")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, stop := context.WithCancel(context.Background())
	v := &Verifier{cfg: cfg, stop: stop}
	if err := v.SetKeys(cfg.Keys...); err != nil {
		stop()
		return nil, err
	}
	for _, j := range cfg.JWKS {
		s, err := newKeySet(ctx, j, cfg)
		if err != nil {
			stop()
			return nil, err
		}
		v.sets = append(v.sets, s)
	}
	return v, nil
}

// SetKeys replaces the configured keys, from the next token on: a rotation.
func (v *Verifier) SetKeys(keys ...[]byte) error {
	var parsed []crypto.PublicKey
	for i, k := range keys {
		p, err := ParseKeys(k)
		if err != nil {
			return fmt.Errorf("key %d: %w", i+1, err)
		}
		parsed = append(parsed, p...)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keys = parsed
	return nil
}

// Close ends what is being fetched.
func (v *Verifier) Close() error {
	v.stop()
	for _, s := range v.sets {
		s.fetches.Wait()
	}
	return nil
}

// Permit is for [server.Config].Permit.
func (v *Verifier) Permit(ctx context.Context, database, token string) (server.Permission, error) {
	g, err := v.Verify(ctx, token)
	if err != nil {
		return nil, refusal(err)
	}
	r := g.On(database)
	switch {
	case r == nil:
		return nil, &server.DeniedError{Status: http.StatusForbidden,
			Message: "Authorization forbidden: the token is not for this database"}
	case r.full():
		return server.ReadWrite, nil
	}
	return r, nil
}

// refusal is how an error of Verify is answered.
func refusal(err error) error {
	if errors.Is(err, ErrUnavailable) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &server.DeniedError{Status: http.StatusServiceUnavailable, Message: ErrUnavailable.Error()}
	}
	known, more := ErrInvalid, ""
	for _, e := range []error{ErrMissing, ErrExpired, ErrImmature} {
		if errors.Is(err, e) {
			known = e
		}
	}
	if d := (*detail)(nil); errors.As(err, &d) {
		more = ": " + d.text
	}
	text := known.Error()
	text = strings.ToUpper(text[:1]) + text[1:]
	return &server.DeniedError{Status: http.StatusUnauthorized, Message: "`" + text + "`" + more}
}

// detail is what more a client may be told; it is never part of a token.
type detail struct {
	err  error
	text string
}

func (d *detail) Error() string { return d.err.Error() + ": " + d.text }
func (d *detail) Unwrap() error { return d.err }

func invalid(text string) error { return &detail{ErrInvalid, text} }

// Verify returns what a token grants. Its errors are the Err… of this package.
func (v *Verifier) Verify(ctx context.Context, token string) (*Grant, error) {
	switch {
	case token == "":
		return nil, ErrMissing
	case len(token) > TokenMax:
		return nil, invalid("it is too long")
	}
	err := invalid("no key verifies it")
	v.mu.RLock()
	keys := v.keys
	v.mu.RUnlock()
	if len(keys) > 0 {
		g, e := v.verify(token, v.cfg.Issuer, v.cfg.Audience, readClaims, func(alg, _ string) ([]crypto.PublicKey, error) {
			return ofType(keys, alg), nil
		})
		if e == nil {
			return g, nil
		}
		if !errors.Is(e, errNotOurs) {
			return nil, e
		}
	}
	var unavailable error
	for _, s := range v.sets {
		g, e := v.verifyBySet(ctx, token, s)
		switch {
		case e == nil:
			return g, nil
		case errors.Is(e, ErrUnavailable):
			unavailable = e
		case !errors.Is(e, errNotOurs):
			return nil, e
		}
	}
	if unavailable != nil {
		return nil, unavailable
	}
	return nil, err
}

// verifyBySet verifies by the keys of a set. A signature that is wrong by the keys
// that are known may be right by newer ones.
func (v *Verifier) verifyBySet(ctx context.Context, token string, s *keySet) (*Grant, error) {
	try := func(again bool) (*Grant, error) {
		return v.verify(token, s.Issuer, s.Audience, readPermissions, func(alg, kid string) ([]crypto.PublicKey, error) {
			return s.lookup(ctx, alg, kid, again)
		})
	}
	g, err := try(false)
	if errors.Is(err, errNotOurs) && s.mayFetch() {
		return try(true)
	}
	return g, err
}

// errNotOurs: none of these keys made the signature.
var errNotOurs = errors.New("no key verifies the token")

// verify checks signature, times, issuer and audience, in this order.
func (v *Verifier) verify(token, issuer, audience string, read func(map[string]any) (*Grant, error),
	keys func(alg, kid string) ([]crypto.PublicKey, error)) (*Grant, error) {
	options := []jwt.ParserOption{jwt.WithValidMethods([]string{algEdDSA, algRS256, algES256}), jwt.WithStrictDecoding(),
		jwt.WithLeeway(Leeway), jwt.WithTimeFunc(v.cfg.Now)}
	if issuer != "" {
		options = append(options, jwt.WithIssuer(issuer))
	}
	if audience != "" {
		options = append(options, jwt.WithAudience(audience))
	}
	claims := jwt.MapClaims{}
	var keyError error
	_, err := jwt.NewParser(options...).ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		var set jwt.VerificationKeySet
		// Before the library compares the times: it would take some for others.
		if keyError = checkTimes(claims); keyError == nil {
			set.Keys, keyError = candidates(t, keys)
		}
		return set, keyError
	})
	switch {
	case err == nil:
	case keyError != nil:
		return nil, keyError
	case errors.Is(err, jwt.ErrTokenMalformed):
		return nil, invalid("it is malformed")
	case errors.Is(err, jwt.ErrTokenUnverifiable):
		return nil, errNotOurs
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		if alg := algorithm(token); alg != algEdDSA && alg != algRS256 && alg != algES256 {
			return nil, invalid("its algorithm is not EdDSA, RS256 or ES256")
		}
		return nil, errNotOurs
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, ErrExpired
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return nil, ErrImmature
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return nil, invalid("it is for another audience")
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return nil, invalid("it is of another issuer")
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return nil, invalid("it lacks issuer or audience")
	default:
		return nil, invalid("its claims are not right")
	}
	return read(claims)
}

// candidates finds the keys that may have signed a token, by its header.
func candidates(t *jwt.Token, keys func(alg, kid string) ([]crypto.PublicKey, error)) ([]jwt.VerificationKey, error) {
	// RFC 7515 §4.1.11: who does not understand an extension that is critical
	// refuses the token. We understand none, and the library does not look.
	if _, ok := t.Header["crit"]; ok {
		return nil, invalid("it has critical extensions")
	}
	kid := ""
	if k, ok := t.Header["kid"]; ok {
		if kid, ok = k.(string); !ok {
			return nil, invalid("it is malformed")
		}
	}
	found, err := keys(t.Method.Alg(), kid)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errNotOurs
	}
	out := make([]jwt.VerificationKey, len(found))
	for i, k := range found {
		out[i] = k
	}
	return out, nil
}

// algorithm reads the header of a token that was refused, for the words of the
// error.
func algorithm(token string) string {
	t, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
	if err != nil {
		return ""
	}
	alg, _ := t.Header["alg"].(string)
	return alg
}

// checkTimes refuses times that the library takes for something else: 0 for none,
// and numbers that overflow.
func checkTimes(claims map[string]any) error {
	for _, name := range []string{"exp", "nbf"} {
		t, ok := claims[name]
		if !ok {
			continue
		}
		if f, ok := t.(float64); !ok || f <= 0 || f > 1e11 {
			return invalid("its " + name + " is not a time")
		}
	}
	return nil
}
