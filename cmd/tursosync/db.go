package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/tursosync/tursosync/server"
)

// databases is where the db commands work: a server's admin API, or a folder that
// no server has.
type databases struct {
	url, token string
	data       string
}

// at adds the flags of databases, reads them, and returns the arguments.
func (a app) at(verb, words string, args []string, n int) (*databases, []string, error) {
	s := a.settings(verb, words)
	d, file := &databases{}, ""
	s.StringVar(&d.url, "url", "", "`URL` of the server")
	s.StringVar(&d.token, "admin-token", "", "the server's admin `token`")
	s.StringVar(&file, "admin-token-file", "", "`file` with the admin token")
	s.StringVar(&d.data, "data", "", "`folder` of the databases, in place of a URL: while no server runs on it")
	plain, err := s.parse(a, args, n)
	if err != nil {
		return nil, nil, err
	}
	if (d.url == "") == (d.data == "") {
		return nil, nil, usagef("%s: give either -url or -data", verb)
	}
	if d.url != "" {
		d.token, err = secret("admin-token", d.token, file)
	}
	return d, plain, err
}

// fleet opens the folder for one command.
func (d *databases) fleet(do func(*server.Fleet) error) (err error) {
	if _, err := os.Stat(d.data); err != nil {
		return err
	}
	f, err := server.OpenFleet(server.FleetConfig{Dir: d.data})
	if errors.Is(err, server.ErrLocked) {
		return fmt.Errorf("%w (give -url and -admin-token to go through it)", err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return do(f)
}

// ask sends a request to the admin API. The body of the answer must be closed.
func (d *databases) ask(ctx context.Context, method string, elems ...string) (*http.Response, error) {
	for i, e := range elems {
		elems[i] = url.PathEscape(e)
	}
	u := strings.TrimRight(d.url, "/") + "/admin/" + strings.Join(elems, "/")
	req, err := http.NewRequestWithContext(ctx, method, u, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+d.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct {
		Error string `json:"error"`
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if json.Unmarshal(b, &answer) != nil || answer.Error == "" {
		answer.Error = strings.TrimSpace(string(b))
	}
	return nil, fmt.Errorf("the server answers %s: %s", resp.Status, answer.Error)
}

// tell is ask for those who want no answer.
func (d *databases) tell(ctx context.Context, method string, elems ...string) error {
	resp, err := d.ask(ctx, method, elems...)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func (a app) dbCreate(ctx context.Context, args []string) error {
	d, names, err := a.at("db create", "NAME", args, 1)
	if err != nil {
		return err
	}
	if d.url != "" {
		return d.tell(ctx, http.MethodPost, "databases", names[0])
	}
	return d.fleet(func(f *server.Fleet) error { return f.Create(names[0]) })
}

func (a app) dbDelete(ctx context.Context, args []string) error {
	d, names, err := a.at("db delete", "NAME", args, 1)
	if err != nil {
		return err
	}
	if d.url != "" {
		return d.tell(ctx, http.MethodDelete, "databases", names[0])
	}
	return d.fleet(func(f *server.Fleet) error { return f.Delete(names[0]) })
}

func (a app) dbList(ctx context.Context, args []string) error {
	d, _, err := a.at("db list", "", args, 0)
	if err != nil {
		return err
	}
	var answer struct {
		Databases []server.DatabaseInfo `json:"databases"`
	}
	if d.url != "" {
		resp, err := d.ask(ctx, http.MethodGet, "databases")
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			return fmt.Errorf("read the server's answer: %w", err)
		}
	} else if err := d.fleet(func(f *server.Fleet) (err error) {
		answer.Databases, err = f.List()
		return err
	}); err != nil {
		return err
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "NAME\tBYTES\tOPEN")
	for _, db := range answer.Databases {
		_, _ = fmt.Fprintf(w, "%s\t%d\t%v\n", db.Name, db.Bytes, db.Open)
	}
	return w.Flush()
}

// dbBackup writes a new file, which has its name only when it is whole and safely
// on disk.
func (a app) dbBackup(ctx context.Context, args []string) (err error) {
	d, words, err := a.at("db backup", "NAME FILE", args, 2)
	if err != nil {
		return err
	}
	name, file := words[0], words[1]
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("back up to %s: %w", file, os.ErrExist)
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".backup-*")
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, tmp.Close())
		if err == nil {
			// Link, unlike Rename, never replaces a file.
			err = os.Link(tmp.Name(), file)
		}
		err = errors.Join(err, os.Remove(tmp.Name()))
	}()
	if d.url != "" {
		err = d.download(ctx, name, tmp)
	} else {
		err = d.fleet(func(f *server.Fleet) error {
			return f.Backup(ctx, name, func(int64) (io.Writer, error) { return tmp, nil })
		})
	}
	if err != nil {
		return err
	}
	return tmp.Sync()
}

func (d *databases) download(ctx context.Context, name string, to io.Writer) error {
	resp, err := d.ask(ctx, http.MethodGet, "databases", name, "backup")
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.ContentLength < 0 {
		return errors.New("the server does not tell the length of the backup")
	}
	if _, err := io.Copy(to, resp.Body); err != nil { // less than the length is an error
		return fmt.Errorf("download backup: %w", err)
	}
	return nil
}
