/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/devices/virtio.h"

#include "base/bytes.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>

/* Register offsets: virtio 1.2, 4.2.2. */
enum {
    REG_MAGIC = 0x000,
    REG_VERSION = 0x004,
    REG_DEVICE_ID = 0x008,
    REG_VENDOR_ID = 0x00c,
    REG_DEVICE_FEATURES = 0x010,
    REG_DEVICE_FEATURES_SEL = 0x014,
    REG_DRIVER_FEATURES = 0x020,
    REG_DRIVER_FEATURES_SEL = 0x024,
    REG_QUEUE_SEL = 0x030,
    REG_QUEUE_NUM_MAX = 0x034,
    REG_QUEUE_NUM = 0x038,
    REG_QUEUE_READY = 0x044,
    REG_INTERRUPT_STATUS = 0x060,
    REG_INTERRUPT_ACK = 0x064,
    REG_STATUS = 0x070,
    REG_QUEUE_DESC_LOW = 0x080,
    REG_QUEUE_DESC_HIGH = 0x084,
    REG_QUEUE_DRIVER_LOW = 0x090,
    REG_QUEUE_DRIVER_HIGH = 0x094,
    REG_QUEUE_DEVICE_LOW = 0x0a0,
    REG_QUEUE_DEVICE_HIGH = 0x0a4,
    REG_SHM_LEN_LOW = 0x0b0,
    REG_SHM_BASE_HIGH = 0x0bc,
    REG_CONFIG_GENERATION = 0x0fc,
    REG_CONFIG = 0x100,
};

enum {
    MAGIC = 0x74726976, /* "virt" */
    VENDOR = 0x53544153,
    STATUS_DRIVER_OK = 4,
    STATUS_FEATURES_OK = 8,
    STATUS_NEEDS_RESET = 64,
    INTERRUPT_USED = 1,
    INTERRUPT_CONFIG = 2,
    RECORD_V1 = 1,
    CONFIG_MAX = 256,
};

#define FEATURE_INDIRECT_DESC (1ull << 28)
#define FEATURE_EVENT_IDX (1ull << 29)
#define FEATURE_VERSION_1 (1ull << 32)

struct virtio {
    struct device dev;
    const struct virtio_ops *ops;
    void *device;
    struct memory *mem;
    struct irq_line irq;
    uint64_t driver_features;
    uint32_t device_features_sel;
    uint32_t driver_features_sel;
    uint32_t queue_sel;
    uint32_t status;
    uint32_t interrupt_status;
    int kick_fd;
    struct virtq queues[VIRTIO_QUEUES_MAX];
};

static uint64_t offered_features(const struct virtio *v)
{
    return v->ops->features | FEATURE_INDIRECT_DESC | FEATURE_EVENT_IDX | FEATURE_VERSION_1;
}

void *virtio_device(const struct device *dev)
{
    return ((const struct virtio *)dev)->device;
}

const char *virtio_name(const struct device *dev)
{
    return ((const struct virtio *)dev)->ops->name;
}

void virtio_counters(const struct device *dev, const struct counter_visitor *visitor)
{
    const struct virtio *v = (const struct virtio *)dev;

    if (v->ops->counters != NULL)
        v->ops->counters(v->device, visitor);
}

uint64_t virtio_driver_features(const struct device *dev)
{
    return ((const struct virtio *)dev)->driver_features;
}

bool virtio_is_running(const struct device *dev)
{
    const struct virtio *v = (const struct virtio *)dev;

    return (v->status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET)) == STATUS_DRIVER_OK;
}

uint16_t virtio_queue_offered(const struct device *dev, unsigned queue)
{
    const struct virtio *v = (const struct virtio *)dev;
    const struct virtq *q = &v->queues[queue];

    return q->ready ? virtq_offered(q, v->mem) : 0;
}

uint16_t virtio_queue_watch(struct device *dev, unsigned queue)
{
    struct virtio *v = (struct virtio *)dev;

    return virtq_watch(&v->queues[queue], v->mem);
}

static struct virtq *selected_queue(struct virtio *v)
{
    return v->queue_sel < v->ops->queue_count ? &v->queues[v->queue_sel] : NULL;
}

