/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/app.h"

#include "base/cleanup.h"
#include "cli/help.h"
#include "cli/interrupt.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>

int cli_home(struct cli *cli, struct error *err)
{
    if (cli->home.root != NULL)
        return 0;
    if (cli->home_override != NULL && cli->home_override[0] == '\0') {
        error_set(err, STATUS_USAGE, EINVAL, "--home is empty");
        error_hint(err, "leave it out to use $STASIS_HOME");
        return -EINVAL;
    }
    return home_open(cli->home_override, &cli->home, err);
}

/* Even to read a store its catalogue's journal has to be written. */
static int not_writable(const char *path, int errnum, struct error *err)
{
    error_set(err, STATUS_FAILED, errnum, "cannot use the store %s: %s", path, strerror(errnum));
    error_hint(err, "it has to be writable; choose another place with --home DIR or $STASIS_HOME");
    return -errnum;
}

int cli_store(struct cli *cli, struct error *err)
{
    if (cli->store != NULL)
        return 0;
    int r = cli_home(cli, err);
    if (r < 0)
        return r;
    r = store_open(cli->home.store, true, &cli->store, err);
    if (r < 0 && access(cli->home.store, W_OK) < 0 && (errno == EROFS || errno == EACCES))
        return not_writable(cli->home.store, errno, err);
    return r;
}

static void print_clean(const char *label, const char *text)
{
    fputs(label, stderr);
    for (; *text != '\0'; text++)
        fputc(iscntrl((unsigned char)*text) ? '?' : *text, stderr);
    fputc('\n', stderr);
}

void cli_print_error(const struct error *err)
{
    print_clean("stasis: ", err->message);
    if (err->hint[0] != '\0')
        print_clean("hint: ", err->hint);
}

void cli_note(const struct cli *cli, const char *fmt, ...)
{
    char text[512];
    va_list args;

    if (cli->quiet)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    print_clean("", text);
}

bool cli_confirm(const char *fmt, ...)
{
    char answer[16];
    va_list args;

    if (isatty(STDIN_FILENO) != 1)
        return true;
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputs(" [y/N] ", stderr);
    fflush(stderr);
    if (fgets(answer, sizeof(answer), stdin) == NULL)
        return false;
    return answer[0] == 'y' || answer[0] == 'Y';
}

/* ---- several operands ---- */

static int add_outcome(json_t *list, const char *name, int r, const struct error *err)
{
    json_t *item = json_pack("{s:o, s:b}", "name", output_text(name), "ok", r >= 0);

    if (item != NULL && r < 0) {
        json_object_set_new(item, "status", json_integer(err->status));
        json_object_set_new(item, "message", output_text(err->message));
    }
    return json_array_append_new(list, item) < 0 ? -ENOMEM : 0;
}

static int summarize(size_t failed, size_t count, const struct error *last, struct error *err)
{
    if (failed == 0)
        return 0;
    *err = *last;
    if (failed < count)
        error_set(err, STATUS_PARTLY, EIO, "%zu of %zu failed", failed, count);
    else if (count > 1)
        error_set(err, last->status, EIO, "all %zu failed", count);
    return err->errnum != 0 ? -err->errnum : -EIO;
}

int cli_each_operand(struct cli *cli, const struct arguments *args, cli_each_fn *fn, void *context,
                     struct error *err)
{
    _cleanup_json_ json_t *list = json_array();
    struct error last = ERROR_INIT;
    size_t failed = 0;

    for (size_t i = 0; i < args->operand_count; i++) {
        struct error one = ERROR_INIT;
        int r = fn(cli, args->operands[i], context, &one);
        if (add_outcome(list, args->operands[i], r, &one) < 0)
            return error_errno(err, ENOMEM, "cannot report");
        if (r >= 0)
            continue;
        /* One name's error is the program's; of several each is told as it comes. */
        if (args->operand_count > 1)
            cli_print_error(&one);
        last = one;
        failed++;
    }
    if (cli->json) {
        int r = output_json(list, err);
        if (r < 0)
            return r;
    }
    return summarize(failed, args->operand_count, &last, err);
}

/* ---- the program ---- */

