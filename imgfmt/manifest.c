/* SPDX-License-Identifier: Apache-2.0 */
#include "imgfmt/manifest.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "imgfmt/map.h"
#include "imgfmt/state.h"

#include <errno.h>
#include <inttypes.h>

#define DIGEST_PREFIX "sha256:"
#define DIGEST_PREFIX_SIZE (sizeof(DIGEST_PREFIX) - 1)
#define CANONICAL (JSON_SORT_KEYS | JSON_COMPACT)

#define SECTOR_SIZE 512u
#define MAC_MULTICAST 1u /* in the first byte: the address of many */
#define SPACE_BYTES_MAX (MAP_PAGES_MAX << STASIS_PAGE_SHIFT)
#define CREATED_MAX_US INT64_C(253402300799999999) /* the last of the year 9999 */

const char *const cpu_baseline_names[] = {"host", "v2", "v3", NULL};

/* ---- spaces ---- */

const struct manifest_space *manifest_space_find(const struct manifest *m, const char *name)
{
    for (uint32_t i = 0; i < m->space_count; i++)
        if (strcmp(m->spaces[i].name, name) == 0)
            return &m->spaces[i];
    return NULL;
}

int manifest_space_set(struct manifest *m, const char *name, uint64_t size_bytes,
                       const struct digest *root)
{
    struct manifest_space *space = (struct manifest_space *)manifest_space_find(m, name);
    size_t length = strlen(name);

    if (length > MANIFEST_SPACE_NAME_MAX)
        return -ENAMETOOLONG;
    if (space == NULL && m->space_count == MANIFEST_SPACES_MAX)
        return -ENOSPC;
    if (space == NULL)
        space = &m->spaces[m->space_count++];
    *space = (struct manifest_space){.size_bytes = size_bytes, .root = *root};
    memcpy(space->name, name, length);
    return 0;
}

/* ---- what must hold of any manifest, made or read ---- */

static bool space_name_is_valid(const char *name)
{
    if (name[0] < 'a' || name[0] > 'z')
        return false;
    size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789");
    return name[length] == '\0' && length <= MANIFEST_SPACE_NAME_MAX;
}

static int check_nets(const struct machine_config *c, struct error *err)
{
    static const uint8_t none[MANIFEST_MAC_SIZE];

    if (c->net_count > MANIFEST_NETS_MAX)
        return error_corrupt(err, "%u network cards, a machine has up to %d", c->net_count,
                             MANIFEST_NETS_MAX);
    for (uint32_t i = 0; i < c->net_count; i++) {
        const uint8_t *mac = c->nets[i].mac;
        if ((mac[0] & MAC_MULTICAST) != 0 || memcmp(mac, none, sizeof(none)) == 0)
            return error_corrupt(err, "network card %u has no station's MAC address", i);
    }
    return 0;
}

static int check_config(const struct machine_config *c, struct error *err)
{
    if (c->vcpus < 1 || c->vcpus > MANIFEST_VCPUS_MAX)
        return error_corrupt(err, "%u vCPUs, a machine has 1 to %d", c->vcpus, MANIFEST_VCPUS_MAX);
    if (c->memory_bytes == 0 || c->memory_bytes % STASIS_PAGE_SIZE != 0 ||
        c->memory_bytes > SPACE_BYTES_MAX)
        return error_corrupt(err, "%" PRIu64 " bytes of memory, must be a multiple of %u",
                             c->memory_bytes, STASIS_PAGE_SIZE);
    if ((unsigned)c->cpu > CPU_BASELINE_V3)
        return error_corrupt(err, "no CPU baseline has the number %d", (int)c->cpu);
    if (c->disk_count > MANIFEST_DISKS_MAX)
        return error_corrupt(err, "%u disks, a machine has up to %d", c->disk_count,
                             MANIFEST_DISKS_MAX);
    int r = check_nets(c, err);
    if (r < 0)
        return r;
    size_t length = strnlen(c->cmdline, sizeof(c->cmdline));
    if (length > MANIFEST_CMDLINE_MAX)
        return error_corrupt(err, "kernel command line of more than %d bytes",
                             MANIFEST_CMDLINE_MAX);
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)c->cmdline[i] < ' ')
            return error_corrupt(err, "kernel command line with the control character %#x",
                                 c->cmdline[i]);
    return 0;
}

