package sim

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

func sortedTables() []string { return slices.Sorted(maps.Keys(tables)) }

// write is a transaction being made: its SQL, and what the model makes of it. The
// two are written side by side, and neither is made from the other.
type write struct {
	r     *replica
	rnd   *rand.Rand
	owner string
	token string
	stmts []stmt
	after map[ref]row // rows as they are left; nil: deleted
	// whole are rows that were put in place of others of the same key: SQLite gives
	// them another rowid, if the key is not that, and all of their columns count.
	whole map[ref]bool
	// rebuilt is what was done to a whole table.
	rebuilt []op
}

type ref struct{ table, key string }

type stmt struct {
	text string
	args []any
	then func(lastID int64) // the model's part, if it depends on the id
}

func (x *write) get(table string, key ...value) row {
	k := keyOf(key...)
	if r, ok := x.after[ref{table, k}]; ok {
		return r
	}
	return x.r.live.get(table, k)
}

// put leaves a row in the model; its key is in it.
func (x *write) put(table string, r row) {
	k, err := keyOfRow(table, r)
	if err != nil {
		panic(err) // the workload is wrong
	}
	x.after[ref{table, k}] = r
}

// with is put of a row with some values changed.
func (x *write) with(table string, old row, changed row) {
	r := maps.Clone(old)
	maps.Copy(r, changed)
	x.put(table, r)
}

func (x *write) del(table string, key ...value) { x.after[ref{table, keyOf(key...)}] = nil }

func (x *write) sql(text string, args ...any) {
	for i, a := range args {
		if b, ok := a.(blob); ok {
			args[i] = []byte(b)
		}
	}
	x.stmts = append(x.stmts, stmt{text: text, args: args})
}

// rows returns the rows of a table that are there now and pass, in order of keys.
func (x *write) rows(table string, pass func(row) bool) []row {
	all := map[string]row{}
	maps.Copy(all, x.r.live[table])
	for ref, r := range x.after {
		if ref.table == table {
			all[ref.key] = r
		}
	}
	var list []row
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if r := all[k]; r != nil && pass(r) {
			list = append(list, r)
		}
	}
	return list
}

func (x *write) mine(column string) func(row) bool {
	return func(r row) bool {
		s, _ := r[column].(string)
		return s == x.owner || strings.HasPrefix(s, x.owner+".")
	}
}

// workloads are what transactions do.
var workloads = []struct {
	name   string
	weight int
	alone  bool // nothing else in its transaction; a schema statement, too, parts what is one net effect without it
	schema bool // it changes that
	late   bool // its table may not be there before a file that was adopted has the remote's
	do     func(x *write)
}{
	{"count", 4, false, false, false, count},
	{"transfer", 4, false, false, false, transfer},
	{"turn", 3, false, false, false, turn},
	{"note", 5, false, false, false, note},
	{"num", 3, false, false, false, num},
	{"pair", 3, false, false, false, pair},
	{"unique", 2, true, false, false, unique},
	{"slot", 2, true, false, false, slot},
	{"family", 3, false, false, false, family},
	{"large", 1, false, false, false, large},
	{"item", 3, false, false, false, item},
	{"typed", 3, false, false, false, typed},
	{"wide", 2, false, false, true, wide},
	{"auto", 1, false, false, false, auto},
	{"strange", 2, false, false, false, strange},
	{"shelf", 4, false, false, true, shelf},
	{"rebuild", 1, true, true, true, rebuild},
	{"extra", 1, true, true, false, extra},
	{"migrate", 1, true, true, false, migrate},
}

// private are workloads that write rows of their owner only. What another program has
// written before anybody compared may be put into the log together with what was
// committed on top, as the difference that it is. On rows that others write as well
// that is not the same as one update after the other.
var private = map[string]bool{"count": true, "transfer": true, "turn": true, "family": true, "large": true, "item": true, "typed": true, "strange": true}

