/* SPDX-License-Identifier: Apache-2.0 */
#include "imgfmt/state.h"

#include "base/bytes.h"
#include "base/cleanup.h"

#include <errno.h>

#define STATE_MAGIC "STASTATE"
#define STATE_FORMAT 1u
#define STATE_ALIGN 8u

/* Offsets in the header and in a record's header. */
enum {
    HEADER_MAGIC = 0,
    HEADER_FORMAT = 8,
    HEADER_COUNT = 12,
    HEADER_SIZE = 16,

    RECORD_TYPE = 0,
    RECORD_INSTANCE = 2,
    RECORD_VERSION = 4,
    RECORD_FLAGS = 6,
    RECORD_LENGTH = 8,
    RECORD_RESERVED = 12,
    RECORD_SIZE = 16,
};

const char *state_type_name(enum state_type type)
{
    switch (type) {
    case STATE_VCPU_MP_STATE:
        return "vcpu.mp_state";
    case STATE_VCPU_REGS:
        return "vcpu.regs";
    case STATE_VCPU_SREGS:
        return "vcpu.sregs";
    case STATE_VCPU_XSAVE:
        return "vcpu.xsave";
    case STATE_VCPU_XCRS:
        return "vcpu.xcrs";
    case STATE_VCPU_DEBUGREGS:
        return "vcpu.debugregs";
    case STATE_VCPU_LAPIC:
        return "vcpu.lapic";
    case STATE_VCPU_TSC_KHZ:
        return "vcpu.tsc_khz";
    case STATE_VCPU_CPUID:
        return "vcpu.cpuid";
    case STATE_VCPU_MSRS:
        return "vcpu.msrs";
    case STATE_VCPU_EVENTS:
        return "vcpu.events";
    case STATE_VM_PIT:
        return "vm.pit";
    case STATE_VM_CLOCK:
        return "vm.clock";
    case STATE_VM_PIC:
        return "vm.pic";
    case STATE_VM_IOAPIC:
        return "vm.ioapic";
    case STATE_SERIAL:
        return "serial";
    case STATE_RTC:
        return "rtc";
    case STATE_I8042:
        return "i8042";
    case STATE_ACPI_PM:
        return "acpi.pm";
    case STATE_VMGENID:
        return "vmgenid";
    case STATE_VIRTIO_MMIO:
        return "virtio.mmio";
    case STATE_VIRTIO_BLK:
        return "virtio.blk";
    case STATE_VIRTIO_RNG:
        return "virtio.rng";
    case STATE_VIRTIO_NET:
        return "virtio.net";
    case STATE_VIRTIO_BALLOON:
        return "virtio.balloon";
    case STATE_VIRTIO_VSOCK:
        return "virtio.vsock";
    case STATE_NET_CONNECTIONS:
        return "net.connections";
    }
    return "unknown";
}

/* Every known type is in the switch above: the compiler sees to it. */
static bool type_is_known(enum state_type type)
{
    return strcmp(state_type_name(type), "unknown") != 0;
}

/* ---- writing ---- */

static void put(struct state_writer *w, const void *data, size_t length)
{
    if (w->error == 0)
        w->error = buffer_append(&w->buf, data, length);
}

void state_writer_init(struct state_writer *w)
{
    uint8_t header[HEADER_SIZE] = STATE_MAGIC;

    *w = (struct state_writer){0};
    store_le32(header + HEADER_FORMAT, STATE_FORMAT);
    put(w, header, sizeof(header));
}

void state_writer_begin(struct state_writer *w, enum state_type type, uint16_t instance,
                        uint16_t version, uint16_t flags)
{
    uint8_t header[RECORD_SIZE] = {0};

    if (w->record_offset != 0 || w->count == STATE_RECORDS_MAX)
        w->error = w->error != 0 ? w->error : -EINVAL;
    if (w->error != 0)
        return;
    store_le16(header + RECORD_TYPE, (uint16_t)type);
    store_le16(header + RECORD_INSTANCE, instance);
    store_le16(header + RECORD_VERSION, version);
    store_le16(header + RECORD_FLAGS, flags);
    size_t offset = w->buf.length;
    put(w, header, sizeof(header));
    w->record_offset = offset;
}

void state_put_bytes(struct state_writer *w, const void *data, size_t length)
{
    if (w->error != 0)
        return;
    if (w->record_offset == 0)
        w->error = -EINVAL;
    else if (!range_fits(w->buf.length, length, STATE_MAX_SIZE))
        w->error = -EFBIG;
    else
        put(w, data, length);
}

