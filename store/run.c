/* SPDX-License-Identifier: Apache-2.0 */
#include "store/run.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <xxhash.h>

#define MAGIC "STASINDX"
#define VERSION 1u
#define HEADER_SIZE 64u
#define PACK_ENTRY 32u
#define CHUNK_BYTES (RUN_CHUNK_SLOTS * 8u)

/* Where a mapped file is touched, the kernel maps up to 64 KiB around that place. */
#define WINDOW_CHUNKS UINT64_C(16)

DEFINE_CLEANUP(struct run, run_free)

/* Seven tenths full: a look-up of what is not there then meets six slots on average,
 * in one line of the cache or two. */
static uint64_t homes_for(uint64_t objects)
{
    return align_up(objects / 7 * 10 + 16, RUN_CHUNK_SLOTS);
}

static uint64_t slot_of(uint64_t hash, uint32_t pack, uint32_t object)
{
    return htole64((hash & 0xffffff) << 40 | (uint64_t)(pack + 1) << 22 | object);
}

/* ---- in memory ---- */

int run_new(uint64_t objects, struct run **out)
{
    _cleanup_(run_freep) struct run *run = calloc(1, sizeof(*run));

    if (run == NULL || objects > UINT64_MAX / 64)
        return -ENOMEM;
    run->fd = -1;
    run->homes = homes_for(objects);
    run->slot_count = run->homes + RUN_CHUNK_SLOTS;
    run->slots = calloc(run->slot_count, sizeof(*run->slots));
    if (run->slots == NULL)
        return -ENOMEM;
    *out = steal_pointer(run);
    return 0;
}

void run_free(struct run *run)
{
    if (run == NULL)
        return;
    if (run->map != NULL)
        munmap(run->map, run->map_bytes);
    else
        free(run->slots);
    if (run->fd >= 0)
        close(run->fd);
    free(run->packs);
    free(run->name);
    free(run->good);
    free(run);
}

int run_add_pack(struct run *run, int64_t seq, const uint8_t id[PACK_ID_SIZE], uint32_t objects,
                 uint32_t number)
{
    if (run->pack_count == RUN_PACKS_MAX || objects > RUN_OBJECTS_MAX)
        return -ENOSPC;
    if (run->pack_count == run->pack_capacity) {
        uint32_t capacity = run->pack_capacity * 2 + 16;
        struct run_pack *list = realloc(run->packs, capacity * sizeof(*list));

        if (list == NULL)
            return -ENOMEM;
        run->packs = list;
        run->pack_capacity = capacity;
    }
    struct run_pack *pack = &run->packs[run->pack_count];

    *pack = (struct run_pack){.seq = seq, .objects = objects, .number = number};
    memcpy(pack->id, id, PACK_ID_SIZE);
    return (int)run->pack_count++;
}

/* Behind the last home there is room as it is needed. */
static int extend(struct run *run)
{
    uint64_t count = run->slot_count + RUN_CHUNK_SLOTS * 8;
    uint64_t *slots = realloc(run->slots, count * sizeof(*slots));

    if (slots == NULL)
        return -ENOMEM;
    memset(slots + run->slot_count, 0, (count - run->slot_count) * sizeof(*slots));
    run->slots = slots;
    run->slot_count = count;
    return 0;
}

int run_add(struct run *run, uint64_t hash, uint32_t pack, uint32_t object)
{
    uint64_t i = run_find(run, hash).position;

    while (run->slots[i] != 0)
        i++;
    /* The last one stays empty: it ends every search. */
    if (i + 1 == run->slot_count && extend(run) < 0)
        return -ENOMEM;
    run->slots[i] = slot_of(hash, pack, object);
    run->object_count++;
    return 0;
}

bool run_has_room(const struct run *run, uint64_t objects)
{
    uint64_t sum;

    return !add_overflows(run->object_count, objects, &sum) && sum <= run->homes / 10 * 7;
}

