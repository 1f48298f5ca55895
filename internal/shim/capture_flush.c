/*
** capture_flush.c: from touched rows to log rows.
**
** Each touched row is read twice: as it is now, and as it was when it was logged or
** committed last. The difference goes into turso_cdc. Deletions come first, see
** flush_entry. Runs of plain inserts are logged by one statement, see flush_bulk.
**
** Callers: ts_finish and ts_begin (capture_txn.c), between ts_hide and ts_unhide, in
** a write transaction. The old connection is held only within ts_flush.
**
** Formats: "before" and "after" are SQLite's records (capture_record.c).
**
** Failure: result codes; c->message has SQLite's words. A flush that broke off has
** poisoned the transaction.
*/
#include "captureint.h"

#include <time.h>

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
  rc = ts_record_get(b->p, b->n, src, max, &have);
  if (rc == SQLITE_OK && t->defaults.n > 0) rc = ts_record_get(t->defaults.p, t->defaults.n, def, max, &ndef);
  for (i = 0; i < n && rc == SQLITE_OK; i++) {
    if (map[i] >= 0 ? map[i] >= have : -1 - map[i] >= ndef) {
      rc = SQLITE_CORRUPT;
    } else {
      f[i] = map[i] >= 0 ? src[map[i]] : def[-1 - map[i]];
    }
  }
  c->scratch.n = 0;
  if (rc == SQLITE_OK) rc = ts_record_put(&c->scratch, f, n);
  if (rc == SQLITE_OK) {
    buf swap = *b;
    *b = c->scratch;
    c->scratch = swap;
  }
  free(f);
  return rc;
}

/* lookup reads a row by rowid or key; *found 0: there is none. */
static int lookup(ts_capture *c, table *t, const entry *e, sqlite3_stmt *st, int columns, buf *b, int *found) {
  int rc = SQLITE_OK, i, n, count;
  *found = 0;
  if (e->key < 0) {
    rc = sqlite3_bind_int64(st, 1, e->rowid);
  } else {
    field few[FIELDS_MAX], *f = few;
    const unsigned char *key = ts_raw_key(c, e, &n);
    if (t->nkey > FIELDS_MAX) {
      f = malloc((size_t)t->nkey * sizeof(field));
      if (f == NULL) return SQLITE_NOMEM;
    }
    rc = ts_record_get(key, n, f, t->nkey, &count);
    if (rc == SQLITE_OK && count != t->nkey) rc = SQLITE_CORRUPT;
    for (i = 0; i < t->nkey && rc == SQLITE_OK; i++) rc = ts_bind_field(st, i + 1, &f[i]);
    if (f != few) free(f);
  }
  if (rc != SQLITE_OK) return rc;
  rc = sqlite3_step(st);
  if (rc == SQLITE_ROW) {
    *found = 1;
    rc = ts_row_image(st, columns, b);
    i = sqlite3_reset(st);
    return rc != SQLITE_OK ? rc : i;
  }
  return sqlite3_reset(st);
}

static int lookup_new(ts_capture *c, table *t, const entry *e, int *found) {
  int rc = ts_get(c->db, &t->get_new, t->sql_new);
  if (rc == SQLITE_OK) rc = lookup(c, t, e, t->get_new, t->columns, &c->after, found);
  return rc == SQLITE_OK ? rc : ts_explain(c, c->db, rc);
}

/* logged_image reads the after image of a log row of this transaction. */
static int logged_image(ts_capture *c, sqlite3_int64 id, buf *b, int *found) {
  int rc = ts_get(c->db, &c->logged_row, "SELECT \"after\" FROM main.turso_cdc WHERE change_id = ?");
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
      rc = ts_buf_add(b, p, sqlite3_column_bytes(c->logged_row, 0));
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
    if (s[i].table != (int)e->table) at = ts_entry_in(c, (uint32_t)s[i].table, e);
    if (at == NULL) continue;
    for (int l = at->last; l >= 0; l = c->logged[l].prev) {
      if (c->logged[l].id <= s[i].above) break;
      if (c->logged[l].id > s[i].upto) continue;
      rc = logged_image(c, c->logged[l].id, &c->before, found);
      if (rc == SQLITE_OK && *found) rc = remap(c, t, s[i].map, &c->before);
      return rc;
    }
  }
  if (t->sql_old == NULL || ((e->flags & E_INSERTED) && !c->ddl)) return SQLITE_OK;
  rc = ts_get(c->old, &t->get_old, t->sql_old);
  if (rc == SQLITE_OK) rc = lookup(c, t, e, t->get_old, sqlite3_column_count(t->get_old), &c->before, found);
  if (rc != SQLITE_OK) return ts_explain(c, c->old, rc);
  if (rc == SQLITE_OK && *found) rc = remap(c, t, t->old_map, &c->before);
  return rc;
}