void state_put_u8(struct state_writer *w, uint8_t v)
{
    state_put_bytes(w, &v, sizeof(v));
}

void state_put_u16(struct state_writer *w, uint16_t v)
{
    v = htole16(v);
    state_put_bytes(w, &v, sizeof(v));
}

void state_put_u32(struct state_writer *w, uint32_t v)
{
    v = htole32(v);
    state_put_bytes(w, &v, sizeof(v));
}

void state_put_u64(struct state_writer *w, uint64_t v)
{
    v = htole64(v);
    state_put_bytes(w, &v, sizeof(v));
}

void state_writer_end(struct state_writer *w)
{
    static const uint8_t zeros[STATE_ALIGN];

    if (w->record_offset == 0)
        w->error = w->error != 0 ? w->error : -EINVAL;
    if (w->error != 0)
        return;
    size_t length = w->buf.length - w->record_offset - RECORD_SIZE;
    store_le32(w->buf.data + w->record_offset + RECORD_LENGTH, (uint32_t)length);
    put(w, zeros, align_up(length, STATE_ALIGN) - length);
    w->record_offset = 0;
    w->count++;
}

int state_writer_finish(struct state_writer *w, struct buffer *out)
{
    if (w->error == 0 && w->record_offset != 0)
        w->error = -EINVAL;
    if (w->error == 0 && w->buf.length > STATE_MAX_SIZE)
        w->error = -EFBIG;
    if (w->error != 0)
        return w->error;
    store_le32(w->buf.data + HEADER_COUNT, w->count);
    *out = w->buf;
    w->buf = (struct buffer){0};
    return 0;
}

void state_writer_clear(struct state_writer *w)
{
    buffer_clear(&w->buf);
    *w = (struct state_writer){0};
}

/* ---- reading ---- */

/* The record at *offset, and the offset behind it. False if none fits there. */
static bool record_at(const uint8_t *bytes, size_t length, size_t *offset, struct state_record *out)
{
    if (!range_fits(*offset, RECORD_SIZE, length))
        return false;
    const uint8_t *p = bytes + *offset;
    uint64_t payload = load_le32(p + RECORD_LENGTH);
    uint64_t padded = align_up(payload, STATE_ALIGN);
    if (!range_fits(*offset + RECORD_SIZE, padded, length))
        return false;
    *out = (struct state_record){
        .type = load_le16(p + RECORD_TYPE),
        .instance = load_le16(p + RECORD_INSTANCE),
        .version = load_le16(p + RECORD_VERSION),
        .flags = load_le16(p + RECORD_FLAGS),
        .payload = p + RECORD_SIZE,
        .length = (size_t)payload,
    };
    *offset += RECORD_SIZE + (size_t)padded;
    return true;
}

static int too_new(struct error *err)
{
    error_hint(err, "a newer stasis wrote it: update this one");
    return -EPROTONOSUPPORT;
}

static int check_header(const uint8_t *bytes, size_t length, struct error *err)
{
    if (length < HEADER_SIZE || memcmp(bytes, STATE_MAGIC, HEADER_FORMAT) != 0)
        return error_corrupt(err, "these %zu bytes are no device state", length);
    if (length > STATE_MAX_SIZE)
        return error_corrupt(err, "device state of %zu bytes, the limit is %u", length,
                             STATE_MAX_SIZE);
    uint32_t format = load_le32(bytes + HEADER_FORMAT);
    if (format == STATE_FORMAT)
        return 0;
    error_set(err, STATUS_FAILED, EPROTONOSUPPORT,
              "device state of format %u, this program reads format %u", format, STATE_FORMAT);
    return too_new(err);
}

static int check_record(const struct state_record *r, size_t offset, struct error *err)
{
    const uint8_t *reserved = r->payload - RECORD_SIZE + RECORD_RESERVED;

    if (load_le32(reserved) != 0)
        return error_corrupt(err, "device state at offset %zu: reserved bytes are not zero",
                             offset);
    for (size_t i = r->length; i < align_up(r->length, STATE_ALIGN); i++)
        if (r->payload[i] != 0)
            return error_corrupt(err, "device state at offset %zu: padding is not zero", offset);
    if ((r->flags & ~STATE_FLAG_OPTIONAL) != 0) {
        error_set(err, STATUS_FAILED, EPROTONOSUPPORT,
                  "device state at offset %zu: unknown flags %#x", offset, r->flags);
        return too_new(err);
    }
    if (!type_is_known(r->type) && (r->flags & STATE_FLAG_OPTIONAL) == 0) {
        error_set(err, STATUS_FAILED, EPROTONOSUPPORT,
                  "device state at offset %zu: unknown record type %u", offset, (unsigned)r->type);
        return too_new(err);
    }
    return 0;
}

