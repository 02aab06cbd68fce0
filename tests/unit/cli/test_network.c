/* SPDX-License-Identifier: Apache-2.0 */
/* --net and --publish. */
#include "cli/network.h"

#include "base/cleanup.h"
#include "base/io.h"
#include "test.h"

#include <string.h>

static const struct option_spec options[] = {NETWORK_OPTIONS, {0}};
static const struct command verb = {.name = "verb", .usage = "verb", .options = options};
static const struct command *const commands[] = {&verb, NULL};
const struct command_group command_groups[] = {{"All", commands}, {NULL, NULL}};

struct result {
    int r;
    bool given;
    struct net_settings settings;
    struct error err;
};

static struct result settings_of(const char *const *words)
{
    struct result result = {.err = ERROR_INIT};
    struct arguments args;
    int argc = 0;

    while (words[argc] != NULL)
        argc++;
    assert_int_equal(arguments_parse(&verb, argc, (char **)words, &args, &result.err), 0);
    result.r = network_settings(&args, &result.settings, &result.given, &result.err);
    arguments_clear(&args);
    return result;
}

#define SETTINGS(...) settings_of((const char *const[]){__VA_ARGS__, NULL})

static void without_options_nothing_is_said(void **state)
{
    const struct result result = settings_of((const char *const[]){NULL});

    (void)state;
    assert_int_equal(result.r, 0);
    assert_false(result.given);
    assert_int_equal(result.settings.mode, NET_MODE_USER);
}

static void a_mode_is_taken(void **state)
{
    (void)state;
    assert_true(SETTINGS("--net", "user").given);
    assert_int_equal(SETTINGS("--net", "user").settings.mode, NET_MODE_USER);
    assert_true(SETTINGS("--net=none").given);
    assert_int_equal(SETTINGS("--net=none").settings.mode, NET_MODE_NONE);
}

static void a_tap_device_is_taken(void **state)
{
    const struct result result = SETTINGS("--net", "tap=vm7");

    (void)state;
    assert_int_equal(result.r, 0);
    assert_true(result.given);
    assert_int_equal(result.settings.mode, NET_MODE_TAP);
    assert_string_equal(result.settings.tap, "vm7");
}

static void all_ports_are_taken(void **state)
{
    const struct result result = SETTINGS("-p", "8080:80", "--publish=0.0.0.0:53:53/udp");

    (void)state;
    assert_int_equal(result.r, 0);
    assert_true(result.given);
    assert_int_equal(result.settings.forward_count, 2);
    assert_int_equal(result.settings.forwards[0].guest_port, 80);
    assert_true(result.settings.forwards[1].udp);
}

static void assert_usage(struct result result)
{
    assert_true(result.r < 0);
    assert_int_equal(result.err.status, STATUS_USAGE);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    assert_usage(SETTINGS("-p", "80"));
    assert_usage(SETTINGS("-p", "8080:80", "--net", "none"));
    assert_usage(SETTINGS("-p", "8080:80", "--net", "tap=vm7"));
    assert_usage(SETTINGS("--net", "tap=a/b"));
    assert_usage(SETTINGS("-p", "8080:80", "-p", "8080:81"));
    assert_int_equal(SETTINGS("-p", "8080:80", "-p", "8080:80/udp").r, 0);
    assert_int_equal(SETTINGS("-p", "8080:80", "-p", "127.0.0.2:8080:80").r, 0);
}

static void more_ports_than_can_be_forwarded_are_refused(void **state)
{
    const char *words[NET_FORWARDS_MAX + 2] = {0};
    char texts[NET_FORWARDS_MAX + 1][24];

    (void)state;
    for (unsigned i = 0; i <= NET_FORWARDS_MAX; i++) {
        snprintf(texts[i], sizeof(texts[i]), "--publish=%u:80", 1000 + i);
        words[i] = texts[i];
    }
    assert_usage(settings_of(words));
    words[NET_FORWARDS_MAX] = NULL;
    assert_int_equal(settings_of(words).settings.forward_count, NET_FORWARDS_MAX);
}

/* A home with a machine web. */
struct folder {
    struct home home;
    char machines[40];
};

static int make_home(void **state)
{
    struct folder *folder = calloc(1, sizeof(*folder));

    memcpy(folder->machines, "/tmp/stasis-test-cli-XXXXXX", 28);
    if (mkdtemp(folder->machines) == NULL)
        return -1;
    folder->home.machines = folder->machines;
    _cleanup_free_ char *dir = home_machine_dir(&folder->home, "web");
    *state = folder;
    return io_make_dirs(dir, 0700);
}

static int remove_home(void **state)
{
    struct folder *folder = *state;

    io_remove_tree(folder->machines);
    free(folder);
    return 0;
}

static void who_clones_a_machine_with_a_tap_says_how_it_is_connected(void **state)
{
    static const char *const of_it[] = {"web", "web@before"};
    static const char *const others[] = {"api", "debian:12", "0123abcd", "web@"};
    const struct folder *folder = *state;
    _cleanup_free_ char *dir = home_machine_dir(&folder->home, "web");
    struct net_settings net = {0};

    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(network_refuse_shared_tap(&folder->home, of_it[i], false, NULL), 0);
    assert_int_equal(net_settings_set_tap(&net, "vm7", NULL), 0);
    assert_int_equal(net_settings_write(dir, &net, NULL), 0);
    for (unsigned i = 0; i < 2; i++) {
        struct error err = ERROR_INIT;
        assert_true(network_refuse_shared_tap(&folder->home, of_it[i], false, &err) < 0);
        assert_int_equal(err.status, STATUS_USAGE);
        assert_non_null(strstr(err.message, "vm7"));
        assert_non_null(strstr(err.hint, "--net tap="));
        assert_int_equal(network_refuse_shared_tap(&folder->home, of_it[i], true, NULL), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(network_refuse_shared_tap(&folder->home, others[i], false, NULL), 0);
}

static void machines_that_run_stay_as_they_are(void **state)
{
    struct error err = ERROR_INIT;

    (void)state;
    assert_int_equal(network_refuse_running("web", false, &err), 0);
    assert_true(network_refuse_running("web", true, &err) < 0);
    assert_int_equal(err.status, STATUS_BUSY);
    assert_non_null(strstr(err.message, "web"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_options_nothing_is_said),
        cmocka_unit_test(a_mode_is_taken),
        cmocka_unit_test(a_tap_device_is_taken),
        cmocka_unit_test(all_ports_are_taken),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(more_ports_than_can_be_forwarded_are_refused),
        cmocka_unit_test_setup_teardown(who_clones_a_machine_with_a_tap_says_how_it_is_connected,
                                        make_home, remove_home),
        cmocka_unit_test(machines_that_run_stay_as_they_are),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
