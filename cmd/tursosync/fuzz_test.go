package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// FuzzConfigFile: a config file sets what it names, or is refused, without the values
// in the error: they may be secrets.
func FuzzConfigFile(f *testing.F) {
	f.Add("# comment\n\nsome-name = \"from file\"\nwait=3s\n")
	f.Add("some-name=a=b\nsome-name=c\n")
	f.Add("config = x\n")
	f.Add("wait = seekrit-value\n")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "c")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		a := app{getenv: func(string) string { return "" }, stdout: io.Discard, stderr: io.Discard}
		s := a.settings("test", "")
		name, wait := s.String("some-name", "default", ""), s.Duration("wait", time.Second, "")
		_, err := s.parse(a, []string{"-config", path}, 0)
		for _, line := range strings.Split(text, "\n") {
			k, v, ok := strings.Cut(line, "=")
			k, v = strings.TrimSpace(k), strings.Trim(strings.TrimSpace(v), `"`)
			if err != nil && ok && len(v) > 8 && (k == "some-name" || k == "wait") && strings.Contains(err.Error(), v) && !strings.Contains(path, v) {
				t.Fatalf("error %q tells the value of %s", err, k)
			}
			if err == nil && ok && k == "some-name" && *name != v {
				t.Errorf("some-name is %q, want %q", *name, v)
			}
			if d, e := time.ParseDuration(v); err == nil && ok && k == "wait" && (e != nil || *wait != d) {
				t.Errorf("wait is %v, want %q", *wait, v)
			}
		}
	})
}
