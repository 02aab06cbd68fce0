/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole checkpoint as one stream of bytes. All numbers are little-endian.
 *
 *   stream   = "STASTREM" | version u32 = 1 | incompat u32 = 0 | record...
 *   record   = type u32 | flags u32 | length u64 | payload (length bytes) | check u64
 *
 *   pages    (1) count u32 | reserved u32 = 0 | count references of 16 bytes
 *                | the pages: one zstd frame (flag bit 0), or as they are
 *   node     (2) an encoded map node (imgfmt/map.h)
 *   blob     (3) bytes of a blob, named by their SHA-256
 *   manifest (4) the manifest's canonical bytes; once, after all of the above
 *   end      (5) pages u64 | nodes u64 | blobs u64 | SHA-256 of the whole stream
 *                up to the first byte of this record; nothing follows it
 *
 * check is the first 8 bytes of the SHA-256 of the stream up to it, as they lie.
 * It is there so that a damaged, missing or reordered record is noticed where it
 * is and not only at the end. Neither check nor digest protects against a sender
 * who lies: the importer recomputes every key and every SHA-256 (transfer.h).
 */
#include "store/stream.h"

#include "base/buffer.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "imgfmt/state.h"
#include "store/catalogue.h"
#include "store/transfer.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <zstd.h>

#define STREAM_MAGIC "STASTREM"
#define STREAM_VERSION 1u
#define STREAM_HEADER_SIZE 16u
#define RECORD_HEADER_SIZE 16u
#define RECORD_CHECK_SIZE 8u
#define PAGES_HEADER_SIZE 8u
/* 64 KiB a record: what hot packs use, so that a restored group is one record. */
#define PAGES_PER_RECORD 16u
#define PAGES_RAW_MAX (PAGES_PER_RECORD * STASIS_PAGE_SIZE)
#define PAGES_PAYLOAD_MAX (PAGES_HEADER_SIZE + PAGES_PER_RECORD * PAGE_REF_SIZE + PAGES_RAW_MAX)
#define END_PAYLOAD_SIZE (24u + DIGEST_SIZE)
#define FLAG_ZSTD 1u
/* The pipe must keep up with the store: level 1 compresses faster than ssh encrypts. */
#define STREAM_ZSTD_LEVEL 1

enum record_type {
    RECORD_PAGES = 1,
    RECORD_NODE = 2,
    RECORD_BLOB = 3,
    RECORD_MANIFEST = 4,
    RECORD_END = 5,
};

struct stream_counts {
    uint64_t pages;
    uint64_t nodes;
    uint64_t blobs;
};

static const char *record_name(uint32_t type)
{
    static const char *const names[] = {
        [RECORD_PAGES] = "page", [RECORD_NODE] = "map node",     [RECORD_BLOB] = "blob",
        [RECORD_END] = "end",    [RECORD_MANIFEST] = "manifest",
    };

    return type < ARRAY_LEN(names) && names[type] != NULL ? names[type] : "unknown";
}

static uint64_t record_check(const struct digest_stream *sum)
{
    struct digest digest = digest_stream_peek(sum);

    return load_le64(digest.bytes);
}

/* ---- sending ---- */

struct sender {
    int fd;
    struct digest_stream *sum;
    uint64_t position;
    struct stream_counts counts;
    /* pages waiting for their record to be full */
    uint8_t *raw;
    uint8_t refs[PAGES_PER_RECORD * PAGE_REF_SIZE];
    unsigned pending;
    uint8_t *frame; /* compressed pages */
    size_t frame_capacity;
    ZSTD_CCtx *zstd;
    int (*progress)(uint64_t done_pages, void *context);
    void *context;
    struct error *err;
};

static void sender_clear(struct sender *s)
{
    digest_stream_free(s->sum);
    free(s->raw);
    free(s->frame);
    ZSTD_freeCCtx(s->zstd);
}

