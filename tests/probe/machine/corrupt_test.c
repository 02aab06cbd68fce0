/* SPDX-License-Identifier: Apache-2.0 */
/* A store that is damaged: mended, or told by the name of the file, and never in a
 * guest. */
#include "harness.h"

#include "base/bytes.h"
#include "base/io.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MEMORY_MIB = 16 };

struct damage {
    char *path;
    char name[256];
    off_t offset;
    off_t parity; /* its length: a second byte at this distance is flipped, so that the two
                   * are beyond it; or 0 */
    off_t size;
};

/* The largest pack: that with the guest's memory. */
static void find_pack(struct site *site, struct damage *out)
{
    char *dir = io_format("%s/packs", site->home.store);
    DIR *packs = opendir(dir);
    struct dirent *entry;
    struct stat st;

    assert_non_null(packs);
    *out = (struct damage){0};
    while ((entry = readdir(packs)) != NULL) {
        assert_int_equal(fstatat(dirfd(packs), entry->d_name, &st, 0), 0);
        if (!S_ISREG(st.st_mode) || st.st_size <= out->size)
            continue;
        out->size = st.st_size;
        snprintf(out->name, sizeof(out->name), "%s", entry->d_name);
    }
    closedir(packs);
    assert_true(out->size > MEMORY_MIB << 19);
    out->path = io_format("%s/%s", dir, out->name);
    free(dir);
}

static void flip_byte(int fd, off_t offset)
{
    uint8_t byte;

    assert_int_equal(pread(fd, &byte, 1, offset), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
}

static void flip(const struct damage *damage)
{
    int fd = open(damage->path, O_RDWR | O_CLOEXEC);

    assert_true(fd >= 0);
    flip_byte(fd, damage->offset);
    if (damage->parity != 0)
        flip_byte(fd, damage->offset + damage->parity);
    close(fd);
}

static void damage_beyond_parity(struct damage *damage)
{
    int fd = open(damage->path, O_RDONLY | O_CLOEXEC);
    uint8_t length[4];

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, length, sizeof(length), damage->size - 56 + 24), sizeof(length));
    close(fd);
    damage->parity = load_le32(length);
    assert_true(damage->parity != 0 && damage->parity < damage->size / 8);
    damage->offset = damage->size / 2;
}

/* A machine whose memory is in a pack of its own, of which one byte is wrong. */
static struct look damaged(struct site *site, struct guest *guest, struct damage *damage)
{
    guest_boot(guest, site, "m", MEMORY_MIB, 0);
    guest_fill(guest, 21);
    struct look look = guest_look(guest);
    stasis_ok(site, "save m@one");
    find_pack(site, damage);
    damage_beyond_parity(damage);
    return look;
}

static void assert_verify_names(struct site *site, const struct damage *damage)
{
    stasis_fails(site, STATUS_CORRUPT, "damaged", "verify");
    assert_non_null(strstr(site->out, damage->name));
}

static void a_damaged_checkpoint_does_not_start(void **state)
{
    struct site *site = *state;
    struct guest guest;
    struct damage damage;
    struct look before = damaged(site, &guest, &damage);

    flip(&damage);
    stasis_fails(site, STATUS_CORRUPT, damage.name, "clone m@one c");
    assert_verify_names(site, &damage);
    json_t *list = stasis_json(site, "ls --json");
    assert_int_equal(json_array_size(list), 1); /* nothing is left of the clone */
    json_decref(list);
    stasis_fails(site, STATUS_CORRUPT, "pack", "send m@one");
    struct look after = guest_look(&guest);
    assert_same_look(&before, &after);
    flip(&damage); /* and all is well again */
    stasis_ok(site, "verify");
    stasis_ok(site, "clone m@one c");
    after = look_at(site, "c", 0);
    assert_same_look(&before, &after);
    guest_detach(&guest);
    free(damage.path);
}

/* What the store has lost, the machine still has. */
static void a_lost_group_comes_from_a_running_machine(void **state)
{
    struct site *site = *state;
    struct guest guest;
    struct damage damage;
    struct look before = damaged(site, &guest, &damage);

    flip(&damage);
    stasis_fails(site, STATUS_CORRUPT, "damaged", "repair");
    stasis_fails(site, STATUS_NOT_FOUND, "none", "repair --from none");
    stasis_ok(site, "repair --from m");
    stasis_ok(site, "verify");
    stasis_ok(site, "clone m@one c");
    struct look after = look_at(site, "c", 0);
    assert_same_look(&before, &after);
    guest_detach(&guest);
    free(damage.path);
}

