/* SPDX-License-Identifier: Apache-2.0 */
/* Cold checkpoints: made from a kernel and disk files, or from another cold one
 * with other settings. What `import` and `run --kernel` have in common. */
#ifndef STASIS_CLI_COLD_H
#define STASIS_CLI_COLD_H

#include "cli/app.h"
#include "store/ingest.h"
#include "vmm/layout.h"

#define COLD_CMDLINE "console=ttyS0 root=/dev/vda rw"
#define COLD_MEMORY_BYTES (512ull << 20)

/* Options of both verbs; cold_request_from() reads them. */
#define COLD_OPTIONS_FILES                                                                         \
    {.name = "kernel",                                                                             \
     .type = OPTION_TEXT,                                                                          \
     .value = "FILE",                                                                              \
     .completion = COMPLETE_FILE,                                                                  \
     .help = "the kernel: a bzImage (vmlinuz) or an x86 ELF file"},                                \
        {.name = "initrd",                                                                         \
         .type = OPTION_TEXT,                                                                      \
         .value = "FILE",                                                                          \
         .completion = COMPLETE_FILE,                                                              \
         .help = "its initial RAM disk"},                                                          \
        {.name = "cmdline",                                                                        \
         .type = OPTION_TEXT,                                                                      \
         .value = "TEXT",                                                                          \
         .help = "its command line (default: \"" COLD_CMDLINE "\")"},                              \
    {                                                                                              \
        .name = "disk", .type = OPTION_TEXT, .repeats = true, .value = "FILE",                     \
        .completion = COMPLETE_FILE,                                                               \
        .help = "a raw disk (file or block device); the first is /dev/vda"                         \
    }
#define COLD_OPTIONS_SIZE                                                                          \
    {.name = "memory",                                                                             \
     .letter = 'm',                                                                                \
     .type = OPTION_SIZE,                                                                          \
     .value = "SIZE",                                                                              \
     .min = LAYOUT_MEMORY_MIN,                                                                     \
     .max = LAYOUT_MEMORY_MAX,                                                                     \
     .help = "RAM, like 1G (default: 512M)"},                                                      \
        {.name = "cpus",                                                                           \
         .letter = 'c',                                                                            \
         .type = OPTION_NUMBER,                                                                    \
         .value = "N",                                                                             \
         .min = 1,                                                                                 \
         .max = MANIFEST_VCPUS_MAX,                                                                \
         .help = "virtual CPUs (default: 1)"},                                                     \
    {                                                                                              \
        .name = "cpu", .type = OPTION_CHOICE, .value = "LEVEL", .choices = cpu_baseline_names,     \
        .help = "what they offer: host: all that this host has (default); v2, v3: that level of "  \
                "x86-64, to go on wherever it is reached"                                          \
    }

/* What to make a checkpoint of. Strings are borrowed. */
struct cold_request {
    const char *kernel;
    const char *initrd; /* or NULL */
    const char *cmdline;
    const char *const *disks;
    size_t disk_count;
    uint64_t memory_bytes;
    uint32_t vcpus;
    enum cpu_baseline cpu;
    const char *image; /* name it so, or NULL */
    const char *tag;
    bool replace_tag;
};

/* Reads and checks --kernel, --initrd, --cmdline, --disk, --memory, --cpus, --cpu. */
int cold_request_from(const struct arguments *args, struct cold_request *out, struct error *err);

/* Is this the beginning of something that can be booted? 0, or STATUS_USAGE
 * and what it is instead. name is for messages. Declared for tests. */
int cold_check_kernel(const void *head, size_t length, const char *name, struct error *err);

/* Ingests the files and commits the checkpoint; nothing of it remains if it
 * fails. stats_out may be NULL. */
int cold_ingest(struct cli *cli, const struct cold_request *request, struct digest *id_out,
                struct ingest_stats *stats_out, struct error *err);

/* Where --memory, --cpus, --cpu or --cmdline are given and differ from the checkpoint's:
 * commits a checkpoint with these. STATUS_USAGE for a warm one, whose machine is
 * what it is. Else *id stays. */
int cold_reconfigure(struct cli *cli, const struct arguments *args, struct digest *id,
                     struct error *err);

#endif
