/*
** faultfs.c: a VFS between SQLite and its real one, which lets single operations
** on files fail. For tests.
**
** It becomes the default VFS when the package is loaded, so every connection
** opened afterwards goes through it; without a fault set it only passes calls on.
** Operations on files below one folder are counted, those of Go's files too (which
** ask through ts_faultfs_due), and the one with the number that was asked for
** fails. The caller may be any thread: one mutex guards all that is counted.
**
** What a failure does: a read or write may be done by half before, a sync may lose
** what was written since the last one (zeros in its place: what a file holds after a
** failed fsync is not known, https://danluu.com/fsyncgate/), and then the error is
** returned that SQLite's own VFS has for the operation.
*/
#include "../shim/shim.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "faultfs.h"

#define SQLITE_IOERR_READ (SQLITE_IOERR | (1 << 8))
#define SQLITE_IOERR_WRITE (SQLITE_IOERR | (3 << 8))
#define SQLITE_IOERR_FSYNC (SQLITE_IOERR | (4 << 8))
#define SQLITE_IOERR_TRUNCATE (SQLITE_IOERR | (6 << 8))
#define SQLITE_IOERR_FSTAT (SQLITE_IOERR | (7 << 8))
#define SQLITE_IOERR_DELETE (SQLITE_IOERR | (10 << 8))
#define SQLITE_IOERR_ACCESS (SQLITE_IOERR | (13 << 8))
#define SQLITE_IOERR_LOCK (SQLITE_IOERR | (15 << 8))
#define SQLITE_IOERR_SHMOPEN (SQLITE_IOERR | (18 << 8))
#define SQLITE_IOERR_SHMMAP (SQLITE_IOERR | (21 << 8))
#define SQLITE_IOERR_SHMLOCK (SQLITE_IOERR | (20 << 8))

typedef struct sqlite3_vfs sqlite3_vfs;
struct sqlite3_vfs {
  int iVersion;
  int szOsFile;
  int mxPathname;
  sqlite3_vfs *pNext;
  const char *zName;
  void *pAppData;
  int (*xOpen)(sqlite3_vfs *, const char *, sqlite3_file *, int, int *);
  int (*xDelete)(sqlite3_vfs *, const char *, int);
  int (*xAccess)(sqlite3_vfs *, const char *, int, int *);
  int (*xFullPathname)(sqlite3_vfs *, const char *, int, char *);
  void *(*xDlOpen)(sqlite3_vfs *, const char *);
  void (*xDlError)(sqlite3_vfs *, int, char *);
  void (*(*xDlSym)(sqlite3_vfs *, void *, const char *))(void);
  void (*xDlClose)(sqlite3_vfs *, void *);
  int (*xRandomness)(sqlite3_vfs *, int, char *);
  int (*xSleep)(sqlite3_vfs *, int);
  int (*xCurrentTime)(sqlite3_vfs *, double *);
  int (*xGetLastError)(sqlite3_vfs *, int, char *);
  int (*xCurrentTimeInt64)(sqlite3_vfs *, sqlite3_int64 *);
  int (*xSetSystemCall)(sqlite3_vfs *, const char *, void (*)(void));
  void (*(*xGetSystemCall)(sqlite3_vfs *, const char *))(void);
  const char *(*xNextSystemCall)(sqlite3_vfs *, const char *);
};

extern sqlite3_vfs *sqlite3_vfs_find(const char *) TS_WEAK;
extern int sqlite3_vfs_register(sqlite3_vfs *, int) TS_WEAK;
extern int sqlite3_initialize(void) TS_WEAK;

/* file is what SQLite holds: ours in front, the real one behind it. */
typedef struct {
  sqlite3_file base;
  sqlite3_io_methods methods; /* with the version of the real ones */
  const char *path;           /* SQLite keeps it while the file is open; NULL: a temporary file */
  sqlite3_file *real;
} file;

/* range is a stretch of a file that was written since the last sync. */
typedef struct range {
  struct range *next;
  sqlite3_int64 off;
  int n;
  char path[];
} range;

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static ts_fault now;          /* what is to fail */
static ts_fault_report count; /* what happened since it was set */
static range *unsynced;       /* kept while now.lose */
static sqlite3_vfs *real_vfs;
static sqlite3_vfs vfs;

