/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From objects to packs. New objects are gathered in groups, and groups in a queue,
 * which bounds the memory; the threads of the store compress and sum up the groups of
 * a queue, and they are appended in their order, so that the same input makes the
 * same packs.
 */
#include "base/cleanup.h"
#include "store/ingest_private.h"

#include <errno.h>
#include <fcntl.h>

/* What a group takes of a pack at most, with its part of the footer. */
#define GROUP_ROOM_BYTES ((uint64_t)GROUP_RAW_BYTES * 3 / 2)

static struct group_queue *queue_of(struct ingest *in, enum pack_kind kind)
{
    return kind == PACK_PAGES ? &in->page_queue : &in->node_queue;
}

void ingest_groups_free(struct ingest *in)
{
    for (unsigned i = 0; i < QUEUE_GROUPS; i++) {
        free(in->page_queue.groups[i]);
        free(in->node_queue.groups[i]);
    }
    for (unsigned i = 0; i < WORKERS_MAX; i++)
        pack_encoder_free(in->encoders[i]);
}

/* ---- writing ---- */

/* Groups of one queue on their way to its pack. */
struct appending {
    struct group_queue *q;
    unsigned count;
    pthread_mutex_t lock; /* over all below and the groups' ready */
    unsigned next;        /* the group to be appended next */
    bool busy;            /* somebody is appending, or has failed to */
};

struct write_round {
    struct ingest *in;
    struct appending pages, nodes;
};

static int append(struct ingest *in, const struct group_queue *q, const struct open_group *g,
                  struct error *err)
{
    uint32_t number;

    return pack_writer_append(in->packs[q->pack]->writer, &g->encoded, g->ids, &number, err);
}

/* Appends what is ready and whose turn has come; if somebody is at it already, he
 * will see this group too. */
static int append_ready(struct ingest *in, struct appending *a, struct open_group *g,
                        struct error *err)
{
    int r = 0;

    pthread_mutex_lock(&a->lock);
    g->ready = true;
    if (!a->busy) {
        a->busy = true;
        while (r == 0 && a->next < a->count && a->q->groups[a->next]->ready) {
            const struct open_group *due = a->q->groups[a->next];

            pthread_mutex_unlock(&a->lock);
            r = append(in, a->q, due, err);
            pthread_mutex_lock(&a->lock);
            a->next++;
        }
        a->busy = r < 0;
    }
    pthread_mutex_unlock(&a->lock);
    return r;
}

/* Compresses and sums up. The result takes the place of the raw bytes, which nobody
 * needs any more. */
static int encode_pages(struct ingest *in, unsigned slot, struct open_group *g, struct error *err)
{
    struct pack_encoder **encoder = &in->encoders[slot];
    int r = *encoder != NULL ? 0 : pack_encoder_new(HOT_ZSTD_LEVEL, encoder, err);

    if (r == 0)
        r = pack_group_encode(*encoder, g->bytes, g->used, g->count, NULL, &g->encoded, err);
    if (r == 0 && g->encoded.codec != PACK_RAW) {
        memcpy(g->own, g->encoded.stored, g->encoded.stored_bytes);
        g->encoded.stored = g->own;
    }
    return r;
}

/* Nodes are keys and digests: trying to compress them costs time and gains nothing. */
static int encode_nodes(struct open_group *g, struct error *err)
{
    return pack_group_encode(NULL, g->bytes, g->used, g->count, NULL, &g->encoded, err);
}

static int write_job(unsigned index, unsigned slot, void *context, struct error *err)
{
    struct write_round *round = context;
    bool is_page = index < round->pages.count;
    struct appending *a = is_page ? &round->pages : &round->nodes;
    struct open_group *g = a->q->groups[is_page ? index : index - round->pages.count];
    int r = is_page ? encode_pages(round->in, slot, g, err) : encode_nodes(g, err);

    return r < 0 ? r : append_ready(round->in, a, g, err);
}

/* The first groups have been written: all, or all but the last. The disk shall begin
 * with them now, so that less is left to wait for at the end; failing is fine. */
