/*
** handle.c: which sqlite3* stands behind a Go connection.
**
** go-sqlite3 keeps its handle to itself. An auto extension, registered when
** this package is initialised, gives every connection that is opened from then
** on the SQL function ts_shim_handle(nonce). Of, on the Go side, posts a random
** nonce, has the connection call the function with it, and takes the handle
** that the function left here. Without a posted nonce the function does nothing
** but fail, so user SQL that finds it gains nothing.
**
** Threads: the auto extension runs on whichever thread opens a connection, the
** function on whichever thread runs the statement. Go holds one lock from
** expect to take, so there is one nonce at a time; the variables are atomic
** because foreign SQL may call the function at any moment.
*/
#include "shim.h"

#define DBCONFIG_NO_CKPT_ON_CLOSE 1006

static uint64_t expected; /* 0: nobody is asking */
static sqlite3 *answer;

static void handle_func(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  uint64_t nonce = (uint64_t)sqlite3_value_int64(argv[0]);
  (void)argc;
  /* The exchange makes the nonce good for one call only. */
  if (nonce == 0 || !__atomic_compare_exchange_n(&expected, &nonce, 0, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    sqlite3_result_error(ctx, "ts_shim_handle is internal to tursosync", -1);
    return;
  }
  __atomic_store_n(&answer, sqlite3_context_db_handle(ctx), __ATOMIC_SEQ_CST);
  sqlite3_result_null(ctx);
}

/*
** With the URI parameter ts_no_checkpoint=1 a connection never checkpoints when it
** is closed. The switch exists for connections that are open only, and opening may
** fail with the connection half made, as when go-sqlite3's own PRAGMAs meet a
** malformed schema: what closes it then would checkpoint.
*/
static int handle_extension(sqlite3 *db, const char **err, const sqlite3_api_routines *api) {
  const char *file = sqlite3_db_filename != NULL ? sqlite3_db_filename(db, "main") : NULL;
  int rc;
  (void)err;
  (void)api;
  if (file != NULL && file[0] != 0 && sqlite3_uri_boolean != NULL && sqlite3_uri_boolean(file, "ts_no_checkpoint", 0)) {
    rc = sqlite3_db_config(db, DBCONFIG_NO_CKPT_ON_CLOSE, 1, (int *)0);
    if (rc != SQLITE_OK) return rc;
  }
  /* DIRECTONLY: never from a trigger or a view of the schema. */
  return sqlite3_create_function_v2(db, "ts_shim_handle", 1, SQLITE_UTF8 | SQLITE_DIRECTONLY, NULL, handle_func, NULL, NULL,
                                    NULL);
}

/* ts_handle_init registers the auto extension. SQLITE_MISUSE: no SQLite is linked. */
int ts_handle_init(void) {
  if (sqlite3_auto_extension == NULL || sqlite3_create_function_v2 == NULL) return SQLITE_MISUSE;
  return sqlite3_auto_extension((void (*)(void))handle_extension);
}

/* ts_handle_expect posts a nonce; 0 withdraws it. */
void ts_handle_expect(uint64_t nonce) {
  __atomic_store_n(&answer, NULL, __ATOMIC_SEQ_CST);
  __atomic_store_n(&expected, nonce, __ATOMIC_SEQ_CST);
}

/* ts_handle_take returns the handle the function left, or NULL, and forgets it. */
sqlite3 *ts_handle_take(void) {
  __atomic_store_n(&expected, 0, __ATOMIC_SEQ_CST);
  return __atomic_exchange_n(&answer, NULL, __ATOMIC_SEQ_CST);
}

/* ts_db_config is sqlite3_db_config for the switches, which take (int, int*). */
int ts_db_config(sqlite3 *db, int op, int on, int *now) { return sqlite3_db_config(db, op, on, now); }