static void raise_interrupt(struct virtio *v, uint32_t why)
{
    v->interrupt_status |= why;
    irq_line_raise(&v->irq);
}

void virtio_config_changed(struct device *dev)
{
    struct virtio *v = (struct virtio *)dev;

    if ((v->status & STATUS_DRIVER_OK) != 0)
        raise_interrupt(v, INTERRUPT_CONFIG);
}

void virtio_kick_later(struct device *dev)
{
    struct virtio *v = (struct virtio *)dev;

    if (v->kick_fd >= 0)
        (void)eventfd_write(v->kick_fd, 1);
    else
        virtio_kick(dev);
}

/* 2.1.2: the driver must reset a device it has confused. */
static void needs_reset(struct virtio *v)
{
    if ((v->status & STATUS_NEEDS_RESET) != 0)
        return;
    v->status |= STATUS_NEEDS_RESET;
    if ((v->status & STATUS_DRIVER_OK) != 0)
        raise_interrupt(v, INTERRUPT_CONFIG);
}

static void quiesce(struct virtio *v)
{
    if (v->ops->quiesce != NULL)
        v->ops->quiesce(v->device);
}

static void transport_reset(struct device *dev)
{
    struct virtio *v = (struct virtio *)dev;

    quiesce(v);
    v->driver_features = 0;
    v->device_features_sel = 0;
    v->driver_features_sel = 0;
    v->queue_sel = 0;
    v->status = 0;
    v->interrupt_status = 0;
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
        virtq_reset(&v->queues[i]);
    if (v->ops->reset != NULL)
        v->ops->reset(v->device);
}

static uint32_t read_config(struct virtio *v, uint64_t offset, unsigned size)
{
    uint8_t config[CONFIG_MAX] = {0};
    uint32_t value = 0;

    if (v->ops->config_bytes == 0 || !range_fits(offset, size, v->ops->config_bytes) || size > 4)
        return 0;
    v->ops->config(v->device, config);
    memcpy(&value, config + offset, size);
    return le32toh(value);
}

static void write_config(struct virtio *v, uint64_t offset, unsigned size, uint32_t value)
{
    if (v->ops->write_config != NULL && size <= 4 && range_fits(offset, size, v->ops->config_bytes))
        v->ops->write_config(v->device, offset, size, value);
}

static uint64_t transport_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct virtio *v = (struct virtio *)dev;
    const struct virtq *q = selected_queue(v);

    if (offset >= REG_CONFIG)
        return read_config(v, offset - REG_CONFIG, size);
    if (size != 4)
        return 0;
    switch (offset) {
    case REG_MAGIC:
        return MAGIC;
    case REG_VERSION:
        return 2;
    case REG_DEVICE_ID:
        return v->ops->device_id;
    case REG_VENDOR_ID:
        return VENDOR;
    case REG_DEVICE_FEATURES:
        return v->device_features_sel < 2
                   ? (uint32_t)(offered_features(v) >> (32 * v->device_features_sel))
                   : 0;
    case REG_QUEUE_NUM_MAX:
        return q != NULL ? v->ops->queue_size_max : 0;
    case REG_QUEUE_READY:
        return q != NULL && q->ready;
    case REG_INTERRUPT_STATUS:
        return v->interrupt_status;
    case REG_STATUS:
        return v->status;
    default:
        /* No shared memory: its length and base read as -1 (4.2.2). */
        if (offset >= REG_SHM_LEN_LOW && offset <= REG_SHM_BASE_HIGH)
            return UINT32_MAX;
        return 0;
    }
}

static void write_driver_features(struct virtio *v, uint32_t value)
{
    if (v->driver_features_sel > 1 || (v->status & STATUS_FEATURES_OK) != 0)
        return;
    unsigned shift = 32 * v->driver_features_sel;
    v->driver_features &= ~(0xffffffffull << shift);
    v->driver_features |= (uint64_t)value << shift;
}

static void write_status(struct virtio *v, uint32_t value)
{
    if (value == 0) {
        transport_reset(&v->dev);
        return;
    }
    /* 3.1.1: the device refuses features by leaving FEATURES_OK clear. */
    bool acceptable = (v->driver_features & ~offered_features(v)) == 0 &&
                      (v->driver_features & FEATURE_VERSION_1) != 0;
    if (!acceptable)
        value &= ~(uint32_t)STATUS_FEATURES_OK;
    v->status = (value & 0xff) | (v->status & STATUS_NEEDS_RESET);
    if ((v->status & STATUS_DRIVER_OK) != 0)
        virtio_kick_later(&v->dev);
}

