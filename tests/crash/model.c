/* SPDX-License-Identifier: Apache-2.0 */
#include "model.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#define SECTOR 512u
#define NONE UINT32_MAX

static void *must_alloc(void *p)
{
    if (p == NULL)
        abort();
    return p;
}

/* SQLite's shared memory is a file that nobody syncs and nobody needs after a
 * crash: it is left out of the log, and put back with anything in it. */
static bool is_shared_memory(const char *path)
{
    size_t n = strlen(path);

    return n > 4 && strcmp(path + n - 4, "-shm") == 0;
}

/* ---- reading the log ---- */

struct names {
    struct image_file *list;
    size_t count;
};

static struct image_file *name_find(struct names *names, const char *path)
{
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->list[i].path, path) == 0)
            return &names->list[i];
    return NULL;
}

static void name_remove(struct names *names, const char *path)
{
    struct image_file *f = name_find(names, path);

    if (f != NULL)
        *f = names->list[--names->count];
}

static void name_set(struct names *names, const char *path, bool is_dir, uint32_t object)
{
    struct image_file *f;

    name_remove(names, path);
    names->list = must_alloc(realloc(names->list, (names->count + 1) * sizeof(*names->list)));
    f = &names->list[names->count++];
    *f = (struct image_file){.is_dir = is_dir, .object = object};
    snprintf(f->path, sizeof(f->path), "%s", path);
}

static size_t dir_length(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? 0 : (size_t)(slash - path);
}

static bool same_dir(const char *path, const char *dir)
{
    size_t n = dir_length(path);

    return strlen(dir) == n && memcmp(path, dir, n) == 0;
}

static bool makes_durable(const struct model_step *step, const struct model_step *sync)
{
    const struct shim_record *r = step->record, *s = sync->record;

    switch (r->kind) {
    case SHIM_WRITE:
    case SHIM_TRUNCATE:
        return s->kind == SHIM_SYNC && sync->object == step->object;
    case SHIM_CREATE:
    case SHIM_UNLINK:
    case SHIM_MKDIR:
    case SHIM_RMDIR:
        return s->kind == SHIM_SYNC_DIR && same_dir(r->path, s->path);
    case SHIM_LINK:
        return s->kind == SHIM_SYNC_DIR && same_dir(r->path2, s->path);
    case SHIM_RENAME: /* within a directory, but for packs that go from and to packs/ */
        return s->kind == SHIM_SYNC_DIR && same_dir(r->path2, s->path);
    default:
        return false;
    }
}

static uint32_t object_of(const struct shim_record *r, uint64_t *inodes, uint32_t *count)
{
    if (r->kind == SHIM_CREATE) {
        inodes[*count] = r->file;
        return (*count)++;
    }
    if (r->file == 0)
        return NONE;
    /* The youngest file of that number. */
    for (uint32_t i = *count; i-- > 0;)
        if (inodes[i] == r->file)
            return i;
    return NONE;
}

static void find_syncs(struct model *m)
{
    for (size_t i = 0; i < m->count; i++) {
        m->steps[i].synced_at = SIZE_MAX;
        for (size_t k = i + 1; k < m->count && m->steps[i].synced_at == SIZE_MAX; k++)
            if (makes_durable(&m->steps[i], &m->steps[k]))
                m->steps[i].synced_at = k;
    }
}

void model_init(struct model *m, const uint8_t *log, size_t bytes)
{
    _cleanup_free_ uint64_t *inodes = NULL;
    size_t capacity = 0;

    *m = (struct model){0};
    for (size_t at = 0; at < bytes;) {
        const struct shim_record *r = (const struct shim_record *)(log + at);

        at += r->bytes;
        if (is_shared_memory(r->path))
            continue;
        if (m->count == capacity) {
            capacity = capacity * 2 + 256;
            m->steps = must_alloc(realloc(m->steps, capacity * sizeof(*m->steps)));
            inodes = must_alloc(realloc(inodes, capacity * sizeof(*inodes)));
        }
        m->steps[m->count++] =
            (struct model_step){r, object_of(r, inodes, &m->object_count), SIZE_MAX};
    }
    find_syncs(m);
}

