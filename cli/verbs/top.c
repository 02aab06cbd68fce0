/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/top.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "cli/interrupt.h"
#include "cli/machines.h"
#include "cli/verbs/verbs.h"
#include "store/catalogue.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>

enum { ANSWER_MS = 1000, NS_PER_MS = 1000000, DEFAULT_MS = 1000, HEADER_LINES = 2 };

struct top {
    struct cli *cli;
    json_t *before; /* the last answers, by name */
    const char *only;
    const char *order;
    bool dirty;
    bool screen; /* draw on a terminal */
    bool keys;   /* and read from one */
    bool quit;
    uint64_t interval_ms;
};

/* ---- asking ---- */

/* Those that run; new answers take the place of the old ones. */
static int ask_all(struct top *top, json_t *rows, struct error *err)
{
    _cleanup_json_ json_t *args = json_pack("{s:b}", "written", top->dirty);
    struct catalogue_machine *list = NULL;
    json_t *answers = json_object();
    size_t count = 0;

    int r = catalogue_machine_list(top->cli->store, &list, &count, err);
    for (size_t i = 0; r >= 0 && i < count; i++) {
        const char *name = list[i].name;
        json_t *stats = NULL;
        struct error ignored;
        if ((top->only != NULL && strcmp(top->only, name) != 0) ||
            !machine_is_running(&top->cli->home, name))
            continue;
        machines_call(top->cli, name, "stats", args, ANSWER_MS, &stats, &ignored);
        json_array_append_new(rows, top_row(name, json_object_get(top->before, name), stats));
        if (stats != NULL)
            json_object_set_new(answers, name, stats);
    }
    if (r >= 0)
        catalogue_machines_free(list, count);
    json_decref(top->before);
    top->before = answers;
    return r;
}

/* ---- showing ---- */

static int print_line(json_t *rows, struct error *err)
{
    _cleanup_json_ json_t *line =
        json_pack("{s:o, s:O}", "time", output_time(clock_wall_us()), "machines", rows);

    if (json_dumpf(line, stdout, JSON_COMPACT) < 0 || fputc('\n', stdout) < 0)
        return error_errno(err, EIO, "cannot write the result");
    return 0;
}

/* As much of each line, and as many lines, as there is room for; what was there before
 * is overwritten, so that nothing flickers. */
static void draw(const struct top *top, const char *text, size_t machines)
{
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    const bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > HEADER_LINES;
    const int columns = known && size.ws_col > 0 ? size.ws_col : 80;
    int left = (known ? size.ws_row : 24) - HEADER_LINES;

    printf("\033[H%zu running, by %s; keys: c m d n e a sort, q quits\033[K\r\n\033[K\r\n",
           machines, top->order);
    while (*text != '\0' && left-- > 0) {
        const int length = (int)strcspn(text, "\n");
        printf("%.*s\033[K", length < columns ? length : columns, text);
        text += length + (text[length] == '\n');
        if (*text != '\0' && left > 0)
            fputs("\r\n", stdout);
    }
    fputs("\033[J", stdout);
}

static int show(struct top *top, json_t *rows, struct error *err)
{
    const struct output_list list = {.columns = top_columns, .name_key = "name"};
    char *text = NULL;
    int r;

    top_sort(rows, top->order);
    if (top->cli->json) {
        r = print_line(rows, err);
    } else {
        r = output_table_text(&list, rows, &text, err);
        if (r == 0 && top->screen)
            draw(top, text, json_array_size(rows));
        else if (r == 0)
            printf("%s\n", text);
        free(text);
    }
    if (r == 0 && fflush(stdout) != 0)
        r = error_errno(err, errno, "cannot write the result");
    return r;
}

/* ---- time and keys ---- */

static void take_keys(struct top *top)
{
    char keys[16];
    ssize_t n = read(STDIN_FILENO, keys, sizeof(keys));

    top->quit |= n == 0; /* the terminal is gone */
    for (ssize_t i = 0; i < n; i++) {
        const char *order = top_order_of_key(keys[i]);
        top->quit |= keys[i] == 'q' || keys[i] == 'Q';
        if (order != NULL)
            top->order = order;
    }
}

