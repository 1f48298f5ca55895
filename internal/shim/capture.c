/*
** capture.c: which rows a connection changes, and their log rows.
**
** The hooks below collect, for the open transaction, a superset of the rows it
** touched: (table, rowid), or (table, primary key) for tables WITHOUT ROWID.
** Nothing is decided in a hook. Before COMMIT, inside the transaction, flush
** compares for each touched row the committed image, read through a second
** connection (in WAL mode that one sees the last commit), with the present one,
** and inserts the net effect into turso_cdc. So whatever SQLite undid in between
** (statement aborts, ROLLBACK TO) is right without being watched.
**
** Sources of touches: the pre-update hook when the library has it: complete.
** Otherwise the update hook, and the SQL function ts_touch, which TEMP triggers
** call for what that hook does not report (hooks/careful.go).
**
** A transaction may flush more than once: before each schema statement, and
** again when a COMMIT failed. From then on the image that was logged last, not
** the committed one, is what a row is compared with; `logged` is the stack of
** those log rows, and is cut back when a ROLLBACK TO removed some of them. Tables
** that were created or altered in the transaction have other columns than their
** older images: ts_source and its map say where each column was.
**
** Threads: everything here runs on the thread that uses the connection. `old` is
** shared by all captures of a replica; it is used only by a connection that holds
** the write lock, and the replica's gate lets one such in at a time.
**
** Formats: SQLite's records (https://sqlite.org/fileformat2.html#record_format)
** in "before" and "after".
**
** Failure: result codes, SQLite's or TS_…. A flush that broke off poisons the
** transaction: it can only be rolled back, the commit hook sees to that. The
** same hook refuses every commit that did not come through ts_finish or
** ts_commit_allow, so that raw use of the connection cannot bypass the log.
*/
#include "capture.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct buf {
  unsigned char *p;
  int n, cap;
} buf;

/* flags of an entry */
#define E_DIRTY 1    /* touched since the last flush */
#define E_GONE 2     /* may have been deleted: look before the others */
#define E_INSERTED 4 /* first touch was an insert that cannot have replaced: no committed image */

typedef struct entry {
  sqlite3_int64 rowid;
  uint32_t table;
  uint32_t flags;
  int key;     /* offset of a normalised key in keys, followed by the key itself; -1: by rowid */
  int last;    /* index into logged; -1: none */
  uint32_t hash;
} entry;

typedef struct logrow {
  sqlite3_int64 id;
  uint32_t entry;
  int prev; /* the entry's logrow before */
} logrow;

typedef struct source {
  int table;
  sqlite3_int64 above, upto;
  int *map; /* owned; NULL: same columns */
} source;

typedef struct table {
  char *name;
  int ignored; /* ours or SQLite's own */
  int dirty;   /* entries with E_DIRTY */
  /* WITHOUT ROWID: */
  int nkey;
  int *keycol;  /* columns of the key, in table order of all columns */
  int *keycoll; /* 0 BINARY, 1 NOCASE, 2 RTRIM */
  /* definition, for flush */
  int defined;
  int absent; /* there is no such table now */
  int columns;
  int *identity; /* stored columns of the declared key, where that is not the rowid; NULL */
  int identities;
  char *sql_new, *sql_old, *sql_bulk, *shape_key, *shape_json;
  sqlite3_stmt *get_new, *get_old, *bulk;
  int *old_map;
  sqlite3_int64 shape;
  uint32_t shape_known; /* == capture.shapes: the shape is in turso_sync_state */
  source *sources;
  int source_count;
  buf defaults;
} table;

struct ts_capture {
  sqlite3 *db, *old;
  int preupdate;
  int put_aside; /* hooks of the program that were there first: the first write says so */
  int internal;  /* statements of our own are being prepared or run */
  int replace;   /* the running statement may REPLACE rows */
  int rekey;     /* a statement of this transaction may have changed keys */
  int commit_ok; /* the log is complete: let the commit pass */
  int poisoned;
  int refused;
  int wal_commits;
  int logging;   /* the commit under way holds log rows */
  int committed; /* one that did is done */
  int ddl;   /* schema statements ran in this transaction */
  int watch; /* a rollback undoes what Go believes about the schema */
  int stale; /* and did */
  sqlite3_int64 seen_total; /* sqlite3_total_changes when Go last looked: more means raw use */
  int probed;
  int prev_action;

  table *tables;
  uint32_t ntables, captables;
  uint32_t *names; /* hash of table names: index + 1 */
  uint32_t capnames;
  uint32_t last_table;

  entry *entries;
  uint32_t nentries, capentries;
  uint32_t *slots; /* hash of entries: index + 1 */
  uint32_t capslots;
  buf keys;
  uint32_t ndirty;
  logrow *logged;
  int nlogged, caplogged;

  sqlite3_int64 next_id, first_id, txn_id;
  uint32_t shapes;
  int shapes_written;

  buf before, after, scratch, key;

  char message[200]; /* SQLite's words for what stopped a flush */

  int recording;
  buf actions;
  int deny;
  char deny_what[160];

  int changes_valid;         /* changes is what users must see */
  sqlite3_int64 changes;     /* of the user's last statement */
  sqlite3_int64 start_total; /* sqlite3_total_changes when the running statement started */
  sqlite3_int64 own_changes; /* part of sqlite3_total_changes that is ours */

  uint32_t bulk_first; /* entry of the first row of the bulk statement that runs */
  sqlite3_int64 bulk_rowid;
  /* what is bound in insert */
  const char *bound_table;
  int bound_type;
  sqlite3_int64 bound_shape;

  sqlite3_stmt *begin[2], *commit, *rollback, *cookie, *insert, *shape, *last_id, *max_id, *logged_row;
  sqlite3_stmt *old_begin, *old_commit;
};

/* ---- memory ---- */