/* Names with one space between them. */
static int check_cpu_features(const struct manifest *m, struct error *err)
{
    const char *text = m->cpu_features;

    if (strnlen(text, sizeof(m->cpu_features)) > MANIFEST_CPU_FEATURES_MAX)
        return error_corrupt(err, "too many CPU features");
    if (text[0] != '\0' && m->kind == CHECKPOINT_COLD)
        return error_corrupt(err, "a cold checkpoint needs no CPU features");
    while (text[0] != '\0') {
        size_t length = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789._-");
        if (length == 0 || length > MANIFEST_CPU_FEATURE_NAME_MAX)
            return error_corrupt(err, "a CPU feature has no valid name");
        text += length;
        if (text[0] == ' ' && text[1] != '\0')
            text++;
        else if (text[0] != '\0')
            return error_corrupt(err, "a CPU feature has no valid name");
    }
    return 0;
}

static int check_spaces(const struct manifest *m, struct error *err)
{
    if (m->space_count > MANIFEST_SPACES_MAX)
        return error_corrupt(err, "%u spaces, the limit is %d", m->space_count,
                             MANIFEST_SPACES_MAX);
    for (uint32_t i = 0; i < m->space_count; i++) {
        const struct manifest_space *s = &m->spaces[i];
        if (!space_name_is_valid(s->name))
            return error_corrupt(err, "space %u has no valid name", i);
        if (s->size_bytes > SPACE_BYTES_MAX)
            return error_corrupt(err, "space %s of %" PRIu64 " bytes, the limit is %" PRIu64,
                                 s->name, s->size_bytes, SPACE_BYTES_MAX);
        if (manifest_space_find(m, s->name) != s)
            return error_corrupt(err, "space %s is there twice", s->name);
    }
    return 0;
}

static int check_disks(const struct manifest *m, struct error *err)
{
    for (uint32_t i = 0; i < m->config.disk_count; i++) {
        char name[MANIFEST_SPACE_NAME_MAX + 1];
        snprintf(name, sizeof(name), "disk%u", i);
        const struct manifest_space *s = manifest_space_find(m, name);
        if (s == NULL)
            return error_corrupt(err, "%s has no space", name);
        if (s->size_bytes == 0 || s->size_bytes % SECTOR_SIZE != 0)
            return error_corrupt(err, "%s of %" PRIu64 " bytes, must be a multiple of %u", name,
                                 s->size_bytes, SECTOR_SIZE);
    }
    return 0;
}

/* Memory and device state come together, and make a checkpoint warm. */
static int check_warmth(const struct manifest *m, struct error *err)
{
    const struct manifest_space *memory = manifest_space_find(m, "memory");

    if (m->kind == CHECKPOINT_COLD && (memory != NULL || m->has_state))
        return error_corrupt(err, "a cold checkpoint has neither memory nor device state");
    if (m->kind == CHECKPOINT_COLD)
        return 0;
    if (memory == NULL || !m->has_state)
        return error_corrupt(err, "a warm checkpoint needs memory and device state");
    if (memory->size_bytes != m->config.memory_bytes)
        return error_corrupt(err, "%" PRIu64 " bytes of memory saved, %" PRIu64 " configured",
                             memory->size_bytes, m->config.memory_bytes);
    if (m->state_bytes == 0 || m->state_bytes > STATE_MAX_SIZE)
        return error_corrupt(err, "device state of %" PRIu64 " bytes", m->state_bytes);
    return 0;
}

