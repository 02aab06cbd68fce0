/* SPDX-License-Identifier: Apache-2.0 */
/* A stream that wants to enter a store. Its checks and digest are put right first,
 * as a sender who lies would do. */
#include "fuzz.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/digest.h"
#include "base/io.h"
#include "store/stream.h"

#include <errno.h>
#include <sys/mman.h>

enum { HEADER = 16, RECORD_HEADER = 16, CHECK = 8, END = 5, SIZE_MAX_FUZZ = 1 << 20 };

static char dir[] = "/tmp/stasis-fuzz-XXXXXX";
static struct store *store;

static void remove_store(void)
{
    store_close(store);
    io_remove_tree(dir);
}

static void open_store(void)
{
    if (store != NULL)
        return;
    MUST(mkdtemp(dir) != NULL);
    MUST(store_open(dir, true, &store, NULL) == 0);
    atexit(remove_store);
}

static void sign_again(uint8_t *stream, size_t size)
{
    memcpy(stream, "STASTREM\1\0\0\0\0\0\0\0", HEADER);
    for (size_t at = HEADER; size - at >= RECORD_HEADER + CHECK;) {
        uint64_t length = load_le64(stream + at + 8);
        size_t room = size - at - RECORD_HEADER - CHECK;
        if (length > room)
            return;
        if (load_le32(stream + at) == END && length == 24 + DIGEST_SIZE) {
            struct digest all = digest_of(stream, at);
            memcpy(stream + at + RECORD_HEADER + 24, all.bytes, DIGEST_SIZE);
        }
        at += RECORD_HEADER + (size_t)length;
        struct digest so_far = digest_of(stream, at);
        memcpy(stream + at, so_far.bytes, CHECK);
        at += CHECK;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_free_ uint8_t *stream = malloc(size + 1);
    _cleanup_close_ int fd = memfd_create("stream", MFD_CLOEXEC);
    struct error err = ERROR_INIT;
    struct stream_result result;

    open_store();
    if (size < HEADER || size > SIZE_MAX_FUZZ)
        return 0;
    MUST(stream != NULL && fd >= 0);
    memcpy(stream, data, size);
    sign_again(stream, size);
    MUST(io_pwrite_full(fd, stream, size, 0) == 0);
    int r = stream_receive(store, fd, NULL, NULL, false, NULL, NULL, &result, &err);
    MUST(r == 0 || r == -EBADMSG || r == -EPROTONOSUPPORT);
    MUST((r == 0) == (err.message[0] == '\0'));
    return 0;
}
