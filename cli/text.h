/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers as people write and read them. */
#ifndef STASIS_CLI_TEXT_H
#define STASIS_CLI_TEXT_H

#include <stdint.h>
#include <stdio.h>

#define TEXT_SIZE 32 /* room for any result of the functions below */

/* "0 B", "1.5 KiB", "512 MiB". Returns out. */
char *text_bytes(uint64_t bytes, char out[TEXT_SIZE]);

/* A span of time in its largest unit: "12s", "5m", "3h", "4d", "2y". Returns out. */
char *text_span(int64_t microseconds, char out[TEXT_SIZE]);

/* A span of time with its fraction: "840 us", "3.1 ms", "1.20 s". Returns out. */
char *text_precise(uint64_t microseconds, char out[TEXT_SIZE]);

/* A decimal number, the whole text. 0 or -EINVAL. */
int text_parse_number(const char *text, uint64_t *out);

/* A number of bytes: digits, then nothing, K, M, G or T in either case, also as
 * KB or KiB: all are powers of 1024. 0 or -EINVAL. */
int text_parse_size(const char *text, uint64_t *bytes_out);

/* Digits, then ms, s, m, h, or nothing for seconds. 0 or -EINVAL. */
int text_parse_duration(const char *text, uint64_t *ms_out);

/* Writes text broken at spaces so that no line is wider than width columns; the
 * first line begins where the cursor is (column), the others are indented by
 * that. Newlines in the text are kept. */
void text_wrap(FILE *file, const char *text, int column, int width);

#endif