int64_t run_pack_of(const struct run *run, int64_t seq)
{
    uint32_t low = 0, high = run->pack_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (run->packs[middle].seq < seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low < run->pack_count && run->packs[low].seq == seq ? (int64_t)low : -1;
}

/* ---- reading files ---- */

static int damaged(const char *name, const char *what, struct error *err)
{
    error_corrupt(err, "index/%s: %s", name, what);
    error_hint(err, "'stasis verify --rebuild-index' makes the index anew; nothing is lost");
    return -EBADMSG;
}

/* Where the slots begin, and how long the file is; both overflow checked. */
static int decode_sizes(const char *name, const uint8_t *header, struct run *run,
                        uint64_t *size_out, struct error *err)
{
    uint64_t slots_bytes, end;

    run->pack_count = load_le32(header + 12);
    run->homes = load_le64(header + 16);
    run->slot_count = load_le64(header + 24);
    run->object_count = load_le64(header + 32);
    if (run->pack_count > RUN_PACKS_MAX || run->homes == 0 || run->slot_count <= run->homes ||
        run->slot_count % RUN_CHUNK_SLOTS != 0 || run->object_count >= run->slot_count)
        return damaged(name, "its counts cannot be", err);
    run->slots_offset = align_up(HEADER_SIZE + (uint64_t)run->pack_count * PACK_ENTRY, CHUNK_BYTES);
    if (mul_overflows(run->slot_count, sizeof(uint64_t), &slots_bytes) ||
        add_overflows(run->slots_offset, slots_bytes, &end) ||
        add_overflows(end, run->slot_count / RUN_CHUNK_SLOTS * sizeof(uint64_t), size_out))
        return damaged(name, "its counts cannot be", err);
    return 0;
}

static int decode_header(const char *name, const uint8_t *header, struct run *run,
                         uint64_t *size_out, struct error *err)
{
    if (memcmp(header, MAGIC, 8) != 0)
        return damaged(name, "it is not an index", err);
    if (load_le32(header + 8) != VERSION)
        return damaged(name, "it is of another version", err);
    if (load_le64(header + 40) != 0 || load_le64(header + 56) != 0)
        return damaged(name, "reserved bytes are not zero", err);
    return decode_sizes(name, header, run, size_out, err);
}

static int decode_packs(const char *name, const uint8_t *p, struct run *run, struct error *err)
{
    run->packs = calloc(run->pack_count + 1u, sizeof(*run->packs));
    if (run->packs == NULL)
        return error_errno(err, ENOMEM, "opening index/%s", name);
    for (uint32_t i = 0; i < run->pack_count; i++, p += PACK_ENTRY) {
        struct run_pack *pack = &run->packs[i];

        *pack = (struct run_pack){
            .seq = (int64_t)load_le64(p), .objects = load_le32(p + 24), .number = UINT32_MAX};
        memcpy(pack->id, p + 8, PACK_ID_SIZE);
        if (pack->objects > RUN_OBJECTS_MAX || load_le32(p + 28) != 0 ||
            (i > 0 && pack->seq <= run->packs[i - 1].seq))
            return damaged(name, "its list of packs cannot be", err);
    }
    return 0;
}

static uint64_t sums_offset(const struct run *run)
{
    return run->slots_offset + run->slot_count * sizeof(uint64_t);
}

/* The sum over all but slots; head is all that comes before them. */
static uint64_t sum_of(const uint8_t *head, size_t head_bytes, const uint8_t *sums,
                       size_t sums_bytes)
{
    uint8_t header[HEADER_SIZE];
    XXH3_state_t *state = XXH3_createState();
    uint64_t sum;

    if (state == NULL)
        return 0;
    memcpy(header, head, sizeof(header));
    memset(header + 48, 0, 8);
    XXH3_64bits_reset(state);
    XXH3_64bits_update(state, header, sizeof(header));
    XXH3_64bits_update(state, head + HEADER_SIZE, head_bytes - HEADER_SIZE);
    XXH3_64bits_update(state, sums, sums_bytes);
    sum = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return sum;
}

static int read_part(int fd, const char *name, void *buf, size_t length, uint64_t offset,
                     struct error *err)
{
    int r = io_pread_full(fd, buf, length, offset);

    if (r == -ENODATA)
        return damaged(name, "it ends too early", err);
    return r < 0 ? error_errno(err, -r, "reading index/%s", name) : 0;
}

/* What is read when a run is opened: all but slots, and not through the map, for a
 * read that fails is an error there and a signal here. */
static int read_ends(struct run *run, const uint8_t *header, struct error *err)
{
    size_t head_bytes = (size_t)run->slots_offset;
    size_t sums_bytes = run->slot_count / RUN_CHUNK_SLOTS * sizeof(uint64_t);
    _cleanup_free_ uint8_t *head = malloc(head_bytes);
    _cleanup_free_ uint8_t *sums = malloc(sums_bytes);
    int r;

    if (head == NULL || sums == NULL)
        return error_errno(err, ENOMEM, "opening index/%s", run->name);
    r = read_part(run->fd, run->name, head, head_bytes, 0, err);
    if (r == 0)
        r = read_part(run->fd, run->name, sums, sums_bytes, sums_offset(run), err);
    if (r < 0)
        return r;
    if (memcmp(head, header, HEADER_SIZE) != 0 ||
        sum_of(head, head_bytes, sums, sums_bytes) != load_le64(header + 48))
        return damaged(run->name, "it does not match its checksum", err);
    return decode_packs(run->name, head + HEADER_SIZE, run, err);
}

static int map_run(struct run *run, uint64_t size, struct error *err)
{
    void *map =
        size > SIZE_MAX ? MAP_FAILED : mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, run->fd, 0);

    if (map == MAP_FAILED)
        return error_errno(err, ENOMEM, "opening index/%s", run->name);
    run->map = map;
    run->map_bytes = size;
    run->slots = (uint64_t *)(run->map + run->slots_offset);
    madvise(map, (size_t)size, MADV_RANDOM);
    return 0;
}

