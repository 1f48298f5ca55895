package replica

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/syncer"
)

// TestErrorInLeftOver: a pull that goes on from what an earlier one left, commits
// it into live and cannot write base, must not write the next answer over the delta
// that base still needs.
func TestErrorInLeftOver(t *testing.T) {
	for _, point := range []string{"base.write", "base.truncate", "base.sync", "base.synced", "delta.drop"} {
		t.Run(point, func(t *testing.T) {
			rem := newRemote(t)
			path := filepath.Join(t.TempDir(), "app.db")
			pulledWithPending(t, path, rem)
			rep := newReplica(t, Config{Path: path})
			once := func(at string) (restore func()) {
				hit := false
				return fault.Set(func(p string) error {
					if p == at && !hit {
						hit = true
						return errFull
					}
					return nil
				})
			}

			rem.exec(`INSERT INTO people(id, name) VALUES (200, 'first')`)
			restore := once("stage.begin") // the delta stays
			if _, err := rep.Pull(t.Context(), rem.fetch, syncer.PullOptions{}); !errors.Is(err, errFull) {
				t.Fatalf("Pull = %v, want %v", err, errFull)
			}
			restore()

			rem.exec(`INSERT INTO bag VALUES ('second')`)
			restore = once(point)
			_, err := rep.Pull(t.Context(), rem.fetch, syncer.PullOptions{})
			restore()
			if err != nil && !errors.Is(err, errFull) {
				t.Fatalf("Pull = %v", err)
			}
			pulled(t, rep, rem)
			sameBase(t, rep, rem)
			invariant(t, rep)
		})
	}
}