static int sender_init(struct sender *s)
{
    s->sum = digest_stream_new();
    s->frame_capacity = ZSTD_compressBound(PAGES_RAW_MAX);
    s->raw = malloc(PAGES_RAW_MAX);
    s->frame = malloc(s->frame_capacity);
    s->zstd = ZSTD_createCCtx();
    if (s->raw == NULL || s->frame == NULL || s->zstd == NULL)
        return error_errno(s->err, ENOMEM, "cannot send the checkpoint");
    return 0;
}

static int send_bytes(struct sender *s, const void *data, size_t length)
{
    int r = io_write_full(s->fd, data, length);

    if (r == -EPIPE) {
        r = error_set(s->err, STATUS_FAILED, EPIPE,
                      "the receiver went away after %llu bytes of the stream",
                      (unsigned long long)s->position);
        error_hint(s->err, "see what the receiving side says; nothing of it was kept there");
        return r;
    }
    if (r < 0)
        return error_errno(s->err, -r, "cannot write the stream at byte %llu",
                           (unsigned long long)s->position);
    digest_stream_update(s->sum, data, length);
    s->position += length;
    return 0;
}

struct part {
    const void *data;
    size_t length;
};

static int send_record(struct sender *s, enum record_type type, uint32_t flags,
                       const struct part *parts, unsigned count)
{
    uint8_t header[RECORD_HEADER_SIZE];
    uint8_t check[RECORD_CHECK_SIZE];
    uint64_t length = 0;

    for (unsigned i = 0; i < count; i++)
        length += parts[i].length;
    store_le32(header, type);
    store_le32(header + 4, flags);
    store_le64(header + 8, length);
    int r = send_bytes(s, header, sizeof(header));
    for (unsigned i = 0; i < count && r == 0; i++)
        r = send_bytes(s, parts[i].data, parts[i].length);
    if (r < 0)
        return r;
    store_le64(check, record_check(s->sum));
    return send_bytes(s, check, sizeof(check));
}

static int send_header(struct sender *s)
{
    uint8_t header[STREAM_HEADER_SIZE] = STREAM_MAGIC;

    store_le32(header + 8, STREAM_VERSION);
    store_le32(header + 12, 0);
    return send_bytes(s, header, sizeof(header));
}

static int report_progress(int (*progress)(uint64_t, void *), void *context, uint64_t pages,
                           struct error *err)
{
    if (progress == NULL || progress(pages, context) == 0)
        return 0;
    return error_set(err, STATUS_INTERRUPTED, ECANCELED, "interrupted after %llu pages",
                     (unsigned long long)pages);
}

static int send_pending_pages(struct sender *s)
{
    uint8_t head[PAGES_HEADER_SIZE];
    size_t raw_bytes = (size_t)s->pending * STASIS_PAGE_SIZE;

    if (s->pending == 0)
        return 0;
    store_le32(head, s->pending);
    store_le32(head + 4, 0);
    size_t n = ZSTD_compressCCtx(s->zstd, s->frame, s->frame_capacity, s->raw, raw_bytes,
                                 STREAM_ZSTD_LEVEL);
    bool packed = !ZSTD_isError(n) && n < raw_bytes;
    const struct part parts[] = {
        {head, sizeof(head)},
        {s->refs, (size_t)s->pending * PAGE_REF_SIZE},
        {packed ? s->frame : s->raw, packed ? n : raw_bytes},
    };
    int r = send_record(s, RECORD_PAGES, packed ? FLAG_ZSTD : 0, parts, ARRAY_LEN(parts));
    if (r < 0)
        return r;
    s->counts.pages += s->pending;
    s->pending = 0;
    return report_progress(s->progress, s->context, s->counts.pages, s->err);
}

static int send_page(struct page_ref ref, const void *bytes, void *context)
{
    struct sender *s = context;

    page_ref_store(ref, s->refs + (size_t)s->pending * PAGE_REF_SIZE);
    memcpy(s->raw + (size_t)s->pending * STASIS_PAGE_SIZE, bytes, STASIS_PAGE_SIZE);
    s->pending++;
    return s->pending == PAGES_PER_RECORD ? send_pending_pages(s) : 0;
}

