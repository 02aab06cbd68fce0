/* SPDX-License-Identifier: Apache-2.0 */
#include "store/lease.h"

#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>

/* ---- owners ---- */

/* A lock of the open file description: it ends with the last descriptor, whatever
 * else a library of this process closes, and can be asked for without being taken. */
static int owner_lock(int fd, int command, int64_t owner, short *type_io)
{
    struct flock lock = {.l_type = *type_io, .l_whence = SEEK_SET, .l_start = owner, .l_len = 1};

    while (fcntl(fd, command, &lock) < 0)
        if (errno != EINTR)
            return -errno;
    *type_io = lock.l_type;
    return 0;
}

/* A number nobody else has, chosen when the first lease is needed. */
static int own_number(struct store *store, int64_t *out, struct error *err)
{
    while (store->lease_owner == 0) {
        short type = F_WRLCK;
        uint64_t number;
        int r;

        if (getrandom(&number, sizeof(number), 0) != sizeof(number))
            return error_errno(err, EIO, "choosing a number");
        number = (number >> 2) + 1;
        r = owner_lock(store->leases_fd, F_OFD_SETLK, (int64_t)number, &type);
        if (r == 0)
            store->lease_owner = (int64_t)number;
        else if (r != -EAGAIN && r != -EACCES)
            return error_errno(err, -r, "locking %s/leases", store->dir);
    }
    *out = store->lease_owner;
    return 0;
}

/* 1, 0 or negative errno. Rubbish in the column is nobody's number. */
static int owner_lives(struct store *store, int64_t owner, struct error *err)
{
    short type = F_WRLCK;
    int r;

    if (owner == store->lease_owner)
        return 1;
    if (owner <= 0 || owner == INT64_MAX)
        return 0;
    r = owner_lock(store->leases_fd, F_OFD_GETLK, owner, &type);
    return r < 0 ? error_errno(err, -r, "reading the locks of %s/leases", store->dir)
                 : type != F_UNLCK;
}

static int find_dead(struct store *store, int64_t *out, struct error *err)
{
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    int r = db_prepare(&store->db, &stmt, err, "SELECT DISTINCT owner FROM lease", "");

    while (r == 0 && (r = db_step(&store->db, stmt, err)) == 1) {
        *out = sqlite3_column_int64(stmt, 0);
        r = owner_lives(store, *out, err);
        if (r < 0)
            return r;
        if (r == 0)
            return 1;
        r = 0;
    }
    return r;
}

int lease_drop_dead_locked(struct store *store, struct error *err)
{
    int64_t owner;
    int r;

    while ((r = find_dead(store, &owner, err)) == 1) {
        r = db_run(&store->db, err, "DELETE FROM lease WHERE owner = ?", "i", owner);
        if (r < 0)
            return r;
    }
    return r;
}

/* ---- quick transactions ---- */

/*
 * A lease need not survive a power cut, in which its owner dies too: its
 * transactions wait for no disk. (In WAL mode a lost one is lost as a whole, and
 * the next durable one takes those before it along.)
 */
static int quick_begin(struct db *db, struct error *err)
{
    int r = db_run(db, err, "PRAGMA synchronous=NORMAL", "");

    db->quick = r == 0;
    return r < 0 ? r : db_begin(db, err);
}

static int quick_end(struct db *db, int r, struct error *err)
{
    int full;

    if (r < 0)
        db_rollback(db);
    else
        r = db_commit(db, err);
    db->quick = false;
    full = db_run(db, r < 0 ? NULL : err, "PRAGMA synchronous=FULL", "");
    return r < 0 ? r : full;
}

/* ---- writers ---- */

/* Leases whose end could not be written. */
static int end_pending(struct store *store, struct error *err)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < store->ended_count; i++)
        r = db_run(&store->db, err, "DELETE FROM lease WHERE id = ?", "i", store->ended[i]);
    return r;
}

static int insert_lease(struct store *store, const struct digest *checkpoint, struct lease *out,
                        struct error *err)
{
    struct db *db = &store->db;
    struct lease lease = {0};
    int64_t owner = 0;
    int r = own_number(store, &owner, err);

    if (r == 0)
        r = end_pending(store, err);
    if (r == 0)
        r = db_get_int(db, &lease.epoch, err, "SELECT value FROM meta WHERE key = 'epoch'", "");
    if (r == 0)
        r = db_run(db, err,
                   "INSERT INTO lease(owner, epoch, created_us, checkpoint, state, manifest)"
                   " SELECT ?1, ?2, ?3, id, state, manifest FROM checkpoint WHERE id = ?4"
                   " UNION ALL SELECT ?1, ?2, ?3, NULL, NULL, NULL WHERE ?5",
                   "iiidi", owner, lease.epoch, clock_wall_us(), checkpoint,
                   (int64_t)(checkpoint == NULL));
    if (r < 0)
        return r;
    if (db_changes(db) == 0)
        return catalogue_need_checkpoint(db, checkpoint, err);
    lease.id = sqlite3_last_insert_rowid(db->handle);
    *out = lease;
    return 0;
}

static int take(struct store *store, const struct digest *checkpoint, struct lease *out,
                struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    struct lease lease = {0};
    int r = quick_begin(db, err);

    if (r == 0)
        r = insert_lease(store, checkpoint, &lease, err);
    r = quick_end(db, r, err);
    if (r < 0)
        return r;
    store->ended_count = 0;
    *out = lease;
    return 0;
}