// uncompared tells whether another program has written what the remote does not have.
func (w *world) uncompared(r *replica) bool {
	return first(r.pending, func(t *txn) bool { return t.foreign && !t.adopted && !w.has(t) }) != nil
}

// count adds one to the owner's counter, and a row to a table without a key.
func count(x *write) {
	old := x.get("counters", x.owner)
	if old == nil {
		x.sql(`INSERT INTO counters VALUES (?, 1)`, x.owner)
		x.put("counters", row{"owner": x.owner, "n": int64(1)})
	} else {
		x.sql(`UPDATE counters SET n = n + 1 WHERE owner = ?`, x.owner)
		x.with("counters", old, row{"n": old["n"].(int64) + 1})
	}
	t := fmt.Sprintf("%s/%d", x.token, len(x.stmts))
	x.sql(`INSERT INTO ticks VALUES (?, ?, 0)`, x.owner, t)
	x.put("ticks", row{"owner": x.owner, "token": t, "x": int64(0)})
	// Rows without a key are updated too; none is deleted, for they count. They are
	// reached by their rowid, which may be another row's when the remote went back.
	if mine := x.rows("ticks", x.mine("owner")); x.rnd.IntN(3) == 0 {
		old := mine[x.rnd.IntN(len(mine))]
		n := x.rnd.Int64N(1000)
		if x.r.w.fixed || x.r.adopting {
			return
		}
		x.sql(`UPDATE ticks SET x = ? WHERE token = ?`, n, old["token"])
		x.with("ticks", old, row{"x": n})
	}
}

// stranger begins the owner of rows without a key that another program has written to
// the file of the owner's replica.
const stranger = "x."

// strange updates and deletes such rows, through the driver or not, before and after
// anybody compared.
func strange(x *write) {
	if x.r.w.fixed || x.r.adopting {
		return // as in count
	}
	if many := x.rows("ticks", func(r row) bool { return r["owner"] == bulk+x.owner }); len(many) > 0 {
		x.sql(`DELETE FROM ticks WHERE owner = ?`, bulk+x.owner)
		for _, r := range many {
			x.del("ticks", r["token"])
		}
	}
	for _, r := range x.rows("ticks", func(r row) bool { return r["owner"] == stranger+x.owner }) {
		switch x.rnd.IntN(8) {
		case 0:
			x.sql(`DELETE FROM ticks WHERE token = ?`, r["token"])
			x.del("ticks", r["token"])
		case 1:
			n := x.rnd.Int64N(1000)
			x.sql(`UPDATE ticks SET x = ? WHERE token = ?`, n, r["token"])
			x.with("ticks", r, row{"x": n})
		}
	}
}

const (
	accountCount = 5
	accountStart = int64(100)
	ringSize     = 7
)

// transfer moves money between accounts of one owner: the sum is constant.
func transfer(x *write) {
	if x.get("accounts", x.owner, int64(0)) == nil {
		for i := range int64(accountCount) {
			x.sql(`INSERT INTO accounts VALUES (?, ?, ?)`, x.owner, i, accountStart)
			x.put("accounts", row{"owner": x.owner, "id": i, "balance": accountStart})
		}
		return
	}
	for range 1 + x.rnd.IntN(3) {
		a, b := x.rnd.Int64N(accountCount), x.rnd.Int64N(accountCount)
		if a == b {
			continue
		}
		sum := x.rnd.Int64N(30)
		x.sql(`UPDATE accounts SET balance = balance + CASE id WHEN ? THEN -? ELSE ? END WHERE owner = ? AND id IN (?, ?)`, a, sum, sum, x.owner, a, b)
		from, to := x.get("accounts", x.owner, a), x.get("accounts", x.owner, b)
		x.with("accounts", from, row{"balance": from["balance"].(int64) - sum})
		x.with("accounts", to, row{"balance": to["balance"].(int64) + sum})
	}
}

