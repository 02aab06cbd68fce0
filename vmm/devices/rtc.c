/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MC146818. The time registers are not stored: they are the wall clock plus the
 * difference the guest set. While the SET bit stops updates, the registers are
 * plain memory; clearing it makes them the time. Update-in-progress and the
 * update and periodic flags follow the clock, so that a guest that polls for
 * them gets on.
 */
#include "base/bytes.h"
#include "vmm/devices/platform.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#define RTC_STATE_VERSION 1
#define RTC_CMOS_SIZE 128
#define RTC_SECOND_US 1000000ll
/* Data sheet: UIP goes up 244 us before an update of 1984 us. */
#define RTC_UPDATE_US (244 + 1984)
/* No guest clock is further from the host's than the registers can say. */
#define RTC_OFFSET_MAX_US (10000ll * 366 * 86400 * RTC_SECOND_US)

enum { /* indices */
       RTC_SECONDS = 0,
       RTC_SECONDS_ALARM = 1,
       RTC_MINUTES = 2,
       RTC_MINUTES_ALARM = 3,
       RTC_HOURS = 4,
       RTC_HOURS_ALARM = 5,
       RTC_DAY_OF_WEEK = 6,
       RTC_DAY = 7,
       RTC_MONTH = 8,
       RTC_YEAR = 9,
       RTC_A = 10,
       RTC_B = 11,
       RTC_C = 12,
       RTC_D = 13,
};

enum {
    A_UPDATING = 0x80,
    A_RATE = 0x0f,
    B_SET = 0x80,
    B_BINARY = 0x04,
    B_24_HOURS = 0x02,
    C_PERIODIC = 0x40,
    C_UPDATE = 0x10,
    D_VALID = 0x80,
    HOURS_PM = 0x80,
};

struct rtc {
    struct device dev;
    int64_t (*now_us)(void *context);
    void *context;

    uint8_t index;
    uint8_t cmos[RTC_CMOS_SIZE]; /* time registers count while B_SET is on */
    int64_t offset_us;           /* the guest's clock is that much ahead */
    int64_t flags_read_us;       /* guest time of the last reset of register C */
};

static int64_t rtc_now(const struct rtc *rtc)
{
    return rtc->now_us(rtc->context) + rtc->offset_us;
}

