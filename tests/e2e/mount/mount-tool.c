/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the test of the mount needs of the project, without machines:
 *
 *   mount-tool checkpoint STORE [machine=M] [name=N] [image=NAME] [tag=T]
 *              [parent=ID] [memory=FILE] [kernel=FILE] [initrd=FILE] [disk=FILE]...
 *   mount-tool machine STORE NAME ID
 *   mount-tool mount [-f] STORE DIR
 *   mount-tool umount DIR
 *
 * Exit codes are the command line's.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "fuse-mount/mount.h"
#include "store/catalogue.h"
#include "store/ingest.h"
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

struct request {
    struct manifest manifest;
    struct ingest_commit commit;
};

static int add_space(struct ingest *in, struct manifest *m, const char *name, const char *path,
                     struct error *err)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct digest root;
    struct stat st;
    int r;

    if (fd < 0 || fstat(fd, &st) < 0)
        return error_errno(err, errno, "cannot open %s", path);
    r = ingest_file(in, fd, (uint64_t)st.st_size, NULL, NULL, &root, err);
    return r < 0 ? r : manifest_space_set(m, name, (uint64_t)st.st_size, &root);
}

static int add_memory(struct ingest *in, struct manifest *m, const char *path, struct error *err)
{
    static const char state[] = "no state that could be resumed";
    int r = add_space(in, m, "memory", path, err);

    if (r == 0)
        r = ingest_blob(in, state, sizeof(state), &m->state, err);
    m->kind = CHECKPOINT_WARM;
    m->has_state = true;
    m->state_bytes = sizeof(state);
    if (r == 0)
        m->config.memory_bytes = manifest_space_find(m, "memory")->size_bytes;
    return r;
}

static int apply(struct ingest *in, struct request *q, const char *argument, struct error *err)
{
    const char *value = strchr(argument, '=');
    char name[MANIFEST_SPACE_NAME_MAX + 1];
    size_t length;

    if (value == NULL)
        return error_set(err, STATUS_USAGE, EINVAL, "%s is not KEY=VALUE", argument);
    length = (size_t)(value++ - argument);
    snprintf(name, sizeof(name), "%.*s", (int)length, argument);
    if (strcmp(name, "machine") == 0)
        q->commit.machine = value;
    else if (strcmp(name, "name") == 0)
        q->commit.name = value;
    else if (strcmp(name, "image") == 0)
        q->commit.image = value;
    else if (strcmp(name, "tag") == 0)
        q->commit.tag = value;
    else if (strcmp(name, "memory") == 0)
        return add_memory(in, &q->manifest, value, err);
    else if (strcmp(name, "parent") == 0) {
        q->manifest.has_parent = true;
        return digest_parse(value, &q->manifest.parent);
    } else if (strcmp(name, "disk") == 0) {
        snprintf(name, sizeof(name), "disk%u", q->manifest.config.disk_count++);
        return add_space(in, &q->manifest, name, value, err);
    } else
        return add_space(in, &q->manifest, name, value, err);
    return 0;
}

static int cmd_checkpoint(int argc, char **argv, struct error *err)
{
    struct store *store = NULL;
    struct ingest *in = NULL;
    struct request q = {.manifest = {.kind = CHECKPOINT_COLD, .created_us = 1700000000000000}};
    char hex[DIGEST_HEX_SIZE];
    struct digest id;
    int r = store_open(argv[0], true, &store, err);

    q.manifest.config.vcpus = 1;
    q.manifest.config.memory_bytes = 64u << 20;
    q.commit.manifest = &q.manifest;
    if (r == 0)
        r = ingest_begin(store, &in, err);
    for (int i = 1; i < argc && r == 0; i++)
        r = apply(in, &q, argv[i], err);
    if (r == 0)
        r = ingest_commit(in, &q.commit, &id, err);
    if (r == 0)
        printf("%s\n", digest_hex(&id, hex));
    ingest_free(in);
    store_close(store);
    return r;
}

static int cmd_machine(int argc, char **argv, struct error *err)
{
    struct store *store = NULL;
    struct digest id;
    int r = argc < 3 ? -EINVAL : store_open(argv[0], false, &store, err);

    if (r == 0)
        r = digest_parse(argv[2], &id);
    if (r == 0)
        r = catalogue_machine_create(store, argv[1], &id, err);
    store_close(store);
    return r;
}

static int cmd_mount(int argc, char **argv, struct error *err)
{
    struct mount_options options = {.foreground = argc > 0 && strcmp(argv[0], "-f") == 0};
    int skip = options.foreground ? 1 : 0;

    if (argc - skip != 2)
        return error_set(err, STATUS_USAGE, EINVAL, "mount needs STORE DIR");
    return mount_serve(argv[skip], argv[skip + 1], &options, err);
}

static int cmd_umount(int argc, char **argv, struct error *err)
{
    (void)argc;
    return mount_end(argv[0], err);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv, struct error *err);
    } verbs[] = {{"checkpoint", cmd_checkpoint},
                 {"machine", cmd_machine},
                 {"mount", cmd_mount},
                 {"umount", cmd_umount}};
    struct error err = ERROR_INIT;

    for (size_t i = 0; i < ARRAY_LEN(verbs) && argc > 2; i++) {
        if (strcmp(argv[1], verbs[i].name) != 0)
            continue;
        if (verbs[i].run(argc - 2, argv + 2, &err) == 0)
            return 0;
        fprintf(stderr, "error: %s\n", err.message);
        if (err.hint[0] != '\0')
            fprintf(stderr, "hint: %s\n", err.hint);
        return err.status != STATUS_OK ? (int)err.status : 1;
    }
    fprintf(stderr, "usage: mount-tool checkpoint|machine|mount|umount ...\n");
    return STATUS_USAGE;
}