static void written(struct ingest *in, struct group_queue *q, unsigned count)
{
    struct open_group *last;

    if (count == 0)
        return;
    sync_file_range(in->packs[q->pack]->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    last = q->groups[q->count - 1];
    for (unsigned i = 0; i < count; i++)
        q->objects -= q->groups[i]->count;
    q->groups[q->count - 1] = q->groups[0];
    q->groups[0] = last;
    q->count -= count;
}

/* Writes the first groups of both queues. */
static int write_groups(struct ingest *in, unsigned pages, unsigned nodes, struct error *err)
{
    struct write_round round = {.in = in,
                                .pages = {.q = &in->page_queue, .count = pages},
                                .nodes = {.q = &in->node_queue, .count = nodes}};
    int r;

    if (pages + nodes == 0)
        return 0;
    pthread_mutex_init(&round.pages.lock, NULL);
    pthread_mutex_init(&round.nodes.lock, NULL);
    r = workers_run(in->store->workers, pages + nodes, write_job, &round, err);
    pthread_mutex_destroy(&round.pages.lock);
    pthread_mutex_destroy(&round.nodes.lock);
    if (r < 0) {
        in->failed = true;
        return r;
    }
    written(in, &in->page_queue, pages);
    written(in, &in->node_queue, nodes);
    return 0;
}

static int write_queue(struct ingest *in, const struct group_queue *q, unsigned count,
                       struct error *err)
{
    return q->kind == PACK_PAGES ? write_groups(in, count, 0, err)
                                 : write_groups(in, 0, count, err);
}

static int finish_job(unsigned index, unsigned slot, void *context, struct error *err)
{
    const struct ingest *in = context;
    struct own_pack *pack = in->packs[index];

    (void)slot;
    return pack->state == OWN_WRITING ? ingest_finish_pack(pack, err) : 0;
}

int ingest_flush(struct ingest *in, struct error *err)
{
    int r = write_groups(in, in->page_queue.count, in->node_queue.count, err);

    if (r == 0)
        r = workers_run(in->store->workers, in->pack_count, finish_job, in, err);
    in->page_queue.has_pack = in->node_queue.has_pack = false;
    return r;
}

/* ---- gathering ---- */

static bool group_has_room(const struct group_queue *q, size_t length)
{
    unsigned limit = q->kind == PACK_PAGES ? PACK_HOT_GROUP_PAGES : NODE_GROUP_OBJECTS;
    const struct open_group *g = q->groups[q->count - 1];

    return g->count < limit && g->used + length <= GROUP_RAW_BYTES;
}

/* Would the pack still have room for that many more groups? */
static bool pack_has_room(const struct ingest *in, const struct group_queue *q, unsigned groups)
{
    const struct own_pack *pack = in->packs[q->pack];

    return pack->state == OWN_WRITING &&
           pack_writer_size(pack->writer) + groups * GROUP_ROOM_BYTES <= PACK_MAX_SIZE;
}

/* Makes sure that one more group than there are has a pack to go to. */
static int need_pack(struct ingest *in, struct group_queue *q, struct error *err)
{
    int r = 0;

    if (q->has_pack && !pack_has_room(in, q, q->count + 1))
        r = write_queue(in, q, q->count, err);
    if (r == 0 && q->has_pack && !pack_has_room(in, q, 1)) {
        q->has_pack = false;
        if (in->packs[q->pack]->state == OWN_WRITING)
            r = ingest_finish_pack(in->packs[q->pack], err);
    }
    if (r == 0 && !q->has_pack) {
        r = ingest_add_pack(in, q->kind, &q->pack, err);
        q->has_pack = r == 0;
    }
    return r;
}

/* Begins a group behind the last, which is full. */
static int new_group(struct ingest *in, struct group_queue *q, struct error *err)
{
    int r = q->count == QUEUE_GROUPS ? write_queue(in, q, q->count, err) : 0;
    struct open_group *g;

    if (r == 0)
        r = need_pack(in, q, err);
    if (r < 0)
        return r;
    g = q->groups[q->count];
    if (g == NULL)
        g = q->groups[q->count] = malloc(sizeof(*g));
    if (g == NULL)
        return error_errno(err, ENOMEM, "writing to the store");
    g->count = 0;
    g->used = 0;
    g->bytes = g->own;
    g->offsets[0] = 0;
    g->ready = false;
    q->count++;
    return 0;
}

/* Lent bytes become ours. */
static void copy_lent(struct open_group *g)
{
    if (g->bytes == g->own)
        return;
    memcpy(g->own, g->bytes, g->used);
    g->bytes = g->own;
}

static void put_bytes(struct open_group *g, const uint8_t *bytes, size_t length, bool lend)
{
    if (lend && g->count == 0) {
        g->bytes = bytes;
    } else if (!lend || g->bytes == g->own || bytes != g->bytes + g->used) {
        copy_lent(g);
        memcpy(g->own + g->used, bytes, length);
    }
    g->used += length;
}

int ingest_add_object(struct ingest *in, enum pack_kind kind, struct page_ref id, const void *bytes,
                      size_t length, bool lend, struct error *err)
{
    struct group_queue *q = queue_of(in, kind);
    struct index *ix = kind == PACK_PAGES ? &in->pages : &in->nodes;
    struct open_group *g;
    int r = 0;

    if (q->count == 0 || !group_has_room(q, length))
        r = new_group(in, q, err);
    if (r == 0 &&
        index_add(ix, id, q->pack, own_index(in->packs[q->pack])->object_count + q->objects) < 0)
        r = error_errno(err, ENOMEM, "indexing a new page");
    if (r < 0) {
        in->failed = true;
        return r;
    }
    g = q->groups[q->count - 1];
    put_bytes(g, bytes, length, lend);
    page_ref_store(id, g->ids[g->count].bytes);
    g->offsets[++g->count] = (uint32_t)g->used;
    q->objects++;
    return 0;
}

int ingest_settle_pages(struct ingest *in, struct error *err)
{
    struct group_queue *q = &in->page_queue;
    int r = 0;

    if (q->count > 1)
        r = write_queue(in, q, q->count - 1, err);
    if (r == 0 && q->count == 1)
        copy_lent(q->groups[0]);
    return r;
}

void ingest_queued_bytes(const struct group_queue *q, uint32_t position, const uint8_t **bytes_out,
                         size_t *length_out)
{
    const struct open_group *const *g = (const struct open_group *const *)q->groups;

    for (; position >= (*g)->count; g++)
        position -= (*g)->count;
    *bytes_out = (*g)->bytes + (*g)->offsets[position];
    *length_out = (*g)->offsets[position + 1] - (*g)->offsets[position];
}