static bool rtc_is_time(uint8_t index)
{
    return index == RTC_SECONDS || index == RTC_MINUTES || index == RTC_HOURS ||
           (index >= RTC_DAY_OF_WEEK && index <= RTC_YEAR) || index == RTC_CENTURY;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static uint8_t rtc_encode(const struct rtc *rtc, int value)
{
    value %= 100;
    if (rtc->cmos[RTC_B] & B_BINARY)
        return (uint8_t)value;
    return (uint8_t)(value / 10 << 4 | value % 10);
}

static int rtc_decode(const struct rtc *rtc, uint8_t byte)
{
    if (rtc->cmos[RTC_B] & B_BINARY)
        return byte;
    return (byte >> 4) * 10 + (byte & 0x0f);
}

static uint8_t rtc_encode_hours(const struct rtc *rtc, int hours)
{
    if (rtc->cmos[RTC_B] & B_24_HOURS)
        return rtc_encode(rtc, hours);
    int twelve = hours % 12 == 0 ? 12 : hours % 12;
    return (uint8_t)(rtc_encode(rtc, twelve) | (hours >= 12 ? HOURS_PM : 0));
}

static int rtc_decode_hours(const struct rtc *rtc, uint8_t byte)
{
    if (rtc->cmos[RTC_B] & B_24_HOURS)
        return rtc_decode(rtc, byte);
    return rtc_decode(rtc, byte & (uint8_t)~HOURS_PM) % 12 + (byte & HOURS_PM ? 12 : 0);
}

/* Registers of a moment. */
static void rtc_latch(struct rtc *rtc, int64_t now_us)
{
    time_t seconds = floor_div(now_us, RTC_SECOND_US);
    struct tm tm;

    if (gmtime_r(&seconds, &tm) == NULL)
        return;
    int year = tm.tm_year + 1900;
    if (year < 0)
        year = 0;
    rtc->cmos[RTC_SECONDS] = rtc_encode(rtc, tm.tm_sec);
    rtc->cmos[RTC_MINUTES] = rtc_encode(rtc, tm.tm_min);
    rtc->cmos[RTC_HOURS] = rtc_encode_hours(rtc, tm.tm_hour);
    rtc->cmos[RTC_DAY_OF_WEEK] = rtc_encode(rtc, tm.tm_wday + 1);
    rtc->cmos[RTC_DAY] = rtc_encode(rtc, tm.tm_mday);
    rtc->cmos[RTC_MONTH] = rtc_encode(rtc, tm.tm_mon + 1);
    rtc->cmos[RTC_YEAR] = rtc_encode(rtc, year);
    rtc->cmos[RTC_CENTURY] = rtc_encode(rtc, year / 100);
}

/* The time the registers say becomes the guest's. They may say the 39th of the
 * 15th month: timegm() takes that as it comes. */
static void rtc_set_time(struct rtc *rtc)
{
    struct tm tm = {
        .tm_sec = rtc_decode(rtc, rtc->cmos[RTC_SECONDS]),
        .tm_min = rtc_decode(rtc, rtc->cmos[RTC_MINUTES]),
        .tm_hour = rtc_decode_hours(rtc, rtc->cmos[RTC_HOURS]),
        .tm_mday = rtc_decode(rtc, rtc->cmos[RTC_DAY]),
        .tm_mon = rtc_decode(rtc, rtc->cmos[RTC_MONTH]) - 1,
        .tm_year = rtc_decode(rtc, rtc->cmos[RTC_YEAR]) +
                   rtc_decode(rtc, rtc->cmos[RTC_CENTURY]) * 100 - 1900,
    };
    int64_t since_flags = rtc_now(rtc) - rtc->flags_read_us;
    int64_t offset = (int64_t)timegm(&tm) * RTC_SECOND_US - rtc->now_us(rtc->context);

    if (offset < -RTC_OFFSET_MAX_US || offset > RTC_OFFSET_MAX_US)
        return;
    rtc->offset_us = offset;
    rtc->flags_read_us = rtc_now(rtc) - since_flags;
}

static uint8_t rtc_read_a(const struct rtc *rtc)
{
    int64_t now = rtc_now(rtc);
    int64_t into_second = now - floor_div(now, RTC_SECOND_US) * RTC_SECOND_US;
    bool updating = !(rtc->cmos[RTC_B] & B_SET) && into_second >= RTC_SECOND_US - RTC_UPDATE_US;

    return (uint8_t)(rtc->cmos[RTC_A] | (updating ? A_UPDATING : 0));
}

/* How long a period of the rate selected in register A is; 0: none. Rates 1 and 2
 * stand for what 8 and 9 do. */
static int64_t rtc_period_us(const struct rtc *rtc)
{
    unsigned rate = rtc->cmos[RTC_A] & A_RATE;

    if (rate == 0)
        return 0;
    if (rate < 3)
        rate += 7;
    return (RTC_SECOND_US << (rate - 1)) / 32768;
}

static uint8_t rtc_read_c(struct rtc *rtc)
{
    int64_t now = rtc_now(rtc), before = rtc->flags_read_us, period = rtc_period_us(rtc);
    uint8_t flags = 0;

    if (!(rtc->cmos[RTC_B] & B_SET) &&
        floor_div(now, RTC_SECOND_US) != floor_div(before, RTC_SECOND_US))
        flags |= C_UPDATE;
    if (period != 0 && floor_div(now, period) != floor_div(before, period))
        flags |= C_PERIODIC;
    rtc->flags_read_us = now;
    return flags;
}

static uint8_t rtc_read_register(struct rtc *rtc)
{
    switch (rtc->index) {
    case RTC_A:
        return rtc_read_a(rtc);
    case RTC_C:
        return rtc_read_c(rtc);
    case RTC_D:
        return D_VALID;
    default:
        if (rtc_is_time(rtc->index) && !(rtc->cmos[RTC_B] & B_SET))
            rtc_latch(rtc, rtc_now(rtc));
        return rtc->cmos[rtc->index];
    }
}

static void rtc_write_b(struct rtc *rtc, uint8_t value)
{
    uint8_t old = rtc->cmos[RTC_B];

    /* What stands in the registers is in the old format until the mode changes. */
    if (!(old & B_SET))
        rtc_latch(rtc, rtc_now(rtc));
    rtc->cmos[RTC_B] = value;
    if ((old & B_SET) && !(value & B_SET))
        rtc_set_time(rtc);
}

static void rtc_write_register(struct rtc *rtc, uint8_t value)
{
    bool is_time = rtc_is_time(rtc->index), running = !(rtc->cmos[RTC_B] & B_SET);

    switch (rtc->index) {
    case RTC_A:
        rtc->cmos[RTC_A] = value & (uint8_t)~A_UPDATING;
        return;
    case RTC_B:
        rtc_write_b(rtc, value);
        return;
    case RTC_C:
    case RTC_D:
        return;
    default:
        if (is_time && running)
            rtc_latch(rtc, rtc_now(rtc));
        rtc->cmos[rtc->index] = value;
        if (is_time && running)
            rtc_set_time(rtc);
    }
}

static uint64_t rtc_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct rtc *rtc = (struct rtc *)dev;

    if (size != 1 || offset != 1) /* the index cannot be read back */
        return UINT64_MAX;
    return rtc_read_register(rtc);
}

