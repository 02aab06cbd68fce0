/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "samples.h"

#include <errno.h>

static void the_root_is_no_higher_than_it_must_be(void **state)
{
    (void)state;
    assert_int_equal(map_root_level(0), 0);
    assert_int_equal(map_root_level(1), 0);
    assert_int_equal(map_root_level(32), 0);
    assert_int_equal(map_root_level(33), 1);
    assert_int_equal(map_root_level(32 * 16), 1);
    assert_int_equal(map_root_level(32 * 16 + 1), 2);
    assert_int_equal(map_root_level(UINT64_C(1) << 41), 9);
    assert_int_equal(map_root_level((UINT64_C(1) << 41) + 1), 10);
    assert_int_equal(map_root_level(MAP_PAGES_MAX), MAP_LEVEL_MAX);
    assert_int_equal(map_root_level(UINT64_MAX), MAP_LEVEL_MAX);
}

static void nodes_read_back(void **state)
{
    uint8_t bytes[MAP_NODE_MAX_SIZE];
    struct map_node node;
    struct map_node read;

    (void)state;
    sample_leaf(&node);
    size_t length = map_node_encode(&node, bytes);
    assert_int_equal(length, 8 + 3 * 16);
    assert_int_equal(map_node_decode(bytes, length, &read, NULL), 0);
    assert_memory_equal(&read, &node, sizeof(node));
    sample_inner(&node);
    length = map_node_encode(&node, bytes);
    assert_int_equal(length, 8 + 2 * 32);
    assert_int_equal(map_node_decode(bytes, length, &read, NULL), 0);
    assert_memory_equal(&read, &node, sizeof(node));
}

static void full_nodes_fill_the_buffer_exactly(void **state)
{
    uint8_t bytes[MAP_NODE_MAX_SIZE];
    struct map_node node = {.level = 1, .present = UINT16_MAX};
    struct map_node read;

    (void)state;
    for (unsigned i = 0; i < MAP_INNER_FANOUT; i++)
        node.children[i] = digest_of(&i, sizeof(i));
    assert_int_equal(map_node_encode(&node, bytes), MAP_NODE_MAX_SIZE);
    assert_int_equal(map_node_decode(bytes, sizeof(bytes), &read, NULL), 0);
    assert_memory_equal(&read, &node, sizeof(node));
    node = (struct map_node){.level = 0, .present = UINT32_MAX};
    for (unsigned i = 0; i < MAP_LEAF_FANOUT; i++)
        node.pages[i] = sample_ref(i + 1);
    assert_int_equal(map_node_encode(&node, bytes), MAP_NODE_MAX_SIZE);
    assert_int_equal(map_node_decode(bytes, sizeof(bytes), &read, NULL), 0);
    assert_memory_equal(&read, &node, sizeof(node));
}

static void an_empty_root_is_a_header(void **state)
{
    uint8_t bytes[MAP_NODE_MAX_SIZE];
    struct map_node node = {.level = 0};
    struct map_node read;

    (void)state;
    assert_int_equal(map_node_encode(&node, bytes), MAP_NODE_HEADER_SIZE);
    assert_int_equal(map_node_decode(bytes, MAP_NODE_HEADER_SIZE, &read, NULL), 0);
    assert_true(read.present == 0);
}

/* Entries that are not present must not leak into the bytes: same pages, same
 * SHA-256. */
static void absent_entries_do_not_change_the_bytes(void **state)
{
    uint8_t clean[MAP_NODE_MAX_SIZE];
    uint8_t dirty[MAP_NODE_MAX_SIZE];
    struct map_node node;

    (void)state;
    sample_leaf(&node);
    size_t length = map_node_encode(&node, clean);
    node.pages[7] = sample_ref(7);
    assert_int_equal(map_node_encode(&node, dirty), length);
    assert_memory_equal(clean, dirty, length);
}

static void nodes_laid_end_to_end_can_be_walked(void **state)
{
    uint8_t bytes[2 * MAP_NODE_MAX_SIZE];
    struct map_node node;

    (void)state;
    sample_leaf(&node);
    size_t first = map_node_encode(&node, bytes);
    sample_inner(&node);
    size_t second = map_node_encode(&node, bytes + first);
    assert_int_equal(map_node_length(bytes, first + second), first);
    assert_int_equal(map_node_length(bytes + first, second), second);
    assert_int_equal(map_node_length(bytes + first, second - 1), 0);
    assert_int_equal(map_node_length(bytes, MAP_NODE_HEADER_SIZE - 1), 0);
    assert_int_equal(map_node_length(bytes + 1, first - 1), 0);
}

static void expect(const uint8_t *bytes, size_t length, int result)
{
    struct map_node read = {.present = 42};
    struct error err = ERROR_INIT;

    assert_int_equal(map_node_decode(bytes, length, &read, &err), result);
    assert_true(err.message[0] != '\0');
    assert_true(read.present == 42);
}

static void every_wrong_field_is_refused(void **state)
{
    static const struct {
        size_t offset;
        uint8_t value;
        int result;
    } cases[] = {
        {0, 'T', -EBADMSG}, {1, 'N', -EBADMSG}, {2, 2, -EPROTONOSUPPORT}, {3, 11, -EBADMSG},
        {4, 1, -EBADMSG},   {7, 0, -EBADMSG},   {5, 7, -EBADMSG},         {3, 1, -EBADMSG},
    };
    uint8_t bytes[MAP_NODE_MAX_SIZE];
    struct map_node node;

    (void)state;
    sample_leaf(&node);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        size_t length = map_node_encode(&node, bytes);
        bytes[cases[i].offset] = cases[i].value;
        expect(bytes, length, cases[i].result);
    }
}

/* Of 16 children, the 17th. The length is what the bits say. */
static void a_child_beyond_the_last_is_refused(void **state)
{
    uint8_t bytes[MAP_NODE_MAX_SIZE];
    struct map_node node;

    (void)state;
    sample_inner(&node);
    size_t length = map_node_encode(&node, bytes);
    assert_int_equal(bytes[5], 1 << 2);
    bytes[5] = 0;
    bytes[6] = 1;
    expect(bytes, length, -EBADMSG);
}

static void every_wrong_length_is_refused(void **state)
{
    uint8_t bytes[MAP_NODE_MAX_SIZE] = {0};
    struct map_node node;

    (void)state;
    sample_leaf(&node);
    size_t length = map_node_encode(&node, bytes);
    for (size_t wrong = 0; wrong < MAP_NODE_MAX_SIZE; wrong++)
        if (wrong != length)
            expect(bytes, wrong, -EBADMSG);
}

static void a_zero_page_cannot_be_present(void **state)
{
    uint8_t bytes[MAP_NODE_MAX_SIZE];
    struct map_node node;

    (void)state;
    sample_leaf(&node);
    size_t length = map_node_encode(&node, bytes);
    memset(bytes + MAP_NODE_HEADER_SIZE + PAGE_REF_SIZE, 0, PAGE_REF_SIZE);
    expect(bytes, length, -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_root_is_no_higher_than_it_must_be),
        cmocka_unit_test(nodes_read_back),
        cmocka_unit_test(full_nodes_fill_the_buffer_exactly),
        cmocka_unit_test(an_empty_root_is_a_header),
        cmocka_unit_test(absent_entries_do_not_change_the_bytes),
        cmocka_unit_test(nodes_laid_end_to_end_can_be_walked),
        cmocka_unit_test(every_wrong_field_is_refused),
        cmocka_unit_test(a_child_beyond_the_last_is_refused),
        cmocka_unit_test(every_wrong_length_is_refused),
        cmocka_unit_test(a_zero_page_cannot_be_present),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
