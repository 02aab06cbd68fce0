/* SPDX-License-Identifier: Apache-2.0 */
/* Bits: Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E. Names: Linux, as
 * /proc/cpuinfo shows them. */
#include "vmm/kvm/features.h"

#include "base/bytes.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum reg { EAX, EBX, ECX, EDX };

static const char reg_names[][4] = {"eax", "ebx", "ecx", "edx"};

/*
 * A register of features. `not_features` are bits that come from the machine and not
 * the host's CPU: what KVM makes itself, topology, or what changes as the guest runs.
 */
struct word {
    uint32_t function;
    uint32_t index;
    enum reg reg;
    uint32_t not_features;
    const char *names[32];
};

static const struct word words[] = {
    {1,
     0,
     EDX,
     1u << 9 /* APIC */ | 1u << 28 /* HTT */,
     {[0] = "fpu",  [1] = "vme",   [2] = "de",   [3] = "pse",    [4] = "tsc",   [5] = "msr",
      [6] = "pae",  [7] = "mce",   [8] = "cx8",  [11] = "sep",   [12] = "mtrr", [13] = "pge",
      [14] = "mca", [15] = "cmov", [16] = "pat", [17] = "pse36", [18] = "pn",   [19] = "clflush",
      [21] = "dts", [22] = "acpi", [23] = "mmx", [24] = "fxsr",  [25] = "sse",  [26] = "sse2",
      [27] = "ss",  [29] = "tm",   [31] = "pbe"}},
    {1,
     0,
     ECX,
     1u << 3 /* MONITOR */ | 1u << 21 /* X2APIC */ | 1u << 24 /* TSC_DEADLINE */ |
         1u << 27 /* OSXSAVE */ | 1u << 31 /* HYPERVISOR */,
     {[0] = "pni",
      [1] = "pclmulqdq",
      [2] = "dtes64",
      [5] = "vmx",
      [9] = "ssse3",
      [10] = "cid",
      [12] = "fma",
      [13] = "cx16",
      [15] = "pdcm",
      [17] = "pcid",
      [19] = "sse4_1",
      [20] = "sse4_2",
      [22] = "movbe",
      [23] = "popcnt",
      [25] = "aes",
      [26] = "xsave",
      [28] = "avx",
      [29] = "f16c",
      [30] = "rdrand"}},
    {7,
     0,
     EBX,
     1u << 1 /* TSC_ADJUST: KVM's own */,
     {[0] = "fsgsbase",    [3] = "bmi1",    [4] = "hle",       [5] = "avx2",
      [7] = "smep",        [8] = "bmi2",    [9] = "erms",      [10] = "invpcid",
      [11] = "rtm",        [14] = "mpx",    [16] = "avx512f",  [17] = "avx512dq",
      [18] = "rdseed",     [19] = "adx",    [20] = "smap",     [21] = "avx512ifma",
      [23] = "clflushopt", [24] = "clwb",   [26] = "avx512pf", [27] = "avx512er",
      [28] = "avx512cd",   [29] = "sha_ni", [30] = "avx512bw", [31] = "avx512vl"}},
    {7,
     0,
     ECX,
     1u << 4 /* OSPKE */,
     {[1] = "avx512vbmi",
      [2] = "umip",
      [3] = "pku",
      [5] = "waitpkg",
      [6] = "avx512_vbmi2",
      [8] = "gfni",
      [9] = "vaes",
      [10] = "vpclmulqdq",
      [11] = "avx512_vnni",
      [12] = "avx512_bitalg",
      [14] = "avx512_vpopcntdq",
      [16] = "la57",
      [22] = "rdpid",
      [25] = "cldemote",
      [27] = "movdiri",
      [28] = "movdir64b"}},
    {7,
     0,
     EDX,
     0,
     {[2] = "avx512_4vnniw",
      [3] = "avx512_4fmaps",
      [4] = "fsrm",
      [8] = "avx512_vp2intersect",
      [10] = "md_clear",
      [14] = "serialize",
      [16] = "tsxldtrk",
      [18] = "pconfig",
      [22] = "amx_bf16",
      [23] = "avx512_fp16",
      [24] = "amx_tile",
      [25] = "amx_int8",
      [26] = "spec_ctrl",
      [27] = "intel_stibp",
      [28] = "flush_l1d",
      [29] = "arch_capabilities",
      [31] = "spec_ctrl_ssbd"}},
    {7, 1, EAX, 0, {[4] = "avx_vnni", [5] = "avx512_bf16"}},
    {7, 1, EDX, 0, {0}},
    {7, 2, EDX, 0, {0}},
    {0xd, 1, EAX, 0, {[0] = "xsaveopt", [1] = "xsavec", [2] = "xgetbv1", [3] = "xsaves"}},
    {0x80000001,
     0,
     ECX,
     1u << 1 /* CMP_LEGACY */ | 1u << 22 /* TOPOEXT */,
     {[0] = "lahf_lm",
      [2] = "svm",
      [3] = "extapic",
      [4] = "cr8_legacy",
      [5] = "abm",
      [6] = "sse4a",
      [7] = "misalignsse",
      [8] = "3dnowprefetch",
      [9] = "osvw",
      [10] = "ibs",
      [11] = "xop",
      [12] = "skinit",
      [15] = "lwp",
      [16] = "fma4",
      [21] = "tbm",
      [23] = "perfctr_core"}},
    {0x80000001,
     0,
     EDX,
     0x0183f3ffu /* again those of leaf 1 */,
     {[11] = "syscall",
      [19] = "mp",
      [20] = "nx",
      [22] = "mmxext",
      [25] = "fxsr_opt",
      [26] = "pdpe1gb",
      [27] = "rdtscp",
      [29] = "lm",
      [30] = "3dnowext",
      [31] = "3dnow"}},
    {0x80000008,
     0,
     EBX,
     0,
     {[0] = "clzero",
      [1] = "irperf",
      [2] = "xsaveerptr",
      [9] = "wbnoinvd",
      [12] = "ibpb",
      [14] = "ibrs",
      [15] = "stibp",
      [24] = "ssbd",
      [25] = "virt_ssbd",
      [28] = "psfd"}},
    {0x80000021, 0, EAX, 0, {[8] = "autoibrs"}},
};

