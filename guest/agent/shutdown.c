/* SPDX-License-Identifier: Apache-2.0 */
/* An orderly end, by the command of the guest's own init. */
#include "session.h"

#include "agent/messages.h"
#include "base/bytes.h"
#include "program.h"

#include <errno.h>
#include <sys/reboot.h>
#include <unistd.h>

enum { COMMAND_MS = 10000 };

void shutdown_serve(struct channel *ch, const struct frame *request)
{
    uint32_t kind;

    if (agent_u32_decode(request, &kind) < 0 || kind > AGENT_SHUTDOWN_REBOOT) {
        session_fail(ch, 0, EINVAL, "the request cannot be read");
        return;
    }
    if (geteuid() != 0) {
        session_fail(ch, 0, EPERM, "the agent in the guest is not root");
        return;
    }
    const bool reboots = kind == AGENT_SHUTDOWN_REBOOT;
    const char *const argv[] = {reboots ? "reboot" : "poweroff", NULL};
    /* Answered first: init may end us before the command has ended. */
    channel_send(ch, AGENT_DONE, NULL, 0);
    if (program_run(argv, COMMAND_MS) == 0)
        return;
    sync();
    reboot(reboots ? RB_AUTOBOOT : RB_POWER_OFF);
}
