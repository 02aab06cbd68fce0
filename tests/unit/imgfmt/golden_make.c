/* SPDX-License-Identifier: Apache-2.0 */
/* Writes the samples as golden files. Those in tests/golden were made once and
 * stay: what a released version wrote must be read for ever. */
#include "base/cleanup.h"
#include "base/io.h"
#include "samples.h"

#include <fcntl.h>

static void save(const char *dir, const char *name, const void *data, size_t length)
{
    _cleanup_free_ char *path = io_format("%s/%s", dir, name);

    if (access(path, F_OK) == 0) {
        printf("%s is there already, kept\n", path);
        return;
    }
    if (io_write_file(AT_FDCWD, path, data, length, 0644) < 0)
        abort();
}

static void save_manifest(const char *dir, const char *name, const struct manifest *m)
{
    _cleanup_free_ char *text = NULL;
    size_t length;

    if (manifest_encode(m, &text, &length) < 0)
        abort();
    save(dir, name, text, length);
}

static void save_node(const char *dir, const char *name, const struct map_node *node)
{
    uint8_t bytes[MAP_NODE_MAX_SIZE];

    save(dir, name, bytes, map_node_encode(node, bytes));
}

static void save_pack(const char *dir, const char *name, int fd)
{
    _cleanup_close_ int pack = fd;
    _cleanup_(buffer_clear) struct buffer bytes = {0};

    sample_contents(pack, &bytes);
    save(dir, name, bytes.data, bytes.length);
}

int main(int argc, char **argv)
{
    _cleanup_(buffer_clear) struct buffer state = {0};
    struct manifest m;
    struct map_node node;

    if (argc != 2)
        return 2;
    sample_cold(&m);
    save_manifest(argv[1], "manifest-1-cold.json", &m);
    sample_warm(&m);
    save_manifest(argv[1], "manifest-1-warm.json", &m);
    sample_net(&m);
    save_manifest(argv[1], "manifest-1-net.json", &m);
    sample_vsock(&m);
    save_manifest(argv[1], "manifest-1-vsock.json", &m);
    sample_cpu(&m);
    save_manifest(argv[1], "manifest-1-cpu.json", &m);
    sample_leaf(&node);
    save_node(argv[1], "map-1-leaf.node", &node);
    sample_inner(&node);
    save_node(argv[1], "map-1-inner.node", &node);
    if (sample_state(&state) < 0)
        abort();
    save(argv[1], "state-1.state", state.data, state.length);
    save_pack(argv[1], "pack-1-pages.pack", sample_pages_pack());
    save_pack(argv[1], "pack-1-nodes.pack", sample_nodes_pack());
    save_pack(argv[1], "pack-1-parity.pack", sample_protected_pack());
    return 0;
}
