/*
** pagecommit.c: commit pages into a database in WAL mode, as SQLite would.
**
** SQLite has no call for "commit these page images". What a commit consists of
** is documented (https://sqlite.org/walformat.html, https://sqlite.org/fileformat2.html,
** chapter 4), and the handles to do it with are public, so this file is a second
** writer of WAL and wal-index, beside the one in SQLite. To every other
** connection, of this process or another, it looks like one of their own kind.
**
** Who calls: Go, on a connection of its own that has read once, is in no
** transaction, and is used by nobody else from ts_pagecommit_begin to
** ts_pagecommit_commit or _abort. Between the two the WAL_WRITE lock is held.
**
** What is touched:
**   the WAL        frames behind mxFrame; salts of the header, checksum carried on
**   the wal-index  entries of those frames, as they are written; nobody looks at
**                  entries behind the mxFrame of the header
**   its header     last, after the sync: copy 2, barrier, copy 1. That is the commit.
**
** Failure: before the header is written nothing has happened for anyone; what
** lies in the WAL behind mxFrame is overwritten by the next writer. When a commit
** frame may be in the file but the commit failed, the frame is wiped, so that a
** later recovery does not find a commit that was reported as failed.
**
** The wal-index, in the byte order of the machine (regions of 32768 bytes):
**
**     region 0       0  header, copy 1   48
**                   48  header, copy 2   48
**                   96  nBackfill         4
**                  100  read marks, lock bytes, nBackfillAttempted …  36
**                  136  page number of frames 1 … 4062
**                16384  hash: 8192 slots of 16 bits
**     region n       0  page number of frames 4062+4096(n-1)+1 … (4096 of them)
**                16384  hash
**
** A slot of a hash holds the position of its frame in the region, from 1. A page
** hashes to page*383 mod 8192; collisions go to the next slot.
*/
#include "shim.h"

#include <stdlib.h>
#include <string.h>

#define WAL_MAGIC 0x377f0682u /* lowest bit: checksums are over big-endian words */
#define WAL_VERSION 3007000u
#define WAL_HEADER 32
#define FRAME_HEADER 24
#define FRAME (FRAME_HEADER + TS_PAGE)

#define REGION 32768
#define INDEX_HEADER 136
#define ENTRIES 4096
#define ENTRIES_FIRST (ENTRIES - INDEX_HEADER / 4) /* 4062 */
#define SLOTS 8192
#define LOCK_WRITE 0

#define PENDING_PAGE (0x40000000 / TS_PAGE + 1) /* SQLite's locks live there; never stored */
#define MAX_PAGE 0xfffffffeu

/*
** Frames a write. VFSes need not take more at once than SQLite itself would ask
** for, which is a page of 65536 bytes; unix silently masks the size with 0x1ffff.
*/
#define BATCH 15

/* The header of the wal-index, as it lies in memory. */
typedef struct {
  uint32_t iVersion;
  uint32_t unused;
  uint32_t iChange;
  uint8_t isInit;
  uint8_t bigEndCksum;
  uint16_t szPage;
  uint32_t mxFrame;
  uint32_t nPage;
  uint32_t aFrameCksum[2];
  uint8_t aSalt[8]; /* bytes of the WAL header */
  uint32_t aCksum[2];
} index_header;

_Static_assert(sizeof(index_header) == 48, "wal-index header");

struct ts_pagecommit {
  sqlite3_file *db, *wal;
  index_header hdr;  /* as begun; mxFrame and aFrameCksum go on as frames are sealed */
  ts_walstate begun; /* what was found */
  uint32_t maxPage;  /* largest page appended */
  uint32_t grown;    /* pages appended that lie behind the old end, duplicates included */
  int rc;            /* first failure; nothing but abort goes on after it */
  int n;             /* frames in batch, the last of them not sealed yet */
  uint8_t batch[BATCH * FRAME];
};

static uint32_t get32(const uint8_t *b) {
  return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | (uint32_t)b[3];
}

static void put32(uint8_t *b, uint32_t v) {
  b[0] = (uint8_t)(v >> 24);
  b[1] = (uint8_t)(v >> 16);
  b[2] = (uint8_t)(v >> 8);
  b[3] = (uint8_t)v;
}

static int big_endian(void) {
  const uint16_t one = 1;
  uint8_t b;
  memcpy(&b, &one, 1);
  return b == 0;
}

