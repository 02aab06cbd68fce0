/* SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include "imgfmt/map.h"

#include <errno.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t again[MAP_NODE_MAX_SIZE];
    struct error err = ERROR_INIT;
    struct map_node node;

    size_t length = map_node_length(data, size);
    MUST(length <= size && length <= MAP_NODE_MAX_SIZE);
    int r = map_node_decode(data, size, &node, &err);
    MUST(r == 0 || r == -EBADMSG || r == -EPROTONOSUPPORT);
    if (r < 0)
        return 0;
    /* Nodes are canonical. */
    MUST(length == size);
    MUST(map_node_encode(&node, again) == size);
    MUST(memcmp(again, data, size) == 0);
    return 0;
}