static int send_node(const struct digest *digest, const void *bytes, size_t length, void *context)
{
    struct sender *s = context;

    (void)digest;
    s->counts.nodes++;
    return send_record(s, RECORD_NODE, 0, &(struct part){bytes, length}, 1);
}

static int send_blob(const struct digest *digest, const void *data, size_t length, void *context)
{
    struct sender *s = context;

    (void)digest;
    s->counts.blobs++;
    return send_record(s, RECORD_BLOB, 0, &(struct part){data, length}, 1);
}

static int send_manifest(struct sender *s, const struct manifest *manifest)
{
    _cleanup_free_ char *text = NULL;
    size_t length;

    int r = manifest_encode(manifest, &text, &length);
    if (r < 0)
        return error_errno(s->err, -r, "cannot encode the manifest");
    return send_record(s, RECORD_MANIFEST, 0, &(struct part){text, length}, 1);
}

static int send_end(struct sender *s)
{
    uint8_t payload[END_PAYLOAD_SIZE];
    struct digest digest = digest_stream_peek(s->sum);

    store_le64(payload, s->counts.pages);
    store_le64(payload + 8, s->counts.nodes);
    store_le64(payload + 16, s->counts.blobs);
    memcpy(payload + 24, digest.bytes, DIGEST_SIZE);
    return send_record(s, RECORD_END, 0, &(struct part){payload, sizeof(payload)}, 1);
}

static int send_all(struct sender *s, struct store *store, const struct digest *checkpoint,
                    const struct manifest *manifest)
{
    const struct transfer_visitor visitor = {send_node, send_page, send_blob, s};

    int r = send_header(s);
    if (r < 0)
        return r;
    r = transfer_export(store, checkpoint, &visitor, s->err);
    if (r < 0)
        return r;
    r = send_pending_pages(s);
    if (r < 0)
        return r;
    r = send_manifest(s, manifest);
    if (r < 0)
        return r;
    return send_end(s);
}

/* Writing into a pipe nobody reads must be an error here and not the end of the
 * process, whatever the program does with SIGPIPE: blocked for this thread, and
 * the one that write(2) raised is taken off again. */
struct sigpipe_guard {
    sigset_t before;
    bool was_pending;
};

static void sigpipe_hold(struct sigpipe_guard *guard)
{
    sigset_t pipe_set, pending;

    sigemptyset(&pending);
    sigpending(&pending);
    guard->was_pending = sigismember(&pending, SIGPIPE) == 1;
    sigemptyset(&pipe_set);
    sigaddset(&pipe_set, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_set, &guard->before);
}

static void sigpipe_release(struct sigpipe_guard *guard)
{
    const struct timespec no_wait = {0};
    sigset_t pipe_set;

    sigemptyset(&pipe_set);
    sigaddset(&pipe_set, SIGPIPE);
    if (!guard->was_pending)
        while (sigtimedwait(&pipe_set, NULL, &no_wait) < 0 && errno == EINTR)
            continue;
    pthread_sigmask(SIG_SETMASK, &guard->before, NULL);
}

int stream_send(struct store *store, const struct digest *checkpoint, int fd,
                int (*progress)(uint64_t done_pages, void *context), void *context,
                struct stream_result *out, struct error *err)
{
    _cleanup_(sender_clear) struct sender s = {
        .fd = fd, .progress = progress, .context = context, .err = err};
    _cleanup_free_ struct manifest *manifest = calloc(1, sizeof(*manifest));
    struct sigpipe_guard guard;

