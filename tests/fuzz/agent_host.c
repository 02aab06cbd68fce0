/* SPDX-License-Identifier: Apache-2.0 */
/* What whoever has connected may say to the agent. */
#include "fuzz.h"

#include "agent/messages.h"

#include <string.h>

static void check_exec(const struct frame *frame)
{
    struct agent_exec m;
    size_t texts = 0;

    if (agent_exec_decode(frame, &m) < 0)
        return;
    for (const char **t = m.argv; *t != NULL; t++)
        texts += strlen(*t) + 5;
    for (const char **t = m.environment; *t != NULL; t++) {
        MUST(strchr(*t, '=') != NULL && (*t)[0] != '=');
        texts += strlen(*t) + 5;
    }
    MUST(texts + strlen(m.directory) + strlen(m.user) < frame->length);
    agent_exec_clear(&m);
}

static void check_identity(const struct frame *frame)
{
    struct agent_identity m;
    uint32_t sum = 0;

    if (agent_identity_decode(frame, &m) < 0)
        return;
    MUST(m.entropy_length <= AGENT_ENTROPY_MAX && m.clock_ns < 1000000000);
    for (uint32_t i = 0; i < m.entropy_length; i++)
        sum += m.entropy[i];
    MUST(sum <= 255 * AGENT_ENTROPY_MAX);
    MUST(strlen(m.host_name) <= 64 && strpbrk(m.host_name, "\n/ ") == NULL);
    MUST(m.machine_id[0] == '\0' || strlen(m.machine_id) == 32);
}

static void check_entry(const struct frame *frame)
{
    struct agent_entry m;
    struct agent_data data;

    if (agent_entry_decode(frame, false, &m) == 0) {
        MUST(m.name[0] != '\0' && strchr(m.name, '/') == NULL);
        MUST(strcmp(m.name, ".") != 0 && strcmp(m.name, "..") != 0);
        MUST((m.mode & ~07777u) == 0 && m.size_bytes <= INT64_MAX);
    }
    if (agent_data_decode(frame, &data) == 0)
        MUST(data.length + 8 == frame->length && data.offset + data.length <= INT64_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct channel ch;
    struct frame frame;
    struct agent_size terminal;

    channel_init(&ch, -1, 0);
    MUST(buffer_append(&ch.in, data, size) == 0);
    while (channel_next(&ch, &frame) > 0) {
        check_exec(&frame);
        check_identity(&frame);
        check_entry(&frame);
        MUST((agent_size_decode(&frame, &terminal) == 0) == (frame.length == 4));
    }
    channel_clear(&ch);
    return 0;
}
