/*
** captureint.h: what the capture_*.c files share, and nobody else sees. capture.c
** says what each is for.
*/
#ifndef TS_CAPTUREINT_H
#define TS_CAPTUREINT_H

#include "capture.h"

#include <stdlib.h>
#include <string.h>

typedef struct buf {
  unsigned char *p;
  int n, cap;
} buf;

/* A value on its way into a record. */
typedef struct field {
  sqlite3_uint64 type;
  sqlite3_uint64 bits; /* integer or double */
  const void *p;       /* text or blob */
} field;

#define FIELDS_MAX 64 /* on the stack; more are allocated */

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

/* Between ts_hide and ts_unhide, statements of our own run. */
typedef struct ts_hidden {
  sqlite3_int64 total, rowid;
} ts_hidden;

/* capture_record.c */
int ts_buf_room(buf *b, int more);
int ts_buf_add(buf *b, const void *p, int n);
int ts_grow(void **p, uint32_t n, uint32_t *cap, size_t size);
int ts_int_type(sqlite3_int64 v);
sqlite3_int64 ts_type_size(sqlite3_uint64 type);
int ts_field_of(sqlite3_value *v, field *f);
int ts_record_put(buf *b, const field *f, int n);
int ts_record_get(const unsigned char *p, int len, field *f, int n, int *count);
int ts_bind_field(sqlite3_stmt *st, int i, const field *f);
int ts_row_image(sqlite3_stmt *st, int n, buf *b);

/* capture_tables.c */
uint32_t ts_hash_bytes(uint32_t h, const void *p, int n);
int ts_has_prefix(const char *s, const char *prefix);
int ts_ours(const char *name);
int ts_table_index(ts_capture *c, const char *name);
void ts_tables_free(ts_capture *c);

/* capture_touch.c */
const unsigned char *ts_raw_key(ts_capture *c, const entry *e, int *n);
const entry *ts_entry_in(ts_capture *c, uint32_t table, const entry *e);
int ts_touch(ts_capture *c, uint32_t ti, sqlite3_int64 rowid, const buf *key, const buf *raw, uint32_t flags);
int ts_touch_key(ts_capture *c, uint32_t ti, sqlite3_value **v, uint32_t flags);
void ts_touch_func(sqlite3_context *ctx, int argc, sqlite3_value **argv);

/* capture_hooks.c */
int ts_set_hooks(ts_capture *c);
void ts_first_hooks(ts_capture *c);
void ts_no_hooks(ts_capture *c);

/* capture_authorize.c */
int ts_on_authorize(void *arg, int action, const char *a, const char *b, const char *db, const char *trigger);

/* capture_own.c */
void ts_changes_func(sqlite3_context *ctx, int argc, sqlite3_value **argv);
void ts_total_changes_func(sqlite3_context *ctx, int argc, sqlite3_value **argv);
void ts_user_runs(ts_capture *c, int counts);
void ts_user_ran(ts_capture *c);
ts_hidden ts_hide_reads(ts_capture *c);
ts_hidden ts_hide(ts_capture *c);
void ts_unhide(ts_capture *c, ts_hidden h);
int ts_explain(ts_capture *c, sqlite3 *db, int rc);
int ts_get(sqlite3 *db, sqlite3_stmt **st, const char *sql);
int ts_run(sqlite3 *db, sqlite3_stmt **st, const char *sql);
int ts_number(sqlite3 *db, sqlite3_stmt **st, const char *sql, sqlite3_int64 *out);

/* capture_flush.c */
int ts_flush(ts_capture *c, ts_txn *out);
int ts_rolled_back(ts_capture *c);
void ts_log_id_func(sqlite3_context *ctx, int argc, sqlite3_value **argv);
void ts_record_func(sqlite3_context *ctx, int argc, sqlite3_value **argv);

#endif
