/* SPDX-License-Identifier: Apache-2.0 */
/* The serial line: nothing typed or printed is lost, repeated or held up. */
#include "harness.h"

#include "base/io.h"
#include "vmm/control/client.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { MEMORY_MIB = 8, FREE_PAGE = 512 };

static char *log_of(struct site *site, const char *name)
{
    char *dir = home_machine_dir(&site->home, name);
    char *path = io_format("%s/console.log", dir);
    char *text = NULL;
    size_t length;

    assert_int_equal(io_read_file(AT_FDCWD, path, 64 << 20, &text, &length), 0);
    free(path);
    free(dir);
    return text;
}

/* A guest that sleeps is woken for every part of a line longer than the UART, of
 * which the last may be one byte. */
static void long_lines_reach_a_guest_that_sleeps(void **state)
{
    struct guest guest;
    enum { LINES = 1200, VALUES = 100 };

    guest_boot(&guest, *state, "m", MEMORY_MIB, 1);
    for (unsigned i = 0; i < LINES; i++)
        ask_ok(&guest, "write %u %*u", FREE_PAGE + i % VALUES, 7 + (int)(i % 30), i);
    for (unsigned i = 0; i < LINES / 4; i++) /* disks keep the event loop busy besides */
        ask_ok(&guest, "blk write %u %*u %u", i, 4 + (int)(i % 20), 1 + i % 64, i);
    for (unsigned i = LINES - VALUES; i < LINES; i++)
        assert_int_equal(ask_number(&guest, "value", 16, "read %u", FREE_PAGE + i % VALUES), i);
    guest_detach(&guest);
}

static void a_script_may_be_typed_at_once(void **state)
{
    struct site *site = *state;
    struct guest guest;
    char line[512];
    enum { LINES = 1000 };

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    for (unsigned i = 0; i < LINES; i++) {
        snprintf(line, sizeof(line), "write %u %u\n", FREE_PAGE + i, i + 1);
        guest_type(&guest, line);
    }
    for (unsigned i = 0; i < LINES; i++) {
        assert_true(guest_line(&guest, line, sizeof(line)));
        assert_string_equal(line, "ok");
    }
    assert_int_equal(ask_number(&guest, "value", 16, "read %d", FREE_PAGE + LINES - 1), LINES);
    guest_detach(&guest);
}

/* `stasis console --no-wait` leaves as soon as the machine has the bytes. */
static void what_was_typed_by_who_left_arrives(void **state)
{
    struct site *site = *state;
    struct guest guest;
    char *script = site_path(site, "script");
    enum { LINES = 1000 };

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    FILE *file = fopen(script, "w");
    assert_non_null(file);
    for (unsigned i = 0; i < LINES; i++)
        fprintf(file, "write %u %u\n", FREE_PAGE + i, i + 1);
    fclose(file);
    site->input = script;
    stasis_ok(site, "console m --no-wait");
    char line[512];
    for (unsigned i = 0; i < LINES; i++) {
        assert_true(guest_line(&guest, line, sizeof(line)));
        assert_string_equal(line, "ok");
    }
    assert_int_equal(ask_number(&guest, "value", 16, "read %d", FREE_PAGE + LINES - 1), LINES);
    guest_detach(&guest);
    free(script);
}

static void clients_that_go_away_harm_nothing(void **state)
{
    struct site *site = *state;
    struct guest guest, other;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    for (unsigned i = 0; i < 200; i++) { /* more than there is room for at once */
        guest_attach(&other, site, "m", 0);
        guest_type(&other, i % 2 == 0 ? "info\n" : " \n");
        guest_detach(&other);
    }
    guest_attach(&other, site, "m", 0);
    guest_type(&other, "pi"); /* in the middle of a word */
    guest_detach(&other);
    /* The rest of its word, once all of its own has come. */
    char *path = home_machine_socket(&site->home, "m");
    struct error err;
    assert_int_equal(control_request(path, "status", NULL, NULL, &err), 0);
    free(path);
    guest_type(&guest, "\n");
    while (strcmp(ask(&guest, "ping"), "ok") != 0)
        continue;
    ask_ok(&guest, "sumall");
    guest_detach(&guest);
}

static void collect(struct guest *guest, const char *until, char **text_out)
{
    char line[512];
    size_t used = 0;
    FILE *file = open_memstream(text_out, &used);

    assert_non_null(file);
    do {
        assert_true(guest_line(guest, line, sizeof(line)));
        fprintf(file, "%s\n", line);
    } while (strcmp(line, until) != 0);
    fclose(file);
}