static int watched; /* syncs are reported to Go */
extern void tsFaultfsSynced(char *path);

void ts_faultfs_watch(int on) { __atomic_store_n(&watched, on, __ATOMIC_SEQ_CST); }

static void forget(const char *path) {
  range **p = &unsynced;
  while (*p != NULL) {
    range *r = *p;
    if (path == NULL || strcmp(r->path, path) == 0) {
      *p = r->next;
      free(r);
    } else {
      p = &r->next;
    }
  }
}

void ts_faultfs_set(const ts_fault *f) {
  pthread_mutex_lock(&mu);
  now = *f;
  memset(&count, 0, sizeof count);
  forget(NULL);
  pthread_mutex_unlock(&mu);
}

void ts_faultfs_report(ts_fault_report *out) {
  pthread_mutex_lock(&mu);
  *out = count;
  pthread_mutex_unlock(&mu);
}

/* counts tells whether operations on a file are counted. */
static int counts(const char *path) {
  size_t n = strlen(path), end = strlen(now.except);
  if (strncmp(path, now.dir, strlen(now.dir)) != 0) return 0;
  return end == 0 || n < end || strcmp(path + n - end, now.except) != 0;
}

/* ts_faultfs_due counts an operation and tells whether it is to fail. */
int ts_faultfs_due(int op, const char *path) {
  int due = 0;
  if (path == NULL) path = "";
  pthread_mutex_lock(&mu);
  if (now.on && counts(path) && (now.ops & (1u << op)) != 0) {
    int n = ++count.ops;
    if (n == now.at) {
      count.op = op;
      strncpy(count.path, path, sizeof count.path - 1);
      due = 1;
    } else if (now.lasts && count.failed > 0 && op == count.op && strcmp(path, count.path) == 0) {
      due = 1;
    }
    count.failed += due;
  }
  pthread_mutex_unlock(&mu);
  return due;
}

static file *of(sqlite3_file *f) { return (file *)f; }
static int due(sqlite3_file *f, int op) { return ts_faultfs_due(op, of(f)->path); }

#define METHODS(f) (of(f)->real->pMethods)

static int fClose(sqlite3_file *f) { return METHODS(f)->xClose(of(f)->real); }

static int fRead(sqlite3_file *f, void *b, int n, sqlite3_int64 off) {
  if (due(f, TS_OP_READ)) {
    if (now.partial) METHODS(f)->xRead(of(f)->real, b, n / 2, off);
    return SQLITE_IOERR_READ;
  }
  return METHODS(f)->xRead(of(f)->real, b, n, off);
}

static void note(const char *path, int n, sqlite3_int64 off) {
  range *r;
  if (path == NULL) return;
  pthread_mutex_lock(&mu);
  if (now.on && now.lose && (r = malloc(sizeof *r + strlen(path) + 1)) != NULL) {
    r->off = off;
    r->n = n;
    strcpy(r->path, path);
    r->next = unsynced;
    unsynced = r;
  }
  pthread_mutex_unlock(&mu);
}

static int fWrite(sqlite3_file *f, const void *b, int n, sqlite3_int64 off) {
  int rc;
  if (due(f, TS_OP_WRITE)) {
    if (now.partial) METHODS(f)->xWrite(of(f)->real, b, n / 2, off);
    return now.full ? SQLITE_FULL : SQLITE_IOERR_WRITE;
  }
  rc = METHODS(f)->xWrite(of(f)->real, b, n, off);
  if (rc == SQLITE_OK) note(of(f)->path, n, off);
  return rc;
}

static int fTruncate(sqlite3_file *f, sqlite3_int64 size) {
  if (due(f, TS_OP_TRUNCATE)) return SQLITE_IOERR_TRUNCATE;
  return METHODS(f)->xTruncate(of(f)->real, size);
}

