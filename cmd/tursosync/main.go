// Tursosync serves databases to tursosync replicas and to the official clients,
// and looks after them.
//
//	tursosync serve -data DIR [-addr :8080] [-tls-cert FILE -tls-key FILE] …
//	tursosync db create|list|delete|backup …
//	tursosync token key|create …
//	tursosync jwks template …
//
// Every flag can also be given by an environment variable, TURSOSYNC_ and its name
// in capitals (TURSOSYNC_ADMIN_TOKEN_FILE), and by a line "name = value" of the
// file that -config names. A flag counts before the environment, and that before
// the file.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// app is what a command sees of the world.
type app struct {
	getenv         func(string) string
	stdout, stderr io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	a := app{getenv: os.Getenv, stdout: os.Stdout, stderr: os.Stderr}
	err := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(a.code(err))
}

// usageError is an error of the command line: exit status 2, as that of flag.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// code tells the error and returns the exit status.
func (a app) code(err error) int {
	switch usage := (usageError{}); {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &usage):
		_, _ = fmt.Fprintln(a.stderr, "tursosync:", err)
		return 2
	default:
		_, _ = fmt.Fprintln(a.stderr, "tursosync:", err)
		return 1
	}
}

const usage = `usage:
  tursosync serve [flags]             serve the databases of a folder
  tursosync db create NAME            make an empty database
  tursosync db list                   list the databases
  tursosync db delete NAME            delete a database
  tursosync db backup NAME FILE       copy a database that is in use to a new file
  tursosync token key FILE            make a key for tokens: the private part into FILE, the public part printed
  tursosync token create [flags]      print a token: -db NAME -p all:data_read -p todos:data_update -expires 24h
  tursosync jwks template [flags]     print the claims for an identity provider's tokens

"tursosync serve -h" and "tursosync db create -h" list the flags.
`

// verbs are the commands, by their words.
var verbs = map[string]func(a app, ctx context.Context, args []string) error{
	"serve":     app.serve,
	"db create": app.dbCreate,
	"db list":   app.dbList,
	"db delete": app.dbDelete,
	"db backup": app.dbBackup,

	"token key":     app.tokenKey,
	"token create":  app.tokenCreate,
	"jwks template": app.jwksTemplate,
}

func (a app) run(ctx context.Context, args []string) error {
	for n := min(2, len(args)); n > 0; n-- {
		if verb, ok := verbs[strings.Join(args[:n], " ")]; ok {
			return verb(a, ctx, args[n:])
		}
	}
	if len(args) == 1 && (args[0] == "-h" || args[0] == "-help" || args[0] == "--help" || args[0] == "help") {
		_, err := fmt.Fprint(a.stdout, usage)
		return err
	}
	_, _ = fmt.Fprint(a.stderr, usage)
	if len(args) == 0 {
		return usagef("a command is missing")
	}
	return usagef("there is no command %q", strings.Join(args, " "))
}