static void rtc_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct rtc *rtc = (struct rtc *)dev;

    if (size != 1)
        return;
    if (offset == 0)
        rtc->index = value & (RTC_CMOS_SIZE - 1); /* bit 7 masks NMI on a PC */
    else if (offset == 1)
        rtc_write_register(rtc, (uint8_t)value);
}

/* Battery-backed: the time and memory outlive a reset. */
static void rtc_reset(struct device *dev)
{
    struct rtc *rtc = (struct rtc *)dev;

    rtc->index = 0;
    if (rtc->cmos[RTC_B] & B_SET)
        rtc_write_b(rtc, rtc->cmos[RTC_B] & (uint8_t)~B_SET);
    rtc->cmos[RTC_A] = 0x26; /* 32768 Hz crystal, 1024 periods a second */
    rtc->cmos[RTC_B] = B_24_HOURS;
}

static void rtc_save(struct device *dev, struct state_writer *w)
{
    const struct rtc *rtc = (const struct rtc *)dev;
    bool stopped = rtc->cmos[RTC_B] & B_SET;

    state_writer_begin(w, STATE_RTC, dev->instance, RTC_STATE_VERSION, 0);
    state_put_u8(w, rtc->index);
    state_put_u64(w, (uint64_t)rtc->offset_us);
    state_put_u64(w, (uint64_t)rtc->flags_read_us);
    /* Time registers of a running clock are left over from the last read. */
    for (unsigned i = 0; i < RTC_CMOS_SIZE; i++)
        state_put_u8(w, rtc_is_time((uint8_t)i) && !stopped ? 0 : rtc->cmos[i]);
    state_writer_end(w);
}

static int rtc_restore(struct device *dev, const void *state, size_t length, struct error *err)
{
    struct rtc *rtc = (struct rtc *)dev;
    struct rtc fresh = *rtc;
    struct state_record record;

    int r =
        state_find_known(state, length, STATE_RTC, dev->instance, RTC_STATE_VERSION, &record, err);
    if (r < 0)
        return r;
    fresh.index = state_get_u8(&record);
    fresh.offset_us = (int64_t)state_get_u64(&record);
    fresh.flags_read_us = (int64_t)state_get_u64(&record);
    state_get_bytes(&record, fresh.cmos, sizeof(fresh.cmos));
    r = state_record_done(&record, err);
    if (r < 0)
        return r;
    if (fresh.index >= RTC_CMOS_SIZE || fresh.offset_us < -RTC_OFFSET_MAX_US ||
        fresh.offset_us > RTC_OFFSET_MAX_US || fresh.flags_read_us < -2 * RTC_OFFSET_MAX_US ||
        fresh.flags_read_us > 2 * RTC_OFFSET_MAX_US || (fresh.cmos[RTC_A] & A_UPDATING))
        return error_corrupt(err, "the real-time clock's saved state has values out of range");
    *rtc = fresh;
    return 0;
}

static void rtc_destroy(struct device *dev)
{
    free(dev);
}

static const struct device_ops rtc_ops = {
    .name = "rtc",
    .read = rtc_read,
    .write = rtc_write,
    .reset = rtc_reset,
    .save = rtc_save,
    .restore = rtc_restore,
    .destroy = rtc_destroy,
};

struct device *rtc_create(int64_t (*now_us)(void *context), void *context)
{
    struct rtc *rtc = calloc(1, sizeof(*rtc));

    if (rtc == NULL)
        abort();
    rtc->dev.ops = &rtc_ops;
    rtc->now_us = now_us;
    rtc->context = context;
    rtc_reset(&rtc->dev);
    rtc->flags_read_us = rtc_now(rtc);
    return &rtc->dev;
}
