/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/exec.h"

#include "base/cleanup.h"
#include "cli/guest.h"
#include "cli/machines.h"
#include "cli/terminal.h"
#include "cli/verbs/verbs.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

/* "K=V" as it is; "K" alone with the value it has here. The array ends with NULL;
 * its texts belong to owned. */
struct environment {
    const char **list;
    char **owned;
    size_t count;
};

static void environment_clear(struct environment *env)
{
    for (size_t i = 0; i < env->count; i++)
        free(env->owned[i]);
    free(env->owned);
    free(env->list);
}

static int add_variable(struct environment *env, const char *text, struct error *err)
{
    char *copy = NULL;

    if (text[0] == '\0' || text[0] == '=')
        return error_set(err, STATUS_USAGE, EINVAL, "'%s' is no variable: write NAME=VALUE", text);
    const char *value = strchr(text, '=') == NULL ? getenv(text) : NULL;
    if (strchr(text, '=') == NULL && value == NULL)
        return 0;
    if (asprintf(&copy, value != NULL ? "%s=%s" : "%s", text, value) < 0)
        abort();
    env->list[env->count] = env->owned[env->count] = copy;
    env->count++;
    return 0;
}

static int read_environment(const struct arguments *args, bool tty, struct environment *env,
                            struct error *err)
{
    const struct option_value *given =
        arguments_knows(args, "env") ? arguments_value(args, "env") : NULL;
    const size_t count = given != NULL ? given->count : 0;
    int r = 0;

    env->list = calloc(count + 2, sizeof(*env->list));
    env->owned = calloc(count + 2, sizeof(*env->owned));
    if (env->list == NULL || env->owned == NULL)
        return error_errno(err, ENOMEM, "cannot read the command line");
    if (tty)
        r = add_variable(env, getenv("TERM") != NULL ? "TERM" : "TERM=linux", err);
    for (size_t i = 0; i < count && r == 0; i++)
        r = add_variable(env, given->texts[i], err);
    return r;
}

static void terminal_size(struct agent_exec *request)
{
    struct winsize size;

    if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0)
        return;
    request->rows = size.ws_row;
    request->columns = size.ws_col;
}

/* What is ours in it must not be taken for the command's exit code. */
static int own_failure(int r, struct error *err)
{
    if (r < 0 && err->status != STATUS_USAGE && err->status != STATUS_INTERRUPTED &&
        err->status < STATUS_EXEC_FAILED)
        err->status = STATUS_EXEC_FAILED;
    return r;
}

static int exec_in(struct cli *cli, const char *machine, struct agent_exec *request,
                   const struct exec_streams *streams, struct error *err)
{
    struct channel ch;
    int code;

    int r = guest_connect(cli, machine, AGENT_HANDSHAKE_MS, &ch, err);
    if (r < 0)
        return own_failure(r, err);
    if ((request->flags & AGENT_EXEC_TTY) != 0)
        terminal_size(request);
    r = exec_run(&ch, request, streams, &code, err);
    channel_clear(&ch);
    if (r < 0 && err->status != STATUS_INTERRUPTED)
        error_prefix(err, "%s", machine);
    return r < 0 ? own_failure(r, err) : code;
}

static int run_request(struct cli *cli, const struct arguments *args, struct agent_exec *request,
                       struct error *err)
{
    _cleanup_(environment_clear) struct environment env = {0};
    struct exec_streams streams = {.in = STDIN_FILENO, .out = STDOUT_FILENO, .err = STDERR_FILENO};

    int r = terminal_parse_escape(arguments_text(args, "escape", "ctrl-]"), &streams.escape, err);
    if (r < 0 ||
        (r = read_environment(args, (request->flags & AGENT_EXEC_TTY) != 0, &env, err)) < 0)
        return r;
    request->environment = env.list;
    request->user = arguments_text(args, "user", "");
    return exec_in(cli, arguments_operand(args, 0), request, &streams, err);
}

static int run_exec(struct cli *cli, const struct arguments *args, struct error *err)
{
    const bool tty = arguments_has(args, "tty");
    struct agent_exec request = {
        .flags = (tty ? AGENT_EXEC_TTY | AGENT_EXEC_INPUT : 0u) |
                 (arguments_has(args, "interactive") ? AGENT_EXEC_INPUT : 0u),
        .argv = args->operands + 1, /* ends with NULL */
        .directory = arguments_text(args, "workdir", ""),
    };

    return run_request(cli, args, &request, err);
}

static int run_shell(struct cli *cli, const struct arguments *args, struct error *err)
{
    static const char *const login[] = {NULL};
    struct agent_exec request = {
        .flags = AGENT_EXEC_INPUT | (isatty(STDIN_FILENO) == 1 ? AGENT_EXEC_TTY : 0u),
        .argv = (const char **)login,
    };

    return run_request(cli, args, &request, err);
}

#define OPTION_USER                                                                                \
    {                                                                                              \
        .name = "user", .letter = 'u', .type = OPTION_TEXT, .value = "USER",                       \
        .help = "name or number of a user of the guest (default: root)"                            \
    }
#define OPTION_ESCAPE                                                                              \
    {                                                                                              \
        .name = "escape", .type = OPTION_TEXT, .value = "KEY",                                     \
        .help = "on a terminal, the key before d that ends the command: ctrl-] (default), none"    \
    }

static const struct option_spec exec_options[] = {
    {.name = "interactive", .letter = 'i', .help = "pass standard input on"},
    {.name = "tty", .letter = 't', .help = "give it a terminal, ours if we have one; includes -i"},
    {.name = "env",
     .letter = 'e',
     .type = OPTION_TEXT,
     .value = "K=V",
     .repeats = true,
     .help = "set a variable; K alone: to the value it has here"},
    {.name = "workdir",
     .letter = 'w',
     .type = OPTION_TEXT,
     .value = "DIR",
     .help = "where it runs (default: the user's home)"},
    OPTION_USER,
    OPTION_ESCAPE,
    {0},
};

const struct command command_exec = {
    .name = "exec",
    .summary = "Run a command in a machine",
    .usage = "exec MACHINE [-it] [-e K=V]... [-w DIR] [-u USER] -- CMD...",
    .details = "The agent in the guest runs it. Ends with the command's exit code, 128 + N if it "
               "was ended by signal N, 125 if it could not be asked, 126 if the command cannot be "
               "run, 127 if it is not there. Ctrl-C is passed on; a second one ends the command, "
               "as does whatever else ends stasis. What it leaves in the background goes on. A "
               "restore of the machine ends the connection, a save does not.",
    .example = "stasis exec web -- cat /etc/os-release",
    .options = exec_options,
    .operands = {{.name = "MACHINE", .completion = COMPLETE_MACHINE},
                 {.name = "CMD", .repeats = true}},
    .run = run_exec,
};

static const struct option_spec shell_options[] = {
    OPTION_USER,
    OPTION_ESCAPE,
    {0},
};

const struct command command_shell = {
    .name = "shell",
    .summary = "Log in to a machine",
    .usage = "shell MACHINE [-u USER]",
    .details = "The user's shell, as at a login, by the agent in the guest; on a terminal, if "
               "standard input is one. Ctrl-] d ends it should the guest hang.",
    .example = "stasis shell web",
    .options = shell_options,
    .operands = {{.name = "MACHINE", .completion = COMPLETE_MACHINE}},
    .run = run_shell,
};