int manifest_check(const struct manifest *m, struct error *err)
{
    int r;

    if (m->kind != CHECKPOINT_COLD && m->kind != CHECKPOINT_WARM)
        r = error_corrupt(err, "unknown kind of checkpoint %d", (int)m->kind);
    else if (m->created_us < 0 || m->created_us > CREATED_MAX_US)
        r = error_corrupt(err, "time of creation %" PRId64 " us is out of range", m->created_us);
    else if ((r = check_config(&m->config, err)) == 0 && (r = check_spaces(m, err)) == 0 &&
             (r = check_disks(m, err)) == 0 && (r = check_cpu_features(m, err)) == 0)
        r = check_warmth(m, err);
    if (r < 0)
        error_prefix(err, "manifest");
    return r;
}

/* ---- encoding ---- */

static json_t *digest_to_json(const struct digest *d)
{
    char text[DIGEST_PREFIX_SIZE + DIGEST_HEX_SIZE] = DIGEST_PREFIX;

    digest_hex(d, text + DIGEST_PREFIX_SIZE);
    return json_string(text);
}

static json_t *u64_to_json(uint64_t v)
{
    return json_integer((json_int_t)v);
}

/* json_object_set_new() takes its value even when it fails, and fails when the
 * value is NULL: a tree is built first and asked once whether all went well. */
static void set(json_t *object, const char *key, json_t *value, int *failed)
{
    if (json_object_set_new(object, key, value) != 0)
        *failed = 1;
}

static json_t *object_or_null(json_t *object, int failed)
{
    if (!failed)
        return object;
    json_decref(object);
    return NULL;
}

static json_t *disks_to_json(const struct machine_config *config)
{
    json_t *disks = json_array();
    int failed = 0;

    for (uint32_t i = 0; i < config->disk_count; i++) {
        json_t *disk = json_object();
        set(disk, "read_only", json_boolean(config->disks[i].read_only), &failed);
        if (json_array_append_new(disks, disk) != 0)
            failed = 1;
    }
    return object_or_null(disks, failed);
}

const char *manifest_mac_text(const uint8_t mac[MANIFEST_MAC_SIZE],
                              char text[MANIFEST_MAC_TEXT_SIZE])
{
    snprintf(text, MANIFEST_MAC_TEXT_SIZE, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
             mac[3], mac[4], mac[5]);
    return text;
}

static json_t *nets_to_json(const struct machine_config *config)
{
    char text[MANIFEST_MAC_TEXT_SIZE];
    json_t *nets = json_array();
    int failed = 0;

    for (uint32_t i = 0; i < config->net_count; i++) {
        json_t *net = json_object();
        set(net, "mac", json_string(manifest_mac_text(config->nets[i].mac, text)), &failed);
        if (json_array_append_new(nets, net) != 0)
            failed = 1;
    }
    return object_or_null(nets, failed);
}

json_t *machine_config_to_json(const struct machine_config *config)
{
    json_t *object = json_object();
    int failed = 0;

    if (config->balloon)
        set(object, "balloon", json_true(), &failed);
    set(object, "cmdline", json_string(config->cmdline), &failed);
    if (config->cpu != CPU_BASELINE_HOST)
        set(object, "cpu", json_string(cpu_baseline_names[config->cpu]), &failed);
    set(object, "disks", disks_to_json(config), &failed);
    set(object, "memory_bytes", u64_to_json(config->memory_bytes), &failed);
    if (config->net_count > 0)
        set(object, "net", nets_to_json(config), &failed);
    set(object, "rng", json_boolean(config->rng), &failed);
    set(object, "vcpus", u64_to_json(config->vcpus), &failed);
    if (config->vsock)
        set(object, "vsock", json_true(), &failed);
    return object_or_null(object, failed);
}

static json_t *spaces_to_json(const struct manifest *m)
{
    json_t *object = json_object();
    int failed = 0;

    for (uint32_t i = 0; i < m->space_count; i++) {
        json_t *space = json_object();
        set(space, "root", digest_to_json(&m->spaces[i].root), &failed);
        set(space, "size_bytes", u64_to_json(m->spaces[i].size_bytes), &failed);
        set(object, m->spaces[i].name, space, &failed);
    }
    return object_or_null(object, failed);
}

