/* SPDX-License-Identifier: Apache-2.0 */
#include "store/store.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "store/lease.h"
#include "store/private.h"
#include "store/usage.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

/* A disk that was installed bit by bit refers to groups all over the store: with 64 MiB
 * of them kept, storing its second version decoded each 1.9 times. */
#define CACHE_BYTES_MIN (UINT64_C(64) << 20)
#define CACHE_BYTES_MAX (UINT64_C(256) << 20)
#define CACHE_PART 32u /* of the machine's memory */

DEFINE_CLEANUP(struct store, store_close)

/* ---- opening ---- */

static bool has_suffix(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);

    return n > m && strcmp(name + n - m, suffix) == 0;
}

/* Calls visit for each file of packs/; stops at a non-zero return. */
static int each_pack_file(struct store *store, int (*visit)(struct store *, const char *))
{
    _cleanup_closedir_ DIR *dir = NULL;
    int fd = openat(store->packs_dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const struct dirent *entry;
    int r = 0;

    if (fd < 0)
        return -errno;
    dir = fdopendir(fd);
    if (dir == NULL) {
        close(fd);
        return -ENOMEM;
    }
    while (r == 0 && (entry = readdir(dir)) != NULL)
        r = visit(store, entry->d_name);
    return r;
}

static int is_pack_file(struct store *store, const char *name)
{
    (void)store;
    return has_suffix(name, ".pack");
}

/* 1 if the catalogue lists the pack of that file name, or may do so in a row that is
 * damaged, or if it is no pack's name: such files we leave alone. 0 if not. */
static int is_listed(struct store *store, const char *name)
{
    uint8_t id[PACK_ID_SIZE];
    char hex[2 * PACK_ID_SIZE + 1];
    int64_t one;
    int r;

    if (strlen(name) != 2 * PACK_ID_SIZE + strlen(".pack"))
        return 1;
    memcpy(hex, name, sizeof(hex) - 1);
    hex[sizeof(hex) - 1] = '\0';
    if (hex_decode(hex, id, sizeof(id)) < 0)
        return 1;
    db_lock(&store->db);
    r = db_get_int(&store->db, &one, NULL, "SELECT 1 FROM pack WHERE id = ?", "b", id, sizeof(id));
    /* By the table, not its index: a pack must not go because one byte of either
     * has flipped. */
    if (r == -ENOENT)
        r = db_get_int(&store->db, &one, NULL, "SELECT 1 FROM pack NOT INDEXED WHERE id = ?", "b",
                       id, sizeof(id));
    if (r == -ENOENT && store_packs_are_listed_right(store, NULL) == 1)
        r = 1;
    db_unlock(&store->db);
    return r == 1 ? 0 : 1;
}

/*
 * Removes what a writer that died left behind. A living writer holds the lock of
 * its file from before its first byte until its commit; so whoever gets the lock
 * and then still finds the pack unlisted has found one nobody will ever list.
 */
static int remove_leftover(struct store *store, const char *name)
{
    bool sealed = has_suffix(name, ".pack");
    _cleanup_close_ int fd = -1;

    if (!sealed && !has_suffix(name, ".tmp"))
        return 0;
    if (sealed && is_listed(store, name))
        return 0;
    fd = openat(store->packs_dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
        return 0;
    if (!sealed || !is_listed(store, name))
        unlinkat(store->packs_dirfd, name, 0);
    return 0;
}

static int catalogue_is_lost(struct store *store, struct error *err)
{
    error_corrupt(err, "the store %s has packs but its catalogue.db is missing or empty",
                  store->dir);
    error_hint(err, "put catalogue.db (and catalogue.db-wal) back from a copy");
    return -EBADMSG;
}

/* A catalogue without tables beside packs is not a new store: making it one would
 * throw the packs away. *has_packs_out: so db_open() must not make tables. */
static int check_not_lost(struct store *store, bool *has_packs_out, struct error *err)
{
    struct stat st;
    int r = each_pack_file(store, is_pack_file);

    if (r < 0)
        return r;
    *has_packs_out = r == 1;
    if (r == 0 || (fstatat(store->dirfd, "catalogue.db", &st, 0) == 0 && st.st_size != 0))
        return 0;
    return catalogue_is_lost(store, err);
}

static int open_dirs(struct store *store, bool create, struct error *err)
{
    _cleanup_free_ char *packs = io_format("%s/packs", store->dir);
    _cleanup_free_ char *catalogue = io_format("%s/catalogue.db", store->dir);
    int r = 0;

    if (create)
        r = io_make_dirs(packs, 0700);
    else if (access(catalogue, F_OK) < 0)
        r = -errno;
    if (r == -ENOENT) {
        error_set(err, STATUS_NOT_FOUND, ENOENT, "there is no store in %s", store->dir);
        error_hint(err, "'stasis import' or 'stasis pull' make one; --home chooses another");
        return r;
    }
    if (r < 0)
        return error_errno(err, -r, "opening the store %s", store->dir);
    store->dirfd = open(store->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->dirfd >= 0)
        store->packs_dirfd = openat(store->dirfd, "packs", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->dirfd < 0 || store->packs_dirfd < 0)
        return error_errno(err, errno, "opening the store %s", store->dir);
    return 0;
}

static int open_db(struct store *store, bool may_be_new, struct error *err)
{
    _cleanup_free_ char *path = io_format("%s/catalogue.db", store->dir);
    int r = db_open(&store->db, path, may_be_new, err);

    if (r != -ENOSPC || !store_release_reserve(store))
        return r;
    db_close(&store->db);
    return db_open(&store->db, path, may_be_new, err);
}

/* One process at a time: two that both find no catalogue must not both make it. */
static int open_catalogue(struct store *store, struct error *err)
{
    bool has_packs = false;
    int r;

    while (flock(store->dirfd, LOCK_EX) < 0)
        if (errno != EINTR)
            return error_errno(err, errno, "locking the store %s", store->dir);
    r = check_not_lost(store, &has_packs, err);
    if (r == 0)
        r = open_db(store, !has_packs, err);
    if (r == -ENODATA)
        r = catalogue_is_lost(store, err);
    if (r == 0)
        r = each_pack_file(store, remove_leftover);
    flock(store->dirfd, LOCK_UN);
    if (r < 0 && err != NULL && err->errnum == 0)
        return error_errno(err, -r, "opening the store %s", store->dir);
    return r;
}

/* STASIS_INDEX_MEMORY, in MiB. */
static int limit_index(struct store *store, struct error *err)
{
    const char *text = getenv("STASIS_INDEX_MEMORY");
    uint64_t mib, bytes;
    char *end;

    if (text == NULL || text[0] == '\0')
        return 0;
    errno = 0;
    mib = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 ||
        mul_overflows(mib, UINT64_C(1) << 20, &bytes)) {
        error_set(err, STATUS_USAGE, EINVAL, "$STASIS_INDEX_MEMORY is '%s', not a number", text);
        error_hint(err, "it says how many MiB of memory the index of the store may take; 1024 "
                        "if it is not set");
        return -EINVAL;
    }
    packs_limit_memory(&store->packs, bytes);
    return 0;
}

static size_t cache_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    uint64_t part = pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size / CACHE_PART : 0;

    return (size_t)min_u64(max_u64(part, CACHE_BYTES_MIN), CACHE_BYTES_MAX);
}