static int put_shape(ts_capture *c, table *t) {
  int rc;
  if (t->shape_known == c->shapes) return SQLITE_OK;
  rc = ts_get(c->db, &c->shape, "INSERT INTO main.turso_sync_state(key, value) VALUES (?, ?) ON CONFLICT(key) DO NOTHING");
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
  int rc = ts_grow((void **)&c->logged, (uint32_t)c->nlogged, &cap, sizeof(logrow));
  if (rc != SQLITE_OK) return rc;
  c->caplogged = (int)cap;
  c->logged[c->nlogged].id = id;
  c->logged[c->nlogged].entry = ei;
  c->logged[c->nlogged].prev = c->entries[ei].last;
  c->entries[ei].last = c->nlogged++;
  return SQLITE_OK;
}

static int get_insert(ts_capture *c) {
  int rc = ts_get(c->db, &c->insert,
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
  if (rc != SQLITE_OK) return ts_explain(c, c->db, rc);
  return push_logged(c, ei, c->next_id++);
}

/*
** ts_log_id(rowid) and ts_record(column…) are the parts of a bulk statement: the
** change id of an inserted row, which is noted with its entry, and its image.
*/
void ts_log_id_func(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  ts_capture *c = sqlite3_user_data(ctx);
  sqlite3_uint64 at = (sqlite3_uint64)sqlite3_value_int64(argv[0]) - (sqlite3_uint64)c->bulk_rowid; /* rowids span more than an int64 */
  (void)argc;
  if (!c->internal || at >= c->nentries - c->bulk_first || push_logged(c, c->bulk_first + (uint32_t)at, c->next_id) != SQLITE_OK) {
    sqlite3_result_error(ctx, "ts_log_id is internal to tursosync", -1);
    return;
  }
  sqlite3_result_int64(ctx, c->next_id++);
}

void ts_record_func(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  ts_capture *c = sqlite3_user_data(ctx);
  field few[FIELDS_MAX], *f = few;
  int i, rc = SQLITE_OK;
  if (argc > FIELDS_MAX) f = malloc((size_t)argc * sizeof(field));
  if (f == NULL) rc = SQLITE_NOMEM;
  c->scratch.n = 0;
  for (i = 0; i < argc && rc == SQLITE_OK; i++) rc = ts_field_of(argv[i], &f[i]);
  if (rc == SQLITE_OK) rc = ts_record_put(&c->scratch, f, argc);
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
  key = ts_raw_key(c, e, &n);
  return ts_record_get(key, n, NULL, 0, &count) == SQLITE_OK ? count : -1;
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
  if (ts_record_get(c->before.p, c->before.n, f, max, &n) == SQLITE_OK && ts_record_get(c->after.p, c->after.n, f + max, max, &m) == SQLITE_OK) {
    for (i = 0; i < t->identities && !yes && n >= max && m >= max; i++) {
      const field *a = &f[t->identity[i]], *b = &f[max + t->identity[i]];
      yes = a->type != b->type || memcmp(a->p, b->p, (size_t)ts_type_size(a->type)) != 0;
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
  if (rc == SQLITE_OK) rc = ts_get(c->db, &t->bulk, t->sql_bulk);
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
  if (rc != SQLITE_OK) ts_explain(c, c->db, rc);
  for (; logged < c->nlogged && rc == SQLITE_OK; logged++) clean(c, c->logged[logged].entry);
  return rc;
}

/*
** ts_rolled_back: a ROLLBACK TO may have removed log rows that this transaction
** wrote. Those rows, and everything that was compared before, are open again.
*/
int ts_rolled_back(ts_capture *c) {
  sqlite3_int64 max;
  uint32_t i;
  int rc;
  if (c->txn_id == 0) return SQLITE_OK;
  rc = ts_number(c->db, &c->max_id, "SELECT max(change_id) FROM main.turso_cdc", &max);
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

int ts_flush(ts_capture *c, ts_txn *out) {
  sqlite3_int64 now, first;
  uint32_t i, n, end;
  int rc, reading = 0, need_old = 0, any_gone = 0;
  if (c->poisoned) return TS_POISONED;
  rc = ts_rolled_back(c);
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
      rc = ts_explain(c, c->old, ts_run(c->old, &c->old_begin, "BEGIN"));
      reading = rc == SQLITE_OK;
    }
    for (i = 0; i < n && (any_gone || c->rekey) && rc == SQLITE_OK; i++) {
      const entry *e = &c->entries[i];
      if (!(e->flags & E_DIRTY)) continue;
      if ((e->flags & E_GONE) || (c->rekey && c->tables[e->table].identities > 0 && (!(e->flags & E_INSERTED) || e->last >= 0))) {
        rc = flush_entry(c, i, 1, now);
      }
    }
    for (i = 0; i < n && rc == SQLITE_OK; i++) {
      if (!(c->entries[i].flags & E_DIRTY)) continue;
      end = bulk_end(c, i);
      rc = end > i ? flush_bulk(c, i, end, now) : flush_entry(c, i, 0, now);
    }
    if (reading) {
      int rc2 = ts_run(c->old, &c->old_commit, "COMMIT");
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
  ts_hidden h = ts_hide(c);
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
  ts_unhide(c, h);
  return rc;
}
