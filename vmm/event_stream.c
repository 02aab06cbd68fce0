/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/event_stream.h"

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "vmm/machine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/inotify.h>

enum {
    TICK_MS = 500,          /* how long a death may go unnoticed */
    LINE_MAX_BYTES = 65536, /* no event is as long */
    CHUNK = 65536,
};

/* A machine that is followed. */
struct source {
    struct source *next;
    char *name;
    int watch;     /* inotify's, of its directory */
    int events_fd; /* -1: not there yet */
    int lock_fd;   /* kept open: closing it would tell everybody that it was written */
    uint64_t offset;
    struct buffer line; /* an unfinished one */
    bool alive;         /* by what it has said */
};

struct event_stream {
    const struct home *home;
    char *only; /* this machine's, or NULL */
    int inotify_fd;
    int root_watch; /* of the directory of all machines */
    struct source *sources;
    json_t *queue; /* array: events not handed out yet */
};

static void source_free(struct source *s)
{
    if (s->events_fd >= 0)
        close(s->events_fd);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    buffer_clear(&s->line);
    free(s->name);
    free(s);
}

static void synthesize(struct event_stream *stream, const char *machine, const char *event)
{
    char time[CLOCK_RFC3339_SIZE];

    json_array_append_new(stream->queue,
                          json_pack("{s:s, s:s, s:s}", "time", clock_rfc3339(clock_wall_us(), time),
                                    "machine", machine, "event", event));
}

/* ---- a machine's file ---- */

/* What is no event (a line that was cut, by a crash or at the beginning of what is kept)
 * is passed over. */
static void take_line(struct event_stream *stream, struct source *s)
{
    json_t *event = json_loadb((const char *)s->line.data, s->line.length, 0, NULL);
    const char *what = json_string_value(json_object_get(event, "event"));
    const char *machine = json_string_value(json_object_get(event, "machine"));

    s->line.length = 0;
    if (what == NULL || machine == NULL || strcmp(machine, s->name) != 0) {
        json_decref(event);
        return;
    }
    s->alive = strcmp(what, "stopped") != 0 && strcmp(what, "crashed") != 0;
    json_array_append_new(stream->queue, event);
}

static void take_bytes(struct event_stream *stream, struct source *s, const char *bytes, size_t n)
{
    while (n > 0) {
        const char *end = memchr(bytes, '\n', n);
        const size_t length = end != NULL ? (size_t)(end - bytes) : n;
        if (s->line.length + length > LINE_MAX_BYTES || buffer_append(&s->line, bytes, length) < 0)
            s->line.length = 0;
        if (end == NULL)
            return;
        take_line(stream, s);
        bytes = end + 1;
        n -= length + 1;
    }
}

static void open_files(const struct event_stream *stream, struct source *s)
{
    _cleanup_free_ char *dir = home_machine_dir(stream->home, s->name);
    _cleanup_free_ char *events = io_format("%s/events.log", dir);
    _cleanup_free_ char *lock = io_format("%s/lock", dir);

    if (s->events_fd < 0)
        s->events_fd = open(events, O_RDONLY | O_CLOEXEC);
    if (s->lock_fd < 0)
        s->lock_fd = open(lock, O_RDWR | O_CLOEXEC);
}

static void read_source(struct event_stream *stream, struct source *s)
{
    char chunk[CHUNK];

    open_files(stream, s);
    while (s->events_fd >= 0) {
        off_t data = lseek(s->events_fd, (off_t)s->offset, SEEK_DATA); /* over a hole */
        if (data < 0)
            return;
        s->offset = (uint64_t)data;
        ssize_t n = pread(s->events_fd, chunk, sizeof(chunk), data);
        if (n <= 0)
            return;
        s->offset += (size_t)n;
        take_bytes(stream, s, chunk, (size_t)n);
    }
}

