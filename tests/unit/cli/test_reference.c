/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/reference.h"

#include "test.h"

#include <string.h>

static void assert_image(const char *text, const char *name, const char *tag)
{
    struct image_reference image;
    struct error err = ERROR_INIT;

    assert_int_equal(image_reference_parse(text, &image, &err), 0);
    assert_string_equal(image.name, name);
    assert_string_equal(image.tag, tag);
    image_reference_clear(&image);
}

static void images_have_a_name_and_a_tag(void **state)
{
    (void)state;
    assert_image("debian:12", "debian", "12");
    assert_image("debian", "debian", "latest");
    assert_image("team/debian:12.1-a_b", "team/debian", "12.1-a_b");
}

static void the_colon_of_a_port_is_no_tag(void **state)
{
    (void)state;
    assert_image("registry.example:5000/debian", "registry.example:5000/debian", "latest");
    assert_image("registry.example:5000/debian:12", "registry.example:5000/debian", "12");
}

static void what_cannot_be_an_image_is_refused(void **state)
{
    static const char *const wrong[] = {"",       ":12",   "debian:",   "-x",          "deb ian",
                                        "a\nb",   "web@x", "debian/:1", "debian:1/2/", "a:b\033c",
                                        "../../x"};
    struct image_reference image = {0};
    struct error err;

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        err = ERROR_INIT;
        if (image_reference_parse(wrong[i], &image, &err) >= 0)
            fail_msg("taken: %s", wrong[i]);
        assert_int_equal(err.status, STATUS_USAGE);
    }
    assert_null(image.name);
}

static void machines_may_have_a_checkpoint(void **state)
{
    struct machine_reference ref;
    struct error err = ERROR_INIT;

    (void)state;
    assert_int_equal(machine_reference_parse("web", &ref, &err), 0);
    assert_string_equal(ref.machine, "web");
    assert_null(ref.checkpoint);
    machine_reference_clear(&ref);
    assert_int_equal(machine_reference_parse("web@before", &ref, &err), 0);
    assert_string_equal(ref.machine, "web");
    assert_string_equal(ref.checkpoint, "before");
    machine_reference_clear(&ref);
}

static void what_cannot_be_a_machine_is_refused(void **state)
{
    static const char *const wrong[] = {"", "@x", "web@", "web@a@b", "..", "a/b", "web@../x"};
    struct machine_reference ref = {0};
    struct error err;

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        err = ERROR_INIT;
        if (machine_reference_parse(wrong[i], &ref, &err) >= 0)
            fail_msg("taken: %s", wrong[i]);
        assert_int_equal(err.status, STATUS_USAGE);
    }
    assert_null(ref.machine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(images_have_a_name_and_a_tag),
        cmocka_unit_test(the_colon_of_a_port_is_no_tag),
        cmocka_unit_test(what_cannot_be_an_image_is_refused),
        cmocka_unit_test(machines_may_have_a_checkpoint),
        cmocka_unit_test(what_cannot_be_a_machine_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
