/* SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include "imgfmt/state.h"

#include <errno.h>
#include <string.h>

struct input {
    const uint8_t *data;
    size_t size;
    uint32_t records;
};

/* Each record is inside the input, found by its key, and reads to its end. */
static int visit(const struct state_record *record, void *context)
{
    struct input *in = context;
    struct state_record r;

    in->records++;
    MUST(record->payload >= in->data && record->length <= in->size);
    MUST(record->payload + record->length <= in->data + in->size);
    MUST(state_find(in->data, in->size, record->type, record->instance, &r) == 0);
    MUST(r.payload == record->payload);
    state_get_u64(&r);
    state_get_u16(&r);
    while (state_get_remaining(&r) > 0)
        state_get_u8(&r);
    MUST((state_record_done(&r, NULL) == 0) == !r.overrun);
    MUST(state_type_name(record->type) != NULL);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {.data = data, .size = size};
    struct error err = ERROR_INIT;

    int r = state_check(data, size, &err);
    MUST(r == 0 || r == -EBADMSG || r == -EPROTONOSUPPORT);
    if (r < 0)
        return 0;
    MUST(state_each(data, size, visit, &in) == 0);
    MUST(in.records <= STATE_RECORDS_MAX);
    return 0;
}
