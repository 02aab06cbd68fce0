/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cold.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/io.h"
#include "cli/progress.h"
#include "store/catalogue.h"
#include "vmm/layout.h"
#include "vmm/net/settings.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

DEFINE_CLEANUP(struct ingest, ingest_free)

enum {
    SECTOR_SIZE = 512,
    KERNEL_HEAD_SIZE = 1024,
    /* Linux x86 boot protocol, section "The Real-Mode Kernel Header". */
    BOOT_FLAG_OFFSET = 0x1fe,
    BOOT_FLAG = 0xaa55,
    BOOT_MAGIC_OFFSET = 0x202,
    BOOT_HEADER_END = 0x268,
};

/* ---- the options ---- */

static int check_cmdline(const char *cmdline, struct error *err)
{
    if (strlen(cmdline) <= MANIFEST_CMDLINE_MAX)
        return 0;
    error_set(err, STATUS_USAGE, E2BIG, "the kernel command line is %zu bytes long",
              strlen(cmdline));
    error_hint(err, "a kernel takes %d", MANIFEST_CMDLINE_MAX);
    return -E2BIG;
}

static int check_memory(uint64_t bytes, struct error *err)
{
    if (bytes % STASIS_PAGE_SIZE == 0)
        return 0;
    error_set(err, STATUS_USAGE, EINVAL, "--memory %llu is not a multiple of a page",
              (unsigned long long)bytes);
    error_hint(err, "use a multiple of %u bytes, like 512M", STASIS_PAGE_SIZE);
    return -EINVAL;
}

static enum cpu_baseline cpu_from(const struct arguments *args, enum cpu_baseline fallback)
{
    const char *name = arguments_text(args, "cpu", cpu_baseline_names[fallback]);
    unsigned i = 0;

    while (strcmp(cpu_baseline_names[i], name) != 0) /* the parser knows the choices */
        i++;
    return (enum cpu_baseline)i;
}

int cold_request_from(const struct arguments *args, struct cold_request *out, struct error *err)
{
    const struct option_value *disks = arguments_value(args, "disk");
    struct cold_request request = {
        .kernel = arguments_text(args, "kernel", NULL),
        .initrd = arguments_text(args, "initrd", NULL),
        .cmdline = arguments_text(args, "cmdline", COLD_CMDLINE),
        .disks = disks->texts,
        .disk_count = disks->count,
        .memory_bytes = arguments_number(args, "memory", COLD_MEMORY_BYTES),
        .vcpus = (uint32_t)arguments_number(args, "cpus", 1),
        .cpu = cpu_from(args, CPU_BASELINE_HOST),
    };
    int r;

    if (request.kernel == NULL) {
        error_set(err, STATUS_USAGE, EINVAL, "%s needs --kernel FILE", args->command->name);
        error_hint(err, "Debian's is in /boot: --kernel /boot/vmlinuz-VERSION");
        return -EINVAL;
    }
    if (request.disk_count > MANIFEST_DISKS_MAX) {
        error_set(err, STATUS_USAGE, E2BIG, "%zu disks are too many", request.disk_count);
        error_hint(err, "a machine takes %d", MANIFEST_DISKS_MAX);
        return -E2BIG;
    }
    if ((r = check_cmdline(request.cmdline, err)) < 0 ||
        (r = check_memory(request.memory_bytes, err)) < 0)
        return r;
    *out = request;
    return 0;
}

/* ---- kernels ---- */

static int not_a_kernel(const char *name, const char *why, struct error *err)
{
    error_set(err, STATUS_USAGE, ENOEXEC, "%s is not a kernel this machine can boot: %s", name,
              why);
    error_hint(err, "give a bzImage (Debian: /boot/vmlinuz-VERSION) or an x86 ELF vmlinux");
    return -ENOEXEC;
}

static int check_elf(const uint8_t *head, size_t length, const char *name, struct error *err)
{
    /* e_machine is in the same place in ELF32 and ELF64. */
    if (length < sizeof(Elf32_Ehdr))
        return not_a_kernel(name, "the ELF header is cut off", err);
    const uint16_t machine = load_le16(head + offsetof(Elf32_Ehdr, e_machine));
    if (head[EI_DATA] != ELFDATA2LSB || (machine != EM_X86_64 && machine != EM_386))
        return not_a_kernel(name, "it is an ELF file for another processor", err);
    const uint16_t type = load_le16(head + offsetof(Elf32_Ehdr, e_type));
    if (type != ET_EXEC && type != ET_DYN)
        return not_a_kernel(name, "it is an ELF file, but not an executable", err);
    return 0;
}