// turn takes a node out of the owner's ring and puts it elsewhere into it.
func turn(x *write) {
	if x.get("ring", x.owner, int64(0)) == nil {
		for i := range int64(ringSize) {
			x.sql(`INSERT INTO ring VALUES (?, ?, ?)`, x.owner, i, (i+1)%ringSize)
			x.put("ring", row{"owner": x.owner, "node": i, "next": (i + 1) % ringSize})
		}
		return
	}
	next := func(n int64) int64 { return x.get("ring", x.owner, n)["next"].(int64) }
	set := func(n, to int64) {
		x.sql(`UPDATE ring SET next = ? WHERE owner = ? AND node = ?`, to, x.owner, n)
		x.with("ring", x.get("ring", x.owner, n), row{"next": to})
	}
	// a → b → c → d becomes a → c → b → d
	a := x.rnd.Int64N(ringSize)
	b := next(a)
	c := next(b)
	d := next(c)
	set(a, c)
	set(c, b)
	set(b, d)
}

// note writes rows that all replicas write: the last push wins, column by column.
func note(x *write) {
	columns := []string{"a", "b", "c"}
	for range 1 + x.rnd.IntN(3) {
		id := fmt.Sprintf("n%d", x.rnd.IntN(10))
		old := x.get("notes", id)
		if old == nil && x.r.live.get("notes", keyOf(id)) != nil {
			continue // deleted in this transaction: whether it comes back under its rowid is chance
		}
		c, v := columns[x.rnd.IntN(3)], x.value()
		switch n := x.rnd.IntN(6); {
		case old == nil:
			x.sql(`INSERT INTO notes(id, a, b, c) VALUES (?, ?, ?, ?)`, id, x.token, v, nil)
			x.put("notes", row{"id": id, "a": x.token, "b": v, "c": nil})
		case n == 0:
			x.sql(`DELETE FROM notes WHERE id = ?`, id)
			x.del("notes", id)
		case n == 1:
			x.sql(`REPLACE INTO notes VALUES (?, ?, ?, ?)`, id, v, nil, x.token)
			x.put("notes", row{"id": id, "a": v, "b": nil, "c": x.token})
			x.whole[ref{"notes", keyOf(id)}] = true
		case n == 2: // another key
			to := fmt.Sprintf("n%d", x.rnd.IntN(10))
			if x.get("notes", to) != nil || x.r.live.get("notes", keyOf(to)) != nil {
				continue
			}
			x.sql(`UPDATE notes SET id = ? WHERE id = ?`, to, id)
			x.with("notes", old, row{"id": to})
			x.del("notes", id)
		default:
			x.sql(`INSERT INTO notes(id) VALUES (?) ON CONFLICT(id) DO UPDATE SET `+c+` = ?`, id, v)
			x.with("notes", old, row{c: v})
		}
	}
}

// num writes rows under integer keys that replicas share.
func num(x *write) {
	id := x.rnd.Int64N(12)
	old := x.get("nums", id)
	switch n := x.rnd.IntN(5); {
	case old == nil:
		x.sql(`INSERT INTO nums VALUES (?, ?, 0)`, id, x.token)
		x.put("nums", row{"id": id, "a": x.token, "b": int64(0)})
	case n == 0:
		x.sql(`DELETE FROM nums WHERE id = ?`, id)
		x.del("nums", id)
	case n == 1:
		to := x.rnd.Int64N(12)
		if x.get("nums", to) != nil {
			return
		}
		x.sql(`UPDATE nums SET id = ? WHERE id = ?`, to, id)
		x.with("nums", old, row{"id": to})
		x.del("nums", id)
	default:
		v := x.rnd.Int64N(1000)
		x.sql(`UPDATE nums SET b = ? WHERE id = ?`, v, id)
		x.with("nums", old, row{"b": v})
	}
}

