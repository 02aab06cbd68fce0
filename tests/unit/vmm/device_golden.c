/* SPDX-License-Identifier: Apache-2.0 */
/* The records of the platform's devices, as files: what version 1 was for ever. Each
 * restores to what the registers then say, and is saved to the same bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "tests/unit/vmm/device_fixture.h"
#include "vmm/devices/platform.h"
#include "vmm/layout.h"

#include <fcntl.h>
#include <string.h>

/* 2026-01-31T12:34:56Z */
#define NOW_US 1769862896000000

static struct irq_probe irq;
static struct memory *ram;

static int make_ram(void **state)
{
    (void)state;
    return memory_create(LAYOUT_MEMORY_MIN, &ram, NULL);
}

static int free_ram(void **state)
{
    (void)state;
    memory_free(ram);
    return 0;
}

static void discard(const uint8_t *bytes, size_t length, void *context)
{
    (void)bytes;
    (void)length;
    (void)context;
}

static int64_t now_us(void *context)
{
    (void)context;
    return NOW_US;
}

static void nothing(void *context)
{
    (void)context;
}

static struct device *make_serial(void)
{
    const struct serial_backend backend = {.output = discard};
    struct irq_line line = irq_probe_line(&irq, 4);

    return serial_create(&line, &backend);
}

static struct device *make_rtc(void)
{
    return rtc_create(now_us, NULL);
}

static struct device *make_i8042(void)
{
    struct irq_line line = irq_probe_line(&irq, 1);

    return i8042_create(&line, nothing, NULL);
}

static struct device *make_acpi_pm(void)
{
    return acpi_pm_create(nothing, nothing, NULL);
}

static struct device *make_vmgenid(void)
{
    struct irq_line line = irq_probe_line(&irq, LAYOUT_EVENT_IRQ);

    return vmgenid_create(ram, LAYOUT_VMGENID, &line);
}

/* The state that the files hold, by what a guest would do. */
static void drive_serial(struct device *dev)
{
    device_out(dev, 3, 0x80); /* divisor 12: 9600 baud */
    device_out(dev, 0, 12);
    device_out(dev, 3, 0x1b); /* 8 bits, even parity */
    device_out(dev, 1, 0x05);
    device_out(dev, 4, 0x0b);
    device_out(dev, 7, 0x5a);
    serial_input(dev, (const uint8_t *)"hi", 1);
}

static void drive_rtc(struct device *dev)
{
    device_out(dev, 0, 0x40);
    device_out(dev, 1, 0xa5);
    device_out(dev, 0, 0x0b);
    device_out(dev, 1, 0x06); /* binary, 24 hours */
    device_out(dev, 0, 0x40);
}

static void drive_i8042(struct device *dev)
{
    device_out(dev, 4, 0x60);
    device_out(dev, 0, 0x47);
    device_out(dev, 0, 0xf4);
}

static void drive_acpi_pm(struct device *dev)
{
    device_out(dev, 0, 0x10);
}

static void drive_vmgenid(struct device *dev)
{
    dev->ops->reset(dev);
}

static void check_serial(struct device *dev)
{
    assert_int_equal(device_in(dev, 3), 0x1b);
    assert_int_equal(device_in(dev, 1), 0x05);
    assert_int_equal(device_in(dev, 7), 0x5a);
    assert_int_equal(device_in(dev, 5) & 1, 1);
    assert_int_equal(device_in(dev, 0), 'h');
}

static void check_rtc(struct device *dev)
{
    assert_int_equal(device_in(dev, 1), 0xa5);
    device_out(dev, 0, 0x0b);
    assert_int_equal(device_in(dev, 1), 0x06);
}

static void check_i8042(struct device *dev)
{
    assert_int_equal(device_in(dev, 4) & 1, 1);
    assert_int_equal(device_in(dev, 0), 0xfa);
    device_out(dev, 4, 0x20);
    assert_int_equal(device_in(dev, 0), 0x47);
}

static void check_acpi_pm(struct device *dev)
{
    (void)dev;
}

