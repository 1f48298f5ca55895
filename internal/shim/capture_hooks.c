/*
** capture_hooks.c: SQLite's hooks on a captured connection.
**
** The update hook, or the pre-update hook where the library has it, notes which rows
** change. The commit hook lets nothing pass that is not logged; the rollback hook
** forgets the transaction; the WAL hook counts commits, and checkpoints nothing.
** All are called by SQLite within a statement of this connection: none may use it.
**
** A connection has one hook of each kind. Somebody who sets another takes ours off:
** ts_set_hooks tells, when the next statement starts or ends.
*/
#include "captureint.h"

/* A hook that cannot note a touch (no memory) must not let the change pass. */
static void fail(ts_capture *c, int rc) {
  if (rc != SQLITE_OK) c->poisoned = 1;
}

static void on_update(void *arg, int op, const char *db, const char *name, sqlite3_int64 rowid) {
  ts_capture *c = arg;
  int ti;
  if (c->internal || strcmp(db, "main") != 0) return;
  ti = ts_table_index(c, name);
  if (ti < 0) {
    c->poisoned = 1;
    return;
  }
  fail(c, ts_touch(c, (uint32_t)ti, rowid, NULL, NULL,
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
  if (rc == SQLITE_OK) rc = ts_touch_key(c, ti, v, flags);
  if (v != few) free(v);
  return rc;
}

static void on_preupdate(void *arg, sqlite3 *handle, int op, const char *db, const char *name, sqlite3_int64 rowid,
                         sqlite3_int64 new_rowid) {
  ts_capture *c = arg;
  int ti;
  (void)handle;
  if (c->internal || strcmp(db, "main") != 0) return;
  ti = ts_table_index(c, name);
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
    fail(c, ts_touch(c, (uint32_t)ti, new_rowid, NULL, NULL, c->replace ? 0 : E_INSERTED));
    return;
  }
  fail(c, ts_touch(c, (uint32_t)ti, rowid, NULL, NULL, op == SQLITE_DELETE || rowid != new_rowid ? E_GONE : 0));
  if (op == SQLITE_UPDATE && rowid != new_rowid) fail(c, ts_touch(c, (uint32_t)ti, new_rowid, NULL, NULL, 0));
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

/* ts_set_hooks puts ours back, and returns those that were not there (TS_HOOK_…). */
int ts_set_hooks(ts_capture *c) {
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

/* ts_first_hooks sets ours for the first time, and notes in put_aside whose were there. */
void ts_first_hooks(ts_capture *c) {
  /* The WAL hook is SQLite's own until somebody takes it. */
  if (sqlite3_commit_hook(c->db, on_commit, c) != NULL) c->put_aside |= TS_HOOK_COMMIT;
  if (sqlite3_rollback_hook(c->db, on_rollback, c) != NULL) c->put_aside |= TS_HOOK_ROLLBACK;
  if (c->preupdate) {
    if (sqlite3_preupdate_hook(c->db, on_preupdate, c) != NULL) c->put_aside |= TS_HOOK_PREUPDATE;
  } else if (sqlite3_update_hook(c->db, on_update, c) != NULL) {
    c->put_aside |= TS_HOOK_UPDATE;
  }
  ts_set_hooks(c);
  sqlite3_set_authorizer(c->db, ts_on_authorize, c);
}

/* ts_no_hooks takes them all off. */
void ts_no_hooks(ts_capture *c) {
  sqlite3_commit_hook(c->db, NULL, NULL);
  sqlite3_rollback_hook(c->db, NULL, NULL);
  sqlite3_wal_hook(c->db, NULL, NULL);
  if (c->preupdate) {
    sqlite3_preupdate_hook(c->db, NULL, NULL);
  } else {
    sqlite3_update_hook(c->db, NULL, NULL);
  }
  sqlite3_set_authorizer(c->db, NULL, NULL);
}

/*
** ts_capture_check puts our hooks back and returns those that were not there
** (TS_HOOK_…). The authorizer cannot be asked for; with probe a statement is
** prepared to see whether ours is called.
*/
int ts_capture_check(ts_capture *c, int probe) {
  int displaced = ts_set_hooks(c);
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
  if (displaced & TS_HOOK_AUTHORIZER) sqlite3_set_authorizer(c->db, ts_on_authorize, c);
  return displaced;
}

/* ts_capture_preupdate tells whether the library has the pre-update hook. */
int ts_capture_preupdate(void) {
  return sqlite3_preupdate_hook != NULL && sqlite3_preupdate_old != NULL && sqlite3_preupdate_new != NULL;
}