static void write_queue_ready(struct virtio *v, struct virtq *q, uint32_t value)
{
    if (value == 0) {
        quiesce(v);
        virtq_reset(q);
        return;
    }
    if (virtq_is_valid(q, v->mem) && q->size <= v->ops->queue_size_max)
        q->ready = true;
    else
        needs_reset(v);
}

static void set_low(uint64_t *value, uint32_t low)
{
    *value = (*value & 0xffffffff00000000ull) | low;
}

static void set_high(uint64_t *value, uint32_t high)
{
    *value = (*value & 0xffffffffull) | (uint64_t)high << 32;
}

/* Registers of the selected queue; a queue in use does not change. */
static void write_queue(struct virtio *v, uint64_t offset, uint32_t value)
{
    struct virtq *q = selected_queue(v);

    if (q == NULL || (q->ready && offset != REG_QUEUE_READY))
        return;
    switch (offset) {
    case REG_QUEUE_NUM:
        q->size = value <= VIRTQ_SIZE_MAX ? (uint16_t)value : 0;
        break;
    case REG_QUEUE_READY:
        write_queue_ready(v, q, value);
        break;
    case REG_QUEUE_DESC_LOW:
        set_low(&q->desc_gpa, value);
        break;
    case REG_QUEUE_DESC_HIGH:
        set_high(&q->desc_gpa, value);
        break;
    case REG_QUEUE_DRIVER_LOW:
        set_low(&q->avail_gpa, value);
        break;
    case REG_QUEUE_DRIVER_HIGH:
        set_high(&q->avail_gpa, value);
        break;
    case REG_QUEUE_DEVICE_LOW:
        set_low(&q->used_gpa, value);
        break;
    case REG_QUEUE_DEVICE_HIGH:
        set_high(&q->used_gpa, value);
        break;
    default:
        break;
    }
}

static void transport_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value64)
{
    struct virtio *v = (struct virtio *)dev;
    uint32_t value = (uint32_t)value64;

    if (offset >= REG_CONFIG) {
        write_config(v, offset - REG_CONFIG, size, value);
        return;
    }
    if (size != 4)
        return;
    switch (offset) {
    case REG_DEVICE_FEATURES_SEL:
        v->device_features_sel = value;
        break;
    case REG_DRIVER_FEATURES:
        write_driver_features(v, value);
        break;
    case REG_DRIVER_FEATURES_SEL:
        v->driver_features_sel = value;
        break;
    case REG_QUEUE_SEL:
        v->queue_sel = value;
        break;
    case VIRTIO_QUEUE_NOTIFY: /* reached where KVM does not take the ioeventfd */
        virtio_kick_later(&v->dev);
        break;
    case REG_INTERRUPT_ACK:
        v->interrupt_status &= ~value;
        break;
    case REG_STATUS:
        write_status(v, value);
        break;
    default:
        write_queue(v, offset, value);
        break;
    }
}

/* ---- queues ---- */

/* Of a queue that chains may be taken from, or NULL. */
static struct virtq *live_queue(struct virtio *v, unsigned index)
{
    struct virtq *q = &v->queues[index];

    if (!virtio_is_running(&v->dev) || !q->ready)
        return NULL;
    q->event_index = (v->driver_features & FEATURE_EVENT_IDX) != 0;
    return q;
}

bool virtio_take(struct device *dev, unsigned queue, struct virtq_chain *out)
{
    struct virtio *v = (struct virtio *)dev;
    struct virtq *q = live_queue(v, queue);

    if (q == NULL)
        return false;
    int r = virtq_pop(q, v->mem, out);
    if (r == 0 && virtq_arm(q, v->mem))
        r = virtq_pop(q, v->mem, out);
    if (r < 0)
        needs_reset(v);
    return r > 0;
}