/* checksum carries sum over n bytes, a multiple of 8, read as words in machine order or the other one. */
static void checksum(int native, const uint8_t *b, size_t n, uint32_t sum[2]) {
  uint32_t s1 = sum[0], s2 = sum[1], w[2];
  const uint8_t *end = b + n;
  if (native) {
    for (; b < end; b += 8) {
      memcpy(w, b, 8);
      s1 += w[0] + s2;
      s2 += w[1] + s1;
    }
  } else {
    for (; b < end; b += 8) {
      memcpy(w, b, 8);
      s1 += __builtin_bswap32(w[0]) + s2;
      s2 += __builtin_bswap32(w[1]) + s1;
    }
  }
  sum[0] = s1;
  sum[1] = s2;
}

static sqlite3_int64 frame_offset(uint32_t frame) { return WAL_HEADER + (sqlite3_int64)(frame - 1) * FRAME; }

/* page_size decodes the header's field, in which 1 stands for 65536. */
static uint32_t page_size(const index_header *h) { return (h->szPage & 0xfe00u) + ((h->szPage & 1u) << 16); }

/* region maps a region of the wal-index; with extend, which needs the write lock, it is made if missing. */
static int region(sqlite3_file *db, int i, int extend, uint8_t **out) {
  void volatile *p = NULL;
  int rc;
  *out = NULL;
  if (db->pMethods->iVersion < 2 || db->pMethods->xShmMap == NULL) return TS_NOTREADY;
  rc = db->pMethods->xShmMap(db, i, REGION, extend, &p);
  if (rc != SQLITE_OK) return rc;
  if (p == NULL) return TS_NOTREADY;
  *out = (uint8_t *)p;
  return SQLITE_OK;
}

/*
** read_header takes one look at the header. Writers fill copy 2, then copy 1, so
** the copies are read the other way round: equal ones with a good checksum were
** written by one writer. Anything else is a writer at work or one that died.
*/
static int read_header(sqlite3_file *db, const uint8_t *index, index_header *h) {
  index_header second;
  uint32_t sum[2] = {0, 0};
  memcpy(h, index, sizeof *h);
  db->pMethods->xShmBarrier(db);
  memcpy(&second, index + sizeof *h, sizeof second);
  if (memcmp(h, &second, sizeof second) != 0 || h->isInit == 0) return TS_TORN;
  checksum(1, (const uint8_t *)h, offsetof(index_header, aCksum), sum);
  if (sum[0] != h->aCksum[0] || sum[1] != h->aCksum[1]) return TS_TORN;
  if (h->iVersion != WAL_VERSION) return TS_VERSION;
  return SQLITE_OK;
}

static void write_header(sqlite3_file *db, uint8_t *index, index_header *h) {
  h->aCksum[0] = h->aCksum[1] = 0;
  checksum(1, (const uint8_t *)h, offsetof(index_header, aCksum), h->aCksum);
  memcpy(index + sizeof *h, h, sizeof *h);
  db->pMethods->xShmBarrier(db);
  memcpy(index, h, sizeof *h);
  db->pMethods->xShmBarrier(db);
}

static uint32_t read_backfill(const uint8_t *index) {
  return __atomic_load_n((const uint32_t *)(const void *)(index + 2 * sizeof(index_header)), __ATOMIC_ACQUIRE);
}

static void fill_state(const index_header *h, uint32_t backfill, ts_walstate *out) {
  out->mxFrame = h->mxFrame;
  out->nPage = h->nPage;
  out->iChange = h->iChange;
  out->nBackfill = backfill;
  out->aSalt[0] = get32(h->aSalt);
  out->aSalt[1] = get32(h->aSalt + 4);
  out->aFrameCksum[0] = h->aFrameCksum[0];
  out->aFrameCksum[1] = h->aFrameCksum[1];
  out->szPage = page_size(h);
}

/* ts_wal_state reads the header without a lock, and looks again when it meets a writer in the act. */
int ts_wal_state(sqlite3 *db, ts_walstate *out) {
  sqlite3_file *f, *wal;
  uint8_t *index;
  index_header h;
  int i, rc;
  if ((rc = ts_file(db, 0, &f)) != SQLITE_OK) return rc;
  /* Not to be asked of a database without an open WAL: xShmMap would make an -shm file. */
  if ((rc = ts_file(db, 1, &wal)) != SQLITE_OK) return rc;
  rc = region(f, 0, 0, &index);
  if (rc == SQLITE_READONLY) rc = TS_NOTREADY;
  if (rc != SQLITE_OK) return rc;
  for (i = 0; i < 100; i++) {
    rc = read_header(f, index, &h);
    if (rc != TS_TORN) break;
  }
  if (rc != SQLITE_OK) return rc;
  fill_state(&h, read_backfill(index), out);
  return SQLITE_OK;
}

