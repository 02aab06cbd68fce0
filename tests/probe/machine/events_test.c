/* SPDX-License-Identifier: Apache-2.0 */
/* `stasis events`: what happens is told, in order, once, and by whoever can still tell. */
#include "harness.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>

enum { MEMORY_MIB = 8, EVENTS_BYTES_MAX = 1 << 20 };

/* `stasis events` at work, and the file that it prints into. */
struct watcher {
    struct site *site;
    pid_t pid;
    char *path;
};

static json_t *events_so_far(const struct watcher *w)
{
    _cleanup_free_ char *text = NULL;
    size_t length = 0;
    json_t *list = json_array();

    if (io_read_file(AT_FDCWD, w->path, EVENTS_BYTES_MAX, &text, &length) < 0)
        return list;
    for (char *line = text, *end; (end = memchr(line, '\n', length)) != NULL; line = end + 1) {
        length -= (size_t)(end - line) + 1;
        json_t *event = json_loadb(line, (size_t)(end - line), 0, NULL);
        if (event == NULL)
            fail_msg("no JSON: %s", line);
        json_array_append_new(list, event);
    }
    return list;
}

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));

    return text != NULL ? text : "-";
}

/* Waits for so many; a new reference. */
static json_t *await_events(const struct watcher *w, size_t count)
{
    const uint64_t deadline = now_ms() + DEADLINE_MS;

    for (;;) {
        json_t *list = events_so_far(w);
        if (json_array_size(list) >= count)
            return list;
        if (now_ms() > deadline)
            fail_msg("%zu events of %zu: %s", json_array_size(list), count,
                     json_dumps(list, JSON_INDENT(1)));
        json_decref(list);
        usleep(20000);
    }
}

static void watch(struct watcher *w, struct site *site, const char *options)
{
    *w = (struct watcher){.site = site, .path = site_path(site, "events")};
    site->output = w->path;
    w->pid = stasis_begin(site, "events %s", options);
}

static void unwatch(struct watcher *w)
{
    if (w->pid > 0)
        kill(w->pid, SIGTERM);
    stasis_end(w->site, w->pid);
    free(w->path);
}

/* "MACHINE EVENT, MACHINE EVENT" from the first on. */
static void assert_events(const struct watcher *w, size_t count, const char *wanted)
{
    _cleanup_json_ json_t *list = await_events(w, count);
    char text[2048] = "";
    size_t i, used = 0;
    json_t *event;

    json_array_foreach(list, i, event)
    {
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s %s", i > 0 ? ", " : "",
                                 text_of(event, "machine"), text_of(event, "event"));
        assert_true(used < sizeof(text));
    }
    assert_string_equal(text, wanted);
}

static void a_life_is_told_in_order(void **state)
{
    struct site *site = *state;
    struct watcher w;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    guest_detach(&guest);
    watch(&w, site, "--past");
    assert_events(&w, 1, "m started");
    stasis_ok(site, "pause m");
    stasis_ok(site, "pause m"); /* nothing happens */
    stasis_ok(site, "resume m");
    _cleanup_json_ json_t *saved = stasis_json(site, "save m@one --json");
    stasis_ok(site, "restore m@one --discard");
    stasis_ok(site, "kill m");
    stasis_ok(site, "rm m -f");
    assert_events(&w, 7,
                  "m started, m paused, m resumed, m saved, m restored, m stopped, m removed");
    _cleanup_json_ json_t *list = events_so_far(&w);
    json_t *event = json_array_get(list, 3);
    assert_string_equal(text_of(event, "id"), text_of(saved, "id"));
    assert_string_equal(text_of(event, "name"), "one");
    assert_true(json_is_integer(json_object_get(event, "pause_us")));
    assert_string_equal(text_of(json_array_get(list, 4), "id"), text_of(saved, "id"));
    assert_string_equal(text_of(json_array_get(list, 5), "reason"), "killed");
    unwatch(&w);
}

static void machines_that_come_later_are_followed(void **state)
{
    struct site *site = *state;
    struct watcher w;
    struct guest guest;

    guest_boot(&guest, site, "first", MEMORY_MIB, 0);
    guest_detach(&guest);
    watch(&w, site, "--past");
    assert_events(&w, 1, "first started");
    stasis_ok(site, "save first@one");
    stasis_ok(site, "clone first@one c -n 2");
    assert_events(&w, 4, "first started, first saved, c-1 started, c-2 started");
    unwatch(&w);
}

static void a_process_that_dies_without_a_word_has_crashed(void **state)
{
    struct site *site = *state;
    struct watcher w;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    guest_detach(&guest);
    watch(&w, site, "--past");
    assert_events(&w, 1, "m started");
    machine_kill9(site, "m");
    assert_events(&w, 2, "m started, m crashed");
    stasis_ok(site, "resume m");
    assert_events(&w, 3, "m started, m crashed, m started");
    unwatch(&w);
}

static void a_reset_and_a_power_off_are_told(void **state)
{
    struct site *site = *state;
    struct watcher w;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    guest_type(&guest, "reset\n");
    guest_wait_banner(&guest);
    guest_type(&guest, "off\n");
    machine_gone(site, "m");
    guest_detach(&guest);
    watch(&w, site, "m --past -n 3");
    assert_events(&w, 3, "m started, m reset, m stopped");
    _cleanup_json_ json_t *list = events_so_far(&w);
    assert_string_equal(text_of(json_array_get(list, 2), "reason"), "power-off");
    unwatch(&w);
}

static void only_the_machine_asked_for_is_told(void **state)
{
    struct site *site = *state;
    struct watcher w;
    struct guest guest;

    guest_boot(&guest, site, "a", MEMORY_MIB, 0);
    guest_detach(&guest);
    guest_boot(&guest, site, "b", MEMORY_MIB, 0);
    guest_detach(&guest);
    watch(&w, site, "b --past");
    assert_events(&w, 1, "b started");
    stasis_ok(site, "pause a b");
    stasis_ok(site, "resume a b");
    assert_events(&w, 3, "b started, b paused, b resumed");
    unwatch(&w);
    stasis_fails(site, STATUS_NOT_FOUND, "no machine", "events none");
}

static void a_number_of_events_ends_it(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    guest_detach(&guest);
    stasis_ok(site, "pause m");
    stasis_ok(site, "events --past -n 2");
    assert_non_null(strstr(site->out, "\"started\""));
    assert_non_null(strstr(site->out, "\"paused\""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(a_life_is_told_in_order),
        MACHINE_TEST(machines_that_come_later_are_followed),
        MACHINE_TEST(a_process_that_dies_without_a_word_has_crashed),
        MACHINE_TEST(a_reset_and_a_power_off_are_told),
        MACHINE_TEST(only_the_machine_asked_for_is_told),
        MACHINE_TEST(a_number_of_events_ends_it),
    };

    return HARNESS_RUN(tests);
}
