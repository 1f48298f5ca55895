package tursosync_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tursosync/tursosync"
	"github.com/tursosync/tursosync/internal/wire"
)

// The tests in this file put a hostile server in front of an honest one. Whatever
// it says, the answer is a typed error that names the replica, live and base stay
// what they were, the application goes on, and when the server is honest again all
// converge.

// victim opens a replica of h that has something pending; met: it has synced
// before, so that a pull is an increment.
func victim(t *testing.T, h *hostile, met bool) (one, peer *side) {
	t.Helper()
	peer = open(t, h, func(c *tursosync.Config) { c.URL = h.URL })
	if _, err := h.TryQuery(`SELECT 1 FROM item`); err != nil {
		peer.exec(items, `CREATE INDEX item_a ON item(a)`)
		for i := range 40 {
			peer.exec(fmt.Sprintf(`INSERT INTO item VALUES ('p%d', %d, hex(randomblob(150)))`, i, i))
		}
	}
	peer.sync()
	one = fresh(t, h)
	if met {
		one.sync()
		one.exec(`INSERT INTO mine VALUES (2)`, `UPDATE item SET a = 'pending' WHERE id = 'p3'`)
	}
	peer.exec(news...)
	peer.sync()
	return one, peer
}

// news are what the peer writes, so that there is something to pull.
var news = []string{
	`UPDATE item SET b = hex(randomblob(150)) WHERE abs(random()) % 3 = 0 AND id LIKE 'p%'`,
	`REPLACE INTO item VALUES (abs(random()) % 5, 0, hex(randomblob(6000)))`,
}

// fresh opens a replica that has not met the server yet, but has something pending.
func fresh(t *testing.T, h *hostile) *side {
	t.Helper()
	one := open(t, h, func(c *tursosync.Config) { c.AuthToken = secret })
	one.exec(`CREATE TABLE IF NOT EXISTS mine(x)`, `INSERT INTO mine VALUES (1)`)
	return one
}

// bothKinds runs a test for a first pull and for an increment.
func bothKinds(t *testing.T, fn func(t *testing.T, met bool)) {
	if !testing.Short() {
		t.Run("first", func(t *testing.T) { fn(t, false) })
	}
	t.Run("increment", func(t *testing.T) { fn(t, true) })
}

func parsePull(t *testing.T, b []byte) (h wire.PullHeader, pages []wire.PageData) {
	t.Helper()
	r := wire.NewFrameReader(bytes.NewReader(b))
	for first := true; ; first = false {
		m, err := r.Next(1 << 20)
		if errors.Is(err, io.EOF) {
			return h, pages
		}
		if err != nil {
			t.Errorf("the honest answer cannot be read: %v", err)
			return h, pages
		}
		if first {
			h, err = wire.ParsePullHeader(m)
		} else {
			var p wire.PageData
			p, err = wire.ParsePageData(m)
			p.Image = bytes.Clone(p.Image)
			pages = append(pages, p)
		}
		if err != nil {
			t.Errorf("the honest answer cannot be read: %v", err)
		}
	}
}

func buildPull(h wire.PullHeader, pages ...wire.PageData) []byte {
	b := wire.AppendFrame(nil, h.Append(nil))
	for _, p := range pages {
		b = wire.AppendFrame(b, p.Append(nil))
	}
	return b
}

// edited is evil that changes the messages of an honest pull.
func edited(t *testing.T, edit func(h *wire.PullHeader, pages []wire.PageData) []wire.PageData) evil {
	return onPull(func(w http.ResponseWriter, r *http.Request, honest func() answer) {
		a := honest()
		if a.status != http.StatusOK {
			a.write(w)
			return
		}
		h, pages := parsePull(t, a.body)
		pages = edit(&h, pages)
		a.body = buildPull(h, pages...)
		a.write(w)
	})
}

// says is evil that always gives one answer.
func says(status int, media, body string) evil {
	return func(w http.ResponseWriter, r *http.Request, _ func() answer) {
		answer{status, http.Header{"Content-Type": {media}}, []byte(body)}.write(w)
	}
}

const htmlPage = "<!DOCTYPE html><html><head><title>Hotel Wi-Fi</title></head><body>Please log in</body></html>"

// first changes page 1, and demands that it is there.
func first(t *testing.T, change func(b []byte)) evil {
	return edited(t, func(h *wire.PullHeader, pages []wire.PageData) []wire.PageData {
		for _, p := range pages {
			if p.ID == 0 {
				change(p.Image)
				return pages
			}
		}
		t.Error("page 1 is not among the pages")
		return pages
	})
}

// header is evil that changes the header of a pull's answer only.
func header(t *testing.T, change func(h *wire.PullHeader)) evil {
	return edited(t, func(h *wire.PullHeader, pages []wire.PageData) []wire.PageData {
		change(h)
		return pages
	})
}

func gzipped(w http.ResponseWriter, media string, body func(io.Writer)) {
	w.Header().Set("Content-Type", media)
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	body(z)
	_ = z.Close()
}

// status demands a RemoteError with an HTTP status.
func status(want int) func(error) bool {
	return func(err error) bool {
		var e *tursosync.RemoteError
		return errors.As(err, &e) && e.Status == want
	}
}

