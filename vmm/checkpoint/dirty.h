/* SPDX-License-Identifier: Apache-2.0 */
/* Which RAM pages were written since the last checkpoint: KVM's log and the
 * VMM's own writes. Arrays have one bit a RAM page, memory->dirty_words words. */
#ifndef STASIS_VMM_CHECKPOINT_DIRTY_H
#define STASIS_VMM_CHECKPOINT_DIRTY_H

#include "vmm/board.h"

/* ORs what was written into bits and forgets it. vCPUs are parked. On failure what
 * was read already is given back. */
int dirty_take(struct board *board, uint64_t *bits, struct error *err);

/* What was taken counts as written again. */
void dirty_give_back(struct board *board, const uint64_t *bits);

/*
 * How many pages were written since the last checkpoint (*all_out), and how many of
 * them by vCPUs since anybody last looked (*recent_out). Nothing is forgotten. vCPUs may
 * run; each page they write next costs them a fault, as after a save. Event loop thread.
 */
int dirty_look(struct board *board, uint64_t *recent_out, uint64_t *all_out, struct error *err);

#endif
