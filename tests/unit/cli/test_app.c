/* SPDX-License-Identifier: Apache-2.0 */
/* Several operands at once, and the exit codes that come of it. */
#include "cli/app.h"

#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* Fails for names that begin with '-'. */
static int pretend(struct cli *cli, const char *name, void *context, struct error *err)
{
    (void)cli;
    (*(int *)context)++;
    if (name[0] != '-')
        return 0;
    return error_set(err, STATUS_NOT_FOUND, ENOENT, "no %s", name);
}

static int each(const char **names, size_t count, int *calls, struct error *err)
{
    struct cli cli = {0};
    const struct arguments args = {.operands = names, .operand_count = count};
    int saved = dup(STDERR_FILENO);
    int null = open("/dev/null", O_WRONLY);

    *err = ERROR_INIT;
    *calls = 0;
    dup2(null, STDERR_FILENO);
    int r = cli_each_operand(&cli, &args, pretend, calls, err);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(null);
    return r;
}

static void one_failure_of_one_is_that_failure(void **state)
{
    const char *names[] = {"-a"};
    struct error err;
    int calls;

    (void)state;
    assert_int_equal(each(names, 1, &calls, &err), -ENOENT);
    assert_int_equal(err.status, STATUS_NOT_FOUND);
}

static void all_are_tried_and_some_failing_is_partly(void **state)
{
    const char *names[] = {"a", "-b", "c"};
    struct error err;
    int calls;

    (void)state;
    assert_true(each(names, 3, &calls, &err) < 0);
    assert_int_equal(calls, 3);
    assert_int_equal(err.status, STATUS_PARTLY);
}

static void all_failing_is_the_failure(void **state)
{
    const char *names[] = {"-a", "-b"};
    struct error err;
    int calls;

    (void)state;
    assert_true(each(names, 2, &calls, &err) < 0);
    assert_int_equal(err.status, STATUS_NOT_FOUND);
}

static void all_well_is_well(void **state)
{
    const char *names[] = {"a", "b"};
    struct error err;
    int calls;

    (void)state;
    assert_int_equal(each(names, 2, &calls, &err), 0);
    assert_int_equal(err.status, STATUS_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_failure_of_one_is_that_failure),
        cmocka_unit_test(all_are_tried_and_some_failing_is_partly),
        cmocka_unit_test(all_failing_is_the_failure),
        cmocka_unit_test(all_well_is_well),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