size_t model_forget_syncs(struct model *m, enum shim_kind kind, const char *suffix)
{
    size_t kept = 0, before = m->count;

    for (size_t i = 0; i < m->count; i++) {
        const struct shim_record *r = m->steps[i].record;
        size_t n = strlen(r->path), s = strlen(suffix);

        if (r->kind != kind || n < s || strcmp(r->path + n - s, suffix) != 0)
            m->steps[kept++] = m->steps[i];
    }
    m->count = kept;
    find_syncs(m);
    return before - kept;
}

void model_clear(struct model *m)
{
    free(m->steps);
}

static bool changes_disk(uint32_t kind)
{
    return kind != SHIM_SYNC && kind != SHIM_SYNC_DIR && kind != SHIM_MARK;
}

bool model_is_pending(const struct model *m, size_t step, size_t at)
{
    const struct model_step *s = &m->steps[step];

    return step < at && changes_disk(s->record->kind) && s->synced_at >= at;
}

const char *model_describe(const struct model *m, size_t step, char *out, size_t size)
{
    static const char *const names[] = {"create", "write", "truncate", "rename", "link", "unlink",
                                        "mkdir",  "rmdir", "sync",     "sync",   "--"};
    const struct shim_record *r = m->steps[step].record;
    unsigned long long offset = r->offset;

    if (r->kind == SHIM_WRITE)
        snprintf(out, size, "write %s %llu+%u", r->path, offset, r->length);
    else if (r->kind == SHIM_TRUNCATE)
        snprintf(out, size, "truncate %s %llu", r->path, offset);
    else if (r->kind == SHIM_MARK && offset < UINT64_MAX - 1)
        snprintf(out, size, "-- call %llu %s", offset >> 1, offset & 1 ? "returned" : "began");
    else
        snprintf(out, size, "%s %s%s%s", names[r->kind], r->path[0] != '\0' ? r->path : ".",
                 r->path2[0] != '\0' ? " -> " : "", r->path2);
    return out;
}

/* ---- images ---- */

static void resize(struct image_object *o, size_t size)
{
    if (size > o->capacity) {
        o->capacity = size * 2;
        o->data = must_alloc(realloc(o->data, o->capacity));
    }
    if (size > o->size)
        memset(o->data + o->size, 0, size - o->size);
    o->size = size;
}

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    return *seed * UINT64_C(0x2545f4914f6cdd1d);
}

static void write_torn(struct image_object *o, const struct shim_record *r, uint64_t *seed)
{
    for (size_t from = 0; from < r->length;) {
        size_t to = (r->offset + from) / SECTOR * SECTOR + SECTOR - r->offset;

        if (to > r->length)
            to = r->length;
        if (next_random(seed) >> 63 != 0)
            memcpy(o->data + r->offset + from, r->data + from, to - from);
        from = to;
    }
}

static void apply_write(struct image_object *o, const struct shim_record *r, enum fate fate,
                        uint64_t *seed)
{
    if (o->size < r->offset + r->length)
        resize(o, r->offset + r->length);
    if (fate == FATE_KEPT)
        memcpy(o->data + r->offset, r->data, r->length);
    else if (fate == FATE_TORN)
        write_torn(o, r, seed);
}

static void apply_rename(struct names *names, const struct model_step *step, enum fate fate)
{
    const struct image_file *f = name_find(names, step->record->path);
    bool is_dir = f != NULL && f->is_dir;

    if (fate != FATE_EMPTY)
        name_remove(names, step->record->path);
    if (fate != FATE_TORN)
        name_set(names, step->record->path2, is_dir, step->object);
}

static void apply(struct image *image, struct names *names, const struct model_step *step,
                  enum fate fate, uint64_t *seed)
{
    const struct shim_record *r = step->record;
    struct image_object *o = step->object == NONE ? NULL : &image->objects[step->object];

