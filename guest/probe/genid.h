/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's generation id (Microsoft, "Virtual Machine Generation ID"). */
#ifndef PROBE_GENID_H
#define PROBE_GENID_H

#include <stdint.h>

#define GENID_SIZE 16

/* Where it is, as the ACPI tables say; NULL if they tell of none. */
const volatile uint8_t *genid_find(void);

#endif