/* block is a region of the wal-index, taken apart. */
typedef struct {
  uint32_t zero;   /* number of the frame before its first entry */
  uint32_t max;    /* entries it has room for */
  uint32_t *pages; /* page number of each entry */
  uint16_t *hash;
} block;

/* block_of returns the block that indexes frame. */
static int block_of(ts_pagecommit *p, uint32_t frame, block *b) {
  uint32_t i = (frame + ENTRIES - ENTRIES_FIRST - 1) / ENTRIES;
  uint8_t *mem;
  int rc = region(p->db, (int)i, 1, &mem);
  if (rc != SQLITE_OK) return rc;
  b->hash = (uint16_t *)(void *)(mem + ENTRIES * 4);
  if (i == 0) {
    b->zero = 0;
    b->max = ENTRIES_FIRST;
    b->pages = (uint32_t *)(void *)(mem + INDEX_HEADER);
  } else {
    b->zero = ENTRIES_FIRST + (i - 1) * ENTRIES;
    b->max = ENTRIES;
    b->pages = (uint32_t *)(void *)mem;
  }
  return SQLITE_OK;
}

/*
** clean_index removes the entries behind frame from its block: what a writer that
** died, or was aborted, left there. They stand at the ends of their hash chains,
** for they came last, so no other entry becomes unreachable. Later blocks need
** no care: a block is zeroed when its first entry is added. Readers use no entry
** behind the mxFrame they have seen, so they do not notice.
*/
static int clean_index(ts_pagecommit *p, uint32_t frame) {
  block b;
  uint32_t i, keep;
  int rc = block_of(p, frame, &b);
  if (rc != SQLITE_OK) return rc;
  keep = frame - b.zero;
  for (i = 0; i < SLOTS; i++) {
    if (b.hash[i] > keep) b.hash[i] = 0;
  }
  for (i = keep; i < b.max; i++) {
    if (b.pages[i] != 0) b.pages[i] = 0;
  }
  return SQLITE_OK;
}

/* enter_index adds frame, which holds page, to the wal-index. */
static int enter_index(ts_pagecommit *p, uint32_t frame, uint32_t page) {
  block b;
  uint32_t slot, tries, entry;
  int rc = block_of(p, frame, &b);
  if (rc != SQLITE_OK) return rc;
  entry = frame - b.zero;
  if (entry == 1) {
    memset(b.pages, 0, (size_t)b.max * 4);
    memset(b.hash, 0, SLOTS * 2);
  }
  slot = page * 383u % SLOTS;
  for (tries = 0; b.hash[slot] != 0; tries++) {
    if (tries == entry) return SQLITE_CORRUPT; /* more slots taken than entries made */
    slot = (slot + 1) % SLOTS;
  }
  b.pages[entry - 1] = page;
  __atomic_store_n(&b.hash[slot], (uint16_t)entry, __ATOMIC_RELEASE);
  return SQLITE_OK;
}

/*
** check_wal requires that the WAL is the one the wal-index speaks of: header, and
** the last committed frame. It costs two small reads and keeps us from carrying
** on a checksum chain that is not there.
*/
static int check_wal(ts_pagecommit *p) {
  const index_header *h = &p->hdr;
  uint8_t b[WAL_HEADER];
  int rc = p->wal->pMethods->xRead(p->wal, b, WAL_HEADER, 0);
  if (rc == SQLITE_IOERR_SHORT_READ) return TS_MISMATCH;
  if (rc != SQLITE_OK) return rc;
  if (get32(b) != (WAL_MAGIC | (h->bigEndCksum & 1u)) || memcmp(b + 16, h->aSalt, 8) != 0) return TS_MISMATCH;
  if (get32(b + 4) != WAL_VERSION) return TS_VERSION;
  if (get32(b + 8) != TS_PAGE) return TS_PAGESIZE;
  rc = p->wal->pMethods->xRead(p->wal, b, FRAME_HEADER, frame_offset(h->mxFrame));
  if (rc == SQLITE_IOERR_SHORT_READ) return TS_MISMATCH;
  if (rc != SQLITE_OK) return rc;
  if (get32(b + 4) != h->nPage || memcmp(b + 8, h->aSalt, 8) != 0 || get32(b + 16) != h->aFrameCksum[0] ||
      get32(b + 20) != h->aFrameCksum[1]) {
    return TS_MISMATCH;
  }
  return SQLITE_OK;
}

