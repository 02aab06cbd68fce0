/* SPDX-License-Identifier: Apache-2.0 */
/* A file of the index. It is read as it is, and once more with its checksums put
 * right, which no fuzzer would guess. */
#include "fuzz.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "store/run.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <xxhash.h>

enum { SEARCHES = 64, STEPS_MAX = 1 << 20 };

DEFINE_CLEANUP(struct run, run_free)

/* Whatever the slots say, what is found lies in a pack of the list. */
static void search(struct run *run)
{
    for (uint64_t i = 0; i < SEARCHES; i++) {
        struct run_cursor c = run_find(run, i * (UINT64_MAX / SEARCHES));
        uint32_t pack, object;
        unsigned steps = 0;
        int r;

        while ((r = run_next(run, &c, &pack, &object)) == 1 && steps++ < STEPS_MAX)
            MUST(pack < run->pack_count && object < run->packs[pack].objects);
        MUST(r == 0 || r == -EBADMSG);
    }
}

static void read_run(const uint8_t *data, size_t size)
{
    _cleanup_(run_freep) struct run *run = NULL;
    _cleanup_close_ int fd = memfd_create("run", MFD_CLOEXEC);
    _cleanup_free_ char *path = io_format("/proc/self/fd/%d", fd);
    struct error err = ERROR_INIT;
    uint64_t offset;

    MUST(fd >= 0 && io_pwrite_full(fd, data, size, 0) == 0);
    int r = run_open_fd(dup(fd), path, &run, &err);
    MUST(r == 0 || r == -EBADMSG || r == -ENOMEM);
    if (r < 0)
        return;
    for (int64_t seq = -1; seq < 4; seq++)
        run_pack_of(run, seq);
    search(run);
    r = run_check(run, &offset, &err);
    MUST(r == 0 || (r == -EBADMSG && offset < size));
}

/* Keeps the counts: they decide where all else lies. */
static void repair(uint8_t *data, size_t size)
{
    uint64_t slots = load_le64(data + 24);
    uint64_t offset = align_up(64 + (uint64_t)load_le32(data + 12) * 32, 4096);
    uint64_t sums = offset + slots * 8;

    memcpy(data, "STASINDX\1\0\0\0", 12);
    memset(data + 48, 0, 8);
    if (slots > size || slots % RUN_CHUNK_SLOTS != 0 || offset > size ||
        sums + slots / RUN_CHUNK_SLOTS * 8 != size)
        return;
    for (uint64_t i = 0; i < slots / RUN_CHUNK_SLOTS; i++)
        store_le64(data + sums + i * 8, XXH3_64bits(data + offset + i * 4096, 4096));
    XXH3_state_t *sum = XXH3_createState();
    MUST(sum != NULL);
    XXH3_64bits_reset(sum);
    XXH3_64bits_update(sum, data, offset);
    XXH3_64bits_update(sum, data + sums, size - sums);
    store_le64(data + 48, XXH3_64bits_digest(sum));
    XXH3_freeState(sum);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    read_run(data, size);
    if (size < 64)
        return 0;
    _cleanup_free_ uint8_t *copy = malloc(size);
    MUST(copy != NULL);
    memcpy(copy, data, size);
    repair(copy, size);
    read_run(copy, size);
    return 0;
}
