/* SPDX-License-Identifier: Apache-2.0 */
/* References as people write them, taken apart. What they mean is decided by
 * catalogue_resolve(). */
#ifndef STASIS_CLI_REFERENCE_H
#define STASIS_CLI_REFERENCE_H

#include "base/digest.h"
#include "base/error.h"

#include <stdbool.h>

/* "web" or "web@patched". */
struct machine_reference {
    char *machine;
    char *checkpoint; /* NULL if there is no @ */
};

/* STATUS_USAGE for names that cannot be. Free with machine_reference_clear(). */
int machine_reference_parse(const char *text, struct machine_reference *out, struct error *err);
void machine_reference_clear(struct machine_reference *ref);

/* "debian:12", "debian" (tag latest), "registry.example:5000/team/debian:12". */
struct image_reference {
    char *name;
    char *tag;
};

int image_reference_parse(const char *text, struct image_reference *out, struct error *err);
void image_reference_clear(struct image_reference *ref);

struct cli;

/* The checkpoint a reference means; opens the store. */
int reference_resolve(struct cli *cli, const char *text, struct digest *out, struct error *err);

#endif