func is(want error) func(error) bool {
	return func(err error) bool { return errors.Is(err, want) }
}

// brokenOff demands an error about an answer that broke off.
func brokenOff(err error) bool {
	var e *tursosync.RemoteError
	return errors.As(err, &e) && (errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, tursosync.ErrBadAnswer))
}

// TestGarbagePulls is about what a server may say to a pull.
func TestGarbagePulls(t *testing.T) {
	bad, unsupported := is(tursosync.ErrBadAnswer), is(tursosync.ErrUnsupportedRemote)
	spare := wire.PageData{ID: 1, Image: make([]byte, 4096)}
	for _, c := range []struct {
		name string
		evil func(t *testing.T) evil
		want func(error) bool
	}{
		{"empty answer", func(t *testing.T) evil { return onPull(says(200, wire.ProtobufMedia, "")) }, bad},
		{"garbage", func(t *testing.T) evil { return onPull(says(200, wire.ProtobufMedia, strings.Repeat("garbage!", 900))) }, bad},
		{"zeros", func(t *testing.T) evil { return onPull(says(200, wire.ProtobufMedia, strings.Repeat("\x00", 9000))) }, func(err error) bool {
			return bad(err) || unsupported(err)
		}},
		{"JSON", func(t *testing.T) evil { return onPull(says(200, wire.JSONMedia, `{"results":[]}`)) }, bad},
		{"HTML", func(t *testing.T) evil { return onPull(says(200, "text/html; charset=utf-8", htmlPage)) }, bad},
		{"HTML of the right type", func(t *testing.T) evil { return onPull(says(200, wire.ProtobufMedia, htmlPage)) }, bad},
		{"plain text", func(t *testing.T) evil { return onPull(says(200, "text/plain", "hello")) }, bad},
		{"HTML 400", func(t *testing.T) evil { return onPull(says(400, "text/html", htmlPage)) }, status(400)},
		{"HTML 502", func(t *testing.T) evil { return onPull(says(502, "text/html", htmlPage)) }, status(502)},
		{"201", func(t *testing.T) evil { return onPull(says(201, wire.ProtobufMedia, "")) }, status(201)},
		{"204", func(t *testing.T) evil {
			return onPull(func(w http.ResponseWriter, _ *http.Request, _ func() answer) { w.WriteHeader(204) })
		}, status(204)},
		{"redirect", func(t *testing.T) evil {
			return onPull(func(w http.ResponseWriter, r *http.Request, _ func() answer) {
				http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
			})
		}, status(307)},
		{"401", func(t *testing.T) evil {
			return says(401, wire.JSONMedia, `{"error":"Unauthorized: `+secret+` is stale"}`)
		}, is(tursosync.ErrUnauthorized)},
		{"403", func(t *testing.T) evil { return onPull(says(403, wire.JSONMedia, `{"error":"forbidden"}`)) }, is(tursosync.ErrUnauthorized)},
		{"404", func(t *testing.T) evil { return onPull(says(404, "text/plain", "no such database")) }, status(404)},
		{"418", func(t *testing.T) evil { return onPull(says(418, "text/plain", "teapot")) }, status(418)},
		{"429", func(t *testing.T) evil {
			return onPull(func(w http.ResponseWriter, _ *http.Request, _ func() answer) {
				w.Header().Set("Retry-After", "3")
				http.Error(w, "slow down", http.StatusTooManyRequests)
			})
		}, func(err error) bool {
			var e *tursosync.RemoteError
			return errors.As(err, &e) && e.Status == 429 && e.RetryAfter == 3*time.Second
		}},
		{"500", func(t *testing.T) evil { return onPull(says(500, "text/plain", "short read on WAL frame")) }, status(500)},
		{"503", func(t *testing.T) evil { return onPull(says(503, "text/plain", "")) }, status(503)},
		{"hang up", func(t *testing.T) evil {
			return onPull(func(http.ResponseWriter, *http.Request, func() answer) { panic(http.ErrAbortHandler) })
		}, func(err error) bool {
			var e *tursosync.RemoteError
			return errors.As(err, &e) && e.Status == 0
		}},

		{"MVCC database", func(t *testing.T) evil { return header(t, func(h *wire.PullHeader) { h.Protocol = wire.ProtocolMVCC }) }, unsupported},
		{"MVCC database, empty", func(t *testing.T) evil {
			return edited(t, func(h *wire.PullHeader, _ []wire.PageData) []wire.PageData {
				*h = wire.PullHeader{Revision: "0", Raw: true, Protocol: wire.ProtocolMVCC}
				return nil
			})
		}, unsupported},
		{"MVCC stream", func(t *testing.T) evil { return header(t, func(h *wire.PullHeader) { h.Stream = wire.StreamMVCC }) }, unsupported},
		{"MVCC page", func(t *testing.T) evil { return first(t, func(b []byte) { b[18], b[19] = 0xff, 0xff }) }, unsupported},
		{"zstd", func(t *testing.T) evil {
			return header(t, func(h *wire.PullHeader) { h.Raw, h.Zstd = false, &wire.Zstd{Level: 3} })
		}, unsupported},
		{"unknown stream", func(t *testing.T) evil { return header(t, func(h *wire.PullHeader) { h.Stream = 9 }) }, unsupported},
		{"unknown mode", func(t *testing.T) evil { return header(t, func(h *wire.PullHeader) { h.Mode = 9 }) }, unsupported},
		{"no encoding", func(t *testing.T) evil { return header(t, func(h *wire.PullHeader) { h.Raw = false }) }, bad},
		{"encrypted", func(t *testing.T) evil { return first(t, func(b []byte) { b[20] = 28 }) }, unsupported},
		{"other page size", func(t *testing.T) evil { return first(t, func(b []byte) { b[16] = 0x20 }) }, unsupported},
		{"UTF-16", func(t *testing.T) evil { return first(t, func(b []byte) { b[59] = 2 }) }, unsupported},
		{"page 1 is no header", func(t *testing.T) evil { return first(t, func(b []byte) { clear(b[:100]) }) }, bad},

		{"page behind the end", func(t *testing.T) evil {
			return edited(t, func(h *wire.PullHeader, p []wire.PageData) []wire.PageData {
				return append(p, wire.PageData{ID: h.PageCount, Image: spare.Image})
			})
		}, bad},
		{"page far behind", func(t *testing.T) evil {
			return edited(t, func(h *wire.PullHeader, p []wire.PageData) []wire.PageData {
				return append(p, wire.PageData{ID: 1<<32 - 2, Image: spare.Image})
			})
		}, bad},
		{"page beyond all", func(t *testing.T) evil {
			return edited(t, func(h *wire.PullHeader, p []wire.PageData) []wire.PageData {
				return append(p, wire.PageData{ID: 1<<64 - 1, Image: spare.Image})
			})
		}, bad},
		{"page twice", func(t *testing.T) evil {
			return edited(t, func(h *wire.PullHeader, p []wire.PageData) []wire.PageData { return append(p, p[0]) })
		}, bad},
		{"short page", func(t *testing.T) evil {
			return edited(t, func(h *wire.PullHeader, p []wire.PageData) []wire.PageData {
				p[len(p)-1].Image = p[len(p)-1].Image[:1024]
				return p
			})
		}, unsupported},
		{"long page", func(t *testing.T) evil {
			return edited(t, func(h *wire.PullHeader, p []wire.PageData) []wire.PageData {
				p[0].Image = append(p[0].Image, make([]byte, 4096)...)
				return p
			})
		}, bad},
		{"no pages", func(t *testing.T) evil {
			return edited(t, func(h *wire.PullHeader, p []wire.PageData) []wire.PageData {
				h.PageCount += 3
				return nil
			})
		}, bad},
		{"replace-base without most pages", func(t *testing.T) evil {
			return edited(t, func(h *wire.PullHeader, p []wire.PageData) []wire.PageData {
				h.Mode = wire.ReplaceBase
				return p[:min(1, len(p))]
			})
		}, bad},
		{"size too small", func(t *testing.T) evil { return header(t, func(h *wire.PullHeader) { h.PageCount -= 2 }) }, bad},
		{"size too large", func(t *testing.T) evil { return header(t, func(h *wire.PullHeader) { h.PageCount += 2 }) }, bad},
		{"size huge", func(t *testing.T) evil { return header(t, func(h *wire.PullHeader) { h.PageCount = 1<<32 - 2 }) }, bad},
		{"size absurd", func(t *testing.T) evil { return header(t, func(h *wire.PullHeader) { h.PageCount = 1<<64 - 1 }) }, bad},
		{"size 0", func(t *testing.T) evil { return header(t, func(h *wire.PullHeader) { h.PageCount = 0 }) }, bad},
		{"revision of 100 kB", func(t *testing.T) evil {
			return header(t, func(h *wire.PullHeader) { h.Revision = strings.Repeat("9", 100<<10) })
		}, bad},
		{"header of 2 MB", func(t *testing.T) evil {
			return header(t, func(h *wire.PullHeader) { h.Revision = strings.Repeat("9", 2<<20) })
		}, bad},
		{"garbage pages", func(t *testing.T) evil {
			return edited(t, func(h *wire.PullHeader, pages []wire.PageData) []wire.PageData {
				for _, p := range pages {
					if p.ID != 0 {
						copy(p.Image, bytes.Repeat([]byte("garbage!"), 512))
					}
				}
				return pages
			})
		}, bad},
		{"pages exchanged", func(t *testing.T) evil {
			return edited(t, func(h *wire.PullHeader, pages []wire.PageData) []wire.PageData {
				images := [][]byte{}
				for _, p := range pages {
					if p.ID != 0 {
						images = append(images, p.Image)
					}
				}
				i := 0
				for j := range pages {
					if pages[j].ID != 0 {
						i++
						pages[j].Image = images[i%len(images)]
					}
				}
				return pages
			})
		}, bad},

		{"endless pages", func(t *testing.T) evil {
			return onPull(func(w http.ResponseWriter, r *http.Request, honest func() answer) {
				h, pages := parsePull(t, honest().body)
				b := buildPull(wire.PullHeader{Revision: h.Revision, PageCount: h.PageCount, Raw: true}, pages...)
				for {
					if _, err := w.Write(b); err != nil {
						return
					}
					b = wire.AppendPageFrame(nil, 1, spare.Image)
				}
			})
		}, bad},
		{"endless empty messages", func(t *testing.T) evil {
			return onPull(func(w http.ResponseWriter, r *http.Request, honest func() answer) {
				b := append(buildPull(wire.PullHeader{Revision: "x", PageCount: 9, Raw: true}), make([]byte, 64<<10)...)
				for {
					if _, err := w.Write(b); err != nil {
						return
					}
					b = b[len(b)-64<<10:]
				}
			})
		}, func(err error) bool { return bad(err) || unsupported(err) }},
		{"endless length", func(t *testing.T) evil {
			return onPull(func(w http.ResponseWriter, r *http.Request, honest func() answer) {
				for {
					if _, err := w.Write(bytes.Repeat([]byte{0xff}, 64<<10)); err != nil {
						return
					}
				}
			})
		}, bad},
		{"gzip bomb", func(t *testing.T) evil {
			return onPull(func(w http.ResponseWriter, r *http.Request, honest func() answer) {
				gzipped(w, wire.ProtobufMedia, func(z io.Writer) {
					b := make([]byte, 1<<20)
					for range 1 << 10 {
						if _, err := z.Write(b); err != nil {
							return
						}
					}
				})
			})
		}, func(err error) bool { return bad(err) || unsupported(err) }},
		{"gzip bomb of pages", func(t *testing.T) evil {
			return onPull(func(w http.ResponseWriter, r *http.Request, honest func() answer) {
				h, pages := parsePull(t, honest().body)
				gzipped(w, wire.ProtobufMedia, func(z io.Writer) {
					b := buildPull(h, pages...)
					for range 1 << 18 {
						if _, err := z.Write(b); err != nil {
							return
						}
						b = wire.AppendPageFrame(b[:0], 1, spare.Image)
					}
				})
			})
		}, bad},
		{"gzip garbage", func(t *testing.T) evil {
			return onPull(func(w http.ResponseWriter, r *http.Request, honest func() answer) {
				a := honest()
				a.header.Set("Content-Encoding", "gzip")
				a.write(w)
			})
		}, bad},
		{"gzip flaw", func(t *testing.T) evil {
			return onPull(func(w http.ResponseWriter, r *http.Request, honest func() answer) {
				a := honest()
				var b bytes.Buffer
				z := gzip.NewWriter(&b)
				_, _ = z.Write(a.body)
				_ = z.Close()
				a.body = b.Bytes()
				a.body[len(a.body)/2] ^= 4
				a.header.Set("Content-Encoding", "gzip")
				a.write(w)
			})
		}, bad},
		{"unasked encoding", func(t *testing.T) evil {
			return onPull(func(w http.ResponseWriter, r *http.Request, honest func() answer) {
				a := honest()
				a.header.Set("Content-Encoding", "br")
				a.write(w)
			})
		}, bad},
		{"no length and no chunks", func(t *testing.T) evil {
			return onPull(func(w http.ResponseWriter, r *http.Request, honest func() answer) {
				a := honest()
				c, rw, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				fmt.Fprintf(rw, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nConnection: close\r\n\r\n", wire.ProtobufMedia)
				_, _ = rw.Write(a.body)
				_ = rw.Flush()
			})
		}, bad},
	} {
		t.Run(c.name, func(t *testing.T) {
			bothKinds(t, func(t *testing.T, met bool) {
				t.Parallel()
				h := newHostile(t)
				one, peer := victim(t, h, met)
				before := one.photo()
				h.be(c.evil(t))
				err := one.tryPull()
				if !c.want(err) {
					t.Errorf("Pull = %v (%T)", err, err)
				}
				one.named(err)
				if h.hits.Load() == 0 {
					t.Error("nobody asked")
				}
				if s := one.r.Status(); s.State == tursosync.Running || s.Err == nil {
					t.Errorf("status = %v", s)
				}
				one.unharmed(before)
				h.be(nil)
				one.retry()
				converge(t, h, one, peer)
				if s := one.r.Status(); s.State != tursosync.Running {
					t.Errorf("status = %v", s)
				}
			})
		})
	}
}

// cutters are the ways in which an answer ends too soon. The honest way of HTTP to
// say so is the length, or the last chunk.
var cutters = map[string]func(w http.ResponseWriter, a answer, n int){
	"length": func(w http.ResponseWriter, a answer, n int) {
		for k, v := range a.header {
			w.Header()[k] = v
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(a.body)))
		_, _ = w.Write(a.body[:n])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	},
	"chunks": func(w http.ResponseWriter, a answer, n int) {
		for k, v := range a.header {
			w.Header()[k] = v
		}
		w.Header().Del("Content-Length")
		_ = http.NewResponseController(w).Flush()
		_, _ = w.Write(a.body[:n])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	},
	"gzip": func(w http.ResponseWriter, a answer, n int) {
		w.Header().Set("Content-Type", a.header.Get("Content-Type"))
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = z.Write(a.body[:n])
		_ = z.Flush() // never closed
		_ = http.NewResponseController(w).Flush()
	},
}

