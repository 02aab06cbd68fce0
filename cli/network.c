/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/network.h"

#include <errno.h>
#include <string.h>

static bool same_port(const struct net_forward *a, const struct net_forward *b)
{
    return a->udp == b->udp && a->bind.s_addr == b->bind.s_addr && a->host_port == b->host_port;
}

static int add_forward(const char *text, struct net_settings *out, struct error *err)
{
    struct net_forward *forward = &out->forwards[out->forward_count];

    int r = net_forward_parse(text, forward, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < out->forward_count; i++)
        if (same_port(&out->forwards[i], forward))
            return error_set(err, STATUS_USAGE, EINVAL, "port %u of the host is given twice",
                             forward->host_port);
    out->forward_count++;
    return 0;
}

int network_settings(const struct arguments *args, struct net_settings *out, bool *given_out,
                     struct error *err)
{
    const struct option_value *ports = arguments_value(args, "publish");
    const char *mode = arguments_text(args, "net", net_mode_names[NET_MODE_USER]);
    struct net_settings settings = {0};

    if (strcmp(mode, net_mode_names[NET_MODE_NONE]) == 0)
        settings.mode = NET_MODE_NONE;
    if (settings.mode == NET_MODE_NONE && ports->count > 0) {
        error_set(err, STATUS_USAGE, EINVAL, "--net none leaves nothing to forward ports to");
        error_hint(err, "leave out one of --net and -p");
        return -EINVAL;
    }
    if (ports->count > NET_FORWARDS_MAX)
        return error_set(err, STATUS_USAGE, E2BIG, "%zu ports are too many, %d can be forwarded",
                         ports->count, NET_FORWARDS_MAX);
    for (size_t i = 0; i < ports->count; i++) {
        int r = add_forward(ports->texts[i], &settings, err);
        if (r < 0)
            return r;
    }
    *out = settings;
    *given_out = arguments_has(args, "net") || ports->count > 0;
    return 0;
}

int network_refuse_running(const char *name, bool given, struct error *err)
{
    if (!given)
        return 0;
    error_set(err, STATUS_BUSY, EBUSY, "%s runs: its network stays as it is", name);
    error_hint(err, "stop it first, or leave out --net and -p");
    return -EBUSY;
}
