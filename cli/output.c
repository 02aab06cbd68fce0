/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/output.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "cli/app.h"
#include "cli/text.h"

#include <errno.h>
#include <inttypes.h>
#include <libsmartcols.h>
#include <string.h>

typedef struct libscols_table table_t;
DEFINE_CLEANUP(table_t, scols_unref_table)

enum { CELL_SIZE = 512 };

bool output_has_color(int fd)
{
    const char *no_color = getenv("NO_COLOR");
    const char *term = getenv("TERM");

    if (no_color != NULL && no_color[0] != '\0')
        return false;
    return isatty(fd) == 1 && term != NULL && strcmp(term, "dumb") != 0;
}

json_t *output_time(int64_t wall_us)
{
    char text[CLOCK_RFC3339_SIZE];

    return json_string(clock_rfc3339(wall_us, text));
}

json_t *output_id(const struct digest *id)
{
    char hex[DIGEST_HEX_SIZE];

    return json_string(digest_hex(id, hex));
}

json_t *output_uint(uint64_t value)
{
    return json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value);
}

json_t *output_text(const char *text)
{
    json_t *json = json_string(text);

    if (json != NULL)
        return json;
    _cleanup_free_ char *ascii = strdup(text);
    for (char *c = ascii; c != NULL && *c != '\0'; c++)
        if ((*c & 0x80) != 0)
            *c = '?';
    return ascii != NULL ? json_string(ascii) : NULL;
}

json_t *output_text_or_null(const char *text)
{
    return text != NULL ? output_text(text) : json_null();
}

int output_json(const json_t *value, struct error *err)
{
    if (value == NULL)
        return error_errno(err, ENOMEM, "cannot build the result");
    if (json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY) < 0 || fputc('\n', stdout) < 0)
        return error_errno(err, errno != 0 ? errno : EIO, "cannot write the result");
    return 0;
}

/* ---- cells ---- */

static void format_age(const char *time, char *out)
{
    int64_t then;
    char span[TEXT_SIZE];

    out[0] = '\0';
    if (time != NULL && clock_parse_rfc3339(time, &then) == 0)
        snprintf(out, CELL_SIZE, "%s", text_span(clock_wall_us() - then, span));
}

static void format_list(const json_t *array, char *out)
{
    size_t i;
    json_t *item;
    size_t used = 0;

    out[0] = '\0';
    json_array_foreach(array, i, item)
    {
        const char *text = json_string_value(item);
        if (text == NULL || used + strlen(text) + 3 > CELL_SIZE)
            continue;
        used += (size_t)snprintf(out + used, CELL_SIZE - used, "%s%s", used > 0 ? ", " : "", text);
    }
}

