/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/network.h"

#include "base/cleanup.h"
#include "cli/reference.h"

#include <errno.h>
#include <string.h>

#define TAP "tap="

const char *const network_choices[] = {"user", TAP, "none", NULL};

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

static int read_mode(const char *mode, struct net_settings *out, struct error *err)
{
    if (strncmp(mode, TAP, strlen(TAP)) == 0)
        return net_settings_set_tap(out, mode + strlen(TAP), err);
    out->mode = strcmp(mode, net_mode_names[NET_MODE_NONE]) == 0 ? NET_MODE_NONE : NET_MODE_USER;
    return 0;
}

int network_settings(const struct arguments *args, struct net_settings *out, bool *given_out,
                     struct error *err)
{
    const struct option_value *ports = arguments_value(args, "publish");
    const char *mode = arguments_text(args, "net", net_mode_names[NET_MODE_USER]);
    struct net_settings settings = {0};

    int r = read_mode(mode, &settings, err);
    if (r < 0)
        return r;
    if (settings.mode != NET_MODE_USER && ports->count > 0) {
        error_set(err, STATUS_USAGE, EINVAL, "with --net %s there are no ports to forward", mode);
        error_hint(err, settings.mode == NET_MODE_TAP
                            ? "leave out -p: others reach the guest at its own address"
                            : "leave out one of --net and -p");
        return -EINVAL;
    }
    if (ports->count > NET_FORWARDS_MAX)
        return error_set(err, STATUS_USAGE, E2BIG, "%zu ports are too many, %d can be forwarded",
                         ports->count, NET_FORWARDS_MAX);
    for (size_t i = 0; i < ports->count; i++)
        if ((r = add_forward(ports->texts[i], &settings, err)) < 0)
            return r;
    *out = settings;
    *given_out = arguments_has(args, "net") || ports->count > 0;
    return 0;
}

int network_refuse_shared_tap(const struct home *home, const char *reference, bool given,
                              struct error *err)
{
    _cleanup_(machine_reference_clear) struct machine_reference ref = {0};
    struct net_settings net;
    struct error ignored;

    if (given || machine_reference_parse(reference, &ref, &ignored) < 0)
        return 0;
    _cleanup_free_ char *dir = home_machine_dir(home, ref.machine);
    int r = net_settings_read(dir, &net, err);
    if (r < 0 || net.mode != NET_MODE_TAP)
        return r;
    error_set(err, STATUS_USAGE, EBUSY, "the network of %s is %s, which one machine has alone",
              ref.machine, net.tap);
    error_hint(err, "say how another one is connected: --net tap=NAME, --net user or --net none");
    return -EBUSY;
}

int network_refuse_running(const char *name, bool given, struct error *err)
{
    if (!given)
        return 0;
    error_set(err, STATUS_BUSY, EBUSY, "%s runs: its network stays as it is", name);
    error_hint(err, "stop it first, or leave out --net and -p");
    return -EBUSY;
}
