/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locks, always taken in this order: a view's, the pool's. The pool's is held
 * only for counting and for opening a space (a few reads), a view's while its
 * file system is opened (a journal's replay takes as long as reading it).
 */
#include "fuse-mount/volume.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "fuse-mount/fstype.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>

struct volume {
    struct pool *pool;
    struct volume *next;
    char name[32];
    struct digest root;
    uint64_t size_bytes;
    struct space *space; /* NULL while closed */
    unsigned users;
    uint64_t used_at;
    pthread_mutex_t table_lock;
    bool has_table;
    enum partition_scheme scheme;
    bool from_backup;
    struct view **views;
    uint32_t view_count;
};

struct view {
    struct volume *volume;
    uint32_t index;
    struct partition part;
    pthread_mutex_t lock; /* opening, closing, the note */
    struct ext *fs;       /* NULL while closed */
    unsigned users;
    uint64_t used_at;
    int failure; /* negative errno that opening gave; not tried again */
    struct error error;
    char *note;
};

struct pool {
    struct store *store;
    pthread_mutex_t lock;
    struct volume *volumes;
    unsigned volumes_open;
    uint64_t clock; /* counts uses, for used_at */
    struct view **views;
    uint32_t view_count, view_capacity;
    unsigned views_open;
};

/* ---- pool ---- */

int pool_new(struct store *store, struct pool **out)
{
    struct pool *pool = calloc(1, sizeof(*pool));

    if (pool == NULL)
        return -ENOMEM;
    pool->store = store;
    pthread_mutex_init(&pool->lock, NULL);
    *out = pool;
    return 0;
}

static void view_free(struct view *view)
{
    ext_close(view->fs);
    pthread_mutex_destroy(&view->lock);
    free(view->note);
    free(view);
}

void pool_free(struct pool *pool)
{
    if (pool == NULL)
        return;
    for (uint32_t i = 0; i < pool->view_count; i++)
        view_free(pool->views[i]);
    while (pool->volumes != NULL) {
        struct volume *v = pool->volumes;

        pool->volumes = v->next;
        if (v->space != NULL)
            space_close(v->space);
        pthread_mutex_destroy(&v->table_lock);
        free(v->views);
        free(v);
    }
    free(pool->views);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

int pool_add_volume(struct pool *pool, const char *name, const struct digest *root,
                    uint64_t size_bytes, struct volume **out)
{
    struct volume *v = calloc(1, sizeof(*v));

    if (v == NULL)
        return -ENOMEM;
    v->pool = pool;
    v->root = *root;
    v->size_bytes = size_bytes;
    snprintf(v->name, sizeof(v->name), "%s", name);
    pthread_mutex_init(&v->table_lock, NULL);
    pthread_mutex_lock(&pool->lock);
    v->next = pool->volumes;
    pool->volumes = v;
    pthread_mutex_unlock(&pool->lock);
    *out = v;
    return 0;
}

struct view *pool_view(struct pool *pool, uint32_t index)
{
    struct view *view;

    pthread_mutex_lock(&pool->lock);
    view = index < pool->view_count ? pool->views[index] : NULL;
    pthread_mutex_unlock(&pool->lock);
    return view;
}

/* ---- volumes ---- */

uint64_t volume_size(const struct volume *volume)
{
    return volume->size_bytes;
}

/* Closes the space that has been unused for longest; pool locked. */
static void volumes_trim(struct pool *pool)
{
    struct volume *oldest = NULL;

    if (pool->volumes_open <= POOL_VOLUMES_OPEN)
        return;
    for (struct volume *v = pool->volumes; v != NULL; v = v->next)
        if (v->space != NULL && v->users == 0 && (oldest == NULL || v->used_at < oldest->used_at))
            oldest = v;
    if (oldest == NULL)
        return;
    space_close(oldest->space);
    oldest->space = NULL;
    pool->volumes_open--;
}

static int volume_hold(struct volume *v)
{
    struct pool *pool = v->pool;
    struct error err = ERROR_INIT;
    int r = 0;

    pthread_mutex_lock(&pool->lock);
    if (v->space == NULL) {
        r = space_open(pool->store, &v->root, v->size_bytes, &v->space, &err);
        if (r == 0)
            pool->volumes_open++;
    }
    if (r == 0) {
        v->users++;
        v->used_at = ++pool->clock;
        volumes_trim(pool);
    }
    pthread_mutex_unlock(&pool->lock);
    if (r < 0) {
        log_event("cannot open %s of a checkpoint: %s", v->name, err.message);
        return r == -ENOMEM ? r : -EIO;
    }
    return 0;
}

static void volume_drop(struct volume *v)
{
    pthread_mutex_lock(&v->pool->lock);
    v->users--;
    pthread_mutex_unlock(&v->pool->lock);
}

/* A source's read; the volume is held. */
static int volume_read_held(void *context, uint64_t offset, void *buf, size_t length)
{
    struct volume *v = context;
    struct error err = ERROR_INIT;
    int r = space_read(v->space, offset, buf, length, &err);

    if (r == 0)
        return 0;
    log_event("cannot read %s at %" PRIu64 ": %s", v->name, offset, err.message);
    return r == -ENOMEM ? r : -EIO;
}

static struct source volume_source(struct volume *v)
{
    return (struct source){.read = volume_read_held, .context = v, .size_bytes = v->size_bytes};
}

int volume_read(struct volume *volume, uint64_t offset, void *buf, size_t length)
{
    struct source src = volume_source(volume);
    int r = volume_hold(volume);

    if (r < 0)
        return r;
    r = source_read(&src, offset, buf, length);
    volume_drop(volume);
    return r;
}

static int seek_data(struct space *space, uint64_t offset, uint64_t end, uint64_t *out)
{
    struct page_ref ref;
    uint64_t page = offset >> STASIS_PAGE_SHIFT, found;
    int r = space_next(space, page, &found, &ref, NULL);

    if (r < 0)
        return r;
    *out = r == 0 ? end : min_u64(end, max_u64(offset, found << STASIS_PAGE_SHIFT));
    return 0;
}

static int seek_hole(struct space *space, uint64_t offset, uint64_t end, uint64_t *out)
{
    uint64_t page = offset >> STASIS_PAGE_SHIFT, last = div_round_up(end, STASIS_PAGE_SIZE);

    for (; page < last; page++) {
        struct page_ref ref;
        uint64_t found;
        int r = space_next(space, page, &found, &ref, NULL);

        if (r < 0)
            return r;
        if (r == 0 || found != page)
            break;
    }
    *out = min_u64(end, max_u64(offset, page << STASIS_PAGE_SHIFT));
    return 0;
}

int volume_seek(struct volume *volume, uint64_t offset, uint64_t end, bool data, uint64_t *out)
{
    int r = volume_hold(volume);

    if (r < 0)
        return r;
    r = data ? seek_data(volume->space, offset, end, out)
             : seek_hole(volume->space, offset, end, out);
    volume_drop(volume);
    return r < 0 && r != -ENOMEM ? -EIO : r;
}

/* ---- partitions ---- */

/* Makes a view and gives it its index. */
static int view_new(struct volume *volume, const struct partition *part, struct view **out)
{
    struct pool *pool = volume->pool;
    struct view *view = calloc(1, sizeof(*view));
    int r = 0;

    if (view == NULL)
        return -ENOMEM;
    *view = (struct view){.volume = volume, .part = *part};
    pthread_mutex_init(&view->lock, NULL);
    pthread_mutex_lock(&pool->lock);
    if (pool->view_count == pool->view_capacity) {
        uint32_t capacity = pool->view_capacity == 0 ? 16 : pool->view_capacity * 2;
        struct view **grown = reallocarray(pool->views, capacity, sizeof(*grown));

        if (grown == NULL)
            r = -ENOMEM;
        else
            pool->views = grown;
        pool->view_capacity = grown == NULL ? pool->view_capacity : capacity;
    }
    if (r == 0) {
        view->index = pool->view_count;
        pool->views[pool->view_count++] = view;
    }
    pthread_mutex_unlock(&pool->lock);
    if (r < 0) {
        view_free(view);
        return r;
    }
    *out = view;
    return 0;
}

static int volume_load_table(struct volume *v)
{
    _cleanup_free_ struct partition_table *table = calloc(1, sizeof(*table));
    struct source src = volume_source(v);
    int r = table == NULL ? -ENOMEM : volume_hold(v);

    if (r < 0)
        return r;
    r = partition_table_read(&src, table);
    volume_drop(v);
    if (r < 0)
        return r;
    v->views = calloc(table->count + 1, sizeof(struct view *));
    if (v->views == NULL)
        return -ENOMEM;
    for (; v->view_count < table->count && r == 0; v->view_count += r == 0)
        r = view_new(v, &table->parts[v->view_count], &v->views[v->view_count]);
    v->scheme = table->scheme;
    v->from_backup = table->from_backup;
    v->has_table = true;
    return r;
}

int volume_views(struct volume *volume, struct view ***out, uint32_t *count_out)
{
    int r = 0;

    pthread_mutex_lock(&volume->table_lock);
    if (!volume->has_table)
        r = volume_load_table(volume);
    pthread_mutex_unlock(&volume->table_lock);
    if (r < 0)
        return r;
    *out = volume->views;
    *count_out = volume->view_count;
    return 0;
}

const struct partition *view_partition(const struct view *view)
{
    return &view->part;
}

struct volume *view_volume(const struct view *view)
{
    return view->volume;
}

uint32_t view_index(const struct view *view)
{
    return view->index;
}

/* ---- file systems ---- */

static struct source view_source(struct view *view)
{
    struct source whole = volume_source(view->volume), part = {0};

    (void)source_part(&whole, view->part.start, view->part.size_bytes, &part);
    return part; /* the table's reader has checked that it fits */
}

/* View locked. */
static int view_open(struct view *view)
{
    struct source src = view_source(view);
    int r = volume_hold(view->volume);

    if (r < 0)
        return r;
    if (!ext_is_present(&src))
        r = error_set(&view->error, STATUS_FAILED, ENOTSUP, "it holds no ext file system");
    else
        r = ext_open(&src, &view->fs, &view->error);
    if (r < 0) {
        volume_drop(view->volume);
        if (r != -EIO && r != -ENOMEM) /* these may be over the next time */
            view->failure = -ENOTSUP;
        return view->failure != 0 ? -ENOTSUP : r;
    }
    pthread_mutex_lock(&view->volume->pool->lock);
    view->volume->pool->views_open++;
    pthread_mutex_unlock(&view->volume->pool->lock);
    return 0;
}

/* Closes the view that has been unused for longest if too many are open. */
static void views_trim(struct pool *pool)
{
    struct view *oldest = NULL;

    pthread_mutex_lock(&pool->lock);
    if (pool->views_open > POOL_VIEWS_OPEN)
        for (uint32_t i = 0; i < pool->view_count; i++) {
            struct view *v = pool->views[i];

            if (v->used_at != 0 && v->users == 0 &&
                (oldest == NULL || v->used_at < oldest->used_at))
                oldest = v;
        }
    pthread_mutex_unlock(&pool->lock);
    if (oldest == NULL)
        return;
    pthread_mutex_lock(&oldest->lock);
    pthread_mutex_lock(&pool->lock);
    bool close_it = oldest->fs != NULL && oldest->users == 0;
    if (close_it) {
        pool->views_open--;
        oldest->used_at = 0;
    }
    pthread_mutex_unlock(&pool->lock);
    if (close_it) {
        ext_close(oldest->fs);
        oldest->fs = NULL;
        volume_drop(oldest->volume);
    }
    pthread_mutex_unlock(&oldest->lock);
}

int view_hold(struct view *view, struct ext **out)
{
    struct pool *pool = view->volume->pool;
    bool opened = false;
    int r;

    pthread_mutex_lock(&view->lock);
    r = view->failure;
    if (r == 0 && view->fs == NULL) {
        r = view_open(view);
        opened = r == 0;
    }
    if (r == 0) {
        pthread_mutex_lock(&pool->lock);
        view->users++;
        view->used_at = ++pool->clock;
        pthread_mutex_unlock(&pool->lock);
        *out = view->fs;
    }
    pthread_mutex_unlock(&view->lock);
    if (opened)
        views_trim(pool);
    return r;
}

void view_drop(struct view *view)
{
    pthread_mutex_lock(&view->volume->pool->lock);
    view->users--;
    pthread_mutex_unlock(&view->volume->pool->lock);
}

/* ---- notes ---- */

static void note_journal(FILE *out, const struct journal_report *report)
{
    if (report == NULL)
        return;
    fprintf(out,
            "journal: needed recovery, as in any running machine; %u committed transactions "
            "(%" PRIu64 " blocks) are shown as if replayed. The checkpoint is unchanged.\n",
            report->transactions, report->blocks);
    if (report->damaged > 0)
        fprintf(out, "journal: %" PRIu64 " blocks have wrong checksums and were left out\n",
                report->damaged);
    if (report->stopped_by_damage)
        fprintf(out, "journal: ends at a damaged transaction; later ones were left out\n");
    if (report->fast_commits)
        fprintf(out, "journal: fast commits are not replayed; the newest changes may be missing\n");
}

static void note_file_system(FILE *out, struct view *view, const struct ext *fs)
{
    struct source src = view_source(view);
    struct fstype type;

    if (fs != NULL) {
        fprintf(out, "file system: %s%s%s, browsable in p%u/\n", ext_type(fs),
                ext_label(fs)[0] != '\0' ? ", label " : "", ext_label(fs), view->part.number);
        note_journal(out, ext_journal_report(fs));
        return;
    }
    if (ext_is_present(&src)) {
        fprintf(out, "file system: ext, cannot be browsed: %s\n", view->error.message);
    } else if (fstype_probe(&src, &type) == 1) {
        fprintf(out, "content: %s%s%s\n", type.name, type.label[0] != '\0' ? ", label " : "",
                type.label);
        fprintf(out, "Only ext2, ext3 and ext4 can be browsed here.\n");
    } else {
        fprintf(out, "content: unknown or empty\n");
    }
    fprintf(out, "p%u.raw holds its bytes, to be used with other tools.\n", view->part.number);
}

/* View locked, volume held; fs NULL if there is none to browse. */
static int note_write(struct view *view, const struct ext *fs)
{
    const struct volume *v = view->volume;
    size_t length = 0;
    FILE *out = open_memstream(&view->note, &length);

    if (out == NULL)
        return -ENOMEM;
    if (v->scheme == PARTITION_NONE)
        fprintf(out, "%s: the whole disk, which has no partition table\n", v->name);
    else
        fprintf(out, "%s: partition %u (%s%s)\n", v->name, view->part.number,
                partition_scheme_name(v->scheme),
                v->from_backup ? ", read from the backup table because the first is damaged" : "");
    fprintf(out, "start: %" PRIu64 " bytes\nsize: %" PRIu64 " bytes\n", view->part.start,
            view->part.size_bytes);
    note_file_system(out, view, fs);
    if (fclose(out) != 0) {
        free(view->note);
        view->note = NULL;
        return -ENOMEM;
    }
    return 0;
}

int view_note(struct view *view, const char **text_out)
{
    struct ext *fs = NULL;
    int r = view_hold(view, &fs), held;

    if (r < 0 && r != -ENOTSUP)
        return r;
    held = volume_hold(view->volume);
    pthread_mutex_lock(&view->lock);
    if (held == 0 && view->note == NULL)
        held = note_write(view, fs);
    pthread_mutex_unlock(&view->lock);
    if (held == 0) {
        *text_out = view->note;
        volume_drop(view->volume);
    }
    if (fs != NULL)
        view_drop(view);
    return held;
}