static json_t *state_to_json(const struct manifest *m)
{
    json_t *object = json_object();
    int failed = 0;

    set(object, "digest", digest_to_json(&m->state), &failed);
    set(object, "size_bytes", u64_to_json(m->state_bytes), &failed);
    return object_or_null(object, failed);
}

static json_t *cpu_features_to_json(const struct manifest *m)
{
    json_t *array = json_array();
    int failed = 0;

    for (const char *text = m->cpu_features; text[0] != '\0';) {
        size_t length = strcspn(text, " ");
        if (json_array_append_new(array, json_stringn(text, length)) != 0)
            failed = 1;
        text += length + (text[length] == ' ');
    }
    return object_or_null(array, failed);
}

static json_t *manifest_to_json(const struct manifest *m)
{
    char created[CLOCK_RFC3339_SIZE];
    json_t *object = json_object();
    int failed = 0;

    set(object, "compat", json_array(), &failed);
    set(object, "config", machine_config_to_json(&m->config), &failed);
    if (m->cpu_features[0] != '\0')
        set(object, "cpu_features", cpu_features_to_json(m), &failed);
    set(object, "created", json_string(clock_rfc3339(m->created_us, created)), &failed);
    set(object, "incompat", json_array(), &failed);
    set(object, "kind", json_string(m->kind == CHECKPOINT_WARM ? "warm" : "cold"), &failed);
    if (m->has_parent)
        set(object, "parent", digest_to_json(&m->parent), &failed);
    set(object, "schema", json_integer(MANIFEST_SCHEMA), &failed);
    set(object, "spaces", spaces_to_json(m), &failed);
    if (m->has_state)
        set(object, "state", state_to_json(m), &failed);
    return object_or_null(object, failed);
}

int manifest_encode(const struct manifest *m, char **text_out, size_t *length_out)
{
    if (manifest_check(m, NULL) < 0)
        return -EINVAL;
    /* The command line is the one text jansson may refuse. */
    _cleanup_json_ json_t *cmdline = json_string(m->config.cmdline);
    if (cmdline == NULL)
        return -EINVAL;
    _cleanup_json_ json_t *json = manifest_to_json(m);
    if (json == NULL)
        return -ENOMEM;
    char *text = json_dumps(json, CANONICAL);
    if (text == NULL)
        return -ENOMEM;
    *text_out = text;
    *length_out = strlen(text);
    return 0;
}

int manifest_id(const struct manifest *m, struct digest *out)
{
    _cleanup_free_ char *text = NULL;
    size_t length;

    int r = manifest_encode(m, &text, &length);
    if (r < 0)
        return r;
    *out = digest_of(text, length);
    return 0;
}

/* ---- decoding ---- */

static int wrong(struct error *err, const char *key, const char *what)
{
    return error_corrupt(err, "\"%s\" is missing or is not %s", key, what);
}

/* Any non-negative integer that max allows. */
static int get_u64(const json_t *object, const char *key, uint64_t max, uint64_t *out,
                   struct error *err)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_integer(value))
        return wrong(err, key, "an integer");
    json_int_t v = json_integer_value(value);
    if (v < 0 || (uint64_t)v > max)
        return error_corrupt(err, "\"%s\" is out of range: %" JSON_INTEGER_FORMAT, key, v);
    *out = (uint64_t)v;
    return 0;
}

static int get_u32(const json_t *object, const char *key, uint32_t *out, struct error *err)
{
    uint64_t v;

    int r = get_u64(object, key, UINT32_MAX, &v, err);
    if (r == 0)
        *out = (uint32_t)v;
    return r;
}

static int get_bool(const json_t *object, const char *key, bool *out, struct error *err)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_boolean(value))
        return wrong(err, key, "true or false");
    *out = json_is_true(value);
    return 0;
}

