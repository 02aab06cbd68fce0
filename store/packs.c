/* SPDX-License-Identifier: Apache-2.0 */
#include "store/packs.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/digest.h"
#include "imgfmt/pack_mend.h"

#include <errno.h>
#include <fcntl.h>

/* Beyond this many, packs are closed after each read: a process has 1024 file
 * descriptors by default and needs some of them for other things. */
#define PACKS_OPEN_MAX 256u

/* Numbers from here on mark packs that are still being written (ingest.c). */
#define PACKS_MAX (UINT32_C(1) << 31)

int packs_init(struct packs *packs, int dirfd, struct group_cache *cache)
{
    *packs = (struct packs){.dirfd = dirfd, .cache = cache};
    pthread_rwlock_init(&packs->lock, NULL);
    pthread_mutex_init(&packs->fd_lock, NULL);
    return 0;
}

static void pack_free(struct pack *pack)
{
    if (pack == NULL)
        return;
    if (pack->fd >= 0)
        close(pack->fd);
    pack_index_free(pack->index);
    free(pack->damage);
    free(pack);
}

DEFINE_CLEANUP(struct pack, pack_free)
DEFINE_CLEANUP(struct pack_index, pack_index_free)

void packs_clear(struct packs *packs)
{
    for (uint32_t i = 0; i < packs->count; i++)
        pack_free(packs->list[i]);
    free(packs->list);
    index_clear(&packs->pages);
    index_clear(&packs->nodes);
    pthread_rwlock_destroy(&packs->lock);
    pthread_mutex_destroy(&packs->fd_lock);
}

void packs_name(const uint8_t id[PACK_ID_SIZE], char out[PACK_NAME_SIZE])
{
    char hex[2 * PACK_ID_SIZE + 1];

    snprintf(out, PACK_NAME_SIZE, "packs/%s.pack", hex_encode(id, PACK_ID_SIZE, hex));
}

/* Names are shown relative to the store, files are opened relative to packs/. */
static const char *file_name(const struct pack *pack)
{
    return pack->name + strlen("packs/");
}

uint32_t packs_count(struct packs *packs)
{
    uint32_t count;

    pthread_rwlock_rdlock(&packs->lock);
    count = packs->count;
    pthread_rwlock_unlock(&packs->lock);
    return count;
}

static int read_index(struct packs *packs, const struct pack *pack, const struct pack_row *row,
                      struct pack_index **out, struct error *err)
{
    _cleanup_(pack_index_freep) struct pack_index *index = NULL;
    _cleanup_close_ int fd = openat(packs->dirfd, file_name(pack), O_RDONLY | O_CLOEXEC);
    int r;

    if (fd < 0)
        return error_errno(err, errno, "%s", pack->name);
    r = pack_index_read(fd, pack->name, &index, err);
    if ((r == -EBADMSG || r == -EIO) && pack_index_rescue(fd, pack->name, &index, NULL) == 0)
        r = 0;
    if (r < 0)
        return r;
    if (memcmp(index->id, row->id, PACK_ID_SIZE) != 0 || index->kind != row->kind ||
        index->file_bytes != row->bytes || index->group_count != row->groups ||
        index->object_count != row->objects)
        return error_corrupt(err, "%s: it is not the pack that the catalogue lists", pack->name);
    *out = steal_pointer(index);
    return 0;
}

static int reserve_locked(struct packs *packs)
{
    uint32_t capacity = packs->capacity == 0 ? 64 : packs->capacity * 2;
    struct pack **list;

    if (packs->count < packs->capacity)
        return 0;
    if (packs->count >= PACKS_MAX - 1)
        return -ENOMEM;
    list = realloc(packs->list, capacity * sizeof(*list));
    if (list == NULL)
        return -ENOMEM;
    packs->list = list;
    packs->capacity = capacity;
    return 0;
}

static int index_objects_locked(struct packs *packs, const struct pack *pack)
{
    const struct pack_index *index = pack->index;
    struct index *ix = pack->kind == PACK_PAGES ? &packs->pages : &packs->nodes;
    int r = index_reserve(ix, index->object_count);

    for (uint32_t i = 0; r == 0 && i < index->object_count; i++)
        r = index_add(ix, page_ref_load(index->objects[i].bytes), packs->count, i);
    return r;
}