/* What every verb that has them means by these. */
static void take_common(struct cli *cli, const struct arguments *args)
{
    if (args->home != NULL)
        cli->home_override = args->home;
    cli->json = arguments_knows(args, "json") && arguments_has(args, "json");
    cli->quiet = arguments_knows(args, "quiet") && arguments_has(args, "quiet");
}

static int run_command(struct cli *cli, const struct command *command, int argc, char **argv,
                       struct error *err)
{
    _cleanup_(arguments_clear) struct arguments args;

    int r = arguments_parse(command, argc, argv, &args, err);
    if (r < 0)
        return r;
    if (args.help) {
        help_print_command(stdout, command);
        return 0;
    }
    take_common(cli, &args);
    return command->run(cli, &args, err);
}

static int unknown_verb(const char *name, struct error *err)
{
    const char *near = command_nearest(name);

    error_set(err, STATUS_USAGE, EINVAL, "there is no verb '%s'", name);
    if (near != NULL)
        error_hint(err, "did you mean %s?", near);
    else
        error_hint(err, "stasis help lists the verbs");
    return -EINVAL;
}

/* Options in front of the verb. Returns how many arguments they are; *verb_out is
 * set when an option stands for a verb (--version, --help). */
static int leading_options(struct cli *cli, int argc, char **argv, const char **verb_out,
                           struct error *err)
{
    int i = 0;

    for (; i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "--home") == 0 && i + 1 < argc) {
            cli->home_override = argv[++i];
        } else if (strncmp(argv[i], "--home=", 7) == 0) {
            cli->home_override = argv[i] + 7;
        } else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            *verb_out = "help";
        } else if (strcmp(argv[i], "--version") == 0) {
            *verb_out = "version";
        } else {
            error_set(err, STATUS_USAGE, EINVAL, "there is no option %s in front of the verb",
                      argv[i]);
            error_hint(err, "options of a verb go behind it: stasis VERB %s", argv[i]);
            return -EINVAL;
        }
    }
    return i;
}

static int dispatch(struct cli *cli, int argc, char **argv, struct error *err)
{
    const char *verb = NULL;

    int skip = leading_options(cli, argc, argv, &verb, err);
    if (skip < 0)
        return skip;
    argc -= skip;
    argv += skip;
    if (verb == NULL && argc == 0) {
        help_print_overview(stderr);
        return STATUS_USAGE;
    }
    if (verb == NULL) {
        verb = argv[0];
        argc--;
        argv++;
    }
    const struct command *command = command_find(verb);
    if (command == NULL)
        return unknown_verb(verb, err);
    return run_command(cli, command, argc, argv, err);
}

/* Output that did not arrive is a failure, except that nobody reads it. */
static int flush_output(struct error *err)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    const int errnum = errno != 0 ? errno : EIO;
    if (errnum == EPIPE)
        return STATUS_FAILED;
    return error_errno(err, errnum, "cannot write the result");
}

static int exit_code(int r, struct error *err)
{
    if (r >= 0)
        return r;
    if (err->status == STATUS_OK)
        error_errno(err, -r, "cannot go on");
    if (interrupt_pending() && err->status != STATUS_INTERRUPTED &&
        (r == -ECANCELED || r == -EINTR)) {
        err->status = STATUS_INTERRUPTED;
        err->hint[0] = '\0';
        snprintf(err->message, sizeof(err->message), "interrupted; nothing was left half done");
    }
    if (err->status == STATUS_HOST_CANNOT && err->hint[0] == '\0')
        error_hint(err, "stasis doctor says what this host can do");
    cli_print_error(err);
    return (int)err->status;
}

/* What is opened next would else be standard input or output: a pipe that is missing
 * must not make a file of the store the place where results go. Opened the wrong way
 * round, so that using them fails as it does with descriptors that are closed. */
static void fill_standard_descriptors(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
            (void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

int cli_main(int argc, char **argv)
{
    struct cli cli = {0};
    struct error err = ERROR_INIT;

    fill_standard_descriptors();
    /* A reader of ours that goes away is an error like any other. */
    signal(SIGPIPE, SIG_IGN);
    int r = dispatch(&cli, argc - 1, argv + 1, &err);
    int flushed = flush_output(r < 0 ? NULL : &err);
    if (r >= 0 && flushed != 0)
        r = flushed;
    int code = exit_code(r, &err);
    if (cli.store != NULL)
        store_close(cli.store);
    home_clear(&cli.home);
    return code;
}