int store_open(const char *dir, bool create, struct store **out, struct error *err)
{
    _cleanup_(store_closep) struct store *store = calloc(1, sizeof(*store));
    int r;

    if (store == NULL)
        return error_errno(err, ENOMEM, "opening the store");
    store->dirfd = store->packs_dirfd = store->leases_fd = -1;
    store->data_version = -1;
    /* Above every number a committed pack can have. */
    atomic_init(&store->next_owner, UINT32_C(1) << 31);
    store->dir = strdup(dir);
    if (store->dir == NULL || group_cache_new(cache_bytes(), &store->cache) < 0 ||
        workers_new(0, &store->workers) < 0)
        return error_errno(err, ENOMEM, "opening the store");
    r = open_dirs(store, create, err);
    if (r < 0)
        return r;
    packs_init(&store->packs, store->dirfd, store->packs_dirfd, store->cache);
    r = limit_index(store, err);
    if (r < 0)
        return r;
    packs_open_runs(&store->packs);
    r = open_catalogue(store, err);
    if (r == 0)
        r = leases_open(store, err);
    if (r == 0)
        r = store_refresh(store, err);
    if (r < 0)
        return r;
    store_make_reserve(store);
    *out = steal_pointer(store);
    return 0;
}

void store_close(struct store *store)
{
    if (store == NULL)
        return;
    if (store->packs_dirfd >= 0) {
        packs_write_runs(&store->packs, false, NULL);
        packs_clear(&store->packs);
        leases_close(store);
        if (store->db.path != NULL)
            db_close(&store->db);
        close(store->packs_dirfd);
    }
    if (store->dirfd >= 0)
        close(store->dirfd);
    group_cache_free(store->cache);
    workers_free(store->workers);
    free(store->dir);
    free(store);
}

void store_limit_threads(struct store *store, unsigned threads)
{
    workers_limit(store->workers, threads);
}

