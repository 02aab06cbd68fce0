/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/messages.h"

#include "base/bytes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char magic[8] = {'s', 't', 'a', 's', 'i', 's', 'a', 'g'};

enum { MODE_MASK = 07777, NS_PER_S = 1000000000, EXIT_CODE_MAX = 255, SIGNAL_MAX = 64 };

/* ---- reading: what is missing reads as nothing, and done() tells ---- */

struct reader {
    const uint8_t *p;
    size_t left;
    bool bad;
};

static struct reader begin(const struct frame *frame)
{
    return (struct reader){.p = frame->payload, .left = frame->length};
}

static const uint8_t *get(struct reader *r, size_t length)
{
    if (r->bad || r->left < length) {
        r->bad = true;
        return NULL;
    }
    const uint8_t *p = r->p;
    r->p += length;
    r->left -= length;
    return p;
}

static uint16_t get_u16(struct reader *r)
{
    const uint8_t *p = get(r, 2);
    return p != NULL ? load_le16(p) : 0;
}

static uint32_t get_u32(struct reader *r)
{
    const uint8_t *p = get(r, 4);
    return p != NULL ? load_le32(p) : 0;
}

static uint64_t get_u64(struct reader *r)
{
    const uint8_t *p = get(r, 8);
    return p != NULL ? load_le64(p) : 0;
}

static const char *get_text(struct reader *r)
{
    const uint32_t length = get_u32(r);
    const uint8_t *p = get(r, (size_t)length + 1);

    if (p == NULL)
        return "";
    if (p[length] != '\0' || memchr(p, '\0', length) != NULL)
        r->bad = true;
    return r->bad ? "" : (const char *)p;
}

/* A count of texts and the texts; the array ends with NULL. */
static const char **get_texts(struct reader *r, int *status)
{
    const uint32_t count = get_u32(r);

    /* Each is five bytes at least, which bounds what is allocated. */
    if (r->bad || count > r->left / 5) {
        r->bad = true;
        return NULL;
    }
    const char **texts = calloc((size_t)count + 1, sizeof(*texts));
    if (texts == NULL) {
        *status = -ENOMEM;
        return NULL;
    }
    for (uint32_t i = 0; i < count; i++)
        texts[i] = get_text(r);
    return texts;
}

static int done(const struct reader *r)
{
    return r->bad || r->left > 0 ? -EBADMSG : 0;
}

/* ---- writing: the first failure stays ---- */

struct writer {
    struct buffer *out;
    int status;
};

static void put(struct writer *w, const void *bytes, size_t length)
{
    if (w->status == 0 && length > 0)
        w->status = buffer_append(w->out, bytes, length);
}

static void put_u16(struct writer *w, uint16_t v)
{
    if (w->status == 0)
        w->status = buffer_append_le16(w->out, v);
}

static void put_u32(struct writer *w, uint32_t v)
{
    if (w->status == 0)
        w->status = buffer_append_le32(w->out, v);
}

static void put_u64(struct writer *w, uint64_t v)
{
    if (w->status == 0)
        w->status = buffer_append_le64(w->out, v);
}

static void put_text(struct writer *w, const char *text)
{
    const size_t length = text != NULL ? strlen(text) : 0;

    if (length > AGENT_FRAME_MAX)
        w->status = -EMSGSIZE;
    put_u32(w, (uint32_t)length);
    put(w, text, length);
    put(w, "", 1);
}

static void put_texts(struct writer *w, const char *const *texts)
{
    uint32_t count = 0;

    while (texts != NULL && texts[count] != NULL)
        count++;
    put_u32(w, count);
    for (uint32_t i = 0; i < count; i++)
        put_text(w, texts[i]);
}

/* ---- messages ---- */

int agent_hello_encode(const struct agent_hello *m, struct buffer *out)
{
    struct writer w = {.out = out};

    put(&w, magic, sizeof(magic));
    put_u16(&w, m->protocol);
    put_text(&w, m->version);
    return w.status;
}

int agent_hello_decode(const struct frame *frame, struct agent_hello *out)
{
    struct reader r = begin(frame);

    const uint8_t *p = get(&r, sizeof(magic));
    if (p == NULL || memcmp(p, magic, sizeof(magic)) != 0)
        return -EBADMSG;
    struct agent_hello m = {.version = ""};
    m.protocol = get_u16(&r);
    /* What comes behind the number belongs to a protocol we may not know. */
    if (m.protocol == AGENT_PROTOCOL) {
        m.version = get_text(&r);
        if (done(&r) < 0)
            return -EBADMSG;
    }
    if (r.bad)
        return -EBADMSG;
    *out = m;
    return 0;
}

