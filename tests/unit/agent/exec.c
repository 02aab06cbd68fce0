/* SPDX-License-Identifier: Apache-2.0 */
/* Commands by the real agent: streams, exit codes, terminals, ends. */
#include "fixture.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "cli/exec.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

enum { BIG = 100 << 20 };

/* What of a command is not as usual. */
struct spec {
    uint32_t flags;
    uint16_t rows, columns;
    const char **environment;
    const char *directory, *user;
    const char *input; /* name of a file */
};

struct outcome {
    int r, code;
    struct error err;
};

static int open_in(const struct fixture *f, const char *name, int flags)
{
    _cleanup_free_ char *path = fixture_path(f, name);
    int fd = open(path, flags | O_CLOEXEC, 0644);

    assert_true(fd >= 0);
    return fd;
}

/* Runs argv; what it prints is in the files "out" and "err". */
static struct outcome run(const struct fixture *f, const char **argv, const struct spec *spec)
{
    static const char *nothing[] = {NULL};
    static const struct spec usual = {0};
    const struct spec *s = spec != NULL ? spec : &usual;
    struct outcome o = {.code = -1, .err = ERROR_INIT};
    _cleanup_close_ int in =
        s->input != NULL ? open_in(f, s->input, O_RDONLY) : open("/dev/null", O_RDONLY | O_CLOEXEC);
    _cleanup_close_ int out = open_in(f, "out", O_WRONLY | O_CREAT | O_TRUNC);
    _cleanup_close_ int err = open_in(f, "err", O_WRONLY | O_CREAT | O_TRUNC);
    const struct exec_streams streams = {.in = in, .out = out, .err = err, .escape = -1};
    const struct agent_exec request = {
        .flags = s->flags | (s->input != NULL ? AGENT_EXEC_INPUT : 0u),
        .rows = s->rows,
        .columns = s->columns,
        .argv = argv,
        .environment = s->environment != NULL ? s->environment : nothing,
        .directory = s->directory != NULL ? s->directory : "",
        .user = s->user != NULL ? s->user : "",
    };
    struct channel ch;

    fixture_connect(f, &ch);
    o.r = exec_run(&ch, &request, &streams, &o.code, &o.err);
    channel_clear(&ch);
    if (o.r < 0)
        print_message("%s\n", o.err.message);
    return o;
}

static struct outcome run_shell(const struct fixture *f, const char *script,
                                const struct spec *spec)
{
    const char *argv[] = {"/bin/sh", "-c", script, NULL};

    return run(f, argv, spec);
}

#define assert_printed(f, name, text)                                                              \
    do {                                                                                           \
        char *printed_ = fixture_read(f, name);                                                    \
        assert_string_equal(printed_, text);                                                       \
        free(printed_);                                                                            \
    } while (0)

/* ---- results ---- */

static void prints_what_it_prints(void **state)
{
    const char *argv[] = {"echo", "hello", "", "two  words", NULL};
    struct outcome o = run(*state, argv, NULL);

    assert_int_equal(o.r, 0);
    assert_int_equal(o.code, 0);
    assert_printed(*state, "out", "hello  two  words\n");
    assert_printed(*state, "err", "");
}

static void keeps_the_streams_apart(void **state)
{
    struct outcome o = run_shell(*state, "echo out; echo err >&2", NULL);

    assert_int_equal(o.code, 0);
    assert_printed(*state, "out", "out\n");
    assert_printed(*state, "err", "err\n");
}

static void passes_exit_codes_on(void **state)
{
    static const char *const scripts[] = {"exit 0", "exit 1", "exit 42", "exit 255"};
    static const int codes[] = {0, 1, 42, 255};

    for (int i = 0; i < 4; i++) {
        struct outcome o = run_shell(*state, scripts[i], NULL);
        assert_int_equal(o.r, 0);
        assert_int_equal(o.code, codes[i]);
    }
}