int cold_check_kernel(const void *head, size_t length, const char *name, struct error *err)
{
    const uint8_t *bytes = head;

    if (length >= SELFMAG && memcmp(bytes, ELFMAG, SELFMAG) == 0)
        return check_elf(bytes, length, name, err);
    if (length >= BOOT_HEADER_END && load_le16(bytes + BOOT_FLAG_OFFSET) == BOOT_FLAG &&
        memcmp(bytes + BOOT_MAGIC_OFFSET, "HdrS", 4) == 0)
        return 0;
    if (length >= 2 && bytes[0] == 0x1f && bytes[1] == 0x8b)
        return not_a_kernel(name, "it is compressed by gzip (an initrd?)", err);
    return not_a_kernel(name, "it has neither the header of a bzImage nor that of an ELF file",
                        err);
}

static int check_kernel_file(int fd, uint64_t size, const char *path, struct error *err)
{
    uint8_t head[KERNEL_HEAD_SIZE];
    const size_t length = (size_t)min_u64(size, sizeof(head));

    int r = io_pread_full(fd, head, length, 0);
    if (r < 0)
        return error_errno(err, -r, "cannot read %s", path);
    return cold_check_kernel(head, length, path, err);
}

/* ---- disks ---- */

static int check_disk_file(int fd, uint64_t size, const char *path, struct error *err)
{
    uint8_t magic[4];

    if (size % SECTOR_SIZE != 0) {
        error_set(err, STATUS_USAGE, EINVAL,
                  "%s cannot be a disk: its %llu bytes are not a multiple of a sector (%d)", path,
                  (unsigned long long)size, SECTOR_SIZE);
        error_hint(err, "is it cut off, or not a disk? truncate -s %%%d FILE fills a copy up",
                   SECTOR_SIZE);
        return -EINVAL;
    }
    int r = io_pread_full(fd, magic, sizeof(magic), 0);
    if (r < 0)
        return error_errno(err, -r, "cannot read %s", path);
    if (memcmp(magic, "QFI\xfb", sizeof(magic)) == 0) {
        error_set(err, STATUS_USAGE, EMEDIUMTYPE, "%s is a qcow2 image, not a raw disk", path);
        error_hint(err, "convert it: qemu-img convert -O raw %s disk.raw", path);
        return -EMEDIUMTYPE;
    }
    return 0;
}

/* ---- ingesting one file ---- */

static int file_size(int fd, const char *path, uint64_t *size_out, struct error *err)
{
    struct stat st;
    uint64_t size;

    if (fstat(fd, &st) < 0)
        return error_errno(err, errno, "cannot read %s", path);
    if (S_ISREG(st.st_mode)) {
        size = (uint64_t)st.st_size;
    } else if (!S_ISBLK(st.st_mode) || ioctl(fd, BLKGETSIZE64, &size) < 0) {
        error_set(err, STATUS_USAGE, EINVAL, "%s is neither a file nor a block device", path);
        return -EINVAL;
    }
    if (size == 0) {
        error_set(err, STATUS_USAGE, EINVAL, "%s is empty", path);
        return -EINVAL;
    }
    *size_out = size;
    return 0;
}

typedef int check_fn(int fd, uint64_t size, const char *path, struct error *err);

/* A file that becomes a space. */
struct source {
    char space[MANIFEST_SPACE_NAME_MAX + 1];
    const char *path;
    int fd;
    uint64_t size_bytes;
};

struct sources {
    struct source list[MANIFEST_DISKS_MAX + 2];
    size_t count;
};

static void sources_close(struct sources *sources)
{
    for (size_t i = 0; i < sources->count; i++)
        close(sources->list[i].fd);
}

static int source_open(struct sources *sources, const char *space, const char *path,
                       check_fn *check, struct error *err)
{
    struct source *source = &sources->list[sources->count];
    /* O_NONBLOCK: opening a FIFO shall not wait for its other end. */
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return error_errno(err, errno, "cannot open %s", path);
    int r = file_size(fd, path, &source->size_bytes, err);
    if (r < 0 || (check != NULL && (r = check(fd, source->size_bytes, path, err)) < 0))
        return r;
    snprintf(source->space, sizeof(source->space), "%s", space);
    source->path = path;
    source->fd = steal_fd(&fd);
    sources->count++;
    return 0;
}

/* Opens and checks all before the first is read: a mistake in the last file
 * should not cost the time the others take. */
static int sources_open(struct sources *sources, const struct cold_request *request,
                        struct error *err)
{
    char space[MANIFEST_SPACE_NAME_MAX + 1];

