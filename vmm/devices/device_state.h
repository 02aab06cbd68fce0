/* SPDX-License-Identifier: Apache-2.0 */
#ifndef STASIS_VMM_DEVICES_DEVICE_STATE_H
#define STASIS_VMM_DEVICES_DEVICE_STATE_H

#include "base/error.h"
#include "imgfmt/state.h"

#include <stddef.h>
#include <stdint.h>

/* For a device's restore(): finds its record, with an error that says what is
 * missing (-EBADMSG) or too new for this build (-EPROTONOSUPPORT). Versions from 1
 * to version_max are understood. */
int device_find_state(const void *state, size_t length, enum state_type type, uint16_t instance,
                      uint16_t version_max, struct state_record *out, struct error *err);

#endif
