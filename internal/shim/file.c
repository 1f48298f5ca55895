/*
** file.c: the files of a database through SQLite's own handles.
**
** Opening and closing a database file a second time in one process drops the
** POSIX locks that SQLite holds on it (https://sqlite.org/howtocorrupt.html,
** 2.2), so live and its WAL are only ever touched through the sqlite3_file
** objects of an open connection. The caller owns the connection while in here.
*/
#include "shim.h"

/*
** ts_file finds the database file (which 0) or the WAL (which 1) of schema main.
** TS_NOTREADY: there is none, or the connection has not read yet and SQLite has
** therefore not opened the WAL.
*/
int ts_file(sqlite3 *db, int which, sqlite3_file **out) {
  sqlite3_file *f = NULL;
  int op = which == 0 ? SQLITE_FCNTL_FILE_POINTER : SQLITE_FCNTL_JOURNAL_POINTER;
  int rc = sqlite3_file_control(db, "main", op, &f);
  *out = NULL;
  if (rc != SQLITE_OK) return rc;
  if (f == NULL || f->pMethods == NULL) return TS_NOTREADY;
  *out = f;
  return SQLITE_OK;
}

/* VFSes need not take more at once than SQLite's largest page. */
#define CHUNK 65536

/* ts_file_read fills buf; *got is less than n at the end of the file. */
int ts_file_read(sqlite3 *db, int which, void *buf, int n, sqlite3_int64 off, int *got) {
  sqlite3_file *f;
  sqlite3_int64 size;
  int part, rc = ts_file(db, which, &f);
  *got = 0;
  if (rc != SQLITE_OK) return rc;
  while (*got < n) {
    part = n - *got < CHUNK ? n - *got : CHUNK;
    rc = f->pMethods->xRead(f, (char *)buf + *got, part, off + *got);
    if (rc != SQLITE_OK) break;
    *got += part;
  }
  if (rc != SQLITE_IOERR_SHORT_READ) return rc;
  /* xRead has zeroed what it could not read, and does not say how much. */
  rc = f->pMethods->xFileSize(f, &size);
  if (rc != SQLITE_OK) return rc;
  if (size > off + *got) *got = size - off < n ? (int)(size - off) : n;
  return SQLITE_OK;
}

int ts_file_size(sqlite3 *db, int which, sqlite3_int64 *size) {
  sqlite3_file *f;
  int rc = ts_file(db, which, &f);
  if (rc != SQLITE_OK) return rc;
  return f->pMethods->xFileSize(f, size);
}

int ts_file_sync(sqlite3 *db, int which) {
  sqlite3_file *f;
  int rc = ts_file(db, which, &f);
  if (rc != SQLITE_OK) return rc;
  return f->pMethods->xSync(f, SQLITE_SYNC_FULL);
}
