/*
** batch.c: many rows through few calls from Go.
**
** ts_fetch packs the rows of a query into a buffer; ts_batch runs statements
** whose parameters are fields of SQLite records
** (https://sqlite.org/fileformat2.html#record_format). Both work on one
** connection, on the goroutine that owns it, and keep nothing: parameters point
** into the caller's memory while a statement runs, and are cleared before
** ts_batch returns.
**
** A packed row is its columns, one after the other, in the byte order of the
** machine:
**
**     1 byte    SQLITE_INTEGER, _FLOAT, _TEXT, _BLOB or _NULL
**     8 bytes   the value of an integer or a float; the length of a text or blob
**     length    its bytes
**
** Failure: ts_fetch returns SQLite's code; the rows packed before are good.
** ts_batch stops at the first entry that fails, does not change as many rows as
** it should, or cannot be read; that entry has had no effect unless it changed
** more rows than one.
*/
#include "shim.h"

#include <stdlib.h>
#include <string.h>

/* ---- fetch ---- */

/* value_size is what a value takes. */
static size_t value_size(sqlite3_value *v) {
  switch (sqlite3_value_type(v)) {
    case SQLITE_INTEGER:
    case SQLITE_FLOAT:
      return 9;
    case SQLITE_TEXT:
    case SQLITE_BLOB:
      return 9 + (size_t)sqlite3_value_bytes(v);
  }
  return 1;
}

/* pack returns the place behind the value, NULL if memory ran out. */
static uint8_t *pack(sqlite3_value *v, uint8_t *p) {
  int type = sqlite3_value_type(v);
  const void *bytes;
  int64_t i;
  double d;
  *p++ = (uint8_t)type;
  switch (type) {
    case SQLITE_INTEGER:
      i = sqlite3_value_int64(v);
      memcpy(p, &i, 8);
      return p + 8;
    case SQLITE_FLOAT:
      d = sqlite3_value_double(v);
      memcpy(p, &d, 8);
      return p + 8;
    case SQLITE_TEXT:
    case SQLITE_BLOB:
      bytes = type == SQLITE_TEXT ? (const void *)sqlite3_value_text(v) : sqlite3_value_blob(v);
      i = sqlite3_value_bytes(v);
      if (bytes == NULL && i > 0) return NULL;
      memcpy(p, &i, 8);
      if (i > 0) memcpy(p + 8, bytes, (size_t)i);
      return p + 8 + i;
  }
  return p;
}

/*
** ts_fetch packs rows into buf until it is full. *pending tells, before and
** after, that the statement stands on a row that is not packed yet. SQLITE_ROW:
** there may be more, *need is the size of the pending row; SQLITE_DONE: that was all.
**
** Values are asked for once each: that takes the connection's mutex, looking at
** them does not.
*/
int ts_fetch(sqlite3_stmt *st, uint8_t *buf, size_t size, size_t *used, size_t *need, int *pending) {
  int columns = sqlite3_column_count(st);
  sqlite3_value *row[TS_FETCH_COLUMNS];
  *used = *need = 0;
  if (columns > TS_FETCH_COLUMNS) return SQLITE_TOOBIG;
  for (;;) {
    size_t n = 0;
    uint8_t *p = buf + *used;
    int i;
    if (!*pending) {
      int rc = sqlite3_step(st);
      if (rc != SQLITE_ROW) return rc;
    }
    for (i = 0; i < columns; i++) {
      row[i] = sqlite3_column_value(st, i);
      n += value_size(row[i]);
    }
    if (n > size - *used) {
      *pending = 1;
      *need = n;
      return SQLITE_ROW;
    }
    for (i = 0; i < columns; i++) {
      p = pack(row[i], p);
      if (p == NULL) return SQLITE_NOMEM;
    }
    *pending = 0;
    *used += n;
  }
}

/* ---- batch ---- */

/* varint reads a varint of at most n bytes; 0: it is cut off. */
static int varint(const uint8_t *b, size_t n, uint64_t *v) {
  uint64_t x = 0;
  size_t i;
  for (i = 0; i < n && i < 8; i++) {
    x = x << 7 | (b[i] & 0x7f);
    if (b[i] < 0x80) {
      *v = x;
      return (int)i + 1;
    }
  }
  if (n < 9) return 0;
  *v = x << 8 | b[8];
  return 9;
}

typedef struct {
  uint64_t type;
  const uint8_t *at;
} field;

