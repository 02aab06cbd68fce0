/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/probe/serial.h"
#include "guest/probe/io.h"

#define COM1 0x3f8
#define LSR (COM1 + 5)
#define LSR_DATA_READY 0x01
#define LSR_THR_EMPTY 0x20
#define FIFO_DEPTH 16
#define PIC1 0x20
#define PIC2 0xa0
#define PIC1_VECTOR 0x20
#define PIC2_VECTOR 0x28
#define LAPIC_SPURIOUS 0xfee000f0
#define LAPIC_LVT0 0xfee00350

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
    outb(COM1 + 4, 0x0b); /* DTR, RTS; OUT2 lets interrupts through */
}

static void pic_init(uint16_t pic, uint8_t vector, uint8_t wiring, uint8_t mask)
{
    outb(pic, 0x11); /* edge triggered, cascade, ICW4 follows */
    outb(pic + 1, vector);
    outb(pic + 1, wiring);
    outb(pic + 1, 0x01); /* 8086 */
    outb(pic + 1, mask);
}

void serial_set_interrupt(bool on)
{
    pic_init(PIC1, PIC1_VECTOR, 0x04, on ? 0xef : 0xff);
    pic_init(PIC2, PIC2_VECTOR, 0x02, 0xff);
    /* Through the local APIC, if firmware has not opened that way. */
    mmio_write32(LAPIC_SPURIOUS, 0x12f);
    mmio_write32(LAPIC_LVT0, 0x700); /* ExtINT */
    outb(COM1 + 1, on ? 0x01 : 0);
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
