package server

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"github.com/tursosync/tursosync/internal/fault"
	"github.com/tursosync/tursosync/internal/page"
	"github.com/tursosync/tursosync/internal/wire"
)

// Backup writes the database as it is at one moment, while it is being read and
// written: a SQLite file of exactly so many bytes as start is told. Nothing that
// was committed before the call is missing.
func (s *Server) Backup(ctx context.Context, start func(bytes int64) (io.Writer, error)) error {
	if !s.enter() {
		return ErrClosed
	}
	defer s.active.Done()
	snap, err := s.snapshot(ctx, wire.PullRequest{}, nil)
	if err != nil {
		return fmt.Errorf("back up database: %w", err)
	}
	defer snap.close()
	w, err := start(int64(snap.pageCount) * page.Size)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(w, 256<<10)
	image, empty := make([]byte, page.Size), make([]byte, page.Size)
	places := snap.pages
	for no := page.No(1); no <= page.No(snap.pageCount); no++ {
		if err := fault.At("backup.page"); err != nil {
			return fmt.Errorf("back up database: %w", err)
		}
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("back up database: %w", err)
		}
		b := empty // the lock page
		if len(places) > 0 && places[0].no == no {
			if err := snap.read(places[0], image); err != nil {
				return fmt.Errorf("back up database: read page %v: %w", no, err)
			}
			b, places = image, places[1:]
		}
		if _, err := out.Write(b); err != nil {
			return fmt.Errorf("back up database: %w", err)
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("back up database: %w", err)
	}
	return nil
}
