/* SPDX-License-Identifier: Apache-2.0 */
/* What a machine's CPUs offer, and what a checkpoint of it needs of a host. */
#include "harness.h"

#include "base/bytes.h"
#include "imgfmt/manifest.h"
#include "imgfmt/state.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { MEMORY_MIB = 16 };

static bool needs(struct site *site, const char *reference, const char *feature)
{
    json_t *checkpoint = stasis_json(site, "inspect %s", reference);
    const json_t *list = json_object_get(checkpoint, "cpu_features");
    bool found = false;
    size_t i;
    json_t *name;

    assert_true(json_array_size(list) > 0);
    json_array_foreach(list, i, name) if (strcmp(json_string_value(name), feature) == 0) found =
        true;
    json_decref(checkpoint);
    return found;
}

/* Boots the probe with that baseline; false if the host does not reach it. */
static bool boot(struct guest *guest, struct site *site, const char *baseline)
{
    int code = stasis(site, "run -d --name m --memory %dM --kernel %s --cpu %s --paused",
                      MEMORY_MIB, PROBE_ELF, baseline);

    if (code == STATUS_HOST_CANNOT)
        return false;
    assert_int_equal(code, 0);
    guest_attach(guest, site, "m", 0);
    stasis_ok(site, "resume m");
    guest_wait_banner(guest);
    return true;
}

/* A register of the CPUID that the checkpoint's first vCPU has. */
static uint32_t cpuid_of(struct site *site, const char *reference, uint32_t function,
                         uint32_t index, size_t reg_offset)
{
    size_t length;
    uint8_t *bytes = checkpoint_state(site, reference, &length);
    struct state_record record;
    uint32_t value = 0;

    assert_int_equal(state_find(bytes, length, STATE_VCPU_CPUID, 0, &record), 0);
    for (size_t at = 8; at + sizeof(struct kvm_cpuid_entry2) <= record.length;
         at += sizeof(struct kvm_cpuid_entry2))
        if (load_le32(record.payload + at) == function &&
            load_le32(record.payload + at + 4) == index)
            value = load_le32(record.payload + at + reg_offset);
    free(bytes);
    return value;
}

static void a_checkpoint_says_what_it_needs(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    stasis_ok(site, "save m@one");
    assert_true(needs(site, "m@one", "sse2"));
    assert_true(needs(site, "m@one", "lm"));
    /* A machine that goes on from it needs the same. */
    stasis_ok(site, "clone m@one c");
    stasis_ok(site, "save c@two");
    assert_true(needs(site, "c@two", "sse2"));
    guest_detach(&guest);
}

/* A KVM without hardware to help it may let guests see the CPU as it is. */
static bool kvm_hides_features(void)
{
    enum { ENTRIES = 256 };
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + ENTRIES * sizeof(cpuid->entries[0]));
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);

    assert_true(cpuid != NULL && vcpu >= 0);
    cpuid->nent = 1;
    cpuid->entries[0].function = 1;
    assert_int_equal(ioctl(vcpu, KVM_SET_CPUID2, cpuid), 0);
    cpuid->nent = ENTRIES;
    assert_int_equal(ioctl(vcpu, KVM_GET_CPUID2, cpuid), 0);
    bool hides = (cpuid->entries[0].ecx & ~(1u << 27)) == 0; /* but for OSXSAVE */
    free(cpuid);
    close(vcpu);
    close(vm);
    close(kvm);
    return hides;
}

static void a_baseline_is_all_that_the_guest_finds(void **state)
{
    struct site *site = *state;
    struct guest guest;

    if (!boot(&guest, site, "v2"))
        skip();
    stasis_ok(site, "save m@one");
    assert_true(needs(site, "m@one", "sse4_2"));
    assert_false(needs(site, "m@one", "mmxext"));
    if (!kvm_hides_features()) {
        print_message("this KVM hides nothing from guests\n");
        guest_detach(&guest);
        return;
    }
    assert_false(needs(site, "m@one", "avx"));
    assert_false(needs(site, "m@one", "aes"));
    uint32_t ecx = cpuid_of(site, "m@one", 1, 0, offsetof(struct kvm_cpuid_entry2, ecx));
    assert_int_equal(ecx >> 20 & 1, 1); /* SSE4.2 */
    assert_int_equal(ecx >> 28 & 1, 0); /* AVX */
    assert_int_equal(cpuid_of(site, "m@one", 7, 0, offsetof(struct kvm_cpuid_entry2, ebx)), 0);
    ask_ok(&guest, "ping");
    guest_detach(&guest);
}

