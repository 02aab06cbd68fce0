/* SPDX-License-Identifier: Apache-2.0 */
/* The probe guest's console, and what it knows of itself; checkpoints from outside. */
#include "harness.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "guest/probe/layout.h"
#include "guest/probe/pattern.h"
#include "store/catalogue.h"
#include "store/ingest.h"
#include "vmm/control/client.h"
#include "vmm/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

enum { CHUNK = 16 << 10, LOG_MAX = 64 << 20 };

static const char banner[] = "stasis-probe 1 ready";

/* ---- the console ---- */

static void open_console(struct guest *guest, bool replay)
{
    char *path = home_machine_socket(&guest->site->home, guest->name);
    json_t *args = json_pack("{s:b}", "replay", replay);
    struct error err = ERROR_INIT;

    if (control_connect(path, -1, &guest->fd, &err) < 0 ||
        control_call(guest->fd, "console", args, NULL, &err) < 0)
        fail_msg("the console of %s: %s", guest->name, err.message);
    json_decref(args);
    free(path);
}

static void init(struct guest *guest, struct site *site, const char *name, unsigned disks)
{
    *guest = (struct guest){.site = site, .fd = -1, .disks = disks};
    snprintf(guest->name, sizeof(guest->name), "%s", name);
}

void guest_attach(struct guest *guest, struct site *site, const char *name, unsigned disks)
{
    init(guest, site, name, disks);
    open_console(guest, false);
}

void guest_detach(struct guest *guest)
{
    if (guest->fd >= 0)
        close(guest->fd);
    guest->fd = -1;
    free(guest->buf);
    guest->buf = NULL;
    guest->used = guest->capacity = 0;
}

