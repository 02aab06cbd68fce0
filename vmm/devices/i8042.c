/* SPDX-License-Identifier: Apache-2.0 */
/*
 * i8042 and the keyboard behind it, with no auxiliary port. Everything is done
 * when it is asked for: the input buffer is never full, answers are there at once.
 * A byte of the controller goes before bytes of the keyboard.
 */
#include "base/bytes.h"
#include "vmm/devices/platform.h"

#include <errno.h>
#include <stdlib.h>

#define I8042_STATE_VERSION 1
#define KBD_QUEUE_SIZE 16

enum { I8042_DATA = 0, I8042_STATUS = 4 };

enum {
    STR_OUTPUT_FULL = 0x01,
    STR_SYSTEM = 0x04,
    STR_COMMAND = 0x08, /* the last write was a command */
    STR_UNLOCKED = 0x10,

    MODE_KBD_IRQ = 0x01,
    MODE_SYSTEM = 0x04,
    MODE_KBD_OFF = 0x10,
    MODE_AUX_OFF = 0x20,
    MODE_TRANSLATE = 0x40,
    /* As firmware leaves it, but with the interrupt off. */
    MODE_POWER_ON = MODE_SYSTEM | MODE_AUX_OFF | MODE_TRANSLATE,

    OUTPORT_NO_RESET = 0x01,
    OUTPORT_POWER_ON = 0xcf, /* no reset, A20 on, lines idle */
};

enum { /* commands to the controller */
       CMD_READ_MODE = 0x20,
       CMD_WRITE_MODE = 0x60,
       CMD_AUX_OFF = 0xa7,
       CMD_AUX_ON = 0xa8,
       CMD_AUX_TEST = 0xa9,
       CMD_SELF_TEST = 0xaa,
       CMD_KBD_TEST = 0xab,
       CMD_KBD_OFF = 0xad,
       CMD_KBD_ON = 0xae,
       CMD_READ_INPORT = 0xc0,
       CMD_READ_OUTPORT = 0xd0,
       CMD_WRITE_OUTPORT = 0xd1,
       CMD_WRITE_KBD_OUTPUT = 0xd2,
       CMD_WRITE_AUX_OUTPUT = 0xd3,
       CMD_WRITE_AUX = 0xd4,
       CMD_PULSE = 0xf0, /* to 0xff: a zero in bits 0-3 pulses that line */

       SELF_TEST_PASSED = 0x55,
       KBD_TEST_PASSED = 0x00,
       AUX_TEST_CLOCK_LOW = 0x01, /* nothing is connected */
       INPORT_UNLOCKED = 0x80,
};

enum { /* commands to the keyboard */
       KBD_SET_LEDS = 0xed,
       KBD_ECHO = 0xee,
       KBD_SCANCODE_SET = 0xf0,
       KBD_GET_ID = 0xf2,
       KBD_SET_RATE = 0xf3,
       KBD_ENABLE = 0xf4,
       KBD_DISABLE = 0xf5,
       KBD_DEFAULTS = 0xf6,
       KBD_SET_ALL_FIRST = 0xf7, /* to 0xfa: of scan code set 3 */
       KBD_SET_ALL_LAST = 0xfa,
       KBD_RESEND = 0xfe,
       KBD_RESET = 0xff,

       KBD_ACK = 0xfa,
       KBD_NAK = 0xfe,
       KBD_TEST_OK = 0xaa,
       KBD_RATE_DEFAULT = 0x2b,
};

struct i8042 {
    struct device dev;
    struct irq_line irq;
    void (*reset_requested)(void *context);
    void *context;

    uint8_t mode;
    uint8_t outport;
    uint8_t command; /* waiting for its parameter; 0: none */
    bool last_was_command;
    bool has_reply; /* of the controller */
    uint8_t reply;
    uint8_t last_read; /* what an empty output buffer reads as */

    uint8_t kbd_command; /* waiting for its parameter; 0: none */
    bool kbd_scanning;
    uint8_t kbd_set; /* 1 or 2 */
    uint8_t kbd_leds;
    uint8_t kbd_rate;
    uint8_t kbd_last_sent;
    uint8_t queue[KBD_QUEUE_SIZE]; /* of the keyboard */
    uint8_t queue_count;
};

static bool i8042_output_full(const struct i8042 *c)
{
    return c->has_reply || (c->queue_count > 0 && !(c->mode & MODE_KBD_OFF));
}

/* A byte has come to the front of the output buffer, or the interrupt was enabled
 * while one was there. */
static void i8042_signal(struct i8042 *c)
{
    if (i8042_output_full(c) && (c->mode & MODE_KBD_IRQ))
        irq_line_raise(&c->irq);
}

