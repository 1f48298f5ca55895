package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestMutantsApply: the list is of the code as it is now.
func TestMutantsApply(t *testing.T) {
	names := map[string]bool{}
	for _, m := range mutants {
		if names[m.name] || m.test == "" || m.old == m.new {
			t.Errorf("%q: the name twice, no test, or no change", m.name)
		}
		names[m.name] = true
		b, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(m.file)))
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := m.apply(b); err != nil {
			t.Errorf("%q: %v", m.name, err)
		}
	}
	if len(mutants) < 25 {
		t.Errorf("%d mutants, want 25 at least", len(mutants))
	}
}
