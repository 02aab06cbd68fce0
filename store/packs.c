/* SPDX-License-Identifier: Apache-2.0 */
#include "store/packs.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/digest.h"
#include "imgfmt/pack_mend.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

/* Beyond this many, packs that nobody uses are closed: a process has 1024 file
 * descriptors by default and needs some of them for other things. */
#define PACKS_OPEN_MAX 256u

/* Numbers from here on mark packs that are still being written (ingest.c). */
#define PACKS_MAX (UINT32_C(1) << 31)

/* A tail of so many objects takes 700 KiB and some milliseconds to make. */
#define RUN_WEIGHT (UINT64_C(1) << 16)

int packs_init(struct packs *packs, int store_dirfd, int packs_dirfd, struct group_cache *cache)
{
    *packs = (struct packs){
        .store_dirfd = store_dirfd, .dirfd = packs_dirfd, .cache = cache, .run_weight = RUN_WEIGHT};
    packs->memory_max = PACKS_MEMORY_DEFAULT;
    pthread_rwlock_init(&packs->lock, NULL);
    pthread_mutex_init(&packs->index_lock, NULL);
    pthread_mutex_init(&packs->fd_lock, NULL);
    return 0;
}

/* Ids are mapped, or (bytes 0) in memory of their own. */
static void free_ids(void *map, size_t bytes)
{
    if (bytes != 0)
        munmap(map, bytes);
    else
        free(map);
}

static void pack_free(struct pack *pack)
{
    if (pack == NULL)
        return;
    if (pack->fd >= 0)
        close(pack->fd);
    free_ids(pack->map, pack->map_bytes);
    pack_index_free(pack->index);
    free(pack->damage);
    free(pack);
}

DEFINE_CLEANUP(struct pack, pack_free)

