/*
** shim.h: what the C files of this package share.
**
** The package reaches the SQLite that go-sqlite3 compiled into the binary.
** go-sqlite3's header is not on our include path, and a system sqlite3.h would
** be another version's, so the functions used are declared here. They are weak
** externs: the final link resolves them from go-sqlite3's amalgamation without
** any LDFLAGS, and one that the build lacks (sqlite3_preupdate_hook without its
** build tag) is NULL at run time. Always test such an optional one before use.
**
** All of it is SQLite's stable public interface; https://sqlite.org/c3ref/funclist.html.
*/
#ifndef TS_SHIM_H
#define TS_SHIM_H

#include <stddef.h>
#include <stdint.h>

#define TS_WEAK __attribute__((weak))

typedef struct sqlite3 sqlite3;
typedef struct sqlite3_stmt sqlite3_stmt;
typedef struct sqlite3_value sqlite3_value;
typedef struct sqlite3_context sqlite3_context;
typedef struct sqlite3_api_routines sqlite3_api_routines;
typedef int64_t sqlite3_int64;
typedef uint64_t sqlite3_uint64;

#define SQLITE_OK 0
#define SQLITE_ERROR 1
#define SQLITE_ABORT 4
#define SQLITE_BUSY 5
#define SQLITE_LOCKED 6
#define SQLITE_NOMEM 7
#define SQLITE_READONLY 8
#define SQLITE_INTERRUPT 9
#define SQLITE_IOERR 10
#define SQLITE_CORRUPT 11
#define SQLITE_NOTFOUND 12
#define SQLITE_FULL 13
#define SQLITE_CANTOPEN 14
#define SQLITE_PROTOCOL 15
#define SQLITE_SCHEMA 17
#define SQLITE_TOOBIG 18
#define SQLITE_CONSTRAINT 19
#define SQLITE_MISMATCH 20
#define SQLITE_MISUSE 21
#define SQLITE_AUTH 23
#define SQLITE_ROW 100
#define SQLITE_DONE 101
#define SQLITE_IOERR_SHORT_READ (SQLITE_IOERR | (2 << 8))
#define SQLITE_IOERR_SHMLOCK (SQLITE_IOERR | (20 << 8))

#define SQLITE_INTEGER 1
#define SQLITE_FLOAT 2
#define SQLITE_TEXT 3
#define SQLITE_BLOB 4
#define SQLITE_NULL 5

#define SQLITE_UTF8 1
#define SQLITE_DETERMINISTIC 0x000000800
#define SQLITE_DIRECTONLY 0x000080000
#define SQLITE_INNOCUOUS 0x000200000

#define SQLITE_STATIC ((void (*)(void *))0)
#define SQLITE_TRANSIENT ((void (*)(void *))-1)

#define SQLITE_PREPARE_PERSISTENT 0x01
#define SQLITE_PREPARE_NO_VTAB 0x04

#define SQLITE_DELETE 9
#define SQLITE_INSERT 18
#define SQLITE_UPDATE 23
#define SQLITE_DENY 1
#define SQLITE_IGNORE 2

#define SQLITE_TXN_NONE 0
#define SQLITE_TXN_READ 1
#define SQLITE_TXN_WRITE 2