void guest_type(struct guest *guest, const char *bytes)
{
    size_t length = strlen(bytes);

    while (length > 0) {
        ssize_t n = send(guest->fd, bytes, length, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            fail_msg("%s does not take input: %s", guest->name, strerror(errno));
        bytes += n;
        length -= (size_t)n;
    }
}

/* False at the end of the stream. */
static bool receive_more(struct guest *guest, uint64_t deadline)
{
    struct pollfd wait_for = {.fd = guest->fd, .events = POLLIN};
    uint64_t now = now_ms();

    if (guest->capacity - guest->used < CHUNK) {
        guest->capacity = guest->capacity * 2 + CHUNK;
        guest->buf = realloc(guest->buf, guest->capacity);
        if (guest->buf == NULL)
            abort();
    }
    if (now >= deadline || poll(&wait_for, 1, (int)(deadline - now)) == 0)
        fail_msg("%s says nothing; so far: '%.*s'", guest->name, (int)guest->used, guest->buf);
    ssize_t n = recv(guest->fd, guest->buf + guest->used, guest->capacity - guest->used, 0);
    if (n <= 0)
        return false;
    guest->used += (size_t)n;
    return true;
}

bool guest_has_said(const struct guest *guest)
{
    struct pollfd wait_for = {.fd = guest->fd, .events = POLLIN};

    return guest->used != 0 || poll(&wait_for, 1, 0) == 1;
}

bool guest_line(struct guest *guest, char *line, size_t size)
{
    uint64_t deadline = now_ms() + DEADLINE_MS;
    char *end;

    while (guest->used == 0 || (end = memchr(guest->buf, '\n', guest->used)) == NULL)
        if (!receive_more(guest, deadline))
            return false;
    size_t length = (size_t)(end - guest->buf);
    assert_true(length < size);
    memcpy(line, guest->buf, length);
    line[length] = '\0';
    guest->used -= length + 1;
    memmove(guest->buf, end + 1, guest->used);
    return true;
}

static bool begins_with(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

void guest_wait_banner(struct guest *guest)
{
    char line[512];

    do {
        if (!guest_line(guest, line, sizeof(line)))
            fail_msg("%s ended before it was up", guest->name);
    } while (!begins_with(line, banner));
}

__attribute__((format(printf, 2, 0))) static const char *ask_list(struct guest *guest,
                                                                  const char *fmt, va_list args)
{
    char command[256];

    int n = vsnprintf(command, sizeof(command) - 1, fmt, args);
    assert_true(n > 0 && (size_t)n < sizeof(command) - 1);
    command[n] = '\n';
    command[n + 1] = '\0';
    guest_type(guest, command);
    do {
        if (!guest_line(guest, guest->reply, sizeof(guest->reply)))
            fail_msg("%s ended over: %s", guest->name, command);
    } while (begins_with(guest->reply, "tick") || begins_with(guest->reply, banner));
    return guest->reply;
}

const char *ask(struct guest *guest, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    const char *reply = ask_list(guest, fmt, args);
    va_end(args);
    return reply;
}

__attribute__((format(printf, 2, 0))) static const char *must_ok(struct guest *guest,
                                                                 const char *fmt, va_list args)
{
    const char *reply = ask_list(guest, fmt, args);

    if (strcmp(reply, "ok") != 0 && !begins_with(reply, "ok "))
        fail_msg("%s answers '%s' to '%s'", guest->name, reply, fmt);
    return reply;
}

const char *ask_ok(struct guest *guest, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    const char *reply = must_ok(guest, fmt, args);
    va_end(args);
    return reply;
}

uint64_t field(const struct guest *guest, const char *name, int base)
{
    char *sign = io_format(" %s=", name);
    const char *found = strstr(guest->reply, sign);
    size_t skip_bytes = strlen(sign);

    free(sign);
    if (found == NULL)
        fail_msg("no %s in '%s'", name, guest->reply);
    return strtoull(found + skip_bytes, NULL, base);
}

uint64_t ask_number(struct guest *guest, const char *name, int base, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    must_ok(guest, fmt, args);
    va_end(args);
    return field(guest, name, base);
}

/* ---- machines ---- */

void guest_boot(struct guest *guest, struct site *site, const char *name, unsigned memory_mib,
                unsigned disks)
{
    char files[1024] = "";
    size_t used = 0;

    init(guest, site, name, disks);
    for (unsigned i = 0; i < disks; i++) {
        char file[16];
        snprintf(file, sizeof(file), "%u.raw", i);
        char *path = site_disk(site, file, 11 + i);
        used += (size_t)snprintf(files + used, sizeof(files) - used, " --disk %s", path);
        assert_true(used < sizeof(files));
        free(path);
    }
    stasis_ok(site, "run -d --name %s --memory %uM --kernel %s --cmdline virtio=0x%llx,%llu,%d%s",
              name, memory_mib, PROBE_ELF, LAYOUT_VIRTIO_BASE, LAYOUT_VIRTIO_STRIDE,
              LAYOUT_VIRTIO_SLOTS, files);
    open_console(guest, true);
    guest_wait_banner(guest);
    ask_ok(guest, "idle on");
}

static unsigned banners_in_log(struct site *site, const char *name)
{
    char *dir = home_machine_dir(&site->home, name);
    char *path = io_format("%s/console.log", dir);
    char *text = NULL;
    size_t length;
    unsigned count = 0;

    assert_int_equal(io_read_file(AT_FDCWD, path, LOG_MAX, &text, &length), 0);
    for (const char *at = text; (at = strstr(at, banner)) != NULL; at++)
        count++;
    free(text);
    free(path);
    free(dir);
    return count;
}

void guest_wait_boot(struct guest *guest, struct site *site, const char *name, unsigned disks,
                     unsigned boots)
{
    init(guest, site, name, disks);
    open_console(guest, true);
    for (unsigned i = 0; i < boots; i++)
        guest_wait_banner(guest);
    ask_ok(guest, "idle on");
}

/* Its log has the banners of earlier boots, and perhaps this one's already. */
void guest_boot_again(struct guest *guest, struct site *site, const char *name, unsigned disks)
{
    unsigned before = banners_in_log(site, name);

    stasis_ok(site, "resume %s", name);
    guest_wait_boot(guest, site, name, disks, before + 1);
}

void guest_fill(struct guest *guest, uint64_t seed)
{
    uint64_t pages = ask_number(guest, "pages", 10, "info");
    uint64_t first = field(guest, "free", 10);

    ask_ok(guest, "fill %llu %llu %llu", (unsigned long long)first,
           (unsigned long long)(pages - first), (unsigned long long)seed);
}

static uint64_t seed_sum(uint64_t position, uint64_t words, uint64_t seed)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < words; i++)
        sum += probe_sum_word(position + i, probe_word(seed, position + i));
    return sum;
}

uint64_t expected_fill_sum(unsigned memory_mib, uint64_t seed)
{
    const uint64_t first = PROBE_FREE / sizeof(uint64_t);
    const uint64_t end = ((uint64_t)memory_mib << 20) / sizeof(uint64_t);

    return seed_sum(first, end - first, seed);
}

