/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An OCI image layout (OCI image specification 1.1, image-layout): a registry
 * without a server.
 *
 *   DIR/oci-layout            {"imageLayoutVersion":"1.0.0"}
 *   DIR/index.json            which manifest each tag is
 *   DIR/blobs/sha256/HEX      everything, by digest
 *
 * Blobs appear whole or not at all (linked after fdatasync). index.json is
 * replaced by rename under a lock on the directory, so two writers keep each
 * other's tags.
 */
#include "registry/depot.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "registry/blob.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define LAYOUT_MARK "{\"imageLayoutVersion\":\"1.0.0\"}"
#define ANNOTATION_REF_NAME "org.opencontainers.image.ref.name"
#define INDEX_MAX_SIZE (16u << 20)
#define MARK_MAX_SIZE 4096u

struct layout {
    struct depot depot;
    const struct reference *ref;
    int dir;
    int blobs;        /* DIR/blobs/sha256; -1 where reading and it is missing */
    char *blobs_path; /* for O_TMPFILE */
};

static struct layout *layout_of(struct depot *depot)
{
    return (struct layout *)depot; /* its first member */
}

static void layout_close(struct depot *depot)
{
    struct layout *l = layout_of(depot);

    if (l->dir >= 0)
        close(l->dir);
    if (l->blobs >= 0)
        close(l->blobs);
    free(l->blobs_path);
    free(l);
}

static void layout_freep(struct layout **l)
{
    if (*l != NULL)
        layout_close(&(*l)->depot);
}

static int layout_temp_file(struct depot *depot, int *fd_out, struct error *err)
{
    return blob_temp_file(layout_of(depot)->blobs_path, fd_out, err);
}

static int layout_blob_has(struct depot *depot, const struct descriptor *blob, bool *out,
                           struct error *err)
{
    char hex[DIGEST_HEX_SIZE];
    struct stat st;

