/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/command.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "cli/suggest.h"
#include "cli/text.h"

#include <errno.h>
#include <string.h>

const struct option_spec command_common_options[] = {
    {.name = "home",
     .type = OPTION_TEXT,
     .value = "DIR",
     .completion = COMPLETE_DIRECTORY,
     .help = "where store and machines are (default: $STASIS_HOME)"},
    {.name = "help", .letter = 'h', .help = "print this help"},
    {0},
};

const struct command *command_find(const char *name)
{
    for (const struct command_group *group = command_groups; group->title != NULL; group++)
        for (const struct command *const *c = group->commands; *c != NULL; c++)
            if (strcmp((*c)->name, name) == 0)
                return *c;
    return NULL;
}

const char *command_nearest(const char *name)
{
    struct suggestion best = suggestion_begin(name);

    for (const struct command_group *group = command_groups; group->title != NULL; group++)
        for (const struct command *const *c = group->commands; *c != NULL; c++)
            if (!(*c)->hidden)
                suggestion_offer(&best, (*c)->name);
    return best.best;
}

const char *command_nearest_option(const struct command *command, const char *name)
{
    struct suggestion best = suggestion_begin(name);

    for (const struct option_spec *o = command->options; o != NULL && o->name != NULL; o++)
        suggestion_offer(&best, o->name);
    for (const struct option_spec *o = command_common_options; o->name != NULL; o++)
        suggestion_offer(&best, o->name);
    return best.best;
}

/* ---- finding an option ---- */

static const struct option_spec *find_long(const struct option_spec *list, const char *name,
                                           size_t length)
{
    for (const struct option_spec *o = list; o != NULL && o->name != NULL; o++)
        if (strlen(o->name) == length && memcmp(o->name, name, length) == 0)
            return o;
    return NULL;
}

static const struct option_spec *find_letter(const struct option_spec *list, char letter)
{
    for (const struct option_spec *o = list; o != NULL && o->name != NULL; o++)
        if (o->letter == letter)
            return o;
    return NULL;
}

static int unknown_option(const struct command *command, const char *shown, const char *name,
                          struct error *err)
{
    error_set(err, STATUS_USAGE, EINVAL, "%s has no option %s", command->name, shown);
    const char *near = name != NULL ? command_nearest_option(command, name) : NULL;
    if (near != NULL)
        error_hint(err, "did you mean --%s?", near);
    else
        error_hint(err, "stasis help %s lists its options", command->name);
    return -EINVAL;
}

/* ---- storing a value ---- */

/* "tap=" begins a choice that the user completes. */
static bool is_choice(const char *choice, const char *text)
{
    const size_t length = strlen(choice);

    return length > 0 && choice[length - 1] == '='
               ? strncmp(choice, text, length) == 0 && text[length] != '\0'
               : strcmp(choice, text) == 0;
}

static int check_choice(const struct option_spec *option, const char *text, struct error *err)
{
    char list[128] = "";

    for (const char *const *c = option->choices; *c != NULL; c++) {
        if (is_choice(*c, text))
            return 0;
        size_t used = strlen(list);
        snprintf(list + used, sizeof(list) - used, "%s%s", used > 0 ? ", " : "", *c);
    }
    error_set(err, STATUS_USAGE, EINVAL, "--%s cannot be '%s'", option->name, text);
    error_hint(err, "choose one of: %s", list);
    return -EINVAL;
}

static int read_number(const struct option_spec *option, const char *text, uint64_t *out)
{
    switch (option->type) {
    case OPTION_SIZE:
        return text_parse_size(text, out);
    case OPTION_DURATION:
        return text_parse_duration(text, out);
    default:
        return text_parse_number(text, out);
    }
}

static const char *number_examples(enum option_type type)
{
    switch (type) {
    case OPTION_SIZE:
        return "a size is a number with K, M, G or T behind it, like 512M";
    case OPTION_DURATION:
        return "a time is a number with ms, s, m or h behind it, like 10s";
    default:
        return "it must be a whole number";
    }
}