// TestCutPulls cuts answers at many positions, those between two messages
// included.
func TestCutPulls(t *testing.T) {
	bothKinds(t, func(t *testing.T, met bool) {
		t.Parallel()
		h := newHostile(t)
		one, peer := victim(t, h, met)
		before := one.photo()
		size := 0
		cut := func(how func(w http.ResponseWriter, a answer, n int), n int) error {
			h.be(onPull(func(w http.ResponseWriter, _ *http.Request, honest func() answer) {
				a := honest()
				size = len(a.body)
				how(w, a, min(n, len(a.body)-1))
			}))
			defer h.be(nil)
			return one.tryPull()
		}
		_ = cut(cutters["length"], 0)
		if size < 3*4096 {
			t.Fatalf("answer of %d bytes", size)
		}
		positions := []int{0, 1, 2, 5}
		for n := 9; n < size; n += 1 + size/40 {
			positions = append(positions, n)
		}
		positions = append(positions, boundaries(t, h, size)...)
		positions = append(positions, size-2, size-1)
		for name, how := range cutters {
			for _, n := range positions {
				err := cut(how, n)
				if !brokenOff(err) {
					t.Errorf("%s, cut at %d of %d: %v", name, n, size, err)
				}
				one.named(err)
				if after := one.photo(); after != before {
					t.Fatalf("%s, cut at %d: changed", name, n)
				}
			}
		}
		one.unharmed(before)
		converge(t, h, one, peer)
	})
}

