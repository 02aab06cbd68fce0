/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verb "pages": a damaged store asks a running machine for pages that it may still
 * have in its memory. Nothing is known of where they would be, so a stretch of memory
 * is hashed with each request; whoever asks goes on with the next one. Stretches are
 * short, because devices wait meanwhile.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/digest.h"
#include "imgfmt/page.h"
#include "vmm/memory.h"
#include "vmm/process/process.h"

#include <errno.h>

enum { KEYS_MAX = 64, STRETCH_PAGES = 16384 };

struct wanted {
    struct page_ref keys[KEYS_MAX];
    bool sent[KEYS_MAX];
    unsigned count;
    uint8_t maybe[65536]; /* by the lowest bits of keys: nearly always 0 */
};

static int read_keys(json_t *args, struct wanted *out)
{
    json_t *list = json_object_get(args, "keys"), *item;
    uint8_t bytes[PAGE_REF_SIZE];
    size_t i;

    if (!json_is_array(list) || json_array_size(list) > KEYS_MAX)
        return -EINVAL;
    json_array_foreach(list, i, item)
    {
        const char *text = json_string_value(item);

        if (text == NULL || strlen(text) != 2 * sizeof(bytes) ||
            hex_decode(text, bytes, sizeof(bytes)) < 0)
            return -EINVAL;
        out->keys[i] = page_ref_load(bytes);
        out->maybe[out->keys[i].lo & 0xffff] = 1;
        out->count++;
    }
    return 0;
}

static void append_page(json_t *list, const uint8_t *page)
{
    char hex[2 * STASIS_PAGE_SIZE + 1];

    json_array_append_new(list, json_string(hex_encode(page, STASIS_PAGE_SIZE, hex)));
}

/* The guest may be writing to it: what is sent is a copy that has the key. */
static void send_if_wanted(struct wanted *wanted, const uint8_t *page, json_t *list)
{
    struct page_ref ref = page_ref_of(page);
    uint8_t copy[STASIS_PAGE_SIZE];

    if (!wanted->maybe[ref.lo & 0xffff])
        return;
    for (unsigned i = 0; i < wanted->count; i++) {
        if (wanted->sent[i] || !page_ref_same_key(wanted->keys[i], ref))
            continue;
        memcpy(copy, page, sizeof(copy));
        if (!page_ref_same_key(page_ref_of(copy), ref))
            return;
        wanted->sent[i] = true;
        append_page(list, copy);
        return;
    }
}

bool verb_pages(struct process *p, struct client *client, json_t *args)
{
    _cleanup_free_ struct wanted *wanted = calloc(1, sizeof(*wanted));
    const struct memory *mem = p->board->memory;
    uint64_t pages = mem->size_bytes / STASIS_PAGE_SIZE;
    json_int_t from = json_integer_value(json_object_get(args, "from"));
    struct error err;

    if (wanted == NULL || read_keys(args, wanted) < 0 || from < 0) {
        error_set(&err, STATUS_USAGE, EINVAL, "pages are asked for by up to %d keys", KEYS_MAX);
        control_reply_error(p, client, &err);
        return true;
    }
    uint64_t first = min_u64((uint64_t)from, pages);
    uint64_t end = first + min_u64(STRETCH_PAGES, pages - first);
    json_t *list = json_array();

    for (uint64_t i = first; i < end; i++)
        send_if_wanted(wanted, mem->hva + i * STASIS_PAGE_SIZE, list);
    control_reply(p, client,
                  json_pack("{s:o, s:o}", "pages", list, "next",
                            end < pages ? json_integer((json_int_t)end) : json_null()));
    return true;
}
