/* SPDX-License-Identifier: Apache-2.0 */
/* The parser, on a verb of its own. */
#include "cli/command.h"

#include "test.h"

#include <string.h>

static const char *const colors[] = {"red", "green", "rgb=", NULL};

static const struct option_spec options[] = {
    {.name = "force", .letter = 'f'},
    {.name = "quiet", .letter = 'q'},
    {.name = "name", .letter = 'n', .type = OPTION_TEXT, .value = "NAME"},
    {.name = "disk", .type = OPTION_TEXT, .repeats = true},
    {.name = "memory", .type = OPTION_SIZE, .min = 4096, .max = 1ull << 40},
    {.name = "cpus", .type = OPTION_NUMBER, .min = 1, .max = 16},
    {.name = "timeout", .type = OPTION_DURATION},
    {.name = "color", .type = OPTION_CHOICE, .choices = colors},
    {0},
};

static const struct command verb = {
    .name = "verb",
    .usage = "verb A [B]",
    .options = options,
    .operands = {{.name = "A"}, {.name = "B", .optional = true}},
};

static const struct command many = {
    .name = "many",
    .usage = "many A...",
    .operands = {{.name = "A", .repeats = true}},
};

static const struct command *const commands[] = {&verb, &many, NULL};
const struct command_group command_groups[] = {{"All", commands}, {NULL, NULL}};

struct fixture {
    struct arguments args;
    struct error err;
};

