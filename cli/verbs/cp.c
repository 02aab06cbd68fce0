/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/tree.h"
#include "base/cleanup.h"
#include "cli/guest.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/unpack.h"
#include "cli/verbs/verbs.h"

#include <errno.h>
#include <string.h>

enum { STALL_MS = 60000, ID_DIGITS_MIN = 8 };

/* "web:/etc/hosts": a guest's; "web@one:/etc/hosts", "debian:12:/etc/hosts": of a
 * checkpoint or image; all else is a file here. As with scp, a ':' behind a '/' is part
 * of a name. */
struct place {
    char machine[MACHINE_NAME_MAX + 2]; /* "": here, or a checkpoint */
    bool checkpoint;                    /* path is REF:PATH */
    const char *path;
    const char *inside; /* PATH */
};

/* PATH behind something that only a checkpoint or image is called ("web@one",
 * "debian:12", an id); NULL if this is none. */
static const char *find_inside(const char *text, size_t length, const char *path)
{
    const size_t tag = strcspn(path, "/:");

    if (memchr(text, '@', length) == NULL && path[tag] == ':')
        return path + tag + 1;
    return memchr(text, '@', length) != NULL ||
                   (length >= ID_DIGITS_MIN && strspn(text, "0123456789abcdef") == length)
               ? path
               : NULL;
}

static int parse_place(const char *text, struct place *out, struct error *err)
{
    const char *colon = strchr(text, ':');
    const char *slash = strchr(text, '/');

    *out = (struct place){.path = text};
    if (colon == NULL || (slash != NULL && slash < colon))
        return 0;
    const size_t length = (size_t)(colon - text);
    out->inside = find_inside(text, length, colon + 1);
    if (out->inside != NULL) {
        out->checkpoint = true;
        return 0;
    }
    if (length >= sizeof(out->machine))
        return error_set(err, STATUS_USAGE, EINVAL, "'%s' names no machine", text);
    memcpy(out->machine, text, length);
    out->machine[length] = '\0';
    out->path = out->inside = colon[1] != '\0' ? colon + 1 : ".";
    if (home_name_is_valid(out->machine))
        return 0;
    return error_set(err, STATUS_USAGE, EINVAL, "'%s' cannot be the name of a machine",
                     out->machine);
}

static int parse_places(const struct arguments *args, struct place *from, struct place *to,
                        struct error *err)
{
    int r = parse_place(arguments_operand(args, 0), from, err);
    if (r < 0 || (r = parse_place(arguments_operand(args, 1), to, err)) < 0)
        return r;
    if (to->checkpoint) {
        error_set(err, STATUS_USAGE, EROFS, "%s is a checkpoint: nothing changes it", to->path);
        error_hint(err, "copy into a machine, or into a clone of it");
        return -EROFS;
    }
    if ((from->checkpoint || from->machine[0] != '\0') != (to->machine[0] != '\0'))
        return 0;
    error_set(err, STATUS_USAGE, EINVAL, "cp needs one place in a machine and one here");
    error_hint(err, "write MACHINE:/path for the former; a file here whose name has a ':' as "
                    "./name");
    return -EINVAL;
}

struct job {
    const struct cli *cli;
    struct progress progress;
    unsigned left_out;
};

static int advance(uint64_t done_bytes, uint64_t total_bytes, void *context)
{
    struct job *job = context;

    job->progress.total = total_bytes;
    return progress_step(&job->progress, done_bytes);
}

static void remark(const char *text, void *context)
{
    struct job *job = context;

    job->left_out++;
    cli_note(job->cli, "%s", text);
}

/* In: the guest's agent says at the end whether it has it all. */
static int transfer(struct channel *ch, const struct place *from, const struct place *to,
                    const struct tree_options *options, struct error *err)
{
    _cleanup_(buffer_clear) struct buffer payload = {0};
    const bool in = to->machine[0] != '\0';
    const struct agent_copy request = {.path = in ? to->path : from->path};

    int r = agent_copy_encode(&request, &payload);
    if (r < 0)
        return error_errno(err, -r, "cannot copy");
    r = agent_request(ch, in ? AGENT_COPY_IN : AGENT_COPY_OUT, &payload, err);
    if (r < 0)
        return r;
    if (!in)
        return tree_receive(ch, to->path, options, err);
    r = tree_send(ch, from->path, options, err);
    return r < 0 ? r : agent_await_done(ch, options->warn, options->context, err);
}

static int copy_guest(struct cli *cli, const struct place *from, const struct place *to,
                      const struct tree_options *options, struct error *err)
{
    const char *machine = from->machine[0] != '\0' ? from->machine : to->machine;
    struct channel ch;

    int r = guest_connect(cli, machine, AGENT_HANDSHAKE_MS, &ch, err);
    if (r < 0)
        return r;
    ch.patience_ms = STALL_MS;
    ch.give_up = interrupt_pending;
    r = transfer(&ch, from, to, options, err);
    channel_clear(&ch);
    if (r < 0 && err->status != STATUS_INTERRUPTED)
        error_prefix(err, "cannot copy");
    return r;
}

static int run(struct cli *cli, const struct arguments *args, struct error *err)
{
    struct place from, to;
    struct job job = {.cli = cli};
    /* What a guest says of set-user-id means nothing here. */
    struct tree_options options = {
        .progress = advance, .warn = remark, .context = &job, .mode_mask = 0777};

    int r = parse_places(args, &from, &to, err);
    if (r < 0)
        return r;
    options.asked = from.inside;
    progress_begin(&job.progress, "copying", 0);
    r = from.checkpoint ? unpack_checkpoint(cli, from.path, to.path, &options, err)
                        : copy_guest(cli, &from, &to, &options, err);
    progress_end(&job.progress);
    if (r == 0 && job.left_out > 0)
        return error_set(err, STATUS_PARTLY, EIO, "%u could not be copied", job.left_out);
    return r;
}

static const struct option_spec options_list[] = {
    COMMAND_OPTION_QUIET,
    {0},
};

const struct command command_cp = {
    .name = "cp",
    .summary = "Copy files into machines and out of them",
    .usage = "cp FILE MACHINE:PATH\n"
             "cp MACHINE:PATH FILE\n"
             "cp REF:PATH FILE",
    .details =
        "Whole directories as well, with modes, times and symbolic links; by the agent in "
        "the guest, or out of a checkpoint or image, where PATH is as with cat. If the destination "
        "is a directory it goes into it, else it is the new "
        "name; of SRC/. the content is copied. Paths in a guest that do not begin with / "
        "are below root's home. A file that is replaced keeps its owner; new ones are "
        "root's in a guest, and yours here, without set-user-id. What is neither file, "
        "directory nor link is left out, and the exit code is 3.",
    .example = "stasis cp web:/var/log/messages .",
    .options = options_list,
    .operands = {{.name = "SRC", .completion = COMPLETE_FILE},
                 {.name = "DST", .completion = COMPLETE_FILE}},
    .run = run,
};