    switch (r->kind) {
    case SHIM_CREATE:
        name_set(names, r->path, false, step->object);
        break;
    case SHIM_MKDIR:
        name_set(names, r->path, true, NONE);
        break;
    case SHIM_UNLINK:
    case SHIM_RMDIR:
        name_remove(names, r->path);
        break;
    case SHIM_RENAME:
        apply_rename(names, step, fate);
        break;
    case SHIM_LINK:
        name_set(names, r->path2, false, step->object);
        break;
    case SHIM_WRITE:
        if (o != NULL)
            apply_write(o, r, fate, seed);
        break;
    case SHIM_TRUNCATE:
        if (o != NULL)
            resize(o, r->offset);
        break;
    default:
        break;
    }
}

/* A name below a directory that is not there is not there either. */
static void drop_orphans(struct names *names)
{
    for (size_t i = 0; i < names->count; i++) {
        char dir[SHIM_PATH_MAX];
        size_t n = dir_length(names->list[i].path);

        snprintf(dir, sizeof(dir), "%.*s", (int)n, names->list[i].path);
        if (n != 0 && name_find(names, dir) == NULL) {
            names->list[i] = names->list[--names->count];
            i = SIZE_MAX; /* it may have been a directory itself: from the start */
        }
    }
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct image_file *)a)->path, ((const struct image_file *)b)->path);
}

void image_build(struct image *image, const struct model *m, size_t at, const uint8_t *fates,
                 uint64_t seed)
{
    struct names names = {0};

    *image = (struct image){.object_count = m->object_count};
    image->objects = must_alloc(calloc(m->object_count + 1u, sizeof(*image->objects)));
    seed |= 1;
    for (size_t i = 0; i < at; i++) {
        enum fate fate = model_is_pending(m, i, at) ? (enum fate)fates[i] : FATE_KEPT;

        if (fate != FATE_LOST)
            apply(image, &names, &m->steps[i], fate, &seed);
    }
    drop_orphans(&names);
    image->files = names.list;
    image->count = names.count;
    if (image->count != 0)
        qsort(image->files, image->count, sizeof(*image->files), by_path);
}

void image_clear(struct image *image)
{
    for (uint32_t i = 0; i < image->object_count; i++)
        free(image->objects[i].data);
    free(image->objects);
    free(image->files);
}

static const struct image_object *object_at(const struct image *image, size_t i)
{
    static const struct image_object empty = {.data = (uint8_t *)""};
    uint32_t object = image->files[i].object;

    return object == NONE || image->objects[object].size == 0 ? &empty : &image->objects[object];
}

uint64_t image_sum(const struct image *image)
{
    uint64_t sum = image->count;

    for (size_t i = 0; i < image->count; i++) {
        const struct image_object *o = object_at(image, i);

        sum = XXH3_64bits_withSeed(image->files[i].path, strlen(image->files[i].path), sum);
        sum = XXH3_64bits_withSeed(o->data, o->size, sum);
    }
    return sum;
}

static void write_file(const char *path, const void *data, size_t size)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0 || io_write_full(fd, data, size) < 0)
        abort();
}

/* Any of what a crash may leave of it: nothing, zeros, noise. */
static void write_shared_memory(const struct image *image, size_t i, const char *dir)
{
    _cleanup_free_ char *path = io_format("%s/%s-shm", dir, image->files[i].path);
    uint64_t words[32768 / 8] = {0}, seed = object_at(image, i)->size | 1;

    if (seed / 2 % 3 == 0)
        return;
    for (size_t k = 0; seed / 2 % 3 == 1 && k < sizeof(words) / 8; k++)
        words[k] = next_random(&seed);
    write_file(path, words, sizeof(words));
}

void image_write(const struct image *image, const char *dir)
{
    /* Sorted, so a directory comes before what is in it. */
    for (size_t i = 0; i < image->count; i++) {
        const struct image_object *o = object_at(image, i);
        _cleanup_free_ char *path = io_format("%s/%s", dir, image->files[i].path);
        size_t n = strlen(path);

        if (image->files[i].is_dir) {
            if (mkdir(path, 0700) < 0)
                abort();
            continue;
        }
        write_file(path, o->data, o->size);
        if (n > 3 && strcmp(path + n - 3, ".db") == 0)
            write_shared_memory(image, i, dir);
    }
}