    if (manifest == NULL)
        return error_errno(err, ENOMEM, "cannot send the checkpoint");
    int r = sender_init(&s);
    if (r < 0)
        return r;
    r = catalogue_manifest_read(store, checkpoint, manifest, err);
    if (r < 0)
        return r;
    sigpipe_hold(&guard);
    r = send_all(&s, store, checkpoint, manifest);
    sigpipe_release(&guard);
    if (r < 0)
        return r;
    *out = (struct stream_result){*checkpoint, s.position, s.counts.pages};
    return 0;
}

/* ---- receiving ---- */

struct receiver {
    int fd;
    struct digest_stream *sum;
    uint64_t position;
    struct stream_counts counts;
    struct transfer_import *import;
    struct buffer payload; /* of the current record */
    struct buffer manifest;
    uint8_t *raw; /* decompressed pages */
    ZSTD_DCtx *zstd;
    int (*progress)(uint64_t done_pages, void *context);
    void *context;
    struct error *err;
};

struct record {
    uint32_t type;
    uint32_t flags;
    uint64_t length;
    uint64_t position;    /* of its first byte in the stream */
    struct digest before; /* of the stream up to there; only for the end record */
};

static void receiver_clear(struct receiver *rx)
{
    digest_stream_free(rx->sum);
    transfer_import_free(rx->import);
    buffer_clear(&rx->payload);
    buffer_clear(&rx->manifest);
    free(rx->raw);
    ZSTD_freeDCtx(rx->zstd);
}

static int receive_bytes(struct receiver *rx, void *buf, size_t length)
{
    int r = io_read_full(rx->fd, buf, length);

    if (r == -ENODATA && rx->position == 0) {
        r = error_corrupt(rx->err, "no stream came");
        error_hint(rx->err, "see what the sending side says");
        return r;
    }
    if (r == -ENODATA) {
        r = error_corrupt(rx->err, "the stream ends early, after byte %llu",
                          (unsigned long long)rx->position);
        error_hint(rx->err, "nothing was kept; see what the sending side says and send it again");
        return r;
    }
    if (r < 0)
        return error_errno(rx->err, -r, "cannot read the stream at byte %llu",
                           (unsigned long long)rx->position);
    digest_stream_update(rx->sum, buf, length);
    rx->position += length;
    return 0;
}

static int bad_record(struct receiver *rx, const struct record *record, const char *why)
{
    int r = error_corrupt(rx->err, "the stream is damaged: the %s record at byte %llu %s",
                          record_name(record->type), (unsigned long long)record->position, why);

    error_hint(rx->err, "nothing was kept; send it again");
    return r;
}

static int receive_header(struct receiver *rx)
{
    uint8_t header[STREAM_HEADER_SIZE];

    int r = receive_bytes(rx, header, sizeof(header));
    if (r < 0)
        return r;
    if (memcmp(header, STREAM_MAGIC, 8) != 0) {
        r = error_corrupt(rx->err, "this is not a Stasis stream: it does not begin with its mark");
        error_hint(rx->err, "the other side must run: stasis send REF");
        return r;
    }
    if (load_le32(header + 8) == STREAM_VERSION && load_le32(header + 12) == 0)
        return 0;
    r = error_set(rx->err, STATUS_FAILED, EPROTONOSUPPORT,
                  "the stream has version %u with features %#x; this program knows version %u",
                  load_le32(header + 8), load_le32(header + 12), STREAM_VERSION);
    error_hint(rx->err, "update stasis on this side");
    return r;
}

static bool record_length_is_sane(const struct record *record)
{
    switch (record->type) {
    case RECORD_PAGES:
        return record->length > PAGES_HEADER_SIZE && record->length <= PAGES_PAYLOAD_MAX;
    case RECORD_NODE:
        return record->length >= MAP_NODE_HEADER_SIZE && record->length <= MAP_NODE_MAX_SIZE;
    case RECORD_BLOB:
        return record->length <= STATE_MAX_SIZE;
    case RECORD_MANIFEST:
        return record->length > 0 && record->length <= MANIFEST_MAX_SIZE;
    case RECORD_END:
        return record->length == END_PAYLOAD_SIZE;
    default:
        return false;
    }
}

