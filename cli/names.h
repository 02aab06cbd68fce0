/* SPDX-License-Identifier: Apache-2.0 */
/* Names for machines nobody has named. */
#ifndef STASIS_CLI_NAMES_H
#define STASIS_CLI_NAMES_H

#include "base/home.h"

#include <stddef.h>

/* A short readable one, "calm-otter", chosen by two random numbers. After many
 * tries (attempt counts from 0) a number is put behind it, so that a free one is
 * found however many machines there are. Returns out. */
char *names_make(unsigned random_a, unsigned random_b, unsigned attempt,
                 char out[MACHINE_NAME_MAX + 1]);

/* A name for what is made of a reference: "web@patched" -> "web",
 * "registry.example/team/debian:12" -> "debian", an id -> "clone". Always a valid
 * machine name with room for a suffix. Returns out. */
char *names_from_reference(const char *reference, char out[MACHINE_NAME_MAX + 1]);

#endif
