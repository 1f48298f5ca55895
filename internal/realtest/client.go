package realtest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tursosync/tursosync/internal/wire"
)

// Node is a process that runs the official client for any number of databases.
type Node struct {
	t      testing.TB
	mu     sync.Mutex
	stdin  io.WriteCloser
	stdout *bufio.Reader
	next   int
	cmd    *exec.Cmd
	err    error // of a process that cannot be used any more
}

// callTimeout bounds one call of the client; the official client itself waits
// for ever.
const callTimeout = time.Minute

// StartNode starts the process, or skips the test. It is ended when the test is.
func StartNode(t testing.TB) *Node {
	t.Helper()
	dir := Tools(t)
	node, err := exec.LookPath("node")
	if err != nil {
		Missing(t, fmt.Errorf("node is not installed: %w", err))
	}
	script := filepath.Join(t.TempDir(), "driver.mjs")
	if err := os.WriteFile(script, driverScript, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(node, script, dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		Missing(t, err)
	}
	n := &Node{t: t, stdin: in, stdout: bufio.NewReaderSize(out, 1<<20), cmd: cmd}
	t.Cleanup(func() {
		_ = in.Close()
		kill := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
	})
	return n
}

// Client is a database of the official client.
type Client struct {
	n    *Node
	id   int
	Path string
}

// ClientOptions are those of the official client's connect; Path is chosen when
// empty.
type ClientOptions struct {
	Path                  string `json:"path"`
	URL                   string `json:"url"`
	AuthToken             string `json:"authToken,omitempty"`
	ClientName            string `json:"clientName,omitempty"`
	LongPollTimeoutMillis int    `json:"longPollTimeoutMs,omitempty"`
	PushOperations        int    `json:"pushOperationsThreshold,omitempty"`
	PullBytes             int    `json:"pullBytesThreshold,omitempty"`
	// Transform says what becomes of the changes of tables, by name.
	Transform map[string]Rule `json:"transform,omitempty"`
	// Partial is partialSyncExperimental as JSON.
	Partial json.RawMessage `json:"partialSyncExperimental,omitempty"`
}

// Rule is what the transform hook does with the changes of a table: skips them, or
// pushes a statement with some of the row's columns as its parameters.
type Rule struct {
	Skip    bool     `json:"skip,omitempty"`
	SQL     string   `json:"sql,omitempty"`
	Columns []string `json:"columns,omitempty"`
}

// Open opens a database; its first opening pulls everything.
func (n *Node) Open(opts ClientOptions) (*Client, error) {
	n.t.Helper()
	if opts.Path == "" {
		opts.Path = filepath.Join(n.t.TempDir(), "official.db")
	}
	n.mu.Lock()
	n.next++
	c := &Client{n: n, id: n.next, Path: opts.Path}
	n.mu.Unlock()
	return c, c.call("open", map[string]any{"options": opts}, nil)
}

// Exec runs statements, separated by semicolons.
func (c *Client) Exec(sql string) error { return c.call("exec", map[string]any{"sql": sql}, nil) }

// Query runs one statement and returns its rows (nil, int64, float64, string,
// []byte).
func (c *Client) Query(sql string, args ...any) ([][]any, error) {
	values := make([]wire.Value, len(args))
	for i, a := range args {
		values[i].V = a
	}
	var rows [][]wire.Value
	if err := c.call("query", map[string]any{"sql": sql, "args": values}, &rows); err != nil {
		return nil, err
	}
	out := make([][]any, len(rows))
	for i, row := range rows {
		for _, v := range row {
			out[i] = append(out[i], v.V)
		}
	}
	return out, nil
}

// Push sends the local changes.
func (c *Client) Push() error { return c.call("push", nil, nil) }

// Pull takes the remote's changes and tells whether there were any.
func (c *Client) Pull() (changed bool, err error) {
	err = c.call("pull", nil, &changed)
	return changed, err
}

// Checkpoint is the client's own.
func (c *Client) Checkpoint() error { return c.call("checkpoint", nil, nil) }

// Stats returns the client's stats().
func (c *Client) Stats() (map[string]any, error) {
	var m map[string]any
	err := c.call("stats", nil, &m)
	return m, err
}

// Close closes the database; Open with the same path opens it again.
func (c *Client) Close() error { return c.call("close", nil, nil) }

func (c *Client) call(op string, fields map[string]any, into any) error {
	n := c.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		return n.err
	}
	req := map[string]any{"op": op, "db": c.id}
	for k, v := range fields {
		req[k] = v
	}
	b, err := json.Marshal(req)
	if err != nil {
		return err
	}
	stuck := time.AfterFunc(callTimeout, func() { _ = n.cmd.Process.Kill() })
	defer stuck.Stop()
	if _, err := n.stdin.Write(append(b, '\n')); err != nil {
		n.err = fmt.Errorf("official client: %s: %w", op, err)
		return n.err
	}
	line, err := n.stdout.ReadBytes('\n')
	if err != nil {
		n.err = fmt.Errorf("official client: %s: the process ended or did not answer within %v: %w", op, callTimeout, err)
		return n.err
	}
	var answer struct {
		Result json.RawMessage `json:"result"`
		Error  string          `json:"error"`
	}
	if err := json.Unmarshal(line, &answer); err != nil {
		return fmt.Errorf("official client: %s: %q: %w", op, line, err)
	}
	if answer.Error != "" {
		return fmt.Errorf("official client: %s: %w", op, errors.New(answer.Error))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer.Result, into)
}
