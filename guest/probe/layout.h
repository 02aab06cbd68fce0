/* SPDX-License-Identifier: Apache-2.0 */
/* Where the probe guest keeps what is its own. Tests on the host include this
 * to look into the guest's memory from outside. */
#ifndef PROBE_LAYOUT_H
#define PROBE_LAYOUT_H

#define PROBE_IMAGE 0x100000   /* code and constants: never change */
#define PROBE_VARYING 0x110000 /* data, stacks, page tables, rings: change at any time */
#define PROBE_FREE 0x200000    /* from here on memory belongs to the commands */

#define PROBE_PAGE_SIZE 4096
#define PROBE_WORDS_PER_PAGE 512
#define PROBE_WORDS_PER_SECTOR 64

#define PROBE_SHARED_MAGIC 0x65626f7270737473 /* "stsprobe" */

#ifndef __ASSEMBLER__
#include <stdint.h>

/* At PROBE_VARYING. */
struct probe_shared {
    uint64_t magic;   /* PROBE_SHARED_MAGIC from the first instruction at CPL 3 */
    uint64_t counter; /* what `count` shows */
    uint64_t polls;   /* turns of the main loop */
    uint64_t commands;
};
#endif

#endif
