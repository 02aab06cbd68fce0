/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "cli/progress.h"
#include "cli/reference.h"
#include "cli/verbs/verbs.h"
#include "store/catalogue.h"
#include "vmm/layout.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

typedef struct space space_t;
DEFINE_CLEANUP(space_t, space_close)

/* ---- the file ---- */

/* What to do about a file that cannot be written. */
static int cannot_write(const char *path, int errnum, struct error *err)
{
    const char *slash = strrchr(path, '/');
    const int directory = slash != NULL ? (int)(slash - path) : 0;

    error_errno(err, errnum, "cannot write %s", path);
    if (errnum == ENOENT)
        error_hint(err, "make its directory first: mkdir -p %.*s", directory, path);
    else if (errnum == ENOSPC || errnum == EDQUOT)
        error_hint(err, "give a FILE where there is more room; df tells");
    else if (errnum == EACCES || errnum == EPERM || errnum == EROFS || errnum == ENOTDIR)
        error_hint(err, "give a FILE in a directory that you can write to");
    return -errnum;
}

/* A name beside the target, so that the target is either whole or not there. */
static int check_target(const char *path, bool force, struct error *err)
{
    struct stat st;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : cannot_write(path, errno, err);
    if (!S_ISREG(st.st_mode)) {
        error_set(err, STATUS_USAGE, EINVAL, "%s is there and not a file", path);
        error_hint(err, "give the name of a file, like %s%sdisk0.raw", path,
                   S_ISDIR(st.st_mode) ? "/" : ".");
        return -EINVAL;
    }
    if (force)
        return 0;
    error_set(err, STATUS_EXISTS, EEXIST, "%s is there already", path);
    error_hint(err, "give another name, or -f to replace it");
    return -EEXIST;
}

struct target {
    const char *path;
    char *temporary; /* unlinked at the end unless it has become path */
    int fd;
};

static void target_clear(struct target *t)
{
    if (t->fd >= 0) {
        close(t->fd);
        unlink(t->temporary);
    }
    free(t->temporary);
}

