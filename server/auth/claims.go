package auth

import (
	"slices"
)

// everywhere stands for all databases in ns.
const everywhere = "*"

// Grant is what a token grants: rights, each in some databases.
type Grant struct {
	parts []part
	// Subject is the claim sub, for logs and quotas; empty without one.
	Subject string
	issuer  string
}

// part is a rule in its databases.
type part struct {
	databases []string // or everywhere
	rule      Rule
}

func (p *part) in(database string) bool {
	return slices.Contains(p.databases, database) || slices.Contains(p.databases, everywhere)
}

// Database tells whether the token grants anything in a database.
func (g *Grant) Database(name string) bool { return g.On(name) != nil }

// On returns the rights in a database; nil when there are none.
func (g *Grant) On(database string) *Rights {
	var rules []Rule
	for i := range g.parts {
		if p := &g.parts[i]; p.in(database) && p.rule.Actions != 0 {
			rules = append(rules, p.rule)
		}
	}
	if len(rules) == 0 {
		return nil
	}
	r := NewRights(rules...)
	if g.Subject != "" {
		r.subject = g.issuer + " " + g.Subject // a subject is its issuer's
	}
	return r
}

// readClaims reads the claims of a token that a configured key signed. The names
// are compared exactly, which encoding/json would not do with struct fields: an
// issuer may let its users choose claims of other names.
func readClaims(claims map[string]any) (*Grant, error) {
	if _, ok := claims["p"]; ok {
		return readPermissions(claims)
	}
	g := newGrant(claims)
	databases := []string{everywhere}
	if id, ok := claims["id"]; ok {
		name, ok := id.(string)
		if !ok || name == "" || name == everywhere {
			return nil, invalid("its claim id is not a database")
		}
		databases = []string{name}
	}
	actions := AllActions
	if a, ok := claims["a"]; ok {
		switch a {
		case "rw":
		case "ro", "roa":
			actions = DataRead
		default:
			return nil, invalid("its claim a is not ro or rw")
		}
	}
	g.parts = []part{{databases, Rule{Actions: actions}}}
	return g, nil
}

func newGrant(claims map[string]any) *Grant {
	subject, _ := claims["sub"].(string)
	issuer, _ := claims["iss"].(string)
	return &Grant{Subject: subject, issuer: issuer}
}

// readPermissions reads the claim p.
func readPermissions(claims map[string]any) (*Grant, error) {
	p, ok := claims["p"].(map[string]any)
	if !ok {
		return nil, invalid("it has no claim p that says what it permits")
	}
	g := newGrant(claims)
	for name, actions := range map[string]Actions{"ro": DataRead, "roa": DataRead, "rw": AllActions, "rwa": AllActions} {
		v, ok := p[name]
		if !ok || v == nil {
			continue
		}
		scope, ok := v.(map[string]any)
		if !ok {
			return nil, invalid("its claim p." + name + " is not an object")
		}
		ns, err := texts(scope["ns"])
		if err != nil {
			return nil, invalid("its claim p." + name + ".ns is not a list of databases")
		}
		g.parts = append(g.parts, part{ns, Rule{Actions: actions}})
	}
	rules, ok := p["rules"].([]any)
	if !ok && p["rules"] != nil {
		return nil, invalid("its claim p.rules is not a list")
	}
	for _, v := range rules {
		r, err := readRule(v)
		if err != nil {
			return nil, err
		}
		g.parts = append(g.parts, *r)
	}
	return g, nil
}

// readRule reads an entry of p.rules. Fields that are unknown make the token
// invalid: they might take something away.
func readRule(v any) (*part, error) {
	fields, ok := v.(map[string]any)
	if !ok {
		return nil, invalid("its claim p.rules has an entry that is not an object")
	}
	for name := range fields {
		if name != "ns" && name != "t" && name != "a" {
			return nil, invalid("its claim p.rules has an unknown field")
		}
	}
	ns, err := texts(fields["ns"])
	if err != nil {
		return nil, invalid("its claim p.rules has an ns that is not a list of databases")
	}
	tables, err := texts(fields["t"])
	if err != nil || slices.Contains(tables, "") {
		return nil, invalid("its claim p.rules has a t that is not a list of tables")
	}
	names, err := texts(fields["a"])
	if err != nil {
		return nil, invalid("its claim p.rules has an a that is not a list of actions")
	}
	actions, err := ParseActions(names)
	if err != nil {
		return nil, invalid("its claim p.rules has an unknown action")
	}
	return &part{ns, Rule{Tables: tables, Actions: actions}}, nil
}

// texts reads a list of strings; null is an empty one.
func texts(v any) ([]string, error) {
	if v == nil {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, ErrInvalid
	}
	out := make([]string, len(list))
	for i, e := range list {
		if out[i], ok = e.(string); !ok {
			return nil, ErrInvalid
		}
	}
	return out, nil
}