/* One reads at once, one only when all is over, with hardly a buffer. */
static void all_clients_see_the_same(void **state)
{
    struct site *site = *state;
    struct guest guest, slow;
    char *fast_text, *slow_text;
    int small = 4096;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    guest_attach(&slow, site, "m", 0);
    setsockopt(slow.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    for (unsigned i = 0; i < 3000; i++)
        guest_type(&guest, i % 2 == 0 ? "info\n" : "count get\n");
    guest_type(&guest, "the end\n");
    collect(&guest, "error no such command", &fast_text);
    collect(&slow, "error no such command", &slow_text);
    assert_true(strlen(fast_text) > 100000);
    assert_string_equal(fast_text, slow_text);
    char *log = log_of(site, "m");
    assert_non_null(strstr(log, fast_text));
    free(log);
    free(fast_text);
    free(slow_text);
    guest_detach(&guest);
    guest_detach(&slow);
}

static void replay_begins_with_the_first_byte(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    ask_ok(&guest, "info");
    char *log = log_of(site, "m");
    guest_type(&guest, "off\n");
    char line[512];
    while (guest_line(&guest, line, sizeof(line)))
        continue;
    machine_gone(site, "m");
    stasis_ok(site, "logs m");
    assert_int_equal(strncmp(site->out, log, strlen(log)), 0);
    assert_int_equal(strncmp(log, "stasis-probe 1 ready", 20), 0);
    free(log);
    guest_detach(&guest);
}

/* Commands and their answers go on through pauses and saves. */
static void nothing_is_lost_while_it_is_paused_and_saved(void **state)
{
    struct site *site = *state;
    struct guest guest;
    char line[512];
    enum { LINES = 400, ROUNDS = 4 };

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    for (unsigned i = 0; i < LINES; i++)
        ask_ok(&guest, "write %u %u", FREE_PAGE + i, i + 1);
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < LINES; i++) {
            snprintf(line, sizeof(line), "read %u\n", FREE_PAGE + i);
            guest_type(&guest, line);
            if (i % 100 == 50)
                stasis_ok(site, i == 50 ? "pause m" : i == 250 ? "resume m" : "save m");
        }
        for (unsigned i = 0; i < LINES; i++) {
            assert_true(guest_line(&guest, line, sizeof(line)));
            char wanted[64];
            snprintf(wanted, sizeof(wanted), "ok value=%016x", i + 1);
            assert_string_equal(line, wanted);
        }
    }
    guest_detach(&guest);
}

/* Whole "tick" lines with times that rise; true if text is that. */
static void assert_ticks(const char *text, uint64_t *last_ns)
{
    unsigned long long count, ns;
    int end = 0;

    if (sscanf(text, "tick count=%llu ns=%llu%n", &count, &ns, &end) != 2 || text[end] != '\0')
        fail_msg("this is no line of a tick: '%s'", text);
    if (ns <= *last_ns)
        fail_msg("time went back from %llu: '%s'", (unsigned long long)*last_ns, text);
    *last_ns = ns;
}

static void assert_all_ticks(char *text, uint64_t *last_ns)
{
    char *line;

    while ((line = strsep(&text, "\n")) != NULL && text != NULL)
        assert_ticks(line, last_ns);
}

/* What the clone prints follows, byte for byte, what had been printed at the save:
 * also within a line, wherever the save hit. */
static void a_clone_goes_on_where_the_output_was(void **state)
{
    struct site *site = *state;
    struct guest guest, clone;
    char line[512];

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    ask_ok(&guest, "tick on 1");
    for (unsigned i = 0; i < 6; i++) {
        assert_true(guest_line(&guest, line, sizeof(line)));
        stasis_ok(site, "pause m");
        stasis_ok(site, "save m@s%u", i);
        char *before = log_of(site, "m");
        stasis_ok(site, "clone m@s%u c%u --paused", i, i);
        char name[16];
        snprintf(name, sizeof(name), "c%u", i);
        guest_attach(&clone, site, name, 0);
        stasis_ok(site, "resume c%u", i);
        const char *ticks = strstr(before, "\ntick");
        uint64_t last_ns = 0;
        char *joined = io_format("%s", ticks != NULL ? ticks + 1 : "");
        for (unsigned n = 0; n < 20; n++) {
            assert_true(guest_line(&clone, line, sizeof(line)));
            char *more = io_format("%s%s\n", joined, line);
            free(joined);
            joined = more;
        }
        assert_all_ticks(joined, &last_ns);
        free(joined);
        free(before);
        guest_detach(&clone);
        stasis_ok(site, "rm -f c%u", i);
        stasis_ok(site, "resume m");
    }
    guest_detach(&guest);
}

/* A guest that stopped reading: who types on waits; the rest of the machine not. */
static void a_flood_holds_up_nobody(void **state)
{
    struct site *site = *state;
    struct guest guest, flood;
    char spaces[4096];

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    stasis_ok(site, "pause m");
    guest_attach(&flood, site, "m", 0);
    memset(spaces, '\n', sizeof(spaces));
    fcntl(flood.fd, F_SETFL, O_NONBLOCK);
    while (send(flood.fd, spaces, sizeof(spaces), MSG_NOSIGNAL) > 0)
        continue;
    stasis_ok(site, "save m@one");
    stasis_ok(site, "resume m");
    guest_detach(&flood);
    while (strcmp(ask(&guest, "ping"), "ok") != 0)
        continue;
    guest_detach(&guest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(long_lines_reach_a_guest_that_sleeps),
        MACHINE_TEST(a_script_may_be_typed_at_once),
        MACHINE_TEST(what_was_typed_by_who_left_arrives),
        MACHINE_TEST(clients_that_go_away_harm_nothing),
        MACHINE_TEST(all_clients_see_the_same),
        MACHINE_TEST(replay_begins_with_the_first_byte),
        MACHINE_TEST(nothing_is_lost_while_it_is_paused_and_saved),
        MACHINE_TEST(a_clone_goes_on_where_the_output_was),
        MACHINE_TEST(a_flood_holds_up_nobody),
    };

    return HARNESS_RUN(tests);
}