static bool is_locked(const struct source *s)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    return s->lock_fd >= 0 && fcntl(s->lock_fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

/* Has its process ended without a word? What it said last was there before its lock was
 * gone, so it is read in that order. */
static void check_alive(struct event_stream *stream, struct source *s)
{
    if (!s->alive || is_locked(s))
        return;
    read_source(stream, s);
    if (!s->alive || is_locked(s))
        return;
    synthesize(stream, s->name, "crashed");
    s->alive = false;
}

/* ---- machines that come and go ---- */

static struct source *find_source(const struct event_stream *stream, const char *name)
{
    for (struct source *s = stream->sources; s != NULL; s = s->next)
        if (strcmp(s->name, name) == 0)
            return s;
    return NULL;
}

/* from_start: nothing of it was missed so far. Else what it said before is passed over,
 * but for whether it lives. */
static void add_source(struct event_stream *stream, const char *name, bool from_start)
{
    _cleanup_free_ char *dir = home_machine_dir(stream->home, name);

    if (!home_name_is_valid(name) || find_source(stream, name) != NULL ||
        (stream->only != NULL && strcmp(stream->only, name) != 0))
        return;
    int watch = inotify_add_watch(stream->inotify_fd, dir, IN_CREATE | IN_MODIFY | IN_ONLYDIR);
    struct source *s = watch < 0 ? NULL : calloc(1, sizeof(*s));
    if (s == NULL)
        return; /* it is gone again */
    *s = (struct source){.next = stream->sources,
                         .name = io_format("%s", name),
                         .watch = watch,
                         .events_fd = -1,
                         .lock_fd = -1};
    stream->sources = s;
    open_files(stream, s);
    if (!from_start && s->events_fd >= 0) {
        s->offset = (uint64_t)lseek(s->events_fd, 0, SEEK_END);
        s->alive = is_locked(s);
    }
    read_source(stream, s);
}

static void remove_source(struct event_stream *stream, const char *name)
{
    for (struct source **at = &stream->sources; *at != NULL; at = &(*at)->next) {
        struct source *s = *at;
        if (strcmp(s->name, name) != 0)
            continue;
        read_source(stream, s);
        check_alive(stream, s);
        if (s->events_fd >= 0) /* else it never was a machine that ran */
            synthesize(stream, s->name, "removed");
        *at = s->next;
        source_free(s);
        return;
    }
}

static int scan(struct event_stream *stream, bool from_start, struct error *err)
{
    _cleanup_closedir_ DIR *dir = opendir(stream->home->machines);
    const struct dirent *entry;

    if (dir == NULL)
        return error_errno(err, errno, "cannot read %s", stream->home->machines);
    while ((entry = readdir(dir)) != NULL)
        add_source(stream, entry->d_name, from_start);
    return 0;
}

/* ---- inotify ---- */

static void handle_change(struct event_stream *stream, const struct inotify_event *change)
{
    if ((change->mask & IN_Q_OVERFLOW) != 0) {
        scan(stream, true, NULL);
        for (struct source *s = stream->sources; s != NULL; s = s->next)
            read_source(stream, s);
    } else if (change->wd == stream->root_watch && change->len > 0) {
        if ((change->mask & (IN_DELETE | IN_MOVED_FROM)) != 0)
            remove_source(stream, change->name);
        else
            add_source(stream, change->name, true);
    } else {
        for (struct source *s = stream->sources; s != NULL; s = s->next)
            if (s->watch == change->wd && change->len > 0 &&
                strcmp(change->name, "events.log") == 0)
                read_source(stream, s);
    }
}

static void handle_changes(struct event_stream *stream)
{
    char changes[CHUNK] __attribute__((aligned(__alignof__(struct inotify_event))));
    const ssize_t n = read(stream->inotify_fd, changes, sizeof(changes));
    const struct inotify_event *change;

    for (ssize_t at = 0; at < n; at += (ssize_t)(sizeof(*change) + change->len)) {
        change = (const struct inotify_event *)(const void *)(changes + at);
        handle_change(stream, change);
    }
}

/* ---- the stream ---- */

static int compare_times(const void *a, const void *b)
{
    const char *left = json_string_value(json_object_get(*(json_t *const *)a, "time"));
    const char *right = json_string_value(json_object_get(*(json_t *const *)b, "time"));

    return left == NULL || right == NULL ? 0 : strcmp(left, right); /* RFC 3339 in UTC sorts */
}

/* What was read machine by machine, in the order in which it happened. */
static int sort_queue(struct event_stream *stream)
{
    const size_t count = json_array_size(stream->queue);
    _cleanup_free_ json_t **events = calloc(count + 1, sizeof(json_t *));

    if (events == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        events[i] = json_incref(json_array_get(stream->queue, i));
    json_array_clear(stream->queue);
    qsort(events, count, sizeof(json_t *), compare_times);
    for (size_t i = 0; i < count; i++)
        json_array_append_new(stream->queue, events[i]);
    return 0;
}

/* Watches first and looks then: what comes in between is found either way. */
static int start(struct event_stream *stream, bool past, struct error *err)
{
    stream->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (stream->inotify_fd < 0) {
        error_errno(err, errno, "cannot watch for events");
        error_hint(err, "too many programs may be watching files; see fs.inotify in sysctl");
        return -(err != NULL ? err->errnum : EIO);
    }
    stream->root_watch =
        inotify_add_watch(stream->inotify_fd, stream->home->machines,
                          IN_CREATE | IN_MOVED_TO | IN_DELETE | IN_MOVED_FROM | IN_ONLYDIR);
    if (stream->root_watch < 0)
        return error_errno(err, errno, "cannot watch %s", stream->home->machines);
    int r = scan(stream, past, err);
    /* Who has crashed before is no news. */
    for (struct source *s = stream->sources; s != NULL; s = s->next)
        s->alive = s->alive && is_locked(s);
    if (r == 0 && (r = sort_queue(stream)) < 0)
        error_errno(err, -r, "cannot sort the events");
    return r;
}

int event_stream_open(const struct home *home, const char *machine, bool past,
                      struct event_stream **out, struct error *err)
{
    struct event_stream *stream = calloc(1, sizeof(*stream));

    if (stream == NULL)
        return error_errno(err, ENOMEM, "cannot watch for events");
    stream->home = home;
    stream->only = machine != NULL ? io_format("%s", machine) : NULL;
    stream->inotify_fd = -1;
    stream->queue = json_array();
    int r = start(stream, past, err);
    if (r < 0) {
        event_stream_close(stream);
        return r;
    }
    *out = stream;
    return 0;
}

void event_stream_close(struct event_stream *stream)
{
    if (stream == NULL)
        return;
    while (stream->sources != NULL) {
        struct source *s = stream->sources;
        stream->sources = s->next;
        source_free(s);
    }
    if (stream->inotify_fd >= 0)
        close(stream->inotify_fd);
    json_decref(stream->queue);
    free(stream->only);
    free(stream);
}

int event_stream_next(struct event_stream *stream, json_t **out, struct error *err)
{
    struct pollfd poll_fd = {.fd = stream->inotify_fd, .events = POLLIN};

    *out = NULL;
    if (json_array_size(stream->queue) == 0) {
        int n = poll(&poll_fd, 1, TICK_MS);
        if (n < 0 && errno != EINTR)
            return error_errno(err, errno, "cannot wait for events");
        if (n > 0)
            handle_changes(stream);
        for (struct source *s = stream->sources; s != NULL; s = s->next)
            check_alive(stream, s);
    }
    if (json_array_size(stream->queue) > 0) {
        *out = json_incref(json_array_get(stream->queue, 0));
        json_array_remove(stream->queue, 0);
    }
    return 0;
}
