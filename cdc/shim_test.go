package cdc_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tursosync/tursosync/cdc"
)

// TestAttachItselfByLongName: no name is too long for the database to be found
// under it. Names of 256 bytes and more were, and what was written through them
// was not captured.
func TestAttachItselfByLongName(t *testing.T) {
	l := newLive(t, simpleTable)
	c := l.conn("main")
	for _, n := range []int{254, 255, 256, 257, 5000} {
		name := strings.Repeat("x", n)
		var u *cdc.UnsupportedError
		if err := c.try("ATTACH '" + l.path + "' AS " + name); !errors.As(err, &u) {
			t.Errorf("ATTACH under a name of %d bytes: %v, want an UnsupportedError", n, err)
		}
		if err := c.try("INSERT INTO " + name + ".t VALUES (1, 1)"); err == nil {
			t.Errorf("it is attached under a name of %d bytes", n)
		}
	}
}

// TestInternalFunctions: SQL of users gets nothing but an error out of the functions
// that the log is written with, whatever was written before. Under the
// undefined-behaviour sanitizer (.ci/run) it also shows that the distance of two
// rowids, which may be more than an int64 holds, is not computed as one.
func TestInternalFunctions(t *testing.T) {
	l := newLive(t, simpleTable)
	c := l.conn("main")
	c.run("INSERT INTO t VALUES (9223372036854775806, 1), (9223372036854775807, 1)")
	for _, sql := range []string{"SELECT ts_log_id(-9223372036854775808)", "SELECT ts_log_id(9223372036854775807)", "SELECT ts_log_id(NULL)",
		"SELECT ts_touch('t', 1)", "SELECT ts_touch()"} {
		if err := c.try(sql); err == nil {
			t.Errorf("%s succeeded", sql)
		}
	}
	c.run("INSERT INTO t VALUES (-9223372036854775808, 1), (0, 1), (1, 1)", "DELETE FROM t")
}