// boundaries returns where messages of an answer of that size end.
func boundaries(t *testing.T, h *hostile, size int) (at []int) {
	t.Helper()
	for n := 12; n < size; n += 4103 {
		at = append(at, n, n+1, n+2, n+3, n+4)
	}
	return at
}

// TestFlippedBits flips single bits of answers. What can be known to be wrong is
// refused; what cannot (there are no checksums on this wire but TLS's and gzip's)
// leaves a sound file, and taking everything anew heals it.
func TestFlippedBits(t *testing.T) {
	bothKinds(t, func(t *testing.T, met bool) {
		t.Parallel()
		h := newHostile(t)
		one, peer := victim(t, h, met)
		seed := rand.Uint64()
		t.Logf("seed %d (of the positions; the rows are random as well)", seed)
		rnd := rand.New(rand.NewPCG(seed, 0))
		// A round flips one bit in each part of the answer: its header, and of one
		// page the frame, the head, and anything.
		const pageFrame = 4103
		frame, head, anything := rnd.IntN(7), 7+rnd.IntN(64), rnd.IntN(pageFrame)
		refused, accepted := 0, 0
		rounds := 100
		if testing.Short() {
			rounds = 40
		}
		for round := range rounds {
			n, bit := 0, rnd.IntN(8)
			before := one.photo()
			h.be(onPull(func(w http.ResponseWriter, _ *http.Request, honest func() answer) {
				a := honest()
				pages := (len(a.body) - 1) / pageFrame
				header := len(a.body) - pages*pageFrame + 1 // page 1's frame is two bytes shorter
				at := header + pageFrame*rnd.IntN(pages)
				switch round % 4 {
				case 0:
					at = round / 4 % header
				case 1:
					at += frame
				case 2:
					at += head
				case 3:
					at += anything
				}
				n = min(at, len(a.body)-1)
				a.body[n] ^= 1 << bit
				a.write(w)
			}))
			err := one.tryPull()
			h.be(nil)
			frame, head, anything = rnd.IntN(7), 7+rnd.IntN(64), rnd.IntN(pageFrame)
			if err != nil {
				refused++
				var e *tursosync.RemoteError
				// A bit in the text of a definition makes it another, sound definition.
				var drift *tursosync.DriftError
				if !errors.Is(err, tursosync.ErrBadAnswer) && !errors.Is(err, tursosync.ErrUnsupportedRemote) && !errors.As(err, &e) && !errors.As(err, &drift) {
					t.Errorf("%v (%T)", err, err)
				}
				one.named(err)
				one.retry()
				if after := one.photo(); after != before {
					t.Errorf("refused (%v), but something changed", err)
				}
			}
			if err == nil || round%10 == 0 { // begin anew
				accepted++
				one.sound()
				if err := one.r.Rebootstrap(t.Context()); err != nil {
					t.Fatal(err)
				}
				if one.pull(); met {
					peer.exec(news...)
					peer.sync()
				} else {
					if got, want := digest(t, one.path+"-base"), digest(t, h.Copy(t)); got != want {
						t.Errorf("base digest %s, want %s", got, want)
					}
					one = fresh(t, h)
				}
			}
			if t.Failed() {
				t.Fatalf("round %d, byte %d, bit %d", round, n, bit)
			}
		}
		t.Logf("%d refused, %d accepted or begun anew", refused, accepted)
		converge(t, h, one, peer)
	})
}