/* ---- CPUID tables ---- */

static uint32_t *register_of(struct kvm_cpuid_entry2 *e, enum reg reg)
{
    uint32_t *const registers[] = {&e->eax, &e->ebx, &e->ecx, &e->edx};

    return registers[reg];
}

static uint32_t read_word(const struct kvm_cpuid2 *cpuid, uint32_t function, uint32_t index,
                          enum reg reg)
{
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        struct kvm_cpuid_entry2 e = cpuid->entries[i];
        bool indexed = (e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0;
        if (e.function == function && (!indexed || e.index == index))
            return *register_of(&e, reg);
    }
    return 0;
}

void features_merge(struct kvm_cpuid2 *cpuid, const struct kvm_cpuid2 *other)
{
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        struct kvm_cpuid_entry2 *e = &cpuid->entries[i];
        for (size_t w = 0; w < ARRAY_LEN(words); w++)
            if (words[w].function == e->function && words[w].index == e->index)
                *register_of(e, words[w].reg) |=
                    read_word(other, e->function, e->index, words[w].reg);
    }
}

/* ---- names ---- */

static void name_of(const struct word *w, unsigned bit, char out[MANIFEST_CPU_FEATURE_NAME_MAX + 1])
{
    if (w->names[bit] != NULL)
        snprintf(out, MANIFEST_CPU_FEATURE_NAME_MAX + 1, "%s", w->names[bit]);
    else
        snprintf(out, MANIFEST_CPU_FEATURE_NAME_MAX + 1, "cpuid-%x.%x-%s-%u", w->function, w->index,
                 reg_names[w->reg], bit);
}

/* Appends with a space between. False if it does not fit. */
static bool append(char *out, size_t size, const char *name)
{
    size_t used = strlen(out);
    int n = snprintf(out + used, size - used, "%s%s", used > 0 ? " " : "", name);

    return n > 0 && (size_t)n < size - used;
}

