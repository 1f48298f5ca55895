package remote

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// parseURL returns the base to which the paths of the endpoints are appended.
//
// libsql and turso mean https, with ?tls=0 http, as in libsql's SQL clients. A
// base path is kept, trailing slashes are not. Anything else in a query, and user
// information, is refused: it might be a token, which would then show up in
// errors. For the same reason no error repeats the URL.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSpace(s))
	if err != nil {
		return nil, errors.New("remote URL cannot be parsed")
	}
	q := u.Query()
	tls := q.Get("tls")
	q.Del("tls")
	switch {
	case len(q) != 0:
		return nil, errors.New("remote URL has a query: give the token on its own, not in the URL")
	case u.User != nil:
		return nil, errors.New("remote URL has user information: give the token on its own, not in the URL")
	case u.Fragment != "":
		return nil, errors.New("remote URL has a fragment")
	}
	switch strings.ToLower(u.Scheme) {
	case "libsql", "turso":
		u.Scheme = "https"
		if tls == "0" {
			u.Scheme = "http"
		}
	case "https", "http":
		if tls != "" {
			return nil, fmt.Errorf("remote URL: tls is for libsql:// and turso://, not for %s://", u.Scheme)
		}
	case "":
		return nil, errors.New("remote URL has no scheme: it starts with libsql://, turso://, https:// or http://")
	default:
		return nil, fmt.Errorf("remote URL has scheme %q: known are libsql, turso, https and http", u.Scheme)
	}
	if u.Host == "" || u.Opaque != "" {
		return nil, errors.New("remote URL has no host")
	}
	u.RawQuery, u.ForceQuery, u.Fragment = "", false, ""
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = strings.TrimRight(u.RawPath, "/")
	return u, nil
}
