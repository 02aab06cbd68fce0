/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/terminal.h"

#include "test.h"

#include <fcntl.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

enum { CTRL_A = 1 };

/* ---- the escape key ---- */

static size_t filter(struct terminal_filter *f, const char *in, char *out, bool *detach)
{
    size_t n = terminal_filter_input(f, (const uint8_t *)in, strlen(in), (uint8_t *)out, detach);

    out[n] = '\0';
    return n;
}

static void assert_filtered(const char *in, const char *wanted, bool wanted_detach)
{
    struct terminal_filter f = {.escape = CTRL_A};
    char out[64];
    bool detach = false;

    filter(&f, in, out, &detach);
    assert_string_equal(out, wanted);
    assert_int_equal(detach, wanted_detach);
}

static void escape_d_detaches(void **state)
{
    (void)state;
    assert_filtered("\001d", "", true);
    assert_filtered("ls\001dxx", "ls", true);
    assert_filtered("d", "d", false);
}

static void escape_and_its_letter_send_the_control_character(void **state)
{
    (void)state;
    assert_filtered("\001a", "\001", false);
    assert_filtered("\001A", "\001", false);
    assert_filtered("\001\001", "\001", false);
    assert_filtered("\001ad", "\001d", false);
}

static void escape_and_another_key_send_both(void **state)
{
    (void)state;
    assert_filtered("\001x", "\001x", false);
}

static void an_escape_is_remembered_between_reads(void **state)
{
    struct terminal_filter f = {.escape = CTRL_A};
    char out[64];
    bool detach = false;

    (void)state;
    assert_int_equal(filter(&f, "x\001", out, &detach), 1);
    assert_false(detach);
    filter(&f, "d", out, &detach);
    assert_true(detach);
}

static void without_an_escape_all_is_sent(void **state)
{
    struct terminal_filter f = {.escape = -1};
    char out[64];
    bool detach = false;

    (void)state;
    filter(&f, "\001d", out, &detach);
    assert_string_equal(out, "\001d");
    assert_false(detach);
}

static void assert_escape(const char *text, int wanted)
{
    int escape = 99;
    struct error err = ERROR_INIT;

    assert_int_equal(terminal_parse_escape(text, &escape, &err), 0);
    assert_int_equal(escape, wanted);
}

static void escape_keys_are_read_in_all_spellings(void **state)
{
    int escape = 99;
    struct error err = ERROR_INIT;

    (void)state;
    assert_escape("ctrl-a", 1);
    assert_escape("Ctrl-B", 2);
    assert_escape("^z", 26);
    assert_escape("C-]", 29);
    assert_escape("a", 1);
    assert_escape("none", -1);
    assert_true(terminal_parse_escape("ctrl-1", &escape, &err) < 0);
    assert_true(terminal_parse_escape("ctrl-", &escape, &err) < 0);
    assert_true(terminal_parse_escape("", &escape, &err) < 0);
    assert_int_equal(err.status, STATUS_USAGE);
    assert_int_equal(escape, 99);
}

/* ---- joining ---- */

/* Standard input and output replaced for one test, and a line with two ends. */
struct fixture {
    int saved_in;
    int saved_out;
    int input;  /* write here what is typed; -1 once closed */
    int output; /* read here what is printed */
    int line[2];
};

static int set_up(void **state)
{
    static struct fixture f;
    int in[2];
    int out[2];

    if (pipe(in) < 0 || pipe(out) < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, f.line) < 0)
        return -1;
    f.saved_in = dup(STDIN_FILENO);
    f.saved_out = dup(STDOUT_FILENO);
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    close(in[0]);
    close(out[1]);
    f.input = in[1];
    f.output = out[0];
    *state = &f;
    return 0;
}

static void end_input(struct fixture *f)
{
    close(f->input);
    f->input = -1;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    dup2(f->saved_in, STDIN_FILENO);
    dup2(f->saved_out, STDOUT_FILENO);
    close(f->saved_in);
    close(f->saved_out);
    if (f->input >= 0)
        close(f->input);
    close(f->output);
    close(f->line[0]);
    if (f->line[1] >= 0)
        close(f->line[1]);
    return 0;
}

static enum terminal_end join(struct fixture *f, bool wait, int timeout_ms)
{
    const struct terminal_options options = {
        .escape = CTRL_A, .wait = wait, .timeout_ms = timeout_ms};
    enum terminal_end end = (enum terminal_end)99;
    struct error err = ERROR_INIT;

    assert_int_equal(terminal_join(f->line[0], &options, &end, &err), 0);
    return end;
}

static void assert_reads(int fd, const char *wanted)
{
    char text[128] = "";
    size_t used = 0;

    while (used < strlen(wanted)) {
        ssize_t n = read(fd, text + used, strlen(wanted) - used);
        if (n <= 0)
            break;
        used += (size_t)n;
    }
    assert_string_equal(text, wanted);
}

static void input_from_a_file_is_sent_as_it_is(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(write(f->input, "\001d!", 3), 3);
    end_input(f);
    assert_int_equal(join(f, false, 5000), TERMINAL_INPUT_ENDED);
    assert_reads(f->line[1], "\001d!");
}

