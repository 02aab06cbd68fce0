/* SPDX-License-Identifier: Apache-2.0 */
/* With STASIS_TEST_ACPI_DIR set, the tables are also left there, for iasl -d. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "vmm/boot/aml.h"
#include "vmm/boot/boot.h"
#include "vmm/devices/platform.h"
#include "vmm/layout.h"

#include <errno.h>
#include <fcntl.h>

#define HEADER 36

struct fixture {
    struct memory *mem;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_int_equal(memory_create(LAYOUT_MEMORY_MIN, &f->mem, NULL), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    memory_free(f->mem);
    free(f);
    return 0;
}

static void build(struct fixture *f, unsigned vcpus, uint16_t slots)
{
    assert_int_equal(acpi_build(f->mem, vcpus, slots, NULL), 0);
}

static uint8_t sum(const uint8_t *bytes, size_t length)
{
    uint8_t s = 0;

    for (size_t i = 0; i < length; i++)
        s = (uint8_t)(s + bytes[i]);
    return s;
}

/* A table with its header checked. */
static const uint8_t *table_at(struct fixture *f, uint64_t gpa, const char *signature)
{
    assert_in_range(gpa, LAYOUT_ACPI, LAYOUT_ACPI_END - HEADER);
    const uint8_t *table = memory_at(f->mem, gpa, HEADER);
    assert_memory_equal(table, signature, 4);
    uint32_t length = load_le32(table + 4);
    assert_in_range(length, HEADER, LAYOUT_ACPI_END - gpa);
    assert_int_equal(sum(table, length), 0);
    return table;
}

static const uint8_t *rsdp(struct fixture *f)
{
    return memory_at(f->mem, LAYOUT_ACPI, 36);
}

static const uint8_t *xsdt(struct fixture *f)
{
    return table_at(f, load_le64(rsdp(f) + 24), "XSDT");
}

/* The table of the XSDT with this signature. */
static const uint8_t *find(struct fixture *f, const char *signature)
{
    const uint8_t *x = xsdt(f);

    for (uint32_t at = HEADER; at < load_le32(x + 4); at += 8) {
        uint64_t gpa = load_le64(x + at);

        if (memcmp(memory_at(f->mem, gpa, 4), signature, 4) == 0)
            return table_at(f, gpa, signature);
    }
    fail_msg("no table %s", signature);
    return NULL;
}

static const uint8_t *dsdt(struct fixture *f)
{
    return table_at(f, load_le64(find(f, "FACP") + 140), "DSDT");
}

static bool contains(const uint8_t *table, const void *bytes, size_t length)
{
    return memmem(table, load_le32(table + 4), bytes, length) != NULL;
}

static void the_rsdp_leads_to_the_xsdt(void **state)
{
    struct fixture *f = *state;

    build(f, 1, 0);
    assert_memory_equal(rsdp(f), "RSD PTR ", 8);
    assert_int_equal(rsdp(f)[15], 2);
    assert_int_equal(load_le32(rsdp(f) + 20), 36);
    assert_int_equal(sum(rsdp(f), 20), 0);
    assert_int_equal(sum(rsdp(f), 36), 0);
    assert_int_equal(load_le32(xsdt(f) + 4), HEADER + 2 * 8);
}

static void every_table_has_its_checksum(void **state)
{
    struct fixture *f = *state;

    build(f, 254, 0xffff);
    find(f, "FACP");
    find(f, "APIC");
    dsdt(f);
}

static void there_is_no_pci(void **state)
{
    struct fixture *f = *state;

    build(f, 2, 0xffff);
    const uint8_t *x = xsdt(f);
    for (uint32_t at = HEADER; at < load_le32(x + 4); at += 8)
        assert_memory_not_equal(memory_at(f->mem, load_le64(x + at), 4), "MCFG", 4);
}

static void assert_port(const uint8_t *gas, uint64_t port)
{
    assert_int_equal(gas[0], 1);
    assert_int_equal(gas[1], 8);
    assert_int_equal(gas[3], 1);
    assert_int_equal(load_le64(gas + 4), port);
}