// sound demands a file without structural damage. What quick_check says of values
// ("NUMERIC value in …") and of pages that nobody uses is content, which nobody can
// know to be wrong, and other programs leave such databases too.
func (s *side) sound() {
	s.Helper()
	content := regexp.MustCompile(`^"?(ok|(NULL|NUMERIC|TEXT) value in .*|non-.* value in .*|CHECK constraint failed.*|(.*\n|.*\\n)*.*: never used)"?$`)
	for _, line := range queryRows(s.T, s.db, "PRAGMA quick_check") {
		if !content.MatchString(line) {
			s.Errorf("quick_check: %s", line)
		}
	}
}

// TestTrickle has a body stop in the middle: the pull ends with its context, and
// nothing is blocked meanwhile.
func TestTrickle(t *testing.T) {
	h := newHostile(t)
	one, peer := victim(t, h, true)
	before := one.photo()
	stuck := make(chan struct{})
	h.be(onPull(func(w http.ResponseWriter, r *http.Request, honest func() answer) {
		a := honest()
		_, _ = w.Write(a.body[:5000])
		_ = http.NewResponseController(w).Flush()
		close(stuck)
		<-r.Context().Done()
	}))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- one.r.Pull(ctx) }()
	<-stuck
	one.unharmed(before) // while it hangs
	if _, err := one.r.Stats(t.Context()); err != nil {
		t.Errorf("Stats: %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Pull = %v", err)
	}
	h.be(nil)
	converge(t, h, one, peer)
}

