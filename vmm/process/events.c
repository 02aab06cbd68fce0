/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happens to the machine, a line of JSON each, in events.log of its directory: a
 * file, so that whoever wants to know follows it, loses nothing by being slow or late,
 * and needs no process that lives as long as all machines (vmm/event_stream.h).
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "vmm/process/process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/stat.h>

enum {
    KEEP_BYTES = 1u << 20, /* some seven thousand events */
    PUNCH_STEP = 256u << 10,
};

int event_log_open(struct process *p, struct error *err)
{
    _cleanup_free_ char *path = io_format("%s/events.log", p->dir);

    p->events_fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    return p->events_fd < 0 ? error_errno(err, errno, "cannot open %s", path) : 0;
}

/* The file's length goes on counting all that was ever written. */
static void forget_oldest(int fd)
{
    struct stat st;

    if (fstat(fd, &st) == 0 && st.st_size > KEEP_BYTES + PUNCH_STEP)
        (void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                        (off_t)align_down((uint64_t)st.st_size - KEEP_BYTES, PUNCH_STEP));
}

/* One write(): readers never see half a line of a process that lives. */
void event_log(struct process *p, const char *event, json_t *details)
{
    char time[CLOCK_RFC3339_SIZE];
    _cleanup_json_ json_t *json =
        json_pack("{s:s, s:s, s:s}", "time", clock_rfc3339(clock_wall_us(), time), "machine",
                  p->name, "event", event);

    if (details != NULL)
        json_object_update_missing(json, details);
    json_decref(details);
    _cleanup_free_ char *text = json_dumps(json, JSON_COMPACT);
    if (text == NULL || p->events_fd < 0)
        return;
    size_t length = strlen(text);
    text[length] = '\n'; /* in the place of the NUL */
    if (write(p->events_fd, text, length + 1) != (ssize_t)length + 1)
        log_event("cannot write the event %s: %s", event, strerror(errno));
    forget_oldest(p->events_fd);
}
