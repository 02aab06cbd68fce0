/* SPDX-License-Identifier: Apache-2.0 */
/* Completion of command lines: a script for each shell, and the hidden verb that they
 * ask, so that they cannot disagree with the table of verbs. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "cli/complete.h"
#include "cli/verbs/verbs.h"
#include "store/catalogue.h"

#include <errno.h>
#include <string.h>

/* ---- candidates ---- */

static void print_candidate(const char *candidate, const char *help, void *context)
{
    (void)context;
    printf("%s\t%s\n", candidate, help != NULL ? help : "");
}

static void offer_machines(const struct complete *c, struct store *store)
{
    struct catalogue_machine *list = NULL;
    struct error ignored;
    size_t count = 0;

    if (catalogue_machine_list(store, &list, &count, &ignored) < 0)
        return;
    for (size_t i = 0; i < count; i++)
        complete_offer(c, list[i].name, "machine");
    catalogue_machines_free(list, count);
}

static void offer_checkpoints(const struct complete *c, struct store *store)
{
    struct catalogue_checkpoint *list = NULL;
    struct error ignored;
    size_t count = 0;

    if (catalogue_checkpoint_list(store, NULL, &list, &count, &ignored) < 0)
        return;
    for (size_t i = 0; i < count; i++) {
        if (list[i].machine == NULL || list[i].name == NULL)
            continue;
        _cleanup_free_ char *reference = io_format("%s@%s", list[i].machine, list[i].name);
        complete_offer(c, reference, "checkpoint");
    }
    catalogue_checkpoints_free(list, count);
}

static void offer_images(const struct complete *c, struct store *store)
{
    struct catalogue_image *list = NULL;
    struct error ignored;
    size_t count = 0;

    if (catalogue_image_list(store, &list, &count, &ignored) < 0)
        return;
    for (size_t i = 0; i < count; i++) {
        _cleanup_free_ char *image = io_format("%s:%s", list[i].name, list[i].tag);
        complete_offer(c, image, "image");
    }
    catalogue_images_free(list, count);
}

static void offer_names(const struct complete *c, enum completion kind)
{
    struct cli *cli = c->context;
    struct error ignored;

    if (cli_store(cli, &ignored) < 0)
        return;
    if (kind != COMPLETE_IMAGE)
        offer_machines(c, cli->store);
    if (kind == COMPLETE_REFERENCE)
        offer_checkpoints(c, cli->store);
    if (kind != COMPLETE_MACHINE)
        offer_images(c, cli->store);
}

static int run_complete(struct cli *cli, const struct arguments *args, struct error *err)
{
    struct complete complete = {.add = print_candidate, .names = offer_names, .context = cli};

    (void)err;
    complete_words(&complete, args->operands, args->operand_count);
    return 0;
}

const struct command command_complete = {
    .name = "complete",
    .summary = "Print what may come next on a command line (for shells)",
    .usage = "complete -- WORD...",
    .example = "stasis complete -- sa",
    .operands = {{.name = "WORD", .repeats = true}},
    .hidden = true,
    .run = run_complete,
};

/* ---- scripts ---- */

/* Bash takes words apart at ':', '@' and '='; so does what is offered to it. */
static const char bash_script[] =
    "_stasis() {\n"
    "    local line typed head words\n"
    "    line=${COMP_LINE:0:COMP_POINT}\n"
    "    read -ra words <<<\"$line\"\n"
    "    [[ $line == *[[:space:]] ]] && words+=('')\n"
    "    typed=${words[${#words[@]} - 1]}\n"
    "    head=${typed%\"${typed##*[:@=]}\"}\n"
    "    COMPREPLY=()\n"
    "    while IFS= read -r line; do\n"
    "        line=${line%%$'\\t'*}\n"
    "        case $line in\n"
    "        //file) compopt -o default ;;\n"
    "        //directory) compopt -o dirnames ;;\n"
    "        *=) compopt -o nospace; COMPREPLY+=(\"${line#\"$head\"}\") ;;\n"
    "        *) COMPREPLY+=(\"${line#\"$head\"}\") ;;\n"
    "        esac\n"
    "    done < <(\"${words[0]}\" complete -- \"${words[@]:1}\" 2>/dev/null)\n"
    "}\n"
    "complete -F _stasis stasis\n";

static const char zsh_script[] =
    "#compdef stasis\n"
    "_stasis() {\n"
    "    local line\n"
    "    local -a items\n"
    "    for line in \"${(@f)$(stasis complete -- \"${(@)words[2,CURRENT]}\" 2>/dev/null)}\"; do\n"
    "        case ${line%%$'\\t'*} in\n"
    "        //file) _files; return ;;\n"
    "        //directory) _files -/; return ;;\n"
    "        '') ;;\n"
    "        *) items+=(\"${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}\") ;;\n"
    "        esac\n"
    "    done\n"
    "    _describe stasis items\n"
    "}\n"
    "compdef _stasis stasis\n";

static const char fish_script[] =
    "function __stasis_complete\n"
    "    set -l words (commandline -opc)\n"
    "    set -l typed (commandline -ct)\n"
    "    for line in (stasis complete -- $words[2..-1] \"$typed\" 2>/dev/null)\n"
    "        switch $line\n"
    "            case '//file*'\n"
    "                __fish_complete_path \"$typed\"\n"
    "            case '//directory*'\n"
    "                __fish_complete_directories \"$typed\"\n"
    "            case '*'\n"
    "                echo $line\n"
    "        end\n"
    "    end\n"
    "end\n"
    "complete -c stasis -f -a '(__stasis_complete)'\n";

static const char *const shells[] = {"bash", "zsh", "fish", NULL};
static const char *const scripts[] = {bash_script, zsh_script, fish_script};

static int run_completion(struct cli *cli, const struct arguments *args, struct error *err)
{
    const char *shell = arguments_operand(args, 0);

    (void)cli;
    for (size_t i = 0; shells[i] != NULL; i++)
        if (strcmp(shells[i], shell) == 0) {
            fputs(scripts[i], stdout);
            return 0;
        }
    error_set(err, STATUS_USAGE, EINVAL, "there is no completion for '%s'", shell);
    error_hint(err, "there is for bash, zsh and fish");
    return -EINVAL;
}

const struct command command_completion = {
    .name = "completion",
    .summary = "Print a script that completes command lines",
    .usage = "completion bash|zsh|fish",
    .details =
        "For this session: source <(stasis completion bash), or in fish: stasis completion "
        "fish | source. For all: put that line into ~/.bashrc or ~/.zshrc (behind compinit), "
        "or the script into ~/.config/fish/completions/stasis.fish. Verbs, options and "
        "their values are completed, and the names of machines, checkpoints and images.",
    .example = "stasis completion bash",
    .operands = {{.name = "SHELL"}},
    .run = run_completion,
};
