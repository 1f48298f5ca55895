package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Claims are what a token is to say.
type Claims struct {
	// Databases names where it counts; "*" alone means everywhere. There must be
	// one.
	Databases []string
	// ReadOnly and Rules are its rights; with neither it may do everything.
	ReadOnly bool
	Rules    []Rule
	// Expires and NotBefore bound its time; zero means no bound.
	Expires, NotBefore time.Time
	// IssuedAt is the claim iat; zero leaves it out.
	IssuedAt time.Time
	// Issuer, Audience and Subject are the claims iss, aud and sub, KeyID the kid of
	// the header; empty leaves them out.
	Issuer, Audience, Subject, KeyID string
}

type scope struct {
	Databases []string `json:"ns"`
}

type ruleClaim struct {
	Databases []string `json:"ns"`
	Tables    []string `json:"t"` // null: all
	Actions   []string `json:"a"`
}

// Permissions is the claim p, as it is put into a token or into the template of an
// identity provider.
type Permissions struct {
	ReadOnly  *scope      `json:"ro,omitempty"`
	ReadWrite *scope      `json:"rw,omitempty"`
	Rules     []ruleClaim `json:"rules,omitempty"`
}

// Permissions returns the claim p, or what contradicts itself in the claims.
func (c *Claims) Permissions() (*Permissions, error) {
	if len(c.Databases) == 0 || slices.Contains(c.Databases, "") {
		return nil, errors.New("no database is named")
	}
	if len(c.Databases) > 1 && slices.Contains(c.Databases, everywhere) {
		return nil, errors.New("all databases and some are named")
	}
	switch {
	case c.ReadOnly && len(c.Rules) > 0:
		return nil, errors.New("rules and read-only contradict each other: all:data_read is a rule")
	case c.ReadOnly:
		return &Permissions{ReadOnly: &scope{c.Databases}}, nil
	case len(c.Rules) == 0:
		return &Permissions{ReadWrite: &scope{c.Databases}}, nil
	}
	out := &Permissions{}
	for _, r := range c.Rules {
		if r.Actions == 0 || r.Actions&^AllActions != 0 {
			return nil, fmt.Errorf("rule %v has no action or an unknown one", r)
		}
		if slices.Contains(r.Tables, "") {
			return nil, fmt.Errorf("rule %v names a table without a name", r)
		}
		out.Rules = append(out.Rules, ruleClaim{c.Databases, r.Tables, r.Actions.Names()})
	}
	return out, nil
}

// Sign makes a token. The key decides the algorithm: Ed25519 (EdDSA), RSA of 2048
// to 8192 bits (RS256) or ECDSA on P-256 (ES256).
func Sign(key crypto.Signer, c Claims) (string, error) {
	p, err := c.Permissions()
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	claims := jwt.MapClaims{"p": p}
	for name, t := range map[string]time.Time{"exp": c.Expires, "nbf": c.NotBefore, "iat": c.IssuedAt} {
		if !t.IsZero() {
			claims[name] = t.Unix()
		}
	}
	for name, s := range map[string]string{"iss": c.Issuer, "aud": c.Audience, "sub": c.Subject} {
		if s != "" {
			claims[name] = s
		}
	}
	if err := usable(key.Public()); err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	var method jwt.SigningMethod
	switch key.(type) {
	case ed25519.PrivateKey:
		method = jwt.SigningMethodEdDSA
	case *rsa.PrivateKey:
		method = jwt.SigningMethodRS256
	case *ecdsa.PrivateKey:
		method = jwt.SigningMethodES256
	default:
		return "", fmt.Errorf("sign token: %w", keyError("it is a %T", key))
	}
	t := jwt.NewWithClaims(method, claims)
	if c.KeyID != "" {
		t.Header["kid"] = c.KeyID
	}
	s, err := t.SignedString(key)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return s, nil
}

// NewKey makes a key for tokens: the private part for [ParseSigner], the public
// part for [Config].Keys, both in PEM.
func NewKey() (private, public []byte, err error) {
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, nil, err
	}
	if private, err = x509.MarshalPKCS8PrivateKey(priv); err != nil {
		return nil, nil, err
	}
	if public, err = PublicPEM(pub); err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), public, nil
}

// PublicPEM writes a public key as PEM.
func PublicPEM(key crypto.PublicKey) ([]byte, error) {
	b, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: b}), nil
}

// ParseSigner reads a private key in PEM: PRIVATE KEY (PKCS 8, of all three kinds),
// RSA PRIVATE KEY or EC PRIVATE KEY.
func ParseSigner(b []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		default:
			continue // EC PARAMETERS, or a public key beside it
		}
		if err != nil {
			return nil, keyError("the private key is malformed") // err may quote it
		}
		s, ok := key.(crypto.Signer)
		if !ok {
			return nil, keyError("it is a %T", key)
		}
		return s, usable(s.Public())
	}
	return nil, keyError("there is no private key in the PEM")
}
