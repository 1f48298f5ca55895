/*
** capture_record.c: SQLite's records, in buffers that grow.
**
** Format: https://sqlite.org/fileformat2.html#record_format. A varint of the
** header's length, its own included; a varint for each column's serial type; the
** values. "before" and "after" of the log and the keys of touched rows are such
** records. What is read back was written here or by Go, and is checked all the same.
**
** Failure: SQLITE_NOMEM, SQLITE_TOOBIG, SQLITE_CORRUPT for what is no record.
*/
#include "captureint.h"

int ts_buf_room(buf *b, int more) {
  if (more < 0 || b->n > 0x7fffffff - more) return SQLITE_TOOBIG;
  int need = b->n + more;
  if (need <= b->cap) return SQLITE_OK;
  int cap = b->cap > 0x3fffffff ? 0x7fffffff : b->cap * 2;
  if (cap < need) cap = need;
  if (cap < 64) cap = 64;
  unsigned char *p = realloc(b->p, (size_t)cap);
  if (p == NULL) return SQLITE_NOMEM;
  b->p = p;
  b->cap = cap;
  return SQLITE_OK;
}

int ts_buf_add(buf *b, const void *p, int n) {
  int rc = ts_buf_room(b, n);
  if (rc != SQLITE_OK) return rc;
  if (n > 0) memcpy(b->p + b->n, p, (size_t)n);
  b->n += n;
  return SQLITE_OK;
}

/* ts_grow makes room for one more element. */
int ts_grow(void **p, uint32_t n, uint32_t *cap, size_t size) {
  if (n < *cap) return SQLITE_OK;
  uint32_t want = *cap ? *cap * 2 : 16;
  if (want < *cap) return SQLITE_NOMEM;
  void *q = realloc(*p, want * size);
  if (q == NULL) return SQLITE_NOMEM;
  *p = q;
  *cap = want;
  return SQLITE_OK;
}

static int varint_len(sqlite3_uint64 v) {
  int n = 1;
  while (v > 0x7f && n < 9) {
    v >>= 7;
    n++;
  }
  return n;
}

static int varint_put(unsigned char *p, sqlite3_uint64 v) {
  int n = varint_len(v), i;
  if (n == 9) {
    p[8] = (unsigned char)v;
    v >>= 8;
    for (i = 7; i >= 0; i--, v >>= 7) p[i] = (unsigned char)((v & 0x7f) | 0x80);
    return 9;
  }
  for (i = n - 1; i >= 0; i--, v >>= 7) p[i] = (unsigned char)((v & 0x7f) | 0x80);
  p[n - 1] &= 0x7f;
  return n;
}

/* varint_get returns the bytes read, 0 if cut off. */
static int varint_get(const unsigned char *p, int n, sqlite3_uint64 *v) {
  sqlite3_uint64 x = 0;
  int i;
  for (i = 0; i < n && i < 8; i++) {
    x = (x << 7) | (p[i] & 0x7f);
    if (p[i] < 0x80) {
      *v = x;
      return i + 1;
    }
  }
  if (i < 8 || n < 9) return 0;
  *v = (x << 8) | p[8];
  return 9;
}

static int int_size(int type) { return type <= 4 ? type : type == 5 ? 6 : 8; }

int ts_int_type(sqlite3_int64 v) {
  sqlite3_int64 m = v < 0 ? ~v : v;
  if (v == 0) return 8;
  if (v == 1) return 9;
  if (m <= 0x7f) return 1;
  if (m <= 0x7fff) return 2;
  if (m <= 0x7fffff) return 3;
  if (m <= 0x7fffffff) return 4;
  if (m <= 0x7fffffffffffLL) return 5;
  return 6;
}

sqlite3_int64 ts_type_size(sqlite3_uint64 t) {
  if (t >= 12) return (sqlite3_int64)((t - 12) / 2);
  if (t == 0 || t >= 8) return 0;
  if (t == 7) return 8;
  return int_size((int)t);
}

static void put_be(unsigned char *p, sqlite3_uint64 v, int n) {
  while (n-- > 0) {
    p[n] = (unsigned char)v;
    v >>= 8;
  }
}

int ts_field_of(sqlite3_value *v, field *f) {
  f->p = NULL;
  f->bits = 0;
  switch (sqlite3_value_type(v)) {
    case SQLITE_INTEGER: {
      sqlite3_int64 i = sqlite3_value_int64(v);
      f->type = (sqlite3_uint64)ts_int_type(i);
      f->bits = (sqlite3_uint64)i;
      return SQLITE_OK;
    }
    case SQLITE_FLOAT: {
      double d = sqlite3_value_double(v);
      f->type = 7;
      memcpy(&f->bits, &d, 8);
      return SQLITE_OK;
    }
    case SQLITE_TEXT:
      f->p = sqlite3_value_text(v);
      if (f->p == NULL) return SQLITE_NOMEM;
      f->type = 13 + 2 * (sqlite3_uint64)sqlite3_value_bytes(v);
      return SQLITE_OK;
    case SQLITE_BLOB:
      f->p = sqlite3_value_blob(v);
      f->type = 12 + 2 * (sqlite3_uint64)sqlite3_value_bytes(v);
      if (f->p == NULL && f->type > 12) return SQLITE_NOMEM;
      return SQLITE_OK;
  }
  f->type = 0;
  return SQLITE_OK;
}

