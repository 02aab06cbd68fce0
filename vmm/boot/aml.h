/* SPDX-License-Identifier: Apache-2.0 */
/* Writes ACPI Machine Language (ACPI 6.4 chapter 20), as much of it as our tables
 * need. Things that contain others are opened and closed: what is written between
 * aml_open_X() and aml_close() is inside. Names are one segment of up to four
 * characters. Running out of memory is remembered in `error`. Not thread-safe. */
#ifndef STASIS_VMM_BOOT_AML_H
#define STASIS_VMM_BOOT_AML_H

#include "base/buffer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
    struct buffer out;
    int error; /* 0 or negative errno of the first failure */
};

/* The open functions return a mark for the close function of the same kind. */
size_t aml_open_scope(struct aml *aml, const char *path);
size_t aml_open_device(struct aml *aml, const char *name);
size_t aml_open_package(struct aml *aml, uint8_t count);
size_t aml_open_method(struct aml *aml, const char *name, uint8_t arguments);
void aml_close(struct aml *aml, size_t mark);

/* Name(NAME, what is written next: an integer, string, package, resources). */
void aml_name(struct aml *aml, const char *name);
void aml_integer(struct aml *aml, uint64_t value);
void aml_string(struct aml *aml, const char *text);
/* An EISAID such as "PNP0501": three capitals, four hexadecimal digits. */
void aml_eisaid(struct aml *aml, const char *id);

/* In a method: tells the driver of a device in reach of it. */
void aml_notify(struct aml *aml, const char *device, uint8_t value);

/* A resource template: descriptors of chapter 6.4 and the end tag. */
size_t aml_open_resources(struct aml *aml);
void aml_close_resources(struct aml *aml, size_t mark);
void aml_io(struct aml *aml, uint16_t port, uint8_t length);
void aml_irq(struct aml *aml, uint8_t irq); /* edge, active high, exclusive */
void aml_memory32(struct aml *aml, uint32_t base, uint32_t length); /* read/write */
void aml_interrupt(struct aml *aml, uint32_t gsi); /* edge, active high, exclusive */

#endif