/* split finds the fields of a record; it returns their number, -1 if it is none or has too many. */
static int split(const uint8_t *rec, size_t n, field *f) {
  static const uint8_t size[10] = {0, 1, 2, 3, 4, 6, 8, 8, 0, 0};
  uint64_t head;
  int count = 0, k = varint(rec, n, &head);
  const uint8_t *types = rec + k, *end, *body, *stop = rec + n;
  if (k == 0 || head < (uint64_t)k || head > n) return -1;
  end = body = rec + head;
  while (types < end) {
    uint64_t len;
    if (count == TS_BATCH_COLUMNS) return -1;
    k = varint(types, (size_t)(end - types), &f[count].type);
    if (k == 0) return -1;
    types += k;
    if (f[count].type < 10) {
      len = size[f[count].type];
    } else if (f[count].type < 12) {
      return -1;
    } else {
      len = (f[count].type - 12) / 2;
    }
    if (len > (uint64_t)(stop - body) || len > INT32_MAX) return -1;
    f[count++].at = body;
    body += len;
  }
  return body == stop ? count : -1;
}

static int bind(sqlite3_stmt *st, int i, const field *f) {
  uint64_t v = 0;
  double d;
  int n, k;
  switch (f->type) {
    case 0:
      return sqlite3_bind_null(st, i);
    case 7:
      for (k = 0; k < 8; k++) v = v << 8 | f->at[k];
      memcpy(&d, &v, 8);
      return sqlite3_bind_double(st, i, d);
    case 8:
    case 9:
      return sqlite3_bind_int64(st, i, f->type == 9);
    case 1:
    case 2:
    case 3:
    case 4:
    case 5:
    case 6:
      n = f->type == 5 ? 6 : f->type == 6 ? 8 : (int)f->type;
      v = f->at[0] & 0x80 ? ~(uint64_t)0 : 0;
      for (k = 0; k < n; k++) v = v << 8 | f->at[k];
      return sqlite3_bind_int64(st, i, (sqlite3_int64)v);
  }
  n = (int)((f->type - 12) / 2);
  if (f->type & 1) return sqlite3_bind_text(st, i, (const char *)f->at, n, SQLITE_STATIC);
  return sqlite3_bind_blob(st, i, f->at, n, SQLITE_STATIC);
}

/* run_entry returns SQLITE_OK if the entry did what it should, TS_SURPRISE if not, or SQLite's code. */
static int run_entry(sqlite3 *db, const ts_entry *e, const uint8_t *records) {
  const ts_plan *p = e->plan;
  field f[TS_BATCH_COLUMNS];
  int i, rc, n = split(records + e->off, e->len, f);
  if (n < 0) return TS_SURPRISE;
  for (i = 0; i < p->params; i++) {
    int from = p->from[i];
    if (from >= n) return TS_SURPRISE;
    rc = from < 0 ? sqlite3_bind_int64(p->st, i + 1, e->rowid) : bind(p->st, i + 1, &f[from]);
    if (rc != SQLITE_OK) return rc;
  }
  sqlite3_step(p->st);
  rc = sqlite3_reset(p->st);
  if (rc != SQLITE_OK) return rc;
  return p->exact && sqlite3_changes64(db) != 1 ? TS_SURPRISE : SQLITE_OK;
}

/* ts_batch runs entries in order and counts those that did what they should. */
int ts_batch(sqlite3 *db, const ts_entry *e, int n, const uint8_t *records, int *done) {
  int rc = SQLITE_OK, i;
  for (i = 0; i < n; i++) {
    if (i > 0 && e[i].plan != e[i - 1].plan) sqlite3_clear_bindings(e[i - 1].plan->st);
    rc = run_entry(db, &e[i], records);
    if (rc != SQLITE_OK) break;
  }
  *done = i;
  if (n > 0) sqlite3_clear_bindings(e[i < n ? i : n - 1].plan->st);
  return rc;
}

/* ts_plan_new takes the statement over. NULL: no memory; the statement is finalized. */
ts_plan *ts_plan_new(sqlite3_stmt *st, const int16_t *from, int params, int exact) {
  ts_plan *p = malloc(sizeof(*p) + (size_t)params * sizeof(p->from[0]));
  if (p == NULL) {
    sqlite3_finalize(st);
    return NULL;
  }
  p->st = st;
  p->params = params;
  p->exact = exact;
  if (params > 0) memcpy(p->from, from, (size_t)params * sizeof(p->from[0]));
  return p;
}

void ts_plan_free(ts_plan *p) {
  sqlite3_finalize(p->st);
  free(p);
}
