/* SPDX-License-Identifier: Apache-2.0 */
/* What tells the machines apart that go on from one checkpoint. */
#include "harness.h"

enum { MEMORY_MIB = 16, TEXT_MAX = 64 };

struct id {
    char text[TEXT_MAX];
};

static struct id generation_of(struct guest *guest)
{
    struct id id;
    const char *sign = strstr(ask_ok(guest, "genid"), "id=");

    assert_non_null(sign);
    snprintf(id.text, sizeof(id.text), "%s", sign);
    assert_string_not_equal(id.text, "id=00000000000000000000000000000000");
    return id;
}

static struct id generation_in(struct site *site, const char *machine)
{
    struct guest guest;

    guest_attach(&guest, site, machine, 0);
    struct id id = generation_of(&guest);
    guest_detach(&guest);
    return id;
}

static void assert_other(const struct id *a, const struct id *b)
{
    assert_string_not_equal(a->text, b->text);
}

static void a_save_leaves_the_generation_as_it_is(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    struct id before = generation_of(&guest);
    stasis_ok(site, "save m@one");
    stasis_ok(site, "pause m");
    stasis_ok(site, "resume m");
    struct id after = generation_of(&guest);
    assert_string_equal(before.text, after.text);
    guest_detach(&guest);
}

static void each_clone_is_of_another_generation(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    struct id before = generation_of(&guest);
    stasis_ok(site, "clone m c -n 2");
    struct id one = generation_in(site, "c-1");
    struct id two = generation_in(site, "c-2");
    assert_other(&one, &two);
    assert_other(&one, &before);
    assert_other(&two, &before);
    struct id after = generation_of(&guest);
    assert_string_equal(before.text, after.text);
    guest_detach(&guest);
}

static void each_rollback_begins_another_generation(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    struct id before = generation_of(&guest);
    stasis_ok(site, "save m@one");
    stasis_ok(site, "restore m@one --discard");
    struct id first = generation_of(&guest);
    stasis_ok(site, "restore m@one --discard");
    struct id second = generation_of(&guest);
    assert_other(&before, &first);
    assert_other(&before, &second);
    assert_other(&first, &second);
    guest_detach(&guest);
    stasis_ok(site, "kill m");
    stasis_ok(site, "restore m@one");
    struct id third = generation_in(site, "m");
    assert_other(&third, &before);
    assert_other(&third, &second);
}

static void each_run_of_a_warm_image_is_of_another_generation(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    struct id before = generation_of(&guest);
    stasis_ok(site, "save m@one");
    stasis_ok(site, "tag m@one warm:1");
    stasis_ok(site, "run -d --name a warm:1");
    stasis_ok(site, "run -d --name b warm:1");
    struct id a = generation_in(site, "a");
    struct id b = generation_in(site, "b");
    assert_other(&a, &before);
    assert_other(&b, &before);
    assert_other(&a, &b);
    guest_detach(&guest);
}

/* The clone's id, and not its original's, is what the clone's checkpoint holds. */
static void a_clones_checkpoint_holds_the_clones_generation(void **state)
{
    struct site *site = *state;
    struct guest guest;
    uint8_t bytes[16];
    char text[TEXT_MAX] = "id=";

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    stasis_ok(site, "clone m c");
    struct id id = generation_in(site, "c");
    stasis_ok(site, "save c@x");
    checkpoint_memory(site, "c@x", 0xef000, bytes, sizeof(bytes));
    for (size_t i = 0; i < sizeof(bytes); i++)
        snprintf(text + 3 + 2 * i, 3, "%02x", bytes[i]);
    assert_string_equal(text, id.text);
    guest_detach(&guest);
}

/* ---- hardware addresses ---- */

static struct id mac_of(struct site *site, const char *reference)
{
    json_t *checkpoint = stasis_json(site, "inspect %s", reference);
    json_t *nets = json_object_get(json_object_get(checkpoint, "config"), "net");
    struct id id;

    assert_int_equal(json_array_size(nets), 1);
    snprintf(id.text, sizeof(id.text), "%s",
             json_string_value(json_object_get(json_array_get(nets, 0), "mac")));
    json_decref(checkpoint);
    return id;
}

static void a_clone_has_its_originals_address(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    stasis_ok(site, "save m@one");
    stasis_ok(site, "clone m@one c");
    stasis_ok(site, "save c@two");
    struct id one = mac_of(site, "m@one");
    struct id two = mac_of(site, "c@two");
    assert_string_equal(one.text, two.text);
    guest_detach(&guest);
}

static void clones_have_addresses_of_their_own_on_request(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    stasis_ok(site, "save m@one");
    stasis_ok(site, "clone m@one c -n 2 --new-mac");
    stasis_ok(site, "save c-1@x");
    stasis_ok(site, "save c-2@x");
    stasis_ok(site, "save m@two");
    struct id before = mac_of(site, "m@one");
    struct id first = mac_of(site, "c-1@x");
    struct id second = mac_of(site, "c-2@x");
    struct id after = mac_of(site, "m@two");
    assert_other(&before, &first);
    assert_other(&before, &second);
    assert_other(&first, &second);
    assert_string_equal(before.text, after.text);
    guest_detach(&guest);
}

/* It is the machine's, whatever checkpoint it goes on from, and however. */
static void a_machine_keeps_the_address_it_was_given(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    guest_detach(&guest);
    stasis_ok(site, "save m@one");
    stasis_ok(site, "clone m@one c --new-mac");
    stasis_ok(site, "save c@x");
    struct id given = mac_of(site, "c@x");
    pid_t pid = machine_pid(site, "c");
    stasis_ok(site, "restore c@x --discard");
    assert_int_equal(machine_pid(site, "c"), pid);
    stasis_ok(site, "kill c");
    stasis_ok(site, "restore c@x --discard --net none");
    stasis_ok(site, "save c@y");
    struct id later = mac_of(site, "c@y");
    assert_string_equal(given.text, later.text);
    stasis_ok(site, "kill c");
    /* A clone of it is another machine. */
    stasis_ok(site, "clone c@x d --new-mac");
    stasis_ok(site, "save d@x");
    struct id other = mac_of(site, "d@x");
    assert_other(&given, &other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(a_save_leaves_the_generation_as_it_is),
        MACHINE_TEST(each_clone_is_of_another_generation),
        MACHINE_TEST(each_rollback_begins_another_generation),
        MACHINE_TEST(each_run_of_a_warm_image_is_of_another_generation),
        MACHINE_TEST(a_clones_checkpoint_holds_the_clones_generation),
        MACHINE_TEST(a_clone_has_its_originals_address),
        MACHINE_TEST(clones_have_addresses_of_their_own_on_request),
        MACHINE_TEST(a_machine_keeps_the_address_it_was_given),
    };

    return HARNESS_RUN(tests);
}
