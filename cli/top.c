/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/top.h"

#include "base/bytes.h"

#include <stdlib.h>
#include <string.h>

enum { PAGE_BYTES = 4096, US_PER_S = 1000000, PERCENT = 100 };

const struct output_column top_columns[] = {
    {"NAME", "name", OUTPUT_TEXT},
    {"STATE", "state", OUTPUT_STATE},
    {"CPU%", "cpu_percent", OUTPUT_COUNT},
    {"MEMORY", "resident_bytes", OUTPUT_BYTES},
    {"SHARED", "shared_bytes", OUTPUT_BYTES},
    {"UNIQUE", "unique_bytes", OUTPUT_BYTES},
    {"EXITS/s", "exits_per_s", OUTPUT_COUNT},
    {"IO/s", "requests_per_s", OUTPUT_COUNT},
    {"READ/s", "read_bytes_per_s", OUTPUT_BYTES},
    {"WRITE/s", "written_bytes_per_s", OUTPUT_BYTES},
    {"IN/s", "in_bytes_per_s", OUTPUT_BYTES},
    {"OUT/s", "out_bytes_per_s", OUTPUT_BYTES},
    {"DIRTY/s", "dirty_bytes_per_s", OUTPUT_BYTES},
    {NULL, NULL, 0},
};

/* ---- numbers out of an answer; what is missing counts as 0 ---- */

static uint64_t number(const json_t *object, const char *name)
{
    const json_int_t value = json_integer_value(json_object_get(object, name));

    return value > 0 ? (uint64_t)value : 0;
}

static uint64_t device_sum(const json_t *stats, const char *type, const char *counter)
{
    uint64_t sum = 0;
    size_t i;
    json_t *device;

    json_array_foreach(json_object_get(stats, "devices"), i, device)
    {
        const char *its_type = json_string_value(json_object_get(device, "type"));
        if (its_type != NULL && strcmp(its_type, type) == 0)
            sum += number(json_object_get(device, "counters"), counter);
    }
    return sum;
}

static uint64_t requests(const json_t *stats)
{
    static const char *const counters[] = {"reads", "writes", "flushes", "discards"};
    uint64_t sum = 0;

    for (size_t i = 0; i < ARRAY_LEN(counters); i++)
        sum += device_sum(stats, "virtio-blk", counters[i]);
    return sum;
}

/* KVM's count, where there is one: most exits never reach the machine's process. */
static uint64_t exits(const json_t *stats)
{
    const json_t *kvm = json_object_get(stats, "kvm");

    return json_object_get(kvm, "exits") != NULL ? number(kvm, "exits") : number(stats, "exits");
}

/* ---- rates ---- */

/* A counter that has gone back began anew: the guest was reset. */
static uint64_t grown(uint64_t before, uint64_t now)
{
    return now >= before ? now - before : now;
}

static json_t *per_second(uint64_t before, uint64_t now, uint64_t elapsed_us)
{
    if (elapsed_us == 0)
        return json_integer(0);
    return output_uint((uint64_t)((double)grown(before, now) * US_PER_S / (double)elapsed_us));
}

static json_t *blk_rate(const json_t *before, const json_t *now, const char *counter, uint64_t us)
{
    return per_second(device_sum(before, "virtio-blk", counter),
                      device_sum(now, "virtio-blk", counter), us);
}

static json_t *net_rate(const json_t *before, const json_t *now, const char *counter, uint64_t us)
{
    return per_second(device_sum(before, "virtio-net", counter),
                      device_sum(now, "virtio-net", counter), us);
}

/* Of what was looked at twice; else what the last save found. Null if there is neither. */
static json_t *dirty_rate(const json_t *before, const json_t *now, uint64_t elapsed_us)
{
    const json_t *was = json_object_get(before, "written");
    const json_t *is = json_object_get(now, "written");
    const json_t *save = json_object_get(now, "last_save");

    if (json_is_object(was) && json_is_object(is))
        return per_second(number(was, "total_bytes"), number(is, "total_bytes"), elapsed_us);
    if (!json_is_object(save))
        return json_null();
    return per_second(0, number(save, "pages") * PAGE_BYTES, number(save, "interval_us"));
}