    int r = source_open(sources, "kernel", request->kernel, check_kernel_file, err);
    if (r < 0)
        return r;
    if (request->initrd != NULL &&
        (r = source_open(sources, "initrd", request->initrd, NULL, err)) < 0)
        return r;
    for (size_t i = 0; i < request->disk_count; i++) {
        snprintf(space, sizeof(space), "disk%u", (unsigned)i % MANIFEST_DISKS_MAX);
        r = source_open(sources, space, request->disks[i], check_disk_file, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int ingest_source(struct ingest *in, const struct source *source, struct manifest *manifest,
                         struct error *err)
{
    char what[40];
    struct progress progress;
    struct digest root;

    snprintf(what, sizeof(what), "importing %s", source->space);
    progress_begin(&progress, what, source->size_bytes);
    int r = ingest_file(in, source->fd, source->size_bytes, progress_bytes, &progress, &root, err);
    progress_end(&progress);
    if (r < 0) {
        error_prefix(err, "cannot import %s", source->path);
        return r;
    }
    r = manifest_space_set(manifest, source->space, source->size_bytes, &root);
    return r < 0 ? error_errno(err, -r, "cannot import %s", source->path) : 0;
}

static int commit(struct ingest *in, const struct manifest *manifest,
                  const struct cold_request *request, struct digest *id_out, struct error *err)
{
    const struct ingest_commit commit = {
        .manifest = manifest,
        .image = request->image,
        .tag = request->tag,
        .replace_tag = request->replace_tag,
    };

    return ingest_commit(in, &commit, id_out, err);
}

int cold_ingest(struct cli *cli, const struct cold_request *request, struct digest *id_out,
                struct ingest_stats *stats_out, struct error *err)
{
    _cleanup_(sources_close) struct sources sources = {0};
    _cleanup_(ingest_freep) struct ingest *in = NULL;
    _cleanup_free_ struct manifest *manifest = calloc(1, sizeof(*manifest));

    if (manifest == NULL)
        return error_errno(err, ENOMEM, "cannot import");
    manifest->kind = CHECKPOINT_COLD;
    manifest->created_us = clock_wall_us();
    manifest->config.vcpus = request->vcpus;
    manifest->config.cpu = request->cpu;
    manifest->config.memory_bytes = request->memory_bytes;
    manifest->config.disk_count = (uint32_t)request->disk_count;
    manifest->config.rng = true;
    manifest->config.balloon = true;
    manifest->config.net_count = 1;
    net_mac_make(manifest->config.nets[0].mac);
    manifest->config.vsock = true;
    snprintf(manifest->config.cmdline, sizeof(manifest->config.cmdline), "%s", request->cmdline);

    int r = sources_open(&sources, request, err);
    if (r < 0 || (r = cli_store(cli, err)) < 0 || (r = ingest_begin(cli->store, &in, err)) < 0)
        return r;
    for (size_t i = 0; i < sources.count; i++)
        if ((r = ingest_source(in, &sources.list[i], manifest, err)) < 0)
            return r;
    r = commit(in, manifest, request, id_out, err);
    if (r >= 0 && stats_out != NULL)
        ingest_get_stats(in, stats_out);
    return r;
}

/* ---- another configuration ---- */

static int apply_options(const struct arguments *args, struct machine_config *config,
                         struct error *err)
{
    const char *cmdline = arguments_text(args, "cmdline", config->cmdline);
    int r;

    config->memory_bytes = arguments_number(args, "memory", config->memory_bytes);
    config->vcpus = (uint32_t)arguments_number(args, "cpus", config->vcpus);
    config->cpu = cpu_from(args, config->cpu);
    if ((r = check_memory(config->memory_bytes, err)) < 0 || (r = check_cmdline(cmdline, err)) < 0)
        return r;
    /* cmdline may be the config's own. */
    if (cmdline != config->cmdline)
        snprintf(config->cmdline, sizeof(config->cmdline), "%s", cmdline);
    return 0;
}

int cold_reconfigure(struct cli *cli, const struct arguments *args, struct digest *id,
                     struct error *err)
{
    _cleanup_(ingest_freep) struct ingest *in = NULL;
    _cleanup_free_ struct manifest *manifest = calloc(1, sizeof(*manifest));

    if (!arguments_has(args, "memory") && !arguments_has(args, "cpus") &&
        !arguments_has(args, "cpu") && !arguments_has(args, "cmdline"))
        return 0;
    if (manifest == NULL)
        return error_errno(err, ENOMEM, "cannot change the configuration");
    int r = catalogue_manifest_read(cli->store, id, manifest, err);
    if (r < 0)
        return r;
    if (manifest->kind == CHECKPOINT_WARM) {
        error_set(err, STATUS_USAGE, EINVAL,
                  "a running machine was saved there: its memory, CPUs and command line are fixed");
        error_hint(err, "leave out --memory, --cpus, --cpu and --cmdline");
        return -EINVAL;
    }
    if ((r = apply_options(args, &manifest->config, err)) < 0)
        return r;
    manifest->has_parent = true;
    manifest->parent = *id;
    manifest->created_us = clock_wall_us();
    if ((r = ingest_begin(cli->store, &in, err)) < 0)
        return r;
    return ingest_commit(in, &(struct ingest_commit){.manifest = manifest}, id, err);
}
