/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile checkpoint's state of vCPUs, interrupt controllers, timer and clock, at a
 * virtual machine of the host's KVM. The input changes the records of a machine that was
 * saved: bytes of their payloads, their length, version, or whether they are there. Each
 * is refused or taken over; a machine that took it over can be saved, and put back to
 * what it was. Where there is no KVM there is nothing to try.
 */
#include "fuzz.h"

#include "base/buffer.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "vmm/kvm/kvm.h"

#include <errno.h>
#include <unistd.h>

enum { RAM = 4 << 20, VCPUS = 2, CHANGES_MAX = 32, STEP = 4, RECORDS_MAX = 64 };

static struct memory *mem;
static struct kvm_vm *vm;
static struct buffer original;

static void on_access(bool is_write, uint64_t address, unsigned size, uint8_t *data)
{
    (void)is_write, (void)address, (void)size, (void)data;
}

static void on_io(bool is_write, uint16_t port, unsigned size, uint8_t *data, void *context)
{
    MUST(context == NULL);
    on_access(is_write, port, size, data);
}

static void on_mmio(bool is_write, uint64_t gpa, unsigned size, uint8_t *data, void *context)
{
    MUST(context == NULL);
    on_access(is_write, gpa, size, data);
}

static void on_stopped(enum vm_stop why, const char *message, void *context)
{
    (void)why, (void)message;
    MUST(context == NULL);
}

static int save(struct buffer *out)
{
    struct state_writer w;

    state_writer_init(&w);
    int r = vm_state_save(vm, 0, &w, NULL);
    MUST(r < 0 || state_writer_finish(&w, out) == 0);
    state_writer_clear(&w);
    return r;
}

static int restore(const struct buffer *state)
{
    int64_t wall_us = 0;
    struct error err = ERROR_INIT;

    int r = vm_state_restore(vm, state->data, state->length, &wall_us, &err);
    MUST(r == 0 || err.message[0] != '\0');
    return r;
}

/* False: this host has none. */
static bool have_machine(void)
{
    const struct vm_exits exits = {.io = on_io, .mmio = on_mmio, .stopped = on_stopped};

    if (vm != NULL)
        return true;
    if (access("/dev/kvm", R_OK | W_OK) < 0 || memory_create(RAM, &mem, NULL) < 0 ||
        vm_create(mem, VCPUS, &exits, &vm, NULL) < 0)
        return false;
    MUST(save(&original) == 0);
    return true;
}

struct records {
    struct state_record list[RECORDS_MAX];
    unsigned count;
};

static int collect(const struct state_record *record, void *context)
{
    struct records *records = context;

    MUST(records->count < RECORDS_MAX);
    records->list[records->count++] = *record;
    return 0;
}

/* Four bytes a change: which record, what and where, a value. Those that touch the same
 * record add up. */
static void put_changed(struct state_writer *w, const struct state_record *record, unsigned index,
                        unsigned count, const uint8_t *data, size_t size)
{
    _cleanup_free_ uint8_t *payload = malloc(record->length + 1);
    size_t length = record->length;
    uint16_t version = record->version;
    bool present = true;

    MUST(payload != NULL);
    memcpy(payload, record->payload, length);
    for (size_t i = 0; i + STEP <= size && i < STEP * CHANGES_MAX; i += STEP) {
        const uint8_t *p = data + i;
        const size_t at = (size_t)(p[1] & 15) << 8 | p[2];

        if (p[0] % count != index)
            continue;
        if (p[1] < 0xe0 && length > 0)
            payload[at % length] = p[1] & 0x10 ? payload[at % length] ^ p[3] : p[3];
        else if (p[1] < 0xe8)
            length = min_u64(length, at);
        else if (p[1] < 0xf0)
            version = p[3];
        else if (p[1] == 0xf0)
            present = false;
    }
    if (!present)
        return;
    state_writer_begin(w, record->type, record->instance, version, record->flags);
    state_put_bytes(w, payload, length);
    state_writer_end(w);
}

static struct buffer changed(const uint8_t *data, size_t size)
{
    struct records records = {.count = 0};
    struct buffer out = {0};
    struct state_writer w;

    state_each(original.data, original.length, collect, &records);
    state_writer_init(&w);
    for (unsigned i = 0; i < records.count; i++)
        put_changed(&w, &records.list[i], i, records.count, data, size);
    MUST(state_writer_finish(&w, &out) == 0);
    state_writer_clear(&w);
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!have_machine())
        return 0;
    _cleanup_(buffer_clear) struct buffer state = changed(data, size);
    _cleanup_(buffer_clear) struct buffer saved = {0};

    MUST(state_check(state.data, state.length, NULL) == 0);
    if (restore(&state) == 0)
        MUST(save(&saved) == 0);
    MUST(restore(&original) == 0);
    return 0;
}