static int publish(struct packs *packs, struct pack *pack)
{
    int r;

    pthread_rwlock_wrlock(&packs->lock);
    /* In this order: no object may be indexed under a number that is not taken. */
    r = reserve_locked(packs);
    if (r == 0 && pack->index != NULL)
        r = index_objects_locked(packs, pack);
    if (r == 0) {
        packs->list[packs->count++] = pack;
        packs->damaged += pack->damage != NULL;
    }
    pthread_rwlock_unlock(&packs->lock);
    return r;
}

int packs_add(struct packs *packs, const struct pack_row *row, struct error *err)
{
    _cleanup_(pack_freep) struct pack *pack = calloc(1, sizeof(*pack));
    struct error damage = ERROR_INIT;
    int r;

    if (pack == NULL)
        return error_errno(err, ENOMEM, "loading a pack");
    pack->fd = -1;
    pack->seq = row->seq;
    pack->kind = row->kind;
    memcpy(pack->id, row->id, PACK_ID_SIZE);
    packs_name(row->id, pack->name);
    r = read_index(packs, pack, row, &pack->index, &damage);
    /* These pass; the next attempt may succeed. */
    if (r == -ENOMEM || r == -EMFILE || r == -ENFILE) {
        if (err != NULL)
            *err = damage;
        return r;
    }
    if (r < 0) {
        pack->damage = strdup(damage.message);
        if (pack->damage == NULL)
            return error_errno(err, ENOMEM, "loading %s", pack->name);
    }
    r = publish(packs, pack);
    if (r < 0)
        return error_errno(err, -r, "indexing %s", pack->name);
    if (pack->index != NULL) {
        /* They are in the hash now; keeping both would double the memory. */
        free(pack->index->objects);
        pack->index->objects = NULL;
    }
    steal_pointer(pack);
    return 0;
}

static enum pack_state state_of(const struct pack *pack)
{
    return (enum pack_state)atomic_load_explicit(&pack->state, memory_order_acquire);
}

unsigned packs_find(struct packs *packs, enum pack_kind kind, struct page_ref id, bool any_variant,
                    uint32_t from, uint32_t to, struct location *out, unsigned max)
{
    unsigned found = 0;

    pthread_rwlock_rdlock(&packs->lock);
    struct index_cursor cursor = index_find(kind == PACK_PAGES ? &packs->pages : &packs->nodes, id);
    for (;;) {
        const struct index_entry *e = any_variant ? index_next(&cursor) : index_next_exact(&cursor);

        if (e == NULL)
            break;
        if (index_entry_pack(e) < from || index_entry_pack(e) >= to ||
            state_of(packs->list[index_entry_pack(e)]) == PACK_FORGOTTEN)
            continue;
        if (found < max)
            out[found] = (struct location){e->id, index_entry_pack(e), e->object};
        found++;
    }
    pthread_rwlock_unlock(&packs->lock);
    return found;
}

static struct location first_of(struct packs *packs, enum pack_kind kind, struct page_ref key,
                                uint32_t to)
{
    struct location first = {.pack = PACK_NONE};
    struct index_cursor cursor =
        index_find(kind == PACK_PAGES ? &packs->pages : &packs->nodes, key);
    const struct index_entry *e;

    while ((e = index_next(&cursor)) != NULL) {
        struct location at = {e->id, index_entry_pack(e), e->object};

        if (at.pack >= to || state_of(packs->list[at.pack]) == PACK_FORGOTTEN)
            continue;
        if (state_of(packs->list[at.pack]) == PACK_LIVE)
            return at;
        if (first.pack == PACK_NONE)
            first = at;
    }
    return first;
}

void packs_find_batch(struct packs *packs, enum pack_kind kind, const struct page_ref *keys,
                      unsigned n, uint32_t to, struct location *first_out)
{
    pthread_rwlock_rdlock(&packs->lock);
    for (unsigned i = 0; i < n; i++)
        first_out[i] = first_of(packs, kind, keys[i], to);
    pthread_rwlock_unlock(&packs->lock);
}

static struct pack *get(struct packs *packs, uint32_t number)
{
    struct pack *pack;

    pthread_rwlock_rdlock(&packs->lock);
    pack = packs->list[number];
    pthread_rwlock_unlock(&packs->lock);
    return pack;
}

