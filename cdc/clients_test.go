package cdc_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tursosync/tursosync/cdc"
)

// client is a replica as far as its log goes: base, live, and what is between.
type client struct {
	t     *testing.T
	r     random
	live  *database
	log   [][]cdc.Change // above base's watermark
	acked cdc.ID         // the remote holds the log up to here
	mark  cdc.ID         // the client's watermark on the remote
	next  cdc.ID
}

func (c *client) write() {
	before := c.live.clone()
	c.r.mutate(c.live, 1+c.r.IntN(6))
	for _, txn := range diff(c.t, before, c.live, c.next) {
		txn = joinKeys(txn)
		c.next = txn[len(txn)-1].ID + 1
		c.log = append(c.log, txn)
	}
}

func (c *client) push(remote *database, opts cdc.MutationOptions) {
	txns := logged(c.t, c.log, c.acked)
	if len(txns) == 0 {
		return
	}
	if err := remote.push(txns, opts); err != nil {
		c.t.Fatalf("push: %v", err)
	}
	last := txns[len(txns)-1]
	c.acked = last[len(last)-1].ID
	c.mark = c.acked
}

func (c *client) pull(remote *database) {
	c.live = remote.clone()
	txns := logged(c.t, c.log, c.mark)
	c.log = nil
	for _, out := range c.live.replay(txns) {
		if out.Rejected() {
			c.t.Fatalf("rejected: %v", out.Err)
		}
		if len(out.Log) > 0 {
			slices.SortFunc(out.Log, func(a, b cdc.Change) int { return int(a.ID - b.ID) })
			c.log = append(c.log, out.Log)
		}
	}
	c.acked = c.mark
}

// Clients write, push and pull in any order; pushes go out without a pull before
// and pulls come long after a push. Shown: what a client has after a pull is what
// the remote has after the push that follows, to the last row.
func TestRandomClients(t *testing.T) {
	s := seed(t)
	taken := slices.DeleteFunc(slices.Clone(tables), func(sql string) bool { return strings.Contains(sql, "UNIQUE") })
	for round := range uint64(25) {
		r := random{Rand: rand.New(rand.NewPCG(s, round))}
		remote := open(t)
		for _, i := range r.Perm(len(taken))[:3] {
			remote.run(taken[i])
		}
		r.mutate(remote, 20)
		var clients []*client
		for range 3 {
			clients = append(clients, &client{t: t, r: r, live: remote.clone(), next: 1})
		}
		for step := range 30 {
			c := clients[r.IntN(len(clients))]
			opts := cdc.MutationOptions{NoCollapse: r.IntN(2) == 0}
			switch r.IntN(6) {
			case 0, 1, 2:
				c.write()
			case 3:
				c.push(remote, opts)
			case 4:
				c.pull(remote)
			case 5:
				c.pull(remote)
				want := c.live.dump(false)
				c.push(remote, opts)
				compare(t, fmt.Sprintf("round %d step %d", round, step), remote.dump(false), want)
			}
			if t.Failed() {
				return
			}
		}
	}
}