/* Until it is time for the next look, or a key or signal says so. */
static void pass_time(struct top *top)
{
    const uint64_t end_ns = clock_monotonic_ns() + top->interval_ms * NS_PER_MS;
    struct pollfd keyboard = {.fd = top->keys ? STDIN_FILENO : -1, .events = POLLIN};

    while (!top->quit && !interrupt_pending()) {
        const uint64_t now_ns = clock_monotonic_ns();
        if (now_ns >= end_ns)
            return;
        if (poll(&keyboard, 1, (int)((end_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS)) > 0) {
            take_keys(top);
            return;
        }
    }
}

/* ---- the terminal ---- */

static void prepare_screen(struct top *top, struct termios *saved)
{
    if (!top->screen)
        return;
    fputs("\033[?1049h\033[?25l\033[2J", stdout);
    if (!top->keys)
        return;
    struct termios modes = *saved;
    modes.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    tcsetattr(STDIN_FILENO, TCSADRAIN, &modes);
}

static void restore_screen(const struct top *top, const struct termios *saved)
{
    if (!top->screen)
        return;
    if (top->keys)
        tcsetattr(STDIN_FILENO, TCSADRAIN, saved);
    fputs("\033[?25h\033[?1049l", stdout);
    fflush(stdout);
}

/* ---- the verb ---- */

/* The first look is for the second to be compared with. */
static int look_on(struct top *top, uint64_t count, struct error *err)
{
    _cleanup_json_ json_t *first = json_array();

    int r = ask_all(top, first, err);
    if (r >= 0 && top->screen)
        r = show(top, first, err);
    for (uint64_t shown = 0; r >= 0 && shown < count; shown++) {
        _cleanup_json_ json_t *rows = json_array();
        pass_time(top);
        if (top->quit || interrupt_pending())
            return 0;
        r = ask_all(top, rows, err);
        if (r >= 0)
            r = show(top, rows, err);
    }
    return r;
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    struct termios saved = {0};
    struct top top = {
        .cli = cli,
        .only = arguments_operand(args, 0),
        .order = arguments_text(args, "sort", top_orders[0]),
        .dirty = arguments_has(args, "dirty"),
        .interval_ms = arguments_number(args, "interval", DEFAULT_MS),
        .screen = !cli->json && isatty(STDOUT_FILENO) == 1,
    };

    top.keys = top.screen && tcgetattr(STDIN_FILENO, &saved) == 0;
    int r = top.only != NULL ? machines_require(cli, top.only, err) : cli_store(cli, err);
    if (r < 0)
        return r;
    interrupt_catch();
    prepare_screen(&top, &saved);
    r = look_on(&top, arguments_number(args, "count", UINT64_MAX), err);
    restore_screen(&top, &saved);
    json_decref(top.before);
    return r;
}

static const struct option_spec options[] = {
    {.name = "sort",
     .type = OPTION_CHOICE,
     .value = "ORDER",
     .choices = top_orders,
     .help = "most of this first: cpu (default), memory (unique), disk, net, exits; or by name"},
    {.name = "count",
     .letter = 'n',
     .type = OPTION_NUMBER,
     .value = "COUNT",
     .min = 1,
     .help = "look so many times (default: until q or Ctrl-C)"},
    {.name = "interval",
     .type = OPTION_DURATION,
     .value = "TIME",
     .min = 100,
     .max = 3600000,
     .help = "look so often (default: 1s)"},
    {.name = "dirty", .help = "measure what is written to memory; guests pay faults for it"},
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_top = {
    .name = "top",
    .summary = "Show what running machines do, once a second",
    .usage = "top [MACHINE] [--sort ORDER] [-n COUNT] [--json]",
    .details =
        "MEMORY is what a machine's process has in memory: SHARED with others, and UNIQUE. "
        "EXITS are from the guest to KVM. IO, READ and WRITE are of disks, IN and OUT of the "
        "network, seen from the guest. DIRTY is memory written: between the last two saves, or "
        "with --dirty now. On a terminal c, m, d, n, e and a (by name) sort, and q quits. With "
        "--json each "
        "look is a line: time, and machines, an array.",
    .example = "stasis top --json -n 1",
    .options = options,
    .operands = {{.name = "MACHINE", .optional = true, .completion = COMPLETE_MACHINE}},
    .run = run,
};
