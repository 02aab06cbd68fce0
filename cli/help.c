/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/help.h"

#include "cli/text.h"

#include <string.h>

enum {
    WIDTH = 79,         /* a full line of 80 wraps on some terminals */
    VERB_COLUMN = 14,   /* where summaries begin */
    OPTION_COLUMN = 28, /* where explanations of options begin */
};

static void print_group(FILE *file, const struct command_group *group)
{
    bool titled = false;

    for (const struct command *const *c = group->commands; *c != NULL; c++) {
        if ((*c)->hidden)
            continue;
        if (!titled)
            fprintf(file, "\n%s\n", group->title);
        titled = true;
        fprintf(file, "  %-*s", VERB_COLUMN - 2, (*c)->name);
        text_wrap(file, (*c)->summary, VERB_COLUMN, WIDTH);
        fputc('\n', file);
    }
}

void help_print_overview(FILE *file)
{
    fputs("Usage: stasis [--home DIR] VERB ...\n\n"
          "Virtual machines you can hold still: save one while it runs, go back, clone it,\n"
          "look inside, ship it.\n",
          file);
    for (const struct command_group *group = command_groups; group->title != NULL; group++)
        print_group(file, group);
    fputs("\nA REF is a machine (web), a checkpoint (web@patched), an image (debian:12)\n"
          "or at least 8 digits of an id. stasis help VERB says more about a verb.\n",
          file);
}

/* The lines of text, each behind a prefix. */
static void print_lines(FILE *file, const char *first, const char *next, const char *text)
{
    const char *prefix = first;

    while (*text != '\0') {
        const size_t length = strcspn(text, "\n");
        fprintf(file, "%s%.*s\n", prefix, (int)length, text);
        text += length + (text[length] == '\n');
        prefix = next;
    }
}

static void print_option(FILE *file, const struct option_spec *option)
{
    char left[64];
    char letter[5] = "    ";

    if (option->letter != 0)
        snprintf(letter, sizeof(letter), "-%c, ", option->letter);
    int used = snprintf(left, sizeof(left), "  %s--%s%s%s%s", letter, option->name,
                        option->value != NULL ? " " : "",
                        option->value != NULL ? option->value : "", option->repeats ? "..." : "");
    if (used + 2 > OPTION_COLUMN)
        fprintf(file, "%s\n%*s", left, OPTION_COLUMN, "");
    else
        fprintf(file, "%-*s", OPTION_COLUMN, left);
    text_wrap(file, option->help, OPTION_COLUMN, WIDTH);
    fputc('\n', file);
}

void help_print_command(FILE *file, const struct command *command)
{
    print_lines(file, "Usage: stasis ", "       stasis ", command->usage);
    fputc('\n', file);
    text_wrap(file, command->summary, 0, WIDTH);
    fputs(".\n", file);
    if (command->details != NULL) {
        fputc('\n', file);
        text_wrap(file, command->details, 0, WIDTH);
        fputc('\n', file);
    }
    fputs("\nOptions:\n", file);
    for (const struct option_spec *o = command->options; o != NULL && o->name != NULL; o++)
        print_option(file, o);
    for (const struct option_spec *o = command_common_options; o->name != NULL; o++)
        print_option(file, o);
    fputs("\nExample:\n", file);
    print_lines(file, "  ", "  ", command->example);
}