int run_open(int dirfd, const char *name, struct run **out, struct error *err)
{
    int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0)
        return error_errno(err, errno, "opening index/%s", name);
    return run_open_fd(fd, name, out, err);
}

int run_open_fd(int fd, const char *name, struct run **out, struct error *err)
{
    _cleanup_(run_freep) struct run *run = calloc(1, sizeof(*run));
    uint8_t header[HEADER_SIZE];
    struct stat st;
    uint64_t size;
    int r;

    if (run == NULL) {
        close(fd);
        return error_errno(err, ENOMEM, "opening index/%s", name);
    }
    run->fd = fd;
    run->name = strdup(name);
    if (run->name == NULL)
        return error_errno(err, ENOMEM, "opening index/%s", name);
    if (fstat(run->fd, &st) < 0)
        return error_errno(err, errno, "opening index/%s", name);
    r = read_part(run->fd, name, header, sizeof(header), 0, err);
    if (r == 0)
        r = decode_header(name, header, run, &size, err);
    if (r == 0 && (uint64_t)st.st_size != size)
        r = damaged(name, "it is not as long as it says", err);
    if (r == 0)
        r = read_ends(run, header, err);
    if (r == 0)
        r = map_run(run, size, err);
    if (r < 0)
        return r;
    run->good = calloc(run->slot_count / RUN_CHUNK_SLOTS / 64 + 1, sizeof(*run->good));
    if (run->good == NULL)
        return error_errno(err, ENOMEM, "opening index/%s", name);
    *out = steal_pointer(run);
    return 0;
}

/* Read by a call and not through the map: see read_ends(). */
static bool chunk_matches(struct run *run, uint64_t chunk)
{
    uint8_t bytes[CHUNK_BYTES], sum[8];

    return io_pread_full(run->fd, bytes, sizeof(bytes), run->slots_offset + chunk * CHUNK_BYTES) ==
               0 &&
           io_pread_full(run->fd, sum, sizeof(sum), sums_offset(run) + chunk * sizeof(sum)) == 0 &&
           XXH3_64bits(bytes, sizeof(bytes)) == load_le64(sum);
}

bool run_check_chunk(struct run *run, uint64_t chunk)
{
    uint64_t window = UINT64_C(0xffff) << (chunk % 64 & ~(WINDOW_CHUNKS - 1)), old;

    if (run->good == NULL)
        return true;
    if (!chunk_matches(run, chunk)) {
        atomic_store(&run->bad, true);
        return false;
    }
    old = atomic_fetch_or_explicit(&run->good[chunk / 64], UINT64_C(1) << chunk % 64,
                                   memory_order_relaxed);
    if ((old & window) == 0)
        atomic_fetch_add_explicit(&run->touched, WINDOW_CHUNKS * CHUNK_BYTES, memory_order_relaxed);
    return true;
}

void run_forget_slots(struct run *run)
{
    if (run->map == NULL)
        return;
    madvise(run->map, (size_t)run->map_bytes, MADV_DONTNEED);
    for (uint64_t i = 0; i <= run->slot_count / RUN_CHUNK_SLOTS / 64; i++)
        atomic_store_explicit(&run->good[i], 0, memory_order_relaxed);
    atomic_store_explicit(&run->touched, 0, memory_order_relaxed);
}

