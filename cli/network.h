/* SPDX-License-Identifier: Apache-2.0 */
/* How a machine is connected, as options of the verbs that start one. */
#ifndef STASIS_CLI_NETWORK_H
#define STASIS_CLI_NETWORK_H

#include "base/home.h"
#include "cli/command.h"
#include "vmm/net/settings.h"

extern const char *const network_choices[];

#define NETWORK_OPTIONS                                                                            \
    {.name = "net",                                                                                \
     .type = OPTION_CHOICE,                                                                        \
     .value = "MODE",                                                                              \
     .choices = network_choices,                                                                   \
     .help = "user: a network of its own behind the host's (default); tap=NAME: a tap device of "  \
             "the host; none: no link"},                                                           \
    {                                                                                              \
        .name = "publish", .letter = 'p', .type = OPTION_TEXT, .repeats = true, .value = "PORTS",  \
        .help = "[BIND:]HOST:GUEST[/udp]: what comes to port HOST of the host goes to port GUEST " \
                "of the guest (BIND: 127.0.0.1)"                                                   \
    }

/* What --net and --publish say; *given_out: that they say anything. STATUS_USAGE. */
int network_settings(const struct arguments *args, struct net_settings *out, bool *given_out,
                     struct error *err);

/* A tap is for one machine: for verbs that make others from what machine or checkpoint of
 * it `reference` means, if nothing was given. STATUS_USAGE. */
int network_refuse_shared_tap(const struct home *home, const char *reference, bool given,
                              struct error *err);

/* For verbs that leave machines that run as they are: STATUS_BUSY if given. */
int network_refuse_running(const char *name, bool given, struct error *err);

#endif
