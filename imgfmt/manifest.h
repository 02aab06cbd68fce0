/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The manifest of a checkpoint: canonical JSON (sorted keys, no white space),
 * small, complete, without anything of the host: no path, no tap name. The
 * SHA-256 of its bytes is the checkpoint's id.
 */
#ifndef STASIS_IMGFMT_MANIFEST_H
#define STASIS_IMGFMT_MANIFEST_H

#include "base/digest.h"
#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define MANIFEST_SCHEMA 1
#define MANIFEST_SPACES_MAX 40 /* memory, kernel, initrd and up to 32 disks fit */
#define MANIFEST_DISKS_MAX 8   /* virtio-blk devices of one machine */
#define MANIFEST_SPACE_NAME_MAX 15
#define MANIFEST_CMDLINE_MAX 2047 /* x86 boot protocol: COMMAND_LINE_SIZE - 1 */
#define MANIFEST_VCPUS_MAX 16
#define MANIFEST_NETS_MAX 4 /* virtio-net devices of one machine */
#define MANIFEST_MAC_SIZE 6u
#define MANIFEST_MAC_TEXT_SIZE 18 /* "52:54:00:12:34:56" and its NUL */
#define MANIFEST_CPU_FEATURES_MAX 4095
#define MANIFEST_CPU_FEATURE_NAME_MAX 32
#define MANIFEST_MAX_SIZE (1u << 20)

/*
 * One address space: "memory", "disk0".."disk7", "kernel", "initrd". The map
 * covers size_bytes rounded up to pages; bytes past size_bytes are zero.
 */
struct manifest_space {
    char name[MANIFEST_SPACE_NAME_MAX + 1];
    uint64_t size_bytes;
    struct digest root;
};

/* What a machine's CPUs offer: all that the host has, or a level of the x86-64 psABI,
 * which is the same on every host that reaches it. */
enum cpu_baseline {
    CPU_BASELINE_HOST,
    CPU_BASELINE_V2,
    CPU_BASELINE_V3,
};

/* "host", "v2", "v3", NULL: in the order of the enumeration. */
extern const char *const cpu_baseline_names[];

/* What the virtual machine is made of, in no host's terms. */
struct machine_config {
    uint32_t vcpus;        /* 1..MANIFEST_VCPUS_MAX */
    uint64_t memory_bytes; /* RAM, a multiple of the page size */
    char cmdline[MANIFEST_CMDLINE_MAX + 1];
    uint32_t disk_count; /* each disk N is a virtio-blk device over space "diskN" */
    struct {
        bool read_only;
    } disks[MANIFEST_DISKS_MAX];
    bool rng;     /* has a virtio-rng device */
    bool balloon; /* has a virtio-balloon device */
    enum cpu_baseline cpu;
    uint32_t net_count; /* virtio-net devices; what they are connected to is the host's matter */
    struct {
        uint8_t mac[MANIFEST_MAC_SIZE]; /* of one station, not 0 */
    } nets[MANIFEST_NETS_MAX];
    bool vsock; /* has a virtio socket device */
};

enum checkpoint_kind {
    CHECKPOINT_COLD, /* disks, kernel, initrd: boots */
    CHECKPOINT_WARM, /* also memory and device state: resumes */
};

struct manifest {
    enum checkpoint_kind kind;
    int64_t created_us; /* wall clock, since 1970 */
    bool has_parent;
    struct digest parent; /* checkpoint this one came from; need not be in the store */
    struct machine_config config;
    uint32_t space_count;
    struct manifest_space spaces[MANIFEST_SPACES_MAX];
    bool has_state;      /* exactly when warm */
    struct digest state; /* blob: device-state records (imgfmt/state.h) */
    uint64_t state_bytes;
    /* Of a warm one: CPU features that the guest has found and may use, so that it can
     * go on only where they are; names with a space between two, or empty. */
    char cpu_features[MANIFEST_CPU_FEATURES_MAX + 1];
};

/* The space of that name, or NULL. */
const struct manifest_space *manifest_space_find(const struct manifest *m, const char *name);
/* Adds or replaces. -ENOSPC if there are MANIFEST_SPACES_MAX; -ENAMETOOLONG. */
int manifest_space_set(struct manifest *m, const char *name, uint64_t size_bytes,
                       const struct digest *root);

/*
 * What must hold of every manifest: ranges; memory, a page multiple, and device
 * state exactly when warm; for each disk of the config a space of whole sectors;
 * space names of [a-z][a-z0-9]*, each once; no control character in the command
 * line; MAC addresses of stations; CPU features, of names in [a-z0-9._-], only when
 * warm. -EBADMSG and what is wrong.
 */
int manifest_check(const struct manifest *m, struct error *err);

/* Canonical bytes, NUL behind them; the caller frees *text_out. -ENOMEM; -EINVAL
 * if manifest_check() refuses it or the command line is not UTF-8. */
int manifest_encode(const struct manifest *m, char **text_out, size_t *length_out);

/* Checks schema, types, what manifest_check() checks, and that the bytes are
 * canonical. -EBADMSG; -EPROTONOSUPPORT for a newer schema or an unknown incompat
 * feature (with a hint). Unknown compat features are skipped: such a manifest
 * does not encode to its own bytes again, so the id of a manifest that was read is
 * the SHA-256 of what was read. */
int manifest_decode(const char *text, size_t length, struct manifest *out, struct error *err);

/* SHA-256 of the canonical bytes of a manifest one has made. As
 * manifest_encode(). */
int manifest_id(const struct manifest *m, struct digest *out);

/* As lower-case hex with colons; returns text. */
const char *manifest_mac_text(const uint8_t mac[MANIFEST_MAC_SIZE],
                              char text[MANIFEST_MAC_TEXT_SIZE]);

/* Reads what manifest_mac_text() writes, in that one spelling. */
bool manifest_mac_parse(const char *text, uint8_t mac[MANIFEST_MAC_SIZE]);

/* The config as JSON, as in the manifest; a new reference. NULL if out of memory. */
json_t *machine_config_to_json(const struct machine_config *config);
int machine_config_from_json(const json_t *json, struct machine_config *out, struct error *err);

#endif