/* lose overwrites what was not synced. */
static void lose(sqlite3_file *f) {
  static const char zero[1 << 16];
  range *r;
  sqlite3_int64 size;
  if (of(f)->path == NULL || METHODS(f)->xFileSize(of(f)->real, &size) != SQLITE_OK) return;
  pthread_mutex_lock(&mu);
  for (r = unsynced; r != NULL; r = r->next) {
    int n, at;
    if (strcmp(r->path, of(f)->path) != 0 || r->off >= size) continue;
    for (at = 0; at < r->n && r->off + at < size; at += n) {
      n = r->n - at;
      if (n > (int)sizeof zero) n = (int)sizeof zero;
      if (r->off + at + n > size) n = (int)(size - r->off - at);
      METHODS(f)->xWrite(of(f)->real, zero, n, r->off + at);
    }
  }
  forget(of(f)->path);
  pthread_mutex_unlock(&mu);
}

static int fSync(sqlite3_file *f, int flags) {
  if (due(f, TS_OP_SYNC)) {
    if (now.lose) lose(f);
    return SQLITE_IOERR_FSYNC;
  }
  if (now.lose && of(f)->path != NULL) {
    pthread_mutex_lock(&mu);
    forget(of(f)->path);
    pthread_mutex_unlock(&mu);
  }
  int rc = METHODS(f)->xSync(of(f)->real, flags);
  if (rc == SQLITE_OK && of(f)->path != NULL && __atomic_load_n(&watched, __ATOMIC_SEQ_CST)) tsFaultfsSynced((char *)of(f)->path);
  return rc;
}

static int fFileSize(sqlite3_file *f, sqlite3_int64 *size) {
  if (due(f, TS_OP_STAT)) return SQLITE_IOERR_FSTAT;
  return METHODS(f)->xFileSize(of(f)->real, size);
}

static int fLock(sqlite3_file *f, int level) {
  if (due(f, TS_OP_LOCK)) return now.busy ? SQLITE_BUSY : SQLITE_IOERR_LOCK;
  return METHODS(f)->xLock(of(f)->real, level);
}

static int fUnlock(sqlite3_file *f, int level) { return METHODS(f)->xUnlock(of(f)->real, level); }
static int fCheckReserved(sqlite3_file *f, int *out) { return METHODS(f)->xCheckReservedLock(of(f)->real, out); }
static int fFileControl(sqlite3_file *f, int op, void *arg) { return METHODS(f)->xFileControl(of(f)->real, op, arg); }
static int fSectorSize(sqlite3_file *f) { return METHODS(f)->xSectorSize(of(f)->real); }
static int fCharacteristics(sqlite3_file *f) { return METHODS(f)->xDeviceCharacteristics(of(f)->real); }

static int fShmMap(sqlite3_file *f, int region, int size, int extend, void volatile **out) {
  if (due(f, TS_OP_SHMMAP)) {
    *out = NULL;
    return SQLITE_IOERR_SHMMAP;
  }
  return METHODS(f)->xShmMap(of(f)->real, region, size, extend, out);
}

static int fShmLock(sqlite3_file *f, int offset, int n, int flags) {
  /* Giving a lock back does not fail. */
  if ((flags & SQLITE_SHM_LOCK) != 0 && due(f, TS_OP_SHMLOCK)) return now.busy ? SQLITE_BUSY : SQLITE_IOERR_SHMLOCK;
  return METHODS(f)->xShmLock(of(f)->real, offset, n, flags);
}

static void fShmBarrier(sqlite3_file *f) { METHODS(f)->xShmBarrier(of(f)->real); }
static int fShmUnmap(sqlite3_file *f, int del) { return METHODS(f)->xShmUnmap(of(f)->real, del); }
static int fFetch(sqlite3_file *f, sqlite3_int64 off, int n, void **out) {
  return METHODS(f)->xFetch(of(f)->real, off, n, out);
}
static int fUnfetch(sqlite3_file *f, sqlite3_int64 off, void *p) { return METHODS(f)->xUnfetch(of(f)->real, off, p); }

static const sqlite3_io_methods methods = {
    3,      fClose,  fRead,         fWrite,       fTruncate,   fSync,            fFileSize, fLock,    fUnlock,     fCheckReserved,
    fFileControl, fSectorSize, fCharacteristics, fShmMap, fShmLock, fShmBarrier, fShmUnmap, fFetch, fUnfetch};

