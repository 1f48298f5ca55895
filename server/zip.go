package server

import (
	"compress/gzip"
	"io"
	"runtime"
)

// zippers are those that compress answers, nil where none was needed yet; the
// process has so many and no more. Compressing takes ten times as long as reading a
// page: where many pull at the same time, the processor would be what all of them
// wait for. Those that find none get their pages as they are.
var zippers = func() chan *gzip.Writer {
	n := 2 * runtime.GOMAXPROCS(0)
	all := make(chan *gzip.Writer, n)
	for range n {
		all <- nil
	}
	return all
}()

// zipper returns one that writes to w, or nil. It is to be given back.
func zipper(w io.Writer) *gzip.Writer {
	select {
	case z := <-zippers:
		if z == nil {
			z, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed) // there is such a level
		}
		z.Reset(w)
		return z
	default:
		return nil
	}
}

func giveBack(z *gzip.Writer) {
	z.Reset(io.Discard) // lets go of the answer
	zippers <- z
}
