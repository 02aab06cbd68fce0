/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console_stream LOG [--after OTHER FROM-TO] [GOES:CAME]...
 *
 * Checks that a console's log is a stream of numbered lines, 00000001 and so on, of which
 * no byte is missing and none is there twice. GOES and CAME are ranges A-B of offsets in
 * the log: somewhere in GOES the machine was put back to what it had printed somewhere in
 * CAME, in this order. With --after, the log begins with the byte that follows what OTHER
 * held somewhere in FROM-TO.
 *
 * An offset is a place in a log; a position one in the stream.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 10, DIGITS = 8, JUMPS_MAX = 1000 };

/* A stretch of a log that is one of the stream, up to where the next one begins. For
 * some bytes either may be it: it may as well begin from `first` on. */
struct piece {
    long first, offset, position;
};

struct log {
    char *bytes;
    long length;
    struct piece pieces[JUMPS_MAX];
    int count;
};

struct range {
    long low, high;
};

static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    putchar('\n');
    exit(1);
}

static char byte_at(long position)
{
    static const long powers[] = {10000000, 1000000, 100000, 10000, 1000, 100, 10, 1};
    const long at = position % WIDTH;

    return at < DIGITS ? (char)('0' + (position / WIDTH + 1) / powers[at] % 10)
                       : "\r\n"[at - DIGITS];
}

/* How many bytes from there on are those of the stream. */
static long follow(const struct log *log, long offset, long position)
{
    long n = 0;

    while (offset + n < log->length && log->bytes[offset + n] == byte_at(position + n))
        n++;
    return n;
}

/* The next whole line at or behind offset, and its position. */
static long find_line(const struct log *log, long offset, long *position_out)
{
    for (long at = offset; at + WIDTH <= log->length; at++) {
        char digits[DIGITS + 1] = {0};
        memcpy(digits, log->bytes + at, DIGITS);
        if (strspn(digits, "0123456789") != DIGITS || (at > 0 && log->bytes[at - 1] != '\n'))
            continue;
        *position_out = (atol(digits) - 1) * WIDTH;
        if (*position_out >= 0 && follow(log, at, *position_out) >= WIDTH)
            return at;
    }
    fail("no number behind offset %ld: %.60s", offset, log->bytes + offset);
}

/* What is at offset is not what was expected there: where in the stream is it? */
static void add_piece(struct log *log, long offset)
{
    long position, line = find_line(log, offset, &position);
    struct piece *piece = &log->pieces[log->count];

    position -= line - offset;
    if (position < 0 || follow(log, offset, position) < line - offset)
        fail("garbage at offset %ld: %.60s", offset, log->bytes + offset);
    *piece = (struct piece){.first = offset, .offset = offset, .position = position};
    while (piece->first > 0 && position - (offset - piece->first) > 0 &&
           log->bytes[piece->first - 1] == byte_at(position - (offset - piece->first) - 1))
        piece->first--;
    if (++log->count == JUMPS_MAX)
        fail("too many jumps");
}

/* Takes the log apart; it begins anywhere in the stream, or (at_one) with its first line
 * behind something else. */
static void take_apart(struct log *log, const char *path, bool at_one)
{
    FILE *file = fopen(path, "r");
    size_t room = 64 << 20;
    long offset = 0;

    log->bytes = malloc(room);
    if (file == NULL || log->bytes == NULL)
        fail("cannot read %s", path);
    log->length = (long)fread(log->bytes, 1, room - 1, file);
    log->bytes[log->length] = '\0';
    fclose(file);
    if (at_one) {
        const char *one = strstr(log->bytes, "00000001\r\n00000002\r\n");
        if (one == NULL)
            fail("%s: there is no first line", path);
        offset = one - log->bytes;
    }
    while (offset < log->length) {
        add_piece(log, offset);
        offset += follow(log, offset, log->pieces[log->count - 1].position);
    }
}

/* Of the byte at that offset, or of the one that would follow. */
static long position_of(const struct log *log, long offset)
{
    int i = log->count - 1;

    while (i > 0 && log->pieces[i].offset > offset)
        i--;
    return log->pieces[i].position + offset - log->pieces[i].offset;
}

static struct range parse_range(const char *text, char **rest)
{
    struct range range = {.low = strtol(text, rest, 10)};

    if (**rest != '-')
        fail("'%s' is no range", text);
    range.high = strtol(*rest + 1, rest, 10);
    return range;
}

/* A jump that was told. True if piece `next` is it; one to where the log goes on anyway
 * cannot be seen. */
static bool check_jump(const struct log *log, int next, struct range goes, struct range came)
{
    const long low = position_of(log, came.low), high = position_of(log, came.high);
    const struct piece *piece = &log->pieces[next];

    if (next == log->count || piece->first > goes.high) {
        if (position_of(log, goes.low) > high || position_of(log, goes.high) < low)
            fail("no jump at %ld-%ld", goes.low, goes.high);
        return false;
    }
    const long from = piece->first > goes.low ? piece->first : goes.low;
    const long to = piece->offset < goes.high ? piece->offset : goes.high;
    const long shift = piece->position - piece->offset;
    if (from > to)
        fail("a jump at %ld-%ld, but the machine went back at %ld-%ld", piece->first, piece->offset,
             goes.low, goes.high);
    if (from + shift > high || to + shift < low)
        fail("at %ld-%ld it goes on with %ld-%ld of the stream, not with %ld-%ld", from, to,
             from + shift, to + shift, low, high);
    return true;
}

int main(int argc, char **argv)
{
    static struct log log, other;
    int next = 1, arg = 2;
    char *rest;

    if (argc < 2)
        return 2;
    const bool after = argc >= 5 && strcmp(argv[2], "--after") == 0;
    take_apart(&log, argv[1], !after);
    if (after) {
        const struct range range = parse_range(argv[4], &rest);
        const long begins = log.count > 0 ? log.pieces[0].position : -1;
        take_apart(&other, argv[3], true);
        if (begins < position_of(&other, range.low) || begins > position_of(&other, range.high))
            fail("begins with %ld of the stream, not %ld-%ld", begins,
                 position_of(&other, range.low), position_of(&other, range.high));
        arg = 5;
    }
    for (; arg < argc; arg++) {
        const struct range goes = parse_range(argv[arg], &rest);
        next += check_jump(&log, next, goes, parse_range(rest + 1, &rest));
    }
    if (next < log.count)
        fail("a jump at %ld-%ld that nobody told", log.pieces[next].first, log.pieces[next].offset);
    printf("%ld lines, %d jumps\n", position_of(&log, log.length) / WIDTH, log.count - 1);
    return 0;
}
