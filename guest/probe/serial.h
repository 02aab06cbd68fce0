/* SPDX-License-Identifier: Apache-2.0 */
/* The line on COM1, by polling, and the composition of replies. */
#ifndef PROBE_SERIAL_H
#define PROBE_SERIAL_H

#include <stdbool.h>
#include <stdint.h>

void serial_init(void);

/* True if there is a byte; it is taken. Costs the host one exit, or two. */
bool serial_get(char *out);

/* Bytes that come raise interrupt 4, which ends a halt. For that the interrupt
 * controllers are set up, everything else masked. */
void serial_set_interrupt(bool on);

/* Output is collected and sent at a newline. */
void out_text(const char *text);
void out_number(uint64_t value);
void out_hex(uint64_t value, unsigned digits);
void out_line(const char *text); /* text and a newline */

/* " NAME=VALUE" */
void out_field(const char *name, uint64_t value);
void out_field_hex(const char *name, uint64_t value); /* 16 digits */

#endif