/* files: SQLite's VFS interface, https://sqlite.org/c3ref/io_methods.html */
typedef struct sqlite3_file sqlite3_file;
typedef struct sqlite3_io_methods sqlite3_io_methods;
struct sqlite3_file {
  const sqlite3_io_methods *pMethods; /* NULL: not open */
};
struct sqlite3_io_methods {
  int iVersion;
  int (*xClose)(sqlite3_file *);
  int (*xRead)(sqlite3_file *, void *, int n, sqlite3_int64 off);
  int (*xWrite)(sqlite3_file *, const void *, int n, sqlite3_int64 off);
  int (*xTruncate)(sqlite3_file *, sqlite3_int64 size);
  int (*xSync)(sqlite3_file *, int flags);
  int (*xFileSize)(sqlite3_file *, sqlite3_int64 *size);
  int (*xLock)(sqlite3_file *, int);
  int (*xUnlock)(sqlite3_file *, int);
  int (*xCheckReservedLock)(sqlite3_file *, int *);
  int (*xFileControl)(sqlite3_file *, int op, void *arg);
  int (*xSectorSize)(sqlite3_file *);
  int (*xDeviceCharacteristics)(sqlite3_file *);
  /* iVersion 2 */
  int (*xShmMap)(sqlite3_file *, int region, int size, int extend, void volatile **);
  int (*xShmLock)(sqlite3_file *, int offset, int n, int flags);
  void (*xShmBarrier)(sqlite3_file *);
  int (*xShmUnmap)(sqlite3_file *, int remove);
  /* iVersion 3 */
  int (*xFetch)(sqlite3_file *, sqlite3_int64 off, int n, void **);
  int (*xUnfetch)(sqlite3_file *, sqlite3_int64 off, void *);
};

#define SQLITE_FCNTL_FILE_POINTER 7
#define SQLITE_FCNTL_JOURNAL_POINTER 28
#define SQLITE_SYNC_NORMAL 2
#define SQLITE_SYNC_FULL 3
#define SQLITE_SHM_UNLOCK 1
#define SQLITE_SHM_LOCK 2
#define SQLITE_SHM_SHARED 4
#define SQLITE_SHM_EXCLUSIVE 8

/*
** Result codes of our own, beside SQLite's positive ones. check in handle.go
** turns them into errors.
*/
#define TS_EMPTY -1     /* the WAL holds no frame */
#define TS_NOTREADY -2  /* no valid wal-index: read through SQLite, which recovers it, and try again */
#define TS_PAGESIZE -3  /* pages are not of TS_PAGE bytes */
#define TS_VERSION -4   /* WAL or wal-index of a version we do not know */
#define TS_MISMATCH -5  /* WAL and wal-index disagree */
#define TS_INTX -6      /* the connection is in a transaction */
#define TS_PAGENO -7    /* a page number that cannot be */
#define TS_NOPAGES -8   /* a page commit of nothing */
#define TS_HOLE -10     /* the database would grow by pages that are not there */
#define TS_TORN -9      /* the header of the wal-index is being written, or its writer died */
#define TS_SURPRISE -11 /* an entry of a batch did not do what it should */

/* connections */
extern int sqlite3_auto_extension(void (*)(void)) TS_WEAK;
extern int sqlite3_db_config(sqlite3 *, int, ...) TS_WEAK;
extern int sqlite3_file_control(sqlite3 *, const char *, int, void *) TS_WEAK;
extern int sqlite3_get_autocommit(sqlite3 *) TS_WEAK;
extern int sqlite3_txn_state(sqlite3 *, const char *) TS_WEAK;
extern int sqlite3_db_readonly(sqlite3 *, const char *) TS_WEAK;
extern const char *sqlite3_db_filename(sqlite3 *, const char *) TS_WEAK;
extern const char *sqlite3_db_name(sqlite3 *, int) TS_WEAK;
extern int sqlite3_errcode(sqlite3 *) TS_WEAK;
extern int sqlite3_extended_errcode(sqlite3 *) TS_WEAK;
extern const char *sqlite3_errmsg(sqlite3 *) TS_WEAK;
extern const char *sqlite3_errstr(int) TS_WEAK;
extern int sqlite3_system_errno(sqlite3 *) TS_WEAK;
extern sqlite3_int64 sqlite3_last_insert_rowid(sqlite3 *) TS_WEAK;
extern void sqlite3_set_last_insert_rowid(sqlite3 *, sqlite3_int64) TS_WEAK;
extern int sqlite3_changes(sqlite3 *) TS_WEAK;
extern sqlite3_int64 sqlite3_changes64(sqlite3 *) TS_WEAK;
extern int sqlite3_total_changes(sqlite3 *) TS_WEAK;
extern sqlite3_int64 sqlite3_total_changes64(sqlite3 *) TS_WEAK;
extern void sqlite3_interrupt(sqlite3 *) TS_WEAK;
extern int sqlite3_is_interrupted(sqlite3 *) TS_WEAK;
extern int sqlite3_limit(sqlite3 *, int, int) TS_WEAK;
extern int sqlite3_busy_timeout(sqlite3 *, int) TS_WEAK;
extern int sqlite3_exec(sqlite3 *, const char *, int (*)(void *, int, char **, char **), void *, char **) TS_WEAK;
extern int sqlite3_table_column_metadata(sqlite3 *, const char *, const char *, const char *, char const **,
                                         char const **, int *, int *, int *) TS_WEAK;