static void i8042_reply(struct i8042 *c, uint8_t byte)
{
    c->has_reply = true;
    c->reply = byte;
    i8042_signal(c);
}

/* ---- the keyboard ---- */

/* What the controller makes of the answers that are not above 0x83, which it
 * takes for scan codes of set 2: the id's second byte, and scan code sets. */
static uint8_t i8042_translate(const struct i8042 *c, uint8_t byte)
{
    if (!(c->mode & MODE_TRANSLATE))
        return byte;
    switch (byte) {
    case 0x01:
        return 0x43;
    case 0x02:
    case 0x83:
        return 0x41;
    default:
        return byte;
    }
}

/* All or nothing: half an answer helps nobody. */
static bool kbd_send(struct i8042 *c, const uint8_t *bytes, size_t count)
{
    bool was_full = i8042_output_full(c);

    if (count > (size_t)(KBD_QUEUE_SIZE - c->queue_count))
        return false;
    for (size_t i = 0; i < count; i++)
        c->queue[c->queue_count++] = bytes[i];
    if (!was_full)
        i8042_signal(c);
    return true;
}

static void kbd_answer(struct i8042 *c, uint8_t byte)
{
    uint8_t translated = i8042_translate(c, byte);

    c->kbd_last_sent = byte;
    kbd_send(c, &translated, 1);
}

static void kbd_ack_and(struct i8042 *c, uint8_t first, int second)
{
    uint8_t bytes[3] = {KBD_ACK, i8042_translate(c, first)};
    size_t count = 2;

    c->kbd_last_sent = first;
    if (second >= 0) {
        c->kbd_last_sent = (uint8_t)second;
        bytes[count++] = i8042_translate(c, (uint8_t)second);
    }
    kbd_send(c, bytes, count);
}

static void kbd_set_defaults(struct i8042 *c)
{
    c->kbd_set = 2;
    c->kbd_leds = 0;
    c->kbd_rate = KBD_RATE_DEFAULT;
}

static void kbd_write_parameter(struct i8042 *c, uint8_t value)
{
    uint8_t command = c->kbd_command;

    c->kbd_command = 0;
    switch (command) {
    case KBD_SET_LEDS:
        c->kbd_leds = value & 0x07;
        break;
    case KBD_SET_RATE:
        c->kbd_rate = value & 0x7f;
        break;
    default: /* KBD_SCANCODE_SET; 0 asks which one it is */
        if (value == 0) {
            kbd_ack_and(c, c->kbd_set, -1);
            return;
        }
        if (value > 2) {
            kbd_answer(c, KBD_NAK);
            return;
        }
        c->kbd_set = value;
    }
    kbd_answer(c, KBD_ACK);
}

static bool kbd_takes_parameter(uint8_t command)
{
    return command == KBD_SET_LEDS || command == KBD_SCANCODE_SET || command == KBD_SET_RATE;
}

static void kbd_write(struct i8042 *c, uint8_t value)
{
    /* Parameters are below the commands, so a command ends waiting for one. */
    if (c->kbd_command != 0 && value < KBD_SET_LEDS) {
        kbd_write_parameter(c, value);
        return;
    }
    c->kbd_command = kbd_takes_parameter(value) ? value : 0;
    switch (value) {
    case KBD_ECHO:
        kbd_answer(c, KBD_ECHO);
        return;
    case KBD_GET_ID:
        kbd_ack_and(c, 0xab, 0x83);
        return;
    case KBD_RESEND:
        kbd_answer(c, c->kbd_last_sent);
        return;
    case KBD_RESET:
        kbd_set_defaults(c);
        c->kbd_scanning = true;
        c->queue_count = 0;
        kbd_ack_and(c, KBD_TEST_OK, -1);
        return;
    case KBD_ENABLE:
        c->kbd_scanning = true;
        break;
    case KBD_DISABLE:
        c->kbd_scanning = false;
        kbd_set_defaults(c);
        break;
    case KBD_DEFAULTS:
        kbd_set_defaults(c);
        break;
    default:
        if (c->kbd_command == 0 && (value < KBD_SET_ALL_FIRST || value > KBD_SET_ALL_LAST)) {
            kbd_answer(c, KBD_NAK);
            return;
        }
    }
    kbd_answer(c, KBD_ACK);
}

bool i8042_ctrl_alt_del(struct device *i8042)
{
    static const uint8_t set1[] = {0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d};
    static const uint8_t set2[] = {0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0,
                                   0x71, 0xf0, 0x11, 0xf0, 0x14};
    struct i8042 *c = (struct i8042 *)i8042;

    if (!c->kbd_scanning || (c->mode & (MODE_KBD_OFF | MODE_KBD_IRQ)) != MODE_KBD_IRQ)
        return false;
    /* The controller translates set 2 to set 1, which is what most guests want. */
    if (c->kbd_set == 1 || (c->mode & MODE_TRANSLATE))
        return kbd_send(c, set1, sizeof(set1));
    return kbd_send(c, set2, sizeof(set2));
}

