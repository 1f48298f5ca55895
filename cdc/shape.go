package cdc

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// shapeKey is the prefix under which turso_sync_state keeps shapes: the shape
// with ID 7 is the JSON under 'shape.7'.
const shapeKey = "shape."

// JSON returns the form in which turso_sync_state keeps the shape. Equal shapes
// have equal JSON.
func (s *Shape) JSON() string {
	b, err := json.Marshal(s)
	if err != nil {
		panic("cdc: encode shape: " + err.Error()) // strings, ints and bools always encode
	}
	return string(b)
}

// ID identifies the shape by content: the first 63 bits of the SHA-256 of its
// JSON. It hashes on every call; callers with many changes keep it.
func (s *Shape) ID() int64 {
	sum := sha256.Sum256([]byte(s.JSON()))
	return int64(binary.BigEndian.Uint64(sum[:8]) >> 1)
}

// ParseShape reads a shape from its JSON.
func ParseShape(text string) (*Shape, error) {
	s := &Shape{}
	if err := json.Unmarshal([]byte(text), s); err != nil {
		return nil, fmt.Errorf("parse shape: %w", err)
	}
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("parse shape: %w", err)
	}
	return s, nil
}

func (s *Shape) validate() error {
	if s.RowIDAlias < -1 || s.RowIDAlias >= len(s.Columns) {
		return fmt.Errorf("rowid alias %d of %d columns", s.RowIDAlias, len(s.Columns))
	}
	for _, k := range s.Key {
		if k < 0 || k >= len(s.Columns) {
			return fmt.Errorf("key column %d of %d", k, len(s.Columns))
		}
	}
	return nil
}

// rowIDName returns the name by which statements reach the rowid: the first of
// rowid, _rowid_ and oid that no column takes, or "" when there is none.
// Generated columns are not part of a shape; hidden lists their names.
func (s *Shape) rowIDName(hidden ...string) string {
	if s.WithoutRowID {
		return ""
	}
	for _, name := range []string{"rowid", "_rowid_", "oid"} {
		same := func(c string) bool { return strings.EqualFold(c, name) }
		if !slices.ContainsFunc(s.Columns, same) && !slices.ContainsFunc(hidden, same) {
			return name
		}
	}
	return ""
}

// isKey tells whether column i belongs to the primary key.
func (s *Shape) isKey(i int) bool { return slices.Contains(s.Key, i) }

// Record returns the schema change as turso_cdc keeps it in "after": a record
// of op, kind, name, tbl_name and sql.
func (s *SchemaChange) Record() []byte {
	values := []any{s.Op, s.Kind, s.Name, s.Table, s.SQL}
	if s.Was != "" {
		values = append(values, s.Was)
	}
	return EncodeRecord(values)
}

// DecodeSchemaChange reads what SchemaChange.Record wrote.
func DecodeSchemaChange(record []byte) (*SchemaChange, error) {
	values, err := DecodeRecord(record)
	if err != nil {
		return nil, fmt.Errorf("decode schema change: %w", err)
	}
	var s SchemaChange
	fields := []*string{&s.Op, &s.Kind, &s.Name, &s.Table, &s.SQL}
	if len(values) < len(fields) {
		return nil, fmt.Errorf("decode schema change: %w: %d of %d fields", ErrBadRecord, len(values), len(fields))
	}
	if len(values) > len(fields) {
		fields = append(fields, &s.Was)
	}
	for i, f := range fields {
		text, ok := values[i].(string)
		if !ok {
			return nil, fmt.Errorf("decode schema change: %w: field %d is no text", ErrBadRecord, i)
		}
		*f = text
	}
	return &s, nil
}

// changeType is the change_type under which turso_cdc keeps the schema change.
func (s *SchemaChange) changeType() Type {
	switch s.Op {
	case "create":
		return Insert
	case "drop":
		return Delete
	}
	return Update
}

// bagImage tells whether the row of an image has no identity beyond its rowid:
// its table has no declared primary key, or the key holds a NULL, which SQLite
// allows in rowid tables and treats as different from every other NULL.
func (s *Shape) bagImage(record []byte) (bool, error) {
	switch {
	case record == nil || s.WithoutRowID || s.RowIDAlias >= 0:
		return false, nil
	case len(s.Key) == 0:
		return true, nil
	}
	types, _, err := splitRecord(record)
	if err != nil {
		return false, err
	}
	null := make([]bool, 0, len(s.Columns))
	for len(types) > 0 {
		t, n := readVarint(types)
		if n == 0 {
			return false, ErrBadRecord
		}
		null = append(null, t == 0)
		types = types[n:]
	}
	for _, k := range s.Key {
		if k >= len(null) || null[k] {
			return true, nil
		}
	}
	return false, nil
}
