/* SPDX-License-Identifier: Apache-2.0 */
#include "store/group_memory.h"

#include "base/huge.h"
#include "imgfmt/pack.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#define SLOT_BYTES ((size_t)PACK_HOT_GROUP_PAGES * STASIS_PAGE_SIZE)
#define CHUNK_SLOTS 32u
_Static_assert(CHUNK_SLOTS *SLOT_BYTES == HUGE_PAGE_BYTES, "a chunk is a huge page");

/* Who reads a few groups shall not pay for a huge page. */
#define SMALL_CHUNKS 4u

/* What is smaller would leave much of its slot empty. */
#define SLOT_USED_MIN (SLOT_BYTES * 3 / 4)

struct chunk {
    uint8_t *bytes; /* NULL: given back */
    uint32_t free;  /* a bit for each slot that is */
};

struct group_memory {
    pthread_mutex_t lock;
    size_t references;
    bool huge;
    uint32_t first; /* no chunk before it has a free slot */
    uint32_t count;
    uint32_t capacity;
    struct chunk *chunks;
};

struct group_memory *group_memory_new(void)
{
    struct group_memory *m = calloc(1, sizeof(*m));

    if (m == NULL)
        return NULL;
    pthread_mutex_init(&m->lock, NULL);
    m->references = 1;
    m->huge = true;
    return m;
}

static void destroy(struct group_memory *m)
{
    for (uint32_t i = 0; i < m->count; i++)
        free(m->chunks[i].bytes);
    free(m->chunks);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

void group_memory_release(struct group_memory *m)
{
    bool last;

    if (m == NULL)
        return;
    pthread_mutex_lock(&m->lock);
    last = --m->references == 0;
    pthread_mutex_unlock(&m->lock);
    if (last)
        destroy(m);
}

void group_memory_set_huge(struct group_memory *m, bool huge)
{
    pthread_mutex_lock(&m->lock);
    m->huge = huge;
    pthread_mutex_unlock(&m->lock);
}

static bool has_room(const struct chunk *c)
{
    return c->bytes == NULL || c->free != 0;
}

/* The chunk to take a slot from: it may have no memory yet. */
static struct chunk *chunk_with_room(struct group_memory *m)
{
    while (m->first < m->count && !has_room(&m->chunks[m->first]))
        m->first++;
    if (m->first == m->count) {
        if (m->count == m->capacity) {
            uint32_t capacity = m->capacity == 0 ? 16 : m->capacity * 2;
            struct chunk *grown = reallocarray(m->chunks, capacity, sizeof(*grown));

            if (grown == NULL)
                return NULL;
            m->chunks = grown;
            m->capacity = capacity;
        }
        m->chunks[m->count++] = (struct chunk){0};
    }
    return &m->chunks[m->first];
}

static int take_slot(struct group_memory *m, struct group_bytes *out)
{
    struct chunk *c = chunk_with_room(m);
    unsigned slot;

    if (c != NULL && c->bytes == NULL) {
        c->bytes = m->huge && m->first >= SMALL_CHUNKS ? huge_alloc(HUGE_PAGE_BYTES)
                                                       : malloc(HUGE_PAGE_BYTES);
        c->free = UINT32_MAX;
    }
    if (c == NULL || c->bytes == NULL)
        return -ENOMEM;
    slot = (unsigned)__builtin_ctz(c->free);
    c->free &= ~(UINT32_C(1) << slot);
    *out = (struct group_bytes){c->bytes + slot * SLOT_BYTES, (uint32_t)(c - m->chunks)};
    return 0;
}

int group_memory_take(struct group_memory *m, size_t bytes, struct group_bytes *out)
{
    int r = 0;

    *out = (struct group_bytes){NULL, GROUP_ALONE};
    if (bytes < SLOT_USED_MIN || bytes > SLOT_BYTES) {
        out->bytes = malloc(bytes != 0 ? bytes : 1);
        r = out->bytes == NULL ? -ENOMEM : 0;
    }
    pthread_mutex_lock(&m->lock);
    if (r == 0 && out->bytes == NULL)
        r = take_slot(m, out);
    m->references += r == 0;
    pthread_mutex_unlock(&m->lock);
    return r;
}

void group_memory_give(struct group_memory *m, const struct group_bytes *g)
{
    if (g->chunk == GROUP_ALONE) {
        free(g->bytes);
    } else {
        struct chunk *c;

        pthread_mutex_lock(&m->lock);
        c = &m->chunks[g->chunk];
        c->free |= UINT32_C(1) << (size_t)(g->bytes - c->bytes) / SLOT_BYTES;
        if (g->chunk < m->first)
            m->first = g->chunk;
        pthread_mutex_unlock(&m->lock);
    }
    group_memory_release(m);
}

void group_memory_trim(struct group_memory *m)
{
    pthread_mutex_lock(&m->lock);
    for (uint32_t i = 0; i < m->count; i++) {
        struct chunk *c = &m->chunks[i];

        if (c->bytes == NULL || c->free != UINT32_MAX)
            continue;
        free(c->bytes);
        *c = (struct chunk){0};
        m->first = i < m->first ? i : m->first;
    }
    pthread_mutex_unlock(&m->lock);
}
