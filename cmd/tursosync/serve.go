package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/tursosync/tursosync/server"
)

// serve runs the server until the context ends, or its sockets do.
func (a app) serve(ctx context.Context, args []string) (err error) {
	s := a.settings("serve", "")
	var (
		cfg                                                 server.FleetConfig
		addr, cert, key, level, format                      string
		admin, adminFile, token, tokenFile, read, readFile_ string
		open                                                bool
		grace                                               time.Duration
	)
	s.StringVar(&addr, "addr", "127.0.0.1:8080", "`address` to listen on")
	s.StringVar(&cfg.Dir, "data", "", "`folder` of the databases")
	s.StringVar(&cert, "tls-cert", "", "`file` with the certificate and its chain (PEM); read again when it changes")
	s.StringVar(&key, "tls-key", "", "`file` with the certificate's key (PEM)")
	s.StringVar(&admin, "admin-token", "", "`token` that opens /admin/; without one it is closed")
	s.StringVar(&adminFile, "admin-token-file", "", "`file` with the admin token")
	s.StringVar(&token, "token", "", "`token` that may read and write every database")
	s.StringVar(&tokenFile, "token-file", "", "`file` with that token")
	s.StringVar(&read, "read-token", "", "`token` that may read every database")
	s.StringVar(&readFile_, "read-token-file", "", "`file` with that token")
	signed := jwtSettings(s)
	s.BoolVar(&open, "no-auth", false, "let everybody read and write every database")
	s.DurationVar(&cfg.IdleAfter, "idle-after", server.DefaultIdleAfter, "close a database that was not used for so long")
	s.IntVar(&cfg.OpenMax, "open-max", server.DefaultOpenMax, "how many databases stay open when they are not in use")
	s.Int64Var(&cfg.Database.BodyMax, "body-max", server.DefaultBodyMax, "longest request in bytes")
	s.Int64Var(&cfg.Database.AnswerMax, "answer-max", server.DefaultAnswerMax, "longest answer of SQL in bytes")
	s.DurationVar(&cfg.Database.Timeout, "timeout", server.DefaultTimeout, "how long the SQL of a request may take, and a client that does not read")
	s.DurationVar(&cfg.Database.LongPollMax, "long-poll-max", server.DefaultLongPollMax, "how long a pull may wait for news")
	s.Int64Var(&cfg.Database.CheckpointBytes, "checkpoint-bytes", server.DefaultCheckpointBytes, "size at which a WAL is moved into its file")
	s.Int64Var(&cfg.Database.PinnedBytes, "pinned-bytes", server.DefaultPinnedBytes, "most old pages, in bytes, kept of a database for partial replicas")
	s.DurationVar(&cfg.Database.PinnedFor, "pinned-for", server.DefaultPinnedFor, "how long they are kept after the last request for them")
	s.DurationVar(&cfg.Database.StreamIdle, "stream-idle", server.DefaultStreamIdle, "how long an interactive stream waits for its next request")
	s.DurationVar(&cfg.Database.TransactionMax, "transaction-max", server.DefaultTransactionMax, "how long a stream may keep a transaction open")
	s.IntVar(&cfg.Database.StreamsMax, "streams-max", server.DefaultStreamsMax, "how many streams of a database may wait at a time")
	s.IntVar(&cfg.Database.SQLMax, "sql-max", server.DefaultSQLMax, "how many requests for SQL run at a time in a database")
	s.Float64Var(&cfg.Database.TokenRate, "token-rate", 0, "how many requests a second one token may send; 0: as many as it likes")
	s.IntVar(&cfg.Database.TokenBurst, "token-burst", 0, "how many of them at once; 0: those of ten seconds")
	s.BoolVar(&cfg.Database.FireTriggers, "fire-triggers", false, "triggers fire for pushed rows as well, unless the token may drop them")
	s.DurationVar(&grace, "grace", 30*time.Second, "how long requests may go on after the signal to stop")
	s.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	s.StringVar(&format, "log-format", "text", "text or json")
	if _, err := s.parse(a, args, 0); err != nil {
		return err
	}
	if cfg.Dir == "" {
		return usagef("serve: -data is missing")
	}
	if (cert == "") != (key == "") {
		return usagef("serve: -tls-cert and -tls-key belong together")
	}
	if cfg.Logger, err = a.logger(level, format); err != nil {
		return err
	}
	if cfg.AdminToken, err = secret("admin-token", admin, adminFile); err != nil {
		return err
	}
	if token, err = secret("token", token, tokenFile); err != nil {
		return err
	}
	if read, err = secret("read-token", read, readFile_); err != nil {
		return err
	}
	gate, err := signed.gate(cfg.Logger)
	if err != nil {
		return err
	}
	if gate != nil {
		defer func() { err = errors.Join(err, gate.v.Close()) }()
	}
	fixed := token != "" || read != ""
	switch {
	case open && (fixed || gate != nil):
		return usagef("serve: -no-auth and tokens exclude each other")
	case !open && !fixed && gate == nil:
		return usagef("serve: who may come in? Give -jwt-key-file, -jwks-url, -token or -read-token (or the …-file of them), or -no-auth")
	case gate != nil:
		if fixed {
			gate.fixed = fixedTokens(token, read)
		}
		cfg.Database.Permit = gate.permit
	case fixed:
		cfg.Database.Authorize = fixedTokens(token, read)
	}
	return a.listen(ctx, cfg, addr, cert, key, grace)
}