static const char *state_of(const json_t *stats)
{
    if (stats == NULL)
        return "silent";
    if (json_is_true(json_object_get(stats, "saving")))
        return "saving";
    return json_string_value(json_object_get(stats, "state"));
}

static void add_rates(json_t *row, const json_t *before, const json_t *now)
{
    const uint64_t us = number(now, "uptime_us") - number(before, "uptime_us");
    const double cpu_us = (double)grown(number(before, "cpu_us"), number(now, "cpu_us"));

    json_object_set_new(row, "cpu_percent",
                        output_uint(us > 0 ? (uint64_t)(cpu_us * PERCENT / (double)us + 0.5) : 0));
    json_object_set_new(row, "exits_per_s", per_second(exits(before), exits(now), us));
    json_object_set_new(row, "requests_per_s", per_second(requests(before), requests(now), us));
    json_object_set_new(row, "read_bytes_per_s", blk_rate(before, now, "read_bytes", us));
    json_object_set_new(row, "written_bytes_per_s", blk_rate(before, now, "written_bytes", us));
    json_object_set_new(row, "in_bytes_per_s", net_rate(before, now, "in_bytes", us));
    json_object_set_new(row, "out_bytes_per_s", net_rate(before, now, "out_bytes", us));
    json_object_set_new(row, "dirty_bytes_per_s", dirty_rate(before, now, us));
}

static bool same_process(const json_t *before, const json_t *now)
{
    return before != NULL && number(before, "pid") == number(now, "pid") &&
           number(before, "uptime_us") <= number(now, "uptime_us");
}

json_t *top_row(const char *name, const json_t *before, const json_t *now)
{
    static const char *const kept[] = {"resident_bytes", "shared_bytes", "unique_bytes"};
    json_t *row = json_object();

    /* All members are there in any case, and in the columns' order. */
    for (const struct output_column *c = top_columns; c->title != NULL; c++)
        json_object_set_new(row, c->key, json_null());
    json_object_set_new(row, "name", json_string(name));
    json_object_set_new(row, "state", output_text_or_null(state_of(now)));
    if (now == NULL)
        return row;
    for (size_t i = 0; i < ARRAY_LEN(kept); i++)
        json_object_set(row, kept[i], json_object_get(json_object_get(now, "memory"), kept[i]));
    add_rates(row, same_process(before, now) ? before : NULL, now);
    return row;
}

/* ---- order ---- */

const char *const top_orders[] = {"cpu", "memory", "disk", "net", "exits", "name", NULL};

const char *top_order_of_key(char key)
{
    static const char keys[] = "cmdnea"; /* name: a, for alphabet */
    const char *at = key != '\0' ? strchr(keys, key) : NULL;

    return at != NULL ? top_orders[at - keys] : NULL;
}

static uint64_t weight(const json_t *row, const char *order)
{
    if (strcmp(order, "cpu") == 0)
        return number(row, "cpu_percent");
    if (strcmp(order, "memory") == 0)
        return number(row, "unique_bytes");
    if (strcmp(order, "disk") == 0)
        return number(row, "read_bytes_per_s") + number(row, "written_bytes_per_s");
    if (strcmp(order, "net") == 0)
        return number(row, "in_bytes_per_s") + number(row, "out_bytes_per_s");
    return strcmp(order, "exits") == 0 ? number(row, "exits_per_s") : 0;
}

static bool comes_before(const json_t *a, const json_t *b, const char *order)
{
    const uint64_t left = weight(a, order), right = weight(b, order);

    if (left != right)
        return left > right;
    return strcmp(json_string_value(json_object_get(a, "name")),
                  json_string_value(json_object_get(b, "name"))) < 0;
}

/* By insertion: there are as many as a host runs machines. */
void top_sort(json_t *rows, const char *order)
{
    for (size_t i = 1; i < json_array_size(rows); i++) {
        json_t *row = json_incref(json_array_get(rows, i));
        size_t at = i;
        while (at > 0 && comes_before(row, json_array_get(rows, at - 1), order))
            at--;
        json_array_remove(rows, i);
        json_array_insert_new(rows, at, row);
    }
}