static int compare_keys(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/* Two records of one type and instance would make "the" state ambiguous. */
static int check_unique(uint32_t *keys, uint32_t count, struct error *err)
{
    qsort(keys, count, sizeof(*keys), compare_keys);
    for (uint32_t i = 1; i < count; i++)
        if (keys[i] == keys[i - 1])
            return error_corrupt(err, "device state holds %s (type %u) of instance %u twice",
                                 state_type_name(keys[i] >> 16), keys[i] >> 16, keys[i] & 0xffff);
    return 0;
}

int state_check(const void *bytes, size_t length, struct error *err)
{
    size_t offset = HEADER_SIZE;
    struct state_record record;

    int r = check_header(bytes, length, err);
    if (r < 0)
        return r;
    uint32_t count = load_le32((const uint8_t *)bytes + HEADER_COUNT);
    if (count > STATE_RECORDS_MAX)
        return error_corrupt(err, "device state of %u records, the limit is %u", count,
                             STATE_RECORDS_MAX);
    _cleanup_free_ uint32_t *keys = calloc((size_t)count + 1, sizeof(*keys));
    if (keys == NULL)
        return error_errno(err, ENOMEM, "cannot check device state");
    for (uint32_t i = 0; i < count; i++) {
        size_t start = offset;
        if (!record_at(bytes, length, &offset, &record))
            return error_corrupt(err, "device state ends inside record %u of %u, at offset %zu", i,
                                 count, start);
        r = check_record(&record, start, err);
        if (r < 0)
            return r;
        keys[i] = (uint32_t)record.type << 16 | record.instance;
    }
    if (offset != length)
        return error_corrupt(err, "device state has %zu bytes behind its last record",
                             length - offset);
    return check_unique(keys, count, err);
}

int state_find(const void *bytes, size_t length, enum state_type type, uint16_t instance,
               struct state_record *out)
{
    size_t offset = HEADER_SIZE;
    struct state_record record;

    while (record_at(bytes, length, &offset, &record)) {
        if (record.type == type && record.instance == instance) {
            *out = record;
            return 0;
        }
    }
    return -ENOENT;
}

int state_find_known(const void *bytes, size_t length, enum state_type type, uint16_t instance,
                     uint16_t version_max, struct state_record *out, struct error *err)
{
    struct state_record record;

    if (state_find(bytes, length, type, instance, &record) < 0)
        return error_corrupt(err, "the saved state has no record %s of instance %u",
                             state_type_name(type), instance);
    if (record.version == 0 || record.version > version_max) {
        error_set(err, STATUS_FAILED, EPROTONOSUPPORT,
                  "the saved state has version %u of record %s, this program reads up to %u",
                  record.version, state_type_name(type), version_max);
        return too_new(err);
    }
    *out = record;
    return 0;
}

int state_each(const void *bytes, size_t length,
               int (*visit)(const struct state_record *record, void *context), void *context)
{
    size_t offset = HEADER_SIZE;
    struct state_record record;

    while (record_at(bytes, length, &offset, &record)) {
        int r = visit(&record, context);
        if (r != 0)
            return r;
    }
    return 0;
}

void state_get_bytes(struct state_record *r, void *out, size_t length)
{
    if (r->overrun || length > r->length - r->position) {
        r->overrun = true;
        memset(out, 0, length);
        return;
    }
    memcpy(out, r->payload + r->position, length);
    r->position += length;
}

uint8_t state_get_u8(struct state_record *r)
{
    uint8_t v;

    state_get_bytes(r, &v, sizeof(v));
    return v;
}

uint16_t state_get_u16(struct state_record *r)
{
    uint8_t v[2];

    state_get_bytes(r, v, sizeof(v));
    return load_le16(v);
}

uint32_t state_get_u32(struct state_record *r)
{
    uint8_t v[4];

    state_get_bytes(r, v, sizeof(v));
    return load_le32(v);
}

uint64_t state_get_u64(struct state_record *r)
{
    uint8_t v[8];

    state_get_bytes(r, v, sizeof(v));
    return load_le64(v);
}

size_t state_get_remaining(const struct state_record *r)
{
    return r->overrun ? 0 : r->length - r->position;
}

int state_record_done(const struct state_record *r, struct error *err)
{
    if (!r->overrun && r->position == r->length)
        return 0;
    return error_corrupt(err, "device state: %s of instance %u, version %u: %zu bytes are too %s",
                         state_type_name(r->type), r->instance, r->version, r->length,
                         r->overrun ? "few" : "many");
}
