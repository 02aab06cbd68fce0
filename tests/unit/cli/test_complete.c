/* SPDX-License-Identifier: Apache-2.0 */
/* What is offered behind the words that are there. */
#include "cli/complete.h"

#include "base/bytes.h"

#include "test.h"

#include <stdio.h>
#include <string.h>

/* All candidates, a space behind each. */
struct offered {
    char text[16384];
};

static void add(const char *candidate, const char *help, void *context)
{
    struct offered *o = context;
    const size_t used = strlen(o->text);

    (void)help;
    snprintf(o->text + used, sizeof(o->text) - used, "%s ", candidate);
}

static void some_names(const struct complete *c, enum completion kind)
{
    if (kind != COMPLETE_IMAGE)
        complete_offer(c, "web", NULL);
    if (kind == COMPLETE_REFERENCE)
        complete_offer(c, "web@one", NULL);
    if (kind != COMPLETE_MACHINE)
        complete_offer(c, "debian:12", NULL);
}

static void assert_offered(const char *const *words, size_t count, const char *wanted)
{
    struct offered offered = {0};
    struct complete c = {.add = add, .names = some_names, .context = &offered};

    complete_words(&c, words, count);
    assert_string_equal(offered.text, wanted);
}

#define OFFERED(wanted, ...)                                                                       \
    do {                                                                                           \
        const char *const words[] = {__VA_ARGS__};                                                 \
        assert_offered(words, ARRAY_LEN(words), wanted);                                           \
    } while (0)

static void verbs_come_first(void **state)
{
    (void)state;
    OFFERED("history ", "his");
    OFFERED("push pull ", "pu");
    OFFERED("", "machine-pro"); /* hidden */
    OFFERED("history ", "--home", "/x", "his");
    OFFERED("history ", "help", "his");
}

static void options_are_those_of_the_verb(void **state)
{
    (void)state;
    OFFERED("--stop ", "save", "--s");
    OFFERED("--stop ", "save", "web", "--s");
    OFFERED("--home ", "save", "--ho");
    OFFERED("", "save", "--", "--s"); /* a name now */
    OFFERED("", "nonsense", "--s");
}

static void values_are_what_the_option_takes(void **state)
{
    (void)state;
    OFFERED("continue host ", "clone", "web@one", "--clock", "");
    OFFERED("host ", "clone", "--clock", "h");
    OFFERED("user tap= none ", "run", "--net", "");
    OFFERED(COMPLETE_LINE_FILE " ", "run", "--kernel", "");
    OFFERED("", "run", "--name", "");
    OFFERED("", "clone", "-n", "");
}

static void operands_are_counted_without_options_and_their_values(void **state)
{
    (void)state;
    OFFERED("web ", "save", "");
    OFFERED("web web@one ", "clone", "--clock", "host", "w");
    OFFERED("", "clone", "web@one", ""); /* a new name */
    OFFERED("", "clone", "web@one", "--clock", "host", "");
    OFFERED("web ", "kill", "a", "b", "c", "w"); /* as many as one likes */
    OFFERED("debian:12 ", "tag", "web@one", "--replace", "");
    OFFERED(COMPLETE_LINE_DIRECTORY " ", "mount", "");
    OFFERED("", "ls", "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(verbs_come_first),
        cmocka_unit_test(options_are_those_of_the_verb),
        cmocka_unit_test(values_are_what_the_option_takes),
        cmocka_unit_test(operands_are_counted_without_options_and_their_values),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
