package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Access is what a request may do: all or nothing, the simplest [Permission].
type Access int

// The kinds of access.
const (
	NoAccess Access = iota // refused with 401
	ReadOnly               // pulls, and statements that do not write
	ReadWrite
)

// ReadOnly implements Permission.
func (a Access) ReadOnly() bool { return a != ReadWrite }

// Pull implements Permission.
func (a Access) Pull() error { return nil }

// Allow implements Permission.
func (a Access) Allow(Action) bool { return a != NoAccess }

// Permission is what the bearer of a token may do with one database. It is asked
// by the goroutine that serves a request, and by several at a time when the same
// value is given to several requests.
type Permission interface {
	// ReadOnly tells that nothing may be written. SQLite is then told so, whatever
	// Allow says.
	ReadOnly() bool
	// Pull returns why the pages, which carry every table, may not be pulled; nil
	// when they may. The error is answered with 403, or as a [DeniedError] says.
	Pull() error
	// Allow is asked while a statement is compiled, for each thing that it does.
	// What the server forbids to everybody (see conn.go) it forbids all the same.
	Allow(Action) bool
}

// Explainer is a Permission that can tell what is missing for an action that it
// does not allow, in words for the client: "data_add on table \"todos\"". It
// returns nothing when it cannot.
type Explainer interface {
	Missing(Action) string
}

// Action is one thing that a statement does, in the terms of SQLite's authorizer
// (https://sqlite.org/c3ref/c_alter_table.html).
type Action struct {
	Code       int    // SQLITE_INSERT, SQLITE_READ, …
	Arg1, Arg2 string // usually the table, and the column or index
	Schema     string // "main", "temp"; empty when it does not apply
	// New tells of an SQLITE_READ that the table does not exist yet: the statement
	// creates it.
	New bool
	// Replaces tells of an SQLITE_INSERT or SQLITE_UPDATE that it may delete other
	// rows of the table, for REPLACE. SQLite does not report that as a deletion.
	Replaces bool
}

// DeniedError is an error of [Config].Permit and of [Permission].Pull that says
// how the request is answered.
type DeniedError struct {
	Status  int    // 401: who are you; 403: not you
	Message string // shown to the client; without the token
}

func (e *DeniedError) Error() string { return e.Message }

// permit asks who it is, and answers those who are refused.
func (s *Server) permit(w http.ResponseWriter, r *http.Request) (Permission, bool) {
	if p, ok := r.Context().Value(permissionKey{}).(Permission); ok {
		return p, true // and counted
	}
	p, err := s.cfg.permission(r.Context(), s.cfg.Name, bearer(r))
	if err != nil {
		s.cfg.stats.refused.Add(1)
		deny(w, err, http.StatusUnauthorized)
		return nil, false
	}
	return p, s.cfg.inRate(w, r)
}

// permissionKey is where a fleet puts what it has asked already.
type permissionKey struct{}

// permission says what the bearer of a token may do; nil never comes without an
// error.
func (cfg *Config) permission(ctx context.Context, database, token string) (Permission, error) {
	switch {
	case cfg.Permit != nil:
		p, err := cfg.Permit(ctx, database, token)
		if err == nil && (p == nil || p == Permission(NoAccess)) {
			err = errors.New("the token permits nothing here")
		}
		return p, err
	case cfg.Authorize != nil:
		if a := cfg.Authorize(ctx, token); a != NoAccess {
			return a, nil
		}
		return nil, errors.New("the token is missing or not valid")
	}
	return ReadWrite, nil
}

// deny answers a refusal.
func deny(w http.ResponseWriter, err error, status int) {
	message := err.Error()
	if d := (*DeniedError)(nil); errors.As(err, &d) {
		status, message = d.Status, d.Message
	}
	if status == http.StatusUnauthorized {
		message = fmt.Sprintf("Unauthorized: %s", message)
	}
	fail(w, status, message)
}

// bearer returns the token of a request; empty without one.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}