static void the_fadt_says_how_to_power_off_and_reset(void **state)
{
    struct fixture *f = *state;

    build(f, 1, 0);
    const uint8_t *fadt = find(f, "FACP");
    assert_int_equal(load_le32(fadt + 4), 276);
    assert_int_equal(fadt[8], 6);
    uint32_t flags = load_le32(fadt + 112);
    assert_true(flags & (1u << 20)); /* reduced hardware */
    assert_true(flags & (1u << 10)); /* reset register */
    assert_port(fadt + 116, LAYOUT_ACPI_PM + 2);
    assert_int_equal(fadt[128], ACPI_PM_RESET);
    assert_port(fadt + 244, LAYOUT_ACPI_PM);
    assert_port(fadt + 256, LAYOUT_ACPI_PM + 1);
}

static void the_fadt_says_what_is_there(void **state)
{
    struct fixture *f = *state;

    build(f, 1, 0);
    const uint8_t *fadt = find(f, "FACP");
    /* Legacy devices, 8042, no VGA, and a CMOS clock. */
    assert_int_equal(load_le16(fadt + 109), 0x0007);
    assert_int_equal(fadt[108], RTC_CENTURY);
}

static void the_dsdt_is_named_twice_alike(void **state)
{
    struct fixture *f = *state;

    build(f, 1, 0);
    const uint8_t *fadt = find(f, "FACP");
    assert_int_equal(load_le32(fadt + 40), load_le64(fadt + 140));
}

static void the_madt_lists_every_vcpu_once(void **state)
{
    struct fixture *f = *state;
    unsigned lapics = 0, ioapics = 0;

    build(f, 3, 0);
    const uint8_t *madt = find(f, "APIC");
    assert_int_equal(load_le32(madt + HEADER), LAYOUT_LAPIC);
    assert_int_equal(load_le32(madt + HEADER + 4), 1);
    for (uint32_t at = HEADER + 8; at < load_le32(madt + 4); at += madt[at + 1]) {
        assert_true(madt[at + 1] > 0);
        if (madt[at] == 0) {
            assert_int_equal(madt[at + 3], lapics);
            assert_int_equal(load_le32(madt + at + 4), 1);
            lapics++;
        } else if (madt[at] == 1) {
            assert_int_equal(load_le32(madt + at + 4), LAYOUT_IOAPIC);
            assert_int_equal(load_le32(madt + at + 8), 0);
            ioapics++;
        } else {
            /* KVM routes line n to pin n: an override would be wrong. */
            assert_int_not_equal(madt[at], 2);
        }
    }
    assert_int_equal(lapics, 3);
    assert_int_equal(ioapics, 1);
}

static void only_slots_with_a_device_are_described(void **state)
{
    struct fixture *f = *state;

    build(f, 1, 0x8002);
    const uint8_t *d = dsdt(f);
    assert_false(contains(d, "VIO0", 4));
    assert_true(contains(d, "VIO1", 4));
    assert_true(contains(d, "VIOF", 4));
    assert_true(contains(d, "LNRO0005", 9));
}

static void a_slot_is_described_with_its_window_and_interrupt(void **state)
{
    struct fixture *f = *state;
    uint8_t resources[21] = {0x86, 9, 0, 1, [12] = 0x89, 6, 0, 3, 1};

    for (unsigned slot = 0; slot < LAYOUT_VIRTIO_SLOTS; slot++) {
        build(f, 1, (uint16_t)(1u << slot));
        store_le32(resources + 4, (uint32_t)layout_virtio_gpa(slot));
        store_le32(resources + 8, LAYOUT_VIRTIO_STRIDE);
        store_le32(resources + 17, layout_virtio_gsi(slot));
        assert_true(contains(dsdt(f), resources, sizeof(resources)));
    }
}

static void the_platforms_devices_are_described(void **state)
{
    /* EISA ids as they are in AML: PNP0501, PNP0B00, PNP0303. */
    static const uint8_t ids[][5] = {{0x0c, 0x41, 0xd0, 0x05, 0x01},
                                     {0x0c, 0x41, 0xd0, 0x0b, 0x00},
                                     {0x0c, 0x41, 0xd0, 0x03, 0x03}};
    static const uint8_t com1[] = {0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8, 0x22, 0x10, 0};
    static const uint8_t rtc[] = {0x47, 1, 0x70, 0, 0x70, 0, 1, 2, 0x79, 0};
    static const uint8_t keyboard[] = {0x47, 1, 0x60, 0, 0x60, 0, 1,    1, 0x47, 1,
                                       0x64, 0, 0x64, 0, 1,    1, 0x22, 2, 0};
    struct fixture *f = *state;

    build(f, 1, 0);
    for (size_t i = 0; i < ARRAY_LEN(ids); i++)
        assert_true(contains(dsdt(f), ids[i], sizeof(ids[i])));
    assert_true(contains(dsdt(f), com1, sizeof(com1)));
    assert_true(contains(dsdt(f), rtc, sizeof(rtc)));
    assert_true(contains(dsdt(f), keyboard, sizeof(keyboard)));
}

