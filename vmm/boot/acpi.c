/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI 6.4, hardware-reduced: no fixed hardware to emulate, power-off and reset
 * by three byte-wide ports. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "vmm/boot/aml.h"
#include "vmm/boot/boot.h"
#include "vmm/devices/platform.h"
#include "vmm/layout.h"

#include <errno.h>

#define ACPI_HEADER_SIZE 36u
#define ACPI_VCPUS_MAX 254 /* 8-bit local APIC ids, 255 is for all */

/* A system description table header, 5.2.6. */
struct acpi_header {
    char signature[4];
    uint32_t length;
    uint8_t revision;
    uint8_t checksum;
    char oem_id[6];
    char oem_table_id[8];
    uint32_t oem_revision;
    char creator_id[4];
    uint32_t creator_revision;
} __attribute__((packed));

struct acpi_rsdp {
    char signature[8];
    uint8_t checksum; /* of the first 20 bytes */
    char oem_id[6];
    uint8_t revision;
    uint32_t rsdt_gpa;
    uint32_t length;
    uint64_t xsdt_gpa;
    uint8_t extended_checksum;
    uint8_t reserved[3];
} __attribute__((packed));

/* Generic address structure, 5.2.3.2. */
struct acpi_gas {
    uint8_t space; /* 1: I/O */
    uint8_t bit_width;
    uint8_t bit_offset;
    uint8_t access; /* 1: byte */
    uint64_t address;
} __attribute__((packed));

/* Fixed description table, 5.2.9; unnamed parts are zero in reduced hardware. */
struct acpi_fadt {
    struct acpi_header header;
    uint32_t facs_gpa;
    uint32_t dsdt_gpa;
    uint8_t unused1[64];
    uint8_t century; /* index into CMOS memory */
    uint16_t iapc_boot_arch;
    uint8_t reserved;
    uint32_t flags;
    struct acpi_gas reset_reg;
    uint8_t reset_value;
    uint16_t arm_boot_arch;
    uint8_t minor_version;
    uint64_t x_facs_gpa;
    uint64_t x_dsdt_gpa;
    uint8_t unused2[96];
    struct acpi_gas sleep_control_reg;
    struct acpi_gas sleep_status_reg;
    char hypervisor_id[8];
} __attribute__((packed));

_Static_assert(sizeof(struct acpi_header) == ACPI_HEADER_SIZE, "5.2.6");
_Static_assert(sizeof(struct acpi_rsdp) == 36, "5.2.5.3");
_Static_assert(offsetof(struct acpi_fadt, iapc_boot_arch) == 109, "5.2.9");
_Static_assert(offsetof(struct acpi_fadt, reset_reg) == 116, "5.2.9");
_Static_assert(offsetof(struct acpi_fadt, sleep_control_reg) == 244, "5.2.9");
_Static_assert(sizeof(struct acpi_fadt) == 276, "5.2.9");

enum {
    FADT_WBINVD = 1u << 0,
    FADT_NO_FIXED_POWER_BUTTON = 1u << 4,
    FADT_NO_FIXED_SLEEP_BUTTON = 1u << 5,
    FADT_RESET_REG = 1u << 10,
    FADT_HW_REDUCED = 1u << 20,

    IAPC_LEGACY_DEVICES = 1u << 0,
    IAPC_8042 = 1u << 1,
    IAPC_NO_VGA = 1u << 2,

    MADT_PCAT_COMPAT = 1u << 0,
    MADT_LAPIC = 0,
    MADT_IOAPIC = 1,
    MADT_LAPIC_NMI = 4,
    MADT_LAPIC_ENABLED = 1u << 0,
};

/* Where the next table goes. */
struct acpi_writer {
    struct memory *mem;
    uint64_t next_gpa;
};

static uint8_t acpi_checksum(const void *bytes, size_t length)
{
    const uint8_t *p = bytes;
    uint8_t sum = 0;

    for (size_t i = 0; i < length; i++)
        sum = (uint8_t)(sum + p[i]);
    return (uint8_t)-sum;
}

