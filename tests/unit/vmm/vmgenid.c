/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "tests/unit/vmm/device_fixture.h"
#include "vmm/devices/platform.h"
#include "vmm/layout.h"

#include <errno.h>
#include <string.h>

enum { ID_SIZE = 16, GSI = 9 };

struct generation {
    struct memory *mem;
    struct irq_probe irq;
    struct device *dev;
};

static int setup(void **state)
{
    struct generation *g = calloc(1, sizeof(*g));
    struct irq_line line = irq_probe_line(&g->irq, GSI);

    assert_int_equal(memory_create(LAYOUT_MEMORY_MIN, &g->mem, NULL), 0);
    g->dev = vmgenid_create(g->mem, LAYOUT_VMGENID, &line);
    g->dev->ops->reset(g->dev);
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    struct generation *g = *state;

    g->dev->ops->destroy(g->dev);
    memory_free(g->mem);
    free(g);
    return 0;
}

static void read_id(struct generation *g, uint8_t id[ID_SIZE])
{
    assert_int_equal(memory_read(g->mem, LAYOUT_VMGENID, id, ID_SIZE), 0);
}

static void a_machine_that_boots_has_an_id(void **state)
{
    static const uint8_t none[ID_SIZE];
    struct generation *g = *state;
    uint8_t id[ID_SIZE];

    read_id(g, id);
    assert_memory_not_equal(id, none, ID_SIZE);
    g->dev->ops->resume(g->dev);
    assert_int_equal(irq_probe_take(&g->irq), 0);
}

static void a_save_leaves_the_id_as_it_is(void **state)
{
    struct generation *g = *state;
    uint8_t before[ID_SIZE], after[ID_SIZE];

    read_id(g, before);
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->dev);
    assert_true(saved.length > 0);
    g->dev->ops->resume(g->dev);
    read_id(g, after);
    assert_memory_equal(before, after, ID_SIZE);
    assert_int_equal(irq_probe_take(&g->irq), 0);
}

static void each_restore_makes_another_id(void **state)
{
    struct generation *g = *state;
    uint8_t ids[3][ID_SIZE];
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->dev);

    for (unsigned i = 0; i < ARRAY_LEN(ids); i++) {
        assert_int_equal(device_restore(g->dev, &saved, NULL), 0);
        read_id(g, ids[i]);
    }
    assert_memory_not_equal(ids[0], ids[1], ID_SIZE);
    assert_memory_not_equal(ids[0], ids[2], ID_SIZE);
    assert_memory_not_equal(ids[1], ids[2], ID_SIZE);
}

static void the_guest_is_told_once_and_when_it_runs(void **state)
{
    struct generation *g = *state;
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->dev);

    assert_int_equal(device_restore(g->dev, &saved, NULL), 0);
    assert_int_equal(irq_probe_take(&g->irq), 0);
    g->dev->ops->resume(g->dev);
    assert_int_equal(irq_probe_take(&g->irq), 1);
    assert_int_equal(g->irq.gsi, GSI);
    g->dev->ops->resume(g->dev);
    assert_int_equal(irq_probe_take(&g->irq), 0);
}

/* Or an incremental checkpoint would have the id of another machine. */
static void a_new_id_counts_as_written(void **state)
{
    struct generation *g = *state;
    uint64_t page = memory_page_of(g->mem, LAYOUT_VMGENID);
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->dev);

    memset(g->mem->device_dirty, 0, g->mem->dirty_words * sizeof(uint64_t));
    assert_int_equal(device_restore(g->dev, &saved, NULL), 0);
    assert_true((g->mem->device_dirty[page / 64] >> (page % 64) & 1) != 0);
}

static void its_record_says_where_the_id_is(void **state)
{
    static const uint8_t golden_v1[] = {0x00, 0xf0, 0x0e, 0, 0, 0, 0, 0};
    struct generation *g = *state;

    device_assert_payload(g->dev, golden_v1, sizeof(golden_v1));
}

static void an_id_elsewhere_is_found_there(void **state)
{
    static const uint8_t none[ID_SIZE];
    struct generation *g = *state;
    uint8_t before[ID_SIZE], after[ID_SIZE];
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->dev);

    read_id(g, before);
    store_le64(device_payload(&saved), 0xe8008);
    assert_int_equal(device_restore(g->dev, &saved, NULL), 0);
    read_id(g, after);
    assert_memory_equal(before, after, ID_SIZE);
    assert_memory_not_equal(memory_at(g->mem, 0xe8008, ID_SIZE), none, ID_SIZE);
    _cleanup_(buffer_clear) struct buffer again = device_save(g->dev);
    assert_memory_equal(saved.data, again.data, saved.length);
}

static void refuses_a_place_that_cannot_be(void **state)
{
    struct generation *g = *state;

    device_assert_refuses(g->dev, 0, 0x04); /* not aligned */
    device_assert_refuses(g->dev, 4, 0x01); /* not in RAM */
    device_assert_refuses(g->dev, 7, 0xff);
}

static void refuses_a_record_that_is_too_new(void **state)
{
    struct generation *g = *state;
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->dev);

    device_set_version(&saved, 2);
    assert_int_equal(device_restore(g->dev, &saved, NULL), -EPROTONOSUPPORT);
}

static struct buffer state_without_records(void)
{
    struct state_writer w;
    struct buffer out = {0};

    state_writer_init(&w);
    assert_int_equal(state_writer_finish(&w, &out), 0);
    return out;
}

static void a_checkpoint_from_before_there_were_ids_restores(void **state)
{
    struct generation *g = *state;
    uint8_t before[ID_SIZE], after[ID_SIZE];
    _cleanup_(buffer_clear) struct buffer old = state_without_records();

    read_id(g, before);
    assert_int_equal(device_restore(g->dev, &old, NULL), 0);
    g->dev->ops->resume(g->dev);
    read_id(g, after);
    assert_memory_equal(before, after, ID_SIZE);
    assert_int_equal(irq_probe_take(&g->irq), 0);
    _cleanup_(buffer_clear) struct buffer again = device_save(g->dev);
    assert_int_equal(again.length, old.length);
}

static void a_machine_that_boots_after_such_a_checkpoint_has_one_again(void **state)
{
    struct generation *g = *state;
    _cleanup_(buffer_clear) struct buffer saved = device_save(g->dev);
    _cleanup_(buffer_clear) struct buffer old = state_without_records();

    assert_int_equal(device_restore(g->dev, &old, NULL), 0);
    g->dev->ops->reset(g->dev);
    _cleanup_(buffer_clear) struct buffer again = device_save(g->dev);
    assert_int_equal(again.length, saved.length);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_machine_that_boots_has_an_id),
        TEST(a_save_leaves_the_id_as_it_is),
        TEST(each_restore_makes_another_id),
        TEST(the_guest_is_told_once_and_when_it_runs),
        TEST(a_new_id_counts_as_written),
        TEST(its_record_says_where_the_id_is),
        TEST(an_id_elsewhere_is_found_there),
        TEST(refuses_a_place_that_cannot_be),
        TEST(refuses_a_record_that_is_too_new),
        TEST(a_checkpoint_from_before_there_were_ids_restores),
        TEST(a_machine_that_boots_after_such_a_checkpoint_has_one_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
