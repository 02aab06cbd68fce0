/* SPDX-License-Identifier: Apache-2.0 */
/* The collector's protocol as a machine of small states (README.md). */
#ifndef STASIS_TESTS_MODEL_GC_MODEL_H
#define STASIS_TESTS_MODEL_GC_MODEL_H

#include <stdbool.h>
#include <stdint.h>

/* What the protocol consists of. The model can do without each. */
enum rule {
    RULE_LEASE_WAIT = 1 << 0,  /* packs go when writers that began before have ended */
    RULE_LEASE_FIRST = 1 << 1, /* a writer's lease comes before its view */
    RULE_MISS = 1 << 2,        /* what is in a condemned pack is missing */
    RULE_KEEP = 1 << 3,        /* a commit makes packs live again that it needs */
    RULE_EPOCH = 1 << 4,       /* and looks anew if packs were condemned meanwhile */
    RULE_MARK_AGAIN = 1 << 5,  /* nothing unmarked may have come when packs are condemned */
    RULE_PINS = 1 << 6,        /* pins are roots */
    RULE_TOGETHER = 1 << 7,    /* a copy is listed in the transaction that condemns */
    RULE_ROWS_FIRST = 1 << 8,  /* rows go before files */
    RULE_THE_DEAD = 1 << 9,    /* leases of dead processes end */
};
#define RULE_COUNT 10
#define ALL_RULES ((1u << RULE_COUNT) - 1)

enum { PACKS = 4, WRITERS = 2 };

/* Only bytes, so that equal states are equal memory. Sets are bit masks. Pack 0 is
 * there at first, pack 1 + n is writer n's, the last one the collector's copy.
 * Checkpoint 0 is there at first, 1 + n is writer n's. */
struct state {
    uint8_t epoch;
    uint8_t listed; /* packs in the catalogue */
    uint8_t files;  /* packs on the disk */
    uint8_t condemned;
    uint8_t condemned_at[PACKS];
    uint8_t checkpoints;
    uint8_t lost; /* a writer found something that is gone now */
    struct writer {
        uint8_t step;
        uint8_t lease; /* its epoch + 1; 0: none */
        uint8_t view;  /* packs in which it finds pages */
        uint8_t own;   /* it has written a pack */
        uint8_t kept_epoch;
        uint8_t revive;
    } writers[WRITERS];
    uint8_t reader;
    uint8_t pin; /* checkpoints */
    uint8_t collector;
    uint8_t runs; /* that are left */
    uint8_t marked;
    uint8_t old; /* packs that were live when it marked */
    uint8_t victims;
    uint8_t copy; /* it has written one: 1; listed it: 2 */
    uint8_t doomed;
};

struct state model_start(void);

/* Calls visit with each state that can come next, and what was done. */
void model_steps(const struct state *s, unsigned rules,
                 void (*visit)(const struct state *next, const char *what, void *context),
                 void *context);

/* What is wrong with a state, or NULL. */
const char *model_wrong(const struct state *s, unsigned rules);

const char *rule_name(unsigned rule);

#endif