// results is the part of a pipeline's answer that lies are told about.
type results struct {
	StepResults []json.RawMessage `json:"step_results"`
	StepErrors  []json.RawMessage `json:"step_errors"`
}

func pipeline(result any) string {
	b, err := json.Marshal(result)
	if err != nil {
		panic(err)
	}
	return `{"baton":null,"base_url":null,"results":[{"type":"ok","response":{"type":"batch","result":` + string(b) + `}}]}`
}

// lies edits the steps of the honest answer to a batch with that word in it.
func lies(t *testing.T, word string, edit func(r *results)) evil {
	return onPush(func(w http.ResponseWriter, r *http.Request, honest func() answer) {
		asked, _ := io.ReadAll(r.Body)
		a := honest()
		if !bytes.Contains(asked, []byte(word)) {
			a.write(w)
			return
		}
		var p struct {
			Results []struct {
				Response struct {
					Result results `json:"result"`
				} `json:"response"`
			} `json:"results"`
		}
		if err := json.Unmarshal(a.body, &p); err != nil || len(p.Results) != 1 {
			t.Errorf("the honest answer cannot be read: %v", err)
			return
		}
		res := p.Results[0].Response.Result
		edit(&res)
		answer{200, http.Header{"Content-Type": {wire.JSONMedia}}, []byte(pipeline(res))}.write(w)
	})
}

// rows is a step's result of one row with one value.
func rows(value string) string {
	return `{"cols":[{"name":"change_id","decltype":"INTEGER"}],"rows":[[` + value + `]],"affected_row_count":0,"last_insert_rowid":null}`
}