static void tells_signals_as_shells_do(void **state)
{
    assert_int_equal(run_shell(*state, "kill -KILL $$", NULL).code, 128 + SIGKILL);
    assert_int_equal(run_shell(*state, "kill -TERM $$", NULL).code, 128 + SIGTERM);
}

static void says_that_a_command_is_not_there(void **state)
{
    const char *argv[] = {"no-such-command-anywhere", NULL};
    struct outcome o = run(*state, argv, NULL);

    assert_true(o.r < 0);
    assert_int_equal(o.err.status, STATUS_EXEC_NOT_FOUND);
    assert_non_null(strstr(o.err.message, "no-such-command-anywhere"));
}

static void says_that_a_command_cannot_be_run(void **state)
{
    const char *argv[] = {"/etc/passwd", NULL};
    struct outcome o = run(*state, argv, NULL);

    assert_int_equal(o.err.status, STATUS_EXEC_CANNOT_RUN);
    assert_non_null(strstr(o.err.message, "Permission denied"));
}

static void says_that_there_is_no_such_user_or_directory(void **state)
{
    const struct spec user = {.user = "no-such-user"};
    const struct spec directory = {.directory = "/no/such/directory"};

    assert_int_equal(run_shell(*state, "true", &user).err.status, STATUS_EXEC_CANNOT_RUN);
    assert_int_equal(run_shell(*state, "true", &directory).err.status, STATUS_EXEC_CANNOT_RUN);
}

/* ---- surroundings ---- */

static void sets_variables_and_directory(void **state)
{
    const char *environment[] = {"COLOUR=dark green", "EMPTY=", NULL};
    const struct spec spec = {.environment = environment, .directory = "/usr"};
    struct outcome o = run_shell(*state, "echo \"$COLOUR,${EMPTY-unset},$PWD\"", &spec);

    assert_int_equal(o.code, 0);
    assert_printed(*state, "out", "dark green,,/usr\n");
}

static void begins_with_a_clean_environment(void **state)
{
    const char *argv[] = {"env", NULL};

    setenv("LEAKED", "yes", 1);
    assert_int_equal(run(*state, argv, NULL).code, 0);
    char *printed = fixture_read(*state, "out");
    assert_null(strstr(printed, "LEAKED"));
    assert_non_null(strstr(printed, "PATH=/usr/local/sbin"));
    assert_non_null(strstr(printed, "HOME=/"));
    free(printed);
}

static void becomes_another_user(void **state)
{
    const struct spec spec = {.user = "nobody"};

    if (getuid() != 0)
        skip();
    assert_int_equal(run_shell(*state, "id -un; id -G; echo $USER", &spec).code, 0);
    assert_printed(*state, "out", "nobody\n65534\nnobody\n");
}

static void takes_a_user_by_number(void **state)
{
    const struct spec spec = {.user = "54321"};

    if (getuid() != 0)
        skip();
    assert_int_equal(run_shell(*state, "id -u", &spec).code, 0);
    assert_printed(*state, "out", "54321\n");
}

static void leaves_no_descriptors_open(void **state)
{
    assert_int_equal(run_shell(*state, "ls /proc/self/fd | tr '\\n' ' '", NULL).code, 0);
    /* 3 is that of ls itself. */
    assert_printed(*state, "out", "0 1 2 3 ");
}

/* ---- streams ---- */

static void has_no_input_unless_asked_for(void **state)
{
    const char *argv[] = {"cat", NULL};

    assert_int_equal(run(*state, argv, NULL).code, 0);
    assert_printed(*state, "out", "");
}

static void ends_the_commands_input_with_ours(void **state)
{
    const char *argv[] = {"wc", "-c", NULL};
    const struct spec spec = {.input = "in"};

    fixture_write(*state, "in", "12345", 5);
    assert_int_equal(run(*state, argv, &spec).code, 0);
    assert_printed(*state, "out", "5\n");
}

static void takes_a_hundred_megabytes_both_ways(void **state)
{
    const char *argv[] = {"cat", NULL};
    const struct spec spec = {.input = "in"};

    fixture_write(*state, "in", NULL, BIG);
    assert_int_equal(run(*state, argv, &spec).code, 0);
    assert_true(fixture_same(*state, "in", "out"));
}