extern void *sqlite3_get_clientdata(sqlite3 *, const char *) TS_WEAK;
extern int sqlite3_set_clientdata(sqlite3 *, const char *, void *, void (*)(void *)) TS_WEAK;
extern int sqlite3_compileoption_used(const char *) TS_WEAK;
extern int sqlite3_libversion_number(void) TS_WEAK;

/* hooks */
extern void *sqlite3_update_hook(sqlite3 *, void (*)(void *, int, char const *, char const *, sqlite3_int64), void *) TS_WEAK;
extern void *sqlite3_commit_hook(sqlite3 *, int (*)(void *), void *) TS_WEAK;
extern void *sqlite3_rollback_hook(sqlite3 *, void (*)(void *), void *) TS_WEAK;
extern void *sqlite3_wal_hook(sqlite3 *, int (*)(void *, sqlite3 *, const char *, int), void *) TS_WEAK;
extern int sqlite3_set_authorizer(sqlite3 *, int (*)(void *, int, const char *, const char *, const char *, const char *),
                                  void *) TS_WEAK;
/* only in builds with SQLITE_ENABLE_PREUPDATE_HOOK: NULL otherwise */
extern void *sqlite3_preupdate_hook(sqlite3 *,
                                    void (*)(void *, sqlite3 *, int, char const *, char const *, sqlite3_int64, sqlite3_int64),
                                    void *) TS_WEAK;
extern int sqlite3_preupdate_old(sqlite3 *, int, sqlite3_value **) TS_WEAK;
extern int sqlite3_preupdate_new(sqlite3 *, int, sqlite3_value **) TS_WEAK;
extern int sqlite3_preupdate_count(sqlite3 *) TS_WEAK;
extern int sqlite3_preupdate_depth(sqlite3 *) TS_WEAK;
extern int sqlite3_preupdate_blobwrite(sqlite3 *) TS_WEAK;

