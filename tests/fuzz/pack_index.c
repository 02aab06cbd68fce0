/* SPDX-License-Identifier: Apache-2.0 */
/* A whole pack. It is read as it is, and once more with magic numbers, the place
 * of the footer and the checksum put right, which no fuzzer would guess. */
#include "fuzz.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "imgfmt/pack.h"

#include <errno.h>
#include <xxhash.h>

DEFINE_CLEANUP(struct pack_index, pack_index_free)

static void read_groups(const struct pack_index *index, const uint8_t *data, size_t size)
{
    _cleanup_free_ uint8_t *raw = malloc(PACK_GROUP_RAW_MAX);
    uint64_t offset = PACK_HEADER_SIZE;
    uint32_t object = 0;

    MUST(raw != NULL);
    for (uint32_t i = 0; i < index->group_count; i++) {
        const struct pack_group *g = &index->groups[i];
        MUST(g->offset == offset && range_fits(offset, g->stored_bytes, size));
        MUST(g->raw_bytes <= PACK_GROUP_RAW_MAX);
        MUST(g->first_object == object);
        offset += g->stored_bytes;
        object += g->object_count;
        if (pack_group_decode("f", g, data + g->offset, raw, NULL) == 0)
            pack_group_check_digest("f", g, raw, NULL);
    }
    MUST(object == index->object_count);
}

static void read_pack(const uint8_t *data, size_t size)
{
    _cleanup_(pack_index_freep) struct pack_index *index = NULL;
    struct error err = ERROR_INIT;
    uint64_t footer;

    if (size < PACK_HEADER_SIZE + PACK_TRAILER_SIZE)
        return;
    if (pack_footer_offset("f", size, data + size - PACK_TRAILER_SIZE, &footer, &err) < 0)
        return;
    MUST(footer >= PACK_HEADER_SIZE && footer <= size - PACK_TRAILER_SIZE);
    int r = pack_index_decode("f", size, data, data + footer, size - (size_t)footer, &index, &err);
    MUST(r == 0 || r == -EBADMSG || r == -EPROTONOSUPPORT);
    if (r == 0)
        read_groups(index, data, size);
}

/* Keeps the counts: they decide where the footer begins. */
static void repair(uint8_t *pack, size_t size)
{
    uint8_t *trailer = pack + size - PACK_TRAILER_SIZE;
    uint64_t footer =
        (uint64_t)load_le32(trailer + 16) * 60 + (uint64_t)load_le32(trailer + 20) * 16;
    uint64_t room = size - PACK_HEADER_SIZE - PACK_TRAILER_SIZE;

    memcpy(pack, "STASPACK", 8);
    memcpy(trailer + 48, "STASPEND", 8);
    if (footer > room)
        return;
    store_le64(trailer, size - PACK_TRAILER_SIZE - footer);
    store_le64(trailer + 8, footer);
    store_le32(trailer + 28, 0);
    XXH3_state_t *sum = XXH3_createState();
    MUST(sum != NULL);
    XXH3_64bits_reset(sum);
    XXH3_64bits_update(sum, pack, PACK_HEADER_SIZE);
    XXH3_64bits_update(sum, trailer - footer, footer);
    XXH3_64bits_update(sum, trailer, 40);
    store_le64(trailer + 40, XXH3_64bits_digest(sum));
    XXH3_freeState(sum);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    read_pack(data, size);
    if (size < PACK_HEADER_SIZE + PACK_TRAILER_SIZE)
        return 0;
    _cleanup_free_ uint8_t *copy = malloc(size);
    MUST(copy != NULL);
    memcpy(copy, data, size);
    repair(copy, size);
    read_pack(copy, size);
    return 0;
}