int lease_take(struct store *store, struct lease *out, struct error *err)
{
    return take(store, NULL, out, err);
}

static void remember_ended(struct store *store, int64_t id)
{
    int64_t *list = realloc(store->ended, (store->ended_count + 1) * sizeof(*list));

    /* Without memory it ends when the store is closed. */
    if (list == NULL)
        return;
    store->ended = list;
    store->ended[store->ended_count++] = id;
}

void lease_end(struct store *store, struct lease *lease)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    int r;

    if (lease->id == 0)
        return;
    r = quick_begin(db, NULL);
    if (r == 0)
        r = db_run(db, NULL, "DELETE FROM lease WHERE id = ?", "i", lease->id);
    if (quick_end(db, r, NULL) < 0)
        remember_ended(store, lease->id);
    lease->id = 0;
}

static int check_changed(struct db *db, struct error *err)
{
    if (db_changes(db) == 1)
        return 0;
    error_set(err, STATUS_BUSY, ESTALE,
              "this writer's lease on the store is gone, and what it relied on may be");
    error_hint(err, "nothing was changed: do it again (was a file of the store removed?)");
    return -ESTALE;
}

int lease_end_locked(struct store *store, const struct lease *lease, struct error *err)
{
    struct db *db = &store->db;
    int r = db_run(db, err, "DELETE FROM lease WHERE id = ? AND owner = ?", "ii", lease->id,
                   store->lease_owner);

    return r < 0 ? r : check_changed(db, err);
}

int lease_become_pin_locked(struct store *store, const struct lease *lease,
                            const struct digest *checkpoint, struct error *err)
{
    struct db *db = &store->db;
    int r = db_run(db, err,
                   "UPDATE lease SET (checkpoint, state, manifest) ="
                   " (SELECT id, state, manifest FROM checkpoint WHERE id = ?)"
                   " WHERE id = ? AND owner = ?",
                   "dii", checkpoint, lease->id, store->lease_owner);

    return r < 0 ? r : check_changed(db, err);
}

int lease_oldest_locked(struct store *store, int64_t *epoch_out, struct error *err)
{
    int r = lease_drop_dead_locked(store, err);

    if (r < 0)
        return r;
    return db_get_int(&store->db, epoch_out, err,
                      "SELECT coalesce(min(epoch), ?) FROM lease WHERE checkpoint IS NULL", "i",
                      INT64_MAX);
}

/* ---- the collector ---- */

#define COLLECTOR 0 /* no owner has this number */

int lease_lock_collector(struct store *store, struct error *err)
{
    short type = F_WRLCK;
    int r = -EAGAIN;

    /* The lock is the process's; between its threads the flag decides. */
    if (!atomic_exchange(&store->collecting, true)) {
        r = owner_lock(store->leases_fd, F_OFD_SETLK, COLLECTOR, &type);
        if (r < 0)
            atomic_store(&store->collecting, false);
    }
    if (r == -EAGAIN || r == -EACCES)
        return error_set(err, STATUS_BUSY, EBUSY, "the store's garbage is being collected already");
    return r < 0 ? error_errno(err, -r, "locking %s/leases", store->dir) : 0;
}

void lease_unlock_collector(struct store *store)
{
    short type = F_UNLCK;

    (void)owner_lock(store->leases_fd, F_OFD_SETLK, COLLECTOR, &type);
    atomic_store(&store->collecting, false);
}

/* ---- pins ---- */

struct store_pin {
    struct store *store;
    struct lease lease;
};

int store_pin(struct store *store, const struct digest *checkpoint, struct store_pin **out,
              struct error *err)
{
    struct store_pin *pin = calloc(1, sizeof(*pin));
    int r;

    if (pin == NULL)
        return error_errno(err, ENOMEM, "reading a checkpoint");
    pin->store = store;
    r = take(store, checkpoint, &pin->lease, err);
    if (r == 0) {
        *out = pin;
        return 0;
    }
    free(pin);
    if (r != -ENOSPC)
        return r;
    *out = NULL;
    return 0;
}

void store_unpin(struct store_pin *pin)
{
    if (pin == NULL)
        return;
    lease_end(pin->store, &pin->lease);
    free(pin);
}

/* ---- opening and closing ---- */

int leases_open(struct store *store, struct error *err)
{
    _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
    int64_t owner;
    int r;

    store->leases_fd =
        openat(store->dirfd, "leases", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (store->leases_fd < 0)
        return error_errno(err, errno, "opening %s/leases", store->dir);
    /* Opening should not write where there is nothing to do. */
    r = find_dead(store, &owner, err);
    if (r <= 0)
        return r;
    r = quick_begin(db, NULL);
    if (r == 0)
        r = lease_drop_dead_locked(store, NULL);
    /* Whoever collects garbage does it if a full disk keeps us from it. */
    quick_end(db, r, NULL);
    return 0;
}

void leases_close(struct store *store)
{
    if (store->lease_owner != 0) {
        _cleanup_(db_unlockp) struct db *db = db_locked(&store->db);
        int r = quick_begin(db, NULL);

        if (r == 0)
            r = db_run(db, NULL, "DELETE FROM lease WHERE owner = ?", "i", store->lease_owner);
        quick_end(db, r, NULL);
    }
    free(store->ended);
    if (store->leases_fd >= 0)
        close(store->leases_fd);
}