bool virtio_arm(struct device *dev)
{
    struct virtio *v = (struct virtio *)dev;
    bool more = false;

    for (unsigned i = 0; i < v->ops->queue_count; i++) {
        struct virtq *q = live_queue(v, i);
        more = (q != NULL && virtq_arm(q, v->mem)) || more;
    }
    return more;
}

unsigned virtio_give(struct device *dev, unsigned queue, uint16_t head, uint32_t written)
{
    struct virtio *v = (struct virtio *)dev;
    struct virtq *q = &v->queues[queue];

    virtq_push(q, v->mem, head, written);
    return (uint16_t)(q->next_used - q->signalled);
}

void virtio_signal(struct device *dev)
{
    struct virtio *v = (struct virtio *)dev;
    bool wanted = false;

    for (unsigned i = 0; i < v->ops->queue_count; i++) {
        struct virtq *q = &v->queues[i];
        if (q->next_used != q->signalled)
            wanted = virtq_wants_interrupt(q, v->mem) || wanted;
    }
    if (wanted)
        raise_interrupt(v, INTERRUPT_USED);
}

void virtio_break(struct device *dev)
{
    needs_reset((struct virtio *)dev);
}

static bool can_serve(const struct virtio *v, unsigned index)
{
    return v->ops->can_serve == NULL || v->ops->can_serve(v->device, index);
}

static void serve_queue(struct virtio *v, unsigned index)
{
    struct virtq *q = live_queue(v, index);
    struct virtq_chain chain;
    bool served = false;
    unsigned n;
    int r = 0;

    if (q == NULL)
        return;
    /* At most one ring's worth a call: a guest cannot keep the thread here. */
    for (n = 0; n < q->size; n++) {
        uint32_t written = 0;
        if (!can_serve(v, index))
            break; /* the device will look again by itself */
        r = virtq_pop(q, v->mem, &chain);
        if (r == 0 && !virtq_arm(q, v->mem))
            break;
        if (r == 0)
            continue;
        if (r > 0)
            r = v->ops->serve(v->device, index, &chain, &written);
        if (r < 0)
            break;
        virtq_push(q, v->mem, chain.head, written);
        served = true;
    }
    if (r < 0)
        needs_reset(v);
    else if (n == q->size && virtq_arm(q, v->mem) && v->kick_fd >= 0)
        virtio_kick_later(&v->dev);
    if (served && virtq_wants_interrupt(q, v->mem))
        raise_interrupt(v, INTERRUPT_USED);
}

void virtio_kick(struct device *dev)
{
    struct virtio *v = (struct virtio *)dev;

    for (unsigned i = 0; i < v->ops->queue_count; i++)
        serve_queue(v, i);
}

static void transport_save(struct device *dev, struct state_writer *w)
{
    struct virtio *v = (struct virtio *)dev;

    state_writer_begin(w, STATE_VIRTIO_MMIO, dev->instance, RECORD_V1, 0);
    state_put_u32(w, v->ops->device_id);
    state_put_u32(w, v->device_features_sel);
    state_put_u32(w, v->driver_features_sel);
    state_put_u32(w, v->queue_sel);
    state_put_u64(w, v->driver_features);
    state_put_u32(w, v->status);
    state_put_u32(w, v->interrupt_status);
    state_put_u32(w, v->ops->queue_count);
    for (unsigned i = 0; i < v->ops->queue_count; i++) {
        const struct virtq *q = &v->queues[i];
        state_put_u16(w, q->size);
        state_put_u16(w, q->ready);
        state_put_u16(w, q->next_avail);
        state_put_u16(w, q->next_used);
        state_put_u64(w, q->desc_gpa);
        state_put_u64(w, q->avail_gpa);
        state_put_u64(w, q->used_gpa);
    }
    state_writer_end(w);
    if (v->ops->save != NULL)
        v->ops->save(v->device, dev->instance, w);
}

static void load_queue(struct state_record *record, struct virtq *q)
{
    q->size = state_get_u16(record);
    q->ready = state_get_u16(record) != 0;
    q->next_avail = state_get_u16(record);
    q->next_used = state_get_u16(record);
    q->signalled = q->next_used; /* no push is without its virtq_wants_interrupt() then */
    q->desc_gpa = state_get_u64(record);
    q->avail_gpa = state_get_u64(record);
    q->used_gpa = state_get_u64(record);
}

