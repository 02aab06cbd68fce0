/* SPDX-License-Identifier: Apache-2.0 */
/* Follows the tables (ACPI 6.4, 5.2) to the DSDT. Of its code only as much is
 * understood as it takes: behind the device's name, a name ADDR and a package of two
 * integers. */
#include "guest/probe/genid.h"
#include "guest/probe/memory.h"
#include "guest/probe/text.h"

#define HEADER_SIZE 36
#define FADT_X_DSDT 140
#define TABLE_MAX 65536
#define FOUR_GIB (4ull << 30)

static uint64_t load(const uint8_t *bytes, unsigned count)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < count; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

static bool same(const uint8_t *bytes, const char *text, unsigned length)
{
    for (unsigned i = 0; i < length; i++)
        if (bytes[i] != (uint8_t)text[i])
            return false;
    return true;
}

static uint64_t table_length(const uint8_t *table)
{
    uint64_t length = load(table + 4, 4);

    return length < TABLE_MAX ? length : TABLE_MAX;
}

static const uint8_t *find_table(const char *signature)
{
    const uint8_t *rsdp = (const uint8_t *)memory_rsdp();
    const uint8_t *xsdt;

    if (rsdp == NULL || !same(rsdp, "RSD PTR ", 8))
        return NULL;
    xsdt = (const uint8_t *)load(rsdp + 24, 8);
    for (uint64_t at = HEADER_SIZE; at + 8 <= table_length(xsdt); at += 8) {
        const uint8_t *table = (const uint8_t *)load(xsdt + at, 8);

        if (same(table, signature, 4))
            return table;
    }
    return NULL;
}

/* Finds text in [from, to); returns what is behind it. */
static const uint8_t *find_text(const uint8_t *from, const uint8_t *to, const char *text,
                                unsigned length)
{
    for (; from + length <= to; from++)
        if (same(from, text, length))
            return from + length;
    return NULL;
}

/* An integer of ACPI machine language (20.2.3), 0 for others. */
static uint64_t take_integer(const uint8_t **at)
{
    static const uint8_t widths[] = {[0x0a] = 1, [0x0b] = 2, [0x0c] = 4, [0x0e] = 8};
    const uint8_t *p = *at;
    unsigned width = p[0] < sizeof(widths) ? widths[p[0]] : 0;

    *at = p + 1 + width;
    return p[0] == 1 ? 1 : load(p + 1, width);
}

const volatile uint8_t *genid_find(void)
{
    const uint8_t *fadt = find_table("FACP");
    const uint8_t *dsdt, *end, *at;
    uint64_t low, high;

    if (fadt == NULL)
        return NULL;
    dsdt = (const uint8_t *)load(fadt + FADT_X_DSDT, 8);
    end = dsdt + table_length(dsdt);
    at = find_text(dsdt, end, "VM_Gen_Counter", 14);
    if (at == NULL)
        return NULL;
    at = find_text(at, end, "ADDR\x12", 5);
    if (at == NULL || at + 20 > end)
        return NULL;
    at += 2; /* the package's length and count */
    low = take_integer(&at);
    high = take_integer(&at);
    return low < FOUR_GIB && high == 0 ? (const volatile uint8_t *)low : NULL;
}