// TestGarbagePushes is about what a server may say to a push. In half of the cases
// it executed the push and lies about that; nothing may be lost or doubled.
func TestGarbagePushes(t *testing.T) {
	bad := is(tursosync.ErrBadAnswer)
	remote := func(err error) bool {
		var e *tursosync.RemoteError
		return errors.As(err, &e)
	}
	null := json.RawMessage("null")
	const watermark = "SELECT change_id"
	const commit = "COMMIT"
	for _, c := range []struct {
		name string
		evil func(t *testing.T) evil
		want func(error) bool
	}{
		{"empty", func(t *testing.T) evil { return onPush(says(200, wire.JSONMedia, "")) }, bad},
		{"garbage", func(t *testing.T) evil { return onPush(says(200, wire.JSONMedia, "{{{")) }, bad},
		{"another JSON", func(t *testing.T) evil { return onPush(says(200, wire.JSONMedia, `["results"]`)) }, bad},
		{"no results", func(t *testing.T) evil { return onPush(says(200, wire.JSONMedia, `{}`)) }, bad},
		{"null", func(t *testing.T) evil { return onPush(says(200, wire.JSONMedia, `null`)) }, bad},
		{"two results", func(t *testing.T) evil { return onPush(says(200, wire.JSONMedia, `{"results":[{},{}]}`)) }, bad},
		{"unknown result", func(t *testing.T) evil { return onPush(says(200, wire.JSONMedia, `{"results":[{"type":"maybe"}]}`)) }, bad},
		{"ok without response", func(t *testing.T) evil { return onPush(says(200, wire.JSONMedia, `{"results":[{"type":"ok"}]}`)) }, bad},
		{"ok of another kind", func(t *testing.T) evil {
			return onPush(says(200, wire.JSONMedia, `{"results":[{"type":"ok","response":{"type":"close"}}]}`))
		}, bad},
		{"result of wrong types", func(t *testing.T) evil {
			return onPush(says(200, wire.JSONMedia, pipeline(map[string]any{"step_results": "all fine", "step_errors": 0})))
		}, bad},
		{"error of the stream", func(t *testing.T) evil {
			return onPush(says(200, wire.JSONMedia, `{"results":[{"type":"error","error":{"message":"stream expired","code":"STREAM_EXPIRED"}}]}`))
		}, remote},
		{"deep JSON", func(t *testing.T) evil {
			return onPush(says(200, wire.JSONMedia, `{"results":`+strings.Repeat("[", 1<<20)))
		}, bad},
		{"endless JSON", func(t *testing.T) evil {
			return onPush(func(w http.ResponseWriter, _ *http.Request, _ func() answer) {
				w.Header().Set("Content-Type", wire.JSONMedia)
				b := bytes.Repeat([]byte(" "), 1<<20)
				for {
					if _, err := w.Write(b); err != nil {
						return
					}
				}
			})
		}, bad},
		{"gzip bomb", func(t *testing.T) evil {
			return onPush(func(w http.ResponseWriter, _ *http.Request, _ func() answer) {
				gzipped(w, wire.JSONMedia, func(z io.Writer) {
					b := bytes.Repeat([]byte(" "), 1<<20)
					for range 1 << 10 {
						if _, err := z.Write(b); err != nil {
							return
						}
					}
				})
			})
		}, bad},
		{"HTML", func(t *testing.T) evil { return onPush(says(200, "text/html", htmlPage)) }, bad},
		{"HTML 403", func(t *testing.T) evil { return onPush(says(403, "text/html", htmlPage)) }, is(tursosync.ErrUnauthorized)},
		{"HTML 400", func(t *testing.T) evil { return onPush(says(400, "text/html", htmlPage)) }, status(400)},
		{"401", func(t *testing.T) evil { return says(401, wire.JSONMedia, `{"error":"stale `+secret+`"}`) }, is(tursosync.ErrUnauthorized)},
		{"429", func(t *testing.T) evil { return onPush(says(429, "text/plain", "slow down")) }, status(429)},
		{"500", func(t *testing.T) evil { return onPush(says(500, "text/plain", "oops")) }, status(500)},
		{"redirect", func(t *testing.T) evil {
			return onPush(func(w http.ResponseWriter, r *http.Request, _ func() answer) {
				http.Redirect(w, r, "/elsewhere", http.StatusPermanentRedirect)
			})
		}, status(308)},
		{"executed, then 502", func(t *testing.T) evil {
			return onPush(func(w http.ResponseWriter, r *http.Request, honest func() answer) {
				honest()
				http.Error(w, htmlPage, http.StatusBadGateway)
			})
		}, status(502)},
		{"executed, then 400 of a proxy", func(t *testing.T) evil {
			return onPush(func(w http.ResponseWriter, r *http.Request, honest func() answer) {
				honest()
				says(400, "text/html", htmlPage)(w, r, nil)
			})
		}, status(400)},
		{"results are missing", func(t *testing.T) evil {
			return lies(t, commit, func(r *results) { r.StepResults, r.StepErrors = nil, nil })
		}, bad},
		{"too few results", func(t *testing.T) evil {
			return lies(t, commit, func(r *results) {
				r.StepResults, r.StepErrors = r.StepResults[:len(r.StepResults)-2], r.StepErrors[:len(r.StepErrors)-2]
			})
		}, bad},
		{"too many results", func(t *testing.T) evil {
			return lies(t, commit, func(r *results) { r.StepResults = append(r.StepResults, null) })
		}, bad},
		{"fewer errors than results", func(t *testing.T) evil {
			return lies(t, commit, func(r *results) { r.StepErrors = r.StepErrors[:1] })
		}, bad},
		{"a step was skipped", func(t *testing.T) evil {
			return lies(t, commit, func(r *results) { r.StepResults[4] = null })
		}, bad},
		{"COMMIT was skipped", func(t *testing.T) evil {
			return lies(t, commit, func(r *results) { r.StepResults[len(r.StepResults)-2] = null })
		}, bad},
		{"results of wrong types", func(t *testing.T) evil {
			return lies(t, commit, func(r *results) { r.StepResults[3] = json.RawMessage(`"fine"`) })
		}, bad},
		{"ROLLBACK ran", func(t *testing.T) evil {
			return lies(t, commit, func(r *results) { r.StepResults[len(r.StepResults)-1] = r.StepResults[0] })
		}, bad},
		{"COMMIT failed", func(t *testing.T) evil {
			return lies(t, commit, func(r *results) {
				r.StepErrors[len(r.StepErrors)-2] = json.RawMessage(`{"message":"disk I/O error","code":"SQLITE_IOERR"}`)
			})
		}, remote},
		{"BEGIN failed", func(t *testing.T) evil {
			return lies(t, commit, func(r *results) {
				r.StepErrors[0] = json.RawMessage(`{"message":"database is locked","code":"SQLITE_BUSY"}`)
			})
		}, remote},
		{"watermark is text", func(t *testing.T) evil {
			return lies(t, watermark, func(r *results) { r.StepResults[0] = json.RawMessage(rows(`{"type":"text","value":"7"}`)) })
		}, bad},
		{"watermark is null", func(t *testing.T) evil {
			return lies(t, watermark, func(r *results) { r.StepResults[0] = json.RawMessage(rows(`{"type":"null"}`)) })
		}, bad},
		{"watermark is negative", func(t *testing.T) evil {
			return lies(t, watermark, func(r *results) { r.StepResults[0] = json.RawMessage(rows(`{"type":"integer","value":"-4"}`)) })
		}, bad},
		{"watermark has two columns", func(t *testing.T) evil {
			return lies(t, watermark, func(r *results) {
				r.StepResults[0] = json.RawMessage(rows(`{"type":"integer","value":"4"},{"type":"integer","value":"4"}`))
			})
		}, bad},
		{"watermark is beyond int64", func(t *testing.T) evil {
			return lies(t, watermark, func(r *results) {
				r.StepResults[0] = json.RawMessage(rows(`{"type":"integer","value":"99999999999999999999"}`))
			})
		}, bad},
		{"watermark is of an unknown type", func(t *testing.T) evil {
			return lies(t, watermark, func(r *results) { r.StepResults[0] = json.RawMessage(rows(`{"type":"date","value":"1"}`)) })
		}, bad},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHostile(t)
			one, peer := victim(t, h, true)
			one.exec(`CREATE TABLE bag(n)`)
			one.sync()
			one.reopen() // so that the watermark is asked for
			one.exec(`INSERT INTO bag VALUES (1), (2), (3)`, `UPDATE item SET a = 'pushed' WHERE id = 'p5'`)
			before := one.photo()
			h.be(c.evil(t))
			err := one.tryPush()
			if !c.want(err) {
				t.Errorf("Push = %v (%T)", err, err)
			}
			one.named(err)
			one.unharmed(before)
			h.be(nil)
			one.retry()
			converge(t, h, one, peer)
			if got := h.Query(`SELECT count(*), sum(n) FROM bag`); !reflect.DeepEqual(got, [][]any{{int64(3), int64(6)}}) {
				t.Errorf("rows on the remote: %v", got)
			}
			peer.want(`SELECT a FROM item WHERE id = 'p5'`, "pushed")
		})
	}
}

