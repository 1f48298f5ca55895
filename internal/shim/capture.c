/*
** capture.c: which rows a connection changes, and their log rows.
**
** The hooks collect, for the open transaction, a superset of the rows it
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
** Files, each resting on those before it:
**
**    capture_record.c     SQLite's records: "before", "after", keys
**    capture_tables.c     tables by name, and what Go told about them
**    capture_touch.c      the rows that the transaction touched
**    capture_own.c        statements of our own, without a trace for the user
**    capture_authorize.c  what a statement may do, and what it is going to do
**    capture_hooks.c      SQLite's other hooks
**    capture_flush.c      from touched rows to log rows
**    capture_txn.c        statements and transactions, as Go drives them
**    capture.c            open and close
**
** Failure: result codes, SQLite's or TS_…. A flush that broke off poisons the
** transaction: it can only be rolled back, the commit hook sees to that. The
** same hook refuses every commit that did not come through ts_finish or
** ts_commit_allow, so that raw use of the connection cannot bypass the log.
*/
#include "captureint.h"

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
  rc = sqlite3_create_function_v2(db, "changes", 0, flags, c, ts_changes_func, NULL, NULL, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_create_function_v2(db, "total_changes", 0, flags, c, ts_total_changes_func, NULL, NULL, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_create_function_v2(db, "ts_touch", -1, flags, c, ts_touch_func, NULL, NULL, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_create_function_v2(db, "ts_log_id", 1, SQLITE_UTF8, c, ts_log_id_func, NULL, NULL, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_create_function_v2(db, "ts_record", -1, SQLITE_UTF8, c, ts_record_func, NULL, NULL, NULL);
  if (rc != SQLITE_OK) {
    free(c);
    return rc;
  }
  ts_first_hooks(c);
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
  ts_tables_free(c);
  ts_no_hooks(c);
  sqlite3_create_function_v2(c->db, "changes", 0, SQLITE_UTF8, NULL, NULL, NULL, NULL, NULL);
  sqlite3_create_function_v2(c->db, "total_changes", 0, SQLITE_UTF8, NULL, NULL, NULL, NULL, NULL);
  sqlite3_create_function_v2(c->db, "ts_touch", -1, SQLITE_UTF8, NULL, NULL, NULL, NULL, NULL);
  sqlite3_create_function_v2(c->db, "ts_log_id", 1, SQLITE_UTF8, NULL, NULL, NULL, NULL, NULL);
  sqlite3_create_function_v2(c->db, "ts_record", -1, SQLITE_UTF8, NULL, NULL, NULL, NULL, NULL);
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

/* ts_capture_internal: what runs until it is turned off is not the user's. */
void ts_capture_internal(ts_capture *c, int on) { c->internal += on ? 1 : -1; }

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
