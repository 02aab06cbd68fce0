/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PC16550D. Sending takes no time: what the guest writes is at the backend before
 * the write returns, so the transmitter is always empty. The receive time-out
 * interrupt is raised as soon as data is there, whatever the trigger level: the
 * FIFO is filled faster than any line could.
 *
 * The interrupt pin is a level in hardware, and the line an edge: an edge goes out
 * whenever the pin rises, and also when a cause of higher priority joins one that
 * is pending, which a handler that looped until "none pending" would see anyway.
 */
#include "base/bytes.h"
#include "vmm/devices/platform.h"

#include <errno.h>
#include <stdlib.h>

#define SERIAL_FIFO_SIZE 16
#define SERIAL_STATE_VERSION 1

enum {                  /* registers */
       SERIAL_DATA = 0, /* RBR, THR; DLL if DLAB */
       SERIAL_IER = 1,  /* DLM if DLAB */
       SERIAL_IIR = 2,  /* FCR when written */
       SERIAL_LCR = 3,
       SERIAL_MCR = 4,
       SERIAL_LSR = 5,
       SERIAL_MSR = 6,
       SERIAL_SCR = 7,
};

enum {
    IER_RX = 0x01,
    IER_TX_EMPTY = 0x02,
    IER_LINE = 0x04,
    IER_MODEM = 0x08,
    IER_ALL = 0x0f,

    IIR_MODEM = 0x00,
    IIR_NONE = 0x01,
    IIR_TX_EMPTY = 0x02,
    IIR_RX = 0x04,
    IIR_LINE = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFOS = 0xc0,

    FCR_ENABLE = 0x01,
    FCR_CLEAR_RX = 0x02,
    FCR_CLEAR_TX = 0x04,
    FCR_DMA = 0x08,
    FCR_TRIGGER = 0xc0,
    FCR_KEPT = FCR_ENABLE | FCR_DMA | FCR_TRIGGER,

    LCR_DLAB = 0x80,

    MCR_DTR = 0x01,
    MCR_RTS = 0x02,
    MCR_OUT1 = 0x04,
    MCR_OUT2 = 0x08,
    MCR_LOOP = 0x10,
    MCR_ALL = 0x1f,

    LSR_DATA_READY = 0x01,
    LSR_OVERRUN = 0x02,
    LSR_ERRORS = 0x1e,
    LSR_TX_EMPTY = 0x60, /* THRE and TEMT */

    MSR_DELTA_CTS = 0x01,
    MSR_DELTA_DSR = 0x02,
    MSR_RI_ENDED = 0x04,
    MSR_DELTA_DCD = 0x08,
    MSR_DELTAS = 0x0f,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80,
};

struct serial {
    struct device dev;
    struct irq_line irq;
    struct serial_backend backend;

    uint8_t ier, fcr, lcr, mcr, msr, scr;
    uint8_t dll, dlm;
    uint8_t errors;     /* of LSR; reading it clears them */
    bool tx_empty_irq;  /* "THR empty" was not yet reported through IIR */
    uint8_t iir_raised; /* the cause the last edge was sent for; IIR_NONE: pin is low */
    uint8_t rx[SERIAL_FIFO_SIZE];
    uint8_t rx_head, rx_count;
};

static const uint8_t serial_triggers[] = {1, 4, 8, 14};

static bool serial_fifos_on(const struct serial *s)
{
    return s->fcr & FCR_ENABLE;
}

static unsigned serial_rx_capacity(const struct serial *s)
{
    return serial_fifos_on(s) ? SERIAL_FIFO_SIZE : 1;
}

/* The cause of highest priority that is pending and enabled. */
static uint8_t serial_cause(const struct serial *s)
{
    if ((s->ier & IER_LINE) && s->errors != 0)
        return IIR_LINE;
    if ((s->ier & IER_RX) && s->rx_count > 0) {
        if (!serial_fifos_on(s) || s->rx_count >= serial_triggers[s->fcr >> 6])
            return IIR_RX;
        return IIR_TIMEOUT;
    }
    if ((s->ier & IER_TX_EMPTY) && s->tx_empty_irq)
        return IIR_TX_EMPTY;
    if ((s->ier & IER_MODEM) && (s->msr & MSR_DELTAS))
        return IIR_MODEM;
    return IIR_NONE;
}

