package tursosync

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"slices"
)

// DriverName is the name under which the driver is registered.
const DriverName = "tursosync"

func init() {
	// A second copy of this package in one binary (a fork, a vendored version)
	// must not end the program; the first one stays.
	if !slices.Contains(sql.Drivers(), DriverName) {
		sql.Register(DriverName, &Driver{})
	}
}

// Driver is the database/sql driver. It is registered as "tursosync"; its zero
// value works for wrappers that want one.
type Driver struct {
	connector *Connector // whose Driver method returned it, or nil
}

var _ driver.DriverContext = (*Driver)(nil)

// Open opens one connection that is not part of a pool. Programs use
// sql.Open, which goes through OpenConnector.
func (d *Driver) Open(dsn string) (driver.Conn, error) {
	c, err := d.OpenConnector(dsn)
	if err != nil {
		return nil, err
	}
	conn, err := c.Connect(context.Background())
	if cerr := c.(*Connector).Close(); err == nil {
		err = cerr // the connection keeps the replica open by itself
	}
	return conn, err
}

// OpenConnector checks a DSN; an error is a *ConfigError, and no file was touched.
func (d *Driver) OpenConnector(dsn string) (driver.Connector, error) {
	cfg, err := ParseDSN(dsn)
	if err != nil {
		return nil, err
	}
	return NewConnector(cfg)
}

// connectorOf returns the connector behind db without using a connection, which
// a pool may not have to spare.
func connectorOf(ctx context.Context, db *sql.DB) (*Connector, error) {
	if d, ok := db.Driver().(*Driver); ok && d.connector != nil {
		return d.connector, nil
	}
	// A wrapper around our driver: only a connection knows.
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var found *Connector
	err = conn.Raw(func(dc any) error {
		const wrappers = 8 // around each other
		for range wrappers {
			switch c := dc.(type) {
			case *Conn:
				found = c.connector
				return nil
			case interface{ Raw() driver.Conn }: // as otelsql and others offer
				dc = c.Raw()
			default:
				return errNotOurs
			}
		}
		return errNotOurs
	})
	return found, err
}

var errNotOurs = errors.New("the database was not opened with the tursosync driver")
