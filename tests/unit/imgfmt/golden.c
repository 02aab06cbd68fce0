/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* The files in tests/golden were written once. They must read as what they were
 * then; and what has one spelling only must still be written like that. */
#include "base/cleanup.h"
#include "base/io.h"
#include "imgfmt/pack_mend.h"
#include "imgfmt/state.h"
#include "samples.h"

#include <fcntl.h>

DEFINE_CLEANUP(struct pack_index, pack_index_free)

static void load(const char *name, struct buffer *out)
{
    _cleanup_free_ char *path = io_format("%s/%s", GOLDEN_DIR, name);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        fail_msg("no %s", path);
    sample_contents(fd, out);
}

static void check_manifest(const char *name, const struct manifest *want, const char *id)
{
    _cleanup_(buffer_clear) struct buffer golden = {0};
    _cleanup_free_ char *text = NULL;
    struct error err = ERROR_INIT;
    struct manifest read;
    struct digest digest;
    char hex[DIGEST_HEX_SIZE];
    size_t length;

    load(name, &golden);
    if (manifest_decode((char *)golden.data, golden.length, &read, &err) < 0)
        fail_msg("%s", err.message);
    assert_int_equal(manifest_encode(want, &text, &length), 0);
    assert_int_equal(length, golden.length);
    assert_memory_equal(text, golden.data, length);
    assert_int_equal(manifest_id(&read, &digest), 0);
    assert_string_equal(digest_hex(&digest, hex), id);
}

static void manifests_of_schema_1(void **state)
{
    struct manifest m;

    (void)state;
    sample_cold(&m);
    check_manifest("manifest-1-cold.json", &m,
                   "65b673e18c7865312332f15ec80f1edbf012521e5449e63844e34d2389f6a05d");
    sample_warm(&m);
    check_manifest("manifest-1-warm.json", &m,
                   "0134a6662abc1c587a5efb57f7a86a2e3320083e77e7fad3d4dd4a8b78b77a42");
    sample_net(&m);
    check_manifest("manifest-1-net.json", &m,
                   "7e8906a64c557593330d261e204b46ba68af63bbd75a3b89fda75f6c375520c5");
    sample_vsock(&m);
    check_manifest("manifest-1-vsock.json", &m,
                   "6b235d5c266090884892ce68791a4ff18dc1dd55918063c567d9e072f5b86747");
    sample_cpu(&m);
    check_manifest("manifest-1-cpu.json", &m,
                   "8191583b0e3cabb8b486de06300a7abc6c3809aee159db9511c48dfa7c369b94");
}

static void check_node(const char *name, const struct map_node *want)
{
    _cleanup_(buffer_clear) struct buffer golden = {0};
    uint8_t bytes[MAP_NODE_MAX_SIZE];
    struct map_node read;

    load(name, &golden);
    assert_int_equal(map_node_decode(golden.data, golden.length, &read, NULL), 0);
    assert_memory_equal(&read, want, sizeof(read));
    assert_int_equal(map_node_encode(want, bytes), golden.length);
    assert_memory_equal(bytes, golden.data, golden.length);
}

static void map_nodes_of_version_1(void **state)
{
    struct map_node node;

    (void)state;
    sample_leaf(&node);
    check_node("map-1-leaf.node", &node);
    sample_inner(&node);
    check_node("map-1-inner.node", &node);
}

static void device_state_of_format_1(void **state)
{
    _cleanup_(buffer_clear) struct buffer golden = {0};
    _cleanup_(buffer_clear) struct buffer made = {0};

    (void)state;
    load("state-1.state", &golden);
    assert_int_equal(state_check(golden.data, golden.length, NULL), 0);
    assert_int_equal(sample_state(&made), 0);
    assert_int_equal(made.length, golden.length);
    assert_memory_equal(made.data, golden.data, made.length);
}