static int target_open(struct target *t, const char *path, bool force, struct error *err)
{
    int r = check_target(path, force, err);
    if (r < 0)
        return r;
    t->path = path;
    t->temporary = io_format("%s.part%d", path, (int)getpid());
    t->fd = open(t->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return t->fd < 0 ? cannot_write(path, errno, err) : 0;
}

static int target_finish(struct target *t, struct error *err)
{
    if (fsync(t->fd) < 0 || rename(t->temporary, t->path) < 0)
        return cannot_write(t->path, errno, err);
    close(t->fd);
    t->fd = -1;
    return 0;
}

/* ---- the bytes ---- */

struct writer {
    struct progress progress;
    const struct target *target;
    uint64_t base; /* where byte 0 of the space goes */
    uint64_t size_bytes;
    struct error *err;
};

static int write_page(uint64_t page, const void *bytes, void *context)
{
    struct writer *w = context;
    const uint64_t offset = page << STASIS_PAGE_SHIFT;
    const uint64_t length = min_u64(STASIS_PAGE_SIZE, w->size_bytes - offset);

    if (progress_step(&w->progress, offset) != 0)
        return error_set(w->err, STATUS_INTERRUPTED, ECANCELED, "interrupted");
    int r = io_pwrite_full(w->target->fd, bytes, (size_t)length, w->base + offset);
    return r < 0 ? cannot_write(w->target->path, -r, w->err) : 0;
}

/* Pages that are zero stay holes. */
static int write_space(struct space *space, const char *what, const struct target *target,
                       uint64_t base, struct error *err)
{
    struct writer w = {
        .target = target, .base = base, .size_bytes = space_size_bytes(space), .err = err};
    uint64_t end;

    if (add_overflows(base, w.size_bytes, &end) || end > INT64_MAX)
        return error_set(err, STATUS_FAILED, EFBIG, "the file would be too large");
    if (ftruncate(target->fd, (off_t)end) < 0)
        return cannot_write(target->path, errno, err);
    progress_begin(&w.progress, what, w.size_bytes);
    int r = space_each_page(space, write_page, &w, err);
    progress_end(&w.progress);
    return r;
}

/* ---- memory as an ELF core ---- */

#define CORE_DATA_OFFSET 4096u /* page-aligned, so that the file can be mapped */

/* One segment for RAM below the hole, one for what is above 4 GiB, at their guest
 * physical addresses: what gdb, crash and volatility read. */
static void core_headers(uint64_t memory_bytes, uint8_t out[CORE_DATA_OFFSET])
{
    const uint64_t low = min_u64(memory_bytes, LAYOUT_HOLE_START);
    const Elf64_Ehdr header = {
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_CORE,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_phoff = sizeof(Elf64_Ehdr),
        .e_ehsize = sizeof(Elf64_Ehdr),
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = memory_bytes > low ? 2 : 1,
    };
    const Elf64_Phdr segments[2] = {
        {.p_type = PT_LOAD,
         .p_flags = PF_R | PF_W | PF_X,
         .p_offset = CORE_DATA_OFFSET,
         .p_filesz = low,
         .p_memsz = low},
        {.p_type = PT_LOAD,
         .p_flags = PF_R | PF_W | PF_X,
         .p_offset = CORE_DATA_OFFSET + low,
         .p_paddr = LAYOUT_HIGH_START,
         .p_filesz = memory_bytes - low,
         .p_memsz = memory_bytes - low},
    };

    memset(out, 0, CORE_DATA_OFFSET);
    memcpy(out, &header, sizeof(header));
    memcpy(out + sizeof(header), segments, header.e_phnum * sizeof(segments[0]));
}

static int write_core(struct space *space, const struct target *target, struct error *err)
{
    uint8_t headers[CORE_DATA_OFFSET];

    core_headers(space_size_bytes(space), headers);
    int r = io_pwrite_full(target->fd, headers, sizeof(headers), 0);
    if (r < 0)
        return cannot_write(target->path, -r, err);
    return write_space(space, "exporting memory", target, CORE_DATA_OFFSET, err);
}

/* ---- the verb ---- */

struct request {
    char space[MANIFEST_SPACE_NAME_MAX + 1];
    const char *path;
    bool memory;
};

static int read_request(const struct arguments *args, struct request *out, struct error *err)
{
    const char *memory = arguments_text(args, "memory", NULL);
    const char *file = arguments_operand(args, 1);
    const bool disk = arguments_has(args, "disk");

    if (disk == (memory != NULL) || disk != (file != NULL)) {
        error_set(err, STATUS_USAGE, EINVAL, "export needs either --disk N FILE or --memory FILE");
        error_hint(err, "stasis help export has an example");
        return -EINVAL;
    }
    out->memory = memory != NULL;
    out->path = out->memory ? memory : file;
    if (out->memory)
        snprintf(out->space, sizeof(out->space), "memory");
    else
        snprintf(out->space, sizeof(out->space), "disk%u",
                 (unsigned)arguments_number(args, "disk", 0));
    return 0;
}

/* Pinned until the store is closed. */
static int open_space(struct cli *cli, const char *reference, const char *name, struct space **out,
                      struct error *err)
{
    _cleanup_free_ struct manifest *m = malloc(sizeof(*m));
    struct store_pin *pin;
    struct digest id;

    if (m == NULL)
        return error_errno(err, ENOMEM, "cannot export");
    int r = reference_resolve(cli, reference, &id, err);
    if (r < 0 || (r = store_pin(cli->store, &id, &pin, err)) < 0 ||
        (r = catalogue_manifest_read(cli->store, &id, m, err)) < 0)
        return r;
    const struct manifest_space *space = manifest_space_find(m, name);
    if (space == NULL) {
        error_set(err, STATUS_NOT_FOUND, ENOENT, "%s has no %s", reference, name);
        if (strcmp(name, "memory") == 0)
            error_hint(err, "it is a cold checkpoint: only disks and a kernel");
        else
            error_hint(err, "it has %u disks, counted from 0", m->config.disk_count);
        return -ENOENT;
    }
    return space_open(cli->store, &space->root, space->size_bytes, out, err);
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    _cleanup_(target_clear) struct target target = {.fd = -1};
    _cleanup_(space_closep) space_t *space = NULL;
    struct request request;

    int r = read_request(args, &request, err);
    if (r < 0 ||
        (r = open_space(cli, arguments_operand(args, 0), request.space, &space, err)) < 0 ||
        (r = target_open(&target, request.path, arguments_has(args, "force"), err)) < 0)
        return r;
    r = request.memory ? write_core(space, &target, err)
                       : write_space(space, "exporting", &target, 0, err);
    if (r < 0 || (r = target_finish(&target, err)) < 0 || !cli->json)
        return r;
    _cleanup_json_ json_t *result =
        json_pack("{s:o, s:s, s:o}", "file", output_text(request.path), "space", request.space,
                  "bytes", output_uint(space_size_bytes(space)));
    return output_json(result, err);
}

static const struct option_spec options[] = {
    {.name = "disk",
     .type = OPTION_NUMBER,
     .value = "N",
     .max = MANIFEST_DISKS_MAX - 1,
     .help = "write disk N, counted from 0, as a raw image"},
    {.name = "memory",
     .type = OPTION_TEXT,
     .value = "FILE",
     .completion = COMPLETE_FILE,
     .help = "write the memory as an ELF core, for gdb and crash"},
    {.name = "force", .letter = 'f', .help = "replace FILE if it is there"},
    COMMAND_OPTION_JSON,
    {0},
};

const struct command command_export = {
    .name = "export",
    .summary = "Write a disk or the memory of a checkpoint to a file",
    .usage = "export REF --disk N FILE\nexport REF --memory FILE",
    .details = "The file has holes where there are only zeros, and appears when it is complete. "
               "Of a running machine this is its last checkpoint, not the present.",
    .example = "stasis export web@patched --disk 0 web.raw",
    .options = options,
    .operands = {{.name = "REF", .completion = COMPLETE_REFERENCE},
                 {.name = "FILE", .optional = true, .completion = COMPLETE_FILE}},
    .run = run,
};
