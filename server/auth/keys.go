package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// The algorithms of signatures, as the header of a token names them.
const (
	algEdDSA = "EdDSA"
	algRS256 = "RS256"
	algES256 = "ES256"
)

// The bits that an RSA key may have: fewer are weak, more make verification an
// attack.
const (
	rsaBitsMin = 2048
	rsaBitsMax = 8192
)

// ErrKey is what is wrong with a key.
var ErrKey = errors.New("key cannot be used")

func keyError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrKey, fmt.Sprintf(format, args...))
}

// ParseKeys reads public keys: PEM blocks, or an Ed25519 key in URL-safe base64.
// A private key is refused: it does not belong on a server that verifies.
func ParseKeys(b []byte) ([]crypto.PublicKey, error) {
	text := strings.TrimSpace(string(b))
	if !strings.HasPrefix(text, "-----BEGIN") {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(text, "="))
		if err != nil || len(raw) != ed25519.PublicKeySize {
			return nil, keyError("it is neither PEM nor the URL-safe base64 of 32 bytes")
		}
		return []crypto.PublicKey{ed25519.PublicKey(raw)}, nil
	}
	var out []crypto.PublicKey
	for rest := []byte(text); len(strings.TrimSpace(string(rest))) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, keyError("the PEM is malformed")
		}
		if strings.Contains(block.Type, "PRIVATE") {
			return nil, keyError("it is a private key; the server needs the public one")
		}
		if block.Type != "PUBLIC KEY" {
			return nil, keyError("a PEM block is a %q, not a PUBLIC KEY", block.Type)
		}
		k, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, keyError("a PEM block is no public key")
		}
		if err := usable(k); err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

// usable tells whether a key is of a kind that we verify with.
func usable(k crypto.PublicKey) error {
	switch k := k.(type) {
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < rsaBitsMin || n > rsaBitsMax {
			return keyError("the RSA key has %d bits", n)
		}
		return nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return keyError("the elliptic curve is not P-256")
		}
		return nil
	}
	return keyError("it is a %T", k)
}

// algOf returns the one algorithm that a key verifies.
func algOf(k crypto.PublicKey) string {
	switch k.(type) {
	case ed25519.PublicKey:
		return algEdDSA
	case *rsa.PublicKey:
		return algRS256
	case *ecdsa.PublicKey:
		return algES256
	}
	return ""
}

// ofType returns the keys that verify alg. That an algorithm is only ever used
// with keys of its type is what makes algorithm confusion impossible.
func ofType(keys []crypto.PublicKey, alg string) []crypto.PublicKey {
	var out []crypto.PublicKey
	for _, k := range keys {
		if algOf(k) == alg {
			out = append(out, k)
		}
	}
	return out
}