static int vOpen(sqlite3_vfs *v, const char *path, sqlite3_file *f, int flags, int *out) {
  file *p = of(f);
  int rc;
  (void)v;
  f->pMethods = NULL;
  if (ts_faultfs_due(TS_OP_OPEN, path)) return SQLITE_CANTOPEN;
  p->path = path;
  p->real = (sqlite3_file *)(void *)((char *)p + (sizeof(file) + 15) / 16 * 16);
  rc = real_vfs->xOpen(real_vfs, path, p->real, flags, out);
  if (p->real->pMethods != NULL) {
    p->methods = methods;
    p->methods.iVersion = p->real->pMethods->iVersion;
    f->pMethods = &p->methods;
  }
  return rc;
}

static int vDelete(sqlite3_vfs *v, const char *path, int sync) {
  (void)v;
  if (ts_faultfs_due(TS_OP_DELETE, path)) return SQLITE_IOERR_DELETE;
  return real_vfs->xDelete(real_vfs, path, sync);
}

static int vAccess(sqlite3_vfs *v, const char *path, int flags, int *out) {
  (void)v;
  if (ts_faultfs_due(TS_OP_ACCESS, path)) return SQLITE_IOERR_ACCESS;
  return real_vfs->xAccess(real_vfs, path, flags, out);
}

static int vFullPathname(sqlite3_vfs *v, const char *path, int n, char *out) {
  (void)v;
  return real_vfs->xFullPathname(real_vfs, path, n, out);
}
static void *vDlOpen(sqlite3_vfs *v, const char *path) { return (void)v, real_vfs->xDlOpen(real_vfs, path); }
static void vDlError(sqlite3_vfs *v, int n, char *out) { (void)v, real_vfs->xDlError(real_vfs, n, out); }
static void (*vDlSym(sqlite3_vfs *v, void *p, const char *name))(void) { return (void)v, real_vfs->xDlSym(real_vfs, p, name); }
static void vDlClose(sqlite3_vfs *v, void *p) { (void)v, real_vfs->xDlClose(real_vfs, p); }
static int vRandomness(sqlite3_vfs *v, int n, char *out) { return (void)v, real_vfs->xRandomness(real_vfs, n, out); }
static int vSleep(sqlite3_vfs *v, int us) { return (void)v, real_vfs->xSleep(real_vfs, us); }
static int vCurrentTime(sqlite3_vfs *v, double *t) { return (void)v, real_vfs->xCurrentTime(real_vfs, t); }
static int vGetLastError(sqlite3_vfs *v, int n, char *out) { return (void)v, real_vfs->xGetLastError(real_vfs, n, out); }
static int vCurrentTimeInt64(sqlite3_vfs *v, sqlite3_int64 *t) { return (void)v, real_vfs->xCurrentTimeInt64(real_vfs, t); }

/* ts_faultfs_register makes the VFS the default one. */
int ts_faultfs_register(void) {
  int rc;
  if (sqlite3_vfs_register == NULL || sqlite3_vfs_find == NULL || sqlite3_initialize == NULL) return SQLITE_MISUSE;
  if (real_vfs != NULL) return SQLITE_OK;
  if ((rc = sqlite3_initialize()) != SQLITE_OK) return rc;
  if ((real_vfs = sqlite3_vfs_find(NULL)) == NULL) return SQLITE_ERROR;
  vfs = *real_vfs;
  vfs.iVersion = real_vfs->iVersion < 2 ? real_vfs->iVersion : 2;
  vfs.szOsFile = (int)((sizeof(file) + 15) / 16 * 16) + real_vfs->szOsFile;
  vfs.pNext = NULL;
  vfs.zName = "faultfs";
  vfs.xOpen = vOpen;
  vfs.xDelete = vDelete;
  vfs.xAccess = vAccess;
  vfs.xFullPathname = vFullPathname;
  vfs.xDlOpen = vDlOpen;
  vfs.xDlError = vDlError;
  vfs.xDlSym = vDlSym;
  vfs.xDlClose = vDlClose;
  vfs.xRandomness = vRandomness;
  vfs.xSleep = vSleep;
  vfs.xCurrentTime = vCurrentTime;
  vfs.xGetLastError = vGetLastError;
  vfs.xCurrentTimeInt64 = vCurrentTimeInt64;
  vfs.xSetSystemCall = NULL;
  vfs.xGetSystemCall = NULL;
  vfs.xNextSystemCall = NULL;
  return sqlite3_vfs_register(&vfs, 1);
}
