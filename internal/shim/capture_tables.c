/*
** capture_tables.c: tables by name, and what Go told about them.
**
** A table gets its place in c->tables when a hook, or Go, names it first, and keeps
** it as long as the capture lives: entries refer to it by index. Its definition is
** given by ts_define when a flush asks for it (TS_UNDEFINED) and is forgotten when
** the schema changes. Pointers into c->tables hold until the next ts_table_index.
*/
#include "captureint.h"

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

uint32_t ts_hash_bytes(uint32_t h, const void *p, int n) {
  const unsigned char *s = p;
  while (n-- > 0) h = (h ^ *s++) * 16777619u;
  return h;
}

int ts_has_prefix(const char *s, const char *prefix) { return sqlite3_strnicmp(s, prefix, (int)strlen(prefix)) == 0; }

/* ts_ours tells whether a table belongs to the synchronisation (cdc.Internal). */
int ts_ours(const char *name) {
  if (name == NULL) return 0;
  if (ts_has_prefix(name, "__turso_internal_")) return 1;
  if (!ts_has_prefix(name, "turso_")) return 0;
  return sqlite3_stricmp(name, "turso_cdc") == 0 || sqlite3_stricmp(name, "turso_sync_state") == 0 ||
         sqlite3_stricmp(name, "turso_sync_rejected") == 0 || sqlite3_stricmp(name, "turso_sync_last_change_id") == 0;
}

static int names_rehash(ts_capture *c) {
  uint32_t cap = c->capnames ? c->capnames * 2 : 64, i;
  uint32_t *slots = calloc(cap, sizeof(uint32_t));
  if (slots == NULL) return SQLITE_NOMEM;
  for (i = 0; i < c->ntables; i++) {
    const char *name = c->tables[i].name;
    uint32_t h = ts_hash_bytes(2166136261u, name, (int)strlen(name)) & (cap - 1);
    while (slots[h]) h = (h + 1) & (cap - 1);
    slots[h] = i + 1;
  }
  free(c->names);
  c->names = slots;
  c->capnames = cap;
  return SQLITE_OK;
}

/* ts_table_index finds or adds a table; -1: no memory. */
int ts_table_index(ts_capture *c, const char *name) {
  uint32_t h;
  if (c->last_table < c->ntables && strcmp(c->tables[c->last_table].name, name) == 0) return (int)c->last_table;
  if (c->ntables * 2 >= c->capnames && names_rehash(c) != SQLITE_OK) return -1;
  h = ts_hash_bytes(2166136261u, name, (int)strlen(name)) & (c->capnames - 1);
  while (c->names[h]) {
    uint32_t i = c->names[h] - 1;
    if (strcmp(c->tables[i].name, name) == 0) {
      c->last_table = i;
      return (int)i;
    }
    h = (h + 1) & (c->capnames - 1);
  }
  if (ts_grow((void **)&c->tables, c->ntables, &c->captables, sizeof(table)) != SQLITE_OK) return -1;
  table *t = &c->tables[c->ntables];
  int rc = SQLITE_OK;
  memset(t, 0, sizeof(*t));
  t->name = copy_text(name, &rc);
  if (rc != SQLITE_OK) return -1;
  t->ignored = ts_ours(name) || ts_has_prefix(name, "sqlite_");
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

/* ts_tables_free is the end of all tables. */
void ts_tables_free(ts_capture *c) {
  uint32_t i;
  for (i = 0; i < c->ntables; i++) {
    table_undefine(&c->tables[i]);
    table_unkey(&c->tables[i]);
    free(c->tables[i].defaults.p);
    free(c->tables[i].name);
  }
  free(c->tables);
  free(c->names);
}

/* ts_forget_tables: the schema has changed; flush will ask for definitions. */
void ts_forget_tables(ts_capture *c) {
  uint32_t i;
  for (i = 0; i < c->ntables; i++) table_undefine(&c->tables[i]);
}

/* ts_forget_shapes: turso_sync_state may have lost shapes. */
void ts_forget_shapes(ts_capture *c) { c->shapes++; }

/* ts_define gives a table's definition; everything is copied. */
int ts_define(ts_capture *c, const ts_table *d) {
  int i, ti = ts_table_index(c, d->name), rc = SQLITE_OK;
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
      s[i].table = ts_table_index(c, d->sources[i].name);
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
  if (rc == SQLITE_OK) rc = ts_buf_add(&t->defaults, d->defaults, d->defaults_len);
  if (rc == SQLITE_OK && (t->shape_key == NULL || t->shape_json == NULL)) rc = SQLITE_MISUSE;
  if (rc != SQLITE_OK) return rc; /* half a definition is none: table_undefine frees it */
  t->defined = 1;
  return SQLITE_OK;
}

/* ts_define_keyed names a table WITHOUT ROWID: its rows are known by key from now on. */
int ts_define_keyed(ts_capture *c, const char *name, int nkey, const int *columns, const int *collations) {
  int ti = ts_table_index(c, name), rc = SQLITE_OK;
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
