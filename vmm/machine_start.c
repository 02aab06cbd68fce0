/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/machine_start.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

enum { FILE_MAX = 64 << 10 };

static int write_json(const char *path, const json_t *json)
{
    _cleanup_free_ char *text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);

    return text == NULL ? -ENOMEM : io_write_file(AT_FDCWD, path, text, strlen(text), 0600);
}

int machine_start_write(const char *machine_dir, const struct machine_start *start,
                        struct error *err)
{
    char hex[DIGEST_HEX_SIZE];
    _cleanup_free_ char *path = io_format("%s/start.json", machine_dir);
    _cleanup_json_ json_t *json =
        json_pack("{s:s, s:b, s:b, s:b, s:b, s:s}", "checkpoint",
                  digest_hex(&start->checkpoint, hex), "keep_overlays", start->keep_overlays,
                  "boot", start->boot, "paused", start->paused, "offline", start->offline, "clock",
                  start->clock == MACHINE_CLOCK_HOST ? "host" : "continue");

    int r = write_json(path, json);
    return r < 0 ? error_errno(err, -r, "cannot write %s", path) : 0;
}

int machine_start_read(const char *machine_dir, struct machine_start *out, struct error *err)
{
    _cleanup_free_ char *path = io_format("%s/start.json", machine_dir);
    _cleanup_free_ char *text = NULL;
    size_t length;
    const char *hex, *clock;
    int keep, boot, paused, offline;

    int r = io_read_file(AT_FDCWD, path, FILE_MAX, &text, &length);
    if (r < 0)
        return error_errno(err, -r, "cannot read %s", path);
    _cleanup_json_ json_t *json = json_loadb(text, length, 0, NULL);
    if (json == NULL ||
        json_unpack(json, "{s:s, s:b, s:b, s:b, s:b, s:s}", "checkpoint", &hex, "keep_overlays",
                    &keep, "boot", &boot, "paused", &paused, "offline", &offline, "clock",
                    &clock) < 0 ||
        digest_parse(hex, &out->checkpoint) < 0)
        return error_corrupt(err, "%s is damaged", path);
    out->keep_overlays = keep != 0;
    out->boot = boot != 0;
    out->paused = paused != 0;
    out->offline = offline != 0;
    out->clock = strcmp(clock, "host") == 0 ? MACHINE_CLOCK_HOST : MACHINE_CLOCK_CONTINUE;
    return 0;
}

void machine_end_forget(const char *machine_dir)
{
    _cleanup_free_ char *path = io_format("%s/end.json", machine_dir);

    unlink(path);
}

void machine_end_write(const char *machine_dir, const char *reason, const char *message)
{
    char at[CLOCK_RFC3339_SIZE];
    _cleanup_free_ char *path = io_format("%s/end.json", machine_dir);
    _cleanup_json_ json_t *json = json_pack("{s:s, s:s, s:s}", "reason", reason, "message", message,
                                            "at", clock_rfc3339(clock_wall_us(), at));

    if (json == NULL || write_json(path, json) < 0)
        log_event("cannot write %s", path);
}
