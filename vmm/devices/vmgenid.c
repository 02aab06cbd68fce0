/* SPDX-License-Identifier: Apache-2.0 */
/* The generation's number lives in guest RAM, so that the guest reads it without an
 * exit and a checkpoint contains it; what is saved beside is only where it is. Whoever
 * restores writes another one over it before the guest runs. */
#include "base/error.h"
#include "base/log.h"
#include "vmm/devices/platform.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define VMGENID_STATE_VERSION 1

enum { ID_SIZE = 16, ID_ALIGN = 8 };

struct vmgenid {
    struct device dev;
    struct memory *mem;
    struct irq_line irq;
    uint64_t gpa;
    bool absent;   /* the machine's tables know of no such device */
    bool announce; /* the guest has not been told of the new number */
};

static int write_new_id(struct vmgenid *genid, struct error *err)
{
    uint8_t id[ID_SIZE];

    if (getrandom(id, sizeof(id), 0) != (ssize_t)sizeof(id))
        return error_errno(err, errno, "cannot make a new generation id");
    int r = memory_write(genid->mem, genid->gpa, id, sizeof(id));
    return r < 0 ? error_corrupt(err, "the machine's generation id is not in its memory") : 0;
}

static void vmgenid_reset(struct device *dev)
{
    struct vmgenid *genid = (struct vmgenid *)dev;
    struct error err;

    genid->absent = false;
    genid->announce = false;
    if (write_new_id(genid, &err) < 0)
        log_event("%s", err.message);
}

static void vmgenid_save(struct device *dev, struct state_writer *w)
{
    const struct vmgenid *genid = (const struct vmgenid *)dev;

    if (genid->absent)
        return;
    state_writer_begin(w, STATE_VMGENID, dev->instance, VMGENID_STATE_VERSION, 0);
    state_put_u64(w, genid->gpa);
    state_writer_end(w);
}

static int vmgenid_restore(struct device *dev, const void *state, size_t length, struct error *err)
{
    struct vmgenid *genid = (struct vmgenid *)dev;
    struct state_record record;

    /* Saved before machines had one: its guest does not look for it. */
    if (state_find(state, length, STATE_VMGENID, dev->instance, &record) < 0) {
        genid->absent = true;
        genid->announce = false;
        return 0;
    }
    int r = state_find_known(state, length, STATE_VMGENID, dev->instance, VMGENID_STATE_VERSION,
                             &record, err);
    if (r < 0)
        return r;
    uint64_t gpa = state_get_u64(&record);
    r = state_record_done(&record, err);
    if (r < 0)
        return r;
    if (gpa % ID_ALIGN != 0 || memory_at(genid->mem, gpa, ID_SIZE) == NULL)
        return error_corrupt(err, "the saved generation id is at %#llx", (unsigned long long)gpa);
    genid->gpa = gpa;
    genid->absent = false;
    r = write_new_id(genid, err);
    genid->announce = r == 0;
    return r;
}

static void vmgenid_resume(struct device *dev)
{
    struct vmgenid *genid = (struct vmgenid *)dev;

    if (genid->announce)
        irq_line_raise(&genid->irq);
    genid->announce = false;
}

static void vmgenid_destroy(struct device *dev)
{
    free(dev);
}

static const struct device_ops vmgenid_ops = {
    .name = "vmgenid",
    .reset = vmgenid_reset,
    .save = vmgenid_save,
    .restore = vmgenid_restore,
    .resume = vmgenid_resume,
    .destroy = vmgenid_destroy,
};

struct device *vmgenid_create(struct memory *mem, uint64_t gpa, const struct irq_line *irq)
{
    struct vmgenid *genid = calloc(1, sizeof(*genid));

    if (genid == NULL)
        abort();
    genid->dev.ops = &vmgenid_ops;
    genid->mem = mem;
    genid->gpa = gpa;
    genid->irq = *irq;
    return &genid->dev;
}
