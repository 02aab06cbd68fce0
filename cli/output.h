/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Results on standard output. A verb builds JSON; the table people see is made
 * from the same values by a list of columns, so that the two cannot disagree.
 */
#ifndef STASIS_CLI_OUTPUT_H
#define STASIS_CLI_OUTPUT_H

#include "base/digest.h"
#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OUTPUT_SHORT_ID 12 /* digits of an id in tables */

enum output_kind {
    OUTPUT_TEXT,
    OUTPUT_STATE, /* text, coloured on terminals */
    OUTPUT_ID,    /* text, its first OUTPUT_SHORT_ID digits */
    OUTPUT_COUNT,
    OUTPUT_BYTES,   /* integer, printed as a human size */
    OUTPUT_ADDRESS, /* integer, printed in hex */
    OUTPUT_AGE,     /* RFC 3339 time, printed as time since then */
    OUTPUT_LIST,    /* array of texts */
};

struct output_column {
    const char *title; /* NULL ends a list */
    const char *key;
    enum output_kind kind;
};

struct output_list {
    const struct output_column *columns;
    const char *name_key;   /* what -q prints of each item */
    const char *tree_id;    /* for a tree: key of an item's id ... */
    const char *tree_above; /* ... and of the id of the item it hangs below */
};

struct cli;

/* Prints an array of objects: as JSON, names or a table, as asked for. An empty
 * list is "[]" or nothing. */
int output_items(const struct cli *cli, const struct output_list *list, json_t *items,
                 struct error *err);

/* The table alone, as text without colours; the caller frees. */
int output_table_text(const struct output_list *list, const json_t *items, char **text_out,
                      struct error *err);

/* Prints an object: as JSON, or one line "TITLE  VALUE" a column. */
int output_object(const struct cli *cli, const struct output_column *columns, json_t *object,
                  struct error *err);

/* Prints a value as JSON, indented, with a newline. */
int output_json(const json_t *value, struct error *err);

/* New references. */
json_t *output_time(int64_t wall_us);
json_t *output_id(const struct digest *id);
/* JSON integers are signed; what does not fit is cut to the largest. */
json_t *output_uint(uint64_t value);
/* JSON strings are UTF-8: in a text that is not, bytes beyond ASCII become '?'. */
json_t *output_text(const char *text);
json_t *output_text_or_null(const char *text);

/* Colour: a terminal, no NO_COLOR, TERM not dumb. */
bool output_has_color(int fd);

#endif