static struct acpi_header acpi_header(const char *signature, uint8_t revision)
{
    struct acpi_header header = {
        .revision = revision,
        .oem_id = {'S', 'T', 'A', 'S', 'I', 'S'},
        .oem_table_id = {'S', 'T', 'A', 'S', 'I', 'S', 'V', 'M'},
        .oem_revision = 1,
        .creator_id = {'S', 'T', 'A', 'S'},
        .creator_revision = 1,
    };

    memcpy(header.signature, signature, sizeof(header.signature));
    return header;
}

/* Completes a table that begins with a header, and puts it into RAM. */
static int acpi_write_table(struct acpi_writer *w, void *table, size_t length, uint64_t *gpa_out)
{
    struct acpi_header header;
    uint64_t gpa = align_up(w->next_gpa, 16);

    if (length > LAYOUT_ACPI_END - gpa)
        return -ENOSPC;
    memcpy(&header, table, sizeof(header));
    header.length = (uint32_t)length;
    header.checksum = 0;
    memcpy(table, &header, sizeof(header));
    header.checksum = acpi_checksum(table, length);
    memcpy(table, &header, sizeof(header));
    int r = memory_write(w->mem, gpa, table, length);
    if (r < 0)
        return r;
    w->next_gpa = gpa + length;
    *gpa_out = gpa;
    return 0;
}

static struct acpi_gas acpi_port(uint16_t port)
{
    return (struct acpi_gas){.space = 1, .bit_width = 8, .access = 1, .address = port};
}

/* irq 0: none. */
static void dsdt_isa_device(struct aml *aml, const char *name, const char *id,
                            const uint16_t (*ports)[2], unsigned port_count, uint8_t irq)
{
    size_t device = aml_open_device(aml, name);

    aml_name(aml, "_HID");
    aml_eisaid(aml, id);
    aml_name(aml, "_CRS");
    size_t resources = aml_open_resources(aml);
    for (unsigned i = 0; i < port_count; i++)
        aml_io(aml, ports[i][0], (uint8_t)ports[i][1]);
    if (irq != 0)
        aml_irq(aml, irq);
    aml_close_resources(aml, resources);
    aml_close(aml, device);
}

static void dsdt_virtio_device(struct aml *aml, unsigned slot)
{
    static const char digits[] = "0123456789ABCDEF";
    const char name[] = {'V', 'I', 'O', digits[slot % 16], '\0'};

    size_t device = aml_open_device(aml, name);
    aml_name(aml, "_HID");
    aml_string(aml, "LNRO0005");
    aml_name(aml, "_UID");
    aml_integer(aml, slot);
    aml_name(aml, "_CCA");
    aml_integer(aml, 1);
    aml_name(aml, "_CRS");
    size_t resources = aml_open_resources(aml);
    aml_memory32(aml, (uint32_t)layout_virtio_gpa(slot), LAYOUT_VIRTIO_STRIDE);
    aml_interrupt(aml, layout_virtio_gsi(slot));
    aml_close_resources(aml, resources);
    aml_close(aml, device);
}

/* The two names are the specification's and what Windows Server 2016 and later look
 * for as well, a name of the length that ACPI allows. */
static void dsdt_vmgenid(struct aml *aml)
{
    size_t device = aml_open_device(aml, "VGEN");

    aml_name(aml, "_HID");
    aml_string(aml, "STAS0001");
    aml_name(aml, "_CID");
    size_t ids = aml_open_package(aml, 2);
    aml_string(aml, "VM_Gen_Counter");
    aml_string(aml, "VMGENCTR");
    aml_close(aml, ids);
    aml_name(aml, "_DDN");
    aml_string(aml, "VM_Gen_Counter");
    aml_name(aml, "ADDR");
    size_t address = aml_open_package(aml, 2);
    aml_integer(aml, LAYOUT_VMGENID & UINT32_MAX);
    aml_integer(aml, LAYOUT_VMGENID >> 32);
    aml_close(aml, address);
    aml_close(aml, device);
}

/* Generic event device, 5.6.9: without fixed hardware, this is how the machine tells
 * its guest something. */