/* begin_locked does what ts_pagecommit_begin does once the lock is held. */
static int begin_locked(ts_pagecommit *p) {
  uint8_t *index;
  int rc = region(p->db, 0, 1, &index);
  if (rc != SQLITE_OK) return rc;
  /* With the lock held nobody writes the header, so one look is enough: bad copies mean that a writer died. */
  rc = read_header(p->db, index, &p->hdr);
  if (rc != SQLITE_OK) return rc;
  if (p->hdr.mxFrame == 0) return TS_EMPTY;
  if (page_size(&p->hdr) != TS_PAGE) return TS_PAGESIZE;
  rc = check_wal(p);
  if (rc != SQLITE_OK) return rc;
  fill_state(&p->hdr, read_backfill(index), &p->begun);
  return clean_index(p, p->begun.mxFrame);
}

static int unlock(ts_pagecommit *p) {
  return p->db->pMethods->xShmLock(p->db, LOCK_WRITE, 1, SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE);
}

/* exclusive tells whether a connection is in exclusive locking mode, in which SQLite may keep the wal-index in the heap. */
static int exclusive(sqlite3 *db) {
  sqlite3_stmt *st;
  int yes = 0;
  if (sqlite3_prepare_v2(db, "PRAGMA main.locking_mode", -1, &st, NULL) != SQLITE_OK) return 0;
  if (sqlite3_step(st) == SQLITE_ROW) {
    const unsigned char *mode = sqlite3_column_text(st, 0);
    yes = mode != NULL && mode[0] == 'e';
  }
  sqlite3_finalize(st);
  return yes;
}

/*
** ts_pagecommit_begin takes the write lock, without waiting: SQLITE_BUSY when
** another connection has it. *out is to be freed by commit or abort.
*/
int ts_pagecommit_begin(sqlite3 *db, ts_pagecommit **out) {
  ts_pagecommit *p;
  sqlite3_file *f, *wal;
  int rc;
  *out = NULL;
  /* In a write transaction the lock is ours already, and xShmLock would say yes. */
  if (sqlite3_txn_state(db, "main") > SQLITE_TXN_NONE) return TS_INTX;
  if (sqlite3_db_readonly(db, "main") != 0) return SQLITE_READONLY;
  if ((rc = ts_file(db, 0, &f)) != SQLITE_OK) return rc;
  if ((rc = ts_file(db, 1, &wal)) != SQLITE_OK) return rc;
  if (f->pMethods->iVersion < 2 || f->pMethods->xShmLock == NULL) return TS_NOTREADY;
  p = malloc(sizeof *p);
  if (p == NULL) return SQLITE_NOMEM;
  memset(p, 0, offsetof(ts_pagecommit, batch));
  p->db = f;
  p->wal = wal;
  rc = f->pMethods->xShmLock(f, LOCK_WRITE, 1, SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE);
  if (rc == SQLITE_IOERR_SHMLOCK && exclusive(db)) rc = TS_NOTREADY;
  if (rc == SQLITE_OK) {
    rc = begin_locked(p);
    if (rc == SQLITE_OK) {
      *out = p;
      return SQLITE_OK;
    }
    unlock(p);
  }
  free(p);
  return rc;
}

/* ts_pagecommit_state returns the state that the page commit found. */
void ts_pagecommit_state(ts_pagecommit *p, ts_walstate *out) { *out = p->begun; }

/*
** seal ends the last frame of the batch: commit size, salts, checksum, and its
** entry in the wal-index. Making the entry may need a new region and fail, so it
** comes before the frame is written.
*/
static int seal(ts_pagecommit *p, uint32_t nPage) {
  uint8_t *f = p->batch + (size_t)(p->n - 1) * FRAME;
  int native = p->hdr.bigEndCksum == big_endian();
  int rc;
  put32(f + 4, nPage);
  memcpy(f + 8, p->hdr.aSalt, 8);
  checksum(native, f, 8, p->hdr.aFrameCksum);
  checksum(native, f + FRAME_HEADER, TS_PAGE, p->hdr.aFrameCksum);
  put32(f + 16, p->hdr.aFrameCksum[0]);
  put32(f + 20, p->hdr.aFrameCksum[1]);
  rc = enter_index(p, p->hdr.mxFrame + 1, get32(f));
  if (rc == SQLITE_OK) p->hdr.mxFrame++;
  return rc;
}