    digest_hex(&blob->digest, hex);
    if (fstatat(layout_of(depot)->blobs, hex, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        if (errno != ENOENT)
            return error_errno(err, errno, "cannot look for blob %s", hex);
        *out = false;
        return 0;
    }
    /* A file of another size is a copy somebody broke off: it is replaced. */
    *out = S_ISREG(st.st_mode) && (uint64_t)st.st_size == blob->size;
    return 0;
}

/* For file systems where an unnamed file cannot get a name. */
static int copy_blob(struct layout *l, const char *name, int fd, uint64_t size)
{
    _cleanup_close_ int out = openat(l->blobs, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    uint8_t buf[65536];

    if (out < 0)
        return -errno;
    for (uint64_t at = 0; at < size;) {
        size_t step = (size_t)min_u64(sizeof(buf), size - at);
        int r = io_pread_full(fd, buf, step, at);
        if (r == 0)
            r = io_write_full(out, buf, step);
        if (r < 0)
            return r;
        at += step;
    }
    return fdatasync(out) < 0 ? -errno : 0;
}

static int name_blob(struct layout *l, const char *name, int fd, uint64_t size)
{
    _cleanup_free_ char *self = io_format("/proc/self/fd/%d", fd);

    if (linkat(AT_FDCWD, self, l->blobs, name, AT_SYMLINK_FOLLOW) == 0)
        return 0;
    return errno == ENOENT || errno == EXDEV || errno == EPERM ? copy_blob(l, name, fd, size)
                                                               : -errno;
}

/* A blob of that name is there and is not right (or somebody has just put it):
 * first under a name of our own, then renamed over it. */
static int replace_blob(struct layout *l, const char *hex, int fd, uint64_t size)
{
    _cleanup_free_ char *tmp = io_format(".%s.%d.%d", hex, (int)getpid(), fd);

    unlinkat(l->blobs, tmp, 0); /* of a process with the same pid that was killed */
    int r = name_blob(l, tmp, fd, size);
    if (r == 0 && renameat(l->blobs, tmp, l->blobs, hex) < 0)
        r = -errno;
    if (r < 0)
        unlinkat(l->blobs, tmp, 0);
    return r;
}

static int layout_blob_put(struct depot *depot, const struct descriptor *blob, int fd,
                           struct error *err)
{
    struct layout *l = layout_of(depot);
    char hex[DIGEST_HEX_SIZE];

    digest_hex(&blob->digest, hex);
    _cleanup_free_ char *self = io_format("/proc/self/fd/%d", fd);
    int r = fdatasync(fd) < 0 ? -errno : 0;
    if (r == 0 && linkat(AT_FDCWD, self, l->blobs, hex, AT_SYMLINK_FOLLOW) < 0)
        r = replace_blob(l, hex, fd, blob->size);
    if (r == 0)
        r = io_sync_dir(l->blobs);
    if (r < 0)
        return error_errno(err, -r, "cannot write blob %s to %s", hex, l->ref->dir);
    return 0;
}

static int layout_blob_open(struct depot *depot, const struct descriptor *blob, int *fd_out,
                            struct error *err)
{
    struct layout *l = layout_of(depot);
    char hex[DIGEST_HEX_SIZE];
    char name[16 + DIGEST_HEX_SIZE];
    struct stat st;

    /* O_NONBLOCK: a FIFO in this place must not hang us */
    digest_hex(&blob->digest, hex);
    _cleanup_close_ int fd = openat(l->blobs, hex, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        return error_corrupt(err, "blob %s is missing in %s", hex, l->ref->dir);
    if (fd < 0)
        return error_errno(err, errno, "cannot open blob %s in %s", hex, l->ref->dir);
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return error_corrupt(err, "blob %s in %s is not a file", hex, l->ref->dir);
    snprintf(name, sizeof(name), "blob %s", hex);
    int r = blob_check(fd, blob, name, err);
    if (r < 0)
        return r;
    depot->meter.done += blob->size;
    *fd_out = steal_fd(&fd);
    return meter_report(&depot->meter, 0, err);
}

/* One writer at a time until *fd_out is closed. The lock is on a description of its
 * own, so that two threads of one process exclude each other too. */
static int lock_layout(struct layout *l, int *fd_out, struct error *err)
{
    _cleanup_close_ int fd = openat(l->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return error_errno(err, errno, "cannot lock %s", l->ref->dir);
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR)
            return error_errno(err, errno, "cannot lock %s", l->ref->dir);
    *fd_out = steal_fd(&fd);
    return 0;
}

/* ---- index.json ---- */

static int read_index(struct layout *l, bool may_be_missing, json_t **out, struct error *err)
{
    _cleanup_free_ char *text = NULL;
    size_t length;

    int r = io_read_file(l->dir, "index.json", INDEX_MAX_SIZE, &text, &length);
    if (r == -ENOENT && may_be_missing) {
        *out = json_pack("{s:i, s:s, s:[]}", "schemaVersion", 2, "mediaType", OCI_MEDIA_TYPE_INDEX,
                         "manifests");
        return *out != NULL ? 0 : error_errno(err, ENOMEM, "cannot write index.json");
    }
    if (r < 0)
        return error_errno(err, -r, "cannot read %s/index.json", l->ref->dir);
    _cleanup_json_ json_t *index = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(index) || !json_is_array(json_object_get(index, "manifests")))
        return error_corrupt(err, "%s/index.json is not the index of an image layout", l->ref->dir);
    *out = steal_pointer(index);
    return 0;
}

static const char *entry_tag(const json_t *entry)
{
    const json_t *annotations = json_object_get(entry, "annotations");

    return json_string_value(json_object_get(annotations, ANNOTATION_REF_NAME));
}

/* Position of the tag, or the number of entries. */
static size_t find_tag(const json_t *manifests, const char *tag)
{
    size_t count = json_array_size(manifests);

    for (size_t i = 0; i < count; i++) {
        const char *name = entry_tag(json_array_get(manifests, i));
        if (name != NULL && strcmp(name, tag) == 0)
            return i;
    }
    return count;
}

static int set_tag(json_t *index, const char *tag, const struct descriptor *manifest)
{
    json_t *manifests = json_object_get(index, "manifests");
    char digest[ARTIFACT_DIGEST_SIZE];

    size_t at = find_tag(manifests, tag);
    json_t *entry = json_pack("{s:s, s:s, s:s, s:I, s:{s:s}}", "mediaType", OCI_MEDIA_TYPE_MANIFEST,
                              "artifactType", ARTIFACT_TYPE, "digest",
                              artifact_digest_text(&manifest->digest, digest), "size",
                              (json_int_t)manifest->size, "annotations", ANNOTATION_REF_NAME, tag);
    return at < json_array_size(manifests) ? json_array_set_new(manifests, at, entry)
                                           : json_array_append_new(manifests, entry);
}

static int write_index(struct layout *l, const struct descriptor *manifest, struct error *err)
{
    _cleanup_json_ json_t *index = NULL;

    int r = read_index(l, true, &index, err);
    if (r < 0)
        return r;
    if (set_tag(index, l->ref->tag, manifest) < 0)
        return error_errno(err, ENOMEM, "cannot write index.json");
    _cleanup_free_ char *text = json_dumps(index, JSON_COMPACT | JSON_SORT_KEYS);
    if (text == NULL)
        return error_errno(err, ENOMEM, "cannot write index.json");
    r = io_write_file(l->dir, "index.json", text, strlen(text), 0644);
    return r < 0 ? error_errno(err, -r, "cannot write %s/index.json", l->ref->dir) : 0;
}

static int put_manifest_blob(struct layout *l, const char *text, const struct descriptor *manifest,
                             struct error *err)
{
    _cleanup_close_ int fd = -1;
    bool has;

    int r = layout_blob_has(&l->depot, manifest, &has, err);
    if (r < 0 || has)
        return r;
    r = layout_temp_file(&l->depot, &fd, err);
    if (r < 0)
        return r;
    r = io_write_full(fd, text, manifest->size);
    if (r < 0)
        return error_errno(err, -r, "cannot write the OCI manifest to %s", l->ref->dir);
    return layout_blob_put(&l->depot, manifest, fd, err);
}

static int layout_manifest_put(struct depot *depot, const char *text, size_t length,
                               const struct digest *digest, struct error *err)
{
    struct layout *l = layout_of(depot);
    const struct descriptor manifest = {*digest, length};

    int r = put_manifest_blob(l, text, &manifest, err);
    if (r < 0)
        return r;
    _cleanup_close_ int lock_fd = -1;
    r = lock_layout(l, &lock_fd, err);
    if (r < 0)
        return r;
    return write_index(l, &manifest, err);
}

/* Without a tag a layout of one manifest needs none. */
static const json_t *find_manifest(const struct layout *l, const json_t *index)
{
    const json_t *manifests = json_object_get(index, "manifests");
    const json_t *entry = json_array_get(manifests, find_tag(manifests, l->ref->tag));

    if (entry == NULL && !l->ref->tag_given && json_array_size(manifests) == 1)
        entry = json_array_get(manifests, 0);
    return entry;
}

static int layout_manifest_get(struct depot *depot, char **text_out, size_t *length_out,
                               struct digest *digest_out, struct error *err)
{
    struct layout *l = layout_of(depot);
    _cleanup_json_ json_t *index = NULL;
    struct descriptor manifest;
    void *data;

    int r = read_index(l, false, &index, err);
    if (r < 0)
        return r;
    const json_t *entry = find_manifest(l, index);
    if (entry == NULL) {
        r = error_set(err, STATUS_NOT_FOUND, ENOENT, "%s has no image with tag %s", l->ref->dir,
                      l->ref->tag);
        error_hint(err, "its tags are in %s/index.json", l->ref->dir);
        return r;
    }
    const char *digest = json_string_value(json_object_get(entry, "digest"));
    const json_t *size = json_object_get(entry, "size");
    if (digest == NULL || artifact_digest_parse(digest, &manifest.digest) < 0 ||
        !json_is_integer(size) || json_integer_value(size) < 0 ||
        json_integer_value(size) > ARTIFACT_MAX_SIZE)
        return error_corrupt(err, "%s/index.json: the entry of tag %s is wrong", l->ref->dir,
                             l->ref->tag);
    manifest.size = (uint64_t)json_integer_value(size);
    r = depot_read_blob(depot, &manifest, &data, err);
    if (r < 0)
        return r;
    *text_out = data;
    *length_out = manifest.size;
    *digest_out = manifest.digest;
    return 0;
}

static const struct depot_ops layout_ops = {
    .temp_file = layout_temp_file,
    .blob_has = layout_blob_has,
    .blob_put = layout_blob_put,
    .blob_open = layout_blob_open,
    .manifest_put = layout_manifest_put,
    .manifest_get = layout_manifest_get,
    .close = layout_close,
};

/* ---- opening ---- */

static int write_mark(struct layout *l, struct error *err)
{
    _cleanup_close_ int lock_fd = -1;

    int r = lock_layout(l, &lock_fd, err);
    if (r < 0)
        return r;
    r = io_write_file(l->dir, "oci-layout", LAYOUT_MARK, strlen(LAYOUT_MARK), 0644);
    return r < 0 ? error_errno(err, -r, "cannot write %s/oci-layout", l->ref->dir) : 0;
}

static int check_mark(struct layout *l, bool create, struct error *err)
{
    _cleanup_free_ char *text = NULL;
    size_t length;

    int r = io_read_file(l->dir, "oci-layout", MARK_MAX_SIZE, &text, &length);
    if (r == -ENOENT && create)
        return write_mark(l, err);
    if (r < 0) {
        r = error_errno(err, -r, "%s is not an OCI image layout: cannot read oci-layout",
                        l->ref->dir);
        error_hint(err, "a layout is a directory that stasis push oci:DIR or skopeo made");
        return r;
    }
    _cleanup_json_ json_t *mark = json_loadb(text, length, 0, NULL);
    const char *version = json_string_value(json_object_get(mark, "imageLayoutVersion"));
    if (version == NULL || strncmp(version, "1.", 2) != 0)
        return error_corrupt(err, "%s/oci-layout is not that of an image layout, version 1",
                             l->ref->dir);
    return 0;
}

int layout_open(const struct reference *ref, bool create, struct depot **out, struct error *err)
{
    _cleanup_(layout_freep) struct layout *l = calloc(1, sizeof(*l));
    if (l == NULL)
        return error_errno(err, ENOMEM, "cannot open %s", ref->dir);
    l->depot.ops = &layout_ops;
    l->ref = ref;
    l->dir = l->blobs = -1;
    l->blobs_path = io_format("%s/blobs/sha256", ref->dir);

    int r = create ? io_make_dirs(l->blobs_path, 0755) : 0;
    if (r < 0)
        return error_errno(err, -r, "cannot make %s", l->blobs_path);
    l->dir = open(ref->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (l->dir < 0)
        return error_errno(err, errno, "cannot open the image layout %s", ref->dir);
    r = check_mark(l, create, err);
    if (r < 0)
        return r;
    l->blobs = open(l->blobs_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (l->blobs < 0)
        return error_errno(err, errno, "cannot open %s", l->blobs_path);
    *out = &steal_pointer(l)->depot;
    return 0;
}
