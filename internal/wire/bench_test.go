package wire

import (
	"math/rand/v2"
	"testing"
)

// BenchmarkFloats encodes random doubles, the worst case: prices and the like
// are exact at once.
func BenchmarkFloats(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	v := make([]float64, 10_000)
	for i := range v {
		v[i] = r.Float64()
	}
	var buf []byte
	for i := 0; b.Loop(); i++ {
		buf = AppendFloat(buf[:0], v[i%len(v)])
	}
}

func BenchmarkStep(b *testing.B) {
	args := []any{int64(42), "some text of usual length", 12.5, nil}
	var buf []byte
	for b.Loop() {
		buf, _ = AppendStep(buf[:0], 7, `INSERT INTO "t"("a","b","c","d") VALUES (?,?,?,?) ON CONFLICT("a") DO UPDATE SET "b"=excluded."b"`, args, false)
	}
}