static int buf_room(buf *b, int more) {
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

static int buf_add(buf *b, const void *p, int n) {
  int rc = buf_room(b, n);
  if (rc != SQLITE_OK) return rc;
  if (n > 0) memcpy(b->p + b->n, p, (size_t)n);
  b->n += n;
  return SQLITE_OK;
}

/* grow makes room for one more element. */
static int grow(void **p, uint32_t n, uint32_t *cap, size_t size) {
  if (n < *cap) return SQLITE_OK;
  uint32_t want = *cap ? *cap * 2 : 16;
  if (want < *cap) return SQLITE_NOMEM;
  void *q = realloc(*p, want * size);
  if (q == NULL) return SQLITE_NOMEM;
  *p = q;
  *cap = want;
  return SQLITE_OK;
}

/* copy_text and copy_ints return NULL for what is not given; *rc tells when memory ran out instead. */
static char *copy_text(const char *s, int *rc) {
  if (s == NULL) return NULL;
  size_t n = strlen(s) + 1;
  char *p = malloc(n);
  if (p == NULL) *rc = SQLITE_NOMEM;
  if (p) memcpy(p, s, n);
  return p;
}

static int *copy_ints(const int *v, int n, int *rc) {
  if (v == NULL || n <= 0) return NULL;
  int *p = malloc((size_t)n * sizeof(int));
  if (p == NULL) *rc = SQLITE_NOMEM;
  if (p) memcpy(p, v, (size_t)n * sizeof(int));
  return p;
}

/* ---- records ---- */

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

static int int_type(sqlite3_int64 v) {
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

static sqlite3_int64 type_size(sqlite3_uint64 t) {
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

/* A value on its way into a record. */
typedef struct field {
  sqlite3_uint64 type;
  sqlite3_uint64 bits; /* integer or double */
  const void *p;       /* text or blob */
} field;

static int field_of(sqlite3_value *v, field *f) {
  f->p = NULL;
  f->bits = 0;
  switch (sqlite3_value_type(v)) {
    case SQLITE_INTEGER: {
      sqlite3_int64 i = sqlite3_value_int64(v);
      f->type = (sqlite3_uint64)int_type(i);
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
  int n = (int)type_size(f->type);
  if (f->p != NULL) {
    memcpy(p, f->p, (size_t)n);
  } else {
    put_be(p, f->bits, n);
  }
  return p + n;
}

static int record_put(buf *b, const field *f, int n) {
  sqlite3_int64 types = 0, body = 0, header;
  int i, rc;
  for (i = 0; i < n; i++) {
    types += varint_len(f[i].type);
    body += type_size(f[i].type);
  }
  header = types + 1;
  while (varint_len((sqlite3_uint64)header) != header - types) header = types + varint_len((sqlite3_uint64)header);
  if (header + body > 0x7fffff00) return SQLITE_TOOBIG;
  rc = buf_room(b, (int)(header + body));
  if (rc != SQLITE_OK) return rc;
  unsigned char *p = b->p + b->n;
  p += varint_put(p, (sqlite3_uint64)header);
  for (i = 0; i < n; i++) p += varint_put(p, f[i].type);
  for (i = 0; i < n; i++) p = field_put(p, &f[i]);
  b->n += (int)(header + body);
  return SQLITE_OK;
}

/* record_get splits a record into at most n fields; *count is how many it has. */
static int record_get(const unsigned char *p, int len, field *f, int n, int *count) {
  sqlite3_uint64 header, t;
  int at = varint_get(p, len, &header), i = 0;
  *count = 0;
  if (at == 0 || header > (sqlite3_uint64)len || (int)header < at) return SQLITE_CORRUPT;
  const unsigned char *body = p + header, *end = p + len;
  while (at < (int)header) {
    int used = varint_get(p + at, (int)header - at, &t);
    if (used == 0 || t == 10 || t == 11) return SQLITE_CORRUPT;
    at += used;
    sqlite3_int64 size = type_size(t);
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

static int bind_field(sqlite3_stmt *st, int i, const field *f) {
  const unsigned char *p = f->p;
  int n = (int)type_size(f->type);
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

#define FIELDS_MAX 64 /* on the stack; more are allocated */

/* row_image encodes the first n columns of a statement's row into b. */
static int row_image(sqlite3_stmt *st, int n, buf *b) {
  field few[FIELDS_MAX], *f = few;
  int i, rc = SQLITE_OK;
  b->n = 0;
  if (n > FIELDS_MAX) {
    f = malloc((size_t)n * sizeof(field));
    if (f == NULL) return SQLITE_NOMEM;
  }
  for (i = 0; i < n && rc == SQLITE_OK; i++) {
    rc = field_of(sqlite3_column_value(st, i), &f[i]);
  }
  if (rc == SQLITE_OK) rc = record_put(b, f, n);
  if (f != few) free(f);
  return rc;
}

/* remap turns an image with older columns into one with the present ones. */
static int remap(ts_capture *c, table *t, const int *map, buf *b) {
  int n = t->columns, have, ndef = 0, i, rc;
  field *f, *src, *def;
  int max = 0;
  if (map == NULL) return SQLITE_OK;
  for (i = 0; i < n; i++) {
    int m = map[i] < 0 ? -map[i] : map[i] + 1;
    if (m > max) max = m;
  }
  f = calloc((size_t)(n + 2 * max + 1), sizeof(field));
  if (f == NULL) return SQLITE_NOMEM;
  src = f + n;
  def = src + max;
  rc = record_get(b->p, b->n, src, max, &have);
  if (rc == SQLITE_OK && t->defaults.n > 0) rc = record_get(t->defaults.p, t->defaults.n, def, max, &ndef);
  for (i = 0; i < n && rc == SQLITE_OK; i++) {
    if (map[i] >= 0 ? map[i] >= have : -1 - map[i] >= ndef) {
      rc = SQLITE_CORRUPT;
    } else {
      f[i] = map[i] >= 0 ? src[map[i]] : def[-1 - map[i]];
    }
  }
  c->scratch.n = 0;
  if (rc == SQLITE_OK) rc = record_put(&c->scratch, f, n);
  if (rc == SQLITE_OK) {
    buf swap = *b;
    *b = c->scratch;
    c->scratch = swap;
  }
  free(f);
  return rc;
}

/* ---- tables by name ---- */

static uint32_t hash_bytes(uint32_t h, const void *p, int n) {
  const unsigned char *s = p;
  while (n-- > 0) h = (h ^ *s++) * 16777619u;
  return h;
}

static int has_prefix(const char *s, const char *prefix) { return sqlite3_strnicmp(s, prefix, (int)strlen(prefix)) == 0; }

/* ours tells whether a table belongs to the synchronisation (cdc.Internal). */
static int ours(const char *name) {
  if (name == NULL) return 0;
  if (has_prefix(name, "__turso_internal_")) return 1;
  if (!has_prefix(name, "turso_")) return 0;
  return sqlite3_stricmp(name, "turso_cdc") == 0 || sqlite3_stricmp(name, "turso_sync_state") == 0 ||
         sqlite3_stricmp(name, "turso_sync_rejected") == 0 || sqlite3_stricmp(name, "turso_sync_last_change_id") == 0;
}

static int names_rehash(ts_capture *c) {
  uint32_t cap = c->capnames ? c->capnames * 2 : 64, i;
  uint32_t *slots = calloc(cap, sizeof(uint32_t));
  if (slots == NULL) return SQLITE_NOMEM;
  for (i = 0; i < c->ntables; i++) {
    const char *name = c->tables[i].name;
    uint32_t h = hash_bytes(2166136261u, name, (int)strlen(name)) & (cap - 1);
    while (slots[h]) h = (h + 1) & (cap - 1);
    slots[h] = i + 1;
  }
  free(c->names);
  c->names = slots;
  c->capnames = cap;
  return SQLITE_OK;
}

/* table_index finds or adds a table; -1: no memory. */
static int table_index(ts_capture *c, const char *name) {
  uint32_t h;
  if (c->last_table < c->ntables && strcmp(c->tables[c->last_table].name, name) == 0) return (int)c->last_table;
  if (c->ntables * 2 >= c->capnames && names_rehash(c) != SQLITE_OK) return -1;
  h = hash_bytes(2166136261u, name, (int)strlen(name)) & (c->capnames - 1);
  while (c->names[h]) {
    uint32_t i = c->names[h] - 1;
    if (strcmp(c->tables[i].name, name) == 0) {
      c->last_table = i;
      return (int)i;
    }
    h = (h + 1) & (c->capnames - 1);
  }
  if (grow((void **)&c->tables, c->ntables, &c->captables, sizeof(table)) != SQLITE_OK) return -1;
  table *t = &c->tables[c->ntables];
  int rc = SQLITE_OK;
  memset(t, 0, sizeof(*t));
  t->name = copy_text(name, &rc);
  if (rc != SQLITE_OK) return -1;
  t->ignored = ours(name) || has_prefix(name, "sqlite_");
  c->last_table = c->ntables;
  c->names[h] = ++c->ntables;
  return (int)c->last_table;
}

static void table_undefine(table *t) {
  int i;
  sqlite3_finalize(t->get_new);
  sqlite3_finalize(t->get_old);
  sqlite3_finalize(t->bulk);
  free(t->sql_new);
  free(t->sql_old);
  free(t->sql_bulk);
  free(t->shape_key);
  free(t->shape_json);
  free(t->old_map);
  free(t->identity);
  t->identity = NULL;
  for (i = 0; i < t->source_count; i++) free(t->sources[i].map);
  free(t->sources);
  t->get_new = t->get_old = t->bulk = NULL;
  t->sql_new = t->sql_old = t->sql_bulk = t->shape_key = t->shape_json = NULL;
  t->old_map = NULL;
  t->sources = NULL;
  t->source_count = 0;
  t->defaults.n = 0;
  t->shape_known = 0;
  t->defined = t->absent = 0;
}

static void table_unkey(table *t) {
  free(t->keycol);
  free(t->keycoll);
  t->keycol = t->keycoll = NULL;
  t->nkey = 0;
}

/* ---- touched rows ---- */

static int slots_rehash(ts_capture *c, uint32_t cap) {
  uint32_t i, *slots = calloc(cap, sizeof(uint32_t));
  if (slots == NULL) return SQLITE_NOMEM;
  for (i = 0; i < c->nentries; i++) {
    uint32_t h = c->entries[i].hash & (cap - 1);
    while (slots[h]) h = (h + 1) & (cap - 1);
    slots[h] = i + 1;
  }
  free(c->slots);
  c->slots = slots;
  c->capslots = cap;
  return SQLITE_OK;
}

static uint32_t hash_rowid(uint32_t table, sqlite3_int64 rowid) {
  sqlite3_uint64 x = (sqlite3_uint64)rowid * 0x9e3779b97f4a7c15ULL + (sqlite3_uint64)table * 0xc2b2ae3d27d4eb4fULL;
  return (uint32_t)(x >> 32);
}

/* A key in keys: int length of the normalised record, that record, int length
** of the key as first seen, that record. */
static int key_len(ts_capture *c, int at) {
  int n;
  memcpy(&n, c->keys.p + at, sizeof(n));
  return n;
}

static int same_key(ts_capture *c, int at, const buf *k) {
  return key_len(c, at) == k->n && memcmp(c->keys.p + at + sizeof(int), k->p, (size_t)k->n) == 0;
}

static const unsigned char *raw_key(ts_capture *c, const entry *e, int *n) {
  int at = e->key + (int)sizeof(int) + key_len(c, e->key);
  *n = key_len(c, at);
  return c->keys.p + at + sizeof(int);
}

/* entry_find returns the slot of an entry, empty if it is not there. */
static uint32_t entry_find(ts_capture *c, uint32_t table, sqlite3_int64 rowid, const buf *key, uint32_t hash) {
  uint32_t h = hash & (c->capslots - 1);
  while (c->slots[h]) {
    entry *e = &c->entries[c->slots[h] - 1];
    if (e->hash == hash && e->table == table) {
      if (key == NULL ? e->key < 0 && e->rowid == rowid : e->key >= 0 && same_key(c, e->key, key)) break;
    }
    h = (h + 1) & (c->capslots - 1);
  }
  return h;
}

/* touch notes a row; key is its normalised and raw its own key, or NULL. */
static int touch(ts_capture *c, uint32_t ti, sqlite3_int64 rowid, const buf *key, const buf *raw, uint32_t flags) {
  uint32_t hash, slot;
  entry *e;
  int rc;
  if (c->tables[ti].ignored) return SQLITE_OK;
  if ((c->nentries + 1) * 2 > c->capslots && (rc = slots_rehash(c, c->capslots ? c->capslots * 2 : 64)) != SQLITE_OK) return rc;
  hash = key ? hash_bytes(2166136261u ^ (ti * 0x9e3779b9u), key->p, key->n) : hash_rowid(ti, rowid);
  slot = entry_find(c, ti, rowid, key, hash);
  if (c->slots[slot] == 0) {
    if ((rc = grow((void **)&c->entries, c->nentries, &c->capentries, sizeof(entry))) != SQLITE_OK) return rc;
    e = &c->entries[c->nentries];
    e->rowid = rowid;
    e->table = ti;
    e->flags = flags & E_INSERTED;
    e->key = -1;
    e->last = -1;
    e->hash = hash;
    if (key != NULL) {
      e->key = c->keys.n;
      rc = buf_add(&c->keys, &key->n, sizeof(int));
      if (rc == SQLITE_OK) rc = buf_add(&c->keys, key->p, key->n);
      if (rc == SQLITE_OK) rc = buf_add(&c->keys, &raw->n, sizeof(int));
      if (rc == SQLITE_OK) rc = buf_add(&c->keys, raw->p, raw->n);
      if (rc != SQLITE_OK) return rc;
    }
    c->slots[slot] = ++c->nentries;
  } else {
    e = &c->entries[c->slots[slot] - 1];
  }
  if (!(e->flags & E_DIRTY)) {
    c->tables[ti].dirty++;
    c->ndirty++;
  }
  e->flags |= E_DIRTY | (flags & E_GONE);
  return SQLITE_OK;
}

/* normalise makes keys that SQLite holds for equal equal byte for byte. */
static int normalise(field *f, int coll, buf *text) {
  if (f->type == 7) {
    double d;
    memcpy(&d, &f->bits, 8);
    if (d >= -9223372036854775808.0 && d < 9223372036854775808.0 && (double)(sqlite3_int64)d == d) {
      sqlite3_int64 i = (sqlite3_int64)d;
      f->type = (sqlite3_uint64)int_type(i);
      f->bits = (sqlite3_uint64)i;
    }
  } else if (f->type >= 13 && (f->type & 1) && coll != 0) {
    int n = (int)type_size(f->type), i, at = text->n;
    const unsigned char *p = f->p;
    /* f->p of earlier fields points into text: it must not move */
    if (text->n + n > text->cap) return SQLITE_TOOBIG;
    if (coll == 2) {
      while (n > 0 && p[n - 1] == ' ') n--;
    }
    /* NOCASE looks at the text up to the first NUL, and at the whole length. */
    int nul = 0;
    for (i = 0; i < n; i++) {
      unsigned char ch = p[i];
      if (coll == 1) {
        nul = nul || ch == 0;
        ch = nul ? 0 : ch >= 'A' && ch <= 'Z' ? ch + 'a' - 'A' : ch;
      }
      text->p[at + i] = ch;
    }
    text->n += n;
    f->p = text->p + at;
    f->type = 13 + 2 * (sqlite3_uint64)n;
  }
  return SQLITE_OK;
}

/* touch_key notes a row of a table WITHOUT ROWID. */
static int touch_key(ts_capture *c, uint32_t ti, sqlite3_value **v, uint32_t flags) {
  table *t = &c->tables[ti];
  field few[FIELDS_MAX], *f = few;
  int i, rc = SQLITE_OK, room = 0;
  if (t->nkey > FIELDS_MAX) {
    f = malloc((size_t)t->nkey * sizeof(field));
    if (f == NULL) return SQLITE_NOMEM;
  }
  for (i = 0; i < t->nkey && rc == SQLITE_OK; i++) {
    rc = field_of(v[i], &f[i]);
    if (rc == SQLITE_OK) room += (int)type_size(f[i].type);
  }
  c->before.n = c->key.n = c->scratch.n = 0;
  if (rc == SQLITE_OK) rc = record_put(&c->before, f, t->nkey);
  if (rc == SQLITE_OK) rc = buf_room(&c->scratch, room + 1);
  for (i = 0; i < t->nkey && rc == SQLITE_OK; i++) rc = normalise(&f[i], t->keycoll[i], &c->scratch);
  if (rc == SQLITE_OK) rc = record_put(&c->key, f, t->nkey);
  if (rc == SQLITE_OK) rc = touch(c, ti, 0, &c->key, &c->before, flags);
  if (f != few) free(f);
  return rc;
}

void ts_capture_reset(ts_capture *c) {
  uint32_t i;
  for (i = 0; i < c->ntables; i++) c->tables[i].dirty = 0;
  if (c->capslots > 4096) {
    /* after a large transaction: give memory back, and do not clear it each time */
    free(c->slots);
    free(c->entries);
    free(c->keys.p);
    free(c->logged);
    c->slots = NULL;
    c->entries = NULL;
    c->keys.p = NULL;
    c->logged = NULL;
    c->capslots = c->capentries = 0;
    c->keys.cap = c->caplogged = 0;
  } else if (c->nentries > 16) {
    if (c->slots) memset(c->slots, 0, c->capslots * sizeof(uint32_t));
  } else {
    for (i = 0; i < c->nentries; i++) {
      uint32_t h = c->entries[i].hash & (c->capslots - 1);
      while (c->slots[h]) {
        c->slots[h] = 0;
        h = (h + 1) & (c->capslots - 1);
      }
    }
  }
  if (c->before.cap + c->after.cap + c->scratch.cap > 1 << 20) {
    free(c->before.p);
    free(c->after.p);
    free(c->scratch.p);
    memset(&c->before, 0, sizeof(buf));
    memset(&c->after, 0, sizeof(buf));
    memset(&c->scratch, 0, sizeof(buf));
  }
  c->nentries = c->ndirty = 0;
  c->keys.n = 0;
  c->nlogged = 0;
  c->txn_id = 0;
  c->ddl = c->watch = c->rekey = 0;
  c->poisoned = 0;
  c->shapes_written = 0;
}

/* ---- hooks ---- */

/* A hook that cannot note a touch (no memory) must not let the change pass. */
static void fail(ts_capture *c, int rc) {
  if (rc != SQLITE_OK) c->poisoned = 1;
}

static void on_update(void *arg, int op, const char *db, const char *name, sqlite3_int64 rowid) {
  ts_capture *c = arg;
  int ti;
  if (c->internal || strcmp(db, "main") != 0) return;
  ti = table_index(c, name);
  if (ti < 0) {
    c->poisoned = 1;
    return;
  }
  fail(c, touch(c, (uint32_t)ti, rowid, NULL, NULL,
                op == SQLITE_DELETE ? E_GONE : op == SQLITE_INSERT && !c->replace ? E_INSERTED : 0));
}

static int touch_old_new(ts_capture *c, uint32_t ti, int is_new, uint32_t flags) {
  table *t = &c->tables[ti];
  sqlite3_value *few[FIELDS_MAX], **v = few;
  int i, rc = SQLITE_OK;
  if (t->nkey > FIELDS_MAX) {
    v = malloc((size_t)t->nkey * sizeof(*v));
    if (v == NULL) return SQLITE_NOMEM;
  }
  for (i = 0; i < t->nkey && rc == SQLITE_OK; i++) {
    rc = is_new ? sqlite3_preupdate_new(c->db, t->keycol[i], &v[i]) : sqlite3_preupdate_old(c->db, t->keycol[i], &v[i]);
  }
  if (rc == SQLITE_OK) rc = touch_key(c, ti, v, flags);
  if (v != few) free(v);
  return rc;
}

static void on_preupdate(void *arg, sqlite3 *handle, int op, const char *db, const char *name, sqlite3_int64 rowid,
                         sqlite3_int64 new_rowid) {
  ts_capture *c = arg;
  int ti;
  (void)handle;
  if (c->internal || strcmp(db, "main") != 0) return;
  ti = table_index(c, name);
  if (ti < 0) {
    c->poisoned = 1;
    return;
  }
  if (c->tables[ti].nkey > 0) {
    if (op != SQLITE_INSERT) fail(c, touch_old_new(c, (uint32_t)ti, 0, E_GONE));
    if (op != SQLITE_DELETE) fail(c, touch_old_new(c, (uint32_t)ti, 1, 0));
    return;
  }
  if (op == SQLITE_INSERT) {
    /* A row displaced on the same rowid was reported before. */
    fail(c, touch(c, (uint32_t)ti, new_rowid, NULL, NULL, c->replace ? 0 : E_INSERTED));
    return;
  }
  fail(c, touch(c, (uint32_t)ti, rowid, NULL, NULL, op == SQLITE_DELETE || rowid != new_rowid ? E_GONE : 0));
  if (op == SQLITE_UPDATE && rowid != new_rowid) fail(c, touch(c, (uint32_t)ti, new_rowid, NULL, NULL, 0));
}

/* ts_touch(table, rowid) or ts_touch(table, key…), called by our TEMP triggers. */
static void touch_func(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  ts_capture *c = sqlite3_user_data(ctx);
  const char *name = argc > 1 ? (const char *)sqlite3_value_text(argv[0]) : NULL;
  int ti = name ? table_index(c, name) : -1, rc;
  if (ti < 0) {
    sqlite3_result_error_code(ctx, name ? SQLITE_NOMEM : SQLITE_MISUSE);
    return;
  }
  if (c->tables[ti].nkey == 0) {
    rc = touch(c, (uint32_t)ti, sqlite3_value_int64(argv[1]), NULL, NULL, E_GONE);
  } else if (c->tables[ti].nkey == argc - 1) {
    rc = touch_key(c, (uint32_t)ti, argv + 1, E_GONE);
  } else {
    rc = SQLITE_MISUSE;
  }
  if (rc != SQLITE_OK) sqlite3_result_error_code(ctx, rc);
}

static int on_commit(void *arg) {
  ts_capture *c = arg;
  c->logging = c->txn_id != 0;
  if (c->commit_ok && !c->poisoned) return 0;
  if (sqlite3_txn_state(c->db, "main") != SQLITE_TXN_WRITE) return 0;
  c->refused = 1;
  return 1;
}

static void on_rollback(void *arg) {
  ts_capture *c = arg;
  if (c->shapes_written) c->shapes++;
  if (c->watch) c->stale = 1;
  ts_capture_reset(c);
}

static int on_wal(void *arg, sqlite3 *db, const char *name, int frames) {
  ts_capture *c = arg;
  (void)db;
  (void)frames;
  /* No checkpoint from here: the replica alone does that. */
  if (strcmp(name, "main") != 0) return SQLITE_OK;
  c->wal_commits++;
  if (c->logging) c->committed = 1;
  return SQLITE_OK;
}

/* The authorizer's action codes that matter here, https://sqlite.org/c3ref/c_alter_table.html */
enum {
  A_CREATE_INDEX = 1,
  A_CREATE_TABLE = 2,
  A_CREATE_TEMP_TRIGGER = 5,
  A_CREATE_TRIGGER = 7,
  A_DELETE = 9,
  A_DROP_INDEX = 10,
  A_DROP_TABLE = 11,
  A_DROP_TEMP_TABLE = 13,
  A_DROP_TEMP_VIEW = 15,
  A_DROP_TRIGGER = 16,
  A_DROP_VIEW = 17,
  A_INSERT = 18,
  A_PRAGMA = 19,
  A_READ = 20,
  A_SELECT = 21,
  A_UPDATE = 23,
  A_ALTER_TABLE = 26,
  A_CREATE_VTABLE = 29,
  A_DROP_VTABLE = 30,
  A_FUNCTION = 31,
  A_RECURSIVE = 33
};

static int record_action(ts_capture *c, int action, const char **s) {
  unsigned char code = (unsigned char)action;
  int i, rc = buf_add(&c->actions, &code, 1);
  for (i = 0; i < 4 && rc == SQLITE_OK; i++) {
    const char *t = s[i] ? s[i] : "";
    unsigned char present = s[i] != NULL;
    rc = buf_add(&c->actions, &present, 1);
    if (rc == SQLITE_OK) rc = buf_add(&c->actions, t, (int)strlen(t) + 1);
  }
  return rc;
}

static int deny(ts_capture *c, int why, const char *what, const char *value) {
  if (c->recording) {
    c->deny = why;
    int n = 0;
    const char *parts[3] = {what ? what : "", value ? "=" : "", value ? value : ""};
    for (int i = 0; i < 3; i++) {
      for (const char *p = parts[i]; *p && n < (int)sizeof(c->deny_what) - 1; p++) c->deny_what[n++] = *p;
    }
    c->deny_what[n] = 0;
  }
  return SQLITE_DENY;
}

static int off(const char *v) {
  return sqlite3_stricmp(v, "0") == 0 || sqlite3_stricmp(v, "off") == 0 || sqlite3_stricmp(v, "no") == 0 ||
         sqlite3_stricmp(v, "false") == 0;
}

static int authorize_pragma(ts_capture *c, const char *name, const char *value, const char *db) {
  if (db != NULL && sqlite3_stricmp(db, "main") != 0) return SQLITE_OK;
  if (sqlite3_stricmp(name, "wal_checkpoint") == 0) return SQLITE_IGNORE;
  if (value == NULL) return SQLITE_OK;
  if (sqlite3_stricmp(name, "wal_autocheckpoint") == 0) return SQLITE_IGNORE;
  if ((sqlite3_stricmp(name, "journal_mode") == 0 && sqlite3_stricmp(value, "wal") != 0) ||
      (sqlite3_stricmp(name, "locking_mode") == 0 && sqlite3_stricmp(value, "exclusive") == 0) ||
      (sqlite3_stricmp(name, "writable_schema") == 0 && !off(value)) || sqlite3_stricmp(name, "schema_version") == 0) {
    return deny(c, TS_DENY_PRAGMA, name, value);
  }
  return SQLITE_OK;
}

static int is_main(const char *db) { return db != NULL && sqlite3_stricmp(db, "main") == 0; }

static int on_authorize(void *arg, int action, const char *a, const char *b, const char *db, const char *trigger) {
  ts_capture *c = arg;
  int prev = c->prev_action;
  c->probed = 1;
  if (c->internal || action == A_READ || action == A_SELECT || action == A_RECURSIVE) return SQLITE_OK;
  if (action == A_FUNCTION) {
    if (b == NULL || sqlite3_stricmp(b, "ts_touch") != 0) return SQLITE_OK;
    return trigger != NULL && has_prefix(trigger, "__turso_internal_") ? SQLITE_OK : SQLITE_DENY;
  }
  c->prev_action = action;
  if (c->recording) {
    const char *s[4] = {a, b, db, trigger};
    if (record_action(c, action, s) != SQLITE_OK) return SQLITE_DENY;
  }
  switch (action) {
    case A_INSERT:
    case A_UPDATE:
    case A_DELETE:
      if (!is_main(db)) return SQLITE_OK;
      if (ours(a)) return deny(c, TS_DENY_INTERNAL, a, NULL);
      /* IGNORE for a DELETE turns the truncate optimisation off, so that each row
      ** is reported. DROP asks too, and would silently do nothing. */
      if (action != A_DELETE || has_prefix(a, "sqlite_")) return SQLITE_OK;
      if (prev == A_DROP_TABLE || prev == A_DROP_VIEW || prev == A_DROP_VTABLE) return SQLITE_OK;
      return SQLITE_IGNORE;
    case A_CREATE_TABLE:
    case A_DROP_TABLE:
      return is_main(db) && ours(a) ? deny(c, TS_DENY_INTERNAL, a, NULL) : SQLITE_OK;
    case A_CREATE_INDEX:
    case A_DROP_INDEX:
    case A_CREATE_TRIGGER:
    case A_DROP_TRIGGER:
    case A_CREATE_TEMP_TRIGGER:
      if (has_prefix(a, "__turso_internal_")) return deny(c, TS_DENY_INTERNAL, a, NULL);
      return ours(b) ? deny(c, TS_DENY_INTERNAL, b, NULL) : SQLITE_OK;
    case A_ALTER_TABLE:
      return is_main(a) && ours(b) ? deny(c, TS_DENY_INTERNAL, b, NULL) : SQLITE_OK;
    case A_CREATE_VTABLE:
    case A_DROP_VTABLE:
      return is_main(db) ? deny(c, TS_DENY_VIRTUAL, a, NULL) : SQLITE_OK;
    case A_PRAGMA:
      return authorize_pragma(c, a, b, db);
  }
  return SQLITE_OK;
}

/*
** Users' SQL must not see that we insert log rows: changes() and total_changes()
** are ours. last_insert_rowid() needs no function, it can be set back.
*/
static void changes_func(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  sqlite3_int64 changes, total, rowid;
  (void)argc;
  (void)argv;
  ts_changes(sqlite3_user_data(ctx), &changes, &total, &rowid);
  sqlite3_result_int64(ctx, changes);
}

static void total_changes_func(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  sqlite3_int64 changes, total, rowid;
  (void)argc;
  (void)argv;
  ts_changes(sqlite3_user_data(ctx), &changes, &total, &rowid);
  sqlite3_result_int64(ctx, total);
}

void ts_changes(ts_capture *c, sqlite3_int64 *changes, sqlite3_int64 *total, sqlite3_int64 *rowid) {
  sqlite3_int64 all = sqlite3_total_changes64(c->db);
  *changes = c->changes_valid || all == c->start_total ? c->changes : sqlite3_changes64(c->db);
  *total = all - c->own_changes;
  *rowid = sqlite3_last_insert_rowid(c->db);
}

/* user_runs: SQLite counts the changes of a statement of the user from here on;
** not counts: it is of a kind that is not counted. */
static void user_runs(ts_capture *c, int counts) {
  c->changes_valid = !counts;
  c->start_total = sqlite3_total_changes64(c->db);
}

/* user_ran: it has ended. */
static void user_ran(ts_capture *c) {
  if (c->changes_valid) return;
  c->changes = sqlite3_changes64(c->db);
  c->changes_valid = 1;
}

/* Between hide and unhide, statements of our own run. */
typedef struct hidden {
  sqlite3_int64 total, rowid;
} hidden;

/* hide_reads is for our own that change nothing: the user's may be about to run. */
static hidden hide_reads(ts_capture *c) {
  hidden h;
  /* Every call below takes this mutex; to hold it already makes that cheap. */
  sqlite3_mutex_enter(sqlite3_db_mutex(c->db));
  h.total = sqlite3_total_changes64(c->db);
  h.rowid = sqlite3_last_insert_rowid(c->db);
  c->internal++;
  return h;
}

static hidden hide(ts_capture *c) {
  user_ran(c);
  return hide_reads(c);
}

static void unhide(ts_capture *c, hidden h) {
  c->internal--;
  c->own_changes += sqlite3_total_changes64(c->db) - h.total;
  sqlite3_set_last_insert_rowid(c->db, h.rowid);
  sqlite3_mutex_leave(sqlite3_db_mutex(c->db));
}

/* ---- open and close ---- */

/* upgrade_text takes the write lock inside a transaction and changes nothing. */
#define upgrade_text "DELETE FROM main.turso_sync_state WHERE key IS NULL"

static void log_id_func(sqlite3_context *ctx, int argc, sqlite3_value **argv);
static void record_func(sqlite3_context *ctx, int argc, sqlite3_value **argv);

static int set_hooks(ts_capture *c) {
  int displaced = 0;
  if (sqlite3_commit_hook(c->db, on_commit, c) != c) displaced |= TS_HOOK_COMMIT;
  if (sqlite3_rollback_hook(c->db, on_rollback, c) != c) displaced |= TS_HOOK_ROLLBACK;
  if (sqlite3_wal_hook(c->db, on_wal, c) != c) displaced |= TS_HOOK_WAL;
  if (c->preupdate) {
    if (sqlite3_preupdate_hook(c->db, on_preupdate, c) != c) displaced |= TS_HOOK_PREUPDATE;
  } else if (sqlite3_update_hook(c->db, on_update, c) != c) {
    displaced |= TS_HOOK_UPDATE;
  }
  return displaced;
}

/*
** ts_capture_check puts our hooks back and returns those that were not there
** (TS_HOOK_…). The authorizer cannot be asked for; with probe a statement is
** prepared to see whether ours is called.
*/
int ts_capture_check(ts_capture *c, int probe) {
  int displaced = set_hooks(c);
  if (probe) {
    sqlite3_stmt *st = NULL;
    int rc;
    c->probed = 0;
    c->internal++;
    rc = sqlite3_prepare_v2(c->db, "BEGIN", -1, &st, NULL);
    sqlite3_finalize(st);
    c->internal--;
    /* An interrupt that is still in force keeps it from being prepared at all. */
    if (!c->probed && rc != SQLITE_INTERRUPT) displaced |= TS_HOOK_AUTHORIZER;
  }
  if (displaced & TS_HOOK_AUTHORIZER) sqlite3_set_authorizer(c->db, on_authorize, c);
  return displaced;
}

/* ts_capture_preupdate tells whether the library has the pre-update hook. */
int ts_capture_preupdate(void) {
  return sqlite3_preupdate_hook != NULL && sqlite3_preupdate_old != NULL && sqlite3_preupdate_new != NULL;
}

int ts_capture_open(sqlite3 *db, sqlite3 *old, ts_capture **out) {
  ts_capture *c = calloc(1, sizeof(*c));
  int rc, flags = SQLITE_UTF8 | SQLITE_INNOCUOUS;
  *out = NULL;
  if (c == NULL) return SQLITE_NOMEM;
  c->db = db;
  c->old = old;
  c->shapes = 1;
  c->replace = 1;
  c->changes = sqlite3_changes64(db);
  c->changes_valid = 1;
  c->preupdate = ts_capture_preupdate();
  rc = sqlite3_create_function_v2(db, "changes", 0, flags, c, changes_func, NULL, NULL, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_create_function_v2(db, "total_changes", 0, flags, c, total_changes_func, NULL, NULL, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_create_function_v2(db, "ts_touch", -1, flags, c, touch_func, NULL, NULL, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_create_function_v2(db, "ts_log_id", 1, SQLITE_UTF8, c, log_id_func, NULL, NULL, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_create_function_v2(db, "ts_record", -1, SQLITE_UTF8, c, record_func, NULL, NULL, NULL);
  if (rc != SQLITE_OK) {
    free(c);
    return rc;
  }
  /* The WAL hook is SQLite's own until somebody takes it. */
  if (sqlite3_commit_hook(db, on_commit, c) != NULL) c->put_aside |= TS_HOOK_COMMIT;
  if (sqlite3_rollback_hook(db, on_rollback, c) != NULL) c->put_aside |= TS_HOOK_ROLLBACK;
  if (c->preupdate) {
    if (sqlite3_preupdate_hook(db, on_preupdate, c) != NULL) c->put_aside |= TS_HOOK_PREUPDATE;
  } else if (sqlite3_update_hook(db, on_update, c) != NULL) {
    c->put_aside |= TS_HOOK_UPDATE;
  }
  set_hooks(c);
  sqlite3_set_authorizer(db, on_authorize, c);
  ts_capture_arm(c);
  *out = c;
  return SQLITE_OK;
}

/* ts_capture_close takes the hooks off and frees everything. */
void ts_capture_close(ts_capture *c) {
  uint32_t i;
  sqlite3_stmt **st[] = {&c->begin[0], &c->begin[1], &c->commit, &c->rollback, &c->cookie, &c->insert, &c->shape,
                         &c->last_id, &c->max_id, &c->logged_row, &c->old_begin, &c->old_commit};
  for (i = 0; i < sizeof(st) / sizeof(st[0]); i++) sqlite3_finalize(*st[i]);
  for (i = 0; i < c->ntables; i++) {
    table_undefine(&c->tables[i]);
    table_unkey(&c->tables[i]);
    free(c->tables[i].defaults.p);
    free(c->tables[i].name);
  }
  sqlite3_commit_hook(c->db, NULL, NULL);
  sqlite3_rollback_hook(c->db, NULL, NULL);
  sqlite3_wal_hook(c->db, NULL, NULL);
  if (c->preupdate) {
    sqlite3_preupdate_hook(c->db, NULL, NULL);
  } else {
    sqlite3_update_hook(c->db, NULL, NULL);
  }
  sqlite3_set_authorizer(c->db, NULL, NULL);
  sqlite3_create_function_v2(c->db, "changes", 0, SQLITE_UTF8, NULL, NULL, NULL, NULL, NULL);
  sqlite3_create_function_v2(c->db, "total_changes", 0, SQLITE_UTF8, NULL, NULL, NULL, NULL, NULL);
  sqlite3_create_function_v2(c->db, "ts_touch", -1, SQLITE_UTF8, NULL, NULL, NULL, NULL, NULL);
  sqlite3_create_function_v2(c->db, "ts_log_id", 1, SQLITE_UTF8, NULL, NULL, NULL, NULL, NULL);
  sqlite3_create_function_v2(c->db, "ts_record", -1, SQLITE_UTF8, NULL, NULL, NULL, NULL, NULL);
  free(c->tables);
  free(c->names);
  free(c->entries);
  free(c->slots);
  free(c->logged);
  free(c->keys.p);
  free(c->before.p);
  free(c->after.p);
  free(c->scratch.p);
  free(c->key.p);
  free(c->actions.p);
  free(c);
}

/*
** ts_capture_arm prepares anew what roll_back_interrupted needs: changes of the
** temporary schema make all statements expire, and an interrupted connection
** prepares none. Without it a rollback may have to wait until the rows are closed.
*/
void ts_capture_arm(ts_capture *c) {
  sqlite3_stmt **st = &c->begin[TS_BEGIN_UPGRADE];
  sqlite3_finalize(*st);
  *st = NULL;
  c->internal++;
  if (sqlite3_prepare_v3(c->db, upgrade_text, -1, SQLITE_PREPARE_PERSISTENT, st, NULL) != SQLITE_OK) *st = NULL;
  c->internal--;
}

/* ts_capture_internal: what runs until it is turned off is not the user's. */
void ts_capture_internal(ts_capture *c, int on) { c->internal += on ? 1 : -1; }

/* ---- definitions ---- */

/* ts_forget_tables: the schema has changed; flush will ask for definitions. */
void ts_forget_tables(ts_capture *c) {
  uint32_t i;
  for (i = 0; i < c->ntables; i++) table_undefine(&c->tables[i]);
}

/* ts_forget_shapes: turso_sync_state may have lost shapes. */
void ts_forget_shapes(ts_capture *c) { c->shapes++; }

/* ts_define gives a table's definition; everything is copied. */
int ts_define(ts_capture *c, const ts_table *d) {
  int i, ti = table_index(c, d->name), rc = SQLITE_OK;
  table *t;
  if (ti < 0) return SQLITE_NOMEM;
  table_undefine(&c->tables[ti]);
  if (d->sql_new == NULL) {
    c->tables[ti].defined = c->tables[ti].absent = 1;
    return SQLITE_OK;
  }
  if (d->source_count > 0) {
    source *s = calloc((size_t)d->source_count, sizeof(source));
    if (s == NULL) return SQLITE_NOMEM;
    for (i = 0; i < d->source_count; i++) {
      s[i].table = table_index(c, d->sources[i].name);
      s[i].above = d->sources[i].above;
      s[i].upto = d->sources[i].upto;
      s[i].map = copy_ints(d->sources[i].map, d->columns, &rc);
      if (s[i].table < 0) rc = SQLITE_NOMEM;
    }
    c->tables[ti].sources = s;
    c->tables[ti].source_count = d->source_count;
  }
  t = &c->tables[ti];
  t->columns = d->columns;
  t->sql_new = copy_text(d->sql_new, &rc);
  t->sql_old = copy_text(d->sql_old, &rc);
  t->sql_bulk = copy_text(d->sql_bulk, &rc);
  t->shape_key = copy_text(d->shape_key, &rc);
  t->shape_json = copy_text(d->shape_json, &rc);
  t->old_map = copy_ints(d->old_map, d->columns, &rc);
  t->identity = copy_ints(d->key, d->keys, &rc);
  t->identities = t->identity ? d->keys : 0;
  t->shape = d->shape;
  t->defaults.n = 0;
  if (rc == SQLITE_OK) rc = buf_add(&t->defaults, d->defaults, d->defaults_len);
  if (rc == SQLITE_OK && (t->shape_key == NULL || t->shape_json == NULL)) rc = SQLITE_MISUSE;
  if (rc != SQLITE_OK) return rc; /* half a definition is none: table_undefine frees it */
  t->defined = 1;
  return SQLITE_OK;
}

/* ts_define_keyed names a table WITHOUT ROWID: its rows are known by key from now on. */
int ts_define_keyed(ts_capture *c, const char *name, int nkey, const int *columns, const int *collations) {
  int ti = table_index(c, name), rc = SQLITE_OK;
  table *t;
  if (ti < 0) return SQLITE_NOMEM;
  t = &c->tables[ti];
  table_unkey(t);
  t->keycol = copy_ints(columns, nkey, &rc);
  t->keycoll = copy_ints(collations, nkey, &rc);
  if (t->keycol == NULL || t->keycoll == NULL) return SQLITE_NOMEM;
  t->nkey = nkey;
  return SQLITE_OK;
}

/* ts_undefine_keyed forgets which tables are WITHOUT ROWID. */
void ts_undefine_keyed(ts_capture *c) {
  uint32_t i;
  for (i = 0; i < c->ntables; i++) table_unkey(&c->tables[i]);
}

/*
** ts_ddl: in this transaction the schema of main (ddl) or our TEMP triggers
** changed; a rollback, even a partial one, makes what Go knows stale.
*/
void ts_ddl(ts_capture *c, int ddl) {
  c->watch = 1;
  if (ddl) c->ddl = 1;
}

/* ---- classification ---- */

/*
** ts_classify prepares the first statement of a text and reports what the
** authorizer was told. Each action is a byte code and four strings, each a byte
** (0: NULL) and its text with a NUL.
*/
int ts_classify(ts_capture *c, const char *sql, int n, ts_class *out) {
  sqlite3_stmt *st = NULL;
  const char *tail = sql;
  int rc;
  memset(out, 0, sizeof(*out));
  c->actions.n = 0;
  c->deny = TS_DENY_NONE;
  c->deny_what[0] = 0;
  c->recording = 1;
  c->probed = 0;
  c->prev_action = 0;
  rc = sqlite3_prepare_v2(c->db, sql, n, &st, &tail);
  c->recording = 0;
  out->authorized = c->probed;
  out->tail = (int)(tail - sql);
  out->deny = c->deny;
  out->deny_what = c->deny_what;
  if (rc != SQLITE_OK) return rc;
  out->empty = st == NULL;
  if (st != NULL) {
    out->readonly = sqlite3_stmt_readonly(st);
    out->explain = sqlite3_stmt_isexplain(st);
    out->params = sqlite3_bind_parameter_count(st);
    out->columns = sqlite3_column_count(st);
  }
  out->actions = c->actions.p;
  out->actions_len = c->actions.n;
  sqlite3_finalize(st);
  return SQLITE_OK;
}

/* ---- flush ---- */

/* explain keeps SQLite's message before another call replaces it. */
static int explain(ts_capture *c, sqlite3 *db, int rc) {
  const char *m = rc > 0 ? sqlite3_errmsg(db) : "";
  size_t n = strlen(m);
  if (n >= sizeof(c->message)) n = sizeof(c->message) - 1;
  memcpy(c->message, m, n);
  c->message[n] = 0;
  return rc;
}

static int get(sqlite3 *db, sqlite3_stmt **st, const char *sql) {
  if (*st != NULL) return SQLITE_OK;
  return sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, st, NULL);
}

/* run steps a cached statement that returns nothing. */
static int run(sqlite3 *db, sqlite3_stmt **st, const char *sql) {
  int rc = get(db, st, sql);
  if (rc != SQLITE_OK) return rc;
  sqlite3_step(*st);
  return sqlite3_reset(*st);
}

/* number runs a cached statement that returns one integer. */
static int number(sqlite3 *db, sqlite3_stmt **st, const char *sql, sqlite3_int64 *out) {
  int rc = get(db, st, sql);
  *out = 0;
  if (rc != SQLITE_OK) return rc;
  if (sqlite3_step(*st) == SQLITE_ROW) *out = sqlite3_column_int64(*st, 0);
  return sqlite3_reset(*st);
}

/* lookup reads a row by rowid or key; *found 0: there is none. */
static int lookup(ts_capture *c, table *t, const entry *e, sqlite3_stmt *st, int columns, buf *b, int *found) {
  int rc = SQLITE_OK, i, n, count;
  *found = 0;
  if (e->key < 0) {
    rc = sqlite3_bind_int64(st, 1, e->rowid);
  } else {
    field few[FIELDS_MAX], *f = few;
    const unsigned char *key = raw_key(c, e, &n);
    if (t->nkey > FIELDS_MAX) {
      f = malloc((size_t)t->nkey * sizeof(field));
      if (f == NULL) return SQLITE_NOMEM;
    }
    rc = record_get(key, n, f, t->nkey, &count);
    if (rc == SQLITE_OK && count != t->nkey) rc = SQLITE_CORRUPT;
    for (i = 0; i < t->nkey && rc == SQLITE_OK; i++) rc = bind_field(st, i + 1, &f[i]);
    if (f != few) free(f);
  }
  if (rc != SQLITE_OK) return rc;
  rc = sqlite3_step(st);
  if (rc == SQLITE_ROW) {
    *found = 1;
    rc = row_image(st, columns, b);
    i = sqlite3_reset(st);
    return rc != SQLITE_OK ? rc : i;
  }
  return sqlite3_reset(st);
}

static int lookup_new(ts_capture *c, table *t, const entry *e, int *found) {
  int rc = get(c->db, &t->get_new, t->sql_new);
  if (rc == SQLITE_OK) rc = lookup(c, t, e, t->get_new, t->columns, &c->after, found);
  return rc == SQLITE_OK ? rc : explain(c, c->db, rc);
}

/* logged_image reads the after image of a log row of this transaction. */
static int logged_image(ts_capture *c, sqlite3_int64 id, buf *b, int *found) {
  int rc = get(c->db, &c->logged_row, "SELECT \"after\" FROM main.turso_cdc WHERE change_id = ?");
  *found = 0;
  b->n = 0;
  if (rc != SQLITE_OK) return rc;
  sqlite3_bind_int64(c->logged_row, 1, id);
  rc = sqlite3_step(c->logged_row);
  if (rc == SQLITE_ROW) {
    rc = SQLITE_OK;
    if (sqlite3_column_type(c->logged_row, 0) == SQLITE_BLOB) {
      *found = 1;
      const void *p = sqlite3_column_blob(c->logged_row, 0);
      rc = buf_add(b, p, sqlite3_column_bytes(c->logged_row, 0));
    }
    sqlite3_reset(c->logged_row);
    return rc;
  }
  sqlite3_reset(c->logged_row);
  return rc == SQLITE_DONE ? SQLITE_CORRUPT : rc;
}

/* base_image finds what a row was: as logged last in this transaction, or as committed. */
static int base_image(ts_capture *c, table *t, entry *e, int *found) {
  source self = {(int)e->table, 0, INT64_MAX, NULL};
  const source *s = t->source_count ? t->sources : &self;
  int n = t->source_count ? t->source_count : 1, i, rc;
  *found = 0;
  for (i = 0; i < n && c->nlogged > 0; i++) {
    const entry *at = e;
    if (s[i].table != (int)e->table) {
      uint32_t slot, hash;
      buf k = {0};
      if (e->key >= 0) {
        k.p = c->keys.p + e->key + sizeof(int);
        k.n = key_len(c, e->key);
      }
      hash = e->key >= 0 ? hash_bytes(2166136261u ^ ((uint32_t)s[i].table * 0x9e3779b9u), k.p, k.n)
                         : hash_rowid((uint32_t)s[i].table, e->rowid);
      slot = entry_find(c, (uint32_t)s[i].table, e->rowid, e->key >= 0 ? &k : NULL, hash);
      if (c->slots[slot] == 0) continue;
      at = &c->entries[c->slots[slot] - 1];
    }
    for (int l = at->last; l >= 0; l = c->logged[l].prev) {
      if (c->logged[l].id <= s[i].above) break;
      if (c->logged[l].id > s[i].upto) continue;
      rc = logged_image(c, c->logged[l].id, &c->before, found);
      if (rc == SQLITE_OK && *found) rc = remap(c, t, s[i].map, &c->before);
      return rc;
    }
  }
  if (t->sql_old == NULL || ((e->flags & E_INSERTED) && !c->ddl)) return SQLITE_OK;
  rc = get(c->old, &t->get_old, t->sql_old);
  if (rc == SQLITE_OK) rc = lookup(c, t, e, t->get_old, sqlite3_column_count(t->get_old), &c->before, found);
  if (rc != SQLITE_OK) return explain(c, c->old, rc);
  if (rc == SQLITE_OK && *found) rc = remap(c, t, t->old_map, &c->before);
  return rc;
}

static int put_shape(ts_capture *c, table *t) {
  int rc;
  if (t->shape_known == c->shapes) return SQLITE_OK;
  rc = get(c->db, &c->shape, "INSERT INTO main.turso_sync_state(key, value) VALUES (?, ?) ON CONFLICT(key) DO NOTHING");
  if (rc != SQLITE_OK) return rc;
  sqlite3_bind_text(c->shape, 1, t->shape_key, -1, SQLITE_STATIC);
  sqlite3_bind_text(c->shape, 2, t->shape_json, -1, SQLITE_STATIC);
  sqlite3_step(c->shape);
  rc = sqlite3_reset(c->shape);
  if (rc != SQLITE_OK) return rc;
  t->shape_known = c->shapes;
  c->shapes_written = 1;
  return SQLITE_OK;
}

static int push_logged(ts_capture *c, uint32_t ei, sqlite3_int64 id) {
  uint32_t cap = (uint32_t)c->caplogged;
  int rc = grow((void **)&c->logged, (uint32_t)c->nlogged, &cap, sizeof(logrow));
  if (rc != SQLITE_OK) return rc;
  c->caplogged = (int)cap;
  c->logged[c->nlogged].id = id;
  c->logged[c->nlogged].entry = ei;
  c->logged[c->nlogged].prev = c->entries[ei].last;
  c->entries[ei].last = c->nlogged++;
  return SQLITE_OK;
}

static int get_insert(ts_capture *c) {
  int rc = get(c->db, &c->insert,
               "INSERT INTO main.turso_cdc(change_id, change_time, change_txn_id, change_type, table_name, id, \"before\", "
               "\"after\", shape) VALUES (?,?,?,?,?,?,?,?,?)");
  if (rc == SQLITE_OK && c->txn_id == 0) c->txn_id = c->first_id = c->next_id;
  return rc;
}

/* log_change inserts a log row; before and after are in their buffers if told so. */
static int log_change(ts_capture *c, table *t, uint32_t ei, int had, int has, sqlite3_int64 now) {
  entry *e = &c->entries[ei];
  sqlite3_stmt *st;
  int rc = put_shape(c, t);
  if (rc == SQLITE_OK) rc = get_insert(c);
  if (rc != SQLITE_OK) return rc;
  st = c->insert;
  sqlite3_bind_int64(st, 1, c->next_id);
  sqlite3_bind_int64(st, 6, e->rowid);
  /* Bindings last. Most rows are of the same kind as the one before. */
  if (c->bound_table != t->name || c->bound_type != had + 2 * has || c->bound_shape != t->shape) {
    sqlite3_bind_int64(st, 2, now);
    sqlite3_bind_int64(st, 3, c->txn_id);
    sqlite3_bind_int(st, 4, had ? (has ? 0 : -1) : 1);
    sqlite3_bind_text(st, 5, t->name, -1, SQLITE_STATIC);
    sqlite3_bind_null(st, 7);
    sqlite3_bind_null(st, 8);
    sqlite3_bind_int64(st, 9, t->shape);
    c->bound_table = t->name;
    c->bound_type = had + 2 * has;
    c->bound_shape = t->shape;
  }
  if (had) sqlite3_bind_blob(st, 7, c->before.p, c->before.n, SQLITE_STATIC);
  if (has) sqlite3_bind_blob(st, 8, c->after.p, c->after.n, SQLITE_STATIC);
  sqlite3_step(st);
  rc = sqlite3_reset(st);
  if (rc != SQLITE_OK) return explain(c, c->db, rc);
  return push_logged(c, ei, c->next_id++);
}

/*
** ts_log_id(rowid) and ts_record(column…) are the parts of a bulk statement: the
** change id of an inserted row, which is noted with its entry, and its image.
*/
static void log_id_func(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  ts_capture *c = sqlite3_user_data(ctx);
  sqlite3_uint64 at = (sqlite3_uint64)sqlite3_value_int64(argv[0]) - (sqlite3_uint64)c->bulk_rowid; /* rowids span more than an int64 */
  (void)argc;
  if (!c->internal || at >= c->nentries - c->bulk_first || push_logged(c, c->bulk_first + (uint32_t)at, c->next_id) != SQLITE_OK) {
    sqlite3_result_error(ctx, "ts_log_id is internal to tursosync", -1);
    return;
  }
  sqlite3_result_int64(ctx, c->next_id++);
}

static void record_func(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  ts_capture *c = sqlite3_user_data(ctx);
  field few[FIELDS_MAX], *f = few;
  int i, rc = SQLITE_OK;
  if (argc > FIELDS_MAX) f = malloc((size_t)argc * sizeof(field));
  if (f == NULL) rc = SQLITE_NOMEM;
  c->scratch.n = 0;
  for (i = 0; i < argc && rc == SQLITE_OK; i++) rc = field_of(argv[i], &f[i]);
  if (rc == SQLITE_OK) rc = record_put(&c->scratch, f, argc);
  if (f != few) free(f);
  if (rc != SQLITE_OK) {
    sqlite3_result_error_code(ctx, rc);
  } else {
    sqlite3_result_blob(ctx, c->scratch.p, c->scratch.n, SQLITE_TRANSIENT);
  }
}

static void clean(ts_capture *c, uint32_t ei) {
  c->entries[ei].flags &= ~(uint32_t)(E_DIRTY | E_GONE);
  c->tables[c->entries[ei].table].dirty--;
  c->ndirty--;
}

/* key_columns is the number of columns of an entry's key, 0 for a rowid. */
static int key_columns(ts_capture *c, const entry *e) {
  int n, count = -1;
  const unsigned char *key;
  if (e->key < 0) return 0;
  key = raw_key(c, e, &n);
  return record_get(key, n, NULL, 0, &count) == SQLITE_OK ? count : -1;
}

/* rekeyed tells whether before and after differ in the declared key; -1: no memory. */
static int rekeyed(ts_capture *c, const table *t) {
  int i, max = 0, n = 0, m = 0, yes = 0;
  field *f;
  for (i = 0; i < t->identities; i++) {
    if (t->identity[i] >= max) max = t->identity[i] + 1;
  }
  f = calloc((size_t)(2 * max + 1), sizeof(field));
  if (f == NULL) return -1;
  if (record_get(c->before.p, c->before.n, f, max, &n) == SQLITE_OK && record_get(c->after.p, c->after.n, f + max, max, &m) == SQLITE_OK) {
    for (i = 0; i < t->identities && !yes && n >= max && m >= max; i++) {
      const field *a = &f[t->identity[i]], *b = &f[max + t->identity[i]];
      yes = a->type != b->type || memcmp(a->p, b->p, (size_t)type_size(a->type)) != 0;
    }
  }
  free(f);
  return yes;
}

/*
** flush_entry logs the net effect on one row. With gone, only what must come
** first: the deletion of a row that is gone, and of one that got another key. A
** replay of the others in any order must not meet a key that is given up later:
** it would take that row for its own.
*/
static int flush_entry(ts_capture *c, uint32_t ei, int gone, sqlite3_int64 now) {
  table *t = &c->tables[c->entries[ei].table];
  int had = 0, has = 0, rc;
  /* The table is not the one that was touched: that is gone, or was undone. */
  if (t->absent || key_columns(c, &c->entries[ei]) != t->nkey) return SQLITE_OK;
  rc = lookup_new(c, t, &c->entries[ei], &has);
  if (rc != SQLITE_OK || (gone && has && (!c->rekey || t->identities == 0))) return rc;
  rc = base_image(c, t, &c->entries[ei], &had);
  if (rc != SQLITE_OK) return rc;
  if (gone && has) {
    int yes = had ? rekeyed(c, t) : 0;
    if (yes <= 0) return yes < 0 ? SQLITE_NOMEM : SQLITE_OK;
    return log_change(c, t, ei, 1, 0, now); /* and stays open: its insertion follows */
  }
  /* What is not logged stays open: a ROLLBACK TO may bring the difference back,
  ** and there will be no missing log row to tell. */
  if (had == has && (!had || (c->before.n == c->after.n && memcmp(c->before.p, c->after.p, (size_t)c->before.n) == 0))) {
    return SQLITE_OK;
  }
  rc = log_change(c, t, ei, had, has, now);
  if (rc == SQLITE_OK) clean(c, ei);
  return rc;
}

/* bulk_end returns the entry behind the run of plain inserts that starts at ei; ei: there is none. */
static uint32_t bulk_end(ts_capture *c, uint32_t ei) {
  const entry *e = &c->entries[ei];
  uint32_t i = ei;
  if (c->ddl || c->tables[e->table].absent || e->key >= 0 || c->tables[e->table].nkey > 0 || c->tables[e->table].sql_bulk == NULL) return ei;
  for (; i < c->nentries; i++) {
    const entry *n = &c->entries[i];
    if ((n->flags & (E_DIRTY | E_GONE | E_INSERTED)) != (E_DIRTY | E_INSERTED) || n->last >= 0) break;
    if (n->table != e->table || n->rowid < e->rowid) break;
    if ((sqlite3_uint64)n->rowid - (sqlite3_uint64)e->rowid != i - ei) break; /* rowids span more than an int64 */
  }
  return i;
}

/* flush_bulk logs the inserts from entry ei to before end: one statement for all. */
static int flush_bulk(ts_capture *c, uint32_t ei, uint32_t end, sqlite3_int64 now) {
  table *t = &c->tables[c->entries[ei].table];
  int logged = c->nlogged;
  int rc = put_shape(c, t);
  if (rc == SQLITE_OK) rc = get(c->db, &t->bulk, t->sql_bulk);
  if (rc == SQLITE_OK) rc = get_insert(c);
  if (rc != SQLITE_OK) return rc;
  c->bulk_first = ei;
  c->bulk_rowid = c->entries[ei].rowid;
  sqlite3_bind_int64(t->bulk, 1, now);
  sqlite3_bind_int64(t->bulk, 2, c->txn_id);
  sqlite3_bind_int64(t->bulk, 3, c->entries[ei].rowid);
  sqlite3_bind_int64(t->bulk, 4, c->entries[end - 1].rowid);
  sqlite3_step(t->bulk);
  rc = sqlite3_reset(t->bulk);
  if (rc != SQLITE_OK) explain(c, c->db, rc);
  for (; logged < c->nlogged && rc == SQLITE_OK; logged++) clean(c, c->logged[logged].entry);
  return rc;
}

/*
** rolled_back: a ROLLBACK TO may have removed log rows that this transaction
** wrote. Those rows, and everything that was compared before, are open again.
*/
static int rolled_back(ts_capture *c) {
  sqlite3_int64 max;
  uint32_t i;
  int rc;
  if (c->txn_id == 0) return SQLITE_OK;
  rc = number(c->db, &c->max_id, "SELECT max(change_id) FROM main.turso_cdc", &max);
  if (rc != SQLITE_OK || max >= c->next_id - 1) return rc;
  while (c->nlogged > 0 && c->logged[c->nlogged - 1].id > max) {
    logrow *l = &c->logged[--c->nlogged];
    c->entries[l->entry].last = l->prev;
  }
  for (i = 0; i < c->nentries; i++) {
    entry *e = &c->entries[i];
    if (!(e->flags & E_DIRTY)) {
      c->tables[e->table].dirty++;
      c->ndirty++;
    }
    e->flags |= E_DIRTY | E_GONE;
  }
  c->next_id = max + 1 > c->first_id ? max + 1 : c->first_id;
  if (max < c->txn_id) c->txn_id = 0;
  c->shapes++;
  if (c->watch) c->stale = 1;
  return c->ddl ? TS_STALE : SQLITE_OK;
}

static int flush(ts_capture *c, ts_txn *out) {
  sqlite3_int64 now, first;
  uint32_t i, n, end;
  int rc, reading = 0, need_old = 0, any_gone = 0;
  if (c->poisoned) return TS_POISONED;
  rc = rolled_back(c);
  if (rc != SQLITE_OK) return rc;
  if (c->ndirty == 0) return SQLITE_OK;
  for (i = 0; i < c->ntables; i++) {
    if (c->tables[i].dirty > 0 && !c->tables[i].defined) {
      out->table = c->tables[i].name;
      return TS_UNDEFINED;
    }
  }
  now = (sqlite3_int64)time(NULL);
  c->bound_table = NULL;
  first = c->next_id;
  n = c->nentries;
  if (c->ndirty == 1) {
    for (i = n; i-- > 0;) {
      if (c->entries[i].flags & E_DIRTY) break;
    }
    end = bulk_end(c, i);
    rc = end > i ? flush_bulk(c, i, end, now) : flush_entry(c, i, 0, now);
  } else {
    for (i = 0; i < n && !(need_old && any_gone); i++) {
      uint32_t f = c->entries[i].flags;
      if (!(f & E_DIRTY)) continue;
      if (f & E_GONE) any_gone = 1;
      if (!(f & E_INSERTED)) need_old = 1;
    }
    if (need_old) {
      /* one snapshot, and no locking for each row */
      sqlite3_mutex_enter(sqlite3_db_mutex(c->old));
      rc = explain(c, c->old, run(c->old, &c->old_begin, "BEGIN"));
      reading = rc == SQLITE_OK;
    }
    for (i = 0; i < n && (any_gone || c->rekey) && rc == SQLITE_OK; i++) {
      const entry *e = &c->entries[i];
      if (!(e->flags & E_DIRTY)) continue;
      if ((e->flags & E_GONE) || (c->rekey && c->tables[e->table].identities > 0 && !(e->flags & E_INSERTED))) {
        rc = flush_entry(c, i, 1, now);
      }
    }
    for (i = 0; i < n && rc == SQLITE_OK; i++) {
      if (!(c->entries[i].flags & E_DIRTY)) continue;
      end = bulk_end(c, i);
      rc = end > i ? flush_bulk(c, i, end, now) : flush_entry(c, i, 0, now);
    }
    if (reading) {
      int rc2 = run(c->old, &c->old_commit, "COMMIT");
      if (rc == SQLITE_OK) rc = rc2;
    }
    if (need_old) sqlite3_mutex_leave(sqlite3_db_mutex(c->old));
  }
  /* A full disk has rolled everything back, and the log with it. */
  if (rc != SQLITE_OK && !sqlite3_get_autocommit(c->db)) c->poisoned = 1;
  out->logged = c->next_id - first;
  return rc;
}

/* ts_log_schema logs a schema change: a record made by Go. */
int ts_log_schema(ts_capture *c, int type, const void *record, int n, sqlite3_int64 *id) {
  hidden h = hide(c);
  int rc = c->poisoned ? TS_POISONED : get_insert(c);
  c->bound_table = NULL;
  if (rc == SQLITE_OK) {
    sqlite3_stmt *st = c->insert;
    sqlite3_bind_int64(st, 1, c->next_id);
    sqlite3_bind_int64(st, 2, (sqlite3_int64)time(NULL));
    sqlite3_bind_int64(st, 3, c->txn_id);
    sqlite3_bind_int(st, 4, type);
    sqlite3_bind_text(st, 5, "sqlite_schema", -1, SQLITE_STATIC);
    sqlite3_bind_null(st, 6);
    sqlite3_bind_null(st, 7);
    sqlite3_bind_blob(st, 8, record, n, SQLITE_STATIC);
    sqlite3_bind_null(st, 9);
    sqlite3_step(st);
    rc = sqlite3_reset(st);
    sqlite3_bind_null(st, 8); /* record is the caller's */
    if (rc == SQLITE_OK) {
      *id = c->next_id++;
    } else if (!sqlite3_get_autocommit(c->db)) {
      c->poisoned = 1;
    }
  }
  unhide(c, h);
  return rc;
}

/* ---- transactions ---- */

static void look(ts_capture *c, ts_txn *out) {
  out->autocommit = sqlite3_get_autocommit(c->db);
  out->refused = c->refused;
  out->next_id = c->next_id;
  out->max_id = c->txn_id ? c->next_id - 1 : 0;
  out->stale = c->stale;
  out->writing = !out->autocommit && sqlite3_txn_state(c->db, "main") == SQLITE_TXN_WRITE;
  out->wal_commits = c->wal_commits;
  out->committed = c->committed;
  c->wal_commits = c->committed = 0;
  c->stale = 0;
  c->seen_total = sqlite3_total_changes64(c->db);
}

/* ts_capture_state reports where the connection stands. */
void ts_capture_state(ts_capture *c, ts_txn *out) {
  memset(out, 0, sizeof(*out));
  look(c, out);
}

/*
** ts_stmt_starts and ts_stmt_ends stand around one statement of the user inside
** a transaction that writes already. Starts returns TS_UNCAPTURED if rows were
** changed since Go last looked: by the raw connection.
*/
int ts_stmt_starts(ts_capture *c, int replace, int rekey, int counts) {
  if (sqlite3_get_autocommit(c->db)) return TS_NOTX;
  if (sqlite3_total_changes64(c->db) != c->seen_total) {
    if (sqlite3_txn_state(c->db, "main") == SQLITE_TXN_WRITE) c->poisoned = 1;
    return TS_UNCAPTURED;
  }
  c->replace = replace;
  if (rekey) c->rekey = 1;
  c->refused = 0;
  user_runs(c, counts);
  return SQLITE_OK;
}

/* ts_stmt_counts announces a statement outside of a transaction of ours whose
** changes SQLite counts; ts_stmt_ends follows it. */
void ts_stmt_counts(ts_capture *c) { user_runs(c, 1); }

void ts_stmt_ends(ts_capture *c, ts_txn *out) {
  memset(out, 0, sizeof(*out));
  user_ran(c);
  if (sqlite3_get_autocommit(c->db) && (c->nentries > 0 || c->txn_id != 0 || c->poisoned)) ts_capture_reset(c);
  look(c, out);
}

/*
** ts_stmt_done is ts_stmt_ends for a statement that succeeded, made for bulk
** writes: 1 if the transaction goes on and there is nothing to tell; 0: ask
** ts_stmt_ends.
*/
int ts_stmt_done(ts_capture *c) {
  if (sqlite3_get_autocommit(c->db) || c->stale || c->refused || c->wal_commits || c->committed) return 0;
  user_ran(c);
  c->seen_total = sqlite3_total_changes64(c->db);
  return 1;
}

/* schema_cookie reads main's schema version. */
static int schema_cookies(ts_capture *c, int want_temp, ts_txn *out) {
  sqlite3_int64 v;
  int rc = number(c->db, &c->cookie, "PRAGMA main.schema_version", &v);
  out->cookie = (uint32_t)v;
  if (rc == SQLITE_OK && want_temp) {
    /* Prepared anew each time: PRAGMA temp_store takes the database away from
    ** under a statement that is not. */
    sqlite3_stmt *st = NULL;
    rc = number(c->db, &st, "PRAGMA temp.schema_version", &v);
    sqlite3_finalize(st);
    out->temp_cookie = (uint32_t)v;
  }
  return rc;
}

/* take_lock runs the cached statement that takes the write lock. */
static int take_lock(ts_capture *c, const ts_want *want, ts_txn *out) {
  static const char *const text[] = {"BEGIN IMMEDIATE", upgrade_text};
  sqlite3_stmt **st = &c->begin[want->how];
  int rc;
  if (want->probe) {
    sqlite3_finalize(*st);
    *st = NULL;
  }
  c->probed = 0;
  rc = get(c->db, st, text[want->how]);
  if (rc != SQLITE_OK) return rc;
  if (want->probe && !c->probed) {
    out->displaced |= TS_HOOK_AUTHORIZER;
    return SQLITE_OK;
  }
  c->probed = 0;
  sqlite3_stmt_status(*st, SQLITE_STMTSTATUS_REPREPARE, 1);
  sqlite3_step(*st);
  rc = sqlite3_reset(*st);
  if (rc != SQLITE_OK) rc = sqlite3_extended_errcode(c->db); /* BUSY_SNAPSHOT is no plain BUSY */
  /* A new authorizer makes every statement be prepared again: was it ours? */
  if (!c->probed && sqlite3_stmt_status(*st, SQLITE_STMTSTATUS_REPREPARE, 1) > 0) out->displaced |= TS_HOOK_AUTHORIZER;
  return rc;
}

/* look_around reads, under the write lock, what others may have changed. */
static int look_around(ts_capture *c, const ts_want *want, ts_txn *out) {
  ts_walstate w;
  sqlite3_int64 next = want->next_id;
  int rc = SQLITE_OK;
  out->wal_rc = want->how == TS_BEGIN_NOTHING ? SQLITE_ERROR : ts_wal_state(c->db, &w);
  if (out->wal_rc == SQLITE_OK) out->change = w.iChange;
  out->cookie = want->cookie;
  if (!want->known || want->temp || out->wal_rc != SQLITE_OK || out->change != want->change) {
    rc = schema_cookies(c, want->temp, out);
    next = want->how == TS_BEGIN_NOTHING || out->change == want->change ? next : 0;
  }
  if (rc != SQLITE_OK || want->how == TS_BEGIN_NOTHING) return rc;
  if (next == 0) {
    rc = number(c->db, &c->last_id,
                "SELECT max(coalesce((SELECT max(change_id) FROM main.turso_cdc), 0), "
                "coalesce((SELECT CAST(value AS INTEGER) FROM main.turso_sync_state WHERE key = 'last_id'), 0)) + 1",
                &next);
  }
  c->next_id = next;
  return rc;
}

/*
** ts_begin takes the write lock and looks whether the hooks are still ours, what
** the schema version is, and how many commits there were. TS_INSIDE: BEGIN
** IMMEDIATE was asked for inside a transaction.
*/
int ts_begin(ts_capture *c, const ts_want *want, ts_txn *out) {
  hidden h;
  int rc = SQLITE_OK;
  memset(out, 0, sizeof(*out));
  if (want->how == TS_BEGIN_IMMEDIATE && !sqlite3_get_autocommit(c->db)) return TS_INSIDE;
  h = hide(c);
  out->displaced = set_hooks(c) | c->put_aside;
  c->put_aside = 0;
  c->refused = 0;
  c->replace = want->replace;
  if (want->how == TS_BEGIN_UPGRADE && sqlite3_txn_state(c->db, "main") == SQLITE_TXN_WRITE) {
    /* Somebody has written before on the raw connection. */
    c->poisoned = 1;
    rc = TS_UNCAPTURED;
  } else if (want->how == TS_BEGIN_NOTHING) {
    rc = rolled_back(c);
    if (rc == TS_STALE) rc = SQLITE_OK; /* out->stale says it */
  } else if (out->displaced == 0 && want->how != TS_BEGIN_LOCKED) {
    if (want->how == TS_BEGIN_IMMEDIATE && (c->nentries || c->txn_id || c->poisoned)) ts_capture_reset(c);
    rc = take_lock(c, want, out);
  }
  if (out->displaced & TS_HOOK_AUTHORIZER) sqlite3_set_authorizer(c->db, on_authorize, c);
  if (rc == SQLITE_OK && out->displaced == 0) rc = look_around(c, want, out);
  if (rc == SQLITE_OK && want->rekey) c->rekey = 1;
  /* What was written before on this connection may not have been seen. */
  if (out->displaced && !sqlite3_get_autocommit(c->db)) c->poisoned = 1;
  unhide(c, h);
  user_runs(c, want->counts);
  look(c, out);
  return rc;
}

/*
** ts_finish logs what is not logged yet and, with commit, commits. TS_UNDEFINED:
** nothing was done; define out->table and call again. TS_STALE: the same after
** reading the schema again. Without commit, out->cookie is set.
*/
int ts_finish(ts_capture *c, int commit, ts_txn *out) {
  hidden h;
  int rc;
  memset(out, 0, sizeof(*out));
  h = hide(c);
  out->displaced = set_hooks(c);
  if (out->displaced) {
    c->poisoned = 1;
    unhide(c, h);
    look(c, out);
    return SQLITE_OK;
  }
  c->message[0] = 0;
  out->message = c->message;
  if (!commit && h.total != c->seen_total) {
    c->poisoned = 1;
    rc = TS_UNCAPTURED;
  } else {
    rc = flush(c, out);
  }
  if (rc == SQLITE_OK && !commit) rc = schema_cookies(c, 0, out);
  if (rc == SQLITE_OK && commit) {
    c->commit_ok = 1;
    rc = run(c->db, &c->commit, "COMMIT");
    c->commit_ok = 0;
    if (rc == SQLITE_OK) ts_capture_reset(c);
  }
  unhide(c, h);
  look(c, out);
  return rc;
}

/*
** roll_back_interrupted rolls back where ROLLBACK is interrupted. As long as other
** statements of the connection are under way (a user has rows open), an interrupt
** stays in force and hits everything that is begun, ROLLBACK too. But SQLite itself
** rolls back when a statement that writes is interrupted
** (https://sqlite.org/c3ref/interrupt.html), so one of ours is offered to it.
** If the interrupt is over by now, ROLLBACK will do.
*/
static int roll_back_interrupted(ts_capture *c) {
  sqlite3_stmt *st[] = {c->begin[TS_BEGIN_UPGRADE], c->insert, c->shape};
  for (int i = 0; i < 3; i++) {
    if (st[i] == NULL) continue;
    sqlite3_clear_bindings(st[i]); /* what is bound may be gone, and is not to be written if the interrupt is over */
    sqlite3_step(st[i]);
    sqlite3_reset(st[i]);
    if (sqlite3_get_autocommit(c->db)) return SQLITE_OK;
  }
  return run(c->db, &c->rollback, "ROLLBACK");
}

/* ts_rollback rolls back, if there is something to. */
int ts_rollback(ts_capture *c, ts_txn *out) {
  int rc = SQLITE_OK;
  memset(out, 0, sizeof(*out));
  if (!sqlite3_get_autocommit(c->db)) {
    hidden h = hide(c);
    rc = run(c->db, &c->rollback, "ROLLBACK");
    if (rc != SQLITE_OK && !sqlite3_get_autocommit(c->db)) rc = roll_back_interrupted(c);
    unhide(c, h);
  }
  if (rc == SQLITE_OK) ts_capture_reset(c);
  look(c, out);
  return rc;
}

/* ts_commit_allow: the log is complete, the user's own COMMIT may pass. */
void ts_commit_allow(ts_capture *c, int on) { c->commit_ok = on; }

/* ts_poison: the log of the open transaction is not complete; it must not commit. */
void ts_poison(ts_capture *c) { c->poisoned = 1; }

/* ts_touch_rows touches every row that sql returns: rowid, or the key's columns. */
int ts_touch_rows(ts_capture *c, const char *name, const char *sql, int inserted) {
  sqlite3_stmt *st = NULL;
  int ti, n, rc;
  hidden h = hide_reads(c);
  rc = sqlite3_prepare_v2(c->db, sql, -1, &st, NULL);
  n = rc == SQLITE_OK ? sqlite3_column_count(st) : 0;
  ti = table_index(c, name);
  if (rc == SQLITE_OK && ti < 0) rc = SQLITE_NOMEM;
  while (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
    if (c->tables[ti].nkey == 0) {
      rc = touch(c, (uint32_t)ti, sqlite3_column_int64(st, 0), NULL, NULL, inserted ? E_INSERTED : E_GONE);
    } else if (c->tables[ti].nkey == n) {
      sqlite3_value **v = malloc((size_t)n * sizeof(*v));
      if (v == NULL) {
        rc = SQLITE_NOMEM;
      } else {
        for (int i = 0; i < n; i++) v[i] = sqlite3_column_value(st, i);
        rc = touch_key(c, (uint32_t)ti, v, inserted ? E_INSERTED : E_GONE);
        free(v);
      }
    } else {
      rc = SQLITE_MISUSE;
    }
  }
  if (rc == SQLITE_DONE) rc = SQLITE_OK;
  sqlite3_finalize(st);
  unhide(c, h);
  return rc;
}

/*
** ts_same_file returns the name of an attached database that is main's own
** file, as long as it is attached. NULL: there is none.
*/
const char *ts_same_file(sqlite3 *db) {
  const char *mine = sqlite3_db_filename(db, "main");
  if (mine == NULL || mine[0] == 0) return NULL;
  for (int i = 2;; i++) {
    const char *name = sqlite3_db_name(db, i), *file;
    if (name == NULL) return NULL;
    file = sqlite3_db_filename(db, name);
    if (file != NULL && strcmp(file, mine) == 0) return name;
  }
}
