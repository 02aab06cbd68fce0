/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What stands between a test program and the kernel: it defines the calls that
 * change files (open, write, rename, fsync, ...) itself, so that the program's own
 * calls and those of its libraries, SQLite's among them, come here first. Linked
 * into the program; nothing needs to be preloaded.
 *
 * Below one directory, the root, it writes down each call that changed something,
 * with its data and in the order in which they happened, whichever thread or forked
 * process made it; or makes chosen calls fail. Elsewhere, and when neither is asked
 * for, calls pass through.
 *
 * The log and the settings are in memory that forked processes share.
 */
#ifndef STASIS_TESTS_CRASH_SHIM_H
#define STASIS_TESTS_CRASH_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum shim_kind {
    SHIM_CREATE,   /* path is a new file */
    SHIM_WRITE,    /* data at offset */
    SHIM_TRUNCATE, /* to `offset` bytes */
    SHIM_RENAME,   /* path to path2 */
    SHIM_LINK,     /* path2 is path's file too */
    SHIM_UNLINK,
    SHIM_MKDIR,
    SHIM_RMDIR,
    SHIM_SYNC,     /* fsync or fdatasync of a file has returned */
    SHIM_SYNC_DIR, /* of a directory */
    SHIM_MARK,     /* the program's own: offset and data are its business */
};

enum { SHIM_PATH_MAX = 120 };

struct shim_record {
    uint32_t bytes; /* of the record with its data; a multiple of 8 */
    uint32_t kind;
    int32_t thread; /* who called */
    uint32_t length;
    uint64_t file; /* inode number; the same one again after SHIM_CREATE is another file */
    uint64_t offset;
    char path[SHIM_PATH_MAX]; /* relative to the root; "" is the root */
    char path2[SHIM_PATH_MAX];
    uint8_t data[];
};

/* Sets the root (absolute, without symbolic links) and empties the log. Once before
 * the first fork. */
void shim_root(const char *root);

void shim_record(bool on);
/* Appends a mark while recording. */
void shim_mark(uint64_t value, const char *text);
/* The log: records end to end. Valid until the next shim_root(). */
const uint8_t *shim_log(size_t *bytes_out);

/* From now on syncs return at once: what is only checked need not last. */
void shim_skip_syncs(bool on);

/* ---- failing calls ---- */

enum shim_class {
    SHIM_SPACE = 1,  /* what may need room: creating, writing, growing, renaming */
    SHIM_FLUSH = 2,  /* fsync, fdatasync */
    SHIM_SHRINK = 4, /* unlink, rmdir, truncating */
    SHIM_READ = 8,   /* read, pread, opening what exists */
};

struct shim_fault {
    unsigned classes; /* which calls count */
    uint64_t at;      /* the first of them, from 1, that fails; 0: none */
    uint64_t times;   /* how many fail from there on */
    int errnum;       /* 0: writes are short, other calls are left alone */
};

/* Starts counting anew. Only calls below the root count. */
void shim_fail(const struct shim_fault *fault);
/* Calls counted since. */
uint64_t shim_counted(void);
/* How many of them failed or were short. */
uint64_t shim_failed(void);
/* What the last of these was, for messages. */
const char *shim_failed_call(void);

#endif