static void check_vmgenid(struct device *dev)
{
    static const uint8_t none[16];

    (void)dev;
    assert_memory_not_equal(memory_at(ram, LAYOUT_VMGENID, 16), none, 16);
}

static const struct golden {
    const char *file;
    struct device *(*make)(void);
    void (*drive)(struct device *dev);
    void (*check)(struct device *dev);
} goldens[] = {
    {"device-serial-1.state", make_serial, drive_serial, check_serial},
    {"device-rtc-1.state", make_rtc, drive_rtc, check_rtc},
    {"device-i8042-1.state", make_i8042, drive_i8042, check_i8042},
    {"device-acpi-pm-1.state", make_acpi_pm, drive_acpi_pm, check_acpi_pm},
    {"device-vmgenid-1.state", make_vmgenid, drive_vmgenid, check_vmgenid},
};

static struct buffer read_golden(const char *file)
{
    _cleanup_free_ char *path = io_format("%s/%s", STASIS_GOLDEN, file);
    _cleanup_free_ char *bytes = NULL;
    struct buffer out = {0};
    size_t length;

    assert_int_equal(io_read_file(AT_FDCWD, path, 4096, &bytes, &length), 0);
    assert_int_equal(buffer_append(&out, bytes, length), 0);
    return out;
}

static void golden_states_restore_to_known_registers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(goldens) / sizeof(goldens[0]); i++) {
        const struct golden *golden = &goldens[i];
        _cleanup_(buffer_clear) struct buffer want = read_golden(golden->file);
        struct device *dev = golden->make();
        assert_int_equal(state_check(want.data, want.length, NULL), 0);
        assert_int_equal(device_restore(dev, &want, NULL), 0);
        _cleanup_(buffer_clear) struct buffer again = device_save(dev);
        assert_int_equal(again.length, want.length);
        assert_memory_equal(again.data, want.data, want.length);
        golden->check(dev);
        dev->ops->destroy(dev);
    }
}

static void the_same_guest_makes_the_same_bytes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(goldens) / sizeof(goldens[0]); i++) {
        struct device *dev = goldens[i].make();
        goldens[i].drive(dev);
        _cleanup_(buffer_clear) struct buffer got = device_save(dev);
        _cleanup_(buffer_clear) struct buffer want = read_golden(goldens[i].file);
        assert_int_equal(got.length, want.length);
        assert_memory_equal(got.data, want.data, want.length);
        dev->ops->destroy(dev);
    }
}

/* Those of virtio devices, and what belongs to them, are restored by their own tests. */
static bool is_restored(const char *file)
{
    static const char *const elsewhere[] = {
        "device-virtio-mmio-1.state",
        "device-virtio-net-1.state",
        "device-virtio-net-2.state",
        "device-net-connections-1.state",
        "device-virtio-balloon-1.state",
        "device-virtio-vsock-1.state",
    };

    for (size_t i = 0; i < ARRAY_LEN(goldens); i++)
        if (strcmp(file, goldens[i].file) == 0)
            return true;
    for (size_t i = 0; i < ARRAY_LEN(elsewhere); i++)
        if (strcmp(file, elsewhere[i]) == 0)
            return true;
    return false;
}

/* A new version adds a file and a line above, and takes none away. */
static void every_golden_state_of_every_version_is_restored(void **state)
{
    _cleanup_closedir_ DIR *dir = opendir(STASIS_GOLDEN);
    struct dirent *entry;
    unsigned found = 0;

    (void)state;
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        if (strncmp(entry->d_name, "device-", 7) != 0)
            continue;
        if (!is_restored(entry->d_name))
            fail_msg("no test restores %s", entry->d_name);
        found++;
    }
    assert_true(found >= 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_golden_state_of_every_version_is_restored),
        cmocka_unit_test(golden_states_restore_to_known_registers),
        cmocka_unit_test(the_same_guest_makes_the_same_bytes),
    };

    return cmocka_run_group_tests(tests, make_ram, free_ram);
}
