package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tursosync/tursosync/server/auth"
)

// grants adds the flags that say what a token permits.
func grants(s *settings) *auth.Claims {
	c := &auth.Claims{}
	s.Func("db", "`name` of the database; may be repeated; * alone means all", func(v string) error {
		c.Databases = append(c.Databases, strings.Fields(v)...)
		return nil
	})
	rule := func(v string) error {
		for _, text := range strings.Fields(v) {
			r, err := auth.ParseRule(text)
			if err != nil {
				return err
			}
			c.Rules = append(c.Rules, r)
		}
		return nil
	}
	s.Func("p", "`table:action,…` that is permitted, or all:action,…; may be repeated; the actions are "+auth.AllActions.String(), rule)
	s.Func("permissions", "the same as -p", rule)
	s.BoolVar(&c.ReadOnly, "read-only", false, "permit to read all tables, and nothing else")
	return c
}

// tokenCreate signs a token and prints it.
func (a app) tokenCreate(_ context.Context, args []string) error {
	s := a.settings("token create", "")
	c := grants(s)
	var keyFile, expires string
	s.StringVar(&keyFile, "key-file", "", "`file` with the private key (PEM), see token key")
	s.StringVar(&expires, "expires", "never", "`time` that it is good for, like 24h, 7d, 2w1d30m or never")
	s.StringVar(&c.Issuer, "issuer", "", "claim iss")
	s.StringVar(&c.Audience, "audience", "", "claim aud")
	s.StringVar(&c.Subject, "subject", "", "claim sub: who will have it")
	s.StringVar(&c.KeyID, "key-id", "", "kid of the header")
	if _, err := s.parse(a, args, 0); err != nil {
		return err
	}
	if keyFile == "" {
		return usagef("token create: -key-file is missing")
	}
	d, err := lifetime(expires)
	if err != nil {
		return err
	}
	c.IssuedAt = time.Now()
	if d != 0 {
		c.Expires = c.IssuedAt.Add(d)
	}
	if _, err := c.Permissions(); err != nil {
		return usagef("token create: %w", err)
	}
	b, err := os.ReadFile(keyFile)
	if err != nil {
		return fmt.Errorf("read key: %w", err)
	}
	key, err := auth.ParseSigner(b)
	if err != nil {
		return fmt.Errorf("read key %s: %w", keyFile, err)
	}
	token, err := auth.Sign(key, *c)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, token)
	return err
}

// tokenKey makes a key: the private part goes to a new file, the public part to
// standard output.
func (a app) tokenKey(_ context.Context, args []string) error {
	s := a.settings("token key", "FILE")
	names, err := s.parse(a, args, 1)
	if err != nil {
		return err
	}
	private, public, err := auth.NewKey()
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	f, err := os.OpenFile(names[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	_, err = f.Write(private)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	_, err = a.stdout.Write(public)
	return err
}

// jwksTemplate prints the claims that an identity provider is to put into its
// tokens.
func (a app) jwksTemplate(_ context.Context, args []string) error {
	s := a.settings("jwks template", "")
	c := grants(s)
	var scope string
	s.StringVar(&scope, "scope", "", "full-access or read-only, in place of -p")
	if _, err := s.parse(a, args, 0); err != nil {
		return err
	}
	switch scope {
	case "":
	case "read-only", "full-access":
		if len(c.Rules) > 0 || c.ReadOnly && scope == "full-access" {
			return usagef("jwks template: -scope contradicts -p or -read-only")
		}
		c.ReadOnly = scope == "read-only"
	default:
		return usagef("jwks template: -scope is full-access or read-only, not %q", scope)
	}
	p, err := c.Permissions()
	if err != nil {
		return usagef("jwks template: %w", err)
	}
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	return e.Encode(map[string]any{"p": p})
}

var lifetimePart = regexp.MustCompile(`^(\d{1,6})(w|d|h|m|s)`)

// lifetime reads 24h, 7d, 2w1d30m; never is 0.
func lifetime(s string) (time.Duration, error) {
	if s == "never" {
		return 0, nil
	}
	units := map[string]time.Duration{"w": 7 * 24 * time.Hour, "d": 24 * time.Hour, "h": time.Hour, "m": time.Minute, "s": time.Second}
	const longest = 100 * 365 * 24 * time.Hour
	var d time.Duration
	rest := s
	for rest != "" {
		m := lifetimePart.FindStringSubmatch(rest)
		if m == nil {
			return 0, usagef("-expires is like 24h, 7d, 2w1d30m or never, not %q", s)
		}
		n, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil || time.Duration(n) > longest/units[m[2]] {
			return 0, usagef("-expires: %q is too long", s)
		}
		d, rest = d+time.Duration(n)*units[m[2]], rest[len(m[0]):]
		if d > longest {
			return 0, usagef("-expires: %q is too long", s)
		}
	}
	if d == 0 {
		return 0, usagef("-expires: a token that is good for no time")
	}
	return d, nil
}
