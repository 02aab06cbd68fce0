/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line as data. Each verb is one `struct command` in a file of its
 * own (cli/verbs/); the table of them (commands.c) drives parsing, help and
 * completion, so that the three cannot disagree.
 */
#ifndef STASIS_CLI_COMMAND_H
#define STASIS_CLI_COMMAND_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COMMAND_OPTIONS_MAX 24

/* What a shell may offer for a value. */
enum completion {
    COMPLETE_NOTHING,
    COMPLETE_FILE,
    COMPLETE_DIRECTORY,
    COMPLETE_MACHINE,
    COMPLETE_REFERENCE, /* machine, checkpoint, image */
    COMPLETE_IMAGE,
    COMPLETE_VERB,
};

enum option_type {
    OPTION_FLAG,
    OPTION_TEXT,
    OPTION_NUMBER,
    OPTION_SIZE,     /* bytes: 4096, 512M, 2GiB */
    OPTION_DURATION, /* milliseconds: 500ms, 10s, 2m; without a unit seconds */
    OPTION_CHOICE,
};

struct option_spec {
    const char *name; /* long name without dashes; NULL ends a list */
    char letter;      /* or 0 */
    enum option_type type;
    bool repeats;
    const char *value; /* what the help calls the value */
    const char *help;
    uint64_t min, max;          /* of numbers, sizes and durations; max 0: no limit */
    const char *const *choices; /* NULL-terminated; behind one that ends in '=' comes any text */
    enum completion completion;
};

struct operand_spec {
    const char *name; /* NULL ends a list */
    bool optional;
    bool repeats; /* the last one only */
    enum completion completion;
};

#define COMMAND_OPERANDS_MAX 4

struct cli;
struct arguments;

struct command {
    const char *name;
    const char *summary; /* one line, a sentence without its full stop */
    const char *usage;   /* lines that begin with the name */
    const char *details; /* paragraphs; may be NULL */
    const char *example; /* lines that work when pasted */
    const struct option_spec *options;
    struct operand_spec operands[COMMAND_OPERANDS_MAX];
    bool hidden;
    /* Does it. Returns the exit code, or a negative errno with err filled. */
    int (*run)(struct cli *cli, const struct arguments *args, struct error *err);
};

/* Options that mean the same in every verb that has them. */
#define COMMAND_OPTION_JSON                                                                        \
    {                                                                                              \
        .name = "json", .help = "print JSON"                                                       \
    }
#define COMMAND_OPTION_QUIET                                                                       \
    {                                                                                              \
        .name = "quiet", .letter = 'q', .help = "print names only"                                 \
    }

/* A heading and the verbs below it. */
struct command_group {
    const char *title;
    const struct command *const *commands; /* NULL-terminated */
};

/* All groups; ends with a NULL title. */
extern const struct command_group command_groups[];

/* The options every verb has (--home, --help). */
extern const struct option_spec command_common_options[];

/* The verb of that name, hidden ones too, or NULL. */
const struct command *command_find(const char *name);
/* The verb or option whose name is nearest, or NULL if none is near. */
const char *command_nearest(const char *name);
const char *command_nearest_option(const struct command *command, const char *name);

/* ---- what was given ---- */

struct option_value {
    const char **texts; /* count of them */
    size_t count;
    uint64_t number; /* of the last one */
};

struct arguments {
    const struct command *command;
    struct option_value values[COMMAND_OPTIONS_MAX]; /* parallel to command->options */
    const char **operands;
    size_t operand_count;
    const char *home; /* --home, or NULL */
    bool help;
};

/*
 * Parses what follows the verb: --name VALUE, --name=VALUE, -n VALUE, -nVALUE,
 * bundled flags; options and operands in any order; "--" ends the options.
 * Strings are borrowed from argv. STATUS_USAGE errors, with the nearest name as
 * a hint. The caller frees with arguments_clear(), also after a failure.
 */
int arguments_parse(const struct command *command, int argc, char **argv, struct arguments *out,
                    struct error *err);
void arguments_clear(struct arguments *args);

/* Values by option name. Asking for a name the command does not have is a
 * mistake in the program and aborts. */
bool arguments_has(const struct arguments *args, const char *name);
/* Does the command have such an option at all? */
bool arguments_knows(const struct arguments *args, const char *name);
/* The last text given, or fallback. */
const char *arguments_text(const struct arguments *args, const char *name, const char *fallback);
uint64_t arguments_number(const struct arguments *args, const char *name, uint64_t fallback);
const struct option_value *arguments_value(const struct arguments *args, const char *name);
/* Operand n, or NULL. */
const char *arguments_operand(const struct arguments *args, size_t n);

#endif
