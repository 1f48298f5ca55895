package cdc

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// rowChange is a Change with its images decoded: what statements are made of.
type rowChange struct {
	*Change
	before, after []any
	// changed marks the columns that an update sets; nil unless Type is Update.
	changed []bool
	// A bag row has no identity beyond its rowid (Shape.bagImage).
	bagBefore, bagAfter bool
	// logged is the rowid that the log has for the row, while RowID may say where
	// it was moved to. Only the replay sets it.
	logged int64
	// back marks the insert that an update of a vanished row became.
	back bool
}

func decodeRow(c *Change) (*rowChange, error) {
	r := &rowChange{Change: c}
	if c.Shape == nil {
		return nil, fmt.Errorf("change %d of table %q has no shape", c.ID, c.Table)
	}
	err := c.checkImages()
	if err == nil {
		r.before, err = c.decodeImage(c.Before)
	}
	if err == nil {
		r.after, err = c.decodeImage(c.After)
	}
	if err != nil {
		return nil, fmt.Errorf("change %d: %w", c.ID, err)
	}
	r.bagBefore = r.before != nil && c.Shape.bagValues(r.before)
	r.bagAfter = r.after != nil && c.Shape.bagValues(r.after)
	if c.Type == Update {
		r.changed = make([]bool, len(c.Shape.Columns))
		for i := range r.changed {
			r.changed[i] = !identical(r.before[i], r.after[i])
		}
	}
	return r, nil
}

func (c *Change) decodeImage(record []byte) ([]any, error) {
	if record == nil {
		return nil, nil
	}
	values, err := DecodeRecord(record)
	if err != nil {
		return nil, err
	}
	if len(values) != len(c.Shape.Columns) {
		return nil, fmt.Errorf("%w: %d values for %d columns", ErrBadRecord, len(values), len(c.Shape.Columns))
	}
	return values, nil
}

func (s *Shape) bagValues(values []any) bool {
	if s.WithoutRowID || s.RowIDAlias >= 0 {
		return false
	}
	return len(s.Key) == 0 || slices.ContainsFunc(s.Key, func(k int) bool { return values[k] == nil })
}

// identical tells whether two values are the same in every bit, unlike SQL's =
// and IS, to which 1 and 1.0 are equal.
func identical(a, b any) bool {
	switch a := a.(type) {
	case float64:
		b, ok := b.(float64)
		return ok && math.Float64bits(a) == math.Float64bits(b)
	case []byte:
		b, ok := b.([]byte)
		return ok && bytes.Equal(a, b)
	}
	if _, ok := b.([]byte); ok {
		return false
	}
	return a == b
}

// keyChanged tells whether an update gave the row another identity.
func (r *rowChange) keyChanged() bool {
	return r.bagBefore != r.bagAfter || !r.bagBefore &&
		slices.ContainsFunc(r.Shape.Key, func(k int) bool { return r.changed[k] })
}

// unchanged tells whether there is nothing to do: an update that sets nothing.
func (r *rowChange) unchanged() bool {
	return r.Type == Update && !slices.Contains(r.changed, true)
}

// columnMap returns an image by column name.
func (s *Shape) columnMap(values []any) map[string]any {
	if values == nil {
		return nil
	}
	m := make(map[string]any, len(values))
	for i, v := range values {
		m[s.Columns[i]] = v
	}
	return m
}

// statement is SQL text in the making, with its arguments.
type statement struct {
	strings.Builder
	args     []any
	tuple    [2]int // where the row of an INSERT's VALUES stands; none: 0, 0
	literals bool   // a value is not an argument as it is
}

func (b *statement) add(parts ...string) *statement {
	for _, p := range parts {
		b.WriteString(p)
	}
	return b
}

// value adds a value as SQL that yields it exactly. What cannot travel as a
// JSON argument is written in another way: infinities and the negative zero as
// literals, text that is not UTF-8 or holds a NUL as the cast of a blob.
func (b *statement) value(v any) *statement {
	if special(v) {
		b.literals = true
		if text, ok := v.(string); ok {
			b.args = append(b.args, []byte(text))
			return b.add("CAST(? AS TEXT)")
		}
		f, _ := v.(float64)
		switch {
		case f > 0:
			return b.add("9e999")
		case f < 0:
			return b.add("-9e999")
		}
		return b.add("-0.0")
	}
	b.args = append(b.args, v)
	return b.add("?")
}

// special tells whether a value cannot travel as a JSON argument.
func special(v any) bool {
	switch v := v.(type) {
	case float64:
		return math.IsInf(v, 0) || v == 0 && math.Signbit(v)
	case string:
		return !utf8.ValidString(v) || strings.IndexByte(v, 0) >= 0
	}
	return false
}

func (b *statement) list(n int, item func(i int)) *statement {
	for i := range n {
		if i > 0 {
			b.add(",")
		}
		item(i)
	}
	return b
}

