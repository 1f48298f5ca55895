package page

import (
	"fmt"
	"iter"

	"github.com/RoaringBitmap/roaring/v2"
)

// Set is a set of page numbers. The zero value is an empty set ready for use.
// It is not safe for concurrent use.
type Set struct{ ids roaring.Bitmap }

// Add puts page n into the set.
func (s *Set) Add(n No) { s.ids.Add(uint32(n)) }

// AddRange puts the pages from first up to and including last into the set.
func (s *Set) AddRange(first, last No) { s.ids.AddRange(uint64(first), uint64(last)+1) }

// Remove takes page n out of the set.
func (s *Set) Remove(n No) { s.ids.Remove(uint32(n)) }

// Has tells whether page n is in the set.
func (s *Set) Has(n No) bool { return s.ids.Contains(uint32(n)) }

// Len returns the number of pages in the set.
func (s *Set) Len() int { return int(s.ids.GetCardinality()) }

// Union adds every page of o to the set.
func (s *Set) Union(o *Set) { s.ids.Or(&o.ids) }

// Truncate removes the pages behind last.
func (s *Set) Truncate(last No) { s.ids.RemoveRange(uint64(last)+1, 1<<32) }

// Clone returns an independent copy.
func (s *Set) Clone() *Set { return &Set{ids: *s.ids.Clone()} }

// All yields the pages in ascending order.
func (s *Set) All() iter.Seq[No] {
	return func(yield func(No) bool) {
		for it := s.ids.Iterator(); it.HasNext(); {
			if !yield(No(it.Next())) {
				return
			}
		}
	}
}

// MarshalBinary encodes the set, by page number, in the portable roaring format.
func (s *Set) MarshalBinary() ([]byte, error) {
	s.ids.RunOptimize()
	return s.ids.ToBytes()
}

// UnmarshalBinary replaces the set by the one that MarshalBinary encoded.
func (s *Set) UnmarshalBinary(b []byte) error {
	var ids roaring.Bitmap
	if err := unmarshal(&ids, b); err != nil {
		return fmt.Errorf("page set: %w", err)
	}
	s.ids = ids
	return nil
}

// Selector encodes the set as the wire has it (PROTOCOL.md §2.7): page ids from
// 0, portable roaring format.
func (s *Set) Selector() ([]byte, error) {
	w := roaring.AddOffset64(&s.ids, -1)
	w.RunOptimize()
	return w.ToBytes()
}

// FromSelector decodes a selector of the wire.
func FromSelector(b []byte) (*Set, error) {
	var w roaring.Bitmap
	if err := unmarshal(&w, b); err != nil {
		return nil, fmt.Errorf("page selector: %w", err)
	}
	if !w.IsEmpty() && uint64(w.Maximum()) > maxWire {
		return nil, fmt.Errorf("page selector: page id %d is beyond SQLite's last page", w.Maximum())
	}
	return &Set{ids: *roaring.AddOffset64(&w, 1)}, nil
}

// unmarshal decodes into memory of its own and checks the result: the bytes come
// from outside.
func unmarshal(m *roaring.Bitmap, b []byte) (err error) {
	defer func() {
		// The library promises errors for malformed input but has panicked on
		// hostile containers before; data must never end the program.
		if r := recover(); r != nil {
			err = fmt.Errorf("malformed bitmap: %v", r)
		}
	}()
	if err := m.UnmarshalBinary(b); err != nil {
		return err
	}
	return m.Validate()
}
