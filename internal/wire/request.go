package wire

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// ParsePipeline reads the body of a pipeline. Pushes, which are long, are read
// without encoding/json if they are written without spaces and hold nothing
// unexpected; everything else by it.
func ParsePipeline(body []byte) (*PipelineRequest, error) {
	q := quick{b: body}
	if p := q.pipeline(); !q.bad && len(q.b) == 0 {
		return p, nil
	}
	p := &PipelineRequest{}
	return p, json.Unmarshal(body, p)
}

// quick reads JSON of a known form. As soon as something is different it is bad,
// and what it returns means nothing.
type quick struct {
	b    []byte
	bad  bool
	last string // the last text, and how it was written: many are the same
	raw  []byte
	many int // values in the last list
}

func (q *quick) fail() { q.bad, q.b = true, nil }

// next tells whether text comes next, and takes it.
func (q *quick) next(text string) bool {
	if len(q.b) < len(text) || string(q.b[:len(text)]) != text {
		return false
	}
	q.b = q.b[len(text):]
	return true
}

func (q *quick) want(text string) {
	if !q.next(text) {
		q.fail()
	}
}

// object reads an object whose values are read by the functions, each at most once.
func (q *quick) object(fields ...member) {
	q.want("{")
	var seen uint
	for first := true; !q.bad && !q.next("}"); first = false {
		if !first {
			q.want(",")
		}
		i := 0
		for i < len(fields) && !q.next(fields[i].name) {
			i++
		}
		if i == len(fields) || seen&(1<<i) != 0 {
			q.fail()
			return
		}
		seen |= 1 << i
		fields[i].read()
	}
}

// member is a name as it is written, with quotes and colon.
type member struct {
	name string
	read func()
}

// list reads a list.
func (q *quick) list(element func()) {
	q.want("[")
	for first := true; !q.bad && !q.next("]"); first = false {
		if !first {
			q.want(",")
		}
		element()
	}
}

func (q *quick) null() { q.want("null") }

func (q *quick) bool() *bool {
	switch v := q.next("true"); {
	case q.next("null"):
		return nil
	case v, q.next("false"):
		return &v
	}
	q.fail()
	return nil
}

func (q *quick) uint() uint32 {
	n := 0
	for n < len(q.b) && '0' <= q.b[n] && q.b[n] <= '9' {
		n++
	}
	v, err := strconv.ParseUint(string(q.b[:n]), 10, 32)
	if err != nil || n > 1 && q.b[0] == '0' {
		q.fail()
		return 0
	}
	q.b = q.b[n:]
	return uint32(v)
}

// text reads a string.
func (q *quick) text() string {
	n := 1
	for ; n < len(q.b) && q.b[n] != '"'; n++ {
		switch {
		case q.b[n] == '\\':
			n++
		case q.b[n] < ' ':
			q.fail()
		}
	}
	if n >= len(q.b) || q.b[0] != '"' {
		q.fail()
		return ""
	}
	raw := q.b[:n+1]
	q.b = q.b[n+1:]
	switch {
	case bytes.Equal(raw, q.raw):
		return q.last
	case bytes.IndexByte(raw, '\\') < 0 && utf8.Valid(raw):
		q.last = string(raw[1:n])
	case json.Unmarshal(raw, &q.last) != nil:
		q.fail()
		return ""
	}
	q.raw = raw
	return q.last
}

func (q *quick) pipeline() *PipelineRequest {
	p := &PipelineRequest{}
	q.object(
		member{`"baton":`, q.null},
		member{`"requests":`, func() {
			p.Requests = []StreamRequest{}
			q.list(func() { p.Requests = append(p.Requests, q.request()) })
		}},
	)
	return p
}

func (q *quick) request() (r StreamRequest) {
	q.object(
		member{`"type":`, func() { r.Type = q.text() }},
		member{`"batch":`, func() { r.Batch = q.batch() }},
	)
	return r
}

func (q *quick) batch() *Batch {
	b := &Batch{}
	q.object(
		member{`"steps":`, func() {
			b.Steps = make([]Step, 0, 1+bytes.Count(q.b, []byte(`"stmt":`)))
			q.list(func() {
				b.Steps = append(b.Steps, Step{})
				q.step(&b.Steps[len(b.Steps)-1])
			})
		}},
		member{`"replication_index":`, q.null},
	)
	return b
}

func (q *quick) step(s *Step) {
	q.object(
		member{`"condition":`, func() {
			if q.next("null") {
				return
			}
			c := q.condition(MaxCondDepth)
			s.Condition = &c
		}},
		member{`"stmt":`, func() { q.stmt(&s.Stmt) }},
	)
}

func (q *quick) stmt(s *Stmt) {
	q.object(
		member{`"sql":`, func() { sql := q.text(); s.SQL = &sql }},
		member{`"sql_id":`, q.null},
		member{`"args":`, func() { s.Args = q.values() }},
		member{`"named_args":`, func() { s.NamedArgs = []NamedArg{}; q.want("[]") }},
		member{`"want_rows":`, func() { s.WantRows = q.bool() }},
		member{`"replication_index":`, q.null},
	)
}

func (q *quick) condition(depth int) (c Cond) {
	if depth == 0 {
		q.fail()
		return c
	}
	var step, cond, conds bool
	q.object(
		member{`"type":`, func() { c.Type = q.text() }},
		member{`"step":`, func() { step, c.Step = true, q.uint() }},
		member{`"cond":`, func() {
			inner := q.condition(depth - 1)
			cond, c.Cond = true, &inner
		}},
		member{`"conds":`, func() {
			conds, c.Conds = true, []Cond{}
			q.list(func() { c.Conds = append(c.Conds, q.condition(depth-1)) })
		}},
	)
	// Each type has its field, and no other one.
	right := false
	switch c.Type {
	case CondOK, CondError:
		right = step && !cond && !conds
	case CondNot:
		right = cond && !step && !conds
	case CondAnd, CondOr:
		right = conds && !step && !cond
	case CondIsAutocommit:
		right = !step && !cond && !conds
	}
	if !right {
		q.fail()
	}
	return c
}

func (q *quick) values() Values {
	q.want("[")
	out := make(Values, 0, q.many)
	for first := true; !q.bad && !q.next("]"); first = false {
		if !first {
			q.want(",")
		}
		v, n, ok := quickValue(q.b)
		if !ok {
			q.fail()
			return nil
		}
		q.b = q.b[n:]
		out = append(out, Value{v})
	}
	q.many = len(out)
	return out
}
