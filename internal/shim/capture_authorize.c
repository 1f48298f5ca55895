/*
** capture_authorize.c: the authorizer of a captured connection.
**
** SQLite asks it while a statement is prepared (https://sqlite.org/c3ref/set_authorizer.html).
** It does three things: refuses what would change our tables or take the log away,
** makes DELETE without WHERE report every row, and for ts_classify records what a
** statement is about to do, so that nobody has to parse SQL.
*/
#include "captureint.h"

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
  int i, rc = ts_buf_add(&c->actions, &code, 1);
  for (i = 0; i < 4 && rc == SQLITE_OK; i++) {
    const char *t = s[i] ? s[i] : "";
    unsigned char present = s[i] != NULL;
    rc = ts_buf_add(&c->actions, &present, 1);
    if (rc == SQLITE_OK) rc = ts_buf_add(&c->actions, t, (int)strlen(t) + 1);
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

int ts_on_authorize(void *arg, int action, const char *a, const char *b, const char *db, const char *trigger) {
  ts_capture *c = arg;
  int prev = c->prev_action;
  c->probed = 1;
  if (c->internal || action == A_READ || action == A_SELECT || action == A_RECURSIVE) return SQLITE_OK;
  if (action == A_FUNCTION) {
    if (b == NULL || sqlite3_stricmp(b, "ts_touch") != 0) return SQLITE_OK;
    return trigger != NULL && ts_has_prefix(trigger, "__turso_internal_") ? SQLITE_OK : SQLITE_DENY;
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
      if (ts_ours(a)) return deny(c, TS_DENY_INTERNAL, a, NULL);
      /* IGNORE for a DELETE turns the truncate optimisation off, so that each row
      ** is reported. DROP asks too, and would silently do nothing. */
      if (action != A_DELETE || ts_has_prefix(a, "sqlite_")) return SQLITE_OK;
      if (prev == A_DROP_TABLE || prev == A_DROP_VIEW || prev == A_DROP_VTABLE) return SQLITE_OK;
      return SQLITE_IGNORE;
    case A_CREATE_TABLE:
    case A_DROP_TABLE:
      return is_main(db) && ts_ours(a) ? deny(c, TS_DENY_INTERNAL, a, NULL) : SQLITE_OK;
    case A_CREATE_INDEX:
    case A_DROP_INDEX:
    case A_CREATE_TRIGGER:
    case A_DROP_TRIGGER:
    case A_CREATE_TEMP_TRIGGER:
      if (ts_has_prefix(a, "__turso_internal_")) return deny(c, TS_DENY_INTERNAL, a, NULL);
      return ts_ours(b) ? deny(c, TS_DENY_INTERNAL, b, NULL) : SQLITE_OK;
    case A_ALTER_TABLE:
      return is_main(a) && ts_ours(b) ? deny(c, TS_DENY_INTERNAL, b, NULL) : SQLITE_OK;
    case A_CREATE_VTABLE:
    case A_DROP_VTABLE:
      return is_main(db) ? deny(c, TS_DENY_VIRTUAL, a, NULL) : SQLITE_OK;
    case A_PRAGMA:
      return authorize_pragma(c, a, b, db);
  }
  return SQLITE_OK;
}

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
