/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest may say to the host: answers of all kinds, and a tree of files. */
#include "fuzz.h"

#include "agent/messages.h"
#include "agent/tree.h"
#include "base/io.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* DIR/box is the destination; whatever is sent, DIR holds nothing else. */
static char dir[64];

static void prepare(void)
{
    snprintf(dir, sizeof(dir), "/tmp/stasis-fuzz-agent-%d", (int)getpid());
    io_remove_tree(dir);
    MUST(mkdir(dir, 0700) == 0);
}

static void clean(void)
{
    io_remove_tree(dir);
}

static void check_text(const char *text, const struct frame *frame)
{
    MUST(strlen(text) <= frame->length);
}

static void decode(const struct frame *frame)
{
    struct agent_hello hello;
    struct agent_failure failure;
    struct agent_end end;
    const char *text;
    uint32_t number;

    if (agent_hello_decode(frame, &hello) == 0)
        check_text(hello.version, frame);
    if (agent_failure_decode(frame, &failure) == 0)
        check_text(failure.message, frame);
    if (agent_end_decode(frame, &end) == 0)
        MUST(end.value <= 255);
    if (agent_text_decode(frame, &text) == 0)
        check_text(text, frame);
    MUST((agent_u32_decode(frame, &number) == 0) == (frame->length == 4));
}

static void load(struct channel *ch, const uint8_t *data, size_t size)
{
    channel_init(ch, -1, 0);
    MUST(buffer_append(&ch->in, data, size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct tree_options options = {.mode_mask = 0777};
    struct error err = ERROR_INIT;
    struct channel ch;
    struct frame frame;
    char box[80];
    struct stat st;

    if (dir[0] == '\0') {
        prepare();
        atexit(clean);
    }
    load(&ch, data, size);
    while (channel_next(&ch, &frame) > 0)
        decode(&frame);
    channel_clear(&ch);

    snprintf(box, sizeof(box), "%s/box", dir);
    MUST(mkdir(box, 0700) == 0);
    load(&ch, data, size);
    tree_receive(&ch, box, &options, &err);
    channel_clear(&ch);
    MUST(io_remove_tree(box) == 0);
    MUST(stat(dir, &st) == 0 && st.st_nlink == 2);
    return 0;
}