int agent_exec_encode(const struct agent_exec *m, struct buffer *out)
{
    struct writer w = {.out = out};

    put_u32(&w, m->flags);
    put_u16(&w, m->rows);
    put_u16(&w, m->columns);
    put_texts(&w, m->argv);
    put_texts(&w, m->environment);
    put_text(&w, m->directory);
    put_text(&w, m->user);
    return w.status;
}

static bool is_assignment(const char *text)
{
    return text[0] != '=' && strchr(text, '=') != NULL;
}

int agent_exec_decode(const struct frame *frame, struct agent_exec *out)
{
    struct reader r = begin(frame);
    int status = 0;
    struct agent_exec m;

    m.flags = get_u32(&r);
    m.rows = get_u16(&r);
    m.columns = get_u16(&r);
    m.argv = get_texts(&r, &status);
    m.environment = get_texts(&r, &status);
    m.directory = get_text(&r);
    m.user = get_text(&r);
    if (status == 0)
        status = (m.flags & ~(uint32_t)AGENT_EXEC_FLAGS) != 0 ? -EBADMSG : done(&r);
    for (const char **e = m.environment; status == 0 && *e != NULL; e++)
        if (!is_assignment(*e))
            status = -EBADMSG;
    if (status < 0)
        agent_exec_clear(&m);
    else
        *out = m;
    return status;
}

void agent_exec_clear(struct agent_exec *m)
{
    free(m->argv);
    free(m->environment);
    m->argv = m->environment = NULL;
}

int agent_copy_encode(const struct agent_copy *m, struct buffer *out)
{
    return agent_text_encode(m->path, out);
}

int agent_copy_decode(const struct frame *frame, struct agent_copy *out)
{
    return agent_text_decode(frame, &out->path);
}

int agent_identity_encode(const struct agent_identity *m, struct buffer *out)
{
    struct writer w = {.out = out};

    put_u32(&w, m->flags);
    put_u64(&w, (uint64_t)m->clock_s);
    put_u32(&w, m->clock_ns);
    put_u32(&w, m->entropy_length);
    put(&w, m->entropy, m->entropy_length);
    put_text(&w, m->host_name);
    put_text(&w, m->machine_id);
    return w.status;
}

static bool is_machine_id(const char *text)
{
    return text[0] == '\0' || (strlen(text) == 32 && strspn(text, "0123456789abcdef") == 32);
}

