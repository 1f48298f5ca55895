package remote

import (
	"strings"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/wire"
)

// A push holds the effects of triggers as rows, so that triggers must not fire for
// what it writes. Our own server can be asked for that (wire.ReplaySQL); elsewhere
// the question is an error, and the triggers are dropped and created again:
//
//	ask for silence            its error is an answer, too
//	DROP TRIGGER …             unless granted
//	rows …
//	CREATE TRIGGER …           unless granted
//	end of the silence         if granted, and more than the watermark follows
//
// A batch has several such stretches when statements stand between its rows that
// triggers shall fire for, or that change the schema. One without triggers has none.
// Triggers that are suspended in the middle of a stretch are from its beginning, so
// that both ways do the same.

// role is on which condition a step is executed, besides that none before it failed.
type role int8

const (
	plain   role = iota
	ask          // always; its error does not count
	refused      // if the last ask was an error
	granted      // if it was not
)

// step is a mutation, or a question on behalf of the mutations that follow.
type step struct {
	role     role
	mutation int      // index; -1: none
	names    []string // of triggers, for ask and granted
}

// plan lays out the steps of mutations.
func plan(ms []cdc.Mutation) []step {
	out := make([]step, 0, len(ms))
	silent := false
	for i, m := range ms {
		switch {
		case m.Suspends != "":
			if silent {
				continue // done at the beginning
			}
			silent = true
			at := len(out)
			out = append(out, step{role: ask, mutation: -1})
			for j := i; j < len(ms) && ms[j].Resumes == ""; j++ {
				if ms[j].Suspends != "" {
					out[at].names = append(out[at].names, ms[j].Suspends)
					out = append(out, step{role: refused, mutation: j})
				}
			}
		case m.Resumes != "" && silent:
			out = append(out, step{role: refused, mutation: i})
			if i+1 < len(ms) && ms[i+1].Resumes != "" {
				continue
			}
			silent = false
			if i+1 < len(ms) {
				out = append(out, step{role: granted, mutation: -1, names: []string{}})
			}
		default:
			out = append(out, step{mutation: i})
		}
	}
	return out
}

// chain makes the conditions of steps.
type chain struct {
	steps int
	last  role // of the step before
	// granted and refused hold when all went well so far and the last ask was
	// answered so; nil before the first ask, which is step ask.
	granted, refused *wire.Cond
	ask              int
}

var inTransaction = &wire.Cond{Type: wire.CondNot, Cond: &wire.Cond{Type: wire.CondIsAutocommit}}

func both(a, b *wire.Cond) wire.Cond {
	return wire.Cond{Type: wire.CondAnd, Conds: []wire.Cond{*a, *b}}
}

// next returns the condition of the next step; nil: that the one before succeeded.
func (c *chain) next(r role) *wire.Cond {
	i := c.steps
	c.steps++
	var cond *wire.Cond
	if c.last != plain {
		cond = &wire.Cond{Type: wire.CondOr, Conds: []wire.Cond{*c.granted, *c.refused}}
	}
	c.last = r
	switch r {
	case ask:
		c.ask = i
		// An error that ended the transaction must not be followed by statements that
		// would be committed one by one.
		no := both(&wire.Cond{Type: wire.CondError, Step: uint32(i)}, inTransaction)
		c.granted, c.refused = wire.OK(i), &no
	case refused:
		cond = c.refused
		c.refused = wire.OK(i)
	case granted:
		cond = c.granted
		c.granted = wire.OK(i)
	case plain:
		if c.granted != nil {
			yes := both(wire.OK(i), wire.OK(c.ask))
			no := both(wire.OK(i), &wire.Cond{Type: wire.CondError, Step: uint32(c.ask)})
			c.granted, c.refused = &yes, &no
		}
	}
	return cond
}

// alsoAsked completes the error of a trigger that could not be dropped by the
// reason why it was not silenced.
func (e *Error) alsoAsked(answer *wire.Error) {
	if answer == nil || strings.Contains(answer.Message, "no such function") {
		return
	}
	e.Message += "; and it was not silenced: " + clean(answer.Message, "")
}