static int get_digest(const json_t *object, const char *key, struct digest *out, struct error *err)
{
    const char *text = json_string_value(json_object_get(object, key));

    if (text == NULL || strncmp(text, DIGEST_PREFIX, DIGEST_PREFIX_SIZE) != 0 ||
        digest_parse(text + DIGEST_PREFIX_SIZE, out) < 0)
        return wrong(err, key, "a SHA-256 digest");
    return 0;
}

static int get_disks(const json_t *array, struct machine_config *out, struct error *err)
{
    if (!json_is_array(array))
        return wrong(err, "disks", "an array");
    size_t count = json_array_size(array);
    if (count > MANIFEST_DISKS_MAX)
        return error_corrupt(err, "%zu disks, a machine has up to %d", count, MANIFEST_DISKS_MAX);
    for (size_t i = 0; i < count; i++) {
        int r = get_bool(json_array_get(array, i), "read_only", &out->disks[i].read_only, err);
        if (r < 0)
            return r;
    }
    out->disk_count = (uint32_t)count;
    return 0;
}

bool manifest_mac_parse(const char *text, uint8_t mac[MANIFEST_MAC_SIZE])
{
    char again[MANIFEST_MAC_TEXT_SIZE];

    if (text == NULL || sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", &mac[0], &mac[1],
                               &mac[2], &mac[3], &mac[4], &mac[5]) != (int)MANIFEST_MAC_SIZE)
        return false;
    return strcmp(manifest_mac_text(mac, again), text) == 0;
}

/* Absent where there is none. */
static int get_nets(const json_t *array, struct machine_config *out, struct error *err)
{
    if (array == NULL)
        return 0;
    size_t count = json_array_size(array);
    if (count == 0 || count > MANIFEST_NETS_MAX)
        return wrong(err, "net", "an array of network cards");
    for (size_t i = 0; i < count; i++) {
        const json_t *mac = json_object_get(json_array_get(array, i), "mac");
        if (!manifest_mac_parse(json_string_value(mac), out->nets[i].mac))
            return wrong(err, "mac", "a MAC address");
    }
    out->net_count = (uint32_t)count;
    return 0;
}

/* Absent where there is none. */
static int get_vsock(const json_t *value, bool *out, struct error *err)
{
    if (value != NULL && !json_is_true(value))
        return wrong(err, "vsock", "true");
    *out = value != NULL;
    return 0;
}

/* Absent where it is the host's. */
static int get_cpu(const json_t *value, enum cpu_baseline *out, struct error *err)
{
    const char *name = json_string_value(value);

    if (value == NULL)
        return 0;
    for (unsigned i = CPU_BASELINE_HOST + 1; name != NULL && cpu_baseline_names[i] != NULL; i++)
        if (strcmp(name, cpu_baseline_names[i]) == 0) {
            *out = (enum cpu_baseline)i;
            return 0;
        }
    return wrong(err, "cpu", "a CPU baseline this program knows");
}

/* Absent where there are none. */
static int get_cpu_features(const json_t *array, struct manifest *m, struct error *err)
{
    size_t used = 0;

    if (array == NULL)
        return 0;
    size_t count = json_array_size(array);
    if (count == 0)
        return wrong(err, "cpu_features", "an array of names");
    for (size_t i = 0; i < count; i++) {
        const json_t *name = json_array_get(array, i);
        size_t length = json_string_length(name);
        if (length == 0 || strlen(json_string_value(name)) != length ||
            strchr(json_string_value(name), ' ') != NULL ||
            used + length + 1 > MANIFEST_CPU_FEATURES_MAX)
            return wrong(err, "cpu_features", "an array of names");
        if (used > 0)
            m->cpu_features[used++] = ' ';
        memcpy(m->cpu_features + used, json_string_value(name), length);
        used += length;
    }
    return 0;
}