/* Another zstd may compress otherwise, and ids are random: packs are only read. */
static struct pack_index *open_pack(const char *name, int *fd_out)
{
    _cleanup_(buffer_clear) struct buffer golden = {0};
    struct error err = ERROR_INIT;
    struct pack_index *index = NULL;

    load(name, &golden);
    *fd_out = sample_file(golden.data, golden.length);
    if (pack_index_read(*fd_out, name, &index, &err) < 0)
        fail_msg("%s", err.message);
    return index;
}

static void check_page_group(int fd, const struct pack_index *index, uint32_t group,
                             const uint32_t *seeds)
{
    const struct pack_group *g = &index->groups[group];
    uint8_t raw[SAMPLE_PACK_PAGES * STASIS_PAGE_SIZE];
    uint8_t want[STASIS_PAGE_SIZE];

    assert_int_equal(pack_group_read(fd, "golden", index, group, raw, NULL), 0);
    assert_int_equal(pack_group_check_digest("golden", g, raw, NULL), 0);
    for (uint32_t i = 0; i < g->object_count; i++) {
        sample_page(seeds[i], want);
        assert_memory_equal(raw + i * STASIS_PAGE_SIZE, want, sizeof(want));
        assert_true(page_ref_equal(page_ref_load(index->objects[g->first_object + i].bytes),
                                   sample_ref(seeds[i] + 1)));
    }
}

static void pages_pack_of_version_1(void **state)
{
    _cleanup_close_ int fd = -1;
    _cleanup_(pack_index_freep) struct pack_index *index = open_pack("pack-1-pages.pack", &fd);

    (void)state;
    assert_int_equal(index->group_count, SAMPLE_PACK_GROUPS);
    assert_int_equal(index->object_count, SAMPLE_PACK_PAGES);
    check_page_group(fd, index, 0, (const uint32_t[]){0, 2, 4, 6});
    check_page_group(fd, index, 1, (const uint32_t[]){1});
}

static void nodes_pack_of_version_1(void **state)
{
    _cleanup_close_ int fd = -1;
    _cleanup_(pack_index_freep) struct pack_index *index = open_pack("pack-1-nodes.pack", &fd);
    uint8_t raw[2 * MAP_NODE_MAX_SIZE];
    struct map_node want;
    struct map_node read;

    (void)state;
    assert_int_equal(index->kind, PACK_NODES);
    assert_int_equal(pack_group_read(fd, "golden", index, 0, raw, NULL), 0);
    size_t first = map_node_length(raw, index->groups[0].raw_bytes);
    assert_int_equal(map_node_decode(raw, first, &read, NULL), 0);
    sample_leaf(&want);
    assert_memory_equal(&read, &want, sizeof(read));
    assert_int_equal(map_node_decode(raw + first, index->groups[0].raw_bytes - first, &read, NULL),
                     0);
    sample_inner(&want);
    assert_memory_equal(&read, &want, sizeof(read));
}

/* The parity of a released version must still say what it said. */
static void parity_of_version_1(void **state)
{
    _cleanup_(buffer_clear) struct buffer golden = {0};
    struct pack_mend *m;
    size_t damaged, length;

    (void)state;
    load("pack-1-parity.pack", &golden);
    uint8_t *copy = malloc(golden.length);
    assert_non_null(copy);
    memcpy(copy, golden.data, golden.length);
    memset(copy + 1000, 0x5a, 1000);
    assert_int_equal(pack_mend_begin("golden", copy, golden.length, &m, NULL), 0);
    assert_true(pack_mend_is_whole(m));
    pack_mend_damage(m, &damaged);
    assert_true(damaged > 0);
    assert_memory_equal(pack_mend_bytes(m, &length), golden.data, golden.length);
    pack_mend_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(manifests_of_schema_1),    cmocka_unit_test(map_nodes_of_version_1),
        cmocka_unit_test(device_state_of_format_1), cmocka_unit_test(pages_pack_of_version_1),
        cmocka_unit_test(nodes_pack_of_version_1),  cmocka_unit_test(parity_of_version_1),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
