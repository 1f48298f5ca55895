package server

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestZippers shows that pulls are answered when everybody who compresses is busy,
// and that those who compress come back.
func TestZippers(t *testing.T) {
	s := openForPool(t, Config{})
	firstValue(t, s, "http://x", "CREATE TABLE t (a)")
	encoding := func() string {
		t.Helper()
		w := do(s, "POST", "/pull-updates", "", "Accept-Encoding", "gzip")
		if w.Code != 200 || w.Body.Len() == 0 {
			t.Fatalf("pull = %d, %d bytes", w.Code, w.Body.Len())
		}
		return w.Header().Get("Content-Encoding")
	}
	for range 3 * cap(zippers) {
		if got := encoding(); got != "gzip" {
			t.Fatalf("Content-Encoding = %q, want gzip", got)
		}
	}
	var all []*zipper
	for range cap(zippers) {
		all = append(all, borrowZipper(t.Output()))
	}
	if got := encoding(); got != "" {
		t.Errorf("Content-Encoding = %q while all are busy", got)
	}
	for _, z := range all {
		giveBack(z)
	}
	if got := encoding(); got != "gzip" {
		t.Errorf("Content-Encoding = %q afterwards", got)
	}
}

// road is a network in simulated time: a byte takes perByte, and compressing a
// piece a millisecond.
type road struct {
	bytes.Buffer
	k       *zipper
	clock   time.Time
	perByte func(at int) time.Duration
}

func (r *road) Write(p []byte) (int, error) {
	r.clock = r.clock.Add(time.Duration(len(p)) * r.perByte(r.Len()))
	return r.Buffer.Write(p)
}

func (r *road) now() time.Time {
	if r.k.packed.Len() > 0 { // it has been compressed just now
		r.clock = r.clock.Add(time.Millisecond)
	}
	return r.clock
}

// TestZipper shows that slow networks get few bytes, fast ones are not held up, and
// that what arrives is right however often the network changes.
func TestZipper(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("TURSOSYNC_ZIP_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("TURSOSYNC_ZIP_SEED=%d repeats it", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	var text strings.Builder
	for text.Len() < 12<<20 {
		fmt.Fprintf(&text, "row %d of %d; ", rnd.IntN(1e6), text.Len())
	}
	in := []byte(text.String())
	const slow, fast = 2 * time.Microsecond, 0
	for name, c := range map[string]struct {
		perByte     func(at int) time.Duration
		least, most float64 // of the length
		bytes       int
	}{
		"nothing":         {func(int) time.Duration { return fast }, 0, 0, 0},
		"little":          {func(int) time.Duration { return fast }, 0, 0.6, 1 << 20},
		"slow":            {func(int) time.Duration { return slow }, 0, 0.6, len(in)},
		"fast":            {func(int) time.Duration { return fast }, 0.85, 1.01, len(in)},
		"fast, then slow": {func(at int) time.Duration { return slow * time.Duration(min(1, at>>21)) }, 0, 0.75, len(in)},
		"now and then":    {func(int) time.Duration { return slow * time.Duration(rnd.IntN(40)/39) }, 0, 1.01, len(in)},
	} {
		t.Run(name, func(t *testing.T) {
			r := &road{clock: time.Unix(0, 0), perByte: c.perByte}
			var k *zipper
			for range 2 { // the second time with one that was used
				r.Reset()
				k = k.reset(r)
				k.now, r.k = r.now, k
				rest := in[:c.bytes]
				for len(rest) > 0 {
					n := min(len(rest), 1+rnd.IntN(100_000))
					if _, err := k.Write(rest[:n]); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				if err := k.Close(); err != nil {
					t.Fatal(err)
				}
			}
			share := float64(r.Len()) / float64(max(c.bytes, 1))
			if c.bytes > 0 && (share < c.least || share > c.most) {
				t.Errorf("%.2f of the length is sent, want %.2f to %.2f", share, c.least, c.most)
			}
			z, err := gzip.NewReader(&r.Buffer)
			if err != nil {
				t.Fatal(err)
			}
			out, err := io.ReadAll(z)
			if err != nil || !bytes.Equal(out, in[:c.bytes]) {
				t.Errorf("%d bytes came, %d were sent: %v", len(out), c.bytes, err)
			}
		})
	}
}
