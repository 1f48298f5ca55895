package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

// settings are the flags of a command, which may come from the environment and
// from a file as well.
type settings struct {
	*flag.FlagSet
	config string
}

func (a app) settings(verb, args string) *settings {
	s := &settings{FlagSet: flag.NewFlagSet(verb, flag.ContinueOnError)}
	s.SetOutput(a.stderr)
	s.StringVar(&s.config, "config", "", "`file` with lines \"name = value\"; names are those of the flags")
	s.Usage = func() {
		_, _ = fmt.Fprintf(a.stderr, "usage: tursosync %s [flags] %s\n", verb, args)
		s.PrintDefaults()
	}
	return s
}

// parse reads the command line, then the environment, then the file; what came
// first counts. Flags may stand among the arguments. It returns the arguments, of
// which there must be n.
func (s *settings) parse(a app, args []string, n int) ([]string, error) {
	var plain []string
	for {
		if err := s.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, usageError{err}
		}
		if s.NArg() == 0 {
			break
		}
		plain, args = append(plain, s.Arg(0)), s.Args()[1:]
	}
	set := map[string]bool{}
	s.Visit(func(f *flag.Flag) { set[f.Name] = true })
	var err error
	s.VisitAll(func(f *flag.Flag) {
		name := "TURSOSYNC_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if v := a.getenv(name); v != "" && !set[f.Name] && err == nil {
			set[f.Name] = true
			// The value may be a secret; flag's words for a wrong one hold it.
			if s.Set(f.Name, v) != nil {
				err = usagef("%s: this is no value for it", name)
			}
		}
	})
	if err == nil && s.config != "" {
		err = s.readFile(set)
	}
	if err != nil {
		return nil, err
	}
	if len(plain) != n {
		s.Usage()
		return nil, usagef("%s takes %d arguments, not %d", s.Name(), n, len(plain))
	}
	return plain, nil
}

// readFile sets what is not set yet. A name that the command does not know is an
// error: a setting that is misspelt must not be passed over.
func (s *settings) readFile(set map[string]bool) error {
	f, err := os.Open(s.config)
	if err != nil {
		return fmt.Errorf("read config: %w", err)
	}
	defer func() { _ = f.Close() }()
	lines, seen := bufio.NewScanner(f), map[string]bool{}
	for no := 1; lines.Scan(); no++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name = strings.TrimSpace(name)
		switch {
		case !ok:
			return usagef("%s, line %d: not of the form name = value", s.config, no)
		case s.Lookup(name) == nil || name == "config":
			return usagef("%s, line %d: there is no setting %q", s.config, no, name)
		case seen[name]:
			return usagef("%s, line %d: %s is set twice", s.config, no, name)
		}
		seen[name] = true
		if set[name] {
			continue
		}
		if s.Set(name, strings.Trim(strings.TrimSpace(value), `"`)) != nil {
			return usagef("%s, line %d: this is no value for %s", s.config, no, name)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read config: %w", err)
	}
	return nil
}

// secret is a setting that may be given as a file too.
func secret(name, value, file string) (string, error) {
	if file == "" {
		return value, nil
	}
	if value != "" {
		return "", usagef("-%s and -%s-file are both given", name, name)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	v := strings.TrimSpace(string(b))
	if v == "" {
		return "", fmt.Errorf("read %s: %s is empty", name, file)
	}
	return v, nil
}
