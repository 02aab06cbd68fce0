/* SPDX-License-Identifier: Apache-2.0 */
/* Scope-bound cleanup: a local variable releases what it owns when it goes out
 * of scope, on every path, unless steal_pointer() or steal_fd() moved it out. */
#ifndef STASIS_BASE_CLEANUP_H
#define STASIS_BASE_CLEANUP_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#if __has_include(<jansson.h>) /* not where code for guests is built */
#include <jansson.h>
#endif

#define _cleanup_(fn) __attribute__((cleanup(fn)))

static inline void cleanup_freep(void *p)
{
    free(*(void **)p);
}

static inline void cleanup_closep(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static inline void cleanup_fclosep(FILE **file)
{
    if (*file != NULL)
        fclose(*file);
}

static inline void cleanup_closedirp(DIR **dir)
{
    if (*dir != NULL)
        closedir(*dir);
}

#ifdef JANSSON_H
static inline void cleanup_jsonp(json_t **value)
{
    json_decref(*value);
}
#endif

#define _cleanup_free_ _cleanup_(cleanup_freep)
#define _cleanup_close_ _cleanup_(cleanup_closep)
#define _cleanup_fclose_ _cleanup_(cleanup_fclosep)
#define _cleanup_closedir_ _cleanup_(cleanup_closedirp)
#define _cleanup_json_ _cleanup_(cleanup_jsonp)

/* Defines cleanup_TYPEp() for `T *TYPE_free(T *)`-style destructors, which
 * accept NULL; use as _cleanup_(name##p). */
#define DEFINE_CLEANUP(type, fn)                                                                   \
    static inline void fn##p(type **p)                                                             \
    {                                                                                              \
        if (*p != NULL)                                                                            \
            fn(*p);                                                                                \
    }

/* Moves ownership out of a cleanup variable. */
#define steal_pointer(p)                                                                           \
    ({                                                                                             \
        __typeof__(p) *const steal_from_ = &(p);                                                   \
        __typeof__(p) stolen_ = *steal_from_;                                                      \
        *steal_from_ = NULL;                                                                       \
        stolen_;                                                                                   \
    })

static inline int steal_fd(int *fd)
{
    int stolen = *fd;

    *fd = -1;
    return stolen;
}

#endif
