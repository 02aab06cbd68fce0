/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/probe/text.h"

bool text_equal(const char *a, const char *b)
{
    while (*a != '\0' && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

const char *text_after(const char *text, const char *prefix)
{
    while (*prefix != '\0') {
        if (*text++ != *prefix++)
            return NULL;
    }
    return text;
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return 99;
}

bool text_number(const char *text, uint64_t *out, const char **end_out)
{
    unsigned base = 10;
    uint64_t value = 0;
    const char *first;

    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
        base = 16;
        text += 2;
    }
    for (first = text; digit_value(*text) < (int)base; text++) {
        if (__builtin_mul_overflow(value, (uint64_t)base, &value) ||
            __builtin_add_overflow(value, (uint64_t)digit_value(*text), &value))
            return false;
    }
    if (text == first)
        return false;
    *out = value;
    *end_out = text;
    return true;
}

unsigned text_split(char *line, char **words, unsigned max)
{
    unsigned count = 0;

    for (;;) {
        while (*line == ' ' || *line == '\t')
            *line++ = '\0';
        if (*line == '\0' || count == max)
            return count;
        words[count++] = line;
        while (*line != '\0' && *line != ' ' && *line != '\t')
            line++;
    }
}

void *memcpy(void *dst, const void *src, size_t length)
{
    void *d = dst;

    __asm__ volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(length)::"memory");
    return dst;
}

void *memset(void *dst, int value, size_t length)
{
    void *d = dst;

    __asm__ volatile("rep stosb" : "+D"(d), "+c"(length) : "a"(value) : "memory");
    return dst;
}

void *memmove(void *dst, const void *src, size_t length)
{
    unsigned char *d = dst;
    const unsigned char *s = src;

    if (d <= s)
        return memcpy(dst, src, length);
    while (length-- > 0) {
        __asm__ volatile("" ::: "memory"); /* or this becomes a call of itself */
        d[length] = s[length];
    }
    return dst;
}

int memcmp(const void *a, const void *b, size_t length)
{
    const unsigned char *x = a, *y = b;

    for (size_t i = 0; i < length; i++) {
        if (x[i] != y[i])
            return x[i] < y[i] ? -1 : 1;
    }
    return 0;
}