static void dsdt_event_device(struct aml *aml)
{
    enum { GENERATION_CHANGED = 0x80 };
    size_t device = aml_open_device(aml, "GED");

    aml_name(aml, "_HID");
    aml_string(aml, "ACPI0013");
    aml_name(aml, "_CRS");
    size_t resources = aml_open_resources(aml);
    aml_interrupt(aml, LAYOUT_EVENT_IRQ);
    aml_close_resources(aml, resources);
    size_t method = aml_open_method(aml, "_EVT", 1);
    aml_notify(aml, "VGEN", GENERATION_CHANGED);
    aml_close(aml, method);
    aml_close(aml, device);
}

/* \_S5: what to write into SLP_TYP of the sleep control register to power off. */
static void dsdt_power_off(struct aml *aml)
{
    aml_name(aml, "_S5");
    size_t package = aml_open_package(aml, 4);
    aml_integer(aml, ACPI_PM_S5);
    for (int i = 0; i < 3; i++)
        aml_integer(aml, 0);
    aml_close(aml, package);
}

static int acpi_write_dsdt(struct acpi_writer *w, uint16_t virtio_slots, uint64_t *gpa_out)
{
    static const uint16_t com1[][2] = {{LAYOUT_COM1, 8}};
    static const uint16_t rtc[][2] = {{LAYOUT_RTC, 2}};
    static const uint16_t i8042[][2] = {{LAYOUT_I8042_DATA, 1}, {LAYOUT_I8042_STATUS, 1}};
    struct acpi_header header = acpi_header("DSDT", 2);
    struct aml aml = {0};

    int r = buffer_append(&aml.out, &header, sizeof(header));
    if (r < 0)
        return r;
    dsdt_power_off(&aml);
    size_t scope = aml_open_scope(&aml, "\\_SB");
    dsdt_isa_device(&aml, "COM1", "PNP0501", com1, ARRAY_LEN(com1), LAYOUT_COM1_IRQ);
    /* No interrupt: alarms never come, and guests that know do not wait for them. */
    dsdt_isa_device(&aml, "RTC", "PNP0B00", rtc, ARRAY_LEN(rtc), 0);
    dsdt_isa_device(&aml, "KBD", "PNP0303", i8042, ARRAY_LEN(i8042), LAYOUT_I8042_IRQ);
    dsdt_vmgenid(&aml);
    dsdt_event_device(&aml);
    for (unsigned slot = 0; slot < LAYOUT_VIRTIO_SLOTS; slot++) {
        if (virtio_slots & (1u << slot))
            dsdt_virtio_device(&aml, slot);
    }
    aml_close(&aml, scope);
    r = aml.error != 0 ? aml.error : acpi_write_table(w, aml.out.data, aml.out.length, gpa_out);
    buffer_clear(&aml.out);
    return r;
}

static int acpi_write_fadt(struct acpi_writer *w, uint64_t dsdt_gpa, uint64_t *gpa_out)
{
    struct acpi_fadt fadt = {
        .header = acpi_header("FACP", 6),
        .dsdt_gpa = (uint32_t)dsdt_gpa,
        .century = RTC_CENTURY,
        .iapc_boot_arch = IAPC_LEGACY_DEVICES | IAPC_8042 | IAPC_NO_VGA,
        .flags = FADT_WBINVD | FADT_NO_FIXED_POWER_BUTTON | FADT_NO_FIXED_SLEEP_BUTTON |
                 FADT_RESET_REG | FADT_HW_REDUCED,
        .reset_reg = acpi_port(LAYOUT_ACPI_PM + 2),
        .reset_value = ACPI_PM_RESET,
        .minor_version = 4,
        .x_dsdt_gpa = dsdt_gpa,
        .sleep_control_reg = acpi_port(LAYOUT_ACPI_PM),
        .sleep_status_reg = acpi_port(LAYOUT_ACPI_PM + 1),
        .hypervisor_id = {'S', 'T', 'A', 'S', 'I', 'S'},
    };

    return acpi_write_table(w, &fadt, sizeof(fadt), gpa_out);
}

/* 5.2.12. No interrupt source overrides: KVM's default routing connects line n to
 * pin n of the I/O APIC, the timer included. */
