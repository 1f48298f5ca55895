/*
** capture_touch.c: the rows that the open transaction touched.
**
** Rows are entries in c->entries, each once, found by a hash of the table and the
** rowid, or of the table and the key for tables WITHOUT ROWID. A key is known by its
** normalised form, in which keys that SQLite holds for equal are the same bytes, and
** kept as it was first seen too, for looking the row up.
**
** Callers: the hooks, on the thread that runs the user's statement; TEMP triggers by
** way of the SQL function ts_touch; Go, where no trigger can tell.
**
** Failure: out of memory. A hook cannot refuse the change, so it poisons the transaction.
*/
#include "captureint.h"

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

static uint32_t hash_key(uint32_t table, const buf *key) {
  return ts_hash_bytes(2166136261u ^ (table * 0x9e3779b9u), key->p, key->n);
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

const unsigned char *ts_raw_key(ts_capture *c, const entry *e, int *n) {
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

/* ts_entry_in finds the entry that a row of e's rowid or key has in another table, or NULL. */
const entry *ts_entry_in(ts_capture *c, uint32_t table, const entry *e) {
  uint32_t slot, hash;
  buf k = {0};
  if (e->key >= 0) {
    k.p = c->keys.p + e->key + sizeof(int);
    k.n = key_len(c, e->key);
  }
  hash = e->key >= 0 ? hash_key(table, &k) : hash_rowid(table, e->rowid);
  slot = entry_find(c, table, e->rowid, e->key >= 0 ? &k : NULL, hash);
  return c->slots[slot] == 0 ? NULL : &c->entries[c->slots[slot] - 1];
}

/* ts_touch notes a row; key is its normalised and raw its own key, or NULL. */
int ts_touch(ts_capture *c, uint32_t ti, sqlite3_int64 rowid, const buf *key, const buf *raw, uint32_t flags) {
  uint32_t hash, slot;
  entry *e;
  int rc;
  if (c->tables[ti].ignored) return SQLITE_OK;
  if ((c->nentries + 1) * 2 > c->capslots && (rc = slots_rehash(c, c->capslots ? c->capslots * 2 : 64)) != SQLITE_OK) return rc;
  hash = key ? hash_key(ti, key) : hash_rowid(ti, rowid);
  slot = entry_find(c, ti, rowid, key, hash);
  if (c->slots[slot] == 0) {
    if ((rc = ts_grow((void **)&c->entries, c->nentries, &c->capentries, sizeof(entry))) != SQLITE_OK) return rc;
    e = &c->entries[c->nentries];
    e->rowid = rowid;
    e->table = ti;
    e->flags = flags & E_INSERTED;
    e->key = -1;
    e->last = -1;
    e->hash = hash;
    if (key != NULL) {
      e->key = c->keys.n;
      rc = ts_buf_add(&c->keys, &key->n, sizeof(int));
      if (rc == SQLITE_OK) rc = ts_buf_add(&c->keys, key->p, key->n);
      if (rc == SQLITE_OK) rc = ts_buf_add(&c->keys, &raw->n, sizeof(int));
      if (rc == SQLITE_OK) rc = ts_buf_add(&c->keys, raw->p, raw->n);
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
      f->type = (sqlite3_uint64)ts_int_type(i);
      f->bits = (sqlite3_uint64)i;
    }
  } else if (f->type >= 13 && (f->type & 1) && coll != 0) {
    int n = (int)ts_type_size(f->type), i, at = text->n;
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

/* ts_touch_key notes a row of a table WITHOUT ROWID. */
int ts_touch_key(ts_capture *c, uint32_t ti, sqlite3_value **v, uint32_t flags) {
  table *t = &c->tables[ti];
  field few[FIELDS_MAX], *f = few;
  int i, rc = SQLITE_OK, room = 0;
  if (t->nkey > FIELDS_MAX) {
    f = malloc((size_t)t->nkey * sizeof(field));
    if (f == NULL) return SQLITE_NOMEM;
  }
  for (i = 0; i < t->nkey && rc == SQLITE_OK; i++) {
    rc = ts_field_of(v[i], &f[i]);
    if (rc == SQLITE_OK) room += (int)ts_type_size(f[i].type);
  }
  c->before.n = c->key.n = c->scratch.n = 0;
  if (rc == SQLITE_OK) rc = ts_record_put(&c->before, f, t->nkey);
  if (rc == SQLITE_OK) rc = ts_buf_room(&c->scratch, room + 1);
  for (i = 0; i < t->nkey && rc == SQLITE_OK; i++) rc = normalise(&f[i], t->keycoll[i], &c->scratch);
  if (rc == SQLITE_OK) rc = ts_record_put(&c->key, f, t->nkey);
  if (rc == SQLITE_OK) rc = ts_touch(c, ti, 0, &c->key, &c->before, flags);
  if (f != few) free(f);
  return rc;
}

/* ts_touch(table, rowid) or ts_touch(table, key…), called by our TEMP triggers. */
void ts_touch_func(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  ts_capture *c = sqlite3_user_data(ctx);
  const char *name = argc > 1 ? (const char *)sqlite3_value_text(argv[0]) : NULL;
  int ti = name ? ts_table_index(c, name) : -1, rc;
  if (ti < 0) {
    sqlite3_result_error_code(ctx, name ? SQLITE_NOMEM : SQLITE_MISUSE);
    return;
  }
  if (c->tables[ti].nkey == 0) {
    rc = ts_touch(c, (uint32_t)ti, sqlite3_value_int64(argv[1]), NULL, NULL, E_GONE);
  } else if (c->tables[ti].nkey == argc - 1) {
    rc = ts_touch_key(c, (uint32_t)ti, argv + 1, E_GONE);
  } else {
    rc = SQLITE_MISUSE;
  }
  if (rc != SQLITE_OK) sqlite3_result_error_code(ctx, rc);
}

/* ts_touch_rows touches every row that sql returns: rowid, or the key's columns. */
int ts_touch_rows(ts_capture *c, const char *name, const char *sql, int inserted) {
  sqlite3_stmt *st = NULL;
  int ti, n, rc;
  ts_hidden h = ts_hide_reads(c);
  rc = sqlite3_prepare_v2(c->db, sql, -1, &st, NULL);
  n = rc == SQLITE_OK ? sqlite3_column_count(st) : 0;
  ti = ts_table_index(c, name);
  if (rc == SQLITE_OK && ti < 0) rc = SQLITE_NOMEM;
  while (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
    if (c->tables[ti].nkey == 0) {
      rc = ts_touch(c, (uint32_t)ti, sqlite3_column_int64(st, 0), NULL, NULL, inserted ? E_INSERTED : E_GONE);
    } else if (c->tables[ti].nkey == n) {
      sqlite3_value **v = malloc((size_t)n * sizeof(*v));
      if (v == NULL) {
        rc = SQLITE_NOMEM;
      } else {
        for (int i = 0; i < n; i++) v[i] = sqlite3_column_value(st, i);
        rc = ts_touch_key(c, (uint32_t)ti, v, inserted ? E_INSERTED : E_GONE);
        free(v);
      }
    } else {
      rc = SQLITE_MISUSE;
    }
  }
  if (rc == SQLITE_DONE) rc = SQLITE_OK;
  sqlite3_finalize(st);
  ts_unhide(c, h);
  return rc;
}

/* ts_capture_reset forgets the transaction: what it touched and what was logged. */
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
