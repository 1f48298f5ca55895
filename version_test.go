package tursosync

import (
	"errors"
	"strings"
	"testing"
)

func TestCheckSQLite(t *testing.T) {
	if err := linkedSQLite(); err != nil {
		t.Errorf("the SQLite that go-sqlite3 brings: %v", err)
	}
	if err := checkSQLite("3.51.3", 3_051_003); err != nil {
		t.Error(err)
	}
	err := checkSQLite("3.51.2", 3_051_002)
	var unsupported *UnsupportedError
	if !errors.As(err, &unsupported) || !strings.Contains(err.Error(), "3.51.3") {
		t.Errorf("SQLite 3.51.2: %v, want an UnsupportedError that names 3.51.3", err)
	}
}
