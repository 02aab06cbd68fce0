/* SPDX-License-Identifier: Apache-2.0 */
/* Words and numbers of the command line, and the little the compiler expects. */
#ifndef PROBE_TEXT_H
#define PROBE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool text_equal(const char *a, const char *b);

/* If text begins with prefix, what follows it, else NULL. */
const char *text_after(const char *text, const char *prefix);

/* Decimal or 0x hexadecimal, as far as it goes; *end_out is behind it. False if
 * there is no digit or it does not fit. */
bool text_number(const char *text, uint64_t *out, const char **end_out);

/* Cuts line at blanks, in place. Returns how many words there are, at most max;
 * further words are dropped. */
unsigned text_split(char *line, char **words, unsigned max);

void *memcpy(void *dst, const void *src, size_t length);
void *memset(void *dst, int value, size_t length);
void *memmove(void *dst, const void *src, size_t length);
int memcmp(const void *a, const void *b, size_t length);

#endif