int run_check(struct run *run, uint64_t *offset_out, struct error *err)
{
    for (uint64_t i = 0; run->good != NULL && i < run->slot_count / RUN_CHUNK_SLOTS; i++) {
        if (chunk_matches(run, i))
            continue;
        *offset_out = run->slots_offset + i * CHUNK_BYTES;
        return damaged(run->name, "a part of its table does not match its checksum", err);
    }
    return 0;
}

/* ---- writing files ---- */

/*
 * A table is written in pieces, each with the keys whose homes lie in it. What does
 * not find room in a piece is carried over into the next, in the order of homes and
 * so in the order in which one large table would have been filled.
 */
struct writer {
    int fd;
    const char *name;
    const struct run_pack *packs;
    uint32_t pack_count;
    run_ids ids;
    void *context;
    struct run shape; /* counts and offsets; no slots */
    uint64_t piece_slots;
    uint64_t *piece;
    uint64_t *carried; /* slots */
    uint64_t carried_count;
    uint64_t carried_capacity;
    uint64_t *sums;
    uint64_t sum_count;
    struct error *err;
};

static int out_of_memory(const struct writer *w)
{
    return error_errno(w->err, ENOMEM, "writing index/%s", w->name);
}

static int carry(struct writer *w, uint64_t slot)
{
    if (w->carried_count == w->carried_capacity) {
        uint64_t capacity = w->carried_capacity * 2 + 64;
        uint64_t *list = realloc(w->carried, capacity * sizeof(*list));

        if (list == NULL)
            return out_of_memory(w);
        w->carried = list;
        w->carried_capacity = capacity;
    }
    w->carried[w->carried_count++] = slot;
    return 0;
}

static int place(struct writer *w, uint64_t from, uint64_t count, uint64_t slot)
{
    while (from < count && w->piece[from] != 0)
        from++;
    if (from == count)
        return carry(w, slot);
    w->piece[from] = slot;
    return 0;
}

static int place_pack(struct writer *w, uint32_t number, uint64_t first, uint64_t count)
{
    const struct run_pack *pack = &w->packs[number];
    const uint8_t *ids = w->ids(w->context, pack, w->err);
    int r = ids == NULL ? -EIO : 0;

    for (uint32_t i = 0; r == 0 && i < pack->objects; i++) {
        uint64_t hash = run_hash(page_ref_load(ids + (size_t)i * PAGE_REF_SIZE));
        uint64_t home = run_find(&w->shape, hash).position;

        if (home >= first && home - first < count)
            r = place(w, home - first, count, slot_of(hash, number, i));
    }
    return r;
}

static int write_piece(struct writer *w, uint64_t first, uint64_t count)
{
    int r = io_pwrite_full(w->fd, w->piece, count * sizeof(uint64_t),
                           w->shape.slots_offset + first * sizeof(uint64_t));

    for (uint64_t i = 0; i < count; i += RUN_CHUNK_SLOTS)
        w->sums[w->sum_count++] = htole64(XXH3_64bits(w->piece + i, CHUNK_BYTES));
    return r < 0 ? error_errno(w->err, -r, "writing index/%s", w->name) : 0;
}

static int fill_piece(struct writer *w, uint64_t first, uint64_t count)
{
    uint64_t carried = w->carried_count;
    int r = 0;

    memset(w->piece, 0, count * sizeof(uint64_t));
    w->carried_count = 0;
    for (uint64_t i = 0; r == 0 && i < carried; i++)
        r = place(w, 0, count, w->carried[i]);
    for (uint32_t p = 0; r == 0 && p < w->pack_count; p++)
        r = place_pack(w, p, first, count);
    return r == 0 ? write_piece(w, first, count) : r;
}

/* Behind the last home: what was carried over, and at least one empty slot. */
static int write_rest(struct writer *w)
{
    uint64_t count = align_up(w->carried_count + 1, RUN_CHUNK_SLOTS);
    uint64_t *sums;

    free(w->piece);
    w->piece = calloc(count, sizeof(uint64_t));
    sums = realloc(w->sums, (w->sum_count + count / RUN_CHUNK_SLOTS) * sizeof(*sums));
    if (sums != NULL)
        w->sums = sums;
    if (w->piece == NULL || sums == NULL)
        return out_of_memory(w);
    if (w->carried_count != 0)
        memcpy(w->piece, w->carried, w->carried_count * sizeof(uint64_t));
    w->shape.slot_count = w->shape.homes + count;
    return write_piece(w, w->shape.homes, count);
}

