/* SPDX-License-Identifier: Apache-2.0 */
/* The table of all verbs and the help made from it. */
#include "cli/command.h"
#include "cli/help.h"

#include "test.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 80 };

typedef void visit_fn(const struct command *command);

static void each_command(visit_fn *visit)
{
    for (const struct command_group *g = command_groups; g->title != NULL; g++)
        for (const struct command *const *c = g->commands; *c != NULL; c++)
            visit(*c);
}

static void assert_fits(const char *text)
{
    while (*text != '\0') {
        size_t length = strcspn(text, "\n");
        if (length > COLUMNS)
            fail_msg("too wide: %.*s", (int)length, text);
        text += length + (text[length] == '\n');
    }
}

/* The caller frees *text_out. */
static void help_of(const struct command *command, char **text_out)
{
    size_t length = 0;
    FILE *file = open_memstream(text_out, &length);

    if (command != NULL)
        help_print_command(file, command);
    else
        help_print_overview(file);
    fclose(file);
}

static void check_help(const struct command *command)
{
    char *text = NULL;

    help_of(command, &text);
    assert_fits(text);
    assert_non_null(strstr(text, "Usage: stasis "));
    assert_non_null(strstr(text, "Example:\n"));
    assert_non_null(strstr(text, "--help"));
    free(text);
}

static void the_help_of_every_verb_fits_80_columns(void **state)
{
    (void)state;
    each_command(check_help);
}

static void the_overview_fits_80_columns_and_has_every_verb(void **state)
{
    char *text = NULL;

    (void)state;
    help_of(NULL, &text);
    assert_fits(text);
    for (const struct command_group *g = command_groups; g->title != NULL; g++)
        for (const struct command *const *c = g->commands; *c != NULL; c++) {
            char line[64];
            snprintf(line, sizeof(line), "\n  %s ", (*c)->name);
            assert_int_equal(strstr(text, line) != NULL, !(*c)->hidden);
        }
    free(text);
}

static void check_record(const struct command *command)
{
    const size_t length = strlen(command->name);

    assert_non_null(command->run);
    assert_true(isupper((unsigned char)command->summary[0]));
    assert_int_not_equal(command->summary[strlen(command->summary) - 1], '.');
    for (const char *line = command->usage; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        assert_memory_equal(line, command->name, length);
    }
    assert_non_null(strstr(command->example, "stasis "));
    assert_ptr_equal(command_find(command->name), command);
}

static void every_record_is_complete(void **state)
{
    (void)state;
    each_command(check_record);
}

static void check_options(const struct command *command)
{
    size_t count = 0;

    for (const struct option_spec *o = command->options; o != NULL && o->name != NULL; o++) {
        count++;
        assert_non_null(o->help);
        assert_int_equal(o->type == OPTION_FLAG, o->value == NULL);
        assert_int_equal(o->type == OPTION_CHOICE, o->choices != NULL);
        for (const struct option_spec *other = command->options; other != o; other++) {
            assert_string_not_equal(o->name, other->name);
            assert_true(o->letter == 0 || o->letter != other->letter);
        }
        assert_string_not_equal(o->name, "home");
        assert_string_not_equal(o->name, "help");
        assert_int_not_equal(o->letter, 'h');
    }
    assert_true(count <= COMMAND_OPTIONS_MAX);
}

static void options_are_distinct_and_explained(void **state)
{
    (void)state;
    each_command(check_options);
}

/* Every example is a line our own parser takes. */
static void check_example(const struct command *command)
{
    char text[256];
    char *words[32];
    int count = 0;
    struct arguments args;
    struct error err = ERROR_INIT;
    const char *start = strstr(command->example, "stasis ");

    if (command->hidden)
        return;
    snprintf(text, sizeof(text), "%s", start);
    text[strcspn(text, "|<\n")] = '\0';
    for (char *rest = text, *word; (word = strsep(&rest, " ")) != NULL;)
        if (*word != '\0' && count < 32)
            words[count++] = word;
    assert_string_equal(words[1], command->name);
    if (arguments_parse(command, count - 2, words + 2, &args, &err) < 0)
        fail_msg("%s: %s", command->example, err.message);
    arguments_clear(&args);
}

static void every_example_parses(void **state)
{
    (void)state;
    each_command(check_example);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_help_of_every_verb_fits_80_columns),
        cmocka_unit_test(the_overview_fits_80_columns_and_has_every_verb),
        cmocka_unit_test(every_record_is_complete),
        cmocka_unit_test(options_are_distinct_and_explained),
        cmocka_unit_test(every_example_parses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