// pair is the same for a table WITHOUT ROWID, many rows at a time.
func pair(x *write) {
	a := string(rune('a' + x.rnd.IntN(3)))
	if x.rnd.IntN(5) == 0 {
		x.sql(`DELETE FROM pairs WHERE a = ?`, a)
		for _, r := range x.rows("pairs", func(r row) bool { return r["a"] == a }) {
			x.del("pairs", r["a"], r["b"])
		}
		return
	}
	if x.rnd.IntN(3) == 0 {
		v := x.value()
		x.sql(`UPDATE pairs SET y = ? WHERE a = ?`, v, a)
		for _, r := range x.rows("pairs", func(r row) bool { return r["a"] == a }) {
			x.with("pairs", r, row{"y": v})
		}
		return
	}
	for range 1 + x.rnd.IntN(4) {
		b, v := x.rnd.Int64N(6), x.value()
		x.sql(`INSERT INTO pairs VALUES (?, ?, ?, NULL) ON CONFLICT DO UPDATE SET x = excluded.x`, a, b, v)
		if old := x.get("pairs", a, b); old != nil {
			x.with("pairs", old, row{"x": v})
		} else {
			x.put("pairs", row{"a": a, "b": b, "x": v, "y": nil})
		}
	}
}

// unique takes names that replicas compete for: who comes last is refused.
func unique(x *write) {
	mine := x.rows("uniq", x.mine("id"))
	if len(mine) > 0 && x.rnd.IntN(2) == 0 {
		old := mine[x.rnd.IntN(len(mine))]
		x.sql(`DELETE FROM uniq WHERE id = ?`, old["id"])
		x.del("uniq", old["id"])
		return
	}
	name := fmt.Sprintf("name%d", x.rnd.IntN(8))
	if len(x.rows("uniq", func(r row) bool { return r["name"] == name })) > 0 {
		return
	}
	id := x.owner + "." + x.token
	x.sql(`INSERT INTO uniq VALUES (?, ?)`, id, name)
	x.put("uniq", row{"id": id, "name": name})
}

// slot displaces rows of the same owner by REPLACE on a unique column.
func slot(x *write) {
	s := fmt.Sprintf("%s.%d", x.owner, x.rnd.IntN(4))
	id := fmt.Sprintf("%s.%d", x.owner, x.rnd.IntN(6))
	for _, r := range x.rows("slots", func(r row) bool { return r["slot"] == s || r["id"] == id }) {
		x.del("slots", r["id"])
	}
	x.sql(`INSERT OR REPLACE INTO slots VALUES (?, ?, ?)`, id, s, x.token)
	x.put("slots", row{"id": id, "slot": s, "v": x.token})
	x.whole[ref{"slots", keyOf(id)}] = true
}

// family writes parents and children of one owner, with cascades.
func family(x *write) {
	parents := x.rows("parents", x.mine("id"))
	if len(parents) < 3 {
		id := x.owner + ".p" + x.token + fmt.Sprint(len(x.stmts))
		x.sql(`INSERT INTO parents VALUES (?, 0)`, id)
		x.put("parents", row{"id": id, "v": int64(0)})
		for i := range 1 + x.rnd.IntN(3) {
			child := fmt.Sprintf("%s.c%d", id, i)
			x.sql(`INSERT INTO children VALUES (?, ?, ?)`, child, id, i)
			x.put("children", row{"id": child, "parent": id, "v": int64(i)})
		}
		return
	}
	p := parents[x.rnd.IntN(len(parents))]
	of := func(c row) bool { return c["parent"] == p["id"] }
	switch x.rnd.IntN(3) {
	case 0:
		for _, c := range x.rows("children", of) {
			x.del("children", c["id"])
		}
		x.sql(`DELETE FROM parents WHERE id = ?`, p["id"])
		x.del("parents", p["id"])
	case 1:
		to := x.owner + ".q" + x.token + fmt.Sprint(len(x.stmts))
		x.sql(`UPDATE parents SET id = ? WHERE id = ?`, to, p["id"])
		for _, c := range x.rows("children", of) {
			x.with("children", c, row{"parent": to})
		}
		x.del("parents", p["id"])
		x.with("parents", p, row{"id": to})
	default:
		x.sql(`UPDATE children SET v = v + 1 WHERE parent = ?`, p["id"])
		for _, c := range x.rows("children", of) {
			x.with("children", c, row{"v": c["v"].(int64) + 1})
		}
	}
}