/* flush writes the batch, all of whose frames are sealed. */
static int flush(ts_pagecommit *p) {
  uint32_t from = p->hdr.mxFrame - (uint32_t)p->n + 1;
  int n = p->n;
  p->n = 0;
  return p->wal->pMethods->xWrite(p->wal, p->batch, n * FRAME, frame_offset(from));
}

/* ts_pagecommit_append adds a page. Which frame is the last is known at the next call, so one frame stays unsealed. */
int ts_pagecommit_append(ts_pagecommit *p, uint32_t pgno, const void *image) {
  uint8_t *f;
  if (p->rc != SQLITE_OK) return p->rc;
  if (pgno == 0 || pgno > MAX_PAGE) return p->rc = TS_PAGENO;
  if (pgno == PENDING_PAGE) return SQLITE_OK;
  if (p->n > 0) {
    p->rc = seal(p, 0);
    if (p->rc == SQLITE_OK && p->n == BATCH) p->rc = flush(p);
    if (p->rc != SQLITE_OK) return p->rc;
  }
  f = p->batch + (size_t)p->n * FRAME;
  put32(f, pgno);
  memcpy(f + FRAME_HEADER, image, TS_PAGE);
  p->n++;
  if (pgno > p->maxPage) p->maxPage = pgno;
  if (pgno > p->begun.nPage) p->grown++;
  return SQLITE_OK;
}

/*
** has_hole tells that pages the database grows by are missing: they would read as
** zeros. It counts, so a page appended twice can hide one that is missing.
*/
static int has_hole(const ts_pagecommit *p, uint32_t nPage) {
  uint32_t old = p->begun.nPage, need;
  if (nPage <= old) return 0;
  need = nPage - old;
  if (old < PENDING_PAGE && nPage >= PENDING_PAGE) need--;
  return p->grown < need;
}

/* publish makes the sealed frames the newest state of the database. */
static int publish(ts_pagecommit *p, uint32_t nPage) {
  uint8_t *index;
  int rc = region(p->db, 0, 1, &index);
  if (rc != SQLITE_OK) return rc;
  p->hdr.iChange++;
  p->hdr.nPage = nPage;
  p->hdr.szPage = TS_PAGE;
  write_header(p->db, index, &p->hdr);
  return SQLITE_OK;
}

/*
** ts_pagecommit_commit ends the page commit. On any error nothing was committed
** and the page commit is still open, to be aborted.
*/
int ts_pagecommit_commit(ts_pagecommit *p, uint32_t nPage) {
  int rc;
  if (p->rc != SQLITE_OK) return p->rc;
  if (p->n == 0) return TS_NOPAGES;
  if (nPage == 0 || nPage > MAX_PAGE || p->maxPage > nPage) return TS_PAGENO;
  if (has_hole(p, nPage)) return TS_HOLE;
  rc = seal(p, nPage);
  if (rc == SQLITE_OK) {
    rc = flush(p);
    if (rc == SQLITE_OK) rc = p->wal->pMethods->xSync(p->wal, SQLITE_SYNC_FULL);
    if (rc == SQLITE_OK) rc = publish(p, nPage);
    if (rc != SQLITE_OK) {
      /* The commit frame may be in the file. Errors of the wipe change nothing for the caller. */
      static const uint8_t zero[FRAME_HEADER];
      p->wal->pMethods->xWrite(p->wal, zero, FRAME_HEADER, frame_offset(p->hdr.mxFrame));
      p->wal->pMethods->xSync(p->wal, SQLITE_SYNC_FULL);
    }
  }
  if (rc != SQLITE_OK) {
    p->rc = rc;
    return rc;
  }
  /* It is committed; an unlock that fails cannot undo that, and SQLite ignores it as well. */
  unlock(p);
  free(p);
  return SQLITE_OK;
}

/* ts_pagecommit_abort forgets what was appended and unlocks. p is gone, whatever is returned. */
int ts_pagecommit_abort(ts_pagecommit *p) {
  int rc = SQLITE_OK, rc2;
  if (p->hdr.mxFrame != p->begun.mxFrame) rc = clean_index(p, p->begun.mxFrame);
  rc2 = unlock(p);
  free(p);
  return rc != SQLITE_OK ? rc : rc2;
}
