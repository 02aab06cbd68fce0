/* SPDX-License-Identifier: Apache-2.0 */
/* Asking the agent in a machine's guest. */
#ifndef STASIS_CLI_GUEST_H
#define STASIS_CLI_GUEST_H

#include "agent/client.h"
#include "cli/app.h"
#include "vmm/machine.h"

/*
 * Connects to the agent of a running machine. Errors name the machine and say what to
 * do: STATUS_NOT_FOUND for a guest without an agent.
 */
int guest_connect(struct cli *cli, const char *machine, int patience_ms, struct channel *out,
                  struct error *err);

/* The same, quickly, for what is done if there is an agent and else left: false if there
 * is none. */
bool guest_connect_if(struct cli *cli, const char *machine, struct channel *out);

/* Asks the guest to shut down. 0 when its agent has said that it will. -ENOENT without
 * err: there is no agent. */
int guest_shut_down(struct cli *cli, const char *machine, struct error *err);

/* Is what --identity and --hostname ask for possible for so many machines? STATUS_USAGE. */
int guest_check_identity(const struct arguments *args, uint64_t count, struct error *err);

/*
 * Tells the guest of a machine that was just started from a checkpoint, or put back to
 * one, that it is another one now, or at another time: its random numbers are reseeded,
 * its clock is set with --clock host, and what --identity and --hostname ask for is done
 * (args may be NULL). Remarks of the agent are printed. Without an agent nothing is
 * done, and it is an error only if something was asked for; a paused machine is left
 * alone.
 */
int guest_settle(struct cli *cli, const char *machine, const struct arguments *args,
                 const struct machine_start *start, struct error *err);

/* Options for verbs after which a guest is another one. */
#define GUEST_OPTION_IDENTITY                                                                      \
    {                                                                                              \
        .name = "identity", .help = "make it a machine of its own: host name as the machine's, "   \
                                    "a new machine id, addresses anew (needs the agent)"           \
    }
#define GUEST_OPTION_HOSTNAME                                                                      \
    {                                                                                              \
        .name = "hostname", .type = OPTION_TEXT, .value = "NAME",                                  \
        .help = "its host name (needs the agent)"                                                  \
    }

#endif