static void does_not_wait_for_input_that_nobody_reads(void **state)
{
    const struct spec spec = {.input = "in"};

    fixture_write(*state, "in", NULL, 4 << 20);
    assert_int_equal(run_shell(*state, "exit 5", &spec).code, 5);
    assert_int_equal(run_shell(*state, "exec <&-; sleep 0.1; echo done", &spec).code, 0);
    assert_printed(*state, "out", "done\n");
}

static void prints_all_that_came_before_the_end(void **state)
{
    for (int i = 0; i < 20; i++) {
        assert_int_equal(run_shell(*state, "yes | head -c 200000; exit 3", NULL).code, 3);
        _cleanup_free_ char *printed = fixture_read(*state, "out");
        assert_int_equal(strlen(printed), 200000);
    }
}

static void does_not_wait_for_what_is_left_in_the_background(void **state)
{
    struct outcome o = run_shell(*state, "sleep 600 & echo $!", NULL);

    assert_int_equal(o.code, 0);
    _cleanup_free_ char *printed = fixture_read(*state, "out");
    const pid_t pid = (pid_t)strtol(printed, NULL, 10);
    assert_true(pid > 1);
    assert_int_equal(kill(pid, SIGKILL), 0); /* it went on */
}

/* ---- terminals ---- */

static void gives_it_a_terminal_of_that_size(void **state)
{
    const struct spec spec = {.flags = AGENT_EXEC_TTY, .rows = 33, .columns = 101};

    assert_int_equal(run_shell(*state, "test -t 0 && test -t 2 && stty size", &spec).code, 0);
    assert_printed(*state, "out", "33 101\r\n");
}

static void types_input_into_the_terminal(void **state)
{
    const struct spec spec = {.flags = AGENT_EXEC_TTY, .input = "in"};

    fixture_write(*state, "in", "typed\n", 6);
    assert_int_equal(run_shell(*state, "stty -echo; read x; echo got $x", &spec).code, 0);
    _cleanup_free_ char *printed = fixture_read(*state, "out");
    assert_non_null(strstr(printed, "got typed\r\n"));
}

static void ends_a_terminals_input_with_ours(void **state)
{
    const struct spec spec = {.flags = AGENT_EXEC_TTY, .input = "in"};

    fixture_write(*state, "in", "a line\n", 7);
    assert_int_equal(run_shell(*state, "cat >/dev/null; echo over", &spec).code, 0);
    _cleanup_free_ char *printed = fixture_read(*state, "out");
    assert_non_null(strstr(printed, "over"));
}

static void prints_all_of_a_terminal(void **state)
{
    const struct spec spec = {.flags = AGENT_EXEC_TTY};

    for (int i = 0; i < 20; i++) {
        assert_int_equal(run_shell(*state, "seq 5000; exit 9", &spec).code, 9);
        _cleanup_free_ char *printed = fixture_read(*state, "out");
        assert_non_null(strstr(printed, "\n5000\r\n"));
    }
}

static void sends_interrupts_through_the_terminal(void **state)
{
    const struct spec spec = {.flags = AGENT_EXEC_TTY, .input = "in"};

    fixture_write(*state, "in", "\003", 1);
    assert_int_equal(run_shell(*state, "exec sleep 600", &spec).code, 128 + SIGINT);
}

/* ---- ends ---- */

static bool has_ended(const void *context)
{
    return kill(*(const pid_t *)context, 0) < 0 && errno == ESRCH;
}

static void begin(const struct fixture *f, const char *script, uint32_t flags, struct channel *ch)
{
    const char *argv[] = {"/bin/sh", "-c", script, NULL};
    const char *nothing[] = {NULL};
    const struct agent_exec request = {
        .flags = flags, .argv = argv, .environment = nothing, .directory = "", .user = ""};
    _cleanup_(buffer_clear) struct buffer payload = {0};

    fixture_connect(f, ch);
    assert_int_equal(agent_exec_encode(&request, &payload), 0);
    assert_int_equal(channel_send(ch, AGENT_EXEC, payload.data, payload.length), 0);
}

