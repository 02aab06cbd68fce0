/* SPDX-License-Identifier: Apache-2.0 */
#include "witness.h"

#include "../unit/store/helper.h"

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "imgfmt/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>

/* What a mark's value says that is no call's. */
#define MARK_CONTENT UINT64_MAX
#define MARK_DAMAGE (UINT64_MAX - 1)

enum { LINE_MAX_BYTES = 256, LINES_MAX = 512, FLIGHT_MAX = 6, DISK_PAGES_MAX = 4096 };

/* ---- disks ---- */

static void fill_disk(const struct disk *disk, uint8_t *bytes)
{
    for (unsigned i = 0; i < disk->pages; i++) {
        uint8_t *page = bytes + (size_t)i * STASIS_PAGE_SIZE;

        if (disk->seeds[i] != 0)
            fill_page(page, disk->seeds[i]);
        else
            memset(page, 0, STASIS_PAGE_SIZE);
    }
}

static uint8_t *disk_bytes(const struct disk *disk)
{
    uint8_t *bytes = malloc((disk->pages + 1u) * STASIS_PAGE_SIZE);

    if (bytes == NULL)
        abort();
    fill_disk(disk, bytes);
    return bytes;
}

/* The same, where no memory can be had: valid until the next. */
static const uint8_t *disk_bytes_static(const struct disk *disk)
{
    static uint8_t bytes[DISK_PAGES_MAX * STASIS_PAGE_SIZE];

    fill_disk(disk, bytes);
    return bytes;
}

int put_disk(struct store *store, const struct disk *disk, const struct put *put,
             struct digest *id_out, struct error *err)
{
    const uint8_t *bytes = disk_bytes_static(disk);
    uint64_t size = (uint64_t)disk->pages * STASIS_PAGE_SIZE;
    struct ingest *in = NULL;
    struct digest root;
    struct manifest m;
    int r = ingest_begin(store, &in, err);

    if (r == 0)
        r = ingest_memory(in, bytes, size, &root, err);
    if (r == 0) {
        make_manifest(&m, &root, size);
        struct ingest_commit commit = {.manifest = &m,
                                       .machine = put->machine,
                                       .name = put->name,
                                       .set_head = put->machine != NULL,
                                       .image = put->image,
                                       .tag = put->image != NULL ? "1" : NULL,
                                       .replace_tag = true};

        r = ingest_commit(in, &commit, id_out, err);
    }
    ingest_free(in);
    return r;
}

/* ---- lines ---- */

struct lines {
    char (*list)[LINE_MAX_BYTES];
    size_t count;
};

static void lines_clear(struct lines *l)
{
    free(l->list);
}

static void lines_add(struct lines *l, const char *text, size_t length)
{
    if (l->list == NULL)
        l->list = calloc(LINES_MAX, LINE_MAX_BYTES);
    if (l->list == NULL || l->count == LINES_MAX || length >= LINE_MAX_BYTES)
        abort();
    memcpy(l->list[l->count], text, length);
    l->list[l->count++][length] = '\0';
}

static bool lines_remove(struct lines *l, const char *text)
{
    for (size_t i = 0; i < l->count; i++) {
        if (strcmp(l->list[i], text) == 0) {
            l->count--;
            memmove(l->list[i], l->list[l->count], LINE_MAX_BYTES);
            return true;
        }
    }
    return false;
}

static void lines_copy(struct lines *to, const struct lines *from)
{
    *to = (struct lines){0};
    for (size_t i = 0; i < from->count; i++)
        lines_add(to, from->list[i], strlen(from->list[i]));
}

static void lines_parse(struct lines *l, const char *text)
{
    while (*text != '\0') {
        size_t n = strcspn(text, "\n");

        lines_add(l, text, n);
        text += n + (text[n] == '\n');
    }
}