static bool is_host_name(const char *text)
{
    return strlen(text) <= 64 &&
           text[strspn(
               text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._")] == '\0';
}

int agent_identity_decode(const struct frame *frame, struct agent_identity *out)
{
    struct reader r = begin(frame);
    struct agent_identity m;

    m.flags = get_u32(&r);
    m.clock_s = (int64_t)get_u64(&r);
    m.clock_ns = get_u32(&r);
    m.entropy_length = get_u32(&r);
    if (m.entropy_length > AGENT_ENTROPY_MAX || m.clock_s < 0 || m.clock_ns >= NS_PER_S ||
        (m.flags & ~(uint32_t)AGENT_IDENTITY_FLAGS) != 0)
        return -EBADMSG;
    m.entropy = get(&r, m.entropy_length);
    m.host_name = get_text(&r);
    m.machine_id = get_text(&r);
    if (done(&r) < 0 || !is_host_name(m.host_name) || !is_machine_id(m.machine_id))
        return -EBADMSG;
    *out = m;
    return 0;
}

int agent_failure_encode(const struct agent_failure *m, struct buffer *out)
{
    struct writer w = {.out = out};

    put_u32(&w, m->code);
    put_u32(&w, m->errnum);
    put_text(&w, m->message);
    return w.status;
}

int agent_failure_decode(const struct frame *frame, struct agent_failure *out)
{
    struct reader r = begin(frame);
    struct agent_failure m;

    m.code = get_u32(&r);
    m.errnum = get_u32(&r);
    m.message = get_text(&r);
    if (done(&r) < 0 || m.code > EXIT_CODE_MAX)
        return -EBADMSG;
    *out = m;
    return 0;
}

int agent_end_encode(const struct agent_end *m, struct buffer *out)
{
    struct writer w = {.out = out};

    put_u32(&w, m->by_signal);
    put_u32(&w, m->value);
    return w.status;
}

int agent_end_decode(const struct frame *frame, struct agent_end *out)
{
    struct reader r = begin(frame);
    const uint32_t by_signal = get_u32(&r);
    const uint32_t value = get_u32(&r);

    if (done(&r) < 0 || by_signal > 1 || value > (by_signal ? SIGNAL_MAX : EXIT_CODE_MAX))
        return -EBADMSG;
    *out = (struct agent_end){.by_signal = by_signal != 0, .value = value};
    return 0;
}

int agent_size_encode(const struct agent_size *m, struct buffer *out)
{
    struct writer w = {.out = out};

    put_u16(&w, m->rows);
    put_u16(&w, m->columns);
    return w.status;
}

int agent_size_decode(const struct frame *frame, struct agent_size *out)
{
    struct reader r = begin(frame);
    struct agent_size m;

    m.rows = get_u16(&r);
    m.columns = get_u16(&r);
    if (done(&r) < 0)
        return -EBADMSG;
    *out = m;
    return 0;
}

int agent_entry_encode(const struct agent_entry *m, struct buffer *out)
{
    struct writer w = {.out = out};

    put_u32(&w, m->mode);
    put_u64(&w, (uint64_t)m->mtime_s);
    put_u32(&w, m->mtime_ns);
    put_u64(&w, m->size_bytes);
    put_text(&w, m->name);
    put_text(&w, m->target);
    return w.status;
}

int agent_entry_encode_stat(enum agent_frame type, const struct stat *st, const char *name,
                            const char *target, struct buffer *out)
{
    const struct agent_entry entry = {
        .mode = st->st_mode & MODE_MASK,
        .mtime_s = st->st_mtim.tv_sec,
        .mtime_ns = (uint32_t)st->st_mtim.tv_nsec,
        .size_bytes = type == AGENT_FILE ? (uint64_t)st->st_size : 0,
        .name = name,
        .target = target,
    };

    return agent_entry_encode(&entry, out);
}

/* Whoever takes it for one component of a path must not be led elsewhere. */
static bool is_file_name(const char *name, bool first)
{
    if (strcmp(name, ".") == 0)
        return first;
    return name[0] != '\0' && strlen(name) <= AGENT_NAME_MAX && strchr(name, '/') == NULL &&
           strcmp(name, "..") != 0;
}

int agent_entry_decode(const struct frame *frame, bool first, struct agent_entry *out)
{
    struct reader r = begin(frame);
    struct agent_entry m;

    m.mode = get_u32(&r);
    m.mtime_s = (int64_t)get_u64(&r);
    m.mtime_ns = get_u32(&r);
    m.size_bytes = get_u64(&r);
    m.name = get_text(&r);
    m.target = get_text(&r);
    if (done(&r) < 0 || (m.mode & ~(uint32_t)MODE_MASK) != 0 || m.mtime_ns >= NS_PER_S ||
        m.size_bytes > INT64_MAX || !is_file_name(m.name, first) ||
        (frame->type == AGENT_LINK) != (m.target[0] != '\0'))
        return -EBADMSG;
    *out = m;
    return 0;
}

int agent_data_decode(const struct frame *frame, struct agent_data *out)
{
    struct reader r = begin(frame);
    const uint64_t offset = get_u64(&r);
    const struct agent_data m = {.offset = offset, .bytes = r.p, .length = r.left};
    uint64_t end;

    if (r.bad || add_overflows(m.offset, m.length, &end) || end > INT64_MAX)
        return -EBADMSG;
    *out = m;
    return 0;
}

int agent_u32_decode(const struct frame *frame, uint32_t *out)
{
    if (frame->length != 4)
        return -EBADMSG;
    *out = load_le32(frame->payload);
    return 0;
}

int agent_u64_decode(const struct frame *frame, uint64_t *out)
{
    if (frame->length != 8)
        return -EBADMSG;
    *out = load_le64(frame->payload);
    return 0;
}

int agent_text_encode(const char *text, struct buffer *out)
{
    struct writer w = {.out = out};

    put_text(&w, text);
    return w.status;
}

int agent_text_decode(const struct frame *frame, const char **out)
{
    struct reader r = begin(frame);
    const char *text = get_text(&r);

    if (done(&r) < 0)
        return -EBADMSG;
    *out = text;
    return 0;
}
