/*
** capture_txn.c: statements and transactions, as Go drives them.
**
** A statement of the user's that may write goes ts_begin, itself, ts_finish, or
** within a transaction that writes already ts_stmt_starts, itself, ts_stmt_done or
** ts_stmt_ends. Each of them is one call from Go, and tells in ts_txn where the
** connection stands.
*/
#include "captureint.h"

/* upgrade_text takes the write lock inside a transaction and changes nothing. */
#define upgrade_text "DELETE FROM main.turso_sync_state WHERE key IS NULL"

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
  ts_user_runs(c, counts);
  return SQLITE_OK;
}

/* ts_stmt_counts announces a statement outside of a transaction of ours whose
** changes SQLite counts; ts_stmt_ends follows it. */
void ts_stmt_counts(ts_capture *c) { ts_user_runs(c, 1); }

void ts_stmt_ends(ts_capture *c, ts_txn *out) {
  memset(out, 0, sizeof(*out));
  ts_user_ran(c);
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
  ts_user_ran(c);
  c->seen_total = sqlite3_total_changes64(c->db);
  return 1;
}

/* schema_cookie reads main's schema version. */
static int schema_cookies(ts_capture *c, int want_temp, ts_txn *out) {
  sqlite3_int64 v;
  int rc = ts_number(c->db, &c->cookie, "PRAGMA main.schema_version", &v);
  out->cookie = (uint32_t)v;
  if (rc == SQLITE_OK && want_temp) {
    /* Prepared anew each time: PRAGMA temp_store takes the database away from
    ** under a statement that is not. */
    sqlite3_stmt *st = NULL;
    rc = ts_number(c->db, &st, "PRAGMA temp.schema_version", &v);
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
  rc = ts_get(c->db, st, text[want->how]);
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
    rc = ts_number(c->db, &c->last_id,
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
  ts_hidden h;
  int rc = SQLITE_OK;
  memset(out, 0, sizeof(*out));
  if (want->how == TS_BEGIN_IMMEDIATE && !sqlite3_get_autocommit(c->db)) return TS_INSIDE;
  h = ts_hide(c);
  out->displaced = ts_set_hooks(c) | c->put_aside;
  c->put_aside = 0;
  c->refused = 0;
  c->replace = want->replace;
  if (want->how == TS_BEGIN_UPGRADE && sqlite3_txn_state(c->db, "main") == SQLITE_TXN_WRITE) {
    /* Somebody has written before on the raw connection. */
    c->poisoned = 1;
    rc = TS_UNCAPTURED;
  } else if (want->how == TS_BEGIN_NOTHING) {
    rc = ts_rolled_back(c);
    if (rc == TS_STALE) rc = SQLITE_OK; /* out->stale says it */
  } else if (out->displaced == 0 && want->how != TS_BEGIN_LOCKED) {
    if (want->how == TS_BEGIN_IMMEDIATE && (c->nentries || c->txn_id || c->poisoned)) ts_capture_reset(c);
    rc = take_lock(c, want, out);
  }
  if (out->displaced & TS_HOOK_AUTHORIZER) sqlite3_set_authorizer(c->db, ts_on_authorize, c);
  if (rc == SQLITE_OK && out->displaced == 0) rc = look_around(c, want, out);
  if (rc == SQLITE_OK && want->rekey) c->rekey = 1;
  /* What was written before on this connection may not have been seen. */
  if (out->displaced && !sqlite3_get_autocommit(c->db)) c->poisoned = 1;
  ts_unhide(c, h);
  ts_user_runs(c, want->counts);
  look(c, out);
  return rc;
}

/*
** ts_finish logs what is not logged yet and, with commit, commits. TS_UNDEFINED:
** nothing was done; define out->table and call again. TS_STALE: the same after
** reading the schema again. Without commit, out->cookie is set.
*/
int ts_finish(ts_capture *c, int commit, ts_txn *out) {
  ts_hidden h;
  int rc;
  memset(out, 0, sizeof(*out));
  h = ts_hide(c);
  out->displaced = ts_set_hooks(c);
  if (out->displaced) {
    c->poisoned = 1;
    ts_unhide(c, h);
    look(c, out);
    return SQLITE_OK;
  }
  c->message[0] = 0;
  out->message = c->message;
  if (!commit && h.total != c->seen_total) {
    c->poisoned = 1;
    rc = TS_UNCAPTURED;
  } else {
    rc = ts_flush(c, out);
  }
  if (rc == SQLITE_OK && !commit) rc = schema_cookies(c, 0, out);
  if (rc == SQLITE_OK && commit) {
    c->commit_ok = 1;
    rc = ts_run(c->db, &c->commit, "COMMIT");
    c->commit_ok = 0;
    if (rc == SQLITE_OK) ts_capture_reset(c);
  }
  ts_unhide(c, h);
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
  return ts_run(c->db, &c->rollback, "ROLLBACK");
}

/* ts_rollback rolls back, if there is something to. */
int ts_rollback(ts_capture *c, ts_txn *out) {
  int rc = SQLITE_OK;
  memset(out, 0, sizeof(*out));
  if (!sqlite3_get_autocommit(c->db)) {
    ts_hidden h = ts_hide(c);
    rc = ts_run(c->db, &c->rollback, "ROLLBACK");
    if (rc != SQLITE_OK && !sqlite3_get_autocommit(c->db)) rc = roll_back_interrupted(c);
    ts_unhide(c, h);
  }
  if (rc == SQLITE_OK) ts_capture_reset(c);
  look(c, out);
  return rc;
}

/* ts_commit_allow: the log is complete, the user's own COMMIT may pass. */
void ts_commit_allow(ts_capture *c, int on) { c->commit_ok = on; }

/* ts_poison: the log of the open transaction is not complete; it must not commit. */
void ts_poison(ts_capture *c) { c->poisoned = 1; }
