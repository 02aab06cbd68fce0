/* SPDX-License-Identifier: Apache-2.0 */
#include "samples.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "imgfmt/state.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <xxhash.h>

void sample_page(uint32_t seed, uint8_t page[STASIS_PAGE_SIZE])
{
    uint32_t x = seed * 2654435761u + 1;

    for (size_t i = 0; i < STASIS_PAGE_SIZE; i += sizeof(x)) {
        if (seed % 2 == 1)
            x = x * 1664525u + 1013904223u;
        store_le32(page + i, x ^ x >> 15);
    }
}

struct page_ref sample_ref(uint32_t n)
{
    return (struct page_ref){.lo = n + UINT64_C(0x1122334455667700), .hi = (uint64_t)n << 16};
}

void sample_leaf(struct map_node *out)
{
    *out = (struct map_node){.level = 0, .present = UINT32_C(1) << 31 | 5};
    out->pages[0] = sample_ref(1);
    out->pages[2] = page_ref_with_variant(sample_ref(2), 3);
    out->pages[31] = sample_ref(32);
}

void sample_inner(struct map_node *out)
{
    *out = (struct map_node){.level = 2, .present = UINT32_C(1) << 10 | 1};
    out->children[0] = digest_of("first", 5);
    out->children[10] = digest_of("second", 6);
}

void sample_cold(struct manifest *out)
{
    struct digest root = digest_of("disk", 4);

    *out = (struct manifest){.kind = CHECKPOINT_COLD, .created_us = INT64_C(1769862896123456)};
    out->config = (struct machine_config){.vcpus = 1, .memory_bytes = 256u << 20};
    out->config.disk_count = 1;
    manifest_space_set(out, "disk0", UINT64_C(1) << 30, &root);
}

void sample_warm(struct manifest *out)
{
    struct digest root = digest_of("memory", 6);

    sample_cold(out);
    out->kind = CHECKPOINT_WARM;
    out->has_parent = true;
    out->parent = digest_of("parent", 6);
    out->config.vcpus = 2;
    out->config.rng = true;
    memcpy(out->config.cmdline, "console=ttyS0 quote=\" \xc3\xa4", 25);
    out->config.disk_count = 2;
    out->config.disks[1].read_only = true;
    manifest_space_set(out, "disk1", 512, &root);
    manifest_space_set(out, "kernel", 8191, &root);
    manifest_space_set(out, "initrd", 0, &root);
    manifest_space_set(out, "memory", 256u << 20, &root);
    out->has_state = true;
    out->state = digest_of("state", 5);
    out->state_bytes = 12345;
}

void sample_net(struct manifest *out)
{
    static const uint8_t macs[][MANIFEST_MAC_SIZE] = {{0x52, 0x54, 0, 0x12, 0x34, 0x56},
                                                      {0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54}};

    sample_cold(out);
    for (; out->config.net_count < 2; out->config.net_count++)
        memcpy(out->config.nets[out->config.net_count].mac, macs[out->config.net_count],
               MANIFEST_MAC_SIZE);
}

void sample_vsock(struct manifest *out)
{
    sample_cold(out);
    out->config.vsock = true;
}

void sample_cpu(struct manifest *out)
{
    sample_warm(out);
    out->config.balloon = true;
    out->config.cpu = CPU_BASELINE_V2;
    snprintf(out->cpu_features, sizeof(out->cpu_features), "sse4_2 cx16 cpuid-7.1-eax-26");
}

int sample_state(struct buffer *out)
{
    struct state_writer w;

    state_writer_init(&w);
    state_writer_begin(&w, STATE_VCPU_REGS, 1, 1, 0);
    state_put_u64(&w, UINT64_C(0x1122334455667788));
    state_put_u32(&w, 0x99aabbcc);
    state_writer_end(&w);
    state_writer_begin(&w, STATE_SERIAL, 0, 2, 0);
    state_put_u8(&w, 7);
    state_put_u16(&w, 0x0102);
    state_put_bytes(&w, "tail", 4);
    state_writer_end(&w);
    state_writer_begin(&w, (enum state_type)60000, 9, 1, STATE_FLAG_OPTIONAL);
    state_writer_end(&w);
    int r = state_writer_finish(&w, out);
    state_writer_clear(&w);
    return r;
}

