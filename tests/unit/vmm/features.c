/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "vmm/kvm/features.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRIES = 24 };

/* A host of x86-64-v3 and more. */
static const struct kvm_cpuid_entry2 host_entries[] = {
    {.function = 0, .eax = 0x1f, .ebx = 0x756e6547},
    {.function = 1, .eax = 0x806f8, .ebx = 0x800, .ecx = 0xfefa3203, .edx = 0x178bfbff},
    {.function = 4, .flags = 1, .index = 0, .eax = 0x121},
    {.function = 5, .eax = 64},
    {.function = 6, .eax = 0x77},
    {.function = 7,
     .flags = 1,
     .index = 0,
     .eax = 1,
     .ebx = 0xd09f47ab,
     .ecx = 0x1c00,
     .edx = 0xbc000410},
    {.function = 7, .flags = 1, .index = 1, .eax = 0x4000030},
    {.function = 0xa, .eax = 0x7300802},
    {.function = 0xb, .flags = 1, .index = 0, .ebx = 1},
    {.function = 0xd, .flags = 1, .index = 0, .eax = 0x2e7, .ebx = 0xa88, .ecx = 0xa88},
    {.function = 0xd, .flags = 1, .index = 1, .eax = 0xf},
    {.function = 0xd, .flags = 1, .index = 2, .eax = 256, .ebx = 576},
    {.function = 0xd, .flags = 1, .index = 5, .eax = 64, .ebx = 1088},
    {.function = 0x40000001, .eax = 0x1007efb},
    {.function = 0x80000000, .eax = 0x80000021},
    {.function = 0x80000001, .ecx = 0x121, .edx = 0x2c100800},
    {.function = 0x80000007, .edx = 0x100},
    {.function = 0x80000008, .eax = 0x302e, .ebx = 0x1005000},
    {.function = 0x80000021, .eax = 0x104},
};

static struct kvm_cpuid2 *host(void)
{
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + ENTRIES * sizeof(cpuid->entries[0]));

    assert_non_null(cpuid);
    cpuid->nent = ARRAY_LEN(host_entries);
    memcpy(cpuid->entries, host_entries, sizeof(host_entries));
    return cpuid;
}

static int set_up(void **state)
{
    *state = host();
    return 0;
}

static int tear_down(void **state)
{
    free(*state);
    return 0;
}

static struct kvm_cpuid_entry2 *leaf(struct kvm_cpuid2 *cpuid, uint32_t function, uint32_t index)
{
    for (uint32_t i = 0; i < cpuid->nent; i++)
        if (cpuid->entries[i].function == function && cpuid->entries[i].index == index)
            return &cpuid->entries[i];
    fail_msg("no leaf %x.%x", function, index);
    return NULL;
}

