/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Has the catalogue lost its end? SQLite takes a log whose last transactions do not match
 * their checksums for one that a crash has cut short, and goes back to what was before
 * them, without a word. So the catalogue counts its durable transactions, and so does a
 * file beside it, DIR/commits, which is written when a transaction is durable and is not
 * waited for:
 *
 *    0  "STASCMIT"
 *    8  number of transactions u64
 *   16  the first 8 bytes of the SHA-256 of all that
 *
 * It may be behind, after a power cut or where two have committed at once. If it is
 * ahead, the catalogue lacks what it once had. That is noted in the catalogue, for verify.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "store/db.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define MAGIC "STASCMIT"
#define MARK_BYTES 24u

static void encode(int64_t commits, uint8_t out[MARK_BYTES])
{
    struct digest digest;

    memcpy(out, MAGIC, 8);
    store_le64(out + 8, (uint64_t)commits);
    digest = digest_of(out, 16);
    memcpy(out + 16, digest.bytes, 8);
}

/* 1; 0 if there is none, which is what a crash may leave; -EBADMSG. */
static int read_mark(int fd, int64_t *out)
{
    static const uint8_t zeros[MARK_BYTES];
    uint8_t bytes[MARK_BYTES], right[MARK_BYTES];
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0 || st.st_size == 0)
        return 0;
    if (io_pread_full(fd, bytes, sizeof(bytes), 0) < 0)
        return -EBADMSG;
    if (memcmp(bytes, zeros, sizeof(bytes)) == 0)
        return 0;
    *out = (int64_t)load_le64(bytes + 8);
    encode(*out, right);
    return memcmp(bytes, right, sizeof(right)) == 0 && *out >= 0 ? 1 : -EBADMSG;
}

void db_mark_write(struct db *db, int64_t commits)
{
    uint8_t bytes[MARK_BYTES];

    encode(commits, bytes);
    if (db->mark_fd >= 0)
        io_pwrite_full(db->mark_fd, bytes, sizeof(bytes), 0);
}

/* ---- where the log ends ---- */

/* SQLite's sum over pairs of words; see "WAL File Format" in its documentation. */
static void log_sum(const uint8_t *bytes, size_t length, bool big_endian, uint32_t s[2])
{
    for (size_t i = 0; i + 8 <= length; i += 8) {
        uint32_t a = big_endian ? load_be32(bytes + i) : load_le32(bytes + i);
        uint32_t b = big_endian ? load_be32(bytes + i + 4) : load_le32(bytes + i + 4);

        s[0] += a + s[1];
        s[1] += b + s[0];
    }
}

static bool is_sum(const uint32_t s[2], const uint8_t *stored)
{
    return load_be32(stored) == s[0] && load_be32(stored + 4) == s[1];
}

/* Of the first frame that is not what its sum says, or 0. */
static uint64_t end_of_log(const uint8_t *log, size_t length)
{
    uint32_t s[2] = {0, 0}, page_bytes = length < 32 ? 0 : load_be32(log + 8);
    bool big_endian = length >= 32 && (load_be32(log) & 1) != 0;
    size_t at = 32;

    if (page_bytes < 512 || page_bytes > 65536)
        return 0;
    log_sum(log, 24, big_endian, s);
    if (!is_sum(s, log + 24))
        return 0;
    for (; at <= length && length - at >= 24 + page_bytes; at += 24 + page_bytes) {
        log_sum(log + at, 8, big_endian, s);
        log_sum(log + at + 24, page_bytes, big_endian, s);
        if (memcmp(log + at + 8, log + 16, 8) != 0 || !is_sum(s, log + at + 16))
            break;
    }
    return at;
}

static uint64_t find_end_of_log(struct db *db)
{
    enum { LOG_MAX = 256 << 20 };
    _cleanup_free_ char *path = io_format("%s-wal", db->path), *log = NULL;
    size_t length;

    if (io_read_file(AT_FDCWD, path, LOG_MAX, &log, &length) < 0)
        return 0;
    return end_of_log((const uint8_t *)log, length);
}

/* ---- opening ---- */

static int read_commits(struct db *db, int64_t *out, struct error *err)
{
    int r = db_get_int(db, out, err, "SELECT value FROM meta WHERE key = 'commits'", "");

    if (r == -ENOENT)
        *out = 0;
    return r == -ENOENT ? 0 : r;
}

/* From here on it counts like the mark, and remembers how much it lacks. */
static int note_loss(struct db *db, int64_t mark, uint64_t end, struct error *err)
{
    int64_t commits;
    int r = db_begin(db, err);

    if (r < 0)
        return r;
    r = read_commits(db, &commits, err);
    if (r == 0 && commits < mark) {
        r = db_run(db, err, "INSERT OR REPLACE INTO meta VALUES('commits', ?)", "i", mark);
        if (r == 0)
            r = db_run(db, err,
                       "INSERT INTO meta VALUES('lost', ?1)"
                       " ON CONFLICT(key) DO UPDATE SET value = value + ?1",
                       "i", mark - commits);
        if (r == 0)
            r = db_run(db, err, "INSERT OR REPLACE INTO meta VALUES('lost_at', ?)", "i",
                       (int64_t)end);
    }
    if (r == 0)
        return db_commit(db, err);
    db_rollback(db);
    return r;
}

int db_mark_open(struct db *db, bool fresh, struct error *err)
{
    const char *slash = strrchr(db->path, '/');
    _cleanup_free_ char *path =
        io_format("%.*scommits", slash == NULL ? 0 : (int)(slash - db->path + 1), db->path);
    int64_t mark, commits;
    int r;

    /* Without it the catalogue is what SQLite says it is. */
    db->mark_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fresh && db->mark_fd >= 0 && ftruncate(db->mark_fd, 0) < 0)
        close(steal_fd(&db->mark_fd));
    /* The mark first: whoever commits meanwhile is not taken for lost. */
    if (read_mark(db->mark_fd, &mark) != 1)
        return 0;
    r = read_commits(db, &commits, err);
    if (r < 0 || mark <= commits)
        return r;
    r = note_loss(db, mark, find_end_of_log(db), err);
    /* On a full disk, say, it is found the next time. */
    return r == -ENOMEM ? r : 0;
}

/* ---- verifying ---- */

int db_mark_check(struct db *db, int64_t *lost_out, uint64_t *end_out)
{
    int64_t mark, lost = 0, end = 0;

    if (db_get_int(db, &lost, NULL, "SELECT value FROM meta WHERE key = 'lost'", "") < 0 ||
        db_get_int(db, &end, NULL, "SELECT value FROM meta WHERE key = 'lost_at'", "") < 0)
        lost = 0;
    *lost_out = lost;
    *end_out = (uint64_t)end;
    return read_mark(db->mark_fd, &mark) < 0 ? -EBADMSG : 0;
}

int db_mark_repair(struct db *db)
{
    int64_t commits;
    int r = db_begin(db, NULL);

    if (r < 0)
        return r;
    /* The commit writes the mark. */
    r = db_run(db, NULL, "DELETE FROM meta WHERE key IN ('lost', 'lost_at')", "");
    if (r == 0)
        r = read_commits(db, &commits, NULL);
    if (r == 0)
        return db_commit(db, NULL);
    db_rollback(db);
    return r;
}