int sample_file(const void *data, size_t length)
{
    int fd = memfd_create("sample", MFD_CLOEXEC);

    if (fd < 0 || io_pwrite_full(fd, data, length, 0) < 0)
        abort();
    return fd;
}

void sample_contents(int fd, struct buffer *out)
{
    struct stat st;

    if (fstat(fd, &st) < 0 || buffer_reserve(out, (size_t)st.st_size) < 0 ||
        io_pread_full(fd, out->data, (size_t)st.st_size, 0) < 0)
        abort();
    out->length = (size_t)st.st_size;
}

DEFINE_CLEANUP(struct pack_writer, pack_writer_free)

static void add_page_group(struct pack_writer *w, const uint32_t *seeds, unsigned count)
{
    uint8_t raw[SAMPLE_PACK_PAGES][STASIS_PAGE_SIZE];
    struct pack_object_id ids[SAMPLE_PACK_PAGES];
    uint32_t group;

    for (unsigned i = 0; i < count; i++) {
        sample_page(seeds[i], raw[i]);
        page_ref_store(sample_ref(seeds[i] + 1), ids[i].bytes);
    }
    if (pack_writer_group(w, raw, count * STASIS_PAGE_SIZE, ids, count, &group, NULL) < 0)
        abort();
}

int sample_pages_pack(void)
{
    static const uint32_t compressible[] = {0, 2, 4, 6};
    static const uint32_t random[] = {1};
    int fd = sample_file("", 0);
    _cleanup_(pack_writer_freep) struct pack_writer *w = NULL;

    if (pack_writer_open(fd, PACK_PAGES, 1, &w, NULL) < 0)
        abort();
    add_page_group(w, compressible, ARRAY_LEN(compressible));
    add_page_group(w, random, ARRAY_LEN(random));
    if (pack_writer_finish(w, NULL) < 0)
        abort();
    return fd;
}

int sample_protected_pack(void)
{
    int fd = sample_file("", 0);
    _cleanup_(pack_writer_freep) struct pack_writer *w = NULL;

    if (pack_writer_open(fd, PACK_PAGES, 1, &w, NULL) < 0 || pack_writer_protect(w, NULL) < 0)
        abort();
    for (uint32_t i = 0; i < SAMPLE_PROTECTED_GROUPS; i++)
        add_page_group(w, &i, 1);
    if (pack_writer_finish(w, NULL) < 0)
        abort();
    return fd;
}

int sample_nodes_pack(void)
{
    uint8_t raw[2 * MAP_NODE_MAX_SIZE];
    struct pack_object_id ids[2];
    struct map_node node;
    uint32_t group;
    int fd = sample_file("", 0);
    _cleanup_(pack_writer_freep) struct pack_writer *w = NULL;

    sample_leaf(&node);
    size_t first = map_node_encode(&node, raw);
    sample_inner(&node);
    size_t second = map_node_encode(&node, raw + first);
    struct digest a = digest_of(raw, first);
    struct digest b = digest_of(raw + first, second);
    memcpy(ids[0].bytes, a.bytes, sizeof(ids[0].bytes));
    memcpy(ids[1].bytes, b.bytes, sizeof(ids[1].bytes));
    if (pack_writer_open(fd, PACK_NODES, 1, &w, NULL) < 0 ||
        pack_writer_group(w, raw, first + second, ids, 2, &group, NULL) < 0 ||
        pack_writer_finish(w, NULL) < 0)
        abort();
    return fd;
}

void sample_pack_reseal(struct buffer *pack)
{
    uint8_t *trailer = pack->data + pack->length - PACK_TRAILER_SIZE;
    uint64_t footer = load_le64(trailer);
    _cleanup_(buffer_clear) struct buffer sealed = {0};

    if (footer > pack->length - PACK_TRAILER_SIZE)
        return;
    if (buffer_append(&sealed, pack->data, PACK_HEADER_SIZE) < 0 ||
        buffer_append(&sealed, pack->data + footer, pack->length - PACK_TRAILER_SIZE - footer) <
            0 ||
        buffer_append(&sealed, trailer, 40) < 0)
        abort();
    store_le64(trailer + 40, XXH3_64bits(sealed.data, sealed.length));
}
