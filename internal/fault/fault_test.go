package fault_test

import (
	"errors"
	"testing"

	"github.com/tursosync/tursosync/internal/fault"
)

func TestAt(t *testing.T) {
	if err := fault.At("a"); err != nil {
		t.Fatalf("At without hook = %v, want nil", err)
	}
	full := errors.New("disk full")
	restore := fault.Set(func(point string) error {
		if point == "a" {
			return full
		}
		return nil
	})
	if err := fault.At("a"); !errors.Is(err, full) {
		t.Errorf("At(a) = %v, want %v", err, full)
	}
	if err := fault.At("b"); err != nil {
		t.Errorf("At(b) = %v, want nil", err)
	}
	restore()
	restore()
	if err := fault.At("a"); err != nil {
		t.Errorf("At after restore = %v, want nil", err)
	}
}

func BenchmarkAt(b *testing.B) {
	for b.Loop() {
		if fault.At("a") != nil {
			b.Fatal("unexpected")
		}
	}
}