static bool queues_are_valid(const struct virtio *v)
{
    for (unsigned i = 0; i < v->ops->queue_count; i++) {
        const struct virtq *q = &v->queues[i];
        if (q->ready && (!virtq_is_valid(q, v->mem) || q->size > v->ops->queue_size_max))
            return false;
    }
    return true;
}

/* Until FEATURES_OK the driver may have written anything as its features. */
static bool registers_are_valid(const struct virtio *v)
{
    bool accepted = (v->status & STATUS_FEATURES_OK) != 0;

    return v->status <= 0xff && v->interrupt_status <= (INTERRUPT_USED | INTERRUPT_CONFIG) &&
           (!accepted || (v->driver_features & ~offered_features(v)) == 0);
}

static int load_transport(struct virtio *v, struct state_record *record, struct error *err)
{
    uint32_t device_id = state_get_u32(record);
    v->device_features_sel = state_get_u32(record);
    v->driver_features_sel = state_get_u32(record);
    v->queue_sel = state_get_u32(record);
    v->driver_features = state_get_u64(record);
    v->status = state_get_u32(record);
    v->interrupt_status = state_get_u32(record);
    uint32_t queue_count = state_get_u32(record);

    /* One of fewer queues was saved by a device that had no more: the rest is new. */
    if (device_id != v->ops->device_id || queue_count > v->ops->queue_count)
        return error_corrupt(err, "the device state has another device than %s in slot %u",
                             v->ops->name, v->dev.instance);
    for (unsigned i = 0; i < queue_count; i++)
        load_queue(record, &v->queues[i]);
    int r = state_record_done(record, err);
    if (r < 0)
        return r;
    if (!queues_are_valid(v) || !registers_are_valid(v))
        return error_corrupt(err, "the state of %s in slot %u is out of range", v->ops->name,
                             v->dev.instance);
    return 0;
}

static int transport_restore(struct device *dev, const void *state, size_t length,
                             struct error *err)
{
    struct virtio *v = (struct virtio *)dev;
    struct state_record record;

    int r =
        state_find_known(state, length, STATE_VIRTIO_MMIO, dev->instance, RECORD_V1, &record, err);
    if (r < 0)
        return r;
    transport_reset(dev);
    r = load_transport(v, &record, err);
    if (r == 0 && v->ops->restore != NULL)
        r = v->ops->restore(v->device, dev->instance, state, length, err);
    if (r < 0)
        transport_reset(dev);
    return r;
}

static void transport_quiesce(struct device *dev)
{
    quiesce((struct virtio *)dev);
}

/* A kick may be waiting that the saved machine had not seen, and an interrupt
 * may have been acknowledged by nobody: do both again, once too often is legal. */
static void transport_resume(struct device *dev)
{
    struct virtio *v = (struct virtio *)dev;

    virtio_kick_later(&v->dev);
    if (v->interrupt_status != 0)
        irq_line_raise(&v->irq);
}

void virtio_set_kick_fd(struct device *dev, int fd)
{
    ((struct virtio *)dev)->kick_fd = fd;
}

static void transport_destroy(struct device *dev)
{
    struct virtio *v = (struct virtio *)dev;

    if (v->ops->destroy != NULL)
        v->ops->destroy(v->device);
    free(v);
}

static const struct device_ops transport_ops = {
    .name = "virtio-mmio",
    .read = transport_read,
    .write = transport_write,
    .reset = transport_reset,
    .quiesce = transport_quiesce,
    .save = transport_save,
    .restore = transport_restore,
    .resume = transport_resume,
    .destroy = transport_destroy,
};

struct device *virtio_create(uint16_t slot, const struct virtio_ops *ops, void *device,
                             struct memory *mem, const struct irq_line *irq)
{
    struct virtio *v = calloc(1, sizeof(*v));

    if (v == NULL || ops->queue_count > VIRTIO_QUEUES_MAX || ops->config_bytes > CONFIG_MAX)
        abort();
    v->dev.ops = &transport_ops;
    v->dev.instance = slot;
    v->ops = ops;
    v->device = device;
    v->mem = mem;
    v->irq = *irq;
    v->kick_fd = -1;
    return &v->dev;
}
