/*
** faultfs.h: what Go sees of faultfs.c.
*/
#ifndef TS_FAULTFS_H
#define TS_FAULTFS_H

enum {
  TS_OP_OPEN,
  TS_OP_READ,
  TS_OP_WRITE,
  TS_OP_TRUNCATE,
  TS_OP_SYNC,
  TS_OP_STAT,
  TS_OP_DELETE,
  TS_OP_ACCESS,
  TS_OP_LOCK,
  TS_OP_SHMMAP,
  TS_OP_SHMLOCK,
  TS_OP_OTHER, /* of Go's files: rename, link, … */
};

/* ts_fault says what is to fail. */
typedef struct ts_fault {
  int on;
  char dir[512]; /* files whose paths begin so */
  char except[64]; /* but not those whose paths end so, if it is not empty */
  unsigned ops;  /* bit i: operations i are counted and may fail */
  int at;        /* which one fails, from 1; 0: none */
  int lasts;     /* all later ones of its kind on its file fail as well */
  int partial;   /* a read or write is done by half before */
  int full;      /* writes fail for want of space */
  int lose;      /* a failing sync loses what was written since the last one */
  int busy;      /* a lock is held by somebody else */
} ts_fault;

typedef struct ts_fault_report {
  int ops;    /* operations counted */
  int failed; /* those that failed */
  int op;     /* the first that failed, and of which file */
  char path[512];
} ts_fault_report;

int ts_faultfs_register(void);
void ts_faultfs_set(const ts_fault *f);
void ts_faultfs_report(ts_fault_report *out);
void ts_faultfs_watch(int on);
int ts_faultfs_due(int op, const char *path);

#endif
