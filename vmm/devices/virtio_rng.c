/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-rng: virtio 1.2, 5.4. Never carries state: each read is fresh entropy of
 * the host, so that clones of one checkpoint get different bytes. */
#include "base/bytes.h"
#include "vmm/devices/virtio.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

/* The guest asks again for more; bounds the time of one request. */
enum { REQUEST_MAX = 4096, QUEUE_SIZE = 64 };

struct rng {
    struct memory *mem;
    uint64_t reads, read_bytes;
};

static int rng_serve(void *device, unsigned queue, const struct virtq_chain *chain,
                     uint32_t *written_out)
{
    struct rng *rng = device;
    uint8_t bytes[REQUEST_MAX];
    size_t n = (size_t)min_u64(chain->writable_bytes, sizeof(bytes));

    (void)queue;
    if (n == 0)
        return -EPROTO;
    ssize_t got = getrandom(bytes, n, 0);
    if (got <= 0 || !virtq_chain_write(chain, rng->mem, 0, bytes, (size_t)got))
        return -EIO;
    *written_out = (uint32_t)got;
    counter_add(&rng->reads, 1);
    counter_add(&rng->read_bytes, (uint64_t)got);
    return 0;
}

static void rng_counters(const void *device, const struct counter_visitor *visitor)
{
    const struct rng *rng = device;

    counter_visit(visitor, "reads", &rng->reads);
    counter_visit(visitor, "read_bytes", &rng->read_bytes);
}

static void rng_destroy(void *device)
{
    free(device);
}

static const struct virtio_ops rng_ops = {
    .name = "virtio-rng",
    .device_id = VIRTIO_ID_ENTROPY,
    .queue_count = 1,
    .queue_size_max = QUEUE_SIZE,
    .serve = rng_serve,
    .counters = rng_counters,
    .destroy = rng_destroy,
};

struct device *virtio_rng_create(uint16_t slot, struct memory *mem, const struct irq_line *irq)
{
    struct rng *rng = calloc(1, sizeof(*rng));

    if (rng == NULL)
        abort();
    rng->mem = mem;
    return virtio_create(slot, &rng_ops, rng, mem, irq);
}