// large writes blobs of many pages.
func large(x *write) {
	id := fmt.Sprintf("%s.%d", x.owner, x.rnd.IntN(3))
	sizes := []int{0, 1, 4000, 5000, 40_000, 200_000}
	data := x.blob(sizes[x.rnd.IntN(len(sizes))])
	x.sql(`INSERT INTO blobs VALUES (?, ?) ON CONFLICT(id) DO UPDATE SET data = excluded.data`, id, data)
	x.put("blobs", row{"id": id, "data": data})
}

// item writes to a table with triggers; the audit counts how often they fired.
func item(x *write) {
	id := fmt.Sprintf("%s.%d", x.owner, x.rnd.IntN(4))
	old, log := x.get("items", id), x.get("audit", id)
	add := func(column string) {
		if log == nil {
			x.put("audit", row{"id": id, "ins": int64(1), "upd": int64(0), "del": int64(0)})
			return
		}
		x.with("audit", log, row{column: log[column].(int64) + 1})
	}
	n := x.rnd.Int64N(100)
	switch {
	case old == nil:
		x.sql(`INSERT INTO items VALUES (?, ?)`, id, n)
		x.put("items", row{"id": id, "n": n})
		add("ins")
	case x.rnd.IntN(4) == 0:
		x.sql(`DELETE FROM items WHERE id = ?`, id)
		x.del("items", id)
		add("del")
	default:
		x.sql(`UPDATE items SET n = ? WHERE id = ?`, n, id)
		x.with("items", old, row{"n": n})
		add("upd")
	}
}

// typed writes values of all types.
func typed(x *write) {
	id := fmt.Sprintf("%s.%d", x.owner, x.rnd.IntN(5))
	ints := []value{int64(0), int64(-1), int64(1), int64(math.MaxInt64), int64(math.MinInt64), int64(1 << 53), nil}
	reals := []value{0.5, -1e300, math.Inf(1), math.Inf(-1), math.SmallestNonzeroFloat64, 3.0, nil}
	texts := []value{"", "Straße", "a'b\"c", "nul\x00inside", "\u2028 emoji 🐢", strings.Repeat("long ", 2000), nil}
	r := row{"id": id, "i": ints[x.rnd.IntN(len(ints))], "r": reals[x.rnd.IntN(len(reals))], "t": texts[x.rnd.IntN(len(texts))],
		"b": x.blob(x.rnd.IntN(20)), "x": x.value()}
	x.sql(`REPLACE INTO types(id, i, r, t, b, x) VALUES (?, ?, ?, ?, ?, ?)`, id, r["i"], r["r"], r["t"], r["b"], r["x"])
	x.put("types", r)
	x.whole[ref{"types", keyOf(id)}] = true
}

// wide writes to the table that migrations add columns to.
func wide(x *write) {
	id := fmt.Sprintf("%s.%d", x.owner, x.rnd.IntN(6))
	v := x.rnd.Int64N(1000)
	old := x.get("wide", id)
	if old == nil {
		x.sql(`INSERT INTO wide(id, v) VALUES (?, ?)`, id, v)
		x.put("wide", row{"id": id, "v": v})
		return
	}
	c := "v"
	if n := x.wideColumns(); n > 0 && x.rnd.IntN(2) == 0 {
		c = fmt.Sprintf("c%d", 1+x.rnd.IntN(n))
	}
	x.sql(`UPDATE wide SET `+c+` = ? WHERE id = ?`, v, id)
	x.with("wide", old, row{c: v})
}

