package hooks

import (
	"database/sql/driver"
	"errors"
	"io"

	"github.com/mattn/go-sqlite3"
)

// query runs a statement without parameters and hands each row to yield.
func query(conn *sqlite3.SQLiteConn, text string, yield func(row []driver.Value) error) (err error) {
	rows, err := conn.Query(text, nil) //nolint:staticcheck // the context form starts a goroutine for each call
	if err != nil {
		return err
	}
	defer func() {
		if e := rows.Close(); err == nil {
			err = e
		}
	}()
	row := make([]driver.Value, len(rows.Columns()))
	for {
		switch err := rows.Next(row); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := yield(row); err != nil {
			return err
		}
	}
}

func exec(conn *sqlite3.SQLiteConn, text string) error {
	_, err := conn.Exec(text, nil) //nolint:staticcheck // see query
	return err
}

func str(v driver.Value) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	return ""
}

func num(v driver.Value) int64 {
	switch v := v.(type) {
	case int64:
		return v
	case bool:
		if v {
			return 1
		}
	}
	return 0
}
