/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/depot.h"

#include "base/cleanup.h"
#include "base/io.h"

#include <errno.h>

int meter_report(const struct meter *meter, uint64_t within, struct error *err)
{
    const struct registry_options *options = meter->options;

    if (options == NULL || options->progress == NULL)
        return 0;
    if (options->progress(meter->what, meter->done + within, meter->total, options->context) == 0)
        return 0;
    return error_set(err, STATUS_INTERRUPTED, ECANCELED, "interrupted");
}

int depot_open(const struct reference *ref, const struct registry_options *options, bool create,
               struct depot **out, struct error *err)
{
    bool plain_http = options != NULL && options->plain_http;

    int r = ref->layout ? layout_open(ref, create, out, err)
                        : remote_open(ref, plain_http, create, out, err);
    if (r < 0)
        return r;
    (*out)->meter = (struct meter){.options = options, .what = "connecting"};
    return 0;
}

void depot_close(struct depot *depot)
{
    if (depot != NULL)
        depot->ops->close(depot);
}

int depot_put_blob(struct depot *depot, const struct descriptor *blob, int fd, bool *sent_out,
                   struct error *err)
{
    bool has;

    int r = depot->ops->blob_has(depot, blob, &has, err);
    if (r < 0)
        return r;
    if (!has) {
        r = depot->ops->blob_put(depot, blob, fd, err);
        if (r < 0)
            return r;
    }
    depot->meter.done += blob->size;
    *sent_out = !has;
    return meter_report(&depot->meter, 0, err);
}

int depot_read_blob(struct depot *depot, const struct descriptor *blob, void **data_out,
                    struct error *err)
{
    _cleanup_close_ int fd = -1;

    /* The blob lies on disk, checked, before memory of its size is asked for. */
    int r = depot->ops->blob_open(depot, blob, &fd, err);
    if (r < 0)
        return r;
    _cleanup_free_ void *data = malloc(blob->size + 1);
    if (data == NULL)
        return error_errno(err, ENOMEM, "cannot read a blob");
    r = io_pread_full(fd, data, blob->size, 0);
    if (r < 0)
        return error_errno(err, -r, "cannot read a blob");
    *data_out = steal_pointer(data);
    return 0;
}
