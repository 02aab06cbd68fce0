/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/pack_list.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>

#define LIST_MAGIC "STASLIST"
#define LIST_VERSION 1u
#define LIST_HEADER_SIZE 16u

enum entry_field {
    ENTRY_PACK_BYTES = 0,
    ENTRY_DIGEST = 8,
    ENTRY_TAIL_BYTES = 40,
    ENTRY_HEADER = 48,
    ENTRY_TAIL = 48 + PACK_HEADER_SIZE,
};

int pack_list_begin(struct buffer *list)
{
    uint8_t header[LIST_HEADER_SIZE] = LIST_MAGIC;

    store_le32(header + 8, LIST_VERSION);
    return buffer_append(list, header, sizeof(header));
}

void pack_list_finish(struct buffer *list, uint32_t count)
{
    store_le32(list->data + 12, count);
}

int pack_list_append(struct buffer *list, int fd, const struct descriptor *pack, struct error *err)
{
    uint8_t trailer[PACK_TRAILER_SIZE];
    uint64_t footer;

    int r = io_pread_full(fd, trailer, sizeof(trailer), pack->size - sizeof(trailer));
    if (r < 0)
        return error_errno(err, -r, "cannot read back a pack");
    r = pack_footer_offset("for the registry", pack->size, trailer, &footer, err);
    if (r < 0)
        return r;
    size_t tail_bytes = (size_t)(pack->size - footer);
    if (list->length + ENTRY_TAIL + tail_bytes > PACK_LIST_MAX_SIZE)
        return error_set(err, STATUS_FAILED, EFBIG, "the checkpoint has too many pages to publish");
    if (buffer_reserve(list, ENTRY_TAIL + tail_bytes) < 0)
        return error_errno(err, ENOMEM, "cannot list the packs");

    uint8_t *entry = list->data + list->length;
    store_le64(entry + ENTRY_PACK_BYTES, pack->size);
    memcpy(entry + ENTRY_DIGEST, pack->digest.bytes, DIGEST_SIZE);
    store_le64(entry + ENTRY_TAIL_BYTES, tail_bytes);
    r = io_pread_full(fd, entry + ENTRY_HEADER, PACK_HEADER_SIZE, 0);
    if (r == 0)
        r = io_pread_full(fd, entry + ENTRY_TAIL, tail_bytes, footer);
    if (r < 0)
        return error_errno(err, -r, "cannot read back a pack");
    list->length += ENTRY_TAIL + tail_bytes;
    return 0;
}

int pack_list_read(const void *data, size_t length, struct pack_list_reader *out, struct error *err)
{
    const uint8_t *p = data;

    if (length < LIST_HEADER_SIZE || memcmp(p, LIST_MAGIC, 8) != 0)
        return error_corrupt(err, "the pack list does not begin with its mark");
    if (load_le32(p + 8) != LIST_VERSION) {
        int r = error_set(err, STATUS_FAILED, EPROTONOSUPPORT,
                          "the pack list has version %u; this program knows version %u",
                          load_le32(p + 8), LIST_VERSION);
        error_hint(err, "a newer stasis wrote it: update this one");
        return r;
    }
    *out = (struct pack_list_reader){p, length, LIST_HEADER_SIZE, load_le32(p + 12)};
    return 0;
}

int pack_list_next(struct pack_list_reader *reader, struct descriptor *pack_out,
                   struct pack_index **index_out, struct error *err)
{
    const uint8_t *entry = reader->data + reader->position;
    size_t available = reader->length - reader->position;
    struct descriptor pack;

    if (reader->left == 0)
        return error_corrupt(err, "the pack list has fewer packs than the image");
    if (available < ENTRY_TAIL)
        return error_corrupt(err, "the pack list ends at offset %zu, in the middle of an entry",
                             reader->length);
    uint64_t tail_bytes = load_le64(entry + ENTRY_TAIL_BYTES);
    if (tail_bytes > available - ENTRY_TAIL)
        return error_corrupt(err, "the pack list: the entry at offset %zu is longer than the list",
                             reader->position);
    pack.size = load_le64(entry + ENTRY_PACK_BYTES);
    memcpy(pack.digest.bytes, entry + ENTRY_DIGEST, DIGEST_SIZE);
    int r = pack_index_decode("in the pack list", pack.size, entry + ENTRY_HEADER,
                              entry + ENTRY_TAIL, (size_t)tail_bytes, index_out, err);
    if (r < 0)
        return r;
    *pack_out = pack;
    reader->position += ENTRY_TAIL + (size_t)tail_bytes;
    reader->left--;
    return 0;
}

int pack_list_end(const struct pack_list_reader *reader, struct error *err)
{
    if (reader->left > 0 || reader->position != reader->length)
        return error_corrupt(err, "the pack list has more in it than the image");
    return 0;
}
