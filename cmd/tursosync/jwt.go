package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/tursosync/tursosync/server"
	"github.com/tursosync/tursosync/server/auth"
)

// jwts are the settings of serve about tokens that are signed.
type jwts struct {
	keyFile string
	cfg     auth.Config
	// Of each key set, in the same order; no issuers and no audiences: any.
	urls, issuers, audiences words
}

// words is a setting that may be given several times, or several words at once.
type words []string

func (w *words) String() string { return strings.Join(*w, " ") }

func (w *words) Set(v string) error {
	*w = append(*w, strings.Fields(v)...)
	return nil
}

func jwtSettings(s *settings) *jwts {
	j := &jwts{}
	s.StringVar(&j.keyFile, "jwt-key-file", "", "`file` with the public keys of JWTs (PEM, or URL-safe base64 of an Ed25519 key); read again when it changes")
	s.StringVar(&j.cfg.Issuer, "jwt-issuer", "", "what their iss must be")
	s.StringVar(&j.cfg.Audience, "jwt-audience", "", "what their aud must hold")
	s.Var(&j.urls, "jwks-url", "`URL` of the key set of an identity provider (https); may be repeated")
	s.Var(&j.issuers, "jwks-issuer", "`iss` that tokens of the key set must have; one for each -jwks-url, in the same order")
	s.Var(&j.audiences, "jwks-audience", "`aud` that tokens of the key set must hold; one for each -jwks-url, in the same order")
	return j
}

// gate makes what serve asks; nil when there are no such settings.
func (j *jwts) gate(log *slog.Logger) (*jwtGate, error) {
	if j.keyFile == "" && (j.cfg.Issuer != "" || j.cfg.Audience != "") {
		return nil, usagef("serve: -jwt-issuer and -jwt-audience need -jwt-key-file")
	}
	if len(j.urls) == 0 && len(j.issuers)+len(j.audiences) > 0 {
		return nil, usagef("serve: -jwks-issuer and -jwks-audience need -jwks-url")
	}
	for name, of := range map[string]words{"jwks-issuer": j.issuers, "jwks-audience": j.audiences} {
		if len(of) != 0 && len(of) != len(j.urls) {
			return nil, usagef("serve: -%s is given %d times and -jwks-url %d times; each key set needs one", name, len(of), len(j.urls))
		}
	}
	if j.keyFile == "" && len(j.urls) == 0 {
		return nil, nil
	}
	g := &jwtGate{file: j.keyFile, log: log}
	if j.keyFile != "" {
		b, stamp, err := g.read()
		if err != nil {
			return nil, err
		}
		j.cfg.Keys, g.stamp = [][]byte{b}, stamp
	}
	for i, url := range j.urls {
		set := auth.JWKS{URL: url}
		if len(j.issuers) > 0 {
			set.Issuer = j.issuers[i]
		}
		if len(j.audiences) > 0 {
			set.Audience = j.audiences[i]
		}
		j.cfg.JWKS = append(j.cfg.JWKS, set)
	}
	j.cfg.Logger = log
	var err error
	g.v, err = auth.New(j.cfg)
	return g, err
}

// jwtGate verifies tokens by keys that may change in their file.
type jwtGate struct {
	v    *auth.Verifier
	file string
	log  *slog.Logger
	// fixed are the tokens that are no JWTs; nil when there are none.
	fixed func(context.Context, string) server.Access

	mu     sync.Mutex // guards what follows
	stamp  time.Time
	looked time.Time
}

func (g *jwtGate) read() ([]byte, time.Time, error) {
	info, err := os.Stat(g.file)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read JWT keys: %w", err)
	}
	b, err := os.ReadFile(g.file)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read JWT keys: %w", err)
	}
	return b, info.ModTime(), nil
}

// permit is for server.Config.Permit.
func (g *jwtGate) permit(ctx context.Context, database, token string) (server.Permission, error) {
	if g.fixed != nil {
		if a := g.fixed(ctx, token); a != server.NoAccess {
			return a, nil
		}
	}
	g.renew()
	return g.v.Permit(ctx, database, token)
}

// renew takes other keys from the file, at most every second. Those that cannot be
// read do not replace the ones there are.
func (g *jwtGate) renew() {
	if g.file == "" {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.looked) < time.Second {
		return
	}
	g.looked = time.Now()
	if info, err := os.Stat(g.file); err == nil && info.ModTime().Equal(g.stamp) {
		return
	}
	b, stamp, err := g.read()
	if err == nil {
		err = g.v.SetKeys(b)
	}
	if err != nil {
		g.log.Error("read JWT keys", "error", err)
		return
	}
	g.stamp = stamp
	g.log.Info("JWT keys were read again", "file", g.file)
}
