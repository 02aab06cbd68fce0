/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes the manual pages, in mdoc(7), from the table of verbs, so that a page and
 * --help cannot disagree. Runs while building:
 *
 *   stasis-manual PAGE OUT_DIR
 *
 * PAGE is the hand-written page of the program: it lends its date to all, and its
 * copy in OUT_DIR gets the list of verbs where it says `.\" VERBS`, the options of
 * every verb where it says `.\" OPTIONS`. Beside it: a stasis-VERB.1 for each verb.
 */
#include "base/cleanup.h"
#include "base/io.h"
#include "cli/command.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

enum { LINE_MAX_BYTES = 76, PAGE_MAX_BYTES = 1 << 20 };

/* ---- roff ---- */

/* A hyphen that begins a word is an option's: as a minus it can be pasted. */
static bool is_minus(const char *text, const char *at)
{
    while (at > text && at[-1] == '-')
        at--;
    return at == text || !isalnum((unsigned char)at[-1]);
}

/* Characters of a text line; none of them means anything to roff. */
static void put_text(FILE *file, const char *text, size_t length)
{
    if (length > 0 && (text[0] == '.' || text[0] == '\''))
        fputs("\\&", file);
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '\\')
            fputs("\\e", file);
        else if (text[i] == '-' && is_minus(text, text + i))
            fputs("\\-", file);
        else
            fputc(text[i], file);
    }
}

/* A paragraph; each sentence begins a line, as mdoc wants it. */
static void put_prose(FILE *file, const char *text)
{
    size_t column = 0;

    while (*text != '\0') {
        const size_t word = strcspn(text, " \n");
        if (column > 0 && column + 1 + word > LINE_MAX_BYTES) {
            fputc('\n', file);
            column = 0;
        }
        if (column > 0)
            fputc(' ', file);
        put_text(file, text, word);
        column += word + 1;
        if (word > 1 && strchr(".!?", text[word - 1]) != NULL && text[word] != '\0') {
            fputc('\n', file);
            column = 0;
        }
        text += word;
        text += strspn(text, " \n");
    }
    if (column > 0)
        fputc('\n', file);
}

/* A phrase as a whole sentence. */
static void put_sentence(FILE *file, const char *text)
{
    _cleanup_free_ char *sentence = io_format("%s.", text);

    put_prose(file, sentence);
}

/* Calls put for each line of text. */
static void each_line(FILE *file, const char *text,
                      void (*put)(FILE *file, const char *line, size_t length))
{
    while (*text != '\0') {
        const size_t length = strcspn(text, "\n");
        put(file, text, length);
        text += length + (text[length] == '\n');
    }
}

/* ---- a verb's page ---- */

/* "run IMAGE [-d]" */
static void put_usage(FILE *file, const char *line, size_t length)
{
    const size_t verb = strcspn(line, " \n");

    fprintf(file, ".Nm stasis\n.Cm %.*s\n", (int)verb, line);
    if (verb < length) {
        put_text(file, line + verb + 1, length - verb - 1);
        fputc('\n', file);
    }
}

static void put_literal(FILE *file, const char *line, size_t length)
{
    put_text(file, line, length);
    fputc('\n', file);
}

static void put_option(FILE *file, const struct option_spec *option)
{
    fputs(".It ", file);
    if (option->letter != 0)
        fprintf(file, "Fl %c , ", option->letter);
    fprintf(file, "Fl Fl %s", option->name);
    if (option->value != NULL)
        fprintf(file, " Ar %s%s", option->value, option->repeats ? " ..." : "");
    fputc('\n', file);
    put_sentence(file, option->help);
}

static void put_options(FILE *file, const struct option_spec *options)
{
    fputs(".Bl -tag -width Ds\n", file);
    for (const struct option_spec *o = options; o->name != NULL; o++)
        put_option(file, o);
    fputs(".El\n", file);
}

static void put_description(FILE *file, const struct command *command)
{
    fputs(".Sh DESCRIPTION\n", file);
    put_sentence(file, command->summary);
    if (command->details != NULL) {
        fputs(".Pp\n", file);
        put_prose(file, command->details);
    }
    if (command->options != NULL && command->options[0].name != NULL) {
        fputs(".Pp\nThe options are as follows:\n", file);
        put_options(file, command->options);
    }
    fputs(".Pp\n.Fl Fl home\nand\n.Fl Fl help\nare options of every verb, see\n.Xr stasis 1 .\n",
          file);
}

