/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/interrupt.h"

#include "base/bytes.h"

#include <signal.h>

static volatile sig_atomic_t pending;

static void note(int signum)
{
    (void)signum;
    pending = 1;
}

void interrupt_catch(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction old;
    /* Only once: who presses Ctrl-C twice does not want to wait for us. No
     * SA_RESTART: a read of a pipe ends with EINTR, and whoever retries asks
     * interrupt_pending() between two pieces. */
    struct sigaction action = {.sa_handler = note, .sa_flags = (int)SA_RESETHAND};

    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL && !pending)
            sigaction(signals[i], &action, NULL);
}

bool interrupt_pending(void)
{
    return pending != 0;
}
