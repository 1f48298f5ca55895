package tursosync

import (
	"context"
	"database/sql/driver"
	"fmt"
	"io"
	"sync"

	sqlite3 "github.com/mattn/go-sqlite3"
)

// Connector opens connections to one database. It is what [NewConnector] makes of
// a [Config], for sql.OpenDB.
type Connector struct {
	cfg    Config
	target target

	mu     sync.Mutex
	engine *engine // guarded by mu; nil until the first connection, and after Close
}

var (
	_ driver.Connector = (*Connector)(nil)
	_ io.Closer        = (*Connector)(nil)
)

// NewConnector checks the settings; an error is a *ConfigError, and no file was
// touched. Files are opened by the first connection.
func NewConnector(cfg Config) (*Connector, error) {
	cfg.Options = cloneValues(cfg.Options)
	t, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	return &Connector{cfg: cfg, target: t}, nil
}

// Driver returns a driver that belongs to this connector.
func (c *Connector) Driver() driver.Driver { return &Driver{connector: c} }

// String returns the settings without secrets.
func (c *Connector) String() string { return c.cfg.String() }

// Connect opens a connection. The first one in the process opens the replica and
// starts its syncer.
func (c *Connector) Connect(ctx context.Context) (driver.Conn, error) {
	if c.target.kind != kindReplica {
		return c.connectPlain()
	}
	e, err := c.use(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := c.connectReplica(e)
	if err != nil {
		engines.release(e)
		return nil, err
	}
	return conn, nil
}

// use returns the engine with one more reference, which is the caller's.
func (c *Connector) use(ctx context.Context) (*engine, error) {
	// The connector's own reference keeps the replica open while the pool has no
	// connection.
	c.mu.Lock()
	own := c.engine
	c.mu.Unlock()
	if own != nil && engines.again(own) {
		return own, nil
	}
	e, err := engines.acquire(ctx, c.target, c.cfg)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.engine == nil && engines.again(e) {
		c.engine = e
	}
	return e, nil
}

// Close gives up the replica. When nobody else in the process uses it, what is
// pending is pushed within a bound, syncing stops and the files are closed.
// sql.DB.Close calls it. A later Connect opens everything again.
func (c *Connector) Close() error {
	c.mu.Lock()
	e := c.engine
	c.engine = nil
	c.mu.Unlock()
	if e == nil {
		return nil
	}
	return engines.release(e)
}

// open opens the go-sqlite3 connection with the user's options.
func (c *Connector) open(dsn string) (*sqlite3.SQLiteConn, error) {
	raw, err := (&sqlite3.SQLiteDriver{Extensions: c.cfg.Extensions}).Open(dsn)
	if err != nil {
		return nil, err
	}
	inner, ok := raw.(*sqlite3.SQLiteConn)
	if !ok {
		return nil, firstError(fmt.Errorf("open connection: go-sqlite3 returned a %T", raw), raw.Close())
	}
	// Before our hooks: what is registered here works as on a plain connection.
	if c.cfg.ConnectHook != nil {
		if err := c.cfg.ConnectHook(inner); err != nil {
			return nil, firstError(err, inner.Close())
		}
	}
	return inner, nil
}

func (c *Connector) connectPlain() (driver.Conn, error) {
	inner, err := c.open(c.target.inner)
	if err != nil {
		return nil, err
	}
	return newConn(c, inner, plainSession{inner: inner}, nil), nil
}

func (c *Connector) connectReplica(e *engine) (driver.Conn, error) {
	inner, err := c.open(joinQuery(toURI(e.replica.Path()), encodeOptions(c.cfg.Options)))
	if err != nil {
		return nil, err
	}
	session, err := e.replica.Log().Session(inner)
	if err != nil {
		return nil, firstError(fmt.Errorf("capture changes: %w", err), inner.Close())
	}
	return newConn(c, inner, session, e), nil
}
