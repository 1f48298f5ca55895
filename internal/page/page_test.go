package page

import (
	"encoding/hex"
	"slices"
	"testing"
)

// TestSelectorWire checks the codec against bytes captured from the official
// client (PROTOCOL.md §2.3).
func TestSelectorWire(t *testing.T) {
	t.Run("run container", func(t *testing.T) {
		var s Set
		s.AddRange(1, 10)
		got, err := s.Selector()
		if err != nil {
			t.Fatal(err)
		}
		if want := "3b3000000100000900010000000900"; hex.EncodeToString(got) != want {
			t.Errorf("Selector() = %x, want %s", got, want)
		}
	})
	t.Run("array container", func(t *testing.T) {
		raw := "3a3000000100000000001f0010000000"
		for i := 32; i < 64; i++ {
			raw += hex.EncodeToString([]byte{byte(i), 0})
		}
		b, _ := hex.DecodeString(raw)
		s, err := FromSelector(b)
		if err != nil {
			t.Fatal(err)
		}
		if s.Len() != 32 || !s.Has(33) || !s.Has(64) || s.Has(32) || s.Has(65) {
			t.Errorf("FromSelector = %v, want pages 33..64", slices.Collect(s.All()))
		}
	})
	t.Run("garbage", func(t *testing.T) {
		for _, b := range [][]byte{{1}, {0x3b, 0x30, 0xff, 0xff, 0}, []byte("not a bitmap at all")} {
			if _, err := FromSelector(b); err == nil {
				t.Errorf("FromSelector(%x) succeeded", b)
			}
		}
	})
}

func TestFromWire(t *testing.T) {
	if n, err := FromWire(0); err != nil || n != 1 || n.Wire() != 0 || n.Offset() != 0 {
		t.Errorf("FromWire(0) = %v, %v", n, err)
	}
	if _, err := FromWire(1<<32 - 2); err == nil {
		t.Error("FromWire accepted an id beyond SQLite's last page")
	}
}

func FuzzSelector(f *testing.F) {
	var s Set
	s.AddRange(5, 9)
	b, _ := s.Selector()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := FromSelector(b)
		if err != nil {
			return
		}
		again, err := s.Selector()
		if err != nil {
			t.Fatal(err)
		}
		r, err := FromSelector(again)
		if err != nil || r.Len() != s.Len() {
			t.Fatalf("round trip: %v, %d pages of %d", err, r.Len(), s.Len())
		}
	})
}