/* statements */
extern int sqlite3_prepare_v2(sqlite3 *, const char *, int, sqlite3_stmt **, const char **) TS_WEAK;
extern int sqlite3_prepare_v3(sqlite3 *, const char *, int, unsigned int, sqlite3_stmt **, const char **) TS_WEAK;
extern int sqlite3_step(sqlite3_stmt *) TS_WEAK;
extern int sqlite3_reset(sqlite3_stmt *) TS_WEAK;
extern int sqlite3_clear_bindings(sqlite3_stmt *) TS_WEAK;
extern int sqlite3_finalize(sqlite3_stmt *) TS_WEAK;
extern sqlite3 *sqlite3_db_handle(sqlite3_stmt *) TS_WEAK;
extern sqlite3_stmt *sqlite3_next_stmt(sqlite3 *, sqlite3_stmt *) TS_WEAK;
extern const char *sqlite3_sql(sqlite3_stmt *) TS_WEAK;
extern int sqlite3_stmt_readonly(sqlite3_stmt *) TS_WEAK;
extern int sqlite3_stmt_isexplain(sqlite3_stmt *) TS_WEAK;
extern int sqlite3_stmt_busy(sqlite3_stmt *) TS_WEAK;
extern int sqlite3_complete(const char *) TS_WEAK;
extern int sqlite3_bind_parameter_count(sqlite3_stmt *) TS_WEAK;
extern const char *sqlite3_bind_parameter_name(sqlite3_stmt *, int) TS_WEAK;
extern int sqlite3_bind_null(sqlite3_stmt *, int) TS_WEAK;
extern int sqlite3_bind_int(sqlite3_stmt *, int, int) TS_WEAK;
extern int sqlite3_bind_int64(sqlite3_stmt *, int, sqlite3_int64) TS_WEAK;
extern int sqlite3_bind_double(sqlite3_stmt *, int, double) TS_WEAK;
extern int sqlite3_bind_text(sqlite3_stmt *, int, const char *, int, void (*)(void *)) TS_WEAK;
extern int sqlite3_bind_blob(sqlite3_stmt *, int, const void *, int, void (*)(void *)) TS_WEAK;
extern int sqlite3_bind_blob64(sqlite3_stmt *, int, const void *, sqlite3_uint64, void (*)(void *)) TS_WEAK;
extern int sqlite3_bind_zeroblob(sqlite3_stmt *, int, int) TS_WEAK;
extern int sqlite3_bind_value(sqlite3_stmt *, int, const sqlite3_value *) TS_WEAK;
extern int sqlite3_column_count(sqlite3_stmt *) TS_WEAK;
extern int sqlite3_data_count(sqlite3_stmt *) TS_WEAK;
extern const char *sqlite3_column_name(sqlite3_stmt *, int) TS_WEAK;
extern const char *sqlite3_column_decltype(sqlite3_stmt *, int) TS_WEAK;
extern int sqlite3_column_type(sqlite3_stmt *, int) TS_WEAK;
extern sqlite3_int64 sqlite3_column_int64(sqlite3_stmt *, int) TS_WEAK;
extern double sqlite3_column_double(sqlite3_stmt *, int) TS_WEAK;
extern const unsigned char *sqlite3_column_text(sqlite3_stmt *, int) TS_WEAK;
extern const void *sqlite3_column_blob(sqlite3_stmt *, int) TS_WEAK;
extern int sqlite3_column_bytes(sqlite3_stmt *, int) TS_WEAK;
extern sqlite3_value *sqlite3_column_value(sqlite3_stmt *, int) TS_WEAK;

/* values and functions */
extern int sqlite3_value_type(sqlite3_value *) TS_WEAK;
extern int sqlite3_value_nochange(sqlite3_value *) TS_WEAK;
extern sqlite3_int64 sqlite3_value_int64(sqlite3_value *) TS_WEAK;
extern double sqlite3_value_double(sqlite3_value *) TS_WEAK;
extern const unsigned char *sqlite3_value_text(sqlite3_value *) TS_WEAK;
extern const void *sqlite3_value_blob(sqlite3_value *) TS_WEAK;
extern int sqlite3_value_bytes(sqlite3_value *) TS_WEAK;
extern sqlite3_value *sqlite3_value_dup(const sqlite3_value *) TS_WEAK;
extern void sqlite3_value_free(sqlite3_value *) TS_WEAK;
extern const char *sqlite3_db_filename(sqlite3 *, const char *) TS_WEAK;
extern int sqlite3_uri_boolean(const char *, const char *, int) TS_WEAK;
extern int sqlite3_create_function_v2(sqlite3 *, const char *, int, int, void *,
                                      void (*)(sqlite3_context *, int, sqlite3_value **),
                                      void (*)(sqlite3_context *, int, sqlite3_value **), void (*)(sqlite3_context *),
                                      void (*)(void *)) TS_WEAK;
extern sqlite3 *sqlite3_context_db_handle(sqlite3_context *) TS_WEAK;
extern void *sqlite3_user_data(sqlite3_context *) TS_WEAK;
extern void sqlite3_result_null(sqlite3_context *) TS_WEAK;
extern void sqlite3_result_int(sqlite3_context *, int) TS_WEAK;
extern void sqlite3_result_int64(sqlite3_context *, sqlite3_int64) TS_WEAK;
extern void sqlite3_result_text(sqlite3_context *, const char *, int, void (*)(void *)) TS_WEAK;
extern void sqlite3_result_value(sqlite3_context *, sqlite3_value *) TS_WEAK;
extern void sqlite3_result_error(sqlite3_context *, const char *, int) TS_WEAK;
extern void sqlite3_result_error_code(sqlite3_context *, int) TS_WEAK;
extern void sqlite3_result_error_nomem(sqlite3_context *) TS_WEAK;

