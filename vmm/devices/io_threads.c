/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/devices/io_threads.h"

#include "base/cleanup.h"
#include "vmm/process/sandbox.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct source {
    void (*serve)(void *context);
    void *context;
};

struct io_threads {
    int epoll_fd;
    int quit_fd;
    unsigned source_count;
    struct source sources[IO_THREADS_SOURCES_MAX];
    unsigned thread_count;
    pthread_t threads[IO_THREADS_MAX];
};

static int watch(struct io_threads *t, int fd, uint32_t events, struct source *source)
{
    struct epoll_event event = {.events = events, .data.ptr = source};

    return epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int io_threads_create(struct io_threads **out, struct error *err)
{
    struct io_threads *t = calloc(1, sizeof(*t));

    if (t == NULL)
        return error_errno(err, ENOMEM, "cannot make threads for disks");
    t->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    t->quit_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = t->epoll_fd < 0 || t->quit_fd < 0 ? -errno : watch(t, t->quit_fd, EPOLLIN, NULL);
    if (r < 0) {
        io_threads_free(t);
        return error_errno(err, -r, "cannot make threads for disks");
    }
    *out = t;
    return 0;
}

int io_threads_add(struct io_threads *t, int eventfd, void (*serve)(void *context), void *context,
                   struct error *err)
{
    if (t->source_count == IO_THREADS_SOURCES_MAX)
        abort();
    struct source *source = &t->sources[t->source_count++];
    *source = (struct source){.serve = serve, .context = context};
    /* Edge-triggered: each write wakes one of those that wait, and nobody has to read. */
    int r = watch(t, eventfd, EPOLLIN | EPOLLET, source);
    return r < 0 ? error_errno(err, -r, "cannot watch a disk") : 0;
}

static void *serve_sources(void *context)
{
    struct io_threads *t = context;
    struct epoll_event event;

    sandbox_thread(SANDBOX_DISKS);
    for (;;) {
        if (epoll_wait(t->epoll_fd, &event, 1, -1) < 1)
            continue; /* EINTR, by a debugger */
        const struct source *source = event.data.ptr;
        if (source == NULL)
            return NULL;
        source->serve(source->context);
    }
}

int io_threads_start(struct io_threads *t, unsigned count, struct error *err)
{
    sigset_t all, before;
    int r = 0;

    sigfillset(&all);        /* signals for the process are the event loop's */
    sigdelset(&all, SIGSYS); /* the sandbox's, for the thread itself */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (t->thread_count < count && t->thread_count < IO_THREADS_MAX) {
        r = pthread_create(&t->threads[t->thread_count], NULL, serve_sources, t);
        if (r != 0)
            break;
        t->thread_count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return t->thread_count > 0 || count == 0 ? 0
                                             : error_errno(err, r, "cannot start a disk's thread");
}

void io_threads_stop(struct io_threads *t)
{
    if (t == NULL)
        return;
    (void)eventfd_write(t->quit_fd, 1); /* stays readable, for all of them */
    for (unsigned i = 0; i < t->thread_count; i++)
        pthread_join(t->threads[i], NULL);
    t->thread_count = 0;
}

void io_threads_free(struct io_threads *t)
{
    if (t == NULL)
        return;
    io_threads_stop(t);
    if (t->epoll_fd >= 0)
        close(t->epoll_fd);
    if (t->quit_fd >= 0)
        close(t->quit_fd);
    free(t);
}
