/* SPDX-License-Identifier: Apache-2.0 */
/* What registry.sh needs of the store and the registry client, without a machine:
 *
 *   make STORE SEED             a checkpoint of 1200 pages; prints its id
 *   make-big STORE SEED PAGES   one of that many random pages
 *   push STORE ID DEST [BYTES]  prints what was sent; with BYTES it is killed once
 *                               that many have been uploaded
 *   pull STORE SOURCE           prints the checkpoint's id and what was fetched
 *   same STORE STORE ID         compares every byte
 *
 * Exits with the status of the error, as stasis does. */
#include "registry/registry.h"

#include "base/cleanup.h"
#include "tests/unit/store-stream/sample.h"

#include <signal.h>
#include <string.h>

static int fail(const struct error *err)
{
    fprintf(stderr, "%s\n", err->message);
    if (err->hint[0] != '\0')
        fprintf(stderr, "hint: %s\n", err->hint);
    return err->status;
}

static int print_id(const struct digest *id)
{
    char hex[DIGEST_HEX_SIZE];

    printf("%s\n", digest_hex(id, hex));
    return 0;
}

static void print_result(const struct registry_result *result)
{
    char checkpoint[DIGEST_HEX_SIZE], manifest[DIGEST_HEX_SIZE];

    printf("checkpoint %s manifest %s total %llu transferred %llu\n",
           digest_hex(&result->checkpoint, checkpoint), digest_hex(&result->manifest, manifest),
           (unsigned long long)result->total_bytes, (unsigned long long)result->transferred_bytes);
}

static int die_after(const char *what, uint64_t done, uint64_t total, void *context)
{
    const uint64_t *limit = context;

    (void)total;
    if (strcmp(what, "uploading") == 0 && done >= *limit)
        raise(SIGKILL);
    return 0;
}

static int push(struct store *store, const char *hex, const char *dest, const char *limit_text)
{
    uint64_t limit = limit_text == NULL ? 0 : strtoull(limit_text, NULL, 10);
    const struct registry_options options = {.progress = limit_text == NULL ? NULL : die_after,
                                             .context = &limit};
    struct registry_result result;
    struct error err = ERROR_INIT;
    struct digest id;

    if (digest_parse(hex, &id) < 0)
        return STATUS_USAGE;
    if (registry_push(store, &id, dest, &options, &result, &err) < 0)
        return fail(&err);
    print_result(&result);
    return 0;
}

static int pull(struct store *store, const char *source)
{
    struct registry_result result;
    struct error err = ERROR_INIT;

    if (registry_pull(store, source, "pulled", "1", NULL, &result, &err) < 0)
        return fail(&err);
    print_result(&result);
    return 0;
}

static int compare(struct store *store, const char *dir, const char *hex)
{
    struct error err = ERROR_INIT;
    struct store *other;
    struct digest id;

    if (digest_parse(hex, &id) < 0)
        return STATUS_USAGE;
    if (store_open(dir, false, &other, &err) < 0)
        return fail(&err);
    sample_assert_same(store, &id, other, &id);
    store_close(other);
    return 0;
}

static int run(struct store *store, int argc, char **argv)
{
    const char *verb = argv[1];
    struct digest id;

    if (strcmp(verb, "make") == 0 && argc == 4) {
        id = sample_checkpoint(store, (uint32_t)strtoul(argv[3], NULL, 10));
        return print_id(&id);
    }
    if (strcmp(verb, "make-big") == 0 && argc == 5) {
        id = sample_big_checkpoint(store, (uint32_t)strtoul(argv[3], NULL, 10),
                                   strtoull(argv[4], NULL, 10));
        return print_id(&id);
    }
    if (strcmp(verb, "push") == 0 && (argc == 5 || argc == 6))
        return push(store, argv[3], argv[4], argc == 6 ? argv[5] : NULL);
    if (strcmp(verb, "pull") == 0 && argc == 4)
        return pull(store, argv[3]);
    if (strcmp(verb, "same") == 0 && argc == 5)
        return compare(store, argv[3], argv[4]);
    return STATUS_USAGE;
}

int main(int argc, char **argv)
{
    struct error err = ERROR_INIT;
    struct store *store;

    if (argc < 3)
        return STATUS_USAGE;
    if (store_open(argv[2], true, &store, &err) < 0)
        return fail(&err);
    int status = run(store, argc, argv);
    store_close(store);
    return status;
}
