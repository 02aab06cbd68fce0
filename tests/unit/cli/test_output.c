/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/output.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "cli/app.h"
#include "test.h"

#include <string.h>

static const struct output_column columns[] = {
    {"NAME", "name", OUTPUT_TEXT},  {"ID", "id", OUTPUT_ID},       {"SIZE", "bytes", OUTPUT_BYTES},
    {"AGE", "created", OUTPUT_AGE}, {"TAGS", "tags", OUTPUT_LIST}, {NULL, NULL, 0},
};

static const struct output_list list = {.columns = columns, .name_key = "name"};

static json_t *one_item(void)
{
    struct digest id = {{0xab, 0xcd}};

    return json_pack("[{s:s, s:o, s:o, s:o, s:[s, s]}]", "name", "web", "id", output_id(&id),
                     "bytes", output_uint(1536), "created",
                     output_time(clock_wall_us() - 7200ll * 1000000), "tags", "a", "b");
}

/* What output_items() prints. */
static char *printed(const struct cli *cli, const struct output_list *format, json_t *items)
{
    char *text = calloc(1, 4096);
    struct error err = ERROR_INIT;
    FILE *file = tmpfile();
    int saved = dup(STDOUT_FILENO);

    fflush(stdout);
    dup2(fileno(file), STDOUT_FILENO);
    assert_int_equal(output_items(cli, format, items, &err), 0);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    rewind(file);
    size_t n = fread(text, 1, 4095, file);
    text[n] = '\0';
    fclose(file);
    return text;
}

static void tables_are_for_people(void **state)
{
    const struct cli cli = {0};
    _cleanup_json_ json_t *items = one_item();
    _cleanup_free_ char *text = printed(&cli, &list, items);

    (void)state;
    assert_non_null(strstr(text, "NAME"));
    assert_non_null(strstr(text, "abcd00000000 "));
    assert_null(strstr(text, "abcd000000000"));
    assert_non_null(strstr(text, "1.5 KiB"));
    assert_non_null(strstr(text, "2h"));
    assert_non_null(strstr(text, "a, b"));
    assert_null(strchr(text, '\033'));
}

static void json_keeps_integers_and_whole_ids(void **state)
{
    const struct cli cli = {.json = true};
    _cleanup_json_ json_t *items = one_item();
    _cleanup_free_ char *text = printed(&cli, &list, items);
    _cleanup_json_ json_t *read = json_loads(text, 0, NULL);

    (void)state;
    assert_true(json_is_array(read));
    const json_t *item = json_array_get(read, 0);
    assert_int_equal(json_integer_value(json_object_get(item, "bytes")), 1536);
    assert_int_equal(json_string_length(json_object_get(item, "id")), 64);
}

static void an_empty_list_is_an_empty_array(void **state)
{
    const struct cli json = {.json = true};
    const struct cli plain = {0};
    _cleanup_json_ json_t *items = json_array();
    _cleanup_free_ char *as_json = printed(&json, &list, items);
    _cleanup_free_ char *as_table = printed(&plain, &list, items);

    (void)state;
    assert_string_equal(as_json, "[]\n");
    assert_string_equal(as_table, "");
}

static void quiet_prints_names_only(void **state)
{
    const struct cli cli = {.quiet = true};
    _cleanup_json_ json_t *items = one_item();
    _cleanup_free_ char *text = printed(&cli, &list, items);

    (void)state;
    assert_string_equal(text, "web\n");
}

static void trees_hang_items_below_their_parents(void **state)
{
    static const struct output_column tree_columns[] = {{"NAME", "name", OUTPUT_TEXT},
                                                        {NULL, NULL, 0}};
    static const struct output_list tree = {
        .columns = tree_columns, .tree_id = "id", .tree_above = "parent"};
    const struct cli cli = {0};
    _cleanup_json_ json_t *items =
        json_pack("[{s:s,s:s,s:n}, {s:s,s:s,s:s}, {s:s,s:s,s:s}]", "name", "root", "id", "1",
                  "parent", "name", "child", "id", "2", "parent", "1", "name", "orphan", "id", "3",
                  "parent", "elsewhere");
    _cleanup_free_ char *text = printed(&cli, &tree, items);

    (void)state;
    assert_non_null(strstr(text, "\nroot"));
    assert_null(strstr(text, "\nchild"));
    assert_non_null(strstr(text, "child"));
    assert_non_null(strstr(text, "\norphan"));
}

static void control_characters_do_not_reach_the_terminal(void **state)
{
    const struct cli cli = {0};
    _cleanup_json_ json_t *items = json_pack("[{s:s}]", "name", "a\033[31mb");
    _cleanup_free_ char *text = printed(&cli, &list, items);

    (void)state;
    assert_null(strchr(text, '\033'));
}

static void numbers_too_large_for_json_are_cut(void **state)
{
    _cleanup_json_ json_t *value = output_uint(UINT64_MAX);

    (void)state;
    assert_true(json_integer_value(value) == INT64_MAX);
}

static void texts_of_other_encodings_are_told_in_ascii(void **state)
{
    _cleanup_json_ json_t *good = output_text("caf\xc3\xa9");
    _cleanup_json_ json_t *bad = output_text("a\xff"
                                             "b");

    (void)state;
    assert_string_equal(json_string_value(good), "caf\xc3\xa9");
    assert_string_equal(json_string_value(bad), "a?b");
}

static void no_color_is_honoured(void **state)
{
    (void)state;
    setenv("NO_COLOR", "1", 1);
    assert_false(output_has_color(STDOUT_FILENO));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_are_for_people),
        cmocka_unit_test(json_keeps_integers_and_whole_ids),
        cmocka_unit_test(an_empty_list_is_an_empty_array),
        cmocka_unit_test(quiet_prints_names_only),
        cmocka_unit_test(trees_hang_items_below_their_parents),
        cmocka_unit_test(control_characters_do_not_reach_the_terminal),
        cmocka_unit_test(numbers_too_large_for_json_are_cut),
        cmocka_unit_test(texts_of_other_encodings_are_told_in_ascii),
        cmocka_unit_test(no_color_is_honoured),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