int machine_config_from_json(const json_t *json, struct machine_config *out, struct error *err)
{
    const json_t *cmdline = json_object_get(json, "cmdline");
    struct machine_config c = {0};
    int r;

    if (!json_is_string(cmdline) || json_string_length(cmdline) > MANIFEST_CMDLINE_MAX)
        return wrong(err, "cmdline", "a kernel command line");
    memcpy(c.cmdline, json_string_value(cmdline), json_string_length(cmdline));
    c.balloon = json_is_true(json_object_get(json, "balloon")); /* absent where there is none */
    if ((r = get_u32(json, "vcpus", &c.vcpus, err)) < 0 ||
        (r = get_u64(json, "memory_bytes", SPACE_BYTES_MAX, &c.memory_bytes, err)) < 0 ||
        (r = get_bool(json, "rng", &c.rng, err)) < 0 ||
        (r = get_cpu(json_object_get(json, "cpu"), &c.cpu, err)) < 0 ||
        (r = get_disks(json_object_get(json, "disks"), &c, err)) < 0 ||
        (r = get_nets(json_object_get(json, "net"), &c, err)) < 0 ||
        (r = get_vsock(json_object_get(json, "vsock"), &c.vsock, err)) < 0 ||
        (r = check_config(&c, err)) < 0)
        return r;
    *out = c;
    return 0;
}

static int get_spaces(json_t *object, struct manifest *m, struct error *err)
{
    const char *name;
    json_t *value;

    if (!json_is_object(object))
        return wrong(err, "spaces", "an object");
    json_object_foreach(object, name, value)
    {
        uint64_t size;
        struct digest root;
        int r = get_u64(value, "size_bytes", SPACE_BYTES_MAX, &size, err);
        if (r == 0)
            r = get_digest(value, "root", &root, err);
        if (r < 0)
            return r;
        if (!space_name_is_valid(name))
            return error_corrupt(err, "a space has no valid name");
        if (manifest_space_set(m, name, size, &root) < 0)
            return error_corrupt(err, "more than %d spaces", MANIFEST_SPACES_MAX);
    }
    return 0;
}

static int get_kind_and_time(const json_t *json, struct manifest *m, struct error *err)
{
    const char *kind = json_string_value(json_object_get(json, "kind"));
    const char *created = json_string_value(json_object_get(json, "created"));

    if (kind == NULL || (strcmp(kind, "warm") != 0 && strcmp(kind, "cold") != 0))
        return wrong(err, "kind", "\"cold\" or \"warm\"");
    m->kind = strcmp(kind, "warm") == 0 ? CHECKPOINT_WARM : CHECKPOINT_COLD;
    if (created == NULL || clock_parse_rfc3339(created, &m->created_us) < 0)
        return wrong(err, "created", "a time");
    return 0;
}

static int get_optional(const json_t *json, struct manifest *m, struct error *err)
{
    const json_t *state = json_object_get(json, "state");
    int r = 0;

    m->has_parent = json_object_get(json, "parent") != NULL;
    m->has_state = state != NULL;
    if (m->has_parent)
        r = get_digest(json, "parent", &m->parent, err);
    if (r == 0 && m->has_state)
        r = get_digest(state, "digest", &m->state, err);
    if (r == 0 && m->has_state)
        r = get_u64(state, "size_bytes", STATE_MAX_SIZE, &m->state_bytes, err);
    return r;
}

static int too_new(struct error *err)
{
    error_hint(err, "a newer stasis wrote it: update this one");
    return -EPROTONOSUPPORT;
}

/* Feature names are shown to a user: only what cannot drive his terminal. */
static const char *printable(const char *text)
{
    if (text == NULL)
        return "?";
    for (const char *p = text; *p != '\0'; p++)
        if (*p < ' ' || *p > '~')
            return "?";
    return text;
}