static int check_number(const struct option_spec *option, const char *text, uint64_t *out,
                        struct error *err)
{
    int r = read_number(option, text, out);
    if (r < 0) {
        error_set(err, STATUS_USAGE, EINVAL, "--%s cannot be '%s'", option->name, text);
        error_hint(err, "%s", number_examples(option->type));
        return -EINVAL;
    }
    if (*out >= option->min && (option->max == 0 || *out <= option->max))
        return 0;
    char low[TEXT_SIZE];
    char high[TEXT_SIZE];
    const bool size = option->type == OPTION_SIZE;
    error_set(err, STATUS_USAGE, ERANGE, "--%s %s is out of range", option->name, text);
    if (size && *out < option->min)
        error_hint(err,
                   "the least is %s; a size without a unit is in bytes, so write 512M, not 512",
                   text_bytes(option->min, low));
    else if (size)
        error_hint(err, "the most is %s", text_bytes(option->max, high));
    else
        error_hint(err, "the range is %llu to %llu", (unsigned long long)option->min,
                   (unsigned long long)(option->max == 0 ? UINT64_MAX : option->max));
    return -ERANGE;
}

static int add_text(struct option_value *value, const char *text, struct error *err)
{
    const char **texts = reallocarray(value->texts, value->count + 1, sizeof(*texts));
    if (texts == NULL)
        return error_errno(err, ENOMEM, "cannot read the command line");
    value->texts = texts;
    value->texts[value->count++] = text;
    return 0;
}

static int store_value(struct arguments *args, const struct option_spec *option, const char *text,
                       struct error *err)
{
    struct option_value *value = &args->values[option - args->command->options];
    int r = 0;

    if (option->type == OPTION_CHOICE)
        r = check_choice(option, text, err);
    else if (option->type != OPTION_TEXT)
        r = check_number(option, text, &value->number, err);
    if (r < 0)
        return r;
    if (value->count > 0 && !option->repeats) {
        error_set(err, STATUS_USAGE, EINVAL, "--%s is given twice", option->name);
        error_hint(err, "give it once");
        return -EINVAL;
    }
    return add_text(value, text, err);
}

static int store_flag(struct arguments *args, const struct option_spec *option, struct error *err)
{
    struct option_value *value = &args->values[option - args->command->options];

    return add_text(value, "", err);
}

static void store_common(struct arguments *args, const struct option_spec *option, const char *text)
{
    if (option->type == OPTION_FLAG)
        args->help = true;
    else
        args->home = text;
}

/* ---- the parser ---- */

struct parser {
    struct arguments *args;
    int argc;
    char **argv;
    int next; /* argument to look at next */
};

static int missing_value(const struct option_spec *option, struct error *err)
{
    error_set(err, STATUS_USAGE, EINVAL, "--%s needs a value", option->name);
    error_hint(err, "write --%s %s", option->name, option->value != NULL ? option->value : "VALUE");
    return -EINVAL;
}

/* Gives the option its value: attached (may be NULL), or the next argument. */
static int take_option(struct parser *p, const struct option_spec *option, const char *attached,
                       struct error *err)
{
    const bool common = option >= command_common_options && option < command_common_options + 2;

    if (option->type == OPTION_FLAG) {
        if (attached != NULL) {
            error_set(err, STATUS_USAGE, EINVAL, "--%s takes no value", option->name);
            error_hint(err, "write --%s alone", option->name);
            return -EINVAL;
        }
        if (!common)
            return store_flag(p->args, option, err);
        store_common(p->args, option, NULL);
        return 0;
    }
    const char *text = attached;
    if (text == NULL && p->next < p->argc)
        text = p->argv[p->next++];
    if (text == NULL)
        return missing_value(option, err);
    if (!common)
        return store_value(p->args, option, text, err);
    store_common(p->args, option, text);
    return 0;
}

static int parse_long(struct parser *p, const char *arg, struct error *err)
{
    const struct command *command = p->args->command;
    const char *name = arg + 2;
    const char *equals = strchr(name, '=');
    size_t length = equals != NULL ? (size_t)(equals - name) : strlen(name);

    const struct option_spec *option = find_long(command->options, name, length);
    if (option == NULL)
        option = find_long(command_common_options, name, length);
    if (option == NULL) {
        _cleanup_free_ char *only = strndup(name, length);
        char shown[80];
        snprintf(shown, sizeof(shown), "--%s", only != NULL ? only : "");
        return unknown_option(command, shown, only, err);
    }
    return take_option(p, option, equals != NULL ? equals + 1 : NULL, err);
}