/* Reads a payload piece by piece, so that a length that lies costs no more memory
 * than the bytes that really come. */
static int receive_payload(struct receiver *rx, uint64_t length)
{
    enum { STEP = 1 << 20 };

    rx->payload.length = 0;
    while (length > 0) {
        size_t step = (size_t)min_u64(length, STEP);
        if (buffer_reserve(&rx->payload, step) < 0)
            return error_errno(rx->err, ENOMEM, "cannot receive the stream");
        int r = receive_bytes(rx, rx->payload.data + rx->payload.length, step);
        if (r < 0)
            return r;
        rx->payload.length += step;
        length -= step;
    }
    return 0;
}

static int receive_check(struct receiver *rx, const struct record *record)
{
    uint8_t check[RECORD_CHECK_SIZE];
    uint64_t expected = record_check(rx->sum);

    int r = receive_bytes(rx, check, sizeof(check));
    if (r < 0)
        return r;
    return load_le64(check) == expected ? 0 : bad_record(rx, record, "fails its check");
}

static int receive_record(struct receiver *rx, struct record *record)
{
    uint8_t header[RECORD_HEADER_SIZE];

    record->position = rx->position;
    record->before = digest_stream_peek(rx->sum);
    int r = receive_bytes(rx, header, sizeof(header));
    if (r < 0)
        return r;
    record->type = load_le32(header);
    record->flags = load_le32(header + 4);
    record->length = load_le64(header + 8);
    if (!record_length_is_sane(record))
        return bad_record(rx, record, "has an impossible type or length");
    if ((record->flags & ~(record->type == RECORD_PAGES ? FLAG_ZSTD : 0u)) != 0)
        return bad_record(rx, record, "has unknown flags");
    r = receive_payload(rx, record->length);
    if (r < 0)
        return r;
    return receive_check(rx, record);
}

/* Neither several frames, nor one of zstd's early formats, nor one of another
 * length: what is taken has one meaning for every reader. */
static bool is_one_frame(const void *frame, size_t stored, size_t raw_bytes)
{
    return stored >= sizeof(uint32_t) && load_le32(frame) == ZSTD_MAGICNUMBER &&
           ZSTD_getFrameContentSize(frame, stored) == raw_bytes &&
           ZSTD_findFrameCompressedSize(frame, stored) == stored;
}

/* Finds count and the raw bytes of a page record; *raw_out may point into the
 * payload. */
static int pages_decode(struct receiver *rx, const struct record *record, unsigned *count_out,
                        const uint8_t **raw_out)
{
    const uint8_t *p = rx->payload.data;
    uint32_t count = load_le32(p);

    if (count == 0 || count > PAGES_PER_RECORD || load_le32(p + 4) != 0)
        return bad_record(rx, record, "has an impossible page count");
    size_t head = PAGES_HEADER_SIZE + (size_t)count * PAGE_REF_SIZE;
    size_t raw_bytes = (size_t)count * STASIS_PAGE_SIZE;
    if (record->length <= head)
        return bad_record(rx, record, "has no pages behind its references");
    size_t stored = (size_t)record->length - head;
    *count_out = count;
    if ((record->flags & FLAG_ZSTD) == 0) {
        *raw_out = p + head;
        return stored == raw_bytes ? 0 : bad_record(rx, record, "has the wrong length");
    }
    if (!is_one_frame(p + head, stored, raw_bytes))
        return bad_record(rx, record, "is not one zstd frame of its pages");
    size_t n = ZSTD_decompressDCtx(rx->zstd, rx->raw, raw_bytes, p + head, stored);
    if (ZSTD_isError(n) || n != raw_bytes)
        return bad_record(rx, record, "does not decompress");
    *raw_out = rx->raw;
    return 0;
}