static unsigned char *field_put(unsigned char *p, const field *f) {
  int n = (int)ts_type_size(f->type);
  if (f->p != NULL) {
    memcpy(p, f->p, (size_t)n);
  } else {
    put_be(p, f->bits, n);
  }
  return p + n;
}

int ts_record_put(buf *b, const field *f, int n) {
  sqlite3_int64 types = 0, body = 0, header;
  int i, rc;
  for (i = 0; i < n; i++) {
    types += varint_len(f[i].type);
    body += ts_type_size(f[i].type);
  }
  header = types + 1;
  while (varint_len((sqlite3_uint64)header) != header - types) header = types + varint_len((sqlite3_uint64)header);
  if (header + body > 0x7fffff00) return SQLITE_TOOBIG;
  rc = ts_buf_room(b, (int)(header + body));
  if (rc != SQLITE_OK) return rc;
  unsigned char *p = b->p + b->n;
  p += varint_put(p, (sqlite3_uint64)header);
  for (i = 0; i < n; i++) p += varint_put(p, f[i].type);
  for (i = 0; i < n; i++) p = field_put(p, &f[i]);
  b->n += (int)(header + body);
  return SQLITE_OK;
}

/* ts_record_get splits a record into at most n fields; *count is how many it has. */
int ts_record_get(const unsigned char *p, int len, field *f, int n, int *count) {
  sqlite3_uint64 header, t;
  int at = varint_get(p, len, &header), i = 0;
  *count = 0;
  if (at == 0 || header > (sqlite3_uint64)len || (int)header < at) return SQLITE_CORRUPT;
  const unsigned char *body = p + header, *end = p + len;
  while (at < (int)header) {
    int used = varint_get(p + at, (int)header - at, &t);
    if (used == 0 || t == 10 || t == 11) return SQLITE_CORRUPT;
    at += used;
    sqlite3_int64 size = ts_type_size(t);
    if (size > end - body) return SQLITE_CORRUPT;
    if (i < n) {
      f[i].type = t;
      f[i].bits = 0;
      f[i].p = body; /* as it stands, whatever the type: good for field_put */
    }
    i++;
    body += size;
  }
  *count = i;
  return SQLITE_OK;
}

static sqlite3_int64 get_be(const unsigned char *p, int n) {
  sqlite3_uint64 v = n > 0 && (p[0] & 0x80) ? ~(sqlite3_uint64)0 : 0;
  while (n-- > 0) v = (v << 8) | *p++;
  return (sqlite3_int64)v;
}

int ts_bind_field(sqlite3_stmt *st, int i, const field *f) {
  const unsigned char *p = f->p;
  int n = (int)ts_type_size(f->type);
  if (f->type == 0) return sqlite3_bind_null(st, i);
  if (f->type == 7) {
    sqlite3_uint64 bits = (sqlite3_uint64)get_be(p, 8);
    double d;
    memcpy(&d, &bits, 8);
    return sqlite3_bind_double(st, i, d);
  }
  if (f->type < 7) return sqlite3_bind_int64(st, i, get_be(p, n));
  if (f->type < 10) return sqlite3_bind_int64(st, i, (sqlite3_int64)f->type - 8);
  if (f->type & 1) return sqlite3_bind_text(st, i, n ? (const char *)p : "", n, SQLITE_TRANSIENT);
  if (n == 0) return sqlite3_bind_zeroblob(st, i, 0);
  return sqlite3_bind_blob(st, i, p, n, SQLITE_TRANSIENT);
}

/* ts_row_image encodes the first n columns of a statement's row into b. */
int ts_row_image(sqlite3_stmt *st, int n, buf *b) {
  field few[FIELDS_MAX], *f = few;
  int i, rc = SQLITE_OK;
  b->n = 0;
  if (n > FIELDS_MAX) {
    f = malloc((size_t)n * sizeof(field));
    if (f == NULL) return SQLITE_NOMEM;
  }
  for (i = 0; i < n && rc == SQLITE_OK; i++) {
    rc = ts_field_of(sqlite3_column_value(st, i), &f[i]);
  }
  if (rc == SQLITE_OK) rc = ts_record_put(b, f, n);
  if (f != few) free(f);
  return rc;
}
