package remote_test

import (
	"context"
	"testing"

	"github.com/tursosync/tursosync/cdc"
	"github.com/tursosync/tursosync/internal/realtest"
	"github.com/tursosync/tursosync/internal/remote"
	"github.com/tursosync/tursosync/server"
	"github.com/tursosync/tursosync/syncer"
)

// BenchmarkPush pushes batches of 1000 inserts, to our server and to tursodb.
func BenchmarkPush(b *testing.B) {
	for name, start := range map[string]func(b *testing.B) string{
		"server":  func(b *testing.B) string { return startServer(b, server.Config{}) },
		"tursodb": func(b *testing.B) string { return realtest.StartTursodb(b).URL },
	} {
		b.Run(name, func(b *testing.B) {
			url := start(b)
			realtest.Exec(b, url, "CREATE TABLE t (id INTEGER PRIMARY KEY, v, f)")
			r, err := remote.New(remote.Config{URL: url})
			if err != nil {
				b.Fatal(err)
			}
			var id cdc.ID
			for b.Loop() {
				batch := syncer.Batch{ClientID: "c", Expect: id, ExpectFound: id > 0}
				for range 1000 {
					id++
					batch.Mutations = append(batch.Mutations, cdc.Mutation{Change: id,
						SQL: `INSERT INTO "t"("id","v","f") VALUES (?,?,?) ON CONFLICT("id") DO UPDATE SET "v"=excluded."v"`, Args: []any{int64(id), "some text", 12.5}})
				}
				batch.Last = id
				if _, err := r.Push(context.Background(), batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