// wideColumns asks the database how many columns wide has been given.
func (x *write) wideColumns() (n int) {
	_ = x.r.db.QueryRow(`SELECT count(*) - 2 FROM pragma_table_info('wide')`).Scan(&n)
	return n
}

// auto lets SQLite assign keys, which replicas do alike: who comes last overwrites.
func auto(x *write) {
	tag := x.token + fmt.Sprint(len(x.stmts))
	x.stmts = append(x.stmts, stmt{`INSERT INTO auto(tag) VALUES (?)`, []any{tag}, func(id int64) {
		x.put("auto", row{"id": id, "tag": tag})
	}})
}

// shelf writes to the tables that are rebuilt: rows of one owner, and some of reb that
// all replicas write.
func shelf(x *write) {
	table, id := "grown", fmt.Sprintf("%s.%d", x.owner, x.rnd.IntN(6))
	if x.rnd.IntN(3) > 0 {
		table = "reb"
		if x.rnd.IntN(2) == 0 {
			id = fmt.Sprintf("shared%d", x.rnd.IntN(5))
		}
	}
	v, old := x.rnd.Int64N(1000), x.get(table, id)
	switch {
	case old == nil && x.r.live.get(table, keyOf(id)) != nil: // as in note
	case old == nil:
		x.sql(`INSERT INTO `+table+`(id, v) VALUES (?, ?)`, id, v)
		r := row{"id": id, "v": v}
		if table == "reb" {
			r["w"] = nil
		}
		x.put(table, r)
	case x.rnd.IntN(4) == 0:
		x.sql(`DELETE FROM `+table+` WHERE id = ?`, id)
		x.del(table, id)
	default:
		c := "v"
		switch {
		case table == "reb" && x.rnd.IntN(2) == 0:
			c = "w"
		case table == "grown" && x.r.live.get(form, table) != nil && x.rnd.IntN(2) == 0:
			c = grownColumn
		}
		x.sql(`UPDATE `+table+` SET `+c+` = ? WHERE id = ?`, v, id)
		x.with(table, old, row{c: v})
	}
}

// rebuild replaces a table by a new one with the same rows, or some of them, as
// migrations do where ALTER TABLE is not enough: in one transaction, or first the
// new table and in a later one the rest. What is rebuilt at once has the same name
// everywhere; half of it has one of its owner's (see "Known holes").
func rebuild(x *write) {
	table, columns, create := "reb", "id, v, w", `(id TEXT PRIMARY KEY, v, w)`
	b := &rebuilt{begin: true, end: true, rows: map[string]row{}}
	if x.rnd.IntN(3) == 0 && x.r.live.get(form, "grown") == nil {
		table, columns, create = "grown", "id, v", fmt.Sprintf(`(id TEXT PRIMARY KEY, v, %s INTEGER DEFAULT %d)`, grownColumn, grownDefault)
		b.once = true
	}
	b.name = "new_" + table
	if half := b.name + "_" + x.owner; !b.once && x.r.live[half] != nil {
		b.name, b.begin = half, false
	} else if !b.once && x.rnd.IntN(2) == 0 {
		b.name, b.end = half, false
	}
	if b.begin {
		where := ""
		if x.rnd.IntN(4) == 0 {
			where = ` WHERE v % 5 <> 0`
		}
		x.sql(`CREATE TABLE ` + b.name + create)
		x.sql(`INSERT INTO ` + b.name + `(` + columns + `) SELECT ` + columns + ` FROM ` + table + where)
		for _, r := range x.rows(table, func(r row) bool { return where == "" || r["v"].(int64)%5 != 0 }) {
			if b.once {
				r = merged(r, row{grownColumn: grownDefault})
			}
			b.rows[keyOf(r["id"])] = r
		}
	}
	if b.end {
		x.sql(`DROP TABLE ` + table)
		x.sql(`ALTER TABLE ` + b.name + ` RENAME TO ` + table)
		x.sql(`CREATE INDEX ` + table + `_v ON ` + table + `(v)`)
	}
	x.rebuilt = append(x.rebuilt, op{table: table, rebuilt: b})
}

