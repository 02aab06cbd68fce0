/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store whose files are not what they were. The input is a list of changes of 8
 * bytes: kind, file (modulo how many there are), offset (4 bytes, modulo the file's
 * size), two bytes of data. A file loses its end, loses its name, is doubled, is a
 * directory, or has other bytes.
 */
#include "fuzz.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "store_fuzz.h"

#include <fcntl.h>
#include <sys/stat.h>

enum { CHANGE = 8, FILES_MAX = 32 };

struct names {
    char *list[FILES_MAX];
    size_t count;
};

static void list_files(struct names *names, const char *path)
{
    _cleanup_closedir_ DIR *dir = opendir(path);
    const struct dirent *entry;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        _cleanup_free_ char *name = io_format("%s/%s", path, entry->d_name);

        if (entry->d_name[0] == '.')
            continue;
        if (entry->d_type == DT_DIR)
            list_files(names, name);
        else if (names->count < FILES_MAX)
            names->list[names->count++] = steal_pointer(name);
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void change_bytes(const char *path, const uint8_t *p, size_t length)
{
    _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat st;

    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 2)
        (void)!pwrite(fd, p + 6, length, (off_t)(load_le32(p + 2) % (uint64_t)(st.st_size - 1)));
}

static void cut(const char *path, const uint8_t *p)
{
    struct stat st;

    if (stat(path, &st) == 0 && st.st_size > 0)
        (void)!truncate(path, (off_t)(load_le32(p + 2) % (uint64_t)(st.st_size + 4096)));
}

static void apply(const struct names *names, const uint8_t *p)
{
    const char *path = names->list[p[1] % names->count];
    const char *other = names->list[p[6] % names->count];

    switch (p[0] % 16) {
    case 0:
        unlink(path);
        break;
    case 1:
        cut(path, p);
        break;
    case 2:
        rename(path, other);
        break;
    case 3:
        (void)!link(path, other);
        break;
    case 4:
        if (unlink(path) == 0)
            (void)!mkdir(path, 0700);
        break;
    case 5:
        if (unlink(path) == 0)
            (void)!symlink(other, path);
        break;
    default:
        change_bytes(path, p, 1 + p[0] % 2);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct names names = {0};

    list_files(&names, fuzz_store_copy());
    /* Packs have random names; they come behind the catalogue in any case. */
    qsort(names.list, names.count, sizeof(*names.list), by_name);
    for (size_t at = 0; size - at >= CHANGE && size < 1024; at += CHANGE)
        apply(&names, data + at);
    for (size_t i = 0; i < names.count; i++)
        free(names.list[i]);
    fuzz_store_use();
    return 0;
}