static void the_generation_id_is_described(void **state)
{
    static const uint8_t address[] = {0x08, 'A',  'D', 'D',  'R',  0x12, 8,
                                      2,    0x0c, 0,   0xf0, 0x0e, 0,    0};
    struct fixture *f = *state;

    build(f, 1, 0);
    assert_true(contains(dsdt(f), "VM_Gen_Counter", 15));
    assert_true(contains(dsdt(f), "VMGENCTR", 9));
    assert_true(contains(dsdt(f), address, sizeof(address)));
    assert_int_equal(LAYOUT_VMGENID, 0xef000);
}

/* Its page is none that the tables are in, and memory no guest takes for its own. */
static void the_generation_id_has_a_page_to_itself(void **state)
{
    (void)state;
    assert_int_equal(LAYOUT_VMGENID % 4096, 0);
    assert_in_range(LAYOUT_VMGENID, LAYOUT_ACPI_END, LAYOUT_BIOS_RESET - 4096);
    assert_true(LAYOUT_VMGENID > LAYOUT_EBDA);
}

static void an_event_interrupt_notifies_of_a_new_generation(void **state)
{
    static const uint8_t interrupt[] = {0x89, 6, 0, 3, 1, LAYOUT_EVENT_IRQ, 0, 0, 0};
    static const uint8_t method[] = {0x14, 13,  '_', 'E', 'V', 'T',  1,
                                     0x86, 'V', 'G', 'E', 'N', 0x0a, 0x80};
    struct fixture *f = *state;

    build(f, 1, 0);
    assert_true(contains(dsdt(f), "ACPI0013", 9));
    assert_true(contains(dsdt(f), interrupt, sizeof(interrupt)));
    assert_true(contains(dsdt(f), method, sizeof(method)));
}

static void power_off_is_sleep_type_5(void **state)
{
    static const uint8_t s5[] = {0x08, '_', 'S', '5', '_', 0x12, 7, 4, 0x0a, 5, 0, 0, 0};
    struct fixture *f = *state;

    build(f, 1, 0);
    assert_true(contains(dsdt(f), s5, sizeof(s5)));
}

static void the_same_machine_gets_the_same_tables(void **state)
{
    struct fixture *f = *state;
    size_t size = LAYOUT_ACPI_END - LAYOUT_ACPI;

    build(f, 4, 0x00ff);
    _cleanup_free_ uint8_t *first = malloc(size);
    assert_int_equal(memory_read(f->mem, LAYOUT_ACPI, first, size), 0);
    build(f, 4, 0x00ff);
    assert_memory_equal(first, memory_at(f->mem, LAYOUT_ACPI, size), size);
}

static void refuses_numbers_of_vcpus_that_do_not_fit(void **state)
{
    struct fixture *f = *state;
    struct error err = ERROR_INIT;

    assert_int_equal(acpi_build(f->mem, 0, 0, &err), -EINVAL);
    assert_int_equal(acpi_build(f->mem, 255, 0, &err), -EINVAL);
    assert_int_equal(err.status, STATUS_USAGE);
    assert_int_equal(acpi_build(f->mem, 254, 0, &err), 0);
}

static void leaves_tables_for_inspection(void **state)
{
    const char *dir = getenv("STASIS_TEST_ACPI_DIR");
    struct fixture *f = *state;

    if (dir == NULL)
        skip();
    build(f, 4, 0xffff);
    const uint8_t *tables[] = {find(f, "FACP"), find(f, "APIC"), dsdt(f), xsdt(f)};
    for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
        _cleanup_free_ char *path = io_format("%s/%.4s.dat", dir, tables[i]);

        assert_int_equal(io_write_file(AT_FDCWD, path, tables[i], load_le32(tables[i] + 4), 0644),
                         0);
    }
}

/* ---- the AML builder ---- */

static void assert_aml(struct aml *aml, const uint8_t *bytes, size_t length)
{
    assert_int_equal(aml->error, 0);
    assert_int_equal(aml->out.length, length);
    assert_memory_equal(aml->out.data, bytes, length);
    buffer_clear(&aml->out);
}