// extra makes a table that others may make as well, and writes into it.
func extra(x *write) {
	name := fmt.Sprintf("extra%d", x.rnd.IntN(3))
	id := fmt.Sprintf("%s.%s%d", x.owner, x.token, len(x.stmts))
	x.sql(`CREATE TABLE IF NOT EXISTS ` + name + ` (id TEXT PRIMARY KEY, v DEFAULT 'd')`)
	x.sql(`INSERT INTO `+name+`(id) VALUES (?)`, id)
	x.put(name, row{"id": id, "v": "d"})
}

// migrate changes the schema in ways that any replica may come to first.
func migrate(x *write) {
	switch n := x.wideColumns(); {
	case x.rnd.IntN(3) == 0 && n < 4:
		x.sql(fmt.Sprintf(`ALTER TABLE wide ADD COLUMN c%d INTEGER DEFAULT %d`, n+1, wideDefault(n+1)))
	case x.rnd.IntN(2) == 0:
		x.sql(`CREATE INDEX IF NOT EXISTS notes_b ON notes(b, a)`)
	case x.rnd.IntN(2) == 0:
		x.sql(`DROP INDEX IF EXISTS notes_b`)
	default:
		x.sql(`CREATE VIEW IF NOT EXISTS recent AS SELECT id, a FROM notes WHERE b IS NOT NULL`)
	}
}

func (x *write) value() value {
	switch x.rnd.IntN(5) {
	case 0:
		return nil
	case 1:
		return x.rnd.Int64N(100)
	case 2:
		return x.rnd.Float64() + 0.5
	case 3:
		return x.blob(x.rnd.IntN(12))
	}
	return fmt.Sprintf("v%d", x.rnd.IntN(100))
}

func (x *write) blob(n int) blob {
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		u := x.rnd.Uint64()
		for j := i; j < min(i+8, n); j++ {
			b[j] = byte(u >> (8 * (j - i)))
		}
	}
	return blob(b)
}

// commitOne lets r commit one transaction. An error of ctx means that nothing was
// committed.
func (w *world) commitOne(ctx context.Context, r *replica, rnd *rand.Rand) error {
	return w.commit(ctx, r, rnd, 1+rnd.IntN(3))
}

// commit lets r commit one transaction of about n parts.
func (w *world) commit(ctx context.Context, r *replica, rnd *rand.Rand, n int) error {
	return w.commitParts(ctx, r, rnd, func(x *write) { w.parts(x, n) })
}

// commitParts lets r commit what do does in one transaction, or roll it back.
func (w *world) commitParts(ctx context.Context, r *replica, rnd *rand.Rand, do func(x *write)) error {
	w.lastSer++
	t := &txn{serial: w.lastSer, token: fmt.Sprintf("~%d~", w.lastSer), owner: r.owner}
	x := &write{r: r, rnd: rnd, owner: r.owner, token: t.token, after: map[ref]row{}, whole: map[ref]bool{}}
	x.sql(`INSERT INTO journal VALUES (?)`, t.token)
	x.put("journal", row{"token": t.token})
	x.sql(`INSERT INTO once VALUES (?)`, t.token)
	x.put("once", row{"token": t.token})
	do(x)
	abort := rnd.IntN(12) == 0
	err := x.run(ctx, abort, func() {
		t.ops = x.ops()
		w.know(t)
	})
	w.know(t)
	if err != nil || abort {
		if abort {
			w.mu.Lock()
			delete(w.txns, t.token)
			w.mu.Unlock()
		} else {
			r.doubt = append(r.doubt, t)
		}
		if abort && err == nil || errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		return fmt.Errorf("commit on %s: %w", r.name, err)
	}
	r.live.apply(t)
	r.pending, r.log = append(r.pending, t), append(r.log, t)
	w.count(&w.stats.commits, 1)
	w.trace("    %s commits %s: %s", r.name, t, x.summary())
	return nil
}

