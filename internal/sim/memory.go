package sim

/*
#include <stddef.h>

typedef struct {
  size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
} ts_mallinfo;

extern ts_mallinfo mallinfo2(void) __attribute__((weak));
extern long long sqlite3_memory_used(void) __attribute__((weak));

// What C has allocated, by malloc and mmap; 0 where the library does not tell.
static size_t ts_malloced(void) {
  if (mallinfo2 == 0) return 0;
  ts_mallinfo m = mallinfo2();
  return m.uordblks + m.hblkhd;
}

static long long ts_sqlite_used(void) { return sqlite3_memory_used == 0 ? 0 : sqlite3_memory_used(); }
*/
import "C"

import (
	"fmt"
	"runtime"
)

// memory is what the process holds when a world has ended.
type memory struct {
	heap   int64 // Go's, after a collection
	sqlite int64
	c      int64 // all of C's, SQLite's included
}

func measureMemory() memory {
	runtime.GC()
	runtime.GC() // what finalizers let go
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return memory{heap: int64(m.HeapAlloc), sqlite: int64(C.ts_sqlite_used()), c: int64(C.ts_malloced())}
}

func (m memory) String() string {
	return fmt.Sprintf("%d KB in Go's heap, %d KB in SQLite, %d KB in C", m.heap>>10, m.sqlite>>10, m.c>>10)
}

// growth holds that worlds leave no memory behind. What is made once, caches and
// such, is there after the first ones.
type growth struct {
	worlds int
	last   memory
}

const (
	growthFrom   = 10 // worlds before the first measurement
	growthWorlds = 30 // as many again before the next
	growthSQLite = 4 << 10
	growthHeap   = 1 << 20
	growthC      = 1 << 20
)

// ended is told of the end of a world; err says that there is a leak.
func (g *growth) ended() error {
	g.worlds++
	switch n := g.worlds - growthFrom; {
	case n == 0:
		g.last = measureMemory()
	case n > 0 && n%growthWorlds == 0:
		m := measureMemory()
		was := g.last
		g.last = m
		if m.heap-was.heap > growthHeap || m.sqlite-was.sqlite > growthSQLite || m.c-was.c > growthC {
			return &violation{fmt.Sprintf("memory grows: after %d worlds %v, after %d %v", g.worlds-growthWorlds, was, g.worlds, m)}
		}
	}
	return nil
}