static void machines_of_a_baseline_go_on_like_others(void **state)
{
    static const char *const baselines[] = {"v2", "v3"};
    struct site *site = *state;
    struct guest guest;

    for (size_t i = 0; i < ARRAY_LEN(baselines); i++) {
        if (!boot(&guest, site, baselines[i]))
            continue;
        ask_ok(&guest, "fpu 0x1234567");
        stasis_ok(site, "save m@one");
        stasis_ok(site, "restore m@one --discard");
        ask_ok(&guest, "fpucheck");
        guest_detach(&guest);
        stasis_ok(site, "clone m@one c");
        guest_attach(&guest, site, "c", 0);
        ask_ok(&guest, "fpucheck");
        guest_detach(&guest);
        stasis_ok(site, "kill c");
        stasis_ok(site, "rm -f c");
        stasis_ok(site, "kill m");
        stasis_ok(site, "rm -f m");
    }
}

static void ask_for_what_nobody_has(struct manifest *m)
{
    size_t used = strlen(m->cpu_features);

    snprintf(m->cpu_features + used, sizeof(m->cpu_features) - used, " nosuchfeature avx9000");
}

static void a_host_that_lacks_features_refuses_and_names_them(void **state)
{
    struct site *site = *state;
    struct guest guest;
    static const char lacks[] = "nosuchfeature avx9000";

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    stasis_ok(site, "save m@one");
    checkpoint_change(site, "m@one", "m", "other", ask_for_what_nobody_has);
    stasis_fails(site, STATUS_HOST_CANNOT, lacks, "clone m@other c");
    stasis_fails(site, STATUS_HOST_CANNOT, lacks, "restore m@other --discard");
    ask_ok(&guest, "ping"); /* goes on as if nothing had been */
    guest_detach(&guest);
    stasis_ok(site, "tag m@other warm:1");
    stasis_fails(site, STATUS_HOST_CANNOT, lacks, "run -d --name r warm:1");
    stasis_ok(site, "kill m");
    stasis_fails(site, STATUS_HOST_CANNOT, lacks, "restore m@other --discard");
    stasis_ok(site, "restore m@one --discard");
}

static void an_image_keeps_its_baseline(void **state)
{
    struct site *site = *state;

    stasis_ok(site, "import probe:1 --kernel %s --memory %dM --cpu v2", PROBE_ELF, MEMORY_MIB);
    json_t *image = stasis_json(site, "inspect probe:1");
    assert_string_equal(json_string_value(json_object_get(json_object_get(image, "config"), "cpu")),
                        "v2");
    json_decref(image);
    stasis_fails(site, STATUS_USAGE, "v9", "run -d probe:1 --cpu v9");
}

static void a_warm_image_has_the_cpu_it_has(void **state)
{
    struct site *site = *state;
    struct guest guest;

    guest_boot(&guest, site, "m", MEMORY_MIB, 0);
    stasis_ok(site, "save m@one");
    stasis_ok(site, "tag m@one warm:1");
    stasis_fails(site, STATUS_USAGE, "fixed", "run -d warm:1 --cpu v2");
    guest_detach(&guest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(a_checkpoint_says_what_it_needs),
        MACHINE_TEST(a_baseline_is_all_that_the_guest_finds),
        MACHINE_TEST(machines_of_a_baseline_go_on_like_others),
        MACHINE_TEST(a_host_that_lacks_features_refuses_and_names_them),
        MACHINE_TEST(an_image_keeps_its_baseline),
        MACHINE_TEST(a_warm_image_has_the_cpu_it_has),
    };

    return HARNESS_RUN(tests);
}