/* By a process that has read none of it before. */
static void a_failed_restore_in_place_leaves_the_machine_alone(void **state)
{
    struct site *site = *state;
    struct guest guest;
    struct damage damage;
    struct look one = damaged(site, &guest, &damage);

    stasis_ok(site, "kill m");
    guest_detach(&guest);
    guest_boot_again(&guest, site, "m", 0);
    guest_fill(&guest, 22);
    ask_ok(&guest, "fpu 0x4242");
    ask_ok(&guest, "count start");
    struct look two = guest_look(&guest);
    flip(&damage);
    for (unsigned i = 0; i < 3; i++) {
        stasis_fails(site, STATUS_CORRUPT, damage.name, "restore m@one --discard");
        struct look now = guest_look(&guest);
        assert_same_look(&two, &now);
        ask_ok(&guest, "fpucheck");
        assert_int_equal(ask_number(&guest, "running", 10, "count get"), 1);
    }
    /* What the failed attempts had learnt of its dirty pages is not lost. */
    ask_ok(&guest, "count stop");
    stasis_ok(site, "save m@two");
    stasis_ok(site, "clone m@two c");
    struct look now = look_at(site, "c", 0);
    assert_same_look(&two, &now);
    flip(&damage);
    stasis_ok(site, "restore m@one --discard");
    now = guest_look(&guest);
    assert_same_look(&one, &now);
    stasis_ok(site, "restore m@two --discard");
    now = guest_look(&guest);
    assert_same_look(&two, &now);
    guest_detach(&guest);
    free(damage.path);
}

static void a_failed_restore_of_a_stopped_machine_can_be_repeated(void **state)
{
    struct site *site = *state;
    struct guest guest;
    struct damage damage;
    struct look before = damaged(site, &guest, &damage);

    stasis_ok(site, "kill m");
    guest_detach(&guest);
    flip(&damage);
    stasis_fails(site, STATUS_CORRUPT, damage.name, "restore m@one --discard");
    assert_int_equal(machine_pid(site, "m"), 0);
    flip(&damage);
    stasis_ok(site, "restore m@one --discard");
    struct look after = look_at(site, "m", 0);
    assert_same_look(&before, &after);
    free(damage.path);
}

/* Its disks have gone on since; not even --discard gives them up for nothing. */
static void a_failed_restore_of_a_stopped_machine_loses_nothing(void **state)
{
    struct site *site = *state;
    struct guest guest;
    struct damage damage;

    guest_boot(&guest, site, "m", MEMORY_MIB, 1);
    guest_fill(&guest, 21);
    stasis_ok(site, "save m@one");
    find_pack(site, &damage);
    damage_beyond_parity(&damage);
    guest_fill(&guest, 22);
    ask_ok(&guest, "blk write 0 100 33");
    stasis_ok(site, "save m@two");
    for (unsigned i = 0; i < 2; i++) { /* at the head, and beyond it */
        stasis_ok(site, "kill m");
        guest_detach(&guest);
        flip(&damage);
        stasis_fails(site, STATUS_CORRUPT, damage.name, "restore m@one --discard");
        flip(&damage);
        guest_boot_again(&guest, site, "m", 1);
        assert_int_equal(ask_number(&guest, "sum", 16, "blk sum 0 100"),
                         expected_disk_sum(0, 100, 33 + i));
        if (i == 0) {
            stasis_ok(site, "restore m@two --discard");
            ask_ok(&guest, "blk write 0 100 34");
            ask_ok(&guest, "blk flush");
        }
    }
    guest_detach(&guest);
    free(damage.path);
}

/* Bytes anywhere in the pack, its index too: one is made good from parity. */
static void no_flipped_byte_reaches_a_guest(void **state)
{
    struct site *site = *state;
    struct guest guest;
    struct damage damage;
    struct look before = damaged(site, &guest, &damage);
    uint64_t random = harness_random();
    enum { ROUNDS = 12 };

    guest_detach(&guest);
    damage.parity = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        uint64_t span = (uint64_t)(i % 2 == 0 ? damage.size : damage.size / 50);
        damage.offset = damage.size - 1 - (off_t)(random >> 20) % (off_t)span;
        flip(&damage);
        stasis_ok(site, "clone m@one c");
        struct look after = look_at(site, "c", 0);
        assert_same_look(&before, &after);
        stasis_ok(site, "rm -f c");
        assert_verify_names(site, &damage);
        stasis_ok(site, "repair");
        stasis_ok(site, "verify");
    }
    free(damage.path);
}

static void a_truncated_or_missing_pack_is_told(void **state)
{
    struct site *site = *state;
    struct guest guest;
    struct damage damage;
    struct look before = damaged(site, &guest, &damage);
    char *aside = site_path(site, "aside");

    guest_detach(&guest);
    assert_int_equal(rename(damage.path, aside), 0);
    stasis_fails(site, STATUS_CORRUPT, damage.name, "clone m@one c");
    assert_verify_names(site, &damage);
    assert_int_equal(rename(aside, damage.path), 0);
    assert_int_equal(truncate(damage.path, damage.size / 2), 0);
    stasis_fails(site, STATUS_CORRUPT, damage.name, "clone m@one c");
    assert_verify_names(site, &damage);
    struct look after = look_at(site, "m", 0); /* which needs none of it */
    assert_same_look(&before, &after);
    free(aside);
    free(damage.path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MACHINE_TEST(a_damaged_checkpoint_does_not_start),
        MACHINE_TEST(a_lost_group_comes_from_a_running_machine),
        MACHINE_TEST(a_failed_restore_in_place_leaves_the_machine_alone),
        MACHINE_TEST(a_failed_restore_of_a_stopped_machine_can_be_repeated),
        MACHINE_TEST(a_failed_restore_of_a_stopped_machine_loses_nothing),
        MACHINE_TEST(no_flipped_byte_reaches_a_guest),
        MACHINE_TEST(a_truncated_or_missing_pack_is_told),
    };

    return HARNESS_RUN(tests);
}