static void output_is_printed_until_the_machine_ends(void **state)
{
    struct fixture *f = *state;

    end_input(f);
    assert_int_equal(write(f->line[1], "hello", 5), 5);
    close(f->line[1]);
    f->line[1] = -1;
    assert_int_equal(join(f, true, 5000), TERMINAL_MACHINE_ENDED);
    assert_reads(f->output, "hello");
}

/* Signals are blocked but while waiting: it must not wait within write(). */
static void output_that_nobody_reads_does_not_hold_it(void **state)
{
    struct fixture *f = *state;
    char chunk[4096];

    memset(chunk, 'x', sizeof(chunk));
    end_input(f);
    fcntl(f->line[1], F_SETFL, O_NONBLOCK);
    /* More than a pipe holds, and the reader of the pipe does not read. */
    while (write(f->line[1], chunk, sizeof(chunk)) > 0)
        continue;
    assert_int_equal(join(f, true, 50), TERMINAL_TIMED_OUT);
}

static void waiting_ends_with_the_time_given(void **state)
{
    struct fixture *f = *state;

    end_input(f);
    assert_int_equal(join(f, true, 20), TERMINAL_TIMED_OUT);
}

/* More than a socket holds, and nobody reads: neither side may block for ever. */
static void a_machine_that_does_not_read_is_no_deadlock(void **state)
{
    struct fixture *f = *state;
    char chunk[4096];

    memset(chunk, 'x', sizeof(chunk));
    fcntl(f->input, F_SETFL, O_NONBLOCK);
    while (write(f->input, chunk, sizeof(chunk)) > 0)
        continue;
    int size = 4096;
    setsockopt(f->line[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    assert_int_equal(join(f, true, 50), TERMINAL_TIMED_OUT);
}

static void signal_handlers_come_back(void **state)
{
    struct fixture *f = *state;
    struct sigaction before;
    struct sigaction after;

    sigaction(SIGTERM, NULL, &before);
    assert_int_equal(join(f, true, 10), TERMINAL_TIMED_OUT);
    sigaction(SIGTERM, NULL, &after);
    assert_true(before.sa_handler == after.sa_handler);
}

/* ---- with a terminal ---- */

struct typist {
    int master;
    const char *text;
    pthread_t main_thread;
    int signum;
};

static void *type(void *context)
{
    struct typist *t = context;
    struct termios modes;

    /* Only once it is raw: before, the terminal itself would eat the keys. */
    do {
        tcgetattr(t->master, &modes);
        usleep(1000);
    } while ((modes.c_lflag & ICANON) != 0);
    if (t->signum != 0)
        pthread_kill(t->main_thread, t->signum);
    else if (t->text == NULL)
        close(t->master);
    else if (write(t->master, t->text, strlen(t->text)) < 0)
        abort();
    return NULL;
}

static enum terminal_end join_terminal(struct fixture *f, struct typist *t, struct termios *after)
{
    int slave;
    pthread_t thread;

    assert_int_equal(openpty(&t->master, &slave, NULL, NULL, NULL), 0);
    dup2(slave, STDIN_FILENO);
    t->main_thread = pthread_self();
    pthread_create(&thread, NULL, type, t);
    enum terminal_end end = join(f, true, 5000);
    pthread_join(thread, NULL);
    tcgetattr(slave, after);
    close(slave);
    return end;
}

static void the_terminal_is_raw_meanwhile_and_not_afterwards(void **state)
{
    struct termios after;
    struct typist t = {.text = "hi\003\001d"};

    assert_int_equal(join_terminal(*state, &t, &after), TERMINAL_DETACHED);
    assert_reads(((struct fixture *)*state)->line[1], "hi\003");
    assert_true((after.c_lflag & ICANON) != 0);
    assert_true((after.c_lflag & ECHO) != 0);
    close(t.master);
}

static void a_terminal_that_goes_away_detaches(void **state)
{
    struct termios after;
    struct typist t = {.text = NULL};

    assert_int_equal(join_terminal(*state, &t, &after), TERMINAL_DETACHED);
}

static void a_signal_puts_the_terminal_back(void **state)
{
    struct termios after;
    struct typist t = {.signum = SIGTERM};

    assert_int_equal(join_terminal(*state, &t, &after), TERMINAL_INTERRUPTED);
    assert_true((after.c_lflag & ICANON) != 0);
    close(t.master);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(escape_d_detaches),
        cmocka_unit_test(escape_and_its_letter_send_the_control_character),
        cmocka_unit_test(escape_and_another_key_send_both),
        cmocka_unit_test(an_escape_is_remembered_between_reads),
        cmocka_unit_test(without_an_escape_all_is_sent),
        cmocka_unit_test(escape_keys_are_read_in_all_spellings),
        TEST(input_from_a_file_is_sent_as_it_is),
        TEST(output_is_printed_until_the_machine_ends),
        TEST(output_that_nobody_reads_does_not_hold_it),
        TEST(waiting_ends_with_the_time_given),
        TEST(a_machine_that_does_not_read_is_no_deadlock),
        TEST(signal_handlers_come_back),
        TEST(the_terminal_is_raw_meanwhile_and_not_afterwards),
        TEST(a_terminal_that_goes_away_detaches),
        TEST(a_signal_puts_the_terminal_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