static int parse_letters(struct parser *p, const char *arg, struct error *err)
{
    const struct command *command = p->args->command;

    for (const char *c = arg + 1; *c != '\0'; c++) {
        const struct option_spec *option = find_letter(command->options, *c);
        if (option == NULL)
            option = find_letter(command_common_options, *c);
        if (option == NULL) {
            const char shown[3] = {'-', *c, '\0'};
            return unknown_option(command, shown, NULL, err);
        }
        if (option->type != OPTION_FLAG)
            return take_option(p, option, c[1] != '\0' ? c + 1 : NULL, err);
        int r = take_option(p, option, NULL, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int check_operands(const struct arguments *args, struct error *err)
{
    const struct command *command = args->command;
    const struct operand_spec *last = NULL;
    size_t known = 0;

    for (; known < COMMAND_OPERANDS_MAX && command->operands[known].name != NULL; known++) {
        last = &command->operands[known];
        if (last->optional || known < args->operand_count)
            continue;
        error_set(err, STATUS_USAGE, EINVAL, "%s needs %s", command->name, last->name);
        error_hint(err, "usage: stasis %.*s", (int)strcspn(command->usage, "\n"), command->usage);
        return -EINVAL;
    }
    if (args->operand_count <= known || (last != NULL && last->repeats))
        return 0;
    error_set(err, STATUS_USAGE, EINVAL, "%s does not take '%s'", command->name,
              args->operands[known]);
    error_hint(err, "usage: stasis %.*s", (int)strcspn(command->usage, "\n"), command->usage);
    return -EINVAL;
}

int arguments_parse(const struct command *command, int argc, char **argv, struct arguments *out,
                    struct error *err)
{
    struct parser p = {.args = out, .argc = argc, .argv = argv};
    bool options_end = false;

    *out = (struct arguments){.command = command};
    out->operands = calloc((size_t)argc + 1, sizeof(*out->operands));
    if (out->operands == NULL)
        return error_errno(err, ENOMEM, "cannot read the command line");
    while (p.next < argc) {
        const char *arg = argv[p.next++];
        int r = 0;
        if (options_end || arg[0] != '-' || arg[1] == '\0')
            out->operands[out->operand_count++] = arg;
        else if (strcmp(arg, "--") == 0)
            options_end = true;
        else if (arg[1] == '-')
            r = parse_long(&p, arg, err);
        else
            r = parse_letters(&p, arg, err);
        if (r < 0)
            return r;
    }
    return out->help ? 0 : check_operands(out, err);
}

void arguments_clear(struct arguments *args)
{
    for (size_t i = 0; i < COMMAND_OPTIONS_MAX; i++)
        free(args->values[i].texts);
    free(args->operands);
    *args = (struct arguments){0};
}

/* ---- reading values ---- */

bool arguments_knows(const struct arguments *args, const char *name)
{
    return find_long(args->command->options, name, strlen(name)) != NULL;
}

const struct option_value *arguments_value(const struct arguments *args, const char *name)
{
    const struct option_spec *option = find_long(args->command->options, name, strlen(name));

    if (option == NULL)
        abort();
    return &args->values[option - args->command->options];
}

bool arguments_has(const struct arguments *args, const char *name)
{
    return arguments_value(args, name)->count > 0;
}

const char *arguments_text(const struct arguments *args, const char *name, const char *fallback)
{
    const struct option_value *value = arguments_value(args, name);

    return value->count > 0 ? value->texts[value->count - 1] : fallback;
}

uint64_t arguments_number(const struct arguments *args, const char *name, uint64_t fallback)
{
    const struct option_value *value = arguments_value(args, name);

    return value->count > 0 ? value->number : fallback;
}

const char *arguments_operand(const struct arguments *args, size_t n)
{
    return n < args->operand_count ? args->operands[n] : NULL;
}