/* What this program has never heard of: refuse what is marked "incompat". */
static int check_features(const json_t *json, struct error *err)
{
    const json_t *incompat = json_object_get(json, "incompat");
    uint64_t schema;

    int r = get_u64(json, "schema", INT64_MAX, &schema, err);
    if (r < 0)
        return r;
    if (schema == 0)
        return wrong(err, "schema", "a schema version");
    if (schema > MANIFEST_SCHEMA) {
        error_set(err, STATUS_FAILED, EPROTONOSUPPORT,
                  "schema %" PRIu64 ", this program reads up to %d", schema, MANIFEST_SCHEMA);
        return too_new(err);
    }
    if (!json_is_array(incompat))
        return wrong(err, "incompat", "an array");
    if (json_array_size(incompat) > 0) {
        const char *first = json_string_value(json_array_get(incompat, 0));
        error_set(err, STATUS_FAILED, EPROTONOSUPPORT, "needs the unknown feature \"%.64s\"",
                  printable(first));
        return too_new(err);
    }
    return 0;
}

/* Does `whole` say all that `part` says, and more only in objects? */
static bool json_contains(json_t *whole, json_t *part)
{
    const char *key;
    json_t *value;
    size_t i;

    if (json_is_object(part)) {
        json_object_foreach(
            part, key, value) if (!json_contains(json_object_get(whole, key), value)) return false;
        return json_is_object(whole);
    }
    if (json_is_array(part) && json_array_size(part) == json_array_size(whole)) {
        json_array_foreach(part, i,
                           value) if (!json_contains(json_array_get(whole, i), value)) return false;
        return true;
    }
    return json_equal(whole, part);
}

/* What was understood must be all there is; with compat features, all there is
 * but additions in objects. */
static int check_understood(json_t *json, const struct manifest *m, struct error *err)
{
    json_t *compat = json_object_get(json, "compat");

    if (!json_is_array(compat))
        return wrong(err, "compat", "an array");
    _cleanup_json_ json_t *understood = manifest_to_json(m);
    if (understood == NULL || json_object_set(understood, "compat", compat) != 0)
        return error_errno(err, ENOMEM, "cannot check it");
    if (json_array_size(compat) > 0 ? json_contains(json, understood)
                                    : json_equal(json, understood))
        return 0;
    return error_corrupt(err, "holds members or spellings that its schema does not have");
}

static int check_canonical(const json_t *json, const char *text, size_t length, struct error *err)
{
    _cleanup_free_ char *again = json_dumps(json, CANONICAL);
    if (again == NULL)
        return error_errno(err, ENOMEM, "cannot check it");
    if (strlen(again) != length || memcmp(again, text, length) != 0)
        return error_corrupt(err, "is not in canonical form");
    return 0;
}

static int decode(json_t *json, struct manifest *m, struct error *err)
{
    int r;

    if (!json_is_object(json))
        return error_corrupt(err, "is not an object");
    if ((r = check_features(json, err)) < 0 || (r = get_kind_and_time(json, m, err)) < 0 ||
        (r = machine_config_from_json(json_object_get(json, "config"), &m->config, err)) < 0 ||
        (r = get_spaces(json_object_get(json, "spaces"), m, err)) < 0 ||
        (r = get_optional(json, m, err)) < 0 ||
        (r = get_cpu_features(json_object_get(json, "cpu_features"), m, err)) < 0)
        return r;
    return check_understood(json, m, err);
}

int manifest_decode(const char *text, size_t length, struct manifest *out, struct error *err)
{
    struct manifest m = {0};
    json_error_t where;

    if (length > MANIFEST_MAX_SIZE)
        return error_corrupt(err, "manifest: %zu bytes, the limit is %u", length,
                             MANIFEST_MAX_SIZE);
    _cleanup_json_ json_t *json = json_loadb(text, length, JSON_REJECT_DUPLICATES, &where);
    /* Of running out of memory jansson says nothing, or takes it for a bad token. */
    if (json == NULL && where.text[0] == '\0')
        return error_errno(err, ENOMEM, "reading a manifest");
    if (json == NULL)
        return error_corrupt(err, "manifest: not JSON at byte %d", where.position);
    int r = decode(json, &m, err);
    if (r == 0)
        r = check_canonical(json, text, length, err);
    if (r < 0) {
        error_prefix(err, "manifest");
        return r;
    }
    r = manifest_check(&m, err);
    if (r < 0)
        return r;
    *out = m;
    return 0;
}