#define ASSERT_AML(aml, ...)                                                                       \
    assert_aml(aml, (const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

static void integers_take_as_few_bytes_as_hold_them(void **state)
{
    struct aml aml = {0};

    (void)state;
    aml_integer(&aml, 0);
    aml_integer(&aml, 1);
    aml_integer(&aml, 2);
    aml_integer(&aml, 0xff);
    aml_integer(&aml, 0x100);
    aml_integer(&aml, 0x12345678);
    aml_integer(&aml, 0x123456789);
    ASSERT_AML(&aml, 0x00, 0x01, 0x0a, 2, 0x0a, 0xff, 0x0b, 0, 1, 0x0c, 0x78, 0x56, 0x34, 0x12,
               0x0e, 0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0);
}

static void names_are_padded(void **state)
{
    struct aml aml = {0};

    (void)state;
    aml_name(&aml, "AB");
    size_t mark = aml_open_scope(&aml, "\\_SB");
    aml_close(&aml, mark);
    ASSERT_AML(&aml, 0x08, 'A', 'B', '_', '_', 0x10, 6, '\\', '_', 'S', 'B', '_');
}

/* A package of so many bytes. */
static size_t package_prefix(size_t content, uint8_t prefix[5])
{
    struct aml aml = {0};

    size_t mark = aml_open_package(&aml, 1);
    for (size_t i = 1; i < content; i++)
        aml_integer(&aml, 0);
    aml_close(&aml, mark);
    assert_int_equal(aml.error, 0);
    size_t extra = aml.out.length - content;
    memcpy(prefix, aml.out.data, 5);
    buffer_clear(&aml.out);
    return extra;
}

static void package_lengths_grow_with_what_they_hold(void **state)
{
    uint8_t p[5];

    (void)state;
    assert_int_equal(package_prefix(62, p), 2);
    assert_int_equal(p[1], 63);
    assert_int_equal(package_prefix(63, p), 3); /* 65 in all */
    assert_true(p[1] == 0x41 && p[2] == 0x04);
    assert_int_equal(package_prefix(4093, p), 3); /* 4095 */
    assert_true(p[1] == 0x4f && p[2] == 0xff);
    assert_int_equal(package_prefix(4094, p), 4); /* 4097 */
    assert_true(p[1] == 0x81 && p[2] == 0x00 && p[3] == 0x01);
}

static void packages_nest(void **state)
{
    struct aml aml = {0};

    (void)state;
    size_t outer = aml_open_package(&aml, 1);
    size_t inner = aml_open_package(&aml, 1);
    aml_string(&aml, "x");
    aml_close(&aml, inner);
    aml_close(&aml, outer);
    ASSERT_AML(&aml, 0x12, 8, 1, 0x12, 5, 1, 0x0d, 'x', 0);
}

static void resources_are_a_buffer_with_an_end(void **state)
{
    struct aml aml = {0};

    (void)state;
    size_t mark = aml_open_resources(&aml);
    aml_irq(&aml, 9);
    aml_close_resources(&aml, mark);
    ASSERT_AML(&aml, 0x11, 8, 0x0a, 5, 0x22, 0, 2, 0x79, 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_rsdp_leads_to_the_xsdt),
        TEST(every_table_has_its_checksum),
        TEST(there_is_no_pci),
        TEST(the_fadt_says_how_to_power_off_and_reset),
        TEST(the_fadt_says_what_is_there),
        TEST(the_dsdt_is_named_twice_alike),
        TEST(the_madt_lists_every_vcpu_once),
        TEST(only_slots_with_a_device_are_described),
        TEST(a_slot_is_described_with_its_window_and_interrupt),
        TEST(the_platforms_devices_are_described),
        TEST(the_generation_id_is_described),
        TEST(the_generation_id_has_a_page_to_itself),
        TEST(an_event_interrupt_notifies_of_a_new_generation),
        TEST(power_off_is_sleep_type_5),
        TEST(the_same_machine_gets_the_same_tables),
        TEST(refuses_numbers_of_vcpus_that_do_not_fit),
        TEST(leaves_tables_for_inspection),
        cmocka_unit_test(integers_take_as_few_bytes_as_hold_them),
        cmocka_unit_test(names_are_padded),
        cmocka_unit_test(package_lengths_grow_with_what_they_hold),
        cmocka_unit_test(packages_nest),
        cmocka_unit_test(resources_are_a_buffer_with_an_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
