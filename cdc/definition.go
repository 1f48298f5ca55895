package cdc

import (
	"slices"
	"strings"
)

// definition is a CREATE statement, understood as far as comparing needs. Two
// statements define the same if their tokens say the same, whatever their white
// space, comments, quotes and letter case: SQLite keeps what the user wrote,
// tursodb renders its own text.
type definition struct {
	kind  string // table, index, view, trigger; "" if the text is no CREATE
	name  string
	table string // of an index or trigger
	// columns, constraints and options of a table; of the others (and of a table
	// made AS SELECT) the rest of the statement is in options.
	columns     []columnDef
	constraints []string
	options     []string
}

type columnDef struct {
	name string // as written, without quotes
	def  string // the normal form of what follows the name
}

// collation is what a column of a table is compared by: the last one named.
func (c columnDef) collation() string {
	name, depth := "BINARY", 0
	t := tokenize(c.def)
	for i := range t {
		switch {
		case t[i].is("("):
			depth++
		case t[i].is(")"):
			depth--
		case depth == 0 && t[i].is("collate") && i+1 < len(t):
			name = t[i+1].text
		}
	}
	return name
}

func parseDefinition(sql string) definition {
	t := trimSemicolons(tokenize(sql))
	var d definition
	if len(t) == 0 || !t[0].is("create") {
		return d
	}
	t = t[1:]
	var flags []token
	for len(t) > 0 && (t[0].is("temp") || t[0].is("temporary") || t[0].is("unique") || t[0].is("virtual")) {
		flags, t = append(flags, t[0]), t[1:]
	}
	if len(t) < 2 {
		return d
	}
	d.kind, t = lower(t[0].text), t[1:]
	if len(t) > 3 && t[0].is("if") && t[1].is("not") && t[2].is("exists") {
		t = t[3:]
	}
	if len(t) > 2 && t[1].is(".") {
		t = t[2:]
	}
	d.name, t = t[0].text, t[1:]
	switch d.kind {
	case "table":
		if len(t) > 0 && t[0].is("(") && len(flags) == 0 {
			d.parseTable(t[1:])
			return d
		}
	case "index", "trigger":
		for i := range t {
			if t[i].is("on") && i+1 < len(t) {
				d.table = t[i+1].text
				break
			}
		}
	}
	d.options = normalTokens(append(flags, t...))
	return d
}

// parseTable reads what follows the opening parenthesis.
func (d *definition) parseTable(t []token) {
	depth, start := 0, 0
	for i := range t {
		switch {
		case t[i].is("("):
			depth++
		case t[i].is(")") && depth > 0:
			depth--
		case t[i].is(",") && depth == 0:
			d.addItem(t[start:i])
			start = i + 1
		case t[i].is(")"):
			d.addItem(t[start:i])
			d.options = normalTokens(t[i+1:])
			return
		}
	}
	d.addItem(t[start:])
}

func (d *definition) addItem(t []token) {
	switch {
	case len(t) == 0:
	case t[0].is("constraint") || t[0].is("primary") || t[0].is("unique") || t[0].is("check") || t[0].is("foreign"):
		d.constraints = append(d.constraints, normalConstraint(t))
	default:
		d.columns = append(d.columns, columnDef{name: t[0].text, def: strings.Join(normalTokens(t[1:]), " ")})
	}
}

// normalConstraint forgets ASC and DESC inside PRIMARY KEY (…): they do not
// change what the table means, and tursodb loses them when it alters a table.
func normalConstraint(t []token) string {
	n := normalTokens(t)
	if slices.Contains(n, "primary") {
		n = slices.DeleteFunc(n, func(s string) bool { return s == "asc" || s == "desc" })
	}
	return strings.Join(n, " ")
}

// normalTokens returns the tokens in their normal form, without the words that
// say nothing.
func normalTokens(t []token) []string {
	n := make([]string, 0, len(t))
	for i := 0; i < len(t); i++ {
		switch {
		case t[i].is("outer") && len(n) > 0:
			continue // LEFT OUTER JOIN
		case t[i].is("insert") && i+2 < len(t) && t[i+1].is("or") && t[i+2].is("replace"):
			n, i = append(n, "replace"), i+2
			continue
		}
		n = append(n, t[i].normal())
	}
	return n
}

// equal tells whether two statements define the same object.
func (d definition) equal(o definition) bool {
	return d.kind != "" && d.kind == o.kind && lower(d.name) == lower(o.name) &&
		slices.EqualFunc(d.columns, o.columns, columnDef.equal) &&
		slices.Equal(slices.Sorted(slices.Values(d.constraints)), slices.Sorted(slices.Values(o.constraints))) &&
		slices.Equal(d.options, o.options)
}

func (c columnDef) equal(o columnDef) bool { return lower(c.name) == lower(o.name) && c.def == o.def }

// column returns the index of a column, or -1.
func (d *definition) column(name string) int {
	return slices.IndexFunc(d.columns, func(c columnDef) bool { return lower(c.name) == lower(name) })
}

// alter returns the definition as it is after an ALTER TABLE.
func (d definition) alter(a alter) definition {
	d.columns = slices.Clone(d.columns)
	i := d.column(a.column)
	switch {
	case a.step == alterRenameTable:
		d.rename(d.name, a.to)
		d.name = a.to
	case a.step == alterAddColumn && i < 0:
		d.columns = append(d.columns, a.columnDef())
	case a.step == alterDropColumn && i >= 0:
		d.columns = slices.Delete(d.columns, i, i+1)
	case a.step == alterRenameColumn && i >= 0:
		d.columns[i].name = a.to
		d.rename(a.column, a.to)
	}
	return d
}

// rename replaces a name wherever the table's own constraints mention it.
func (d *definition) rename(from, to string) {
	replace := func(s string) string {
		words := strings.Split(s, " ")
		for i := range words {
			if words[i] == lower(from) {
				words[i] = lower(to)
			}
		}
		return strings.Join(words, " ")
	}
	d.constraints = slices.Clone(d.constraints)
	for i := range d.constraints {
		d.constraints[i] = replace(d.constraints[i])
	}
	for i := range d.columns {
		d.columns[i].def = replace(d.columns[i].def)
	}
}

// mentioning returns the definition of an index, view or trigger with a name in
// its text replaced, as SQLite does when something is renamed. It replaces the
// name wherever it stands; that is good enough for comparing.
func (d definition) mentioning(from, to string) definition {
	d.options = slices.Clone(d.options)
	for i := range d.options {
		if d.options[i] == lower(from) {
			d.options[i] = lower(to)
		}
	}
	return d
}

// columnDef returns the column that an ADD COLUMN adds.
func (a alter) columnDef() columnDef {
	return columnDef{name: a.column, def: strings.Join(normalTokens(a.def[1:]), " ")}
}