void packs_clear(struct packs *packs)
{
    for (uint32_t i = 0; i < packs->count; i++)
        pack_free(packs->list[i]);
    free(packs->list);
    for (unsigned i = 0; i < packs->run_count; i++)
        run_free(packs->runs[i]);
    run_free(packs->tail);
    pthread_rwlock_destroy(&packs->lock);
    pthread_mutex_destroy(&packs->index_lock);
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

/* ---- the list ---- */

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

void packs_bind(struct packs *packs, uint32_t number)
{
    struct pack *pack = packs->list[number];

    for (unsigned i = packs->run_count; i-- > 0 && !pack->indexed;) {
        int64_t place = run_pack_of(packs->runs[i], pack->seq);
        struct run_pack *covered = place < 0 ? NULL : &packs->runs[i]->packs[place];

        if (covered == NULL || covered->objects != pack->objects ||
            memcmp(covered->id, pack->id, PACK_ID_SIZE) != 0)
            continue;
        covered->number = number;
        pack->indexed = true;
    }
}

int packs_add(struct packs *packs, const struct pack_row *row, struct error *err)
{
    _cleanup_(pack_freep) struct pack *pack = calloc(1, sizeof(*pack));
    int r;

    if (pack == NULL)
        return error_errno(err, ENOMEM, "loading a pack");
    pack->fd = -1;
    pack->seq = row->seq;
    pack->kind = row->kind;
    pack->bytes = row->bytes;
    pack->groups = row->groups;
    pack->objects = row->objects;
    memcpy(pack->id, row->id, PACK_ID_SIZE);
    packs_name(row->id, pack->name);
    pthread_rwlock_wrlock(&packs->lock);
    r = reserve_locked(packs);
    if (r == 0) {
        packs->list[packs->count++] = steal_pointer(pack);
        packs_bind(packs, packs->count - 1);
        packs->objects += row->objects;
        packs_note_size_locked(packs);
    }
    pthread_rwlock_unlock(&packs->lock);
    return r < 0 ? error_errno(err, -r, "loading a pack") : 0;
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

bool packs_is_damaged(struct packs *packs, uint32_t number)
{
    bool damaged;

    pthread_rwlock_rdlock(&packs->lock);
    damaged = packs->list[number]->damage != NULL;
    pthread_rwlock_unlock(&packs->lock);
    return damaged;
}

enum pack_state packs_state(struct packs *packs, uint32_t number)
{
    return pack_state_of(get(packs, number));
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

/* ---- footers ---- */

/* What is read of a pack's file. */
struct footer {
    struct pack_index *index; /* without the ids */
    void *map;
    size_t map_bytes;
    const uint8_t *ids;
};

static void footer_clear(struct footer *f)
{
    pack_index_free(f->index);
    free_ids(f->map, f->map_bytes);
}

/* The ids have just been read and checked: mapping them finds them in memory. */
static int map_ids(int fd, struct footer *f)
{
    uint64_t offset = pack_objects_offset(f->index);
    uint64_t begin = align_down(offset, 4096);
    uint64_t length = offset - begin + (uint64_t)f->index->object_count * PAGE_REF_SIZE;
    void *map;

    /* Of a pack without objects: any place will do. */
    map = mmap(NULL, length + 1, PROT_READ, MAP_SHARED, fd, (off_t)begin);
    if (map == MAP_FAILED)
        return -ENOMEM;
    madvise(map, length, MADV_RANDOM);
    free(steal_pointer(f->index->objects));
    f->map = map;
    f->map_bytes = length + 1;
    f->ids = (const uint8_t *)map + (offset - begin);
    return 0;
}

/* What is in the file is not what has been put right in memory. */
static void keep_rescued_ids(struct footer *f)
{
    f->map = steal_pointer(f->index->objects);
    f->ids = f->map;
}

static int read_index(int fd, const struct pack *pack, bool *rescued_out, struct pack_index **out,
                      struct error *err)
{
    int r = pack_index_read(fd, pack->name, out, err);

    *rescued_out =
        (r == -EBADMSG || r == -EIO) && pack_index_rescue(fd, pack->name, out, NULL) == 0;
    return *rescued_out ? 0 : r;
}

static int read_footer(struct packs *packs, const struct pack *pack, struct footer *out,
                       struct error *err)
{
    _cleanup_(footer_clear) struct footer f = {0};
    _cleanup_close_ int fd = openat(packs->dirfd, file_name(pack), O_RDONLY | O_CLOEXEC);
    bool rescued;
    int r;

    if (fd < 0)
        return error_errno(err, errno, "%s", pack->name);
    r = read_index(fd, pack, &rescued, &f.index, err);
    if (r < 0)
        return r;
    if (memcmp(f.index->id, pack->id, PACK_ID_SIZE) != 0 || f.index->kind != pack->kind ||
        f.index->file_bytes != pack->bytes || f.index->group_count != pack->groups ||
        f.index->object_count != pack->objects)
        return error_corrupt(err, "%s: it is not the pack that the catalogue lists", pack->name);
    if (rescued)
        keep_rescued_ids(&f);
    else
        r = map_ids(fd, &f);
    if (r < 0)
        return error_errno(err, -r, "reading %s", pack->name);
    *out = f;
    f = (struct footer){0};
    return 0;
}

/* Takes note that a pack cannot be used; the first reason stays. */
static int note_damage(struct packs *packs, struct pack *pack, const struct error *why)
{
    char *damage = strdup(why->message);
    int r = damage == NULL ? -ENOMEM : 0;

    pthread_rwlock_wrlock(&packs->lock);
    if (r == 0 && pack->damage == NULL) {
        pack->damage = steal_pointer(damage);
        pack->damage_errnum = why->errnum;
        packs->damaged++;
    }
    pthread_rwlock_unlock(&packs->lock);
    free(damage);
    return r;
}

static uint64_t bytes_of_groups(const struct pack_index *index)
{
    return (uint64_t)index->group_count * sizeof(*index->groups);
}

static void keep_index(struct packs *packs, struct pack *pack, struct footer *f)
{
    pthread_mutex_lock(&packs->fd_lock);
    if (pack->index == NULL) {
        pack->index = steal_pointer(f->index);
        packs->group_bytes += bytes_of_groups(pack->index);
    }
    pack->recent = true;
    pthread_mutex_unlock(&packs->fd_lock);
}

void packs_unmap_locked(struct packs *packs, struct pack *pack)
{
    if (pack->map == NULL)
        return;
    packs->map_bytes -= (uint64_t)pack->objects * PAGE_REF_SIZE;
    free_ids(pack->map, pack->map_bytes);
    pack->map = NULL;
    pack->map_bytes = 0;
    pack->ids = NULL;
    packs->maps--;
}

static void keep_ids(struct packs *packs, struct pack *pack, struct footer *f)
{
    pthread_rwlock_wrlock(&packs->lock);
    packs_shed_ids_locked(packs, (uint64_t)pack->objects * PAGE_REF_SIZE);
    if (pack->ids == NULL) {
        packs->map_bytes += (uint64_t)pack->objects * PAGE_REF_SIZE;
        pack->map = steal_pointer(f->map);
        pack->map_bytes = f->map_bytes;
        f->map_bytes = 0;
        pack->ids = f->ids;
        packs->maps++;
    }
    pthread_rwlock_unlock(&packs->lock);
}

static int known_damage(struct packs *packs, const struct pack *pack, struct error *err)
{
    int r = 0;

    pthread_rwlock_rdlock(&packs->lock);
    if (pack_state_of(pack) == PACK_FORGOTTEN)
        r = error_corrupt(err, "%s has been removed", pack->name);
    else if (pack->damage != NULL)
        r = error_corrupt(err, "%s", pack->damage);
    pthread_rwlock_unlock(&packs->lock);
    return r;
}

/* Closes what has not been used for a while, until little enough is open. */
static void tidy_up(struct packs *packs)
{
    uint64_t group_bytes_max;

    pthread_rwlock_rdlock(&packs->lock);
    group_bytes_max = packs_group_bytes_max(packs);
    pthread_mutex_lock(&packs->fd_lock);
    for (uint64_t i = 0; i < 2 * (uint64_t)packs->count &&
                         (packs->open_fds > PACKS_OPEN_MAX || packs->group_bytes > group_bytes_max);
         i++) {
        struct pack *pack = packs->list[packs->hand++ % packs->count];

        if (pack->recent || pack->users != 0) {
            pack->recent = false;
            continue;
        }
        if (pack->fd >= 0) {
            close(steal_fd(&pack->fd));
            packs->open_fds--;
        }
        if (pack->index != NULL && packs->group_bytes > group_bytes_max) {
            packs->group_bytes -= bytes_of_groups(pack->index);
            pack_index_free(steal_pointer(pack->index));
        }
    }
    pthread_mutex_unlock(&packs->fd_lock);
    pthread_rwlock_unlock(&packs->lock);
}

int packs_load(struct packs *packs, struct pack *pack, struct error *err)
{
    _cleanup_(footer_clear) struct footer f = {0};
    struct error why = ERROR_INIT;
    int r = known_damage(packs, pack, err);

    if (r < 0)
        return r;
    r = read_footer(packs, pack, &f, &why);
    if (r < 0 && err != NULL)
        *err = why;
    if (packs_is_passing(r))
        return r;
    if (r < 0)
        return note_damage(packs, pack, &why) < 0 ? -ENOMEM : -EBADMSG;
    keep_index(packs, pack, &f);
    keep_ids(packs, pack, &f);
    tidy_up(packs);
    return 0;
}

void packs_pin(struct packs *packs, bool pin)
{
    pthread_rwlock_wrlock(&packs->lock);
    packs->pinned_maps += pin ? 1 : -1u;
    packs_shed_ids_locked(packs, 0);
    pthread_rwlock_unlock(&packs->lock);
}

void packs_repin(struct packs *packs)
{
    packs_pin(packs, false);
    packs_pin(packs, true);
}

int packs_ids(struct packs *packs, uint32_t number, const uint8_t **out, struct error *err)
{
    struct pack *pack = get(packs, number);
    int r = known_damage(packs, pack, err);

    for (;;) {
        const uint8_t *ids;

        pthread_rwlock_rdlock(&packs->lock);
        ids = pack->ids;
        pthread_rwlock_unlock(&packs->lock);
        if (r == 0 && ids != NULL)
            *out = ids;
        if (r < 0 || ids != NULL)
            return r;
        r = packs_load(packs, pack, err);
    }
}

void packs_set_state(struct packs *packs, uint32_t number, enum pack_state state)
{
    struct pack *pack = get(packs, number);

    pthread_rwlock_wrlock(&packs->lock);
    atomic_store_explicit(&pack->state, (int)state, memory_order_release);
    /* Its file may go, and the space is free when nobody holds it any more. */
    if (state == PACK_FORGOTTEN && packs->pinned_maps == 0)
        packs_unmap_locked(packs, pack);
    pthread_mutex_lock(&packs->fd_lock);
    if (state == PACK_FORGOTTEN && pack->users == 0 && pack->fd >= 0) {
        close(steal_fd(&pack->fd));
        packs->open_fds--;
    }
    pthread_mutex_unlock(&packs->fd_lock);
    pthread_rwlock_unlock(&packs->lock);
}

/* ---- reading ---- */

static int open_locked(struct packs *packs, struct pack *pack, struct error *err)
{
    if (pack->fd >= 0)
        return 0;
    pack->fd = openat(packs->dirfd, file_name(pack), O_RDONLY | O_CLOEXEC);
    if (pack->fd < 0)
        return error_errno(err, errno, "%s", pack->name);
    packs->open_fds++;
    return 0;
}

static void release(struct packs *packs, struct pack *pack)
{
    pthread_mutex_lock(&packs->fd_lock);
    pack->users--;
    pthread_mutex_unlock(&packs->fd_lock);
}

/* With the pack in use, so that nobody tidies away what it gets here. */
static int open_in_use(struct packs *packs, struct pack *pack, struct error *err)
{
    bool has_index, crowded;
    int r = 0;

    pthread_mutex_lock(&packs->fd_lock);
    has_index = pack->index != NULL;
    pthread_mutex_unlock(&packs->fd_lock);
    if (!has_index)
        r = packs_load(packs, pack, err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&packs->fd_lock);
    r = open_locked(packs, pack, err);
    crowded = packs->open_fds > PACKS_OPEN_MAX;
    pthread_mutex_unlock(&packs->fd_lock);
    if (crowded)
        tidy_up(packs);
    return r;
}

/* Afterwards pack->index and pack->fd stay until release(). */
static int acquire(struct packs *packs, struct pack *pack, struct error *err)
{
    int r;

    pthread_mutex_lock(&packs->fd_lock);
    pack->users++;
    pack->recent = true;
    pthread_mutex_unlock(&packs->fd_lock);
    r = open_in_use(packs, pack, err);
    if (r < 0)
        release(packs, pack);
    return r;
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

static bool group_has(const struct cached_group *g, const struct location *at)
{
    return g != NULL && group_cache_owner(g->key) == at->pack && at->object >= g->first_object &&
           at->object - g->first_object < g->object_count;
}

static int load_group(struct packs *packs, const struct location *at, enum cache_use use,
                      struct cached_group **out, struct error *err)
{
    struct pack *pack = get(packs, at->pack);
    int r = acquire(packs, pack, err);

    if (r < 0)
        return r;
    uint32_t group = pack_group_of_object(pack->index, at->object);

    r = group_cache_get(packs->cache, group_cache_key(at->pack, group), pack->fd, pack->name,
                        pack->index, group, use, out, err);
    release(packs, pack);
    return r;
}

static int read_near(struct packs *packs, const struct location *at, enum cache_use use,
                     struct cached_group **group_io, const uint8_t **bytes_out, size_t *length_out,
                     struct error *err)
{
    struct cached_group *g = NULL;
    int r;

    if (!group_has(*group_io, at)) {
        r = load_group(packs, at, use, &g, err);
        if (r < 0)
            return r;
        cached_group_release(*group_io);
        *group_io = g;
    }
    g = *group_io;
    r = cached_group_object(g, at->object - g->first_object, bytes_out, length_out);
    if (r < 0)
        return error_corrupt(err, "%s: the group of object %u does not hold what its footer says",
                             packs_get(packs, at->pack)->name, at->object);
    return 0;
}

int packs_read_near(struct packs *packs, const struct location *at, struct cached_group **group_io,
                    const uint8_t **bytes_out, size_t *length_out, struct error *err)
{
    return read_near(packs, at, CACHE_KEEP, group_io, bytes_out, length_out, err);
}

int packs_pass_near(struct packs *packs, const struct location *at, struct cached_group **group_io,
                    const uint8_t **bytes_out, size_t *length_out, struct error *err)
{
    return read_near(packs, at, CACHE_PASS, group_io, bytes_out, length_out, err);
}

int packs_peek_near(struct packs *packs, const struct location *at, struct cached_group **group_io,
                    const uint8_t **bytes_out, size_t *length_out)
{
    struct pack *pack = get(packs, at->pack);

    if (!group_has(*group_io, at)) {
        if (acquire(packs, pack, NULL) < 0)
            return -EAGAIN;
        struct cached_group *g = group_cache_peek(
            packs->cache, group_cache_key(at->pack, pack_group_of_object(pack->index, at->object)));
        release(packs, pack);
        if (g == NULL)
            return -EAGAIN;
        cached_group_release(*group_io);
        *group_io = g;
    }
    return cached_group_object(*group_io, at->object - (*group_io)->first_object, bytes_out,
                               length_out) < 0
               ? -EAGAIN
               : 0;
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

/* A disk that could not be read may be readable the next time: once it has been said,
 * it is tried again. */
static void forgive_locked(struct packs *packs)
{
    for (uint32_t i = 0; i < packs->count && packs->damaged != 0; i++) {
        struct pack *pack = packs->list[i];

        if (pack->damage == NULL || pack->damage_errnum != EIO)
            continue;
        free(steal_pointer(pack->damage));
        packs->damaged--;
        packs->settled = 0;
    }
}

int packs_missing(struct packs *packs, const char *what, struct error *err)
{
    const struct pack *damaged = NULL;
    int r;

    pthread_rwlock_wrlock(&packs->lock);
    for (uint32_t i = 0; i < packs->count && damaged == NULL && packs->damaged != 0; i++)
        damaged = packs->list[i]->damage != NULL ? packs->list[i] : NULL;
    if (damaged == NULL)
        r = error_corrupt(err, "%s is not in the store", what);
    else
        r = error_set(err, STATUS_CORRUPT, damaged->damage_errnum == EIO ? EIO : EBADMSG,
                      "%s cannot be found; a pack of the store is damaged: %s", what,
                      damaged->damage);
    forgive_locked(packs);
    pthread_rwlock_unlock(&packs->lock);
    error_hint(err, "'stasis verify' names everything that is damaged and what it hits");
    return r;
}