static int parse(struct fixture *f, const struct command *command, const char *const *words)
{
    int argc = 0;

    arguments_clear(&f->args);
    f->err = ERROR_INIT;
    while (words[argc] != NULL)
        argc++;
    return arguments_parse(command, argc, (char **)words, &f->args, &f->err);
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static int set_up(void **state)
{
    static struct fixture fixture;

    *state = &fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    arguments_clear(&f->args);
    return 0;
}

static void assert_usage_error(struct fixture *f, const char *const *words, const char *about)
{
    assert_true(parse(f, &verb, words) < 0);
    assert_int_equal(f->err.status, STATUS_USAGE);
    assert_non_null(strstr(f->err.message, about));
    assert_true(f->err.hint[0] != '\0');
}

static void options_and_operands_come_in_any_order(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(parse(f, &verb, WORDS("one", "-f", "two", "--name", "x")), 0);
    assert_int_equal(f->args.operand_count, 2);
    assert_string_equal(arguments_operand(&f->args, 0), "one");
    assert_string_equal(arguments_operand(&f->args, 1), "two");
    assert_null(arguments_operand(&f->args, 2));
    assert_true(arguments_has(&f->args, "force"));
    assert_false(arguments_has(&f->args, "quiet"));
    assert_string_equal(arguments_text(&f->args, "name", NULL), "x");
}

static void values_may_be_attached(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(parse(f, &verb, WORDS("a", "--name=x=y")), 0);
    assert_string_equal(arguments_text(&f->args, "name", NULL), "x=y");
    assert_int_equal(parse(f, &verb, WORDS("a", "-nx")), 0);
    assert_string_equal(arguments_text(&f->args, "name", NULL), "x");
    assert_int_equal(parse(f, &verb, WORDS("a", "-fqn", "x")), 0);
    assert_true(arguments_has(&f->args, "force"));
    assert_true(arguments_has(&f->args, "quiet"));
    assert_string_equal(arguments_text(&f->args, "name", NULL), "x");
}

static void an_empty_value_is_a_value(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(parse(f, &verb, WORDS("a", "--name=")), 0);
    assert_string_equal(arguments_text(&f->args, "name", NULL), "");
}

static void two_dashes_end_the_options(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(parse(f, &verb, WORDS("--", "-f", "--name")), 0);
    assert_int_equal(f->args.operand_count, 2);
    assert_false(arguments_has(&f->args, "force"));
}

static void one_dash_is_an_operand(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(parse(f, &verb, WORDS("-")), 0);
    assert_string_equal(arguments_operand(&f->args, 0), "-");
}

static void options_that_repeat_are_collected(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(parse(f, &verb, WORDS("a", "--disk", "x", "--disk=y")), 0);
    const struct option_value *value = arguments_value(&f->args, "disk");
    assert_int_equal(value->count, 2);
    assert_string_equal(value->texts[0], "x");
    assert_string_equal(value->texts[1], "y");
}

static void numbers_are_checked(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(parse(f, &verb, WORDS("a", "--memory", "512M", "--cpus=4")), 0);
    assert_true(arguments_number(&f->args, "memory", 0) == 512ull << 20);
    assert_int_equal(arguments_number(&f->args, "cpus", 1), 4);
    assert_int_equal(arguments_number(&f->args, "timeout", 99), 99);
    assert_usage_error(f, WORDS("a", "--cpus", "0"), "range");
    assert_usage_error(f, WORDS("a", "--cpus", "17"), "range");
    assert_usage_error(f, WORDS("a", "--cpus", "two"), "two");
    assert_usage_error(f, WORDS("a", "--memory", "lots"), "lots");
}

static void memory_without_a_unit_gets_a_hint(void **state)
{
    struct fixture *f = *state;

    assert_usage_error(f, WORDS("a", "--memory", "512"), "range");
    assert_non_null(strstr(f->err.hint, "512M"));
}

static void choices_are_checked(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(parse(f, &verb, WORDS("a", "--color", "green")), 0);
    assert_usage_error(f, WORDS("a", "--color", "blue"), "blue");
    assert_non_null(strstr(f->err.hint, "red, green"));
}

static void a_choice_may_be_one_to_be_completed(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(parse(f, &verb, WORDS("a", "--color", "rgb=#102030")), 0);
    assert_string_equal(arguments_text(&f->args, "color", ""), "rgb=#102030");
    assert_usage_error(f, WORDS("a", "--color", "rgb="), "rgb=");
    assert_usage_error(f, WORDS("a", "--color", "rgb"), "rgb");
    assert_usage_error(f, WORDS("a", "--color", "green=1"), "green=1");
}

static void mistyped_options_get_the_nearest(void **state)
{
    struct fixture *f = *state;

    assert_usage_error(f, WORDS("a", "--forec"), "--forec");
    assert_non_null(strstr(f->err.hint, "--force"));
    assert_usage_error(f, WORDS("a", "--nmae=x"), "--nmae");
    assert_non_null(strstr(f->err.hint, "--name"));
    assert_usage_error(f, WORDS("a", "-x"), "-x");
    assert_usage_error(f, WORDS("a", "-fx"), "-x");
}

static void missing_and_superfluous_values_are_refused(void **state)
{
    struct fixture *f = *state;

    assert_usage_error(f, WORDS("a", "--name"), "value");
    assert_usage_error(f, WORDS("a", "-n"), "value");
    assert_usage_error(f, WORDS("a", "--force=yes"), "value");
    assert_usage_error(f, WORDS("a", "--name", "x", "--name", "y"), "twice");
}

static void operands_are_counted(void **state)
{
    struct fixture *f = *state;
    const char *const none[] = {NULL};

    assert_usage_error(f, none, "A");
    assert_usage_error(f, WORDS("a", "b", "c"), "'c'");
    assert_int_equal(parse(f, &many, WORDS("a", "b", "c", "d", "e")), 0);
    assert_int_equal(f->args.operand_count, 5);
}

static void help_is_answered_whatever_else_is_missing(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(parse(f, &verb, WORDS("--help")), 0);
    assert_true(f->args.help);
    assert_int_equal(parse(f, &verb, WORDS("-h")), 0);
    assert_true(f->args.help);
}

static void the_home_may_be_given_to_any_verb(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(parse(f, &many, WORDS("a", "--home", "/x")), 0);
    assert_string_equal(f->args.home, "/x");
    assert_int_equal(parse(f, &many, WORDS("a", "--home=/y")), 0);
    assert_string_equal(f->args.home, "/y");
}

static void verbs_are_found_by_name_alone(void **state)
{
    (void)state;
    assert_ptr_equal(command_find("verb"), &verb);
    assert_null(command_find("ver"));
    assert_string_equal(command_nearest("vreb"), "verb");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(options_and_operands_come_in_any_order),
        TEST(values_may_be_attached),
        TEST(an_empty_value_is_a_value),
        TEST(two_dashes_end_the_options),
        TEST(one_dash_is_an_operand),
        TEST(options_that_repeat_are_collected),
        TEST(numbers_are_checked),
        TEST(memory_without_a_unit_gets_a_hint),
        TEST(choices_are_checked),
        TEST(a_choice_may_be_one_to_be_completed),
        TEST(mistyped_options_get_the_nearest),
        TEST(missing_and_superfluous_values_are_refused),
        TEST(operands_are_counted),
        TEST(help_is_answered_whatever_else_is_missing),
        TEST(the_home_may_be_given_to_any_verb),
        TEST(verbs_are_found_by_name_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