// TestLyingSuccess has a server say that all went well without doing anything.
// The pull that follows shows that it did not, and the rows are sent again.
func TestLyingSuccess(t *testing.T) {
	h := newHostile(t)
	one, peer := victim(t, h, true)
	one.exec(`CREATE TABLE bag(n)`)
	one.sync()
	one.exec(`INSERT INTO bag VALUES (1), (2), (3)`)
	h.be(onPush(func(w http.ResponseWriter, r *http.Request, honest func() answer) {
		var p wire.PipelineRequest
		if err := json.NewDecoder(r.Body).Decode(&p); err != nil || len(p.Requests) != 1 || p.Requests[0].Batch == nil {
			t.Errorf("push: %v", err)
			return
		}
		if !strings.HasPrefix(*p.Requests[0].Batch.Steps[0].Stmt.SQL, "BEGIN") {
			honest().write(w)
			return
		}
		var res results
		for range p.Requests[0].Batch.Steps {
			res.StepResults = append(res.StepResults, json.RawMessage(`{"cols":[],"rows":[],"affected_row_count":1,"last_insert_rowid":null}`))
			res.StepErrors = append(res.StepErrors, json.RawMessage("null"))
		}
		res.StepResults[len(res.StepResults)-1] = json.RawMessage("null")
		answer{200, http.Header{"Content-Type": {wire.JSONMedia}}, []byte(pipeline(res))}.write(w)
	}))
	if err := one.tryPush(); err != nil {
		t.Fatalf("Push = %v; the lie cannot be known yet", err)
	}
	h.be(nil)
	peer.exec(`INSERT INTO item VALUES ('later', 1, 1)`)
	peer.sync()
	one.want(`SELECT count(*), sum(n) FROM bag`, "3|6")
	converge(t, h, one, peer)
	peer.want(`SELECT count(*), sum(n) FROM bag`, "3|6")
}

// TestHealsByItself lets the syncer meet a hostile server on its own.
func TestHealsByItself(t *testing.T) {
	h := newHostile(t)
	peer := open(t, h, func(c *tursosync.Config) { c.URL = h.URL })
	peer.exec(items, `INSERT INTO item VALUES ('p', 1, 1)`)
	peer.sync()
	h.be(says(503, "text/html", htmlPage))
	one := open(t, h, func(c *tursosync.Config) {
		c.Sync, c.SyncInterval, c.PushDelay = tursosync.SyncAuto, 20*time.Millisecond, tursosync.Off
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	events := one.r.Events(ctx)
	one.exec(`CREATE TABLE mine(x)`, `INSERT INTO mine VALUES (1)`)
	for h.hits.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	one.exec(`INSERT INTO mine VALUES (2)`)
	h.be(nil)
	if err := one.r.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	for e := range events {
		if p, ok := e.(tursosync.Pulled); ok && len(p.Tables) > 0 {
			break
		}
	}
	converge(t, h, one, peer)
	peer.want(`SELECT x FROM mine`, "1", "2")
}
