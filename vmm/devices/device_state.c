/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/devices/device_state.h"

#include <errno.h>

int device_find_state(const void *state, size_t length, enum state_type type, uint16_t instance,
                      uint16_t version_max, struct state_record *out, struct error *err)
{
    struct state_record record;

    int r = state_find(state, length, type, instance, &record);
    if (r < 0)
        return error_corrupt(err, "the saved state has no record %s of instance %u",
                             state_type_name(type), instance);
    if (record.version == 0 || record.version > version_max) {
        error_set(err, STATUS_FAILED, EPROTONOSUPPORT,
                  "the saved state has version %u of record %s, this build knows up to %u",
                  record.version, state_type_name(type), version_max);
        error_hint(err, "restore it with the version of stasis that saved it, or a newer one");
        return -EPROTONOSUPPORT;
    }
    *out = record;
    return 0;
}
