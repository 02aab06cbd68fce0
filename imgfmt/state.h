/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device state: a header and a sequence of records, all little-endian.
 *
 *   state  = "STASTATE" | format u32 = 1 | count u32 | record...
 *   record = type u16 | instance u16 | version u16 | flags u16 | length u32
 *            | reserved u32 = 0 | payload, padded with zeros to 8 bytes
 *
 * type says what it is the state of (enum state_type, never reused), instance
 * which one (vCPU number, device slot), version which layout of the payload;
 * each type and instance comes at most once.
 * Readers accept every older version. Flag bit 0 = a reader that does not know
 * the type may skip it; without it an unknown type is an error.
 */
#ifndef STASIS_IMGFMT_STATE_H
#define STASIS_IMGFMT_STATE_H

#include "base/buffer.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum state_type {
    /* vCPU, instance = vCPU number; payloads are the KVM structures (api.rst) */
    STATE_VCPU_MP_STATE = 1,
    STATE_VCPU_REGS = 2,
    STATE_VCPU_SREGS = 3,
    STATE_VCPU_XSAVE = 4,
    STATE_VCPU_XCRS = 5,
    STATE_VCPU_DEBUGREGS = 6,
    STATE_VCPU_LAPIC = 7,
    STATE_VCPU_TSC_KHZ = 8,
    STATE_VCPU_CPUID = 9,
    STATE_VCPU_MSRS = 10,
    STATE_VCPU_EVENTS = 11,
    /* VM */
    STATE_VM_PIT = 32,
    STATE_VM_CLOCK = 33,
    STATE_VM_PIC = 34, /* instance 0 master, 1 slave */
    STATE_VM_IOAPIC = 35,
    /* devices, instance = slot */
    STATE_SERIAL = 64,
    STATE_RTC = 65,
    STATE_I8042 = 66,
    STATE_ACPI_PM = 67,
    STATE_VMGENID = 68,
    STATE_VIRTIO_MMIO = 80, /* transport: registers and queues */
    STATE_VIRTIO_BLK = 81,
    STATE_VIRTIO_RNG = 82,
    STATE_VIRTIO_NET = 83,
    STATE_VIRTIO_VSOCK = 84,
    STATE_VIRTIO_BALLOON = 85,
    STATE_NET_CONNECTIONS = 86, /* of the guest behind a network card */
};

#define STATE_FLAG_OPTIONAL 1u
#define STATE_MAX_SIZE (64u << 20)
#define STATE_RECORDS_MAX 4096u /* ten times what the largest machine needs */

/* Writes records into a buffer. Errors (out of memory, a put outside begin and
 * end, too much) are remembered and reported by state_writer_finish(). */
struct state_writer {
    struct buffer buf;
    size_t record_offset; /* of the open record's header; 0 if none is open */
    uint32_t count;
    int error;
};

void state_writer_init(struct state_writer *w);
void state_writer_begin(struct state_writer *w, enum state_type type, uint16_t instance,
                        uint16_t version, uint16_t flags);
void state_put_u8(struct state_writer *w, uint8_t v);
void state_put_u16(struct state_writer *w, uint16_t v);
void state_put_u32(struct state_writer *w, uint32_t v);
void state_put_u64(struct state_writer *w, uint64_t v);
void state_put_bytes(struct state_writer *w, const void *data, size_t length);
void state_writer_end(struct state_writer *w);
/* Completes the header. On success *out takes the bytes over (buffer_clear).
 * -ENOMEM, -EINVAL (begin and end do not pair), -EFBIG. */
int state_writer_finish(struct state_writer *w, struct buffer *out);
void state_writer_clear(struct state_writer *w);

/* One record, pointing into the bytes given to state_find(). The get functions
 * read its payload from the front; reading past its end yields zeros and sets
 * `overrun`, which state_record_done() turns into an error. */
struct state_record {
    enum state_type type;
    uint16_t instance;
    uint16_t version;
    uint16_t flags;
    const uint8_t *payload;
    size_t length;
    size_t position;
    bool overrun;
};

/* Checks header, bounds, framing of all records, that each type is known or
 * optional and that no type and instance comes twice; records may be in any
 * order. What a payload holds is for its reader. -EBADMSG, -EPROTONOSUPPORT. */
int state_check(const void *bytes, size_t length, struct error *err);

/* Finds a record in bytes that passed state_check(). -ENOENT if there is none. */
int state_find(const void *bytes, size_t length, enum state_type type, uint16_t instance,
               struct state_record *out);

/* The same for whoever cannot do without it, or knows versions from 1 to version_max only:
 * -EBADMSG, -EPROTONOSUPPORT, and which record that is. */
int state_find_known(const void *bytes, size_t length, enum state_type type, uint16_t instance,
                     uint16_t version_max, struct state_record *out, struct error *err);

/* Calls visit for each record in order; stops at the first non-zero return and
 * returns it. Bytes passed state_check(). */
int state_each(const void *bytes, size_t length,
               int (*visit)(const struct state_record *record, void *context), void *context);

uint8_t state_get_u8(struct state_record *r);
uint16_t state_get_u16(struct state_record *r);
uint32_t state_get_u32(struct state_record *r);
uint64_t state_get_u64(struct state_record *r);
/* Copies length bytes out. */
void state_get_bytes(struct state_record *r, void *out, size_t length);
/* Bytes not yet read. */
size_t state_get_remaining(const struct state_record *r);
/* 0, or -EBADMSG with a message naming type, instance and version, if the record
 * was shorter or longer than what was read. */
int state_record_done(const struct state_record *r, struct error *err);

/* "vcpu.regs", "serial", ... or "unknown". */
const char *state_type_name(enum state_type type);

#endif