/* The number that the command prints first. */
static pid_t printed_pid(struct channel *ch)
{
    char text[32];
    struct frame frame;

    assert_int_equal(channel_receive(ch, &frame), 0);
    assert_int_equal(frame.type, AGENT_OUTPUT);
    snprintf(text, sizeof(text), "%.*s", (int)frame.length, (const char *)frame.payload);
    return (pid_t)strtol(text, NULL, 10);
}

static void ends_the_command_when_nobody_listens_any_more(void **state)
{
    static const uint32_t flags[] = {0, AGENT_EXEC_TTY};

    for (int i = 0; i < 2; i++) {
        struct channel ch;
        begin(*state, "trap '' HUP; echo $$; while :; do sleep 0.05; done", flags[i], &ch);
        const pid_t pid = printed_pid(&ch);
        assert_true(pid > 1);
        channel_clear(&ch);
        assert_true(fixture_await(has_ended, &pid));
    }
}

static void ends_a_command_that_prints_to_nobody(void **state)
{
    struct channel ch;

    begin(*state, "echo $$; exec yes", 0, &ch);
    const pid_t pid = printed_pid(&ch);
    channel_clear(&ch);
    assert_true(fixture_await(has_ended, &pid));
}

static long memory_kib(pid_t pid)
{
    char path[64], line[128];
    long kib = -1;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    _cleanup_fclose_ FILE *file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL)
        if (sscanf(line, "VmRSS: %ld", &kib) == 1)
            break;
    return kib;
}

static pid_t parent_of(pid_t pid)
{
    char path[64], line[128];
    int parent = -1;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    _cleanup_fclose_ FILE *file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL)
        if (sscanf(line, "PPid: %d", &parent) == 1)
            break;
    return parent;
}

struct sleeper {
    pid_t pid;
};

/* Blocked in a write to its pipe. */
static bool sleeps(const void *context)
{
    const struct sleeper *s = context;
    char path[64], name[64] = "";

    snprintf(path, sizeof(path), "/proc/%d/wchan", (int)s->pid);
    _cleanup_fclose_ FILE *file = fopen(path, "re");
    return file != NULL && fgets(name, sizeof(name), file) != NULL && strstr(name, "pipe") != NULL;
}

static void holds_a_command_back_whose_output_nobody_reads(void **state)
{
    struct channel ch;

    begin(*state, "echo $$; exec yes", 0, &ch);
    const struct sleeper yes = {.pid = printed_pid(&ch)};
    assert_true(fixture_await(sleeps, &yes));
    assert_in_range(memory_kib(parent_of(yes.pid)), 1, 4096);
    channel_clear(&ch);
    assert_true(fixture_await(has_ended, &yes.pid));
}

static void hears_signals_though_its_input_is_full(void **state)
{
    static const uint8_t chunk[32 << 10];
    const uint8_t term[4] = {SIGTERM};
    struct channel ch;
    struct frame frame;
    struct agent_end end;

    begin(*state, "exec sleep 600", AGENT_EXEC_INPUT, &ch);
    for (int i = 0; i < 8; i++) /* the window */
        assert_int_equal(channel_send(&ch, AGENT_INPUT, chunk, sizeof(chunk)), 0);
    assert_int_equal(channel_send(&ch, AGENT_SIGNAL, term, sizeof(term)), 0);
    do
        assert_int_equal(channel_receive(&ch, &frame), 0);
    while (frame.type == AGENT_INPUT_TAKEN);
    assert_int_equal(frame.type, AGENT_EXIT);
    assert_int_equal(agent_end_decode(&frame, &end), 0);
    assert_true(end.by_signal);
    assert_int_equal(end.value, SIGTERM);
    channel_clear(&ch);
}