// parts does about n things that workloads do.
func (w *world) parts(x *write, n int) {
	total := 0
	for _, l := range workloads {
		total += l.weight
	}
	beside := w.uncompared(x.r)
	for i := range n {
		pick := x.rnd.IntN(total)
		for _, l := range workloads {
			if pick -= l.weight; pick >= 0 {
				continue
			}
			if l.alone && i > 0 || l.schema && w.fixed || (l.late || l.schema) && x.r.adopting || beside && !private[l.name] {
				break
			}
			l.do(x)
			if l.alone {
				i = n
			}
			break
		}
		if i == n {
			break
		}
	}
}

// ops are what the transaction has done, row by row.
func (x *write) ops() (list []op) {
	for _, ref := range sortedRefs(x.after) {
		o, ok := diffOp(ref.table, ref.key, x.r.live.get(ref.table, ref.key), x.after[ref])
		if x.whole[ref] && o.after != nil {
			o.changed, ok = nil, true
		}
		if ok {
			list = append(list, o)
		}
	}
	return append(list, x.rebuilt...)
}

func (x *write) summary() string {
	var b strings.Builder
	for i, s := range x.stmts[2:] {
		if i > 0 {
			b.WriteString("; ")
		}
		if i == 6 {
			fmt.Fprintf(&b, "… %d statements", len(x.stmts))
			break
		}
		b.WriteString(s.text)
		for _, a := range s.args {
			if v, ok := a.([]byte); ok {
				a = blob(v)
			}
			b.WriteString(" " + showValue(a))
		}
	}
	return b.String()
}

func sortedRefs(m map[ref]row) []ref {
	return slices.SortedFunc(maps.Keys(m), func(a, b ref) int {
		return strings.Compare(a.table+"\x00"+a.key, b.table+"\x00"+b.key)
	})
}

// run executes the statements in one transaction, in one of the ways in which
// programs do; ready is called before its end.
func (x *write) run(ctx context.Context, abort bool, ready func()) error {
	if x.rnd.IntN(3) == 0 { // BEGIN as text
		conn, err := x.r.db.Conn(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.ExecContext(ctx, `BEGIN IMMEDIATE`); err != nil {
			return err
		}
		if err := x.exec(ctx, conn); err != nil {
			_, e := conn.ExecContext(context.Background(), `ROLLBACK`)
			return errors.Join(err, e)
		}
		ready()
		end := `COMMIT`
		if abort {
			end = `ROLLBACK`
		}
		_, err = conn.ExecContext(ctx, end)
		return err
	}
	tx, err := x.r.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := x.exec(ctx, tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	ready()
	if abort {
		return tx.Rollback()
	}
	return tx.Commit()
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func (x *write) exec(ctx context.Context, db execer) error {
	for i, s := range x.stmts {
		if i > 0 && x.rnd.IntN(10) == 0 { // something that is undone
			for _, text := range []string{`SAVEPOINT s`, `DELETE FROM ticks`, `UPDATE notes SET a = 1`, `ROLLBACK TO s`, `RELEASE s`} {
				if _, err := db.ExecContext(ctx, text); err != nil {
					return fmt.Errorf("%s: %w", text, err)
				}
			}
		}
		res, err := db.ExecContext(ctx, s.text, s.args...)
		if err != nil {
			return fmt.Errorf("%s: %w", s.text, err)
		}
		if s.then != nil {
			id, err := res.LastInsertId()
			if err != nil {
				return err
			}
			s.then(id)
		}
	}
	return nil
}