/* ---- the controller ---- */

static void i8042_set_mode(struct i8042 *c, uint8_t mode)
{
    bool could = i8042_output_full(c) && (c->mode & MODE_KBD_IRQ);

    c->mode = mode;
    if (!could)
        i8042_signal(c);
}

static void i8042_write_outport(struct i8042 *c, uint8_t value)
{
    c->outport = value | OUTPORT_NO_RESET;
    if (!(value & OUTPORT_NO_RESET))
        c->reset_requested(c->context);
}

static void i8042_write_parameter(struct i8042 *c, uint8_t value)
{
    uint8_t command = c->command;

    c->command = 0;
    switch (command) {
    case CMD_WRITE_MODE:
        i8042_set_mode(c, value);
        break;
    case CMD_WRITE_OUTPORT:
        i8042_write_outport(c, value);
        break;
    case CMD_WRITE_KBD_OUTPUT:
    case CMD_WRITE_AUX_OUTPUT: /* not marked as coming from there: the port is absent */
        i8042_reply(c, value);
        break;
    default: /* CMD_WRITE_AUX: nobody is there */
        break;
    }
}

static void i8042_write_command(struct i8042 *c, uint8_t command)
{
    c->command = 0;
    switch (command) {
    case CMD_READ_MODE:
        i8042_reply(c, c->mode);
        break;
    case CMD_WRITE_MODE:
    case CMD_WRITE_OUTPORT:
    case CMD_WRITE_KBD_OUTPUT:
    case CMD_WRITE_AUX_OUTPUT:
    case CMD_WRITE_AUX:
        c->command = command;
        break;
    case CMD_AUX_OFF:
        i8042_set_mode(c, c->mode | MODE_AUX_OFF);
        break;
    case CMD_AUX_ON:
        i8042_set_mode(c, c->mode & (uint8_t)~MODE_AUX_OFF);
        break;
    case CMD_AUX_TEST:
        i8042_reply(c, AUX_TEST_CLOCK_LOW);
        break;
    case CMD_SELF_TEST:
        i8042_set_mode(c, c->mode | MODE_SYSTEM);
        i8042_reply(c, SELF_TEST_PASSED);
        break;
    case CMD_KBD_TEST:
        i8042_reply(c, KBD_TEST_PASSED);
        break;
    case CMD_KBD_OFF:
        i8042_set_mode(c, c->mode | MODE_KBD_OFF);
        break;
    case CMD_KBD_ON:
        i8042_set_mode(c, c->mode & (uint8_t)~MODE_KBD_OFF);
        break;
    case CMD_READ_INPORT:
        i8042_reply(c, INPORT_UNLOCKED);
        break;
    case CMD_READ_OUTPORT:
        i8042_reply(c, c->outport);
        break;
    default:
        if (command >= CMD_PULSE && !(command & 0x01))
            c->reset_requested(c->context);
    }
}

static void i8042_write_data(struct i8042 *c, uint8_t value)
{
    if (c->command != 0) {
        i8042_write_parameter(c, value);
        return;
    }
    /* Talking to the keyboard switches its line on. */
    i8042_set_mode(c, c->mode & (uint8_t)~MODE_KBD_OFF);
    kbd_write(c, value);
}

static void i8042_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct i8042 *c = (struct i8042 *)dev;

    if (size != 1 || (offset != I8042_DATA && offset != I8042_STATUS))
        return;
    c->last_was_command = offset == I8042_STATUS;
    if (offset == I8042_STATUS)
        i8042_write_command(c, (uint8_t)value);
    else
        i8042_write_data(c, (uint8_t)value);
}

static uint8_t i8042_read_data(struct i8042 *c)
{
    if (!i8042_output_full(c))
        return c->last_read;
    if (c->has_reply) {
        c->has_reply = false;
        c->last_read = c->reply;
    } else {
        c->last_read = c->queue[0];
        c->queue_count--;
        memmove(c->queue, c->queue + 1, c->queue_count);
    }
    i8042_signal(c);
    return c->last_read;
}

static uint64_t i8042_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct i8042 *c = (struct i8042 *)dev;

    if (size == 1 && offset == I8042_DATA)
        return i8042_read_data(c);
    if (size != 1 || offset != I8042_STATUS)
        return UINT64_MAX;
    return (uint64_t)(STR_UNLOCKED | (i8042_output_full(c) ? STR_OUTPUT_FULL : 0) |
                      (c->mode & MODE_SYSTEM ? STR_SYSTEM : 0) |
                      (c->last_was_command ? STR_COMMAND : 0));
}