unsigned store_threads(struct store *store)
{
    return workers_threads(store->workers);
}

void store_limit_cache(struct store *store, size_t bytes)
{
    group_cache_limit(store->cache, bytes);
}

int store_index_rebuild(struct store *store, struct error *err)
{
    int r = store_refresh(store, err);

    return r < 0 ? r : packs_write_runs(&store->packs, true, err);
}

/* ---- reading ---- */

int store_find_all(struct store *store, struct page_ref key, uint32_t from, uint32_t to,
                   struct locations *io)
{
    for (;;) {
        unsigned n =
            packs_find(&store->packs, PACK_PAGES, key, true, from, to, io->list, io->capacity);
        struct location *list;

        if (n <= io->capacity)
            return (int)n;
        list = realloc(io->list, (n + 8) * sizeof(*list));
        if (list == NULL)
            return -ENOMEM;
        io->list = list;
        io->capacity = n + 8;
    }
}

enum { COPIES_MAX = 4 }; /* of one object, in different packs, that a read tries */

/*
 * Finds an object in any committed pack. What is not in the index may have been
 * committed by another process since the packs were last loaded.
 */
static int find_object(struct store *store, enum pack_kind kind, struct page_ref id,
                       struct location at[COPIES_MAX], struct error *err)
{
    unsigned n = packs_find(&store->packs, kind, id, false, 0, UINT32_MAX, at, COPIES_MAX);

    if (n == 0) {
        int r = store_refresh(store, err);

        if (r < 0)
            return r;
        n = packs_find(&store->packs, kind, id, false, 0, UINT32_MAX, at, COPIES_MAX);
    }
    /* The index only proposes: nothing is lost because it lacks an entry. */
    if (n == 0)
        n = packs_search(&store->packs, kind, id, at, COPIES_MAX);
    return n < COPIES_MAX ? (int)n : COPIES_MAX;
}

/* Once for each page of a group that is in memory. */
static int check_page(struct store *store, const struct location *at, struct cached_group *g,
                      const uint8_t *bytes, struct error *err)
{
    const uint32_t position = at->object - g->first_object;

    if (cached_group_is_checked(g, position))
        return 0;
    if (page_ref_same_key(page_ref_of(bytes), at->id)) {
        cached_group_set_checked(g, position);
        return 0;
    }
    return error_corrupt(err, "%s: object %u is not the page that its footer says",
                         packs_get(&store->packs, at->pack)->name, at->object);
}

static int page_missing(struct store *store, struct page_ref ref, struct error *err)
{
    uint8_t bytes[PAGE_REF_SIZE];
    char hex[2 * PAGE_REF_SIZE + 1], what[64];

    page_ref_store(ref, bytes);
    snprintf(what, sizeof(what), "page %s", hex_encode(bytes, sizeof(bytes), hex));
    return packs_missing(&store->packs, what, err);
}

/*
 * A read that failed may have looked in a pack that has been collected since; then
 * there is another copy. 1 if it is worth another try.
 */
static int packs_changed_since(struct store *store, int64_t epoch)
{
    return store_refresh(store, NULL) == 0 && atomic_load(&store->epoch) != epoch;
}

static int page_near(struct store *store, struct page_ref ref, struct cached_group **group_io,
                     const uint8_t **bytes_out, struct error *err)
{
    struct location at[COPIES_MAX];
    int n = find_object(store, PACK_PAGES, ref, at, err);
    size_t length;
    int r = n;

    for (int i = 0; i < n && r != 0; i++) {
        r = packs_read_near(&store->packs, &at[i], group_io, bytes_out, &length, err);
        if (r == 0)
            r = check_page(store, &at[i], *group_io, *bytes_out, err);
    }
    return n == 0 ? page_missing(store, ref, err) : r;
}

int store_page_near(struct store *store, struct page_ref ref, struct cached_group **group_io,
                    const uint8_t **bytes_out, struct error *err)
{
    int64_t epoch = atomic_load(&store->epoch);
    int r = page_near(store, ref, group_io, bytes_out, err);

    if (r < 0 && packs_changed_since(store, epoch))
        r = page_near(store, ref, group_io, bytes_out, err);
    return r;
}

int store_page_cached(struct store *store, struct page_ref ref, struct cached_group **group_io,
                      const uint8_t **bytes_out)
{
    struct location at;
    size_t length;

    if (packs_find(&store->packs, PACK_PAGES, ref, false, 0, UINT32_MAX, &at, 1) == 0 ||
        packs_peek_near(&store->packs, &at, group_io, bytes_out, &length) < 0 ||
        check_page(store, &at, *group_io, *bytes_out, NULL) < 0)
        return -EAGAIN;
    return 0;
}