static int acpi_write_madt(struct acpi_writer *w, unsigned vcpus, uint64_t *gpa_out)
{
    struct acpi_header header = acpi_header("APIC", 5);
    _cleanup_(buffer_clear) struct buffer table = {0};
    uint8_t ioapic[12] = {MADT_IOAPIC, sizeof(ioapic), 0 /* its id in KVM */};
    const uint8_t nmi[] = {MADT_LAPIC_NMI, 6, 0xff /* all */, 0, 0, 1 /* LINT1 */};

    int r = buffer_append(&table, &header, sizeof(header));
    if (r == 0)
        r = buffer_append_le32(&table, LAYOUT_LAPIC);
    if (r == 0)
        r = buffer_append_le32(&table, MADT_PCAT_COMPAT);
    for (unsigned i = 0; r == 0 && i < vcpus; i++) {
        const uint8_t lapic[] = {MADT_LAPIC,         8, (uint8_t)i, (uint8_t)i,
                                 MADT_LAPIC_ENABLED, 0, 0,          0};

        r = buffer_append(&table, lapic, sizeof(lapic));
    }
    store_le32(ioapic + 4, (uint32_t)LAYOUT_IOAPIC);
    if (r == 0)
        r = buffer_append(&table, ioapic, sizeof(ioapic));
    if (r == 0)
        r = buffer_append(&table, nmi, sizeof(nmi));
    return r < 0 ? r : acpi_write_table(w, table.data, table.length, gpa_out);
}

static int acpi_write_xsdt(struct acpi_writer *w, uint64_t fadt_gpa, uint64_t madt_gpa,
                           uint64_t *gpa_out)
{
    struct {
        struct acpi_header header;
        uint64_t tables[2];
    } __attribute__((packed)) xsdt = {
        .header = acpi_header("XSDT", 1),
        .tables = {fadt_gpa, madt_gpa},
    };

    return acpi_write_table(w, &xsdt, sizeof(xsdt), gpa_out);
}

static int acpi_write_rsdp(struct memory *mem, uint64_t xsdt_gpa)
{
    struct acpi_rsdp rsdp = {
        .signature = {'R', 'S', 'D', ' ', 'P', 'T', 'R', ' '},
        .oem_id = {'S', 'T', 'A', 'S', 'I', 'S'},
        .revision = 2,
        .length = sizeof(rsdp),
        .xsdt_gpa = xsdt_gpa,
    };

    rsdp.checksum = acpi_checksum(&rsdp, 20);
    rsdp.extended_checksum = acpi_checksum(&rsdp, sizeof(rsdp));
    return memory_write(mem, LAYOUT_ACPI, &rsdp, sizeof(rsdp));
}

static int acpi_write_all(struct memory *mem, unsigned vcpus, uint16_t virtio_slots)
{
    struct acpi_writer w = {.mem = mem, .next_gpa = LAYOUT_ACPI + sizeof(struct acpi_rsdp)};
    uint64_t dsdt_gpa, fadt_gpa, madt_gpa, xsdt_gpa;

    int r = acpi_write_dsdt(&w, virtio_slots, &dsdt_gpa);
    if (r < 0)
        return r;
    r = acpi_write_fadt(&w, dsdt_gpa, &fadt_gpa);
    if (r < 0)
        return r;
    r = acpi_write_madt(&w, vcpus, &madt_gpa);
    if (r < 0)
        return r;
    r = acpi_write_xsdt(&w, fadt_gpa, madt_gpa, &xsdt_gpa);
    if (r < 0)
        return r;
    return acpi_write_rsdp(mem, xsdt_gpa);
}

int acpi_build(struct memory *mem, unsigned vcpus, uint16_t virtio_slots, struct error *err)
{
    if (vcpus == 0 || vcpus > ACPI_VCPUS_MAX) {
        error_set(err, STATUS_USAGE, EINVAL, "a machine cannot have %u vCPUs", vcpus);
        error_hint(err, "give 1 to %d", ACPI_VCPUS_MAX);
        return -EINVAL;
    }
    int r = acpi_write_all(mem, vcpus, virtio_slots);
    return r < 0 ? error_errno(err, -r, "writing the ACPI tables") : 0;
}
