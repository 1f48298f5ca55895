/*
** fault.c: make an open file fail, for tests of what happens then.
**
** One fault at a time: the methods of one sqlite3_file are replaced by a copy in
** which one operation fails from its n-th call on, or ends the process there, as
** SIGKILL would: nothing is cleaned up, and what was written stays. Whoever uses
** the file, SQLite or this package, meets the fault. No production code calls this.
*/
#include "shim.h"

#include <stdlib.h>

static const sqlite3_io_methods *real; /* of the file at fault; NULL: no fault is set */
static sqlite3_io_methods faulty;
static sqlite3_file *faulted;
static int left; /* calls that still succeed */

/* due counts a call and tells whether it is to fail. */
static int due(void) { return __atomic_fetch_sub(&left, 1, __ATOMIC_SEQ_CST) <= 0; }

static int fail_write(sqlite3_file *f, const void *b, int n, sqlite3_int64 off) {
  return due() ? SQLITE_IOERR | (3 << 8) : real->xWrite(f, b, n, off);
}

/* fail_torn writes the first half. */
static int fail_torn(sqlite3_file *f, const void *b, int n, sqlite3_int64 off) {
  if (!due()) return real->xWrite(f, b, n, off);
  real->xWrite(f, b, n / 2, off);
  return SQLITE_FULL;
}

static int fail_sync(sqlite3_file *f, int flags) { return due() ? SQLITE_IOERR | (4 << 8) : real->xSync(f, flags); }

static int fail_read(sqlite3_file *f, void *b, int n, sqlite3_int64 off) {
  return due() ? SQLITE_IOERR | (1 << 8) : real->xRead(f, b, n, off);
}

static int fail_shm_map(sqlite3_file *f, int region, int size, int extend, void volatile **out) {
  if (!due()) return real->xShmMap(f, region, size, extend, out);
  *out = NULL;
  return SQLITE_IOERR | (19 << 8);
}

/* die_write ends the process half-way through a write. */
static int die_write(sqlite3_file *f, const void *b, int n, sqlite3_int64 off) {
  if (!due()) return real->xWrite(f, b, n, off);
  real->xWrite(f, b, n / 2, off);
  _Exit(TS_DIED);
}

static int die_sync(sqlite3_file *f, int flags) {
  if (due()) _Exit(TS_DIED);
  return real->xSync(f, flags);
}

/* die_barrier: the first barrier of a writer is between the two copies of the header. */
static void die_barrier(sqlite3_file *f) {
  if (due()) _Exit(TS_DIED);
  real->xShmBarrier(f);
}

int ts_fault_set(sqlite3 *db, int which, int op, int after) {
  sqlite3_file *f;
  int rc;
  if (real != NULL) return SQLITE_MISUSE;
  if ((rc = ts_file(db, which, &f)) != SQLITE_OK) return rc;
  faulted = f;
  faulty = *f->pMethods;
  switch (op) {
    case 0: faulty.xWrite = fail_write; break;
    case 1: faulty.xWrite = fail_torn; break;
    case 2: faulty.xSync = fail_sync; break;
    case 3: faulty.xRead = fail_read; break;
    case 4: faulty.xShmMap = fail_shm_map; break;
    case 5: faulty.xWrite = die_write; break;
    case 6: faulty.xSync = die_sync; break;
    case 7: faulty.xShmBarrier = die_barrier; break;
    default: return SQLITE_MISUSE;
  }
  left = after;
  real = f->pMethods;
  f->pMethods = &faulty;
  return SQLITE_OK;
}

/* ts_fault_clear ends the fault; the file must still be open. */
void ts_fault_clear(void) {
  if (real == NULL) return;
  faulted->pMethods = real;
  real = NULL;
}
