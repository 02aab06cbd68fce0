/* SPDX-License-Identifier: Apache-2.0 */
/* The list of an artifact's packs, from a registry. */
#include "fuzz.h"

#include "base/cleanup.h"
#include "registry/pack_list.h"

#include <errno.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err = ERROR_INIT;
    struct pack_list_reader reader;

    int r = pack_list_read(data, size, &reader, &err);
    while (r == 0 && reader.left > 0) {
        struct pack_index *index = NULL;
        struct descriptor pack;
        size_t before = reader.position;
        r = pack_list_next(&reader, &pack, &index, &err);
        MUST(r < 0 || (reader.position > before && reader.position <= size));
        MUST(r < 0 || pack.size <= PACK_MAX_SIZE);
        pack_index_free(index);
    }
    MUST(r == 0 || r == -EBADMSG || r == -EPROTONOSUPPORT);
    if (r == 0)
        pack_list_end(&reader, NULL);
    return 0;
}
