/*
** capture.h: what capture.c and capture_*.c offer to capture.go. See capture.c.
*/
#ifndef TS_CAPTURE_H
#define TS_CAPTURE_H

#include "shim.h"

typedef struct ts_capture ts_capture;

/* Result codes of our own. */
#define TS_UNDEFINED -20 /* a touched table has no definition yet: out->table names it */
#define TS_POISONED -21  /* an earlier flush of this transaction broke off */
#define TS_STALE -22     /* a ROLLBACK TO undid schema changes: read the schema again */
#define TS_UNCAPTURED -23 /* rows were changed behind our back */
#define TS_NOTX -24       /* no transaction is open */
#define TS_INSIDE -25     /* a transaction is open */

/* Hooks, as bits of displaced masks. */
#define TS_HOOK_UPDATE 1
#define TS_HOOK_PREUPDATE 2
#define TS_HOOK_COMMIT 4
#define TS_HOOK_ROLLBACK 8
#define TS_HOOK_WAL 16
#define TS_HOOK_AUTHORIZER 32

/* Why the authorizer said no. */
#define TS_DENY_NONE 0
#define TS_DENY_INTERNAL 1 /* a table of ours */
#define TS_DENY_VIRTUAL 2  /* CREATE VIRTUAL TABLE */
#define TS_DENY_PRAGMA 3

/* ts_begin: how to come to hold the write lock. */
#define TS_BEGIN_IMMEDIATE 0 /* no transaction is open: BEGIN IMMEDIATE */
#define TS_BEGIN_UPGRADE 1   /* one is open: make it a write transaction */
#define TS_BEGIN_NOTHING 2   /* look only */
#define TS_BEGIN_LOCKED 3    /* the user's BEGIN IMMEDIATE has just taken it */

extern int sqlite3_stmt_status(sqlite3_stmt *, int, int) TS_WEAK;
extern void sqlite3_result_blob(sqlite3_context *, const void *, int, void (*)(void *)) TS_WEAK;
typedef struct sqlite3_mutex sqlite3_mutex;
extern sqlite3_mutex *sqlite3_db_mutex(sqlite3 *) TS_WEAK;
extern void sqlite3_mutex_enter(sqlite3_mutex *) TS_WEAK;
extern void sqlite3_mutex_leave(sqlite3_mutex *) TS_WEAK;
#define SQLITE_STMTSTATUS_REPREPARE 5

/* What ts_begin is to do. */
typedef struct ts_want {
  int how;               /* TS_BEGIN_… */
  int temp;              /* read temp_cookie */
  int replace;           /* the statement that follows may replace rows */
  int rekey;             /* or change keys */
  int counts;            /* and SQLite counts its changes */
  int probe;             /* make sure of the authorizer: the statement deletes */
  sqlite3_int64 next_id; /* the next change id; 0: read it */
  int known;             /* cookie is right if change is the commit counter */
  uint32_t change, cookie;
} ts_want;

typedef struct ts_txn {
  uint32_t cookie;        /* schema version of main */
  uint32_t temp_cookie;   /* of temp; 0 unless asked for */
  uint32_t change;        /* iChange of the wal-index */
  int wal_rc;             /* result of reading it */
  int displaced;          /* TS_HOOK_… */
  sqlite3_int64 next_id;  /* the next change id */
  sqlite3_int64 logged;   /* rows logged by this call */
  int wal_commits;        /* commits that wrote frames to main's WAL, by this call */
  sqlite3_int64 max_id;   /* the last id logged in the open transaction; 0: none */
  int committed;          /* a commit with log rows was among them */
  int autocommit;         /* afterwards */
  int writing;            /* a write transaction is open on main */
  int stale;              /* a rollback undid what ts_ddl announced; told once */
  int refused;            /* our commit hook refused a commit in this call */
  const char *table;      /* with TS_UNDEFINED */
  const char *message;    /* SQLite's words for an error; NULL or empty: none */
} ts_txn;

/* One place to look for a row's image among the rows logged in this transaction. */
typedef struct ts_source {
  const char *name;     /* the table's name then */
  sqlite3_int64 above;  /* only change ids above this */
  sqlite3_int64 upto;   /* and up to this */
  const int *map;       /* for each present column: its index then, or -1 - i for default i; NULL: same */
} ts_source;

typedef struct ts_table {
  const char *name;
  const char *sql_new;       /* SELECT of the stored columns by rowid, or by key; NULL: no such table */
  const char *sql_old;       /* the same on the old connection; NULL: did not exist */
  const char *sql_bulk;      /* logs a range of inserted rows; NULL: row by row */
  const int *old_map;        /* as ts_source.map */
  int columns;
  const int *key;            /* columns of the declared key, unless that is the rowid */
  int keys;
  sqlite3_int64 shape;
  const char *shape_key;     /* 'shape.<n>' */
  const char *shape_json;
  const ts_source *sources;  /* newest first; none: itself, always */
  int source_count;
  const void *defaults;      /* record of the values that maps refer to */
  int defaults_len;
} ts_table;

typedef struct ts_class {
  int tail;      /* bytes of the text that the first statement takes */
  int empty;     /* no statement */
  int readonly;
  int explain;
  int params;
  int columns;
  int authorized; /* our authorizer was asked */
  int deny;
  const char *deny_what;
  const void *actions; /* valid until the next call */
  int actions_len;
} ts_class;

int ts_capture_open(sqlite3 *db, sqlite3 *old, ts_capture **out);
void ts_capture_close(ts_capture *c);
int ts_capture_preupdate(void);
void ts_capture_internal(ts_capture *c, int on);
void ts_capture_arm(ts_capture *c);
int ts_capture_check(ts_capture *c, int probe);
int ts_classify(ts_capture *c, const char *sql, int n, ts_class *out);
int ts_begin(ts_capture *c, const ts_want *want, ts_txn *out);
int ts_finish(ts_capture *c, int commit, ts_txn *out);
int ts_rollback(ts_capture *c, ts_txn *out);
void ts_commit_allow(ts_capture *c, int on);
void ts_capture_state(ts_capture *c, ts_txn *out);
void ts_capture_reset(ts_capture *c);
void ts_poison(ts_capture *c);
int ts_touch_rows(ts_capture *c, const char *name, const char *sql, int inserted);
void ts_forget_tables(ts_capture *c);
void ts_forget_shapes(ts_capture *c);
int ts_define(ts_capture *c, const ts_table *t);
int ts_define_keyed(ts_capture *c, const char *name, int nkey, const int *columns, const int *collations);
void ts_undefine_keyed(ts_capture *c);
void ts_ddl(ts_capture *c, int ddl);
int ts_log_schema(ts_capture *c, int type, const void *record, int n, sqlite3_int64 *id);
int ts_stmt_starts(ts_capture *c, int replace, int rekey, int counts);
void ts_stmt_counts(ts_capture *c);
int ts_stmt_done(ts_capture *c);
void ts_stmt_ends(ts_capture *c, ts_txn *out);
void ts_changes(ts_capture *c, sqlite3_int64 *changes, sqlite3_int64 *total, sqlite3_int64 *rowid);
const char *ts_same_file(sqlite3 *db);

#endif
