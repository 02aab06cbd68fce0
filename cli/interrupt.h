/* SPDX-License-Identifier: Apache-2.0 */
/* Ctrl-C: long work asks now and then whether it shall stop. */
#ifndef STASIS_CLI_INTERRUPT_H
#define STASIS_CLI_INTERRUPT_H

#include <stdbool.h>

/* From now on SIGINT, SIGTERM and SIGHUP only set a flag, the first time; the
 * next one ends the process as usual. May be called several times. */
void interrupt_catch(void);

/* Has one of them come? */
bool interrupt_pending(void);

#endif