const struct pack *packs_get(struct packs *packs, uint32_t number)
{
    return get(packs, number);
}

enum pack_state packs_state(struct packs *packs, uint32_t number)
{
    return state_of(get(packs, number));
}

void packs_set_state(struct packs *packs, uint32_t number, enum pack_state state)
{
    atomic_store_explicit(&get(packs, number)->state, (int)state, memory_order_release);
}

/* Packs are added in the order of their rows. */
uint32_t packs_number_of(struct packs *packs, int64_t seq)
{
    uint32_t low = 0, high, number = PACK_NONE;

    pthread_rwlock_rdlock(&packs->lock);
    high = packs->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (packs->list[middle]->seq < seq)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < packs->count && packs->list[low]->seq == seq)
        number = low;
    pthread_rwlock_unlock(&packs->lock);
    return number;
}

static int acquire_fd(struct packs *packs, struct pack *pack, struct error *err)
{
    int r = 0;

    pthread_mutex_lock(&packs->fd_lock);
    if (pack->fd < 0) {
        pack->fd = openat(packs->dirfd, file_name(pack), O_RDONLY | O_CLOEXEC);
        if (pack->fd < 0)
            r = error_errno(err, errno, "%s", pack->name);
        else
            packs->open_fds++;
    }
    if (r == 0)
        pack->users++;
    pthread_mutex_unlock(&packs->fd_lock);
    return r;
}

static void release_fd(struct packs *packs, struct pack *pack)
{
    pthread_mutex_lock(&packs->fd_lock);
    if (--pack->users == 0 && packs->open_fds > PACKS_OPEN_MAX) {
        close(steal_fd(&pack->fd));
        packs->open_fds--;
    }
    pthread_mutex_unlock(&packs->fd_lock);
}

uint32_t pack_group_of_object(const struct pack_index *index, uint32_t object)
{
    uint32_t low = 0, high = index->group_count;

    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;

        if (index->groups[middle].first_object <= object)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static int load_group(struct packs *packs, struct pack *pack, uint32_t number, uint32_t group,
                      struct cached_group **out, struct error *err)
{
    int r = acquire_fd(packs, pack, err);

    if (r < 0)
        return r;
    r = group_cache_get(packs->cache, group_cache_key(number, group), pack->fd, pack->name,
                        pack->index, group, out, err);
    release_fd(packs, pack);
    return r;
}

int packs_read_near(struct packs *packs, const struct location *at, struct cached_group **group_io,
                    const uint8_t **bytes_out, size_t *length_out, struct error *err)
{
    struct pack *pack = get(packs, at->pack);
    uint32_t group = pack_group_of_object(pack->index, at->object);
    uint64_t key = group_cache_key(at->pack, group);
    int r;

    if (*group_io == NULL || (*group_io)->key != key) {
        struct cached_group *g = group_cache_peek(packs->cache, key);

        r = g != NULL ? 0 : load_group(packs, pack, at->pack, group, &g, err);
        if (r < 0)
            return r;
        cached_group_release(*group_io);
        *group_io = g;
    }
    r = cached_group_object(*group_io, at->object - pack->index->groups[group].first_object,
                            bytes_out, length_out);
    if (r < 0)
        return error_corrupt(err, "%s: group %u does not hold what its footer says", pack->name,
                             group);
    return 0;
}

int packs_read(struct packs *packs, const struct location *at, struct cached_group **group_out,
               const uint8_t **bytes_out, size_t *length_out, struct error *err)
{
    struct cached_group *g = NULL;
    int r = packs_read_near(packs, at, &g, bytes_out, length_out, err);

    if (r < 0)
        cached_group_release(g);
    else
        *group_out = g;
    return r;
}

int packs_missing(struct packs *packs, const char *what, struct error *err)
{
    const char *damage = NULL;

    pthread_rwlock_rdlock(&packs->lock);
    for (uint32_t i = 0; i < packs->count && damage == NULL && packs->damaged != 0; i++)
        damage = packs->list[i]->damage;
    pthread_rwlock_unlock(&packs->lock);
    if (damage != NULL)
        error_corrupt(err, "%s cannot be found; a pack of the store is damaged: %s", what, damage);
    else
        error_corrupt(err, "%s is not in the store", what);
    error_hint(err, "'stasis verify' names everything that is damaged and what it hits");
    return -EBADMSG;
}
