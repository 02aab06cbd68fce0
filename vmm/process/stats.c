/* SPDX-License-Identifier: Apache-2.0 */
/* The request "stats": what the machine has done, and what it costs. Everything here
 * is counted anyway, or cheap to ask the kernel for; docs/control.md has the list. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "vmm/checkpoint/dirty.h"
#include "vmm/devices/virtio.h"
#include "vmm/process/process.h"

#include <fcntl.h>
#include <string.h>
#include <time.h>

enum { STATM_SIZE = 128, US_PER_S = 1000000 };

static json_t *bytes_json(uint64_t value)
{
    return json_integer((json_int_t)min_u64(value, INT64_MAX));
}

static void put_counter(const char *name, uint64_t value, void *context)
{
    json_object_set_new(context, name, bytes_json(value));
}

/* ---- devices ---- */

/* "disk1" of the second virtio-blk. */
static json_t *device_name(const struct board *board, unsigned slot)
{
    const char *type = virtio_name(board->virtio[slot]);
    const char *kind = strcmp(type, "virtio-blk") == 0    ? "disk"
                       : strncmp(type, "virtio-", 7) == 0 ? type + 7
                                                          : type;
    unsigned index = 0;

    for (unsigned i = 0; i < slot; i++)
        index += strcmp(virtio_name(board->virtio[i]), type) == 0;
    return json_sprintf("%s%u", kind, index);
}

static json_t *describe_devices(const struct board *board)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < board->virtio_count; i++) {
        json_t *counters = json_object();
        const struct counter_visitor visitor = {put_counter, counters};
        virtio_counters(board->virtio[i], &visitor);
        json_array_append_new(list, json_pack("{s:o, s:s, s:i, s:o}", "name", device_name(board, i),
                                              "type", virtio_name(board->virtio[i]), "slot", (int)i,
                                              "counters", counters));
    }
    return list;
}

/* ---- memory ---- */

void stats_open(struct process *p)
{
    p->statm_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
}

/*
 * Of the whole process. What it shares with others are pages of files: programs, and
 * memory that machines of one checkpoint have in common; what it has alone is anonymous.
 * The kernel keeps these sums, while a walk of the page table, which would say the same
 * (smaps_rollup), takes 12 ms a GiB.
 */
static json_t *describe_memory(const struct process *p)
{
    char text[STATM_SIZE] = {0};
    unsigned long long resident = 0, shared = 0;
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

    if (p->statm_fd < 0 || pread(p->statm_fd, text, sizeof(text) - 1, 0) <= 0 ||
        sscanf(text, "%*u %llu %llu", &resident, &shared) != 2)
        return json_pack("{s:n, s:n, s:n}", "resident_bytes", "shared_bytes", "unique_bytes");
    return json_pack("{s:o, s:o, s:o}", "resident_bytes", bytes_json(resident * page),
                     "shared_bytes", bytes_json(shared * page), "unique_bytes",
                     bytes_json((resident - min_u64(resident, shared)) * page));
}

/* What is written while a save is under way is known when that has ended. */
static json_t *describe_written(struct process *p)
{
    uint64_t recent, all;
    struct error ignored;

    if (p->job != NULL || dirty_look(p->board, &recent, &all, &ignored) < 0)
        return json_null();
    p->seen_written_pages += recent;
    return json_pack("{s:o, s:o}", "since_checkpoint_bytes", bytes_json(all * STASIS_PAGE_SIZE),
                     "total_bytes", bytes_json(p->seen_written_pages * STASIS_PAGE_SIZE));
}

/* ---- saves ---- */

void stats_saved(struct process *p, const struct save_job *job)
{
    const uint64_t now = clock_monotonic_ns();

    p->saves++;
    p->last_save = (struct last_save){
        .id = job->result.id,
        .wall_us = clock_wall_us(),
        .at_ns = now,
        .interval_us = (now - (p->saves > 1 ? p->last_save.at_ns : p->started_ns)) / 1000,
        .pause_us = job->pause_us,
        .pages = job->result.pages,
        .pages_new = job->result.pages_new,
        .stored_bytes = job->result.stored_bytes,
    };
}

static json_t *describe_last_save(const struct last_save *s)
{
    char hex[DIGEST_HEX_SIZE];
    char time[CLOCK_RFC3339_SIZE];

    return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:o}", "id", digest_hex(&s->id, hex), "time",
                     clock_rfc3339(s->wall_us, time), "interval_us", bytes_json(s->interval_us),
                     "pause_us", bytes_json(s->pause_us), "pages", bytes_json(s->pages),
                     "pages_new", bytes_json(s->pages_new), "stored_bytes",
                     bytes_json(s->stored_bytes));
}

/* ---- all of it ---- */

static uint64_t cpu_us(void)
{
    struct timespec time;

    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) < 0)
        return 0;
    return (uint64_t)time.tv_sec * US_PER_S + (uint64_t)time.tv_nsec / 1000;
}

static json_t *describe_exits(struct board *board)
{
    json_t *exits = json_object();
    const struct counter_visitor visitor = {put_counter, exits};

    vm_exit_counters(board->vm, &visitor);
    return exits;
}

static json_t *describe_kvm(struct board *board)
{
    json_t *kvm = json_object();
    const struct counter_visitor visitor = {put_counter, kvm};

    vm_kvm_counters(board->vm, &visitor);
    return kvm;
}

bool verb_stats(struct process *p, struct client *client, json_t *args)
{
    const bool written = json_is_true(json_object_get(args, "written"));
    json_t *out = verb_status_json(p);

    json_object_set_new(out, "cpu_us", bytes_json(cpu_us()));
    json_object_set_new(out, "exits_by_kind", describe_exits(p->board));
    json_object_set_new(out, "kvm", describe_kvm(p->board));
    json_object_set_new(out, "devices", describe_devices(p->board));
    json_object_set_new(out, "console_bytes", bytes_json(console_length(p->console)));
    json_object_set_new(out, "memory", describe_memory(p));
    json_object_set_new(out, "written", written ? describe_written(p) : json_null());
    json_object_set_new(out, "saves", bytes_json(p->saves));
    json_object_set_new(out, "last_save",
                        p->saves > 0 ? describe_last_save(&p->last_save) : json_null());
    control_reply(p, client, out);
    return true;
}