int features_list(const struct kvm_cpuid2 *cpuid, char *out, size_t size)
{
    char name[MANIFEST_CPU_FEATURE_NAME_MAX + 1];

    out[0] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        const struct word *w = &words[i];
        uint32_t bits = read_word(cpuid, w->function, w->index, w->reg) & ~w->not_features;
        for (; bits != 0; bits &= bits - 1) {
            name_of(w, (unsigned)__builtin_ctz(bits), name);
            if (!append(out, size, name))
                return -ENOSPC;
        }
    }
    return 0;
}

static bool has_feature(const struct kvm_cpuid2 *cpuid, const char *wanted)
{
    char name[MANIFEST_CPU_FEATURE_NAME_MAX + 1];

    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        const struct word *w = &words[i];
        uint32_t bits = read_word(cpuid, w->function, w->index, w->reg) & ~w->not_features;
        for (; bits != 0; bits &= bits - 1) {
            name_of(w, (unsigned)__builtin_ctz(bits), name);
            if (strcmp(name, wanted) == 0)
                return true;
        }
    }
    return false;
}

/* Those of the list that the CPUID has not; as many as fit. */
static void list_missing(const struct kvm_cpuid2 *host, const char *names, char *out, size_t size)
{
    out[0] = '\0';
    while (names[0] != '\0') {
        char name[MANIFEST_CPU_FEATURE_NAME_MAX + 1];
        size_t length = strcspn(names, " ");
        snprintf(name, sizeof(name), "%.*s", (int)length, names);
        names += length + strspn(names + length, " ");
        if (!has_feature(host, name) && !append(out, size, name))
            return;
    }
}

int features_check(const struct kvm_cpuid2 *host, const char *names, struct error *err)
{
    char missing[160];

    list_missing(host, names, missing, sizeof(missing));
    if (missing[0] == '\0')
        return 0;
    error_set(err, STATUS_HOST_CANNOT, ENOTSUP,
              "the checkpoint needs CPU features that this host lacks: %s", missing);
    error_hint(err, "restore it on a host that has them; machines made with --cpu v2 or v3 go "
                    "on wherever that level is reached");
    return -ENOTSUP;
}

/* ---- baselines ---- */

static const char v2_needs[] = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3";
static const char v3_needs[] =
    "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave";

/* What stays of a leaf: a mask for each register. Leaves that are not in the table
 * describe features beyond the baselines and become empty. index ANY: every one. */
enum { ANY = 0xffffffff };
#define ALL UINT32_MAX

static const struct kept {
    uint32_t function;
    uint32_t index;
    uint32_t v2[4];
    uint32_t v3[4];
} kept[] = {
    {0, ANY, {ALL, ALL, ALL, ALL}, {ALL, ALL, ALL, ALL}},
    /* What x86-64 began with, x2APIC, deadline timer, hypervisor, and the levels' own. */
    {1, ANY, {ALL, ALL, 0x81b82201, 0x178bfbff}, {ALL, ALL, 0xbdf83201, 0x178bfbff}},
    {2, ANY, {ALL, ALL, ALL, ALL}, {ALL, ALL, ALL, ALL}},
    {4, ANY, {ALL, ALL, ALL, ALL}, {ALL, ALL, ALL, ALL}},
    {6, ANY, {4 /* ARAT */, 0, 0, 0}, {4, 0, 0, 0}},
    {7, 0, {0, 0, 0, 0}, {0, 0x128 /* BMI1, AVX2, BMI2 */, 0, 0}},
    {0xb, ANY, {ALL, ALL, ALL, ALL}, {ALL, ALL, ALL, ALL}},
    /* x87, SSE and AVX state; its size is filled in below. */
    {0xd, 0, {0, 0, 0, 0}, {7, ALL, ALL, 0}},
    {0xd, 2, {0, 0, 0, 0}, {ALL, ALL, ALL, ALL}},
    {0x15, ANY, {ALL, ALL, ALL, ALL}, {ALL, ALL, ALL, ALL}},
    {0x16, ANY, {ALL, ALL, ALL, ALL}, {ALL, ALL, ALL, ALL}},
    {0x1f, ANY, {ALL, ALL, ALL, ALL}, {ALL, ALL, ALL, ALL}},
    {0x80000000, ANY, {ALL, ALL, ALL, ALL}, {ALL, ALL, ALL, ALL}},
    {0x80000001, ANY, {ALL, ALL, 0x1, 0x2193fbff}, {ALL, ALL, 0x21, 0x2193fbff}},
    {0x80000002, ANY, {ALL, ALL, ALL, ALL}, {ALL, ALL, ALL, ALL}},
    {0x80000003, ANY, {ALL, ALL, ALL, ALL}, {ALL, ALL, ALL, ALL}},
    {0x80000004, ANY, {ALL, ALL, ALL, ALL}, {ALL, ALL, ALL, ALL}},
    {0x80000005, ANY, {ALL, ALL, ALL, ALL}, {ALL, ALL, ALL, ALL}},
    {0x80000006, ANY, {ALL, ALL, ALL, ALL}, {ALL, ALL, ALL, ALL}},
    {0x80000007, ANY, {0, 0, 0, 0x100 /* invariant TSC */}, {0, 0, 0, 0x100}},
    {0x80000008, ANY, {ALL, 0, ALL, 0}, {ALL, 0, ALL, 0}},
};