/* memory and text */
extern void *sqlite3_malloc64(sqlite3_uint64) TS_WEAK;
extern void *sqlite3_realloc64(void *, sqlite3_uint64) TS_WEAK;
extern void sqlite3_free(void *) TS_WEAK;
extern int sqlite3_db_release_memory(sqlite3 *) TS_WEAK;
extern char *sqlite3_mprintf(const char *, ...) TS_WEAK;
extern int sqlite3_stricmp(const char *, const char *) TS_WEAK;
extern int sqlite3_strnicmp(const char *, const char *, int) TS_WEAK;

/* handle.c */
int ts_handle_init(void);
void ts_handle_expect(uint64_t nonce);
sqlite3 *ts_handle_take(void);
int ts_db_config(sqlite3 *db, int op, int on, int *now);

/* reads.c */
typedef struct ts_reads ts_reads;
int ts_reads_start(sqlite3 *db, int which, sqlite3_int64 head, sqlite3_int64 unit, ts_reads **out);
int ts_reads_stop(ts_reads *r);
const unsigned char *ts_reads_bits(ts_reads *r, sqlite3_int64 *bytes);
void ts_reads_free(ts_reads *r);

/* file.c */
int ts_file(sqlite3 *db, int which, sqlite3_file **out);
int ts_file_read(sqlite3 *db, int which, void *buf, int n, sqlite3_int64 off, int *got);
int ts_file_size(sqlite3 *db, int which, sqlite3_int64 *size);
int ts_file_sync(sqlite3 *db, int which);

/* pagecommit.c */
#define TS_PAGE 4096
typedef struct ts_walstate {
  uint32_t mxFrame;      /* last committed frame; 0: the WAL is empty */
  uint32_t nPage;        /* pages of the database after that frame */
  uint32_t iChange;      /* counts commits */
  uint32_t nBackfill;    /* frames already copied into the database file */
  uint32_t aSalt[2];     /* as in the WAL header, decoded */
  uint32_t aFrameCksum[2]; /* running checksum at mxFrame */
  uint32_t szPage;
} ts_walstate;
typedef struct ts_pagecommit ts_pagecommit;
int ts_wal_state(sqlite3 *db, ts_walstate *out);
int ts_pagecommit_begin(sqlite3 *db, ts_pagecommit **out);
void ts_pagecommit_state(ts_pagecommit *p, ts_walstate *out);
int ts_pagecommit_append(ts_pagecommit *p, uint32_t pgno, const void *image);
int ts_pagecommit_commit(ts_pagecommit *p, uint32_t nPage);
int ts_pagecommit_abort(ts_pagecommit *p);

/* batch.c */
#define TS_BATCH_COLUMNS 64
#define TS_FETCH_COLUMNS 64
typedef struct ts_plan {
  sqlite3_stmt *st;
  int params;
  int exact;      /* one row must change */
  int16_t from[]; /* what each parameter is: a field of the record; -1 the rowid */
} ts_plan;
typedef struct ts_entry {
  ts_plan *plan;
  sqlite3_int64 rowid;
  size_t off, len; /* of the record */
} ts_entry;
int ts_fetch(sqlite3_stmt *st, uint8_t *buf, size_t size, size_t *used, size_t *need, int *pending);
ts_plan *ts_plan_new(sqlite3_stmt *st, const int16_t *from, int params, int exact);
void ts_plan_free(ts_plan *p);
int ts_batch(sqlite3 *db, const ts_entry *e, int n, const uint8_t *records, int *done);

/* fault.c */
#define TS_DIED 137 /* exit code of a process that a fault has ended; a shell's for SIGKILL */
int ts_fault_set(sqlite3 *db, int which, int op, int after);
void ts_fault_clear(void);

#endif
