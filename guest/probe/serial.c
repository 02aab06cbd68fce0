/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/probe/serial.h"
#include "guest/probe/io.h"

#define COM1 0x3f8
#define LSR (COM1 + 5)
#define LSR_DATA_READY 0x01
#define LSR_THR_EMPTY 0x20
#define FIFO_DEPTH 16

static char out_buffer[512];
static unsigned out_used;

void serial_init(void)
{
    outb(COM1 + 1, 0);    /* no interrupts */
    outb(COM1 + 3, 0x80); /* divisor: 115200 baud */
    outb(COM1 + 0, 1);
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 0x03); /* 8 bits, no parity, 1 stop */
    outb(COM1 + 2, 0x01); /* FIFOs on */
    outb(COM1 + 4, 0x03); /* DTR, RTS */
}

bool serial_get(char *out)
{
    if ((inb(LSR) & LSR_DATA_READY) == 0)
        return false;
    *out = (char)inb(COM1);
    return true;
}

/* One look at the line status serves a whole FIFO: looks are exits. */
static void out_flush(void)
{
    for (unsigned i = 0; i < out_used; i++) {
        if (i % FIFO_DEPTH == 0) {
            while ((inb(LSR) & LSR_THR_EMPTY) == 0)
                cpu_relax();
        }
        outb(COM1, (uint8_t)out_buffer[i]);
    }
    out_used = 0;
}

static void out_char(char c)
{
    out_buffer[out_used++] = c;
    if (c == '\n' || out_used == sizeof(out_buffer))
        out_flush();
}

void out_text(const char *text)
{
    while (*text != '\0')
        out_char(*text++);
}

void out_number(uint64_t value)
{
    char digits[20];
    unsigned n = 0;

    do {
        digits[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    while (n > 0)
        out_char(digits[--n]);
}

void out_hex(uint64_t value, unsigned digits)
{
    while (digits-- > 0)
        out_char("0123456789abcdef"[value >> (digits * 4) & 15]);
}

void out_line(const char *text)
{
    out_text(text);
    out_char('\n');
}

void out_field(const char *name, uint64_t value)
{
    out_char(' ');
    out_text(name);
    out_char('=');
    out_number(value);
}

void out_field_hex(const char *name, uint64_t value)
{
    out_char(' ');
    out_text(name);
    out_char('=');
    out_hex(value, 16);
}
