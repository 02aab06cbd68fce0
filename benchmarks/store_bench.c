/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_store MEMORY_FILE WORK_DIR [PART...]
 *
 * Measures the store beside bare loops in the same process, in turns, on the
 * pages of MEMORY_FILE. Prints a line for each figure: name, ours, reference, the
 * goal for the ratio, which way is better, unit.
 *
 * bench_store put STORE FILE
 *
 * Records a file as a checkpoint, durably; for comparing with other programs.
 */
#include "benchmarks/store_bench.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

static void put(const char *dir, const char *path)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct store *store = open_store(dir);
    struct error err = ERROR_INIT;
    struct ingest *in;
    struct digest root;
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        fail("cannot open %s: %s", path, strerror(errno));
    need(ingest_begin(store, &in, &err), &err, "beginning");
    need(ingest_file(in, fd, (uint64_t)st.st_size, NULL, NULL, &root, &err), &err, path);
    commit_map(in, &root, (uint64_t)st.st_size);
    ingest_free(in);
    store_close(store);
}

static const uint8_t *load(const char *path, uint64_t *pages_out)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    void *data;

    if (fd < 0 || fstat(fd, &st) < 0)
        fail("cannot open %s: %s", path, strerror(errno));
    data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (data == MAP_FAILED)
        fail("cannot map %s: %s", path, strerror(errno));
    *pages_out = (uint64_t)st.st_size / STASIS_PAGE_SIZE;
    return data;
}

/* A thousand and more pages in a row that are mostly not zero. */
static const uint8_t *dense_pages(const uint8_t *data, uint64_t pages)
{
    enum { WANTED = 1024 };

    for (uint64_t first = 0; first + WANTED <= pages; first += WANTED) {
        unsigned present = 0;

        for (uint64_t i = first; i < first + WANTED; i++)
            present += !page_is_zero(data + i * STASIS_PAGE_SIZE);
        if (present > WANTED * 9 / 10)
            return data + first * STASIS_PAGE_SIZE;
    }
    fail("the memory is nearly empty");
}

static bool wanted(const char *part, int count, char **parts)
{
    for (int i = 0; i < count; i++)
        if (strcmp(parts[i], part) == 0)
            return true;
    return count == 0;
}

int main(int argc, char **argv)
{
    const uint8_t *data;
    uint64_t pages;

    if (argc == 4 && strcmp(argv[1], "put") == 0) {
        put(argv[2], argv[3]);
        return 0;
    }
    if (argc < 3)
        fail("usage: bench_store MEMORY_FILE WORK_DIR [data|commit|map|index|gc]...");
    data = load(argv[1], &pages);
    if (wanted("data", argc - 3, argv + 3))
        bench_data(argv[2], data, pages);
    if (wanted("commit", argc - 3, argv + 3))
        bench_commit(argv[2], dense_pages(data, pages));
    if (wanted("map", argc - 3, argv + 3))
        bench_map_overhead(argv[2]);
    if (wanted("index", argc - 3, argv + 3))
        bench_index(argv[2]);
    if (wanted("gc", argc - 3, argv + 3))
        bench_gc(argv[2], data, pages);
    return 0;
}