// fixedTokens is authorization for those who have no JWTs.
func fixedTokens(write, read string) func(context.Context, string) server.Access {
	is := func(token, want string) bool {
		a, b := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(want))
		return want != "" && subtle.ConstantTimeCompare(a[:], b[:]) == 1
	}
	return func(_ context.Context, token string) server.Access {
		switch {
		case is(token, write):
			return server.ReadWrite
		case is(token, read):
			return server.ReadOnly
		}
		return server.NoAccess
	}
}

func (a app) logger(level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("serve: -log-level: %w", err)
	}
	o := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(a.stderr, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(a.stderr, o)), nil
	}
	return nil, usagef("serve: -log-format is text or json, not %q", format)
}

// listen serves until ctx ends: then no connection is taken any more, long polls
// answer, and the other requests have the time of grace.
func (a app) listen(ctx context.Context, cfg server.FleetConfig, addr, cert, key string, grace time.Duration) (err error) {
	fleet, err := server.OpenFleet(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.Close()) }()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	scheme := "http"
	if cert != "" {
		k := &keyPair{cert: cert, key: key, log: cfg.Logger}
		if _, err := k.get(nil); err != nil {
			_ = l.Close()
			return fmt.Errorf("read certificate: %w", err)
		}
		scheme = "https"
		l = tls.NewListener(l, &tls.Config{GetCertificate: k.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}})
	}
	web := &http.Server{
		Handler:           fleet,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- web.Serve(l) }()
	cfg.Logger.Info("serving", "url", scheme+"://"+l.Addr().String(), "data", cfg.Dir)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	cfg.Logger.Info("stopping", "grace", grace)
	fleet.Drain()
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := web.Shutdown(late); err != nil {
		cfg.Logger.Warn("requests were cut off", "error", err)
		_ = web.Close() // ends their contexts, and thereby their statements
	}
	<-ended
	return nil
}

// keyPair is a certificate that is read again when its files change.
type keyPair struct {
	cert, key string
	log       *slog.Logger

	mu      sync.Mutex // guards what follows
	current *tls.Certificate
	stamp   [2]time.Time
	looked  time.Time
}

// get returns the certificate. One that cannot be read does not replace the one
// there is.
func (k *keyPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current != nil && time.Since(k.looked) < time.Second {
		return k.current, nil
	}
	k.looked = time.Now()
	var stamp [2]time.Time
	for i, name := range []string{k.cert, k.key} {
		if info, err := os.Stat(name); err == nil {
			stamp[i] = info.ModTime()
		}
	}
	if k.current != nil && stamp == k.stamp {
		return k.current, nil
	}
	c, err := tls.LoadX509KeyPair(k.cert, k.key)
	if err != nil {
		if k.current == nil {
			return nil, err
		}
		k.log.Error("read certificate", "error", err)
		return k.current, nil
	}
	k.current, k.stamp = &c, stamp
	return k.current, nil
}