static void put_command(FILE *file, const struct command *command, const char *date)
{
    fprintf(file,
            ".\\\" SPDX-License-Identifier: Apache-2.0\n"
            ".\\\" Made from the table of verbs; cli/verbs/%s.c is the source.\n%s\n.Dt STASIS-",
            command->name, date);
    for (const char *c = command->name; *c != '\0'; c++)
        fputc(toupper((unsigned char)*c), file);
    fprintf(file, " 1\n.Os\n.Sh NAME\n.Nm stasis-%s\n.Nd ", command->name);
    fprintf(file, "%c%s\n.Sh SYNOPSIS\n", tolower((unsigned char)command->summary[0]),
            command->summary + 1);
    each_line(file, command->usage, put_usage);
    put_description(file, command);
    fputs(".Sh EXIT STATUS\nSee\n.Xr stasis 1 .\n.Sh EXAMPLES\n.Bd -literal -offset indent\n",
          file);
    each_line(file, command->example, put_literal);
    fputs(".Ed\n.Sh SEE ALSO\n.Xr stasis 1\n", file);
}

/* ---- the program's page ---- */

static void put_verbs(FILE *file)
{
    for (const struct command_group *group = command_groups; group->title != NULL; group++) {
        fprintf(file, ".Ss %s\n.Bl -tag -width machine-process -compact\n", group->title);
        for (const struct command *const *c = group->commands; *c != NULL; c++) {
            if ((*c)->hidden)
                continue;
            fprintf(file, ".It Xr stasis-%s 1\n", (*c)->name);
            put_sentence(file, (*c)->summary);
        }
        fputs(".El\n", file);
    }
}

static void put_page_line(FILE *file, const char *line, size_t length)
{
    static const char verbs[] = ".\\\" VERBS";
    static const char options[] = ".\\\" OPTIONS";

    if (length == strlen(verbs) && memcmp(line, verbs, length) == 0)
        put_verbs(file);
    else if (length == strlen(options) && memcmp(line, options, length) == 0)
        put_options(file, command_common_options);
    else
        fprintf(file, "%.*s\n", (int)length, line);
}

/* ---- files ---- */

static FILE *open_page(const char *dir, const char *name)
{
    _cleanup_free_ char *path = io_format("%s/%s.1", dir, name);
    FILE *file = fopen(path, "we");

    if (file == NULL)
        fprintf(stderr, "stasis-manual: %s: %s\n", path, strerror(errno));
    return file;
}

static int close_page(FILE *file)
{
    const bool failed = ferror(file) != 0;

    return fclose(file) != 0 || failed ? -EIO : 0;
}

static int write_command(const char *dir, const struct command *command, const char *date)
{
    _cleanup_free_ char *name = io_format("stasis-%s", command->name);
    FILE *file = open_page(dir, name);

    if (file == NULL)
        return -EIO;
    put_command(file, command, date);
    return close_page(file);
}

static int write_commands(const char *dir, const char *date)
{
    int r = 0;

    for (const struct command_group *group = command_groups; group->title != NULL; group++)
        for (const struct command *const *c = group->commands; *c != NULL && r == 0; c++)
            if (!(*c)->hidden)
                r = write_command(dir, *c, date);
    return r;
}

static int write_program(const char *dir, const char *page)
{
    FILE *file = open_page(dir, "stasis");

    if (file == NULL)
        return -EIO;
    each_line(file, page, put_page_line);
    return close_page(file);
}

/* The page's own .Dd line; the caller frees. */
static char *find_date(const char *page)
{
    const char *line = strstr(page, "\n.Dd ");

    return line == NULL ? NULL : io_format("%.*s", (int)strcspn(line + 1, "\n"), line + 1);
}

int main(int argc, char **argv)
{
    _cleanup_free_ char *page = NULL;
    size_t length;

    if (argc != 3 || io_read_file(AT_FDCWD, argv[1], PAGE_MAX_BYTES, &page, &length) < 0) {
        fputs("usage: stasis-manual PAGE OUT_DIR\n", stderr);
        return 2;
    }
    _cleanup_free_ char *date = find_date(page);
    if (date == NULL) {
        fprintf(stderr, "stasis-manual: %s has no date\n", argv[1]);
        return 1;
    }
    if (write_program(argv[2], page) < 0 || write_commands(argv[2], date) < 0)
        return 1;
    return 0;
}
