/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cold.h"

#include "base/bytes.h"
#include "test.h"

#include <elf.h>
#include <string.h>

struct head {
    uint8_t bytes[1024];
};

static struct head bzimage(void)
{
    struct head head = {0};

    store_le16(head.bytes + 0x1fe, 0xaa55);
    memcpy(head.bytes + 0x202, "HdrS", 4);
    return head;
}

static struct head elf(uint16_t type, uint16_t machine)
{
    struct head head = {0};

    memcpy(head.bytes, ELFMAG, SELFMAG);
    head.bytes[EI_CLASS] = ELFCLASS64;
    head.bytes[EI_DATA] = ELFDATA2LSB;
    store_le16(head.bytes + 16, type);
    store_le16(head.bytes + 18, machine);
    return head;
}

static int check(const struct head *head, size_t length, struct error *err)
{
    *err = ERROR_INIT;
    return cold_check_kernel(head->bytes, length, "some-file", err);
}

static void bzimages_and_x86_elf_files_are_kernels(void **state)
{
    struct error err;
    const struct head linux_kernel = bzimage();
    const struct head vmlinux = elf(ET_EXEC, EM_X86_64);
    const struct head pvh = elf(ET_EXEC, EM_386);

    (void)state;
    assert_int_equal(check(&linux_kernel, 1024, &err), 0);
    assert_int_equal(check(&vmlinux, 1024, &err), 0);
    assert_int_equal(check(&pvh, 1024, &err), 0);
}

static void assert_refused(const struct head *head, size_t length, const char *why)
{
    struct error err;

    assert_true(check(head, length, &err) < 0);
    assert_int_equal(err.status, STATUS_USAGE);
    assert_non_null(strstr(err.message, "some-file"));
    assert_non_null(strstr(err.message, why));
    assert_true(err.hint[0] != '\0');
}

static void other_files_are_told_apart(void **state)
{
    const struct head zeros = {0};
    const struct head arm = elf(ET_EXEC, EM_AARCH64);
    const struct head object = elf(ET_REL, EM_X86_64);
    const struct head gzip = {{0x1f, 0x8b}};

    (void)state;
    assert_refused(&zeros, 1024, "neither");
    assert_refused(&arm, 1024, "another processor");
    assert_refused(&object, 1024, "not an executable");
    assert_refused(&gzip, 1024, "gzip");
}

static void short_files_are_no_kernels(void **state)
{
    const struct head linux_kernel = bzimage();
    const struct head vmlinux = elf(ET_EXEC, EM_X86_64);

    (void)state;
    assert_refused(&linux_kernel, 0x210, "neither");
    assert_refused(&linux_kernel, 0, "neither");
    assert_refused(&vmlinux, 10, "cut off");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bzimages_and_x86_elf_files_are_kernels),
        cmocka_unit_test(other_files_are_told_apart),
        cmocka_unit_test(short_files_are_no_kernels),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
