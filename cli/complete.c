/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/complete.h"

#include <stdio.h>
#include <string.h>

void complete_offer(const struct complete *c, const char *candidate, const char *help)
{
    if (strncmp(candidate, c->typed, strlen(c->typed)) == 0)
        c->add(candidate, help, c->context);
}

static void offer_verbs(const struct complete *c)
{
    for (const struct command_group *group = command_groups; group->title != NULL; group++)
        for (const struct command *const *v = group->commands; *v != NULL; v++)
            if (!(*v)->hidden)
                complete_offer(c, (*v)->name, (*v)->summary);
}

static void offer_kind(const struct complete *c, enum completion kind)
{
    switch (kind) {
    case COMPLETE_NOTHING:
        break;
    case COMPLETE_FILE:
        c->add(COMPLETE_LINE_FILE, NULL, c->context);
        break;
    case COMPLETE_DIRECTORY:
        c->add(COMPLETE_LINE_DIRECTORY, NULL, c->context);
        break;
    case COMPLETE_VERB:
        offer_verbs(c);
        break;
    default:
        c->names(c, kind);
    }
}

/* ---- options ---- */

static const struct option_spec *find_in(const struct option_spec *list, const char *word)
{
    for (const struct option_spec *o = list; o != NULL && o->name != NULL; o++)
        if ((strncmp(word, "--", 2) == 0 && strcmp(word + 2, o->name) == 0) ||
            (word[0] == '-' && o->letter != 0 && word[1] == o->letter && word[2] == '\0'))
            return o;
    return NULL;
}

static const struct option_spec *find_option(const struct command *command, const char *word)
{
    const struct option_spec *own = find_in(command->options, word);

    return own != NULL ? own : find_in(command_common_options, word);
}

/* Does this word take the next one as its value? */
static const struct option_spec *takes_value(const struct command *command, const char *word)
{
    const struct option_spec *option = find_option(command, word);

    return option != NULL && option->type != OPTION_FLAG ? option : NULL;
}

static void offer_options(const struct complete *c, const struct option_spec *list)
{
    char name[64];

    for (const struct option_spec *o = list; o != NULL && o->name != NULL; o++) {
        snprintf(name, sizeof(name), "--%s", o->name);
        complete_offer(c, name, o->help);
    }
}

static void offer_value(const struct complete *c, const struct option_spec *option)
{
    for (const char *const *choice = option->choices; choice != NULL && *choice != NULL; choice++)
        complete_offer(c, *choice, NULL);
    offer_kind(c, option->completion);
}

/* ---- operands ---- */

static void offer_operand(const struct complete *c, const struct command *command, size_t index)
{
    const struct operand_spec *spec = command->operands;

    while (index > 0 && spec->name != NULL && !spec->repeats) {
        spec++;
        index--;
    }
    if (spec->name != NULL)
        offer_kind(c, spec->completion);
}

static void complete_verb(const struct complete *c, const struct command *command,
                          const char *const *words, size_t count)
{
    const struct option_spec *option = NULL; /* whose value comes next */
    bool options_end = false;
    size_t operands = 0;

    for (size_t i = 0; i + 1 < count; i++) {
        if (option != NULL)
            option = NULL;
        else if (!options_end && strcmp(words[i], "--") == 0)
            options_end = true;
        else if (!options_end && words[i][0] == '-' && words[i][1] != '\0')
            option = takes_value(command, words[i]);
        else
            operands++;
    }
    if (option != NULL) {
        offer_value(c, option);
    } else if (!options_end && c->typed[0] == '-') {
        offer_options(c, command->options);
        offer_options(c, command_common_options);
    } else {
        offer_operand(c, command, operands);
    }
}

void complete_words(struct complete *c, const char *const *words, size_t count)
{
    if (count == 0)
        return;
    c->typed = words[count - 1];
    /* --home DIR may stand in front of the verb. */
    while (count > 1 && words[0][0] == '-') {
        const size_t skip = strcmp(words[0], "--home") == 0 ? 2 : 1;
        if (skip >= count) {
            offer_kind(c, COMPLETE_DIRECTORY);
            return;
        }
        words += skip;
        count -= skip;
    }
    if (count == 1) {
        offer_verbs(c);
        return;
    }
    const struct command *command = command_find(words[0]);
    if (command != NULL && !command->hidden)
        complete_verb(c, command, words + 1, count - 1);
}