/* Text of a value in a table; "-" for null. */
static char *format_cell(enum output_kind kind, const json_t *value, char out[CELL_SIZE])
{
    char text[TEXT_SIZE];

    if (value == NULL || json_is_null(value)) {
        snprintf(out, CELL_SIZE, "-");
        return out;
    }
    switch (kind) {
    case OUTPUT_ID:
        snprintf(out, CELL_SIZE, "%.*s", OUTPUT_SHORT_ID, json_string_value(value));
        break;
    case OUTPUT_COUNT:
        snprintf(out, CELL_SIZE, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case OUTPUT_BYTES:
        snprintf(out, CELL_SIZE, "%s", text_bytes((uint64_t)json_integer_value(value), text));
        break;
    case OUTPUT_ADDRESS:
        snprintf(out, CELL_SIZE, "0x%09" PRIx64, (uint64_t)json_integer_value(value));
        break;
    case OUTPUT_AGE:
        format_age(json_string_value(value), out);
        break;
    case OUTPUT_LIST:
        format_list(value, out);
        break;
    default:
        if (json_is_string(value))
            snprintf(out, CELL_SIZE, "%s", json_string_value(value));
        else
            snprintf(out, CELL_SIZE, "%s", json_is_true(value) ? "yes" : "no");
    }
    return out;
}

static bool is_number(enum output_kind kind)
{
    return kind == OUTPUT_COUNT || kind == OUTPUT_BYTES || kind == OUTPUT_AGE;
}

static const char *state_color(const char *state)
{
    static const struct {
        const char *state;
        const char *color;
    } colors[] = {
        {"running", "green"}, {"ok", "green"},    {"paused", "yellow"}, {"saving", "yellow"},
        {"warn", "yellow"},   {"missing", "red"}, {NULL, NULL},
    };

    for (size_t i = 0; colors[i].state != NULL; i++)
        if (strcmp(colors[i].state, state) == 0)
            return colors[i].color;
    return NULL;
}

/* ---- tables ---- */

static table_t *new_table(void)
{
    table_t *table = scols_new_table();

    if (table != NULL && output_has_color(STDOUT_FILENO))
        scols_table_enable_colors(table, 1);
    return table;
}

static int fill_line(struct libscols_line *line, const struct output_column *columns,
                     const json_t *item)
{
    char cell[CELL_SIZE];

    for (size_t c = 0; columns[c].title != NULL; c++) {
        const json_t *value = json_object_get(item, columns[c].key);
        if (scols_line_set_data(line, c, format_cell(columns[c].kind, value, cell)) < 0)
            return -ENOMEM;
        const char *color = columns[c].kind == OUTPUT_STATE ? state_color(cell) : NULL;
        if (color != NULL)
            scols_cell_set_color(scols_line_get_cell(line, c), color);
    }
    return 0;
}

/* The line of the item this one hangs below, or NULL. Items come oldest first, so
 * it is among the lines made before. */
static struct libscols_line *find_above(table_t *table, const struct output_list *list,
                                        const json_t *items, const json_t *item)
{
    const char *above = list->tree_above != NULL
                            ? json_string_value(json_object_get(item, list->tree_above))
                            : NULL;

    for (size_t i = 0; above != NULL && i < scols_table_get_nlines(table); i++) {
        const json_t *other = json_array_get(items, i);
        const char *id = json_string_value(json_object_get(other, list->tree_id));
        if (id != NULL && strcmp(id, above) == 0)
            return scols_table_get_line(table, i);
    }
    return NULL;
}

static int fill_table(table_t *table, const struct output_list *list, const json_t *items)
{
    size_t i;
    json_t *item;
    const bool tree = list->tree_above != NULL;

    for (size_t c = 0; list->columns[c].title != NULL; c++) {
        int flags = is_number(list->columns[c].kind) ? SCOLS_FL_RIGHT : 0;
        if (c == 0 && tree)
            flags |= SCOLS_FL_TREE;
        if (scols_table_new_column(table, list->columns[c].title, 0, flags) == NULL)
            return -ENOMEM;
    }
    json_array_foreach(items, i, item)
    {
        struct libscols_line *line =
            scols_table_new_line(table, find_above(table, list, items, item));
        if (line == NULL || fill_line(line, list->columns, item) < 0)
            return -ENOMEM;
    }
    return 0;
}

static int print_names(const struct output_list *list, const json_t *items)
{
    size_t i;
    json_t *item;

    json_array_foreach(items, i, item)
        puts(json_string_value(json_object_get(item, list->name_key)));
    return 0;
}

int output_items(const struct cli *cli, const struct output_list *list, json_t *items,
                 struct error *err)
{
    if (items == NULL)
        return error_errno(err, ENOMEM, "cannot build the result");
    if (cli->json)
        return output_json(items, err);
    if (cli->quiet)
        return print_names(list, items);
    if (json_array_size(items) == 0)
        return 0;
    _cleanup_(scols_unref_tablep) table_t *table = new_table();
    if (table == NULL || fill_table(table, list, items) < 0 || scols_print_table(table) < 0)
        return error_errno(err, ENOMEM, "cannot print the table");
    return 0;
}

int output_table_text(const struct output_list *list, const json_t *items, char **text_out,
                      struct error *err)
{
    _cleanup_(scols_unref_tablep) table_t *table = scols_new_table();

    if (table == NULL || fill_table(table, list, items) < 0 ||
        scols_print_table_to_string(table, text_out) < 0 || *text_out == NULL)
        return error_errno(err, ENOMEM, "cannot print the table");
    return 0;
}

int output_object(const struct cli *cli, const struct output_column *columns, json_t *object,
                  struct error *err)
{
    char cell[CELL_SIZE];
    int width = 0;

    if (object == NULL)
        return error_errno(err, ENOMEM, "cannot build the result");
    if (cli->json)
        return output_json(object, err);
    for (const struct output_column *c = columns; c->title != NULL; c++)
        width = (int)strlen(c->title) > width ? (int)strlen(c->title) : width;
    for (const struct output_column *c = columns; c->title != NULL; c++)
        printf("%-*s  %s\n", width, c->title,
               format_cell(c->kind, json_object_get(object, c->key), cell));
    return 0;
}