/* KVM's own leaves say what this KVM does for guests, whatever the CPU. */
static bool is_hypervisors(uint32_t function)
{
    return function >= 0x40000000 && function <= 0x4fffffff;
}

static void keep(struct kvm_cpuid_entry2 *e, enum cpu_baseline baseline)
{
    const uint32_t *masks = NULL;

    if (is_hypervisors(e->function))
        return;
    for (size_t i = 0; i < ARRAY_LEN(kept); i++)
        if (kept[i].function == e->function &&
            (kept[i].index == (uint32_t)ANY || kept[i].index == e->index))
            masks = baseline == CPU_BASELINE_V2 ? kept[i].v2 : kept[i].v3;
    for (unsigned reg = EAX; reg <= EDX; reg++)
        *register_of(e, (enum reg)reg) &= masks != NULL ? masks[reg] : 0;
}

/* XSAVE area without compaction: legacy region, header, upper halves of YMM. */
static void set_xsave_size(struct kvm_cpuid_entry2 *e)
{
    enum { AVX_AREA_END = 512 + 64 + 256 };

    if (e->function != 0xd || e->index != 0 || e->eax == 0)
        return;
    e->ebx = AVX_AREA_END;
    e->ecx = AVX_AREA_END;
}

int features_reach(const struct kvm_cpuid2 *host, enum cpu_baseline baseline, struct error *err)
{
    char missing[160];

    if (baseline == CPU_BASELINE_HOST)
        return 0;
    list_missing(host, baseline == CPU_BASELINE_V2 ? v2_needs : v3_needs, missing, sizeof(missing));
    if (missing[0] == '\0')
        return 0;
    error_set(err, STATUS_HOST_CANNOT, ENOTSUP,
              "this host's CPU does not reach x86-64-%s, it lacks: %s",
              cpu_baseline_names[baseline], missing);
    error_hint(err, "run the machine on another host, or with a lower --cpu");
    return -ENOTSUP;
}

/* VMX, SVM, and the leaf that describes the latter. */
static void hide_virtualisation(struct kvm_cpuid_entry2 *e)
{
    if (e->function == 1)
        e->ecx &= ~(1u << 5);
    else if (e->function == 0x80000001)
        e->ecx &= ~(1u << 2);
    else if (e->function == 0x8000000a)
        e->eax = e->ebx = e->ecx = e->edx = 0;
}

void features_mask(struct kvm_cpuid2 *cpuid, enum cpu_baseline baseline)
{
    for (uint32_t i = 0; i < cpuid->nent; i++)
        hide_virtualisation(&cpuid->entries[i]);
    if (baseline == CPU_BASELINE_HOST)
        return;
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        keep(&cpuid->entries[i], baseline);
        set_xsave_size(&cpuid->entries[i]);
    }
}
