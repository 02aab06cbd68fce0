/* SPDX-License-Identifier: Apache-2.0 */
/* Names: machines, their checkpoints, images. All of it lives in the store's
 * SQLite catalogue; each call is one transaction. Thread-safe. */
#ifndef STASIS_STORE_CATALOGUE_H
#define STASIS_STORE_CATALOGUE_H

#include "store/store.h"

struct catalogue_machine {
    char *name;
    int64_t created_us;
    bool has_head;
    struct digest head;   /* checkpoint its disks (and a warm start) build on */
    struct digest origin; /* checkpoint it was made from */
};

struct catalogue_checkpoint {
    struct digest id;
    char *machine; /* or NULL */
    char *name;    /* or NULL */
    int64_t created_us;
    bool has_parent;
    struct digest parent;
    enum checkpoint_kind kind;
    uint64_t memory_bytes;
    uint64_t disk_bytes; /* sum of the disks' sizes */
};

struct catalogue_image {
    char *name; /* may hold '/', '.', ':' of a registry host */
    char *tag;
    struct digest id;
    int64_t created_us;
};

void catalogue_machines_free(struct catalogue_machine *list, size_t count);
void catalogue_checkpoints_free(struct catalogue_checkpoint *list, size_t count);
void catalogue_images_free(struct catalogue_image *list, size_t count);

/* Makes a machine whose head and origin is that checkpoint. -EEXIST, -ENOENT. */
int catalogue_machine_create(struct store *store, const char *name, const struct digest *origin,
                             struct error *err);
/* Forgets the machine and its checkpoints' names and rows, but not checkpoints
 * that an image or another machine refers to. -ENOENT. */
int catalogue_machine_remove(struct store *store, const char *name, struct error *err);
int catalogue_machine_set_head(struct store *store, const char *name, const struct digest *head,
                               struct error *err);
/* One machine; free with catalogue_machines_free(m, 1). */
int catalogue_machine_get(struct store *store, const char *name, struct catalogue_machine **out,
                          struct error *err);
/* By name. */
int catalogue_machine_list(struct store *store, struct catalogue_machine **out, size_t *count_out,
                           struct error *err);

/* Oldest first; of one machine, or of all (machine NULL, those without one too). */
int catalogue_checkpoint_list(struct store *store, const char *machine,
                              struct catalogue_checkpoint **out, size_t *count_out,
                              struct error *err);
/* By machine and name, or by the first digits of an id (at least 8; -EINVAL if
 * several match, with a message). -ENOENT. */
int catalogue_checkpoint_by_name(struct store *store, const char *machine, const char *name,
                                 struct digest *out, struct error *err);
int catalogue_checkpoint_by_prefix(struct store *store, const char *hex, struct digest *out,
                                   struct error *err);
/* Removes one checkpoint's row and names. -EBUSY if a machine builds on it or an
 * image is it. Other checkpoints are not touched: none depends on it. */
int catalogue_checkpoint_remove(struct store *store, const struct digest *id, struct error *err);

/* The checkpoint's manifest, decoded and checked against id. */
int catalogue_manifest_read(struct store *store, const struct digest *id, struct manifest *out,
                            struct error *err);

int catalogue_image_set(struct store *store, const char *name, const char *tag,
                        const struct digest *id, bool replace, struct error *err);
int catalogue_image_remove(struct store *store, const char *name, const char *tag,
                           struct error *err);
int catalogue_image_get(struct store *store, const char *name, const char *tag, struct digest *out,
                        struct error *err);
int catalogue_image_list(struct store *store, struct catalogue_image **out, size_t *count_out,
                         struct error *err);

/*
 * Finds what a user's reference means (cli.md): "web@patched", an image
 * "debian:12" ("debian" = "debian:latest"), at least 8 digits of an id, or a
 * machine's name (its head). A machine wins over an image of the same name, and
 * both over the digits of an id unless those are all of them.
 * -ENOENT with a hint.
 */
int catalogue_resolve(struct store *store, const char *reference, struct digest *out,
                      struct error *err);

#endif
