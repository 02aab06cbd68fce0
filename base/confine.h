/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process gives up before it looks at what others wrote: a view of the file
 * system (namespaces), the right to open files (Landlock), capabilities. None of it can
 * be undone. Call while the process has one thread: those it starts later inherit it,
 * others would keep what they have.
 */
#ifndef STASIS_BASE_CONFINE_H
#define STASIS_BASE_CONFINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What may be done with a path and all below it. */
enum confine_access {
    CONFINE_READ,  /* open files and list directories */
    CONFINE_WRITE, /* also write, make and remove files and sockets */
    CONFINE_DEVICE /* of a device: read, write, ioctl */
};

struct confine_path {
    const char *path; /* absolute; what is not there is passed over */
    enum confine_access access;
};

struct confine_files {
    const struct confine_path *paths;
    size_t count;
    bool no_network; /* neither bind nor connect, for TCP */
};

/* The version of Landlock of this kernel; 0 if it has none. Any thread. */
int confine_landlock_version(void);

/*
 * From here on, this thread and those it starts open nothing but the paths, and,
 * where the kernel's Landlock knows of these, reach no abstract sockets of others and
 * send them no signals. What is open stays open. 0 or negative errno: -EOPNOTSUPP
 * (or -ENOSYS) without Landlock.
 */
int confine_files(const struct confine_files *files);

/*
 * From here on the process has a root directory of its own with the paths in it and
 * nothing else, each under its name, and with no_network a network of its own without
 * a link. Needs CAP_SYS_ADMIN or user namespaces. Its working directory is the root. On
 * failure, a negative errno, it sees the files it saw before. It must have one thread.
 */
int confine_view(const struct confine_files *files);

/* Would confine_view() work? A child tries it. As confine_view(). */
int confine_view_try(const struct confine_files *files);

/* Capabilities the thread keeps if it has them, as bits 1 << CAP_*; of the first 32. */
int confine_capabilities(uint32_t keep);

#endif
