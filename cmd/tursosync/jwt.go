package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/tursosync/tursosync/server"
	"github.com/tursosync/tursosync/server/auth"
)

// jwts are the settings of serve about tokens that are signed.
type jwts struct {
	keyFile string
	cfg     auth.Config
	jwks    auth.JWKS
}

func jwtSettings(s *settings) *jwts {
	j := &jwts{}
	s.StringVar(&j.keyFile, "jwt-key-file", "", "`file` with the public keys of JWTs (PEM, or URL-safe base64 of an Ed25519 key); read again when it changes")
	s.StringVar(&j.cfg.Issuer, "jwt-issuer", "", "what their iss must be")
	s.StringVar(&j.cfg.Audience, "jwt-audience", "", "what their aud must hold")
	s.StringVar(&j.jwks.URL, "jwks-url", "", "`URL` of the key set of an identity provider (https)")
	s.StringVar(&j.jwks.Issuer, "jwks-issuer", "", "what iss must be in its tokens")
	s.StringVar(&j.jwks.Audience, "jwks-audience", "", "what aud must hold in its tokens")
	return j
}

// gate makes what serve asks; nil when there are no such settings.
func (j *jwts) gate(log *slog.Logger) (*jwtGate, error) {
	if j.keyFile == "" && (j.cfg.Issuer != "" || j.cfg.Audience != "") {
		return nil, usagef("serve: -jwt-issuer and -jwt-audience need -jwt-key-file")
	}
	if j.jwks.URL == "" && (j.jwks.Issuer != "" || j.jwks.Audience != "") {
		return nil, usagef("serve: -jwks-issuer and -jwks-audience need -jwks-url")
	}
	if j.keyFile == "" && j.jwks.URL == "" {
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
	if j.jwks.URL != "" {
		j.cfg.JWKS = []auth.JWKS{j.jwks}
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
