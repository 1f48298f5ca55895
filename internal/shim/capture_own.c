/*
** capture_own.c: statements of our own on the user's connection, without a trace.
**
** Between ts_hide and ts_unhide the hooks and the authorizer look away, and the
** changes are counted as ours. Users see changes(), total_changes() and
** last_insert_rowid() as if none had run.
*/
#include "captureint.h"

/*
** Users' SQL must not see that we insert log rows: changes() and total_changes()
** are ours. last_insert_rowid() needs no function, it can be set back.
*/
void ts_changes_func(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  sqlite3_int64 changes, total, rowid;
  (void)argc;
  (void)argv;
  ts_changes(sqlite3_user_data(ctx), &changes, &total, &rowid);
  sqlite3_result_int64(ctx, changes);
}

void ts_total_changes_func(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
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

/* ts_user_runs: SQLite counts the changes of a statement of the user from here on;
** not counts: it is of a kind that is not counted. */
void ts_user_runs(ts_capture *c, int counts) {
  c->changes_valid = !counts;
  c->start_total = sqlite3_total_changes64(c->db);
}

/* ts_user_ran: it has ended. */
void ts_user_ran(ts_capture *c) {
  if (c->changes_valid) return;
  c->changes = sqlite3_changes64(c->db);
  c->changes_valid = 1;
}

/* ts_hide_reads is for our own that change nothing: the user's may be about to run. */
ts_hidden ts_hide_reads(ts_capture *c) {
  ts_hidden h;
  /* Every call below takes this mutex; to hold it already makes that cheap. */
  sqlite3_mutex_enter(sqlite3_db_mutex(c->db));
  h.total = sqlite3_total_changes64(c->db);
  h.rowid = sqlite3_last_insert_rowid(c->db);
  c->internal++;
  return h;
}

ts_hidden ts_hide(ts_capture *c) {
  ts_user_ran(c);
  return ts_hide_reads(c);
}

void ts_unhide(ts_capture *c, ts_hidden h) {
  c->internal--;
  c->own_changes += sqlite3_total_changes64(c->db) - h.total;
  sqlite3_set_last_insert_rowid(c->db, h.rowid);
  sqlite3_mutex_leave(sqlite3_db_mutex(c->db));
}

/* ts_explain keeps SQLite's message before another call replaces it. */
int ts_explain(ts_capture *c, sqlite3 *db, int rc) {
  const char *m = rc > 0 ? sqlite3_errmsg(db) : "";
  size_t n = strlen(m);
  if (n >= sizeof(c->message)) n = sizeof(c->message) - 1;
  memcpy(c->message, m, n);
  c->message[n] = 0;
  return rc;
}

/* ts_get prepares a statement when it is used first. */
int ts_get(sqlite3 *db, sqlite3_stmt **st, const char *sql) {
  if (*st != NULL) return SQLITE_OK;
  return sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, st, NULL);
}

/* ts_run steps a cached statement that returns nothing. */
int ts_run(sqlite3 *db, sqlite3_stmt **st, const char *sql) {
  int rc = ts_get(db, st, sql);
  if (rc != SQLITE_OK) return rc;
  sqlite3_step(*st);
  return sqlite3_reset(*st);
}

/* ts_number runs a cached statement that returns one integer. */
int ts_number(sqlite3 *db, sqlite3_stmt **st, const char *sql, sqlite3_int64 *out) {
  int rc = ts_get(db, st, sql);
  *out = 0;
  if (rc != SQLITE_OK) return rc;
  if (sqlite3_step(*st) == SQLITE_ROW) *out = sqlite3_column_int64(*st, 0);
  return sqlite3_reset(*st);
}
