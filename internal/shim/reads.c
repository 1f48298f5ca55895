/*
** reads.c: which pages does a connection read?
**
** The methods of the database file and of the WAL are replaced by a copy in which
** xRead notes the place. Every page that SQLite uses and has not in its cache comes
** that way, memory-mapped ones too: xFetch then says that there is no mapping.
*/
#include <stdint.h>
#include <string.h>
#include "shim.h"

struct ts_reads {
  sqlite3_io_methods methods; /* first: f->pMethods points here */
  const sqlite3_io_methods *real;
  sqlite3_file *f;
  sqlite3_int64 head, unit; /* size of the file's header, and of what follows it again and again */
  unsigned char *bits;      /* one for each unit that was read */
  sqlite3_int64 bytes;
  int nomem;
};

static ts_reads *of(sqlite3_file *f) { return (ts_reads *)f->pMethods; }

static void note(ts_reads *r, sqlite3_int64 off) {
  sqlite3_int64 i = (off - r->head) / r->unit, more;
  unsigned char *bits;
  if (off < r->head) return;
  if (i / 8 >= r->bytes) {
    more = i / 4 + 64;
    bits = sqlite3_realloc64(r->bits, (sqlite3_uint64)more);
    if (bits == NULL) {
      r->nomem = 1;
      return;
    }
    memset(bits + r->bytes, 0, (size_t)(more - r->bytes));
    r->bits = bits;
    r->bytes = more;
  }
  r->bits[i / 8] |= (unsigned char)(1 << (i % 8));
}

static int noted_read(sqlite3_file *f, void *b, int n, sqlite3_int64 off) {
  ts_reads *r = of(f);
  note(r, off);
  return r->real->xRead(f, b, n, off);
}

static int no_fetch(sqlite3_file *f, sqlite3_int64 off, int n, void **out) {
  (void)f, (void)off, (void)n;
  *out = NULL;
  return SQLITE_OK;
}

/*
** ts_reads_start begins with an empty page cache, but for pages that are in use.
** The files must stay open until ts_reads_stop.
*/
int ts_reads_start(sqlite3 *db, int which, sqlite3_int64 head, sqlite3_int64 unit, ts_reads **out) {
  sqlite3_file *f;
  ts_reads *r;
  int rc = ts_file(db, which, &f);
  *out = NULL;
  if (rc != SQLITE_OK) return rc;
  r = sqlite3_malloc64(sizeof *r);
  if (r == NULL) return SQLITE_NOMEM;
  memset(r, 0, sizeof *r);
  r->methods = *f->pMethods;
  r->methods.xRead = noted_read;
  if (r->methods.iVersion >= 3) r->methods.xFetch = no_fetch;
  r->real = f->pMethods;
  r->f = f;
  r->head = head;
  r->unit = unit;
  f->pMethods = &r->methods;
  sqlite3_db_release_memory(db);
  *out = r;
  return SQLITE_OK;
}

/* ts_reads_stop lets the file be as it was; what was noted is kept for ts_reads_bits. */
int ts_reads_stop(ts_reads *r) {
  r->f->pMethods = r->real;
  return r->nomem ? SQLITE_NOMEM : SQLITE_OK;
}

const unsigned char *ts_reads_bits(ts_reads *r, sqlite3_int64 *bytes) {
  *bytes = r->bytes;
  return r->bits;
}

void ts_reads_free(ts_reads *r) {
  sqlite3_free(r->bits);
  sqlite3_free(r);
}