uint64_t expected_disk_sum(uint64_t lba, uint64_t count, uint64_t seed)
{
    return seed_sum(lba * PROBE_WORDS_PER_SECTOR, count * PROBE_WORDS_PER_SECTOR, seed);
}

uint64_t expected_zero_sum(uint64_t lba, uint64_t count)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < count * PROBE_WORDS_PER_SECTOR; i++)
        sum += probe_sum_word(lba * PROBE_WORDS_PER_SECTOR + i, 0);
    return sum;
}

/* The disks first: reading them changes only the guest's own pages. */
struct look guest_look(struct guest *guest)
{
    struct look look = {0};

    for (unsigned i = 0; i < guest->disks; i++) {
        ask_ok(guest, "blk use %u", i);
        look.disk[i] = ask_number(guest, "sum", 16, "blk sum 0 %d", DISK_SECTORS);
    }
    look.memory = ask_number(guest, "sum", 16, "sumall");
    return look;
}

void assert_same_look(const struct look *a, const struct look *b)
{
    assert_int_equal(a->memory, b->memory);
    for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++)
        assert_int_equal(a->disk[i], b->disk[i]);
}

struct look look_at(struct site *site, const char *name, unsigned disks)
{
    struct guest guest;

    guest_attach(&guest, site, name, disks);
    struct look look = guest_look(&guest);
    guest_detach(&guest);
    return look;
}

/* ---- checkpoints, from outside ---- */

static struct store *open_store(struct site *site)
{
    struct store *store = NULL;
    struct error err = ERROR_INIT;

    if (store_open(site->home.store, false, &store, &err) < 0)
        fail_msg("%s", err.message);
    return store;
}

static struct digest resolve(struct store *store, const char *reference)
{
    struct digest id;
    struct error err = ERROR_INIT;

    if (catalogue_resolve(store, reference, &id, &err) < 0)
        fail_msg("%s", err.message);
    return id;
}

struct digest checkpoint_id(struct site *site, const char *reference)
{
    struct store *store = open_store(site);
    struct digest id = resolve(store, reference);

    store_close(store);
    return id;
}

static void read_manifest(struct store *store, const char *reference, struct manifest *out)
{
    struct digest id = resolve(store, reference);
    struct error err = ERROR_INIT;

    if (catalogue_manifest_read(store, &id, out, &err) < 0)
        fail_msg("%s", err.message);
}

void checkpoint_memory(struct site *site, const char *reference, uint64_t gpa, void *buf,
                       size_t length)
{
    struct store *store = open_store(site);
    struct manifest manifest;
    struct space *space = NULL;
    struct error err = ERROR_INIT;

    read_manifest(store, reference, &manifest);
    const struct manifest_space *memory = manifest_space_find(&manifest, "memory");
    assert_non_null(memory);
    if (space_open(store, &memory->root, memory->size_bytes, &space, &err) < 0 ||
        space_read(space, gpa, buf, length, &err) < 0)
        fail_msg("%s", err.message);
    space_close(space);
    store_close(store);
}

uint64_t checkpoint_counter(struct site *site, const char *reference)
{
    struct probe_shared shared;

    checkpoint_memory(site, reference, PROBE_VARYING, &shared, sizeof(shared));
    assert_int_equal(shared.magic, PROBE_SHARED_MAGIC);
    return shared.counter;
}

void *checkpoint_state(struct site *site, const char *reference, size_t *length_out)
{
    struct store *store = open_store(site);
    struct manifest manifest;
    void *bytes = NULL;
    struct error err = ERROR_INIT;

    read_manifest(store, reference, &manifest);
    if (store_blob_read(store, &manifest.state, &bytes, length_out, &err) < 0)
        fail_msg("%s", err.message);
    store_close(store);
    return bytes;
}

void checkpoint_change(struct site *site, const char *reference, const char *machine,
                       const char *name, void (*change)(struct manifest *m))
{
    struct store *store = open_store(site);
    struct ingest *ingest = NULL;
    struct manifest manifest;
    struct digest id;
    struct error err = ERROR_INIT;

    read_manifest(store, reference, &manifest);
    change(&manifest);
    const struct ingest_commit commit = {.manifest = &manifest, .machine = machine, .name = name};
    if (ingest_begin(store, &ingest, &err) < 0 || ingest_commit(ingest, &commit, &id, &err) < 0)
        fail_msg("%s", err.message);
    ingest_free(ingest);
    store_close(store);
}