static int compare_lines(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* Sorted, end to end; the caller frees. */
static char *lines_join(struct lines *l)
{
    char *text = calloc(l->count + 1, LINE_MAX_BYTES + 1);
    size_t used = 0;

    if (text == NULL)
        abort();
    if (l->count != 0)
        qsort(l->list, l->count, LINE_MAX_BYTES, compare_lines);
    for (size_t i = 0; i < l->count; i++)
        used += (size_t)snprintf(text + used, LINE_MAX_BYTES + 1, "%s\n", l->list[i]);
    return text;
}

/* ---- what a store says ---- */

static void add_line(struct lines *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add_line(struct lines *l, const char *fmt, ...)
{
    char line[LINE_MAX_BYTES];
    va_list args;

    va_start(args, fmt);
    int n = vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    lines_add(l, line, (size_t)n);
}

static int list_checkpoints(struct store *store, struct lines *l, struct error *err)
{
    struct catalogue_checkpoint *list;
    char hex[DIGEST_HEX_SIZE];
    size_t count;
    int r = catalogue_checkpoint_list(store, NULL, &list, &count, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++)
        add_line(l, "checkpoint %s %s@%s", digest_hex(&list[i].id, hex),
                 list[i].machine != NULL ? list[i].machine : "-",
                 list[i].name != NULL ? list[i].name : "-");
    catalogue_checkpoints_free(list, count);
    return 0;
}

static int list_names(struct store *store, struct lines *l, struct error *err)
{
    struct catalogue_machine *machines;
    struct catalogue_image *images;
    char hex[DIGEST_HEX_SIZE];
    size_t count;
    int r = catalogue_machine_list(store, &machines, &count, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++)
        add_line(l, "machine %s %s", machines[i].name, digest_hex(&machines[i].head, hex));
    catalogue_machines_free(machines, count);
    r = catalogue_image_list(store, &images, &count, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++)
        add_line(l, "image %s:%s %s", images[i].name, images[i].tag,
                 digest_hex(&images[i].id, hex));
    catalogue_images_free(images, count);
    return 0;
}

static int list_all(struct store *store, struct lines *l, struct error *err)
{
    int r = list_checkpoints(store, l, err);

    return r == 0 ? list_names(store, l, err) : r;
}

char *list_store(struct store *store)
{
    _cleanup_(lines_clear) struct lines l = {0};
    struct error err = ERROR_INIT;

    must(list_all(store, &l, &err), &err);
    return lines_join(&l);
}

/* ---- a workload's side ---- */

static atomic_ulong calls;
static struct lines known; /* by call_end() */

void calls_reset(void)
{
    known.count = 0;
    atomic_store(&calls, 0);
}

uint64_t call_begin(void)
{
    /* Unique among forked processes, too. */
    uint64_t call = (uint64_t)getpid() << 32 | atomic_fetch_add(&calls, 1);

    shim_mark(call << 1, "");
    return call;
}

void call_end_with(uint64_t call, const char *lines)
{
    shim_mark(call << 1 | 1, lines);
}

void call_end(uint64_t call, struct store *store)
{
    _cleanup_(lines_clear) struct lines now = {0}, changes = {0};
    _cleanup_free_ char *text = list_store(store), *joined = NULL;

    lines_parse(&now, text);
    for (size_t i = 0; i < now.count; i++)
        if (!lines_remove(&known, now.list[i]))
            add_line(&changes, "+%.*s", LINE_MAX_BYTES - 2, now.list[i]);
    for (size_t i = 0; i < known.count; i++)
        add_line(&changes, "-%.*s", LINE_MAX_BYTES - 2, known.list[i]);
    lines_clear(&known);
    lines_copy(&known, &now);
    joined = lines_join(&changes);
    call_end_with(call, joined);
}

/* Before the call returns: a crash may come in between. */
void call_content(const struct digest *id, const struct disk *disk)
{
    _cleanup_(buffer_clear) struct buffer text = {0};
    char hex[DIGEST_HEX_SIZE], number[16];

    digest_hex(id, hex);
    buffer_append(&text, hex, DIGEST_HEX_SIZE - 1);
    for (unsigned i = 0; i < disk->pages; i++) {
        int n = snprintf(number, sizeof(number), " %u", disk->seeds[i]);

        buffer_append(&text, number, (size_t)n);
    }
    buffer_append(&text, "", 1);
    shim_mark(MARK_CONTENT, (const char *)text.data);
}

void damage_packs(const char *store_dir)
{
    _cleanup_free_ char *path = io_format("%s/packs", store_dir);
    _cleanup_closedir_ DIR *dir = opendir(path);
    const struct dirent *entry;
    uint8_t byte;

    assert_non_null(dir);
    shim_mark(MARK_DAMAGE, "");
    while ((entry = readdir(dir)) != NULL) {
        if (strstr(entry->d_name, ".pack") == NULL)
            continue;
        _cleanup_close_ int fd = openat(dirfd(dir), entry->d_name, O_RDWR | O_CLOEXEC);

        assert_int_equal(pread(fd, &byte, 1, PACK_HEADER_SIZE + 9), 1);
        byte ^= 4;
        assert_int_equal(pwrite(fd, &byte, 1, PACK_HEADER_SIZE + 9), 1);
        assert_int_equal(fsync(fd), 0);
    }
}

/* ---- what must be there ---- */

struct expected {
    bool damaged;                     /* on purpose */
    const struct disk *other;         /* in checkpoints that the log does not know */
    struct lines base;                /* of the calls that had returned */
    struct lines flights[FLIGHT_MAX]; /* changes of those under way */
    size_t flight_count;
};

static void expected_clear(struct expected *e)
{
    lines_clear(&e->base);
    for (size_t i = 0; i < e->flight_count; i++)
        lines_clear(&e->flights[i]);
}

static void change(struct lines *base, const struct lines *changes)
{
    for (size_t i = 0; i < changes->count; i++)
        if (changes->list[i][0] == '-')
            lines_remove(base, changes->list[i] + 1);
    for (size_t i = 0; i < changes->count; i++)
        if (changes->list[i][0] == '+')
            lines_add(base, changes->list[i] + 1, strlen(changes->list[i] + 1));
}

static size_t find_return(const struct model *m, uint64_t value, size_t from)
{
    for (size_t i = from; i < m->count; i++)
        if (m->steps[i].record->kind == SHIM_MARK && m->steps[i].record->offset == (value | 1))
            return i;
    return SIZE_MAX;
}

static void expect_at(struct expected *e, const struct model *m, size_t at)
{
    *e = (struct expected){0};
    for (size_t i = 0; i < at; i++) {
        const struct shim_record *r = m->steps[i].record;
        struct lines changes = {0};
        size_t end;

        if (r->kind == SHIM_MARK && r->offset == MARK_DAMAGE)
            e->damaged = true;
        if (r->kind != SHIM_MARK || r->offset >= MARK_DAMAGE)
            continue;
        if ((r->offset & 1) != 0) {
            lines_parse(&changes, (const char *)r->data);
            change(&e->base, &changes);
            lines_clear(&changes);
            continue;
        }
        end = find_return(m, r->offset, i);
        if (end != SIZE_MAX && end >= at) {
            if (e->flight_count == FLIGHT_MAX)
                abort();
            lines_parse(&e->flights[e->flight_count++], (const char *)m->steps[end].record->data);
        }
    }
}

/* Is it what the returned calls made it, and some of those under way? */
static bool is_expected(const struct expected *e, const char *text)
{
    for (unsigned some = 0; some < 1u << e->flight_count; some++) {
        _cleanup_(lines_clear) struct lines want = {0};
        _cleanup_free_ char *joined = NULL;

        lines_copy(&want, &e->base);
        for (size_t i = 0; i < e->flight_count; i++)
            if ((some >> i & 1) != 0)
                change(&want, &e->flights[i]);
        joined = lines_join(&want);
        if (strcmp(joined, text) == 0)
            return true;
    }
    return false;
}

/* ---- checking ---- */

static char complaint[4096];

static const char *complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static const char *complain(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(complaint, sizeof(complaint), fmt, args);
    va_end(args);
    return complaint;
}

/* The seeds of a checkpoint's pages. */
static unsigned find_content(const struct model *m, const char *hex, uint32_t *seeds)
{
    for (size_t i = 0; i < m->count; i++) {
        const struct shim_record *r = m->steps[i].record;
        const char *text = (const char *)r->data;
        unsigned pages = 0;
        char *end;

        if (r->kind != SHIM_MARK || r->offset != MARK_CONTENT || strncmp(text, hex, 64) != 0)
            continue;
        for (text += 64; *text == ' ' && pages < DISK_PAGES_MAX; text = end)
            seeds[pages++] = (uint32_t)strtoul(text, &end, 10);
        return pages;
    }
    return 0;
}

static const char *check_content(const struct model *m, struct store *store, const char *hex,
                                 const struct disk *other)
{
    static uint32_t seeds[DISK_PAGES_MAX];
    struct disk disk = {.pages = find_content(m, hex, seeds), .seeds = seeds};
    _cleanup_free_ uint8_t *want = NULL, *got = NULL;
    struct error err = ERROR_INIT;
    struct digest id;
    uint64_t size;

    if (disk.pages == 0 && other != NULL)
        disk = *other;
    if (disk.pages == 0)
        return complain("checkpoint %.64s: nobody knows it", hex);
    if (digest_parse(hex, &id) < 0)
        return complain("'%s' is no id", hex);
    if (read_disk(store, &id, &got, &size, &err) < 0)
        return complain("checkpoint %.12s cannot be read: %s", hex, err.message);
    want = disk_bytes(&disk);
    if (size != (uint64_t)disk.pages * STASIS_PAGE_SIZE || memcmp(want, got, size) != 0)
        return complain("checkpoint %.12s has other bytes", hex);
    return NULL;
}

static const char *check_contents(const struct model *m, struct store *store, const char *text,
                                  const struct disk *other)
{
    const char *wrong = NULL;

    for (const char *p = text; wrong == NULL && (p = strstr(p, "checkpoint ")) != NULL;) {
        char hex[DIGEST_HEX_SIZE];

        p += strlen("checkpoint ");
        snprintf(hex, sizeof(hex), "%.64s", p);
        wrong = check_content(m, store, hex, other);
    }
    return wrong;
}

static void keep_finding(const struct verify_finding *finding, void *context)
{
    (void)context;
    complain("verify: %s @%llu: %s", finding->file, (unsigned long long)finding->offset,
             finding->what);
}

static const char *check_sound(struct store *store)
{
    struct verify_options options = {.finding = keep_finding};
    struct error err = ERROR_INIT;
    struct verify_result result;

    if (store_verify(store, &options, &result, &err) < 0)
        return complain("verify: %s", err.message);
    return result.findings != 0 ? complaint : NULL;
}

/* Files that no living process and no row of the catalogue owns. */
static const char *check_leftovers(struct store *store, const char *dir)
{
    struct fixture f = {.store_dir = (char *)dir};
    struct error err = ERROR_INIT;
    struct store_usage usage;
    size_t tmp = count_files(&f, ".tmp"), packs = count_files(&f, ".pack");

    if (store_usage_get(store, &usage, &err) < 0)
        return complain("usage: %s", err.message);
    if (tmp != 0)
        return complain("%zu unfinished packs are left", tmp);
    if (packs != usage.packs)
        return complain("%zu packs are there, %llu are listed", packs,
                        (unsigned long long)usage.packs);
    return NULL;
}

/* Old pages, new pages, zeros; with a name that may be taken already. */
static const char *check_goes_on(struct store *store)
{
    static const uint32_t seeds[] = {1, 2, 0, 900001, 900002, 3, 0, 900003};
    struct disk disk = {sizeof(seeds) / sizeof(*seeds), seeds};
    struct put put = {.image = "after"};
    _cleanup_free_ uint8_t *want = disk_bytes(&disk), *got = NULL;
    struct error err = ERROR_INIT;
    struct digest id;
    uint64_t size;

    if (put_disk(store, &disk, &put, &id, &err) < 0)
        return complain("a new checkpoint: %s", err.message);
    if (read_disk(store, &id, &got, &size, &err) < 0)
        return complain("a new checkpoint cannot be read: %s", err.message);
    return memcmp(want, got, size) != 0 ? complain("a new checkpoint has other bytes") : NULL;
}

static const char *check_listing(const struct model *m, struct store *store,
                                 const struct expected *e)
{
    _cleanup_(lines_clear) struct lines l = {0};
    _cleanup_free_ char *text = NULL, *want = NULL;
    struct error err = ERROR_INIT;

    if (list_all(store, &l, &err) < 0)
        return complain("listing: %s", err.message);
    text = lines_join(&l);
    if (!is_expected(e, text)) {
        struct lines base;

        lines_copy(&base, &e->base);
        want = lines_join(&base);
        lines_clear(&base);
        return complain("it lists:\n%swhere the calls that had returned left:\n%s(%zu under way)",
                        text, want, e->flight_count);
    }
    return check_contents(m, store, text, e->other);
}

static const char *repair(struct store *store)
{
    struct verify_options options = {.repair = true};
    struct error err = ERROR_INIT;
    struct verify_result result;

    if (store_verify(store, &options, &result, &err) < 0)
        return complain("repair: %s", err.message);
    return NULL;
}

static unsigned checked;

static const char *check_store(const struct model *m, struct store *store, const char *dir,
                               const struct expected *e)
{
    const char *wrong = check_listing(m, store, e);

    if (wrong == NULL && e->damaged)
        wrong = repair(store);
    if (wrong == NULL)
        wrong = check_leftovers(store, dir);
    if (wrong == NULL)
        wrong = check_sound(store);
    /* Slow, and hardly about this disk: of some. */
    if (wrong == NULL && checked++ % 4 == 0)
        wrong = check_goes_on(store);
    return wrong;
}

static const char *check_dir(const struct model *m, const char *dir, const struct expected *e)
{
    struct error err = ERROR_INIT;
    struct store *store;
    const char *wrong;
    int r = store_open(dir, false, &store, &err);

    /* Nothing was promised yet, not even a store. */
    if (r == -ENOENT && e->base.count == 0)
        r = store_open(dir, true, &store, &err);
    if (r < 0)
        return complain("opening: %s", err.message);
    wrong = check_store(m, store, dir, e);
    store_close(store);
    return wrong;
}

const char *witness_check(const struct model *m, size_t at, const char *dir)
{
    _cleanup_(expected_clear) struct expected e;

    expect_at(&e, m, at);
    return check_dir(m, dir, &e);
}

const char *witness_check_listed(const struct model *m, const char *dir, const char *lines,
                                 const struct disk *other)
{
    _cleanup_(expected_clear) struct expected e = {.other = other};

    lines_parse(&e.base, lines);
    return check_dir(m, dir, &e);
}