int store_page_read(struct store *store, struct page_ref ref, void *page_out, struct error *err)
{
    _cleanup_(cached_group_releasep) struct cached_group *g = NULL;
    const uint8_t *bytes;
    int r;

    if (page_ref_is_zero(ref)) {
        memset(page_out, 0, STASIS_PAGE_SIZE);
        return 0;
    }
    r = store_page_near(store, ref, &g, &bytes, err);
    if (r == 0)
        memcpy(page_out, bytes, STASIS_PAGE_SIZE);
    return r;
}

static int check_node(struct store *store, const struct location *at, const struct digest *digest,
                      struct cached_group *g, struct error *err)
{
    struct digest actual = cached_group_digest(g, at->object - g->first_object);

    if (digest_equal(&actual, digest))
        return 0;
    return error_corrupt(err, "%s: object %u is not the map node that its footer says",
                         packs_get(&store->packs, at->pack)->name, at->object);
}

static int node_bytes(struct store *store, const struct digest *digest,
                      struct cached_group **group_out, const uint8_t **bytes_out,
                      size_t *length_out, struct error *err)
{
    struct location at[COPIES_MAX];
    int n = find_object(store, PACK_NODES, node_id(digest), at, err);
    char hex[DIGEST_HEX_SIZE], what[DIGEST_HEX_SIZE + 16];

    if (n < 0)
        return n;
    for (int i = 0; i < n; i++) {
        _cleanup_(cached_group_releasep) struct cached_group *g = NULL;
        int r = packs_read(&store->packs, &at[i], &g, bytes_out, length_out, err);

        if (r == 0)
            r = check_node(store, &at[i], digest, g, err);
        if (r == 0)
            *group_out = steal_pointer(g);
        if (r == 0 || i + 1 == n)
            return r;
    }
    snprintf(what, sizeof(what), "map node %s", digest_hex(digest, hex));
    return packs_missing(&store->packs, what, err);
}

int store_node_bytes(struct store *store, const struct digest *digest,
                     struct cached_group **group_out, const uint8_t **bytes_out, size_t *length_out,
                     struct error *err)
{
    int64_t epoch = atomic_load(&store->epoch);
    atomic_fetch_add_explicit(&store->nodes_read, 1, memory_order_relaxed);
    int r = node_bytes(store, digest, group_out, bytes_out, length_out, err);

    if (r < 0 && packs_changed_since(store, epoch))
        r = node_bytes(store, digest, group_out, bytes_out, length_out, err);
    return r;
}

int store_node_read(struct store *store, const struct digest *digest, struct map_node *out,
                    struct error *err)
{
    _cleanup_(cached_group_releasep) struct cached_group *g = NULL;
    const uint8_t *bytes;
    size_t length;
    int r = store_node_bytes(store, digest, &g, &bytes, &length, err);

    return r < 0 ? r : map_node_decode(bytes, length, out, err);
}

int store_blob_read_locked(struct store *store, const struct digest *digest, void **data_out,
                           size_t *length_out, struct error *err)
{
    _cleanup_stmt_ sqlite3_stmt *stmt = NULL;
    char hex[DIGEST_HEX_SIZE];
    int r =
        db_prepare(&store->db, &stmt, err, "SELECT data FROM blob WHERE digest = ?", "d", digest);
    struct digest actual;
    size_t length;
    char *data;

    if (r == 0)
        r = db_step(&store->db, stmt, err);
    if (r <= 0)
        return r < 0 ? r : -ENOENT;
    length = (size_t)sqlite3_column_bytes(stmt, 0);
    actual = digest_of(length != 0 ? sqlite3_column_blob(stmt, 0) : "", length);
    if (!digest_equal(&actual, digest))
        return error_corrupt(err, "catalogue.db: blob %s is damaged", digest_hex(digest, hex));
    data = malloc(length + 1);
    if (data == NULL)
        return error_errno(err, ENOMEM, "reading a blob");
    if (length != 0)
        memcpy(data, sqlite3_column_blob(stmt, 0), length);
    data[length] = '\0';
    *data_out = data;
    *length_out = length;
    return 0;
}

int store_blob_read(struct store *store, const struct digest *digest, void **data_out,
                    size_t *length_out, struct error *err)
{
    _cleanup_(db_unlockp) struct db *locked = db_locked(&store->db);
    char hex[DIGEST_HEX_SIZE];
    int r = store_blob_read_locked(store, digest, data_out, length_out, err);

    (void)locked;
    if (r == -ENOENT)
        return error_corrupt(err, "blob %s is not in the store", digest_hex(digest, hex));
    return r;
}
