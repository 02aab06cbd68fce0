/* SPDX-License-Identifier: Apache-2.0 */
/* What checkpoints take: alone, and together with others. */
#include "helper.h"

#include "base/cleanup.h"
#include "imgfmt/page.h"

#include <string.h>

enum { PAGE = STASIS_PAGE_SIZE };

static struct checkpoint_usage usage_of(struct store *store, const struct digest *id)
{
    struct checkpoint_usage usage;
    struct manifest m;
    struct error err = ERROR_INIT;

    must(catalogue_manifest_read(store, id, &m, &err), &err);
    must(store_usage_checkpoint(store, id, &m, &usage, &err), &err);
    return usage;
}

static void what_others_have_too_is_not_unique(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(300, 1);
    const struct digest a = commit_disk(f->store, data, 200 * PAGE, NULL, NULL);

    assert_int_equal(usage_of(f->store, &a).logical_bytes, 200 * PAGE);
    assert_int_equal(usage_of(f->store, &a).unique_bytes, 200 * PAGE);
    /* 150 pages in common, at other places. */
    const struct digest b = commit_disk(f->store, data + 50 * PAGE, 250 * PAGE, NULL, NULL);
    assert_int_equal(usage_of(f->store, &a).unique_bytes, 50 * PAGE);
    assert_int_equal(usage_of(f->store, &b).unique_bytes, 100 * PAGE);
    assert_int_equal(usage_of(f->store, &b).spaces[0].logical_bytes, 250 * PAGE);
    assert_int_equal(usage_of(f->store, &b).spaces[0].unique_bytes, 100 * PAGE);
}

static void zeros_take_nothing_and_copies_count_once(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ uint8_t *data = make_pages(30, 1);

    memset(data + 10 * PAGE, 0, 10 * PAGE);
    memcpy(data + 20 * PAGE, data, 10 * PAGE);
    const struct digest id = commit_disk(f->store, data, 30 * PAGE, NULL, NULL);
    assert_int_equal(usage_of(f->store, &id).logical_bytes, 20 * PAGE);
    assert_int_equal(usage_of(f->store, &id).unique_bytes, 10 * PAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_others_have_too_is_not_unique),
        TEST(zeros_take_nothing_and_copies_count_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