/* Says which record the importer refused. */
static int blame_record(struct receiver *rx, const struct record *record, int r)
{
    if (r == -EBADMSG)
        error_prefix(rx->err, "%s record at byte %llu of the stream", record_name(record->type),
                     (unsigned long long)record->position);
    return r;
}

static int import_pages(struct receiver *rx, const struct record *record)
{
    const uint8_t *raw = NULL;
    unsigned count = 0;

    int r = pages_decode(rx, record, &count, &raw);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *ref = rx->payload.data + PAGES_HEADER_SIZE + (size_t)i * PAGE_REF_SIZE;
        r = transfer_import_page(rx->import, page_ref_load(ref), raw + (size_t)i * STASIS_PAGE_SIZE,
                                 rx->err);
        if (r < 0)
            return blame_record(rx, record, r);
    }
    rx->counts.pages += count;
    return report_progress(rx->progress, rx->context, rx->counts.pages, rx->err);
}

static int import_record(struct receiver *rx, const struct record *record)
{
    const struct buffer *payload = &rx->payload;

    switch (record->type) {
    case RECORD_PAGES:
        return import_pages(rx, record);
    case RECORD_NODE:
        rx->counts.nodes++;
        return blame_record(
            rx, record, transfer_import_node(rx->import, payload->data, payload->length, rx->err));
    case RECORD_BLOB:
        rx->counts.blobs++;
        return blame_record(
            rx, record, transfer_import_blob(rx->import, payload->data, payload->length, rx->err));
    default: /* the manifest */
        if (buffer_append(&rx->manifest, payload->data, payload->length) < 0)
            return error_errno(rx->err, ENOMEM, "cannot receive the stream");
        return 0;
    }
}

static int check_end(struct receiver *rx, const struct record *record)
{
    const uint8_t *p = rx->payload.data;

    if (memcmp(p + 24, record->before.bytes, DIGEST_SIZE) != 0)
        return bad_record(rx, record, "has another SHA-256 than the stream before it");
    if (load_le64(p) != rx->counts.pages || load_le64(p + 8) != rx->counts.nodes ||
        load_le64(p + 16) != rx->counts.blobs)
        return bad_record(rx, record, "counts other records than have come");
    return 0;
}

/* Everything up to the end record; the manifest is then in rx->manifest. */
static int receive_records(struct receiver *rx)
{
    for (;;) {
        struct record record;
        int r = receive_record(rx, &record);
        if (r < 0)
            return r;
        /* The manifest is the last but one: what comes after it must be the end,
         * and the end must come after it. */
        if ((rx->manifest.length > 0) != (record.type == RECORD_END))
            return bad_record(rx, &record, "is out of order");
        if (record.type == RECORD_END)
            return check_end(rx, &record);
        r = import_record(rx, &record);
        if (r < 0)
            return r;
    }
}

int stream_receive(struct store *store, int fd, const char *image, const char *tag,
                   bool replace_tag, int (*progress)(uint64_t done_pages, void *context),
                   void *context, struct stream_result *out, struct error *err)
{
    _cleanup_(receiver_clear) struct receiver rx = {
        .fd = fd, .progress = progress, .context = context, .err = err};
    struct digest id;

    rx.sum = digest_stream_new();
    rx.raw = malloc(PAGES_RAW_MAX);
    rx.zstd = ZSTD_createDCtx();
    if (rx.raw == NULL || rx.zstd == NULL)
        return error_errno(err, ENOMEM, "cannot receive the stream");
    int r = receive_header(&rx);
    if (r < 0)
        return r;
    r = transfer_import_begin(store, &rx.import, err);
    if (r < 0)
        return r;
    r = receive_records(&rx);
    if (r < 0)
        return r;
    r = transfer_import_finish(rx.import, (const char *)rx.manifest.data, rx.manifest.length, image,
                               tag, replace_tag, &id, err);
    if (r < 0)
        return r;
    *out = (struct stream_result){id, rx.position, rx.counts.pages};
    return 0;
}