func (b *statement) mutation(id ID) Mutation {
	return Mutation{SQL: b.String(), Args: b.args, Change: id}
}

// insertInto adds INSERT INTO "t"(…), with the rowid's name in front unless it
// is empty. OR ABORT overrides what the table's own constraints say of
// conflicts: with ON CONFLICT IGNORE the row would vanish without a word, with
// ROLLBACK the transactions around it.
func (b *statement) insertInto(r *rowChange, rowid string) *statement {
	b.add("INSERT OR ABORT INTO ", quote(r.Table), "(")
	if rowid != "" {
		b.add(quote(rowid), ",")
	}
	return b.add(quoteAll(r.Shape.Columns), ")")
}

// row adds the values of the after image, the rowid in front if it is named.
func (b *statement) row(r *rowChange, rowid string) *statement {
	if rowid != "" {
		b.value(r.RowID).add(",")
	}
	return b.list(len(r.after), func(i int) { b.value(r.after[i]) })
}

// insert is INSERT … VALUES of the after image.
func (r *rowChange) insert(rowid string) *statement {
	b := (&statement{}).insertInto(r, rowid).add(" VALUES ")
	b.tuple[0] = b.Len()
	b.add("(").row(r, rowid).add(")")
	b.tuple[1] = b.Len()
	return b
}

// upsert is the INSERT of a row whose key may be there already: then the columns
// marked are set, or all if set is nil.
func (r *rowChange) upsert(rowid string, set []bool) *statement {
	b := r.insert(rowid).add(" ON CONFLICT(")
	b.list(len(r.Shape.Key), func(i int) { b.add(quote(r.Shape.Columns[r.Shape.Key[i]])) })
	b.add(") DO ")
	sep := "UPDATE SET "
	for i, name := range r.Shape.Columns {
		if i == r.Shape.RowIDAlias || set != nil && !set[i] {
			continue
		}
		b.add(sep, quote(name), "=excluded.", quote(name))
		sep = ","
	}
	if sep == "UPDATE SET " {
		b.add("NOTHING")
	}
	return b
}

// whereKey adds a WHERE for the key of an image, which holds no NULL.
func (b *statement) whereKey(r *rowChange, image []any) *statement {
	sep := " WHERE "
	for _, k := range r.Shape.Key {
		b.add(sep, quote(r.Shape.Columns[k]), " = ").value(image[k])
		sep = " AND "
	}
	return b
}

// whereContent adds a WHERE for rows that hold the before image.
func (b *statement) whereContent(r *rowChange) *statement {
	sep := " WHERE "
	for i, v := range r.before {
		b.add(sep, quote(r.Shape.Columns[i]))
		if _, ok := v.(string); ok {
			b.add(" COLLATE BINARY") // the column's own collation may take others for equal
		}
		b.add(" IS ").value(v)
		sep = " AND "
	}
	return b
}

// match adds an expression for the rowid of one row that holds the before
// image: the one under the logged rowid, otherwise the youngest, because an older
// twin may be a row of base that another change reaches by its rowid. It is NULL
// if there is none.
func (b *statement) match(r *rowChange, rowid string) *statement {
	from := "SELECT " + quote(rowid) + " FROM " + quote(r.Table)
	b.add("coalesce((", from).whereContent(r).add(" AND ", quote(rowid), " = ").value(r.RowID)
	return b.add("),(", from).whereContent(r).add(" ORDER BY ", quote(rowid), " DESC LIMIT 1))")
}

// whereBag adds the WHERE for a row without identity: by its rowid if base has
// the row, by content if only the log has it. Where the table has a key, the row is
// without identity for a NULL in it: a row with a whole key may have been given the
// rowid since, and is not meant.
func (b *statement) whereBag(r *rowChange, rowid string) *statement {
	b.add(" WHERE ", quote(rowid), " = ")
	if r.Local {
		return b.match(r, rowid)
	}
	b.value(r.RowID)
	sep, end := " AND (", ""
	for _, k := range r.Shape.Key {
		b.add(sep, quote(r.Shape.Columns[k]), " IS NULL")
		sep, end = " OR ", ")"
	}
	return b.add(end)
}

// update is UPDATE … SET of the changed columns, without its WHERE.
func (r *rowChange) update() *statement {
	b := (&statement{}).add("UPDATE OR ABORT ", quote(r.Table))
	sep := " SET "
	for i, name := range r.Shape.Columns {
		if r.changed[i] {
			b.add(sep, quote(name), " = ").value(r.after[i])
			sep = ", "
		}
	}
	return b
}

// delete removes the row of the before image.
func (r *rowChange) delete(rowid string) *statement {
	b := (&statement{}).add("DELETE FROM ", quote(r.Table))
	if r.bagBefore {
		return b.whereBag(r, rowid)
	}
	return b.whereKey(r, r.before)
}