static int write_slots(struct writer *w)
{
    uint64_t step = min_u64(w->shape.homes, w->piece_slots);
    int r = 0;

    w->piece = malloc(step * sizeof(uint64_t));
    w->sums = malloc(w->shape.homes / RUN_CHUNK_SLOTS * sizeof(uint64_t));
    if (w->piece == NULL || w->sums == NULL)
        return out_of_memory(w);
    for (uint64_t first = 0; r == 0 && first < w->shape.homes; first += step)
        r = fill_piece(w, first, min_u64(step, w->shape.homes - first));
    return r == 0 ? write_rest(w) : r;
}

static void encode_head(const struct writer *w, uint8_t *p)
{
    memcpy(p, MAGIC, 8);
    store_le32(p + 8, VERSION);
    store_le32(p + 12, w->pack_count);
    store_le64(p + 16, w->shape.homes);
    store_le64(p + 24, w->shape.slot_count);
    store_le64(p + 32, w->shape.object_count);
    for (uint32_t i = 0; i < w->pack_count; i++) {
        uint8_t *entry = p + HEADER_SIZE + (size_t)i * PACK_ENTRY;

        store_le64(entry, (uint64_t)w->packs[i].seq);
        memcpy(entry + 8, w->packs[i].id, PACK_ID_SIZE);
        store_le32(entry + 24, w->packs[i].objects);
    }
    store_le64(p + 48, sum_of(p, (size_t)w->shape.slots_offset, (const uint8_t *)w->sums,
                              w->sum_count * sizeof(uint64_t)));
}

static int write_ends(struct writer *w)
{
    /* With the zeros up to the slots. */
    _cleanup_free_ uint8_t *head = calloc(1, (size_t)w->shape.slots_offset);
    int r;

    if (head == NULL)
        return out_of_memory(w);
    encode_head(w, head);
    r = io_pwrite_full(w->fd, w->sums, w->sum_count * sizeof(uint64_t), sums_offset(&w->shape));
    if (r == 0)
        r = io_pwrite_full(w->fd, head, (size_t)w->shape.slots_offset, 0);
    if (r == 0 && fdatasync(w->fd) < 0)
        r = -errno;
    return r < 0 ? error_errno(w->err, -r, "writing index/%s", w->name) : 0;
}

static int take_shape(struct writer *w)
{
    for (uint32_t i = 0; i < w->pack_count; i++)
        w->shape.object_count += w->packs[i].objects;
    w->shape.homes = homes_for(w->shape.object_count);
    w->shape.slots_offset =
        align_up(HEADER_SIZE + (uint64_t)w->pack_count * PACK_ENTRY, CHUNK_BYTES);
    return w->pack_count > RUN_PACKS_MAX
               ? error_set(w->err, STATUS_FAILED, EINVAL, "too many packs for one index")
               : 0;
}

static int write_file(struct writer *w)
{
    int r = take_shape(w);

    if (r == 0)
        r = write_slots(w);
    return r == 0 ? write_ends(w) : r;
}

int run_write(int dirfd, const char *name, const struct run_pack *packs, uint32_t pack_count,
              uint64_t piece_slots, run_ids ids, void *context, struct error *err)
{
    _cleanup_free_ char *tmp = io_format("%s.tmp", name);
    _cleanup_close_ int fd = openat(dirfd, tmp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    struct writer w = {.fd = fd,
                       .name = name,
                       .packs = packs,
                       .pack_count = pack_count,
                       .piece_slots = piece_slots,
                       .ids = ids,
                       .context = context,
                       .err = err};
    int r;

    if (fd < 0)
        return error_errno(err, errno, "writing index/%s", name);
    r = write_file(&w);
    if (r == 0 && renameat(dirfd, tmp, dirfd, name) < 0)
        r = error_errno(err, errno, "writing index/%s", name);
    if (r < 0)
        unlinkat(dirfd, tmp, 0);
    else if (io_sync_dir(dirfd) < 0)
        r = error_errno(err, EIO, "writing the directory of the index");
    free(w.piece);
    free(w.carried);
    free(w.sums);
    return r;
}
