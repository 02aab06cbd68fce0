/* SPDX-License-Identifier: Apache-2.0 */
/* The balloon as clients see it: what it shall hold, what it holds, and what its
 * driver tells of the guest's memory. */
#include "base/cleanup.h"
#include "base/clock.h"
#include "vmm/process/process.h"

#include <errno.h>

static const char *const stat_names[BALLOON_STATS] = {
    [BALLOON_SWAP_IN] = "swap_in_bytes",
    [BALLOON_SWAP_OUT] = "swap_out_bytes",
    [BALLOON_MAJOR_FAULTS] = "major_faults",
    [BALLOON_MINOR_FAULTS] = "minor_faults",
    [BALLOON_FREE] = "free_bytes",
    [BALLOON_TOTAL] = "total_bytes",
    [BALLOON_AVAILABLE] = "available_bytes",
    [BALLOON_CACHES] = "cache_bytes",
    [BALLOON_HUGE_ALLOCATED] = "huge_pages_allocated",
    [BALLOON_HUGE_FAILED] = "huge_pages_failed",
};

/* The guest's numbers may be anything. */
static json_t *number(uint64_t value)
{
    return json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value);
}

static json_t *stats_json(const struct balloon_stats *stats)
{
    if (stats->at_ns == 0)
        return json_null();
    json_t *json =
        json_pack("{s:o}", "age_us", number((clock_monotonic_ns() - stats->at_ns) / 1000));
    for (unsigned i = 0; i < BALLOON_STATS; i++)
        json_object_set_new(json, stat_names[i],
                            (stats->known >> i & 1) != 0 ? number(stats->values[i]) : json_null());
    return json;
}

json_t *process_balloon_json(struct process *p)
{
    struct balloon_status status;

    if (!board_balloon_status(p->board, !p->paused, &status))
        return json_null();
    return json_pack("{s:o, s:o, s:o, s:o}", "target_bytes", number(status.target_bytes),
                     "actual_bytes", number(status.actual_bytes), "dropped_bytes",
                     number(status.dropped_bytes), "statistics", stats_json(&status.stats));
}

bool verb_balloon(struct process *p, struct client *client, json_t *args)
{
    const json_t *target = json_object_get(args, "target_bytes");
    json_int_t bytes = json_integer_value(target);
    struct error err;
    int r = 0;

    if (!json_is_integer(target) || bytes < 0)
        r = error_set(&err, STATUS_USAGE, EINVAL, "balloon needs a size");
    else
        r = board_balloon_set(p->board, (uint64_t)bytes, &err);
    if (r < 0)
        control_reply_error(p, client, &err);
    else
        control_reply(p, client, process_balloon_json(p));
    return true;
}