static void follows_the_terminals_size(void **state)
{
    const struct agent_size size = {.rows = 12, .columns = 34};
    _cleanup_(buffer_clear) struct buffer payload = {0};
    struct channel ch;
    struct frame frame;

    begin(*state, "trap 'stty size; exit 0' WINCH; echo $$; while :; do sleep 0.05; done",
          AGENT_EXEC_TTY, &ch);
    printed_pid(&ch);
    assert_int_equal(agent_size_encode(&size, &payload), 0);
    assert_int_equal(channel_send(&ch, AGENT_RESIZE, payload.data, payload.length), 0);
    assert_int_equal(channel_receive(&ch, &frame), 0);
    assert_int_equal(frame.type, AGENT_OUTPUT);
    assert_memory_equal(frame.payload, "12 34", 5);
    channel_clear(&ch);
}

/* ---- several at once ---- */

static void *run_in_thread(void *context)
{
    const struct fixture *f = context;
    _cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    const struct exec_streams streams = {.in = null, .out = null, .err = null, .escape = -1};
    struct channel ch;
    struct frame frame;
    intptr_t code = -1;
    struct agent_end end;

    (void)streams;
    begin(f, "sleep 0.2; exit 17", 0, &ch);
    if (channel_receive(&ch, &frame) == 0 && frame.type == AGENT_EXIT &&
        agent_end_decode(&frame, &end) == 0)
        code = end.value;
    channel_clear(&ch);
    return (void *)code;
}

static void serves_many_at_once(void **state)
{
    pthread_t threads[24];
    void *code;

    for (size_t i = 0; i < 24; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_in_thread, *state), 0);
    for (size_t i = 0; i < 24; i++) {
        assert_int_equal(pthread_join(threads[i], &code), 0);
        assert_int_equal((intptr_t)code, 17);
    }
}

static void is_small(void **state)
{
    struct stat st;

    (void)state;
    assert_int_equal(stat(STASIS_AGENT_PROGRAM, &st), 0);
    assert_in_range(st.st_size, 1, 200 << 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prints_what_it_prints),
        cmocka_unit_test(keeps_the_streams_apart),
        cmocka_unit_test(passes_exit_codes_on),
        cmocka_unit_test(tells_signals_as_shells_do),
        cmocka_unit_test(says_that_a_command_is_not_there),
        cmocka_unit_test(says_that_a_command_cannot_be_run),
        cmocka_unit_test(says_that_there_is_no_such_user_or_directory),
        cmocka_unit_test(sets_variables_and_directory),
        cmocka_unit_test(begins_with_a_clean_environment),
        cmocka_unit_test(becomes_another_user),
        cmocka_unit_test(takes_a_user_by_number),
        cmocka_unit_test(leaves_no_descriptors_open),
        cmocka_unit_test(has_no_input_unless_asked_for),
        cmocka_unit_test(ends_the_commands_input_with_ours),
        cmocka_unit_test(takes_a_hundred_megabytes_both_ways),
        cmocka_unit_test(does_not_wait_for_input_that_nobody_reads),
        cmocka_unit_test(prints_all_that_came_before_the_end),
        cmocka_unit_test(does_not_wait_for_what_is_left_in_the_background),
        cmocka_unit_test(gives_it_a_terminal_of_that_size),
        cmocka_unit_test(types_input_into_the_terminal),
        cmocka_unit_test(ends_a_terminals_input_with_ours),
        cmocka_unit_test(prints_all_of_a_terminal),
        cmocka_unit_test(sends_interrupts_through_the_terminal),
        cmocka_unit_test(ends_the_command_when_nobody_listens_any_more),
        cmocka_unit_test(ends_a_command_that_prints_to_nobody),
        cmocka_unit_test(holds_a_command_back_whose_output_nobody_reads),
        cmocka_unit_test(hears_signals_though_its_input_is_full),
        cmocka_unit_test(follows_the_terminals_size),
        cmocka_unit_test(serves_many_at_once),
        cmocka_unit_test(is_small),
    };

    return cmocka_run_group_tests(tests, fixture_start, fixture_stop);
}