/* Line status before receive before transmit before modem: bits 1 and 2. */
static unsigned serial_priority(uint8_t cause)
{
    return cause & 0x06u;
}

static void serial_update_irq(struct serial *s)
{
    uint8_t cause = serial_cause(s);

    /* On a PC, OUT2 connects the interrupt pin to the bus. In loopback it is cut. */
    bool connected = (s->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
    if (!connected || cause == IIR_NONE) {
        s->iir_raised = IIR_NONE;
        return;
    }
    bool news =
        s->iir_raised == IIR_NONE || serial_priority(cause) > serial_priority(s->iir_raised);
    s->iir_raised = cause;
    if (news)
        irq_line_raise(&s->irq);
}

static void serial_rx_push(struct serial *s, uint8_t byte)
{
    if (s->rx_count == serial_rx_capacity(s)) {
        s->errors |= LSR_OVERRUN;
        return;
    }
    s->rx[(s->rx_head + s->rx_count) % SERIAL_FIFO_SIZE] = byte;
    s->rx_count++;
}

static uint8_t serial_rx_pop(struct serial *s)
{
    if (s->rx_count == 0)
        return 0;
    uint8_t byte = s->rx[s->rx_head];
    s->rx_head = (uint8_t)((s->rx_head + 1) % SERIAL_FIFO_SIZE);
    s->rx_count--;
    /* Reading restarts the time-out: for what is left it comes again. */
    if (s->iir_raised == IIR_TIMEOUT)
        s->iir_raised = IIR_NONE;
    return byte;
}

static void serial_rx_clear(struct serial *s)
{
    memset(s->rx, 0, sizeof(s->rx));
    s->rx_head = 0;
    s->rx_count = 0;
}

/* The modem's lines: a peer that is always there, or in loopback our own. */
static uint8_t serial_modem_lines(const struct serial *s)
{
    if (!(s->mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD;
    return (uint8_t)((s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) |
                     (s->mcr & MCR_OUT1 ? MSR_RI : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0));
}

static void serial_update_modem(struct serial *s)
{
    uint8_t lines = serial_modem_lines(s), was = (uint8_t)(s->msr & ~MSR_DELTAS);
    uint8_t changed = lines ^ was;

    /* RI notes only its falling edge; the others sit four bits above their deltas. */
    uint8_t deltas = (uint8_t)((changed & (MSR_CTS | MSR_DSR | MSR_DCD)) >> 4);
    if (was & ~lines & MSR_RI)
        deltas |= MSR_RI_ENDED;
    s->msr = (uint8_t)(lines | (s->msr & MSR_DELTAS) | deltas);
}

static void serial_transmit(struct serial *s, uint8_t byte)
{
    if (s->mcr & MCR_LOOP)
        serial_rx_push(s, byte);
    else
        s->backend.output(&byte, 1, s->backend.context);
    /* The byte has left: the register was filled and is empty again, which is a
     * new event for a handler that is still at work on the last one. */
    s->tx_empty_irq = true;
    if (s->iir_raised == IIR_TX_EMPTY)
        s->iir_raised = IIR_NONE;
}

static void serial_write_ier(struct serial *s, uint8_t value)
{
    /* Enabling it while THR is empty reports that at once; drivers kick
     * transmission off so. */
    if ((value & IER_TX_EMPTY) && !(s->ier & IER_TX_EMPTY))
        s->tx_empty_irq = true;
    s->ier = value & IER_ALL;
}

static void serial_write_fcr(struct serial *s, uint8_t value)
{
    bool toggled = (value ^ s->fcr) & FCR_ENABLE;

    if (toggled || (value & FCR_CLEAR_RX))
        serial_rx_clear(s);
    /* The other bits only take with FIFOs on. */
    s->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
}

static void serial_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct serial *s = (struct serial *)dev;
    uint8_t byte = (uint8_t)value;
    bool dlab = s->lcr & LCR_DLAB;

    if (size != 1)
        return;
    switch (offset) {
    case SERIAL_DATA:
        if (dlab)
            s->dll = byte;
        else
            serial_transmit(s, byte);
        break;
    case SERIAL_IER:
        if (dlab)
            s->dlm = byte;
        else
            serial_write_ier(s, byte);
        break;
    case SERIAL_IIR:
        serial_write_fcr(s, byte);
        break;
    case SERIAL_LCR:
        s->lcr = byte;
        break;
    case SERIAL_MCR:
        s->mcr = byte & MCR_ALL;
        serial_update_modem(s);
        break;
    case SERIAL_SCR:
        s->scr = byte;
        break;
    default: /* LSR and MSR are for reading */
        break;
    }
    serial_update_irq(s);
}

static uint8_t serial_read_iir(struct serial *s)
{
    uint8_t cause = serial_cause(s);

    if (cause == IIR_TX_EMPTY)
        s->tx_empty_irq = false;
    return (uint8_t)(cause | (serial_fifos_on(s) ? IIR_FIFOS : 0));
}

static uint8_t serial_read_lsr(struct serial *s)
{
    uint8_t value = (uint8_t)(LSR_TX_EMPTY | s->errors | (s->rx_count > 0 ? LSR_DATA_READY : 0));

    s->errors = 0;
    return value;
}

static uint8_t serial_read_msr(struct serial *s)
{
    uint8_t value = s->msr;

    s->msr &= (uint8_t)~MSR_DELTAS;
    return value;
}

static uint8_t serial_read_register(struct serial *s, uint64_t offset)
{
    bool dlab = s->lcr & LCR_DLAB;

    switch (offset) {
    case SERIAL_DATA:
        return dlab ? s->dll : serial_rx_pop(s);
    case SERIAL_IER:
        return dlab ? s->dlm : s->ier;
    case SERIAL_IIR:
        return serial_read_iir(s);
    case SERIAL_LCR:
        return s->lcr;
    case SERIAL_MCR:
        return s->mcr;
    case SERIAL_LSR:
        return serial_read_lsr(s);
    case SERIAL_MSR:
        return serial_read_msr(s);
    case SERIAL_SCR:
        return s->scr;
    default:
        return 0xff;
    }
}

static uint64_t serial_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct serial *s = (struct serial *)dev;

    if (size != 1)
        return UINT64_MAX;
    uint8_t value = serial_read_register(s, offset);
    serial_update_irq(s);
    return value;
}

static void serial_reset(struct device *dev)
{
    struct serial *s = (struct serial *)dev;

    s->ier = s->fcr = s->lcr = s->mcr = s->scr = 0;
    s->dll = 12; /* 9600 baud, as PC firmware leaves it */
    s->dlm = 0;
    s->errors = 0;
    s->tx_empty_irq = false;
    s->iir_raised = IIR_NONE;
    serial_rx_clear(s);
    s->msr = serial_modem_lines(s);
}

static void serial_save(struct device *dev, struct state_writer *w)
{
    const struct serial *s = (const struct serial *)dev;

    state_writer_begin(w, STATE_SERIAL, dev->instance, SERIAL_STATE_VERSION, 0);
    state_put_u8(w, s->ier);
    state_put_u8(w, s->fcr);
    state_put_u8(w, s->lcr);
    state_put_u8(w, s->mcr);
    state_put_u8(w, s->msr);
    state_put_u8(w, s->scr);
    state_put_u8(w, s->dll);
    state_put_u8(w, s->dlm);
    state_put_u8(w, s->errors);
    state_put_u8(w, s->tx_empty_irq);
    state_put_u8(w, s->iir_raised);
    /* In order and from the front, so that equal states have equal bytes. */
    state_put_u8(w, s->rx_count);
    for (unsigned i = 0; i < SERIAL_FIFO_SIZE; i++)
        state_put_u8(w, i < s->rx_count ? s->rx[(s->rx_head + i) % SERIAL_FIFO_SIZE] : 0);
    state_writer_end(w);
}

static int serial_check(const struct serial *s, uint8_t tx_empty_irq, struct error *err)
{
    uint8_t raised = s->iir_raised;

    if ((s->ier & ~IER_ALL) || (s->mcr & ~MCR_ALL) || (s->errors & ~LSR_ERRORS) ||
        (s->fcr & ~FCR_KEPT) || (s->fcr != 0 && !serial_fifos_on(s)) || tx_empty_irq > 1 ||
        s->rx_count > serial_rx_capacity(s))
        return error_corrupt(err, "the serial port's saved state has values out of range");
    if (raised != IIR_MODEM && raised != IIR_NONE && raised != IIR_TX_EMPTY && raised != IIR_RX &&
        raised != IIR_LINE && raised != IIR_TIMEOUT)
        return error_corrupt(err, "the serial port's saved state has an unknown interrupt cause");
    return 0;
}

static int serial_restore(struct device *dev, const void *state, size_t length, struct error *err)
{
    struct serial *s = (struct serial *)dev;
    struct serial fresh = *s;
    struct state_record record;

    int r = state_find_known(state, length, STATE_SERIAL, dev->instance, SERIAL_STATE_VERSION,
                             &record, err);
    if (r < 0)
        return r;
    fresh.ier = state_get_u8(&record);
    fresh.fcr = state_get_u8(&record);
    fresh.lcr = state_get_u8(&record);
    fresh.mcr = state_get_u8(&record);
    fresh.msr = state_get_u8(&record);
    fresh.scr = state_get_u8(&record);
    fresh.dll = state_get_u8(&record);
    fresh.dlm = state_get_u8(&record);
    fresh.errors = state_get_u8(&record);
    uint8_t tx_empty_irq = state_get_u8(&record);
    fresh.tx_empty_irq = tx_empty_irq != 0;
    fresh.iir_raised = state_get_u8(&record);
    fresh.rx_count = state_get_u8(&record);
    fresh.rx_head = 0;
    state_get_bytes(&record, fresh.rx, sizeof(fresh.rx));
    r = state_record_done(&record, err);
    if (r < 0)
        return r;
    r = serial_check(&fresh, tx_empty_irq, err);
    if (r < 0)
        return r;
    *s = fresh;
    return 0;
}

static void serial_destroy(struct device *dev)
{
    free(dev);
}

static const struct device_ops serial_ops = {
    .name = "serial",
    .read = serial_read,
    .write = serial_write,
    .reset = serial_reset,
    .save = serial_save,
    .restore = serial_restore,
    .destroy = serial_destroy,
};

struct device *serial_create(const struct irq_line *irq, const struct serial_backend *backend)
{
    struct serial *s = calloc(1, sizeof(*s));

    if (s == NULL)
        abort();
    s->dev.ops = &serial_ops;
    s->irq = *irq;
    s->backend = *backend;
    serial_reset(&s->dev);
    return &s->dev;
}

size_t serial_input(struct device *serial, const uint8_t *bytes, size_t length)
{
    struct serial *s = (struct serial *)serial;
    size_t take = min_u64(length, serial_input_room(serial));

    for (size_t i = 0; i < take; i++)
        serial_rx_push(s, bytes[i]);
    if (take > 0)
        serial_update_irq(s);
    return take;
}

size_t serial_input_room(const struct device *serial)
{
    const struct serial *s = (const struct serial *)serial;

    /* In loopback the receiver is cut from the line: nothing gets lost meanwhile. */
    if (s->mcr & MCR_LOOP)
        return 0;
    return serial_rx_capacity(s) - s->rx_count;
}