static bool lists(const struct kvm_cpuid2 *cpuid, const char *name)
{
    char text[MANIFEST_CPU_FEATURES_MAX + 1];
    size_t length = strlen(name);

    assert_int_equal(features_list(cpuid, text, sizeof(text)), 0);
    for (const char *at = text; (at = strstr(at, name)) != NULL; at += length)
        if ((at == text || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0'))
            return true;
    return false;
}

static void features_have_the_names_of_proc_cpuinfo(void **state)
{
    static const char *const names[] = {"fpu",     "sse2", "pni",     "avx",   "avx2",   "avx512f",
                                        "syscall", "lm",   "lahf_lm", "abm",   "xsavec", "avx_vnni",
                                        "ibpb",    "ssbd", "fsrm",    "rdrand"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        assert_true(lists(*state, names[i]));
    assert_false(lists(*state, "sse4a"));
}

static void features_without_a_name_have_their_place_for_one(void **state)
{
    assert_true(lists(*state, "cpuid-7.1-eax-26"));
    assert_true(lists(*state, "cpuid-80000021.0-eax-2"));
    assert_int_equal(features_check(*state, "cpuid-7.1-eax-26", NULL), 0);
}

/* What KVM makes itself, topology, and what changes while the guest runs. */
static void what_the_cpu_does_not_bring_is_no_feature(void **state)
{
    struct kvm_cpuid2 *cpuid = *state;
    char before[MANIFEST_CPU_FEATURES_MAX + 1], after[MANIFEST_CPU_FEATURES_MAX + 1];

    assert_int_equal(features_list(cpuid, before, sizeof(before)), 0);
    leaf(cpuid, 1, 0)->ecx ^= 1u << 3 | 1u << 21 | 1u << 24 | 1u << 27 | 1u << 31;
    leaf(cpuid, 1, 0)->edx ^= 1u << 9 | 1u << 28;
    leaf(cpuid, 7, 0)->ecx ^= 1u << 4;
    leaf(cpuid, 7, 0)->ebx ^= 1u << 1;
    leaf(cpuid, 0x80000001, 0)->ecx ^= 1u << 1 | 1u << 22;
    assert_int_equal(features_list(cpuid, after, sizeof(after)), 0);
    assert_string_equal(before, after);
}

static void a_list_that_does_not_fit_is_an_error(void **state)
{
    char text[20];

    assert_int_equal(features_list(*state, text, sizeof(text)), -ENOSPC);
}

static void a_host_has_what_it_lists(void **state)
{
    char text[MANIFEST_CPU_FEATURES_MAX + 1];

    assert_int_equal(features_list(*state, text, sizeof(text)), 0);
    assert_int_equal(features_check(*state, text, NULL), 0);
    assert_int_equal(features_check(*state, "", NULL), 0);
}

static void what_a_host_lacks_is_named(void **state)
{
    struct error err = ERROR_INIT;

    assert_int_equal(features_check(*state, "sse2 sse4a avx tbm nosuchfeature", &err), -ENOTSUP);
    assert_int_equal(err.status, STATUS_HOST_CANNOT);
    assert_non_null(strstr(err.message, "sse4a tbm nosuchfeature"));
    assert_null(strstr(err.message, "avx"));
    assert_true(err.hint[0] != '\0');
}

static void a_long_list_of_what_is_lacking_is_cut(void **state)
{
    char names[MANIFEST_CPU_FEATURES_MAX + 1] = "";
    struct error err = ERROR_INIT;

    for (size_t i = 0; i + 11 < sizeof(names); i += 10)
        memcpy(names + i, "unheardof ", 11);
    assert_int_equal(features_check(*state, names, &err), -ENOTSUP);
}

static void v2_is_v2_and_no_more(void **state)
{
    static const char *const has[] = {"cx16",   "lahf_lm", "popcnt", "pni", "sse4_1",
                                      "sse4_2", "ssse3",   "sse2",   "lm",  "nx"};
    static const char *const lacks[] = {"avx",  "avx2",     "xsave",     "bmi1",   "abm",
                                        "aes",  "rdrand",   "pclmulqdq", "rdtscp", "pdpe1gb",
                                        "smep", "xsaveopt", "spec_ctrl", "ibpb",   "fsrm"};
    struct kvm_cpuid2 *cpuid = *state;

    features_mask(cpuid, CPU_BASELINE_V2);
    for (size_t i = 0; i < ARRAY_LEN(has); i++)
        assert_true(lists(cpuid, has[i]));
    for (size_t i = 0; i < ARRAY_LEN(lacks); i++)
        assert_false(lists(cpuid, lacks[i]));
    assert_int_equal(leaf(cpuid, 0xd, 0)->eax, 0);
    assert_int_equal(leaf(cpuid, 0xd, 0)->ebx, 0);
}

static void v3_is_v3_and_no_more(void **state)
{
    static const char *const has[] = {"cx16", "avx", "avx2",  "bmi1", "bmi2",
                                      "f16c", "fma", "movbe", "abm",  "xsave"};
    static const char *const lacks[] = {"avx512f", "aes", "rdrand", "xsaveopt", "avx_vnni", "smap"};
    struct kvm_cpuid2 *cpuid = *state;

    assert_int_equal(features_reach(cpuid, CPU_BASELINE_V3, NULL), 0);
    features_mask(cpuid, CPU_BASELINE_V3);
    for (size_t i = 0; i < ARRAY_LEN(has); i++)
        assert_true(lists(cpuid, has[i]));
    for (size_t i = 0; i < ARRAY_LEN(lacks); i++)
        assert_false(lists(cpuid, lacks[i]));
    assert_int_equal(leaf(cpuid, 0xd, 0)->eax, 7);
    assert_int_equal(leaf(cpuid, 0xd, 0)->ecx, 832);
    assert_int_equal(leaf(cpuid, 0xd, 2)->eax, 256);
    assert_int_equal(leaf(cpuid, 0xd, 5)->eax, 0);
}

static void a_baseline_keeps_what_the_machine_brings(void **state)
{
    struct kvm_cpuid2 *cpuid = *state;

    features_mask(cpuid, CPU_BASELINE_V2);
    assert_int_equal(leaf(cpuid, 0, 0)->ebx, 0x756e6547);
    assert_int_equal(leaf(cpuid, 4, 0)->eax, 0x121);
    assert_int_equal(leaf(cpuid, 0xb, 0)->ebx, 1);
    assert_int_equal(leaf(cpuid, 0x40000001, 0)->eax, 0x1007efb);
    assert_int_equal(leaf(cpuid, 0x80000007, 0)->edx, 0x100);
    assert_int_equal(leaf(cpuid, 0x80000008, 0)->eax, 0x302e);
    assert_int_equal(leaf(cpuid, 1, 0)->ecx >> 31, 1);
    /* Not so counters, and waiting without an exit. */
    assert_int_equal(leaf(cpuid, 0xa, 0)->eax, 0);
    assert_int_equal(leaf(cpuid, 5, 0)->eax, 0);
}

static void the_hosts_baseline_changes_nothing(void **state)
{
    struct kvm_cpuid2 *cpuid = *state;

    features_mask(cpuid, CPU_BASELINE_HOST);
    assert_int_equal(features_reach(cpuid, CPU_BASELINE_HOST, NULL), 0);
    assert_memory_equal(cpuid->entries, host_entries, sizeof(host_entries));
}

static void no_guest_is_a_host(void **state)
{
    struct kvm_cpuid2 *cpuid = *state;

    for (unsigned baseline = CPU_BASELINE_HOST; baseline <= CPU_BASELINE_V3; baseline++) {
        leaf(cpuid, 1, 0)->ecx |= 1u << 5;
        leaf(cpuid, 0x80000001, 0)->ecx |= 1u << 2;
        leaf(cpuid, 5, 0)->function = 0x8000000a;
        leaf(cpuid, 0x8000000a, 0)->ebx = 1;
        assert_true(lists(cpuid, "vmx"));
        assert_true(lists(cpuid, "svm"));
        features_mask(cpuid, baseline);
        assert_false(lists(cpuid, "vmx"));
        assert_false(lists(cpuid, "svm"));
        assert_int_equal(leaf(cpuid, 0x8000000a, 0)->ebx, 0);
        leaf(cpuid, 0x8000000a, 0)->function = 5;
    }
}

static void a_host_below_the_baseline_is_refused(void **state)
{
    struct kvm_cpuid2 *cpuid = *state;
    struct error err = ERROR_INIT;

    leaf(cpuid, 7, 0)->ebx &= ~(1u << 5);
    leaf(cpuid, 0x80000001, 0)->ecx &= ~(1u << 5);
    assert_int_equal(features_reach(cpuid, CPU_BASELINE_V3, &err), -ENOTSUP);
    assert_int_equal(err.status, STATUS_HOST_CANNOT);
    assert_non_null(strstr(err.message, "x86-64-v3"));
    assert_non_null(strstr(err.message, "avx2 abm"));
    assert_int_equal(features_reach(cpuid, CPU_BASELINE_V2, NULL), 0);
}

/* Some KVMs tell of less than they let through. */
static void what_lets_through_counts_as_well(void **state)
{
    struct kvm_cpuid2 *cpuid = *state;
    struct kvm_cpuid2 *through = host();

    leaf(cpuid, 7, 0)->ebx = 0;
    assert_int_equal(features_check(cpuid, "avx2", NULL), -ENOTSUP);
    features_merge(cpuid, through);
    assert_int_equal(features_check(cpuid, "avx2", NULL), 0);
    assert_int_equal(leaf(cpuid, 7, 0)->ebx, leaf(through, 7, 0)->ebx);
    assert_int_equal(leaf(cpuid, 4, 0)->eax, 0x121);
    free(through);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(features_have_the_names_of_proc_cpuinfo),
        TEST(features_without_a_name_have_their_place_for_one),
        TEST(what_the_cpu_does_not_bring_is_no_feature),
        TEST(a_list_that_does_not_fit_is_an_error),
        TEST(a_host_has_what_it_lists),
        TEST(what_a_host_lacks_is_named),
        TEST(a_long_list_of_what_is_lacking_is_cut),
        TEST(v2_is_v2_and_no_more),
        TEST(v3_is_v3_and_no_more),
        TEST(a_baseline_keeps_what_the_machine_brings),
        TEST(the_hosts_baseline_changes_nothing),
        TEST(no_guest_is_a_host),
        TEST(a_host_below_the_baseline_is_refused),
        TEST(what_lets_through_counts_as_well),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