static void i8042_reset(struct device *dev)
{
    struct i8042 *c = (struct i8042 *)dev;

    c->mode = MODE_POWER_ON;
    c->outport = OUTPORT_POWER_ON;
    c->command = 0;
    c->last_was_command = false;
    c->has_reply = false;
    c->reply = 0;
    c->last_read = 0;
    c->kbd_command = 0;
    c->kbd_scanning = false;
    c->kbd_last_sent = 0;
    c->queue_count = 0;
    memset(c->queue, 0, sizeof(c->queue));
    kbd_set_defaults(c);
}

static void i8042_save(struct device *dev, struct state_writer *w)
{
    const struct i8042 *c = (const struct i8042 *)dev;

    state_writer_begin(w, STATE_I8042, dev->instance, I8042_STATE_VERSION, 0);
    state_put_u8(w, c->mode);
    state_put_u8(w, c->outport);
    state_put_u8(w, c->command);
    state_put_u8(w, c->last_was_command);
    state_put_u8(w, c->has_reply);
    state_put_u8(w, c->reply);
    state_put_u8(w, c->last_read);
    state_put_u8(w, c->kbd_command);
    state_put_u8(w, c->kbd_scanning);
    state_put_u8(w, c->kbd_set);
    state_put_u8(w, c->kbd_leds);
    state_put_u8(w, c->kbd_rate);
    state_put_u8(w, c->kbd_last_sent);
    state_put_u8(w, c->queue_count);
    for (unsigned i = 0; i < KBD_QUEUE_SIZE; i++)
        state_put_u8(w, i < c->queue_count ? c->queue[i] : 0);
    state_writer_end(w);
}

static bool i8042_command_is_known(uint8_t command)
{
    return command == 0 || command == CMD_WRITE_MODE || command == CMD_WRITE_OUTPORT ||
           command == CMD_WRITE_KBD_OUTPUT || command == CMD_WRITE_AUX_OUTPUT ||
           command == CMD_WRITE_AUX;
}

static bool state_get_bool(struct state_record *record, bool *bad)
{
    uint8_t value = state_get_u8(record);

    *bad |= value > 1;
    return value != 0;
}

static int i8042_restore(struct device *dev, const void *state, size_t length, struct error *err)
{
    struct i8042 *c = (struct i8042 *)dev;
    struct i8042 fresh = *c;
    struct state_record record;
    bool bad = false;

    int r = state_find_known(state, length, STATE_I8042, dev->instance, I8042_STATE_VERSION,
                             &record, err);
    if (r < 0)
        return r;
    fresh.mode = state_get_u8(&record);
    fresh.outport = state_get_u8(&record);
    fresh.command = state_get_u8(&record);
    fresh.last_was_command = state_get_bool(&record, &bad);
    fresh.has_reply = state_get_bool(&record, &bad);
    fresh.reply = state_get_u8(&record);
    fresh.last_read = state_get_u8(&record);
    fresh.kbd_command = state_get_u8(&record);
    fresh.kbd_scanning = state_get_bool(&record, &bad);
    fresh.kbd_set = state_get_u8(&record);
    fresh.kbd_leds = state_get_u8(&record);
    fresh.kbd_rate = state_get_u8(&record);
    fresh.kbd_last_sent = state_get_u8(&record);
    fresh.queue_count = state_get_u8(&record);
    state_get_bytes(&record, fresh.queue, sizeof(fresh.queue));
    r = state_record_done(&record, err);
    if (r < 0)
        return r;
    if (bad || !i8042_command_is_known(fresh.command) || fresh.kbd_set < 1 || fresh.kbd_set > 2 ||
        (fresh.kbd_command != 0 && !kbd_takes_parameter(fresh.kbd_command)) ||
        fresh.queue_count > KBD_QUEUE_SIZE)
        return error_corrupt(err, "the keyboard controller's saved state has values out of range");
    *c = fresh;
    return 0;
}

static void i8042_destroy(struct device *dev)
{
    free(dev);
}

static const struct device_ops i8042_ops = {
    .name = "i8042",
    .read = i8042_read,
    .write = i8042_write,
    .reset = i8042_reset,
    .save = i8042_save,
    .restore = i8042_restore,
    .destroy = i8042_destroy,
};

struct device *i8042_create(const struct irq_line *irq, void (*reset_requested)(void *context),
                            void *context)
{
    struct i8042 *c = calloc(1, sizeof(*c));

    if (c == NULL)
        abort();
    c->dev.ops = &i8042_ops;
    c->irq = *irq;
    c->reset_requested = reset_requested;
    c->context = context;
    i8042_reset(&c->dev);
    return &c->dev;
}
