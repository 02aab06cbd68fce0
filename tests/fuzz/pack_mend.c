/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mending twice: the input as a pack, whatever it is; and the input as damage to a
 * good pack, each 4 bytes of it an offset (2 bytes), a length and a value. What is
 * decoded of that pack is what was put into it.
 */
#include "fuzz.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "imgfmt/pack_mend.h"

#include <sys/mman.h>

enum { PAGES = 12, SIZE_MAX_BYTES = 1 << 17 };

static uint8_t good[SIZE_MAX_BYTES];
static size_t good_size;

/* Every other page compresses. */
static void page_of(unsigned n, uint8_t page[STASIS_PAGE_SIZE])
{
    uint32_t state = n + 1;

    for (size_t i = 0; i < STASIS_PAGE_SIZE; i++) {
        state = state * 1664525 + 1013904223;
        page[i] = (uint8_t)(n % 2 == 0 ? n + 1 : state >> 24);
    }
}

static void make_good(void)
{
    _cleanup_close_ int fd = memfd_create("pack", MFD_CLOEXEC);
    uint8_t page[STASIS_PAGE_SIZE];
    struct pack_writer *w;
    uint32_t group;

    MUST(fd >= 0 && pack_writer_open(fd, PACK_PAGES, 1, &w, NULL) == 0);
    MUST(pack_writer_protect(w, NULL) == 0);
    for (unsigned i = 0; i < PAGES; i++) {
        struct pack_object_id id;

        page_of(i, page);
        page_ref_store(page_ref_of(page), id.bytes);
        MUST(pack_writer_group(w, page, sizeof(page), &id, 1, &group, NULL) == 0);
    }
    MUST(pack_writer_finish(w, NULL) == 0);
    pack_writer_free(w);
    good_size = (size_t)lseek(fd, 0, SEEK_END);
    MUST(good_size <= sizeof(good) && io_pread_full(fd, good, good_size, 0) == 0);
}

static struct pack_mend *mend(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size + 1);
    struct pack_mend *m;

    MUST(copy != NULL);
    memcpy(copy, data, size);
    return pack_mend_begin("f", copy, size, &m, NULL) == 0 ? m : NULL;
}

static void mend_anything(const uint8_t *data, size_t size)
{
    struct pack_mend *m = mend(data, size);
    _cleanup_free_ uint8_t *raw = malloc(PACK_GROUP_RAW_MAX);

    MUST(raw != NULL);
    for (uint32_t i = 0; m != NULL && i < pack_mend_index(m)->group_count; i++)
        pack_mend_group(m, i, raw, NULL);
    pack_mend_free(m);
}

static void mend_damage(const uint8_t *data, size_t size)
{
    _cleanup_free_ uint8_t *pack = malloc(good_size);
    uint8_t raw[STASIS_PAGE_SIZE], want[STASIS_PAGE_SIZE];
    struct pack_mend *m;
    size_t length;

    MUST(pack != NULL);
    memcpy(pack, good, good_size);
    for (size_t i = 0; i + 4 <= size && i < 400; i += 4) {
        size_t at = load_le16(data + i) % good_size;

        memset(pack + at, data[i + 3], (size_t)min_u64(data[i + 2], good_size - at));
    }
    m = mend(pack, good_size);
    for (uint32_t i = 0; m != NULL && i < PAGES; i++) {
        page_of(i, want);
        if (pack_mend_group(m, i, raw, NULL) == 0)
            MUST(memcmp(raw, want, sizeof(raw)) == 0);
    }
    if (m != NULL && pack_mend_is_whole(m))
        MUST(memcmp(pack_mend_bytes(m, &length), good, good_size) == 0 && length == good_size);
    pack_mend_free(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (good_size == 0)
        make_good();
    mend_anything(data, size);
    mend_damage(data, size);
    return 0;
}
